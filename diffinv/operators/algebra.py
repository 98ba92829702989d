"""Operators made of operators: one after another, and several at once; linear if all of their parts are.

Closed forms of the parts are not those of the whole: its solves are by conjugate gradients.
"""

import math

import jax
import jax.numpy as jnp

from diffinv.operators.base import LinearOperator, Operator
from diffinv.pytree import pytree


class _Composition:
  """y = outer(inner(x)); what is observed and shown is the outer operator's measurement."""

  outer: Operator
  inner: Operator

  def __call__(self, x):
    return self.outer(self.inner(x))

  @property
  def is_picture(self):
    return self.outer.is_picture

  def observed(self, y):
    return self.outer.observed(y)

  def picture(self, y):
    return self.outer.picture(y)


@pytree
class Composition(_Composition, Operator):
  """y = outer(inner(x))."""

  outer: Operator
  inner: Operator


@pytree
class LinearComposition(_Composition, LinearOperator):
  """y = B A x: its adjoint is A^T B^T."""

  outer: LinearOperator  # B
  inner: LinearOperator  # A

  def adjoint(self, y):
    return self.inner.adjoint(self.outer.adjoint(y))


def compose(outer: Operator, inner: Operator) -> Operator:
  """Build `outer` after `inner`: y = outer(inner(x)).

  Raises:
    ValueError: the outer operator does not take what the inner one gives.
  """
  if tuple(outer.in_shape) != tuple(inner.out_shape):
    raise ValueError(
      f"outer: expected an operator on {inner.out_shape}, what the inner one gives, got one on {outer.in_shape}"
    )
  if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
    return LinearComposition(inner.in_shape, outer, inner)
  return Composition(inner.in_shape, outer, inner)


class _Stack:
  """y = (A_1(x), A_2(x), ...), each flattened, one after another: `[m]`, as for noise and residuals."""

  parts: tuple[Operator, ...]

  is_picture = False

  def __call__(self, x):
    return jnp.concatenate([part(x).ravel() for part in self.parts])

  def observed(self, y):
    return jnp.concatenate([part.observed(piece).ravel() for part, piece in zip(self.parts, self.split(y))])

  def split(self, y: jax.Array) -> tuple[jax.Array, ...]:
    """Return the measurement of each part, in its own shape."""
    shapes = [part.out_shape for part in self.parts]
    sizes = [math.prod(shape) for shape in shapes]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(y[i : i + n].reshape(shape) for i, n, shape in zip(starts, sizes, shapes))

  def picture(self, y):
    """Return the pictures of the parts side by side, `[h, w, 1 or 3]`, black below the shorter ones."""
    pictures = [part.picture(piece) for part, piece in zip(self.parts, self.split(y))]
    height, channels = (max(picture.shape[axis] for picture in pictures) for axis in (0, 2))

    def fill(picture):
      color = jnp.broadcast_to(picture, (*picture.shape[:2], channels))
      return jnp.pad(color, ((0, height - picture.shape[0]), (0, 0), (0, 0)), constant_values=-1.0)

    return jnp.concatenate([fill(picture) for picture in pictures], axis=1)


@pytree
class Stack(_Stack, Operator):
  """y = (A_1(x), A_2(x), ...), `[m]`."""

  parts: tuple[Operator, ...]


@pytree
class LinearStack(_Stack, LinearOperator):
  """y = (A_1 x, A_2 x, ...), `[m]`: its adjoint is the sum of theirs."""

  parts: tuple[LinearOperator, ...]

  def adjoint(self, y):
    adjoints = [part.adjoint(piece) for part, piece in zip(self.parts, self.split(y))]
    return sum(adjoints[1:], start=adjoints[0])


def stack(*parts: Operator) -> Operator:
  """Build several measurements of one image at once.

  Where their noises differ, give `noise.Gaussian` a standard deviation for each value, `[m]`.

  Raises:
    ValueError: there are none, or they are of images of different shapes.
  """
  shapes = {tuple(part.in_shape) for part in parts}
  if len(shapes) != 1:
    raise ValueError(f"parts: expected operators on images of one shape, got {sorted(shapes) or 'none'}")
  linear = tuple(part for part in parts if isinstance(part, LinearOperator))
  return LinearStack(parts[0].in_shape, linear) if len(linear) == len(parts) else Stack(parts[0].in_shape, parts)
