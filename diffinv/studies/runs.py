"""The folder of a comparison, a search, a restoration or a drawing: written as it goes, gone on with after a stop.

While it runs, the folder OUTPUT.running holds

  run.json        the plan: what is done, how, and everything that identifies it
  rows.jsonl      a line per finished picture or candidate, appended as they finish
  unfinished/     of a restoration: what is kept of the chains that run (`diffinv.studies.unfinished`)
  found.jsonl     and what was estimated of its measurements (`diffinv.studies.found`)
  manifest.jsonl  every file that was written (`diffinv.manifest`)
  processes/      of several processes: folders like this one, of what others than the first finished

and the pictures, those of a comparison in pictures/. A run with the same plan goes on in it. At the end it gets
results.json and takes the name OUTPUT; of a search the settings file is left.

A line is appended when all files that it speaks of are on the disk, with their digests and its own. Where a run goes
on, a line that is damaged, or whose files are missing or damaged, is dropped, and its work done anew.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from diffinv import errors, files, output, progress, reading
from diffinv.data import images
from diffinv.launch import ALONE, Team
from diffinv.studies import schemas

T = TypeVar("T")

PLAN = "run.json"
ROWS = "rows.jsonl"
PICTURES = "pictures"
UNFINISHED = "unfinished"
FOUND = "found.jsonl"
PROCESSES = "processes"
RUNNING = output.RUNNING
# Of the plan, what may differ where a run goes on: it changes nothing that is computed. What time and memory depend on,
# rows hold.
FREE_SETTINGS = (
  "output",
  "overwrite",
  "restart",
  "compilation_cache",
  "devices",
  "report",
  "batch_size",
  "remat",
  "share",
)
FREE = ("device",)
VERSIONS = "versions"
LATER = ("lpips",)  # that plans of older versions do not have: where it is missing, it may be anything
LATER_SETTINGS = {"antithetic": False, "guidance": None}  # what older versions, which do not have them, do
MOST_ROWS = 2**30  # bytes of ROWS that are read


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
Key = tuple[str | int, ...]  # what a row is about, such as its task, method and image


class Kind(NamedTuple):
  """What a folder is of."""

  noun: str
  command: str
  format: str  # what its plan calls itself
  keys: tuple[str, ...]  # what a row is about
  unit: str  # what a row is of, several
  plan: Any  # what its JSON holds, see `schemas`
  row: Any
  results: Any
  older: tuple[str, ...] = ()  # formats of older versions that can still be read

  def key(self, row: Row) -> Key:
    """Return what a row is about."""
    return tuple(row[name] for name in self.keys)


COMPARISON = Kind(
  noun="comparison",
  command="compare",
  format="diffinv-compare-2",
  keys=("task", "method", "image"),
  unit="rows",
  plan=schemas.Comparison,
  row=schemas.Compared,
  results=dict[str, Any],
  older=("diffinv-compare-1",),
)
SEARCH = Kind(
  noun="search",
  command="tune",
  format="diffinv-tune-2",
  keys=("task", "method", "candidate"),
  unit="candidates",
  plan=schemas.Plan,
  row=schemas.Candidate,
  results=dict[str, Any],
)
RESTORATION = Kind(
  noun="restoration",
  command="reconstruct",
  format="diffinv-reconstruct-1",
  keys=("name",),
  unit="pictures",
  plan=schemas.Plan,
  row=schemas.Restored,
  results=schemas.Restoration,
)
DRAWING = Kind(
  noun="drawing",
  command="sample",
  format="diffinv-sample-1",
  keys=("number",),
  unit="pictures",
  plan=schemas.Plan,
  row=schemas.Drawn,
  results=schemas.Drawing,
)


def samples_of(plan: dict[str, Any], row: Mapping[str, Any]) -> int:
  """Return how many samples a row has: those of the plan, but one where all would be the same picture."""
  own = (run.get("samples") for run in plan["runs"] if (run["task"], run["method"]) == (row["task"], row["method"]))
  return next(own, None) or plan["num_samples"]


def read_plan(folder: str | os.PathLike[str], kind: Kind = COMPARISON) -> dict[str, Any]:
  """Read run.json.

  Raises:
    ValueError: the folder is none of the kind, or of another format.
  """
  path, again = pathlib.Path(folder) / PLAN, f"run the {kind.noun} again"
  try:
    plan = reading.read_json(path, dict[str, Any], advice=again)
  except FileNotFoundError:
    raise ValueError(f"{folder}: expected the folder of a {kind.noun}, got one without {PLAN}; name another") from None
  if plan.get("format") not in (kind.format, *kind.older):
    came = reading.shown(plan.get("format"))
    raise ValueError(f"{path}: expected the format {kind.format}, got {came}; {again}")
  reading.check(plan, kind.plan, str(path), again)
  return plan


class Line(NamedTuple):
  """A line of rows.jsonl."""

  row: Row
  files: dict[str, str]  # that it speaks of, with their digests


DIGEST = re.compile(rb', "digest": "([0-9a-f]{64})"\}$')


def line_text(row: Row, written: Mapping[str, str]) -> str:
  """Return the line of a row and the digests of its files; the digest of the line itself comes last."""
  text = json.dumps({**row, "files": written}, ensure_ascii=False)
  return f'{text[:-1]}, "digest": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'


def parse_line(text: bytes, where: str, *, digests: bool = True) -> Line:
  """Return what a line of rows.jsonl says.

  Args:
    text: of the line.
    where: it stands, to begin messages with.
    digests: whether it must hold its own digest, which older formats do not.

  Raises:
    ValueError: it is damaged.
  """
  damaged = f"{where}: expected a row as it was written, got a damaged one; run it again"
  found = DIGEST.search(text)
  if digests and found is None:
    raise ValueError(damaged)
  if found is not None and hashlib.sha256(text[: found.start()] + b"}").hexdigest() != found[1].decode():
    raise ValueError(damaged)
  row = reading.parse_json(text, dict[str, Any], where, "run it again")
  row.pop("digest", None)
  written = row.pop("files", {})
  reading.check(written, dict[str, str], where, "run it again")
  return Line(row, written)


def _lines(folder: pathlib.Path) -> list[bytes]:
  """Return the lines of rows.jsonl that are whole; none where nothing has finished."""
  try:
    whole, newline, _ = reading.read_bytes(folder / ROWS, most=MOST_ROWS).rpartition(b"\n")
  except FileNotFoundError:
    return []
  return whole.split(b"\n") if newline else []


def read_rows(folder: str | os.PathLike[str], *, digests: bool = True) -> list[Row]:
  """Read the rows that are there in full; none where nothing has finished.

  Raises:
    ValueError: a line other than the last is damaged.
  """
  path = pathlib.Path(folder)
  found = enumerate(_lines(path), 1)
  return [parse_line(text, f"{path / ROWS}, line {number}", digests=digests).row for number, text in found]


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
  folder = pathlib.Path(os.path.expanduser(folder))
  if not folder.is_dir():
    going = folder.with_name(folder.name + RUNNING)
    hint = f"it is still going: name {going}" if going.is_dir() else "check the path"
    raise FileNotFoundError(f"{folder}: expected the folder of a comparison, found none there; {hint}")
  plan = read_plan(folder)
  _check_plan(plan, folder / PLAN)
  rows = {}
  for number, row in enumerate(read_rows(folder, digests=plan["format"] == COMPARISON.format), 1):
    place = f"{folder / ROWS}, line {number}"
    check_row(row, COMPARISON, place)
    _check_names(row, plan, place)
    rows[COMPARISON.key(row)] = row
  return Run(folder, plan, rows, reading.is_file(folder / output.RESULTS))


AGAIN = "run the comparison again"


def _check_plan(plan: dict[str, Any], path: pathlib.Path) -> None:
  """Check what types do not say: names are parts of the names of pictures, which lie in this folder."""
  for group in ("tasks", "methods", "images"):
    for number, entry in enumerate(plan[group]):
      if not entry["name"] or "/" in entry["name"] or "\\" in entry["name"]:
        came = reading.shown(entry["name"])
        raise ValueError(f"{path}: expected {group}[{number}].name to be part of a file's name, got {came}; {AGAIN}")
  for number, entry in enumerate(plan["runs"]):
    for field in ("steps", "evaluations", "gradients"):
      if entry.get("skipped") is None and entry.get(field) is None:
        raise ValueError(f"{path}: expected runs[{number}].{field} to be a whole number, got none; {AGAIN}")
  for number, image in enumerate(plan["images"]):
    if len(image["shape"]) != 3 or not all(n > 0 for n in image["shape"]):
      raise ValueError(f"{path}: expected images[{number}].shape to be [h, w, c], got {image['shape'][:4]}; {AGAIN}")


def _check_names(row: Row, plan: dict[str, Any], place: str) -> None:
  """Check that a row is about what the plan says."""
  for field, group in (("task", "tasks"), ("method", "methods"), ("image", "images")):
    known = [entry["name"] for entry in plan[group]]
    if row[field] not in known:
      raise ValueError(
        f"{place}: expected {field} to be one of {PLAN}, {', '.join(known)}, got {reading.shown(row[field])}; {AGAIN}"
      )


def check_row(row: Row, kind: Kind, place: str) -> None:
  """Check what a row holds, whatever the plan is.

  Raises:
    ValueError: it is no row of the kind; `place` begins the message.
  """
  reading.check(row, kind.row, place, f"run the {kind.noun} again")
  if kind is RESTORATION:
    _check_entry(row, place)
  curve = row.get("coverage") if kind is COMPARISON else None
  if curve is not None and not len(curve["levels"]) == len(curve["empirical"]) > 0:
    raise ValueError(f"{place}: expected coverage to be levels and empirical, lists of one length; {AGAIN}")


def _check_entry(entry: Mapping[str, Any], place: str) -> None:
  """Check what types do not say of a restored picture."""
  if ("failed" in entry) == ("samples" in entry):
    raise ValueError(f"{place}: expected samples, or how they failed, got both or none; run the restoration again")


def is_number(value: Any) -> bool:
  """Tell whether a value of JSON is a number."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


