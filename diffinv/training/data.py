"""Where a run's images come from: the bundled photographs, procedural faces, or a folder; some are held out."""

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import memory
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.data import images
from diffinv.data.cache import Cache
from diffinv.launch import ALONE, Team
from diffinv.training.config import MOST_WORKERS, TrainConfig

# The held-out crops and renders and their noise are the same whatever the seed: validation losses of two runs compare.
HELD_OUT_SEED = 0
NEVER = 10**9  # passes through a folder, which no run takes: the crops there are not those that it trains on

Report = Callable[..., None]  # called as `print` is: a line, and `file` and `flush`


class Data(NamedTuple):
  """Where batches come from."""

  stream: Callable[[int, int], Any]  # a generator: (first step, last step + 1) -> batches, uint8 or [-1, 1]
  held_out: np.ndarray  # [n, size, size, 3], [-1, 1]
  held_out_files: list[str]  # never trained on; of a folder, `held_out` begins with one crop of each
  skipped: Callable[[], dict[str, str]]  # files that could not be read, and why
  ahead: int = 0  # batches that are prepared before they are asked for
  summary: str | None = None  # how many pictures train and how many validate, a line for people


def open_data(config: TrainConfig, note: Callable[[str], None], team: Team = ALONE) -> Data:
  """Open the training data.

  Args:
    config: of the run.
    note: called with a line for what is worth knowing of a folder.
    team: processes that each read a part of every batch, of equal size and in their order.

  Raises:
    ValueError: there are no such images, none can be read, or they are too small.
  """
  config = config.resolved()
  if config.source == "faces":
    return _faces(config, team)
  if config.source in held_out_data.SETS:
    return _photographs(config, note, team) if config.source == "photographs" else _photos(config, team)
  return _folder(config, note, team)


def notes(report: Report) -> Callable[[str], None]:
  """Return what writes a line to stderr by `report`."""
  return lambda line: report(line, file=sys.stderr, flush=True)


def note_set(config: TrainConfig, note: Callable[[str], None]) -> None:
  """Say that `data` names a set that comes with the package where there is a folder of that name as well."""
  if pathlib.Path(config.source).exists():
    note(f"note: `data={config.source}` is the set of that name; the folder is `data=./{config.source}`")


