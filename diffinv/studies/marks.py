"""The marks of restored pictures: their quality against the truth, and how they fit the measurement.

Methods never see the truth; it comes in here, after they have done their work. What is computed is declared in
`diffinv.metrics.table`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import text
from diffinv.antithetic import halves
from diffinv.data import images
from diffinv.metrics import table, uncertainty
from diffinv.metrics.perceptual import LPIPS
from diffinv.problems import Problem

DIVERGED = 100.0  # beyond this, pictures on [-1, 1] are no restorations, however bad


def failure(samples: np.ndarray) -> str | None:
  """Say how many chains of one image, `[samples, h, w, c]`, ran away; None where none did."""
  unbounded = int(np.sum(~np.all(np.abs(samples) < DIVERGED, axis=(1, 2, 3))))  # counts NaN, too
  lost = int(np.sum(~np.all(np.isfinite(samples), axis=(1, 2, 3))))
  what = "NaN or infinity" if lost else f"values beyond {DIVERGED:g}"
  count = lost or unbounded
  return f"{what} in {count} of {len(samples)} chains; its steps are too large, lower them" if count else None


def require_finite(name: str, images: Sequence[np.ndarray]) -> None:
  """Check the pictures of a method, `[samples, h, w, c]` each.

  Raises:
    ValueError: a chain ran away; see `failure`.
  """
  for samples in images:
    if reason := failure(samples):
      raise ValueError(f"{name}: expected finite pictures, got {reason}")


def scores(
  problem: Problem, pictures: np.ndarray, truth: np.ndarray | None, lpips: LPIPS | None = None
) -> list[dict[str, float]]:
  """Return the marks of each picture by key: those of the measurement and, where the truth is known, of quality.

  Args:
    problem: the measurement.
    pictures: `[n, h, w, c]`, [-1, 1]. Quality is that of the pictures as files hold them, clipped.
    truth: `[h, w, c]`, [-1, 1], or None.
    lpips: the weights of LPIPS; None for no LPIPS.

  Returns:
    for each picture, its marks and `clipped_fraction`, the part of its values that files clip.
  """
  evidence = table.Evidence(problem, None if truth is None else jnp.asarray(truth), lpips)
  chosen = table.measurable(evidence, pictures.shape[1:])
  columns = jax.device_get(_single(chosen, evidence, jnp.asarray(pictures)))
  clipped = [images.clipped_fraction(picture) for picture in pictures]
  return [
    {**{name: float(column[i]) for name, column in columns.items()}, "clipped_fraction": clipped[i]}
    for i in range(len(pictures))
  ]


@functools.partial(jax.jit, static_argnums=0)
def _single(chosen, evidence, pictures):
  return jax.vmap(lambda picture: {mark.key: mark.measure(picture, evidence) for mark in chosen})(pictures)


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
  """Return the marks of one image's samples `[samples, h, w, c]`, as a row of a comparison holds them.

  A mark of a sample is a list with a number for each. Several samples have further marks: those of their mean, those
  of the sample of the smallest residual, and those of independent samples, such as the CRPS. Coverage is a curve,
  `{"levels", "empirical"}`. Of `antithetic` pairs the marks of independent samples are means over both halves, from
  four samples on.
  """
  single = scores(problem, pictures, truth, lpips)
  entry: dict[str, Any] = {name: [mark[name] for mark in single] for name in single[0]}
  if len(pictures) == 1:
    return entry
  samples = jnp.asarray(pictures)
  derived = [mark for mark in table.MARKS if mark.derived and mark.key in entry]
  weights = lpips if any("lpips" in mark.needs for mark in derived) else None
  mean = scores(problem, np.asarray(uncertainty.posterior_mean(samples))[None], truth, weights)[0]
  best = single[int(np.argmin(entry["residual_norm"]))]
  for mark in derived:
    entry[table.of_mean(mark).key], entry[table.of_best(mark).key] = mean[mark.key], best[mark.key]
  sets = _independent(samples, antithetic)
  return entry if sets is None else entry | _of_sets(problem, sets, truth)


def of_one(entry: Mapping[str, Any]) -> dict[str, Any]:
  """Return the marks of the mean and of the best sample where all samples are one picture: its own.

  Args:
    entry: from `marks`, of that picture.
  """
  own = {mark: entry[mark.key][0] for mark in table.MARKS if mark.derived and mark.key in entry}
  return {of(mark).key: value for mark, value in own.items() for of in (table.of_mean, table.of_best)}


def _of_sets(problem: Problem, sets: jax.Array, truth: np.ndarray) -> dict[str, Any]:
  """Return the marks of sets of independent samples, `[sets, n, h, w, c]`: the mean over the sets."""
  evidence = table.Evidence(problem, jnp.asarray(truth))
  entry: dict[str, Any] = {}
  for mark in table.measurable(evidence, truth.shape, table.SEVERAL):
    values = jax.vmap(lambda samples, mark=mark: mark.measure(samples, evidence))(sets)
    if mark.levels is None:
      entry[mark.key] = float(jnp.mean(values))
    else:
      found = [float(part) for part in jnp.mean(values, axis=0)]
      entry[mark.key] = {"levels": list(mark.levels(sets.shape[1])), "empirical": found}
  return entry


def caption(marks: Mapping[str, float]) -> tuple[str, ...]:
  """Return the lines under a restored picture on a sheet: its quality where the truth is known, else its fit."""
  shown = [mark for mark in table.marks() if table.SHEET in mark.shown]
  quality = [mark for mark in shown if "truth" in mark.needs]
  if any(mark.key in marks for mark in quality):
    values = [f"{text.number(marks.get(mark.key), mark.digits)} {mark.unit}".rstrip() for mark in quality]
  else:
    values = [f"{mark.head} {text.number(marks.get(mark.key), mark.digits)}" for mark in shown if mark not in quality]
  return ("   ".join(values),)


def headings() -> list[str]:
  """Return the headings of `cells`."""
  return [mark.head for mark in table.terminal()[0]]


def cells(marks: Mapping[str, float]) -> list[str]:
  """Return the marks of one picture as cells of a table in a terminal."""
  return [text.number(marks.get(mark.key), mark.digits) for mark in table.terminal()[0]]
