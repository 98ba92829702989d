"""The sliced Wasserstein distance of sets of images, and the patches and reductions that it is taken of."""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.metrics import distances


def test_sliced_wasserstein_of_equal_sets_is_zero_in_any_order():
  a = jax.random.normal(jax.random.key(0), (500, 12))
  directions = distances.random_directions(jax.random.key(1), 12, 64)
  np.testing.assert_allclose(jnp.linalg.norm(directions, axis=0), 1.0, rtol=1e-5)
  assert float(distances.sliced_wasserstein(a, a[::-1], directions)) < 1e-6


def test_sliced_wasserstein_of_a_shift_is_the_mean_projection_of_it():
  a = jax.random.normal(jax.random.key(0), (500, 12))
  v = jnp.arange(12.0) / 10
  directions = distances.random_directions(jax.random.key(1), 12, 4096)
  found = float(distances.sliced_wasserstein(a, a + v[None], directions))
  np.testing.assert_allclose(found, np.sqrt(np.mean((np.asarray(v) @ np.asarray(directions)) ** 2)), rtol=1e-5)
  # Over all directions |v| / sqrt(d); the mean of 4096 squares has a relative error of sqrt(2/4096) = 2 %.
  np.testing.assert_allclose(found, np.linalg.norm(v) / np.sqrt(12), rtol=0.04)


def test_sliced_wasserstein_of_scaled_gaussians_is_the_difference_of_their_deviations():
  k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
  a, b = jax.random.normal(k1, (20000, 5)), 1.5 * jax.random.normal(k2, (20000, 5))
  found = distances.sliced_wasserstein(a, b, distances.random_directions(k3, 5, 64))
  np.testing.assert_allclose(found, 0.5, rtol=0.03)  # W2(N(0, 1), N(0, 1.5^2)) = 0.5; sampling error about 1 %


def test_patches_are_cut_from_the_images():
  x = jnp.arange(2 * 9 * 9, dtype=jnp.float32).reshape(2, 9, 9, 1)
  patches = np.asarray(distances.random_patches(jax.random.key(0), x, size=3, count=5)).reshape(2, 5, 3, 3)
  steps = np.arange(3)[:, None] * 9 + np.arange(3)[None, :]
  np.testing.assert_array_equal(patches - patches[..., :1, :1], np.broadcast_to(steps, patches.shape))
  assert np.all(patches[0] < 81) and np.all(patches[1] >= 81)
  assert len(np.unique(patches[:, :, 0, 0])) > 5


def test_reduction_is_the_mean_of_blocks():
  x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
  found = np.asarray(distances.reduced(jnp.asarray(x), 4)).reshape(2, 4, 4, 3)
  np.testing.assert_allclose(found[1, 2, 3], x[1, 4:6, 6:8].mean(axis=(0, 1)), rtol=1e-5)
