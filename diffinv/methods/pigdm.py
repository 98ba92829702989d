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

At high noise the first two overshoot, by up to 1 / alpha^2 and 1 / alpha, along directions in which the prior varies
far more than N(0, I), such as the coarse structure of photographs: unless D is clipped, their chains diverge. The third
does not, and is the default.

Differs from the paper: sigma_y may differ from value to value (Poisson); the solve is then by conjugate gradients.
"""

import jax
import numpy as np

from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, ScalarCase, each
from diffinv.pytree import pytree, static


def score_weight(z, x_t, denoised, g, now, nxt, eta):
  """Add g to the score."""
  x0 = denoised.x0 + now.sigma**2 / now.alpha * g
  return base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, eta)


def algorithm_1_weight(z, x_t, denoised, g, now, nxt, eta):
  """Add alpha r_t^2 g to the step (Alg. 1)."""
  return base.ddim_step(z, x_t, denoised, now, nxt, eta) + now.alpha * variance(now) * g


def code_weight(z, x_t, denoised, g, now, nxt, eta):
  """Add alpha_s alpha r_t^2 g to the step (the authors' code)."""
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
  weight: str = static(default="code", choices=WEIGHTS)

  name, title = "pigdm", "ΠGDM"
  citation = "Song et al., ICLR 2023"
  entering = "JᵀAᵀ(r²AAᵀ + σ²)⁻¹(y − Ax̂0)"
  linear_in_noise = True
  ranges = {"eta": base.PART}
  search = {"eta": base.ETAS}
  linear_only = True

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, num_levels - 1)

  def update(self, z, x_t, now, nxt, prior, problem):
    denoised, backward = base.denoise_vjp(prior, x_t, now)
    residual = problem.residual(denoised.x0)
    ratio = proximal.noise_variance(problem) / variance(now)
    g = backward(proximal.ridge(problem.operator, residual, ratio) / variance(now))
    return WEIGHTS[self.weight](z, x_t, denoised, g, now, nxt, self.eta), {"residual_norm": base.norm(residual)}

  @classmethod
  def cases(cls):
    return (
      Case("code", lambda: cls(weight="code"), each(exact_algorithm_1_step, code=True)),
      Case("score", lambda: cls(weight="score"), each(exact_step)),
      Case("score, eta .5", lambda: cls(weight="score", eta=0.5), each(exact_step, eta=0.5)),
      Case("algorithm_1", lambda: cls(weight="algorithm_1"), each(exact_algorithm_1_step)),
    )

  @classmethod
  def scalar_cases(cls):
    return (ScalarCase("score", lambda: cls(weight="score"), "bimodal", 0.876535, 0.215352, 0.9650),)

  @classmethod
  def mixture_case(cls):
    return MixtureCase("code", lambda law: cls())


# The exact laws under a Gaussian prior.


def exact_algorithm_1_step(p, abar, prev, *, code=False):
  """Return Alg. 1 at eta = 1; `code`: with the weight of the authors' code."""
  K, k = affine.denoiser(p, np.sqrt(abar), 1 - abar)
  M = np.sqrt(abar) * (np.sqrt(prev) if code else 1.0) * (1 - abar) * K.T @ p.A.T @ exact_inverse(p, abar)
  return affine.guided(affine.ddim_step(p, abar, prev, 1.0), p, M, K, k)


def exact_step(p, abar, prev, eta=1.0):
  """Return the implicit step with the guidance of Eq. 7 added to the score."""
  K, _ = affine.denoiser(p, np.sqrt(abar), 1 - abar)
  G = (1 - abar) / np.sqrt(abar) * K.T @ p.A.T @ exact_inverse(p, abar)
  return affine.implicit(abar, prev, *affine.corrected(p, abar, G), eta)


def exact_inverse(p, abar):
  """Return (r^2 A A^T + sigma^2 I)^-1, r^2 = 1 - abar."""
  return np.linalg.inv((1 - abar) * p.A @ p.A.T + p.sigma**2 * np.eye(len(p.y)))
