"""Exact laws of samplers under a Gaussian prior, in NumPy float64, and the problems they are stated for.

With the prior N(m, C), x_t = alpha x0 + sigma eps and S = alpha^2 C + sigma^2 I the denoiser is affine,

  D(x) = K x + k,   K = alpha C S^-1,   k = m - alpha K m,

so that every step is x' = F x + g + L z and the law of the chain follows mean <- F mean + g, cov <- F cov F^T + L L^T.
The formulas are written from the papers, not from the library: the two must agree. A method's own law is tested, not
"the posterior", which few methods sample. After Pierret and Galerne, "Exact Evaluation of the Accuracy of Diffusion
Models for Inverse Problems with Gaussian Data Distributions", arXiv 2507.07008.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from diffinv import noise, priors
from diffinv.methods.base import XState
from diffinv.operators.base import LinearOperator, Spectral
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Level, Schedule


class Law(NamedTuple):
  """A Gaussian law."""

  mean: np.ndarray  # [d]
  cov: np.ndarray  # [d, d]


class Affine(NamedTuple):
  """A step x' = F x + g + L z."""

  F: np.ndarray  # [d, d]
  g: np.ndarray  # [d]
  L: np.ndarray  # [d, d]


@pytree
class Dense(LinearOperator):
  """y = A x for an image of shape `[d]` and a matrix `[m, d]`, with a direct pseudo-inverse and solve."""

  matrix: jax.Array = None

  def __call__(self, x):
    return self.matrix @ x

  def solve(self, v, gamma):
    gram = self.matrix @ self.matrix.T
    return jnp.linalg.solve(gram + gamma * jnp.eye(len(gram), dtype=gram.dtype), v)

  def pinv(self, y):
    return jnp.linalg.pinv(self.matrix) @ y

  def spectral(self):
    u, s, vt = jnp.linalg.svd(self.matrix, full_matrices=False)
    return Spectral(s, lambda x: vt @ x, lambda coords: vt.T @ coords, lambda y: u.T @ y)

  @property
  def support(self):
    """The observed coordinates, for a diagonal matrix of zeros and ones."""
    return jnp.diagonal(self.matrix)


class Linear(NamedTuple):
  """A linear-Gaussian problem: x0 ~ N(m, C), y = A x0 + sigma n."""

  m: np.ndarray  # [d]
  C: np.ndarray  # [d, d]
  A: np.ndarray  # [m, d]
  sigma: float
  y: np.ndarray  # [m]

  def prior(self, schedule=Schedule("linear", 100), variance="fixed_small"):
    """Return the library's prior."""
    return priors.gaussian(self.m, self.C, schedule, variance=variance)

  def problem(self):
    """Return the library's problem, in the default float type."""
    operator = Dense(in_shape=(len(self.m),), matrix=jnp.asarray(self.A))
    return Problem(operator, noise.Gaussian(jnp.asarray(self.sigma)), jnp.asarray(self.y))

  def posterior(self):
    """Return the law of x0 given y."""
    gain = self.C @ self.A.T @ np.linalg.inv(self.A @ self.C @ self.A.T + self.sigma**2 * np.eye(len(self.y)))
    return Law(self.m + gain @ (self.y - self.A @ self.m), self.C - gain @ self.A @ self.C)


G3 = Linear(
  m=np.array([0.5, -1.0, 0.25]),
  C=np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.8]]),
  A=np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -1.0]]),
  sigma=0.2,
  y=np.array([0.8, -0.3]),
)


def linear_alpha_bar(num_steps):
  """Return alpha_bar of the linear schedule, `[num_steps]`."""
  return np.cumprod(1.0 - np.linspace(0.1 / num_steps, 20.0 / num_steps, num_steps))


def pairs(alpha_bar):
  """Return (alpha_bar_t, alpha_bar_{t-1}) for t = T-1, ..., 0, with alpha_bar_{-1} = 1."""
  return list(zip(alpha_bar[::-1], np.append(alpha_bar[:-1][::-1], 1.0)))


def standard(d):
  """Return N(0, I)."""
  return Law(np.zeros(d), np.eye(d))


def propagate(law, maps):
  """Return the law after the steps `maps`, in order."""
  for F, g, L in maps:
    law = Law(F @ law.mean + g, F @ law.cov @ F.T + L @ L.T)
  return law


