"""The folder of a comparison as one page: self-contained HTML with tables, figures and all pictures.

The folder is what `diffinv compare` writes, finished or still going (see `diffinv.studies.runs`). The page loads nothing: its
pictures are data in it, its script is the only one that its content security policy allows. Tables and figures are
there without scripts too. The wording is in `diffinv/report/templates/`.
"""

import base64
import hashlib
import importlib
import math
import pathlib
import shlex
from typing import Any, Iterable, NamedTuple, Sequence

import jinja2
import markupsafe
import numpy as np
from absl import flags

from diffinv import output
from diffinv.data import images
from diffinv.report import figures
from diffinv.report.album import Album, page_data
from diffinv.studies import runs, summary

PAGE = "report.html"
NEAR_DB = 1.0  # a method this near to the best PSNR is nearly as good
CALIBRATED = 2.0  # percentage points: coverage this near to nominal, at every level, is good
FAR = 1e9  # what 0 is from 1: in JSON and in HTML there are no infinities
WEIGHT = "weight"  # the cost of a chain by `summary.weight`


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
  Column(
    "peak_bytes", "Memory", "MiB", "low", 0, "Peak memory of a step on each device, all its chains that run at once"
  ),
)
SCALE = {"peak_bytes": 2.0**-20}  # from what rows hold to the column's unit


def write(folder: str | pathlib.Path, path: str | pathlib.Path | None = None) -> pathlib.Path:
  """Write the page of a comparison, in full or not at all.

  Args:
    folder: of the comparison.
    path: of the page; None for report.html in the folder.

  Returns:
    the path of the page.

  Raises:
    FileNotFoundError, ValueError: see `runs.read`, or a picture is missing or damaged.
  """
  path = pathlib.Path(folder) / PAGE if path is None else pathlib.Path(path)
  text = html(runs.read(folder))
  with output.file(path) as partial:
    partial.write_text(text, encoding="utf-8")
  return path


def html(run: runs.Run) -> str:
  """Return the page."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("diffinv.report"),
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


# What the page says


def context(run: runs.Run) -> dict[str, Any]:
  """Return what the template needs."""
  plan = run.plan
  entries = summary.summarize(plan, list(run.rows.values()))
  methods = summary.summarize_methods(plan, list(run.rows.values()))
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
      for key, title in ((WEIGHT, "network evaluations and gradients"), ("seconds", "seconds for a picture"))
    ],
    "coverage_figures": [f for m in methods for f in coverage_figures(m, entries, plan, series)],
    "skipped": [entry for entry in plan["runs"] if entry.get("skipped") is not None],
    "failures": [entry for entry in entries if entry.get("failed")],
    "titles": {entry["name"]: entry["title"] for group in ("tasks", "methods") for entry in plan[group]},
    "batch_sizes": batch_sizes(run),
    "changed": changed_on_the_way(run),
    "fields": hyper_parameters(plan),
    "command": command_line(plan),
    "data": data,
    "has_chains": _any_has("chain", data),
    "has_spreads": _any_has("spread", data),
    "album": album,
  }


def _any_has(kind: str, data: dict[str, Any]) -> bool:
  """Tell whether a picture of this kind is on the page, of whatever method."""
  return any(kind in (entry or {}) for line in data["cells"] for cell in line if cell for entry in cell["methods"])


def table(title: str, entries: Sequence[dict], plan: dict, *, across: bool) -> dict[str, Any]:
  """Return a table of the summary, best PSNR first.

  Args:
    title: of the table.
    entries: of `diffinv.studies.summary`; those without a finished picture are left out.
    across: the entries are over all tasks.
  """
  entries = [entry for entry in entries if entry["count"]]
  ranked = summary.competing(entries)
  most_tasks = max((entry.get("tasks", 1) for entry in ranked), default=1)
  titles = {method["name"]: method["title"] for method in plan["methods"]}
  series = {method["name"]: i for i, method in enumerate(plan["methods"])}
  groups = [[c for c in group if any(_value(entry, c) is not None for entry in entries)] for group in (QUALITY, COST)]
  cells = {column.key: _column_cells(column, entries, ranked) for column in groups[0] + groups[1]}
  rows = [
    {
      "title": titles[entry["method"]],
      "series": series[entry["method"]],
      "tasks": entry.get("tasks"),
      "count": entry["count"],
      "failed": entry["failed"],
      "unfinished": entry["count"] + entry["failed"] < len(plan["images"]),
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
    "pictures": len(plan["images"]),
    "partial": any(entry.get("tasks", 1) < most_tasks for entry in entries),
    "failed": any(entry["failed"] for entry in entries),
    "unfinished": any(row["unfinished"] for row in rows),
  }


def _column_cells(column: Column, entries: Sequence[dict], ranked: Sequence[dict]) -> list[dict[str, Any]]:
  """Return the cells of a column: what to sort by, text, whether it is the best, where the interval lies in it."""
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
        "order": value if column.better != "one" or value is None else _from_one(value),
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
    return min(values, key=_from_one)
  return max(values) if column.better == "high" else min(values)


def _from_one(value: float) -> float:
  """Return how far a ratio is from 1: twice as much and half as much are equally far."""
  return abs(math.log(value)) if value > 0 else FAR


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
  """Name the best method by several measures, of those that finished most."""
  titles = {method["name"]: method["title"] for method in plan["methods"]}
  ranked = summary.competing(methods)
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


def card(run: runs.Run, album: Album, task: dict, entries: Sequence[dict]) -> dict[str, Any]:
  """Return what shows a task at once: a measurement, the best method's picture of it, the truth, and what it took."""
  titles = {method["name"]: method["title"] for method in run.plan["methods"]}
  column = QUALITY[0]
  entries = [e for e in entries if _value(e, column) is not None]
  entries = sorted(summary.competing(entries) or entries, key=lambda e: -_value(e, column))
  shown = {"title": task["title"], "noise": noise_text(task), "name": task["name"], "best": None}
  if not entries:
    return shown
  best = entries[0]
  near = [entry for entry in entries if _value(entry, column) >= _value(best, column) - NEAR_DB]
  cheap = min(near, key=_weight)
  there = [i for i in run.plan["images"] if run.restored(task["name"], best["method"], i["name"])]
  there = there[: album.images] or there
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
    "spent": spent(best),
    "image": image["name"],
    "height": image["shape"][0],
    "width": image["shape"][1],
    "pictures": [(label, album.on_page(name)) for label, name in names],
    "cheap": None if _weight(cheap) >= _weight(best) else titles[cheap["method"]],
    "cheap_spent": spent(cheap),
    "cheap_psnr": number(_value(cheap, column), column.digits),
  }


