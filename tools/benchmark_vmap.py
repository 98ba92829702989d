"""Hold `vmap` of a method of one image against the same step with its network called on a batch by hand.

usage: python tools/benchmark_vmap.py [--prior=photo] [--size=128] [--batch=4] [--rounds=10]

Each of the batch has a measurement, a noise and a hyper-parameter of its own, as images, samples and sweeps have. What
is printed of DPS and DiffPIR: floating-point operations and bytes as XLA counts them, temporary memory, and seconds in
turns, all as ratios of `vmap` to by hand, of which none is to be above 1.05; and how far apart the results are. The
counts do not depend on the machine; seconds do, so that a busy one says little.
"""

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns
from absl import app, flags

import diffinv
from diffinv import priors
from diffinv.methods import base, proximal
from diffinv.methods.diffpir import DiffPIR
from diffinv.methods.dps import DPS
from diffinv.noise import Gaussian
from diffinv.operators.pixels import inpainting
from diffinv.priors.base import network_input
from diffinv.problems import simulate
from diffinv.schedules import as_arrays

MOST = 1.05  # a ratio
NEAR = 1e-4  # relative; the sums of a batch are in another order

PRIOR = flags.DEFINE_string("prior", "photo", "A prior whose network takes batches, as those of `diffinv train` do.")
SIZE = flags.DEFINE_integer("size", 128, "Height and width of the pictures, pixels.", lower_bound=16)
BATCH = flags.DEFINE_integer("batch", 4, "Pictures at once.", lower_bound=2)
ROUNDS = flags.DEFINE_integer("rounds", 10, "Turns.", lower_bound=1)


def denoise(prior: priors.Prior, x_t: jax.Array, level: Any) -> priors.Denoised:
  """Return what `prior.denoise` does, of `x_t` `[b, h, w, c]`, from one call of the network."""
  scale, t = network_input(level, prior.prediction, prior.time_scale)
  output = prior.apply(prior.params, scale * x_t, jnp.broadcast_to(t, x_t.shape[:1]))
  x0 = priors.X0_FROM[prior.prediction](x_t, output, level)
  x0 = jnp.clip(x0, -1.0, 1.0) if prior.clip else x0
  return priors.Denoised(x0, priors.eps_from_x0(x_t, x0, level), 1.0 if prior.variance == "fixed_large" else 0.0)


def dps_by_hand(method, z, x_t, now, nxt, prior, problem):
  """Take a step of DPS, `[b, h, w, c]`; all but the levels and the prior have an axis of the batch."""

  def squared_norms(x_t):
    denoised = denoise(prior, x_t, now)
    norms = jax.vmap(lambda one, x0: one.misfit_of(one.operator(x0), method.misfit))(problem, denoised.x0)
    return jnp.sum(norms), (norms, denoised)

  (_, (norms, denoised)), grad = jax.value_and_grad(squared_norms, has_aux=True)(x_t)
  zeta = method.scale / (2.0 * jnp.sqrt(norms))
  return base.reverse_step(z, x_t, denoised, now, nxt) - zeta[:, None, None, None] * grad


def diffpir_by_hand(method, z, x_t, now, nxt, prior, problem):
  """Take a step of DiffPIR, `[b, h, w, c]`; all but the levels and the prior have an axis of the batch."""
  denoised = denoise(prior, x_t, now)
  rho = method.weight * (now.alpha / now.sigma) ** 2
  near = lambda one, x0, rho: proximal.proximal(one, x0, rho, iterations=method.iterations)
  x0 = jax.vmap(near)(problem, denoised.x0, rho)
  eps = priors.eps_from_x0(x_t, x0, now)
  zeta = method.zeta[:, None, None, None]
  return nxt.alpha * x0 + nxt.sigma * (jnp.sqrt(1.0 - zeta) * eps + jnp.sqrt(zeta) * z)


def mapped(method, z, x_t, now, nxt, prior, problem):
  """Take the same step by `vmap` of the method of one image."""
  one = lambda method, z, x_t, problem: method.update(z, x_t, now, nxt, prior, problem)[0]
  return jax.vmap(one)(method, z, x_t, problem)


def arguments(method: Any) -> tuple:
  """Return what a step takes, of a batch in which each has numbers of its own."""
  prior = diffinv.load_prior(PRIOR.value)
  shape, k1, k2, k3 = (SIZE.value, SIZE.value, 3), *jax.random.split(jax.random.key(0), 3)
  operator = inpainting(np.asarray(jax.random.uniform(k1, shape[:2]) < 0.5))
  given = lambda key: simulate(key, operator, Gaussian(jnp.float32(0.05)), jnp.zeros(shape))
  z, x_t = jax.random.normal(k3, (2, BATCH.value, *shape))
  grid = as_arrays(prior.schedule.grid("100"))
  now, nxt = (jax.tree.map(lambda v: v[i], grid) for i in (50, 51))
  several = jax.tree.map(lambda leaf: jnp.linspace(0.5, 1.0, BATCH.value) * leaf, method)
  return several, z, x_t, now, nxt, prior, jax.vmap(given)(jax.random.split(k2, BATCH.value))


def measure(method: Any, by_hand: Callable) -> dict[str, float]:
  """Return the ratios of `vmap` to by hand, and how far the results are apart."""
  args = arguments(method)
  compiled = [jax.jit(function).lower(*args).compile() for function in (mapped, by_hand)]
  one, other = (function(*args) for function in compiled)
  times = []
  for turn in range(ROUNDS.value):
    order = (0, 1) if turn % 2 else (1, 0)
    took = {i: turns.seconds(lambda i=i: jax.block_until_ready(compiled[i](*args))).wall for i in order}
    times.append(took[0] / took[1])
  costs = [function.cost_analysis() for function in compiled]
  memory = [function.memory_analysis().temp_size_in_bytes for function in compiled]
  return {
    "flops": costs[0]["flops"] / costs[1]["flops"],
    "bytes": costs[0]["bytes accessed"] / costs[1]["bytes accessed"],
    "memory": memory[0] / memory[1],
    "seconds": statistics.median(times),
    "error": float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other)),
  }


def main(argv: list[str]) -> None:
  """Print a line of JSON, and one for each count that is too high."""
  del argv
  found = {"dps": measure(DPS(), dps_by_hand), "diffpir": measure(DiffPIR(), diffpir_by_hand)}
  print(json.dumps(found))
  for name, ratios in found.items():
    for kind in ("flops", "bytes", "memory"):
      if ratios[kind] > MOST:
        print(f"{name}: expected at most {MOST} times the {kind} by hand, got {ratios[kind]:.3f}")
  if max(ratios["error"] for ratios in found.values()) > NEAR:
    sys.exit("expected the same results")


if __name__ == "__main__":
  app.run(main)
