"""State dicts of others, made priors.

Files of the guided-diffusion UNet, of EDM's networks and of DRUNets become priors, and folders of the diffusers
library; `guided_diffusion`, `edm`, `drunet` and `diffusers` of `diffinv.nets` know their tensors. No code in a file is
run.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import errors, options, output, progress
from diffinv.nets import diffusers, diffusers_unet, drunet, guided_diffusion, unet
from diffinv.options import option
from diffinv.priors import (
  classes,
  description,
  diffusers_folder,
  edm_files,
  families,
  hub,
  key_prefixes,
  readings,
  trial,
)
from diffinv.priors import folder as priors
from diffinv.priors.base import EDM_SIGMA_DATA, TOLD_SIGMA, VELOCITIES, Prior
from diffinv.priors.description import MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.priors.tensor_files import Tensor, read_state_dict, sha256
from diffinv.reading import shown
from diffinv.schedules import BETAS, FLOW, Schedule

CHECKED_CHANNELS = (1, 3)  # of networks that pictures can be given to
LATENT_CHANNELS = 4
RANGES = {"-1,1": False, "0,1": True}  # whether it is that of `Prior.unit_range`
ORDERS = {"RGB": False, "BGR": True}  # whether the channels are reversed
PRESET_SIZE = 256  # pixels; of every preset
COLOR = 3  # channels
NO_ENDS = ("", "")  # of networks whose channels are not reversed
SAID = f"{edm_files.CONFIG} says what its network is told"
IN_EDM = "edm"  # the one preconditioning in which guided-diffusion networks are read
HEADS = ("num_heads", "num_head_channels", "num_heads_upsample", "attention_order")  # flags of attention
OF_GUIDED = ("preset", *HEADS)  # what is said of a guided-diffusion network alone
# What is said of networks that are told the index in a schedule, or the time of a flow.
OF_INDEX = (
  "schedule",
  "variance",
  "rescale_timesteps",
  "time_scale",
  "prediction",
  "pixel_range",
  "channel_order",
)
# Flags that answer a question of `readings`.
ANSWERED = {
  "time_scale": ("time_scale", "rescale_timesteps"),
  "schedule": ("schedule",),
  "prediction": ("prediction",),
  "unit_range": ("pixel_range",),
  "reversed_channels": ("channel_order",),
}
SCHEDULE, VARIANCE = "linear", "fixed_large"  # of what does not say it


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
  """What to convert, and what the file does not say of itself."""

  input: str | os.PathLike[str] = option(
    help="File to read, .pt or .safetensors, or a folder of the diffusers library or of tools/export_edm.py, or "
    "either of the Hugging Face hub, hf:OWNER/NAME[/FOLDER_OR_FILE][@REVISION]; required."
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
    None,
    "Noise schedule that it was trained with; flow for networks of velocity on (1 - t) picture + t noise. Not set: the "
    "folder's, or linear.",
    choices=(*BETAS, FLOW),
  )
  num_steps: int | None = option(
    None, "Steps of that schedule. Not set: the folder's, or 1000.", low=1, high=MAX_SCHEDULE_STEPS
  )
  rescale_timesteps: bool | None = option(
    None,
    "Whether it was told the time as t 1000 / num_steps; a flow as 1000 t; with prediction=edm as 1000 ln(sigma)/4, in "
    "place of ln(sigma)/4. Not set: so it is with edm, and where num_steps is not 1000, as in improved-diffusion, "
    "unless the check finds otherwise; not of a folder, but of a flow in one.",
  )
  time_scale: float | None = option(
    None,
    "Factor of the index in the schedule that it was told as the time, such as 0.001 for t / 1000; in place of "
    "`rescale_timesteps`.",
    low=1e-6,
    high=description.MAX_TIME_SCALE,
  )
  prediction: str | None = option(
    None,
    "What it predicts: the noise, the picture, or v; velocity is noise - picture, of a flow whose time runs from "
    "pictures to noise, velocity_to_data the other way round; edm is F of EDM's preconditioning, as the teachers of "
    "consistency models have it. Not set: what the folder says, or what the check finds.",
    choices=(*readings.PREDICTED, readings.EDM, *VELOCITIES),
  )
  pixel_range: str | None = option(
    None, "Of the pictures that it knows. Not set: what the check finds, or -1,1.", choices=tuple(RANGES)
  )
  channel_order: str | None = option(
    None, "Of the pictures that it knows. Not set: what the check finds, or RGB.", choices=tuple(ORDERS)
  )
  null_label: int | str = option(
    "auto",
    "Index of the class that stands for no class, for guidance; or auto, the last of 11, 101 or 1001; or none.",
    low=0,
    high=MAX_NUMBER,
    words=("auto", "none"),
  )
  max_noise: float | None = option(
    None,
    "Noise up to which a DRUNet was trained, standard deviation of 255 gray levels. Not set: 50, as published.",
    low=1,
    high=255,
  )
  check: bool = option(
    True,
    "Denoise bundled pictures with the network, to see whether it works, and to tell what neither flags nor files say.",
  )
  unchecked: bool = option(False, "Convert a network all the same that does not denoise bundled pictures.")
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
    if self.time_scale is not None and self.rescale_timesteps is not None:
      raise errors.UsageError("`time_scale`, `rescale_timesteps`: expected one of them, got both")
    self._check_flow()
    if self.prediction == readings.EDM:
      self.check_unsaid(("schedule",), "prediction=edm is of networks that are told the noise itself")
      if self.pixel_range not in (None, "-1,1"):
        raise errors.UsageError("`pixel_range`: expected -1,1 with `prediction=edm`, got 0,1; leave it out")
    if hub.is_one(self.input):
      hub.parse(str(self.input))
    elif diffusers_folder.is_one(self.input) and not edm_files.is_one(self.input):
      self._check_said()

  def check_size(self) -> None:
    """Check that a size was said, of a file that does not say it.

    Raises:
      UsageError: it was not.
    """
    if self.image_size is None and self.preset is None:
      raise errors.UsageError("`image_size` is missing: expected pixels, as shapes cannot tell; or give `preset`")

  def check_unsaid(self, names: Sequence[str], why: str) -> None:
    """Check that nothing was said that has no meaning for a network.

    Raises:
      UsageError: it was.
    """
    for name in names:
      if getattr(self, name) is not None:
        raise errors.UsageError(f"`{name}`: expected none, as {why}, got {getattr(self, name)}; leave it out")

  def _check_flow(self):
    if (self.prediction in VELOCITIES and self.schedule not in (None, FLOW)) or (
      self.schedule == FLOW and self.prediction not in (None, *VELOCITIES)
    ):
      raise errors.UsageError(
        f"`prediction`: expected {' or '.join(VELOCITIES)} with `schedule={FLOW}` alone, got {self.prediction} with "
        f"{self.schedule}; leave one of them out"
      )

  def _check_said(self):
    """Check that there is a folder's config.json, and that nothing was said that it says."""
    for name in OF_GUIDED:
      if getattr(self, name) is not None:
        diffusers_folder.find(self.input)
        raise errors.UsageError(
          f"`{name}`: expected none with a folder of the diffusers library, whose config.json says it, got "
          f"{getattr(self, name)}; leave it out"
        )
    if self.prediction == readings.EDM:
      raise errors.UsageError(
        "`prediction`: expected another than edm with a folder of the diffusers library, whose networks have a "
        "schedule; leave it out"
      )

  @property
  def flow(self) -> bool:
    """Whether the flags say that it is a flow."""
    return self.schedule == FLOW or self.prediction in VELOCITIES

  @property
  def schedule_name(self) -> str | None:
    """The schedule that the flags say."""
    return FLOW if self.flow else self.schedule

  @property
  def steps(self) -> int:
    """Steps of the schedule of a file."""
    return readings.RESCALED_TO if self.num_steps is None else self.num_steps


