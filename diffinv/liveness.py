"""How much memory the values of a compiled function take, estimated from its jaxpr: nothing is compiled.

The values that are alive together count, in the order of the jaxpr, as the compiler has them: an element-wise operation
is fused with what consumes it, and its value is in memory only where a product, a convolution, a loop or the result
takes it whole, or where it is used more than once. A gradient is part of the jaxpr, and with it what it keeps of the
way forward. XLA makes copies for other layouts besides, and does not share all that could be: OVERHEAD is measured on a
CPU, where steps of DPS, DiffPIR and training then come to 0.6 to 1.2 times its figures.
"""

import collections
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from jax.extend import core

OVERHEAD = 1.5  # what is needed over what is alive

# Beginnings of the names of operations that take whole values and give such, and of those that only give such. All
# others are part of what uses their result once.
NAMES = {
  "whole": """conv_ dot_ ragged_dot scan while cond fft sort gather scatter cum reduce_window select_and_ top_k
    triangular_solve cholesky eig svd qr lu random_gamma pure_callback io_callback""",
  "reducing": "reduce_ arg",
}
WHOLE, REDUCING = (tuple(names.split()) for names in NAMES.values())
CALLS = "jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call shard_map"
CHEAP = ("broadcast_in_dim", "iota")  # done again for each use
MAPPED = "shard_map"  # over devices: what is within is a part of what is without
BARRIER = "optimization_barrier"  # takes whole values
PASSING = ("reshape", "squeeze", "expand_dims", BARRIER)  # give what they take


def nbytes(value: Any) -> int:
  """Return the bytes of an array, or of its shape and type."""
  return math.prod(value.shape) * value.dtype.itemsize


class _Operation(NamedTuple):
  """An operation on numbered values."""

  name: str
  takes: list[int]
  gives: list[int]
  inner: int  # bytes that it needs within


class _Program:
  """A jaxpr without its calls: operations on numbered values, in their order."""

  def __init__(self, jaxpr: Any):
    """Read a jaxpr."""
    self.operations: list[_Operation] = []
    self.sizes: list[int] = []  # bytes, of every value
    names: dict[Any, int] = {}
    self.given = {self._name(names, v) for v in (*jaxpr.constvars, *jaxpr.invars)}
    self._read(jaxpr, names, 1)
    self.results = [names[v] for v in jaxpr.outvars if not isinstance(v, core.Literal)]
    self._prune()

  def _name(self, names, variable, parts=1) -> int:
    names[variable] = len(self.sizes)
    self.sizes.append(parts * nbytes(variable.aval) if hasattr(variable.aval, "shape") else 0)
    return names[variable]

  def _read(self, jaxpr, names, parts) -> None:
    """Add the operations of a jaxpr, of which so many run side by side."""
    for equation in jaxpr.eqns:
      takes = [None if isinstance(v, core.Literal) else names[v] for v in equation.invars]
      inner = list(_inner(equation.params))
      if equation.primitive.name in CALLS.split() and len(inner) == 1:
        within = parts * (equation.params["mesh"].size if equation.primitive.name == MAPPED else 1)
        self._call(inner[0], takes, equation.outvars, names, within)
        continue
      gives = [self._name(names, v, parts) for v in equation.outvars]
      needed = parts * max(map(alive, inner), default=0)
      self.operations.append(_Operation(equation.primitive.name, [v for v in takes if v is not None], gives, needed))

  def _prune(self) -> None:
    """Leave out the operations whose results nobody uses."""
    used, kept = set(self.results), []
    for operation in reversed(self.operations):
      if used.intersection(operation.gives):
        used.update(operation.takes)
        kept.append(operation)
    self.operations = kept[::-1]

  def _call(self, jaxpr, takes, results, names, parts) -> None:
    """Read a call as if its operations stood here."""
    within: dict[Any, int] = {}
    for v in jaxpr.constvars:
      self._name(within, v, parts)
    for variable, value in zip(jaxpr.invars, takes, strict=True):
      if value is None:
        self._name(within, variable, parts)
      else:
        within[variable] = value
    self._read(jaxpr, within, parts)
    for outer, v in zip(results, jaxpr.outvars, strict=True):
      if isinstance(v, core.Literal):
        self._name(names, outer)
      else:
        names[outer] = within[v]


def _inner(parameters: dict[str, Any]) -> Iterable[Any]:
  """Give the jaxprs among the parameters of an operation."""
  for value in parameters.values():
    for one in value if isinstance(value, (tuple, list)) else (value,):
      jaxpr = getattr(one, "jaxpr", one)  # of one that is closed
      if hasattr(jaxpr, "eqns"):
        yield jaxpr


def peak(jaxpr: Any) -> int:
  """Return about how many bytes a jaxpr needs, compiled, besides its arguments; its results are among them."""
  return int(OVERHEAD * alive(jaxpr))


def alive(jaxpr: Any) -> int:
  """Return the most bytes that the values of a jaxpr take together, its results among them and not its arguments."""
  program = _Program(jaxpr)
  whole = _whole(program)
  buffers: dict[int, frozenset[int]] = {}  # that a value is computed from; its own where it is in memory
  last: dict[int, int] = {}  # operation that uses a buffer
  for number, (_, takes, gives, _) in enumerate(program.operations):
    sources: frozenset[int] = frozenset().union(*(buffers.get(v, frozenset()) for v in takes))
    last.update(dict.fromkeys(sources, number))
    for value in gives:
      buffers[value] = frozenset([value]) if value in whole else sources
      last[value] = number
  last.update({b: len(program.operations) for v in program.results for b in buffers.get(v, ())})
  ending: dict[int, list[int]] = {}
  for buffer, number in last.items():
    ending.setdefault(number, []).append(buffer)
  now = most = 0
  for number, (_, _, gives, inner) in enumerate(program.operations):
    now += sum(program.sizes[v] for v in gives if v in whole)
    most = max(most, now + inner)
    now -= sum(program.sizes[v] for v in ending.get(number, ()) if v in whole)
  return most


def _whole(program: _Program) -> set[int]:
  """Return the values that are in memory, without what is given."""
  uses = collections.Counter(v for _, takes, _, _ in program.operations for v in set(takes))
  needed, passed = set(program.results), set()
  for name, takes, gives, _ in reversed(program.operations):
    opaque = name.startswith(WHOLE)
    if name in PASSING:
      passed.update(gives)
    elif opaque or name.startswith(REDUCING):
      needed.update(gives)
    elif name not in CHEAP:
      needed.update(v for v in gives if uses[v] > 1)
    if opaque or name == BARRIER or (name in PASSING and needed.intersection(gives)):
      needed.update(takes)
  return needed - passed - program.given
