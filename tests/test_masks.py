"""Masks: whatever can only mean missing and kept is read so, and what a message advises, done, works."""

import re

import numpy as np
import pytest
from PIL import Image

from diffinv.data import masks

RNG = np.random.default_rng(0)
KEPT = RNG.random((9, 12)) < 0.4
BLACK_WHITE = 255 * KEPT.astype(np.uint8)
OPAQUE = np.full_like(BLACK_WHITE, 255)


def palette(colors):
  image = Image.fromarray(KEPT.astype(np.uint8), "L").convert("L")
  found = Image.frombytes("P", image.size, image.tobytes())
  found.putpalette(colors)
  return found


PICTURES = {
  "gray.png": Image.fromarray(BLACK_WHITE),
  "flags.png": Image.fromarray(KEPT.astype(np.uint8)),
  "black_and_white.png": Image.fromarray(KEPT),
  "color.png": Image.fromarray(np.dstack([BLACK_WHITE] * 3)),
  "color_flags.png": Image.fromarray(np.dstack([KEPT.astype(np.uint8)] * 3)),
  "opaque.png": Image.fromarray(np.dstack([BLACK_WHITE] * 3 + [OPAQUE])),
  "gray_opaque.png": Image.merge("LA", [Image.fromarray(BLACK_WHITE), Image.fromarray(OPAQUE)]),
  "palette.png": palette([0, 0, 0, 255, 255, 255]),
  "palette.gif": palette([0, 0, 0, 255, 255, 255]),
  "white.bmp": Image.fromarray(np.dstack([BLACK_WHITE] * 3)),
  "deep.png": Image.fromarray(65535 * KEPT.astype(np.uint16)),
  "deep_flags.png": Image.fromarray(KEPT.astype(np.uint16)),
  "wide.tif": Image.fromarray(255 * KEPT.astype(np.int32)),
  "float.tif": Image.fromarray(KEPT.astype(np.float32)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_two_plain_values_is_a_mask(tmp_path, name):
  PICTURES[name].save(tmp_path / name)
  got = masks.read_mask(tmp_path / name)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, KEPT[..., None])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("axes", ["[h, w]", "[h, w, 1]", "[h, w, 3]"])
def test_an_array_of_two_plain_values_is_a_mask(tmp_path, kind, white, axes):
  array = (white * KEPT).astype(kind)
  array = {"[h, w]": array, "[h, w, 1]": array[..., None], "[h, w, 3]": np.dstack([array] * 3)}[axes]
  np.save(tmp_path / "a.npy", array)
  for got in (masks.read_mask(tmp_path / "a.npy"), masks.as_mask(array)):
    np.testing.assert_array_equal(got, KEPT[..., None])


LEVELS = {
  "soft.png": (np.where(KEPT, 200, 30).astype(np.uint8), "108 other values such as 30"),
  "dark.png": (np.where(KEPT, 100, 0).astype(np.uint8), "other values such as 100"),
  "flags_and_more.png": (np.where(KEPT, 7, 1).astype(np.uint8), None),
  "soft.npy": (np.where(KEPT, 0.75, 0.25), "108 other values such as 0.25"),
  "bytes.npy": (np.where(KEPT, 254, 3).astype(np.uint8), "108 other values such as 3"),
  "faint.npy": (np.where(KEPT, 0.3, 0.0), "other values such as 0.3"),
}


@pytest.mark.parametrize("name", LEVELS)
def test_the_threshold_that_is_advised_keeps_the_brighter_pixels(tmp_path, name):
  values, words = LEVELS[name]
  path = tmp_path / name
  np.save(path, values) if name.endswith(".npy") else Image.fromarray(values).save(path)
  with pytest.raises(ValueError, match=f"expected a mask of 0 .missing. .*{words or ''}") as caught:
    masks.read_mask(path)
  threshold = int(re.search(r"pass `mask_threshold=(\d+)`", str(caught.value))[1])
  np.testing.assert_array_equal(masks.read_mask(path, threshold=threshold), KEPT[..., None])
  if name.endswith(".npy"):
    np.testing.assert_array_equal(masks.as_mask(values, threshold=threshold), KEPT[..., None])


@pytest.mark.parametrize("name", ["dark.png", "soft.png", "faint.npy"])
def test_where_a_threshold_keeps_nothing_one_that_keeps_something_is_advised(tmp_path, name):
  values, _ = LEVELS[name]
  path = tmp_path / name
  np.save(path, values) if name.endswith(".npy") else Image.fromarray(values).save(path)
  with pytest.raises(ValueError, match="one that keeps none; pass `mask_threshold=") as caught:
    masks.read_mask(path, threshold=255)
  threshold = int(re.search(r"mask_threshold=(\d+)` or less", str(caught.value))[1])
  np.testing.assert_array_equal(masks.read_mask(path, threshold=threshold), KEPT[..., None])


@pytest.mark.parametrize("threshold", [1, 128, 255])
def test_a_mask_of_0_and_1_is_the_same_with_any_threshold(tmp_path, threshold):
  Image.fromarray(KEPT.astype(np.uint8)).save(tmp_path / "a.png")
  np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png", threshold=threshold), KEPT[..., None])


def test_values_that_are_no_gray_levels_get_no_threshold_advised():
  for other in (65025.0, -1.0, np.nan):
    with pytest.raises(ValueError, match="save it with the values 0 and 255"):
      masks.as_mask(np.array([[0.0, 255.0, other]]))


SEE_THROUGH = {
  "alpha": Image.fromarray(np.dstack([BLACK_WHITE] * 3 + [BLACK_WHITE])),
  "palette": palette([0, 0, 0, 255, 255, 255]),
}


@pytest.mark.parametrize("name", SEE_THROUGH)
def test_a_mask_with_transparent_pixels_is_refused_until_it_is_flattened(tmp_path, name):
  SEE_THROUGH[name].save(tmp_path / "a.png", **({"transparency": 0} if name == "palette" else {}))
  with pytest.raises(ValueError, match=f"got {np.sum(~KEPT)} pixels that are transparent.*; flatten it onto") as caught:
    masks.read_mask(tmp_path / "a.png")
  assert "black or white" in str(caught.value)
  with Image.open(tmp_path / "a.png") as image:
    image = image.convert("RGBA")
  Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).save(tmp_path / "a.png")
  np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png"), KEPT[..., None])


