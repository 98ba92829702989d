"""Restore pictures: simulated measurements of them, or real measurements.

usage: diffinv reconstruct --input=PHOTO --task=TASK --output=FOLDER [--method=METHOD]
       diffinv reconstruct --measurement=Y --task=TASK --output=FOLDER [--mask=MASK | --kernel=KERNEL]

The first measures a photograph and restores it, with the truth to compare. The second restores what was measured. Both
write per picture NAME.png (NAME-00.png, ... and their mean NAME-mean.png for several samples), NAME-measurement.png,
NAME-measurement.npy (every digit), the mask or kernel if there is one, NAME-sheet.png with all of these side by side,
and results.json.
"""

import pathlib
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffinv import errors, methods, output, progress, text
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.data import images, sheet
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level
from diffinv.studies import chains as bench
from diffinv.studies import marks as marking
from diffinv.tasks import TASKS

WINDOW = 256  # chains whose pictures are in memory at once
SHEET_SAMPLES = 6  # on a sheet; more would be too small to see

FLAGS = flags.FlagValues()
common.define_run_flags(FLAGS)
common.define_problem_flags(FLAGS, set_help="Hyper-parameter of the method, name=value.")
flags.DEFINE_multi_string(
  "input", [], "Photograph to measure and restore: a file, several (repeat, or commas), or a folder.", flag_values=FLAGS
)
flags.DEFINE_multi_string(
  "measurement", [], "Measurement to restore, in place of --input: a file, several, or a folder.", flag_values=FLAGS
)
flags.DEFINE_enum("task", "super_resolution", list(TASKS), "What was measured.", flag_values=FLAGS)
FLAGS["task"].help = "What was measured; `diffinv tasks` describes them."  # without the choices, which --help gives too
flags.DEFINE_enum("method", "dps", list(METHODS), "How to restore.", flag_values=FLAGS)
flags.DEFINE_string(
  "mask",
  None,
  "Image of the picture's size: white is kept, black missing; of MRI, frequencies, zero in the middle.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "mask_threshold",
  None,
  "Gray level from which a pixel of the mask counts as kept, 1 to 255. Not set: only 0 and 255 are taken.",
  lower_bound=1,
  upper_bound=255,
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "kernel", None, "Blur kernel, a grayscale image or .npy of odd sizes; is divided by its sum.", flag_values=FLAGS
)
common.define_sample_flags(FLAGS)


class Job(NamedTuple):
  """Everything that the flags say, checked."""

  prior: AnyPrior
  method: Method
  grid: Level
  multiple: int  # pixels, that the task asks of the sides of a picture
  cases: list[common.Case]


def check_flags() -> None:
  """Check what can be told before anything is loaded.

  Raises:
    UsageError: flags are missing or contradict each other.
  """
  common.require(FLAGS, "output", "the folder to write")
  if bool(FLAGS.input) == bool(FLAGS.measurement):
    raise errors.UsageError("expected one of --input (a photograph) and --measurement (real data), got both or none")
  if FLAGS.measurement and (FLAGS.size is not None or FLAGS.fit != "none"):
    raise errors.UsageError("--size and --fit change photographs, not --measurement; crop it and its mask beforehand")
  if FLAGS.mask_threshold is not None and FLAGS.mask is None:
    raise errors.UsageError("--mask_threshold is of a mask, got no --mask; leave it out")
  common.check_samples(FLAGS)


