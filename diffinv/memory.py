"""The memory that a call will need, told before it starts, and what the machine has."""

import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffinv import batch, errors
from diffinv.liveness import nbytes, peak
from diffinv.methods.base import Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level

FLOAT = 4  # bytes
GIGA = 1e9
TRAINED = 3  # times a step of the network itself: a training step certainly needs less
SMALL = 0.1  # of what there is: what certainly needs less is not traced
TRUST = 0.75  # of an estimate is needed with certainty, see `diffinv.liveness`
DEFAULT_BATCH = 4  # chains a device, where a machine does not say what memory it has
CHAINS_ADVICE = "lower `batch_size`, `size` or `num_samples`"
TRAINING_ADVICE = "lower `batch_size`, `size` or `channels`, or raise `accumulate`"


class Need(NamedTuple):
  """What a call needs, bytes."""

  weights: int  # that are there already, or will be
  steps: int  # what is computed at once
  results: int  # kept until they are written

  def __str__(self) -> str:
    parts = zip(("weights", "steps", "results"), self)
    return f"{gigabytes(sum(self))} ({', '.join(f'{name} {gigabytes(part)}' for name, part in parts)})"


def gigabytes(count: float) -> str:
  """Return bytes as text, in GB."""
  return f"{count / GIGA:.3g} GB"


