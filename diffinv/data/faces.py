"""Procedural portraits: an endless, license-free training set of faces, drawn by pure JAX.

A head is a stack of elliptic cross-sections of width W(v) and depth D(v). Turned by the yaw θ, the section at height v
spans |x| < R, R² = W² cos²θ + D² sin²θ, and the ray through x meets it in closed form:

  sin(φ + ψ) = x / R,  sin ψ = D sin θ / R,  a = W sin φ,

which gives every pixel its azimuth φ and place (a, v) on the skin. Features are drawn there, so they foreshorten,
slide with parallax and vanish behind the head by themselves. Nose, lips, sockets and cheeks are a relief on the same
coordinates; its gradient tilts the normal, and one light shades everything. Hair and hats are larger stacks about the
same axis. Edges are covered by signed distances (`diffinv.data.sdf`). Textures are not filtered: wrinkles, freckles and
strands are as fine as a pixel at 64 pixels, and coarser than one from 128 on; and the corners of eyes have a hard edge.

Lengths are in head half-heights: the chin is at v = -1, the eyes near 0, the crown at 1; x grows to the right of the
picture, y up, z toward the viewer. Colors are display values in [0, 1]; a light of irradiance E turns a color c
into c sqrt(E), a gamma of 2. Images are `[3, h, w]` inside this file and `[h, w, 3]` at its border.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from diffinv.data import sdf
from diffinv.data.sdf import bell, blob, cover, smoothstep, stroke, wave


class Camera(NamedTuple):
  """Framing and exposure."""

  x: jax.Array  # center of the head in the picture, which spans -1 .. 1
  y: jax.Array
  scale: jax.Array  # half-height of the head in the same unit
  exposure: jax.Array  # gain of display values
  warmth: jax.Array  # white balance, > 0 toward red


class Pose(NamedTuple):
  """Turn of the head, radians."""

  yaw: jax.Array  # > 0 turns the face to the right of the picture
  pitch: jax.Array  # > 0 looks up
  roll: jax.Array  # > 0 tilts the crown to the right of the picture


class Head(NamedTuple):
  """Shape of the skull and its flesh."""

  width: jax.Array  # half-width at the temples
  depth: jax.Array  # half-depth
  jaw: jax.Array  # squareness of the lower face, 0 (ellipse) to 1.3
  taper: jax.Array  # how much the chin is narrower than the temples, 0 .. 1
  cheek: jax.Array  # relief of the cheek bones
  chin: jax.Array  # relief of the chin
  age: jax.Array  # depth of folds, 0 .. 1


class Skin(NamedTuple):
  """Color and finish of the skin."""

  color: jax.Array  # [3]
  blush: jax.Array  # 0 .. 1
  gloss: jax.Array  # strength of the highlight
  freckles: jax.Array  # 0 .. 1


class Eyes(NamedTuple):
  """Eyes, drawn twice by symmetry except for the gaze."""

  spacing: jax.Array  # distance of each from the middle
  height: jax.Array
  width: jax.Array  # half-width
  open: jax.Array  # height of the upper lid over the corner line
  tilt: jax.Array  # slope of the corner line, > 0 lifts the outer corners
  gaze_x: jax.Array  # offset of the iris
  gaze_y: jax.Array
  iris: jax.Array  # radius
  color: jax.Array  # of the iris, [3]
  lash: jax.Array  # half-thickness of the upper lash line
  shadow: jax.Array  # make-up on the lid, 0 .. 1
  shadow_color: jax.Array  # [3]


class Brows(NamedTuple):
  """Eyebrows."""

  height: jax.Array  # above the eyes
  arch: jax.Array
  tilt: jax.Array  # > 0 lifts the outer ends
  thickness: jax.Array  # half-thickness at the inner end
  color: jax.Array  # [3]


class Nose(NamedTuple):
  """Nose."""

  length: jax.Array  # of the tip below the eyes
  width: jax.Array  # of the ridge
  wings: jax.Array  # distance of each nostril from the middle
  bridge: jax.Array  # height of the ridge over the face


class Mouth(NamedTuple):
  """Mouth and expression."""

  height: jax.Array  # of the closed line, negative
  width: jax.Array  # half-width
  smile: jax.Array  # lift of the corners, negative frowns
  open: jax.Array  # gap between the lips
  upper: jax.Array  # thickness of the upper lip
  lower: jax.Array  # thickness of the lower lip
  color: jax.Array  # [3]


class Hair(NamedTuple):
  """Hair: a shell round the skull cut by a hairline, and a curtain behind it."""

  top: jax.Array  # thickness over the crown
  side: jax.Array  # thickness beside the temples
  flare: jax.Array  # how fast the shell narrows below the eyes
  line: jax.Array  # height of the hairline over the nose
  arch: jax.Array  # its fall from there to the ears
  part: jax.Array  # its slope, signed
  fringe: jax.Array  # amplitude of its locks
  edge: jax.Array  # 1 - cos azimuth where the side hair begins
  bottom: jax.Array  # height where the side hair ends
  close: jax.Array  # height of a closure under the chin (scarves); -9 for none
  back: jax.Array  # height where the curtain behind ends
  spread: jax.Array  # half-width of that curtain at its end
  curl: jax.Array  # amplitude of the wavy outline
  bun: jax.Array  # radius of a bun or tail, negative for none
  bun_x: jax.Array
  bun_y: jax.Array
  density: jax.Array  # 0 bald, 1 full
  strands: jax.Array  # contrast of the strands
  gloss: jax.Array
  phase: jax.Array  # of curls and locks, radians
  color: jax.Array  # [3]


class Beard(NamedTuple):
  """Beard, mustache and stubble."""

  density: jax.Array  # of the beard, 0 .. 1
  mustache: jax.Array  # 0 .. 1
  line: jax.Array  # how high it climbs the cheeks
  length: jax.Array  # beyond the chin
  color: jax.Array  # [3]


class Glasses(NamedTuple):
  """Glasses, on a plane before the face."""

  worn: jax.Array  # 0 or 1
  width: jax.Array  # half-width of a lens
  height: jax.Array  # half-height of a lens
  corner: jax.Array  # roundness of a lens, 0 .. 1
  frame: jax.Array  # half-thickness
  tint: jax.Array  # opacity of the lenses
  color: jax.Array  # of the frame, [3]
  lens: jax.Array  # color of the lenses, [3]


class Hat(NamedTuple):
  """Hats: a crown over the hair, a band, a brim."""

  worn: jax.Array  # 0 or 1
  top: jax.Array  # thickness over the crown
  line: jax.Array  # height of the edge
  band: jax.Array  # height of the band
  ribs: jax.Array  # contrast of knitted ribs
  brim_x: jax.Array  # half-width of the brim, negative for none
  brim_y: jax.Array  # half-height of the brim as seen
  brim_z: jax.Array  # how far its center lies before the axis
  color: jax.Array  # [3]
  trim: jax.Array  # [3]


class Ears(NamedTuple):
  """Ears and earrings."""

  size: jax.Array
  out: jax.Array  # how far they stand off
  ring: jax.Array  # radius of the earring, negative for none
  metal: jax.Array  # [3]


class Body(NamedTuple):
  """Neck, shoulders and clothes."""

  neck: jax.Array  # half-width
  shoulder: jax.Array  # half-width
  top: jax.Array  # height of the shoulders
  turn: jax.Array  # sideways offset of the chest
  collar: jax.Array  # height of the neckline in the middle
  slope: jax.Array  # of the neckline
  round: jax.Array  # roundness of the neckline
  trim: jax.Array  # width of the collar band
  stripe: jax.Array  # contrast of the pattern, 0 .. 1
  check: jax.Array  # 0 stripes, 1 checks
  frequency: jax.Array  # radians per head half-height
  angle: jax.Array  # of the stripes, radians
  color: jax.Array  # [3]
  second: jax.Array  # [3]


class Light(NamedTuple):
  """One key light and an ambient."""

  azimuth: jax.Array  # radians, > 0 from the right of the picture
  elevation: jax.Array  # radians, > 0 from above
  key: jax.Array  # irradiance
  ambient: jax.Array  # irradiance
  warmth: jax.Array  # of the key, against the ambient


class Background(NamedTuple):
  """What is behind: a gradient, blurred lamps, the edges of a room, a soft texture."""

  first: jax.Array  # [3]
  second: jax.Array  # [3]
  angle: jax.Array  # of the gradient, radians
  lamps: jax.Array  # opacity of the blurred lamps
  lamp_xyr: jax.Array  # center and radius of each, [6, 3]
  lamp_color: jax.Array  # [6, 3]
  wall: jax.Array  # opacity of the wall
  wall_x: jax.Array  # where it begins
  wall_slope: jax.Array
  texture: jax.Array  # amplitude of the soft texture
  phase: jax.Array  # of the texture, radians


class FaceParams(NamedTuple):
  """Everything that a portrait is drawn from; leaves are scalars `[]`, colors `[3]`."""

  camera: Camera
  pose: Pose
  head: Head
  skin: Skin
  eyes: Eyes
  brows: Brows
  nose: Nose
  mouth: Mouth
  hair: Hair
  beard: Beard
  glasses: Glasses
  hat: Hat
  ears: Ears
  body: Body
  light: Light
  background: Background


# ---------------------------------------------------------------------------------------------------- distribution

# Light to deep, and the two ends of the undertone.
SKIN = (
  (0.96, 0.83, 0.75), (0.94, 0.78, 0.67), (0.90, 0.72, 0.58), (0.85, 0.65, 0.50), (0.76, 0.55, 0.39),
  (0.65, 0.44, 0.31), (0.53, 0.36, 0.25), (0.43, 0.29, 0.20), (0.36, 0.24, 0.18),
)  # fmt: skip
HAIR_COLORS = (
  (0.07, 0.06, 0.07), (0.13, 0.09, 0.08), (0.22, 0.14, 0.10), (0.34, 0.21, 0.13), (0.46, 0.31, 0.18),
  (0.66, 0.50, 0.30), (0.84, 0.71, 0.48), (0.55, 0.24, 0.11), (0.70, 0.35, 0.16), (0.55, 0.55, 0.56),
  (0.83, 0.83, 0.82), (0.75, 0.30, 0.50), (0.25, 0.45, 0.65), (0.45, 0.30, 0.60), (0.25, 0.55, 0.48),
)  # fmt: skip
HAIR_ODDS = (4.0, 4.0, 4.0, 3.5, 2.5, 2.0, 1.5, 1.2, 1.0, 1.5, 1.2, 0.5, 0.4, 0.35, 0.3)
IRISES = (
  (0.24, 0.14, 0.08), (0.36, 0.22, 0.11), (0.45, 0.33, 0.16), (0.36, 0.45, 0.24), (0.27, 0.50, 0.45),
  (0.30, 0.50, 0.70), (0.45, 0.60, 0.72), (0.48, 0.52, 0.56),
)  # fmt: skip
IRIS_ODDS_LIGHT = (6.0, 4.0, 1.5, 0.8, 0.6, 0.8, 0.5, 0.4)
IRIS_ODDS_DEEP = (8.0, 3.0, 0.3, 0.1, 0.05, 0.05, 0.02, 0.02)
LIPSTICKS = ((0.72, 0.12, 0.18), (0.80, 0.35, 0.40), (0.50, 0.13, 0.22), (0.75, 0.30, 0.25))
METALS = ((0.85, 0.70, 0.35), (0.85, 0.86, 0.88), (0.95, 0.93, 0.90))
FRAMES = (
  (0.08, 0.08, 0.09), (0.25, 0.14, 0.08), (0.75, 0.62, 0.35), (0.62, 0.64, 0.67), (0.55, 0.12, 0.14),
  (0.13, 0.20, 0.42), (0.90, 0.88, 0.85),
)  # fmt: skip

# top side flare line arch part fringe edge bottom close back spread curl bun bun_x bun_y density strands gloss
STYLES = (
  (0.11, 0.04, 0.45, 0.66, 0.30, 0.05, 0.02, 0.72, -0.12, -9.0, -0.35, 0.48, 0.010, -1.0, 0.0, 0.0, 1.0, 0.5, 0.5),
  (0.16, 0.05, 0.45, 0.62, 0.25, 0.22, 0.02, 0.75, -0.10, -9.0, -0.35, 0.48, 0.010, -1.0, 0.0, 0.0, 1.0, 0.7, 0.7),
  (0.00, 0.00, 0.45, 0.70, 0.30, 0.00, 0.00, 0.85, -0.10, -9.0, -0.35, 0.48, 0.000, -1.0, 0.0, 0.0, 0.0, 0.3, 0.2),
  (0.03, 0.01, 0.45, 0.66, 0.30, 0.00, 0.00, 0.75, -0.10, -9.0, -0.35, 0.48, 0.000, -1.0, 0.0, 0.0, 0.7, 0.2, 0.2),
  (0.07, 0.05, 0.45, 0.90, -0.10, 0.00, 0.02, 0.70, -0.10, -9.0, -0.35, 0.48, 0.015, -1.0, 0.0, 0.0, 0.9, 0.5, 0.3),
  (0.13, 0.09, -0.05, 0.72, 0.75, 0.05, 0.00, 0.42, -1.70, -9.0, -2.10, 0.95, 0.010, -1.0, 0.0, 0.0, 1.0, 0.8, 1.0),
  (0.17, 0.14, -0.12, 0.70, 0.60, 0.25, 0.02, 0.45, -1.50, -9.0, -1.75, 1.05, 0.045, -1.0, 0.0, 0.0, 1.0, 0.9, 0.9),
  (0.14, 0.09, -0.05, 0.30, 0.10, 0.03, 0.03, 0.50, -1.60, -9.0, -2.00, 0.95, 0.010, -1.0, 0.0, 0.0, 1.0, 0.8, 1.0),
  (0.16, 0.13, -0.15, 0.62, 0.50, 0.25, 0.02, 0.45, -0.78, -9.0, -0.85, 0.98, 0.012, -1.0, 0.0, 0.0, 1.0, 0.8, 1.0),
  (0.09, 0.04, 0.45, 0.68, 0.35, 0.10, 0.00, 0.75, -0.05, -9.0, -0.35, 0.48, 0.005, 0.34, 0.0, 1.16, 1.0, 0.7, 0.8),
  (0.10, 0.04, 0.45, 0.66, 0.40, 0.08, 0.01, 0.70, -0.05, -9.0, -0.35, 0.48, 0.005, 0.36, 0.85, -0.35, 1.0, 0.8, 0.9),
  (0.40, 0.32, 0.05, 0.62, 0.25, 0.00, 0.03, 0.55, -0.55, -9.0, -0.55, 1.02, 0.035, -1.0, 0.0, 0.0, 1.0, 0.6, 0.2),
  (0.20, 0.10, 0.35, 0.56, 0.20, 0.08, 0.05, 0.68, -0.10, -9.0, -0.40, 0.52, 0.040, -1.0, 0.0, 0.0, 1.0, 0.9, 0.5),
  (0.06, 0.07, 0.15, 0.52, 0.25, 0.00, 0.00, 0.45, -1.90, -1.02, -1.90, 1.15, 0.006, -1.0, 0.0, 0.0, 1.0, 0.1, 0.1),
  (0.30, 0.04, 0.45, 0.74, 0.20, 0.12, 0.02, 0.75, -0.15, -9.0, -0.35, 0.48, 0.012, -1.0, 0.0, 0.0, 1.0, 0.8, 0.8),
  (0.15, 0.08, 0.35, 0.38, -0.10, 0.32, 0.04, 0.60, -0.22, -9.0, -0.45, 0.52, 0.012, -1.0, 0.0, 0.0, 1.0, 0.8, 0.9),
)  # fmt: skip
# Half-range of each column; `close` and `density` are exact.
STYLE_JITTER = (
  0.03, 0.01, 0.03, 0.05, 0.08, 0.06, 0.005, 0.06, 0.04, 0.0, 0.15, 0.05, 0.004, 0.03, 0.03, 0.04, 0.0, 0.1, 0.2,
)  # fmt: skip
SCARF = 13  # the row of STYLES that is cloth
ODDS_MASCULINE = (4.0, 4.0, 1.5, 2.0, 1.5, 0.3, 0.3, 0.0, 0.0, 0.3, 0.0, 0.8, 2.0, 0.0, 2.0, 1.5)
ODDS_FEMININE = (0.3, 0.2, 0.1, 0.1, 0.0, 3.0, 3.0, 2.0, 2.5, 1.5, 1.5, 1.0, 0.8, 1.0, 0.2, 1.5)

# density mustache line length: shaven, stubble, beard, mustache, long beard
BEARDS = (
  (0.00, 0.00, 0.20, 0.00),
  (0.35, 0.30, 0.10, 0.00),
  (0.90, 0.90, 0.00, 0.05),
  (0.00, 0.95, 0.00, 0.00),
  (0.95, 0.90, 0.05, 0.22),
)
BEARD_ODDS = (5.0, 2.0, 2.0, 0.7, 0.8)

# collar slope round trim: crew, V, turtleneck, shirt, boat
COLLARS = (
  (-1.42, 0.90, 0.50, 0.05),
  (-1.75, 1.15, 0.05, 0.04),
  (-1.04, 0.00, 0.10, 0.00),
  (-1.62, 1.00, 0.02, 0.20),
  (-1.60, 0.50, 0.30, 0.00),
)
COLLAR_ODDS = (3.0, 1.5, 1.0, 2.0, 1.0)

# stripe check angle: plain, hoops, pinstripes, checks, argyle
PATTERNS = ((0.0, 0.0, 0.0), (0.9, 0.0, 1.57), (0.8, 0.0, 0.0), (0.6, 1.0, 0.0), (0.7, 1.0, 0.78))
PATTERN_ODDS = (4.0, 1.0, 0.7, 0.8, 0.4)

# Plaster, sky, foliage, wood, dusk, studio grays.
WALLS = (
  (0.88, 0.84, 0.78), (0.62, 0.74, 0.86), (0.45, 0.55, 0.36), (0.55, 0.40, 0.28), (0.30, 0.28, 0.40),
  (0.75, 0.75, 0.76), (0.36, 0.37, 0.40), (0.82, 0.68, 0.55), (0.28, 0.42, 0.46), (0.70, 0.50, 0.48),
)  # fmt: skip

# top line band ribs brim_x brim_y brim_z: beanie, cap, brimmed hat
HATS = (
  (0.20, 0.40, 0.26, 0.12, -1.0, 0.1, 0.0),
  (0.20, 0.46, 0.03, 0.00, 0.66, 0.11, 0.55),
  (0.34, 0.46, 0.16, 0.00, 1.25, 0.15, 0.10),
)
HAT_ODDS = (1.2, 1.0, 0.8)


def _pick(u, table, odds=None):
  """Return the row of `table`, `[n, ...]`, that a uniform `u` falls on, given relative odds."""
  table = jnp.asarray(table, jnp.float32)
  odds = jnp.ones(table.shape[0]) if odds is None else jnp.asarray(odds)
  return table[_index(u, odds)]


def _index(u, odds):
  return jnp.minimum(jnp.sum(u * jnp.sum(odds) >= jnp.cumsum(odds)), odds.shape[0] - 1)


def _flag(condition):
  """Return 1.0 where `condition` holds, else 0.0."""
  return jnp.where(condition, jnp.float32(1.0), jnp.float32(0.0))


def _within(u, *ranges):
  """Return scalars in the given (low, high) from as many uniform ones."""
  low, high = jnp.asarray([r[0] for r in ranges]), jnp.asarray([r[1] for r in ranges])
  values = low + (high - low) * u[: len(ranges)]
  return [values[i] for i in range(len(ranges))]


def _bell(u):
  """Return a bell-shaped variable of mean 0 and deviation 1, within 3 of 0, from three uniform ones, [3]."""
  return 2.0 * jnp.sum(u) - 3.0


def _any_color(u, saturation, low, high):
  """Return a random hue, `[3]`, at a value between `low` and `high`, from three uniform numbers."""
  hue, s, value = _within(u, (0.0, 1.0), (0.0, saturation), (low, high))
  wheel = jnp.abs(jnp.mod(hue * 6.0 + jnp.asarray([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0
  return value * (1.0 - s * (1.0 - jnp.clip(wheel, 0.0, 1.0)))


# Each part is sampled from its own row of uniform numbers: one call of the generator for a whole face compiles in a
# fraction of the time of a call for every number.


def _sample_pose(u):
  return Pose(0.26 * _bell(u[0:3]), 0.07 * _bell(u[3:6]), 0.06 * _bell(u[6:9]))


def _sample_head(u, feminine):
  width, depth, jaw, taper, cheek, chin, age = _within(
    u, (0.70, 0.80), (0.78, 0.90), (0.2, 1.3), (0.24, 0.46), (0.02, 0.06), (0.02, 0.06), (0.0, 1.0)
  )
  return Head(width, depth, jaw * (1.0 - 0.4 * feminine), taper + 0.06 * feminine, cheek, chin, age)


def _sample_skin(u, melanin):
  undertone, value, blush, gloss, freckles = _within(
    u, (-1.0, 1.0), (0.96, 1.03), (0.1, 0.8), (0.05, 0.22), (-0.8, 0.5)
  )
  table = jnp.asarray(SKIN)
  color = jnp.stack([jnp.interp(melanin, jnp.arange(9.0), table[:, c]) for c in range(3)])
  color = jnp.clip(color * value * (1.0 + undertone * jnp.asarray([0.012, 0.012, -0.06])), 0.0, 1.0)
  return Skin(color, blush, gloss, jnp.maximum(freckles, 0.0) * _flag(melanin < 3.5))


def _sample_eyes(u, feminine, melanin, head):
  spacing, height, width, opening, tilt, iris, lash = _within(
    u, (0.29, 0.335), (-0.03, 0.04), (0.155, 0.195), (0.075, 0.13), (-0.12, 0.22), (0.084, 0.104), (0.008, 0.016)
  )
  odds = jnp.where(melanin > 4.0, jnp.asarray(IRIS_ODDS_DEEP), jnp.asarray(IRIS_ODDS_LIGHT))
  return Eyes(
    spacing=spacing * head.width / 0.75, height=height, width=width, open=opening, tilt=tilt,
    gaze_x=0.025 * _bell(u[7:10]), gaze_y=0.009 * _bell(u[10:13]), iris=iris, color=_pick(u[13], IRISES, odds),
    lash=lash * (1.0 + 0.6 * feminine), shadow=0.6 * _flag(u[14] < 0.45 * feminine),
    shadow_color=_any_color(u[15:18], 0.6, 0.3, 0.7),
  )  # fmt: skip


def _sample_mouth(u, feminine, skin):
  height, width, smile, opening, upper, lower, strength = _within(
    u, (-0.64, -0.55), (0.20, 0.28), (-0.05, 0.15), (-0.09, 0.10), (0.04, 0.075), (0.06, 0.10), (0.75, 1.0)
  )
  bare = skin.color * jnp.asarray([0.86, 0.60, 0.60])
  color = jnp.where(u[7] < 0.55 * feminine, _pick(u[8], LIPSTICKS) * strength, bare)
  width = width + 0.25 * jnp.maximum(smile, 0.0)
  opening = jnp.maximum(opening, 0.0) * smoothstep(-0.06, 0.04, smile)
  return Mouth(height, width, smile, opening, upper, lower, color)


def _sample_hair_color(u, age):
  natural = _pick(u[0], HAIR_COLORS, HAIR_ODDS)
  gray = smoothstep(0.6, 1.0, age) * u[1]
  return natural + gray * (jnp.asarray([0.66, 0.66, 0.67]) - natural)


def _sample_hair(u, feminine, color):
  n = len(STYLE_JITTER)
  style = _index(u[n], jnp.where(feminine > 0.5, jnp.asarray(ODDS_FEMININE), jnp.asarray(ODDS_MASCULINE)))
  row = jnp.asarray(STYLES)[style] + (2.0 * u[:n] - 1.0) * jnp.asarray(STYLE_JITTER)
  mirror, phase = jnp.where(u[n + 1] < 0.5, 1.0, -1.0), 6.28 * u[n + 2]
  cloth = _any_color(u[n + 3 : n + 6], 0.7, 0.25, 0.9)
  hair = Hair(*[row[i] for i in range(n)], phase, jnp.where(style == SCARF, cloth, color))
  return hair._replace(part=hair.part * mirror, bun_x=hair.bun_x * mirror, density=jnp.clip(hair.density, 0.0, 1.0))


def _under(hat, hair):
  """Press the hair flat under a hat."""
  worn = hat.worn > 0.5
  top = jnp.where(worn, jnp.minimum(hair.top, 0.09), hair.top)
  side = jnp.where(worn, jnp.minimum(hair.side, 0.14), hair.side)
  return hair._replace(top=top, side=side, bun=jnp.where(worn & (hair.bun_y > 0.5), -1.0, hair.bun))


def _sample_brows(u, feminine, skin, color):
  height, arch, tilt, thickness = _within(u, (0.20, 0.27), (0.01, 0.06), (-0.12, 0.14), (0.022, 0.042))
  return Brows(height, arch, tilt, thickness * (1.2 - 0.5 * feminine), 0.75 * color + 0.12 * skin.color)


def _sample_beard(u, feminine, color):
  kind, bearded = _pick(u[0], BEARDS, BEARD_ODDS), _flag(feminine < 0.5)
  return Beard(kind[0] * bearded, kind[1] * bearded, kind[2], kind[3] * bearded, 0.9 * color)


def _sample_glasses(u):
  width, height, corner, frame, tint = _within(u, (0.21, 0.26), (0.14, 0.22), (0.25, 1.0), (0.012, 0.03), (0.0, 0.12))
  dark = _flag(u[5] < 0.22)
  lens = jnp.where(dark > 0.5, _any_color(u[6:9], 0.5, 0.05, 0.2), jnp.asarray([0.85, 0.9, 0.95]))
  return Glasses(_flag(u[9] < 0.28), width, height, corner, frame, tint + 0.82 * dark, _pick(u[10], FRAMES), lens)


def _sample_hat(u):
  kind = _pick(u[0], HATS, HAT_ODDS)
  cloth, trim = _any_color(u[2:5], 0.7, 0.15, 0.85), _any_color(u[5:8], 0.7, 0.1, 0.9)
  return Hat(_flag(u[1] < 0.11), *[kind[i] for i in range(7)], cloth, trim)


def _sample_ears(u, feminine):
  size, out, ring = _within(u, (0.17, 0.22), (0.0, 0.05), (0.03, 0.07))
  return Ears(size, out, jnp.where(u[3] < 0.08 + 0.5 * feminine, ring, -1.0), _pick(u[4], METALS))


def _sample_body(u, feminine):
  neck, shoulder, top, turn, frequency = _within(
    u, (0.40, 0.47), (1.5, 1.85), (-1.30, -1.16), (-0.12, 0.12), (12.0, 22.0)
  )
  collar, (stripe, check, angle) = _pick(u[5], COLLARS, COLLAR_ODDS), _pick(u[6], PATTERNS, PATTERN_ODDS)
  slim = 1.0 - 0.14 * feminine
  return Body(
    neck * slim, shoulder * slim, top, turn, *[collar[i] for i in range(4)], stripe, check, frequency, angle,
    _any_color(u[7:10], 0.75, 0.1, 0.92), _any_color(u[10:13], 0.5, 0.2, 0.98),
  )  # fmt: skip


def _sample_background(u, lamp_u):
  first = 0.65 * _pick(u[0], WALLS) + 0.35 * _any_color(u[1:4], 0.6, 0.1, 1.0)
  change, angle, lamps, wall, wall_x, wall_slope, texture, phase = _within(
    u[4:], (0.2, 0.9), (0.0, 6.28), (0.15, 0.6), (0.15, 0.6), (-1.0, 1.0), (-0.25, 0.25), (0.0, 0.06), (0.0, 6.28)
  )
  second = first + change * (_pick(u[12], WALLS) - first)
  lamps, wall = lamps * _flag(u[13] < 0.35), wall * _flag(u[14] < 0.4)
  low, high = jnp.asarray([[-1.1, -0.6, 0.08]]), jnp.asarray([[1.1, 1.1, 0.32]])
  lamp_xyr = low + (high - low) * lamp_u[:, :3]
  lamp_color = jax.vmap(lambda w: _any_color(w, 0.6, 0.5, 1.0))(lamp_u[:, 3:6])
  return Background(first, second, angle, lamps, lamp_xyr, lamp_color, wall, wall_x, wall_slope, texture, phase)


def sample_params(key: jax.Array) -> FaceParams:
  """Draw the parameters of one portrait.

  Args:
    key: a PRNG key; the same key gives the same face.

  Returns:
    FaceParams of float32 scalars and `[3]` colors. Hair, brows, beard and make-up share a latent, and so do iris,
    freckles and skin tone, so that faces are coherent.
  """
  u = jax.random.uniform(key, (24, 32))
  feminine, melanin = u[0, 0], 8.0 * u[0, 1]
  head, skin, hat = _sample_head(u[1], feminine), _sample_skin(u[2], melanin), _sample_hat(u[3])
  color = _sample_hair_color(u[4], head.age)
  return FaceParams(
    camera=Camera(*_within(u[5], (-0.09, 0.09), (0.06, 0.20), (0.54, 0.66), (0.92, 1.08), (-0.05, 0.06))),
    pose=_sample_pose(u[6]),
    head=head,
    skin=skin,
    eyes=_sample_eyes(u[7], feminine, melanin, head),
    brows=_sample_brows(u[8], feminine, skin, color),
    nose=Nose(*_within(u[9], (0.32, 0.42), (0.075, 0.12), (0.08, 0.125), (0.08, 0.13))),
    mouth=_sample_mouth(u[10], feminine, skin),
    hair=_under(hat, _sample_hair(u[11], feminine, color)),
    beard=_sample_beard(u[12], feminine, color),
    glasses=_sample_glasses(u[13]),
    hat=hat,
    ears=_sample_ears(u[14], feminine),
    body=_sample_body(u[15], feminine),
    light=Light(*_within(u[16], (-1.1, 1.1), (0.15, 0.9), (0.50, 0.85), (0.22, 0.42), (-0.06, 0.12))),
    background=_sample_background(u[17], u[18:24]),
  )


# ---------------------------------------------------------------------------------------------------------- geometry


class _View(NamedTuple):
  pixel: jax.Array  # side of a pixel, in head half-heights
  px: jax.Array  # picture coordinates, -1 .. 1
  py: jax.Array
  bx: jax.Array  # upright coordinates about the head's center
  by: jax.Array
  x: jax.Array  # the same, rolled with the head
  y: jax.Array


class _Surface(NamedTuple):
  d: jax.Array  # distance to the silhouette
  side: jax.Array  # sine of the azimuth
  front: jax.Array  # cosine of the azimuth
  a: jax.Array  # place across
  v: jax.Array  # place upwards
  normal: tuple  # x, y, z in the picture's frame


SKIN_WRAP = (0.50, 0.34, 0.26)  # red light travels farthest under the skin


class _Sun(NamedTuple):
  direction: tuple  # toward the light: x, y, z
  key: jax.Array  # irradiance, [3, 1, 1]
  ambient: jax.Array


def _stored(function):
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


def _view(camera, pose, size):
  grid = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
  px, py = jnp.meshgrid(grid, -grid)
  bx, by = (px - camera.x) / camera.scale, (py - camera.y) / camera.scale
  # The neck is the pivot of the roll.
  c, s, pivot = jnp.cos(pose.roll), jnp.sin(pose.roll), 0.9
  x, y = c * bx - s * (by + pivot), s * bx + c * (by + pivot) - pivot
  return _View(2.0 / size / camera.scale, px, py, bx, by, x, y)


def _sun(light):
  ce = jnp.cos(light.elevation)
  direction = (ce * jnp.sin(light.azimuth), jnp.sin(light.elevation), ce * jnp.cos(light.azimuth))
  tint = light.warmth * jnp.asarray([1.0, 0.1, -1.0])[:, None, None]
  return _Sun(direction, light.key * (1.0 + tint), light.ambient * (1.0 - tint))


def _turned(view, pose, width, depth, profile):
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
  normal = _unit(side / w * c + front / z * s, up, front / z * c - side / w * s)
  return _Surface(d, side, front, side * w, view.y - jnp.sin(pose.pitch) * z * q, normal)


def _unit(x, y, z):
  length = jnp.sqrt(x * x + y * y + z * z + 1e-6)
  return x / length, y / length, z / length


@_stored
def _skull(view, pose, head):
  """Return the bare head."""

  def profile(y):
    t = jnp.abs(y)
    upper = 1.0 - t * t * (0.7 + 0.3 * t)
    lower = 1.0 - t * t * (1.0 - head.jaw + head.jaw * t * t)
    above_chin = jnp.minimum(t * t, 1.0)
    narrow, deep = 1.0 - head.taper * above_chin, 1.0 - 0.35 * head.taper * above_chin
    return jnp.where(y > 0, upper, lower * narrow**2), jnp.where(y > 0, upper, lower * deep**2)

  return _turned(view, pose, head.width, head.depth, profile)


def _shell(top, flare):
  """Return the profile of hair or a hat: flat-topped above the eyes, narrowing by `flare` below."""

  def profile(y):
    t = y / (1.0 + top)
    q = jnp.where(y > 0, 1.0 - t * t * (0.45 + 0.55 * t * t), 1.0 - flare * y * y)
    return q, q

  return profile


def _relief(a, v, params):
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


# ------------------------------------------------------------------------------------------------------------ layers


def _over(image, color, alpha):
  """Lay `color`, [3] or [3, h, w], over the picture with coverage `alpha`, [h, w]."""
  color = color[:, None, None] if color.ndim == 1 else color
  return image + alpha[None] * (color - image)


def _lit(color, normal, sun, wrap=(0.25, 0.25, 0.25)):
  """Return a matt `color`, [3], under the light; `wrap` per channel softens the terminator as skin does."""
  nx, ny, nz = normal
  lx, ly, lz = sun.direction
  facing = (nx * lx + ny * ly + nz * lz)[None]
  wrap = jnp.asarray(wrap)[:, None, None]
  diffuse = jnp.maximum((facing + wrap) / (1.0 + wrap), 0.0)
  sky = (0.8 + 0.25 * ny)[None]
  return color[:, None, None] * jnp.sqrt(sun.ambient * sky + sun.key * diffuse + 1e-4)


def _gleam(normal, sun, sharp):
  """Return a Blinn highlight (n . h)^(2^sharp)."""
  nx, ny, nz = normal
  hx, hy, hz = _unit(sun.direction[0], sun.direction[1], sun.direction[2] + 1.0)
  g = jnp.maximum(nx * hx + ny * hy + nz * hz, 0.0)
  for _ in range(sharp):
    g = g * g
  return g


@_stored
def _draw_background(view, p, sun):
  x, y = view.px, view.py
  t = smoothstep(-1.2, 1.2, x * jnp.cos(p.angle) + y * jnp.sin(p.angle))
  image = p.first[:, None, None] + t[None] * (p.second - p.first)[:, None, None]
  wall = cover(p.wall_x + p.wall_slope * y - x, 0.08)
  image = _over(image, p.second * 0.6, p.wall * wall)
  image = _over(image, p.first * 0.8, p.wall * stroke(y - 0.1 - p.wall_slope * x, 0.03, 0.06) * wall)
  for i in range(6):
    lamp = cover(sdf.length(x - p.lamp_xyr[i, 0], y - p.lamp_xyr[i, 1]) - p.lamp_xyr[i, 2], 0.06)
    image = _over(image, p.lamp_color[i], p.lamps * lamp)
  soft = wave(4.1 * x + 2.3 * y + p.phase) * wave(3.7 * y - 1.9 * x + 2.0 * p.phase)
  fall = 1.0 + p.texture * soft + 0.12 * (x * sun.direction[0] + y * sun.direction[1]) - 0.06 * (x * x + y * y)
  return image * fall[None]


def _curl(view, p):
  """Return the displacement (dx, dy) that waves the outline of the hair."""
  k = 9.0
  return (
    p.curl * (wave(k * view.y + p.phase) + 0.6 * wave(2.1 * k * view.y + k * view.x + p.phase)),
    p.curl * (wave(k * view.x + 2.0 * p.phase) + 0.6 * wave(1.7 * k * view.x - k * view.y)),
  )


def _strands(x, y, p):
  """Return the brightness of locks that run along y, around 1."""
  warp = x + 0.05 * wave(5.0 * y + p.phase) + 0.5 * p.curl * wave(14.0 * y + 9.0 * x)
  return 1.0 / (1.0 + p.strands * (0.10 * wave(21.0 * warp + p.phase) + 0.07 * wave(47.0 * warp + 2.0 * p.phase)))


@_stored
def _draw_back_hair(image, view, params, sun):
  p, head = params.hair, params.head
  dx, dy = _curl(view, p)
  x, y = view.x + dx, view.y + dy
  low = smoothstep(0.25, 0.4 * p.back, y)
  half = (head.width + p.side) * (1.0 - low) + p.spread * low
  drop = sdf.round_box(x, y - 0.5 * (p.back + 0.3), half, 0.5 * (0.3 - p.back), 0.3)
  crown = sdf.ellipse(x, y, head.width + p.side, 1.0 + p.top)
  d = sdf.smooth_min(jnp.maximum(crown, 0.05 - y), drop, 0.1)
  bun = sdf.ellipse(x - p.bun_x, y - p.bun_y, p.bun, p.bun * (0.9 + 0.6 * jnp.abs(p.bun_x))) + 9.0 * _flag(p.bun < 0)
  d = sdf.smooth_min(d, bun, 0.04)
  across = jnp.clip(x / (half + 0.15), -1.0, 1.0)
  normal = _unit(across, 0.3 * y, jnp.sqrt(1.01 - across**2))
  tone = _strands(x, y, p) * (0.55 + 0.3 * smoothstep(0.25, 0.8, jnp.abs(x)))
  image = _over(image, _lit(p.color, normal, sun) * tone[None], cover(d, view.pixel) * _flag(p.density > 0.8))
  return image


class _Torso(NamedTuple):
  x: jax.Array  # upright, about the neck
  y: jax.Array
  chest_x: jax.Array  # about the middle of the chest
  chest_y: jax.Array
  half: jax.Array  # half-width of the neck
  neck: jax.Array  # distances
  chest: jax.Array
  dark: jax.Array  # light left in the shadow of the chin, 0 .. 1


@_stored
def _torso(view, params, sun):
  p = params.body
  x, y = view.bx - 0.3 * jnp.sin(params.pose.roll), view.by
  half = p.neck * (1.0 + 0.8 * smoothstep(-1.05, -1.5, y) ** 2)
  chest_x, chest_y = x - p.turn, y - p.top + 1.35
  chest = sdf.ellipse(chest_x, chest_y, p.shoulder, 1.32)
  # The chin's shadow falls away from the light.
  lx, ly, _ = sun.direction
  shade = sdf.ellipse(view.x + 0.3 * lx, view.y + 0.15 + 0.35 * ly, 0.65, 1.05)
  dark = 1.0 - 0.5 * smoothstep(0.12, -0.2, shade)
  return _Torso(x, y, chest_x, chest_y, half, sdf.between(x, -half, half), chest, dark)


@_stored
def _draw_neck(image, view, torso, skin, sun):
  across = jnp.clip(torso.x / torso.half, -1.0, 1.0)
  normal = _unit(across, -0.1, jnp.sqrt(1.02 - across * across))
  flesh = jnp.maximum(sdf.smooth_min(torso.neck, torso.chest, 0.15), torso.y + 0.4)
  color = _lit(skin.color * 0.95, normal, sun, SKIN_WRAP) * torso.dark[None]
  return _over(image, color, cover(flesh, view.pixel))


@_stored
def _draw_clothes(image, view, torso, p, sun):
  x, y = torso.x, torso.y
  normal = _unit(torso.chest_x / p.shoulder, 0.35 + 0.8 * smoothstep(0.8, 1.3, torso.chest_y), 0.9)
  under = (p.collar + p.slope * sdf.soft_abs(x, p.round) - y) / jnp.sqrt(1.0 + p.slope**2)
  turtleneck = 0.06 * _flag(p.collar > -1.1)
  cloth = jnp.maximum(sdf.smooth_min(torso.neck - turtleneck, torso.chest - 0.02, 0.2), -under)
  warp = wave(p.frequency * (x * jnp.cos(p.angle) + y * jnp.sin(p.angle)))
  weft = wave(p.frequency * (y * jnp.cos(p.angle) - x * jnp.sin(p.angle)))
  weave = p.stripe * smoothstep(-0.5, 0.5, warp + p.check * weft)
  band = cover(under - p.trim, view.pixel) * _flag(p.trim > 0.01)
  first, second = p.color[:, None, None], p.second[:, None, None]
  color = first + jnp.maximum(weave, band)[None] * (second - first)
  fold = 1.0 + 0.06 * wave(5.0 * torso.chest_x + 3.0 * y + p.frequency)
  fabric = _lit(jnp.ones(3), normal, sun) * color * (fold * (0.6 + 0.4 * torso.dark))[None]
  return _over(image, fabric, cover(cloth, view.pixel))


@_stored
def _draw_ears(image, view, params, skull, sun):
  hidden = cover(skull.d, view.pixel)
  bare = _flag(params.hair.close < -8.0)  # a scarf hides the ears
  for side in (-1.0, 1.0):
    image = _draw_ear(image, view, params, hidden, sun, side, bare)
  return image


def _draw_ear(image, view, params, hidden, sun, side, bare):
  p, pose, pixel = params.ears, params.pose, view.pixel
  c, s = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
  across, along = side * (params.head.width + p.out - 0.01), -0.10
  toward = along * c - across * s
  x, y = view.x - (across * c + along * s), view.y + 0.08 - jnp.sin(pose.pitch) * toward
  wide = p.size * (0.42 + 0.45 * jnp.abs(s))
  d = sdf.ellipse(x + 0.1 * side * y * c, y, wide, p.size * 1.15)
  seen = bare * (1.0 - hidden * (1.0 - smoothstep(0.02, 0.2, toward)))
  normal = _unit(side * 0.8 * c - 0.4 * s + x / wide * 0.4, y, 0.6 * c + 0.6 * jnp.abs(s))
  hollow = 1.0 - 0.3 * blob(x + 0.02 * side, y, 0.5 * wide, 0.6 * p.size)
  color = params.skin.color * jnp.asarray([1.0, 0.9, 0.88])
  image = _over(image, _lit(color, normal, sun, SKIN_WRAP) * hollow[None], cover(d, pixel) * seen)
  worn = seen * _flag(p.ring > 0)
  image = _over(image, p.metal * 0.9, cover(sdf.ellipse(x, y + 1.25 * p.size, p.ring, p.ring), pixel) * worn)
  return _over(image, jnp.ones(3), 0.8 * blob(x, y + 1.2 * p.size, 0.03, 0.03) * worn)


@_stored
def _slopes(params, a, v):
  """Return the gradient of the relief, across and upwards."""
  ones = jnp.ones_like(a)
  _, across = jax.jvp(lambda a: _relief(a, v, params), (a,), (ones,))
  _, upwards = jax.jvp(lambda v: _relief(a, v, params), (v,), (ones,))
  return across, upwards


@_stored
def _flesh(pose, skull, slopes):
  """Return the normal of the skin: the skull's, tilted by the relief."""
  fade = smoothstep(-0.1, 0.3, skull.front)
  across, upwards = slopes[0] * fade, slopes[1] * fade
  nx, ny, nz = skull.normal
  return _unit(nx - across * jnp.cos(pose.yaw), ny - upwards, nz + across * jnp.sin(pose.yaw))


