"""Where a chain starts: at pure noise, or, with a prior that knows less noise than that, where its knowledge ends.

A denoiser of plug-and-play methods was trained up to some noise, DRUNet to 50 of 255 gray levels. At that noise a
picture shines through, so that a chain cannot begin at pure noise: it begins at the smoothest picture that explains y,
with as much noise as the prior knows, as DPIR does (Zhang et al., TPAMI 2021, arXiv 2008.13751, Sec. 4.2) and SDEdit
(Meng et al., ICLR 2022, arXiv 2108.01073) with a guide. What is approximate: the noise has to cover the errors of that
picture, which of a blur, of fewer pixels or of noise are small, and where nothing was measured are not.
"""

from typing import Any

import jax

from diffinv.methods import proximal
from diffinv.operators.base import CG_STEPS, LinearOperator
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level, Schedule, sbar_range

PURE = 5.0  # sigma / alpha from which on noise counts as pure: x0, of standard deviation 1/2, is a tenth of it


def knows_pure_noise(schedule: Schedule) -> bool:
  """Tell whether a prior of this schedule knows so much noise that nothing shines through."""
  return sbar_range(schedule)[1] >= PURE


def begun(key: jax.Array, prior: AnyPrior, problem: Problem, start: Level) -> jax.Array:
  """Return the x_t that a chain starts with at the level `start`, `[h, w, c]`.

  Raises:
    ValueError: the prior knows less than pure noise, and the operator is not linear.
  """
  z = jax.random.normal(key, problem.operator.in_shape, start.alpha.dtype)
  if knows_pure_noise(prior.schedule):
    return z
  check("a chain", problem.operator, prior.schedule)
  return start.alpha * picture(problem) + start.sigma * z


def picture(problem: Problem) -> jax.Array:
  """Return the smallest differences that explain y, `[h, w, c]`; linear operators."""
  return proximal.smoothest(problem, CG_STEPS)


def check(name: str, operator: Any, schedule: Schedule) -> None:
  """Check that a chain can start with a prior of this schedule.

  Raises:
    ValueError: it cannot; the message says what can.
  """
  if not knows_pure_noise(schedule) and not isinstance(operator, LinearOperator):
    raise ValueError(
      f"{name}: {limit(schedule)}, and starts from a picture that a linear operator gives, got "
      f"{type(operator).__name__}; use another prior"
    )


def check_nothing_given(name: str, schedule: Schedule) -> None:
  """Check that a chain can start with a prior of this schedule and no measurement.

  Raises:
    ValueError: it cannot.
  """
  if not knows_pure_noise(schedule):
    raise ValueError(f"{name}: {limit(schedule)}, and has nothing to start from without a measurement; use another")


def limit(schedule: Schedule) -> str:
  """Say up to which noise a prior knows pictures."""
  return f"the prior knows noise up to sigma {sbar_range(schedule)[1]:.3g} alone, which is not pure noise"
