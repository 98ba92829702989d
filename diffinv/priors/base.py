"""Priors: what a diffusion model says about the clean image behind a noisy one.

`Prior.denoise(x_t, level)` is Tweedie's formula, D(x_t) = E[x0 | x_t] = (x_t + sigma^2 score(x_t)) / alpha, whatever
the network was trained to predict. Analytic priors have it in closed form, so that samplers can be tested against
laws that are known exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffinv.priors import sizes
from diffinv.pytree import pytree, static
from diffinv.schedules import Level, Schedule

LEAST_SBAR = 1e-5  # that a network is told: a clean image has sbar = 0, and no logarithm
EDM_SIGMA_DATA = 0.5  # standard deviation of images in [-1, 1] (Karras et al., 2022, Table 1)
EDM_ENDS = (0.002, 80.0)  # noise of its sampler, sigma / alpha (ibid.)


class Denoised(NamedTuple):
  """What a prior says of `x_t`, `[h, w, c]` each."""

  x0: jax.Array  # E[x0 | x_t], clipped to [-1, 1] when the prior says so
  eps: jax.Array  # (x_t - alpha x0) / sigma, of the clipped x0
  var_frac: jax.Array | float  # in [0, 1]: places the reverse log variance between log beta~ (0) and log beta (1)


class AnyPrior(Protocol):
  """What samplers need of a prior."""

  @property
  def schedule(self) -> Schedule:
    """The noise that the prior takes away."""
    ...

  def denoise(self, x_t: jax.Array, level: Level) -> Denoised:
    """Return Tweedie's estimate at `level`; `x_t`: `[h, w, c]`."""
    ...


class PicturePrior(AnyPrior, Protocol):
  """What studies need of a prior besides: which pictures it takes."""

  @property
  def image_shape(self) -> tuple[Any, ...]:
    """Height, width and channels; None for any multiple of `size_multiple`."""
    ...

  @property
  def size_multiple(self) -> int:
    """Of what height and width are multiples, pixels; see `size_step`."""
    ...


def eps_from_x0(x_t: jax.Array, x0: jax.Array, level: Level) -> jax.Array:
  """Return eps = (x_t - alpha x0) / sigma, and 0 where sigma = 0 and there is no noise."""
  sigma = jnp.where(level.sigma > 0, level.sigma, 1.0)
  return jnp.where(level.sigma > 0, (x_t - level.alpha * x0) / sigma, 0.0)


def score(x_t: jax.Array, x0: jax.Array, level: Level) -> jax.Array:
  """Return the score of p_t, (alpha x0 - x_t) / sigma^2, from the denoised image (Tweedie)."""
  return (level.alpha * x0 - x_t) / level.sigma**2


def x0_from_eps(x_t, eps, level):
  """Return x0 = (x_t - sigma eps) / alpha."""
  return (x_t - level.sigma * eps) / level.alpha


def x0_from_v(x_t, v, level):
  """Return alpha x_t - sigma v, where v = alpha eps - sigma x0 (Salimans and Ho, 2022, arXiv 2202.00512, Sec. 4)."""
  return level.alpha * x_t - level.sigma * v


