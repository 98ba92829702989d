"""MMSE: the posterior mean of denoising, in one evaluation of the network or a few.

y = x0 + sigma_y n is what the forward process makes of x0 at the level whose sbar = sigma / alpha is sigma_y, divided
by alpha. A denoiser gives the mean of x0 given just that (Tweedie's formula; Efron, "Tweedie's Formula and Selection
Bias", JASA 106(496), 2011):

  E[x0 | y] = D(alpha y),   sigma / alpha = sigma_y

Nothing has less squared error on average, if D is exact; samples have twice as much. What is approximate: the network
alone. Its errors on a picture, its mirror image and its negative are not the same: the result is the mean over `views`
of them, one evaluation each (`diffinv.methods.ensemble`).

The chain has a step for each view, or fewer where the grid has fewer; the levels of the grid do not matter. That of y
lies between those of the schedule: alpha and sigma are exact, and the index that some networks are told is
interpolated. Noise below the lowest level of the schedule, or above the highest, is refused where it is known before
the chain; where it is traced it counts as that level's, since networks have seen no other: the result is then a little
too smooth, or too rough.

Noise that varies from value to value, with the variances V, has no level. The mean then solves, under a Gaussian prior
for any level s,

  x = D_s(x + s^2 V^-1 (y - x)),   1 / s^2 = mean(1 / V)

since s^-2 (D_s(r) - r) is the score of the prior with the noise of s. With that s, the noise of y alone has the mean
variance s^2 in what D_s takes, and one V gives x = D_s(y) at once. `rounds` steps of Douglas and Rachford's splitting
(Lions and Mercier, SIAM J. Numer. Anal. 16(6), 1979; with denoisers: Venkatakrishnan, Bouman and Wohlberg, GlobalSIP
2013) solve it, from D at the root of the mean of V; networks do best with three, not to the end. For Poisson noise V is
that of the present x.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffinv import options, schedules
from diffinv.methods import base, ensemble, proximal
from diffinv.methods import cases as laws
from diffinv.noise import Gaussian, Poisson
from diffinv.priors import AnyPrior
from diffinv.pytree import pytree, static

ROUNDS = 3  # of 1 to 6 the best on photographs, or within 0.1 dB of it, but where sigmas of channels differ tenfold


class Mean(NamedTuple):
  """The mean over the views so far."""

  x: jax.Array  # [h, w, c]; y before the first
  views: jax.Array | int


class Split(NamedTuple):
  """The state of a splitting: the estimate, and what the denoiser takes next."""

  x: jax.Array  # [h, w, c]
  r: jax.Array  # [h, w, c]


@pytree
class MMSE(base.Iteration):
  """The posterior mean (Tweedie); denoising alone; no gradient."""

  views: int = static(default=1)  # of the picture to average over, at most, where noise has one sigma
  rounds: int = static(default=0)  # further evaluations, where noise varies from value to value; `fitted` sets them

  name, title = "mmse", "MMSE"
  citation = "Efron, JASA 2011, Tweedie's formula"
  entering = "y is x_t / α at the level of its own noise: E[x0 ∣ x_t]"
  identity_only = True
  deterministic = True
  ranges = {"views": ensemble.VIEWS, "rounds": base.Range(0, base.MOST)}

  def fitted(self, noise):
    """Return the method with the rounds that noise which varies from value to value takes."""
    return dataclasses.replace(self, rounds=ROUNDS) if _varies(noise) and not self.rounds else self

  def levels(self, grid):
    """Return the first level of the grid, once for every step, and the clean image: a step for each view or round."""
    steps = self.rounds or min(self.views, grid.t.shape[0] - 1)
    return jax.tree.map(lambda v: v[jnp.array([*[0] * steps, -1])], grid)

  def check_start(self, operator, schedule):
    """Accept a prior of any schedule: y is at a level of it, see `check_noise`."""

  def init(self, key, prior, problem, start):
    if not self.rounds:
      return Mean(problem.y, jnp.int32(0))
    x = at_level(prior, problem.y, proximal.mean_std(problem))
    return begun(prior, problem.y, _variance(problem, x), x)

  def step(self, key, state, now, nxt, prior, problem):
    if self.rounds:
      state = again(prior, problem.y, _variance(problem, state.x), state.r)
    else:
      x0 = at_level(prior, problem.y, proximal.mean_std(problem), state.views, self.views)
      state = Mean(state.x + (x0 - state.x) / (state.views + 1).astype(x0.dtype), state.views + 1)
    return state, {"residual_norm": base.residual_norm(problem, state.x)}

  def estimate(self, state, level, prior, problem):
    """Return the mean, before the first step y or a first estimate; no evaluation."""
    return state.x

  def cost(self, num_levels):
    """Return one evaluation a step, and that of the first estimate before the rounds."""
    return base.Cost(num_levels - 1 + (self.rounds > 0), 0)

  def check_noise(self, noise, schedule):
    if _varies(noise):
      return
    if not isinstance(noise, Gaussian):
      raise ValueError(f"mmse: expected Gaussian or Poisson noise, got {type(noise).__name__}; use another method")
    low, high = schedules.sbar_range(schedule)
    if not isinstance(noise.sigma, jax.core.Tracer) and not low <= float(noise.sigma) <= high:
      wanted, came = f"sigma {low:.4g} to {high:.4g}", options.shown(float(noise.sigma))
      raise ValueError(f"mmse: expected noise within the levels of the prior, {wanted}, got {came}; use another method")

  @classmethod
  def cases(cls):
    return (laws.Mean("", cls, "no samples: the mean itself, under G3's prior and the mixture's"),)


def _varies(noise) -> bool:
  """Tell whether noise may have another variance for each value."""
  return isinstance(noise, Poisson) or (isinstance(noise, Gaussian) and jnp.ndim(noise.sigma) > 0)


def _variance(problem, x) -> jax.Array:
  """Return V at an estimate, the shape of y."""
  found = problem.noise.variance(problem.y, x)
  return jnp.broadcast_to(jnp.maximum(found, proximal.MIN_STD**2), problem.y.shape)


def at_level(prior: AnyPrior, r: jax.Array, sigma: jax.Array, k: jax.Array | int = 0, views: int = 1) -> jax.Array:
  """Return the mean of x0 given r = x0 + sigma n, or at the nearest level that the schedule has; by view `k`."""
  level = schedules.level_within(prior.schedule, sigma)
  return ensemble.denoise(prior, level.alpha * r, level, k, views)


def begun(prior: AnyPrior, y: jax.Array, variance: jax.Array, x: jax.Array) -> Split:
  """Return what the splitting begins with: the estimate `x`, moved toward y by s^2 V^-1; all [h, w, c]."""
  return Split(x, x + _level(prior, variance) ** 2 / variance * (y - x))


def again(prior: AnyPrior, y: jax.Array, variance: jax.Array, r: jax.Array) -> Split:
  """Take a step of the splitting: its denoiser, then the step toward y of the reflected estimate."""
  s = _level(prior, variance)
  x = at_level(prior, r, s)
  toward = (variance * (2.0 * x - r) + s**2 * y) / (variance + s**2)
  return Split(x, r + toward - x)


def _level(prior, variance) -> jax.Array:
  """Return s, within the schedule, []."""
  return jnp.clip(jnp.mean(1.0 / variance) ** -0.5, *schedules.sbar_range(prior.schedule))
