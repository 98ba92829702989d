"""Exact laws of samplers under a Gaussian prior, in NumPy float64, and the problem they are stated for.

With the prior N(m, C), x_t = alpha x0 + sigma eps and S = alpha^2 C + sigma^2 I the denoiser is affine,

  D(x) = K x + k,   K = alpha C S^-1,   k = m - alpha K m,

so that every step is x' = F x + g + L z and the law of the chain follows mean <- F mean + g, cov <- F cov F^T + L L^T.
The formulas are written from the papers, not from the methods of this library: the two must agree. A method's own law
is what its samples are held against, not "the posterior", which few methods sample. After Pierret and Galerne, "Exact
Evaluation of the Accuracy of Diffusion Models for Inverse Problems with Gaussian Data Distributions", arXiv 2507.07008.

Levels are told by alpha_bar = alpha^2 of `now` and `nxt`, descending in time: `pairs`. A step is a function
(p, abar, prev, ...) -> Affine; a chain is the list of its steps.
"""

import functools
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from diffinv import noise, priors
from diffinv.operators.base import LinearOperator, Spectral
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Schedule

DAPS_POWER = 7  # levels are even in the 7th root of their noise (Karras et al., arXiv 2206.00364, Eq. 5)
SINGULAR = 1e-12  # part of the largest singular value below which one counts as zero: rounding in float64
QUADRATURE = 401  # points over 10 standard deviations to each side: an integral of a smooth density


class Law(NamedTuple):
  """A Gaussian law."""

  mean: np.ndarray  # [d]
  cov: np.ndarray  # [d, d]


class Affine(NamedTuple):
  """A step x' = F x + g + L z."""

  F: np.ndarray  # [d, d]
  g: np.ndarray  # [d]
  L: np.ndarray  # [d, d]


_product = functools.partial(jnp.matmul, precision="highest")  # on any device


@pytree
class Dense(LinearOperator):
  """y = A x for an image of shape `[d]` by a matrix, with everything in closed form; build it with `dense`."""

  matrix: jax.Array = None  # [m, d]
  u: jax.Array = None  # [m, r], left singular vectors, r = min(m, d)
  values: jax.Array = None  # [r], singular values, 0 where they vanish
  v: jax.Array = None  # [d, r], right singular vectors

  def __call__(self, x):
    return _product(self.matrix, x)

  def solve(self, v, gamma):
    coords = _product(self.u.T, v)
    if self.u.shape[0] == self.u.shape[1]:
      return _product(self.u, coords / (self.values**2 + gamma))
    return (v + _product(self.u, coords * (gamma / (self.values**2 + gamma) - 1.0))) / gamma

  def ridge(self, y, gamma):  # directly: of a small gamma, `solve` is the difference of large numbers
    return _product(self.v, self.values / (self.values**2 + gamma) * _product(self.u.T, y))

  def spectral(self):
    onto = lambda matrix: functools.partial(_product, matrix)
    return Spectral(self.values, onto(self.v.T), onto(self.v), onto(self.u.T))


def dense(matrix: np.ndarray) -> Dense:
  """Build y = A x from a matrix `[m, d]`, in the default float type; decomposed here, in float64."""
  matrix = np.asarray(matrix, np.float64)
  u, s, vt = np.linalg.svd(matrix, full_matrices=False)
  s = np.where(s > SINGULAR * s.max(initial=0.0), s, 0.0)
  return Dense((matrix.shape[1],), *(jnp.asarray(part) for part in (matrix, u, s, vt.T)))


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
    return Problem(dense(self.A), noise.Gaussian(jnp.asarray(self.sigma)), jnp.asarray(self.y))

  def posterior(self):
    """Return the law of x0 given y."""
    gain = kalman(self, self.C)
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


def point(x):
  """Return the law of what is known, `[d]`."""
  return Law(x, np.zeros((len(x), len(x))))


def propagate(law: Law, maps: Sequence[Affine]) -> Law:
  """Return the law after the steps `maps`, in order."""
  for F, g, L in maps:
    law = Law(F @ law.mean + g, F @ law.cov @ F.T + L @ L.T)
  return law


# The prior alone.


