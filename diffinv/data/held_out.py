"""Pictures that the shipped priors never saw: one set to test on, a disjoint one to choose settings by."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.data import faces, images, photos

SETS = ("photos", "faces")
TEST, VALIDATION = "test", "validation"
PURPOSES = (TEST, VALIDATION)
FACES_SEEDS = {TEST: 2_000_003, VALIDATION: 2_000_004}  # training uses its own seed, which nobody sets to these
RENDERED = 8  # faces drawn at once


def held_out(name: str, purpose: str, count: int, size: int = 64) -> tuple[list[str], np.ndarray]:
  """Return the names of `count` pictures and the pictures, `[count, size, size, 3]`, [-1, 1].

  Args:
    name: of SETS. photos: crops of the bundled photographs that `photos.HELD_OUT` lists; faces: new renders.
    purpose: of PURPOSES.
    count: how many; a larger count begins with the same pictures.
    size: pixels along an edge.

  Raises:
    ValueError: there are not enough crops for both purposes, or the photographs are not installed.
  """
  return _photos(purpose, count, size) if name == "photos" else _faces(purpose, count, size)


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


def _faces(purpose, count, size):
  root = jax.random.key(FACES_SEEDS[purpose])
  keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(-(-count // RENDERED) * RENDERED, dtype=jnp.uint32))
  drawn = [np.asarray(faces.render_unsided(some, size)) for some in keys.reshape(-1, RENDERED)]
  return [f"face-{i:02d}" for i in range(count)], np.concatenate(drawn)[:count]
