"""The pictures of a comparison as data for one page: each once, in a codec that keeps the page small."""

import base64
import collections
import io
import math
from typing import Any, NamedTuple, Sequence

import matplotlib
import numpy as np
from PIL import Image

from diffinv.data import images
from diffinv.studies import runs

EXTREME = 99.5  # percentile of errors that ends the scale of their maps: a few wild pixels would darken all others
LONGEST_SIDE = 16_000  # pixels: WebP has no wider or higher pictures
LIMIT = 20e6  # bytes of pictures on a page, about: it has to open at once
PROBES = 6  # rows that the size of the page is estimated from


class Codec(NamedTuple):
  """How pictures are stored."""

  pictures: int | None  # quality of WebP in percent; None for lossless
  chains: int
  frames: int  # of a chain, at most


# From the best to the smallest: the first that keeps the page below LIMIT is taken. Where none does, the last one is,
# for as many of the pictures as it has room for.
CODECS = (
  Codec(None, 90, 32),  # chains are looked at, not measured
  Codec(None, 75, 16),
  Codec(95, 75, 16),
  Codec(90, 75, 16),
  Codec(80, 65, 12),
  Codec(60, 50, 8),
)


class Album:
  """The pictures of a comparison as data, each once, in a codec that keeps the page small."""

  def __init__(self, run: runs.Run):
    self.pictures: list[str | None] = []  # WebP in base64; None for one that stands elsewhere on the page
    self._places: dict[str, int] = {}  # in `pictures`, by the data
    self._elsewhere: dict[int, str] = {}
    self._run = run
    self.codec, self.images = _choose(run)  # images: how many of the plan's are on the page, the first ones

  @property
  def size(self) -> int:
    """Bytes of all pictures on the page."""
    return sum(len(data or "") for data in self.pictures) + sum(map(len, self._elsewhere.values()))

  def add(self, name: str) -> int:
    """Put in a picture by the name of its file; return its number."""
    return self.put(_encode(read_picture(self._run, name), self.codec.pictures))

  def put(self, data: bytes) -> int:
    """Put in data of a picture; return its number."""
    text = base64.b64encode(data).decode()
    if text not in self._places:
      self._places[text] = len(self.pictures)
      self.pictures.append(text)
    return self._places[text]

  def on_page(self, name: str) -> dict[str, Any]:
    """Take a picture out of the album to stand on the page itself; return its number and its address."""
    place = self.add(name)
    self._elsewhere[place] = self._elsewhere.get(place) or self.pictures[place]
    self.pictures[place] = None
    return {"number": place, "source": f"data:image/webp;base64,{self._elsewhere[place]}"}


def page_data(run: runs.Run, album: Album) -> dict[str, Any]:
  """Return what the script needs: pictures by number, and what there is of every image on the page and every task."""
  plan, chosen = run.plan, run.plan["images"][: album.images]
  skipped = {(e["task"], e["method"]): e["skipped"] for e in plan["runs"] if e.get("skipped") is not None}
  cells = [[_cell(run, album, image, task) for task in plan["tasks"]] for image in chosen]
  colors = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
  return {
    "samples": plan["num_samples"],
    "images": [
      {"name": i["name"], "height": i["shape"][0], "width": i["shape"][1], "truth": _truth(run, album, i)}
      for i in chosen
    ],
    "tasks": [
      {
        "title": t["title"],
        "skipped": [
          [m["title"], skipped[t["name"], m["name"]]] for m in plan["methods"] if (t["name"], m["name"]) in skipped
        ],
      }
      for t in plan["tasks"]
    ],
    "methods": [method["title"] for method in plan["methods"]],
    "cells": cells,
    "colors": base64.b64encode(colors.tobytes()).decode(),
    "pictures": album.pictures,
  }


def _truth(run: runs.Run, album: Album, image: dict) -> int | None:
  there = any(row["image"] == image["name"] and not row.get("failed") for row in run.rows.values())
  return album.add(f"{image['name']}-truth.png") if there else None


