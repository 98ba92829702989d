"""The photographs that scikit-image bundles, as training data for natural images.

`astronaut` and `coins` are held out: the `photo` prior is measured on them. Also left out: pictures whose license
scikit-image does not state (moon), drawings and scans of text, and faces (lfw_subset).
"""

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffinv.data import images
from diffinv.data.folder import item_rng

SCALES_PER_OCTAVE = 3
MAX_DOWNSCALE = 4.0
HELD_OUT = ("astronaut.png", "coins.png")


class Photo(NamedTuple):
  """A bundled photograph."""

  file: str
  weight: float  # share of the crops, relative to the others
  source: str
  license: str  # as scikit-image's documentation states it


# Color photographs of objects count most; textures, microscope and telescope pictures add variety.
PHOTOS = (
  Photo("chelsea.png", 1.0, "Stefan van der Walt", "CC0 by the photographer"),
  Photo("coffee.png", 1.0, "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0 by the photographer"),
  Photo("rocket.jpg", 0.7, "SpaceX, flickr.com/photos/spacexphotos/16511594820", "public domain, released by SpaceX"),
  Photo(
    "motorcycle_left.png",
    0.8,
    "Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014), vision.middlebury.edu/stereo",
    "published for research by its authors, who ask to be cited; scikit-image states no other terms",
  ),
  Photo(
    "motorcycle_right.png",
    0.8,
    "Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014), vision.middlebury.edu/stereo",
    "published for research by its authors, who ask to be cited; scikit-image states no other terms",
  ),
  Photo("retina.jpg", 0.2, "Mikael Haggstrom, WikiJournal of Medicine 1(2), 2014", "CC0 1.0"),
  Photo("hubble_deep_field.jpg", 0.2, "NASA, hubblesite.org release 2012/37", "public domain (NASA)"),
  Photo("ihc.png", 0.2, "Center for Microscopy and Molecular Imaging", "no known copyright restrictions"),
  Photo("camera.png", 0.5, "Lav Varshney", "CC0 by the photographer"),
  Photo("brick.png", 0.2, "cc0textures.com, Bricks25", "CC0"),
  Photo("grass.png", 0.2, "deviantart.com/linolafett, Grass-01", "CC0"),
  Photo("gravel.png", 0.2, "cc0textures.com, Gravel04", "CC0"),
)


def data_folder() -> pathlib.Path:
  """Return the folder in which scikit-image keeps its pictures.

  Raises:
    ValueError: scikit-image is not installed.
  """
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise ValueError("data: 'photos' needs scikit-image, which is not installed; pip install 'diffinv[train]'")
  return pathlib.Path(spec.origin).parent / "data"


def read(file: str) -> Image.Image:
  """Return a picture of scikit-image in RGB; a gray one gets three equal channels.

  Raises:
    ValueError: it is missing.
  """
  path = data_folder() / file
  if not path.is_file():
    raise ValueError(f"data: expected the picture {path}, found nothing; install scikit-image 0.24 or newer")
  return images.read_rgb(path)


def pyramid(image: Image.Image, size: int) -> list[np.ndarray]:
  """Return copies reduced by powers of 2^(1/3) up to 4, as long as a crop of `size` fits; uint8, [h, w, 3] each."""
  pixels = np.asarray(image, np.uint8)
  return [reduced(pixels, shape) for shape in pyramid_sizes(pixels.shape[:2], size, MAX_DOWNSCALE)]


def pyramid_sizes(shape: Sequence[int], size: int, most: float) -> list[tuple[int, int]]:
  """Return `shape` reduced by powers of 2^(1/3) up to `most`, as long as a crop of `size` fits; heights and widths."""
  factors = [2 ** (k / SCALES_PER_OCTAVE) for k in range(int(np.log2(most) * SCALES_PER_OCTAVE) + 1)]
  found = [(round(shape[0] / factor), round(shape[1] / factor)) for factor in factors]
  return [(height, width) for height, width in found if min(height, width) >= size]


