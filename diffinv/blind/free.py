"""A kernel of any form, not negative and of sum 1: what predicts a picture best, the picture and the kernel in turn.

Expectation-maximization over the kernel, after Laroche, Almansa and Coupeté, "Fast Diffusion EM: a diffusion model for
blind inverse problems with application to deconvolution", WACV 2024, arXiv 2309.00287; compare Murata et al.,
"GibbsDDRM: A Partially Collapsed Gibbs Sampler for Solving Blind Inverse Problems with Denoising Diffusion
Restoration", ICML 2023, arXiv 2301.12686. With z ~ N(0, I), the noise of y is split into two independent halves,

  v = y + s z,   w = y - sigma^2 / s z        (Cov(v, w | x) = 0)
  x_hat = E[x | v, k]                         (E)
  k = argmin ||D (w - k * x_hat)||^2 / var + ||D k||^2 / smooth^2 + ...,   k >= 0, sum k = 1        (M)

D are differences between neighbors. Errors of x_hat are largest where frequencies are low, which D weighs little; and
without it the problem is conditioned too badly. Where x_hat has seen the noise that it is held against, as in plain
alternation, the best kernel is too narrow by what the restoration takes away, and ends as a point; the expectation of
||w - k * x||^2 instead, with the covariance of x, is EM itself. Here w is new to x_hat, so that no covariance is
needed: ||w - k * x_hat||^2 is the error of `diffinv.blind.prediction` up to a factor, and under an exact prior the true
kernel is a fixed point. Each M step is a least-squares problem with the numbers of a kernel as unknowns.

What EM finds depends on where it begins. So it begins on a picture so small that the kernel is a few pixels wide, and
with much noise; every size begins with the kernel of the one before. What is weak or on its own is taken out of a
kernel after each step, and its centroid is kept in the middle: where a picture lies is not observed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from diffinv import sampler, schedules, stopping
from diffinv.blind.borders import bordered_blur
from diffinv.methods.dpir import DPIR
from diffinv.noise import Gaussian
from diffinv.operators.kernels import GaussianKernel
from diffinv.priors import PicturePrior
from diffinv.problems import Problem

METHOD, STEPS = DPIR(), 8
SIZE = 21  # of the kernel, pixels
SMALLEST = 5.5  # pixels, of the kernel on the smallest picture
FACTOR = np.sqrt(2.0)  # from one size of the picture to the next
START = 0.7  # pixels: of the Gaussian to begin with, there
ADDED = (8.0, 8.0, 8.0, 4.0, 4.0, 4.0, 2.0, 2.0, 2.0)  # s over sigma, step by step
LEAST_SIGMA = 0.008  # of smaller pictures, whose noise is averaged away: the network knows no less
SMOOTH = 0.007  # standard deviation of differences between neighboring taps, at the full size
CENTERED = 10.0  # how much an error of the centroid weighs, in mean diagonals of the quadratic form
WEAK, ALONE = 0.05, 0.1  # of the largest tap, and of the sum: less is left out
ITERATIONS = 300  # of accelerated projected gradient descent


def estimate(prior: PicturePrior, y: jax.Array, sigma: float, key: jax.Array) -> np.ndarray:
  """Return the kernel of a picture y = k * x + n, `[SIZE, SIZE]`.

  Args:
    prior: of x.
    y: the blurred picture, `[h, w, c]`, [-1, 1].
    sigma: of its white noise, on [-1, 1], > 0.
    key: of the noise that is added.
  """
  taps, before, grid = _first(), sizes()[0], schedules.as_arrays(prior.schedule.grid(str(STEPS)))
  for part in sizes():
    small, std = smaller(y, part), max(sigma * part, min(sigma, LEAST_SIGMA))
    taps = rescaled(taps, part / before, across(part))
    for i, times in enumerate(ADDED):
      stopping.check()
      z = jax.random.normal(jax.random.fold_in(key, i), small.shape)
      operator = bordered_blur(small.shape, taps, multiple=prior.size_multiple)
      taps = tidied(np.asarray(_step(prior, operator, small, std, times * std, z, grid, SMOOTH / part**2)))
    before = part
  return taps


def sizes() -> list[float]:
  """Return the parts of the picture's size, ascending to 1."""
  steps = int(np.ceil(np.log(SIZE / SMALLEST) / np.log(FACTOR)))
  return [float(FACTOR**-i) for i in range(steps, -1, -1)]


