"""DAPS: decoupled annealing posterior sampling.

Zhang, Chu, Berner, Meng, Anandkumar and Song, "Improving Diffusion Inverse Problem Solving with Decoupled Noise
Annealing", CVPR 2025, arXiv 2407.01521, Alg. 1. At each of a few levels, in the coordinates u = x_t / alpha, sbar:

  xh   = the probability-flow ODE from (u, sbar) down, a few Euler steps                       (line 3)
  x0  <- x0 - eta (x0 - xh) / r^2 - eta grad ||y - A(x0)||^2 / (2 tau^2) + sqrt(2 eta) z,
         from x0 = xh, r = sbar
  u    = x0 + sbar' z at the next level                                                        (line 7)

Levels and ODE steps are spaced evenly in sbar^(1/7) (Karras et al., arXiv 2206.00364, Eq. 5), eta falls linearly with
the level to `last_step` of itself: the authors' code. What is approximate: N(xh, sbar^2 I) for the law of x0 given x_t,
the Euler steps and the unadjusted Langevin steps; for a Gaussian prior and a linear operator the chain is affine and
its own law is known exactly.

||y - A(x0)||^2 is `Problem.misfit`, for Poisson noise the log-likelihood in the same units, trusted as if its mean
variance were tau^2. The step eta is divided by `Problem.stiffness`, without which dark pixels would make the Langevin
steps unstable.

Differs from the authors' code, which takes grad ||y - A(x0)||^2 / tau^2 without the 1/2 of the Gaussian law: its tau is
ours times the root of 2.

The grid gives the number of levels; network calls between its levels interpolate t.
"""

import jax
import jax.numpy as jnp

from diffinv.methods import base
from diffinv.operators.base import LinearOperator, norm_squared
from diffinv.problems import MISFITS as MISFITS  # what `misfit` names
from diffinv.pytree import pytree, static
from diffinv.schedules import Level, level_at

POWER = 7  # of the spacing


def spaced(first, last, part):
  """Return the noise at `part` in [0, 1] of the way from `first` to `last`, evenly in its 7th root."""
  return (first ** (1 / POWER) + part * (last ** (1 / POWER) - first ** (1 / POWER))) ** POWER


@pytree
class DAPS(base.Chain):
  """Decoupled annealing (Alg. 1) with Langevin dynamics; any differentiable operator; no gradient of the network."""

  tau: jax.Array | float = 0.01  # standard deviation that the data are trusted with; below sigma_y in the paper
  step_size: jax.Array | float = 1e-4  # eta at the first level
  last_step: jax.Array | float = 0.01  # eta at the last level, as a part of the first
  sigma_max: jax.Array | float = 100.0  # sbar of the first level
  sigma_min: jax.Array | float = 0.1  # sbar where the levels end
  ode_end: jax.Array | float = 0.01  # sbar where the ODE ends
  ode_steps: int = static(5)
  langevin_steps: int = static(100)
  misfit: str = static("likelihood")  # of MISFITS

  name, title = "daps", "DAPS"
  citation = "Zhang et al., CVPR 2025, arXiv 2407.01521"
  ranges = {
    **{name: base.POSITIVE for name in ("tau", "step_size", "last_step", "sigma_max", "sigma_min", "ode_end")},
    **{name: base.COUNT for name in ("ode_steps", "langevin_steps")},
  }

  def levels(self, grid):
    """Return as many levels as the grid has, at this method's own noises, then the clean image."""
    count, dtype = grid.alpha.shape[0] - 1, grid.alpha.dtype
    sbar = spaced(self.sigma_max, self.sigma_min, jnp.arange(count, dtype=dtype) / count)
    alpha = 1.0 / jnp.sqrt(1.0 + sbar**2)
    known = jnp.log(grid.sigma[:-1] / grid.alpha[:-1])[::-1]
    t = jnp.interp(jnp.log(sbar), known, grid.t[:-1][::-1])
    return Level(*(jnp.append(v, last) for v, last in zip((t, alpha, sbar * alpha), (0.0, 1.0, 0.0))))

  def cost(self, num_levels):
    return base.Cost(self.ode_steps * (num_levels - 1), 0)

  def check(self, operator):
    if not self.ode_end <= self.sigma_min < self.sigma_max:
      raise ValueError(
        f"daps: expected ode_end <= sigma_min < sigma_max, got {float(self.ode_end):g}, {float(self.sigma_min):g} and "
        f"{float(self.sigma_max):g}"
      )
    if not isinstance(operator, LinearOperator):
      return
    bound = float(self.step_size * norm_squared(operator) / self.tau**2)
    if not bound < 2.0:
      raise ValueError(
        f"daps: the Langevin steps are stable while step_size ||A||^2 / tau^2 < 2, got {bound:.3g}; "
        "lower step_size or raise tau"
      )

  def step(self, key, state, now, nxt, prior, problem):
    k1, k2 = jax.random.split(key)
    sbar = now.sigma / now.alpha
    x0 = self.langevin(k1, self.flow(state.x / now.alpha, sbar, prior), sbar, problem)
    z = jax.random.normal(k2, x0.shape, x0.dtype)
    return base.XState(nxt.alpha * x0 + nxt.sigma * z), {"residual_norm": base.residual_norm(problem, x0)}

  def estimate(self, state, level, prior, problem):
    """Return E[x0 | x_t] of the iterate; `levels` could only interpolate t on the grid, the schedule knows it."""
    sbar = jnp.where(level.sigma > 0, level.sigma / level.alpha, self.sigma_min)  # of the clean image t is not asked
    return super().estimate(state, level._replace(t=level_at(prior.schedule, sbar).t), prior, problem)

  def flow(self, u, sbar, prior):
    """Return the end of the probability-flow ODE du / dsbar = (u - D) / sbar from `u`, by Euler steps."""
    noises = spaced(sbar, self.ode_end, jnp.arange(self.ode_steps + 1, dtype=u.dtype) / self.ode_steps)

    def euler(u, pair):
      level = level_at(prior.schedule, pair[0])
      x0 = prior.denoise(level.alpha * u, level).x0
      return x0 + pair[1] / pair[0] * (u - x0), None

    return jax.lax.scan(euler, u, (noises[:-1], noises[1:]))[0]

  def langevin(self, key, x0_hat, sbar, problem):
    """Return a sample of about N(x0_hat, sbar^2 I) exp(-misfit), from `x0_hat`."""
    ends = [noise ** (1 / POWER) for noise in (self.sigma_max, self.sigma_min)]
    part = (ends[0] - sbar ** (1 / POWER)) / (ends[0] - ends[1])
    eta = self.step_size * (1.0 + part * (self.last_step - 1.0)) / problem.stiffness(self.misfit)
    gradient = jax.grad(lambda x0: 0.5 / self.tau**2 * problem.misfit(x0, self.misfit))

    def move(x0, key):
      z = jax.random.normal(key, x0.shape, x0.dtype)
      return x0 - eta * ((x0 - x0_hat) / sbar**2 + gradient(x0)) + jnp.sqrt(2.0 * eta) * z, None

    return jax.lax.scan(move, x0_hat, jax.random.split(key, self.langevin_steps))[0]
