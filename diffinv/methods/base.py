"""What a method is, and the reverse steps that methods share.

A method is a frozen pytree of hyper-parameters that guides ONE image through a sequence of noise levels:

  levels(grid)                                -> the levels that its chain visits, in order
  init(key, prior, problem, start)            -> the state before the first step
  step(key, state, now, nxt, prior, problem)  -> the state after it, and a dict of scalars to trace
  finish(state, prior, problem)               -> the restored image
  estimate(state, level, prior, problem)      -> the chain's current estimate of the clean image, for display
  cost(num_levels)                            -> network evaluations and gradients per image
  check(operator)                             -> ValueError if the method cannot work; on the host, before the chain
  check_noise(noise, schedule)                -> the same, of the measurement's noise and the prior's schedule
  check_start(operator, schedule)             -> the same, of where a chain starts with a prior of that schedule

The sampler (`diffinv.sampler`) scans `step` over neighboring pairs of levels and knows nothing else.

Most methods inherit `Chain` and write one function, `update`: a step from the iterate `x_t` with given noise `z`. Those
with a larger state, or more than one draw a step, inherit `Iteration` and write `step`. Beside the algorithm, a class
declares what everything else needs of it: its name and source, the ranges of its hyper-parameters, the values that
`diffinv tune` tries, and the cases that `diffinv verify` holds it against. A new method is its file and a line in
METHODS.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffinv import options
from diffinv.methods import starts
from diffinv.methods.cases import Case, Descent, Mean, MixtureCase, ScalarCase
from diffinv.operators.base import Operator
from diffinv.priors import AnyPrior, Denoised, eps_from_x0
from diffinv.problems import Problem
from diffinv.schedules import Level, Schedule, step_beta

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
  high: float
  above: bool = False  # whether `low` itself is excluded

  def __contains__(self, value: Any) -> bool:
    return (self.low < value if self.above else self.low <= value) and value <= self.high

  def __str__(self) -> str:
    return f"in {'(' if self.above else '['}{options.shown(self.low)}, {options.shown(self.high)}]"


# Squares of the least and the largest number are far within float32; no method needs more.
TINY, LARGE, MOST = 1e-12, 1e12, 10_000
POSITIVE, NOT_NEGATIVE, PART, COUNT = Range(TINY, LARGE), Range(0, LARGE), Range(0, 1), Range(1, MOST)
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # that a search of DDIM's eta tries


class Method(Protocol):
  """See the module docstring. `problem` is a `Problem`; None for methods that take no measurement."""

  name: ClassVar[str]  # as on the command line
  title: ClassVar[str]  # as in the paper
  citation: ClassVar[str]
  entering: ClassVar[str]
  linear_only: ClassVar[bool]
  spectral_only: ClassVar[bool]
  identity_only: ClassVar[bool]
  deterministic: ClassVar[bool]
  linear_in_noise: ClassVar[bool]
  # Of `Iteration`'s types. A protocol's attributes are invariant: only Any lets a class assign its own tables.
  ranges: ClassVar[Any]
  search: ClassVar[Any]
  examples: ClassVar[Any]
  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # a method is a dataclass

  def levels(self, grid: Level) -> Level: ...

  def init(self, key: jax.Array, prior: AnyPrior, problem: Any, start: Level) -> Any: ...

  def step(
    self, key: jax.Array, state: Any, now: Level, nxt: Level, prior: AnyPrior, problem: Any
  ) -> tuple[Any, Info]: ...

  def finish(self, state: Any, prior: AnyPrior, problem: Any) -> jax.Array: ...

  def estimate(self, state: Any, level: Level, prior: AnyPrior, problem: Any) -> jax.Array: ...

  def cost(self, num_levels: int) -> Cost: ...

  def check(self, operator: Operator) -> None: ...

  def check_noise(self, noise: Any, schedule: Schedule) -> None: ...

  def check_start(self, operator: Operator, schedule: Schedule) -> None: ...

  @classmethod
  def cases(cls) -> tuple[Case | Descent | Mean, ...]: ...

  @classmethod
  def scalar_cases(cls) -> tuple[ScalarCase, ...]: ...

  @classmethod
  def mixture_case(cls) -> MixtureCase | None: ...


class Iteration(abc.ABC):
  """What most methods share: every level once, starting from noise (`starts`) and ending with the iterate.

  The state has the iterate as `x`, `[h, w, c]`.
  """

  name: ClassVar[str] = ""
  title: ClassVar[str] = ""
  citation: ClassVar[str] = ""
  entering: ClassVar[str] = ""  # how y enters, in a line
  linear_only: ClassVar[bool] = False  # needs a linear operator
  spectral_only: ClassVar[bool] = False  # needs a linear operator whose `spectral` is in closed form
  identity_only: ClassVar[bool] = False  # needs the picture itself with noise
  deterministic: ClassVar[bool] = False  # the same result whatever the key
  linear_in_noise: ClassVar[bool] = False  # by default, under a Gaussian prior: opposite noise, opposite deviations
  ranges: ClassVar[Mapping[str, Range]] = {}  # of hyper-parameters, by name; `methods.check` enforces them
  search: ClassVar[Mapping[str, tuple]] = {}  # values that a search tries, by field
  # Settings that tests try, by a name; "default" stands for the default settings if those are not what a test needs.
  examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

  def levels(self, grid: Level) -> Level:
    """Return the grid itself: each level once, then the clean image."""
    return grid

  def init(self, key: jax.Array, prior: AnyPrior, problem: Problem, start: Level) -> Any:
    """Return x_T ~ N(0, I), or what there is of a prior that knows less noise, see `starts`."""
    return XState(starts.begun(key, prior, problem, start))

  @abc.abstractmethod
  def step(
    self, key: jax.Array, state: Any, now: Level, nxt: Level, prior: AnyPrior, problem: Problem
  ) -> tuple[Any, Info]:
    """Go from the level `now` to the level `nxt`; return the next state and scalars to trace."""

  def finish(self, state: Any, prior: AnyPrior, problem: Problem) -> jax.Array:
    """Return the last iterate."""
    return state.x

  def estimate(self, state: Any, level: Level, prior: AnyPrior, problem: Problem) -> jax.Array:
    """Return E[x0 | x_t] of the iterate, `[h, w, c]`; the iterate itself at the clean level. One evaluation."""
    return denoised_at(state.x, level, prior)

  def cost(self, num_levels: int) -> Cost:
    """Return one evaluation a step, no backward pass."""
    return Cost(num_levels - 1, 0)

  def check(self, operator: Operator) -> None:
    """Accept any operator."""

  def check_noise(self, noise: Any, schedule: Schedule) -> None:
    """Accept any noise, with a prior of any schedule."""

  def check_start(self, operator: Operator, schedule: Schedule) -> None:
    """Accept a prior that knows pure noise, and any for linear operators.

    Raises:
      ValueError: the prior knows less.
    """
    starts.check(self.name, operator, schedule)

  def fitted(self, noise: Any) -> "Iteration":
    """Return the method as problems of this noise take it: itself."""
    return self

  @classmethod
  def cases(cls) -> tuple[Case | Descent | Mean, ...]:
    """Return what is known exactly of the method under a Gaussian prior; what it does by default comes first."""
    return ()

  @classmethod
  def scalar_cases(cls) -> tuple[ScalarCase, ...]:
    """Return the digits of a quadrature in one dimension."""
    return ()

  @classmethod
  def mixture_case(cls) -> MixtureCase | None:
    """Return the settings for the mixture of 25 modes; None to leave the method out."""
    return None


class Chain(Iteration):
  """A method whose state is the iterate alone and whose steps draw one noise each; it writes `update`."""

  def update(
    self, z: jax.Array, x_t: jax.Array, now: Level, nxt: Level, prior: AnyPrior, problem: Problem
  ) -> tuple[jax.Array, Info]:
    """Take one step with the given noise.

    Args:
      z: standard normal noise, `[h, w, c]`.
      x_t: the iterate at `now`, `[h, w, c]`.
      now, nxt: the levels of this step.
      prior: the diffusion model.
      problem: the measurement.

    Returns:
      The next iterate, `[h, w, c]`, and scalars to trace.
    """
    raise NotImplementedError(f"{type(self).__name__}: expected an `update` of its own; write one, see methods/base.py")

  def step(
    self, key: jax.Array, state: XState, now: Level, nxt: Level, prior: AnyPrior, problem: Problem
  ) -> tuple[XState, Info]:
    """Draw z ~ N(0, I) and take the `update`."""
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    x, info = self.update(z, state.x, now, nxt, prior, problem)
    return XState(x), info


def denoised_at(x_t: jax.Array, level: Level, prior: AnyPrior) -> jax.Array:
  """Return E[x0 | x_t], `[h, w, c]`; x_t itself at the clean level. One evaluation."""
  return jnp.where(level.sigma > 0, prior.denoise(x_t, level).x0, x_t)


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
  """Take one ancestral DDPM step with the given noise; the step to the clean image adds none.

  Args:
    z: standard normal noise, `[h, w, c]`.
    x_t: the iterate at `now`, `[h, w, c]`.
    denoised: the prior's output at x_t.
    now, nxt: the levels of this step, variance-preserving.
  """
  std = jnp.where(nxt.sigma > 0, jnp.sqrt(reverse_variance(denoised.var_frac, now, nxt)), 0.0)
  return posterior_mean(x_t, denoised.x0, now, nxt) + std * z


def moved(denoised: Denoised, x_t: jax.Array, x0: jax.Array, now: Level) -> Denoised:
  """Return `denoised` with another x0 and the eps that goes with it: x_t = alpha x0 + sigma eps.

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


