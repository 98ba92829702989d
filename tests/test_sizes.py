"""Pictures of any size: filled up for the network, and evaluated in tiles."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import batch, devices, errors, noise, operators
from diffinv.methods import METHODS
from diffinv.nets import small
from diffinv.priors import Prior, size_step, sizes
from diffinv.priors.sizes import Tiling
from diffinv.problems import simulate, stack
from diffinv.schedules import Level, Schedule
from diffinv.studies import identity
from diffinv.studies.study import Study

CONFIG = small.SmallConfig(channels=4, multipliers=(1, 2), blocks=1, middle_blocks=1, embedding=8)  # 4 pixels


@functools.cache
def network(config=CONFIG):
  """Return `apply` and random parameters, none of which is zero."""
  leaves, tree = jax.tree.flatten(small.initialize(jax.random.key(0), config))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
  return small.apply_function(config), jax.tree.unflatten(tree, noisy)


def picture(height, width):
  return jax.random.normal(jax.random.key(2), (height, width, 3))


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (212, 84), (148, 152)])
@pytest.mark.parametrize("size", [16, 40])
def test_tiles_give_what_the_whole_picture_gives(shape, size):
  apply, params = network()
  x, tiling = picture(*shape), Tiling(size, CONFIG.reach)
  whole = apply(params, x, 0.3)
  np.testing.assert_allclose(sizes.tiled(apply, params, x, 0.3, tiling), whole, rtol=0, atol=2e-5)
  assert float(jnp.std(whole)) > 0.1


def test_windows_are_as_few_as_their_greatest_size_allows_and_as_small_as_so_many_can_be():
  seen = set()
  see = lambda params, x, t: (seen.add(x.shape[:2]), x)[1]
  jax.eval_shape(lambda x: sizes.tiled(see, {}, x, 0.3, Tiling(1024, 112)), jnp.zeros((4000, 3000, 3)))
  # Of 1248 at most: four times 1168 and three times 1152, which overlap by 224, are 4000 and 3008.
  assert seen == {(4000, 3000), (1168, 1152)}


def test_a_reach_too_short_does_not_give_it():
  """The reach is what makes tiles exact, not luck."""
  apply, params = network()
  x = picture(148, 152)
  short = sizes.tiled(apply, params, x, 0.3, Tiling(16, 8))
  assert float(jnp.max(jnp.abs(short - apply(params, x, 0.3)))) > 1e-3


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, multipliers=(1, 1, 1), blocks=2, patch=1)])
def test_no_pixel_depends_on_what_lies_beyond_the_reach(config):
  apply, params = network(config)
  side = 2 * config.reach + 8 * config.size_multiple
  x = jnp.zeros((side, config.size_multiple, 3))
  middle = side // 2
  gradient = jax.grad(lambda x: jnp.sum(apply(params, x, 0.3)[middle]))(x)
  touched = np.flatnonzero(np.any(np.asarray(gradient) != 0, axis=(1, 2)))
  assert middle - config.reach <= touched[0] < middle < touched[-1] <= middle + config.reach


def test_gradients_through_tiles_are_those_of_the_whole_picture():
  apply, params = network()
  x, tiling = picture(88, 100), Tiling(16, CONFIG.reach)
  gradient = lambda f: jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)
  tiled = gradient(lambda x: sizes.tiled(apply, params, x, 0.3, tiling))
  np.testing.assert_allclose(tiled, gradient(lambda x: apply(params, x, 0.3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(13, 22), (5, 4), (64, 67)])
def test_a_picture_of_any_size_is_reflected_for_the_network_and_cut_back(shape):
  apply, params = network()
  x = picture(*shape)
  more = [-n % 4 for n in shape]
  around = [(n // 2, n - n // 2) for n in more]
  padded = np.pad(np.asarray(x), (*around, (0, 0)), mode="reflect")
  expected = apply(params, jnp.asarray(padded), 0.3)[around[0][0] :, around[1][0] :][: shape[0], : shape[1]]
  found = sizes.filled(apply, params, x, 0.3, 4, None)
  assert found.shape == (*shape, 3)
  np.testing.assert_array_equal(found, expected)


def test_a_prior_denoises_pictures_of_any_size_alone_and_in_batches():
  apply, params = network()
  prior = Prior(
    params, apply, Schedule("linear", 10), prediction="x0", size_multiple=4, tiling=Tiling(16, CONFIG.reach)
  )
  level = Level(jnp.float32(3.0), jnp.float32(0.8), jnp.float32(0.6))
  batch = jnp.stack([picture(101, 30), -picture(101, 30)])
  found = jax.vmap(lambda x: prior.denoise(x, level).x0)(batch)
  assert found.shape == batch.shape and size_step(prior) == 1
  whole = dataclasses.replace(prior, tiling=None)
  np.testing.assert_allclose(found[1], whole.denoise(batch[1], level).x0, rtol=0, atol=2e-5)


def test_a_network_that_looks_at_the_whole_picture_has_no_reach():
  assert dataclasses.replace(CONFIG, attention=True).reach is None


def test_eight_devices_share_the_tiles_of_one_picture_out():
  apply, params = network()
  mesh = devices.batch_mesh(8, sizes.TILES)
  x, tiling = picture(148, 152), Tiling(16, CONFIG.reach)  # 49 tiles: not as many on each device
  value = lambda x, tiling: jnp.sum(jnp.sin(sizes.tiled(apply, params, x, 0.3, tiling)))
  one, eight = (
    jax.jit(jax.value_and_grad(lambda x, of=of: value(x, of)))(x) for of in (tiling, tiling._replace(mesh=mesh))
  )
  np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
  np.testing.assert_allclose(eight[1], one[1], rtol=0, atol=1e-4)


def test_tiles_are_spread_over_devices_where_there_are_both():
  with pytest.raises(errors.UsageError, match="`spread=tiles` is of `devices`, got none"):
    identity.load(Study(spread="tiles"))
  with pytest.raises(errors.UsageError, match="expected a prior that is evaluated in tiles, got one that"):
    identity.load(Study(prior="natural", spread="tiles", devices=2))
  assert identity.load(Study(prior="photo", spread="tiles", devices=2)).tiling is not None
  mesh = devices.mesh(Study(spread="tiles", devices=2))
  assert mesh.shape == {sizes.TILES: 2} and batch.spread_over(mesh) == 1
  assert batch.spread_over(devices.mesh(Study(devices=2))) == 2 and devices.mesh(Study()) is None


def test_chains_whose_tiles_are_shared_out_are_those_of_one_device():
  apply, params = network()
  tiling = Tiling(16, CONFIG.reach)
  prior = Prior(params, apply, Schedule("linear", 30), prediction="x0", size_multiple=4, tiling=tiling)
  x0 = jnp.tanh(picture(101, 60))
  problem = simulate(jax.random.key(3), operators.gaussian_blur(x0.shape, size=9), noise.Gaussian(0.1), x0)
  keys = jax.random.split(jax.random.key(4), 2).reshape(1, 2)
  run = lambda mesh: batch.sample_batch(
    keys, METHODS["dps"](scale=0.5), prior, stack([problem]), prior.schedule.grid("3"), mesh=mesh
  )[0]
  one = run(None)
  np.testing.assert_allclose(run(devices.batch_mesh(8, sizes.TILES)), one, rtol=0, atol=1e-4)
  assert np.std(one) > 0.1
