"""A restoration that is loaded and checked: its prior, method and pictures, and what is known of each measurement."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import devices, errors, memory, methods, progress
from diffinv.baselines import Baseline
from diffinv.data import arrays, images
from diffinv.methods.base import Method
from diffinv.priors import PicturePrior, size_step
from diffinv.problems import Problem
from diffinv.schedules import Level
from diffinv.studies import cases as casing
from diffinv.studies import chains, compressed, entrants, identity, measurement, presets, unknown
from diffinv.studies.cases import Case
from diffinv.studies.found import Found
from diffinv.studies.presets import Preset
from diffinv.studies.restoration import Restoration
from diffinv.studies.study import MAX_CHAINS, assignments, with_batch_size
from diffinv.studies.unknown import Known
from diffinv.tasks import ANY_KERNEL, INPAINT, Task

KEPT_BYTES = 2**30  # of pictures that were read for the plan, so that they need not be read again


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
