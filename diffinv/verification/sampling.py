"""Many chains of small problems, compiled once for all values of a method's hyper-parameters."""

import functools

import jax

from diffinv import sampler
from diffinv.methods.base import Method
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level

# Chains of small matrices take longer to compile than to run, and the compiler's best efforts do not make them faster.
COMPILER = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}


@functools.partial(jax.jit, compiler_options=COMPILER)
def chains(keys: jax.Array, ys: jax.Array, method: Method, prior: AnyPrior, problem: Problem, grid: Level) -> jax.Array:
  """Return the results of independent chains, `[chains, d]`, each with its own measurement, `[chains, m]`."""

  def one(key, y):
    return sampler.sample(key, method, prior, Problem(problem.operator, problem.noise, y), grid)[0]

  return jax.vmap(one)(keys, ys)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILER)
def mixture_chains(samples, keys, methods, prior, problem, grid):
  """Return samples of many problems, `[problems, samples, d]`, each with its own method, prior and levels."""

  def one(key, method, prior, problem, grid):
    keys = jax.random.split(key, samples)
    return jax.vmap(lambda key: sampler.sample(key, method, prior, problem, grid)[0])(keys)

  return jax.vmap(one)(keys, methods, prior, problem, grid)
