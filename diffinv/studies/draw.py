"""Draw pictures from a prior, without a measurement."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from diffinv import devices, errors, output, progress
from diffinv.data import images, sheet
from diffinv.methods.base import Method
from diffinv.methods.unconditional import DDIM, SAMPLERS
from diffinv.options import check, option
from diffinv.priors import PicturePrior
from diffinv.priors.description import MAX_SCHEDULE_STEPS
from diffinv.schedules import parse_spacing
from diffinv.studies import cases, chains, entrants, identity, marks
from diffinv.studies.study import MAX_PICTURES, STEPS, Running

COMMAND = "sample"
DEFAULT_SIZE = 256  # pixels, for priors of any size
GRID_PICTURES = 256  # of the first so many pictures; more is nothing to look at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing(Running):
  """What to draw, and how."""

  steps: str | int | None = option(
    "100", f"Noise levels of the chain: {STEPS}.", low=1, high=MAX_SCHEDULE_STEPS, form=parse_spacing
  )
  num_samples: int = option(16, "Pictures to draw.", low=1, high=MAX_PICTURES)
  sampler: str = option("ddpm", "Reverse process.", choices=tuple(SAMPLERS))
  eta: float | None = option(None, "Randomness of DDIM: 0 is deterministic, 1 is DDPM. Not set: 0.", low=0.0, high=1.0)

  def __post_init__(self) -> None:
    check(self)
    if self.eta is not None and self.sampler != "ddim":
      raise errors.UsageError(f"`eta` is of `sampler=ddim`, got `sampler={self.sampler}`; leave it out")


def build_sampler(config: Drawing, prior: PicturePrior) -> Method:
  """Return the sampler for pictures of the size asked for.

  Raises:
    UsageError: the prior does not have that size.
  """
  allowed, multiple = prior.image_shape[:2], prior.size_multiple
  with errors.usage():
    wanted = None if config.size is None else images.parse_size(str(config.size))
    size = images.target_size((DEFAULT_SIZE, DEFAULT_SIZE), allowed, multiple, wanted)
  shape = (*size, prior.image_shape[2])
  return DDIM(shape, config.eta or 0.0) if config.sampler == "ddim" else SAMPLERS[config.sampler](shape)


def draw_all(config: Drawing, folder: str | os.PathLike[str], *, overwrite: bool = False) -> dict[str, Any]:
  """Draw pictures and write them, all of them as grid.png, and results.json.

  Returns:
    the contents of results.json.

  Raises:
    UsageError: options do not fit together.
    ValueError: a chain left the finite numbers.
    FileExistsError: the folder may not be written.
  """
  cases.check_apart(config, pathlib.Path(folder), [])
  devices.split_cpu(config.devices)
  prior = identity.load(config)
  method, grid = build_sampler(config, prior), entrants.make_grid(prior, str(config.steps))
  with output.folder(folder, overwrite=overwrite) as partial:
    drawn = _draw(config, prior, method, grid)
    marks.require_finite(method.name, drawn.images)
    pictures = [samples[0] for samples in drawn.images]
    found = {
      **identity.provenance(config, COMMAND, output=folder, overwrite=overwrite),
      "method": entrants.describe_method(method),
      "network_evaluations": entrants.cost(method, grid).evaluations,
      "compile_seconds": drawn.compile_seconds,
      "run_seconds": drawn.run_seconds,
      "clipped_fraction": images.clipped_fraction(np.stack(pictures)),
      "shape": pictures[0].shape,
      "files": _write(partial, pictures),
    }
    output.write_json(partial / output.RESULTS, found)
  return found


def _draw(config: Drawing, prior: PicturePrior, method: Method, grid) -> chains.Restored:
  root = jax.random.key(config.seed)
  with progress.Bar(1.0) as bar:
    return chains.restore(
      [jax.random.fold_in(root, i)[None] for i in range(config.num_samples)],
      method,
      prior,
      None,
      grid,
      chunk=config.batch_size,
      mesh=devices.mesh(config.devices),
      progress=bar.part(1.0, method.name),
    )


def _write(folder: pathlib.Path, pictures: list[np.ndarray]) -> list[str]:
  """Write the pictures and a grid of them; return the names of their files."""
  digits = len(str(len(pictures) - 1))
  files = [f"{i:0{digits}d}.png" for i in range(len(pictures))]
  for file, picture in zip(files, pictures, strict=True):
    images.write(folder / file, picture)
  images.write_pillow(folder / "grid.png", sheet.grid(pictures[:GRID_PICTURES]))
  return files
