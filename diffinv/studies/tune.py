"""A search of hyper-parameters on validation pictures, for a settings file."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import devices, errors, files, memory, output, progress, reading, text
from diffinv.baselines import Baseline
from diffinv.batch import sample_batch
from diffinv.data import held_out
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.metrics import table as metrics
from diffinv.options import option
from diffinv.priors import PicturePrior
from diffinv.problems import Problem, stack
from diffinv.schedules import Level
from diffinv.studies import cases as casing
from diffinv.studies import chains, entrants, identity, marks, measurement, runs, search, settings, summary
from diffinv.studies.cases import Case
from diffinv.studies.presets import Preset
from diffinv.studies.study import MAX_CHAINS, VALIDATION_IMAGES, Comparing, named_methods, named_tasks, overrides
from diffinv.tasks import TASKS

COMMAND = "tune"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Comparing):
  """What to search: pictures, tasks and methods as in a study, the values to try, and what decides.

  Example:
    >>> import diffinv
    >>> config = diffinv.Search(methods=["dps"], search={"dps.scale": (0.1, 0.3, 1.0)})
    >>> config.search, config.criterion
    (('dps.scale=0.1,0.3,1.0',), 'psnr')
  """

  methods: tuple[str | Method, ...] | Mapping[str, Method] = option(
    tuple(name for name, method in METHODS.items() if method.search), f"Methods, of {', '.join(METHODS)}."
  )
  search: tuple[str, ...] | Mapping[str, Sequence[Any]] = option(
    (),
    "Values to try, METHOD.name=value,value,... Repeatable; a method's own table where it is not named.",
    repeated=True,
  )
  batch_size: int = option(4, "Chains (images times samples) that run at once; bounds memory.", low=1, high=MAX_CHAINS)
  criterion: str = option(
    "psnr",
    "Mark whose mean over the pictures decides; mean_ is of the mean of all samples, best_ of the sample of the "
    "smallest residual.",
    choices=tuple(mark.key for mark in metrics.criteria()),
  )

  def __post_init__(self) -> None:
    if isinstance(self.search, Mapping):
      texts = tuple(f"{name}={','.join(map(str, values))}" for name, values in self.search.items())
      object.__setattr__(self, "search", texts)
    super().__post_init__()
    if metrics.mark(self.criterion).several and self.num_samples == 1:
      raise errors.UsageError(f"`num_samples`: expected 2 or more for `criterion={self.criterion}`, got 1")


class Job(NamedTuple):
  """One method on one task."""

  task: str
  name: str  # of the method
  search: dict[str, Sequence[Any]]  # values by field
  fixed: dict[str, Any]  # fields that `set` gives
  found: list[search.Candidate]
  steps: str
  grid: Level

  def weight(self, count: int) -> float:
    """Return the time on `count` pictures, in network evaluations."""
    return sum(entrants.weight(entrants.cost(candidate.method, self.grid)) for candidate in self.found) * count

  def only(self, numbers: Sequence[int]) -> "Job":
    """Return the job with these candidates alone."""
    return self._replace(found=[self.found[n] for n in numbers])


class Outcome(NamedTuple):
  """What a search found."""

  job: Job
  marks: list[float]  # of every candidate: the mean over the pictures
  best: int | None  # its number; None where every candidate left the finite numbers

  @property
  def fields(self) -> dict[str, Any]:
    """The best values."""
    return {} if self.best is None else self.job.found[self.best].fields


class Tuned(NamedTuple):
  """What `tune` found and wrote."""

  outcomes: list[Outcome]
  settings: dict[str, Any]  # the contents of the file
  criterion: str

  def table(self) -> str:
    """Return the best of each search."""
    header = ["task", "method", "best", self.criterion, "worst", "tried"]
    return text.table(header, [self._row(outcome) for outcome in self.outcomes if outcome.best is not None])

  def _row(self, outcome: Outcome) -> list[str]:
    values = outcome.fields.items()
    said = ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values)
    mark = metrics.mark(self.criterion)
    worst = max((value for value in outcome.marks if np.isfinite(value)), key=mark.rank)
    shown = [text.number(value, mark.digits) for value in (outcome.marks[outcome.best or 0], worst)]
    return [outcome.job.task, outcome.job.name, said, *shown, str(len(outcome.job.found))]

  def remarks(self) -> list[str]:
    """Return where a wider search may find better values."""
    return [line for outcome in self.outcomes for line in _remarks(outcome)]

  def unusual_steps(self) -> dict[str, str]:
    """Return the steps of methods whose settings hold only for these, by method."""
    chosen = {o.job.name: o.job.steps for o in self.outcomes if o.best is not None and has_settings(o.job)}
    return {name: steps for name, steps in chosen.items() if steps != settings.steps_for(self.settings, name)}


def _remarks(outcome: Outcome) -> list[str]:
  job = outcome.job
  if outcome.best is None:
    return [f"{job.task}: {job.name} left the finite numbers with every candidate; search smaller steps"]
  ranges = job.found[0].method.ranges
  own = (
    [] if has_settings(job) else [f"{job.task}: {job.name} is not in the settings, which name no own methods or tasks"]
  )
  return own + [
    f"{job.task}: {job.name}.{name} is best at the edge of what was tried; search further with `search`"
    for name in search.at_the_edge(outcome.fields, job.search, ranges)
  ]


class Prepared(NamedTuple):
  """What a search asks for, loaded and checked, nothing of it done."""

  config: Search
  prior: PicturePrior
  table: dict[str, Any]
  cases: list[Case]
  truths: list[np.ndarray]
  problems: dict[str, list[Problem]]  # by task
  jobs: list[Job]


def tune(config: Search, file: str | os.PathLike[str], *, overwrite: bool = False, restart: bool = False) -> Tuned:
  """Restore validation pictures with every combination of values; write the best into a settings file.

  Args:
    config: what to search.
    file: NAME.json, to write; NAME.json.running holds what is done until then.
    overwrite: replace an existing file, at the end.
    restart: throw away an unfinished search.

  Raises:
    UsageError: options do not fit together.
    FileExistsError: there is a file, or an unfinished search that differs.
    ValueError: a picture cannot be used, or every candidate left the finite numbers.

  Example:
    >>> import diffinv
    >>> from diffinv.data import bundled
    >>> search = {"diffpir.zeta": (0.5, 1.0)}
    >>> config = diffinv.Search(
    ...   prior="natural", data=bundled.ASTRONAUT, tasks=["denoising"], methods=["diffpir"], search=search,
    ...   steps=3, size=16, fit="resize",
    ... )
    >>> diffinv.tune(config, "mine.json").outcomes[0].fields["zeta"] in (0.5, 1.0)
    True
  """
  if pathlib.Path(file).suffix != ".json":
    raise errors.UsageError(f"`output`: expected a file NAME.json to write, got {file}")
  file = pathlib.Path(os.path.expanduser(file))
  casing.check_apart(config, file)
  if not reading.is_file(file) or overwrite:
    output.check_file(file, overwrite=overwrite)
  p = prepare(config)
  run = runs.RunFolder(file, plan(p), kind=runs.SEARCH)
  if reading.is_file(file) and not overwrite:
    return read_finished(p, run, file)
  with run.held(restart=restart):
    run_all(run, p)
    outcomes = [judge(config, job, run) for job in p.jobs]
    if all(outcome.best is None for outcome in outcomes):
      run.discard()
      raise ValueError("search: expected a candidate that stays finite, got none for any task; try smaller steps")
    written = write(p, outcomes, file, runs.plan_digest(run.plan))
    run.discard()
  return Tuned(outcomes, written, config.criterion)


def read_finished(p: Prepared, run: runs.RunFolder, file: pathlib.Path) -> Tuned:
  """Return what a finished search of the same plan found, from the settings file that it wrote.

  Raises:
    FileExistsError: the file is of something else.
  """
  advice = "choose another `output`"
  table = reading.read_json(file, dict[str, Any], advice=advice)
  about = table.get(settings.ABOUT)
  if not isinstance(about, dict) or about.get("plan") != runs.plan_digest(run.plan):
    output.check_file(file)  # raises, as it is there
  reading.check(about, _About, f"{file}: {settings.ABOUT}", advice)
  settings.checked(table, file)
  tried = {(found["task"], found["method"]): found["tried"] for found in about["found"]}
  outcomes = [
    outcome_of(p.config, job, _marks_of(job, tried.get((job.task, job.name), []), p.config.criterion, file))
    for job in p.jobs
  ]
  run.remove_left()
  return Tuned(outcomes, table, p.config.criterion)


def _marks_of(job: Job, tried: list[dict[str, Any]], criterion: str, file: pathlib.Path) -> list[float]:
  """Return the marks of all candidates of a job, NaN where there is none."""
  found = [entry.get(criterion) for entry in tried]
  if len(found) != len(job.found) or not all(mark is None or runs.is_number(mark) for mark in found):
    raise ValueError(
      f"{file}: expected a mark of each candidate of {job.name} for {job.task}, got others; search again with "
      "`overwrite`"
    )
  return [float("nan") if mark is None else mark for mark in found]


class _Found(TypedDict):
  task: str
  method: str
  tried: list[dict[str, Any]]


class _About(TypedDict):
  found: list[_Found]


def prepare(config: Search) -> Prepared:
  """Load the prior and the pictures, and build every candidate.

  Raises:
    UsageError: there are no pictures, or options do not fit together.
    ValueError: a file or a picture cannot be used.
  """
  if len(config.data) == 0:
    raise errors.UsageError("`data`: expected pictures to tune on, got none; name a set, such as photos, or a folder")
  devices.split_cpu(config.devices)
  prior, tasks = identity.load(config), named_tasks(config.tasks)
  entrants.note_settings(config)
  multiple = measurement.size_multiple(list(tasks.values()))
  cases, truths = casing.read_pictures(
    config, prior, multiple, list(tasks), purpose=held_out.VALIDATION, count=VALIDATION_IMAGES
  )
  problems = {
    name: [measurement.measured(config, name, task, case, truth) for case, truth in zip(cases, truths, strict=True)]
    for name, task in tasks.items()
  }
  table = entrants.read_settings(config)
  found = Prepared(config, prior, table, cases, truths, problems, plan_jobs(config, prior, table, problems))
  check_memory(found)
  return found


def check_memory(p: Prepared) -> None:
  """Check that the machine has the memory for every sweep.

  Raises:
    UsageError: it has not.
  """
  count = len(p.cases) * p.config.num_samples
  for job in p.jobs:
    size = max(size for _, size in search.parts(job.found, max(1, p.config.batch_size // count)))
    memory.check_chains(
      p.prior,
      job.found[0].method,
      p.problems[job.task][0],
      job.grid,
      chains=size * count,
      batch_size=p.config.batch_size,
      shape=p.cases[0].shape,
      kept=memory.pictures(len(p.cases), p.cases[0].shape),
      mesh=devices.mesh(p.config),
      swept=True,
    )


# What is tried


def read_search(config: Search) -> dict[str, dict[str, tuple[Any, ...]]]:
  """Return what to try, by method and field.

  Raises:
    UsageError: `search` names no method that takes part, or a field twice, or a method has nothing to search.
  """
  known = methods_of(config)
  given: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in known}
  for words in config.search:
    target, equals, values = words.partition("=")
    name, dot, field = target.strip().partition(".")
    if not (equals and dot and values) or name not in given:
      raise errors.UsageError(
        f"`search`: expected METHOD.name=value,value,... with one of {', '.join(given)}, got {words!r}"
      )
    if field in given[name]:
      raise errors.UsageError(f"`search`: expected each field once, got {name}.{field} twice; give its values together")
    with errors.usage():
      typed = [entrants.typed_fields(class_of(known[name]), {field: value})[field] for value in values.split(",")]
    given[name][field] = tuple(typed)
  return {name: fields or search.values(name, class_of(known[name])) for name, fields in given.items()}


def methods_of(config: Search) -> dict[str, type[Method] | Method]:
  """Return the methods by name, in their order.

  Raises:
    UsageError: one needs no network, or see `named_methods`.
  """
  found = {}
  for name, method in named_methods(config.methods).items():
    if isinstance(method, Baseline):
      raise errors.UsageError(f"`methods`: expected methods of a prior to tune, got {name}, which needs no network")
    if isinstance(method, Preset):
      raise errors.UsageError(f"`methods`: expected methods to tune, got {name}, which is a choice among them")
    found[name] = method
  return found


def class_of(method: Any) -> Any:
  """Return the class of a method that stands for itself or for its class."""
  return method if isinstance(method, type) else type(method)


def check_disjoint(fixed: dict[str, dict], searched: dict[str, dict]) -> None:
  """Check that what `set` fixes is not searched.

  Raises:
    UsageError: it is.
  """
  for name, fields in fixed.items():
    for field in fields:
      if field in searched[name]:
        raise errors.UsageError(
          f"`set`: expected a field that is not searched, got {name}.{field}; leave it out, or say with `search` "
          f"which of {name} to search"
        )


def plan_jobs(
  config: Search, prior: PicturePrior, table: dict[str, Any], problems: dict[str, list[Problem]]
) -> list[Job]:
  """Build every candidate; tasks that a method cannot solve are left out, and said.

  Raises:
    UsageError: a value or a field does not fit, or nothing is left.
  """
  searched, fixed, jobs = read_search(config), overrides(config), []
  steps = {n: entrants.chosen_steps(config, table, n, fields.pop("steps", None)) for n, fields in fixed.items()}
  check_disjoint(fixed, searched)
  for task, measured in problems.items():
    for name in methods_of(config):
      try:
        jobs.append(
          _job(config, task, name, searched[name], fixed[name], steps[name], prior, table, measured[0].operator)
        )
      except CannotSolveError as error:
        print(f"{task}: left out: {error}")
  if not jobs:
    raise errors.UsageError("`methods`: expected one that can solve one of the tasks, got none")
  return jobs


class CannotSolveError(ValueError):
  """No candidate is for the operator of a task."""


def _job(config, task, name, searched, fixed, steps, prior, table, operator) -> Job:
  grid, method = entrants.make_grid(prior, steps), methods_of(config)[name]
  with errors.usage():
    given = entrants.typed_fields(class_of(method), fixed)
  whose = named_tasks(config.tasks)[task].settings_of(task)
  build = lambda some: entrants.build(name, method, whose, steps, table, {**given, **some})
  found = search.candidates(build, searched)
  try:
    found = search.able(found, operator)
  except ValueError as error:
    raise CannotSolveError(str(error)) from None
  return Job(task, name, searched, given, found, steps, grid)


def plan(p: Prepared) -> dict[str, Any]:
  """Return the contents of run.json: what is tried, and how."""
  tried = [
    {
      "task": job.task,
      "method": job.name,
      "steps": job.steps,
      "candidates": [entrants.describe_method(candidate.method)["fields"] for candidate in job.found],
    }
    for job in p.jobs
  ]
  return {
    **identity.provenance(p.config, COMMAND),
    "prior": identity.describe_prior(p.config, p.prior),
    "data": ", ".join(map(str, identity.plain_option(p.config.data))),
    "images": casing.describe_cases(p.cases, p.truths),
    "runs": tried,
  }


# Chains


def run_all(run: runs.RunFolder, p: Prepared) -> None:
  """Restore every picture with every candidate that has no row yet."""
  count = len(p.cases) * p.config.num_samples
  wanted = [
    (job, part, size)
    for job in p.jobs
    for part, size in search.parts(job.found, max(1, p.config.batch_size // count))
    if run.missing((job.task, job.name, number) for number in part)
  ]
  with progress.Bar(sum(job.only(part).weight(count) for job, part, _ in wanted) or 1.0) as bar:
    for job, part, size in wanted:
      report = bar.part(job.only(part).weight(count), f"{job.task} {job.name}")
      run.append([(row, ()) for row in run_part(p, job, part, size, report)])


def run_part(p: Prepared, job: Job, part: Sequence[int], size: int, report: Any) -> list[runs.Row]:
  """Restore every picture with some candidates, filled up to `size`; all get the same measurements and keys."""
  chosen, count = chains.filled(part, size), len(p.cases)
  keys = jnp.stack([casing.chain_keys(p.config, case) for case in p.cases])
  got, _ = sample_batch(
    jnp.concatenate([keys] * size),
    search.stacked(job.only(chosen).found, count),
    p.prior,
    jax.tree.map(lambda leaf: jnp.tile(leaf, (size, *[1] * (leaf.ndim - 1))), stack(p.problems[job.task])),
    job.grid,
    chunk=p.config.batch_size,
    mesh=devices.mesh(p.config),
    progress=report,
    swept=True,
  )
  about = {"task": job.task, "method": job.name}
  return [
    {
      **about,
      "candidate": number,
      "fields": job.found[number].fields,
      "images": mark(p, job.task, got[place * count : (place + 1) * count]),
    }
    for place, number in enumerate(part)
  ]


def mark(p: Prepared, task: str, pictures: np.ndarray) -> list[dict[str, Any]]:
  """Return the marks of every restored picture, `[images, samples, h, w, c]`, or how it `failed`."""
  entries = []
  for problem, samples, case, truth in zip(p.problems[task], pictures, p.cases, p.truths, strict=True):
    if reason := marks.failure(samples):
      found = {"failed": reason}
    else:
      found = marks.marks(problem, samples, np.asarray(truth), antithetic=p.config.antithetic)
    entries.append({"image": case.name, **found})
  return entries


# What is best


def judge(config: Search, job: Job, run: runs.RunFolder) -> Outcome:
  """Return the marks of all candidates: the mean over pictures, NaN where one failed."""
  rows = [run.rows[job.task, job.name, number] for number in range(len(job.found))]
  of_pictures: list[list[Any]] = [
    [summary.picture_value(entry, config.criterion) for entry in row["images"]] for row in rows
  ]
  means = [float("nan") if None in values else float(np.mean(values)) for values in of_pictures]
  return outcome_of(config, job, means)


def outcome_of(config: Search, job: Job, means: list[float]) -> Outcome:
  """Return the outcome of the marks of all candidates."""
  return Outcome(job, means, metrics.mark(config.criterion).best(means))


def has_settings(job: Job) -> bool:
  """Tell whether a settings file can speak of a method and a task: it names those of the package."""
  return job.name in METHODS and job.task in TASKS


def tuned(table: dict[str, Any], outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
  """Return the settings with what was found laid over them, in an entry of its own for unusual steps.

  Such an entry begins as a copy of the usual one, whose values were the ones that the search did not vary. Own methods
  and tasks have no settings: what was found for them is in `outcomes` and under "about".
  """
  table = {name: dict(entry) for name, entry in table.items()}
  for outcome in outcomes:
    job = outcome.job
    if outcome.best is None or not has_settings(job):
      continue
    table.setdefault(job.name, {settings.STEPS: job.steps, settings.DEFAULT: {}})
    usual = settings.steps_for(table, job.name) == job.steps
    name = job.name if usual else settings.at_steps(job.name, job.steps)
    copied = {task: fields for task, fields in table[job.name].items() if task != settings.STEPS}
    entry = table.setdefault(name, {settings.DEFAULT: {}, **copied})
    entry[job.task] = {**entry.get(job.task, {}), **job.fixed, **outcome.fields}
  return {**table, settings.ABOUT: about}


def write(p: Prepared, outcomes: Sequence[Outcome], file: str | os.PathLike[str], plan_digest: str) -> dict[str, Any]:
  """Write the settings file, and return its contents."""
  about = {
    **identity.provenance(p.config, COMMAND, output=file),
    "plan": plan_digest,
    "images": [case.path for case in p.cases],
    "found": [describe(p.config, outcome) for outcome in outcomes],
  }
  written = tuned(p.table, outcomes, about)
  settings.write_settings(file, files.plain(written))
  return written


def describe(config: Search, outcome: Outcome) -> dict[str, Any]:
  """Return everything that was tried, with its mark."""
  tried = [
    {**candidate.fields, config.criterion: value}
    for candidate, value in zip(outcome.job.found, outcome.marks, strict=True)
  ]
  return {"task": outcome.job.task, "method": outcome.job.name, "tried": tried}
