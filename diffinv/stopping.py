"""Stop when told to, and only between two blocks of work, when everything is in order.

An exception that a signal raises wherever the program happens to be can be lost (JAX drops those within callbacks) and
can cut a write or a call of the compiler in two. Here a signal to stop only leaves a request, and the work looks for
one between its blocks:

  with stopping.deferred():
    for block in blocks:
      stopping.check()  # raises Stopped
      work(block)

`diffinv.progress.Bar` does both, so that whatever shows a bar can be stopped. A block may be long: the first one of a
chain is compiled, and the request is looked at after that. Who cannot wait asks a second time.

A process has one request at most. The handler of the signals holds it, so nothing is left when they are handed back.
"""

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

# What asks to stop: Ctrl-C, kill, a terminal that closes (Windows has no such signal).
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
AGAIN_SECONDS = 0.1  # `timeout` and shells that end send a signal twice at once; nobody presses keys that fast
NOTICE = b"stopping after this step; once more stops at once\n"
LEFT = "nothing was written"  # what an interruption leaves, if nobody says otherwise


class Stopped(KeyboardInterrupt):
  """The work ended early because a signal, `number`, asked for it; the message says what is left of it."""

  def __init__(self, number: int, left: str = LEFT):
    """Say that the signal came, and what is left of the work."""
    super().__init__(f"{'interrupted' if number == signal.SIGINT else 'told to stop'}; {left}")
    self.number = number


def check() -> None:
  """Raise Stopped if a stop was asked for; call it between two blocks of work, as often as you like."""
  for stop in STOPS:
    handler = signal.getsignal(stop)
    if isinstance(handler, _Handler) and handler.number is not None:
      raise Stopped(handler.number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Keep signals to stop for the next `check` within; a second signal does at once what it did before.

  A request that nothing within looked at is handed on at the end. Within another `deferred`, in a process that defers
  them, or in a thread, which gets no signals, this does nothing. Signals that are ignored, as under nohup, stay so.
  """
  handler = _Handler()
  handler.install()
  try:
    yield
  finally:
    handler.hand_back()
  if handler.number is not None:
    signal.raise_signal(handler.number)


def defer_in_process() -> None:
  """Keep signals to stop for the next `check` from now on; a second signal ends the process at once.

  For commands. What comes when all work is done changes nothing. The second signal is heard during long calls of the
  compiler too, for which Python's own handlers wait: a thread listens for it.
  """
  handler = _Handler(ends=True)
  if not handler.install():
    return
  heard, told = os.pipe()
  os.set_blocking(told, False)
  signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  atexit.register(handler.ignore)  # first, to be called last
  threading.Thread(target=handler.listen, args=(heard,), name="signals", daemon=True).start()


class _Handler:
  """Handle signals to stop: keep the first one; at a later one, do what was done before, or end the process."""

  def __init__(self, *, ends: bool = False):
    """Ask for nothing yet; `ends`: another thread calls `listen`, and a second signal ends the process."""
    self.number: int | None = None
    self._ends, self._since = ends, 0.0
    self._before: dict[int, Any] = {}  # handlers by signal
    self._unsaid = [NOTICE]

  def install(self) -> bool:
    """Take the signals over; return whether there were any to be taken."""
    if threading.current_thread() is not threading.main_thread():
      return False
    found = {stop: signal.getsignal(stop) for stop in STOPS}
    if any(isinstance(handler, _Handler) for handler in found.values()):
      return False
    # None is a handler that Python did not install, and could not put back.
    self._before = {stop: handler for stop, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    for stop in self._before:
      signal.signal(stop, self)
    return bool(self._before)

  def hand_back(self) -> None:
    """Put the handlers of before back."""
    for stop, handler in self._before.items():
      signal.signal(stop, handler)

  def ignore(self) -> None:
    """Ignore the signals from now on; without its handlers, which go when Python ends, they would change the status."""
    for stop in self._before:
      signal.signal(stop, signal.SIG_IGN)

  def __call__(self, number: int, frame: FrameType | None) -> None:
    """Be called by Python, between any two operations of the main thread."""
    if self.number is None:
      self.number, self._since = number, time.monotonic()
      self._say()
    elif not self._ends and time.monotonic() - self._since > AGAIN_SECONDS:
      self._do_as_before(number, frame)

  def _do_as_before(self, number: int, frame: FrameType | None) -> None:
    before = self._before[number]
    if callable(before):
      before(number, frame)
    else:  # the default, which is to end
      signal.signal(number, before)
      signal.raise_signal(number)

  def listen(self, heard: int) -> None:
    """Read the numbers of signals as they come; end the process at the second one to stop."""
    since: float | None = None
    while True:
      number = os.read(heard, 1)[0]
      if number not in STOPS:
        continue
      if since is None:
        since = time.monotonic()
        self._say()
      elif time.monotonic() - since > AGAIN_SECONDS:
        os._exit(128 + number)  # nothing on the disk needs care: what is half written has a temporary name

  def _say(self) -> None:
    """Tell the person once that the signal came; not with print, which it may have come in the middle of."""
    with contextlib.suppress(IndexError, OSError):
      os.write(2, b"\n" * os.isatty(2) + self._unsaid.pop())  # below the bar
