"""Milliseconds of a DPS step within a chain, of one image and of several at once."""

import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffinv import batch, devices, sampler
from diffinv.methods.dps import DPS
from diffinv.noise import Gaussian
from diffinv.problems import simulate, stack
from diffinv.schedules import as_arrays
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import MANY, Subject
from diffinv.tasks import TASKS

TASK = "inpaint_random"


def measure(subject: Subject) -> Measured:
  """Time a step for one image and for MANY."""
  rows: list[list[Any]] = []
  found = {}
  for count in (1, MANY):
    wall, processors, compiling = step_times(subject, count)
    found[str(count)] = {"milliseconds": wall, "processor_milliseconds": processors, "compile_seconds": compiling}
    rows.append([f"{count}", statistics.median(wall), min(wall), statistics.median(processors), compiling])
  ratio = rows[1][1] / rows[0][1]
  used = subject.config.devices or 1
  spread = f", spread over {used} devices," if used > 1 else ""
  title = (
    f"A step of DPS at {subject.shape[1]}x{subject.shape[0]}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}; "
    f"batch {MANY}{spread} takes {ratio:.2f} times batch 1 (aim: 60 ms, 5 times)"
  )
  columns = ["batch", "median, ms", "fastest, ms", "all cores' own time, ms", "compilation, s"]
  return Measured({**found, "ratio": ratio, "load": os.getloadavg()}, [Table(title, columns, rows, [1, 1, 1, 1])])


def step_times(subject: Subject, count: int) -> tuple[list[float], list[float], float]:
  """Return the milliseconds a step of each timed chain, those of all cores together, and the seconds to compile it."""
  steps, args = subject.config.timed_steps, _arguments(subject, count)
  begin = time.perf_counter()
  compiled = jax.jit(_chains).lower(*args).compile()
  compiling = time.perf_counter() - begin
  jax.block_until_ready(compiled(*args))
  wall, processors = [], []
  for _ in range(subject.config.rounds):
    begin, begin_processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(compiled(*args))
    wall.append(1e3 * (time.perf_counter() - begin) / steps)
    processors.append(1e3 * (time.process_time() - begin_processors) / steps)
  return wall, processors, compiling


def _arguments(subject: Subject, count: int) -> list:
  """Return the arguments of `_chains`, spread over the devices where their number divides the images."""
  task = TASKS[TASK]
  k1, k2 = jax.random.split(jax.random.key(subject.config.seed))
  problem = simulate(k2, task.make(k1, subject.shape), Gaussian(task.sigma), jnp.zeros(subject.shape))
  keys = jax.random.split(jax.random.key(0), count)
  grid = as_arrays(subject.prior.schedule.grid(str(subject.config.timed_steps)))
  args = [keys, DPS(), subject.prior, stack([problem] * count), grid]
  mesh = devices.batch_mesh(subject.config.devices or 1)
  if count % mesh.size:
    return args
  split, whole = NamedSharding(mesh, P(batch.AXIS)), NamedSharding(mesh, P())
  places = (split, whole, whole, split, whole)
  return [jax.device_put(part, place) for part, place in zip(args, places, strict=True)]


def _chains(keys, method, prior, problems, grid):
  return jax.vmap(lambda key, problem: sampler.sample(key, method, prior, problem, grid)[0])(keys, problems)
