"""Train a prior on a folder of images, on the bundled photographs or on procedural faces.

usage: diffinv train --data=FOLDER|photos|faces --output=checkpoints/NAME (--minutes=M | --steps=N) [--config=NAME]

Everything a run needs to go on, but the images and the prior of --init, is in the folder OUTPUT.training: run the same
command again after a stop, and it continues to exactly the weights that it would have had (on a GPU up to rounding, but
for XLA_FLAGS=--xla_gpu_deterministic_ops=true). It holds log.jsonl, sample grids and the checkpoints too.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffinv import errors, output, progress, sampler
from diffinv.apps import common
from diffinv.apps import main as main_module
from diffinv.batch import AXIS
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.data import images, sheet
from diffinv.methods.unconditional import DPMSolver
from diffinv.nets import small
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.schedules import BETAS, Schedule
from diffinv.training import step as train

FLAGS = flags.FlagValues()
_string, _integer, _float, _boolean, _enum, _list = (
  functools.partial(define, flag_values=FLAGS)
  for define in (
    flags.DEFINE_string,
    flags.DEFINE_integer,
    flags.DEFINE_float,
    flags.DEFINE_boolean,
    flags.DEFINE_enum,
    flags.DEFINE_list,
  )
)

# What --config changes of the defaults; flags that are given win.
CONFIGS = {
  "default": {},
  "photo": {"data": "photos", "blocks": 1, "middle_blocks": 2, "p_mean": -0.3},
  # Less noise was tried: samples lost contrast, as the network said too little of what it saw at the highest levels.
  "faces": {"data": "faces", "blocks": 1, "middle_blocks": 3, "attention": True, "flip": False, "p_mean": 0.3},
}

# Defaults by the size of the images, from so many pixels on; smaller ones are as 64. The coarsest level stays at 8x8
# positions, and noise grows in proportion, for the same effect (Hoogeboom et al., "Simple diffusion", ICML 2023).
REFERENCE_SIZE = 64
SIZES = {
  128: {"multipliers": ["1", "2", "3", "3"], "patch": 2},
  256: {"multipliers": ["1", "2", "3", "3"], "patch": 4},
  512: {"multipliers": ["1", "1", "2", "3", "3"], "patch": 4},
}

MOST_WORKERS = 16  # where --workers does not say
UNKNOWN_STEPS = 2**30  # the length of a run whose speed is still being measured: no decay yet
POSITIVE = 1e-9  # bounds of flags count themselves in
BELOW_ONE = 1 - 1e-6  # of averages that would never move

DATA = _string("data", None, "Folder of images (searched through), 'photos' (bundled with scikit-image) or 'faces'.")
OUTPUT = _string("output", None, "Prior folder to write; OUTPUT.training beside it holds the run itself.")
CONFIG = _enum("config", "default", list(CONFIGS), "Set of defaults for the flags below.")
STEPS = _integer("steps", None, "Steps to take, in all.", lower_bound=1, upper_bound=UNKNOWN_STEPS - 1)
MINUTES = _float(
  "minutes",
  None,
  "Time to train, minutes: fixes the number of steps by the speed of the first ones, then by that of each quarter.",
)
SEED = _integer(
  "seed", 0, "Seed of the weights, the data order and the noise.", lower_bound=0, upper_bound=common.MAX_SEED
)
INIT = _string(
  "init", None, "Prior whose weights to start from: a name or a folder, of the same network and prediction."
)
RESTART = _boolean("restart", False, "Throw away what OUTPUT.training holds and start again.")
OVERWRITE = _boolean("overwrite", False, "Replace an existing prior folder at the end.")

SIZE = _integer("size", 64, "Edge of the training images, pixels.")
CROP = _enum(
  "crop",
  "random",
  list(folder_data.CROPS),
  "For folders: cut anywhere, or scale the shorter side to --size and cut the center. Either way, pictures smaller "
  "than --size are enlarged, and grayscale ones become three equal channels.",
)
MAX_DOWNSCALE = _float(
  "max_downscale",
  0.0,
  "For folders: largest random reduction before a random crop, factor, at least 1; 0: up to the whole picture.",
  lower_bound=0.0,
)
FLIP = _boolean("flip", True, "For folders and faces: mirror half of the images.")
AUGMENT = _float(
  "augment",
  1.0,
  "For photos: strength of changes of exposure and color, 0 for none.",
  lower_bound=0.0,
  upper_bound=10.0,  # beyond, nothing of a photograph is left
)
WORKERS = _integer(
  "workers",
  None,
  f"Threads that prepare images. Not set: one for two cores, at least 2, at most {MOST_WORKERS}.",
  lower_bound=1,
)
HELD_OUT = _integer("held_out", 80, "Crops of held-out images for the validation, at most.", lower_bound=1)

BATCH_SIZE = _integer("batch_size", 16, "Images a step.", lower_bound=1)
ACCUMULATE = _integer("accumulate", 1, "Parts that a batch is worked through in, to save memory.", lower_bound=1)
OPTIMIZER = _enum("optimizer", "muon", list(train.RULES), "Rule of the steps: Muon for wide kernels, or AdamW for all.")
LEARNING_RATE = _float("learning_rate", 1e-3, "Learning rate after the warm-up.", lower_bound=0.0)
WARMUP = _integer("warmup_steps", 200, "Steps of linear warm-up.", lower_bound=0)
DECAY = _enum("decay", "cosine", list(train.DECAYS), "Decay of the learning rate, to the last step.")
FINAL_FRACTION = _float(
  "final_fraction",
  0.01,
  "Learning rate at the last step, as a part of --learning_rate.",
  lower_bound=0.0,
  upper_bound=1.0,
)
WEIGHT_DECAY = _float("weight_decay", 1e-4, "Decoupled weight decay of kernels.", lower_bound=0.0)
BETA1 = _float("beta1", 0.9, "Adam's decay of the mean gradient.", lower_bound=0.0, upper_bound=BELOW_ONE)
BETA2 = _float("beta2", 0.99, "Adam's decay of the squared gradient.", lower_bound=0.0, upper_bound=BELOW_ONE)
CLIP_NORM = _float("clip_norm", 1.0, "Largest norm of the gradient.", lower_bound=POSITIVE)
MOMENTUM = _float("momentum", 0.95, "Muon's decay of the mean gradient.", lower_bound=0.0, upper_bound=BELOW_ONE)
EMA_DECAY = _float(
  "ema_decay",
  0.999,
  "Decay a step of the averaged weights, which are the ones that are kept.",
  lower_bound=0.0,
  upper_bound=BELOW_ONE,
)

PREDICTION = _enum("prediction", "edm", list(train.OBJECTIVES), "What the network predicts.")
LEVELS = _enum("levels", "lognormal", list(train.LEVELS), "Noise levels: log-normal, or uniform over the schedule.")
P_MEAN = _float(
  "p_mean", -0.6, "Mean of ln(sigma/alpha), for log-normal levels. Not set, images of 128 on: more by ln(size / 64)."
)
P_STD = _float("p_std", 1.4, "Standard deviation of ln(sigma/alpha), for log-normal levels.", lower_bound=0.0)
WIDE = _float(
  "wide",
  0.1,
  "Part of log-normal levels drawn log-uniformly over the whole schedule.",
  lower_bound=0.0,
  upper_bound=1.0,
)
WEIGHTING = _enum("weighting", "none", list(train.WEIGHTINGS), "Weights of the levels.")
MIN_SNR_GAMMA = _float(
  "min_snr_gamma", 5.0, "Largest signal-to-noise ratio that counts, for min_snr.", lower_bound=POSITIVE
)
LEARNED_VARIANCE = _boolean("learned_variance", False, "Learn the reverse variance too; needs --levels=uniform.")
VLB_WEIGHT = _float("vlb_weight", 1e-3, "Weight of the variational term, for --learned_variance.", lower_bound=0.0)
SCHEDULE = _enum("schedule", "linear", list(BETAS), "Noise schedule of the prior.")
SCHEDULE_STEPS = _integer(
  "schedule_steps",
  1000,
  "Steps of the noise schedule.",
  lower_bound=2,
  upper_bound=checkpoint.MAX_SCHEDULE_STEPS,
)

CHANNELS = _integer("channels", 64, "Channels of the network at its finest level.", lower_bound=1)
MULTIPLIERS = _list(
  "multipliers",
  ["1", "2", "3"],
  "Channels of each level over --channels, finest first. Not set, images of 128 on: more levels.",
)
BLOCKS = _integer("blocks", 1, "Residual blocks a level, each way.", lower_bound=1)
MIDDLE_BLOCKS = _integer("middle_blocks", 2, "Residual blocks at the coarsest level.", lower_bound=1)
PATCH = _integer(
  "patch",
  2,
  "Edge of the square of pixels that is one position of the network. Not set, images of 256 on: 4.",
  lower_bound=1,
)
ATTENTION = _boolean("attention", False, "Attention at the coarsest level: for images of one size only.")
HEAD_CHANNELS = _integer("head_channels", 64, "Channels of a head of attention.", lower_bound=1)
EMBEDDING = _integer("embedding", 192, "Width of the embedding of the noise level.", lower_bound=4)
DTYPE = _enum("dtype", "float32", ["float32", "bfloat16"], "Precision of the convolutions.")

LOG_EVERY = _integer("log_every", 20, "Steps between lines of the log.", lower_bound=1)
VALIDATE_EVERY = _integer(
  "validate_every", 0, "Steps between validations; 0: a twelfth of the run, at least 100.", lower_bound=0
)
SAMPLE_EVERY = _integer("sample_every", 0, "Steps between sample grids; 0: a quarter of the run.", lower_bound=0)
DEVICES = _integer(
  "devices", None, "Local devices to train on; on a CPU, cores. Not set: all there are.", lower_bound=1
)
SAVE_SECONDS = _float("save_seconds", 120.0, "Time between checkpoints, seconds.", lower_bound=0.0)

# Flags that say where, how long and how often, and not what is computed: they may change when a run goes on.
FREE = (
  "output",
  "steps",
  "minutes",
  "restart",
  "overwrite",
  "workers",
  "log_every",
  "sample_every",
  "save_seconds",
  "devices",
)

MEASURED_STEPS = 20  # of which the speed fixes the number of steps of --minutes; fewer than any sensible warm-up
OVERHEAD = 0.04  # part of the time that goes into validation, samples and checkpoints, before that is known
MOST_SKIPPED = 100  # steps in a row: such a run has diverged
FASTER = "--workers=N takes more threads, --crop=resize or smaller files take less work"
VALIDATION_SBARS = (0.1, 0.3, 1.0, 3.0)
SAMPLES, SAMPLE_STEPS = 16, 20  # steps even in log-SNR
PLAN, LOG, GRIDS, STATE, BEST = "run.json", "log.jsonl", "samples", "last", "best"  # of OUTPUT.training
NETWORK = "small"  # of checkpoint.NETWORKS
# The held-out crops and renders and their noise are the same whatever the seed: validation losses of two runs compare.
HELD_OUT_SEED = 0
NEVER = 10**9  # passes through a folder, which no run takes: the crops there are not those that it trains on


def settings_from_flags() -> dict[str, Any]:
  """Return the value of every flag by name, after --config.

  Raises:
    UsageError: flags are missing or contradict each other.
  """
  config = CONFIGS[FLAGS.config]
  preset = {**config, **size_defaults(FLAGS.size, config.get("p_mean", FLAGS["p_mean"].default))}
  names = [flag.name for flag in FLAGS.get_flags_for_module(sys.modules[__name__])]
  settings = {n: preset[n] if n in preset and not FLAGS[n].present else FLAGS[n].value for n in names}
  for name in ("data", "output"):
    if not settings[name]:
      raise errors.UsageError(f"{name}: expected a value, got none; pass --{name}=...")
  if (settings["steps"] is None) == (settings["minutes"] is None):
    raise errors.UsageError("steps: expected one of --steps and --minutes, got both or none")
  for name in names:
    if FLAGS[name].flag_type() == "float":
      common.finite(FLAGS, name)
  if settings["minutes"] is not None and settings["minutes"] <= 0:
    raise errors.UsageError(f"minutes: expected a positive time, got {settings['minutes']:g}")
  if 0 < settings["max_downscale"] < 1:
    raise errors.UsageError(f"max_downscale: expected 0, or 1 or more, got {settings['max_downscale']:g}")
  settings["workers"] = settings["workers"] or min(max(2, (os.cpu_count() or 2) // 2), MOST_WORKERS)
  settings["multipliers"] = _multipliers(settings["multipliers"])
  _check_network(settings)
  if settings["learned_variance"] and settings["levels"] != "uniform":
    raise errors.UsageError("learned_variance: expected --levels=uniform with it, got log-normal ones")
  with errors.usage():
    Schedule(settings["schedule"], settings["schedule_steps"]).alpha_bar()  # tells too few steps
  common.split_cpu(settings["devices"])
  parts = settings["accumulate"] * common.batch_mesh(settings["devices"]).size
  if settings["batch_size"] % parts:
    raise errors.UsageError(
      f"batch_size: expected a multiple of {parts} (devices times --accumulate), got {settings['batch_size']}"
    )
  return settings


def size_defaults(size: int, p_mean: float) -> dict[str, Any]:
  """Return what images of `size` pixels change of the defaults: of the largest of SIZES whose network takes them.

  Args:
    size: pixels along an edge.
    p_mean: that of images of REFERENCE_SIZE.
  """
  for least, shape in sorted(SIZES.items(), reverse=True):
    if size >= least and size % (shape["patch"] * 2 ** (len(shape["multipliers"]) - 1)) == 0:
      return {**shape, "p_mean": round(p_mean + math.log(size / REFERENCE_SIZE), 3)}
  return {}


def _multipliers(texts: list[str]) -> list[int]:
  numbers = [int(text) for text in texts if text.isdecimal()]
  if not numbers or min(numbers) < 1 or not len(texts) == len(numbers) <= checkpoint.MAX_LEVELS:
    raise errors.UsageError(
      f"multipliers: expected 1 to {checkpoint.MAX_LEVELS} whole numbers from 1 on, got {','.join(texts) or 'none'}"
    )
  return numbers


def _check_network(s: dict[str, Any]) -> None:
  multiple = s["patch"] * 2 ** (len(s["multipliers"]) - 1)
  if s["size"] < multiple or s["size"] % multiple:
    raise errors.UsageError(f"size: expected a multiple of {multiple} for this network, got {s['size']}")
  coarsest = s["channels"] * s["multipliers"][-1]
  if s["attention"] and coarsest % s["head_channels"]:
    raise errors.UsageError(
      f"head_channels: expected a divisor of the {coarsest} channels of the coarsest level, for --attention, got "
      f"{s['head_channels']}; change it or --channels"
    )


def network_config(s: dict[str, Any]) -> small.SmallConfig:
  """Return the shape of the network."""
  shape = _shared(small.SmallConfig, s)
  time_scale = 1.0 if s["prediction"] == "edm" else 2.0 / s["schedule_steps"]
  shape |= {"multipliers": tuple(s["multipliers"]), "out_channels": 6 if s["learned_variance"] else 3}
  return small.SmallConfig(**shape, time_scale=time_scale)


def objective(s: dict[str, Any]) -> train.Objective:
  """Return what the network learns."""
  return train.Objective(**_shared(train.Objective, s) | {"schedule": Schedule(s["schedule"], s["schedule_steps"])})


def optimizer(s: dict[str, Any]) -> train.Optimizer:
  """Return how it learns."""
  return train.Optimizer(rule=s["optimizer"], **_shared(train.Optimizer, s))


def _shared(cls: type, s: dict[str, Any]) -> dict[str, Any]:
  """Return the settings that fields of the class `cls` are named after."""
  return {field.name: s[field.name] for field in dataclasses.fields(cls) if field.name in s}


class Data(NamedTuple):
  """Where batches come from."""

  stream: Callable[[int, int], Iterator[Any]]  # (first step, last step + 1) -> batches, uint8 or [-1, 1]
  held_out: np.ndarray  # [n, size, size, 3], [-1, 1]
  held_out_files: list[str]  # that no training image is of; of a folder, `held_out` begins with one crop of each
  skipped: Callable[[], dict[str, str]]  # files that could not be read, and why
  ahead: int = 0  # batches that are prepared before they are asked for


def open_data(s: dict[str, Any], report: Callable[[str], None]) -> Data:
  """Open the training data; `report` is called with a line for what is worth knowing of a folder.

  Raises:
    ValueError: there are no such images, none can be read, or they are too small.
  """
  if s["data"] == "faces":
    return _faces(s)
  return _photos(s) if s["data"] == "photos" else _folder(s, report)


def _photos(s: dict[str, Any]) -> Data:
  from diffinv.data import photos

  source = photos.Photos(size=s["size"], seed=s["seed"], augment=s["augment"])
  held_out = photos.held_out_crops(s["size"])[: s["held_out"]]
  stream = functools.partial(folder_data.stream, source, s["batch_size"], workers=s["workers"])
  return Data(stream, images.from_uint8(held_out), list(photos.HELD_OUT), dict, folder_data.ahead(s["workers"]))


def _folder(s: dict[str, Any], report: Callable[[str], None]) -> Data:
  names = folder_data.list_images(s["data"])
  make = functools.partial(
    folder_data.Folder,
    s["data"],
    size=s["size"],
    how=s["crop"],
    max_downscale=s["max_downscale"],
    report=report,
  )
  everything = make(names, seed=HELD_OUT_SEED, flip=False)
  training, kept = folder_data.split(names, s["held_out"], everything.readable)
  # Of a few files none can be held out: other crops of them are better than no validation at all.
  held_source, first = (make(kept, seed=HELD_OUT_SEED, flip=False), 0) if kept else (everything, NEVER * len(names))
  files = len(kept or names)
  each = 1 if s["crop"] == "resize" else max(1, s["held_out"] // files)  # a level of noise a crop: a few are too few
  held_out = np.stack([held_source.item(first + i) for i in range(min(each * files, s["held_out"]))])
  of = f"{len(kept)} of them held out" if kept else "none held out"
  whose = "" if kept else " of the training images"
  report(f"data: {len(names)} files, {of}: the validation is on {len(held_out)} crops{whose}")
  source = make(training, seed=s["seed"], flip=s["flip"], corrupt=everything.corrupt)
  stream = functools.partial(folder_data.stream, source, s["batch_size"], workers=s["workers"])
  return Data(stream, images.from_uint8(held_out), kept, lambda: source.corrupt, folder_data.ahead(s["workers"]))


def _faces(s: dict[str, Any]) -> Data:
  from diffinv.data import faces

  # By a split each: no seed's training key is the held-out one.
  training_key, _ = jax.random.split(jax.random.key(s["seed"]))
  _, held_out_key = jax.random.split(jax.random.key(HELD_OUT_SEED))
  size, count = s["size"], s["batch_size"]

  # Mirrored by another key than `faces.render_unsided` has it: runs go on with the pictures that they began with.
  @functools.partial(jax.jit, static_argnums=2)
  def portraits(key, first, number):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(number, dtype=jnp.uint32))
    drawn = jax.vmap(lambda k: faces.render(k, size))(keys)
    mirrored = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 1)))(keys) & s["flip"]
    return jnp.where(mirrored[:, None, None, None], drawn[:, :, ::-1], drawn)

  def stream(start, stop):
    for step in range(start, stop):
      yield portraits(training_key, jnp.uint32(step * count), count)

  held_out = [np.asarray(portraits(held_out_key, jnp.uint32(i), count)) for i in range(0, s["held_out"], count)]
  return Data(stream, np.concatenate(held_out)[: s["held_out"]], [], dict)


class Functions(NamedTuple):
  """The compiled parts of a run."""

  init: Callable  # () -> TrainState
  step: Callable  # (state, x0, total steps) -> (state, metrics)
  validate: Callable  # (params) -> Validation
  sample: Callable  # (params) -> [SAMPLES, h, w, 3]
  place: Callable  # a batch of the host or the device -> sharded over the devices


def build(s: dict[str, Any], held_out: np.ndarray) -> Functions:
  """Build the functions of a run, data-parallel over its devices."""
  mesh = common.batch_mesh(s["devices"])
  sharded, replicated = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
  config, goal, how = network_config(s), objective(s), optimizer(s)
  on_cpu = jax.default_backend() == "cpu"
  network = small.SmallNet(config).apply
  weights_key, run_key, _, sample_key = jax.random.split(jax.random.key(s["seed"]), 4)
  validation_key = jax.random.split(jax.random.key(HELD_OUT_SEED), 4)[2]  # not [1], by which `_faces` renders

  # Each device by itself: a loop over images, which kernels' gradients are on CPUs, would fetch all images to each.
  apart = jax.shard_map(network, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P(AXIS), check_vma=False)

  def step(state, x0, total):
    x0 = images.from_uint8(x0) if x0.dtype == jnp.uint8 else x0
    return train.train_step(state, run_key, x0, total, network=apart, objective=goal, optimizer=how)

  def in_parts(params, x, t):  # of as many images as a step has at once: the held-out ones may be more than fit
    one = lambda pair: network(params, pair[0][None], pair[1][None])[0]
    return jax.lax.map(one, (x, t), batch_size=s["batch_size"] // s["accumulate"])

  def validate(params, held_out):
    return train.validate(
      params,
      validation_key,
      held_out,
      jnp.asarray(VALIDATION_SBARS, jnp.float32),
      network=in_parts,
      objective=goal,
    )

  shape = (s["size"], s["size"], 3)
  grid = goal.schedule.grid(f"logsnr{min(SAMPLE_STEPS, goal.schedule.num_steps)}")

  def sample(params):
    prior = make_prior(params, s)
    draw = lambda key: sampler.sample(key, DPMSolver(shape=shape), prior, None, grid)[0]
    return jax.vmap(draw)(jax.random.split(sample_key, SAMPLES))

  start = jax.jit(lambda params: train.init_state(params, how), out_shardings=replicated)
  # A host array may alias the state's memory while a checkpoint of it is being written: no donation on CPUs.
  jit_step = jax.jit(step, donate_argnums=() if on_cpu else 0, out_shardings=replicated)
  # The devices of a CPU share one pool of threads: work of two steps at once there can wait for itself for ever.
  in_turn = jax.block_until_ready if on_cpu and mesh.size > 1 else lambda x: x
  return Functions(
    init=lambda: start(jax.device_put(first_weights(s, weights_key), replicated)),
    step=lambda state, x0, total: in_turn(jit_step(state, x0, np.float32(total))),
    validate=functools.partial(jax.jit(validate), held_out=jax.device_put(held_out, replicated)),
    sample=sample,
    place=lambda batch: in_turn(jax.device_put(batch, sharded)),
  )


def first_weights(s: dict[str, Any], key: jax.Array) -> Any:
  """Return new parameters, or those of the prior that --init names; see `check_init`."""
  if s["init"] is None:
    return small.initialize(key, network_config(s))
  return checkpoint.load_prior(s["init"]).params


def check_init(s: dict[str, Any]) -> None:
  """Check that the prior that --init names has the network of the flags, trained for their prediction.

  Raises:
    UsageError: it has not, or is analytic, or its prior.json is damaged.
    FileNotFoundError: there is no such prior.
  """
  if s["init"] is None:
    return
  try:
    description, config = checkpoint.load_description(s["init"])
  except ValueError as error:
    raise errors.UsageError(f"init: {error}") from None
  kind, learned = description["network"]["name"], description["variance"] == "learned_range"
  theirs = {"network": kind, "prediction": description["prediction"], "learned_variance": learned}
  ours = {"network": NETWORK, "prediction": s["prediction"], "learned_variance": s["learned_variance"]}
  if kind == NETWORK:
    theirs |= dataclasses.asdict(config)
    ours |= dataclasses.asdict(network_config(s))
  for name, value in ours.items():
    idle = name in checkpoint.RUNTIME or (name == "head_channels" and not s["attention"])
    if value != theirs[name] and not idle:
      raise errors.UsageError(
        f"init: expected a prior of the flags' {name}, {value!r}, {s['init']} has {theirs[name]!r}; choose another "
        "prior, or other flags"
      )


def make_prior(params: Any, s: dict[str, Any]) -> Prior:
  """Return the network as a prior."""
  config = network_config(s)
  return Prior(
    params=params,
    apply=small.apply_function(config),
    schedule=Schedule(s["schedule"], s["schedule_steps"]),
    prediction=s["prediction"],
    variance="learned_range" if s["learned_variance"] else "fixed_small",
    image_shape=(s["size"], s["size"], 3) if s["attention"] else (None, None, 3),
    size_multiple=config.size_multiple,
  )


def training_folder(s: dict[str, Any]) -> pathlib.Path:
  """Return OUTPUT.training."""
  return pathlib.Path(s["output"].rstrip("/") + ".training").resolve()


def check_place(s: dict[str, Any]) -> None:
  """Check that OUTPUT.training holds a run or nothing, and that no training image is in it or will be.

  Raises:
    UsageError: it lies in the folder of --data, or that in it.
    FileExistsError: it holds something else, which --restart would remove.
  """
  folder, prior = training_folder(s), pathlib.Path(s["output"]).resolve()
  if s["data"] not in held_out_data.SETS:
    data = pathlib.Path(s["data"]).resolve()
    if data == prior or prior in data.parents:
      raise errors.UsageError(
        f"output: expected a place apart from --data={s['data']}, which --overwrite would remove; choose another"
      )
    if data == folder or folder in data.parents or data in folder.parents:
      raise errors.UsageError(
        f"output: expected a place apart from --data={s['data']}, as samples of the run go into {folder}; choose "
        "another --output"
      )
  if not folder.is_dir():
    return
  ours = (PLAN, LOG, GRIDS, STATE, BEST, output.LOCK)
  others = [path.name for path in folder.iterdir() if path.name not in ours and not output.is_half_written(path)]
  begun = (folder / PLAN).is_file()
  others += [] if begun else [f"{GRIDS}/{path.name}" for path in (folder / GRIDS).glob("*")]
  if others and (s["restart"] or not begun):
    raise FileExistsError(
      f"output: expected {folder} to hold a run and nothing else, it holds {sorted(others)[0]}; move that elsewhere, "
      "or choose another --output"
    )


def make_plan(s: dict[str, Any]) -> dict[str, Any]:
  """Return the plan of the run: of the one that OUTPUT.training holds, or of a new one.

  Returns:
    "settings", that what is computed depends on; "total_steps" and "validate_every", None while not fixed; "commit" of
    the code that has a part in it; "init", the provenance of the weights that it begins with, or None.

  Raises:
    UsageError: OUTPUT.training holds a run of other settings.
  """
  fixed = output.plain({k: v for k, v in s.items() if k not in FREE and k != "validate_every"})
  if s["data"] in held_out_data.SETS:
    common.note_set(s["data"])
  else:
    fixed["files"] = folder_data.fingerprint(s["data"])
  devices = common.batch_mesh(s["devices"]).devices
  fixed["devices"] = f"{devices.size} {devices[0].device_kind}"
  commit, before = _commit(), None if s["init"] is None else checkpoint.load_provenance(s["init"])
  plan = {"settings": fixed, "total_steps": None, "validate_every": None, "commit": commit, "init": before}
  file = training_folder(s) / PLAN
  if file.exists() and not s["restart"]:
    plan |= json.loads(file.read_text())
    _check_settings(plan["settings"], fixed, file.parent)
    if str(commit) not in str(plan["commit"]):
      plan["commit"] = f"{plan['commit']}, {commit}"
  return _fixed(plan, _total_steps(plan["total_steps"], s), s["validate_every"])


def _check_settings(begun: dict[str, Any], fixed: dict[str, Any], folder: pathlib.Path) -> None:
  old = {"files": fixed.get("files"), **begun}  # where older runs do not say
  for name in sorted({*old, *fixed}):
    if name == "devices" or old.get(name) == fixed.get(name):
      continue
    if name == "files":
      raise errors.UsageError(
        f"data: the images in {fixed['data']} are not those with which the run in {folder} began; give it these "
        "again, or start again with --restart"
      )
    raise errors.UsageError(
      f"{name}: expected {old.get(name)!r}, with which the run in {folder} began, got {fixed.get(name)!r}; "
      "choose another --output or start again with --restart"
    )
  if old["devices"] != fixed["devices"]:
    print(f"note: the run began on {old['devices']}, goes on on {fixed['devices']}: the last digits may differ")


def _total_steps(planned: int | None, s: dict[str, Any]) -> int | None:
  if planned is None:
    return s["steps"]
  if s["steps"] is None:
    print(
      f"note: the run goes on to the {planned} steps that were planned; --minutes is of new runs, --steps changes that"
    )
    return planned
  if s["steps"] != planned:
    print(f"note: the run was planned for {planned} steps, now {s['steps']}: the decay differs from here on")
  return s["steps"]


def _fixed(plan: dict[str, Any], total_steps: int | None, validate_every: int) -> dict[str, Any]:
  """Return the plan with the number of steps and, where that is known, how often to validate; 0: as it was said."""
  usual = lambda total: total and max(100, total // 12)
  said = plan["validate_every"] if plan["validate_every"] != usual(plan["total_steps"]) else None
  every = validate_every or said or usual(total_steps)
  return {**plan, "total_steps": total_steps, "validate_every": every}


class Run:
  """The folder of a run: its settings, its log, its last state and its best weights."""

  def __init__(self, s: dict[str, Any], plan: dict[str, Any]):
    """Open OUTPUT.training, which is there; write the plan, of `make_plan`, at once: a stop may come at any time."""
    self.path, self.plan = training_folder(s), plan
    output.write_json(self.path / PLAN, plan)
    (self.path / GRIDS).mkdir(exist_ok=True)
    options = dict(max_to_keep=1, cleanup_tmp_directories=True)
    self._last = ocp.CheckpointManager(self.path / STATE, options=ocp.CheckpointManagerOptions(**options))
    self._best = ocp.CheckpointManager(self.path / BEST, options=ocp.CheckpointManagerOptions(**options))

  @property
  def total_steps(self) -> int | None:
    """Steps in all; None while not fixed."""
    return self.plan["total_steps"]

  def fix(self, total_steps: int, validate_every: int) -> None:
    """Fix the number of steps, for this process and any that goes on."""
    self.plan = _fixed(self.plan, total_steps, validate_every)
    output.write_json(self.path / PLAN, self.plan)

  def validates(self, step: int) -> bool:
    """Tell whether a validation is due after `step`."""
    total = self.total_steps
    return total is not None and step > 0 and (step >= total or step % self.plan["validate_every"] == 0)

  def owes_validation(self, step: int) -> bool:
    """Tell whether a validation is due after `step` that the log does not have: a stop came between."""
    log = self.path / LOG
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return self.validates(step) and not any(e["step"] == step and "validation" in e for e in entries)

  def restore(self, state: train.TrainState) -> train.TrainState:
    """Return the last saved state, or `state` if there is none; forget log entries that came after it."""
    step = self._last.latest_step()
    if step is not None:
      state = self._last.restore(step, args=ocp.args.StandardRestore(state))
    log = self.path / LOG
    if log.exists():
      kept = [line for line in log.read_text().splitlines() if _step_of(line) <= int(state.step)]
      with output.file(log) as partial:
        partial.write_text("".join(line + "\n" for line in kept))
    return state

  def save(self, state: train.TrainState) -> None:
    """Save the state, in the background."""
    step = int(state.step)
    if step not in self._last.all_steps():
      self._last.save(step, args=ocp.args.StandardSave(state))

  @contextlib.contextmanager
  def saving(self, state: Callable[[], train.TrainState]) -> Iterator[None]:
    """Save the state when the work within is interrupted or told to end."""
    try:
      yield
    except (KeyboardInterrupt, SystemExit) as stop:
      self.save(state())
      self.close()
      message = f"stopped after {int(state().step)} steps; the same command goes on from there"
      if isinstance(stop, KeyboardInterrupt):
        raise KeyboardInterrupt(message) from None
      print(message, file=sys.stderr)
      raise

  def best_loss(self) -> float:
    """Return the lowest validation loss so far, infinite if there is none."""
    info = self.best_info()
    return np.inf if info is None else info["loss"]

  def best_info(self) -> dict[str, Any] | None:
    """Return the measurements of the best weights."""
    step = self._best.latest_step()
    return (
      None if step is None else self._best.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))["info"]
    )

  def save_best(self, step: int, ema: Any, info: dict[str, Any]) -> None:
    """Keep the weights of the lowest validation loss; wait until they are written."""
    for later in [k for k in self._best.all_steps() if k >= step]:
      self._best.delete(later)  # of a run that was stopped before its state was saved
    self._best.save(step, args=ocp.args.Composite(ema=ocp.args.StandardSave(ema), info=ocp.args.JsonSave(info)))
    self._best.wait_until_finished()

  def restore_best(self, ema: Any) -> Any:
    """Return the best weights; `ema` gives their structure."""
    step = self._best.latest_step()
    return self._best.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(ema)))["ema"]

  def log(self, entry: dict[str, Any]) -> None:
    """Append a line to the log."""
    with open(self.path / LOG, "a", encoding="utf-8") as file:
      file.write(json.dumps(output.plain(entry)) + "\n")

  def close(self) -> None:
    """Wait for what is being written."""
    self._last.close()
    self._best.close()


def _step_of(line: str) -> int:
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):  # a line that was cut off when the run was killed
    return sys.maxsize


def main(argv) -> None:
  """Train, or go on training, and write the prior."""
  del argv
  s = settings_from_flags()
  checkpoint.check_free(s["output"], overwrite=s["overwrite"])
  check_place(s)
  check_init(s)
  plan, folder = make_plan(s), training_folder(s)
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with checkpoint.full_disk(folder), output.locked(folder):
      train_and_write(s, plan)
  finally:
    with contextlib.suppress(OSError):
      folder.rmdir()  # empty where nothing began


def train_and_write(s: dict[str, Any], plan: dict[str, Any]) -> None:
  """Train, or go on training, in OUTPUT.training, which is there and locked, and write the prior."""
  data = open_data(s, report=lambda line: print(line, file=sys.stderr, flush=True))
  functions = build(s, data.held_out)
  state = functions.init()
  if s["restart"]:
    output.clear(training_folder(s))  # not before all that may be wrong with the data and --init has shown
  with contextlib.closing(Run(s, plan)) as run:
    state = run.restore(state)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"network: {count / 1e6:.2f} M parameters; devices: {run.plan['settings']['devices']}; run: {run.path}")
    if int(state.step):
      print(f"going on from step {int(state.step)}")
    state = loop(s, run, data, functions, state)
    write(s, run, data, state)


class Meter:
  """Speed and time left, measured from the second step on: the first one compiles."""

  def __init__(self, batch_size: int):
    self._batch_size, self.begun = batch_size, time.monotonic()
    self._first = None  # (step, time)
    self._waited = 0.0  # seconds for batches since then

  def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches, and keep the time that they were waited for."""
    while True:
      asked = time.monotonic()
      try:
        batch = next(batches)
      except StopIteration:
        return
      if self._first is not None:
        self._waited += time.monotonic() - asked
      yield batch

  def waiting(self) -> float:
    """Return which part of the time went into waiting for batches."""
    return 0.0 if self._first is None else self._waited / max(1e-9, time.monotonic() - self._first[1])

  def mark(self, step: int) -> None:
    """Begin to measure after the step that compiled."""
    if self._first is None:
      self._first = (step, time.monotonic())

  def seconds_a_step(self, step: int) -> float:
    """Return the mean so far, validation and all."""
    return (time.monotonic() - self._first[1]) / max(1, step - self._first[0])

  def rate(self, step: int) -> float | None:
    """Return images a second; None after the step that compiled."""
    return self._batch_size / max(1e-9, self.seconds_a_step(step)) if step > self._first[0] else None


