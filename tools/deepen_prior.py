"""Add residual blocks to the network of a prior without changing what it computes, to train it further.

usage: python tools/deepen_prior.py --prior=NAME --blocks=N --middle_blocks=N --output=FOLDER [--overwrite]

A new block is x + 0: its last convolution is zero, as in a network that was never trained. With `--init=FOLDER`
`diffinv train` goes on from where the smaller network was, after Chen et al., "Net2Net", ICLR 2016, arXiv 1511.05641.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from flax import traverse_util

from diffinv import errors
from diffinv.nets import small
from diffinv.priors import arrays
from diffinv.priors import folder as checkpoint

PRIOR = flags.DEFINE_string("prior", None, "Prior to deepen: a name or a folder.", required=True)
BLOCKS = flags.DEFINE_integer("blocks", None, "Blocks a level that it is to have.", required=True, lower_bound=1)
MIDDLE_BLOCKS = flags.DEFINE_integer("middle_blocks", None, "The same, at the coarsest.", required=True, lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the new weights.")
OUTPUT = flags.DEFINE_string("output", None, "Prior folder to write.", required=True)
OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace an existing prior folder.")


def deepen(name: str, blocks: int, middle_blocks: int, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
  """Return the deeper prior, its network's config and its provenance.

  Raises:
    ValueError: the prior has another kind of network, attention, or more blocks than that.
    FileNotFoundError: there is no such prior.
  """
  description, config = checkpoint.load_description(name)
  if not isinstance(config, small.SmallConfig) or config.attention:
    raise ValueError(f"{name}: expected a small network without attention, got another")
  if blocks < config.blocks or middle_blocks < config.middle_blocks:
    raise ValueError(f"{name}: expected at least its {config.blocks} and {config.middle_blocks} blocks, got fewer")
  deeper = dataclasses.replace(config, blocks=blocks, middle_blocks=middle_blocks)
  prior, new = checkpoint.load_prior(name), small.initialize(jax.random.key(seed), deeper)
  # The last convolution of a new block is near zero, and is made zero here.
  added = {path: jnp.zeros_like(v) if "conv2" in path else v for path, v in arrays.flat(new).items()}
  params = traverse_util.unflatten_dict({**added, **arrays.flat(prior.params)}, sep="/")
  made = description["provenance"]
  counts = {"blocks": blocks, "middle_blocks": middle_blocks}
  provenance = {**made, "settings": {**made.get("settings", {}), **counts}, "deepened_from": description["network"]}
  return dataclasses.replace(prior, params=params, apply=small.apply_function(deeper)), deeper, provenance


def main(argv: list[str]) -> None:
  """Deepen and write."""
  del argv
  logging.set_verbosity(logging.WARNING)
  try:
    checkpoint.check_free(OUTPUT.value, overwrite=OVERWRITE.value)
    prior, config, provenance = deepen(PRIOR.value, BLOCKS.value, MIDDLE_BLOCKS.value, SEED.value)
  except (ValueError, OSError) as error:
    raise app.UsageError(errors.one_line(error)) from None
  print(f"wrote {checkpoint.save_prior(OUTPUT.value, prior, config, provenance, overwrite=OVERWRITE.value)}")


if __name__ == "__main__":
  app.run(main)
