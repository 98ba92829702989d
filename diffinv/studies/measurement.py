"""From a task and a picture to its measurement: operators, masks, kernels and noise."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import errors, noise, operators
from diffinv.data import images, masks, ranges
from diffinv.operators import Operator
from diffinv.operators.fourier import RealFourier
from diffinv.operators.pixels import Inpainting
from diffinv.problems import Problem, simulate
from diffinv.studies.cases import Case, case_keys
from diffinv.studies.study import Measuring
from diffinv.tasks import Task

PROBE = 192  # pixels: the size of picture at which a task is asked how its measurement is scaled; factors divide it


class Given(NamedTuple):
  """What is known of a real measurement's operator."""

  mask: np.ndarray | str | os.PathLike[str] | None = None  # kept pixels or frequencies, [h, w] or [h, w, 1], or a file
  mask_threshold: int | None = None  # gray level of a mask from which a pixel counts as kept
  kernel: np.ndarray | str | os.PathLike[str] | None = None  # of a blur, [k, l], or a file


NOTHING = Given()
KINDS = {"sigma": "gaussian", "rate": "poisson", "read": "poisson"}  # the noise that each number is of
MOST_CHANNELS = 4  # of a picture, whose noise is said channel by channel


def noise_model(config: Measuring, task: Task, channels: int = 3) -> Any:
  """Return the noise that the configuration and the task's default describe, for pictures of so many channels.

  Raises:
    UsageError: `sigma`, `rate` or `read` does not fit `noise`; or the noise does not fit the task.
  """
  if not isinstance(config.noise, str):
    return config.noise
  if task.noise is not None:
    check_own_noise(config, task)
    return task.noise(channels)
  check_kind(config)
  if config.noise == "poisson":
    if not probe(task).is_picture:
      raise errors.UsageError(f"`noise=poisson` counts the light of a picture, got the task {task.title}; leave it out")
    return noise.Poisson(Measuring.rate if config.rate is None else config.rate, config.read)
  if config.noise == "none":
    return noise.NoNoise()
  sigma = task.sigma if config.sigma is None else config.sigma
  if sigma == 0:
    raise errors.UsageError("`sigma`: expected a positive number, got 0; pass `noise=none`")
  return noise.Gaussian(_of_channels(task, sigma) if isinstance(sigma, tuple) else sigma)


def check_kind(config: Measuring) -> None:
  """Check that what is said of the noise is of its kind.

  Raises:
    UsageError: a number is of another kind of noise.
  """
  for name, kind in KINDS.items():
    said, usual = getattr(config, name), getattr(type(config), name)
    if said not in (None, usual) and isinstance(config.noise, str) and config.noise != kind:
      raise errors.UsageError(f"`{name}` is of {kind} noise, got `noise={config.noise}`; leave it out")


def _of_channels(task: Task, sigmas: tuple[float, ...]) -> jax.Array:
  """Return the standard deviation of each channel, [1, 1, c].

  Raises:
    UsageError: the task's measurements are no pictures of so many channels.
  """
  template = probe(task)
  if not template.is_picture or template.out_shape[-1] != len(sigmas):
    raise errors.UsageError(
      f"`sigma`: expected a number, or one for each channel of {task.title}, got {len(sigmas)}; give one number"
    )
  return jnp.asarray(sigmas)[None, None, :]


def check_own_noise(config: Measuring, task: Task) -> None:
  """Check that nothing is said of the noise of a task that has its own.

  Raises:
    UsageError: something is.
  """
  for name in ("noise", "sigma", "rate", "read"):
    if getattr(config, name) not in (None, getattr(Measuring, name)):
      raise errors.UsageError(
        f"`{name}`: what {task.title} rounds off is its noise, got `{name}={getattr(config, name)}`; leave it out"
      )


def describe_noise(model: Any) -> dict[str, Any]:
  """Return the noise's kind and parameters, on [-1, 1]: those of channels as a list, of more the least and largest."""
  found = {name: value for name, value in dataclasses.asdict(model).items() if value is not None}
  return {"kind": type(model).__name__.lower(), **{name: _plain(value) for name, value in found.items()}}


def _plain(value: Any) -> Any:
  if np.ndim(value) == 0:
    return value
  return np.ravel(value).tolist() if np.size(value) <= MOST_CHANNELS else [float(np.min(value)), float(np.max(value))]


