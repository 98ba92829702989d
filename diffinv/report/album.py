"""The pictures of a comparison as data for one page: each once, in a codec that keeps the page small."""

import base64
import collections
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from diffinv import stopping
from diffinv.data import images
from diffinv.metrics import table
from diffinv.studies import runs

EXTREME = 99.5  # percentile of errors at the end of their maps' scale: a few wild pixels would darken all others
LONGEST_SIDE = 16_000  # pixels: WebP has no wider or higher pictures
LIMIT = 20e6  # bytes of pictures on a page, about: it has to open at once
PROBES = 6  # rows from which the size of the page is estimated
KEPT = 256e6  # bytes of decoded pictures that are kept from the estimate; those beyond are decoded again


class Codec(NamedTuple):
  """How pictures are stored."""

  pictures: int | None  # quality of WebP in percent; None for lossless
  chains: int
  frames: int  # of a chain, at most


# From the best to the smallest. The first that keeps the page below LIMIT is taken; where none does, the last one, with
# as many of the pictures as fit.
CODECS = (
  Codec(None, 90, 32),  # chains are looked at, not measured
  Codec(None, 75, 16),
  Codec(95, 75, 16),
  Codec(90, 75, 16),
  Codec(80, 65, 12),
  Codec(60, 50, 8),
)


class Film(NamedTuple):
  """The frames of a chain in one picture, line by line."""

  data: bytes
  frames: int
  columns: int  # frames in a line


class Album:
  """The pictures of a comparison as data, each once. Every file is decoded once and encoded once in the chosen codec.

  What the estimate of the page's size has decoded and encoded waits here until the page asks for it.
  """

  def __init__(self, run: runs.Run):
    self.run = run
    self.restored = {row["image"] for row in run.rows.values() if not row.get("failed")}  # names of images
    self.pictures: list[str | None] = []  # WebP in base64; None for one that stands elsewhere on the page
    self._places: dict[str, int] = {}  # in `pictures`, by the data
    self._numbers: dict[str, int] = {}  # the same, by the name of the file
    self._elsewhere: dict[int, str] = {}
    self._decoded: dict[str, Image.Image] = {}  # by the name of the file, at most KEPT bytes
    self._encoded: dict[str, tuple[Any, Any]] = {}  # not put in yet, with how it was encoded
    self.codec, self.images = _choose(self)  # images: how many of the plan's are on the page, the first ones

  def look(self, name: str, shape: Sequence[int] | None = None) -> Image.Image:
    """Return a picture that is to be measured. It is encoded at once, so that `add` need not read it again.

    Raises:
      ValueError: see `read_picture`.
    """
    image = self._take(name)
    _check_size(self.run, name, image, shape)
    self.encode(name, image, self.codec.pictures)
    return image

  def add(self, name: str, shape: Sequence[int] | None = None) -> int:
    """Put in a picture by the name of its file; return its number.

    Raises:
      ValueError: see `read_picture`.
    """
    if name not in self._numbers:
      if name not in self._encoded or name in self._decoded:
        self.look(name, shape)
      self._numbers[name] = self.put(self._encoded.pop(name)[1])
    return self._numbers[name]

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
    data = self.pictures[place]
    if data is not None:
      self._elsewhere[place], self.pictures[place] = data, None
    return {"number": place, "source": f"data:image/webp;base64,{self._elsewhere[place]}"}

  def keep(self, name: str, image: Image.Image) -> None:
    """Keep a decoded picture for later, where there is room."""
    if sum(map(_bytes, self._decoded.values())) + _bytes(image) <= KEPT:
      self._decoded[name] = image

  def probe(self, name: str, codec: Codec) -> int:
    """Return how many bytes a picture takes in a codec."""
    image = self._take(name)
    self.keep(name, image)
    return len(self.encode(name, image, codec.pictures))

  def film(self, name: str, image: dict[str, Any], codec: Codec, *, again: bool = False) -> Film:
    """Return the frames of a chain as one picture.

    Args:
      name: of the file.
      image: its entry in the plan.
      codec: how to store it.
      again: it may be asked for again, in this codec or another.

    Raises:
      ValueError: see `read_chain`.
    """
    how = (codec.chains, codec.frames)
    if self._encoded.get(name, (None, None))[0] != how:
      strip = _as_chain(self.run, name, self._take(name), image)
      if again:
        self.keep(name, strip)
      canvas, frames, columns = _atlas(strip, image, codec.frames)
      # A single frame is the start of the chain, which nobody is shown.
      self._encoded[name] = (how, Film(_encode(canvas, codec.chains) if frames > 1 else b"", frames, columns))
    return self._encoded[name][1] if again else self._encoded.pop(name)[1]

  def encode(self, name: str, image: Image.Image, quality: int | None) -> bytes:
    """Encode a picture, unless it is there in this quality."""
    if self._encoded.get(name, (0, None))[0] != quality:
      self._encoded[name] = (quality, _encode(image, quality))
    return self._encoded[name][1]

  def forget(self, name: str) -> None:
    """Drop a decoded picture that has been encoded for good."""
    self._decoded.pop(name, None)

  def _take(self, name: str) -> Image.Image:
    kept = self._decoded.pop(name, None)
    return read_picture(self.run, name) if kept is None else kept


