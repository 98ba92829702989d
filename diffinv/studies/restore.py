"""Restore pictures with one method: real measurements of them, or simulated ones beside the truth."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffinv import batch, devices, files, progress
from diffinv.baselines import Baseline
from diffinv.launch import ALONE, Team
from diffinv.problems import Problem
from diffinv.studies import cases as casing
from diffinv.studies import chains, entrants, identity, marks, restored, runs, unfinished, unknown
from diffinv.studies.cases import Case
from diffinv.studies.found import Found
from diffinv.studies.jobs import Job, parts, plan
from diffinv.studies.restoration import Restoration
from diffinv.studies.restored import Restored
from diffinv.studies.study import check_batch_size
from diffinv.tasks import Task

COMMAND = "reconstruct"


# From Python: one measurement


def restore(y: Any, *, task: str | Task | Any, prior: Any = "photo", method: Any = None, **fields: Any) -> Restored:
  """Restore one measurement.

  Args:
    y: what was measured: an array as the task's operator returns it, in units of [-1, 1], or a file.
    task: a name of `diffinv.TASKS`, a `Task` or an operator.
    prior: a name, a folder or a prior.
    method: a name, with the settings that ship for the prior, or a method with its hyper-parameters; None for what
      `quality` ("balanced") and `aim` ("mean") choose.
    **fields: other fields of a `Restoration`: `quality`, `mask`, `blur`, `sigma`, `num_samples`, `seed`, `set`, ...

  Raises:
    UsageError: options do not fit together.
    ValueError: y, the mask or the kernel cannot be used, or the chain left the finite numbers.

  Example:
    >>> import diffinv, numpy as np
    >>> y = np.zeros((16, 16, 3), np.float32)  # or "photo.png"
    >>> restored = diffinv.restore(y, task="denoising", sigma=0.1, prior="natural")
    >>> restored.picture.shape, restored.samples.shape
    ((16, 16, 3), (1, 16, 16, 3))
  """
  own = not isinstance(y, (str, os.PathLike))
  config = Restoration(task=task, prior=prior, method=method, measurement=("y",) if own else (y,), **fields)
  job = plan(config, given_y=np.asarray(y, np.float32) if own else None)
  (case,) = job.cases
  problem, _ = job.load(case)
  with progress.Bar(1.0) as bar:
    got = run_chains(job, [case], [problem], bar.part(1.0, f"{job.name} {job.method.name}"))
  marks.require_finite(job.method.name, got.images)
  scores = marks.scores(problem, got.images[0], None)
  notes = restored.notes(job, case, problem, restored.mean_scores(problem, got.images[0], None) or scores[0])
  samples = job.in_srgb(case, unknown.inside(problem.operator, got.images[0]))
  spread = marks.spread(samples, antithetic=job.config.antithetic)
  return Restored(np.mean(samples, axis=0), samples, spread, scores, problem, tuple(notes))


# Chains


def run_chains(
  job: Job, cases: Sequence[Case], problems: Sequence[Problem], report: Any, keep: chains.Keep | None = None
) -> chains.Restored:
  """Restore pictures of one size."""
  if isinstance(job.method, Baseline):
    return chains.restore_once(job.method, problems, report)
  return chains.restore(
    [casing.chain_keys(job.config, case) for case in cases],
    job.method,
    job.prior,
    problems,
    job.grid,
    chunk=job.config.chains_at_once,
    mesh=devices.mesh(job.config),
    progress=report,
    keep=keep,
  )


# The folder


def restore_all(
  config: Restoration,
  folder: str | os.PathLike[str],
  *,
  overwrite: bool = False,
  restart: bool = False,
  team: Team = ALONE,
) -> dict[str, Any]:
  """Restore every picture of a restoration and write a folder of pictures, or go on where that was stopped.

  Args:
    config: what to restore, and how.
    folder: to write; FOLDER.running holds the pictures that are finished until all are. One that holds the finished
      restoration already is read.
    overwrite: replace an existing folder, at the end.
    restart: throw away what FOLDER.running holds.
    team: processes that share the work (`diffinv.launch`), each of which makes this call.

  Returns:
    the contents of its results.json; in other processes than the first, as far as they know them.

  Raises:
    UsageError, ValueError: see `plan`; or every chain left the finite numbers.
    FileExistsError: the folder may not be written.
  """
  check_batch_size(config, team.count)
  path = pathlib.Path(os.path.expanduser(folder))
  casing.check_apart(config, path)
  runs.check_free(path, runs.RESTORATION, overwrite=overwrite)
  kept = Found(path, restart=restart) if team.index == 0 else Found()
  with kept.unless_it_fails():
    job = plan(config, kept=kept)
    work = lambda run, team: _work(run, job, kept, team)
    about = describe(job, path)
    return runs.carry_out(path, about, runs.RESTORATION, work, overwrite=overwrite, restart=restart, team=team)


def _work(run: runs.RunFolder, job: Job, kept: Found, team: Team) -> dict[str, Any]:
  """Do what is missing in a folder that is held, or a share of it; return the contents of results.json."""
  if team.index == 0:
    kept.write(run)
  run_all(run, job, team)
  entries = [run.rows[(case.name,)] for case in job.cases if (case.name,) in run.rows]
  if team.count == 1 and len(restored.failures(entries)) == len(entries):
    run.discard()
    raise ValueError(f"{job.method.name}: expected finite pictures, got {entries[0]['failed']}")
  return restored.contents(run.plan, entries)


def describe(job: Job, folder: pathlib.Path) -> dict[str, Any]:
  """Return the contents of run.json: what is restored, and how."""
  spent = entrants.spent(job.method, job.grid)
  known = {"mask": job.config.given.mask, "kernel": job.config.given.kernel}
  return {
    **identity.provenance(job.config, COMMAND, output=folder),
    **identity.objects(job.config),
    "prior": identity.describe_prior(job.config, job.prior),
    "task": job.name,
    "noise": unknown.describe(job.known),
    "method": entrants.describe_method(job.method),
    **({"preset": job.config.named_method[0]} if job.config.method is None else {}),
    "steps": len(job.grid.alpha) - 1,
    "network_evaluations": spent.evaluations,  # of each sample
    "network_gradients": spent.gradients,
    "given": {name: _digest(value) for name, value in known.items() if value is not None},
    "pictures": [
      {"name": case.name, "source": case.path, "shape": case.shape, "sha256": job.read.digests[case.path]}
      for case in job.cases
    ],
  }


def _digest(value: Any) -> str:
  return identity.digest(value) if isinstance(value, np.ndarray) else files.digest(value)


def run_all(run: runs.RunFolder, job: Job, team: Team = ALONE) -> None:
  """Restore the pictures that have no row yet, or a team's share of them."""
  cut = parts(job.cases, job.config.num_samples, job.config.chains_at_once, job.layouts)
  wanted = team.share([(part, count) for part, count in cut if run.missing([(case.name,) for case in part])])
  with progress.Bar(sum(math.prod(case.shape) for part, _ in wanted for case in part) or 1.0) as bar:
    for part, count in wanted:
      run.append(_restore_part(run, job, part, count, bar))
      run.drop_unfinished()


