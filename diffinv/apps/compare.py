"""Restore the same measurements with several methods, and compare.

usage: diffinv compare --output=FOLDER [--data=PHOTO|FOLDER|photos|faces] [--tasks=TASK,...] [--methods=METHOD,...]

Every method gets the same measurements and the same seeds; none sees the truth. A line per finished picture goes to
OUTPUT.running/rows.jsonl; after a stop the same command goes on where it was. At the end the folder is called OUTPUT
and holds report.html (open it), results.json, a contact sheet per picture and pictures/: the truth, the measurements,
every restored picture, their mean and standard deviation where there are several, and how they came about.
"""

import functools
import importlib.resources
import pathlib
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
from absl import flags

from diffinv import errors, methods, output, progress, text
from diffinv.apps import common, convert
from diffinv.apps.main import run_module
from diffinv.data import held_out, images, sheet
from diffinv.methods import METHODS
from diffinv.methods.base import Cost, Method
from diffinv.metrics import perceptual
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.report import page as report
from diffinv.schedules import Level
from diffinv.studies import chains as bench
from diffinv.studies import marks as marking
from diffinv.studies import runs
from diffinv.studies.summary import summarize
from diffinv.tasks import TASKS

BUNDLED = "astronaut.png"
DEFAULT_TASKS = ("inpaint_random", "inpaint_box", "super_resolution", "gaussian_blur", "motion_blur")
HELD_OUT_IMAGES = 8  # of a held-out set, where --num_images does not say
SHEET_PICTURES = 8  # with a sheet of their own
KEPT_PROBLEMS = 256  # in memory at once; the others are made anew when they are needed

Measure = Callable[[str, int], Problem]  # (task, number of the picture) -> its measurement: all that methods see

FLAGS = flags.FlagValues()
common.define_run_flags(FLAGS)
common.define_problem_flags(FLAGS, set_help="Hyper-parameter of a method, METHOD.name=value, or its METHOD.steps=N.")
common.define_study_flags(
  FLAGS,
  data_help=". Not set: the bundled portrait.",
  tasks=list(DEFAULT_TASKS),
  methods=list(METHODS),
  held_out_images=HELD_OUT_IMAGES,
)
flags.DEFINE_alias("input", "data", flag_values=FLAGS)
common.define_sample_flags(FLAGS)
flags.DEFINE_integer(
  "frames",
  12,
  "Pictures to keep of each chain, its start and its end among them, for the report's animation; 0 for none.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "lpips",
  None,
  'Weights of LPIPS, the state_dict of lpips.LPIPS(net="alex" or "vgg"), .pt or .safetensors. Not set: no LPIPS.',
  flag_values=FLAGS,
)
flags.DEFINE_boolean("restart", False, "Throw away an unfinished comparison in OUTPUT.running.", flag_values=FLAGS)
flags.DEFINE_boolean("report", True, "Write report.html at the end.", flag_values=FLAGS)


class Entrant(NamedTuple):
  """One method on one task."""

  task: str
  name: str  # of the method
  method: Method  # as the settings say
  spacing: str  # of the grid, as --steps has it
  grid: Level
  spent: Cost
  excuse: str | None  # why it cannot solve the task; None where it can


class Comparison(NamedTuple):
  """What the flags ask for, loaded and checked, nothing of it done."""

  prior: AnyPrior
  cases: list[common.Case]
  truths: list[np.ndarray]
  measure: Measure
  entrants: list[Entrant]
  lpips: perceptual.LPIPS | None
  plan: dict[str, Any]  # the contents of run.json


def check_flags() -> None:
  """Check what can be told before anything is loaded.

  Raises:
    UsageError: a flag is missing, or a task or method does not exist, or a number cannot be.
  """
  common.require(FLAGS, "output", "the folder to write")
  if FLAGS.frames == 1:
    raise errors.UsageError("--frames: expected 0, or at least 2 for the start and the end of a chain, got 1")
  common.check_samples(FLAGS)
  for flag, known in (("tasks", TASKS), ("methods", METHODS)):
    common.check_choice(FLAGS, flag, known)


