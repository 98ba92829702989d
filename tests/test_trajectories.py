"""Whole chains, step for step, against the reference code: DDPM, and DPS on inpainting and deblurring.

The network is the small one of the recorded numbers with generated weights; noise is given, x0 is clipped, the
variance is learned, 10 respaced steps. The reference is float32 itself, good to about 2e-6.
"""

import json
import os
import zlib

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, operators, schedules
from diffinv.methods import DPS, base
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import Prior
from diffinv.problems import Problem
from diffinv.schedules import Schedule

pytestmark = pytest.mark.slow  # compiling the network and its gradient

STEPS = 10
SHAPE = (64, 64, 3)
MATCH = dict(rtol=1e-4)


def generated_weight(name, shape):
  """Return the tensor that the recorded numbers were made with, float32."""
  r = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).standard_normal(shape)
  if len(shape) > 1:
    r = r / np.sqrt(np.prod(shape[1:]))
  else:
    r = 1.0 + 0.1 * r if name.endswith(".weight") else 0.1 * r
  return r.astype(np.float32)


@pytest.fixture(scope="module")
def prior():
  with open(os.path.join(conftest.GOLDEN, "unet_tiny64.json")) as file:
    description = json.load(file)
  state_dict = {name: generated_weight(name, shape) for name, shape in description["state_dict"]}
  shapes = {name: value.shape for name, value in state_dict.items()}
  config = guided_diffusion.infer_config(shapes, num_head_channels=description["create_model"]["num_head_channels"])
  params = jax.tree.map(jnp.asarray, guided_diffusion.params_from_state_dict(state_dict, config))
  return Prior(params, unet.apply_function(config), Schedule("linear", 1000), variance="learned_range")


def image(array):
  """Return `[h, w, c]` from the reference's `[1, c, h, w]`."""
  return jnp.asarray(np.moveaxis(array[0], 0, -1))


def given_noise(recorded):
  """Return x_T and z, z[i] of the step from respaced index i."""
  x_T = np.random.RandomState(recorded["x_T_seed"]).standard_normal((1, 3, 64, 64)).astype(np.float32)
  z = np.random.RandomState(recorded["z_seed"]).standard_normal((STEPS, 1, 3, 64, 64)).astype(np.float32)
  return image(x_T), jnp.stack([image(zi) for zi in z])


def replay(recorded, step):
  """Return the iterates and residual norms of `step(z, x_t, now, nxt)` with the recorded noise, in order."""
  x, z = given_noise(recorded)
  levels = schedules.as_arrays(Schedule("linear", 1000).grid(str(STEPS)))
  iterates, norms = [], []
  for i in range(STEPS):
    now, nxt = (jax.tree.map(lambda v: v[i + shift], levels) for shift in (0, 1))
    x, info = step(z[STEPS - 1 - i], x, now, nxt)
    iterates.append(np.asarray(x))
    norms.append(float(info["residual_norm"]))
  return iterates, norms


def relative_difference(got, want):
  # Of the whole image: x0 = (x_t - sigma eps) / alpha magnifies a rounding error of one pixel's eps up to 157 times.
  return np.linalg.norm(np.ravel(got) - np.ravel(want)) / np.linalg.norm(want)


def assert_trajectory(recorded, iterates, norms):
  np.testing.assert_allclose([np.linalg.norm(x) for x in iterates], recorded["norms"], **MATCH)
  if recorded["residual_norm"].size:
    np.testing.assert_allclose(norms, recorded["residual_norm"], **MATCH)
  assert relative_difference(iterates[0], image(recorded["x_first"])) < 1e-4
  assert relative_difference(iterates[-1], image(recorded["x_final"])) < 1e-4


def test_ddpm_follows_the_recorded_trajectory(golden, prior):
  recorded = golden("trajectory_ddpm.npz")

  @jax.jit
  def step(z, x, now, nxt):
    return base.reverse_step(z, x, prior.denoise(x, now), now, nxt), {"residual_norm": 0.0}

  assert_trajectory(recorded, *replay(recorded, step))


def inpainting(recorded):
  return operators.inpainting(np.moveaxis(recorded["mask"][0], 0, -1))


def gaussian_blur(recorded):
  return operators.gaussian_blur(SHAPE, size=61, std=3.0)


@pytest.mark.parametrize("operator, scale", [(inpainting, 0.5), (gaussian_blur, 0.3)])
def test_dps_follows_the_recorded_trajectory(golden, prior, operator, scale):
  recorded = golden(f"trajectory_dps_{operator.__name__}.npz")
  # The recorded y is noisy on unobserved pixels too, where A(x0) is 0: its norm counts them.
  problem = Problem(operator(recorded), noise.Gaussian(0.05), image(recorded["y"]))
  method = DPS(scale=scale, rule="code")
  step = jax.jit(lambda z, x, now, nxt: method.update(z, x, now, nxt, prior, problem))
  assert_trajectory(recorded, *replay(recorded, step))