def _restore_part(
  run: runs.RunFolder, job: Job, part: Sequence[Case], count: int, bar: progress.Bar
) -> list[tuple[runs.Row, list[str]]]:
  """Restore some pictures of one size, filled up to `count`; return their rows and the names of their files."""
  loaded = [job.load(case) for case in part]
  chosen = chains.filled(range(len(part)), count)
  report = bar.part(sum(math.prod(case.shape) for case in part), f"{job.name} {job.method.name}")
  keep = _kept(run, job, part, [problem for problem, _ in loaded], count)
  got = run_chains(job, [part[i] for i in chosen], [loaded[i][0] for i in chosen], report, keep)
  rows = []
  for case, (problem, truth), pictures in zip(part, loaded, got.images[: len(part)], strict=True):
    names: list[str] = []
    if failure := marks.failure(pictures):
      entry = {"name": case.name, "source": case.path, "shape": case.shape, "failed": failure}
    else:
      entry, names = restored.write_case(run, job, case, problem, pictures, truth)
    rows.append(({**entry, **got.spent(len(part))}, names))
  return rows


def _kept(
  run: runs.RunFolder, job: Job, part: Sequence[Case], problems: Sequence[Problem], count: int
) -> chains.Keep | None:
  """Return what keeps the chains of some pictures, filled up to `count`; None without chains."""
  if isinstance(job.method, Baseline):
    return None
  names, samples, mesh = [case.name for case in part], job.config.num_samples, devices.mesh(job.config)
  chunk = batch.chunk_size(count * samples, job.config.chains_at_once, batch.spread_over(mesh))
  about = [names, count, samples, chunk, [identity.fingerprint(problem) for problem in problems]]
  shown = lambda image, picture: unknown.inside(problems[image].operator, picture[None])[0]
  return unfinished.Unfinished(run, names, count * samples, samples, about, shown=shown)
