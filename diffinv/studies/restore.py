"""Restore pictures with one method: real measurements of them, or simulated ones beside the truth."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import batch, devices, errors, files, memory, methods, progress
from diffinv.baselines import BASELINES, Baseline
from diffinv.data import arrays, images, ranges, sheet
from diffinv.launch import ALONE, Team
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.noise import MAX_RATE, MAX_SIGMA, MIN_RATE, MIN_SIGMA
from diffinv.operators import kernels
from diffinv.options import option
from diffinv.priors import PicturePrior, size_step
from diffinv.problems import Problem
from diffinv.schedules import Level
from diffinv.studies import (
  advice,
  chains,
  compressed,
  entrants,
  identity,
  marks,
  measurement,
  presets,
  runs,
  unfinished,
  unknown,
)
from diffinv.studies import cases as casing
from diffinv.studies.cases import Case
from diffinv.studies.found import Found
from diffinv.studies.measurement import Given
from diffinv.studies.presets import AIMS, QUALITIES, Preset
from diffinv.studies.study import (
  MAX_CHAINS,
  Measuring,
  assignments,
  check_batch_size,
  named_methods,
  named_tasks,
  with_batch_size,
)
from diffinv.studies.unknown import AUTO, CHANNELS, Known
from diffinv.tasks import ANY_KERNEL, ENLARGE, FACTOR, FACTORS, INPAINT, TASKS, WORDS, Task, enlarging

COMMAND = "reconstruct"
KEPT_BYTES = 2**30  # of pictures that were read for the plan, so that they need not be read again
SHEET_SAMPLES = 6  # on a sheet; more would be too small to see


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(Measuring):
  """What to restore, and how: photographs that are measured first (`input`), or real measurements (`measurement`).

  Example:
    >>> import diffinv
    >>> config = diffinv.Restoration(measurement=("scan.png",), task="inpaint", mask="auto")
    >>> config.quality, config.aim
    ('balanced', 'mean')
  """

  input: tuple[str | os.PathLike[str], ...] = option(
    (), "Photograph to measure and restore: a file, several (repeat, or commas), or a folder.", repeated=True
  )
  measurement: tuple[str | os.PathLike[str], ...] = option(
    (), "Measurement to restore, in place of `input`: a file, several, or a folder.", repeated=True
  )
  task: str | Task = option(
    "super_resolution",
    "What was measured, or in a word what to do; `diffinv tasks` describes them.",
    choices=(*WORDS, *TASKS),
  )
  factor: int | None = option(
    None,
    f"How many times as wide and high `task={ENLARGE}` makes a picture: {', '.join(map(str, FACTORS))}. Not set: "
    f"{FACTOR}.",
    low=min(FACTORS),
    high=max(FACTORS),
  )
  method: str | Method | Baseline | None = option(
    None,
    "How to restore: a method, or a restoration without a network. Not set: what `quality` and `aim` choose.",
    choices=(*METHODS, *BASELINES),
  )
  quality: str = option("balanced", "What to spend, where `method` is not set.", choices=QUALITIES)
  aim: str = option(
    "mean",
    "What to seek, where `method` is not set: the most accurate picture (mean), or a plausible one (sample), which is "
    "sharper and less accurate.",
    choices=AIMS,
  )
  sigma: float | str | tuple[float, ...] | None = option(  # type: ignore[assignment]  # a word in place of the number
    None,
    "Standard deviation of Gaussian noise, in units of [-1, 1] (a paper's 0.05 on [0, 1] is 0.1, but for the task "
    "phase_retrieval_01, whose pictures are on [0, 1]), or one for each channel with commas; or auto, the most likely "
    "one of a `measurement`, given the prior; or channels, the most likely one of each channel, for the task "
    "denoising. Not set: auto where that can be, else the task's.",
    low=MIN_SIGMA,
    high=MAX_SIGMA,
    advice="; pass `noise=none` for none",
    words=(AUTO, CHANNELS),
    several=True,
  )
  rate: float | str | None = option(  # type: ignore[assignment]  # a word in place of the number
    None,
    "Exposure of Poisson noise: 1 is 255 photons at white; or auto, the most likely one of a `measurement`, and `read` "
    "with it, for the task denoising. Not set: auto where that can be, else 1.",
    low=MIN_RATE,
    high=MAX_RATE,
    words=(AUTO,),
  )
  measurement_range: str | None = option(
    None,
    "Black and white of the pictures that were measured, where `measurement` is numbers. Not set: -1,1. Numbers of "
    "others are brought to it; `sigma` is of [-1, 1] all the same.",
    choices=ranges.RANGES,
  )
  mask: str | os.PathLike[str] | np.ndarray | None = option(
    None,
    "Image of the picture's size: white is kept, black missing; of MRI, frequencies, zero in the middle. Or auto, of "
    "`task=inpaint`: what looks like scratches and dust on a `measurement`, which is written as NAME-mask.png.",
  )
  mask_threshold: int | None = option(
    None,
    "Gray level from which a pixel of the mask counts as kept. Not set: only 0 and 255 are taken.",
    low=1,
    high=255,
  )
  kernel: str | os.PathLike[str] | np.ndarray | None = option(
    None,
    "Blur kernel, a grayscale image or .npy of odd sizes; is divided by its sum. A true convolution, a point of light "
    "becomes the kernel, centered on its middle pixel, with reflected edges.",
  )
  blur: str | os.PathLike[str] | None = option(
    None,
    "Blur of a deblurring task, in place of `kernel`: gaussian:STD, disk:RADIUS or motion:LENGTH,ANGLE in pixels and "
    "degrees; or of a `measurement` whose blur nobody knows, estimated: gaussian:auto, disk:auto, motion:auto, "
    "free:auto for a kernel of any form, or auto for the one of these that fits best. The edges of a `measurement` are "
    "taken as mixed with what lies beyond.",
  )

  def __post_init__(self) -> None:
    for name in ("input", "measurement"):
      value = getattr(self, name)
      object.__setattr__(self, name, tuple(value) if isinstance(value, (tuple, list)) else (value,))
    super().__post_init__()
    if self.method is not None and (self.quality, self.aim) != (Restoration.quality, Restoration.aim):
      raise errors.UsageError("`quality` and `aim` choose a method, got `method` too; leave out one or the other")
    if self.measurement_range is not None and not self.measurement:
      raise errors.UsageError("`measurement_range` is of `measurement`, got none; leave it out")
    if self.factor is not None:
      self._check_factor()
    if self.blur is not None:
      self._check_blur()
    if self.finds_mask:
      self._check_mask()
    if self.mask_threshold is not None and (self.mask is None or self.finds_mask):
      got = "`mask=auto`" if self.finds_mask else "no `mask`"
      raise errors.UsageError(f"`mask_threshold` is of a mask, got {got}; leave it out")
    self._check_words()
    if self.measurement and (self.size is not None or self.fit != "none"):
      raise errors.UsageError("`size` and `fit` change photographs, not `measurement`; crop it and its mask beforehand")

  @property
  def finds_mask(self) -> bool:
    """Whether scratches and dust are to be found."""
    return isinstance(self.mask, str) and self.mask == AUTO

  def _check_mask(self) -> None:
    if self.task != INPAINT:
      raise errors.UsageError(f"`mask=auto` is of `task={INPAINT}`, got another task; give the file of a mask")
    if self.input:
      raise errors.UsageError(
        "`mask=auto` is for `measurement`; with `input` it is what is lost, give the file of a mask"
      )

  def _check_factor(self) -> None:
    if self.task != ENLARGE:
      named = self.task if isinstance(self.task, str) else type(self.task).__name__
      raise errors.UsageError(f"`factor` is of `task={ENLARGE}`, got `task={named}`; leave it out")
    if self.factor not in FACTORS:
      raise errors.UsageError(f"`factor`: expected one of {', '.join(map(str, FACTORS))}, got {self.factor}")

  def _check_words(self) -> None:
    """Check that what is said of the noise is of its kind, and that words in place of numbers are of a measurement."""
    for name in measurement.KINDS:
      said = getattr(self, name)
      if self.input and isinstance(said, str):
        raise errors.UsageError(
          f"`{name}={said}` is for `measurement`; with `input` it is the noise to add, give a number"
        )
    measurement.check_kind(self)
    if self.rate == AUTO and self.read is not None:
      raise errors.UsageError("`rate=auto` finds `read` too, got a number for it; leave it out")

  def _check_blur(self) -> None:
    if self.kernel is not None:
      raise errors.UsageError("`blur` and `kernel` say the same, got both; leave out one or the other")
    if self.unknown_blur is not None and self.input:
      raise errors.UsageError(f"`blur={self.blur}` is for `measurement`; with `input` it is what blurs, give numbers")

  @property
  def _blur(self) -> kernels.Kernel | kernels.Unknown | pathlib.Path | None:
    """What `blur` says.

    Raises:
      UsageError: it is none.
    """
    with errors.usage():
      return None if self.blur is None else kernels.parse_blur(os.fspath(self.blur))

  @property
  def unknown_blur(self) -> str | None:
    """The family of blurs of which the measurement's is to be found; None where it is said."""
    return self._blur.family if isinstance(self._blur, kernels.Unknown) else None

  @property
  def given(self) -> Given:
    """What is said of how a real measurement was made."""
    kernel, found = self.kernel, self._blur
    if isinstance(found, pathlib.Path):
      kernel = found
    elif found is not None and not isinstance(found, kernels.Unknown):
      kernel = np.asarray(found.taps(kernels.kernel_size(found)))
    return Given(None if self.finds_mask else self.mask, self.mask_threshold, kernel)

  @property
  def named_task(self) -> tuple[str, Task]:
    """The task's name, and the task."""
    if isinstance(self.task, str) and self.task in WORDS:
      return self.task, WORDS[self.task] if self.factor is None else enlarging(self.factor)
    return next(iter(named_tasks((self.task,)).items()))

  @property
  def named_method(self) -> tuple[str, Any]:
    """The method's name; its class, the method with its fields, a restoration without a network, or a preset."""
    method = Preset(self.quality, self.aim) if self.method is None else self.method
    return next(iter(named_methods((method,)).items()))


