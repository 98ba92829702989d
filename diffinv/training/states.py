"""States of a run on the disk that can be trusted (`diffinv.archives`).

The state of step 120 is `states/00000120.npz`, which holds an array for each leaf, such as "params/block/kernel".
"""

import re
from typing import Any, NamedTuple

import jax

from diffinv import archives, output
from diffinv.devices import placed

NAME = re.compile(r"(\d{8,})\.npz")


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
    archives.write(self._folder.new(self._file(step)), arrays, step=step, info=info or {})

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
    most = archives.SPARE * (len(shapes) + 1) + 2 * sum(leaf.nbytes for leaf in shapes.values())
    found, arrays, info = archives.read(path, most=most)
    if found != step:
      raise ValueError(f"{path}: expected the state of step {step}, got that of {found}; {archives.ADVICE}")
    if {name: _layout(leaf) for name, leaf in arrays.items()} != {name: _layout(leaf) for name, leaf in shapes.items()}:
      raise ValueError(f"{path}: expected the arrays of this run, got those of another network; {archives.ADVICE}")
    there = [placed(arrays[name], leaf.sharding) for name, leaf in shapes.items()]
    return State(step, jax.tree.unflatten(jax.tree.structure(like), there), info)

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


def _layout(leaf: Any) -> tuple[tuple[int, ...], Any]:
  return leaf.shape, leaf.dtype
