"""What is particular to a method: where two agree, limits, spectral forms, costs, and what each refuses.

Their own exact laws are in `test_methods_exact.py`. Golden numbers are literals.
"""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_operators_more import check_spectral

from diffinv import errors, methods, noise, operators, priors, sampler, schedules
from diffinv.methods import DPS, ScoreALD, SDEdit, affine, base, daps, proximal, red_diff
from diffinv.methods.affine import G3, PAIRS
from diffinv.methods.daps import DAPS
from diffinv.methods.ddnm_plus import DDNMPlus
from diffinv.methods.ddrm import DDRM
from diffinv.methods.diffpir import DiffPIR
from diffinv.methods.jfps import JFPS
from diffinv.methods.mmps import MMPS
from diffinv.methods.pigdm import PiGDM
from diffinv.methods.red_diff import REDDiff
from diffinv.methods.tmpd import TMPD
from diffinv.operators.base import LinearOperator, conjugate_gradients
from diffinv.problems import Problem, simulate
from diffinv.schedules import Level, Schedule
from diffinv.studies import search
from diffinv.verification.sampling import chains

LINEAR_100 = Schedule("linear", 100)
START = affine.standard(3)


@pytest.mark.slow
def test_recursion_of_the_exact_conditional_halves_its_error_with_the_steps():
  # C = I: relative error of the covariance, to the digits published.
  p = G3._replace(C=np.eye(3))
  for steps, want in ((50, 0.1471), (100, 0.0798), (200, 0.0422)):
    pairs = affine.pairs(affine.linear_alpha_bar(steps))
    got = affine.propagate(START, [affine.conditional_step(p, *pair) for pair in pairs]).cov
    cov = p.posterior().cov
    assert abs(np.linalg.norm(got - cov) / np.linalg.norm(cov) - want) < 1e-4


def run(method, prior, problem, grid, count):
  keys, ys = jax.random.split(jax.random.key(0), count), jnp.tile(problem.y, (count, 1))
  return chains(keys, ys, method, prior, problem, schedules.as_arrays(grid))


# Where two methods must agree.


@jax.jit
def update(method, z, x, now, nxt, prior, problem):
  return method.update(z, x, now, nxt, prior, problem)[0]


def levels_at(step):
  return (Level(*(jnp.asarray(v[step + shift]) for v in LINEAR_100.grid())) for shift in (0, 1))


def updated(method, p, x, step=60):
  """Return one update of the library in float64 between two levels, at fixed noise."""
  z = jnp.array([0.2, -0.7, 1.3])
  return np.asarray(update(method, z, jnp.asarray(x), *levels_at(step), p.prior(), p.problem()))


WHITE = G3._replace(C=np.eye(3), A=np.eye(3)[:2])
X = np.array([0.3, -1.2, 0.7])


