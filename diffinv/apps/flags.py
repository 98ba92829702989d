"""Flags that come from the options of a configuration, and the configuration that comes from flags."""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any, TypeVar

from absl import flags

from diffinv import errors, files, options

T = TypeVar("T")


class _Words(flags.ArgumentParser):
  """Parses a number, or what may stand in its place: one of the words, or several numbers."""

  def __init__(self, words: tuple[str, ...], numbers: flags.ArgumentParser, several: bool):
    """Take the words, what parses a number, and whether several may stand for one."""
    self._words, self._numbers, self._several = words, numbers, several
    self.syntactic_help = ""

  def parse(self, argument: Any) -> Any:
    """Return the number, the numbers or the word."""
    try:
      if self._several and isinstance(argument, str) and "," in argument:
        return tuple(map(self._numbers.parse, argument.split(",")))
      return argument if argument in self._words else self._numbers.parse(argument)
    except ValueError:
      raise ValueError(f"expected {', '.join(self._words)} or a number, got {argument!r}") from None

  def flag_type(self) -> str:
    """Return what the flag is called in messages."""
    return "number"


def define(
  values: flags.FlagValues,
  config: type,
  *,
  without: Container[str] = (),
  defaults: Mapping[str, Any] | None = None,
  helps: Mapping[str, str] | None = None,
) -> None:
  """Define a flag for every option of a configuration.

  Args:
    values: where to define them.
    config: the class, see `diffinv.options`.
    without: options that are no flags of the command.
    defaults: other defaults, by name.
    helps: other descriptions, by name.
  """
  for name, (field, about) in options.options(config).items():
    if name not in without:
      default = None if field.default is dataclasses.MISSING else field.default
      default = default if defaults is None or name not in defaults else defaults[name]
      text = about.help if helps is None or name not in helps else helps[name]
      _define(values, name, default, errors.as_flags(described(text, options.kind(field), about)), field, about)


def described(text: str, kind: type | None, about: options.Option) -> str:
  """Return a description with the bounds of the number, or of each number in a text."""
  if not about.bounded:
    return text
  return f"{text} {'From' if kind in (int, float) else 'Each number from'} {about.bounds}."


def _define(values, name, default, text, field: dataclasses.Field, about: options.Option) -> None:
  kind = options.kind(field)  # bounds are checked by the configuration itself
  if options.takes_paths(field):
    define_path(values, name, default, text, several=kind is tuple)
  elif kind is bool:
    flags.DEFINE_boolean(name, default, text, flag_values=values)
  elif about.words:
    numbers = flags.IntegerParser() if kind is int else flags.FloatParser()
    flags.DEFINE(_Words(about.words, numbers, about.several), name, default, text, values, flags.ArgumentSerializer())
  elif kind is int:
    flags.DEFINE_integer(name, default, text, flag_values=values)
  elif kind is float:
    flags.DEFINE_float(name, default, text, flag_values=values)
  elif kind is tuple and about.repeated:
    flags.DEFINE_multi_string(name, list(default or ()), text, flag_values=values)
  elif kind is tuple:
    flags.DEFINE_list(name, None if default is None else list(map(str, default)), text, flag_values=values)
  elif about.choices is not None:
    flags.DEFINE_enum(name, default, about.choices, text, flag_values=values)
    values[name].help = text  # without the choices, which the command's help gives itself
  else:
    flags.DEFINE_string(name, default, text, flag_values=values)


class Path(flags.ArgumentParser):
  """Read a path, `~` expanded: behind "--flag=" no shell does it."""

  def parse(self, argument):
    """Return the path."""
    return files.expanded(argument)

  def flag_type(self):
    """Return what is read."""
    return "path"


def define_path(values: flags.FlagValues, name: str, default: Any, text: str, *, several: bool = False) -> None:
  """Define a flag for a path, or for `several`, a flag each; every flag that takes a path is defined here.

  A default stays as it stands, so that the help can show it: who reads it expands it.
  """
  if several:
    flags.DEFINE_multi(Path(), flags.ArgumentSerializer(), name, list(default or ()), text, flag_values=values)
  else:
    flags.DEFINE(Path(), name, default, text, flag_values=values, serializer=flags.ArgumentSerializer())
    flag = values[name]
    flag.default = flag.value = flag.default_as_str = default


def given(values: flags.FlagValues, config: type) -> dict[str, Any]:
  """Return the options that were given on the command line, by name."""
  return {name: value for name, value in read(values, config).items() if values[name].present}


def read(values: flags.FlagValues, config: type) -> dict[str, Any]:
  """Return the value of every flag that is an option of `config`, by name; lists as tuples."""
  found = {name: values[name].value for name in options.options(config) if name in values}
  return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def as_words(values: flags.FlagValues) -> list[str]:
  """Return the flags that were given, as a command line has them."""
  given = [values[name] for name in values if values[name].present]
  return [line for flag in given for line in flag.serialize().splitlines()]


def make(values: flags.FlagValues, config: type[T], **fields: Any) -> T:
  """Return the configuration that the flags describe, with some fields otherwise.

  Raises:
    UsageError: options do not fit together.
  """
  return config(**{**read(values, config), **fields})
