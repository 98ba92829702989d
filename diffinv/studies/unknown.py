"""What nobody says of a real measurement, estimated from it under the prior."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffinv import errors, operators, progress
from diffinv.blind import estimate_blur, noise_level, uneven_noise
from diffinv.blind.borders import BorderedBlur, bordered_blur
from diffinv.noise import Gaussian
from diffinv.operators import Operator
from diffinv.priors import PicturePrior
from diffinv.studies import measurement
from diffinv.studies.cases import Case, case_keys
from diffinv.tasks import Task

AUTO = "auto"  # in place of a number that is to be estimated
CHANNELS = uneven_noise.CHANNELS  # in place of one number that is to be estimated for each channel


class Known(NamedTuple):
  """What is known of the measurement of one picture, because it was said or found."""

  noise: Any
  kernel: np.ndarray | None = None  # of a blur that was found, [k, l]


def known(
  config: Any, name: str, task: Task, prior: PicturePrior, cases: Sequence[Case], found: Sequence[np.ndarray]
) -> dict[str, Known]:
  """Return what is known of every picture's measurement, by its name; estimate what nobody says.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    prior: of the pictures.
    cases: the pictures.
    found: what was read for each.

  Raises:
    UsageError: the task takes no mask, kernel or blur; or the noise does not fit the task, or cannot be estimated.
    ValueError: what is said does not fit a picture, or one is too small for its blur to be found.
  """
  if config.input:
    return dict.fromkeys((case.name for case in cases), Known(measurement.noise_model(config, task)))
  if (kind := _uneven(config, name, task, cases[0])) is not None:
    return {case.name: _found_uneven(config, name, task, prior, case, y, kind) for case, y in zip(cases, found)}
  sigma_unsaid = config.sigma is None and config.noise == "gaussian"
  noise = None if sigma_unsaid or config.sigma == AUTO else measurement.noise_model(config, task)
  if noise is None:
    noise = _usual(config, name, task, prior, cases[0])
  return {case.name: _one(config, name, task, prior, case, y, noise) for case, y in zip(cases, found, strict=True)}


def _uneven(config, name, task, case) -> str | None:
  """Return what the unknown noise varies with; None where it is known, or the same in all of the picture.

  Raises:
    UsageError: it is asked for and cannot be estimated.
  """
  asked = config.sigma == CHANNELS or config.rate == AUTO
  if not asked and (config.noise != "poisson" or (config.rate, config.read) != (None, None)):
    return None
  if (why := uneven_noise.excuse(_simplest(config, name, task, case))) is None:
    return CHANNELS if config.sigma == CHANNELS else uneven_noise.BRIGHTNESS
  if not asked:
    return None
  option = f"`sigma={CHANNELS}`" if config.sigma == CHANNELS else f"`rate={AUTO}`"
  raise errors.UsageError(f"{option}: {why}, got `task={name}`; give a number")


def _found_uneven(config, name, task, prior, case, y, kind) -> Known:
  """Return the noise of one measurement that varies within it."""
  values = _read(config, case, _simplest(config, name, task, case), y)
  seen = uneven_noise.estimate(case_keys(case)[1], prior, values, kind)
  progress.note(f"{case.name}: {uneven_noise.described(seen, kind)}")
  return Known(uneven_noise.noise_of(seen, kind))


def _read(config, case, simplest, y) -> Any:
  """Return a measurement in units of [-1, 1]; say where it does not look like one."""
  values = measurement.values(simplest, y, config.measurement_range)
  if doubt := measurement.doubt(simplest, np.asarray(values)):
    progress.note(f"{case.name}: {doubt}")
  return values


def _usual(config, name, task, prior, case) -> Gaussian | None:
  """Return the task's noise where that of a measurement cannot be estimated; None where it can."""
  why = noise_level.excuse(_simplest(config, name, task, case), prior.image_shape[2])
  if why is None:
    return None
  if config.sigma == AUTO:
    raise errors.UsageError(f"`sigma=auto`: {why}, got `task={name}`; give a number")
  progress.note(f"sigma {task.sigma:g}, the usual one of {name}; give sigma where you know it")
  return Gaussian(task.sigma)


def _simplest(config, name, task, case) -> Any:
  """Return an operator that observes what a picture's does: of a blur, which observes every pixel, the identity."""
  return operator(config, name, task, case) if config.blur is None else operators.identity(case.shape)


def _one(config, name, task, prior, case, y, noise) -> Known:
  """Return what is known of one measurement; `noise`: None to estimate it."""
  if config.blur is not None:  # tell before anything is estimated whether the task takes a kernel
    sharp = config.given._replace(kernel=np.ones((1, 1), np.float32))
    measurement.make_operator(name, task, case_keys(case)[0], case.shape, sharp)
  simplest = _simplest(config, name, task, case)
  values = _read(config, case, simplest, y)
  estimate = lambda: noise_level.estimate(case_keys(case)[1], prior, simplest, values)
  if noise is None:
    seen = estimate()
    progress.note(f"{case.name}: {noise_level.described(seen)}")
    noise = Gaussian(noise_level.chosen(seen))
    if uneven_noise.excuse(simplest) is None:
      unevenness = uneven_noise.unevenness(case_keys(case)[1], prior, values, np.float32(noise.sigma))
      if doubt := uneven_noise.doubt(unevenness):
        progress.note(f"{case.name}: {doubt}")
  if config.unknown_blur is None:
    return Known(noise)
  sigma = float(noise.sigma) if isinstance(noise, Gaussian) else noise_level.chosen(estimate())
  return Known(noise, _kernel(config, prior, case, values, sigma))


def _kernel(config, prior, case, y, sigma) -> np.ndarray:
  """Return the kernel that predicts a measurement best, [k, l]."""
  estimate = estimate_blur(prior, y, sigma, config.unknown_blur, case_keys(case)[0])
  said = ",".join(f"{number:.3g}" for number in estimate.numbers.values())
  progress.note(f"{case.name}: blur {estimate.kernel.family}:{said}, of those tried what predicts the picture best")
  return estimate.taps


def operator(config: Any, name: str, task: Task, case: Case, found: np.ndarray | None = None) -> Operator:
  """Return what measured a picture.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    case: the picture.
    found: the kernel of a blur that was not said, [k, l].

  Raises:
    UsageError: the task takes no mask, kernel or blur.
    ValueError: what is said does not fit the picture.
  """
  if config.blur is None or config.input:
    return measurement.make_operator(name, task, case_keys(case)[0], case.shape, config.given)
  taps = measurement.kernel(config.given.kernel if found is None else found)
  return bordered_blur(case.shape, taps)


def inside(measured_by: Operator, pictures: np.ndarray) -> np.ndarray:
  """Return pictures, [n, h, w, c], without the border that was restored with them, where there is one."""
  if not isinstance(measured_by, BorderedBlur):
    return pictures
  return np.stack([measured_by.inside(picture) for picture in pictures])


def describe(known: Mapping[str, Known]) -> dict[str, Any]:
  """Return the kind and the parameters of the noise, "auto" in place of those of which each picture has its own."""
  first, *others = (measurement.describe_noise(one.noise) for one in known.values())
  return {name: value if all(other[name] == value for other in others) else AUTO for name, value in first.items()}
