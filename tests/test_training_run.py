"""Runs of the trainer: what is killed and goes on, signals, validations, pace, data, devices, and every network."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffinv import stopping
from diffinv.apps import main
from diffinv.nets import unet
from diffinv.priors.folder import NETWORKS, load_prior, load_provenance
from diffinv.schedules import level_at
from diffinv.training import data as training_data
from diffinv.training import devices as training_devices
from diffinv.training import functions as training_functions
from diffinv.training import network, run_folder
from diffinv.training import plan as plans
from diffinv.training.config import SIZES, TrainConfig
from diffinv.training.functions import VALIDATION_SBARS, Functions
from diffinv.training.loop import Work, loop
from diffinv.training.run import train
from diffinv.training.step import TrainState, Validation

QUIET = lambda *line, **where: None
# One level with kernels wide enough for Muon: what it carries, Adam does too, and it has a momentum of its own.
TINY = {
  "size": 8,
  "channels": 32,
  "multipliers": (1,),
  "middle_blocks": 1,
  "embedding": 16,
  "held_out": 8,
  "warmup_steps": 5,
  "batch_size": 4,
  "log_every": 1,
  "sample_every": 1000,
  "workers": 1,
  "devices": 1,
}


@contextlib.contextmanager
def usual_promotion():
  """Optax multiplies float32 arrays by Python powers of int32."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


@pytest.fixture(autouse=True)
def promotion(strict_promotion):
  with usual_promotion():
    yield


@pytest.fixture(scope="module", autouse=True)
def kept_programs(tmp_path_factory):
  """Compile the program of a run once, for all runs of this file and their processes."""
  folder = tmp_path_factory.mktemp("programs")
  asked = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.0}
  before = {name: getattr(jax.config, name) for name in asked}
  for name, value in asked.items():
    jax.config.update(name, value)
  yield {name.upper(): str(value) for name, value in asked.items()}
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """A folder of pictures of noise."""
  folder = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)
  for i in range(20):
    Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(folder / f"{i:02d}.png")
  return folder


def tiny(data, **given):
  """A run of 12 steps that validates after each four."""
  length = {} if "minutes" in given else {"steps": 12, "validate_every": 4}
  return TrainConfig(**{**TINY, "data": str(data), **length, **given})


def command(data, output, *others):
  """The command line of `tiny`; later flags win."""
  values = {**TINY, "data": data, "steps": 12, "validate_every": 4, "output": output}
  values["multipliers"] = ",".join(map(str, TINY["multipliers"]))
  return ["train", *(f"--{name}={value}" for name, value in values.items()), *others]


def last_state(output):
  """The leaves of the last saved state, by path."""
  with np.load(max(pathlib.Path(f"{output}.training", "states").iterdir())) as found:
    return dict(found)


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# Runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pictures, kept_programs):
  """The prior of a run that nothing stopped."""
  output = tmp_path_factory.mktemp("runs") / "whole"
  with usual_promotion():
    train(tiny(pictures), output, report=QUIET)
  return output


class Process:
  """`diffinv train` as a process of its own, with the compiler's flags of this one: it computes the same bits."""

  def __init__(self, programs, *argv):
    environment = {**os.environ, **programs, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    self._run = subprocess.Popen(
      [sys.executable, "-u", "-m", "diffinv.apps.main", *argv],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=environment,
    )

  def stop(self, number, line):
    """Send a signal when a line begins so; return what is printed in all, and the exit code."""
    said = []
    for text in self._run.stdout:
      said.append(text)
      if text.startswith(line):
        self._run.send_signal(number)
        break
    said.append(self._run.communicate()[0])
    return "".join(said), self._run.returncode


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, pictures, kept_programs):
  """A run that was told to end after four steps; and what it said."""
  output = tmp_path_factory.mktemp("stopped") / "p"
  # Not by SIGINT, which commands in the background ignore. With --save_seconds=0 a checkpoint is being written at any
  # moment.
  late = ("--save_seconds=0", "--steps=1000", "--validate_every=1000")
  run = Process(kept_programs, *command(pictures, output, *late))
  said, code = run.stop(signal.SIGTERM, "step 4/")
  return output, said, code


