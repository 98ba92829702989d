"""The noise of a measurement that nobody knows: the sigma that makes it most likely, given the prior.

For y = x + sigma n, with x of the prior, D the mean of x given y, and m values,

  d log p(y) / d sigma^2 = (||y - D(y)||^2 / sigma^2 - m + div D(y)) / (2 sigma^2)

since the score of y is (D(y) - y) / sigma^2 (Tweedie; the divergence is that of Stein's unbiased risk estimate, Stein,
Annals of Statistics 9(6), 1981). The most likely sigma is where what is left of y is as large as a denoiser of that
sigma should leave it:

  h(sigma) = log(||y - D_sigma(y)||^2 / (sigma^2 (m - div D_sigma(y)))) / 2 = 0

The secant method finds it in a few evaluations and gradients of the network. The divergence is estimated from its
values along random signs b, E[b^T J b] (Hutchinson, 1989). Under an exact prior and divergence the estimate is that of
maximum likelihood.

Used for every measurement that is itself a picture: one with pixels missing, whose gaps are filled first and given
noise of sigma; and a blurred or a smaller one, where the prior of sharp pictures stands in for one of such pictures.
Values that a file has clipped to [-1, 1] say less about the noise: where y goes no further, D must be 2 sigma within.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffinv import sampler, schedules
from diffinv.methods.dpir import DPIR
from diffinv.noise import Gaussian
from diffinv.operators.base import LinearOperator, Operator
from diffinv.priors import AnyPrior
from diffinv.problems import Problem

EVALUATIONS = 8  # of the secant method, at most; it settles in three to five
STILL = 1e-5  # of a step in log sigma: no further one is taken
LONGEST = 0.7  # of a step in log sigma: a factor of two
LEAST_SLOPE = 0.15  # of -h: where the noise hardly shows, steps would grow without bound
SETTLED = 0.02  # |h|: within that part of sigma where the noise shows
FILL_STEPS = "8"
NORMAL_MEDIAN = 0.6745  # of |n|, n standard normal
MARGIN = 2.0  # sigma between D and values at which a file clips
MIN_START, MAX_START = 5e-3, 1.0


class Estimate(NamedTuple):
  """The noise of a measurement."""

  sigma: jax.Array  # []
  start: jax.Array  # [], the robust estimate that the search began with
  values: jax.Array  # [], the number of values that it rests on
  unbalanced: jax.Array  # [], h at the end: 0 where the search has settled
  x0: Any = None  # [h, w, c], the picture without the noise, where a prior was asked
  shrunk: Any = None  # [h, w, c], estimates of d x0_i / d y_i

  @property
  def settled(self) -> bool:
    """Whether the prior explains sigma."""
    return abs(float(self.unbalanced)) < SETTLED


def excuse(operator: Operator, channels: int) -> str | None:
  """Say why the noise of a measurement cannot be estimated; None where it can.

  Args:
    operator: of the measurement.
    channels: of the prior's pictures.
  """
  if not isinstance(operator, LinearOperator) or not operator.is_picture or operator.out_shape[-1] != channels:
    return f"it takes a measurement that is a picture of {channels} channels"
  return None


def estimate(key: jax.Array, prior: AnyPrior, operator: LinearOperator, y: jax.Array) -> Estimate:
  """Estimate the standard deviation of the Gaussian noise in a measurement.

  Args:
    key: of the random signs, and of the noise in what fills gaps.
    prior: of the pictures.
    operator: that measured, without an `excuse`; its values are known, not traced.
    y: the measurement, a picture, [h, w, c], [-1, 1]; 0 where nothing is observed.
  """
  gaps = operator.in_shape == y.shape and bool(jnp.any(operator.observed(y) == 0))
  return _estimate(key, prior, operator, y, gaps)


@jax.jit(static_argnames="gaps")
def _estimate(key, prior, operator, y, gaps: bool) -> Estimate:
  signs_key, gap_key, fill_key = jax.random.split(key, 3)
  observed = operator.observed(y)
  start = jnp.clip(robust(y, observed), MIN_START, MAX_START)
  filled = y
  if gaps:
    problem, grid = Problem(operator, Gaussian(start), y), prior.schedule.grid(FILL_STEPS)
    filled = sampler.sample(fill_key, DPIR(weight=0.12, noise=1.0), prior, problem, grid)[0]
  signs = jax.random.rademacher(signs_key, (1, *y.shape), y.dtype)
  return most_likely(prior, y, observed, filled, jax.random.normal(gap_key, y.shape, y.dtype), signs, start)


def most_likely(
  prior: AnyPrior,
  y: jax.Array,
  observed: jax.Array,
  filled: jax.Array,
  noise: jax.Array,
  signs: jax.Array,
  start: jax.Array,
) -> Estimate:
  """Return the most likely sigma.

  Args:
    prior: of the pictures.
    y, observed: the measurement, and 1 where it is one, [h, w, c].
    filled: what stands where nothing is observed, with `noise`, standard normal, times sigma added.
    signs: along which the divergence is taken, [n, h, w, c]; the mean of b b^T over them is near the identity.
    start: the first sigma, [].
  """
  low, high = (jnp.log(bound) for bound in schedules.sbar_range(prior.schedule))

  def step(carry):
    count, before, seen_before, now = carry
    sigma = jnp.exp(now)
    seen = _balance(prior, jnp.where(observed > 0, y, filled + sigma * noise), observed, signs, sigma)
    moved = now - before
    slope = jnp.where(jnp.abs(moved) > 1e-4, (seen.h - seen_before.h) / jnp.where(moved == 0, 1.0, moved), -1.0)
    change = jnp.clip(seen.h / jnp.maximum(-slope, LEAST_SLOPE), -LONGEST, LONGEST)
    return count + 1, now, seen, jnp.clip(now + change, low, high)

  def moves(carry):
    count, before, _, now = carry
    return (count == 0) | ((count < EVALUATIONS) & (jnp.abs(now - before) > STILL))

  # One loop, so that the network is compiled once.
  first, zero = jnp.clip(jnp.log(start), low, high), jnp.zeros((), y.dtype)
  nothing = _Balance(zero, zero, jnp.zeros_like(y), jnp.zeros_like(y))
  _, found, seen, _ = jax.lax.while_loop(moves, step, (0, first, nothing, first))
  return Estimate(jnp.exp(found), start, seen.values, seen.h, seen.x0, seen.shrunk)


class _Balance(NamedTuple):
  h: jax.Array  # []
  values: jax.Array  # [], how many it rests on
  x0: jax.Array  # [h, w, c]
  shrunk: jax.Array  # [h, w, c], estimates of d x0_i / d y_i


def _balance(prior, z, observed, signs, sigma) -> _Balance:
  level = schedules.level_within(prior.schedule, sigma)
  x0, backward = jax.vjp(lambda z: prior.denoise(level.alpha * z, level).x0, z)
  clipped = jnp.max(jnp.abs(observed * z)) <= 1.0
  within = jnp.where(jnp.abs(x0) < 1.0 - MARGIN * sigma, observed, 0.0)
  kept = jnp.where(clipped & (jnp.sum(within) > 0), within, observed)
  shrunk = jnp.mean(jax.vmap(lambda b: kept * b * backward(kept * b)[0])(signs), axis=0)
  count = jnp.sum(kept)
  expected = sigma**2 * jnp.maximum(count - jnp.sum(shrunk), 1e-3 * count)
  return _Balance(0.5 * jnp.log(jnp.sum(kept * (z - x0) ** 2) / expected), count, x0, shrunk)


def robust(y: jax.Array, observed: jax.Array) -> jax.Array:
  """Return the median deviation of the finest diagonal details, [] (Donoho and Johnstone, Biometrika 81(3), 1994).

  Args:
    y: a picture, [h, w, c].
    observed: 1 where it is measured, else 0; details of four measured pixels count, or all where there are none.
  """
  corners = lambda v: (v[:-1, :-1], v[:-1, 1:], v[1:, :-1], v[1:, 1:])
  a, b, c, d = corners(y)
  whole = jnp.minimum(*(jnp.minimum(*pair) for pair in zip(*[iter(corners(observed))] * 2)))
  detail = jnp.abs(a - b - c + d) / 2.0
  return jnp.nanmedian(jnp.where((whole > 0) | ~jnp.any(whole > 0), detail, jnp.nan)) / NORMAL_MEDIAN


def by_details(operator: Operator, y: jax.Array) -> Estimate:
  """Estimate the noise of a picture that is none of the prior's, such as a gray one, by its finest details alone."""
  observed = operator.observed(y)
  start = jnp.clip(robust(y, observed), MIN_START, MAX_START)
  return Estimate(start, start, jnp.sum(observed), jnp.asarray(jnp.inf))