@functools.cache
def probe(task: Task, channels: int = 3) -> Operator:
  """Return an operator of the task on pictures of PROBE pixels, to ask what its measurements are like."""
  return task.make(jax.random.key(0), task.shape or (PROBE, PROBE, channels))


def scale(task: Task) -> tuple[float, float]:
  """Return the size of the picture over that of its measurement as it is shown, height and width."""
  template = probe(task)
  shown = jax.eval_shape(template.picture, jax.ShapeDtypeStruct(template.out_shape, jnp.result_type(float)))
  height, width, _ = template.in_shape
  return height / shown.shape[0], width / shown.shape[1]


def size_multiple(tasks: Sequence[Task]) -> int:
  """Return of what the sides of a picture must be multiples for all tasks, pixels."""
  free = [task for task in tasks if task.shape is None]  # the others say themselves what they take
  return math.lcm(*(int(s) for task in free for s in scale(task) if s.is_integer()))


def make_operator(
  name: str, task: Task, key: jax.Array, shape: tuple[int, int, int], given: Given = NOTHING
) -> Operator:
  """Build the task's operator for pictures of `shape`; a mask or a kernel replaces what it would draw.

  Raises:
    UsageError: the task takes no mask or kernel.
    ValueError: the mask has another size than the picture, or the task cannot measure such a picture.
  """
  check_takes(name, task, given)
  if given.kernel is not None:
    return operators.blur(shape, kernel(given.kernel))
  try:
    operator = task.make(key, shape)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None
  return operator if given.mask is None else _masked(operator, shape, given.mask, given.mask_threshold)


def check_takes(name: str, task: Task, given: Given) -> None:
  """Check that a task takes what is said of how a measurement was made.

  Raises:
    UsageError: it takes no mask or kernel.
  """
  if given.mask is not None and task.given != "mask":
    raise errors.UsageError(f"`mask` is for inpainting and MRI, got `task={name}`; leave it out")
  if given.kernel is not None and task.given != "kernel":
    raise errors.UsageError(f"`kernel` is for deblurring, got `task={name}`; leave it out")


def kernel(given: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
  """Return a kernel, [k, l], of sum 1, from an array or a file."""
  return masks.as_kernel(given) if isinstance(given, np.ndarray) else masks.read_kernel(given)


def _masked(operator: Operator, shape, mask: np.ndarray | str | os.PathLike[str], threshold: int | None) -> Operator:
  if isinstance(mask, np.ndarray):
    kept, name = masks.as_mask(mask, threshold=threshold), "`mask`"
  else:
    kept, name = masks.read_mask(mask, threshold=threshold), str(mask)
  if kept.shape[:2] != tuple(shape[:2]):
    raise ValueError(
      f"{name}: expected a mask of {images.by(shape)} pixels as the picture, got {images.by(kept.shape)}; resize it"
    )
  build = operators.inpainting if isinstance(operator, Inpainting) else operators.masked_fourier
  return build(kept, channels=shape[2])


def measured(
  config: Measuring, name: str, task: Task, case: Case, truth: np.ndarray, given: Given = NOTHING
) -> Problem:
  """Measure a picture; what is drawn at random depends on the seed, the picture's number and the task only."""
  operator_key, noise_key, _ = case_keys(case)
  operator = make_operator(name, task, operator_key, case.shape, given)
  return simulate(noise_key, operator, noise_model(config, task, case.shape[2]), jnp.asarray(truth))


def values(operator: Operator, y: np.ndarray, given_range: str | None) -> jax.Array:
  """Return what was measured in units of [-1, 1], 0 where nothing is observed.

  Args:
    operator: that measured.
    y: as it was read.
    given_range: of the pictures behind it, of `ranges.RANGES`; None for [-1, 1].
  """
  if given_range is not None:
    ones = operator(jnp.ones(operator.in_shape))
    y = ranges.to_range(y, *ranges.parse_range(given_range), ones=ones)
  found = jnp.asarray(y)
  return operator.observed(found) * found


def doubt(operator: Operator, y: np.ndarray) -> str | None:
  """Return a sentence if a measurement is not what pictures in [-1, 1] give; else None."""
  if operator.is_picture:
    found = ranges.doubt(y)
    return found and f"{found}; or state it with measurement_range"
  return ranges.doubt_spectrum(y, math.prod(operator.in_shape)) if isinstance(operator, RealFourier) else None
