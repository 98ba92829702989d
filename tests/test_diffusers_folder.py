"""Folders of the diffusers library: what becomes a prior, and what is said of the others."""

import json
import os
import re

import diffusers_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from denoising_network import convert
from oracle_network import Oracle

from diffinv.nets import diffusers
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule

DDPM = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "variance_type": "fixed_large"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.36.0"}
PIPELINE = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "x"]}
# A network that compiles at once.
TINY = {
  "_class_name": "UNet2DModel",
  "_diffusers_version": "0.4",
  "block_out_channels": [8],
  "down_block_types": ["DownBlock2D"],
  "up_block_types": ["UpBlock2D"],
  "layers_per_block": 1,
  "norm_num_groups": 4,
  "mid_block_type": None,
  "sample_size": 16,
}


NOTHING = {"a": np.zeros(1, np.float32)}


def tensors(config):
  sources = diffusers.sources(diffusers.config_from(config)).values()
  return reference_networks.state_dict({source.name: source.shape for source in sources})


def write(folder, config=TINY, scheduler=DDPM, *, unet="unet", index=PIPELINE, weights=None, name=None):
  """Write a folder of the library; `unet`: of the network, "" for the folder itself."""
  from safetensors.numpy import save_file

  at = folder / unet
  at.mkdir(parents=True, exist_ok=True)
  (at / "config.json").write_text(json.dumps(config))
  save_file(tensors(config) if weights is None else weights, at / (name or "diffusion_pytorch_model.safetensors"))
  if index is not None:
    (folder / "model_index.json").write_text(json.dumps(index))
  if scheduler is not None:
    place = folder / "scheduler" if unet else folder
    place.mkdir(exist_ok=True)
    (place / "scheduler_config.json").write_text(json.dumps(scheduler))
  return folder


def description(folder):
  return json.loads((folder / "prior.json").read_text())


@pytest.mark.parametrize("unet, given", [("unet", ""), ("unet", "unet"), ("", ""), ("", "config.json")])
def test_a_pipeline_and_its_network_become_the_same_prior(capsys, tmp_path, unet, given):
  source = write(tmp_path / "in", unet=unet)
  assert convert(capsys, source / given, tmp_path / "p", "--nocheck") == ""
  prior, expected = checkpoint.load_prior(tmp_path / "p"), diffusers.config_from(TINY)
  params = diffusers.params_from_state_dict(tensors(TINY), expected)
  jax.tree.map(np.testing.assert_array_equal, prior.params, params)
  assert checkpoint.load_description(tmp_path / "p")[1] == expected
  assert (prior.image_shape, prior.size_multiple, prior.time_scale) == ((16, 16, 3), 1, 1.0)
  assert (prior.prediction, prior.variance, prior.clip) == ("eps", "fixed_large", True)
  assert prior.schedule == Schedule("linear", 1000, ends=(1e-4, 0.02))
  provenance = description(tmp_path / "p")["provenance"]
  assert provenance["source"] == f"{unet or 'in'}/diffusion_pytorch_model.safetensors"
  assert (provenance["scheduler"], provenance["diffusers"]) == ("DDPMScheduler", "0.4")


def test_a_file_of_pytorch_is_read_without_running_code(capsys, tmp_path):
  torch = pytest.importorskip("torch")
  source = write(tmp_path / "in")
  (source / "unet" / "diffusion_pytorch_model.safetensors").unlink()
  torch.save(
    {k: torch.from_numpy(v) for k, v in tensors(TINY).items()}, source / "unet" / "diffusion_pytorch_model.bin"
  )
  assert convert(capsys, source, tmp_path / "p", "--nocheck") == ""
  assert description(tmp_path / "p")["provenance"]["source"] == "unet/diffusion_pytorch_model.bin"


def test_averaged_weights_are_taken_where_there_are_both(capsys, tmp_path):
  ema = {name: np.full_like(value, 2) for name, value in tensors(TINY).items()}
  source = write(tmp_path / "out" / "checkpoint-500", scheduler=None, index=None)
  average = {**TINY, "decay": 0.9999, "optimization_step": 500, "power": 0.75}
  write(source, average, None, unet="unet_ema", index=None, weights=ema)
  write(tmp_path / "out", index=PIPELINE)  # beside which the training keeps its checkpoints
  said = convert(capsys, source, tmp_path / "p", "--nocheck")
  assert said.startswith("note: of the networks in ") and "unet_ema is taken, which holds averaged weights" in said
  assert said.count("\n") == 1
  prior = checkpoint.load_prior(tmp_path / "p")
  assert np.all(np.asarray(prior.params["conv_in"]["bias"]) == 2) and prior.schedule.ends == (1e-4, 0.02)


