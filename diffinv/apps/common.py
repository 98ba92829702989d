"""What the commands share: flags, and the way from flags to priors, pictures, measurements, methods and results."""

import dataclasses
import functools
import hashlib
import itertools
import math
import os
import pathlib
import platform
import re
import sys
import tempfile
from importlib import metadata
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import diffinv
from diffinv import antithetic, errors, methods, noise, operators, output, text
from diffinv.data import held_out, images
from diffinv.devices import batch_mesh, split_cpu
from diffinv.methods import METHODS, make_method
from diffinv.methods.base import Cost, Method
from diffinv.nets import unet
from diffinv.operators import Operator
from diffinv.operators.blur import CircularBlur, ReflectBlur
from diffinv.operators.fourier import RealFourier
from diffinv.operators.pixels import Inpainting
from diffinv.operators.separable import Separable
from diffinv.priors import AnyPrior
from diffinv.priors.folder import ANALYTIC, DESCRIPTION, is_shipped, load_description, load_prior
from diffinv.problems import Problem, simulate
from diffinv.schedules import SPACINGS, Level, as_arrays
from diffinv.studies import settings, summary
from diffinv.tasks import TASKS, Task

NOISES = ("gaussian", "poisson", "none")
CACHE = "~/.cache/diffinv"
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
CACHE_MIN_SECONDS = 0.5  # what compiles faster is not worth a file
FILE_FLAGS = ("mask", "kernel", "settings", "lpips")  # that name a file to read
PROBE = 256  # pixels: the image size at which a task is asked how its measurement is scaled
MAX_SEED = 2**32 - 1
HELD_OUT_SIZE = 64  # pixels: an edge of held-out pictures, where nothing says more
NAME_BYTES = 160  # of a picture's name, at most: files about it add some 70, and file systems take 255 in all
# What follows the name of a picture in the names of the files about it.
DERIVED = re.compile(rf"-(\d\d+|mean|measurement|mask|kernel|truth|sheet|({'|'.join(TASKS)})-.*)$")


