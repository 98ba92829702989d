"""Folders of the diffusers library: which network, which weights and which noise schedule one holds.

  FOLDER/config.json, diffusion_pytorch_model.safetensors or .bin    the network
  FOLDER/scheduler_config.json, or scheduler/ in or beside FOLDER    the schedule
  FOLDER/model_index.json, unet/, scheduler/                         a pipeline; unet_ema/ for averaged weights

All are data: no code in a folder is run, and no Python that a config names is looked for.
"""

import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypedDict, TypeVar

from diffinv import progress, reading
from diffinv.nets import diffusers
from diffinv.nets.diffusers_unet import DiffusersConfig
from diffinv.reading import shown
from diffinv.schedules import FLOW, GIVEN, Schedule

_Path = TypeVar("_Path", bound=pathlib.PurePath)

CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
ENDINGS = (".safetensors", ".bin")
FOREIGN = (".msgpack", ".h5", ".onnx", ".ckpt", ".pt")  # of weights that are not read here
SHARDS = ".index.json"  # ends the name of the list of files that the weights are split into
NETWORKS = ("", "unet_ema", "unet")  # folders in that of a pipeline that may hold the network, the likeliest first
# Every UNet2DModel has these; what stands before them is a prefix.
ANCHORS = ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight")
AGAIN = "download the folder again"
PIXELS = "a prior needs one of pixels: convert an unconditional UNet2DModel"

# Other models with a config.json, by the class that it names.
OTHERS = {
  "UNet2DConditionModel": "a network that a text or another embedding conditions, as of Stable Diffusion",
  "AutoencoderKL": "an autoencoder, whose latents another network knows",
  "VQModel": "an autoencoder, whose latents another network knows",
  "Transformer2DModel": "a transformer of latents",
  "DiTTransformer2DModel": "a transformer of latents",
  "UNet1DModel": "a network of signals",
  "UNet3DConditionModel": "a network of videos",
  "UNetSpatioTemporalConditionModel": "a network of videos",
  "ControlNetModel": "a network that only steers another",
}
# Parts of a pipeline that tell that its network knows no pictures by themselves, and what it is then.
PARTS = {
  "text_encoder": "which a text conditions",
  "vae": "whose network knows the latents of an autoencoder",
  "vqvae": "whose network knows the latents of an autoencoder",
  "movq": "whose network knows the latents of an autoencoder",
}

# Other folders, by a file in them.
FOLDERS = {
  "prior.json": ("a prior of diffinv", "use it with --prior as it is"),
  "_CHECKPOINT_METADATA": ("a checkpoint of Orbax, of JAX", "give the network as a .safetensors file or for PyTorch"),
  "_METADATA": ("a checkpoint of Orbax, of JAX", "give the network as a .safetensors file or for PyTorch"),
  "saved_model.pb": ("a model of TensorFlow", "give the network's checkpoint of PyTorch"),
  "data.pkl": ("a checkpoint of PyTorch that was unpacked", "give the file as it was downloaded"),
  "latest": ("a checkpoint of DeepSpeed", "run the zero_to_fp32.py in it, and give the file that it writes"),
}

BETA_SCHEDULES = {
  "linear": "linear",
  "scaled_linear": "scaled_linear",
  "squaredcos_cap_v2": "cosine",
  "sigmoid": "sigmoid",
}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {
  "fixed_small": "fixed_small",
  "fixed_small_log": "fixed_small",
  "fixed_large": "fixed_large",
  "fixed_large_log": "fixed_large",
  "learned_range": "learned_range",
}
EXPLODING = "ScoreSdeVeScheduler"  # of networks that are told the noise of pictures in [0, 1]
# Of networks of velocity, which are told tau times the number of steps at x_t = (1 - tau) x0 + tau eps.
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
FLOW_PREDICTION = "flow_prediction"  # of other schedulers, which say so with `use_flow_sigmas`
# Schedulers of networks that are none of a schedule of betas, by how their names begin.
OTHER_SCHEDULERS = {
  "FlowMatchLCM": "of a distilled model, which is no denoiser",
  "FlowMap": "of a model of jumps along a flow, which is no denoiser",
  "EDM": "whose networks are preconditioned",
  "CM": "of a consistency model, which is no denoiser",
  "LCM": "of a distilled model, which is no denoiser",
  "TCD": "of a distilled model, which is no denoiser",
  "KarrasVe": "which does not say how its network is told the noise",
  "ScoreSdeVp": "whose networks are told another time",
  "VQDiffusion": "of latents that are numbers of a code book",
  "UnCLIP": "of a pipeline with a text",
}


