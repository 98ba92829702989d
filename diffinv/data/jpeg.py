"""What a JPEG file holds of its picture: the whole numbers that quantization left, and the steps that they count.

A picture decoded from a file says less: it is clipped, rounded, and its chroma stretched by one of several rules. Read
are the files of cameras and programs, sequential or progressive, of 8 bits, gray or of YCbCr. The orientation of EXIF
is applied to the numbers: those of a picture that is turned are the same ones in another order, some with another sign.
"""

import io
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffinv import reading
from diffinv.data import images
from diffinv.data.jpeg_scans import BLOCK, CODE_BITS, MARKER, ZIGZAG, Component, Damaged, Scan, decode, huffman

SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
# Frames that are not read, by their markers.
OTHERS = {0xC3: "without loss", **dict.fromkeys((0xC9, 0xCA, 0xCB), "of arithmetic codes")}
TABLES, CODES, RESTARTS, SCAN, END, ADOBE = 0xDB, 0xC4, 0xDD, 0xDA, 0xD9, 0xEE
MOST_SCANS = 200  # progressive files have about ten
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
    ValueError: it is none, damaged, or of a kind that is not read.
  """
  path = pathlib.Path(path)
  data = reading.read_bytes(path, most=images.MAX_BYTES)
  try:
    with Image.open(io.BytesIO(data), formats=images.formats.FORMATS) as image:
      kind, size, mode = image.format, image.size, image.mode
      orientation, profile = image.getexif().get(0x0112, 1), image.info.get("icc_profile")
  except images.DECODING_ERRORS:
    kind, size, mode, orientation, profile = "something else", (0, 0), "", 1, None
  if kind not in ("JPEG", "MPO"):
    raise ValueError(f"{path}: expected a JPEG file, got {kind}; {KEEP}")
  if size[0] * size[1] > images.MAX_PIXELS:
    raise ValueError(f"{path}: expected at most {images.MAX_PIXELS} pixels, got {size[0]}x{size[1]}")
  if mode not in ("L", "RGB"):
    raise ValueError(f"{path}: expected a JPEG file, gray or of YCbCr, got {images.NAMES.get(mode, mode)}; {KEEP}")
  try:
    return _File(data).compressed()._replace(profile=profile).turned(orientation)
  except (Damaged, IndexError, KeyError, OverflowError, struct.error) as error:
    raise ValueError(f"{path}: expected a whole JPEG file, got a truncated or damaged one ({error})") from None
  except _NotRead as error:
    raise ValueError(f"{path}: expected a JPEG file of 8 bits, gray or of YCbCr, got one {error}") from None


class _NotRead(Exception):
  """A file is of a kind that is not read."""


class _File:
  """A file as far as it has been read."""

  def __init__(self, data: bytes):
    self._data = data
    self._tables: dict[int, tuple[int, ...]] = {}  # of steps, row after row
    self._codes: dict[int, list[int]] = {}  # by class and number
    self._components: list[Component] = []
    self._restart = self._scans = 0
    self._size = self._units = self._most = (0, 0)  # pixels, units; blocks of a unit: across and down
    self._is_rgb = False

  def compressed(self) -> Compressed:
    """Read all segments; return what they hold, as it is stored."""
    for marker, body, after in _segments(self._data):
      if marker == TABLES:
        self._read_tables(body)
      elif marker == CODES:
        self._read_codes(body)
      elif marker == RESTARTS:
        (self._restart,) = struct.unpack(">H", body)
      elif marker == ADOBE and body.startswith(b"Adobe"):
        self._is_rgb = body[11] == 0
      elif marker in (*SEQUENTIAL, PROGRESSIVE):
        self._read_frame(body)
      elif marker in OTHERS:
        raise _NotRead(OTHERS[marker])
      elif marker == SCAN:
        self._read_scan(body, after)
    if not self._components or any(one.steps is None for one in self._components):
      raise Damaged("a table of steps, or a scan, is missing")
    return self._found()

  def _read_tables(self, body):
    while body:
      wide, number = body[0] >> 4, body[0] & 15
      length = BLOCK * (1 + wide)
      steps = struct.unpack(f">{BLOCK}{'H' if wide else 'B'}", body[1 : 1 + length])
      table = [0] * BLOCK
      for place, step in zip(ZIGZAG, steps, strict=True):
        table[place] = step
      if 0 in table:
        raise Damaged("a step is 0")
      self._tables[number], body = tuple(table), body[1 + length :]

  def _read_codes(self, body):
    while body:
      counts = body[1 : 1 + CODE_BITS]
      end = 1 + CODE_BITS + sum(counts)
      self._codes[body[0]], body = huffman(counts, body[1 + CODE_BITS : end]), body[end:]

  def _read_frame(self, body):
    bits, height, width, count = struct.unpack(">BHHB", body[:6])
    if bits != 8:
      raise _NotRead(f"of {bits} bits")
    if count not in (1, 3) or (count == 3 and self._is_rgb) or body[6::3] == b"RGB":
      raise _NotRead("of RGB" if count == 3 else f"of {count} planes")
    if self._components or 0 in (height, width):
      raise Damaged("its size stands elsewhere" if not self._components else "it has two frames")
    found = [(body[i], body[i + 1] >> 4, body[i + 1] & 15, body[i + 2]) for i in range(6, 6 + 3 * count, 3)]
    if count == 1:  # its factors mean nothing
      found = [(found[0][0], 1, 1, found[0][3])]
    self._components = [Component(*one) for one in found]
    most = self._most = (max(one.across for one in self._components), max(one.down for one in self._components))
    self._size = (width, height)
    self._units = (_parts(width, 8 * most[0]), _parts(height, 8 * most[1]))
    self._check_sampling()
    for one in self._components:
      columns, rows = _parts(width * one.across, most[0]), _parts(height * one.down, most[1])
      one.allot(_parts(columns, 8), _parts(rows, 8), self._units)

  def _check_sampling(self):
    luma, *chroma = self._components
    factors = {(one.across, one.down) for one in chroma}
    said = ", ".join(f"{one.across}x{one.down}" for one in self._components)
    even = all(big % small == 0 for one in factors for big, small in zip(self._most, one, strict=True))
    if len(factors) > 1 or (luma.across, luma.down) != self._most or not even:
      raise _NotRead(f"with planes of {said} blocks, where luma should be the finest and chroma alike")

  def _read_scan(self, body, after):
    self._scans += 1
    if self._scans > MOST_SCANS:
      raise Damaged(f"more than {MOST_SCANS} scans")
    by_number = {one.number: one for one in self._components}
    chosen = [(by_number[body[i]], body[i + 1]) for i in range(1, 1 + 2 * body[0], 2)]
    first, last, bits = body[1 + 2 * body[0] :][:3]
    for one, _ in chosen:
      one.steps = one.steps or self._tables[one.table]
    constant = [self._codes.get(codes >> 4, []) for _, codes in chosen]
    others = [self._codes.get(0x10 | codes & 15, []) for _, codes in chosen]
    scan = Scan([one for one, _ in chosen], constant, others, first, last, bits >> 4, bits & 15)
    if last >= BLOCK or first > last or (first and len(chosen) > 1):
      raise Damaged("a scan of no coefficients")
    end = MARKER.search(self._data, after)
    decode(scan, self._data[after : end.start() if end else None], self._restart, self._units)

  def _found(self):
    (width, height), (across, down) = self._size, self._most
    planes = tuple(map(_plane, self._components))
    chroma = self._components[-1]
    return Compressed(planes, (down // chroma.down, across // chroma.across), (0, 0, height, width), None)


def _parts(length: int, size: int) -> int:
  """Return how many parts of a size cover a length."""
  return -(-length // size)


def _plane(one: Component) -> Plane:
  numbers = np.frombuffer(one.values, np.intc).reshape(-1, one.stride, 8, 8).astype(np.int16)
  rows, columns = (np.arange(n) for n in numbers.shape[:2])
  kept = (rows[:, None] < one.rows) & (columns < one.columns)
  return Plane(numbers, kept, np.reshape(one.steps or (), (8, 8)))


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
  """Give the marker of each segment, its contents, and where it ends; the first picture's alone."""
  at = 2
  while at < len(data):
    if data[at] != 0xFF:  # bits of a scan that was read, or padding
      at = _next_marker(data, at)
      continue
    marker = data[at + 1]
    if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD7:
      at += 1 if marker == 0xFF else 2
      continue
    if marker == END:
      return
    (length,) = struct.unpack(">H", data[at + 2 : at + 4])
    yield marker, data[at + 4 : at + 2 + length], at + 2 + length
    at += 2 + length
  raise Damaged("it ends early")


def _next_marker(data: bytes, at: int) -> int:
  found = MARKER.search(data, at)
  return found.start() if found else len(data)