def ddim_step(
  z: jax.Array, x_t: jax.Array, denoised: Denoised, now: Level, nxt: Level, eta: jax.Array | float
) -> jax.Array:
  """Take one DDIM step: eta = 0 is deterministic, eta = 1 is DDPM with its small variance.

  Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502, Eq. 12 and 16.
  """
  c1 = eta * (nxt.sigma / now.sigma) * jnp.sqrt(step_beta(now, nxt))
  c2 = jnp.sqrt(jnp.maximum(nxt.sigma**2 - c1**2, 0.0))
  return nxt.alpha * denoised.x0 + c2 * denoised.eps + c1 * z


def renoise(z: jax.Array, x: jax.Array, now: Level, nxt: Level) -> jax.Array:
  """Go from `now` to the noisier level `nxt` with the given noise: x_t = alpha x0 + sigma eps in one step."""
  alpha = nxt.alpha / now.alpha
  return alpha * x + jnp.sqrt(jnp.maximum(nxt.sigma**2 - alpha**2 * now.sigma**2, 0.0)) * z


def residual_norm(problem: Problem, x0: jax.Array) -> jax.Array:
  """Return ||y - A(x0)||, []."""
  return norm(problem.residual(x0))


def norm(x: jax.Array) -> jax.Array:
  """Return ||x||, [], of one image or measurement."""
  return jnp.sqrt(jnp.sum(x**2))
