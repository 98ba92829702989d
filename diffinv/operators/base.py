"""What a measurement operator is: a frozen pytree that maps one image to its noise-free measurement.

`LinearOperator` derives everything from `__call__`: the adjoint by transposition, the regularized solve and the
pseudo-inverse by conjugate gradients. Families override these where a closed form exists (a mask, an FFT, the SVD
of a separable resize).

Arrays are cast to the default float type when an operator is built: build it under `jax.enable_x64` for float64.
"""

import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffinv.pytree import pytree, static

CG_STEPS = 500
CG_EPS = 100.0  # the relative residual to stop at, in epsilons of the float type: 1e-5 in float32, its limit here
PINV_CUTOFF = 1e-3  # singular values below this part of the largest count as zero: they would amplify noise 1000 times
PINV_RIDGE = PINV_CUTOFF**2  # the same for a solve by CG, relative to ||A||^2 = O(1)
NORM_STEPS = 60


@pytree
class Operator:
  """A differentiable map from an image `[h, w, c]` in [-1, 1] to a measurement."""

  in_shape: tuple[int, ...] = static()

  def __call__(self, x: jax.Array) -> jax.Array:
    raise NotImplementedError

  @property
  def is_picture(self) -> bool:
    """Whether a measurement is itself a picture, so that an image file can hold it; a class may set it."""
    return True

  @property
  def out_shape(self) -> tuple[int, ...]:
    """The shape of a measurement."""
    return jax.eval_shape(self, jax.ShapeDtypeStruct(self.in_shape, jnp.result_type(float))).shape

  def observed(self, y: jax.Array) -> jax.Array:
    """Return 1 where a value of `y` is a measurement and 0 where it is a placeholder, the shape of `y`."""
    return jnp.ones_like(y)

  def picture(self, y: jax.Array) -> jax.Array:
    """Return a measurement as a picture to look at, `[h, w, 1 or 3]`, [-1, 1] where the measurement is: here, itself.

    Operators whose measurements are not pictures define in their own `picture` what is shown.

    Raises:
      ValueError: `y` is no picture.
    """
    return as_picture(y)


class Spectral(NamedTuple):
  """A singular value decomposition A = U diag(s) V^T in closed form, as functions; coordinates are real.

  Coordinates with s = 0, and images outside the span of V, are not observed.
  """

  values: jax.Array  # s >= 0, broadcasts against coordinates
  analyze: Callable[[jax.Array], jax.Array]  # V^T x, from an image
  synthesize: Callable[[jax.Array], jax.Array]  # V c, an image
  measure: Callable[[jax.Array], jax.Array]  # U^T y, from a measurement


@pytree
class LinearOperator(Operator):
  """A linear map A, with A^T, A^+ and (A A^T + gamma I)^-1."""

  def adjoint(self, y: jax.Array) -> jax.Array:
    """Return A^T y, `in_shape`."""
    transpose = jax.linear_transpose(self, jax.ShapeDtypeStruct(self.in_shape, y.dtype))
    return transpose(y)[0]

  def gram(self, v: jax.Array) -> jax.Array:
    """Return A A^T v, `out_shape`."""
    return self(self.adjoint(v))

  def solve(self, v: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """Return (A A^T + gamma I)^-1 v, `out_shape`, for gamma > 0."""
    return conjugate_gradients(lambda u: self.gram(u) + gamma * u, v, CG_STEPS)

  def ridge(self, y: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """Return A^T (A A^T + gamma I)^-1 y, the minimum of ||y - A x||^2 + gamma ||x||^2, `in_shape`, for gamma > 0."""
    return self.adjoint(self.solve(y, gamma))

  def pinv(self, y: jax.Array) -> jax.Array:
    """Return A^+ y, the least-squares image of least norm, `in_shape`.

    Singular values below about `PINV_CUTOFF` (of ||A|| = O(1)) are left out, or damped if there is no decomposition.
    """
    b = self.spectral()
    return self.ridge(y, PINV_RIDGE) if b is None else b.synthesize(over(b.values, b.measure(y)))

  def spectral(self) -> Spectral | None:
    """Return the singular value decomposition, or None if it has no closed form (reflecting blurs)."""
    return None


def over(values: jax.Array, coords: jax.Array) -> jax.Array:
  """Return coordinates over singular values, 0 where these are 0."""
  return jnp.where(values > 0, coords / jnp.where(values > 0, values, 1.0), 0.0)


def as_picture(x: jax.Array) -> jax.Array:
  """Return `x`, `[h, w, 1 or 3]`.

  Raises:
    ValueError: it is of another shape.
  """
  if x.ndim != 3 or x.shape[-1] not in (1, 3):
    raise ValueError(f"picture: expected gray or color, [h, w, 1 or 3], got {x.shape}; choose the channels to show")
  return x


def conjugate_gradients(matvec: Callable, b: jax.Array, iterations: int) -> jax.Array:
  """Solve matvec(w) = b from zero in at most `iterations` steps, one product each; it stops at float precision.

  It also stops before a direction along which the matrix is not positive, since a step there would lead away from the
  solution. A covariance has no such direction, but a network's estimate of one may.

  JAX's own solver starts with a product at zero, which costs a backward pass if the covariance is a network's.
  """
  least = (CG_EPS * float(jnp.finfo(b.dtype).eps)) ** 2 * jnp.sum(b**2)

  def going(carry):
    _, _, _, power, count = carry
    return (power > least) & (count < iterations)

  def step(carry):
    w, residual, direction, power, count = carry
    product = matvec(direction)
    curvature = jnp.sum(direction * product)
    length = jnp.where(curvature > 0, power / jnp.where(curvature > 0, curvature, 1.0), 0.0)
    residual = residual - length * product
    now = jnp.where(curvature > 0, jnp.sum(residual**2), 0.0)  # 0: the end
    return w + length * direction, residual, residual + now / power * direction, now, count + 1

  start = (jnp.zeros_like(b), b, b, jnp.sum(b**2), 0)
  return jax.lax.while_loop(going, step, start)[0]


@jax.jit
def norm_squared(operator: LinearOperator) -> jax.Array:
  """Estimate ||A||^2, [], from below by power iteration."""
  dtype = jnp.result_type(float)
  x = jax.random.normal(jax.random.key(0), operator.in_shape, dtype)

  def step(_, carry):
    x, _ = carry
    x = x / jnp.sqrt(jnp.sum(x**2))
    y = operator(x)
    return operator.adjoint(y), jnp.sum(jnp.abs(y) ** 2)

  return jax.lax.fori_loop(0, NORM_STEPS, step, (x, jnp.zeros((), dtype)))[1]


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """Return `shape` as (height, width, channels).

  Raises:
    ValueError: it is not three positive whole numbers.
  """
  shape = tuple(shape)
  if len(shape) != 3 or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape):
    raise ValueError(f"shape: expected (height, width, channels) of one image, got {shape}; leave out the batch")
  height, width, channels = map(int, shape)
  return height, width, channels
