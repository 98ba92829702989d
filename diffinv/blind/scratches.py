"""Scratches and dust on a picture: a proposal of what to fill in, to be looked at and edited.

What is thinner than WIDTH pixels, nearly white and much brighter than its surroundings is what an opening takes away
(the white top-hat: Serra, Image Analysis and Mathematical Morphology, 1982); nearly black and darker, a closing. How
much is much, the thin details around say: in foliage there are many, in a sky hardly any. A thin light of the picture
itself, such as a rim or a letter, looks the same: no rule of the values alone tells them apart. JPEG files of half the
resolution in color hide some of what is thin and white on a colored ground.
"""

from typing import Any

import numpy as np
from scipy import ndimage

WIDTH = 7  # pixels: of a square that a scratch or a speck does not hold
NEAR = 0.25  # of a range of 2: what counts as nearly white or black
CONTRAST = 0.4  # of a range of 2: the least difference to the surroundings
STRIDE, AROUND = 3, 9  # pixels that are looked at of the surroundings: every third, nine by nine of these
USUAL, TIMES = 80.0, 2.0  # percentile of the thin details around, and how far a scratch stands out from them
PARTLY = 0.5  # of that: what is beside a scratch, and partly covered by it


def kept(y: Any) -> np.ndarray:
  """Return a mask of scratches and dust, `[h, w, 1]`: 1 kept, 0 missing.

  Args:
    y: a picture, `[h, w, c]`, [-1, 1].
  """
  y = np.asarray(y, np.float32)
  missing = _lines(np.min(y, axis=-1)) | _lines(-np.max(y, axis=-1))  # what is white is bright in every channel
  return np.where(missing, 0.0, 1.0).astype(np.float32)[..., None]


def _lines(v: np.ndarray) -> np.ndarray:
  """Return where a picture, [h, w], holds something thin and nearly white, with its edges."""
  bright, dark = v - ndimage.grey_opening(v, (WIDTH, WIDTH)), ndimage.grey_closing(v, (WIDTH, WIDTH)) - v
  least = np.maximum(CONTRAST, TIMES * _usual(np.maximum(bright, dark)))
  surely = (bright > least) & (v > 1.0 - NEAR)
  whole = ndimage.binary_propagation(surely, np.ones((3, 3)), mask=bright > PARTLY * least)
  return ndimage.binary_dilation(whole)


def _usual(details: np.ndarray) -> np.ndarray:
  """Return how large thin details are around each pixel, [h, w]."""
  few = ndimage.percentile_filter(details[::STRIDE, ::STRIDE], USUAL, size=AROUND)
  height, width = details.shape
  return np.repeat(np.repeat(few, STRIDE, axis=0), STRIDE, axis=1)[:height, :width]