class Pace:
  """How many steps a run of minutes takes: told by the speed from step `first` to `last`, and at each `review`."""

  def __init__(self, s: dict[str, Any], step: int, ahead: int, begun: float):
    """Measure nothing yet; `ahead`: batches that are prepared while the first step compiles, `begun`: the start."""
    self._minutes, self._begun = s["minutes"], begun
    # Batches that were prepared while the first step compiled would make the data look quicker. The learning rate asks
    # for the number of steps after the warm-up only.
    self.last = step + 1 + min(ahead + MEASURED_STEPS, max(1, s["warmup_steps"] - 1))
    self.first = max(step + 1, self.last - MEASURED_STEPS)
    self.review = None  # a step, once there is a plan
    self._quarters = iter((1, 2, 3))  # of the run, that reviews are still to be made after
    self._since = None  # after which step, and when, the speed began to be measured

  def begin(self, step: int) -> None:
    """Begin to measure, after `step`."""
    self._since = (step, time.monotonic())

  def plan(self) -> int:
    """Return the number of steps in all by the speed until now, after step `last`."""
    total = self._total(self.last, 1 - OVERHEAD)
    print(f"{total} steps in {self._minutes:g} minutes", flush=True)
    self._go_on(self.last, total)
    return total

  def corrected(self) -> int:
    """Return it after step `review`, by what validations, samples and checkpoints took since the one before, too.

    Those of the first quarter were compiled in it, which the second one shows to be once only.
    """
    total = self._total(self.review, 1.0)
    print(f"{total} steps in {self._minutes:g} minutes, as it has gone so far", flush=True)
    self._go_on(self.review, total)
    return total

  def _go_on(self, step, total):
    self.review = next((later for k in self._quarters if (later := total * k // 4) > step), None)
    self.begin(step)

  def _total(self, step, part):
    now, (since, then) = time.monotonic(), self._since
    left = 60 * self._minutes * part - (now - self._begun)
    return min(step + max(1, int(left * (step - since) / (now - then))), UNKNOWN_STEPS - 1)


def loop(s: dict[str, Any], run: Run, data: Data, functions: Functions, state: train.TrainState) -> train.TrainState:
  """Take all steps that are left, with all that happens between them."""
  meter, saved = Meter(s["batch_size"]), time.monotonic()
  step, recent, lost, told = int(state.step), [], 0, data.ahead == 0
  total = UNKNOWN_STEPS if run.total_steps is None else run.total_steps
  pace = Pace(s, step, data.ahead, meter.begun) if run.total_steps is None else None
  with contextlib.closing(data.stream(step, total)) as stream, run.saving(lambda: state), deferred() as asked:
    if run.owes_validation(step):
      _validate(run, functions, state, step)
    for batch in meter.timed(stream):
      state, metrics = functions.step(state, functions.place(batch), total)
      step += 1
      recent.append(metrics)
      if meter._first is None or (pace and step in (pace.first, pace.last)):
        jax.block_until_ready(state)
      meter.mark(step)
      if pace and step == pace.first:
        pace.begin(step)
      if pace and step == pace.last:
        total = pace.plan()
        run.fix(total, s["validate_every"])
      if step % s["log_every"] == 0 or step == total:
        lost = _report(run, meter, step, recent, lost)
        recent = []
        if not told and meter.waiting() > 0.5:
          print(f"note: {100 * meter.waiting():.0f} % of the time is spent waiting for images; {FASTER}", flush=True)
          told = True
      if run.validates(step):
        _validate(run, functions, state, step)
      if step == total or (run.total_steps is not None and step % (s["sample_every"] or max(1, total // 4)) == 0):
        pictures = np.asarray(functions.sample(state.ema))
        images.write_pillow(run.path / GRIDS / f"{step:08d}.png", sheet.grid(list(pictures)))
      if pace and step == pace.review:
        total = pace.corrected()
        run.fix(total, s["validate_every"])
      if step == total or time.monotonic() - saved > s["save_seconds"]:
        run.save(state)
        saved = time.monotonic()
      if step == total:
        break
      if asked:
        asked[0]()
  return state


@contextlib.contextmanager
def deferred() -> Iterator[list[Callable[[], None]]]:
  """Collect what signals to stop would do, to be done between two steps; a second signal does it at once.

  In the middle of a step the state that it works on may be gone, and that after it not there yet.
  """
  asked, before = [], {}

  def handle(number, frame):
    act = lambda: before[number](number, frame)
    if asked:
      act()
    asked.append(act)
    # Not print, which the signal may have come in the middle of.
    os.write(2, b"stopping after this step; once more stops at once\n")

  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGTERM):
      if callable(signal.getsignal(number)):
        before[number] = signal.signal(number, handle)
  try:
    yield asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _report(run: Run, meter: Meter, step: int, recent: list[dict[str, Any]], lost: int) -> int:
  """Log and print the means of recent steps; return how many steps in a row, `lost` before these, were skipped.

  Raises:
    ValueError: too many were.
  """
  skipped, speed = [bool(metrics["skipped"]) for metrics in recent], meter.rate(step)
  entry = {
    "step": step,
    "loss": float(np.mean([float(metrics["loss"]) for metrics in recent])),
    "grad_norm": float(recent[-1]["grad_norm"]),
    "learning_rate": float(recent[-1]["learning_rate"]),
    "skipped": sum(skipped),
    "images_per_second": None if speed is None else round(speed, 2),
  }
  run.log(entry)
  left = "" if run.total_steps is None else f"/{run.total_steps}"
  if run.total_steps is not None and speed is not None:
    left += f", {progress.duration((run.total_steps - step) * meter.seconds_a_step(step))} left"
  words = f", {sum(skipped)} of {len(recent)} steps skipped for gradients that are not finite" if any(skipped) else ""
  fast = "" if speed is None else f", {speed:.1f} images/s"
  print(f"step {step}{left}: loss {entry['loss']:.4f}{fast}{words}", flush=True)
  lost = lost + len(recent) if all(skipped) else skipped[::-1].index(False)
  if lost >= MOST_SKIPPED:
    raise ValueError(
      f"train: expected finite gradients, got none in the last {lost} steps; start again with --restart and a lower "
      "--learning_rate"
    )
  return lost


def _validate(run: Run, functions: Functions, state: train.TrainState, step: int) -> None:
  result = functions.validate(state.ema)
  decibels = [round(float(10 * np.log10(4.0 / v)), 3) for v in np.asarray(result.squared_error)]
  info = {"step": step, "loss": float(result.loss), "psnr": dict(zip(map(str, VALIDATION_SBARS), decibels))}
  if info["loss"] < run.best_loss():
    run.save_best(step, state.ema, info)
  run.log({"step": step, "validation": info})  # last: what the log has is done
  words = ", ".join(f"{d:.2f} dB at {sbar:g}" for sbar, d in zip(VALIDATION_SBARS, decibels))
  print(f"validation after {step} steps: loss {info['loss']:.4f}; {words}", flush=True)


def write(s: dict[str, Any], run: Run, data: Data, state: train.TrainState) -> None:
  """Write the best weights as a prior folder.

  Raises:
    ValueError: there are none.
  """
  info = run.best_info()
  if info is None:
    raise ValueError("train: expected a finite validation loss, got none; start again with a lower --learning_rate")
  params = run.restore_best(state.ema)
  before = run.plan["init"] or {}
  provenance = {
    "data": s["data"],
    "seed": s["seed"],
    "steps": int(state.step),
    "weights_of_step": info["step"],
    "images_seen": info["step"] * s["batch_size"] + before.get("images_seen", 0),  # by these weights
    "validation_loss": info["loss"],
    "validation_psnr": info["psnr"],
    "commit": run.plan["commit"],
    "held_out_files": data.held_out_files,
    "skipped_files": data.skipped(),
    "settings": run.plan["settings"],
    "init": before or None,  # of the weights that it began with
  }
  checkpoint.save_prior(s["output"], make_prior(params, s), network_config(s), provenance, overwrite=s["overwrite"])
  print(f"wrote {s['output']}: weights of step {info['step']}, validation loss {info['loss']:.4f}")


def _commit() -> str | None:
  """Return the commit of the code, `-dirty` where it has been changed since.

  None outside of its repository, such as in an environment within another one.
  """
  file = pathlib.Path(__file__)
  git = functools.partial(subprocess.run, cwd=file.parent, capture_output=True, text=True, check=True)
  try:
    git(["git", "ls-files", "--error-unmatch", file.name])
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return git(["git", "rev-parse", "HEAD"]).stdout.strip() + ("-dirty" if changed else "")
  except (OSError, subprocess.CalledProcessError):
    return None


if __name__ == "__main__":
  main_module.run_module(main, FLAGS)
