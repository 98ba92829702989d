"""Arrays from `.npy` files: real numbers, read without running anything; damage is an error that names the file."""

import os
import struct
import tokenize
import zlib

import numpy as np

from diffinv import errors, reading

MAX_VALUES = 256_000_000  # of an array: more than the largest picture has
MAGIC = b"\x93NUMPY"  # how a .npy file begins
# What NumPy and Pillow raise on bytes that are not what their header says.
DECODING_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
  *(struct.error, zlib.error, tokenize.TokenError),
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
  with reading.open_file(path) as file:
    begins = file.read(len(MAGIC))
  try:
    # Mapped first: a damaged header may promise more than there is, and more than there is memory for.
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    if isinstance(array, np.ndarray):
      _check_count(array, path)
      return np.array(array)
  except DECODING_ERRORS as error:
    reading.raise_system_error(error, path)
    raise ValueError(f"{path}: expected a .npy array of numbers, got {_fault(begins, error)}") from None
  array.close()
  raise ValueError(f"{path}: expected a .npy array of numbers, got an archive of several; save one with numpy.save")


def _check_count(array: np.ndarray, path: str | os.PathLike[str]) -> None:
  if array.size > MAX_VALUES or array.nbytes > 8 * MAX_VALUES:
    raise ValueError(f"{path}: expected at most {MAX_VALUES:,} numbers, got {array.size:,}; cut it into several files")


def _fault(begins: bytes, error: Exception) -> str:
  """Return in words why a file that begins so cannot be read."""
  said = str(error)
  if begins != MAGIC:
    return "a file of another kind; save it with numpy.save"
  if "mmap length" in said or isinstance(error, EOFError):
    return "one that is cut off: its header promises more than there is"
  if "allow_pickle" in said or "Python object" in said:
    return "one of Python objects, which could run code; save numbers"
  if "format version" in said:
    return f"one of another version ({errors.brief(error)}); save it again"
  return f"one with a damaged header ({errors.brief(error)})"


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