@pytest.mark.parametrize(
  "p, method",
  [
    (G3._replace(C=np.eye(3)), PiGDM(weight="score")),
    (WHITE, TMPD()),
    (G3, JFPS(covariance=G3.prior())),
  ],
)
@pytest.mark.slow
def test_methods_are_the_exact_conditional_where_their_approximation_holds(p, method):
  with jax.enable_x64():
    if isinstance(method, JFPS):
      method = JFPS(covariance=p.prior())
    np.testing.assert_allclose(updated(method, p, X), updated(MMPS(), p, X), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_ddnm_plus_is_ddrm_where_the_singular_values_are_one_in_the_range_and_the_noise_is_low():
  # eta = 1: no old noise, which DDNM+ keeps and DDRM drops in the range of A.
  p = WHITE._replace(sigma=1e-9)
  with jax.enable_x64():
    got, want = (updated(method, p, X) for method in (DDNMPlus(eta=1.0), DDRM(eta=1.0)))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", [DDNMPlus(), DDRM(), DiffPIR(), PiGDM(), MMPS(), TMPD()])
@pytest.mark.slow
def test_noise_free_data_are_met(method):
  p = WHITE._replace(y=np.array([0.8, -0.3]))
  with jax.enable_x64():
    problem = Problem(p.problem().operator, noise.NoNoise(), jnp.asarray(p.y))
    x, _ = sampler.sample(jax.random.key(0), method, p.prior(), problem, LINEAR_100.grid())
  np.testing.assert_allclose(x[:2], p.y, rtol=0, atol=5e-3)  # the solves take 1e-3 as the least noise


# Images: spectral forms and covariance models.

SHAPE = (6, 8, 3)
KERNEL = np.array([[0.0, 0.1, 0.0], [0.2, 0.5, 0.05], [0.0, 0.1, 0.05]])
SPECTRAL = {
  "identity": lambda: operators.identity(SHAPE),
  "mask": lambda: operators.random_mask(jax.random.key(1), SHAPE, missing=0.5),
  "grayscale": lambda: operators.grayscale(SHAPE),
  "block_average": lambda: operators.block_average(SHAPE, 2),
  "super_resolution": lambda: operators.super_resolution(SHAPE, 2),
  "gaussian_blur": lambda: operators.gaussian_blur(SHAPE, size=5, std=0.8),
  "circular_blur": lambda: operators.blur(SHAPE, KERNEL, boundary="circular"),
}


def image(seed, shape=SHAPE):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.slow
def test_spectral_form_is_a_singular_value_decomposition(name):
  with jax.enable_x64():
    operator = SPECTRAL[name]()
    check_spectral(operator, image(0), image(1, operator.out_shape))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.slow
def test_ddrm_in_the_operators_own_basis_is_ddrm_of_its_matrix(name):
  # Functions of A^T A do not depend on the basis, so that the same noise gives the same image.
  with jax.enable_x64():
    operator, d = SPECTRAL[name](), int(np.prod(SHAPE))
    x, z, y = image(0), image(1), image(2, operator.out_shape) * operator.observed(jnp.ones(operator.out_shape))
    matrix = jax.vmap(lambda unit: jnp.ravel(operator(unit)), out_axes=1)(jnp.eye(d).reshape(d, *SHAPE))
    kept = np.flatnonzero(np.abs(np.asarray(matrix)).sum(axis=1) > 0)
    dense = affine.dense(matrix[kept])
    prior = priors.gaussian(np.zeros(d), np.diag(np.linspace(0.2, 1.5, d)), LINEAR_100)
    for step in (40, 97, 99):
      got = update(DDRM(), z, x, *levels_at(step), prior, Problem(operator, noise.Gaussian(0.1), y))
      flat = Problem(dense, noise.Gaussian(0.1), jnp.ravel(y)[kept])
      want = update(DDRM(), jnp.ravel(z), jnp.ravel(x), *levels_at(step), prior, flat)
      np.testing.assert_allclose(jnp.ravel(got), want, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_covariance_of_natural_images_is_exact_for_the_prior_of_natural_images():
  with jax.enable_x64():
    operator = SPECTRAL["mask"]()
    problem = Problem(operator, noise.Gaussian(0.2), operator.mask * image(2))
    prior = priors.natural(LINEAR_100)
    got, want = (
      update(method, image(0), image(1), *levels_at(70), prior, problem)
      for method in (JFPS(iterations=200), MMPS(iterations=200))
    )
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_pigdm_is_stable_where_the_prior_varies_far_more_than_one():
  prior = priors.natural(LINEAR_100)
  shape = (16, 16, 3)
  spectrum = prior.spectrum(shape)
  assert jnp.max(spectrum) > 10
  truth = prior.synthesize(jnp.sqrt(spectrum) * jax.random.normal(jax.random.key(1), shape))
  problem = simulate(jax.random.key(2), operators.super_resolution(shape, 2), noise.Gaussian(jnp.float32(0.1)), truth)
  x, _ = sampler.sample(jax.random.key(0), PiGDM(), prior, problem, LINEAR_100.grid())
  assert problem.chi2(x) < 2


# The proximal step.


def poisson_problem():
  operator = SPECTRAL["super_resolution"]()
  return Problem(operator, noise.Poisson(0.3), 0.3 * jnp.tanh(image(3, operator.out_shape)))


@pytest.mark.parametrize("name", ["gaussian", "poisson"])
@pytest.mark.slow
def test_proximal_step_is_stationary(name):
  with jax.enable_x64():
    problem, rho, x = poisson_problem(), 0.3, image(4)
    if name == "gaussian":
      problem = Problem(problem.operator, noise.Gaussian(0.1), problem.y)
    u = proximal.proximal(problem, x, jnp.asarray(rho))
    variance = problem.noise.std(problem.y) ** 2
    gradient = rho * (u - x) - problem.operator.adjoint(problem.residual(u) / variance)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-9 / 0.01)


@pytest.mark.slow
def test_linearized_proximal_step_is_the_proximal_step_of_a_linear_operator():
  with jax.enable_x64():
    problem, x = poisson_problem(), image(4)
    got = jax.jit(proximal.linearized_proximal, static_argnums=(3, 4))(problem, x, jnp.asarray(0.3), 200, "weighted")
    np.testing.assert_allclose(got, proximal.proximal(problem, x, jnp.asarray(0.3)), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_linearized_proximal_step_lowers_the_objective_of_a_nonlinear_operator():
  operator = operators.phase_retrieval(SHAPE)
  truth, x = (0.5 * jnp.tanh(image(seed).astype(jnp.float32)) for seed in (5, 6))
  problem, rho = Problem(operator, noise.Gaussian(jnp.float32(0.05)), operator(truth)), jnp.float32(100.0)
  x = truth + 0.05 * x

  def objective(u):
    return jnp.sum((problem.residual(u) / 0.05) ** 2) + rho * jnp.sum((u - x) ** 2)

  moved = jax.jit(proximal.linearized_proximal, static_argnums=(3, 4))(problem, x, rho, 20, "likelihood")
  assert objective(moved) < 0.5 * objective(x)


@pytest.mark.slow
def test_noise_of_each_value_is_what_whitening_makes_of_it():
  # Poisson: y and A in units of each value's own standard deviation have noise 1.
  with jax.enable_x64():
    std = noise.Poisson(0.02).std(jnp.asarray(G3.y))
    assert std[0] > 1.2 * std[1]
    problem = Problem(affine.dense(G3.A), noise.Poisson(0.02), jnp.asarray(G3.y))
    white = Problem(affine.dense(G3.A / std[:, None]), noise.Gaussian(1.0), G3.y / std)
    x, z = jnp.asarray(X), jnp.array([0.2, -0.7, 1.3])
    for method in (MMPS(), JFPS(covariance=G3.prior()), DiffPIR()):
      got, want = (update(method, z, x, *levels_at(60), G3.prior(), one) for one in (problem, white))
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
    # PiGDM: A^T (A A^T + diag(sigma_y^2))^-1 against the dense inverse.
    got = proximal.ridge(problem.operator, problem.y, std**2)
    np.testing.assert_allclose(got, G3.A.T @ np.linalg.solve(G3.A @ G3.A.T + np.diag(std**2), G3.y), rtol=1e-10)


# DAPS: affine for a Gaussian prior, with a law of its own.


def daps_law(p, method, levels):
  return affine.propagate(daps.exact_start(p, method), daps.exact_maps(p, method, levels))


@pytest.mark.slow
def test_daps_visits_its_own_noises():
  levels = DAPS().levels(schedules.as_arrays(Schedule("linear", 1000).grid("200")))
  sbar = np.asarray(levels.sigma / levels.alpha)
  assert len(sbar) == 201 and sbar[-1] == 0.0
  np.testing.assert_allclose(sbar[[0, 100]], [100.0, daps.exact_spaced(100.0, 0.1, 0.5)], rtol=1e-5)
  assert np.all(np.diff(np.asarray(levels.t)) <= 0)


@pytest.mark.slow
def test_level_between_two_steps_lies_between_them():
  schedule = Schedule("linear", 1000)
  grid = schedule.grid()
  with jax.enable_x64():
    for i in (0, 300, 999):
      sbar = grid.sigma[i] / grid.alpha[i]
      level = schedules.level_at(schedule, jnp.asarray(sbar))
      np.testing.assert_allclose([level.t, level.alpha, level.sigma], [v[i] for v in grid], atol=1e-8)
    assert 400 < schedules.level_at(schedule, jnp.asarray(grid.sigma[599] / grid.alpha[599] * 1.002)).t < 401


@pytest.mark.slow
def test_law_of_daps_is_the_posterior_where_its_pieces_are_exact():
  # A flat prior makes N(xh, sbar^2 I) exact and the ODE the identity; many small Langevin steps reach their law.
  p = affine.Linear(np.zeros(2), 1e10 * np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]]), 0.2, np.array([0.8, -0.3]))
  method = DAPS(tau=0.2, step_size=2e-4, last_step=1.0, sigma_max=5.0, langevin_steps=4000)
  got, want = daps_law(p, method, 30), p.posterior()
  np.testing.assert_allclose(got.mean, want.mean, atol=1e-2)
  np.testing.assert_allclose(got.cov, want.cov, rtol=0, atol=0.02 * want.cov.max())