def copy(run, output):
  shutil.copytree(f"{run}.training", f"{output}.training")
  return output


@pytest.mark.slow
def test_a_run_that_is_told_to_end_says_how_to_go_on(stopped):
  output, said, code = stopped
  assert "the same command goes on from there" in said and "nothing was written" not in said and code == 143
  assert "held out: the validation is on" in said
  assert not output.exists()


@pytest.mark.slow
def test_a_run_that_is_cut_short_is_validated_at_its_end(tmp_path, stopped, pictures):
  output = copy(stopped[0], tmp_path / "p")
  train(tiny(pictures, steps=3, validate_every=1000), output, report=QUIET)
  assert load_provenance(output)["steps"] >= 4


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, pictures, whole, kept_programs):
  output = tmp_path / "killed"
  said, _ = Process(kept_programs, *command(pictures, output, "--save_seconds=0")).stop(signal.SIGKILL, "step 6/")
  assert not output.exists(), said
  lines = []
  prior = train(tiny(pictures, save_seconds=0.0), output, report=lambda line, **where: lines.append(line))
  assert any(line.startswith("going on from step") for line in lines)
  unbroken, killed = last_state(whole), last_state(output)
  assert unbroken.keys() == killed.keys()
  for name, value in unbroken.items():
    np.testing.assert_array_equal(killed[name], value, err_msg=name)
  told = [json.loads((path / "prior.json").read_text()) for path in (whole, output)]
  assert told[0] == told[1]
  logged = [
    json.loads(line)["step"] for line in pathlib.Path(f"{output}.training", "log.jsonl").read_text().splitlines()
  ]
  assert sorted(set(logged)) == list(range(1, 13))
  assert logged == sorted(logged)
  chex.assert_trees_all_equal(prior.params, load_prior(whole).params)


def test_a_run_does_not_go_on_with_other_settings(whole, pictures, capsys):
  assert main.execute(command(pictures, whole, "--overwrite", "--learning_rate=0.5")) == 2
  said = capsys.readouterr().err
  assert "--learning_rate: expected 0.001, with which the run" in said and said.count("\n") == 1


def test_a_run_does_not_go_on_with_other_images(tmp_path, pictures, capsys):
  folder = shutil.copytree(pictures, tmp_path / "images")
  with begun(tiny(folder), tmp_path / "p"):
    pass
  (folder / "03.png").rename(folder / "30.png")
  assert main.execute(command(folder, tmp_path / "p", "--overwrite")) == 2
  said = capsys.readouterr().err
  assert "are not those with which the run in" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_a_prior(tmp_path, whole, pictures, capsys):
  """With a learning rate of nothing, what comes out is what went in."""
  again = {"init": str(whole), "learning_rate": 1e-30, "weight_decay": 0.0, "seed": 5}
  second = train(tiny(pictures, steps=2, validate_every=2, **again), tmp_path / "second", report=QUIET)
  jax.tree.map(np.testing.assert_array_equal, load_prior(whole).params, second.params)
  before, now = (load_provenance(path) for path in (whole, tmp_path / "second"))
  assert now["init"] == before and before["images_seen"] > 0
  assert now["images_seen"] == before["images_seen"] + 4 * now["weights_of_step"]
  assert main.execute(command(pictures, tmp_path / "third", f"--init={whole}", "--channels=16")) == 2
  said = capsys.readouterr().err
  assert "--init: expected a prior whose channels is 16" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_run_on_two_devices_is_that_on_one(tmp_path, whole, pictures, capsys):
  flags = (f"--init={whole}", "--validate_every=12")
  for count in (1, 2):
    assert main.execute(command(pictures, tmp_path / str(count), *flags, f"--devices={count}")) == 0
    assert f"devices: {count} cpu" in capsys.readouterr().out
  one, two = (flat(load_prior(tmp_path / str(count)).params) for count in (1, 2))
  assert np.linalg.norm(two - one) / np.linalg.norm(one) < 1e-3
  assert main.execute(command(pictures, tmp_path / "third", *flags, "--devices=4000")) == 2
  said = capsys.readouterr().err
  assert "--devices: expected at most" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_cpu_is_as_many_devices_as_are_asked_for():
  code = "from diffinv import devices; devices.split_cpu(2); print(devices.batch_mesh(None).size)"
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[1])
  told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert int(told.stdout) == min(2, os.cpu_count())


