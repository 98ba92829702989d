"""A command that runs as several processes, on one machine or many: how they find each other, and who does what.

JAX's distributed runtime does it: `jax.distributed.initialize` with what flags say, or what Slurm, a TPU pod, Open MPI
or Kubernetes say in the environment. When the runtime finds that a process is lost, it ends all others, by abort. So
what belongs to it is a child of the process that was started, which ends with a line that says so:

- Work that needs no other process is done as by one process alone, with its own devices and programs; the child
  (`diffinv.member`) does nothing but belong (`joined`).
- Work on one program over the devices of all is done by the child, the same command once more (`supervised`, and in it
  `belonging`).
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffinv import errors, member, options, stopping
from diffinv.options import option

T = TypeVar("T")

MOST_PROCESSES = 65_536
AFTER_SECONDS = 10.0  # the time that the runtime takes to end what belongs to it, beyond `lost_after`
OF_LAUNCH = "DIFFINV_OF_LAUNCH"  # environment: set in the child of `supervised`
CHILD = "import os; from diffinv.apps import main; main.run(end=os._exit)"  # for the runtime's farewell it would wait
PAGES = re.compile(rb"[EWF]\d{4} \S+ +\d+ (coordination_service|preemption_sync|client\.h)|terminate called")
NOISE = re.compile(rb"\[Gloo\]|W\d{4} .*preemption_notifier")  # what libraries say of connections and of signals
LOOK_SECONDS = 0.5  # between looks for a stop while others are waited for
GRACE_SECONDS = 20.0  # for which a process that was told to stop waits for others that were told the same
AGAIN = "what is finished is kept; give the same command again to go on"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
  """Whether a command is one process of several, and how these find each other."""

  distributed: bool = option(
    False,
    "Share the work with the other processes of a launch, each of which is given the same command. Slurm, TPU pods, "
    "Open MPI and Kubernetes say which there are; elsewhere the three flags below do. See docs/scale.md.",
  )
  coordinator: str | None = option(None, "Where process 0 listens for the others, HOST:PORT. Not set: as above.")
  num_processes: int | None = option(
    None, "How many processes share the work. Not set: as above.", low=1, high=MOST_PROCESSES
  )
  process_id: int | None = option(
    None, "Which of them this one is, from 0. Not set: as above.", low=0, high=MOST_PROCESSES - 1
  )
  lost_after: int = option(
    100, "Seconds without a sign of life after which a process counts as lost, and the others end.", low=1, high=86_400
  )

  def __post_init__(self) -> None:
    options.check(self)
    said = [name for name in ("coordinator", "num_processes", "process_id") if getattr(self, name) is not None]
    if said and not self.distributed:
      raise errors.UsageError(f"`{said[0]}` is of `distributed`, got it alone; pass both, or leave it out")
    if None not in (self.num_processes, self.process_id) and self.process_id >= self.num_processes:  # type: ignore[operator]
      raise errors.UsageError(
        f"`process_id`: expected a number below `num_processes={self.num_processes}`, got {self.process_id}"
      )
    if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdecimal():
      raise errors.UsageError(f"`coordinator`: expected HOST:PORT, got {self.coordinator}")

  @property
  def address(self) -> dict[str, Any]:
    """What the processes are told to find each other."""
    names = ("coordinator", "num_processes", "process_id", "lost_after")
    return {name: getattr(self, name) for name in names}


class Team:
  """The processes that share a piece of work, seen from one of them; here the only one."""

  index, count = 0, 1

  def share(self, items: Sequence[T]) -> list[T]:
    """Return this process's share of what there is to do."""
    return list(items[self.index :: self.count])

  def meet(self) -> None:
    """Wait until all processes have come here."""

  def agree(self, number: int) -> int:
    """Return the number that the first process has."""
    return number

  def check(self, step: int) -> None:
    """Raise Stopped if a stop was asked for; of several processes, in all after the same step."""
    del step
    stopping.check()


ALONE = Team()


def _refusal(reason: Any) -> errors.UsageError:
  """Return the error of a process that could not join the others."""
  came = " ".join(str(reason).split())
  return errors.UsageError(
    f"`distributed`: expected to be told of the other processes, and to join them, got: {came}; "
    "pass `coordinator`, `num_processes` and `process_id`, or start it where a cluster says them"
  )


