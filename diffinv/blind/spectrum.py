"""How well a blur explains the spectrum of a picture: the evidence of a stationary Gaussian law, in closed form.

A picture whose power falls as a / |f|^p, blurred by k and with noise of sigma, has a discrete Fourier transform of
independent coefficients (orthonormal, periodic),

  Y_f ~ N(0, |K_f|^2 a / |f|^p + sigma^2),

so that -log p(y | k, a, p) = 1/2 sum_f [ln V_f + |Y_f|^2 / V_f] + constant. The least over a and p, which differ from
picture to picture, is that of the blur. It costs no evaluation of a network, and finds where to look: zeros of K_f, as
disks and motions have them, stand out; the width of a Gaussian is told from the power p less surely.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

POWERS = np.linspace(1.5, 4.0, 8)  # p; photographs have 2 to 3
LOG_AMPLITUDES = np.linspace(-16.0, 0.0, 33)  # ln a, f in cycles per pixel
LEAST_CYCLES = 4  # per picture, below which a picture is no sample of a stationary law


def periodogram(y: jax.Array) -> jax.Array:
  """Return |Y_f|^2 of the mean over channels, `[h, w // 2 + 1]`; a Hann window hides that edges do not meet."""
  height, width, _ = y.shape
  gray = jnp.mean(y, axis=2)
  window = jnp.hanning(height)[:, None] * jnp.hanning(width)[None, :]
  spectrum = jnp.fft.rfft2((gray - jnp.mean(gray)) * window / jnp.sqrt(jnp.mean(window**2)))
  return jnp.abs(spectrum) ** 2 / (height * width)


def negative_log_evidence(power: jax.Array, variances: jax.Array) -> jax.Array:
  """Return 1/2 sum [ln V + P / V], [], of a periodogram P and the variances V, both of one shape."""
  return 0.5 * jnp.sum(jnp.log(variances) + power / variances)


@functools.partial(jax.jit, static_argnames="width")
def misfits(power: jax.Array, variance: jax.Array, taps: jax.Array, *, width: int) -> jax.Array:
  """Return the least -log p(y | k, a, p) over a and p of each kernel, `[n]`, up to a constant.

  Args:
    power: of `periodogram`, `[h, width // 2 + 1]`.
    variance: of the noise in it, [].
    taps: the kernels, `[n, k, k]`.
    width: of the picture, pixels.
  """
  height = power.shape[0]
  radius = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None, :])
  used = radius > LEAST_CYCLES / min(height, width)
  log_radius = jnp.log(jnp.where(used, radius, 1.0))
  powers, amplitudes = jnp.asarray(POWERS, power.dtype), jnp.asarray(LOG_AMPLITUDES, power.dtype)

  def of_law(transfer, p, log_amplitude):
    variances = jnp.where(used, transfer * jnp.exp(log_amplitude - p * log_radius) + variance, 1.0)
    return negative_log_evidence(jnp.where(used, power, 0.0), variances)

  def of_kernel(taps):
    transfer = jnp.abs(jnp.fft.rfft2(taps, s=(height, width))) ** 2
    least = lambda p: jnp.min(jax.lax.map(lambda a: of_law(transfer, p, a), amplitudes))
    return jnp.min(jax.lax.map(least, powers))

  return jax.lax.map(of_kernel, taps)
