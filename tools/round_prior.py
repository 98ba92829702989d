"""Round the weights of a prior to float16, so that its folder is half as large; loaded, they are float32 again.

usage: python tools/round_prior.py --prior=FOLDER --output=FOLDER [--overwrite]

The network computes in float32 as before, with weights that are a relative 2^-11 away at most (those below 6e-5, an
absolute 3e-8). Measure what that costs: `diffinv evaluate --measures=denoising`.
"""

import dataclasses

import jax
import numpy as np
from absl import app, flags, logging

from diffinv import errors
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint

LARGEST = float(np.finfo(np.float16).max)


def rounded(prior: Prior) -> Prior:
  """Return a prior with every weight at its nearest float16, as float32.

  Raises:
    ValueError: a weight is too large for float16.
  """
  largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(prior.params))
  if largest > LARGEST:
    raise ValueError(f"--prior: expected weights of at most {LARGEST:g}, got {largest:g}; keep it in float32")
  return dataclasses.replace(
    prior, params=jax.tree.map(lambda v: np.asarray(v).astype(np.float16).astype(np.float32), prior.params)
  )


def main(argv: list[str]) -> None:
  """Round and write."""
  del argv
  logging.set_verbosity(logging.WARNING)
  values = flags.FLAGS
  try:
    checkpoint.check_free(values.output, overwrite=values.overwrite)
    description, config = checkpoint.load_description(values.prior)
    prior = rounded(checkpoint.load_prior(values.prior))
  except (ValueError, OSError) as error:
    raise app.UsageError(errors.one_line(error)) from None
  written = checkpoint.save_prior(values.output, prior, config, description["provenance"], overwrite=values.overwrite)
  print(f"wrote {written}")


if __name__ == "__main__":
  flags.DEFINE_string("prior", None, "Prior folder, or a name in checkpoints/.", required=True)
  flags.DEFINE_string("output", None, "Prior folder to write.", required=True)
  flags.DEFINE_boolean("overwrite", False, "Replace an existing prior folder.")
  app.run(main)
