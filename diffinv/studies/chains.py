"""Chains of a study: measurements in, pictures, frames of the chains and times out.

Every method gets the same measurement of an image and the same keys. What restores sees problems only.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import batch
from diffinv.baselines import Baseline
from diffinv.methods.base import Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem, stack
from diffinv.schedules import Level

COMPILE_EVENTS = "/jax/core/compile/"


class Restored(NamedTuple):
  """What a batch of chains gave."""

  images: list[np.ndarray]  # one per problem, [samples, h, w, c]; see `failure`
  compile_seconds: float
  run_seconds: float  # without compilation, and without what `frames` cost
  frames: list[np.ndarray]  # one per problem, [frames, h, w, c]: the clean image along the first sample's chain
  step_bytes: int | None  # memory of the compiled steps

  def spent(self, count: int) -> dict[str, float]:
    """Return the seconds of a picture as a row has them; `count` of the pictures are no filling."""
    return {"run_seconds": self.run_seconds / len(self.images), "compile_seconds": self.compile_seconds / count}


class Keep(Protocol):
  """Keeps chains as they run, so that a stop loses nothing; see `diffinv.studies.unfinished`."""

  run_seconds: float  # of the chains before they were stopped
  compile_seconds: float

  @property
  def standing(self) -> Mapping[str, np.ndarray] | None:
    """Where to go on from, see `sample_batch`."""

  @property
  def seconds(self) -> float:
    """What keeping took, without what was compiled for it."""

  def look(self, view: batch.View, compiled: float) -> None:
    """Be told after every block of steps how the chains stand, and for how many seconds JAX has compiled."""

  def stopping(self) -> contextlib.AbstractContextManager[None]:
    """Keep the chains as they are if the work within is stopped."""


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Return the seconds of all pictures, from their rows."""
  return {name: sum(row[name] for row in rows) for name in ("compile_seconds", "run_seconds")}


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
  keep: Keep | None = None,
) -> Restored:
  """Run chains of pictures of one size; time them apart from their compilation.

  Args:
    keys: of each picture's chains, `[samples]`.
    method, prior, problems, grid, chunk, mesh, progress: as in `sample_batch`.
    frames: how many pictures to take of the first chain of each image, evenly over the steps; 0 for none, else at least
      2, its start and its end.
    keep: keeps the chains, and knows where they go on.

  Raises:
    ValueError: `frames` is 1.
  """
  if frames == 1:
    raise ValueError("frames: expected 0, or at least 2 for the start and the end of a chain, got 1; ask for 2")
  stacked = None if problems is None else stack(problems)
  camera = _Camera(len(keys), len(keys[0]), frames)
  with compile_clock() as clock:
    begin = time.perf_counter()
    watch, report = (camera.look, progress) if keep is None else _keeping(keep, camera.look, progress, clock)
    got, _ = batch.sample_batch(
      jnp.stack(keys),
      method,
      prior,
      stacked,
      grid,
      chunk=chunk,
      mesh=mesh,
      progress=report,
      watch=watch,
      resume=None if keep is None else keep.standing,
    )
    elapsed = time.perf_counter() - begin
  compiling, other = min(clock[0], elapsed), camera.seconds
  if keep is not None:
    compiling, other = compiling + keep.compile_seconds, other + keep.seconds - keep.run_seconds
  return Restored(list(got), compiling, max(0.0, elapsed - clock[0] - other), camera.films(), camera.step_bytes)


def _keeping(
  keep: Keep, watch: batch.Watch, progress: batch.Progress, clock: Sequence[float]
) -> tuple[batch.Watch, batch.Progress]:
  """Return `watch` and `progress` with what keeps the chains in between."""

  def look(view: batch.View) -> None:
    watch(view)
    keep.look(view, clock[0])

  def report(done: int, total: int) -> None:
    with keep.stopping():
      progress(done, total)

  return look, report


def restore_once(baseline: Baseline, problems: Sequence[Problem], progress: Callable[[int, int], None]) -> Restored:
  """Restore pictures without a network, one after the other, on the host: one sample each, no frames."""
  images, compiling, seconds = [], 0.0, 0.0
  for number, problem in enumerate(problems, 1):
    with compile_clock() as clock:
      begin = time.perf_counter()
      images.append(baseline(problem)[None])
      elapsed = time.perf_counter() - begin
    compiling += min(clock[0], elapsed)
    seconds += max(0.0, elapsed - clock[0])
    progress(number, len(problems))
  return Restored(images, compiling, seconds, [], None)


class _Camera:
  """Take pictures of the first chain of each image; count the time that takes apart."""

  def __init__(self, images: int, samples: int, frames: int):
    self._films: list[list[np.ndarray]] = [[] for _ in range(images)]
    self._samples, self._frames = samples, frames
    self.seconds = 0.0
    self.step_bytes: int | None = None

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

  def listen(event: str, duration_secs: float, **_) -> None:
    clock[0] += duration_secs if event.startswith(COMPILE_EVENTS) else 0.0

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield clock
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
