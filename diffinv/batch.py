"""Batched reconstruction: `vmap` over images and posterior samples, in chunks, on one device or a mesh.

Methods never see a batch: every image keeps its own keys, residual norm and trace, and the result does not depend on
which other images share its batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from diffinv import sampler
from diffinv.methods.base import Info, Method
from diffinv.priors import AnyPrior, Prior
from diffinv.priors.sizes import TILES
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
  standing: Callable[[], dict[str, np.ndarray]]  # gives what `resume` takes to go on from here, on the host


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
  resume: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, Info]:
  """Restore a batch of images, several posterior samples each.

  Args:
    keys: one per chain, `[images, samples]`.
    method, prior, grid: as in `diffinv.sample`, shared by all chains.
    problems: a `Problem` with a leading axis of images on every leaf (`diffinv.problems.stack`); None for methods
      that take no measurement.
    chunk: chains that run at once, to bound memory; None for all. The last chunk is padded with copies, so that
      one compilation serves them all.
    mesh: devices to spread the chains of a chunk over, with an axis "image", or the tiles in which a network is
      evaluated on large pictures, with an axis "tile"; None for the default device.
    progress: called on the host with (steps done, steps in all) after every block of steps.
    watch: called on the host after every block of steps, and once before them, with a `View`; before `progress`.
    swept: every leaf of `method` has a leading axis of images: each image its own hyper-parameters.
    resume: what `View.standing` gave in a call with the same arguments, to go on from there to the same result, bit for
      bit; with `progress` or `watch`.

  Returns:
    Restored images, `[images, samples, h, w, c]`, [-1, 1] and not clipped; and the trace, `[images, samples, steps]`
    an entry. Both NumPy, on the host.

  Raises:
    ValueError: keys are not `[images, samples]`, or keys and problems differ in the number of images.

  Example:
    >>> import diffinv, jax
    >>> from diffinv import noise
    >>> from diffinv.problems import stack
    >>> prior, x0 = diffinv.load_prior("natural"), jax.numpy.zeros((8, 8, 3))
    >>> operator = diffinv.OPERATORS["identity"](x0.shape)
    >>> two = [diffinv.simulate(jax.random.key(i), operator, noise.Gaussian(0.1), x0) for i in range(2)]
    >>> keys = jax.random.split(jax.random.key(2), (2, 3))  # two images, three samples each
    >>> x, _ = diffinv.sample_batch(keys, diffinv.METHODS["ddrm"](), prior, stack(two), prior.schedule.grid("5"))
    >>> x.shape
    (2, 3, 8, 8, 3)
  """
  if keys.ndim != 2:
    raise ValueError(f"keys: expected shape [images, samples], got {keys.shape}; reshape jax.random.split's result")
  images, samples = keys.shape
  counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in map(jnp.asarray, jax.tree.leaves(problems))}
  if counts - {images}:
    raise ValueError(f"problems: expected {images} images as in keys, got {sorted(counts)}; use problems.stack")
  chains = images * samples
  chunk = chunk_size(chains, chains if chunk is None else chunk, spread_over(mesh))
  grid = as_arrays(grid)
  keys = keys.reshape(-1)
  starts = range(0, chains, chunk)
  results, begun = _begun(resume)
  for number in range(len(results), len(starts)):
    chosen = np.minimum(np.arange(chunk) + starts[number], chains - 1)
    image = chosen // samples
    batch = [*_picked((keys, chosen), (problems, image)), _picked((method, image))[0] if swept else method]
    if mesh is not None:
      batch, prior = _placed(batch, prior, mesh, swept)
    report = None if progress is None else lambda done, total: progress(number * total + done, len(starts) * total)
    look = None if watch is None else functools.partial(_look, watch, chosen, results)
    results.append(jax.device_get(_run(batch, prior, grid, swept, report, look, begun)))
    begun = None
  joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:chains], *results)
  return jax.tree.map(lambda leaf: leaf.reshape(images, samples, *leaf.shape[1:]), joined)


@jax.jit
def _picked(*parts):
  """Return of each tree of arrays what it has at some places; `parts`: (tree, places [n]) each."""
  return [jax.tree.map(lambda leaf: jnp.asarray(leaf)[places], tree) for tree, places in parts]


def spread_over(mesh: jax.sharding.Mesh | None) -> int:
  """Return how many devices the chains of a chunk are spread over."""
  return 1 if mesh is None else mesh.shape.get(AXIS, 1)


def _placed(batch, prior, mesh, swept):
  """Return a batch and the prior as they lie on the devices of a mesh."""
  whole = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec(AXIS)) if AXIS in mesh.shape else whole
  placed = [jax.device_put(part, place) for part, place in zip(batch, (split, split, split if swept else whole))]
  return placed, jax.device_put(_in_shared_tiles(prior, mesh), whole)


def _in_shared_tiles(prior: AnyPrior, mesh: jax.sharding.Mesh) -> AnyPrior:
  """Return a prior whose tiles, if it has any, the devices of a mesh of tiles share out."""
  if TILES not in mesh.shape or not isinstance(prior, Prior) or prior.tiling is None:
    return prior
  return dataclasses.replace(prior, tiling=prior.tiling._replace(mesh=mesh))


def _look(watch, chosen, results, done, total, estimate, step_bytes, parts):
  watch(View(chosen, done, total, estimate, step_bytes, lambda: _standing(results, done, *parts())))


def _standing(results, done, state, trace) -> dict[str, np.ndarray]:
  """Return where a batch stands, by name: what finished chunks gave, and of the next one its steps, state and trace."""
  numbered = lambda entries: {str(i): entry for i, entry in enumerate(entries)}
  finished = numbered({"x": x, "trace": info} for x, info in results)
  tree = {"done": np.asarray(done), "state": numbered(jax.tree.leaves(state)), "trace": trace, "results": finished}
  return jax.device_get(traverse_util.flatten_dict(tree, sep="/"))


def _begun(standing):
  """Return from where a batch stands the results of finished chunks, and what `_run` takes to go on with the next."""
  if standing is None:
    return [], None
  tree = traverse_util.unflatten_dict(dict(standing), sep="/")
  counted = lambda entries: [entries[str(i)] for i in range(len(entries))]
  results = [(entry["x"], entry.get("trace", {})) for entry in counted(tree.get("results", {}))]
  return results, (int(tree["done"]), counted(tree["state"]), tree.get("trace", {}))


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
  return _traced_step(method, prior, problem, grid, chains, swept).jaxpr.jaxpr


def step_bytes(
  method: Method, prior: AnyPrior, problem: Problem | None, grid: Level, *, chains: int, swept: bool = False
) -> int | None:
  """Return the memory of a compiled step of so many chains, on all devices; None if the compiler does not say.

  It is compiled for one device, and not run. The arguments are those of `step_jaxpr`.
  """
  memory = _traced_step(method, prior, problem, grid, chains, swept).lower().compile().memory_analysis()
  return None if memory is None else _total_bytes(memory)


def _traced_step(method, prior, problem, grid, chains, swept):
  several = lambda leaf: jax.ShapeDtypeStruct((chains, *leaf.shape[1:]), leaf.dtype, weak_type=leaf.weak_type)
  problems = None if problem is None else jax.tree.map(several, jax.eval_shape(lambda: stack([problem])))
  if swept:
    method = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chains, *jnp.shape(leaf)), jnp.float32), method)
  keys, grid = jax.ShapeDtypeStruct((chains,), jax.random.key(0).dtype), as_arrays(grid)
  total = _total_steps(method, grid, swept)
  state = jax.eval_shape(_start, keys, problems, method, prior, grid, swept)
  steps = jnp.arange(_block(total))
  return _advance.trace(keys, state, steps, problems, method, prior, grid, swept)


def _run(batch, prior, grid, swept, progress, look, begun):
  keys, problems, method = batch
  if progress is None and look is None:
    return _whole(keys, problems, method, prior, grid, swept)
  total = _total_steps(method, grid, swept)
  block = _block(total)
  state, done, traces = _first(_start(keys, problems, method, prior, grid, swept), begun)

  def step_bytes():  # not a second compilation: this is the step that has run, or will run
    memory = (
      _advance.lower(keys, state, jnp.arange(block), problems, method, prior, grid, swept).compile().memory_analysis()
    )
    return None if memory is None else _total_bytes(memory)

  def report(done):
    jax.block_until_ready(state)
    if look is not None:
      estimate = lambda: _estimate(state, jnp.asarray(done), problems, method, prior, grid, swept)
      look(done, total, estimate, step_bytes, lambda: (state, _joined(traces)))
    if progress is not None and done:
      progress(done, total)

  report(done)
  for first in range(done, total, block):
    state, info = _advance(keys, state, jnp.arange(first, first + block), problems, method, prior, grid, swept)
    traces.append(info)
    report(min(first + block, total))
  info = jax.tree.map(lambda entry: entry[:, :total], _joined(traces))
  return _finish(state, problems, method, prior, swept), info


def _first(state, begun):
  """Return the state to begin from, the steps done and the traces of them: those of a start, or of where it stood.

  The state is bound to its device, as what `_advance` returns is: else the second block would be compiled anew.
  """
  done, leaves, trace = (0, jax.tree.leaves(state), {}) if begun is None else begun
  placed = [jax.device_put(leaf, like.sharding) for leaf, like in zip(leaves, jax.tree.leaves(state), strict=True)]
  return jax.tree.unflatten(jax.tree.structure(state), placed), done, [trace] if trace else []


def _joined(traces):
  """Join on the host what was traced of blocks of steps, [chains, steps] an entry."""
  return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *jax.device_get(traces)) if traces else {}


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