class Converted(NamedTuple):
  """A prior made from a file."""

  folder: pathlib.Path
  tensors: int  # in the file
  parameters: int  # numbers in them
  denoised: str  # how well it denoises, in words; "" where it was not tried


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
  made = _reader(path)(path, config)
  if not isinstance(made.network, drunet.DRUNetConfig):
    config.check_unsaid(("max_noise",), "the noise that this network knows is that of its schedule")
  made = made._replace(prior=dataclasses.replace(made.prior, null_label=_null_label(path, made.network, config)))
  if fetched is not None:
    made.provenance.update(repository=fetched.repository, commit=fetched.commit)
  if made.check is not None:
    made.provenance["check"] = made.check.figures
  written = priors.save_prior(folder, made.prior, made.network, made.provenance, overwrite=overwrite, command="convert")
  _tell(made.prior, made.network, config)
  parameters = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(made.prior.params))
  return Converted(written, made.tensors, parameters, "" if made.check is None else made.check.words)


def _null_label(path: pathlib.Path, network: Any, config: ConvertConfig) -> int | None:
  try:
    return classes.null_of(network, config.null_label)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


class _Made(NamedTuple):
  """A prior to be written."""

  prior: Prior
  network: Any  # the config of one of `description.NETWORKS`
  provenance: dict[str, Any]
  tensors: int  # in the files
  check: readings.Chosen | None  # None where it was not tried


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path, ConvertConfig], _Made]:
  if edm_files.is_one(path):
    return _from_edm
  return _from_folder if diffusers_folder.is_one(path) else _from_file


