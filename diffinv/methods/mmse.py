"""MMSE: the posterior mean of denoising, in one evaluation of the network or a few.

y = x0 + sigma_y n is what the forward process makes of x0 at the level whose sbar = sigma / alpha is sigma_y, divided
by alpha. A denoiser gives the mean of x0 given just that (Tweedie's formula; Efron, "Tweedie's Formula and Selection
Bias", JASA 106(496), 2011):

  E[x0 | y] = D(alpha y),   sigma / alpha = sigma_y

Nothing has less squared error on average, if D is exact; samples have twice as much. What is approximate: the network
alone. Its errors on a picture and on its mirror image are not the same: the result is the mean over `views` of them,
one evaluation each (`diffinv.methods.mirrored`).

The chain has a step for each view, or fewer where the grid has fewer; the levels of the grid do not matter. That of y
lies between those of the schedule: alpha and sigma are exact, and the index that some networks are told is
interpolated. Noise below the lowest level of the schedule, or above the highest, is refused where it is known before
the chain; where it is traced it counts as that level's, since networks have seen no other: the result is then a little
too smooth, or too rough.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffinv import options, schedules
from diffinv.methods import base, mirrored, proximal
from diffinv.methods import cases as laws
from diffinv.noise import Gaussian
from diffinv.pytree import pytree, static


class Mean(NamedTuple):
  """The mean over the views so far."""

  x: jax.Array  # [h, w, c]; y before the first
  views: jax.Array | int


@pytree
class MMSE(base.Iteration):
  """The posterior mean (Tweedie); denoising of Gaussian noise alone; no gradient."""

  views: int = static(default=1)  # mirror images to average over, at most

  name, title = "mmse", "MMSE"
  citation = "Efron, JASA 2011, Tweedie's formula"
  entering = "y is x_t / α at the level of its own noise: E[x0 ∣ x_t]"
  identity_only = True
  deterministic = True
  ranges = {"views": mirrored.VIEWS}
  search = {"views": (1, 2, 4)}

  def levels(self, grid):
    """Return the first level of the grid, once for each view, and the clean image."""
    views = min(self.views, grid.t.shape[0] - 1)
    return jax.tree.map(lambda v: v[jnp.array([0] * views + [-1])], grid)

  def init(self, key, prior, problem, start):
    return Mean(problem.y, jnp.int32(0))

  def step(self, key, state, now, nxt, prior, problem):
    level = schedules.level_within(prior.schedule, proximal.mean_std(problem))
    x0 = mirrored.denoise(prior, level.alpha * problem.y, level, state.views, self.views)
    x = state.x + (x0 - state.x) / (state.views + 1).astype(x0.dtype)
    return Mean(x, state.views + 1), {"residual_norm": base.residual_norm(problem, x)}

  def estimate(self, state, level, prior, problem):
    """Return y before the first step, the mean after it; no evaluation."""
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
    return (laws.Mean("", cls, "no samples: the mean itself, under G3's prior and the mixture's"),)
