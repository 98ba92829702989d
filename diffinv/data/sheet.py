"""Contact sheets: rows and columns of pictures with captions large enough to read."""

import functools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffinv.data.images import to_pillow

# Pixels, except where said.
MIN_TILE, MAX_TILE = 224, 512  # the longer side of a picture on the sheet
GAP = 12
TEXT_SIZE = 20
HEADING_SIZE = 22
LINE = 1.25  # height of a line over the size of its text
BACKGROUND, INK, FAINT, EMPTY = "white", "black", (96, 96, 96), (235, 235, 235)


class Cell(NamedTuple):
  """One picture with its captions."""

  image: np.ndarray | None  # [h, w, 1 or 3], [-1, 1] and clipped to it; None for an empty place
  lines: tuple[str, ...] = ()  # captions under it


def sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> Image.Image:
  """Draw a table of pictures.

  Small pictures are enlarged to the size of the largest by repeating pixels, very large ones are reduced.

  Args:
    columns: headings.
    rows: for each row, the heading above it and its cells, one for each column.

  Raises:
    ValueError: there is nothing to draw, or a row has too few or too many cells.
  """
  if not rows or any(len(cells) != len(columns) for _, cells in rows):
    raise ValueError(f"sheet: expected rows of {len(columns)} cells, got {[len(cells) for _, cells in rows]}")
  width, height = _tile_size([cell.image for _, cells in rows for cell in cells if cell.image is not None])
  line, heading = round(TEXT_SIZE * LINE), round(HEADING_SIZE * LINE)
  captions = max(len(cell.lines) for _, cells in rows for cell in cells) * line
  row_height = heading + height + captions + GAP
  canvas = Image.new("RGB", (GAP + (width + GAP) * len(columns), GAP + heading + row_height * len(rows)), BACKGROUND)
  draw = ImageDraw.Draw(canvas)
  for j, title in enumerate(columns):
    _text(draw, (GAP + j * (width + GAP) + width // 2, GAP), title, HEADING_SIZE, INK, width, "ma")
  for i, (title, cells) in enumerate(rows):
    top = GAP + heading + i * row_height
    _text(draw, (GAP, top), title, HEADING_SIZE, FAINT, canvas.width - 2 * GAP, "la")
    for j, cell in enumerate(cells):
      left = GAP + j * (width + GAP)
      _place(canvas, cell.image, (left, top + heading), (width, height))
      for k, words in enumerate(cell.lines):
        place = (left + width // 2, top + heading + height + 2 + k * line)
        _text(draw, place, words, TEXT_SIZE, INK, width, "ma")
  return canvas


def grid(pictures: Sequence[np.ndarray], *, gap: int = 2) -> Image.Image:
  """Draw pictures of one size, [h, w, 1 or 3], as a nearly square grid, row by row, pixel for pixel."""
  across = math.ceil(math.sqrt(len(pictures)))
  down = math.ceil(len(pictures) / across)
  height, width = pictures[0].shape[:2]
  canvas = Image.new("RGB", (across * (width + gap) - gap, down * (height + gap) - gap), BACKGROUND)
  for k, picture in enumerate(pictures):
    row, column = divmod(k, across)
    canvas.paste(to_pillow(picture).convert("RGB"), (column * (width + gap), row * (height + gap)))
  return canvas


def _tile_size(pictures: Sequence[np.ndarray]) -> tuple[int, int]:
  """Return width and height of a tile: those of the largest picture, or a multiple where it is small."""
  height, width = max((picture.shape[:2] for picture in pictures), key=math.prod, default=(MIN_TILE, MIN_TILE))
  scale = max(1, -(-MIN_TILE // max(height, width)))
  shrink = min(1.0, MAX_TILE / (scale * max(height, width)))
  return max(1, round(width * scale * shrink)), max(1, round(height * scale * shrink))


def _place(canvas: Image.Image, picture: np.ndarray | None, corner: tuple[int, int], size: tuple[int, int]) -> None:
  """Paste a picture, scaled to fit into the tile and centered there."""
  if picture is None:
    canvas.paste(EMPTY, (*corner, corner[0] + size[0], corner[1] + size[1]))
    return
  image = to_pillow(picture).convert("RGB")
  ratio = min(size[0] / image.width, size[1] / image.height)
  scaled = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
  how = Image.Resampling.NEAREST if ratio >= 1 else Image.Resampling.LANCZOS
  image = image.resize(scaled, how)
  canvas.paste(image, (corner[0] + (size[0] - scaled[0]) // 2, corner[1] + (size[1] - scaled[1]) // 2))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
  """Return a font that has the letters of the methods' names, ΠGDM among them."""
  return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _text(draw, place, words: str, size: int, color, width: int, anchor: str) -> None:
  """Write one line, in smaller letters if it would be wider than `width`."""
  font = _font(size)
  while size > 8 and draw.textlength(words, font) > width:
    size -= 1
    font = _font(size)
  draw.text(place, words, fill=color, font=font, anchor=anchor)
