"""What nobody says of a real measurement, estimated from it under the prior."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffinv import errors, operators, progress
from diffinv.blind import estimate_blur, noise_level
from diffinv.blind.borders import BorderedBlur, bordered_blur
from diffinv.noise import Gaussian
from diffinv.operators import Operator
from diffinv.operators.jpeg import BlockCosines
from diffinv.priors import PicturePrior
from diffinv.studies import compressed, measurement
from diffinv.studies.cases import Case, case_keys
from diffinv.tasks import Task

AUTO = "auto"  # in place of a number that is to be estimated


class Known(NamedTuple):
  """What is known of the measurement of one picture, because it was said or found."""

  noise: Any
  kernel: np.ndarray | None = None  # of a blur that was found, [k, l]
  operator: BlockCosines | None = None  # of a JPEG file, which says all of it

  @property
  def layout(self) -> Any:
    """What must be the same for pictures of one shape to run at once."""
    if self.operator is not None:
      return (self.operator.in_shape, self.operator.sampling, self.operator.window)
    return None if self.kernel is None else self.kernel.shape


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
    model = measurement.noise_model(config, task, cases[0].shape[2])
    return dict.fromkeys((case.name for case in cases), Known(model))
  if task.given == "file":
    return _of_files(config, name, task, prior, cases, found)
  sigma_unsaid = config.sigma is None and config.noise == "gaussian"
  noise = None if sigma_unsaid or config.sigma == AUTO else measurement.noise_model(config, task)
  if noise is None:
    noise = _usual(config, name, task, prior, cases[0])
  return {case.name: _one(config, name, task, prior, case, y, noise) for case, y in zip(cases, found, strict=True)}


def _of_files(config, name, task, prior, cases, found) -> dict[str, Known]:
  """Return what files say of themselves, which nobody else may."""
  measurement.check_own_noise(config, task)
  blur = None if config.blur is None else np.ones((1, 1), np.float32)
  measurement.check_takes(name, task, config.given._replace(kernel=config.given.kernel if blur is None else blur))
  if config.measurement_range is not None:
    raise errors.UsageError(f"`measurement_range` is of numbers, got `task={name}`, which takes files; leave it out")
  known = (Known(compressed.noise(one), operator=compressed.operator(one, prior)) for one in found)
  return dict(zip((case.name for case in cases), known, strict=True))


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
  values = measurement.values(simplest, y, config.measurement_range)
  if doubt := measurement.doubt(simplest, np.asarray(values)):
    progress.note(f"{case.name}: {doubt}")
  estimate = lambda: noise_level.estimate(case_keys(case)[1], prior, simplest, values)
  if noise is None:
    seen = estimate()
    progress.note(f"{case.name}: {noise_level.described(seen)}")
    noise = Gaussian(noise_level.chosen(seen))
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


def operator(config: Any, name: str, task: Task, case: Case, found: Known | None = None) -> Operator:
  """Return what measured a picture.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    case: the picture.
    found: what is known of its measurement beside what was said.

  Raises:
    UsageError: the task takes no mask, kernel or blur.
    ValueError: what is said does not fit the picture.
  """
  if found is not None and found.operator is not None:
    return found.operator
  if config.blur is None or config.input:
    return measurement.make_operator(name, task, case_keys(case)[0], case.shape, config.given)
  taps = measurement.kernel(config.given.kernel if found is None or found.kernel is None else found.kernel)
  return bordered_blur(case.shape, taps)


def inside(measured_by: Operator, pictures: np.ndarray) -> np.ndarray:
  """Return pictures, [n, h, w, c], without the border that was restored with them, where there is one."""
  if not isinstance(measured_by, (BorderedBlur, BlockCosines)):
    return pictures
  return np.stack([measured_by.inside(picture) for picture in pictures])


def describe(known: Mapping[str, Known]) -> dict[str, Any]:
  """Return the kind and the parameters of the noise, "auto" where each picture has its own."""
  first, *others = (measurement.describe_noise(one.noise) for one in known.values())
  return {name: value if all(one[name] == value for one in others) else AUTO for name, value in first.items()}
