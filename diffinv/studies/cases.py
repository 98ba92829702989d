"""The pictures of a study: read, brought to size and named, each with its own key."""

import functools
import hashlib
import itertools
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import antithetic, errors, files, output, progress, stopping
from diffinv.data import held_out, images
from diffinv.priors import PicturePrior, size_step
from diffinv.priors.folder import find_folder
from diffinv.studies.study import Comparing, Measuring
from diffinv.tasks import TASKS

HELD_OUT_SIZE = 64  # pixels: an edge of held-out pictures, where nothing says more
NAME_BYTES = 160  # of a picture's name, at most: files about it add some 70, and file systems take 255 in all


class Case(NamedTuple):
  """One picture to restore."""

  name: str  # of its files and rows, unique; see `name_cases`
  path: pathlib.Path  # of the picture or of the measurement; of an array its name alone
  shape: tuple[int, int, int]  # of the picture
  key: jax.Array  # of everything random about it


def name_cases(
  paths: Sequence[pathlib.Path], shapes: Sequence[tuple], seed: int, tasks: Sequence[str] = ()
) -> list[Case]:
  """Number and name the pictures; the key of a picture depends on the seed and its number only.

  A name is the file's without its ending, with what JSON or another system does not take replaced, and not too long.
  """
  root, taken, cases = jax.random.key(seed), Names(tasks), []
  for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
    stem = _tame(path.stem)
    tries = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
    name = next(name for name in tries if name not in taken)
    taken.add(name)
    cases.append(Case(name, path, shape, jax.random.fold_in(root, number)))
  return cases


def _tame(stem: str) -> str:
  """Return a name that is the same in JSON as on the disk, part of one folder anywhere, and at most NAME_BYTES long."""
  name = files.plain(stem).replace("\\", "_")
  return name.encode()[:NAME_BYTES].decode(errors="ignore")  # a letter that is cut goes


def derived_ending(tasks: Sequence[str] = ()) -> re.Pattern[str]:
  """Return what follows the name of a picture in the names of the files about it."""
  of_tasks = "|".join(map(re.escape, dict.fromkeys([*TASKS, *tasks])))
  return re.compile(rf"-(\d\d+|mean|measurement|mask|kernel|truth|sheet|({of_tasks})-.*)$")


class Names:
  """Names of pictures; another one is "in" them if it may give files the same names.

  Files about the picture "a" may be called "a-mean", as the picture "a-mean" is; and some file systems do not tell
  "A.png" from "a.png".
  """

  def __init__(self, tasks: Sequence[str] = ()):
    """Begin without a name; `tasks`: those besides TASKS whose names are part of files' names."""
    self._ending = derived_ending(tasks)
    self._whole: set[str] = set()  # the names
    self._begun: set[str] = set()  # what they may be derived from

  def add(self, name: str) -> None:
    """Take a name."""
    self._whole.add(name.casefold())
    self._begun.update(self._origins(name))

  def __contains__(self, name: str) -> bool:
    """Tell whether a name would share a file with one that is taken."""
    plain = name.casefold()
    return plain in self._whole or plain in self._begun or not self._whole.isdisjoint(self._origins(name))

  def _origins(self, name):
    plain = name.casefold()
    return [plain[:i] for i, letter in enumerate(plain) if letter == "-" and self._ending.match(plain[i:])]


