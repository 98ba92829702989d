"""Noise schedules of the forward process x_t = alpha x0 + sigma eps, and their respacing.

Tables are float64 NumPy and are cast once, when they become the arrays of a grid: 1 - alpha_bar is 1e-4 at the
first step of the linear schedule, and float32 differences of squares lose it.

Sources: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239 (linear); Nichol and
Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, arXiv 2102.09672 (cosine, Eq. 17; respacing,
Sec. 4; learned-range variance, Eq. 15); Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image
Synthesis", ICML 2024, arXiv 2403.03206 (shift of a flow's time, Sec. 5.3.2).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

COSINE_OFFSET = 0.008  # s of Nichol and Dhariwal's Eq. 17
KARRAS_RHO = 7.0  # of Karras et al.'s spacing
LEAST_SIGNAL = 2.0**-24  # alpha_bar at which a schedule that ends without signal ends here
MAX_BETA = 0.999  # the cosine schedule's singularity at t = T is cut here (ibid., Sec. 3.2)

Array = Any  # jax.Array; of a grid that `as_arrays` has not cast yet, float64 NumPy


class Level(NamedTuple):
  """A noise level of x_t = alpha x0 + sigma eps; fields are scalars, or `[n]` for a sequence of levels."""

  t: Array  # the network's input: the ORIGINAL index, in 0 .. T-1
  alpha: Array  # signal factor, sqrt(alpha_bar) for variance-preserving schedules
  sigma: Array  # standard deviation of the noise, in units of the image ([-1, 1])


class Tables(NamedTuple):
  """Per-step coefficients of the DDPM posterior q(x_s | x_t, x0), ascending in time, float64, `[n]` each."""

  betas: np.ndarray
  alpha_bar: np.ndarray
  posterior_variance: np.ndarray  # beta~
  posterior_log_variance_clipped: np.ndarray  # log beta~, its value at t = 0 (log 0) replaced by that at t = 1
  posterior_mean_coef1: np.ndarray  # of x0
  posterior_mean_coef2: np.ndarray  # of x_t


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A named variance-preserving schedule of `num_steps` steps; hashable, so that a prior can carry it."""

  name: str  # a key of BETAS, or one of RANGES with `ends`, or "given" with `betas`, or "flow"
  num_steps: int = 1000
  ends: tuple[float, ...] = ()  # of RANGES: first and last beta, or sigma / alpha of OF_SBAR
  betas: tuple[float, ...] = ()  # of "given", ascending in time
  zero_snr: bool = False  # rescaled so that the last step holds next to no signal, see `without_signal`
  shift: float = 1.0  # of "flow": sigma / alpha is so many times larger

  def __repr__(self) -> str:
    # Without the fields that say nothing, as results are told apart by this text and go on when there are more fields.
    named = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
    said = [f"{name}={value!r}" for name, value, default in named if name == "num_steps" or value != default]
    return f"Schedule({', '.join(said)})"

  def alpha_bar(self) -> np.ndarray:
    """Return prod(1 - beta), `[num_steps]`, ascending in time, float64.

    Raises:
      ValueError: there is no schedule of that name, or its numbers are none of a schedule.
    """
    _check(self)
    if self.name == FLOW:
      found = flow_between(self.shift, self.num_steps)
    elif self.betas:
      found = np.cumprod(1.0 - np.asarray(self.betas, np.float64))
    elif self.ends:
      found = RANGES[self.name](*self.ends, self.num_steps)
    else:
      found = np.cumprod(1.0 - BETAS[self.name](self.num_steps))
    return without_signal(found) if self.zero_snr else found

  def grid(self, steps: int | str | None = None) -> Level:
    """Return the levels of a reverse chain: `steps` noisy ones, descending, then the clean image.

    Args:
      steps: "N", "ddimN", "logsnrN", "karrasN", "mixedN" or per-section counts "a,b,c", see `respace`; None for all.

    Returns:
      Level of float64 NumPy arrays, `[steps + 1]`; the last one is alpha = 1, sigma = 0.
    """
    spacing, alpha_bar = str(self.num_steps if steps is None else steps), self.alpha_bar()
    return vp_grid(alpha_bar, respace(alpha_bar, spacing))


