"""Restorations without a network: each against a value that is known, and none told the truth."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffinv import baselines, operators, priors
from diffinv.baselines import BASELINES, Baseline, variation
from diffinv.noise import Gaussian, NoNoise, Poisson
from diffinv.problems import Problem, simulate

SHAPE = (16, 16, 3)
OPERATORS = {
  "denoising": lambda: operators.identity(SHAPE),
  "missing pixels": lambda: operators.random_mask(jax.random.key(0), SHAPE, missing=0.5),
  "a box": lambda: operators.box(jax.random.key(0), SHAPE, box_size=(6, 6), margin=(3, 3)),
  "half the size": lambda: operators.super_resolution(SHAPE, 2),
  "blocks": lambda: operators.block_average(SHAPE, 4),
  "gaussian blur": lambda: operators.gaussian_blur(SHAPE, size=9, std=1.0),
  "motion blur": lambda: operators.motion_blur(jax.random.key(0), SHAPE, size=9, intensity=0.5),
  "gray": lambda: operators.grayscale(SHAPE),
  "sensing": lambda: operators.compressed_sensing(jax.random.key(0), SHAPE, ratio=0.25),
  "hdr": lambda: operators.hdr(SHAPE, factor=2.0),
}
SUITED = {
  "denoising": {"pseudo_inverse", "wiener", "total_variation", "non_local_means"},
  "missing pixels": {"pseudo_inverse", "wiener", "total_variation", "biharmonic"},
  "a box": {"pseudo_inverse", "wiener", "total_variation", "biharmonic"},
  "half the size": {"pseudo_inverse", "bicubic", "lanczos", "wiener", "total_variation"},
  "blocks": {"pseudo_inverse", "bicubic", "lanczos", "wiener", "total_variation"},
  "gaussian blur": {"pseudo_inverse", "wiener", "total_variation", "richardson_lucy"},
  "motion blur": {"pseudo_inverse", "wiener", "total_variation", "richardson_lucy"},
  "gray": {"pseudo_inverse", "wiener", "total_variation"},
  "sensing": {"pseudo_inverse", "wiener", "total_variation"},
  "hdr": set(),
}
RAMP = np.broadcast_to(np.linspace(-0.5, 0.5, 16, dtype=np.float32)[:, None, None], SHAPE)


def measured(what, sigma=1e-6, x0=RAMP):
  return simulate(jax.random.key(0), OPERATORS[what](), Gaussian(sigma), jnp.asarray(x0))


def edges():
  """A picture of two levels, a disk in a plane, and of other levels in each color."""
  y, x = np.mgrid[:16, :16]
  disk = ((y - 7) ** 2 + (x - 8) ** 2 < 25)[..., None]
  return np.where(disk, np.array([0.6, 0.2, -0.4]), np.array([-0.5, 0.1, 0.5])).astype(np.float32)


# What is offered


@pytest.mark.parametrize("what", OPERATORS)
def test_each_is_offered_where_it_applies_and_says_why_not_elsewhere(what):
  operator = OPERATORS[what]()
  excuses = {name: baseline.excuse(operator, Gaussian(0.1)) for name, baseline in BASELINES.items()}
  assert {name for name, excuse in excuses.items() if excuse is None} == SUITED[what]
  for name, excuse in excuses.items():
    assert excuse is None or excuse == f"{name}: expected {BASELINES[name].needs}, got {type(operator).__name__}"


PAIRS = [(what, name) for what, names in SUITED.items() for name in sorted(names)]


@pytest.mark.parametrize("what, name", PAIRS)
def test_what_is_offered_gives_a_picture_the_same_every_time(what, name):
  problem = measured(what, 0.1)
  first, second = (BASELINES[name](problem) for _ in range(2))
  assert first.shape == SHAPE and first.dtype == np.float32 and np.all(np.abs(first) < 2.0)
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", BASELINES)
def test_a_function_is_given_the_problem_alone(name):
  """Which holds y, the operator and the noise: nothing of the truth."""
  first, *others = inspect.signature(BASELINES[name].restore).parameters.values()
  assert first.annotation is Problem
  assert all(p.kind is p.KEYWORD_ONLY and p.annotation in (int, float, int | None, float | None) for p in others)


def test_rows_have_their_names_and_sources():
  for name, baseline in BASELINES.items():
    assert baseline.name == name and all((baseline.title, baseline.citation, baseline.entering, baseline.needs))


def test_without_noise_there_is_nothing_to_smooth():
  excuse = BASELINES["non_local_means"].excuse(operators.identity(SHAPE), NoNoise())
  assert excuse == "non_local_means: expected noise, got NoNoise"


def test_without_its_library_a_baseline_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  for name in ("biharmonic", "non_local_means"):
    what = "denoising" if name == "non_local_means" else "a box"
    excuse = BASELINES[name].excuse(OPERATORS[what](), Gaussian(0.1))
    assert excuse == f"{name}: expected scikit-image, got none; install it with pip install 'diffinv[classical]'"
  assert BASELINES["wiener"].excuse(operators.identity(SHAPE), Gaussian(0.1)) is None


@pytest.mark.parametrize("model", [Poisson(1.0), NoNoise(), Gaussian(0.3)], ids=["poisson", "none", "gaussian"])
@pytest.mark.parametrize("what", ["denoising", "missing pixels", "gaussian blur"])
def test_any_noise_gives_a_finite_picture(what, model):
  problem = simulate(jax.random.key(0), OPERATORS[what](), model, jnp.asarray(edges()))
  for name in SUITED[what]:
    if BASELINES[name].excuse(problem.operator, model) is None:
      assert np.all(np.abs(BASELINES[name](problem)) < 3.0), name


# Numbers that can be set


def test_numbers_are_those_of_the_function_and_are_read_from_text():
  chosen = BASELINES["total_variation"].having({"weight": "0.3"}).having({"num_steps": "7"})
  assert BASELINES["total_variation"].fields() == {"weight": None, "num_steps": variation.STEPS}
  assert chosen.fields() == {"weight": 0.3, "num_steps": 7} and dict(chosen.numbers) == chosen.fields()
  problem = measured("denoising", 0.1)
  np.testing.assert_array_equal(chosen(problem), baselines.total_variation(problem, weight=0.3, num_steps=7))


@pytest.mark.parametrize(
  "name, given, message",
  [
    ("total_variation", {"magic": 1}, "total_variation: expected a field among weight, num_steps, got 'magic'"),
    ("bicubic", {"weight": 1}, "bicubic: expected a field among none, got 'weight'"),
    ("total_variation", {"weight": "much"}, "total_variation: expected weight to be of type float, got 'much'"),
    (
      "total_variation",
      {"weight": "nan"},
      r"total_variation: expected weight to be in \[0, 1,000,000,000,000\], got 'nan'",
    ),
    ("total_variation", {"num_steps": "0"}, r"total_variation: expected num_steps to be in \[1, 100,000\], got '0'"),
    ("richardson_lucy", {"num_steps": "1.5"}, "richardson_lucy: expected num_steps to be of type int, got '1.5'"),
  ],
)
def test_a_number_that_cannot_be_is_told_in_a_line(name, given, message):
  with pytest.raises(ValueError, match=message):
    BASELINES[name].having(given)


def test_a_function_that_gives_no_picture_is_told():
  with pytest.raises(ValueError, match=r"mine: expected a picture of shape \(16, 16, 3\), got \(8, 8, 3\)"):
    Baseline("mine", "mine", lambda problem: problem.y[:8, :8])(measured("denoising"))


# Each against what is known


def test_the_pseudo_inverse_is_the_operator_s_within_the_range_of_pictures():
  for what in ("half the size", "sensing", "missing pixels"):
    problem = measured(what, 0.5)
    want = np.clip(problem.operator.pinv(problem.y), -1, 1)
    np.testing.assert_allclose(BASELINES["pseudo_inverse"](problem), want, atol=1e-5)


@pytest.mark.parametrize("name, filtering", [("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)])
def test_enlargement_is_pillow_s(name, filtering):
  problem = measured("half the size", 0.1)
  for channel, found in zip(np.asarray(problem.y).transpose(2, 0, 1), BASELINES[name](problem).transpose(2, 0, 1)):
    want = np.asarray(Image.fromarray(channel, mode="F").resize((16, 16), filtering))
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("what", ["denoising", "half the size", "missing pixels"])
def test_the_wiener_filter_is_the_posterior_mean_under_natural(what):
  """(C^-1 + A^T A / sigma^2)^-1 A^T y / sigma^2, C and A as matrices, in float64."""
  problem, count, sigma = measured(what, 0.2), int(np.prod(SHAPE)), 0.2
  with jax.enable_x64():
    basis = jnp.eye(count).reshape(count, *SHAPE)
    covariance = np.asarray(jax.vmap(priors.natural().covariance)(basis)).reshape(count, count)
    matrix = np.asarray(jax.vmap(OPERATORS[what]())(basis)).reshape(count, -1).T
  y = np.asarray(problem.y, np.float64).ravel()
  data = matrix @ covariance @ matrix.T + sigma**2 * np.eye(len(y))
  want = covariance @ matrix.T @ np.linalg.solve(data, y)
  np.testing.assert_allclose(BASELINES["wiener"](problem), want.reshape(SHAPE), atol=1e-3)


def objective(problem, x, weight):
  return float(0.5 * jnp.sum(problem.residual(x) ** 2) + weight * variation.variation(x))


@pytest.mark.parametrize("what", ["denoising", "half the size", "missing pixels", "gaussian blur", "sensing"])
def test_total_variation_minimizes_its_objective(what):
  """Below that of the truth, of the start and of what it finds with some noise added; and falling with the steps."""
  problem, weight = measured(what, 0.1, edges()), 0.05
  few, some, many = (
    jnp.asarray(baselines.total_variation(problem, weight=weight, num_steps=n)) for n in (20, 200, 2000)
  )
  best = objective(problem, many, weight)
  assert best <= objective(problem, some, weight) + 1e-3 <= objective(problem, few, weight) + 2e-3
  others = [jnp.asarray(edges()), *(many + 0.01 * jax.random.normal(key, SHAPE) for key in jax.random.split(KEY, 5))]
  assert all(objective(problem, other, weight) > best for other in others)


KEY = jax.random.key(3)


def test_total_variation_moves_a_step_by_its_weight():
  """Of two halves of n pixels along a row each level moves by weight / (n sqrt(c)), c colors alike."""
  y = np.zeros((8, 8, 3), np.float32)
  y[:, 4:] = 1.0
  problem = Problem(operators.identity(y.shape), Gaussian(0.05), jnp.asarray(y))
  moved = 0.2 / (4 * np.sqrt(3))
  found = baselines.total_variation(problem, weight=0.2, num_steps=2000)
  np.testing.assert_allclose(found, np.where(y > 0.5, 1.0 - moved, moved), atol=1e-3)


def test_differences_have_their_adjoint():
  x, p = jax.random.normal(KEY, SHAPE), jax.random.normal(KEY, (2, *SHAPE))
  np.testing.assert_allclose(
    jnp.sum(variation.gradient(x) * p), jnp.sum(x * variation.gradient_adjoint(p)), rtol=0, atol=1e-3
  )


@pytest.mark.parametrize(
  "what, spread",
  [
    ("denoising", 1.0),
    ("missing pixels", np.sqrt(0.5)),  # half of the pixels have no noise
    ("blocks", 1 / 16),  # each of 16 pixels takes a sixteenth of a block's noise
  ],
)
def test_the_weight_is_the_noise_of_a_pixel_of_the_adjoint(what, spread):
  for sigma in (0.05, 0.2):
    found = variation.weight_of_noise(measured(what, sigma))
    assert found == pytest.approx(sigma * spread, rel=0.1)  # four draws


@pytest.mark.parametrize("what", ["denoising", "missing pixels", "half the size", "gaussian blur"])
def test_total_variation_is_nearer_to_a_picture_of_edges_than_the_pseudo_inverse(what):
  problem = measured(what, 0.1, edges())
  errors = [np.mean((BASELINES[name](problem) - edges()) ** 2) for name in ("total_variation", "pseudo_inverse")]
  assert errors[0] < 0.5 * errors[1]


def test_non_local_means_leaves_a_plane_and_takes_its_noise_away():
  plane = np.full(SHAPE, 0.25, np.float32)
  found = BASELINES["non_local_means"](measured("denoising", 0.1, plane))
  assert np.sqrt(np.mean((found - plane) ** 2)) < 0.03


def test_biharmonic_splines_fill_in_a_ramp_and_leave_what_is_known():
  problem = measured("a box")
  found = BASELINES["biharmonic"](problem)
  np.testing.assert_allclose(found, RAMP, atol=1e-3)
  noisy = measured("missing pixels", 0.3)
  known = np.broadcast_to(np.asarray(noisy.operator.mask) == 1, SHAPE)
  np.testing.assert_allclose(BASELINES["biharmonic"](noisy)[known], np.asarray(noisy.y)[known], atol=1e-6)


@pytest.mark.parametrize("what", ["gaussian blur", "motion blur"])
def test_richardson_lucy_keeps_a_plane_and_ends_at_the_noise(what):
  plane = np.full(SHAPE, 0.25, np.float32)
  np.testing.assert_allclose(BASELINES["richardson_lucy"](measured(what, x0=plane)), plane, atol=1e-3)
  problem = measured(what, 0.05, edges())
  found = jnp.asarray(BASELINES["richardson_lucy"](problem))
  assert 0.9 < float(problem.chi2(found)) <= 1.0
  blurred = np.mean((np.asarray(problem.y) - edges()) ** 2)
  assert np.mean((found - edges()) ** 2) < blurred


# For `evaluate`


def test_a_ramp_is_filled_in_and_enlarged():
  """A ramp is biharmonic; bicubic enlargement keeps it but for the edges."""
  np.testing.assert_allclose(baselines.interpolate(measured("a box")), RAMP, atol=1e-3)
  np.testing.assert_allclose(baselines.interpolate(measured("half the size"))[4:-4], RAMP[4:-4], atol=1e-3)


def test_a_blurred_picture_is_left_as_it_is():
  problem = measured("gaussian blur")
  np.testing.assert_array_equal(baselines.interpolate(problem), problem.y)


@pytest.mark.parametrize("what", ["gray", "sensing"])
def test_what_is_no_picture_is_not_interpolated(what):
  with pytest.raises(ValueError, match="problem: expected the measurement of a picture with its channels, got"):
    baselines.interpolate(measured(what))
