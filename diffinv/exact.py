"""Exact posteriors under a Gaussian prior: the judge of samplers, and the classical Wiener filter."""

import jax

from diffinv.priors import StationaryGaussian
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
  operator = problem.operator
  mean = jax.numpy.broadcast_to(prior.mean, operator.in_shape)
  variance = problem.noise.std(problem.y) ** 2 + ridge

  def data_covariance(v):
    return operator(prior.covariance(operator.adjoint(v))) + variance * v

  innovation = problem.y - operator(mean)
  weights = jax.scipy.sparse.linalg.cg(data_covariance, innovation, tol=CG_TOLERANCE, atol=0.0, maxiter=CG_STEPS)[0]
  return mean + prior.covariance(operator.adjoint(weights))
