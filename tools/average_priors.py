"""Average the weights of unconditional priors that were trained from one another, or from the same prior.

usage: python tools/average_priors.py --priors=FOLDER,FOLDER,... --output=FOLDER [--overwrite]

Such weights tend to lie in one basin, where their mean is better than any of them: Izmailov et al., "Averaging Weights
Leads to Wider Optima and Better Generalization", UAI 2018, arXiv 1803.05407; Wortsman et al., "Model soups", ICML
2022, arXiv 2203.05482. The mean of runs that began apart is useless; measure the result (`diffinv evaluate`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from diffinv import errors
from diffinv.priors import folder as checkpoint

PRIORS = flags.DEFINE_list("priors", None, "Prior folders, or names in checkpoints/: two or more.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Prior folder to write.", required=True)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing prior folder.")
# Entries of the provenance that say nothing about the mean of several runs.
OF_ONE_RUN = ("validation_loss", "validation_psnr", "weights_of_step", "steps", "commit", "init")


def average(names: Sequence[str]) -> tuple[Any, Any, dict[str, Any]]:
  """Return the prior with the mean of the weights, its network's config and its provenance.

  The provenance is that of the last prior as far as data and settings go, with the largest number of images that any
  prior saw, and lists the provenance of all priors as "average_of".

  Raises:
    ValueError: the priors differ in more than their weights.
    FileNotFoundError: there is no such prior.
  """
  descriptions, configs = zip(*map(checkpoint.load_description, names))
  first = descriptions[0]
  for name, other in zip(names[1:], descriptions[1:]):
    for field in checkpoint.FIELDS:
      if field not in ("provenance", "digests") and other[field] != first[field]:
        raise ValueError(f"{name}: expected the {field} of {names[0]}, {first[field]}, got {other[field]}")
  priors = [checkpoint.load_prior(name) for name in names]
  mean = lambda *leaves: np.mean(np.stack(leaves), axis=0, dtype=np.float64).astype(leaves[0].dtype)
  prior = dataclasses.replace(priors[-1], params=jax.tree.map(mean, *(p.params for p in priors)))
  provenances = [description["provenance"] for description in descriptions]
  last = {name: value for name, value in provenances[-1].items() if name not in OF_ONE_RUN}
  seen = max(p.get("images_seen", 0) for p in provenances)
  return prior, configs[0], {**last, "images_seen": seen, "average_of": provenances}


def main(argv: list[str]) -> None:
  """Average and write."""
  del argv
  logging.set_verbosity(logging.WARNING)
  if len(PRIORS.value) < 2:
    raise app.UsageError(f"--priors: expected two or more, got {','.join(PRIORS.value)}")
  try:
    checkpoint.check_free(OUTPUT.value, overwrite=OVERWRITE.value)
    prior, config, provenance = average(PRIORS.value)
  except (ValueError, OSError) as error:
    raise app.UsageError(errors.one_line(error)) from None
  print(f"wrote {checkpoint.save_prior(OUTPUT.value, prior, config, provenance, overwrite=OVERWRITE.value)}")


if __name__ == "__main__":
  app.run(main)
