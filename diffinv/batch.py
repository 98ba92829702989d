"""Batched reconstruction: `vmap` over images and posterior samples, in chunks, on one device or a mesh.

Methods never see a batch: every image keeps its own keys, residual norm and trace, and the result does not depend on
which other images share its batch.
"""

from typing import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffinv import sampler
from diffinv.methods.base import Info, Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level, as_arrays

AXIS = "image"  # the mesh axis over which chains are spread
NUM_BLOCKS = 100  # how often a chain reports: each block is one dispatch, about a millisecond

Progress = Callable[[int, int], None]  # (steps done, steps in all)


def sample_batch(
  keys: jax.Array,
  method: Method,
  prior: AnyPrior,
  problems: Problem | None,
  grid: Level,
  *,
  chunk: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  progress: Progress | None = None,
) -> tuple[np.ndarray, Info]:
  """Restore a batch of images, several posterior samples each.

  Args:
    keys: one per chain, `[images, samples]`.
    method, prior, grid: as in `diffinv.sample`, shared by all chains.
    problems: a `Problem` with a leading axis of images on every leaf (`diffinv.problems.stack`); None for methods
      that take no measurement.
    chunk: chains that run at once, to bound memory; None for all. The last chunk is filled up with copies, so that
      one compilation serves them all.
    mesh: devices to spread the chains of a chunk over, with an axis "image"; None for the default device.
    progress: called on the host with (steps done, steps in all) after every block of steps.

  Returns:
    Restored images, `[images, samples, h, w, c]`, [-1, 1] and not clipped; and the trace, `[images, samples, steps]`
    an entry. Both NumPy, on the host.

  Raises:
    ValueError: keys are not `[images, samples]`, or their number of images is not that of the problems.
  """
  if keys.ndim != 2:
    raise ValueError(f"keys: expected shape [images, samples], got {keys.shape}; reshape jax.random.split's result")
  images, samples = keys.shape
  counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in map(jnp.asarray, jax.tree.leaves(problems))}
  if counts - {images}:
    raise ValueError(f"problems: expected {images} images as in keys, got {sorted(counts)}; use problems.stack")
  chains = images * samples
  devices = 1 if mesh is None else mesh.shape[AXIS]
  chunk = chains if chunk is None else min(chunk, chains)
  chunk = -(-chunk // devices) * devices
  grid = as_arrays(grid)
  keys = keys.reshape(-1)
  starts = range(0, chains, chunk)
  results = []
  for number, first in enumerate(starts):
    chosen = np.minimum(np.arange(first, first + chunk), chains - 1)
    batch = (keys[chosen], jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen // samples], problems))
    if mesh is not None:
      batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))
      prior = jax.device_put(prior, NamedSharding(mesh, PartitionSpec()))
    report = None if progress is None else lambda done, total: progress(number * total + done, len(starts) * total)
    results.append(jax.device_get(_run(*batch, method, prior, grid, report)))
  joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:chains], *results)
  return jax.tree.map(lambda leaf: leaf.reshape(images, samples, *leaf.shape[1:]), joined)


def _run(keys, problems, method, prior, grid, progress):
  if progress is None:
    return _whole(keys, problems, method, prior, grid)
  total = method.levels(grid).alpha.shape[0] - 1
  block = max(1, -(-total // NUM_BLOCKS))
  state = _start(keys, problems, method, prior, grid)
  traces = []
  for first in range(0, total, block):
    state, info = _advance(keys, state, jnp.arange(first, first + block), problems, method, prior, grid)
    traces.append(info)
    jax.block_until_ready(state)
    progress(min(first + block, total), total)
  info = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1)[:, :total], *traces)
  return _finish(state, problems, method, prior), info


@jax.jit
def _whole(keys, problems, method, prior, grid):
  return jax.vmap(lambda key, problem: sampler.sample(key, method, prior, problem, grid))(keys, problems)


@jax.jit
def _start(keys, problems, method, prior, grid):
  return jax.vmap(lambda key, problem: sampler.start(key, method, prior, problem, grid))(keys, problems)


@jax.jit
def _advance(keys, states, steps, problems, method, prior, grid):
  def one(key, state, problem):
    return sampler.advance(key, state, steps, method, prior, problem, grid)

  return jax.vmap(one)(keys, states, problems)


@jax.jit
def _finish(states, problems, method, prior):
  return jax.vmap(lambda state, problem: method.finish(state, prior, problem))(states, problems)
