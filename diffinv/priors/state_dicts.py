"""State dicts of others, made priors.

Files of the guided-diffusion UNet become priors, and folders of the diffusers library; `diffinv.nets.guided_diffusion`
and `diffinv.nets.diffusers` know their tensors. No code in a file is run.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import errors, options, output, progress, reading
from diffinv.nets import diffusers, diffusers_unet, guided_diffusion, unet
from diffinv.options import option
from diffinv.priors import description, diffusers_folder, hub, key_prefixes, portrait, readings
from diffinv.priors import folder as priors
from diffinv.priors.base import Prior
from diffinv.priors.description import MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.priors.tensor_files import Tensor, read_state_dict, sha256
from diffinv.schedules import BETAS, Schedule

CHECKED_CHANNELS = (1, 3)  # of networks that a portrait can be given to
PRESET_SIZE = 256  # pixels; of every preset
SCHEDULE, VARIANCE = "linear", "fixed_large"  # of what does not say it


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
  """What to convert, and what the file does not say of itself."""

  input: str | os.PathLike[str] = option(
    help="File to read, .pt or .safetensors, or a folder of the diffusers library, or either of the Hugging Face hub, "
    "hf:OWNER/NAME[/FOLDER_OR_FILE][@REVISION]; required."
  )
  preset: str | None = option(None, "Published network that the file must be.", choices=guided_diffusion.PRESETS)
  num_heads: int | None = option(
    None, "Heads of attention. Not set: the preset's, or what the check finds.", low=1, high=MAX_NUMBER
  )
  num_head_channels: int | None = option(
    None, "Channels a head, instead of the number of heads.", low=1, high=MAX_NUMBER
  )
  attention_order: str | None = option(
    None,
    "Channels of q, k, v: head by head, or q of all heads, then k, then v. Not set: the preset's, or what the check "
    "finds, or legacy.",
    choices=unet.ATTENTION_ORDERS,
  )
  num_heads_upsample: int | None = option(
    None, "Heads of attention in the decoder. Not set: as many as elsewhere.", low=1, high=MAX_NUMBER
  )
  key_prefix: str | None = option(
    None, "What stands before the tensors' names, such as ema_model.; chooses a network of a file with several."
  )
  image_size: int | None = option(
    None, "Pixels of the images that it is for. Not set: the preset's, or the folder's.", low=1, high=MAX_NUMBER
  )
  schedule: str | None = option(
    None, "Noise schedule that it was trained with. Not set: the folder's, or linear.", choices=BETAS
  )
  num_steps: int | None = option(
    None, "Steps of that schedule. Not set: the folder's, or 1000.", low=1, high=MAX_SCHEDULE_STEPS
  )
  rescale_timesteps: bool | None = option(
    None,
    "Whether it was told the time as t 1000 / num_steps. Not set: so it is where num_steps is not 1000, as in "
    "improved-diffusion, unless the check finds otherwise; not of a folder.",
  )
  check: bool = option(
    True,
    "Denoise a portrait with the network, to see whether it works, and to tell what was not said: heads, "
    "`attention_order` and `rescale_timesteps`.",
  )
  variance: str | None = option(
    None,
    "Reverse variance, for networks that have not learned it. Not set: the folder's, or fixed_large.",
    choices=("fixed_small", "fixed_large"),
  )

  def __post_init__(self):
    options.check(self)
    if self.num_heads is not None and self.num_head_channels is not None:
      raise errors.UsageError("`num_heads`, `num_head_channels`: expected one of them, got both")
    if self.num_heads_upsample is not None and self.num_head_channels is not None:
      raise errors.UsageError(
        "`num_heads_upsample`: expected none beside `num_head_channels`, which sets the heads everywhere; leave it out"
      )
    if hub.is_one(self.input):
      hub.parse(str(self.input))
    elif diffusers_folder.is_one(self.input):
      self._check_said()
    elif self.image_size is None and self.preset is None and self._is_file():
      raise errors.UsageError("`image_size` is missing: expected pixels, as shapes cannot tell; or give `preset`")

  def _is_file(self) -> bool:
    """Tell whether the input is a file, or named as one: what is not there may have been meant to be a folder."""
    return reading.is_file(self.input) or bool(pathlib.Path(self.input).suffix)

  def _check_said(self):
    """Check that there is a folder's config.json, and that nothing was said that it says."""
    for name in ("preset", "num_heads", "num_head_channels", "attention_order", "num_heads_upsample"):
      if getattr(self, name) is not None:
        diffusers_folder.find(self.input)
        raise errors.UsageError(
          f"`{name}`: expected none with a folder of the diffusers library, whose config.json says it, got "
          f"{getattr(self, name)}; leave it out"
        )

  @property
  def steps(self) -> int:
    """Steps of the schedule of a file."""
    return readings.RESCALED_TO if self.num_steps is None else self.num_steps


