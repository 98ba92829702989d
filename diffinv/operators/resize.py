"""Super-resolution: an image is measured at a whole fraction of its size."""

import numbers

import jax.numpy as jnp
import numpy as np

from diffinv.operators.base import LinearOperator, Spectral, image_shape
from diffinv.operators.separable import Separable, separable
from diffinv.pytree import pytree, static

KEYS_A = -0.5  # Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981
KEYS_RADIUS = 2  # in output pixels


def super_resolution(shape: tuple[int, int, int], factor: int) -> Separable:
  """Build antialiased bicubic downsampling, as DPS and MATLAB's imresize do it.

  y_i = sum_j k((j - u_i) / factor) x_j, u_i = (i + 1/2) factor - 1/2, k Keys's cubic with a = -0.5, weights normalized
  to sum to 1; 4 factor taps along each axis; the edges mirror the image, edge pixels repeated (`jax.image.resize`
  renormalizes there instead).

  Args:
    shape: of the large image, (h, w, c).
    factor: a whole number that divides height and width.

  Raises:
    ValueError: the factor does not divide the size.
  """
  shape = image_shape(shape)
  _check_factor(shape, factor)
  return separable(shape, bicubic_matrix(shape[0], factor), bicubic_matrix(shape[1], factor))


def bicubic_matrix(pixels: int, factor: int) -> np.ndarray:
  """Return antialiased bicubic downsampling of one axis, `[pixels / factor, pixels]`, float64."""
  centers = (np.arange(pixels // factor) + 0.5) * factor - 0.5
  first = np.floor(centers - KEYS_RADIUS * factor).astype(int)
  taps = first[:, None] + np.arange(2 * KEYS_RADIUS * factor + 2)
  weights = keys_cubic((taps - centers[:, None]) / factor)
  weights /= weights.sum(axis=1, keepdims=True)
  mirror = np.concatenate([np.arange(pixels), np.arange(pixels)[::-1]])
  matrix = np.zeros((pixels // factor, pixels))
  np.add.at(matrix, (np.arange(len(centers))[:, None], mirror[taps % (2 * pixels)]), weights)
  return matrix


def keys_cubic(u: np.ndarray) -> np.ndarray:
  """Return Keys's cubic convolution kernel with a = -0.5 (Eq. 15)."""
  u = np.abs(u)
  inner = (KEYS_A + 2.0) * u**3 - (KEYS_A + 3.0) * u**2 + 1.0
  outer = KEYS_A * (u**3 - 5.0 * u**2 + 8.0 * u - 4.0)
  return np.where(u <= 1.0, inner, np.where(u <= 2.0, outer, 0.0))


@pytree
class BlockAverage(LinearOperator):
  """y = the mean of each block of f x f pixels: A A^T = I / f^2."""

  factor: int = static()  # f

  def __call__(self, x):
    h, w, c = self.in_shape
    return jnp.mean(x.reshape(h // self.factor, self.factor, w // self.factor, self.factor, c), axis=(1, 3))

  def adjoint(self, y):
    return self.pinv(y) / self.factor**2

  def pinv(self, y):
    return jnp.repeat(jnp.repeat(y, self.factor, axis=0), self.factor, axis=1)

  def solve(self, v, gamma):
    return v / (1.0 / self.factor**2 + gamma)

  def spectral(self):
    f = self.factor
    return Spectral(jnp.asarray(1.0 / f), lambda x: f * self(x), lambda coords: f * self.adjoint(coords), lambda y: y)


def block_average(shape: tuple[int, int, int], factor: int) -> BlockAverage:
  """Build downsampling by the mean of blocks of `factor` x `factor` pixels.

  Raises:
    ValueError: the factor does not divide the size.
  """
  shape = image_shape(shape)
  _check_factor(shape, factor)
  return BlockAverage(shape, int(factor))


def _check_factor(shape, factor):
  if not isinstance(factor, numbers.Integral) or factor < 1 or shape[0] % factor or shape[1] % factor:
    raise ValueError(
      f"factor: expected a whole number that divides {shape[0]}x{shape[1]}, got {factor}; crop the image or change it"
    )
