"""The folder of a run, OUTPUT.training: its plan, its log, its checkpoints and its grids of samples.

Everything that a run needs to go on is in it, but for the images and the prior of `init`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import orbax.checkpoint as ocp

from diffinv import errors, files, output
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.data import images, sheet
from diffinv.priors import folder as checkpoint
from diffinv.training.config import TrainConfig, renamed
from diffinv.training.data import Report
from diffinv.training.devices import Devices
from diffinv.training.step import TrainState

PLAN, LOG, GRIDS, STATE, BEST = "run.json", "log.jsonl", "samples", "last", "best"


def beside(prior: str | os.PathLike[str]) -> pathlib.Path:
  """Return OUTPUT.training, where the run lies that writes the prior to the folder `prior`."""
  return pathlib.Path(os.fspath(prior).rstrip("/") + ".training").resolve()


def check_place(config: TrainConfig, prior: str | os.PathLike[str], *, restart: bool) -> None:
  """Check that OUTPUT.training holds a run or nothing, and that no training image is in it or will be.

  Raises:
    UsageError: it lies in the folder of `data`, or that in it.
    FileExistsError: it holds something else, which `restart` would remove.
  """
  folder = beside(prior)
  if config.source not in held_out_data.SETS:
    _check_apart(config.source, pathlib.Path(prior).resolve(), folder)
  if not folder.is_dir():
    return
  ours = (PLAN, LOG, GRIDS, STATE, BEST, output.LOCK)
  others = [path.name for path in folder.iterdir() if path.name not in ours and not output.is_half_written(path)]
  begun = (folder / PLAN).is_file()
  others += [] if begun else [f"{GRIDS}/{path.name}" for path in (folder / GRIDS).glob("*")]
  if others and (restart or not begun):
    raise FileExistsError(
      f"`output`: expected {folder} to hold a run and nothing else, it holds {min(others)}; move that elsewhere, or "
      "choose another `output`"
    )


def _check_apart(given: str, prior: pathlib.Path, folder: pathlib.Path) -> None:
  data = pathlib.Path(given).resolve()
  if data == prior or prior in data.parents:
    raise errors.UsageError(
      f"`output`: expected a place apart from `data={given}`, which `overwrite` would remove; choose another"
    )
  if data == folder or folder in data.parents or data in folder.parents:
    raise errors.UsageError(
      f"`output`: expected a place apart from `data={given}`, as samples of the run go into {folder}; choose another "
      "`output`"
    )


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run was begun with and how long it is: `run.json`."""

  settings: dict[str, Any]  # what the weights depend on: options, the images and the devices
  total_steps: int | None = None  # None while not fixed
  validate_every: int | None = None  # steps; None while not fixed
  commit: str | None = None  # of the code that has a part in it
  init: dict[str, Any] | None = None  # the provenance of the weights that it begins with

  def fixed(self, total_steps: int | None, validate_every: int) -> Self:
    """Return it with the number of steps and, where that is known, how often to validate; 0: as said before."""
    usual = lambda total: total and max(100, total // 12)
    said = self.validate_every if self.validate_every != usual(self.total_steps) else None
    every = validate_every or said or usual(total_steps)
    return dataclasses.replace(self, total_steps=total_steps, validate_every=every)


def make_plan(
  config: TrainConfig, prior: str | os.PathLike[str], devices: Devices, *, restart: bool = False, report: Report = print
) -> Plan:
  """Return the plan of the run that OUTPUT.training holds, or that of a new one.

  Args:
    config: of the run, resolved.
    prior: the folder OUTPUT, to which the prior will be written.
    devices: to train on.
    restart: a new one, whatever is there.
    report: called as `print` is, with what is worth knowing.

  Raises:
    UsageError: OUTPUT.training holds a run of other settings.
  """
  settings, commit, file = config.settings(), code_commit(), beside(prior) / PLAN
  if config.source not in held_out_data.SETS:
    settings["files"] = folder_data.fingerprint(config.source)
  settings["devices"] = str(devices)
  init = None if config.init is None else checkpoint.load_provenance(config.init)
  plan = Plan(settings, commit=commit, init=init)
  if file.exists() and not restart:
    plan = _read(file, plan)
    _check_settings(plan.settings, settings, file.parent, report)
    if str(commit) not in str(plan.commit):
      plan = dataclasses.replace(plan, commit=f"{plan.commit}, {commit}")
  return plan.fixed(_total_steps(plan.total_steps, config, report), config.validate_every)


def _read(file: pathlib.Path, new: Plan) -> Plan:
  """Return the plan of a run; what it does not say is as in the plan `new`."""
  names = {field.name for field in dataclasses.fields(Plan)}
  found = {name: value for name, value in json.loads(file.read_text()).items() if name in names}
  plan = dataclasses.replace(new, **found)
  return dataclasses.replace(plan, settings=renamed(plan.settings))


def _check_settings(begun: dict[str, Any], now: dict[str, Any], folder: pathlib.Path, report: Report) -> None:
  begun = {"files": now.get("files"), **begun}  # where older runs do not say
  for name in sorted({*begun, *now}):
    if name == "devices" or begun.get(name) == now.get(name):
      continue
    if name == "files":
      raise errors.UsageError(
        f"`data`: the images in {now['data']} are not those with which the run in {folder} began; give it these "
        "again, or start again with `restart`"
      )
    raise errors.UsageError(
      f"`{name}`: expected {begun.get(name)!r}, with which the run in {folder} began, got {now.get(name)!r}; "
      "choose another `output` or start again with `restart`"
    )
  if begun["devices"] != now["devices"]:
    report(f"note: the run began on {begun['devices']}, goes on on {now['devices']}: the last digits may differ")


def _total_steps(planned: int | None, config: TrainConfig, report: Report) -> int | None:
  if planned is None:
    return config.steps
  if config.steps is None:
    report(
      f"note: the run goes on to the {planned} steps that were planned; `minutes` is of new runs, `steps` changes that"
    )
    return planned
  if config.steps != planned:
    report(f"note: the run was planned for {planned} steps, now {config.steps}: the decay differs from here on")
  return config.steps


def code_commit(file: str | os.PathLike[str] = __file__) -> str | None:
  """Return the commit of the code around `file`, `-dirty` where it has been changed since.

  None outside of its repository, such as in an environment within another one.
  """
  path = pathlib.Path(file)
  git = functools.partial(subprocess.run, cwd=path.parent, capture_output=True, text=True, check=True)
  try:
    git(["git", "ls-files", "--error-unmatch", path.name])
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return git(["git", "rev-parse", "HEAD"]).stdout.strip() + ("-dirty" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None


class RunFolder:
  """A run as it lies on disk: its plan, its log, its last state and its best weights."""

  def __init__(self, path: pathlib.Path, plan: Plan):
    """Open the folder, which is there; write the plan, of `make_plan`, at once: a stop may come at any time."""
    self.path, self.plan = path, plan
    self._write_plan()
    (path / GRIDS).mkdir(exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
    self._last = ocp.CheckpointManager(path / STATE, options=options)
    self._best = ocp.CheckpointManager(path / BEST, options=options)

  def _write_plan(self) -> None:
    files.write_json(self.path / PLAN, dataclasses.asdict(self.plan))

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
    """Tell whether a validation is due after `step` that the log does not have, as a stop came before it."""
    log = self.path / LOG
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return self.validates(step) and not any(e["step"] == step and "validation" in e for e in entries)

  def restore(self, state: TrainState) -> TrainState:
    """Return the last saved state, or `state` if there is none; forget log entries that came after it."""
    step = self._last.latest_step()
    if step is not None:
      restored: Any = self._last.restore(step, args=ocp.args.StandardRestore(state))
      state = restored
    log = self.path / LOG
    if log.exists():
      kept = [line for line in log.read_text().splitlines() if _step_of(line) <= int(state.step)]
      with files.file(log) as partial:
        partial.write_text("".join(line + "\n" for line in kept))
    return state

  def save(self, state: TrainState) -> None:
    """Save the state, in the background."""
    step = int(state.step)
    if step not in self._last.all_steps():
      self._last.save(step, args=ocp.args.StandardSave(state))

  @contextlib.contextmanager
  def saving(self, state: Callable[[], TrainState]) -> Iterator[None]:
    """Save the state when the work within is told to stop."""
    try:
      yield
    except KeyboardInterrupt:
      self.save(state())
      self.close()
      with errors.interruption(f"{int(state().step)} steps are saved; the same command goes on from there"):
        raise

  def best_loss(self) -> float:
    """Return the lowest validation loss so far, infinite if there is none."""
    info = self.best_info()
    return np.inf if info is None else info["loss"]

  def best_info(self) -> dict[str, Any] | None:
    """Return the measurements of the best weights, "step", "loss" and "psnr"; None if there are none."""
    step = self._best.latest_step()
    if step is None:
      return None
    return self._best.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))["info"]

  def save_best(self, step: int, ema: Any, info: dict[str, Any]) -> None:
    """Keep the weights of the lowest validation loss; wait until they are written."""
    for later in [k for k in self._best.all_steps() if k >= step]:
      self._best.delete(later)  # of a run that was stopped before its state was saved
    self._best.save(step, args=ocp.args.Composite(ema=ocp.args.StandardSave(ema), info=ocp.args.JsonSave(info)))
    self._best.wait_until_finished()

  def restore_best(self, ema: Any) -> Any:
    """Return the best weights; `ema` gives their structure."""
    step = self._best.latest_step()
    return self._best.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(ema)))["ema"]

  def log(self, entry: dict[str, Any]) -> None:
    """Append a line to the log."""
    with open(self.path / LOG, "a", encoding="utf-8") as file:
      file.write(json.dumps(files.plain(entry)) + "\n")

  def save_grid(self, step: int, pictures: np.ndarray) -> None:
    """Write samples, [n, h, w, c], [-1, 1], as one picture."""
    images.write_pillow(self.path / GRIDS / f"{step:08d}.png", sheet.grid(list(pictures)))

  def close(self) -> None:
    """Wait for what is being written."""
    self._last.close()
    self._best.close()


def _step_of(line: str) -> int:
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):  # a line that was cut off when the run was killed
    return sys.maxsize