def smaller(y: jax.Array, part: float) -> jax.Array:
  """Return a picture `[h, w, c]` of a part of its size."""
  height, width = (round(n * part) for n in y.shape[:2])
  return y if part == 1.0 else jax.image.resize(y, (height, width, y.shape[2]), "lanczos3")


def across(part: float) -> int:
  """Return the odd number of pixels across a kernel on a picture of a part of its size."""
  return 2 * int(np.ceil(SIZE * part / 2 - 0.5)) + 1


def _first() -> np.ndarray:
  return np.asarray(GaussianKernel(START).taps(across(sizes()[0])))


@jax.jit
def _step(prior, operator, y, sigma, s, z, grid, smooth):
  """Return the kernel after an E and an M step."""
  total = jnp.sqrt(sigma**2 + s**2)
  x, _ = sampler.sample(jax.random.key(0), METHOD, prior, Problem(operator, Gaussian(total), y + s * z), grid)
  split = (sigma / s) ** 2
  variance = 2.0 * sigma**2 * (1.0 + split)  # of differences of w
  taps, size = operator.kernel, operator.kernel.shape[0]
  form, linear = normal_equations(slopes(_seen(operator, x)), slopes(y - split * s * z), size)
  form = form / variance + roughness(size) / smooth**2
  form = form + CENTERED * jnp.trace(form) / size**2 * centroid(size)
  return fitted(form, linear / variance, taps)


def _seen(operator: Any, x: jax.Array) -> jax.Array:
  """Return the part of a picture that a bordered blur looks at."""
  reach = operator.kernel.shape[0] // 2
  (top, left), (height, width) = operator.corner, operator.size
  return x[top - reach : top + height + reach, left - reach : left + width + reach]


def slopes(x: jax.Array) -> jax.Array:
  """Return the differences of neighbors down and across as channels, `[h - 1, w - 1, 2 c]`."""
  return jnp.concatenate([jnp.diff(x, axis=0)[:, :-1], jnp.diff(x, axis=1)[:-1]], axis=2)


def normal_equations(x: jax.Array, w: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """Return H, `[n, n]`, and b, `[n]`, with ||w - k * x||^2 = k^T H k - 2 b^T k + ||w||^2 for n = size^2 taps.

  Args:
    x: the picture, `[h + size - 1, w + size - 1, c]`.
    w: what is blurred, `[h, w, c]`.
    size: of the kernel, odd, pixels.
  """
  height, width, _ = w.shape
  corners = size - 1 - np.indices((size, size)).reshape(2, -1)  # where the part of x begins that a tap looks at
  rows, columns = (_windows(size, n, x.dtype) for n in (height, width))
  precise = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

  def products(apart):  # sums of x(p) x(p + apart) over the parts that begin at every corner
    return precise(precise(rows, jnp.sum(x * jnp.roll(x, -apart, (0, 1)), axis=2)), columns.T)

  def product(corner):
    return jnp.sum(w * jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), w.shape))

  down, across = np.indices((size, 2 * size - 1)).reshape(2, -1)
  sums = jax.lax.map(products, jnp.stack([down, across - (size - 1)], axis=1)).reshape(size, -1, size, size)
  return sums[_places(corners)], jax.lax.map(product, jnp.asarray(corners.T))


def _windows(size: int, length: int, dtype: Any) -> jax.Array:
  """Return the matrix that sums `length` neighbors from each of `size` places on, `[size, size + length - 1]`."""
  begin = np.arange(size + length - 1) - np.arange(size)[:, None]
  return jnp.asarray((begin >= 0) & (begin < length), dtype)


def _places(corners: np.ndarray) -> tuple[np.ndarray, ...]:
  """Return where in the sums each pair of corners `[2, n]` is, of which one lies below the other or beside it."""
  one, other = np.broadcast_arrays(corners[:, :, None], corners[:, None, :])
  upper, lower = np.where(other[0] >= one[0], one, other), np.where(other[0] >= one[0], other, one)
  apart, middle = lower - upper, len(np.unique(corners)) - 1
  return apart[0], apart[1] + middle, upper[0], upper[1]


