"""Every command on a tiny case, within a folder of its own, with chains and measures that take no time."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
import safetensors.numpy
from PIL import Image

from diffinv import batch, errors, output
from diffinv.apps import main, shared
from diffinv.apps import train as train_command
from diffinv.manifest import LOCK
from diffinv.output import RESULTS
from diffinv.priors import folder as checkpoint
from diffinv.priors import state_dicts
from diffinv.report import figures, page
from diffinv.studies import runs, tune
from diffinv.studies.evaluation import denoising
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.training import data as training_data
from diffinv.training import network
from diffinv.training import run as training_run
from diffinv.training.config import TrainConfig
from diffinv.training.functions import VALIDATION_SBARS, Functions
from diffinv.training.step import TrainState, Validation
from diffinv.verification import tables

SIZE = 16  # pixels
SECONDS = 20  # what takes longer hangs
QUICK = "--prior=natural --steps=2"
TRAINING = {"size": SIZE, "channels": 8, "batch_size": 8, "embedding": 8, "multipliers": (1,), "middle_blocks": 1}
TRAINING_FLAGS = " ".join(f"--{n}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for n, v in TRAINING.items())

# Command lines but for --output. `{place}` is a folder that `build` made.
LINES = {
  "sample": f"sample {QUICK} --size={SIZE} --num_samples=2 --batch_size=1",
  "reconstruct": f"reconstruct {QUICK} --input={{place}}/in/a.png --input={{place}}/in/b.png --task=denoising",
  "compare": f"compare {QUICK} --data={{place}}/in/a.png --tasks=denoising --methods=ddrm,dps --num_samples=2",
  "tune": f"tune {QUICK} --data={{place}}/in/a.png --tasks=denoising --methods=dps --search=dps.scale=0.1,0.2",
  "report": "report --run={place}/in/compared",
  "convert": "convert --input={place}/in/weights.safetensors --image_size=64 --num_head_channels=32 --nocheck",
  "train": f"train --data={{place}}/in/photos --steps=1 {TRAINING_FLAGS}",
  "evaluate": "evaluate --prior={place}/in/prior --measures=denoising --num_images=2",
  "verify": "verify --quick --methods=ddrm",
}
OUTPUTS = {"tune": "out.json", "report": "out.html", "verify": "out.json"}  # the others write a folder, "out"
LOADING = ("sample", "reconstruct", "compare", "tune", "evaluate")  # take any prior
RUNNING = ("sample", "reconstruct", "compare", "tune")  # go on in OUTPUT.running


class Accepted(BaseException):
  """The command has found nothing wrong, and would begin its work."""


class Hangs(BaseException):
  """The command waits for something that will not come."""


def words(command, place, *more, output=True):
  """Return the command line that writes `out` in a place."""
  name = f"--output={place / OUTPUTS.get(command, 'out')}"
  return [*LINES[command].format(place=place).split(), *([name] if output else []), *map(str, more)]


def build(place):
  """Make a folder in which every command can be run: inputs in `in`, and a home and a current folder beside it."""
  for name in ("in/photos", "here", "home/.cache/diffinv"):
    (place / name).mkdir(parents=True)
  random = np.random.RandomState(0)
  for name in ("a.png", "b.png", "photos/a.png", "photos/b.png", "photos/c.png"):
    Image.fromarray(random.randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)).save(place / "in" / name)
  Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(place / "in" / "mask.png")
  np.save(place / "in" / "kernel.npy", np.ones((3, 3)))
  np.save(place / "in" / "y.npy", random.uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32))
  save_trained_prior(place / "in" / "prior")
  safetensors.numpy.save_file(
    reference_networks.state_dict(reference_networks.shapes("unet_tiny64")), place / "in" / "weights.safetensors"
  )
  with quick(), within(place):
    assert run(words("compare", place)) == (0, None)
  (place / "out").rename(place / "in" / "compared")
  (place / "in" / "settings.json").write_text('{"dps": {"steps": 2, "default": {"scale": 0.5}}}')
  return place


def save_trained_prior(folder):
  """Write an untrained prior as `diffinv train` writes it."""
  config = TrainConfig(config="faces", steps=1, attention=False, **TRAINING).resolved()
  weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), checkpoint.param_shapes(network.shape(config)))
  provenance = {"data": "faces", "seed": 0, "steps": 1, "settings": config.settings()}
  with jax.numpy_rank_promotion("allow"):
    checkpoint.save_prior(folder, network.make_prior(weights, config), network.shape(config), provenance)


# Chains and measures


def no_chains(keys, method, prior, problems, grid, *, progress=None, watch=None, **options):
  """Stand for `sample_batch`: give pictures at once."""
  shape = (*keys.shape, *(method.shape if problems is None else problems.operator.in_shape))
  if progress is not None:
    progress(1, 1)
  return np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32), {}


def no_measure(subject):
  """Stand for a measure of `evaluate`."""
  return Measured({"psnr": 1.0}, [Table("A table", ["", "PSNR"], [["prior", 1.0]], [2])])


def no_training(config, *_):
  """Stand for the functions of a training: a step counts, and every validation finds the weights better."""
  shapes = checkpoint.param_shapes(network.shape(config))
  weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
  up = lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree)
  metrics = dict.fromkeys(("loss", "grad_norm", "learning_rate", "skipped"), 0.0)
  first = lambda: weights if config.init is None else network.first_weights(config, jax.random.key(0))
  return Functions(
    init=lambda: TrainState(jnp.zeros((), jnp.int32), first(), weights, {"m": jnp.zeros(3)}),
    step=lambda state, x0, total: (TrainState(up(state.step), up(state.params), weights, state.opt_state), metrics),
    validate=lambda ema: Validation(np.float32(1), np.ones(len(VALIDATION_SBARS), np.float32)),
    sample=lambda ema: np.zeros((16, SIZE, SIZE, 3), np.float32),
    place=lambda batch: batch,
  )


@contextlib.contextmanager
def bounded(most):
  """Have small programs, quick chains, and no more memory than so many bytes."""
  jax.config.update("jax_disable_most_optimizations", True)
  with quick(), memory(most):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def quick():
  """Let nothing take time that is not the command's own."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training_run, "build", no_training)
    patch.setattr(os, "fsync", lambda descriptor: None)
    patch.setattr(batch, "sample_batch", no_chains)
    patch.setattr(tune, "sample_batch", no_chains)
    patch.setattr(denoising, "measure", no_measure)
    patch.setattr(tables, "run", lambda *args, **options: iter(()))
    for name in ("cost", "coverage"):
      patch.setattr(figures, name, lambda *args: "<svg></svg>")
    yield