def page_data(run: runs.Run, album: Album) -> dict[str, Any]:
  """Return what the script needs: pictures by number, and what there is of every image on the page and every task."""
  plan, chosen = run.plan, run.plan["images"][: album.images]
  cells = [_cells(album, image) for image in chosen]
  colors = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
  return {
    "samples": plan["num_samples"],
    "images": [
      {"name": i["name"], "height": i["shape"][0], "width": i["shape"][1], "truth": _truth(album, i)} for i in chosen
    ],
    "tasks": [{"title": task["title"], "skipped": _skipped(plan, task)} for task in plan["tasks"]],
    "methods": [method["title"] for method in plan["methods"]],
    "cells": cells,
    "colors": base64.b64encode(colors.tobytes()).decode(),
    "pictures": album.pictures,
  }


def _skipped(plan: dict[str, Any], task: dict[str, Any]) -> list[list[str]]:
  """Return the methods that cannot solve a task, with the reason."""
  reasons = {entry["method"]: entry.get("skipped") for entry in plan["runs"] if entry["task"] == task["name"]}
  return [[m["title"], reasons[m["name"]]] for m in plan["methods"] if reasons.get(m["name"]) is not None]


def _truth(album: Album, image: dict[str, Any]) -> int | None:
  return album.add(runs.truth(image["name"])) if image["name"] in album.restored else None


def _cells(album: Album, image: dict[str, Any]) -> list[dict[str, Any] | None]:
  """Return what there is of every task on an image."""
  stopping.check()
  if image["name"] not in album.restored:
    return [None] * len(album.run.plan["tasks"])
  truth = album.look(runs.truth(image["name"]), image["shape"])
  return [_cell(album, image, task["name"], truth) for task in album.run.plan["tasks"]]


def _cell(album: Album, image: dict[str, Any], task: str, truth: Image.Image) -> dict[str, Any] | None:
  """Return what there is of a task on an image; None where nothing has finished."""
  run, names = album.run, [method["name"] for method in album.run.plan["methods"]]
  rows = [run.restored(task, name, image["name"]) for name in names]
  if not any(rows):
    return None
  firsts = [album.look(runs.sample(image["name"], task, row["method"]), image["shape"]) for row in rows if row]
  spreads = [_spread(run, runs.spread(image["name"], task, row["method"]), image) if row else None for row in rows]
  spread = max((float(np.percentile(s, EXTREME)) for s in spreads if s is not None), default=0.0)
  measurement = album.look(runs.measurement(image["name"], task))
  return {
    "measurement": album.add(runs.measurement(image["name"], task)),
    "measured": [measurement.height, measurement.width],
    "error": _round_up(max(_extreme_error(first, truth) for first in firsts)),
    "spread": _round_up(spread),
    "failed": [run.rows.get((task, name, image["name"]), {}).get("failed") for name in names],
    "methods": [_method_data(album, image, r, s, _round_up(spread)) if r else None for r, s in zip(rows, spreads)],
  }


def _method_data(
  album: Album, image: dict[str, Any], row: runs.Row, spread: np.ndarray | None, scale: float
) -> dict[str, Any]:
  """Return what there is of a method: numbers of pictures, and marks."""
  run, names = album.run, (row["image"], row["task"], row["method"])
  samples = [runs.sample(*names, k) for k in range(runs.samples_of(run.plan, row))]
  found: dict[str, Any] = {"samples": [album.add(sample, image["shape"]) for sample in samples]}
  if _path(run, runs.mean(*names)).exists():
    found["mean"] = album.add(runs.mean(*names), image["shape"])
  if spread is not None:
    gray = Image.fromarray(np.round(255 * np.clip(spread / scale, 0, 1)).astype(np.uint8)).convert("RGB")
    found["spread"] = album.put(_encode(gray, None))
  if _path(run, runs.chain(*names)).exists():
    film = album.film(runs.chain(*names), image, album.codec)
    if film.frames > 1:
      found["chain"] = {"picture": album.put(film.data), "frames": film.frames, "columns": film.columns}
  return {**found, "marks": _marks(row)}


def _marks(row: runs.Row) -> dict[str, Any]:
  """Return a row's marks of the quality of single pictures, samples and their mean."""
  shown = [m.key for m in table.quality() if m.of in (table.SINGLE, table.MEAN) and "truth" in m.needs]
  return {key: _json_number(row[key]) for key in shown if row.get(key) is not None}


