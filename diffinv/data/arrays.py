"""Arrays from `.npy` files: real numbers, read without running anything; damage is an error that names the file."""

import os
import pathlib
import struct
import zlib

import numpy as np

from diffinv import errors

# What NumPy and Pillow raise on bytes that are not what their header says.
DECODING_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
  *(struct.error, zlib.error),
)


def read_array(path: str | os.PathLike[str], *, channels: int | None = None) -> np.ndarray:
  """Read a `.npy` file of finite floats, [h, w, c], of any range (a measurement need not be an image), as float32.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such array, has other than `channels` channels, or holds NaN or infinity.
  """
  array = load(path)
  wanted = f"[h, w, {'c' if channels is None else channels}]"
  if not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f"{path}: expected floats in [-1, 1], got {array.dtype}; divide bytes by 127.5 and subtract 1")
  if array.ndim != 3 or 0 in array.shape or channels not in (None, array.shape[-1]):
    raise ValueError(f"{path}: expected an array of shape {wanted}, got {array.shape}; reshape it")
  with np.errstate(over="ignore"):
    array = np.array(array, np.float32)
  bad = int(np.sum(~np.isfinite(array)))
  if bad:
    raise ValueError(f"{path}: expected finite values, got {bad} that are NaN or infinite in float32; replace them")
  return array


def load(path: str | os.PathLike[str]) -> np.ndarray:
  """Read the array of a `.npy` file, of any type but objects.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or holds objects or several arrays.
  """
  path = require_file(path)
  try:
    # Mapped first: a damaged header may promise more than there is, and more than there is memory for.
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    array = np.array(array) if isinstance(array, np.ndarray) else array
  except PermissionError:
    raise
  except DECODING_ERRORS as error:
    raise ValueError(
      f"{path}: expected a .npy array of numbers, got a damaged or other file ({errors.brief(error)})"
    ) from None
  if not isinstance(array, np.ndarray):
    array.close()
    raise ValueError(f"{path}: expected a .npy array of numbers, got an archive of several; save one with numpy.save")
  return array


def load_real(path: str | os.PathLike[str]) -> np.ndarray:
  """Read an array of real numbers or truth values; see `load`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such array.
  """
  array = load(path)
  if array.dtype.kind not in "biuf":
    raise ValueError(f"{path}: expected a .npy array of numbers, real ones, got {array.dtype}; convert it to float32")
  return array


def require_file(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path of a file that is there.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: it is a folder.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise ValueError(f"{path}: expected a file, got a folder")
  if not path.is_file():
    raise FileNotFoundError(f"{path}: expected a file, found nothing there; check the path")
  return path
