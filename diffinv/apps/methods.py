"""List the methods: the operators they work with, the cost of 100 steps at the default settings, and the source.

usage: diffinv methods

Evaluations are calls of the network, gradients are backward passes through it; a gradient costs about two calls more.
Below the methods are restorations without a network, which `diffinv compare` puts beside them.
"""

from absl import flags

from diffinv import text
from diffinv.apps.main import run_module
from diffinv.baselines import BASELINES
from diffinv.methods import METHODS, needs
from diffinv.schedules import Schedule
from diffinv.studies import entrants

STEPS = 100

FLAGS = flags.FlagValues()


def main(argv: list[str]) -> None:
  """Print the table."""
  del argv
  grid = Schedule("linear").grid(STEPS)
  rows = []
  for name, method in METHODS.items():
    spent = entrants.cost(method(), grid)
    rows.append([name, method.title, needs(method), str(spent.evaluations), str(spent.gradients), method.citation])
  others = [[name, baseline.title, baseline.needs, baseline.citation] for name, baseline in BASELINES.items()]
  print(text.table(["method", "title", "operators", "evaluations", "gradients", "source"], rows))
  print()
  print(text.table(["without a network", "title", "for", "source"], others))


if __name__ == "__main__":
  run_module(main, FLAGS)
