"""The list of what diffinv wrote into a folder, so that it removes that and nothing else.

A folder that a command makes holds `manifest.jsonl`: a line about the folder, then a line a file.

  {"format": "diffinv-manifest-1", "kind": "comparison", "command": "compare"}
  "run.json"
  "pictures/astronaut-truth.png"
  "params/"

A name is listed before its file is written: a stop at any time leaves no file unlisted. A name that ends in a slash is
a folder that a library is filling; all in it counts as ours until `settle` lists its files.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Self

from diffinv import files, reading

NAME = "manifest.jsonl"
LOCK = ".lock"
ASIDE = ".replaced"  # in a folder that was put aside while another took its place
FORMAT = "diffinv-manifest-1"
MAX_BYTES = 2**30
LONGEST = 255  # bytes of a name that a file system takes


@dataclasses.dataclass
class Manifest:
  """What was written into a folder."""

  folder: pathlib.Path
  kind: str  # of what the folder holds, such as "comparison"
  command: str
  names: dict[str, None]  # relative to the folder, with forward slashes

  @classmethod
  def begin(cls, folder: pathlib.Path, kind: str, command: str) -> Self:
    """Write a manifest without names, or return the one that is there."""
    found = cls.read(folder)
    if found is None:
      found = cls(folder, kind, command, {})
      found._rewrite()
    else:
      files.drop_torn_line(folder / NAME)
    return found

  @classmethod
  def read(cls, folder: pathlib.Path) -> Self | None:
    """Return the manifest of a folder; None where there is none that can be read. Lines that cannot be are left out."""
    try:
      first, *lines = reading.read_bytes(folder / NAME, most=MAX_BYTES).rpartition(b"\n")[0].split(b"\n")
      about = json.loads(first)
      if about["format"] != FORMAT:
        return None
      kind, command = str(about["kind"]), str(about["command"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
      return None
    return cls(folder, kind, command, dict.fromkeys(_names(lines)))

  def add(self, *names: str) -> None:
    """List names, on the disk; those of files that are about to be written."""
    new = [name for name in dict.fromkeys(names) if name not in self.names]
    if new:
      files.append(self.folder / NAME, "".join(json.dumps(name) + "\n" for name in new))
      self.names.update(dict.fromkeys(new))

  def settle(self) -> None:
    """List exactly the files that are there, and see that those that a library wrote are on the disk."""
    listed = {}
    for name in self.names:
      found = _walk(self.folder, self.folder / name) if name.endswith("/") else [name]
      listed.update(dict.fromkeys(n for n in found if os.path.lexists(self.folder / n)))
      if name.endswith("/"):
        files.sync_tree(self.folder / name)
    self.names = listed
    self._rewrite()

  @property
  def _trees(self) -> tuple[str, ...]:
    """The names of folders that libraries are filling."""
    return tuple(name for name in self.names if name.endswith("/"))

  def foreign(self) -> list[str]:
    """Return what is in the folder and not listed, sorted; folders with a slash at the end."""
    trees = self._trees
    parents = {str(parent) for name in self.names for parent in pathlib.PurePosixPath(name.rstrip("/")).parents}
    parents |= {tree.rstrip("/") for tree in trees}
    found = []
    for place, folders, inside in os.walk(self.folder):
      at = pathlib.Path(place).relative_to(self.folder).as_posix()
      whole = lambda name, at=at: name if at == "." else f"{at}/{name}"
      strange = [name for name in folders if not self._known(whole(name), parents, trees, place)]
      found += [whole(name) + "/" for name in strange]
      folders[:] = [name for name in folders if name not in strange]
      found += [whole(name) for name in inside if not self._ours(whole(name), trees)]
    return sorted(found)

  def _known(self, name: str, parents: set[str], trees: tuple[str, ...], place: str) -> bool:
    """Tell whether a folder is one that was made for listed files; a link is not."""
    real = not os.path.islink(os.path.join(place, name.rpartition("/")[2]))
    return real and (name in parents or name.startswith(trees))

  def _ours(self, name: str, trees: tuple[str, ...]) -> bool:
    if name in self.names or name in (NAME, LOCK, ASIDE) or name.startswith(trees):
      return True
    place, _, last = name.rpartition("/")
    target = files.target_of(last)  # of a file that was left half written
    whole = target if not place else f"{place}/{target}"
    return target is not None and (whole in self.names or whole == NAME)

  def remove(self, *, keep_folder: bool = False) -> None:
    """Remove what is listed, the folders that this leaves empty, and at the end the list; nothing else.

    The list stays where anything else does.

    Args:
      keep_folder: leave the folder itself, its lock and an empty list.
    """
    for name in self.names:
      self._remove(name)
    self.sweep()
    parents = {parent for name in self.names for parent in pathlib.PurePosixPath(name).parents[:-1]}
    for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
      files.remove_if_empty(self.folder / parent)
    if keep_folder:
      self.names = {}
      self._rewrite()
      return
    (self.folder / LOCK).unlink(missing_ok=True)
    if self.folder.is_dir() and {*os.listdir(self.folder)} <= {NAME, ASIDE}:  # else the list still tells what is ours
      for name in (NAME, ASIDE):
        (self.folder / name).unlink(missing_ok=True)
    files.remove_if_empty(self.folder)

  def _remove(self, name: str) -> None:
    path = self.folder / name
    if not os.path.lexists(path) or any(
      (self.folder / parent).is_symlink() for parent in pathlib.PurePosixPath(name).parents[:-1]
    ):
      return  # a folder in between has become a link to somewhere else
    if name.endswith("/") and path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    elif not name.endswith("/") and (path.is_symlink() or not path.is_dir()):
      path.unlink(missing_ok=True)

  def sweep(self) -> None:
    """Remove what killed processes left half written; for whoever holds the folder's lock."""
    trees = self._trees
    for place in {self.folder, *((self.folder / name).parent for name in self.names)}:
      for path in _half_written(place):
        if self._ours(path.relative_to(self.folder).as_posix(), trees):
          path.unlink(missing_ok=True)

  def _rewrite(self) -> None:
    about = {"format": FORMAT, "kind": self.kind, "command": self.command}
    files.write_text(self.folder / NAME, "".join(json.dumps(line) + "\n" for line in (about, *self.names)))


def _names(lines: Iterable[bytes]) -> Iterator[str]:
  """Return the names in lines, as far as they are names of what can lie in a folder."""
  for line in lines:
    try:
      name = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if isinstance(name, str) and all(map(_is_part, name.removesuffix("/").split("/"))):
      yield name


def _is_part(part: str) -> bool:
  """Tell whether a part of a name can be that of a file within a folder."""
  try:
    return part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) <= LONGEST
  except UnicodeEncodeError:
    return False


def _walk(folder: pathlib.Path, tree: pathlib.Path) -> Iterator[str]:
  for place, _, inside in os.walk(tree):
    for name in sorted(inside):
      yield (pathlib.Path(place) / name).relative_to(folder).as_posix()


def _half_written(place: pathlib.Path) -> list[pathlib.Path]:
  try:
    return [path for path in place.iterdir() if files.target_of(path.name) is not None]
  except OSError:
    return []
