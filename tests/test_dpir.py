"""DPIR: the paper's iteration, its levels, its start, and what the noise is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, priors, problems, sampler, schedules
from diffinv.methods import METHODS, proximal
from diffinv.pytree import pytree
from diffinv.schedules import Schedule

SHAPE = (6, 8, 3)
LINEAR = Schedule("linear", 1000)
GRID = LINEAR.grid("4")
DPIR = METHODS["dpir"]


def measured(operator=None, sigma=0.05):
  k1, k2 = jax.random.split(jax.random.key(0))
  x0 = jnp.clip(0.5 * jax.random.normal(k1, SHAPE), -1.0, 1.0)
  operator = operators.random_mask(k1, SHAPE, missing=0.5) if operator is None else operator
  return problems.simulate(k2, operator, noise.Gaussian(jnp.float32(sigma)), x0)


def restored(method, problem, prior=None, key=0, grid=GRID):
  prior = priors.natural() if prior is None else prior
  return np.asarray(sampler.sample(jax.random.key(key), method, prior, problem, grid)[0])


@pytree
class Recorder:
  """A prior that gives back what it is shown, over alpha; the chain then ends where it was last told of a level."""

  schedule = LINEAR

  def denoise(self, x_t, level):
    return priors.Denoised(jnp.full(x_t.shape, level.sigma / level.alpha), jnp.zeros_like(x_t), None)


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.7])
@pytest.mark.parametrize("spacing", ["4", "logsnr4", "karras4"])
def test_levels_are_even_in_their_logarithm_between_start_and_the_noise_whatever_the_grid(sigma, spacing):
  problem, method, grid = measured(sigma=sigma), DPIR(start=0.4), schedules.as_arrays(LINEAR.grid(spacing))
  state, told = sampler.start(jax.random.key(0), method, Recorder(), problem, grid), []
  for step in range(4):
    state, _ = sampler.advance(jax.random.key(0), state, jnp.arange(step, step + 1), method, Recorder(), problem, grid)
    told.append(float(state.x[0, 0, 0]))
  np.testing.assert_allclose(told, np.geomspace(max(0.4, sigma), sigma, 4), rtol=1e-4)


@pytest.mark.parametrize("sigma", [1e-4, 1e-3])
def test_the_least_level_is_the_schedules(sigma):
  last = restored(DPIR(), measured(sigma=sigma), Recorder())
  np.testing.assert_allclose(last, schedules.sbar_range(LINEAR)[0], rtol=1e-4)


def test_one_step_denoises_at_the_noise_of_the_measurement():
  last = restored(DPIR(start=0.4), measured(sigma=0.1), Recorder(), grid=LINEAR.grid("1"))
  np.testing.assert_allclose(last, 0.1, rtol=1e-4)


def test_without_noise_every_seed_gives_the_same_picture_and_with_it_another():
  problem = measured()
  same, noisy = (
    [restored(method, problem, key=key) for key in (0, 1)] for method in (DPIR(noise=0.0), DPIR(noise=0.8))
  )
  np.testing.assert_array_equal(*same)
  assert np.abs(noisy[0] - noisy[1]).max() > 1e-3


def test_without_noise_the_chain_is_the_papers():
  """Eq. 6a by the normal equations of a mask, Eq. 6b by the prior itself."""
  problem, prior, weight = measured(), priors.natural(), 0.5
  z = np.asarray(proximal.smoothest(problem, 50), np.float64)
  mask, y = np.asarray(problem.operator.mask, np.float64), np.asarray(problem.y, np.float64)
  for s in np.geomspace(0.4, 0.05, 4):
    rho = weight * 0.05**2 / s**2
    x = (mask * y + rho * z) / (mask + rho)
    level = schedules.level_at(LINEAR, jnp.float32(s))
    z = np.asarray(prior.denoise(jnp.asarray(level.alpha * x, jnp.float32), level).x0, np.float64)
  got = restored(DPIR(weight=weight, start=0.4, noise=0.0), problem)
  np.testing.assert_allclose(got, z, atol=2e-5)


OPERATORS = {
  "mask": lambda: operators.random_mask(jax.random.key(1), SHAPE, missing=0.5),
  "resize": lambda: operators.super_resolution(SHAPE, 2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_start_is_the_smoothest_picture_that_explains_the_measurement(name):
  """Against the normal equations, with differences along height and width; of those, the shortest solution."""
  operator = OPERATORS[name]()
  problem, size = measured(operator), int(np.prod(SHAPE))
  eye = np.eye(size).reshape(size, *SHAPE)
  A = np.stack([np.asarray(operator(jnp.asarray(e, jnp.float32))).ravel() for e in eye], axis=1).astype(np.float64)
  D = np.concatenate([np.diff(eye, axis=axis).reshape(size, -1) for axis in (1, 2)], axis=1)
  y = np.asarray(problem.y, np.float64).ravel()
  want, *_ = np.linalg.lstsq(A.T @ A + proximal.SMOOTHNESS * D @ D.T, A.T @ y, rcond=1e-9)
  got = np.asarray(proximal.smoothest(problem, 200))
  np.testing.assert_allclose(got.ravel(), want, atol=1e-4)


def test_the_start_of_a_gray_measurement_is_gray_and_explains_it():
  problem = measured(operators.grayscale(SHAPE))
  got = proximal.smoothest(problem, 200)
  np.testing.assert_allclose(problem.operator(got), problem.y, atol=1e-6)
  np.testing.assert_array_equal(got, got[..., :1] + jnp.zeros(SHAPE))
