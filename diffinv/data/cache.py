"""Arrays that are computed once and kept on the disk: a folder of bounded size, mapped into memory.

An entry is there in full or not at all, and may be lost at any time: whoever asks for it says how to make it. Only what
has the ending of an entry is ever removed; arrays of others in the folder stay.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from diffinv import files

GIGABYTE = 10**9
MOST = 8.0  # gigabytes, unless a command says otherwise
SUFFIX = ".diffinv.npy"  # of the name of an entry
HEADER = 128  # bytes of a file before the numbers


def folder() -> pathlib.Path:
  """Return where entries lie: `diffinv` in the folder that the system has for caches."""
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "diffinv"


class Cache:
  """A folder of arrays, of at most so many bytes; safe to use from threads, and from several processes at once."""

  def __init__(
    self,
    place: str | os.PathLike[str] | None = None,
    *,
    most: float = MOST,
    note: Callable[[str], None] = lambda line: None,
  ):
    """Make nothing yet.

    Args:
      place: the folder; None for that of `folder`.
      most: what all arrays in it may take, gigabytes; 0 to keep nothing.
      note: called with a line before the first array is written.
    """
    self.place = folder() if place is None else pathlib.Path(place)
    self._most, self._note = int(most * GIGABYTE), note
    self._lock = threading.Lock()
    self._making: dict[str, threading.Lock] = {}  # two threads would make an entry twice, under one temporary name
    self._total: int | None = None  # bytes of all entries, as far as this process knows; None before the first look
    self._used: set[str] = set()  # names that this process has asked for, which it does not remove

  def array(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array of a key, read-only, where there is room mapped from the disk; make it where it is missing.

    Args:
      key: all that the array depends on, as a file name.
      make: called without arguments where the array is not there.
    """
    if not self._most:
      return make()
    path = self.place / f"{key}{SUFFIX}"
    with self._making.setdefault(key, threading.Lock()):
      self._used.add(path.name)
      found = _mapped(path)
      return self._made(path, make()) if found is None else found

  def _made(self, path: pathlib.Path, array: np.ndarray) -> np.ndarray:
    """Keep an array where there is room, and return it."""
    try:
      with self._lock:
        if not self._make_room(array.nbytes + HEADER):
          return array
        files.write_array(path, array)
        self._total = (self._total or 0) + array.nbytes + HEADER
    except OSError:  # a full or read-only disk: slower, not wrong
      self._most = 0
      return array
    found = _mapped(path)
    return array if found is None else found

  def _make_room(self, size: int) -> bool:
    """Remove what was not used for longest until an array of so many bytes fits, and tell whether it does."""
    if self._total is not None and self._total + size <= self._most:
      return True
    if self._total is None:
      self._note(f"note: decoded pictures are kept in {self.place}, at most {self._most / GIGABYTE:g} GB")
    self.place.mkdir(parents=True, exist_ok=True)
    targets = (files.target_of(name) for name in os.listdir(self.place))
    files.sweep(self.place, *(target for target in targets if target is not None and target.endswith(SUFFIX)))
    entries = sorted((e.stat().st_mtime, e.stat().st_size, e.path) for e in os.scandir(self.place) if _is_entry(e))
    self._total = sum(length for _, length, _ in entries)
    for _, length, path in entries:
      if self._total + size > self._most and os.path.basename(path) not in self._used:
        with contextlib.suppress(FileNotFoundError):
          os.unlink(path)
        self._total -= length
    return self._total + size <= self._most


def _is_entry(entry: os.DirEntry) -> bool:
  return entry.name.endswith(SUFFIX) and not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)


def _mapped(path: pathlib.Path) -> np.ndarray | None:
  """Return an array mapped from the disk and mark it as used; None where it is missing or damaged."""
  try:
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    os.utime(path)
  except (OSError, ValueError, EOFError):
    return None
  return found
