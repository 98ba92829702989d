"""Options: the fields of a frozen dataclass that a person sets, with their meaning, bounds and choices.

A study or a training is such a dataclass. From Python its fields are keyword arguments, on the command line flags of
the same names (`diffinv.apps.flags`). Both are held to the same bounds by `check`, which the class calls in its
`__post_init__`. Messages name an option in backticks, `size` or `size=64`; the command line prints them as flags.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffinv import errors

KEY = "option"
MAX_SEED = 2**32 - 1  # of every seed that is an option


class Option(NamedTuple):
  """What is known of a field besides its type and its default."""

  help: str  # one or two sentences, with the unit
  low: float | None  # the least value
  high: float | None  # the largest value
  choices: tuple[str, ...] | None  # None: any
  repeated: bool  # of several values: given one flag a value, not one flag with commas


def option(
  default: Any = dataclasses.MISSING,
  help: str = "",
  *,
  low: float | None = None,
  high: float | None = None,
  choices: typing.Iterable[str] | None = None,
  repeated: bool = False,
) -> Any:
  """Declare a field of a configuration.

  Args:
    default: of the field; None for a value that may be left out.
    help: what it means, for the command's help.
    low, high: bounds of a number, which are allowed themselves.
    choices: what a text, or each of several texts, may be.
    repeated: of several values: one flag a value on the command line, so that a value may hold commas.
  """
  about = Option(help, low, high, None if choices is None else tuple(choices), repeated)
  return dataclasses.field(default=default, metadata={KEY: about})


def options(config: type | Any) -> dict[str, tuple[dataclasses.Field, Option]]:
  """Return the options of a class or an instance by name, in their order."""
  return {f.name: (f, f.metadata[KEY]) for f in dataclasses.fields(config) if KEY in f.metadata}


def kind(field: dataclasses.Field) -> type | None:
  """Return the plain type in an annotation: tuple (several texts), str, bool, int or float; None where none is."""
  annotation: Any = field.type
  parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
  plain = [typing.get_origin(part) or part for part in parts]
  return next((known for known in (tuple, str, bool, int, float) if known in plain), None)


def check(config: Any) -> None:
  """Check that every option is of its type, within its bounds and among its choices.

  A value that is no plain type, such as a prior where a name may stand, passes.

  Raises:
    UsageError: one is not; the message names it.
  """
  for name, (field, about) in options(config).items():
    value = getattr(config, name)
    if value is None and field.default is None:
      continue
    if value is None:
      raise errors.UsageError(f"`{name}`: expected a value, got none; give one")
    _check_value(name, value, kind(field), about)


def _check_value(name: str, value: Any, wanted: type | None, about: Option) -> None:
  if wanted in (int, float):
    _check_number(name, value, wanted, about)
  elif wanted is bool and not isinstance(value, bool):
    raise errors.UsageError(f"`{name}`: expected true or false, got {value!r}")
  elif about.choices is not None:
    for one in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(one, str) and one not in about.choices:
        raise errors.UsageError(f"`{name}`: expected one of {', '.join(about.choices)}, got {one!r}")


def _check_number(name: str, value: Any, wanted: type, about: Option) -> None:
  real = isinstance(value, numbers.Integral if wanted is int else numbers.Real) and not isinstance(value, bool)
  if not real:
    raise errors.UsageError(f"`{name}`: expected a {'whole ' if wanted is int else ''}number, got {value!r}")
  if not math.isfinite(value):
    raise errors.UsageError(f"`{name}`: expected a finite number, got {value}")
  if (about.low is not None and value < about.low) or (about.high is not None and value > about.high):
    raise errors.UsageError(f"`{name}`: expected {_bounds(about)}, got {value:g}")


def _bounds(about: Option) -> str:
  if about.low is not None and about.high is not None:
    return f"a number from {about.low:g} to {about.high:g}"
  return f"at least {about.low:g}" if about.high is None else f"at most {about.high:g}"


def settings(config: Any) -> Mapping[str, Any]:
  """Return the value of every option by name, as a plan or `prior.json` keeps them."""
  return {name: getattr(config, name) for name in options(config)}