def _from_file(path: pathlib.Path, config: ConvertConfig) -> _Made:
  stored = read_state_dict(path)
  family = families.of(list(stored))
  try:
    stored = key_prefixes.select(stored, config.key_prefix, family.anchors)
    if isinstance(family, families.Family):
      prior, network, check = _identify(stored, family, config)
    else:
      prior, network, check = _told_noise(stored, family, config)
  except errors.UsageError:
    raise
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  provenance = {"source": path.name, "sha256": sha256(path), "preset": config.preset}
  return _Made(prior, network, provenance, len(stored), check)


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
    prior, _, check = _checked(dataclasses.replace(prior, params=params), _of_folder(found, prior, config), config)
  except ValueError as error:
    raise ValueError(f"{found.weights[0]}: {error}") from None
  if found.scheduler is None and config.schedule is None:
    progress.note(
      f"{found.config}: no {diffusers_folder.SCHEDULER} is with it; its noise schedule is taken to be "
      f"{prior.schedule.name} of {prior.schedule.num_steps} steps: if it was another, add --schedule --overwrite"
    )
  provenance = {
    "source": "/".join(found.weights[0].parts[-2:]),
    "sha256": ", ".join(map(sha256, found.weights)),
    "diffusers": found.version,
    "scheduler": None if found.scheduler is None else found.scheduler.name,
  }
  return _Made(prior, found.network, provenance, len(tensors), check)


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
    prediction=_folder_prediction(scheduler, config),
    variance=_folder_variance(found, config),
    clip=scheduler is None or scheduler.clip,
    image_shape=(*edges, network.in_channels),
    size_multiple=network.size_multiple,
    time_scale=_folder_time_scale(scheduler, config) if config.time_scale is None else config.time_scale,
  )


def _folder_prediction(scheduler: diffusers_folder.Scheduler | None, config: ConvertConfig) -> str:
  if config.prediction is not None:
    return config.prediction
  said = readings.PREDICTED[0] if scheduler is None else scheduler.prediction
  return VELOCITIES[0] if config.flow and said not in VELOCITIES else said


def _folder_time_scale(scheduler: diffusers_folder.Scheduler | None, config: ConvertConfig) -> float:
  if _folder_prediction(scheduler, config) not in VELOCITIES:
    return readings.RESCALED_TO / config.steps if config.rescale_timesteps else 1.0
  told = readings.RESCALED_TO if scheduler is None or scheduler.time_scale == 1.0 else scheduler.time_scale
  return 1.0 if config.rescale_timesteps is False else told


