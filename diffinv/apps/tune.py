"""Search a method's hyper-parameters for tasks, on pictures that are not those of the test.

usage: diffinv tune --prior=PRIOR --data=FOLDER|photos|faces --tasks=TASK,... --methods=METHOD,... --output=NAME.json

Restores validation pictures with every combination of the searched values, one compiled sweep for all numbers, and
writes those of the highest mean mark into a copy of the prior's settings: a file that --settings takes. The held-out
sets give their validation pictures here and their test pictures to `diffinv compare`: at one --size they share none. Of
a folder both take the same files: give them different ones.

With --num_samples=K the mark may be that of the mean picture of K samples, or of the sample whose residual is smallest,
which needs no truth. A line per finished candidate goes to NAME.json.running/rows.jsonl; after a stop the same command
goes on where it was.
"""

import pathlib
from typing import Any, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffinv import errors, output, progress, text
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.batch import sample_batch
from diffinv.data import held_out
from diffinv.methods import METHODS
from diffinv.priors import AnyPrior
from diffinv.problems import Problem, stack
from diffinv.schedules import Level
from diffinv.studies import chains as bench
from diffinv.studies import marks as marking
from diffinv.studies import runs, settings, summary
from diffinv.studies import search as tuning
from diffinv.tasks import TASKS

SINGLE = ("psnr", "ssim")  # of a sample, the mean over samples
SEVERAL = ("mean_psnr", "mean_ssim", "best_psnr", "best_ssim")  # of the mean picture, of the sample that fits y best
DEFAULT_IMAGES = 4

FLAGS = flags.FlagValues()
common.define_run_flags(FLAGS)
FLAGS["output"].help = "Settings file to write, NAME.json; required."
FLAGS["overwrite"].help = "Replace an existing file, at the end."
common.define_problem_flags(FLAGS, set_help="Fixed hyper-parameter of a method, METHOD.name=value, or METHOD.steps=N.")
common.define_study_flags(
  FLAGS,
  data_help="; required.",
  tasks=None,
  methods=None,
  held_out_images=DEFAULT_IMAGES,
)
flags.DEFINE_multi_string(
  "search",
  [],
  "Values to try, METHOD.name=value,value,... Repeatable; a method's own table where it is not named.",
  flag_values=FLAGS,
)
common.define_sample_flags(FLAGS)
flags.DEFINE_enum(
  "criterion",
  "psnr",
  [*SINGLE, *SEVERAL],
  "Mark whose mean over the pictures decides: of a sample; of the mean of all samples; of the sample of the smallest "
  "residual.",
  flag_values=FLAGS,
)
flags.DEFINE_boolean("restart", False, "Throw away an unfinished search in OUTPUT.running.", flag_values=FLAGS)


class Job(NamedTuple):
  """One method on one task."""

  task: str
  name: str  # of the method
  search: dict[str, Sequence[Any]]  # values by field
  fixed: dict[str, Any]  # fields that --set gives
  found: list[tuning.Candidate]
  steps: str
  grid: Level

  def weight(self, count: int) -> float:
    """Return the time on `count` pictures, in network evaluations."""
    return sum(common.weight(common.cost(candidate.method, self.grid)) for candidate in self.found) * count

  def only(self, numbers: Sequence[int]) -> "Job":
    """Return the job with these candidates alone."""
    return self._replace(found=[self.found[n] for n in numbers])


class Outcome(NamedTuple):
  """What a search found."""

  job: Job
  marks: list[float]  # of every candidate: the mean over the pictures
  best: int | None  # its number; None where every candidate left the finite numbers


def check_flags() -> None:
  """Check what can be told before anything is loaded.

  Raises:
    UsageError: a flag is missing, or a task or method does not exist.
  """
  common.require(FLAGS, "output", "the settings file to write")
  common.require(FLAGS, "data", "pictures to tune on: photos, faces, or a folder that is no test set")
  for flag, known in (("tasks", TASKS), ("methods", METHODS)):
    common.require(FLAGS, flag, f"some of {', '.join(known)}")
    common.check_choice(FLAGS, flag, known)
  if pathlib.Path(FLAGS.output).suffix != ".json":
    raise errors.UsageError(f"--output: expected a file NAME.json to write, got {FLAGS.output}")
  if FLAGS.criterion in SEVERAL and FLAGS.num_samples == 1:
    raise errors.UsageError(f"--num_samples: expected 2 or more for --criterion={FLAGS.criterion}, got 1")
  common.check_samples(FLAGS)
  output.check_file(FLAGS.output, overwrite=FLAGS.overwrite)


def read_search() -> dict[str, dict[str, tuple]]:
  """Return what to try, by method and field.

  Raises:
    UsageError: --search names no method that takes part, or a field twice, or one has nothing to search.
  """
  given: dict[str, dict[str, tuple]] = {name: {} for name in FLAGS.methods}
  for words in FLAGS.search:
    target, equals, values = words.partition("=")
    name, dot, field = target.strip().partition(".")
    if not (equals and dot and values) or name not in given:
      raise errors.UsageError(
        f"--search: expected METHOD.name=value,value,... with one of {', '.join(given)}, got {words!r}"
      )
    if field in given[name]:
      raise errors.UsageError(f"--search: expected each field once, got {name}.{field} twice; give its values together")
    with errors.usage():
      given[name][field] = tuple(common.typed_fields(name, {field: value})[field] for value in values.split(","))
  return {name: fields or tuning.values(name) for name, fields in given.items()}


