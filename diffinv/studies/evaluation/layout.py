"""Tables of an evaluation, in Markdown."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
  """A table with its title."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]  # a name, then a number, text or None a column
  digits: Sequence[int]  # decimals of the columns after the first

  def markdown(self) -> str:
    """Return the title and the table."""
    lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *map(self._cells, self.rows)]
    return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

  def _cells(self, row: Sequence[Any]) -> list[str]:
    name, *values = row
    return [name, *(_cell(value, digits) for value, digits in zip(values, self.digits, strict=True))]


class Measured(NamedTuple):
  """What a measure found."""

  found: dict[str, Any]  # for NAME.json
  tables: list[Table]  # for NAME.md


def _cell(value: Any, digits: int) -> str:
  if value is None:
    return ""
  return value if isinstance(value, str) else f"{value:.{digits}f}"
