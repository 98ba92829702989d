"""Restorations by the prior beside those by `natural` and without a network, of the same measurements.

The prior and `natural` have a comparison each (`diffinv.compare`), which goes on where it was stopped. Beside them are
the Wiener filters of `natural` and of the fitted Gaussian, total variation and interpolation (`diffinv.baselines`). The
weight of total variation is chosen on other held-out pictures.

PSNR asks for the posterior mean: a sample has about twice its squared error, up to 3 dB, so that the mean of several
stands beside it.
"""

import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import baselines, errors, output, priors, progress
from diffinv.data import held_out, images, sheet
from diffinv.methods import METHODS
from diffinv.metrics import table as metrics
from diffinv.problems import Problem
from diffinv.studies import cases as casing
from diffinv.studies import compare, entrants, marks, measurement, runs
from diffinv.studies.cases import Case
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import GAUSSIAN, Subject
from diffinv.studies.results import Results
from diffinv.studies.study import Study, named_tasks
from diffinv.tasks import TASKS

NETWORK, NATURAL = "network", "natural"
WHO = (NETWORK, NATURAL)  # the comparisons
FOLDER, SHEET = "restoration", "restoration.png"
TV = "total variation"
TV_WEIGHTS = tuple(round(0.1 * 2 ** (-k / 2), 4) for k in range(10, -1, -1))  # from 0.0031
QUALITY = ("psnr", "ssim")
SHEET_PICTURES = 2  # of each task

Means = dict[str, dict[str, list[float | None]]]  # by task and name, [PSNR, SSIM]; None where a method failed


class Measurements(NamedTuple):
  """Held-out pictures and what was measured of them."""

  cases: list[Case]
  truths: list[np.ndarray]
  problems: dict[str, list[Problem]]  # by task


def check(subject: Subject) -> None:
  """Check that the methods can restore, and that there are pictures, before the long work.

  Raises:
    UsageError: a method is not for a task, or there are too few pictures.
  """
  study = study_of(subject, NETWORK, held_out.TEST)
  tasks = named_tasks(study.tasks)
  with errors.usage():
    operators = {name: task.make(jax.random.key(0), subject.shape) for name, task in tasks.items()}
  for entrant in entrants.enter(study, subject.prior, operators):
    if entrant.excuse:
      raise errors.UsageError(f"`methods`: {entrant.task}: {entrant.excuse}")
  if subject.in_set and subject.training.source != "faces":
    _pictures(subject, held_out.TEST)
  if subject.training.source != "faces":
    _pictures(subject, held_out.VALIDATION)


def measure(subject: Subject, home: output.Folder, *, overwrite: bool = False) -> Measured:
  """Compare on the test pictures; the comparisons and a contact sheet go into the folder."""
  weights = choose_weights(subject)
  studies = {who: study_of(subject, who, held_out.TEST) for who in WHO}
  compared = {
    who: compare.compare(study, comparison_folder(home.place, who), overwrite=overwrite)
    for who, study in studies.items()
  }
  measured = measurements(subject, held_out.TEST)
  restored = {
    task: without_network(subject, measured.problems[task], weights["chosen"][task]) for task in weights["chosen"]
  }
  single = {task: _marks(measured, task, pictures) for task, pictures in restored.items()}
  means: Means = {
    task: {
      **{name: mark for who in WHO for name, mark in means_of(compared[who], who, task, measured).items()},
      **{name: np.mean(values, axis=0).tolist() for name, values in by_name.items()},
    }
    for task, by_name in single.items()
  }
  images.write_pillow(home.new(SHEET), _sheet(measured, compared, restored))
  found = {TV: weights, "marks": single, "means": means, "comparisons": [f"{FOLDER}/{who}" for who in WHO]}
  return Measured(found, [_table(subject, means, len(measured.truths))])


def comparison_folder(folder: pathlib.Path, who: str) -> pathlib.Path:
  """Return where a comparison lies: that of the prior, or that of `natural`."""
  return folder / FOLDER / who


# The measurements


def study_of(subject: Subject, who: str, purpose: str) -> Study:
  """Return the comparison of the prior, or that of `natural`, on the pictures of a purpose."""
  config = subject.config
  own: dict[str, Any] = {"prior": NATURAL}
  if who == NETWORK:
    own = {name: getattr(config, name) for name in ("prior", "label", "guidance", "dtype", "remat", "settings")}
  shared = ("steps", "seed", "batch_size", "devices", "tasks", "methods", "num_samples", "antithetic")
  count = _count(subject, purpose)
  data = subject.training.source if subject.in_set else list(subject.held_out(purpose, count))
  return Study(
    **own,
    **{name: getattr(config, name) for name in shared},
    data=data,
    size=subject.training.size,
    num_images=count if subject.in_set else None,
  )


