"""What nobody says of a real measurement, estimated from it under the prior."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import errors, operators, progress, stopping
from diffinv.blind import estimate_blur, noise_level, scratches, uneven_noise
from diffinv.blind.borders import BorderedBlur, bordered_blur
from diffinv.data import formats, images
from diffinv.noise import Gaussian
from diffinv.operators import LinearOperator, Operator
from diffinv.operators.jpeg import BlockCosines
from diffinv.operators.kernels import worded
from diffinv.operators.pixels import Identity
from diffinv.priors import PicturePrior
from diffinv.studies import compressed, identity, measurement, runs
from diffinv.studies.cases import Case, case_keys
from diffinv.studies.found import Found
from diffinv.tasks import Task

AUTO = "auto"  # in place of a number that is to be estimated
CHANNELS = uneven_noise.CHANNELS  # in place of one number that is to be estimated for each channel


class Known(NamedTuple):
  """What is known of the measurement of one picture, because it was said or found."""

  noise: Any
  kernel: np.ndarray | None = None  # of a blur that was found, [k, l]
  blur: str | None = None  # that was found, in words
  mask: np.ndarray | None = None  # of scratches and dust that were found, [h, w, 1], true where pixels are kept
  operator: BlockCosines | None = None  # of a JPEG file, which says all of it

  @property
  def layout(self) -> Any:
    """What must be the same for pictures of one shape to run at once."""
    if self.operator is not None:
      return (self.operator.in_shape, self.operator.sampling, self.operator.window)
    return None if self.kernel is None else self.kernel.shape


def known(
  config: Any,
  name: str,
  task: Task,
  prior: PicturePrior,
  cases: Sequence[Case],
  found: Sequence[np.ndarray],
  kept: Found,
) -> dict[str, Known]:
  """Return what is known of every picture's measurement, by its name; estimate what nobody says.

  Args:
    config: a `Restoration`.
    name: of the task.
    task: that measured.
    prior: of the pictures.
    cases: the pictures.
    found: what was read for each.
    kept: what was estimated before, and is from now on.

  Raises:
    UsageError: the task takes no mask, kernel or blur; or the noise does not fit the task, or cannot be estimated.
    ValueError: what is said does not fit a picture, or one is too small for its blur to be found.
  """
  if config.input:
    model = measurement.noise_model(config, task, cases[0].shape[2])
    return dict.fromkeys((case.name for case in cases), Known(model))
  if task.given == "file":
    return _of_files(config, name, task, prior, cases, found)
  kind = _uneven(config, name, task, cases[0])
  sigma_unsaid = config.sigma is None and config.noise == "gaussian"
  noise = None if kind or sigma_unsaid or config.sigma == AUTO else measurement.noise_model(config, task)
  if noise is None and kind is None:
    noise = _usual(config, name, task, prior, cases[0])
  weights = functools.cache(lambda: identity.fingerprint(prior))
  try:
    return {
      case.name: _one(config, name, task, prior, case, y, noise, kind, kept, weights)
      for case, y in zip(cases, found, strict=True)
    }
  except KeyboardInterrupt as stop:
    raise errors.interrupted(stop, kept.left) from None


def _of_files(config, name, task, prior, cases, found) -> dict[str, Known]:
  """Return what files say of themselves, which nobody else may."""
  measurement.check_own_noise(config, task)
  blur = None if config.blur is None else np.ones((1, 1), np.float32)
  measurement.check_takes(name, task, config.given._replace(kernel=config.given.kernel if blur is None else blur))
  if config.measurement_range is not None:
    raise errors.UsageError(f"`measurement_range` is of numbers, got `task={name}`, which takes files; leave it out")
  known = (Known(compressed.noise(one), operator=compressed.operator(one, prior)) for one in found)
  return dict(zip((case.name for case in cases), known, strict=True))


def _uneven(config, name, task, case) -> str | None:
  """Return what the unknown noise varies with; None where it is known, or the same in all of the picture.

  Raises:
    UsageError: it is asked for and cannot be estimated.
  """
  asked = config.sigma == CHANNELS or config.rate == AUTO
  if not asked and (config.noise != "poisson" or (config.rate, config.read) != (None, None)):
    return None
  if (why := uneven_noise.excuse(operator(config, name, task, case, Known(None, np.ones((1, 1)))))) is None:
    return CHANNELS if config.sigma == CHANNELS else uneven_noise.BRIGHTNESS
  if not asked:
    return None
  option = f"`sigma={CHANNELS}`" if config.sigma == CHANNELS else f"`rate={AUTO}`"
  raise errors.UsageError(f"{option}: {why}, got `task={name}`; give a number")


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
  if measurement.probe(task).is_picture and isinstance(measurement.probe(task), LinearOperator):
    return None  # a gray picture has fine details, too
  progress.note(f"sigma {task.sigma:g}, the usual one of {name}; give sigma where you know it")
  return Gaussian(task.sigma)


def _simplest(config, name, task, case, mask=None) -> Any:
  """Return an operator that observes what a picture's does: of a blur, which observes every pixel, the identity."""
  found = Known(None, mask=mask)
  return operator(config, name, task, case, found) if config.blur is None else operators.identity(case.shape)


