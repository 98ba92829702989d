"""An own operator, an own method and an own prior in one comparison, with its page.

usage: python examples/own_parts.py
"""

import jax
import jax.numpy as jnp

import diffinv
from diffinv import priors
from diffinv.methods import base
from diffinv.operators import LinearOperator
from diffinv.pytree import pytree, static


@pytree
class Stripes(LinearOperator):
  """Keep every other row; the others are not measured."""

  in_shape: tuple[int, ...] = static(default=(32, 32, 3))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Return every other row of `[h, w, c]`."""
    return x[::2]


@pytree
class Projection(base.Chain):
  """Replace A x by the measurement at each level."""

  strength: jax.Array | float = 1.0
  name, title, citation, linear_only = "projection", "Projection", "Song et al., ICLR 2021", True

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one ancestral step, then move toward the measurement."""
    x = base.reverse_step(z, x_t, prior.denoise(x_t, now), now, nxt)
    gap = nxt.alpha * problem.y - problem.operator(x)
    return x + self.strength * problem.operator.pinv(gap), {}


own = priors.natural()  # any pytree with `schedule` and `denoise(x_t, level)`; see diffinv/priors/base.py
study = diffinv.Study(
  prior=own,
  tasks={"stripes": Stripes()},
  methods=[Projection(), Projection(strength=jnp.float32(0.5)), "diffpir"],
  size=32,
  fit="resize",
  steps=10,
)
results = diffinv.compare(study, folder="out/own")
print(results.table())
print(diffinv.write_report(results, "out/own/page.html"))
