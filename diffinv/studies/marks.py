"""What a restored picture is marked with: its quality beside the truth, and how it explains its measurement.

The truth comes in here, after every method has done its work.
"""

from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import text
from diffinv.antithetic import halves
from diffinv.data import images
from diffinv.metrics import image as metrics
from diffinv.metrics import uncertainty
from diffinv.metrics.perceptual import LPIPS
from diffinv.problems import Problem

SSIM_PIXELS = 2 * metrics.SSIM_RADIUS + 1  # smaller images have no SSIM
MAX_LEVELS = 9  # nominal coverages in a row, at most
DIVERGED = 100.0  # of pictures on [-1, 1]: no restoration, however bad


def failure(samples: np.ndarray) -> str | None:
  """Say how many chains of one image, `[samples, h, w, c]`, left the numbers that are pictures; None where none did."""
  unbounded = int(np.sum(~np.all(np.abs(samples) < DIVERGED, axis=(1, 2, 3))))  # of NaN, too
  lost = int(np.sum(~np.all(np.isfinite(samples), axis=(1, 2, 3))))
  what = "NaN or infinity" if lost else f"values beyond {DIVERGED:g}"
  count = lost or unbounded
  return f"{what} in {count} of {len(samples)} chains; its steps are too large, lower them" if count else None


def require_finite(name: str, images: Sequence[np.ndarray]) -> None:
  """Check the pictures of a method, `[samples, h, w, c]` each.

  Raises:
    ValueError: a chain left the finite numbers.
  """
  for samples in images:
    if reason := failure(samples):
      raise ValueError(f"{name}: expected finite pictures, got {reason}")


def scores(problem: Problem, pictures: np.ndarray, truth: np.ndarray | None) -> list[dict[str, float]]:
  """Return PSNR and SSIM against the truth (where known) and the residual's norm and chi-square, per picture.

  `pictures`: `[n, h, w, c]`. PSNR and SSIM are of the pictures as files hold them, clipped to [-1, 1].
  """
  table = jax.device_get(_scores(problem, jnp.asarray(pictures), None if truth is None else jnp.asarray(truth)))
  clipped = [images.clipped_fraction(picture) for picture in pictures]
  return [
    {**{name: float(column[i]) for name, column in table.items()}, "clipped_fraction": clipped[i]}
    for i in range(len(pictures))
  ]


@jax.jit
def _scores(problem, pictures, truth):
  def one(x):
    entry = {"residual_norm": jnp.sqrt(jnp.sum(problem.residual(x) ** 2)), "chi2": problem.chi2(x)}
    if truth is not None:
      unit, reference = metrics.to_unit(x), metrics.to_unit(truth)
      entry["psnr"] = metrics.psnr(unit, reference)
      if min(x.shape[:2]) >= SSIM_PIXELS:
        entry["ssim"] = metrics.ssim(unit, reference)
    return entry

  return jax.vmap(one)(pictures)


def spread(pictures: np.ndarray, *, antithetic: bool = False) -> np.ndarray | None:
  """Return the standard deviation of samples `[samples, h, w, c]`, `[h, w, c]`; None where none are independent.

  `antithetic`: the samples are of `antithetic.pairs`; the variance is the mean over both halves.
  """
  sets = _independent(jnp.asarray(pictures), antithetic)
  if sets is None:
    return None
  return np.asarray(jnp.sqrt(jnp.mean(jax.vmap(uncertainty.posterior_std)(sets) ** 2, axis=0)))


def _independent(samples, antithetic):
  """Return sets of independent samples, `[sets, n, ...]`; None where n would be 1."""
  sets = halves(samples) if antithetic else samples[None]
  return sets if sets.shape[1] > 1 else None


def marks(
  problem: Problem,
  pictures: np.ndarray,
  truth: np.ndarray,
  lpips: LPIPS | None = None,
  *,
  antithetic: bool = False,
) -> dict[str, Any]:
  """Return the marks of one image's samples `[samples, h, w, c]`: a list per mark, and what several samples tell.

  LPIPS where it is given, of the pictures clipped to [-1, 1].

  With several: PSNR and SSIM of their mean picture, and of the sample of the smallest residual, which is chosen without
  the truth; the fair CRPS (mean over values, on [-1, 1]); and the part of the truth's values within central credible
  intervals of given nominal coverage. The last two need independent samples: of `antithetic` pairs they are the means
  over both halves, from four samples on.
  """
  single, samples, reference = scores(problem, pictures, truth), jnp.asarray(pictures), jnp.asarray(truth)
  entry: dict[str, Any] = {name: [mark[name] for mark in single] for name in single[0]}
  if lpips is not None:
    entry["lpips"] = [float(value) for value in _distances(lpips, samples, reference)]
  if len(pictures) == 1:
    return entry
  mean = scores(problem, np.asarray(uncertainty.posterior_mean(samples))[None], truth)[0]
  best = single[int(np.argmin(entry["residual_norm"]))]
  for name in ("psnr", "ssim"):
    entry |= {f"{which}_{name}": mark[name] for which, mark in (("mean", mean), ("best", best)) if name in mark}
  sets = _independent(samples, antithetic)
  if sets is None:
    return entry
  entry["crps"] = float(jnp.mean(jax.vmap(lambda one: uncertainty.crps(one, reference))(sets)))
  levels = uncertainty.central_levels(sets.shape[1])
  levels = levels[:: -(-len(levels) // MAX_LEVELS)]
  covered = jnp.mean(jax.vmap(lambda one: uncertainty.coverage(one, reference, levels))(sets), axis=0)
  return entry | {"coverage": {"levels": list(levels), "empirical": [float(part) for part in covered]}}


@jax.jit
def _distances(lpips, pictures, truth):
  return jax.vmap(lambda x: lpips(jnp.clip(x, -1.0, 1.0), truth))(pictures)


def caption(found: dict[str, float]) -> tuple[str, ...]:
  """Return the lines under a restored picture on a sheet: PSNR and SSIM where the truth is known, else chi-square."""
  if "psnr" not in found:
    return (f"chi2 {text.number(found['chi2'], 2)}",)
  return (f"{text.number(found['psnr'], 2)} dB   {text.number(found.get('ssim'), 3)}",)
