"""What a restoration tells about its own inputs, in sentences: of chi2, of a mask, of a kernel.

Good restorations draw none of the sentences about chi2. Its limits are what restorations of every task reached with the
shipped priors and methods, at the tasks' noise and at less: good pictures had 0.1 to 4.2, of deblurring 0.6 to 1.2, and
kernels that were turned around 1.3 to 17. The less noise there is, the more of it stays in a good picture, unseen: of
little, nothing is said. Few values scatter more: limits lie at least SCATTER standard errors from 1.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from diffinv.problems import Problem
from diffinv.studies.measurement import NOTHING, Given
from diffinv.tasks import Task

TOO_SMALL = 0.05  # no method that weighs noise and prior came below
VISIBLE = 0.04  # standard deviation of noise, on [-1, 1], from which a picture should not hold it
TOO_LARGE = 5.0
TOO_LARGE_BLUR = 1.5  # a blur leaves out detail alone, which a restoration need not find to fit
SCATTER = 5.0  # standard errors of a mean of m squares of noise, sqrt(2 / m) each
FOUND = (
  "the blur was estimated, and no chi2 vouches for it, as a wrong one may fit as well; where edges ring or are double, "
  "say with `blur` what you know of it"
)
SHOWN = 3  # pictures that a sentence names


def notes(
  problem: Problem,
  marks: Mapping[str, float],
  *,
  task: Task,
  y: np.ndarray | None = None,
  given: Given = NOTHING,
  found: bool = False,
) -> list[str]:
  """Return what there is to say about a restored picture, a sentence each; options stand in backticks.

  Args:
    problem: the measurement.
    marks: of the picture, with its `chi2`.
    task: that the measurement is of.
    y: the real measurement as it was read, with what it holds outside the mask; None where a photograph was measured,
      so that nothing about its measurement can be wrong.
    given: what was said of how it was measured.
    found: whether its blur was not, and was estimated.
  """
  about_mask = [] if given.mask is None else mask_notes(problem, y)
  if len(about_mask) > 1:  # chi2 is that of the wrong pixels
    return about_mask
  about_blur = [FOUND] if found else []
  return [*about_mask, *fit_notes(problem, marks.get("chi2"), task, y is not None, given, found), *about_blur]


def mask_notes(problem: Problem, y: np.ndarray | None) -> list[str]:
  """Say how much a mask keeps, and that it looks inverted where all that was measured lies outside it."""
  kept = np.asarray(problem.operator.mask)[..., 0] > 0  # type: ignore[attr-defined]  # of operators that take a mask
  what = "pixels" if problem.operator.is_picture else "frequencies"
  share = [f"`mask` keeps {100.0 * np.mean(kept):.1f} % of the {what}"]
  if y is None or np.all(kept) or np.sum(kept) < 2:
    return share
  if _is_one_value(y[kept]) and not _is_one_value(y[~kept]):
    share.append(
      "`mask` looks inverted: the measurement is one value in all that it keeps, and varies in what it does not; "
      "swap its black and white"
    )
  return share


def found_mask(problem: Problem, path: pathlib.Path) -> str:
  """Say how much looks like scratches and dust, where that is written, and what to do with it."""
  missing = 1.0 - float(np.mean(problem.operator.mask))  # type: ignore[attr-defined]  # of operators that take a mask
  return (
    f"`mask=auto` marks {100.0 * missing:.1f} % of the pixels as scratches and dust, black in {path}; where that is "
    "wrong, edit it and give it with `mask`"
  )


def _is_one_value(values: np.ndarray) -> bool:
  """Tell whether places, `[n, c]`, all hold the same."""
  return bool(np.all(values == values[0]))


def fit_notes(
  problem: Problem, chi2: float | None, task: Task, is_real: bool, given: Given = NOTHING, found: bool = False
) -> list[str]:
  """Say what a chi2 far from 1 can mean; and of one that is not, that it says nothing for a kernel."""
  if chi2 is None or not math.isfinite(chi2) or task.noise is not None:  # most of what is rounded off is no noise
    return []
  low, high = limits(int(np.sum(np.asarray(problem.operator.observed(problem.y)) > 0)), task)
  if chi2 > high:
    return [
      f"chi2 is above {high:.3g}: the restoration does not explain the measurement{_why_large(task, is_real, found)}"
    ]
  if chi2 < low and float(problem.mean_variance()) >= VISIBLE**2:
    sigma = "; or `sigma` is larger than the noise is: lower it" if is_real else ""
    return [
      f"chi2 is below {low:.3g}: the picture holds noise of the measurement: try another `method` or `quality`{sigma}"
    ]
  if is_real and given.kernel is not None:
    return [
      "a chi2 near 1 does not vouch for `kernel`, as a wrong one may fit as well; where edges ring or are double, try "
      "it turned by 180 degrees"
    ]
  return []


def _why_large(task: Task, is_real: bool, found: bool) -> str:
  if not is_real:
    return ", and the method is at fault, as all else is known: try another `method` or `quality`"
  known = {
    "kernel": "`kernel` (which convolves: turn it by 180 degrees if it was made to correlate), the edges (which are "
    "reflected) or `sigma`",
    "mask": "`mask` or `sigma`",
    None: "`task` or `sigma`",
  }[task.given]
  known = "the blur that was found or `sigma`" if found else known
  return f"; {known} is not that of the measurement, or the method does not follow it: try another `method`"


def limits(count: int, task: Task) -> tuple[float, float]:
  """Return between what the chi2 of a restoration lies of which there is nothing to say, by the number of values."""
  scatter = SCATTER * math.sqrt(2.0 / max(count, 1))
  largest = TOO_LARGE_BLUR if task.given == "kernel" else TOO_LARGE
  return min(TOO_SMALL, 1.0 - scatter), max(largest, 1.0 + scatter)


def collected(found: Mapping[str, Sequence[str]]) -> list[str]:
  """Return the sentences about all pictures, each once, with the pictures that it is about."""
  about: dict[str, list[str]] = {}
  for name, sentences in found.items():
    for sentence in sentences:
      about.setdefault(sentence, []).append(name)
  return [f"{_names(names)}: {sentence}" for sentence, names in about.items()]


def _names(names: Sequence[str]) -> str:
  more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
  return f"{', '.join(names[:SHOWN])}{more}"
