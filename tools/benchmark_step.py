"""Time one DPS step of the FFHQ network against a plain convolution, on this machine.

usage: python tools/benchmark_step.py [--size=256] [--dtype=float32] [--rounds=5] [--small]
       python tools/benchmark_step.py --against=torch|torch.compile [--python=FILE] [--batch=1] [--rounds=10]
       python tools/benchmark_step.py --profile

The yardstick is one 3x3 convolution of 128 channels at the same size: what XLA makes of the operation that a step
mostly consists of. A step's share is its rate of floating-point operations over the yardstick's, both counted by XLA.
Step, network and yardstick take turns, and medians over the turns are printed, for the machine may be noisy. What a
step spends outside the network, a few per cent at most, is a difference that such noise swamps: it is told from the
fastest turns, and from the processors' own time. Compilation is timed in processes of its own: with an empty
persistent cache, then with the cache that the first one filled.

Against PyTorch, a forward pass and a step of the same network with the same weights are timed in two processes that
take turns, and the ratio of the medians is printed, with the least and the greatest of a round; and by how much the
output and the gradient differ. `--python` names the interpreter of an environment with PyTorch and deepinv.

A profile is a table of the kinds of operations of a step and their share of the time of the threads that start them.
"""

import contextlib
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import turns
from absl import app, flags

from diffinv.methods.dps import DPS
from diffinv.nets import guided_diffusion, unet
from diffinv.noise import Gaussian
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.problems import simulate
from diffinv.schedules import Schedule, as_arrays
from diffinv.tasks import TASKS

TARGETS = {
  "forward_ratio": 1.05,
  "step_ratio": 1.0,
  "forward_error": 1e-5,
  "gradient_error": 1e-5,
  "share": 0.75,
  "outside": 0.03,
  "memory_gb": 2.5,
  "compile_s": 30.0,
  "cached_compile_s": 5.0,
}
YARDSTICK_CHANNELS = 128
YARDSTICK_CALLS = 4  # a turn; one is short beside a step

SIZE = flags.DEFINE_integer("size", 256, "Height and width of the image, pixels.", lower_bound=32)
DTYPE = flags.DEFINE_enum("dtype", "float32", list(unet.DTYPES), "Of the network's activations.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of step, network and yardstick.", lower_bound=1)
SMALL = flags.DEFINE_boolean("small", False, "A network of 32 channels and 3 levels: a quick check of this tool.")
TASK = flags.DEFINE_enum("task", "inpaint_random", list(TASKS), "What is measured.")
BATCH = flags.DEFINE_integer("batch", 1, "Pictures at once, of a comparison.", lower_bound=1)
AGAINST = flags.DEFINE_enum("against", None, ["torch", "torch.compile"], "What takes turns with this library.")
PYTHON = flags.DEFINE_string("python", sys.executable, "Interpreter that has PyTorch and deepinv.")
TURNS = flags.DEFINE_string("turns", None, "Take turns as the other process says; exchange arrays in this folder.")
PROFILE = flags.DEFINE_boolean("profile", False, "Print where the time of a step goes, and end.")
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


def build(batch: int = 1) -> tuple[jax.stages.Lowered, tuple, jax.stages.Lowered, tuple]:
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
  if batch > 1:
    step = jax.vmap(step, in_axes=(0, 0, None, None, None, 0))
    several = lambda tree: jax.tree.map(lambda v: jnp.broadcast_to(v, (batch, *jnp.shape(v))), tree)
    step_args = (jax.random.split(k3, batch), several(state), now, nxt, prior, several(problem))
  return jax.jit(step).lower(*step_args), step_args, jax.jit(network).lower(*network_args), network_args


def yardstick() -> tuple[jax.stages.Lowered, tuple]:
  """Return the lowered convolution and its arguments."""
  rng = np.random.default_rng(1)
  dtype = unet.DTYPES[DTYPE.value]
  x = jnp.asarray(rng.standard_normal((SIZE.value, SIZE.value, YARDSTICK_CHANNELS)), dtype)
  kernel = jnp.asarray(rng.standard_normal((3, 3, YARDSTICK_CHANNELS, YARDSTICK_CHANNELS)), dtype)
  return jax.jit(unet.convolve).lower(x, kernel), (x, kernel)


