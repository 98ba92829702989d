"""Measurement noise: frozen pytrees with `sample`, `log_prob` and `std`, in the units of what is measured.

Methods that descend toward the data use `misfit`, the log-likelihood in units of squared residuals: -2 sigma^2 (log p(y
| clean) - log p(y | y)), with sigma^2 the mean variance. Gaussian noise then gives (y - clean)^2, and step sizes mean
the same for any noise. `variance` is what the gradient divides by, the inverse of a Fisher information: grad misfit =
-2 sigma^2 (y - clean) / variance.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import options
from diffinv.pytree import pytree

PEAK = 255.0  # photons of a white pixel at rate 1: Poisson(255 rate x01) / (255 rate), DPS's convention
MIN_PHOTONS = 1.0  # a dark pixel counts as one photon, so that no weight is infinite
MIN_SIGMA, MAX_SIGMA = 1e-6, 1e3  # on [-1, 1]: their squares, and the inverses of these, are far within float32
MIN_RATE, MAX_RATE = 1e-6, 1e4
MAX_PHOTONS = 2.0**24  # float32 has every whole number up to it: 6.6 times white at the largest rate
READING = 2**31  # folded into a key for the second draw of a measurement
MIN_PART = 0.25  # of the count: below this prediction a parabola continues the log-likelihood


@pytree
class Gaussian:
  """n ~ N(0, sigma^2): sigma on [-1, 1]; a paper's 0.05 on [0, 1] is 0.1 here.

  Use `NoNoise` for noise-free data. A noise-free part of a stack takes a small positive sigma, say 1e-3, since there is
  no likelihood at sigma = 0.
  """

  sigma: jax.Array | float  # positive, [], or one for each value of y

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return clean + n, the shape of `clean`.

    Raises:
      ValueError: sigma is negative, or so large that float32 does not hold its square.
    """
    _check("sigma", self.sigma, 0.0, MAX_SIGMA)
    return clean + self.sigma * jax.random.normal(key, clean.shape, clean.dtype)

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return log p(y_i | clean_i) per value, the shape of `y`."""
    return jax.scipy.stats.norm.logpdf(y, clean, self.sigma)

  def std(self, y: jax.Array) -> jax.Array:
    """Return the standard deviation of every value, []."""
    return jnp.asarray(self.sigma, y.dtype)

  def misfit(self, y: jax.Array, clean: jax.Array, mean_variance: jax.Array) -> jax.Array:
    """Return (y - clean)^2, the shape of `y`; weighted if sigma varies from value to value."""
    squares = (y - clean) ** 2
    return squares if jnp.ndim(self.sigma) == 0 else mean_variance / self.sigma**2 * squares

  def variance(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return sigma^2, []."""
    return self.std(y) ** 2


