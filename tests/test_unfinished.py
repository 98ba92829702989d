"""Chains that are stopped: what is left of them, and that the same command goes on with them to the same bits."""

import dataclasses
import errno
import json
import os
import signal

import numpy as np
import pytest

from diffinv import archives, batch, stopping
from diffinv.apps import main
from diffinv.data import images
from diffinv.manifest import Manifest
from diffinv.noise import Gaussian
from diffinv.problems import Problem
from diffinv.studies import jobs, restoration, restore, runs, unfinished

STEPS = 6  # each a block


class Dead(BaseException):
  """The process has ended."""


@pytest.fixture(autouse=True)
def kept(monkeypatch):
  """Chains are kept after every block."""
  monkeypatch.setattr(unfinished, "EVERY", 0.0)
  monkeypatch.setattr(unfinished, "STATES", np.inf)
  monkeypatch.setattr(unfinished, "PICTURES", np.inf)
  monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def blocks(monkeypatch):
  """The chains' blocks: what happens in the one of a number, counted from 1, and how many there were."""
  advance, happens, done = batch._advance, {}, []

  def counted(*args):
    done.append(args)
    happens.pop(len(done), lambda: None)()
    return advance(*args)

  counted.lower = advance.lower
  monkeypatch.setattr(batch, "_advance", counted)
  return happens, done


@pytest.fixture
def restored(monkeypatch):
  """The arrays that every part of a restoration came to."""
  real, found = restore.run_chains, []

  def run_chains(*args):
    got = real(*args)
    found.append(got.images)
    return got

  monkeypatch.setattr(restore, "run_chains", run_chains)
  return found


