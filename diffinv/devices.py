"""The devices of this host: whether JAX has those it is told to use, how many a CPU counts as, and meshes of them."""

import contextlib
import os
from typing import Any, Protocol

import jax
import numpy as np

from diffinv import errors
from diffinv.batch import AXIS
from diffinv.priors.sizes import TILES

SPREADS = {"chains": AXIS, "tiles": TILES}  # what is spread over devices, and the axis of their mesh
PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")  # environment: what JAX is to run on; the second is its old name
CPU_DEVICES = "xla_force_host_platform_device_count"  # in XLA_FLAGS: how many the user wants


def check() -> None:
  """Start JAX where it is not running, and check that it has a device.

  Raises:
    UsageError: it has none of the kind that the environment asks for.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError):  # the latter of a GPU that its plugin does not find
    asked = next((name for name in PLATFORMS if os.environ.get(name)), None)
    if asked is None:
      raise
    came = os.environ[asked]
    raise errors.UsageError(
      f"{asked}: expected a platform on which JAX runs here, got {came!r}; unset {asked} to take what there is, set "
      f"{asked}=cpu, or install a JAX that has it"
    ) from None


def split_cpu(devices: int | None) -> None:
  """Make a CPU count as `devices` devices, at most one a core, as by default JAX takes it for one; start JAX.

  The CPU stays as it is where XLA_FLAGS says how many there are, or where JAX is running already.

  Raises:
    UsageError: JAX cannot start, see `check`.
  """
  if devices is not None and CPU_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    with contextlib.suppress(RuntimeError):  # JAX is running already, with the devices that it has
      jax.config.update("jax_num_cpu_devices", min(devices, os.cpu_count() or 1))
  check()


def batch_mesh(devices: int | None, axis: str = AXIS) -> jax.sharding.Mesh:
  """Return the first `devices` local devices, or all of them, along one axis.

  Raises:
    UsageError: there are fewer.
  """
  local = jax.local_devices()
  if devices is not None and devices > len(local):
    raise errors.UsageError(f"`devices`: expected at most {len(local)}, as many as there are, got {devices}")
  chosen = local[:devices]
  return jax.make_mesh((len(chosen),), (axis,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def global_mesh(devices: int | None) -> jax.sharding.Mesh:
  """Return the first `devices` devices of every process of a launch, or all of them, along one axis.

  Raises:
    UsageError: a process has fewer.
  """
  found = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
  least = min(map(len, found))
  if devices is not None and devices > least:
    raise errors.UsageError(f"`devices`: expected at most {least}, as many as each process has, got {devices}")
  chosen = [device for own in found for device in own[: least if devices is None else devices]]
  return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def placed(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """Return an array, which every process has in full, as it lies on devices, be they those of several processes."""
  if sharding.is_fully_addressable:
    return jax.device_put(value, sharding)
  value = np.asarray(value)
  return jax.make_array_from_callback(value.shape, sharding, lambda part: value[part])


class OnDevices(Protocol):
  """What says on which devices chains run."""

  @property
  def devices(self) -> int | None:
    """How many; None for one, which need not be said."""

  @property
  def spread(self) -> str:
    """What is spread over them, of SPREADS."""


def mesh(config: OnDevices) -> jax.sharding.Mesh | None:
  """Return the devices to spread a batch or the tiles of its pictures over; None for the default device.

  Raises:
    UsageError: there are fewer.
  """
  return None if config.devices is None else batch_mesh(config.devices, SPREADS[config.spread])
