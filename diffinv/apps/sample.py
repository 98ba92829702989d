"""Draw pictures from a prior.

usage: diffinv sample --output=FOLDER [--prior=NAME|FOLDER] [--num_samples=N] [--sampler=ddpm|ddim|dpm_solver]

Writes every picture, all of them as grid.png, and results.json.
"""

import jax
import numpy as np
from absl import flags

from diffinv import errors, output, progress
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.data import images, sheet
from diffinv.methods.base import Method
from diffinv.methods.unconditional import DDIM, SAMPLERS
from diffinv.priors import AnyPrior
from diffinv.studies import chains as bench
from diffinv.studies import marks as marking

DEFAULT_SIZE = 256  # pixels, for priors of any size

FLAGS = flags.FlagValues()
common.define_run_flags(FLAGS, steps="100")
flags.DEFINE_integer("num_samples", 16, "Pictures to draw.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("sampler", "ddpm", list(SAMPLERS), "Reverse process.", flag_values=FLAGS)
flags.DEFINE_float(
  "eta",
  None,
  "Randomness of DDIM: 0 is deterministic, 1 is DDPM. Not set: 0.",
  lower_bound=0.0,
  upper_bound=1.0,
  flag_values=FLAGS,
)


def build_sampler(prior: AnyPrior) -> Method:
  """Return the sampler that the flags describe, for pictures of the size they ask for.

  Raises:
    UsageError: the size is not one the prior has, or --eta is given without DDIM.
  """
  allowed, multiple = prior.image_shape[:2], prior.size_multiple
  with errors.usage():
    wanted = None if FLAGS.size is None else images.parse_size(FLAGS.size)
    size = images.target_size((DEFAULT_SIZE, DEFAULT_SIZE), allowed, multiple, wanted)
  shape = (*size, prior.image_shape[2])
  common.finite(FLAGS, "eta")
  if FLAGS.sampler == "ddim":
    return DDIM(shape, FLAGS.eta or 0.0)
  if FLAGS.eta is not None:
    raise errors.UsageError(f"--eta is of --sampler=ddim, got --sampler={FLAGS.sampler}; leave it out")
  return SAMPLERS[FLAGS.sampler](shape)


GRID_PICTURES = 256  # of the first so many pictures; more is nothing to look at


def main(argv: list[str]) -> None:
  """Draw, write, report."""
  del argv
  common.require(FLAGS, "output", "the folder to write")
  output.check(FLAGS.output, overwrite=FLAGS.overwrite)
  common.check_apart(FLAGS, [])
  prior = common.prepare(FLAGS)
  method = build_sampler(prior)
  with errors.usage():
    grid = prior.schedule.grid(FLAGS.steps)
  root = jax.random.key(FLAGS.seed)
  keys = [jax.random.fold_in(root, i)[None] for i in range(FLAGS.num_samples)]
  spent = common.cost(method, grid)
  with output.folder(FLAGS.output, overwrite=FLAGS.overwrite) as folder:
    with progress.Bar(1.0) as bar:
      drawn = bench.restore(
        keys,
        method,
        prior,
        None,
        grid,
        chunk=FLAGS.batch_size,
        mesh=common.mesh(FLAGS),
        progress=bar.part(1.0, method.name),
      )
    marking.require_finite(method.name, drawn.images)
    pictures = [samples[0] for samples in drawn.images]
    digits = len(str(len(pictures) - 1))
    files = [f"{i:0{digits}d}.png" for i in range(len(pictures))]
    for file, picture in zip(files, pictures):
      images.write(folder / file, picture)
    images.write_pillow(folder / "grid.png", sheet.grid(pictures[:GRID_PICTURES]))
    results = {
      **common.provenance(FLAGS, "sample"),
      "method": common.describe(method),
      "network_evaluations": spent.evaluations,
      "compile_seconds": drawn.compile_seconds,
      "run_seconds": drawn.run_seconds,
      "clipped_fraction": images.clipped_fraction(np.stack(pictures)),
      "files": files,
    }
    output.write_json(folder / output.RESULTS, results)
  print(
    f"{len(pictures)} pictures of {images.by(pictures[0].shape)} pixels, {spent.evaluations} network evaluations each, "
    f"{drawn.run_seconds:.1f} s (and {drawn.compile_seconds:.1f} s to compile): {FLAGS.output}"
  )


if __name__ == "__main__":
  run_module(main, FLAGS)
