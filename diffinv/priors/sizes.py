"""Pictures of any size through one network: filled up by reflection to what it takes, and evaluated in tiles.

A network of several scales takes heights and widths of a multiple. Pictures of other sizes are filled up with their
reflection, evaluated and cut back. Only what lies beyond the picture is made up, and only the network sees it.

A network that looks at a bounded neighborhood, `reach` pixels to each side, needs no more than this around a tile to
give the same result there as in the whole picture. The windows of a large picture are evaluated one after the other,
within the step of a chain: the chain is that of the whole picture, and the memory of the network's layers that of a
window. A window at the picture's edge begins there, so that the network meets the edge where it is. Several devices
may share the windows out among them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

TILES = "tile"  # the mesh axis over which the windows of a picture are spread

Apply = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Tiling(NamedTuple):
  """How large pictures are cut."""

  size: int  # pixels: the edge of a tile, a multiple of the network's
  reach: int  # pixels around a tile that its result depends on, a multiple of the network's
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
  if tiling is None or cuts is None or all(len(cut.tiles) == 1 for cut in cuts):
    return apply(params, x, t)
  rows, columns = cuts
  # Gradients keep the input of a window and compute its layers again.
  window = jax.checkpoint(lambda params, part, t: apply(params, part, t))
  channels = jax.eval_shape(apply, params, x, t)

  def tile(params, x, t, corners):
    (tile_y, start_y), (tile_x, start_x) = corners
    part = jax.lax.dynamic_slice(x, (start_y, start_x, 0), (rows.window, columns.window, x.shape[2]))
    found = window(params, part, t)
    inside = (tile_y - start_y, tile_x - start_x, 0)
    return jax.lax.dynamic_slice(found, inside, (rows.tile, columns.tile, found.shape[2]))

  def put(out, tile, corners):
    (tile_y, _), (tile_x, _) = corners
    return jax.lax.dynamic_update_slice(out, tile, (tile_y, tile_x, 0)), None

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
  """One axis in tiles."""

  tile: int
  window: int
  tiles: tuple[int, ...]  # where each begins; the last may overlap the one before
  starts: tuple[int, ...]  # where its window begins

  def corners(self):
    return list(zip(self.tiles, self.starts, strict=True))


def _cut(size: int, tiling: Tiling) -> _Cut:
  window = tiling.size + 2 * tiling.reach
  if size <= window:
    return _Cut(size, size, (0,), (0,))
  tiles = tuple(min(begin, size - tiling.size) for begin in range(0, size, tiling.size))
  starts = tuple(min(max(begin - tiling.reach, 0), size - window) for begin in tiles)
  return _Cut(tiling.size, window, tiles, starts)