class Converted(NamedTuple):
  """A prior made from a file."""

  folder: pathlib.Path
  tensors: int  # in the file
  parameters: int  # numbers in them


def convert(config: ConvertConfig, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Converted:
  """Make a prior of a file and write it to a new folder, in full or not at all.

  Args:
    config: the file, and what it does not say of itself.
    folder: to be made.
    overwrite: replace a prior that is there.

  Raises:
    UsageError: the folder is not apart from the file, see `output.check_apart`.
    FileExistsError: the folder exists, see `folder.check_free`.
    ValueError: the file is damaged, or not the network that it should be; the message names the file.
    OSError: the file cannot be opened.
  """
  output.check_apart(folder, [("input", pathlib.Path(config.input))], suffix=priors.BUILDING)
  if overwrite or not priors.holds_prior(folder):  # which may be this one
    priors.check_free(folder, overwrite=overwrite)
  fetched = hub.fetch(str(config.input)) if hub.is_one(config.input) else None
  config = config if fetched is None else dataclasses.replace(config, input=fetched.path)
  path = pathlib.Path(config.input)
  made = (_from_folder if diffusers_folder.is_one(path) else _from_file)(path, config)
  if fetched is not None:
    made.provenance.update(repository=fetched.repository, commit=fetched.commit)
  written = priors.save_prior(folder, made.prior, made.network, made.provenance, overwrite=overwrite, command="convert")
  _tell(made.prior, made.network, config)
  return Converted(written, made.tensors, sum(int(np.size(leaf)) for leaf in jax.tree.leaves(made.prior.params)))


class _Made(NamedTuple):
  """A prior to be written."""

  prior: Prior
  network: Any  # the config of one of `description.NETWORKS`
  provenance: dict[str, Any]
  tensors: int  # in the files


def _from_file(path: pathlib.Path, config: ConvertConfig) -> _Made:
  state_dict = read_state_dict(path)
  try:
    state_dict = key_prefixes.select(state_dict, config.key_prefix)
    prior, network = _identify(state_dict, config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  return _Made(prior, network, {"source": path.name, "sha256": sha256(path), "preset": config.preset}, len(state_dict))


def _from_folder(path: pathlib.Path, config: ConvertConfig) -> _Made:
  found = diffusers_folder.find(path)
  try:
    prior = _folder_prior(found, config)
    description.describe(prior, found.network, None)  # before anything is built of numbers without bounds
  except ValueError as error:
    raise ValueError(f"{found.config}: {error}") from None
  tensors = {name: value for file in found.weights for name, value in read_state_dict(file).items()}
  try:
    tensors = key_prefixes.select(tensors, config.key_prefix, diffusers_folder.ANCHORS)
    params = diffusers.params_from_state_dict(tensors, found.network)
  except ValueError as error:
    raise ValueError(f"{found.weights[0]}: {error}") from None
  prior = _checked(dataclasses.replace(prior, params=params), found, config)
  provenance = {
    "source": "/".join(found.weights[0].parts[-2:]),
    "sha256": ", ".join(map(sha256, found.weights)),
    "diffusers": found.version,
    "scheduler": None if found.scheduler is None else found.scheduler.name,
  }
  return _Made(prior, found.network, provenance, len(tensors))


def _folder_prior(found: diffusers_folder.Found, config: ConvertConfig) -> Prior:
  """Return what a folder holds as a prior, without its parameters; what the flags say comes before its files."""
  network, scheduler = found.network, found.scheduler
  what = guided_diffusion.second_input(network.in_channels, network.out_channels)
  if what is not None:
    raise ValueError(f"expected an unconditional network, got {what}; convert an unconditional one")
  edges = found.size if config.image_size is None else (config.image_size, config.image_size)
  return Prior(
    params={},
    apply=diffusers_unet.apply_function(network),
    schedule=_folder_schedule(scheduler, config),
    prediction="eps" if scheduler is None else scheduler.prediction,
    variance=_folder_variance(found, config),
    clip=scheduler is None or scheduler.clip,
    image_shape=(*edges, network.in_channels),
    size_multiple=network.size_multiple,
    time_scale=readings.RESCALED_TO / config.steps if config.rescale_timesteps else 1.0,
  )


def _folder_variance(found: diffusers_folder.Found, config: ConvertConfig) -> str:
  if found.network.out_channels == 2 * found.network.in_channels:
    return "learned_range"
  said = None if found.scheduler is None else found.scheduler.variance
  return config.variance or (said if said in ("fixed_small", "fixed_large") else VARIANCE)


def _checked(prior: Prior, found: diffusers_folder.Found, config: ConvertConfig) -> Prior:
  """Return the prior of a folder as it denoises the portrait; tell what its files do not say."""
  if found.scheduler is None:
    progress.note(
      f"{found.config}: no {diffusers_folder.SCHEDULER} is with it; its noise schedule is taken to be "
      f"{prior.schedule.name} of {prior.schedule.num_steps} steps: if it was another, add --schedule --overwrite"
    )
  if not config.check or found.network.in_channels not in CHECKED_CHANNELS:
    return prior
  said = None if found.scheduler is None else found.scheduler.prediction
  return dataclasses.replace(prior, prediction=readings.choose_prediction(prior, found.network, said))


def _folder_schedule(scheduler: diffusers_folder.Scheduler | None, config: ConvertConfig) -> Schedule:
  if scheduler is None or config.schedule is not None:
    steps = scheduler.schedule.num_steps if config.num_steps is None and scheduler is not None else config.steps
    return Schedule(config.schedule or SCHEDULE, steps)
  if config.num_steps not in (None, scheduler.schedule.num_steps):
    return dataclasses.replace(scheduler.schedule, num_steps=config.num_steps)
  return scheduler.schedule


def _identify(state_dict: Mapping[str, Tensor], config: ConvertConfig) -> tuple[Prior, unet.UNetConfig]:
  """Return a state dict as a prior, and the architecture of its network."""
  shapes = {name: value.shape for name, value in state_dict.items()}
  guided_diffusion.check_unconditional(shapes)
  plain = guided_diffusion.infer_config(shapes, num_heads=1)  # raises where it is no such network
  checks = config.check and plain.in_channels in CHECKED_CHANNELS
  said = _said(config)
  possible = readings.possible(shapes, said) if checks else [readings.first(shapes, said)]
  prior = _make_prior(guided_diffusion.params_from_state_dict(state_dict, plain), possible[0], config)
  description.describe(prior, possible[0].network, None)
  reading = readings.choose(prior, possible, said) if checks else possible[0]
  return _make_prior(prior.params, reading, config), reading.network


def _tell(prior: Prior, network: Any, config: ConvertConfig) -> None:
  """Say what a user of the prior should know, and what was assumed."""
  if network.num_classes is not None:
    progress.note(f"the network is class-conditional, of {network.num_classes} classes: using it takes a label")
  if config.rescale_timesteps is None and config.steps != readings.RESCALED_TO and isinstance(network, unet.UNetConfig):
    told, other = ("t 1000 / num_steps", "--no") if prior.time_scale != 1.0 else ("t", "--")
    progress.note(
      f"the network is told the time as {told}; if it was trained otherwise, add {other}rescale_timesteps --overwrite"
    )


def _said(config: ConvertConfig) -> readings.Said:
  names = ("num_heads", "num_head_channels", "num_heads_upsample", "attention_order")
  network = {name: getattr(config, name) for name in names}
  return readings.Said(network, config.preset, config.rescale_timesteps, config.steps)


def _make_prior(params: dict, reading: portrait.Reading, config: ConvertConfig) -> Prior:
  """Return the network as a prior that predicts the noise; `config.variance` applies if it has not learned its own."""
  network = reading.network
  learned = network.out_channels == 2 * network.in_channels
  size = PRESET_SIZE if config.image_size is None else config.image_size
  return Prior(
    params=params,
    apply=unet.apply_function(network),
    schedule=Schedule(config.schedule or SCHEDULE, config.steps),
    prediction="eps",
    variance="learned_range" if learned else config.variance or VARIANCE,
    image_shape=(size, size, network.in_channels),
    size_multiple=network.size_multiple,
    time_scale=reading.time_scale,
  )