# RED-diff: its gradient, and where it comes to rest.


@pytest.mark.slow
def test_red_diff_gradient_is_the_papers():
  with jax.enable_x64():
    method, mu, z = REDDiff(weight=0.7), np.array([0.3, -1.2, 0.7]), np.array([0.2, -0.7, 1.3])
    for step in (0, 60, 99):
      abar = PAIRS[step][0]
      now = Level(*(jnp.asarray(v[step]) for v in LINEAR_100.grid()))
      want = red_diff.exact_gradient(G3, mu, z, abar, 0.7)
      got, _ = method.gradient(jnp.asarray(z), jnp.asarray(mu), now, G3.prior(), G3.problem())
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_red_diff_rests_at_the_map_estimate_of_its_level():
  steps, at = 1500, 60
  grid = Level(*(np.append(np.full(steps, v[at]), v[-1]) for v in LINEAR_100.grid()))
  method = REDDiff(weight=2.0, learning_rate=0.01)
  mean = np.mean(run(method, G3.prior(), G3.problem(), grid, 64), axis=0)
  want = red_diff.exact_rest(G3, PAIRS[at][0], 2.0)
  start = np.linalg.pinv(G3.A) @ G3.y
  assert np.linalg.norm(mean - want) < 0.05 * np.linalg.norm(start - want)


