"""Errors as a person sees them: an exit code and one line."""

import errno

import pytest

from diffinv import errors


class XlaRuntimeError(RuntimeError):
  """Stands for that of JAX."""


OUT_OF_MEMORY = XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.\n  more")


@pytest.mark.parametrize(
  "error, code",
  [
    (errors.UsageError("steps: wrong"), 2),
    (ValueError("x0: expected a, got b"), 1),
    (FileNotFoundError("a.png: expected a file"), 1),
    (OSError(errno.ENOSPC, "No space left on device"), 1),
    (MemoryError(), 1),
    (OUT_OF_MEMORY, 1),
    (KeyboardInterrupt(), 130),
    (ValueError("of a library,\nin two lines"), None),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), None),
    (XlaRuntimeError("INTERNAL: a fault"), None),
    (TypeError("a fault"), None),
    (AssertionError(), None),
  ],
  ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes_tell_wrong_flags_failures_and_faults(error, code):
  assert errors.exit_code(error) == code


@pytest.mark.parametrize(
  "error, want",
  [
    (ValueError("a\n  b\t c "), "a b c"),
    (ValueError(), "ValueError"),
    (errors.UsageError("steps: wrong"), "steps: wrong"),
    (KeyboardInterrupt(), "interrupted; nothing was written"),
    (MemoryError(), errors.MEMORY_ADVICE),
    (OUT_OF_MEMORY, errors.MEMORY_ADVICE),
    (FileNotFoundError("a.png: expected a file"), "a.png: expected a file"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), "No such file or directory: a.png"),
    (OSError(errno.EIO, "Input/output error", "a", None, "b"), "Input/output error: b"),
    (
      OSError(errno.ENOSPC, "No space left on device", "out"),
      "No space left on device: out; free some space, or write to another disk with --output",
    ),
    (
      PermissionError(errno.EACCES, "Permission denied", "out"),
      "Permission denied: out; change its permissions, or choose another place",
    ),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), errors.MEMORY_ADVICE),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "File name too long: a; choose a shorter name"),
  ],
  ids=lambda value: None if isinstance(value, BaseException) else value[:20],
)
def test_messages_are_one_line_with_the_place_and_what_to_do(error, want):
  assert errors.one_line(error) == want


def test_usage_turns_a_value_error_into_wrong_usage_and_nothing_else():
  with pytest.raises(errors.UsageError, match="^steps: wrong$"):
    with errors.usage():
      raise ValueError("steps: wrong")
  with pytest.raises(FileNotFoundError):
    with errors.usage():
      raise FileNotFoundError("a.png")
