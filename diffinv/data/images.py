"""Picture files to arrays in [-1, 1] and back, and the size of pictures. NumPy on the host.

Nothing is converted, resized or rescaled unless the caller asks. Reading maps the byte b to b / 127.5 - 1. EXIF
orientation is applied; color profiles are ignored (bytes are taken as sRGB). Writing clips to [-1, 1] and rounds to
the nearest byte. It never stretches the range, so a metric of the file is a metric of the picture.

A picture may be a `.npy` file, too: floats, [h, w, c], [-1, 1].
"""

import contextlib
import io
import math
import os
import pathlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from diffinv import errors, files, reading
from diffinv.data.arrays import DECODING_ERRORS, read_array

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
MAX_PIXELS = 64_000_000  # a larger picture is more likely a decompression bomb than something to restore
MAX_STRIP_PIXELS = 16 * MAX_PIXELS  # of a file that this program wrote: many pictures side by side
MAX_BYTES, MAX_STRIP_BYTES = 1_000_000_000, 5_000_000_000  # of the files: more than all these pixels take
CHANNELS = {"RGB": 3, "L": 1}
NAMES = {
  "1": "black and white",
  "L": "8-bit grayscale",
  "LA": "grayscale with alpha",
  "P": "palette",
  "PA": "palette with alpha",
  "RGB": "8-bit RGB",
  "RGBA": "RGB with alpha",
  "F": "32-bit float grayscale",
}
# What Pillow may take a file for, whatever its name: pictures only. Ghostscript would run an EPS file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF")
FITS = ("none", "crop", "resize")
# Of what Pillow says: what tells that a file is damaged, and that what lies beside the pixels is a bomb.
DAMAGE = re.compile(
  r"truncat|broken|corrupt|damag|invalid|unrecognized|overrun|not enough|create decoder|next frame|decoder error -[12]",
  re.IGNORECASE,
)
DAMAGE_ERRORS = (SyntaxError, TypeError, EOFError, IndexError, struct.error, zlib.error)
BOMB = re.compile(r"text chunk|TEXT_CHUNK", re.IGNORECASE)


def collect(paths: Sequence[str], *, name: str = "input") -> list[pathlib.Path]:
  """Return the image files that paths name.

  Args:
    paths: files, folders (their image files, sorted by name) and comma-separated lists of both.
    name: of the argument, for error messages.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: a folder holds no image file, or nothing was named.
  """
  found = []
  for path in split(paths):
    if path.is_dir():
      inside = sorted(p for p in path.iterdir() if _is_listed(p))
      if not inside:
        raise ValueError(f"{name}: expected image files ({', '.join(EXTENSIONS)}) in the folder {path}, found none")
      found += inside
    else:
      found.append(reading.require_file(path))
  if not found:
    raise ValueError(f"{name}: expected a file, several, or a folder, got nothing")
  return found


def _is_listed(path: pathlib.Path) -> bool:
  """Tell by its name whether an entry of a folder is an image; hidden files and what is no file are not."""
  return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and reading.is_file(path)


def split(paths: Sequence[str]) -> list[pathlib.Path]:
  """Split lists at commas, unless the whole names a file: names may hold commas."""
  parts = []
  for path in paths:
    # Not pathlib's `exists`, which raises if the list is longer than a file name may be.
    parts += [path] if path and os.path.lexists(path) else [part for part in path.split(",") if part]
  return [pathlib.Path(part) for part in parts]


def mode_of(channels: int) -> str:
  """Return the mode of an image file with that many channels.

  Raises:
    ValueError: there is no such mode.
  """
  for mode, count in CHANNELS.items():
    if count == channels:
      return mode
  raise ValueError(f"channels: expected {' or '.join(map(str, CHANNELS.values()))} of an image file, got {channels}")


