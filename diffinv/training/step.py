"""Training of denoising networks: a pure loss, a pure step, and the state that they carry.

The network's output may stand for the noise (Ho et al., NeurIPS 2020, arXiv 2006.11239, Eq. 14), for v (Salimans and
Ho, ICLR 2022, arXiv 2202.00512) or for the preconditioned image (Karras et al., NeurIPS 2022, arXiv 2206.00364,
Table 1); levels are uniform on a schedule or log-normal (ibid.); weights are those of the objective or min-SNR (Hang
et al., ICCV 2023, arXiv 2303.09556); the reverse variance may be learned (Nichol and Dhariwal, ICML 2021, arXiv
2102.09672, Sec. 3.1). The weights follow AdamW, or Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) with
steps as long as AdamW's (Liu et al., 2025, arXiv 2502.16982, Eq. 4).

Everything here takes batches: images `[b, h, w, c]` in [-1, 1], a level an image. The noise of image i of step n is a
function of (key, n, i) alone, so that neither accumulation nor the number of devices changes what is computed.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from diffinv import priors
from diffinv.pytree import pytree
from diffinv.schedules import Level, Schedule, level_at, log_sbar, tables, vp_grid

OBJECTIVES = ("edm", "eps", "v")
LEVELS = ("lognormal", "uniform")
WEIGHTINGS = ("none", "min_snr")
DECAYS = ("cosine", "linear", "constant")
MUON_CHANNELS = 32  # least number of a kernel's channels, in and out, for Muon: not of the pixels' own layers
MUON_RMS = 0.2  # root mean square of an entry of Muon's step, as AdamW's has it (Liu et al., Eq. 4)

# Network over a batch: (params, x [b, h, w, c], t [b]) -> [b, h, w, c or 2c], float32.
Network = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What the network learns to predict, at which noise levels, and how errors count; hashable."""

  prediction: str = "edm"  # of OBJECTIVES
  levels: str = "lognormal"  # of LEVELS
  p_mean: float = -0.6  # of log-normal levels: mean of ln(sbar), sbar = sigma / alpha
  p_std: float = 1.4  # and its standard deviation
  wide: float = 0.1  # part of log-normal levels drawn log-uniformly over the whole schedule instead: its ends
  weighting: str = "none"  # of WEIGHTINGS
  min_snr_gamma: float = 5.0  # the largest signal-to-noise ratio that counts (Hang et al., Sec. 3.4)
  learned_variance: bool = False  # needs uniform levels and a network of 2c channels
  vlb_weight: float = 1e-3  # of the variational term, in units of a sum over T steps (Nichol and Dhariwal, Eq. 16)
  schedule: Schedule = Schedule("linear", 1000)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How weights follow gradients: a rule, warm-up, decay, clipping and an average of the weights; hashable."""

  rule: str = "muon"  # of RULES; AdamW is cheaper a step, Muon needs fewer
  learning_rate: float = 1e-3  # at the end of the warm-up
  warmup_steps: int = 200
  decay: str = "cosine"  # of DECAYS, from the end of the warm-up to the last step
  final_fraction: float = 0.01  # of the learning rate, at the last step
  beta1: float = 0.9  # of Adam
  beta2: float = 0.99  # of Adam
  momentum: float = 0.95  # of Muon
  weight_decay: float = 1e-4  # decoupled, of matrices and kernels only
  clip_norm: float = 1.0  # largest global norm of a gradient
  ema_decay: float = 0.999  # a step; less at the start, see `ema_rate`
  accumulate: int = 1  # parts a batch is worked through in


@pytree
class TrainState:
  """What a run carries from step to step; everything else is a function of the seed and the step."""

  step: jax.Array  # [], int32: steps taken
  params: Any
  ema: Any
  opt_state: Any


class Drawn(NamedTuple):
  """The random part of a loss, an entry an image."""

  level: Level  # [b] each; t may be fractional
  eps: jax.Array  # [b, h, w, c], standard normal


def draw_levels(key: jax.Array, count: int, objective: Objective) -> Level:
  """Draw noise levels, `[count]`, stratified: one in each of `count` equally likely ranges, in random order."""
  shift_key, order_key, wide_key = jax.random.split(key, 3)
  ranks = jax.random.permutation(order_key, count).astype(jnp.float32)
  u = (ranks + jax.random.uniform(shift_key)) / count
  if objective.levels == "uniform":
    return uniform_levels(u, objective.schedule)
  normal = objective.p_mean + objective.p_std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
  low, high = log_sbar(objective.schedule)[[0, -1]].astype(np.float32)
  wide = jax.random.uniform(wide_key, (count,)) < objective.wide
  chosen = jnp.where(wide, low + (high - low) * u, jnp.clip(normal, low, high))
  return level_at(objective.schedule, jnp.exp(chosen))


def uniform_levels(u: jax.Array, schedule: Schedule) -> Level:
  """Return the levels at the steps floor(T u), for `u` in [0, 1), `[b]`."""
  step = jnp.minimum((u * schedule.num_steps).astype(jnp.int32), schedule.num_steps - 1)
  alpha_bar = schedule.alpha_bar()
  alpha, sigma = (jnp.asarray(a.astype(np.float32))[step] for a in (np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)))
  return Level(step.astype(jnp.float32), alpha, sigma)


def draw(key: jax.Array, shape: tuple[int, ...], objective: Objective) -> Drawn:
  """Draw levels and noise for a batch of `shape` `[b, h, w, c]`."""
  level_key, noise_key = jax.random.split(key)
  keys = jax.vmap(lambda i: jax.random.fold_in(noise_key, i))(jnp.arange(shape[0]))
  eps = jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys)
  return Drawn(draw_levels(level_key, shape[0], objective), eps)


def per_pixel(v: jax.Array) -> jax.Array:
  """Return `[b]` numbers as `[b, 1, 1, 1]`."""
  return v[:, None, None, None]


def target(x0: jax.Array, eps: jax.Array, level: Level, prediction: str) -> jax.Array:
  """Return what the network's output should be; fields of `level` are `[b, 1, 1, 1]`."""
  if prediction == "eps":
    return eps
  if prediction == "v":
    return level.alpha * eps - level.sigma * x0
  # (x0 - c_skip x) / c_out with x = x0 + sbar eps, written without the difference that cancels at small sbar:
  # 1 - c_skip = sbar^2 / (sbar^2 + d^2) and c_out = sbar d / sqrt(sbar^2 + d^2).
  sbar, d = level.sigma / level.alpha, priors.EDM_SIGMA_DATA
  return (sbar * x0 / d - d * eps) / jnp.sqrt(sbar**2 + d**2)


