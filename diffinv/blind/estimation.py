"""Estimate a blur from one picture: where to look by its spectrum, then what predicts it best with the prior too.

First each family's grid of kernels is ranked by the picture's spectrum (`diffinv.blind.spectrum`), which leaves some to
begin from. Of those, and at the end of the families, that is taken which predicts the picture best
(`diffinv.blind.prediction`), with DPIR as the restoration of a window of the picture. A kernel of any form
(`diffinv.blind.free`) is held against the families' in the same way, at the end at several s, as one s alone can
prefer a point to the path of a camera. In between, the numbers descend, one at a time, on the sum

  -log p(y | k) of the spectrum + 1/2 sum (y - E[y | v])^2 / s^2

The noise z stays the same, so that it is a smooth function of the numbers. It is no likelihood: each term alone is
least near the truth, the first with an error that depends on how usual the spectrum of the picture is, the second more
surely, but, DPIR not being E[x | v], at Gaussians that are a tenth too narrow. The spectrum has no say among families:
stripes of a picture look like the zeros of a motion, and free kernels imitate the picture's spectrum.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import sampler, schedules, stopping
from diffinv.blind import free, prediction, spectrum
from diffinv.methods.dpir import DPIR
from diffinv.noise import Gaussian
from diffinv.operators.blur import CircularBlur
from diffinv.operators.kernels import AUTO, FAMILIES, FREE, FreeKernel, kernel_size, numbers
from diffinv.priors import PicturePrior
from diffinv.problems import Problem

# The best picture in few evaluations; each error takes one restoration. With less noise a blur passes for softness; but
# with as much, among families, a disk passes for a Gaussian, and any free kernel, being rough, for a wrong one.
METHOD, STEPS = DPIR(noise=0.95), 12
FAMILY_METHOD, FREE_METHOD = DPIR(noise=0.9), DPIR(noise=0.8)  # where families are compared, and with a free kernel
FIRST_ADDED = 4.0  # s over sigma where starts are compared: what edges do to fine details is beneath the noise
ADDED = 2.0  # in the descent: the numbers of a blur show in details
COMPARED = (2.0, 4.0, 8.0, 16.0)  # where families are compared, an octave of s apart: more of the integral
WINDOW = 160  # pixels along an edge, of what is restored
MARGIN = 24  # pixels at the window's edges, where the blur is not circular
LARGEST_SIZE = 41  # of a kernel, pixels
LEAST_EDGE = 32  # pixels of a picture
STARTS = 48  # of the descent, at most: of motions, about two of each angle
FREEDOM = 50.0  # nats by which a free kernel, which fits the noise too, has to predict better than a family's
ROUNDS = 2  # of the descent, each with half the steps of the one before


class Number(NamedTuple):
  """How a kernel's number is searched for."""

  low: float
  high: float
  spacing: float  # of the grid; of the logarithm if `logarithmic`
  step: float  # of the descent, in the same unit
  logarithmic: bool = True

  def moved(self, value: float, step: float) -> float:
    """Return the number a step further, within its bounds if it has an end."""
    return float(np.clip(value * np.exp(step), self.low, self.high)) if self.logarithmic else value + step

  def grid(self) -> np.ndarray:
    """Return the numbers to begin from."""
    if self.logarithmic:
      return np.exp(np.arange(np.log(self.low), np.log(self.high), self.spacing))
    return np.arange(self.low, self.high, self.spacing)


SEARCHED = {
  "gaussian": {"std": Number(0.4, 5.0, 0.06, 0.12)},
  "disk": {"radius": Number(0.6, 10.0, 0.05, 0.06)},
  "motion": {"length": Number(2.0, 30.0, 0.1, 0.08), "angle": Number(0.0, 180.0, 7.5, 4.0, logarithmic=False)},
}


class Tried(NamedTuple):
  """A blur that was tried. Misfits compare blurs at one s alone."""

  kernel: Any  # of FAMILIES, its numbers Python's; or a free one
  added: float  # s over sigma
  spectral: float  # -log p(y | k) of the spectrum, up to a constant
  predicted: float  # 1/2 sum (y - E[y | v])^2 / s^2 over the window's interior

  @property
  def misfit(self) -> float:
    """The sum of both, in nats."""
    return self.spectral + self.predicted


