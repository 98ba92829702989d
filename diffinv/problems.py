"""A problem is one image's measurement: y, and the operator and noise that it came from."""

from typing import Any, Sequence

import jax
import jax.numpy as jnp

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
    return jnp.sum(self.operator.observed(self.y) * self.noise.log_prob(self.y, self.operator(x0)))

  def chi2(self, x0: jax.Array) -> jax.Array:
    """Return the reduced chi-square of the residual over the observed values, []: near 1 for the truth."""
    observed = self.operator.observed(self.y)
    z = self.residual(x0) / self.noise.std(self.y)
    return jnp.sum(observed * z**2) / jnp.sum(observed)


def simulate(key: jax.Array, operator: Operator, noise: Any, x0: jax.Array) -> Problem:
  """Measure an image: y = A(x0) + n, the noise on observed values only.

  Args:
    key: of the noise.
    operator, noise: what measures.
    x0: the truth, `operator.in_shape`, [-1, 1].
  """
  clean = operator(x0)
  return Problem(operator, noise, operator.observed(clean) * noise.sample(key, clean))


def stack(problems: Sequence[Problem]) -> Problem:
  """Join problems of one structure into one with a leading axis of images on every leaf, for `vmap`.

  Raises:
    ValueError: there are none, or their operators, noises or shapes differ.
  """
  if not problems:
    raise ValueError("problems: expected at least one, got none")
  structures = {jax.tree.structure(problem) for problem in problems}
  shapes = {tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(problem)) for problem in problems}
  if len(structures) > 1 or len(shapes) > 1:
    raise ValueError("problems: expected one kind of operator, noise and size, got several; stack each kind apart")
  return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *problems)
