"""Training images from a folder: any number, any size, decoded while the network trains.

Which crop of which file is item i of the stream is a pure function of the seed and i, so that a run that was stopped
goes on with exactly the images it would have seen.
"""

import collections
import concurrent.futures
import functools
import hashlib
import itertools
import math
import os
import pathlib
import threading
from typing import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from diffinv import errors
from diffinv.data import images

CROPS = ("random", "resize")
VALIDATION_SHARE = 0.1  # at most this part of the files is held out
JPEG_MARGIN = 2  # least reduction that is left to Lanczos' filter, whose pictures are better than JPEG's own
MAX_TRIES = 64  # files in a row that may fail before the folder is given up


def item_rng(seed: int, index: int) -> np.random.Generator:
  """Return the generator of item `index`: a pure function of both."""
  return np.random.default_rng((seed, index))


def list_images(folder: str | pathlib.Path) -> list[str]:
  """Return the image files below `folder`, relative to it, sorted by name.

  Raises:
    ValueError: it is no folder, or holds no image.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise ValueError(f"data: expected a folder of images, 'photos' or 'faces', got {str(folder)!r}; check the path")
  extensions = tuple(e for e in images.EXTENSIONS if e != ".npy")
  found = []
  for place, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    inside = pathlib.Path(place).relative_to(folder)
    found += [str(inside / n) for n in names if n.lower().endswith(extensions) and not n.startswith(".")]
  if not found:
    raise ValueError(f"data: expected images ({', '.join(extensions)}) in the folder {folder}, found none")
  return sorted(found)


def fingerprint(folder: str | pathlib.Path) -> str:
  """Return a hash of the names of the images below `folder`: others are another training set."""
  return hashlib.sha256("\n".join(list_images(folder)).encode("utf-8", "surrogateescape")).hexdigest()


def split(
  names: Sequence[str], validation: int, readable: Callable[[str], bool] = lambda name: True
) -> tuple[list[str], list[str]]:
  """Return the names to train on and those held out: at most `validation`, chosen by the hash of their name.

  A file keeps its side when others are added, as far as the counts allow. One that is not `readable` is not held out:
  the next one is.
  """
  count = min(validation, int(len(names) * VALIDATION_SHARE))
  ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
  held_out = set(itertools.islice(filter(readable, ranked), count))
  return [name for name in names if name not in held_out], [name for name in names if name in held_out]


def decode(path: pathlib.Path, shortest: int | None = None) -> Image.Image:
  """Return an RGB image; of another mode it is converted.

  Args:
    path: of the file.
    shortest: pixels; a JPEG may come reduced as long as its shorter side stays at least as long. None: as it is.

  Raises:
    ValueError, OSError: it is damaged, of a kind that is no picture, or too large.
  """
  with Image.open(path) as image:
    is_plain_jpeg = image.format == "JPEG" and image.mode in ("RGB", "L")
    if is_plain_jpeg and shortest is not None:
      image.draft("RGB", (shortest, shortest))  # before the size is looked at: the rest is never in memory
    if math.prod(image.size) > images.MAX_PIXELS:
      raise ValueError(
        f"{path}: expected at most {images.MAX_PIXELS} pixels, got {image.width}x{image.height}; scale it down"
      )
    if is_plain_jpeg:
      image.load()
      return ImageOps.exif_transpose(image).convert("RGB")
  return images.to_pillow(images.read(path, convert=True))


def crop(
  rng: np.random.Generator, image: Image.Image, size: int, how: str, max_downscale: float, flip: bool
) -> np.ndarray:
  """Return a square of `size` pixels, uint8, [size, size, 3].

  Args:
    rng: of this item.
    image: RGB.
    size: pixels.
    how: "random": reduce by a log-uniform factor in 1 .. `max_downscale` and cut anywhere; "resize": scale the shorter
      side to `size` and cut the centre. Images smaller than `size` are enlarged either way.
    max_downscale: of "random", at least 1.
    flip: mirror half of them.
  """
  shorter = min(image.size)
  if how == "resize":
    span, left, top = float(shorter), (image.width - shorter) / 2, (image.height - shorter) / 2
  else:
    span = size * math.exp(rng.uniform(0.0, math.log(max_downscale)))
    span = min(float(shorter), span)
    left, top = rng.uniform(0.0, image.width - span), rng.uniform(0.0, image.height - span)
    if span <= size:  # whole pixels: no resampling
      left, top = math.floor(left), math.floor(top)
  box = (left, top, left + span, top + span)
  if span == size:
    cut = image.crop(tuple(int(v) for v in box))
  else:
    cut = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
  pixels = np.asarray(cut, np.uint8)
  return pixels[:, ::-1] if flip and rng.random() < 0.5 else pixels


class Folder:
  """Random crops of the files of a folder, in an order that reshuffles every pass; safe to call from threads."""

  def __init__(
    self,
    folder: str | pathlib.Path,
    names: Sequence[str],
    *,
    size: int,
    seed: int,
    how: str = "random",
    max_downscale: float = 2.0,
    flip: bool = True,
    corrupt: dict[str, str] | None = None,
    report: Callable[[str], None] = print,
  ):
    """Read nothing yet.

    Args:
      folder: where the files are.
      names: relative to it.
      size: pixels along an edge.
      seed: of the order and the crops.
      how: of CROPS.
      max_downscale: see `crop`.
      flip: mirror half of them.
      corrupt: files that are known not to be readable, and why.
      report: called once with a line for each file that cannot be read.
    """
    if how not in CROPS:
      raise ValueError(f"crop: expected one of {', '.join(CROPS)}, got {how!r}")
    self.size, self.seed = size, seed
    self._folder, self._names = pathlib.Path(folder), list(names)
    self._how, self._max_downscale, self._flip, self._report = how, max_downscale, flip, report
    self._lock = threading.Lock()
    self._corrupt = dict(corrupt or {})
    self._order = functools.lru_cache(maxsize=4)(self._shuffled)

  @property
  def corrupt(self) -> dict[str, str]:
    """The files that are known not to be readable, and why."""
    return dict(self._corrupt)

  def item(self, index: int) -> np.ndarray:
    """Return item `index`, uint8, [size, size, 3]; a file that cannot be read gives its place to the next one.

    Raises:
      ValueError: no file can be read.
    """
    epoch, position = divmod(index, len(self._names))
    order = self._order(epoch)
    for k in range(min(MAX_TRIES, len(self._names))):
      name = self._names[order[(position + k) % len(order)]]
      if name in self._corrupt:
        continue
      image = self._decoded(name)
      if image is not None:
        return crop(item_rng(self.seed, index), image, self.size, self._how, self._max_downscale, self._flip)
    raise ValueError(f"data: expected images that can be read in {self._folder}, got {len(self._corrupt)} that cannot")

  def readable(self, name: str) -> bool:
    """Tell whether a file can be decoded; one that cannot counts as `corrupt`."""
    return self._decoded(name) is not None

  def _decoded(self, name: str) -> Image.Image | None:
    # A reduced JPEG would be reduced once more by a random crop: its pictures would be smaller than those of a PNG.
    shortest = JPEG_MARGIN * self.size if self._how == "resize" else None
    try:
      return decode(self._folder / name, shortest)
    except (*images.DECODING_ERRORS, Image.DecompressionBombError) as error:
      self._skip(name, error)
      return None

  def _shuffled(self, epoch: int) -> np.ndarray:
    return np.random.default_rng((self.seed, epoch, 1)).permutation(len(self._names))

  def _skip(self, name: str, error: Exception) -> None:
    with self._lock:
      if name not in self._corrupt:
        self._corrupt[name] = errors.brief(error)
        self._report(f"data: skipped {name}, which cannot be read ({self._corrupt[name]}); {len(self._corrupt)} so far")


def batch(source, index: int, batch_size: int) -> np.ndarray:
  """Return batch `index` of a source with `item`, uint8, [batch_size, size, size, 3]."""
  return np.stack([source.item(index * batch_size + j) for j in range(batch_size)])


def stream(source, batch_size: int, start: int, stop: int, *, workers: int = 2, ahead: int = 4) -> Iterator[np.ndarray]:
  """Yield batches `start` .. `stop` - 1 in order, prepared by `workers` threads, at most `ahead` of the reader."""
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    pending = collections.deque()
    try:
      for index in range(start, stop):
        pending.append(pool.submit(batch, source, index, batch_size))
        if len(pending) > ahead:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()
