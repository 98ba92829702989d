"""What a command says while it works, on stderr: a progress bar with the time left, and notes.

The host calls the bar between compiled blocks, never from within: there the work can be stopped, see
`diffinv.stopping`. On a terminal and in a notebook the bar redraws one line. Elsewhere, as in a log, it prints a line
now and then: a long job shows signs of life, a short one stays quiet.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

from diffinv import stopping, text

WIDTH = 24  # characters of the bar
REDRAW_SECONDS = 0.1
LOG_SECONDS = 30.0
# When a rate is known: from so many intervals between reports, over such a part of the work or so long a time.
FEW, SHARE, KNOWN_SECONDS = 3, 0.02, 30.0
NOTEBOOK = "ipykernel"  # the package of the streams that Jupyter gives a program


def note(words: str) -> None:
  """Print a line on stderr about something that a person may want to know."""
  print(f"note: {text.visible(words)}", file=sys.stderr, flush=True)


def warn(words: str) -> None:
  """Print a line on stderr about something that is likely wrong."""
  print(f"warning: {text.visible(words)}", file=sys.stderr, flush=True)


class Bar:
  """Progress through parts of known weight; a context manager, within which signals to stop wait for a report.

  The time up to the first report of a part includes compilation; the rate is measured from then on. The slowest
  interval of a part is left out, as something may be compiled within it; the time left is shown once the rate is known.
  """

  def __init__(self, total: float, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
    """Start at zero.

    Args:
      total: the sum of the weights of all parts, in any unit.
      stream: where to draw; stderr.
      clock: seconds.
    """
    self._total, self._clock = total, clock
    self._stream = sys.stderr if stream is None else stream
    self._redraws = _redraws(self._stream)
    self._finished = 0.0  # weight of the finished parts
    self._measured = self._busy = 0.0  # weight done and seconds spent, compilation left out
    self._intervals = 0  # between reports that these are of
    self._drawn = clock() - (REDRAW_SECONDS if self._redraws else 0.0)
    self._width = 0
    self._within = contextlib.ExitStack()

  def __enter__(self) -> "Bar":
    self._within.enter_context(stopping.deferred())
    self._within.callback(self._clear)
    return self

  def __exit__(self, *error) -> None:
    self._within.__exit__(*error)

  def _clear(self) -> None:
    if self._redraws and self._width:
      self._stream.write("\r" + " " * self._width + "\r")
      self._stream.flush()

  def part(self, weight: float, label: str) -> Callable[[int, int], None]:
    """Begin the next part; return the function to call with (steps done, total steps).

    Raises:
      Stopped: by either, if a stop was asked for and the part is not done. What is done is there to be kept.
    """
    stopping.check()
    label = text.visible(label)
    last: tuple[float, float] | None = None  # (weight done, time) at the previous report
    pace = _Pace()
    self._draw(0.0, label)

    def report(done: int, total: int) -> None:
      nonlocal last
      if done < total:
        stopping.check()
      now, share = self._clock(), weight * done / total
      if last is not None:
        more, longer = pace.add(share - last[0], now - last[1])
        self._measured, self._busy = self._measured + more, self._busy + longer
        self._intervals += 1
      last = (share, now)
      if done >= total:
        self._finished += weight
        share = 0.0
      self._draw(share, label)

    return report

  def seconds_left(self, share: float = 0.0) -> float | None:
    """Return the seconds left when `share` of the current part is done; None while the rate is unknown."""
    seen = self._measured >= SHARE * self._total or self._busy >= KNOWN_SECONDS
    if self._intervals < FEW or not seen or not self._measured:
      return None
    return max(0.0, self._total - self._finished - share) * self._busy / self._measured

  def _draw(self, share: float, label: str) -> None:
    now = self._clock()
    if now - self._drawn < (REDRAW_SECONDS if self._redraws else LOG_SECONDS):
      return
    self._drawn = now
    fraction = min(1.0, (self._finished + share) / self._total)
    seconds = self.seconds_left(share)
    left = "" if seconds is None else f", {duration(seconds)} left"
    if not self._redraws:
      print(f"{fraction:4.0%} {label}{left}", file=self._stream, flush=True)
      return
    filled = round(fraction * WIDTH)
    line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {fraction:4.0%} {label}{left}"
    self._stream.write("\r" + line.ljust(self._width))
    self._stream.flush()
    self._width = len(line)


class _Pace:
  """What the intervals of a part tell of its rate: all but the slowest one, from the third on."""

  def __init__(self) -> None:
    self._count, self._slowest = 0, (1.0, 0.0)  # (weight, seconds)
    self._sum = self._told = (0.0, 0.0)

  def add(self, weight: float, seconds: float) -> tuple[float, float]:
    """Take an interval; return by how much the weight and the seconds that count grow."""
    self._count += 1
    self._sum = (self._sum[0] + weight, self._sum[1] + seconds)
    if seconds * self._slowest[0] > self._slowest[1] * weight:
      self._slowest = (weight, seconds)
    left_out = self._slowest if self._count >= FEW and self._slowest[1] else (0.0, 0.0)
    before, self._told = self._told, (self._sum[0] - left_out[0], self._sum[1] - left_out[1])
    return self._told[0] - before[0], self._told[1] - before[1]


def _redraws(stream: TextIO) -> bool:
  """Tell whether a carriage return takes a stream back to the start of the line: on a terminal, or in a notebook."""
  return stream.isatty() or type(stream).__module__.partition(".")[0] == NOTEBOOK


def duration(seconds: float) -> str:
  """Return "h:mm:ss" or "m:ss"."""
  minutes, rest = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
