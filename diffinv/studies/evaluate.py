"""Measure a trained prior against the Gaussian of the same data, the analytic prior and classical methods.

What is measured is in `diffinv.studies.evaluation`, a file a measure. Which pictures were held out depends on what the
prior was trained on, which its `prior.json` says; see `diffinv.data.held_out` and, of folders, `diffinv.training.data`.
"""

import os
import pathlib
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec

from diffinv import devices, errors, files, options, output, reading
from diffinv.studies import cases as casing
from diffinv.studies import identity
from diffinv.studies.evaluation import calibration, denoising, restoration, sampling, speed
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import MEASURES, Evaluation, Subject, load

__all__ = ["Evaluated", "Evaluation", "evaluate"]

COMMAND = "evaluate"
AGAIN = "measure it again with `overwrite`"
MAX_DIGITS = 20  # decimals in a table
CHECKS: dict[str, Callable[[Subject], None]] = {
  "calibration": calibration.check,
  "sampling": sampling.check,
  "restoration": restoration.check,
}


class Evaluated(NamedTuple):
  """What `evaluate` found and wrote."""

  folder: pathlib.Path
  tables: dict[str, list[Table]]  # by measure
  texts: dict[str, str]  # the contents of NAME.md, by measure
  comparisons: list[pathlib.Path]  # folders that `diffinv.write_report` takes

  def text(self) -> str:
    """Return all that was measured, in Markdown."""
    return "\n".join(self.texts.values())

  def __repr__(self) -> str:
    return self.text()


def evaluate(config: Evaluation, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Evaluated:
  """Measure a prior; write NAME.md and NAME.json for each measure.

  Measures of several calls may go into one folder. After a stop the same call goes on with the restorations where they
  were.

  Args:
    config: what to measure.
    folder: to write into, made if need be.
    overwrite: replace measures that are there.

  Raises:
    UsageError: options do not fit together, or not the prior.
    FileExistsError: a measure is there.
    ValueError: a picture cannot be used.

  Example:
    >>> import diffinv
    >>> config = diffinv.Evaluation(prior="faces", measures=("denoising",), num_images=2, fit_images=2)
    >>> evaluated = diffinv.evaluate(config, "out/faces")  # doctest: +SKIP
    >>> evaluated.text()  # doctest: +SKIP
  """
  home = output.Folder(folder, "evaluation", COMMAND, suffix="")
  casing.check_apart(config, home.path)
  home.check()
  names = [name for name in MEASURES if name in config.measures]
  devices.split_cpu(config.devices)
  subject = load(config)
  for name in names:
    CHECKS.get(name, lambda _: None)(subject)
  with home.held(), errors.interruption("give the same command again to go on"):
    about = describe(subject)
    done = {} if overwrite else {name: found for name in names if (found := finished(home, name, about)) is not None}
    for name in names:
      if name not in done:
        home.check_new(f"{name}.json", overwrite=overwrite)
    measured = {name: done[name] if name in done else measure(name, subject, home, overwrite) for name in names}
    texts = {name: write(subject, name, measured[name], about, home) for name in names}
  tables = {name: found.tables for name, found in measured.items()}
  compared = [restoration.comparison_folder(home.place, who) for who in restoration.WHO if restoration.FOLDER in names]
  return Evaluated(home.place, tables, texts, compared)


def describe(subject: Subject) -> dict[str, Any]:
  """Return what a measure depends on, as NAME.json says it."""
  made = files.plain(identity.provenance(subject.config, COMMAND))
  settings = {name: value for name, value in made["settings"].items() if name != "measures"}
  prior = {"name": subject.name, "sha256": identity.fingerprint(subject.prior)}
  return {**made, "settings": settings, "prior": prior}


class _Table(TypedDict):
  title: str
  columns: list[str]
  rows: list[list[float | str | None]]
  digits: list[Annotated[int, msgspec.Meta(ge=0, le=MAX_DIGITS)]]


class _File(TypedDict):
  about: dict[str, Any]
  tables: list[_Table]
  found: dict[str, Any]


def finished(home: output.Folder, name: str, about: Mapping[str, Any]) -> Measured | None:
  """Return a measure that an earlier call of the same has finished; None where none has.

  Raises:
    ValueError: its file is damaged.
  """
  path = home.place / f"{name}.json"
  if path.name not in home.manifest.names or not reading.is_file(path):
    return None
  file = reading.read_json(path, _File, advice=AGAIN)
  if file["about"] != about:
    return None
  for number, table in enumerate(file["tables"]):
    _check_table(table, f"{path}: tables[{number}]")
  return Measured(file["found"], [Table(**table) for table in file["tables"]])


def _check_table(table: _Table, where: str) -> None:
  """Check what types do not say: every row is a name, and then an entry a column."""
  count = len(table["columns"])
  if len(table["digits"]) != count - 1 or any(len(row) != count for row in table["rows"]):
    raise ValueError(f"{where}: expected rows of {count} entries, and digits of all but the first; {AGAIN}")
  if not all(isinstance(row[0], str) for row in table["rows"]):
    raise ValueError(f"{where}: expected rows that begin with a name, got others; {AGAIN}")


def measure(name: str, subject: Subject, home: output.Folder, overwrite: bool) -> Measured:
  """Run a measure."""
  if name == "restoration":
    return restoration.measure(subject, home, overwrite=overwrite)
  if name == "sampling":
    return sampling.measure(subject, home)
  return {"denoising": denoising.measure, "calibration": calibration.measure, "speed": speed.measure}[name](subject)


def write(subject: Subject, name: str, measured: Measured, about: Mapping[str, Any], home: output.Folder) -> str:
  """Write NAME.md, with the command that makes it, and NAME.json; return the contents of the former."""
  command = command_line(subject.config, home.place)
  text = f"## {name}: `{subject.name}`\n\n`{command}`\n\n" + "\n".join(t.markdown() for t in measured.tables)
  files.write_text(home.new(f"{name}.md", f"{name}.json"), text)
  tables = [table._asdict() for table in measured.tables]
  files.write_json(
    home.new(f"{name}.json"), {"about": about, "command": command, "tables": tables, "found": measured.found}
  )
  return text


def command_line(config: Evaluation, folder: pathlib.Path) -> str:
  """Return the command that measures the same: the options that are not at their defaults."""
  words = [f"--prior={config.prior}", f"--output={folder}"]
  for name, (field, _) in options.options(config).items():
    value = identity.plain_option(getattr(config, name))
    if name == "prior" or getattr(config, name) == field.default:
      continue
    if isinstance(value, bool):
      words.append(f"--{name}" if value else f"--no{name}")
    else:
      words.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
  return shlex.join(["diffinv", COMMAND, *words])
