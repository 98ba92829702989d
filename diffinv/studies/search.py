"""Search of hyper-parameters: what is tried, all at once where it is a number, and which is best.

A candidate is a method with some fields replaced. Fields that are leaves vary within one compiled sweep; a value of a
static field (a count, a choice of algorithm) compiles once more.
"""

import itertools
import math
from typing import Any, Mapping, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import methods
from diffinv.methods.base import Method, Range
from diffinv.operators.base import Operator

# What is searched where the caller does not say: around the papers' values, and further where priors differ in scale.
SEARCH: dict[str, dict[str, tuple]] = {
  "sdedit": {"t0": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "ridge": (0.001, 0.01, 0.1)},
  "score_ald": {"rate": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.4, 2.0, 4.0)},
  "dps": {"rule": ("code", "squared"), "scale": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)},
  "pigdm": {"eta": (0.0, 0.25, 0.5, 0.75, 1.0)},
  "tmpd": {"eta": (0.0, 0.25, 0.5, 0.75, 1.0)},
  "mmps": {"eta": (0.0, 0.25, 0.5, 0.75, 1.0)},
  "jfps": {"eta": (0.0, 0.25, 0.5, 0.75, 1.0)},
  "diffpir": {"weight": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), "zeta": (0.0, 0.3, 0.7, 1.0)},
  "ddnm_plus": {"eta": (0.0, 0.25, 0.5, 0.85, 1.0)},
  "ddrm": {"eta": (0.0, 0.3, 0.6, 0.85, 1.0), "eta_b": (0.5, 1.0)},
  "daps": {"tau": (0.01, 0.02, 0.05, 0.1), "step_size": (1e-5, 5e-5, 1e-4, 2e-4, 5e-4)},
  "red_diff": {"learning_rate": (0.03, 0.1, 0.3), "weight": (0.01, 0.03, 0.1, 0.25, 0.5, 1.0)},
}


def values(method: type[Method]) -> dict[str, tuple]:
  """Return what is searched of a method where the caller does not say."""
  return SEARCH[method.name]


class Candidate(NamedTuple):
  """A choice of hyper-parameters."""

  fields: dict[str, Any]  # the searched ones
  method: Method


def candidates(name: str, fields: dict[str, Any], search: dict[str, Sequence[Any]]) -> list[Candidate]:
  """Return the method with every combination of the searched values.

  Args:
    name: of the method.
    fields: the rest of its hyper-parameters.
    search: values to try, by field.

  Raises:
    ValueError: there is no such method or field.
  """
  chosen = [dict(zip(search, values)) for values in itertools.product(*search.values())]
  return [Candidate(some, methods.make_method(name, {**fields, **some})) for some in chosen]


def able(found: Sequence[Candidate], operator: Operator) -> list[Candidate]:
  """Return the candidates that can solve problems of the operator.

  Raises:
    ValueError: none can; the message is that of the first.
  """
  kept, refusal = [], None
  for candidate in found:
    try:
      methods.check(candidate.method, operator)
      kept.append(candidate)
    except ValueError as error:
      refusal = refusal or error
  if not kept:
    raise refusal
  return kept


def sweeps(found: Sequence[Candidate]) -> list[list[int]]:
  """Return the numbers of the candidates that one compiled sweep can take together: those with equal static fields."""
  groups: dict[Any, list[int]] = {}
  for number, candidate in enumerate(found):
    groups.setdefault(jax.tree.structure(candidate.method), []).append(number)
  return list(groups.values())


def parts(found: Sequence[Candidate], size: int) -> list[tuple[list[int], int]]:
  """Cut every sweep into runs of at most `size` candidates.

  Returns:
    the numbers of each, and how many to fill them up to, so that one compilation serves all of a sweep.
  """
  cut = []
  for numbers in sweeps(found):
    full = min(size, len(numbers))
    cut += [(numbers[first : first + full], full) for first in range(0, len(numbers), full)]
  return cut


def stacked(found: Sequence[Candidate], repeats: int) -> Method:
  """Join methods of one structure into one with a leading axis on every leaf, each `repeats` times in a row."""
  join = lambda *leaves: jnp.repeat(jnp.asarray(np.array(leaves, np.float32)), repeats, axis=0)
  return jax.tree.map(join, *(candidate.method for candidate in found))


def best(marks: Sequence[float]) -> int | None:
  """Return the number of the highest mark, of those that are finite; None where none is."""
  finite = [number for number, mark in enumerate(marks) if math.isfinite(mark)]
  return max(finite, key=lambda number: marks[number], default=None)


def at_the_edge(fields: dict[str, Any], search: dict[str, Sequence[Any]], ranges: Mapping[str, Range]) -> list[str]:
  """Return the fields whose best value is the first or last that was tried: the best may lie beyond.

  Args:
    fields: the best values.
    search: what was tried.
    ranges: of the method: nothing lies beyond their ends.
  """
  return [
    name
    for name, values in search.items()
    if len(values) > 2 and not isinstance(values[0], (str, bool)) and fields[name] in (min(values), max(values))
    if not (name in ranges and fields[name] in (ranges[name].low, ranges[name].high))
  ]
