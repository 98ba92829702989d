"""Checks of every method against laws that are known exactly: no weights, no pictures, no reference runs.

A method does not sample the posterior; it samples a law of its own. For a Gaussian prior and a linear operator most of
these laws are known: each method's class declares its cases. Three tables:

  gaussian   On the problem G3, the linear schedule, 100 steps. Per method: its steps as affine maps and the differences
             of samples of one key (exact, float64); the mean and the covariance of independent chains by chi-square
             tests; and the coverage of its 90 % intervals over truths drawn from the prior, beside the coverage that
             its law predicts.
  scalar     In one dimension, methods or priors that are not Gaussian: mean, variance and a probability beside the
             digits of a quadrature.
  mixture    25 modes in 8 dimensions (`diffinv.verification.mixture`): sliced W1 between samples and the exact
             posterior, beside that of exact samples (the floor), of a sampler with the exact posterior score (the
             oracle) and of the prior. A smoke test: it checks levels and their order, not digits.

A method that gives the mean of the posterior, and no samples, is held against that mean under both priors, in the first
table. If a method has no exact law, its row says what is checked instead, and its note why.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from diffinv import errors
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.methods.cases import Case, Descent, Mean, MixtureCase
from diffinv.verification import gaussian, modes, scalar
from diffinv.verification.rows import FULL, QUICK, TABLES, Row, Size

__all__ = ["FULL", "QUICK", "TABLES", "Part", "Report", "Row", "Size", "run", "total_work"]

Report = Callable[[str, float], None]  # is given the name of what begins, and its work


class Part(NamedTuple):
  """A piece of the work."""

  name: str
  work: float  # as a multiple of a compilation
  rows: Callable[[], list[Row]]


def run(
  methods: Sequence[str | type[Method]] = tuple(METHODS),
  *,
  size: Size = FULL,
  seed: int = 0,
  report: Report = lambda name, work: None,
) -> Iterator[Row]:
  """Check methods; give the rows of the tables one by one, as they are known.

  Args:
    methods: names of METHODS, or classes.
    size: how much is drawn.
    seed: of the chains; the problems are fixed.
    report: is given the name of what is checked next, and its share of `total_work(methods, size)`.

  Raises:
    UsageError: a method declares nothing to hold it against.
  """
  return _rows(_plan(methods, size, seed), report)


def total_work(methods: Sequence[str | type[Method]], size: Size) -> float:
  """Return the sum of the work that `run` reports.

  Raises:
    UsageError: a method declares nothing to hold it against.
  """
  return sum(part.work for part in _plan(methods, size, 0))


def _rows(plan, report):
  for part in plan:
    report(part.name, part.work)
    yield from part.rows()


def _plan(methods, size, seed):
  """Return the parts of the work, in their order."""
  chosen = _classes(methods)
  key, benchmark = jax.random.key(seed), modes.Benchmark(size, seed)
  on_mixture = [_on_mixture(method, case, benchmark) for method, case in mixture_cases(chosen, size)]
  own = [
    *(_on_gaussian(method, case, size, key) for method in chosen for case in gaussian_cases(method, size)),
    *(_in_one_dimension(method, case, size, key) for method in chosen for case in scalar_cases(method, size)),
  ]
  _check_covered(chosen, [*own, *on_mixture])
  references = Part("oracle", 4.0, benchmark.references)
  return [*own, references, *on_mixture, Part("prior", 0.1, lambda: [benchmark.prior_row()])]


def _classes(methods):
  """Return the classes of methods, those of METHODS first and in its order."""
  given = {METHODS[method] if isinstance(method, str) else method: None for method in methods}
  known = [method for method in METHODS.values() if method in given]
  return [*known, *(method for method in given if method not in known)]


def _check_covered(methods, parts):
  """Check that something is checked of every method: "all rows hold" must not be said of nothing."""
  covered = {part.name for part in parts}
  missing = [method.name for method in methods if method.name not in covered]
  if missing:
    raise errors.UsageError(
      f"`methods`: expected methods that declare a case, got {', '.join(missing)} with none; "
      "declare one in its class (cases), or leave the method out"
    )


def _on_gaussian(method, case, size, key):
  if isinstance(case, Descent):
    return Part(method.name, 1.0, lambda: [gaussian.descent_row(method.name, case, key)])
  if isinstance(case, Mean):
    return Part(method.name, 1.0, lambda: [gaussian.mean_row(method.name, case)])
  work = 2.0 if size.everything else 1.0
  return Part(method.name, work, lambda: [gaussian.gaussian_row(method.name, case, size, key)])


def _in_one_dimension(method, case, size, key):
  return Part(method.name, 1.0, lambda: [scalar.scalar_row(method.name, case, size.scalar_chains, key)])


def _on_mixture(method, case, benchmark):
  return Part(method.name, 4.0, lambda: [benchmark.row(method.name, case)])


def gaussian_cases(method: type[Method], size: Size) -> tuple[Case | Descent | Mean, ...]:
  """Return every case of a method, or the first."""
  return method.cases() if size.everything else method.cases()[:1]


def scalar_cases(method: type[Method], size: Size) -> tuple:
  """Return the cases of a method in one dimension, if there is such a table."""
  return method.scalar_cases() if size.scalar_chains else ()


def mixture_cases(methods: Sequence[type[Method]], size: Size) -> list[tuple[type[Method], MixtureCase]]:
  """Return the methods on the mixture: those with a reference first, those compared with another method last."""
  cases = [(method, case) for method in methods if (case := method.mixture_case()) is not None]
  if not size.everything:
    return [(method, case) for method, case in cases if case.reference is not None]
  return sorted(cases, key=lambda pair: (pair[1].reference is None, pair[1].same_for_one is not None))
