"""Batched reconstruction: the result of an image does not depend on its company, its chunk or its device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import batch, noise, operators, priors, problems, sampler
from diffinv.methods import METHODS

SHAPE = (12, 16, 3)
IMAGES, SAMPLES = 3, 2
METHOD_TABLE = {
  "sdedit": METHODS["sdedit"](t0=0.4, repeats=2),
  "score_ald": METHODS["score_ald"](steps_per_level=2),
  "score_ald_ddpm": METHODS["score_ald"](sampler="ddpm", rate=2.0),  # few steps amplify rounding at a smaller one
  "dps": METHODS["dps"](scale=0.5),
}


def make_problems(count=IMAGES):
  keys = jax.random.split(jax.random.key(1), count)

  def one(key):
    k1, k2, k3 = jax.random.split(key, 3)
    x0 = jnp.clip(0.5 * jax.random.normal(k1, SHAPE), -1.0, 1.0)
    operator = operators.random_mask(k2, SHAPE, missing=0.5)
    return problems.simulate(k3, operator, noise.Gaussian(0.05), x0)

  return problems.stack([one(key) for key in keys])


def chain_keys(images=IMAGES, samples=SAMPLES):
  return jax.random.split(jax.random.key(2), images * samples).reshape(images, samples)


@pytest.fixture(scope="module")
def prior():
  return priors.natural()


@pytest.mark.parametrize(
  "name", [name if name == "dps" else pytest.param(name, marks=pytest.mark.slow) for name in METHOD_TABLE]
)
@pytest.mark.slow
def test_batch_equals_one_image_at_a_time(prior, name):
  grid, method = prior.schedule.grid("8"), METHOD_TABLE[name]
  stacked, keys = make_problems(), chain_keys()
  got, info = batch.sample_batch(keys, method, prior, stacked, grid)
  for i in range(IMAGES):
    problem = jax.tree.map(lambda leaf: leaf[i], stacked)
    for j in range(SAMPLES):
      want, want_info = sampler.sample(keys[i, j], method, prior, problem, grid)
      np.testing.assert_allclose(got[i, j], want, rtol=2e-4, atol=2e-5)  # float32 sums in another order
      for entry in want_info:
        np.testing.assert_allclose(info[entry][i, j], want_info[entry], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 4, 6, 100])
@pytest.mark.slow
def test_chunks_do_not_change_the_result(prior, chunk):
  grid, stacked, keys = prior.schedule.grid("6"), make_problems(), chain_keys()
  want, _ = batch.sample_batch(keys, METHOD_TABLE["dps"], prior, stacked, grid)
  got, _ = batch.sample_batch(keys, METHOD_TABLE["dps"], prior, stacked, grid, chunk=chunk)
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("steps", ["6", "130"])  # fewer and more steps than blocks
@pytest.mark.slow
def test_progress_does_not_change_the_result_and_reaches_the_end(prior, steps):
  grid, stacked, keys = prior.schedule.grid(steps), make_problems(), chain_keys()
  seen = []
  want, want_info = batch.sample_batch(keys, METHOD_TABLE["dps"], prior, stacked, grid)
  got, info = batch.sample_batch(
    keys, METHOD_TABLE["dps"], prior, stacked, grid, chunk=4, progress=lambda *a: seen.append(a)
  )
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_equal_shapes(info, want_info)
  done, total = zip(*seen)
  assert list(done) == sorted(done) and done[-1] == total[-1] == 2 * int(steps)


@pytest.mark.parametrize("name", METHOD_TABLE)
@pytest.mark.slow
def test_eight_devices_equal_one(prior, name):
  assert jax.device_count() == 8, "tests/conftest.py asks for eight CPU devices"
  mesh = jax.make_mesh((8,), ("image",), axis_types=(jax.sharding.AxisType.Auto,))
  grid, method = prior.schedule.grid("5"), METHOD_TABLE[name]
  stacked, keys = make_problems(), chain_keys()
  want, _ = batch.sample_batch(keys, method, prior, stacked, grid)
  got, _ = batch.sample_batch(keys, method, prior, stacked, grid, mesh=mesh)
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_same_keys_give_the_same_bits(prior):
  grid, stacked, keys = prior.schedule.grid("5"), make_problems(), chain_keys()
  first, _ = batch.sample_batch(keys, METHOD_TABLE["dps"], prior, stacked, grid)
  second, _ = batch.sample_batch(keys, METHOD_TABLE["dps"], prior, stacked, grid)
  np.testing.assert_array_equal(first, second)
  assert not np.array_equal(first[:, 0], first[:, 1]), "different keys must give different samples"


def test_bad_shapes_are_named(prior):
  grid, stacked = prior.schedule.grid("2"), make_problems()
  with pytest.raises(ValueError, match=r"\[images, samples\]"):
    batch.sample_batch(jax.random.split(jax.random.key(0), 3), METHOD_TABLE["dps"], prior, stacked, grid)
  with pytest.raises(ValueError, match="expected 2 images"):
    batch.sample_batch(chain_keys(images=2), METHOD_TABLE["dps"], prior, stacked, grid)


def test_a_chain_compiles_its_step_once_wherever_the_prior_lies(prior):
  """Of a prior that is bound to a device, as those from the disk are, so is every state after the first step."""
  bound = jax.device_put(prior, jax.devices()[0])
  before = batch._advance._cache_size()
  grid, keys = prior.schedule.grid("5"), chain_keys(1, 1)
  batch.sample_batch(keys, METHOD_TABLE["dps"], bound, make_problems(1), grid, progress=lambda *_: None)
  assert batch._advance._cache_size() == before + 1


class Stop(Exception):
  """A chain is stopped."""


RESUMED = {**METHOD_TABLE, **{name: METHODS[name]() for name in ("red_diff", "daps", "mmps")}}


@pytest.mark.parametrize(
  "name", [name if name == "red_diff" else pytest.param(name, marks=pytest.mark.slow) for name in RESUMED]
)
@pytest.mark.parametrize("at", [(1, 2), (2, 5), (3, 6)], ids=["first chunk", "second chunk", "end of the last"])
def test_a_batch_goes_on_from_where_it_stood_to_the_same_bits(prior, name, at):
  """Stopped in a chunk, after so many of its steps, at which all that is known is what `standing` gave."""
  grid, kept, looked = prior.schedule.grid("6"), {}, []

  def call(watch, **resume):
    return batch.sample_batch(chain_keys(), RESUMED[name], prior, make_problems(), grid, chunk=2, watch=watch, **resume)

  def stop(view):
    looked.append(view.chains[0] // 2 + 1)
    if (looked[-1], view.done) == (at[0], at[1] * view.total // 6):
      kept.update(view.standing())
      raise Stop

  want = call(lambda view: None)
  with pytest.raises(Stop):
    call(stop)
  after = []
  got = call(lambda view: after.append((view.chains[0] // 2 + 1, view.done)), resume=kept)
  assert after[0][0] == at[0] and after[0][1] == kept["done"] > 0  # nothing before that was done again
  chex.assert_trees_all_equal(got, want)


@pytest.mark.slow
def test_a_batch_on_several_devices_goes_on_there_to_the_same_bits(prior):
  mesh = jax.make_mesh((8,), ("image",), axis_types=(jax.sharding.AxisType.Auto,))
  grid, kept = prior.schedule.grid("5"), {}
  call = lambda watch, **resume: batch.sample_batch(
    chain_keys(), METHOD_TABLE["dps"], prior, make_problems(), grid, mesh=mesh, watch=watch, **resume
  )
  want = call(lambda view: kept.update(view.standing()) if view.done == 3 else None)
  looked = []
  got = call(lambda view: looked.append(view.done), resume=kept)
  assert looked == [3, 4, 5]
  chex.assert_trees_all_equal(got, want)