def betas_linear(num_steps: int) -> np.ndarray:
  """Return Ho et al.'s linear betas, scaled so that many steps end at about the noise of 1000.

  Raises:
    ValueError: there are so few steps that a beta would reach 1.
  """
  scale = 1000 / num_steps
  if scale * 0.02 >= 1.0:
    raise ValueError(
      f"schedule: expected more than 20 steps of linear betas, which would reach 1, got {num_steps}; take 'cosine'"
    )
  return np.linspace(scale * 1e-4, scale * 0.02, num_steps, dtype=np.float64)


def betas_cosine(num_steps: int) -> np.ndarray:
  """Return beta_t = min(1 - f(t+1)/f(t), 0.999), f(t) = cos^2((t/T + s)/(1 + s) pi/2) (Nichol and Dhariwal, Eq. 17)."""

  def f(u):
    return math.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2

  return np.array([min(1 - f((i + 1) / num_steps) / f(i / num_steps), MAX_BETA) for i in range(num_steps)])


def betas_between(first: float, last: float, num_steps: int) -> np.ndarray:
  """Return prod(1 - beta) of betas at equal distances, `[num_steps]`."""
  return np.cumprod(1.0 - np.linspace(first, last, num_steps))


def roots_between(first: float, last: float, num_steps: int) -> np.ndarray:
  """Return prod(1 - beta) of betas whose square roots lie at equal distances, `[num_steps]`; of latent diffusion."""
  return np.cumprod(1.0 - np.linspace(math.sqrt(first), math.sqrt(last), num_steps) ** 2)


def sigmoid_between(first: float, last: float, num_steps: int) -> np.ndarray:
  """Return prod(1 - beta) of betas along a logistic function of -6 to 6, `[num_steps]`; of GeoDiff."""
  return np.cumprod(1.0 - (first + (last - first) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, num_steps)))))


def geometric_between(first: float, last: float, num_steps: int) -> np.ndarray:
  """Return alpha_bar at sigma / alpha in equal ratios, `[num_steps]`: a variance-exploding schedule, scaled."""
  return 1.0 / (1.0 + np.geomspace(first, last, num_steps) ** 2)


def karras_between(first: float, last: float, num_steps: int) -> np.ndarray:
  """Return alpha_bar at sigma / alpha whose 7th roots lie at equal distances (Karras et al., 2206.00364, Eq. 5)."""
  roots = np.linspace(first ** (1 / KARRAS_RHO), last ** (1 / KARRAS_RHO), num_steps)
  return 1.0 / (1.0 + roots ** (2 * KARRAS_RHO))


def flow_between(shift: float, num_steps: int) -> np.ndarray:
  """Return alpha_bar of a flow's levels (1 - tau) x0 + tau eps, scaled to variance 1, `[num_steps]`.

  tau = i / num_steps, and then shift tau / (1 + (shift - 1) tau), which makes tau / (1 - tau) larger by that factor.
  The last level, tau = 1, keeps LEAST_SIGNAL, or a quarter of the one before.
  """
  step = np.arange(1, num_steps)
  found = 1.0 / (1.0 + (shift * step / (num_steps - step)) ** 2)
  return np.append(found, min(LEAST_SIGNAL, found[-1] / 4))


def without_signal(alpha_bar: np.ndarray) -> np.ndarray:
  """Return alpha_bar shifted and scaled in its root so that the last is next to 0 and the first stays.

  Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", WACV 2024, arXiv 2305.08891, Alg. 1.
  Differs from it: the last is LEAST_SIGNAL, or a quarter of the one before, not 0, so that sigma / alpha is finite.
  """
  root = np.sqrt(alpha_bar)
  found = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
  return np.append(found[:-1], min(LEAST_SIGNAL, found[-2] / 4))