def _redness(params, place):
  """Return where blood or freckles show, 0 to about 1."""
  a, v, m = place
  p = params.skin
  red = 0.5 * p.blush * blob(m - 0.40, v + 0.28, 0.18, 0.14) + 0.12 * blob(a, v + params.nose.length, 0.09, 0.08)
  spots = wave(37.0 * a + 2.0 * wave(23.0 * v)) * wave(41.0 * v + 2.0 * wave(19.0 * a))
  return red + p.freckles * smoothstep(0.5, 1.0, spots) * blob(m - 0.25, v + 0.2, 0.25, 0.13)


def _creases(params, place, sun):
  """Return the light lost to sockets, folds, wrinkles and the shadows of nose and lip, relative to what is left."""
  a, v, m = place
  eyes, mouth, nose, age = params.eyes, params.mouth, params.nose, params.head.age
  lost = 0.16 * blob(m - eyes.spacing, v - eyes.height + 0.13, 0.14, 0.05)
  lost += 0.14 * blob(m - eyes.spacing, v - eyes.height - 0.06, 0.2, 0.12)
  fold_x = nose.wings + 0.08 + 0.25 * jnp.maximum(-v - nose.length, 0.0)
  fold = (0.06 + 0.14 * age + 0.7 * jnp.maximum(mouth.smile, 0.0)) * bell((m - fold_x) / 0.035)
  fold *= smoothstep(-nose.length + 0.08, -nose.length - 0.05, v) * smoothstep(mouth.height - 0.1, mouth.height, v)
  wrinkle = 0.08 * age**2 * blob(a, 0.0, 0.35, 1.0) * (0.5 + 0.5 * wave(58.0 * v))
  wrinkle *= smoothstep(0.32, 0.42, v) * smoothstep(0.66, 0.5, v)
  lx, ly, lz = sun.direction
  lost += 0.22 * blob(a + 0.12 * lx / (lz + 0.3), v + nose.length + 0.1 + 0.05 * ly, 0.10, 0.06)
  return lost + 0.16 * blob(a, v - mouth.height + mouth.lower + 0.07, 0.16, 0.04) + fold + wrinkle


