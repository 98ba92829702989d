"""What holds of every method under the sampler: METHODS that inpaint, with the examples that the classes declare.

Values are held in `test_methods_exact.py`.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, priors, problems, sampler, schedules
from diffinv.methods import DPS, METHODS
from diffinv.priors import Prior
from diffinv.schedules import Schedule

SHAPE = (6, 8, 3)
SIGMA_Y = 0.05
LINEAR = Schedule("linear", 1000)
GRID = LINEAR.grid("50")  # one for all tests: they share compilations
SHORT = LINEAR.grid("3")  # but for the eager one
COUNTED = LINEAR.grid("5")  # and those that count calls: all of a solve's iterations are taken
SEEDS = 16

INPAINTING = {name: method for name, method in METHODS.items() if not method.identity_only}  # the others: test_mmse.py
DEFAULTS = {name: method(**method.examples.get("default", {})) for name, method in INPAINTING.items()}
EXAMPLES = {
  f"{name}_{label}": method(**fields)
  for name, method in INPAINTING.items()
  for label, fields in method.examples.items()
  if label != "default"
}
ALL = DEFAULTS | EXAMPLES
QUICK = ("sdedit", "dps")  # in the fast run, beside the first test, which is of every method


def table(names, quick=QUICK):
  return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


every_method = pytest.mark.parametrize("name", table(ALL))


@functools.cache
def smooth():
  """Return the mean and covariance of smooth images: correlation exp(-distance / 4 pixels), channels alike."""
  y, x = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
  place = np.stack([y.ravel(), x.ravel()], axis=1)
  distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
  covariance = np.kron(0.1 * np.exp(-distance / 4), np.full((3, 3), 0.9) + 0.1 * np.eye(3))
  return np.full(len(covariance), 0.4), covariance


@functools.cache
def make_prior():
  return priors.gaussian(*smooth(), LINEAR)


@functools.cache
def make_problem(seed=1, sigma=SIGMA_Y):
  """Return a truth drawn from the prior and its measurement, half of the pixels missing."""
  mean, covariance = smooth()
  root = np.linalg.cholesky(covariance)
  truth = mean + root @ np.random.default_rng(seed).standard_normal(len(mean))
  truth = jnp.asarray(truth.reshape(SHAPE), jnp.float32)
  k1, k2 = jax.random.split(jax.random.key(seed))
  operator = operators.random_mask(k1, SHAPE, missing=0.5)
  return truth, problems.simulate(k2, operator, noise.Gaussian(jnp.float32(sigma)), truth)


def run(seed, method, problem, prior=None, grid=GRID):
  return sampler.sample(jax.random.key(seed), method, make_prior() if prior is None else prior, problem, grid)


# Compiled once for every test that takes a chain apart.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
start_of, advance = quickly(sampler.start), quickly(sampler.advance)


def assert_same(got, want):
  # Sums of float32 in another order, magnified by the chain; relative to the largest value.
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", table(ALL, quick=DEFAULTS))
def test_result_is_finite_and_improves_on_the_start(name):
  method, (truth, problem) = ALL[name], make_problem()
  grid = schedules.as_arrays(GRID)
  x, info = run(0, method, problem)
  assert x.shape == SHAPE and x.dtype == jnp.float32
  steps = method.levels(grid).alpha.shape[0] - 1
  assert all(values.shape == (steps,) for values in info.values())
  for values in (x, *info.values()):
    assert np.all(np.isfinite(values))
  # Single samples are as far again from the truth as their mean is. SDEdit's start is already a guide, not noise, and
  # DPIR's a restoration: that is held against what was measured.
  start = start_of(jax.random.key(0), method, make_prior(), problem, grid).x if name != "dpir" else problem.y
  mean = np.mean([run(seed, method, problem)[0] for seed in range(SEEDS)], axis=0)
  error, start_error = (float(np.mean((v - truth) ** 2)) for v in (mean, start))
  assert error < 0.5 * start_error, (error, start_error)


@pytest.mark.slow
@every_method
def test_compiled_equals_eager(name):
  method, (_, problem) = ALL[name], make_problem()
  want, want_info = run(0, method, problem, grid=SHORT)
  with jax.disable_jit():
    got, info = run(0, method, problem, grid=SHORT)
  assert_same(got, want)
  assert info.keys() == want_info.keys()
  for entry in info:
    assert_same(info[entry], want_info[entry])


@every_method
@pytest.mark.slow
def test_batched_equals_one_at_a_time_whatever_the_company(name):
  method, prior = ALL[name], make_prior()
  batch = [make_problem(seed)[1] for seed in (1, 2, 3)]
  # Company of another scale: a norm over the batch would change its neighbors.
  batch[2] = dataclasses.replace(batch[2], y=10.0 * batch[2].y)
  keys = jax.random.split(jax.random.key(5), 3)
  over = jax.vmap(lambda key, problem: sampler.sample(key, method, prior, problem, GRID))
  got, info = over(keys, problems.stack(batch))
  for i, problem in enumerate(batch):
    want, want_info = sampler.sample(keys[i], method, prior, problem, GRID)
    assert_same(got[i], want)
    for entry in want_info:
      assert_same(info[entry][i], want_info[entry])


@every_method
def test_same_seed_gives_the_same_bits_and_another_seed_another_sample(name):
  method, (_, problem) = ALL[name], make_problem()
  first, second, other = (run(seed, method, problem)[0] for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, second)
  assert np.mean(np.abs(first - other)) > 0.01


TRACES, CALLS = [], {"evaluations": 0, "gradients": 0}


def called(kind):
  CALLS[kind] += 1


@jax.custom_vjp
def counted(x):
  jax.debug.callback(called, "evaluations")
  return jnp.tanh(x)


def counted_forward(x):
  jax.debug.callback(called, "evaluations")
  return jnp.tanh(x), x


def counted_backward(x, cotangent):
  jax.debug.callback(called, "gradients")
  return (cotangent * (1.0 - jnp.tanh(x) ** 2),)


counted.defvjp(counted_forward, counted_backward)


def counting_network(params, x, t):
  TRACES.append(1)
  return counted(params["gain"] * x)


def sample_network(seed, method, gain=1.0, problem_seed=1):
  prior = Prior({"gain": jnp.float32(gain)}, counting_network, LINEAR)
  problem = make_problem(problem_seed, 1e-3)[1]  # little noise: no solve ends before its iterations
  x, _ = run(seed, method, problem, prior, COUNTED)
  x.block_until_ready()
  jax.effects_barrier()
  return np.asarray(x)


class Sweep(NamedTuple):
  """What running a method at several values of everything that is data has shown."""

  calls: dict[str, int]  # of the network, in one chain
  compilations: int  # beyond the first
  effective: set[str]  # hyper-parameters that change the result


def numbers(method):
  """Return the hyper-parameters that are data."""
  leaves = {jax.tree_util.keystr(path).strip("."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(method)}
  return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, float)}


@functools.cache
def sweep(name):
  method = ALL[name]
  sample_network(0, method)
  count = len(TRACES)
  assert count > 0
  CALLS.update(evaluations=0, gradients=0)
  first = sample_network(0, method)
  calls = dict(CALLS)
  sample_network(1, method)
  sample_network(0, method, problem_seed=2)
  sample_network(0, method, gain=0.7)
  changed = {
    field: sample_network(0, dataclasses.replace(method, **{field: 0.8 * value}))
    for field, value in numbers(method).items()
  }
  effective = {field for field, x in changed.items() if np.any(x != first)}
  return Sweep(calls, len(TRACES) - count, effective)


@every_method
@pytest.mark.slow
def test_one_compilation_serves_all_values(name):
  assert sweep(name).compilations == 0, "a new value compiled again"


@pytest.mark.parametrize("name", table(INPAINTING))
def test_every_hyper_parameter_has_an_effect(name):
  """With one of the examples at least: some settings leave some without."""
  variants = [variant for variant, method in ALL.items() if method.name == name]
  assert set(numbers(DEFAULTS[name])) == set().union(*(sweep(variant).effective for variant in variants))


@every_method
def test_cost_is_the_number_of_calls_of_the_network_and_of_its_gradients(name):
  method = ALL[name]
  levels = method.levels(schedules.as_arrays(COUNTED)).alpha.shape[0]
  assert sweep(name).calls == method.cost(levels)._asdict()


def test_hyper_parameters_can_be_swept_by_vmap():
  problem = make_problem()[1]
  scales = [0.0, 0.3, 1.0]
  got = jax.vmap(lambda scale: run(0, DPS(scale=scale), problem)[0])(jnp.array(scales))
  for scale, x in zip(scales, got):
    assert_same(x, run(0, DPS(scale=scale), problem)[0])


@pytest.mark.parametrize("block", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 1000))])
@pytest.mark.parametrize("name", table(INPAINTING))
@pytest.mark.slow
def test_blocks_of_steps_equal_the_whole_chain(name, block):
  method, (_, problem), prior = ALL[name], make_problem(), make_prior()
  grid, key = schedules.as_arrays(GRID), jax.random.key(0)
  want, want_info = run(0, method, problem)
  total = method.levels(grid).alpha.shape[0] - 1
  state, infos = start_of(key, method, prior, problem, grid), []
  for first in range(0, total, block):  # the last block reaches past the end
    state, info = advance(key, state, jnp.arange(first, first + block), method, prior, problem, grid)
    infos.append(info)
  assert_same(method.finish(state, prior, problem), want)
  for entry, values in want_info.items():
    got = np.concatenate([info[entry] for info in infos])
    assert_same(got[:total], values)
    np.testing.assert_array_equal(got[total:], 0.0)
