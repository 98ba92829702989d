"""Every write of every command fails, ends the process or is told to stop; the same command then finishes, the same.

A run on a tiny case asks the file system for some dozens of things. For every number n a fresh run is let down at its
nth request, in one of two ways:

  full   no request that needs space is granted from then on
  dead   nothing is done from then on, as the process has ended; a write is cut in two

Whatever is left then, the same command finishes, with the same files as a run that nothing disturbed, and all that
others put beside it is as it was.
"""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

from diffinv import files, stopping
from diffinv.apps import main
from diffinv.data import images
from diffinv.manifest import NAME, Manifest
from diffinv.priors.arrays import PARAMS
from diffinv.priors.folder import load_prior, param_shapes, save_prior
from diffinv.report import page
from diffinv.studies import evaluate, unfinished
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.training import network
from diffinv.training.config import TrainConfig

ONE = "--prior=natural --steps=2 --compilation_cache="
COMMANDS = {
  "sample": f"sample {ONE} --size=16 --num_samples=2 --batch_size=1",
  "reconstruct": f"reconstruct {ONE} --input={{place}}/in/a.png --task=inpaint_random --method=ddrm --batch_size=1",
  "compare": f"compare {ONE} --data={{place}}/in/a.png --tasks=denoising --methods=ddrm --frames=0",
  "tune": f"tune {ONE} --data={{place}}/in/a.png --tasks=denoising --methods=dps --search=dps.scale=0.1,0.2",
  "report": "report {place}/compared",
  "evaluate": "evaluate --prior={place}/prior --measures=denoising,calibration --compilation_cache=",
}
OUTPUTS = {"tune": "out.json", "report": "out.html"}
WAYS = ("full", "dead")
NEEDS_SPACE = ("open", "os.mkdir", "os.rename", "write", "fsync")


class Dead(BaseException):
  """The process has ended."""


class Disk:
  """Count what is asked of the file system below a folder, and let it down at one request and after."""

  def __init__(self, folder, at=None, way=None):
    self.folder, self.at, self.way = str(folder), at, way
    self.count = 0
    self.down = False

  def asked(self, what, *paths):
    """Be told of a request; raise if it is not granted."""
    if not any(str(path).startswith(self.folder) for path in paths):
      return
    self.count += 1
    self.down = self.down or self.count == self.at
    if self.down and self.way == "dead":
      raise Dead
    if self.down and what in NEEDS_SPACE:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[0]))


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
watched: list[Disk] = []  # the one that the hook tells; hooks cannot be taken back


def hook(event, arguments):
  if not watched:
    return
  if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)) and arguments[2] & WRITES:
    watched[0].asked("open", os.fsdecode(arguments[0]))
  elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
    watched[0].asked(event, *(a for a in arguments[:2] if isinstance(a, (str, os.PathLike))))


sys.addaudithook(hook)


