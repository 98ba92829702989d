"""From the rows of a comparison, one for each task, method and picture, to means with confidence intervals.

The unit is the picture: a mark of a picture is its mean over the posterior samples, and the mean over pictures comes
with its 95 % Student-t interval, mean ± t(0.975, n - 1) s / sqrt(n). The interval says how far the mean may move with
other pictures of the same kind. All methods restore the same pictures, so differences between methods are known better
than that. Values that are not finite (null in JSON), such as the PSNR of equal pictures, are left out.

A picture on which a method failed has no marks. The means are then of the other pictures, which may be the easier ones:
`failed` counts those left out, and such a method does not compete for the best. Nor does a method that has finished
fewer tasks or pictures than others in a comparison that is still running: see `competing`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import special

from diffinv import text
from diffinv.metrics import table as metrics

HEADLINE = "psnr"  # the mark that methods are held against one another by, that cards and figures show
CONFIDENCE = 0.95
GRADIENT = 2.0  # network evaluations that take as long as one gradient through it, besides its own evaluation
# The costs in a terminal: key, heading, decimals, and what the number is multiplied by.
COSTS = (
  ("seconds", "seconds", 2, 1.0),
  ("evaluations", "evaluations", 0, 1.0),
  ("gradients", "gradients", 0, 1.0),
  ("peak_bytes", "MB", 0, 1e-6),
)


def weight(evaluations: float, gradients: float) -> float:
  """Return the time of a chain in network evaluations: a gradient costs about two more."""
  return evaluations + GRADIENT * gradients


def summarize(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sum up every run of a comparison.

  Args:
    run: what `run.json` holds.
    rows: the lines of `rows.jsonl`, in any order, perhaps not all. Where there are several for one task, method and
      picture, the last one counts.

  Returns:
    an entry for each run, in the order of `run["runs"]`: task, method, count and failed (pictures), evaluations,
    gradients, peak_bytes (the largest, or None) and `{"mean", "low", "high"}` for every mark that the rows have, where
    low and high are None for a single picture. `failure` says how the first picture failed. `coverage` is the mean over
    pictures. A skipped run has task, method, and the reason in `skipped`.
  """
  return [_entry(entry, _of(rows, entry["task"], entry["method"])) for entry in run["runs"]]