def of_unit_range(schedule: Schedule) -> Schedule:
  """Return a schedule of pictures in [0, 1] as one of [-1, 1], where sigma / alpha is twice as large at each step."""
  alpha_bar = schedule.alpha_bar()
  doubled = alpha_bar / (4 - 3 * alpha_bar)
  return Schedule(GIVEN, schedule.num_steps, betas=tuple(map(float, 1 - doubled / np.append(1.0, doubled[:-1]))))


BETAS = {"linear": betas_linear, "cosine": betas_cosine}
# Schedules of two given ends: the first's and the last's, and the number of steps, to alpha_bar.
RANGES: dict[str, Callable[..., np.ndarray]] = {
  "linear": betas_between,
  "scaled_linear": roots_between,
  "sigmoid": sigmoid_between,
  "geometric": geometric_between,
  "karras": karras_between,
}
OF_SBAR = ("geometric", "karras")  # of RANGES: those whose ends are sigma / alpha, not betas
GIVEN = "given"  # the name of a schedule of given betas
FLOW = "flow"  # the name of that of a flow, see `flow_between`
NAMES = tuple(dict.fromkeys((*BETAS, *RANGES, GIVEN, FLOW)))
MAX_SHIFT = 1000.0


def _check(schedule: Schedule) -> None:
  """Check that the numbers of a schedule are those that its name needs."""
  name, ends, betas = schedule.name, schedule.ends, schedule.betas
  if name not in NAMES:
    raise ValueError(f"schedule: expected one of {', '.join(NAMES)}, got {name!r}")
  if (name == GIVEN) != bool(betas) or (betas and len(betas) != schedule.num_steps):
    raise ValueError(f"schedule: expected {schedule.num_steps} betas of 'given' alone, got {len(betas)} of {name!r}")
  if (name not in BETAS and name not in (GIVEN, FLOW) and not ends) or (
    ends and (name not in RANGES or len(ends) != 2)
  ):
    raise ValueError(f"schedule: expected two ends of {', '.join(RANGES)} alone, got {len(ends)} of {name!r}")
  most = math.inf if name in OF_SBAR else 1.0
  if not all(0.0 < value < most for value in (*ends, *betas)):
    raise ValueError(
      f"schedule: expected betas in (0, 1), or positive ends of {' or '.join(OF_SBAR)}, got {(*ends, *betas)[:4]}"
    )
  if name in OF_SBAR and not ends[0] < ends[1]:
    raise ValueError(f"schedule: expected ascending ends of {name!r}, got {ends[0]} and {ends[1]}")
  if (schedule.zero_snr or name == FLOW) and schedule.num_steps < 3:
    what = "of 'flow'" if name == FLOW else "with zero_snr"
    raise ValueError(f"schedule: expected 3 or more steps {what}, got {schedule.num_steps}")
  _check_shift(schedule)


def _check_shift(schedule: Schedule) -> None:
  if schedule.name == FLOW and schedule.zero_snr:
    raise ValueError("schedule: expected no zero_snr of 'flow', which ends without signal by itself")
  if schedule.shift != 1.0 and schedule.name != FLOW:
    raise ValueError(f"schedule: expected a shift of {FLOW!r} alone, got {schedule.shift} of {schedule.name!r}")
  if not 1 / MAX_SHIFT <= schedule.shift <= MAX_SHIFT:
    raise ValueError(f"schedule: expected a shift in [1/{MAX_SHIFT:g}, {MAX_SHIFT:g}], got {schedule.shift}")


