"""Self-ensembling: views undo themselves, and methods see the ones that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, priors, problems, sampler
from diffinv.methods import DPIR, METHODS, ensemble, make_method, proximal
from diffinv.priors.base import Denoised
from diffinv.pytree import pytree
from diffinv.schedules import Schedule

SHAPE = (4, 6, 3)
LINEAR = Schedule("linear", 1000)
MMSE = METHODS["mmse"]
PICTURE = jax.random.normal(jax.random.key(0), SHAPE)


@pytree
class Weighted:
  """A prior whose denoised image is x_t / alpha times weights, and brighter: no view gives what another does."""

  weights: jax.Array
  brighter: jax.Array
  schedule = LINEAR

  def denoise(self, x_t, level):
    return Denoised(self.weights * x_t / level.alpha + self.brighter, x_t, 0.0)


PRIOR = Weighted(*jax.random.uniform(jax.random.key(1), (2, *SHAPE)))


def measured(operator):
  return problems.simulate(jax.random.key(2), operator, noise.Gaussian(jnp.float32(0.1)), PICTURE)


def restored(method, steps, operator=None, prior=PRIOR):
  problem = measured(operators.identity(SHAPE) if operator is None else operator)
  return sampler.sample(jax.random.key(3), method, prior, problem, LINEAR.grid(steps))[0], problem


def by_view(k, x):
  """Return what PRIOR makes of a clean picture by view k."""
  sign = -1 if k in (2, 3, 4, 5) else 1
  return mirrored(k, PRIOR.weights) * x + sign * mirrored(k, PRIOR.brighter)


def mirrored(k, x):
  return (x, x[:, ::-1], x[::-1], x[::-1, ::-1])[k % 4]


def test_views_are_mirror_images_and_negatives_each_its_own_inverse():
  x = np.asarray(PICTURE)
  sides, ends, both = x[:, ::-1], x[::-1], x[::-1, ::-1]
  for k, want in enumerate((x, sides, -ends, -both, -x, -sides, ends, both)):
    np.testing.assert_array_equal(ensemble.view(PICTURE, k), want)
    np.testing.assert_array_equal(ensemble.view(ensemble.view(PICTURE, k), k), x)


@pytest.mark.parametrize(
  "views, steps, seen", [(1, 8, 1), (2, 8, 2), (4, 8, 4), (4, 3, 3), (4, 1, 1), (8, 8, 8), (8, 4, 4)]
)
def test_mmse_is_the_mean_over_its_views_or_as_many_as_there_are_steps(views, steps, seen):
  got, problem = restored(MMSE(views=views), str(steps))
  want = np.mean([by_view(k, problem.y) for k in range(seen)], axis=0)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_dpir_denoises_another_view_at_each_step(views):
  method, steps = DPIR(noise=0.0, views=views), 9
  got, problem = restored(method, str(steps))
  x = proximal.smoothest(problem, method.iterations)
  for left, sbar in zip(reversed(range(steps)), np.geomspace(method.start, 0.1, steps)):
    x = by_view(left % views, proximal.proximal(problem, x, method.weight / sbar**2, iterations=method.iterations))
  np.testing.assert_allclose(got, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [MMSE, DPIR])
def test_views_change_nothing_where_the_prior_knows_no_left_no_up_and_no_light(method):
  one, eight = (restored(method(views=views), "8", prior=priors.natural())[0] for views in (1, 8))
  np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5)


def test_a_ninth_view_is_refused():
  with pytest.raises(ValueError, match=r"views.*in \[1, 8\]"):
    make_method("mmse", {"views": 9})