@pytest.fixture(autouse=True)
def interruptible():
  """Ctrl-C has the handler that Python gives it: a command in the background would have one that ignores it."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def die():
  raise Dead


def told(number=signal.SIGTERM):
  return lambda: signal.raise_signal(number)


def command(folder, *flags):
  """Return a command line that restores one picture, or what `flags` say."""
  if not (folder / "x.png").exists():
    images.write(folder / "x.png", np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)))
  says = any(flag.startswith(("--measurement", "--input")) for flag in flags)
  given = () if says else (f"--input={folder / 'x.png'}",)
  fixed = ("--prior=natural", "--method=dps", f"--steps={STEPS}", "--compilation_cache=", f"--output={folder / 'out'}")
  return ["reconstruct", "--task=denoising", *fixed, *given, *flags]


def run(folder, *flags):
  """Run it; return its status, None where the process ended."""
  try:
    return main.execute(command(folder, *flags))
  except Dead:
    return None


def check_the_same(folder, restored, *flags):
  """Check that what was restored last is what a run without any harm restores, and that nothing else is left."""
  last = restored[-1]
  assert not (folder / "out" / runs.UNFINISHED).exists() and not (folder / "out.running").exists()
  assert Manifest.read(folder / "out").foreign() == []
  assert not any("unfinished" in name for name in Manifest.read(folder / "out").names)
  assert run(folder, *flags, f"--output={folder / 'whole'}") == 0
  for got, want in zip(last, restored[-1], strict=True):
    np.testing.assert_array_equal(got, want)
  for path in (folder / "whole").glob("*.png"):
    assert path.read_bytes() == (folder / "out" / path.name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("block", [1, STEPS - 1])
def test_a_stop_leaves_the_chain_and_the_same_command_goes_on_with_it(
  number, block, blocks, restored, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(unfinished, "EVERY", 1e9)  # a stop alone is reason enough
  happens, done = blocks
  happens[block] = told(number)
  assert run(tmp_path) == 128 + number
  said = capsys.readouterr().err
  picture = tmp_path / "out.running" / runs.UNFINISHED / "x.png"
  assert f"of x, {block} of {STEPS} steps are kept; {picture} shows what there is so far" in said
  assert f"give the same command again to go on with {tmp_path / 'out.running'}" in said
  assert images.read(picture).shape == (16, 16, 3)
  assert Manifest.read(tmp_path / "out.running").foreign() == []
  done.clear()
  assert run(tmp_path) == 0
  assert len(done) == STEPS - block
  assert f"going on with x after step {block} of {STEPS}" in capsys.readouterr().err
  check_the_same(tmp_path, restored)


@pytest.mark.parametrize("method", ["red_diff", "daps"])
def test_a_process_that_is_killed_goes_on_from_what_was_kept_last(method, blocks, restored, tmp_path, capsys):
  happens, done = blocks
  happens[4] = die
  assert run(tmp_path, f"--method={method}") is None
  assert archives.read(tmp_path / "out.running" / unfinished.CHAINS, most=10**6).step == 3
  done.clear()
  assert run(tmp_path, f"--method={method}") == 0
  assert len(done) == STEPS - 3
  check_the_same(tmp_path, restored, f"--method={method}")


def test_chains_that_run_one_after_the_other_go_on_where_they_were(blocks, restored, tmp_path, capsys):
  flags = ("--num_samples=3", "--batch_size=1")
  happens, done = blocks
  happens[STEPS + 4] = die
  assert run(tmp_path, *flags) is None
  done.clear()
  happens[2] = told()
  assert run(tmp_path, *flags) == 143
  said = capsys.readouterr().err
  assert f"after step {STEPS + 3} of {3 * STEPS}" in said and f"{STEPS + 5} of {3 * STEPS} steps are kept" in said
  done.clear()
  assert run(tmp_path, *flags) == 0
  assert len(done) == 2 * STEPS - 5
  check_the_same(tmp_path, restored, *flags)


def test_pictures_that_run_at_once_are_kept_together_and_finished_ones_are_not_run_again(
  blocks, restored, tmp_path, capsys
):
  for name in "abc":
    images.write(tmp_path / f"{name}.png", np.random.default_rng(ord(name)).uniform(-1, 1, (16, 16, 3)))
  flags = ("--batch_size=2", *(f"--input={tmp_path / name}.png" for name in "abc"))
  happens, done = blocks
  happens[STEPS] = die
  assert run(tmp_path, *flags) is None
  kept = tmp_path / "out.running" / runs.UNFINISHED
  assert sorted(path.name for path in kept.iterdir()) == ["a.png", "b.png", "chains.npz"]
  done.clear()
  happens[3] = told()  # two blocks into the part of c, and of a copy of it
  assert run(tmp_path, *flags) == 143
  assert f"of c, 2 of {STEPS} steps are kept" in capsys.readouterr().err
  assert sorted(path.name for path in kept.iterdir()) == ["c.png", "chains.npz"]
  assert run(tmp_path, *flags) == 0
  assert f"after step 2 of {STEPS}" in capsys.readouterr().err
  restored.pop(0)  # of a and b
  check_the_same(tmp_path, restored, *flags)


def test_what_is_shown_is_the_estimate_of_the_chains_the_mean_of_the_samples(blocks, tmp_path, monkeypatch):
  seen, look = [], unfinished.Unfinished.look

  def watched(self, view, compiled):
    seen.append(np.asarray(view.estimate()))
    look(self, view, compiled)

  monkeypatch.setattr(unfinished.Unfinished, "look", watched)
  blocks[0][4] = told()
  assert run(tmp_path, "--num_samples=2") == 143
  assert seen[-1].shape == (2, 16, 16, 3) and np.std(seen[-1][0] - seen[-1][1]) > 0.01
  shown = images.read(tmp_path / "out.running" / runs.UNFINISHED / "x.png")
  np.testing.assert_allclose(shown, np.clip(np.mean(seen[-1], axis=0), -1, 1), atol=1 / 255 + 1e-6)


def test_what_is_shown_of_a_blurred_measurement_has_its_size_without_the_border(blocks, tmp_path):
  np.save(tmp_path / "y.npy", np.zeros((24, 20, 3), np.float32))
  blocks[0][2] = told()
  flags = ("--task=motion_blur", "--blur=motion:5,0", "--sigma=0.1")
  assert run(tmp_path, f"--measurement={tmp_path / 'y.npy'}", *flags) == 143
  assert images.read(tmp_path / "out.running" / runs.UNFINISHED / "y.png").shape == (24, 20, 3)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 16
  path.write_bytes(data)


def large(path):
  """Say of an array that it has more numbers than the file has bytes."""
  data = path.read_bytes()
  assert b"'shape': (1, 16, 16, 3)" in data
  path.write_bytes(data.replace(b"'shape': (1, 16, 16, 3)", b"'shape': (9, 96, 96, 9)"))


def of_others(path):
  step, arrays, info = archives.read(path, most=10**6)
  archives.write(path, arrays, step=step, info={**info, "digest": "0" * 64})


HARM = {
  "a bit": (flip, "is damaged; its chains begin anew"),
  "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged; its chains begin anew"),
  "a huge shape": (large, "is damaged; its chains begin anew"),
  "of other chains": (of_others, "is of chains that ran otherwise, or of other pictures; these begin anew"),
  "gone": (lambda path: path.unlink(), ""),
}


@pytest.mark.parametrize("harm, said", HARM.values(), ids=HARM)
def test_chains_whose_state_is_damaged_begin_anew_and_a_line_says_so(harm, said, blocks, restored, tmp_path, capsys):
  happens, done = blocks
  happens[4] = die
  assert run(tmp_path) is None
  harm(tmp_path / "out.running" / unfinished.CHAINS)
  done.clear()
  capsys.readouterr()
  assert run(tmp_path) == 0
  assert len(done) == STEPS
  notes = [line for line in capsys.readouterr().err.splitlines() if "begin anew" in line or "going on" in line]
  assert len(notes) == bool(said) and all(said in line for line in notes)
  check_the_same(tmp_path, restored)


@pytest.mark.parametrize("changed", ["the noise", "how many run at once"])
def test_a_state_is_of_its_measurement_and_its_layout(changed, tmp_path):
  """The plan does not tell: a blur or a sigma that was found is not in it, and `batch_size` may change."""
  picture = command(tmp_path)[-1].partition("=")[2]
  config = restoration.Restoration(input=picture, task="denoising", prior="natural", method="dps", num_samples=4)
  job = jobs.plan(config)
  run = runs.RunFolder(tmp_path / "out", restore.describe(job, tmp_path / "out"), kind=runs.RESTORATION)
  problem, _ = job.load(job.cases[0])
  digest = lambda job, problem: restore._kept(run, job, job.cases, [problem], 1)._digest
  if changed == "the noise":
    other = digest(job, Problem(problem.operator, Gaussian(0.3), problem.y))
  else:
    other = digest(job._replace(config=dataclasses.replace(config, batch_size=2)), problem)
  assert digest(job, problem) == digest(job, problem) != other


@pytest.mark.parametrize("written", ["archives", "images"])
def test_a_disk_that_is_full_for_a_while_ends_no_chain(written, tmp_path, monkeypatch, capsys):
  def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "place")

  if written == "archives":
    monkeypatch.setattr(archives, "write", full)
  else:
    real = images.write
    monkeypatch.setattr(images, "write", lambda path, x: full() if runs.UNFINISHED in path.parts else real(path, x))
  assert run(tmp_path) == 0
  said = capsys.readouterr().err
  assert said.count("warning: what is unfinished cannot be kept: No space left on device: place") == 1
  assert json.loads((tmp_path / "out" / "results.json").read_text())["images"][0]["samples"]


def test_a_chain_that_left_the_finite_numbers_is_not_shown(blocks, tmp_path, monkeypatch):
  monkeypatch.setattr(batch, "_estimate", lambda states, *others: np.full(states.x.shape, np.nan))
  blocks[0][STEPS - 1] = told()
  assert run(tmp_path) == 143
  assert [path.name for path in (tmp_path / "out.running" / runs.UNFINISHED).iterdir()] == ["chains.npz"]


class Clock:
  """Time that passes when it is told to."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: self.now)


