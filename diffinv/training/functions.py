"""The compiled functions of a run: a step, a validation and a grid of samples."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import memory, sampler
from diffinv.data import images
from diffinv.methods.unconditional import DPMSolver
from diffinv.priors.folder import param_shapes
from diffinv.training import network as networks
from diffinv.training import step as training_step
from diffinv.training.config import TrainConfig
from diffinv.training.data import HELD_OUT_SEED
from diffinv.training.devices import Devices

VALIDATION_SBARS = (0.1, 0.3, 1.0, 3.0)
SAMPLES, SAMPLE_STEPS = 16, 20  # pictures of a grid; steps even in log-SNR


class Functions(NamedTuple):
  """The compiled parts of a run."""

  init: Callable  # () -> TrainState
  step: Callable  # (state, x0, total steps) -> (state, metrics)
  validate: Callable  # (params) -> Validation
  sample: Callable  # (params) -> [SAMPLES, h, w, c]
  place: Callable  # a batch of the host or the device -> split over the devices


def build(config: TrainConfig, held_out: np.ndarray, devices: Devices) -> Functions:
  """Build the functions of a run, data-parallel over its devices; `config` is resolved.

  Args:
    config: of the run.
    held_out: images for the validation, [n, size, size, 3], [-1, 1].
    devices: to train on.

  Raises:
    UsageError: the machine has not the memory.
  """
  weights_key, run_key, _, sample_key = jax.random.split(jax.random.key(config.seed), 4)
  start = jax.jit(functools.partial(training_step.init_state, optimizer=config.rule()), out_shardings=devices.whole)
  step = devices.compiled(_step(config, run_key, devices))
  _check_memory(config, step, devices, held_out)
  validate, sample = jax.jit(_validation(config)), _samples(config, sample_key)
  held_out = devices.own(devices.everywhere(held_out))
  return Functions(
    init=lambda: start(devices.everywhere(networks.first_weights(config, weights_key))),
    step=lambda state, x0, total: devices.in_turn(step(state, x0, np.float32(total))),
    validate=lambda params: validate(devices.own(params), held_out=held_out),
    sample=lambda params: sample(devices.own(params)),
    place=devices.place,
  )


def _check_memory(config: TrainConfig, step: Callable, devices: Devices, held_out: np.ndarray) -> None:
  start = functools.partial(training_step.init_state, optimizer=config.rule())
  memory.check_training(
    step,
    jax.eval_shape(start, param_shapes(networks.shape(config))),
    jax.ShapeDtypeStruct((config.batch_size, config.size, config.size, networks.IMAGE_CHANNELS), jnp.uint8),
    devices=devices.mesh.size,
    donated=not devices.on_cpu,
    kept=held_out.nbytes,
  )


def _step(config: TrainConfig, key: jax.Array, devices: Devices) -> Callable:
  network = devices.apart(networks.over_batch(config))
  objective, rule = config.objective(), config.rule()

  def step(state, x0, total):
    x0 = images.from_uint8(x0) if x0.dtype == jnp.uint8 else x0
    return training_step.train_step(state, key, x0, total, network=network, objective=objective, optimizer=rule)

  return step


def _validation(config: TrainConfig) -> Callable:
  network, objective = networks.over_batch(config), config.objective()
  key = jax.random.split(jax.random.key(HELD_OUT_SEED), 4)[2]  # not [1], by which faces are rendered

  def in_parts(params, x, t):  # of as many images as a step has at once: the held-out ones may be more than fit
    one = lambda pair: network(params, pair[0][None], pair[1][None])[0]
    return jax.lax.map(one, (x, t), batch_size=config.batch_size // config.accumulate)

  def validate(params, held_out):
    sbars = jnp.asarray(VALIDATION_SBARS, jnp.float32)
    return training_step.validate(params, key, held_out, sbars, network=in_parts, objective=objective)

  return validate


def _samples(config: TrainConfig, key: jax.Array) -> Callable:
  schedule = config.noise_schedule()
  grid = schedule.grid(f"logsnr{min(SAMPLE_STEPS, schedule.num_steps)}")
  method = DPMSolver(shape=(config.size, config.size, networks.IMAGE_CHANNELS))

  def sample(params):
    prior = networks.make_prior(params, config)
    draw = lambda key: sampler.sample(key, method, prior, None, grid)[0]
    return jax.vmap(draw)(jax.random.split(key, SAMPLES))

  return sample
