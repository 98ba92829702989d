"""Draw the contact sheet of procedural faces in the README.

usage: python tools/draw_faces.py --output=docs/faces.png [--count=64] [--size=64] [--seed=5]
"""

import jax
import numpy as np
from absl import app, flags

from diffinv.data import faces, images, sheet

OUTPUT = flags.DEFINE_string("output", None, "PNG to write.", required=True)
COUNT = flags.DEFINE_integer("count", 64, "Faces.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 64, "Edge of a face, pixels.", lower_bound=16)
SEED = flags.DEFINE_integer("seed", 5, "Seed of the faces.")


def main(argv: list[str]) -> None:
  """Draw and write."""
  del argv
  keys = jax.random.split(jax.random.key(SEED.value), COUNT.value)
  drawn = jax.jit(jax.vmap(lambda key: faces.render(key, SIZE.value)))(keys)
  images.write_pillow(OUTPUT.value, sheet.grid(list(np.asarray(drawn))))


if __name__ == "__main__":
  app.run(main)
