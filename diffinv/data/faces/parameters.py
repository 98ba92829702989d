"""What a portrait is drawn from: the parameters of a face, its surroundings and its light.

Lengths are in head half-heights: the chin is at v = -1, the eyes near 0, the crown at 1; x grows to the right of the
picture, y up, z toward the viewer. Colors are display values in [0, 1]. Every field is a float32 array: a scalar `[]`
unless its comment says otherwise.
"""

from typing import NamedTuple

import jax


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
  """Hair: a shell around the skull, cut by a hairline, and a curtain behind it."""

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
  """A hat: a crown over the hair, a band, a brim."""

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
  """Everything a portrait is drawn from; leaves are scalars `[]` or colors `[3]`."""

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
