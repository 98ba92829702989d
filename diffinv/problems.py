"""A problem is one image's measurement: y, and the operator and noise that it came from."""

from typing import Any, Sequence

import jax
import jax.numpy as jnp

from diffinv import metrics
from diffinv.operators.base import Operator
from diffinv.pytree import pytree


@pytree
class Problem:
  """y = A(x) + n for one image."""

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

  def chi2(self, x0: jax.Array) -> jax.Array:
    """Return the reduced chi-square of the residual over the observed values, []: near 1 for the truth.

    The noise is that of a measurement of x0 (Pearson's form): its expectation at the truth is 1 for Poisson noise too.
    """
    std = self.noise.std(self.operator(x0))
    return metrics.chi2(self.residual(x0), std, self.operator.observed(self.y))


def simulate(key: jax.Array, operator: Operator, noise: Any, x0: jax.Array) -> Problem:
  """Measure an image: y = A(x0) + n, the noise on observed values only.

  Args:
    key: of the noise.
    operator, noise: what measures.
    x0: the truth, `operator.in_shape`, [-1, 1].

  Raises:
    ValueError: the image is not of the operator's shape.
  """
  if jnp.shape(x0) != tuple(operator.in_shape):
    raise ValueError(
      f"x0: expected one image of shape {operator.in_shape} as the operator, got {jnp.shape(x0)}; resize it or use vmap"
    )
  clean = operator(x0)
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
        "stack each kind apart"
      )
  return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *problems)


def _layout(problem):
  """Return what two problems must share to be stacked: the tree, the shapes and the float types."""
  leaves, structure = jax.tree.flatten(problem)
  return structure, tuple((jnp.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves)


def _describe(problem):
  operator, noise = problem.operator, problem.noise
  shapes = f"{operator.in_shape} -> {jnp.shape(problem.y)}"
  return f"{type(operator).__name__} {shapes} {jnp.asarray(problem.y).dtype} with {type(noise).__name__} noise"
