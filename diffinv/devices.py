"""The devices of this host: how many a CPU counts as, and the mesh over which a batch is spread."""

import contextlib
import os

import jax

from diffinv import errors
from diffinv.batch import AXIS

CPU_DEVICES = "xla_force_host_platform_device_count"  # in XLA_FLAGS: how many the user wants


def split_cpu(devices: int | None) -> None:
  """Make a CPU count as `devices` devices, at most one a core: by default JAX takes it for one.

  Does nothing where XLA_FLAGS says how many there are, or where JAX is running already.
  """
  if devices is None or CPU_DEVICES in os.environ.get("XLA_FLAGS", ""):
    return
  with contextlib.suppress(RuntimeError):  # JAX is running already, with the devices that it has
    jax.config.update("jax_num_cpu_devices", min(devices, os.cpu_count() or 1))


def batch_mesh(devices: int | None) -> jax.sharding.Mesh:
  """Return the first `devices` local devices, or all of them, along one axis.

  Raises:
    UsageError: there are fewer.
  """
  local = jax.local_devices()
  if devices is not None and devices > len(local):
    raise errors.UsageError(f"`devices`: expected at most {len(local)}, as many as there are, got {devices}")
  chosen = local[:devices]
  return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)