class Estimate(NamedTuple):
  """The blur of a picture."""

  taps: np.ndarray  # [k, k], of sum 1
  kernel: Any  # of FAMILIES, its numbers Python's; or a free one
  trace: tuple[Tried, ...]  # in the order of the search

  @property
  def numbers(self) -> dict[str, float]:
    """The kernel's numbers by name, pixels and degrees; none of a free one."""
    return numbers(self.kernel)


def estimate_blur(prior: PicturePrior, y: Any, sigma: float, family: str, key: jax.Array) -> Estimate:
  """Estimate the blur of a picture y = k * x + n.

  Args:
    prior: of x.
    y: the blurred picture, `[h, w, c]`, [-1, 1], each edge at least 32 pixels.
    sigma: of its white noise, on [-1, 1], > 0.
    family: of FAMILIES, "free" for a kernel of any form, or "auto" for that of these which predicts y best.
    key: of the noise that is added.

  Raises:
    ValueError: there is no such family, or not with this prior; y is no picture or too small; or there is no noise.
  """
  families = _families(prior, family)
  y = jnp.asarray(y, float)
  if y.ndim != 3 or min(y.shape[:2]) < LEAST_EDGE:
    raise ValueError(f"y: expected a picture [h, w, c] of at least {LEAST_EDGE} pixels an edge, got {y.shape}")
  if not sigma > 0:
    raise ValueError(
      f"sigma: expected noise above 0, got {sigma}; without any, give what rounding to 8 bits has, 0.002"
    )
  seen = window(prior, y)
  z, trace, found = jax.random.normal(key, seen.shape), [], []
  padded = prediction.tapered(seen, MARGIN)
  grid = schedules.as_arrays(prior.schedule.grid(str(STEPS)))
  power, variance = _spectrum(y, sigma)

  def tried(kernel, added=ADDED, method=METHOD):
    stopping.check()
    taps, std = kernel.taps(LARGEST_SIZE), jnp.asarray(sigma, float)
    spectral = spectrum.misfits(power, variance, taps[None], width=y.shape[1])[0]
    predicted = _error(prior, method, padded, std, added * std, taps, z, grid)
    trace.append(Tried(kernel, added, float(spectral), float(predicted)))
    return trace[-1]

  for name in families:
    if name == FREE:
      found.append(FreeKernel(jnp.asarray(free.estimate(prior, seen, sigma, key))))
    else:
      start = min(screened(y, sigma, name), key=lambda kernel: tried(kernel, FIRST_ADDED).predicted)
      found.append(descend(tried, start).kernel)
  best = _likeliest(tried, found)
  return Estimate(np.asarray(best.taps(kernel_size(best))), best, tuple(trace))


def _likeliest(tried: Callable[..., Tried], kernels: Sequence[Any]) -> Any:
  """Return the kernel of most evidence: of the families', and then of that one and a free one."""
  if len(kernels) == 1:
    return kernels[0]
  by = lambda method: lambda kernel: _evidence(tried, kernel, method)
  best = min((kernel for kernel in kernels if kernel.family != FREE), key=by(FAMILY_METHOD))
  rivals = [kernel for kernel in kernels if kernel.family == FREE]
  return min((best, *rivals), key=by(FREE_METHOD)) if rivals else best


def _evidence(tried: Callable[..., Tried], kernel: Any, method: DPIR) -> float:
  """Return -log p(y | k) from the errors of prediction at several s, up to a constant, in nats."""
  octave = 2.0 * np.log(2.0)  # of snr = 1 / s^2, over snr
  freedom = FREEDOM if kernel.family == FREE else 0.0
  return octave * sum(tried(kernel, added, method).predicted for added in COMPARED) + freedom


def _families(prior: PicturePrior, family: str) -> Sequence[str]:
  names = (*FAMILIES, FREE) if prior.image_shape[0] is None else tuple(FAMILIES)  # a free one takes several sizes
  if family not in (AUTO, *names):
    raise ValueError(f"family: expected one of {', '.join((AUTO, *names))}, got {family!r}")
  return names if family == AUTO else (family,)


