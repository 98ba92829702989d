"""The folder of a comparison or a search: written as it goes, gone on with after a stop.

While it runs, the folder OUTPUT.running holds

  run.json     the plan: what is done, how, and everything that identifies it
  rows.jsonl   a line per finished (task, method, image) or (task, method, candidate), appended as they finish
  pictures/    of a comparison: what the rows speak of, there before their line is

and a run with the same plan goes on in it. At the end a comparison gets results.json and takes the name OUTPUT; of a
search the settings file is left. A line is appended by one write, so a stop leaves at most one torn line at the end,
which is dropped.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from diffinv import output
from diffinv.metrics import table

PLAN = "run.json"
ROWS = "rows.jsonl"
PICTURES = "pictures"
RUNNING = ".running"
# Of the plan, what may differ where a comparison goes on: it changes nothing that is computed. What time and memory
# depend on, rows hold.
FREE_SETTINGS = ("output", "overwrite", "restart", "compilation_cache", "devices", "report", "batch_size", "remat")
FREE = ("device",)
VERSIONS = "versions"
LATER = ("lpips",)  # that plans of older versions do not have: where it is missing, it may be anything
LATER_SETTINGS = {"antithetic": False}  # what older versions, which do not have them, do


def picture(image: str, *parts: str) -> str:
  """Return the name of a picture's file in PICTURES, `IMAGE-TASK-METHOD-00.png`: see the functions below."""
  return "-".join((image, *parts)) + ".png"


def truth(image: str) -> str:
  """Return the name of the truth's picture."""
  return picture(image, "truth")


def measurement(image: str, task: str) -> str:
  """Return the name of the picture that shows what was measured."""
  return picture(image, task, "measurement")


def sample(image: str, task: str, method: str, number: int = 0) -> str:
  """Return the name of a restored picture."""
  return picture(image, task, method, f"{number:02d}")


def mean(image: str, task: str, method: str) -> str:
  """Return the name of the mean of several samples."""
  return picture(image, task, method, "mean")


def chain(image: str, task: str, method: str) -> str:
  """Return the name of the frames of the first sample's chain, side by side."""
  return picture(image, task, method, "chain")


def spread(image: str, task: str, method: str) -> str:
  """Return the name of the array of the samples' standard deviation."""
  return "-".join((image, task, method, "std")) + ".npy"


def sheet(image: str | None = None) -> str:
  """Return the name of a picture's contact sheet, beside PICTURES; that of the only picture without `image`."""
  return "sheet.png" if image is None else f"{image}-sheet.png"


Row = dict[str, Any]
Key = tuple[str, str, str | int]  # task, method, and the image or the candidate


class Kind(NamedTuple):
  """What a folder is of."""

  noun: str
  format: str  # what its plan calls itself
  unit: str  # that a row is about, beside its task and method
  folders: tuple[str, ...] = ()

  def key(self, row: Row) -> Key:
    """Return what a row is about."""
    return row["task"], row["method"], row[self.unit]


COMPARISON = Kind("comparison", "diffinv-compare-1", "image", (PICTURES,))
SEARCH = Kind("search", "diffinv-tune-1", "candidate")


def read_plan(folder: str | os.PathLike[str], kind: Kind = COMPARISON) -> dict[str, Any]:
  """Read run.json.

  Raises:
    ValueError: the folder is none of the kind, or of another format.
  """
  path = pathlib.Path(folder) / PLAN
  try:
    plan = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise ValueError(f"{folder}: expected the folder of a {kind.noun}, got one without {PLAN}; name another") from None
  except (NotADirectoryError, ValueError, RecursionError) as error:
    raise ValueError(f"{path}: expected JSON, got {error}; run the {kind.noun} again") from None
  if not isinstance(plan, dict) or plan.get("format") != kind.format:
    came = plan.get("format") if isinstance(plan, dict) else type(plan).__name__
    raise ValueError(f"{path}: expected the format {kind.format}, got {came}; run the {kind.noun} again")
  return plan


def read_rows(folder: str | os.PathLike[str]) -> list[Row]:
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
    except (ValueError, RecursionError):
      raise ValueError(f"{path}: expected JSON in line {number}, got {line[:40]!r}; remove the line") from None
  return rows


class Run(NamedTuple):
  """What a folder holds."""

  folder: pathlib.Path
  plan: dict[str, Any]  # run.json
  rows: dict[Key, Row]
  complete: bool

  def restored(self, task: str, method: str, image: str) -> Row | None:
    """Return the row of a picture that has pictures; None where it has not finished, or failed."""
    row = self.rows.get((task, method, image))
    return None if row is None or row.get("failed") else row