def _count(subject: Subject, purpose: str) -> int:
  return subject.config.test_images if purpose == held_out.TEST else subject.config.validation_images


def _pictures(subject: Subject, purpose: str) -> None:
  """Read the pictures of a purpose, to see whether there are as many.

  Raises:
    UsageError: there are not.
  """
  option = "test_images" if purpose == held_out.TEST else "validation_images"
  try:
    pictures = subject.held_out(purpose, _count(subject, purpose))
  except errors.UsageError:
    raise
  except ValueError as error:
    raise errors.UsageError(f"`{option}`: {str(error).removeprefix('num_images: ')}") from None
  if not len(pictures):
    raise errors.UsageError("`prior`: expected one whose training held out at least 2 files for restoration, got 1")


def measurements(subject: Subject, purpose: str) -> Measurements:
  """Read and measure the pictures of a purpose, as the comparisons do."""
  study = study_of(subject, NETWORK, purpose)
  tasks = named_tasks(study.tasks)
  multiple = measurement.size_multiple(list(tasks.values()))
  cases, truths = casing.read_pictures(
    study, subject.prior, multiple, list(tasks), purpose=purpose, count=_count(subject, purpose)
  )
  pairs = list(zip(cases, truths, strict=True))
  problems = {
    name: [measurement.measured(study, name, task, case, truth) for case, truth in pairs]
    for name, task in tasks.items()
  }
  return Measurements(cases, truths, problems)


# Without a network


def choose_weights(subject: Subject) -> dict[str, Any]:
  """Return the weight of total variation of the highest mean PSNR on the validation pictures, by task, and all marks.

  Raises:
    ValueError: none stays finite.
  """
  measured = measurements(subject, held_out.VALIDATION)
  marked: dict[str, list[float]] = {task: [] for task in measured.problems}
  with progress.Bar(len(marked) * len(TV_WEIGHTS)) as bar:
    for task, problems in measured.problems.items():
      for weight in TV_WEIGHTS:
        pictures = [baselines.total_variation(problem, weight=weight) for problem in problems]
        marked[task].append(float(np.mean([psnr for psnr, _ in _marks(measured, task, {TV: pictures})[TV]])))
        bar.part(1.0, f"{task} {TV}")(1, 1)
  chosen = {task: metrics.mark("psnr").best(values) for task, values in marked.items()}
  if None in chosen.values():
    raise ValueError("restoration: expected a weight of total variation that stays finite, got none")
  return {
    "weights": TV_WEIGHTS,
    "psnr": marked,
    "chosen": {task: TV_WEIGHTS[number] for task, number in chosen.items() if number is not None},
  }


def without_network(subject: Subject, problems: Sequence[Problem], weight: float) -> dict[str, list[np.ndarray]]:
  """Restore every problem by every way without a network, [h, w, c] each, by its name."""
  natural, fitted = priors.natural(), subject.gaussians[GAUSSIAN]
  return {
    "Wiener, natural": [np.asarray(_wiener(natural, problem)) for problem in problems],
    f"Wiener, {GAUSSIAN}": [np.asarray(_wiener(fitted, problem)) for problem in problems],
    TV: [baselines.total_variation(problem, weight=weight) for problem in problems],
    "interpolation": [baselines.interpolate(problem) for problem in problems],
  }


_wiener = jax.jit(baselines.wiener)


def _marks(measured: Measurements, task: str, pictures: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list]:
  """Return [PSNR, SSIM] of every picture, by the name of what restored it."""
  return {name: [quality(*some) for some in zip(measured.problems[task], restored, measured.truths, strict=True)]
          for name, restored in pictures.items()}  # fmt: skip


def quality(problem: Problem, picture: np.ndarray, truth: np.ndarray) -> list[float]:
  """Return PSNR and SSIM of a picture, clipped; SSIM is NaN of pictures that are smaller than its window."""
  found = marks.scores(problem, picture[None], truth)[0]
  return [found.get(name, float("nan")) for name in QUALITY]


# Of the comparisons


def averaged_counts(samples: int) -> list[int]:
  """Return of how many samples the mean is marked: 4, 16, ... of `samples`, and all of them."""
  powers = itertools.takewhile(lambda count: count < samples, (4**k for k in itertools.count(1)))
  return [*powers, samples] if samples > 1 else []


