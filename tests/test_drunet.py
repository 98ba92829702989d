"""DRUNets: the numbers of a reference, files of them, and chains that start where their knowledge ends."""

import dataclasses
import json

import diffusers_networks
import edm_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from denoising_network import convert
from edm_networks import DRUNETS, PUBLISHED_DRUNETS
from safetensors.numpy import save_file

import diffinv
from diffinv.data import bundled, images
from diffinv.methods import METHODS, check_start, proximal, starts
from diffinv.nets import drunet
from diffinv.noise import Gaussian
from diffinv.operators import hdr, identity, super_resolution
from diffinv.priors import drunet_files
from diffinv.priors import folder as checkpoint
from diffinv.problems import simulate
from diffinv.schedules import Level, Schedule, as_arrays, sbar_range

RELATIVE = 1e-5  # of the norm of the difference: roundings of float32


def relative(got, want):
  return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def config_of(options):
  widths = options.get("nc", (64, 128, 256, 512))
  return drunet.make_config(channels=widths, num_blocks=options.get("nb", 4), in_channels=options.get("in_channels", 3))


def shapes(config):
  return {source.name: source.shape for source in drunet.sources(config).values()}


def tensors(name):
  return reference_networks.state_dict(shapes(config_of(DRUNETS[name][0])))


def written(folder, name="color", **more):
  save_file({**tensors(name), **more}, folder / "drunet.safetensors")
  return folder / "drunet.safetensors"


@pytest.mark.parametrize("name", DRUNETS)
def test_output_and_input_gradient_are_those_of_the_reference(golden, name):
  expected = golden("edm_networks.npz")
  options, sigma = DRUNETS[name]
  config, (x, cotangent) = config_of(options), edm_networks.drunet_arrays(options)
  assert diffusers_networks.digest(shapes(config)) == expected[f"drunet/{name}/digest"]
  params = drunet.params_from_state_dict(tensors(name), config)

  def theirs(x):  # pictures in [0, 1], of which the noise is half as large
    return (drunet.apply_function(config)(params, 2 * x - 1, jnp.float32(2 * sigma)) + 1) / 2

  def run(x):
    output, pull = jax.vjp(theirs, x)
    return output, pull(cotangent)[0]

  output, gradient = reference_networks.compiled(run)(x)
  assert relative(output, expected[f"drunet/{name}/output"]) < RELATIVE
  assert relative(gradient, expected[f"drunet/{name}/gradient"]) < RELATIVE


@pytest.mark.parametrize("name", PUBLISHED_DRUNETS)
def test_published_networks_have_the_tensors_of_the_reference(name):
  digests = json.loads((reference_networks.GOLDEN / "edm_published.json").read_text())["digests"]
  found = shapes(config_of(PUBLISHED_DRUNETS[name]))
  assert diffusers_networks.digest(found) == digests[name]
  assert drunet.infer_config(found) == config_of(PUBLISHED_DRUNETS[name])


def test_no_pixel_depends_on_one_beyond_the_reach():
  config = drunet.make_config(channels=(2, 2, 2, 2), num_blocks=1, in_channels=1)
  params = drunet.params_from_state_dict(reference_networks.state_dict(shapes(config)), config)
  params = jax.tree.map(jnp.abs, params)  # nothing cancels, and no ReLU is 0
  size, farthest = 2 * config.reach + 24, []
  pixel = lambda x, i: drunet.apply_function(config)(params, x, jnp.float32(0.2))[i, 0, 0]
  gradient = reference_networks.compiled(jax.grad(pixel))
  for i in range(config.reach + 8, config.reach + 16):  # all places within a pixel of the coarsest level
    seen = np.flatnonzero(jnp.any(gradient(jnp.ones((size, 8, 1)), i) != 0, axis=(1, 2)))
    farthest += [i - seen[0], seen[-1] - i]
  assert config.reach - 8 < max(farthest) <= config.reach


