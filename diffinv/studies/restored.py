"""What a restoration comes to: pictures, marks and notes, in memory or as files."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffinv.data import images, sheet
from diffinv.problems import Problem
from diffinv.studies import advice, chains, marks, measurement, runs, unknown
from diffinv.studies.cases import Case
from diffinv.studies.jobs import Job
from diffinv.tasks import Task

SHEET_SAMPLES = 6  # on a sheet; more would be too small to see


@dataclasses.dataclass(frozen=True)
class Restored:
  """What one measurement was restored to. `np.asarray(restored)` is the picture."""

  picture: np.ndarray  # [h, w, c], [-1, 1] and not clipped: the mean of the samples
  samples: np.ndarray  # [samples, h, w, c]
  std: np.ndarray | None  # of the samples, [h, w, c]; None for one
  marks: list[dict[str, float]]  # of each sample: chi2, 1 where what is left of y is noise, and residual_norm
  problem: Problem
  notes: tuple[str, ...] = ()  # what there is to say of the measurement and its fit, see `diffinv.studies.advice`

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(self.picture, dtype=dtype, copy=copy)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write the picture to an image file."""
    images.write(path, self.picture)

  def _repr_png_(self) -> bytes:
    return images.png(self.picture)


# Files


def failures(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Return how restorations failed, by picture."""
  return {entry["name"]: entry["failed"] for entry in entries if "failed" in entry}


def contents(about: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
  """Return the contents of results.json: the plan, what was spent, and an entry a picture."""
  images = [{name: value for name, value in entry.items() if name != "compile_seconds"} for entry in entries]
  about = {name: value for name, value in about.items() if name != "pictures"}
  notes = advice.collected({entry["name"]: entry.pop("notes", []) for entry in images})
  return {**about, **chains.total(entries), "images": images, "notes": notes}


def write_case(
  run: runs.RunFolder, job: Job, case: Case, problem: Problem, pictures: np.ndarray, truth: np.ndarray | None
) -> tuple[dict[str, Any], list[str]]:
  """Write everything about one picture; return its entry of results.json and the names of its files."""
  digits = max(2, len(str(len(pictures) - 1)))
  several = [f"{case.name}-{i:0{digits}d}.png" for i in range(len(pictures))]
  names = [f"{case.name}.png"] if len(pictures) == 1 else several
  found, mean_marks = marks.scores(problem, pictures, truth), mean_scores(problem, pictures, truth)
  pictures = job.in_srgb(case, unknown.inside(problem.operator, pictures))
  seen = job.in_srgb(case, np.asarray(problem.operator.picture(problem.y))[None])[0]
  entry: dict[str, Any] = {
    "name": case.name,
    "source": case.path,
    "shape": case.shape,
    "measurement_shape": problem.y.shape,
    "noise": measurement.describe_noise(problem.noise),
    "samples": [{"file": name, **scores} for name, scores in zip(names, found, strict=True)],
  }
  arrays = dict(zip(names, pictures, strict=True))
  if len(pictures) > 1:
    name, mean = f"{case.name}-mean.png", np.mean(pictures, axis=0)
    arrays[name] = mean
    entry["mean"] = {"file": name, **mean_marks}
  entry["notes"] = notes(job, case, problem, entry.get("mean", entry["samples"][0]))
  if job.config.finds_mask:
    entry["notes"].append(advice.found_mask(problem, run.path / f"{case.name}-mask.png"))
  names = run.write({**arrays, **measurement_files(job.task, case.name, problem, seen)})
  sheet_name = f"{case.name}-sheet.png"
  images.write_pillow(run.new(sheet_name), draw_sheet(job, problem, seen, pictures, truth, entry))
  return entry, [*names, sheet_name]


def mean_scores(problem: Problem, pictures: np.ndarray, truth: np.ndarray | None) -> dict[str, float]:
  """Return the marks of the mean of several samples; none of one."""
  return marks.scores(problem, np.mean(pictures, axis=0)[None], truth)[0] if len(pictures) > 1 else {}


def notes(job: Job, case: Case, problem: Problem, scores: Mapping[str, float]) -> list[str]:
  """Return what there is to say of a picture with these marks."""
  read = job.read(case.path) if job.config.measurement else None
  found = job.known[case.name].kernel is not None
  return advice.notes(problem, scores, task=job.task, y=read, given=job.config.given, found=found)


def draw_sheet(job: Job, problem: Problem, seen, pictures, truth, entry: dict[str, Any]) -> Any:
  """Draw truth, the measurement as it is `seen`, samples, and their mean and standard deviation, side by side."""
  cells = [] if truth is None else [("truth", sheet.Cell(truth))]
  size = images.by(problem.y.shape) if problem.operator.is_picture else "x".join(map(str, problem.y.shape))
  cells.append(("measurement", sheet.Cell(seen, (size,))))
  if job.config.blur is not None or job.config.kernel is not None:
    cells.append(("kernel", sheet.Cell(_shown_kernel(problem))))
  for i, (picture, found) in enumerate(list(zip(pictures, entry["samples"], strict=True))[:SHEET_SAMPLES]):
    title = job.method.title if len(pictures) == 1 else f"sample {i + 1}"
    cells.append((title, sheet.Cell(picture, marks.caption(found))))
  if len(pictures) > 1:
    cells.append(("mean", sheet.Cell(np.mean(pictures, axis=0), marks.caption(entry["mean"]))))
  if (spread := marks.spread(pictures, antithetic=job.config.antithetic)) is not None:
    spread = np.mean(spread, axis=-1, keepdims=True)
    cells.append(("standard deviation", sheet.Cell(4.0 * spread - 1.0, ("black 0, white 0.5",))))
  return sheet.sheet([title for title, _ in cells], [(job.task.title, [cell for _, cell in cells])])


def _shown_kernel(problem: Problem) -> np.ndarray:
  """Return the kernel as a picture, [k, l, 1], its largest value white."""
  taps = np.asarray(problem.operator.kernel)  # type: ignore[attr-defined]  # of a blur that was said or found
  return 2.0 * np.clip(taps / np.max(taps), 0.0, 1.0)[..., None] - 1.0


def measurement_files(task: Task, name: str, problem: Problem, seen: np.ndarray) -> dict[str, np.ndarray]:
  """Return what `measurement`, `mask` and `kernel` take, by the names of files; and what is `seen` of it."""
  operator: Any = problem.operator
  found = {} if task.given == "file" else {f"{name}-measurement.npy": np.asarray(problem.y)}  # a file says more
  found[f"{name}-measurement.png"] = seen
  if task.given == "mask":
    found[f"{name}-mask.png"] = 2.0 * np.asarray(operator.mask) - 1.0
  elif hasattr(operator, "kernel"):
    found[f"{name}-kernel.npy"] = np.asarray(operator.kernel)
  return found
