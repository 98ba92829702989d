"""What nobody says of a real measurement, estimated from it under the prior."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffinv import errors, progress
from diffinv.blind import noise_level
from diffinv.noise import Gaussian
from diffinv.operators import Operator
from diffinv.priors import PicturePrior
from diffinv.studies import measurement
from diffinv.studies.cases import Case, case_keys
from diffinv.tasks import Task

AUTO = "auto"  # in place of a number that is to be estimated


def noise_models(
  config: Any,
  name: str,
  task: Task,
  prior: PicturePrior,
  cases: Sequence[Case],
  operators: Mapping[str, Operator],
  found: Sequence[np.ndarray],
) -> dict[str, Any]:
  """Return the noise of each picture, by its name: what is said of it, or the most likely Gaussian noise.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    prior: of the pictures.
    cases: the pictures.
    operators: that measured them, by their names.
    found: what was read for each.

  Raises:
    UsageError: the noise does not fit the task, or cannot be estimated.
  """
  unsaid = config.sigma is None and config.noise == "gaussian" and bool(config.measurement)
  if not unsaid and config.sigma != AUTO:
    noise = measurement.noise_model(config, task)
    return {case.name: noise for case in cases}
  excuses = (noise_level.excuse(operator, prior.image_shape[2]) for operator in operators.values())
  why = next((excuse for excuse in excuses if excuse is not None), None)
  if why is None:
    values = [
      measurement.values(operators[case.name], y, config.measurement_range)
      for case, y in zip(cases, found, strict=True)
    ]
    return {case.name: _estimated(case, prior, operators[case.name], y) for case, y in zip(cases, values, strict=True)}
  if not unsaid:
    raise errors.UsageError(f"`sigma=auto`: {why}, got `task={name}`; give a number")
  progress.note(f"sigma {task.sigma:g}, the usual one of {name}; give sigma where you know it")
  return {case.name: Gaussian(task.sigma) for case in cases}


def _estimated(case: Case, prior: PicturePrior, operator: Any, y: jax.Array) -> Gaussian:
  estimate = noise_level.estimate(case_keys(case)[1], prior, operator, y)
  progress.note(f"{case.name}: {noise_level.described(estimate)}")
  return Gaussian(float(estimate.sigma))


def describe(noises: Mapping[str, Any]) -> dict[str, Any]:
  """Return the kind and the parameters of the noise, `sigma` as "auto" where each picture has its own."""
  about = measurement.describe_noise(next(iter(noises.values())))
  same = all(noise == next(iter(noises.values())) for noise in noises.values())
  return about if same else {**about, "sigma": AUTO}
