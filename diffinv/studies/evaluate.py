"""Measure a trained prior against the Gaussian of the same data, the analytic prior and classical methods.

What is measured is in `diffinv.studies.evaluation`, a file a measure. Which pictures were held out depends on what the
prior was trained on, which its `prior.json` says; see `diffinv.data.held_out` and, of folders, `diffinv.training.data`.
"""

import os
import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

from diffinv import devices, options, output
from diffinv.studies import identity
from diffinv.studies.evaluation import calibration, denoising, restoration, sampling, speed
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import MEASURES, Evaluation, Subject, load

__all__ = ["Evaluated", "Evaluation", "evaluate"]

COMMAND = "evaluate"
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
  """
  place = pathlib.Path(os.path.expanduser(folder))
  names = [name for name in MEASURES if name in config.measures]
  devices.split_cpu(config.devices)
  subject = load(config)
  for name in names:
    CHECKS.get(name, lambda _: None)(subject)
  place.mkdir(parents=True, exist_ok=True)
  for name in names:
    output.check_file(place / f"{name}.json", overwrite=overwrite)
  tables, texts = {}, {}
  for name in names:
    measured = run(name, subject, place, overwrite=overwrite)
    tables[name], texts[name] = measured.tables, write(subject, name, measured, place)
  compared = [restoration.comparison_folder(place, who) for who in restoration.WHO if restoration.FOLDER in names]
  return Evaluated(place, tables, texts, compared)


def run(name: str, subject: Subject, folder: pathlib.Path, *, overwrite: bool) -> Measured:
  """Run a measure."""
  if name == "restoration":
    return restoration.measure(subject, folder, overwrite=overwrite)
  if name == "sampling":
    return sampling.measure(subject, folder)
  return {"denoising": denoising.measure, "calibration": calibration.measure, "speed": speed.measure}[name](subject)


def write(subject: Subject, name: str, measured: Measured, folder: pathlib.Path) -> str:
  """Write NAME.json and NAME.md, with the command that makes them; return the contents of the latter."""
  command = command_line(subject.config, folder)
  text = f"## {name}: `{subject.name}`\n\n`{command}`\n\n" + "\n".join(t.markdown() for t in measured.tables)
  about = {**identity.provenance(subject.config, COMMAND), "command": command, "prior": subject.name}
  output.write_json(folder / f"{name}.json", {**about, **measured.found})
  with output.file(folder / f"{name}.md") as partial:
    partial.write_text(text, encoding="utf-8")
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
