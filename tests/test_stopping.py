"""Signals to stop: looked at between blocks, told from each other by the status, at once the second time."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import diffinv
from diffinv import batch, errors, stopping
from diffinv.apps import main
from diffinv.progress import Bar
from diffinv.studies.draw import Drawing, draw_all

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to stop", signal.SIGHUP: "told to stop"}
QUICK = {"prior": "natural", "size": 16, "steps": 5, "batch_size": 1}
BLOCKS = range(1, 11)  # of two chains of five steps, each step a block

each_signal = pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)


class Asked(Exception):
  """Raised by the handler that was there before."""


def handler(number, frame):
  raise Asked(number)


@pytest.fixture(autouse=True)
def before():
  """Signals have a handler of the test's, and have it again at the end."""
  kept = {number: signal.signal(number, handler) for number in WORDS}
  yield
  assert [signal.getsignal(number) for number in WORDS] == [handler] * len(WORDS)
  for number, was in kept.items():
    signal.signal(number, was)


@each_signal
def test_a_signal_waits_for_the_next_check(number, capfd):
  done = []
  with pytest.raises(stopping.Stopped, match=f"{WORDS[number]}; nothing was written") as stop, stopping.deferred():
    stopping.check()
    signal.raise_signal(number)
    done.append("the block")
    stopping.check()
    done.append("the next block")
  assert done == ["the block"] and stop.value.number == number
  assert capfd.readouterr().err == stopping.NOTICE.decode()


@each_signal
def test_a_second_signal_does_at_once_what_it_did_before(number, monkeypatch):
  monkeypatch.setattr(stopping, "AGAIN_SECONDS", -1.0)
  with pytest.raises(Asked), stopping.deferred():
    signal.raise_signal(number)
    signal.raise_signal(number)
    raise AssertionError


def test_two_signals_within_a_moment_are_one(monkeypatch):
  """As `timeout` sends them, to the process and then to its group."""
  monkeypatch.setattr(stopping, "AGAIN_SECONDS", 3600.0)
  with pytest.raises(stopping.Stopped), stopping.deferred():
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    stopping.check()


@each_signal
def test_a_signal_that_nothing_looked_at_is_handed_on(number):
  done = []
  with pytest.raises(Asked), stopping.deferred():
    signal.raise_signal(number)
    done.append("all")
  assert done == ["all"]


def test_an_error_goes_before_a_signal_that_nothing_looked_at():
  with pytest.raises(ValueError), stopping.deferred():
    signal.raise_signal(signal.SIGTERM)
    raise ValueError


def test_what_is_ignored_stays_ignored():
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with stopping.deferred():
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.raise_signal(signal.SIGHUP)
    stopping.check()
  signal.signal(signal.SIGHUP, handler)


def test_within_another_it_leaves_the_signal_to_the_outer_one():
  done = []
  with pytest.raises(stopping.Stopped), stopping.deferred():
    with stopping.deferred():
      signal.raise_signal(signal.SIGTERM)
    done.append("after the inner one")
    stopping.check()
  assert done == ["after the inner one"]


def test_in_a_thread_it_does_nothing():
  got = []

  def work():
    with stopping.deferred():
      stopping.check()
      got.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert got == [handler]


@each_signal
def test_an_interruption_keeps_the_signal_and_says_what_is_left(number):
  with pytest.raises(stopping.Stopped) as stop, errors.interruption("half of it is there"):
    raise stopping.Stopped(number)
  assert errors.one_line(stop.value) == f"{WORDS[number]}; half of it is there"
  assert errors.exit_code(stop.value) == 128 + number


def test_an_interruption_from_elsewhere_is_one_still():
  with pytest.raises(KeyboardInterrupt, match="interrupted; half") as stop, errors.interruption("half"):
    raise KeyboardInterrupt
  assert errors.exit_code(stop.value) == 130


@pytest.mark.parametrize("at, reached", [(None, []), (0, []), (1, [0]), (2, [0, 1, 2])])
def test_a_bar_stops_in_front_of_a_part_and_in_it_but_keeps_one_that_is_done(at, reached):
  """The signal comes before the report of so many steps of two."""
  got = []
  with pytest.raises(stopping.Stopped), Bar(2.0) as bar:
    if at is None:
      signal.raise_signal(signal.SIGTERM)
    report = bar.part(1.0, "a")
    for done in range(3):
      if at == done:
        signal.raise_signal(signal.SIGTERM)
      report(done, 2)
      got.append(done)
    bar.part(1.0, "b")
  assert got == reached


