"""Picture files to arrays in [-1, 1] and back, and the size of pictures. NumPy on the host.

Nothing is resized or rescaled unless the caller asks, and nothing is converted without a line that says so. Reading
maps the byte b to b / 127.5 - 1. The orientation of EXIF, XMP and TIFF is applied, and an embedded color profile:
values are those of sRGB. Writing clips to [-1, 1], rounds to the nearest byte and says that it is sRGB. It never
stretches the range, so a metric of the file is a metric of the picture.

A picture may be a `.npy` file, too: floats, [h, w, c], [-1, 1].
"""

import contextlib
import functools
import io
import math
import os
import pathlib
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from diffinv import errors, files, progress, reading
from diffinv.data import formats, profiles, ranges
from diffinv.data.arrays import DECODING_ERRORS, read_array

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
  "CMYK": "CMYK, the inks of a print",
  "I": "32-bit integer grayscale",
  "F": "32-bit float grayscale",
}
UNBOUNDED = ("I", "F")  # modes of which no file says what is black and what is white
DNG_VERSION = 50706  # the tag of a RAW file that is a TIFF
FITS = ("none", "crop", "resize")
# Of what Pillow says: what tells that a file is damaged, and that what lies beside the pixels is a bomb.
DAMAGE = re.compile(
  r"truncat|broken|corrupt|damag|invalid|unrecognized|overrun|not enough|create decoder|next frame|decoder error -[12]",
  re.IGNORECASE,
)
DEEP = re.compile(r";16(L|B|N|S|BS|NS)$")  # how Pillow's names of raw modes of 16 bits end
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
      found += _inside(path, name)
    else:
      found.append(reading.require_file(path))
  if not found:
    raise ValueError(f"{name}: expected a file, several, or a folder, got nothing")
  return found


