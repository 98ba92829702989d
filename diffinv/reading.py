"""What comes from outside, checked once: regular files of a known size, and JSON that has to fit a schema.

A FIFO, a device or a socket could block or flood what reads it, a huge file could take all memory, and damaged JSON
would show itself much later. Here each is one line: "FILE: expected ..., got ...; what to do".
"""

import errno
import os
import pathlib
import re
import stat
import sys
from typing import Any, BinaryIO

import msgspec

MOST_JSON = 64_000_000  # bytes: the results of 10,000 pictures take a third; parsed, JSON takes up to 24 times as much
HUGE = re.compile(rb"\d{309}")  # digits that no number has which a float can hold
SHOWN = 40  # characters of a value in a message
OF_CONTENTS = (None, errno.EINVAL, errno.EOVERFLOW)  # errors of decoders, and those of seeking where a file says
BLOCKS = getattr(os, "O_NONBLOCK", 0)  # so that opening a FIFO put in the place of a file does not wait for its writer
BINARY = getattr(os, "O_BINARY", 0)  # Windows
RIGHT = "check that it is the right file"
MARK = b"\xef\xbb\xbf"  # of byte order; some editors write it

KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a FIFO",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}
# How msgspec calls types, and how we do.
WORDS = {
  "int": "an integer",
  "float": "a number",
  "str": "text",
  "bool": "true or false",
  "null": "null",
  "array": "a list",
  "object": "a table",
}


