"""Image files to arrays in [-1, 1] and back; masks and blur kernels. NumPy on the host.

Nothing is converted, resized or rescaled unless the caller asks. Reading maps the byte b to b / 127.5 - 1. EXIF
orientation is applied, color profiles are ignored (bytes are taken as sRGB). Writing clips to [-1, 1] and rounds to
the nearest byte; it never stretches the range, so that a metric of the file is a metric of the picture.

Arrays come as `.npy` as well: float, [h, w, c], [-1, 1]; objects are refused.
"""

import io
import math
import os
import pathlib
import struct
import warnings
import zlib
from typing import Sequence

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from diffinv import errors, output

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
MAX_PIXELS = 64_000_000  # a larger picture is more likely a decompression bomb than something to restore
MAX_STRIP_PIXELS = 16 * MAX_PIXELS  # of many pictures side by side in a file that this program wrote
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
# What Pillow may take a file for, whatever its name is: formats of pictures alone. EPS would be run by Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF")
FITS = ("none", "crop", "resize")
# What Pillow raises on bytes that are not what their header says.
DECODING_ERRORS = (
  *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
  *(struct.error, zlib.error),
)


def collect(paths: Sequence[str], *, name: str = "input") -> list[pathlib.Path]:
  """List the image files that paths name.

  Args:
    paths: files, folders (their image files, sorted by name) and comma-separated lists of both.
    name: of the argument, for messages.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: a folder holds no image file, or nothing was named.
  """
  found = []
  for path in _split(paths):
    if path.is_dir():
      inside = sorted(p for p in path.iterdir() if _is_listed(p))
      if not inside:
        raise ValueError(f"{name}: expected image files ({', '.join(EXTENSIONS)}) in the folder {path}, found none")
      found += inside
    else:
      _require_file(path)
      found.append(path)
  if not found:
    raise ValueError(f"{name}: expected a file, several, or a folder, got nothing")
  return found


def _is_listed(path: pathlib.Path) -> bool:
  """Tell whether a folder's entry is an image by its name; hidden files and folders are none."""
  return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and not path.is_dir()


def _split(paths: Sequence[str]) -> list[pathlib.Path]:
  """Split lists at commas, except where the whole is a file: names may hold commas."""
  parts = []
  for path in paths:
    # Not pathlib's: it raises where a list is longer than a name may be.
    parts += [path] if path and os.path.exists(path) else [part for part in path.split(",") if part]
  return [pathlib.Path(part) for part in parts]


def mode_of(channels: int) -> str:
  """Return the mode of image files of so many channels.

  Raises:
    ValueError: there is none.
  """
  for mode, count in CHANNELS.items():
    if count == channels:
      return mode
  raise ValueError(f"channels: expected {' or '.join(map(str, CHANNELS.values()))} of an image file, got {channels}")


