"""Files that appear in full or not at all, and are on the disk when they do.

A file is written under a temporary name beside its place, synced, renamed, and its folder synced. After a power cut the
old file is there or the new one, never a part, and what is written later is not there without it.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

PARTIAL = ".partial-"
CHUNK = 2**24  # bytes
HALF_WRITTEN = re.compile(rf"\.(.+){re.escape(PARTIAL)}\d+")  # the temporary names that `file` gives


def expanded(path: str | os.PathLike[str]) -> str:
  """Return a path with the home folder in place of `~` or `~name` at its beginning; shells do not after a "="."""
  return os.path.expanduser(os.fspath(path))


@contextlib.contextmanager
def file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yield a temporary name beside `path` to write to; rename it to `path` at the end, remove it on any error."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
  try:
    with open(partial, "wb") as held:  # locked as long as it is being written, so that nobody sweeps it
      lock(held.fileno())
      yield partial
      sync(partial)
      os.replace(partial, path)
    sync(path.parent)
  except BaseException as error:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)
    _name(error, path)
    raise


def _name(error: BaseException, path: str | os.PathLike[str]) -> None:
  """Say in an error of the system which file it is about, where a write through a descriptor could not."""
  if isinstance(error, OSError) and error.errno is not None and error.filename is None:
    error.filename = os.fspath(path)


def target_of(name: str) -> str | None:
  """Return which file is half written under a temporary name of `file`; None for any other name."""
  match = HALF_WRITTEN.fullmatch(name)
  return None if match is None else match.group(1)


def sweep(folder: str | os.PathLike[str], *targets: str) -> None:
  """Remove what processes that are no more left half written of the files `targets` of a folder."""
  with contextlib.suppress(FileNotFoundError):
    for left in pathlib.Path(folder).iterdir():
      if target_of(left.name) in targets:
        _sweep(left)


def _sweep(left: pathlib.Path) -> None:
  with contextlib.suppress(FileNotFoundError), open(left, "rb") as found:
    if lock(found.fileno()):
      left.unlink(missing_ok=True)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a file system without locks says


def lock(descriptor: int) -> bool | None:
  """Lock an open file until it is closed, also by the end of the process.

  Returns:
    whether that was possible, as no other process has the lock; None where there are no locks.
  """
  try:
    import fcntl
  except ImportError:  # this system has none
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in NO_LOCKS:
      raise
    return None
  return True


NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)  # of places that cannot be synced


def sync(path: str | os.PathLike[str]) -> None:
  """See that a file, or the names in a folder, are on the disk; do nothing where the system cannot."""
  if os.name == "nt" and os.path.isdir(path):
    return
  try:
    descriptor = os.open(path, os.O_RDONLY)
  except PermissionError:  # a folder may be writable and not readable
    return
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in NO_SYNC:
      raise
  finally:
    os.close(descriptor)


def sync_tree(folder: str | os.PathLike[str]) -> None:
  """Do what `sync` does, for a folder and all that is in it."""
  for place, _, inside in os.walk(folder, topdown=False):
    for name in inside:
      sync(os.path.join(place, name))
    sync(place)
  sync(os.path.dirname(os.path.abspath(folder)))


def append(path: str | os.PathLike[str], text: str) -> None:
  """Put lines at the end of a file, on the disk when this returns; on an error the file is as before."""
  is_new = not os.path.exists(path)
  descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
  try:
    before, data = os.fstat(descriptor).st_size, text.encode()
    try:
      while data:
        data = data[os.write(descriptor, data) :]
      os.fsync(descriptor)
    except BaseException as error:
      with contextlib.suppress(OSError):
        os.ftruncate(descriptor, before)
      _name(error, path)
      raise
  finally:
    os.close(descriptor)
  if is_new:
    sync(os.path.dirname(os.path.abspath(path)))


def drop_torn_line(path: str | os.PathLike[str]) -> None:
  """Cut off the end of a file of lines that a killed process did not finish."""
  try:
    whole, newline, torn = pathlib.Path(path).read_bytes().rpartition(b"\n")
  except FileNotFoundError:
    return
  if torn:
    os.truncate(path, len(whole + newline))


def digest(path: str | os.PathLike[str]) -> str:
  """Return the SHA-256 of a file, hexadecimal."""
  with open(path, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()


def remove_if_empty(folder: str | os.PathLike[str]) -> None:
  """Remove a folder in which nothing is left."""
  with contextlib.suppress(OSError):
    os.rmdir(folder)


def check_space(folder: str | os.PathLike[str], size: int) -> None:
  """Check that a disk can take so many bytes, by taking them for a moment.

  For libraries that write by themselves, and print pages or stop half-way when the disk is full.

  Args:
    folder: on the disk; made if it is not there.
    size: bytes.

  Raises:
    OSError: it cannot.
  """
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  path = os.path.join(folder, f".space{PARTIAL}{os.getpid()}")
  try:
    with open(path, "wb") as taken:
      _take(taken, size)
  except OSError as error:
    error.filename = os.fspath(folder)
    raise
  finally:
    with contextlib.suppress(OSError):
      os.unlink(path)


def _take(taken: BinaryIO, size: int) -> None:
  if hasattr(os, "posix_fallocate"):
    os.posix_fallocate(taken.fileno(), 0, size)
    return
  for start in range(0, size, CHUNK):
    taken.write(bytes(min(CHUNK, size - start)))


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Write text, UTF-8, in full or not at all."""
  with file(path) as partial:
    partial.write_text(text, encoding="utf-8")


def write_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
  """Write a `.npy` file, in full or not at all."""
  data = io.BytesIO()
  np.save(data, array)  # to memory first: writing to a file, NumPy hides why the disk refused
  with file(path) as partial:
    partial.write_bytes(data.getvalue())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Write JSON; see `json_text`."""
  write_text(path, json_text(value))


def json_text(value: Any) -> str:
  """Return JSON with one entry a line; infinities and NaN, which JSON lacks, become null."""
  return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
  """Return a value in terms of JSON: numbers, text, lists and tables; infinities and NaN become None."""
  if isinstance(value, dict):
    return {plain(str(key)): plain(entry) for key, entry in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(entry) for entry in value]
  if isinstance(value, pathlib.PurePath):
    return plain(str(value))
  if isinstance(value, str):
    return value.encode(errors="surrogateescape").decode(errors="replace")  # file names need not be UTF-8
  if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
    return plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
