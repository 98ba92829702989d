"""A blur whose light comes from beyond the edges: the picture continues there, and is unknown.

A camera's picture neither wraps around nor is its own mirror image. To assume that it is costs decibels, not at the
edges alone: a blur's inverse spreads what does not fit. Here the unknown picture has a border as wide as the kernel
reaches, which the prior fills.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffinv.operators.base import LinearOperator
from diffinv.operators.blur import CircularBlur
from diffinv.problems import Problem
from diffinv.pytree import pytree, static


@pytree
class BorderedBlur(LinearOperator):
  """The part of k * x in which every pixel has all that it is mixed of."""

  kernel: jax.Array  # [k, l], odd sizes
  corner: tuple[int, int] = static()  # rows above and columns left of that part, at least k // 2 and l // 2
  size: tuple[int, int] = static()  # of that part, pixels

  def __call__(self, x: jax.Array) -> jax.Array:
    """Return the blurred part, `[*size, c]`."""
    blurred = CircularBlur(self.in_shape, self.kernel)(x)  # wraps around in the border alone
    (top, left), (height, width) = self.corner, self.size
    return blurred[top : top + height, left : left + width]

  def inside(self, x: jax.Array) -> jax.Array:
    """Return the picture without its border."""
    (top, left), (height, width) = self.corner, self.size
    return x[top : top + height, left : left + width]


def bordered(y: jax.Array, taps: Any, noise: Any, *, multiple: int = 1) -> Problem:
  """Return the problem of a blurred picture; `problem.operator.inside` cuts what was restored.

  Args:
    y: the blurred picture, `[h, w, c]`, [-1, 1].
    taps: the kernel, `[k, l]`, odd sizes, of sum 1.
    noise: of y.
    multiple: of what edges have to be multiples, `prior.size_multiple`.
  """
  return Problem(bordered_blur(y.shape, taps, multiple=multiple), noise, y)


def bordered_blur(shape: tuple[int, ...], taps: Any, *, multiple: int = 1) -> BorderedBlur:
  """Return the blur whose measurements have a shape, `[h, w, c]`; see `bordered`."""
  height, width, channels = shape
  whole = [-(-(n + k - 1) // multiple) * multiple for n, k in zip((height, width), jnp.shape(taps))]
  corner = ((whole[0] - height) // 2, (whole[1] - width) // 2)
  return BorderedBlur((*whole, channels), jnp.asarray(taps, float), corner, (height, width))
