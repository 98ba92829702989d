"""Time one DPS step of the FFHQ network against a plain convolution, on this machine.

usage: python tools/benchmark_step.py [--size=256] [--dtype=float32] [--rounds=5] [--small]

The yardstick is one 3x3 convolution of 128 channels at the same size: what XLA makes of the operation that a step
mostly consists of. A step's share is its rate of floating-point operations over the yardstick's, both counted by XLA.
Step, network and yardstick take turns, and medians over the turns are printed, for the machine may be noisy. What a
step spends outside the network, a few per cent at most, is a difference that such noise swamps: it is told from the
fastest turns, and from the processors' own time. Compilation is timed in processes of its own: with an empty
persistent cache, then with the cache that the first one filled.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from diffinv.methods.dps import DPS
from diffinv.nets import guided_diffusion, unet
from diffinv.noise import Gaussian
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.problems import simulate
from diffinv.schedules import Schedule, as_arrays
from diffinv.tasks import TASKS

TARGETS = {"share": 0.75, "outside": 0.03, "memory_gb": 4.0, "compile_s": 30.0, "cached_compile_s": 5.0}
YARDSTICK_CHANNELS = 128
YARDSTICK_CALLS = 4  # a turn; one is short beside a step

SIZE = flags.DEFINE_integer("size", 256, "Height and width of the image, pixels.", lower_bound=32)
DTYPE = flags.DEFINE_enum("dtype", "float32", list(unet.DTYPES), "Of the network's activations.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of step, network and yardstick.", lower_bound=1)
SMALL = flags.DEFINE_boolean("small", False, "A network of 32 channels and 3 levels: a quick check of this tool.")
TASK = flags.DEFINE_enum("task", "inpaint_random", list(TASKS), "What is measured.")
COMPILE_ONLY = flags.DEFINE_boolean("compile_only", False, "Print the seconds that the step takes to compile, and end.")


def network_config() -> unet.UNetConfig:
  """Return the network that the flags ask for."""
  if SMALL.value:
    return unet.make_config(
      model_channels=32,
      channel_mult=(1, 2, 2),
      num_res_blocks=1,
      attention_levels=(2,),
      num_head_channels=32,
      dtype=DTYPE.value,
    )
  return unet.make_config(**{**vars(guided_diffusion.PRESETS["ffhq256"]), "dtype": DTYPE.value})


def random_params(config: unet.UNetConfig) -> dict:
  """Return random weights whose products are of order 1; zeros would be skipped by some processors."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    scale = np.float32(1.0 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))))
    return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * scale)

  return jax.tree.map(draw, checkpoint.param_shapes(config))


def build() -> tuple[jax.stages.Lowered, tuple, jax.stages.Lowered, tuple]:
  """Return the lowered step and its arguments, the lowered network alone (value and gradient) and its arguments."""
  config = network_config()
  shape = (SIZE.value, SIZE.value, 3)
  prior = Prior(
    params=random_params(config),
    apply=unet.apply_function(config),
    schedule=Schedule("linear", 1000),
    variance="learned_range",
  )
  k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
  task = TASKS[TASK.value]
  problem = simulate(k2, task.make(k1, shape), Gaussian(task.sigma), jnp.zeros(shape))
  grid = as_arrays(prior.schedule.grid("100"))
  now, nxt = (jax.tree.map(lambda v: v[i], grid) for i in (50, 51))
  method = DPS()
  state = method.init(k3, prior, problem, now)

  def step(key, state, now, nxt, prior, problem):
    return method.step(key, state, now, nxt, prior, problem)

  def network(params, x, t):
    def loss(x):
      output = prior.apply(params, x, t)
      return jnp.sum(output[..., :3] ** 2), output

    return jax.value_and_grad(loss, has_aux=True)(x)

  step_args = (k3, state, now, nxt, prior, problem)
  network_args = (prior.params, state.x, now.t)
  return jax.jit(step).lower(*step_args), step_args, jax.jit(network).lower(*network_args), network_args