def _json_number(value: Any) -> Any:
  """Return numbers as JSON has them: infinite PSNRs are null."""
  if isinstance(value, list):
    return [_json_number(entry) for entry in value]
  return round(value, 4) if value is not None and math.isfinite(value) else None


def _path(run: runs.Run, name: str) -> pathlib.Path:
  return run.folder / runs.PICTURES / name


def read_picture(run: runs.Run, name: str, shape: Sequence[int] | None = None) -> Image.Image:
  """Read a picture of a comparison, or the frames of a chain side by side, as RGB.

  Raises:
    ValueError: it is missing, damaged or has another size than `shape`.
  """
  path = _path(run, name)
  if not path.is_file():
    raise ValueError(f"{path}: expected the picture of a finished row, found none; run the comparison again")
  try:
    image = images.read_written(path)
  except ValueError as error:
    raise ValueError(f"{error}; run the comparison again") from None
  _check_size(run, name, image, shape)
  return image


def _check_size(run: runs.Run, name: str, image: Image.Image, shape: Sequence[int] | None) -> None:
  if shape is not None and (image.height, image.width) != tuple(shape[:2]):
    raise ValueError(
      f"{_path(run, name)}: expected {images.by(shape)} pixels, got {image.width}x{image.height}; "
      "run the comparison again"
    )


def read_chain(run: runs.Run, name: str, image: dict[str, Any]) -> Image.Image:
  """Read the frames of a chain, side by side.

  Raises:
    ValueError: see `read_picture`, or it is no row of frames.
  """
  return _as_chain(run, name, read_picture(run, name), image)


def _as_chain(run: runs.Run, name: str, strip: Image.Image, image: dict[str, Any]) -> Image.Image:
  height, width, _ = image["shape"]
  if strip.height != height or strip.width % width:
    raise ValueError(
      f"{_path(run, name)}: expected frames of {width}x{height} pixels side by side, "
      f"got {strip.width}x{strip.height}; run the comparison again"
    )
  return strip


def _atlas(strip: Image.Image, image: dict[str, Any], most: int) -> tuple[Image.Image, int, int]:
  """Lay out at most so many frames, the first and the last among them.

  Large frames are fewer: as many as one WebP picture has room for, at least one.

  Returns:
    the picture, the number of frames, and how many are in a line.
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


def _extreme_error(picture: Image.Image, truth: Image.Image) -> float:
  """Return the error that few pixels exceed, mean over channels of absolute differences on [-1, 1]."""
  gap = np.abs(np.asarray(picture, np.float32) - np.asarray(truth, np.float32)).mean(axis=-1) / 127.5
  return float(np.percentile(gap, EXTREME))


def _spread(run: runs.Run, name: str, image: dict[str, Any]) -> np.ndarray | None:
  """Return the standard deviation of each pixel, mean over channels, [h, w]; None where there is none."""
  path = _path(run, name)
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


def _bytes(image: Image.Image) -> int:
  return image.width * image.height * len(image.getbands())


def _choose(album: Album) -> tuple[Codec, int]:
  """Choose how to store pictures, and of how many images, from what a few rows of them take."""
  plan, rows = album.run.plan, [row for row in album.run.rows.values() if not row.get("failed")]
  probes = [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, PROBES)})] if rows else []
  by_name = {image["name"]: image for image in plan["images"]}
  taken, codec, count = 0.0, CODECS[0], len(plan["images"])
  for codec in CODECS:
    taken = sum(_row_bytes(album, row, by_name[row["image"]], codec) for row in probes) / max(1, len(probes))
    if taken * len(rows) <= LIMIT:
      break
  else:
    finished = collections.Counter(row["image"] for row in rows)
    totals = taken * np.cumsum([finished[image["name"]] for image in plan["images"]])
    count = max(1, int(np.sum(totals <= LIMIT)))
  for row in probes:
    album.forget(runs.chain(row["image"], row["task"], row["method"]))
  return codec, count


def _row_bytes(album: Album, row: runs.Row, image: dict[str, Any], codec: Codec) -> float:
  """Return about how many bytes a row takes on the page, with its share of the truth and the measurement."""
  plan, names = album.run.plan, (row["image"], row["task"], row["method"])
  one = album.probe(runs.sample(*names), codec)
  several = 2 * (plan["num_samples"] > 1)  # the mean, the standard deviation
  shared = (1 + 1 / len(plan["tasks"])) / len(plan["methods"])
  total = one * (plan["num_samples"] + several + shared)
  if _path(album.run, runs.chain(*names)).exists():
    total += len(album.film(runs.chain(*names), image, codec, again=True).data)
  return total * 4 / 3  # in base64
