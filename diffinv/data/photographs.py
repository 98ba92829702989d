"""Photographs that packages of Debian and of Python carry: the set `photographs`, to train on and to test with.

`photographs.csv` lists each file with its author and license, and docs/photos.md says how to get them. No author of a
picture to validate or to test with has one among those to train on.

A picture is averaged down from its full size, which takes noise, compression and the camera's sharpening away.
"""

import concurrent.futures
import csv
import functools
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffinv import files, stopping
from diffinv.data import images, photos
from diffinv.data.cache import Cache

TABLE = pathlib.Path(__file__).with_name("photographs.csv")
TRAINING, VALIDATION, TEST = SPLITS = ("training", "validation", "test")
ROOTS = "DIFFINV_PHOTOGRAPHS"  # the variable of the environment that names folders of unpacked packages
ADVICE = f"get them as docs/photos.md says, and let the variable {ROOTS} name the folder"
# Pixels are averaged as a sensor of larger ones would: in proportion to the light, not to the numbers in the file.
LINEAR = True
MAX_DOWNSCALE = 8.0  # of what is left after the first reduction, for crops
FACTORS = (8, 4, 2, 1)  # the same, of pictures to validate and to test with
STRIP = 64  # rows averaged at once: floats of a whole photograph take a gigabyte
READERS = 4  # threads; each holds a photograph of up to 25 megapixels


class Photograph(NamedTuple):
  """A row of the table."""

  package: str  # of Debian or of the Python Package Index
  file: str  # in the package
  author: str
  license: str
  split: str  # of SPLITS
  reduction: int  # factor by which it is averaged down, for a shorter side of about 1000 pixels, at least 2
  weight: float  # share of the crops, relative to the others
  sha256: str  # of the file: of another version of a package it may be another

  @property
  def stem(self) -> str:
    """A short name: that of the file or, where all files of a package have the same, of its folder."""
    path = pathlib.PurePath(self.file)
    return path.parts[3] if path.parts[2] == "wallpapers" else path.stem


@functools.cache
def table(split: str | None = None) -> tuple[Photograph, ...]:
  """Return the photographs of a split, or all."""
  with open(TABLE, newline="", encoding="utf-8") as opened:
    _, *rows = csv.reader(opened)
  found = [
    Photograph(package, file, author, terms, part, int(reduction), float(weight), sha256)
    for package, file, author, terms, part, reduction, weight, sha256 in rows
  ]
  return tuple(photograph for photograph in found if split in (None, photograph.split))


# Files


def locate(wanted: Sequence[Photograph]) -> list[pathlib.Path]:
  """Return the file of each photograph: unpacked below a folder that ROOTS names, or as installed.

  Raises:
    ValueError: some are missing, or of another version of their package.
  """
  found = {photograph: _find(photograph) for photograph in wanted}
  if None in found.values():
    missing = sorted({photograph.package for photograph in table() if _find(photograph) is None})
    raise ValueError(
      f"data: 'photographs' needs the packages {', '.join(missing)}, of which files are missing; {ADVICE}"
    )
  paths = {photograph: path for photograph, path in found.items() if path is not None}
  for photograph, path in paths.items():
    if files.digest(path) != photograph.sha256:
      raise ValueError(
        f"data: expected {path} as {photograph.package} has it in docs/photos.md, got another version; {ADVICE}"
      )
  return [paths[photograph] for photograph in wanted]


def _find(photograph: Photograph) -> pathlib.Path | None:
  named = [pathlib.Path(root) for root in os.environ.get(ROOTS, "").split(os.pathsep) if root]
  places = [place for root in named for place in (root / photograph.package, root)]
  top, _, _ = photograph.file.partition("/")
  installed = pathlib.Path("/") if top == "usr" else _python_packages(top)
  places += [] if installed is None else [installed]
  return next((place / photograph.file for place in places if (place / photograph.file).is_file()), None)


def _python_packages(name: str) -> pathlib.Path | None:
  spec = importlib.util.find_spec(name)
  return None if spec is None or spec.origin is None else pathlib.Path(spec.origin).parents[1]


# Pixels


