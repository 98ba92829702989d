"""Masks and blur kernels from pictures or `.npy` files.

Whatever has two values that can only mean missing and kept is a mask: 0 and 255, 0 and 1, false and true, in one
channel or in equal ones. What is not plain, such as alpha, is refused with what to do.
"""

import math
import os
import pathlib

import numpy as np
from PIL import Image

from diffinv.data import arrays, images
from diffinv.data.images import NAMES

WHITE = 255.0  # a gray level: kept
THRESHOLD = 128  # the gray level from which a pixel is rather white than black
FLAGS = (0.0, 1.0)  # the values of a mask of truth values
PAINT = "white is kept, so paint white what was measured"


def read_mask(path: str | os.PathLike[str], *, threshold: int | None = None) -> np.ndarray:
  """Read a mask: white pixels are kept, black ones are missing.

  Args:
    path: an image of black and white only, with equal channels and opaque alpha if it has these, or a `.npy` of two
      values, [h, w], [h, w, 1] or [h, w, 3]. The values are 0 and 255, or 0 and 1; of a 16-bit image also 0 and 65535.
    threshold: in 1 .. 255; accept any gray, and keep the pixels that are at least this bright. Where nothing is above
      1, it counts as 255.

  Returns:
    Kept pixels, float32, [h, w, 1], 0 or 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds other values, or keeps no pixel.
  """
  return as_mask(_values(pathlib.Path(path), "mask"), str(path), threshold=threshold)


def as_mask(values: np.ndarray, name: str = "`mask`", *, threshold: int | None = None) -> np.ndarray:
  """Return an array of two values as `read_mask` returns a file's.

  Raises:
    ValueError: it holds other values, or keeps no pixel; the message begins with `name`.
  """
  values = np.asarray(values)
  if values.dtype.kind not in "biuf":
    raise ValueError(f"{name}: expected real numbers, got {values.dtype}; give a.real")
  values = _one_channel(values.astype(np.float64), name, "mask")
  if threshold is None:
    _check_two(values, name)
    kept, advice = values > 0, PAINT
  else:
    levels = _levels(values)
    kept, brightest = levels >= threshold, np.nanmax(levels)
    advice = f"pass `mask_threshold={math.floor(brightest)}` or less" if brightest >= 1 else PAINT
  if not kept.any():
    raise ValueError(f"{name}: expected a mask that keeps some pixels, got one that keeps none; {advice}")
  return kept.astype(np.float32)[..., None]


def _levels(values: np.ndarray) -> np.ndarray:
  """Return values as gray levels, of which 255 is white: those of truth values and fractions are up to 1."""
  return WHITE * values if values.min() >= 0.0 and values.max() <= 1.0 else values


def _one_channel(values: np.ndarray, name: str, what: str) -> np.ndarray:
  """Return values [h, w] of an array [h, w], [h, w, 1], or [h, w, 3] of equal channels."""
  if values.ndim == 3 and values.shape[-1] in (1, 3) and 0 not in values.shape:
    differ = int(np.sum(np.any(values != values[..., :1], axis=-1)))
    if differ:
      raise ValueError(
        f"{name}: expected a {what} of gray values, got {differ} pixels of other colors; save it as gray"
      )
    return values[..., 0]
  if values.ndim != 2 or 0 in values.shape:
    change = arrays.arranged(values.shape, 1)
    advice = f"give {change}" if change is not None else "give one of that shape"
    raise ValueError(f"{name}: expected a {what} of shape [h, w] or [h, w, 1], got {values.shape}; {advice}")
  return values


def _check_two(values: np.ndarray, name: str) -> None:
  """Check that values are 0 and WHITE, or 0 and 1."""
  if np.all(np.isin(values, FLAGS)):
    return
  white = 1.0 if np.nanmax(values) <= 1.0 else WHITE
  other = values[(values != 0) & (values != white)]
  if other.size:
    raise ValueError(
      f"{name}: expected a mask of 0 (missing) and 255 (kept), or of 0 and 1, got {other.size} other values such as "
      f"{other[0]:g}; {_rounding(values)}"
    )


def _rounding(values: np.ndarray) -> str:
  """Return what makes a mask of values that are more than two."""
  if not (values.min() >= 0.0 and values.max() <= WHITE):  # or NaN
    return "save it with the values 0 and 255"
  brightest = _levels(values).max()
  threshold = THRESHOLD if brightest >= THRESHOLD else max(1, math.floor(brightest))
  return f"pass `mask_threshold={threshold}` to keep what is at least this bright"


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray:
  """Read a blur kernel and divide it by its sum.

  Args:
    path: a gray image of 8 or 16 bits, with equal channels and opaque alpha if it has these, or a `.npy` of numbers,
      [h, w]; height and width are odd, so that there is a center.

  Returns:
    float32, [h, w], of sum 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a kernel.
  """
  return as_kernel(_values(pathlib.Path(path), "kernel"), str(path))


def as_kernel(values: np.ndarray, path: str = "`kernel`") -> np.ndarray:
  """Return an array [h, w] of odd height and width divided by its sum, float32.

  Raises:
    ValueError: it is not a kernel; the message begins with `path`.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2:
    advice = "give np.squeeze(a)" if np.squeeze(values).ndim == 2 else "give one channel of it"
    raise ValueError(f"{path}: expected a kernel of shape [h, w], got {values.shape}; {advice}")
  if values.shape[0] % 2 == 0 or values.shape[1] % 2 == 0:
    pads = tuple((0, 1 - n % 2) for n in values.shape)
    raise ValueError(
      f"{path}: expected a kernel of odd height and width, got shape {values.shape}; pad it to odd sizes: "
      f"np.pad(a, {pads})"
    )
  if not np.all(np.isfinite(values)) or values.sum() <= 0:
    raise ValueError(f"{path}: expected finite values of positive sum, got a sum of {values.sum():g}")
  return (values / values.sum()).astype(np.float32)


def _values(path: pathlib.Path, what: str) -> np.ndarray:
  """Return the numbers of a `.npy`, or the gray values of a picture, [h, w]."""
  return arrays.load_real(path) if path.suffix.lower() == ".npy" else _gray_values(path, what)


def _gray_values(path: pathlib.Path, what: str) -> np.ndarray:
  """Return the gray values of a picture, [h, w], of 0 to 255 unless it is of floats; equal channels are gray."""
  image = images.decode(path)
  kind = images.kind_of(image)
  if image.info["several"] or image.mode == "CMYK":
    raise ValueError(f"{path}: expected a grayscale {what}, got {kind}; save it as {NAMES['L']}")
  if image.mode[0] in "IF":
    values = np.asarray(image, np.float64)
    return values / 257.0 if kind == "16-bit grayscale" and values.max() > 1 else values
  return _one_channel(np.asarray(_opaque(image, path, what).convert("RGB")), str(path), what)


def _opaque(image: Image.Image, path: pathlib.Path, what: str) -> Image.Image:
  """Return a picture without its alpha channel, where nothing of it is transparent."""
  if not image.has_transparency_data:
    return image
  image = image.convert("RGBA")
  through = int(np.sum(np.asarray(image.getchannel("A")) < 255))
  if through:
    raise ValueError(
      f"{path}: expected a {what} of black and white, got {through} pixels that are transparent, which may mean "
      "either; flatten it onto black or white"
    )
  return image