def means_of(results: Results, who: str, task: str, measured: Measurements) -> dict[str, list[float | None]]:
  """Return the mean [PSNR, SSIM] of each method's samples, and of means of its samples, by name."""
  found: dict[str, list[float | None]] = {}
  counts = averaged_counts(results.plan["num_samples"])
  for entry in (entry for entry in results.summary if entry["task"] == task):
    name = f"{METHODS[entry['method']].title}, {who}"
    found[name] = _means(entry, QUALITY)
    for count in counts[:-1]:
      found[f"{name}, mean of {count}"] = [None] * 2 if entry["failed"] else _of_first(results, entry, count, measured)
    for count in counts[-1:]:
      found[f"{name}, mean of {count}"] = _means(entry, [f"mean_{key}" for key in QUALITY])
  return found


def _means(entry: Mapping[str, Any], keys: Sequence[str]) -> list[float | None]:
  """Return means over the pictures; none where a method failed on one: the others may have been the easier ones."""
  there = [None if entry["failed"] else entry.get(key) for key in keys]
  return [None if value is None else value["mean"] for value in there]


def _of_first(results: Results, entry: Mapping[str, Any], count: int, measured: Measurements) -> list[float | None]:
  """Mark the mean of the first samples, as the files have them."""
  task, method = entry["task"], entry["method"]
  count = min(count, runs.samples_of(results.plan, entry))
  pictures = [
    np.mean([_read(results, runs.sample(case.name, task, method, k)) for k in range(count)], axis=0)
    for case in measured.cases
  ]
  return np.mean(_marks(measured, task, {method: pictures})[method], axis=0).tolist()


def _read(results: Results, name: str) -> np.ndarray:
  return images.read(results.folder / runs.PICTURES / name, convert=True)


# Reports


def _table(subject: Subject, means: Means, count: int) -> Table:
  """Lay out PSNR and SSIM by task and method, and the network's lead over the best of the others."""
  tasks = list(means)
  names = list(means[tasks[0]])
  rows = [[name, *(value for task in tasks for value in means[task][name])] for name in names]
  ours = [name for name in names if f", {NETWORK}" in name]
  for name in ours:
    lead = [value for task in tasks for value in _lead(means[task], name, ours)]
    rows.append([f"lead of {name}, over the best of the others", *lead])
  columns = ["method", *(f"{TASKS[task].title}: {mark}" for task in tasks for mark in ("dB", "SSIM"))]
  paired = " in pairs of opposite noise" if subject.config.antithetic else ""
  title = f"Mean PSNR and SSIM of {count} images, {subject.config.num_samples} samples each{paired}"
  return Table(title, columns, rows, [2, 3] * len(tasks))


def _lead(means: Mapping[str, list[float | None]], name: str, ours: Sequence[str]) -> list[float | None]:
  """Return by how much PSNR and SSIM are ahead of the best of what is not `ours`."""
  others = [values for other, values in means.items() if other not in ours]
  finite = [[value for value in column if value is not None] for column in zip(*others, strict=True)]
  best = [max(column, default=None) for column in finite]
  return [None if mine is None or top is None else mine - top for mine, top in zip(means[name], best, strict=True)]


def _sheet(measured: Measurements, compared: Mapping[str, Results], restored: Mapping[str, dict]) -> Any:
  """Draw the first pictures of every task: truth, measurement, a sample of every method, and what needs no network."""
  found = [(who, method) for who in WHO for method in dict.fromkeys(e["method"] for e in compared[who].summary)]
  columns = ["truth", "measurement", *(f"{METHODS[method].title}, {who}" for who, method in found)]
  rows = []
  for task, pictures in restored.items():
    for i, case in enumerate(measured.cases[:SHEET_PICTURES]):
      shown = [_sample(compared[who], case, task, method) for who, method in found]
      shown += [some[i] for some in pictures.values()]
      cell = functools.partial(_cell, measured.problems[task][i], measured.truths[i])
      problem = measured.problems[task][i]
      first = [sheet.Cell(measured.truths[i]), sheet.Cell(np.asarray(problem.operator.picture(problem.y)))]
      rows.append((f"{TASKS[task].title}, image {i + 1}", [*first, *map(cell, shown)]))
  return sheet.sheet([*columns, *next(iter(restored.values()))], rows)


def _sample(results: Results, case: Case, task: str, method: str) -> np.ndarray | None:
  """Return the first sample of a method; None where it failed."""
  name = runs.sample(case.name, task, method)
  return _read(results, name) if (results.folder / runs.PICTURES / name).is_file() else None


def _cell(problem: Problem, truth: np.ndarray, picture: np.ndarray | None) -> sheet.Cell:
  if picture is None:
    return sheet.Cell(None, ("failed",))
  return sheet.Cell(picture, marks.caption(dict(zip(QUALITY, quality(problem, picture, truth), strict=True))))