class RunFolder:
  """A comparison, a search, a restoration or a drawing under way."""

  def __init__(self, path: str | os.PathLike[str], plan: dict[str, Any], *, kind: Kind = COMPARISON, process: int = 0):
    """Touch nothing yet.

    Args:
      path: OUTPUT.
      plan: the contents of run.json.
      kind: what the folder is of.
      process: of several that share the work; those after the first write into folders of their own.
    """
    self._kind = kind
    first = output.Folder(path, kind.noun, kind.command)
    self.path, self._whole_place = first.path, first.place
    self._folder = first if process == 0 else self._part(self._whole_place / PROCESSES / str(process))
    self.partial = self._folder.place
    self.plan = planned(plan, kind)
    self.rows: dict[Key, Row] = {}
    self.taken: set[str] = set()  # files that other processes wrote
    self.left = ""  # of work that has no row yet, in words

  @contextlib.contextmanager
  def held(self, *, restart: bool = False) -> Iterator[None]:
    """Begin in OUTPUT.running, or go on there, and be the only one to write into it.

    What fails or is stopped before anything is kept leaves nothing; later, an interruption says how to go on.

    Args:
      restart: throw away what OUTPUT.running holds.

    Raises:
      FileExistsError: OUTPUT.running holds one with another plan, something else, or another process writes into it.
      ValueError: its plan is damaged.
    """
    with self._folder.held(restart=restart):
      self._begin()
      kept = self._whole_lines()
      self.rows = {self._kind.key(line.row): line.row for line in kept}
      self.gather()
      if self.rows:
        print(f"going on with {self.partial}: {len(self.rows)} {self._kind.unit} are there", flush=True)
      try:
        with self._interruption():
          yield
      except BaseException:
        if not self._is_begun:
          self.discard()
        raise

  @contextlib.contextmanager
  def _interruption(self) -> Iterator[None]:
    """Say of an interruption what is left, and how to go on."""
    try:
      yield
    except KeyboardInterrupt as stop:
      if not self._is_begun:
        raise errors.interrupted(stop, "nothing was written") from None
      again = f"give the same command again to go on with {self.partial}"
      raise errors.interrupted(stop, f"{self.left}; {again}" if self.left else again) from None

  def _begin(self) -> None:
    """Write the plan, or check that the one that is there is the same."""
    path = self.partial / PLAN
    try:
      begun = read_plan(self.partial, self._kind)
    except ValueError as error:
      if _lines(self.partial):
        raise ValueError(f"{str(error).rpartition(';')[0]}; `restart` throws away what is there") from None
      files.write_json(self._folder.new(PLAN, ROWS), self.plan)  # a stop came before it was on the disk
      return
    if changed := differences(begun, self.plan):
      raise FileExistsError(
        f"output: {self.partial} holds an unfinished {self._kind.noun} that differs in {changed[0]}; "
        f"give its own options to go on, or `restart` to throw it away"
      )
    self._folder.new(path.name, ROWS)

  def _whole_lines(self) -> list[Line]:
    """Return the lines that are as they were written, with all their files; drop the others, and say so."""
    files.drop_torn_line(self.partial / ROWS)
    texts = _lines(self.partial)
    found = [self._whole(text, f"{self.partial / ROWS}, line {number}") for number, text in enumerate(texts, 1)]
    kept = [line for line in found if line is not None]
    if len(kept) < len(texts):
      files.write_text(self.partial / ROWS, "".join(line_text(*line) for line in kept))
    return kept

  def _whole(self, text: bytes, where: str) -> Line | None:
    try:
      line = parse_line(text, where)
      check_row(line.row, self._kind, where)
      if self._kind is COMPARISON:
        _check_names(line.row, self.plan, where)
    except ValueError:
      progress.note(f"{where} is damaged; its work is done anew")
      return None
    for name, digest in line.files.items():
      if not reading.is_file(self.partial / name) or files.digest(self.partial / name) != digest:
        progress.note(f"{self.partial / name} is missing or damaged; it is made anew")
        return None
    return line

  def write(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Write pictures, `[h, w, 1 or 3]`, [-1, 1], and arrays by the names of their files, .png and .npy.

    Returns:
      the names.
    """
    names = list(arrays)
    for name, array in arrays.items():
      path = self.new(name, *names)
      if path.suffix == ".png":
        images.write(path, array)
      else:
        files.write_array(path, array)
    return names

  def new(self, *names: str) -> pathlib.Path:
    """Return the path of the first of some files that are about to be written."""
    return self._folder.new(*names)

  def missing(self, keys: Iterable[Key]) -> bool:
    """Return whether a row of these is not there yet."""
    return any(key not in self.rows for key in keys)

  def append(self, rows: Iterable[tuple[Row, Sequence[str]]]) -> None:
    """Put rows on the disk that are not there yet, in one write, each with the names of its files, which are there."""
    new = [(json.loads(files.json_text(row)), names) for row, names in rows if self._kind.key(row) not in self.rows]
    digests = [{name: files.digest(self.partial / name) for name in names} for _, names in new]
    text = "".join(line_text(row, written) for (row, _), written in zip(new, digests, strict=True))
    files.append(self.partial / ROWS, text)
    self.rows.update({self._kind.key(row): row for row, _ in new})

  def _unfinished(self) -> list[pathlib.Path]:
    """Return the files that are there of work that has no row yet."""
    named = (self.partial / name for name in self._folder.manifest.names if name.startswith(f"{UNFINISHED}/"))
    return [path for path in named if os.path.lexists(path)]

  @property
  def _is_begun(self) -> bool:
    """Whether anything is there that the same command need not do again."""
    parts = any((self.partial / PROCESSES).glob(f"*/{ROWS}"))
    return bool(self.rows or self._unfinished()) or parts or reading.is_file(self.partial / FOUND)

  def drop_unfinished(self) -> None:
    """Remove what was kept of work that has its row now."""
    for path in self._unfinished():
      path.unlink(missing_ok=True)
    files.remove_if_empty(self.partial / UNFINISHED)
    self.left = ""

  # Of several processes

  def _part(self, place: pathlib.Path) -> output.Folder:
    return output.Folder(place, self._kind.noun, self._kind.command, suffix="")

  def share(self) -> None:
    """Let other processes write into folders of their own in this one, which is held."""
    self._folder.manifest.add(f"{PROCESSES}/")

  def read_others(self) -> None:
    """Learn of the rows that the first process has.

    Raises:
      UsageError: it has another plan.
    """
    if changed := differences(read_plan(self._whole_place, self._kind), self.plan):
      raise errors.UsageError(f"`distributed`: expected the options of process 0, got others: {', '.join(changed)}")
    self.rows = {self._kind.key(row): row for row in read_rows(self._whole_place)}

  def gather(self) -> None:
    """Take over what other processes finished, now or before a stop; while it is `held`.

    Raises:
      FileExistsError: one of them is still at work.
    """
    for place in sorted((self.partial / PROCESSES).glob("*/")):
      part = self._part(place)
      with part.held():
        if self._is_same(place):
          self._take_over(part)
        part.discard()
    files.remove_if_empty(self.partial / PROCESSES)

  def _is_same(self, place: pathlib.Path) -> bool:
    """Tell whether a folder is of this plan."""
    try:
      return not differences(read_plan(place, self._kind), self.plan)
    except ValueError:
      return False

  def _take_over(self, part: output.Folder) -> None:
    """Move what is finished in a folder that is held here: files first, listed beforehand, then their rows."""
    finished = [name for name in part.manifest.names if name not in (PLAN, ROWS) and not name.startswith(UNFINISHED)]
    there = [name for name in finished if reading.is_file(part.place / name)]
    self._folder.manifest.add(*there)
    for folder in {(self.partial / name).parent for name in there}:
      folder.mkdir(parents=True, exist_ok=True)
    for name in there:
      os.replace(part.place / name, self.partial / name)
    self.taken.update(there)
    for folder in {(self.partial / name).parent for name in there}:
      files.sync(folder)
    texts = enumerate(_lines(part.place), 1)
    found = [self._whole(text, f"{part.place / ROWS}, line {number}") for number, text in texts]
    lines = [line for line in found if line is not None and self._kind.key(line.row) not in self.rows]
    files.append(self.partial / ROWS, "".join(line_text(*line) for line in lines))
    self.rows.update({self._kind.key(line.row): line.row for line in lines})

  def finish(self, results: dict[str, Any], *, overwrite: bool) -> None:
    """Write results.json and give the folder its name; while it is `held`."""
    self.drop_unfinished()
    files.write_json(self.new(output.RESULTS), results)
    self._folder.publish(overwrite=overwrite)

  def discard(self) -> None:
    """Remove OUTPUT.running, whose results are somewhere else; while it is `held`."""
    self._folder.discard()

  def remove_left(self) -> None:
    """Remove OUTPUT.running where a stop came before that was done, when its results were already somewhere else."""
    if self.partial.exists():
      with self._folder.held(restart=True):
        pass


def planned(plan: dict[str, Any], kind: Kind) -> dict[str, Any]:
  """Return a plan as run.json has it."""
  return json.loads(files.json_text({"format": kind.format, **plan}))


def plan_digest(plan: dict[str, Any]) -> str:
  """Return a digest of a plan, without what may differ where a run goes on."""
  settings = {name: value for name, value in plan["settings"].items() if name not in FREE_SETTINGS}
  kept = {**{name: value for name, value in plan.items() if name not in FREE}, "settings": settings}
  return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def check_free(path: str | os.PathLike[str], kind: Kind = COMPARISON, *, overwrite: bool) -> None:
  """Check that OUTPUT may be written, or holds what may be the finished work already; see `is_done`.

  Raises:
    FileExistsError, NotADirectoryError: it does not.
  """
  if overwrite or not reading.is_file(pathlib.Path(path) / PLAN):
    output.check(path, kind.noun, overwrite=overwrite)


def is_done(
  path: str | os.PathLike[str], plan: dict[str, Any], kind: Kind = COMPARISON, *, overwrite: bool = False
) -> bool:
  """Tell whether OUTPUT holds the finished work of a plan, which need not be done again.

  Raises:
    FileExistsError: it holds something else, which may not be replaced.
  """
  path = pathlib.Path(path)
  if overwrite or not reading.is_file(path / output.RESULTS):
    output.check(path, kind.noun, overwrite=overwrite)
    return False
  try:
    changed = changes(read_plan(path, kind), plan, kind)
  except ValueError:
    output.check(path, kind.noun)
    return False
  if changed:
    raise FileExistsError(
      f"output: {path} holds a finished {kind.noun} that differs in {changed[0]}; choose another `output`, or replace "
      "it with `overwrite`"
    )
  output.tidy(path)
  progress.note(f"{path} holds this {kind.noun} already; nothing is done again")
  return True


def divide(
  run: RunFolder,
  team: Team,
  work: Callable[[RunFolder], T],
  finish: Callable[[RunFolder], T],
  *,
  restart: bool,
) -> T:
  """Do the work in a folder together with the other processes of a launch.

  Each writes into a folder of its own, so that none waits for another. The first takes over what there was of an
  earlier launch, whatever its number of processes, before they begin, and puts all together at the end.

  Args:
    run: of this process.
    team: the processes.
    work: does this process's share of what is missing, of several, and returns what is known then.
    finish: does what is missing then, and makes the result; of the first process, and of one alone.
    restart: throw away what OUTPUT.running holds.

  Returns:
    what `finish` returns; in other processes than the first, what `work` does.

  Raises:
    FileExistsError, ValueError: see `RunFolder.held`.
  """
  if team.index:
    team.meet()  # the first has begun
    with run.held():
      run.read_others()
      team.meet()  # all know the same rows
      found = work(run)
    team.meet()  # all have done their share
    return found
  with run.held(restart=restart):
    if team.count > 1:
      run.share()
      team.meet()
      team.meet()
      work(run)
      team.meet()
      run.gather()
    return finish(run)


def carry_out(
  path: str | os.PathLike[str],
  plan: dict[str, Any],
  kind: Kind,
  work: Callable[[RunFolder, Team], dict[str, Any]],
  *,
  overwrite: bool,
  restart: bool,
  team: Team = ALONE,
) -> dict[str, Any]:
  """Return the contents of results.json of OUTPUT: as they are where the work is done, else as `work` makes them.

  Args:
    path: OUTPUT.
    plan: the contents of run.json.
    kind: what the folder is of.
    work: does what is missing in a folder that is held, or a team's share of it, and returns the contents.
    overwrite: replace an existing folder, at the end.
    restart: throw away what OUTPUT.running holds.
    team: the processes that share the work.

  Raises:
    FileExistsError, ValueError: see `is_done` and `RunFolder.held`.
  """
  if is_done(path, plan, kind, overwrite=overwrite):
    return read_results(path, kind)

  def finish(run: RunFolder) -> dict[str, Any]:
    found = work(run, ALONE)
    run.finish(found, overwrite=overwrite)
    return found

  run = RunFolder(path, plan, kind=kind, process=team.index)
  return divide(run, team, lambda run: work(run, team), finish, restart=restart)


def read_results(path: str | os.PathLike[str], kind: Kind) -> dict[str, Any]:
  """Return the contents of results.json of a finished folder.

  Raises:
    ValueError: it is damaged.
  """
  path = pathlib.Path(path) / output.RESULTS
  found: dict[str, Any] = reading.read_json(path, kind.results, most=MOST_ROWS, advice=f"run the {kind.noun} again")
  if kind is RESTORATION:
    for number, entry in enumerate(found["images"]):
      _check_entry(entry, f"{path}: images[{number}]")
  return found


def changes(kept: dict[str, Any], plan: dict[str, Any], kind: Kind = COMPARISON) -> list[str]:
  """Name what a plan on the disk and one that is to be run differ in, see `differences`."""
  return differences(kept, planned(plan, kind))


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
