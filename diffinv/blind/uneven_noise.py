"""Noise that is not the same in all of a picture and that nobody knows: by color channel, or by brightness.

Both have a variance that is linear in what is to be found, v_i = sum_k theta_k a_ki with known a:

  channels     a_k is 1 in channel k, theta_k the variance there
  brightness   4 gain I_i + read^2, a camera's: I on [0, 1] is taken from the restored picture (Foi et al., "Practical
               Poissonian-Gaussian Noise Modeling and Fitting for Single-Image Raw-Data", IEEE TIP 17(10), 2008)

With x the posterior mean of y under the noise of V = diag(v), Tweedie's formula is x = y + V score(y), and the
derivative of log p(y) by v_i, that of a heat equation, is (score_i^2 + d score_i / d y_i) / 2, hence

  d log p(y) / d theta_k = sum_i a_ki / v_i^2 ((y_i - x_i)^2 - v_i (1 - d x_i / d y_i)) / 2

It vanishes where the theta of v_i within it solve K linear equations, by which it is updated (of one sigma: sigma^2 =
||y - x||^2 / (m - div x)). x is that of `diffinv.methods.mmse`, and d x_i / d y_i is estimated as
b_i (J^T b)_i with random signs b. Under a Gaussian prior, with x and J exact and I given, this is maximum likelihood.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.blind import noise_level
from diffinv.methods import mmse
from diffinv.noise import MAX_RATE, MIN_RATE, PEAK, Gaussian, Poisson
from diffinv.operators.base import Operator
from diffinv.operators.pixels import Identity
from diffinv.priors import AnyPrior

KINDS = CHANNELS, BRIGHTNESS = "channels", "brightness"
UPDATES = 10
AVERAGED = 4  # the last so many are averaged
DAMPING = 0.5  # part of an update that is taken: where little is dark, whole ones swing from side to side
LEAST = 1e-5  # of a variance: below the noise of any level that networks know
LEAST_PART = 0.02  # of read^2 in the variance of white: with less, few values near black would decide all
UNEVEN_CHANNELS = 1.6
UNEVEN = 2.0  # times the standard deviation, from which a doubt is told


class Estimate(NamedTuple):
  """The noise of a measurement."""

  theta: jax.Array  # [c], variances of the channels; or [2], 4 gain and read^2
  values: jax.Array  # [], the number of values that it rests on
  changed: jax.Array  # [], the largest relative change of a standard deviation at the last update


def excuse(operator: Operator) -> str | None:
  """Say why noise that is uneven cannot be estimated from a measurement; None where it can."""
  return None if isinstance(operator, Identity) else "it takes the picture itself with noise, as the task denoising"


def features(kind: str, x: jax.Array) -> jax.Array:
  """Return a of each value, [k, h, w, c], for a picture `x`, [h, w, c]."""
  if kind == CHANNELS:
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype)[:, None, None, :], (x.shape[-1], *x.shape))
  return jnp.stack([jnp.clip((x + 1.0) / 2.0, 0.0, 1.0), jnp.ones_like(x)])


@jax.jit(static_argnames="kind")
def estimate(key: jax.Array, prior: AnyPrior, y: jax.Array, kind: str) -> Estimate:
  """Estimate the variances of the noise in a picture.

  Args:
    key: of the random signs.
    prior: of the pictures.
    y: the picture with its noise, [h, w, c], [-1, 1].
    kind: CHANNELS or BRIGHTNESS.
  """
  theta = start(y, kind)
  x = mmse.at_level(prior, y, jnp.sqrt(jnp.mean(_variance(theta, features(kind, y)))))
  signs = jax.random.rademacher(key, (1, *y.shape), y.dtype)

  def step(carry, _):
    theta, x = carry
    found, x, count = update(prior, y, theta, lambda x: features(kind, x), x, signs)
    change = jnp.max(jnp.abs(found - theta) / (found + theta + LEAST))
    theta = theta + DAMPING * (found - theta)
    return (theta, x), (theta, count, change)

  _, (thetas, counts, changes) = jax.lax.scan(step, (theta, x), length=UPDATES)
  return Estimate(jnp.mean(thetas[-AVERAGED:], axis=0), counts[-1], changes[-1])


def start(y: jax.Array, kind: str) -> jax.Array:
  """Return variances by the finest details of each channel, or of all for the part that brightness does not change."""
  ones = jnp.ones((*y.shape[:2], 1), y.dtype)
  deviations = jax.vmap(lambda channel: noise_level.robust(channel[..., None], ones), in_axes=-1)(y)
  variances = jnp.clip(deviations, noise_level.MIN_START, noise_level.MAX_START) ** 2
  return variances if kind == CHANNELS else jnp.stack([jnp.asarray(LEAST, y.dtype), jnp.mean(variances)])


def update(prior, y, theta, features_of, x, signs, rounds: int = mmse.ROUNDS) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return the next theta, the picture that it rests on, and the number of values.

  Args:
    prior: of the pictures.
    y: the measurement, [h, w, c].
    theta: the present one, [k].
    features_of: gives a, [k, h, w, c], for a picture.
    x: the present estimate of the picture, [h, w, c].
    signs: along which the divergence is taken, [n, h, w, c]; the mean of b b^T over them is near the identity.
    rounds: of the splitting that gives the mean.
  """
  variance = _variance(theta, features_of(x))
  x, backward = jax.vjp(lambda y: mean(prior, y, variance, rounds), y)
  a = features_of(x)
  variance = _variance(theta, a)
  left = 1.0 - jnp.mean(jax.vmap(lambda b: b * backward(b)[0])(signs), axis=0)
  found, count = _found(y, x, variance, left, a)
  return found, x, count