def read(path: str | pathlib.Path, *, mode: str = "RGB", convert: bool = False) -> np.ndarray:
  """Read an image.

  Args:
    path: a file of one of FORMATS, or `.npy`.
    mode: "RGB" or "L" (grayscale): what the file must hold.
    convert: take other modes too: alpha is laid over white, palettes are looked up, 16 bits become 8, gray becomes
      RGB and RGB becomes luminance, and of an animation the first frame is taken.

  Returns:
    float32, [h, w, 3] or [h, w, 1], [-1, 1].

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, no image, or of another mode; the message says what to do.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == ".npy":
    return _check_range(read_array(path, channels=CHANNELS[mode]), path)
  image = _decode(path)
  kind = _kind(image)
  if kind != NAMES[mode]:
    if not convert:
      raise ValueError(f"{path}: expected {NAMES[mode]}, got {kind}; save it as {NAMES[mode]} or pass --convert")
    image = _converted(image, mode, path)
  pixels = from_uint8(np.asarray(image, np.uint8))
  return pixels.reshape(*pixels.shape[:2], CHANNELS[mode])


def read_rgb(path: str | pathlib.Path) -> Image.Image:
  """Read a picture of any kind that `read` converts, of 8 bits, as a Pillow image.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, no image, or too large.
  """
  image = _decode(pathlib.Path(path))
  return image if _kind(image) == NAMES["RGB"] else _converted(image, "RGB", pathlib.Path(path))


def read_array(path: str | pathlib.Path, *, channels: int | None = None) -> np.ndarray:
  """Read a `.npy` file of finite floats, [h, w, c], any range (measurements need not be images); float32.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such array, has not that many `channels`, or holds NaN or infinity.
  """
  array = _load_npy(path)
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


def _load_npy(path: str | pathlib.Path) -> np.ndarray:
  path = _require_file(path)
  try:
    # Mapped first: a damaged header may promise more than there is, and more than there is memory for.
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    array = np.array(array) if isinstance(array, np.ndarray) else array
  except PermissionError:
    raise
  except DECODING_ERRORS as error:
    raise ValueError(
      f"{path}: expected a .npy array of numbers, got a damaged or other file ({errors.brief(error)})"
    ) from None
  if not isinstance(array, np.ndarray):
    array.close()
    raise ValueError(f"{path}: expected a .npy array of numbers, got an archive of several; save one with numpy.save")
  return array


def _load_real(path: str | pathlib.Path) -> np.ndarray:
  array = _load_npy(path)
  if array.dtype.kind not in "biuf":
    raise ValueError(f"{path}: expected a .npy array of numbers, real ones, got {array.dtype}; convert it to float32")
  return array


def _check_range(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
  low, high = float(array.min()), float(array.max())
  if low < -1.0 or high > 1.0:
    raise ValueError(f"{path}: expected values in [-1, 1], got [{low:g}, {high:g}]; rescale them")
  return array


def _require_file(path: str | pathlib.Path) -> pathlib.Path:
  path = pathlib.Path(path)
  if path.is_dir():
    raise ValueError(f"{path}: expected a file, got a folder")
  if not path.is_file():
    raise FileNotFoundError(f"{path}: expected a file, found nothing there; check the path")
  return path


def read_written(path: str | pathlib.Path) -> Image.Image:
  """Read a PNG that this program wrote, perhaps many pictures side by side, as a Pillow image; gray becomes RGB.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, no PNG, or larger than anything that this program writes.
  """
  image = _decode(pathlib.Path(path), written=True)
  return image if image.mode == "RGB" else image.convert("RGB")  # without a copy: a strip may take gigabytes


def open_image(path: pathlib.Path) -> Image.Image:
  """Open a picture of one of FORMATS, of which nothing is decoded yet."""
  return Image.open(path, formats=FORMATS)


def _decode(path: pathlib.Path, *, written: bool = False) -> Image.Image:
  """Open and decode the whole file, so that damage shows here, and turn it upright; see `read_written`."""
  # The opener of one format does without Pillow's own limit, which is about that of photographs.
  opened, most = (PngImagePlugin.PngImageFile, MAX_STRIP_PIXELS) if written else (open_image, MAX_PIXELS)
  _require_file(path)
  with warnings.catch_warnings():
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
      image = opened(path)
      if math.prod(image.size) > most:
        raise Image.DecompressionBombError(f"{image.width}x{image.height}")
      image.info["deep"] = any(_is_deep(tile) for tile in image.tile)
      # Phones keep a second picture, such as a depth map, behind the JPEG (MPO): the first is the photograph.
      image.info["frames"] = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
      image.load()
      return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
      raise ValueError(f"{path}: expected at most {most} pixels, got more ({error}); scale it down") from None
    except Image.UnidentifiedImageError:
      raise ValueError(f"{path}: expected an image, got a file that is none, or of an unknown format") from None
    except PermissionError:
      raise
    except DECODING_ERRORS as error:
      raise ValueError(
        f"{path}: expected a whole image, got a truncated or damaged file ({errors.brief(error)})"
      ) from None


def _is_deep(tile) -> bool:
  """Tell 16 bits a channel, which Pillow silently cuts to 8 where there are several channels."""
  args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
  raw = any(isinstance(a, str) and a.endswith((";16B", ";16L", ";16N")) for a in args)
  return raw or (tile.codec_name.startswith("ppm") and isinstance(args[-1], int) and args[-1] > 255)


def _kind(image: Image.Image) -> str:
  """Name what the file holds, in words."""
  if image.info["frames"] > 1:
    return f"an animation or several pages ({image.info['frames']} frames)"
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


def read_mask(path: str | pathlib.Path, *, threshold: int | None = None) -> np.ndarray:
  """Read a mask: white pixels are kept, black ones are missing.

  Args:
    path: a grayscale or black-and-white image of 0 and 255 only, or a `.npy` of 0 and 1, [h, w] or [h, w, 1].
    threshold: in 1 .. 255; take any gray, and keep the pixels that are at least this bright.

  Returns:
    Kept pixels, float32, [h, w, 1], 0 or 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds other values, or keeps no pixel.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == ".npy":
    values = np.asarray(_load_real(path), np.float32) * np.float32(255.0)
  else:
    image = _decode(path)
    if _kind(image) not in (NAMES["1"], NAMES["L"]):
      raise ValueError(f"{path}: expected a grayscale mask, got {_kind(image)}; save it as {NAMES['L']}")
    values = np.asarray(image.convert("L"), np.float32)
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
      "pass --mask_threshold=128 to round them"
    )
  if not values.any():
    raise ValueError(f"{path}: expected a mask that keeps some pixels, got one that keeps none; white is kept")
  return (values / 255.0)[..., None]


