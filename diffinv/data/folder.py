"""Training images from a folder: any number, any size, decoded while the network trains.

Item i of the stream, a crop of a file, is a pure function of the seed and i: a resumed run sees exactly the images that
it would have seen.
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from diffinv import errors, files
from diffinv.data import formats, images, profiles
from diffinv.data.cache import Cache

CROPS = ("random", "resize")
VALIDATION_SHARE = 0.1  # at most this share of the files is held out
JPEG_MARGIN = 2  # the least reduction left to the Lanczos filter, which is better than the JPEG decoder's
QUARTER_TURNS = (5, 6, 7, 8)  # the EXIF orientations of pictures that lie on their side
AHEAD = 4  # batches prepared before they are asked for, at least
LEAST_CACHED = 2**18  # pixels; smaller pictures are decoded in a few milliseconds
MAX_TRIES = 64  # files in a row that may fail before we give up on the folder


def item_rng(seed: int, index: int) -> np.random.Generator:
  """Return the generator of item `index`: a pure function of both."""
  return np.random.default_rng((seed, index))


def list_images(folder: str | os.PathLike[str], *, note: Callable[[str], Any] | None = None) -> list[str]:
  """Return the image files below `folder`, relative to it, sorted by name; what is no regular file is left out.

  Args:
    folder: to search through; hidden files and folders are passed over.
    note: called with one line that names what is left out.

  Raises:
    ValueError: it is no folder, or holds no image.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    sets = "photographs, photos or faces"
    raise ValueError(f"data: expected a folder of images, or {sets}, got {str(folder)!r}; check the path")
  found: list[str] = []
  others: list[str] = []
  for place, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    inside = pathlib.Path(place).relative_to(folder)
    for name in names:
      listed = formats.is_listed(pathlib.Path(place, name), arrays=False)
      (found if listed else others).append(str(inside / name))
  left = formats.left_out(folder, others)
  if not found:
    known = ", ".join(formats.endings(arrays=False))
    raise ValueError(f"data: expected images ({known}) in the folder {folder}, found none; {left or 'name another'}")
  if left is not None and note is not None:
    note(f"note: {left}")
  return sorted(found)


def fingerprint(folder: str | os.PathLike[str]) -> str:
  """Return a hash of the names and sizes of the images below `folder`, which identifies a training set."""
  files = (f"{name}\n{os.path.getsize(os.path.join(folder, name))}" for name in list_images(folder))
  return hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest()


def split(
  names: Sequence[str], validation: int, readable: Callable[[str], bool] = lambda name: True
) -> tuple[list[str], list[str]]:
  """Return the names to train on and those held out: at most `validation`, chosen by the hash of their names.

  A file stays on its side when others are added, as far as the counts allow. A file that is not `readable` is not held
  out; the next one is.
  """
  count = min(validation, int(len(names) * VALIDATION_SHARE))
  ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
  held_out = set(itertools.islice(filter(readable, ranked), count))
  return [name for name in names if name not in held_out], [name for name in names if name in held_out]


def open_size(path: pathlib.Path) -> tuple[int, int] | None:
  """Return the width and height of a JPEG as viewers show it, from its header, as it may come reduced.

  Of any other picture None: it is decoded in full anyway, and its size is that of its pixels. What a header says of
  width, height and orientation differs from format to format, and from one version of a decoder to another.
  """
  with images.open_image(path) as image:
    if not _is_drafted(image):
      return None
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS
    return (image.height, image.width) if turned else image.size


def decode(path: pathlib.Path, scale: float = 1.0, tell: Callable[[str], Any] = lambda line: None) -> Image.Image:
  """Return a picture in RGB, converted if it is of another mode.

  Args:
    path: of the file.
    scale: at most 1; a JPEG may come reduced, which is quicker, but not below this fraction of its size.
    tell: called with what is done to "its colors", if they are converted to sRGB.

  Raises:
    ValueError, OSError: it is damaged, not a picture, or too large.
  """
  with images.open_image(path) as image:
    if _is_drafted(image, scale):
      # Before the size is checked: the full picture is never in memory.
      if math.prod(image.size) > images.MAX_PIXELS:
        raise ValueError(
          f"{path}: expected at most {images.MAX_PIXELS} pixels, got {image.width}x{image.height}; scale it down"
        )
      image.load()
      return profiles.to_srgb(ImageOps.exif_transpose(image), tell).convert("RGB")
  return images.read_rgb(path, tell=tell)