def _found(y, x, variance, left, a) -> tuple[jax.Array, jax.Array]:
  """Return theta, [k], and the number of values that it rests on; `left`: 1 - d x_i / d y_i, [h, w, c]."""
  kept = _kept(y, x, variance)
  weights = (kept / variance**2)[None] * a
  matrix = jnp.einsum("khwc,lhwc->kl", weights, left[None] * a)
  return _solved(matrix, jnp.einsum("khwc,hwc->k", weights, (y - x) ** 2)), jnp.sum(kept)


def mean(prior: AnyPrior, y: jax.Array, variance: jax.Array, rounds: int) -> jax.Array:
  """Return the posterior mean under noise of a variance for each value, all [h, w, c]."""
  x = mmse.at_level(prior, y, jnp.sqrt(jnp.mean(variance)))
  step = lambda split, _: (mmse.again(prior, y, variance, split.r), None)
  return jax.lax.scan(step, mmse.begun(prior, y, variance, x), length=rounds)[0].x


def _variance(theta, a) -> jax.Array:
  return jnp.maximum(jnp.tensordot(theta, a, 1), LEAST)


def _kept(y, x, variance) -> jax.Array:
  """Return 1 for values that count: of a picture that a file may have clipped, those that are far from its ends."""
  within = jnp.where(jnp.abs(x) < 1.0 - noise_level.MARGIN * jnp.sqrt(variance), 1.0, 0.0)
  return jnp.where((jnp.max(jnp.abs(y)) <= 1.0) & (jnp.sum(within) > 0), within, 1.0)


def _solved(matrix, right) -> jax.Array:
  """Return theta of matrix theta = right, none negative: of two, the other alone where one would be."""
  diagonal = jnp.maximum(jnp.diag(matrix), 1e-12)
  alone = right / diagonal
  if right.shape[0] != 2:  # channels do not mix
    return jnp.maximum(alone, LEAST)
  determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
  both = jnp.stack(
    [matrix[1, 1] * right[0] - matrix[0, 1] * right[1], matrix[0, 0] * right[1] - matrix[1, 0] * right[0]]
  ) / jnp.where(determinant > 0, determinant, 1.0)
  one = jnp.where(both[0] < both[1], jnp.stack([jnp.zeros_like(alone[0]), alone[1]]), alone * jnp.array([1.0, 0.0]))
  found = jnp.where((determinant > 0) & jnp.all(both >= 0), both, one)
  return jnp.maximum(found, jnp.stack([jnp.zeros_like(found[0]), jnp.maximum(LEAST_PART * found[0], LEAST)]))


def noise_of(theta: jax.Array | np.ndarray, kind: str) -> Gaussian | Poisson:
  """Return the noise of these variances, [k]."""
  if kind == CHANNELS:
    return Gaussian(jnp.sqrt(theta)[None, None, :])
  rate = jnp.clip(4.0 / (PEAK * jnp.maximum(theta[0], 1e-12)), MIN_RATE, MAX_RATE)
  return Poisson(rate, jnp.sqrt(theta[1]))


def worded(theta: jax.Array | np.ndarray, kind: str) -> str:
  """Return the noise of these variances, [k], in words."""
  noise = noise_of(theta, kind)
  if isinstance(noise, Gaussian):
    return "sigma " + ",".join(f"{float(sigma):.3g}" for sigma in jnp.ravel(jnp.asarray(noise.sigma)))
  return f"rate {float(noise.rate):.3g}, read {float(noise.read or 0.0):.3g}"


def described(found: Estimate, kind: str) -> str:
  """Say in a line what was estimated and what it rests on."""
  return f"{worded(found.theta, kind)}, the most likely under the prior, from {int(found.values):,} values"


@jax.jit
def unevenness(y: jax.Array, found: noise_level.Estimate) -> tuple[jax.Array, jax.Array]:
  """Return by how much the noise differs, at most, between channels, and from black to white, [] each.

  Both are ratios of standard deviations after one update from one sigma for all, 1 where that explains the picture.

  Args:
    y: the picture with its noise, [h, w, c].
    found: the noise of one sigma, by `noise_level.estimate`; what it saw of the picture is all that an update takes.
  """
  variance, left = jnp.broadcast_to(found.sigma**2, y.shape), 1.0 - found.shrunk
  once = lambda kind: _found(y, found.x0, variance, left, features(kind, found.x0))[0]
  variances, (slope, black) = once(CHANNELS), once(BRIGHTNESS)
  return jnp.sqrt(jnp.max(variances) / jnp.min(variances)), jnp.sqrt((slope + black) / jnp.maximum(black, LEAST))


def doubt(found: tuple[jax.Array, jax.Array]) -> str | None:
  """Say that noise seems uneven, and which option to try; None where it does not. `found`: of `unevenness`."""
  channels, brightness = map(float, found)
  if channels > UNEVEN or (channels > UNEVEN_CHANNELS and brightness < UNEVEN):
    return "its noise seems to differ between channels; try sigma=channels"
  if brightness > UNEVEN:
    return "its noise seems to grow with brightness; try noise=poisson"
  return None