class SchedulerFields(TypedDict, total=False):
  """The fields of a scheduler's file that are read, with their types."""

  _class_name: str
  num_train_timesteps: int
  beta_start: float
  beta_end: float
  beta_schedule: str
  trained_betas: list[float] | None
  rescale_betas_zero_snr: bool
  prediction_type: str
  variance_type: str | None
  clip_sample: bool
  clip_sample_range: float
  sigma_min: float
  sigma_max: float
  shift: float
  flow_shift: float
  use_dynamic_shifting: bool
  use_flow_sigmas: bool
  invert_sigmas: bool


class Scheduler(NamedTuple):
  """What a scheduler's file says of a network."""

  name: str  # its class
  schedule: Schedule
  prediction: str  # of `base.PREDICTIONS`
  variance: str  # of `base.VARIANCES`
  clip: bool
  time_scale: float = 1.0  # of t, see `base.Prior`


class Found(NamedTuple):
  """What a folder holds."""

  config: pathlib.Path  # the file that describes the network
  weights: tuple[pathlib.Path, ...]  # the files of its tensors
  network: DiffusersConfig
  size: tuple[int | None, int | None]  # pixels, height and width
  scheduler: Scheduler | None  # None where there is no file of one
  version: str | None  # of the library


def is_one(path: Any) -> bool:
  """Tell whether a path is a folder, or a file with a config.json of the library beside it."""
  path = pathlib.Path(path)
  if path.is_dir():
    return True
  try:
    return "_class_name" in reading.read_json(path.parent / CONFIG, dict[str, Any], advice=AGAIN)
  except (ValueError, OSError):
    return False


def check(path: Any) -> None:
  """Check that a folder, or a file in one, is of an unconditional network of pixels; no weights are looked for.

  Raises:
    ValueError: it is not; the message says what it is.
    OSError: a file cannot be read.
  """
  _described(pathlib.Path(path))


def find(path: Any) -> Found:
  """Return what a folder holds, or that of a file; tensors are not read.

  Raises:
    ValueError: it is none of an unconditional network of pixels; the message says what it is.
    OSError: a file cannot be read.
  """
  path = pathlib.Path(path)
  found, fields = _described(path)
  folder = found.config.parent
  if path.is_dir() and folder != path and folder.name == "unet_ema" and reading.is_file(path / "unet" / CONFIG):
    progress.note(f"of the networks in {path}, that in {folder} is taken, which holds averaged weights")
  if diffusers.unknown(fields):
    names = ", ".join(map(shown, diffusers.unknown(fields)))
    progress.note(f"{found.config}: what its fields {names} mean is not known here")
  weights = _find_weights(folder) if path.is_dir() or path.suffix == ".json" else (path,)
  return found._replace(weights=weights)


def _described(path: pathlib.Path) -> tuple[Found, diffusers.Fields]:
  """Return what a folder holds, or that of a file, without its weights; and the fields of its config.json."""
  folder = network_folder(path) if path.is_dir() else path.parent
  for place in (folder, folder.parent):
    if reading.is_file(place / INDEX):
      _check_pipeline(place / INDEX)
  config = folder / CONFIG
  _check_class(config)
  fields = reading.read_json(config, diffusers.Fields, advice=AGAIN)
  scheduler = _find_scheduler(folder)
  try:
    network = diffusers.config_from(fields, score=scheduler is not None and scheduler.name == EXPLODING)
    _check_time(network, scheduler)
    size = _size(fields.get("sample_size"))
  except ValueError as error:
    raise ValueError(f"{config}: {error}") from None
  return Found(config, (), network, size, scheduler, fields.get("_diffusers_version")), fields


def network_folder(folder: pathlib.Path) -> pathlib.Path:
  """Return the folder of the network in that of a pipeline, of the averaged one where there are both.

  Raises:
    ValueError: there is none.
  """
  there = [folder / name for name in NETWORKS if reading.is_file(folder / name / CONFIG)]
  if not there:
    if reading.is_file(folder / INDEX):
      _check_pipeline(folder / INDEX)
    for name, (what, advice) in FOLDERS.items():
      if (folder / name).exists():
        raise ValueError(f"{folder}: expected a folder of the diffusers library, got {what}; {advice}")
    raise ValueError(
      f"{folder}: expected a folder of the diffusers library, found no {CONFIG} in it or in unet/; give that which "
      "holds it, or the file of the weights of another library"
    )
  return there[0]


