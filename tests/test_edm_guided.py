"""Guided-diffusion networks in EDM's preconditioning: teachers of consistency models, and InverseBench's ADM."""

import dataclasses
import json
import sys

import denoising_network
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from denoising_network import convert
from oracle_network import Oracle

from diffinv.nets import guided_diffusion, unet
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule

SIZE = f"--image_size={denoising_network.SIZE}"
HEADS = ("--num_heads=4", "--attention_order=new")
SAID = (SIZE, *HEADS, "--prediction=edm")
NOISE = Schedule("karras", 1000, ends=(0.002, 80.0))
RELATIVE = 1e-5  # of the norm of the difference: roundings of float32 through some layers


@pytest.fixture(scope="module")
def weights():
  """Return weights as the consistency models' code names them, whose attention has 1x1 convolutions."""
  shapes = {s.name: s.shape for s in guided_diffusion.sources(denoising_network.CONFIG).values()}
  pixels = {name: (*shape, 1) if len(shape) == 3 else shape for name, shape in shapes.items()}
  assert any(shapes[name] != pixels[name] for name in shapes)
  return reference_networks.state_dict(pixels)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
  return save(tmp_path_factory.mktemp("weights") / "edm_cat256_ema.safetensors", weights)


def save(path, tensors):
  from safetensors.numpy import save_file

  save_file(tensors, path)
  return path


def denoised(weights, x, cotangent, sigma, factor):
  """Return D(x; sigma) by Table 1 of the paper, sums in float64, and the pull-back of a cotangent by the chain rule."""
  params = guided_diffusion.params_from_state_dict(weights, denoising_network.CONFIG)
  norm = np.sqrt(sigma**2 + 0.5**2)
  c_skip, c_out, c_in, told = 0.5**2 / norm**2, sigma * 0.5 / norm, 1 / norm, factor * np.log(sigma) / 4

  def run(params, x, t, cotangent):
    output, pull = jax.vjp(lambda x: unet.apply_function(denoising_network.CONFIG)(params, x, t), x)
    return output, pull(cotangent)[0]

  found = reference_networks.compiled(run)(params, *map(jnp.float32, (c_in * x, told, cotangent)))
  output, pulled = (np.asarray(value, np.float64) for value in found)
  return c_skip * x + c_out * output, c_skip * cotangent + c_out * c_in * pulled


def check_exact(folder, weights, factor, sigma):
  prior, rng = checkpoint.load_prior(folder), np.random.RandomState(0)
  x, cotangent = rng.uniform(-1, 1, (2, 8, 8, 3))
  x = 0.5 * x + sigma * rng.standard_normal(x.shape)
  alpha = 1 / np.sqrt(1 + sigma**2)
  level = Level(*(jnp.float32(value) for value in (0.0, alpha, alpha * sigma)))

  def run(prior, x, cotangent):
    output, pull = jax.vjp(lambda x: prior.denoise(level.alpha * x, level).x0, x)
    return output, pull(cotangent)[0]

  prior = dataclasses.replace(prior, clip=False)
  got = reference_networks.compiled(run)(prior, jnp.float32(x), jnp.float32(cotangent))
  for ours, theirs in zip(got, denoised(weights, x, cotangent, sigma, factor), strict=True):
    assert np.linalg.norm(ours - theirs) < RELATIVE * np.linalg.norm(theirs)


@pytest.mark.parametrize("flags, factor", [((), 1000.0), (("--norescale_timesteps",), 1.0)])
def test_a_state_dict_denoises_by_the_formula(capsys, file, weights, tmp_path, flags, factor):
  said = convert(capsys, file, tmp_path / "p", *SAID, *flags, "--nocheck")
  assert said.count("note: the network is told 1000 ln(sigma)/4; ") == (not flags)
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.prediction, prior.time_scale, prior.schedule) == ("edm", factor, NOISE)
  check_exact(tmp_path / "p", weights, factor, 0.3)


@pytest.mark.parametrize("factor, flag", [(1000.0, "--rescale_timesteps"), (1.0, "--norescale_timesteps")])
def test_the_preconditioning_is_found_by_trying(capsys, file, monkeypatch, tmp_path, factor, flag):
  Oracle(prediction="edm", time_scale=factor, heads=(4, "new")).install(monkeypatch)
  said = convert(capsys, file, tmp_path / "p", SIZE)
  assert "--prediction=edm is taken, as it was not said and denoises best: 33" in said
  assert (f"{flag} is taken" in said) == (factor != 1.0) and "--schedule" not in said and "--pixel_range" not in said
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.prediction, prior.time_scale, prior.schedule) == ("edm", factor, NOISE)
  check = json.loads((tmp_path / "p" / "prior.json").read_text())["provenance"]["check"]
  assert np.mean(check["psnr"]) > np.mean(check["psnr_of_next_best"]) + 1
  assert convert(capsys, file, tmp_path / "q", *SAID, flag) == ""  # said, it is the same
  other = checkpoint.load_prior(tmp_path / "q")
  assert (prior.schedule, prior.time_scale, prior.prediction) == (other.schedule, other.time_scale, other.prediction)


