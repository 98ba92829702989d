"""A progress bar with the time left, on stderr; called from the host between compiled blocks, outside of them.

On a terminal it redraws one line. Elsewhere, in a log, it prints a line now and then, so that a long job shows life and
a short one stays quiet.
"""

import sys
import time
from typing import Callable, TextIO

WIDTH = 24  # characters of the bar
REDRAW_SECONDS = 0.1
LOG_SECONDS = 30.0


class Bar:
  """Progress through parts of known weight; a context manager.

  The first report of a part includes compilation, so the rate is measured from there on.
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
    self._tty = self._stream.isatty()
    self._finished = 0.0  # weight of the finished parts
    self._measured = self._busy = 0.0  # weight done and seconds spent, compilation left out
    self._drawn = clock() - (REDRAW_SECONDS if self._tty else 0.0)
    self._width = 0

  def __enter__(self) -> "Bar":
    return self

  def __exit__(self, *_) -> None:
    if self._tty and self._width:
      self._stream.write("\r" + " " * self._width + "\r")
      self._stream.flush()

  def part(self, weight: float, label: str) -> Callable[[int, int], None]:
    """Begin the next part; return what to call with (steps done, steps in all)."""
    last = None  # (weight done, time) at the report before
    self._draw(0.0, label)

    def report(done: int, total: int) -> None:
      nonlocal last
      now, share = self._clock(), weight * done / total
      if last is not None:
        self._measured += share - last[0]
        self._busy += now - last[1]
      last = (share, now)
      if done >= total:
        self._finished += weight
        share = 0.0
      self._draw(share, label)

    return report

  def seconds_left(self, share: float = 0.0) -> float | None:
    """Return the seconds left when `share` of the present part is done; None while the rate is unknown."""
    if not self._measured:
      return None
    return max(0.0, self._total - self._finished - share) * self._busy / self._measured

  def _draw(self, share: float, label: str) -> None:
    now = self._clock()
    if now - self._drawn < (REDRAW_SECONDS if self._tty else LOG_SECONDS):
      return
    self._drawn = now
    fraction = min(1.0, (self._finished + share) / self._total)
    left = self.seconds_left(share)
    left = "" if left is None else f", {duration(left)} left"
    if not self._tty:
      print(f"{fraction:4.0%} {label}{left}", file=self._stream, flush=True)
      return
    filled = round(fraction * WIDTH)
    line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {fraction:4.0%} {label}{left}"
    self._stream.write("\r" + line.ljust(self._width))
    self._stream.flush()
    self._width = len(line)


def duration(seconds: float) -> str:
  """Return "h:mm:ss" or "m:ss"."""
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def note(text: str) -> None:
  """Print what is worth knowing on stderr."""
  print(f"note: {text}", file=sys.stderr, flush=True)
