"""Noise models: their sampled moments against the exact ones, and their densities against SciPy's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffinv import noise

KEY = jax.random.key(5)
DRAWS = 20_000
LEVELS = np.array([-1.0, -0.9, -0.3, 0.0, 0.6, 1.0], np.float32)
# One test makes a dozen comparisons: 4.5 standard errors let one in ten thousand such tests fail by chance.
ERRORS = 4.5

SHAPE = (DRAWS, len(LEVELS))  # of all that is drawn: compiling another takes two seconds

# Compiling is what takes time here.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
sample = quickly(lambda model, clean, key=KEY: model.sample(key, clean))


def draws(model, levels=LEVELS):
  """Return samples at every level, float64, [DRAWS, levels]."""
  got = sample(model, np.tile(levels, (DRAWS, 1)))
  assert got.dtype == jnp.float32 and got.shape == SHAPE
  return np.asarray(got, np.float64)


def check_moments(samples, mean, variance, fourth):
  """Hold sample mean and variance against the exact ones; `fourth`: the central moment."""
  np.testing.assert_array_less(abs(samples.mean(0) - mean), ERRORS * np.sqrt(variance / DRAWS) + 1e-6)
  error = np.sqrt((fourth - variance**2) / DRAWS)
  np.testing.assert_array_less(abs(samples.var(0) - variance), ERRORS * error + 1e-9)


def photons(rate):
  return 255 * rate * (LEVELS.astype(np.float64) + 1) / 2


@pytest.mark.parametrize("sigma", [0.05, 0.8])
def test_gaussian_moments(sigma):
  variance = np.full(len(LEVELS), sigma**2)
  check_moments(draws(noise.Gaussian(sigma)), LEVELS, variance, 3 * variance**2)


def test_gaussian_values_are_independent():
  samples = draws(noise.Gaussian(0.3))
  correlation = np.corrcoef(samples.T) - np.eye(len(LEVELS))
  assert abs(correlation).max() < ERRORS / np.sqrt(DRAWS)


@pytest.mark.parametrize("rate", [0.02, 1.0, 8.0])
def test_poisson_moments(rate):
  # In units of u = 2 / (255 rate): mean = variance = lambda, fourth central moment lambda + 3 lambda^2.
  unit, lam = 2 / (255 * rate), photons(rate)
  check_moments(draws(noise.Poisson(rate)), LEVELS, lam * unit**2, (lam + 3 * lam**2) * unit**4)


@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_poisson_samples_are_whole_counts(rate):
  counts = (draws(noise.Poisson(rate)) + 1) / 2 * 255 * rate
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
  assert counts.min() >= 0 and len(np.unique(np.round(counts[:, -1]))) > 5


def test_poisson_counts_no_photons_below_black_and_does_not_cut_above_white():
  samples = draws(noise.Poisson(1.0), np.array([-1.0, -1.2, -50.0, 1.0, 3.0, 0.0], np.float32))
  np.testing.assert_array_equal(samples[:, :3], -1.0)
  assert 0.4 < np.mean(samples[:, 3] > 1) < 0.6
  assert abs(samples[:, 4].mean() - 3) < ERRORS * 2 * np.sqrt(2 / 255 / DRAWS)


def test_gaussian_log_prob_is_that_of_scipy():
  y, clean = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
  for sigma in (0.05, 1.3):
    got = noise.Gaussian(sigma).log_prob(y, clean)
    np.testing.assert_allclose(got, stats.norm.logpdf(np.float64(y), np.float64(clean), sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.02, 1.0, 8.0])
@pytest.mark.slow
def test_poisson_log_prob_is_that_of_scipy(rate):
  clean = np.linspace(-0.99, 1.4, np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
  y = sample(noise.Poisson(rate), clean)
  counts = np.round((np.asarray(y, np.float64) + 1) / 2 * 255 * rate)
  got = noise.Poisson(rate).log_prob(y, clean)
  want = stats.poisson.logpmf(counts, 255 * rate * (np.float64(clean) + 1) / 2)
  # k log(lambda) - lambda - log(k!): terms of 1e4 that cancel, in float32.
  np.testing.assert_allclose(got, want, atol=1e-6 * (2 + 255 * rate * 1.2 * 20))


@pytest.mark.slow
def test_poisson_log_prob_sums_to_one_over_counts():
  counts = jnp.arange(60.0)
  for clean in (-0.95, -0.8):
    log_prob = noise.Poisson(1.0).log_prob(2 * counts / 255 - 1, jnp.full(60, clean))
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1.0, rtol=1e-4)


@pytest.mark.slow
def test_poisson_log_prob_and_its_gradient_are_finite_at_and_below_black():
  y, clean = jnp.array([-1.0, -1.0, -0.9, -0.9]), jnp.array([-1.0, -2.0, -1.0, -2.0])
  log_prob = noise.Poisson(1.0).log_prob(y, clean)
  assert np.all(np.isfinite(log_prob)) and np.all(log_prob[:2] > log_prob[2:] + 10)
  assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(noise.Poisson(1.0).log_prob(y, x)))(clean)))


def test_no_noise_changes_nothing_and_allows_nothing_else():
  clean = jnp.asarray(LEVELS)
  np.testing.assert_array_equal(noise.NoNoise().sample(KEY, clean), clean)
  np.testing.assert_array_equal(noise.NoNoise().log_prob(clean.at[2].add(1e-3), clean), [0, 0, -np.inf, 0, 0, 0])
  assert noise.NoNoise().std(clean) == 0.0


def test_gaussian_std_is_sigma():
  std = noise.Gaussian(0.05).std(jnp.zeros((4, 5, 3)))
  assert std.shape == () and std.dtype == jnp.float32
  np.testing.assert_allclose(std, 0.05, rtol=1e-6)


def test_poisson_std_is_that_of_its_samples():
  rate = 2.0
  want = draws(noise.Poisson(rate)).std(0)
  lit = photons(rate) > 1
  np.testing.assert_allclose(noise.Poisson(rate).std(jnp.asarray(LEVELS))[lit], want[lit], rtol=0.03)  # 1 / sqrt(2 n)


def test_poisson_std_of_a_dark_pixel_is_that_of_one_photon():
  np.testing.assert_allclose(noise.Poisson(1.0).std(jnp.array([-1.0, -3.0])), 2 / 255, rtol=1e-6)


@pytest.mark.parametrize("model", [noise.Gaussian, noise.Poisson])
@pytest.mark.slow
def test_strength_is_a_traced_leaf(model):
  """One compilation serves every strength, and a sweep is a vmap."""
  traces = []

  @quickly
  def run(model, clean):
    traces.append(None)
    y = model.sample(KEY, clean)
    return y, model.log_prob(y, clean), jnp.broadcast_to(model.std(y), y.shape)

  clean, strengths = jnp.asarray(LEVELS), jnp.array([0.1, 0.5, 2.0])
  looped = [run(model(strength), clean) for strength in strengths]
  assert len(traces) == 1
  batched = jax.vmap(run, (0, None))(model(strengths), clean)
  for got, want in zip(batched, zip(*looped)):
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-5, atol=1e-5)
  assert not np.allclose(batched[0][0], batched[0][2])


@pytest.mark.parametrize("model", [noise.Gaussian(0.1), noise.Poisson(1.0)])
@pytest.mark.slow
def test_another_key_draws_other_noise(model):
  clean = np.zeros(SHAPE, np.float32)
  first, again, other = (sample(model, clean, key) for key in (KEY, KEY, jax.random.key(6)))
  np.testing.assert_array_equal(first, again)
  assert np.mean(first == other) < 0.1