def chosen(found: Estimate, *, rounded: float = 0.0, noisy: bool = False) -> float:
  """Return sigma, or what else there is to go by where the search has not settled.

  Where it came down to the least noise that the prior knows and even that is more than what is left of y (`unbalanced`
  below 0), there is less: the picture is clean, and its finest details are its own. Or its noise is not white, as
  compression leaves it, or a person says that there is some: then the finest details are what tells.

  Args:
    found: the estimate.
    rounded: what the file's compression has rounded off, a standard deviation on [-1, 1]; 0 for none.
    noisy: whether a person says that there is noise.
  """
  sigma, start, unbalanced = float(found.sigma), float(found.start), float(found.unbalanced)
  if found.settled:
    return max(sigma, rounded)
  if unbalanced < 0 and not (rounded or noisy):
    return min(sigma, start)
  return max(start, rounded)


def described(found: Estimate, sigma: float, rounded: float = 0.0) -> str:
  """Say in a line what was `chosen` and what it rests on."""
  if sigma == rounded:
    return f"sigma {sigma:.3g}, what the compression of the file has rounded off; give sigma where you know it"
  if not found.settled and sigma < float(found.start):
    return f"sigma {sigma:.3g}, as the prior sees no noise; give sigma where you know it"
  if not found.settled:
    return f"sigma {sigma:.3g} by its finest details, as the prior explains none; give sigma where you know it"
  return (
    f"sigma {float(found.sigma):.3g}, the most likely one under the prior, from {int(found.values):,} values "
    f"(their finest details alone say {float(found.start):.3g}); give sigma where you know it"
  )
