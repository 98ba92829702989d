"""Antithetic chains: opposite draws, means that do not vary where all is linear, and what spread is left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import antithetic, batch, noise, operators, priors, problems
from diffinv.methods import METHODS
from diffinv.metrics import image as metrics
from diffinv.metrics import uncertainty
from diffinv.studies import marks as marking

SHAPE = (16, 16, 3)
# Not linear in their noise are DPS, which divides by the residual's norm, MMPS, by a few conjugate gradients, and
# RED-diff, by Adam.
LINEAR = [name for name, method in METHODS.items() if method.linear_in_noise]


def many_draws(key):
  """Draw as methods do: keys split, and numbered in a scan."""
  first, rest = jax.random.split(key)
  body = lambda carry, i: (carry, jax.random.normal(jax.random.fold_in(rest, i), (50,)))
  return jnp.concatenate([jax.random.normal(first, (50,)), jax.lax.scan(body, 0.0, jnp.arange(20))[1].ravel()])


@pytest.mark.slow
def test_a_pair_is_the_key_itself_and_its_opposite():
  keys = jax.random.split(jax.random.key(3), 4).reshape(2, 2)
  both = antithetic.pairs(keys)
  assert both.shape == (2, 4)
  nested = jax.jit(jax.vmap(jax.vmap(many_draws)))
  got = np.asarray(nested(both))
  np.testing.assert_array_equal(got[:, 0::2], nested(keys))
  bound = np.where(np.abs(got[:, 0::2]) < 3, 2e-5, 0.1)  # the rounding of a uniform number shows in the tail
  assert np.all(np.abs(got[:, 0::2] + got[:, 1::2]) < bound)
  assert len(np.unique(np.abs(got[:, 0::2]))) > 0.99 * got[:, 0::2].size  # chains, and draws, have nothing in common
  one = jax.vmap(lambda key: jax.random.uniform(key, (100,)))(both[0])
  np.testing.assert_allclose(one[0] + one[1], 1.0, atol=2e-7)


def test_keys_can_be_made_from_a_seed():
  """What JAX may ask of a generator: a key of a seed draws what its base does."""
  made = antithetic.pairs(jax.random.split(jax.random.key(0), 1))
  key = jax.random.key(5, impl=jax.random.key_impl(made))
  np.testing.assert_array_equal(jax.random.normal(key, (9,)), jax.random.normal(jax.random.key(5), (9,)))


def test_another_generator_is_an_error():
  keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
  with pytest.raises(ValueError, match="expected those of threefry2x32, got rbg"):
    antithetic.pairs(keys)


def chains(name, keys):
  """Restore one masked image under a Gaussian prior, `[samples, h, w, c]`."""
  prior = priors.natural()
  k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
  x0 = jnp.clip(0.4 * jax.random.normal(k1, SHAPE), -1.0, 1.0)
  problem = problems.simulate(k3, operators.random_mask(k2, SHAPE, missing=0.5), noise.Gaussian(0.05), x0)
  got, _ = batch.sample_batch(keys[None], METHODS[name](), prior, problems.stack([problem]), prior.schedule.grid("10"))
  return got[0]


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.slow
def test_where_all_is_linear_the_mean_of_a_pair_does_not_depend_on_the_key(name):
  got = chains(name, antithetic.pairs(jax.random.split(jax.random.key(6), 2)))
  single = np.abs(got[0] - got[2]).max()
  assert single > 1e-2  # samples vary
  np.testing.assert_allclose((got[0] + got[1]) / 2, (got[2] + got[3]) / 2, rtol=0, atol=5e-3 * single)


@pytest.mark.slow
def test_the_first_of_a_pair_is_the_sample_of_its_key_and_devices_share_pairs():
  keys = jax.random.split(jax.random.key(6), 4)
  plain, paired = (chains("dps", some) for some in (keys, antithetic.pairs(keys)))
  np.testing.assert_allclose(paired[0::2], plain, rtol=1e-3, atol=1e-4)
  mesh = jax.make_mesh((8,), (batch.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.device_put(antithetic.pairs(keys), jax.NamedSharding(mesh, jax.P(batch.AXIS)))
  np.testing.assert_array_equal(jax.vmap(many_draws)(spread), jax.vmap(many_draws)(antithetic.pairs(keys)))


@functools.cache
def drawn(count, seed=0):
  """Return samples in pairs, `[images, count, h, w, c]`, and truths of the same law, N(0.1, 0.2^2)."""
  keys = antithetic.pairs(jax.random.split(jax.random.key(seed), 200 * count // 2).reshape(200, -1))
  draw = lambda key: 0.1 + 0.2 * jax.random.normal(key, SHAPE)
  return jax.vmap(jax.vmap(draw))(keys), jax.vmap(draw)(jax.random.split(jax.random.key(seed + 1), 200))


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.slow
def test_spread_and_coverage_of_pairs_are_right_where_those_of_all_together_are_not(count):
  samples, truths = drawn(count)
  problem = problems.Problem(operators.identity(SHAPE), noise.Gaussian(0.1), truths[0])
  marks = [marking.marks(problem, np.asarray(s), np.asarray(x), antithetic=True) for s, x in zip(samples[:50], truths)]
  levels = marks[0]["coverage"]["levels"]
  np.testing.assert_allclose(levels, uncertainty.central_levels(count // 2))
  covered = np.mean([mark["coverage"]["empirical"] for mark in marks], axis=0)
  errors = 5 * np.sqrt(0.25 / (50 * np.prod(SHAPE)))
  np.testing.assert_allclose(covered, levels, rtol=0, atol=errors)
  np.testing.assert_allclose(np.mean([mark["crps"] for mark in marks]), 0.2 / np.sqrt(np.pi), rtol=0.02)
  naive = [np.asarray(uncertainty.coverage(s, x, uncertainty.central_levels(count))) for s, x in zip(samples, truths)]
  assert np.abs(np.mean(naive, axis=0) - uncertainty.central_levels(count)).max() > 5 * errors
  variance = np.mean([np.mean(marking.spread(np.asarray(s), antithetic=True) ** 2) for s in samples[:50]])
  np.testing.assert_allclose(variance, 0.04, rtol=0.02)


def test_one_pair_has_a_mean_and_no_spread():
  samples, truths = drawn(2)
  problem = problems.Problem(operators.identity(SHAPE), noise.Gaussian(0.1), truths[0])
  pictures, truth = np.asarray(samples[0]), np.asarray(truths[0])
  assert marking.spread(pictures, antithetic=True) is None and marking.spread(pictures[:1]) is None
  marks = marking.marks(problem, pictures, truth, antithetic=True)
  assert not {"crps", "coverage"} & set(marks)
  mean = pictures.mean(axis=0)
  want = float(metrics.psnr(metrics.to_unit(jnp.asarray(mean)), metrics.to_unit(truths[0])))
  assert marks["mean_psnr"] == pytest.approx(want, abs=1e-3)
  plain = marking.marks(problem, pictures, truth)
  assert {"crps", "coverage"} <= set(plain) and plain["psnr"] == marks["psnr"]
