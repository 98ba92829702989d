"""Contact sheets: sizes, pixels, captions."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from diffinv.data import sheet
from diffinv.data.images import to_uint8
from diffinv.data.sheet import GAP, Cell

HEADING = round(sheet.HEADING_SIZE * sheet.LINE)
LINE = round(sheet.TEXT_SIZE * sheet.LINE)
WHITE = ImageColor.getrgb(sheet.BACKGROUND)


def picture(height, width, channels=3, seed=0):
  return np.random.default_rng(seed).uniform(-1.3, 1.3, (height, width, channels)).astype(np.float32)


def draw(columns, rows):
  return np.asarray(sheet.sheet(columns, rows))


def corner(row, column, tile, lines=0):
  """Return top and left of a tile of height and width `tile`, from the layout that the docstring promises."""
  height, width = tile
  return GAP + HEADING + row * (HEADING + height + lines * LINE + GAP) + HEADING, GAP + column * (width + GAP)


def cut(pixels, row, column, tile, lines=0):
  top, left = corner(row, column, tile, lines)
  return pixels[top : top + tile[0], left : left + tile[1]]


def test_pixels_of_a_tile_are_those_of_the_picture():
  shape = (230, 250)  # between the smallest and the largest tile: drawn as it is
  pictures = [[picture(*shape, seed=10 * i + j) for j in range(3)] for i in range(2)]
  pixels = draw("abc", [(f"row {i}", [Cell(p, ("x", "y")) for p in row]) for i, row in enumerate(pictures)])
  assert pixels.shape == (GAP + HEADING + 2 * (HEADING + 230 + 2 * LINE + GAP), GAP + 3 * (250 + GAP), 3)
  for i, row in enumerate(pictures):
    for j, want in enumerate(row):
      np.testing.assert_array_equal(cut(pixels, i, j, shape, 2), to_uint8(want))


def test_small_pictures_are_enlarged_by_repeating_pixels():
  small = picture(64, 32)
  pixels = draw("a", [("", [Cell(small)])])
  want = to_uint8(small).repeat(4, axis=0).repeat(4, axis=1)
  assert min(want.shape[:2]) < sheet.MIN_TILE <= max(want.shape[:2])
  np.testing.assert_array_equal(cut(pixels, 0, 0, (256, 128)), want)


def test_a_small_picture_beside_a_large_one_takes_its_size():
  small, large = picture(64, 64), picture(256, 256)
  pixels = draw("ab", [("", [Cell(small), Cell(large)])])
  np.testing.assert_array_equal(cut(pixels, 0, 0, (256, 256)), to_uint8(small).repeat(4, axis=0).repeat(4, axis=1))
  np.testing.assert_array_equal(cut(pixels, 0, 1, (256, 256)), to_uint8(large))


@pytest.mark.parametrize("size, tile", [((1024, 768), (512, 384)), ((600, 2400), (128, 512))])
def test_large_pictures_are_reduced_to_the_largest_tile(size, tile):
  flat = np.broadcast_to(np.array([-1.0, 0.0, 1.0], np.float32), (*size, 3))
  pixels = draw("a", [("", [Cell(flat)])])
  assert pixels.shape[1] == tile[1] + 2 * GAP
  np.testing.assert_array_equal(cut(pixels, 0, 0, tile), np.broadcast_to(to_uint8(flat[0, 0]), (*tile, 3)))


def test_gray_pictures_are_drawn_in_gray():
  gray = picture(240, 240, 1)
  pixels = draw("a", [("", [Cell(gray)])])
  np.testing.assert_array_equal(cut(pixels, 0, 0, (240, 240)), np.repeat(to_uint8(gray), 3, axis=-1))


def test_another_shape_is_centered_and_not_stretched():
  wide = np.full((120, 240, 3), -1.0, np.float32)
  tile = cut(draw("ab", [("", [Cell(picture(240, 240)), Cell(wide)])]), 0, 1, (240, 240))
  np.testing.assert_array_equal(tile[60:180], 0)
  np.testing.assert_array_equal(tile[:60], 255)
  np.testing.assert_array_equal(tile[180:], 255)


def test_an_empty_place_is_shaded():
  pixels = draw("ab", [("", [Cell(picture(240, 240)), Cell(None)])])
  np.testing.assert_array_equal(cut(pixels, 0, 1, (240, 240)), np.broadcast_to(sheet.EMPTY, (240, 240, 3)))


def test_a_sheet_of_empty_places_only_is_drawn():
  pixels = draw("a", [("", [Cell(None)])])
  tile = (sheet.MIN_TILE, sheet.MIN_TILE)
  np.testing.assert_array_equal(cut(pixels, 0, 0, tile), np.broadcast_to(sheet.EMPTY, (*tile, 3)))


def changed_box(first, second):
  """Return the smallest box, (top, left, bottom, right), that holds all pixels that differ."""
  rows, columns = np.nonzero(np.any(first != second, axis=-1))
  return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


TILE = (240, 240)


def two_by_two(columns=("", ""), titles=("", ""), lines=()):
  """Draw four pictures with two captions each; `lines` are those of the cell in row 1, column 1."""
  rows = [[Cell(picture(*TILE, seed=2 * i + j), ("", "")) for j in range(2)] for i in range(2)]
  if lines:
    rows[1][1] = rows[1][1]._replace(lines=lines)
  return draw(columns, list(zip(titles, rows)))


def test_captions_are_written_under_their_picture():
  top, left = corner(1, 1, TILE, 2)
  for k, lines in enumerate([("27.1 dB", ""), ("", "27.1 dB")]):
    box = changed_box(two_by_two(), two_by_two(lines=lines))
    assert top + 240 + k * LINE <= box[0] < box[2] <= top + 240 + (k + 1) * LINE + 2
    assert left <= box[1] < box[3] <= left + 240
    assert box[2] - box[0] > 10 and abs((box[1] + box[3]) / 2 - (left + 120)) < 3, "large enough to read, and centered"


def test_columns_have_headings_on_top():
  box = changed_box(two_by_two(), two_by_two(columns=("", "Truth")))
  left = corner(0, 1, TILE)[1]
  assert GAP <= box[0] < box[2] <= GAP + HEADING and left <= box[1] < box[3] <= left + 240


def test_rows_have_headings_over_them():
  box = changed_box(two_by_two(), two_by_two(titles=("", "Deblurring")))
  top, left = corner(1, 0, TILE, 2)
  assert top - HEADING <= box[0] < box[2] <= top and GAP <= box[1] < box[3] <= left + 240


def test_a_long_caption_stays_under_its_picture_in_smaller_letters():
  top, left = corner(1, 1, TILE, 2)
  box = changed_box(two_by_two(), two_by_two(lines=("PSNR 27.13 dB, SSIM 0.8123, chi-square 1.02", "")))
  assert left - 1 <= box[1] < box[3] <= left + 241 and top + 240 <= box[0]


@pytest.mark.parametrize("rows", [[], [("a", [Cell(None)])], [("a", [Cell(None)] * 2), ("b", [Cell(None)] * 3)]])
def test_rows_that_do_not_fill_the_columns_are_an_error(rows):
  with pytest.raises(ValueError, match="sheet: expected rows of 2 cells"):
    sheet.sheet(["a", "b"], rows)


@pytest.mark.parametrize("count, across, down", [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (7, 3, 3)])
def test_a_grid_is_nearly_square_and_pixel_for_pixel(count, across, down):
  pictures = [picture(5, 7, seed=k) for k in range(count)]
  drawn = sheet.grid(pictures, gap=2)
  assert isinstance(drawn, Image.Image) and drawn.size == (across * 9 - 2, down * 7 - 2)
  left_over = np.asarray(drawn).copy()
  for k, want in enumerate(pictures):
    place = (slice(k // across * 7, k // across * 7 + 5), slice(k % across * 9, k % across * 9 + 7))
    np.testing.assert_array_equal(left_over[place], to_uint8(want))
    left_over[place] = WHITE
  assert np.all(left_over == WHITE)


def test_a_grid_of_gray_pictures():
  gray = picture(5, 7, 1)
  np.testing.assert_array_equal(np.asarray(sheet.grid([gray])), np.repeat(to_uint8(gray), 3, axis=-1))
