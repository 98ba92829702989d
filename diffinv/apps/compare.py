"""Restore the same measurements with several methods, and compare.

usage: diffinv compare --output=FOLDER [--data=PHOTO|FOLDER|photos|faces] [--tasks=TASK,...] [--methods=METHOD,...]

Every method gets the same measurements and the same seeds; none sees the truth. A line per finished picture goes to
OUTPUT.running/rows.jsonl; after a stop the same command goes on where it was. At the end the folder is called OUTPUT
and holds report.html (open it), results.json, a contact sheet per picture and pictures/: the truth, the measurements,
every restored picture, their mean and standard deviation where there are several, and how they came about.
"""

import pathlib

from absl import flags

from diffinv import errors
from diffinv.apps import flags as flagging
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.launch import Launch, joined
from diffinv.report import page
from diffinv.studies.compare import compare
from diffinv.studies.results import Results
from diffinv.studies.study import Study

CONFIG = Study
FLAGS = flags.FlagValues()
SET_HELP = "Hyper-parameter of a method, METHOD.name=value, or its METHOD.steps=N. Repeatable."
flagging.define(FLAGS, CONFIG, helps={"set": SET_HELP})
shared.define_output(FLAGS, running="comparison")
flagging.define(FLAGS, Launch)
flags.DEFINE_alias("input", "data", flag_values=FLAGS)
flags.DEFINE_boolean("report", True, "Write report.html at the end.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
  """Compare, write the page, print the table."""
  del argv
  shared.require(FLAGS, "output", "the folder to write")
  study = flagging.make(FLAGS, CONFIG)
  with joined(flagging.make(FLAGS, Launch)) as team:
    shared.keep_compiled(FLAGS)
    results = compare(study, FLAGS.output, overwrite=FLAGS.overwrite, restart=FLAGS.restart, team=team)
    if FLAGS.report and team.index == 0:
      with errors.interruption(f"{results.folder} is complete but for its page, which the same command writes"):
        page.write(results.folder)
  if team.index == 0:
    print_results(results)
  else:
    shared.print_shared(team)


def print_results(results: Results) -> None:
  """Print the table, what it does not show, and where the rest is."""
  print(results.table())
  for line in results.remarks():
    print(errors.as_flags(line))
  compiling = sum(record.get("compile_seconds") or 0.0 for record in results.records)
  print(f"{compiling:.0f} s to compile; pictures: {FLAGS.output}")
  if FLAGS.report:
    print(f"open {pathlib.Path(FLAGS.output) / page.PAGE}")


if __name__ == "__main__":
  run_module(main, FLAGS)
