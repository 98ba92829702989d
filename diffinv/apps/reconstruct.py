"""Restore pictures: simulated measurements of them, or real measurements.

usage: diffinv reconstruct --input=PHOTO --task=TASK --output=FOLDER [--quality=QUALITY | --method=METHOD]
       diffinv reconstruct --measurement=Y --task=TASK --output=FOLDER [--mask=MASK | --kernel=KERNEL]

The first measures a photograph and restores it, with the truth to compare. The second restores what was measured. Both
write per picture NAME.png (NAME-00.png, ... and their mean NAME-mean.png for several samples), NAME-measurement.png,
NAME-measurement.npy (every digit), the mask or kernel if there is one, NAME-sheet.png with all of these side by side,
and results.json. Until all pictures are finished, those that are lie in OUTPUT.running, and in its folder "unfinished"
what the one that runs looks like so far; after a stop the same command goes on from there, within a picture too.

chi2 is the misfit to the measurement in units of its noise, 1 where what is left is noise. Far above, the task, the
mask, the kernel or --sigma is not that of the measurement, or the method does not follow it; far below, the picture
holds noise, or --sigma is too large. A wrong kernel may still fit. Notes below the table, and in results.json, tell.
"""

from typing import Any

from absl import flags

from diffinv import errors, text
from diffinv.apps import flags as flagging
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.launch import Launch, joined
from diffinv.studies import marks, restore, restored
from diffinv.studies.restoration import Restoration

CONFIG = Restoration
FLAGS = flags.FlagValues()
flagging.define(FLAGS, CONFIG, helps={"set": "Hyper-parameter of the method, name=value. Repeatable."})
shared.define_output(FLAGS, running="restoration")
flagging.define(FLAGS, Launch)


def main(argv: list[str]) -> None:
  """Restore, print a line a picture."""
  del argv
  shared.require(FLAGS, "output", "the folder to write")
  config = flagging.make(FLAGS, CONFIG)
  with joined(flagging.make(FLAGS, Launch)) as team:
    shared.keep_compiled(FLAGS)
    results = restore.restore_all(config, FLAGS.output, overwrite=FLAGS.overwrite, restart=FLAGS.restart, team=team)
  if team.index:
    shared.print_shared(team)
    return
  print_report(results)
  failed = restored.failures(results["images"])
  if failed:
    name, reason = results["method"]["name"], next(iter(failed.values()))
    pictures = ", ".join(failed)
    raise ValueError(
      f"{name}: expected finite pictures, got {reason} for {pictures}; the other pictures are in {FLAGS.output}"
    )


def print_report(results: dict[str, Any]) -> None:
  """Print a line per picture; with several samples, of their mean."""
  rows = []
  for entry in results["images"]:
    if "failed" in entry:
      continue
    cells = marks.cells(entry.get("mean", entry["samples"][0]))
    rows.append([entry["name"], *cells, text.number(entry["run_seconds"], 1)])
  print(text.table(["picture", *marks.headings(), "seconds"], rows))
  for line in results.get("notes", []):
    print(f"note: {errors.as_flags(line)}")
  method = results["method"]
  several = f", mean of {method['averaged']}" if "averaged" in method else ""
  print(
    f"{method['name']}{several}: {results['network_evaluations']} network evaluations and "
    f"{results['network_gradients']} gradients a sample, "
    f"{results['compile_seconds']:.1f} s to compile: {FLAGS.output}"
  )


if __name__ == "__main__":
  run_module(main, FLAGS)
