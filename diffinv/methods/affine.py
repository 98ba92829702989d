"""The vocabulary of exact laws: linear-Gaussian problems, affine steps, and the law of a chain; NumPy, float64.

With the prior N(m, C), x_t = alpha x0 + sigma eps and S = alpha^2 C + sigma^2 I the denoiser is affine,

  D(x) = K x + k,   K = alpha C S^-1,   k = m - alpha K m,

so that every step is x' = F x + g + L z and the law of the chain follows mean <- F mean + g, cov <- F cov F^T + L L^T.
Each method's file ends with its own law, written from the paper and not from the JAX code above it: the two must agree.
A method's samples are held against that law, not against the posterior, which few methods sample. After Pierret and
Galerne, "Exact Evaluation of the Accuracy of Diffusion Models for Inverse Problems with Gaussian Data Distributions",
arXiv 2507.07008.

A pair of levels is given as alpha_bar = alpha^2 of `now` and `nxt`: `abar`, `prev`; `pairs` lists those of a chain. A
step is a function (p, abar, prev, ...) -> Affine; a chain is the list of its steps.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import noise, priors
from diffinv.operators.base import LinearOperator, Spectral
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Schedule

SINGULAR = 1e-12  # part of the largest singular value below which one counts as zero: rounding in float64


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

  matrix: jax.Array  # [m, d]
  u: jax.Array  # [m, r], left singular vectors, r = min(m, d)
  values: jax.Array  # [r], singular values, 0 where they vanish
  v: jax.Array  # [d, r], right singular vectors

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


STEPS = 100  # of the chains whose laws are stated
ABAR = linear_alpha_bar(STEPS)
PAIRS = pairs(ABAR)
NOISES = [np.sqrt((1 - abar) / abar) for abar, _ in PAIRS]  # sigma / alpha


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


# Guidance added to a step.


def guided(step, p, M, K, k):
  """Return `step` with M (y - A (K x + k)) added."""
  return Affine(step.F - M @ p.A @ K, step.g + M @ (p.y - p.A @ k), step.L)


# x0 corrected by the data, then an implicit step.


def kalman(p, V):
  """Return V A^T (A V A^T + sigma^2 I)^-1."""
  return V @ p.A.T @ np.linalg.inv(p.A @ V @ p.A.T + p.sigma**2 * np.eye(len(p.y)))


def corrected(p, abar, G):
  """Return X, x of x0 = X x_t + x = D + G (y - A D)."""
  K, k = denoiser(p, np.sqrt(abar), 1 - abar)
  return K - G @ p.A @ K, k + G @ (p.y - p.A @ k)


def conditional_step(p, abar, prev, eta=1.0, C=None):
  """Return the implicit step of the exact E[x0 | x_t, y], or of that with another covariance of images, `C`."""
  return implicit(abar, prev, *corrected(p, abar, kalman(p, spread(p.C if C is None else C, abar))), eta)
