"""Which files are pictures that can be read, and what is said of the others, by their names and their first bytes.

AVIF is read where Pillow can, HEIC where pillow-heif is installed (`pip install 'diffinv[heic]'`). A RAW file of a
camera is not a picture yet: most are TIFF files whose first page is a small preview, not the photograph.
"""

import functools
import importlib.util
import math
import os
import pathlib
from collections.abc import Iterable
from typing import BinaryIO

from PIL import Image, features

from diffinv import reading

PICTURES = (
  *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
  *(".ppm", ".pgm", ".pbm", ".pnm"),
)
ARRAYS = (".npy",)
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
ROUNDED = 0.6  # of q / sqrt(12) in the mean over coefficients: photographs at qualities of 75 and 90
AVIF, HEIF = (".avif",), (".heic", ".heif", ".hif")
RAW = (
  *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf"),
  *(".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
# What Pillow may take a file for, whatever its name: pictures only. Ghostscript would run an EPS file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF")
BEGINS = 64  # bytes of a file that tell its kind
# How RAW files begin that are no plain TIFF, and where.
RAW_BEGINS = ((4, b"ftypcrx "), (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"IIU\0"))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DNG_VERSION = 50706  # the tag of a RAW file that is a plain TIFF
SHOWN = 6  # files that a note names

DEVELOP = "a RAW file of a camera; develop it to a PNG or TIFF of 8 bits first (16 bits need `convert`)"
NO_HEIF = "HEIC, for which a reader is missing; pip install 'diffinv[heic]', or save it as PNG"
NO_AVIF = "AVIF, which this Pillow cannot read; update Pillow, or save it as PNG"


class Unreadable(ValueError):
  """A file is a picture, and whole for all that is known, but of a kind that cannot be read."""


@functools.cache
def reads_avif() -> bool:
  """Tell whether Pillow was built with AVIF."""
  return "avif" in features.modules and bool(features.check("avif"))


def reads_heif() -> bool:
  """Tell whether pillow-heif is installed."""
  return importlib.util.find_spec("pillow_heif") is not None


def endings(*, arrays: bool) -> tuple[str, ...]:
  """Return the endings, in lower case, of the files of a folder that are read; `arrays`: also those of arrays."""
  return PICTURES + AVIF * reads_avif() + HEIF * reads_heif() + ARRAYS * arrays


def unreadable(name: str | os.PathLike[str]) -> str | None:
  """Return what is said of a file whose ending tells that it cannot be read; None for any other."""
  ending = pathlib.Path(name).suffix.lower()
  if ending in RAW:
    return DEVELOP
  if ending in HEIF and not reads_heif():
    return NO_HEIF
  return NO_AVIF if ending in AVIF and not reads_avif() else None


def open_file(file: BinaryIO, path: str | os.PathLike[str]) -> Image.Image:
  """Open a picture, of FORMATS or what else there are readers for, without decoding it.

  Args:
    file: open, at its beginning.
    path: of it, whose ending counts for RAW files only.

  Raises:
    Unreadable: it is a picture of another kind.
    UnidentifiedImageError: it is none.
  """
  begins = file.read(BEGINS)
  file.seek(0)
  if (why := DEVELOP if pathlib.Path(path).suffix.lower() in RAW else _unreadable_contents(begins)) is not None:
    raise Unreadable(f"{path}: expected a picture that can be read, got {why}")
  if is_heif(begins):
    return _open_heif(file)
  image = Image.open(file, formats=(*FORMATS, "AVIF") if reads_avif() else FORMATS)
  if DNG_VERSION in getattr(image, "tag_v2", ()):
    raise Unreadable(f"{path}: expected a picture that can be read, got {DEVELOP}")
  return image


def rounding(path: pathlib.Path) -> float:
  """Return about what a JPEG file has rounded off, a standard deviation on [-1, 1]; 0 of others, or of no file.

  A step q rounds off q / sqrt(12), where a coefficient is larger; of fine ones, which are mostly 0 in any case, less.
  """
  if path.suffix.lower() not in JPEG or not path.is_file():
    return 0.0
  with reading.open_file(path) as file, Image.open(file, formats=("JPEG",)) as image:
    steps = image.quantization[0]  # type: ignore[attr-defined]  # of JPEG files
  return ROUNDED * sum(steps) / len(steps) / math.sqrt(12.0) / 127.5


def _open_heif(file: BinaryIO) -> Image.Image:
  import pillow_heif  # optional; opened by its class, as registering it would change what all of Pillow opens

  image: Image.Image = pillow_heif.HeifImageFile(file)
  return image


def unidentified(path: str | os.PathLike[str]) -> str:
  """Return in words what a file is that no reader takes for a picture."""
  with reading.open_file(path) as file:
    begins = file.read(BEGINS)
  if begins.startswith(TIFF_BEGINS):
    return "a TIFF of a kind that is not read, such as colors in floats; save it with 8 or 16 bits a channel"
  return "a file that is none, or of an unknown format"


def _unreadable_contents(begins: bytes) -> str | None:
  """Return what is said of a file that begins so and cannot be read, whatever its name; None for any other."""
  if any(begins[place:].startswith(mark) for place, mark in RAW_BEGINS):
    return DEVELOP
  if is_heif(begins) and not reads_heif():
    return NO_HEIF
  return NO_AVIF if _brands(begins).intersection(AVIF_BRANDS) and not reads_avif() else None


def is_heif(begins: bytes) -> bool:
  """Tell by its first bytes whether a file is HEIC; AVIF, in the same kind of file, is none."""
  brands = _brands(begins)
  return bool(brands.intersection(HEIF_BRANDS)) and not brands.intersection(AVIF_BRANDS)


def _brands(begins: bytes) -> set[bytes]:
  """Return what the first box of a file of the ISO base format says that it is; none of another file."""
  if begins[4:8] != b"ftyp":
    return set()
  box = begins[: int.from_bytes(begins[:4], "big")]
  return {box[8:12], *(box[i : i + 4] for i in range(16, len(box) - 3, 4))}


def is_listed(path: pathlib.Path, *, arrays: bool) -> bool:
  """Tell by its name whether an entry of a folder is read; hidden files and what is no regular file are not."""
  known = path.suffix.lower() in endings(arrays=arrays)
  return known and not path.name.startswith(".") and reading.is_file(path)


def left_out(folder: str | os.PathLike[str], names: Iterable[str]) -> str | None:
  """Return a sentence on entries of a folder that are not read; hidden ones are passed over. None for no entry.

  Pictures that cannot be read come first, with the reason.
  """
  shown = sorted((name for name in names if not os.path.basename(name).startswith(".")), key=_unknown_last)
  if not shown:
    return None
  told = [name if (why := unreadable(name)) is None else f"{name} ({why})" for name in shown[:SHOWN]]
  more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
  return f"not read in the folder {folder}: {', '.join(told)}{more}"


def _unknown_last(name: str) -> tuple[bool, str]:
  return unreadable(name) is None, name