def read(path: str | os.PathLike[str], *, mode: str = "RGB", convert: bool = False) -> np.ndarray:
  """Read an image.

  Args:
    path: a file of one of FORMATS, or `.npy`.
    mode: "RGB" or "L" (grayscale): what the file must hold.
    convert: accept other modes too: alpha is laid over white, palettes are looked up, 16 bits become 8, gray becomes
      RGB, RGB becomes luminance, and an animation becomes its first frame.

  Returns:
    float32, [h, w, 3] or [h, w, 1], [-1, 1].

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not an image, or of another mode; the message says what to do.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == ".npy":
    return _check_range(read_array(path, channels=CHANNELS[mode]), path)
  image = decode(path)
  kind = kind_of(image)
  if kind != NAMES[mode]:
    if not convert:
      raise ValueError(f"{path}: expected {NAMES[mode]}, got {kind}; save it as {NAMES[mode]} or pass `convert`")
    image = _converted(image, mode, path)
  pixels = from_uint8(np.asarray(image, np.uint8))
  return pixels.reshape(*pixels.shape[:2], CHANNELS[mode])


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
  """Read a picture of any kind that `read` can convert, as a Pillow image of 8-bit RGB.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not an image, or too large.
  """
  image = decode(pathlib.Path(path))
  return image if kind_of(image) == NAMES["RGB"] else _converted(image, "RGB", pathlib.Path(path))


def _check_range(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
  low, high = float(array.min()), float(array.max())
  if low < -1.0 or high > 1.0:
    raise ValueError(f"{path}: expected values in [-1, 1], got [{low:g}, {high:g}]; rescale them")
  return array


def read_written(path: str | os.PathLike[str]) -> Image.Image:
  """Read a PNG that this program wrote, perhaps many pictures side by side, as a Pillow image in RGB.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not a PNG, or larger than anything this program writes.
  """
  image = decode(pathlib.Path(path), written=True)
  return image if image.mode == "RGB" else image.convert("RGB")  # without a copy: a strip may take gigabytes


@contextlib.contextmanager
def open_image(path: pathlib.Path, *, written: bool = False) -> Iterator[Image.Image]:
  """Open a picture without decoding it yet; see `decode`."""
  with reading.open_file(path, most=MAX_STRIP_BYTES if written else MAX_BYTES) as file:
    # Pillow's own limit, about that of a photograph, does not apply to the opener of a single format.
    yield PngImagePlugin.PngImageFile(file) if written else Image.open(file, formats=FORMATS)


def decode(path: pathlib.Path, *, written: bool = False) -> Image.Image:
  """Read and decode a whole file, so that damage shows here, and turn the picture upright.

  Args:
    path: a file of one of FORMATS.
    written: it is a PNG that this program wrote, which may be larger than a photograph.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not an image, or too large.
  """
  most = MAX_STRIP_PIXELS if written else MAX_PIXELS
  reading.require_file(path)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
      with open_image(path, written=written) as image:
        return _loaded(image, most)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
      raise ValueError(f"{path}: expected at most {most} pixels, got more ({error}); scale it down") from None
    except Image.UnidentifiedImageError:
      raise ValueError(f"{path}: expected an image, got a file that is none, or of an unknown format") from None
    except DECODING_ERRORS as error:
      reading.raise_system_error(error, path)
      raise ValueError(f"{path}: {_refusal(error)}") from None


def _loaded(image: Image.Image, most: int) -> Image.Image:
  if math.prod(image.size) > most:
    raise Image.DecompressionBombError(f"{image.width}x{image.height}")
  image.info["deep"] = any(_is_deep(tile) for tile in getattr(image, "tile", ()))
  image.info["several"] = _has_more(image)
  image.load()
  return ImageOps.exif_transpose(image)


def _has_more(image: Image.Image) -> bool:
  """Tell whether there is a second frame or page, without counting all where that takes reading them."""
  if image.format not in ("GIF", "TIFF"):
    # A phone may store a second picture, such as a depth map, behind the JPEG (MPO): the first is the photograph.
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1
  try:
    image.seek(1)
  except EOFError:
    return False
  image.seek(0)
  return True


def _refusal(error: Exception) -> str:
  """Return why a file of a known format cannot be decoded: damage is not the only reason."""
  if "out of memory" in str(error) or "decoder error -9" in str(error):
    raise MemoryError from None
  if BOMB.search(str(error)):
    return f"expected little text beside the picture, got too much ({errors.brief(error)}); save it without"
  if DAMAGE.search(str(error)) or isinstance(error, DAMAGE_ERRORS):
    return f"expected a whole image, got a truncated or damaged file ({errors.brief(error)})"
  return f"expected an image that can be decoded, got another ({errors.brief(error)}); save it as PNG"


def _is_deep(tile: Any) -> bool:
  """Tell whether there are 16 bits a channel, which Pillow silently cuts to 8 if there are several channels."""
  args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
  raw = any(isinstance(a, str) and a.endswith((";16B", ";16L", ";16N")) for a in args)
  return raw or (tile.codec_name.startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255)


def kind_of(image: Image.Image) -> str:
  """Return in words what a decoded file holds."""
  if image.info["several"]:
    return "an animation or several pages"
  if image.info["deep"] or image.mode.startswith("I"):
    return "16-bit " + ("grayscale" if image.mode.startswith("I") else image.mode)
  if "transparency" in image.info and image.mode in ("RGB", "L"):
    return f"{NAMES[image.mode]} with a transparent color"
  return NAMES.get(image.mode, image.mode)


def _converted(image: Image.Image, mode: str, path: pathlib.Path) -> Image.Image:
  if image.mode.startswith("I"):
    values = np.asarray(image, np.int64)
    if values.max() > 65535 or values.min() < 0:
      raise ValueError(f"{path}: expected 8 or 16 bits, got 32; rescale it to 8-bit RGB")
    image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
  if image.mode == "F":
    raise ValueError(f"{path}: expected 8 or 16 bits, got floats of unknown range; save them as .npy in [-1, 1]")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image.convert("RGB").convert(mode)


def parse_size(text: str) -> tuple[int, int]:
  """Read "N" or "WxH" (width first, as image programs have it) as (height, width), pixels.

  Raises:
    ValueError: it is neither, or not positive, or of more than MAX_PIXELS.
  """
  parts = text.lower().split("x")
  if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
    raise ValueError(f"size: expected N or WIDTHxHEIGHT in pixels, got {text!r}")
  if int(parts[-1]) * int(parts[0]) > MAX_PIXELS:
    raise ValueError(f"size: expected at most {MAX_PIXELS:,} pixels in all, got {text!r}")
  return int(parts[-1]), int(parts[0])


def target_size(
  have: tuple[int, int], allowed: Sequence[int | None], multiple: int, wanted: tuple[int, int] | None
) -> tuple[int, int]:
  """Choose the size of an image: the wanted one, or else the largest allowed that is not larger than the image.

  Args:
    have: height and width of the image, pixels.
    allowed: height and width that the prior takes; None for any multiple of `multiple`.
    multiple: pixels.
    wanted: height and width asked for, or None.

  Raises:
    ValueError: the wanted size is not allowed, or the image is smaller than the smallest one.
  """
  height, width = (fixed or n // multiple * multiple for fixed, n in zip(allowed, wanted or have))
  best = height, width
  if wanted is not None and best != wanted:
    rule = f"multiples of {multiple}" if None in allowed else by(best)
    raise ValueError(f"size: expected {rule} pixels, got {by(wanted)}; choose another `size`")
  if 0 in best:
    raise ValueError(f"expected at least {multiple}x{multiple} pixels, got {by(have)}; pass `size` and `fit=resize`")
  return best


def fit(x: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
  """Bring an image to a size: cut out its center ("crop"), or first scale it to cover the size ("resize").

  Args:
    x: [h, w, c], [-1, 1].
    size: height and width, pixels.
    how: of FITS; "none" accepts only an image that has the size.

  Raises:
    ValueError: the image has another size ("none"), or is too small ("crop").
  """
  height, width = x.shape[:2]
  if (height, width) == size:
    return x
  if how == "none":
    raise ValueError(f"expected {by(size)} pixels, got {by(x.shape)}; pass `fit=crop` or `fit=resize`")
  if how == "resize":
    ratio = max(size[0] / height, size[1] / width)
    x = _resized(x, (max(size[0], round(height * ratio)), max(size[1], round(width * ratio))))
    height, width = x.shape[:2]
  if height < size[0] or width < size[1]:
    raise ValueError(f"expected at least {by(size)} pixels to crop, got {by(x.shape)}; pass `fit=resize`")
  top, left = (height - size[0]) // 2, (width - size[1]) // 2
  return x[top : top + size[0], left : left + size[1]]


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resize with Lanczos' filter, antialiased; its overshoots are clipped to [-1, 1]."""
  planes = [Image.fromarray(np.ascontiguousarray(x[..., c])) for c in range(x.shape[-1])]
  scaled = [np.asarray(plane.resize((size[1], size[0]), Image.Resampling.LANCZOS)) for plane in planes]
  return np.clip(np.stack(scaled, axis=-1), -1.0, 1.0)


