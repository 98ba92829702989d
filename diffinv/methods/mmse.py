"""MMSE: the posterior mean of denoising, in one evaluation of the network.

y = x0 + sigma_y n is what the forward process makes of x0 at the level whose sbar = sigma / alpha is sigma_y, divided
by alpha. A denoiser gives the mean of x0 given just that (Tweedie's formula; Efron, "Tweedie's Formula and Selection
Bias", JASA 106(496), 2011):

  E[x0 | y] = D(alpha y),   sigma / alpha = sigma_y

Nothing has less squared error on average, if D is exact; samples have twice as much. What is approximate: the network
alone. The level lies between those of the schedule: alpha and sigma are exact, and the index that some networks are
told is interpolated.

The steps of the chain do not matter: it has one, whatever the grid. Noise below the lowest level of the schedule, or
above the highest, is refused where it is known before the chain; where it is traced it counts as that level's, since
networks have seen no other: the result is then a little too smooth, or too rough.
"""

import jax
import jax.numpy as jnp

from diffinv import options, schedules
from diffinv.methods import base, proximal
from diffinv.methods.cases import Mean
from diffinv.noise import Gaussian
from diffinv.pytree import pytree


@pytree
class MMSE(base.Iteration):
  """The posterior mean (Tweedie); denoising of Gaussian noise alone; one evaluation, no gradient, nothing to tune."""

  name, title = "mmse", "MMSE"
  citation = "Efron, JASA 2011, Tweedie's formula"
  entering = "y is x_t / α at the level of its own noise: E[x0 ∣ x_t]"
  identity_only = True
  deterministic = True

  def levels(self, grid):
    """Return the first level of the grid and the clean image: one step."""
    return jax.tree.map(lambda v: v[jnp.array([0, -1])], grid)

  def init(self, key, prior, problem, start):
    return base.XState(problem.y)

  def step(self, key, state, now, nxt, prior, problem):
    level = schedules.level_within(prior.schedule, proximal.mean_std(problem))
    x0 = prior.denoise(level.alpha * problem.y, level).x0
    return base.XState(x0), {"residual_norm": base.residual_norm(problem, x0)}

  def estimate(self, state, level, prior, problem):
    """Return y before the step, the mean after it; no evaluation."""
    return state.x

  def check_noise(self, noise, schedule):
    if not isinstance(noise, Gaussian) or jnp.ndim(noise.sigma):
      came = "one sigma for each value" if isinstance(noise, Gaussian) else type(noise).__name__
      raise ValueError(f"mmse: expected Gaussian noise of one sigma, got {came}; use another method")
    low, high = schedules.sbar_range(schedule)
    if not isinstance(noise.sigma, jax.core.Tracer) and not low <= float(noise.sigma) <= high:
      wanted, came = f"sigma {low:.4g} to {high:.4g}", options.shown(float(noise.sigma))
      raise ValueError(f"mmse: expected noise within the levels of the prior, {wanted}, got {came}; use another method")

  @classmethod
  def cases(cls):
    return (Mean("", cls, "no samples: the mean itself, under G3's prior and the mixture's"),)
