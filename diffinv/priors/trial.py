"""How well a network denoises, read in one way or another: on three bundled pictures at three levels of noise.

What is looked at is the error of the denoised picture over that of the better of two trivial denoisers: one that pulls
every pixel toward the mean of the picture, one that takes the mean of 3x3 pixels first. A network that was read wrongly
does little better, or worse; on pictures of a kind that it was not trained on, it still does.
"""

import ctypes
import dataclasses
import functools
import gc
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.data import bundled, images
from diffinv.priors import description
from diffinv.priors.base import Prior
from diffinv.schedules import Schedule, level_within, of_unit_range

SBARS = (0.1, 0.3, 1.0)  # sigma / alpha: faint to strong noise, in units of the image ([-1, 1])
SHOWN = 1  # which of them messages speak of
PICTURES = (bundled.ASTRONAUT, bundled.BEE, bundled.FACE)
FEW = ((0, 0), (1, 1), (2, 2))  # pictures and levels on which readings are compared: each once
ALL = tuple((picture, level) for picture in range(len(PICTURES)) for level in range(len(SBARS)))
MOST = 128  # pixels an edge: the middle of a larger picture
CHEAP = 1e11  # parameters times pixels up to which every reading is tried
WORKS = 0.8  # part of a trivial denoiser's error below which a network denoises; untrained ones leave 1 and more
WELL = 0.5  # below which a large network needs no comparison with others
CLEAR = 0.9  # ratio of errors below which one reading is clearly better than another
FAR = 0.7  # the same where it is worse at some level
SLACK = 1.05  # ratio of errors at one level up to which it is not worse there


class Reading(NamedTuple):
  """A way to read what a file leaves open."""

  network: Any  # the config of one of `description.NETWORKS`
  time_scale: float  # of t
  schedule: Schedule  # of the pictures that the network knows
  prediction: str
  unit_range: bool = False  # whether it knows pictures in [0, 1]
  reversed_channels: bool = False  # whether it knows blue, green, red


class Tried(NamedTuple):
  """A reading, and how well it denoises at some of ALL."""

  reading: Reading
  errors: np.ndarray  # over a trivial denoiser's, at each
  psnr: np.ndarray  # dB, at each
  trivial: np.ndarray  # dB, of the trivial denoiser

  @property
  def error(self) -> float:
    """The geometric mean of the errors."""
    return float(np.exp(np.mean(np.log(self.errors))))

  @property
  def shown(self) -> float:
    """PSNR at the level that messages speak of, dB, the mean over the pictures."""
    return float(np.mean(self.psnr[self._level()]))

  @property
  def trivial_shown(self) -> float:
    """The same of the trivial denoiser."""
    return float(np.mean(self.trivial[self._level()]))

  def _level(self) -> list[int]:
    return [i for i, (_, level) in enumerate(places_of(self)) if level == SHOWN]


def places_of(tried: Tried) -> Sequence[tuple[int, int]]:
  """Return where a reading was tried: at ALL or at FEW."""
  return ALL if len(tried.errors) == len(ALL) else FEW


