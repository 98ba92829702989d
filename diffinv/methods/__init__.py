"""Methods that solve y = A(x) + n with a diffusion prior, by name: a method is its file and a line in METHODS."""

import dataclasses
import numbers
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from diffinv import options
from diffinv.methods.base import Method, Range
from diffinv.methods.daps import DAPS
from diffinv.methods.ddnm_plus import DDNMPlus
from diffinv.methods.ddrm import DDRM
from diffinv.methods.diffpir import DiffPIR
from diffinv.methods.dpir import DPIR
from diffinv.methods.dps import DPS
from diffinv.methods.jfps import JFPS
from diffinv.methods.mmps import MMPS
from diffinv.methods.mmse import MMSE
from diffinv.methods.pigdm import PiGDM
from diffinv.methods.red_diff import REDDiff
from diffinv.methods.score_ald import ScoreALD
from diffinv.methods.sdedit import SDEdit
from diffinv.methods.tmpd import TMPD
from diffinv.operators.base import LinearOperator, Operator
from diffinv.operators.pixels import Identity
from diffinv.pytree import choices_of
from diffinv.schedules import Schedule

ANY = Range(-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))  # what a chain computes with

METHODS: dict[str, type[Method]] = {
  "mmse": MMSE,
  "sdedit": SDEdit,
  "score_ald": ScoreALD,
  "dps": DPS,
  "pigdm": PiGDM,
  "tmpd": TMPD,
  "mmps": MMPS,
  "jfps": JFPS,
  "dpir": DPIR,
  "diffpir": DiffPIR,
  "ddnm_plus": DDNMPlus,
  "ddrm": DDRM,
  "daps": DAPS,
  "red_diff": REDDiff,
}


def make_method(name: str, fields: dict[str, Any]) -> Method:
  """Build the method `name` with the given hyper-parameters, the rest at their defaults.

  Raises:
    ValueError: there is no such method or field, or a field cannot have this value; the message lists what exists.
  """
  check_names(name, fields)
  method = METHODS[name](**fields)
  check_fields(method)
  return method


def check_names(name: str, fields: Iterable[str]) -> None:
  """Check that the method exists and has these fields.

  Raises:
    ValueError: it does not; the message lists what exists.
  """
  if name not in METHODS:
    raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
  known = fields_of(METHODS[name])
  for field in fields:
    if field not in known:
      raise ValueError(f"{name}: expected a field among {', '.join(known)}, got {field!r}")


def fields_of(method: type[Method]) -> list[str]:
  """Return the names of a method's hyper-parameters."""
  return [field.name for field in dataclasses.fields(method)]


def choices(method: type[Method], field: str) -> tuple[str, ...]:
  """Return the names that a field which chooses an algorithm may hold; () for any other field."""
  return choices_of(method, field)


def needs(method: type[Method]) -> str:
  """Write which operators the method works with."""
  if method.identity_only:
    return "the identity"
  if method.spectral_only:
    return "linear, SVD in closed form"
  return "linear" if method.linear_only else "any differentiable"


def check_fields(method: Method) -> None:
  """Check that the method is defined for the value of every hyper-parameter; traced values pass.

  Raises:
    ValueError: it is not.
  """
  for field in dataclasses.fields(method):
    value = getattr(method, field.name)
    if isinstance(value, str):
      known = choices(type(method), field.name)
      if known and value not in known:
        raise ValueError(f"{method.name}: expected {field.name} to be one of {', '.join(known)}, got {value!r}")
    elif isinstance(value, (numbers.Real, np.ndarray, jax.Array)) and not isinstance(value, jax.core.Tracer):
      wanted = method.ranges.get(field.name, ANY)
      values: Any = value
      for number in np.ravel(values):
        if number not in wanted:
          raise ValueError(f"{method.name}: expected {field.name} to be {wanted}, got {options.shown(number)}")


def check(method: Method, operator: Operator) -> None:
  """Check that the method can solve problems of this operator.

  Raises:
    ValueError: the method needs another kind of operator, a hyper-parameter is out of its range, or the steps are not
      stable; the message says what to do.
  """
  check_fields(method)
  if not accepts(method, operator):
    able = ", ".join(name for name, other in METHODS.items() if accepts(other, operator))
    raise ValueError(f"{method.name}: expected {_operators(method)}, got {type(operator).__name__}; use one of {able}")
  method.check(operator)


def check_noise(method: Method, noise: Any, schedule: Schedule) -> None:
  """Check that the method can solve problems of this noise with a prior of this schedule.

  Raises:
    ValueError: it cannot; the message says what to do.
  """
  # A method from elsewhere may have none.
  getattr(method, "check_noise", lambda noise, schedule: None)(noise, schedule)


def check_start(method: Method, operator: Operator, schedule: Schedule) -> None:
  """Check that chains of the method for this operator can start with a prior of this schedule.

  Raises:
    ValueError: the prior knows too little noise; the message says what can be done.
  """
  getattr(method, "check_start", lambda operator, schedule: None)(operator, schedule)


def fitted(method: Method, noise: Any) -> Method:
  """Return the method as problems of this noise take it: with more evaluations, where it needs them."""
  return getattr(method, "fitted", lambda noise: method)(noise)


def _operators(method: Method) -> str:
  if method.identity_only:
    return "the picture itself with noise, as the task denoising has it"
  return "a linear operator" + (" whose SVD has a closed form" if method.spectral_only else "")


def accepts(method: type[Method] | Method, operator: Operator) -> bool:
  """Return whether the operator is of the kind that the method needs: any, linear, of known SVD, or the identity."""
  if method.identity_only:
    return isinstance(operator, Identity)
  if not isinstance(operator, LinearOperator):
    return not (method.linear_only or method.spectral_only)
  return not method.spectral_only or operator.spectral() is not None
