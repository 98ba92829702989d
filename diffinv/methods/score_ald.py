"""ScoreALD: annealed Langevin dynamics with an annealed likelihood.

Jalal, Arvinte, Daras, Price, Dimakis and Tamir, "Robust Compressed Sensing MRI with Deep Generative Priors",
NeurIPS 2021, arXiv 2108.01368, Eq. 4. In the coordinates u = x_t / alpha = x0 + sbar eps, sbar = sigma / alpha:

  u <- u + eta_t [ score(u; sbar) + A^T (y - A u) / (sigma_y^2 + gamma_t^2) ] + sqrt(2 eta_t) z,
  eta_t = c sbar^2,  gamma_t = rate sbar.

gamma_t keeps the chain stable at high noise: c (1 + ||A||^2 / rate^2) < 2, see `stability`. Two choices:

  weighting="paper"         Eq. 4
  weighting="norm_matched"  the authors' MRI code: the data gradient A^T (y - A u) is rescaled to `balance` times the
                            norm of the score (balance 5, c 1.15 there); sigma_y and gamma_t do not appear
  sampler="langevin"        Eq. 4, `steps_per_level` times at each level
  sampler="ddpm"            the same likelihood term added to the score inside the ancestral DDPM chain, once a level;
                            in the coordinates u a step of sbar_t^2 - sbar_s^2 along it

Differs from the paper: its images are complex MRI slices; the chain ends with Tweedie's formula (`denoise`), as in
Song et al., "Solving Inverse Problems in Medical Imaging with Score-Based Generative Models", ICLR 2022,
arXiv 2111.08005, whose settings (rate .713, c .09, 3 steps a level) are the defaults.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import priors
from diffinv.methods import affine, base, starts
from diffinv.methods.cases import Case, MixtureCase, each
from diffinv.operators.base import norm_squared
from diffinv.pytree import pytree, static
from diffinv.schedules import Level


def paper_weighting(method, residual, score, sbar, problem):
  """Return A^T (y - A u) / (sigma_y^2 + gamma_t^2) (Eq. 4); sigma_y may differ from value to value (Poisson)."""
  variance = problem.noise.std(problem.y) ** 2 + (method.rate * sbar) ** 2
  return problem.operator.adjoint(residual / variance)


def norm_matched_weighting(method, residual, score, sbar, problem):
  """Return A^T (y - A u) rescaled to `balance` ||score||, one norm per image (the authors' MRI code)."""
  gradient = problem.operator.adjoint(residual)
  norm = base.norm(gradient)
  return method.balance * base.norm(score) * gradient / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


WEIGHTINGS = {"paper": paper_weighting, "norm_matched": norm_matched_weighting}


def likelihood_gradient(method, u, score, sbar, problem):
  """Return the weighted data gradient at `u`, `[h, w, c]`, and ||y - A u||."""
  residual = problem.residual(u)
  return WEIGHTINGS[method.weighting](method, residual, score, sbar, problem), base.norm(residual)


def langevin_step(method, z, u, now, nxt, prior, problem):
  """Take one step of Eq. 4 at the level `now`, or Tweedie's formula if the next level is clean."""
  sbar = now.sigma / now.alpha
  x0 = prior.denoise(now.alpha * u, now).x0
  score = (x0 - u) / sbar**2
  gradient, norm = likelihood_gradient(method, u, score, sbar, problem)
  eta = method.c * sbar**2
  moved = u + eta * (score + gradient) + jnp.sqrt(2.0 * eta) * z
  return jnp.where(nxt.sigma > 0, moved, x0), {"residual_norm": norm}


def ddpm_step(method, z, x_t, now, nxt, prior, problem):
  """Take one ancestral step, the likelihood term of Eq. 4 added to its score."""
  denoised = prior.denoise(x_t, now)
  u, sbar = x_t / now.alpha, now.sigma / now.alpha
  score = now.alpha * priors.score(x_t, denoised.x0, now)
  gradient, norm = likelihood_gradient(method, u, score, sbar, problem)
  x = base.reverse_step(z, x_t, denoised, now, nxt)
  step = nxt.alpha * (sbar**2 - (nxt.sigma / nxt.alpha) ** 2)
  return x + step * gradient, {"residual_norm": norm}


SAMPLERS = {"langevin": langevin_step, "ddpm": ddpm_step}


@pytree
class ScoreALD(base.Chain):
  """Annealed Langevin dynamics (Eq. 4) or its likelihood term in the DDPM chain; linear operators."""

  c: jax.Array | float = 0.09  # step size over sbar^2 (langevin)
  rate: jax.Array | float = 0.713  # gamma_t over sbar (paper)
  balance: jax.Array | float = 5.0  # norm of the data gradient over that of the score (norm_matched)
  steps_per_level: int = static(default=3)  # (langevin)
  denoise: bool = static(default=True)  # end with Tweedie's formula (langevin)
  weighting: str = static(default="paper", choices=WEIGHTINGS)
  sampler: str = static(default="langevin", choices=SAMPLERS)

  name, title = "score_ald", "ScoreALD"
  citation = "Jalal et al., NeurIPS 2021, arXiv 2108.01368"
  ranges = {"c": base.POSITIVE, "rate": base.POSITIVE, "balance": base.NOT_NEGATIVE, "steps_per_level": base.COUNT}
  entering = "Aᵀ(y − Ax)/(σ² + γ²) added to the score"
  linear_in_noise = True
  linear_only = True
  search = {"rate": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.4, 2.0, 4.0)}
  examples = {"norm_matched": {"weighting": "norm_matched", "balance": 1.0}, "ddpm": {"sampler": "ddpm"}}

  def levels(self, grid):
    """Return the grid (ddpm), or each noisy level `steps_per_level` times, then the clean image with `denoise`."""
    if self.sampler == "ddpm":
      return grid

    def repeat(values):
      noisy = jnp.repeat(values[:-1], self.steps_per_level)
      return jnp.concatenate([noisy, values[-2:] if self.denoise else values[-2:-1]])

    return Level(*map(repeat, grid))

  def init(self, key, prior, problem, start):
    x_t = starts.begun(key, prior, problem, start)
    if self.sampler == "ddpm":
      return base.XState(x_t)
    return base.XState((start.sigma if starts.knows_pure_noise(prior.schedule) else 1.0) / start.alpha * x_t)

  def update(self, z, x_t, now, nxt, prior, problem):
    return SAMPLERS[self.sampler](self, z, x_t, now, nxt, prior, problem)

  def estimate(self, state, level, prior, problem):
    return base.denoised_at(state.x if self.sampler == "ddpm" else level.alpha * state.x, level, prior)

  def check(self, operator):
    if self.sampler != "langevin" or self.weighting != "paper":
      return
    bound = float(stability(self, norm_squared(operator)))
    if not bound < 2.0:
      raise ValueError(
        f"score_ald: the chain is stable while c (1 + ||A||^2 / rate^2) < 2, got {bound:.3g}; lower c or raise rate"
      )

  @classmethod
  def cases(cls):
    return (
      Case("ddpm, rate .713", lambda: cls(sampler="ddpm", rate=0.713), each(exact_ddpm_step, rate=0.713)),
      Case(
        "langevin, c .1, rate 1",
        lambda: cls(c=0.1, rate=1.0, steps_per_level=2),
        lambda p: exact_langevin_maps(p, affine.NOISES, 0.1, 1.0, 2),
        lambda p: affine.Law(np.zeros(len(p.m)), affine.NOISES[0] ** 2 * np.eye(len(p.m))),
      ),
    )

  @classmethod
  def mixture_case(cls):
    return MixtureCase("c .2, rate 1", lambda law: cls(c=0.2, rate=1.0), "no time to mix between modes")


