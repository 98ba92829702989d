"""The folder of a comparison as one page: self-contained HTML with tables, figures and all pictures.

The folder is what `diffinv compare` writes, finished or still going (see `diffinv.runs`). The page loads nothing: its
pictures are data in it, its script is the only one that its content security policy allows. Tables and figures are
there without scripts too. The wording is in `diffinv/templates/`.
"""

import base64
import hashlib
import importlib
import io
import math
import pathlib
import shlex
from typing import Any, Iterable, NamedTuple, Sequence

import jinja2
import markupsafe
import matplotlib
import numpy as np
from absl import flags
from PIL import Image

from diffinv import figures, output, runs, summary
from diffinv.data import images

PAGE = "report.html"
NEAR_DB = 1.0  # a method this near to the best PSNR is nearly as good
EXTREME = 99.5  # percentile of errors that ends the scale of their maps: a few wild pixels would darken all others
LONGEST_SIDE = 16_000  # pixels: WebP has no larger pictures
LIMIT = 20e6  # bytes of pictures on a page: it has to open at once
PROBES = 6  # rows that the size of the page is estimated from


class Codec(NamedTuple):
  """How pictures are stored."""

  pictures: int | None  # quality of WebP in percent; None for lossless
  chains: int
  frames: int  # of a chain, at most


# From the best to the smallest: the first that keeps the page below LIMIT is taken.
CODECS = (
  Codec(None, 90, 32),  # chains are looked at, not measured
  Codec(None, 75, 16),
  Codec(95, 75, 16),
  Codec(90, 75, 16),
  Codec(80, 65, 12),
  Codec(60, 50, 8),
)


class Column(NamedTuple):
  """A column of the summary."""

  key: str
  title: str
  unit: str
  better: str  # "high", "low", or "one": what is nearer to 1
  digits: int | None  # decimals; None for three significant digits
  meaning: str


QUALITY = (
  Column("psnr", "PSNR", "dB", "high", 2, "Peak signal-to-noise ratio against the truth, mean over samples"),
  Column("ssim", "SSIM", "", "high", 3, "Structural similarity with the truth, mean over samples"),
  Column("lpips", "LPIPS", "", "low", 3, "Learned perceptual distance from the truth, mean over samples"),
  Column("chi2", "χ²", "", "one", 2, "Misfit to the measurement in units of its noise; 1 where the residual is noise"),
  Column("mean_psnr", "PSNR of mean", "dB", "high", 2, "PSNR of the mean of all samples"),
  Column("mean_ssim", "SSIM of mean", "", "high", 3, "SSIM of the mean of all samples"),
  Column("crps", "CRPS", "", "low", None, "Continuous ranked probability score of the samples, on [-1, 1]"),
)
COST = (
  Column("evaluations", "Evaluations", "", "low", 0, "Network evaluations of one chain"),
  Column("gradients", "Gradients", "", "low", 0, "Gradients through the network of one chain"),
  Column("seconds", "Time", "s", "low", None, "Seconds for a picture, all its samples, without compilation"),
  Column("peak_bytes", "Memory", "MiB", "low", 0, "Peak memory of a step, all chains that run at once"),
)
SCALE = {"peak_bytes": 2.0**-20}  # from what rows hold to the column's unit


class Run(NamedTuple):
  """What a folder holds."""

  folder: pathlib.Path
  plan: dict[str, Any]  # run.json
  rows: dict[runs.Key, runs.Row]
  complete: bool

  def restored(self, task: str, method: str, image: str) -> runs.Row | None:
    """Return the row of a picture that has pictures; None where it has not finished, or failed."""
    row = self.rows.get((task, method, image))
    return None if row is None or row.get("failed") else row


def write(folder: str | pathlib.Path, path: str | pathlib.Path | None = None) -> pathlib.Path:
  """Write the page of a comparison, in full or not at all.

  Args:
    folder: of the comparison.
    path: of the page; None for report.html in the folder.

  Returns:
    the path of the page.

  Raises:
    FileNotFoundError, ValueError: see `read`, or a picture is missing or damaged.
  """
  path = pathlib.Path(folder) / PAGE if path is None else pathlib.Path(path)
  text = html(read(folder))
  with output.file(path) as partial:
    partial.write_text(text, encoding="utf-8")
  return path


