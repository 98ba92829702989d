"""Compressed sensing: few measurements, each of the whole image.

Two ensembles. The randomized cosine transform is fast, matrix-free and has orthonormal rows; Gaussian matrices are the
theory's, stored, for small images only.
"""

import math
import numbers

import jax
import jax.numpy as jnp
from jax.scipy.fft import dctn, idctn

from diffinv.operators.base import PINV_CUTOFF, LinearOperator, Spectral, as_picture, image_shape
from diffinv.pytree import pytree

MAX_ENTRIES = 2**26  # of a stored matrix: 256 MiB in float32, and its SVD takes minutes


@pytree
class RandomizedDCT(LinearOperator):
  """y = R D E x in each channel, `[m, c]`: random signs E, the orthonormal 2-D DCT D, a random choice R: A A^T = I.

  A^+ = A^T and all singular values are 1.
  """

  signs: jax.Array  # E, [h, w, 1], -1 or 1
  chosen: jax.Array  # R, [m], places in the flattened spectrum

  is_picture = False

  def __call__(self, x):
    spectrum = dctn(self.signs * x, axes=(0, 1), norm="ortho")
    return spectrum.reshape(-1, self.in_shape[2])[self.chosen]

  def adjoint(self, y):
    height, width, channels = self.in_shape
    spectrum = jnp.zeros((height * width, channels), y.dtype).at[self.chosen].set(y)
    return self.signs * idctn(spectrum.reshape(height, width, channels), axes=(0, 1), norm="ortho")

  def pinv(self, y):
    return self.adjoint(y)

  def solve(self, v, gamma):
    return v / (1.0 + gamma)

  def spectral(self):
    return Spectral(jnp.ones(()), self, self.adjoint, lambda y: y)

  def picture(self, y):
    """Return A^T y, clipped to [-1, 1], `[h, w, 1 or 3]`."""
    return jnp.clip(as_picture(self.adjoint(y)), -1.0, 1.0)


def compressed_sensing(key: jax.Array, shape: tuple[int, int, int], *, ratio: float = 0.25) -> RandomizedDCT:
  """Draw a subsampled randomized cosine transform, all channels alike.

  Do, Gan, Nguyen and Tran, "Fast and Efficient Compressive Sensing Using Structurally Random Matrices", IEEE TSP 60(1),
  2012, arXiv 1106.5037, with random signs.

  Args:
    key: of the signs and of the choice.
    shape: of the image, (h, w, c).
    ratio: m / (h w), in (0, 1]; exactly round(ratio h w) measurements a channel.

  Raises:
    ValueError: the ratio is out of range or leaves no measurement.
  """
  height, width, _ = shape = image_shape(shape)
  count = round(ratio * height * width) if 0.0 < ratio <= 1.0 else 0
  if count < 1:
    raise ValueError(f"ratio: expected a part in (0, 1] that leaves a measurement of {height * width}, got {ratio}")
  k1, k2 = jax.random.split(key)
  signs = jax.random.rademacher(k1, (height, width, 1), jnp.result_type(float))
  return RandomizedDCT(shape, signs, jnp.sort(jax.random.permutation(k2, height * width)[:count]))


@pytree
class GaussianMatrix(LinearOperator):
  """y = A x, `[m]`, of the flattened image, all channels together; A is stored with its SVD U diag(s) V^T."""

  matrix: jax.Array  # A, [m, h w c]
  u: jax.Array  # [m, k], k = min(m, h w c)
  s: jax.Array  # [k], descending
  v: jax.Array  # [h w c, k]

  is_picture = False

  def __call__(self, x):
    return _times(self.matrix, x.ravel())

  def adjoint(self, y):
    return _times(self.matrix.T, y).reshape(self.in_shape)

  def solve(self, v, gamma):
    coords = _times(self.u.T, v)
    solved = _times(self.u, coords / (self.s**2 + gamma))
    if self.u.shape[0] == self.u.shape[1]:
      return solved
    return solved + (v - _times(self.u, coords)) / gamma  # more measurements than values: what A never says

  def ridge(self, y, gamma):
    """Return A^T (A A^T + gamma I)^-1 y: in `solve` the terms in 1 / gamma, which A^T cancels, would swamp it."""
    return _times(self.v, self.s / (self.s**2 + gamma) * _times(self.u.T, y)).reshape(self.in_shape)

  def spectral(self):
    """Return the SVD; singular values below `PINV_CUTOFF` times the largest count as zero."""
    return Spectral(
      self._kept_values(),
      lambda x: _times(self.v.T, x.ravel()),
      lambda coords: _times(self.v, coords).reshape(self.in_shape),
      lambda y: _times(self.u.T, y),
    )

  def picture(self, y):
    """Return A^T y, clipped to [-1, 1], `[h, w, 1 or 3]`."""
    return jnp.clip(as_picture(self.adjoint(y)), -1.0, 1.0)

  def _kept_values(self):
    return jnp.where(self.s > PINV_CUTOFF * self.s[0], self.s, 0.0)


def gaussian_sensing(key: jax.Array, shape: tuple[int, int, int], *, measurements: int) -> GaussianMatrix:
  """Draw A with independent entries N(0, 1 / m): E ||A x||^2 = ||x||^2, ||A|| near 1 + sqrt(n / m), n = h w c.

  Jalal, Karmalkar, Dimakis and Price, "Instance-Optimal Compressed Sensing via Posterior Sampling", ICML 2021,
  arXiv 2106.11438.

  Args:
    key: of the entries.
    shape: of the image, (h, w, c), small: the matrix is stored.
    measurements: m.

  Raises:
    ValueError: there is no measurement, or the matrix is too large.
  """
  shape = image_shape(shape)
  values = math.prod(shape)
  if not isinstance(measurements, numbers.Integral) or measurements < 1 or measurements * values > MAX_ENTRIES:
    raise ValueError(
      f"measurements: expected a whole number, 1 to {MAX_ENTRIES // values} of {values} values, got {measurements}; "
      "use compressed_sensing, which stores no matrix"
    )
  matrix = jax.random.normal(key, (measurements, values)) / math.sqrt(measurements)
  u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
  return GaussianMatrix(shape, matrix, u, s, vt.T)


def _times(matrix, vector):
  """Return matrix vector in full float32: accelerators would round the factors otherwise."""
  return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)
