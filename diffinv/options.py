"""Options: the fields of a frozen dataclass that a person sets, with their meaning, bounds and choices.

A study or a training is such a dataclass. From Python its fields are keyword arguments, on the command line flags of
the same names (`diffinv.apps.flags`). Both are held to the same bounds by `check`, which the class calls in its
`__post_init__`. Messages name an option in backticks, `size` or `size=64`; the command line prints them as flags.
"""

import dataclasses
import math
import numbers
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffinv import errors, files

KEY = "option"
MAX_SEED = 2**32 - 1  # of every seed that is an option
MAX_LETTERS = 1000  # of a text that is read for numbers
LONGEST = 10**15  # beyond, a number is written with its power of ten


class Option(NamedTuple):
  """What is known of a field besides its type and its default.

  Every number has both bounds. Those of a text, or of several values, are of each number in it.
  """

  help: str  # one or two sentences, with the unit
  low: float | None  # the least value
  high: float | None  # the largest value
  choices: tuple[str, ...] | None  # None: any
  repeated: bool  # of several values: given one flag a value, not one flag with commas
  form: Callable[[str], Any] | None  # of a text with numbers: reads it, or raises ValueError
  advice: str  # what to do in place of a number out of its bounds
  words: tuple[str, ...]  # that may stand in place of a number
  several: bool = False  # whether several numbers may stand in place of one

  @property
  def bounded(self) -> bool:
    """Whether it has bounds."""
    return self.low is not None and self.high is not None

  @property
  def bounds(self) -> str:
    """The bounds as text, "1 to 4,096"."""
    return f"{shown(self.low)} to {shown(self.high)}"

  def holds(self, number: Any) -> bool:
    """Tell whether a number is within the bounds."""
    return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


def option(
  default: Any = dataclasses.MISSING,
  help: str = "",
  *,
  low: float | None = None,
  high: float | None = None,
  choices: typing.Iterable[str] | None = None,
  repeated: bool = False,
  form: Callable[[str], Any] | None = None,
  advice: str = "",
  words: tuple[str, ...] = (),
  several: bool = False,
) -> Any:
  """Declare a field of a configuration.

  Args:
    default: of the field; None for a value that may be left out.
    help: what it means, for the command's help.
    low, high: bounds of a number, or of each number in a text or among several; they are allowed themselves.
    choices: what a text, or each of several texts, may be.
    repeated: of several values: one flag a value on the command line, so that a value may hold commas.
    form: of a text with numbers: reads it, or raises ValueError.
    advice: what to do in place of a number out of its bounds.
    words: that may stand in place of a number, such as "auto".
    several: whether several numbers may stand in place of one, on the command line with commas.
  """
  about = Option(help, low, high, None if choices is None else tuple(choices), repeated, form, advice, words, several)
  return dataclasses.field(default=default, metadata={KEY: about})


def options(config: type | Any) -> dict[str, tuple[dataclasses.Field, Option]]:
  """Return the options of a class or an instance by name, in their order."""
  return {f.name: (f, f.metadata[KEY]) for f in dataclasses.fields(config) if KEY in f.metadata}


def kind(field: dataclasses.Field) -> type | None:
  """Return the plain type in an annotation: tuple (several texts), str, bool, int or float; None where none is.

  Of an option with `words`, that of the number.
  """
  annotation: Any = field.type
  parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
  plain = [typing.get_origin(part) or part for part in parts]
  known = (int, float) if KEY in field.metadata and field.metadata[KEY].words else (tuple, str, bool, int, float)
  return next((one for one in known if one in plain), None)


def takes_paths(field: dataclasses.Field) -> bool:
  """Tell whether a value of a field may be a path, or hold paths: whether its annotation has `os.PathLike`."""
  return _mentions_path(field.type)


def _mentions_path(annotation: Any) -> bool:
  found = typing.get_origin(annotation) or annotation
  return found is os.PathLike or any(map(_mentions_path, typing.get_args(annotation)))


def expanded(value: Any, about: Option) -> Any:
  """Return the value of an option that takes paths with their `~` expanded; what is no path is left as it is."""
  if isinstance(value, (tuple, list)):
    return type(value)(expanded(one, about) for one in value)
  if not isinstance(value, (str, os.PathLike)) or "~" not in os.fspath(value):
    return value
  whole = files.expanded(value)
  if about.repeated and not os.path.lexists(whole):  # a list
    whole = ",".join(map(files.expanded, os.fspath(value).split(",")))
  return whole if isinstance(value, str) else pathlib.Path(whole)