@jax.jit
def _error(prior, method, y, sigma, s, taps, z, grid):
  def restore(operator, std, v):
    return sampler.sample(jax.random.key(0), method, prior, Problem(operator, Gaussian(std), v), grid)[0]

  each = prediction.prediction_error(restore, CircularBlur(y.shape, taps), y, sigma, s, z)
  return 0.5 * jnp.sum(prediction.interior(y.shape, MARGIN) * each) / s**2


def screened(y: jax.Array, sigma: float, family: str) -> list[Any]:
  """Return the kernels of a family's grid to begin from, those that explain the spectrum of y best first.

  Of each angle of a motion, and of the other families, they are the local minima along the width of the blur: a
  picture's own stripes look like the zeros of a motion, so that the least misfit may be far from the truth.
  """
  build, searched = FAMILIES[family], SEARCHED[family]
  grids = [number.grid() for number in searched.values()]
  places = np.stack([np.ravel(place) for place in np.meshgrid(*grids, indexing="ij")], axis=1)
  taps = jax.lax.map(lambda row: build(*row).taps(LARGEST_SIZE), jnp.asarray(places, float))
  misfits = np.asarray(spectrum.misfits(*_spectrum(y, sigma), taps, width=y.shape[1]))
  beside = np.pad(misfits.reshape(len(grids[0]), -1), ((1, 1), (0, 0)), constant_values=np.inf)
  lowest = np.ravel((beside[1:-1] <= beside[:-2]) & (beside[1:-1] <= beside[2:]))
  order = [i for i in np.argsort(misfits) if lowest[i]][:STARTS]
  return [build(*map(float, places[i])) for i in order]


def _spectrum(y, sigma):
  return spectrum.periodogram(y), jnp.asarray(sigma**2 / y.shape[2], float)  # of the mean over channels


def descend(tried: Callable[[Any], Tried], kernel: Any) -> Tried:
  """Return the kernel of least misfit near one: one number at a time, then with half the steps."""
  searched, known = SEARCHED[kernel.family], {}

  def at(values):
    if values not in known:
      known[values] = tried(type(kernel)(*values))
    return known[values].misfit

  best = tuple(numbers(kernel).values())
  for turn in range(ROUNDS):
    for i, number in enumerate(searched.values()):
      moved = lambda step, i=i, number=number: (*best[:i], number.moved(best[i], step), *best[i + 1 :])
      best = moved(_least(lambda step: at(moved(step)), number.step / 2**turn))
  at(best)
  return min(known.values(), key=lambda one: one.misfit)


def _least(error: Callable[[float], float], step: float) -> float:
  """Return where an error that has one least value near 0 is least: the vertex of a parabola around the best step."""
  far = max(int(np.ceil(1.5 / step)), 1)
  place = 0
  for way in (1, -1):
    while abs(place) < far and error((place + way) * step) < error(place * step):
      place += way
  low, middle, high = (error((place + i) * step) for i in (-1, 0, 1))
  curvature = low - 2.0 * middle + high
  return step * (place + (0.5 * (low - high) / curvature if curvature > 0 else 0.0))


def window(prior: PicturePrior, y: jax.Array) -> jax.Array:
  """Return the part of y with most detail that the prior takes, at most WINDOW pixels along an edge if it takes any."""
  if prior.image_shape[0] is not None:
    return y
  multiple = prior.size_multiple
  height, width = (max(min(n, WINDOW) // multiple, 1) * multiple for n in y.shape[:2])
  detail = np.pad(np.sum(np.asarray(_slopes(y)), axis=2).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  total = detail[height:, width:] - detail[:-height, width:] - detail[height:, :-width] + detail[:-height, :-width]
  top, left = np.unravel_index(np.argmax(total), total.shape)
  return y[top : top + height, left : left + width]


def _slopes(y):
  down, across = (jnp.diff(y, axis=i, append=jnp.take(y, jnp.array([-1]), axis=i)) for i in (0, 1))
  return down**2 + across**2
