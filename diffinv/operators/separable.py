"""Operators that act on rows and columns separately, with exact inverses from two small SVDs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.operators.base import PINV_CUTOFF, LinearOperator, Spectral, image_shape
from diffinv.pytree import pytree


class Factor(NamedTuple):
  """A matrix along one axis and its singular value decomposition U diag(s) V^T."""

  matrix: jax.Array  # [m, n], m <= n
  u: jax.Array  # [m, m]
  s: jax.Array  # [m], descending
  v: jax.Array  # [n, m]


@pytree
class Separable(LinearOperator):
  """y = R x C^T in each channel: A = R kron C, whose singular values are the products of those of R and C."""

  rows: Factor  # R, along the height
  cols: Factor  # C, along the width

  def __call__(self, x):
    return _along(self.rows.matrix, self.cols.matrix, x)

  def adjoint(self, y):
    return _along(self.rows.matrix.T, self.cols.matrix.T, y)

  def solve(self, v, gamma):
    coords = _along(self.rows.u.T, self.cols.u.T, v) / (self._singular_values() ** 2 + gamma)
    return _along(self.rows.u, self.cols.u, coords)

  def spectral(self):
    """Return the SVD; singular values below `PINV_CUTOFF` times the largest count as zero."""
    rows, cols = self.rows, self.cols
    return Spectral(
      self._kept_values(),
      lambda x: _along(rows.v.T, cols.v.T, x),
      lambda coords: _along(rows.v, cols.v, coords),
      lambda y: _along(rows.u.T, cols.u.T, y),
    )

  def _singular_values(self):
    return self.rows.s[:, None, None] * self.cols.s[None, :, None]

  def _kept_values(self):
    """Return the singular values, with 0 for those that `spectral` leaves out."""
    s = self._singular_values()
    return jnp.where(s > PINV_CUTOFF * self.rows.s[0] * self.cols.s[0], s, 0.0)


def separable(shape: tuple[int, int, int], rows: np.ndarray, cols: np.ndarray) -> Separable:
  """Build A = rows kron cols.

  Args:
    shape: of the image, (h, w, c).
    rows: `[p, h]`, p <= h, float64.
    cols: `[q, w]`, q <= w, float64.

  Raises:
    ValueError: a matrix does not fit the image, or makes it larger.
  """
  shape = image_shape(shape)
  for name, matrix, pixels in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
    if matrix.ndim != 2 or matrix.shape[1] != pixels or matrix.shape[0] > pixels:
      raise ValueError(f"{name}: expected a matrix [m, {pixels}] with m <= {pixels}, got {matrix.shape}")
  return Separable(shape, _factor(rows), _factor(cols))


def _factor(matrix: np.ndarray) -> Factor:
  u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
  return Factor(*(jnp.asarray(array, float) for array in (matrix, u, s, vt.T)))


def _along(left: jax.Array, right: jax.Array, x: jax.Array) -> jax.Array:
  """Return left x right^T in each channel, in full float32: accelerators would round the factors otherwise."""
  exact = jax.lax.Precision.HIGHEST
  half = jnp.einsum("ph,hwc->pwc", left, x, precision=exact)
  return jnp.einsum("qw,pwc->pqc", right, half, precision=exact)
