"""The folder of a comparison as one page: self-contained HTML with tables, figures and all pictures.

The folder is what `diffinv compare` writes, finished or still running (see `diffinv.studies.runs`). The page loads
nothing: its pictures are data within it, and its content security policy allows its own script only. Tables and figures
are there without scripts, too. The wording is in `diffinv/report/templates/`.
"""

import base64
import functools
import hashlib
import math
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from diffinv import files, options, output, reading, stopping, text
from diffinv.data import images
from diffinv.manifest import Manifest
from diffinv.metrics import table as metrics
from diffinv.report import figures
from diffinv.report.album import Album, page_data
from diffinv.studies import runs, summary
from diffinv.studies.study import Study

PAGE = "report.html"
NEAR_DB = 1.0  # a method within this of the best PSNR is nearly as good
CALIBRATED = 2.0  # percentage points: coverage this near to nominal, at every level, is good
COMPARE = "compare"  # the command whose options are known
WEIGHT = "weight"  # the cost of a chain by `summary.weight`
COST_FIGURES = {WEIGHT: "network evaluations and gradients", "seconds": "seconds for a picture"}


class Known(NamedTuple):
  """What is known of an option of the command that made a folder."""

  default: Any
  repeated: bool = False  # a list is given one flag a value, not one flag with commas


# What older plans say besides the options of a study.
OLDER = {"overwrite": False, "restart": False, "report": True, "compilation_cache": "~/.cache/diffinv"}


def known_options() -> dict[str, Known]:
  """Return the options of a comparison with their defaults."""
  found = {name: Known(default) for name, default in OLDER.items()}
  for name, (field, about) in options.options(Study).items():
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    found[name] = Known(default, about.repeated)
  return found


def write_report(results: Any, path: str | os.PathLike[str], *, overwrite: bool = False) -> pathlib.Path:
  """Write the page of a comparison, in full or not at all.

  Args:
    results: of `compare`, or the folder of a comparison.
    path: of the page, a name that ends in .html.
    overwrite: replace a file that is there.

  Returns:
    the path of the page.

  Raises:
    FileExistsError, FileNotFoundError, ValueError: see `write`.

  Example:
    >>> import diffinv
    >>> study = diffinv.Study(prior="natural", tasks=["denoising"], methods=["wiener"], size=16, fit="resize")
    >>> diffinv.write_report(diffinv.compare(study), "page.html").name
    'page.html'
  """
  return write(getattr(results, "folder", results), path, overwrite=overwrite)


