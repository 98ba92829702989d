"""Measurement noise: frozen pytrees with `sample`, `log_prob` and `std`. All on the [-1, 1] scale of the images."""

import jax
import jax.numpy as jnp

from diffinv.pytree import pytree

PEAK = 255.0  # photons of a white pixel at rate 1: Poisson(255 rate x01) / (255 rate), DPS's convention
MIN_PHOTONS = 1.0  # a dark pixel still counts as if one photon had come, so that no weight is infinite


@pytree
class Gaussian:
  """n ~ N(0, sigma^2): sigma on [-1, 1]; a paper's 0.05 on [0, 1] is 0.1 here."""

  sigma: jax.Array | float

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return clean + n, the shape of `clean`."""
    return clean + self.sigma * jax.random.normal(key, clean.shape, clean.dtype)

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return log p(y_i | clean_i) per value, the shape of `y`."""
    return jax.scipy.stats.norm.logpdf(y, clean, self.sigma)

  def std(self, y: jax.Array) -> jax.Array:
    """Return the standard deviation of every value, []."""
    return jnp.asarray(self.sigma, y.dtype)


@pytree
class Poisson:
  """Shot noise: y01 = Poisson(255 rate x01) / (255 rate), x01 = (x + 1) / 2 clipped from below at 0."""

  rate: jax.Array | float  # exposure; 1 is 255 photons at white

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return a noisy measurement on [-1, 1], the shape of `clean`."""
    photons = jax.random.poisson(key, self._photons(clean)).astype(clean.dtype)
    return 2.0 * photons / (PEAK * self.rate) - 1.0

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return log p(count_i | clean_i) per value, the shape of `y`."""
    return jax.scipy.stats.poisson.logpmf(jnp.round(self._photons(y)), jnp.maximum(self._photons(clean), 1e-6))

  def std(self, y: jax.Array) -> jax.Array:
    """Return the standard deviation of every value as its own count estimates it, the shape of `y`."""
    return 2.0 * jnp.sqrt(jnp.maximum(self._photons(y), MIN_PHOTONS)) / (PEAK * self.rate)

  def _photons(self, x):
    return PEAK * self.rate * jnp.maximum((x + 1.0) / 2.0, 0.0)


@pytree
class NoNoise:
  """y = A(x) exactly."""

  def sample(self, key: jax.Array, clean: jax.Array) -> jax.Array:
    """Return `clean`."""
    return clean

  def log_prob(self, y: jax.Array, clean: jax.Array) -> jax.Array:
    """Return 0 where y = clean, else minus infinity, per value."""
    return jnp.where(y == clean, 0.0, -jnp.inf)

  def std(self, y: jax.Array) -> jax.Array:
    """Return 0, []."""
    return jnp.zeros((), y.dtype)