@pytest.mark.slow
def test_map_estimate_of_red_diff_is_the_posteriors_where_lambda_is_the_noise_over_the_level():
  # lambda sigma_t^2 = sigma_y^2 as sigma_t -> 0: the mode, and mean, of the posterior.
  np.testing.assert_allclose(red_diff.exact_rest(G3, 1 - 1e-9, G3.sigma**2 / 1e-9), G3.posterior().mean, atol=1e-6)


# What each method is for.


@pytest.mark.parametrize("method", [PiGDM(), TMPD(), MMPS(), JFPS(), DDNMPlus(), DDRM()])
@pytest.mark.slow
def test_linear_methods_refuse_nonlinear_operators_and_name_those_that_can(method):
  with pytest.raises(ValueError, match=rf"{method.name}: expected a linear operator.*FourierMagnitude.*dps"):
    methods.check(method, operators.phase_retrieval(SHAPE))


@pytest.mark.slow
def test_ddrm_refuses_operators_without_svd_and_names_methods_that_can():
  with pytest.raises(ValueError, match=r"ddrm: expected a linear operator whose SVD.*ReflectBlur.*use one of .*pigdm"):
    methods.check(DDRM(), operators.blur(SHAPE, KERNEL))
  assert LinearOperator.spectral(operators.blur(SHAPE, KERNEL)) is None