@contextlib.contextmanager
def watch(disk):
  """Let a disk see, and refuse, what is asked."""
  real = {name: getattr(os, name) for name in ("write", "fsync")}

  def write(descriptor, data):
    try:
      disk.asked("write", os.readlink(f"/proc/self/fd/{descriptor}"))
    except Dead:
      if disk.count == disk.at:
        real["write"](descriptor, data[: len(data) // 2])
      raise
    return real["write"](descriptor, data)

  def fsync(descriptor):
    disk.asked("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
    return real["fsync"](descriptor)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(files.os, "write", write)
    patch.setattr(files.os, "fsync", fsync)
    watched.append(disk)
    try:
      yield disk
    finally:
      watched.clear()


def tiny_prior():
  """Return a prior as `diffinv train --data=faces` writes it, but for training; its config; and where it is from."""
  shape = {"size": 8, "channels": 4, "multipliers": (1,), "blocks": 1, "middle_blocks": 1, "patch": 1, "embedding": 4}
  config = TrainConfig(data="faces", steps=1, **shape).resolved()
  weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(network.shape(config)))
  settings = {"data": "faces", "seed": 0, "steps": 1, "settings": config.settings()}
  return network.make_prior(weights, config), network.shape(config), settings


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
  """Make a folder with what commands read, and with what others put there."""
  template = tmp_path_factory.mktemp("template") / "place"
  (template / "in").mkdir(parents=True)
  images.write(template / "in" / "a.png", np.random.RandomState(0).uniform(-1, 1, (16, 16, 3)))
  for name in ("mine.txt", "out.mine", ".out.partial-1"):
    (template / name).write_text("mine")
  save_prior(template / "prior", *tiny_prior())
  assert run([*COMMANDS["compare"].format(place=template).split(), f"--output={template / 'compared'}"]) == 0
  return lambda place: pathlib.Path(shutil.copytree(template, place))


def words(command, place, *more):
  name = OUTPUTS.get(command, "out")
  return [*COMMANDS[command].format(place=place).split(), f"--output={place / name}", *more]


def run(arguments):
  """Run a command; return its status, None where the process ended."""
  with jax.numpy_rank_promotion("allow"):
    try:
      return main.execute(arguments)
    except Dead:
      return None


# What two runs may differ in: times, and the digests of what holds them.
VARIES = ("seconds", "compile_seconds", "run_seconds", "peak_bytes", "digest", "files", "output", "plan")


def plain(value):
  if isinstance(value, dict):
    return {name: plain(entry) for name, entry in value.items() if name not in VARIES}
  return [plain(entry) for entry in value] if isinstance(value, list) else value


def content(path, place):
  if path.name == NAME:
    return sorted(line for line in path.read_text().splitlines() if not line.startswith(f'"{PARAMS}/'))
  if path.suffix == ".md":
    return path.read_text().replace(str(place), "PLACE")
  if path.suffix in (".json", ".jsonl"):
    text = path.read_text().replace(str(place), "PLACE")
    return plain([json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text))
  return path.read_bytes()


def everything(place):
  """Return all files below a folder, with what is in them that is the same in every run.

  Of arrays, whose files are not, the digests in the description of their prior are looked at.
  """
  found = [path for path in place.rglob("*") if path.is_file() and PARAMS not in path.relative_to(place).parts]
  return {path.relative_to(place).as_posix(): content(path, place) for path in found}


@pytest.fixture(scope="module", autouse=True)
def quick_pages():
  """A page and measures that take no time to make."""
  measured = Measured({"value": 1.0}, [Table("A table", ["name", "value"], [["a", 1.0]], [1])])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(page, "html", lambda run: f"{len(run.rows)} rows")
    patch.setattr(evaluate, "measure", lambda *_: measured)
    yield


@pytest.fixture(scope="module", autouse=True)
def all_kept():
  """Chains that are kept after every block of steps, and so ask more of the disk."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(unfinished, "EVERY", 0.0)
    patch.setattr(unfinished, "STATES", np.inf)
    patch.setattr(unfinished, "PICTURES", np.inf)
    yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, prepare):
  """What each command leaves, and how much it asks for, where nothing goes wrong."""
  found = {}

  def of(command, *more, begin=prepare):
    key = (command, *more)
    if key not in found:
      place = begin(tmp_path_factory.mktemp(command) / "place")
      with watch(Disk(place)) as disk:
        assert run(words(command, place, *more)) == 0
      found[key] = (everything(place), disk.count)
    return found[key]

  return of


def check_every_request(command, way, expected, count, begin, tmp_path, capsys, *more):
  """Let a command down at each request; check that the same command then ends as if nothing had been."""
  assert count >= 5
  for n in range(1, count + 1):
    place = begin(tmp_path / f"{way}{n}" / "place")
    with watch(Disk(place, n, way)):
      status = run(words(command, place, *more))
    error = capsys.readouterr().err
    # Where the last requests are let down, the work may be done all the same.
    assert status == (None if way == "dead" else 1) or sorted(everything(place)) == sorted(expected), n
    if status == 1:
      assert error.count("diffinv: error: ") == 1 and "No space left on device" in error, (n, error)
      assert "Traceback" not in error, (n, error)
    assert run(words(command, place, *more)) == 0, (n, capsys.readouterr().err)
    assert everything(place) == expected, n
    shutil.rmtree(place.parent)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_whatever_request_fails_the_same_command_finishes_the_same(
  command, way, undisturbed, prepare, tmp_path, capsys
):
  expected, count = undisturbed(command)
  check_every_request(command, way, expected, count, prepare, tmp_path, capsys)


@pytest.fixture(scope="module")
def with_an_old_one(tmp_path_factory, prepare):
  """Begin with an output that is to be replaced."""
  old = prepare(tmp_path_factory.mktemp("old") / "place")
  assert run([*words("sample", old), "--seed=7", "--num_samples=1"]) == 0

  def begin(place):
    shutil.copytree(old, place)
    return place

  return begin


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_whatever_request_fails_what_is_replaced_is_whole_until_the_new_one_is(
  way, undisturbed, with_an_old_one, tmp_path, capsys
):
  expected, count = undisturbed("sample", "--overwrite", begin=with_an_old_one)
  check_every_request("sample", way, expected, count, with_an_old_one, tmp_path, capsys, "--overwrite")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_whatever_request_fails_a_prior_is_written_the_next_time(way, tmp_path, capsys):
  """What `convert` and `train` do at the end."""
  prior = tiny_prior()
  save = lambda place: save_prior(place / "out", *prior)
  with watch(Disk(tmp_path)) as disk:
    save(tmp_path)
  assert disk.count > 10
  for n in range(1, disk.count + 1):
    place = tmp_path / f"{n}"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with watch(Disk(place, n, way)), contextlib.suppress(Dead, OSError):
      save(place)
    save(place)
    assert sorted(path.name for path in place.iterdir()) == ["mine.txt", "out"], n
    load_prior(place / "out")  # checks the digests
    assert not Manifest.read(place / "out").foreign()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_wherever_it_is_told_to_stop_the_same_command_finishes_the_same(
  command, number, undisturbed, prepare, tmp_path, capsys, monkeypatch
):
  expected, _ = undisturbed(command)
  real, asked = stopping.check, []

  def check(at=None):
    asked.append(None)
    if len(asked) == at:
      raise stopping.Stopped(number)

  monkeypatch.setattr(stopping, "check", check)
  assert run(words(command, prepare(tmp_path / "all"))) == 0
  looks = len(asked)
  assert looks > 0
  for n in range(1, looks + 1):
    place = prepare(tmp_path / f"{n}")
    asked.clear()
    monkeypatch.setattr(stopping, "check", lambda n=n: check(n))
    assert run(words(command, place)) == 128 + number, n
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(stopping, "check", real)
    assert run(words(command, place)) == 0, n
    assert everything(place) == expected, n
