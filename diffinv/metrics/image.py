"""Quality of a restored image: PSNR and SSIM against the truth, on [0, 1].

One image `[h, w, c]` at a time; `vmap` for many. The PSNR of a mean image, the mean of several PSNRs and the PSNR of a
mean squared error are three different numbers: these functions give that of one image.

SSIM is that of Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004: 11x11 Gaussian window of standard deviation 1.5, K1 = 0.01, K2 = 0.03, weighted
(population) covariances, windows that lie within the image; the mean over windows and channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

SSIM_RADIUS = 5  # pixels: an 11x11 window
SSIM_BAND = 512  # rows of windows at once: a dozen arrays of them, and not of a whole large picture
SSIM_STD = 1.5  # pixels
SSIM_C1 = 0.01**2  # (K1 L)^2 with L = 1, the range of the data
SSIM_C2 = 0.03**2


def to_unit(x: jax.Array) -> jax.Array:
  """Map an image from [-1, 1] to [0, 1]; values outside are CLIPPED, as in a file."""
  return jnp.clip((x + 1.0) / 2.0, 0.0, 1.0)


def psnr(image: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the peak signal-to-noise ratio 10 log10(1 / MSE) in dB, []; infinite for equal images.

  Args:
    image: `[h, w, c]`, [0, 1]; see `to_unit`.
    truth: the same.

  Raises:
    ValueError: the shapes differ.
  """
  _check_shapes(image, truth)
  return -10.0 * jnp.log10(_mean((image - truth) ** 2))


def ssim(image: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the mean structural similarity of two images, [], at most 1.

  Args:
    image: `[h, w, c]`, [0, 1], at least 11x11 pixels; see `to_unit`.
    truth: the same.

  Raises:
    ValueError: the shapes differ, or the images are smaller than the window.
  """
  _check_shapes(image, truth)
  if image.ndim != 3 or min(image.shape[:2]) <= 2 * SSIM_RADIUS:
    raise ValueError(f"image: expected [h, w, c] of at least 11x11 pixels, the window of SSIM, got {image.shape}")
  rows = image.shape[0] - 2 * SSIM_RADIUS
  if rows <= SSIM_BAND:
    return _mean(_similarity(image, truth))
  band = lambda start, count: jnp.mean(_similarity(*(_rows(x, start, count) for x in (image, truth))), axis=0)
  whole, rest = divmod(rows, SSIM_BAND)
  total = SSIM_BAND * jnp.sum(jax.lax.map(lambda i: band(i * SSIM_BAND, SSIM_BAND), jnp.arange(whole)), axis=0)
  if rest:
    total += rest * band(whole * SSIM_BAND, rest)
  return _mean(total / rows)


def _rows(x, start, count):
  """Return the rows that the windows of `count` rows see, the first of which is `start`."""
  return jax.lax.dynamic_slice_in_dim(x, start, count + 2 * SSIM_RADIUS)


def _similarity(image, truth):
  """Return the structural similarity of each window."""
  # Local variances by the law of total variance, rows first: E[x^2] - E[x]^2 would lose them in float32.
  zero = jnp.zeros_like(image)
  moments = (image, truth, zero, zero, zero)
  for axis in (0, 1):
    moments = _pool(*moments, axis)
  mean_a, mean_b, var_a, var_b, cov = moments
  luminance = (2.0 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
  return luminance * (2.0 * cov + SSIM_C2) / (var_a + var_b + SSIM_C2)


def _mean(x):
  """Return the mean, [], taken axis by axis: one long float32 sum would lose the sixth digit."""
  return jnp.mean(x) if x.ndim < 2 else _mean(jnp.mean(x, axis=0))


def _pool(mean_a, mean_b, var_a, var_b, cov, axis):
  """Join the weighted moments of the windows' parts along an axis, for windows that lie within the image."""
  offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
  weights = np.exp(-0.5 * (offsets / SSIM_STD) ** 2)
  weights = jnp.asarray(weights / weights.sum(), mean_a.dtype)
  size = mean_a.shape[axis] - 2 * SSIM_RADIUS

  def pool(count, values):
    """Return the `count` weighted sums over a window of `values(part)`; `part` takes its i-th places of an array."""

    def add(i, sums):
      part = lambda x: jax.lax.dynamic_slice_in_dim(x, i, size, axis=axis)
      return tuple(total + weights[i] * value for total, value in zip(sums, values(part), strict=True))

    zeros = jnp.zeros_like(jax.lax.slice_in_dim(mean_a, 0, size, axis=axis))
    return jax.lax.fori_loop(0, len(offsets), add, (zeros,) * count)

  a, b = pool(2, lambda part: (part(mean_a), part(mean_b)))

  def spread(part):
    off_a, off_b = part(mean_a) - a, part(mean_b) - b
    return part(var_a) + off_a**2, part(var_b) + off_b**2, part(cov) + off_a * off_b

  return a, b, *pool(3, spread)


def _check_shapes(image, truth):
  if image.shape != truth.shape:
    raise ValueError(f"truth: expected the shape {image.shape} of the image, got {truth.shape}; resize or crop one")
