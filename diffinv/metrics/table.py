"""The marks of a restoration, one row each: everything that shows, sums up or searches a mark reads it here.

To add a metric, write a function and a row of MARKS. Rows of a comparison, their summary, the tables in a terminal and
on the page, the criteria of a search and the captions of sheets follow.

A mark's function takes a picture `[h, w, c]` on [-1, 1] and returns a number, []. That of several independent samples
takes `[K, h, w, c]` and may return a value for each pixel, of which the mean is the mark. Both take, by name, the parts
of the Evidence that the row needs. A mark whose evidence is missing is left out: no PSNR without a truth. Functions run
under `vmap`, those of a picture also under `jit`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffinv.metrics import image, uncertainty
from diffinv.metrics.perceptual import LPIPS
from diffinv.problems import Problem

HIGH, LOW, ONE = "high", "low", "one"  # what is better; "one": what is nearer to 1
SAMPLE, PICTURE, RUN = "sample", "picture", "run"  # what there is one number for; of samples, a row holds a list
SINGLE = "single"  # computed from one sample
MEAN = "mean"  # from the mean of all samples
BEST = "best"  # from the sample of the smallest residual, which is chosen without the truth
SEVERAL = "several"  # from independent samples
COST = "cost"  # not from pictures: the study counts or times it
PAGE, TERMINAL, SHEET, CRITERION = "page", "terminal", "sheet", "criterion"  # where marks are shown or used

SSIM_PIXELS = 2 * image.SSIM_RADIUS + 1  # smaller pictures have no SSIM
MAX_LEVELS = 9  # nominal coverages in a row, at most
FAR = 1e9  # what 0 is from 1: in JSON and in HTML there are no infinities


class Evidence(NamedTuple):
  """What a mark may look at besides the picture itself."""

  problem: Problem  # the measurement, its operator and its noise
  truth: jax.Array | None = None  # [h, w, c], [-1, 1]; None where it is not known
  lpips: LPIPS | None = None  # None without its weights


class Mark(NamedTuple):
  """A row of the table."""

  key: str  # in rows.jsonl and results.json
  title: str
  unit: str
  better: str  # HIGH, LOW or ONE
  digits: int | None  # decimals; None for three significant digits
  meaning: str  # what a person reads who does not know the title
  compute: Callable[..., jax.Array] | None = None  # see the module; None for a cost
  needs: tuple[str, ...] = ("truth",)  # fields of Evidence, which are arguments of `compute`
  per: str = SAMPLE
  of: str = SINGLE
  shown: tuple[str, ...] = (PAGE, TERMINAL, CRITERION)  # nowhere: the mark is in rows, and not summed up
  heading: str | None = None  # in a terminal; None: title and unit
  highlight: str | None = None  # what the page calls the winner; None: there is no word for it at the top
  derived: bool = False  # whether there are marks of the mean and of the best sample, too
  pixels: int = 1  # the least height and width of a picture that has it
  scale: float = 1  # from what rows hold to `unit`
  levels: Callable[[int], Sequence[float]] | None = None  # of a curve: nominal levels, from the number of samples

  @property
  def head(self) -> str:
    """The heading of its column in a terminal."""
    return f"{self.title} {self.unit}".rstrip() if self.heading is None else self.heading

  @property
  def several(self) -> bool:
    """Whether only several samples have it."""
    return self.of in (MEAN, BEST, SEVERAL)

  def measure(self, pictures: jax.Array, evidence: Evidence) -> jax.Array:
    """Compute the mark of a picture, or of several samples; see the module."""
    assert self.compute is not None, self.key
    return self.compute(pictures, **{name: getattr(evidence, name) for name in self.needs})

  def rank(self, value: float) -> float:
    """Return what is smaller for a better value."""
    return {HIGH: -value, LOW: value, ONE: from_one(value)}[self.better]

  def best(self, values: Iterable[float | None]) -> int | None:
    """Return the number of the best value, the first of equals; None where none is finite."""
    known = [(self.rank(v), i) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    return min(known)[1] if known else None


def from_one(value: float) -> float:
  """Return how far a ratio is from 1: twice as much and half as much are equally far."""
  return abs(math.log(value)) if value > 0 else FAR


def psnr(picture: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the PSNR of a picture as a file holds it, dB, []."""
  return image.psnr(image.to_unit(picture), image.to_unit(truth))


