"""Masks and blur kernels from pictures or `.npy` files."""

import os
import pathlib

import numpy as np

from diffinv.data import arrays, images
from diffinv.data.images import NAMES


def read_mask(path: str | os.PathLike[str], *, threshold: int | None = None) -> np.ndarray:
  """Read a mask: white pixels are kept, black ones are missing.

  Args:
    path: a grayscale or black-and-white image of 0 and 255 only, or a `.npy` of 0 and 1, [h, w] or [h, w, 1].
    threshold: in 1 .. 255; accept any gray, and keep the pixels that are at least this bright.

  Returns:
    Kept pixels, float32, [h, w, 1], 0 or 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds other values, or keeps no pixel.
  """
  path = pathlib.Path(path)
  values = _read(path, "mask", (NAMES["1"], NAMES["L"]), NAMES["L"]).astype(np.float32)
  return _kept(values * np.float32(255.0) if _is_array(path) else values, str(path), threshold)


def as_mask(values: np.ndarray, name: str = "`mask`") -> np.ndarray:
  """Return an array of 0 (missing) and 1 (kept), [h, w] or [h, w, 1], as `read_mask` returns a file's.

  Raises:
    ValueError: it holds other values, or keeps no pixel; the message begins with `name`.
  """
  return _kept(np.asarray(values, np.float32) * np.float32(255.0), name, None)


def _kept(values: np.ndarray, path: str, threshold: int | None) -> np.ndarray:
  """Return gray values 0 and 255, or from the threshold on, as kept pixels."""
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  if values.ndim != 2:
    raise ValueError(f"{path}: expected a mask of shape [h, w] or [h, w, 1], got {values.shape}")
  if threshold is not None:
    values = np.where(values >= threshold, np.float32(255.0), np.float32(0.0))
  other = values[(values != 0) & (values != 255)]
  if other.size:
    raise ValueError(
      f"{path}: expected a mask of 0 (missing) and 255 (kept), got {other.size} other values such as {other[0]:g}; "
      "pass `mask_threshold=128` to round them"
    )
  if not values.any():
    raise ValueError(f"{path}: expected a mask that keeps some pixels, got one that keeps none; white is kept")
  return (values / 255.0)[..., None]


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
  """Read a blur kernel and divide it by its sum.

  Args:
    path: a grayscale image of 8 or 16 bits, or a `.npy` of numbers, [h, w]; height and width are odd, so that there
      is a center.

  Returns:
    float32, [h, w], of sum 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a kernel.
  """
  path = pathlib.Path(path)
  return as_kernel(_read(path, "kernel", (NAMES["L"], "16-bit grayscale"), "8- or 16-bit grayscale"), str(path))


def as_kernel(values: np.ndarray, path: str = "`kernel`") -> np.ndarray:
  """Return an array [h, w] of odd height and width divided by its sum, float32.

  Raises:
    ValueError: it is not a kernel; the message begins with `path`.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or values.shape[0] % 2 == 0 or values.shape[1] % 2 == 0:
    raise ValueError(
      f"{path}: expected a kernel of odd height and width, got shape {values.shape}; pad it to odd sizes"
    )
  if not np.all(np.isfinite(values)) or values.sum() <= 0:
    raise ValueError(f"{path}: expected finite values of positive sum, got a sum of {values.sum():g}")
  return (values / values.sum()).astype(np.float32)


def _is_array(path: pathlib.Path) -> bool:
  return path.suffix.lower() == ".npy"


def _read(path: pathlib.Path, what: str, kinds: tuple[str, ...], advice: str) -> np.ndarray:
  """Return the numbers of a `.npy`, or the gray values of a picture that is one of `kinds`."""
  if _is_array(path):
    return arrays.load_real(path)
  image = images.decode(path)
  kind = images.kind_of(image)
  if kind not in kinds:
    raise ValueError(f"{path}: expected a grayscale {what}, got {kind}; save it as {advice}")
  return np.asarray(image.convert("L") if kind == NAMES["1"] else image)
