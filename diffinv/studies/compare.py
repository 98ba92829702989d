"""A comparison: every method restores the same measurements from the same seeds, and none sees the truth.

What comes out goes into a folder as it is made (see `diffinv.studies.runs`), so that a comparison that was stopped goes
on where it was and ends with the same result.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import devices, errors, memory, progress, stopping
from diffinv.baselines import Baseline
from diffinv.data import bundled, held_out, images, sheet
from diffinv.launch import ALONE, Team
from diffinv.metrics import perceptual
from diffinv.priors import PicturePrior, tensor_files
from diffinv.problems import Problem
from diffinv.studies import cases as casing
from diffinv.studies import chains, entrants, identity, marks, measurement, runs
from diffinv.studies.cases import Case
from diffinv.studies.entrants import Entrant
from diffinv.studies.results import Results, in_order, read_results
from diffinv.studies.study import TEST_IMAGES, Study, check_batch_size, named_methods, named_tasks, with_batch_size
from diffinv.tasks import TASKS, Task

COMMAND = "compare"
SHEET_PICTURES = 8  # with a sheet of their own
KEPT_PROBLEMS = 256  # in memory at once; the others are made anew when they are needed

Measure = Callable[[str, int], Problem]  # (task, number of the picture) -> its measurement: all that methods see


class Comparison(NamedTuple):
  """What a study asks for, loaded and checked, nothing of it done."""

  study: Study
  folder: pathlib.Path | None  # as the caller named it
  prior: PicturePrior
  tasks: dict[str, Task]
  cases: list[Case]
  truths: list[np.ndarray]
  measure: Measure
  entrants: list[Entrant]
  lpips: perceptual.LPIPS | None
  plan: dict[str, Any]  # the contents of run.json


def compare(
  study: Study,
  folder: str | os.PathLike[str] | None = None,
  *,
  overwrite: bool = False,
  restart: bool = False,
  team: Team = ALONE,
) -> Results:
  """Restore the same measurements with several methods, or go on where that was stopped.

  Args:
    study: what to compare.
    folder: to write; FOLDER.running while the comparison runs. None: a temporary one, which goes with the results. A
      finished comparison of the same study is read, not run again.
    overwrite: replace an existing folder, at the end.
    restart: throw away what FOLDER.running holds.
    team: processes that share the work (`diffinv.launch`), each of which makes this call; the first returns all
      results, the others what they know.

  Raises:
    UsageError: options do not fit together.
    FileExistsError: the folder, or FOLDER.running, holds something else.
    ValueError: a file or a picture cannot be used.

  Example:
    >>> import diffinv
    >>> study = diffinv.Study(prior="natural", tasks=["denoising"], methods=["wiener"], size=16, fit="resize")
    >>> results = diffinv.compare(study)
    >>> [(row["task"], row["method"], row["psnr"] > 15) for row in results.rows]
    [('denoising', 'wiener', True)]
  """
  if folder is None and team.count > 1:
    raise errors.UsageError("`folder`: expected one that all processes see, got none; name it")
  check_batch_size(study, team.count)
  kept = tempfile.TemporaryDirectory(prefix="diffinv-") if folder is None else None
  path = pathlib.Path(kept.name) / "study" if kept is not None else pathlib.Path(os.path.expanduser(str(folder)))
  casing.check_apart(study, path)
  runs.check_free(path, overwrite=overwrite)
  comparison = prepare(study, None if kept is not None else path)
  if runs.is_done(path, comparison.plan, overwrite=overwrite):
    return read_results(path)

  def work(run: runs.RunFolder, team: Team = team) -> Results:
    write_measurements(run, comparison, team)
    restore_all(run, comparison, team)
    return Results(run.path, run.plan, in_order(run.plan, run.rows), kept)

  def finish(run: runs.RunFolder) -> Results:
    results = work(run, ALONE)
    write_sheets(run, comparison)
    run.finish(results.contents(), overwrite=overwrite)
    return results

  run = runs.RunFolder(path, comparison.plan, process=team.index)
  return runs.divide(run, team, work, finish, restart=restart)


def prepare(study: Study, folder: pathlib.Path | None) -> Comparison:
  """Load the prior and the pictures, build the methods, and plan the comparison.

  Raises:
    UsageError: options do not fit together.
    ValueError: a file or a picture cannot be used.
  """
  devices.split_cpu(study.devices)
  prior, tasks = identity.load(study), named_tasks(study.tasks)
  entrants.note_settings(study)
  study = study if study.data else dataclasses.replace(study, data=(str(bundled.BEE),))
  multiple = measurement.size_multiple(list(tasks.values()))
  cases, truths = casing.read_pictures(study, prior, multiple, list(tasks), purpose=held_out.TEST, count=TEST_IMAGES)
  devices.mesh(study)  # tells too many
  measure = functools.lru_cache(KEPT_PROBLEMS)(
    lambda task, i: measurement.measured(study, task, tasks[task], cases[i], truths[i])
  )
  entering = entrants.enter(study, prior, {task: measure(task, 0).operator for task in tasks})
  entrants.note_steps(study, {e.name: e.spacing for e in entering if e.from_settings})
  lpips = read_lpips(study, cases[0].shape)
  found = Comparison(study, folder, prior, tasks, cases, truths, measure, entering, lpips, {})
  found = found._replace(study=with_batch_size(study, lambda: largest_batches(found)))
  check_memory(found)
  return found._replace(plan=plan(found))


def read_lpips(study: Study, shape: tuple[int, int, int]) -> perceptual.LPIPS | None:
  """Read the weights of LPIPS, if the study names any, to measure pictures of `shape`.

  Raises:
    UsageError: the pictures are too small, or not of color.
    ValueError: the file does not hold the weights.
  """
  if study.lpips is None:
    return None
  if min(shape[:2]) < perceptual.MIN_PIXELS:
    least = images.by((perceptual.MIN_PIXELS,) * 2)
    raise errors.UsageError(f"`lpips`: expected pictures of {least} or more, got {images.by(shape)}; leave it out")
  if shape[2] != images.CHANNELS["RGB"]:
    raise errors.UsageError(f"`lpips`: expected pictures of color, got {shape[2]} channel; leave it out")
  if isinstance(study.lpips, perceptual.LPIPS):
    return study.lpips
  try:
    stored = tensor_files.read_state_dict(pathlib.Path(study.lpips))
    return perceptual.from_state_dict({name: np.asarray(tensor) for name, tensor in stored.items()})
  except ValueError as error:
    raise ValueError(f"`lpips`: {error}") from None


def largest_batches(c: Comparison) -> list[int]:
  """Return how many chains of each method the memory allows at once."""
  return [
    memory.largest_batch(
      c.prior,
      entrant.method,
      c.measure(entrant.task, 0),
      entrant.grid,
      chains=len(c.cases) * c.study.num_samples,
      shape=c.cases[0].shape,
      mesh=devices.mesh(c.study),
    )
    for entrant in c.entrants
    if not (entrant.excuse or isinstance(entrant.method, Baseline))
  ]


def check_memory(c: Comparison) -> None:
  """Check that the machine has the memory for every method.

  Raises:
    UsageError: it has not.
  """
  part = chains.chunks(len(c.cases), c.study.num_samples, c.study.chains_at_once)[0]
  kept = memory.pictures(len(c.cases), c.cases[0].shape)
  for entrant in c.entrants:
    if not (entrant.excuse or isinstance(entrant.method, Baseline)):
      memory.check_chains(
        c.prior,
        entrant.method,
        c.measure(entrant.task, 0),
        entrant.grid,
        chains=len(part) * c.study.num_samples,
        batch_size=c.study.chains_at_once,
        shape=c.cases[0].shape,
        kept=kept,
        mesh=devices.mesh(c.study),
      )


# The plan


def plan(c: Comparison) -> dict[str, Any]:
  """Return the contents of run.json: what is compared, and how."""
  return {
    **identity.provenance(c.study, COMMAND, output=None if c.folder is None else str(c.folder)),
    "prior": identity.describe_prior(c.study, c.prior),
    **identity.objects(c.study),
    "data": ", ".join(map(str, identity.plain_option(c.study.data))),
    "images": casing.describe_cases(c.cases, c.truths),
    "num_samples": c.study.num_samples,
    "lpips": _describe_lpips(c.study),
    "tasks": [_describe_task(c, name, task) for name, task in c.tasks.items()],
    "methods": [_describe_title(name, method) for name, method in named_methods(c.study.methods).items()],
    "runs": [entrant.describe() for entrant in c.entrants],
  }


def _describe_task(c: Comparison, name: str, task: Task) -> dict[str, Any]:
  noise = measurement.describe_noise(measurement.noise_model(c.study, task, c.cases[0].shape[2]))
  entry = {"name": name, "title": task.title, "noise": noise}
  if TASKS.get(name) is task:
    return entry
  return {**entry, "operator": identity.fingerprint(task.make(jax.random.key(0), c.cases[0].shape))}


def _describe_title(name: str, method: Any) -> dict[str, Any]:
  title = method.title if name == method.name else f"{method.title} ({name})"
  without = {"network": False, **method.source()} if isinstance(method, Baseline) else {}
  return {"name": name, "title": title, "citation": getattr(method, "citation", ""), **without}


def _describe_lpips(study: Study) -> dict[str, Any] | None:
  if study.lpips is None:
    return None
  if isinstance(study.lpips, perceptual.LPIPS):
    return {"sha256": identity.fingerprint(study.lpips)}
  return {"sha256": tensor_files.sha256(pathlib.Path(study.lpips))}


# Chains


def restore_all(run: runs.RunFolder, c: Comparison, team: Team = ALONE) -> None:
  """Run what is missing, a chunk of pictures at a time; a chain's key depends on its picture and number only.

  Chunks are those of all pictures, whoever runs them, so that the same programs compute the same numbers.
  """
  parts = chains.chunks(len(c.cases), c.study.num_samples, c.study.chains_at_once)
  single = chains.chunks(len(c.cases), 1, 1)
  wanted = [
    (entrant, missing)
    for entrant in c.entrants
    if not entrant.excuse
    for part in (single if isinstance(entrant.method, Baseline) else parts)
    if (missing := [i for i in part if (entrant.task, entrant.name, c.cases[i].name) not in run.rows])
  ]
  wanted = team.share(wanted)
  with progress.Bar(sum(entrant.weight * len(part) for entrant, part in wanted) or 1.0) as bar:
    for entrant, part in wanted:
      report = bar.part(entrant.weight * len(part), f"{entrant.task} {entrant.name}")
      restored = restore_part(c, entrant, part, parts[0], report)
      run.append([finished(run, c, entrant, i, restored, place, len(part)) for place, i in enumerate(part)])


def restore_part(c: Comparison, entrant: Entrant, part: list[int], first: range, report) -> chains.Restored:
  """Restore a chunk of pictures; a shorter one is filled up with its last picture, for one compilation."""
  if isinstance(entrant.method, Baseline):
    return chains.restore_once(entrant.method, [c.measure(entrant.task, i) for i in part], report)
  chosen, samples = chains.filled(part, len(first)), 1 if entrant.deterministic else c.study.num_samples
  return chains.restore(
    [casing.chain_keys(c.study, c.cases[i])[:samples] for i in chosen],
    entrant.method,
    c.prior,
    [c.measure(entrant.task, i) for i in chosen],
    entrant.grid,
    chunk=c.study.chains_at_once,
    mesh=devices.mesh(c.study),
    progress=report,
    frames=c.study.frames,
  )


def finished(
  run: runs.RunFolder, c: Comparison, entrant: Entrant, i: int, restored, place: int, count: int
) -> tuple[runs.Row, list[str]]:
  """Write the pictures of one restored picture; return its row, its marks or how the method `failed`, and files."""
  written: list[str] = []
  if failure := marks.failure(restored.images[place]):
    found = {"failed": failure}
  else:
    written = write_restored(run, c, entrant, c.cases[i], restored, place)
    problem, truth = c.measure(entrant.task, i), c.truths[i]
    samples = restored.images[place]
    found = marks.marks(problem, samples, truth, c.lpips, antithetic=c.study.antithetic and len(samples) > 1)
    found |= marks.of_one(found) if len(samples) < c.study.num_samples else {}
  row = {
    "task": entrant.task,
    "method": entrant.name,
    "image": c.cases[i].name,
    **found,
    "seconds": restored.run_seconds / len(restored.images),
    "compile_seconds": restored.compile_seconds / count,
    "peak_bytes": restored.step_bytes,
    # What the two above and the seconds depend on.
    "batch_size": c.study.batch_size,
    "devices": c.study.devices,
    "remat": c.study.remat,
  }
  return row, written


# Pictures


def write_measurements(run: runs.RunFolder, c: Comparison, team: Team = ALONE) -> None:
  """Write the truths and what was measured of them, as far as no other process just did."""
  for i in team.share(range(len(c.cases))):
    case, truth = c.cases[i], c.truths[i]
    if f"{runs.PICTURES}/{runs.truth(case.name)}" in run.taken:
      continue
    stopping.check()
    pictures = {runs.truth(case.name): truth}
    for task in c.tasks:
      problem = c.measure(task, i)
      pictures[runs.measurement(case.name, task)] = np.asarray(problem.operator.picture(problem.y))
    run.write(_in_pictures(pictures))


def write_restored(run: runs.RunFolder, c: Comparison, entrant: Entrant, case: Case, restored, place: int) -> list[str]:
  """Write the samples of a picture, their mean and standard deviation, and its chain; return the names of the files."""
  samples, name = restored.images[place], (case.name, entrant.task, entrant.name)
  arrays = {runs.sample(*name, k): sample for k, sample in enumerate(samples)}
  if c.study.num_samples > 1:  # a picture of which all samples would be the same is their mean
    arrays[runs.mean(*name)] = np.mean(samples, axis=0)
  if len(samples) > 1 and (spread := marks.spread(samples, antithetic=c.study.antithetic)) is not None:
    arrays[runs.spread(*name)] = spread
  if restored.frames:
    arrays[runs.chain(*name)] = np.concatenate(restored.frames[place], axis=1)
  return run.write(_in_pictures(arrays))


def _in_pictures(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {f"{runs.PICTURES}/{name}": array for name, array in arrays.items()}


def write_sheets(run: runs.RunFolder, c: Comparison) -> None:
  """Draw the contact sheets of the first pictures: rows are tasks; columns truth, measurement and methods.

  A method that no task suits has no column.
  """
  suited = {entrant.name for entrant in c.entrants if not entrant.excuse}
  columns = ["truth", "measurement", *(entry["title"] for entry in c.plan["methods"] if entry["name"] in suited)]
  for i, case in enumerate(c.cases[:SHEET_PICTURES]):
    stopping.check()
    rows = [(task.title, sheet_row(run, c, i, name, suited)) for name, task in c.tasks.items()]
    images.write_pillow(run.new(runs.sheet(None if len(c.cases) == 1 else case.name)), sheet.sheet(columns, rows))


def sheet_row(run: runs.RunFolder, c: Comparison, i: int, task: str, methods: set[str]) -> list[sheet.Cell]:
  """Return the cells of one task: truth, measurement, the first sample of each of the methods."""
  case, problem = c.cases[i], c.measure(task, i)
  measured = np.asarray(problem.operator.picture(problem.y))
  cells = [sheet.Cell(c.truths[i]), sheet.Cell(measured, (images.by(measured.shape),))]
  return cells + [_sheet_cell(run, case, e) for e in c.entrants if e.task == task and e.name in methods]


def _sheet_cell(run: runs.RunFolder, case: Case, entrant: Entrant) -> sheet.Cell:
  if entrant.excuse:
    return sheet.Cell(None, ("not for this task",))
  row = run.rows[entrant.task, entrant.name, case.name]
  if row.get("failed"):
    return sheet.Cell(None, ("failed",))
  first: dict[str, float] = {name: row[name][0] for name in ("psnr", "ssim") if row.get(name)}
  picture = images.read(run.partial / runs.PICTURES / runs.sample(case.name, entrant.task, entrant.name), convert=True)
  return sheet.Cell(picture, marks.caption(first))
