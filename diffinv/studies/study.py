"""A study as data: which prior, which pictures, which tasks, which methods, and how.

From Python its fields are keyword arguments, and own priors, tasks, operators and methods go wherever a name does. On
the command line they are flags of the same names.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from diffinv import errors, options, progress
from diffinv.baselines import BASELINES, Baseline
from diffinv.data import held_out, images
from diffinv.devices import SPREADS
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.metrics.perceptual import LPIPS
from diffinv.nets import unet
from diffinv.noise import MAX_RATE, MAX_SIGMA, MIN_RATE, MIN_SIGMA
from diffinv.operators import Operator
from diffinv.options import MAX_SEED, option
from diffinv.priors import PicturePrior
from diffinv.priors.classes import MAX_GUIDANCE
from diffinv.priors.description import MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.schedules import SPACINGS, parse_spacing
from diffinv.studies.presets import PRESETS, Preset
from diffinv.tasks import TASKS, WORDS, Task

NOISES = ("gaussian", "poisson", "none")
DEFAULT_TASKS = ("inpaint_random", "inpaint_box", "super_resolution", "gaussian_blur", "motion_blur")
TEST_IMAGES, VALIDATION_IMAGES = 8, 4  # of a held-out set, where `num_images` does not say

MAX_CHAINS = 65_536  # at once
AUTO_BATCH = "auto"  # in place of a number: as many chains as the memory allows
MAX_DEVICES = 4096
MAX_PICTURES = 100_000  # to read, to draw or to keep in mind
MAX_SAMPLES = 10_000  # of a picture
MAX_FRAMES = 1000  # of a chain

STEPS = f"{', '.join(SPACINGS[:-1])} or {SPACINGS[-1]} (per section)"  # what `steps` may be

Picture = str | os.PathLike[str] | np.ndarray  # a file, or [h, w, c] in [-1, 1]


def steps_option(default: str | int | None, what: str, otherwise: str = "") -> Any:
  """Declare an option for the noise levels of `what`; `otherwise`: what is done where it is not set."""
  text = f"Noise levels of {what}: {STEPS}.{otherwise}"
  return option(default, text, low=1, high=MAX_SCHEDULE_STEPS, form=parse_spacing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
  """How a prior is run."""

  prior: str | os.PathLike[str] | PicturePrior = option(
    "photo", "Prior: a name, or a folder that `diffinv convert` or `diffinv train` wrote."
  )
  label: int | None = option(
    None, "Class of the pictures, for a class-conditional network.", low=0, high=MAX_NUMBER - 1
  )
  guidance: float | None = option(
    None,
    "How much of the class, for a network that was trained without one now and then: 1 is the class, more is more of "
    "it; takes twice the time. Not set: the class, as the network knows it.",
    low=0.0,
    high=MAX_GUIDANCE,
  )
  dtype: str | None = option(
    None,
    "Precision of the network's products; all else is float32. Not set: float32, whose products JAX rounds on a GPU or "
    "TPU unless the environment has JAX_DEFAULT_MATMUL_PRECISION=highest.",
    choices=unet.DTYPES,
  )
  tile: int | str = option(
    "auto",
    "Edge of the tiles in pixels in which the network is evaluated on larger pictures, so that memory does not grow "
    "with them; or auto, or none. The result is the same to rounding.",
    low=1,
    high=MAX_NUMBER,
    words=("auto", "none"),
  )
  remat: bool = option(False, "Compute the network's activations again in gradients: less memory, more time.")
  steps: str | int | None = steps_option(None, "the chain", " Not set: as the settings of the prior say.")
  seed: int = option(0, "Seed of everything random.", low=0, high=MAX_SEED)
  size: str | int | None = option(
    None,
    "Size of the pictures in pixels, N or WIDTHxHEIGHT. Not set: as the prior says.",
    low=1,
    high=MAX_NUMBER,
    form=images.parse_size,
  )
  batch_size: int | str = option(
    4,
    "Chains (images times samples) that run at once; bounds memory. Or auto: as many as the memory allows, which pays "
    "on an accelerator.",
    low=1,
    high=MAX_CHAINS,
    words=(AUTO_BATCH,),
  )
  devices: int | None = option(
    None,
    "Local devices to spread a batch over; on a CPU, cores. Not set: one device, or all cores on one batch.",
    low=1,
    high=MAX_DEVICES,
  )
  spread: str = option(
    "chains",
    "What is spread over `devices`: the chains of a batch, or the tiles of a large picture, see `tile`.",
    choices=SPREADS,
  )

  @property
  def chains_at_once(self) -> int:
    """`batch_size`, which is a number once the pictures are known."""
    return int(self.batch_size)


R = TypeVar("R", bound=Running)


def with_batch_size(config: R, largest: Callable[[], Iterable[int]]) -> R:
  """Return a configuration whose batch size is a number: where it is left open, the least of what `largest` gives.

  Args:
    config: of a study.
    largest: gives the largest batch of each of its parts; those that have none are left out.
  """
  if config.batch_size != AUTO_BATCH:
    return config
  size = min(largest(), default=1)
  progress.note(f"batch_size {size}, as the memory allows")
  return dataclasses.replace(config, batch_size=size)


def check_batch_size(config: Running, processes: int) -> None:
  """Check that the processes of a launch cut the pictures into the same batches.

  Raises:
    UsageError: each would decide by its own memory.
  """
  if processes > 1 and config.batch_size == AUTO_BATCH:
    raise errors.UsageError(f"`batch_size`: expected a number with `distributed`, got {AUTO_BATCH}; give one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring(Running):
  """How pictures are read and measured, and with which hyper-parameters they are restored."""

  convert: bool = option(False, "Convert alpha, palette, CMYK, 16-bit and animated pictures, and color to gray.")
  fit: str = option(
    "none", "How to bring pictures to the size: cut out the center, or scale to cover it first.", choices=images.FITS
  )
  noise: str | Any = option("gaussian", "Noise of the measurement.", choices=NOISES)
  sigma: float | None = option(
    None,
    "Standard deviation of Gaussian noise, in units of [-1, 1] (a paper's 0.05 on [0, 1] is 0.1, but for the task "
    "phase_retrieval_01, whose pictures are on [0, 1]). Not set: the task's.",
    low=MIN_SIGMA,
    high=MAX_SIGMA,
    advice="; pass `noise=none` for none",
  )
  rate: float = option(1.0, "Exposure of Poisson noise: 1 is 255 photons at white.", low=MIN_RATE, high=MAX_RATE)
  read: float | None = option(
    None,
    "Standard deviation of Gaussian noise that is added to Poisson noise, as a camera adds it, in units of [-1, 1]. "
    "Not set: none.",
    low=MIN_SIGMA,
    high=MAX_SIGMA,
  )
  settings: str | os.PathLike[str] | dict | None = option(
    None,
    "JSON file of hyper-parameters per method and task. Not set: those that ship for the prior, or the literature's.",
  )
  set: tuple[str, ...] | Mapping[str, Any] = option((), "Hyper-parameter.", repeated=True)
  num_samples: int = option(1, "Posterior samples of each picture.", low=1, high=MAX_SAMPLES)
  antithetic: bool = option(
    False,
    "Draw the samples in pairs of opposite noise: on linear tasks their mean is nearer the posterior mean than that of "
    "as many others. A standard deviation, and coverage, need two pairs.",
  )

  def __post_init__(self) -> None:
    _freeze(self, set=assignments_of(self.set))
    options.check(self)
    if self.antithetic and self.num_samples % 2:
      raise errors.UsageError(f"`num_samples`: expected an even number for `antithetic`, got {self.num_samples}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparing(Measuring):
  """Which pictures, tasks and methods."""

  data: tuple[Picture, ...] | Any = option(  # one, or a list, becomes a tuple
    (),
    f"Photographs: files, a folder, or held-out pictures of a set, one of {', '.join(held_out.SETS)}. Not set: the "
    "bundled bee.",
    repeated=True,
  )
  tasks: tuple[str | Task | Operator, ...] | Mapping[str, Task | Operator] = option(
    DEFAULT_TASKS, f"Tasks, of {', '.join(TASKS)}."
  )
  methods: tuple[str | Method | Baseline, ...] | Mapping[str, Any] = option(
    (*METHODS, *BASELINES),
    f"Methods, of {', '.join(METHODS)}; restorations without a network, of {', '.join(BASELINES)}; and choices of the "
    f"prior's settings, of {', '.join(PRESETS)}.",
  )
  num_images: int | None = option(
    None,
    f"Pictures to use, the first so many. Not set: all, {TEST_IMAGES} of a held-out set.",
    low=1,
    high=MAX_PICTURES,
  )

  def __post_init__(self) -> None:
    _freeze(self, data=_several(self.data), tasks=_several(self.tasks), methods=_several(self.methods))
    super().__post_init__()
    for name, task in named_tasks(self.tasks).items():
      if task.always:
        raise errors.UsageError(f"`tasks`: {name} is for a {task.given} of your own, of diffinv.restore; leave it out")
    named_methods(self.methods)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(Comparing):
  """A comparison: every method restores the same measurements from the same seeds, none sees the truth.

  Fields are those of the command's flags. `data` also takes arrays `[h, w, c]` in [-1, 1]; `prior` any prior;
  `tasks` also `Task`s and operators, `methods` also methods with their hyper-parameters, both as a mapping where they
  are to have names of their own; `set` also a mapping, `{"dps.scale": 0.3}`; `settings` also a table. A method may also
  be a function of your own that restores without a network, `("mine", lambda problem: picture)`.

  Example:
    >>> import diffinv
    >>> study = diffinv.Study(prior="natural", tasks=["denoising"], methods=["mmse", diffinv.METHODS["dps"](scale=0.3)])
    >>> study.num_samples
    1
  """

  frames: int = option(
    12,
    "Pictures to keep of each chain, its start and its end among them, for the report's animation; 0 for none.",
    low=0,
    high=MAX_FRAMES,
  )
  lpips: str | os.PathLike[str] | LPIPS | None = option(
    None,
    'Weights of LPIPS, the state_dict of lpips.LPIPS(net="alex" or "vgg"), .pt or .safetensors. Not set: no LPIPS.',
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.frames == 1:
      raise errors.UsageError("`frames`: expected 0, or at least 2 for the start and the end of a chain, got 1")


def _freeze(config: Any, **fields: Any) -> None:
  for name, value in fields.items():
    object.__setattr__(config, name, value)  # the one moment at which a frozen configuration may


def _several(value: Any) -> tuple[Any, ...]:
  """Return one or several values as a tuple; of a mapping its pairs."""
  if isinstance(value, Mapping):
    return tuple(value.items())
  return tuple(value) if isinstance(value, (tuple, list)) else (value,)


# Names and objects


def named_tasks(tasks: Iterable[Any]) -> dict[str, Task]:
  """Return the tasks by name, in their order; operators as tasks that draw nothing.

  Raises:
    UsageError: one does not exist, or two have one name; or there is none. Or it is a word, for one picture.
  """
  entries = list(tasks)
  for entry in entries:
    if isinstance(entry, str) and entry in WORDS:
      raise errors.UsageError(
        f"`tasks`: {entry} is a word for pictures of your own, of diffinv reconstruct; give {WORDS[entry].settings}"
      )
  return _named("tasks", entries, TASKS, _as_task)


def named_methods(methods: Iterable[Any]) -> dict[str, type[Method] | Method | Preset | Baseline]:
  """Return the methods by name, in their order: a class where settings say its hyper-parameters, else an instance.

  Presets and restorations without a network are among them.

  Raises:
    UsageError: one does not exist, or two have one name; or there is none.
  """
  return _named("methods", methods, {**METHODS, **PRESETS, **BASELINES}, _as_method)


def _named(option_name, entries, known, as_named) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for entry in entries:
    if isinstance(entry, str):
      if entry not in known:
        raise errors.UsageError(f"`{option_name}`: expected some of {', '.join(known)}, got {entry!r}")
      name, value, own = entry, known[entry], False
    else:
      (name, value), own = as_named(entry), not isinstance(entry, tuple)
    if own:  # two objects of one class get names of their own; a name that was given stays as it is
      name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(found) + 3))) if n not in found)
    if name in found:
      raise errors.UsageError(f"`{option_name}`: expected one or more, each once, got {_list(entries)}")
    found[name] = value
  if not found:
    raise errors.UsageError(f"`{option_name}`: expected one or more, each once, got none")
  return found


def _list(entries) -> str:
  return ",".join(entry if isinstance(entry, str) else type(entry).__name__ for entry in entries)


def _as_task(entry: Any) -> tuple[str, Task]:
  name, task = entry if isinstance(entry, tuple) else (None, entry)
  if isinstance(task, str):
    task = named_tasks((task,))[task]
  elif isinstance(task, Operator):
    task = _task_of(task)
  elif not isinstance(task, Task):
    raise errors.UsageError(f"`tasks`: expected a name, a Task or an operator, got {type(task).__name__}")
  return name or _slug(task.title), task


def _task_of(operator: Operator) -> Task:
  """Return an operator as a task, which measures pictures of one shape."""
  expected: Any = tuple(operator.in_shape)  # the task's, if it is of pictures

  def make(key, shape):
    del key
    if tuple(shape) != expected:
      raise ValueError(
        f"expected pictures of {images.by(expected)} pixels for this operator, got {images.by(shape)}; "
        f"pass `size={images.by(expected)}` and `fit=resize`"
      )
    return operator

  return Task(type(operator).__name__, make, "own operator", shape=expected)


def _as_method(entry: Any) -> tuple[str, Any]:
  name, method = entry if isinstance(entry, tuple) else (None, entry)
  if isinstance(method, str):
    method = named_methods((method,))[method]
  elif isinstance(method, (Baseline, Preset)):
    return name or method.name, method
  elif name is not None and callable(method) and not hasattr(method, "step"):
    method = Baseline(name, name, method)
  elif not hasattr(method, "step") or not hasattr(method, "name"):
    raise errors.UsageError(f"`methods`: expected a name or a method with its fields, got {type(method).__name__}")
  return name or method.name, method


def _slug(title: str) -> str:
  """Return a title as part of a file's name."""
  return "_".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())


