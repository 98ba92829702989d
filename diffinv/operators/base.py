"""What a measurement operator is: a frozen pytree that maps one image to its noise-free measurement.

`LinearOperator` derives everything from `__call__`: the adjoint by transposition, the pseudo-inverse and the
regularised solve by conjugate gradients. Families override these where a closed form exists (a mask, an FFT, the SVD
of a separable resize).
"""

import jax
import jax.numpy as jnp

from diffinv.pytree import pytree, static

CG_TOLERANCE = 1e-6  # of the relative residual; float32 cannot do much better
CG_STEPS = 100
PINV_RIDGE = 1e-6  # relative to ||A||^2 = O(1): keeps CG on a rank-deficient A A^T from amplifying rounding errors


@pytree
class Operator:
  """A differentiable map from an image `[h, w, c]` in [-1, 1] to a measurement."""

  in_shape: tuple[int, ...] = static()

  def __call__(self, x: jax.Array) -> jax.Array:
    raise NotImplementedError

  @property
  def out_shape(self) -> tuple[int, ...]:
    """The shape of a measurement."""
    return jax.eval_shape(self, jax.ShapeDtypeStruct(self.in_shape, jnp.float32)).shape


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
    return jax.scipy.sparse.linalg.cg(
      lambda u: self.gram(u) + gamma * u, v, tol=CG_TOLERANCE, atol=0.0, maxiter=CG_STEPS
    )[0]

  def pinv(self, y: jax.Array) -> jax.Array:
    """Return A^+ y, the least-squares image of least norm, `in_shape`."""
    return self.adjoint(self.solve(y, PINV_RIDGE))