def html(run: Run) -> str:
  """Return the page."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("diffinv"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
  script = environment.get_template("report.js.j2").render()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  page = environment.get_template("report.html.j2")
  return page.render(**context(run), script=markupsafe.Markup(script), script_hash=digest)


# Reading


def read(folder: str | pathlib.Path) -> Run:
  """Read a comparison, finished or not.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no comparison, or a damaged one.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    going = folder.with_name(folder.name + runs.RUNNING)
    hint = f"it is still going: name {going}" if going.is_dir() else "check the path"
    raise FileNotFoundError(f"{folder}: expected the folder of a comparison, found none there; {hint}")
  plan = runs.read_plan(folder)
  _check_plan(plan, folder / runs.PLAN)
  rows = {}
  for number, row in enumerate(runs.read_rows(folder), 1):
    _check_row(row, plan, f"{folder / runs.ROWS}, line {number}")
    rows[runs.key(row)] = row
  return Run(folder, plan, rows, (folder / output.RESULTS).is_file())


PLAN_TYPES = {"settings": dict, "versions": dict, "device": dict, "prior": dict, "num_samples": int}
ENTRY_KEYS = {
  "tasks": {"name": str, "title": str},
  "methods": {"name": str, "title": str},
  "images": {"name": str, "shape": list},
  "runs": {"task": str, "method": str},
}


def _check_plan(plan: dict[str, Any], path: pathlib.Path) -> None:
  for key, wanted in {**PLAN_TYPES, **dict.fromkeys(ENTRY_KEYS, list)}.items():
    _check_type(plan.get(key), wanted, f"{path}: expected {key}")
  for key, fields in ENTRY_KEYS.items():
    for number, entry in enumerate(plan[key]):
      place = f"{path}: expected {key}[{number}]"
      _check_type(entry, dict, place)
      for field, wanted in fields.items():
        _check_type(entry.get(field), wanted, f"{place}.{field}")
        # Names are parts of the names of pictures, which lie in this folder.
        if field == "name" and (not entry[field] or "/" in entry[field] or "\\" in entry[field]):
          raise ValueError(f"{place}.name to be part of a file's name, got {entry[field]!r}; run the comparison again")
  for number, entry in enumerate(plan["runs"]):
    if entry.get("skipped") is None:
      for field in ("steps", "evaluations", "gradients"):
        _check_type(entry.get(field), int, f"{path}: expected runs[{number}].{field}")
  for number, image in enumerate(plan["images"]):
    if len(image["shape"]) != 3 or not all(type(n) is int and n > 0 for n in image["shape"]):
      raise ValueError(
        f"{path}: expected images[{number}].shape to be [h, w, c], got {image['shape']}; run the comparison again"
      )


def _check_type(value: Any, wanted: type, expected: str) -> None:
  if not isinstance(value, wanted):
    kinds = {dict: "a table", list: "a list", str: "text", int: "a whole number", type(None): "nothing"}
    came = kinds.get(type(value), type(value).__name__)
    raise ValueError(f"{expected} to be {kinds[wanted]}, got {came}; run the comparison again")


def _check_row(row: Any, plan: dict[str, Any], place: str) -> None:
  _check_type(row, dict, f"{place}: expected the row")
  for field, group in (("task", "tasks"), ("method", "methods"), ("image", "images")):
    known = [entry["name"] for entry in plan[group]]
    if row.get(field) not in known:
      raise ValueError(
        f"{place}: expected {field} to be one of {runs.PLAN}, {', '.join(known)}, got {row.get(field)!r}; "
        "run the comparison again"
      )
  if row.get("failed") is not None:
    _check_type(row["failed"], str, f"{place}: expected failed")
  for field in summary.OF_SAMPLES:
    values = row.get(field, [])
    if not isinstance(values, list) or not all(value is None or _is_number(value) for value in values):
      raise ValueError(f"{place}: expected {field} to be a list of numbers, got {values!r}; run the comparison again")
  for field in (*summary.OF_PICTURES, "peak_bytes"):
    if row.get(field) is not None and not _is_number(row[field]):
      raise ValueError(f"{place}: expected {field} to be a number, got {row[field]!r}; run the comparison again")
  curve = row.get("coverage")
  if curve is not None and not _is_curve(curve):
    raise ValueError(
      f"{place}: expected coverage to be levels and empirical, lists of one length, got {curve!r}; "
      "run the comparison again"
    )


