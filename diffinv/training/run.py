"""A run as a whole: train, or go on training, and write the prior."""

import os

import jax

from diffinv import errors, output, stopping
from diffinv.data import held_out as held_out_data
from diffinv.launch import ALONE, Team
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.training import data as training_data
from diffinv.training import devices as training_devices
from diffinv.training import network, run_folder
from diffinv.training.config import TrainConfig
from diffinv.training.data import Data, Report
from diffinv.training.functions import Functions, build
from diffinv.training.loop import Work, loop
from diffinv.training.run_folder import Best, Followed, RunFolder
from diffinv.training.step import TrainState


def train(
  config: TrainConfig,
  folder: str | os.PathLike[str],
  *,
  overwrite: bool = False,
  restart: bool = False,
  report: Report = print,
  team: Team = ALONE,
) -> Prior:
  """Train a prior, or go on training it after a stop, and write it.

    prior = diffinv.train(diffinv.TrainConfig(data="my_pictures", minutes=120), "checkpoints/mine")

  Everything that a run needs to go on, but for the images and the prior of `init`, is in `folder`.training. The same
  call after a stop goes on to exactly the weights that it would have had; on a GPU up to rounding, unless XLA_FLAGS has
  --xla_gpu_deterministic_ops=true.

  Args:
    config: what to train, on what and for how long.
    folder: the prior folder to write; `folder`.training beside it holds the run itself.
    overwrite: replace an existing prior folder, at the end.
    restart: throw away what `folder`.training holds, and start again.
    report: called as `print` is, with lines on how it goes.
    team: processes that take every step together, each on its part of the batch (`diffinv.launch`), and each of which
      makes this call; the first writes.

  Returns:
    The prior, as `diffinv.load_prior` loads it; in other processes than the first, the last weights.

  Raises:
    UsageError: the options do not fit each other, the devices, the prior of `init` or the run that is there.
    OSError: a folder is in the way, or cannot be written to.
    ValueError: there are no images that can be read, or the run has diverged.

  Example:
    >>> import diffinv
    >>> config = diffinv.TrainConfig(
    ...   config="faces", size=16, channels=8, multipliers=(1,), middle_blocks=1, attention=False, batch_size=8, steps=1
    ... )
    >>> diffinv.train(config, "mine", report=lambda *words, **ways: None).size_multiple
    2
  """
  config = config.resolved()
  devices = training_devices.choose(config, team)
  network.check(config)
  run_folder.check_place(config, folder, restart=restart)
  checkpoint.check_free(folder, overwrite=overwrite)
  network.check_init(config)
  training_data.check_memory(config)
  if config.source in held_out_data.SETS:
    training_data.note_set(config, training_data.notes(report))
  beside = run_folder.beside(folder)
  if team.index:
    return _follow(config, beside, devices, team, restart=restart, report=report)
  with stopping.deferred(), beside.held() as place:
    plan = run_folder.make_plan(config, place, devices, restart=restart, report=report)
    data = _opened(config, report, team)
    stopping.check()
    functions = build(config, data.held_out, devices)
    state = functions.init()
    stopping.check()
    if restart:  # not before all that may be wrong with the data and `init` has shown
      place.check(restart=True)
      place.clear()
    run = RunFolder(place, plan, note=training_data.notes(report))
    state, best = _train(config, run, data, functions, state, report=report, team=team)
    with errors.interruption("all steps are saved; the same command goes on from there"):
      stopping.check()
    _write(config, folder, run, data, state, best, overwrite=overwrite, report=report)
  return checkpoint.load_prior(folder)


def _follow(
  config: TrainConfig,
  beside: output.Folder,
  devices: training_devices.Devices,
  team: Team,
  *,
  restart: bool,
  report: Report,
) -> Prior:
  """Train as another process than the first, which writes; return the last weights."""
  with stopping.deferred():
    plan = run_folder.make_plan(config, beside, devices, restart=restart, report=report)
    data = _opened(config, report, team)
    functions = build(config, data.held_out, devices)
    state = functions.init()
    team.meet()  # the first has put the folder in order
    run = Followed(beside, plan, note=training_data.notes(report))
    state = run.restore(state)
    team.meet()
    state = loop(config, run, data, functions, state, report=report, team=team)
  return network.make_prior(devices.own(state.ema), config)


def _opened(config: TrainConfig, report: Report, team: Team) -> Data:
  """Open the data, and say how many pictures train and how many validate."""
  note = training_data.notes(report)
  data = training_data.open_data(config, note, team)
  if data.summary:
    note(data.summary)
  return data


def _train(
  config: TrainConfig,
  run: RunFolder,
  data: Data,
  functions: Functions,
  state: TrainState,
  *,
  report: Report,
  team: Team,
) -> tuple[TrainState, Best]:
  """Train from `state`, or from the one that was saved last; return the last state and the best weights.

  Raises:
    ValueError: there are none.
  """
  state = run.restore(state)
  team.meet()  # others read it
  team.meet()
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  report(
    f"network: {count / 1e6:.2f} M parameters; devices: {run.plan.settings.get('devices', 'unknown')}; run: {run.path}"
  )
  if int(state.step):
    report(f"going on from step {int(state.step)}")
  state = loop(config, run, data, functions, state, report=report, team=team)
  best = run.best(state.ema)
  if best is None:  # damaged, or never measured
    Work(config, run, functions, state, report=report).validate()
    best = run.best(state.ema)
  if best is None:
    raise ValueError("train: expected a finite validation loss, got none; start again with a lower `learning_rate`")
  return state, best


def _write(
  config: TrainConfig,
  folder: str | os.PathLike[str],
  run: RunFolder,
  data: Data,
  state: TrainState,
  best: Best,
  *,
  overwrite: bool,
  report: Report,
) -> None:
  """Write the best weights as a prior folder."""
  weights, info = best
  before = run.plan.init or {}
  provenance = {
    "data": config.source,
    "seed": config.seed,
    "steps": int(state.step),
    "weights_of_step": info["step"],
    "images_seen": info["step"] * config.batch_size + before.get("images_seen", 0),  # by these weights
    "validation_loss": info["loss"],
    "validation_psnr": info["psnr"],
    "commit": run.plan.commit,
    "held_out_files": data.held_out_files,
    "skipped_files": data.skipped(),
    "settings": run.plan.settings,
    "init": before or None,  # of the weights that it began with
  }
  prior = network.make_prior(weights, config)
  checkpoint.save_prior(folder, prior, network.shape(config), provenance, overwrite=overwrite, command="train")
  report(f"wrote {folder}: weights of step {info['step']}, validation loss {info['loss']:.4f}")