def plan() -> Job:
  """Load the prior, build the method and check every picture, so that nothing fails after hours of work."""
  with errors.usage():
    paths = images.collect(FLAGS.input or FLAGS.measurement, name="--input" if FLAGS.input else "--measurement")
  common.check_apart(FLAGS, paths)
  table = common.read_settings(FLAGS)
  steps = common.chosen_steps(FLAGS, table, FLAGS.method)
  method = common.build_method(FLAGS.method, FLAGS.task, steps, table, common.assignments(FLAGS.set))
  prior = common.prepare(FLAGS)
  grid = common.make_grid(prior, steps)
  multiple = common.task_multiple([TASKS[FLAGS.task]])
  if FLAGS.measurement and is_hidden(TASKS[FLAGS.task]):
    raise errors.UsageError(
      f"--measurement: --task={FLAGS.task} draws how it measures, and no flag says what was drawn; "
      "measure a photograph with --input, or give diffinv.sample an operator of your own"
    )
  if FLAGS.input:
    shapes = [common.read_picture(FLAGS, prior, multiple, path).shape for path in paths]
  else:
    shapes = [picture_shape(prior, path, read_measurement(prior, path).shape) for path in paths]
  cases = common.name_cases(paths, shapes, FLAGS.seed)
  for case in {case.shape: case for case in cases}.values():
    operator = common.make_operator(FLAGS, FLAGS.task, common.case_keys(case)[0], case.shape)
    with errors.usage():
      methods.check(method, operator)
  common.noise_model(FLAGS, TASKS[FLAGS.task])
  common.mesh(FLAGS)
  return Job(prior, method, grid, multiple, cases)


def read_measurement(prior: AnyPrior, path: pathlib.Path) -> np.ndarray:
  """Read a measurement with as many channels as the task has of the prior's pictures, [h, w, c].

  Raises:
    ValueError: it is none, or a picture where the task does not measure one; or the task is not for such pictures.
  """
  try:
    template = common.probe(TASKS[FLAGS.task], prior.image_shape[2])
  except ValueError as error:
    raise ValueError(f"{FLAGS.task}: {error}") from None
  channels = template.out_shape[-1]
  if path.suffix.lower() == ".npy":
    return images.read_array(path, channels=channels)
  if not template.is_picture:
    raise ValueError(
      f"{path}: expected a .npy array, as --task={FLAGS.task} does not measure pictures, got a picture; "
      "write every digit with numpy.save"
    )
  return images.read(path, mode=images.mode_of(channels), convert=FLAGS.convert)