def _is_curve(curve: Any) -> bool:
  lists = [curve.get(key) for key in ("levels", "empirical")] if isinstance(curve, dict) else []
  return (
    len(lists) == 2
    and all(isinstance(values, list) and all(map(_is_number, values)) for values in lists)
    and len(lists[0]) == len(lists[1]) > 0
  )


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


# What the page says


def context(run: Run) -> dict[str, Any]:
  """Return what the template needs."""
  plan = run.plan
  entries = summary.summarise(plan, list(run.rows.values()))
  methods = summary.summarise_methods(plan, list(run.rows.values()))
  album = Album(run)
  data = page_data(run, album)
  series = {method["name"]: i for i, method in enumerate(plan["methods"])}
  by_task = [
    (task, [entry for entry in entries if entry["task"] == task["name"] and entry.get("count")])
    for task in plan["tasks"]
  ]
  return {
    "plan": plan,
    "prior": pathlib.PurePath(plan["prior"].get("name", "unknown")).name,
    "source": ", ".join(pathlib.PurePath(part).name for part in str(plan.get("data") or "").split(", ")),
    "complete": run.complete,
    "finished": len(run.rows),
    "planned": len(plan["images"]) * sum(entry.get("skipped") is None for entry in plan["runs"]),
    "sizes": sorted({images.by(image["shape"]) for image in plan["images"]}),
    "highlights": highlights(plan, methods),
    "cards": [card(run, album, task, found) for task, found in by_task],
    "tables": [
      table("Overall", methods, plan, across=True),
      *(table(task["title"], found, plan, across=False) for task, found in by_task),
    ],
    "cost_figures": [
      {
        "title": title,
        "figures": [figure for task, found in by_task for figure in cost_figures(task, found, key, plan)],
      }
      for key, title in (("evaluations", "network evaluations"), ("seconds", "seconds for a picture"))
    ],
    "coverage_figures": [f for m in methods for f in coverage_figures(m, entries, plan, series)],
    "skipped": [entry for entry in plan["runs"] if entry.get("skipped") is not None],
    "failures": failures(run),
    "titles": {entry["name"]: entry["title"] for group in ("tasks", "methods") for entry in plan[group]},
    "fields": hyper_parameters(plan),
    "command": command_line(plan),
    "data": data,
    "has_chains": any("chain" in (m or {}) for line in data["cells"] for cell in line if cell for m in cell["methods"]),
    "album": album,
  }


def table(title: str, entries: Sequence[dict], plan: dict, *, across: bool) -> dict[str, Any]:
  """Return a table of the summary, best PSNR first.

  Args:
    title: of the table.
    entries: of `diffinv.summary`; those without a finished picture are left out.
    across: the entries are over all tasks.
  """
  entries = [entry for entry in entries if entry["count"]]
  whole = [entry for entry in entries if not entry["failed"]]
  titles = {method["name"]: method["title"] for method in plan["methods"]}
  series = {method["name"]: i for i, method in enumerate(plan["methods"])}
  groups = [[c for c in group if any(_value(entry, c) is not None for entry in entries)] for group in (QUALITY, COST)]
  most = max((entry.get("tasks", 1) for entry in whole), default=1)
  ranked = [entry for entry in whole if entry.get("tasks", 1) == most]  # easy tasks alone win no comparison
  cells = {column.key: _column_cells(column, entries, ranked) for column in groups[0] + groups[1]}
  rows = [
    {
      "title": titles[entry["method"]],
      "series": series[entry["method"]],
      "tasks": entry.get("tasks"),
      "count": entry["count"],
      "failed": entry["failed"],
      "cells": [cells[column.key][i] for column in groups[0] + groups[1]],
    }
    for i, entry in enumerate(entries)
  ]
  order = [_value(entry, QUALITY[0]) for entry in entries]
  rows = [rows[i] for i in sorted(range(len(rows)), key=lambda i: math.inf if order[i] is None else -order[i])]
  return {
    "title": title,
    "across": across,
    "quality": groups[0],
    "cost": groups[1],
    "rows": rows,
    "of": len(plan["tasks"]),
    "partial": any(entry.get("tasks", 1) < most for entry in entries),
    "failed": len(whole) < len(entries),
  }