def read_kernel(path: str | pathlib.Path) -> np.ndarray:
  """Read a blur kernel and divide it by its sum.

  Args:
    path: a grayscale image of 8 or 16 bits, or a `.npy` of floats, [h, w]; odd height and width, so that it has a
      center.

  Returns:
    float32, [h, w], of sum 1.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a kernel.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == ".npy":
    values = _load_real(path)
  else:
    image = _decode(path)
    if _kind(image) not in (NAMES["L"], "16-bit grayscale"):
      raise ValueError(f"{path}: expected a grayscale kernel, got {_kind(image)}; save it as 8- or 16-bit grayscale")
    values = np.asarray(image)
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or values.shape[0] % 2 == 0 or values.shape[1] % 2 == 0:
    raise ValueError(
      f"{path}: expected a kernel of odd height and width, got shape {values.shape}; pad it to odd sizes"
    )
  if not np.all(np.isfinite(values)) or values.sum() <= 0:
    raise ValueError(f"{path}: expected finite values of positive sum, got a sum of {values.sum():g}")
  return (values / values.sum()).astype(np.float32)


def parse_size(text: str) -> tuple[int, int]:
  """Read "N" or "WxH" (width first, as image programs have it) as (height, width), pixels.

  Raises:
    ValueError: it is neither, or not positive.
  """
  parts = text.lower().split("x")
  if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
    raise ValueError(f"size: expected N or WIDTHxHEIGHT in pixels, got {text!r}")
  return int(parts[-1]), int(parts[0])


def target_size(
  have: tuple[int, int], allowed: Sequence[int | None], multiple: int, wanted: tuple[int, int] | None
) -> tuple[int, int]:
  """Choose the size to bring an image to: the wanted one, or the largest that is allowed and not larger than it.

  Args:
    have: height and width of the image, pixels.
    allowed: height and width that the prior takes, None for any multiple of `multiple`.
    multiple: pixels.
    wanted: height and width asked for, or None.

  Raises:
    ValueError: the wanted size is not allowed, or the image is smaller than the smallest one.
  """
  best = tuple(fixed or n // multiple * multiple for fixed, n in zip(allowed, wanted or have))
  if wanted is not None and best != wanted:
    rule = f"multiples of {multiple}" if None in allowed else by(best)
    raise ValueError(f"size: expected {rule} pixels, got {by(wanted)}; choose another --size")
  if 0 in best:
    raise ValueError(f"expected at least {multiple}x{multiple} pixels, got {by(have)}; pass --size and --fit=resize")
  return best


def fit(x: np.ndarray, size: tuple[int, int], how: str) -> np.ndarray:
  """Bring an image to a size: cut its center out ("crop"), or scale it to cover the size first ("resize").

  Args:
    x: [h, w, c], [-1, 1].
    size: height and width, pixels.
    how: of FITS; "none" takes only images that have the size.

  Raises:
    ValueError: the image does not have the size, or is too small to cut it out.
  """
  height, width = x.shape[:2]
  if (height, width) == size:
    return x
  if how == "none":
    raise ValueError(f"expected {by(size)} pixels, got {by(x.shape)}; pass --fit=crop or --fit=resize")
  if how == "resize":
    ratio = max(size[0] / height, size[1] / width)
    x = _resized(x, (max(size[0], round(height * ratio)), max(size[1], round(width * ratio))))
    height, width = x.shape[:2]
  if height < size[0] or width < size[1]:
    raise ValueError(f"expected at least {by(size)} pixels to crop, got {by(x.shape)}; pass --fit=resize")
  top, left = (height - size[0]) // 2, (width - size[1]) // 2
  return x[top : top + size[0], left : left + size[1]]


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resize with Lanczos' filter, antialiased; its overshoots are clipped to [-1, 1]."""
  planes = [Image.fromarray(np.ascontiguousarray(x[..., c])) for c in range(x.shape[-1])]
  scaled = [np.asarray(plane.resize(size[::-1], Image.Resampling.LANCZOS)) for plane in planes]
  return np.clip(np.stack(scaled, axis=-1), -1.0, 1.0)


