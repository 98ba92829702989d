"""JFPS: posterior sampling free of the network's Jacobian, from a fixed covariance of images.

The covariance of x0 given x_t is taken from a Gaussian model N(m, C) of images instead of the network's derivative,
V = (C^-1 + (alpha^2 / sigma^2) I)^-1, so that with the denoised image D

  x0 = D + V A^T (A V A^T + sigma_y^2 I)^-1 (y - A D).

After Yismaw, Kamilov and Asif, "Gaussian is All You Need: A Unified Framework for Solving Inverse Problems via
Diffusion Posterior Sampling", arXiv 2409.08906, whose covariance this is. What is approximate: V, exact where the prior
is the model; the network's own uncertainty is ignored.

Any Gaussian prior will do as the model, whatever its basis: its denoiser is affine, with derivative K, and
V = (sigma^2 / alpha) K.

Differs from the paper: V on both sides of A, and the solve by conjugate gradients for any linear operator.

The law under a Gaussian prior is `affine.conditional_step` with the covariance of the model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import priors
from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, each
from diffinv.operators.base import conjugate_gradients
from diffinv.pytree import pytree, static
from diffinv.schedules import Level, Schedule

# For its cases: a covariance that is not the prior's, so that the approximation shows.
OTHER_COVARIANCE = np.array([[0.6, -0.1, 0.2], [-0.1, 0.9, 0.1], [0.2, 0.1, 0.5]])


@pytree
class JFPS(base.Chain):
  """Moment matching with a fixed covariance; linear operators; no gradient of the network."""

  covariance: Any = None  # a Gaussian prior, e.g. of `priors.spectral.fit`; None: natural images, three channels
  eta: jax.Array | float = 1.0  # of DDIM: 1 is DDPM with its small variance
  iterations: int = static(default=20)  # of conjugate gradients; they call no network

  name, title = "jfps", "JFPS"
  citation = "after Yismaw et al., arXiv 2409.08906"
  entering = "the same, a fixed covariance, no J"
  linear_in_noise = True
  ranges = {"eta": base.PART, "iterations": base.COUNT}
  search = {"eta": base.ETAS}
  linear_only = True

  def check(self, operator):
    if self.covariance is None and operator.in_shape[-1] != 3:
      raise ValueError(
        f"jfps: expected images of 3 channels for the covariance of natural images, got {operator.in_shape}; "
        "give a Gaussian prior as covariance"
      )
    if isinstance(self.covariance, priors.GaussianMixture) and len(self.covariance.means) > 1:
      raise ValueError(
        f"jfps: expected one Gaussian as covariance, got a mixture of {len(self.covariance.means)}; fit one to it"
      )
    if self.covariance is not None:
      check_size(self.covariance, operator.in_shape)

  def update(self, z, x_t, now, nxt, prior, problem):
    operator, denoised = problem.operator, prior.denoise(x_t, now)
    residual, variance = problem.residual(denoised.x0), proximal.noise_variance(problem)
    model = priors.natural() if self.covariance is None else self.covariance

    def spread(v):  # V v
      moved = jax.jvp(lambda x: model.denoise(x, now).x0, (jnp.zeros_like(v),), (v,))[1]
      return now.sigma**2 / now.alpha * moved

    def covariance(v):  # of y given x_t
      return operator(spread(operator.adjoint(v))) + variance * v

    weighted = conjugate_gradients(covariance, residual, self.iterations)
    x0 = denoised.x0 + spread(operator.adjoint(weighted))
    x = base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, self.eta)
    return x, {"residual_norm": base.norm(residual)}

  @classmethod
  def cases(cls):
    build = lambda: cls(covariance=affine.G3._replace(C=OTHER_COVARIANCE).prior())
    return (Case("another covariance", build, each(affine.conditional_step, C=OTHER_COVARIANCE)),)

  @classmethod
  def mixture_case(cls):
    build = lambda law: cls(covariance=priors.gaussian(*law.moments(), Schedule("linear", 1000)))
    return MixtureCase("covariance of the prior", build, "a Gaussian for 25 modes")


def check_size(covariance, shape):
  """Check that a prior denoises images of `shape`.

  Raises:
    ValueError: it is for images of another size.
  """
  level = Level(*(jax.ShapeDtypeStruct((), jnp.result_type(float)),) * 3)
  image = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
  try:
    jax.eval_shape(lambda x, at: covariance.denoise(x, at).x0, image, level)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"jfps: expected a covariance of images of {shape}, got one of others; fit it to such images"
    ) from error
