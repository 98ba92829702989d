"""Files of tensors by name, .pt of PyTorch and .safetensors: what is in them, read one tensor after another.

A file is opened to learn the names and shapes; numbers are read when they are asked for and not kept, so that no
second copy of a large network is held. No code in a file is run.
"""

import functools
import hashlib
import math
import os
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

import jax.numpy as jnp
import numpy as np

from diffinv import errors, progress, reading
from diffinv.priors import edm_files, file_kinds

SAFETENSORS = ".safetensors"
MAX_BYTES = 40_000_000_000  # of a file
MAX_DIRECTORY = 64_000_000  # bytes of the list of parts of an archive; PyTorch writes about 100 a tensor
MAX_DEPTH = 4  # of tables within tables
TAIL = 66_000  # bytes at the end of an archive in which its list is described
MAPPED = 100_000_000  # bytes of a file that may be read before what is mapped of it is given back
OUT_OF_MEMORY = re.compile(r"not enough memory|can't allocate|out of memory", re.IGNORECASE)
SAVE_AGAIN = "save it again with torch.save"
INSTALL = 'pip install "diffinv[convert]"'
# Types of numbers by their names in .safetensors.
TYPES = {
  "BOOL": np.bool_,
  "U8": np.uint8,
  "I8": np.int8,
  "U16": np.uint16,
  "I16": np.int16,
  "U32": np.uint32,
  "I32": np.int32,
  "U64": np.uint64,
  "I64": np.int64,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "F32": np.float32,
  "F64": np.float64,
}


