"""Arrays on the disk that can be trusted: `.npz` files, there in full or not at all, and checked when they are read.

Beside the arrays a file holds "about", JSON: a step, what else is to be known, and a digest of every array. Not by
Orbax, as priors are: it writes from threads of its own, which print pages when the disk is full.
"""

import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from diffinv import errors, files, reading

ABOUT = "about"
ADVICE = "the file is damaged"
SPARE = 1000  # bytes of a file for each array in it, and once more, beside those of the array: its name and digest


class About(TypedDict):
  """What a file says of the arrays in it."""

  step: int
  info: dict[str, Any]
  digests: dict[str, str]  # of the arrays by name
  digest: str  # of all of the above


class Archive(NamedTuple):
  """What a file holds."""

  step: int
  arrays: dict[str, np.ndarray]
  info: dict[str, Any]


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, step: int, info: Mapping[str, Any]) -> None:
  """Write arrays by name, what is to be known of them, as JSON has it, and their digests; on the disk on return."""
  about = _about(step, files.plain(dict(info)), digests(arrays))
  with files.file(path) as partial, open(partial, "wb") as opened:
    np.savez(opened, allow_pickle=False, **{**arrays, ABOUT: np.array(json.dumps(about))})


def read(path: pathlib.Path, *, most: int) -> Archive:
  """Return what a file of at most `most` bytes holds, every array as its digest says.

  Raises:
    ValueError: it is damaged.
    OSError: it cannot be read.
  """
  try:
    arrays, about = _read(path, most)
  except (OSError, MemoryError):
    raise
  except Exception as error:  # a damaged file may raise anything
    raise ValueError(f"{path}: expected arrays of a run, got {errors.brief(error)}; {ADVICE}") from None
  if about != _about(about["step"], about["info"], digests(arrays)):
    raise ValueError(f"{path}: expected the arrays of its digests, got others; {ADVICE}")
  return Archive(about["step"], arrays, about["info"])


def digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  """Return the SHA-256 of each array: of its type and shape, "float32 [3, 64]" and a newline, and of its bytes."""
  return {name: _digest(array) for name, array in arrays.items()}


def _digest(array: np.ndarray) -> str:
  found = hashlib.sha256(f"{array.dtype} {list(array.shape)}\n".encode())
  found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return found.hexdigest()


def _about(step: int, info: dict[str, Any], of_arrays: dict[str, str]) -> About:
  said = json.dumps([step, info, of_arrays], sort_keys=True)
  return {"step": step, "info": info, "digests": of_arrays, "digest": hashlib.sha256(said.encode()).hexdigest()}


def _read(path: pathlib.Path, most: int) -> tuple[dict[str, np.ndarray], About]:
  with reading.open_file(path, most=most, advice=ADVICE) as opened:
    with zipfile.ZipFile(opened) as archive:
      for entry in archive.infolist():
        _check_entry(archive, entry)
    opened.seek(0)
    with np.load(opened, allow_pickle=False) as found:
      about: About = reading.parse_json(str(found[ABOUT]).encode(), About, os.fspath(path), ADVICE)
      return {name: found[name] for name in found.files if name != ABOUT}, about


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
  """Check that an array takes no more memory than the file has bytes."""
  if entry.compress_type != zipfile.ZIP_STORED:
    raise ValueError("compressed arrays")  # which may take any amount of memory
  with archive.open(entry) as opened:
    if np.lib.format.read_magic(opened) != (1, 0):
      raise ValueError("arrays of another format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
  if int(np.prod(shape, dtype=object)) * dtype.itemsize > entry.file_size:
    raise ValueError("arrays that are cut off")
