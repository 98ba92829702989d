"""DPIR: plug-and-play restoration with a denoiser, by half-quadratic splitting.

Zhang, Li, Zuo, Zhang, Van Gool and Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior", IEEE TPAMI
2021, arXiv 2008.13751, Alg. 1. With D_s(x) the denoised image of x at the noise level s and lambda our `weight`:

  x_k = argmin_x ||y - A x||^2 + alpha_k ||x - z_(k-1)||^2,   alpha_k = lambda sigma_y^2 / s_k^2   (Eq. 6a)
  z_k = D_(s_k)(x_k)                                                                               (Eq. 6b)

s_k falls from `start` to the noise of y, even in its logarithm (Sec. 4.2), whatever the grid: that says only how many
steps there are, 8 in the paper. No gradient of the network is taken. The result, z_K, is near a mode of the posterior:
it has little squared error where the posterior is narrow, and is no sample of it.

D_s is told that x_k has white noise of s, which it has not. With `noise` c it has some of it, x_k + c s_k z in Eq. 6b,
but for the last step, after Renaud et al., "Plug-and-Play Image Restoration with Stochastic Denoising Regularization",
ICML 2024, arXiv 2402.01779: D then fills what was not measured better, such as missing pixels. With c = 0, the paper's
algorithm, every seed gives the same picture.

What is rounded, as by JPEG, is known by steps of many lengths, and their root mean square says little: the longest are
those of values that a picture has little of. s_K is at most 0.025 then, and the result is moved to the nearest picture
that would be rounded to y.

Below a weight of 1/4 the data step of an operator with small singular values can leave more noise than s_k: at most
s_k / (2 sqrt(lambda)), along each singular vector.

A diffusion model denoises x as alpha x at the level whose sigma / alpha is s. Differs from the authors' code: sigma and
images are on [-1, 1], so that their first level, 49 / 255, is a `start` of 0.38; z_0 is the smoothest image that
explains y, for every linear operator, where the code interpolates y in a way of its own for each; from so good a start,
fewer levels are needed, from 0.2; and from step to step D takes another mirror image or negative (`views`,
`diffinv.methods.ensemble`), none turned by right angles.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import schedules
from diffinv.methods import affine, base, ensemble, proximal
from diffinv.methods.affine import Affine
from diffinv.methods.cases import Case, MixtureCase
from diffinv.noise import Rounding
from diffinv.pytree import pytree, static
from diffinv.schedules import Level

# s_K of rounded values, on [-1, 1]. JPEG files of qualities 10 to 95, whose pictures are off by 0.11 to 0.03 when they
# are decoded, are restored alike by 0.015 to 0.04, within 0.03 dB.
ROUNDED = 0.025


@pytree
class DPIR(base.Chain):
  """Plug-and-play by half-quadratic splitting (Alg. 1); linear operators; no gradient of the network."""

  weight: jax.Array | float = 0.23  # lambda
  start: jax.Array | float = 0.2  # s_1, on [-1, 1]; at least the noise of y
  noise: jax.Array | float = 0.8  # c, part of the noise that D is told of and is given, in [0, 1]
  views: int = static(default=1)  # of the picture that D sees in turn
  iterations: int = static(default=50)  # of conjugate gradients, where A has no closed form

  name, title = "dpir", "DPIR"
  citation = "Zhang et al., TPAMI 2021, arXiv 2008.13751"
  entering = "proximal step on x̂0, then denoised at a lower level"
  linear_only = True
  linear_in_noise = True
  ranges = {
    "weight": base.POSITIVE,
    "start": base.POSITIVE,
    "noise": base.PART,
    "views": ensemble.VIEWS,
    "iterations": base.COUNT,
  }
  search = {"weight": (0.12, 0.23, 0.46), "start": (0.2, 0.4, 0.8), "noise": (0.0, 0.6, 0.8, 1.0)}

  def levels(self, grid):
    """Return the steps' places on the way from `start`, sigma = 1, to the last level, 0; and the clean image.

    t counts the steps that are left.
    """
    return Level(jnp.arange(grid.t.shape[0])[::-1].astype(grid.t.dtype), jnp.ones_like(grid.alpha), _way(grid))

  def check_start(self, operator, schedule):
    """Accept a prior of any schedule: levels are cut to those that it knows."""

  def init(self, key, prior, problem, start):
    """Start at the smoothest image that explains y."""
    return base.XState(proximal.smoothest(problem, self.iterations))

  def update(self, z, x_t, now, nxt, prior, problem):
    last = proximal.mean_std(problem)
    if isinstance(problem.noise, Rounding):
      last = jnp.minimum(last, ROUNDED)
    sbar = jnp.maximum(self.start, last) ** now.sigma * last ** (1.0 - now.sigma)
    sbar = jnp.clip(sbar, *schedules.sbar_range(prior.schedule))
    x = proximal.proximal(problem, x_t, self.weight / sbar**2, iterations=self.iterations)  # Eq. 6a
    fresh = jnp.where(now.sigma > 0, self.noise * sbar, 0.0)
    level = schedules.level_at(prior.schedule, sbar)
    x0 = ensemble.denoise(prior, level.alpha * (x + fresh * z), level, nxt.t, self.views)  # Eq. 6b
    return x0, {"residual_norm": base.residual_norm(problem, x0)}

  def finish(self, state, prior, problem):
    """Return the last picture; of rounded values the nearest one that they allow."""
    return proximal.allowed(problem, state.x, self.iterations)

  def estimate(self, state, level, prior, problem):
    """Return the iterate, which is a clean image at every level; no evaluation."""
    return state.x

  @classmethod
  def cases(cls):
    build = lambda: cls(weight=0.5, start=2.0, noise=0.8)
    chain = lambda p: exact_chain(p, affine.STEPS, 0.5, 2.0, 0.8)
    return (Case("weight .5, start 2, noise .8", build, chain, lambda p: affine.point(exact_start(p))),)

  @classmethod
  def mixture_case(cls):
    return MixtureCase("start 20, noise 1", lambda law: cls(start=20.0, noise=1.0), "seeks a mode")


def _way(grid):
  """Return ln(s_k / sigma_y) / ln(s_1 / sigma_y) for each step, 1 to 0, and another 0."""
  steps = grid.sigma.shape[0] - 1
  return jnp.asarray([*(np.linspace(1.0, 0.0, steps) if steps > 1 else np.zeros(steps)), 0.0], grid.sigma.dtype)


# The exact law under a Gaussian prior.


def exact_start(p):
  """Return argmin |y - A x|^2 + mu |differences of x|^2 by its normal equations."""
  differences = np.diff(np.eye(len(p.m)), axis=0)
  return np.linalg.solve(p.A.T @ p.A + proximal.SMOOTHNESS * differences.T @ differences, p.A.T @ p.y)


def exact_chain(p, steps, weight, start, noise):
  """Return Eq. 6a by its normal equations, noise, and Eq. 6b, at the levels of Sec. 4.2."""
  maps, eye = [], np.eye(len(p.m))
  for k, s in enumerate(np.geomspace(start, p.sigma, steps)):
    rho = weight * p.sigma**2 / s**2
    inverse = np.linalg.inv(p.A.T @ p.A + rho * eye)
    alpha = 1 / np.sqrt(1 + s**2)
    K, d = affine.denoiser(p, alpha, (alpha * s) ** 2)
    added = noise * s if k < steps - 1 else 0.0
    maps.append(Affine(alpha * rho * K @ inverse, alpha * K @ inverse @ p.A.T @ p.y + d, alpha * added * K))
  return maps