class Job(NamedTuple):
  """Everything that a restoration says, loaded and checked."""

  config: Restoration
  prior: PicturePrior
  name: str  # of the task
  task: Task
  method: Method | Baseline
  grid: Level  # NO_STEPS without a network
  cases: list[Case]
  read: "Reader"
  known: dict[str, Known]  # of each picture's measurement, by its name

  @property
  def layouts(self) -> dict[str, Any]:
    """What must be the same for pictures to run at once, by their names: kernels that were found have sizes."""
    return {name: one.layout for name, one in self.known.items()}

  def load(self, case: Case) -> tuple[Problem, np.ndarray | None]:
    """Return the problem of a picture, and the truth where it is known."""
    found = self.read(case.path)
    if self.config.input:
      return measurement.measured(self.config, self.name, self.task, case, found, self.config.given), found
    return measured_problem(self, case, found), None

  def in_srgb(self, case: Case, pictures: np.ndarray) -> np.ndarray:
    """Return pictures, [n, h, w, c], in sRGB, where the measurement is a file with colors of its own."""
    if self.task.given != "file" or self.config.input:
      return pictures
    found: Any = self.read(case.path)
    return compressed.in_srgb(pictures, found)


def measured_problem(job: Job, case: Case, y: Any) -> Problem:
  """Return the problem of a real measurement `y`, an array or what was read of a file."""
  known = job.known[case.name]
  operator = unknown.operator(job.config, job.name, job.task, case, known)
  if known.operator is not None:
    return Problem(operator, known.noise, jnp.asarray(compressed.values(y, known.operator)))
  return Problem(operator, known.noise, measurement.values(operator, y, job.config.measurement_range))


