"""Measurements in the Fourier domain."""

import jax
import jax.numpy as jnp

from diffinv.operators.base import Operator, image_shape
from diffinv.pytree import pytree, static


def centred_fft2(x: jax.Array) -> jax.Array:
  """Return the orthonormal 2-D Fourier transform of `x` `[h, w, ...]`, zero frequency in the middle, complex."""
  shifted = jnp.fft.fft2(jnp.fft.ifftshift(x, axes=(0, 1)), axes=(0, 1), norm="ortho")
  return jnp.fft.fftshift(shifted, axes=(0, 1))


@pytree
class FourierMagnitude(Operator):
  """y = |F P x| with P zero padding and F the centred orthonormal Fourier transform, `[h + 2p, w + 2q, c]`; nonlinear.

  x is used on its [-1, 1] scale, as in DPS. x, -x and x rotated by 180 degrees have the same y.
  """

  padding: tuple[int, int] = static()  # p, q: pixels on each side

  def __call__(self, x):
    p, q = self.padding
    return jnp.abs(centred_fft2(jnp.pad(x, ((p, p), (q, q), (0, 0)))))


def phase_retrieval(shape: tuple[int, int, int], *, oversample: float = 2.0) -> FourierMagnitude:
  """Build phase retrieval from an oversampled Fourier magnitude (Chung et al., arXiv 2209.14687).

  Args:
    shape: of the image, (h, w, c).
    oversample: the image is padded by oversample / 8 of its size on each side: 2 pads 256 pixels to 384.

  Raises:
    ValueError: `oversample` is negative.
  """
  shape = image_shape(shape)
  if oversample < 0:
    raise ValueError(f"oversample: expected 0 or more, got {oversample}")
  return FourierMagnitude(shape, (int(oversample / 8.0 * shape[0]), int(oversample / 8.0 * shape[1])))
