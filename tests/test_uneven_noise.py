"""Noise that differs by channel or by brightness: exact under a Gaussian prior, and found and taken off photographs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import diffinv
from diffinv import methods, operators, sampler
from diffinv.apps import main
from diffinv.blind import uneven_noise
from diffinv.data import held_out, images
from diffinv.methods.mmse import MMSE
from diffinv.noise import Gaussian, Poisson
from diffinv.priors import natural
from diffinv.problems import Problem

SHAPE = (4, 4, 3)
SIZE = 64
SIGMAS = (0.05, 0.1, 0.2)


def covariance():
  """Return that of the prior, [d, d], float64."""
  count = int(np.prod(SHAPE))
  return np.asarray(jax.vmap(natural().covariance)(jnp.eye(count).reshape(-1, *SHAPE))).reshape(count, count)


def drawn(variance, seed=3):
  """Return a picture of the prior with noise of the variances, [h, w, c]."""
  rng = np.random.default_rng(seed)
  clean = np.linalg.cholesky(covariance() + 1e-9 * np.eye(variance.size)) @ rng.normal(size=variance.size)
  return jnp.asarray(clean.reshape(SHAPE) + np.sqrt(variance) * rng.normal(size=SHAPE))


def most_likely(y, a):
  """Return the theta of N(0, C + diag(theta a)) by a search, [k]."""
  prior, features = covariance(), np.asarray(a).reshape(len(a), -1)

  def deviance(log_theta):
    whole = prior + np.diag(np.exp(log_theta) @ features)
    return np.linalg.slogdet(whole)[1] + np.ravel(y) @ np.linalg.solve(whole, np.ravel(y))

  found = minimize(deviance, np.log([0.05] * len(a)), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-11})
  return np.exp(found.x)


@pytest.mark.parametrize("kind", [uneven_noise.CHANNELS, uneven_noise.BRIGHTNESS])
def test_updates_rest_where_the_likelihood_under_a_gaussian_prior_is_largest(kind):
  """With the brightness given, every direction for the divergence and the splitting taken to its end."""
  with jax.enable_x64():
    a = uneven_noise.features(kind, jnp.asarray(np.random.default_rng(0).uniform(-1, 1, SHAPE)))
    theta = jnp.asarray([0.01, 0.03, 0.09] if kind == uneven_noise.CHANNELS else [0.2, 0.02])
    y = drawn(np.asarray(jnp.tensordot(theta, a, 1))).at[0, 0, 0].set(1.5)  # beyond what a file would clip
    every = np.sqrt(y.size) * jnp.eye(y.size).reshape(-1, *SHAPE)
    step = jax.jit(lambda t: uneven_noise.update(natural(), y, t, lambda x: a, y, every, 60)[0])
    for _ in range(40):
      theta = theta + uneven_noise.DAMPING * (step(theta) - theta)
    np.testing.assert_allclose(theta, most_likely(y, a), rtol=1e-3)


def test_the_splitting_ends_at_the_posterior_mean_under_a_gaussian_prior():
  """C (C + V)^-1 y with a variance for each value, from 0.003 to 0.3."""
  with jax.enable_x64():
    variance = np.exp(np.random.default_rng(1).uniform(np.log(0.003), np.log(0.3), SHAPE))
    y = drawn(variance)
    want = covariance() @ np.linalg.solve(covariance() + np.diag(variance.ravel()), np.ravel(y))
    problem = Problem(operators.identity(SHAPE), Gaussian(jnp.sqrt(variance)), y)
    grid = natural().schedule.grid("1")
    errors = []
    for rounds in (3, 300):
      got, _ = sampler.sample(jax.random.key(0), MMSE(rounds=rounds), natural(), problem, grid)
      errors.append(np.max(np.abs(got - want.reshape(SHAPE))))
    assert errors[1] < 1e-6 < errors[0]


def test_one_variance_takes_the_splitting_to_the_mean_at_once():
  y = drawn(np.full(SHAPE, 0.04)).astype(jnp.float32)
  grid = natural().schedule.grid("1")

  def restored(method, sigma):
    problem = Problem(operators.identity(SHAPE), Gaussian(sigma), y)
    return sampler.sample(jax.random.key(0), method, natural(), problem, grid)[0]

  want = restored(MMSE(), jnp.float32(0.2))
  np.testing.assert_allclose(restored(MMSE(rounds=2), jnp.full((1, 1, 3), 0.2)), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  "noise, evaluations", [(Gaussian(0.1), 1), (Gaussian(np.ones((1, 1, 3))), 4), (Poisson(1.0), 4)]
)
def test_the_cost_is_that_of_the_noise(noise, evaluations):
  method = methods.fitted(MMSE(), noise)
  assert (
    method.cost(len(method.levels(jax.tree.map(jnp.asarray, natural().schedule.grid("9"))).t)).evaluations
    == evaluations
  )


def test_a_camera_adds_the_variances_of_its_photons_and_of_their_reading():
  clean = jnp.broadcast_to(jnp.array([-1.0, -0.5, 1.0]), (40_000, 3))
  model = Poisson(0.4, 0.06)
  y = np.asarray(model.sample(jax.random.key(0), clean), np.float64)
  want = 4 / (255 * 0.4) * np.array([0.0, 0.25, 1.0]) + 0.06**2
  np.testing.assert_allclose(y.mean(0), clean[0], atol=5 * np.sqrt(want.max() / 40_000))
  np.testing.assert_allclose(y.var(0), want, rtol=0.04)
  np.testing.assert_allclose(model.variance(clean[0], clean[0]), np.maximum(want, (2 / 102) ** 2), rtol=1e-5)
  np.testing.assert_allclose(model.std(clean[0]) ** 2, np.maximum(want, (2 / 102) ** 2), rtol=1e-5)


def photograph():
  return np.asarray(held_out.held_out("photos", "validation", 1, SIZE)[1][0])


def by_channel(x):
  return x + np.asarray(SIGMAS) * np.random.default_rng(0).standard_normal(x.shape)


def by_brightness(x, gain=0.02, read=0.1):
  return np.asarray(Poisson(1 / (255 * gain), read).sample(jax.random.key(1), jnp.asarray(x)))


def psnr(a, b):
  return 10 * np.log10(4 / np.mean((np.clip(a, -1, 1) - b) ** 2))


def reconstruct(folder, y, *flags):
  np.save(folder / "y.npy", y.astype(np.float32))
  code = main.execute(
    ["reconstruct", f"--measurement={folder / 'y.npy'}", "--task=denoising", f"--output={folder / 'out'}", *flags]
  )
  found = folder / "out/results.json"
  return code, json.loads(found.read_text()) if found.exists() else None


def test_the_noise_of_each_channel_is_found_and_better_taken_off(tmp_path, capsys):
  truth = photograph()
  code, got = reconstruct(tmp_path, by_channel(truth), "--sigma=channels")
  assert code == 0 and "y: sigma 0.0" in capsys.readouterr().err
  np.testing.assert_allclose(got["noise"]["sigma"], SIGMAS, rtol=0.1)
  assert got["network_evaluations"] == 4
  one = diffinv.restore(by_channel(truth), task="denoising")
  assert psnr(images.read(tmp_path / "out/y.png"), truth) > psnr(np.asarray(one), truth) + 0.7


def test_the_noise_of_a_camera_is_found(tmp_path, capsys):
  code, got = reconstruct(tmp_path, by_brightness(photograph()), "--noise=poisson")
  assert code == 0 and "y: rate 0.1" in capsys.readouterr().err
  assert got["noise"]["rate"] == pytest.approx(1 / (255 * 0.02), rel=0.15)
  assert got["noise"]["read"] == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize(
  "found, said", [((1.1, 1.4), None), ((1.8, 1.2), "channels"), ((1.5, 3), "poisson"), ((3, 9), "channels")]
)
def test_doubt_is_told_only_of_what_is_plain(found, said):
  doubt = uneven_noise.doubt(found)
  assert doubt is None if said is None else said in doubt


@pytest.mark.parametrize(
  "uneven, said",
  [(by_channel, "try sigma=channels"), (lambda x: by_brightness(x, 0.05, 0.04), "try noise=poisson"), (None, None)],
)
def test_a_note_names_the_flag_for_uneven_noise(uneven, said, tmp_path, capsys):
  x = photograph()
  y = x + 0.1 * np.random.default_rng(0).standard_normal(x.shape) if uneven is None else uneven(x)
  assert reconstruct(tmp_path, y)[0] == 0
  err = capsys.readouterr().err
  assert "seems to" not in err if said is None else said in err


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--sigma=channels", "--noise=poisson"], "--sigma is of gaussian noise, got --noise=poisson"),
    (["--rate=auto"], "--rate is of poisson noise, got --noise=gaussian"),
    (["--noise=poisson", "--rate=auto", "--read=0.1"], "--rate=auto finds --read too"),
    (["--read=0.1"], "--read is of poisson noise, got --noise=gaussian"),
    (["--sigma=0.1,0.2"], "--sigma: expected a number, or one for each channel of Denoising, got 2"),
    (["--sigma=0.1,0.2,-3"], "--sigma: expected a number from 1e-06 to 1,000, got -3"),
    (["--sigma=channels", "--task=super_resolution"], "--sigma=channels: it takes the picture itself with noise"),
  ],
)
def test_what_does_not_fit_is_refused_in_a_line(flags, said, tmp_path, capsys):
  assert reconstruct(tmp_path, photograph(), *flags)[0] == 2
  err = capsys.readouterr().err
  assert said in err and err.count("\n") == 1


def test_a_sigma_for_each_channel_may_be_said_and_measured_with(tmp_path):
  images.write(tmp_path / "x.png", np.zeros((SIZE, SIZE, 3)))
  flags = ["--task=denoising", "--sigma=0.05,0.1,0.2", "--prior=natural", f"--output={tmp_path / 'out'}"]
  assert main.execute(["reconstruct", f"--input={tmp_path / 'x.png'}", *flags]) == 0
  y = np.load(tmp_path / "out/x-measurement.npy")
  np.testing.assert_allclose(np.std(y, axis=(0, 1)), SIGMAS, rtol=0.1)