def _cell(run: runs.Run, album: Album, image: dict, task: dict) -> dict[str, Any] | None:
  """Return what there is of a task on an image; None where nothing has finished."""
  names = [method["name"] for method in run.plan["methods"]]
  rows = [run.restored(task["name"], name, image["name"]) for name in names]
  if not any(rows):
    return None
  start = f"{image['name']}-{task['name']}"
  truth = read_picture(run, f"{image['name']}-truth.png", image["shape"])
  error = max(_extreme_error(run, f"{start}-{row['method']}-00.png", truth) for row in rows if row)
  spreads = [_spread(run, f"{start}-{row['method']}-std.npy", image) if row else None for row in rows]
  spread = max((float(np.percentile(s, EXTREME)) for s in spreads if s is not None), default=0.0)
  measurement = read_picture(run, f"{start}-measurement.png")
  return {
    "measurement": album.add(f"{start}-measurement.png"),
    "measured": [measurement.height, measurement.width],
    "error": _round_up(error),
    "spread": _round_up(spread),
    "failed": [run.rows.get((task["name"], name, image["name"]), {}).get("failed") for name in names],
    "methods": [
      _method_data(run, album, image, start, row, s, _round_up(spread)) if row else None
      for row, s in zip(rows, spreads)
    ],
  }


def _method_data(
  run: runs.Run, album: Album, image: dict, start: str, row: dict, spread, scale: float
) -> dict[str, Any]:
  """Return what there is of a method: numbers of pictures, and marks."""
  name = f"{start}-{row['method']}"
  samples = [f"{name}-{k:02d}.png" for k in range(run.plan["num_samples"])]
  for sample in samples:
    read_picture(run, sample, image["shape"])
  found = {"samples": [album.add(sample) for sample in samples]}
  if (run.folder / runs.PICTURES / f"{name}-mean.png").exists():
    read_picture(run, f"{name}-mean.png", image["shape"])
    found["mean"] = album.add(f"{name}-mean.png")
  if spread is not None:
    gray = Image.fromarray(np.round(255 * np.clip(spread / scale, 0, 1)).astype(np.uint8)).convert("RGB")
    found["spread"] = album.put(_encode(gray, None))
  if (run.folder / runs.PICTURES / f"{name}-chain.png").exists():
    strip, frames, columns = _atlas(read_chain(run, f"{name}-chain.png", image), image, album.codec.frames)
    if frames > 1:  # one alone is its start
      chain = album.put(_encode(strip, album.codec.chains))
      found["chain"] = {"picture": chain, "frames": frames, "columns": columns}
  marks = {key: row[key] for key in ("psnr", "ssim", "lpips", "mean_psnr", "mean_ssim") if row.get(key) is not None}
  return {**found, "marks": {key: _json_number(value) for key, value in marks.items()}}


def _json_number(value: Any) -> Any:
  """Return numbers as JSON has them: infinite PSNRs are null."""
  if isinstance(value, list):
    return [_json_number(entry) for entry in value]
  return round(value, 4) if value is not None and math.isfinite(value) else None


def read_picture(run: runs.Run, name: str, shape: Sequence[int] | None = None) -> Image.Image:
  """Read a picture of a comparison, or the frames of a chain side by side, as RGB.

  Raises:
    ValueError: it is missing, damaged or has another size than `shape`.
  """
  path = run.folder / runs.PICTURES / name
  if not path.is_file():
    raise ValueError(f"{path}: expected the picture of a finished row, found none; run the comparison again")
  try:
    image = images.read_written(path)
  except ValueError as error:
    raise ValueError(f"{error}; run the comparison again") from None
  if shape is not None and (image.height, image.width) != tuple(shape[:2]):
    raise ValueError(
      f"{path}: expected {images.by(shape)} pixels, got {image.width}x{image.height}; run the comparison again"
    )
  return image


def read_chain(run: runs.Run, name: str, image: dict[str, Any]) -> Image.Image:
  """Read the frames of a chain, side by side.

  Raises:
    ValueError: see `read_picture`, or it is no row of frames.
  """
  height, width, _ = image["shape"]
  strip = read_picture(run, name)
  if strip.height != height or strip.width % width:
    raise ValueError(
      f"{run.folder / runs.PICTURES / name}: expected frames of {width}x{height} pixels side by side, "
      f"got {strip.width}x{strip.height}; run the comparison again"
    )
  return strip


