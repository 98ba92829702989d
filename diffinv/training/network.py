"""The network of a run: its shape by the options, its first weights, and the prior that it becomes."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

from diffinv import errors
from diffinv.nets import small, unet
from diffinv.priors import Prior, description
from diffinv.priors import folder as checkpoint
from diffinv.training.config import TrainConfig, shared
from diffinv.training.step import Network

IMAGE_CHANNELS = 3

# The options that fields of a prior follow, where they have other names.
OPTIONS = {
  "model_channels": "channels",
  "channel_mult": "multipliers",
  "num_res_blocks": "blocks",
  "num_head_channels": "head_channels",
  "image_shape": "size",
  "size_multiple": "multipliers",
  "variance": "learned_variance",
  "schedule": "schedule_steps",
}


def shape(config: TrainConfig) -> Any:
  """Return the shape of the network, a config of one of NETWORKS; the options are resolved.

  Raises:
    UsageError: no such network can be built.
  """
  with errors.usage():
    return SHAPES[config.network](config)


def check(config: TrainConfig) -> None:
  """Check that the prior which the run will end in can be written and loaded; the options are resolved.

  Raises:
    UsageError: it cannot.
  """
  try:
    description.describe(make_prior({}, config), shape(config), None)
  except ValueError as error:
    if isinstance(error, errors.UsageError):
      raise
    raise errors.UsageError(_in_options(str(error))) from None


def _in_options(message: str) -> str:
  """Return a message about a field of a prior, "prior: network: FIELD: expected ...", as one about an option."""
  found = re.match(r"prior: (?:network: )?(?:(\w+): )?([^;]*)", message)
  field, fault = found.groups() if found else (None, message)
  option = OPTIONS.get(field or "network", field)
  return f"`{option}`: {fault}; choose another value, so that the prior can be loaded"


def _out_channels(config: TrainConfig) -> int:
  return IMAGE_CHANNELS * (2 if config.learned_variance else 1)


def _small(config: TrainConfig) -> small.SmallConfig:
  time_scale = 1.0 if config.prediction == "edm" else 2.0 / config.schedule_steps
  return small.SmallConfig(
    **shared(small.SmallConfig, config), out_channels=_out_channels(config), time_scale=time_scale
  )


def _guided_diffusion(config: TrainConfig) -> unet.UNetConfig:
  multipliers = config.multipliers or ()
  for level, multiplier in enumerate(multipliers):
    if config.channels * multiplier % unet.GROUPS:
      raise errors.UsageError(
        f"`channels`: expected multiples of {unet.GROUPS} at each level of `network=guided_diffusion`, got "
        f"{config.channels * multiplier} at level {level}"
      )
  return unet.make_config(
    model_channels=config.channels,
    channel_mult=multipliers,
    num_res_blocks=config.blocks,
    attention_levels=(len(multipliers) - 1,) if config.attention else (),
    num_head_channels=config.head_channels,
    in_channels=IMAGE_CHANNELS,
    out_channels=_out_channels(config),
    dtype=config.dtype,
  )


# By name, for each network that can be trained.
SHAPES: dict[str, Callable[[TrainConfig], Any]] = {"small": _small, "guided_diffusion": _guided_diffusion}


def over_batch(config: TrainConfig) -> Network:
  """Return the network as a function of batches."""
  architecture = shape(config)
  if isinstance(architecture, small.SmallConfig):
    network: Any = small.SmallNet(architecture).apply  # takes a batch by itself
    return network
  return jax.vmap(_apply(config, architecture), in_axes=(None, 0, 0))


def _apply(config: TrainConfig, architecture: Any) -> Callable:
  return checkpoint.NETWORKS[config.network].apply_function(architecture)


def make_prior(params: Any, config: TrainConfig) -> Prior:
  """Return the network with the weights `params` as a prior."""
  architecture = shape(config)
  any_size = config.network == "small" and not config.attention
  edge = None if any_size else config.size
  return Prior(
    params=params,
    apply=_apply(config, architecture),
    schedule=config.noise_schedule(),
    prediction=config.prediction,
    variance="learned_range" if config.learned_variance else "fixed_small",
    image_shape=(edge, edge, IMAGE_CHANNELS),
    size_multiple=architecture.size_multiple,
  )


def first_weights(config: TrainConfig, key: jax.Array) -> Any:
  """Return new parameters, or those of the prior that `init` names; see `check_init`."""
  if config.init is None:
    return checkpoint.NETWORKS[config.network].init(key, shape(config))
  return checkpoint.load_prior(config.init).params


def check_init(config: TrainConfig) -> None:
  """Check that the prior that `init` names has the network and the prediction of the options.

  Raises:
    UsageError: it has not, or is analytic, or its prior.json is damaged.
    FileNotFoundError: there is no such prior.
  """
  if config.init is None:
    return
  try:
    description, architecture = checkpoint.load_description(config.init)
  except ValueError as error:
    raise errors.UsageError(f"`init`: {error}") from None
  kind, learned = description["network"]["name"], description["variance"] == "learned_range"
  theirs = {"network": kind, "prediction": description["prediction"], "learned_variance": learned}
  ours = {name: getattr(config, name) for name in theirs}
  theirs, ours = {**theirs, "time_scale": description["time_scale"]}, {**ours, "time_scale": 1.0}
  if kind == config.network:
    theirs |= dataclasses.asdict(architecture)
    ours |= dataclasses.asdict(shape(config))
  idle = (*checkpoint.RUNTIME, *(("head_channels",) if config.network == "small" and not config.attention else ()))
  for name, value in ours.items():
    if value != theirs[name] and name not in idle:
      raise errors.UsageError(
        f"`init`: expected a prior whose {name} is {value!r}, as the options ask, {config.init} has {theirs[name]!r}; "
        "choose another prior, or other options"
      )