def assignments_of(given: Iterable[str] | Mapping[str, Any]) -> tuple[str, ...]:
  """Return assignments as texts, `name=value`, in their order."""
  if isinstance(given, Mapping):
    return tuple(f"{name}={value}" for name, value in given.items())
  return (given,) if isinstance(given, str) else tuple(given)


def assignments(texts: Iterable[str]) -> dict[str, str]:
  """Split texts `name=value`; the last one of a name counts.

  Raises:
    UsageError: one has no "=".
  """
  found = {}
  for text in texts:
    name, equals, value = text.partition("=")
    if not name or not equals:
      raise errors.UsageError(f"`set`: expected name=value, got {text!r}")
    found[name.strip()] = value.strip()
  return found


def overrides(config: Comparing) -> dict[str, dict[str, str]]:
  """Return what `set` says by method and field; `steps` counts as a field of every method.

  Raises:
    UsageError: it names no method, or one that does not take part.
  """
  found: dict[str, dict[str, str]] = {name: {} for name in named_methods(config.methods)}
  for target, value in assignments(config.set).items():
    method, dot, field = target.partition(".")
    if not dot or method not in found:
      raise errors.UsageError(f"`set`: expected METHOD.name=value with one of {', '.join(found)}, got {target!r}")
    found[method][field] = value
  return found
