"""What a restoration without a network is: a function from a measurement to a picture, and what is said of it.

The function sees the problem alone: what was measured, how, and with what noise, as the methods do; never the truth.
Its keyword-only arguments are numbers that a person may set; without them, a rule chooses from the noise. It runs on
the host, outside jit, on one picture at a time, and gives the same picture every time.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import options
from diffinv.operators.base import LinearOperator, Operator
from diffinv.operators.blur import CircularBlur, ReflectBlur
from diffinv.operators.pixels import Identity, Inpainting
from diffinv.operators.separable import Separable
from diffinv.problems import Problem

Restore = Callable[..., Any]  # (problem, *, numbers) -> a picture [h, w, c], [-1, 1]
MOST_STEPS, LARGEST = 100_000, 1e12  # of what a person may set
LEAST_SEEN = 1e-3  # of A^T A 1: below it nothing is known of a pixel
COLORS = 3  # channels of `natural`
OWN = "own"  # the source of a person's own function


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A restoration without a network: a row of BASELINES, or a person's own function with a name."""

  name: str  # as on the command line
  title: str
  restore: Restore
  citation: str = OWN
  entering: str = ""  # what it does, in a line
  suits: Callable[[Operator], bool] = lambda operator: True
  needs: str = "any"  # in words, what `suits` asks for
  noisy: bool = False  # whether it needs noise
  library: str | None = None  # that has to be installed besides: the module's name
  numbers: tuple[tuple[str, Any], ...] = ()  # that were set

  deterministic = True

  def __call__(self, problem: Problem) -> np.ndarray:
    """Return the restored picture, `[h, w, c]`, float32.

    Raises:
      ValueError: the function gave none.
    """
    found = np.asarray(self.restore(problem, **dict(self.numbers)), np.float32)
    if found.shape != tuple(problem.operator.in_shape):
      raise ValueError(f"{self.name}: expected a picture of shape {problem.operator.in_shape}, got {found.shape}")
    return found

  def fields(self) -> dict[str, Any]:
    """Return the numbers that can be set: those that were, else the function's own; None is a rule's."""
    return {name: default for name, (default, _) in _settable(self.restore).items()} | dict(self.numbers)

  def having(self, given: Mapping[str, Any]) -> "Baseline":
    """Return it with numbers set, of which text is read.

    Raises:
      ValueError: there is no such number, or it cannot have this value.
    """
    known = _settable(self.restore)
    for name in given:
      if name not in known:
        raise ValueError(f"{self.name}: expected a field among {', '.join(known) or 'none'}, got {name!r}")
    read = {name: _number(f"{self.name}: expected {name} to be", known[name][1], v) for name, v in given.items()}
    return dataclasses.replace(self, numbers=tuple({**dict(self.numbers), **read}.items()))

  def source(self) -> dict[str, Any]:
    """Return what tells a person's own function from another of its name: its text; nothing of a row of the table."""
    if self.citation != OWN:
      return {}
    try:
      text = inspect.getsource(self.restore)
    except (OSError, TypeError):
      text = getattr(self.restore, "__qualname__", type(self.restore).__name__)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}

  def excuse(self, operator: Operator, noise: Any) -> str | None:
    """Say why it cannot restore problems of the operator and the noise; None where it can."""
    if not self.suits(operator):
      return f"{self.name}: expected {self.needs}, got {type(operator).__name__}"
    if self.noisy and not np.any(np.asarray(noise.std(jnp.zeros(operator.out_shape)))):
      return f"{self.name}: expected noise, got {type(noise).__name__}"
    if self.library is not None and importlib.util.find_spec(self.library) is None:
      return f"{self.name}: expected scikit-image, got none; install it with pip install 'diffinv[classical]'"
    return None


def _settable(restore: Restore) -> dict[str, tuple[Any, type]]:
  """Return the default and the type of each number that a function takes, by name."""
  taken = inspect.signature(restore).parameters.values()
  return {
    p.name: (p.default, int if p.annotation in (int, int | None) else float) for p in taken if p.kind is p.KEYWORD_ONLY
  }


def _number(expected: str, kind: type, value: Any) -> Any:
  low, high = (1, MOST_STEPS) if kind is int else (0.0, LARGEST)
  try:
    number = kind(value)
  except (TypeError, ValueError):
    raise ValueError(f"{expected} of type {kind.__name__}, got {value!r}") from None
  if not (math.isfinite(number) and low <= number <= high):
    raise ValueError(f"{expected} in [{options.shown(low)}, {options.shown(high)}], got {value!r}")
  return number


# What operators are


def is_linear(operator: Operator) -> bool:
  """Tell whether a measurement is linear in the picture."""
  return isinstance(operator, LinearOperator)


def is_linear_of_color(operator: Operator) -> bool:
  """Tell whether a measurement is linear in a picture of three channels."""
  return is_linear(operator) and operator.in_shape[-1] == COLORS


def is_identity(operator: Operator) -> bool:
  """Tell whether a measurement is the picture itself."""
  return isinstance(operator, Identity)


def is_inpainting(operator: Operator) -> bool:
  """Tell whether a measurement is the picture where it is known."""
  return isinstance(operator, Inpainting)


def is_blur(operator: Operator) -> bool:
  """Tell whether a measurement is a blurred picture of the same size."""
  if isinstance(operator, Separable):
    return operator.out_shape == tuple(operator.in_shape)
  return isinstance(operator, (CircularBlur, ReflectBlur))


def is_reduction(operator: Operator) -> bool:
  """Tell whether a measurement is the picture at a whole fraction of its size, more than 1."""
  shape, measured = tuple(operator.in_shape), operator.out_shape
  if not operator.is_picture or len(measured) != 3 or measured[2] != shape[2]:
    return False
  factor = shape[0] // measured[0]
  return factor > 1 and (measured[0] * factor, measured[1] * factor) == shape[:2]


# What is known of the noise


def noise_weights(problem: Problem) -> jax.Array:
  """Return weights that make the noise of all values equal, [] or the shape of y: 1 for Gaussian noise and for none."""
  mean, std = jnp.sqrt(problem.mean_variance()), problem.noise.std(problem.y)
  return jnp.where(std > 0, mean / jnp.where(std > 0, std, 1.0), 1.0)


def noise_std(problem: Problem) -> float:
  """Return the root mean square of sigma_y over the observed values."""
  return float(jnp.sqrt(problem.mean_variance()))


def rms(values: jax.Array) -> jax.Array:
  """Return the root mean square, []."""
  return jnp.sqrt(jnp.mean(values**2))


def brightness(problem: Problem) -> jax.Array:
  """Return A^T y over A^T A 1, where that is not 0, `[h, w, c]`: a first picture of about the right brightness."""
  operator: Any = problem.operator  # linear
  ones = operator.adjoint(operator(jnp.ones(operator.in_shape)))
  seen = ones > LEAST_SEEN
  return jnp.where(seen, operator.adjoint(problem.y) / jnp.where(seen, ones, 1.0), 0.0)