def gain(maps):
  """Return F_n ... F_1, the derivative of the last iterate by the first."""
  product = np.eye(len(maps[0].g))
  for step in maps:
    product = step.F @ product
  return product


def denoiser(p, alpha, var):
  """Return K and k of D(x) = K x + k at x = alpha x0 + sqrt(var) eps."""
  K = alpha * p.C @ np.linalg.inv(alpha**2 * p.C + var * np.eye(len(p.m)))
  return K, p.m - alpha * K @ p.m


def ddpm_step(p, abar, prev, *, large=False):
  """Return the ancestral step of the prior from alpha_bar = abar to prev (Ho et al., Eq. 7)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  alpha, beta, eye = abar / prev, 1 - abar / prev, np.eye(len(p.m))
  c0 = np.sqrt(prev) * beta / (1 - abar)
  cx = np.sqrt(alpha) * (1 - prev) / (1 - abar)
  variance = 0.0 if prev == 1 else beta if large else beta * (1 - prev) / (1 - abar)
  return Affine(cx * eye + c0 * K, c0 * k, np.sqrt(variance) * eye)


def ddim_step(p, abar, prev, eta):
  """Return the implicit step (Song et al., Eq. 12 and 16)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  c1 = eta * np.sqrt((1 - prev) / (1 - abar) * (1 - abar / prev))
  c2 = np.sqrt(1 - prev - c1**2)
  cx, eye = c2 / np.sqrt(1 - abar), np.eye(len(p.m))
  c0 = np.sqrt(prev) - c2 * np.sqrt(abar) / np.sqrt(1 - abar)
  return Affine(cx * eye + c0 * K, c0 * k, c1 * eye)


def guided(step, p, M, K, k):
  """Return `step` with M (y - A (K x + k)) added."""
  return Affine(step.F - M @ p.A @ K, step.g + M @ (p.y - p.A @ k), step.L)


def dps_step(p, abar, prev, zeta):
  """Return x' - zeta grad ||y - A D||^2 (Chung et al., Alg. 1 with a constant zeta_i)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  return guided(ddpm_step(p, abar, prev), p, 2 * zeta * K.T @ p.A.T, K, k)


def renoise_step(d, abar):
  """Return x' = sqrt(abar) x + sqrt(1 - abar) z, from a clean image."""
  return Affine(np.sqrt(abar) * np.eye(d), np.zeros(d), np.sqrt(1 - abar) * np.eye(d))


def langevin_step(p, s, c, rate):
  """Return Eq. 4 of Jalal et al. at x = x0 + s eps, eta = c s^2, gamma = rate s."""
  d, eta, weight = len(p.m), c * s**2, 1 / (p.sigma**2 + (rate * s) ** 2)
  precision = np.linalg.inv(p.C + s**2 * np.eye(d))
  M = precision + weight * p.A.T @ p.A
  return Affine(np.eye(d) - eta * M, eta * (precision @ p.m + weight * p.A.T @ p.y), np.sqrt(2 * eta) * np.eye(d))


def tweedie_step(p, s):
  """Return the denoiser at x = x0 + s eps as a last step."""
  K, k = denoiser(p, 1.0, s**2)
  return Affine(K, k, np.zeros_like(K))


def ald_ddpm_step(p, abar, prev, rate):
  """Return the ancestral step, its score increased by grad log N(y; A x / alpha, sigma^2 + (rate s)^2)."""
  base, s2 = ddpm_step(p, abar, prev), (1 - abar) / abar
  beta, weight = 1 - abar / prev, 1 / (p.sigma**2 + rate**2 * s2)
  # The posterior mean is (x + beta score) / sqrt(alpha); the chain rule through x / sqrt(abar) gives another factor.
  M = beta / np.sqrt(abar / prev) / np.sqrt(abar) * weight * p.A.T
  return guided(base, p, M, np.eye(len(p.m)) / np.sqrt(abar), np.zeros(len(p.m)))