def test_what_takes_time_is_done_every_ten_seconds_or_in_its_share_of_the_time(monkeypatch):
  monkeypatch.undo()
  clock = Clock(monkeypatch)
  pace = unfinished._Pace(0.01)
  for seconds, due in ((9.9, False), (10.0, True)):
    clock.now = seconds
    assert pace.is_due() == due
  with pace.taken():
    clock.now += 0.5
  for seconds, due in ((49.9, False), (50.0, True)):
    clock.now = 10.5 + seconds
    assert pace.is_due() == due
  assert pace.seconds == 0.5


def test_a_stop_before_the_first_block_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(stopping, "check", lambda: (_ for _ in ()).throw(stopping.Stopped(signal.SIGTERM)))
  assert run(tmp_path) == 143
  assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]


@pytest.mark.parametrize("seconds, shown", [(1.0, False), (2.1, True)])
def test_a_picture_is_shown_of_chains_for_which_it_is_no_matter_to_compile_it(seconds, shown, tmp_path, monkeypatch):
  """Of chains of a hundred blocks: 3 seconds are more than 1.5 % of 100, and less than that of 210."""
  monkeypatch.undo()
  clock, written = Clock(monkeypatch), []
  kept = unfinished.Unfinished(runs.RunFolder(tmp_path / "out", {"settings": {}}), ["x"], 1, 1, [])
  monkeypatch.setattr(unfinished.Unfinished, "_write_state", lambda *_: written.append("state"))
  monkeypatch.setattr(unfinished.Unfinished, "_write_pictures", lambda *_: written.append("picture"))
  for done in range(12):
    kept.look(batch.View(np.array([0]), done, 100, *[None] * 3), 0.0)
    clock.now += seconds
  assert set(written) == {"state", *(["picture"] if shown else [])}