class Reader:
  """Read pictures or measurements; those that memory has room for are not decoded a second time."""

  def __init__(self, read: Any):
    """Take what reads a path."""
    self._read, self._bytes = read, 0
    self._kept: dict[pathlib.Path, np.ndarray] = {}
    self.digests: dict[pathlib.Path, str] = {}  # of what was read

  def __call__(self, path: pathlib.Path) -> np.ndarray:
    """Return what the file holds."""
    if path not in self._kept:
      found = self._read(path)
      if path not in self.digests:
        self.digests[path] = identity.digest(found)
      if self._bytes + found.nbytes > KEPT_BYTES:
        return found
      self._kept[path], self._bytes = found, self._bytes + found.nbytes
    return self._kept[path]


# From Python: one measurement


@dataclasses.dataclass(frozen=True)
class Restored:
  """What one measurement was restored to. `np.asarray(restored)` is the picture."""

  picture: np.ndarray  # [h, w, c], [-1, 1] and not clipped: the mean of the samples
  samples: np.ndarray  # [samples, h, w, c]
  std: np.ndarray | None  # of the samples, [h, w, c]; None for one
  marks: list[dict[str, float]]  # of each sample: chi2, 1 where what is left of y is noise, and residual_norm
  problem: Problem
  notes: tuple[str, ...] = ()  # what there is to say of the measurement and its fit, see `diffinv.studies.advice`

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(self.picture, dtype=dtype, copy=copy)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Write the picture to an image file."""
    images.write(path, self.picture)

  def _repr_png_(self) -> bytes:
    return images.png(self.picture)


def restore(y: Any, *, task: str | Task | Any, prior: Any = "photo", method: Any = None, **fields: Any) -> Restored:
  """Restore one measurement.

  Args:
    y: what was measured: an array as the task's operator returns it, in units of [-1, 1], or a file.
    task: a name of `diffinv.TASKS`, a `Task` or an operator.
    prior: a name, a folder or a prior.
    method: a name, with the settings that ship for the prior, or a method with its hyper-parameters; None for what
      `quality` ("balanced") and `aim` ("mean") choose.
    **fields: other fields of a `Restoration`: `quality`, `mask`, `blur`, `sigma`, `num_samples`, `seed`, `set`, ...

  Raises:
    UsageError: options do not fit together.
    ValueError: y, the mask or the kernel cannot be used, or the chain left the finite numbers.

  Example:
    >>> import diffinv, numpy as np
    >>> y = np.zeros((16, 16, 3), np.float32)  # or "photo.png"
    >>> restored = diffinv.restore(y, task="denoising", sigma=0.1, prior="natural")
    >>> restored.picture.shape, restored.samples.shape
    ((16, 16, 3), (1, 16, 16, 3))
  """
  own = not isinstance(y, (str, os.PathLike))
  config = Restoration(task=task, prior=prior, method=method, measurement=("y",) if own else (y,), **fields)
  job = plan(config, given_y=np.asarray(y, np.float32) if own else None)
  (case,) = job.cases
  problem, _ = job.load(case)
  with progress.Bar(1.0) as bar:
    got = run_chains(job, [case], [problem], bar.part(1.0, f"{job.name} {job.method.name}"))
  marks.require_finite(job.method.name, got.images)
  scores = marks.scores(problem, got.images[0], None)
  notes = _notes(job, case, problem, _mean_scores(problem, got.images[0], None) or scores[0])
  samples = job.in_srgb(case, unknown.inside(problem.operator, got.images[0]))
  spread = marks.spread(samples, antithetic=job.config.antithetic)
  return Restored(np.mean(samples, axis=0), samples, spread, scores, problem, tuple(notes))


# The plan


def plan(config: Restoration, *, given_y: np.ndarray | None = None, kept: Found | None = None) -> Job:
  """Load the prior, build the method and check every picture, so that nothing fails after hours of work.

  Args:
    config: what to restore, and how.
    given_y: the measurement, where it is no file.
    kept: what was estimated of measurements before, and is from now on.

  Raises:
    UsageError: options do not fit together.
    ValueError: a picture, a measurement, a mask or a kernel cannot be used.
  """
  if bool(config.input) == bool(config.measurement):
    raise errors.UsageError("expected one of `input` (a photograph) and `measurement` (real data), got both or none")
  paths = [pathlib.Path("y.npy")] if given_y is not None else picture_paths(config)
  devices.split_cpu(config.devices)
  name, task = config.named_task
  any_kernel = config.given.kernel is not None or config.unknown_blur is not None
  choose = _choice(config, ANY_KERNEL if any_kernel else task.settings_of(name))
  prior = identity.load(config)
  entrants.note_settings(config)
  check_hidden(config, name, task)
  if task.always:
    check_given(config, name, task)
  read = Reader(_reader(config, prior, name, task, given_y))
  found = [read(path) for path in paths]
  shapes = [
    x.shape if config.input else picture_shape(config, prior, name, task, path, x)
    for path, x in zip(paths, found, strict=True)
  ]
  cases = casing.name_cases(paths, shapes, config.seed, [name])
  known = unknown.known(config, name, task, prior, cases, found, Found() if kept is None else kept)
  method, steps = choose(lambda method: _excuse(config, name, task, method, cases, known, prior.schedule))
  if not isinstance(method, Baseline):
    method = methods.fitted(method, known[cases[0].name].noise)
  grid = entrants.make_grid(prior, steps) if steps else entrants.NO_STEPS
  if isinstance(config.method, str) and steps:
    entrants.note_steps(config, {method.name: steps})
  if method.deterministic and config.num_samples > 1:
    progress.note(f"{method.name} gives the same picture every time; it is made once, not {config.num_samples} times")
    config = dataclasses.replace(config, num_samples=1, antithetic=False)
  devices.mesh(config)
  job = Job(config, prior, name, task, method, grid, cases, read, known)
  job = job._replace(config=with_batch_size(config, lambda: largest_batches(job)))
  check_memory(job)
  return job


def _choice(config: Restoration, task: str) -> Callable[[Callable[[Any], str | None]], tuple[Method | Baseline, str]]:
  """Check what is said of the method; return what gives the method and its steps, "" for none, when told of excuses.

  Raises:
    UsageError: there is no such method or field; and when called, the method cannot restore the pictures.
  """
  table, given = entrants.read_settings(config), assignments(config.set)
  name, method = config.named_method
  if isinstance(method, Preset):
    if given:
      raise errors.UsageError(
        "`set`: expected `method` beside it, got a choice by `quality` and `aim`; name the method"
      )
    build = lambda name, method, steps: entrants.build(name, method, task, steps, table, {})
    return lambda excuse: presets.choose(method, table, build, excuse, steps=config.steps)
  built: Method | Baseline
  if isinstance(method, Baseline):
    with errors.usage():
      built, steps = method.having(given), ""
  else:
    steps = entrants.chosen_steps(config, table, name)
    built = entrants.build(name, method, task, steps, table, given)

  def checked(excuse):
    if (why := excuse(built)) is not None:
      raise errors.UsageError(why)
    return built, steps

  return checked


def _excuse(config, name, task, method, cases, known, schedule) -> str | None:
  """Say why a method cannot restore one of the pictures; None where it can."""
  for case in {(case.shape, str(known[case.name].noise)): case for case in cases}.values():
    noise, operator = known[case.name].noise, unknown.operator(config, name, task, case, known[case.name])
    if isinstance(method, Baseline):
      why = method.excuse(operator, noise)
    else:
      why = entrants.excuse(method, operator, noise, schedule)
    if why is not None:
      return why
  return None


def largest_batches(job: Job) -> Iterator[int]:
  """Give how many chains the memory allows at once, for pictures of each size."""
  if isinstance(job.method, Baseline):
    return
  for part, count in parts(job.cases, job.config.num_samples, MAX_CHAINS, job.layouts):
    total, mesh = count * job.config.num_samples, devices.mesh(job.config)
    problem, shape = job.load(part[0])[0], part[0].shape
    yield memory.largest_batch(job.prior, job.method, problem, job.grid, chains=total, shape=shape, mesh=mesh)


def check_memory(job: Job) -> None:
  """Check that the machine has the memory for pictures of every size.

  Raises:
    UsageError: it has not.
  """
  if isinstance(job.method, Baseline):
    return
  firsts: dict[tuple, tuple[Case, int]] = {}  # by size: a picture of the first part, and how many that has
  for part, count in parts(job.cases, job.config.num_samples, job.config.chains_at_once, job.layouts):
    firsts.setdefault(part[0].shape, (part[0], count))
  for shape, (case, count) in firsts.items():
    memory.check_chains(
      job.prior,
      job.method,
      job.load(case)[0],
      job.grid,
      chains=count * job.config.num_samples,
      batch_size=job.config.chains_at_once,
      shape=shape,
      mesh=devices.mesh(job.config),
    )


def picture_paths(config: Restoration) -> list[pathlib.Path]:
  """Return the files to restore.

  Raises:
    UsageError: one does not exist, or a folder has no picture.
  """
  name = "`input`" if config.input else "`measurement`"
  with errors.usage():
    return images.collect([str(path) for path in config.input or config.measurement], name=name)


def check_hidden(config: Restoration, name: str, task: Task) -> None:
  """Check that it can be said how a real measurement was made.

  Raises:
    UsageError: the task draws its operator, and no option says which was drawn.
  """
  if config.measurement and task.hidden:
    raise errors.UsageError(
      f"`measurement`: `task={name}` draws how it measures, and no flag says what was drawn; "
      "measure a photograph with `input`, or give diffinv.sample an operator of your own"
    )


def check_given(config: Restoration, name: str, task: Task) -> None:
  """Check that it is said how a measurement was or is to be made.

  Raises:
    UsageError: its mask or kernel is missing.
  """
  if task.given == "mask" and config.mask is None:
    raise errors.UsageError(f"`mask` is missing: expected {_wanted_mask(config, name)}")
  if task.given == "kernel" and config.kernel is None and config.blur is None:
    what = "is to blur the photograph" if config.input else "blurred the measurement, or `blur=auto` to find it"
    raise errors.UsageError(f"`blur` or `kernel` is missing: expected what {what}")


def _wanted_mask(config: Restoration, name: str) -> str:
  if name != INPAINT:
    return f"the mask of the measurement for `task={name}`"
  what = "lost" if config.input else "filled in"
  found = "" if config.input else ", or `mask=auto` to find scratches and dust"
  return f"an image of the picture's size, black where pixels are to be {what} and white elsewhere{found}"


def _reader(config: Restoration, prior: PicturePrior, name: str, task: Task, given_y: np.ndarray | None) -> Any:
  """Return what reads a photograph or a measurement."""
  if config.input:
    multiple = measurement.size_multiple([task])
    return lambda path: casing.read_picture(config, prior, multiple, path)
  if task.given == "file":
    if given_y is not None:
      raise errors.UsageError(f"`measurement`: expected a JPEG file for `task={name}`, got an array; name the file")
    return lambda path: compressed.read(path, prior.image_shape[2], convert=config.convert)
  if given_y is not None:
    return lambda path: given_y
  return lambda path: read_measurement(config, prior, name, task, path)


def read_measurement(config: Restoration, prior: PicturePrior, name: str, task: Task, path: pathlib.Path) -> np.ndarray:
  """Read a measurement with as many channels as the task has of the prior's pictures, [h, w, c].

  Raises:
    ValueError: it is none, or a picture where the task does not measure one; or the task is not for such pictures.
  """
  try:
    template = measurement.probe(task, prior.image_shape[2])
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None
  channels = template.out_shape[-1]
  if path.suffix.lower() == ".npy":
    return arrays.read_array(path, channels=channels, is_picture=template.is_picture)
  if not template.is_picture:
    raise ValueError(
      f"{path}: expected a .npy array, as `task={name}` does not measure pictures, got a picture; "
      "write every digit with numpy.save"
    )
  return images.read(path, mode=images.mode_of(channels), convert=config.convert)


def picture_shape(
  config: Restoration, prior: PicturePrior, name: str, task: Task, path: pathlib.Path, y: Any
) -> tuple[int, int, int]:
  """Return the shape of the picture behind a measurement.

  Raises:
    ValueError: the prior has no picture of which this is the measurement.
  """
  if task.given == "file":
    return compressed.picture_shape(y, prior, path)
  check_given(config, name, task)
  shape = y.shape
  scale = measurement.scale(task)
  size = tuple(round(n * s) for n, s in zip(shape[:2], scale, strict=True))
  allowed, multiple = prior.image_shape[:2], size_step(prior)
  if any(fixed not in (None, n) or n % multiple for n, fixed in zip(size, allowed, strict=True)):
    fit = [(fixed or max(multiple, n // multiple * multiple)) / s for n, fixed, s in zip(size, allowed, scale)]
    raise ValueError(
      f"{path}: expected a measurement of {images.by([round(n) for n in fit])} pixels for this prior and {name}, "
      f"got {images.by(shape)}; crop or pad it"
    )
  picture = (*size, prior.image_shape[2])
  expected = task.make(jax.random.key(0), picture).out_shape
  if tuple(expected) != tuple(shape):
    raise ValueError(f"{path}: expected a measurement of shape {expected}, got {tuple(shape)}; crop or pad it")
  return picture


# Chains


def run_chains(
  job: Job, cases: Sequence[Case], problems: Sequence[Problem], report: Any, keep: chains.Keep | None = None
) -> chains.Restored:
  """Restore pictures of one size."""
  if isinstance(job.method, Baseline):
    return chains.restore_once(job.method, problems, report)
  return chains.restore(
    [casing.chain_keys(job.config, case) for case in cases],
    job.method,
    job.prior,
    problems,
    job.grid,
    chunk=job.config.chains_at_once,
    mesh=devices.mesh(job.config),
    progress=report,
    keep=keep,
  )


def parts(
  cases: Sequence[Case], samples: int, batch_size: int, layouts: Mapping[str, Any] = MappingProxyType({})
) -> list[tuple[list[Case], int]]:
  """Cut the pictures into parts of one size, and of one layout of their operators, that run at once.

  Returns:
    for each part its pictures, and how many to fill it up to, so that a size compiles once.
  """
  groups: dict[Any, list[Case]] = {}
  for case in cases:
    groups.setdefault((case.shape, layouts.get(case.name)), []).append(case)
  cut = [(group, chains.chunks(len(group), samples, batch_size)) for group in groups.values()]
  return [([group[i] for i in part], len(ranges[0])) for group, ranges in cut for part in ranges]


# The folder


def restore_all(
  config: Restoration,
  folder: str | os.PathLike[str],
  *,
  overwrite: bool = False,
  restart: bool = False,
  team: Team = ALONE,
) -> dict[str, Any]:
  """Restore every picture of a restoration and write a folder of pictures, or go on where that was stopped.

  Args:
    config: what to restore, and how.
    folder: to write; FOLDER.running holds the pictures that are finished until all are. One that holds the finished
      restoration already is read.
    overwrite: replace an existing folder, at the end.
    restart: throw away what FOLDER.running holds.
    team: processes that share the work (`diffinv.launch`), each of which makes this call.

  Returns:
    the contents of its results.json; in other processes than the first, as far as they know them.

  Raises:
    UsageError, ValueError: see `plan`; or every chain left the finite numbers.
    FileExistsError: the folder may not be written.
  """
  check_batch_size(config, team.count)
  path = pathlib.Path(os.path.expanduser(folder))
  casing.check_apart(config, path)
  runs.check_free(path, runs.RESTORATION, overwrite=overwrite)
  kept = Found(path, restart=restart) if team.index == 0 else Found()
  with kept.unless_it_fails():
    job = plan(config, kept=kept)
    work = lambda run, team: _work(run, job, kept, team)
    about = describe(job, path)
    return runs.carry_out(path, about, runs.RESTORATION, work, overwrite=overwrite, restart=restart, team=team)


def _work(run: runs.RunFolder, job: Job, kept: Found, team: Team) -> dict[str, Any]:
  """Do what is missing in a folder that is held, or a share of it; return the contents of results.json."""
  if team.index == 0:
    kept.write(run)
  run_all(run, job, team)
  entries = [run.rows[(case.name,)] for case in job.cases if (case.name,) in run.rows]
  if team.count == 1 and len(failures(entries)) == len(entries):
    run.discard()
    raise ValueError(f"{job.method.name}: expected finite pictures, got {entries[0]['failed']}")
  return contents(run.plan, entries)


def describe(job: Job, folder: pathlib.Path) -> dict[str, Any]:
  """Return the contents of run.json: what is restored, and how."""
  spent = entrants.spent(job.method, job.grid)
  known = {"mask": job.config.given.mask, "kernel": job.config.given.kernel}
  return {
    **identity.provenance(job.config, COMMAND, output=folder),
    **identity.objects(job.config),
    "prior": identity.describe_prior(job.config, job.prior),
    "task": job.name,
    "noise": unknown.describe(job.known),
    "method": entrants.describe_method(job.method),
    **({"preset": job.config.named_method[0]} if job.config.method is None else {}),
    "steps": len(job.grid.alpha) - 1,
    "network_evaluations": spent.evaluations,  # of each sample
    "network_gradients": spent.gradients,
    "given": {name: _digest(value) for name, value in known.items() if value is not None},
    "pictures": [
      {"name": case.name, "source": case.path, "shape": case.shape, "sha256": job.read.digests[case.path]}
      for case in job.cases
    ],
  }


def _digest(value: Any) -> str:
  return identity.digest(value) if isinstance(value, np.ndarray) else files.digest(value)


def run_all(run: runs.RunFolder, job: Job, team: Team = ALONE) -> None:
  """Restore the pictures that have no row yet, or a team's share of them."""
  cut = parts(job.cases, job.config.num_samples, job.config.chains_at_once, job.layouts)
  wanted = team.share([(part, count) for part, count in cut if run.missing([(case.name,) for case in part])])
  with progress.Bar(sum(math.prod(case.shape) for part, _ in wanted for case in part) or 1.0) as bar:
    for part, count in wanted:
      run.append(_restore_part(run, job, part, count, bar))
      run.drop_unfinished()


