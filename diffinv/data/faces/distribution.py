"""How faces are drawn at random: the distribution of `FaceParams`.

Hair, brows, beard and make-up share one latent, iris, freckles and skin tone another, so that a face is coherent.
"""

import jax
import jax.numpy as jnp

from diffinv.data.faces.parameters import (
  Background,
  Beard,
  Body,
  Brows,
  Camera,
  Ears,
  Eyes,
  FaceParams,
  Glasses,
  Hair,
  Hat,
  Head,
  Light,
  Mouth,
  Nose,
  Pose,
  Skin,
)
from diffinv.data.faces.sdf import indicator, smoothstep

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
  """Return a random row of `table`, `[n, ...]`, by the uniform number `u` and relative odds (equal if None)."""
  table = jnp.asarray(table, jnp.float32)
  odds = jnp.ones(table.shape[0]) if odds is None else jnp.asarray(odds)
  return table[_index(u, odds)]


def _index(u, odds):
  return jnp.minimum(jnp.sum(u * jnp.sum(odds) >= jnp.cumsum(odds)), odds.shape[0] - 1)


def _within(u, *ranges):
  """Return a scalar within each (low, high), from as many uniform numbers."""
  low, high = jnp.asarray([r[0] for r in ranges]), jnp.asarray([r[1] for r in ranges])
  values = low + (high - low) * u[: len(ranges)]
  return [values[i] for i in range(len(ranges))]


def _bell(u):
  """Return a bell-shaped number of mean 0 and deviation 1, within [-3, 3], from three uniform numbers, `[3]`."""
  return 2.0 * jnp.sum(u) - 3.0


def _any_color(u, saturation, low, high):
  """Return a random hue, `[3]`, at a value between `low` and `high`, from three uniform numbers."""
  hue, s, value = _within(u, (0.0, 1.0), (0.0, saturation), (low, high))
  wheel = jnp.abs(jnp.mod(hue * 6.0 + jnp.asarray([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0
  return value * (1.0 - s * (1.0 - jnp.clip(wheel, 0.0, 1.0)))


# Each part has its own row of uniform numbers: one call of the generator for a whole face compiles in a fraction of the
# time that one call a number takes.


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
  return Skin(color, blush, gloss, jnp.maximum(freckles, 0.0) * indicator(melanin < 3.5))


def _sample_eyes(u, feminine, melanin, head):
  spacing, height, width, opening, tilt, iris, lash = _within(
    u, (0.29, 0.335), (-0.03, 0.04), (0.155, 0.195), (0.075, 0.13), (-0.12, 0.22), (0.084, 0.104), (0.008, 0.016)
  )
  odds = jnp.where(melanin > 4.0, jnp.asarray(IRIS_ODDS_DEEP), jnp.asarray(IRIS_ODDS_LIGHT))
  return Eyes(
    spacing=spacing * head.width / 0.75, height=height, width=width, open=opening, tilt=tilt,
    gaze_x=0.025 * _bell(u[7:10]), gaze_y=0.009 * _bell(u[10:13]), iris=iris, color=_pick(u[13], IRISES, odds),
    lash=lash * (1.0 + 0.6 * feminine), shadow=0.6 * indicator(u[14] < 0.45 * feminine),
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
  hair = Hair(*[row[i] for i in range(n)], phase=phase, color=jnp.where(style == SCARF, cloth, color))
  return hair._replace(part=hair.part * mirror, bun_x=hair.bun_x * mirror, density=jnp.clip(hair.density, 0.0, 1.0))


def _under(hat, hair):
  """Flatten the hair where a hat is worn."""
  worn = hat.worn > 0.5
  top = jnp.where(worn, jnp.minimum(hair.top, 0.09), hair.top)
  side = jnp.where(worn, jnp.minimum(hair.side, 0.14), hair.side)
  return hair._replace(top=top, side=side, bun=jnp.where(worn & (hair.bun_y > 0.5), -1.0, hair.bun))


def _sample_brows(u, feminine, skin, color):
  height, arch, tilt, thickness = _within(u, (0.20, 0.27), (0.01, 0.06), (-0.12, 0.14), (0.022, 0.042))
  return Brows(height, arch, tilt, thickness * (1.2 - 0.5 * feminine), 0.75 * color + 0.12 * skin.color)


def _sample_beard(u, feminine, color):
  kind, bearded = _pick(u[0], BEARDS, BEARD_ODDS), indicator(feminine < 0.5)
  return Beard(kind[0] * bearded, kind[1] * bearded, kind[2], kind[3] * bearded, 0.9 * color)


def _sample_glasses(u):
  width, height, corner, frame, tint = _within(u, (0.21, 0.26), (0.14, 0.22), (0.25, 1.0), (0.012, 0.03), (0.0, 0.12))
  dark = indicator(u[5] < 0.22)
  lens = jnp.where(dark > 0.5, _any_color(u[6:9], 0.5, 0.05, 0.2), jnp.asarray([0.85, 0.9, 0.95]))
  return Glasses(indicator(u[9] < 0.28), width, height, corner, frame, tint + 0.82 * dark, _pick(u[10], FRAMES), lens)


def _sample_hat(u):
  kind = _pick(u[0], HATS, HAT_ODDS)
  cloth, trim = _any_color(u[2:5], 0.7, 0.15, 0.85), _any_color(u[5:8], 0.7, 0.1, 0.9)
  return Hat(indicator(u[1] < 0.11), *[kind[i] for i in range(7)], color=cloth, trim=trim)


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
    neck * slim, shoulder * slim, top, turn, *[collar[i] for i in range(4)],
    stripe=stripe, check=check, frequency=frequency, angle=angle,
    color=_any_color(u[7:10], 0.75, 0.1, 0.92), second=_any_color(u[10:13], 0.5, 0.2, 0.98),
  )  # fmt: skip


def _sample_background(u, lamp_u):
  first = 0.65 * _pick(u[0], WALLS) + 0.35 * _any_color(u[1:4], 0.6, 0.1, 1.0)
  change, angle, lamps, wall, wall_x, wall_slope, texture, phase = _within(
    u[4:], (0.2, 0.9), (0.0, 6.28), (0.15, 0.6), (0.15, 0.6), (-1.0, 1.0), (-0.25, 0.25), (0.0, 0.06), (0.0, 6.28)
  )
  second = first + change * (_pick(u[12], WALLS) - first)
  lamps, wall = lamps * indicator(u[13] < 0.35), wall * indicator(u[14] < 0.4)
  low, high = jnp.asarray([[-1.1, -0.6, 0.08]]), jnp.asarray([[1.1, 1.1, 0.32]])
  lamp_xyr = low + (high - low) * lamp_u[:, :3]
  lamp_color = jax.vmap(lambda w: _any_color(w, 0.6, 0.5, 1.0))(lamp_u[:, 3:6])
  return Background(first, second, angle, lamps, lamp_xyr, lamp_color, wall, wall_x, wall_slope, texture, phase)


def sample_params(key: jax.Array) -> FaceParams:
  """Draw the parameters of one portrait.

  Args:
    key: the same key gives the same face.

  Returns:
    FaceParams of float32 scalars and `[3]` colors.
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