def write(
  folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> pathlib.Path:
  """Write the page of a comparison, in full or not at all.

  Args:
    folder: of the comparison.
    path: of the page; None for report.html in the folder, which is made anew where a page is there already.
    overwrite: replace a file that is there.

  Returns:
    the path of the page.

  Raises:
    FileExistsError: there is a file that may not be replaced.
    FileNotFoundError, ValueError: see `runs.read`, or a picture is missing or damaged.
  """
  folder = pathlib.Path(os.path.expanduser(folder))
  listed = Manifest.read(folder) if path is None else None
  path = folder / PAGE if path is None else pathlib.Path(os.path.expanduser(path))
  replaces = overwrite or (listed is not None and PAGE in listed.names)
  if folder.is_dir() and not reading.is_file(path):
    output.check_file(path)
  page = html(runs.read(folder))
  if not replaces and reading.is_file(path) and path.read_bytes() != page.encode():
    output.check_file(path)  # raises, as it is there
  if listed is not None:
    listed.add(PAGE)
  files.write_text(path, page)
  return path


@functools.cache
def _templates() -> jinja2.Environment:
  """Return the templates, which are compiled once."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("diffinv.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
  return environment


def html(run: runs.Run) -> str:
  """Return the page."""
  script = _templates().get_template("report.js.j2").render()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  page = _templates().get_template("report.html.j2")
  return page.render(**context(run), script=markupsafe.Markup(script), script_hash=digest)


# What the page says


def context(run: runs.Run) -> dict[str, Any]:
  """Return what the template needs."""
  rows = list(run.rows.values())
  entries, methods = summary.summarize(run.plan, rows), summary.summarize_methods(run.plan, rows)
  album = Album(run)
  data = page_data(run, album)
  return {
    "plan": run.plan,
    "without": len(summary.without_network(run.plan)),
    **_heading(run),
    "highlights": highlights(run.plan, methods),
    **_numbers(run, album, entries, methods),
    **_remarks(run, entries),
    "fields": hyper_parameters(run.plan),
    "command": command_line(run.plan),
    "data": data,
    "has_chains": _any_has("chain", data),
    "has_spreads": _any_has("spread", data),
    "album": album,
  }


def _heading(run: runs.Run) -> dict[str, Any]:
  """Return what the page says at its top."""
  plan = run.plan
  return {
    "prior": pathlib.PurePath(plan["prior"].get("name", "unknown")).name,
    "source": ", ".join(pathlib.PurePath(part).name for part in str(plan.get("data") or "").split(", ")),
    "complete": run.complete,
    "finished": len(run.rows),
    "planned": len(plan["images"]) * sum(entry.get("skipped") is None for entry in plan["runs"]),
    "sizes": sorted({images.by(image["shape"]) for image in plan["images"]}),
  }


def _numbers(run: runs.Run, album: Album, entries: Sequence[dict], methods: Sequence[dict]) -> dict[str, Any]:
  """Return the cards, tables and figures."""
  plan, series = run.plan, {method["name"]: i for i, method in enumerate(run.plan["methods"])}
  by_task = [
    (task, [entry for entry in entries if entry["task"] == task["name"] and entry.get("count")])
    for task in plan["tasks"]
  ]
  return {
    "cards": [card(run, album, task, found) for task, found in by_task],
    "tables": [
      table("Overall", methods, plan, across=True, versus=versus(run, entries, methods)),
      *(table(t["title"], found, plan, across=False, versus=versus(run, found)) for t, found in by_task),
    ],
    "cost_figures": [
      {"title": title, "figures": [f for task, found in by_task for f in cost_figures(task, found, key, plan)]}
      for key, title in COST_FIGURES.items()
    ],
    "coverage_figures": [f for m in methods for f in coverage_figures(m, entries, plan, series)],
  }


def _remarks(run: runs.Run, entries: Sequence[dict]) -> dict[str, Any]:
  """Return what was left out, failed or changed, and the titles to say it with."""
  return {
    "skipped": [entry for entry in run.plan["runs"] if entry.get("skipped") is not None],
    "failures": [entry for entry in entries if entry.get("failed")],
    "titles": {entry["name"]: entry["title"] for group in ("tasks", "methods") for entry in run.plan[group]},
    "batch_sizes": batch_sizes(run),
    "changed": changed_on_the_way(run),
  }


def _any_has(kind: str, data: dict[str, Any]) -> bool:
  """Tell whether a picture of this kind is on the page, of whatever method."""
  return any(kind in (entry or {}) for line in data["cells"] for cell in line if cell for entry in cell["methods"])


class Versus(NamedTuple):
  """A column of differences to other methods, picture by picture."""

  title: str
  meaning: str
  gaps: dict[str, dict[str, float | None] | None]  # by method; None where there is no picture in common
  references: set[str]  # the methods that others are held against
  unit: str = "dB"
  better: str = metrics.HIGH


def versus(run: runs.Run, entries: Sequence[dict], methods: Sequence[dict] | None = None) -> list[Versus]:
  """Return the differences to the best method and, where there are any, to the best that needs no network.

  Args:
    run: the comparison.
    entries: from `summary.summarize`, of one task or of all.
    methods: from `summary.summarize_methods`, where the table is over all tasks: the best is then one of these.
  """
  key = summary.compared_mark(run.plan)
  rows, names = list(run.rows.values()), [method["name"] for method in run.plan["methods"]]
  best = summary.leaders(entries, key, names)
  if methods is not None:
    overall = summary.leaders([{"task": "", **entry} for entry in methods], key, names)
    best = dict.fromkeys(best, overall[""]) if overall else {}
  floor = summary.leaders(entries, key, summary.without_network(run.plan))
  said = "the mean of the samples" if run.plan["num_samples"] > 1 else "the result"
  return [
    Versus(
      f"over {what}",
      f"PSNR of {said} less that of {what}, picture by picture",
      {name: summary.differences(rows, name, references, key) for name in names},
      set(references.values()),
    )
    for what, references in (
      ("the best", best),
      ("the best without a network", floor),
    )
    if references and len(names) > 1
  ]


def _gap_cell(column: Versus, method: str) -> dict[str, Any]:
  """Return a cell of differences; `best` where the whole interval is above 0."""
  gap = column.gaps[method]
  if gap is None:
    return {"order": None, "text": "–", "half": None, "bar": None, "best": False}
  mean, low, high = (gap[end] for end in ("mean", "low", "high"))
  half = None if low is None or high is None or low == high else number((high - low) / 2, 2)  # of itself: none
  sure = low is not None and high is not None and low * high > 0
  return {
    "order": mean,
    "text": signed(mean),
    "half": half,
    "bar": None,
    "best": sure and mean is not None and mean > 0,
  }


def signed(value: float | None) -> str:
  """Write a difference with its sign, and zero without."""
  shown = number(value, 2)
  return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "−") if shown[0] == "-" else f"+{shown}"


def table(
  title: str, entries: Sequence[dict], plan: dict, *, across: bool, versus: Sequence[Versus] = ()
) -> dict[str, Any]:
  """Return a table of the summary, best PSNR first.

  Args:
    title: of the table.
    entries: from `diffinv.studies.summary`; those without a finished picture are left out.
    plan: the contents of run.json.
    across: whether the entries are over all tasks.
    versus: columns of differences.
  """
  entries = sorted((entry for entry in entries if entry["count"]), key=_by_headline)
  ranked = summary.competing(entries)
  most_tasks = max((entry.get("tasks", 1) for entry in ranked), default=1)
  quality, cost = (
    [mark for mark in group if any(_value(entry, mark) is not None for entry in entries)]
    for group in (metrics.quality(), metrics.cost())
  )
  cells = zip(*(_column_cells(mark, entries, ranked) for mark in quality + cost))
  rows = [
    {**_row(entry, plan), "cells": list(line), "gaps": [_gap_cell(column, entry["method"]) for column in versus]}
    for entry, line in zip(entries, cells)
  ]
  for row in [row for row in rows if not (across or row["network"])][:1]:
    row["best_without"] = True
  return {
    "title": title,
    "across": across,
    "quality": quality,
    "cost": cost,
    "versus": versus,
    "rows": rows,
    "of": len(plan["tasks"]),
    "pictures": len(plan["images"]),
    "partial": any(entry.get("tasks", 1) < most_tasks for entry in entries),
    "failed": any(entry["failed"] for entry in entries),
    "unfinished": any(row["unfinished"] for row in rows),
  }


def _by_headline(entry: dict[str, Any]) -> float:
  """Return what the best entry has least of."""
  mark = metrics.mark(summary.HEADLINE)
  value = _value(entry, mark)
  return math.inf if value is None else mark.rank(value)


def _row(entry: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
  """Return what a line of a table says of the method itself."""
  names = [method["name"] for method in plan["methods"]]
  series = names.index(entry["method"])
  return {
    "title": plan["methods"][series]["title"],
    "network": plan["methods"][series].get("network", True),
    "best_without": False,
    "series": series,
    "tasks": entry.get("tasks"),
    "count": entry["count"],
    "failed": entry["failed"],
    "unfinished": entry["count"] + entry["failed"] < len(plan["images"]),
  }


def _column_cells(mark: metrics.Mark, entries: Sequence[dict], ranked: Sequence[dict]) -> list[dict[str, Any]]:
  """Return the cells of a column: what to sort by, text, whether it is the best, where the interval lies in it."""
  values = [_value(entry, mark) for entry in entries]
  best = best_value(mark, [_value(entry, mark) for entry in ranked])
  intervals = [entry[mark.key] if isinstance(entry.get(mark.key), dict) else {} for entry in entries]
  ends = [x for i, v in zip(intervals, values) for x in (i.get("low"), i.get("high"), v) if x is not None]
  scale = (min(ends), (max(ends) - min(ends)) or 1.0) if ends else (0.0, 1.0)
  said = None if best is None else number(best, mark.digits)
  return [
    {
      "order": value if mark.better != metrics.ONE or value is None else metrics.from_one(value),
      "text": number(value, mark.digits),
      "best": value is not None and entry in ranked and number(value, mark.digits) == said,
      **_interval(mark, value, found, *scale),
    }
    for entry, value, found in zip(entries, values, intervals)
  ]


def _interval(mark: metrics.Mark, value: Any, found: dict[str, Any], low: float, width: float) -> dict[str, Any]:
  """Return half the interval's width as text, and its ends and its middle in percent of the column's values."""
  if found.get("low") is None:
    return {"half": None, "bar": None}
  digits = text.decimals(value) if mark.digits is None else mark.digits
  return {
    "half": number((found["high"] - found["low"]) / 2, digits),
    "bar": [round(100 * (x - low) / width, 1) for x in (found["low"], value, found["high"])],
  }


def best_value(mark: metrics.Mark, values: Iterable[float | None]) -> float | None:
  """Return the best of some values; None where fewer than two are there to be compared."""
  known = [value for value in values if value is not None]
  return min(known, key=mark.rank) if len(known) > 1 else None


def _value(entry: dict[str, Any], mark: metrics.Mark) -> float | None:
  value = entry.get(mark.key)
  value = value["mean"] if isinstance(value, dict) else value
  return None if value is None else value * mark.scale


def number(value: float | None, digits: int | None) -> str:
  """Write a number with so many decimals, or with three significant digits; "–" where there is none."""
  return "–" if value is None else text.number(value, digits)


def highlights(plan: dict, methods: Sequence[dict]) -> list[dict[str, Any]]:
  """Name the best method by several marks, among those that finished most; by costs, of those with a network."""
  titles = {method["name"]: method["title"] for method in plan["methods"]}
  ranked = summary.competing(methods)
  found = []
  costs, classical = metrics.cost(), summary.without_network(plan)
  for mark in metrics.quality() + costs:
    ranked = [e for e in ranked if mark not in costs or e["method"] not in classical]
    values = [_value(entry, mark) for entry in ranked]
    best = best_value(mark, values) if mark.highlight else None
    if best is not None:
      winners = [titles[entry["method"]] for entry, value in zip(ranked, values) if value == best]
      said = {"measure": mark.highlight, "unit": mark.unit, "value": number(best, mark.digits)}
      found.append({**said, "methods": winners})
  return found


def card(run: runs.Run, album: Album, task: dict, entries: Sequence[dict]) -> dict[str, Any]:
  """Return a task at a glance: a measurement, the best method's picture of it, the truth, and what it cost."""
  stopping.check()
  mark = metrics.mark(summary.HEADLINE)
  entries = [entry for entry in entries if _value(entry, mark) is not None]
  entries = sorted(summary.competing(entries) or entries, key=_by_headline)
  shown = {"title": task["title"], "noise": noise_text(task), "name": task["name"], "best": None}
  if not entries:
    return shown
  titles = {method["name"]: method["title"] for method in run.plan["methods"]}
  best, value = entries[0], lambda entry: number(_value(entry, mark), mark.digits)
  near = [entry for entry in entries if _by_headline(entry) <= _by_headline(best) + NEAR_DB]
  cheap = min(near, key=_weight)
  return {
    **shown,
    "best": titles[best["method"]],
    "psnr": value(best),
    "spent": spent(best),
    **_trio(run, album, task, best["method"], titles[best["method"]]),
    "cheap": None if _weight(cheap) >= _weight(best) else titles[cheap["method"]],
    "cheap_spent": spent(cheap),
    "cheap_psnr": value(cheap),
  }


def _trio(run: runs.Run, album: Album, task: dict, method: str, title: str) -> dict[str, Any]:
  """Return an image with its measurement, a method's picture and the truth, taken out of the album."""
  there = [i for i in run.plan["images"] if run.restored(task["name"], method, i["name"])]
  there = there[: album.images] or there
  image = there[run.plan["tasks"].index(task) % len(there)]  # another one for each task, for variety
  names = (
    ("measurement", runs.measurement(image["name"], task["name"])),
    (title, runs.sample(image["name"], task["name"], method)),
    ("truth", runs.truth(image["name"])),
  )
  return {
    "image": image["name"],
    "height": image["shape"][0],
    "width": image["shape"][1],
    "pictures": [(label, album.on_page(name)) for label, name in names],
  }


def _weight(entry: dict[str, Any]) -> float:
  return summary.weight(entry["evaluations"], entry["gradients"])


def spent(entry: dict[str, Any]) -> str:
  """Say what one chain costs."""
  if entry.get("network") is False:
    return "no network"
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
  """Draw PSNR against a cost, WEIGHT or the key of a mark; nothing where nothing is known."""
  ranked, points = summary.competing(entries), []
  for i, method in enumerate(plan["methods"]):
    for entry in entries:
      cost = _weight(entry) if key == WEIGHT else _value(entry, metrics.mark(key))
      if entry["method"] == method["name"] and entry.get(summary.HEADLINE) and cost:
        mean, low, high = (entry[summary.HEADLINE][end] for end in ("mean", "low", "high"))
        points.append(figures.Point(method["title"], i, cost, mean, low, high, competes=entry in ranked))
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
  """Say how empirical coverage compares with the nominal levels, by the largest gap, so that gaps do not cancel."""
  points = 100 * np.subtract(empirical, levels)
  if np.all(np.abs(points) < CALIBRATED):
    return "well calibrated"
  if np.any(points >= CALIBRATED) and np.any(points <= -CALIBRATED):
    return "too sure at some levels, too unsure at others"
  worst = int(np.argmax(np.abs(points)))
  how = "sure" if points[worst] < 0 else "unsure"
  return f"up to {abs(points[worst]):.0f} points too {how} at the {100 * levels[worst]:.0f} % level"


def batch_sizes(run: runs.Run) -> list[int]:
  """Return how many chains ran at once, where rows say so: a comparison may be resumed with another `batch_size`."""
  return sorted(filter(runs.is_number, _worked_with(run, "batch_size")))


# What time and memory depend on, and may differ where a comparison is resumed.
CHANGEABLE = {"batch_size": "the batch size", "devices": "the number of devices", "remat": "rematerialization"}


def changed_on_the_way(run: runs.Run) -> list[str]:
  """Name the settings that time and memory depend on and that differ between rows."""
  return [title for name, title in CHANGEABLE.items() if len(_worked_with(run, name)) > 1]


def _worked_with(run: runs.Run, name: str) -> set:
  """Return the values of a setting that rows were made with: their own or, where they do not say, the plan's."""
  return {row.get(name, run.plan["settings"].get(name)) for row in run.rows.values()}


def hyper_parameters(plan: dict[str, Any]) -> list[dict[str, Any]]:
  """Return every method's hyper-parameters, grouping tasks that share them."""
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


def command_line(plan: dict[str, Any], known: Mapping[str, Known] | None = None) -> list[str]:
  """Return the words, quoted for a shell, of the command that made the folder; of objects from Python say so.

  Args:
    plan: the contents of run.json.
    known: the options of its command; None for those of `compare`. Settings at their defaults are left out; one that is
      not known is always there.
  """
  if plan.get("objects"):
    return ["diffinv.compare(study)", f"# from Python: {', '.join(plan['objects'])} of the study are objects"]
  command = str(plan.get("command", COMPARE))
  known = (known_options() if command == COMPARE else {}) if known is None else known
  words = ["diffinv", command]
  for name, value in plan["settings"].items():
    about = known.get(name)
    if value is not None and (about is None or value != about.default):
      words += _flag(name, value, repeated=about is not None and about.repeated)
  return [shlex.quote(word) for word in words]


def _flag(name: str, value: Any, *, repeated: bool) -> list[str]:
  """Return the words that set an option."""
  if isinstance(value, bool):
    return [f"--{name}" if value else f"--no{name}"]
  if isinstance(value, list) and not repeated:
    return [f"--{name}={','.join(map(str, value))}"]
  return [f"--{name}={part}" for part in (value if isinstance(value, list) else [value])]
