"""Numbers and tables as a terminal shows them."""

import math
from typing import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Align a table: the first column that is text to the left, numbers to the right."""
  widths = [max(len(row[j]) for row in (header, *rows)) for j in range(len(header))]
  numeric = [all(_is_number(row[j]) for row in rows) for j in range(len(header))]
  pad = [str.rjust if flag else str.ljust for flag in numeric]
  return "\n".join("  ".join(pad[j](row[j], widths[j]) for j in range(len(header))).rstrip() for row in (header, *rows))


def _is_number(text: str) -> bool:
  return text == "-" or text.replace(".", "", 1).replace("-", "", 1).isdigit()


def interval(entry: dict[str, float] | None, digits: int) -> str:
  """Write a mean with the half-width of its interval, where it has one; "-" where there is no mean."""
  if entry is None or entry.get("low") is None:
    return number(None if entry is None else entry["mean"], digits)
  return f"{number(entry['mean'], digits)}±{number((entry['high'] - entry['low']) / 2, digits)}"


def number(value: float | None, digits: int) -> str:
  """Write a number with so many decimals; "-" where there is none."""
  return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
