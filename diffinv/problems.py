"""A problem is one image's measurement: y, and the operator and noise that it came from.

`Problem.misfit` is what every method that follows gradients toward the data descends: the log-likelihood of the noise,
in units of ||y - A(x0)||^2. MISFITS names the choices, which differ only if the noise varies from value to value:

  likelihood   the noise's own, -2 sigma^2 log p(y | x0) up to a constant, sigma^2 the mean variance (`noise.misfit`)
  weighted     sum_j (sigma / sigma_j)^2 (y_j - A(x0)_j)^2, sigma_j estimated from each value itself: for Poisson noise
               the weighted least squares of DPS (Chung et al., arXiv 2209.14687, Sec. 3.2), weights 1 / (2 y_j)
  squares      ||y - A(x0)||^2, whatever the noise

For Gaussian noise of one sigma, and without noise, all three are ||y - A(x0)||^2.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffinv.operators.base import Operator
from diffinv.pytree import pytree


def _likelihood(problem, predicted):
  return problem.noise.misfit(problem.y, predicted, problem.mean_variance())


def _weighted(problem, predicted):
  squares, std = (problem.y - predicted) ** 2, problem.noise.std(problem.y)
  return squares if jnp.ndim(std) == 0 else problem.mean_variance() / std**2 * squares


def _squares(problem, predicted):
  return (problem.y - predicted) ** 2


# Of each value; unobserved values do not count.
MISFITS = {"likelihood": _likelihood, "weighted": _weighted, "squares": _squares}


@pytree
class Problem:
  """y = A(x) + n for one image.

  Example:
    >>> import diffinv, jax
    >>> from diffinv import noise
    >>> x0 = jax.numpy.ones((8, 8, 3))
    >>> problem = diffinv.Problem(diffinv.OPERATORS["identity"](x0.shape), noise.Gaussian(0.1), 0.9 * x0)
    >>> round(float(problem.chi2(x0)), 3)  # (0.1 / 0.1)^2
    1.0
  """

  operator: Operator
  noise: Any
  y: jax.Array  # zero where the operator observes nothing

  def residual(self, x0: jax.Array) -> jax.Array:
    """Return y - A(x0), the shape of `y`."""
    return self.y - self.operator(x0)

  def log_likelihood(self, x0: jax.Array) -> jax.Array:
    """Return log p(y | x0), [], over the observed values."""
    log_prob = self.noise.log_prob(self.y, self.operator(x0))
    return jnp.sum(jnp.where(self.operator.observed(self.y) > 0, log_prob, 0.0))

  def misfit(self, x0: jax.Array, kind: str = "likelihood") -> jax.Array:
    """Return how far `x0` is from the data, [], in units of ||y - A(x0)||^2, which it is for Gaussian noise.

    `kind`: of MISFITS.
    """
    return self.misfit_of(self.operator(x0), kind)

  def misfit_of(self, predicted: jax.Array, kind: str = "likelihood") -> jax.Array:
    """Return the misfit of a predicted measurement A(x0), []."""
    each = MISFITS[kind](self, predicted)
    if jnp.ndim(self.noise.std(self.y)) == 0:
      return jnp.sum(each)  # y and A(x0) are both 0 where nothing is observed
    return jnp.sum(jnp.where(self.operator.observed(self.y) > 0, each, 0.0))

  def mean_variance(self) -> jax.Array:
    """Return the mean of sigma_y^2 over the observed values, []: one number for all; 0 without noise."""
    observed = self.operator.observed(self.y)
    return jnp.sum(observed * self.noise.std(self.y) ** 2) / jnp.maximum(jnp.sum(observed), 1.0)

  def stiffness(self, kind: str = "likelihood") -> jax.Array | float:
    """Return how many times steeper the misfit rises from its minimum than for Gaussian noise, at most, [], at least 1.

    This is the slope along a measured value, divided by the distance from its minimum. Divide steps of a fixed length
    by it: a dark pixel of a Poisson measurement weighs as much as a hundred bright ones.
    """
    if kind == "squares" or jnp.ndim(self.noise.std(self.y)) == 0:
      return 1.0
    black = jnp.full_like(self.y, -1.0)  # where the noise is least
    least = self.noise.std(self.y) ** 2 if kind == "weighted" else self.noise.variance(self.y, black)
    return jnp.max(jnp.where(self.operator.observed(self.y) > 0, self.mean_variance() / least, 1.0))

  def chi2(self, x0: jax.Array) -> jax.Array:
    """Return the reduced chi-square of the residual over the observed values, []: near 1 for the truth.

    The noise is that of a measurement of x0 (Pearson's form), so that the expectation at the truth is 1 for Poisson
    noise too, except for values below one photon, whose noise is taken as that of one photon.
    """
    std = self.noise.std(self.operator(x0))
    return chi2(self.residual(x0), std, self.operator.observed(self.y))


def chi2(residual: jax.Array, std: jax.Array, observed: jax.Array) -> jax.Array:
  """Return the reduced chi-square (1/m) sum_i (residual_i / std_i)^2 over the m observed values, [].

  It is near 1, within a few sqrt(2/m), if the residual is noise, and nan if std is 0.

  Args:
    residual: y - A(x0).
    std: of the noise, the shape of `residual` or [].
    observed: 1 where a value was measured, else 0, the shape of `residual`.
  """
  return jnp.sum(observed * (residual / std) ** 2) / jnp.sum(observed)


def simulate(key: jax.Array, operator: Operator, noise: Any, x0: jax.Array) -> Problem:
  """Measure an image: y = A(x0) + n, the noise on observed values only.

  Args:
    key: of the noise.
    operator, noise: what measures.
    x0: the truth, `operator.in_shape`, [-1, 1].

  Raises:
    ValueError: the image does not have the operator's shape, or the measurement is complex.

  Example:
    >>> import diffinv, jax
    >>> from diffinv import noise
    >>> x0 = jax.numpy.zeros((16, 16, 3))
    >>> operator = diffinv.OPERATORS["super_resolution"](x0.shape, 4)
    >>> diffinv.simulate(jax.random.key(0), operator, noise.Gaussian(0.05), x0).y.shape
    (4, 4, 3)
  """
  if jnp.shape(x0) != tuple(operator.in_shape):
    raise ValueError(
      f"x0: expected one image of shape {operator.in_shape} as the operator, got {jnp.shape(x0)}; resize it or use vmap"
    )
  clean = operator(x0)
  if jnp.iscomplexobj(clean):  # adjoints and norms are those of real numbers
    raise ValueError(
      f"operator: expected real measurements, got {clean.dtype}; return real and imaginary parts as two numbers"
    )
  return Problem(operator, noise, operator.observed(clean) * noise.sample(key, clean))


def stack(problems: Sequence[Problem]) -> Problem:
  """Join problems of one structure into one with a leading axis of images on every leaf, for `vmap`.

  Raises:
    ValueError: there are none, or their operators, noises or shapes differ.
  """
  if not problems:
    raise ValueError("problems: expected at least one, got none")
  first = _describe(problems[0])
  for index, problem in enumerate(problems):
    if _layout(problem) != _layout(problems[0]):
      raise ValueError(
        f"problems: expected the layout of problem 0, {first}, got {_describe(problem)} in problem {index}; "
        "stack each kind separately"
      )
  return _stacked(*problems)


@jax.jit
def _stacked(*problems):
  return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *problems)


def _layout(problem):
  """Return what problems must share to be stacked: the tree, the shapes and the float types."""
  leaves, structure = jax.tree.flatten(problem)
  return structure, tuple((jnp.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves)


def _describe(problem):
  operator, noise = problem.operator, problem.noise
  shapes = f"{operator.in_shape} -> {jnp.shape(problem.y)}"
  return f"{type(operator).__name__} {shapes} {jnp.asarray(problem.y).dtype} with {type(noise).__name__} noise"
