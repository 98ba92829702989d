"""SDEdit: noise a guide to an intermediate level, and let the prior bring it back.

Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022, arXiv
2108.01073, the algorithms of its appendix for VP-SDEs, without and with a mask. To solve an inverse problem, the guide
is computed from the measurement, g = A^+ y or A^T (A A^T + ridge I)^-1 y, and y enters nowhere else: judge the residual
beside the picture. Choose t0 so that the noise sbar(t0) covers the guide's artifacts (linear schedule, t0 =
.3/.4/.5/.6: sbar = 1.2/2.0/3.4/6.1). These numbers are for steps at equal distances in time: t0 is a fraction of the
grid's levels, and on a grid even in log-SNR half of the levels only reach sbar 1.1.

Differs from the paper: the ancestral DDPM step in place of Euler-Maruyama.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base
from diffinv.methods.cases import Case, MixtureCase
from diffinv.operators.pixels import Inpainting
from diffinv.pytree import pytree, static
from diffinv.schedules import Level


def pinv_guide(method, problem):
  """Return A^+ y: unobserved parts are zero, mid-gray."""
  return problem.operator.pinv(problem.y)


def ridge_guide(method, problem):
  """Return A^T (A A^T + ridge I)^-1 y, which does not amplify the noise of what A nearly removes (deblurring)."""
  return problem.operator.ridge(problem.y, method.ridge)


GUIDES = {"pinv": pinv_guide, "ridge": ridge_guide}


@pytree
class SDEdit(base.Chain):
  """SDEdit (VP-SDE) from a guide that the measurement gives, repeated; linear operators."""

  ridge: jax.Array | float = 0.01  # (ridge) noise-to-signal variance

  t0: float = static(default=0.5)  # where the chain starts, as a fraction of the grid; 0.3-0.6 in the paper
  repeats: int = static(default=1)  # K: each result is the next guide
  guide: str = static(default="pinv", choices=GUIDES)
  keep_known: bool = static(default=False)  # with a mask: re-impose observed pixels at each level

  name, title = "sdedit", "SDEdit"
  citation = "Meng et al., ICLR 2022, arXiv 2108.01073"
  ranges = {"t0": base.Range(0, 1, above=True), "ridge": base.POSITIVE, "repeats": base.COUNT}
  entering = "the guide A⁺y, noised to t0, then the prior alone"
  linear_in_noise = True
  linear_only = True
  search = {"t0": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "ridge": (0.001, 0.01, 0.1)}
  examples = {"default": {"t0": 0.4, "repeats": 2, "guide": "ridge"}, "keep_known": {"t0": 0.4, "keep_known": True}}

  def levels(self, grid):
    """Return [clean, t0, ..., clean] joined K times: each step up from a clean image re-noises the guide."""
    noisy = grid.alpha.shape[0] - 1
    start = noisy - min(noisy, max(1, round(self.t0 * noisy)))

    def repeat(values):
      return jnp.concatenate([values[-1:], jnp.tile(values[start:], self.repeats)])

    return Level(*map(repeat, grid))

  def cost(self, num_levels):
    return base.Cost(num_levels - 1 - self.repeats, 0)

  def check(self, operator):
    if self.keep_known and not isinstance(operator, Inpainting):
      raise ValueError(f"sdedit: keep_known re-imposes observed pixels, got {type(operator).__name__}; set it to false")

  def check_start(self, operator, schedule):
    """Accept a prior of any schedule: the guide is noised to a level of it."""

  def init(self, key, prior, problem, start):
    return base.XState(GUIDES[self.guide](self, problem))

  def update(self, z, x_t, now, nxt, prior, problem):
    def reverse(x):
      return base.reverse_step(z, x, prior.denoise(x, now), now, nxt)

    # Levels are the same for the whole batch, so this stays a branch under vmap: no network call on the way up.
    x = jax.lax.cond(nxt.sigma > now.sigma, lambda x: base.renoise(z, x, now, nxt), reverse, x_t)
    if self.keep_known:
      known = problem.operator.mask
      x = known * (nxt.alpha * problem.y + nxt.sigma * z) + (1.0 - known) * x
    return x, {}

  @classmethod
  def cases(cls):
    return (
      Case(
        "pinv, t0 .5, thrice",
        lambda: cls(t0=0.5, repeats=3),
        lambda p: exact_maps(p, affine.ABAR, 50, 3),
        lambda p: affine.point(exact_pinv_guide(p)),
        note="y enters through the guide alone",
      ),
      Case(
        "ridge .1, t0 .3",
        lambda: cls(t0=0.3, guide="ridge", ridge=0.1),
        lambda p: exact_maps(p, affine.ABAR, 30, 1),
        lambda p: affine.point(exact_ridge_guide(p, 0.1)),
      ),
    )

  @classmethod
  def mixture_case(cls):
    return MixtureCase("pinv, t0 .5", lambda law: cls(), "y enters through the guide alone")


# The exact law under a Gaussian prior.


def exact_pinv_guide(p):
  """Return A^+ y."""
  return np.linalg.pinv(p.A) @ p.y


def exact_ridge_guide(p, ridge):
  """Return A^T (A A^T + ridge I)^-1 y."""
  return p.A.T @ np.linalg.solve(p.A @ p.A.T + ridge * np.eye(len(p.y)), p.y)


def exact_renoise_step(d, abar):
  """Return x' = sqrt(abar) x + sqrt(1 - abar) z, from a clean image."""
  return affine.Affine(np.sqrt(abar) * np.eye(d), np.zeros(d), np.sqrt(1 - abar) * np.eye(d))


def exact_maps(p, alpha_bar, start, repeats):
  """Return the steps of Alg. 2 from the clean guide through the last `start` levels, repeated."""
  kept = alpha_bar[:start]
  down = [affine.ddpm_step(p, *pair) for pair in affine.pairs(kept)]
  return [exact_renoise_step(len(p.m), kept[-1]), *down] * repeats