def check(config: Any) -> None:
  """Expand `~` in every path, and check that every option is of its type, within its bounds and among its choices.

  A value that is no plain type, such as a prior where a name may stand, passes.

  Raises:
    UsageError: one is not; the message names it.
  """
  for name, (field, about) in options(config).items():
    value = getattr(config, name)
    if takes_paths(field):
      value = expanded(value, about)
      object.__setattr__(config, name, value)  # the one moment at which a frozen configuration may
    if (value is None and field.default is None) or (isinstance(value, str) and value in about.words):
      continue
    if value is None:
      raise errors.UsageError(f"`{name}`: expected a value, got none; give one")
    _check_value(name, value, field, about)


def _check_value(name: str, value: Any, field: dataclasses.Field, about: Option) -> None:
  wanted = kind(field)
  if wanted in (int, float):
    for one in value if about.several and isinstance(value, tuple) else (value,):
      _check_number(name, one, wanted, about)
  elif wanted is bool and not isinstance(value, bool):
    raise errors.UsageError(f"`{name}`: expected true or false, got {value!r}")
  elif about.form is not None:
    _check_text(name, value, about)
  elif wanted is str and _takes_text_alone(field) and not isinstance(value, (str, os.PathLike)):
    raise errors.UsageError(f"`{name}`: expected a text, got {value!r}")
  elif about.choices is not None:
    for one in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(one, str) and one not in about.choices:
        raise errors.UsageError(f"`{name}`: expected one of {', '.join(about.choices)}, got {one!r}")


def _takes_text_alone(field: dataclasses.Field) -> bool:
  """Tell whether a field takes texts and paths, and no objects in place of a name."""
  annotation: Any = field.type
  parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
  return all((typing.get_origin(part) or part) in (str, os.PathLike, types.NoneType) for part in parts)


def _check_number(name: str, value: Any, wanted: type, about: Option) -> None:
  real = isinstance(value, numbers.Integral if wanted is int else numbers.Real) and not isinstance(value, bool)
  if not real:
    raise errors.UsageError(f"`{name}`: expected {_wanted(wanted, about)}, got {value!r}")
  if not is_finite(value):
    raise errors.UsageError(f"`{name}`: expected a finite number, got {value}")
  if not about.holds(value):
    raise errors.UsageError(f"`{name}`: expected a number from {about.bounds}, got {shown(value)}{about.advice}")


def _wanted(wanted: type, about: Option) -> str:
  """Return in words what a number may be."""
  number = f"a {'whole ' if wanted is int else ''}number"
  return " or ".join([", ".join(about.words), number] if about.words else [number])


def _check_text(name: str, value: Any, about: Option) -> None:
  """Check a text, or the number that stands for it, by its form and the bounds of the numbers in it."""
  if not isinstance(value, str) and (not isinstance(value, numbers.Integral) or isinstance(value, bool)):
    raise errors.UsageError(f"`{name}`: expected a whole number or a text, got {value!r}")
  text = value if isinstance(value, str) else shown(value, commas=False)
  if len(text) > MAX_LETTERS:
    raise errors.UsageError(f"`{name}`: expected a text of at most {MAX_LETTERS} letters, got {len(text)}")
  try:
    if about.form is not None:
      about.form(text)
  except ValueError as error:
    raise errors.UsageError(f"`{name}`: {str(error).partition(': ')[2]}") from None  # it begins with another name
  if not all(about.holds(int(digits)) for digits in re.findall(r"\d+", text)):
    raise errors.UsageError(f"`{name}`: expected numbers from {about.bounds}, got {text!r}{about.advice}")


def is_finite(value: Any) -> bool:
  """Tell whether a number is finite; a whole number always is, however long."""
  return isinstance(value, numbers.Integral) or math.isfinite(value)


def shown(value: Any, *, commas: bool = True) -> str:
  """Return a number as a message has it, however long it is."""
  whole = isinstance(value, numbers.Integral) or (math.isfinite(value) and value == int(value))
  if whole and abs(value) < LONGEST:
    return f"{int(value):,}" if commas else str(int(value))
  if isinstance(value, numbers.Integral) and abs(int(value)) > sys.float_info.max:
    return f"a number of more than {sys.float_info.max_10_exp} digits"
  return f"{float(value):g}"


def settings(config: Any) -> Mapping[str, Any]:
  """Return the value of every option by name, as a plan or `prior.json` keeps them."""
  return {name: getattr(config, name) for name in options(config)}