def seconds(function, args, calls: int = 1) -> turns.Seconds:
  """Return the time of a call, its result waited for."""
  return turns.seconds(lambda: jax.block_until_ready(function(*args)), calls)


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
  rounds = []
  for turn in range(ROUNDS.value):
    before = seconds(convolution, yardstick_args, YARDSTICK_CALLS)
    jobs = {"whole": (step, step_args), "alone": (network, network_args)}
    order = sorted(jobs, reverse=turn % 2 == 0)  # a machine that slows down favors whoever goes first
    times = {name: seconds(*jobs[name]) for name in order}
    after = seconds(convolution, yardstick_args, YARDSTICK_CALLS)
    rounds.append({**times, "yard": (before.wall + after.wall) / 2})
  yard = statistics.median(each["yard"] for each in rounds)
  return {
    "step_s": statistics.median(each["whole"].wall for each in rounds),
    "network_s": statistics.median(each["alone"].wall for each in rounds),
    "yardstick_s": yard,
    "step_gflop": flops / 1e9,
    "yardstick_gflop_per_s": yard_flops / 1e9 / yard,
    "share": statistics.median((flops / each["whole"].wall) / (yard_flops / each["yard"]) for each in rounds),
    "outside": 1.0 - min(each["alone"].wall for each in rounds) / min(each["whole"].wall for each in rounds),
    "outside_cpu": 1.0 - statistics.median(each["alone"].cpu / each["whole"].cpu for each in rounds),
    "memory_gb": memory,
    "compile_s": first,
    "cached_compile_s": again,
  }


def take_turns(folder: str) -> None:
  """Write what the reference takes, the answers to it, and then do what is asked for."""
  lowered_step, step_args, _, (params, x, t) = build(BATCH.value)
  apply = unet.apply_function(network_config())
  channels_first = lambda v: np.asarray(v, np.float32).transpose(2, 0, 1)[None]
  names = {path: source for path, source in guided_diffusion.sources(network_config()).items()}
  flat = flax.traverse_util.flatten_dict(params)
  np.savez(f"{folder}/weights.npz", **{s.name: _theirs(path, flat[path], s.shape) for path, s in names.items()})
  rng = np.random.default_rng(2)
  fields = {name: rng.standard_normal(x.shape, np.float32) for name in ("x", "y", "noise")}
  fields["mask"] = np.broadcast_to(rng.random((*x.shape[:2], 1)) < 0.3, x.shape)
  np.savez(f"{folder}/given.npz", t=np.float32([t]), **{name: channels_first(v) for name, v in fields.items()})
  xs = jnp.broadcast_to(x, (BATCH.value, *x.shape))
  forward, step = jax.jit(apply), lowered_step.compile()
  forwards = jax.jit(lambda params, xs, t: jax.vmap(lambda x: apply(params, x, t))(xs))
  loss = lambda params, x, t: jnp.sum(apply(params, x, t)[..., :3] ** 2)
  answer = (params, jnp.asarray(fields["x"]), t)
  both = {"forward": forward(*answer), "gradient": jax.jit(jax.grad(loss, 1))(*answer)}
  np.savez(f"{folder}/ours.npz", **{name: channels_first(value) for name, value in both.items()})
  jobs = {"forward": (forwards, (params, xs, t)), "step": (step, step_args)}
  wait = lambda job: lambda: jax.block_until_ready(job[0](*job[1]))
  about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
  turns.serve({name: wait(job) for name, job in jobs.items()}, about, peak)