def edm_scales(level: Level) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Return c_skip, c_out, c_in, c_noise at sbar = sigma / alpha (Karras et al., 2022, arXiv 2206.00364, Table 1)."""
  sbar = level.sigma / level.alpha
  norm = jnp.sqrt(sbar**2 + EDM_SIGMA_DATA**2)
  c_noise = jnp.log(jnp.maximum(sbar, LEAST_SBAR)) / 4
  return EDM_SIGMA_DATA**2 / norm**2, sbar * EDM_SIGMA_DATA / norm, 1 / norm, c_noise


def x0_from_edm(x_t, output, level):
  """Return D = c_skip x + c_out F at x = x_t / alpha (Karras et al., Eq. 7)."""
  c_skip, c_out, _, _ = edm_scales(level)
  return c_skip * (x_t / level.alpha) + c_out * output


def flow_time(level: Level) -> jax.Array:
  """Return tau = sigma / (alpha + sigma): x_t / (alpha + sigma) is z = (1 - tau) x0 + tau eps."""
  return level.sigma / (level.alpha + level.sigma)


def x0_from_velocity(x_t, velocity, level):
  """Return x0 = z - tau v at z = x_t / (alpha + sigma), where v = dz / dtau = eps - x0.

  Liu et al., "Flow Straight and Fast", ICLR 2023, arXiv 2209.03003, Eq. 1, whose time is 1 - tau.
  """
  return x_t / (level.alpha + level.sigma) - flow_time(level) * velocity


def network_input(level: Level, prediction: str, time_scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
  """Return the factor of x_t and the time that a network is called with, each of the shape of `level`'s fields.

  Args:
    level: of the noise.
    prediction: of PREDICTIONS.
    time_scale: factor of t, the index in the schedule, a flow's time, or c_noise of "edm"; networks of TOLD_SIGMA have
      none.
  """
  if prediction in VELOCITIES:
    tau = flow_time(level) if prediction == "velocity" else level.alpha / (level.alpha + level.sigma)
    return 1 / (level.alpha + level.sigma), time_scale * tau
  if prediction not in OWN_TIME:
    return jnp.ones_like(level.alpha), level.t if time_scale == 1.0 else time_scale * level.t
  if prediction in TOLD_SIGMA:
    return 1 / level.alpha, jnp.maximum(level.sigma / level.alpha, LEAST_SBAR)
  _, _, c_in, c_noise = edm_scales(level)
  return c_in / level.alpha, time_scale * c_noise


def of_unit_range(x_t: jax.Array, level: Level) -> tuple[jax.Array, Level]:
  """Return x_t of a picture in [-1, 1] as that of (x0 + 1) / 2 in [0, 1], and its level: with half of sigma / alpha."""
  sbar = level.sigma / level.alpha / 2
  alpha = 1 / jnp.sqrt(1 + sbar**2)
  return alpha * (x_t / level.alpha + 1) / 2, Level(level.t, alpha, alpha * sbar)


# By what a network predicts: (x_t, its output, level) -> x0, not clipped; fields of the level broadcast.
X0_FROM = {
  "eps": x0_from_eps,
  "v": x0_from_v,
  "x0": lambda x_t, x0, level: x0,
  "edm": x0_from_edm,
  "ve": x0_from_eps,  # as "eps", of x_t / alpha = x0 + sbar eps, and told sbar
  "denoiser": lambda x_t, x0, level: x0,  # as "x0", of x_t / alpha, and told sbar
  "velocity": x0_from_velocity,  # of a flow whose time runs from pictures at 0 to noise at 1
  "velocity_to_data": lambda x_t, velocity, level: x0_from_velocity(x_t, -velocity, level),  # from noise to pictures
}
VELOCITIES = ("velocity", "velocity_to_data")  # predictions of flows, which are told their time
TOLD_SIGMA = ("ve", "denoiser")  # predictions of networks that are told sigma itself
OWN_TIME = ("edm", *TOLD_SIGMA)  # predictions of networks that are told the noise, not the index in the schedule
PREDICTIONS = tuple(X0_FROM)
VARIANCES = ("learned_range", "fixed_small", "fixed_large")


@pytree
class Prior:
  """A trained network as a prior; `params` are arguments of every compiled function, never closed over.

  Load one with `diffinv.load_prior`; `diffinv train` and `diffinv convert` build and write them.
  """

  params: Any
  apply: Callable = static()  # (params, x_t [h, w, c], t []) -> [h, w, c], or [h, w, 2c] with a learned variance
  schedule: Schedule = static()
  prediction: str = static(default="eps")  # of PREDICTIONS
  variance: str = static(default="fixed_small")  # of VARIANCES
  clip: bool = static(default=True)  # x0 to [-1, 1]
  image_shape: tuple[Any, ...] = static(default=(None, None, 3))  # None for any
  size_multiple: int = static(default=1)  # pixels: what the network takes; other pictures are filled up for it
  tiling: sizes.Tiling | None = static(default=None)  # of large pictures
  time_scale: float = static(default=1.0)  # of t, for a network that was told a multiple of it
  null_label: int | None = static(default=None)  # of no class, where a network was trained with one
  unit_range: bool = static(default=False)  # whether the network knows pictures in [0, 1]; `schedule` is of [-1, 1]

  def denoise(self, x_t: jax.Array, level: Level) -> Denoised:
    """Return Tweedie's estimate at `level`; `x_t`: `[h, w, c]`."""
    channels = x_t.shape[-1]
    known, within = of_unit_range(x_t, level) if self.unit_range else (x_t, level)
    scale, t = network_input(within, self.prediction, self.time_scale)
    output = sizes.filled(self.apply, self.params, scale * known, t, self.size_multiple, self.tiling)
    x0 = X0_FROM[self.prediction](known, output[..., :channels], within)
    if self.unit_range:
      x0 = 2 * x0 - 1
    if self.clip:
      x0 = jnp.clip(x0, -1.0, 1.0)
    var_frac: jax.Array | float
    if self.variance == "learned_range":
      var_frac = (output[..., channels:] + 1.0) / 2.0  # Nichol and Dhariwal, Eq. 15, v in [-1, 1]
    else:
      var_frac = 1.0 if self.variance == "fixed_large" else 0.0
    return Denoised(x0, eps_from_x0(x_t, x0, level), var_frac)


def size_step(prior: PicturePrior) -> int:
  """Return of what the sides of a picture must be multiples, pixels: 1 of a network whose `Prior` fills them up."""
  return 1 if isinstance(prior, Prior) else prior.size_multiple