def _restore_part(
  run: runs.RunFolder, job: Job, part: Sequence[Case], count: int, bar: progress.Bar
) -> list[tuple[runs.Row, list[str]]]:
  """Restore some pictures of one size, filled up to `count`; return their rows and the names of their files."""
  loaded = [job.load(case) for case in part]
  chosen = chains.filled(range(len(part)), count)
  report = bar.part(sum(math.prod(case.shape) for case in part), f"{job.name} {job.method.name}")
  keep = _kept(run, job, part, [problem for problem, _ in loaded], count)
  got = run_chains(job, [part[i] for i in chosen], [loaded[i][0] for i in chosen], report, keep)
  rows = []
  for case, (problem, truth), pictures in zip(part, loaded, got.images[: len(part)], strict=True):
    names: list[str] = []
    if failure := marks.failure(pictures):
      entry = {"name": case.name, "source": case.path, "shape": case.shape, "failed": failure}
    else:
      entry, names = write_case(run, job, case, problem, pictures, truth)
    rows.append(({**entry, **got.spent(len(part))}, names))
  return rows


def _kept(
  run: runs.RunFolder, job: Job, part: Sequence[Case], problems: Sequence[Problem], count: int
) -> chains.Keep | None:
  """Return what keeps the chains of some pictures, filled up to `count`; None without chains."""
  if isinstance(job.method, Baseline):
    return None
  names, samples, mesh = [case.name for case in part], job.config.num_samples, devices.mesh(job.config)
  chunk = batch.chunk_size(count * samples, job.config.chains_at_once, batch.spread_over(mesh))
  about = [names, count, samples, chunk, [identity.fingerprint(problem) for problem in problems]]
  shown = lambda image, picture: unknown.inside(problems[image].operator, picture[None])[0]
  return unfinished.Unfinished(run, names, count * samples, samples, about, shown=shown)


