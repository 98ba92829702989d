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
    flat = jnp.reshape(cotangent, (height * width, features))

    def product(i, j):
      shifted = jnp.reshape(padded[i : i + height, j : j + width], (height * width, channels))
      return jnp.matmul(flat.T, shifted, preferred_element_type=total.dtype)

    return total + jnp.stack([jnp.stack([product(i, j) for j in range(size)]) for i in range(size)]), None

  dtype = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32
  zero = jnp.zeros((size, size, features, channels), dtype)
  total, _ = jax.lax.scan(add_image, zero, (padded, cotangent))
  return jnp.swapaxes(total, 2, 3).astype(x.dtype)
