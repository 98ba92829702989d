"""Procedural portraits: an endless, license-free training set of faces, drawn by pure JAX.

`parameters` says what a portrait is drawn from, `distribution` how that is drawn at random, and `drawing` how the
picture is made of it, on the geometry of `surfaces` and the shapes of `sdf`.
"""

import functools

import jax
import jax.numpy as jnp

from diffinv.data.faces.distribution import sample_params
from diffinv.data.faces.drawing import draw
from diffinv.data.faces.parameters import FaceParams

__all__ = ["FaceParams", "draw", "render", "render_unsided", "sample_params"]


def render(key: jax.Array, size: int = 64) -> jax.Array:
  """Draw the portrait of `key`: `[size, size, 3]`, float32, in [-1, 1]; the same key gives the same picture."""
  return draw(sample_params(key), size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def render_unsided(keys: jax.Array, size: int, flip: bool = True) -> jax.Array:
  """Draw the portraits of keys `[n]`, each mirrored with even chance where `flip` is set: `[n, size, size, 3]`."""

  def one(key):
    k1, k2 = jax.random.split(key)
    image = render(k1, size)
    return jnp.where(jax.random.bernoulli(k2) & flip, image[:, ::-1], image)

  return jax.vmap(one)(keys)
