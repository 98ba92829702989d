"""Self-ensembling: what a network does to a picture and not to its mirror image or negative is mostly error.

Lim et al., EDSR, CVPRW 2017, arXiv 1707.02921, Sec. 3.3, for mirror images. A negative is like no photograph as a whole
and much like one in the patches that a denoiser goes by. The views of a picture are, in order,

  0  itself            1  left to right
  2  -upside down      3  -both
  4  -itself           5  -left to right
  6  upside down       7  both

so that every even number of them has as many mirrored as not, and four as many negatives as not. Only take as many as
the prior's pictures come in: what knows faces has seen none upside down.
"""

import jax
import jax.numpy as jnp

from diffinv.methods.base import Range
from diffinv.priors import AnyPrior
from diffinv.schedules import Level

VIEWS = Range(1, 8)


def view(x: jax.Array, k: jax.Array | int) -> jax.Array:
  """Return view `k`, 0 to 7, of a picture on [-1, 1], [h, w, c]; the same again gives the picture back."""
  k = jnp.asarray(k, jnp.int32)
  x = jnp.where(k % 2 == 1, x[:, ::-1], x)
  x = jnp.where(k // 2 % 2 == 1, x[::-1], x)
  return jnp.where((k + 2) // 4 == 1, -x, x)


def denoise(prior: AnyPrior, x_t: jax.Array, level: Level, k: jax.Array | int, views: int) -> jax.Array:
  """Return E[x0 | x_t] by view `k`, modulo `views`, of x_t, turned back, [h, w, c]. One evaluation."""
  if views == 1:
    return prior.denoise(x_t, level).x0
  k = k % views
  return view(prior.denoise(view(x_t, k), level).x0, k)