@pytest.mark.parametrize("name, flags, end", [("color", (), 100 / 255), ("gray", ("--max_noise=25",), 50 / 255)])
def test_a_file_becomes_a_prior_up_to_the_noise_of_its_training(capsys, tmp_path, name, flags, end):
  assert convert(capsys, written(tmp_path, name), tmp_path / "p", "--nocheck", *flags) == ""
  prior, config = checkpoint.load_prior(tmp_path / "p"), config_of(DRUNETS[name][0])
  assert sbar_range(prior.schedule)[1] == pytest.approx(end, rel=1e-9)
  assert (prior.prediction, prior.image_shape[:2], prior.size_multiple) == ("denoiser", (None, None), 8)
  jax.tree.map(np.testing.assert_array_equal, prior.params, drunet.params_from_state_dict(tensors(name), config))
  # One `denoise` is the network's, at a level of any alpha.
  x, sigma = edm_networks.drunet_arrays(DRUNETS[name][0])[0][:16, :16], np.float32(0.1)
  level = Level(*(jnp.float32(v) for v in (0, 0.8, 0.8 * sigma)))
  got = reference_networks.compiled(lambda x: prior.denoise(x, level).x0)(jnp.float32(0.8) * x)
  expected = reference_networks.compiled(drunet.apply_function(config))(prior.params, x, sigma)
  assert relative(got, expected) < RELATIVE


@pytest.mark.parametrize(
  "more, flags, code, message",
  [
    ({"m_tail.bias": np.zeros(3, np.float32)}, (), 1, "'m_tail.bias': expected a DRUNet without biases"),
    ({"m_head.weight": np.zeros((4, 3, 3, 3))}, (), 1, "expected the picture's 3 channels and one of its noise, got 3"),
    ({"m_down2.2.weight": np.zeros((8, 4))}, (), 1, "'m_down2.2.weight': expected that of a DRUNet with strided"),
    ({"other": np.zeros(3)}, (), 1, "tensor 'other': expected no such tensor"),
    ({}, ("--schedule=linear",), 2, "--schedule: expected none, as a DRUNet is told the noise itself, got linear"),
    ({}, ("--max_noise=0",), 2, "--max_noise: expected a number from 1 to 255, got 0"),
  ],
)
def test_what_is_no_drunet_is_named(capsys, tmp_path, more, flags, code, message):
  said = convert(capsys, written(tmp_path, **more), tmp_path / "p", "--nocheck", *flags, code=code)
  assert message in said and said.count("\n") == 1 and not (tmp_path / "p").exists()


# A prior that knows no pure noise.

SIZE = 32
SHORT = Schedule("karras", 1000, ends=(0.001, 0.4))


def denoising(x0):
  """Return the tensors of a small DRUNet that denoises: random ones, but for the last layer, of least squares."""
  config = drunet.make_config(channels=(24, 8, 8, 8), num_blocks=1)
  found = reference_networks.state_dict(shapes(config))
  params, names = drunet.params_from_state_dict(found, config), ("m_head", "m_up1_1")

  @reference_networks.compiled
  def last(x):
    run = {"capture_intermediates": lambda module, _: module.name in names}
    _, kept = drunet.DRUNet(config).apply({"params": params}, x, **run)
    return sum(kept["intermediates"][name]["__call__"][0] for name in names)

  rng, gram, moments = np.random.default_rng(0), 0.0, 0.0
  for sigma in np.repeat(np.float32([0.05, 0.1, 0.2, 0.4]), 4):
    x = x0 + sigma * rng.standard_normal(x0.shape).astype(np.float32)
    h = last(jnp.concatenate([(x + 1) / 2, jnp.full((SIZE, SIZE, 1), sigma / 2)], axis=-1))
    h = np.pad(h, ((1, 1), (1, 1), (0, 0))).astype(np.float64)
    patches = np.stack([h[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)], axis=2)
    patches = patches.reshape(SIZE**2, -1) / np.sqrt(sigma)
    gram += patches.T @ patches
    moments += patches.T @ ((np.asarray(x0) + 1) / 2 / np.sqrt(sigma)).reshape(SIZE**2, -1)
  weights = np.linalg.solve(gram + 1e-4 * np.trace(gram) / len(gram) * np.eye(len(gram)), moments)
  return {**found, "m_tail.weight": weights.reshape(3, 3, -1, 3).transpose(3, 2, 0, 1).astype(np.float32).copy()}


@pytest.fixture(scope="module")
def problem():
  x0 = jnp.asarray(images.fit(images.read(bundled.ASTRONAUT), (SIZE, SIZE), "resize"), jnp.float32)
  return x0, simulate(jax.random.key(0), super_resolution((SIZE, SIZE, 3), 2), Gaussian(0.1), x0)


