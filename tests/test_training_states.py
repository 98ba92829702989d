"""What a run keeps: damage, a full disk and the end of the process end in the weights of a run without them."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from test_faults import WAYS, Dead, Disk, watch

from diffinv import errors, output, stopping
from diffinv.priors import arrays
from diffinv.priors.folder import param_shapes
from diffinv.training import data as training_data
from diffinv.training import network, plan, run_folder
from diffinv.training import run as training_run
from diffinv.training.config import TrainConfig
from diffinv.training.functions import VALIDATION_SBARS, Functions
from diffinv.training.run import train
from diffinv.training.step import TrainState, Validation

TINY = {"size": 8, "channels": 8, "multipliers": (1,), "middle_blocks": 1, "embedding": 16, "devices": 1}
CONFIG = TrainConfig(data="faces", steps=4, validate_every=2, sample_every=4, save_seconds=0.0, log_every=2, **TINY)


def write_arrays(folder, params):
  """Write the arrays of a prior in one file, in place of the many that Orbax makes."""
  folder.mkdir()
  with open(folder / "arrays", "wb") as file:
    np.savez(file, **arrays.flat(params))


def read_arrays(folder, shapes, expected):
  params = traverse_util.unflatten_dict(load(folder / "arrays"), sep="/")
  assert arrays.digests(params) == expected
  return params


def load(path):
  with np.load(path) as found:
    return dict(found)


def up(tree):
  return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf) + 1, tree))


STOPS = []  # the steps in which the next runs are told to stop, each once


def step(state, x0, total):
  """Add one to each weight."""
  if int(state.step) + 1 in STOPS:
    STOPS.remove(int(state.step) + 1)
    os.kill(os.getpid(), signal.SIGTERM)
  metrics = dict.fromkeys(("loss", "grad_norm", "learning_rate", "skipped"), 0.0)
  return TrainState(state.step + 1, up(state.params), up(state.ema), state.opt_state), metrics


def validate(ema):
  """Find each validation better than the one before."""
  return Validation(1 / (1 + np.asarray(jax.tree.leaves(ema)[0]).ravel()[0]), np.ones(len(VALIDATION_SBARS)))


@pytest.fixture(scope="module", autouse=True)
def counting():
  """Let runs only count their steps: nothing is compiled."""
  weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), param_shapes(network.shape(CONFIG.resolved())))
  begin = lambda: TrainState(jnp.zeros((), jnp.int32), weights, weights, {"m": jnp.zeros(3)})
  functions = Functions(begin, step, validate, lambda ema: np.zeros((16, 8, 8, 3), np.float32), lambda batch: batch)
  data = training_data.Data(lambda start, stop: (i for i in range(start, stop)), np.zeros((1, 8, 8, 3)), [], dict)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(plan, "code_commit", lambda: None)
    patch.setattr(training_run, "build", lambda *_: functions)
    patch.setattr(training_data, "open_data", lambda *_: data)
    yield


def run(folder, **where):
  """Train, or go on; return what was said."""
  said = []
  train(CONFIG, folder / "p", report=lambda line, **_: said.append(line), **where)
  return said


def result(folder):
  """What a run ends in: the prior, the last state, and which files there are."""
  place = folder / "p.training"
  state = load(place / "states" / "00000004.npz")
  names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
  names = [name for name in names if name != output.LOCK]  # which a process leaves that is killed, and no one minds
  lines = [json.loads(line)["step"] for line in (place / "log.jsonl").read_text().splitlines()]
  about = json.loads((folder / "p" / "prior.json").read_text())
  return {name: value.tobytes() for name, value in state.items()}, names, lines, about


@pytest.fixture(scope="module")
def whole(tmp_path_factory, counting):
  """The folder of a run without any harm."""
  folder = tmp_path_factory.mktemp("whole")
  run(folder)
  return folder


@pytest.fixture(scope="module")
def expected(whole):
  """What a run without any harm ends in."""
  return result(whole)


@pytest.fixture
def complete(tmp_path, whole):
  """A run that was complete when its prior was lost."""
  shutil.copytree(whole / "p.training", tmp_path / "p.training")
  return tmp_path


@pytest.fixture(scope="module")
def begun(tmp_path_factory, counting):
  folder = tmp_path_factory.mktemp("begun")
  STOPS.append(3)
  with pytest.raises(stopping.Stopped, match="3 steps are saved; the same command goes on from there"):
    run(folder)
  return folder


@pytest.fixture
def three(tmp_path, begun):
  """A run that was stopped after three steps: the states of the last two are there."""
  shutil.copytree(begun / "p.training", tmp_path / "p.training")
  return tmp_path


# Damage


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def change(path, value, member=None):
  """Write another value into a file of arrays, as if it belonged there."""
  found = load(path)
  np.savez(path, **{**found, member or next(iter(found)): value})


def edit(path, **fields):
  change(path, member="about", value=np.array(json.dumps({**json.loads(str(load(path)["about"])), **fields})))


def compress(path):
  found = load(path)
  np.savez_compressed(path, **found)


def exchange(path):
  path.unlink()
  os.mkfifo(path)


HARM = {
  "a bit": flip,
  "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
  "empty": lambda path: os.truncate(path, 0),
  "longer": lambda path: os.truncate(path, 10**12),
  "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
  "text": lambda path: path.write_text("text"),
  "a number": lambda path: change(path, np.int32(7)),
  "an array of objects": lambda path: change(path, np.array([None])),
  "another step": lambda path: edit(path, step=1),
  "other measurements": lambda path: edit(path, info={"step": 2, "loss": -1.0, "psnr": {}}),
  "no digests": lambda path: edit(path, digests={}),
  "what is not a table": lambda path: change(path, np.array("[]"), "about"),
  "compressed": compress,
  "a FIFO": exchange,
}


OTHER_STEP = {"the state before": lambda path: shutil.copy(path.with_name("00000002.npz"), path)}


@pytest.mark.parametrize("harm", [*HARM.values(), *OTHER_STEP.values()], ids=[*HARM, *OTHER_STEP])
def test_of_a_damaged_state_the_one_before_is_taken_and_that_is_said_once(three, expected, harm):
  harm(three / "p.training" / "states" / "00000003.npz")
  said = run(three)
  assert said[0] == "note: the state of step 3 is damaged; going on from step 2" and said[2] == "going on from step 2"
  assert sum(line.startswith("note: ") for line in said) == 1
  assert result(three) == expected


def test_every_array_of_a_state_is_checked(three):
  path = three / "p.training" / "states" / "00000003.npz"
  before = path.read_bytes()
  for name, value in load(path).items():
    if value.dtype.kind == "U":
      continue
    other = value.copy()
    other.reshape(-1).view(np.uint8)[0] ^= 1
    change(path, other, name)
    with pytest.raises(ValueError, match="expected the arrays of its digests, got others"):
      read(three, 3)
    path.write_bytes(before)
  read(three, 3)


def read(folder, step):
  """Read a state as a run does that goes on."""
  with run_folder.beside(folder / "p").held() as place:
    return run_folder.States(place, "states").read(step, training_run.build().init())


def test_a_run_without_a_whole_state_ends_with_a_line_and_restart_helps(three, expected):
  for path in (three / "p.training" / "states").iterdir():
    flip(path)
  before = sorted(path.name for path in (three / "p.training").rglob("*"))
  with pytest.raises(ValueError, match="expected a state to go on from, the 2 there are damaged .*; start again with"):
    run(three)
  assert sorted(path.name for path in (three / "p.training").rglob("*")) == before  # someone may mend them
  run(three, restart=True)
  assert result(three) == expected


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_damaged_best_weights_are_forgotten_and_the_next_validation_decides(three, expected, harm):
  harm(three / "p.training" / "best" / "00000002.npz")
  said = run(three)
  assert [line for line in said if line.startswith("note: ")] == [BEST.format(2)]
  assert result(three) == expected


BEST = "note: the best weights, of step {}, are damaged; a validation decides anew"


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_damaged_best_weights_of_a_complete_run_are_those_of_its_end(complete, expected, harm):
  harm(complete / "p.training" / "best" / "00000004.npz")
  said = run(complete)
  assert [line for line in said if line.startswith("note: ")] == [BEST.format(4)]
  assert result(complete)[3] == expected[3]


@pytest.mark.parametrize(
  "text", ("", "{", "[]", "null", '{"step": "2"}', '{"loss": 1.0}', "\0\0\0", "\xff", "[" * 9000)
)
@pytest.mark.parametrize("end", ("", "\n"), ids=("torn", "a line"))
def test_a_damaged_log_never_ends_a_run(three, expected, text, end):
  log = three / "p.training" / "log.jsonl"
  log.write_bytes(log.read_bytes() + text.encode("latin-1") + end.encode())
  said = run(three)
  assert sum(line.startswith("note: ") for line in said) == bool(end)
  assert result(three) == expected


def test_a_log_that_is_lost_is_begun_anew(three, expected):
  (three / "p.training" / "log.jsonl").unlink()
  run(three)
  assert result(three)[0] == expected[0] and result(three)[3] == expected[3]


def test_a_stop_before_the_prior_is_written_leaves_all_steps(tmp_path, expected, monkeypatch):
  loop = training_run.loop

  def then_told(*args, **where):
    state = loop(*args, **where)
    os.kill(os.getpid(), signal.SIGTERM)
    return state

  monkeypatch.setattr(training_run, "loop", then_told)
  with pytest.raises(stopping.Stopped, match="told to stop; all steps are saved; the same command goes on from there"):
    run(tmp_path)
  assert not (tmp_path / "p").exists()
  monkeypatch.undo()
  run(tmp_path)
  assert result(tmp_path) == expected


# A full disk, and the end of the process, at every request to the file system


@pytest.fixture
def quick(monkeypatch):
  """Ask everything of the disk, and let it take no time."""
  monkeypatch.setattr(os, "fsync", lambda _: None)
  monkeypatch.setattr(arrays, "write", write_arrays)
  monkeypatch.setattr(arrays, "read", read_arrays)


def harmed(folder, at, way):
  """Train, and be let down at a request; return whether there were so many."""
  disk = Disk(folder, at, way)
  try:
    with watch(disk):
      run(folder)
  except Dead:
    pass
  except OSError as error:
    said = errors.one_line(error)
    assert said.startswith("No space left on device") and "\n" not in said
  return disk.count >= at


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_whatever_request_fails_the_same_call_ends_in_the_same_weights(tmp_path, expected, quick, way):
  at, reached = 0, True
  while reached:
    at += 1
    folder = tmp_path / str(at)
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    reached = harmed(folder, at, way)
    if not (folder / "p").exists():
      assert not any(line.startswith("note: ") for line in run(folder)), at
    assert result(folder) == expected, at
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "p", "p.training"], at
    shutil.rmtree(folder)
  assert at > 100