def read(folder: str | os.PathLike[str]) -> Run:
  """Read a comparison, finished or not.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no comparison, or a damaged one.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    going = folder.with_name(folder.name + RUNNING)
    hint = f"it is still going: name {going}" if going.is_dir() else "check the path"
    raise FileNotFoundError(f"{folder}: expected the folder of a comparison, found none there; {hint}")
  plan = read_plan(folder)
  _check_plan(plan, folder / PLAN)
  rows = {}
  for number, row in enumerate(read_rows(folder), 1):
    _check_row(row, plan, f"{folder / ROWS}, line {number}")
    rows[COMPARISON.key(row)] = row
  return Run(folder, plan, rows, (folder / output.RESULTS).is_file())


PLAN_TYPES = {"settings": dict, "versions": dict, "device": dict, "prior": dict, "num_samples": int}
ENTRY_KEYS: dict[str, dict[str, type]] = {
  "tasks": {"name": str, "title": str},
  "methods": {"name": str, "title": str},
  "images": {"name": str, "shape": list},
  "runs": {"task": str, "method": str},
}


def _check_plan(plan: dict[str, Any], path: pathlib.Path) -> None:
  for key, wanted in {**PLAN_TYPES, **dict.fromkeys(ENTRY_KEYS, list)}.items():
    _check_type(plan.get(key), wanted, f"{path}: expected {key}")
  for key, fields in ENTRY_KEYS.items():
    for number, entry in enumerate(plan[key]):
      place = f"{path}: expected {key}[{number}]"
      _check_type(entry, dict, place)
      for field, wanted in fields.items():
        _check_type(entry.get(field), wanted, f"{place}.{field}")
        # Names are parts of the names of pictures, which lie in this folder.
        if field == "name" and (not entry[field] or "/" in entry[field] or "\\" in entry[field]):
          raise ValueError(f"{place}.name to be part of a file's name, got {entry[field]!r}; run the comparison again")
  for number, entry in enumerate(plan["runs"]):
    if entry.get("skipped") is None:
      for field in ("steps", "evaluations", "gradients"):
        _check_type(entry.get(field), int, f"{path}: expected runs[{number}].{field}")
  for number, image in enumerate(plan["images"]):
    if len(image["shape"]) != 3 or not all(type(n) is int and n > 0 for n in image["shape"]):
      raise ValueError(
        f"{path}: expected images[{number}].shape to be [h, w, c], got {image['shape']}; run the comparison again"
      )


def _check_type(value: Any, wanted: type, expected: str) -> None:
  if not isinstance(value, wanted):
    kinds = {dict: "a table", list: "a list", str: "text", int: "a whole number", type(None): "nothing"}
    came = kinds.get(type(value), type(value).__name__)
    raise ValueError(f"{expected} to be {kinds[wanted]}, got {came}; run the comparison again")


def _check_row(row: Any, plan: dict[str, Any], place: str) -> None:
  _check_type(row, dict, f"{place}: expected the row")
  for field, group in (("task", "tasks"), ("method", "methods"), ("image", "images")):
    known = [entry["name"] for entry in plan[group]]
    if row.get(field) not in known:
      raise ValueError(
        f"{place}: expected {field} to be one of {PLAN}, {', '.join(known)}, got {row.get(field)!r}; "
        "run the comparison again"
      )
  if row.get("failed") is not None:
    _check_type(row["failed"], str, f"{place}: expected failed")
  for mark in table.summed():
    _check_mark(row.get(mark.key), mark, place)
  if row.get("peak_bytes") is not None and not is_number(row["peak_bytes"]):
    raise ValueError(
      f"{place}: expected peak_bytes to be a number, got {row['peak_bytes']!r}; run the comparison again"
    )
  curve = row.get("coverage")
  if curve is not None and not _is_curve(curve):
    raise ValueError(
      f"{place}: expected coverage to be levels and empirical, lists of one length, got {curve!r}; "
      "run the comparison again"
    )


def _check_mark(value: Any, mark: table.Mark, place: str) -> None:
  """Check that a mark is a number, or a list of one a sample; one that is missing passes."""
  if value is None:
    return
  if mark.per == table.SAMPLE and not (isinstance(value, list) and all(v is None or is_number(v) for v in value)):
    raise ValueError(f"{place}: expected {mark.key} to be a list of numbers, got {value!r}; run the comparison again")
  if mark.per == table.PICTURE and not is_number(value):
    raise ValueError(f"{place}: expected {mark.key} to be a number, got {value!r}; run the comparison again")


def _is_curve(curve: Any) -> bool:
  lists: list[Any] = [curve.get(key) for key in ("levels", "empirical")] if isinstance(curve, dict) else []
  return (
    len(lists) == 2
    and all(isinstance(values, list) and all(map(is_number, values)) for values in lists)
    and len(lists[0]) == len(lists[1]) > 0
  )


def is_number(value: Any) -> bool:
  """Tell whether a value of JSON is a number."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


