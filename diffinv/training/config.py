"""What a training run is asked for: a frozen `TrainConfig`, its checks, and its defaults by network, set and size."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, Self

from diffinv import errors, files, options
from diffinv.data import cache
from diffinv.data.folder import CROPS
from diffinv.options import MAX_SEED, option
from diffinv.priors.description import MAX_BLOCKS, MAX_LEVELS, MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.priors.folder import load_provenance
from diffinv.schedules import BETAS, Schedule
from diffinv.training import step
from diffinv.training.pace import UNKNOWN_STEPS

POSITIVE, LARGE = 1e-9, 1e9  # bounds are allowed values themselves; squares of these are within float32
MAX_STEPS = UNKNOWN_STEPS - 1  # of a run
MAX_BATCH = 65_536  # images a step
MAX_HELD_OUT = 100_000  # images
MAX_WORKERS, MAX_DEVICES = 256, 4096
MAX_CANDIDATES = 64  # places drawn for a crop
YEAR, DAY = 366 * 24 * 60.0, 24 * 3600.0  # minutes; seconds
BELOW_ONE = 1 - 1e-6  # an average with a decay of 1 would never move
MOST_WORKERS = 16  # where `workers` does not say

# Named sets of defaults, the choices of `config`.
CONFIGS: dict[str, dict[str, Any]] = {
  "default": {},
  "photo": {"data": "photographs", "blocks": 1, "middle_blocks": 2, "p_mean": -0.3, "candidates": 3},
  # Less noise was tried: samples lost contrast, because the network ignored much of its input at the highest levels.
  "faces": {"data": "faces", "blocks": 1, "middle_blocks": 3, "attention": True, "flip": False, "p_mean": 0.3},
}

# Defaults of each network, and what images of so many pixels or more change of them.
REFERENCE_SIZE = 64
COMMON = {"blocks": 1, "attention": False, "flip": True, "p_mean": -0.6, "candidates": 1}
DEFAULTS: dict[str, dict[str, Any]] = {
  "small": {"multipliers": (1, 2, 3), "middle_blocks": 2, "patch": 2, "embedding": 192},
  "guided_diffusion": {"multipliers": (1, 2, 3, 4)},
}
# The small network's coarsest level stays at 8x8 positions. The multipliers of guided_diffusion are its authors'
# (`create_model` of openai/guided-diffusion). Noise grows in proportion to the size, for the same effect (Hoogeboom et
# al., "Simple diffusion", ICML 2023).
SIZES: dict[str, dict[int, dict[str, Any]]] = {
  "small": {
    128: {"multipliers": (1, 2, 3, 3), "patch": 2},
    256: {"multipliers": (1, 2, 3, 3), "patch": 4},
    512: {"multipliers": (1, 1, 2, 3, 3), "patch": 4},
  },
  "guided_diffusion": {
    128: {"multipliers": (1, 1, 2, 3, 4)},
    256: {"multipliers": (1, 1, 2, 2, 4, 4)},
  },
}
# Options that a network does not have.
FOREIGN: dict[str, tuple[str, ...]] = {"small": (), "guided_diffusion": ("middle_blocks", "patch", "embedding")}

# Options that came later, and what the runs before them did.
LATER = {"candidates": 1}

# Options that a run takes over from the prior that it starts from: what the network is, and how pictures are scaled.
INHERITED = (
  *("network", "channels", "multipliers", "blocks", "middle_blocks", "patch", "attention", "head_channels"),
  *("embedding", "prediction", "learned_variance", "levels", "schedule", "schedule_steps"),
  *("size", "crop", "max_downscale"),
)

# Options that say how long, how often and on what. They may change when a run goes on; all others may not.
FREE = (
  "steps",
  "minutes",
  "workers",
  "cache_gigabytes",
  "log_every",
  "validate_every",
  "sample_every",
  "devices",
  "save_seconds",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What to train, on what and for how long; see `diffinv.train`.

  A few options are None unless they are given: their defaults depend on the network, on `config` and on the size of the
  images, and `resolved` fills them in.

  Raises:
    UsageError: an option is out of range, or two contradict each other.

  Example:
    >>> import diffinv
    >>> config = diffinv.TrainConfig(data="my_pictures", size=64, minutes=120)
    >>> config.optimizer
    'muon'
  """

  data: str | os.PathLike[str] | None = option(
    None,
    "Folder of images (searched through), 'photographs' (of packages that docs/photos.md names), 'photos' (a dozen, "
    "bundled with scikit-image) or 'faces'.",
  )
  config: str = option("default", "Set of defaults for the flags below.", choices=CONFIGS)
  steps: int | None = option(None, "Steps to take, in all.", low=1, high=MAX_STEPS)
  minutes: float | None = option(
    None,
    "Time to train, minutes. The speed of the first steps fixes how many to take, and each quarter corrects it.",
    low=1e-3,
    high=YEAR,
  )
  seed: int = option(0, "Seed of the weights, the data order and the noise.", low=0, high=MAX_SEED)
  init: str | os.PathLike[str] | None = option(
    None,
    "Prior whose weights to start from: a name or a folder. Its network, its size and how its pictures were scaled "
    "are the defaults then.",
  )

  size: int = option(64, "Edge of the training images, pixels.", low=1, high=MAX_NUMBER)
  crop: str = option(
    "random",
    "For folders: cut anywhere, or scale the shorter side to `size` and cut the center. Either way, pictures smaller "
    "than `size` are enlarged, and grayscale ones become three equal channels.",
    choices=CROPS,
  )
  max_downscale: float = option(
    0.0,
    "For folders: largest random reduction before a random crop, factor, at least 1; 0: up to the whole picture.",
    low=0.0,
    high=float(MAX_NUMBER),
  )
  flip: bool | None = option(None, "For folders and faces: mirror half of the images; `config=faces` does not.")
  augment: float = option(
    1.0,
    "For photographs and photos: strength of changes of exposure and color, 0 for none.",
    low=0.0,
    high=10.0,  # beyond, nothing of a photograph is left
  )
  candidates: int | None = option(
    None,
    "For photographs and photos: places of a picture that are drawn for a crop, which is taken where there is most "
    "detail. Not set: 3 for `config=photo`, else 1.",
    low=1,
    high=MAX_CANDIDATES,
  )
  workers: int | None = option(
    None,
    f"Threads that prepare images. Not set: one for two cores, at least 2, at most {MOST_WORKERS}.",
    low=1,
    high=MAX_WORKERS,
  )
  cache_gigabytes: float = option(
    cache.MOST,
    "Most that decoded pictures may take on the disk, gigabytes, in diffinv below $XDG_CACHE_HOME or ~/.cache; 0: keep "
    "none.",
    low=0.0,
    high=1e6,
  )
  held_out: int = option(80, "Crops of held-out images for the validation, at most.", low=1, high=MAX_HELD_OUT)

  batch_size: int = option(16, "Images a step.", low=1, high=MAX_BATCH)
  accumulate: int = option(1, "Parts that a batch is worked through in, to save memory.", low=1, high=MAX_BATCH)
  optimizer: str = option("muon", "Rule of the steps: Muon for wide kernels, or AdamW for all.", choices=step.RULES)
  learning_rate: float = option(1e-3, "Learning rate after the warm-up.", low=0.0, high=100.0)
  warmup_steps: int = option(200, "Steps of linear warm-up.", low=0, high=MAX_STEPS)
  decay: str = option("cosine", "Decay of the learning rate, to the last step.", choices=step.DECAYS)
  final_fraction: float = option(
    0.01, "Learning rate at the last step, as a part of `learning_rate`.", low=0.0, high=1.0
  )
  weight_decay: float = option(1e-4, "Decoupled weight decay of kernels.", low=0.0, high=1000.0)
  beta1: float = option(0.9, "Adam's decay of the mean gradient.", low=0.0, high=BELOW_ONE)
  beta2: float = option(0.99, "Adam's decay of the squared gradient.", low=0.0, high=BELOW_ONE)
  clip_norm: float = option(1.0, "Largest norm of the gradient.", low=POSITIVE, high=LARGE)
  momentum: float = option(0.95, "Muon's decay of the mean gradient.", low=0.0, high=BELOW_ONE)
  ema_decay: float = option(
    0.999, "Decay a step of the averaged weights, which are the ones that are kept.", low=0.0, high=BELOW_ONE
  )

  prediction: str = option("edm", "What the network predicts.", choices=step.OBJECTIVES)
  levels: str = option("lognormal", "Noise levels: log-normal, or uniform over the schedule.", choices=step.LEVELS)
  p_mean: float | None = option(
    None,
    "Mean of ln(sigma/alpha), for log-normal levels. Not set: -0.3 for `config=photo`, 0.3 for `config=faces`, and "
    "more by ln(size / 64) for images of 128 pixels or more.",
    low=-20.0,  # beyond, all levels are the first or the last of any schedule
    high=20.0,
  )
  p_std: float = option(1.4, "Standard deviation of ln(sigma/alpha), for log-normal levels.", low=0.0, high=20.0)
  wide: float = option(0.1, "Part of log-normal levels drawn log-uniformly over the whole schedule.", low=0.0, high=1.0)
  weighting: str = option("none", "Weights of the levels.", choices=step.WEIGHTINGS)
  min_snr_gamma: float = option(
    5.0, "Largest signal-to-noise ratio that counts, for min_snr.", low=POSITIVE, high=LARGE
  )
  learned_variance: bool = option(False, "Learn the reverse variance too; needs `levels=uniform`.")
  vlb_weight: float = option(1e-3, "Weight of the variational term, for `learned_variance`.", low=0.0, high=1000.0)
  schedule: str = option("linear", "Noise schedule of the prior.", choices=BETAS)
  schedule_steps: int = option(1000, "Steps of the noise schedule.", low=2, high=MAX_SCHEDULE_STEPS)

  network: str = option("small", "Network to train; a new one, or that of `init`.", choices=SIZES)
  channels: int = option(64, "Channels of the network at its finest level.", low=1, high=MAX_NUMBER)
  multipliers: tuple[int, ...] | None = option(
    None,
    "Channels of each level over `channels`, finest first. Not set: more levels for images of 128 pixels or more, and "
    "for guided_diffusion.",
    low=1,
    high=MAX_NUMBER,
  )
  blocks: int | None = option(None, "Residual blocks a level, each way.", low=1, high=MAX_BLOCKS["blocks"])
  middle_blocks: int | None = option(
    None,
    "Residual blocks at the coarsest level of small; 3 for `config=faces`.",
    low=1,
    high=MAX_BLOCKS["middle_blocks"],
  )
  patch: int | None = option(
    None,
    "Edge of the square of pixels that is one position of small. Not set: 4 for images of 256 pixels or more.",
    low=1,
    high=MAX_NUMBER,
  )
  attention: bool | None = option(
    None,
    "Attention at the coarsest level: for images of one size only; `config=faces` has it.",
  )
  head_channels: int = option(64, "Channels of a head of attention.", low=1, high=MAX_NUMBER)
  embedding: int | None = option(None, "Width of the embedding of small's noise level.", low=4, high=MAX_NUMBER)
  dtype: str = option("float32", "Precision of the convolutions.", choices=("float32", "bfloat16"))

  log_every: int = option(20, "Steps between lines of the log.", low=1, high=MAX_STEPS)
  validate_every: int = option(
    0, "Steps between validations; 0: a twelfth of the run, at least 100.", low=0, high=MAX_STEPS
  )
  sample_every: int = option(0, "Steps between sample grids; 0: a quarter of the run.", low=0, high=MAX_STEPS)
  devices: int | None = option(
    None, "Local devices to train on; on a CPU, cores. Not set: all there are.", low=1, high=MAX_DEVICES
  )
  save_seconds: float = option(120.0, "Time between checkpoints, seconds.", low=0.0, high=DAY)

  def __post_init__(self):
    if isinstance(self.multipliers, list):
      object.__setattr__(self, "multipliers", tuple(self.multipliers))
    options.check(self)
    if self._unset():
      self.resolved()  # where the checks below are made
      return
    for check in (_check_data, _check_length, _check_multipliers, _check_size, _check_heads, _check_levels):
      check(self)

  def _unset(self) -> dict[str, Any]:
    """Return the defaults of the options that are None, where there are any, by name."""
    preset, known = CONFIGS[self.config], {**COMMON, **DEFAULTS[self.network]}
    asked = {**known, **{name: value for name, value in preset.items() if name in known or name == "data"}}
    asked |= _by_size(self.network, self.size, asked["p_mean"])
    return {name: value for name, value in asked.items() if getattr(self, name) is None}

  def resolved(self) -> Self:
    """Return it with every default filled in; what its network does not have remains None."""
    return dataclasses.replace(self, **self._unset())

  def settings(self) -> dict[str, Any]:
    """Return what the weights depend on, by name, as `run.json` and `prior.json` keep it: all but FREE, resolved."""
    return files.plain({name: v for name, v in options.settings(self.resolved()).items() if name not in FREE})

  @classmethod
  def of_prior(cls, provenance: Mapping[str, Any]) -> Self:
    """Return the configuration of the run that made a prior, from the provenance in its `prior.json`.

    Raises:
      ValueError: the provenance is not that of a training run.
    """
    if not isinstance(provenance.get("settings"), Mapping):
      raise ValueError("provenance: expected that of a prior that `diffinv train` made, got another")
    known = {name: v for name, v in renamed(provenance["settings"]).items() if name in options.options(cls)}
    return cls(**{**known, "steps": provenance.get("steps", 1), "devices": None})

  @classmethod
  def begun_from(cls, init: str | os.PathLike[str], **given: Any) -> Self:
    """Return a configuration that starts from the weights of a prior: of the options of INHERITED that are not `given`.

    Args:
      init: the prior, a name or a folder.
      **given: options, which go before those of the run that made the prior.

    Raises:
      UsageError: an option is out of range.
    """
    return cls(**{**_inherited(init, given), **given, "init": init})

  @property
  def source(self) -> str:
    """Where the images come from: a set of the package, or a folder."""
    return os.fspath(self.data or "")

  def objective(self) -> step.Objective:
    """Return what the network learns."""
    return step.Objective(**{**shared(step.Objective, self), "schedule": self.noise_schedule()})

  def rule(self) -> step.Optimizer:
    """Return how it learns."""
    return step.Optimizer(rule=self.optimizer, **shared(step.Optimizer, self))

  def noise_schedule(self) -> Schedule:
    """Return the noise schedule of the prior."""
    return Schedule(self.schedule, self.schedule_steps)