def ssim(picture: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the SSIM of a picture as a file holds it, []."""
  return image.ssim(image.to_unit(picture), image.to_unit(truth))


def distance(picture: jax.Array, truth: jax.Array, lpips: LPIPS) -> jax.Array:
  """Return the LPIPS of a picture as a file holds it, []."""
  return lpips(jnp.clip(picture, -1.0, 1.0), truth)


def residual_norm(picture: jax.Array, problem: Problem) -> jax.Array:
  """Return ||y - A(x)||, []."""
  return jnp.sqrt(jnp.sum(problem.residual(picture) ** 2))


def chi2(picture: jax.Array, problem: Problem) -> jax.Array:
  """Return the chi-square of the residual over the number of values, []."""
  return problem.chi2(picture)


def coverage(samples: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the part of the truth's values within the central interval of each of the `levels`, [levels]."""
  return uncertainty.coverage(samples, truth, levels(samples.shape[0]))


def levels(count: int) -> tuple[float, ...]:
  """Return the levels that `count` samples can tell, at most MAX_LEVELS of them, evenly."""
  found = uncertainty.central_levels(count)
  return found[:: -(-len(found) // MAX_LEVELS)]


MARKS = (
  Mark(
    *("psnr", "PSNR", "dB", HIGH, 2, "Peak signal-to-noise ratio against the truth, mean over samples", psnr),
    shown=(PAGE, TERMINAL, SHEET, CRITERION),
    highlight="Best PSNR",
    derived=True,
  ),
  Mark(
    *("ssim", "SSIM", "", HIGH, 3, "Structural similarity with the truth, mean over samples", ssim),
    shown=(PAGE, TERMINAL, SHEET, CRITERION),
    highlight="Best SSIM",
    derived=True,
    pixels=SSIM_PIXELS,
  ),
  Mark(
    *("lpips", "LPIPS", "", LOW, 3, "Learned perceptual distance from the truth, mean over samples", distance),
    needs=("truth", "lpips"),
    shown=(PAGE, TERMINAL),
    highlight="Best LPIPS",  # no criterion: a search is given no weights
  ),
  Mark(
    *("chi2", "χ²", "", ONE, 2, "Misfit to the measurement in units of its noise; 1 where the residual is noise", chi2),
    needs=("problem",),
    shown=(PAGE, TERMINAL, SHEET),  # no criterion: bad pictures may fit the measurement as well
    heading="chi2",
  ),
  Mark(
    *("residual_norm", "Residual", "", LOW, None, "Norm of the residual, by which the best sample is chosen"),
    compute=residual_norm,
    needs=("problem",),
    shown=(),
  ),
  Mark(
    *(
      "crps",
      "CRPS",
      "",
      LOW,
      None,
      "Continuous ranked probability score of the samples, on [-1, 1]",
      uncertainty.crps,
    ),
    per=PICTURE,
    of=SEVERAL,
    shown=(PAGE,),  # no criterion: see `uncertainty.crps` for what it misses
    highlight="Best CRPS",
  ),
  Mark(
    *("coverage", "Coverage", "", ONE, 2, "Part of the truth that lies within credible intervals", coverage),
    per=PICTURE,
    of=SEVERAL,
    shown=(),  # the page draws it
    levels=levels,
  ),
  Mark(
    *("evaluations", "Evaluations", "", LOW, 0, "Network evaluations of one chain"),
    per=RUN,
    of=COST,
    shown=(PAGE,),
  ),
  Mark(
    *("gradients", "Gradients", "", LOW, 0, "Gradients through the network of one chain"),
    per=RUN,
    of=COST,
    shown=(PAGE,),
  ),
  Mark(
    *("seconds", "Time", "s", LOW, None, "Seconds for a picture, all its samples, without compilation"),
    per=PICTURE,
    of=COST,
    shown=(PAGE,),
    highlight="Fastest",
  ),
  Mark(
    *("peak_bytes", "Memory", "MiB", LOW, 0),
    "Peak memory of a step on each device, all its chains that run at once",
    per=RUN,
    of=COST,
    shown=(PAGE,),
    scale=2.0**-20,
  ),
)


def marks() -> tuple[Mark, ...]:
  """Return all marks in their order: MARKS, and those of the mean and of the best sample that are derived from them."""
  single = [mark for mark in MARKS if mark.of == SINGLE]
  derived = [derive(mark) for derive in (of_mean, of_best) for mark in single if mark.derived]
  return (*single, *derived, *(mark for mark in MARKS if mark.of != SINGLE))


def of_mean(mark: Mark) -> Mark:
  """Return the mark of the mean of all samples."""
  return mark._replace(
    key=f"mean_{mark.key}",
    title=f"{mark.title} of mean",
    heading=f"{mark.title} of mean",
    meaning=f"{mark.title} of the mean of all samples",
    per=PICTURE,
    of=MEAN,
    shown=(PAGE, TERMINAL, CRITERION),
    highlight=None,
    derived=False,
  )


def of_best(mark: Mark) -> Mark:
  """Return the mark of the sample of the smallest residual."""
  return of_mean(mark)._replace(
    key=f"best_{mark.key}",
    title=f"{mark.title} of best",
    heading=f"{mark.title} of best",
    meaning=f"{mark.title} of the sample of the smallest residual",
    of=BEST,
    shown=(CRITERION,),
  )


def mark(key: str) -> Mark:
  """Return a mark by its key.

  Raises:
    KeyError: there is none.
  """
  return {entry.key: entry for entry in marks()}[key]


def measurable(evidence: Evidence, shape: Sequence[int], of: str = SINGLE) -> tuple[Mark, ...]:
  """Return the marks that pictures of `shape`, [h, w, c], have with this evidence."""
  there = {name for name, value in evidence._asdict().items() if value is not None}
  return tuple(m for m in marks() if m.of == of and there.issuperset(m.needs) and min(shape[:2]) >= m.pixels)


def summed() -> list[Mark]:
  """Return the marks that are averaged over pictures: numbers in rows that are shown somewhere."""
  return [mark for mark in marks() if mark.per != RUN and mark.shown and mark.levels is None]


def criteria() -> list[Mark]:
  """Return the marks that a search may choose by."""
  return [mark for mark in marks() if CRITERION in mark.shown]


def quality() -> list[Mark]:
  """Return the marks of quality that the page has a column for."""
  return [mark for mark in marks() if PAGE in mark.shown and mark.of != COST]


def cost() -> list[Mark]:
  """Return the costs that the page has a column for."""
  return [mark for mark in marks() if PAGE in mark.shown and mark.of == COST]


def terminal() -> tuple[list[Mark], list[Mark]]:
  """Return the columns of a terminal's tables: those that are always there, and those that a table may lack."""
  found = [mark for mark in marks() if TERMINAL in mark.shown]
  always = [mark for mark in found if mark.of == SINGLE and "lpips" not in mark.needs]
  return always, [mark for mark in found if mark not in always]