# Networks


def test_every_network_to_train_has_a_shape_and_can_be_loaded():
  assert network.SHAPES.keys() == SIZES.keys() <= NETWORKS.keys()


UNET = {"network": "guided_diffusion", "middle_blocks": None, "embedding": None, "head_channels": 32}


@pytest.mark.slow
def test_a_guided_diffusion_network_learns_to_denoise(tmp_path):
  (tmp_path / "gray").mkdir()
  for i in range(10):
    Image.fromarray(np.full((8, 8, 3), 100 + 10 * i, np.uint8)).save(tmp_path / "gray" / f"{i}.png")
  quick = {"optimizer": "adamw", "learning_rate": 1e-2, "ema_decay": 0.5, "steps": 30, "validate_every": 30}
  config = tiny(tmp_path / "gray", **quick, **UNET)
  prior = train(config, tmp_path / "p", report=QUIET)
  assert prior.size_multiple == 1 and prior.image_shape == (8, 8, 3)
  assert load_provenance(tmp_path / "p")["settings"]["network"] == "guided_diffusion"
  new = network.first_weights(config.resolved(), jax.random.key(0))
  x0 = jnp.full((8, 8, 3), 0.2)
  level = level_at(prior.schedule, jnp.asarray(1.0))
  x_t = level.alpha * x0 + level.sigma * jax.random.normal(jax.random.key(1), x0.shape)
  denoise = jax.jit(lambda params: dataclasses.replace(prior, params=params).denoise(x_t, level).x0)
  before, after = (float(jnp.mean((denoise(jax.device_get(params)) - x0) ** 2)) for params in (new, prior.params))
  assert after < 0.5 * before


def test_guided_diffusion_is_built_from_the_same_options():
  config = tiny("faces", **{**UNET, "channels": 64, "multipliers": (1, 2), "blocks": 3, "attention": True})
  shape = network.shape(dataclasses.replace(config, learned_variance=True, levels="uniform").resolved())
  assert shape == unet.make_config(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=3,
    attention_levels=(1,),
    num_head_channels=32,
    out_channels=6,
  )
  shape = network.shape(dataclasses.replace(config, attention=False).resolved())
  assert (shape.attention_levels, shape.out_channels) == ((), 3)


# Between the steps


@contextlib.contextmanager
def begun(config, output, note=QUIET):
  """Open the folder of a run, new or there already."""
  with run_folder.beside(output).held() as folder:
    plan = run_folder.make_plan(config.resolved(), folder, training_devices.choose(config), report=QUIET)
    yield run_folder.RunFolder(folder, plan, note=note)


def counting(during=lambda step: None, skipped=0.0):
  """Functions that only count the steps; `during` is called in each with its number, from 1, and in others by name."""

  def step(state, x0, total):
    state = TrainState(state.step + 1, state.params, {"a": state.ema["a"] + 1}, state.opt_state)
    during(int(state.step))
    return state, dict.fromkeys(("loss", "grad_norm", "learning_rate"), 0.0) | {"skipped": skipped}

  def validate(ema):
    during("validation")
    return Validation(1.0 / ema["a"][0], np.ones(len(VALIDATION_SBARS)))

  def sample(ema):
    during("grid")
    return np.zeros((16, 8, 8, 3), np.float32)

  return Functions(None, step, validate, sample, lambda batch: batch)


