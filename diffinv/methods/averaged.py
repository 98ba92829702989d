"""The mean of several chains of a method: nearer the posterior mean than one sample, and no sample itself.

The mean of n independent samples of the posterior has 1 + 1/n times the least squared error, one sample twice as much.
The chains of one picture run side by side, where their number is even in pairs of opposite noise
(`diffinv.antithetic`).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from diffinv import antithetic
from diffinv.methods.base import COUNT, Cost, Method, Range
from diffinv.pytree import pytree, static


@pytree
class Averaged:
  """The mean of `samples` chains of a method; a method itself."""

  method: Method
  samples: int = static(default=4)

  deterministic = False
  ranges: ClassVar[dict[str, Range]] = {"samples": COUNT}

  name = property(lambda self: self.method.name)
  title = property(lambda self: f"{self.method.title}, mean of {self.samples}")
  citation = property(lambda self: self.method.citation)
  entering = property(lambda self: self.method.entering)
  linear_only = property(lambda self: self.method.linear_only)
  spectral_only = property(lambda self: self.method.spectral_only)
  identity_only = property(lambda self: self.method.identity_only)
  linear_in_noise = property(lambda self: self.method.linear_in_noise)

  def levels(self, grid):
    """Return those of the method."""
    return self.method.levels(grid)

  def init(self, key, prior, problem, start):
    """Return the states of all chains, stacked."""
    return jax.vmap(lambda key: self.method.init(key, prior, problem, start))(self._keys(key))

  def step(self, key, state, now, nxt, prior, problem):
    """Take the step of every chain; trace the mean of their scalars."""
    one = lambda key, state: self.method.step(key, state, now, nxt, prior, problem)
    state, info = jax.vmap(one)(self._keys(key), state)
    return state, jax.tree.map(lambda v: jnp.mean(v, axis=0), info)

  def finish(self, state, prior, problem):
    """Return the mean of the restored images."""
    return jnp.mean(jax.vmap(lambda state: self.method.finish(state, prior, problem))(state), axis=0)

  def estimate(self, state, level, prior, problem):
    """Return the mean of the chains' estimates."""
    return jnp.mean(jax.vmap(lambda state: self.method.estimate(state, level, prior, problem))(state), axis=0)

  def cost(self, num_levels):
    """Return the cost of all chains."""
    return Cost(*(self.samples * count for count in self.method.cost(num_levels)))

  def check(self, operator):
    """Check what the method checks.

    Raises:
      ValueError: it cannot work.
    """
    self.method.check(operator)

  def check_noise(self, noise, schedule):
    """Check what the method checks.

    Raises:
      ValueError: it cannot work.
    """
    self.method.check_noise(noise, schedule)

  def check_start(self, operator, schedule):
    """Check what the method checks.

    Raises:
      ValueError: it cannot work.
    """
    self.method.check_start(operator, schedule)

  def _keys(self, key):
    paired = self.samples % 2 == 0 and jax.random.key_impl(key) == antithetic.BASE
    keys = jax.random.split(key, self.samples // 2 if paired else self.samples)
    return antithetic.pairs(keys) if paired else keys
