"""Convolutions whose gradient is as fast as they are, also within loops."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Return the zero-padded correlation of `x` `[b, h, w, c]` with `kernel` `[k, k, c, d]`, odd k, `[b, h, w, d]`.

  The gradient of x is the convolution by the mirrored kernel with its channels exchanged. JAX writes it as one whose
  kernel has them in the other order; XLA's CPU compiler sorts that out in the outermost computation only, and within a
  `scan` falls back to plain loops, four times slower. Here the kernel itself is turned. Reverse mode only.
  """
  return _correlate(x, kernel)


def _correlate(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _save(x, kernel):
  return convolve(x, kernel), (x, kernel)


def _gradients(saved, cotangent):
  x, kernel = saved
  (kernel_bar,) = jax.linear_transpose(lambda k: _correlate(x, k), kernel)(cotangent)
  return convolve(cotangent, jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)), kernel_bar


convolve.defvjp(_save, _gradients)
