"""Gaussian mixtures in closed form, in NumPy float64, and a benchmark of 25 modes whose posterior is one.

For x0 ~ sum_k w_k N(m_k, C_k) and y = A x0 + sigma_y n the posterior is a mixture again, whose denoiser is known.

The benchmark is that of Cardoso, Janati, Le Corff and Moulines, "Monte Carlo guided Denoising Diffusion models for
Bayesian linear inverse problems", ICLR 2024, arXiv 2308.07983: 25 components of covariance I around (-8i, -8j, -8i,
-8j, ...), i, j in -2 .. 2; betas that DESCEND from 0.02 to 1e-4; time steps adapted to the operator's singular values.
Its instances come from unseeded generators, so these are our own: compare levels, not digits.
"""

from typing import NamedTuple

import numpy as np

from diffinv import priors
from diffinv.methods.affine import Dense, dense
from diffinv.schedules import Level, Schedule, vp_grid

GRID_STEP = 8.0  # between neighboring modes, in standard deviations of each
NUM_BETAS = 999
FIRST_BETA, LAST_BETA = 0.02, 1e-4
LEAST_SIGNAL = 1e-2  # sqrt(abar) where steps even in sqrt(abar) give way to steps even in time
SMALLEST_WEIGHT = 1e-300  # posterior weights may vanish; a prior needs positive ones


