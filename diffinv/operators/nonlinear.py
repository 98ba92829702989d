"""Nonlinear measurements of pictures: blur in linear light, and a clipped exposure."""

import jax
import jax.numpy as jnp

from diffinv.operators.base import LinearOperator, Operator, image_shape
from diffinv.operators.blur import motion_blur
from diffinv.pytree import pytree

SENSITIVITY = 3.0  # of `linear_light`: mid-gray sends 0.215 of white's light, as 0.5^2.2 = 0.218
TONE_STEEPNESS = 6.0  # of each part of the tone curve: it rises within about a third of the range
TONE_PARTS = 4
TONE_STRENGTH = 0.5  # part of the tone curve that is not the straight line


def linear_light(x: jax.Array) -> jax.Array:
  """Return the light behind a displayed value: -1 to 0, 1 to 1, like a gamma of 2.2 in between.

  L(x) = (softplus(b x) - softplus(-b)) / b, whose derivative lies within (0, 1) everywhere; a power has no derivative
  at black and no value below it.
  """
  b = SENSITIVITY
  return (jax.nn.softplus(b * x) - jax.nn.softplus(jnp.asarray(-b, x.dtype))) / b


@pytree
class NonlinearBlur(Operator):
  """y = T(k * L(x)): blur of linear light by a fixed kernel, seen through a fixed tone curve T; the shape of x.

  T(v) = -1 + 2 [(1 - a) v + a sum_j w_j S_j(v)], a = 1/2, S_j sigmoids from 0 to 1 over [0, 1]: smooth and increasing,
  with a derivative in [1, 4.1]; T(0) = -1, T(1) = 1.
  """

  blur: LinearOperator  # with edges that reflect
  centers: jax.Array  # of the sigmoids, [j], in [0, 1]
  weights: jax.Array  # w, [j], summing to 1

  def __call__(self, x):
    return self.tone(self.blur(linear_light(x)))

  def tone(self, light: jax.Array) -> jax.Array:
    """Return T of light `[h, w, c]` in [0, 1], on [-1, 1]."""
    centers = self.centers[None, None, None, :]
    low, high, at = (jax.nn.sigmoid(TONE_STEEPNESS * (v - centers)) for v in (0.0, 1.0, light[..., None]))
    curve = jnp.sum(self.weights[None, None, None, :] * (at - low) / (high - low), axis=-1)
    return 2.0 * ((1.0 - TONE_STRENGTH) * light + TONE_STRENGTH * curve) - 1.0


def nonlinear_blur(
  key: jax.Array, shape: tuple[int, int, int], *, size: int = 31, intensity: float = 0.5
) -> NonlinearBlur:
  """Draw a camera's motion and tone curve, once: the operator holds both.

  Blur acts on light, and a camera's response is nonlinear (Tai et al., "Nonlinear Camera Response Functions and Image
  Deblurring", IEEE TPAMI 35(10), 2013). This stands for the learned blur of the literature (Tran et al., CVPR 2021, as
  used in DPS), which needs a network of its own: numbers of the two are not comparable.

  Args:
    key: of the path and the curve.
    shape: of the image, (h, w, c).
    size: of the kernel, odd, in pixels; at least 9.
    intensity: how curved the path is, see `blur.motion_kernel`.

  Raises:
    ValueError: the size is even or below 9, or the intensity is negative.
  """
  k1, k2, k3 = jax.random.split(key, 3)
  shape = image_shape(shape)
  strata = jnp.arange(TONE_PARTS, dtype=float)
  centers = (strata + jax.random.uniform(k2, (TONE_PARTS,))) / TONE_PARTS
  weights = jax.nn.softmax(jax.random.normal(k3, (TONE_PARTS,)))
  return NonlinearBlur(shape, motion_blur(k1, shape, size=size, intensity=intensity), centers, weights)


@pytree
class ClippedExposure(Operator):
  """y = clip(factor x, -1, 1): an exposure that loses lights and shadows. The gradient is 0 where it clips."""

  factor: jax.Array | float

  def __call__(self, x):
    return jnp.clip(self.factor * x, -1.0, 1.0)


def hdr(shape: tuple[int, int, int], *, factor: float = 2.0) -> ClippedExposure:
  """Build the "high dynamic range" measurement of RED-diff (arXiv 2305.04391) and DAPS (arXiv 2407.01521).

  Args:
    shape: of the image, (h, w, c).
    factor: of the exposure, about mid-gray; 2 there.

  Raises:
    ValueError: the factor is not positive.
  """
  if not factor > 0:
    raise ValueError(f"factor: expected a positive exposure, got {factor}")
  return ClippedExposure(image_shape(shape), jnp.asarray(factor, float))
