"""Samples of the prior itself, no measurement: DDPM and DDIM.

Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239, Alg. 2.
Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502, Eq. 12.
"""

import jax

from diffinv.methods import base
from diffinv.pytree import pytree, static


@pytree
class DDPM(base.Chain):
  """Ancestral sampling of the prior (Ho et al., Alg. 2). `problem` only gives the shape and may be None."""

  shape: tuple[int, ...] = static()

  name, title = "ddpm", "DDPM"
  citation = "Ho et al., NeurIPS 2020, arXiv 2006.11239"

  def init(self, key, prior, problem, start):
    return base.XState(jax.random.normal(key, self.shape, start.alpha.dtype))  # Alg. 2, line 1

  def step(self, key, state, now, nxt, prior, problem):
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    denoised = prior.denoise(state.x, now)
    return base.XState(base.reverse_step(z, state.x, denoised, now, nxt)), {}  # Alg. 2, line 4


@pytree
class DDIM(base.Chain):
  """Implicit sampling of the prior (Song et al., Eq. 12)."""

  shape: tuple[int, ...] = static()
  eta: jax.Array | float = 0.0  # 0 deterministic, 1 DDPM

  name, title = "ddim", "DDIM"
  citation = "Song et al., ICLR 2021, arXiv 2010.02502"

  def init(self, key, prior, problem, start):
    return base.XState(jax.random.normal(key, self.shape, start.alpha.dtype))

  def step(self, key, state, now, nxt, prior, problem):
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    denoised = prior.denoise(state.x, now)
    return base.XState(base.ddim_step(z, state.x, denoised, now, nxt, self.eta)), {}
