"""What a run was begun with and how long it is: `run.json`, which a run that goes on has to fit."""

import dataclasses
import functools
import os
import pathlib
import subprocess
from typing import Annotated, Any, NotRequired, Self, TypedDict

import msgspec

from diffinv import errors, reading
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.priors import folder as checkpoint
from diffinv.training.config import LATER, TrainConfig
from diffinv.training.data import Report
from diffinv.training.devices import Devices
from diffinv.training.pace import UNKNOWN_STEPS

PLAN = "run.json"
ADVICE = "start again with `restart`"


class Written(TypedDict):
  """The fields of `run.json`."""

  settings: dict[str, Any]
  total_steps: Annotated[int, msgspec.Meta(ge=1, lt=UNKNOWN_STEPS)] | None
  validate_every: Annotated[int, msgspec.Meta(ge=1)] | None
  commit: str | None
  init: NotRequired[dict[str, Any] | None]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run was begun with and how long it is."""

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
  config: TrainConfig,
  folder: pathlib.Path,
  devices: Devices,
  *,
  restart: bool = False,
  trained: bool = False,
  report: Report = print,
) -> Plan:
  """Return the plan of the run that a folder holds, or that of a new one.

  Args:
    config: of the run, resolved.
    folder: OUTPUT.training.
    devices: to train on.
    restart: a new one, whatever is there.
    trained: whether steps were taken in the run that is there, so that its plan cannot do without.
    report: called as `print` is, with what is worth knowing.

  Raises:
    UsageError: the folder holds a run of other settings.
    ValueError: its plan is damaged, and steps were taken by it.
  """
  settings, commit = config.settings(), code_commit()
  if config.source not in held_out_data.SETS:
    settings["files"] = folder_data.fingerprint(config.source)
  settings["devices"] = str(devices)
  init = None if config.init is None else checkpoint.load_provenance(config.init)
  new = Plan(settings, commit=commit, init=init)
  found = None if restart else _read(folder / PLAN, needed=trained)
  plan = found or new
  if found is not None:
    _check_settings({**LATER, **plan.settings}, settings, folder, report)
    if str(commit) not in str(plan.commit):
      plan = dataclasses.replace(plan, commit=f"{plan.commit}, {commit}")
  return plan.fixed(_total_steps(plan.total_steps, config, report), config.validate_every)


def _read(file: pathlib.Path, *, needed: bool) -> Plan | None:
  """Return the plan in a file; None for one that is missing or damaged and not needed."""
  try:
    if not os.path.lexists(file):
      raise ValueError(f"{file}: expected the plan of the run in this folder, found nothing; {ADVICE}")
    found = reading.read_json(file, Written, advice=ADVICE)
  except ValueError:
    if needed:
      raise
    return None
  return Plan(**{field.name: found.get(field.name) for field in dataclasses.fields(Plan)})


def _check_settings(begun: dict[str, Any], now: dict[str, Any], folder: pathlib.Path, report: Report) -> None:
  for name in sorted({*begun, *now}):
    if name == "devices" or begun.get(name) == now.get(name):
      continue
    if name == "files":
      raise errors.UsageError(
        f"`data`: the images in {now['data']} are not those with which the run in {folder} began; give it these "
        f"again, or {ADVICE}"
      )
    raise errors.UsageError(
      f"`{name}`: expected {begun.get(name)!r:.100}, with which the run in {folder} began, got "
      f"{now.get(name)!r:.100}; choose another `output` or {ADVICE}"
    )
  if begun.get("devices") != now["devices"]:
    report(
      f"note: the run began on {begun.get('devices')!s:.100}, goes on on {now['devices']}: the last digits may differ"
    )


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
