"""Flows as priors: the libraries' own numbers, every method's exact law through one, and their conversion."""

import denoising_network
import diffusers_networks
import flow_networks
import gaussian_flow
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
import test_diffusers_folder
import test_methods_exact
from denoising_network import convert
from flow_networks import TIMES
from oracle_network import Oracle

from diffinv import schedules
from diffinv.methods import affine
from diffinv.methods.affine import G3
from diffinv.nets import diffusers, diffusers_unet, guided_diffusion, unet
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule
from diffinv.verification.sampling import chains

RELATIVE = 1e-5  # of the norm of the difference: roundings of float32 through some dozens of layers
FLOW = Schedule("flow", 100)


def relative(got, want):
  return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


# The libraries' own numbers


def assert_denoises_as(expected, name, case, prior):
  """Check what a prior makes of a library's noisy pictures, and the gradient, at a flow's levels and at scaled ones."""
  *_, cotangent = case.arrays()

  @reference_networks.compiled
  def run(prior, x_t, level):
    clean, pull = jax.vjp(lambda x: prior.denoise(x, level).x0, x_t)
    return clean, pull(cotangent)[0]

  for time in TIMES:
    x_t, x0, gradient = (expected[f"{name}/{time}/{part}"] for part in ("x_t", "x0", "gradient"))
    for scale in (1.0, 1 / np.hypot(1 - time, time)):  # the second of variance 1
      level = Level(jnp.float32(0), jnp.float32(scale * (1 - time)), jnp.float32(scale * time))
      got, slope = run(prior, jnp.asarray(scale * x_t, jnp.float32), level)
      assert relative(got, x0) < RELATIVE and relative(scale * slope, gradient) < RELATIVE
      assert relative(got - x_t, x0 - x_t) < RELATIVE  # of the velocity alone
      assert relative(scale * slope - cotangent, gradient - cotangent) < RELATIVE


@pytest.mark.parametrize("name", flow_networks.DIFFUSERS)
def test_a_velocity_denoises_as_a_step_of_diffusers_to_the_end(golden, name):
  case = flow_networks.DIFFUSERS[name]
  config = diffusers.config_from(case.config)
  shapes = {source.name: source.shape for source in diffusers.sources(config).values()}
  params = diffusers.params_from_state_dict(reference_networks.state_dict(shapes), config)
  apply = diffusers_unet.apply_function(config)
  prior = Prior(params, apply, FLOW, prediction="velocity", clip=False, time_scale=1000.0)
  assert_denoises_as(golden("flow_diffusers.npz"), name, case, prior)


@pytest.mark.parametrize("name", flow_networks.TORCHCFM)
def test_a_velocity_denoises_as_a_step_of_torchcfm_to_the_end(golden, name):
  case, expected = flow_networks.TORCHCFM[name], golden("flow_torchcfm.npz")
  config = torchcfm_config(case.config, **flow_networks.CHOICES[name])
  tensors = {source.name: source.shape for source in guided_diffusion.sources(config).values()}
  assert diffusers_networks.digest(tensors) == expected[f"{name}/digest"]
  assert guided_diffusion.identify(tensors, **flow_networks.CHOICES[name]) == config
  network = unet.apply_function(config)
  apply = network if case.label is None else lambda params, x, t: network(params, x, t, jnp.int32(case.label))
  params = guided_diffusion.params_from_state_dict(reference_networks.state_dict(tensors), config)
  prior = Prior(params, apply, FLOW, prediction="velocity_to_data", clip=False)
  assert_denoises_as(expected, name, case, prior)
  x0, noise, _ = case.arrays()
  for time in TIMES:
    np.testing.assert_array_equal(expected[f"{name}/{time}/target"], x0 - noise)


def torchcfm_config(options, **choices):
  """Return what a network of torchcfm's options is here."""
  channels, size, _ = options["dim"]
  kept = [size >> i for i in range(len(options["channel_mult"]))]
  return unet.make_config(
    model_channels=options["num_channels"],
    channel_mult=tuple(options["channel_mult"]),
    num_res_blocks=options["num_res_blocks"],
    attention_levels=(kept.index(int(options["attention_resolutions"])),),
    in_channels=channels,
    out_channels=channels,
    scale_shift_norm=options.get("use_scale_shift_norm", False),
    resblock_updown=options.get("resblock_updown", False),
    num_classes=options.get("num_classes"),
    **choices,
  )


