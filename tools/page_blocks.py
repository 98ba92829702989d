"""The blocks of a page that tools write: what lies between `<!-- NAME -->` and `<!-- end -->`.

The words around them are written by hand, and stay.
"""

import pathlib
import re
from collections.abc import Mapping

from diffinv import errors, files


def replaced(text: str, found: Mapping[str, str]) -> str:
  """Return a page with its blocks replaced, by their names.

  Raises:
    ValueError: the page has no such block, or several.
  """
  for name, block in found.items():
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
    text, count = re.subn(pattern, lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL)
    if count != 1:
      raise ValueError(f"expected a block <!-- {name} --> ... <!-- end -->, found {count}; the page needs one")
  return text


def write(page: pathlib.Path, found: Mapping[str, str]) -> None:
  """Replace blocks of a page's file, in full or not at all.

  Raises:
    UsageError: the page has no such block, or several.
  """
  try:
    text = replaced(page.read_text(encoding="utf-8"), found)
  except ValueError as error:
    raise errors.UsageError(f"{page}: {error}") from None
  with files.file(page) as partial:
    partial.write_text(text, encoding="utf-8")