class RunFolder:
  """A comparison or a search under way."""

  def __init__(
    self, path: str | os.PathLike[str], plan: dict[str, Any], *, restart: bool = False, kind: Kind = COMPARISON
  ):
    """Begin in OUTPUT.running, or go on there.

    Args:
      path: OUTPUT.
      plan: the contents of run.json.
      restart: throw away what OUTPUT.running holds.
      kind: what the folder is of.

    Raises:
      FileExistsError: OUTPUT.running holds one with another plan, one that another process writes into and that would
        be thrown away, or something else.
    """
    self._kind = kind
    self.path = pathlib.Path(os.path.abspath(path))
    self.partial = self.path.with_name(self.path.name + RUNNING)
    plan = json.loads(output.json_text({"format": kind.format, **plan}))
    if self.partial.exists():
      self._check(plan, restart)
    if restart and self.partial.exists():
      with output.locked(self.partial):
        output.clear(self.partial)
    for folder in (self.partial, *(self.partial / name for name in kind.folders)):
      folder.mkdir(parents=True, exist_ok=True)
    if not (self.partial / PLAN).exists():
      output.write_json(self.partial / PLAN, plan)
    self.plan = plan
    self.rows = {kind.key(row): row for row in read_rows(self.partial)}

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Be the only one to write into the folder.

    Raises:
      FileExistsError: another process does.
    """
    with output.locked(self.partial):
      self.rows = {self._kind.key(row): row for row in read_rows(self.partial)}
      self._drop_torn_line()
      for folder in (self.partial, *(self.partial / name for name in self._kind.folders)):
        output.sweep(folder)
      yield

  @property
  def pictures(self) -> pathlib.Path:
    """Where pictures are written."""
    return self.partial / PICTURES

  def missing(self, task: str, method: str, units: Sequence[str | int]) -> bool:
    """Return whether a row of these images or candidates is not there yet."""
    return any((task, method, unit) not in self.rows for unit in units)

  def append(self, rows: Iterable[Row]) -> None:
    """Put rows on the disk that are not there yet, in one write."""
    rows = [json.loads(output.json_text(row)) for row in rows if self._kind.key(row) not in self.rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    descriptor = os.open(self.partial / ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
      data = text.encode()
      while data:
        data = data[os.write(descriptor, data) :]
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
    self.rows.update({self._kind.key(row): row for row in rows})

  def finish(self, results: dict[str, Any], *, overwrite: bool) -> None:
    """Write results.json and give the folder its name; while it is `held`, so that nobody goes on in it meanwhile."""
    output.write_json(self.partial / output.RESULTS, results)
    output.publish(self.partial, self.path, overwrite=overwrite)
    # The lock went along. Removed any earlier, it would let another process in.
    (self.path / output.LOCK).unlink(missing_ok=True)

  def discard(self) -> None:
    """Remove OUTPUT.running, whose results are somewhere else."""
    shutil.rmtree(self.partial)

  def _check(self, plan, restart):
    if not (self.partial / PLAN).is_file():
      # A stop may have come before the plan was written.
      if not self.partial.is_dir() or {path.name for path in self.partial.iterdir()} - {
        *self._kind.folders,
        output.LOCK,
      }:
        raise FileExistsError(f"output: {self.partial} is there and is no {self._kind.noun}; choose another --output")
      return
    if restart:
      return
    changed = differences(read_plan(self.partial, self._kind), plan)
    if changed:
      raise FileExistsError(
        f"output: {self.partial} holds an unfinished {self._kind.noun} that differs in {changed[0]}; "
        "give its own flags to go on, or --restart to throw it away"
      )

  def _drop_torn_line(self):
    path = self.partial / ROWS
    if path.exists():
      whole, newline, torn = path.read_bytes().rpartition(b"\n")
      if torn:
        os.truncate(path, len(whole + newline))


def changes(kept: dict[str, Any], plan: dict[str, Any], kind: Kind = COMPARISON) -> list[str]:
  """Name what a plan on the disk and one that is to be run differ in, see `differences`."""
  return differences(kept, json.loads(output.json_text({"format": kind.format, **plan})))


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
  """Name what differs between a plan and a newer one and changes a result; settings by their flags, first."""
  before, after = ({**LATER_SETTINGS, **plan["settings"]} for plan in (one, other))
  flags = [
    f"`{name}`"
    for name in sorted({*before, *after})
    if name not in FREE_SETTINGS and before.get(name) != after.get(name)
  ]
  known = {*one, *other} - {name for name in LATER if name not in one}
  names = [n for n in sorted(known) if n not in ("settings", *FREE) and one.get(n) != other.get(n)]
  return flags + [_versions(one, other) if name == VERSIONS else name for name in names]


def _versions(one: dict[str, Any], other: dict[str, Any]) -> str:
  """Name the packages whose versions differ."""
  before, after = (plan.get(VERSIONS) or {} for plan in (one, other))
  changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
  said = ", ".join(f"{name} {before.get(name)}, now {after.get(name)}" for name in changed)
  return f"{VERSIONS} ({said})"