def denoiser(p, alpha, var):
  """Return K and k of D(x) = K x + k at x = alpha x0 + sqrt(var) eps."""
  K = alpha * p.C @ np.linalg.inv(alpha**2 * p.C + var * np.eye(len(p.m)))
  return K, p.m - alpha * K @ p.m


def spread(C, abar):
  """Return the covariance of x0 given x_t, (1 - abar) C S^-1."""
  return (1 - abar) * C @ np.linalg.inv(abar * C + (1 - abar) * np.eye(len(C)))


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
  return implicit(abar, prev, K, k, eta)


def stepped(abar, prev, X, x, of_eps, of_z):
  """Return x' = sqrt(prev) x0 + of_eps eps + of_z z for x0 = X x_t + x, with the eps of that x0."""
  eye, sigma = np.eye(len(x)), np.sqrt(1 - abar)
  of_x0 = np.sqrt(prev) - of_eps * np.sqrt(abar) / sigma
  return Affine(of_eps / sigma * eye + of_x0 * X, of_x0 * x, of_z * eye)


def implicit(abar, prev, X, x, eta):
  """Return the implicit step from x0 = X x_t + x (Song et al., Eq. 12 and 16)."""
  of_z = eta * np.sqrt((1 - prev) / (1 - abar) * (1 - abar / prev))
  return stepped(abar, prev, X, x, np.sqrt(1 - prev - of_z**2), of_z)


# Guidance added to a step: DPS, two forms of PiGDM, ScoreALD within DDPM.


def guided(step, p, M, K, k):
  """Return `step` with M (y - A (K x + k)) added."""
  return Affine(step.F - M @ p.A @ K, step.g + M @ (p.y - p.A @ k), step.L)


def dps_step(p, abar, prev, zeta):
  """Return x' - zeta grad ||y - A D||^2 (Chung et al., Alg. 1 with a constant zeta_i)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  return guided(ddpm_step(p, abar, prev), p, 2 * zeta * K.T @ p.A.T, K, k)


def pigdm_algorithm_1_step(p, abar, prev, *, code=False):
  """Return Alg. 1 of Song et al. (PiGDM) at eta = 1; `code`: with the weight of the authors' code."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  M = np.sqrt(abar) * (np.sqrt(prev) if code else 1.0) * (1 - abar) * K.T @ p.A.T @ pigdm_inverse(p, abar)
  return guided(ddim_step(p, abar, prev, 1.0), p, M, K, k)


def ald_ddpm_step(p, abar, prev, rate):
  """Return the ancestral step, its score increased by grad log N(y; A x / alpha, sigma^2 + (rate s)^2)."""
  base, s2 = ddpm_step(p, abar, prev), (1 - abar) / abar
  beta, weight = 1 - abar / prev, 1 / (p.sigma**2 + rate**2 * s2)
  # The posterior mean is (x + beta score) / sqrt(alpha); the chain rule through x / sqrt(abar) gives another factor.
  M = beta / np.sqrt(abar / prev) / np.sqrt(abar) * weight * p.A.T
  return guided(base, p, M, np.eye(len(p.m)) / np.sqrt(abar), np.zeros(len(p.m)))


# x0 corrected by the data, then an implicit step: PiGDM, TMPD and its kin, DiffPIR, DDNM+.


def kalman(p, V):
  """Return V A^T (A V A^T + sigma^2 I)^-1."""
  return V @ p.A.T @ np.linalg.inv(p.A @ V @ p.A.T + p.sigma**2 * np.eye(len(p.y)))