def respace(alpha_bar: np.ndarray, spacing: str) -> np.ndarray:
  """Choose the time steps of a shorter chain.

  Args:
    alpha_bar: of the training schedule, `[T]`.
    spacing: "N": N steps at a rounded fractional stride, first and last included; "ddimN": N steps at an integer
      stride from 0 (without T-1 in general); "logsnrN": N steps nearest to equal distances in log(alpha / sigma), first
      and last included (Lu et al., DPM-Solver, arXiv 2206.00927, Sec. 3.3); "karrasN": the same in
      (sigma / alpha)^(1/7), more of them at high noise (Karras et al., arXiv 2206.00364, Eq. 5); "mixedN": the same in
      the mean of time and log(sigma / alpha), each scaled to its range: steps as small as those of equal distances in
      time while the content of a picture is decided, and as fine as those of logsnrN at the end; "a,b,c": that many
      steps in each equal section of [0, T). A single step is the last of the schedule, whose noise chains start from.

  Returns:
    Ascending original indices, `[N]`.

  Raises:
    ValueError: the spacing is malformed, or asks for more steps than there are.
  """
  num_steps = len(alpha_bar)
  name, counts = parse_spacing(spacing)
  if counts == [1]:
    return np.array([num_steps - 1])
  if name == "ddim":
    return _ddim_stride(num_steps, counts[0], spacing)
  if sum(counts) > num_steps:
    raise ValueError(f"steps: the schedule has {num_steps} steps, got {spacing}; ask for at most {num_steps}")
  if name:
    return _even(EVEN_IN[name](_log_sbar(alpha_bar)), counts[0])
  chosen, start = [], 0
  for section, count in enumerate(counts):
    size = num_steps // len(counts) + (section < num_steps % len(counts))
    if count > size:
      raise ValueError(f"steps: section {section} of {spacing!r} holds {size} steps, got {count}")
    stride = 1.0 if count == 1 else (size - 1) / (count - 1)
    # The reference accumulates in floating point and rounds half to even: `start + i * stride` rounds differently.
    position = 0.0
    for _ in range(count):
      chosen.append(start + round(position))
      position += stride
    start += size
  return np.array(chosen)


def parse_spacing(spacing: str) -> tuple[str, list[int]]:
  """Return the name and the numbers of a spacing, see `respace`.

  Raises:
    ValueError: it is malformed.
  """
  name = next((name for name in ("ddim", *EVEN_IN) if spacing.startswith(name)), "")
  try:
    counts = [int(part) for part in spacing.removeprefix(name).split(",")]
  except ValueError:
    *others, last = map(repr, SPACINGS)
    raise ValueError(f"steps: expected {', '.join(others)} or {last} with whole numbers, got {spacing!r}") from None
  if name and len(counts) != 1:
    raise ValueError(f"steps: expected '{name}N' with one number, got {spacing!r}")
  if min(counts) < 1:
    raise ValueError(f"steps: expected at least 1, got {spacing!r}")
  return name, counts


def _mean_of_both(log_sbar):
  return np.linspace(0.0, 1.0, len(log_sbar)) + (log_sbar - log_sbar[0]) / (log_sbar[-1] - log_sbar[0])


# By the name of the spacing: a function of ln(sbar), `[T]`, in which N steps lie at equal distances.
EVEN_IN = {
  "logsnr": lambda log_sbar: log_sbar,
  "karras": lambda log_sbar: np.exp(log_sbar / KARRAS_RHO),
  "mixed": _mean_of_both,
}
SPACINGS = ("N", "ddimN", *(f"{name}N" for name in EVEN_IN), "a,b,c")  # what `respace` reads


def _even(values: np.ndarray, count: int) -> np.ndarray:
  """Return the `count` indices of the ascending `values` nearest to equal distances, first and last included."""
  wanted = np.linspace(values[0], values[-1], count)
  nearest = np.array([np.argmin(np.abs(values - value)) for value in wanted])
  # If several steps fall on the same index, later ones take the next, and enough indices are left for the rest.
  rank = np.arange(count)
  return np.minimum(np.maximum.accumulate(nearest - rank) + rank, len(values) - count + rank)


def _ddim_stride(num_steps: int, count: int, spacing: str) -> np.ndarray:
  for stride in range(1, num_steps + 1):
    steps = np.arange(0, num_steps, stride)
    if len(steps) == count:
      return steps
  raise ValueError(f"steps: no integer stride through {num_steps} steps gives {count}, got {spacing!r}; use 'N'")


def vp_grid(alpha_bar: np.ndarray, timesteps: np.ndarray) -> Level:
  """Return the descending levels at `timesteps` followed by the clean image, float64, `[n + 1]`."""
  kept = alpha_bar[timesteps][::-1]
  return Level(
    t=np.append(timesteps[::-1].astype(np.float64), 0.0),
    alpha=np.append(np.sqrt(kept), 1.0),
    sigma=np.append(np.sqrt(1.0 - kept), 0.0),
  )


