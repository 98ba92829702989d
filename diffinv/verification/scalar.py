"""Methods in one dimension, or priors that are not Gaussian, against the digits of a quadrature."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import noise, priors
from diffinv.methods import affine
from diffinv.methods.cases import ScalarCase
from diffinv.problems import Problem
from diffinv.schedules import as_arrays
from diffinv.verification.rows import LARGEST_Z, SCHEDULE, Row, failed
from diffinv.verification.sampling import chains


class ScalarPrior(NamedTuple):
  """A prior and a measurement y = a x + 0.5 n in one dimension."""

  weights: tuple[float, ...]
  means: tuple[float, ...]
  variances: tuple[float, ...]
  a: float
  y: float
  threshold: float

  def library(self) -> tuple[priors.GaussianMixture, Problem]:
    """Return the library's prior and problem."""
    means, covs = np.array(self.means)[:, None], np.array(self.variances)[:, None, None]
    operator = affine.dense(np.full((1, 1), self.a))
    return priors.mixture(self.weights, means, covs, SCHEDULE), Problem(
      operator, noise.Gaussian(0.5), jnp.array([self.y])
    )


SCALAR_PRIORS = {
  # N(.5, 2) as a mixture of itself: of the structure of the bimodal prior, so that they share a compilation.
  "normal": ScalarPrior((0.5, 0.5), (0.5, 0.5), (2.0, 2.0), 1.5, 1.2, 0.8),
  "bimodal": ScalarPrior((0.3, 0.7), (-2.0, 1.5), (0.25, 0.16), 1.0, 0.2, 0.0),
}


def scalar_row(name: str, case: ScalarCase, count: int, key: jax.Array) -> Row:
  """Check mean, variance and probability of the method `name` in one dimension; float32."""
  chosen = SCALAR_PRIORS[case.prior]
  prior, problem = chosen.library()
  ys = jnp.tile(problem.y, (count, 1))
  x = chains(jax.random.split(key, count), ys, case.build(), prior, problem, as_arrays(SCHEDULE.grid()))
  z = scalar_errors(np.asarray(x, np.float64)[:, 0], case, chosen.threshold)
  values = {"mean": case.mean, "variance": case.variance, "probability": case.probability}
  values |= {f"{entry}_z": float(v) for entry, v in z.items()}
  holds = {entry: abs(v) < LARGEST_Z for entry, v in z.items()}
  return Row("scalar", name, f"{case.settings}; {case.prior}", values, failed(holds))


def scalar_errors(x: np.ndarray, law: ScalarCase, threshold: float) -> dict[str, float]:
  """Return the errors of samples `[n]`, in standard errors."""
  n, centered = len(x), x - x.mean()
  fourth = np.mean(centered**4)
  return {
    "mean": (x.mean() - law.mean) / np.sqrt(law.variance / n),
    "variance": (x.var() - law.variance) / np.sqrt((fourth - x.var() ** 2) / n),
    "probability": (np.mean(x > threshold) - law.probability) / np.sqrt(law.probability * (1 - law.probability) / n),
  }