def _column_cells(column: Column, entries: Sequence[dict], ranked: Sequence[dict]) -> list[dict[str, Any]]:
  """Return the cells of a column: text, what to sort by, whether it is the best, where the interval lies in it."""
  values = [_value(entry, column) for entry in entries]
  best = best_value(column, [_value(entry, column) for entry in ranked])
  intervals = [entry[column.key] if isinstance(entry.get(column.key), dict) else {} for entry in entries]
  ends = [x for i, v in zip(intervals, values) for x in (i.get("low"), i.get("high"), v) if x is not None]
  low, width = (min(ends), (max(ends) - min(ends)) or 1.0) if ends else (0.0, 1.0)
  cells = []
  for entry, value, found in zip(entries, values, intervals):
    half = None if found.get("low") is None else (found["high"] - found["low"]) / 2
    cells.append(
      {
        "value": value,
        "text": number(value, column.digits),
        "half": None if half is None else number(half, _decimals(value) if column.digits is None else column.digits),
        "best": None not in (value, best)
        and entry in ranked
        and number(value, column.digits) == number(best, column.digits),
        "bar": None
        if half is None
        else [round(100 * (x - low) / width, 1) for x in (found["low"], value, found["high"])],
      }
    )
  return cells


def best_value(column: Column, values: Iterable[float | None]) -> float | None:
  """Return the best of some values; None where fewer than two are there to be compared."""
  values = [value for value in values if value is not None]
  if len(values) < 2:
    return None
  if column.better == "one":
    return min(values, key=lambda value: abs(math.log(value)) if value > 0 else math.inf)
  return max(values) if column.better == "high" else min(values)


def _value(entry: dict[str, Any], column: Column) -> float | None:
  value = entry.get(column.key)
  value = value["mean"] if isinstance(value, dict) else value
  return None if value is None else value * SCALE.get(column.key, 1)


def number(value: float | None, digits: int | None) -> str:
  """Write a number with so many decimals, or with three significant digits; "–" where there is none."""
  return "–" if value is None else f"{value:.{_decimals(value) if digits is None else digits}f}"


def _decimals(value: float) -> int:
  """Return how many decimals three significant digits take."""
  return 0 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))


def highlights(plan: dict, methods: Sequence[dict]) -> list[dict[str, str]]:
  """Name the best method by several measures, of those that finished most tasks."""
  titles = {method["name"]: method["title"] for method in plan["methods"]}
  whole = [entry for entry in methods if entry["count"] and not entry["failed"]]
  most = max((entry["tasks"] for entry in whole), default=0)
  ranked = [entry for entry in whole if entry["tasks"] == most]
  wanted = {"psnr": "Best PSNR", "ssim": "Best SSIM", "lpips": "Best LPIPS", "crps": "Best CRPS", "seconds": "Fastest"}
  found = []
  for column in QUALITY + COST:
    values = [_value(entry, column) for entry in ranked]
    best = best_value(column, values) if column.key in wanted else None
    if best is not None:
      winners = [titles[entry["method"]] for entry, value in zip(ranked, values) if value == best]
      found.append(
        {"measure": wanted[column.key], "unit": column.unit, "value": number(best, column.digits), "methods": winners}
      )
  return found