def _folder_variance(found: diffusers_folder.Found, config: ConvertConfig) -> str:
  if found.network.out_channels == 2 * found.network.in_channels:
    return "learned_range"
  said = None if found.scheduler is None else found.scheduler.variance
  return config.variance or (said if said in ("fixed_small", "fixed_large") else VARIANCE)


class _Question(NamedTuple):
  """What a file leaves open of a network."""

  space: readings.Space
  allowed: readings.Space
  heads_said: bool
  ends: tuple[str, str]  # see `families.Family`


def _checked(prior: Prior, question: _Question, config: ConvertConfig) -> tuple[Prior, Any, readings.Chosen | None]:
  """Return a prior as it denoises pictures, its network, and how it denoises; None where it was not tried."""
  channels = prior.image_shape[2]
  tried = config.check and channels in CHECKED_CHANNELS
  if not tried and not config.unchecked:
    _check_channels(channels, config)
  chosen = None
  if tried:
    chosen = readings.choose(
      trial.Trial(prior), question.space, question.allowed, heads_said=question.heads_said, unchecked=config.unchecked
    )
  taken = question.allowed.first() if chosen is None else chosen.tried.reading
  params = families.reversed_channels(prior.params, question.ends) if taken.reversed_channels else prior.params
  apply = description.network_of(taken.network).apply_function(taken.network)
  return dataclasses.replace(trial.read_as(prior, taken), params=params, apply=apply), taken.network, chosen


def _check_channels(channels: int, config: ConvertConfig) -> None:
  """Check that a network that is not tried may be one of pictures, or of what its user says."""
  what = ", as of the latents of an autoencoder" if channels == LATENT_CHANNELS else ""
  if what or config.check:
    raise ValueError(
      f"expected a network of pictures, of 1 or 3 channels, got one of {channels}{what}, which cannot be tried on "
      "pictures; if it is one of pixels, add `unchecked`"
    )


def _said_of(config: ConvertConfig) -> families.Said:
  choices = {name: getattr(config, name) for name in HEADS}
  return families.Said(choices, config.preset, config.num_steps, config.image_size, config.max_noise)


def _space(networks: Sequence[Any], first: Prior, predictions: Sequence[str], config: ConvertConfig) -> readings.Space:
  """Return every reading; `first`: a prior as flags and files have it, or as is likeliest."""
  own = first.prediction in TOLD_SIGMA
  steps, color = first.schedule.num_steps, first.image_shape[2] == COLOR
  flow = first.prediction in VELOCITIES
  far = float(readings.RESCALED_TO)
  known = [1.0, far] if flow else [far / steps, 1.0, 1.0 / steps, *([far] if readings.EDM in predictions else [])]
  predictions = VELOCITIES if flow else predictions
  unit, reverse = RANGES[config.pixel_range or "-1,1"], ORDERS[config.channel_order or "RGB"]
  return readings.Space(
    network=tuple(networks),
    time_scale=(1.0,) if own else _unique(first.time_scale, *known),
    schedule=(first.schedule,) if own or flow else _unique(*_indexed(first), *_schedules(steps)),
    prediction=(first.prediction,) if own else _unique(first.prediction, *predictions),
    unit_range=(unit,) if own else (unit, not unit),
    reversed_channels=(reverse, not reverse) if color and not own else (reverse,),
  )


def _indexed(first: Prior) -> list[Schedule]:
  return [] if first.prediction == readings.EDM else [first.schedule]


def _unique(*values: Any) -> tuple[Any, ...]:
  return tuple(dict.fromkeys(values))


def _schedules(steps: int) -> list[Schedule]:
  """Return the schedules that networks are trained with, those of so many steps that there are."""
  found = []
  for name in BETAS:
    with contextlib.suppress(ValueError):
      Schedule(name, steps).alpha_bar()
      found.append(Schedule(name, steps))
  return found


def _said(config: ConvertConfig) -> list[str]:
  """Return the questions that flags answer, besides the network."""
  return [name for name, flags in ANSWERED.items() if any(getattr(config, flag) is not None for flag in flags)]


