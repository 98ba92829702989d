"""Measure by how much a prior's presets are ahead of what needs no network, and write the table of docs/lead.md.

usage: python tools/measure_lead.py --output=docs [--work=out/lead] [--prior=photo] [--data=photographs] [--size=128]

One comparison in a folder under --work: one that is there is read, one that was stopped goes on. In each task every
preset is held, picture by picture, against the restoration without a network that is the best there in the mean, BM3D
among them where PyPI's `bm3d` is installed. Its license allows no more than such a comparison. The block of lead.md
between `<!-- table -->` and `<!-- end -->` is replaced; the words around it are written by hand, and stay.
"""

import importlib.util
import pathlib

import jax
import numpy as np
import page_blocks
from absl import app, flags

from diffinv import Study, compare, operators, output, read_results
from diffinv.baselines import BASELINES, Baseline
from diffinv.operators import Operator
from diffinv.operators.pixels import Identity, Inpainting
from diffinv.studies import summary
from diffinv.studies.results import Results
from diffinv.tasks import TASKS, Task

PAGE = "lead.md"
OWN = "after shared use"
PRESETS = ("fast", "balanced", "best")
SIGMAS = (0.05, 0.1, 0.2, 0.4)
BOX, MARGIN = 32, 8  # pixels
LINES, WIDTH = 8, 2  # scratches: straight, of so many pixels across


def scratches(key: jax.Array, shape: tuple[int, int, int]) -> Inpainting:
  """Return an operator that loses thin straight lines, drawn by the key."""
  height, width, _ = shape
  rows, columns = np.mgrid[:height, :width]
  mask = np.ones((height, width), np.float32)
  for place, turn in zip(jax.random.uniform(key, (LINES, 2)), jax.random.uniform(jax.random.fold_in(key, 1), (LINES,))):
    angle = np.pi * float(turn)
    across = (rows - float(place[0]) * height) * np.cos(angle) - (columns - float(place[1]) * width) * np.sin(angle)
    mask[np.abs(across) < WIDTH / 2] = 0.0
  return operators.inpainting(mask)


def box(key: jax.Array, shape: tuple[int, int, int]) -> Operator:
  """Return an operator that loses a square."""
  return operators.box(key, shape, box_size=(BOX, BOX), margin=(MARGIN, MARGIN))


def missing(part: float, title: str) -> Task:
  """Return a task of missing pixels."""
  return Task(title, lambda key, shape: operators.random_mask(key, shape, missing=part), OWN, random=True)


def tasks() -> dict[str, Task]:
  """Return the tasks by name; those of the library under their own, by which settings are found."""
  noisy = {
    f"denoising_{sigma:g}".replace(".", ""): Task(
      f"noise {sigma:g}", lambda key, shape: operators.identity(shape), OWN, sigma=sigma
    )
    for sigma in SIGMAS
  }
  return {
    **noisy,
    "super_resolution_2": Task("x2", lambda key, shape: operators.super_resolution(shape, 2), OWN),
    "super_resolution": TASKS["super_resolution"],
    "gaussian_blur": TASKS["gaussian_blur"],
    "motion_blur": TASKS["motion_blur"],
    "missing_30": missing(0.3, "30 % missing"),
    "inpaint_random": TASKS["inpaint_random"],
    "scratches": Task("scratches", scratches, OWN, random=True),
    "box_32": Task(f"box of {BOX} pixels", box, OWN, random=True),
  }


def bm3d() -> Baseline:
  """Return BM3D as a restoration without a network."""

  def restore(problem):
    from bm3d import bm3d_rgb

    return bm3d_rgb(np.asarray(problem.y, np.float64), float(problem.noise.sigma)).astype(np.float32)

  suits = lambda operator: isinstance(operator, Identity)
  return Baseline("bm3d", "BM3D", restore, "Dabov et al., IEEE TIP 2007", suits=suits, needs="the identity", noisy=True)


def study(prior: str, data: str, size: int, count: int) -> Study:
  """Return the comparison."""
  others = [*BASELINES.values(), *([bm3d()] if importlib.util.find_spec("bm3d") else [])]
  methods = (*PRESETS, *others)
  return Study(prior=prior, data=data, size=size, num_images=count, tasks=tasks(), methods=methods, frames=0)


def lines(results: Results) -> list[str]:
  """Return the lines of the table."""
  classical = summary.without_network(results.plan)
  titles = {method["name"]: method["title"] for method in results.plan["methods"]}
  best = {key: summary.leaders(results.summary, key, classical) for key in ("psnr", "ssim")}
  found = ["| task | best without a network | PSNR | " + " | ".join(f"{p}: dB, ahead on, SSIM" for p in PRESETS) + " |"]
  found.append("|---|---|---:|" + "---:|" * len(PRESETS))
  for task in results.plan["tasks"]:
    name = task["name"]
    floor = values(results, name, best["psnr"][name], "psnr")
    cells = [cell(results, name, preset, best) for preset in PRESETS]
    shown = f"{np.mean(list(floor.values())):.2f}"
    found.append(f"| {task['title']} | {titles[best['psnr'][name]]} | {shown} | {' | '.join(cells)} |")
  return found


def values(results: Results, task: str, method: str, key: str) -> dict[str, float]:
  """Return a mark of each picture by its name."""
  return {r["image"]: r[key] for r in results.rows if (r["task"], r["method"]) == (task, method)}


def cell(results: Results, task: str, preset: str, best: dict[str, dict[str, str]]) -> str:
  """Write by how much a preset is ahead, on how many pictures, and in SSIM."""
  leads = {}
  for key, floors in best.items():
    mine, other = values(results, task, preset, key), values(results, task, floors[task], key)
    leads[key] = [mine[image] - other[image] for image in mine]
  psnr, ssim = (summary.interval(leads[key]) for key in ("psnr", "ssim"))
  assert psnr is not None and ssim is not None
  half = "" if psnr["high"] is None else f" ± {psnr['high'] - psnr['mean']:.2f}"
  ahead = sum(gap > 0 for gap in leads["psnr"])
  return f"{psnr['mean']:+.2f}{half}, {ahead} of {len(leads['psnr'])}, {ssim['mean']:+.3f}"


def main(_) -> None:
  """Compare, and write the block of the page."""
  values = flags.FLAGS
  page, work = pathlib.Path(values.output, PAGE), pathlib.Path(values.work)
  wanted = study(values.prior, values.data, values.size, values.num_images)
  results = read_results(work) if (work / output.RESULTS).exists() else compare(wanted, work)
  block = "\n".join(lines(results))
  print(block)
  page_blocks.write(page, {"table": block})


if __name__ == "__main__":
  flags.DEFINE_string("output", None, f"Folder of {PAGE}.", required=True)
  flags.DEFINE_string("work", "out/lead", "Folder of the comparison.")
  flags.DEFINE_string("prior", "photo", "Prior to measure.")
  flags.DEFINE_string("data", "photographs", "Pictures: a held-out set, a folder or a file.")
  flags.DEFINE_integer("size", 128, "Pixels along an edge.")
  flags.DEFINE_integer("num_images", 8, "Pictures.")
  app.run(main)
