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


# What to save in place of a picture `a` of integers.
OF_PICTURES = {"bool": "2.0 * a - 1", "uint8": "np.float32(a) / 127.5 - 1", "uint16": "np.float32(a) / 32767.5 - 1"}


def read_array(
  path: str | os.PathLike[str], *, channels: int | None = None, is_picture: bool = True, gray: bool = False
) -> np.ndarray:
  """Read a `.npy` file of finite floats, [h, w, c], of any range (a measurement need not be an image), as float32.

  Args:
    path: of the file.
    channels: how many there must be; None for any number. Where it may be one, [h, w] is taken for [h, w, 1].
    is_picture: it is one, and no k-space or the like; for messages.
    gray: take one channel in place of `channels`, too.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such array, has other than `channels` channels, or holds NaN or infinity.
  """
  array = load(path)
  if not np.issubdtype(array.dtype, np.floating):
    wanted = "floats in [-1, 1]" if is_picture else "floats"
    raise ValueError(f"{path}: expected {wanted}, got {_other_numbers(array, channels, is_picture)}")
  if array.ndim == 2 and (gray or channels in (None, 1)):
    array = array[..., None]
  _check_channels(array, 1 if gray and array.shape[-1:] == (1,) else channels, path)
  with np.errstate(over="ignore"):
    array = np.array(array, np.float32)
  bad = int(np.sum(~np.isfinite(array)))
  if bad:
    raise ValueError(f"{path}: expected finite values, got {bad} that are NaN or infinite in float32; replace them")
  return array


def _check_channels(array: np.ndarray, channels: int | None, path: str | os.PathLike[str]) -> None:
  """Check the shape of an array, [h, w, `channels`], or of any number of channels.

  Raises:
    ValueError: it has another; the message says which expression of the array `a` has this one.
  """
  if array.ndim == 3 and 0 not in array.shape and channels in (None, array.shape[-1]):
    return
  wanted = f"[h, w, {'c' if channels is None else channels}]"
  change = None if channels is None else arranged(array.shape, channels)
  advice = "save one of that shape" if change is None else f"save {change}"
  raise ValueError(f"{path}: expected an array of shape {wanted}, got {array.shape}; {advice}")


def arranged(shape: tuple[int, ...], channels: int, a: str = "a") -> str | None:
  """Return in Python what makes [h, w, channels] of an array `a` of another shape; None if it is not clear what."""
  if 0 in shape or len(shape) not in (2, 3, 4):
    return None
  if len(shape) == 4:
    return arranged(shape[1:], channels, f"{a}[0]") if shape[0] == 1 else None
  if len(shape) == 2:
    return f"{a}[..., None]" if channels == 1 else f"np.stack([{a}] * {channels}, axis=-1)"
  if shape[-1] == channels:
    return a
  if shape[0] == channels:
    return f"np.moveaxis({a}, 0, -1)"
  if shape[-1] == 1:
    return f"np.repeat({a}, {channels}, axis=-1)"
  if shape[0] == 1:
    return f"np.repeat(np.moveaxis({a}, 0, -1), {channels}, axis=-1)"
  if shape[-1] == 3 and channels == 1:
    return f"{a}.mean(axis=-1, keepdims=True)"
  return f"{a}[..., :3]" if (shape[-1], channels) == (4, 3) else None


def _other_numbers(array: np.ndarray, channels: int | None, is_picture: bool) -> str:
  """Return what an array holds that is not of floats, and what to save in its place."""
  kind = array.dtype
  if kind.kind == "c":
    parts = None if is_picture or channels is None or channels % 2 else arranged(array.shape, channels // 2)
    if parts is None:
      return f"{kind} {array.shape}; save real numbers, such as a.real"
    return (
      f"{kind} {array.shape}; save the real parts of all channels, then the imaginary parts: "
      f"k = {parts}; np.concatenate([k.real, k.imag], axis=-1)"
    )
  if is_picture and kind.name in OF_PICTURES:
    return f"{kind}; save {OF_PICTURES[kind.name]}"
  return f"{kind}; save them as float32" + ", scaled to that range" * is_picture


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
    advice = "save a.real" if array.dtype.kind == "c" else "save numbers"
    raise ValueError(f"{path}: expected a .npy array of numbers, real ones, got {array.dtype}; {advice}")
  return array