def _one(config, name, task, prior, case, y, noise, kind, kept, weights) -> Known:
  """Return what is known of one measurement; `noise`: None to estimate it, `kind`: what it varies with, or None."""
  if config.blur is not None:  # tell before anything is estimated whether the task takes a kernel
    sharp = config.given._replace(kernel=np.ones((1, 1), np.float32))
    measurement.make_operator(name, task, case_keys(case)[0], case.shape, sharp)
  mask = _mask(case, y) if config.finds_mask else None
  simplest = _simplest(config, name, task, case, mask)
  values = _read(config, case, simplest, y)
  if noise is not None and config.unknown_blur is None:
    return Known(noise, mask=mask)
  rounded = formats.rounding(case.path)
  key = _key(config, case, simplest, values, rounded, weights)
  if (before := kept.get(key)) is None:
    if kind is None:
      row = _estimated(config, prior, case, simplest, values, noise, rounded)
    else:
      row = _estimated_uneven(prior, case, values, kind)
    kept.put({"key": key, "name": case.name, **row})
  else:
    row, path = before
    progress.note(f"{case.name}: {_said(row)}, as it was found before; see {path}")
  kernel = np.asarray(row["kernel"], np.float32) if "kernel" in row else None
  return Known(_noise(row) if noise is None else noise, kernel, row.get("blur"), mask)


def _noise(row: Mapping[str, Any]) -> Any:
  """Return the noise that was found, as `schemas.Found` has it."""
  varies = _varies(row)
  return Gaussian(row["sigma"]) if varies is None else uneven_noise.noise_of(*varies)


def _said(row: Mapping[str, Any]) -> str:
  """Say what was found."""
  varies = _varies(row)
  said = [] if varies is None else [uneven_noise.worded(*varies)]
  said += [f"sigma {row['sigma']:.3g}"] if "sigma" in row else []
  return ", ".join(said + ([f"blur {row['blur']}"] if "blur" in row else []))


def _varies(row: Mapping[str, Any]) -> tuple[np.ndarray, str] | None:
  """Return the variances of noise that varies within a picture, and what with; None of noise that does not."""
  return next(((np.asarray(row[kind], np.float32), kind) for kind in uneven_noise.KINDS if kind in row), None)


def _key(config, case, simplest, y, rounded, weights: Callable[[], str]) -> str:
  """Return a digest of all that a measurement's noise and blur are estimated from; `weights`: gives the prior's."""
  about = {
    **identity.provenance(config, runs.RESTORATION.command),
    "prior": weights(),
    "operator": identity.fingerprint(simplest),
    "measurement": identity.digest(np.asarray(y)),
    "rounded": rounded,
    "key": jax.random.key_data(case.key),
  }
  return runs.plan_digest(runs.planned(about, runs.RESTORATION))


