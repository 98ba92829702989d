"""Output folders: where one may be, what it may replace, and the folder in which the work toward it is done.

Work toward OUTPUT is done in a folder beside it, such as OUTPUT.running, which takes the name OUTPUT at the end. A
stopped work goes on there. Both hold a manifest (`diffinv.manifest`) of every file that was written; replacing and
starting again remove these files and refuse where there are others.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator

from diffinv import errors, files, reading
from diffinv.manifest import ASIDE, LOCK, NAME, Manifest

RESULTS = "results.json"
RUNNING = ".running"
REPLACED = ".replaced"
SHOWN = 3  # names of files in a message


# Places


def check_apart(
  path: str | os.PathLike[str],
  reads: Iterable[tuple[str, str | os.PathLike[str]]],
  *,
  suffix: str = RUNNING,
) -> None:
  """Check that an output is apart from what is read, and from where the person is.

  Args:
    path: of the output.
    reads: files and folders that are read, after the names of their options.
    suffix: of the name of the folder beside it in which the work is done.

  Raises:
    UsageError: it is one of them, contains one or lies in one; or it is or contains the current folder or the home
      folder.
  """
  places = (os.fspath(path), os.fspath(path).rstrip(os.sep) + suffix)
  for name, folder in (("the current folder", os.curdir), ("your home folder", "~")):
    for place in places:
      how = _relation(_real(place), _real(folder))
      if how in ("is", "contains"):
        raise errors.UsageError(f"`output`: expected a folder of its own, {place} {how} {name}; choose another")
  for name, read in reads:
    for place in places:
      how = _relation(_real(place), _real(read))
      if how is not None:
        raise errors.UsageError(f"`output`: expected a place apart from `{name}`, {place} {how} {read}; choose another")


def _relation(place: pathlib.Path, read: pathlib.Path) -> str | None:
  if place == read:
    return "is"
  if read.is_relative_to(place):
    return "contains"
  return "lies in" if place.is_relative_to(read) else None


def _real(path: str | os.PathLike[str]) -> pathlib.Path:
  return pathlib.Path(os.path.realpath(os.path.expanduser(path)))


def check(path: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> None:
  """Check that an output folder may be made, or replaced.

  Args:
    path: of the folder.
    kind: of what it will hold, such as "comparison".
    overwrite: replace one of the same kind, if it holds nothing else.

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
  _check_ours(path, kind)


def _check_ours(path: pathlib.Path, kind: str) -> None:
  """Check that a folder is empty, or holds what diffinv wrote of a kind and nothing else."""
  found = Manifest.read(path)
  if found is None:
    if any(entry.name != LOCK and files.target_of(entry.name) != NAME for entry in path.iterdir()):
      raise FileExistsError(
        f"output: expected a {kind} that diffinv wrote, {path} holds no {NAME}, the list of its files; move it away, "
        "or choose another `output`"
      )
    return
  if found.kind != kind:
    raise FileExistsError(f"output: expected a {kind}, {path} holds a {found.kind}; choose another `output`")
  if foreign := found.foreign():
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    raise FileExistsError(
      f"output: expected in {path} only what diffinv wrote, found {', '.join(foreign[:SHOWN])}{more}; move that "
      "elsewhere, or choose another `output`"
    )


def check_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
  """Check that a file may be written, and remove what a killed process left of one; call it before the work begins.

  Raises:
    FileExistsError: it exists, or is no regular file.
    NotADirectoryError: the folder to write it to does not exist.
  """
  path = pathlib.Path(path)
  if os.path.lexists(path) and not path.is_file():
    raise FileExistsError(f"output: expected a file to write, {path} is there and is none; choose another `output`")
  if path.exists() and not overwrite:
    raise FileExistsError(f"output: {path} exists; choose another `output`, or replace it with `overwrite`")
  if not path.absolute().parent.is_dir():
    raise NotADirectoryError(f"output: expected a folder, {path.absolute().parent} is none; make it first")
  files.sweep(path.absolute().parent, path.name)


# Locks


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Keep other processes from writing into a folder; the lock goes when the process ends, however it ends.

  Raises:
    FileExistsError: another process is writing into it.
    FileNotFoundError: another process has just finished in it.
  """
  path = folder / LOCK
  with open(path, "a") as held:
    if files.lock(held.fileno()) is False or not _is_at(held.fileno(), path):
      raise FileExistsError(
        f"output: another process writes into {folder}; wait for it, or choose another `output`"
      ) from None
    try:
      yield
    finally:
      if _is_at(held.fileno(), path):
        path.unlink(missing_ok=True)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
  """Tell whether an open file is still the one at a path."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


# Folders


