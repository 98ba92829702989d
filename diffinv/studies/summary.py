"""From the rows of a comparison, one per task, method and picture, to means with confidence intervals.

The unit is the picture: a quality of a picture is its mean over the posterior samples, and the mean over pictures comes
with its 95 % Student-t interval, mean ± t(0.975, n - 1) s / sqrt(n). It says how far the mean may move with other
pictures of the same kind; pictures are shared by the methods, so differences between methods are known better than
that. Numbers that are not finite (JSON has them as null), such as the PSNR of equal pictures, are left out.

A picture on which a method failed has no quality. The means are then of the other pictures, perhaps the easier ones:
`failed` says of how many they are not, and such a method competes with no other. Nor does one that has finished fewer
tasks or pictures than others, of a comparison that is still going: see `competing`.
"""

import math
from typing import Any, Iterable, Sequence

import numpy as np
from scipy import special

OF_SAMPLES = ("psnr", "ssim", "lpips", "chi2")  # a list in a row: one number per posterior sample
OF_PICTURES = ("mean_psnr", "mean_ssim", "best_psnr", "best_ssim", "crps", "seconds")  # one number in a row
CONFIDENCE = 0.95
GRADIENT = 2.0  # evaluations of the network that a gradient through it takes as long as, besides its own


def weight(evaluations: float, gradients: float) -> float:
  """Return the time of a chain in network evaluations: a gradient costs about two more."""
  return evaluations + GRADIENT * gradients


def summarize(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sum up every run of a comparison.

  Args:
    run: what `run.json` holds.
    rows: the lines of `rows.jsonl`, in any order, perhaps not all; of several of one task, method and picture the last
      one counts.

  Returns:
    an entry per run, in the order of `run["runs"]`: task, method, count and failed (pictures), evaluations, gradients,
    peak_bytes (the largest, or None) and `{"mean", "low", "high"}` for every quality that the rows have, low and high
    None for one picture. `failure` says how the first one failed. `coverage` is the mean over pictures. A skipped run
    has task, method and skipped, the reason.
  """
  return [_entry(entry, _of(rows, entry["task"], entry["method"])) for entry in run["runs"]]


def summarize_methods(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sum up every method over all its tasks, each task with the same weight.

  Returns:
    an entry per method, in the order of `run["methods"]`, as those of `summarize` but for `tasks`, how many of the
    tasks it has finished for some picture, in place of the task. The mean over tasks is taken picture by picture, of
    pictures that have all those tasks. The costs are means over tasks.
  """
  return [_method_entry(method["name"], run, rows) for method in run["methods"]]


def competing(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Return the entries whose means are of the same work, the most that was done: the others may have had it easier.

  Args:
    entries: of `summarize`, of one task, or of `summarize_methods`; without skipped ones.

  Returns:
    those without failures of the most tasks and, of these, of the most pictures.
  """
  whole = [entry for entry in entries if entry["count"] and not entry["failed"]]
  done = lambda entry: (entry.get("tasks", 1), entry["count"])
  most = max(map(done, whole), default=None)
  return [entry for entry in whole if done(entry) == most]


def interval(values: Iterable[float | None]) -> dict[str, float | None] | None:
  """Return the mean with its 95 % Student-t interval, `{"mean", "low", "high"}`.

  Args:
    values: one per picture; what is not finite is left out.

  Returns:
    None without values; low and high are None where there is one only.
  """
  values = _finite(values)
  if not values:
    return None
  mean = math.fsum(values) / len(values)
  if len(values) == 1:
    return {"mean": mean, "low": None, "high": None}
  half = special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / math.sqrt(len(values))
  return {"mean": mean, "low": float(mean - half), "high": float(mean + half)}


def picture_value(row: dict[str, Any], key: str) -> float | None:
  """Return a quality of one picture, its mean over samples; None where there is none."""
  value = row.get(key)
  return _mean(value if isinstance(value, Sequence) else [value])


def _of(rows: Sequence[dict], task: str, method: str) -> list[dict]:
  chosen = {row["image"]: row for row in rows if row["task"] == task and row["method"] == method}
  return list(chosen.values())


def _entry(entry: dict, rows: list[dict]) -> dict[str, Any]:
  names = {"task": entry["task"], "method": entry["method"]}
  if entry.get("skipped") is not None:
    return {**names, "skipped": entry["skipped"]}
  failures = [row["failed"] for row in rows if row.get("failed")]
  rows = [row for row in rows if not row.get("failed")]
  found = {key: interval(picture_value(row, key) for row in rows) for key in OF_SAMPLES + OF_PICTURES}
  return {
    **names,
    "count": len(rows),
    "failed": len(failures),
    **({"failure": failures[0]} if failures else {}),
    **{key: value for key, value in found.items() if value is not None},
    **_coverage(rows),
    "evaluations": entry["evaluations"],
    "gradients": entry["gradients"],
    "peak_bytes": _peak(rows),
  }


def _method_entry(method: str, run: dict, rows: list[dict]) -> dict[str, Any]:
  entries = [entry for entry in run["runs"] if entry["method"] == method and entry.get("skipped") is None]
  by_task = {entry["task"]: _of(rows, entry["task"], method) for entry in entries}
  failed = {row["image"] for chosen in by_task.values() for row in chosen if row.get("failed")}
  by_task = {task: [row for row in chosen if not row.get("failed")] for task, chosen in by_task.items()}
  done = {task: {row["image"]: row for row in chosen} for task, chosen in by_task.items() if chosen}
  shared = set.intersection(*(set(chosen) for chosen in done.values())) if done else set()
  pictures = [[chosen[image["name"]] for chosen in done.values()] for image in run["images"] if image["name"] in shared]
  found = {key: interval(_mean_over_tasks(chosen, key) for chosen in pictures) for key in OF_SAMPLES + OF_PICTURES}
  costs = [entry for entry in entries if entry["task"] in done] or entries
  together = [row for chosen in pictures for row in chosen]
  return {
    "method": method,
    "tasks": len(done),
    "count": len(pictures),
    "failed": len(failed),
    **{key: value for key, value in found.items() if value is not None},
    **_coverage(together),
    "evaluations": _mean(entry["evaluations"] for entry in costs),
    "gradients": _mean(entry["gradients"] for entry in costs),
    "peak_bytes": _peak(together),
  }


def _mean_over_tasks(rows: Sequence[dict], key: str) -> float | None:
  """Return a quality of one picture over tasks; None where a task has none, as the others would not be the mean."""
  values = [picture_value(row, key) for row in rows]
  return None if None in values else _mean(values)


def _coverage(rows: Sequence[dict]) -> dict[str, Any]:
  """Return the mean empirical coverage at each nominal level, where rows have one."""
  curves = [row["coverage"] for row in rows if row.get("coverage")]
  curves = [curve for curve in curves if curve["levels"] == curves[0]["levels"]]
  if not curves:
    return {}
  empirical = [_mean(column) for column in zip(*(curve["empirical"] for curve in curves))]
  return {"coverage": {"levels": curves[0]["levels"], "empirical": empirical}}


def _peak(rows: Sequence[dict]) -> int | None:
  return max((row["peak_bytes"] for row in rows if row.get("peak_bytes") is not None), default=None)


def _finite(values: Iterable[float | None]) -> list[float]:
  return [float(value) for value in values if value is not None and math.isfinite(value)]


def _mean(values: Iterable[float | None]) -> float | None:
  values = _finite(values)
  return math.fsum(values) / len(values) if values else None
