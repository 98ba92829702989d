"""Attention of every pixel to every other, as all networks share it."""

import math

import jax
import jax.numpy as jnp


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Return softmax(q k^T / sqrt(c)) v for each head, `[n, heads, c]`; the softmax is of float32.

  The values are those of `jax.nn.dot_product_attention`. That is slower on a CPU, and on a GPU it uses cuDNN's flash
  attention only where that is asked for by name.

  Args:
    q: queries, `[n, heads, c]`.
    k: keys, `[m, heads, c]`, of the type of q.
    v: values, `[m, heads, c]`, of the type of q.
  """
  scores = jnp.einsum("qhc,khc->hqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("hqk,khc->qhc", weights, v)
