"""Blurs: true convolutions, y_i = sum_j k_j x_{i-j}, so that a point of light becomes the kernel.

Kernels have odd sizes and are centered on their middle element. At the edges the image is reflected without repeating
the edge pixel (d c b | a b c d | c b a), or wrapped around. The Gaussian is separable and has exact inverses from two
small SVDs; any other kernel goes through FFTs, which at 61x61 taps is far cheaper than summing them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.operators.base import PINV_CUTOFF, LinearOperator, Spectral, image_shape
from diffinv.operators.fourier import centered_fft2, hartley2, hartley_of
from diffinv.operators.separable import Separable, separable
from diffinv.pytree import pytree

TRUNCATE = 4.0  # standard deviations at which the Gaussian ends, as in scipy.ndimage and DPS
REFLECT_PINV_RIDGE = 1e-4  # relative to ||A||^2 = O(1): CG in float32 does not converge within its steps below this
MOTION_POINTS_PER_PIXEL = 8  # of the kernel's size, which bounds the length of the path, so points overlap
MOTION_LINE_STD = 0.7  # pixels; half the width of the rendered path: antialiased, still thin
MOTION_MIN_LENGTH = 0.5  # of the kernel's size; the longest path is 1


def gaussian_blur(shape: tuple[int, int, int], *, size: int = 61, std: float = 3.0) -> Separable:
  """Build a Gaussian blur, reflecting at the edges.

  Args:
    shape: of the image, (h, w, c).
    size: of the kernel, odd, in pixels.
    std: standard deviation in pixels.

  Raises:
    ValueError: the size is even or the standard deviation is not positive.
  """
  shape = image_shape(shape)
  taps = gaussian_taps(size, std)
  return separable(shape, reflect_matrix(shape[0], taps), reflect_matrix(shape[1], taps))


def gaussian_taps(size: int, std: float) -> np.ndarray:
  """Return the 1-D Gaussian kernel, `[size]`, summing to 1, float64; the 2-D kernel is its outer product.

  It ends at 4 std; where `size` is smaller than that, the tails are folded back at the kernel's edges, edge taps
  repeated, as scipy.ndimage and DPS have it.
  """
  _check_size("size", size)
  if not std > 0:
    raise ValueError(f"std: expected a positive standard deviation in pixels, got {std}")
  radius = int(TRUNCATE * std + 0.5)
  full = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
  point = np.zeros(size)
  point[size // 2] = 1.0
  return np.convolve(np.pad(point, radius, mode="symmetric"), full / full.sum(), mode="valid")


def reflect_matrix(pixels: int, taps: np.ndarray) -> np.ndarray:
  """Return convolution of one reflected axis with `taps`, `[pixels, pixels]`, float64."""
  padded = np.pad(np.eye(pixels), ((len(taps) // 2,) * 2, (0, 0)), mode="reflect")
  return sum(tap * padded[i : i + pixels] for i, tap in enumerate(taps[::-1]))


@pytree
class CircularBlur(LinearOperator):
  """y = k * x with periodic edges, diagonal in the Fourier basis: A = F^H diag(K) F."""

  kernel: jax.Array  # [k, l], odd sizes

  def __call__(self, x):
    return self._filter(self._transfer(), x)

  def adjoint(self, y):
    return self._filter(jnp.conj(self._transfer()), y)

  def solve(self, v, gamma):
    return self._filter(1.0 / (_abs_squared(self._transfer()) + gamma), v)

  def spectral(self):
    """Return the SVD: V is the Hartley transform, s = |K|, U^T removes the phase of K.

    Singular values below `PINV_CUTOFF` times the largest count as zero.
    """
    height, width, _ = self.in_shape
    transfer = jnp.fft.fftshift(jnp.fft.fft2(_wrap(self.kernel, height, width)))[:, :, None]
    size = jnp.abs(transfer)
    kept = size > PINV_CUTOFF * jnp.max(size)
    phase = jnp.where(kept, transfer, 1.0) / jnp.where(kept, size, 1.0).astype(transfer.dtype)

    def measure(y):
      return hartley_of(jnp.conj(phase) * centered_fft2(y))

    return Spectral(jnp.where(kept, size, 0.0), hartley2, hartley2, measure)

  def _transfer(self):
    """Return K, `[h, w // 2 + 1, 1]`, complex."""
    height, width, _ = self.in_shape
    return jnp.fft.rfft2(_wrap(self.kernel, height, width))[:, :, None]

  def _filter(self, multiplier, x):
    spectrum = jnp.fft.rfft2(x, axes=(0, 1))
    return jnp.fft.irfft2(multiplier.astype(spectrum.dtype) * spectrum, s=self.in_shape[:2], axes=(0, 1))


@pytree
class ReflectBlur(LinearOperator):
  """y = k * x with reflected edges, which no fast transform diagonalizes: `solve` and `pinv` are iterative (CG)."""

  kernel: jax.Array  # [k, l], odd sizes

  def __call__(self, x):
    height, width, _ = self.in_shape
    above, left = self.kernel.shape[0] // 2, self.kernel.shape[1] // 2
    padded = jnp.pad(x, ((above, above), (left, left), (0, 0)), mode="reflect")
    size = (_fast_length(padded.shape[0]), _fast_length(padded.shape[1]))
    transfer = jnp.fft.rfft2(self.kernel, s=size)[:, :, None]
    y = jnp.fft.irfft2(transfer * jnp.fft.rfft2(padded, s=size, axes=(0, 1)), s=size, axes=(0, 1))
    # The convolution wraps around in the first k - 1 rows, which are cut off; the reflected borders replace them.
    return y[2 * above : 2 * above + height, 2 * left : 2 * left + width]

  def pinv(self, y):
    """Return A^T (A A^T + ridge I)^-1 y: singular values below 0.01 are damped. Hundreds of CG steps."""
    return self.ridge(y, REFLECT_PINV_RIDGE)


BLURS = {"reflect": ReflectBlur, "circular": CircularBlur}


def blur(shape: tuple[int, int, int], kernel, *, boundary: str = "reflect") -> LinearOperator:
  """Build convolution with any kernel.

  Args:
    shape: of the image, (h, w, c).
    kernel: `[k, l]` of odd sizes, centered on its middle element; used as it is, so normalize it to sum 1 to keep the
      image's brightness.
    boundary: "reflect", or "circular" (exact inverses by FFT).

  Raises:
    ValueError: a size is even, or there is no such boundary.
  """
  shape = image_shape(shape)
  kernel = jnp.asarray(kernel, float)
  if kernel.ndim != 2:
    raise ValueError(f"kernel: expected [k, l], one for all channels, got shape {kernel.shape}")
  for pixels in kernel.shape:
    _check_size("kernel", pixels)
  if boundary not in BLURS:
    raise ValueError(f"boundary: expected one of {', '.join(BLURS)}, got {boundary!r}")
  return BLURS[boundary](shape, kernel)


def motion_blur(
  key: jax.Array,
  shape: tuple[int, int, int],
  *,
  size: int = 61,
  intensity: float = 0.5,
  boundary: str = "reflect",
) -> LinearOperator:
  """Build the blur of a random camera path; see `motion_kernel` and `blur`."""
  return blur(shape, motion_kernel(key, size=size, intensity=intensity), boundary=boundary)


def motion_kernel(key: jax.Array, *, size: int = 61, intensity: float = 0.5) -> jax.Array:
  """Draw a camera path at constant speed and render it, `[size, size]`, summing to 1.

  The heading performs a Brownian motion whose standard deviation at the end of the path is 2π `intensity`; the length
  is uniform on [size / 2, size]; the centroid is in the middle, so that the image does not move. Paths that would leave
  the kernel are shrunk. Each point is a Gaussian spot of 0.7 pixels.

  Args:
    key: of the path.
    size: of the kernel, odd, in pixels; at least 9.
    intensity: how curved the path is; 0 is a straight line.

  Raises:
    ValueError: the size is even or below 9, or the intensity is negative.
  """
  _check_size("size", size)
  if size < 9:
    raise ValueError(f"size: expected at least 9 pixels to draw a path in, got {size}")
  if intensity < 0:
    raise ValueError(f"intensity: expected 0 (straight) or more, got {intensity}")
  k1, k2, k3 = jax.random.split(key, 3)
  points = MOTION_POINTS_PER_PIXEL * size
  length = jax.random.uniform(k1, (), minval=MOTION_MIN_LENGTH * size, maxval=float(size))
  start = jax.random.uniform(k2, (), minval=0.0, maxval=2.0 * np.pi)
  turns = 2.0 * np.pi * intensity / np.sqrt(points) * jax.random.normal(k3, (points,))
  heading = start + jnp.cumsum(turns)
  path = jnp.cumsum(jnp.stack([jnp.sin(heading), jnp.cos(heading)]), axis=1) * (length / points)
  path = path - jnp.mean(path, axis=1, keepdims=True)
  room = size // 2 - 3.0 * MOTION_LINE_STD
  path = path * jnp.minimum(1.0, room / jnp.max(jnp.abs(path)))
  grid = jnp.arange(size, dtype=path.dtype) - size // 2
  spots = jnp.exp(-0.5 * ((path[:, None, :] - grid[None, :, None]) / MOTION_LINE_STD) ** 2)
  kernel = jnp.matmul(spots[0], spots[1].T, precision=jax.lax.Precision.HIGHEST)
  return kernel / jnp.sum(kernel)


def _check_size(name: str, size: int) -> None:
  if size < 1 or size % 2 == 0:
    raise ValueError(f"{name}: expected an odd number of pixels, which has a middle, got {size}; pad it by one")


def _abs_squared(z: jax.Array) -> jax.Array:
  return z.real**2 + z.imag**2


def _wrap(kernel: jax.Array, height: int, width: int) -> jax.Array:
  """Return the kernel on a torus of `[height, width]`, its middle at the origin."""
  middle = [n // 2 for n in kernel.shape]
  rounds = [-(-n // pixels) for n, pixels in zip(kernel.shape, (height, width))]
  pad = [(0, r * pixels - n) for r, pixels, n in zip(rounds, (height, width), kernel.shape)]
  folded = jnp.sum(jnp.pad(kernel, pad).reshape(rounds[0], height, rounds[1], width), axis=(0, 2))
  return jnp.roll(folded, (-middle[0], -middle[1]), axis=(0, 1))


def _fast_length(length: int) -> int:
  """Return the least even number from `length` on without prime factors above 5, which FFTs like."""

  def rest(n):
    for prime in (2, 3, 5):
      while n % prime == 0:
        n //= prime
    return n

  return next(n for n in range(length + length % 2, 2 * length + 3, 2) if rest(n) == 1)
