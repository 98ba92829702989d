"""The PSNR of E[x0 | x_t] on held-out images at four noise levels.

Beside the network are the Gaussians fitted to the same training images (`diffinv.priors.spectral`) and `natural`. The
fitted Gaussian's mirror form is the strong one; the periodic one is strictly stationary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import priors
from diffinv.data import held_out
from diffinv.priors import AnyPrior
from diffinv.schedules import level_at
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import GAUSSIAN, PERIODIC, Subject

NOISE_KEY = 1  # folded into the seed
SBARS = (0.1, 0.3, 1.0, 3.0)  # sigma / alpha
MARGINS = {"photos": (2.5, 3.0, 2.0, 1.7), "faces": (None, 4.0, 4.0, None)}  # dB over the periodic Gaussian: the aim


def measure(subject: Subject) -> Measured:
  """Measure the PSNR of the denoised held-out images at every level."""
  x0 = subject.held_out(held_out.DENOISING, subject.config.num_images)
  contestants: dict[str, AnyPrior] = {"network": subject.prior, **subject.gaussians, "natural": priors.natural()}
  errors = {name: np.stack([squared_errors(p, subject, x0, s) for s in SBARS]) for name, p in contestants.items()}
  pooled = {name: 10 * np.log10(4.0 / e.mean(axis=1)) for name, e in errors.items()}
  single = {name: (10 * np.log10(4.0 / e)).mean(axis=1) for name, e in errors.items()}
  note = f"{len(x0)} held-out images; fitted to {subject.config.fit_images} training images"
  tables = [
    _table(f"PSNR of the mean squared error, dB ({note})", pooled, subject.training.source),
    _table("Mean over images of their PSNR, dB", single, subject.training.source),
  ]
  return Measured({"sbar": SBARS, "psnr_pooled": pooled, "psnr_mean": single, "images": len(x0)}, tables)


def squared_errors(prior: AnyPrior, subject: Subject, x0: np.ndarray, sbar: float) -> np.ndarray:
  """Return each image's mean squared error of E[x0 | x_t], clipped, [n]; the noise is the same for every prior."""
  return np.mean((np.clip(denoise(prior, subject, x0, sbar), -1.0, 1.0) - x0) ** 2, axis=(1, 2, 3))


def denoise(prior: AnyPrior, subject: Subject, x0: np.ndarray, sbar: float) -> np.ndarray:
  """Return E[x0 | x_t] of images with noise of the level `sbar`, [n, h, w, c]."""
  keys = jax.random.split(jax.random.fold_in(jax.random.key(subject.config.seed), NOISE_KEY), len(x0))
  level = level_at(subject.prior.schedule, jnp.float32(sbar))
  return np.asarray(_denoise(keys, prior, jnp.asarray(x0), level, subject.config.batch_size))


@functools.partial(jax.jit, static_argnums=4)
def _denoise(keys, prior, x0, level, batch_size):
  def one(args):
    key, x0 = args
    return prior.denoise(level.alpha * x0 + level.sigma * jax.random.normal(key, x0.shape), level).x0

  return jax.lax.map(one, (keys, x0), batch_size=batch_size)


def _table(title: str, results: dict[str, np.ndarray], data: str) -> Table:
  """Lay out dB by level, and the network's lead over the fitted Gaussians beside the aim."""
  rows = [[name, *values] for name, values in results.items()]
  rows.append([f"lead over the {GAUSSIAN}", *(results["network"] - results[GAUSSIAN])])
  rows.append(["lead over the periodic one", *(results["network"] - results[PERIODIC])])
  if data in MARGINS:
    rows.append(["aim", *MARGINS[data]])
  return Table(title, ["sbar", *(f"{s:g}" for s in SBARS)], rows, [2] * len(SBARS))
