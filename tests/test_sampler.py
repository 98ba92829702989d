"""What holds of every method under the sampler: join METHOD_TABLE. Values are held in `test_methods_exact.py`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, priors, problems, sampler, schedules
from diffinv.methods import DPS, METHODS, ScoreALD, SDEdit
from diffinv.priors import Prior
from diffinv.schedules import Schedule

SHAPE = (6, 8, 3)
SIGMA_Y = 0.05
LINEAR = Schedule("linear", 1000)
GRID = LINEAR.grid("50")  # one for all tests: they share compilations
SHORT = LINEAR.grid("5")  # but for the eager one

# name: a method, and another value for each hyper-parameter that is data.
METHOD_TABLE = {
  "sdedit": (SDEdit(t0=0.4, repeats=2, guide="ridge", ridge=0.01), {"ridge": 0.2}),
  "score_ald": (ScoreALD(), {"c": 0.05, "rate": 1.0}),
  "dps": (DPS(scale=0.5), {"scale": 0.3}),
  "pigdm": (METHODS["pigdm"](), {"eta": 0.5}),
  "tmpd": (METHODS["tmpd"](), {"eta": 0.5}),
  "mmps": (METHODS["mmps"](iterations=2), {"eta": 0.5}),
  "jfps": (METHODS["jfps"](), {"eta": 0.5}),
  "diffpir": (METHODS["diffpir"](), {"weight": 2.0, "zeta": 0.8}),
  "ddnm_plus": (METHODS["ddnm_plus"](), {"eta": 0.5}),
  "ddrm": (METHODS["ddrm"](), {"eta": 0.5, "eta_b": 0.9}),
  "daps": (METHODS["daps"](langevin_steps=20), {"tau": 0.02, "step_size": 5e-5, "last_step": 0.1, "ode_end": 0.02}),
  "red_diff": (METHODS["red_diff"](), {"learning_rate": 0.05, "weight": 0.5}),
}
VARIANTS = {
  "sdedit_keep_known": (SDEdit(t0=0.4, keep_known=True), {}),
  "score_ald_norm_matched": (ScoreALD(weighting="norm_matched", balance=1.0), {"c": 0.05, "balance": 2.0}),
  "score_ald_ddpm": (ScoreALD(sampler="ddpm"), {"rate": 1.0}),
  "dps_paper": (DPS(scale=0.5, rule="paper"), {"scale": 0.3}),
  "dps_squared": (DPS(scale=0.1, rule="squared"), {"scale": 0.05}),
}
ALL = METHOD_TABLE | VARIANTS
QUICK = ("sdedit", "score_ald", "dps", "diffpir")  # in the fast run: a method of each kind


def table(names):
  return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


every_method = pytest.mark.parametrize("name", table(ALL))


@functools.cache
def smooth():
  """Return the mean and covariance of smooth images: correlation exp(-distance / 4 pixels), channels alike."""
  y, x = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
  place = np.stack([y.ravel(), x.ravel()], axis=1)
  distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
  covariance = np.kron(0.1 * np.exp(-distance / 4), np.full((3, 3), 0.9) + 0.1 * np.eye(3))
  return np.full(len(covariance), 0.4), covariance


def make_prior():
  return priors.gaussian(*smooth(), LINEAR)


@functools.cache
def make_problem(seed=1):
  """Return a truth drawn from the prior and its measurement, half of the pixels missing."""
  mean, covariance = smooth()
  root = np.linalg.cholesky(covariance)
  truth = mean + root @ np.random.default_rng(seed).standard_normal(len(mean))
  truth = jnp.asarray(truth.reshape(SHAPE), jnp.float32)
  k1, k2 = jax.random.split(jax.random.key(seed))
  operator = operators.random_mask(k1, SHAPE, missing=0.5)
  return truth, problems.simulate(k2, operator, noise.Gaussian(jnp.float32(SIGMA_Y)), truth)


def run(seed, method, problem, prior=None, grid=GRID):
  return sampler.sample(jax.random.key(seed), method, make_prior() if prior is None else prior, problem, grid)


def assert_same(got, want):
  # Sums of float32 in another order, magnified by the chain; relative to the largest value.
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_every_method_is_in_the_table():
  assert {method.name for method, _ in METHOD_TABLE.values()} == set(METHODS)
  assert all(type(method) is METHODS[method.name] for method, _ in ALL.values())


@every_method
def test_result_is_finite_and_improves_on_the_start(name):
  method, (truth, problem) = ALL[name][0], make_problem()
  grid = schedules.as_arrays(GRID)
  x, info = run(0, method, problem)
  assert x.shape == SHAPE and x.dtype == jnp.float32
  steps = method.levels(grid).alpha.shape[0] - 1
  assert all(values.shape == (steps,) for values in info.values())
  for values in (x, *info.values()):
    assert np.all(np.isfinite(values))
  # Single samples are as far again from the truth as their mean is (SDEdit's start is already a guide, not noise).
  start = jax.jit(sampler.start)(jax.random.key(0), method, make_prior(), problem, grid).x
  mean = np.mean([run(seed, method, problem)[0] for seed in range(16)], axis=0)
  error, start_error = (float(np.mean((v - truth) ** 2)) for v in (mean, start))
  assert error < 0.5 * start_error, (error, start_error)


@pytest.mark.slow
@every_method
def test_compiled_equals_eager(name):
  method, (_, problem) = ALL[name][0], make_problem()
  want, want_info = run(0, method, problem, grid=SHORT)
  with jax.disable_jit():
    got, info = run(0, method, problem, grid=SHORT)
  assert_same(got, want)
  assert info.keys() == want_info.keys()
  for entry in info:
    assert_same(info[entry], want_info[entry])


@every_method
def test_batched_equals_one_at_a_time_whatever_the_company(name):
  method, prior = ALL[name][0], make_prior()
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
  method, (_, problem) = ALL[name][0], make_problem()
  first, second, other = (run(seed, method, problem)[0] for seed in (3, 3, 4))
  np.testing.assert_array_equal(first, second)
  assert np.mean(np.abs(first - other)) > 0.01


TRACES, CALLS = [], []


def counting_network(params, x, t):
  TRACES.append(1)
  jax.debug.callback(lambda: CALLS.append(1))
  return jnp.tanh(params["gain"] * x)


def sample_network(seed, method, gain=0.5, problem_seed=1):
  prior = Prior({"gain": jnp.float32(gain)}, counting_network, LINEAR)
  x, _ = run(seed, method, make_problem(problem_seed)[1], prior)
  x.block_until_ready()
  jax.effects_barrier()
  return x


@every_method
def test_one_compilation_serves_all_values(name):
  method, changes = ALL[name]
  first = sample_network(0, method)
  count = len(TRACES)
  assert count > 0
  sample_network(1, method)
  sample_network(0, method, problem_seed=2)
  sample_network(0, method, gain=0.7)
  for field, value in changes.items():
    changed = sample_network(0, dataclasses.replace(method, **{field: value}))
    assert np.any(changed != first), f"{field} has no effect"
  assert len(TRACES) == count, "a new value compiled again"


@every_method
def test_cost_is_the_number_of_calls_of_the_network(name):
  method = ALL[name][0]
  CALLS.clear()
  sample_network(0, method)
  levels = method.levels(schedules.as_arrays(GRID)).alpha.shape[0]
  assert len(CALLS) == method.cost(levels).evaluations


def test_hyper_parameters_can_be_swept_by_vmap():
  problem = make_problem()[1]
  scales = [0.0, 0.3, 1.0]
  got = jax.vmap(lambda scale: run(0, DPS(scale=scale), problem)[0])(jnp.array(scales))
  for scale, x in zip(scales, got):
    assert_same(x, run(0, DPS(scale=scale), problem)[0])


@pytest.mark.parametrize("block", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 1000))])
@pytest.mark.parametrize("name", table(METHOD_TABLE))
def test_blocks_of_steps_equal_the_whole_chain(name, block):
  method, (_, problem), prior = ALL[name][0], make_problem(), make_prior()
  grid, key = schedules.as_arrays(GRID), jax.random.key(0)
  want, want_info = run(0, method, problem)
  total = method.levels(grid).alpha.shape[0] - 1
  advance = jax.jit(sampler.advance)
  state, infos = jax.jit(sampler.start)(key, method, prior, problem, grid), []
  for first in range(0, total, block):  # the last block reaches past the end
    state, info = advance(key, state, jnp.arange(first, first + block), method, prior, problem, grid)
    infos.append(info)
  assert_same(method.finish(state, prior, problem), want)
  for entry, values in want_info.items():
    got = np.concatenate([info[entry] for info in infos])
    assert_same(got[:total], values)
    np.testing.assert_array_equal(got[total:], 0.0)