def check_disjoint(fixed: dict[str, dict], search: dict[str, dict]) -> None:
  """Check that what --set fixes is not searched.

  Raises:
    UsageError: it is.
  """
  for name, fields in fixed.items():
    for field in fields:
      if field in search[name]:
        raise errors.UsageError(
          f"--set: expected a field that is not searched, got {name}.{field}; leave it out, or say with --search "
          f"which of {name} to search"
        )


def plan_jobs(prior: AnyPrior, table: dict[str, Any], problems: dict[str, list[Problem]]) -> list[Job]:
  """Build every candidate; tasks that a method cannot solve are left out, and said.

  Raises:
    UsageError: a value or a field does not fit, or nothing is left.
  """
  search, fixed, jobs = read_search(), common.overrides_by_method(FLAGS), []
  steps = {name: common.chosen_steps(FLAGS, table, name, fields.pop("steps", None)) for name, fields in fixed.items()}
  check_disjoint(fixed, search)
  for task in FLAGS.tasks:
    for name in FLAGS.methods:
      grid = common.make_grid(prior, steps[name])
      with errors.usage():
        given = common.typed_fields(name, fixed[name])
        fields = {**common.typed_fields(name, settings.fields_for(table, name, task, steps[name])), **given}
        found = tuning.candidates(name, fields, search[name])
      try:
        found = tuning.able(found, problems[task][0].operator)
      except ValueError as error:
        print(f"{task}: left out: {error}")
        continue
      jobs.append(Job(task, name, search[name], given, found, steps[name], grid))
  if not jobs:
    raise errors.UsageError("--methods: expected one that can solve one of the tasks, got none")
  return jobs


def plan(prior: AnyPrior, cases, truths, jobs: Sequence[Job]) -> dict[str, Any]:
  """Return the contents of run.json: what is tried, and how."""
  tried = [
    {
      "task": job.task,
      "method": job.name,
      "steps": job.steps,
      "candidates": [common.describe(candidate.method)["fields"] for candidate in job.found],
    }
    for job in jobs
  ]
  return {**common.provenance(FLAGS, "tune"), **common.identity(FLAGS, prior, cases, truths), "runs": tried}