def _weight(entry: dict[str, Any]) -> float:
  return summary.weight(entry["evaluations"], entry["gradients"])


def spent(entry: dict[str, Any]) -> str:
  """Say what one chain costs."""
  counts = [(entry[name], name) for name in ("evaluations", "gradients")]
  return " and ".join(f"{n} {name[:-1] if n == 1 else name}" for n, name in counts if n or name == "evaluations")


def noise_text(task: dict[str, Any]) -> str:
  """Describe the noise of a task in a few words."""
  model = dict(task.get("noise") or {})
  kind = str(model.pop("kind", "unknown")).capitalize()
  symbols = {"sigma": "σ"}
  numbers = [f"{symbols.get(name, name)} = {_plain(value)}" for name, value in model.items()]
  return "No noise" if kind in ("None", "Nonoise") else ", ".join([f"{kind} noise", *numbers])


def _plain(value: Any) -> str:
  return f"{value:g}" if runs.is_number(value) else str(value)


def cost_figures(task: dict, entries: Sequence[dict], key: str, plan: dict) -> list[dict[str, Any]]:
  """Draw PSNR against a cost, WEIGHT or the key of a column; nothing where nothing is known."""
  columns = {column.key: column for column in COST}
  ranked, points = summary.competing(entries), []
  for i, method in enumerate(plan["methods"]):
    for entry in entries:
      cost = _weight(entry) if key == WEIGHT else _value(entry, columns[key])
      if entry["method"] == method["name"] and entry.get("psnr") and cost:
        place = (entry["psnr"][end] for end in ("mean", "low", "high"))
        points.append(figures.Point(method["title"], i, cost, *place, competes=entry in ranked))
  if not points:
    return []
  label = "network evaluations, a gradient as two more" if key == WEIGHT else "seconds for a picture"
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
  told = verdict(curve["levels"], curve["empirical"])
  return [{"title": title, "series": series[name], "said": said, "verdict": told, "svg": markupsafe.Markup(svg)}]


def verdict(levels: Sequence[float], empirical: Sequence[float]) -> str:
  """Say how empirical coverage compares with the nominal levels, by the largest gap: gaps do not cancel each other."""
  points = 100 * np.subtract(empirical, levels)
  if np.all(np.abs(points) < CALIBRATED):
    return "well calibrated"
  if np.any(points >= CALIBRATED) and np.any(points <= -CALIBRATED):
    return "too sure at some levels, too unsure at others"
  worst = int(np.argmax(np.abs(points)))
  how = "sure" if points[worst] < 0 else "unsure"
  return f"up to {abs(points[worst]):.0f} points too {how} at the {100 * levels[worst]:.0f} % level"


def batch_sizes(run: runs.Run) -> list[int]:
  """Return how many chains ran at once, as far as it is known: a comparison may go on with another --batch_size."""
  return sorted(filter(runs.is_number, _worked_with(run, "batch_size")))


# What time and memory depend on, and may change where a comparison goes on.
CHANGEABLE = {"batch_size": "the batch size", "devices": "the number of devices", "remat": "rematerialization"}


def changed_on_the_way(run: runs.Run) -> list[str]:
  """Name what time and memory depend on and is not the same in all rows."""
  return [title for name, title in CHANGEABLE.items() if len(_worked_with(run, name)) > 1]


def _worked_with(run: runs.Run, name: str) -> set:
  """Return the values of a setting with which rows were made: their own, or those of the plan where they do not say."""
  return {row.get(name, run.plan["settings"].get(name)) for row in run.rows.values()}


def hyper_parameters(plan: dict[str, Any]) -> list[dict[str, Any]]:
  """Return every method's hyper-parameters, tasks with the same ones together."""
  found = []
  for method in plan["methods"]:
    groups: dict[str, dict[str, Any]] = {}
    for entry in plan["runs"]:
      if entry["method"] != method["name"] or entry.get("skipped") is not None:
        continue
      fields = [(name, _plain(value)) for name, value in (entry.get("fields") or {}).items()]
      group = {"steps": entry.get("spacing", entry["steps"]), "fields": fields, "tasks": []}
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