@pytest.mark.slow
def test_methods_that_can_accept():
  for method in (DDRM(), DAPS(), DiffPIR(), REDDiff(), JFPS()):
    methods.check(method, operators.identity(SHAPE))
  for method in (DAPS(), DiffPIR(), REDDiff()):
    methods.check(method, operators.phase_retrieval(SHAPE))


@pytest.mark.parametrize("name", [name for name in SPECTRAL if name != "gaussian_blur"])
@pytest.mark.slow
def test_ddnm_plus_accepts_what_hardly_amplifies_noise(name):
  methods.check(DDNMPlus(), SPECTRAL[name]())


@pytest.mark.slow
def test_ddnm_plus_refuses_what_amplifies_noise():
  with pytest.raises(ValueError, match=r"ddnm_plus: expected an operator whose pseudo-inverse.*use ddrm"):
    methods.check(DDNMPlus(), operators.gaussian_blur((16, 16, 3), size=13, std=3.0))


@pytest.mark.slow
def test_daps_refuses_unstable_langevin_steps():
  with pytest.raises(ValueError, match=r"daps: .*lower step_size or raise tau"):
    methods.check(DAPS(step_size=1e-3), operators.identity(SHAPE))


@pytest.mark.slow
def test_jfps_refuses_images_that_natural_covariances_do_not_describe():
  with pytest.raises(ValueError, match=r"jfps: expected images of 3 channels"):
    methods.check(JFPS(), operators.identity((4, 4, 1)))


@pytest.mark.parametrize(
  "method, message",
  [
    (DDRM(eta=1.2), "ddrm: expected eta to be in [0, 1], got 1.2"),
    (DDNMPlus(eta=-0.1), "ddnm_plus: expected eta to be in [0, 1], got -0.1"),
    (DiffPIR(zeta=1.5), "diffpir: expected zeta to be in [0, 1], got 1.5"),
    (DiffPIR(weight=0.0), "diffpir: expected weight to be in [1e-12, 1,000,000,000,000], got 0"),
    (ScoreALD(c=-0.1), "score_ald: expected c to be in [1e-12, 1,000,000,000,000], got -0.1"),
    (SDEdit(t0=30.0), "sdedit: expected t0 to be in (0, 1], got 30"),
    (DPS(scale=-1.0), "dps: expected scale to be in [0, 1,000,000,000,000], got -1"),
    (DPS(scale=float("nan")), "dps: expected scale to be in [0, 1,000,000,000,000], got nan"),
    (DPS(rule="cod"), "dps: expected rule to be one of code, paper, squared, span, got 'cod'"),
    (PiGDM(weight="none"), "pigdm: expected weight to be one of score, algorithm_1, code, got 'none'"),
  ],
  ids=str,
)
def test_hyper_parameters_out_of_range_are_told(method, message):
  for check in (
    lambda: methods.check(method, operators.identity(SHAPE)),
    lambda: methods.make_method(method.name, dataclasses.asdict(method)),
  ):
    with pytest.raises(ValueError, match=re.escape(message)):
      check()


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_class_declares_what_tables_and_searches_need(name):
  method = methods.METHODS[name]
  assert method.name == name and all((method.title, method.citation, method.entering))
  fields = methods.fields_of(method)
  if not method.search:  # the mean of denoising: its fields say what to spend, and more is never worse
    assert name == "mmse"
    with pytest.raises(errors.UsageError, match=f"`search`: expected values to try for {name}, which declares none"):
      search.values(name)
  else:
    assert search.values(name) == method.search and set(method.search) <= set(fields)
  for field, values in method.search.items():
    assert set(values) <= set(methods.choices(method, field) or values)
  for settings in method.examples.values():
    methods.make_method(name, dict(settings))


