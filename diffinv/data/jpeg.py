"""What a JPEG file holds of its picture: the whole numbers that quantization left, and the steps that they count.

A picture decoded from a file says less: it is clipped, rounded, and its chroma stretched by one of several rules. Read
are the files of cameras and programs, sequential or progressive, of 8 bits, gray or of YCbCr, where jpeglib is
installed (`pip install 'diffinv[jpeg]'`), which has libjpeg in it. The orientation of EXIF is applied to the numbers:
those of a picture that is turned are the same ones in another order, some with another sign.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from diffinv import reading
from diffinv.data import images

SCAN = 0xDA
BESIDE = (*range(0xE0, 0xF0), 0xFE)  # markers of what programs write beside a picture
# How libjpeg begins what it prints of bits that make no sense, and how it ends what makes sense all the same.
DAMAGE, HARMLESS = ("Corrupt JPEG data", "Premature end"), "extraneous bytes before marker"
STDERR = 2
LEAST_STEP = 1  # of the chroma of a gray picture, which is known to be zero
KEEP = "give the file as it was compressed, not a picture of it"
# What brings each of EXIF's orientations upright: whether to mirror left and right, above and below, and to transpose.
TURNS = {
  2: (True, False, False),
  3: (True, True, False),
  4: (False, True, False),
  5: (False, False, True),
  6: (False, True, True),
  7: (True, True, True),
  8: (True, False, True),
}


class Plane(NamedTuple):
  """The coefficients of a luma or a chroma plane, block by block."""

  numbers: np.ndarray  # [rows, columns, 8, 8], whole: coefficients of the orthonormal transform of bytes, over steps
  kept: np.ndarray  # whether the file has the block, [rows, columns]; others fill up
  steps: np.ndarray  # [8, 8], of bytes

  def turned(self, mirrored: bool, flipped: bool, transposed: bool) -> "Plane":
    """Return the plane of a picture that is mirrored and flipped, and transposed then."""
    numbers, kept, steps = self
    signs = (-1) ** np.arange(8)
    if mirrored:
      numbers, kept = numbers[:, ::-1] * signs, kept[:, ::-1]
    if flipped:
      numbers, kept = numbers[::-1] * signs[:, None], kept[::-1]
    if transposed:
      numbers, kept, steps = numbers.transpose(1, 0, 3, 2), kept.T, steps.T
    return Plane(numbers, kept, steps)


class Compressed(NamedTuple):
  """A picture as its file has it, upright."""

  planes: tuple[Plane, ...]  # luma, or luma, Cb and Cr
  sampling: tuple[int, int]  # pixels of the picture to one of chroma, down and across
  window: tuple[int, int, int, int]  # where the picture lies in what the blocks cover: top, left, height, width
  profile: bytes | None  # of its colors

  @property
  def shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the picture."""
    return (*self.window[2:], len(self.planes))

  @property
  def nbytes(self) -> int:
    """Bytes of the numbers."""
    return sum(plane.numbers.nbytes for plane in self.planes)

  def tobytes(self) -> bytes:
    """Return all numbers, to tell one picture from another."""
    said = repr((self.sampling, self.window)).encode()
    return said + b"".join(part.tobytes() for plane in self.planes for part in (plane.numbers, plane.steps))

  def turned(self, orientation: int) -> "Compressed":
    """Return the picture brought upright from one of EXIF's orientations."""
    if orientation not in TURNS:
      return self
    mirrored, flipped, transposed = TURNS[orientation]
    (rows, columns), (top, left, height, width) = self._covered(), self.window
    top, left = (rows - top - height if flipped else top), (columns - left - width if mirrored else left)
    window, sampling = (top, left, height, width), self.sampling
    if transposed:
      window, sampling = (left, top, width, height), sampling[::-1]
    planes = tuple(plane.turned(mirrored, flipped, transposed) for plane in self.planes)
    return self._replace(planes=planes, sampling=sampling, window=window)

  def colored(self) -> "Compressed":
    """Return a gray picture as one of color whose chroma is known to be zero; any other as it is."""
    if len(self.planes) > 1:
      return self
    luma = self.planes[0]
    none = Plane(np.zeros_like(luma.numbers), luma.kept, np.full_like(luma.steps, LEAST_STEP))
    return self._replace(planes=(luma, none, none))

  def gray(self) -> "Compressed":
    """Return the luma alone."""
    (top, left, height, width), luma = self.window, self.planes[0]
    return self._replace(planes=(luma,), sampling=(1, 1), window=(top, left, height, width))

  def _covered(self) -> tuple[int, int]:
    rows, columns = self.planes[0].kept.shape
    return 8 * rows, 8 * columns