def _inherited(init: str | os.PathLike[str], given: Mapping[str, Any]) -> dict[str, Any]:
  """Return what the run that made a prior says of the options of INHERITED; nothing of a network that is not asked."""
  made = None
  with contextlib.suppress(FileNotFoundError, ValueError):  # `network.check_init` will tell
    made = load_provenance(init).get("settings")
  known = renamed(made) if isinstance(made, Mapping) else {}
  if given.get("network", known.get("network")) != known.get("network"):
    return {}
  return {name: known[name] for name in INHERITED if name in known}


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return the settings of a run as they are called now; those of older runs have other names, and no network."""
  named = {"optimizer" if name == "optimiser" else name: value for name, value in settings.items()}
  return {**LATER, "network": "small", **named}


def shared(cls: type, config: TrainConfig) -> dict[str, Any]:
  """Return the options that fields of the dataclass `cls` are named after."""
  given = options.settings(config)
  return {field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given}


def _by_size(network: str, size: int, p_mean: float) -> dict[str, Any]:
  """Return what the size of the images changes of the defaults: the largest entry of SIZES whose network takes them.

  Args:
    network: of SIZES.
    size: pixels along an edge.
    p_mean: that of images of REFERENCE_SIZE.
  """
  for least, shape in sorted(SIZES[network].items(), reverse=True):
    if size >= least and size % size_multiple(shape["multipliers"], shape.get("patch")) == 0:
      return {**shape, "p_mean": round(p_mean + math.log(size / REFERENCE_SIZE), 3)}
  return {}


def size_multiple(multipliers: tuple[int, ...], patch: int | None) -> int:
  """Return of what the edges of images must be a multiple, pixels: each level but the first halves them."""
  return (patch or 1) * 2 ** (len(multipliers) - 1)


def _check_data(c: TrainConfig) -> None:
  if not c.data:
    raise errors.UsageError("`data`: expected a value, got none; pass `data=...`")


def _check_length(c: TrainConfig) -> None:
  if (c.steps is None) == (c.minutes is None):
    raise errors.UsageError("`steps`: expected one of `steps` and `minutes`, got both or none")


def _check_multipliers(c: TrainConfig) -> None:
  given: Any = c.multipliers
  numbers = given if isinstance(given, tuple) else ()
  if not 1 <= len(numbers) <= MAX_LEVELS or not all(type(n) is int and 1 <= n <= MAX_NUMBER for n in numbers):
    came = (",".join(map(str, given)) or "none") if isinstance(given, tuple) else given
    expected = f"1 to {MAX_LEVELS} whole numbers from 1 to {MAX_NUMBER:,}"
    raise errors.UsageError(f"`multipliers`: expected {expected}, got {came}")


def _check_size(c: TrainConfig) -> None:
  for name in FOREIGN[c.network]:
    if getattr(c, name) is not None:
      raise errors.UsageError(
        f"`{name}`: expected none for `network={c.network}`, which has no such option, got {getattr(c, name)}; leave "
        "it out"
      )
  multiple = size_multiple(c.multipliers or (), c.patch)
  if c.size < multiple or c.size % multiple:
    raise errors.UsageError(f"`size`: expected a multiple of {multiple} for this network, got {c.size}")
  if 0 < c.max_downscale < 1:
    raise errors.UsageError(f"`max_downscale`: expected 0, or 1 or more, got {c.max_downscale:g}")


def _check_heads(c: TrainConfig) -> None:
  coarsest = c.channels * (c.multipliers or (1,))[-1]
  attends = c.attention or c.network == "guided_diffusion"  # whose middle always does
  if attends and coarsest % c.head_channels:
    whose = "" if c.network == "guided_diffusion" else ", for `attention`"
    raise errors.UsageError(
      f"`head_channels`: expected a divisor of the {coarsest} channels of the coarsest level{whose}, got "
      f"{c.head_channels}; change it or `channels`"
    )


def _check_levels(c: TrainConfig) -> None:
  if c.learned_variance and c.levels != "uniform":
    raise errors.UsageError("`learned_variance`: expected `levels=uniform` with it, got log-normal ones")
  with errors.usage():
    c.noise_schedule().alpha_bar()  # tells too few steps
