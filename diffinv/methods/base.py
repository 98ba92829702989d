"""What a method is, and the reverse steps that methods share.

A method is a frozen pytree of hyper-parameters that guides ONE image through a sequence of noise levels:

  levels(grid)                                -> the levels that its chain visits, in order
  init(key, prior, problem, start)            -> the state before the first step
  step(key, state, now, nxt, prior, problem)  -> the state after it, and a dict of scalars to trace
  finish(state, prior, problem)               -> the restored image
  estimate(state, level, prior, problem)      -> the clean image as the chain sees it at a level, to be looked at
  cost(num_levels)                            -> network evaluations and gradients per image
  check(operator)                             -> ValueError where the method cannot work; before the chain, on the host

The sampler (`diffinv.sampler`) scans `step` over neighboring pairs of levels and knows nothing else.
"""

import math
from typing import Any, Callable, ClassVar, Mapping, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffinv.operators.base import Operator
from diffinv.priors import AnyPrior, Denoised, eps_from_x0
from diffinv.problems import Problem
from diffinv.schedules import Level, step_beta

Info = dict[str, jax.Array]


class XState(NamedTuple):
  """The state of a chain that is its iterate alone."""

  x: jax.Array  # [h, w, c]


class Cost(NamedTuple):
  """What one image costs."""

  evaluations: int  # calls of the network
  gradients: int  # backward passes through the network: DPS takes one for each evaluation


class Range(NamedTuple):
  """The values that a hyper-parameter may have."""

  low: float
  high: float = math.inf
  above: bool = False  # whether `low` itself is left out

  def __contains__(self, value: float) -> bool:
    return (self.low < value if self.above else self.low <= value) and value <= self.high

  def __str__(self) -> str:
    if math.isinf(self.high):
      return f"{'above' if self.above else 'at least'} {self.low:g}"
    return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


POSITIVE, NOT_NEGATIVE, PART, COUNT = Range(0, above=True), Range(0), Range(0, 1), Range(1)


class Method(Protocol):
  """See the module docstring."""

  name: str  # as on the command line
  title: str  # as in the paper
  citation: str
  linear_only: bool
  spectral_only: bool
  ranges: ClassVar[Mapping[str, Range]]

  def levels(self, grid: Level) -> Level: ...

  def init(self, key: jax.Array, prior: AnyPrior, problem: Problem, start: Level) -> Any: ...

  def step(
    self, key: jax.Array, state: Any, now: Level, nxt: Level, prior: AnyPrior, problem: Problem
  ) -> tuple[Any, Info]: ...

  def finish(self, state: Any, prior: AnyPrior, problem: Problem) -> jax.Array: ...

  def estimate(self, state: Any, level: Level, prior: AnyPrior, problem: Problem) -> jax.Array: ...

  def cost(self, num_levels: int) -> Cost: ...

  def check(self, operator: Operator) -> None: ...


class Chain:
  """The parts that most methods share: every level once, from pure noise, ending with the iterate."""

  linear_only = False  # for linear operators
  spectral_only = False  # for linear operators whose `spectral` is in closed form
  ranges = {}  # of hyper-parameters, by name; `methods.check` holds them to it

  def levels(self, grid: Level) -> Level:
    """Return the grid itself: each level once, then the clean image."""
    return grid

  def init(self, key: jax.Array, prior: AnyPrior, problem: Problem, start: Level) -> XState:
    """Return x_T ~ N(0, I)."""
    return XState(jax.random.normal(key, problem.operator.in_shape, start.alpha.dtype))

  def step(
    self, key: jax.Array, state: XState, now: Level, nxt: Level, prior: AnyPrior, problem: Problem
  ) -> tuple[XState, Info]:
    """Draw z ~ N(0, I) and take the method's own `update(z, x_t, now, nxt, prior, problem)`.

    `update` returns the next iterate, `[h, w, c]`, and the norm of the residual: a step with given noise.
    """
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    x, norm = self.update(z, state.x, now, nxt, prior, problem)
    return XState(x), {"residual_norm": norm}

  def finish(self, state: XState, prior: AnyPrior, problem: Problem) -> jax.Array:
    """Return the last iterate."""
    return state.x

  def estimate(self, state: XState, level: Level, prior: AnyPrior, problem: Problem) -> jax.Array:
    """Return E[x0 | x_t] of the iterate, `[h, w, c]`; the iterate itself where it is clean. One evaluation."""
    return jnp.where(level.sigma > 0, prior.denoise(state.x, level).x0, state.x)

  def cost(self, num_levels: int) -> Cost:
    """Return one evaluation a step, no backward pass."""
    return Cost(num_levels - 1, 0)

  def check(self, operator: Operator) -> None:
    """Accept any operator."""