def yardstick() -> tuple[jax.stages.Lowered, tuple]:
  """Return the lowered convolution and its arguments."""
  rng = np.random.default_rng(1)
  dtype = unet.DTYPES[DTYPE.value]
  x = jnp.asarray(rng.standard_normal((SIZE.value, SIZE.value, YARDSTICK_CHANNELS)), dtype)
  kernel = jnp.asarray(rng.standard_normal((3, 3, YARDSTICK_CHANNELS, YARDSTICK_CHANNELS)), dtype)
  return jax.jit(unet.convolve).lower(x, kernel), (x, kernel)


class Seconds(NamedTuple):
  """What a call takes."""

  wall: float
  cpu: float  # over all cores


def seconds(function, args, calls: int = 1) -> Seconds:
  """Return the time of a call, its result waited for."""
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(calls):
    jax.block_until_ready(function(*args))
  return Seconds((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def compile_seconds() -> tuple[float, float]:
  """Return how long the step takes to compile in a new process, without and with a persistent cache."""
  command = [sys.executable, *sys.argv, "--compile_only"]
  with tempfile.TemporaryDirectory() as cache:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    runs = [subprocess.run(command, env=environment, check=True, capture_output=True, text=True) for _ in range(2)]
  return tuple(float(run.stdout.split()[-1]) for run in runs)


def measure() -> dict[str, float]:
  """Return the medians over the turns."""
  first, again = compile_seconds()
  lowered_step, step_args, lowered_network, network_args = build()
  lowered_yardstick, yardstick_args = yardstick()
  step, network, convolution = (low.compile() for low in (lowered_step, lowered_network, lowered_yardstick))
  for function, args in ((step, step_args), (network, network_args), (convolution, yardstick_args)):
    jax.block_until_ready(function(*args))
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  flops, yard_flops = (function.cost_analysis()["flops"] for function in (step, convolution))
  turns = []
  for turn in range(ROUNDS.value):
    before = seconds(convolution, yardstick_args, YARDSTICK_CALLS)
    jobs = {"whole": (step, step_args), "alone": (network, network_args)}
    order = sorted(jobs, reverse=turn % 2 == 0)  # a machine that slows down favors whoever goes first
    times = {name: seconds(*jobs[name]) for name in order}
    after = seconds(convolution, yardstick_args, YARDSTICK_CALLS)
    turns.append({**times, "yard": (before.wall + after.wall) / 2})
  yard = statistics.median(turn["yard"] for turn in turns)
  return {
    "step_s": statistics.median(turn["whole"].wall for turn in turns),
    "network_s": statistics.median(turn["alone"].wall for turn in turns),
    "yardstick_s": yard,
    "step_gflop": flops / 1e9,
    "yardstick_gflop_per_s": yard_flops / 1e9 / yard,
    "share": statistics.median((flops / turn["whole"].wall) / (yard_flops / turn["yard"]) for turn in turns),
    "outside": 1.0 - min(turn["alone"].wall for turn in turns) / min(turn["whole"].wall for turn in turns),
    "outside_cpu": 1.0 - statistics.median(turn["alone"].cpu / turn["whole"].cpu for turn in turns),
    "memory_gb": memory,
    "compile_s": first,
    "cached_compile_s": again,
  }


def main(argv: list[str]) -> None:
  """Measure, and print beside the targets."""
  del argv
  if COMPILE_ONLY.value:
    lowered, *_ = build()
    begin = time.perf_counter()
    lowered.compile()
    print(time.perf_counter() - begin)
    return
  result = measure()
  for name, value in result.items():
    target = TARGETS.get(name)
    if target is None:
      verdict = ""
    else:
      met = value >= target if name == "share" else value <= target
      verdict = f"   target {'>=' if name == 'share' else '<='} {target:g}: {'met' if met else 'MISSED'}"
    print(f"{name:>22} {value:10.4g}{verdict}")
  settings = {name: flags.FLAGS[name].value for name in ("size", "dtype", "rounds", "small", "task")}
  print(json.dumps({"cores": os.cpu_count(), "jax": jax.__version__, **settings, **result}))


if __name__ == "__main__":
  app.run(main)
