"""What conversion finds out by itself: the network in a file, and how it is to be read, by denoising a portrait."""

import dataclasses
import json

import denoising_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from denoising_network import convert
from oracle_network import Oracle

from diffinv.nets import guided_diffusion, unet
from diffinv.priors import Prior, families, key_prefixes
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule

NAME = "unet_tiny64"
SIZE = f"--image_size={denoising_network.SIZE}"
RIGHT = ("--num_heads=4", "--attention_order=new")


@pytest.fixture(scope="module")
def weights():
  shapes = {s.name: s.shape for s in guided_diffusion.sources(denoising_network.CONFIG).values()}
  return reference_networks.state_dict(shapes)


@pytest.fixture
def works(monkeypatch):
  """Let the network denoise when it is read with 4 heads in the new order."""
  Oracle(heads=(4, "new")).install(monkeypatch)


@pytest.fixture(scope="module")
def save(weights, tmp_path_factory):
  """Give a function that writes tensors, those of the network that works if not said, and returns the file."""
  from safetensors.numpy import save_file

  folder = tmp_path_factory.mktemp("weights")

  def write(tensors=weights, name="a.safetensors"):
    save_file(tensors, folder / name)
    return folder / name

  return write


def network(folder):
  return json.loads((folder / "prior.json").read_text())["network"]


def test_heads_and_order_that_were_not_said_are_found(capsys, save, works, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE)
  assert "--num_heads=4 --attention_order=new is taken, as it was not said and denoises best: 33" in said
  assert (network(tmp_path / "p")["num_heads"], network(tmp_path / "p")["attention_order"]) == (4, "new")


