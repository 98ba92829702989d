"""The networks' attention: by its definition, by JAX's own, and what methods take derivatives of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv.nets.attention import attend


def drawn(count=3, n=24, heads=2, channels=16, dtype=np.float32):
  r = np.random.default_rng(0)
  return [jnp.asarray(r.standard_normal((n, heads, channels)), dtype) for _ in range(count)]


def relative(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_each_query_gets_the_mean_of_values_by_its_likeness_to_their_keys():
  q, k, v = (np.asarray(part, np.float64) for part in drawn())
  expected = np.zeros_like(v)
  for head in range(2):
    for i, query in enumerate(q[:, head]):
      weights = np.exp(k[:, head] @ query / 4)  # of 16 channels
      expected[i, head] = weights @ v[:, head] / weights.sum()
  assert relative(attend(*drawn()), expected) < 1e-6


def test_values_and_gradients_are_those_of_jax():
  *parts, cotangent = drawn(4)
  with jax.numpy_rank_promotion("allow"):
    pulled = [jax.vjp(f, *parts) for f in (attend, jax.nn.dot_product_attention)]
    gradients = [pull(cotangent) for _, pull in pulled]
  assert relative(pulled[0][0], pulled[1][0]) < 1e-6
  for ours, theirs in zip(*gradients):
    assert relative(ours, theirs) < 1e-5


def test_forward_and_reverse_derivatives_agree():
  q, k, v, tangent, cotangent = drawn(5)
  _, moved = jax.jvp(lambda q: attend(q, k, v), (q,), (tangent,))
  _, pull = jax.vjp(lambda q: attend(q, k, v), q)
  np.testing.assert_allclose(jnp.vdot(cotangent, moved), jnp.vdot(pull(cotangent)[0], tangent), rtol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_of_bfloat16_the_softmax_is_of_float32(shift):
  q, k, v = drawn(dtype=jnp.bfloat16)
  got = attend(q + shift, k, v)
  assert got.dtype == jnp.bfloat16
  whole = attend(*(part.astype(jnp.float32) for part in (q + shift, k, v)))
  assert relative(got, whole) < 6e-3  # weights and values of 8 bits, sums of float32