def by(shape: Sequence[int]) -> str:
  """Write height and width as WIDTHxHEIGHT."""
  return f"{shape[1]}x{shape[0]}"  # width first, as image programs have it


def from_uint8(pixels: Any) -> Any:
  """Return b / 127.5 - 1 for bytes b, float32, in [-1, 1]; NumPy or JAX arrays."""
  return pixels.astype(np.float32) / 127.5 - 1.0


def to_uint8(x: np.ndarray) -> np.ndarray:
  """Return round((clip(x, -1, 1) + 1) 127.5), uint8."""
  return np.round((np.clip(np.asarray(x, np.float32), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def clipped_fraction(x: np.ndarray) -> float:
  """Return the fraction of values outside [-1, 1], which a file cannot hold."""
  return float(np.mean(np.abs(np.asarray(x)) > 1.0))


def to_pillow(x: np.ndarray) -> Image.Image:
  """Return a Pillow image of `x`, [h, w, 3] or [h, w, 1], clipped to [-1, 1]."""
  pixels = to_uint8(x)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def write(path: str | os.PathLike[str], x: np.ndarray) -> None:
  """Write a PNG, in full or not at all; `x`: [h, w, 3] or [h, w, 1], clipped to [-1, 1].

  Raises:
    ValueError: the path does not end in `.png`, or the values are not an image.
  """
  x = np.asarray(x)
  if pathlib.Path(path).suffix.lower() != ".png":
    raise ValueError(f"{path}: expected a name that ends in .png, as nothing else keeps every byte")
  if x.ndim != 3 or x.shape[-1] not in (1, 3) or not np.all(np.isfinite(x)):
    raise ValueError(f"{path}: expected finite values [h, w, 3] or [h, w, 1] to write, got {x.shape}")
  write_pillow(path, to_pillow(x))


def write_pillow(path: str | os.PathLike[str], image: Image.Image) -> None:
  """Write a Pillow image as PNG, in full or not at all."""
  with files.file(path) as partial:
    image.save(partial, format="PNG")


def png(x: np.ndarray) -> bytes:
  """Return an image `[h, w, 1 or 3]`, [-1, 1], as the contents of a PNG file."""
  data = io.BytesIO()
  to_pillow(x).save(data, format="PNG")
  return data.getvalue()
