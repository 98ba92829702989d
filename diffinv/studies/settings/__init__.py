"""Default hyper-parameters of every method for every task: data, one JSON file per prior.

A file maps a method to its steps and fields, `{"dps": {"steps": "100", "default": {...}, "inpaint_box": {...}}}`; a
task's own entry is laid over "default". An entry "dps@1000" takes the place of "dps" for chains of 1000 steps, where
what is best depends on their number. "presets" says what a wish is, `{"mean": {"fast": [{"method": "dpir", "steps":
"8"}, ...]}}` by aim and quality, see `diffinv.studies.presets`. `literature.json` holds the papers' settings for the
FFHQ network and serves every prior that has no file of its own.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from diffinv import files, reading
from diffinv.methods import METHODS
from diffinv.tasks import TASKS

LITERATURE = "literature"
FOLDER = pathlib.Path(__file__).parent
DEFAULT = "default"
STEPS = "steps"
AT = "@"
ABOUT = "about"  # how a file came about; no method
PRESETS = "presets"  # what wishes are; no method
ADVICE = "see diffinv/studies/settings/literature.json"


def has_own(prior_name: str) -> bool:
  """Tell whether settings ship for the prior of that name."""
  return (FOLDER / f"{prior_name}.json").is_file()


def load_settings(prior_name: str) -> dict[str, Any]:
  """Return the settings shipped for the prior of that name, or the literature's."""
  return read_settings(FOLDER / f"{prior_name if has_own(prior_name) else LITERATURE}.json")


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Read a settings file.

  Raises:
    FileNotFoundError, OSError: there is no such file, or it cannot be read.
    ValueError: it is not JSON, or not a table of tables by method.
  """
  return checked(reading.read_json(path, Any, advice=ADVICE), path)


def checked(settings: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
  """Return a table of settings without what it says about itself, after checking it; `path` is named in errors.

  Raises:
    ValueError: it is not a table of tables by method, or speaks of what there is not.
  """
  if isinstance(settings, dict):
    settings = {name: entry for name, entry in settings.items() if name != ABOUT}
  if not isinstance(settings, dict) or not all(map(_is_entry, of_methods(settings).values())):
    raise ValueError(
      f"settings: expected {{method: {{task: {{field: value}}}}}} in {path}, got another structure; {ADVICE}"
    )
  for name, entry in of_methods(settings).items():
    _check_names(path, name, entry)
  _check_presets(path, settings.get(PRESETS, {}))
  return settings


def of_methods(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return the entries of methods in a table of settings."""
  return {name: entry for name, entry in settings.items() if name != PRESETS}


class Choice(TypedDict):
  """An entry of a preset's list."""

  method: str
  steps: NotRequired[str]  # where they are not those of the method's settings
  samples: NotRequired[int]  # chains to average; 1 where it is not said


def _check_presets(path, presets):
  reading.check(presets, dict[str, dict[str, list[Choice]]], f"{path}: {PRESETS}", ADVICE)
  for choices in (choices for qualities in presets.values() for choices in qualities.values()):
    for choice in choices:
      _check_known(path, "method of a preset", choice["method"], METHODS)


def _check_names(path, name, entry):
  """Check that a method's entry speaks of what there is: a slip would leave settings out unseen."""
  method = name.partition(AT)[0]
  _check_known(path, "method", method, METHODS)
  fields = [field.name for field in dataclasses.fields(METHODS[method])]
  for task, values in entry.items():
    if task != STEPS:
      _check_known(path, f"task of {name}", task, (DEFAULT, *TASKS))
      for field in values:
        _check_known(path, f"field of {name}", field, fields)


def _check_known(path, what, got, known):
  if got not in known:
    raise ValueError(f"settings: expected a {what} in {path}, one of {', '.join(known)}, got {reading.shown(got)}")


def write_settings(path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
  """Write a settings file, a line for each task of a method."""
  methods = []
  for method, entry in settings.items():
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in entry.items())
    methods.append(f"  {json.dumps(method)}: {{\n{lines}\n  }}")
  with files.file(path) as partial:
    partial.write_text("{\n" + ",\n".join(methods) + "\n}\n")


def _is_entry(entry: Any) -> bool:
  """Tell whether a method's entry is a table of tables, but for its steps: text or a number."""
  return isinstance(entry, dict) and all(
    (type(value) in (str, int) if key == STEPS else isinstance(value, dict)) for key, value in entry.items()
  )


def fields_for(settings: dict[str, Any], method: str, task: str, steps: str | None = None) -> dict[str, Any]:
  """Return the method's hyper-parameters for the task and a chain of so many steps, by field name."""
  entry = settings.get(at_steps(method, steps), settings.get(method, {}))
  return {**entry.get(DEFAULT, {}), **entry.get(task, {})}


def at_steps(method: str, steps: str | None) -> str:
  """Return the name of the entry of a method for chains of so many steps."""
  return f"{method}{AT}{steps}"


def preset(settings: Mapping[str, Any], aim: str, quality: str) -> list[Choice]:
  """Return the methods of a preset, the first choice first; the literature's where the settings have none."""
  presets = settings.get(PRESETS, {})
  return presets.get(aim, {}).get(quality) or load_settings(LITERATURE)[PRESETS][aim][quality]


def steps_for(settings: dict[str, Any], method: str) -> str:
  """Return the respacing of the method's chain, as `Schedule.grid` takes it."""
  return str(settings.get(method, {}).get(STEPS, "1000"))
