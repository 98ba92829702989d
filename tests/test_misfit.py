"""The one place where methods meet the noise: the misfit is the log-likelihood, and methods descend it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, priors, sampler, schedules
from diffinv.methods import DAPS, DPS, METHODS, DiffPIR, REDDiff, base, choices, proximal
from diffinv.problems import MISFITS, Problem, simulate
from diffinv.schedules import Level, Schedule

KEY = jax.random.key(2)
SHAPE = (8, 8, 3)
RATE = 0.2  # 51 photons at white
NOISES = {"poisson": noise.Poisson(RATE), "gaussian": noise.Gaussian(0.1), "none": noise.NoNoise()}

quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def image(seed, limit=0.8, shape=SHAPE):
  """Return an image well above black: every predicted count is above a quarter of what is counted."""
  return jnp.asarray(np.random.default_rng(seed).uniform(-0.2, limit, shape), float)


def measured(name="poisson", operator=None, seed=0):
  operator = operators.identity(SHAPE) if operator is None else operator
  measure = quickly(simulate)
  return measure(KEY, operator, jax.tree.map(jnp.asarray, NOISES[name]), image(seed, shape=operator.in_shape))


# What the misfit is


@pytest.mark.parametrize("name", ["gaussian", "none"])
@pytest.mark.parametrize("kind", MISFITS)
def test_misfit_without_photons_is_the_squared_residual(name, kind):
  problem, x = measured(name, operators.super_resolution(SHAPE, 2)), image(1)
  assert problem.misfit(x, kind) == jnp.sum(problem.residual(x) ** 2)
  assert problem.stiffness() == 1.0


def test_misfit_of_gaussian_noise_of_its_own_at_each_value_is_weighted():
  with jax.enable_x64(True):
    sigma = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.4, SHAPE))
    problem = Problem(operators.identity(SHAPE), noise.Gaussian(sigma), image(0))
    want = jnp.mean(sigma**2) * jnp.sum((problem.residual(image(1)) / sigma) ** 2)
    np.testing.assert_allclose(problem.misfit(image(1)), want, rtol=1e-12)
    np.testing.assert_allclose(problem.misfit(image(1), "weighted"), want, rtol=1e-12)


@pytest.mark.parametrize("make", [operators.identity, operators.hdr, lambda s: operators.random_mask(KEY, s)])
@pytest.mark.slow
def test_poisson_misfit_is_the_log_likelihood_in_units_of_squares(make):
  with jax.enable_x64(True):
    problem, x, other = measured(operator=make(SHAPE)), image(1), image(2)
    scale, direction = -2.0 * problem.mean_variance(), image(3)

    @quickly
    def compare():
      ends = [problem.log_likelihood(x + step * direction) for step in (1e-5, -1e-5)]
      gradients = [jax.grad(of)(x) for of in (problem.misfit, problem.log_likelihood)]
      differences = [of(x) - of(other) for of in (problem.misfit, problem.log_likelihood)]
      return differences, gradients, (ends[0] - ends[1]) / 2e-5

    differences, gradients, slope = compare()
    np.testing.assert_allclose(differences[0], scale * differences[1], rtol=1e-9)
    np.testing.assert_allclose(gradients[0], scale * gradients[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(gradients[0] * direction), scale * slope, rtol=1e-6)


@pytest.mark.parametrize("photons", (0, 1, 3, 40))
def test_poisson_misfit_is_nothing_at_its_minimum(photons):
  light = lambda count: jnp.float32(2.0 * count / 255.0 - 1.0)
  predicted = jnp.linspace(-5.0, 80.0, 8501)
  found = jax.vmap(lambda p: noise.Poisson(1.0).misfit(light(photons), light(p), jnp.float32(1.0)))(predicted)
  assert float(predicted[jnp.argmin(found)]) == pytest.approx(photons, abs=0.05)
  assert abs(float(found.min())) < 1e-4


@pytest.mark.slow
def test_poisson_misfit_is_near_the_squares_at_the_truth():
  problem = measured()
  np.testing.assert_allclose(problem.misfit(image(0)), problem.misfit(image(0), "squares"), rtol=0.15)


def test_weighted_squares_have_the_weights_of_the_paper():
  """Chung et al.: weights 1 / (2 y_j), y_j the count."""
  with jax.enable_x64(True):
    problem, x = measured(), image(1)
    counts = (problem.y + 1) / 2 * 255 * RATE
    want = jnp.sum(problem.residual(x) ** 2 / (2 * counts)) / jnp.mean(1 / (2 * counts) * counts)
    ratio = problem.misfit(x, "weighted") / want
    np.testing.assert_allclose(ratio, jnp.mean(counts), rtol=1e-9)


@pytest.mark.slow
def test_misfit_goes_on_smoothly_where_too_little_light_is_predicted():
  with jax.enable_x64(True):
    model, one = noise.Poisson(jnp.asarray(1.0)), jnp.asarray(1.0)
    for count in (0.0, 1.0, 3.0, 40.0, 200.0):
      y = jnp.asarray(2 * count / 255 - 1)
      slope = jax.vmap(jax.grad(lambda clean, y=y: model.misfit(y, clean, one)))
      photons = np.linspace(-60.0, 260.0, 3201)
      slopes = np.asarray(slope(jnp.asarray(2 * photons / 255 - 1))) * 2 / 255  # by photons
      assert np.all(np.diff(slopes) > -1e-12), "convex"
      floor = max(count / 4, 1.0)
      assert np.abs(np.diff(slopes)).max() <= 1.001 * 0.1 * 2 / floor * max(count / floor, 1.0)  # no jump
      want = 2 * (photons - count) / np.maximum(photons, floor)
      np.testing.assert_allclose(slopes, want, atol=1e-9)  # the gradient divides by `variance`
      assert np.all(slopes[photons < min(count, 0) - 0.1] < 0), "what is below black is pulled up"
      least = model.variance(y, jnp.asarray(-1.0)) / (2 / 255) ** 2
      np.testing.assert_allclose(least, floor, rtol=1e-12)


@pytest.mark.slow
def test_unobserved_values_have_no_misfit():
  operator = operators.random_mask(KEY, SHAPE, missing=0.6)
  problem = measured(operator=operator)
  changed = operator.mask * image(1) + (1 - operator.mask) * image(4)
  assert problem.misfit(changed) == problem.misfit(image(1))
  np.testing.assert_array_equal(jax.grad(problem.misfit)(image(1)) * (1 - operator.mask), 0.0)


# Methods descend it


def prior():
  """Return a correlated Gaussian prior, of the float type in force."""
  return priors.gaussian(np.full(12, 0.2), 0.1 * np.eye(12) + 0.02, Schedule("linear", 100))


TINY = (2, 2, 3)


def tiny(misfit_noise="poisson"):
  return measured(misfit_noise, operators.hdr(TINY, factor=0.9))


def level(step=60):
  grid = schedules.as_arrays(Schedule("linear", 100).grid())
  return tuple(Level(*(v[i] for v in grid)) for i in (step, step + 1))


def slope_of_log_likelihood(problem, x, direction, of=lambda x: x):
  """Return the derivative of log p(y | of(x)) along a direction, by differences."""
  along = quickly(lambda step: problem.log_likelihood(of(x + step * direction)))
  return (along(1e-5) - along(-1e-5)) / 2e-5


@pytest.mark.slow
def test_dps_steps_along_the_log_likelihood():
  with jax.enable_x64(True):
    problem, (now, nxt) = tiny(), level()
    x, direction, z = 0.1 * image(5, shape=TINY), image(6, shape=TINY), jnp.zeros(TINY)
    step = quickly(lambda scale: DPS(scale=scale, rule="squared").update(z, x, now, nxt, prior(), problem)[0])
    moved = step(1e-3) - step(0.0)
    slope = slope_of_log_likelihood(problem, x, direction, lambda x: prior().denoise(x, now).x0)
    np.testing.assert_allclose(jnp.sum(moved * direction), 1e-3 * 2 * problem.mean_variance() * slope, rtol=1e-6)


@pytest.mark.slow
def test_norm_that_dps_divides_by_is_the_root_of_the_misfit():
  with jax.enable_x64(True):
    problem, (now, nxt) = tiny(), level()
    x, z = 0.1 * image(5, shape=TINY), jnp.zeros(TINY)
    x0 = prior().denoise(x, now).x0
    for kind in MISFITS:

      def moved(rule, kind=kind):
        step = quickly(lambda s: DPS(scale=s, rule=rule, misfit=kind).update(z, x, now, nxt, prior(), problem))
        steps = [step(scale) for scale in (0.1, 0.0)]
        np.testing.assert_allclose(steps[0][1]["residual_norm"], base.residual_norm(problem, x0), rtol=1e-12)
        return steps[0][0] - steps[1][0]

      want = moved("squared") / (2.0 * jnp.sqrt(problem.misfit(x0, kind)))
      np.testing.assert_allclose(moved("code"), want, rtol=1e-9)


@pytest.mark.parametrize("kind", ["likelihood", "weighted"])
@pytest.mark.slow
def test_stiffness_is_the_steepest_rise_of_the_misfit_from_its_minimum(kind):
  with jax.enable_x64(True):
    for photons in (0.0, 1.0, 4.0, 40.0, 200.0):
      y = jnp.asarray([[[2.0 * photons / 255.0 - 1.0], [0.0]]])  # a value of interest beside a bright one
      problem = Problem(operators.identity(y.shape), noise.Poisson(jnp.asarray(1.0)), y)
      predicted = jnp.linspace(-1.5, 1.5, 40_001)
      slope = jax.jit(jax.vmap(jax.grad(lambda v: problem.misfit_of(y.at[0, 0, 0].set(v), kind))))(predicted)
      other = jax.jit(jax.vmap(jax.grad(lambda v: problem.misfit_of(y.at[0, 1, 0].set(v), kind))))(predicted)
      rise = lambda slopes, center: slopes / (predicted - center) / 2.0
      away = lambda center: np.abs(predicted - center) > 1e-2  # off 0 / 0
      steepest = max(float(np.max(rise(s, c)[away(c)])) for s, c in ((slope, y[0, 0, 0]), (other, y[0, 1, 0])))
      np.testing.assert_allclose(problem.stiffness(kind), max(steepest, 1.0), rtol=0.03, err_msg=str(photons))


def test_daps_steps_along_the_log_likelihood():
  with jax.enable_x64(True):
    problem = tiny()
    x, direction, sbar = image(5, 0.5, TINY), image(6, shape=TINY), jnp.asarray(0.5)

    @quickly
    def move(tau):
      method = DAPS(tau=tau, step_size=1e-5, last_step=1.0, langevin_steps=1)
      return method.langevin(KEY, x, sbar, problem)

    moved = (move(0.1) - move(1e6)) * problem.stiffness()
    want = 1e-5 / 0.1**2 * problem.mean_variance() * slope_of_log_likelihood(problem, x, direction)
    np.testing.assert_allclose(jnp.sum(moved * direction), want, rtol=1e-5)


def test_red_diff_steps_along_the_log_likelihood():
  with jax.enable_x64(True):
    problem, (now, _) = tiny(), level()
    x, direction = image(5, 0.5, TINY), image(6, shape=TINY)
    gradient, norm = quickly(lambda: REDDiff(weight=0.0).gradient(x, x, now, prior(), problem))()
    want = -problem.mean_variance() * slope_of_log_likelihood(problem, x, direction)
    np.testing.assert_allclose(jnp.sum(gradient * direction), want, rtol=1e-6)
    np.testing.assert_allclose(norm, base.residual_norm(problem, x), rtol=1e-12)


def test_fisher_scoring_of_diffpir_starts_along_the_log_likelihood():
  with jax.enable_x64(True):
    problem, rho = tiny(), jnp.asarray(1e6)  # a short step, on which curvature does not matter
    x, direction = image(5, 0.5, TINY), image(6, shape=TINY)
    moved = quickly(lambda: proximal.linearized_proximal(problem, x, rho, 50, "likelihood"))() - x
    want = slope_of_log_likelihood(problem, x, direction) / rho
    np.testing.assert_allclose(jnp.sum(moved * direction), want, rtol=1e-3)


FEW_PHOTONS = {
  "dps": DPS(scale=4.0),
  "dps_weighted": DPS(scale=4.0, misfit="weighted"),
  "daps": DAPS(sigma_max=5.0),
  "red_diff": REDDiff(),
  "diffpir": DiffPIR(weight=1.0),
}


def test_every_method_with_a_misfit_is_tried_with_few_photons():
  assert {name for name, method in METHODS.items() if choices(method, "misfit")} <= set(FEW_PHOTONS)


@pytest.mark.parametrize("method", FEW_PHOTONS.values(), ids=FEW_PHOTONS)
@pytest.mark.slow
def test_methods_restore_from_few_photons(method):
  """A ramp from black to white in up to 51 photons, through a nonlinear operator: nearer to the truth than the data."""
  shape, natural = (16, 16, 3), priors.natural()
  truth = jnp.broadcast_to(jnp.linspace(-1.0, 0.9, 16)[:, None, None], shape)
  problem = simulate(KEY, operators.hdr(shape, factor=0.7), noise.Poisson(jnp.asarray(RATE)), truth)
  x, info = quickly(lambda: sampler.sample(KEY, method, natural, problem, natural.schedule.grid("50")))()
  error, start = (float(jnp.mean((value - truth) ** 2)) for value in (x, problem.y / 0.7))
  assert np.all(np.isfinite(x)) and np.all(np.isfinite(info["residual_norm"]))
  assert error < start < 0.25 * float(jnp.mean(truth**2)), f"{error} of {start}"