def picture_shape(prior: AnyPrior, path: pathlib.Path, shape: Sequence[int]) -> tuple[int, int, int]:
  """Return the shape of the picture behind a measurement of `shape`.

  Raises:
    UsageError: the operator is drawn at random, and no mask or kernel says how the picture was measured.
    ValueError: the prior has no picture of which this is the measurement.
  """
  task = TASKS[FLAGS.task]
  scale = common.task_scale(task)
  size = tuple(round(n * s) for n, s in zip(shape[:2], scale))
  allowed, multiple = prior.image_shape[:2], prior.size_multiple
  if any(fixed not in (None, n) or n % multiple for n, fixed in zip(size, allowed)):
    fit = [(fixed or max(multiple, n // multiple * multiple)) / s for n, fixed, s in zip(size, allowed, scale)]
    raise ValueError(
      f"{path}: expected a measurement of {images.by([round(n) for n in fit])} pixels for this prior and {FLAGS.task}, "
      f"got {images.by(shape)}; crop or pad it"
    )
  picture = (*size, prior.image_shape[2])
  operator = task.make(jax.random.key(0), picture)
  if common.has_mask(operator) and FLAGS.mask is None:
    raise errors.UsageError(f"--mask is missing: expected the mask of the measurement for --task={FLAGS.task}")
  if FLAGS.kernel is None and common.is_blur(operator) and is_random(task, picture):
    raise errors.UsageError(f"--kernel is missing: expected the kernel of the measurement for --task={FLAGS.task}")
  if operator.out_shape != tuple(shape):
    raise ValueError(
      f"{path}: expected a measurement of shape {operator.out_shape}, got {tuple(shape)}; crop or pad it"
    )
  return picture


def is_random(task, shape: tuple[int, int, int]) -> bool:
  """Tell whether the task draws its operator, so that another draw is another measurement."""
  one, other = (jax.tree.leaves(task.make(jax.random.key(seed), shape)) for seed in (0, 1))
  return any(not np.array_equal(a, b) for a, b in zip(one, other))


def is_hidden(task) -> bool:
  """Tell whether the task draws its operator and neither --mask nor --kernel can say which it drew."""
  template = common.probe(task)
  replaced = common.has_mask(template) or common.is_blur(template)
  return not replaced and is_random(task, template.in_shape)


def load(job: Job, case: common.Case) -> tuple[Problem, np.ndarray | None]:
  """Return the problem of a picture, and the truth where it is known."""
  if FLAGS.input:
    return common.simulated(FLAGS, job.prior, FLAGS.task, job.multiple, case)
  y = jnp.asarray(read_measurement(job.prior, case.path))
  operator = common.make_operator(FLAGS, FLAGS.task, common.case_keys(case)[0], case.shape)
  return Problem(operator, common.noise_model(FLAGS, TASKS[FLAGS.task]), operator.observed(y) * y), None


def windows(cases: Sequence[common.Case]) -> list[list[common.Case]]:
  """Group pictures by size, as many together as fit into memory."""
  size = max(1, WINDOW // FLAGS.num_samples)
  groups: dict[tuple, list[common.Case]] = {}
  for case in cases:
    groups.setdefault(case.shape, []).append(case)
  return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def write_case(folder: pathlib.Path, case: common.Case, problem: Problem, pictures, truth) -> dict[str, Any]:
  """Write everything about one picture, and return its entry of results.json."""
  digits = max(2, len(str(len(pictures) - 1)))
  names = [case.name] if len(pictures) == 1 else [f"{case.name}-{i:0{digits}d}" for i in range(len(pictures))]
  entry: dict[str, Any] = {
    "name": case.name,
    "source": case.path,
    "shape": case.shape,
    "measurement_shape": problem.y.shape,
    "samples": [],
  }
  for name, picture, marks in zip(names, pictures, marking.scores(problem, pictures, truth)):
    images.write(folder / f"{name}.png", picture)
    entry["samples"].append({"file": f"{name}.png", **marks})
  if len(pictures) > 1:
    mean = np.mean(pictures, axis=0)
    images.write(folder / f"{case.name}-mean.png", mean)
    entry["mean"] = {"file": f"{case.name}-mean.png", **marking.scores(problem, mean[None], truth)[0]}
  write_measurement(folder, case.name, problem)
  write_sheet(folder, case.name, problem, pictures, truth, entry)
  return entry


def write_sheet(folder: pathlib.Path, name: str, problem: Problem, pictures, truth, entry: dict[str, Any]) -> None:
  """Draw truth, measurement, samples, and their mean and standard deviation, side by side."""
  cells = [] if truth is None else [("truth", sheet.Cell(truth))]
  size = images.by(problem.y.shape) if problem.operator.is_picture else "x".join(map(str, problem.y.shape))
  cells.append(("measurement", sheet.Cell(np.asarray(problem.operator.picture(problem.y)), (size,))))
  for i, (picture, marks) in enumerate(list(zip(pictures, entry["samples"]))[:SHEET_SAMPLES]):
    title = METHODS[FLAGS.method].title if len(pictures) == 1 else f"sample {i + 1}"
    cells.append((title, sheet.Cell(picture, common.caption(marks))))
  if len(pictures) > 1:
    cells.append(("mean", sheet.Cell(np.mean(pictures, axis=0), common.caption(entry["mean"]))))
  if (spread := marking.spread(pictures, antithetic=FLAGS.antithetic)) is not None:
    spread = np.mean(spread, axis=-1, keepdims=True)
    cells.append(("standard deviation", sheet.Cell(4.0 * spread - 1.0, ("black 0, white 0.5",))))
  row = (TASKS[FLAGS.task].title, [cell for _, cell in cells])
  images.write_pillow(folder / f"{name}-sheet.png", sheet.sheet([title for title, _ in cells], [row]))


def write_measurement(folder: pathlib.Path, name: str, problem: Problem) -> None:
  """Write what --measurement, --mask and --kernel take."""
  output.write_array(folder / f"{name}-measurement.npy", np.asarray(problem.y))
  operator = problem.operator
  images.write(folder / f"{name}-measurement.png", np.asarray(operator.picture(problem.y)))
  if common.has_mask(operator):
    images.write(folder / f"{name}-mask.png", 2.0 * np.asarray(operator.mask) - 1.0)
  elif hasattr(operator, "kernel"):
    output.write_array(folder / f"{name}-kernel.npy", np.asarray(operator.kernel))


def main(argv: list[str]) -> None:
  """Plan, restore window by window, write, report."""
  del argv
  check_flags()
  output.check(FLAGS.output, overwrite=FLAGS.overwrite)
  job = plan()
  parts, entries, compile_seconds, run_seconds = windows(job.cases), {}, 0.0, 0.0
  with output.folder(FLAGS.output, overwrite=FLAGS.overwrite) as folder:
    with progress.Bar(sum(np.prod(case.shape) for case in job.cases)) as bar:
      for part in parts:
        loaded = [load(job, case) for case in part]
        got = bench.restore(
          [common.chain_keys(FLAGS, case) for case in part],
          job.method,
          job.prior,
          [problem for problem, _ in loaded],
          job.grid,
          chunk=FLAGS.batch_size,
          mesh=common.mesh(FLAGS),
          progress=bar.part(sum(np.prod(case.shape) for case in part), f"{FLAGS.task} {FLAGS.method}"),
        )
        for case, (problem, truth), pictures in zip(part, loaded, got.images):
          if failure := marking.failure(pictures):
            entry = {"name": case.name, "source": case.path, "shape": case.shape, "failed": failure}
          else:
            entry = write_case(folder, case, problem, pictures, truth)
          entries[case.name] = {**entry, "run_seconds": got.run_seconds / len(part)}
        compile_seconds, run_seconds = compile_seconds + got.compile_seconds, run_seconds + got.run_seconds
    failed = {name: entry["failed"] for name, entry in entries.items() if "failed" in entry}
    told = f"{FLAGS.method}: expected finite pictures, got {next(iter(failed.values()), None)}"
    if len(failed) == len(entries):
      raise ValueError(told)
    results = report(job, [entries[case.name] for case in job.cases], compile_seconds, run_seconds)
    output.write_json(folder / output.RESULTS, results)
  print_report(results)
  if failed:
    raise ValueError(f"{told} for {', '.join(failed)}; the other pictures are in {FLAGS.output}")


def report(job: Job, entries: list[dict[str, Any]], compile_seconds: float, run_seconds: float) -> dict[str, Any]:
  """Return the contents of results.json."""
  spent = common.cost(job.method, job.grid)
  return {
    **common.provenance(FLAGS, "reconstruct"),
    "task": FLAGS.task,
    "noise": common.describe_noise(common.noise_model(FLAGS, TASKS[FLAGS.task])),
    "method": common.describe(job.method),
    "steps": len(job.grid.alpha) - 1,
    "network_evaluations": spent.evaluations,  # of each sample
    "network_gradients": spent.gradients,
    "compile_seconds": compile_seconds,
    "run_seconds": run_seconds,
    "images": entries,
  }


def print_report(results: dict[str, Any]) -> None:
  """Print a line per picture; with several samples, of their mean."""
  rows = []
  for entry in results["images"]:
    if "failed" in entry:
      continue
    marks = entry.get("mean", entry["samples"][0])
    cells = [text.number(marks.get(key), digits) for key, digits in (("psnr", 2), ("ssim", 3), ("chi2", 2))]
    rows.append([entry["name"], *cells, text.number(entry["run_seconds"], 1)])
  print(text.table(["picture", "PSNR dB", "SSIM", "chi2", "seconds"], rows))
  print(
    f"{results['network_evaluations']} network evaluations and {results['network_gradients']} gradients a sample, "
    f"{results['compile_seconds']:.1f} s to compile: {FLAGS.output}"
  )


if __name__ == "__main__":
  run_module(main, FLAGS)
