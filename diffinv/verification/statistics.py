"""Statistics that hold samples against a Gaussian law: two chi-square tests, and the coverage of intervals."""

from collections.abc import Callable

import numpy as np
from scipy import special

from diffinv.methods.affine import Law, Linear

QUADRATURE = 401  # points over 10 standard deviations to each side: an integral of a smooth density


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
    count: draws that make an interval, with (1 - level) / 2 (count + 1) a whole number i: it runs from the i-th
      smallest to the i-th largest. None for the quantiles of the law itself.
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