def _inside(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Return the image files of a folder, and say in one note which entries are none."""
  entries = sorted(folder.iterdir())
  inside = [path for path in entries if formats.is_listed(path, arrays=True)]
  others = formats.left_out(folder, [path.name for path in entries if path not in set(inside)])
  if not inside:
    known = ", ".join(formats.endings(arrays=True))
    raise ValueError(
      f"{name}: expected image files ({known}) in the folder {folder}, found none; {others or 'name another'}"
    )
  if others is not None:
    progress.note(others)
  return inside


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


@functools.cache
def note_once(words: str) -> None:
  """Print a note, once however often a file is read."""
  progress.note(words)


def read(path: str | os.PathLike[str], *, mode: str = "RGB", convert: bool = False) -> np.ndarray:
  """Read an image.

  Args:
    path: a file that Pillow reads, of `formats.FORMATS`, or `.npy`.
    mode: "RGB" or "L" (grayscale): what the file must hold. Grayscale is taken for RGB, too, and RGB of three equal
      channels for grayscale; a note says so.
    convert: accept other modes too: alpha is laid over white, palettes are looked up, 16 bits become 8, RGB becomes
      luminance, inks become RGB, and an animation becomes its first frame.

  Returns:
    float32, [h, w, 3] or [h, w, 1], [-1, 1], in sRGB.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not an image, or of another mode; the message says what to do.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == ".npy":
    return _read_array(path, CHANNELS[mode])
  image = decode(path)
  kind = kind_of(image)
  if not convert and kind != NAMES[mode]:
    if kind != NAMES["L"] and not (kind == NAMES["RGB"] and _has_equal_channels(image)):
      _check_bounded(image, path)
      raise ValueError(f"{path}: expected {NAMES[mode]}, got {kind}; save it as {NAMES[mode]} or pass `convert`")
    note_once(f"{path}: three equal channels are taken as gray") if mode == "L" else note_gray()
  tell = lambda words: note_once(f"{path}: {words}")
  pixels = from_uint8(np.asarray(_converted(image, mode, path, tell), np.uint8))
  return pixels.reshape(*pixels.shape[:2], CHANNELS[mode])


def _has_equal_channels(image: Image.Image) -> bool:
  red, green, blue = image.split()
  return red.tobytes() == green.tobytes() == blue.tobytes()


def note_gray() -> None:
  """Say once that gray pictures are taken as color ones."""
  note_once("grayscale pictures are taken as color ones of three equal channels")


def read_rgb(path: str | os.PathLike[str], *, tell: Callable[[str], Any] | None = None) -> Image.Image:
  """Read a picture of any kind that `read` can convert, as a Pillow image of 8-bit RGB.

  Args:
    path: of the file.
    tell: called with what is done to "its colors", if anything; None to take them as sRGB whatever the file says.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, not an image, or too large.
  """
  return _converted(decode(pathlib.Path(path)), "RGB", pathlib.Path(path), tell)


def _read_array(path: pathlib.Path, channels: int) -> np.ndarray:
  """Read a picture from a `.npy` file; gray ones, [h, w] or [h, w, 1], get as many channels as are expected."""
  array = read_array(path, channels=channels, gray=True)
  if array.shape[-1] == 1 != channels:
    note_gray()
    array = np.repeat(array, channels, axis=-1)
  low, high = float(array.min()), float(array.max())
  doubt = ranges.doubt(array)
  if low < -1.0 or high > 1.0:
    raise ValueError(f"{path}: expected values in [-1, 1], got [{low:g}, {high:g}]; {doubt or 'rescale them'}")
  if doubt is not None:
    note_once(f"{path}: {doubt}")
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
  """Open a picture without decoding it yet; see `decode`.

  Raises:
    Unreadable: it is a picture of a kind that cannot be read.
  """
  with reading.open_file(path, most=MAX_STRIP_BYTES if written else MAX_BYTES) as file:
    # Pillow's own limit, about that of a photograph, does not apply to the opener of a single format.
    image = PngImagePlugin.PngImageFile(file) if written else formats.open_file(file, path)
    yield image


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
    except formats.Unreadable:
      raise
    except Image.UnidentifiedImageError:
      raise ValueError(f"{path}: expected an image, got {formats.unidentified(path)}") from None
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
  raw = any(isinstance(a, str) and DEEP.search(a) for a in args)
  return raw or (tile.codec_name.startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255)


def kind_of(image: Image.Image) -> str:
  """Return in words what a decoded file holds."""
  if image.info["several"]:
    return "an animation or several pages"
  if image.info["deep"] or image.mode.startswith("I;16"):
    return "16-bit " + ("grayscale" if image.mode.startswith("I") else image.mode)
  if "transparency" in image.info and image.mode in ("RGB", "L"):
    return f"{NAMES[image.mode]} with a transparent color"
  return NAMES.get(image.mode, image.mode)


def _check_bounded(image: Image.Image, path: pathlib.Path) -> None:
  """Check that it is known which values of a picture are black and white."""
  if image.mode == "F" or (image.mode == "I" and not image.info["deep"]):
    low, high = image.getextrema()
    raise ValueError(
      f"{path}: expected 8 or 16 bits, got {NAMES[image.mode]} from {low:g} to {high:g}, and nothing says what is "
      "black and white; scale the values to [-1, 1] and save them with numpy.save"
    )


def _converted(image: Image.Image, mode: str, path: pathlib.Path, tell: Callable[[str], Any] | None) -> Image.Image:
  """Return a decoded picture in a mode, and in sRGB unless there is nobody to `tell`."""
  _check_bounded(image, path)
  image = _of_8_bits(image, path)
  if image.has_transparency_data:
    image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
  elif image.mode == "P":
    image = image.convert("RGB")
  if tell is not None:
    image = profiles.to_srgb(image, tell)
  if image.mode in ("LA", "RGBA"):
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
  return image if image.mode == mode else image.convert("RGB").convert(mode)


def _of_8_bits(image: Image.Image, path: pathlib.Path) -> Image.Image:
  """Return a picture with 16-bit gray values rounded to 8 bits; any other as it is."""
  if not image.mode.startswith("I"):
    return image
  values = np.asarray(image, np.int64)
  if values.min() < 0 or values.max() > 65535:
    raise ValueError(
      f"{path}: expected 16 bits from 0 to 65535, got {values.min()} to {values.max()}; save it as 8-bit grayscale"
    )
  found = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
  found.info["icc_profile"] = image.info.get("icc_profile")
  return found


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
    image.save(partial, format="PNG", pnginfo=_srgb())


def png(x: np.ndarray) -> bytes:
  """Return an image `[h, w, 1 or 3]`, [-1, 1], as the contents of a PNG file."""
  data = io.BytesIO()
  to_pillow(x).save(data, format="PNG", pnginfo=_srgb())
  return data.getvalue()


def _srgb() -> PngImagePlugin.PngInfo:
  """Return the chunk that says that colors are those of sRGB, to be shown as photographs are (PNG, 11.3.2.5)."""
  info = PngImagePlugin.PngInfo()
  info.add(b"sRGB", b"\0")
  return info
