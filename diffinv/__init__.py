"""diffinv: inverse imaging problems with a diffusion model as the prior.

A measurement y = A(x) + n of a picture x is inverted by running the reverse process of a diffusion model and pulling
it toward y on the way. README.md has the commands; `diffinv.methods` the methods, a file each.
"""

import importlib
from typing import Any

# Where the public names live. Loaded when first used, so that the command's help does not wait for JAX.
_PUBLIC = {
  "METHODS": "diffinv.methods",
  "OPERATORS": "diffinv.operators",
  "Evaluation": "diffinv.studies.evaluate",
  "Problem": "diffinv.problems",
  "Restoration": "diffinv.studies.restoration",
  "Results": "diffinv.studies.results",
  "Search": "diffinv.studies.tune",
  "Study": "diffinv.studies.study",
  "TASKS": "diffinv.tasks",
  "Task": "diffinv.tasks",
  "TrainConfig": "diffinv.training.config",
  "compare": "diffinv.studies.compare",
  "evaluate": "diffinv.studies.evaluate",
  "load_prior": "diffinv.priors.folder",
  "read_results": "diffinv.studies.results",
  "restore": "diffinv.studies.restore",
  "sample": "diffinv.sampler",
  "sample_batch": "diffinv.batch",
  "simulate": "diffinv.problems",
  "train": "diffinv.training.run",
  "tune": "diffinv.studies.tune",
  "write_report": "diffinv.report.page",
}

__all__ = list(_PUBLIC)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'diffinv' has no attribute {name!r}")
  return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
