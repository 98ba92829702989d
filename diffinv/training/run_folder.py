"""The folder of a run, OUTPUT.training: its plan, its log, its states, its best weights and its grids of samples.

Everything that a run needs to go on is in it, but for the images and the prior of `init`.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from diffinv import errors, files, output, reading, stopping
from diffinv.data import held_out as held_out_data
from diffinv.data import images, sheet
from diffinv.priors import folder as checkpoint
from diffinv.training import plan as plans
from diffinv.training.config import TrainConfig
from diffinv.training.data import Report
from diffinv.training.devices import Devices
from diffinv.training.plan import PLAN, Plan
from diffinv.training.states import States
from diffinv.training.step import TrainState

KIND, SUFFIX = "training run", ".training"  # of the folder, and of its name
LOG, GRIDS, STATES, BEST = "log.jsonl", "samples", "states", "best"
GRID = re.compile(rf"{GRIDS}/(\d+)\.png")
KEPT = 2  # states: the older one is for the case that the newer one is damaged
MOST_LOG = 2**30  # bytes


class Entry(TypedDict):
  """What is read of a line of the log."""

  step: int
  validation: NotRequired[dict[str, Any]]


class Best(NamedTuple):
  """The weights of the lowest validation loss, and their measurements, "step", "loss" and "psnr"."""

  weights: Any
  info: dict[str, Any]


def beside(prior: str | os.PathLike[str]) -> output.Folder:
  """Return OUTPUT.training, where the run lies that writes the prior to the folder `prior`."""
  return output.Folder(prior, KIND, "train", suffix=SUFFIX)


def check_place(config: TrainConfig, prior: str | os.PathLike[str], *, restart: bool) -> None:
  """Check that OUTPUT.training holds a run or nothing, and that neither it nor OUTPUT has to do with what is read.

  Raises:
    UsageError: one of them is, contains or lies in the folder of `data` or the prior of `init`, or the person is in it.
    FileExistsError: it holds something else.
  """
  data = [] if config.source in held_out_data.SETS else [("data", config.source)]
  init = None if config.init is None else checkpoint.find_folder(config.init)
  output.check_apart(prior, [*data, *([] if init is None else [("init", init)])], suffix=SUFFIX)
  beside(prior).check(restart=restart)


def make_plan(
  config: TrainConfig, folder: output.Folder, devices: Devices, *, restart: bool = False, report: Report = print
) -> Plan:
  """Return the plan of the run in a folder that is held, or that of a new one; see `plan.make_plan`."""
  log = folder.place / LOG
  trained = bool(States(folder, STATES).steps()) or (log.is_file() and log.stat().st_size > 0)
  return plans.make_plan(config, folder.place, devices, restart=restart, trained=trained, report=report)


class RunFolder:
  """A run as it lies on disk."""

  def __init__(self, folder: output.Folder, plan: Plan, *, note: Callable[[str], None] = print):
    """Open the folder, which is held; write the plan, of `make_plan`, at once: a stop may come at any time.

    Args:
      folder: of the run.
      plan: of the run.
      note: called with a line about what is damaged.
    """
    self._folder, self.path, self.plan, self._note = folder, folder.place, plan, note
    self._states, self._best = States(folder, STATES), States(folder, BEST)
    self._best_info: dict[str, Any] | None = None
    self._write_plan()

  def _write_plan(self) -> None:
    files.write_json(self._folder.new(PLAN), dataclasses.asdict(self.plan))

  @property
  def total_steps(self) -> int | None:
    """Steps in all; None while not fixed."""
    return self.plan.total_steps

  def fix(self, total_steps: int, validate_every: int) -> None:
    """Fix the number of steps, for this process and any that goes on."""
    self.plan = self.plan.fixed(total_steps, validate_every)
    self._write_plan()

  def validates(self, step: int) -> bool:
    """Tell whether a validation is due after `step`."""
    total, every = self.plan.total_steps, self.plan.validate_every
    return total is not None and every is not None and step > 0 and (step >= total or step % every == 0)

  def owes_validation(self, step: int) -> bool:
    """Tell whether a validation is due after `step` that the log does not have."""
    if not self.validates(step):
      return False
    return not any(entry and entry["step"] == step and "validation" in entry for _, entry in self._lines())

  def draws(self, step: int, every: int) -> bool:
    """Tell whether a grid of samples is due after `step`, as after `every` steps and at the end."""
    total = self.plan.total_steps
    return total is not None and step > 0 and (step >= total or step % (every or max(1, total // 4)) == 0)

  def owes_grid(self, step: int, every: int) -> bool:
    """Tell whether a grid of samples is due after `step` that is not there."""
    return self.draws(step, every) and not self._grid(step).is_file()

  def _grid(self, step: int) -> pathlib.Path:
    return self.path / GRIDS / f"{step:08d}.png"

  def restore(self, state: TrainState) -> TrainState:
    """Return the last saved state, or `state` if there is none; forget what came after it.

    Raises:
      ValueError: there are states, none of which can be gone on from.
    """
    steps = self._states.steps()
    if steps:
      state = self._newest(state)
    self._forget_after(int(state.step))
    self.best(state.ema)
    return state

  def _newest(self, like: TrainState) -> TrainState:
    found, damaged = self._states.newest(like)
    if found is None:
      raise ValueError(
        f"{self._states.path}: expected a state to go on from, the {len(damaged)} there are damaged or of another "
        f"version; {plans.ADVICE}"
      )
    if damaged:
      self._note(f"note: the state of step {damaged[0]} is damaged; going on from step {found.step}")
    self._states.keep(*[step for step in self._states.steps() if step <= found.step][-KEPT:])
    state: TrainState = found.tree
    return state

  def _forget_after(self, step: int) -> None:
    """Leave lines of the log and grids of later steps out, and lines that are damaged."""
    files.drop_torn_line(self.path / LOG)
    lines = self._lines()
    kept = [line for line, entry in lines if entry is not None and entry["step"] <= step]
    if damaged := sum(entry is None for _, entry in lines):
      self._note(f"note: {damaged} of {len(lines)} lines of {self.path / LOG} are damaged, and left out")
    if len(kept) < len(lines):
      files.write_text(self._folder.new(LOG), "".join(line.decode() + "\n" for line in kept))
    for name in self._folder.manifest.names:
      grid = GRID.fullmatch(name)
      if grid and int(grid[1]) > step:
        (self.path / name).unlink(missing_ok=True)

  def _lines(self) -> list[tuple[bytes, Entry | None]]:
    """Return the lines of the log, and what they say; None where they are damaged."""
    try:
      lines = reading.read_bytes(self.path / LOG, most=MOST_LOG, advice=plans.ADVICE).splitlines()
    except FileNotFoundError:
      return []
    return [(line, _entry(line)) for line in lines]

  def save(self, state: TrainState) -> None:
    """Save the state, and remove older ones."""
    step = int(state.step)
    if step not in self._states.steps():
      self._states.save(step, state)
      self._states.keep(*self._states.steps()[-KEPT:])

  @contextlib.contextmanager
  def saving(self, state: Callable[[], TrainState]) -> Iterator[None]:
    """Save the state when the work within is told to stop."""
    try:
      yield
    except stopping.Stopped:
      self.save(state())
      step = int(state().step)
      saved = "1 step is saved" if step == 1 else f"{step} steps are saved"
      with errors.interruption(f"{saved}; the same command goes on from there"):
        raise

  def best_loss(self) -> float:
    """Return the lowest validation loss so far, infinite if there is none."""
    return math.inf if self._best_info is None else self._best_info["loss"]

  def save_best(self, step: int, ema: Any, info: dict[str, Any]) -> None:
    """Keep the weights of the lowest validation loss, with their measurements."""
    self._best.save(step, ema, info)
    self._best.keep(step)  # others are worse, or of a run that was stopped before its state was saved
    self._best_info = info

  def best(self, ema: Any) -> Best | None:
    """Return the best weights and their measurements, None if there are none; forget those that are damaged.

    Args:
      ema: weights of the same structure.
    """
    found, damaged = self._best.newest(ema)
    if damaged:
      self._note(f"note: the best weights, of step {damaged[0]}, are damaged; a validation decides anew")
    self._best.keep(*([] if found is None else [found.step]))
    self._best_info = None if found is None else found.info
    return None if found is None else Best(found.tree, found.info)

  def log(self, entry: dict[str, Any]) -> None:
    """Append a line to the log."""
    files.append(self._folder.new(LOG), json.dumps(files.plain(entry)) + "\n")

  def save_grid(self, step: int, pictures: np.ndarray) -> None:
    """Write samples, [n, h, w, c], [-1, 1], as one picture."""
    name = self._grid(step).relative_to(self.path).as_posix()
    images.write_pillow(self._folder.new(name), sheet.grid(list(pictures)))


class Followed(RunFolder):
  """A run as other processes than the first of a launch see it: they go on from its state, and write nothing."""

  def _write_plan(self) -> None:
    pass

  def restore(self, state: TrainState) -> TrainState:
    """Return the last saved state, or `state` if there is none; the first process has looked at them."""
    return self._newest(state) if self._states.steps() else state

  def _newest(self, like: TrainState) -> TrainState:
    found: TrainState = self._states.newest(like)[0].tree  # type: ignore[union-attr]  # the first process found one
    return found

  def owes_validation(self, step: int) -> bool:
    """Leave it to the first process."""
    return False

  def owes_grid(self, step: int, every: int) -> bool:
    """Leave it to the first process."""
    return False

  def save(self, state: TrainState) -> None:
    """Leave it to the first process."""

  def log(self, entry: dict[str, Any]) -> None:
    """Leave it to the first process."""


def _entry(line: bytes) -> Entry | None:
  try:
    entry: Entry = reading.parse_json(line, Entry, LOG, plans.ADVICE)
  except ValueError:  # cut off when the run was killed, or damaged
    return None
  return entry
