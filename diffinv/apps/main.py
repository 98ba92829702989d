"""diffinv: restore degraded pictures with diffusion priors.

usage: diffinv COMMAND [--flag=value ...]

`diffinv COMMAND --help` lists the flags of a command with their units and defaults.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

import diffinv
from diffinv import errors, stopping, streams

# Loaded when called: a command's flags and imports are its own, and the help is there at once.
COMMANDS = {
  "sample": ("diffinv.apps.sample", "draw pictures from a prior"),
  "reconstruct": ("diffinv.apps.reconstruct", "restore pictures or measurements of them"),
  "compare": ("diffinv.apps.compare", "restore the same measurements with several methods, and compare"),
  "tune": ("diffinv.apps.tune", "search a method's hyper-parameters for tasks"),
  "report": ("diffinv.apps.report", "show a comparison as one page to look at in a browser"),
  "tasks": ("diffinv.apps.tasks", "list what can be measured, with sources, and what restores it"),
  "methods": ("diffinv.apps.methods", "list the methods, what they need and cost, with sources"),
  "convert": ("diffinv.apps.convert", "turn a PyTorch checkpoint into a prior"),
  "train": ("diffinv.apps.train", "train a prior"),
  "evaluate": ("diffinv.apps.evaluate", "measure what a trained prior is worth"),
  "verify": ("diffinv.apps.verify", "hold every method against laws that are known exactly"),
}
POSITIONAL = "run"  # the flag that an argument without a name stands for, in the commands that have it
HELP = ("-h", "-help", "--help", "--helpfull", "--helpshort")
VERSION = ("-version", "--version")
TRACEBACK = "DIFFINV_TRACEBACK"  # environment: set to 1 to see where an error came from
HELP_WIDTH = 110


def run(end: Callable[[int], Any] = sys.exit) -> None:
  """Be the console command `diffinv`, which ends by `end(exit code)`."""
  _prepare_process()
  end(_finished(execute(sys.argv[1:])))


def run_module(main: Callable[[list[str]], None], values: flags.FlagValues = flags.FLAGS) -> None:
  """Be `python -m diffinv.apps.NAME`, where `main` and the flags `values` are those of the module."""
  _prepare_process()
  module = sys.modules[main.__module__]
  name = (main.__module__ if module.__spec__ is None else module.__spec__.name).rpartition(".")[2]
  sys.exit(_finished(guarded(name, lambda: command(name, main, values, module.__doc__, sys.argv[1:]))))


def _prepare_process() -> None:
  streams.protect()  # first: what opens a file would get a standard stream that is closed
  stopping.defer_in_process()


def _finished(code: int) -> int:
  """Return the exit code of a process whose command ended with `code`, or what became of its output."""
  lost = streams.finish()
  if lost is None:
    return code
  print(f"diffinv: error: {lost}: standard output; all but what was printed is in order", file=sys.stderr)
  return code or errors.EXIT_FAILURE


def execute(argv: Sequence[str]) -> int:
  """Run a command line, without the program's name; return the exit code."""
  name, *rest = argv or ("",)
  if name in HELP:
    print(f"{__doc__.strip()}\n\ncommands:\n{_command_list()}")
    return 0
  if name in VERSION:
    print(f"diffinv {diffinv.__version__}")
    return 0
  return guarded(name, lambda: _dispatch(name, rest))


def guarded(name: str, action: Callable[[], None]) -> int:
  """Run `action`; report an error that a person can act on as one line. Return the exit code."""
  try:
    with stopping.deferred():
      action()
  except errors.Ended as ended:
    return ended.code
  except (Exception, KeyboardInterrupt) as found:
    error = _cause(found)
    code = errors.exit_code(error)
    if code is None or os.environ.get(TRACEBACK) == "1":
      raise
    hint = f"; see diffinv {name} --help" if isinstance(error, UnknownFlags) else ""
    print(f"diffinv: error: {errors.one_line(error)}{hint}", file=sys.stderr)
    return code
  return 0


def _cause(error: BaseException) -> BaseException:
  """Return an error, or in place of one that was not foreseen why JAX cannot start, if it cannot."""
  if errors.exit_code(error) is None and "jax" in sys.modules:
    from diffinv import devices  # imports JAX

    try:
      devices.check()
    except errors.UsageError as refused:
      return refused
    except Exception:  # the error itself says more
      pass
  return error


class UnknownFlags(errors.UsageError):
  """The flags themselves are wrong, so that the command's help is of help."""


def _dispatch(name: str, argv: Sequence[str]) -> None:
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    guess = f"; did you mean {close[0]}?" if close else "; see diffinv --help"
    came = repr(name) if name else "none"
    raise errors.UsageError(f"expected a command, one of {', '.join(COMMANDS)}, got {came}{guess}")
  module = importlib.import_module(COMMANDS[name][0])
  command(name, module.main, getattr(module, "FLAGS", flags.FLAGS), module.__doc__, argv)


def command(name: str, main: Callable, values: flags.FlagValues, doc: str | None, argv: Sequence[str]) -> None:
  """Parse the flags of a command and run it, or print its help."""
  if any(arg in HELP for arg in argv):
    print(f"{(doc or '').strip()}\n\nflags:\n{_flag_list(values)}")
    return
  rest = parse(name, values, argv)
  stopping.check()
  main(rest)


def parse(name: str, values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """Set the flags from a command line, all others to their defaults; return what `main` of absl gets.

  Raises:
    UsageError: a flag does not exist, its value is not valid, or there is something that is no flag.
  """
  values.unparse_flags()
  try:
    rest = values([f"diffinv {name}", *argv])
  except flags.UnrecognizedFlagError as error:
    close = difflib.get_close_matches(error.flagname, list(values), n=1)
    guess = f"; did you mean --{close[0]}?" if close else ""
    raise UnknownFlags(f"unknown flag --{error.flagname}{guess}") from None
  except (flags.Error, ValueError) as error:
    raise UnknownFlags(str(error)) from None
  if len(rest) > 1 and POSITIONAL in values and not values[POSITIONAL].present:
    values[POSITIONAL].parse(rest.pop(1))
  if len(rest) > 1:
    raise UnknownFlags(f"expected flags only, got {rest[1]!r}; several values go into one flag, separated by commas")
  return rest


def _command_list() -> str:
  return "\n".join(f"  {name:<13}{summary}" for name, (_, summary) in COMMANDS.items())


def _flag_list(values: flags.FlagValues) -> str:
  """Describe the flags that this package defines: name, choices, meaning with unit, default."""
  lines = []
  for module, defined in values.flags_by_module_dict().items():
    if module.startswith("diffinv") or module == sys.argv[0]:
      lines += [_describe(flag) for flag in defined]
  return "\n".join(dict.fromkeys(lines))


def _describe(flag: flags.Flag) -> str:
  name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
  choices = getattr(flag.parser, "enum_values", None)
  choices = f"one of {', '.join(choices)}: " if choices else ""
  default = "not set" if flag.default in (None, []) else (flag.default_as_str or "").strip("'")
  if isinstance(flag.default, list) and flag.default:
    default = ", ".join(flag.default)  # which breaks into lines at its commas
  text = f"{choices}{' '.join(flag.help.split())} (default: {default or 'empty'})"
  return f"  {name}\n{flags.text_wrap(text, HELP_WIDTH, indent='      ', firstline_indent='      ')}"


if __name__ == "__main__":
  run()
