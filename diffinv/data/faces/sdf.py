"""Signed distances in the plane, their antialiased coverage, and smooth shapes: the vocabulary of the procedural faces.

Distances are negative inside. Every function is elementwise over arrays of one shape `[h, w]`, with scalars `[]` for
the parameters of a shape. Distances of curved shapes are first order, f / |grad f|: exact at the edge, which is where
coverage reads them.

Source: Inigo Quilez, "2D distance functions" and "Smooth minimum", https://iquilezles.org/articles.
"""

import jax.numpy as jnp

FILTER = 0.8  # half width of the edge ramp in pixels: a smoothstep of 1.6 pixels is close to a box filter of one


def smoothstep(low, high, x):
  """Return the step t² / (t² + (1 - t)²) from 0 at `low` to 1 at `high`; `low > high` gives a falling step.

  It ends in a division on purpose: XLA repeats cheap arithmetic in each of the loops that read it (three channels,
  every later layer), but stores the result of an expensive operation once.
  """
  t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
  return t * t / (1.0 - 2.0 * t * (1.0 - t))


def indicator(condition):
  """Return 1.0 where `condition` holds, else 0.0; float32."""
  return jnp.where(condition, jnp.float32(1.0), jnp.float32(0.0))


def cover(d, pixel):
  """Return the share of a pixel that lies inside, 0 to 1, from the signed distance `d` at its center."""
  return smoothstep(FILTER, -FILTER, d / pixel)


def stroke(d, half, pixel):
  """Return the coverage of the band |d| < `half`; a line thinner than a pixel fades instead of thickening."""
  return cover(d - half, pixel) - cover(d + half, pixel)


def bell(x):
  """Return (1 - x²/4)⁴ within |x| < 2 and 0 outside: exp(-x²) to within 0.04, at a third of its cost."""
  t = jnp.maximum(1.0 - 0.25 * x * x, 0.0)
  t = t * t
  return t * t


def blob(x, y, rx, ry):
  """Return a round bump of height 1 that falls like a Gaussian, exp(-(x/rx)² - (y/ry)²), and ends at twice that."""
  x, y = x * (1.0 / rx), y * (1.0 / ry)
  t = jnp.maximum(1.0 - 0.25 * (x * x + y * y), 0.0)
  t = t * t
  return t * t


def wave(x):
  """Return a sine of x radians made of parabolas, exact at its zeros and peaks, off by 0.06 between."""
  t = x * (0.5 / jnp.pi)
  t = t - jnp.floor(t + 0.5)
  return t * (8.0 - 16.0 * jnp.abs(t))


def length(x, y):
  """Return the Euclidean length of (x, y), differentiable at 0."""
  return jnp.sqrt(x * x + y * y + 1e-9)


def ellipse(x, y, rx, ry):
  """Return the first-order distance to an ellipse of half axes `rx`, `ry` at the origin."""
  f = jnp.sqrt(jnp.square(x / rx) + jnp.square(y / ry) + 1e-6)
  return f * (f - 1.0) / jnp.sqrt(jnp.square(x / (rx * rx)) + jnp.square(y / (ry * ry)) + 1e-6)


def round_box(x, y, rx, ry, corner):
  """Return the distance to a box of half sides `rx`, `ry` with rounded corners of radius `corner`."""
  qx, qy = jnp.abs(x) - rx + corner, jnp.abs(y) - ry + corner
  outside = jnp.sqrt(jnp.square(jnp.maximum(qx, 0.0)) + jnp.square(jnp.maximum(qy, 0.0)) + 1e-9)
  return outside + jnp.minimum(jnp.maximum(qx, qy), 0.0) - corner


def between(y, low, high):
  """Return the vertical distance to the strip low < y < high, whose bounds may vary along x."""
  return jnp.maximum(y - high, low - y)


def smooth_min(a, b, radius):
  """Return the union of two distances with its inner corner rounded over `radius`."""
  h = jnp.maximum(radius - jnp.abs(a - b), 0.0) / radius
  return jnp.minimum(a, b) - 0.25 * radius * h * h


def soft_abs(x, radius):
  """Return |x| rounded near 0 over `radius`, still 0 at 0."""
  return jnp.sqrt(x * x + radius * radius) - radius


def implicit(f, fx, fy):
  """Return the first-order signed distance to f = 0 (f > 0 inside) from its gradient (fx, fy)."""
  return -f / jnp.sqrt(fx * fx + fy * fy + 1e-3)
