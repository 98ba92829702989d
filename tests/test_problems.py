"""Problems: where noise goes, what the likelihood is, stacking, and the exact posterior mean of `baselines.py`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_operators import LINEAR, build, dense

from diffinv import baselines, noise, operators, priors
from diffinv.operators.pixels import Inpainting
from diffinv.problems import Problem, simulate, stack
from diffinv.pytree import pytree

KEY = jax.random.key(1)
SHAPE = (16, 12, 3)
NOISES = {"gaussian": noise.Gaussian(0.05), "poisson": noise.Poisson(0.5), "poisson_bright": noise.Poisson(8.0)}
OPERATORS = {
  "inpainting": lambda shape: operators.random_mask(KEY, shape, missing=0.6),
  "super_resolution": lambda shape: operators.super_resolution(shape, 4),
  "gaussian_blur": lambda shape: operators.gaussian_blur(shape, size=9, std=1.5),
  "grayscale": operators.grayscale,
  "phase_retrieval": operators.phase_retrieval,
}
every_operator = pytest.mark.parametrize("name", OPERATORS)

# Everything here runs once: compiling is what takes time.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
measure = quickly(simulate)


def image(seed=0, shape=SHAPE, limit=0.9):
  return jnp.asarray(np.random.default_rng(seed).uniform(-limit, limit, shape), float)


@pytest.mark.parametrize("noise_name, name", [*(("gaussian", name) for name in OPERATORS), ("poisson", "inpainting")])
@pytest.mark.slow
def test_noise_is_put_on_observed_values_only(noise_name, name):
  operator = OPERATORS[name](SHAPE)
  clean = operator(image())
  y = measure(KEY, operator, NOISES[noise_name], image()).y
  observed = np.asarray(operator.observed(y))
  assert y.shape == operator.out_shape and set(np.unique(observed)) <= {0.0, 1.0}
  np.testing.assert_array_equal(y[observed == 0], 0.0)
  assert np.mean((y != clean)[observed == 1]) > 0.9
  assert (name == "inpainting") == bool(np.any(observed == 0))


@every_operator
def test_no_noise_measures_exactly(name):
  operator = OPERATORS[name](SHAPE)
  problem = simulate(KEY, operator, noise.NoNoise(), image())
  np.testing.assert_array_equal(problem.y, operator(image()))
  np.testing.assert_array_equal(problem.residual(image()), 0.0)
  assert problem.log_likelihood(image()) == 0.0
  assert problem.log_likelihood(image(1)) == -np.inf


def test_residual_is_y_minus_the_measurement():
  operator = OPERATORS["super_resolution"](SHAPE)
  problem = simulate(KEY, operator, NOISES["gaussian"], image())
  np.testing.assert_array_equal(problem.residual(image(1)), problem.y - operator(image(1)))


def test_simulate_refuses_complex_measurements():
  @pytree
  class Spectrum(operators.Operator):
    def __call__(self, x):
      return jnp.fft.fft2(x, axes=(0, 1))

  with pytest.raises(ValueError, match="operator: expected real measurements, got complex64; return real and"):
    simulate(jax.random.key(0), Spectrum((4, 4, 1)), noise.NoNoise(), jnp.zeros((4, 4, 1)))


def test_nothing_observed_has_no_variance():
  operator = Inpainting((4, 4, 1), jnp.zeros((4, 4, 1)))
  problem = Problem(operator, noise.Gaussian(0.1), jnp.zeros((4, 4, 1)))
  assert float(problem.mean_variance()) == 0.0


def test_simulate_refuses_a_batch_and_other_shapes():
  operator = operators.identity(SHAPE)
  for shape in ((2, *SHAPE), (12, 16, 3)):
    with pytest.raises(ValueError, match="x0: expected one image of shape"):
      simulate(KEY, operator, NOISES["gaussian"], jnp.zeros(shape))


@quickly
def slopes(problem, x, direction, step):
  """Return the derivative of the log-likelihood along a direction, by its gradient and by differences."""
  ends = [problem.log_likelihood(x + sign * step * direction) for sign in (1.0, -1.0)]
  return jnp.sum(jax.grad(problem.log_likelihood)(x) * direction), (ends[0] - ends[1]) / (2.0 * step)


@every_operator
@pytest.mark.parametrize("noise_name", ["gaussian", "poisson"])
@pytest.mark.slow
def test_gradient_of_log_likelihood_is_its_slope(name, noise_name):
  with jax.enable_x64(True):
    shape = (8, 8, 3)
    operator = OPERATORS[name](shape)
    clean = np.asarray(operator(image(shape=shape)))
    y = clean + 0.05 * np.random.default_rng(4).standard_normal(clean.shape)
    model = jax.tree.map(jnp.asarray, NOISES[noise_name])
    problem = Problem(operator, model, operator.observed(clean) * y)
    got, want = slopes(problem, image(1, shape), image(2, shape), 1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_gaussian_log_likelihood_is_that_of_the_observed_values():
  operator, sigma = OPERATORS["inpainting"](SHAPE), 0.05
  problem = simulate(KEY, operator, noise.Gaussian(sigma), image())
  kept = np.broadcast_to(np.asarray(operator.mask) > 0, SHAPE)
  residual = np.asarray(problem.y - operator(image(1)), np.float64)[kept]
  want = np.sum(-0.5 * (residual / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi)))
  np.testing.assert_allclose(problem.log_likelihood(image(1)), want, rtol=1e-5)


@pytest.mark.parametrize("noise_name", ["gaussian", "poisson"])
def test_likelihood_does_not_depend_on_unobserved_pixels(noise_name):
  operator = OPERATORS["inpainting"](SHAPE)
  problem = measure(KEY, operator, NOISES[noise_name], image())
  changed = operator.mask * image() + (1 - operator.mask) * image(3)
  log_likelihood = quickly(problem.log_likelihood)
  assert log_likelihood(changed) == log_likelihood(image()) != log_likelihood(image(3))
  np.testing.assert_array_equal(quickly(jax.grad(problem.log_likelihood))(image(1)) * (1 - operator.mask), 0.0)


@quickly
def chi2_values(operator, model, x0, x):
  """Return chi-square at x of 50 measurements of x0."""
  return jax.vmap(lambda key: simulate(key, operator, model, x0).chi2(x))(jax.random.split(KEY, 50))


@pytest.mark.parametrize(
  "name, noise_name",
  [
    *((name, "gaussian") for name in OPERATORS),
    *(("inpainting", noise_name) for noise_name in ("poisson", "poisson_bright")),
  ],
)
@pytest.mark.slow
def test_chi2_is_one_at_the_truth_and_larger_elsewhere(name, noise_name):
  shape = (16, 16, 3)
  x0, operator = image(shape=shape, limit=0.8), OPERATORS[name](shape)
  values = np.asarray(chi2_values(operator, NOISES[noise_name], x0, x0), np.float64)
  m = float(jnp.sum(operator.observed(operator(x0))))
  # (n_i / std_i)^2 has variance 2, and 1 / lambda more for Poisson: at most 1 / (255 * 0.5 * 0.1) here.
  assert abs(values.mean() - 1) < 4.5 * np.sqrt(2.1 / (m * len(values)))
  assert np.all(chi2_values(operator, NOISES[noise_name], x0, image(1, shape)) > 1.3)


def test_chi2_without_noise_is_no_number():
  assert np.isnan(simulate(KEY, operators.identity(SHAPE), noise.NoNoise(), image()).chi2(image()))


def test_a_stack_is_solved_by_vmap_as_each_is_alone():
  keys = jax.random.split(KEY, 3)
  singles = [
    simulate(key, operators.random_mask(key, SHAPE, missing=0.5), noise.Gaussian(jnp.float32(0.1 * (i + 1))), image(i))
    for i, key in enumerate(keys)
  ]
  joined = stack(singles)
  got = jax.vmap(lambda problem, x: problem.chi2(x))(joined, jnp.stack([image(7)] * 3))
  np.testing.assert_allclose(got, [problem.chi2(image(7)) for problem in singles], rtol=1e-5)
  for i, single in enumerate(singles):
    for part, whole in zip(jax.tree.leaves(single), jax.tree.leaves(joined)):
      np.testing.assert_array_equal(whole[i], part)


def test_nothing_cannot_be_stacked():
  with pytest.raises(ValueError, match="expected at least one, got none"):
    stack([])


def measured(operator, model=noise.Gaussian(0.1), like=jnp.float32):
  return Problem(operator, model, jnp.zeros(operator.out_shape, like))


@pytest.mark.parametrize(
  "other",
  [
    lambda: measured(operators.identity((16, 16, 3))),
    lambda: measured(operators.gaussian_blur(SHAPE, size=9, std=1.5)),
    lambda: measured(operators.identity(SHAPE), noise.Poisson(1.0)),
    lambda: measured(operators.identity(SHAPE), noise.Gaussian(jnp.array([0.1, 0.2]))),
    lambda: measured(operators.identity(SHAPE), like=jnp.bfloat16),
  ],
  ids=["size", "operator", "noise", "noise_shape", "dtype"],
)
def test_problems_of_different_layout_cannot_be_stacked(other):
  first = measured(operators.identity(SHAPE))
  with pytest.raises(ValueError, match=r"expected the layout of problem 0, Identity .*, got .* in problem 2"):
    stack([first, first, other()])


# The exact posterior mean


@functools.cache
def natural_covariance(shape):
  """Return the dense covariance of the `natural` prior, written from its definition, float64."""
  height, width, _ = shape
  places = [np.arange(n)[:, None] for n in (height, width)]
  bases = []  # columns are the orthonormal DCT-II
  for n, place in zip((height, width), places):
    basis = np.cos(np.pi * (place + 0.5) * np.arange(n)[None, :] / n) * np.sqrt(2 / n)
    basis[:, 0] /= np.sqrt(2)
    bases.append(basis)
  fy, fx = np.arange(height)[:, None] / (2 * height), np.arange(width)[None, :] / (2 * width)
  power = 1 / (fy**2 + fx**2 + (1 / 512) ** 2)
  power /= power.mean()
  axes = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float)
  axes /= np.linalg.norm(axes, axis=1, keepdims=True)
  colors = axes.T @ np.diag([0.2, 0.02, 0.002]) @ axes
  space = np.kron(*bases)
  return np.kron(space @ np.diag(power.ravel()) @ space.T, colors)


wiener = quickly(lambda prior, problem, ridge: baselines.wiener(prior, problem, ridge=ridge))


QUICK = ("inpainting", "grayscale", "super_resolution", "gaussian_blur")


@pytest.mark.parametrize(
  "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LINEAR]
)
@pytest.mark.slow
def test_wiener_is_the_dense_posterior_mean(monkeypatch, name):
  check_wiener(monkeypatch, name, 0.05)


@pytest.mark.parametrize("name", ["super_resolution"])
def test_wiener_without_noise_is_regularized_by_the_ridge(monkeypatch, name):
  check_wiener(monkeypatch, name, None)


def check_wiener(monkeypatch, name, sigma):
  # In float64 and solved to the end: what is compared is the formula.
  monkeypatch.setattr(baselines.linear, "CG_TOLERANCE", 1e-10)
  shape, ridge = (8, 8, 3), 1e-4
  with jax.enable_x64(True):
    operator = build(name, shape, True)
    model = noise.NoNoise() if sigma is None else noise.Gaussian(jnp.asarray(sigma))
    problem = simulate(KEY, operator, model, image(shape=shape))
    got = wiener(priors.natural(), problem, ridge)
    A, C = dense(operator, "__call__", shape), natural_covariance(shape)
    gram = A @ C @ A.T + ((sigma or 0.0) ** 2 + ridge) * np.eye(len(A))
    want = C @ A.T @ np.linalg.solve(gram, np.asarray(problem.y).ravel())
    assert got.shape == shape and got.dtype == jnp.float64
    np.testing.assert_allclose(got.ravel(), want, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", ["gaussian_blur"])
def test_wiener_in_float32_is_good_to_the_third_digit(name):
  shape, sigma = (8, 8, 3), 0.05
  operator = build(name, shape)
  problem = simulate(KEY, operator, noise.Gaussian(sigma), image(shape=shape))
  A, C = dense(operator, "__call__", shape), natural_covariance(shape)
  gram = A @ C @ A.T + (sigma**2 + 1e-6) * np.eye(len(A))
  want = C @ A.T @ np.linalg.solve(gram, np.asarray(problem.y, np.float64).ravel())
  got = wiener(priors.natural(), problem, 1e-6)
  np.testing.assert_allclose(got.ravel(), want, atol=2e-3 * np.abs(want).max())


@pytest.mark.slow
def test_wiener_takes_the_noise_of_each_value_and_a_mean():
  with jax.enable_x64(True):
    shape = (8, 8, 3)
    operator = operators.super_resolution(shape, 2)
    problem = simulate(KEY, operator, noise.Poisson(jnp.asarray(0.5)), image(shape=shape))
    mean = jnp.array([0.3, -0.2, 0.1])
    natural = priors.natural()
    prior = dataclasses.replace(natural, mean=mean)
    A, C = dense(operator, "__call__", shape), natural_covariance(shape)
    m = np.tile(mean, 64)
    noise_variance = np.asarray(problem.noise.std(problem.y)).ravel() ** 2 + 1e-6
    gain = C @ A.T @ np.linalg.inv(A @ C @ A.T + np.diag(noise_variance))
    want = m + gain @ (np.asarray(problem.y).ravel() - A @ m)
    np.testing.assert_allclose(wiener(prior, problem, 1e-6).ravel(), want, atol=1e-4 * np.abs(want).max())