def test_the_published_network_of_torchcfm_has_the_tensors_of_the_library(golden):
  config = torchcfm_config(flow_networks.CIFAR10, num_head_channels=64)
  tensors = {source.name: source.shape for source in guided_diffusion.sources(config).values()}
  assert diffusers_networks.digest(tensors) == golden("flow_torchcfm.npz")["cifar10/digest"]


def test_a_shifted_schedule_has_the_noise_of_the_scheduler(golden):
  want = golden("flow_diffusers.npz")["sigmas"].astype(np.float64)
  sbar = np.exp(schedules.log_sbar(Schedule("flow", shift=flow_networks.SHIFT)))
  np.testing.assert_allclose((sbar / (1 + sbar))[::10], want, rtol=1e-6)  # float32 of the scheduler
  alpha_bar = Schedule("flow", shift=flow_networks.SHIFT).alpha_bar()
  assert 0 < alpha_bar[-1] <= 2**-24 and np.all(np.diff(alpha_bar) < 0)
  grid = schedules.as_arrays(Schedule("flow").grid("logsnr20"))
  assert np.all(np.isfinite(grid.alpha)) and np.all(np.diff(grid.alpha) > 0)


# Exact laws


@pytest.fixture
def levels_of_the_flow(monkeypatch):
  """State the laws of chains over the levels of a flow, in the place of those of the linear schedule."""
  abar = FLOW.alpha_bar()
  monkeypatch.setattr(affine, "ABAR", abar)
  monkeypatch.setattr(affine, "PAIRS", affine.pairs(abar))
  monkeypatch.setattr(affine, "NOISES", [np.sqrt((1 - now) / now) for now, _ in affine.PAIRS])


FAST = [("dps", "squared, .3"), ("pigdm", "code")]


@test_methods_exact.of_cases(test_methods_exact.FIRST, fast=FAST)
def test_samples_through_a_flow_differ_as_the_exact_gain_says(levels_of_the_flow, key):
  case, other = test_methods_exact.CASES[key], test_methods_exact.changed(G3, "y")
  with jax.enable_x64():
    keys = jnp.tile(jax.random.split(jax.random.key(0), 2), 2)
    ys = jnp.repeat(jnp.stack([jnp.asarray(p.y) for p in (G3, other)]), 2, axis=0)
    prior = gaussian_flow.flow(G3, FLOW, to_data=True)
    grid = schedules.as_arrays(FLOW.grid(str(case.levels)))
    got = np.asarray(chains(keys, ys, case.build(), prior, G3.problem(), grid))
  want = case.law(other).mean - case.law(G3).mean
  np.testing.assert_allclose(got[2:] - got[:2], np.tile(want, (2, 1)), rtol=0, atol=1e-10)


@test_methods_exact.of_cases([("dps", "squared, .3"), ("ddrm", "eta .85, eta_b 1")])
def test_steps_through_a_flow_are_the_affine_maps_of_the_papers(levels_of_the_flow, key):
  case = test_methods_exact.CASES[key]
  with jax.enable_x64():
    method = case.build()
    now, nxt = test_methods_exact.gaussian.level_pairs(method.levels(schedules.as_arrays(FLOW.grid())))
    prior = gaussian_flow.flow(G3, FLOW)
    maps, misfit = test_methods_exact.gaussian.extracted_maps(method, prior, G3.problem(), now, nxt)
  assert not np.any(misfit > 1e-12)
  test_methods_exact.assert_maps_equal(maps, case.maps(G3))


# Conversion

EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.36.0"}
TINY, SIZE = test_diffusers_folder.TINY, f"--image_size={denoising_network.SIZE}"


