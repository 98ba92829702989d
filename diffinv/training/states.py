"""States of a run on the disk that can be trusted: there in full or not at all, and checked when they are read.

  states/00000120.npz   an array each, "params/block/kernel", and one that tells of them: "about", JSON

Not by Orbax, as priors are: it writes from threads of its own, which print pages when the disk is full.
"""

import hashlib
import json
import os
import pathlib
import re
import zipfile
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from diffinv import errors, files, output, reading

ABOUT = "about"
NAME = re.compile(r"(\d{8,})\.npz")
ADVICE = "the file is damaged"
SPARE = 1000  # bytes of a file for each array in it, and once more, beside those of the array: its name and digest


class About(TypedDict):
  """What a file says of the arrays in it."""

  step: int
  info: dict[str, Any]
  digests: dict[str, str]  # of the arrays by name
  digest: str  # of all of the above


class State(NamedTuple):
  """A tree of arrays that was saved after a step, and what else was kept of it."""

  step: int
  tree: Any
  info: dict[str, Any]


class States:
  """The states of one kind in the folder of a run, by step."""

  def __init__(self, folder: output.Folder, name: str):
    """Touch nothing yet; `folder` is held, `name` is that of the folder in it."""
    self._folder, self._name = folder, name
    self.path = folder.place / name

  def steps(self) -> list[int]:
    """Return the steps of which there is a state, in order."""
    if not self.path.is_dir():
      return []
    found = (NAME.fullmatch(path.name) for path in self.path.iterdir())
    return sorted(int(match[1]) for match in found if match)

  def save(self, step: int, tree: Any, info: dict[str, Any] | None = None) -> None:
    """Write the state of a step, or replace it; it is on the disk when this returns.

    Args:
      step: whose state it is.
      tree: of arrays.
      info: what else is to be kept, as JSON has it.
    """
    arrays = _named(jax.device_get(tree))
    about = _about(step, files.plain(info or {}), digests(arrays))
    with files.file(self._folder.new(self._file(step))) as partial, open(partial, "wb") as opened:
      np.savez(opened, allow_pickle=False, **{**arrays, ABOUT: np.array(json.dumps(about))})

  def keep(self, *steps: int) -> None:
    """Remove the states of all other steps, as far as a run wrote them."""
    manifest = self._folder.manifest
    others = {self._file(step) for step in self.steps() if step not in steps} & manifest.names.keys()
    for name in others:
      (self._folder.place / name).unlink(missing_ok=True)
    if others:
      manifest.settle()

  def read(self, step: int, like: Any) -> State:
    """Return the state of a step, with the arrays placed as those of `like`, a tree of the same structure.

    Raises:
      ValueError: it is damaged, or of another structure.
      OSError: it cannot be read.
    """
    path = self._folder.place / self._file(step)
    shapes = _named(like)
    try:
      arrays, about = _read(path, shapes)
    except (OSError, MemoryError):
      raise
    except Exception as error:  # a damaged file may raise anything
      raise ValueError(f"{path}: expected arrays of a run, got {errors.brief(error)}; {ADVICE}") from None
    if about != _about(step, about["info"], digests(arrays)):
      raise ValueError(f"{path}: expected the arrays of its digests, got others; {ADVICE}")
    placed = [jax.device_put(arrays[name], leaf.sharding) for name, leaf in shapes.items()]
    return State(step, jax.tree.unflatten(jax.tree.structure(like), placed), about["info"])

  def newest(self, like: Any) -> tuple[State | None, list[int]]:
    """Return the newest state that is whole, see `read`, None if there is none; and the steps of newer ones."""
    damaged: list[int] = []
    for step in reversed(self.steps()):
      try:
        return self.read(step, like), damaged
      except ValueError:
        damaged.append(step)
    return None, damaged

  def _file(self, step: int) -> str:
    return f"{self._name}/{step:08d}.npz"


def _named(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by their paths, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
  """Return the SHA-256 of each array: of its type and shape, "float32 [3, 64]" and a newline, and of its bytes."""
  return {name: _digest(array) for name, array in arrays.items()}


def _digest(array: np.ndarray) -> str:
  found = hashlib.sha256(f"{array.dtype} {list(array.shape)}\n".encode())
  found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return found.hexdigest()


def _about(step: int, info: dict[str, Any], of_arrays: dict[str, str]) -> About:
  said = json.dumps([step, info, of_arrays], sort_keys=True)
  return {"step": step, "info": info, "digests": of_arrays, "digest": hashlib.sha256(said.encode()).hexdigest()}


def _read(path: pathlib.Path, shapes: dict[str, Any]) -> tuple[dict[str, np.ndarray], About]:
  """Return the arrays of a file, which are those of `shapes`, and what it says of them."""
  most = SPARE * (len(shapes) + 1) + 2 * sum(leaf.nbytes for leaf in shapes.values())
  with reading.open_file(path, most=most, advice=ADVICE) as opened:
    with zipfile.ZipFile(opened) as archive:
      if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("compressed arrays")  # which may take any amount of memory
    opened.seek(0)
    with np.load(opened, allow_pickle=False) as found:
      about: About = reading.parse_json(str(found[ABOUT]).encode(), About, os.fspath(path), ADVICE)
      arrays = {name: found[name] for name in shapes}
  if any(arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype for name, leaf in shapes.items()):
    raise ValueError("arrays of another network")
  return arrays, about