class Tensor(Protocol):
  """What has the shape of an array, and is one to `np.asarray`."""

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape."""
    ...


class Stored:
  """A tensor in a file; `np.asarray` reads it anew, and keeps nothing."""

  def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
    """Take the shape, and what reads the numbers into an array of their own."""
    self.shape, self._read = shape, read

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    found = self._read()
    return found if dtype is None else found.astype(dtype, copy=False)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Stored]:
  """Return the tensors of a file by name, each to be read with `np.asarray`; bfloat16 of a .pt file becomes float32.

  Raises:
    ValueError: the file is damaged, holds something other than tensors, or the package that reads it is missing.
    OSError: it cannot be opened.
  """
  path = pathlib.Path(path)
  with reading.open_file(path, most=MAX_BYTES, advice="save the network's state_dict alone"):
    pass  # it is there and may be read: what goes wrong from here on is about its contents
  kind = file_kinds.tell(path)
  if (kind == file_kinds.SAFETENSORS) != (path.suffix == SAFETENSORS):
    progress.note(f"{path} is a file of {kind}, whatever its name, and read as one")
  return _read_safetensors(path) if kind == file_kinds.SAFETENSORS else _read_torch(path)


class _Entry(TypedDict):
  """A tensor of a header of .safetensors."""

  dtype: str
  shape: list[int]
  data_offsets: list[int]


def _read_safetensors(path: pathlib.Path) -> dict[str, Stored]:
  """Return the tensors that the header describes: its length, 8 bytes, and JSON; offsets count from its end."""
  try:
    with open(path, "rb") as file:
      length = struct.unpack("<Q", file.read(8))[0]
      header = file.read(length)
    if len(header) != length:
      raise ValueError(f"expected a header of {length:,} bytes, got {len(header):,}")
    entries = reading.parse_json(header, dict[str, Any], "header", "it is damaged")
    entries.pop("__metadata__", None)
    reading.check(entries, dict[str, _Entry], "header", "it is damaged")
    room = os.path.getsize(path) - 8 - length
    return {name: _stored(path, name, entry, 8 + length, room) for name, entry in entries.items()}
  except TypeError as error:
    raise ValueError(f"{path}: expected tensors of known types, got others ({error})") from None
  except ValueError as error:
    raise ValueError(
      f"{path}: expected a .safetensors file, got a damaged one ({errors.brief(error)}); {file_kinds.AGAIN}"
    ) from None


def _stored(path: pathlib.Path, name: str, entry: _Entry, start: int, room: int) -> Stored:
  """Return a tensor of a file whose numbers begin at `start` and take `room` bytes.

  Raises:
    TypeError: its type is not known.
    ValueError: its bytes are none of the file, or not as many as its shape asks for.
  """
  if entry["dtype"] not in TYPES:
    raise TypeError(f"{reading.shown(name)} is of {reading.shown(entry['dtype'])}")
  dtype, shape, offsets = np.dtype(TYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
  size = math.prod(shape)
  if len(offsets) != 2 or min(0, *shape) < 0 or not 0 <= offsets[0] <= offsets[1] <= room:
    raise ValueError(f"{reading.shown(name)} lies outside of the file")
  if offsets[1] - offsets[0] != size * dtype.itemsize:
    raise ValueError(
      f"{reading.shown(name)} has {offsets[1] - offsets[0]:,} bytes, its shape {list(shape)} needs others"
    )

  def read() -> np.ndarray:
    return np.fromfile(path, dtype.newbyteorder("<"), size, offset=start + offsets[0]).reshape(shape)

  return Stored(shape, read)


class _TorchFile:
  """A file of PyTorch, opened when a tensor is asked for, and given back after MAPPED bytes."""

  def __init__(self, torch: Any, path: pathlib.Path):
    """Take the library and the path."""
    self._torch, self._path = torch, path
    self._table: dict[str, Any] = {}
    self._taken = 0

  def tensors(self) -> dict[str, Stored]:
    """Open the file and return its tensors by name, checked."""
    self._open()
    for name, value in self._table.items():
      _check_held(name, value, self._path)
      self._check_dense(value)
    return {
      name: Stored(tuple(value.shape), functools.partial(self._read, name)) for name, value in self._table.items()
    }

  def _open(self) -> None:
    found = _load_torch(self._torch, self._path)
    if not isinstance(found, dict):
      raise ValueError(f"{self._path}: expected a state_dict, a table of tensors, got {type(found).__name__}")
    self._table, self._taken = _tensors(self._torch, found), 0
    if not self._table and "param_groups" in found:
      raise ValueError(
        f"{self._path}: expected a state_dict, a table of tensors, got the state of an optimizer without its network; "
        "give the file of the weights, often without opt in its name"
      )
    if not self._table:
      raise ValueError(
        f"{self._path}: expected a state_dict, a table of tensors, got a table without one; check the file"
      )

  def _check_dense(self, value: Any) -> None:
    try:
      if value.layout is not self._torch.strided or value.is_quantized:
        raise TypeError(f"{value.layout}, {value.dtype}")
      if value.dtype is not self._torch.bfloat16:
        self._torch.empty(0, dtype=value.dtype).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, or of a type that NumPy lacks
      raise ValueError(
        f"{self._path}: expected dense tensors of NumPy's types, got others ({errors.brief(error)})"
      ) from None

  def _read(self, name: str) -> np.ndarray:
    if name not in self._table:
      self._open()
    value = self._table.pop(name).detach()  # what was not mapped into memory but read is given back at once
    found = np.array((value.float() if value.dtype is self._torch.bfloat16 else value).numpy())
    self._taken += found.nbytes
    if self._taken > MAPPED:
      self._table = {}
    return found


def _read_torch(path: pathlib.Path) -> dict[str, Stored]:
  try:
    import torch  # nothing else in the library needs it
  except ImportError:
    raise ValueError(f"{path}: reading it needs PyTorch; {INSTALL}, or give a .safetensors file") from None
  return _TorchFile(torch, path).tensors()


def _tensors(torch: Any, table: dict[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
  """Return the tensors in a table and in those within it, "model.NAME" being NAME of the table "model"."""
  found: dict[str, Any] = {}
  for name, value in table.items():
    if isinstance(name, str) and isinstance(value, torch.Tensor):
      found[prefix + name] = value
    elif isinstance(name, str) and isinstance(value, dict) and depth < MAX_DEPTH:
      found |= _tensors(torch, value, f"{prefix}{name}.", depth + 1)
  return found


def _check_held(name: str, tensor: Any, path: pathlib.Path) -> None:
  """Check that a tensor is no larger than its file: one of few numbers, repeated, would fill the memory when copied."""
  size, most = tensor.numel() * tensor.element_size(), os.path.getsize(path)
  if size > most:
    raise ValueError(
      f"{path}: tensor {reading.shown(name)}: expected at most the {most:,} bytes of the file, got {size:,}"
    )


def _load_torch(torch: Any, path: pathlib.Path) -> Any:
  """Return what a PyTorch file holds; code in it is not run."""
  zipped = zipfile.is_zipfile(path)
  try:
    if zipped:
      _check_archive(path)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      if path.suffix == SAFETENSORS:  # PyTorch goes by the name of a file, not by that of an open one
        with open(path, "rb") as file:
          return torch.load(file, map_location="cpu", weights_only=True)
      # Only the current format, a zip archive, can be mapped into memory instead of read.
      return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
  except MemoryError:
    raise
  except Exception as error:  # PyTorch may raise anything on a damaged file
    reading.raise_system_error(error, path)
    raise ValueError(f"{path}: {_refusal(error, path)}") from None


class _Refused(ValueError):
  """An archive that PyTorch does not write."""


def _check_archive(path: pathlib.Path) -> None:
  """Check that the parts of an archive are what PyTorch writes: not compressed, so no larger than the file."""
  size = os.path.getsize(path)
  if _directory_size(path) > MAX_DIRECTORY:
    raise _Refused(f"one of too many parts; {SAVE_AGAIN}")
  with zipfile.ZipFile(path) as archive:
    parts = archive.infolist()
  other = file_kinds.other_archive([part.filename for part in parts])
  if other is not None:
    raise _Refused("{}; {}".format(*other))
  if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
    raise _Refused(f"one with compressed parts; {SAVE_AGAIN}")
  promised = sum(part.file_size for part in parts)
  if promised > size:
    raise _Refused(f"one whose parts promise {promised:,} bytes, of which the file has {size:,}; {SAVE_AGAIN}")


def _directory_size(path: pathlib.Path) -> int:
  """Return how many bytes the list of the parts of an archive has."""
  with open(path, "rb") as file:
    file.seek(max(0, os.path.getsize(path) - TAIL))
    tail = file.read()
  size = struct.unpack_from("<I", tail, tail.rindex(b"PK\x05\x06") + 12)[0]
  return size if size < 0xFFFFFFFF else struct.unpack_from("<Q", tail, tail.rindex(b"PK\x06\x06") + 40)[0]


def _refusal(error: Exception, path: pathlib.Path) -> str:
  """Return why PyTorch did not read a file."""
  said = str(error)
  if isinstance(error, _Refused):
    return f"expected a PyTorch checkpoint, got {said}"
  if "TorchScript" in said:
    return "expected a state_dict, got a TorchScript archive, which holds code; save the network's state_dict alone"
  if isinstance(error, pickle.UnpicklingError) and "weights_only" in said:
    if edm_files.is_pickle(path):
      return (
        "refused: it is a checkpoint of EDM's code, and opening it would run code; where you trust it, run "
        "tools/export_edm.py on it, and convert the folder that it writes"
      )
    return (
      "refused: it holds Python objects besides tensors, and loading them could run code; save its state_dict alone"
    )
  if "maximum supported version" in said:
    return f"expected a PyTorch checkpoint, got one of a newer version ({errors.brief(error)}); update PyTorch"
  if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(said):
    raise MemoryError from None
  return f"expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)}); {file_kinds.AGAIN}"


def sha256(path: str | os.PathLike[str]) -> str:
  """Return the SHA-256 of a file, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