def _atlas(strip: Image.Image, image: dict, most: int) -> tuple[Image.Image, int, int]:
  """Lay out at most so many frames, the first and the last among them; return them, how many, how many in a line.

  There are fewer where they are large: as many as one WebP picture has room for, at least one.
  """
  height, width, _ = image["shape"]
  there = strip.width // width
  across, down = (max(1, LONGEST_SIDE // side) for side in (width, height))
  chosen = sorted({round(i) for i in np.linspace(0, there - 1, min(there, most, across * down))})
  columns = min(len(chosen), across)
  canvas = Image.new("RGB", (columns * width, math.ceil(len(chosen) / columns) * height))
  for place, frame in enumerate(chosen):
    part = strip.crop((frame * width, 0, (frame + 1) * width, height))
    canvas.paste(part, (place % columns * width, place // columns * height))
  return canvas, len(chosen), columns


def _extreme_error(run: runs.Run, name: str, truth: Image.Image) -> float:
  """Return the error that few pixels exceed, mean over channels of absolute differences on [-1, 1]."""
  picture = read_picture(run, name, (truth.height, truth.width))
  gap = np.abs(np.asarray(picture, np.float32) - np.asarray(truth, np.float32)).mean(axis=-1) / 127.5
  return float(np.percentile(gap, EXTREME))


def _spread(run: runs.Run, name: str, image: dict[str, Any]) -> np.ndarray | None:
  """Return the standard deviation per pixel, mean over channels, [h, w]; None where there is none."""
  path = run.folder / runs.PICTURES / name
  if not path.exists():
    return None
  try:
    array = images.read_array(path)
  except ValueError as error:
    raise ValueError(f"{error}; run the comparison again") from None
  if array.shape[:2] != tuple(image["shape"][:2]):
    raise ValueError(
      f"{path}: expected {images.by(image['shape'])} pixels, got {images.by(array.shape)}; run the comparison again"
    )
  return array.mean(axis=-1)


def _round_up(value: float) -> float:
  """Round up to two significant digits: the end of a scale."""
  if value <= 0:
    return 0.01
  unit = 10.0 ** (math.floor(math.log10(value)) - 1)
  return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def _encode(image: Image.Image, quality: int | None) -> bytes:
  data = io.BytesIO()
  if quality is None:
    image.save(data, "WEBP", lossless=True, quality=60, method=4)
  else:
    image.save(data, "WEBP", quality=quality, method=4)
  return data.getvalue()


def _choose(run: runs.Run) -> tuple[Codec, int]:
  """Choose how to store pictures, and of how many images, from what a few rows of them take."""
  rows = [row for row in run.rows.values() if not row.get("failed")]
  probes = [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, PROBES)})] if rows else []
  images_there = run.plan["images"]
  by_name = {image["name"]: image for image in images_there}
  for codec in CODECS:
    taken = sum(_row_bytes(run, row, by_name[row["image"]], codec) for row in probes) / max(1, len(probes))
    if taken * len(rows) <= LIMIT:
      return codec, len(images_there)
  finished = collections.Counter(row["image"] for row in rows)
  totals = taken * np.cumsum([finished[image["name"]] for image in images_there])
  return CODECS[-1], max(1, int(np.sum(totals <= LIMIT)))


def _row_bytes(run: runs.Run, row: dict, image: dict, codec: Codec) -> float:
  """Return about how many bytes a row takes on the page, its part of the truth and the measurement among them."""
  name, plan = f"{row['image']}-{row['task']}-{row['method']}", run.plan
  one = len(_encode(read_picture(run, f"{name}-00.png"), codec.pictures))
  several = 2 * (plan["num_samples"] > 1)  # the mean, the standard deviation
  shared = (1 + 1 / len(plan["tasks"])) / len(plan["methods"])
  total = one * (plan["num_samples"] + several + shared)
  if (run.folder / runs.PICTURES / f"{name}-chain.png").exists():
    strip, frames, _ = _atlas(read_chain(run, f"{name}-chain.png", image), image, codec.frames)
    total += len(_encode(strip, codec.chains)) if frames > 1 else 0
  return total * 4 / 3  # in base64