def test_weights_in_several_files_are_put_together(capsys, tmp_path):
  from safetensors.numpy import save_file

  source, parts = write(tmp_path / "in"), list(tensors(TINY).items())
  whole = source / "unet" / "diffusion_pytorch_model.safetensors"
  whole.unlink()
  names = {}
  for i, part in enumerate((parts[:5], parts[5:])):
    name = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
    save_file(dict(part), source / "unet" / name)
    names |= {key: name for key, _ in part}
  index = source / "unet" / "diffusion_pytorch_model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
  assert convert(capsys, source, tmp_path / "p", "--nocheck") == ""
  index.write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))
  said = convert(capsys, source, tmp_path / "q", "--nocheck", code=1)
  assert "expected names of files beside it, got '../../x.safetensors'" in said


@pytest.mark.parametrize(
  "scheduler, fields",
  [
    ({}, {"name": "linear", "num_steps": 1000, "ends": [1e-4, 0.02]}),
    ({"_class_name": "DDIMScheduler", "num_train_timesteps": 400, "beta_end": 0.01, "clip_sample": False},
     {"name": "linear", "num_steps": 400, "ends": [1e-4, 0.01]}),
    ({"beta_schedule": "scaled_linear"}, {"name": "scaled_linear", "num_steps": 1000, "ends": [1e-4, 0.02]}),
    ({"beta_schedule": "squaredcos_cap_v2"}, {"name": "cosine", "num_steps": 1000}),
    ({"beta_schedule": "sigmoid"}, {"name": "sigmoid", "num_steps": 1000, "ends": [1e-4, 0.02]}),
    ({"trained_betas": [0.1, 0.2, 0.3]}, {"name": "given", "num_steps": 3, "betas": [0.1, 0.2, 0.3]}),
    ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
     {"name": "linear", "num_steps": 1000, "ends": [1e-4, 0.02], "zero_snr": True}),
    ({"prediction_type": "sample"}, {"name": "linear", "num_steps": 1000, "ends": [1e-4, 0.02]}),
  ],
)  # fmt: skip
def test_the_schedule_is_that_of_the_scheduler(capsys, tmp_path, scheduler, fields):
  convert(capsys, write(tmp_path / "in", scheduler=scheduler), tmp_path / "p", "--nocheck")
  written, prior = description(tmp_path / "p"), checkpoint.load_prior(tmp_path / "p")
  assert written["schedule"] == fields
  predictions = {"v_prediction": "v", "sample": "x0"}
  assert prior.prediction == predictions.get(scheduler.get("prediction_type"), "eps")
  assert prior.clip == scheduler.get("clip_sample", True) and prior.variance == "fixed_small"
  assert np.all(np.diff(prior.schedule.alpha_bar()) < 0)


def test_what_the_flags_say_comes_before_the_files(capsys, tmp_path):
  flags = ("--schedule=cosine", "--num_steps=500", "--image_size=32", "--variance=fixed_small", "--rescale_timesteps")
  convert(capsys, write(tmp_path / "in"), tmp_path / "p", "--nocheck", *flags)
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.schedule, prior.image_shape) == (Schedule("cosine", 500), (32, 32, 3))
  assert (prior.variance, prior.time_scale) == ("fixed_small", 2.0)
  said = convert(capsys, tmp_path / "in", tmp_path / "q", "--num_heads=4", code=2)
  assert "--num_heads: expected none with a folder of the diffusers library" in said


def test_a_network_alone_is_taken_to_have_the_common_schedule(capsys, tmp_path):
  source = write(tmp_path / "in", scheduler=None, index=None)
  said = convert(capsys, source / "unet", tmp_path / "p", "--nocheck")
  assert "no scheduler_config.json is with it; its noise schedule is taken to be linear of 1000 steps" in said
  assert description(tmp_path / "p")["schedule"] == {"name": "linear", "num_steps": 1000}


def test_classes_are_told_and_taken(capsys, tmp_path):
  said = convert(capsys, write(tmp_path / "in", {**TINY, "num_class_embeds": 4}), tmp_path / "p", "--nocheck")
  assert "the network is class-conditional, of 4 classes" in said
  x = jnp.linspace(-1, 1, 768).reshape(16, 16, 3)
  level = Level(jnp.float32(100), jnp.float32(0.8), jnp.float32(0.6))
  one, two = (checkpoint.load_prior(tmp_path / "p", label=label).denoise(x, level).x0 for label in (1, 2))
  assert not np.allclose(one, two)