@_stored
def _draw_skin(image, view, params, skull, place, normal, sun):
  tone = 1.0 / (1.0 + _creases(params, place, sun))
  tint = 1.0 - _redness(params, place)[None] * jnp.asarray([0.05, 0.42, 0.40])[:, None, None]
  skin = _lit(params.skin.color, normal, sun, SKIN_WRAP) * tone[None] * tint
  skin = skin + (params.skin.gloss * _gleam(normal, sun, 4))[None]
  return _over(image, skin, cover(skull.d, view.pixel))


class _Lids(NamedTuple):
  u: jax.Array  # outwards from the middle of the eye
  w: jax.Array  # upwards from its corner line
  t: jax.Array  # u, 1 at the outer corner
  top: jax.Array  # edge of the upper lid
  low: jax.Array  # edge of the lower lid
  inside: jax.Array  # coverage of the opening


def _lids(p, place, pixel):
  _, v, m = place
  u = m - p.spacing
  w, t = v - p.height - p.tilt * u, jnp.clip(u / p.width, -1.3, 1.3)
  arc = 1.0 - t * t
  top, low = p.open * arc * (1.0 - 0.22 * t), -0.62 * p.open * arc
  d = sdf.between(w, low, top) / jnp.sqrt(1.0 + (2.0 * p.open / p.width * t) ** 2)
  return _Lids(u, w, t, top, low, cover(d, pixel))