def stability(method: ScoreALD, norm_squared: jax.Array | float) -> jax.Array | float:
  """Return c (1 + ||A||^2 / rate^2) of the linearized chain, [], from ||A||^2: it must stay below 2."""
  return method.c * (1.0 + norm_squared / method.rate**2)


# The exact laws under a Gaussian prior.


def exact_ddpm_step(p, abar, prev, rate):
  """Return the ancestral step, its score increased by grad log N(y; A x / alpha, sigma^2 + (rate s)^2)."""
  free, s2 = affine.ddpm_step(p, abar, prev), (1 - abar) / abar
  beta, weight = 1 - abar / prev, 1 / (p.sigma**2 + rate**2 * s2)
  # The posterior mean is (x + beta score) / sqrt(alpha); the chain rule through x / sqrt(abar) gives another factor.
  M = beta / np.sqrt(abar / prev) / np.sqrt(abar) * weight * p.A.T
  return affine.guided(free, p, M, np.eye(len(p.m)) / np.sqrt(abar), np.zeros(len(p.m)))


def exact_langevin_step(p, s, c, rate):
  """Return Eq. 4 at x = x0 + s eps, eta = c s^2, gamma = rate s."""
  d, eta, weight = len(p.m), c * s**2, 1 / (p.sigma**2 + (rate * s) ** 2)
  precision = np.linalg.inv(p.C + s**2 * np.eye(d))
  M = precision + weight * p.A.T @ p.A
  shift = eta * (precision @ p.m + weight * p.A.T @ p.y)
  return affine.Affine(np.eye(d) - eta * M, shift, np.sqrt(2 * eta) * np.eye(d))


def exact_tweedie_step(p, s):
  """Return the denoiser at x = x0 + s eps as a last step."""
  K, k = affine.denoiser(p, 1.0, s**2)
  return affine.Affine(K, k, np.zeros_like(K))


def exact_langevin_maps(p, noises, c, rate, steps, denoise=True):
  """Return annealed Langevin dynamics: `steps` at each of the noises, and Tweedie's formula at the end."""
  maps = [exact_langevin_step(p, s, c, rate) for s in noises for _ in range(steps)]
  return [*maps, exact_tweedie_step(p, noises[-1])] if denoise else maps
