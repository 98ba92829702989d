"""Search a method's hyper-parameters for tasks, on pictures that are not those of the test.

usage: diffinv tune --prior=PRIOR --data=FOLDER|SET --tasks=TASK,... --methods=METHOD,... --output=NAME.json

Restores validation pictures with every combination of the searched values, one compiled sweep for all numbers, and
writes those of the highest mean mark into a copy of the prior's settings: a file that --settings takes. The held-out
sets give their validation pictures here and their test pictures to `diffinv compare`: at one --size they share none. Of
a folder both take the same files: give them different ones.

With --num_samples=K the mark may be that of the mean picture of K samples, or of the sample whose residual is smallest,
which needs no truth. A line per finished candidate goes to NAME.json.running/rows.jsonl; after a stop the same command
goes on where it was.
"""

from absl import flags

from diffinv import errors
from diffinv.apps import flags as flagging
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.methods import METHODS
from diffinv.studies.study import VALIDATION_IMAGES
from diffinv.studies.tune import Search, tune
from diffinv.tasks import TASKS

CONFIG = Search
FLAGS = flags.FlagValues()
HELPS = {
  "set": "Fixed hyper-parameter of a method, METHOD.name=value, or METHOD.steps=N. Repeatable.",
  "data": "Photographs: files, a folder, or held-out pictures of a set, photographs, photos or faces; required.",
  "tasks": f"Tasks, of {', '.join(TASKS)}; required.",
  "methods": f"Methods, of {', '.join(METHODS)}; required.",
  "num_images": f"Pictures to use, the first so many. Not set: all, {VALIDATION_IMAGES} of a held-out set.",
}
flagging.define(FLAGS, CONFIG, defaults={"tasks": None, "methods": None}, helps=HELPS)
shared.define_output(FLAGS, what="Settings file NAME.json", replaced="file", running="search")


def main(argv: list[str]) -> None:
  """Search, write the settings, print what is best."""
  del argv
  shared.require(FLAGS, "output", "the settings file to write")
  shared.require(FLAGS, "data", "pictures to tune on: photographs, photos, faces, or a folder that is no test set")
  shared.require(FLAGS, "tasks", f"some of {', '.join(TASKS)}")
  shared.require(FLAGS, "methods", f"some of {', '.join(METHODS)}")
  config = flagging.make(FLAGS, CONFIG)
  shared.keep_compiled(FLAGS)
  tuned = tune(config, FLAGS.output, overwrite=FLAGS.overwrite, restart=FLAGS.restart)
  print(tuned.table())
  for line in tuned.remarks():
    print(errors.as_flags(line))
  print(f"pass --settings={FLAGS.output} to the other commands")
  for name, steps in tuned.unusual_steps().items():
    print(f"and --steps={steps}, or --set={name}.steps={steps} to compare: what was found for {name} is for these")


if __name__ == "__main__":
  run_module(main, FLAGS)