def short():
  return dataclasses.replace(diffinv.load_prior("natural"), schedule=SHORT)


def error(x, x0):
  return float(jnp.mean((x - x0) ** 2))


def test_a_drunet_restores_from_a_file(capsys, tmp_path, problem):
  x0, _ = problem
  save_file(denoising(x0), tmp_path / "drunet.safetensors")
  convert(capsys, tmp_path / "drunet.safetensors", tmp_path / "p", "--nocheck")
  prior = diffinv.load_prior(tmp_path / "p")
  measured = simulate(jax.random.key(0), identity(x0.shape), Gaussian(0.3), x0)
  out, _ = diffinv.sample(jax.random.key(1), METHODS["dpir"](), prior, measured, prior.schedule.grid("8"))
  assert error(out, x0) < 0.75 * error(starts.picture(measured), x0) < 0.5 * error(measured.y, x0)


def test_a_chain_starts_at_the_smoothest_picture_with_all_the_noise_that_the_prior_knows(problem):
  _, measured = problem
  start = jax.tree.map(lambda v: v[0], as_arrays(SHORT.grid("10")))
  z = jax.random.normal(jax.random.key(3), (SIZE, SIZE, 3))
  got = METHODS["dps"]().init(jax.random.key(3), short(), measured, start).x
  expected = start.alpha * proximal.smoothest(measured, 100) + start.sigma * z
  assert relative(got, expected) < 1e-3  # of conjugate gradients
  assert float(start.sigma / start.alpha) == pytest.approx(0.4, rel=1e-5)


def test_a_chain_of_a_prior_that_knows_pure_noise_starts_there(problem):
  prior = diffinv.load_prior("natural")
  start = jax.tree.map(lambda v: v[0], as_arrays(prior.schedule.grid("10")))
  got = METHODS["dps"]().init(jax.random.key(3), prior, problem[1], start).x
  np.testing.assert_array_equal(got, jax.random.normal(jax.random.key(3), (SIZE, SIZE, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffpir", "ddrm"])
def test_from_there_a_chain_restores_as_well_as_from_pure_noise(problem, name):
  x0, measured = problem
  found = []
  for prior in (diffinv.load_prior("natural"), short()):
    out, _ = diffinv.sample(jax.random.key(1), METHODS[name](), prior, measured, prior.schedule.grid("30"))
    found.append(error(out, x0))
  assert found[1] < 1.25 * found[0]


@pytest.mark.parametrize(
  "method, operator, message",
  [
    (
      METHODS["dps"](),
      hdr((SIZE, SIZE, 3)),
      "dps: the prior knows noise up to sigma 0.4 alone, which is not pure noise",
    ),
    (METHODS["daps"](), super_resolution((SIZE, SIZE, 3), 2), "expected sigma_max of at most 0.4, got 100"),
    (METHODS["daps"](sigma_max=0.4), super_resolution((SIZE, SIZE, 3), 2), None),
    (METHODS["red_diff"](), hdr((SIZE, SIZE, 3)), None),
    (METHODS["dpir"](), super_resolution((SIZE, SIZE, 3), 2), None),
  ],
)
def test_a_method_that_cannot_start_there_says_so(method, operator, message):
  if message is None:
    check_start(method, operator, SHORT)
    return
  with pytest.raises(ValueError, match=message):
    check_start(method, operator, SHORT)


def test_nothing_is_drawn_from_a_prior_that_knows_no_pure_noise(capsys, tmp_path):
  from diffinv.apps import main

  convert(capsys, written(tmp_path), tmp_path / "p", "--nocheck")
  assert main.execute(["sample", f"--prior={tmp_path / 'p'}", f"--output={tmp_path / 'o'}", "--size=16"]) == 2
  assert "the prior knows noise up to sigma 0.392 alone" in capsys.readouterr().err


def test_a_schedule_knows_pure_noise_from_ten_times_the_picture_on():
  for schedule in (Schedule("linear"), Schedule("cosine"), Schedule("karras", ends=(0.002, 80.0))):
    assert starts.knows_pure_noise(schedule)
  assert not starts.knows_pure_noise(drunet_files.make_prior(tensors("gray"))[0].schedule)
