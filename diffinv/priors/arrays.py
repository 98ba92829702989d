"""The parameters of a prior on disk: an Orbax checkpoint in `params/`.

Reading is strict: an array that is missing, left over, misshapen, not finite or not what was written is an error that
names it. Digests tell the last: a changed byte may well leave numbers that look like any others.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffinv import errors, files, reading

PARAMS = "params"  # the folder, in that of the prior
ABOUT_EACH, ABOUT_ALL = 2000, 2**18  # bytes, generously: what Orbax writes of each array, and besides
LARGE = 2**28  # bytes from which each array has files of its own: packed, all are held until the last is written
WRITTEN_AT_ONCE = 1  # GB
DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}  # by the file that describes an array
DAMAGED = "the weights are damaged: convert them again, or take the folder from where it came"


def flat(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree of parameters by name, "block/layer/kernel"."""
  return traverse_util.flatten_dict(tree, sep="/") if isinstance(tree, dict) else {"": tree}


def check_shapes(found: Mapping[str, tuple[int, ...]], shapes: Any, where: str) -> None:
  """Check that arrays are exactly those of a network.

  Args:
    found: the shapes of the arrays, by name.
    shapes: the tree that the network has, see `description.param_shapes`.
    where: the folder, which begins every message.

  Raises:
    ValueError: an array is missing, misshapen or left over.
  """
  expected = {k: v.shape for k, v in flat(shapes).items()}
  advice = "the checkpoint is damaged or another network's: convert the weights again"
  for name, shape in expected.items():
    if name not in found:
      raise ValueError(f"{where}: array {name!r}: expected shape {list(shape)}, the checkpoint has none; {advice}")
    if tuple(found[name]) != shape:
      raise ValueError(f"{where}: array {name!r}: expected shape {list(shape)}, found {list(found[name])}; {advice}")
  for name in found:
    if name not in expected:
      raise ValueError(f"{where}: array {name!r}: the network has no such array; {advice}")