def summarize_methods(run: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sum up every method over all its tasks, each task with the same weight.

  Returns:
    an entry for each method, in the order of `run["methods"]`, like those of `summarize` but with `tasks` in place of
    the task: how many tasks it has finished for some picture. The mean over tasks is taken picture by picture, over
    pictures that have all of those tasks. The costs are means over tasks.
  """
  return [_method_entry(method["name"], run, rows) for method in run["methods"]]


def competing(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Return the entries that did the most work, all of it the same: the others may have had an easier part.

  Args:
    entries: from `summarize`, of one task, or from `summarize_methods`; without skipped ones.

  Returns:
    of those without failures, the ones with the most tasks and, among these, the most pictures.
  """
  whole = [entry for entry in entries if entry["count"] and not entry["failed"]]
  done = lambda entry: (entry.get("tasks", 1), entry["count"])
  most = max(map(done, whole), default=None)
  return [entry for entry in whole if done(entry) == most]


def without_network(run: dict[str, Any]) -> set[str]:
  """Return the names of the methods that need no network."""
  return {method["name"] for method in run["methods"] if method.get("network") is False}


def compared_mark(plan: dict[str, Any]) -> str:
  """Return the mark by which methods are compared on the same pictures: of several samples, of their mean."""
  mark = metrics.mark(HEADLINE)
  return mark.key if plan["num_samples"] == 1 else metrics.of_mean(mark).key


def leaders(entries: Sequence[dict[str, Any]], key: str, names: Iterable[str]) -> dict[str, str]:
  """Return the best of some methods in each task by the mean of a mark; tasks that none has finished are left out.

  Args:
    entries: from `summarize`.
    key: of the mark.
    names: of the methods.
  """
  names, found = set(names), {}
  for task in dict.fromkeys(entry["task"] for entry in entries):
    done = competing([e for e in entries if e["task"] == task and e.get("count") and e["method"] in names])
    best = metrics.mark(key).best(e[key]["mean"] if key in e else None for e in done)
    if best is not None:
      found[task] = done[best]["method"]
  return found


def differences(
  rows: Sequence[dict[str, Any]], method: str, references: dict[str, str], key: str
) -> dict[str, float | None] | None:
  """Return by how much a method is above others on the same pictures, in the mean, with its interval.

  All methods restore the same measurements, so that this is known better than the difference of their means tells. Of
  several tasks each has the same weight; a picture counts if it has all of those that the method has finished.

  Args:
    rows: of a comparison.
    method: its name.
    references: in each task of interest, the method that it is held against.
    key: of the mark.

  Returns:
    as `interval`; None where there are no pictures in common.
  """
  by_task = {task: _gaps(rows, task, method, other, key) for task, other in references.items()}
  done = {task: gaps for task, gaps in by_task.items() if gaps}
  shared = set.intersection(*map(set, done.values())) if done else set()
  return interval(_mean(gaps[image] for gaps in done.values()) for image in sorted(shared))


def _gaps(rows, task, method, other, key) -> dict[str, float]:
  """Return the difference of a mark on each picture that both have, by the picture's name."""
  mine, its = ({row["image"]: picture_value(row, key) for row in _of(rows, task, name)} for name in (method, other))
  return {image: a - b for image, a in mine.items() if a is not None and (b := its.get(image)) is not None}


def table(entries: Sequence[dict[str, Any]]) -> str:
  """Return the table for a terminal: means over pictures with their 95 % intervals, and costs.

  Args:
    entries: from `summarize`. A skipped one has a line without numbers, one that needs no network has none.
  """
  always, sometimes = metrics.terminal()
  marks = [*always, *(mark for mark in sometimes if any(mark.key in entry for entry in entries))]
  header = ["task", "method", *(mark.head for mark in marks), *(heading for _, heading, _, _ in COSTS)]
  shown = [entry for entry in entries if not (entry.get("skipped") and entry.get("network") is False)]
  return text.table(header, [_line(entry, marks) for entry in shown])


def _line(entry: dict[str, Any], marks: Sequence[metrics.Mark]) -> list[str]:
  cells = [text.interval(entry.get(mark.key), mark.digits) for mark in marks]
  costs = [_cost(entry.get(key), digits, scale) for key, _, digits, scale in COSTS]
  return [entry["task"], entry["method"], *cells, *costs]


def _cost(value: Any, digits: int, scale: float) -> str:
  mean = value["mean"] if isinstance(value, dict) else value
  return text.number(None if mean is None else mean * scale, digits)


def interval(values: Iterable[float | None]) -> dict[str, float | None] | None:
  """Return the mean with its 95 % Student-t interval, `{"mean", "low", "high"}`.

  Args:
    values: one for each picture; those that are not finite are left out.

  Returns:
    None without values; low and high are None for a single one.
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
  """Return a mark of one picture, its mean over samples; None where there is none."""
  value = row.get(key)
  return _mean(value if isinstance(value, Sequence) else [value])


def _of(rows: Sequence[dict], task: str, method: str) -> list[dict]:
  chosen = {row["image"]: row for row in rows if row["task"] == task and row["method"] == method}
  return list(chosen.values())


def _entry(entry: dict, rows: list[dict]) -> dict[str, Any]:
  names = {"task": entry["task"], "method": entry["method"]}
  if entry.get("skipped") is not None:
    return {**names, **_network(entry), "skipped": entry["skipped"]}
  failures = [row["failed"] for row in rows if row.get("failed")]
  rows = [row for row in rows if not row.get("failed")]
  return {
    **names,
    **_network(entry),
    "count": len(rows),
    "failed": len(failures),
    **({"failure": failures[0]} if failures else {}),
    **_means(lambda key: [picture_value(row, key) for row in rows]),
    **_coverage(rows),
    "evaluations": entry["evaluations"],
    "gradients": entry["gradients"],
    "peak_bytes": _peak(rows),
  }


def _network(entry: dict) -> dict[str, bool]:
  return {"network": False} if entry.get("network") is False else {}


def _method_entry(method: str, run: dict, rows: list[dict]) -> dict[str, Any]:
  entries = [entry for entry in run["runs"] if entry["method"] == method and entry.get("skipped") is None]
  by_task = {entry["task"]: _of(rows, entry["task"], method) for entry in entries}
  failed = {row["image"] for chosen in by_task.values() for row in chosen if row.get("failed")}
  done = _finished(by_task)
  shared = set.intersection(*map(set, done.values())) if done else set()
  pictures = [[chosen[image["name"]] for chosen in done.values()] for image in run["images"] if image["name"] in shared]
  costs = [entry for entry in entries if entry["task"] in done] or entries
  together = [row for chosen in pictures for row in chosen]
  return {
    "method": method,
    "tasks": len(done),
    "count": len(pictures),
    "failed": len(failed),
    **_means(lambda key: [_mean_over_tasks(chosen, key) for chosen in pictures]),
    **_coverage(together),
    "evaluations": _mean(entry["evaluations"] for entry in costs),
    "gradients": _mean(entry["gradients"] for entry in costs),
    "peak_bytes": _peak(together),
  }


def _finished(by_task: dict[str, list[dict]]) -> dict[str, dict[str, dict]]:
  """Return the rows that did not fail by task and picture, without tasks that have none."""
  kept = {task: {row["image"]: row for row in rows if not row.get("failed")} for task, rows in by_task.items()}
  return {task: rows for task, rows in kept.items() if rows}


def _means(values: Callable[[str], Iterable[float | None]]) -> dict[str, Any]:
  """Return the mean with its interval of every mark that has values; `values`: of its key, one for each picture."""
  found = {mark.key: interval(values(mark.key)) for mark in metrics.summed()}
  return {key: value for key, value in found.items() if value is not None}


def _mean_over_tasks(rows: Sequence[dict], key: str) -> float | None:
  """Return a mark of one picture, its mean over tasks; None where a task lacks it, which would bias the mean."""
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