def network_output(network: Network, params: Any, x_t: jax.Array, level: Level, prediction: str) -> jax.Array:
  """Return the raw output at levels `[b]`, as `Prior.denoise` calls the network."""
  scale, t = priors.network_input(level, prediction)
  return network(params, per_pixel(scale) * x_t, t)


def weight(level: Level, objective: Objective) -> jax.Array:
  """Return the factor of the output's squared error, `[b]`: under min-SNR that of x0 is min(SNR, gamma)."""
  if objective.weighting == "none":
    return jnp.ones_like(level.alpha)
  snr = (level.alpha / level.sigma) ** 2
  of_x0 = jnp.minimum(snr, objective.min_snr_gamma)
  if objective.prediction == "eps":
    return of_x0 / snr
  if objective.prediction == "v":
    return of_x0 / (snr + 1)
  return of_x0 * priors.edm_scales(level)[1] ** 2


def losses(network: Network, params: Any, x0: jax.Array, drawn: Drawn, objective: Objective) -> jax.Array:
  """Return the loss of each image, `[b]`: weighted mean squared error, plus the variational term if asked."""
  level = Level(*(per_pixel(v) for v in drawn.level))
  x_t = level.alpha * x0 + level.sigma * drawn.eps
  output = network_output(network, params, x_t, drawn.level, objective.prediction)
  channels = x0.shape[-1]
  error = output[..., :channels] - target(x0, drawn.eps, level, objective.prediction)
  loss = weight(drawn.level, objective) * jnp.mean(error**2, axis=(1, 2, 3))
  if objective.learned_variance:
    loss = loss + objective.vlb_weight * variational_term(output, x0, x_t, drawn.level, objective)
  return loss


