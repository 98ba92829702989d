"""The slope of x0 over E[x0 | x_t], coarse and fine, from little noise to pure noise.

A posterior mean D is orthogonal to its error, E[D (x0 - D)] = 0, so that x0 regressed on it has the slope 1. Above 1
the network says too little, and samples lose contrast; below 1 it says too much. Squared errors hardly show it: at high
noise D varies little.
"""

import numpy as np

from diffinv import errors
from diffinv.data import held_out
from diffinv.metrics import distances
from diffinv.studies.evaluation.denoising import denoise
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import COARSE, GAUSSIAN, Subject

SBARS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # sigma / alpha


def check(subject: Subject) -> None:
  """Check that the blocks of the coarse part fill the images.

  Raises:
    UsageError: they do not.
  """
  if subject.training.size % COARSE:
    raise errors.UsageError(
      f"`measures=calibration` needs images of a multiple of {COARSE} pixels, got {subject.training.size}"
    )


def measure(subject: Subject) -> Measured:
  """Measure the slopes of the network and of the fitted Gaussian at every level, with their standard errors."""
  x0 = subject.held_out(held_out.DENOISING, subject.config.num_images)
  found, rows = {}, []
  for name, prior in (("network", subject.prior), (GAUSSIAN, subject.gaussians[GAUSSIAN])):
    slopes = [slopes_of(x0, denoise(prior, subject, x0, sbar)) for sbar in SBARS]
    found[name] = {part: [level[part] for level in slopes] for part in slopes[0]}
    for part, pairs in found[name].items():
      rows += [[f"{name}, {part}", *(slope for slope, _ in pairs)], ["its standard error", *(e for _, e in pairs)]]
  title = f"Slope of x0 over E[x0 | x_t] ({len(x0)} held-out images; coarse: means of {COARSE}x{COARSE} pixels)"
  table = Table(title, ["sbar", *(f"{s:g}" for s in SBARS)], rows, [3] * len(SBARS))
  return Measured({"sbar": SBARS, "slopes": found}, [table])


def slopes_of(x0: np.ndarray, denoised: np.ndarray) -> dict[str, tuple[float, float]]:
  """Return the slope of x0 over D with its standard error over the images, of the coarse and of the fine part.

  Args:
    x0: the images, [n, h, w, c].
    denoised: D, of the same shape.
  """
  x, d = (each - each.mean(axis=0) for each in (x0.astype(np.float64), denoised.astype(np.float64)))
  x_coarse, d_coarse = (np.asarray(distances.reduced(each, x0.shape[1] // COARSE), np.float64) for each in (x, d))
  inner = lambda a, b: np.sum(a * b, axis=tuple(range(1, a.ndim)))
  coarse = np.stack([inner(x_coarse, d_coarse), inner(d_coarse, d_coarse)]) * COARSE**2
  found = {}
  # The two parts are orthogonal: the products of the fine one are what the coarse one leaves of the whole.
  for part, (products, squares) in {"coarse": coarse, "fine": np.stack([inner(x, d), inner(d, d)]) - coarse}.items():
    slope = products.sum() / squares.sum()
    found[part] = (slope, float(np.sqrt(np.sum((products - slope * squares) ** 2))) / squares.sum())  # delta method
  return found