def run_all(folder: runs.RunFolder, jobs: Sequence[Job], cases, prior: AnyPrior, problems, truths) -> None:
  """Restore every picture with every candidate that has no row yet."""
  chains = len(cases) * FLAGS.num_samples
  wanted = [
    (job, part, size)
    for job in jobs
    for part, size in tuning.parts(job.found, max(1, FLAGS.batch_size // chains))
    if folder.missing(job.task, job.name, part)
  ]
  weight = lambda job, part: job.only(part).weight(chains)
  with progress.Bar(sum(weight(job, part) for job, part, _ in wanted) or 1.0) as bar:
    for job, part, size in wanted:
      report_progress = bar.part(weight(job, part), f"{job.task} {job.name}")
      folder.append(run(job, part, size, cases, prior, problems[job.task], truths, report_progress))


def run(job: Job, part, size: int, cases, prior, problems: list[Problem], truths, report_progress) -> list[runs.Row]:
  """Restore every picture with some candidates, filled up to `size`; all get the same measurements and keys."""
  chosen = bench.filled(part, size)
  keys = jnp.stack([common.chain_keys(FLAGS, case) for case in cases])
  tile = lambda leaf: jnp.tile(leaf, (size, *[1] * (leaf.ndim - 1)))
  got, _ = sample_batch(
    jnp.concatenate([keys] * size),
    tuning.stacked(job.only(chosen).found, len(cases)),
    prior,
    jax.tree.map(tile, stack(problems)),
    job.grid,
    chunk=FLAGS.batch_size,
    mesh=common.mesh(FLAGS),
    progress=report_progress,
    swept=True,
  )
  rows = []
  for place, number in enumerate(part):
    pictures = got[place * len(cases) : (place + 1) * len(cases)]
    about = {"task": job.task, "method": job.name, "candidate": number, "fields": job.found[number].fields}
    rows.append({**about, "images": marks(problems, pictures, cases, truths)})
  return rows


def marks(problems: Sequence[Problem], pictures: np.ndarray, cases, truths) -> list[dict[str, Any]]:
  """Return the marks of every restored picture, `[images, samples, h, w, c]`, or how it `failed`."""
  entries = []
  for problem, samples, case, truth in zip(problems, pictures, cases, truths):
    reason = marking.failure(samples)
    if reason:
      found = {"failed": reason}
    else:
      found = marking.marks(problem, samples, np.asarray(truth), antithetic=FLAGS.antithetic)
    entries.append({"image": case.name, **found})
  return entries


def judge(job: Job, folder: runs.RunFolder) -> Outcome:
  """Return the marks of all candidates: the mean over pictures, NaN where one failed."""
  rows = [folder.rows[job.task, job.name, number] for number in range(len(job.found))]
  of_pictures = [[summary.picture_value(entry, FLAGS.criterion) for entry in row["images"]] for row in rows]
  means = [float("nan") if None in values else float(np.mean(values)) for values in of_pictures]
  return Outcome(job, means, tuning.best(means))


def tuned(table: dict[str, Any], outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
  """Return the settings with what was found laid over them, in an entry of its own for unusual steps.

  Such an entry begins as a copy of the usual one, whose values were the ones that the search did not vary.
  """
  table = {name: dict(entry) for name, entry in table.items()}
  for outcome in outcomes:
    job = outcome.job
    if outcome.best is None:
      continue
    table.setdefault(job.name, {settings.STEPS: job.steps, settings.DEFAULT: {}})
    usual = settings.steps_for(table, job.name) == job.steps
    name = job.name if usual else settings.at_steps(job.name, job.steps)
    copied = {task: fields for task, fields in table[job.name].items() if task != settings.STEPS}
    entry = table.setdefault(name, {settings.DEFAULT: {}, **copied})
    entry[job.task] = {**entry.get(job.task, {}), **job.fixed, **job.found[outcome.best].fields}
  return {**table, settings.ABOUT: about}


def main(argv: list[str]) -> None:
  """Measure, sweep, choose, write, report."""
  del argv
  check_flags()
  prior = common.prepare(FLAGS)
  multiple = common.task_multiple([TASKS[task] for task in FLAGS.tasks])
  cases, truths = common.read_pictures(FLAGS, prior, multiple, held_out.VALIDATION, DEFAULT_IMAGES)
  problems = {
    task: [common.measured(FLAGS, task, case, truth) for case, truth in zip(cases, truths)] for task in FLAGS.tasks
  }
  table = common.read_settings(FLAGS)
  jobs = plan_jobs(prior, table, problems)
  folder = runs.RunFolder(FLAGS.output, plan(prior, cases, truths, jobs), restart=FLAGS.restart, kind=runs.SEARCH)
  with errors.interruption(f"give the same command again to go on with {folder.partial}"), folder.held():
    if folder.rows:
      print(f"going on with {folder.partial}: {len(folder.rows)} candidates are there")
    run_all(folder, jobs, cases, prior, problems, truths)
    outcomes = [judge(job, folder) for job in jobs]
    if all(outcome.best is None for outcome in outcomes):
      folder.discard()
      raise ValueError("search: expected a candidate that stays finite, got none for any task; try smaller steps")
    written = write(outcomes, table, cases)
    folder.discard()
  print_report(outcomes)
  print(f"pass --settings={FLAGS.output} to the other commands")
  for name, steps in {o.job.name: o.job.steps for o in outcomes if o.best is not None}.items():
    if steps != settings.steps_for(written, name):
      print(f"and --steps={steps}, or --set={name}.steps={steps} to compare: what was found for {name} is for these")


def write(outcomes: Sequence[Outcome], table: dict[str, Any], cases: Sequence[common.Case]) -> dict[str, Any]:
  """Write the settings file, and return its contents."""
  about = {
    **common.provenance(FLAGS, "tune"),
    "images": [case.path for case in cases],
    "found": [describe(outcome) for outcome in outcomes],
  }
  written = tuned(table, outcomes, about)
  settings.write_settings(FLAGS.output, output.plain(written))
  return written


def describe(outcome: Outcome) -> dict[str, Any]:
  """Return everything that was tried, with its mark."""
  tried = [{**c.fields, FLAGS.criterion: mark} for c, mark in zip(outcome.job.found, outcome.marks)]
  return {"task": outcome.job.task, "method": outcome.job.name, "tried": tried}


def print_report(outcomes: Sequence[Outcome]) -> None:
  """Print the best of each search, and where a wider one may be better."""
  rows, edges = [], []
  for outcome in outcomes:
    job = outcome.job
    if outcome.best is None:
      edges.append(f"{job.task}: {job.name} left the finite numbers with every candidate; search smaller steps")
      continue
    fields = job.found[outcome.best].fields
    said = ", ".join(
      f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in fields.items()
    )
    digits = 2 if "psnr" in FLAGS.criterion else 3
    finite = [mark for mark in outcome.marks if np.isfinite(mark)]
    marks = [text.number(value, digits) for value in (outcome.marks[outcome.best], min(finite))]
    rows.append([job.task, job.name, said, *marks, str(len(job.found))])
    for name in tuning.at_the_edge(fields, job.search, METHODS[job.name].ranges):
      edges.append(f"{job.task}: {job.name}.{name} is best at the edge of what was tried; search further with --search")
  print(text.table(["task", "method", "best", FLAGS.criterion, "worst", "tried"], rows))
  for line in edges:
    print(line)


if __name__ == "__main__":
  run_module(main, FLAGS)
