"""The networks of EDM: the numbers of a reference, and what every network has to do."""

import json
import math

import diffusers_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from edm_networks import PUBLISHED, SMALL

from diffinv.nets import edm, edm_unet
from diffinv.schedules import Schedule

RELATIVE = 1e-5  # of the norm of the difference: roundings of float32 through some dozens of layers


def relative(got, want):
  return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def config_of(options, preconditioning="edm"):
  """Return our architecture for the options of the reference's class."""
  widths = [options["model_channels"] * mult for mult in options["channel_mult"]]
  sizes = [options["img_resolution"] >> level for level in range(len(widths))]
  song = options["kind"] == "song"
  named = {name: options[name] for name in ("embedding_type", "encoder_type", "decoder_type") if song}
  return edm_unet.make_config(
    kind=options["kind"],
    channels=widths,
    first_channels=options["model_channels"] if song else widths[0],
    noise_channels=options["model_channels"] * options.get("channel_mult_noise", 1),
    emb_channels=options["model_channels"] * options.get("channel_mult_emb", 4),
    num_blocks=options["num_blocks"],
    attention_levels=[i for i, size in enumerate(sizes) if size in options["attn_resolutions"]],
    in_channels=options.get("in_channels", 3),
    resample_filter=options.get("resample_filter", (1, 1)),
    num_classes=options.get("label_dim"),
    preconditioning=preconditioning,
    **named,
  )


def shapes(config, options):
  """Return the shapes of a file's tensors by name, without filters."""
  found = {source.name: source.shape for source in edm.sources(config, options["img_resolution"]).values()}
  if options["augment_dim"]:
    found["map_augment.weight"] = (config.noise_channels, options["augment_dim"])
  return found


def state_dict(config, options):
  """Return a file's tensors: random ones, and filters beside those that resample."""
  found = reference_networks.state_dict(shapes(config, options))
  taps = np.float32(config.resample_filter)
  value = (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
  for name in list(found):
    if name.endswith(("_down.conv0.weight", "_up.conv0.weight", "_aux_residual.weight")):
      found[name.replace("weight", "resample_filter")] = value
  return found


def network(name):
  case = SMALL[name]
  config = config_of(case.config, case.preconditioning)
  return case, config, edm.params_from_state_dict(state_dict(config, case.config), config)


def output_and_gradient(case, config, params):
  x, cotangent = case.arrays()
  label = None if case.label is None else jnp.int32(case.label)

  def run(params, x):
    output, pull = jax.vjp(lambda x: edm_unet.apply_function(config)(params, x, jnp.float32(case.sigma), label), x)
    return output, pull(cotangent)[0]

  return reference_networks.compiled(run)(params, x)


QUICK = ("ncsnpp", "adm")  # to compile, and of each family


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL])
def test_output_and_input_gradient_are_those_of_the_reference(golden, name):
  expected = golden("edm_networks.npz")
  case, config, params = network(name)
  theirs = diffusers_networks.digest(shapes(config, case.config))
  assert theirs == expected[f"edm/{name}/digest"]
  output, gradient = output_and_gradient(case, config, params)
  assert relative(output, expected[f"edm/{name}/output"]) < RELATIVE
  assert relative(gradient, expected[f"edm/{name}/gradient"]) < RELATIVE


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_tensors_of_the_reference(name):
  digests = json.loads((reference_networks.GOLDEN / "edm_published.json").read_text())["digests"]
  options = PUBLISHED[name]
  assert diffusers_networks.digest(shapes(config_of(options), options)) == digests[name]


@pytest.mark.parametrize("name", SMALL)
def test_tensors_tell_the_architecture(name):
  case = SMALL[name]
  expected = config_of(case.config, case.preconditioning)
  assert edm.infer_config(state_dict(expected, case.config), preconditioning=case.preconditioning) == expected


SIGMAS = (0.002, 0.05, 1.0, 30.0, 80.0)


def scales(name, sigma):
  config = config_of(SMALL["box"].config, name)
  return [float(value) for value in edm_unet.PRECONDITIONINGS[name](config, jnp.float32(sigma))]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_preconditionings_are_those_of_the_paper(sigma):
  """Table 1 of Karras et al., in float64: c_skip, c_out, c_in and c_noise."""
  norm = math.hypot(sigma, 0.5)
  edm_row = [0.25 / norm**2, sigma * 0.5 / norm, 1 / norm, math.log(sigma) / 4]
  np.testing.assert_allclose(scales("edm", sigma), edm_row, rtol=1e-5)
  time = (math.sqrt(0.1**2 + 2 * 19.9 * math.log1p(sigma**2)) - 0.1) / 19.9
  np.testing.assert_allclose(scales("vp", sigma), [1, -sigma, 1 / math.hypot(sigma, 1), 999 * time], rtol=1e-5)
  np.testing.assert_allclose(scales("ve", sigma), [1, sigma, 1, math.log(sigma / 2)], rtol=1e-5)
  skip, out, scale, noise = scales("iddpm", sigma)
  np.testing.assert_allclose([skip, out, scale], [1, -sigma, 1 / math.hypot(sigma, 1)], rtol=1e-5)
  table = edm_unet.iddpm_sigmas(1000, 0.001, 0.008)
  assert noise == 999 - np.argmin(np.abs(table - sigma))


def test_the_noise_of_improved_ddpm_is_that_of_its_cosine():
  table, alpha_bar = edm_unet.iddpm_sigmas(1000, 0.001, 0.008), Schedule("cosine", 1000).alpha_bar()
  theirs = np.sqrt((1 - alpha_bar) / alpha_bar)[::-1]  # of its first step last
  np.testing.assert_allclose(table[100:999], theirs[100:999], rtol=0.02)  # betas are cut elsewhere, and it begins at 1
  assert table[-1] == 0 and np.all(np.diff(table) < 0)


def test_no_class_is_a_row_of_zeros():
  case, config, params = network("skip")
  x, _ = case.arrays()
  run = reference_networks.compiled(edm_unet.apply_function(config))
  none = run(params, x, jnp.float32(1), jnp.int32(5))
  without = jax.tree.map(jnp.zeros_like, params["map_label"]["kernel"])
  params["map_label"] = {**params["map_label"], "kernel": without}
  np.testing.assert_allclose(none, run(params, x, jnp.float32(1), jnp.int32(2)), rtol=1e-5, atol=1e-6)
