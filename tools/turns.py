"""Processes that do the same work and take turns, for machines are noisy and libraries share a process badly.

A worker prints a line of JSON when it is ready, and then does for each line that it reads the job of that name and
prints the seconds that it took. `serve` is its end, `Worker` the other.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

PEAK = "peak"  # what is asked for in place of a job


class Seconds(NamedTuple):
  """What a call takes."""

  wall: float
  cpu: float  # over all cores


def seconds(call: Callable[[], object], calls: int = 1) -> Seconds:
  """Return the time of a call that returns when its work is done, the mean over `calls`."""
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(calls):
    call()
  return Seconds((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def serve(jobs: Mapping[str, Callable[[], object]], about: Mapping[str, Any], peak: Callable[[], float]) -> None:
  """Do each job once, say so, and then do those that are asked for until there is nothing more to read.

  Args:
    jobs: by name.
    about: what the other end is told of this one.
    peak: gives the most memory that the device has had in use, bytes.
  """
  for job in jobs.values():
    job()
  print(json.dumps({"ready": dict(about)}), flush=True)
  for line in sys.stdin:
    name = line.strip()
    print(json.dumps([peak()] if name == PEAK else seconds(jobs[name])), flush=True)


class Worker:
  """A process of its own that does jobs when it is asked to."""

  def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), text=True
    )
    self.about = self._read()["ready"]

  def do(self, job: str) -> Seconds:
    """Have a job done and return its time."""
    assert self._process.stdin is not None
    print(job, file=self._process.stdin, flush=True)
    return Seconds(*self._read())

  def peak(self) -> float:
    """Return the most memory that its device has had in use, bytes."""
    assert self._process.stdin is not None
    print(PEAK, file=self._process.stdin, flush=True)
    return float(self._read()[0])

  def end(self) -> None:
    """End the process."""
    self._process.communicate()

  def _read(self):
    assert self._process.stdout is not None
    for line in self._process.stdout:
      if line.startswith(("{", "[")):
        return json.loads(line)
    raise RuntimeError(f"a worker ended with exit code {self._process.wait()}; its own message says why")


def rounds(workers: Mapping[str, Worker], jobs: Sequence[str], count: int) -> dict[tuple[str, str], list[Seconds]]:
  """Return the times of every worker and job, in `count` rounds; who begins changes from round to round."""
  found: dict[tuple[str, str], list[Seconds]] = {(name, job): [] for name in workers for job in jobs}
  for number in range(count):
    for job in jobs:
      for name in sorted(workers, reverse=number % 2 == 1):
        found[name, job].append(workers[name].do(job))
  return found


def ratio(ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> tuple[float, float, float]:
  """Return the ratio of the median times, and the least and the greatest of a round."""
  each = [a.wall / b.wall for a, b in zip(ours, theirs, strict=True)]
  median = statistics.median(a.wall for a in ours) / statistics.median(b.wall for b in theirs)
  return median, min(each), max(each)
