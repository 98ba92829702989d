"""Restorations without a network; the Wiener filter is tested with the methods that it judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import baselines, operators
from diffinv.noise import Gaussian
from diffinv.problems import Problem, simulate


@pytest.mark.slow
def test_fista_solves_a_quadratic_exactly():
  """R = ridge/2 ||x||^2 has the proximal map v / (1 + step ridge) and the solution (A^T A + ridge)^-1 A^T y."""
  shape, ridge = (12, 12, 1), 0.1
  operator = operators.gaussian_blur(shape, size=5, std=1.0)
  x0 = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
  problem = simulate(jax.random.key(0), operator, Gaussian(0.05), x0)
  found = baselines.fista(problem, lambda v, step: v / np.float32(1 + step * ridge), np.zeros(shape, np.float32))
  expected = operator.adjoint(operator.solve(problem.y, ridge))  # push-through identity
  np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_library_s_total_variation_is_the_proximal_map_of_its_weight():
  """On a step of two halves of n pixels the proximal map of weight TV moves each level by weight / n."""
  y = np.zeros((8, 8, 3), np.float32)
  y[:, 4:] = 1.0
  problem = Problem(operators.identity(y.shape), Gaussian(0.05), jnp.asarray(y))
  found = baselines.total_variation(problem, weight=0.2)
  expected = np.where(y > 0.5, 1.0 - 0.2 / 4, 0.2 / 4)
  np.testing.assert_allclose(found, expected, atol=0.01)  # the library stops early


def measured(operator):
  x0 = jnp.broadcast_to(jnp.linspace(-0.5, 0.5, 16)[:, None, None], (16, 16, 3))
  return np.asarray(x0), simulate(jax.random.key(0), operator, Gaussian(1e-6), x0)


def test_a_ramp_is_filled_in_and_enlarged():
  """A ramp is biharmonic; bicubic enlargement keeps it but for the edges."""
  x0, problem = measured(operators.box(jax.random.key(0), (16, 16, 3), box_size=(6, 6), margin=(3, 3)))
  np.testing.assert_allclose(baselines.interpolate(problem), x0, atol=1e-3)
  x0, problem = measured(operators.super_resolution((16, 16, 3), 2))
  np.testing.assert_allclose(baselines.interpolate(problem)[4:-4], x0[4:-4], atol=1e-3)


def test_a_blurred_picture_is_left_as_it_is():
  _, problem = measured(operators.gaussian_blur((16, 16, 3), size=5, std=1.0))
  np.testing.assert_array_equal(baselines.interpolate(problem), problem.y)


@pytest.mark.slow
def test_what_is_no_picture_is_not_interpolated():
  for operator in (
    operators.grayscale((16, 16, 3)),
    operators.compressed_sensing(jax.random.key(0), (16, 16, 3), ratio=0.25),
  ):
    with pytest.raises(ValueError, match="problem: expected the measurement of a picture with its channels, got"):
      baselines.interpolate(measured(operator)[1])