def _workers(config: TrainConfig) -> int:
  return config.workers or min(max(2, (os.cpu_count() or 2) // 2), MOST_WORKERS)


def check_memory(config: TrainConfig) -> None:
  """Check that the machine has the memory for the images of the validation, before they are read.

  Raises:
    UsageError: it has not.
  """
  each_once = config.crop == "resize" and config.source not in held_out_data.SETS
  least = 1 if each_once else max(1, config.held_out // 2)  # of so many files, `_crops` may give fewer than asked for
  results = memory.pictures(least, (config.size, config.size, 3))
  memory.require(memory.Need(0, 0, results), memory.available(), "lower `size` or `held_out`")


class _Part(NamedTuple):
  """A source of which one process reads its part of every batch."""

  source: Any
  batch_size: int
  team: Team

  def items(self, first: int, number: int) -> np.ndarray:
    """Return so many images of the batch whose number `first` is, counted in parts."""
    found: np.ndarray = self.source.items(first // number * self.batch_size + self.team.index * number, number)
    return found


def _streamed(source: Any, config: TrainConfig, team: Team) -> Callable[[int, int], Iterator[np.ndarray]]:
  part = _Part(source, config.batch_size, team)
  return functools.partial(folder_data.stream, part, config.batch_size // team.count, workers=_workers(config))


def _photos(config: TrainConfig, team: Team) -> Data:
  from diffinv.data import photos

  source = photos.bundled(size=config.size, **_cuts(config))
  held_out = images.from_uint8(photos.held_out_crops(config.size)[: config.held_out])
  ahead = folder_data.ahead(_workers(config))
  return Data(_streamed(source, config, team), held_out, list(photos.HELD_OUT), dict, ahead)


def _photographs(config: TrainConfig, note: Callable[[str], None], team: Team) -> Data:
  from diffinv.data import photographs

  cache = _cache(config, note)
  names, crops = photographs.held_out(photographs.VALIDATION, config.held_out, config.size, cache)
  source = photographs.crops(size=config.size, cache=cache, **_cuts(config))
  kept = [photograph.file for photograph in photographs.table() if photograph.split != photographs.TRAINING]
  summary = f"data: {source.pictures} photographs; the validation is on {len(names)} crops of others, by other people"
  ahead = folder_data.ahead(_workers(config))
  return Data(_streamed(source, config, team), images.from_uint8(crops), kept, dict, ahead, summary)


def _cuts(config: TrainConfig) -> dict[str, Any]:
  """Return how the crops of photographs are drawn."""
  return {"seed": config.seed, "augment": config.augment, "candidates": config.candidates}


def _cache(config: TrainConfig, note: Callable[[str], None]) -> Cache:
  return Cache(most=config.cache_gigabytes, note=lambda line: note(f"{line}; `cache_gigabytes=0` keeps none"))


def _folder(config: TrainConfig, note: Callable[[str], None], team: Team) -> Data:
  names = folder_data.list_images(config.source, note=note)
  make = functools.partial(
    folder_data.Folder,
    config.source,
    size=config.size,
    how=config.crop,
    max_downscale=config.max_downscale,
    cache=_cache(config, note),
    report=note,
  )
  everything = make(names, seed=HELD_OUT_SEED, flip=False)
  training, kept = folder_data.split(names, config.held_out, everything.readable)
  # Of a few files none can be held out: other crops of them are better than no validation at all.
  held_source, first = (make(kept, seed=HELD_OUT_SEED, flip=False), 0) if kept else (everything, NEVER * len(names))
  held_out = _crops(held_source, first, len(kept or names), config)
  of = f"{len(kept)} of them held out" if kept else "none held out"
  whose = "" if kept else " of the training images"
  summary = f"data: {len(names)} files, {of}: the validation is on {len(held_out)} crops{whose}"
  source = make(training, seed=config.seed, flip=bool(config.flip), corrupt=everything.corrupt)
  ahead = folder_data.ahead(_workers(config))
  return Data(_streamed(source, config, team), held_out, kept, lambda: source.corrupt, ahead, summary)


def _crops(source: folder_data.Folder, first: int, files: int, config: TrainConfig) -> np.ndarray:
  """Return `held_out` crops at most, as many of each file, [n, size, size, 3], [-1, 1]."""
  each = (
    1 if config.crop == "resize" else max(1, config.held_out // files)
  )  # a level of noise a crop: a few are too few
  count = min(each * files, config.held_out)
  return images.from_uint8(np.stack([source.item(first + i) for i in range(count)]))


def _faces(config: TrainConfig, team: Team) -> Data:
  # A half of a split each, so that no seed's training key is the held-out one.
  training_key, _ = jax.random.split(jax.random.key(config.seed))
  _, held_out_key = jax.random.split(jax.random.key(HELD_OUT_SEED))
  count, portraits = config.batch_size, _portraits(config.size, bool(config.flip))

  def stream(start, stop):
    own = count // team.count
    for step in range(start, stop):
      yield portraits(training_key, jnp.uint32(step * count + team.index * own), own)

  held_out = [np.asarray(portraits(held_out_key, jnp.uint32(i), count)) for i in range(0, config.held_out, count)]
  return Data(stream, np.concatenate(held_out)[: config.held_out], [], dict)


def _portraits(size: int, flip: bool) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
  """Return `(key, first, number) -> [number, size, size, 3]`, the faces `first` and on of a key."""
  from diffinv.data import faces

  # Mirrored by another key than `faces.render_unsided` uses: runs go on with the pictures that they began with.
  @functools.partial(jax.jit, static_argnums=2)
  def portraits(key, first, number):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(number, dtype=jnp.uint32))
    drawn = jax.vmap(lambda k: faces.render(k, size))(keys)
    mirrored = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 1)))(keys) & flip
    return jnp.where(mirrored[:, None, None, None], drawn[:, :, ::-1], drawn)

  return portraits