def test_a_mask_of_colors_is_read_once_it_is_saved_as_gray(tmp_path):
  image = Image.fromarray(np.dstack([BLACK_WHITE, BLACK_WHITE, OPAQUE]))
  image.save(tmp_path / "a.png")
  with pytest.raises(ValueError, match=f"got {np.sum(~KEPT)} pixels of other colors; save it as gray"):
    masks.read_mask(tmp_path / "a.png")
  image.convert("L").save(tmp_path / "a.png")
  np.testing.assert_array_equal(masks.read_mask(tmp_path / "a.png", threshold=128), KEPT[..., None])


def test_the_advice_on_a_mask_of_another_layout_gives_the_mask():
  array = KEPT[None].astype(np.float32)
  with pytest.raises(ValueError, match=r"expected a mask of shape \[h, w\] or \[h, w, 1\], got \(1, 9, 12\)") as caught:
    masks.as_mask(array)
  changed = eval(re.search(r"; give (.*)$", str(caught.value))[1], {"a": array, "np": np})
  np.testing.assert_array_equal(masks.as_mask(changed), KEPT[..., None])


def test_the_advice_on_a_complex_mask_gives_the_mask():
  array = KEPT.astype(np.complex64)
  with pytest.raises(ValueError, match="`mask`: expected real numbers, got complex64; give a.real$"):
    masks.as_mask(array)
  np.testing.assert_array_equal(masks.as_mask(array.real), KEPT[..., None])
