"""Richardson-Lucy deconvolution: light that is multiplied until it fits.

Richardson, "Bayesian-based iterative method of image restoration", JOSA 62(1), 1972; Lucy, "An iterative technique for
the rectification of observed distributions", Astronomical J. 79, 1974. With u the light, (x + 1) / 2, and y01 that of
the measurement,

  u <- u A^T(y01 / A u) / A^T 1

With the operator itself in place of a kernel, so that edges are those of the measurement. It fits the noise if it goes
on: without a number of steps it ends when the residual is as large as the noise (Morozov's discrepancy).
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.baselines import base
from diffinv.problems import Problem

STEPS = 500  # at most, where the noise says when to stop
DARK = 1e-3  # of white: what less light counts as


def richardson_lucy(problem: Problem, *, num_steps: int | None = None) -> np.ndarray:
  """Return the picture whose blur is y, `[h, w, c]`.

  Args:
    problem: a blurred picture.
    num_steps: of the iteration; None for as many as the noise allows, at most STEPS.
  """
  noise = 0.0 if num_steps is not None else base.noise_std(problem)
  return np.asarray(_iterate(problem, STEPS if num_steps is None else num_steps, noise))


@jax.jit
def _iterate(problem, num_steps, noise):
  operator, y = problem.operator, (problem.y + 1.0) / 2.0
  ones, y = operator.adjoint(jnp.ones_like(y)), jnp.maximum(y, DARK)

  def going(carry):
    u, count = carry
    return (count < num_steps) & (base.rms(2.0 * (y - operator(u))) > noise)

  def step(carry):
    u, count = carry
    ratio = y / jnp.maximum(operator(u), DARK)
    return jnp.maximum(u * operator.adjoint(ratio) / jnp.maximum(ones, DARK), 0.0), count + 1

  start = jnp.full_like(y, jnp.mean(y))
  return 2.0 * jax.lax.while_loop(going, step, (start, 0))[0] - 1.0
