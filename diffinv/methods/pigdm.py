"""PiGDM: pseudoinverse-guided diffusion.

Song, Vahdat, Mardani and Kautz, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023. With D the
denoised image, J its derivative by x_t and the model p(x0 | x_t) = N(D, r_t^2 I),

  g = J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A D)   (Eq. 7),   r_t^2 = sbar^2 / (1 + sbar^2) = sigma^2,

sbar = sigma / alpha: r_t^2 is the variance of x0 given x_t under x0 ~ N(0, I). What is approximate: the covariance
of x0 given x_t, exact for that prior alone. Three weights of g:

  weight         step
  score          g is added to the score: DDIM from x0 = D + (sigma^2 / alpha) g
  algorithm_1    DDIM from D, then + alpha r_t^2 g (Alg. 1)
  code           DDIM from D, then + alpha_s alpha r_t^2 g: the authors' code (in RED-diff's repository)

The first two overshoot at high noise, up to 1 / alpha^2 and 1 / alpha times, along directions where the prior varies
far more than N(0, I), as the coarse structure of photographs does: unless D is clipped, their chains diverge there. The
third does not, and is the default.

Differs from the paper: sigma_y may differ from value to value (Poisson), the solve is then by conjugate gradients.
"""

import jax

from diffinv.methods import base, proximal
from diffinv.pytree import pytree, static


def score_weight(z, x_t, denoised, g, now, nxt, eta):
  x0 = denoised.x0 + now.sigma**2 / now.alpha * g
  return base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, eta)


def algorithm_1_weight(z, x_t, denoised, g, now, nxt, eta):
  return base.ddim_step(z, x_t, denoised, now, nxt, eta) + now.alpha * variance(now) * g


def code_weight(z, x_t, denoised, g, now, nxt, eta):
  return base.ddim_step(z, x_t, denoised, now, nxt, eta) + nxt.alpha * now.alpha * variance(now) * g


WEIGHTS = {"score": score_weight, "algorithm_1": algorithm_1_weight, "code": code_weight}


def variance(now):
  """Return r_t^2, []."""
  sbar_squared = (now.sigma / now.alpha) ** 2
  return sbar_squared / (1.0 + sbar_squared)


@pytree
class PiGDM(base.Chain):
  """Pseudoinverse guidance (Alg. 1); linear operators."""

  eta: jax.Array | float = 1.0  # of DDIM: 1 is DDPM with its small variance
  weight: str = static("code")  # of WEIGHTS

  name, title = "pigdm", "ΠGDM"
  citation = "Song et al., ICLR 2023"
  ranges = {"eta": base.PART}
  linear_only = True

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, num_levels - 1)

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one step with the given noise, `[h, w, c]`; return the next iterate and ||y - A D||."""
    denoised, backward = base.denoise_vjp(prior, x_t, now)
    residual = problem.residual(denoised.x0)
    ratio = proximal.noise_variance(problem) / variance(now)
    g = backward(proximal.ridge(problem.operator, residual, ratio) / variance(now))
    return WEIGHTS[self.weight](z, x_t, denoised, g, now, nxt, self.eta), base.norm(residual)