def reduced(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Return an image `[h, w, 3]` at a height and width, uint8."""
  if shape == pixels.shape[:2]:
    return pixels
  image = Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
  return np.asarray(image, np.uint8)


def bundled(*, size: int, seed: int, augment: float = 1.0, candidates: int = 1) -> "Crops":
  """Return random crops of the bundled photographs; see `Crops`.

  Raises:
    ValueError: scikit-image is missing, or all photographs are smaller than a crop.
  """
  found = [(photo.weight, pyramid(read(photo.file), size)) for photo in PHOTOS]
  return Crops(found, size=size, seed=seed, augment=augment, candidates=candidates)


def detail(pixels: np.ndarray) -> float:
  """Return the mean absolute difference of neighboring pixels, `[h, w, c]`, uint8: down and across, added."""
  values = pixels.astype(np.int16)
  return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


class Crops:
  """Random crops of photographs at random scales, with flips and mild changes of exposure and color."""

  def __init__(
    self,
    pictures: Sequence[tuple[float, list[np.ndarray]]],
    *,
    size: int,
    seed: int,
    augment: float = 1.0,
    candidates: int = 1,
  ):
    """Take the pictures.

    Args:
      pictures: of each its share of the crops, relative to the others, and its copies at several scales, uint8,
        [h, w, 3], none smaller than a crop.
      size: pixels along an edge of a crop.
      seed: of the crops.
      augment: strength of the changes of exposure and color, 0 for none.
      candidates: places of a picture that are drawn for a crop; it is taken where there is most detail. Out of focus
        and in the sky there is little to learn, and much of a photograph is one or the other.
    """
    self.size, self.seed, self._augment, self._candidates = size, seed, augment, candidates
    self._levels = [levels for _, levels in pictures if levels]
    weights = np.array([weight for weight, levels in pictures if levels])
    if not len(weights):
      raise ValueError(
        f"size: expected crops that fit into the photographs, got {size} pixels; pass at most `size=512`"
      )
    self._cumulative = np.cumsum(weights / weights.sum())

  @property
  def pictures(self) -> int:
    """How many pictures are large enough for crops."""
    return len(self._levels)

  def item(self, index: int) -> np.ndarray:
    """Return crop `index`, uint8, [size, size, 3]: a pure function of the seed and the index."""
    return self.items(index, 1)[0]

  def items(self, start: int, count: int) -> np.ndarray:
    """Return the crops `start` .. `start + count - 1`, uint8, [count, size, size, 3].

    Colors are changed for all crops at once: threads block one another in Python, not in NumPy's loops.
    """
    rngs = [item_rng(self.seed, start + k) for k in range(count)]
    planes = np.empty((count, 3, self.size, self.size), np.uint8)
    for k, rng in enumerate(rngs):
      planes[k] = np.moveaxis(self._cut(rng), -1, 0)
    if self._augment > 0:
      planes = change_colors(planes, [draw_colors(rng, self._augment) for rng in rngs])
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1))

  def _cut(self, rng: np.random.Generator) -> np.ndarray:
    levels = self._levels[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._levels) - 1)]
    image = levels[rng.integers(len(levels))]
    cuts = [self._place(image, rng) for _ in range(self._candidates)]
    cut = cuts[0] if len(cuts) == 1 else max(cuts, key=detail)
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    cut = cut[::-1] if rng.random() < 0.25 else cut  # upside down is rarer in photographs
    return np.swapaxes(cut, 0, 1) if rng.random() < 0.25 else cut

  def _place(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = (int(rng.integers(n - self.size + 1)) for n in image.shape[:2])
    return image[top : top + self.size, left : left + self.size]


class Colors(NamedTuple):
  """A change of colors."""

  saturation: float  # factor of the distance from gray
  order: np.ndarray  # [3]: which channel becomes which
  gains: np.ndarray  # [3], of the channels: the white balance
  contrast: float  # factor of the distance from middle gray
  brightness: float  # added, of [0, 1]


def draw_colors(rng: np.random.Generator, strength: float) -> Colors:
  """Draw another exposure, contrast, saturation, white balance and, at times, hue.

  A dozen photographs hold few colors; these changes are no larger than those of lighting and paint. Every change is
  linear, so noise and gradients keep their form.
  """
  saturation = np.exp(strength * rng.normal(0.0, 0.25))
  order = rng.permutation(3) if rng.random() < 0.15 * strength else np.arange(3)
  gains = np.exp(strength * rng.normal(0.0, 0.08, 3))
  contrast = np.exp(strength * rng.normal(-0.05, 0.15))
  return Colors(saturation, order, gains, contrast, strength * rng.normal(0.0, 0.08))


def change_colors(planes: np.ndarray, changes: Sequence[Colors]) -> np.ndarray:
  """Return images `[n, 3, h, w]`, uint8, each with its own change; channels come first because long loops are fast."""
  saturation, contrast, brightness = (
    np.array([getattr(change, name) for change in changes], np.float32)[:, None, None, None]
    for name in ("saturation", "contrast", "brightness")
  )
  gains = np.array([change.gains for change in changes], np.float32)[..., None, None]
  x = planes.astype(np.float32)
  x /= np.float32(255.0)
  gray = (x[:, :1] + x[:, 1:2] + x[:, 2:]) / np.float32(3.0)
  x -= gray
  x *= saturation
  x += gray
  for i, change in enumerate(changes):
    if np.any(change.order != np.arange(3)):
      x[i] = x[i][change.order]
  x *= gains
  x -= np.float32(0.5)
  x *= contrast
  x += np.float32(0.5)
  x += brightness
  np.clip(x, 0.0, 1.0, out=x)
  x *= np.float32(255.0)
  return np.rint(x, out=x).astype(np.uint8)


def held_out_crops(size: int) -> np.ndarray:
  """Return the validation crops: `astronaut` at full and half size, cut without overlap, uint8, [n, size, size, 3].

  Raises:
    ValueError: the picture is smaller than a crop, or is missing.
  """
  image = read("astronaut.png")
  if size > min(image.size):
    raise ValueError(
      f"size: expected at most {min(image.size)} pixels, as the held-out photograph has, got {size}; lower `size`, or "
      "train on a folder of larger ones"
    )
  crops = []
  for factor in (1, 2):
    pixels = np.asarray(image.resize((image.width // factor, image.height // factor), Image.Resampling.LANCZOS))
    crops += tiles(pixels, size)
  return np.stack(crops)


def tiles(pixels: np.ndarray, size: int) -> list[np.ndarray]:
  """Cut `pixels` `[h, w, c]` into squares `[size, size, c]` without overlap, row by row; drop what is left over."""
  down, across = (n // size for n in pixels.shape[:2])
  return [pixels[i * size :, j * size :][:size, :size] for i in range(down) for j in range(across)]