def by(shape: Sequence[int]) -> str:
  """Write height and width as WIDTHxHEIGHT."""
  return f"{shape[1]}x{shape[0]}"  # width first, as image programs have it


def from_uint8(pixels):
  """Return b / 127.5 - 1 for bytes b, float32, in [-1, 1]; NumPy or JAX arrays."""
  return pixels.astype(np.float32) / 127.5 - 1.0


def to_uint8(x: np.ndarray) -> np.ndarray:
  """Return round((clip(x, -1, 1) + 1) 127.5), uint8."""
  return np.round((np.clip(np.asarray(x, np.float32), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def clipped_fraction(x: np.ndarray) -> float:
  """Return the fraction of values outside [-1, 1], which a file cannot hold."""
  return float(np.mean(np.abs(np.asarray(x)) > 1.0))


def to_pillow(x: np.ndarray) -> Image.Image:
  """Return a Pillow image of `x`, [h, w, 3] or [h, w, 1], [-1, 1] and clipped to it."""
  pixels = to_uint8(x)
  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def write(path: str | pathlib.Path, x: np.ndarray) -> None:
  """Write a PNG, in full or not at all; `x`: [h, w, 3] or [h, w, 1], [-1, 1] and clipped to it.

  Raises:
    ValueError: the path does not end in `.png`, or the values are no image.
  """
  x = np.asarray(x)
  if pathlib.Path(path).suffix.lower() != ".png":
    raise ValueError(f"{path}: expected a name that ends in .png, as nothing else keeps every byte")
  if x.ndim != 3 or x.shape[-1] not in (1, 3) or not np.all(np.isfinite(x)):
    raise ValueError(f"{path}: expected finite values [h, w, 3] or [h, w, 1] to write, got {x.shape}")
  write_pillow(path, to_pillow(x))


def write_pillow(path: str | pathlib.Path, image: Image.Image) -> None:
  """Write a Pillow image as PNG, in full or not at all."""
  with output.file(path) as partial:
    image.save(partial, format="PNG")


def png(x: np.ndarray) -> bytes:
  """Return an image `[h, w, 1 or 3]`, [-1, 1], as the contents of a PNG file."""
  data = io.BytesIO()
  to_pillow(x).save(data, format="PNG")
  return data.getvalue()
