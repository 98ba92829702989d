"""Run the comparisons of docs/results.md and write their tables and figures into it.

usage: python tools/write_results.py --output=docs [--work=out/results] [--studies=photo,faces,phase,phase_01,blur]

Each is one comparison, in a folder of its own under --work, and a small one beside it where the table has
a mean of several samples; one that is there is not run again but has to be of the same prior, pictures, settings and
flags, one that was stopped goes on. The blocks of results.md between `<!-- NAME -->` and `<!-- end -->` are replaced;
the words about them are written by hand, and stay.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import page_blocks
from absl import app, flags, logging
from matplotlib.figure import Figure
from PIL import Image

from diffinv import Study, compare, errors, files, output, read_results, write_report
from diffinv.data import images
from diffinv.methods import METHODS
from diffinv.studies import runs
from diffinv.studies.compare import prepare
from diffinv.studies.study import DEFAULT_TASKS
from diffinv.studies.summary import interval, picture_value, weight

BEST = "best_psnr"  # the mark of the sample of the smallest residual
REFERENCE, REFERENCE_STEPS = "dps", 1000
AVERAGED, SAMPLES = "diffpir", 2  # the mean of so many samples of this method, in pairs of opposite noise, is one, too
CHEAP_EVALUATIONS = 100  # without a gradient of the network: what counts as cheap
PAGE = "results.md"
PAGE_OF_RUN = "report.html"
PANEL_INCHES, LEAST_INCHES, DPI = 2.6, 3.4, 130  # one panel alone has to have room for the words under it
PRESET = "balanced"  # what `diffinv reconstruct` does when nothing else is said
MARKERS = "osD^v<>PX*hpdH"
COLORS = matplotlib.colormaps["tab20"].colors[::2] + ("black", "gold", "navy", "hotpink")  # as many as markers


class Entry(NamedTuple):
  """One comparison of the page."""

  title: str
  study: Study
  mark: str  # "psnr", or BEST
  averages: bool = False  # whether a mean of samples takes part


def linear(prior: str, data: str, count: int, **choices: Any) -> Study:
  """Return a study of linear tasks."""
  reference = {f"{REFERENCE}.steps": REFERENCE_STEPS}
  return Study(prior=prior, data=data, num_images=count, tasks=DEFAULT_TASKS, set=reference, **choices)


def nonlinear(task: str) -> Study:
  """Return a study of a nonlinear task."""
  return Study(
    prior="faces",
    data="faces",
    num_images=8,
    num_samples=4,
    tasks=task,
    methods=("dps", "diffpir", "daps"),
    set={f"{REFERENCE}.steps": REFERENCE_STEPS, "diffpir.steps": "logsnr100"},
  )


STUDIES = {
  "photo": Entry(
    "Photographs, linear tasks", linear("photo", "photographs", 8, size=64, methods=(*METHODS, PRESET)), "psnr"
  ),
  "faces": Entry("Faces, linear tasks", linear("faces", "faces", 16, methods=tuple(METHODS)), "psnr", averages=True),
  "phase": Entry(
    "Faces, phase retrieval on [-1, 1], the best of four samples by residual", nonlinear("phase_retrieval"), BEST
  ),
  "phase_01": Entry(
    "Faces, phase retrieval on [0, 1], the best of four samples by residual", nonlinear("phase_retrieval_01"), BEST
  ),
  "blur": Entry("Faces, nonlinear blur, the best of four samples by residual", nonlinear("nonlinear_blur"), BEST),
}

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string("output", "docs", f"Folder that holds {PAGE}.", flag_values=FLAGS)
WORK = flags.DEFINE_string("work", "out/results", "Folder of the comparisons.", flag_values=FLAGS)
CHOSEN = flags.DEFINE_list("studies", list(STUDIES), f"Studies, of {', '.join(STUDIES)}.", flag_values=FLAGS)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Chains at once.", lower_bound=1, flag_values=FLAGS)


def compared(name: str, study: Study) -> tuple[pathlib.Path, dict[str, Any]]:
  """Return the folder of a comparison and its results, after running what is missing of it.

  Raises:
    SystemExit: the comparison failed, or what is there is another one.
  """
  folder = pathlib.Path(WORK.value) / name
  study = dataclasses.replace(study, batch_size=BATCH_SIZE.value)
  if (folder / output.RESULTS).exists():
    changed = [what for what in changes(folder, study) if not what.startswith(runs.VERSIONS)]
    if changed:
      raise SystemExit(
        f"{folder}: expected the comparison of now, got one that differs in {errors.as_flags(changed[0])}; remove it"
      )
    return folder, read_results(folder).contents()
  print(f"comparing: {folder}", flush=True)
  try:
    found = compare(study, folder)
  except (ValueError, OSError) as error:
    raise SystemExit(errors.one_line(error)) from None
  write_report(found, folder / PAGE_OF_RUN)
  return folder, found.contents()


def changes(folder: pathlib.Path, study: Study) -> list[str]:
  """Name what a kept comparison has otherwise than one that would begin now."""
  return runs.changes(runs.read_plan(folder), prepare(study, folder).plan)


def averaged(results: dict[str, Any], several: dict[str, Any]) -> dict[str, Any]:
  """Return the results with the mean of the samples of `several` as one more method, at the cost of all of them."""
  count, (method,) = several["num_samples"], several["methods"]
  name = f"{method['name']}_mean"
  marks = lambda found: {"psnr": found["mean_psnr"], "ssim": found["mean_ssim"]}

  def mean(entry):
    if not entry.get("count"):
      return {**entry, "method": name}
    costs = {cost: count * entry[cost] for cost in ("evaluations", "gradients")}
    return {**entry, **costs, "method": name, **marks(entry)}

  def run_of_mean(run):
    return {
      **run,
      "method": name,
      "images": [row if row.get("failed") else {**row, **marks(row)} for row in run["images"]],
    }

  place = 1 + [m["name"] for m in results["methods"]].index(method["name"])
  methods = list(results["methods"])
  methods.insert(place, {**method, "name": name, "title": f"{method['title']} (mean of {count})"})
  return {
    **results,
    "methods": methods,
    "summary": [*results["summary"], *map(mean, several["summary"])],
    "runs": [*results["runs"], *map(run_of_mean, several["runs"])],
  }


def blocks(name: str, place: pathlib.Path) -> dict[str, str]:
  """Return what stands in the blocks of a study, by block; write its figures beside the page."""
  entry = STUDIES[name]
  folder, results = compared(name, entry.study)
  if entry.averages:
    paired = dataclasses.replace(entry.study, methods=AVERAGED, num_samples=SAMPLES, antithetic=True, set=())
    results = averaged(results, compared(f"{name}-pairs", paired)[1])
  draw(results, entry.mark, place / f"results-{name}.png")
  sheet = folder / f"{results['images'][0]['name']}-sheet.png"
  picture = Image.open(sheet).convert("RGB")
  images.write_pillow(place / f"results-{name}-sheet.png", picture)
  return {
    name: table(results, entry.mark),
    f"{name}-claim": claim(results, entry.mark),
    f"{name}-figures": (
      f"![Quality against network evaluations](results-{name}.png)\n\n"
      f"![Every method on one picture](results-{name}-sheet.png)"
      + ("\n\nThe first sample of each is shown, not the one that counts." if entry.mark == BEST else "")
    ),
  }


def value(entry: dict[str, Any], mark: str) -> float | None:
  """Return the mean of a mark, or None."""
  return (entry.get(mark) or {}).get("mean")


def competes(entry: dict[str, Any]) -> bool:
  """Tell whether a method restored every picture of a task."""
  return bool(entry.get("count")) and not entry["failed"]


def restoring(results: dict[str, Any]) -> list[dict[str, Any]]:
  """Return the methods that restored a picture of some task."""
  able = {entry["method"] for entry in results["summary"] if entry.get("count")}
  return [method for method in results["methods"] if method["name"] in able]


def cells(entry: dict[str, Any], mark: str) -> str:
  """Return `PSNR ± half an interval / SSIM`."""
  if entry.get("skipped"):
    return "-"
  if not competes(entry):
    return f"failed on {entry['failed']}"
  quality, similarity = entry[mark], value(entry, mark.replace("psnr", "ssim"))
  return f"{quality['mean']:.2f}{half_width(quality, 1)} / {similarity:.3f}"


def half_width(mean: dict[str, Any], digits: int) -> str:
  """Return ` ± half of the interval` of a mean; nothing of one that has none."""
  return "" if mean["low"] is None else f" ± {(mean['high'] - mean['low']) / 2:.{digits}f}"


def costs(entry: dict[str, Any], results: dict[str, Any], mark: str) -> tuple[int, int]:
  """Return the evaluations and gradients that a restored picture took."""
  chains = results["num_samples"] if mark == BEST else 1  # all samples take part in the choice of the best
  return chains * entry["evaluations"], chains * entry["gradients"]


def span(counts: Sequence[int]) -> str:
  """Return a number, or the smallest and the largest where tasks differ."""
  return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def table(results: dict[str, Any], mark: str) -> str:
  """Return a table: a row for each method, its cost, and a column for each task; the best PSNR in bold."""
  by_run = {(entry["task"], entry["method"]): entry for entry in results["summary"]}
  tasks = results["tasks"]
  lines = [
    "| method | evaluations, gradients | seconds | " + " | ".join(task["title"] for task in tasks) + " |",
    "|---|---:|---:|" + "---:|" * len(tasks),
  ]
  best = {
    task["name"]: max(
      (value(e, mark) for e in results["summary"] if e["task"] == task["name"] and competes(e)), default=None
    )
    for task in tasks
  }
  for method in restoring(results):
    entries = [by_run[task["name"], method["name"]] for task in tasks]
    solved = [entry for entry in entries if entry.get("count")]
    spent = ", ".join(map(span, zip(*(costs(entry, results, mark) for entry in solved))))
    seconds = np.mean([value(entry, "seconds") for entry in solved])
    written = [
      f"**{cells(entry, mark)}**"
      if competes(entry) and value(entry, mark) == best[entry["task"]]
      else cells(entry, mark)
      for entry in entries
    ]
    lines.append(f"| {method['title']} | {spent} | {seconds:.1f} | " + " | ".join(written) + " |")
  return "\n".join(lines)


def claim(results: dict[str, Any], mark: str) -> str:
  """Say which methods reach the reference in mean PSNR and SSIM, on every task and on each, and which are cheap.

  Below it is how far those are above the reference that solve every task and reach it on most of them.
  """
  both = (mark, mark.replace("psnr", "ssim"))
  by_run = {(e["task"], e["method"]): e for e in results["summary"]}

  def reaches(method, task):
    entry, reference = by_run[task["name"], method["name"]], by_run[task["name"], REFERENCE]
    return all(map(competes, (entry, reference))) and all(value(entry, m) >= value(reference, m) for m in both)

  def cheap(method):
    entries = [e for e in results["summary"] if e["method"] == method["name"] and not e.get("skipped")]
    return all(e["evaluations"] <= CHEAP_EVALUATIONS and not e["gradients"] for e in entries)

  reached = lambda method: sum(reaches(method, task) for task in results["tasks"])
  solves_all = lambda method: all(competes(by_run[task["name"], method["name"]]) for task in results["tasks"])
  named = lambda methods: ", ".join(method["title"] for method in methods) or "none"
  others = [method for method in results["methods"] if method["name"] != REFERENCE]
  always = [method for method in others if reached(method) == len(results["tasks"])]
  mostly = [method for method in others if solves_all(method) and 2 * reached(method) > len(results["tasks"])]
  bound = f"{CHEAP_EVALUATIONS} evaluations" + (" a sample" if mark == BEST else "")
  lines = [
    f"At or above DPS with {REFERENCE_STEPS} steps in mean PSNR and SSIM on every task: {named(always)}. Of these, "
    f"with at most {bound} and no gradient: {named(filter(cheap, always))}. By task, of those so cheap:",
    "",
  ]
  for task in results["tasks"]:
    lines.append(f"- {task['title']}: {named(m for m in others if cheap(m) and reaches(m, task))}")
  if mostly:
    lines += ["", *differences(results, mostly, both)]
  return "\n".join(lines)


def differences(results: dict[str, Any], methods: Sequence[dict], marks: Sequence[str]) -> list[str]:
  """Return a table of how far methods are above the reference: means over pictures, and half their 95 % intervals.

  A picture that is hard for one method is hard for another, so that their difference varies less than the marks do.
  """
  rows = {(run["task"], run["method"]): {row["image"]: row for row in run["images"]} for run in results["runs"]}

  def cell(task, method):
    found, reference = rows[task["name"], method["name"]], rows[task["name"], REFERENCE]
    written = []
    for mark, digits in zip(marks, (2, 3)):
      pairs = [[picture_value(rows_of[image], mark) for rows_of in (found, reference)] for image in reference]
      mean = interval(ours - theirs for ours, theirs in pairs if None not in (ours, theirs))
      written.append(f"{mean['mean']:+.{digits}f}{half_width(mean, digits)}")
    return " / ".join(written)

  return [
    "| above DPS, picture by picture | " + " | ".join(task["title"] for task in results["tasks"]) + " |",
    "|---|" + "---:|" * len(results["tasks"]),
    *(f"| {m['title']} | " + " | ".join(cell(task, m) for task in results["tasks"]) + " |" for m in methods),
  ]


def draw(results: dict[str, Any], mark: str, path: pathlib.Path) -> None:
  """Draw quality against network evaluations, a small picture for each task."""
  drawn = restoring(results)
  panels, names = [], [method["name"] for method in drawn]
  for task in results["tasks"]:
    entries = [e for e in results["summary"] if e["task"] == task["name"] and competes(e)]
    points = [(weight(*costs(e, results, mark)), value(e, mark), names.index(e["method"])) for e in entries]
    panels.append((task["title"], points))
  figure = Figure((max(PANEL_INCHES * len(panels), LEAST_INCHES), 1.1 * PANEL_INCHES), dpi=DPI, layout="constrained")
  for axes, (heading, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
    axes.set_xscale("log")
    axes.set_title(heading, fontsize=9)
    axes.set_xlabel("network evaluations, a gradient as two more", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    for x, y, number in points:
      axes.plot(x, y, MARKERS[number], color=COLORS[number], label=drawn[number]["title"])
  figure.axes[0].set_ylabel("PSNR, dB", fontsize=8)
  handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
  figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8)
  with files.file(path) as partial:
    figure.savefig(partial, format="png")


def main(argv: Sequence[str]) -> None:
  """Run, draw, write."""
  del argv
  logging.set_verbosity(logging.WARNING)  # of what libraries say while they work
  place = pathlib.Path(OUTPUT.value)
  for name in CHOSEN.value:
    if name not in STUDIES:
      raise app.UsageError(f"--studies: expected some of {', '.join(STUDIES)}, got {name!r}")
  for name in CHOSEN.value:
    page_blocks.write(place / PAGE, blocks(name, place))
    print(f"wrote {place / PAGE}: {name}", flush=True)


if __name__ == "__main__":
  flags.FLAGS.append_flag_values(FLAGS)  # the same flags, which app.run parses
  FLAGS.mark_as_parsed()
  app.run(main)
