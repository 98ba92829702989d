"""What a person wants, in place of a method: how good a picture, and of which kind.

  aim      mean    the most accurate picture: the least squared error, by the posterior mean or what comes nearest
           sample  a plausible picture: as sharp as the pictures that the prior knows, and wrong in what it makes up
  quality  fast, balanced or best: what to spend

Which method that is, with how many steps and how many chains to average, stands in the settings of the prior, as a
list: the first that can solve the problem is taken.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from diffinv import errors
from diffinv.methods import METHODS
from diffinv.methods.averaged import Averaged
from diffinv.methods.base import Method
from diffinv.studies import settings

AIMS = ("mean", "sample")
QUALITIES = ("fast", "balanced", "best")


@dataclasses.dataclass(frozen=True)
class Preset:
  """A wish; among the methods of a comparison it has the name of its quality, "balanced" or "balanced_sample"."""

  quality: str
  aim: str

  @property
  def name(self) -> str:
    """The name among methods."""
    return self.quality if self.aim == AIMS[0] else f"{self.quality}_{self.aim}"

  @property
  def title(self) -> str:
    """The name in tables."""
    return f"{self.quality.capitalize()} ({self.aim})"

  citation = "a choice of the prior's settings"
  entering = "as the method that it is on each task"


PRESETS = {preset.name: preset for aim in AIMS for quality in QUALITIES for preset in [Preset(quality, aim)]}


class Chosen(NamedTuple):
  """What a preset is on a problem."""

  method: Any  # a Method, with its hyper-parameters
  steps: str


def choose(
  preset: Preset,
  table: dict[str, Any],
  build: Callable[[str, type[Method], str], Method],
  excuse: Callable[[Method], str | None],
  *,
  steps: str | int | None = None,
) -> Chosen:
  """Return the first method of a preset's list that can solve a problem.

  Args:
    preset: the wish.
    table: settings of the prior.
    build: makes a method of its name, its class and its steps.
    excuse: says why a method cannot solve the problem; None where it can.
    steps: of the chain, in place of the list's.

  Raises:
    UsageError: none can.
  """
  excuses = []
  for entry in settings.preset(table, preset.aim, preset.quality):
    name = entry["method"]
    wanted = str(steps or entry.get("steps") or settings.steps_for(table, name))
    method = build(name, METHODS[name], wanted)
    if (found := excuse(method)) is None:
      count = entry.get("samples", 1)
      return Chosen(method if count == 1 else Averaged(method, samples=count), wanted)
    excuses.append(found)
  raise errors.UsageError(f"{preset.name}: expected a problem that one of its methods can solve: {'; '.join(excuses)}")