def _is_drafted(image: Image.Image, scale: float = 1.0) -> bool:
  """Tell whether a picture that is not decoded yet is a JPEG that may come reduced, and have it come so."""
  if image.format != "JPEG" or image.mode not in ("RGB", "L"):
    return False
  if scale < 1.0:
    image.draft("RGB", (math.ceil(scale * image.width), math.ceil(scale * image.height)))
  return True


def _decoded_as(path: pathlib.Path, scale: float, tell: Callable[[str], Any]) -> str | None:
  """Return what tells apart what `decode` makes of one file; None if the picture is so small that it is not kept."""
  with images.open_image(path) as image:
    if math.prod(image.size) < LEAST_CACHED:
      return None
    _is_drafted(image, scale)
    if (words := profiles.described(image)) is not None:
      tell(words)
    return f"{image.width}x{image.height}" + "-srgb" * (words is not None)


Box = tuple[float, float, float, float]  # left, top, right, bottom; pixels


def region(rng: np.random.Generator, width: int, height: int, size: int, how: str, max_downscale: float) -> Box:
  """Return the square of a picture that an item shows.

  Args:
    rng: of this item.
    width: of the picture, pixels.
    height: of the picture, pixels.
    size: of the item, pixels.
    how: "random": anywhere, `size` times a log-uniform factor in 1 .. `max_downscale` wide, but no wider than the
      shorter side; "resize": the whole of the shorter side and the middle of the longer one.
    max_downscale: of "random"; 0 for as large as the picture allows.
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
  """Cut a square out of an image, RGB or RGBX, and scale it to `size`: uint8, [size, size, 3]."""
  if box[2] - box[0] == box[3] - box[1] == size and all(edge == int(edge) for edge in box):
    return np.asarray(image.crop(box), np.uint8)[..., :3]
  # Rounding may put the far edges just outside.
  inside = (*box[:2], min(box[2], image.width), min(box[3], image.height))
  return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=inside), np.uint8)[..., :3]


class Folder:
  """Random crops of the files of a folder, in an order that reshuffles every pass; safe to call from threads."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    names: Sequence[str],
    *,
    size: int,
    seed: int,
    how: str = "random",
    max_downscale: float = 0.0,
    flip: bool = True,
    corrupt: dict[str, str] | None = None,
    cache: Cache | None = None,
    report: Callable[[str], None] = print,
  ):
    """Take the names of the files; nothing is read yet.

    Args:
      folder: where the files are.
      names: relative to it.
      size: pixels along an edge.
      seed: of the order and the crops.
      how: of CROPS.
      max_downscale: see `region`.
      flip: mirror half of them.
      corrupt: files that are known to be unreadable, and why.
      cache: of decoded pictures; without one each is decoded again for every item. The items are the same.
      report: called once with a line for each file that cannot be read, and for each kind of colors that is converted.
    """
    if how not in CROPS:
      raise ValueError(f"crop: expected one of {', '.join(CROPS)}, got {how!r}")
    self.size, self.seed = size, seed
    self._folder, self._names = pathlib.Path(folder), list(names)
    self._how, self._max_downscale, self._flip, self._report = how, max_downscale, flip, report
    self._lock = threading.Lock()
    self._corrupt = dict(corrupt or {})
    self._told: set[str] = set()
    self._cache = cache
    self._digest = functools.cache(files.digest)
    self._order = functools.lru_cache(maxsize=4)(self._shuffled)

  @property
  def corrupt(self) -> dict[str, str]:
    """Files that are known to be unreadable, and why."""
    return dict(self._corrupt)

  def item(self, index: int) -> np.ndarray:
    """Return item `index`, uint8, [size, size, 3]; the next file stands in for one that cannot be read.

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
    whole = self._try(name, self._whole)
    if whole is None or whole[1] is not None:
      return whole is not None
    # To show the whole of a picture, no more than this is needed.
    scale = self._scale(min(whole[0])) if self._how == "resize" else 1.0
    return self._try(name, lambda path: decode(path, scale)) is not None

  def _cut(self, name: str, index: int) -> np.ndarray | None:
    rng = item_rng(self.seed, index)  # new for each file, whatever was tried before
    whole = self._try(name, self._whole)
    if whole is None:
      return None
    (width, height), image = whole
    box = region(rng, width, height, self.size, self._how, self._max_downscale)
    scale = self._scale(box[2] - box[0])
    image = image or self._try(name, lambda path: self._decoded(path, scale))
    if image is None:
      return None
    across, down = image.width / width, image.height / height  # the reduction that came with decoding
    pixels = crop(image, (across * box[0], down * box[1], across * box[2], down * box[3]), self.size)
    return pixels[:, ::-1] if self._flip and rng.random() < 0.5 else pixels

  def _whole(self, path: pathlib.Path) -> tuple[tuple[int, int], Image.Image | None]:
    """Return the size of a picture, and the picture itself unless it may come reduced."""
    size = open_size(path)
    if size is not None:
      return size, None
    image = self._decoded(path, 1.0)
    return image.size, image

  def _decoded(self, path: pathlib.Path, scale: float) -> Image.Image:
    """Return what `decode` does, of four channels where it is mapped from the cache; the last has no meaning."""
    tell = functools.partial(self._tell, path)
    form = None if self._cache is None else _decoded_as(path, scale, tell)
    if self._cache is None or form is None:
      return decode(path, scale, tell)
    key = f"{self._digest(path)[:32]}-{form}"
    pixels = self._cache.array(key, lambda: np.asarray(decode(path, scale, tell).convert("RGBX"), np.uint8))
    # Of three channels it would be copied.
    return Image.frombuffer("RGBX", (pixels.shape[1], pixels.shape[0]), pixels, "raw", "RGBX", 0, 1)

  def _scale(self, span: float) -> float:
    """Return the fraction of its size to which a JPEG may be reduced if a square of `span` pixels of it is shown."""
    return min(1.0, JPEG_MARGIN * self.size / span)

  def _try(self, name: str, read: Callable[[pathlib.Path], Any]) -> Any:
    try:
      return read(self._folder / name)
    except Exception as error:  # a decoder may raise anything on damaged bytes
      self._skip(name, error)
      return None

  def _tell(self, path: pathlib.Path, words: str) -> None:
    """Report what is done to the colors of a file, once for all files to which the same is done."""
    with self._lock:
      if words not in self._told:
        self._told.add(words)
        self._report(f"data: {path.relative_to(self._folder)}: {words}; so are those of all files like it")

  def _shuffled(self, epoch: int) -> np.ndarray:
    return np.random.default_rng((self.seed, epoch, 1)).permutation(len(self._names))

  def _skip(self, name: str, error: Exception) -> None:
    with self._lock:
      if name not in self._corrupt:
        self._corrupt[name] = errors.brief(error)
        self._report(f"data: skipped {name}, which cannot be read ({self._corrupt[name]}); {len(self._corrupt)} so far")


def ahead(workers: int) -> int:
  """Return how many batches to prepare ahead of the reader, enough to keep all threads busy."""
  return max(AHEAD, workers)


def stream(source, batch_size: int, start: int, stop: int, *, workers: int = 2) -> Iterator[np.ndarray]:
  """Yield batches `start` .. `stop` - 1 of a source with `items`, uint8, [batch_size, size, size, 3], in order.

  `workers` threads prepare them, at most `ahead(workers)` batches before they are read.
  """
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    pending: collections.deque[concurrent.futures.Future[np.ndarray]] = collections.deque()
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
