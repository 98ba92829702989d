"""The network of the diffusers library: the library's own numbers, and what every network has to do."""

import dataclasses
import functools
import json

import diffusers_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from diffusers_networks import PUBLISHED, SMALL

from diffinv.nets import diffusers, diffusers_unet

RELATIVE = 1e-5  # of the norm of the difference: roundings of float32 through some dozens of layers


def relative(got, want):
  return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def shapes(config):
  return {source.name: source.shape for source in diffusers.sources(config).values()}


def network(name):
  config = diffusers.config_from(SMALL[name].config)
  tensors = reference_networks.state_dict(shapes(config))
  return config, diffusers.params_from_state_dict(tensors, config)


def output_and_gradient(config, params, case):
  x, cotangent = case.arrays()
  label = None if case.label is None else jnp.asarray(case.label)

  def run(params, x):
    output, pull = jax.vjp(lambda x: diffusers_unet.apply_function(config)(params, x, jnp.float32(case.t), label), x)
    return output, pull(cotangent)[0]

  return reference_networks.compiled(run)(params, x)


QUICK = ("defaults", "resnet")  # to compile


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL])
def test_output_and_input_gradient_are_those_of_the_library(golden, name):
  expected = golden("diffusers_networks.npz")
  config, params = network(name)
  assert diffusers_networks.digest(shapes(config)) == expected[f"{name}/digest"]
  output, gradient = output_and_gradient(config, params, SMALL[name])
  assert relative(output, expected[f"{name}/output"]) < RELATIVE
  assert relative(gradient, expected[f"{name}/gradient"]) < RELATIVE


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_tensors_of_the_library(name):
  digests = json.loads((reference_networks.GOLDEN / "diffusers_published.json").read_text())["digests"]
  assert diffusers_networks.digest(published_shapes(json.dumps(PUBLISHED[name]))) == digests[name]


@functools.cache
def published_shapes(config):
  return shapes(diffusers.config_from(json.loads(config)))


def test_files_of_earlier_versions_become_the_same_parameters():
  config = diffusers.config_from(SMALL["defaults"].config)
  tensors = reference_networks.state_dict(shapes(config))
  names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
  old = {}
  for name, value in tensors.items():
    for new, before in names.items():
      name = name.replace(new, before)
    old[name] = value
  assert sum(name not in tensors for name in old) == 4 * 8  # of the four layers of attention
  expected = diffusers.params_from_state_dict(tensors, config)
  jax.tree.map(np.testing.assert_array_equal, diffusers.params_from_state_dict(old, config), expected)


@pytest.mark.parametrize("kept", [{"time_proj.W": 1}, {"time_proj.W": 1, "time_proj.weight": 1}])
def test_drawn_frequencies_have_one_name(kept):
  assert diffusers.renamed(kept) == {"time_proj.weight": 1}


def test_layouts_are_those_of_ours():
  config = diffusers.config_from(SMALL["resnet"].config)
  tensors = reference_networks.state_dict(shapes(config))
  params = diffusers.params_from_state_dict(tensors, config)
  kernel = params["down_blocks_0_resnets_0"]["conv1"]["kernel"]
  np.testing.assert_array_equal(kernel[0, 2, 3, 4], tensors["down_blocks.0.resnets.0.conv1.weight"][4, 3, 0, 2])
  kernel = params["mid_block_attentions_0"]["to_out_0"]["kernel"]
  np.testing.assert_array_equal(kernel[5, 7], tensors["mid_block.attentions.0.to_out.0.weight"][7, 5])
  np.testing.assert_array_equal(params["class_embedding"]["embedding"], tensors["class_embedding.weight"])


def test_filters_keep_a_constant_picture_and_are_each_others_transpose():
  x = jnp.ones((6, 4, 2))
  assert np.allclose(diffusers_unet.fir_down(x)[1:-1, 1:-1], 1) and np.allclose(diffusers_unet.fir_up(x)[2:-2, 2:-2], 1)
  rng = np.random.default_rng(0)
  x, y = jnp.asarray(rng.standard_normal((6, 4, 2))), jnp.asarray(rng.standard_normal((3, 2, 2)))
  np.testing.assert_allclose(
    4 * jnp.vdot(diffusers_unet.fir_down(x), y), jnp.vdot(x, diffusers_unet.fir_up(y)), rtol=1e-5
  )


