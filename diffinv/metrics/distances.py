"""Distances between two sets of images: the sliced Wasserstein distance.

  SW2(P, Q)^2 = E_theta W2(theta . P, theta . Q)^2,   theta uniform on the unit sphere.

In one dimension, W2 between sets of equal size is exact: it pairs their sorted values. There is no training, no feature
and no parameter but the directions. If Q is P shifted by v, the distance is |v| / sqrt(d), with all directions of R^d.

Rabin, Peyre, Delon and Bernot, "Wasserstein barycenter and its application to texture mixing", SSVM 2011; of patches
of images: Karras, Aila, Laine and Lehtinen, "Progressive growing of GANs", ICLR 2018, arXiv 1710.10196, Sec. 5.
Differs from the latter: patches keep their mean and contrast, and are cut from the images, not from their Laplacian
pyramid.
"""

import jax
import jax.numpy as jnp


def random_directions(key: jax.Array, dimension: int, count: int) -> jax.Array:
  """Draw `count` directions uniformly, unit columns, `[dimension, count]`."""
  theta = jax.random.normal(key, (dimension, count))
  return theta / jnp.linalg.norm(theta, axis=0, keepdims=True)


def sliced_wasserstein(a: jax.Array, b: jax.Array, directions: jax.Array) -> jax.Array:
  """Return (mean over directions of W2^2)^1/2, [], in units of the values.

  Args:
    a: a set of vectors, `[n, d]`.
    b: another set of as many vectors.
    directions: unit columns, `[d, k]`; use the same ones for all sets to be compared.

  Raises:
    ValueError: the sets differ in shape.
  """
  if a.shape != b.shape:
    raise ValueError(f"b: expected the shape {a.shape} of a, got {b.shape}; draw as many samples of each")
  sorted_a, sorted_b = (jnp.sort(jnp.matmul(x, directions, precision="highest"), axis=0) for x in (a, b))
  return jnp.sqrt(jnp.mean((sorted_a - sorted_b) ** 2))


def random_patches(key: jax.Array, images: jax.Array, *, size: int, count: int) -> jax.Array:
  """Cut `count` square patches out of each image at random places, `[n * count, size * size * c]`.

  Args:
    key: for the places.
    images: `[n, h, w, c]`.
    size: edge of a patch, pixels.
    count: patches from each image.
  """
  n, height, width, channels = images.shape
  k1, k2 = jax.random.split(key)
  tops = jax.random.randint(k1, (n, count), 0, height - size + 1)
  lefts = jax.random.randint(k2, (n, count), 0, width - size + 1)

  def cut(image, top, left):
    return jnp.ravel(jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels)))

  patches = jax.vmap(jax.vmap(cut, in_axes=(None, 0, 0)))(images, tops, lefts)
  return jnp.reshape(patches, (n * count, -1))


def reduced(images: jax.Array, size: int) -> jax.Array:
  """Reduce images to `size` x `size` pixels by the mean of blocks, `[n, size * size * c]`.

  Raises:
    ValueError: `size` does not divide their height and width.
  """
  n, height, width, channels = images.shape
  if height % size or width % size:
    raise ValueError(f"size: expected a divisor of {height} and {width} pixels, got {size}")
  blocks = jnp.reshape(images, (n, size, height // size, size, width // size, channels))
  return jnp.reshape(jnp.mean(blocks, axis=(2, 4)), (n, -1))