def _of_folder(found: diffusers_folder.Found, prior: Prior, config: ConvertConfig) -> _Question:
  space = _space([found.network], prior, readings.PREDICTED, config)
  said = ["time_scale", *_said(config)] + ([] if found.scheduler is None else ["schedule", "prediction"])
  return _Question(space, space.within(said), True, diffusers.ENDS)


def _folder_schedule(scheduler: diffusers_folder.Scheduler | None, config: ConvertConfig) -> Schedule:
  name = config.schedule_name
  if scheduler is None or (name is not None and (name != FLOW or scheduler.schedule.name != FLOW)):
    steps = scheduler.schedule.num_steps if config.num_steps is None and scheduler is not None else config.steps
    return Schedule(name or SCHEDULE, steps)
  if config.num_steps not in (None, scheduler.schedule.num_steps):
    return dataclasses.replace(scheduler.schedule, num_steps=config.num_steps)
  return scheduler.schedule


# Networks that are told the noise


def _from_edm(path: pathlib.Path, config: ConvertConfig) -> _Made:
  found = edm_files.find(path)
  config.check_unsaid(("preset", *OF_INDEX), SAID)
  stored = read_state_dict(found.weights)
  try:
    family = families.of(list(stored))
    stored = key_prefixes.select(stored, config.key_prefix, family.anchors)
    if isinstance(family, families.Family):
      prior, network, check = _preconditioned(stored, family, found.fields, config)
    else:
      config.check_unsaid(HEADS, SAID)
      made = edm_files.make_prior(stored, found.fields, num_steps=config.num_steps, size=config.image_size)
      prior, network, check = _checked_noise(*made, [made[1]], config)
  except errors.UsageError:
    raise
  except ValueError as error:
    raise ValueError(f"{found.config}: {error}") from None
  said = {name: found.fields.get(name) for name in ("source", "weights", "network")}
  return _Made(prior, network, {**said, "sha256": sha256(found.weights)}, len(stored), check)


def _preconditioned(
  stored: Mapping[str, Tensor], family: families.Family, fields: edm_files.Fields, config: ConvertConfig
) -> tuple[Prior, Any, readings.Chosen | None]:
  """Return a network of a family in EDM's preconditioning, as its owner exported it, as a prior."""
  found: Mapping[str, Any] = {**fields}
  for name, known in (("preconditioning", IN_EDM), ("sigma_data", EDM_SIGMA_DATA)):
    if found.get(name, known) != known:
      raise ValueError(
        f"{name}: expected {known} of a {family.name} network, got {shown(found[name])}, which is not read"
      )
  said = dataclasses.replace(
    config,
    image_size=fields.get("image_size") if config.image_size is None else config.image_size,
    prediction=readings.EDM,
    rescale_timesteps=False,
    channel_order="RGB",
  )
  prior, network, check = _identify(stored, family, said)
  ends = edm_files.ends(fields)
  return dataclasses.replace(prior, schedule=dataclasses.replace(prior.schedule, ends=ends), clip=False), network, check


def _told_noise(
  stored: Mapping[str, Tensor], family: families.Denoisers, config: ConvertConfig
) -> tuple[Prior, Any, readings.Chosen | None]:
  """Return a file's tensors as a prior, its network, and how it denoises."""
  config.check_unsaid((*OF_GUIDED, *OF_INDEX), f"{family.name} is told the noise itself")
  prior, network = family.make_prior(stored, _said_of(config))
  return _checked_noise(prior, network, family.networks(network), config)


def _checked_noise(
  prior: Prior, network: Any, networks: Sequence[Any], config: ConvertConfig
) -> tuple[Prior, Any, readings.Chosen | None]:
  description.describe(prior, network, None)
  space = _space(networks, prior, (prior.prediction,), config)
  return _checked(prior, _Question(space, space, len(networks) == 1, NO_ENDS), config)


# Networks that are told an index, or a time