class Joined(Team):
  """The processes of a launch, seen from one that has joined it."""

  def __init__(self, config: Launch):
    """Join; wait for all others.

    Raises:
      UsageError: nobody says who they are, or they do not come.
    """
    self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    self._leaving = False
    self._child = subprocess.Popen(
      [sys.executable, "-P", str(pathlib.Path(member.__file__)), json.dumps(config.address)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=None if os.environ.get("DIFFINV_TRACEBACK") == "1" else subprocess.DEVNULL,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
      start_new_session=True,  # signals to stop are for the work
      text=True,
    )
    threading.Thread(target=self._listen, name="launch", daemon=True).start()
    about = self._answer() or {"error": "the runtime ended"}
    if "error" in about:
      raise _refusal(about["error"])
    self.index, self.count = about["index"], about["count"]
    if about["gpus"] != "all":
      for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
        jax.config.update(name, about["gpus"])

  def _listen(self) -> None:
    """Hand on what the child says; when it ends before it was told to, end this process."""
    assert self._child.stdout is not None
    known = left = False
    for line in self._child.stdout:
      if line.startswith("{"):  # libraries print other lines
        words = json.loads(line)
        known, left = known or "index" in words, left or "left" in words
        self._heard.put(words)
    if known and not (left or self._leaving):
      _end(f"process {self.index} of {self.count}: another process was lost or cannot be reached; {AGAIN}")
    self._heard.put(None)

  def meet(self) -> None:
    """Wait until all processes have come here."""
    self._tell(member.MEET)
    self._answer()

  def leave(self) -> None:
    """Wait until all processes leave."""
    self._tell(member.LEAVE)
    self._answer()

  def part(self, seconds: float) -> None:
    """Leave for good, whether the others do so within so many seconds or not."""
    self._leaving = True
    self._tell(member.LEAVE)
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._child.wait(seconds)
    self._child.kill()

  def _answer(self) -> dict[str, Any] | None:
    """Return what the child says next; None if it ends. Signals to stop are heard meanwhile."""
    while True:
      try:
        return self._heard.get(timeout=LOOK_SECONDS)
      except queue.Empty:
        stopping.check()

  def _tell(self, word: str) -> None:
    assert self._child.stdin is not None
    with contextlib.suppress(OSError):  # it has ended, which `_listen` hears
      print(word, file=self._child.stdin, flush=True)


def _end(message: str) -> None:
  """End this process with a line; what it was writing has a temporary name."""
  print(f"\ndiffinv: error: {message}" if sys.stderr.isatty() else f"diffinv: error: {message}", file=sys.stderr)
  sys.stderr.flush()
  os._exit(errors.EXIT_FAILURE)


@contextlib.contextmanager
def joined(config: Launch) -> Iterator[Team]:
  """Join the other processes for the work within; all leave together.

  Raises:
    UsageError: see `Joined`.
  """
  if not config.distributed:
    yield ALONE
    return
  team = Joined(config)
  try:
    yield team
  except BaseException as error:
    team.part(GRACE_SECONDS if isinstance(error, KeyboardInterrupt) else 0.0)
    raise
  team.leave()


# One program over the devices of all


class Belonging(Team):
  """The processes of a launch, seen from one that belongs to the runtime itself."""

  def __init__(self, config: Launch):
    """Join; wait for all others; end with the parent.

    Raises:
      UsageError: nobody says who they are, or they do not come.
    """
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
      member.initialize(**config.address)
    except (ValueError, RuntimeError) as error:
      raise _refusal(error) from None

  @property
  def index(self) -> int:  # type: ignore[override]
    """Which process this is."""
    return jax.process_index()

  @property
  def count(self) -> int:  # type: ignore[override]
    """How many there are."""
    return jax.process_count()

  def meet(self) -> None:
    """Wait until all processes have come here."""
    member.meet()

  def agree(self, number: int) -> int:
    """Return the number that the first process has."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

  def check(self, step: int) -> None:
    """Raise Stopped in all processes after the same step, if one of them was told to stop."""
    if multihost_utils.reached_preemption_sync_point(step):
      raise stopping.Stopped(signal.SIGTERM)


def _end_with_parent() -> None:
  sys.stdin.read()
  os._exit(errors.EXIT_FAILURE)


@contextlib.contextmanager
def belonging(config: Launch) -> Iterator[Team]:
  """Belong to the launch for the work within, in the child of `supervised`; alone where there is none.

  Raises:
    UsageError: see `Belonging`.
  """
  if not config.distributed:
    yield ALONE
    return
  team = Belonging(config)
  try:
    yield team
  except RuntimeError as error:
    if errors.exit_code(error) is None and team.count > 1:
      time.sleep(config.lost_after + AFTER_SECONDS)  # what failed may be that another is lost: then this one is ended
    raise
  jax.distributed.shutdown()


def is_child() -> bool:
  """Tell whether this process is the child of `supervised`."""
  return OF_LAUNCH in os.environ


def supervised(words: Sequence[str]) -> int:
  """Run a command line once more as a child that belongs to the launch; return its exit code.

  Signals to stop are handed on to it. What the runtime says when it ends the child is left out.

  Raises:
    ValueError: the runtime has ended it, as another process is lost.
  """
  child = subprocess.Popen(
    [sys.executable, "-c", CHILD, *words],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={**os.environ, OF_LAUNCH: "1"},
    start_new_session=True,  # signals come to it once, from here
  )
  for stop in stopping.STOPS:
    signal.signal(stop, lambda number, frame: child.send_signal(signal.SIGTERM))  # which the runtime makes known to all
  assert child.stdout is not None and child.stderr is not None
  relay = threading.Thread(target=_relay, args=(child.stdout, 1), daemon=True)
  relay.start()
  left = _relay(child.stderr, 2)
  relay.join()
  code = child.wait()
  if code == -signal.SIGABRT and left:
    raise ValueError(f"another process of the launch was lost or cannot be reached; {AGAIN}")
  os.write(2, left)
  return code if code >= 0 else errors.EXIT_SIGNAL - code


def _relay(stream: IO[bytes], descriptor: int) -> bytes:
  """Write the lines of a stream to a descriptor; return those from the pages of the runtime on, if it prints them."""
  held = b""
  for line in stream:
    if held or (PAGES.match(line) and os.environ.get("DIFFINV_TRACEBACK") != "1"):
      held += line
    elif not NOISE.match(line):
      with contextlib.suppress(OSError):  # nobody reads
        os.write(descriptor, line)
  return held
