"""What a comparison found: rows, means with intervals, and the table that the command prints."""

import dataclasses
import html
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from diffinv import text
from diffinv.studies import runs, summary


class Table(str):
  """A table as text that a console and a notebook show as it is."""

  def __repr__(self) -> str:
    return str(self)

  def _repr_html_(self) -> str:
    return f"<pre>{html.escape(self)}</pre>"


@dataclasses.dataclass(frozen=True)
class Results:
  """What a comparison found. Its folder holds the pictures, the sheets and `results.json`.

  Example:
    >>> import diffinv
    >>> study = diffinv.Study(prior="natural", tasks=["denoising"], methods=["wiener"], size=16, fit="resize")
    >>> results = diffinv.compare(study)
    >>> row = results.rows[0]
    >>> row["task"], row["method"], "psnr" in row and "ssim" in row
    ('denoising', 'wiener', True)
  """

  folder: pathlib.Path
  plan: dict[str, Any]  # what was compared, and how
  records: list[dict[str, Any]]  # a row a task, method and picture as on the disk, with a number a sample
  _kept: Any = dataclasses.field(default=None, repr=False)  # removes a folder that nobody named, once let go of

  @property
  def rows(self) -> list[dict[str, Any]]:
    """A dict a task, method and picture: its marks, each one number, the mean over samples.

    Made for tables: `pandas.DataFrame(results.rows)`. Where a method failed on a picture, `failed` says how.
    """
    return [_flat(record) for record in self.records]

  @property
  def summary(self) -> list[dict[str, Any]]:
    """An entry a task and method: means over the pictures with their 95 % intervals, and costs."""
    return summary.summarize(self.plan, self.records)

  def table(self) -> Table:
    """Return a line a task and method: means over the pictures with their 95 % intervals, seconds a picture, costs."""
    return Table(summary.table(self.summary))

  def remarks(self) -> list[str]:
    """Return what a table does not show: what was left out, and what failed."""
    skipped: dict[str, list[str]] = {}
    for run in self.plan["runs"]:
      if run["skipped"]:
        skipped.setdefault(run["skipped"], []).append(run["task"])
    said = [f"{', '.join(tasks)}: {reason}" for reason, tasks in skipped.items()]
    return said + [_failure(entry) for entry in self.summary if entry.get("failed")] + self._leads()

  def _leads(self) -> list[str]:
    """Say in each task by how much the best method is ahead of the best restoration without a network."""
    key = summary.compared_mark(self.plan)
    names, classical = {method["name"] for method in self.plan["methods"]}, summary.without_network(self.plan)
    best, floor = (summary.leaders(self.summary, key, some) for some in (names - classical, classical))
    pairs = ((task, best[task], floor[task]) for task in best if task in floor)
    gaps = [(*pair, summary.differences(self.records, pair[1], {pair[0]: pair[2]}, key)) for pair in pairs]
    return [_lead(task, method, other, gap) for task, method, other, gap in gaps if gap is not None]

  def contents(self) -> dict[str, Any]:
    """Return the contents of `results.json`: the plan, the summary, and every run with its rows."""
    by_run = [
      {**run, "images": [r for r in self.records if (r["task"], r["method"]) == (run["task"], run["method"])]}
      for run in self.plan["runs"]
    ]
    return {**self.plan, "summary": self.summary, "runs": by_run}

  def _repr_html_(self) -> str:
    return self.table()._repr_html_()


def read_results(folder: str | os.PathLike[str]) -> Results:
  """Return the results of a comparison, finished or still running.

  Raises:
    FileNotFoundError, ValueError: see `runs.read`.

  Example:
    >>> import diffinv
    >>> study = diffinv.Study(prior="natural", tasks=["denoising"], methods=["wiener"], size=16, fit="resize")
    >>> results = diffinv.compare(study, "out/read")
    >>> diffinv.read_results("out/read").rows == results.rows
    True
  """
  run = runs.read(folder)
  return Results(run.folder, run.plan, in_order(run.plan, run.rows))


def in_order(plan: dict[str, Any], rows: dict[runs.Key, runs.Row]) -> list[runs.Row]:
  """Return the rows in the order of the plan, however the run was cut up."""
  order = [(run["task"], run["method"], image["name"]) for run in plan["runs"] for image in plan["images"]]
  return [rows[key] for key in order if key in rows]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
  """Return a row with one number a mark; what is neither a number nor text, such as curves, is left out."""
  means = {name: summary.picture_value(record, name) for name, value in record.items() if isinstance(value, list)}
  plain = {name: value for name, value in record.items() if not isinstance(value, (list, dict))}
  return {name: {**plain, **means}[name] for name in record if name in plain or name in means}


def _lead(task: str, method: str, classical: str, gap: Mapping[str, Any]) -> str:
  way, said = "ahead of" if gap["mean"] >= 0 else "behind", text.interval({**gap, "mean": abs(gap["mean"])}, 2)
  return f"{task}: {method} is {said} dB {way} {classical}, the best without a network"


def _failure(entry: dict[str, Any]) -> str:
  count = f"{entry['failed']} of {entry['failed'] + entry['count']} pictures"
  return f"{entry['task']}: {entry['method']} failed on {count}, which its means leave out: {entry['failure']}"
