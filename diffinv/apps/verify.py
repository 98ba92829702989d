"""Hold every method against laws that are known exactly; needs no weights and no pictures.

usage: diffinv verify [--quick] [--methods=NAME,...] [--seed=N] [--output=FILE.json]

Prints three tables with a verdict a row and ends with exit code 1 if a check fails:

  gaussian  A method's own law for a Gaussian prior, not the posterior, which few methods sample. step, gain: errors
            of its steps as affine maps and of differences of samples of one key. mean: the worst coordinate's error
            in standard errors. p mean, p cov: chi-square tests of the chains' mean and covariance. coverage: of 90 %
            intervals of 19 draws, per coordinate, as the law predicts and as found; its worst error in standard
            errors. --quick leaves out step and all but one setting of each method.
  scalar    One dimension, against a quadrature: errors in standard errors. Not with --quick.
  mixture   25 modes in 8 dimensions with 1, 2 and 4 measurements: sliced W1 from the exact posterior, between floor
            (exact samples) and prior (no measurement). A smoke test of levels. With --quick only DPS and DDRM.

A method that declares no case is refused.
"""

import dataclasses

from absl import flags

from diffinv import errors, files, options, output, progress, text
from diffinv.apps import flags as flagging
from diffinv.apps.main import run_module
from diffinv.methods import METHODS
from diffinv.options import MAX_SEED, option
from diffinv.studies.study import named_methods
from diffinv.verification import tables as verify


@dataclasses.dataclass(frozen=True)
class Verification:
  """What is verified, and how."""

  quick: bool = option(False, "Draw less and leave out what takes long; half a minute.")
  methods: tuple[str, ...] = option(tuple(METHODS), "Methods to check, separated by commas.")
  seed: int = option(0, "Seed of the chains.", low=0, high=MAX_SEED)

  def __post_init__(self) -> None:
    options.check(self)
    for name in named_methods(self.methods):  # which tells names that there are not
      if name not in METHODS:
        raise errors.UsageError(f"`methods`: expected some of {', '.join(METHODS)}, got {name!r}, which has no law")


CONFIG = Verification
FLAGS = flags.FlagValues()
flagging.define(FLAGS, CONFIG)
flagging.define_path(FLAGS, "output", None, "JSON file to write the numbers to. Not set: none.")
flags.DEFINE_boolean("overwrite", False, "Replace an existing output file.", flag_values=FLAGS)

TITLES = {
  "gaussian": "A Gaussian prior in 3 dimensions, 2 measurements: each method against its own exact law",
  "scalar": "One dimension: each method against a quadrature, in standard errors",
  "mixture": "25 modes in 8 dimensions: sliced W1 from the exact posterior with 1, 2 and 4 measurements",
}


def main(argv: list[str]) -> None:
  """Check, print, report."""
  del argv
  config = flagging.make(FLAGS, CONFIG)
  path = FLAGS.output
  if path:
    output.check_file(path, overwrite=FLAGS.overwrite)
  size = verify.QUICK if config.quick else verify.FULL
  with progress.Bar(verify.total_work(config.methods, size)) as bar:
    rows = list(verify.run(config.methods, size=size, seed=config.seed, report=follow(bar)))
  for table, title in TITLES.items():
    chosen = [row for row in rows if row.table == table]
    if chosen:
      columns = COLUMNS[table]
      lines = [[entry(row) for _, entry in columns] for row in chosen]
      print(f"{title}\n\n{text.table([heading for heading, _ in columns], lines)}\n")
  failed = [row for row in rows if row.failed]
  if path:
    files.write_json(
      path,
      {"settings": dataclasses.asdict(config), "passed": not failed, "rows": [row._asdict() for row in rows]},
    )
  if failed:
    names = "; ".join(f"{row.method} ({row.settings}): {', '.join(row.failed)}" for row in failed)
    raise ValueError(f"verify: expected all checks to hold, {len(failed)} of {len(rows)} rows fail: {names}")
  print(f"all {len(rows)} rows hold")


def follow(bar: progress.Bar) -> verify.Report:
  """Return a report for `verify.run` that shows its parts on `bar`."""
  done = lambda now, total: None

  def report(name: str, work: float) -> None:
    nonlocal done
    done(1, 1)
    done = bar.part(work, name)
    done(0, 1)

  return report


# Columns of the tables: a title, and the text of a row's entry.


def number(name, form):
  """Return the entry `name` in a format; a dash if there is none."""
  return lambda row: format(row.values[name], form) if name in row.values else "-"


def several(name, form):
  """Return the numbers of the entry `name`; a dash if there is none."""
  return lambda row: " ".join(format(value, form) for value in row.values[name]) if name in row.values else "-"


def verdict(row):
  """Return ok, or what failed, and the note."""
  result = f"FAILED: {', '.join(row.failed)}" if row.failed else "ok"
  rest = [f"rests within {row.values['rest']:.1%}"] if "rest" in row.values else []
  return "; ".join([result, *rest, *([row.note] if row.note else [])])


NAMED = (("method", lambda row: row.method), ("settings", lambda row: row.settings))
COLUMNS = {
  "gaussian": (
    *NAMED,
    ("step", number("step", ".0e")),
    ("gain", number("gain", ".0e")),
    ("mean", number("mean_z", "+.1f")),
    ("p mean", number("p_mean", ".3f")),
    ("p cov", number("p_cov", ".3f")),
    ("coverage predicted", several("coverage_predicted", ".3f")),
    ("coverage found", several("coverage", ".3f")),
    ("worst", number("coverage_z", "+.1f")),
    ("verdict", verdict),
  ),
  "scalar": (
    *NAMED,
    ("mean", number("mean_z", "+.1f")),
    ("variance", number("variance_z", "+.1f")),
    ("probability", number("probability_z", "+.1f")),
    ("verdict", verdict),
  ),
  "mixture": (
    *NAMED,
    ("W1", several("w1", "6.2f")),
    ("reference", several("reference", "5.2f")),
    ("1.96 s.e.", several("reference_error", ".2f")),
    ("verdict", verdict),
  ),
}


if __name__ == "__main__":
  run_module(main, FLAGS)
