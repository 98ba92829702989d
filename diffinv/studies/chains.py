"""A comparison's chains: measurements in, pictures, chains, times and marks out.

Every method gets the same measurement of an image and the same keys. What restores sees problems only; the truth comes
in afterward, in `marks`.
"""

import contextlib
import time
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import batch
from diffinv.antithetic import halves
from diffinv.data import images
from diffinv.methods.base import Method
from diffinv.metrics import image as metrics
from diffinv.metrics import uncertainty
from diffinv.metrics.perceptual import LPIPS
from diffinv.priors import AnyPrior
from diffinv.problems import Problem, stack
from diffinv.schedules import Level

COMPILE_EVENTS = "/jax/core/compile/"
SSIM_PIXELS = 2 * metrics.SSIM_RADIUS + 1  # smaller images have no SSIM
MAX_LEVELS = 9  # nominal coverages in a row, at most


class Restored(NamedTuple):
  """What a batch of chains gave."""

  images: list[np.ndarray]  # one per problem, [samples, h, w, c]; see `failure`
  compile_seconds: float
  run_seconds: float  # without compilation, and without what `frames` cost
  frames: list[np.ndarray]  # one per problem, [frames, h, w, c]: the clean image along the first sample's chain
  step_bytes: int | None  # memory of the compiled steps


