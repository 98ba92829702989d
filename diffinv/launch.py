"""A command that runs as several processes, on one machine or many: how they find each other, and who does what.

JAX's distributed runtime does it: `jax.distributed.initialize` with what flags say, or what Slurm, a TPU pod, Open MPI
or Kubernetes say in the environment. Work that needs no other process is done as by one process alone, with its own
devices and programs; a child (`diffinv.member`) belongs to the launch on its behalf. When the runtime finds that a
process is lost, it ends the children, and each process ends with a line that says so.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax

from diffinv import errors, member, options
from diffinv.options import option

T = TypeVar("T")

MOST_PROCESSES = 65_536
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


ALONE = Team()


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
    about = self._heard.get() or {"error": "the runtime ended"}
    if "error" in about:
      raise errors.UsageError(f"`distributed`: expected to join the other processes, got: {about['error']}")
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
    self._heard.get()

  def leave(self) -> None:
    """Wait until all processes leave."""
    self._tell(member.LEAVE)
    self._heard.get()

  def part(self, seconds: float) -> None:
    """Leave for good, whether the others do so within so many seconds or not."""
    self._leaving = True
    self._tell(member.LEAVE)
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._child.wait(seconds)
    self._child.kill()

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