def _identify(
  stored: Mapping[str, Tensor], family: families.Family, config: ConvertConfig
) -> tuple[Prior, Any, readings.Chosen | None]:
  """Return a file's tensors as a prior, its network, and how it denoises; None where it was not tried."""
  config.check_size()
  shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
  family.check(shapes)
  said = _said_of(config)
  networks = family.networks(shapes, said)  # raises where it is no such network
  tries = config.check and networks.possible[0].in_channels in CHECKED_CHANNELS
  network = networks.allowed[0] if tries else family.first(shapes, said)
  variance = network.out_channels != network.in_channels
  predictions = tuple(name for name in family.predictions if not variance or name != readings.EDM)
  prior = _file_prior(network, predictions[0], config)
  description.describe(prior, network, None)  # before anything is built of numbers without bounds
  space = _space(networks.possible, prior, predictions, config)
  allowed = space.within(_said(config))._replace(network=networks.allowed if tries else (network,))
  if config.schedule is not None or space.unit_range[0]:  # which a network in EDM's preconditioning has not
    allowed = allowed._replace(prediction=tuple(name for name in allowed.prediction if name != readings.EDM))
  prior = dataclasses.replace(prior, params=family.params(stored, network))
  return _checked(prior, _Question(space, allowed, said.heads, family.ends), config)


def _tell(prior: Prior, network: Any, config: ConvertConfig) -> None:
  """Say what a user of the prior should know, and what was assumed."""
  _tell_classes(prior, network, config)
  if prior.prediction in VELOCITIES and isinstance(network, unet.UNetConfig):
    told = "t" if prior.time_scale == 1.0 else "1000 t"
    ends = ("noise", "pictures") if prior.prediction == "velocity_to_data" else ("pictures", "noise")
    progress.note(
      f"the network is told {told}, from {ends[0]} at t = 0 to {ends[1]} at 1; if it was trained otherwise, set "
      "--prediction or --rescale_timesteps and --overwrite"
    )
    return
  said = config.rescale_timesteps is not None or config.time_scale is not None
  if prior.prediction == readings.EDM and isinstance(network, unet.UNetConfig):
    if not said and not config.check and prior.time_scale != 1.0:
      progress.note(
        "the network is told 1000 ln(sigma)/4; if it was told ln(sigma)/4, add --norescale_timesteps --overwrite"
      )
    return
  if not said and config.steps != readings.RESCALED_TO and isinstance(network, unet.UNetConfig):
    told, other = ("t 1000 / num_steps", "--no") if prior.time_scale != 1.0 else ("t", "--")
    progress.note(
      f"the network is told the time as {told}; if it was trained otherwise, add {other}rescale_timesteps --overwrite"
    )


def _tell_classes(prior: Prior, network: Any, config: ConvertConfig) -> None:
  if network.num_classes is None:
    return
  null = prior.null_label
  takes = "using it takes a label" if null is None else f"class {null} is none of them, without a label it is taken"
  progress.note(f"the network is class-conditional, of {network.num_classes} classes: {takes}")
  if null is not None and config.null_label == "auto":
    progress.note("that is taken from the size of its table alone; if it is wrong, add --null_label=none --overwrite")


def _file_prior(network: Any, prediction: str, config: ConvertConfig) -> Prior:
  """Return a network as a prior without its parameters, as the flags have it, or as is likeliest."""
  learned = network.out_channels == 2 * network.in_channels
  size = PRESET_SIZE if config.image_size is None else config.image_size
  rescaled = 1.0 if config.rescale_timesteps is False else readings.RESCALED_TO / config.steps
  if config.flow:
    prediction, rescaled = "velocity_to_data", float(readings.RESCALED_TO) if config.rescale_timesteps else 1.0
  prediction, schedule = config.prediction or prediction, Schedule(config.schedule_name or SCHEDULE, config.steps)
  if prediction == readings.EDM:
    schedule = readings.noise_schedule(config.steps)
    rescaled = 1.0 if config.rescale_timesteps is False else float(readings.RESCALED_TO)
  return Prior(
    params={},
    apply=description.network_of(network).apply_function(network),
    schedule=schedule,
    prediction=prediction,
    variance="learned_range" if learned else config.variance or VARIANCE,
    image_shape=(size, size, network.in_channels),
    size_multiple=network.size_multiple,
    time_scale=rescaled if config.time_scale is None else config.time_scale,
  )
