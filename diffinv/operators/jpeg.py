"""What a JPEG file keeps of a picture: cosine coefficients of blocks of its luma and chroma, rounded to steps.

Rounding aside, it is linear: R, G and B to Y, Cb and Cr (ITU-T T.871), chroma averaged over neighboring pixels (4:2:0
over 2x2), the orthonormal 8x8 DCT of every block (ITU-T T.81, A.3.3). The steps say how large the noise of each
coefficient is, see `noise.Rounding`: it is what was lost. Kawar, Song, Ermon and Elad, "JPEG Artifact Correction using
Denoising Diffusion Restoration Models", 2022, arXiv 2209.11888, has the same task and rounds within its steps.

A measurement has the file's own layout: units of the picture, of some luma blocks and one of each chroma. Coefficients
are those of pictures in [-1, 1]; a byte is 2 / 255 of it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.noise import Rounding
from diffinv.operators.base import CG_STEPS, LinearOperator, conjugate_gradients, image_shape
from diffinv.pytree import pytree, static

EDGE = 8  # of a block, pixels
BYTE = 127.5  # bytes in 1
# Y, Cb and Cr of R, G and B.
COLORS = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
DEFAULT_SAMPLING = (2, 2)  # 4:2:0, as Pillow and libjpeg compress
# Tables K.1 and K.2 of ITU-T T.81, row after row: what libjpeg calls quality 50.
LUMA_STEPS = (
  *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
  *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
  *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_STEPS = (
  *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
  *(47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32),
)


@pytree
class BlockCosines(LinearOperator):
  """y = M D S C x, `[rows, columns, blocks, 8, 8]`: colors C, averages S, cosines D; M leaves out what no file has.

  Pictures that are no whole units go on as their edges are.
  """

  kept: jax.Array  # M: 1 for a block that the file has, else 0; [rows, columns, blocks, 1, 1]
  sampling: tuple[int, int] = static()  # pixels to one of chroma, down and across
  window: tuple[int, int, int, int] = static()  # where the picture lies: top, left, height, width; around it, fillers

  is_picture = False

  def __call__(self, x):
    x = jnp.pad(x, [(0, to - n) for to, n in zip(self.covered, x.shape[:2])] + [(0, 0)], mode="edge")
    planes = _times(x, np.asarray(COLORS)) if self.in_shape[2] == 3 else x
    units = _units(planes, self.sampling)  # [rows, down, 8, columns, across, 8, channels]
    luma = units[..., 0].transpose(0, 3, 1, 4, 2, 5).reshape(*self.kept.shape[:2], -1, EDGE, EDGE)
    chroma = _averaged(planes[..., 1:], self.sampling).transpose(0, 2, 4, 1, 3)
    return self.kept * _cosines(jnp.concatenate([luma, chroma], axis=2), forward=True)

  def ridge(self, y, gamma):
    """Return A^T (A A^T + gamma I)^-1 y; as (A^T A + gamma I)^-1 A^T y where blocks have more values than the picture.

    The part of such a y that no picture gives would grow by 1 / gamma, and drown the rest in float32.
    """
    if math.prod(self.out_shape) <= math.prod(self.in_shape):
      return super().ridge(y, gamma)
    return conjugate_gradients(lambda x: self.adjoint(self(x)) + gamma * x, self.adjoint(y), CG_STEPS)

  @property
  def covered(self) -> tuple[int, int]:
    """Height and width of the units, pixels."""
    (rows, columns, *_), (down, across) = self.kept.shape, self.sampling
    return rows * EDGE * down, columns * EDGE * across

  def observed(self, y):
    return jnp.broadcast_to(self.kept, y.shape)

  def inside(self, x: jax.Array) -> jax.Array:
    """Return the picture without its fillers."""
    top, left, height, width = self.window
    return x[top : top + height, left : left + width]

  def picture(self, y):
    """Return the picture that a decoder makes, each value of chroma for all of its pixels; clipped, `[h, w, c]`."""
    (rows, columns, *_), (down, across) = self.kept.shape, self.sampling
    blocks = _cosines(y, forward=False)
    luma = blocks[:, :, : down * across].reshape(rows, columns, down, across, EDGE, EDGE)
    planes = [luma.transpose(0, 2, 4, 1, 3, 5).reshape(self.covered)]
    for i in range(down * across, y.shape[2]):
      plane = blocks[:, :, i].transpose(0, 2, 1, 3).reshape(rows * EDGE, columns * EDGE)
      planes.append(jnp.repeat(jnp.repeat(plane, down, axis=0), across, axis=1))
    found = jnp.stack(planes, axis=-1)
    if len(planes) == 3:
      found = _times(found, np.linalg.inv(np.asarray(COLORS)))
    return jnp.clip(self.inside(found), -1.0, 1.0)


def jpeg(shape: tuple[int, int, int], *, sampling: tuple[int, int] = DEFAULT_SAMPLING) -> BlockCosines:
  """Build what JPEG keeps of pictures of `shape`, before it rounds.

  Args:
    shape: of the image, (h, w, 1 or 3).
    sampling: pixels to one of chroma, down and across: (2, 2) is 4:2:0, (1, 2) 4:2:2, (2, 1) 4:4:0, (1, 1) 4:4:4.

  Raises:
    ValueError: the shape has another number of channels.
  """
  height, width, channels = shape = image_shape(shape)
  if channels not in (1, 3):
    raise ValueError(f"shape: expected gray or color, 1 or 3 channels, got {channels}")
  down, across = sampling if channels == 3 else (1, 1)
  rows, columns = -(-height // (EDGE * down)), -(-width // (EDGE * across))
  has = lambda units, blocks, pixels: EDGE * np.arange(units * blocks).reshape(units, blocks) < pixels
  luma = has(rows, down, height)[:, None, :, None] & has(columns, across, width)[None, :, None, :]
  kept = np.pad(luma.reshape(rows, columns, -1), ((0, 0), (0, 0), (0, channels - 1)), constant_values=True)
  return BlockCosines(shape, jnp.asarray(kept[..., None, None], float), (down, across), (0, 0, height, width))


def tables(quality: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps of luma and chroma, [8, 8], of bytes, that libjpeg has for a quality, 1 to 100.

  Raises:
    ValueError: the quality is out of range.
  """
  if not 1 <= quality <= 100:
    raise ValueError(f"quality: expected 1 to 100, got {quality}")
  percent = 5000 // quality if quality < 50 else 200 - 2 * quality
  luma, chroma = (np.clip((np.array(table) * percent + 50) // 100, 1, 255) for table in (LUMA_STEPS, CHROMA_STEPS))
  return luma.reshape(EDGE, EDGE), chroma.reshape(EDGE, EDGE)


def rounding(steps: tuple[np.ndarray, ...], *, sampling: tuple[int, int] = DEFAULT_SAMPLING) -> Rounding:
  """Return the noise of a measurement by `jpeg`: that of rounding to steps.

  Args:
    steps: of luma, or of luma, Cb and Cr, each [8, 8], of bytes.
    sampling: pixels to one of chroma, down and across.
  """
  luma, *chroma = (np.asarray(table, np.float64) for table in steps)
  blocks = np.stack([*[luma] * (sampling[0] * sampling[1] if chroma else 1), *chroma])
  origin = np.zeros_like(blocks)
  # Bytes are counted from 128, where x = 0 is 127.5: half a byte in each of 64 pixels, of orthonormal cosines.
  origin[: len(blocks) - len(chroma), 0, 0] = 0.5 * EDGE
  return Rounding(*(jnp.asarray(part / BYTE, float)[None, None] for part in (blocks, origin)))


def rounding_of(quality: int, channels: int, *, sampling: tuple[int, int] = DEFAULT_SAMPLING) -> Rounding:
  """Return the noise of a quality of libjpeg, 1 to 100, for pictures of 1 or 3 channels."""
  luma, chroma = tables(quality)
  return rounding((luma, chroma, chroma) if channels == 3 else (luma,), sampling=sampling)


def _times(x, matrix):
  """Return each pixel times a matrix, in full float32."""
  return jnp.einsum("ij,...j->...i", jnp.asarray(matrix, x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _units(planes, sampling):
  """Cut planes, [h, w, c], into units of blocks, [rows, down, 8, columns, across, 8, c]."""
  (height, width, channels), (down, across) = planes.shape, sampling
  rows, columns = height // (EDGE * down), width // (EDGE * across)
  return planes.reshape(rows, down, EDGE, columns, across, EDGE, channels)


def _averaged(planes, sampling):
  """Return means over neighbors as blocks, [rows, 8, columns, 8, c]."""
  (height, width, channels), (down, across) = planes.shape, sampling
  rows, columns = height // (EDGE * down), width // (EDGE * across)
  return jnp.mean(planes.reshape(rows, EDGE, down, columns, EDGE, across, channels), axis=(2, 5))


def _cosines(blocks, *, forward):
  """Return the orthonormal cosine transform of blocks, [..., 8, 8], or its inverse."""
  k = np.arange(EDGE)
  matrix = np.cos(np.pi * (k + 0.5) * k[:, None] / EDGE) * np.where(k == 0, 1.0, np.sqrt(2.0))[:, None] / np.sqrt(EDGE)
  d = jnp.asarray(matrix if forward else matrix.T, blocks.dtype)
  return jnp.einsum("ui,...ij,vj->...uv", d, blocks, d, precision=jax.lax.Precision.HIGHEST)
