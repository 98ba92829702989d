"""Restore the same measurements with several methods, side by side.

usage: diffinv compare --output=FOLDER [--input=PHOTO] [--tasks=TASK,...] [--methods=METHOD,...]

Writes the truth, the measurements, every restored picture, a contact sheet per photograph (rows: tasks; columns: truth,
measurement, methods; PSNR in dB and SSIM under each) and results.json, and prints the same as a table.
"""

import importlib.resources
import pathlib
from typing import Any, NamedTuple, Sequence

import numpy as np
from absl import flags

from diffinv import errors, methods, output, progress, sheet
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.data import images
from diffinv.methods import METHODS
from diffinv.methods.base import Cost, Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level
from diffinv.tasks import TASKS

BUNDLED = "astronaut.png"

FLAGS = flags.FlagValues()
common.define_run_flags(FLAGS)
common.define_problem_flags(FLAGS, set_help="Hyper-parameter of a method, METHOD.name=value.")
flags.DEFINE_multi_string(
  "input", [], "Photograph: a file, several, or a folder. Not set: the bundled portrait.", flag_values=FLAGS
)
flags.DEFINE_list("tasks", list(TASKS), f"Tasks, of {', '.join(TASKS)}.", flag_values=FLAGS)
flags.DEFINE_list("methods", list(METHODS), f"Methods, of {', '.join(METHODS)}.", flag_values=FLAGS)
flags.DEFINE_integer(
  "num_images", None, "Photographs to use, the first so many. Not set: all.", lower_bound=1, flag_values=FLAGS
)


class Run(NamedTuple):
  """One method on one task."""

  task: str
  name: str  # of the method
  method: Method | None  # None where it cannot solve the task
  grid: Level | None
  spent: Cost
  excuse: str = ""  # why it cannot


class Outcome(NamedTuple):
  """What a run gave."""

  run: Run
  pictures: list[np.ndarray]  # one a photograph, [h, w, c]
  marks: list[dict[str, float]]
  compile_seconds: float
  run_seconds: float


def check_flags() -> None:
  """Check what can be told before anything is loaded.

  Raises:
    UsageError: a flag is missing, or a task or method does not exist.
  """
  common.require(FLAGS, "output", "the folder to write")
  for flag, known in (("tasks", TASKS), ("methods", METHODS)):
    chosen = FLAGS[flag].value
    for name in chosen:
      if name not in known:
        raise errors.UsageError(f"--{flag}: expected some of {', '.join(known)}, got {name!r}")
    if not chosen or len(set(chosen)) < len(chosen):
      raise errors.UsageError(f"--{flag}: expected one or more, each once, got {','.join(chosen) or 'none'}")


def read_overrides() -> dict[str, dict[str, str]]:
  """Return --set by method and field.

  Raises:
    UsageError: it names no method, or one that does not take part.
  """
  overrides: dict[str, dict[str, str]] = {name: {} for name in FLAGS.methods}
  for target, value in common.assignments(FLAGS.set).items():
    method, dot, field = target.partition(".")
    if not dot or method not in overrides:
      raise errors.UsageError(f"--set: expected METHOD.name=value with one of {', '.join(overrides)}, got {target!r}")
    overrides[method][field] = value
  return overrides


def plan_runs(prior: AnyPrior, problems: dict[str, list[Problem]]) -> list[Run]:
  """Build every method for every task, and check which can solve which."""
  table, overrides, runs = common.read_settings(FLAGS), read_overrides(), []
  for task in FLAGS.tasks:
    for name in FLAGS.methods:
      method = common.build_method(name, task, table, overrides[name])
      grid = common.make_grid(FLAGS, prior, table, name)
      try:
        methods.check(method, problems[task][0].operator)
        runs.append(Run(task, name, method, grid, common.cost(method, grid)))
      except ValueError as error:
        runs.append(Run(task, name, None, None, Cost(0, 0), str(error)))
  if not any(run.method for run in runs):
    raise errors.UsageError(runs[0].excuse)
  return runs


def read_cases(prior: AnyPrior, multiple: int) -> list[common.Case]:
  """Read the photographs once, to check them, and name them."""
  with errors.usage():
    paths = images.collect(FLAGS.input or [str(bundled())], name="--input")[: FLAGS.num_images]
  common.check_apart(FLAGS, paths)
  shapes = [common.read_picture(FLAGS, prior, multiple, path).shape for path in paths]
  if len(set(shapes)) > 1:
    sizes = ", ".join(sorted({images.by(shape) for shape in shapes}))
    raise ValueError(f"--input: expected photographs of one size, got {sizes}; pass --size=N --fit=resize")
  return common.name_cases(paths, shapes, FLAGS.seed)


def bundled() -> pathlib.Path:
  """Return the path of the portrait that comes with the package."""
  return pathlib.Path(str(importlib.resources.files("diffinv.data") / BUNDLED))


def restore(run: Run, prior: AnyPrior, cases, problems, truths, bar: progress.Bar) -> Outcome:
  """Restore all photographs with one method; a chain's key depends on the photograph only."""
  if run.method is None:
    return Outcome(run, [], [], 0.0, 0.0)
  got = common.restore(
    [common.case_keys(case, 1)[2] for case in cases],
    run.method,
    prior,
    problems,
    run.grid,
    chunk=FLAGS.batch_size,
    mesh=common.mesh(FLAGS),
    progress=bar.part(common.weight(run.spent), f"{run.task} {run.name}"),
  )
  marks = [common.scores(p, pictures, truth)[0] for p, pictures, truth in zip(problems, got.images, truths)]
  return Outcome(run, [pictures[0] for pictures in got.images], marks, got.compile_seconds, got.run_seconds)


