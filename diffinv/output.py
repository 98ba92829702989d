"""Files and folders that appear in full or not at all: written under a temporary name, renamed at the end."""

import contextlib
import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

RESULTS = "results.json"  # every command writes one; a folder that holds one is ours
PARTIAL = ".partial-"
REPLACED = ".replaced-"
LOCK = ".lock"
HALF_WRITTEN = re.compile(rf"\..+{re.escape(PARTIAL)}\d+")  # the temporary names that `file` gives


@contextlib.contextmanager
def folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[pathlib.Path]:
  """Yield a temporary folder beside `path` to write into; rename it to `path` at the end, remove it on any error.

  Args:
    path: the folder to make.
    overwrite: replace an existing folder at the end, if it is empty or this program made it.

  Raises:
    FileExistsError: something is at `path` that may not be replaced.
  """
  with built(path, lambda: check(path, overwrite=overwrite)) as partial:
    yield partial


@contextlib.contextmanager
def built(path: str | os.PathLike[str], check_place: Callable[[], None]) -> Iterator[pathlib.Path]:
  """Do what `folder` does, with `check_place` to raise, at the start and at the end, if `path` may not be replaced."""
  path = pathlib.Path(os.path.abspath(path))
  check_place()
  missing = [parent for parent in path.parents if not parent.exists()]  # innermost first
  partial = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=path.name + PARTIAL, dir=path.parent))
    partial.chmod(0o777 & ~_umask())
    yield partial
    try:
      check_place()
    except OSError as error:  # someone put something there meanwhile; keep what is finished
      kept, partial = partial, None
      raise FileExistsError(f"{error}; the finished result is in {kept}") from None
    _replace(partial, path)
  except BaseException:
    if partial is not None:
      shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):  # someone else may have put something there
      for parent in missing:
        parent.rmdir()
    raise


def check(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
  """Check that a folder may be made at `path`; see `folder`.

  Raises:
    FileExistsError: it may not.
    NotADirectoryError: a parent is a file.
  """
  path = pathlib.Path(path)
  if not os.path.lexists(path):
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
      raise NotADirectoryError(f"output: expected folders above {path}, {above} is none; choose another `output`")
    return
  if not path.is_dir() or path.is_symlink():
    raise FileExistsError(f"output: expected a folder to make, {path} is there and is none; choose another `output`")
  if not overwrite:
    raise FileExistsError(f"output: the folder {path} exists; choose another `output`, or replace it with `overwrite`")
  if any(path.iterdir()) and not (path / RESULTS).is_file():
    raise FileExistsError(
      f"output: `overwrite` replaces folders that diffinv made, {path} holds no {RESULTS}; choose another `output`"
    )


def publish(partial: pathlib.Path, path: pathlib.Path, *, overwrite: bool = False) -> None:
  """Rename the finished folder `partial`, beside `path`, to `path`; see `check` for what may be replaced."""
  check(path, overwrite=overwrite)
  _replace(partial, path)


def _replace(partial: pathlib.Path, path: pathlib.Path) -> None:
  if not path.exists():
    os.rename(partial, path)
    return
  aside = pathlib.Path(tempfile.mkdtemp(prefix=path.name + REPLACED, dir=path.parent))
  try:
    os.rename(path, aside / path.name)
    os.rename(partial, path)
  except BaseException:  # an interruption too
    if not path.exists() and (aside / path.name).exists():
      os.rename(aside / path.name, path)
    aside.rmdir()
    raise
  shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def check_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
  """Check that a file may be written; call it before the work begins.

  Raises:
    FileExistsError: it exists, or is a folder.
    NotADirectoryError: the folder to write it to does not exist.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise FileExistsError(f"output: expected a file to write, {path} is a folder; choose another `output`")
  if path.exists() and not overwrite:
    raise FileExistsError(f"output: {path} exists; choose another `output`, or replace it with `overwrite`")
  if not path.absolute().parent.is_dir():
    raise NotADirectoryError(f"output: expected a folder, {path.absolute().parent} is none; make it first")


@contextlib.contextmanager
def file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yield a temporary name beside `path` to write to; rename it to `path` at the end, remove it on any error."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
  try:
    yield partial
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what a file system without locks says


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Keep other processes from writing into a folder; the lock goes when the process ends, however it ends.

  Raises:
    FileExistsError: another process is writing into it.
  """
  try:
    import fcntl
  except ImportError:  # this system has no locks
    yield
    return
  path = folder / LOCK
  with open(path, "a") as held:
    try:
      fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise FileExistsError(
        f"output: another process writes into {folder}; wait for it, or choose another `output`"
      ) from None
    except OSError as error:
      if error.errno not in NO_LOCKS:
        raise
    try:
      yield
    finally:
      path.unlink(missing_ok=True)


def is_half_written(path: pathlib.Path) -> bool:
  """Tell whether a file is one that `file` is writing, or was writing when its process was killed."""
  return HALF_WRITTEN.fullmatch(path.name) is not None


def sweep(folder: pathlib.Path) -> None:
  """Remove what killed processes left half written; call it only on a folder that no process is writing to."""
  for path in folder.iterdir():
    if is_half_written(path):
      path.unlink()


def clear(folder: pathlib.Path) -> None:
  """Remove everything in a folder except its lock, which may be held."""
  for path in folder.iterdir():
    if path.name == LOCK:
      continue
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink()


def write_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
  """Write a `.npy` file, in full or not at all."""
  data = io.BytesIO()
  np.save(data, array)  # to memory first: writing to a file, NumPy hides why the disk refused
  with file(path) as partial:
    partial.write_bytes(data.getvalue())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Write JSON; see `json_text`."""
  with file(path) as partial:
    partial.write_text(json_text(value), encoding="utf-8")


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
