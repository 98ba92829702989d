"""Errors that a person can act on, and how the command line reports them: one line and an exit code.

A message names what was wrong, what was expected, what came and what to do. Wrong flags end with exit code 2, anything
else that was foreseen with 1. An error that was not foreseen keeps its traceback.
"""

import contextlib
import errno
import os
import re
import signal
import traceback
from collections.abc import Iterator

from diffinv import text
from diffinv.stopping import LEFT, Stopped

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128  # and the number of the signal, as shells have it

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA begins the message
MEMORY_ADVICE = "not enough memory; lower --batch_size or --size where the command has them, or end other programs"
ADVICE: dict[int | None, str] = {
  errno.ENOSPC: "; free some space, or write to another disk with --output",
  errno.EDQUOT: "; free some space, or write to another disk with --output",
  errno.EFBIG: "; allow larger files with ulimit -f, or write to another disk with --output",
  errno.EACCES: "; change its permissions, or choose another place",
  errno.EPERM: "; change its permissions, or choose another place",
  errno.EROFS: "; choose a place that you may use",
  errno.ENAMETOOLONG: "; choose a shorter name",
  errno.EMFILE: "; allow more with ulimit -n",
  errno.ENFILE: "; end other programs, or allow more",
}


# How messages name an option, `size` or `size=64`; the command line shows it as a flag.
OPTION = re.compile(r"`([a-z]\w*)(=[^`]*)?`")


class UsageError(ValueError):
  """Options ask for something that does not exist or does not fit together."""


class Ended(Exception):
  """A process that does the work of this one has ended, and has said why."""

  def __init__(self, code: int):
    """Take its exit code."""
    super().__init__(f"exit code {code}")
    self.code = code


@contextlib.contextmanager
def usage() -> Iterator[None]:
  """Turn a ValueError within, such as an unknown method, into a UsageError."""
  try:
    yield
  except UsageError:
    raise
  except ValueError as error:
    raise UsageError(str(error)) from error


@contextlib.contextmanager
def interruption(advice: str) -> Iterator[None]:
  """Say what is left of the work within, and how to go on, when it is interrupted."""
  try:
    yield
  except KeyboardInterrupt as stop:
    raise interrupted(stop, advice) from None


def interrupted(stop: KeyboardInterrupt, left: str) -> KeyboardInterrupt:
  """Return an interruption of the same signal that says what is left of the work."""
  return Stopped(stop.number, left) if isinstance(stop, Stopped) else KeyboardInterrupt(f"interrupted; {left}")


def exit_code(error: BaseException) -> int | None:
  """Return the exit code of an error that a person can act on; None for one that is a fault of the program."""
  if isinstance(error, UsageError):
    return EXIT_USAGE
  if isinstance(error, KeyboardInterrupt):
    return EXIT_SIGNAL + (error.number if isinstance(error, Stopped) else signal.SIGINT)
  if isinstance(error, OSError) or _is_out_of_memory(error):
    return EXIT_FAILURE
  # Messages of this package are one line, but for names; those of libraries that got something wrong rarely are.
  return EXIT_FAILURE if type(error) is ValueError and ("\n" not in str(error).strip() or _is_ours(error)) else None


def one_line(error: BaseException) -> str:
  """Return the message of such an error on one line, what cannot be seen in it visible."""
  if isinstance(error, KeyboardInterrupt):
    return text.visible(str(error)) or f"interrupted; {LEFT}"
  if _is_out_of_memory(error):
    return MEMORY_ADVICE
  message = str(error)
  if isinstance(error, OSError) and error.strerror is not None:
    place = error.filename2 or error.filename
    place = "" if place is None else f": {text.visible(str(place))}"
    message = f"{error.strerror}{place}{ADVICE.get(error.errno, '')}"
  return as_flags(text.visible(" ".join(message.split()))) or type(error).__name__


def as_flags(message: str) -> str:
  """Return a message with its options, which stand in backticks, written as flags."""
  return OPTION.sub(r"--\1\2", message)


def brief(error: BaseException) -> str:
  """Return the beginning of a library's message on one line, with its type, to be put into one of ours."""
  message = " ".join(str(error).split())[:160]
  return message if type(error) is ValueError and message else f"{type(error).__name__}: {message}".removesuffix(": ")


def _is_ours(error: BaseException) -> bool:
  """Tell whether a statement of this package raised an error, and not a library that it called."""
  *_, last = (None, *traceback.extract_tb(error.__traceback__))
  package = os.path.dirname(os.path.abspath(__file__)) + os.sep
  return last is not None and last.filename.startswith(package) and (last.line or "").startswith("raise ")


def _is_out_of_memory(error: BaseException) -> bool:
  # Told by its message, so that an error is reported without importing JAX.
  if isinstance(error, OSError):
    return error.errno == errno.ENOMEM
  return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY in str(error))