def counting_run(tmp_path, functions=None, report=QUIET, note=QUIET, clock=None, **options):
  """Go on with a run of 9 steps that only counts them, and validates every 4."""
  config = TrainConfig(data="faces", devices=1, **(options or {"steps": 9, "validate_every": 4})).resolved()
  weights = {"a": jnp.zeros(3)}
  data = training_data.Data(lambda start, stop: (i for i in range(start, stop)), np.zeros((1, 8, 8, 3)), [], dict)
  with begun(config, tmp_path / "p", note) as run:
    state = run.restore(TrainState(jnp.zeros((), jnp.int32), weights, weights, weights))
    timed = {} if clock is None else {"clock": clock}
    loop(config, run, data, functions or counting(), state, report=report, **timed)
  return run


def signal_in(*places):
  """Send a signal to stop in the steps of these numbers, or in what has this name, once each."""
  left = list(places)

  def during(place):
    if place in left:
      left.remove(place)
      os.kill(os.getpid(), signal.SIGTERM)

  return during


def steps_in(folder):
  return sorted(int(path.stem) for path in folder.iterdir())


def logged(run, kind):
  entries = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
  return [entry["step"] for entry in entries if kind in entry]


@pytest.mark.parametrize(
  "stops", [(4,), (9,), (4, 8, 9), ("validation",), ("grid",), ("validation", "grid", 9)], ids=str
)
def test_what_a_stop_comes_before_is_made_up_for(tmp_path, stops):
  functions = counting(signal_in(*stops))
  for _ in stops:
    with pytest.raises(
      stopping.Stopped, match=r"told to stop; \d steps are saved; the same command goes on from there"
    ):
      counting_run(tmp_path, functions)
  counting_run(tmp_path, functions)
  run = counting_run(tmp_path, functions)  # once more, after the end: nothing is owed
  assert logged(run, "validation") == [4, 8, 9]
  # The best weights, too, are those of a run without a stop: the last ones.
  assert [steps_in(run.path / name) for name in ("best", "samples")] == [[9], [2, 4, 6, 8, 9]]


def test_a_signal_to_stop_waits_for_the_end_of_the_step(tmp_path):
  def stop(*_):
    raise AssertionError

  before = signal.signal(signal.SIGTERM, stop)
  try:
    with pytest.raises(stopping.Stopped):
      counting_run(tmp_path, counting(signal_in(6)))
    assert signal.getsignal(signal.SIGTERM) is stop
  finally:
    signal.signal(signal.SIGTERM, before)
  assert steps_in(tmp_path / "p.training" / "states") == [6]


@pytest.mark.parametrize("validation, compiling", [(0.0, 0.0), (300.0, 0.0), (0.0, 3000.0)])
def test_a_run_of_minutes_takes_them_however_long_validations_are(tmp_path, validation, compiling):
  now = [0.0]
  once = [compiling]  # by the first validation

  def spend(step):
    if step == "validation":
      now[0] += validation + (once.pop() if once else 0.0)
    elif step != "grid":
      now[0] += 60.0 if step == 1 else 20.0  # the first one compiles

  length = {"minutes": 300.0, "validate_every": 200, "log_every": 500, "save_seconds": 86400.0}
  run = counting_run(tmp_path, counting(spend), clock=lambda: now[0], **length)
  assert run.total_steps > 300
  assert abs(now[0] / 60 / 300 - 1) < 0.04


def test_a_run_that_has_diverged_ends(tmp_path):
  lines = []
  with pytest.raises(ValueError, match="expected finite gradients, got none in the last 100 steps; start again"):
    counting_run(tmp_path, counting(skipped=1.0), lambda line, **where: lines.append(line), steps=900)
  assert any("20 of 20 steps skipped for gradients that are not finite" in line for line in lines)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
  return counting_run(tmp_path_factory.mktemp("counted"))