class Trial:
  """Tries readings of a network; a network is compiled once, and evaluated once at the same input.

  Of large networks one alone is kept compiled.
  """

  def __init__(self, prior: Prior):
    """Take a prior with the parameters, and all that every reading shares; of 1 or 3 channels."""
    self.prior = dataclasses.replace(prior, params=jax.device_put(prior.params), clip=False)
    self._pictures = [_picture(path, prior) for path in PICTURES]
    self._outputs: dict[Any, np.ndarray] = {}
    self._tried: dict[Any, Tried] = {}
    self._last: tuple[Any, Callable] | None = None  # a large network, compiled
    self.evaluated: Callable[[int], object] = lambda count: None  # called with how often a network has been evaluated

  def __call__(self, reading: Reading, places: Sequence[tuple[int, int]] = FEW) -> Tried:
    """Return how well a reading denoises."""
    key = (reading, tuple(places))
    if key not in self._tried:
      prior = read_as(self.prior, reading)
      prior = dataclasses.replace(prior, apply=functools.partial(self._apply, reading), clip=False)
      found = np.array([self._at(prior, *place) for place in places])
      mse, trivial = found.T
      mse = np.where(np.isfinite(mse), np.maximum(mse, 1e-12), np.inf)
      self._tried[key] = Tried(reading, mse / trivial, 10 * np.log10(4 / mse), 10 * np.log10(4 / trivial))
    return self._tried[key]

  @functools.cached_property
  def is_cheap(self) -> bool:
    """Whether evaluating a network takes so little that every reading may be tried."""
    pixels = min(self.prior.image_shape[0] or MOST, MOST) ** 2
    return pixels * sum(np.size(leaf) for leaf in jax.tree.leaves(self.prior.params)) <= CHEAP

  def readings(self) -> list[Reading]:
    """Return the readings that have been tried, each once."""
    return list(dict.fromkeys(reading for reading, _ in self._tried))

  def _apply(self, reading: Reading, params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    key = (reading.network, reading.reversed_channels, float(t), hashlib.sha256(np.asarray(x).data).digest())
    if key not in self._outputs:
      order = channel_order(x.shape[-1], reading.network.out_channels) if reading.reversed_channels else slice(None)
      x = x[..., ::-1] if reading.reversed_channels else x
      run = self._runnable(reading.network, params, x)
      self._outputs[key] = np.asarray(run(params, x, jnp.float32(t)))[..., order]
      self.evaluated(len(self._outputs))
    return jnp.asarray(self._outputs[key])

  def _runnable(self, network: Any, params: Any, x: jax.Array) -> Callable:
    if self.is_cheap:
      return _compiled(network)
    if self._last is None or self._last[0] != network:
      self._last = None
      _give_back()
      self._last = network, _function(network).lower(params, x, jnp.float32(0)).compile()
      _give_back()
    return self._last[1]

  def _at(self, prior: Prior, picture: int, place: int) -> tuple[float, float]:
    """Return the squared errors of the prior and of the trivial denoiser at a picture and a level."""
    x0 = self._pictures[picture]
    level = level_within(prior.schedule, jnp.float32(SBARS[place]))
    eps = np.random.default_rng(len(SBARS) * picture + place).standard_normal(x0.shape).astype(np.float32)
    noisy = x0 + float(level.sigma / level.alpha) * eps
    denoised = np.asarray(prior.denoise(level.alpha * noisy, level).x0)
    return float(np.mean((denoised - x0) ** 2)), _trivial(noisy, x0)


def is_better(one: Tried, other: Tried, clear: float = CLEAR) -> bool:
  """Tell whether a reading is clearly better than another: by far, or overall and not worse at any level.

  Args:
    one, other: tried at the same places.
    clear: ratio of errors below which it is, where it is nowhere worse.
  """
  nowhere_worse = bool(np.all(one.errors <= SLACK * other.errors))
  return one.error < (clear if nowhere_worse else FAR) * other.error


def denoises(tried: Tried) -> bool:
  """Tell whether a reading denoises one of the pictures, at ALL, or all of them together, at FEW."""
  if len(tried.errors) != len(ALL):
    return tried.error < WORKS
  pictures = np.array([picture for picture, _ in ALL])
  means = [np.exp(np.mean(np.log(tried.errors[pictures == one]))) for one in range(len(PICTURES))]
  return min(means) < WORKS


def read_as(prior: Prior, reading: Reading) -> Prior:
  """Return a prior read in one way; the order of the channels is that of its parameters, see `channel_order`."""
  schedule = of_unit_range(reading.schedule) if reading.unit_range else reading.schedule
  return dataclasses.replace(
    prior,
    schedule=schedule,
    prediction=reading.prediction,
    time_scale=reading.time_scale,
    unit_range=reading.unit_range,
  )


def channel_order(taken: int, given: int) -> list[int]:
  """Return the channels of an output from last to first, those of the mean and of a variance each by themselves."""
  return [start + taken - 1 - i for start in range(0, given, taken) for i in range(taken)]


def _give_back() -> None:
  """Give memory that is not used back to the system: compiling a large network leaves some 0.3 GB."""
  gc.collect()
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # of glibc
  if trim is not None:
    trim(0)


def _function(network: Any) -> Any:
  """Return the network as a function of (params, x_t, t), compiled when called; of class 0 if it has classes."""
  apply = description.network_of(network).apply_function(network)
  label = {} if getattr(network, "num_classes", None) is None else {"label": 0}
  # A network takes long to compile and is evaluated a few times.
  options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

  def run(params, x_t, t):
    return apply(params, x_t, t, **{name: jnp.int32(value) for name, value in label.items()})

  return jax.jit(run, compiler_options=options)


_compiled = functools.cache(_function)  # by network


def _trivial(noisy: np.ndarray, x0: np.ndarray) -> float:
  """Return the least squared error of a pixel, or the mean of 3x3 pixels, pulled toward the mean of the picture."""
  around = np.pad(noisy, ((1, 1), (1, 1), (0, 0)), mode="reflect")
  h, w, _ = noisy.shape
  mean = sum(around[i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
  found = []
  for some in (noisy, mean):
    centered, wanted = some - np.mean(some, axis=(0, 1)), x0 - np.mean(some, axis=(0, 1))
    factor = np.sum(centered * wanted) / np.sum(centered**2)
    found.append(float(np.mean((factor * centered - wanted) ** 2)))
  return min(found)


def _picture(path: Any, prior: Prior) -> np.ndarray:
  """Return a picture in the prior's size, or the middle of it, `[h, w, c]`, [-1, 1]."""
  *sizes, channels = prior.image_shape
  edge = max(MOST // prior.size_multiple, 1) * prior.size_multiple
  h, w = (edge if size is None else size for size in sizes)
  x = images.fit(images.read(path), (h, w), "resize")
  top, left = max(h - edge, 0) // 2, max(w - edge, 0) // 2
  x = x[top : top + edge, left : left + edge]
  return np.asarray(x if channels == x.shape[2] else np.mean(x, axis=2, keepdims=True), np.float32)
