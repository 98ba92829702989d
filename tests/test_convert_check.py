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

from diffinv.nets import guided_diffusion, unet
from diffinv.priors import Prior, key_prefixes, portrait, readings
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule

NAME = "unet_tiny64"
SIZE = f"--image_size={denoising_network.SIZE}"
RIGHT = ("--num_heads=4", "--attention_order=new")


@pytest.fixture(scope="module")
def weights():
  return denoising_network.state_dict()


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


def test_heads_and_order_that_were_not_said_are_found(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE)
  assert "--num_heads=4 --attention_order=new is taken, as it was not said and denoises a portrait best" in said
  assert (network(tmp_path / "p")["num_heads"], network(tmp_path / "p")["attention_order"]) == (4, "new")


def test_the_order_alone_is_found(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--num_heads=4")
  assert "--attention_order=new is taken" in said
  assert network(tmp_path / "p")["attention_order"] == "new"


def test_what_is_right_is_converted_without_a_word(capsys, save, tmp_path):
  assert convert(capsys, save(), tmp_path / "p", SIZE, *RIGHT) == ""


def test_heads_that_are_clearly_wrong_are_warned_of_and_kept(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--num_heads=2", "--attention_order=new")
  assert said.startswith("warning: --num_heads=2 --attention_order=new leaves ")
  assert network(tmp_path / "p")["num_heads"] == 2
  advice = said.partition("on a portrait, ")[2].split()[:2]
  assert convert(capsys, save(), tmp_path / "p", SIZE, *advice, "--overwrite") == ""  # followed, it works
  assert network(tmp_path / "p")["num_heads"] == 4


def test_an_untrained_network_is_neither_refused_nor_warned_of(capsys, save, tmp_path):
  config = denoising_network.CONFIG
  shapes = {s.name: s.shape for s in guided_diffusion.sources(config).values()}
  source = save(reference_networks.state_dict(shapes), "random.safetensors")
  said = convert(capsys, source, tmp_path / "p", SIZE, *RIGHT)
  assert said.startswith("note: the check on a portrait is inconclusive: ") and said.count("\n") == 1
  said = convert(capsys, source, tmp_path / "q", SIZE, code=1)
  assert "shapes cannot tell and neither was given; none that was tried denoises a portrait" in said
  assert convert(capsys, source, tmp_path / "q", SIZE, *RIGHT, "--nocheck") == ""


def test_without_the_check_heads_must_be_said(capsys, save, tmp_path):
  said = convert(capsys, save(), tmp_path / "p", SIZE, "--nocheck", code=1)
  assert "shapes cannot tell and neither was given; see how the network was trained" in said


def tried(scale, *errors):
  return portrait.Tried(portrait.Reading(denoising_network.CONFIG, scale), np.array(errors))


def choose(monkeypatch, best, other, rescaled=None):
  """Let `readings.choose` choose among two factors of time, `best` the better on the portrait."""
  monkeypatch.setattr(portrait, "try_all", lambda prior, readings: [best, other])
  names = ("num_head_channels", "num_heads_upsample", "attention_order")
  said = readings.Said({"num_heads": 4, **dict.fromkeys(names), "attention_order": "new"}, None, rescaled, 4000)
  shapes = {s.name: s.shape for s in guided_diffusion.sources(denoising_network.CONFIG).values()}
  possible = [one for one in readings.possible(shapes, said) if one.network == denoising_network.CONFIG]
  prior = Prior({}, None, Schedule("cosine", 4000), image_shape=(16, 16, 3))
  return readings.choose(prior, possible, said).time_scale


def test_the_factor_of_time_that_denoises_clearly_better_is_taken(monkeypatch, capsys):
  good, bad = (0.3, 0.2, 0.1), (0.5, 0.4, 0.3)
  assert choose(monkeypatch, tried(1.0, *good), tried(0.25, *bad)) == 1.0
  assert "--norescale_timesteps is taken" in capsys.readouterr().err
  assert choose(monkeypatch, tried(1.0, 0.3, 0.4, 0.3), tried(0.25, 0.31, 0.4, 0.3)) == 0.25  # no clear winner
  assert choose(monkeypatch, tried(1.0, *good), tried(0.25, *bad), rescaled=True) == 0.25  # said
  assert capsys.readouterr().err.startswith("warning: ")
  assert choose(monkeypatch, tried(1.0, 1.5, 1.2, 1.1), tried(0.25, 3.0, 3.0, 3.0)) == 0.25  # none works
  assert "inconclusive" in capsys.readouterr().err


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
  names = dict.fromkeys((*key_prefixes.ANCHORS, "middle_block.1.qkv.weight"), 1)
  assert key_prefixes.select({prefix + name: value for name, value in names.items()}, None) == names
  assert f"the prefix {prefix!r} is taken off the names of 4 tensors" in capsys.readouterr().err


def test_a_prefixed_file_becomes_the_same_prior(capsys, save, weights, tmp_path):
  flags = (SIZE, *RIGHT, "--nocheck")
  convert(capsys, save(), tmp_path / "plain", *flags)
  prefixed = save({f"module.{name}": value for name, value in weights.items()}, "module.safetensors")
  convert(capsys, prefixed, tmp_path / "prefixed", *flags)
  plain, other = (checkpoint.load_prior(tmp_path / name) for name in ("plain", "prefixed"))
  jax.tree.map(np.testing.assert_array_equal, plain.params, other.params)


@pytest.mark.parametrize("prefixes", [("model.", "ema_model."), ("", "ema.")])
def test_of_several_networks_one_must_be_chosen(capsys, save, weights, tmp_path, prefixes):
  tensors = {
    prefix + name: np.full_like(value, i) for i, prefix in enumerate(prefixes) for name, value in weights.items()
  }
  source, flags = save({**tensors, "decay": np.zeros(1)}, "two.safetensors"), (SIZE, *RIGHT, "--nocheck")
  said = convert(capsys, source, tmp_path / "p", *flags, code=1)
  assert "--key_prefix is missing: the file holds 2 networks" in said
  assert f"; {prefixes[1]!r} looks like the average" in said
  said = convert(capsys, source, tmp_path / "p", *flags, f"--key_prefix={prefixes[1]}")
  assert np.all(checkpoint.load_prior(tmp_path / "p").params["out_2"]["bias"] == 1)
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
