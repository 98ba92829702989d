"""Pictures of any size through one network: filled up by reflection to what it takes, and evaluated in tiles.

A network of several scales takes heights and widths of a multiple. Pictures of other sizes are filled up with their
reflection, evaluated and cut back. Only what lies beyond the picture is made up, and only the network sees it.

A network that looks at a bounded neighborhood, `reach` pixels to each side, gives the same result a reach away from
where a window of the picture was cut as in the whole picture. The windows of a large picture are evaluated one after
the other, within the step of a chain: the chain is that of the whole picture, and the memory of the network's layers
that of a window. A window at the picture's edge begins there, so that the network meets the edge where it is. There are
as few windows as their greatest size allows, and these are as small as so many can be. Several devices may share them
out among them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

TILES = "tile"  # the mesh axis over which the windows of a picture are spread

Apply = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Tiling(NamedTuple):
  """How large pictures are cut."""

  size: int  # pixels: a window's edge at most, less twice the reach; a multiple of the network's
  reach: int  # pixels to each side that a result depends on, a multiple of the network's
  mesh: jax.sharding.Mesh | None = None  # devices, along TILES, that share the windows out; None for one


def filled(apply: Apply, params: Any, x: jax.Array, t: jax.Array, multiple: int, tiling: Tiling | None) -> jax.Array:
  """Return the network's output for a picture of any size.

  Args:
    apply: the network, (params, [h, w, c], []) -> [h, w, out].
    params: its parameters.
    x: its input, [h, w, c].
    t: its time, [].
    multiple: pixels that height and width must be a multiple of.
    tiling: of what is larger than a window; None for never.

  Returns:
    [h, w, out].
  """
  height, width, _ = x.shape
  more = [-size % multiple for size in (height, width)]
  if any(more):
    around = [(extra // 2, extra - extra // 2) for extra in more]
    out = tiled(apply, params, jnp.pad(x, (*around, (0, 0)), mode="reflect"), t, tiling)
    return out[around[0][0] :, around[1][0] :][:height, :width]
  return tiled(apply, params, x, t, tiling)


def tiled(apply: Apply, params: Any, x: jax.Array, t: jax.Array, tiling: Tiling | None) -> jax.Array:
  """Return the network's output for `x`, [h, w, c] of sizes that it takes, tile after tile where it is large."""
  cuts = None if tiling is None else [_cut(size, tiling) for size in x.shape[:2]]
  if tiling is None or cuts is None or all(len(cut.starts) == 1 for cut in cuts):
    return apply(params, x, t)
  rows, columns = cuts
  # Gradients keep the input of a window and compute its layers again.
  window = jax.checkpoint(lambda params, part, t: apply(params, part, t))
  channels = jax.eval_shape(apply, params, x, t)

  def tile(params, x, t, corner):
    (start_y, skipped_y), (start_x, skipped_x) = corner
    part = jax.lax.dynamic_slice(x, (start_y, start_x, 0), (rows.window, columns.window, x.shape[2]))
    found = window(params, part, t)
    return jax.lax.dynamic_slice(found, (skipped_y, skipped_x, 0), (rows.tile, columns.tile, found.shape[2]))

  def put(out, tile, corner):
    (start_y, skipped_y), (start_x, skipped_x) = corner
    return jax.lax.dynamic_update_slice(out, tile, (start_y + skipped_y, start_x + skipped_x, 0)), None

  corners = [(row, column) for row in rows.corners() for column in columns.corners()]
  out = jnp.zeros(channels.shape, channels.dtype)
  if tiling.mesh is None:
    return jax.lax.scan(lambda out, one: put(out, tile(params, x, t, one), one), out, _stacked(corners))[0]
  corners += corners[-1:] * (-len(corners) % tiling.mesh.size)  # as many on each device
  tiles = _shared(tile, tiling.mesh)(params, x, t, _stacked(corners))
  return jax.lax.scan(lambda out, pair: put(out, *pair), out, (tiles, _stacked(corners)))[0]


def _stacked(corners):
  return jax.tree.map(lambda *numbers: jnp.asarray(numbers), *corners)


def _shared(tile, mesh):
  """Return `tile` for many corners, of which each device does its part, one after the other."""
  several = lambda params, x, t, corners: jax.lax.map(lambda one: tile(params, x, t, one), corners)
  split, whole = PartitionSpec(TILES), PartitionSpec()
  return jax.shard_map(several, mesh=mesh, in_specs=(whole, whole, whole, split), out_specs=split, check_vma=False)


class _Cut(NamedTuple):
  """One axis in windows, which overlap by twice the reach at least.

  A tile is what of a window is kept, from the reach on. Its last pixels are wrong where the next window's tile, written
  after it, covers them. The first is kept from its beginning, without them.
  """

  window: int
  tile: int
  starts: tuple[int, ...]  # where each window begins
  reach: int

  def corners(self):
    """Return where each window begins, and how much of it is skipped."""
    return [(start, self.reach if start else 0) for start in self.starts]


def _cut(size: int, tiling: Tiling) -> _Cut:
  around = 2 * tiling.reach
  number = max(1, -(-(size - around) // tiling.size))
  if number == 1:
    return _Cut(size, size, (0,), tiling.reach)
  unit = math.gcd(tiling.size, tiling.reach)  # a multiple of the network's
  window = -(-(size + around * (number - 1)) // (number * unit)) * unit
  starts = tuple(min(i * (window - around), size - window) for i in range(number))
  return _Cut(window, window - tiling.reach, starts, tiling.reach)
