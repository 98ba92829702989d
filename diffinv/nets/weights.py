"""Tensors of PyTorch as parameters of ours: which tensor each parameter is read from, and in which layout.

No PyTorch here: a state_dict maps names to NumPy arrays.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

ALIGNMENT = 64  # bytes
ADVICE = "the file is incomplete or another network's"


class Source(NamedTuple):
  """Where a parameter comes from."""

  name: str  # in the state_dict
  shape: tuple[int, ...]  # there


Sources = Mapping[tuple[str, ...], Source]  # by the path of the parameter


def their_shape(path: tuple[str, ...], shape: tuple[int, ...], ones: tuple[int, ...] = ()) -> tuple[int, ...]:
  """Return the shape of a parameter in PyTorch; `ones`: at the end of a product's, (1, 1) of a 1x1 convolution."""
  if path[-1] != "kernel":
    return shape
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else (shape[1], shape[0], *ones)


def check_shapes(shapes: Mapping[str, tuple[int, ...]], sources: Sources, advice: str = ADVICE) -> None:
  """Check that tensors are exactly those that parameters are read from, but for ones at the end of a shape.

  Raises:
    ValueError: a tensor is missing, left over or misshapen; the message names it, and counts the others.
  """
  expected = {source.name: source.shape for source in sources.values()}
  missing = [name for name in expected if name not in shapes]
  extra = [name for name in shapes if name not in expected]
  wrong = [name for name in expected if name in shapes and _bare(shapes[name]) != _bare(expected[name])]
  for names, found in ((missing, "the file has none"), (wrong, "found"), (extra, "found")):
    if names:
      name = names[0]
      want = f"shape {list(expected[name])}" if name in expected else "no such tensor"
      have = f"{found} {list(shapes[name])}" if name in shapes else found
      more = f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""
      raise ValueError(f"tensor {name!r}: expected {want}, {have}{more}; {advice}")


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Return a shape without ones at the end of a product's: the same layer may be one, or a convolution of 1 or 1x1."""
  return tuple(shape[:2]) if set(shape[2:]) == {1} else tuple(shape)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
  """Return an empty array, float32, that lies where JAX takes it without a copy on a CPU."""
  size = 4 * int(np.prod(shape))
  memory = np.empty(size + ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % ALIGNMENT
  return memory[start : start + size].view(np.float32).reshape(shape)


def params(state_dict: Mapping[str, Any], sources: Sources, advice: str = ADVICE) -> dict[str, Any]:
  """Return the tree of parameters that a state_dict holds, float32 NumPy.

  Args:
    state_dict: arrays of any floating type, or what `np.asarray` makes one of: each is asked for once.
    sources: of each parameter.
    advice: what to do about tensors that do not fit; ends a message.

  Raises:
    ValueError: a tensor is missing, left over, misshapen, not floating or not finite; the message names it.
  """
  check_shapes({name: np.shape(value) for name, value in state_dict.items()}, sources, advice)
  found = {}
  for path, source in sources.items():
    value = np.asarray(state_dict[source.name])
    floating = jax.numpy.issubdtype(value.dtype, jax.numpy.floating)  # knows bfloat16, which NumPy does not
    if not floating or not np.all(np.isfinite(value)):
      got = "nan or infinity" if floating else f"type {value.dtype}"
      raise ValueError(f"tensor {source.name!r}: expected finite floating-point values, got {got}; the file is damaged")
    ours = _to_ours(path, value)
    found[path] = aligned(ours.shape)
    found[path][...] = ours
  return flax.traverse_util.unflatten_dict(found)


def _to_ours(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
  if path[-1] != "kernel":
    return value
  if value.ndim == 4 and value.shape[2:] != (1, 1):
    return value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
  return value.reshape(value.shape[:2]).T  # (O, I), (O, I, 1) or (O, I, 1, 1) -> (I, O)