@_stored
def _draw_eyes(image, view, params, place, normal, sun):
  p, pixel, side = params.eyes, view.pixel, jnp.sign(place[0])
  lids = _lids(p, place, pixel)
  ball = 1.0 - 0.35 * lids.t * lids.t - 0.45 * smoothstep(0.25 * p.open, lids.top, lids.w)
  white = _lit(jnp.asarray([0.96, 0.94, 0.93]), normal, sun, (0.6, 0.6, 0.6)) * ball[None]
  image = _over(image, white, lids.inside)
  x, y = lids.u - side * p.gaze_x, lids.w - p.gaze_y - 0.18 * p.open
  r = sdf.length(x, y)
  depth = (0.75 + 0.5 * smoothstep(p.iris, -p.iris, y)) * (1.0 - 0.55 * smoothstep(0.6 * p.iris, p.iris, r))
  depth *= 1.15 - 0.46 * smoothstep(0.2 * p.open, lids.top, lids.w)
  image = _over(image, p.color[:, None, None] * depth[None], lids.inside * cover(r - p.iris, pixel))
  image = _over(image, jnp.asarray([0.03, 0.02, 0.02]), lids.inside * cover(r - 0.45 * p.iris, pixel))
  # Both eyes mirror the same lamp, so the glint does not fold with the face.
  lx, ly, _ = sun.direction
  glint = sdf.length(side * x - 0.5 * p.iris * lx, y - p.iris * (0.35 + 0.2 * ly)) - 0.26 * p.iris
  return _over(image, jnp.ones(3), 0.95 * cover(glint, pixel) * lids.inside)