def size(tree: Any) -> int:
  """Return the bytes of the arrays in a tree, or of their shapes."""
  return sum(nbytes(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype") and hasattr(leaf, "shape"))


def pictures(count: int, shape: Sequence[int]) -> int:
  """Return the bytes of so many pictures of a shape, float32."""
  return FLOAT * count * math.prod(shape)


# What is checked


def require(need: Need, room: int | None, advice: str) -> None:
  """Check that the machine has the memory that a call needs.

  Args:
    need: of the call.
    room: bytes that the machine has for it; None where it does not say.
    advice: what to do where it has less, with options in backticks.

  Raises:
    UsageError: it has less.
  """
  if room is not None and need.weights + TRUST * need.steps + need.results > room:
    raise errors.UsageError(
      f"memory: expected a need of at most {gigabytes(room)}, which this machine has free, got about {need}; {advice}"
    )


def check_chains(
  prior: AnyPrior,
  method: Method,
  problem: Problem | None,
  grid: Level,
  *,
  chains: int,
  batch_size: int,
  shape: Sequence[int],
  kept: int = 0,
  mesh: jax.sharding.Mesh | None = None,
  swept: bool = False,
) -> None:
  """Check that the machine has the memory for chains, before anything of their size is made.

  Args:
    prior, method, grid: as in `diffinv.sample`.
    problem: one of those to be solved; None for a method that takes none.
    chains: to run in all.
    batch_size: chains that run at once.
    shape: of a picture, [h, w, c].
    kept: bytes of results on the host besides the pictures of these chains.
    mesh: devices that the chains are spread over; None for one.
    swept: whether each chain has hyper-parameters of its own.

  Raises:
    UsageError: the machine has less.
  """
  devices = batch.spread_over(mesh)
  together, weights = batch.chunk_size(chains, batch_size, devices), size(prior)
  results = kept + pictures(chains, shape)
  host, device = available(), device_available()
  require(Need(weights, 0, results), _with(host, weights), CHAINS_ADVICE)  # before the steps are traced
  room = device if device is not None else host
  if room is None or _most(prior, shape) * together < SMALL * room:
    return
  traced = batch.step_jaxpr(method, prior, problem, grid, chains=together, swept=swept)
  if device is None:
    require(Need(weights, peak(traced), results), _with(host, weights), CHAINS_ADVICE)
  else:  # the results are on the host
    require(Need(weights, peak(traced) // devices, 0), _with(device, weights), CHAINS_ADVICE)


def largest_batch(
  prior: AnyPrior,
  method: Method,
  problem: Problem | None,
  grid: Level,
  *,
  chains: int,
  shape: Sequence[int],
  kept: int = 0,
  mesh: jax.sharding.Mesh | None = None,
  swept: bool = False,
) -> int:
  """Return how many chains run at once at most: all, or a power of two a device, as the memory allows; at least one.

  How long each array of a step is needed tells what could fit; what XLA says of the compiled step, whether it does.
  Nothing is run. The arguments are those of `check_chains`.
  """
  devices, device = batch.spread_over(mesh), device_available()
  total, weights = batch.chunk_size(chains, chains, devices), size(prior)
  room, shared = (available(), 1) if device is None else (device, devices)
  if room is None:
    return min(total, DEFAULT_BATCH * devices)
  room -= kept + pictures(chains, shape) if device is None else 0
  counts = [devices * 2**i for i in range(total.bit_length()) if devices * 2**i < total]
  fits = lambda count: peak(batch.step_jaxpr(method, prior, problem, grid, chains=count, swept=swept)) // shared <= room
  found = devices
  for count in (*counts, total):
    if not fits(count):
      break
    found = count
  while found > devices:
    needed = batch.step_bytes(method, prior, problem, grid, chains=found, swept=swept)
    if needed is None or (needed - weights) // shared <= room:
      break
    found = max(count for count in (devices, *counts) if count < found)
  return found


def check_training(
  step: Callable, state: Any, images: jax.ShapeDtypeStruct, *, devices: int = 1, donated: bool = False, kept: int = 0
) -> None:
  """Check that the machine has the memory for a training, before its weights are made.

  Args:
    step: (state, images, total steps) -> (state, metrics), jitted or not; is traced, not run.
    state: its shapes, `jax.eval_shape` of what makes it.
    images: the shape and the type of a batch.
    devices: that have the weights each, and a part of the batch.
    donated: whether a step gives the memory of its state to the next one.
    kept: bytes on the host besides: held-out images, and batches that wait.

  Raises:
    UsageError: the machine has less.
  """
  weights, host, device = size(state), available(), device_available()
  shared = device is None  # all devices share the memory of the host
  room, copies = (host, devices) if shared else (device, 1)
  require(Need(copies * weights, 0, kept if shared else 0), room, TRAINING_ADVICE)
  if room is None or TRAINED * (_most(state, images.shape[1:]) * images.shape[0] + copies * weights) < SMALL * room:
    return
  needed = peak(jax.make_jaxpr(step)(state, images, jax.ShapeDtypeStruct((), jnp.float32)).jaxpr)
  needed -= weights if donated else 0  # else the next state lies beside this one
  if shared:
    require(Need(devices * weights, needed + (devices - 1) * weights, kept), host, TRAINING_ADVICE)
  else:
    require(Need(weights, needed // devices, 0), device, TRAINING_ADVICE)


def _with(room: int | None, weights: int) -> int | None:
  """Return what there is with the weights that are loaded already."""
  return None if room is None else room + weights


def _most(prior: AnyPrior, shape: Sequence[int]) -> int:
  """Return what a step of a chain of any known network certainly does not need, bytes: no layer may be finer."""
  pixels = shape[0] * shape[1]
  layers = sum(leaf.shape[-1] for leaf in jax.tree.leaves(prior) if getattr(leaf, "ndim", 0) > 1)
  attention = (pixels // 16) ** 2 * 8  # scores between positions of 4x4 pixels
  return FLOAT * (pixels * (64 * shape[2] + 4 * layers) + attention)


# What there is


def available() -> int | None:
  """Return the bytes that this machine can still give, within the limits of its cgroup; None where nobody says."""
  known = [found for found in (_free(), *_cgroup_free()) if found is not None]
  return min(known, default=None)


def device_available() -> int | None:
  """Return the bytes that the first device can still give; None where it is the host, or does not say."""
  device = jax.local_devices()[0]
  stats = None if device.platform == "cpu" else device.memory_stats()
  if not stats or "bytes_limit" not in stats:
    return None
  return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def _free(root: pathlib.Path = pathlib.Path("/")) -> int | None:
  """Return what the system says; where it does not, all the memory that is built in."""
  try:
    lines = (root / "proc/meminfo").read_text().splitlines()
    found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * (found["MemAvailable"] + found.get("SwapFree", 0))
  except (OSError, ValueError, KeyError, IndexError):
    pass
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, ValueError, OSError):
    return None


def _cgroup_free(root: pathlib.Path = pathlib.Path("/")) -> Iterator[int]:
  """Give what the limits of this process's cgroups leave: those of version 2 and 1, and of every group above."""
  try:
    lines = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:
    return
  for line in lines:
    _, _, rest = line.partition(":")
    names, _, group = rest.partition(":")
    if names == "":
      place, limit, used = "sys/fs/cgroup", "memory.max", "memory.current"
    elif "memory" in names.split(","):
      place, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
    else:
      continue
    parts = pathlib.PurePosixPath(group.lstrip("/")).parts
    for depth in range(len(parts) + 1):
      folder = (root / place).joinpath(*parts[:depth])
      most, taken = _number(folder / limit), _number(folder / used)
      if most is not None and taken is not None:
        yield max(0, most - taken + _reclaimable(folder))


def _number(path: pathlib.Path) -> int | None:
  try:
    return int(path.read_text())
  except (OSError, ValueError):  # no such file, or "max"
    return None


def _reclaimable(folder: pathlib.Path) -> int:
  """Return the bytes of files in a cgroup's memory that can be dropped at any time."""
  try:
    entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))
  except (OSError, ValueError):
    return 0