@contextlib.contextmanager
def accepting():
  """Let every command end where it would begin to work."""

  def accept(*args, **options):
    raise Accepted

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(output.Folder, "held", accept)
    patch.setattr(state_dicts, "read_state_dict", accept)
    patch.setattr(training_data, "open_data", accept)
    patch.setattr(train_command, "supervised", accept)
    yield


@contextlib.contextmanager
def within(place):
  """Be in the current folder and the home of a place."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(place / "here")
    patch.setenv("HOME", str(place / "home"))
    patch.setenv(shared.CACHE_VARIABLE, "")
    yield


@contextlib.contextmanager
def memory(most):
  """Fail if this process takes so many bytes more than it has; address space that is not used does not count."""
  with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak of before
  before = _peak()
  yield
  assert _peak() - before < most


def _peak():
  status = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def build_states(world):
  """Make what may lie in the place of an output, in a folder each: of every command finished and, if it can be, not."""
  place = world / "states"
  for command in (*RUNNING, "evaluate", "train"):
    out = OUTPUTS.get(command, "out")
    (place / f"{command}-finished").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
      if command == "tune":  # which leaves nothing else at its end
        unfinished = place / "tune-unfinished" / "out.json.running"
        keep = lambda run: shutil.copytree(run.partial, unfinished, ignore=shutil.ignore_patterns(LOCK))
        patch.setattr(runs.RunFolder, "discard", lambda run, real=runs.RunFolder.discard: (keep(run), real(run)))
      assert run(words(command, world)) == (0, None)
    (world / out).rename(place / f"{command}-finished" / out)
  (place / "train-unfinished").mkdir()
  (world / "out.training").rename(place / "train-unfinished" / "out.training")
  for command in RUNNING[:3]:
    unfinished = place / f"{command}-unfinished" / "out.running"
    shutil.copytree(place / f"{command}-finished" / "out", unfinished)
    for name in (RESULTS, page.PAGE):
      (unfinished / name).unlink(missing_ok=True)
  (place / "settings").mkdir()
  shutil.copy(world / "in" / "settings.json", place / "settings")
  shutil.copytree(world / "in" / "prior", place / "prior" / "prior")
  return place


# What a command says and leaves


def run(arguments):
  """Run a command, which fails where it waits forever.

  Returns:
    its status, None where it was about to begin its work; and the error that it ended with.
  """
  caught = [None]

  def hang(number, frame):
    raise Hangs(arguments)

  def exit_code(error, real=errors.exit_code):
    caught.append(error)
    return real(error)

  before = signal.signal(signal.SIGALRM, hang)
  signal.alarm(SECONDS)
  try:
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(errors, "exit_code", exit_code)
      return main.execute([str(word) for word in arguments]), caught[-1]
  except Accepted:
    return None, None
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def is_foreseen(error):
  """Tell whether a statement of this package, or the system, says what is wrong, and not a library by chance."""
  if error.__cause__ is not None:
    return is_foreseen(error.__cause__)
  return isinstance(error, OSError) or errors._is_ours(error)


def snapshot(folder, but=()):
  """Return everything in a folder by name, with the contents of files; links and what is no file are not opened."""
  found = {}
  for root, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if os.path.join(root, name) not in but]
    for name in (*folders, *names):
      path = os.path.join(root, name)
      status = os.lstat(path)
      whole = stat.S_ISREG(status.st_mode) and status.st_size < 2**24
      found[path] = (status.st_mode, _contents(path) if whole else None)
  return found


def _contents(path):
  with open(path, "rb") as file:
    return file.read()


def error_line(said):
  """Return the one line in which a command says what is wrong; notes, and what data is there, may come before it."""
  *notes, last = said.splitlines()
  assert all(line.startswith(("note: ", "data: ")) for line in notes), said
  assert last.startswith("diffinv: error: "), said
  assert "not enough memory" not in last, said
  return last
