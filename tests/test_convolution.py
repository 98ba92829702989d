"""The networks' convolution: values, first and second gradients, and the form in which compiled loops get it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks

from diffinv.nets import convolution


def plain(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def drawn(size, height, width):
  keys = jax.random.split(jax.random.key(size), 3)
  shapes = ((2, height, width, 3), (size, size, 3, 5), (2, height, width, 5))
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


@functools.partial(reference_networks.compiled, static_argnums=0)
def derivatives(convolve, x, kernel, weights):
  """Return the value, the gradients of a loss, and the gradient of the length of one of them."""
  loss = lambda x, kernel: jnp.sum(weights * jnp.sin(convolve(x, kernel)))
  length = lambda x: jnp.sum(jax.grad(loss)(x, kernel) ** 2)
  return convolve(x, kernel), jax.grad(loss, (0, 1))(x, kernel), jax.grad(length)(x)


@pytest.mark.parametrize("size, height, width", [(3, 6, 8), (5, 7, 6), (1, 4, 4), (3, 2, 1)])
@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_plain_convolution(size, height, width):
  mine, theirs = (derivatives(convolve, *drawn(size, height, width)) for convolve in (convolution.convolve, plain))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mine, theirs)


def test_images_are_convolved_apart_under_vmap():
  x, kernel, weights = drawn(3, 6, 8)
  one = lambda x, w: jax.grad(lambda x: jnp.sum(w[None] * convolution.convolve(x[None], kernel)))(x)
  want = jax.jit(jax.grad(lambda x: jnp.sum(weights * plain(x, kernel))))(x)
  np.testing.assert_allclose(jax.jit(jax.vmap(one))(x, weights), want, rtol=1e-4, atol=1e-4)


def test_gradients_in_a_loop_are_convolutions_in_the_fast_order():
  if jax.default_backend() != "cpu":
    pytest.skip("of the CPU's compiler")
  x, kernel = jnp.ones((1, 16, 16, 8)), jax.random.normal(jax.random.key(0), (3, 3, 8, 8))
  step = lambda x, _: (x - jax.grad(lambda x: jnp.sum(convolution.convolve(x, kernel) ** 2))(x), None)
  text = jax.jit(lambda x: jax.lax.scan(step, x, None, 3)[0]).lower(x).compile().as_text()
  assert "b01f_01io->b01f" in text and "b01f_01oi->b01f" not in text


def test_no_kernel_as_large_as_the_image_on_cpus():
  if jax.default_backend() != "cpu":
    pytest.skip("of CPUs")
  x, kernel, weights = drawn(3, 12, 14)
  loss = lambda convolve: lambda x, kernel: jnp.sum(weights * jnp.sin(convolve(x, kernel)))
  text = lambda convolve: jax.jit(jax.grad(loss(convolve), 1)).lower(x, kernel).compile().as_text()
  assert "size=12x14" in text(plain) and "size=12x14" not in text(convolution.convolve)


@pytest.mark.slow
def test_the_gradient_of_a_kernel_in_half_precision_is_summed_in_float32():
  x, _, weights = drawn(3, 48, 48)
  half_x, half_weights = x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16)
  gradient = jax.jit(functools.partial(convolution.gradient_by_products, 3))
  half = gradient(half_x, half_weights)
  assert half.dtype == jnp.bfloat16
  want = gradient(half_x.astype(jnp.float32), half_weights.astype(jnp.float32))
  # One rounding at the end, 2^-9 of the value; a sum in bfloat16 would round 4,608 times.
  np.testing.assert_allclose(half.astype(jnp.float32), want, rtol=2**-8, atol=1e-3)
