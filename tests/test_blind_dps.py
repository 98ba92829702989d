"""BlindDPS: DPS where the kernel stays, and a descent by the kernel where the picture is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import noise, priors, problems, sampler, schedules
from diffinv.blind.blind_dps import BlindDPS, State
from diffinv.blind.borders import bordered
from diffinv.methods.dps import DPS
from diffinv.operators.blur import CircularBlur
from diffinv.operators.kernels import DiskKernel, GaussianKernel

SHAPE, SIGMA = (24, 24, 3), 0.05


def problem(kernel=DiskKernel(2.0), given=GaussianKernel(1.0)):
  """Return a picture blurred by one kernel, with the operator of another."""
  x0 = jax.random.uniform(jax.random.key(0), SHAPE, minval=-1.0, maxval=1.0)
  operator = CircularBlur(SHAPE, kernel.taps(7))
  y = problems.simulate(jax.random.key(1), operator, noise.Gaussian(jnp.float32(SIGMA)), x0).y
  return x0, bordered(y, given.taps(7), noise.Gaussian(jnp.float32(SIGMA)))


def test_where_the_kernel_stays_it_is_dps():
  _, given = problem()
  prior, key = priors.natural(), jax.random.key(2)
  grid = prior.schedule.grid("10")
  blind, _ = sampler.sample(key, BlindDPS(scale=3.0, kernel_scale=0.0), prior, given, grid)
  known, _ = sampler.sample(key, DPS(rule="span", scale=3.0), prior, given, grid)
  np.testing.assert_allclose(blind, known, atol=2e-4)


def test_the_kernel_goes_down_the_slope_and_stays_a_kernel():
  _, given = problem()
  prior = priors.natural()
  levels = schedules.as_arrays(prior.schedule.grid("10"))
  now, nxt = (jax.tree.map(lambda v: v[i], levels) for i in (8, 9))
  x = now.alpha * jax.random.uniform(jax.random.key(3), given.operator.in_shape, minval=-1.0, maxval=1.0)

  def misfit(kernel):
    operator = dataclasses.replace(given.operator, kernel=kernel)
    return jnp.sum((given.y - operator(prior.denoise(x, now).x0)) ** 2)

  start = given.operator.kernel
  step = lambda scale: BlindDPS(kernel_scale=scale).step(jax.random.key(4), State(x, start), now, nxt, prior, given)[0]
  moved = step(0.05).kernel
  assert misfit(moved) < misfit(start)
  np.testing.assert_allclose(jnp.sum(moved), 1.0, rtol=1e-5)
  assert jnp.min(moved) >= 0
  small, slope = step(1e-3).kernel - start, jax.grad(misfit)(start)
  inner = np.asarray(small)[1:-1, 1:-1].ravel(), -np.asarray(slope)[1:-1, 1:-1].ravel()  # whose taps are above 0
  assert np.corrcoef(*inner)[0, 1] > 0.999