@_stored
def _draw_lids(image, view, params, place):
  p, skin, pixel = params.eyes, params.skin.color, view.pixel
  lids = _lids(p, place, pixel)
  makeup = cover(sdf.between(lids.w, 0.5 * lids.low, 2.2 * lids.top), 3.0 * pixel) * (1.0 - lids.inside)
  image = _over(image, p.shadow_color, 0.6 * p.shadow * makeup)
  span = cover(jnp.abs(lids.u) - p.width - 0.012, pixel)
  lash = stroke(lids.w - lids.top - 0.3 * p.lash, p.lash * (1.0 + 0.5 * lids.t), pixel)
  image = _over(image, skin * 0.12, 0.95 * lash * span)
  image = _over(image, skin * 0.5, 0.5 * stroke(lids.w - lids.low, 0.006, pixel) * span)
  crease = stroke(lids.w - 1.25 * lids.top - 0.035, 0.008, pixel)
  return _over(image, skin * 0.45, 0.6 * crease * span)


@_stored
def _draw_brows(image, view, params, place):
  _, v, m = place
  p, eyes = params.brows, params.eyes
  u = (m - eyes.spacing - 0.01) / (eyes.width * 1.25)
  center = eyes.height + p.height + p.arch * (1.0 - (u - 0.25) ** 2) + p.tilt * u * eyes.width
  half = p.thickness * (1.0 - 0.35 * u) * smoothstep(1.15, 0.4, jnp.abs(u))
  return _over(image, p.color, 0.88 * stroke(v - center, half, view.pixel))