def p_values(samples, law):
  """Return the p-values of the two chi-square statistics of `samples` `[n, d]` against `law`: mean, covariance.

  T_mean = n e^T P^-1 e ~ chi2(d), T_cov = (n - 1) [tr R - log det R - d] ~ chi2(d (d + 1) / 2), R = P^-1 cov_hat.
  """
  samples = np.asarray(samples, np.float64)
  n, d = samples.shape
  error = samples.mean(0) - law.mean
  ratio = np.linalg.solve(law.cov, np.cov(samples.T).reshape(d, d))
  t_mean = n * error @ np.linalg.solve(law.cov, error)
  t_cov = (n - 1) * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - d)
  return stats.chi2.sf(t_mean, d), stats.chi2.sf(t_cov, d * (d + 1) // 2)


def upper(cov):
  """Return the entries 11, 12, 13, 22, 23, 33, ... of a covariance."""
  return cov[np.triu_indices(len(cov))]


def centred_fft(x):
  """Return the centred orthonormal FFT of an image whose two channels are real and imaginary parts, same layout."""
  return _centred(jnp.fft.fft2, x)


def centred_ifft(x):
  """Return the inverse of `centred_fft`."""
  return _centred(jnp.fft.ifft2, x)


def _centred(transform, x):
  moved = jnp.fft.ifftshift(jax.lax.complex(x[..., 0], x[..., 1]))
  out = jnp.fft.fftshift(transform(moved, norm="ortho"))
  return jnp.stack([out.real, out.imag], axis=-1)


@pytree
class MaskedFourier(LinearOperator):
  """y = P F x for complex images `[h, w, 2]`, zero off the mask."""

  mask: jax.Array = None  # [h, w, 1], 0 or 1

  def __call__(self, x):
    return self.mask * centred_fft(x)

  def adjoint(self, y):
    return centred_ifft(self.mask * y)

  def pinv(self, y):
    return self.adjoint(y)

  def solve(self, v, gamma):
    return v / (self.mask + gamma)


@pytree
class FourierGaussian:
  """A stationary Gaussian prior of complex images: each k-space coefficient ~ N(0, spectrum) per real component."""

  spectrum: jax.Array = None  # [h, w, 1]

  def denoise(self, x_t, level):
    gain = level.alpha * self.spectrum / (level.alpha**2 * self.spectrum + level.sigma**2)
    x0 = centred_ifft(gain * centred_fft(x_t))
    return priors.Denoised(x0, priors.eps_from_x0(x_t, x0, level), 0.0)


def level_pairs(levels):
  """Return the levels `now` and `nxt` of every step, `[n]` each."""
  return Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))


def extracted_maps(method, prior, problem, now, nxt):
  """Return (F, g, L), stacked over `[n]` steps, of the library's own `method.step`.

  F comes from basis vectors at a fixed key, g and L from the origin at d + 3 keys, given that a step draws its noise
  as `normal(key, shape)`: the least squares are exact if that is so, and the residual is asserted to vanish.
  """
  F, origin, z = (np.asarray(v) for v in _probe(method, prior, problem, now, nxt))
  design = np.concatenate([np.ones((len(z), 1)), z], axis=1)
  solved = np.linalg.pinv(design) @ origin
  scale = 1 + np.abs(origin).max(axis=(1, 2), keepdims=True)
  np.testing.assert_allclose(design @ solved / scale, origin / scale, atol=1e-12, err_msg="not affine in its noise")
  return Affine(F, solved[:, 0], np.swapaxes(solved[:, 1:], 1, 2))


@jax.jit
def _probe(method, prior, problem, now, nxt):
  d, dtype = prior.means.shape[-1], prior.means.dtype
  keys = jax.random.split(jax.random.key(7), d + 3)
  # One batch: the origin at every key, and the basis vectors at the first key.
  points = jnp.concatenate([jnp.zeros((len(keys), d), dtype), jnp.eye(d, dtype=dtype)])
  point_keys = keys[jnp.array([*range(len(keys)), *[0] * d])]

  def one(key, x, now, nxt):
    return method.step(key, XState(x), now, nxt, prior, problem)[0].x

  over_points = jax.vmap(one, in_axes=(0, 0, None, None))
  moved = jax.vmap(over_points, in_axes=(None, None, 0, 0))(point_keys, points, now, nxt)
  origin = moved[:, : len(keys)]
  F = jnp.swapaxes(moved[:, len(keys) :] - origin[:, :1], 1, 2)
  return F, origin, jax.vmap(lambda key: jax.random.normal(key, (d,), dtype))(keys)