def require_file(path: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path of a regular file that is there; links are followed.

  Raises:
    FileNotFoundError: nothing is there, or a link to nothing.
    ValueError: it is something else: a folder, a FIFO, a device, a socket.
    OSError: the path cannot be looked at.
  """
  path = pathlib.Path(path)
  try:
    _check_regular(os.stat(path), path)
  except (FileNotFoundError, NotADirectoryError):
    found = f"a link to nothing, {os.readlink(path)}" if path.is_symlink() else "nothing there"
    raise FileNotFoundError(f"{path}: expected a file, found {found}; check the path") from None
  return path


def is_file(path: str | os.PathLike[str]) -> bool:
  """Tell whether there is a regular file, or a link to one; never raises for a path that cannot be looked at."""
  try:
    return stat.S_ISREG(os.stat(path).st_mode)
  except (OSError, ValueError):
    return False


def open_file(path: str | os.PathLike[str], *, most: int | None = None, advice: str = RIGHT) -> BinaryIO:
  """Open a regular file to read its bytes.

  Args:
    path: of the file.
    most: bytes that it may have; None for any number.
    advice: what to do about a larger one.

  Raises:
    FileNotFoundError, ValueError, OSError: it is larger, or see `require_file`.
  """
  path = require_file(path)
  file = os.fdopen(os.open(path, os.O_RDONLY | BLOCKS | BINARY), "rb")
  try:
    found = os.fstat(file.fileno())
    _check_regular(found, path)  # once more: something else may have taken its place
    if most is not None:
      _check_size(found.st_size, most, path, advice)
  except BaseException:
    file.close()
    raise
  return file


def _check_regular(found: os.stat_result, path: pathlib.Path) -> None:
  if not stat.S_ISREG(found.st_mode):
    kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    raise ValueError(f"{path}: expected a file, got {kind}; check the path")


def _check_size(size: int, most: int, path: str | os.PathLike[str], advice: str) -> None:
  if size > most:
    raise ValueError(f"{os.fspath(path)}: expected at most {most:,} bytes, got {size:,}; {advice}")


def read_bytes(path: str | os.PathLike[str], *, most: int, advice: str = RIGHT) -> bytes:
  """Return the contents of a regular file of at most `most` bytes; its size is looked at before it is read.

  Raises:
    FileNotFoundError, ValueError, OSError: it is larger, or see `require_file`.
  """
  with open_file(path, most=most, advice=advice) as file:
    data = file.read(most + 1)
  _check_size(len(data), most, path, advice)  # it may have grown
  return data


def raise_system_error(error: BaseException, path: str | os.PathLike[str]) -> None:
  """Raise an error again, with the file's name, if the system made it: what the file holds may well be whole."""
  if isinstance(error, OSError) and error.errno not in OF_CONTENTS:
    raise type(error)(error.errno, error.strerror, os.fspath(path)) from None


def read_json(path: str | os.PathLike[str], schema: Any, *, most: int = MOST_JSON, advice: str) -> Any:
  """Return what a JSON file holds, as JSON has it, after checking it.

  Args:
    path: a regular file, in UTF-8.
    schema: a type as msgspec takes it, such as a TypedDict: fields that it does not name are let through.
    most: bytes.
    advice: what to do about a file that is refused; ends every message.

  Raises:
    FileNotFoundError, OSError: see `require_file`.
    ValueError: it is no such file; one line.
  """
  return parse_json(read_bytes(path, most=most, advice=advice), schema, os.fspath(path), advice)


def parse_json(data: bytes, schema: Any, where: str, advice: str) -> Any:
  """Return what JSON in UTF-8 says, as `read_json` does of a file; `where` begins every message.

  Raises:
    ValueError: it is not JSON, or does not fit the schema; one line.
  """
  try:
    value = msgspec.json.decode(data)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{where}: expected JSON, got {_fault(data, error)}; {advice}") from None
  if HUGE.search(data) and _is_huge(value):
    raise ValueError(f"{where}: expected JSON, got a number too large to hold; {advice}")
  check(value, schema, where, advice)
  return value


def _is_huge(value: Any) -> bool:
  """Tell whether a whole number in a value is beyond all floats."""
  inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return (type(value) is int and abs(value) > sys.float_info.max) or any(map(_is_huge, inside))


def _is_utf8(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


def _fault(data: bytes, error: Exception) -> str:
  """Return what is wrong with data that is not JSON."""
  if not data.strip():
    return "nothing: it is empty"
  if data.startswith(MARK):
    return "a byte order mark before it, which JSON lacks"
  if isinstance(error, RecursionError):
    return "lists or tables within one another, too deep to read"
  if isinstance(error, UnicodeDecodeError):
    return "text that is not UTF-8"
  if isinstance(error, msgspec.ValidationError):  # of a number; there is no schema yet
    return "a number too large to hold"
  if "truncated" in str(error):
    return "only its beginning: it is cut off"
  place = re.search(r"\(byte (\d+)\)", str(error))
  if place is None:  # the parser has once called such text something else than an error of decoding
    return "something else" if _is_utf8(data) else "text that is not UTF-8"
  if data[int(place[1]) :].startswith((b"NaN", b"Inf")):
    return f"{data[int(place[1]) :][:3].decode()} at byte {place[1]}, which JSON lacks"
  return f"something else at byte {place[1]}"


def check(value: Any, schema: Any, where: str, advice: str) -> None:
  """Check that a value from JSON fits a schema, see `read_json`.

  Raises:
    ValueError: it does not; one line, which begins with `where` and ends with `advice`.
  """
  try:
    msgspec.convert(value, schema)
  except msgspec.ValidationError as error:
    raise ValueError(f"{where}: {_in_words(str(error), value)}; {advice}") from None
  except RecursionError:
    raise ValueError(f"{where}: lists or tables lie within one another, too deep to read; {advice}") from None


def _in_words(message: str, value: Any) -> str:
  """Return a message of msgspec, such as "Expected `int`, got `str` - at `$.runs[0].steps`", in ours."""
  said, _, path = message.partition(" - at ")
  path = path.replace("`key` in ", "a name in ").replace("`", "").replace("$.", "").replace("$", "")
  place = f" at {path}" if path else ""
  missing = re.fullmatch(r"Object missing required field `(.*)`", said)
  if missing:
    return f"the field {missing[1]!r} is missing{place}"
  if said.startswith("Expected"):
    expected, comma, got = said.removeprefix("Expected ").partition(", got ")
    return f"expected {_plain(expected)}{place}, got {_plain(got) if comma else _found(value, path)}"
  if said.startswith("Invalid enum value"):
    return f"expected another value{place}, got {_found(value, path)}"
  return f"expected a number that can be held{place}, got one out of range"


def _plain(types: str) -> str:
  """Return types as msgspec lists them, "`int | null` >= 1", in words."""
  return re.sub(r"`([^`]*)`", lambda some: " or ".join(WORDS.get(one, one) for one in some[1].split(" | ")), types)


def _found(value: Any, path: str) -> str:
  """Return the value at a path, "runs[0].steps", to be shown; "another" where the path does not tell which."""
  if "..." in path:  # any entry of a table
    return "another"
  for name in re.findall(r"[^.\[\]]+", path):
    value = value[int(name) if isinstance(value, list) else name]
  return shown(value)


def shown(value: Any) -> str:
  """Return a value from JSON for a message: short, and without control characters."""
  if isinstance(value, (list, dict)):
    return f"{'a list' if isinstance(value, list) else 'a table'} of {len(value)}"
  text = repr(value)
  return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