def ve_grid(sigmas: np.ndarray) -> Level:
  """Return the variance-exploding levels x_t = x0 + sigma eps at descending `sigmas`, then the clean image.

  For `ScoreALD`'s Langevin chain, which takes no reverse step: reverse steps are for variance-preserving levels.
  """
  sigmas = np.asarray(sigmas, np.float64)
  return Level(
    t=np.append(np.arange(len(sigmas))[::-1].astype(np.float64), 0.0),
    alpha=np.ones(len(sigmas) + 1),
    sigma=np.append(sigmas, 0.0),
  )


def log_sbar(schedule: Schedule) -> np.ndarray:
  """Return ln(sigma / alpha) at every step, `[num_steps]`, ascending in time, float64."""
  return _log_sbar(schedule.alpha_bar())


def _log_sbar(alpha_bar: np.ndarray) -> np.ndarray:
  return 0.5 * np.log((1.0 - alpha_bar) / alpha_bar)


def level_at(schedule: Schedule, sbar: jax.Array) -> Level:
  """Return the variance-preserving level of noise `sbar` = sigma / alpha, its t interpolated between whole indices.

  t is piecewise linear in log sbar and stays within [0, T - 1]; alpha and sigma are exact. `sbar` of any shape.
  """
  table = jnp.asarray(log_sbar(schedule), sbar.dtype)
  t = jnp.interp(jnp.log(sbar), table, jnp.arange(len(table), dtype=sbar.dtype))
  alpha = 1.0 / jnp.sqrt(1.0 + sbar**2)
  return Level(t, alpha, sbar * alpha)


def sbar_range(schedule: Schedule) -> tuple[float, float]:
  """Return the lowest and the highest sigma / alpha of a schedule."""
  low, *_, high = np.exp(log_sbar(schedule))
  return float(low), float(high)


def level_within(schedule: Schedule, sbar: jax.Array) -> Level:
  """Return the level of noise `sbar`, [], as `level_at`; beyond the schedule's range its nearest one."""
  return level_at(schedule, jnp.clip(sbar, *sbar_range(schedule)))


def tables(grid: Level) -> Tables:
  """Return the float64 coefficient tables of a variance-preserving grid, ascending in time (Ho et al., Eq. 7)."""
  alpha_bar = np.asarray(grid.alpha)[:-1][::-1] ** 2
  previous = np.append(1.0, alpha_bar[:-1])
  betas = 1.0 - alpha_bar / previous
  variance = betas * (1.0 - previous) / (1.0 - alpha_bar)
  first = variance[min(1, len(variance) - 1)]
  return Tables(
    betas=betas,
    alpha_bar=alpha_bar,
    posterior_variance=variance,
    posterior_log_variance_clipped=np.log(np.append(first, variance[1:])) if first > 0 else np.full(1, -np.inf),
    posterior_mean_coef1=np.sqrt(previous) * betas / (1.0 - alpha_bar),
    posterior_mean_coef2=np.sqrt(1.0 - betas) * (1.0 - previous) / (1.0 - alpha_bar),
  )


def step_beta(now: Level, nxt: Level) -> jax.Array:
  """Return beta = 1 - alpha_bar_now / alpha_bar_nxt of the step between two variance-preserving levels, [].

  The two forms are equal, but in float32 each loses digits where the other keeps them: differences of alpha vanish near
  the image, differences of sigma vanish near the noise.
  """
  from_alpha = (nxt.alpha - now.alpha) * (nxt.alpha + now.alpha)
  from_sigma = (now.sigma - nxt.sigma) * (now.sigma + nxt.sigma)
  return jnp.where(now.alpha < now.sigma, from_alpha, from_sigma) / nxt.alpha**2


def as_arrays(grid: Level) -> Level:
  """Cast a float64 grid to JAX arrays of the default float type: the one cast of the whole chain."""
  return jax.tree.map(jnp.asarray, grid)
