"""Batched reconstruction: `vmap` over images and posterior samples, in chunks, on one device or a mesh.

Methods never see a batch: every image keeps its own keys, residual norm and trace, and the result does not depend on
which other images share its batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffinv import sampler
from diffinv.methods.base import Info, Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem, stack
from diffinv.schedules import Level, as_arrays

AXIS = "image"  # the mesh axis over which chains are spread
NUM_BLOCKS = 100  # how often a chain reports: each block is one dispatch, about a millisecond

Progress = Callable[[int, int], None]  # (steps done, steps in all)


class View(NamedTuple):
  """What can be seen of a chunk of chains between two blocks of steps."""

  chains: np.ndarray  # their numbers, image-major; the last may be repeated
  done: int  # steps
  total: int  # steps
  estimate: Callable[[], jax.Array]  # gives the current clean images, [chains, h, w, c]: a network evaluation
  step_bytes: Callable[[], int | None]  # gives the memory of the compiled steps; None if the compiler does not say


Watch = Callable[[View], None]


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
  watch: Watch | None = None,
  swept: bool = False,
) -> tuple[np.ndarray, Info]:
  """Restore a batch of images, several posterior samples each.

  Args:
    keys: one per chain, `[images, samples]`.
    method, prior, grid: as in `diffinv.sample`, shared by all chains.
    problems: a `Problem` with a leading axis of images on every leaf (`diffinv.problems.stack`); None for methods
      that take no measurement.
    chunk: chains that run at once, to bound memory; None for all. The last chunk is padded with copies, so that
      one compilation serves them all.
    mesh: devices to spread the chains of a chunk over, with an axis "image"; None for the default device.
    progress: called on the host with (steps done, steps in all) after every block of steps.
    watch: called on the host after every block of steps, and once before them, with a `View`.
    swept: every leaf of `method` has a leading axis of images: each image its own hyper-parameters.

  Returns:
    Restored images, `[images, samples, h, w, c]`, [-1, 1] and not clipped; and the trace, `[images, samples, steps]`
    an entry. Both NumPy, on the host.

  Raises:
    ValueError: keys are not `[images, samples]`, or keys and problems differ in the number of images.
  """
  if keys.ndim != 2:
    raise ValueError(f"keys: expected shape [images, samples], got {keys.shape}; reshape jax.random.split's result")
  images, samples = keys.shape
  counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in map(jnp.asarray, jax.tree.leaves(problems))}
  if counts - {images}:
    raise ValueError(f"problems: expected {images} images as in keys, got {sorted(counts)}; use problems.stack")
  chains = images * samples
  chunk = chunk_size(chains, chains if chunk is None else chunk, 1 if mesh is None else mesh.shape[AXIS])
  grid = as_arrays(grid)
  keys = keys.reshape(-1)
  starts = range(0, chains, chunk)
  results = []
  for number, first in enumerate(starts):
    chosen = np.minimum(np.arange(first, first + chunk), chains - 1)
    pick = lambda leaf: jnp.asarray(leaf)[chosen // samples]
    batch = [keys[chosen], jax.tree.map(pick, problems), jax.tree.map(pick, method) if swept else method]
    if mesh is not None:
      split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
      batch = [jax.device_put(part, place) for part, place in zip(batch, (split, split, split if swept else whole))]
      prior = jax.device_put(prior, whole)
    report = None if progress is None else lambda done, total: progress(number * total + done, len(starts) * total)
    look = None if watch is None else functools.partial(View, chosen)
    results.append(jax.device_get(_run(batch, prior, grid, swept, report, watch, look)))
  joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:chains], *results)
  return jax.tree.map(lambda leaf: leaf.reshape(images, samples, *leaf.shape[1:]), joined)


def chunk_size(chains: int, chunk: int, devices: int) -> int:
  """Return how many of so many chains run at once: at most `chunk`, rounded up to as many on each device."""
  return -(-min(chunk, chains) // devices) * devices


def step_jaxpr(
  method: Method, prior: AnyPrior, problem: Problem | None, grid: Level, *, chains: int, swept: bool = False
) -> Any:
  """Return the jaxpr of a step of so many chains, by shapes alone; the chains themselves need not be traced again.

  Args:
    method, prior, grid: as in `sample_batch`; `method` is that of one chain where each has its own.
    problem: of one image.
    chains: that run at once.
    swept: as in `sample_batch`.
  """
  several = lambda leaf: jax.ShapeDtypeStruct((chains, *leaf.shape[1:]), leaf.dtype, weak_type=leaf.weak_type)
  problems = None if problem is None else jax.tree.map(several, jax.eval_shape(lambda: stack([problem])))
  if swept:
    method = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chains, *jnp.shape(leaf)), jnp.float32), method)
  keys, grid = jax.ShapeDtypeStruct((chains,), jax.random.key(0).dtype), as_arrays(grid)
  total = _total_steps(method, grid, swept)
  state = jax.eval_shape(_start, keys, problems, method, prior, grid, swept)
  steps = jnp.arange(_block(total))
  return _advance.trace(keys, state, steps, problems, method, prior, grid, swept).jaxpr.jaxpr


def _run(batch, prior, grid, swept, progress, watch, view):
  keys, problems, method = batch
  if progress is None and watch is None:
    return _whole(keys, problems, method, prior, grid, swept)
  total = _total_steps(method, grid, swept)
  block = _block(total)
  # Bound to its device, as what `_advance` returns is: else the second block would be compiled anew.
  state = jax.tree.map(
    lambda leaf: jax.device_put(leaf, leaf.sharding), _start(keys, problems, method, prior, grid, swept)
  )
  traces = []

  def step_bytes():  # not a second compilation: this is the step that has run, or will run
    memory = (
      _advance.lower(keys, state, jnp.arange(block), problems, method, prior, grid, swept).compile().memory_analysis()
    )
    return None if memory is None else _total_bytes(memory)

  def report(done):
    jax.block_until_ready(state)
    if progress is not None and done:
      progress(done, total)
    if watch is not None:
      estimate = lambda: _estimate(state, jnp.asarray(done), problems, method, prior, grid, swept)
      watch(view(done, total, estimate, step_bytes))

  report(0)
  for first in range(0, total, block):
    state, info = _advance(keys, state, jnp.arange(first, first + block), problems, method, prior, grid, swept)
    traces.append(info)
    report(min(first + block, total))
  info = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1)[:, :total], *traces)
  return _finish(state, problems, method, prior, swept), info


def _total_steps(method, grid, swept):
  one = lambda method: (jax.tree.map(lambda leaf: leaf[0], method) if swept else method).levels(grid)
  return jax.eval_shape(one, method).alpha.shape[0] - 1


def _block(total):
  """Return the steps of a block."""
  return max(1, -(-total // NUM_BLOCKS))


def _total_bytes(memory):
  parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
  return sum(getattr(memory, part) for part in parts) - memory.alias_size_in_bytes


_compiled = functools.partial(jax.jit, static_argnames="swept")


def _over_chains(function, swept, method, *batched):
  """Map `function(method, *parts)` over chains; the method is shared, or each chain has its own."""
  return jax.vmap(function, in_axes=(0 if swept else None, *[0] * len(batched)))(method, *batched)


@_compiled
def _whole(keys, problems, method, prior, grid, swept):
  one = lambda method, key, problem: sampler.sample(key, method, prior, problem, grid)
  return _over_chains(one, swept, method, keys, problems)


@_compiled
def _start(keys, problems, method, prior, grid, swept):
  one = lambda method, key, problem: sampler.start(key, method, prior, problem, grid)
  return _over_chains(one, swept, method, keys, problems)


@_compiled
def _advance(keys, states, steps, problems, method, prior, grid, swept):
  one = lambda method, key, state, problem: sampler.advance(key, state, steps, method, prior, problem, grid)
  return _over_chains(one, swept, method, keys, states, problems)


@_compiled
def _estimate(states, done, problems, method, prior, grid, swept):
  def one(method, state, problem):
    level = jax.tree.map(lambda v: v[done], method.levels(grid))
    return method.estimate(state, level, prior, problem)

  return _over_chains(one, swept, method, states, problems)


@_compiled
def _finish(states, problems, method, prior, swept):
  one = lambda method, state, problem: method.finish(state, prior, problem)
  return _over_chains(one, swept, method, states, problems)