@_stored
def _draw_nostrils(image, view, params, place):
  _, v, m = place
  p = params.nose
  hole = sdf.ellipse(m - 0.62 * p.wings, v + p.length + 0.055, 0.035, 0.018)
  wing = 0.25 * blob(m - p.wings - 0.045, v + p.length + 0.01, 0.02, 0.05)
  image = _over(image, params.skin.color * 0.45, wing)
  return _over(image, params.skin.color * jnp.asarray([0.35, 0.25, 0.22]), 0.8 * cover(hole, 1.3 * view.pixel))


@_stored
def _draw_mouth(image, view, params, place, normal, sun):
  a, v, _ = place
  p, pixel = params.mouth, view.pixel
  t = a / p.width
  arc = jnp.maximum(1.0 - t * t, 0.0)
  w = v - p.height - p.smile * (t * t - 0.35)
  gap_up, gap_low = 0.35 * p.open * arc, -0.65 * p.open * arc
  within = cover(jnp.abs(a) - p.width, pixel)
  lip = _lit(0.82 * p.color, normal, sun, (0.4, 0.4, 0.4))
  upper = sdf.between(w, gap_up, gap_up + p.upper * arc * (1.0 - 0.22 * bell(t / 0.16)))
  image = _over(image, lip, cover(upper, pixel) * within)
  pout = 1.2 + 0.3 * blob(a, w - gap_low + 0.45 * p.lower, 0.6 * p.width, 0.35 * p.lower)
  lower = sdf.between(w, gap_low - p.lower * arc, gap_low)
  image = _over(image, lip * pout[None], cover(lower, pixel) * within)
  inside = cover(sdf.between(w, gap_low, gap_up), pixel) * smoothstep(0.0, 0.02, p.open) * within
  image = _over(image, jnp.asarray([0.22, 0.06, 0.07]), inside)
  teeth = cover(gap_up - 0.055 - w, pixel) * cover(jnp.abs(t) - 0.85, 3.0 * pixel)
  image = _over(image, jnp.asarray([0.88, 0.86, 0.84]), inside * teeth)
  seam = stroke(w - 0.5 * (gap_low + gap_up), 0.01, pixel) * smoothstep(0.03, 0.0, p.open)
  image = _over(image, p.color * 0.35, 0.85 * seam * within)
  return _over(image, params.skin.color * 0.45, 0.5 * blob(jnp.abs(a) - p.width, w, 0.03, 0.02))


