"""The procedural portraits are deterministic, antialiased, and mean what their parameters say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv.data import faces

BATCH = 8  # every batched call has this size, so that the picture is compiled once
SIZE = 64
SCALE = 0.6  # half-height of the neutral head; the picture spans -1 .. 1
CENTER_Y = 0.12


@functools.cache
def compiled(size, batched):
  draw = functools.partial(faces.draw, size=size)
  return jax.jit(jax.vmap(draw) if batched else draw)


@functools.cache
def sampler():
  return jax.jit(jax.vmap(faces.sample_params))


def draw_all(params):
  """Draw a list of up to `BATCH` portraits with one compiled call."""
  padded = list(params) + [params[0]] * (BATCH - len(params))
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
  return np.asarray(compiled(SIZE, True)(stacked))[: len(params)]


def pictures(seed, count):
  keys = jax.random.split(jax.random.key(seed), count).reshape(-1, BATCH)
  return np.concatenate([np.asarray(compiled(SIZE, True)(sampler()(group))) for group in keys])


def neutral(**changes):
  """Return a bare-headed, symmetric, frontally lit face; `changes` replace fields, a group at a time."""
  params = jax.tree.map(lambda leaf: leaf[0], sampler()(jax.random.split(jax.random.key(3), BATCH)))
  scalars = {
    "camera": dict(x=0.0, y=CENTER_Y, scale=SCALE, exposure=1.0, warmth=0.0),
    "pose": dict(yaw=0.0, pitch=0.0, roll=0.0),
    "head": dict(age=0.0),
    "skin": dict(freckles=0.0),
    "eyes": dict(spacing=0.31, height=0.0, width=0.17, open=0.1, iris=0.09, gaze_x=0.0, gaze_y=0.0, shadow=0.0),
    "mouth": dict(height=-0.6, open=0.0, smile=0.02),
    "hair": dict(density=0.0, bun=-1.0),
    "beard": dict(density=0.0, mustache=0.0),
    "glasses": dict(worn=0.0),
    "hat": dict(worn=0.0),
    "ears": dict(ring=-1.0),
    "body": dict(turn=0.0, stripe=0.0),
    "light": dict(azimuth=0.0, elevation=0.4, key=0.7, ambient=0.35),
    "background": dict(lamps=0.0, wall=0.0, texture=0.0, angle=float(np.pi / 2)),
  }
  for group in set(scalars) | set(changes):
    fields = {**scalars.get(group, {}), **changes.get(group, {})}
    fields = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    params = params._replace(**{group: getattr(params, group)._replace(**fields)})
  params = params._replace(skin=params.skin._replace(color=jnp.asarray(changes.get("skin", {}).get("color", TAN))))
  return params


TAN = (0.85, 0.65, 0.50)


def window(image, x, y, half=0.06):
  """Return the pixels about the point (x, y) of an unturned head, in head half-heights."""
  column = (x * SCALE + 1.0) * SIZE / 2 - 0.5
  row = (1.0 - CENTER_Y - y * SCALE) * SIZE / 2 - 0.5
  reach = half * SCALE * SIZE / 2
  rows = slice(int(np.floor(row - reach)), int(np.ceil(row + reach)) + 1)
  return image[rows, int(np.floor(column - reach)) : int(np.ceil(column + reach)) + 1]


@pytest.mark.slow
def test_pictures_fill_the_range_and_stay_within_it():
  images = pictures(0, 64)
  assert images.shape == (64, SIZE, SIZE, 3) and images.dtype == np.float32
  assert np.isfinite(images).all() and np.abs(images).max() <= 1.0
  # A portrait has dark pupils and light skin, eye-white or ground: never a flat or washed-out picture.
  spread = images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3))
  assert spread.min() > 0.8


def test_same_key_gives_same_bits_and_another_key_another_face():
  first, second = pictures(1, BATCH), pictures(1, BATCH)
  np.testing.assert_array_equal(first, second)
  different = np.abs(first[:, None] - first[None]).mean(axis=(2, 3, 4)) + np.eye(BATCH)
  assert different.min() > 0.05


@pytest.mark.slow
def test_jit_and_vmap_match_the_eager_loop():
  keys = jax.random.split(jax.random.key(2), BATCH)
  batched = np.asarray(compiled(SIZE, True)(sampler()(keys)))
  # Edges turn a rounding of 1e-6 head heights into 1e-4 of coverage.
  np.testing.assert_allclose(faces.render(keys[0]), batched[0], atol=2e-3)
  np.testing.assert_allclose(compiled(SIZE, False)(faces.sample_params(keys[1])), batched[1], atol=2e-3)


@pytest.mark.slow
def test_small_picture_is_the_area_average_of_a_large_one():
  keys = jax.random.split(jax.random.key(4), BATCH)
  params = sampler()(keys)
  small = np.asarray(compiled(SIZE, True)(params))
  average, points = [], []
  for i in range(4):
    large = np.asarray(compiled(4 * SIZE, False)(jax.tree.map(lambda leaf: leaf[i], params)))
    average.append(large.reshape(SIZE, 4, SIZE, 4, 3).mean(axis=(1, 3)))
    points.append(large[2::4, 2::4])
  error = np.sqrt(np.mean((small[:4] - np.stack(average)) ** 2))
  aliased = np.sqrt(np.mean((np.stack(points) - np.stack(average)) ** 2))
  # 0.025 is 1.25 % of the range; picking every fourth pixel of the large picture, without a filter, is twice as far.
  assert error < 0.025
  assert error < 0.6 * aliased


@pytest.mark.parametrize("yaw", [0.0, 0.4])
def test_mirrored_pose_and_light_give_the_mirrored_picture(yaw):
  left = neutral(pose=dict(yaw=-yaw, roll=-0.1), eyes=dict(gaze_x=-0.02), light=dict(azimuth=-0.6))
  right = neutral(pose=dict(yaw=yaw, roll=0.1), eyes=dict(gaze_x=0.02), light=dict(azimuth=0.6))
  left, right = draw_all([left, right])
  # The clothes' folds are not symmetric, so only the part above them is compared.
  np.testing.assert_allclose(left[:44, ::-1], right[:44], atol=5e-3)
  assert np.abs(left[:44] - right[:44]).max() > 0.2


def test_frontal_face_in_frontal_light_is_symmetric():
  (image,) = draw_all([neutral()])
  np.testing.assert_allclose(image[:44, ::-1], image[:44], atol=5e-3)


def test_skin_color_is_seen_on_the_cheeks():
  light, deep = (0.95, 0.80, 0.70), (0.40, 0.27, 0.19)
  pale, dark = draw_all([neutral(skin=dict(color=light)), neutral(skin=dict(color=deep))])
  for side in (-1, 1):
    difference = window(pale, 0.38 * side, -0.3).mean(axis=(0, 1)) - window(dark, 0.38 * side, -0.3).mean(axis=(0, 1))
    # Display values span 2, and the cheek is lit at least at half strength.
    assert (difference > np.subtract(light, deep)).all()


def test_two_eyes_are_darker_than_the_skin_about_them():
  (image,) = draw_all([neutral()])
  for side in (-1, 1):
    iris = window(image, 0.31 * side, 0.01, half=0.02).mean()
    for x, y in ((0.31 * side, -0.32), (0.0, 0.35), (0.31 * side, 0.5)):
      assert iris < window(image, x, y).mean() - 0.4


def test_gaze_moves_the_iris_and_nothing_but_the_eyes():
  ahead, aside = draw_all([neutral(), neutral(eyes=dict(gaze_x=0.05))])
  changed = np.abs(ahead - aside).max(axis=-1) > 1e-3
  rows, columns = np.nonzero(changed)
  assert changed.sum() >= 8
  eye_row = (1.0 - CENTER_Y) * SIZE / 2
  assert np.abs(rows + 0.5 - eye_row).max() < 0.15 * SCALE * SIZE / 2 + 1
  assert (np.abs(np.abs(columns + 0.5 - SIZE / 2) - 0.31 * SCALE * SIZE / 2) < 0.2 * SCALE * SIZE / 2 + 1).all()


def test_yaw_carries_the_mouth_to_its_side():
  blue = dict(color=(0.0, 0.0, 1.0))
  images = draw_all([neutral(mouth=blue, pose=dict(yaw=yaw)) for yaw in (-0.4, 0.0, 0.4)])
  face = images[:, 20:48, 20:44]  # the background beside it is blue too
  blueness = np.maximum(face[..., 2] - face[..., 0] - 0.3, 0.0)
  columns = np.arange(20, 44) + 0.5 - SIZE / 2
  center = (blueness * columns).sum(axis=(1, 2)) / blueness.sum(axis=(1, 2))
  # The lips lie about 0.7 head half-heights before the axis there, and sin 0.4 of that is 5.2 pixels.
  np.testing.assert_allclose(center, [-5.2, 0.0, 5.2], atol=0.8)


def test_light_from_the_right_brightens_the_right_cheek():
  (image,) = draw_all([neutral(light=dict(azimuth=1.0))])
  assert window(image, 0.45, -0.3).mean() > window(image, -0.45, -0.3).mean() + 0.15


def test_wear_changes_only_where_it_is_worn():
  bare, hat, glasses = draw_all([
    neutral(),
    neutral(hat=dict(worn=1.0, top=0.2, line=0.45, band=0.1, brim_x=-1.0, color=(0.1, 0.2, 0.9))),
    neutral(glasses=dict(worn=1.0, tint=0.9, lens=(0.05, 0.05, 0.05), width=0.23, height=0.16)),
  ])  # fmt: skip
  for worn, inside in ((hat, window(hat, 0.0, 0.8)), (glasses, window(glasses, 0.31, -0.08))):
    assert inside.mean() < 0.0
    mouth_and_below = slice(int((1.0 - CENTER_Y + 0.35 * SCALE) * SIZE / 2), None)
    np.testing.assert_array_equal(worn[mouth_and_below], bare[mouth_and_below])


@pytest.mark.slow
def test_every_region_varies_over_the_distribution():
  images = pictures(6, 256)
  blocks = images.reshape(256, 8, SIZE // 8, 8, SIZE // 8, 3).mean(axis=(2, 4))
  # Block means with a standard deviation of 5 % of the range: no corner, cheek or collar is ever the same.
  assert blocks.std(axis=0).min() > 0.1


def test_eyes_lie_where_a_portrait_has_them():
  groups = jax.random.split(jax.random.key(7), 256).reshape(-1, BATCH)
  params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[sampler()(keys) for keys in groups])
  eye_rows = (1.0 - params.camera.y - params.eyes.height * params.camera.scale) / 2
  assert float(eye_rows.min()) > 0.38 and float(eye_rows.max()) < 0.50
  assert float(params.camera.scale.min()) > 0.5 and float(params.camera.scale.max()) < 0.7
