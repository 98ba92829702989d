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


def title(data: bytes) -> str | None:
  """Return the name of an embedded profile of RGB; None where it is sRGB, or cannot be used."""
  try:
    name, change = _conversion(data, "RGB")
  except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
    return None
  return None if change is None else name


def _found(image: Image.Image) -> tuple[str | None, Callable[[Image.Image], Image.Image] | None]:
  """Return what is to be said of a picture's profile, and what converts it to sRGB; None for what there is not."""
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


def _applied(change: Callable[[Image.Image], Image.Image], image: Image.Image) -> Image.Image:
  """Change the colors of a picture; its alpha stays."""
  alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
  found = change(image.convert(INNER[image.mode]))
  if alpha is not None:
    found.putalpha(alpha)
  return found


@functools.lru_cache(maxsize=8)
def _conversion(data: bytes, mode: str) -> tuple[str, Callable[[Image.Image], Image.Image] | None]:
  """Return the name of a profile and what converts pictures of `mode` from it to sRGB; None where it is sRGB.

  Raises:
    PyCMSError: it is damaged, or of other colors than those of `mode`.
  """
  profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
  title = (ImageCms.getProfileDescription(profile) or "").strip() or "without a name"
  if mode == "CMYK":
    return title, _transform(profile, mode, ImageCms.Intent.PERCEPTUAL).apply
  if mode == "L":
    # A table: as fast as can be, and Little CMS is precise only if it is not told to be fast.
    exact = _transform(profile, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.NOOPTIMIZE)
    table = np.asarray(exact.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])))[0, :, 1]
    return title, (lambda image: image.point(table.tolist())) if _differ(table, np.arange(256)) else None
  fast = _transform(profile, mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
  levels = np.linspace(0, 255, LATTICE).round()
  colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3).astype(np.uint8)
  return title, fast.apply if _differ(np.asarray(fast.apply(Image.fromarray(colors))), colors) else None


def _transform(profile: Any, mode: str, intent: ImageCms.Intent, flags: ImageCms.Flags = ImageCms.Flags.NONE) -> Any:
  srgb = ImageCms.createProfile("sRGB")
  return ImageCms.buildTransform(profile, srgb, mode, "RGB", renderingIntent=intent, flags=flags)


def _differ(colors: np.ndarray, others: np.ndarray) -> bool:
  """Tell whether colors differ by more than rounding does."""
  return bool(np.abs(colors.astype(np.int16) - others).max() > SAME)
