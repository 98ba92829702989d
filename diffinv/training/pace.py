"""How fast a run is, and how many steps fit into its time."""

import time
from collections.abc import Callable, Iterator
from typing import Any

UNKNOWN_STEPS = 2**30  # the length of a run whose speed is still being measured: no decay yet
MEASURED_STEPS = 20  # the speed of so many fixes the number of steps of a run of minutes; fewer than any warm-up
OVERHEAD = 0.04  # part of the time that goes into validation, samples and checkpoints, before that is known

Clock = Callable[[], float]  # seconds


class Meter:
  """Speed and time left, measured from the second step on: the first one compiles."""

  def __init__(self, batch_size: int, clock: Clock = time.monotonic):
    self._batch_size, self._clock, self.begun = batch_size, clock, clock()
    self._first: tuple[int, float] | None = None  # (step, time)
    self._waited = 0.0  # seconds for batches since then

  @property
  def marked(self) -> bool:
    """Whether the first step is over."""
    return self._first is not None

  def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches, and add up the time that they take to come."""
    while True:
      asked = self._clock()
      try:
        batch = next(batches)
      except StopIteration:
        return
      if self._first is not None:
        self._waited += self._clock() - asked
      yield batch

  def waiting(self) -> float:
    """Return which part of the time went into waiting for batches."""
    return 0.0 if self._first is None else self._waited / max(1e-9, self._clock() - self._first[1])

  def mark(self, step: int) -> None:
    """Begin to measure after the step that compiled; later calls do nothing."""
    if self._first is None:
      self._first = (step, self._clock())

  def seconds_a_step(self, step: int) -> float:
    """Return the mean so far, with validations and all else between steps."""
    first, then = self._start()
    return (self._clock() - then) / max(1, step - first)

  def rate(self, step: int) -> float | None:
    """Return images a second; None after the step that compiled."""
    return self._batch_size / max(1e-9, self.seconds_a_step(step)) if step > self._start()[0] else None

  def _start(self) -> tuple[int, float]:
    if self._first is None:
      raise RuntimeError("mark: expected a call after the first step, before any measurement")
    return self._first


class Pace:
  """How many steps a run of minutes takes, by its speed from step `first` to `last`; corrected at each `review`."""

  def __init__(self, minutes: float, *, step: int, ahead: int, warmup_steps: int, begun: float, clock: Clock):
    """Measure nothing yet.

    Args:
      minutes: that the run takes.
      step: the step after which it begins.
      ahead: batches that are prepared while the first step compiles.
      warmup_steps: of the learning rate, which depends on the number of steps only after them.
      begun: when the run began, by `clock`.
      clock: seconds.
    """
    self._minutes, self._begun, self._clock = minutes, begun, clock
    # Batches that were prepared while the first step compiled would make the data look faster than it is.
    self.last = step + 1 + min(ahead + MEASURED_STEPS, max(1, warmup_steps - 1))
    self.first = max(step + 1, self.last - MEASURED_STEPS)
    self.review: int | None = None  # the step of the next correction, once there is a plan
    self._quarters = iter((1, 2, 3))  # of the run, after which it is still to be corrected
    self._since = (step, begun)  # the step and the time from which the speed is measured

  def begin(self, step: int) -> None:
    """Begin to measure, after `step`."""
    self._since = (step, self._clock())

  def plan(self) -> int:
    """Return the number of steps in all by the speed so far, after step `last`."""
    return self._go_on(self.last, self._total(self.last, 1 - OVERHEAD))

  def corrected(self) -> int:
    """Return the number of steps after step `review`, by what all since the one before took.

    That includes validations, samples and checkpoints. They were compiled in the first quarter, so that its time is too
    long; the second correction makes up for it.
    """
    step = self.review
    if step is None:
      raise RuntimeError("corrected: expected a plan before a correction")
    return self._go_on(step, self._total(step, 1.0))

  def _go_on(self, step: int, total: int) -> int:
    self.review = next((later for k in self._quarters if (later := total * k // 4) > step), None)
    self.begin(step)
    return total

  def _total(self, step: int, part: float) -> int:
    now, (since, then) = self._clock(), self._since
    left = 60 * self._minutes * part - (now - self._begun)
    return min(step + max(1, int(left * (step - since) / (now - then))), UNKNOWN_STEPS - 1)