def test_the_order_alone_is_found(capsys, save, works, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--num_heads=4")
  assert "--num_heads=4 --attention_order=new is taken" in said
  assert network(tmp_path / "p")["attention_order"] == "new"


def test_what_is_right_is_converted_without_a_word_and_its_figures_are_kept(capsys, save, works, tmp_path):
  assert convert(capsys, save(), tmp_path / "p", SIZE, *RIGHT) == ""
  check = json.loads((tmp_path / "p" / "prior.json").read_text())["provenance"]["check"]
  assert check["denoises"] and check["sbar"] == [0.1, 0.3, 1.0] and np.shape(check["psnr"]) == (3, 3)
  assert np.all(np.array(check["psnr"]) > np.array(check["psnr_trivial"]))


def test_heads_that_are_clearly_wrong_are_warned_of_and_kept(capsys, save, works, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--num_heads=2", "--attention_order=new")
  assert said.startswith("warning: --num_heads=2 --attention_order=new gives ")
  assert network(tmp_path / "p")["num_heads"] == 2
  advice = said.partition("on bundled pictures, ")[2].split()[:2]
  assert convert(capsys, save(), tmp_path / "p", SIZE, *advice, "--overwrite") == ""  # followed, it works
  assert network(tmp_path / "p")["num_heads"] == 4


def test_everything_that_is_found_is_written(capsys, save, weights, monkeypatch, tmp_path):
  Oracle(Schedule("cosine", 1000), 0.001, "v", True, True, (4, "new")).install(monkeypatch)
  said = convert(capsys, save(), tmp_path / "p", SIZE)
  assert said.count("is taken, as it was not said and denoises best") == 6
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.prediction, prior.time_scale, prior.unit_range, prior.schedule.name) == ("v", 0.001, True, "given")
  first = weights["input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(prior.params["input_blocks_0_0"]["kernel"], first[:, :, ::-1])
  flags = ("--schedule=cosine", "--time_scale=0.001", "--prediction=v", "--pixel_range=0,1", "--channel_order=BGR")
  assert convert(capsys, save(), tmp_path / "q", SIZE, *RIGHT, *flags, "--nocheck") == ""  # said, it is the same
  other = checkpoint.load_prior(tmp_path / "q")
  jax.tree.map(np.testing.assert_array_equal, prior.params, other.params)
  assert prior.schedule == other.schedule and other.unit_range and other.prediction == "v"


def test_a_real_network_denoises_best_as_it_was_made(capsys, save, tmp_path):
  others = ("--prediction=eps", "--pixel_range=-1,1", "--schedule=linear", "--channel_order=RGB", "--time_scale=1")
  source = save(denoising_network.state_dict(), "real.safetensors")
  said = convert(capsys, source, tmp_path / "p", SIZE, "--unchecked", *others)
  assert "--num_heads=4 --attention_order=new is taken" in said


def test_an_untrained_network_is_refused_unless_told(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, *RIGHT, code=1)
  assert "no reading that was tried denoises bundled pictures" in said and "add --unchecked to convert it" in said
  assert said.count("\n") == 1 and not (tmp_path / "p").exists()
  convert(capsys, save(), tmp_path / "q", SIZE, *RIGHT, "--unchecked")
  assert not json.loads((tmp_path / "q" / "prior.json").read_text())["provenance"]["check"]["denoises"]
  assert convert(capsys, save(), tmp_path / "r", SIZE, *RIGHT, "--nocheck") == ""


def test_the_time_is_said_once(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--time_scale=0.1", "--rescale_timesteps", code=2)
  assert "--time_scale, --rescale_timesteps: expected one of them, got both" in said


def test_without_the_check_heads_must_be_said(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--nocheck", code=1)
  assert "shapes cannot tell and neither was given; see how the network was trained" in said


@pytest.mark.parametrize("steps, flags, scale", [
  (4000, (), 0.25),
  (4000, ("--rescale_timesteps",), 0.25),
  (4000, ("--norescale_timesteps",), 1.0),
  (1000, ("--rescale_timesteps",), 1.0),
])  # fmt: skip
def test_the_time_is_told_as_the_flag_says(capsys, save, tmp_path, steps, flags, scale):
  flags = (*RIGHT, *flags, "--nocheck", f"--num_steps={steps}", "--schedule=cosine")
  said = convert(capsys, save(), tmp_path / "p", SIZE, *flags)
  assert checkpoint.load_prior(tmp_path / "p").time_scale == scale
  if len(flags) > 5:
    assert said == ""
    return
  assert said.startswith("note: the network is told the time as t 1000 / num_steps; ") and said.count("\n") == 1
  advice = [word for word in said.split() if word.startswith("--")]
  assert convert(capsys, save(), tmp_path / "p", SIZE, *flags, *advice) == ""  # followed, it works
  assert checkpoint.load_prior(tmp_path / "p").time_scale == 1.0


@pytest.mark.slow
def test_a_rescaled_network_of_4000_steps_matches_the_reference(golden):
  tensors = reference_networks.shapes(NAME)
  config = guided_diffusion.identify(tensors, **reference_networks.choices(NAME))
  params = guided_diffusion.params_from_state_dict(reference_networks.state_dict(tensors), config)
  expected = golden(f"{NAME}.npz")
  step, stride = next(k for k in expected if k.startswith("out_t")), int(expected["stride"])
  x = np.random.RandomState(int(expected["x_seed"])).standard_normal((1, 3, 64, 64)).astype(np.float32)
  prior = Prior(params, unet.apply_function(config), Schedule("cosine", 4000), clip=False, time_scale=0.25)
  level = Level(jnp.float32(4 * int(step.removeprefix("out_t"))), jnp.float32(0.6), jnp.float32(0.8))
  x0 = reference_networks.compiled(lambda prior, x: prior.denoise(x, level).x0)(prior, x[0].transpose(1, 2, 0))
  got = np.asarray((x[0].transpose(1, 2, 0) - 0.6 * x0) / 0.8).transpose(2, 0, 1)[:, ::stride, ::stride]
  want = expected[step][0, :3]
  assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


PREFIXES = ("module.", "model.", "_orig_mod.", "model.diffusion_model.", "ema_model.", "_orig_mod.module.", "x.y.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_taken_off(capsys, prefix):
  names = dict.fromkeys((*families.GUIDED.anchors, "middle_block.1.qkv.weight"), 1)
  assert (
    key_prefixes.select({prefix + name: value for name, value in names.items()}, None, families.GUIDED.anchors) == names
  )
  assert f"the prefix {prefix!r} is taken off the names of 4 tensors" in capsys.readouterr().err


def test_a_prefixed_file_becomes_the_same_prior(capsys, save, weights, tmp_path):
  flags = (SIZE, *RIGHT, "--nocheck")
  convert(capsys, save(), tmp_path / "plain", *flags)
  prefixed = save({f"module.{name}": value for name, value in weights.items()}, "module.safetensors")
  convert(capsys, prefixed, tmp_path / "prefixed", *flags)
  plain, other = (checkpoint.load_prior(tmp_path / name) for name in ("plain", "prefixed"))
  jax.tree.map(np.testing.assert_array_equal, plain.params, other.params)


@pytest.mark.parametrize("prefixes", [("model.", "ema_model."), ("", "ema.")])
def test_of_several_networks_the_averaged_one_is_taken(capsys, save, weights, tmp_path, prefixes):
  tensors = {
    prefix + name: np.full_like(value, i) for i, prefix in enumerate(prefixes) for name, value in weights.items()
  }
  source, flags = save({**tensors, "decay": np.zeros(1)}, "two.safetensors"), (SIZE, *RIGHT, "--nocheck")
  said = convert(capsys, source, tmp_path / "p", *flags)
  assert f"{prefixes[1]!r} is taken, as the average of the weights" in said
  assert np.all(checkpoint.load_prior(tmp_path / "p").params["out_2"]["bias"] == 1)
  if prefixes[0]:  # or else the other tensor is one of it
    convert(capsys, source, tmp_path / "o", *flags, f"--key_prefix={prefixes[0]}")
    assert np.all(checkpoint.load_prior(tmp_path / "o").params["out_2"]["bias"] == 0)
  said = convert(capsys, source, tmp_path / "q", *flags, f"--key_prefix={prefixes[1]}")
  assert np.all(checkpoint.load_prior(tmp_path / "q").params["out_2"]["bias"] == 1)
  assert "other tensors are left out" in said
  said = convert(capsys, source, tmp_path / "p", *flags, "--key_prefix=other", code=1)
  assert "--key_prefix: expected one of " in said and "got 'other'" in said


@pytest.mark.parametrize(
  "taken, given, what",
  [
    (6, 6, "a super-resolution network of 3 noisy and 3 other channels in, their mean and variance out"),
    (6, 3, "a super-resolution network of 3 noisy and 3 other channels in, their mean out"),
    (2, 1, "a super-resolution network of 1 noisy and 1 other channels in, their mean out"),
    (4, 6, "a conditional network of 3 noisy and 1 other channels in"),
    (3, 4, "a network of 3 channels in and 4 out"),
  ],
)
def test_a_network_that_takes_a_picture_besides_is_refused(capsys, save, weights, tmp_path, taken, given, what):
  last = np.zeros((given, 32, 3, 3), np.float32)
  changed = {"input_blocks.0.0.weight": np.zeros((32, taken, 3, 3), np.float32), "out.2.weight": last}
  source = save({**weights, **changed, "out.2.bias": last[:, 0, 0, 0]}, "conditional.safetensors")
  said = convert(capsys, source, tmp_path / "p", SIZE, "--num_heads=4", code=1)
  assert f"expected an unconditional guided-diffusion UNet, got {what}" in said and said.count("\n") == 1


@pytest.mark.parametrize(
  "name, what",
  [
    ("transformer.resblocks.0.attn.c_qkv.weight", "a text-conditional network, as of GLIDE"),
    ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "a text-conditional network, as of Stable Diffusion"),
    ("down_blocks.0.resnets.0.conv1.weight", "a network of the diffusers library"),
  ],
)
def test_a_network_of_another_kind_is_called_by_its_name(name, what):
  with pytest.raises(ValueError, match=what):
    guided_diffusion.check_unconditional({name: (4, 4)})


def test_a_classifier_is_called_one():
  with pytest.raises(ValueError, match="a classifier"):
    guided_diffusion.check_unconditional({"input_blocks.0.0.weight": (32, 3, 3, 3), "out.2.c_proj.weight": (4, 4)})


def test_heads_of_the_decoder_are_its_own():
  config = denoising_network.replaced(num_heads=4, num_heads_upsample=2)
  assert (unet.heads(config, 32), unet.heads(config, 32, decoder=True)) == (4, 2)
  assert unet.heads(dataclasses.replace(config, num_heads_upsample=None), 32, decoder=True) == 4
  params = reference_networks.random_params(checkpoint.param_shapes(config))
  x, t = jnp.linspace(-1, 1, 192, dtype=jnp.float32).reshape(8, 8, 3), jnp.float32(10.0)
  outputs = [
    unet.apply_function(denoising_network.replaced(num_heads=n, num_heads_upsample=up))(params, x, t)
    for n, up in ((4, 4), (4, None), (4, 2), (2, 4))
  ]
  np.testing.assert_array_equal(outputs[0], outputs[1])
  assert not np.allclose(outputs[2], outputs[0]) and not np.allclose(outputs[3], outputs[2])


def test_heads_of_the_decoder_are_kept(capsys, save, tmp_path):
  flags = (SIZE, *RIGHT, "--num_heads_upsample=2", "--nocheck")
  assert convert(capsys, save(), tmp_path / "p", *flags) == ""
  assert network(tmp_path / "p")["num_heads_upsample"] == 2
  assert checkpoint.load_description(tmp_path / "p")[1].num_heads_upsample == 2
  flags = (SIZE, "--num_head_channels=8", "--num_heads_upsample=2")
  assert "--num_heads_upsample: expected none beside --num_head_channels" in convert(
    capsys, save(), tmp_path / "q", *flags, code=2
  )
