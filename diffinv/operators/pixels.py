"""Operators that act on each pixel alone: masks, the identity, the luminance. All closed forms."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.operators.base import LinearOperator, Spectral, image_shape
from diffinv.pytree import pytree

LUMA = (0.299, 0.587, 0.114)  # R, G, B of ITU-R BT.601


@pytree
class Identity(LinearOperator):
  """y = x: denoising."""

  def __call__(self, x):
    return x

  def adjoint(self, y):
    return y

  def pinv(self, y):
    return y

  def solve(self, v, gamma):
    return v / (1.0 + gamma)

  def spectral(self):
    return Spectral(jnp.ones(self.in_shape), lambda x: x, lambda coords: coords, lambda y: y)


def identity(shape: tuple[int, int, int]) -> Identity:
  """Build the identity on images of `shape`."""
  return Identity(image_shape(shape))


@pytree
class Inpainting(LinearOperator):
  """y = M x, full-shaped and zero off the mask: M M^T = M, M^+ = M^T = M."""

  mask: jax.Array  # kept pixels, [h, w, 1], 0 or 1

  def __call__(self, x):
    return self.mask * x

  def adjoint(self, y):
    return self.mask * y

  def pinv(self, y):
    return self.mask * y

  def solve(self, v, gamma):
    return v / (self.mask + gamma)

  def spectral(self):
    return Spectral(self.mask, lambda x: x, lambda coords: coords, lambda y: y)

  def observed(self, y):
    return jnp.broadcast_to(self.mask, y.shape)


def inpainting(mask, *, channels: int = 3) -> Inpainting:
  """Build inpainting from a mask.

  Args:
    mask: kept pixels, `[h, w]` or `[h, w, 1]`, 0 or 1 (or boolean).
    channels: of the image; all are kept or missing alike.

  Raises:
    ValueError: the mask has another shape or other values, or keeps nothing.
  """
  mask = np.asarray(mask)
  if mask.ndim not in (2, 3) or mask.shape[2:] not in ((), (1,)):
    raise ValueError(f"mask: expected [h, w] or [h, w, 1], got {mask.shape}; channels are kept or missing alike")
  if not np.all((mask == 0) | (mask == 1)):
    raise ValueError(
      f"mask: expected 0 (missing) and 1 (kept) only, got values in [{mask.min()}, {mask.max()}]; threshold it first"
    )
  if not np.any(mask):
    raise ValueError("mask: expected at least one kept pixel (1), got none; is it inverted?")
  mask = mask.reshape(*mask.shape[:2], 1)
  return Inpainting(image_shape((*mask.shape[:2], channels)), jnp.asarray(mask, float))


def box(
  key: jax.Array,
  shape: tuple[int, int, int],
  *,
  box_size: int | tuple[int, int] = 128,
  margin: int | tuple[int, int] = 16,
) -> Inpainting:
  """Build inpainting of a box at a random place.

  The top-left corner is uniform on [margin, size - margin - box_size), as DPS draws it: [16, 111] for the defaults at
  256 pixels. A box that just fits lies at the margin.

  Args:
    key: of the place.
    shape: of the image, (h, w, c).
    box_size: missing pixels, one number or (height, width).
    margin: pixels that stay between the box and the edge, one number or (vertical, horizontal).

  Raises:
    ValueError: the box and its margins do not fit into the image.
  """
  shape = image_shape(shape)
  sizes, margins = _pair(box_size), _pair(margin)
  for axis, size, edge, pixels in zip(("height", "width"), sizes, margins, shape):
    whole = isinstance(size, numbers.Integral) and isinstance(edge, numbers.Integral)
    if not whole or size < 1 or edge < 0 or size + 2 * edge > pixels:
      raise ValueError(
        f"box_size: expected 1 to {pixels - 2 * edge} whole pixels in {axis} {pixels} with margin {edge}, got {size}; "
        "lower box_size or margin"
      )
  missing = []
  for axis_key, size, edge, pixels in zip(jax.random.split(key), sizes, margins, shape):
    first = jax.random.randint(axis_key, (), edge, max(pixels - edge - size, edge + 1))
    index = jnp.arange(pixels)
    missing.append((index >= first) & (index < first + size))
  hole = missing[0][:, None, None] & missing[1][None, :, None]
  return Inpainting(shape, 1.0 - hole.astype(float))


def random_mask(key: jax.Array, shape: tuple[int, int, int], *, missing: float = 0.92) -> Inpainting:
  """Build inpainting of pixels missing at random, all channels alike.

  Args:
    key: of the places.
    shape: of the image, (h, w, c).
    missing: part of the pixels, in [0, 1); exactly round(missing h w) of them. DPS: 0.92; its code draws 0.3-0.7.

  Raises:
    ValueError: `missing` is out of range or leaves no pixel.
  """
  shape = image_shape(shape)
  pixels = shape[0] * shape[1]
  if not 0.0 <= missing < 1.0 or round(missing * pixels) == pixels:
    raise ValueError(f"missing: expected a part in [0, 1) that leaves a pixel of {pixels}, got {missing}")
  kept = jax.random.permutation(key, pixels) >= round(missing * pixels)
  return Inpainting(shape, kept.astype(float).reshape(shape[0], shape[1], 1))


@pytree
class Grayscale(LinearOperator):
  """y = sum_c w_c x_c, `[h, w, 1]`: A A^T = ||w||^2 I."""

  weights: jax.Array  # [c], summing to 1, so that y is in [-1, 1] like x

  def __call__(self, x):
    return jnp.sum(self._across(x) * x, axis=-1, keepdims=True)

  def adjoint(self, y):
    return self._across(y) * y

  def pinv(self, y):
    return self.adjoint(y) / jnp.sum(self.weights**2)

  def solve(self, v, gamma):
    return v / (jnp.sum(self.weights**2) + gamma)

  def spectral(self):
    s = jnp.sqrt(jnp.sum(self.weights**2))
    return Spectral(s, lambda x: self(x) / s, lambda coords: self.adjoint(coords) / s, lambda y: y)

  def _across(self, x):
    return jnp.expand_dims(self.weights, tuple(range(x.ndim - 1)))


def grayscale(shape: tuple[int, int, int], *, weights=LUMA) -> Grayscale:
  """Build the luminance of images of `shape`: colorization.

  Args:
    shape: of the image, (h, w, c).
    weights: of the channels, `[c]`, summing to 1; BT.601 luma for RGB.

  Raises:
    ValueError: there is not one weight per channel, or they do not sum to 1.
  """
  shape = image_shape(shape)
  weights = np.asarray(weights, np.float64)
  if weights.shape != (shape[2],):
    raise ValueError(f"weights: expected one per channel, [{shape[2]}], got shape {weights.shape}")
  if abs(weights.sum() - 1.0) > 1e-6:
    raise ValueError(f"weights: expected a sum of 1, got {weights.sum():g}; divide them by it")
  return Grayscale(shape, jnp.asarray(weights, float))


def _pair(value: Any) -> tuple[int, ...]:
  return (value, value) if np.ndim(value) == 0 else tuple(value)