def corrected(p, abar, G):
  """Return X, x of x0 = X x_t + x = D + G (y - A D)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  return K - G @ p.A @ K, k + G @ (p.y - p.A @ k)


def pigdm_inverse(p, abar):
  """Return (r^2 A A^T + sigma^2 I)^-1, r^2 = 1 - abar."""
  return np.linalg.inv((1 - abar) * p.A @ p.A.T + p.sigma**2 * np.eye(len(p.y)))


def pigdm_step(p, abar, prev, eta=1.0):
  """Return the implicit step with the guidance of Song et al. (PiGDM), Eq. 7, added to the score."""
  K, _ = denoiser(p, np.sqrt(abar), 1 - abar)
  G = (1 - abar) / np.sqrt(abar) * K.T @ p.A.T @ pigdm_inverse(p, abar)
  return implicit(abar, prev, *corrected(p, abar, G), eta)


def conditional_step(p, abar, prev, eta=1.0, C=None):
  """Return the implicit step of the exact E[x0 | x_t, y], or of that with another covariance of images, `C`."""
  return implicit(abar, prev, *corrected(p, abar, kalman(p, spread(p.C if C is None else C, abar))), eta)


def tmpd_step(p, abar, prev, eta=1.0):
  """Return the implicit step of Boys et al. with the diagonal of row sums for A V A^T."""
  V = spread(p.C, abar)
  row_sums = (p.A @ V @ p.A.T).sum(axis=1)
  G = V @ p.A.T @ np.diag(1 / (np.maximum(row_sums, 0) + p.sigma**2))
  return implicit(abar, prev, *corrected(p, abar, G), eta)


def diffpir_step(p, abar, prev, weight, zeta):
  """Return lines 3 to 6 of Alg. 1 of Zhu et al.: argmin |y - A x|^2 + rho |x - D|^2 by its normal equations."""
  rho = weight * p.sigma**2 * abar / (1 - abar)
  G = np.linalg.inv(p.A.T @ p.A + rho * np.eye(len(p.m))) @ p.A.T
  X, x = corrected(p, abar, G)
  return stepped(abar, prev, X, x, np.sqrt((1 - prev) * (1 - zeta)), np.sqrt((1 - prev) * zeta))


def ddnm_step(p, abar, prev, eta):
  """Return Eq. 17 to 19 of Wang et al. with one lambda."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  room = 1 - prev - prev * p.sigma**2
  scale, std = (1.0, np.sqrt(room)) if room >= 0 else (np.sqrt((1 - prev) / prev) / p.sigma, 0.0)
  X, x = corrected(p, abar, scale * np.linalg.pinv(p.A))
  of_eps, eye = std * np.sqrt(1 - eta**2), np.eye(len(p.m))
  eps, shift = (eye - np.sqrt(abar) * K) / np.sqrt(1 - abar), -np.sqrt(abar) * k / np.sqrt(1 - abar)
  return Affine(np.sqrt(prev) * X + of_eps * eps, np.sqrt(prev) * x + of_eps * shift, std * eta * eye)


# DDRM, in the singular basis.


def ddrm_basis(p):
  """Return V, the singular values filled up with zeros, and U."""
  u, s, vt = np.linalg.svd(p.A)
  return vt.T, np.append(s, np.zeros(len(p.m) - len(s))), u


def ddrm_start(p, abar):
  """Return the law of x_T (Kawar et al., Eq. 7)."""
  V, s, u = ddrm_basis(p)
  sbar, mean, var = np.sqrt((1 - abar) / abar), np.zeros(len(p.m)), np.zeros(len(p.m))
  for i in range(len(s)):
    told = s[i] > 0 and sbar > p.sigma / s[i]
    mean[i] = (u.T @ p.y)[i] / s[i] if told else 0.0
    var[i] = sbar**2 - (p.sigma / s[i]) ** 2 if told else sbar**2
  return Law(np.sqrt(abar) * V @ mean, abar * V @ np.diag(var) @ V.T)


def ddrm_step(p, abar, prev, eta, eta_b):
  """Return Eq. 8 of Kawar et al."""
  V, s, u = ddrm_basis(p)
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  d, sbar, sbar_s = len(p.m), np.sqrt((1 - abar) / abar), np.sqrt((1 - prev) / prev)
  of_x, of_x0, shift, std = np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
  for i in range(d):
    if s[i] == 0:
      of_x[i] = np.sqrt(1 - eta**2) * sbar_s / sbar
      of_x0[i], std[i] = 1 - of_x[i], eta * sbar_s
    elif sbar_s < p.sigma / s[i]:
      part = np.sqrt(1 - eta**2) * sbar_s * s[i] / p.sigma
      of_x0[i], shift[i], std[i] = 1 - part, part * (u.T @ p.y)[i] / s[i], eta * sbar_s
    else:
      of_x0[i], shift[i] = 1 - eta_b, eta_b * (u.T @ p.y)[i] / s[i]
      std[i] = np.sqrt(sbar_s**2 - (eta_b * p.sigma / s[i]) ** 2)
  back = np.sqrt(prev) * V
  F = back @ (np.diag(of_x / np.sqrt(abar)) @ V.T + np.diag(of_x0) @ V.T @ K)
  # The library's noise is an image; V^T z has the same law, and V diag V^T the same map.
  return Affine(F, back @ (of_x0 * (V.T @ k) + shift), back @ np.diag(std) @ V.T)


