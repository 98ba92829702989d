"""Measure a trained prior against the Gaussian of the same data, the analytic prior and classical methods.

usage: diffinv evaluate --prior=NAME|FOLDER --output=FOLDER [--measures=denoising,calibration,...]

Each measure writes NAME.md and NAME.json into the folder, with the command that made them:

  denoising    PSNR of E[x0 | x_t] on held-out images at four noise levels
  calibration  slope of x0 over E[x0 | x_t], coarse and fine, from little noise to pure noise: 1 for a posterior mean;
               above it the network says too little, and samples lose contrast, below it too much
  sampling     sliced Wasserstein distances of samples to held-out images, and a sheet of samples; of faces
  restoration  a comparison with the prior and one with `natural` (folders with pages), and on the same measurements
               Wiener filters, total variation and interpolation
  speed        milliseconds of a DPS step

The prior is one that `diffinv train` made: its prior.json says what was held out. Of photos these are crops of two
photographs, of faces new renders, of a folder the files that training held back, in turn for restoration and for the
choice of the weight of total variation. After a stop the same command goes on with the restorations where they were.
"""

from absl import flags

from diffinv.apps import flags as flagging
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.report import page
from diffinv.studies.evaluate import evaluate
from diffinv.studies.evaluation.subject import Evaluation

CONFIG = Evaluation
FLAGS = flags.FlagValues()
flagging.define(FLAGS, CONFIG)
shared.define_output(FLAGS, replaced="measure")


def main(argv: list[str]) -> None:
  """Measure, write the pages of the comparisons, print the tables."""
  del argv
  shared.require(FLAGS, "output", "the folder to write into")
  config = flagging.make(FLAGS, CONFIG)
  shared.keep_compiled(FLAGS)
  found = evaluate(config, FLAGS.output, overwrite=FLAGS.overwrite)
  for folder in found.comparisons:
    page.write(folder)
  print(found.text())


if __name__ == "__main__":
  run_module(main, FLAGS)
