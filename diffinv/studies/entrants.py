"""The methods that take part in a study: their hyper-parameters, levels and costs, from settings or as objects."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import errors, methods, progress
from diffinv.baselines import Baseline
from diffinv.methods import METHODS, make_method
from diffinv.methods.averaged import Averaged
from diffinv.methods.base import Cost, Method
from diffinv.operators import Operator
from diffinv.priors import AnyPrior
from diffinv.priors.folder import ANALYTIC, is_shipped, load_provenance
from diffinv.schedules import Level, Schedule, as_arrays
from diffinv.studies import identity, measurement, presets, settings, summary
from diffinv.studies.presets import Preset
from diffinv.studies.study import Comparing, Measuring, named_methods, named_tasks, overrides

NO_STEPS = Level(np.zeros(1), np.ones(1), np.zeros(1))  # the clean image alone


class Entrant(NamedTuple):
  """One method on one task."""

  task: str
  name: str  # of the method, in rows and files
  method: Method | Baseline
  spacing: str  # of the grid, as `steps` has it; "" without a network
  grid: Level  # NO_STEPS without a network
  spent: Cost
  excuse: str | None  # why it cannot solve the task; None where it can
  preset: bool = False  # whether the settings of the prior chose the method

  def describe(self) -> dict[str, Any]:
    """Return what identifies a run, and its cost per sample."""
    return {
      "task": self.task,
      "method": self.name,
      **self._choice(),
      "spacing": self.spacing,
      "steps": len(self.grid.alpha) - 1,
      "evaluations": self.spent.evaluations,
      "gradients": self.spent.gradients,
      "skipped": self.excuse,
      **({"samples": 1} if self.deterministic else {}),
      **({"network": False} if isinstance(self.method, Baseline) else {}),
    }

  def _choice(self) -> dict[str, Any]:
    found = describe_method(self.method)
    averaged = {"averaged": found["averaged"]} if "averaged" in found else {}
    return {"fields": found["fields"], **({"chosen": found["name"]} if self.preset else {}), **averaged}

  @property
  def deterministic(self) -> bool:
    """Whether all samples would be the same picture, so that there is one."""
    return getattr(self.method, "deterministic", False)

  @property
  def from_settings(self) -> bool:
    """Whether the hyper-parameters are those of the settings, and not an object's."""
    return self.excuse is None and not self.preset and METHODS.get(self.name) is type(self.method)

  @property
  def weight(self) -> float:
    """The time of a chain in network evaluations, see `summary.weight`; that of a restoration without them as one."""
    return weight(self.spent) or 1.0


def enter(config: Comparing, prior: AnyPrior, operators: Mapping[str, Operator]) -> list[Entrant]:
  """Build every method for every task, and check which can solve which.

  Args:
    config: of the study.
    prior: that restores.
    operators: one of each task's, by its name.

  Raises:
    UsageError: none can solve a task, or a setting does not fit.
  """
  table, given, tasks = read_settings(config), overrides(config), named_tasks(config.tasks)
  entrants = []
  for task, operator in operators.items():
    noise = measurement.noise_model(config, tasks[task], operator.in_shape[2])
    whose = tasks[task].settings_of(task)
    for name, method in named_methods(config.methods).items():
      fields = dict(given[name])
      if isinstance(method, Baseline):
        entrants.append(_without_network(task, name, method, fields, operator, noise))
        continue
      if isinstance(method, Preset):
        built, steps = _chosen(config, name, method, whose, table, fields, operator, noise, prior.schedule)
      else:
        steps = chosen_steps(config, table, name, fields.pop("steps", None))
        built = build(name, method, whose, steps, table, fields)
      built, grid = methods.fitted(built, noise), make_grid(prior, steps)
      why = excuse(built, operator, noise, prior.schedule)
      entrants.append(
        Entrant(task, name, built, steps, grid, cost(built, grid), why, preset=isinstance(method, Preset))
      )
  if all(entrant.excuse for entrant in entrants):
    raise errors.UsageError(entrants[0].excuse)
  return entrants


