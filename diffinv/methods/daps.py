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

||y - A(x0)||^2 is `Problem.misfit`: for Poisson noise the log-likelihood in the same units, as if its mean variance
were tau^2. The step eta is divided by `Problem.stiffness`: without it, dark pixels would make the Langevin steps
unstable.

Differs from the authors' code, which takes grad ||y - A(x0)||^2 / tau^2 without the 1/2 of the Gaussian law: its tau is
ours times the root of 2.

The grid sets the number of levels; network calls between its levels interpolate t.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base, starts
from diffinv.methods.cases import Case, MixtureCase
from diffinv.operators.base import LinearOperator, norm_squared
from diffinv.problems import MISFITS
from diffinv.pytree import pytree, static
from diffinv.schedules import Level, level_at, sbar_range

POWER = 7  # of the spacing
# Of its case: few and large Langevin steps, so that the law is far from its limit.
ANNEALING = {"tau": 0.15, "step_size": 4e-3, "last_step": 0.2, "sigma_max": 20.0, "langevin_steps": 8}


def spaced(first, last, part):
  """Return the noise at `part` in [0, 1] of the way from `first` to `last`, evenly in its 7th root."""
  return (first ** (1 / POWER) + part * (last ** (1 / POWER) - first ** (1 / POWER))) ** POWER


@pytree
class DAPS(base.Iteration):
  """Decoupled annealing (Alg. 1) with Langevin dynamics; any differentiable operator; no gradient of the network."""

  tau: jax.Array | float = 0.01  # standard deviation assumed of the data; below sigma_y in the paper
  step_size: jax.Array | float = 1e-4  # eta at the first level
  last_step: jax.Array | float = 0.01  # eta at the last level, as a part of the first
  sigma_max: jax.Array | float = 100.0  # sbar of the first level
  sigma_min: jax.Array | float = 0.1  # sbar where the levels end
  ode_end: jax.Array | float = 0.01  # sbar where the ODE ends
  ode_steps: int = static(default=5)
  langevin_steps: int = static(default=100)
  misfit: str = static(default="likelihood", choices=MISFITS)

  name, title = "daps", "DAPS"
  citation = "Zhang et al., CVPR 2025, arXiv 2407.01521"
  ranges = {
    **{name: base.POSITIVE for name in ("tau", "step_size", "last_step", "sigma_max", "sigma_min", "ode_end")},
    **{name: base.COUNT for name in ("ode_steps", "langevin_steps")},
  }
  entering = "Langevin steps on x0, decoupled levels"
  linear_in_noise = True
  examples = {"default": {"langevin_steps": 20}}
  search = {"tau": (0.01, 0.02, 0.05, 0.1), "step_size": (1e-5, 5e-5, 1e-4, 2e-4, 5e-4)}

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

  def check_start(self, operator, schedule):
    starts.check(self.name, operator, schedule)
    high = sbar_range(schedule)[1]
    if not starts.knows_pure_noise(schedule) and float(self.sigma_max) > high:
      raise ValueError(
        f"daps: {starts.limit(schedule)}: expected sigma_max of at most {high:.3g}, got {float(self.sigma_max):g}"
      )

  def step(self, key, state, now, nxt, prior, problem):
    k1, k2 = jax.random.split(key)
    sbar = now.sigma / now.alpha
    x0 = self.langevin(k1, self.flow(state.x / now.alpha, sbar, prior), sbar, problem)
    z = jax.random.normal(k2, x0.shape, x0.dtype)
    return base.XState(nxt.alpha * x0 + nxt.sigma * z), {"residual_norm": base.residual_norm(problem, x0)}

  def estimate(self, state, level, prior, problem):
    """Return E[x0 | x_t] of the iterate; t is that of the schedule, which `levels` can only interpolate on the grid."""
    sbar = jnp.where(level.sigma > 0, level.sigma / level.alpha, self.sigma_min)  # t of the clean image is not used
    return base.denoised_at(state.x, level._replace(t=level_at(prior.schedule, sbar).t), prior)

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

  @classmethod
  def cases(cls):
    method, levels = cls(**ANNEALING), 20
    return (
      Case(
        "8 Langevin steps",
        lambda: cls(**ANNEALING),
        lambda p: exact_maps(p, method, levels),
        lambda p: exact_start(p, method),
        one_noise=False,
        levels=levels,
        note="several noises a step: no single map to read off",
      ),
    )

  @classmethod
  def mixture_case(cls):
    fields = {"tau": 0.3, "step_size": 0.1, "last_step": 0.1, "sigma_max": 30.0, "langevin_steps": 20}
    return MixtureCase("tau .3", lambda law: cls(**fields), "trusts the data by tau, not sigma_y")


# The exact law under a Gaussian prior, on u = x0 + sbar eps; `a` has the settings as the fields of the class.


def exact_spaced(first, last, part):
  """Return the noise at `part` in [0, 1] of the way from `first` to `last`, evenly in its 7th root."""
  return (first ** (1 / 7) + part * (last ** (1 / 7) - first ** (1 / 7))) ** 7


def exact_maps(p, a, levels):
  """Return Alg. 1, a map a level: ODE, Langevin steps, the next level's noise."""
  eye, maps = np.eye(len(p.m)), []
  noises = [exact_spaced(a.sigma_max, a.sigma_min, i / levels) for i in range(levels)] + [0.0]
  for i in range(levels):
    X, x = exact_flow(p, noises[i], a)
    eta = a.step_size * (1 + i / levels * (a.last_step - 1))
    M = eye / noises[i] ** 2 + p.A.T @ p.A / a.tau**2
    step = eye - eta * M
    F, to_hat, shift, cov = eye, np.zeros_like(eye), np.zeros(len(p.m)), np.zeros_like(eye)
    for _ in range(a.langevin_steps):
      F, to_hat = step @ F, step @ to_hat + eta / noises[i] ** 2 * eye
      shift = step @ shift + eta * p.A.T @ p.y / a.tau**2
      cov = step @ cov @ step.T + 2 * eta * eye
    whole = F + to_hat
    maps.append(affine.Affine(whole @ X, whole @ x + shift, np.linalg.cholesky(cov + noises[i + 1] ** 2 * eye)))
  return maps


def exact_flow(p, sbar, a):
  """Return X, x of the end X u + x of the probability-flow ODE by Euler steps (line 3)."""
  ends = [exact_spaced(sbar, a.ode_end, j / a.ode_steps) for j in range(a.ode_steps + 1)]
  X, x = np.eye(len(p.m)), np.zeros(len(p.m))
  for now, nxt in itertools.pairwise(ends):
    K, k = affine.denoiser(p, 1.0, now**2)
    q = nxt / now
    X, x = (1 - q) * K @ X + q * X, (1 - q) * (K @ x + k) + q * x
  return X, x


def exact_start(p, a):
  """Return the law of the first u: x_T = alpha u ~ N(0, I)."""
  return affine.Law(np.zeros(len(p.m)), (1 + a.sigma_max**2) * np.eye(len(p.m)))