def peak() -> float:
  """Return the most memory in use, bytes: of the device, or of this process."""
  stats = jax.devices()[0].memory_stats() or {}
  return float(stats.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def _theirs(path, value, shape) -> np.ndarray:
  """Return a parameter as PyTorch has it."""
  value = np.asarray(value)
  if path[-1] != "kernel":
    return value
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T.reshape(shape)


def against_torch() -> dict[str, float]:
  """Return the ratios of the times, ours over PyTorch's, and the relative errors of our answers."""
  here = os.path.dirname(os.path.abspath(__file__))
  with tempfile.TemporaryDirectory() as folder:
    ours = turns.Worker([sys.executable, *sys.argv, f"--turns={folder}"], os.environ)
    command = [
      PYTHON.value,
      f"{here}/benchmark_torch.py",
      json.dumps([folder, DTYPE.value, BATCH.value, AGAINST.value == "torch.compile"]),
    ]
    theirs = turns.Worker(command, {**os.environ, "PYTHONPATH": here})
    answers, expected = np.load(f"{folder}/ours.npz"), np.load(f"{folder}/answers.npz")
    norm = np.linalg.norm
    result = {f"{k}_error": norm(answers[k] - expected[k]) / norm(expected[k]) for k in ("forward", "gradient")}
    print(f"ours: {ours.about}; theirs: {theirs.about}; {processor()}", flush=True)
    found = turns.rounds({"ours": ours, "torch": theirs}, ("forward", "step"), ROUNDS.value)
    result |= {"memory_gb": ours.peak() / 1e9, "memory_torch_gb": theirs.peak() / 1e9}
    ours.end()
    theirs.end()
  for job in ("forward", "step"):
    a, b = found["ours", job], found["torch", job]
    result |= {f"{job}_s": statistics.median(v.wall for v in a), f"{job}_torch_s": statistics.median(v.wall for v in b)}
    result |= dict(zip((f"{job}_ratio", f"{job}_least", f"{job}_most"), turns.ratio(a, b), strict=True))
  return {name: float(value) for name, value in result.items()}


# Kinds of operations of XLA's CPU code, by what their names contain; the first that fits.
KINDS = {
  "convolutions and products": r"ynn_fusion|convolution|dot|eigen_fusion",
  "kernels turned": r"transpose",
  "joined and cut": r"concatenate|slice|pad",
  "sums over pixels": r"reduce",
  "elementwise": r"fusion|broadcast|add|multiply|exponential|copy",
}


def profile() -> None:
  """Print the share of each kind of operation in a step."""
  lowered, args, *_ = build()
  step = lowered.compile()
  jax.block_until_ready(step(*args))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(step(*args))
    found = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))[-1]
    spent = _spent(jax.profiler.ProfileData.from_file(str(found)))
  total = sum(spent.values())
  print("| operations | share |\n|---|---:|")
  for kind, time_ in sorted(spent.items(), key=lambda pair: -pair[1]):
    print(f"| {kind} | {time_ / total:.0%} |")
  print(f"\n{total / 1e9:.2f} s; {processor()}")


def _spent(data) -> dict[str, float]:
  """Return the nanoseconds of each kind, over all threads of XLA."""
  spent: dict[str, float] = {}
  for line in (line for plane in data.planes for line in plane.lines if "XLA" in line.name):
    for event in line.events:
      kind = next((kind for kind, names in KINDS.items() if re.search(names, event.name)), None)
      if kind is not None and not event.name.startswith("end:"):
        spent[kind] = spent.get(kind, 0.0) + event.duration_ns
  return spent


def processor() -> str:
  """Return the name of the processor and how many cores this process may use."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return f"{line.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores"
  return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main(argv: list[str]) -> None:
  """Measure, and print beside the targets."""
  del argv
  if TURNS.value is not None:
    take_turns(TURNS.value)
    return
  if COMPILE_ONLY.value:
    lowered, *_ = build()
    begin = time.perf_counter()
    lowered.compile()
    print(time.perf_counter() - begin)
    return
  if PROFILE.value:
    profile()
    return
  result = measure() if AGAINST.value is None else against_torch()
  for name, value in result.items():
    target = TARGETS.get(name)
    if target is None:
      verdict = ""
    else:
      met = value >= target if name == "share" else value <= target
      verdict = f"   target {'>=' if name == 'share' else '<='} {target:g}: {'met' if met else 'MISSED'}"
    print(f"{name:>22} {value:10.4g}{verdict}")
  settings = {
    name: flags.FLAGS[name].value for name in ("size", "dtype", "rounds", "small", "task", "batch", "against")
  }
  print(json.dumps({"cores": os.cpu_count(), "jax": jax.__version__, **settings, **result}))


if __name__ == "__main__":
  app.run(main)
