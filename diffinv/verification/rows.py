"""The rows of the tables of `diffinv verify`: numbers, and the checks that failed; and how much is drawn for them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffinv.schedules import Schedule

SCHEDULE = Schedule("linear", 100)
LARGEST_Z = 5.0  # standard errors, of some hundred numbers a run


class Row(NamedTuple):
  """One line of a table."""

  table: str  # of TABLES
  method: str  # of METHODS, or a reference
  settings: str
  values: dict[str, Any]  # numbers, or lists of them
  failed: tuple[str, ...]  # the names of the checks that fail; none if all is well
  note: str = ""


class Size(NamedTuple):
  """How much is drawn."""

  chains: int  # on G3
  problems: int  # truths, 19 draws each
  scalar_chains: int  # 0: no scalar table
  instances: int  # of the mixture, for each number of measurements
  samples: int  # of each instance
  everything: (
    bool  # all cases of a method, its steps, all methods on the mixture; else one, none, those with a reference
  )


QUICK = Size(chains=6000, problems=400, scalar_chains=0, instances=4, samples=300, everything=False)
FULL = Size(chains=20_000, problems=1000, scalar_chains=25_000, instances=6, samples=1000, everything=True)

TABLES = ("gaussian", "scalar", "mixture")


def failed(holds: Mapping[str, Any]) -> tuple[str, ...]:
  """Return the names of the checks that do not hold."""
  return tuple(name for name, true in holds.items() if not true)


def largest(values: np.ndarray) -> float:
  """Return the value of largest size; nan if there is one."""
  return float(values[np.argmax(np.abs(values))])