@pytest.fixture
def signal_at(monkeypatch):
  """Send a signal in the n-th block of all chains, counted from 1."""
  advance, blocks = batch._advance, []

  def send(number, block):
    def counted(*args):
      blocks.append(args)
      if len(blocks) == block:
        signal.raise_signal(number)
      return advance(*args)

    counted.lower = advance.lower
    monkeypatch.setattr(batch, "_advance", counted)
    return blocks

  return send


@pytest.mark.parametrize("block", BLOCKS)
def test_a_call_stops_after_the_block_in_which_it_was_asked_to(block, signal_at, tmp_path):
  blocks = signal_at(signal.SIGTERM, block)
  # What comes in the last block ends nothing, and is handed on when there is no more to be done.
  with pytest.raises(Asked if block == BLOCKS[-1] else stopping.Stopped):
    draw_all(Drawing(num_samples=2, **QUICK), tmp_path / "out")
  assert len(blocks) == block
  first_is_finished = block >= len(BLOCKS) // 2
  assert os.listdir(tmp_path) == (["out.running"] if first_is_finished else [])


@each_signal
@pytest.mark.parametrize("block", [1, 5, 9])
def test_a_command_that_is_stopped_has_the_status_of_the_signal(number, block, signal_at, tmp_path, capfd):
  signal_at(number, block)
  flags = [f"--{name}={value}" for name, value in QUICK.items()]
  line = ["sample", f"--output={tmp_path / 'out'}", "--num_samples=2", "--compilation_cache=", *flags]
  assert main.execute(line) == 128 + number
  said = capfd.readouterr()
  left, there = "nothing was written", []
  if block >= len(BLOCKS) // 2:  # the first picture is finished
    left, there = f"give the same command again to go on with {tmp_path / 'out.running'}", ["out.running"]
  assert said.err == f"{stopping.NOTICE.decode()}diffinv: error: {WORDS[number]}; {left}\n"
  assert said.out == "" and os.listdir(tmp_path) == there


def test_a_stopped_comparison_goes_on_to_the_same_rows(signal_at, tmp_path):
  picture = np.linspace(-1, 1, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
  chosen = {"tasks": ["denoising"], "methods": ["dps"], "data": [picture, -picture], "frames": 0}
  study = diffinv.Study(**{**QUICK, **chosen, "size": None})
  whole = diffinv.compare(study, tmp_path / "whole")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(batch, "_advance", batch._advance)  # to be put back
    signal_at(signal.SIGINT, 7)
    with pytest.raises(stopping.Stopped, match="interrupted; give the same command again to go on with .*out.running"):
      diffinv.compare(study, tmp_path / "out")
  again = diffinv.compare(study, tmp_path / "out")
  assert [row["psnr"] for row in again.records] == [row["psnr"] for row in whole.records]


BUSY = """
import hashlib
from diffinv import stopping
stopping.defer_in_process()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # minutes in one call, as a compilation can take
"""


@each_signal
def test_a_process_ends_at_the_second_signal_in_the_middle_of_a_long_call(number):
  with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
    child.stdout.readline()
    child.send_signal(number)
    assert child.stderr.readline() == stopping.NOTICE
    while child.poll() is None:
      child.send_signal(number)
      with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(2 * stopping.AGAIN_SECONDS)
    assert (child.returncode, child.stderr.read()) == (128 + number, b"")


LATE = """
import signal
from diffinv import stopping
class Last:
  def __del__(self, raise_signal=signal.raise_signal):
    raise_signal({number})  # when Python itself ends
last = Last()
stopping.defer_in_process()
signal.raise_signal({number})  # when all work is done
"""


@each_signal
def test_a_process_whose_work_is_done_ends_as_it_would_have(number):
  line = [sys.executable, "-c", LATE.format(number=int(number))]
  assert subprocess.run(line, capture_output=True).returncode == 0