def plan_entrants(prior: AnyPrior, measure: Measure) -> list[Entrant]:
  """Build every method for every task, and check which can solve which.

  Raises:
    UsageError: none can.
  """
  table, overrides, entrants = common.read_settings(FLAGS), common.overrides_by_method(FLAGS), []
  for task in FLAGS.tasks:
    for name in FLAGS.methods:
      fields, excuse = dict(overrides[name]), None
      steps = common.chosen_steps(FLAGS, table, name, fields.pop("steps", None))
      method, grid = common.build_method(name, task, steps, table, fields), common.make_grid(prior, steps)
      try:
        methods.check(method, measure(task, 0).operator)
      except ValueError as error:
        excuse = str(error)
      entrants.append(Entrant(task, name, method, steps, grid, common.cost(method, grid), excuse))
  if all(entrant.excuse for entrant in entrants):
    raise errors.UsageError(entrants[0].excuse)
  return entrants


def bundled() -> pathlib.Path:
  """Return the path of the portrait that comes with the package."""
  return pathlib.Path(str(importlib.resources.files("diffinv.data") / BUNDLED))


def read_lpips(shape: tuple[int, int, int]) -> perceptual.LPIPS | None:
  """Read the weights of --lpips, if there are any, to measure pictures of `shape`.

  Raises:
    UsageError: the pictures are too small, or not of color.
    ValueError: the file does not hold the weights.
  """
  if FLAGS.lpips is None:
    return None
  if min(shape[:2]) < perceptual.MIN_PIXELS:
    least = images.by((perceptual.MIN_PIXELS,) * 2)
    raise errors.UsageError(f"--lpips: expected pictures of {least} or more, got {images.by(shape)}; leave it out")
  if shape[2] != images.CHANNELS["RGB"]:
    raise errors.UsageError(f"--lpips: expected pictures of color, got {shape[2]} channel; leave it out")
  try:
    return perceptual.from_state_dict(convert.read_state_dict(pathlib.Path(FLAGS.lpips)))
  except ValueError as error:
    raise ValueError(f"--lpips: {error}") from None


def prepared() -> Comparison:
  """Load the prior and the pictures, build the methods, and plan the comparison that the flags ask for.

  Raises:
    UsageError: flags do not go together.
    ValueError: a file or a picture cannot be used.
  """
  prior = common.prepare(FLAGS)
  FLAGS.data = FLAGS.data or [str(bundled())]
  multiple = common.task_multiple([TASKS[task] for task in FLAGS.tasks])
  cases, truths = common.read_pictures(FLAGS, prior, multiple, held_out.TEST, HELD_OUT_IMAGES)
  common.mesh(FLAGS)
  measure = functools.lru_cache(KEPT_PROBLEMS)(lambda task, i: common.measured(FLAGS, task, cases[i], truths[i]))
  entrants, lpips = plan_entrants(prior, measure), read_lpips(cases[0].shape)
  return Comparison(prior, cases, truths, measure, entrants, lpips, plan(prior, cases, truths, entrants))


def main(argv: list[str]) -> None:
  """Measure, restore with every method, write, report."""
  del argv
  check_flags()
  output.check(FLAGS.output, overwrite=FLAGS.overwrite)
  prior, cases, truths, measure, entrants, lpips, planned = prepared()
  folder = runs.RunFolder(FLAGS.output, planned, restart=FLAGS.restart)
  with errors.interruption(f"give the same command again to go on with {folder.partial}"):
    with folder.held():
      if folder.rows:
        print(f"going on with {folder.partial}: {len(folder.rows)} rows are there")
      write_measurements(folder.pictures, cases, truths, measure)
      restore_all(folder, entrants, prior, cases, measure, truths, lpips)
      write_sheets(folder, cases, entrants)
      got = results(folder)
      folder.finish(got, overwrite=FLAGS.overwrite)
  if FLAGS.report:
    with errors.interruption(f"{folder.path} is complete but for its page: diffinv report {folder.path}"):
      report.write(folder.path)
  print_report(got)


def plan(prior: AnyPrior, cases, truths, entrants: Sequence[Entrant]) -> dict[str, Any]:
  """Return the contents of run.json: what is compared, and how."""
  noises = {task: common.describe_noise(common.noise_model(FLAGS, TASKS[task])) for task in FLAGS.tasks}
  made = common.provenance(FLAGS, "compare")
  del made["settings"]["input"]  # another name of --data
  return {
    **made,
    **common.identity(FLAGS, prior, cases, truths),
    "num_samples": FLAGS.num_samples,
    "lpips": None if FLAGS.lpips is None else {"sha256": convert.sha256(pathlib.Path(FLAGS.lpips))},
    "tasks": [{"name": task, "title": TASKS[task].title, "noise": noises[task]} for task in FLAGS.tasks],
    "methods": [{"name": n, "title": METHODS[n].title, "citation": METHODS[n].citation} for n in FLAGS.methods],
    "runs": [describe(entrant) for entrant in entrants],
  }