def case_keys(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return the keys of the operator, of the noise, and of all chains."""
  return _parted(case.key)


@jax.jit
def _parted(key):
  operator_key, noise_key, chains_key = jax.random.split(key, 3)
  return operator_key, noise_key, chains_key


def chain_keys(config: Measuring, case: Case) -> jax.Array:
  """Return the key of each sample's chain, `[samples]`."""
  return sample_keys(case_keys(case)[2], config.num_samples, in_pairs=config.antithetic)


def sample_keys(key: jax.Array, count: int, *, in_pairs: bool) -> jax.Array:
  """Return the keys of `count` samples, `[count]`: those of the first do not depend on it; an even one `in_pairs`."""
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count // 2 if in_pairs else count))
  return antithetic.pairs(keys) if in_pairs else keys


def read_picture(config: Measuring, prior: PicturePrior, multiple: int, path: pathlib.Path) -> np.ndarray:
  """Read a picture with the prior's channels, and bring it to a size that prior and task (of `multiple`) take.

  Raises:
    UsageError: the prior or the task does not take the size asked for.
    ValueError: it is no such picture, or has another size and `fit` does not allow to change it.
  """
  stopping.check()  # many pictures take long
  x = images.read(path, mode=images.mode_of(prior.image_shape[2]), convert=config.convert)
  return fitted(config, prior, multiple, x, str(path))


def fitted(config: Measuring, prior: PicturePrior, multiple: int, x: np.ndarray, name: str) -> np.ndarray:
  """Bring a picture, [h, w, c], to a size that prior and task take; see `read_picture`."""
  multiple = math.lcm(multiple, size_step(prior))
  with errors.usage():
    wanted = None if config.size is None else images.parse_size(str(config.size))
    if wanted is not None:
      images.target_size(wanted, prior.image_shape[:2], multiple, wanted)
  try:
    return images.fit(x, images.target_size(x.shape[:2], prior.image_shape[:2], multiple, wanted), config.fit)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None


def read_pictures(
  config: Comparing, prior: PicturePrior, multiple: int, tasks: Sequence[str], *, purpose: str, count: int
) -> tuple[list[Case], list[np.ndarray]]:
  """Read the pictures of `data`, all of one size, [h, w, c], and name them.

  Args:
    config: of the study.
    prior: that restores them.
    multiple: pixels; the tasks ask it of the sides of a picture.
    tasks: their names, which are part of the names of files.
    purpose: of held-out pictures, of `held_out.PURPOSES`.
    count: of held-out pictures, where `num_images` does not say.

  Raises:
    UsageError: `data` names a held-out set and something else; `num_images` asks for more pictures than there are; or
      an option is not for what `data` names.
    ValueError: a picture cannot be used, or they have different sizes.
  """
  if any(isinstance(name, str) and name in held_out.SETS for name in config.data):
    return _read_held_out(config, prior, purpose, config.num_images or count)
  paths, truths = _read_own(config, prior, multiple)
  shapes = [truth.shape for truth in truths]
  if len(set(shapes)) > 1:
    sizes = ", ".join(sorted({images.by(shape) for shape in shapes}))
    raise ValueError(f"`data`: expected photographs of one size, got {sizes}; pass `size=N` `fit=resize`")
  return name_cases(paths, shapes, config.seed, tasks), truths


def picture_paths(config: Comparing) -> list[pathlib.Path]:
  """Return the files that `data` names; none of a held-out set or of arrays.

  Raises:
    UsageError: one does not exist, or a folder has no picture.
  """
  named = [entry for entry in config.data if not isinstance(entry, np.ndarray)]
  if not named or any(name in held_out.SETS for name in named):
    return []
  with errors.usage():
    return images.collect([str(name) for name in named], name="`data`")


def _read_own(config: Comparing, prior, multiple) -> tuple[list[pathlib.Path], list[np.ndarray]]:
  """Return paths, or names, and pictures of files and arrays."""
  arrays = [entry for entry in config.data if isinstance(entry, np.ndarray)]
  paths = picture_paths(config)
  names = [*paths, *(pathlib.Path(f"picture-{i:02d}") for i in range(len(arrays)))]
  if config.num_images is not None and config.num_images > len(names):
    raise errors.UsageError(f"`num_images`: expected at most {len(names)}, all of `data`, got {config.num_images}")
  names = names[: config.num_images]
  read = [read_picture(config, prior, multiple, path) for path in names[: len(paths)]]
  given = [
    fitted(config, prior, multiple, _as_picture(array, prior), str(name))
    for name, array in zip(names[len(paths) :], arrays, strict=False)
  ]
  return names, read + given


def _as_picture(array: np.ndarray, prior: PicturePrior) -> np.ndarray:
  channels = prior.image_shape[2]
  if array.ndim != 3 or array.shape[2] != channels or array.dtype.kind != "f":
    raise errors.UsageError(
      f"`data`: expected arrays [h, w, {channels}] of floats in [-1, 1], got {array.dtype} {array.shape}"
    )
  if not np.all(np.isfinite(array)) or np.min(array) < -1 or np.max(array) > 1:
    raise errors.UsageError("`data`: expected values in [-1, 1], got others; scale and clip the array")
  return np.asarray(array, np.float32)


def _read_held_out(config: Comparing, prior, purpose, count) -> tuple[list[Case], list[np.ndarray]]:
  name = str(config.data[0])
  if len(config.data) > 1:
    raise errors.UsageError(f"`data`: expected one held-out set alone, got {' and '.join(map(str, config.data))}")
  for option, given in (("fit", config.fit != "none"), ("convert", config.convert)):
    if given:
      raise errors.UsageError(f"`{option}` is for photographs of your own, got `data={name}`; leave it out")
  if prior.image_shape[2] != images.CHANNELS["RGB"]:
    raise errors.UsageError(
      f"`data`: expected a prior of color pictures for {name}, got one of {prior.image_shape[2]} channels; "
      "give photographs of your own"
    )
  note_set(name)
  with errors.usage():
    names, truths = held_out.held_out(name, purpose, count, held_out_size(config, prior))
  paths = [pathlib.Path(name, picture) for picture in names]
  return name_cases(paths, [truth.shape for truth in truths], config.seed), list(truths)


def note_set(name: str) -> None:
  """Say that a set that comes with the package is meant where there is a folder of that name as well."""
  if pathlib.Path(name).exists():
    progress.note(f"{name} is the set of that name; the folder is ./{name}")


def held_out_size(config: Measuring, prior: PicturePrior) -> int:
  """Return the edge of held-out pictures, pixels: that of `size`, of the prior, or 64.

  Raises:
    ValueError: `size` is not square, or not for the prior.
  """
  fixed = prior.image_shape[0]
  if config.size is None:
    return HELD_OUT_SIZE if fixed is None else fixed
  height, width = images.parse_size(str(config.size))
  if height != width or fixed not in (None, height) or height % size_step(prior):
    raise ValueError(f"`size`: expected a square that the prior takes for held-out pictures, got {config.size}")
  return height


def describe_cases(cases: Sequence[Case], truths: Sequence[np.ndarray]) -> list[dict[str, Any]]:
  """Return what identifies the pictures of a run."""
  return [
    {
      "name": case.name,
      "source": case.path,
      "shape": case.shape,
      "sha256": hashlib.sha256(truth.tobytes()).hexdigest(),
    }
    for case, truth in zip(cases, truths, strict=True)
  ]


# Options that name what is read.
READS = ("mask", "kernel", "blur", "settings", "lpips", "prior", "data", "input", "measurement")


def check_apart(config: Any, path: str | os.PathLike[str]) -> None:
  """Check that an output, and what lies beside it while it is made, are apart from all that is read.

  Raises:
    UsageError: they are not, see `diffinv.output.check_apart`.
  """
  read = {name: _paths(name, getattr(config, name, None)) for name in READS}
  output.check_apart(path, [(name, one) for name, some in read.items() for one in some])


def _paths(name: str, value: Any) -> list[pathlib.Path]:
  """Return the files and folders that the value of an option names."""
  if isinstance(value, (tuple, list)):
    return [path for entry in value for path in _paths(name, entry)]
  if not isinstance(value, (str, os.PathLike)):
    return []
  if name == "prior":
    folder = find_folder(value)
    return [] if folder is None else [folder]
  held = name == "data" and value in held_out.SETS
  in_words = (name == "blur" and not os.path.lexists(value)) or (name, value) == ("mask", "auto")
  return [] if held or in_words else images.split([os.fspath(value)])
