"""Tables, numbers and names for a terminal."""

import math
import re
from collections.abc import Mapping, Sequence

ABSENT = "-"  # where there is no number
GAP = "  "  # between columns
# What acts on a terminal, or on the lines and the direction of a text, instead of being read: control characters, line
# separators, overrides of the direction, and halves of surrogate pairs, which stand for bytes that are no UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = re.compile(r"-|-?\d+(\.\d*)?(e[-+]?\d+)?(±\d+(\.\d*)?)?")


def visible(words: str, *, keep: str = "") -> str:
  r"""Return text with what cannot be seen in it written as in Python's strings, ESC as "\x1b"; but for `keep`."""
  code = lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode()
  return _UNSEEN.sub(code, words)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Lay out a table, numbers to the right and text to the left, what cannot be seen visible; return its lines.

  A column is one of numbers if all its cells are numbers, intervals or ABSENT.

  Args:
    header: the headings.
    rows: the cells, as many in a row as there are headings.
  """
  columns = [_column(heading, [row[j] for row in rows]) for j, heading in enumerate(header)]
  return "\n".join(GAP.join(line).rstrip() for line in zip(*columns, strict=True))


def _column(heading: str, cells: Sequence[str]) -> list[str]:
  heading, *cells = map(visible, (heading, *cells))
  width = max(map(len, (heading, *cells)))
  pad = str.rjust if all(map(_NUMBER.fullmatch, cells)) else str.ljust
  return [pad(cell, width) for cell in (heading, *cells)]


def interval(entry: Mapping[str, float | None] | None, digits: int | None) -> str:
  """Write a mean and, where it is known, the half-width of its interval: "27.13±0.42".

  Args:
    entry: `{"mean", "low", "high"}`; None where there is no mean.
    digits: see `number`.
  """
  mean, low, high = (None if entry is None else entry.get(key) for key in ("mean", "low", "high"))
  if low is None or high is None:
    return number(mean, digits)
  return f"{number(mean, digits)}±{number((high - low) / 2, digits)}"


def number(value: float | None, digits: int | None) -> str:
  """Write a number with so many decimals, or with three significant digits; ABSENT where it is none or not finite."""
  if value is None or not math.isfinite(value):
    return ABSENT
  return f"{value:.{decimals(value) if digits is None else digits}f}"


def decimals(value: float) -> int:
  """Return how many decimals show three significant digits of a number, at most 6."""
  return 0 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
