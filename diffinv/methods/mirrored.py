"""Denoising of mirrored pictures: what a network does to a picture and not to its mirror image is mostly error.

Known as self-ensembling (Lim et al., EDSR, CVPRW 2017, arXiv 1707.02921, Sec. 3.3). The views of a picture are, in
order, itself, mirrored left to right, upside down, and both. Only take as many as the prior's pictures come in: what
knows faces has seen none upside down.
"""

import jax
import jax.numpy as jnp

from diffinv.methods.base import Range
from diffinv.priors import AnyPrior
from diffinv.schedules import Level

VIEWS = Range(1, 4)


def view(x: jax.Array, k: jax.Array | int) -> jax.Array:
  """Return view `k`, 0 to 3, of a picture, [h, w, c]; the same again gives the picture back."""
  k = jnp.asarray(k, jnp.int32)
  x = jnp.where(k % 2 == 1, x[:, ::-1], x)
  return jnp.where(k // 2 == 1, x[::-1], x)


def denoise(prior: AnyPrior, x_t: jax.Array, level: Level, k: jax.Array | int, views: int) -> jax.Array:
  """Return E[x0 | x_t] by view `k`, modulo `views`, of x_t, turned back, [h, w, c]. One evaluation."""
  if views == 1:
    return prior.denoise(x_t, level).x0
  k = k % views
  return view(prior.denoise(view(x_t, k), level).x0, k)