def _chosen(config, name, preset: Preset, task, table, fields, operator, noise, schedule) -> presets.Chosen:
  """Return what a preset is on a task.

  Raises:
    UsageError: it was given hyper-parameters, or none of its methods can solve the task.
  """
  if fields:
    raise errors.UsageError(
      f"`set`: expected a method, got {name}, which chooses its own; name the method in `methods`"
    )
  make = lambda name, method, steps: build(name, method, task, steps, table, {})
  return presets.choose(preset, table, make, lambda made: excuse(made, operator, noise, schedule), steps=config.steps)


def _without_network(task, name, method: Baseline, fields, operator, noise) -> Entrant:
  with errors.usage():
    built = method.having(fields)
  return Entrant(task, name, built, "", NO_STEPS, Cost(0, 0), built.excuse(operator, noise))


def excuse(method: Method, operator: Operator, noise: Any, schedule: Schedule) -> str | None:
  """Say why a method cannot solve problems of the operator and the noise; None where it can."""
  try:
    methods.check(method, operator)
    methods.check_noise(method, noise, schedule)
    methods.check_start(method, operator, schedule)
  except ValueError as error:
    return str(error)
  return None


# Hyper-parameters


def read_settings(config: Measuring) -> dict[str, Any]:
  """Return the table of hyper-parameters: what `settings` says, or those that ship for the prior."""
  if isinstance(config.settings, dict):
    return settings.checked(config.settings, "`settings`")
  if config.settings is not None:
    return settings.read_settings(config.settings)
  return settings.load_settings(name_of_settings(config.prior))


def name_of_settings(prior: Any) -> str:
  """Return the name of the settings that ship for a prior, or for one whose weights it was begun from.

  Those of the literature where none do.
  """
  if not isinstance(prior, (str, pathlib.PurePath)):
    return settings.LITERATURE
  if _has_settings(prior):
    return pathlib.PurePath(prior).name
  provenance: Any = {} if os.fspath(prior) in ANALYTIC else load_provenance(prior)
  while isinstance(provenance, Mapping) and isinstance(made := provenance.get("settings"), Mapping):
    begun = made.get("init")
    if isinstance(begun, str) and _has_settings(begun):
      return pathlib.PurePath(begun).name
    provenance = provenance.get("init")
  return settings.LITERATURE


def _has_settings(prior: str | pathlib.PurePath) -> bool:
  """Tell whether a prior ships, and settings for it."""
  with contextlib.suppress(FileNotFoundError):
    return settings.has_own(pathlib.PurePath(prior).name) and is_shipped(prior)
  return False


def note_settings(config: Measuring) -> None:
  """Say where a method's hyper-parameters were made for another network."""
  if config.settings is None and name_of_settings(config.prior) == settings.LITERATURE:
    name = config.prior if isinstance(config.prior, (str, pathlib.PurePath)) else "this prior"
    progress.note(f"{name} gets the settings of the literature, for the FFHQ network; diffinv tune finds its own")


def note_steps(config: Measuring, steps: Mapping[str, str]) -> None:
  """Say of which methods the hyper-parameters were chosen for other steps than `steps`; of priors that ship."""
  if config.settings is not None or name_of_settings(config.prior) in (settings.LITERATURE, *ANALYTIC):
    return
  table = read_settings(config)
  usual = {name: settings.steps_for(table, name) for name in steps if name in table and METHODS[name].search}
  odd = {
    name: own for name, own in usual.items() if steps[name] != own and settings.at_steps(name, steps[name]) not in table
  }
  if odd:
    told = ", ".join(f"{name} at {steps[name]} ({own})" for name, own in odd.items())
    progress.note(f"settings were chosen for other steps, in brackets: {told}; diffinv tune finds those for yours")


