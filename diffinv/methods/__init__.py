"""Methods that solve y = A(x) + n with a diffusion prior, by name."""

import dataclasses
from typing import Any

import jax

from diffinv.methods.base import Method
from diffinv.methods.dps import DPS
from diffinv.methods.score_ald import ScoreALD
from diffinv.methods.sdedit import SDEdit
from diffinv.operators.base import LinearOperator, Operator

METHODS = {"sdedit": SDEdit, "score_ald": ScoreALD, "dps": DPS}


def make_method(name: str, fields: dict[str, Any]) -> Method:
  """Build the method `name` with the given hyper-parameters, the rest at their defaults.

  Raises:
    ValueError: there is no such method or field; the message lists those there are.
  """
  if name not in METHODS:
    raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
  known = [field.name for field in dataclasses.fields(METHODS[name])]
  for field in fields:
    if field not in known:
      raise ValueError(f"{name}: expected a field among {', '.join(known)}, got {field!r}")
  return METHODS[name](**fields)


def check(method: Method, operator: Operator) -> None:
  """Check that the method can solve problems of this operator.

  Raises:
    ValueError: the method is for linear operators, or re-imposes pixels that the operator does not observe, or its
      step is not stable; the message says what to do.
  """
  kind = type(operator).__name__
  if method.linear_only and not isinstance(operator, LinearOperator):
    able = ", ".join(name for name, other in METHODS.items() if not other.linear_only)
    raise ValueError(f"{method.name}: expected a linear operator, got {kind}; use one of {able}")
  method.check(operator)
