"""The reverse sampler: one image, one `lax.scan` over neighboring levels.

`sample` is the whole chain as one compiled function. `start` and `advance` are its parts, for callers that show
progress or keep the chain: `advance` takes the same steps a block at a time, and the method's own `finish` ends the
chain.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffinv.methods.base import Info, Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level, as_arrays


def sample(
  key: jax.Array, method: Method, prior: AnyPrior, problem: Problem | None, grid: Level
) -> tuple[jax.Array, Info]:
  """Restore one image.

  Args:
    key: of this image and this sample.
    method: hyper-parameters of the method, e.g. `DPS(scale=0.5)`.
    prior: the diffusion model.
    problem: the measurement, its operator and its noise; None for methods that take none.
    grid: the noise levels, descending, the clean image last: `prior.schedule.grid("100")`.

  Returns:
    The restored image, `[h, w, c]` in units of [-1, 1], not clipped; and the method's trace, `[steps]` an entry.

  Example:
    >>> import diffinv, jax
    >>> from diffinv import noise
    >>> prior, x0 = diffinv.load_prior("natural"), jax.numpy.zeros((16, 16, 3))
    >>> operator = diffinv.OPERATORS["super_resolution"](x0.shape, 4)
    >>> problem = diffinv.simulate(jax.random.key(0), operator, noise.Gaussian(0.05), x0)
    >>> method = diffinv.METHODS["diffpir"]()
    >>> x, trace = diffinv.sample(jax.random.key(1), method, prior, problem, prior.schedule.grid("10"))
    >>> x.shape
    (16, 16, 3)
  """
  return _sample(key, method, prior, problem, as_arrays(grid))


@jax.jit
def _sample(key, method, prior, problem, grid):
  state = start(key, method, prior, problem, grid)
  num_steps = method.levels(grid).alpha.shape[0] - 1
  state, info = advance(key, state, jnp.arange(num_steps), method, prior, problem, grid)
  return method.finish(state, prior, problem), info


def start(key: jax.Array, method: Method, prior: AnyPrior, problem: Problem | None, grid: Level) -> Any:
  """Return the state before the first step."""
  levels = method.levels(grid)
  first = jax.tree.map(lambda v: v[0], levels)
  return method.init(jax.random.split(key)[0], prior, problem, first)


def advance(
  key: jax.Array, state: Any, steps: jax.Array, method: Method, prior: AnyPrior, problem: Problem | None, grid: Level
) -> tuple[Any, Info]:
  """Take the steps numbered `steps`, `[n]` whole numbers, in that order; return the state and the stacked trace.

  A number past the last step does nothing, so that blocks of one length, one compilation, cover any chain.
  """
  levels = method.levels(grid)
  num_steps = levels.alpha.shape[0] - 1
  chain_key = jax.random.split(key)[1]

  def body(state, i):
    now, nxt = (jax.tree.map(lambda v: v[jnp.minimum(i, num_steps - 1) + shift], levels) for shift in (0, 1))
    step_key = jax.random.fold_in(chain_key, i)
    return method.step(step_key, state, now, nxt, prior, problem)

  def guarded(state, i):
    # All chains of a batch take the same step, so this stays a branch under vmap.
    shapes = jax.eval_shape(body, state, i)[1]
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(i < num_steps, body, lambda state, i: (state, blank), state, i)

  return jax.lax.scan(guarded, state, steps)
