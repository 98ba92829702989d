"""Drawing a portrait: layer over layer, from the background to the hat, lit by one lamp.

Edges are covered by signed distances (`sdf`). Textures are not filtered: wrinkles, freckles and strands are as fine as
a pixel at 64 pixels, and coarser than one from 128 on; the corners of eyes have a hard edge. A light of irradiance E
turns a color c into c sqrt(E), a gamma of 2. Images are `[3, h, w]` inside this module; `draw` returns `[h, w, 3]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffinv.data.faces import sdf
from diffinv.data.faces.parameters import FaceParams
from diffinv.data.faces.sdf import bell, blob, cover, indicator, smoothstep, stroke, wave
from diffinv.data.faces.surfaces import flesh, shell_profile, skull_of, slopes, stored, sun_of, turned, unit, view_of

SKIN_WRAP = (0.50, 0.34, 0.26)  # red light travels farthest under the skin


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
  hx, hy, hz = unit(sun.direction[0], sun.direction[1], sun.direction[2] + 1.0)
  g = jnp.maximum(nx * hx + ny * hy + nz * hz, 0.0)
  for _ in range(sharp):
    g = g * g
  return g


@stored
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


@stored
def _draw_back_hair(image, view, params, sun):
  p, head = params.hair, params.head
  dx, dy = _curl(view, p)
  x, y = view.x + dx, view.y + dy
  low = smoothstep(0.25, 0.4 * p.back, y)
  half = (head.width + p.side) * (1.0 - low) + p.spread * low
  drop = sdf.round_box(x, y - 0.5 * (p.back + 0.3), half, 0.5 * (0.3 - p.back), 0.3)
  crown = sdf.ellipse(x, y, head.width + p.side, 1.0 + p.top)
  d = sdf.smooth_min(jnp.maximum(crown, 0.05 - y), drop, 0.1)
  bun = sdf.ellipse(x - p.bun_x, y - p.bun_y, p.bun, p.bun * (0.9 + 0.6 * jnp.abs(p.bun_x))) + 9.0 * indicator(
    p.bun < 0
  )
  d = sdf.smooth_min(d, bun, 0.04)
  across = jnp.clip(x / (half + 0.15), -1.0, 1.0)
  normal = unit(across, 0.3 * y, jnp.sqrt(1.01 - across**2))
  tone = _strands(x, y, p) * (0.55 + 0.3 * smoothstep(0.25, 0.8, jnp.abs(x)))
  image = _over(image, _lit(p.color, normal, sun) * tone[None], cover(d, view.pixel) * indicator(p.density > 0.8))
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


@stored
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


@stored
def _draw_neck(image, view, torso, skin, sun):
  across = jnp.clip(torso.x / torso.half, -1.0, 1.0)
  normal = unit(across, -0.1, jnp.sqrt(1.02 - across * across))
  flesh = jnp.maximum(sdf.smooth_min(torso.neck, torso.chest, 0.15), torso.y + 0.4)
  color = _lit(skin.color * 0.95, normal, sun, SKIN_WRAP) * torso.dark[None]
  return _over(image, color, cover(flesh, view.pixel))


@stored
def _draw_clothes(image, view, torso, p, sun):
  x, y = torso.x, torso.y
  normal = unit(torso.chest_x / p.shoulder, 0.35 + 0.8 * smoothstep(0.8, 1.3, torso.chest_y), 0.9)
  under = (p.collar + p.slope * sdf.soft_abs(x, p.round) - y) / jnp.sqrt(1.0 + p.slope**2)
  turtleneck = 0.06 * indicator(p.collar > -1.1)
  cloth = jnp.maximum(sdf.smooth_min(torso.neck - turtleneck, torso.chest - 0.02, 0.2), -under)
  warp = wave(p.frequency * (x * jnp.cos(p.angle) + y * jnp.sin(p.angle)))
  weft = wave(p.frequency * (y * jnp.cos(p.angle) - x * jnp.sin(p.angle)))
  weave = p.stripe * smoothstep(-0.5, 0.5, warp + p.check * weft)
  band = cover(under - p.trim, view.pixel) * indicator(p.trim > 0.01)
  first, second = p.color[:, None, None], p.second[:, None, None]
  color = first + jnp.maximum(weave, band)[None] * (second - first)
  fold = 1.0 + 0.06 * wave(5.0 * torso.chest_x + 3.0 * y + p.frequency)
  fabric = _lit(jnp.ones(3), normal, sun) * color * (fold * (0.6 + 0.4 * torso.dark))[None]
  return _over(image, fabric, cover(cloth, view.pixel))


@stored
def _draw_ears(image, view, params, skull, sun):
  hidden = cover(skull.d, view.pixel)
  bare = indicator(params.hair.close < -8.0)  # a scarf hides the ears
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
  normal = unit(side * 0.8 * c - 0.4 * s + x / wide * 0.4, y, 0.6 * c + 0.6 * jnp.abs(s))
  hollow = 1.0 - 0.3 * blob(x + 0.02 * side, y, 0.5 * wide, 0.6 * p.size)
  color = params.skin.color * jnp.asarray([1.0, 0.9, 0.88])
  image = _over(image, _lit(color, normal, sun, SKIN_WRAP) * hollow[None], cover(d, pixel) * seen)
  worn = seen * indicator(p.ring > 0)
  image = _over(image, p.metal * 0.9, cover(sdf.ellipse(x, y + 1.25 * p.size, p.ring, p.ring), pixel) * worn)
  return _over(image, jnp.ones(3), 0.8 * blob(x, y + 1.2 * p.size, 0.03, 0.03) * worn)


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


@stored
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


@stored
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


@stored
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


@stored
def _draw_brows(image, view, params, place):
  _, v, m = place
  p, eyes = params.brows, params.eyes
  u = (m - eyes.spacing - 0.01) / (eyes.width * 1.25)
  center = eyes.height + p.height + p.arch * (1.0 - (u - 0.25) ** 2) + p.tilt * u * eyes.width
  half = p.thickness * (1.0 - 0.35 * u) * smoothstep(1.15, 0.4, jnp.abs(u))
  return _over(image, p.color, 0.88 * stroke(v - center, half, view.pixel))


@stored
def _draw_nostrils(image, view, params, place):
  _, v, m = place
  p = params.nose
  hole = sdf.ellipse(m - 0.62 * p.wings, v + p.length + 0.055, 0.035, 0.018)
  wing = 0.25 * blob(m - p.wings - 0.045, v + p.length + 0.01, 0.02, 0.05)
  image = _over(image, params.skin.color * 0.45, wing)
  return _over(image, params.skin.color * jnp.asarray([0.35, 0.25, 0.22]), 0.8 * cover(hole, 1.3 * view.pixel))


@stored
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


@stored
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


@stored
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


@stored
def _draw_hair(image, view, params, skull, sun):
  p, head, pixel = params.hair, params.head, view.pixel
  dx, dy = _curl(view, p)
  waved = view._replace(x=view.x + dx, y=view.y + dy)
  shell = turned(waved, params.pose, head.width + p.side, head.depth + 0.06 + p.side, shell_profile(p.top, p.flare))
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


@stored
def _draw_hat(image, view, params, sun):
  p, head, pose, pixel = params.hat, params.head, params.pose, view.pixel
  shell = turned(view, pose, head.width + 0.12, head.depth + 0.12, shell_profile(p.top, 0.0))
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
  normal = unit(0.3 * x, 0.8 + 2.0 * y, 0.6)
  return _over(image, _lit(p.color, normal, sun) * 0.9, cover(brim, pixel) * p.worn * indicator(p.brim_x > 0))


@stored
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
  view, sun = view_of(params.camera, params.pose, size), sun_of(params.light)
  skull = skull_of(view, params.pose, params.head)
  image = _draw_background(view, params.background, sun)
  image = _draw_back_hair(image, view, params, sun)
  torso = _torso(view, params, sun)
  image = _draw_neck(image, view, torso, params.skin, sun)
  image = _draw_clothes(image, view, torso, params.body, sun)
  # The nose stands off the face, so a turned head shows it shifted.
  off = 0.22 * smoothstep(0.15, -params.nose.length, skull.v) * smoothstep(-0.62, -params.nose.length, skull.v)
  a = skull.a - off * jnp.sin(params.pose.yaw)
  place, on_nose = (skull.a, skull.v, jnp.abs(skull.a)), (a, skull.v, jnp.abs(a))
  normal = flesh(params.pose, skull, slopes(params, a, skull.v))
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