def chunks(count: int, samples: int, batch_size: int) -> list[range]:
  """Cut `count` images into runs of as many as `batch_size` chains allow, at least one."""
  size = max(1, batch_size // samples)
  return [range(first, min(first + size, count)) for first in range(0, count, size)]


def filled(part: Sequence[int], size: int) -> list[int]:
  """Return the numbers of a part with the last one repeated up to `size`: parts of one size compile once."""
  return [*part, *[part[-1]] * (size - len(part))]


def restore(
  keys: Sequence[jax.Array],
  method: Method,
  prior: AnyPrior,
  problems: Sequence[Problem] | None,
  grid: Level,
  *,
  chunk: int,
  mesh: jax.sharding.Mesh | None,
  progress: Callable[[int, int], None],
  frames: int = 0,
) -> Restored:
  """Run chains of pictures of one size; time them apart from their compilation.

  Args:
    keys: of each picture's chains, `[samples]`.
    method, prior, problems, grid, chunk, mesh, progress: as in `sample_batch`.
    frames: how many pictures to take of the first chain of each image, evenly over the steps; 0 for none, else at least
      2, its start and its end.

  Raises:
    ValueError: `frames` is 1.
  """
  if frames == 1:
    raise ValueError("frames: expected 0, or at least 2 for the start and the end of a chain, got 1; ask for 2")
  stacked = None if problems is None else stack(problems)
  camera = _Camera(len(keys), len(keys[0]), frames)
  with compile_clock() as clock:
    begin = time.perf_counter()
    got, _ = batch.sample_batch(
      jnp.stack(keys), method, prior, stacked, grid, chunk=chunk, mesh=mesh, progress=progress, watch=camera.look
    )
    elapsed = time.perf_counter() - begin
  seconds = max(0.0, elapsed - clock[0] - camera.seconds)
  return Restored(list(got), min(clock[0], elapsed), seconds, camera.films(), camera.step_bytes)


DIVERGED = 100.0  # of pictures on [-1, 1]: no restoration, however bad


def failure(samples: np.ndarray) -> str | None:
  """Say how many chains of one image, `[samples, h, w, c]`, left the numbers that are pictures; None where none did."""
  unbounded = int(np.sum(~np.all(np.abs(samples) < DIVERGED, axis=(1, 2, 3))))  # of NaN, too
  lost = int(np.sum(~np.all(np.isfinite(samples), axis=(1, 2, 3))))
  what = "NaN or infinity" if lost else f"values beyond {DIVERGED:g}"
  count = lost or unbounded
  return f"{what} in {count} of {len(samples)} chains; its steps are too large, lower them" if count else None


def require_finite(name: str, images: Sequence[np.ndarray]) -> None:
  """Check the pictures of a method, `[samples, h, w, c]` each.

  Raises:
    ValueError: a chain left the finite numbers.
  """
  for samples in images:
    if reason := failure(samples):
      raise ValueError(f"{name}: expected finite pictures, got {reason}")


class _Camera:
  """Take pictures of the first chain of each image; count the time that takes apart."""

  def __init__(self, images: int, samples: int, frames: int):
    self._films: list[list[np.ndarray]] = [[] for _ in range(images)]
    self._samples, self._frames = samples, frames
    self.seconds, self.step_bytes = 0.0, None

  def look(self, view: batch.View) -> None:
    with compile_clock() as clock:
      begin = time.perf_counter()
      if self.step_bytes is None and view.done:
        self.step_bytes = view.step_bytes()
      self._take(view)
      elapsed = time.perf_counter() - begin
    self.seconds += max(0.0, elapsed - clock[0])

  def _take(self, view):
    places = {int(chain) // self._samples: i for i, chain in enumerate(view.chains) if chain % self._samples == 0}
    places = {image: place for image, place in places.items() if len(self._films[image]) < self._frames}
    # The first frame is the start, the last one the end, whatever the number of blocks between.
    due = {i: p for i, p in places.items() if view.done >= self._due(len(self._films[i])) * view.total}
    if due:
      pictures = jax.device_get(view.estimate())
      for image, place in due.items():
        self._films[image].append(pictures[place])

  def _due(self, taken):
    return taken / (self._frames - 1)

  def films(self) -> list[np.ndarray]:
    return [np.stack(film) for film in self._films if film]


@contextlib.contextmanager
def compile_clock() -> Iterator[list[float]]:
  """Sum up the seconds that JAX traces and compiles, in the one element of the list."""
  clock = [0.0]

  def listen(event: str, seconds: float, **_) -> None:
    clock[0] += seconds if event.startswith(COMPILE_EVENTS) else 0.0

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield clock
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def scores(problem: Problem, pictures: np.ndarray, truth: np.ndarray | None) -> list[dict[str, float]]:
  """Return PSNR and SSIM against the truth (where known) and the residual's norm and chi-square, per picture.

  `pictures`: `[n, h, w, c]`. PSNR and SSIM are of the pictures as files hold them, clipped to [-1, 1].
  """
  table = jax.device_get(_scores(problem, jnp.asarray(pictures), None if truth is None else jnp.asarray(truth)))
  clipped = [images.clipped_fraction(picture) for picture in pictures]
  return [
    {**{name: float(column[i]) for name, column in table.items()}, "clipped_fraction": clipped[i]}
    for i in range(len(pictures))
  ]


@jax.jit
def _scores(problem, pictures, truth):
  def one(x):
    entry = {"residual_norm": jnp.sqrt(jnp.sum(problem.residual(x) ** 2)), "chi2": problem.chi2(x)}
    if truth is not None:
      unit, reference = metrics.to_unit(x), metrics.to_unit(truth)
      entry["psnr"] = metrics.psnr(unit, reference)
      if min(x.shape[:2]) >= SSIM_PIXELS:
        entry["ssim"] = metrics.ssim(unit, reference)
    return entry

  return jax.vmap(one)(pictures)


def spread(pictures: np.ndarray, *, antithetic: bool = False) -> np.ndarray | None:
  """Return the standard deviation of samples `[samples, h, w, c]`, `[h, w, c]`; None where none are independent.

  `antithetic`: the samples are of `antithetic.pairs`; the variance is the mean over both halves.
  """
  sets = _independent(jnp.asarray(pictures), antithetic)
  if sets is None:
    return None
  return np.asarray(jnp.sqrt(jnp.mean(jax.vmap(uncertainty.posterior_std)(sets) ** 2, axis=0)))


def _independent(samples, antithetic):
  """Return sets of independent samples, `[sets, n, ...]`; None where n would be 1."""
  sets = halves(samples) if antithetic else samples[None]
  return sets if sets.shape[1] > 1 else None


def marks(
  problem: Problem,
  pictures: np.ndarray,
  truth: np.ndarray,
  lpips: LPIPS | None = None,
  *,
  antithetic: bool = False,
) -> dict[str, Any]:
  """Return the marks of one image's samples `[samples, h, w, c]`: a list per mark, and what several samples tell.

  LPIPS where it is given, of the pictures clipped to [-1, 1].

  With several: PSNR and SSIM of their mean picture, and of the sample of the smallest residual, which is chosen without
  the truth; the fair CRPS (mean over values, on [-1, 1]); and the part of the truth's values within central credible
  intervals of given nominal coverage. The last two need independent samples: of `antithetic` pairs they are the means
  over both halves, from four samples on.
  """
  single, samples, reference = scores(problem, pictures, truth), jnp.asarray(pictures), jnp.asarray(truth)
  entry: dict[str, Any] = {name: [mark[name] for mark in single] for name in single[0]}
  if lpips is not None:
    entry["lpips"] = [float(value) for value in _distances(lpips, samples, reference)]
  if len(pictures) == 1:
    return entry
  mean = scores(problem, np.asarray(uncertainty.posterior_mean(samples))[None], truth)[0]
  best = single[int(np.argmin(entry["residual_norm"]))]
  for name in ("psnr", "ssim"):
    entry |= {f"{which}_{name}": mark[name] for which, mark in (("mean", mean), ("best", best)) if name in mark}
  sets = _independent(samples, antithetic)
  if sets is None:
    return entry
  entry["crps"] = float(jnp.mean(jax.vmap(lambda one: uncertainty.crps(one, reference))(sets)))
  levels = uncertainty.central_levels(sets.shape[1])
  levels = levels[:: -(-len(levels) // MAX_LEVELS)]
  covered = jnp.mean(jax.vmap(lambda one: uncertainty.coverage(one, reference, levels))(sets), axis=0)
  return entry | {"coverage": {"levels": list(levels), "empirical": [float(part) for part in covered]}}


@jax.jit
def _distances(lpips, pictures, truth):
  return jax.vmap(lambda x: lpips(jnp.clip(x, -1.0, 1.0), truth))(pictures)
