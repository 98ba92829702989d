"""MMSE: the posterior mean of denoising in one evaluation, exact where the prior is; refused elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import batch, methods, noise, operators, priors, problems, sampler, schedules
from diffinv.methods import METHODS
from diffinv.priors import Denoised
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Schedule
from diffinv.studies import entrants
from diffinv.verification import gaussian

SHAPE = (8, 8, 3)
LINEAR = Schedule("linear", 1000)
GRID = LINEAR.grid("10")
MMSE = METHODS["mmse"]


def measured(sigma, seed=0, shape=SHAPE):
  k1, k2 = jax.random.split(jax.random.key(seed))
  x0 = jnp.clip(0.5 * jax.random.normal(k1, shape), -1.0, 1.0)
  return problems.simulate(k2, operators.identity(shape), noise.Gaussian(jnp.float32(sigma)), x0)


def restored(problem, prior=None, grid=GRID, key=0):
  return sampler.sample(jax.random.key(key), MMSE(), priors.natural() if prior is None else prior, problem, grid)[0]


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 3.0])
def test_the_mean_under_a_gaussian_prior_is_the_wiener_filter(sigma):
  """C (C + sigma_y^2 I)^-1 y, C as a matrix, in float64."""
  problem, count = measured(sigma), int(np.prod(SHAPE))
  with jax.enable_x64():
    rows = jax.vmap(priors.natural().covariance)(jnp.eye(count).reshape(count, *SHAPE))
  covariance, y = np.asarray(rows).reshape(count, count), np.asarray(problem.y, np.float64).ravel()
  want = covariance @ np.linalg.solve(covariance + sigma**2 * np.eye(count), y)
  np.testing.assert_allclose(restored(problem), want.reshape(SHAPE), rtol=0, atol=1e-5)


def test_the_mean_is_exact_in_float64_under_a_gaussian_and_a_mixture():
  for case in MMSE.cases():
    row = gaussian.mean_row("mmse", case)
    assert row.failed == () and row.values["step"] < 1e-10


def test_the_mean_of_two_modes_equals_a_quadrature():
  """x0 of a value ~ 0.3 N(-1, 0.2^2) + 0.7 N(0.5, 0.4^2), sigma_y = 0.6, by sums over a fine grid."""
  prior = priors.mixture([0.3, 0.7], [[-1.0], [0.5]], [[[0.04]], [[0.16]]], LINEAR)
  x = np.linspace(-6, 6, 200_001)
  law = 0.3 / 0.2 * np.exp(-((x + 1) ** 2) / 0.08) + 0.7 / 0.4 * np.exp(-((x - 0.5) ** 2) / 0.32)
  for y in (-1.0, -0.2, 0.1, 1.4):
    weights = law * np.exp(-((y - x) ** 2) / (2 * 0.36))
    problem = Problem(operators.identity((1, 1, 1)), noise.Gaussian(0.6), jnp.full((1, 1, 1), y))
    got = restored(problem, prior)
    np.testing.assert_allclose(got[0, 0, 0], np.sum(weights * x) / np.sum(weights), rtol=0, atol=1e-5)


@pytree
class Told:
  """A prior that says which level it was told, and counts."""

  schedule = LINEAR

  def denoise(self, x_t, level):
    jax.debug.callback(lambda *level: TOLD.append(tuple(map(float, level))), level.t, level.alpha, level.sigma)
    return Denoised(x_t, x_t, 0.0)


TOLD = []


@pytest.mark.parametrize("steps", ["1", "10", "1000"])
def test_one_evaluation_at_the_level_of_the_noise_whatever_the_steps(steps):
  TOLD.clear()
  jax.block_until_ready(restored(measured(0.3), Told(), LINEAR.grid(steps)))
  jax.effects_barrier()
  ((t, alpha, sigma),) = TOLD
  assert sigma / alpha == pytest.approx(0.3, rel=1e-6) and alpha**2 + sigma**2 == pytest.approx(1.0, rel=1e-6)
  below, above = (np.sqrt(1 / LINEAR.alpha_bar()[i] - 1) for i in (int(t), int(t) + 1))
  assert below <= 0.3 <= above
  assert entrants.cost(MMSE(), LINEAR.grid(steps)) == (1, 0)


def test_a_batch_of_levels_compiles_once_and_equals_one_at_a_time():
  several = [measured(sigma, seed) for seed, sigma in enumerate((0.05, 0.4, 2.0))]
  keys = jax.random.split(jax.random.key(1), 3)[:, None]
  got, _ = batch.sample_batch(keys, MMSE(), priors.natural(), problems.stack(several), GRID)
  for found, problem in zip(got, several):
    np.testing.assert_allclose(found[0], restored(problem), rtol=0, atol=1e-5)
  with jax.disable_jit():
    np.testing.assert_allclose(restored(several[0]), got[0, 0], rtol=0, atol=1e-5)


def test_the_key_changes_nothing():
  np.testing.assert_array_equal(restored(measured(0.2), key=1), restored(measured(0.2), key=2))
  assert MMSE.deterministic


@pytest.mark.parametrize(
  "traced, counted", [(1e-4, schedules.sbar_range(LINEAR)[0]), (900.0, schedules.sbar_range(LINEAR)[1])]
)
def test_noise_beyond_the_schedule_counts_as_its_end_where_it_is_traced(traced, counted):
  level = jax.jit(lambda sigma: schedules.level_within(LINEAR, sigma))(jnp.float32(traced))
  assert float(level.sigma / level.alpha) == pytest.approx(counted, rel=1e-4)
  assert float(level.t) == pytest.approx(0 if traced < 1 else 999, abs=1e-3)


@pytest.mark.parametrize(
  "model, message",
  [
    (noise.NoNoise(), "mmse: expected Gaussian or Poisson noise, got NoNoise; use another method"),
    (noise.Gaussian(0.001), "mmse: expected noise within the levels of the prior, sigma 0.01 to 157.*, got 0.001; "),
    (noise.Gaussian(200.0), "mmse: expected noise within the levels of the prior, sigma 0.01 to 157.*, got 200; "),
  ],
)
def test_noise_that_no_level_has_is_refused_in_a_line(model, message):
  with pytest.raises(ValueError, match=message):
    methods.check_noise(MMSE(), model, LINEAR)
  for name, other in METHODS.items():
    if name != "mmse":
      methods.check_noise(other(), model, LINEAR)


@pytest.mark.parametrize("name", ["grayscale", "box", "super_resolution"])
def test_an_operator_that_changes_the_picture_is_refused_in_a_line(name):
  operator = {
    "grayscale": lambda: operators.grayscale(SHAPE),
    "box": lambda: operators.box(jax.random.key(0), SHAPE, box_size=2, margin=1),
    "super_resolution": lambda: operators.super_resolution(SHAPE, 2),
  }[name]()
  with pytest.raises(
    ValueError, match=r"mmse: expected the picture itself with noise, as the task denoising has it, got \w+"
  ):
    methods.check(MMSE(), operator)