def describe(entrant: Entrant) -> dict[str, Any]:
  """Return what identifies a run, and its cost per sample."""
  return {
    "task": entrant.task,
    "method": entrant.name,
    "fields": common.describe(entrant.method)["fields"],
    "spacing": entrant.spacing,
    "steps": len(entrant.grid.alpha) - 1,
    "evaluations": entrant.spent.evaluations,
    "gradients": entrant.spent.gradients,
    "skipped": entrant.excuse,
  }


def restore_all(folder: runs.RunFolder, entrants, prior, cases, measure: Measure, truths, lpips) -> None:
  """Run what is missing, a chunk of pictures at a time; a chain's key depends on its picture and number only."""
  parts = bench.chunks(len(cases), FLAGS.num_samples, FLAGS.batch_size)
  missing = lambda entrant, i: folder.missing(entrant.task, entrant.name, [cases[i].name])
  runs_left = [(e, [i for i in part if missing(e, i)]) for e in entrants if not e.excuse for part in parts]
  wanted = [(entrant, part) for entrant, part in runs_left if part]
  weight = lambda entrant, part: common.weight(entrant.spent) * len(part)
  with progress.Bar(sum(weight(*pair) for pair in wanted) or 1.0) as bar:
    for entrant, part in wanted:
      report_progress = bar.part(weight(entrant, part), f"{entrant.task} {entrant.name}")
      restored = restore_part(entrant, prior, cases, measure, part, parts[0], report_progress)
      rows = []
      for place, i in enumerate(part):
        if failure := marking.failure(restored.images[place]):
          marks = {"failed": failure}
        else:
          write_restored(folder.pictures, entrant, cases[i], restored, place)
          marks = marking.marks(
            measure(entrant.task, i), restored.images[place], truths[i], lpips, antithetic=FLAGS.antithetic
          )
        rows.append(row(entrant, cases[i], marks, restored, len(part)))
      folder.append(rows)


def restore_part(entrant: Entrant, prior, cases, measure: Measure, part: list[int], first: range, report_progress):
  """Restore a chunk of pictures; a shorter one is filled up with its last picture, for one compilation."""
  chosen = bench.filled(part, len(first))
  return bench.restore(
    [common.chain_keys(FLAGS, cases[i]) for i in chosen],
    entrant.method,
    prior,
    [measure(entrant.task, i) for i in chosen],
    entrant.grid,
    chunk=FLAGS.batch_size,
    mesh=common.mesh(FLAGS),
    progress=report_progress,
    frames=FLAGS.frames,
  )


def row(entrant: Entrant, case: common.Case, marks: dict[str, Any], restored: bench.Restored, count: int):
  """Return the line of one finished picture: its marks, or that the method `failed` on it and how."""
  return {
    "task": entrant.task,
    "method": entrant.name,
    "image": case.name,
    **marks,
    "seconds": restored.run_seconds / len(restored.images),
    "compile_seconds": restored.compile_seconds / count,
    "peak_bytes": restored.step_bytes,
    # What the two above and the seconds depend on.
    "batch_size": FLAGS.batch_size,
    "devices": FLAGS.devices,
    "remat": FLAGS.remat,
  }


# Pictures


def file_name(image: str, *parts: str) -> str:
  """Return the name of a picture's file: `IMAGE-TASK-METHOD-00.png`."""
  return "-".join((image, *parts)) + ".png"


def write_measurements(folder: pathlib.Path, cases, truths, measure: Measure) -> None:
  """Write the truths and what was measured of them."""
  for i, (case, truth) in enumerate(zip(cases, truths)):
    images.write(folder / file_name(case.name, "truth"), truth)
    for task in FLAGS.tasks:
      problem = measure(task, i)
      picture = problem.operator.picture(problem.y)
      images.write(folder / file_name(case.name, task, "measurement"), np.asarray(picture))


def write_restored(folder: pathlib.Path, entrant: Entrant, case: common.Case, restored, place: int) -> None:
  """Write the samples of a picture, their mean and standard deviation, and its chain as a strip of frames."""
  samples, name = restored.images[place], (case.name, entrant.task, entrant.name)
  for k, sample in enumerate(samples):
    images.write(folder / file_name(*name, f"{k:02d}"), sample)
  if len(samples) > 1:
    images.write(folder / file_name(*name, "mean"), np.mean(samples, axis=0))
    if (spread := marking.spread(samples, antithetic=FLAGS.antithetic)) is not None:
      output.write_array(folder / ("-".join(name) + "-std.npy"), spread)
  if restored.frames:
    images.write(folder / file_name(*name, "chain"), np.concatenate(restored.frames[place], axis=1))


