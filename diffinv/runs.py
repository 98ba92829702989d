"""The folder of a comparison: written as it goes, gone on with after a stop, there in full at the end.

While it runs, the folder OUTPUT.running holds

  run.json     the plan: what is compared, how, and everything that identifies it
  rows.jsonl   a line per finished (task, method, image), appended as they finish
  pictures/    what the rows speak of, there before their line is

and a comparison with the same plan goes on in it. At the end it gets results.json and takes the name OUTPUT. A line is
appended by one write, so a stop leaves at most one torn line at the end, which is dropped.
"""

import contextlib
import json
import os
import pathlib
import shutil
from typing import Any, Iterable, Iterator, Sequence

from diffinv import output

FORMAT = "diffinv-compare-1"
PLAN = "run.json"
ROWS = "rows.jsonl"
PICTURES = "pictures"
RUNNING = ".running"
# Of the plan, what may differ where a comparison goes on: it changes nothing that is computed.
FREE_SETTINGS = ("output", "overwrite", "restart", "compilation_cache", "devices", "report")
FREE = ("device",)

Row = dict[str, Any]
Key = tuple[str, str, str]  # task, method, image


def key(row: Row) -> Key:
  """Return what a row is about."""
  return row["task"], row["method"], row["image"]


def read_plan(folder: str | pathlib.Path) -> dict[str, Any]:
  """Read run.json.

  Raises:
    ValueError: the folder holds no comparison, or one of another format.
  """
  path = pathlib.Path(folder) / PLAN
  try:
    plan = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise ValueError(f"{folder}: expected the folder of a comparison, got one without {PLAN}; name another") from None
  except (NotADirectoryError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{path}: expected JSON, got {error}; run the comparison again") from None
  if not isinstance(plan, dict) or plan.get("format") != FORMAT:
    came = plan.get("format") if isinstance(plan, dict) else type(plan).__name__
    raise ValueError(f"{path}: expected the format {FORMAT}, got {came}; run the comparison again")
  return plan


def read_rows(folder: str | pathlib.Path) -> list[Row]:
  """Read the rows that are there in full; none where nothing has finished.

  Raises:
    ValueError: a line other than the last is damaged.
  """
  path = pathlib.Path(folder) / ROWS
  if not path.exists():
    return []
  whole = path.read_bytes().rpartition(b"\n")[0]
  rows = []
  for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
    try:
      rows.append(json.loads(line))
    except ValueError:
      raise ValueError(f"{path}: expected JSON in line {number}, got {line[:40]!r}; remove the line") from None
  return rows


class RunFolder:
  """A comparison under way."""

  def __init__(self, path: str | pathlib.Path, plan: dict[str, Any], *, restart: bool = False):
    """Begin in OUTPUT.running, or go on there.

    Args:
      path: OUTPUT.
      plan: the contents of run.json.
      restart: throw away what OUTPUT.running holds.

    Raises:
      FileExistsError: OUTPUT.running holds a comparison with another plan, or something else.
    """
    self.path = pathlib.Path(os.path.abspath(path))
    self.partial = self.path.with_name(self.path.name + RUNNING)
    plan = json.loads(output.json_text({"format": FORMAT, **plan}))
    if self.partial.exists():
      self._check(plan, restart)
    if restart and self.partial.exists():
      shutil.rmtree(self.partial)
    (self.partial / PICTURES).mkdir(parents=True, exist_ok=True)
    if not (self.partial / PLAN).exists():
      output.write_json(self.partial / PLAN, plan)
    self.plan = plan
    self.rows = {key(row): row for row in read_rows(self.partial)}

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Be the only one to write into the folder.

    Raises:
      FileExistsError: another process does.
    """
    with output.locked(self.partial):
      self.rows = {key(row): row for row in read_rows(self.partial)}
      self._drop_torn_line()
      yield

  @property
  def pictures(self) -> pathlib.Path:
    """Where pictures are written."""
    return self.partial / PICTURES

  def missing(self, task: str, method: str, images: Sequence[str]) -> bool:
    """Return whether a row of these is not there yet."""
    return any((task, method, image) not in self.rows for image in images)

  def append(self, rows: Iterable[Row]) -> None:
    """Put rows on the disk that are not there yet, in one write."""
    rows = [json.loads(output.json_text(row)) for row in rows if key(row) not in self.rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    descriptor = os.open(self.partial / ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
      data = text.encode()
      while data:
        data = data[os.write(descriptor, data) :]
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
    self.rows.update({key(row): row for row in rows})

  def finish(self, results: dict[str, Any], *, overwrite: bool) -> None:
    """Write results.json and give the folder its name."""
    output.write_json(self.partial / output.RESULTS, results)
    output.publish(self.partial, self.path, overwrite=overwrite)

  def _check(self, plan, restart):
    there = None
    if (self.partial / PLAN).is_file():
      there = read_plan(self.partial)
    elif any(self.partial.iterdir()) if self.partial.is_dir() else True:
      raise FileExistsError(f"output: {self.partial} is there and is no comparison; choose another --output")
    if restart or there is None:
      return
    changed = differences(there, plan)
    if changed:
      raise FileExistsError(
        f"output: {self.partial} holds an unfinished comparison with another {changed[0]}; "
        "give its own flags to go on, or --restart to throw it away"
      )

  def _drop_torn_line(self):
    path = self.partial / ROWS
    if path.exists():
      whole, newline, torn = path.read_bytes().rpartition(b"\n")
      if torn:
        os.truncate(path, len(whole + newline))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
  """Name what differs between two plans, but for what changes no result; settings by their flags, first."""
  flags = [
    f"--{name}"
    for name in sorted({*one["settings"], *other["settings"]})
    if name not in FREE_SETTINGS and one["settings"].get(name) != other["settings"].get(name)
  ]
  names = [n for n in sorted({*one, *other}) if n not in ("settings", *FREE) and one.get(n) != other.get(n)]
  return flags + names
