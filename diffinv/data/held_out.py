"""Pictures that the shipped priors never saw: sets to test on, to choose settings by, and to measure priors by."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.data import faces, images, photographs, photos
from diffinv.data.cache import Cache

SETS = ("photographs", "photos", "faces")
TEST, VALIDATION = "test", "validation"
PURPOSES = (TEST, VALIDATION)  # of pictures to restore
# To denoise; to compare samples with; and to compare with those, which is the least distance to expect of samples.
DENOISING, REFERENCE, FLOOR = "denoising", "reference", "floor"
# Training uses its own seed; `diffinv evaluate` refuses priors that were trained with one of these.
FACES_SEEDS = {TEST: 2_000_003, VALIDATION: 2_000_004, DENOISING: 1000, REFERENCE: 1001, FLOOR: 1002}
RENDERED = 8  # faces drawn at once
RENDERED_OF_SETS = 16  # the same, of the purposes that are not in PURPOSES


def held_out(name: str, purpose: str, count: int, size: int = 64, *, flip: bool = True) -> tuple[list[str], np.ndarray]:
  """Return the names of `count` pictures and the pictures, `[count, size, size, 3]`, [-1, 1].

  Args:
    name: of SETS. photographs: crops of pictures by others than those to train on; photos: crops of the bundled
      photographs that `photos.HELD_OUT` lists; faces: new renders.
    purpose: of FACES_SEEDS. Neither kind of photographs has a REFERENCE and a FLOOR. For DENOISING photographs have
      the crops of TEST, and photos those that training validates on, which overlap those of PURPOSES.
    count: how many, of crops for DENOISING at most; a larger count begins with the same pictures.
    size: pixels along an edge.
    flip: mirror faces with even chance.

  Raises:
    ValueError: there are not enough crops for the purpose, or the photographs are not installed.
  """
  if name == "faces":
    return _faces(purpose, count, size, flip)
  if purpose not in (*PURPOSES, DENOISING):
    raise ValueError(f"{name}: expected one of {', '.join((*PURPOSES, DENOISING))}, got {purpose}; faces have no end")
  if name == "photographs":
    return _photographs(purpose, count, size)
  if purpose in PURPOSES:
    return _photos(purpose, count, size)
  crops = images.from_uint8(photos.held_out_crops(size)[:count])
  return [f"astronaut-{i:02d}" for i in range(len(crops))], crops


def _photographs(purpose, count, size):
  split = photographs.VALIDATION if purpose == VALIDATION else photographs.TEST
  names, crops = photographs.held_out(split, count, size, Cache())
  if len(crops) < count and purpose in PURPOSES:
    raise ValueError(
      f"num_images: expected at most {len(crops)} crops of {size} pixels of the photographs, got {count}"
    )
  return names, images.from_uint8(crops)


def _photos(purpose, count, size):
  """Cut each picture without overlap, shuffle the crops once, and take them from the front or from the back.

  As far as possible, every picture and scale gives equally many.
  """
  groups, largest = [], []
  for file in photos.HELD_OUT:
    for factor in (1, 2):
      pixels = np.asarray(photos.read(file).reduce(factor))
      largest.append(_largest_of_two(*pixels.shape[:2]))
      crops = photos.tiles(pixels, size)
      stem = file.partition(".")[0] + ("" if factor == 1 else "-half")
      order = np.random.default_rng(0).permutation(len(crops))
      order = order if purpose == TEST else order[::-1]
      groups.append([(f"{stem}-{i:02d}", crops[i]) for i in order])
  if size > min(largest):
    raise ValueError(
      f"size: expected at most {min(largest)} pixels, so that each held-out photograph gives a crop to either purpose, "
      f"got {size}; pass `size={min(largest)}` or less"
    )
  most = min(map(len, groups)) // 2 * len(groups)
  if count > most:
    raise ValueError(f"num_images: expected at most {most} crops of {size} pixels of the photographs, got {count}")
  picked = [group[i] for i in range(math.ceil(count / len(groups))) for group in groups][:count]
  return [name for name, _ in picked], images.from_uint8(np.stack([crop for _, crop in picked]))


def _largest_of_two(height, width):
  """Return the edge of the largest square that fits twice, side by side or one above the other; pixels."""
  return max(min(height, width // 2), min(height // 2, width))


def _faces(purpose, count, size, flip):
  root = jax.random.key(FACES_SEEDS[purpose])
  # A picture depends on how keys are drawn and, in its last digits, on how many are drawn at once: neither may change.
  if purpose in PURPOSES:
    numbers = jnp.arange(_rounded(count, RENDERED), dtype=jnp.uint32)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(numbers).reshape(-1, RENDERED)
  else:
    keys = jax.random.split(root, _rounded(count, RENDERED_OF_SETS)).reshape(-1, RENDERED_OF_SETS)
  drawn = [np.asarray(faces.render_unsided(some, size, flip)) for some in keys]
  return [f"face-{i:02d}" for i in range(count)], np.concatenate(drawn)[:count]


def _rounded(count: int, multiple: int) -> int:
  """Return the least multiple that is at least `count`."""
  return math.ceil(count / multiple) * multiple
