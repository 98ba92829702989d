"""What a method declares to be held against: cases, each with settings and numbers or laws that are known exactly.

A method's class returns them from `cases`, `scalar_cases` and `mixture_case`; `diffinv.verification` runs them. Methods
are built when a case runs, in the default float type of that moment.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffinv.methods import affine
from diffinv.methods.affine import Affine, Law, Linear


class Case(NamedTuple):
  """A method and its exact law for a linear-Gaussian problem."""

  settings: str
  build: Callable[[], Any]  # gives the method
  maps: Callable[[Linear], list[Affine]]  # the steps between the levels that it visits
  start: Callable[[Linear], Law] = lambda p: affine.standard(len(p.m))
  one_noise: bool = True  # a step draws one noise, so that its map can be read off
  levels: int = affine.STEPS  # noisy ones
  note: str = ""

  def law(self, p: Linear) -> Law:
    """Return the law of the result."""
    return affine.propagate(self.start(p), self.maps(p))


class Descent(NamedTuple):
  """A method that descends to a mode: it has no law, but the gradient of a step and a point of rest.

  The method has `gradient(z, x, now, prior, problem)`, the gradient at the image `x` with the noise `z`, and a norm.
  """

  settings: str
  build: Callable[[], Any]  # gives the method, with steps small enough to come to rest
  gradient: Callable[[Linear, np.ndarray, np.ndarray, float], np.ndarray]  # at an image with a noise, at alpha_bar
  rest: Callable[[Linear, float], np.ndarray]  # where the mean gradient vanishes, at alpha_bar
  note: str = ""


class Mean(NamedTuple):
  """A method that gives the posterior mean of denoising itself, and no samples; exact where the prior is."""

  settings: str
  build: Callable[[], Any]  # gives the method
  note: str = ""


class ScalarCase(NamedTuple):
  """A method in one dimension, and the digits of its law: density after density through the chain, by quadrature."""

  settings: str
  build: Callable[[], Any]
  prior: str  # "normal" or "bimodal"
  mean: float
  variance: float
  probability: float  # of a value above the prior's threshold


class Reference(NamedTuple):
  """Sliced W1 over 20 problems of 2000 samples: mean and 1.96 standard errors, for 1, 2 and 4 measurements.

  From another implementation's run of the protocol of MCGdiff, with eta .85 and other mixtures: no table of the paper.
  """

  mean: tuple[float, float, float]
  error: tuple[float, float, float]


class MixtureCase(NamedTuple):
  """A method on the mixture of 25 modes."""

  settings: str
  build: Callable[[Any], Any]  # gives the method for a `verification.mixture.Mixture`
  note: str = ""
  reference: Reference | None = None
  same_for_one: str | None = None  # a method that it equals for one measurement; for more it has no bound


def each(step: Callable[..., Affine], **settings: Any) -> Callable[[Linear], list[Affine]]:
  """Return the chain that takes `step(p, abar, prev, ...)` once at each level."""
  return lambda p: [step(p, *pair, **settings) for pair in affine.PAIRS]