@_stored
def _draw_beard(image, view, params, skull, place, normal, sun):
  a, v, m = place
  p, mouth = params.beard, params.mouth
  cheek = -0.62 + p.line + 0.95 * smoothstep(0.25, 0.85, m) ** 2
  area = smoothstep(0.06, -0.08, v - cheek)
  area *= 1.0 - cover(sdf.ellipse(a, v - mouth.height, mouth.width + 0.03, 0.13), 4.0 * view.pixel)
  tash_y = 0.5 * (mouth.height - params.nose.length) - 0.005
  tash = cover(sdf.ellipse(a, v - tash_y + 0.5 * a * a, mouth.width + 0.05, 0.055), 2.0 * view.pixel)
  rough = 1.0 + 0.10 * p.density * wave(34.0 * a + 2.0 * wave(9.0 * v)) * wave(14.0 * v + 3.0 * wave(11.0 * a))
  color = _lit(p.color, normal, sun) * rough[None] + 0.03
  beyond = cover(skull.d - p.length * smoothstep(-0.3, -0.9, v), view.pixel)
  alpha = jnp.maximum(p.density * area, p.mustache * tash * smoothstep(0.0, 0.2, p.mustache))
  return _over(image, color, alpha * beyond)


@_stored
def _draw_glasses(image, view, params, skull, sun):
  p, pose, eyes, pixel = params.glasses, params.pose, params.eyes, view.pixel
  c, s = jnp.cos(pose.yaw), jnp.sin(pose.yaw)
  before = params.head.depth + 0.08
  x = (view.x - before * s) / c
  y = view.y - eyes.height + 0.02 - jnp.sin(pose.pitch) * before
  u = jnp.abs(x) - eyes.spacing
  corner = p.corner * jnp.minimum(p.width, p.height)
  lens = sdf.round_box(u, y - 0.06 * u, p.width, p.height, corner) * c
  glass = cover(lens, pixel) * p.worn
  sheen = smoothstep(0.05, 0.25, u + y + 0.1) * smoothstep(0.3, 0.15, u + y) * 0.25
  image = _over(image, p.lens, glass * p.tint)
  image = _over(image, jnp.ones(3), glass * sheen * (0.25 + 0.5 * p.tint))
  rim = stroke(lens, p.frame, pixel)
  inner = jnp.abs(x) - (eyes.spacing - p.width)
  bridge = stroke(y - 0.05, 0.7 * p.frame, pixel) * cover(inner, pixel)
  ear = params.head.width * c + 0.1 * jnp.abs(s)
  arm = stroke(y - 0.06, p.frame, pixel) * cover(p.width - u, pixel) * cover(jnp.abs(view.x) - ear, pixel)
  arm *= cover(skull.d, pixel)
  frame = jnp.clip(rim + bridge + arm, 0.0, 1.0) * p.worn
  shine = 0.85 + 0.3 * smoothstep(-0.1, 0.2, y) * jnp.maximum(sun.direction[1], 0.0)
  return _over(image, p.color[:, None, None] * shine[None], frame)