VE = {"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50, "num_train_timesteps": 1000}
FOURIER = {**TINY, "time_embedding_type": "fourier"}


def test_a_network_of_exploding_variance_denoises_through_its_score(capsys, tmp_path):
  convert(capsys, write(tmp_path / "in", FOURIER, VE), tmp_path / "p", "--nocheck")
  prior = checkpoint.load_prior(tmp_path / "p")
  assert prior.prediction == "ve" and np.allclose(prior.schedule.ends, (0.02, 100.0))
  config, params = (
    diffusers.config_from(FOURIER),
    diffusers.params_from_state_dict(tensors(FOURIER), diffusers.config_from(FOURIER)),
  )
  x, eps = (np.random.RandomState(i).standard_normal((16, 16, 3)).astype(np.float32) / 8 for i in (0, 1))
  alpha, sbar = np.float32(0.5), np.float32(0.2)  # not of variance 1: levels need not be
  level = Level(jnp.float32(0), jnp.asarray(alpha), jnp.asarray(alpha * sbar))
  got = prior.denoise(alpha * (x + sbar * eps), level)
  # In [0, 1]: (x + 1) / 2 with noise of sbar / 2; Tweedie with the network's score.
  theirs, sigma = (x + sbar * eps + 1) / 2, sbar / 2
  score = diffusers_networks.apply(config, params, theirs, sigma)
  np.testing.assert_allclose(got.x0, np.clip(2 * (theirs + sigma**2 * score) - 1, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
  "config, scheduler, message",
  [
    (FOURIER, DDPM, "'fourier' takes the logarithm of the noise: expected a ScoreSdeVeScheduler beside it, got DDPM"),
    (FOURIER, None, "expected a ScoreSdeVeScheduler beside it, got none"),
    (TINY, VE, "score: expected a time_embedding_type 'fourier', got 'positional'"),
    ({**TINY, "class_embed_type": "identity"}, DDPM, "class_embed_type: expected a network that embeds its classes"),
    ({**TINY, "layers_per_block": "two"}, DDPM, "config.json: expected an integer at layers_per_block, got text"),
    ({**TINY, "sample_size": [16]}, DDPM, "sample_size: expected pixels, or height and width, got 1 numbers"),
    ({**TINY, "in_channels": 6}, DDPM, "got a super-resolution network of 3 noisy and 3 other channels in"),
    ({**TINY, "block_out_channels": [10**6]}, DDPM, "block_out_channels: expected at most 65536, got 1000000"),
    ({**TINY, "layers_per_block": 10**9}, DDPM, "layers_per_block: expected at most 64, got 1000000000"),
    (TINY, {**DDPM, "prediction_type": "score"}, "prediction_type: expected one of epsilon, .* got 'score'"),
    (TINY, {**DDPM, "prediction_type": "flow_prediction"}, "use_flow_sigmas: expected true with the prediction_type"),
    (TINY, {**FLOW, "shift": -1.0}, "schedule: expected a shift in .1/1000, 1000., got -1.0"),
    (TINY, {**FLOW, "num_train_timesteps": 2}, "schedule: expected 3 or more steps of 'flow', got 2"),
    (TINY, {**DDPM, "beta_schedule": "laplace"}, "beta_schedule: expected one of linear, .* got 'laplace'"),
    (TINY, {**DDPM, "variance_type": "learned"}, "variance_type: expected one of fixed_small, .* got 'learned'"),
    (TINY, {"_class_name": "FlowMatchLCMScheduler"}, "expected a scheduler of betas, .* of a distilled model"),
    (TINY, {"_class_name": "CMStochasticIterativeScheduler"}, "of a consistency model, which is no denoiser"),
    (TINY, {**DDPM, "num_train_timesteps": 10**9}, "num_steps in 1..100000, got 1000000000"),
    (TINY, {**DDPM, "beta_end": 2}, r"schedule: expected betas in \(0, 1\)"),
    (
      {"_class_name": "UNet2DConditionModel"},
      DDPM,
      "expected a UNet2DModel, got 'UNet2DConditionModel', a network that",
    ),
    ({"_class_name": "AutoencoderKL"}, DDPM, "'AutoencoderKL', an autoencoder, whose latents another network knows"),
    ({"architectures": ["CLIPTextModel"]}, DDPM, "expected a UNet2DModel, got a model of the transformers library"),
  ],
)
def test_what_is_no_prior_is_one_line(capsys, tmp_path, config, scheduler, message):
  source = write(tmp_path / "in", config, scheduler, weights=NOTHING)  # which is not read before
  said = convert(capsys, source, tmp_path / "p", "--nocheck", code=1)
  assert re.search(message, said), said
  assert said.count("\n") == 1 and os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
  "index, message",
  [
    (
      {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]},
      "'LDMPipeline', whose network knows the latents",
    ),
    ({"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "x"]}, "which a text conditions"),
    ({"_class_name": "DiTPipeline"}, "expected a pipeline with a unet, got 'DiTPipeline' without one"),
  ],
)
def test_a_pipeline_of_latents_is_refused_though_its_network_is_known(capsys, tmp_path, index, message):
  index = {**({} if "without" in message else PIPELINE), **index}
  source = write(tmp_path / "in", index=index)
  for given in (source, source / "unet"):
    said = convert(capsys, given, tmp_path / "p", "--nocheck", code=1)
    assert message in said and said.count("\n") == 1


def test_a_folder_of_nothing_and_one_without_weights_are_told(capsys, tmp_path):
  said = convert(capsys, tmp_path / "ddpm-cat-256", tmp_path / "p", code=1)
  assert "ddpm-cat-256: expected a file, found nothing there" in said
  (tmp_path / "empty").mkdir()
  said = convert(capsys, tmp_path / "empty", tmp_path / "p", code=1)
  assert "expected a folder of the diffusers library, found no config.json in it or in unet/" in said
  source = write(tmp_path / "in", name="diffusion_flax_model.msgpack")
  said = convert(capsys, source, tmp_path / "p", code=1)
  assert "expected diffusion_pytorch_model.safetensors or .bin in it, found 'diffusion_flax_model.msgpack'" in said


def test_a_variant_is_taken_where_there_is_no_other(capsys, tmp_path):
  half = {name: value.astype(np.float16) for name, value in tensors(TINY).items()}
  source = write(tmp_path / "in", weights=half, name="diffusion_pytorch_model.fp16.safetensors")
  said = convert(capsys, source, tmp_path / "p", "--nocheck")
  assert "diffusion_pytorch_model.fp16.safetensors is taken" in said


def test_weights_of_another_config_are_named(capsys, tmp_path):
  source = write(tmp_path / "in", weights=tensors({**TINY, "layers_per_block": 2}))
  said = convert(capsys, source, tmp_path / "p", "--nocheck", code=1)
  assert "expected no such tensor, found" in said and "or not those of its config.json" in said
  weights = {f"_orig_mod.{name}": value for name, value in tensors(TINY).items()}
  said = convert(capsys, write(tmp_path / "two", weights=weights), tmp_path / "q", "--nocheck")
  assert "the prefix '_orig_mod.' is taken off the names" in said


def test_weights_without_their_config_are_told_where_it_is(capsys, tmp_path):
  source = write(tmp_path / "in") / "unet" / "diffusion_pytorch_model.safetensors"
  os.rename(source, tmp_path / "a.safetensors")
  said = convert(capsys, tmp_path / "a.safetensors", tmp_path / "p", "--image_size=16", code=1)
  assert "a network of the diffusers library without its config.json; give the folder that holds both" in said
  assert said.count("\n") == 1


def test_a_network_that_denoises_is_converted_without_a_word(capsys, tmp_path, monkeypatch):
  Oracle(prediction="v").install(monkeypatch)
  source = write(tmp_path / "in", TINY, {**DDPM, "prediction_type": "v_prediction"})
  assert convert(capsys, source, tmp_path / "p") == ""


def test_a_network_that_predicts_another_thing_than_its_files_say_is_told(capsys, tmp_path, monkeypatch):
  Oracle(prediction="x0").install(monkeypatch)
  said = convert(capsys, write(tmp_path / "in", TINY, DDPM), tmp_path / "p", code=1)
  assert "as it is said, the network does not denoise" in said and "--prediction=x0 does" in said
  flags = ("--prediction=x0",)
  assert convert(capsys, write(tmp_path / "again", TINY, DDPM), tmp_path / "p", *flags) == ""
  assert checkpoint.load_prior(tmp_path / "p").prediction == "x0"


def test_what_a_network_without_a_scheduler_predicts_is_found(capsys, tmp_path, monkeypatch):
  Oracle(prediction="v", schedule=Schedule("cosine", 1000)).install(monkeypatch)
  said = convert(capsys, write(tmp_path / "in", TINY, None, index=None), tmp_path / "p")
  assert "--prediction=v is taken" in said and "--schedule=cosine is taken" in said
  assert checkpoint.load_prior(tmp_path / "p").prediction == "v"
