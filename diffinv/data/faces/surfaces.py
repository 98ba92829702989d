"""The surfaces of a portrait: where each pixel lies on the turned head, and which way the surface faces there.

A head is a stack of elliptic cross-sections of width W(v) and depth D(v). Turned by the yaw θ, the section at height v
spans |x| < R, R² = W² cos²θ + D² sin²θ, and the ray through x meets it in closed form:

  sin(φ + ψ) = x / R,  sin ψ = D sin θ / R,  a = W sin φ,

which gives every pixel its azimuth φ and its place (a, v) on the skin. Features are drawn at that place, so they
foreshorten, shift with parallax and vanish behind the head by themselves. Nose, lips, sockets and cheeks are a relief
on the same coordinates; its gradient tilts the normal. Hair and hats are larger stacks about the same axis.

Units are those of `parameters`; images are `[h, w]`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from diffinv.data.faces import sdf
from diffinv.data.faces.parameters import Camera, FaceParams, Head, Light, Pose
from diffinv.data.faces.sdf import bell, blob, smoothstep


class View(NamedTuple):
  """The pixels of a picture in three frames, `[size, size]` each."""

  pixel: jax.Array  # side of a pixel, in head half-heights
  px: jax.Array  # picture coordinates, -1 .. 1
  py: jax.Array
  bx: jax.Array  # upright coordinates about the head's center
  by: jax.Array
  x: jax.Array  # the same, rolled with the head
  y: jax.Array


class Surface(NamedTuple):
  """What each pixel shows of a surface, `[h, w]` each."""

  d: jax.Array  # distance to the silhouette
  side: jax.Array  # sine of the azimuth
  front: jax.Array  # cosine of the azimuth
  a: jax.Array  # place across
  v: jax.Array  # place upwards
  normal: tuple  # x, y, z in the picture's frame


class Sun(NamedTuple):
  """The light that falls on everything."""

  direction: tuple  # toward the light: x, y, z
  key: jax.Array  # irradiance, [3, 1, 1]
  ambient: jax.Array


def stored(function: Callable) -> Callable:
  """Make XLA compile `function` by itself and store its results.

  XLA's CPU fusion would otherwise repeat shared arithmetic in every loop that reads it: without these borders a
  picture takes ten times as long, and minutes to compile. The metadata is a hint; nothing else depends on it.
  """
  compiled = jax.jit(function)

  @functools.wraps(function)
  def call(*args):
    with set_xla_metadata(inlineable="false"):
      return compiled(*args)

  return call


def view_of(camera: Camera, pose: Pose, size: int) -> View:
  """Return the pixels of a picture of `size` x `size`, as the camera frames the head."""
  grid = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
  px, py = jnp.meshgrid(grid, -grid)
  bx, by = (px - camera.x) / camera.scale, (py - camera.y) / camera.scale
  # The neck is the pivot of the roll.
  c, s, pivot = jnp.cos(pose.roll), jnp.sin(pose.roll), 0.9
  x, y = c * bx - s * (by + pivot), s * bx + c * (by + pivot) - pivot
  return View(2.0 / size / camera.scale, px, py, bx, by, x, y)


def sun_of(light: Light) -> Sun:
  """Return the direction and the color of the light."""
  ce = jnp.cos(light.elevation)
  direction = (ce * jnp.sin(light.azimuth), jnp.sin(light.elevation), ce * jnp.cos(light.azimuth))
  tint = light.warmth * jnp.asarray([1.0, 0.1, -1.0])[:, None, None]
  return Sun(direction, light.key * (1.0 + tint), light.ambient * (1.0 - tint))


def turned(view: View, pose: Pose, width, depth, profile: Callable) -> Surface:
  """Return the visible surface of a stack of ellipses whose squared scales at height y are `profile(y)`, a pair."""
  (across, along), (slope_across, slope_along) = jax.jvp(profile, (view.y,), (jnp.ones_like(view.y),))
  c, s = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
  r2 = (width * c) ** 2 * across + (depth * s) ** 2 * along
  slope = (width * c) ** 2 * slope_across + (depth * s) ** 2 * slope_along
  d = sdf.implicit(r2 - view.x * view.x, -2.0 * view.x, slope)
  w, z = width * jnp.sqrt(jnp.maximum(across, 1e-3)), depth * jnp.sqrt(jnp.maximum(along, 1e-3))
  r = jnp.sqrt((c * w) ** 2 + (s * z) ** 2)
  sine = jnp.clip(view.x / r, -0.999, 0.999)
  q = jnp.sqrt(1.0 - sine * sine)
  side, front = (sine * w * c - q * z * s) / r, (q * w * c + sine * z * s) / r
  up = -0.5 * (slope_across * side**2 / jnp.maximum(across, 1e-2) + slope_along * front**2 / jnp.maximum(along, 1e-2))
  normal = unit(side / w * c + front / z * s, up, front / z * c - side / w * s)
  return Surface(d, side, front, side * w, view.y - jnp.sin(pose.pitch) * z * q, normal)


def unit(x, y, z):
  """Return the vector (x, y, z) at unit length."""
  length = jnp.sqrt(x * x + y * y + z * z + 1e-6)
  return x / length, y / length, z / length


@stored
def skull_of(view: View, pose: Pose, head: Head) -> Surface:
  """Return the bare head."""

  def profile(y):
    t = jnp.abs(y)
    upper = 1.0 - t * t * (0.7 + 0.3 * t)
    lower = 1.0 - t * t * (1.0 - head.jaw + head.jaw * t * t)
    above_chin = jnp.minimum(t * t, 1.0)
    narrow, deep = 1.0 - head.taper * above_chin, 1.0 - 0.35 * head.taper * above_chin
    return jnp.where(y > 0, upper, lower * narrow**2), jnp.where(y > 0, upper, lower * deep**2)

  return turned(view, pose, head.width, head.depth, profile)


def shell_profile(top, flare) -> Callable:
  """Return the profile of hair or a hat: flat-topped above the eyes, narrowing by `flare` below."""

  def profile(y):
    t = y / (1.0 + top)
    q = jnp.where(y > 0, 1.0 - t * t * (0.45 + 0.55 * t * t), 1.0 - flare * y * y)
    return q, q

  return profile


def relief(a, v, params: FaceParams):
  """Return the height of the flesh over the smooth skull at (a, v); `a` is already shifted along the nose."""
  nose, mouth, eyes, head = params.nose, params.mouth, params.eyes, params.head
  m = jnp.abs(a)
  ridge = smoothstep(0.2, -nose.length, v) * smoothstep(-nose.length - 0.12, -nose.length + 0.02, v)
  wide = nose.width * (0.7 + 0.5 * smoothstep(0.0, -nose.length, v))
  height = nose.bridge * ridge * bell(a / wide)
  height += 0.035 * blob(m - nose.wings, v + nose.length + 0.01, 0.06, 0.06)
  height -= 0.055 * blob(m - eyes.spacing, v - eyes.height - 0.06, 0.19, 0.13)
  height += 0.025 * blob(m - eyes.spacing, v - eyes.height, 0.15, 0.09)
  height += 0.03 * blob(m - 0.28, v - 0.24, 0.25, 0.09)
  height += head.cheek * blob(m - 0.42, v + 0.24, 0.2, 0.2) + head.chin * blob(a, v + 0.86, 0.2, 0.13)
  smile = jnp.maximum(mouth.smile, 0.0)
  height += 0.4 * smile * blob(m - 0.36, v + 0.34, 0.15, 0.14)
  height += 0.05 * blob(a, v - mouth.height, 0.3, 0.2) - 0.02 * blob(a, v - mouth.height + 0.16, 0.16, 0.05)
  return height


@stored
def slopes(params: FaceParams, a, v):
  """Return the gradient of the relief, across and upwards."""
  ones = jnp.ones_like(a)
  _, across = jax.jvp(lambda a: relief(a, v, params), (a,), (ones,))
  _, upwards = jax.jvp(lambda v: relief(a, v, params), (v,), (ones,))
  return across, upwards


@stored
def flesh(pose: Pose, skull: Surface, slopes):
  """Return the normal of the skin: the skull's, tilted by the relief."""
  fade = smoothstep(-0.1, 0.3, skull.front)
  across, upwards = slopes[0] * fade, slopes[1] * fade
  nx, ny, nz = skull.normal
  return unit(nx - across * jnp.cos(pose.yaw), ny - upwards, nz + across * jnp.sin(pose.yaw))