def define_run_flags(values: flags.FlagValues, *, steps: str | None = None) -> None:
  """Define the flags of every command that runs a prior."""
  flags.DEFINE_string(
    "prior", "photo", "Prior: a name, or a folder that `diffinv convert` or `diffinv train` wrote.", flag_values=values
  )
  flags.DEFINE_integer(
    "label", None, "Class of the pictures, for a class-conditional network.", lower_bound=0, flag_values=values
  )
  flags.DEFINE_enum(
    "dtype",
    None,
    list(unet.DTYPES),
    "Precision of the network's products; all else is float32. Not set: float32, whose products JAX rounds on a GPU or "
    "TPU unless the environment has JAX_DEFAULT_MATMUL_PRECISION=highest.",
    flag_values=values,
  )
  flags.DEFINE_boolean(
    "remat",
    False,
    "Compute the network's activations again in gradients: less memory, more time.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "steps",
    steps,
    f"Noise levels of the chain: {', '.join(SPACINGS[:-1])} or {SPACINGS[-1]} (per section)."
    + (" Not set: as the settings of the prior say." if steps is None else ""),
    flag_values=values,
  )
  flags.DEFINE_integer("seed", 0, "Seed of everything random.", lower_bound=0, upper_bound=MAX_SEED, flag_values=values)
  flags.DEFINE_string(
    "size", None, "Size of the pictures in pixels, N or WIDTHxHEIGHT. Not set: as the prior says.", flag_values=values
  )
  flags.DEFINE_integer(
    "batch_size", 4, "Chains (images times samples) that run at once; bounds memory.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "devices",
    None,
    "Local devices to spread a batch over; on a CPU, cores. Not set: one device, or all cores on one batch.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string("output", None, "Folder to write; required.", flag_values=values)
  flags.DEFINE_boolean("overwrite", False, "Replace an existing output folder, at the end.", flag_values=values)
  flags.DEFINE_string(
    "compilation_cache",
    CACHE,
    f"Folder that keeps compiled programs between runs; empty for none. {CACHE_VARIABLE} goes first.",
    flag_values=values,
  )


def define_problem_flags(values: flags.FlagValues, *, set_help: str) -> None:
  """Define the flags of the commands that measure and restore pictures."""
  flags.DEFINE_boolean(
    "convert", False, "Convert alpha, palette, grayscale and 16-bit pictures to the mode expected.", flag_values=values
  )
  flags.DEFINE_enum(
    "fit",
    "none",
    images.FITS,
    "How to bring pictures to the size: cut out the center, or scale to cover it first.",
    flag_values=values,
  )
  flags.DEFINE_enum("noise", "gaussian", NOISES, "Noise of the measurement.", flag_values=values)
  flags.DEFINE_float(
    "sigma",
    None,
    "Standard deviation of Gaussian noise, in units of [-1, 1] (a paper's 0.05 on [0, 1] is 0.1, but for the task "
    "phase_retrieval_01, whose pictures are on [0, 1]). Not set: the task's.",
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_float(
    "rate", 1.0, "Exposure of Poisson noise: 1 is 255 photons at white.", lower_bound=1e-6, flag_values=values
  )
  flags.DEFINE_string(
    "settings",
    None,
    "JSON file of hyper-parameters per method and task. Not set: those that ship for the prior, or the literature's.",
    flag_values=values,
  )
  flags.DEFINE_multi_string("set", [], set_help + " Repeatable.", flag_values=values)


def define_study_flags(
  values: flags.FlagValues,
  *,
  data_help: str,
  tasks: Sequence[str] | None,
  methods: Sequence[str] | None,
  held_out_images: int,
) -> None:
  """Define what to study: pictures, tasks and methods. None for tasks or methods: they have to be given."""
  flags.DEFINE_multi_string(
    "data",
    [],
    f"Photographs: files, a folder, or held-out pictures of the package, {' or '.join(held_out.SETS)}{data_help}",
    flag_values=values,
  )
  needed = lambda default: "; required." if default is None else "."
  flags.DEFINE_list("tasks", tasks, f"Tasks, of {', '.join(TASKS)}{needed(tasks)}", flag_values=values)
  flags.DEFINE_list("methods", methods, f"Methods, of {', '.join(METHODS)}{needed(methods)}", flag_values=values)
  flags.DEFINE_integer(
    "num_images",
    None,
    f"Pictures to use, the first so many. Not set: all, {held_out_images} of a held-out set.",
    lower_bound=1,
    flag_values=values,
  )


def define_sample_flags(values: flags.FlagValues) -> None:
  """Define how many samples to draw of a picture, and how."""
  flags.DEFINE_integer("num_samples", 1, "Posterior samples of each picture.", lower_bound=1, flag_values=values)
  flags.DEFINE_boolean(
    "antithetic",
    False,
    "Draw the samples in pairs of opposite noise: on linear tasks their mean is nearer the posterior mean than that of "
    "as many others. A standard deviation, and coverage, need two pairs.",
    flag_values=values,
  )


def check_samples(values: flags.FlagValues) -> None:
  """Check that samples have partners where they come in pairs.

  Raises:
    UsageError: one has none.
  """
  if values.antithetic and values.num_samples % 2:
    raise errors.UsageError(f"--num_samples: expected an even number for --antithetic, got {values.num_samples}")


def require(values: flags.FlagValues, name: str, expected: str) -> None:
  """Check that a flag was given.

  Raises:
    UsageError: it was not.
  """
  if not values[name].value:
    raise errors.UsageError(f"--{name} is missing: expected {expected}")


def check_choice(values: flags.FlagValues, name: str, known: Sequence[str]) -> None:
  """Check that a list flag names one or more of what is known, each once.

  Raises:
    UsageError: it does not.
  """
  chosen = values[name].value
  for choice in chosen:
    if choice not in known:
      raise errors.UsageError(f"--{name}: expected some of {', '.join(known)}, got {choice!r}")
  if not chosen or len(set(chosen)) < len(chosen):
    raise errors.UsageError(f"--{name}: expected one or more, each once, got {','.join(chosen) or 'none'}")


def finite(values: flags.FlagValues, name: str) -> None:
  """Check that a number, where given, is one: bounds of flags let NaN through.

  Raises:
    UsageError: it is NaN or infinite.
  """
  if values[name].value is not None and not math.isfinite(values[name].value):
    raise errors.UsageError(f"--{name}: expected a finite number, got {values[name].value}")


def check_apart(values: flags.FlagValues, paths: Sequence[pathlib.Path]) -> None:
  """Check that --overwrite will not remove what is read.

  Raises:
    UsageError: a picture, or a file or the prior that a flag names, lies in the output folder.
  """
  folder = pathlib.Path(values.output).resolve()
  files = [pathlib.Path(getattr(values, flag)) for flag in FILE_FLAGS if flag in values and getattr(values, flag)]
  # The name of a prior is not the folder of one.
  priors = [pathlib.Path(values.prior).expanduser() / DESCRIPTION] if "prior" in values else []
  for path in [*paths, *files, *(path for path in priors if path.exists())]:
    if folder in path.resolve().parents:
      raise errors.UsageError(f"--output: {path} lies in {values.output}, which would be replaced; choose another")


def prepare(values: flags.FlagValues) -> AnyPrior:
  """Set up the devices and the compilation cache, and load the prior.

  Raises:
    UsageError: the folder of --compilation_cache cannot be written to.
  """
  split_cpu(values.devices)
  if values.compilation_cache and CACHE_VARIABLE not in os.environ:
    _keep_compiled(os.path.expanduser(values.compilation_cache), asked=bool(values["compilation_cache"].present))
  prior = load_prior(values.prior, **given_options(values))
  if "settings" in values and values.settings is None and _name_of_settings(values.prior) == settings.LITERATURE:
    print(
      f"note: {values.prior} gets the settings of the literature, for the FFHQ network; diffinv tune finds its own",
      file=sys.stderr,
    )
  return prior


def given_options(values: flags.FlagValues) -> dict[str, Any]:
  """Return what flags say of how to run the prior's network, arguments of `load_prior`."""
  return {name: values[name].value for name in ("dtype", "remat", "label") if values[name].value is not None}


def _keep_compiled(folder: str, *, asked: bool) -> None:
  """Keep compiled programs in a folder; do without where the home folder cannot be written to and nobody asked."""
  try:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    if not asked:
      return
    came = errors.one_line(error)
    raise errors.UsageError(f"--compilation_cache: expected a folder to write to, got {came}") from None
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHE_MIN_SECONDS)


def mesh(values: flags.FlagValues) -> jax.sharding.Mesh | None:
  """Return the devices that --devices asks for; None for the default device.

  Raises:
    UsageError: there are not that many.
  """
  return None if values.devices is None else batch_mesh(values.devices)


def noise_model(values: flags.FlagValues, task: Task) -> Any:
  """Return the noise that the flags and the task's default describe.

  Raises:
    UsageError: --sigma or --rate does not fit --noise, or is not finite; or the noise does not fit the task.
  """
  for flag in ("sigma", "rate"):
    finite(values, flag)
  if values.noise != "gaussian" and values.sigma is not None:
    raise errors.UsageError(f"--sigma is of gaussian noise, got --noise={values.noise}; leave it out")
  if values.noise != "poisson" and values["rate"].present:
    raise errors.UsageError(f"--rate is of poisson noise, got --noise={values.noise}; leave it out")
  if values.noise == "poisson":
    if not probe(task).is_picture:
      raise errors.UsageError(f"--noise=poisson counts the light of a picture, got the task {task.title}; leave it out")
    return noise.Poisson(values.rate)
  if values.noise == "none":
    return noise.NoNoise()
  sigma = task.sigma if values.sigma is None else values.sigma
  if sigma == 0:
    raise errors.UsageError("--sigma: expected a positive number, got 0; pass --noise=none")
  return noise.Gaussian(sigma)


# Methods


def read_settings(values: flags.FlagValues) -> dict[str, Any]:
  """Return the table of hyper-parameters: of --settings, or those of the prior."""
  if values.settings is not None:
    return settings.read_settings(values.settings)
  return settings.load_settings(_name_of_settings(values.prior))


def _name_of_settings(prior: str) -> str:
  name = pathlib.PurePath(prior).name
  return name if is_shipped(prior) and settings.has_own(name) else settings.LITERATURE


def assignments(texts: Sequence[str]) -> dict[str, str]:
  """Split `name=value` texts.

  Raises:
    UsageError: one has no "=".
  """
  pairs = [words.partition("=") for words in texts]
  for words, (name, equals, _) in zip(texts, pairs):
    if not name or not equals:
      raise errors.UsageError(f"--set: expected name=value, got {words!r}")
  return {name.strip(): value.strip() for name, _, value in pairs}


def overrides_by_method(values: flags.FlagValues) -> dict[str, dict[str, str]]:
  """Return --set by method and field, of the methods of --methods; `steps` counts as one of their fields.

  Raises:
    UsageError: it names no method, or one that does not take part.
  """
  overrides: dict[str, dict[str, str]] = {name: {} for name in values.methods}
  for target, value in assignments(values.set).items():
    method, dot, field = target.partition(".")
    if not dot or method not in overrides:
      raise errors.UsageError(f"--set: expected METHOD.name=value with one of {', '.join(overrides)}, got {target!r}")
    overrides[method][field] = value
  return overrides


def build_method(name: str, task: str, steps: str, table: dict[str, Any], overrides: dict[str, Any]) -> Method:
  """Build a method from the settings for the task and steps, with overrides by field name.

  Text is read by the field's type.

  Raises:
    UsageError: there is no such method or field, or a value is not of the field's type.
  """
  with errors.usage():
    return make_method(name, typed_fields(name, {**settings.fields_for(table, name, task, steps), **overrides}))


def typed_fields(name: str, fields: dict[str, Any]) -> dict[str, Any]:
  """Return a method's hyper-parameters, each of the type of its field.

  Raises:
    ValueError: there is no such method or field, or a value is not of the field's type.
  """
  methods.check_names(name, fields)
  return {field: _typed(METHODS[name], field, value) for field, value in fields.items()}


def _typed(cls: type, name: str, value: Any) -> Any:
  """Return a value as the type of the field's default.

  Raises:
    ValueError: it is not of that type.
  """
  default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
  written, wanted = str(value).lower(), type(default).__name__
  if isinstance(default, str):
    return str(value)
  if isinstance(default, bool):
    if written not in ("true", "false"):
      raise ValueError(f"{cls.name}: expected {name} to be true or false, got {value!r}")
    return written == "true"
  try:
    number = type(default)(written)
  except (TypeError, ValueError):
    raise ValueError(f"{cls.name}: expected {name} to be of type {wanted}, got {value!r}") from None
  if not math.isfinite(number):
    raise ValueError(f"{cls.name}: expected {name} to be finite, got {value!r}")
  if isinstance(default, int) and number < min(default, 1):
    raise ValueError(f"{cls.name}: expected {name}, a count, to be at least {min(default, 1)}, got {value!r}")
  return number


def chosen_steps(values: flags.FlagValues, table: dict[str, Any], method: str, own: str | None = None) -> str:
  """Return the steps of the chain: `own`, those that --set gives the method; else --steps; else the settings'."""
  given = (own, values.steps, settings.steps_for(table, method))
  return next(steps for steps in given if steps is not None)


def make_grid(prior: AnyPrior, steps: str) -> Level:
  """Return the noise levels of so many steps.

  Raises:
    UsageError: they ask for what the schedule does not have.
  """
  with errors.usage():
    return prior.schedule.grid(steps)


def cost(method: Method, grid: Level) -> Cost:
  """Return what one chain costs."""
  return method.cost(jax.eval_shape(method.levels, as_arrays(grid)).alpha.shape[0])


def weight(spent: Cost) -> float:
  """Return the time of a chain in network evaluations; see `summary.weight`."""
  return summary.weight(spent.evaluations, spent.gradients)


# Pictures and measurements


class Case(NamedTuple):
  """One picture to restore."""

  name: str  # of its files in the output and of its rows, unique; see `name_cases`
  path: pathlib.Path  # of the picture, or of the measurement
  shape: tuple[int, int, int]  # of the picture
  key: jax.Array  # of everything random about it


def name_cases(paths: Sequence[pathlib.Path], shapes: Sequence[tuple], seed: int) -> list[Case]:
  """Number and name the pictures; the key of a picture depends on the seed and its number only.

  A name is the file's without its ending, with what JSON or another system does not take replaced, and not too long.
  """
  root, taken, cases = jax.random.key(seed), Names(), []
  for number, (path, shape) in enumerate(zip(paths, shapes)):
    stem = _tame(path.stem)
    tries = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
    name = next(name for name in tries if name not in taken)
    taken.add(name)
    cases.append(Case(name, path, shape, jax.random.fold_in(root, number)))
  return cases


def _tame(stem: str) -> str:
  """Return a name that is the same in JSON as on the disk, part of one folder anywhere, and at most NAME_BYTES long."""
  name = output.plain(stem).replace("\\", "_")
  return name.encode()[:NAME_BYTES].decode(errors="ignore")  # a letter that is cut goes


class Names:
  """Names of pictures; another one is "in" them if it may give files the same names.

  Files about the picture "a" may be called "a-mean", as the picture "a-mean" is; and some file systems do not tell
  "A.png" from "a.png".
  """

  def __init__(self):
    self._whole, self._begun = set(), set()  # the names, and what they may be derived from

  def add(self, name: str) -> None:
    """Take a name."""
    self._whole.add(name.casefold())
    self._begun.update(self._origins(name))

  def __contains__(self, name: str) -> bool:
    plain = name.casefold()
    return plain in self._whole or plain in self._begun or not self._whole.isdisjoint(self._origins(name))

  @staticmethod
  def _origins(name):
    plain = name.casefold()
    return [plain[:i] for i, letter in enumerate(plain) if letter == "-" and DERIVED.match(plain[i:])]


def case_keys(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return the keys of the operator, of the noise, and of all chains."""
  return tuple(jax.random.split(case.key, 3))


def chain_keys(values: flags.FlagValues, case: Case) -> jax.Array:
  """Return the key of each sample's chain, `[samples]`."""
  return sample_keys(case_keys(case)[2], values.num_samples, in_pairs=values.antithetic)


def sample_keys(key: jax.Array, count: int, *, in_pairs: bool) -> jax.Array:
  """Return the keys of `count` samples, `[count]`: those of the first do not depend on it; an even one `in_pairs`."""
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count // 2 if in_pairs else count))
  return antithetic.pairs(keys) if in_pairs else keys


def read_picture(values: flags.FlagValues, prior: AnyPrior, multiple: int, path: pathlib.Path) -> np.ndarray:
  """Read a picture with the prior's channels, and bring it to a size that prior and task (of `multiple`) take.

  Raises:
    ValueError: it is no such picture, or has another size and --fit does not allow to change it.
  """
  x = images.read(path, mode=images.mode_of(prior.image_shape[2]), convert=values.convert)
  multiple = math.lcm(multiple, prior.size_multiple)
  with errors.usage():
    wanted = None if values.size is None else images.parse_size(values.size)
    if wanted is not None:
      images.target_size(wanted, prior.image_shape[:2], multiple, wanted)
  try:
    return images.fit(x, images.target_size(x.shape[:2], prior.image_shape[:2], multiple, wanted), values.fit)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def read_pictures(
  values: flags.FlagValues, prior: AnyPrior, multiple: int, purpose: str, count: int
) -> tuple[list[Case], list[np.ndarray]]:
  """Read the pictures of --data, all of one size, [h, w, c], and name them.

  Args:
    multiple: pixels, that the tasks ask of the sides of a picture.
    purpose, count: which pictures of a held-out set, and how many where --num_images does not say.

  Raises:
    UsageError: --data names a held-out set and something else; --num_images asks for more pictures than there are; or
      a flag is not for what --data names.
    ValueError: a picture cannot be used, or they have different sizes.
  """
  if any(name in held_out.SETS for name in values.data):
    return _read_held_out(values, prior, purpose, values.num_images or count)
  with errors.usage():
    paths = images.collect(values.data, name="--data")
  if values.num_images is not None and values.num_images > len(paths):
    raise errors.UsageError(f"--num_images: expected at most {len(paths)}, all of --data, got {values.num_images}")
  paths = paths[: values.num_images]
  check_apart(values, paths)
  truths = [read_picture(values, prior, multiple, path) for path in paths]
  shapes = [truth.shape for truth in truths]
  if len(set(shapes)) > 1:
    sizes = ", ".join(sorted({images.by(shape) for shape in shapes}))
    raise ValueError(f"--data: expected photographs of one size, got {sizes}; pass --size=N --fit=resize")
  return name_cases(paths, shapes, values.seed), truths


def _read_held_out(values, prior, purpose, count):
  if len(values.data) > 1:
    raise errors.UsageError(f"--data: expected one held-out set alone, got {' and '.join(values.data)}")
  for flag, given in (("fit", values.fit != "none"), ("convert", values.convert)):
    if given:
      raise errors.UsageError(f"--{flag} is for photographs of your own, got --data={values.data[0]}; leave it out")
  if prior.image_shape[2] != images.CHANNELS["RGB"]:
    raise errors.UsageError(
      f"--data: expected a prior of color pictures for {values.data[0]}, got one of {prior.image_shape[2]} channels; "
      "give photographs of your own"
    )
  note_set(values.data[0])
  check_apart(values, [])
  with errors.usage():
    names, truths = held_out.held_out(values.data[0], purpose, count, held_out_size(values, prior))
  paths = [pathlib.Path(values.data[0], name) for name in names]
  return name_cases(paths, [truth.shape for truth in truths], values.seed), list(truths)


def note_set(name: str) -> None:
  """Say that --data names a set that comes with the package where there is a folder of that name as well."""
  if pathlib.Path(name).exists():
    print(f"note: --data={name} is the set of that name; the folder is --data=./{name}", file=sys.stderr)


def held_out_size(values: flags.FlagValues, prior: AnyPrior) -> int:
  """Return the edge of held-out pictures, pixels: that of --size, of the prior, or 64.

  Raises:
    ValueError: --size is not square, or not for the prior.
  """
  fixed = prior.image_shape[0]
  if values.size is None:
    return HELD_OUT_SIZE if fixed is None else fixed
  height, width = images.parse_size(values.size)
  if height != width or fixed not in (None, height) or height % prior.size_multiple:
    raise ValueError(f"--size: expected a square that the prior takes for held-out pictures, got {values.size}")
  return height


@functools.cache
def probe(task: Task, channels: int = 3) -> Operator:
  """Return an operator of the task on pictures of PROBE pixels, to ask what its measurements are like."""
  return task.make(jax.random.key(0), (PROBE, PROBE, channels))


def task_scale(task: Task) -> tuple[float, float]:
  """Return the size of the picture over that of its measurement as it is shown, height and width."""
  template = probe(task)
  shown = jax.eval_shape(template.picture, jax.ShapeDtypeStruct(template.out_shape, jnp.result_type(float)))
  return PROBE / shown.shape[0], PROBE / shown.shape[1]


def task_multiple(tasks: Sequence[Task]) -> int:
  """Return of what the sides of a picture must be multiples for all tasks, pixels."""
  whole = [int(s) for task in tasks for s in task_scale(task) if s.is_integer()]
  return math.lcm(*whole)


def make_operator(values: flags.FlagValues, name: str, key: jax.Array, shape: tuple[int, int, int]) -> Operator:
  """Build the task's operator for pictures of `shape`; --mask and --kernel replace what it would draw.

  Raises:
    UsageError: the task takes no mask or kernel.
    ValueError: the mask has another size than the picture, or the task cannot measure such a picture.
  """
  mask, kernel = (getattr(values, flag) if flag in values else None for flag in ("mask", "kernel"))
  try:
    operator = TASKS[name].make(key, shape)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None
  if mask is not None and not has_mask(operator):
    raise errors.UsageError(f"--mask is for inpainting and MRI, got --task={name}; leave it out")
  if kernel is not None and not is_blur(operator):
    raise errors.UsageError(f"--kernel is for deblurring, got --task={name}; leave it out")
  if mask is not None:
    kept = images.read_mask(mask, threshold=values.mask_threshold)
    if kept.shape[:2] != tuple(shape[:2]):
      raise ValueError(
        f"{mask}: expected a mask of {images.by(shape)} pixels as the picture, got {images.by(kept.shape)}; resize it"
      )
    build = operators.inpainting if isinstance(operator, Inpainting) else operators.masked_fourier
    return build(kept, channels=shape[2])
  return operator if kernel is None else operators.blur(shape, images.read_kernel(kernel))


def has_mask(operator: Operator) -> bool:
  """Tell whether a mask can take the operator's place: of pixels, or of frequencies."""
  return isinstance(operator, (Inpainting, RealFourier))


def is_blur(operator: Operator) -> bool:
  """Tell whether a kernel can take the operator's place."""
  convolves = isinstance(operator, (ReflectBlur, CircularBlur, Separable))
  return convolves and operator.out_shape == tuple(operator.in_shape)


def simulated(values: flags.FlagValues, prior: AnyPrior, name: str, multiple: int, case: Case):
  """Read a picture and measure it; return the problem and the truth, [h, w, c]."""
  truth = read_picture(values, prior, multiple, case.path)
  return measured(values, name, case, truth), truth


def measured(values: flags.FlagValues, name: str, case: Case, truth: np.ndarray) -> Problem:
  """Measure a picture; what is drawn at random depends on the seed, the picture's number and the task only."""
  operator_key, noise_key, _ = case_keys(case)
  operator = make_operator(values, name, operator_key, case.shape)
  return simulate(noise_key, operator, noise_model(values, TASKS[name]), jnp.asarray(truth))


# Reports


def describe(method: Method) -> dict[str, Any]:
  """Return the method's name, source and hyper-parameters."""
  fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
  return {"name": method.name, "citation": method.citation, "fields": fields}


def describe_noise(model: Any) -> dict[str, Any]:
  """Return the noise's kind and parameters, on [-1, 1]."""
  return {"kind": type(model).__name__.lower(), **dataclasses.asdict(model)}


def provenance(values: flags.FlagValues, command: str) -> dict[str, Any]:
  """Return what made a result: flags, seed, versions, device."""
  device = jax.devices()[0]
  packages = ("jax", "jaxlib", "flax", "numpy", "pillow")
  versions = {"python": platform.python_version(), "diffinv": diffinv.__version__}
  return {
    "command": command,
    "settings": {flag: values[flag].value for flag in values if not flag.startswith("?")},
    "seed": values.seed,
    "versions": {**versions, **{name: metadata.version(name) for name in packages}},
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "used": values.devices or 1,
      "matmul_precision": jax.config.jax_default_matmul_precision,
    },
  }


def identity(values: flags.FlagValues, prior: AnyPrior, cases: Sequence[Case], truths) -> dict[str, Any]:
  """Return what a run that is gone on with has to share beside its flags: the prior's numbers and the pictures."""
  about = [
    {
      "name": case.name,
      "source": case.path,
      "shape": case.shape,
      "sha256": hashlib.sha256(np.ascontiguousarray(truth)).hexdigest(),
    }
    for case, truth in zip(cases, truths)
  ]
  network = None if values.prior in ANALYTIC else dataclasses.asdict(load_description(values.prior)[1])
  prior_entry = {"name": values.prior, "sha256": fingerprint(prior), "network": network}
  return {"prior": prior_entry, "data": ", ".join(values.data), "images": about}


def fingerprint(prior: AnyPrior) -> str:
  """Return a digest of a prior's numbers and of how they are used: schedule, prediction, variance, clipping, size."""
  digest = hashlib.sha256()
  fields = [field.name for field in dataclasses.fields(prior) if field.metadata.get("static")]
  used = {name: getattr(prior, name) for name in fields if not callable(getattr(prior, name))}
  digest.update(repr(used).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(prior):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf))
  return digest.hexdigest()


def caption(marks: dict[str, float]) -> tuple[str, ...]:
  """Return the lines under a restored picture on a sheet: PSNR and SSIM where the truth is known, else chi-square."""
  if "psnr" not in marks:
    return (f"chi2 {text.number(marks['chi2'], 2)}",)
  return (f"{text.number(marks['psnr'], 2)} dB   {text.number(marks.get('ssim'), 3)}",)