@pytree
class Poisson:
  """Shot noise: y01 = Poisson(255 rate x01) / (255 rate), x01 = (x + 1) / 2 clipped from below at 0.

  With `read`, the Gaussian noise of reading it out is added, so that a value has the variance 4 gain x01 + read^2, gain
  = 1 / (255 rate). All but `sample` then take the sum for Poisson noise on as many more photons as have the variance of
  that Gaussian, as if light had been added and its mean subtracted.
  """

  rate: jax.Array | float  # exposure; 1 is 255 photons at white; 1e-6 to 1e4
  read: jax.Array | float | None = None  # standard deviation of the Gaussian noise, on [-1, 1]; None for none

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return a noisy measurement on [-1, 1], the shape of `clean`; NaN where there is too much light to be counted.

    Raises:
      ValueError: the rate or `read` is out of its bounds.
    """
    _check("rate", self.rate, MIN_RATE, MAX_RATE)
    expected = self._light(clean)
    photons = jax.random.poisson(key, jnp.minimum(expected, MAX_PHOTONS)).astype(clean.dtype)
    counted = jnp.where(expected <= MAX_PHOTONS, 2.0 * photons / (PEAK * self.rate) - 1.0, jnp.nan)
    return counted if self.read is None else Gaussian(self.read).sample(jax.random.fold_in(key, READING), counted)

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return log p(count_i | clean_i) per value, the shape of `y`."""
    return jax.scipy.stats.poisson.logpmf(jnp.round(self._photons(y)), jnp.maximum(self._photons(clean), 1e-6))

  def std(self, y: jax.Array) -> jax.Array:
    """Return the standard deviation of every value, estimated from its own count, the shape of `y`."""
    return 2.0 * jnp.sqrt(jnp.maximum(self._photons(y), MIN_PHOTONS)) / (PEAK * self.rate)

  def misfit(self, y: jax.Array, clean: jax.Array, mean_variance: jax.Array) -> jax.Array:
    """Return the deviance 2 (lambda - k + k log(k / lambda)) times `mean_variance`, the shape of `y`.

    k photons are counted, lambda predicted. Below lambda0 = max(k / 4, 1), where the logarithm and its gradient are
    unbounded, the deviance continues as the parabola of the same slope with its minimum at k. Its curvature is at most
    8 / k, and it still pulls up predictions below black, where the likelihood is flat.
    """
    count, floor, predicted = self._counted(y, clean)
    dark = predicted <= floor
    lit = jnp.where(dark, floor, predicted)
    logs = jnp.log(jnp.maximum(count, MIN_PHOTONS)) - jnp.log(lit)  # a count of 0 has weight 0
    deviance = 2.0 * (lit - count + count * logs)
    parabola = ((predicted - count) ** 2 - (floor - count) ** 2) / floor
    least = jnp.where(count < MIN_PHOTONS, MIN_PHOTONS, 0.0)  # the minimum for a count of 0, on the parabola
    return mean_variance * (deviance + jnp.where(dark, parabola, 0.0) - least)

  def variance(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return the variance at the predicted count, at least that of `misfit`'s lambda0, the shape of `y`."""
    _, floor, predicted = self._counted(y, clean)
    return jnp.maximum(predicted, floor) * (2.0 / (PEAK * self.rate)) ** 2

  def _light(self, x):
    return PEAK * self.rate * jnp.maximum((x + 1.0) / 2.0, 0.0)

  def _photons(self, x):
    """Return photons with those that stand for `read`, at least 0."""
    return jnp.maximum(self._signed(x), 0.0)

  def _signed(self, x):
    light = PEAK * self.rate * (x + 1.0) / 2.0
    return light if self.read is None else light + (PEAK * self.rate * self.read / 2.0) ** 2

  def _counted(self, y, clean):
    """Return k, lambda0 and lambda, which is negative below black."""
    count = jnp.round(self._photons(y))
    return count, jnp.maximum(MIN_PART * count, MIN_PHOTONS), self._signed(clean)


@pytree
class Rounding:
  """y is the nearest of the values origin + k step, k whole: a quantization's noise, uniform, but for its tails.

  As a likelihood it counts as Gaussian noise of step / sqrt(12), as large: a uniform one has no slope.
  """

  step: jax.Array  # positive, of each value: broadcasts against y
  origin: jax.Array  # a value that y can have

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return `clean` rounded; nothing is drawn."""
    del key
    return self.origin + self.step * jnp.round((clean - self.origin) / self.step)

  def nearest(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return what is nearest to `clean` of all that is rounded to `y`, the shape of `y`."""
    return jnp.clip(clean, y - self.step / 2.0, y + self.step / 2.0)

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return the logarithm of the Gaussian density per value, the shape of `y`."""
    return self._likelihood(y).log_prob(y, clean)

  def std(self, y: jax.Array) -> jax.Array:
    """Return step / sqrt(12) of every value, the shape of `y`."""
    return jnp.broadcast_to(self.step / jnp.sqrt(jnp.asarray(12.0, y.dtype)), y.shape)

  def misfit(self, y: jax.Array, clean: jax.Array, mean_variance: jax.Array) -> jax.Array:
    """Return (y - clean)^2, weighted by how fine the steps are, the shape of `y`."""
    return self._likelihood(y).misfit(y, clean, mean_variance)

  def variance(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return step^2 / 12, the shape of `y`."""
    return self._likelihood(y).variance(y, clean)

  def _likelihood(self, y):
    return Gaussian(self.std(y))


@pytree
class NoNoise:
  """y = A(x) exactly."""

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return `clean`."""
    return clean

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return 0 if y = clean, else minus infinity, per value."""
    return jnp.where(y == clean, 0.0, -jnp.inf)

  def std(self, y: jax.Array) -> jax.Array:
    """Return 0, []."""
    return jnp.zeros((), y.dtype)

  def misfit(self, y: jax.Array, clean: jax.Array, mean_variance: jax.Array) -> jax.Array:
    """Return (y - clean)^2, the shape of `y`: the limit of Gaussian noise."""
    return (y - clean) ** 2

  def variance(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return 0, []."""
    return self.std(y)


def _check(name: str, value: Any, low: float, high: float) -> None:
  """Check that a parameter is within its bounds; a traced one passes.

  Raises:
    ValueError: it is not.
  """
  if isinstance(value, jax.core.Tracer):
    return
  for number in np.ravel(value):
    if not low <= number <= high:
      expected = f"a number from {options.shown(low)} to {options.shown(high)}"
      raise ValueError(f"{name}: expected {expected}, got {options.shown(number)}")