def test_a_real_network_denoises_best_as_it_was_made(capsys, tmp_path):
  tensors = denoising_network.state_dict(schedule=NOISE, time_scale=1000.0, prediction="edm")
  source = save(tmp_path / "real.safetensors", tensors)
  said = convert(capsys, source, tmp_path / "q", SIZE, *HEADS, "--channel_order=RGB", "--unchecked")
  assert "--prediction=edm is taken" in said


def test_what_was_said_wrongly_is_warned_of_with_what_works(capsys, file, monkeypatch, tmp_path):
  Oracle(prediction="edm", time_scale=1000.0).install(monkeypatch)
  said = convert(capsys, file, tmp_path / "p", SIZE, *HEADS, "--prediction=eps", code=1)
  assert "--prediction=edm does, 33" in said
  said = convert(capsys, file, tmp_path / "p", SIZE, *HEADS, "--schedule=linear", code=1)
  assert "--prediction=edm does, 33" in said
  Oracle(prediction="v", schedule=Schedule("cosine")).install(monkeypatch)
  said = convert(capsys, file, tmp_path / "p", *SAID, code=1)
  assert "; --schedule=cosine --prediction=v does, 33" in said


def test_a_network_with_a_variance_is_not_tried_so(capsys, monkeypatch, tmp_path):
  config = denoising_network.replaced(out_channels=6)
  Oracle(prediction="edm", time_scale=1000.0).install(monkeypatch)
  source = save(tmp_path / "a.safetensors", denoising_network.random_state_dict(config))
  assert "no reading that was tried" in convert(capsys, source, tmp_path / "p", SIZE, *HEADS, code=1)


@pytest.mark.parametrize(
  "flags, message",
  [
    (("--schedule=cosine",), "--schedule: expected none, as prediction=edm is of networks that are told the noise"),
    (("--pixel_range=0,1",), "--pixel_range: expected -1,1 with --prediction=edm, got 0,1"),
  ],
)
def test_what_has_no_meaning_beside_it_is_refused(capsys, file, tmp_path, flags, message):
  assert message in convert(capsys, file, tmp_path / "p", *SAID, *flags, code=2)


def test_a_folder_of_diffusers_is_no_such_network(capsys, tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "config.json").write_text("{}")
  said = convert(capsys, tmp_path / "a", tmp_path / "p", "--prediction=edm", code=2)
  assert "--prediction: expected another than edm with a folder of the diffusers library" in said


@pytest.fixture
def exported(monkeypatch, load_tool, tmp_path, weights):
  """Give a function that exports InverseBench's network, with other fields of its preconditioning."""
  torch = pytest.importorskip("torch")
  import edm_code

  tool = load_tool("export_edm")

  def run(name="a", **fields):
    network = edm_code.EDMPrecond(weights, **fields)
    network.img_resolution, network.model.__class__ = 8, edm_code.UNetModel
    torch.save({"ema": network}, tmp_path / f"{name}.pt")
    monkeypatch.setattr(sys, "argv", ["export_edm.py", str(tmp_path / f"{name}.pt"), str(tmp_path / name)])
    tool.main()
    return tmp_path / name

  return run


def test_a_network_of_inversebench_denoises_by_the_formula(capsys, exported, weights, monkeypatch, tmp_path):
  folder = exported()
  said = json.loads((folder / "edm.json").read_text())
  assert (said["network"], said["image_size"], said["preconditioning"]) == ("UNetModel", 8, "edm")
  assert convert(capsys, folder, tmp_path / "p", *HEADS, "--nocheck") == ""
  check_exact(tmp_path / "p", weights, 1.0, 0.3)
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.image_shape, prior.clip, prior.schedule) == ((8, 8, 3), False, NOISE)
  Oracle(prediction="edm", heads=(4, "new")).install(monkeypatch)
  said = convert(capsys, folder, tmp_path / "q")
  assert said.startswith("note: --num_heads=4 --attention_order=new is taken") and said.count("\n") == 1


def test_another_preconditioning_of_it_is_refused(capsys, exported, tmp_path):
  said = convert(capsys, exported("b", sigma_data=0.4), tmp_path / "p", "--nocheck", *HEADS, code=1)
  assert "sigma_data: expected 0.5 of a guided-diffusion network, got 0.4, which is not read" in said
  folder = exported("c")
  fields = json.loads((folder / "edm.json").read_text())
  (folder / "edm.json").write_text(json.dumps({**fields, "preconditioning": "vp"}))
  said = convert(capsys, folder, tmp_path / "p", "--nocheck", *HEADS, code=1)
  assert "preconditioning: expected edm of a guided-diffusion network, got 'vp', which is not read" in said
