"""The devices of a run: which they are, and how batches and weights lie on them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffinv import errors
from diffinv.batch import AXIS
from diffinv.devices import batch_mesh, global_mesh, placed, split_cpu
from diffinv.launch import ALONE, Team
from diffinv.training.config import TrainConfig
from diffinv.training.step import Network


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices of a run, along one axis: weights lie on each, a batch is split over them."""

  mesh: jax.sharding.Mesh

  @property
  def split(self) -> NamedSharding:
    """How a batch lies: a part on each."""
    return NamedSharding(self.mesh, P(AXIS))

  @property
  def whole(self) -> NamedSharding:
    """How weights lie: all on each."""
    return NamedSharding(self.mesh, P())

  @property
  def on_cpu(self) -> bool:
    """Whether they are cores of a CPU."""
    return jax.default_backend() == "cpu"

  def apart(self, network: Network) -> Network:
    """Return a network over batches of which each device computes its part by itself.

    Left to the compiler, a loop over images, which the gradient of a kernel is on CPUs, would fetch all images to each.
    """
    return jax.shard_map(network, mesh=self.mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P(AXIS), check_vma=False)

  def in_turn(self, value: Any) -> Any:
    """Return `value`, once it is computed where work of two steps at once would wait for itself forever.

    The devices of a CPU share one pool of threads.
    """
    return jax.block_until_ready(value) if self.on_cpu and self.mesh.size > 1 else value

  def place(self, batch: Any) -> jax.Array:
    """Return this process's part of a batch, of the host or of a device, as the batch split over the devices of all."""
    if self.split.is_fully_addressable:
      return self.in_turn(jax.device_put(batch, self.split))
    return self.in_turn(jax.make_array_from_process_local_data(self.split, np.asarray(batch)))

  def everywhere(self, tree: Any) -> Any:
    """Return arrays that every process has, such as weights, on each device."""
    return jax.tree.map(lambda leaf: placed(leaf, self.whole), tree)

  def own(self, tree: Any) -> Any:
    """Return what lies on each device, where a process is to compute with it by itself."""
    if self.whole.is_fully_addressable:
      return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

  def compiled(self, step: Callable) -> Callable:
    """Compile `(state, batch, ...) -> (state, ...)`, which gives up the memory of the state that it is given.

    It keeps that on CPUs, where a host array may alias the memory while a checkpoint of it is being written.
    """
    return jax.jit(step, donate_argnums=() if self.on_cpu else 0, out_shardings=self.whole)

  def __str__(self) -> str:
    return f"{self.mesh.size} {self.mesh.devices[0].device_kind}"


def choose(config: TrainConfig, team: Team = ALONE) -> Devices:
  """Return the devices that `devices` asks for; split a CPU where JAX is not running yet.

  Raises:
    UsageError: there are fewer, or the parts of a batch are not of equal size on them.
  """
  split_cpu(config.devices)
  devices = Devices(batch_mesh(config.devices) if team.count == 1 else global_mesh(config.devices))
  parts = config.accumulate * devices.mesh.size
  if config.batch_size % parts:
    raise errors.UsageError(
      f"`batch_size`: expected a multiple of {parts} (devices times `accumulate`), got {config.batch_size}"
    )
  return devices
