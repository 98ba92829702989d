"""Turn a PyTorch checkpoint into a prior: `diffinv convert` as a script, for a clone that is not installed."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from diffinv.apps import convert
from diffinv.apps.main import run_module

if __name__ == "__main__":
  run_module(convert.main, convert.FLAGS)
