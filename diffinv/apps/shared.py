"""What the commands share: the flags about where to write, and the compilation cache."""

import os
import tempfile

import jax
from absl import flags

from diffinv import errors, files
from diffinv.apps import flags as flagging
from diffinv.launch import Team

CACHE = "~/.cache/diffinv"
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
CACHE_MIN_SECONDS = 0.5  # what compiles faster is not worth a file


def define_output(
  values: flags.FlagValues, *, what: str = "Folder", replaced: str = "output folder", running: str | None = None
) -> None:
  """Define where to write, whether to replace what is there, and where compiled programs are kept.

  Args:
    values: where to define them.
    what: is written.
    replaced: what --overwrite replaces.
    running: what OUTPUT.running holds of a command that goes on after a stop, and that --restart throws away.
  """
  flagging.define_path(values, "output", None, f"{what} to write; required.")
  flags.DEFINE_boolean("overwrite", False, f"Replace an existing {replaced}, at the end.", flag_values=values)
  if running is not None:
    flags.DEFINE_boolean("restart", False, f"Throw away an unfinished {running} in OUTPUT.running.", flag_values=values)
  flagging.define_path(
    values,
    "compilation_cache",
    CACHE,
    f"Folder that keeps compiled programs between runs; empty for none. {CACHE_VARIABLE} goes first.",
  )


def print_shared(team: Team) -> None:
  """Print that the share of another process than the first is done."""
  print(f"process {team.index} of {team.count} has done its share; process 0 has put all together")


def require(values: flags.FlagValues, name: str, expected: str) -> None:
  """Check that a flag was given.

  Raises:
    UsageError: it was not.
  """
  if not values[name].value:
    raise errors.UsageError(f"`{name}` is missing: expected {expected}")


def keep_compiled(values: flags.FlagValues) -> None:
  """Keep compiled programs in a folder; do without where the home folder cannot be written to and nobody asked.

  Raises:
    UsageError: the folder of --compilation_cache cannot be written to.
  """
  if not values.compilation_cache or CACHE_VARIABLE in os.environ:
    return
  folder = files.expanded(values.compilation_cache)
  try:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    if not values["compilation_cache"].present:
      return
    came = errors.one_line(error)
    raise errors.UsageError(f"`compilation_cache`: expected a folder to write to, got {came}") from None
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHE_MIN_SECONDS)
