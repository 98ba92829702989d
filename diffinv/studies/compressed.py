"""A JPEG file as a measurement: what of its picture it holds, with the noise that its own steps make."""

import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffinv.data import images, jpeg, profiles
from diffinv.data.jpeg import Compressed
from diffinv.noise import Rounding
from diffinv.operators.jpeg import EDGE, BlockCosines, rounding
from diffinv.priors import PicturePrior, size_step


def read(path: str | os.PathLike[str], channels: int, *, convert: bool) -> Compressed:
  """Read a JPEG file for a prior of pictures of 1 or 3 channels.

  Args:
    path: of the file.
    channels: a gray picture is taken as a color one without chroma, and a note says so.
    convert: leave out the chroma of a color picture where there is 1 channel.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is none, damaged, or of a kind that is not read; or of color and may not be converted.
  """
  found = jpeg.read(path)
  if found.profile is not None and (told := profiles.title(found.profile)) is not None:
    images.note_once(f"{path}: its colors, of the profile {told!r}, are converted to sRGB once they are restored")
  if channels == 1:
    if len(found.planes) > 1 and not convert:
      raise ValueError(f"{path}: expected a gray picture, got one of color; pass `convert` to leave out its chroma")
    return found.gray()
  if len(found.planes) == 1:
    images.note_gray()
  return found.colored()


def picture_shape(found: Compressed, prior: PicturePrior, path: str | os.PathLike[str]) -> tuple[int, int, int]:
  """Return the shape of the picture in a file.

  Raises:
    ValueError: the prior does not take what the blocks of the file cover.
  """
  covered, fixed = _covered(found, prior), prior.image_shape[:2]
  if any(n not in (None, m) for n, m in zip(fixed, covered, strict=True)):
    raise ValueError(f"{path}: expected a JPEG file of {images.by(fixed)} pixels, got {images.by(found.shape)}")
  return found.shape


def operator(found: Compressed, prior: PicturePrior) -> BlockCosines:
  """Return what measured the picture, and blocks around it that no file has, as far as the prior needs them."""
  covered, (down, across) = _covered(found, prior), found.sampling
  units = covered[0] // (EDGE * down), covered[1] // (EDGE * across)
  kept = _in_units([plane.kept[..., None, None] for plane in found.planes], found.sampling, units)
  shape = (*covered, len(found.planes))
  return BlockCosines(shape, jnp.asarray(kept, jnp.float32), found.sampling, found.window)


def noise(found: Compressed) -> Rounding:
  """Return the noise of its steps."""
  return rounding(tuple(plane.steps for plane in found.planes), sampling=found.sampling)


def values(found: Compressed, measured_by: BlockCosines) -> np.ndarray:
  """Return the measurement: the coefficients that a decoder takes, of pictures in [-1, 1], 0 where there is none."""
  model, (rows, columns, *_) = noise(found), measured_by.kept.shape
  numbers = _in_units([plane.numbers for plane in found.planes], found.sampling, (rows, columns))
  return np.asarray(measured_by.kept * (model.origin + model.step * numbers.astype(np.float32)))


def in_srgb(pictures: np.ndarray, found: Compressed) -> np.ndarray:
  """Return pictures, [n, h, w, c], with the colors of a file brought to sRGB; whole bytes where they are changed."""
  if found.profile is None or len(found.planes) == 1 or profiles.title(found.profile) is None:
    return pictures
  changed = [images.to_pillow(picture) for picture in pictures]
  for image in changed:
    image.info["icc_profile"] = found.profile
  return np.stack([images.from_uint8(np.asarray(profiles.to_srgb(image, lambda words: None))) for image in changed])


def _covered(found: Compressed, prior: PicturePrior) -> tuple[int, int]:
  """Return height and width of whole units that hold all blocks, and that the prior takes; pixels."""
  blocks, step = found.planes[0].kept.shape, size_step(prior)
  multiples = (math.lcm(EDGE * n, step) for n in found.sampling)
  height, width = (-(-EDGE * n // multiple) * multiple for n, multiple in zip(blocks, multiples, strict=True))
  return height, width


def _in_units(planes: list[np.ndarray], sampling: tuple[int, int], units: tuple[int, int]) -> np.ndarray:
  """Return planes of blocks, [rows, columns, ...], unit by unit, [units down, units across, blocks, ...]."""
  factors = [sampling, *[(1, 1)] * (len(planes) - 1)]
  return np.concatenate([_cut(one, factor, units) for one, factor in zip(planes, factors, strict=True)], axis=2)


def _cut(plane: np.ndarray, factor: tuple[int, int], units: tuple[int, int]) -> np.ndarray:
  (down, across), (rows, columns), rest = factor, units, plane.shape[2:]
  more: Any = [(0, rows * down - plane.shape[0]), (0, columns * across - plane.shape[1]), *[(0, 0)] * len(rest)]
  cut = np.pad(plane, more).reshape(rows, down, columns, across, *rest)
  return np.moveaxis(cut, 1, 2).reshape(rows, columns, down * across, *rest)
