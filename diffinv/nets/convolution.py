"""Convolutions whose gradients are as fast as they are, also within loops and on CPUs."""

import functools

import jax
import jax.numpy as jnp


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Return the zero-padded correlation of `x` `[b, h, w, c]` with `kernel` `[k, k, c, d]`, odd k, `[b, h, w, d]`.

  The gradient of x is a convolution with the mirrored kernel, its channels exchanged. JAX writes it with the channels
  in the other order. XLA's CPU compiler puts that right in the outermost computation only; within a `scan` it falls
  back to plain loops, four times slower. Here the kernel itself is rearranged.

  The gradient of the kernel is a convolution with a kernel as large as the image, for which XLA's CPU code is not made:
  on some processors it is twenty times slower than the forward pass. On CPUs we sum matrix products instead. Reverse
  mode only.
  """
  return _correlate(x, kernel)


def _correlate(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _save(x, kernel):
  return convolve(x, kernel), (x, kernel)


def _gradients(saved, cotangent):
  x, kernel = saved
  directly = lambda x, cotangent: jax.linear_transpose(lambda k: _correlate(x, k), kernel)(cotangent)[0]
  kernel_bar = jax.lax.platform_dependent(
    x, cotangent, cpu=functools.partial(gradient_by_products, len(kernel)), default=directly
  )
  return convolve(cotangent, jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)), kernel_bar


convolve.defvjp(_save, _gradients)


def gradient_by_products(size: int, x: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Return sum_n x[n + offset] cotangent[n]^T for the size^2 offsets, `[size, size, c, d]`, one image at a time.

  The offsets along a row are channels of one matrix: `size` products an image, of wide matrices. Other rows are parts
  of the same matrix, and copy nothing.

  Args:
    size: of the kernel, odd.
    x: `[b, h, w, c]`.
    cotangent: of the result, `[b, h, w, d]`.
  """
  reach = size // 2
  _, height, width, channels = x.shape
  features = cotangent.shape[-1]
  padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

  def add_image(total, image):
    padded, cotangent = image
    shifted = jnp.concatenate([padded[:, j : j + width] for j in range(size)], axis=-1)
    rows = jnp.reshape(shifted, ((height + 2 * reach) * width, size * channels))
    flat = jnp.reshape(cotangent, (height * width, features)).T

    def product(i):
      return jnp.matmul(flat, rows[i * width : (i + height) * width], preferred_element_type=total.dtype)

    return total + jnp.stack([product(i) for i in range(size)]), None

  dtype = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32
  total, _ = jax.lax.scan(add_image, jnp.zeros((size, features, size * channels), dtype), (padded, cotangent))
  return jnp.reshape(total, (size, features, size, channels)).transpose(0, 2, 3, 1).astype(x.dtype)