def test_a_method_that_declares_no_search_is_told_with_its_fields(monkeypatch):
  class Unsearched(DPS):
    """Without values to try."""

    name, search = "unsearched", {}

  monkeypatch.setitem(methods.METHODS, "unsearched", Unsearched)
  with pytest.raises(errors.UsageError, match=r"`search`: .* unsearched, which .* among scale, rule, misfit$"):
    search.values("unsearched")


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_defaults_are_in_their_ranges(name):
  methods.check_fields(methods.METHODS[name]())
  assert set(methods.METHODS[name].ranges) <= {field.name for field in dataclasses.fields(methods.METHODS[name])}


@pytest.mark.parametrize(
  "covariance, message",
  [
    (priors.natural(), None),
    (priors.gaussian(np.zeros(144), np.eye(144), LINEAR_100), None),
    (priors.gaussian(np.zeros(3), np.eye(3), LINEAR_100), r"jfps: expected a covariance of images of \(6, 8, 3\)"),
    (priors.mixture([0.5, 0.5], np.zeros((2, 144)), [np.eye(144)] * 2, LINEAR_100), "jfps: expected one Gaussian"),
  ],
  ids=["any size", "its size", "another size", "two"],
)
def test_jfps_takes_one_gaussian_of_the_size_of_the_images(covariance, message):
  with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
    methods.check(JFPS(covariance=covariance), operators.identity(SHAPE))


def test_daps_looks_at_its_chain_at_the_time_of_the_noise():
  times = []

  def apply(params, x, t):
    jax.debug.callback(lambda t: times.append(float(t)), t)
    return jnp.zeros_like(x)

  prior, method = priors.Prior({}, apply, Schedule("linear", 1000)), DAPS()
  levels = method.levels(schedules.as_arrays(prior.schedule.grid("10")))
  level = Level(*(value[8] for value in levels))
  method.estimate(base.XState(image(0).astype(jnp.float32)), level, prior, None).block_until_ready()
  jax.effects_barrier()
  want = schedules.level_at(prior.schedule, level.sigma / level.alpha).t
  assert abs(float(level.t) - float(want)) > 1.0  # what interpolation on the grid would give
  np.testing.assert_allclose(times, [float(want)], rtol=1e-6)


def test_a_solve_ends_before_a_direction_that_leads_away():
  """Of the matrix diag(2, 1, -1): the third value alone has no step; with the first two it ends where these led."""
  matrix = jnp.diag(jnp.asarray([2.0, 1.0, -1.0]))
  solve = lambda b: np.asarray(conjugate_gradients(lambda v: matrix @ v, jnp.asarray(b), 3))
  np.testing.assert_array_equal(solve([0.0, 0.0, 1.0]), 0.0)
  np.testing.assert_allclose(solve([1.0, 1.0, 0.0]), [0.5, 1.0, 0.0], atol=1e-6)
  found = solve([1.0, 1.0, 0.5])
  assert np.all(np.isfinite(found)) and 0 < np.linalg.norm(found) < 3


@pytest.mark.parametrize("levels", [{"sigma_min": 5.0, "sigma_max": 5.0}, {"ode_end": 0.5, "sigma_min": 0.1}])
def test_daps_levels_fall(levels):
  with pytest.raises(ValueError, match="daps: expected ode_end <= sigma_min < sigma_max, got"):
    methods.check(DAPS(**levels), operators.identity((4, 4, 1)))


@pytest.mark.parametrize(
  "method", [MMPS(iterations=0), JFPS(iterations=0), DAPS(ode_steps=0), SDEdit(repeats=0), ScoreALD(steps_per_level=0)]
)
def test_nothing_is_done_no_times(method):
  with pytest.raises(ValueError, match=f"{method.name}: expected .* to be in .1, 10,000., got 0"):
    methods.check(method, operators.identity((4, 4, 1)))