def build(
  name: str, method: type[Method] | Method, task: str, steps: str, table: dict[str, Any], given: Mapping[str, Any]
) -> Method:
  """Build a method for a task and steps: a class from the settings, an instance as it is, `given` fields over both.

  Text is read by the field's type.

  Raises:
    UsageError: there is no such method or field, or a value is not of the field's type.
  """
  with errors.usage():
    if isinstance(method, type):
      fields = {**settings.fields_for(table, name, task, steps), **given}
      return make_method(name, typed_fields(method, fields)) if METHODS.get(name) is method else method(**fields)
    changed = dataclasses.replace(method, **typed_fields(type(method), given)) if given else method
    methods.check_fields(changed)
    return changed


def typed_fields(method: type[Method], fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return hyper-parameters, each of the type of its field.

  Raises:
    ValueError: there is no such field, or a value is not of the field's type.
  """
  known = {field.name: field.default for field in dataclasses.fields(method)}
  for name in fields:
    if name not in known:
      raise ValueError(f"{method.name}: expected a field among {', '.join(known)}, got {name!r}")
  return {name: _typed(method.name, name, known[name], value) for name, value in fields.items()}


def _typed(method: str, name: str, default: Any, value: Any) -> Any:
  """Return a value as the type of the field's default.

  Raises:
    ValueError: it is not of that type.
  """
  if isinstance(default, str):
    return str(value)
  if isinstance(default, bool):
    return _truth(method, name, value)
  try:
    number = type(default)(str(value).lower())
  except (TypeError, ValueError):
    raise ValueError(f"{method}: expected {name} to be of type {type(default).__name__}, got {value!r}") from None
  if not math.isfinite(number):
    raise ValueError(f"{method}: expected {name} to be finite, got {value!r}")
  if isinstance(default, int) and number < min(default, 1):
    raise ValueError(f"{method}: expected {name}, a count, to be at least {min(default, 1)}, got {value!r}")
  return number


def _truth(method, name, value) -> bool:
  text = str(value).lower()
  if text not in ("true", "false"):
    raise ValueError(f"{method}: expected {name} to be true or false, got {value!r}")
  return text == "true"


def describe_method(method: Method | Baseline) -> dict[str, Any]:
  """Return the method's name, source and hyper-parameters."""
  if isinstance(method, Baseline):
    return {"name": method.name, "citation": method.citation, "fields": method.fields()}
  if isinstance(method, Averaged):
    return {**describe_method(method.method), "averaged": method.samples}
  fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
  plain = {name: _described(value) for name, value in fields.items()}
  return {"name": method.name, "citation": getattr(method, "citation", ""), "fields": plain}


def _described(value: Any) -> Any:
  """Return a hyper-parameter as JSON takes it; of a tree of arrays, such as a covariance, its type and digest."""
  if not dataclasses.is_dataclass(value):
    return value
  return f"{type(value).__name__} {identity.fingerprint(value)[:12]}"


# Levels and costs


def chosen_steps(config: Measuring, table: dict[str, Any], method: str, own: str | None = None) -> str:
  """Return the steps of the chain: `own`, those that `set` gives the method; else `steps`; else the settings'."""
  given = (own, config.steps, settings.steps_for(table, method))
  return str(next(steps for steps in given if steps is not None))


def make_grid(prior: AnyPrior, steps: str) -> Level:
  """Return the noise levels of so many steps.

  Raises:
    UsageError: they ask for what the schedule does not have.
  """
  with errors.usage():
    return prior.schedule.grid(steps)


def cost(method: Method, grid: Level) -> Cost:
  """Return what one chain costs."""
  return method.cost(jax.eval_shape(method.levels, as_arrays(grid)).alpha.shape[0])


def spent(method: Method | Baseline, grid: Level) -> Cost:
  """Return what one restoration costs of a network."""
  return Cost(0, 0) if isinstance(method, Baseline) else cost(method, grid)


def weight(spent: Cost) -> float:
  """Return the time of a chain in network evaluations; see `summary.weight`."""
  return summary.weight(spent.evaluations, spent.gradients)
