"""What methods share for the data term: the noise's variance, regularized solves and the proximal step.

All solve (A A^T + R) w = y - A x0 with R = diag(sigma_y^2): in closed form where R is one number and the operator has
one, by conjugate gradients otherwise.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffinv.noise import Rounding
from diffinv.operators.base import CG_STEPS, LinearOperator, conjugate_gradients
from diffinv.operators.pixels import Grayscale
from diffinv.problems import Problem

MIN_STD = 1e-3  # of the noise, on [-1, 1]: what noise-free data count as (DiffPIR's code: 1e-3 on [0, 1])


def noise_variance(problem: Problem) -> jax.Array:
  """Return sigma_y^2, [] or the shape of y (Poisson: as each count estimates it), at least MIN_STD^2."""
  return jnp.maximum(problem.noise.std(problem.y), MIN_STD) ** 2


def mean_std(problem: Problem) -> jax.Array:
  """Return the root mean square of sigma_y over the observed values, []: one number for all; 0 without noise."""
  return jnp.sqrt(problem.mean_variance())


def ridge(operator: LinearOperator, v: jax.Array, variance: jax.Array, *, iterations: int = CG_STEPS) -> jax.Array:
  """Return A^T (A A^T + diag(variance))^-1 v, an image.

  Args:
    operator: A.
    v: a measurement or a residual.
    variance: of the noise, [], or one for each value of `v`, for which no closed form holds.
    iterations: of conjugate gradients, at most, where there is no closed form.
  """
  # An operator's own `ridge` may keep digits that A^T of its `solve` loses.
  if jnp.ndim(variance) == 0 and type(operator).solve is not LinearOperator.solve:
    return operator.ridge(v, variance)
  return operator.adjoint(conjugate_gradients(lambda u: operator.gram(u) + variance * u, v, iterations))


def proximal(problem: Problem, x: jax.Array, rho: jax.Array, *, iterations: int = CG_STEPS) -> jax.Array:
  """Return argmin_u ||(y - A u) / sigma_y||^2 + rho ||u - x||^2 = x + A^T (A A^T + rho R)^-1 (y - A x), linear A.

  In closed form, or by at most `iterations` of conjugate gradients, from x.
  """
  operator: Any = problem.operator  # linear
  return x + ridge(operator, problem.residual(x), rho * noise_variance(problem), iterations=iterations)


def allowed(problem: Problem, x: jax.Array, iterations: int) -> jax.Array:
  """Return the picture nearest to x whose measurement is rounded to y, linear A, by conjugate gradients.

  x itself, where the noise is no rounding or x is allowed; the one that comes nearest to y, where none is.
  """
  if not isinstance(problem.noise, Rounding):
    return x
  operator: Any = problem.operator  # linear
  predicted = operator(x)
  excess = operator.observed(problem.y) * (problem.noise.nearest(problem.y, predicted) - predicted)
  # Not by A A^T, which is singular where a measurement says some of it twice: at edges that fill up blocks.
  return x + conjugate_gradients(lambda u: operator.adjoint(operator(u)), operator.adjoint(excess), iterations)


SMOOTHNESS = 0.1  # mu below: of what is not measured it changes nothing, of what is, little


def smoothest(problem: Problem, iterations: int) -> jax.Array:
  """Return argmin_x ||y - A x||^2 + mu ||differences of neighboring pixels||^2, linear A, by conjugate gradients.

  Of luminance it is the gray picture: that of least squares has the colors of A^T, green where it is bright.
  """
  operator: Any = problem.operator  # linear
  if isinstance(operator, Grayscale):
    return jnp.broadcast_to(problem.y, operator.in_shape)

  def matvec(x):
    return operator.adjoint(operator(x)) + SMOOTHNESS * roughness(x)

  return conjugate_gradients(matvec, operator.adjoint(problem.y), iterations)


def roughness(x: jax.Array) -> jax.Array:
  """Return half the gradient of the sum of squared differences of neighbors along all axes but that of channels."""
  total = jnp.zeros_like(x)
  for axis in range(max(x.ndim - 1, 1)):
    difference = jnp.diff(x, axis=axis)
    before, after = ([side if i == axis else (0, 0) for i in range(x.ndim)] for side in ((1, 0), (0, 1)))
    total += jnp.pad(difference, before) - jnp.pad(difference, after)
  return total


# sigma_y^2 of each value in a step from the prediction A(x), by the misfit whose gradient the step follows.
VARIANCES = {
  "likelihood": lambda problem, predicted: problem.noise.variance(problem.y, predicted),
  "weighted": lambda problem, predicted: problem.noise.std(problem.y) ** 2,
  "squares": lambda problem, predicted: problem.mean_variance(),
}


def linearized_proximal(problem: Problem, x: jax.Array, rho: jax.Array, iterations: int, misfit: str) -> jax.Array:
  """Take one Gauss-Newton step of the proximal problem: A at `x` by its derivative, `iterations` of CG.

  `misfit`: of `problems.MISFITS`. With "likelihood" it is a step of Fisher scoring: where sigma_y is the noise at the
  prediction A(x), (y - A(x)) / sigma_y^2 is the gradient of log p(y | x) and 1 / sigma_y^2 its Fisher information.
  """
  predicted, forward = jax.linearize(problem.operator, x)
  transpose = jax.linear_transpose(forward, x)
  variance = rho * jnp.maximum(VARIANCES[misfit](problem, predicted), MIN_STD**2)
  w = conjugate_gradients(lambda v: forward(transpose(v)[0]) + variance * v, problem.y - predicted, iterations)
  return x + transpose(w)[0]