def average(pixels: np.ndarray, factor: int, *, linear: bool = LINEAR) -> np.ndarray:
  """Average squares of `factor` pixels; what is left over at the edges is dropped.

  Args:
    pixels: uint8, [h, w, c].
    factor: at least 1.
    linear: average the light, which sRGB encodes, and not the numbers.

  Returns:
    uint8, [h // factor, w // factor, c].
  """
  if factor == 1:
    return pixels
  values = np.arange(256, dtype=np.float32) / np.float32(255.0)
  light = _decoded(values) if linear else values
  height, width = (n // factor for n in pixels.shape[:2])
  out = np.empty((height, width, pixels.shape[2]), np.uint8)
  for top in range(0, height, STRIP):
    strip = pixels[top * factor : (top + STRIP) * factor][: (height - top) * factor, : width * factor]
    sums = sum(light[strip[i::factor, j::factor]] for i in range(factor) for j in range(factor))
    means = np.asarray(sums, np.float32) / np.float32(factor**2)
    out[top : top + STRIP] = np.rint(np.float32(255.0) * (_encoded(means) if linear else means))
  return out


def _decoded(values: np.ndarray) -> np.ndarray:
  """Return the light of sRGB values, both in [0, 1]; IEC 61966-2-1."""
  return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _encoded(light: np.ndarray) -> np.ndarray:
  """Return the sRGB values of light, both in [0, 1]; IEC 61966-2-1."""
  return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** np.float32(1 / 2.4) - 0.055).astype(np.float32)


def read(split: str, cache: Cache, *, linear: bool = LINEAR) -> dict[Photograph, np.ndarray]:
  """Return the photographs of a split, each averaged down by its `reduction`, uint8, [h, w, 3].

  Raises:
    ValueError: some are missing, or of another version of their package.
  """
  wanted = table(split)
  paths = locate(wanted)

  def one(photograph: Photograph, path: pathlib.Path) -> np.ndarray:
    stopping.check()
    make = lambda: average(np.asarray(images.read_rgb(path), np.uint8), photograph.reduction, linear=linear)
    return cache.array(_key(photograph, linear), make)

  with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
    return dict(zip(wanted, pool.map(one, wanted, paths)))


def _key(photograph: Photograph, linear: bool) -> str:
  return f"{photograph.sha256[:32]}-{photograph.reduction}-{'linear' if linear else 'display'}"


def crops(
  *, size: int, seed: int, augment: float, cache: Cache, candidates: int = 1, linear: bool = LINEAR
) -> photos.Crops:
  """Return random crops of the photographs to train on, at random scales; see `photos.Crops`.

  Raises:
    ValueError: photographs are missing, or all are smaller than a crop.
  """
  found = []
  for photograph, pixels in read(TRAINING, cache, linear=linear).items():
    shapes = photos.pyramid_sizes(pixels.shape[:2], size, MAX_DOWNSCALE)
    level = functools.partial(_level, cache, photograph, pixels, linear)
    found.append((photograph.weight, [level(shape) for shape in shapes]))
  return photos.Crops(found, size=size, seed=seed, augment=augment, candidates=candidates)


def _level(
  cache: Cache, photograph: Photograph, pixels: np.ndarray, linear: bool, shape: tuple[int, int]
) -> np.ndarray:
  """Return a photograph at a size of its pyramid."""
  if shape == pixels.shape[:2]:
    return pixels
  return cache.array(f"{_key(photograph, linear)}-{shape[1]}x{shape[0]}", lambda: photos.reduced(pixels, shape))


def held_out(split: str, count: int, size: int, cache: Cache) -> tuple[list[str], np.ndarray]:
  """Return `count` crops of the photographs of a split, as many of each, at several scales.

  Crops of a picture do not overlap at any one scale, and are the half with more detail of all that there are.

  Args:
    split: of SPLITS.
    count: of crops, at most; a larger count begins with the same ones.
    size: pixels along an edge.
    cache: of pictures.

  Returns:
    names, and the crops, uint8, [n, size, size, 3].

  Raises:
    ValueError: the photographs are smaller than a crop, or missing.
  """
  pictures = read(split, cache)
  largest = min(min(pixels.shape[:2]) for pixels in pictures.values())
  if size > largest:
    raise ValueError(
      f"size: expected at most {largest} pixels, as the smallest photograph of the {split} set has, got {size}"
    )
  groups = [_ranked(photograph, pixels, size) for photograph, pixels in pictures.items()]
  found = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)][:count]
  return [name for name, _ in found], np.stack([crop for _, crop in found])


def _ranked(photograph: Photograph, pixels: np.ndarray, size: int) -> list[tuple[str, np.ndarray]]:
  """Return crops of a picture with their names: one of each scale, the coarsest first, then another of each."""
  scales = []
  for factor in FACTORS:
    if min(pixels.shape[:2]) // factor >= size:
      tiles = photos.tiles(average(pixels, factor), size)
      detailed = sorted(range(len(tiles)), key=lambda i: -photos.detail(tiles[i]))[: -(-len(tiles) // 2)]
      order = np.random.default_rng(0).permutation(sorted(detailed))
      scales.append([(f"{photograph.stem}-{factor}-{i:03d}", tiles[i]) for i in order])
  return [scale[i] for i in range(max(map(len, scales))) for scale in scales if i < len(scale)]
