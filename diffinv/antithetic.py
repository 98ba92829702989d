"""Antithetic chains: pairs with opposite noise, whose mean is nearer the posterior mean than that of other chains.

Every uniform number u of a chain is 1 - u in its partner, hence every normal number z is -z (Hammersley and Morton, "A
new Monte Carlo technique: antithetic variates", Math. Proc. Camb. Phil. Soc. 52, 1956). The result of a chain is an
almost odd function of its noise around the posterior mean (exactly odd if prior and method are linear), and the mean of
a pair cancels the odd part. Jia et al., "Antithetic Noise in Diffusion Models", arXiv 2506.06185, found and measured
this for the initial noise of a diffusion model; here every draw of the chain is opposite.

Each chain by itself is as random as any other: marks of single samples keep their meaning. But partners are not
independent: compute spread and coverage from `halves`.

The sign is part of the key, below `jax.random`, so that methods need not know of it.
"""

import jax
import jax.numpy as jnp
from jax.extend import random as generators

BASE = "threefry2x32"  # draws the same numbers under vmap, which JAX's other generators do not


def pairs(keys: jax.Array) -> jax.Array:
  """Return two keys for each of `[..., n]`, `[..., 2 n]`: one draws what the key itself does, the next the opposite.

  Opposite up to the rounding of uniform numbers in float32, 1e-7: normal numbers near 1 to 1e-6, near 4 to 0.001, near
  5 to 0.1.

  Raises:
    ValueError: the keys belong to another generator than JAX's default.
  """
  if jax.random.key_impl(keys) != BASE:
    raise ValueError(f"keys: expected those of {BASE}, got {jax.random.key_impl(keys)}; make them by jax.random.key")
  data = jax.random.key_data(keys)
  both = jnp.stack([_signed(data, jnp.uint32(opposite)) for opposite in (0, 1)], axis=-2)
  return jax.random.wrap_key_data(both.reshape(*keys.shape[:-1], -1, both.shape[-1]), impl=GENERATOR)


def halves(samples: jax.Array) -> jax.Array:
  """Return samples of `pairs` of keys, `[2 n, ...]`, as two sets of independent ones, `[2, n, ...]`."""
  return jnp.stack([samples[0::2], samples[1::2]])


# A key is one of BASE with one more number: 1 for the complement of all bits.


def _signed(data, opposite):
  return jnp.concatenate([data, jnp.broadcast_to(opposite, (*data.shape[:-1], 1))], axis=-1)


def _plain(key):
  return jax.random.wrap_key_data(key[:-1], impl=BASE)


def _seed(value):
  return _signed(jax.random.key_data(jax.random.key(value, impl=BASE)), jnp.uint32(0))


def _split(key, shape):
  return _signed(jax.random.key_data(jax.random.split(_plain(key), shape)), key[-1])


def _fold_in(key, data):
  return _signed(jax.random.key_data(jax.random.fold_in(_plain(key), data)), key[-1])


def _random_bits(key, width, shape):
  bits = jax.random.bits(_plain(key), shape, f"uint{width}")
  return bits ^ (jnp.zeros((), bits.dtype) - key[-1].astype(bits.dtype))


GENERATOR = generators.define_prng_impl(
  key_shape=(3,), seed=_seed, split=_split, fold_in=_fold_in, random_bits=_random_bits, name="antithetic", tag="anti"
)