def card(run: Run, album: "Album", task: dict, entries: Sequence[dict]) -> dict[str, Any]:
  """Return what shows a task at once: a measurement, the best method's picture of it, the truth, and what it took."""
  titles = {method["name"]: method["title"] for method in run.plan["methods"]}
  column = QUALITY[0]
  entries = [e for e in entries if _value(e, column) is not None]
  entries = sorted([e for e in entries if not e["failed"]] or entries, key=lambda e: -_value(e, column))
  shown = {"title": task["title"], "noise": noise_text(task), "name": task["name"], "best": None}
  if not entries:
    return shown
  best = entries[0]
  near = [entry for entry in entries if _value(entry, column) >= _value(best, column) - NEAR_DB]
  cheap = min(near, key=lambda entry: entry["evaluations"])
  there = [i for i in run.plan["images"] if run.restored(task["name"], best["method"], i["name"])]
  image = there[run.plan["tasks"].index(task) % len(there)]  # another one a task: a row of one picture tires
  names = (
    ("measurement", f"{image['name']}-{task['name']}-measurement.png"),
    (titles[best["method"]], f"{image['name']}-{task['name']}-{best['method']}-00.png"),
    ("truth", f"{image['name']}-truth.png"),
  )
  return {
    **shown,
    "best": titles[best["method"]],
    "psnr": number(_value(best, column), column.digits),
    "evaluations": best["evaluations"],
    "image": image["name"],
    "height": image["shape"][0],
    "width": image["shape"][1],
    "pictures": [(label, album.on_page(name)) for label, name in names],
    "cheap": None if cheap["evaluations"] >= best["evaluations"] else titles[cheap["method"]],
    "cheap_evaluations": cheap["evaluations"],
    "cheap_psnr": number(_value(cheap, column), column.digits),
  }


def failures(run: Run) -> list[dict[str, Any]]:
  """Return on how many of its pictures a method failed, where it did: task, method, text, and the first reason."""
  found = []
  for entry in run.plan["runs"]:
    rows = [row for row in run.rows.values() if (row["task"], row["method"]) == (entry["task"], entry["method"])]
    failed = [row for row in rows if row.get("failed")]
    if failed:
      count = f"{len(failed)} of {len(rows)} pictures"
      found.append({"task": entry["task"], "method": entry["method"], "count": count, "reason": failed[0]["failed"]})
  return found


def noise_text(task: dict[str, Any]) -> str:
  """Describe the noise of a task in a few words."""
  model = dict(task.get("noise") or {})
  kind = str(model.pop("kind", "unknown")).capitalize()
  symbols = {"sigma": "σ"}
  numbers = [f"{symbols.get(name, name)} = {_plain(value)}" for name, value in model.items()]
  return "No noise" if kind in ("None", "Nonoise") else ", ".join([f"{kind} noise", *numbers])


def _plain(value: Any) -> str:
  return f"{value:g}" if _is_number(value) else str(value)


def cost_figures(task: dict, entries: Sequence[dict], key: str, plan: dict) -> list[dict[str, Any]]:
  """Draw PSNR against a cost; nothing where nothing is known."""
  column = next(column for column in COST if column.key == key)
  points = []
  for i, method in enumerate(plan["methods"]):
    for entry in entries:
      cost = _value(entry, column)
      if entry["method"] == method["name"] and entry.get("psnr") and cost:
        found = entry["psnr"]
        points.append(figures.Point(method["title"], i, cost, found["mean"], found["low"], found["high"]))
  if not points:
    return []
  label = "network evaluations of a chain" if key == "evaluations" else "seconds for a picture"
  said = [f"{p.title} {number(p.y, 2)} dB at {number(p.x, None)}" for p in sorted(points, key=lambda p: -p.y)]
  svg = figures.cost(points, label, "PSNR, dB", f"{key} {task['name']}")
  return [{"title": task["title"], "label": label, "said": said, "svg": markupsafe.Markup(svg)}]