def variational_term(output: jax.Array, x0: jax.Array, x_t: jax.Array, level: Level, objective: Objective) -> jax.Array:
  """Return T times the t-th term of the variational bound, bits per dimension, `[b]`; trains the variance only.

  KL(q(x_s | x_t, x0) || p(x_s | x_t)) with the mean held fixed (Nichol and Dhariwal, Eq. 15 and 16). At t = 0 the
  decoder's likelihood is that of a Gaussian at the clipped posterior variance, not discretized: no bits are reported
  from it, and it keeps the term finite.
  """
  schedule, channels = objective.schedule, x0.shape[-1]
  table = tables(vp_grid(schedule.alpha_bar(), np.arange(schedule.num_steps)))
  step = level.t.astype(jnp.int32)
  log_small, log_large, mean_x0, mean_xt = (
    per_pixel(jnp.asarray(a.astype(np.float32))[step])
    for a in (
      table.posterior_log_variance_clipped,
      np.log(table.betas),
      table.posterior_mean_coef1,
      table.posterior_mean_coef2,
    )
  )
  pixel_level = Level(*(per_pixel(v) for v in level))
  x0_hat = jax.lax.stop_gradient(priors.X0_FROM[objective.prediction](x_t, output[..., :channels], pixel_level))
  fraction = (output[..., channels:] + 1) / 2
  log_variance = fraction * log_large + (1 - fraction) * log_small
  true_mean, mean = mean_x0 * x0 + mean_xt * x_t, mean_x0 * jnp.clip(x0_hat, -1, 1) + mean_xt * x_t
  kl = 0.5 * (log_variance - log_small + jnp.exp(log_small - log_variance) - 1)
  kl = kl + 0.5 * (true_mean - mean) ** 2 * jnp.exp(-log_variance)
  return schedule.num_steps * jnp.mean(kl, axis=(1, 2, 3)) / math.log(2.0)


def loss(
  params: Any, key: jax.Array, x0: jax.Array, *, network: Network, objective: Objective = Objective()
) -> jax.Array:
  """Return the mean loss of a batch, [].

  Args:
    params: of the network.
    key: of the levels and the noise.
    x0: clean images, `[b, h, w, c]`, [-1, 1].
    network: over a batch.
    objective: what is learned.
  """
  return jnp.mean(losses(network, params, x0, draw(key, x0.shape, objective), objective))


def learning_rate(step: jax.Array, total_steps: jax.Array, optimizer: Optimizer) -> jax.Array:
  """Return the learning rate of step number `step`, [], from 0: linear warm-up, then the decay to `total_steps`."""
  step = jnp.asarray(step, jnp.float32)
  warmup = jnp.minimum(1.0, (step + 1) / max(optimizer.warmup_steps, 1))
  span = jnp.maximum(jnp.asarray(total_steps, jnp.float32) - optimizer.warmup_steps, 1.0)
  progress = jnp.clip((step - optimizer.warmup_steps) / span, 0.0, 1.0)
  shape = {
    "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
    "linear": 1 - progress,
    "constant": jnp.ones_like(progress),
  }[optimizer.decay]
  floor = 1.0 if optimizer.decay == "constant" else optimizer.final_fraction
  return optimizer.learning_rate * warmup * (floor + (1 - floor) * shape)


def ema_rate(step: jax.Array, decay: float) -> jax.Array:
  """Return the decay of the average after step number `step`: min(decay, (1 + n) / (10 + n)), n = `step` from 0."""
  n = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1 + n) / (10 + n))


def _muon_axes(leaf):
  """Return which axes of a kernel `[k, k, c, d]` are the rows and columns of Muon's matrix; None: Adam has it."""
  wide = leaf.ndim == 4 and min(leaf.shape[2:]) >= MUON_CHANNELS
  return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3) if wide else None


def _muon(optimizer):
  return optax.contrib.muon(
    learning_rate=-1.0,  # Optax would turn the sign
    beta=optimizer.momentum,
    adam_b1=optimizer.beta1,
    adam_b2=optimizer.beta2,
    consistent_rms=MUON_RMS,
    muon_weight_dimension_numbers=lambda params: jax.tree.map(_muon_axes, params),
  )


def _adam(optimizer):
  return optax.scale_by_adam(b1=optimizer.beta1, b2=optimizer.beta2)


RULES = {"muon": _muon, "adamw": _adam}


def transformation(optimizer: Optimizer) -> optax.GradientTransformation:
  """Return AdamW or Muon with clipping, without the learning rate and its sign, which `train_step` applies.

  Muon steps wide kernels; what is left Adam does, with Nesterov's momentum as Optax's Muon has it.
  """
  return optax.chain(
    optax.clip_by_global_norm(optimizer.clip_norm),
    RULES[optimizer.rule](optimizer),
    optax.add_decayed_weights(
      optimizer.weight_decay, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    ),
  )