@pytest.mark.parametrize(
  "scheduler, schedule, prediction",
  [
    ({}, {"num_steps": 1000}, "velocity"),
    ({"shift": 3.0}, {"num_steps": 1000, "shift": 3.0}, "velocity"),
    ({"shift": 3.0, "use_dynamic_shifting": True}, {"num_steps": 1000}, "velocity"),
    ({"_class_name": "FlowMatchHeunDiscreteScheduler", "num_train_timesteps": 500}, {"num_steps": 500}, "velocity"),
    ({"invert_sigmas": True}, {"num_steps": 1000}, "velocity_to_data"),
    (
      {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "flow_shift": 2,
      },
      {"num_steps": 1000, "shift": 2.0},
      "velocity",
    ),
  ],
)
def test_a_scheduler_of_a_flow_becomes_its_schedule(capsys, tmp_path, scheduler, schedule, prediction):
  source = test_diffusers_folder.write(tmp_path / "in", scheduler={**EULER, **scheduler})
  said = convert(capsys, source, tmp_path / "p", "--nocheck")
  assert ("changes steps alone; it is taken to be 1" in said) == ("use_dynamic_shifting" in scheduler) == bool(said)
  written, prior = test_diffusers_folder.description(tmp_path / "p"), checkpoint.load_prior(tmp_path / "p")
  assert written["schedule"] == {"name": "flow", **schedule}
  assert (written["prediction"], prior.time_scale) == (prediction, float(schedule["num_steps"]))


def test_flags_say_that_a_network_alone_is_a_flow(capsys, tmp_path):
  source = test_diffusers_folder.write(tmp_path / "in", scheduler=None, index=None)
  for flags in (("--schedule=flow",), ("--prediction=velocity",)):
    said = convert(capsys, source / "unet", tmp_path / "p", "--nocheck", "--overwrite", *flags)
    assert ("taken to be flow of 1000 steps" in said) == ("--schedule=flow" not in flags)
    prior = checkpoint.load_prior(tmp_path / "p")
    assert (prior.prediction, prior.time_scale, prior.schedule) == ("velocity", 1000.0, Schedule("flow"))
  flags = ("--prediction=velocity_to_data", "--norescale_timesteps", "--overwrite", "--nocheck")
  convert(capsys, source / "unet", tmp_path / "p", *flags)
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.prediction, prior.time_scale) == ("velocity_to_data", 1.0)
  said = convert(capsys, source / "unet", tmp_path / "q", "--schedule=linear", "--prediction=velocity", code=2)
  assert "--prediction: expected velocity or velocity_to_data with --schedule=flow alone, got velocity with lin" in said


HEADS = ("--num_heads=4", "--attention_order=new")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """Give the file of a network; what it predicts is left to an oracle in its place."""
  from safetensors.numpy import save_file

  path = tmp_path_factory.mktemp("flows") / "flow.safetensors"
  save_file(denoising_network.random_state_dict(), path)
  return path


@pytest.mark.parametrize("prediction, scale", [("velocity_to_data", 1.0), ("velocity", 1000.0)])
def test_which_way_a_flow_runs_and_its_time_are_found(capsys, tmp_path, file, monkeypatch, prediction, scale):
  Oracle(prediction=prediction, time_scale=scale).install(monkeypatch)
  said = convert(capsys, file, tmp_path / "p", SIZE, "--schedule=flow", *HEADS)
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.prediction, prior.time_scale, prior.schedule) == (prediction, scale, Schedule("flow"))
  if prediction == "velocity_to_data":
    assert said.startswith("note: the network is told t, from noise at t = 0 to pictures at 1; if it was trained")
  else:
    assert "--prediction=velocity is taken, as it was not said and denoises best" in said
    assert "the network is told 1000 t, from pictures at t = 0 to noise at 1" in said


def test_a_flow_that_is_said_to_run_the_other_way_is_refused_with_the_way_that_works(
  capsys, tmp_path, file, monkeypatch
):
  Oracle(prediction="velocity_to_data").install(monkeypatch)
  flags = (SIZE, "--prediction=velocity", "--norescale_timesteps", *HEADS)
  said = convert(capsys, file, tmp_path / "p", *flags, code=1)
  assert "as it is said, the network does not denoise" in said and "--prediction=velocity_to_data does" in said
