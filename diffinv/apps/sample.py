"""Draw pictures from a prior.

usage: diffinv sample --output=FOLDER [--prior=NAME|FOLDER] [--num_samples=N] [--sampler=ddpm|ddim|dpm_solver]

Writes every picture, all of them as grid.png, and results.json. Until all pictures are finished, those that are lie in
OUTPUT.running; after a stop the same command goes on from there.
"""

from absl import flags

from diffinv.apps import flags as flagging
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.data import images
from diffinv.studies.draw import Drawing, draw_all

CONFIG = Drawing
FLAGS = flags.FlagValues()
flagging.define(FLAGS, CONFIG)
shared.define_output(FLAGS, running="drawing")


def main(argv: list[str]) -> None:
  """Draw, print what it took."""
  del argv
  shared.require(FLAGS, "output", "the folder to write")
  config = flagging.make(FLAGS, CONFIG)
  shared.keep_compiled(FLAGS)
  results = draw_all(config, FLAGS.output, overwrite=FLAGS.overwrite, restart=FLAGS.restart)
  print(
    f"{len(results['files'])} pictures of {images.by(results['shape'])} pixels, {results['network_evaluations']} "
    f"network evaluations each, {results['run_seconds']:.1f} s (and {results['compile_seconds']:.1f} s to compile): "
    f"{FLAGS.output}"
  )


if __name__ == "__main__":
  run_module(main, FLAGS)