def write(folder: Path, params: Any) -> None:
  """Write a tree of parameters to a new folder, in float32; in float16, half as large, where that changes no number.

  Raises:
    OSError: the disk is full, or that of the temporary folder.
  """
  import orbax.checkpoint as ocp  # takes seconds to import, and only files need it

  params = jax.tree.map(lambda v: np.asarray(v, np.float32), params)
  if all(map(_fits_half, jax.tree.leaves(params))):
    params = jax.tree.map(np.float16, params)
  leaves = jax.tree.leaves(params)
  size = sum(leaf.nbytes for leaf in leaves) + ABOUT_EACH * len(leaves) + ABOUT_ALL
  # After an error some of Orbax's threads go on for a moment, and make folders anew that were just removed.
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
    for place in (folder, scratch):
      files.check_space(place, size)
    written = Path(scratch, PARAMS)
    # Not the asynchronous one, whose threads wait for one another after an error and print what they think of it.
    one = jax.process_index()  # of a launch of several, only this process writes
    alone = ocp.options.MultiprocessingOptions(primary_host=one, active_processes={one}, barrier_sync_key_prefix="one")
    handler = ocp.StandardCheckpointHandler(
      save_concurrent_gb=WRITTEN_AT_ONCE, use_ocdbt=size < LARGE, multiprocessing_options=alone
    )
    with full_disk(written), _quiet(), ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
      # Of arrays of NumPy it makes copies first, all at once; those of JAX it takes as they are, of one process.
      params = jax.device_put(params) if jax.process_count() == 1 else params
      checkpointer.save(written, args=ocp.args.StandardSave(params))
    shutil.copytree(written, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keep Orbax from warning that what is not packed is not packed."""
  logger = logging.getLogger("absl")
  before = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(before)


def _fits_half(values: np.ndarray) -> bool:
  """Tell whether float16 holds every number."""
  with np.errstate(over="ignore"):
    return np.array_equal(values, values.astype(np.float16))


def digest(array: Any) -> str:
  """Return the SHA-256 of an array: of its shape, "[3, 64]" and a newline, and of its numbers.

  The numbers are float32, little-endian, in C order.
  """
  values = np.ascontiguousarray(array, "<f4")
  found = hashlib.sha256(f"{list(np.shape(array))}\n".encode())
  found.update(values.data)
  return found.hexdigest()


def digests(params: Any) -> dict[str, str]:
  """Return the digests of a tree of parameters by name."""
  return {name: digest(value) for name, value in flat(params).items()}


def read(folder: Path, shapes: Any, expected: Mapping[str, str] | None = None) -> Any:
  """Return the parameters in a folder, float32, on the first device.

  Args:
    folder: of the arrays.
    shapes: the tree that the network has, see `description.param_shapes`.
    expected: the digests of the arrays by name; None where they are not known.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: the arrays are damaged, not finite, or another network's.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder}: no such folder; the checkpoint is incomplete, convert the weights again")
  _check_files(folder)
  stored = _open(folder)
  check_shapes({name: array.shape for name, array in stored.items()}, shapes, str(folder))
  for name, array in stored.items():
    if not jnp.issubdtype(array.dtype.numpy_dtype, jnp.floating):
      found = array.dtype.name
      raise ValueError(f"{folder}: array {name!r}: expected floats, found {found}; convert the weights again")
  values = _finished(folder, {name: array.read() for name, array in stored.items()})
  with np.errstate(over="ignore"):
    params = {name: np.asarray(value, np.float32) for name, value in values.items()}
  if expected is not None:
    _check_digests(digests(params), expected, folder)
  for name, value in params.items():
    if not np.all(np.isfinite(value)):
      raise ValueError(f"{folder}: array {name!r}: expected finite values, found NaN or infinity; convert it again")
  return jax.device_put(traverse_util.unflatten_dict(params, sep="/"), jax.local_devices()[0])


def _open(folder: Path) -> dict[str, Any]:
  """Return the arrays in a folder by name, opened; Orbax, which wrote them, prints pages where several are damaged."""
  import tensorstore as ts  # takes long to import, and only files need it

  base: dict[str, Any] = {"driver": "file", "path": f"{folder}/"}
  if (folder / "manifest.ocdbt").exists():
    base = {"driver": "ocdbt", "base": base}
  try:
    names = [key.decode() for key in ts.KvStore.open(base).result().list().result()]
  except Exception as error:
    raise ValueError(f"{folder}: no Orbax checkpoint: {errors.brief(error)}; convert the weights again") from None
  found = {}
  for name in names:
    path, _, last = name.rpartition("/")
    if last in DRIVERS:
      kvstore = {**base, "path": f"{base.get('path', '')}{path}/"}
      spec = {"driver": DRIVERS[last], "kvstore": kvstore, "fill_missing_data_reads": False}
      found[path.replace(".", "/")] = ts.open(spec, read=True)
  return _finished(folder, found)


def _finished(folder: Path, begun: Mapping[str, Any]) -> dict[str, Any]:
  """Return what was begun with all arrays at once."""
  try:
    return {name: future.result() for name, future in begun.items()}
  except Exception as error:  # a damaged file may raise anything
    name = next(name for name, future in begun.items() if future.done() and future.exception() is not None)
    raise ValueError(
      f"{folder}: array {name!r}: it cannot be read: {errors.brief(error)}; convert the weights again, or "
      "take the folder from where it came"
    ) from None


def _check_digests(found: Mapping[str, str], expected: Mapping[str, str], folder: Path) -> None:
  for name, value in found.items():
    if name not in expected:
      raise ValueError(
        f"{folder}: array {name!r}: expected a digest of it in the prior's description, got none; {DAMAGED}"
      )
    if value != expected[name]:
      raise ValueError(f"{folder}: array {name!r}: expected the numbers of its digest, got others; {DAMAGED}")
  for name in expected:
    if name not in found:
      raise ValueError(f"{folder}: expected an array {reading.shown(name)}, of which there is a digest; {DAMAGED}")


def _check_files(folder: Path) -> None:
  """Check that all there is are files that may be read: something else could keep the reader waiting."""
  for place, _, names in os.walk(folder):
    for name in names:
      reading.open_file(os.path.join(place, name)).close()


@contextlib.contextmanager
def full_disk(place: str | os.PathLike[str]) -> Iterator[None]:
  """Raise an OSError at `place` if the disk is full, instead of the pages that Orbax prints."""
  try:
    yield
  except (ValueError, RuntimeError) as error:
    code = next((code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in str(error)), None)
    if code is None:
      raise
    raise OSError(code, os.strerror(code), os.fspath(place)) from None
