import dataclasses

import jax
import numpy as np
import pytest
import reference_networks

from diffinv.nets import guided_diffusion

ALL = (*reference_networks.SMALL, "unet_ffhq256", "unet_imagenet256_uncond")
NAME = "unet_tiny64_class_cond_new_attention"


@pytest.fixture(scope="module")
def tiny():
  tensors = reference_networks.shapes(NAME)
  return reference_networks.state_dict(tensors), guided_diffusion.identify(tensors, **reference_networks.choices(NAME))


@pytest.mark.parametrize("name", ALL)
def test_architecture_is_inferred_from_shapes(name):
  options = reference_networks.describe(name)["create_model"]
  config = guided_diffusion.identify(reference_networks.shapes(name), **reference_networks.choices(name))
  defaults = {256: (1, 1, 2, 2, 4, 4), 64: (1, 2, 3, 4)}
  mult = options["channel_mult"]
  assert config.channel_mult == (tuple(map(int, mult.split(","))) if mult else defaults[options["image_size"]])
  resolutions = {options["image_size"] // 2**level for level in config.attention_levels}
  assert resolutions == set(map(int, options["attention_resolutions"].split(",")))
  assert config.model_channels == options["num_channels"]
  assert config.num_res_blocks == options["num_res_blocks"]
  assert config.out_channels == (6 if options["learn_sigma"] else 3)
  assert config.num_classes == (1000 if options["class_cond"] else None)
  assert config.scale_shift_norm == options["use_scale_shift_norm"]
  assert config.resblock_updown == options["resblock_updown"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_every_tensor_has_its_parameter(name):
  tensors = reference_networks.shapes(name)
  config = guided_diffusion.identify(tensors, **reference_networks.choices(name))
  sources = guided_diffusion.sources(config)
  assert {source.name: source.shape for source in sources.values()} == tensors
  assert len(sources) == len(tensors)
  assert sum(int(np.prod(s.shape)) for s in sources.values()) == reference_networks.describe(name)["parameters"]


@pytest.mark.parametrize("preset, name", [("ffhq256", "unet_ffhq256"), ("imagenet256", "unet_imagenet256_uncond")])
def test_presets_are_the_published_networks(preset, name):
  config = guided_diffusion.identify(reference_networks.shapes(name), preset=preset)
  assert config == guided_diffusion.PRESETS[preset]
  assert (config.num_head_channels, config.attention_order) == (64, "legacy")
  given = {"num_heads": 4, "attention_order": "new"}
  changed = guided_diffusion.identify(reference_networks.shapes(name), preset=preset, **given)
  assert changed == dataclasses.replace(config, num_heads=4, num_head_channels=None, attention_order="new")


@pytest.mark.parametrize("preset, name", [("imagenet256", "unet_ffhq256"), ("ffhq256", "unet_imagenet256_uncond")])
def test_another_network_than_the_preset_is_an_error(preset, name):
  right = "ffhq256" if preset == "imagenet256" else "imagenet256"
  with pytest.raises(ValueError, match=f"preset: '{preset}' is a network of .* the file holds .* use preset '{right}'"):
    guided_diffusion.identify(reference_networks.shapes(name), preset=preset)


def test_unknown_network_than_the_preset_is_an_error():
  with pytest.raises(ValueError, match="leave the preset out and give the heads"):
    guided_diffusion.identify(reference_networks.shapes("unet_tiny64"), preset="ffhq256")


def test_heads_must_be_given():
  with pytest.raises(ValueError, match="neither was given; the shapes are those of preset 'ffhq256'"):
    guided_diffusion.identify(reference_networks.shapes("unet_ffhq256"))


def test_unknown_preset_is_named():
  with pytest.raises(ValueError, match="preset: expected one of ffhq256, imagenet256, got 'celeba'"):
    guided_diffusion.identify(reference_networks.shapes("unet_ffhq256"), preset="celeba")


def test_another_kind_of_network_is_an_error():
  with pytest.raises(ValueError, match="tensor 'out.2.weight': expected in a guided-diffusion UNet"):
    guided_diffusion.identify({"conv1.weight": (64, 3, 7, 7)}, num_heads=4)
  tensors = reference_networks.shapes(NAME)
  del tensors["input_blocks.0.0.weight"]
  with pytest.raises(ValueError, match="tensor 'input_blocks.0.0.weight'"):
    guided_diffusion.identify(tensors, num_heads=4)


def test_layouts_are_those_of_ours(tiny):
  state_dict, config = tiny
  params = guided_diffusion.params_from_state_dict(state_dict, config)
  kernel = params["input_blocks_1_0"]["in_conv"]["kernel"]
  np.testing.assert_array_equal(kernel[0, 2, 3, 4], state_dict["input_blocks.1.0.in_layers.2.weight"][4, 3, 0, 2])
  qkv = params["middle_block_1"]["qkv"]["kernel"]
  np.testing.assert_array_equal(qkv[5, 70], state_dict["middle_block.1.qkv.weight"][70, 5, 0])
  np.testing.assert_array_equal(params["label_emb"]["embedding"], state_dict["label_emb.weight"])
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


def test_missing_tensor_is_named(tiny):
  state_dict, config = tiny
  state_dict = {k: v for k, v in state_dict.items() if k != "middle_block.1.qkv.bias"}
  with pytest.raises(ValueError, match=r"tensor 'middle_block.1.qkv.bias': expected shape \[192\], the file has none"):
    guided_diffusion.params_from_state_dict(state_dict, config)


def test_extra_tensor_is_named(tiny):
  state_dict, config = tiny
  with pytest.raises(ValueError, match=r"tensor 'ema.decay': expected no such tensor, found \[1\]"):
    guided_diffusion.params_from_state_dict({**state_dict, "ema.decay": np.zeros(1, np.float32)}, config)


def test_misshapen_tensor_is_named(tiny):
  state_dict, config = tiny
  changed = {**state_dict, "out.2.weight": state_dict["out.2.weight"][:, :, :1]}
  with pytest.raises(ValueError, match=r"tensor 'out.2.weight': expected shape \[6, 32, 3, 3\], found \[6, 32, 1, 3\]"):
    guided_diffusion.params_from_state_dict(changed, config)


def test_many_faults_are_counted(tiny):
  state_dict, config = tiny
  state_dict = {k: v for k, v in state_dict.items() if not k.startswith("middle_block.1")}
  with pytest.raises(ValueError, match=r"the file has none \(and 5 more like it\)"):
    guided_diffusion.params_from_state_dict(state_dict, config)


@pytest.mark.parametrize(
  "value, got", [(np.full(6, np.nan, np.float32), "nan or infinity"), (np.zeros(6, np.int64), "type int64")]
)
@pytest.mark.slow
def test_values_that_are_no_weights_are_named(tiny, value, got):
  state_dict, config = tiny
  with pytest.raises(ValueError, match=f"tensor 'out.2.bias': expected finite floating-point values, got {got}"):
    guided_diffusion.params_from_state_dict({**state_dict, "out.2.bias": value}, config)


@pytest.mark.slow
def test_half_precision_files_become_float32(tiny):
  state_dict, config = tiny
  half = {k: v.astype(np.float16) for k, v in state_dict.items()}
  params = guided_diffusion.params_from_state_dict(half, config)
  expected = guided_diffusion.params_from_state_dict(state_dict, config)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected)):
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=2e-3)
