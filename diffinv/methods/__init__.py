"""Methods that solve y = A(x) + n with a diffusion prior, by name."""

import dataclasses
from typing import Any

from diffinv.methods.base import Method
from diffinv.methods.daps import DAPS
from diffinv.methods.ddnm_plus import DDNMPlus
from diffinv.methods.ddrm import DDRM
from diffinv.methods.diffpir import DiffPIR
from diffinv.methods.dps import DPS
from diffinv.methods.jfps import JFPS
from diffinv.methods.mmps import MMPS
from diffinv.methods.pigdm import PiGDM
from diffinv.methods.red_diff import REDDiff
from diffinv.methods.score_ald import ScoreALD
from diffinv.methods.sdedit import SDEdit
from diffinv.methods.tmpd import TMPD
from diffinv.operators.base import LinearOperator, Operator

METHODS = {
  "sdedit": SDEdit,
  "score_ald": ScoreALD,
  "dps": DPS,
  "pigdm": PiGDM,
  "tmpd": TMPD,
  "mmps": MMPS,
  "jfps": JFPS,
  "diffpir": DiffPIR,
  "ddnm_plus": DDNMPlus,
  "ddrm": DDRM,
  "daps": DAPS,
  "red_diff": REDDiff,
}


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
  if not accepts(type(method), operator):
    wanted = "a linear operator" + (" whose SVD has a closed form" if method.spectral_only else "")
    able = ", ".join(name for name, other in METHODS.items() if accepts(other, operator))
    raise ValueError(f"{method.name}: expected {wanted}, got {type(operator).__name__}; use one of {able}")
  method.check(operator)


def accepts(method: type[Method], operator: Operator) -> bool:
  """Return whether the operator is of the class that the method is made for: any, linear, of known SVD."""
  linear = isinstance(operator, LinearOperator)
  if method.spectral_only:
    return linear and operator.spectral() is not None
  return linear or not method.linear_only
