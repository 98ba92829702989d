"""Chains that are running, kept as they go: where they stand, to go on from, and pictures of what they have so far.

OUTPUT.running holds meanwhile

  unfinished/chains.npz   where they stand, and digests of it and of what they are (`diffinv.archives`)
  unfinished/NAME.png     what the picture NAME would be if they ended now, the mean of its samples that are running

Both are renewed every EVERY seconds, less often where that would take more than their share of the time, and where the
work is stopped. What cannot be kept ends no chain. When the pictures have their rows, all of it is removed.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffinv import archives, batch, errors, progress
from diffinv.data import images
from diffinv.studies import runs
from diffinv.studies.chains import compile_clock

CHAINS = f"{runs.UNFINISHED}/chains.npz"
EVERY = 10.0  # seconds
STATES, PICTURES = 0.005, 0.015  # of the time of the chains, what each may take
# To compile the estimate of a chain: so much of the time of its steps (measured: 0.2 to 0.3), which may come from a
# cache, or so many seconds.
ESTIMATE, LEAST = 1 / 3, 3.0
MOST = 2**34  # bytes of a state


class Unfinished:
  """The chains of some pictures in the folder of a run; what `diffinv.studies.chains.restore` takes as `keep`."""

  def __init__(
    self,
    run: runs.RunFolder,
    names: Sequence[str],
    chains: int,
    samples: int,
    identity: Any,
    *,
    shown: Callable[[int, np.ndarray], np.ndarray] = lambda image, picture: picture,
  ):
    """Read where chains stood that were stopped; a line says that they go on, or why they do not.

    Args:
      run: whose folder is held.
      names: of the pictures, the first of those that the chains restore.
      chains: how many there are.
      samples: of each picture.
      identity: what the chains are, beside the plan of the run, as JSON has it: of others nothing is taken.
      shown: gives what is to be shown of the picture of a number.
    """
    self._run, self._names, self._chains, self._samples, self._shown = run, names, chains, samples, shown
    self._digest = hashlib.sha256(json.dumps([runs.plan_digest(run.plan), identity]).encode()).hexdigest()
    self._state, self._pictures = _Pace(STATES), _Pace(PICTURES)
    self._view: batch.View | None = None
    self._first: tuple[float, int] | None = None  # the seconds and the steps at the first block that was looked at
    self._began, self._compiled, self._warned = time.monotonic(), 0.0, False
    self.run_seconds = self.compile_seconds = 0.0
    self.standing: Mapping[str, np.ndarray] | None = self._read()

  def _read(self) -> dict[str, np.ndarray] | None:
    path = self._run.partial / CHAINS
    try:
      step, arrays, info = archives.read(path, most=MOST)
    except FileNotFoundError:
      return None
    except ValueError:
      progress.note(f"{path} is damaged; its chains begin anew")
      return None
    if info["digest"] != self._digest:
      progress.note(f"{path} is of chains that ran otherwise, or of other pictures; these begin anew")
      return None
    self.run_seconds, self.compile_seconds = info["run_seconds"], info["compile_seconds"]
    progress.note(f"going on with {_listed(self._names)} after step {step} of {info['steps']}")
    return arrays

  @property
  def seconds(self) -> float:
    """What keeping took, without what was compiled for it."""
    return self._state.seconds + self._pictures.seconds

  def look(self, view: batch.View, compiled: float) -> None:
    """Be told after every block of steps how the chains stand, and for how many seconds JAX has compiled."""
    self._view, self._compiled = view, compiled
    if self._first is None:
      self._first = (self._spent(), self._steps(view)[0]) if view.done else None
      return
    if self._state.is_due():
      self._keep(self._write_state)
    if self._pictures.is_due() and (self._pictures.seconds or self._is_worth(view)):
      self._keep(self._write_pictures)

  def _spent(self) -> float:
    """Return how long the chains have run, seconds, without compilation and what keeps them."""
    return time.monotonic() - self._began - self._compiled - self.seconds

  def _steps(self, view: batch.View) -> tuple[int, int]:
    """Return how many steps are done, and how many there are, of all chunks of chains, one after the other."""
    chunk = len(view.chains)
    return int(view.chains[0]) // chunk * view.total + view.done, -(-self._chains // chunk) * view.total

  def _is_worth(self, view: batch.View) -> bool:
    """Tell whether the chains take so long that it is no matter to compile their estimate."""
    seconds, first = self._first or (0.0, 0)
    done, total = self._steps(view)
    whole = (self._spent() - seconds) / max(done - first, 1) * total
    return max(ESTIMATE * self._compiled, LEAST) <= PICTURES * whole

  @contextlib.contextmanager
  def stopping(self) -> Iterator[None]:
    """Keep the chains as they are if the work within is stopped."""
    try:
      yield
    except KeyboardInterrupt:
      self._keep(self._write_state)
      self._keep(self._write_pictures)
      raise

  def _keep(self, write: Callable[[batch.View], None]) -> None:
    """Write something of what was seen last; say once if that cannot be."""
    try:
      if self._view is not None:
        write(self._view)
    except Exception as error:
      if errors.exit_code(error) is None:
        raise
      if not self._warned:
        progress.warn(f"what is unfinished cannot be kept: {errors.one_line(error)}")
      self._warned = True

  def _write_state(self, view: batch.View) -> None:
    done, total = self._steps(view)
    times = {
      "run_seconds": self.run_seconds + self._spent(),
      "compile_seconds": self.compile_seconds + self._compiled,
    }
    with self._state.taken():
      info = {"digest": self._digest, "steps": total, **times}
      archives.write(self._run.new(CHAINS), view.standing(), step=done, info=info)
    self._run.left = f"of {_listed(self._names)}, {done} of {total} steps are kept"

  def _write_pictures(self, view: batch.View) -> None:
    with self._pictures.taken():
      estimates = np.asarray(jax.device_get(view.estimate()))
      chains, places = np.unique(view.chains, return_index=True)  # the last may be repeated
      of_image = [estimates[places[chains // self._samples == image]] for image in range(len(self._names))]
      written = [self._write(image, own) for image, own in enumerate(of_image) if len(own) and np.all(np.isfinite(own))]
    if written:
      self._run.left += f"; {written[0] if len(written) == 1 else written[0].parent} shows what there is so far"

  def _write(self, image: int, samples: np.ndarray) -> Any:
    path = self._run.new(f"{runs.UNFINISHED}/{self._names[image]}.png")
    images.write(path, self._shown(image, np.mean(samples, axis=0)))
    return path


class _Pace:
  """When to do again what takes time: every EVERY seconds, or less often, so that it takes a share of the time."""

  def __init__(self, share: float):
    self._share, self._last, self._took = share, time.monotonic(), 0.0
    self.seconds = 0.0  # that it took in all, without compilation

  def is_due(self) -> bool:
    """Tell whether it is time."""
    return time.monotonic() - self._last >= max(EVERY, self._took / self._share)

  @contextlib.contextmanager
  def taken(self) -> Iterator[None]:
    """Time what is done within."""
    with compile_clock() as compiled:
      begin = time.monotonic()
      try:
        yield
      finally:
        self._last = time.monotonic()
        self._took = max(0.0, self._last - begin - compiled[0])
        self.seconds += self._took


def _listed(names: Sequence[str]) -> str:
  return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