def describing(names: Iterable[str], place: str) -> list[str]:
  """Return which of the files of a repository describe the network in one of its folders, besides the weights.

  Args:
    names: of all files, with "/".
    place: of the folder, "" for the repository itself.
  """
  there, root = set(names), pathlib.PurePosixPath(place)
  folder = next((root / name for name in NETWORKS if str(root / name / CONFIG) in there), root)
  scheduler = next((str(path) for path in _scheduler_files(folder) if str(path) in there), None)
  wanted = [str(folder / CONFIG), *(str(parent / INDEX) for parent in (folder, folder.parent)), scheduler]
  return [name for name in dict.fromkeys(wanted) if name in there and name is not None]


def _check_pipeline(path: pathlib.Path) -> None:
  index = reading.read_json(path, dict[str, Any], advice=AGAIN)
  name = shown(index.get("_class_name"))
  for part, what in PARTS.items():
    if index.get(part) not in (None, [None, None]):
      raise ValueError(f"{path}: expected a pipeline of pictures, got {name}, {what}; {PIXELS}")
  if "unet" not in index:
    raise ValueError(f"{path}: expected a pipeline with a unet, got {name} without one; {PIXELS}")


def _check_class(path: pathlib.Path) -> None:
  fields = reading.read_json(path, dict[str, Any], advice=AGAIN)
  name = fields.get("_class_name")
  if name == diffusers.UNET:
    return
  what = OTHERS.get(name) if isinstance(name, str) else None
  got = shown(name) if what is None else f"{shown(name)}, {what}"
  if name is None:
    got = "a model of the transformers library" if "architectures" in fields else "a file that names no class"
  raise ValueError(f"{path}: expected a {diffusers.UNET}, got {got}; {PIXELS}")


def _check_time(network: DiffusersConfig, scheduler: Scheduler | None) -> None:
  """Check that a network is told what its scheduler tells."""
  if network.time_embedding_type == "fourier" and not network.score:
    got = "none" if scheduler is None else scheduler.name
    raise ValueError(
      f"time_embedding_type: 'fourier' takes the logarithm of the noise: expected a {EXPLODING} beside it, got {got}"
    )
  if network.class_embed_type == "identity":
    raise ValueError("class_embed_type: expected a network that embeds its classes, got 'identity': another one does")


def _size(sample_size: int | list[int] | None) -> tuple[int | None, int | None]:
  sizes = sample_size if isinstance(sample_size, list) else [sample_size, sample_size]
  if len(sizes) != 2:
    raise ValueError(f"sample_size: expected pixels, or height and width, got {len(sizes)} numbers")
  return sizes[0], sizes[1]


def choose_weights(names: Collection[str]) -> str | None:
  """Return which file of a folder to read, or the list of several; of a variant where there are no others.

  Args:
    names: of the files in the folder.

  Returns:
    A name, of a list where it ends with SHARDS; None where no file holds weights of the library.
  """
  plain = [f"{WEIGHTS}{ending}{index}" for ending in ENDINGS for index in ("", SHARDS)]
  variants = [
    name for ending in ENDINGS for name in sorted(names) if name.startswith(f"{WEIGHTS}.") and name.endswith(ending)
  ]
  return next((name for name in (*plain, *variants) if name in names), None)