def posterior_mean(x_t: jax.Array, x0: jax.Array, now: Level, nxt: Level) -> jax.Array:
  """Return the mean of q(x_s | x_t, x0), s the level `nxt` (Ho et al., arXiv 2006.11239, Eq. 7)."""
  beta = step_beta(now, nxt)
  coef_x0 = nxt.alpha * beta / now.sigma**2
  coef_x_t = (now.alpha / nxt.alpha) * nxt.sigma**2 / now.sigma**2
  return coef_x0 * x0 + coef_x_t * x_t


def reverse_variance(var_frac: jax.Array | float, now: Level, nxt: Level) -> jax.Array:
  """Return beta^f beta~^(1-f), the reverse variance at `var_frac` f (Nichol and Dhariwal, arXiv 2102.09672, Eq. 15)."""
  ratio = (nxt.sigma / now.sigma) ** 2  # beta~ = beta * ratio
  return step_beta(now, nxt) * ratio ** (1.0 - var_frac)


def reverse_step(z: jax.Array, x_t: jax.Array, denoised: Denoised, now: Level, nxt: Level) -> jax.Array:
  """Take one ancestral DDPM step with the given noise; none is added on arrival at the clean image.

  Args:
    z: standard normal noise, `[h, w, c]`.
    x_t: the iterate at `now`, `[h, w, c]`.
    denoised: what the prior says of x_t.
    now, nxt: the levels of this step, variance-preserving.
  """
  std = jnp.where(nxt.sigma > 0, jnp.sqrt(reverse_variance(denoised.var_frac, now, nxt)), 0.0)
  return posterior_mean(x_t, denoised.x0, now, nxt) + std * z


def moved(denoised: Denoised, x_t: jax.Array, x0: jax.Array, now: Level) -> Denoised:
  """Return `denoised` with another x0, and the eps that goes with it: x_t = alpha x0 + sigma eps.

  A guidance that adds g to the score moves x0 by (sigma^2 / alpha) g (Tweedie).
  """
  return Denoised(x0, eps_from_x0(x_t, x0, now), denoised.var_frac)


def denoise_vjp(prior: AnyPrior, x_t: jax.Array, now: Level) -> tuple[Denoised, Callable[[jax.Array], jax.Array]]:
  """Return the denoised image and v -> J^T v, J its derivative by x_t: one evaluation, one backward pass a call."""

  def denoise(x_t):
    denoised = prior.denoise(x_t, now)
    return denoised.x0, denoised

  _, backward, denoised = jax.vjp(denoise, x_t, has_aux=True)
  return denoised, lambda v: backward(v)[0]


def ddim_step(z: jax.Array, x_t: jax.Array, denoised: Denoised, now: Level, nxt: Level, eta: jax.Array | float):
  """Take one DDIM step: eta = 0 is deterministic, eta = 1 is DDPM with its small variance.

  Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502, Eq. 12 and 16.
  """
  c1 = eta * (nxt.sigma / now.sigma) * jnp.sqrt(step_beta(now, nxt))
  c2 = jnp.sqrt(jnp.maximum(nxt.sigma**2 - c1**2, 0.0))
  return nxt.alpha * denoised.x0 + c2 * denoised.eps + c1 * z


def renoise(z: jax.Array, x: jax.Array, now: Level, nxt: Level) -> jax.Array:
  """Go forward from `now` to the noisier level `nxt` with the given noise: x_t = alpha x0 + sigma eps in one step."""
  alpha = nxt.alpha / now.alpha
  return alpha * x + jnp.sqrt(jnp.maximum(nxt.sigma**2 - alpha**2 * now.sigma**2, 0.0)) * z


def residual_norm(problem: Problem, x0: jax.Array) -> jax.Array:
  """Return ||y - A(x0)||, []."""
  return norm(problem.residual(x0))


def norm(x: jax.Array) -> jax.Array:
  """Return ||x||, [], of one image or measurement."""
  return jnp.sqrt(jnp.sum(x**2))
