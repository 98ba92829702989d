"""What was estimated of measurements, kept beside the work, so that the same command does not estimate it again.

OUTPUT.running, and then OUTPUT, holds `found.jsonl`: a line a measurement, with a digest of all that its noise and blur
were estimated from, and one of the line itself. A line is on the disk before the next measurement is looked at.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from diffinv import files, output, progress, reading, stopping
from diffinv.studies import runs, schemas

MOST = 2**28  # bytes of a file
KIND = runs.RESTORATION


class Found:
  """What is known of measurements because it was estimated, in this process or before."""

  def __init__(self, path: str | os.PathLike[str] | None = None, *, restart: bool = False):
    """Read what was found before.

    Args:
      path: OUTPUT; None to keep nothing.
      restart: what OUTPUT.running holds is to be thrown away: look for nothing, and keep nothing before `write`.
    """
    self._folder = None if path is None else output.Folder(path, KIND.noun, KIND.command)
    self._early = path is not None and not restart
    self._used: dict[str, schemas.Found] = {}
    self._began = False
    self._before: dict[str, tuple[schemas.Found, pathlib.Path]] = {}
    if self._folder is not None and not restart:
      for place in (self._folder.path, self._folder.place):
        self._before |= {row["key"]: (row, place / runs.FOUND) for row in _read(place / runs.FOUND)}

  def get(self, key: str) -> tuple[schemas.Found, pathlib.Path] | None:
    """Return what was found before from what has this digest, and the file that says so."""
    if key in self._before:
      self._used[key] = self._before[key][0]
    return self._before.get(key)

  def put(self, row: schemas.Found) -> None:
    """Keep what was found, on the disk unless a run is there whose plan has to be looked at first.

    Raises:
      FileExistsError: OUTPUT.running holds something else, or another process writes into it.
    """
    self._used[row["key"]] = row
    if self._folder is None or not self._early or os.path.lexists(self._folder.place / runs.PLAN):
      return
    self._began = self._began or not os.path.lexists(self._folder.place / runs.FOUND)
    with self._folder.held() as folder:
      _append(folder.new(runs.FOUND), [row])

  @property
  def left(self) -> str:
    """What an interruption leaves, in words."""
    if self._folder is None or not reading.is_file(self._folder.place / runs.FOUND):
      return stopping.LEFT
    return f"what was estimated is kept; give the same command again to go on with {self._folder.place}"

  def write(self, run: runs.RunFolder) -> None:
    """Put what was found and is not there yet into the folder of a run, which is held."""
    there = {row["key"] for row in _read(run.partial / runs.FOUND)}
    if missing := [row for key, row in self._used.items() if key not in there]:
      _append(run.new(runs.FOUND), missing)

  @contextlib.contextmanager
  def unless_it_fails(self) -> Iterator[None]:
    """Remove what was kept where the work within fails before it begins, and not because it was stopped."""
    try:
      yield
    except Exception:
      if self._began and self._folder is not None and self._folder.place.is_dir():
        with contextlib.suppress(OSError), self._folder.held() as folder:
          if [*folder.manifest.names] == [runs.FOUND]:
            folder.discard()
      raise


def _read(path: pathlib.Path) -> list[schemas.Found]:
  """Return the lines of a file that are whole."""
  try:
    whole = reading.read_bytes(path, most=MOST).rpartition(b"\n")[0]
  except (OSError, ValueError):
    return []
  rows = []
  for number, text in enumerate(whole.split(b"\n") if whole else [], 1):
    where = f"{path}, line {number}"
    try:
      row, _ = runs.parse_line(text, where)
      reading.check(row, schemas.Found, where, "it is damaged")
      rows.append(row)
    except ValueError:
      progress.note(f"{where} is damaged; what it holds is estimated anew")
  return rows  # type: ignore[return-value]  # as checked


def _append(path: pathlib.Path, rows: list[schemas.Found]) -> None:
  files.drop_torn_line(path)
  files.append(path, "".join(runs.line_text({**row}, {}) for row in rows))
