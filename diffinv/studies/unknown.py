"""What nobody says of a real measurement, estimated from it under the prior."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffinv import errors, operators, progress
from diffinv.blind import bordered, estimate_blur, noise_level
from diffinv.blind.borders import BorderedBlur
from diffinv.noise import Gaussian
from diffinv.operators import Operator
from diffinv.priors import PicturePrior
from diffinv.studies import measurement
from diffinv.studies.cases import Case, case_keys
from diffinv.tasks import Task

AUTO = "auto"  # in place of a number that is to be estimated


def operator(config: Any, name: str, task: Task, prior: PicturePrior, case: Case, y: np.ndarray) -> Operator:
  """Return what measured a picture: what is said of it, or with the blur found that explains the measurement.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    prior: of the pictures.
    case: the picture.
    y: what was read for it.

  Raises:
    UsageError: the task takes no mask, kernel or blur.
    ValueError: what is said does not fit the picture, or it is too small for its blur to be found.
  """
  key, given = case_keys(case)[0], config.given
  if config.blur is None or config.input:
    return measurement.make_operator(name, task, key, case.shape, given)
  sharp = given._replace(kernel=np.ones((1, 1), np.float32))
  measurement.make_operator(name, task, key, case.shape, sharp)  # whether the task takes a kernel
  values = measurement.values(operators.identity(case.shape), y, config.measurement_range)
  taps = given.kernel if config.unknown_blur is None else _found(config, prior, case, values)
  return bordered(values, measurement.kernel(taps), None).operator


def _found(config: Any, prior: PicturePrior, case: Case, y: jax.Array) -> np.ndarray:
  """Return the kernel that predicts a measurement best, [k, l]."""
  sigma = config.sigma
  if sigma in (None, AUTO):
    identity = operators.identity(case.shape)
    sigma = noise_level.chosen(noise_level.estimate(case_keys(case)[1], prior, identity, y))
  estimate = estimate_blur(prior, y, float(sigma), config.unknown_blur, case_keys(case)[0])
  said = ",".join(f"{number:.3g}" for number in estimate.numbers.values())
  progress.note(f"{case.name}: blur {estimate.kernel.family}:{said}, of those tried what predicts the picture best")
  return estimate.taps


def inside(measured_by: Operator, pictures: np.ndarray) -> np.ndarray:
  """Return pictures, [n, h, w, c], without the border that was restored with them, where there is one."""
  if not isinstance(measured_by, BorderedBlur):
    return pictures
  return np.stack([measured_by.inside(picture) for picture in pictures])


def noise_models(
  config: Any,
  name: str,
  task: Task,
  prior: PicturePrior,
  cases: Sequence[Case],
  measured_by: Mapping[str, Operator],
  found: Sequence[np.ndarray],
) -> dict[str, Any]:
  """Return the noise of each picture, by its name: what is said of it, or the most likely Gaussian noise.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    prior: of the pictures.
    cases: the pictures.
    measured_by: the operator of each, by its name.
    found: what was read for each.

  Raises:
    UsageError: the noise does not fit the task, or cannot be estimated.
  """
  unsaid = config.sigma is None and config.noise == "gaussian" and bool(config.measurement)
  if not unsaid and config.sigma != AUTO:
    noise = measurement.noise_model(config, task)
    return {case.name: noise for case in cases}
  excuses = (noise_level.excuse(operator, prior.image_shape[2]) for operator in measured_by.values())
  why = next((excuse for excuse in excuses if excuse is not None), None)
  if why is None:
    values = [
      measurement.values(measured_by[case.name], y, config.measurement_range)
      for case, y in zip(cases, found, strict=True)
    ]
    return {
      case.name: _estimated(case, prior, measured_by[case.name], y) for case, y in zip(cases, values, strict=True)
    }
  if not unsaid:
    raise errors.UsageError(f"`sigma=auto`: {why}, got `task={name}`; give a number")
  progress.note(f"sigma {task.sigma:g}, the usual one of {name}; give sigma where you know it")
  return {case.name: Gaussian(task.sigma) for case in cases}


def _estimated(case: Case, prior: PicturePrior, operator: Any, y: jax.Array) -> Gaussian:
  estimate = noise_level.estimate(case_keys(case)[1], prior, operator, y)
  progress.note(f"{case.name}: {noise_level.described(estimate)}")
  return Gaussian(noise_level.chosen(estimate))


def describe(noises: Mapping[str, Any]) -> dict[str, Any]:
  """Return the kind and the parameters of the noise, `sigma` as "auto" where each picture has its own."""
  about = measurement.describe_noise(next(iter(noises.values())))
  same = all(noise == next(iter(noises.values())) for noise in noises.values())
  return about if same else {**about, "sigma": AUTO}
