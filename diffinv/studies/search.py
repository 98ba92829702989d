"""Search of hyper-parameters: what to try, which candidates share a compiled sweep, and which is best.

A candidate is a method with some fields replaced. Fields that are leaves vary within one compiled sweep; each value of
a static field (a count, a choice of algorithm) compiles once more.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import errors, methods
from diffinv.methods.base import Method, Range
from diffinv.operators.base import Operator

MAX_CANDIDATES = 10_000  # of a method on a task


class Candidate(NamedTuple):
  """A choice of hyper-parameters."""

  fields: dict[str, Any]  # the searched ones
  method: Method


def values(name: str, method: type[Method] | None = None) -> dict[str, tuple]:
  """Return what a search tries unless told otherwise, by field: what the class of the method declares.

  Args:
    name: of the method.
    method: its class; None for that of METHODS.

  Raises:
    UsageError: the class declares nothing.
  """
  method = methods.METHODS[name] if method is None else method
  if not methods.fields_of(method):
    raise errors.UsageError(f"`methods`: expected methods with something to tune, got {name}, which has nothing")
  if not getattr(method, "search", None):
    raise errors.UsageError(
      f"`search`: expected values to try for {name}, which declares none; give some, as in `search={name}.FIELD=1,2`, "
      f"for fields among {', '.join(methods.fields_of(method))}"
    )
  return dict(method.search)


def candidates(build: Callable[[dict[str, Any]], Method], search: Mapping[str, Sequence[Any]]) -> list[Candidate]:
  """Return a candidate for every combination of values.

  Args:
    build: makes the method from the searched fields.
    search: values to try, by field.

  Raises:
    UsageError: there are too many combinations.
  """
  count = math.prod(map(len, search.values()))
  if count > MAX_CANDIDATES:
    expected = f"at most {MAX_CANDIDATES:,} combinations of values"
    raise errors.UsageError(f"`search`: expected {expected}, got {count:,}; try fewer")
  chosen = [dict(zip(search, values, strict=True)) for values in itertools.product(*search.values())]
  return [Candidate(some, build(some)) for some in chosen]


def able(found: Sequence[Candidate], operator: Operator) -> list[Candidate]:
  """Return the candidates that can solve problems of the operator.

  Raises:
    ValueError: none can; the message is the first candidate's.
  """
  kept, refusal = [], None
  for candidate in found:
    try:
      methods.check(candidate.method, operator)
      kept.append(candidate)
    except ValueError as error:
      refusal = refusal or error
  if refusal is not None and not kept:
    raise refusal
  return kept


def sweeps(found: Sequence[Candidate]) -> list[list[int]]:
  """Return the numbers of the candidates that can share one compiled sweep: those with equal static fields."""
  groups: dict[Any, list[int]] = {}
  for number, candidate in enumerate(found):
    groups.setdefault(jax.tree.structure(candidate.method), []).append(number)
  return list(groups.values())


def parts(found: Sequence[Candidate], size: int) -> list[tuple[list[int], int]]:
  """Cut every sweep into runs of at most `size` candidates.

  Returns:
    for each run its numbers and the count to pad them to, so that one compilation serves the whole sweep.
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


def at_the_edge(fields: dict[str, Any], search: dict[str, Sequence[Any]], ranges: Mapping[str, Range]) -> list[str]:
  """Return the fields whose best value is the smallest or largest that was tried: the optimum may lie beyond.

  Args:
    fields: the best values.
    search: what was tried.
    ranges: of the method; nothing lies beyond their ends.
  """
  return [
    name
    for name, values in search.items()
    if len(values) > 2 and not isinstance(values[0], (str, bool)) and fields[name] in (min(values), max(values))
    if not (name in ranges and fields[name] in (ranges[name].low, ranges[name].high))
  ]
