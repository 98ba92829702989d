"""Show a comparison as one page, to look at in a browser.

usage: diffinv report RUN [--output=FILE]

RUN is the folder that `diffinv compare` wrote, or is still writing. The page holds everything that it shows and loads
nothing, so it can be sent by mail or kept beside a paper.
"""

import pathlib

from absl import flags

from diffinv import errors
from diffinv.apps import flags as flagging
from diffinv.apps.main import run_module
from diffinv.report import page as report

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt()  # flags may come after RUN
flagging.define_path(FLAGS, "run", None, "Folder of the comparison; RUN without the flag is the same.")
flagging.define_path(FLAGS, "output", None, f"Page to write. Not set: {report.PAGE} in RUN.")
flags.DEFINE_boolean(
  "overwrite", False, "Replace a file that is there; a page in RUN is made anew without it.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
  """Read, write, report."""
  del argv
  if not FLAGS.run:
    raise errors.UsageError("RUN is missing: expected the folder of a comparison, as diffinv report out/compare")
  if FLAGS.output is not None and pathlib.Path(FLAGS.output).suffix.lower() not in (".html", ".htm"):
    raise errors.UsageError(f"--output: expected a name that ends in .html, got {FLAGS.output!r}")
  path = report.write(FLAGS.run, FLAGS.output, overwrite=FLAGS.overwrite)
  print(f"{path.stat().st_size / 1e6:.1f} MB: {path}")


if __name__ == "__main__":
  run_module(main, FLAGS)
