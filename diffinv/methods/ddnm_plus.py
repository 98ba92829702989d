"""DDNM+: denoising diffusion null-space model, for noisy data.

Wang, Yu and Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR 2023,
arXiv 2212.00490, Sec. 3.3 with one lambda for all values. With D the denoised image and its eps,

  xh  = D - lambda A^+ (A D - y),   lambda = min(1, sigma_s / (alpha_s sigma_y))        (Eq. 17, 19)
  x_s = alpha_s xh + sqrt(gamma) (eta z + sqrt(1 - eta^2) eps),
        gamma = sigma_s^2 - (alpha_s lambda sigma_y)^2                                  (Eq. 18, 19)

The noise that y brings, lambda sigma_y, is left out of the fresh noise. What is approximate: one lambda and one gamma
for all coordinates, right where the singular values of A are 1. Small singular values amplify the noise of A^+ y, which
one lambda cannot account for: operators that do so on average (blurs) are refused. With a lambda for each singular
value, as in the authors' code for operators of known SVD, the method is `ddrm` at eta_b = 1: use that.

Differs from Eq. 18: DDIM of parameter eta in place of the DDPM posterior, as in the authors' code.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, each
from diffinv.pytree import pytree

MAX_GAIN = 5.0  # root mean square of A^+ n over the pixels, n of variance 1; super-resolution x4 is near 1


@pytree
class DDNMPlus(base.Chain):
  """The null-space model with noise (Sec. 3.3); linear operators; no gradient of the network."""

  eta: jax.Array | float = 0.85  # part of the noise that is fresh, in [0, 1]

  name, title = "ddnm_plus", "DDNM+"
  citation = "Wang et al., ICLR 2023, arXiv 2212.00490"
  entering = "range-space part of x̂0 replaced by A⁺y"
  linear_in_noise = True
  ranges = {"eta": base.PART}
  search = {"eta": (0.0, 0.25, 0.5, 0.85, 1.0)}
  linear_only = True
  spectral_only = True

  def check(self, operator):
    values = np.asarray(_singular_values(operator), np.float64)
    gain = math.sqrt(np.sum(values[values > 0] ** -2.0) / math.prod(operator.in_shape))
    if gain > MAX_GAIN:
      raise ValueError(
        f"ddnm_plus: expected an operator whose pseudo-inverse amplifies noise at most {MAX_GAIN:g} times, "
        f"got {gain:.3g} times; use ddrm, which weighs every singular value"
      )

  def update(self, z, x_t, now, nxt, prior, problem):
    denoised = prior.denoise(x_t, now)
    residual = problem.residual(denoised.x0)
    noise = nxt.alpha * proximal.mean_std(problem)
    room = nxt.sigma**2 - noise**2  # for fresh noise; 0 without any, even on the clean image
    scale = jnp.where(room >= 0, 1.0, nxt.sigma / noise)
    x0 = denoised.x0 + scale * problem.operator.pinv(residual)
    std = jnp.sqrt(jnp.maximum(room, 0.0))
    fresh = self.eta * z + jnp.sqrt(1.0 - self.eta**2) * denoised.eps
    return nxt.alpha * x0 + std * fresh, {"residual_norm": base.norm(residual)}

  @classmethod
  def cases(cls):
    return (Case("eta .85", lambda: cls(eta=0.85), each(exact_step, eta=0.85)),)

  @classmethod
  def mixture_case(cls):
    return MixtureCase("eta .85", lambda law: cls(), "for singular values of 1")


@jax.jit  # one program: each operation by itself would be compiled as well
def _singular_values(operator):
  """Return the singular value of every coordinate."""
  basis = operator.spectral()
  coords = jax.eval_shape(basis.analyze, jax.ShapeDtypeStruct(operator.in_shape, jnp.result_type(float)))
  return jnp.broadcast_to(basis.values, coords.shape)


# The exact law under a Gaussian prior.


def exact_step(p, abar, prev, eta):
  """Return Eq. 17 to 19 with one lambda."""
  K, k = affine.denoiser(p, np.sqrt(abar), 1 - abar)
  room = 1 - prev - prev * p.sigma**2
  scale, std = (1.0, np.sqrt(room)) if room >= 0 else (np.sqrt((1 - prev) / prev) / p.sigma, 0.0)
  X, x = affine.corrected(p, abar, scale * np.linalg.pinv(p.A))
  of_eps, eye = std * np.sqrt(1 - eta**2), np.eye(len(p.m))
  eps, shift = (eye - np.sqrt(abar) * K) / np.sqrt(1 - abar), -np.sqrt(abar) * k / np.sqrt(1 - abar)
  return affine.Affine(np.sqrt(prev) * X + of_eps * eps, np.sqrt(prev) * x + of_eps * shift, std * eta * eye)
