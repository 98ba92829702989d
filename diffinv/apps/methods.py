"""List the methods: what they can restore, what 100 steps cost at their default hyper-parameters, and the source.

usage: diffinv methods

Evaluations are calls of the network, gradients backward passes through it: one of these costs about two calls more.
"""

from absl import flags

from diffinv import text
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.schedules import Schedule

STEPS = 100

FLAGS = flags.FlagValues()


def problems(method: type[Method]) -> str:
  """Write for which operators the method is."""
  if method.spectral_only:
    return "linear, SVD in closed form"
  return "linear" if method.linear_only else "any differentiable"


def main(argv: list[str]) -> None:
  """Print the table."""
  del argv
  grid = Schedule("linear").grid(STEPS)
  rows = []
  for name, method in METHODS.items():
    spent = common.cost(method(), grid)
    rows.append([name, method.title, problems(method), str(spent.evaluations), str(spent.gradients), method.citation])
  print(text.table(["method", "title", "operators", "evaluations", "gradients", "source"], rows))


if __name__ == "__main__":
  run_module(main, FLAGS)
