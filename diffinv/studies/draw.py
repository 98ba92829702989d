"""Draw pictures from a prior, without a measurement."""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from diffinv import devices, errors, memory, progress
from diffinv.data import images, sheet
from diffinv.launch import Team
from diffinv.methods import starts
from diffinv.methods.base import Method
from diffinv.methods.unconditional import DDIM, SAMPLERS
from diffinv.options import check, option
from diffinv.priors import PicturePrior, size_step
from diffinv.schedules import Level
from diffinv.studies import cases, chains, entrants, identity, marks, runs
from diffinv.studies.study import MAX_PICTURES, Running, steps_option, with_batch_size

COMMAND = "sample"
DEFAULT_SIZE = 256  # pixels, for priors of any size
GRID_PICTURES = 256  # of the first so many pictures; more is nothing to look at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing(Running):
  """What to draw, and how."""

  steps: str | int | None = steps_option("100", "the chain")
  num_samples: int = option(16, "Pictures to draw.", low=1, high=MAX_PICTURES)
  sampler: str = option("ddpm", "Reverse process.", choices=tuple(SAMPLERS))
  eta: float | None = option(None, "Randomness of DDIM: 0 is deterministic, 1 is DDPM. Not set: 0.", low=0.0, high=1.0)

  def __post_init__(self) -> None:
    check(self)
    if self.eta is not None and self.sampler != "ddim":
      raise errors.UsageError(f"`eta` is of `sampler=ddim`, got `sampler={self.sampler}`; leave it out")


def picture_shape(config: Drawing, prior: PicturePrior) -> tuple[int, int, int]:
  """Return the shape [h, w, c] of the pictures, of the size asked for.

  Raises:
    UsageError: the prior does not have that size.
  """
  allowed, multiple = prior.image_shape[:2], size_step(prior)
  with errors.usage():
    wanted = None if config.size is None else images.parse_size(str(config.size))
    size = images.target_size((DEFAULT_SIZE, DEFAULT_SIZE), allowed, multiple, wanted)
  return (*size, prior.image_shape[2])


def build_sampler(config: Drawing, shape: tuple[int, int, int]) -> Method:
  """Return the sampler for pictures of a shape."""
  return DDIM(shape, config.eta or 0.0) if config.sampler == "ddim" else SAMPLERS[config.sampler](shape)


class Job(NamedTuple):
  """What a drawing asks for, loaded and checked."""

  config: Drawing
  prior: PicturePrior
  method: Method
  grid: Level

  def name(self, number: int) -> str:
    """Return the name of a picture's file."""
    return f"{number:0{len(str(self.config.num_samples - 1))}d}.png"


def draw_all(
  config: Drawing, folder: str | os.PathLike[str], *, overwrite: bool = False, restart: bool = False
) -> dict[str, Any]:
  """Draw pictures and write them, all of them as grid.png, and results.json; or go on where that was stopped.

  Args:
    config: what to draw.
    folder: to write; FOLDER.running holds the pictures that are finished until all are. One that holds the finished
      drawing already is read.
    overwrite: replace an existing folder, at the end.
    restart: throw away what FOLDER.running holds.

  Returns:
    the contents of results.json.

  Raises:
    UsageError: options do not fit together.
    ValueError: a chain left the finite numbers.
    FileExistsError: the folder may not be written.
  """
  path = pathlib.Path(os.path.expanduser(folder))
  cases.check_apart(config, path)
  runs.check_free(path, runs.DRAWING, overwrite=overwrite)
  job = plan(config)

  def work(run: runs.RunFolder, team: Team) -> dict[str, Any]:
    del team  # which is this process
    run_all(run, job)
    write_grid(run, job)
    return contents(job, run)

  return runs.carry_out(path, describe(job, path), runs.DRAWING, work, overwrite=overwrite, restart=restart)


def plan(config: Drawing) -> Job:
  """Load the prior and build the sampler.

  Raises:
    UsageError: options do not fit together, or the machine has not the memory.
  """
  devices.split_cpu(config.devices)
  prior = identity.load(config)
  with errors.usage():
    starts.check_nothing_given("`prior`", prior.schedule)
  shape = picture_shape(config, prior)
  method, grid = build_sampler(config, shape), entrants.make_grid(prior, str(config.steps))
  mesh = devices.mesh(config)
  largest = lambda: [memory.largest_batch(prior, method, None, grid, chains=config.num_samples, shape=shape, mesh=mesh)]
  config = with_batch_size(config, largest)
  memory.check_chains(
    prior,
    method,
    None,
    grid,
    chains=min(config.num_samples, config.chains_at_once),
    batch_size=config.chains_at_once,
    shape=shape,
    kept=memory.pictures(min(config.num_samples, GRID_PICTURES), shape),
    mesh=mesh,
  )
  return Job(config, prior, method, grid)


def describe(job: Job, folder: pathlib.Path) -> dict[str, Any]:
  """Return the contents of run.json: what is drawn, and how."""
  return {
    **identity.provenance(job.config, COMMAND, output=folder),
    **identity.objects(job.config),
    "prior": identity.describe_prior(job.config, job.prior),
    "method": entrants.describe_method(job.method),
    "network_evaluations": entrants.cost(job.method, job.grid).evaluations,
  }


def run_all(run: runs.RunFolder, job: Job) -> None:
  """Draw the pictures that are not there yet, as many at once as `batch_size` says."""
  cut = chains.chunks(job.config.num_samples, 1, job.config.chains_at_once)
  wanted = [part for part in cut if run.missing([(number,) for number in part])]
  with progress.Bar(sum(map(len, wanted)) or 1.0) as bar:
    for part in wanted:
      run.append(_draw(run, job, part, len(cut[0]), bar))


def _draw(
  run: runs.RunFolder, job: Job, part: range, count: int, bar: progress.Bar
) -> list[tuple[runs.Row, list[str]]]:
  root = jax.random.key(job.config.seed)
  drawn = chains.restore(
    [jax.random.fold_in(root, number)[None] for number in chains.filled(part, count)],
    job.method,
    job.prior,
    None,
    job.grid,
    chunk=job.config.chains_at_once,
    mesh=devices.mesh(job.config),
    progress=bar.part(len(part), job.method.name),
  )
  marks.require_finite(job.method.name, drawn.images)
  return [_write(run, job, number, drawn.images[place][0], drawn.spent(len(part))) for place, number in enumerate(part)]


def _write(
  run: runs.RunFolder, job: Job, number: int, picture: np.ndarray, spent: dict[str, float]
) -> tuple[runs.Row, list[str]]:
  names = run.write({job.name(number): picture})
  about = {"number": number, "file": names[0], "shape": picture.shape}
  return {**about, "clipped_fraction": images.clipped_fraction(picture), **spent}, names


def write_grid(run: runs.RunFolder, job: Job) -> None:
  """Write the first pictures as one."""
  mode = images.mode_of(job.prior.image_shape[2])
  first = [job.name(number) for number in range(min(job.config.num_samples, GRID_PICTURES))]
  pictures = [images.read(run.partial / name, mode=mode) for name in first]
  images.write_pillow(run.new("grid.png"), sheet.grid(pictures))


def contents(job: Job, run: runs.RunFolder) -> dict[str, Any]:
  """Return the contents of results.json."""
  rows = [run.rows[(number,)] for number in range(job.config.num_samples)]
  return {
    **run.plan,
    **chains.total(rows),
    "clipped_fraction": float(np.mean([row["clipped_fraction"] for row in rows])),
    "shape": rows[0]["shape"],
    "files": [row["file"] for row in rows],
  }
