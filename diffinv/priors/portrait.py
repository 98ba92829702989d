"""Whether a converted network works: how well it denoises the portrait that comes with the package, at low noise.

Shapes do not tell how attention splits its channels, nor how a network was told the time. Read wrongly, it removes less
noise than it could, or adds some. The error is relative to that of the noisy picture: 1 takes nothing away. A network
that was not trained, or on other pictures, is not told from one that is read wrongly; the check is then inconclusive.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.data import bundled, images
from diffinv.priors import description
from diffinv.priors.base import Prior
from diffinv.schedules import level_within

SBARS = (0.1, 0.3, 1.0)  # sigma / alpha: faint to strong noise, in units of the image ([-1, 1])
DRAWS = 2  # of the noise, the same for every network
MOST = 128  # pixels an edge: the middle of a larger picture
WORKS = 0.8  # relative error below which a network denoises; networks that were not trained leave 1 and more
WELL = 0.5  # below which a large network needs no comparison with others
CLEAR = 0.9  # ratio of errors below which one reading is clearly better than another


class Reading(NamedTuple):
  """A way to read what shapes cannot tell."""

  network: Any  # the config of one of `description.NETWORKS`
  time_scale: float  # of t
  prediction: str | None = None  # None for that of the prior


class Tried(NamedTuple):
  """A reading and its relative errors."""

  reading: Reading
  errors: np.ndarray  # at each of SBARS

  @property
  def error(self) -> float:
    """The geometric mean of the errors."""
    return float(np.exp(np.mean(np.log(self.errors))))


def try_all(prior: Prior, readings: list[Reading]) -> list[Tried]:
  """Return the relative errors of readings of a network, best first.

  Args:
    prior: with the parameters, and all that every reading shares; of 1 or 3 channels.
    readings: to try.
  """
  prior = dataclasses.replace(prior, params=jax.device_put(prior.params))
  tried = [Tried(reading, _relative_errors(_read_as(prior, reading))) for reading in readings]
  return sorted(tried, key=lambda one: one.error)


def is_better(one: Tried, other: Tried) -> bool:
  """Tell whether a reading is clearly better than another: overall, and not worse at any noise."""
  return one.error < CLEAR * other.error and bool(np.all(one.errors <= other.errors))


def _read_as(prior: Prior, reading: Reading) -> Prior:
  apply = _compiled(reading.network)
  prediction = prior.prediction if reading.prediction is None else reading.prediction
  return dataclasses.replace(prior, apply=apply, time_scale=reading.time_scale, prediction=prediction, clip=False)


@functools.cache
def _compiled(network: Any) -> Callable:
  """Return the network as a compiled function of (params, x_t, t); of class 0 if it has classes."""
  apply = description.network_of(network).apply_function(network)
  label = {} if network.num_classes is None else {"label": 0}
  # A network takes long to compile and is evaluated a few times.
  options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

  def run(params, x_t, t):
    return apply(params, x_t, t, **{name: jnp.int32(value) for name, value in label.items()})

  return jax.jit(run, compiler_options=options)


def _relative_errors(prior: Prior) -> np.ndarray:
  """Return the squared error of the denoised portrait over that of the noisy one, at each of SBARS."""
  x0 = jnp.asarray(_portrait(prior))
  rng, found = np.random.default_rng(0), []
  for sbar in SBARS:
    level, ratios = level_within(prior.schedule, jnp.float32(sbar)), []
    for _ in range(DRAWS):
      eps = jnp.asarray(rng.standard_normal(x0.shape), jnp.float32)
      denoised = prior.denoise(level.alpha * x0 + level.sigma * eps, level).x0
      ratios.append(float(jnp.mean((denoised - x0) ** 2) / jnp.mean((level.sigma / level.alpha * eps) ** 2)))
    found.append(math.exp(np.mean(np.log(ratios))) if np.all(np.isfinite(ratios)) else math.inf)
  return np.array(found)


def _portrait(prior: Prior) -> np.ndarray:
  """Return the portrait in the prior's size, or the middle of it, `[h, w, c]`, [-1, 1]."""
  *sizes, channels = prior.image_shape
  edge = max(MOST // prior.size_multiple, 1) * prior.size_multiple
  h, w = (edge if size is None else size for size in sizes)
  x = images.fit(images.read(bundled.ASTRONAUT), (h, w), "resize")
  top, left = max(h - edge, 0) // 2, max(w - edge, 0) // 2
  x = x[top : top + edge, left : left + edge]
  return np.asarray(x if channels == x.shape[2] else np.mean(x, axis=2, keepdims=True), np.float32)