class Mixture(NamedTuple):
  """sum_k w_k N(m_k, C_k)."""

  log_weights: np.ndarray  # [k], of weights that sum to 1
  means: np.ndarray  # [k, d]
  covs: np.ndarray  # [k, d, d]

  def prior(self, schedule: Schedule = Schedule("linear", 1000)) -> priors.GaussianMixture:
    """Return the library's prior of this law: a denoiser, to draw from by a reverse chain."""
    weights = np.maximum(np.exp(self.log_weights), SMALLEST_WEIGHT)
    return priors.mixture(weights, self.means, self.covs, schedule)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean `[d]` and the covariance `[d, d]` of the whole mixture."""
    weights = np.exp(self.log_weights)
    off = self.means - weights @ self.means
    return weights @ self.means, np.einsum("k,kij->ij", weights, self.covs + off[:, :, None] * off[:, None])


def mixture(weights, means, covs) -> Mixture:
  """Build a mixture from `weights` `[k]`, normalized here, `means` `[k, d]` and `covs` `[k, d, d]`."""
  weights, means, covs = (np.asarray(v, np.float64) for v in (weights, means, covs))
  return Mixture(np.log(weights / weights.sum()), means, covs)


def log_gaussians(x, means, covs):
  """Return log N(x; m_k, C_k), `[k]`."""
  solved = np.linalg.solve(covs, (x - means)[..., None])[..., 0]
  squared = np.sum((x - means) * solved, axis=-1)
  return -0.5 * (squared + np.linalg.slogdet(covs)[1] + means.shape[-1] * np.log(2 * np.pi))


def log_sum(values):
  """Return log sum_k exp(values_k)."""
  return np.logaddexp.reduce(values)


def posterior(law: Mixture, A: np.ndarray, sigma: float, y: np.ndarray) -> Mixture:
  """Return the law of x0 given y = A x0 + sigma n, a mixture of the same number of components."""
  data_covs = A @ law.covs @ A.T + sigma**2 * np.eye(len(y))
  gains = law.covs @ A.T @ np.linalg.inv(data_covs)
  log_weights = law.log_weights + log_gaussians(y, law.means @ A.T, data_covs)
  means = law.means + np.einsum("kij,kj->ki", gains, y - law.means @ A.T)
  covs = law.covs - gains @ A @ law.covs
  return Mixture(log_weights - log_sum(log_weights), means, (covs + np.swapaxes(covs, 1, 2)) / 2)


def sample(rng: np.random.RandomState, law: Mixture, count: int) -> np.ndarray:
  """Draw exact samples, `[count, d]`."""
  weights = np.exp(law.log_weights)
  chosen = rng.choice(len(weights), size=count, p=weights / weights.sum())
  z = rng.standard_normal((count, law.means.shape[1]))
  return law.means[chosen] + np.einsum("nij,nj->ni", np.linalg.cholesky(law.covs)[chosen], z)


# The benchmark.


class Instance(NamedTuple):
  """A problem of the benchmark: y = A x0 + sigma n of a truth drawn from the law."""

  law: Mixture
  A: np.ndarray  # [d_y, d]
  sigma: float
  y: np.ndarray  # [d_y]

  def posterior(self) -> Mixture:
    """Return the law of x0 given y."""
    return posterior(self.law, self.A, self.sigma, self.y)

  def operator(self, rows: int) -> Dense:
    """Return A padded with rows of zeros, which observe nothing: problems of any d_y share one compilation."""
    return dense(padded(self.A, rows))


def padded(values: np.ndarray, rows: int) -> np.ndarray:
  """Return `values` `[n, ...]` with zeros up to `rows` rows."""
  return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]))])


def modes(d: int) -> np.ndarray:
  """Return the means (-8i, -8j, -8i, -8j, ...) for i, j in -2 .. 2, `[25, d]`."""
  corners = [(-GRID_STEP * i, -GRID_STEP * j) for i in range(-2, 3) for j in range(-2, 3)]
  return np.tile(np.array(corners), (1, (d + 1) // 2))[:, :d]


def instance(seed: int, d: int, d_y: int) -> Instance:
  """Draw a problem: weights ∝ z^2; A of random singular vectors, its values U(0, 1); sigma = U(0, 1) max(s)."""
  rng = np.random.RandomState([seed, d, d_y])  # the generator whose numbers NumPy promises to keep
  law = mixture(rng.standard_normal(25) ** 2, modes(d), np.tile(np.eye(d), (25, 1, 1)))
  u, _, vt = np.linalg.svd(rng.standard_normal((d_y, d)), full_matrices=False)
  s = np.sort(rng.uniform(size=d_y))[::-1]
  A, sigma = u * s @ vt, rng.uniform() * s[0]
  truth = sample(rng, law, 1)[0]
  return Instance(law, A, sigma, A @ truth + sigma * rng.standard_normal(d_y))


def alpha_bar() -> np.ndarray:
  """Return 1 and the products of 1 - beta for betas falling from 0.02 to 1e-4, `[1000]`."""
  return np.append(1.0, np.cumprod(1.0 - np.linspace(FIRST_BETA, LAST_BETA, NUM_BETAS)))


def grid(problem: Instance, steps: int) -> Level:
  """Return the levels of the benchmark for a problem, `[steps + 1]`, the clean image last.

  From the clean image on, steps are even in sqrt(abar) while it is above 0.01, as far as whole times allow. They
  include the times at which the noise of the chain equals that of a measured coordinate, sigma^2 abar = s^2 (1 - abar).
  The remaining steps are spread evenly over the remaining times.

  Args:
    problem: its singular values and noise.
    steps: noisy levels.
  """
  table = alpha_bar()
  signal = np.sqrt(table)
  s = np.linalg.svd(problem.A, compute_uv=False)
  met = {int(np.argmin(np.abs(problem.sigma**2 * table - value**2 * (1 - table)))) for value in s} - {0}
  end = int(np.argmax(signal < LEAST_SIGNAL))
  stride = (1.0 - signal[end]) / (steps - len(met))
  chosen = [0]
  for t in range(1, end):
    if signal[chosen[-1]] - signal[t] >= stride or t in met:
      chosen.append(t)
  behind = np.linspace(chosen[-1], NUM_BETAS, steps + 2 - len(chosen))[1:]
  return vp_grid(table, np.append(chosen[1:], np.round(behind)).astype(int))


def sliced_w1(a: np.ndarray, b: np.ndarray, directions: np.ndarray) -> float:
  """Return the mean over directions of the one-dimensional W1 distance, in units of the values.

  Args:
    a, b: two sets of as many vectors, `[n, d]`.
    directions: unit columns, `[d, k]`.
  """
  return float(np.mean(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0))))


def unit_directions(seed: int, d: int, count: int) -> np.ndarray:
  """Draw directions uniformly, unit columns, `[d, count]`."""
  theta = np.random.RandomState(seed).standard_normal((d, count))
  return theta / np.linalg.norm(theta, axis=0)