# SDEdit.


def pinv_guide(p):
  """Return A^+ y."""
  return np.linalg.pinv(p.A) @ p.y


def ridge_guide(p, ridge):
  """Return A^T (A A^T + ridge I)^-1 y."""
  return p.A.T @ np.linalg.solve(p.A @ p.A.T + ridge * np.eye(len(p.y)), p.y)


def renoise_step(d, abar):
  """Return x' = sqrt(abar) x + sqrt(1 - abar) z, from a clean image."""
  return Affine(np.sqrt(abar) * np.eye(d), np.zeros(d), np.sqrt(1 - abar) * np.eye(d))


def sdedit_maps(p, alpha_bar, start, repeats):
  """Return the steps of Alg. 2 of Meng et al. from the clean guide through the last `start` levels, repeated."""
  kept = alpha_bar[:start]
  return ([renoise_step(len(p.m), kept[-1])] + [ddpm_step(p, *pair) for pair in pairs(kept)]) * repeats


# ScoreALD.


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


def langevin_maps(p, noises, c, rate, steps, denoise=True):
  """Return annealed Langevin dynamics: `steps` at each of the noises, and Tweedie's formula at the end."""
  maps = [langevin_step(p, s, c, rate) for s in noises for _ in range(steps)]
  return maps + [tweedie_step(p, noises[-1])] if denoise else maps


# DAPS.


def spaced(first, last, part):
  """Return the noise at `part` in [0, 1] of the way from `first` to `last`, evenly in its 7th root."""
  return (first ** (1 / DAPS_POWER) + part * (last ** (1 / DAPS_POWER) - first ** (1 / DAPS_POWER))) ** DAPS_POWER


class Annealing(NamedTuple):
  """The settings of DAPS: noises are sigma / alpha."""

  tau: float
  step_size: float
  last_step: float
  sigma_max: float
  sigma_min: float
  ode_end: float
  ode_steps: int
  langevin_steps: int


def daps_maps(p, a, levels):
  """Return Alg. 1 of Zhang et al. on u = x0 + sbar eps, a map a level: ODE, Langevin steps, the next level's noise."""
  eye, maps = np.eye(len(p.m)), []
  noises = [spaced(a.sigma_max, a.sigma_min, i / levels) for i in range(levels)] + [0.0]
  for i in range(levels):
    X, x = daps_flow(p, noises[i], a)
    eta = a.step_size * (1 + i / levels * (a.last_step - 1))
    M = eye / noises[i] ** 2 + p.A.T @ p.A / a.tau**2
    step = eye - eta * M
    F, to_hat, shift, cov = eye, np.zeros_like(eye), np.zeros(len(p.m)), np.zeros_like(eye)
    for _ in range(a.langevin_steps):
      F, to_hat = step @ F, step @ to_hat + eta / noises[i] ** 2 * eye
      shift = step @ shift + eta * p.A.T @ p.y / a.tau**2
      cov = step @ cov @ step.T + 2 * eta * eye
    whole = F + to_hat
    maps.append(Affine(whole @ X, whole @ x + shift, np.linalg.cholesky(cov + noises[i + 1] ** 2 * eye)))
  return maps


def daps_flow(p, sbar, a):
  """Return X, x of the end X u + x of the probability-flow ODE by Euler steps (line 3)."""
  ends = [spaced(sbar, a.ode_end, j / a.ode_steps) for j in range(a.ode_steps + 1)]
  X, x = np.eye(len(p.m)), np.zeros(len(p.m))
  for now, nxt in zip(ends[:-1], ends[1:]):
    K, k = denoiser(p, 1.0, now**2)
    q = nxt / now
    X, x = (1 - q) * K @ X + q * X, (1 - q) * (K @ x + k) + q * x
  return X, x