def _estimated(config, prior, case, simplest, y, noise, rounded) -> dict[str, Any]:
  """Estimate what nobody says of one measurement, as `schemas.Found` has it; `noise`: None to estimate it."""
  stopping.check()
  row: dict[str, Any] = {}
  if noise is None:
    noisy = config.blur is None and isinstance(simplest, Identity)
    seen = _seen(prior, case, simplest, y)
    row["sigma"] = noise_level.chosen(seen, rounded=rounded, noisy=noisy)
    progress.note(f"{case.name}: {noise_level.described(seen, row['sigma'], rounded)}")
    noise = Gaussian(row["sigma"])
    if doubt := _unevenness(config, simplest, y, seen):
      progress.note(f"{case.name}: {doubt}")
  if config.unknown_blur is not None:
    is_white = isinstance(noise, Gaussian)
    sigma = float(noise.sigma) if is_white else noise_level.chosen(_seen(prior, case, simplest, y), rounded=rounded)
    found = estimate_blur(prior, y, sigma, config.unknown_blur, case_keys(case)[0])
    row["blur"] = worded(found.kernel)
    row["kernel"] = np.asarray(found.taps).tolist()
    progress.note(f"{case.name}: blur {row['blur']}, of those tried what predicts the picture best")
  return row


def _estimated_uneven(prior, case, y, kind) -> dict[str, Any]:
  """Estimate the noise of one measurement that varies within it, as `schemas.Found` has it."""
  stopping.check()
  seen = uneven_noise.estimate(case_keys(case)[1], prior, y, kind)
  progress.note(f"{case.name}: {uneven_noise.described(seen, kind)}")
  return {kind: np.asarray(seen.theta).tolist()}


def _unevenness(config, simplest, y, seen) -> str | None:
  """Say how noise that one sigma explains in all looks uneven; None where it does not."""
  if config.blur is not None or not seen.settled or seen.x0 is None or uneven_noise.excuse(simplest) is not None:
    return None
  return uneven_noise.doubt(uneven_noise.unevenness(y, seen))


def _seen(prior, case, simplest, y) -> noise_level.Estimate:
  """Return what is seen of the noise of a measurement."""
  if noise_level.excuse(simplest, prior.image_shape[2]) is None:
    return noise_level.estimate(case_keys(case)[1], prior, simplest, y)
  return noise_level.by_details(simplest, y)


def _mask(case, y) -> np.ndarray:
  """Return where a measurement shows neither scratches nor dust, [h, w, 1].

  Raises:
    ValueError: it shows none anywhere.
  """
  kept = scratches.kept(y) > 0
  if np.all(kept):
    raise ValueError(
      f"{case.path}: `mask=auto` found no scratches and no dust; paint what to fill in black on a white picture of "
      f"{images.by(case.shape)} pixels, and give it with `mask`"
    )
  progress.note(f"{case.name}: {100.0 * np.mean(~kept):.1f} % of the pixels look like scratches or dust")
  return kept


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
    mask = config.given.mask if found is None or found.mask is None else found.mask
    given = config.given._replace(mask=mask)
    return measurement.make_operator(name, task, case_keys(case)[0], case.shape, given)
  taps = measurement.kernel(config.given.kernel if found is None or found.kernel is None else found.kernel)
  return bordered_blur(case.shape, taps)


def inside(measured_by: Operator, pictures: np.ndarray) -> np.ndarray:
  """Return pictures, [n, h, w, c], without the border that was restored with them, where there is one."""
  if not isinstance(measured_by, (BorderedBlur, BlockCosines)):
    return pictures
  return np.stack([measured_by.inside(picture) for picture in pictures])


def describe(known: Mapping[str, Known]) -> dict[str, Any]:
  """Return the kind and the parameters of the noise, "auto" in place of those of which each picture has its own."""
  first, *others = (measurement.describe_noise(one.noise) for one in known.values())
  return {name: value if all(other[name] == value for other in others) else AUTO for name, value in first.items()}