def read(path: str | os.PathLike[str]) -> Compressed:
  """Read a JPEG file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is none, damaged, or of a kind that is not read; or jpeglib is missing.
  """
  path = pathlib.Path(path)
  images.decode(path)  # libjpeg goes on where a file ends early, and Pillow says so
  with images.open_image(path) as image:
    kind, mode, info, orientation = image.format, image.mode, image.info, image.getexif().get(0x0112, 1)
  if kind not in ("JPEG", "MPO"):
    raise ValueError(f"{path}: expected a JPEG file, got {kind}; {KEEP}")
  if mode not in ("L", "RGB"):
    raise ValueError(f"{path}: expected a JPEG file, gray or of YCbCr, got {images.NAMES.get(mode, mode)}; {KEEP}")
  found = _parsed(reading.read_bytes(path, most=images.MAX_BYTES), path)
  is_rgb = "jfif" not in info and info.get("adobe_transform") == 0
  if mode == "RGB" and (is_rgb or found.jpeg_color_space.name != "JCS_YCbCr"):
    raise ValueError(f"{path}: expected a JPEG file, gray or of YCbCr, got one of RGB; {KEEP}")
  _check(found, path)
  return _compressed(found)._replace(profile=info.get("icc_profile")).turned(orientation)


def _parsed(data: bytes, path: pathlib.Path) -> Any:
  """Return what jpeglib finds in a file, a `jpeglib.DCTJPEG`."""
  if importlib.util.find_spec("jpeglib") is None:
    raise ValueError(f"{path}: a JPEG file needs jpeglib, which is not installed; pip install 'diffinv[jpeg]'")
  import jpeglib  # optional

  found = None
  with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
    copy = pathlib.Path(folder) / "a.jpg"
    copy.write_bytes(_bare(data))
    with _printed_to(said), contextlib.redirect_stdout(io.StringIO()):
      try:
        found = jpeglib.read_dct(copy)
        found.load()
      except OSError as error:
        reading.raise_system_error(error, copy)
    said.seek(0)
    words = said.read().decode(errors="replace").splitlines()
  if found is None:
    kind = "a JPEG file of 8 bits and Huffman codes"
    raise ValueError(f"{path}: expected {kind}, got another ({' '.join(words[:1])}); {KEEP}")
  damage = [line for line in words if line.startswith(DAMAGE) and HARMLESS not in line]
  if damage:
    raise ValueError(f"{path}: expected a whole JPEG file, got a truncated or damaged one ({damage[0]})")
  return found


def _bare(data: bytes) -> bytes:
  """Return a file without what stands beside its picture: jpeglib has room for 50 such segments."""
  kept, at = [data[:2]], 2
  while data[at : at + 1] == b"\xff" and (marker := data[at + 1]) != SCAN:
    end = at + 1 if marker == 0xFF else at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if marker not in BESIDE:
      kept.append(data[at:end])
    at = end
  return b"".join((*kept, data[at:]))


@contextlib.contextmanager
def _printed_to(file: BinaryIO) -> Iterator[None]:
  """Send what libraries print of errors to a file."""
  if sys.stderr is not None and not sys.stderr.closed:
    sys.stderr.flush()
  try:
    kept = os.dup(STDERR)
  except OSError:  # it is closed, and nothing is printed
    yield
    return
  os.dup2(file.fileno(), STDERR)
  try:
    yield
  finally:
    os.dup2(kept, STDERR)
    os.close(kept)


def _check(found: Any, path: pathlib.Path) -> None:
  """Check that luma is the finest plane, chroma alike, and no step zero."""
  luma, *chroma = found.samp_factor.tolist()
  even = all(big % small == 0 for one in chroma for big, small in zip(luma, one, strict=True))
  if chroma and not (even and chroma[0] == chroma[1]):
    said = ", ".join(f"{across}x{down}" for down, across in (luma, *chroma))
    expected = "a JPEG file with luma as the finest plane and chroma alike"
    raise ValueError(f"{path}: expected {expected}, got planes of {said} blocks; {KEEP}")
  if not np.all(found.qt[found.quant_tbl_no]):
    raise ValueError(f"{path}: expected a whole JPEG file, got a damaged one (a step is 0)")


def _compressed(found: Any) -> Compressed:
  """Return what jpeglib found, with blocks that fill up the last units."""
  numbers = (found.Y,) if found.num_components == 1 else (found.Y, found.Cb, found.Cr)
  factors = found.samp_factor if len(numbers) > 1 else np.ones((1, 2), int)  # of a single plane they mean nothing
  units = -(-np.array([found.height, found.width]) // (8 * factors[0]))
  planes = [
    _plane(one, units * factor, found.get_component_qt(i))
    for i, (one, factor) in enumerate(zip(numbers, factors, strict=True))
  ]
  down, across = (factors[0] // factors[-1]).tolist()
  return Compressed(tuple(planes), (down, across), (0, 0, found.height, found.width), None)


def _plane(numbers: np.ndarray, shape: np.ndarray, steps: np.ndarray) -> Plane:
  rows, columns = shape - numbers.shape[:2]
  more = ((0, rows), (0, columns))
  kept = np.pad(np.ones(numbers.shape[:2], bool), more)
  return Plane(np.pad(numbers, (*more, (0, 0), (0, 0))), kept, steps.astype(int))