@_stored
def _draw_hair(image, view, params, skull, sun):
  p, head, pixel = params.hair, params.head, view.pixel
  dx, dy = _curl(view, p)
  waved = view._replace(x=view.x + dx, y=view.y + dy)
  shell = _turned(waved, params.pose, head.width + p.side, head.depth + 0.06 + p.side, _shell(p.top, p.flare))
  turn = 1.0 - shell.front
  locks = p.fringe * (wave(13.0 * shell.a + p.phase) + 0.7 * wave(29.0 * shell.a + 2.0 * p.phase))
  line = p.line - p.arch * turn + p.part * shell.side + locks
  above = (line - shell.v) / jnp.sqrt(1.0 + p.arch**2 + p.part**2)
  beside = -sdf.smooth_min((turn - p.edge) * head.width, shell.v - p.bottom, 0.2)
  opening = sdf.smooth_min(sdf.smooth_min(above, beside, 0.15), shell.v - p.close - 0.5 * turn, 0.25)
  alpha = cover(jnp.maximum(shell.d, opening), pixel) * p.density
  soft = smoothstep(0.16, 0.0, opening) * cover(skull.d, pixel) * p.density
  image = image * (1.0 - 0.28 * soft * (1.0 - alpha))[None]
  tone = _strands(shell.side * 0.8, shell.v, p) * (0.75 + 0.25 * smoothstep(0.0, -0.12, opening))
  ring = bell((shell.normal[1] - 0.45 - 0.25 * sun.direction[1]) / 0.16)
  ring = ring * jnp.maximum(0.4 + shell.normal[0] * sun.direction[0] + 0.5 * shell.normal[2], 0.0)
  color = _lit(p.color, shell.normal, sun) * tone[None]
  color += (0.22 * p.gloss * ring * tone)[None] * (0.3 + p.color[:, None, None])
  return _over(image, color, alpha)


@_stored
def _draw_hat(image, view, params, sun):
  p, head, pose, pixel = params.hat, params.head, params.pose, view.pixel
  shell = _turned(view, pose, head.width + 0.12, head.depth + 0.12, _shell(p.top, 0.0))
  above = p.line - shell.v
  shade = smoothstep(0.3, 0.0, above) * cover(shell.d, pixel) * p.worn
  image = image * (1.0 - 0.35 * shade)[None]
  ribs = 1.0 + p.ribs * wave(34.0 * shell.side)
  cloth = _lit(p.color, shell.normal, sun) * ribs[None]
  image = _over(image, cloth, cover(jnp.maximum(shell.d, above), pixel) * p.worn)
  band = jnp.maximum(jnp.maximum(shell.d - 0.02, above), shell.v - p.line - p.band)
  image = _over(image, _lit(p.trim, shell.normal, sun) * ribs[None], cover(band, pixel) * p.worn)
  x = view.x - p.brim_z * jnp.sin(pose.yaw)
  y = view.y - p.line - jnp.sin(pose.pitch) * p.brim_z + 0.04 - 0.06 * x * x
  brim = sdf.ellipse(x, y, jnp.maximum(p.brim_x, 0.01), p.brim_y)
  normal = _unit(0.3 * x, 0.8 + 2.0 * y, 0.6)
  return _over(image, _lit(p.color, normal, sun) * 0.9, cover(brim, pixel) * p.worn * _flag(p.brim_x > 0))


@_stored
def _develop(image, camera):
  """Apply exposure and white balance, [3, h, w] in [0, 1] to [h, w, 3] in [-1, 1]."""
  gain = camera.exposure * (1.0 + camera.warmth * jnp.asarray([1.0, 0.0, -1.0]))
  return jnp.moveaxis(2.0 * jnp.clip(image * gain[:, None, None], 0.0, 1.0) - 1.0, 0, -1)


def draw(params: FaceParams, size: int = 64) -> jax.Array:
  """Draw one portrait.

  Args:
    params: what to draw; every leaf may be traced.
    size: side of the square picture in pixels, static.

  Returns:
    `[size, size, 3]`, float32, in [-1, 1].
  """
  view, sun = _view(params.camera, params.pose, size), _sun(params.light)
  skull = _skull(view, params.pose, params.head)
  image = _draw_background(view, params.background, sun)
  image = _draw_back_hair(image, view, params, sun)
  torso = _torso(view, params, sun)
  image = _draw_neck(image, view, torso, params.skin, sun)
  image = _draw_clothes(image, view, torso, params.body, sun)
  # The nose stands off the face, so a turned head shows it shifted.
  off = 0.22 * smoothstep(0.15, -params.nose.length, skull.v) * smoothstep(-0.62, -params.nose.length, skull.v)
  a = skull.a - off * jnp.sin(params.pose.yaw)
  place, on_nose = (skull.a, skull.v, jnp.abs(skull.a)), (a, skull.v, jnp.abs(a))
  normal = _flesh(params.pose, skull, _slopes(params, a, skull.v))
  image = _draw_skin(image, view, params, skull, on_nose, normal, sun)
  image = _draw_nostrils(image, view, params, on_nose)
  image = _draw_mouth(image, view, params, place, normal, sun)
  image = _draw_eyes(image, view, params, place, normal, sun)
  image = _draw_lids(image, view, params, place)
  image = _draw_beard(image, view, params, skull, place, normal, sun)
  image = _draw_brows(image, view, params, place)
  image = _draw_ears(image, view, params, skull, sun)
  image = _draw_glasses(image, view, params, skull, sun)
  image = _draw_hair(image, view, params, skull, sun)
  image = _draw_hat(image, view, params, sun)
  return _develop(image, params.camera)


def render(key: jax.Array, size: int = 64) -> jax.Array:
  """Draw the portrait of `key`: `[size, size, 3]`, float32, in [-1, 1]; the same key gives the same picture."""
  return draw(sample_params(key), size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def render_unsided(keys: jax.Array, size: int, flip: bool = True) -> jax.Array:
  """Draw the portraits of keys `[n]`, each mirrored with even chance where `flip` is set: `[n, size, size, 3]`."""

  def one(key):
    k1, k2 = jax.random.split(key)
    image = render(k1, size)
    return jnp.where(jax.random.bernoulli(k2) & flip, image[:, ::-1], image)

  return jax.vmap(one)(keys)