@pytest.mark.parametrize(
  "skips, lost", [([0, 0], 0), ([1, 0, 1, 1], 2), ([1, 1], 9), ([0, 1], 1)], ids=("none", "some", "all", "last")
)
def test_skipped_steps_in_a_row_are_counted(counted, skips, lost):
  state = TrainState(jnp.asarray(9, jnp.int32), None, None, None)
  work = Work(TrainConfig(data="faces", steps=9), counted, None, state, report=QUIET)
  work.meter.mark(0)
  work.lost = 7
  work.log([{"loss": 0.0, "grad_norm": 0.0, "learning_rate": 0.0, "skipped": float(v)} for v in skips])
  assert work.lost == lost


# Validations


def build(held_out, **options):
  config = tiny("photos", **options).resolved()
  return training_functions.build(config, held_out, training_devices.choose(config))


def noise(count, size):
  return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_a_validation_does_not_depend_on_the_seed():
  first, other = (build(noise(8, 8), seed=seed) for seed in (1, 2))
  params = first.init().params
  with pytest.raises(AssertionError):  # the weights do
    chex.assert_trees_all_equal(params, other.init().params)
  chex.assert_trees_all_equal(first.validate(params), other.validate(params))


@pytest.mark.slow
def test_a_validation_has_no_more_images_at_once_than_a_step():
  held_out, wide = noise(64, 16), {"size": 16, "patch": 1, "channels": 128, "middle_blocks": 2}
  params = network.first_weights(tiny("photos", **wide).resolved(), jax.random.key(0))

  def validation(**options):
    functions = build(held_out, **wide, **options)
    compiled = jax.jit(functions.validate).lower(params).compile()
    return compiled(params), compiled.memory_analysis().temp_size_in_bytes

  whole, much = validation(batch_size=64)
  parts, little = validation(batch_size=64, accumulate=8)
  with_a_rest, _ = validation(batch_size=24)
  assert little < much / 4
  for other in (parts, with_a_rest):
    chex.assert_trees_all_close(other, whole, rtol=1e-5)


# Data


def open_folder(folder, **options):
  """Open a folder of images; return the data and what was said."""
  said = []
  config = TrainConfig(**{"data": str(folder), "size": 16, "batch_size": 8, "steps": 1, **options})
  return training_data.open_data(config, said.append), said