def failures(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Return how restorations failed, by picture."""
  return {entry["name"]: entry["failed"] for entry in entries if "failed" in entry}


def contents(about: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
  """Return the contents of results.json: the plan, what was spent, and an entry a picture."""
  images = [{name: value for name, value in entry.items() if name != "compile_seconds"} for entry in entries]
  about = {name: value for name, value in about.items() if name != "pictures"}
  notes = advice.collected({entry["name"]: entry.pop("notes", []) for entry in images})
  return {**about, **chains.total(entries), "images": images, "notes": notes}


def write_case(
  run: runs.RunFolder, job: Job, case: Case, problem: Problem, pictures: np.ndarray, truth: np.ndarray | None
) -> tuple[dict[str, Any], list[str]]:
  """Write everything about one picture; return its entry of results.json and the names of its files."""
  digits = max(2, len(str(len(pictures) - 1)))
  several = [f"{case.name}-{i:0{digits}d}.png" for i in range(len(pictures))]
  names = [f"{case.name}.png"] if len(pictures) == 1 else several
  found, mean_marks = marks.scores(problem, pictures, truth), _mean_scores(problem, pictures, truth)
  pictures = job.in_srgb(case, unknown.inside(problem.operator, pictures))
  seen = job.in_srgb(case, np.asarray(problem.operator.picture(problem.y))[None])[0]
  entry: dict[str, Any] = {
    "name": case.name,
    "source": case.path,
    "shape": case.shape,
    "measurement_shape": problem.y.shape,
    "noise": measurement.describe_noise(problem.noise),
    "samples": [{"file": name, **scores} for name, scores in zip(names, found, strict=True)],
  }
  arrays = dict(zip(names, pictures, strict=True))
  if len(pictures) > 1:
    name, mean = f"{case.name}-mean.png", np.mean(pictures, axis=0)
    arrays[name] = mean
    entry["mean"] = {"file": name, **mean_marks}
  entry["notes"] = _notes(job, case, problem, entry.get("mean", entry["samples"][0]))
  if job.config.finds_mask:
    entry["notes"].append(advice.found_mask(problem, run.path / f"{case.name}-mask.png"))
  names = run.write({**arrays, **measurement_files(job.task, case.name, problem, seen)})
  sheet_name = f"{case.name}-sheet.png"
  images.write_pillow(run.new(sheet_name), draw_sheet(job, problem, seen, pictures, truth, entry))
  return entry, [*names, sheet_name]


def _mean_scores(problem: Problem, pictures: np.ndarray, truth: np.ndarray | None) -> dict[str, float]:
  """Return the marks of the mean of several samples; none of one."""
  return marks.scores(problem, np.mean(pictures, axis=0)[None], truth)[0] if len(pictures) > 1 else {}


def _notes(job: Job, case: Case, problem: Problem, scores: Mapping[str, float]) -> list[str]:
  """Return what there is to say of a picture with these marks."""
  read = job.read(case.path) if job.config.measurement else None
  found = job.known[case.name].kernel is not None
  return advice.notes(problem, scores, task=job.task, y=read, given=job.config.given, found=found)


def draw_sheet(job: Job, problem: Problem, seen, pictures, truth, entry: dict[str, Any]) -> Any:
  """Draw truth, the measurement as it is `seen`, samples, and their mean and standard deviation, side by side."""
  cells = [] if truth is None else [("truth", sheet.Cell(truth))]
  size = images.by(problem.y.shape) if problem.operator.is_picture else "x".join(map(str, problem.y.shape))
  cells.append(("measurement", sheet.Cell(seen, (size,))))
  if job.config.blur is not None or job.config.kernel is not None:
    cells.append(("kernel", sheet.Cell(_shown_kernel(problem))))
  for i, (picture, found) in enumerate(list(zip(pictures, entry["samples"], strict=True))[:SHEET_SAMPLES]):
    title = job.method.title if len(pictures) == 1 else f"sample {i + 1}"
    cells.append((title, sheet.Cell(picture, marks.caption(found))))
  if len(pictures) > 1:
    cells.append(("mean", sheet.Cell(np.mean(pictures, axis=0), marks.caption(entry["mean"]))))
  if (spread := marks.spread(pictures, antithetic=job.config.antithetic)) is not None:
    spread = np.mean(spread, axis=-1, keepdims=True)
    cells.append(("standard deviation", sheet.Cell(4.0 * spread - 1.0, ("black 0, white 0.5",))))
  return sheet.sheet([title for title, _ in cells], [(job.task.title, [cell for _, cell in cells])])


def _shown_kernel(problem: Problem) -> np.ndarray:
  """Return the kernel as a picture, [k, l, 1], its largest value white."""
  taps = np.asarray(problem.operator.kernel)  # type: ignore[attr-defined]  # of a blur that was said or found
  return 2.0 * np.clip(taps / np.max(taps), 0.0, 1.0)[..., None] - 1.0


def measurement_files(task: Task, name: str, problem: Problem, seen: np.ndarray) -> dict[str, np.ndarray]:
  """Return what `measurement`, `mask` and `kernel` take, by the names of files; and what is `seen` of it."""
  operator: Any = problem.operator
  found = {} if task.given == "file" else {f"{name}-measurement.npy": np.asarray(problem.y)}  # a file says more
  found[f"{name}-measurement.png"] = seen
  if task.given == "mask":
    found[f"{name}-mask.png"] = 2.0 * np.asarray(operator.mask) - 1.0
  elif hasattr(operator, "kernel"):
    found[f"{name}-kernel.npy"] = np.asarray(operator.kernel)
  return found