def _find_weights(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Return the files of weights in a folder; of a variant, such as half precision, where there are no others."""
  name = choose_weights([path.name for path in folder.iterdir() if reading.is_file(path)])
  if name is None:
    others = sorted(
      path.name for path in folder.iterdir() if path.suffix in (".msgpack", ".h5", ".onnx", ".ckpt", ".pt")
    )
    got = shown(others[0]) if others else "no weights"
    raise ValueError(f"{folder}: expected {WEIGHTS}.safetensors or .bin in it, found {got}; download one of them")
  if name.endswith(SHARDS):
    return shards(folder / name)
  if name not in [f"{WEIGHTS}{ending}" for ending in ENDINGS]:
    progress.note(f"of the weights in {folder}, {name} is taken")
  return (folder / name,)


def shards(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Return the files that hold the weights by a list of them.

  Raises:
    ValueError: it is no such list.
  """
  index = reading.read_json(path, dict[str, Any], advice=AGAIN)
  names = index.get("weight_map")
  if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
    raise ValueError(f"{path}: expected a weight_map, the file of each tensor, got {shown(names)}; {AGAIN}")
  for name in names.values():
    if pathlib.PurePath(name).name != name:
      raise ValueError(f"{path}: expected names of files beside it, got {shown(name)}; {AGAIN}")
  return tuple(path.parent / name for name in sorted(set(names.values())))


def _scheduler_files(folder: _Path) -> list[_Path]:
  """Return where the scheduler of the network in a folder may be described, the nearest first."""
  places = [folder, folder / "scheduler", folder.parent / "scheduler"]
  if folder.name.startswith("unet"):  # of a training that was stopped, OUTPUT/checkpoint-500/unet
    places.append(folder.parent.parent / "scheduler")
  return [place / SCHEDULER for place in places]


def _find_scheduler(folder: pathlib.Path) -> Scheduler | None:
  path = next((path for path in _scheduler_files(folder) if reading.is_file(path)), None)
  if path is None:
    return None
  try:
    return _scheduler(reading.read_json(path, SchedulerFields, advice=AGAIN))
  except ValueError as error:
    raise error if str(error).startswith(str(path)) else ValueError(f"{path}: {error}") from None


def _scheduler(fields: Mapping[str, Any]) -> Scheduler:
  name = fields.get("_class_name", "DDPMScheduler")
  for start, what in OTHER_SCHEDULERS.items():
    if name.startswith(start):
      raise ValueError(f"expected a scheduler of betas, got {name}, {what}; convert a network of a DDPMScheduler")
  if name == EXPLODING:
    return _exploding(fields)
  if name in FLOWS or fields.get("prediction_type") == FLOW_PREDICTION:
    return _flow(name, fields)
  prediction = _known(fields, "prediction_type", PREDICTIONS, "epsilon")
  variance = "fixed_small"
  if fields.get("variance_type") is not None:
    variance = _known(fields, "variance_type", VARIANCES, "fixed_small")
  clip = fields.get("clip_sample", True) and fields.get("clip_sample_range", 1.0) == 1.0
  return Scheduler(name, _schedule(fields), prediction, variance, clip)


def _exploding(fields: Mapping[str, Any]) -> Scheduler:
  """Return the schedule of x0 + sigma eps, x0 in [0, 1], by sigma / alpha of pictures in [-1, 1], twice as large."""
  ends = tuple(2.0 * fields.get(name, default) for name, default in (("sigma_min", 0.01), ("sigma_max", 1348.0)))
  schedule = Schedule("geometric", fields.get("num_train_timesteps", 2000), ends=ends)
  return Scheduler(EXPLODING, schedule, "ve", "fixed_small", True)


def _flow(name: str, fields: Mapping[str, Any]) -> Scheduler:
  if name not in FLOWS and not fields.get("use_flow_sigmas", False):
    raise ValueError(f"use_flow_sigmas: expected true with the prediction_type {FLOW_PREDICTION!r}, got false")
  if fields.get("use_dynamic_shifting", False):
    progress.note(
      f"the shift of {name} depends on the size of pictures, which changes steps alone; it is taken to be 1"
    )
  steps, dynamic = fields.get("num_train_timesteps", 1000), fields.get("use_dynamic_shifting", False)
  shift = 1.0 if dynamic else float(fields.get("shift" if name in FLOWS else "flow_shift", 1.0))
  prediction = "velocity_to_data" if fields.get("invert_sigmas", False) else "velocity"
  return Scheduler(name, Schedule(FLOW, steps, shift=shift), prediction, "fixed_small", True, float(steps))


def _schedule(fields: Mapping[str, Any]) -> Schedule:
  rescaled = fields.get("rescale_betas_zero_snr", False)
  if fields.get("trained_betas"):
    betas = tuple(map(float, fields["trained_betas"]))
    return Schedule(GIVEN, len(betas), betas=betas, zero_snr=rescaled)
  name, steps = _known(fields, "beta_schedule", BETA_SCHEDULES, "linear"), fields.get("num_train_timesteps", 1000)
  ends = (float(fields.get("beta_start", 1e-4)), float(fields.get("beta_end", 0.02)))
  return Schedule(name, steps, ends=() if name == "cosine" else ends, zero_snr=rescaled)


def _known(fields: Mapping[str, Any], name: str, choices: Mapping[str, str], default: str) -> str:
  value = fields.get(name, default)
  if value not in choices:
    raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {shown(value)}, which is not known here")
  return choices[value]
