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
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from diffinv import errors
from diffinv.data import images

CROPS = ("random", "resize")
VALIDATION_SHARE = 0.1  # at most this part of the files is held out
JPEG_MARGIN = 2  # least reduction that is left to Lanczos' filter, whose pictures are better than JPEG's own
QUARTER_TURNS = 5  # the least EXIF orientation that lies on its side
AHEAD = 4  # batches that are prepared before they are asked for, at least
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
  """Return a hash of the names and lengths of the images below `folder`: others are another training set."""
  files = (f"{name}\n{os.path.getsize(os.path.join(folder, name))}" for name in list_images(folder))
  return hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest()


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


def upright_size(path: pathlib.Path) -> tuple[int, int]:
  """Return width and height of a picture as it is to be seen, of which nothing but the header is read."""
  with images.open_image(path) as image:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= QUARTER_TURNS
    return image.size[::-1] if turned else image.size


def decode(path: pathlib.Path, scale: float = 1.0) -> Image.Image:
  """Return an RGB image; of another mode it is converted.

  Args:
    path: of the file.
    scale: at most 1; a JPEG may come reduced, which is quicker, but to no less than this part of its size.

  Raises:
    ValueError, OSError: it is damaged, of a kind that is no picture, or too large.
  """
  with images.open_image(path) as image:
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
      if scale < 1.0:
        # Before the size is looked at: the rest is never in memory.
        image.draft("RGB", tuple(math.ceil(scale * edge) for edge in image.size))
      if math.prod(image.size) > images.MAX_PIXELS:
        raise ValueError(
          f"{path}: expected at most {images.MAX_PIXELS} pixels, got {image.width}x{image.height}; scale it down"
        )
      image.load()
      return ImageOps.exif_transpose(image).convert("RGB")
  return images.read_rgb(path)


Box = tuple[float, float, float, float]  # left, top, right, bottom; pixels


def region(rng: np.random.Generator, width: int, height: int, size: int, how: str, max_downscale: float) -> Box:
  """Return the square of a picture that an item shows.

  Args:
    rng: of this item.
    width, height: of the picture.
    size: pixels of the item.
    how: "random": anywhere, `size` times a log-uniform factor in 1 .. `max_downscale` wide; "resize": the whole of the
      shorter side, the middle of the longer one. At most the shorter side, either way.
    max_downscale: of "random"; 0: as far as the picture goes.
  """
  shorter = min(width, height)
  if how == "resize":
    left, top = (width - shorter) / 2, (height - shorter) / 2
    return left, top, left + shorter, top + shorter
  largest = max_downscale or max(1.0, shorter / size)
  span = min(float(shorter), size * math.exp(rng.uniform(0.0, math.log(largest))))
  left, top = rng.uniform(0.0, width - span), rng.uniform(0.0, height - span)
  if span <= size:  # whole pixels: no resampling
    left, top = math.floor(left), math.floor(top)
  return left, top, left + span, top + span


def crop(image: Image.Image, box: Box, size: int) -> np.ndarray:
  """Cut a square out of an RGB image, and scale it to `size`: uint8, [size, size, 3]."""
  if box[2] - box[0] == box[3] - box[1] == size and all(edge == int(edge) for edge in box):
    return np.asarray(image.crop(tuple(int(edge) for edge in box)), np.uint8)
  inside = (*box[:2], min(box[2], image.width), min(box[3], image.height))  # but for rounding
  return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=inside), np.uint8)


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
    max_downscale: float = 0.0,
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
      max_downscale: see `region`.
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
      found = self._cut(name, index)
      if found is not None:
        return found
    raise ValueError(f"data: expected images that can be read in {self._folder}, got {len(self._corrupt)} that cannot")

  def items(self, start: int, count: int) -> np.ndarray:
    """Return the items `start` .. `start + count - 1`, uint8, [count, size, size, 3]."""
    return np.stack([self.item(start + k) for k in range(count)])

  def readable(self, name: str) -> bool:
    """Tell whether a file can be decoded; one that cannot counts as `corrupt`."""
    size = self._try(name, upright_size)
    # Of the whole of a picture no more than this is ever needed.
    scale = self._scale(min(size)) if size is not None and self._how == "resize" else 1.0
    return size is not None and self._try(name, lambda path: decode(path, scale)) is not None

  def _cut(self, name: str, index: int) -> np.ndarray | None:
    rng = item_rng(self.seed, index)  # anew for each file: what was tried before has no part in it
    size = self._try(name, upright_size)
    if size is None:
      return None
    box = region(rng, *size, self.size, self._how, self._max_downscale)
    scale = self._scale(box[2] - box[0])
    image = self._try(name, lambda path: decode(path, scale))
    if image is None:
      return None
    across, down = image.width / size[0], image.height / size[1]  # of what came reduced
    pixels = crop(image, (across * box[0], down * box[1], across * box[2], down * box[3]), self.size)
    return pixels[:, ::-1] if self._flip and rng.random() < 0.5 else pixels

  def _scale(self, span: float) -> float:
    """Return to which part of its size a JPEG may come reduced whose square of `span` pixels is shown."""
    return min(1.0, JPEG_MARGIN * self.size / span)

  def _try(self, name: str, read: Callable[[pathlib.Path], Any]) -> Any:
    try:
      return read(self._folder / name)
    except Exception as error:  # whatever it is that a decoder raises on damaged bytes
      self._skip(name, error)
      return None

  def _shuffled(self, epoch: int) -> np.ndarray:
    return np.random.default_rng((self.seed, epoch, 1)).permutation(len(self._names))

  def _skip(self, name: str, error: Exception) -> None:
    with self._lock:
      if name not in self._corrupt:
        self._corrupt[name] = errors.brief(error)
        self._report(f"data: skipped {name}, which cannot be read ({self._corrupt[name]}); {len(self._corrupt)} so far")


def ahead(workers: int) -> int:
  """Return how many batches are prepared ahead of the reader: work for all threads."""
  return max(AHEAD, workers)


def stream(source, batch_size: int, start: int, stop: int, *, workers: int = 2) -> Iterator[np.ndarray]:
  """Yield batches `start` .. `stop` - 1 of a source with `items`, uint8, [batch_size, size, size, 3], in order.

  They are prepared by `workers` threads, `ahead` of the reader at most.
  """
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    pending = collections.deque()
    try:
      for index in range(start, stop):
        pending.append(pool.submit(source.items, index * batch_size, batch_size))
        if len(pending) > ahead(workers):
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()
