"""Color profiles: pictures of other color spaces than sRGB are converted to it, and that is said.

Only what a file embeds is used. The conversion is Little CMS's: relative colorimetric, which for the usual profiles of
screens and cameras is a matrix; perceptual for inks, whose gamut has another shape. A profile that leaves 8-bit colors
where they are, but for rounding, is sRGB by whatever name.
"""

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from diffinv import errors

SAME = 2  # of 255: a profile that moves no color by more is sRGB, rounded otherwise; those of many programs move 1
LATTICE = 9  # colors along an edge of the cube on which a profile is looked at
# The colors that pictures of a mode have, without alpha.
INNER = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "PA": "RGB", "CMYK": "CMYK", "L": "L", "LA": "L"}


def to_srgb(image: Image.Image, tell: Callable[[str], Any]) -> Image.Image:
  """Return a decoded picture with its colors in sRGB.

  Args:
    image: 8 bits a channel, or black and white; looked up if it was of a palette.
    tell: called with what is done to "its colors", if they are changed, or if they should be and cannot.
  """
  words, change = _found(image)
  if words is not None:
    tell(words)
  return image if change is None else _applied(change, image)


def described(image: Image.Image) -> str | None:
  """Return what `to_srgb` would tell of a picture that need not be decoded yet; None if it changes nothing."""
  return _found(image)[0]


def _found(image: Image.Image) -> tuple[str | None, Any]:
  """Return what is to be said of a picture's profile, and the transform to sRGB; None for what there is not."""
  data, mode = image.info.get("icc_profile"), INNER.get(image.mode)
  if mode == "CMYK" and not data:
    return "its colors, of inks without a profile, are converted to sRGB by a rule of thumb", None
  if not data or mode is None:
    return None, None
  try:
    title, change = _conversion(bytes(data), mode)
  except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
    return f"its colors are taken as sRGB, as its color profile cannot be used ({errors.brief(error)})", None
  if change is None:
    return None, None
  return f"its colors, of the profile {title!r}, are converted to sRGB", change


def _applied(change: Any, image: Image.Image) -> Image.Image:
  """Apply a transform to RGB; alpha stays, and gray stays gray."""
  alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
  found = change.apply(image.convert(INNER[image.mode]))
  if INNER[image.mode] == "L":
    found = found.getchannel("G")
  if alpha is not None:
    found.putalpha(alpha)
  return found


@functools.lru_cache(maxsize=8)
def _conversion(data: bytes, mode: str) -> tuple[str, Any]:
  """Return the name of a profile and what converts colors of `mode` from it to sRGB; None where it is sRGB.

  Raises:
    PyCMSError: it is damaged, or of other colors than those of `mode`.
  """
  profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
  title = (ImageCms.getProfileDescription(profile) or "").strip() or "without a name"
  inks = mode == "CMYK"
  intent = ImageCms.Intent.PERCEPTUAL if inks else ImageCms.Intent.RELATIVE_COLORIMETRIC
  change: Any = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=intent)
  return title, change if inks or _distance(change, mode) > SAME else None


def _distance(change: Any, mode: str) -> int:
  """Return by how much a transform moves a color at most, of 255."""
  levels = np.arange(256) if mode == "L" else np.linspace(0, 255, LATTICE).round()
  axes = np.meshgrid(*[levels] * (1 if mode == "L" else 3), indexing="ij")
  colors = np.stack(axes, axis=-1).reshape(1, -1, len(axes)).astype(np.uint8)
  moved = np.asarray(change.apply(Image.fromarray(colors[..., 0] if mode == "L" else colors)), np.int16)
  return int(np.abs(moved - colors).max())
