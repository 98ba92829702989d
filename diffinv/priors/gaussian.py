"""Gaussian priors in closed form: mixtures of any covariance, and stationary ones of any image size.

Their posterior means are exact, so that samplers can be tested against known laws.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.fft import dctn, idctn

from diffinv.priors.base import Denoised, eps_from_x0
from diffinv.pytree import pytree, static
from diffinv.schedules import Level, Schedule

LINEAR = Schedule("linear", 1000)  # the default of priors without a network

# Accelerators would round the factors otherwise, and a denoised image that is off by 5e-4 is no longer exact.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@pytree
class GaussianMixture:
  """The prior sum_k w_k N(m_k, C_k) over images of `shape`, in closed form; build it with `mixture` or `gaussian`.

  D(x) = sum_k r_k(x) (m_k + alpha C_k S_k^-1 (x - alpha m_k)),  S_k = alpha^2 C_k + sigma^2 I, with the
  responsibilities r_k ∝ w_k N(x; alpha m_k, S_k). Nothing is clipped.
  """

  log_weights: jax.Array  # [k]
  means: jax.Array  # [k, d]
  eigvals: jax.Array  # [k, d], of the covariances
  eigvecs: jax.Array  # [k, d, d], columns
  schedule: Schedule = static()
  variance: str = static(default="fixed_small")

  def denoise(self, x_t: jax.Array, level: Level) -> Denoised:
    """Return the exact posterior mean E[x0 | x_t]; `x_t` of any shape with d elements."""
    centered = jnp.ravel(x_t)[None, :] - level.alpha * self.means
    coords = einsum("kij,ki->kj", self.eigvecs, centered)
    spread = level.alpha**2 * self.eigvals + level.sigma**2
    log_density = -0.5 * jnp.sum(coords**2 / spread + jnp.log(spread), axis=1)
    r = jax.nn.softmax(self.log_weights + log_density)
    moved = einsum("kij,kj->ki", self.eigvecs, level.alpha * self.eigvals / spread * coords)
    x0 = jnp.reshape(einsum("k,ki->i", r, self.means + moved), x_t.shape)
    return Denoised(x0, eps_from_x0(x_t, x0, level), 1.0 if self.variance == "fixed_large" else 0.0)


def mixture(weights, means, covariances, schedule: Schedule, *, variance: str = "fixed_small") -> GaussianMixture:
  """Build a Gaussian-mixture prior.

  Args:
    weights: `[k]`, positive, normalized here.
    means: `[k, d]`, in units of the image.
    covariances: `[k, d, d]`, symmetric positive semi-definite.
    schedule: the forward process.
    variance: "fixed_small" or "fixed_large", the reverse variance of DDPM.

  Raises:
    ValueError: shapes do not agree, a weight is not positive or a covariance is not a covariance.
  """
  weights, means, covariances = (np.asarray(a, np.float64) for a in (weights, means, covariances))
  k, d = means.shape if means.ndim == 2 else (0, 0)
  if weights.shape != (k,) or covariances.shape != (k, d, d):
    raise ValueError(
      f"mixture: expected weights [k], means [k, d], covariances [k, d, d], got {weights.shape}, {means.shape}, "
      f"{covariances.shape}"
    )
  if not np.all(weights > 0):
    raise ValueError(f"mixture: expected positive weights, got {weights.min():g}; drop empty components")
  eigvals, eigvecs = np.linalg.eigh(covariances)
  asymmetry = np.abs(covariances - np.swapaxes(covariances, 1, 2)).max()
  if asymmetry > 1e-8 * np.abs(covariances).max() or eigvals.min() < -1e-8 * eigvals.max():
    raise ValueError("mixture: expected symmetric positive semi-definite covariances; symmetrize them first")
  return GaussianMixture(
    log_weights=jnp.asarray(np.log(weights / weights.sum())),
    means=jnp.asarray(means),
    eigvals=jnp.asarray(np.maximum(eigvals, 0.0)),
    eigvecs=jnp.asarray(eigvecs),
    schedule=schedule,
    variance=variance,
  )


def gaussian(mean, covariance, schedule: Schedule, *, variance: str = "fixed_small") -> GaussianMixture:
  """Build the prior N(mean, covariance): `mean` `[d]`, `covariance` `[d, d]`."""
  return mixture([1.0], np.asarray(mean)[None], np.asarray(covariance)[None], schedule, variance=variance)


@pytree
class StationaryGaussian:
  """A stationary Gaussian prior of any image size, diagonal in the DCT of the decorrelated colors; see `natural`.

  Color i at DCT frequency f (cycles per pixel) has variance color_variances[i] * s / (|f|^2 + cutoff^2)^(power/2),
  s such that the mean over frequencies, the variance of a pixel, is color_variances[i]. The DCT mirrors the image at
  its edges: no wrap-around. Nothing is clipped.
  """

  mean: jax.Array  # [c], of a pixel
  color_basis: jax.Array  # [c, c], orthonormal columns
  color_variances: jax.Array  # [c], of a pixel along each column
  power: jax.Array | float  # exponent of the power spectrum
  cutoff: jax.Array | float  # cycles per pixel, below which the spectrum is flat
  schedule: Schedule = static()
  image_shape: tuple[Any, ...] = static(default=(None, None, 3))
  size_multiple: int = static(default=1)

  def spectrum(self, shape: tuple[int, ...]) -> jax.Array:
    """Return the eigenvalues of the covariance for images `[h, w, c]`, same shape."""
    height, width, _ = shape
    dtype = self.color_variances.dtype
    fy, fx = (jnp.arange(n, dtype=dtype) / (2 * n) for n in (height, width))
    radial = (fy[:, None] ** 2 + fx[None, :] ** 2 + self.cutoff**2) ** (-0.5 * self.power)
    return (radial / jnp.mean(radial))[:, :, None] * self.color_variances[None, None, :]

  def analyze(self, x: jax.Array) -> jax.Array:
    """Return the coordinates of an image without mean in the eigenbasis of the covariance."""
    return dctn(einsum("hwc,cd->hwd", x, self.color_basis), axes=(0, 1), norm="ortho")

  def synthesize(self, coords: jax.Array) -> jax.Array:
    """Return the image of given coordinates: the inverse of `analyze`."""
    return einsum("hwd,cd->hwc", idctn(coords, axes=(0, 1), norm="ortho"), self.color_basis)

  def covariance(self, x: jax.Array) -> jax.Array:
    """Return C x, `[h, w, c]`."""
    return self.synthesize(self.spectrum(x.shape) * self.analyze(x))

  def denoise(self, x_t: jax.Array, level: Level) -> Denoised:
    """Return the exact posterior mean m + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha m)."""
    mean = jnp.broadcast_to(self.mean, x_t.shape)
    eigvals = self.spectrum(x_t.shape)
    gain = level.alpha * eigvals / (level.alpha**2 * eigvals + level.sigma**2)
    x0 = mean + self.synthesize(gain * self.analyze(x_t - level.alpha * mean))
    return Denoised(x0, eps_from_x0(x_t, x0, level), 0.0)


# Colors of photographs decorrelate along luminance, orange-blue and green-magenta, with variances near 100:10:1. The
# variance of luminance suits fine structure, where restoration happens: pictures fall off faster than 1/f^2, and a
# prior with the contrast of a whole picture (about 0.6) has several times their power in the highest octave.
OPPONENT_COLORS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
OPPONENT_VARIANCES = (0.2, 0.02, 0.002)
NATURAL_CUTOFF = 1 / 512  # cycles per pixel: structures larger than a picture are no rarer than the picture itself


def natural(schedule: Schedule = LINEAR) -> StationaryGaussian:
  """Return the analytic prior of natural images: power spectrum ∝ 1/f^2, opponent colors, any size, no weights.

  The spectrum is that of Field, "Relations between the statistics of natural images and the response properties of
  cortical cells", JOSA A 4(12), 1987; the opponent colors are those of Ruderman et al., "Statistics of cone responses
  to natural images", JOSA A 15(8), 1998.
  """
  axes = np.array(OPPONENT_COLORS, np.float64)
  return StationaryGaussian(
    mean=jnp.zeros(3),
    color_basis=jnp.asarray((axes / np.linalg.norm(axes, axis=1, keepdims=True)).T),
    color_variances=jnp.asarray(np.array(OPPONENT_VARIANCES)),
    power=2.0,
    cutoff=NATURAL_CUTOFF,
    schedule=schedule,
  )