@pytest.fixture
def colors(tmp_path):
  """Write so many pictures of one color each, by which crops tell whose they are; return their folder."""

  def write(count):
    for i in range(count):
      Image.fromarray(np.full((24, 40, 3), 5 * i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    return tmp_path

  return write


def colors_of(x):
  return [round((float(v) + 1) * 127.5 / 5) for v in x.mean(axis=(1, 2, 3))]


def test_each_held_out_file_gives_several_crops_and_none_to_train_on(colors):
  data, said = open_folder(colors(20), held_out=7, flip=False)
  held_out = [int(name.removesuffix(".png")) for name in data.held_out_files]
  assert sorted(colors_of(data.held_out)) == sorted(3 * held_out)
  assert sorted(colors_of(data.held_out[:2])) == held_out  # one of each first
  assert data.summary == "data: 20 files, 2 of them held out: the validation is on 6 crops" and said == []
  shown = {c for batch in data.stream(0, 9) for c in colors_of(np.asarray(batch, np.float32) / 127.5 - 1)}
  assert shown == set(range(20)) - set(held_out)


@pytest.mark.parametrize("count", (3, 20), ids=("none held out", "some"))
def test_crops_held_out_do_not_depend_on_the_seed(tmp_path, pictures, count):
  for name in sorted(os.listdir(pictures))[:count]:
    shutil.copy(pictures / name, tmp_path / name)
  first, other = (open_folder(tmp_path, seed=seed, size=8)[0] for seed in (1, 2))
  np.testing.assert_array_equal(first.held_out, other.held_out)
  batch = lambda data: np.asarray(next(iter(data.stream(0, 1))))
  assert not np.array_equal(batch(first), batch(other))


def test_the_whole_of_a_file_is_held_out_once(colors):
  data, _ = open_folder(colors(20), crop="resize")
  assert len(data.held_out) == 2 and "on 2 crops" in data.summary


def test_of_a_few_files_none_is_held_out_and_that_is_said(colors):
  data, _ = open_folder(colors(9), held_out=20)
  assert data.summary == "data: 9 files, none held out: the validation is on 18 crops of the training images"
  assert sorted(colors_of(data.held_out)) == sorted(2 * list(range(9))) and data.held_out_files == []


@pytest.mark.parametrize("count", (3, 20))
def test_files_that_cannot_be_read_are_not_held_out_and_are_named_once(colors, count):
  folder = colors(count)
  kept = open_folder(folder)[0].held_out_files
  for name in kept or ["01.png"]:
    (folder / name).write_bytes(b"no picture")
  data, said = open_folder(folder)
  assert len(data.held_out_files) == len(kept) and not set(data.held_out_files) & set(kept)
  list(data.stream(0, 9))
  assert sorted(data.skipped()) == sorted(kept or ["01.png"])
  assert sum("skipped" in line for line in said) == len(data.skipped())


def test_a_folder_of_which_nothing_can_be_read_is_an_error(colors):
  folder = colors(12)
  for path in folder.iterdir():
    path.write_bytes(b"no picture")
  with pytest.raises(ValueError, match=r"expected images that can be read in .*, got 12 that cannot"):
    open_folder(folder)


@pytest.mark.slow
def test_photographs_are_streamed_by_the_seed_and_held_out_whatever_it_is():
  pytest.importorskip("skimage")
  first, again, other = (open_folder("photos", seed=seed, held_out=8)[0] for seed in (1, 1, 2))
  batches = [np.asarray(next(iter(data.stream(3, 4)))) for data in (first, again, other)]
  assert batches[0].shape == (8, 16, 16, 3) and batches[0].dtype == np.uint8
  np.testing.assert_array_equal(batches[0], batches[1])
  assert not np.array_equal(batches[0], batches[2])
  np.testing.assert_array_equal(first.held_out, other.held_out)
  assert first.held_out.shape == (8, 16, 16, 3) and "astronaut.png" in first.held_out_files


def test_faces_of_a_seed_stay_what_they_are(monkeypatch):
  """Image i of a run of faces is drawn by key i of the first half of the seed, and mirrored by that key's key 1."""
  from diffinv.data import faces

  draw = lambda key, size: jax.random.uniform(key, (size, size, 3))  # the renderer takes a minute to compile
  monkeypatch.setattr(faces, "render", draw)

  def open_faces(seed):
    return training_data.open_data(TrainConfig(data="faces", steps=1, size=16, batch_size=4, seed=seed), QUIET)

  data = open_faces(5)
  batch = next(iter(data.stream(3, 4)))
  for i, picture in enumerate(batch):
    key = jax.random.fold_in(jax.random.split(jax.random.key(5))[0], 12 + i)
    expected = draw(key, 16)
    mirrored = bool(jax.random.bernoulli(jax.random.fold_in(key, 1)))
    np.testing.assert_array_equal(picture, expected[:, ::-1] if mirrored else expected)
  assert data.held_out.shape == (80, 16, 16, 3)
  np.testing.assert_array_equal(open_faces(6).held_out, data.held_out)  # what all seeds are judged by


def test_the_commit_is_that_of_the_code_and_not_of_what_lies_around_it(tmp_path):
  file = tmp_path / "train.py"
  git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
  subprocess.run([*git, "init", "-q"], check=True)
  file.write_text("")
  subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
  assert plans.code_commit(file) is None
  subprocess.run([*git, "add", "train.py"], check=True)
  subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
  commit = plans.code_commit(file)
  assert len(commit) == 40
  file.write_text("changed")
  assert plans.code_commit(file) == f"{commit}-dirty"