def coverage_figures(entry: dict, entries: Sequence[dict], plan: dict, series: dict) -> list[dict[str, Any]]:
  """Draw a method's empirical against its nominal coverage; nothing where it has none."""
  if "coverage" not in entry:
    return []
  curve, name = entry["coverage"], entry["method"]
  tasks = [e["coverage"] for e in entries if e["method"] == name and "coverage" in e]
  tasks = [task["empirical"] for task in tasks if task["levels"] == curve["levels"]]
  svg = figures.coverage(curve["levels"], curve["empirical"], tasks, series[name], f"coverage {name}")
  said = [f"{100 * a:.0f} % nominal, {100 * b:.0f} % found" for a, b in zip(curve["levels"], curve["empirical"])]
  title = next(method["title"] for method in plan["methods"] if method["name"] == name)
  gap = round(100 * float(np.mean(np.subtract(curve["empirical"], curve["levels"]))))
  return [{"title": title, "series": series[name], "said": said, "gap": gap, "svg": markupsafe.Markup(svg)}]


def hyper_parameters(plan: dict[str, Any]) -> list[dict[str, Any]]:
  """Return every method's hyper-parameters, tasks with the same ones together."""
  found = []
  for method in plan["methods"]:
    groups: dict[str, dict[str, Any]] = {}
    for entry in plan["runs"]:
      if entry["method"] != method["name"] or entry.get("skipped") is not None:
        continue
      fields = [(name, _plain(value)) for name, value in (entry.get("fields") or {}).items()]
      group = {"steps": entry["steps"], "fields": fields, "tasks": []}
      groups.setdefault(repr(group), group)["tasks"].append(entry["task"])
    found.append({"title": method["title"], "citation": method.get("citation") or "", "groups": list(groups.values())})
  return found


def command_line(plan: dict[str, Any]) -> list[str]:
  """Return the words, quoted for a shell, of the command that made the folder; flags at their defaults are left out."""
  name = str(plan.get("command", "compare"))
  known = _flags(name)
  words = ["diffinv", name]
  for flag, value in plan["settings"].items():
    there = known[flag] if flag in known else None
    if value is None or (there is not None and value == there.default):
      continue
    if isinstance(value, bool):
      words.append(f"--{flag}" if value else f"--no{flag}")
    elif isinstance(value, list) and not isinstance(there, flags.MultiFlag):
      words.append(f"--{flag}={','.join(map(str, value))}")
    else:
      words += [f"--{flag}={part}" for part in (value if isinstance(value, list) else [value])]
  return [shlex.quote(word) for word in words]


def _flags(command: str) -> flags.FlagValues | dict:
  """Return the flags of a command; none for one that there is not any more."""
  from diffinv.apps import main  # of all modules the last: commands import this one

  if command not in main.COMMANDS:
    return {}
  return importlib.import_module(main.COMMANDS[command][0]).FLAGS


# Pictures


class Album:
  """The pictures of a comparison as data, each once, in a codec that keeps the page small."""

  def __init__(self, run: Run):
    self.pictures: list[str | None] = []  # WebP in base64; None for one that stands elsewhere on the page
    self._places: dict[str, int] = {}  # in `pictures`, by the data
    self._elsewhere: dict[int, str] = {}
    self._run = run
    self.codec = _choose_codec(run)

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