def daps_start(p, a):
  """Return the law of the first u: x_T = alpha u ~ N(0, I)."""
  return Law(np.zeros(len(p.m)), (1 + a.sigma_max**2) * np.eye(len(p.m)))


# RED-diff.


def red_diff_gradient(p, mu, z, abar, weight):
  """Return the gradient of Mardani et al., Alg. 1, at the image mu with the noise z."""
  x_t = np.sqrt(abar) * mu + np.sqrt(1 - abar) * z
  S = abar * p.C + (1 - abar) * np.eye(len(p.m))
  eps = np.sqrt(1 - abar) * np.linalg.solve(S, x_t - np.sqrt(abar) * p.m)
  return -p.A.T @ (p.y - p.A @ mu) + weight * np.sqrt((1 - abar) / abar) * (eps - z)


def red_diff_rest(p, abar, weight):
  """Return where the mean of that gradient vanishes: A^T (y - A mu) = weight sigma^2 S^-1 (mu - m)."""
  precision = weight * (1 - abar) * np.linalg.inv(abar * p.C + (1 - abar) * np.eye(len(p.m)))
  return np.linalg.solve(p.A.T @ p.A + precision, p.A.T @ p.y + precision @ p.m)


# Statistics.


def p_values(samples: np.ndarray, law: Law) -> tuple[float, float]:
  """Return the p-values of the two chi-square statistics of `samples` `[n, d]` against `law`: mean, covariance.

  T_mean = n e^T P^-1 e ~ chi2(d), T_cov = (n - 1) [tr R - log det R - d] ~ chi2(d (d + 1) / 2), R = P^-1 cov_hat.
  """
  samples = np.asarray(samples, np.float64)
  n, d = samples.shape
  error = samples.mean(0) - law.mean
  ratio = np.linalg.solve(law.cov, np.cov(samples.T).reshape(d, d))
  t_mean = n * error @ np.linalg.solve(law.cov, error)
  t_cov = (n - 1) * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - d)
  return float(special.chdtrc(d, t_mean)), float(special.chdtrc(d * (d + 1) // 2, t_cov))


def upper(cov):
  """Return the entries 11, 12, 13, 22, 23, 33, ... of a covariance."""
  return cov[np.triu_indices(len(cov))]


def expected_coverage(p: Linear, law: Callable[[Linear], Law], level: float, count: int | None = None) -> np.ndarray:
  """Return the expected coverage of the central intervals of a sampler, per coordinate, `[d]`.

  The truth and y are drawn from `p`, the sampler's mean B y + b errs by N((I - B A) m - b, (I - B A) C (I - B A)^T +
  sigma^2 B B^T), and its intervals are those of its own width.

  Args:
    p: the prior and the operator; its y does not matter.
    law: the sampler's law of any such problem, its mean affine in y.
    level: nominal, in (0, 1).
    count: draws the interval is made of, with (1 - level) / 2 (count + 1) a whole number i: from the i-th smallest to
      the i-th largest. None for the quantiles of the law itself.
  """
  origin = law(p._replace(y=np.zeros(len(p.y))))
  B = np.stack([law(p._replace(y=unit)).mean - origin.mean for unit in np.eye(len(p.y))], axis=1)
  missed = np.eye(len(p.m)) - B @ p.A
  bias = missed @ p.m - origin.mean
  error = np.sqrt(np.diag(missed @ p.C @ missed.T + p.sigma**2 * B @ B.T))
  width = np.sqrt(np.diag(origin.cov))
  if count is None:
    half = special.ndtri((1 + level) / 2) * width
    return special.ndtr((half - bias) / error) - special.ndtr((-half - bias) / error)
  i, grid = round((1 - level) / 2 * (count + 1)), np.linspace(-10.0, 10.0, QUADRATURE)
  density = np.exp(-0.5 * grid**2)
  u = special.ndtr((bias[:, None] + error[:, None] * grid) / width[:, None])  # part of the law below the truth
  inside = special.bdtr(count - i, count, u) - special.bdtr(i - 1, count, u)  # i to count - i draws are smaller
  return inside @ density / density.sum()