def write_sheets(folder: runs.RunFolder, cases: Sequence[common.Case], entrants: Sequence[Entrant]) -> None:
  """Draw the contact sheets of the first pictures: rows are tasks; columns truth, measurement and methods."""
  columns = ["truth", "measurement", *(METHODS[name].title for name in FLAGS.methods)]
  for case in cases[:SHEET_PICTURES]:
    rows = [(TASKS[task].title, sheet_row(folder, case, task, entrants)) for task in FLAGS.tasks]
    name = "sheet.png" if len(cases) == 1 else f"{case.name}-sheet.png"
    images.write_pillow(folder.partial / name, sheet.sheet(columns, rows))


def sheet_row(folder: runs.RunFolder, case: common.Case, task: str, entrants: Sequence[Entrant]) -> list[sheet.Cell]:
  """Return the cells of one task: truth, measurement, the first sample of every method."""
  read = lambda *parts: images.read(folder.pictures / file_name(case.name, *parts), convert=True)
  measurement = read(task, "measurement")
  cells = [sheet.Cell(read("truth")), sheet.Cell(measurement, (images.by(measurement.shape),))]
  for entrant in (e for e in entrants if e.task == task):
    if entrant.excuse:
      cells.append(sheet.Cell(None, ("not for this task",)))
      continue
    marks = folder.rows[task, entrant.name, case.name]
    if marks.get("failed"):
      cells.append(sheet.Cell(None, ("failed",)))
      continue
    first = {name: marks[name][0] for name in ("psnr", "ssim") if name in marks}
    cells.append(sheet.Cell(read(task, entrant.name, "00"), common.caption(first)))
  return cells


# Reports


def results(folder: runs.RunFolder) -> dict[str, Any]:
  """Return the contents of results.json: the plan, the summary, and every run with its rows."""
  rows = sorted_rows(folder)
  by_run = [
    {**run, "images": [row for row in rows if (row["task"], row["method"]) == (run["task"], run["method"])]}
    for run in folder.plan["runs"]
  ]
  return {**folder.plan, "summary": summarize(folder.plan, rows), "runs": by_run}


def sorted_rows(folder: runs.RunFolder) -> list[runs.Row]:
  """Return the rows in the order of the plan, however the run was cut up."""
  order = [
    (run["task"], run["method"], image["name"]) for run in folder.plan["runs"] for image in folder.plan["images"]
  ]
  return [folder.rows[key] for key in order if key in folder.rows]


def print_report(got: dict[str, Any]) -> None:
  """Print the table: means over the pictures with their 95 % intervals; seconds a picture without compilation."""
  marks = {"psnr": ("PSNR dB", 2), "ssim": ("SSIM", 3), "chi2": ("chi2", 2)}
  more = {"lpips": ("LPIPS", 3), "mean_psnr": ("PSNR of mean", 2), "mean_ssim": ("SSIM of mean", 3)}
  marks |= {name: how for name, how in more.items() if any(name in entry for entry in got["summary"])}
  header = ["task", "method", *(title for title, _ in marks.values()), "seconds", "evaluations", "gradients", "MB"]
  rows = []
  for entry in got["summary"]:
    cells = [text.interval(entry.get(mark), digits) for mark, (_, digits) in marks.items()]
    seconds = text.number((entry.get("seconds") or {}).get("mean"), 2)
    counts = [text.number(entry.get(name), 0) for name in ("evaluations", "gradients")]
    memory = text.number(None if entry.get("peak_bytes") is None else entry["peak_bytes"] / 1e6, 0)
    rows.append([entry["task"], entry["method"], *cells, seconds, *counts, memory])
  print(text.table(header, rows))
  for run in got["runs"]:
    if run["skipped"]:
      print(f"{run['task']}: {run['skipped']}")
  for entry in got["summary"]:
    if entry.get("failed"):
      number = f"{entry['failed']} of {entry['failed'] + entry['count']} pictures"
      print(f"{entry['task']}: {entry['method']} failed on {number}, which its means leave out: {entry['failure']}")
  seconds = sum(row["compile_seconds"] for run in got["runs"] for row in run["images"])
  print(f"{seconds:.0f} s to compile; pictures: {FLAGS.output}")
  if FLAGS.report:
    print(f"open {pathlib.Path(FLAGS.output) / report.PAGE}")


if __name__ == "__main__":
  run_module(main, FLAGS)