@pytest.mark.slow
def test_remat_and_bfloat16_are_close():
  config, params = network("resnet")
  case = SMALL["resnet"]
  plain = output_and_gradient(config, params, case)
  remat = output_and_gradient(dataclasses.replace(config, remat=True), params, case)
  half = output_and_gradient(dataclasses.replace(config, dtype="bfloat16"), params, case)
  for one, again, coarse in zip(plain, remat, half):
    assert relative(again, one) < 1e-5
    assert coarse.dtype == jnp.float32 and 1e-4 < relative(coarse, one) < 0.06  # 0.4 % an operation


@pytest.mark.slow
def test_a_score_network_gives_the_noise_of_a_picture_in_our_range():
  config = diffusers.config_from({**SMALL["skip"].config, "layers_per_block": 1}, score=True)
  plain = dataclasses.replace(config, score=False)
  params = diffusers.params_from_state_dict(reference_networks.state_dict(shapes(config)), config)
  x, _ = SMALL["skip"].arrays()
  eps = reference_networks.compiled(diffusers_unet.apply_function(config))(params, x, jnp.float32(0.8))
  score = reference_networks.compiled(diffusers_unet.apply_function(plain))(params, (x + 1) / 2, jnp.float32(0.4))
  # Tweedie in [0, 1], x + s^2 score with s = 0.4, is (1 + x - 0.8 eps) / 2 in [-1, 1].
  np.testing.assert_allclose(x - 0.8 * eps, 2 * ((x + 1) / 2 + 0.4**2 * score) - 1, rtol=1e-4, atol=1e-5)


PLAIN = SMALL["defaults"].config


@pytest.mark.parametrize(
  "change, message",
  [
    ({"act_fn": "gelu"}, "act_fn: expected one of silu, swish, got 'gelu', which is not known here"),
    ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type: expected one of None, UNetMidBlock2D, got"),
    ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift: expected one of default, scale_shift, got"),
    ({"time_embedding_type": "learned"}, "time_embedding_type: expected one of positional, fourier, got 'learned'"),
    ({"class_embed_type": "projection"}, "class_embed_type: expected one of None, timestep, identity, got"),
    ({"downsample_padding": 2}, "downsample_padding: expected one of 0, 1, got 2"),
    ({"down_block_types": ["DownBlock2D"]}, "down_block_types: expected one of each level of .*, 2, got 1"),
    (
      {"down_block_types": ["DownBlock2D", "KDownBlock2D"]},
      "down_block_types: expected of DownBlock2D, .*, got 'KDown",
    ),
    ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, None),  # the last one only passes a picture on
    ({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]}, "up_block_types: expected Skip blocks at all levels finer"),
    ({"down_block_types": ["SkipDownBlock2D"] * 2, "in_channels": 1}, "expected 3 with Skip blocks, got 1 and 3"),
    ({"norm_num_groups": 3}, "norm_num_groups: expected a divisor of the 16 channels"),
    ({"attention_head_dim": 5}, "attention_head_dim: expected a divisor of the 16 channels"),
    ({"layers_per_block": 0}, "expected positive whole numbers"),
    ({"freq_shift": 8}, "freq_shift: expected another number than that of the frequencies, 8"),
  ],
)
def test_a_config_that_is_no_network_is_named(change, message):
  if message is None:
    diffusers.config_from({**PLAIN, **change})
    return
  with pytest.raises(ValueError, match=message):
    diffusers.config_from({**PLAIN, **change})


def test_a_config_that_is_silent_has_the_defaults_of_the_library():
  config = diffusers.config_from({"_class_name": "UNet2DModel"})
  assert config.block_out_channels == (224, 448, 672, 896) and config.up_block_types[0] == "AttnUpBlock2D"
  assert (config.attention_head_dim, config.norm_eps, config.downsample_padding) == (8, 1e-5, 1)
  assert diffusers.config_from({"downsample_type": None}).downsample_type == "conv"
  assert diffusers.unknown({"decay": 0.99, "dual": True, "other": None, "_name_or_path": "x"}) == ["dual"]