def main(argv: list[str]) -> None:
  """Measure, restore with every method, write, report."""
  del argv
  check_flags()
  output.check(FLAGS.output, overwrite=FLAGS.overwrite)
  prior = common.prepare(FLAGS)
  multiple = common.task_multiple([TASKS[task] for task in FLAGS.tasks])
  cases = read_cases(prior, multiple)
  common.mesh(FLAGS)
  loaded = {task: [common.simulated(FLAGS, prior, task, multiple, case) for case in cases] for task in FLAGS.tasks}
  problems = {task: [problem for problem, _ in pairs] for task, pairs in loaded.items()}
  truths = [truth for _, truth in loaded[FLAGS.tasks[0]]]
  runs = plan_runs(prior, problems)
  with output.folder(FLAGS.output, overwrite=FLAGS.overwrite) as folder:
    with progress.Bar(sum(common.weight(run.spent) for run in runs)) as bar:
      outcomes = [restore(run, prior, cases, problems[run.task], truths, bar) for run in runs]
    write_pictures(folder, cases, truths, problems, outcomes)
    output.write_json(folder / output.RESULTS, report(cases, outcomes))
  print_report(outcomes)


def write_pictures(folder: pathlib.Path, cases, truths, problems, outcomes: Sequence[Outcome]) -> None:
  """Write the truth, the measurements, the restored pictures and the sheet of every photograph."""
  for i, (case, truth) in enumerate(zip(cases, truths)):
    images.write(folder / f"{case.name}-truth.png", truth)
    for task, measured in problems.items():
      images.write(folder / f"{case.name}-{task}-measurement.png", np.asarray(measured[i].y))
    for outcome in outcomes:
      if outcome.pictures:
        images.write(folder / file_name(case, outcome.run), outcome.pictures[i])
    rows = [
      (TASKS[task].title, sheet_row(truth, measured[i], [o for o in outcomes if o.run.task == task], i))
      for task, measured in problems.items()
    ]
    name = "sheet.png" if len(cases) == 1 else f"{case.name}-sheet.png"
    images.write_pillow(
      folder / name, sheet.sheet(["truth", "measurement", *(METHODS[method].title for method in FLAGS.methods)], rows)
    )


def file_name(case: common.Case, run: Run) -> str:
  return f"{case.name}-{run.task}-{run.name}.png"


def sheet_row(truth: np.ndarray, problem: Problem, outcomes: Sequence[Outcome], i: int) -> list[sheet.Cell]:
  """Return the cells of one task: truth, measurement, methods."""
  cells = [sheet.Cell(truth), sheet.Cell(np.asarray(problem.y), (images.by(problem.y.shape),))]
  for outcome in outcomes:
    if outcome.run.method is None:
      cells.append(sheet.Cell(None, ("not for this task",)))
      continue
    marks = outcome.marks[i]
    cells.append(sheet.Cell(outcome.pictures[i], common.caption(marks)))
  return cells


def mean(outcome: Outcome, key: str) -> float | None:
  """Return the mean of a mark over the photographs; None where there is none."""
  values = [marks[key] for marks in outcome.marks if key in marks]
  return float(np.mean(values)) if values else None


def report(cases: Sequence[common.Case], outcomes: Sequence[Outcome]) -> dict[str, Any]:
  """Return the contents of results.json."""
  noises = {task: common.describe_noise(common.noise_model(FLAGS, TASKS[task])) for task in FLAGS.tasks}
  entries = []
  for outcome in outcomes:
    run = outcome.run
    entry = {"task": run.task, "method": run.name, "noise": noises[run.task]}
    if run.method is None:
      entries.append({**entry, "skipped": run.excuse})
      continue
    pictures = [
      {"source": case.path, "file": file_name(case, run), **marks} for case, marks in zip(cases, outcome.marks)
    ]
    entries.append(
      {
        **entry,
        "method": common.describe(run.method),
        "steps": len(run.grid.alpha) - 1,
        "network_evaluations": run.spent.evaluations,
        "network_gradients": run.spent.gradients,
        "compile_seconds": outcome.compile_seconds,
        "run_seconds": outcome.run_seconds,
        "images": pictures,
      }
    )
  return {**common.provenance(FLAGS, "compare"), "runs": entries}


def print_report(outcomes: Sequence[Outcome]) -> None:
  """Print the table: means over the photographs, seconds a photograph without compilation."""
  header = ["task", "method", "PSNR dB", "SSIM", "chi2", "seconds", "evaluations", "gradients"]
  rows = []
  for outcome in outcomes:
    run, marks = outcome.run, [mean(outcome, key) for key in ("psnr", "ssim", "chi2")]
    cells = [common.number(value, digits) for value, digits in zip(marks, (2, 3, 2))]
    seconds = common.number(outcome.run_seconds / len(outcome.marks) if outcome.marks else None, 1)
    counts = [str(count) if run.method else "-" for count in run.spent]
    rows.append([run.task, run.name, *cells, seconds, *counts])
  print(common.table(header, rows))
  for outcome in outcomes:
    if outcome.run.excuse:
      print(f"{outcome.run.task}: {outcome.run.excuse}")
  print(f"{sum(o.compile_seconds for o in outcomes):.0f} s to compile; pictures: {FLAGS.output}")


if __name__ == "__main__":
  run_module(main, FLAGS)
