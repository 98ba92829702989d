"""Standard output and error that cannot break: what they no longer take is dropped, and the work goes on.

A command may be started with its output closed, or lose it midway: to a pipe whose reader has gone (`| head`), a
terminal that was closed, a full disk. What it was asked for is still done. Nor does text reach a terminal that could do
more than be read: control characters, as a file's name may have them, are shown by their codes.
"""

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from diffinv import text

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nobody reads: a pipe, a terminal, a closed file
LINES = "\n\t"  # of what text.visible hides, what a page of text needs
REDRAWN = f"{LINES}\r"  # and a progress bar


def protect() -> None:
  """Make the standard streams of this process unbreakable; call it before anything opens a file."""
  _open_missing()
  if sys.stdin is None:
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
  sys.stdout, sys.stderr = _protected(sys.stdout, 1, LINES), _protected(sys.stderr, 2, REDRAWN)


def finish() -> str | None:
  """Write what standard output still holds; return why some of it did not reach a reader that is there."""
  if not isinstance(sys.stdout, _Text):
    return None
  sys.stdout.flush()
  return sys.stdout.file.lost


def _open_missing() -> None:
  """Open the null device as each of descriptors 0, 1 and 2 that is closed: the next file would become one of them."""
  while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
    os.set_inheritable(descriptor, True)
  os.close(descriptor)


def _protected(stream: Any, descriptor: int, shown: str) -> TextIO:
  """Return a stream as Python made it, but for its faults; one that a notebook or a test put there as it is."""
  if stream is None:
    return _Text(descriptor, shown=shown, encoding="utf-8", line_buffering=descriptor == 2)
  if type(stream) is not io.TextIOWrapper:
    return stream
  stream.flush()
  return _Text(
    stream.fileno(),
    shown=shown,
    encoding=stream.encoding,
    line_buffering=stream.line_buffering,
    write_through=stream.write_through,
  )


class _File(io.FileIO):
  """A descriptor that takes whatever is written to it, and keeps why some of it was lost, if someone would miss it."""

  def __init__(self, descriptor: int):
    super().__init__(descriptor, "w", closefd=False)
    self.lost: str | None = None

  def write(self, data: Any) -> int:
    """Write all of the data, or drop the rest."""
    left = memoryview(data).cast("B")
    try:
      while left:
        written = super().write(left)
        if written is None:  # it was set not to block, and is full
          select.select([], [self], [])
        left = left[written or 0 :]
    except OSError as error:
      if error.errno not in GONE:
        self.lost = error.strerror
    return memoryview(data).nbytes


class _Text(io.TextIOWrapper):
  """Text in which nothing but `shown` acts on a terminal."""

  def __init__(self, descriptor: int, *, shown: str, write_through: bool = False, **options: Any):
    self.file, self._shown = _File(descriptor), shown
    buffer: Any = self.file if write_through else io.BufferedWriter(self.file)
    # Not all text can be encoded.
    super().__init__(buffer, errors="backslashreplace", write_through=write_through, **options)

  def write(self, s: str) -> int:
    """Write text with its control characters visible."""
    super().write(text.visible(s, keep=self._shown))
    return len(s)