def page_data(run: Run, album: Album) -> dict[str, Any]:
  """Return what the script needs: pictures by number, and what there is of every image and task."""
  plan = run.plan
  skipped = {(e["task"], e["method"]): e["skipped"] for e in plan["runs"] if e.get("skipped") is not None}
  cells = [[_cell(run, album, image, task) for task in plan["tasks"]] for image in plan["images"]]
  colours = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
  return {
    "samples": plan["num_samples"],
    "images": [
      {"name": i["name"], "height": i["shape"][0], "width": i["shape"][1], "truth": _truth(run, album, i)}
      for i in plan["images"]
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
    "colours": base64.b64encode(colours.tobytes()).decode(),
    "pictures": album.pictures,
  }


def _truth(run: Run, album: Album, image: dict) -> int | None:
  there = any(row["image"] == image["name"] and not row.get("failed") for row in run.rows.values())
  return album.add(f"{image['name']}-truth.png") if there else None


def _cell(run: Run, album: Album, image: dict, task: dict) -> dict[str, Any] | None:
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


def _method_data(run: Run, album: Album, image: dict, start: str, row: dict, spread, scale: float) -> dict[str, Any]:
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
    found["chain"] = {"picture": album.put(_encode(strip, album.codec.chains)), "frames": frames, "columns": columns}
  marks = {key: row[key] for key in ("psnr", "ssim", "lpips", "mean_psnr", "mean_ssim") if row.get(key) is not None}
  return {**found, "marks": {key: _json_number(value) for key, value in marks.items()}}


def _json_number(value: Any) -> Any:
  """Return numbers as JSON has them: infinite PSNRs are null."""
  if isinstance(value, list):
    return [_json_number(entry) for entry in value]
  return round(value, 4) if value is not None and math.isfinite(value) else None


def read_picture(run: Run, name: str, shape: Sequence[int] | None = None) -> Image.Image:
  """Read a picture of a comparison, as RGB.

  Raises:
    ValueError: it is missing, damaged or has another size than `shape`.
  """
  path = run.folder / runs.PICTURES / name
  if not path.is_file():
    raise ValueError(f"{path}: expected the picture of a finished row, found none; run the comparison again")
  try:
    image = images.to_pillow(images.read(path, convert=True))
  except ValueError as error:
    raise ValueError(f"{error}; run the comparison again") from None
  if shape is not None and (image.height, image.width) != tuple(shape[:2]):
    raise ValueError(
      f"{path}: expected {images.by(shape)} pixels, got {image.width}x{image.height}; run the comparison again"
    )
  return image


def read_chain(run: Run, name: str, image: dict[str, Any]) -> Image.Image:
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
  """Lay out at most so many frames, the first and the last among them; return them, how many, how many in a line."""
  height, width, _ = image["shape"]
  there = strip.width // width
  chosen = sorted({round(i) for i in np.linspace(0, there - 1, min(there, most))})
  columns = min(len(chosen), max(1, LONGEST_SIDE // width))
  canvas = Image.new("RGB", (columns * width, math.ceil(len(chosen) / columns) * height))
  for place, frame in enumerate(chosen):
    part = strip.crop((frame * width, 0, (frame + 1) * width, height))
    canvas.paste(part, (place % columns * width, place // columns * height))
  return canvas, len(chosen), columns


def _extreme_error(run: Run, name: str, truth: Image.Image) -> float:
  """Return the error that few pixels exceed, mean over channels of absolute differences on [-1, 1]."""
  picture = read_picture(run, name, (truth.height, truth.width))
  gap = np.abs(np.asarray(picture, np.float32) - np.asarray(truth, np.float32)).mean(axis=-1) / 127.5
  return float(np.percentile(gap, EXTREME))


def _spread(run: Run, name: str, image: dict[str, Any]) -> np.ndarray | None:
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


def _choose_codec(run: Run) -> Codec:
  """Choose how to store pictures from what a few rows of them take."""
  rows = [row for row in run.rows.values() if not row.get("failed")]
  probes = [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, PROBES)})] if rows else []
  sizes = {image["name"]: image for image in run.plan["images"]}
  for codec in CODECS[:-1]:
    taken = sum(_row_bytes(run, row, sizes[row["image"]], codec) for row in probes)
    if taken * len(rows) <= LIMIT * max(1, len(probes)):
      return codec
  return CODECS[-1]


def _row_bytes(run: Run, row: dict, image: dict, codec: Codec) -> float:
  """Return about how many bytes a row takes on the page."""
  name = f"{row['image']}-{row['task']}-{row['method']}"
  one = len(_encode(read_picture(run, f"{name}-00.png"), codec.pictures))
  total = one * (run.plan["num_samples"] + 2 * (run.plan["num_samples"] > 1))  # the mean, the standard deviation
  if (run.folder / runs.PICTURES / f"{name}-chain.png").exists():
    strip, _, _ = _atlas(read_chain(run, f"{name}-chain.png", image), image, codec.frames)
    total += len(_encode(strip, codec.chains))
  return total * 4 / 3  # in base64
