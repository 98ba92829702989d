"""Methods on the mixture of 25 modes: sliced W1 from the exact posterior, beside exact samples, an oracle, a prior."""

import functools
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import noise
from diffinv.methods.cases import MixtureCase, Reference
from diffinv.methods.unconditional import DDPM
from diffinv.problems import Problem
from diffinv.verification import mixture
from diffinv.verification.rows import Row, Size, failed
from diffinv.verification.sampling import mixture_chains

DIMENSION, MEASURED, ROWS = 8, (1, 2, 4), 4  # d, each d_y, and the rows that all problems are padded to
MIXTURE_STEPS = 100
DIRECTIONS = 200


REFERENCE_PROBLEMS = 20
# Of the same run as the references that methods declare.
ORACLE_REFERENCE = Reference((0.24, 0.11, 0.05), (0.06, 0.05, 0.00))
PRIOR_REFERENCE = Reference((8.17, 10.09, 11.20), (1.21, 0.81, 0.93))
LEVEL_Z = 4.0  # standard errors between our problems and the reference's: levels, no more
ORACLE_FACTOR = 2.0  # a sampler of the exact score lies within this factor of the oracle
SAME = 0.02  # relative: W1 of methods that agree but for rounding, chains of the same keys


def stacked(values):
  """Join trees of float64 arrays into one of the default float type, with a leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, jnp.float32) for leaf in leaves]), *values)


class Benchmark:
  """The problems of the mixture, their exact samples, and the distances found so far; float32."""

  def __init__(self, size: Size, seed: int):
    """Store what to draw; nothing is drawn until the first row."""
    self._size, self._seed = size, seed
    self._found: dict[str, np.ndarray] = {}  # sliced W1, [d_y] each

  @functools.cached_property
  def _problems(self):
    return [mixture.instance(i, DIMENSION, d_y) for d_y in MEASURED for i in range(self._size.instances)]

  @functools.cached_property
  def _posteriors(self):
    return [problem.posterior() for problem in self._problems]

  def _exact(self, which, laws):
    """Draw exact samples of each law, `[samples, d]`."""
    rng = np.random.RandomState([self._seed, which])
    return [mixture.sample(rng, law, self._size.samples) for law in laws]

  @functools.cached_property
  def _reference(self):
    return self._exact(0, self._posteriors)

  def _distances(self, sets):
    """Return the sliced W1 of sets of samples from the exact posteriors, a mean over problems for each d_y."""
    directions = mixture.unit_directions(0, DIMENSION, DIRECTIONS)
    pairs = zip(sets, self._reference)
    w1 = [mixture.sliced_w1(np.asarray(got, np.float64), exact, directions) for got, exact in pairs]
    return np.reshape(w1, (len(MEASURED), self._size.instances)).mean(axis=1)

  def _sampled(self, methods, laws):
    """Return the distances of the samples of a method, built for each problem."""
    problems = [Problem(p.operator(ROWS), noise.Gaussian(p.sigma), mixture.padded(p.y, ROWS)) for p in self._problems]
    grids = [mixture.grid(p, MIXTURE_STEPS) for p in self._problems]
    keys = jax.random.split(jax.random.key(self._seed), len(problems))
    drawn = [law.prior() for law in laws]
    built = stacked(methods)
    sets = mixture_chains(self._size.samples, keys, built, stacked(drawn), stacked(problems), stacked(grids))
    return self._distances(np.asarray(sets))

  def references(self) -> list[Row]:
    """Return the rows of exact samples and of the exact posterior score."""
    self._found["floor"] = self._distances(self._exact(1, self._posteriors))
    self._found["prior"] = self._distances(self._exact(2, [problem.law for problem in self._problems]))
    self._found["oracle"] = self._sampled([DDPM((DIMENSION,))] * len(self._problems), self._posteriors)
    allowed = ORACLE_FACTOR * np.maximum(ORACLE_REFERENCE.mean, self._found["floor"])
    level = {"level": np.all(self._found["oracle"] <= allowed)}
    return [
      _row("floor", "exact samples", self._found["floor"]),
      _row("oracle", "exact posterior score", self._found["oracle"], level, ORACLE_REFERENCE),
    ]

  def row(self, name: str, case: MixtureCase) -> Row:
    """Return the row of the method `name`; after `references`."""
    laws = [problem.law for problem in self._problems]
    self._found[name] = self._sampled(list(map(case.build, laws)), laws)
    holds = order(self._found[name], case, self._found, self._size)
    return _row(name, case.settings, self._found[name], holds, case.reference, case.note)

  def prior_row(self) -> Row:
    """Return the row of exact samples of the prior; after `references`."""
    w1 = self._found["prior"]
    level = {"level": np.all(np.abs(level_z(w1, PRIOR_REFERENCE, self._size)) < LEVEL_Z)}
    return _row("prior", "no measurement", w1, level, PRIOR_REFERENCE)


def level_z(w1: np.ndarray, reference: Reference, size: Size) -> np.ndarray:
  """Return by how many standard errors distances differ from the reference's, for each d_y."""
  mean, error = np.array(reference.mean), np.array(reference.error)
  spread = error / 1.96 * np.sqrt(REFERENCE_PROBLEMS)  # between problems
  return (w1 - mean) / (spread * np.sqrt(1 / REFERENCE_PROBLEMS + 1 / size.instances))


def order(w1: np.ndarray, case: MixtureCase, found: Mapping[str, np.ndarray], size: Size) -> dict[str, bool]:
  """Return what must hold of a method's distances: above the oracle's, below the prior's, near its reference's.

  Args:
    w1: of the method, for each d_y.
    case: of the method.
    found: the distances of the oracle, of the prior and of the methods before.
    size: how many problems there are.
  """
  if case.same_for_one is not None:  # only one measurement is held to a bound
    other = found.get(case.same_for_one)
    agrees = other is None or abs(w1[0] / other[0] - 1) < SAME
    return {"below the prior": bool(w1[0] < found["prior"][0]), f"equals {case.same_for_one}": bool(agrees)}
  holds = {"above the oracle": bool(np.all(w1 > found["oracle"])), "below the prior": bool(np.all(w1 < found["prior"]))}
  if case.reference is not None:
    holds["level"] = bool(np.all(np.abs(level_z(w1, case.reference, size)) < LEVEL_Z))
  return holds


def _row(name, settings, w1, holds=types.MappingProxyType({}), reference=None, note=""):
  values = {"w1": w1.tolist()}
  if reference is not None:
    values |= {"reference": list(reference.mean), "reference_error": list(reference.error)}
  return Row("mixture", name, settings, values, failed(holds), note)
