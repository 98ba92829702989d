"""How well a blur predicts a picture from a noisier copy of it: evidence that takes restorations alone.

With v = y + s z, z ~ N(0, I), a model of y predicts y from v; the right one has the least squared error, whatever s.
The errors at all s are the evidence (Guo, Shamai and Verdú, "Mutual Information and Minimum Mean-Square Error in
Gaussian Channels", IEEE Trans. IT 2005; Kong, Brekelmans and Ver Steeg, "Information-Theoretic Diffusion", ICLR 2023,
arXiv 2302.03792, Eq. 9), up to what does not depend on the model:

  -log p(y) = 1/2 ∫ E_z ||y - E[y | y + z / sqrt(snr)]||^2 d snr,   snr = 1 / s^2

Here y = A x + n with the blur A, and E[y | v] = A x_hat + sigma^2 / (sigma^2 + s^2) (v - A x_hat), where x_hat is the
picture restored from v, which is blurred by A and has noise of sqrt(sigma^2 + s^2). It is E[x | v] of an exact
restoration. Unlike the misfit of y, whose least value is that of no blur, the error takes account of how far x_hat is
from x: details that a wrong blur invents, or leaves out, do not predict a part of y that was not seen.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffinv.operators.base import LinearOperator
from diffinv.operators.blur import CircularBlur
from diffinv.operators.kernels import GaussianKernel

# (operator, standard deviation of the noise, measurement) -> picture
Restore = Callable[[LinearOperator, jax.Array, jax.Array], jax.Array]


def prediction_error(
  restore: Restore, operator: LinearOperator, y: jax.Array, sigma: jax.Array, s: jax.Array, z: jax.Array
) -> jax.Array:
  """Return (y - E[y | y + s z])^2 of each value, the shape of y.

  Args:
    restore: gives E[x | v], or what is near it.
    operator: A, the blur.
    y: the blurred picture, `operator.out_shape`.
    sigma: of its noise, [].
    s: of the noise that is added to it, [].
    z: that noise, standard normal, the shape of y.
  """
  v, total = y + s * z, jnp.sqrt(sigma**2 + s**2)
  blurred = operator(restore(operator, total, v))
  return (y - blurred - (sigma / total) ** 2 * (v - blurred)) ** 2


def tapered(y: jax.Array, width: int) -> jax.Array:
  """Return the picture `[h, w, c]` with a margin of `width` pixels that goes over into what is around the corner.

  A picture's blur does not wrap around; with such margins a circular one, whose inverse is exact, has no edge to
  sharpen.
  """
  height, across, _ = y.shape
  rise = lambda n: 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.clip((_from_edge(n, y.dtype) + 0.5) / width, 0.0, 1.0))
  inside = (rise(height)[:, None] * rise(across)[None, :])[:, :, None]
  around = CircularBlur(y.shape, GaussianKernel(width / 2).taps(4 * width + 1))(y)
  return inside * y + (1.0 - inside) * around


def interior(shape: tuple[int, ...], width: int) -> jax.Array:
  """Return 1 at pixels that are at least `width` from the edges, else 0, `[h, w, 1]`."""
  rows, columns = (_from_edge(n, jnp.result_type(float)) >= width for n in shape[:2])
  return jnp.asarray(rows[:, None] & columns[None, :], float)[:, :, None]


def _from_edge(n, dtype):
  places = jnp.arange(n, dtype=dtype)
  return jnp.minimum(places, n - 1 - places)