def roughness(size: int) -> jax.Array:
  """Return the form of ||D k||^2, `[size^2, size^2]`, the kernel 0 beyond its edges."""
  down = np.diff(np.eye(size + 2), axis=0)[:, 1:-1]
  line, eye = down.T @ down, np.eye(size)
  return jnp.asarray(np.kron(line, eye) + np.kron(eye, line), float)


def centroid(size: int) -> jax.Array:
  """Return the form of the squared distance of a kernel's centroid from its middle over size^2, `[size^2, size^2]`."""
  places = (np.indices((size, size)).reshape(2, -1) - size // 2) / size
  return jnp.asarray(places.T @ places, float)


def fitted(form: jax.Array, linear: jax.Array, start: jax.Array) -> jax.Array:
  """Return argmin k^T form k / 2 - linear^T k over kernels, k >= 0 and sum k = 1, the shape of `start`.

  Accelerated projected gradient descent (Beck and Teboulle, SIAM J. Imaging Sciences 2(1), 2009), restarted where it
  turns back (O'Donoghue and Candès, Foundations of Computational Mathematics 15, 2015).
  """
  curvature = 1.02 * _largest_eigenvalue(form)

  def descend(_, state):
    k, ahead, t = state
    new = on_simplex(ahead - (form @ ahead - linear) / curvature)
    turned = jnp.sum((ahead - new) * (new - k)) > 0
    longer = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * t**2))
    momentum = jnp.where(turned, 0.0, (t - 1.0) / longer)
    return new, new + momentum * (new - k), jnp.where(turned, 1.0, longer)

  first = jnp.ravel(start)
  k, _, _ = jax.lax.fori_loop(0, ITERATIONS, descend, (first, first, jnp.ones((), first.dtype)))
  return k.reshape(start.shape)


def _largest_eigenvalue(form):
  apply = lambda _, v: (lambda u: u / jnp.linalg.norm(u))(form @ v)
  v = jax.lax.fori_loop(0, 50, apply, jnp.ones(form.shape[0], form.dtype))
  return v @ (form @ v)


def on_simplex(v: jax.Array) -> jax.Array:
  """Return the nearest values >= 0 of sum 1, `[n]` (Held, Wolfe and Crowder, Mathematical Programming 6, 1974)."""
  falling = jnp.sort(v)[::-1]
  shares = (jnp.cumsum(falling) - 1.0) / jnp.arange(1, v.shape[0] + 1, dtype=v.dtype)
  kept = jnp.sum(falling > shares)
  return jnp.maximum(v - shares[kept - 1], 0.0)


def tidied(taps: np.ndarray) -> np.ndarray:
  """Return a kernel without weak taps and small islands, its centroid in the middle."""
  taps = np.where(taps < WEAK * taps.max(), 0.0, taps)
  islands, count = ndimage.label(taps > 0, np.ones((3, 3)))
  sums = ndimage.sum_labels(taps, islands, np.arange(count + 1))
  taps = np.where((sums >= min(ALONE * taps.sum(), sums.max()))[islands], taps, 0.0)
  places = np.indices(taps.shape) - np.reshape(taps.shape, (2, 1, 1)) // 2
  taps = ndimage.shift(taps, -np.sum(taps * places, axis=(1, 2)) / taps.sum(), order=1)
  return (taps / taps.sum()).astype(np.float32)


def rescaled(taps: np.ndarray, factor: float, size: int) -> np.ndarray:
  """Return a kernel for a picture that is larger by a factor, `[size, size]`: each tap spread over its pixel."""
  if factor == 1.0 and size == len(taps):
    return taps
  fine, old = 4, taps.shape[0]  # points along a pixel
  points = ((np.arange(old * fine) + 0.5) / fine - 0.5 - old // 2) * factor
  share = np.maximum(1.0 - np.abs(points[None, :] - (np.arange(size) - size // 2)[:, None]), 0.0)
  spread = share @ np.kron(taps, np.full((fine, fine), fine**-2.0)) @ share.T
  return (spread / spread.sum()).astype(np.float32)