def init_state(params: Any, optimizer: Optimizer) -> TrainState:
  """Return the state before the first step."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.array, params),
    opt_state=transformation(optimizer).init(params),
  )


def gradients(
  params: Any, key: jax.Array, x0: jax.Array, *, network: Network, objective: Objective, accumulate: int
) -> tuple[jax.Array, Any]:
  """Return the mean loss of a batch and its gradient, worked through in `accumulate` parts."""
  drawn = draw(key, x0.shape, objective)

  def part_loss(params, x0, drawn):
    return jnp.mean(losses(network, params, x0, drawn, objective))

  if accumulate == 1:
    return jax.value_and_grad(part_loss)(params, x0, drawn)
  # Part k takes every `accumulate`-th image, so that a batch that is sharded over devices stays where it is.
  parts = jax.tree.map(
    lambda v: jnp.swapaxes(jnp.reshape(v, (v.shape[0] // accumulate, accumulate, *v.shape[1:])), 0, 1), (x0, drawn)
  )

  def add(total, part):
    return jax.tree.map(jnp.add, total, jax.value_and_grad(part_loss)(params, *part)), None

  zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
  total, _ = jax.lax.scan(add, zero, parts)
  return jax.tree.map(lambda v: v / accumulate, total)


def train_step(
  state: TrainState,
  key: jax.Array,
  x0: jax.Array,
  total_steps: jax.Array,
  *,
  network: Network,
  objective: Objective,
  optimizer: Optimizer,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Take one step.

  Args:
    state: before it.
    key: of the whole run; the step's own is folded out of it.
    x0: clean images, `[b, h, w, c]`, [-1, 1].
    total_steps: of the run, [], for the decay of the learning rate.
    network: over a batch.
    objective: what is learned.
    optimizer: how.

  Returns:
    The state after the step, and "loss", "grad_norm", "learning_rate" and "skipped", [] each. A gradient that is not
    finite leaves the weights as they are: such a step is skipped, 1, others are not, 0.
  """
  step_key = jax.random.fold_in(key, state.step)
  value, grads = gradients(
    state.params, step_key, x0, network=network, objective=objective, accumulate=optimizer.accumulate
  )
  norm = optax.tree.norm(grads)
  direction, opt_state = transformation(optimizer).update(grads, state.opt_state, state.params)
  rate = learning_rate(state.step, total_steps, optimizer)
  params = jax.tree.map(lambda p, u: p - rate * u, state.params, direction)
  keep = ema_rate(state.step, optimizer.ema_decay)
  ema = jax.tree.map(lambda average, p: average + (1 - keep) * (p - average), state.ema, params)
  moved, finite = (params, ema, opt_state), jnp.isfinite(norm)
  params, ema, opt_state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old), moved, (state.params, state.ema, state.opt_state)
  )
  metrics = {"loss": value, "grad_norm": norm, "learning_rate": rate, "skipped": 1.0 - finite.astype(jnp.float32)}
  return TrainState(state.step + 1, params, ema, opt_state), metrics


class Validation(NamedTuple):
  """Errors on held-out images."""

  loss: jax.Array  # [], mean of the objective over levels that are equally likely under it
  squared_error: jax.Array  # [sbars], mean squared error of the clipped denoised image, [-1, 1]


def validate(
  params: Any, key: jax.Array, x0: jax.Array, sbars: jax.Array, *, network: Network, objective: Objective
) -> Validation:
  """Measure the network on held-out images: the same key, the same noise, so that numbers of one run compare.

  Args:
    params: to measure.
    key: of the noise.
    x0: held-out images, `[b, h, w, c]`, [-1, 1].
    sbars: noise levels sigma / alpha, `[n]`.
    network: over a batch.
    objective: what was learned.
  """
  loss_key, noise_key = jax.random.split(key)
  value = loss(params, loss_key, x0, network=network, objective=objective)

  def at(sbar):
    level = level_at(objective.schedule, jnp.broadcast_to(sbar, x0.shape[:1]))
    pixel_level = Level(*(per_pixel(v) for v in level))
    x_t = pixel_level.alpha * x0 + pixel_level.sigma * draw(noise_key, x0.shape, objective).eps
    output = network_output(network, params, x_t, level, objective.prediction)[..., : x0.shape[-1]]
    x0_hat = jnp.clip(priors.X0_FROM[objective.prediction](x_t, output, pixel_level), -1, 1)
    return jnp.mean((x0_hat - x0) ** 2)

  return Validation(value, jax.lax.map(at, sbars))
