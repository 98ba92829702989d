"""The guided-diffusion UNet: the numbers of its authors' code, and what every network of its kind has to do."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from reference_networks import compiled

from diffinv.nets import guided_diffusion, unet
from diffinv.priors import folder as checkpoint

TINY = unet.make_config(
  model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(), num_head_channels=32
)
# One level, two heads: quicker to compile.
HEADS = unet.make_config(
  model_channels=64, channel_mult=(1,), num_res_blocks=1, attention_levels=(), num_head_channels=32
)
SIZE = 8  # pixels
STEPS = (0, 300, 999)  # times at which the tiny network is asked


@pytest.fixture(scope="module")
def tiny():
  return reference_networks.random_params(checkpoint.param_shapes(TINY))


@pytest.fixture(scope="module")
def plain(tiny):
  """Return the outputs and gradients of the tiny network at STEPS, for an image each, one call a step."""
  run = norm_and_gradient(TINY)
  return [run(tiny, image(i), jnp.float32(t)) for i, t in enumerate(STEPS)]


def image(seed=0, size=SIZE):
  return jnp.asarray(np.random.RandomState(seed).standard_normal((size, size, 3)), jnp.float32)


def relative(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def norm_and_gradient(config, label=None):
  """Return a compiled function of (params, x, t): output, and gradient of the norm of its first three channels."""
  return compiled(norm_and_gradient_of(unet.apply_function(config), label))


def norm_and_gradient_of(apply, label=None):

  def norm(x, params, t):
    output = apply(params, x, t) if label is None else apply(params, x, t, label)
    return jnp.sqrt(jnp.sum(output[..., :3] ** 2)), output

  def run(params, x, t):
    (_, output), gradient = jax.value_and_grad(norm, has_aux=True)(x, params, t)
    return output, gradient

  return run


def check_reference(name, golden, tolerance=1e-4):
  tensors = reference_networks.shapes(name)
  config = guided_diffusion.identify(tensors, **reference_networks.choices(name))
  params = guided_diffusion.params_from_state_dict(reference_networks.state_dict(tensors), config)
  expected = golden(f"{name}.npz")
  size = reference_networks.describe(name)["create_model"]["image_size"]
  x = np.random.RandomState(int(expected["x_seed"])).standard_normal((1, 3, size, size)).astype(np.float32)
  run = norm_and_gradient(config, None if config.num_classes is None else jnp.int32(reference_networks.LABEL))
  stride = int(expected["stride"])
  steps = [key.removeprefix("out_t") for key in expected if key.startswith("out_t")]
  assert steps
  for t in steps:
    got = run(params, jnp.asarray(x[0].transpose(1, 2, 0)), jnp.float32(t))
    for kind, value in zip(("out", "grad"), got):
      value = np.asarray(value).transpose(2, 0, 1)[None]
      assert relative(value[..., ::stride, ::stride], expected[f"{kind}_t{t}"]) < tolerance
      assert np.isclose(np.linalg.norm(value), expected[f"{kind}_norm_t{t}"], rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", reference_networks.SMALL)
def test_small_networks_match_reference(name, golden):
  check_reference(name, golden)


@pytest.mark.slow
def test_ffhq_network_matches_reference(golden):
  check_reference("unet_ffhq256", golden)


@pytest.mark.slow
def test_attention_order_and_number_of_heads_change_the_output():
  params = reference_networks.random_params(checkpoint.param_shapes(HEADS))

  def output(**change):
    return compiled(unet.apply_function(dataclasses.replace(HEADS, **change)))(params, image(), jnp.float32(100))

  legacy = output()
  assert relative(output(attention_order="new"), legacy) > 1e-3
  assert relative(output(num_head_channels=64), legacy) > 1e-3


@pytest.mark.slow
def test_every_parameter_and_the_time_matter(tiny):
  # A layer that is skipped, or a parameter that is never read, has no gradient.
  apply = unet.apply_function(TINY)
  gradients, dt = compiled(jax.grad(lambda p, t: jnp.sum(apply(p, image(), t) ** 2), argnums=(0, 1)))(
    tiny, jnp.float32(100)
  )
  zero = [path for path, leaf in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(leaf)]
  assert not zero and dt != 0


def test_patches_convolve_as_convolutions_do():
  r = np.random.RandomState(0)
  x = jnp.asarray(r.standard_normal((6, 10, 8)), jnp.float32)
  kernel = jnp.asarray(r.standard_normal((3, 3, 8, 5)), jnp.float32)
  cotangent = jnp.asarray(r.standard_normal((6, 10, 5)), jnp.float32)

  @functools.partial(compiled, static_argnums=0)
  def value_and_pullback(convolve, x, kernel, cotangent):
    y, pull = jax.vjp(lambda x: convolve(x, kernel), x)
    return y, pull(cotangent)[0]

  by_patches, plainly = (value_and_pullback(f, x, kernel, cotangent) for f in (unet.convolve_patches, unet.convolve))
  for got, expected in zip(by_patches, plainly):
    assert relative(got, expected) < 1e-6


def test_group_norm_matches_its_definition():
  r = np.random.RandomState(0)
  x = 3.0 + 2.0 * r.standard_normal((5, 7, 64))
  gamma, beta, scale, shift = r.standard_normal((4, 64))
  groups = x.reshape(35, unet.GROUPS, 2)
  centered = groups - groups.mean((0, 2), keepdims=True)
  normal = (centered / np.sqrt(groups.var((0, 2), keepdims=True) + unet.NORM_EPS)).reshape(x.shape)
  expected = (1 + scale) * (gamma * normal + beta) + shift
  params = {"params": {"scale": jnp.float32(gamma), "bias": jnp.float32(beta)}}
  got = unet.GroupNorm().apply(params, jnp.float32(x), jnp.float32(scale), jnp.float32(shift))
  assert relative(got, expected) < 1e-5  # float32 moments of 70 values


def test_resampling_pairs():
  x = image(size=6)
  np.testing.assert_allclose(unet.average_pool(x), np.asarray(x).reshape(3, 2, 3, 2, 3).mean((1, 3)), rtol=1e-5)
  np.testing.assert_array_equal(unet.nearest_up(x), np.repeat(np.repeat(x, 2, axis=0), 2, axis=1))


@pytest.mark.slow
def test_outputs_and_gradients_of_a_batch_equal_a_loop(tiny, plain):
  x, t = jnp.stack([image(i) for i in range(len(STEPS))]), jnp.float32(STEPS)
  batch = compiled(jax.vmap(norm_and_gradient_of(unet.apply_function(TINY)), (None, 0, 0)))(tiny, x, t)
  for together, apart in zip(batch, zip(*plain)):
    assert relative(together, jnp.stack(apart)) < 1e-5
  assert relative(plain[0][0], plain[1][0]) > 1e-2


@pytest.mark.slow
def test_forward_and_reverse_derivatives_agree(tiny, plain):
  x, v, (output, gradient) = image(1), image(7), plain[1]
  run = lambda x: unet.apply_function(TINY)(tiny, x, jnp.float32(STEPS[1]))
  again, tangent = compiled(lambda x, v: jax.jvp(run, (x,), (v,)))(x, v)
  assert relative(again, output) < 1e-5
  cotangent = output[..., :3] / jnp.linalg.norm(output[..., :3])  # of the norm of three channels
  assert np.isclose(jnp.vdot(cotangent, tangent[..., :3]), jnp.vdot(gradient, v), rtol=1e-3)


@pytest.mark.slow
def test_remat_changes_nothing_but_memory(tiny, plain):
  remat = norm_and_gradient(dataclasses.replace(TINY, remat=True))(tiny, image(1), jnp.float32(STEPS[1]))
  assert relative(remat[0], plain[1][0]) < 1e-6
  assert relative(remat[1], plain[1][1]) < 1e-5


@pytest.mark.slow
def test_bfloat16_is_close_and_returns_float32(tiny, plain):
  half = norm_and_gradient(dataclasses.replace(TINY, dtype="bfloat16"))(tiny, image(1), jnp.float32(STEPS[1]))
  assert half[0].dtype == half[1].dtype == jnp.float32
  # bfloat16 has 8 bits: 0.4 % an operation, some dozens of them.
  assert 1e-4 < relative(half[0], plain[1][0]) < 0.03
  assert relative(half[1], plain[1][1]) < 0.06


def test_equal_configs_share_one_function():
  again = unet.make_config(**dataclasses.asdict(TINY))
  assert again is not TINY and unet.apply_function(again) is unet.apply_function(TINY)


@pytest.mark.slow
def test_new_network_puts_out_zero_and_learns():
  params = compiled(functools.partial(unet.init, config=HEADS))(jax.random.key(0))
  last = params.pop("out_2")
  apply = unet.apply_function(HEADS)

  @compiled
  def loss_and_gradient(last):
    loss = lambda last: jnp.sum((apply({**params, "out_2": last}, image(), jnp.float32(3)) - 1.0) ** 2)
    return jax.value_and_grad(loss)(last)

  loss, gradient = loss_and_gradient(last)
  assert loss == SIZE * SIZE * 6  # of an output of 0
  assert np.any(gradient["kernel"])


@pytest.mark.parametrize("shape", [(15, 16, 3), (16, 17, 3), (16, 16, 1), (1, 16, 16, 3)])
def test_wrong_image_shape_is_named(tiny, shape):
  with pytest.raises(ValueError, match=r"x_t: expected \[h, w, 3\] with h and w multiples of 2, got"):
    unet.apply_function(TINY)(tiny, jnp.zeros(shape), jnp.float32(0))


def test_label_must_fit(tiny):
  with pytest.raises(ValueError, match="label: expected none"):
    unet.apply_function(TINY)(tiny, image(), jnp.float32(0), jnp.int32(1))
  with pytest.raises(ValueError, match=r"label: expected a class in 0\.\.9"):
    unet.apply_function(dataclasses.replace(TINY, num_classes=10))(tiny, image(), jnp.float32(0))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"dtype": "float64"}, "dtype: expected one of float32, bfloat16"),
    ({"attention_order": "old"}, "attention_order: expected one of"),
    ({"num_heads": 1}, "num_heads, num_head_channels: expected exactly one"),
    ({"num_head_channels": 24}, "num_head_channels: expected a divisor of the 64 channels"),
    ({"channel_mult": (1, 1.5)}, "channel_mult: expected multiples of 32"),
    ({"attention_levels": (2,)}, "attention_levels: expected levels in"),
    ({"num_res_blocks": 0}, "expected positive whole numbers"),
  ],
)
def test_impossible_config_is_named(change, message):
  with pytest.raises(ValueError, match=message):
    unet.make_config(**{**dataclasses.asdict(TINY), **change})
