"""The photographs that scikit-image bundles, as training data for natural images.

`astronaut` and `coins` are held out: they are what the `photo` prior is measured on. Left out as well: pictures whose
licence scikit-image does not state (moon), drawings and scans of text, and faces (lfw_subset).
"""

import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffinv.data.folder import item_rng

SCALES_PER_OCTAVE = 3
MAX_DOWNSCALE = 4.0
HELD_OUT = ("astronaut.png", "coins.png")


class Photo(NamedTuple):
  """A bundled photograph."""

  file: str
  weight: float  # share of the crops, relative to the others
  source: str
  licence: str  # as scikit-image's documentation states it


# Colour photographs of things count most; textures and microscope or telescope pictures are there for variety.
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
  """Return the folder where scikit-image keeps its pictures.

  Raises:
    ValueError: scikit-image is not installed.
  """
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise ValueError("data: 'photos' needs scikit-image, which is not installed; pip install 'diffinv[train]'")
  return pathlib.Path(spec.origin).parent / "data"


def read(file: str) -> Image.Image:
  """Return a bundled picture in RGB; gray ones get three equal channels.

  Raises:
    ValueError: it is not there.
  """
  path = data_folder() / file
  if not path.is_file():
    raise ValueError(f"data: expected the picture {path}, found nothing; install scikit-image 0.24 or newer")
  with Image.open(path) as image:
    return image.convert("RGB")


def pyramid(image: Image.Image, size: int) -> list[np.ndarray]:
  """Return reduced copies, uint8, [h, w, 3], by factors of 2^(1/3) up to 4 while they hold a crop of `size` pixels."""
  levels = []
  for k in range(int(np.log2(MAX_DOWNSCALE) * SCALES_PER_OCTAVE) + 1):
    width, height = (round(n / 2 ** (k / SCALES_PER_OCTAVE)) for n in image.size)
    if min(width, height) < size:
      break
    reduced = image if k == 0 else image.resize((width, height), Image.Resampling.LANCZOS)
    levels.append(np.asarray(reduced, np.uint8))
  return levels


class Photos:
  """Random crops of the bundled photographs at random scales, with flips and mild changes of exposure and colour."""

  def __init__(self, *, size: int, seed: int, augment: float = 1.0):
    """Read and reduce all photographs.

    Args:
      size: pixels along an edge of a crop.
      seed: of the crops.
      augment: strength of the changes of exposure and colour, 0 for none.
    """
    self.size, self.seed, self._augment = size, seed, augment
    found = [(photo.weight, pyramid(read(photo.file), size)) for photo in PHOTOS]
    self._levels = [levels for _, levels in found if levels]
    weights = np.array([weight for weight, levels in found if levels])
    if not len(weights):
      raise ValueError(
        f"size: expected crops that fit into the photographs, got {size} pixels; pass at most --size=512"
      )
    self._cumulative = np.cumsum(weights / weights.sum())

  def item(self, index: int) -> np.ndarray:
    """Return crop `index`, uint8, [size, size, 3]: a pure function of the seed and the index."""
    rng = item_rng(self.seed, index)
    levels = self._levels[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._levels) - 1)]
    image = levels[rng.integers(len(levels))]
    top, left = (int(rng.integers(n - self.size + 1)) for n in image.shape[:2])
    cut = image[top : top + self.size, left : left + self.size]
    cut = cut[:, ::-1] if rng.random() < 0.5 else cut
    cut = cut[::-1] if rng.random() < 0.25 else cut  # upside down is rarer in photographs
    cut = np.swapaxes(cut, 0, 1) if rng.random() < 0.25 else cut
    return change_colours(rng, cut, self._augment) if self._augment > 0 else np.ascontiguousarray(cut)


def change_colours(rng: np.random.Generator, pixels: np.ndarray, strength: float) -> np.ndarray:
  """Return uint8 pixels with another exposure, contrast, saturation, white balance and, at times, hue.

  A dozen photographs hold few colours; the changes stay within what lighting and paint would do. Noise and gradients
  keep their form: every change but the exposure's exponent is linear.
  """
  x = pixels.astype(np.float32) / 255.0
  gray = x.mean(axis=-1, keepdims=True)
  x = gray + (x - gray) * np.float32(np.exp(strength * rng.normal(0.0, 0.25)))
  if rng.random() < 0.15 * strength:
    x = x[..., rng.permutation(3)]
  x = x * np.exp(strength * rng.normal(0.0, 0.08, 3)).astype(np.float32)
  contrast = np.float32(np.exp(strength * rng.normal(-0.05, 0.15)))
  x = (x - 0.5) * contrast + 0.5 + np.float32(strength * rng.normal(0.0, 0.08))
  return np.round(np.clip(x, 0.0, 1.0) * 255.0).astype(np.uint8)


def held_out_crops(size: int) -> np.ndarray:
  """Return the validation crops: `astronaut` at full and half size, cut without overlap, uint8, [n, size, size, 3].

  Raises:
    ValueError: the picture holds no such crop, or is not there.
  """
  image = read("astronaut.png")
  if size > min(image.size):
    raise ValueError(
      f"size: expected at most {min(image.size)} pixels, as the held-out photograph has, got {size}; lower --size, or "
      "train on a folder of larger ones"
    )
  crops = []
  for factor in (1, 2):
    pixels = np.asarray(image.resize((image.width // factor, image.height // factor), Image.Resampling.LANCZOS))
    crops += tiles(pixels, size)
  return np.stack(crops)


def tiles(pixels: np.ndarray, size: int) -> list[np.ndarray]:
  """Cut `pixels` `[h, w, c]` without overlap, row by row, `[size, size, c]` each; what is left over is dropped."""
  down, across = (n // size for n in pixels.shape[:2])
  return [pixels[i * size :, j * size :][:size, :size] for i in range(down) for j in range(across)]
