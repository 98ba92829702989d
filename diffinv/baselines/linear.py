"""Linear restorations: the pseudo-inverse, and the Wiener filter of a Gaussian prior.

Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", MIT Press, 1949. Under the prior itself
it is the exact posterior mean, against which samplers can be judged.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.priors.gaussian import StationaryGaussian, natural
from diffinv.problems import Problem

CG_STEPS = 1000  # the eigenvalues of a 1/f^2 spectrum span six decades
CG_TOLERANCE = 1e-5  # of the relative residual


def wiener(prior: StationaryGaussian, problem: Problem, *, ridge: float = 1e-6) -> jax.Array:
  """Return the posterior mean m + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A m), `[h, w, c]`.

  Matrix-free, by conjugate gradients; linear operators.

  Args:
    prior: a Gaussian prior with `mean` and `covariance(x)`.
    problem: one image's measurement.
    ridge: added to the noise variance, so that noise-free measurements can be solved too.
  """
  operator: Any = problem.operator  # linear
  mean = jnp.broadcast_to(prior.mean, operator.in_shape)
  variance = problem.noise.std(problem.y) ** 2 + ridge

  def data_covariance(v):
    return operator(prior.covariance(operator.adjoint(v))) + variance * v

  innovation = problem.y - operator(mean)
  weights = jax.scipy.sparse.linalg.cg(data_covariance, innovation, tol=CG_TOLERANCE, atol=0.0, maxiter=CG_STEPS)[0]
  return mean + prior.covariance(operator.adjoint(weights))


_compiled_wiener = jax.jit(wiener)


def natural_wiener(problem: Problem) -> np.ndarray:
  """Return the posterior mean under `natural`, the 1/f^2 spectrum and colors of photographs; linear, three channels."""
  return np.asarray(_compiled_wiener(natural(), problem))


@jax.jit
def _pinv(problem):
  return problem.operator.pinv(problem.y)


def pseudo_inverse(problem: Problem) -> np.ndarray:
  """Return A^+ y within [-1, 1], `[h, w, c]`: of the pictures that fit y, that of least norm; linear operators."""
  return np.clip(_pinv(problem), -1.0, 1.0)