class Folder:
  """The folder in which the work toward an output is done; see the module."""

  def __init__(self, path: str | os.PathLike[str], kind: str, command: str, *, suffix: str = RUNNING):
    """Touch nothing yet.

    Args:
      path: OUTPUT.
      kind: of what it will hold, such as "comparison".
      command: that writes it.
      suffix: of the folder's name beside that of OUTPUT; empty for OUTPUT itself.
    """
    self.path = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    self.place = pathlib.Path(f"{self.path}{suffix}")  # with_name refuses the root, of which `check_apart` tells
    self._kind, self._command = kind, command
    self._manifest: Manifest | None = None

  def check(self, *, restart: bool = False) -> None:
    """Check that the work may begin or go on in the folder.

    Args:
      restart: what it holds is to be thrown away.

    Raises:
      FileExistsError: it may not.
    """
    if not os.path.lexists(self.place):
      return
    if not self.place.is_dir() or self.place.is_symlink():
      raise FileExistsError(f"output: {self.place} is in the way and is no folder; move it, or choose another `output`")
    found = Manifest.read(self.place)
    if restart or found is None or found.kind != self._kind:
      _check_ours(self.place, self._kind)

  @contextlib.contextmanager
  def held(self, *, restart: bool = False) -> Iterator["Folder"]:
    """Make the folder and be the only one to write into it.

    Args:
      restart: throw away what it holds.

    Raises:
      FileExistsError: another process writes into it, or it holds something else.
    """
    missing = [parent for parent in self.place.parents if not parent.exists()]  # innermost first
    try:
      self.place.mkdir(parents=True, exist_ok=True)
      with locked(self.place):
        yield from self._working(restart)
    finally:
      for folder in (self.place, *missing):
        files.remove_if_empty(folder)

  def _working(self, restart: bool) -> Iterator["Folder"]:
    recover(self.path)
    self.check(restart=restart)
    manifest = self._manifest = Manifest.begin(self.place, self._kind, self._command)
    try:
      if restart:
        self.clear()
      manifest.sweep()
      yield self
    finally:
      if not manifest.names and not manifest.foreign():  # nothing was written
        manifest.remove()

  @property
  def manifest(self) -> Manifest:
    """The list of what was written, while the folder is held."""
    if self._manifest is None:
      raise RuntimeError("manifest: expected a folder that is held")
    return self._manifest

  def new(self, *names: str) -> pathlib.Path:
    """Return the path of a file to write, which is listed from now on.

    Args:
      *names: of the file, with forward slashes, and of others that will be written soon: one line to sync for all.
    """
    self.manifest.add(*names)
    path = self.place / names[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def check_new(self, name: str, *, overwrite: bool) -> None:
    """Check that a file may be written into the folder.

    Raises:
      FileExistsError: it is there, and `overwrite` is off or it is not ours.
    """
    path = self.place / name
    if not os.path.lexists(path):
      return
    if not overwrite:
      raise FileExistsError(f"output: {path} exists; choose another `output`, or replace it with `overwrite`")
    if name not in self.manifest.names:
      raise FileExistsError(f"output: diffinv did not write {path}; move it elsewhere, or choose another `output`")

  def publish(self, *, overwrite: bool = False) -> None:
    """Give the finished folder the name OUTPUT, while it is held, so that nobody goes on in it meanwhile.

    Raises:
      FileExistsError: something is there that may not be replaced.
    """
    try:
      check(self.path, self._kind, overwrite=overwrite)
    except OSError as error:  # someone put something there meanwhile
      raise FileExistsError(f"{error}; the finished result is in {self.place}") from None
    self.manifest.settle()
    replace(self.place, self.path)
    (self.path / LOCK).unlink(missing_ok=True)  # removed any earlier, it would let another process in

  def clear(self) -> None:
    """Remove what was written, while the folder is held, to begin anew in it."""
    self.manifest.remove(keep_folder=True)

  def discard(self) -> None:
    """Remove what was written, and the folder, while it is held."""
    self.manifest.remove()
    self.manifest.names.clear()


def replace(place: pathlib.Path, path: pathlib.Path) -> None:
  """Rename a finished folder, and then remove what it replaces, as far as that was written by us."""
  aside = path.with_name(path.name + REPLACED)
  if path.exists() and Manifest.read(path) is None:
    path.rmdir()  # empty, or this raises
  with contextlib.ExitStack() as stack:
    if path.exists():
      stack.enter_context(locked(path))
      (path / ASIDE).touch()
      os.rename(path, aside)
    try:
      os.rename(place, path)
    except BaseException:
      if aside.exists() and not path.exists():
        _put_back(aside, path)
      raise
    files.sync(path.parent)
  if aside.exists():
    _remove_replaced(aside)


def recover(path: pathlib.Path) -> None:
  """Put right what a process left that was stopped while it replaced the folder `path`.

  Raises:
    FileExistsError: something that was not put aside has that name, such as a folder of ours that a person renamed.
  """
  aside = path.with_name(path.name + REPLACED)
  if not os.path.lexists(aside):
    return
  if not reading.is_file(aside / ASIDE):
    try:
      aside.rmdir()  # what is left where a stop came at the end of its removal
    except OSError:
      raise FileExistsError(f"output: {aside} is in the way; move it, or choose another `output`") from None
    return
  with locked(aside):
    if not path.exists():
      _put_back(aside, path)
      return
  _remove_replaced(aside)


def _put_back(aside: pathlib.Path, path: pathlib.Path) -> None:
  os.rename(aside, path)
  for name in (LOCK, ASIDE):  # which moved along
    (path / name).unlink(missing_ok=True)


def tidy(path: pathlib.Path) -> None:
  """Remove what a process left that was stopped when the folder `path` was already in its place."""
  with contextlib.suppress(FileExistsError):  # what others have put there is not in the way of reading
    recover(path)
  if os.path.lexists(path / LOCK):
    with contextlib.suppress(FileExistsError), locked(path):  # which removes it, unless another process has it
      pass


def _remove_replaced(aside: pathlib.Path) -> None:
  found = Manifest.read(aside)
  if found is not None:
    found.remove()
  elif {*os.listdir(aside)} <= {ASIDE}:  # a stop came at the end of its removal
    (aside / ASIDE).unlink(missing_ok=True)
    files.remove_if_empty(aside)
