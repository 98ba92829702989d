"""The noise of a measurement that nobody knows, estimated under a prior."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import diffinv
from diffinv import operators
from diffinv.apps import main
from diffinv.blind import noise_level
from diffinv.data import held_out
from diffinv.priors import natural

SHAPE = (8, 8, 3)
SIZE = 64


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("start", [0.3, 3.0])
def test_the_estimate_is_at_the_maximum_of_the_likelihood(sigma, start):
  """Under a Gaussian prior, whose likelihood is known, with every direction for the divergence."""
  with jax.enable_x64():
    prior, rng = natural(), np.random.default_rng(3)
    spectrum = np.asarray(prior.spectrum(SHAPE), np.float64)
    coords = np.sqrt(spectrum) * rng.normal(size=SHAPE)
    y = prior.synthesize(jnp.asarray(coords)) + sigma * rng.normal(size=SHAPE)
    y = y.at[0, 0, 0].set(1.5)  # beyond what a file would clip
    power = np.asarray(prior.analyze(y)) ** 2

    def deviance(log_sigma):
      variance = spectrum + np.exp(2 * log_sigma)
      return np.sum(np.log(variance) + power / variance)

    best = minimize_scalar(deviance, bounds=(-5, 2), method="bounded", options={"xatol": 1e-9}).x
    every = np.sqrt(y.size) * jnp.eye(y.size).reshape(-1, *SHAPE)
    ones, zero = jnp.ones(SHAPE), jnp.zeros(SHAPE)
    found = noise_level.most_likely(prior, y, ones, zero, zero, every, jnp.asarray(start * sigma))
    np.testing.assert_allclose(jnp.log(found.sigma), best, rtol=0, atol=1e-5)
    assert abs(found.unbalanced) < 1e-5 and found.values == y.size


def test_where_no_sigma_balances_the_finest_details_are_taken():
  found = noise_level.Estimate(jnp.float32(2.0), jnp.float32(0.1), jnp.float32(192), jnp.float32(-0.3))
  assert noise_level.chosen(found) == pytest.approx(0.1)
  assert "sigma 0.1 by its finest details" in noise_level.described(found, noise_level.chosen(found))
  settled = found._replace(unbalanced=jnp.float32(0.001))
  assert noise_level.chosen(settled) == 2.0 and "from 192 values" in noise_level.described(settled, 2.0)


@pytest.mark.parametrize(
  "told, sigma, said",
  [
    ({}, 0.01, "as the prior sees no noise"),
    ({"noisy": True}, 0.08, "by its finest details"),
    ({"rounded": 0.02}, 0.08, "by its finest details"),
    ({"rounded": 0.1}, 0.1, "compression of the file has rounded off"),
  ],
)
def test_less_noise_than_the_prior_can_see_is_none_unless_something_tells_of_it(told, sigma, said):
  """The finest details of a clean picture are its own; compression leaves noise that is not white."""
  found = noise_level.Estimate(*map(jnp.float32, (0.01, 0.08, 192, -0.3)))
  assert noise_level.chosen(found, **told) == pytest.approx(sigma)
  rounded = told.get("rounded", 0.0)
  assert said in noise_level.described(found, noise_level.chosen(found, **told), rounded)
  louder = found._replace(unbalanced=jnp.float32(0.3))
  assert noise_level.chosen(louder) == pytest.approx(0.08)


def test_the_robust_start_is_the_noise_of_a_flat_picture_and_blind_to_what_is_missing():
  y = 0.1 * jax.random.normal(jax.random.key(0), (64, 64, 3))
  seen = jnp.where(jax.random.uniform(jax.random.key(1), (64, 64, 1)) > 0.2, jnp.ones(3), 0.0)
  assert abs(noise_level.robust(y, jnp.ones_like(y)) - 0.1) < 0.005
  assert abs(noise_level.robust(seen * y, seen) - 0.1) < 0.01


def _tasks():
  key, shape = jax.random.key(4), (SIZE, SIZE, 3)
  return {
    "denoising": operators.identity(shape),
    "inpaint_box": operators.box(key, shape, box_size=(24, 24), margin=(4, 4)),
    "gaussian_blur": operators.gaussian_blur(shape, size=31, std=3.0),
    "super_resolution": operators.super_resolution(shape, 2),
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", _tasks())
@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_noise_of_photographs_is_found_within_a_tenth(name, sigma):
  prior, operator = diffinv.load_prior("photo"), _tasks()[name]
  errors = []
  for number, x0 in enumerate(held_out.held_out("photos", "validation", 4, SIZE)[1]):
    clean = operator(jnp.asarray(x0))
    noise = sigma * jax.random.normal(jax.random.key(number), clean.shape)
    y = operator.observed(clean) * (clean + noise)
    found = noise_level.estimate(jax.random.key(9), prior, operator, y)
    errors.append(abs(float(found.sigma) / sigma - 1.0))
  assert np.median(errors) < 0.1


@pytest.mark.parametrize("name", ["mri_random_x4", "colorization", "phase_retrieval"])
def test_what_is_no_picture_of_the_priors_colors_has_an_excuse(name):
  operator = diffinv.TASKS[name].make(jax.random.key(0), (SIZE, SIZE, 3))
  assert "a picture of 3 channels" in noise_level.excuse(operator, 3)


def measure(folder, sigma=0.1):
  x0 = held_out.held_out("photos", "validation", 1, SIZE)[1][0]
  y = np.asarray(x0) + sigma * np.random.default_rng(0).standard_normal(x0.shape)
  np.save(folder / "y.npy", y.astype(np.float32))
  return [f"--measurement={folder / 'y.npy'}", "--task=denoising", f"--output={folder / 'out'}"]


@pytest.mark.parametrize("said", [[], ["--sigma=auto"]], ids=["unsaid", "auto"])
def test_a_measurement_is_restored_with_the_noise_found(said, tmp_path, capsys):
  assert main.execute(["reconstruct", *measure(tmp_path), *said, "--quality=fast"]) == 0
  assert "y: sigma 0.1" in capsys.readouterr().err
  got = json.loads((tmp_path / "out/results.json").read_text())
  assert got["noise"]["sigma"] == got["images"][0]["noise"]["sigma"] == pytest.approx(0.1, rel=0.05)


def test_sigma_auto_is_refused_where_noise_is_added(tmp_path, capsys):
  picture = tmp_path / "x.png"
  diffinv.data.images.write(picture, np.zeros((SIZE, SIZE, 3)))
  command = ["reconstruct", f"--input={picture}", "--sigma=auto", f"--output={tmp_path / 'out'}"]
  assert main.execute(command) == 2
  assert "--sigma=auto is for --measurement" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_sigma_auto_is_refused_for_what_is_no_picture(tmp_path):
  with pytest.raises(diffinv.errors.UsageError, match="sigma=auto.*picture of 3 channels"):
    diffinv.restore(np.zeros((SIZE, SIZE, 1), np.float32), task="colorization", sigma="auto")


def test_another_word_for_sigma_is_refused():
  with pytest.raises(diffinv.errors.UsageError, match="sigma.*auto, channels or a number"):
    diffinv.restore(np.zeros((SIZE, SIZE, 3), np.float32), task="denoising", sigma="automatic")
