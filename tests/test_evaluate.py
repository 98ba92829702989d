"""The fitted Gaussian, the distances and the classical baselines that trained priors are measured against."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import baselines, operators, priors
from diffinv.methods.dps import DPS
from diffinv.metrics import distances
from diffinv.noise import Gaussian
from diffinv.priors import spectral as spectral_prior
from diffinv.problems import Problem, simulate
from diffinv.schedules import Level

SHAPE = (6, 8, 3)
LEVEL = Level(jnp.float32(500.0), jnp.float32(0.8), jnp.float32(0.6))


@pytest.fixture(scope="module")
def tool(load_tool):
  return load_tool("evaluate_prior")


def images(count, seed=0):
  """Correlated images that are not of mean zero."""
  x = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
  x = x + np.roll(x, 1, axis=1) + 0.5 * np.roll(x, 1, axis=3) + np.linspace(-1, 1, SHAPE[1], dtype=np.float32)[:, None]
  return 0.2 * x + np.array([0.1, -0.2, 0.3], np.float32)


def dense(prior):
  """Return C as a matrix, column by column."""
  d = int(np.prod(SHAPE))
  basis = jnp.eye(d).reshape(d, *SHAPE)
  return np.asarray(jax.vmap(prior.covariance)(basis), np.float64).reshape(d, d).T


@pytest.mark.slow
def test_fit_recovers_a_known_spectrum():
  known = priors.natural()
  spread = np.asarray(known.spectrum(SHAPE))
  white = np.random.default_rng(0).standard_normal((20000, *SHAPE)).astype(np.float32)
  drawn = jax.jit(jax.vmap(known.synthesize))(np.sqrt(spread) * white)
  fitted = spectral_prior.fit(np.split(np.asarray(drawn), 4))
  d = int(np.prod(SHAPE))
  expected = np.asarray(jax.vmap(known.covariance)(jnp.eye(d).reshape(d, *SHAPE))).reshape(d, d)
  # An entry of a sample covariance has a relative error of about 1/sqrt(n) = 0.7 %.
  np.testing.assert_allclose(dense(fitted), expected, atol=0.03 * expected.max())
  assert abs(np.trace(dense(fitted)) / np.trace(expected) - 1) < 0.03
  np.testing.assert_allclose(np.asarray(fitted.mean)[0, 0], 0.0, atol=0.02)


@pytest.mark.parametrize("mean", spectral_prior.MEANS)
@pytest.mark.parametrize("boundary", list(spectral_prior.TRANSFORMS))
@pytest.mark.slow
def test_fitted_moments_are_those_of_the_images(boundary, mean):
  x = images(64)
  fitted = spectral_prior.fit([x[:40], x[40:]], boundary=boundary, mean=mean)
  expected = x.mean(axis=0) if mean == "image" else x.mean(axis=(0, 1, 2))[None, None]
  np.testing.assert_allclose(fitted.mean, expected, atol=1e-5)
  # Blind to which frequencies mix, C has the mean covariance of the pixels' colors.
  d = x[0].size
  centered = (x - expected).astype(np.float64)
  colors = np.einsum("nhwi,nhwj->ij", centered, centered) / len(x)
  blocks = dense(fitted).reshape(d // 3, 3, d // 3, 3)
  np.testing.assert_allclose(np.einsum("aiaj->ij", blocks), colors, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("boundary", list(spectral_prior.TRANSFORMS))
@pytest.mark.slow
def test_the_denoiser_is_the_exact_linear_one(boundary):
  fitted = spectral_prior.fit([images(64)], boundary=boundary, mean="image")
  covariance, mean = dense(fitted), np.asarray(fitted.mean, np.float64).ravel()
  np.testing.assert_allclose(covariance, covariance.T, atol=1e-6)
  x_t = images(1, seed=1)[0].ravel().astype(np.float64)
  alpha, sigma = float(LEVEL.alpha), float(LEVEL.sigma)
  gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(len(mean)))
  expected = mean + gain @ (x_t - alpha * mean)
  found = fitted.denoise(jnp.asarray(x_t.reshape(SHAPE), jnp.float32), LEVEL)
  np.testing.assert_allclose(np.ravel(found.x0), expected, atol=1e-5)
  np.testing.assert_allclose(np.ravel(found.eps), (x_t - alpha * expected) / sigma, atol=1e-4)


def test_the_periodic_fit_is_stationary():
  fitted = spectral_prior.fit([images(64)], boundary="periodic")
  x = jnp.asarray(images(1, seed=2)[0])
  moved = jnp.roll(x, (2, 3), axis=(0, 1))
  np.testing.assert_allclose(fitted.covariance(moved), jnp.roll(fitted.covariance(x), (2, 3), axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("boundary", list(spectral_prior.TRANSFORMS))
@pytest.mark.slow
def test_draws_have_the_fitted_covariance(boundary):
  fitted = spectral_prior.fit([images(64)], boundary=boundary)
  drawn = np.asarray(jax.jit(jax.vmap(fitted.draw))(jax.random.split(jax.random.key(0), 20000)), np.float64)
  d = int(np.prod(SHAPE))
  expected = dense(fitted)
  np.testing.assert_allclose(np.cov(drawn.reshape(-1, d).T), expected, atol=0.04 * expected.max())
  np.testing.assert_allclose(drawn.mean(axis=(0, 1, 2)), np.ravel(fitted.mean), atol=0.01)


def test_fit_names_a_wrong_choice():
  with pytest.raises(ValueError, match="boundary: expected one of mirror, periodic, got 'zero'"):
    spectral_prior.fit([images(2)], boundary="zero")
  with pytest.raises(ValueError, match="batches"):
    spectral_prior.fit([])


@pytest.mark.parametrize("second", [(5, 6, 3), (4, 4, 3), (4, 4)], ids=str)
def test_fit_refuses_images_of_several_sizes(second):
  with pytest.raises(ValueError, match="batches: expected .b, h, w, c. of one size, got"):
    spectral_prior.fit([np.zeros((2, 4, 6, 3)), np.zeros((2, *second))])


def test_sliced_wasserstein_of_equal_sets_is_zero_in_any_order():
  a = jax.random.normal(jax.random.key(0), (500, 12))
  directions = distances.random_directions(jax.random.key(1), 12, 64)
  np.testing.assert_allclose(jnp.linalg.norm(directions, axis=0), 1.0, rtol=1e-5)
  assert float(distances.sliced_wasserstein(a, a[::-1], directions)) < 1e-6


def test_sliced_wasserstein_of_a_shift_is_the_mean_projection_of_it():
  a = jax.random.normal(jax.random.key(0), (500, 12))
  v = jnp.arange(12.0) / 10
  directions = distances.random_directions(jax.random.key(1), 12, 4096)
  found = float(distances.sliced_wasserstein(a, a + v[None], directions))
  np.testing.assert_allclose(found, np.sqrt(np.mean((np.asarray(v) @ np.asarray(directions)) ** 2)), rtol=1e-5)
  # Over all directions |v| / sqrt(d); the mean of 4096 squares has a relative error of sqrt(2/4096) = 2 %.
  np.testing.assert_allclose(found, np.linalg.norm(v) / np.sqrt(12), rtol=0.04)


def test_sliced_wasserstein_of_scaled_gaussians_is_the_difference_of_their_deviations():
  k1, k2, k3 = jax.random.split(jax.random.key(0), 3)
  a, b = jax.random.normal(k1, (20000, 5)), 1.5 * jax.random.normal(k2, (20000, 5))
  found = distances.sliced_wasserstein(a, b, distances.random_directions(k3, 5, 64))
  np.testing.assert_allclose(found, 0.5, rtol=0.03)  # W2(N(0, 1), N(0, 1.5^2)) = 0.5; sampling error about 1 %


def test_patches_are_cut_from_the_images():
  x = jnp.arange(2 * 9 * 9, dtype=jnp.float32).reshape(2, 9, 9, 1)
  patches = np.asarray(distances.random_patches(jax.random.key(0), x, size=3, count=5)).reshape(2, 5, 3, 3)
  steps = np.arange(3)[:, None] * 9 + np.arange(3)[None, :]
  np.testing.assert_array_equal(patches - patches[..., :1, :1], np.broadcast_to(steps, patches.shape))
  assert np.all(patches[0] < 81) and np.all(patches[1] >= 81)
  assert len(np.unique(patches[:, :, 0, 0])) > 5


def test_reduction_is_the_mean_of_blocks():
  x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
  found = np.asarray(distances.reduced(jnp.asarray(x), 4)).reshape(2, 4, 4, 3)
  np.testing.assert_allclose(found[1, 2, 3], x[1, 4:6, 6:8].mean(axis=(0, 1)), rtol=1e-5)


def test_fista_solves_a_quadratic_exactly():
  """R = ridge/2 ||x||^2 has the proximal map v / (1 + step ridge) and the solution (A^T A + ridge)^-1 A^T y."""
  shape, ridge = (12, 12, 1), 0.1
  operator = operators.gaussian_blur(shape, size=5, std=1.0)
  x0 = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
  problem = simulate(jax.random.key(0), operator, Gaussian(0.05), x0)
  found = baselines.fista(problem, lambda v, step: v / np.float32(1 + step * ridge), np.zeros(shape, np.float32))
  expected = operator.adjoint(operator.solve(problem.y, ridge))  # push-through identity
  np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_library_s_total_variation_is_the_proximal_map_of_its_weight(tool):
  """On a step of two halves of n pixels the proximal map of weight TV moves each level by weight / n."""
  y = np.zeros((8, 8, 3), np.float32)
  y[:, 4:] = 1.0
  problem = Problem(operators.identity(y.shape), Gaussian(0.05), jnp.asarray(y))
  found = tool.restore_tv(problem, "denoising", 0.2)
  expected = np.where(y > 0.5, 1.0 - 0.2 / 4, 0.2 / 4)
  np.testing.assert_allclose(found, expected, atol=0.01)  # the library stops early


def test_search_finds_the_maximum_on_its_grid(tool):
  calls = []

  def score(v):
    calls.append(v)
    return -((np.log2(v) - 2.4) ** 2)

  found = tool.search(score, 0.5)
  assert max(found, key=found.get) == pytest.approx(2**2.5)
  assert len(calls) == len(set(calls)) <= 9


def test_search_leaves_the_places_that_diverge(tool):
  found = tool.search(lambda v: -math.inf if v > 0.3 else v, 2.0)
  assert max(found, key=found.get) == pytest.approx(0.25)
  assert len(tool.search(lambda v: -math.inf, 2.0)) == 9


@pytest.mark.parametrize("chains, counts", [(1, []), (2, [2]), (4, [4]), (5, [4, 5]), (16, [4, 16]), (17, [4, 16, 17])])
def test_means_are_of_four_and_more_samples_and_of_all(tool, chains, counts):
  assert tool.averaged_counts(chains) == counts


def test_samples_in_pairs_begin_with_the_same_sample_and_go_on_with_its_opposite(tool):
  from absl import flags
  from absl.testing import flagsaver

  flags.FLAGS(["evaluate", "--prior=natural", "--output=unused"])
  problems = tool.measure_images(np.zeros((2, 16, 16, 3), np.float32), "super_resolution", 6)
  method = DPS(scale=jnp.float32(0.1), rule="squared")
  restored = lambda chains: tool.restore(method, priors.natural(), problems, "4", chains)
  alone, apart = restored(1), restored(4)
  with flagsaver.flagsaver(antithetic=True):
    paired = restored(4)
    np.testing.assert_array_equal(restored(1), alone)
  np.testing.assert_array_equal(paired[:, 0], apart[:, 0])
  np.testing.assert_array_equal(paired[:, 2], apart[:, 1])
  # This rule is affine in the noise under a Gaussian prior: the means of both pairs are one, those of others are not.
  means = lambda samples: (samples[:, 0] + samples[:, 1], samples[:, 2] + samples[:, 3])
  np.testing.assert_allclose(*means(paired), atol=1e-4)
  assert np.max(np.abs(np.subtract(*means(apart)))) > 0.1


def test_tuning_marks_a_sample_or_the_mean_of_a_pair(tool, monkeypatch):
  from absl import flags
  from absl.testing import flagsaver

  flags.FLAGS(["evaluate", "--prior=natural", "--output=unused", "--steps=4", "--tasks=super_resolution"])
  truths = np.asarray(jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-0.5, maxval=0.5))
  monkeypatch.setattr(tool, "held_out", lambda subject, purpose, count: truths)
  monkeypatch.setattr(tool, "search", lambda score, start: {start: score(start)})
  monkeypatch.setattr(tool, "TV_STEPS", 1)
  subject = tool.Subject("natural", priors.natural(), {}, (16, 16, 3))
  problems = tool.measure_images(truths, "super_resolution", 7)
  marks, identities = [], []
  for antithetic in (False, True):
    with flagsaver.flagsaver(antithetic=antithetic):
      found, _ = tool.tune(subject)
      fields = {"rule": "squared", "scale": tool.FIRST_SCALES["squared"]}
      pair = tool.restore_dps(subject.prior, problems, fields, "4", 2)
      picture = pair.mean(axis=1) if antithetic else pair[:, 0]
      (mark,) = found["trials"]["network squared super_resolution"].values()
      assert mark == pytest.approx(tool.marks(picture, truths)[:, 0].mean(), abs=1e-3)
      best = max(tool.FIRST_SCALES, key=lambda rule: max(found["trials"][f"network {rule} super_resolution"].values()))
      assert found["network"]["super_resolution"]["rule"] == best
      marks.append(mark)
      identities.append(found["of"])
  assert marks[0] != pytest.approx(marks[1], abs=0.01)
  assert identities[0] != identities[1]  # neither's settings are taken for the other's


def test_test_and_tuning_crops_are_different(tool):
  chosen = {purpose: tool.held_out_photos(64, purpose, 8) for purpose in ("restoration", "tuning")}
  assert chosen["restoration"].shape == chosen["tuning"].shape == (8, 64, 64, 3)
  for crop in chosen["restoration"]:
    assert not any(np.array_equal(crop, other) for other in chosen["tuning"])


@pytest.fixture
def folder_subject(tool, tmp_path):
  """A prior, unnamed, of a folder of pictures of one color each, by which crops tell whose they are."""
  from absl import flags
  from PIL import Image

  from diffinv.apps import main
  from diffinv.apps import train as train_app

  def make(count):
    (tmp_path / "images").mkdir()
    for i in range(count):
      Image.fromarray(np.full((24, 40, 3), 4 * i, np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    command = f"--data={tmp_path / 'images'} --output={tmp_path / 'p'} --steps=1 --size=16 --batch_size=8"
    main.parse("train", train_app.FLAGS, command.split())
    flags.FLAGS(["evaluate", "--prior=p", "--output=o", "--fit_images=100"])
    return tool.Subject("p", None, train_app.settings_from_flags(), (16, 16, 3))

  return make


def test_the_slopes_are_those_that_the_parts_were_scaled_by(tool):
  x0 = np.random.default_rng(0).standard_normal((400, 16, 16, 3)).astype(np.float32)
  coarse = np.kron(np.asarray(distances.reduced(x0, 2)).reshape(400, 2, 2, 3), np.ones((1, 8, 8, 1), np.float32))
  offset = np.linspace(-1, 1, 16, dtype=np.float32)[:, None, None]
  found = tool.slopes_of(x0, 0.8 * coarse + 1.25 * (x0 - coarse) + offset)
  assert found["coarse"] == pytest.approx((1.25, 0.0), abs=1e-5)
  assert found["fine"] == pytest.approx((0.8, 0.0), abs=1e-5)


def test_calibration_refuses_images_that_its_blocks_do_not_fill(tool):
  from absl import app

  subject = tool.Subject("p", None, {"data": "faces"}, (12, 12, 3))
  with pytest.raises(app.UsageError, match="--measure=calibration needs images of a multiple of 8 pixels, got 12"):
    tool.calibration(subject)


def test_a_posterior_mean_has_the_slope_one_to_within_the_standard_error(tool):
  rng = np.random.default_rng(0)
  x0 = 0.5 * rng.standard_normal((400, 16, 16, 3))
  noisy = x0 + rng.standard_normal(x0.shape)
  for scale, slope in ((1.0, 1.0), (0.9, 1 / 0.9)):
    for found, error in tool.slopes_of(x0, scale * 0.2 * noisy).values():  # 0.25 / (0.25 + 1) of what is seen
      assert abs(found - slope) < 4 * error
  # The residual's deviation over that of D, which is 2, over the root of the independent values, 1 of 64 of them means.
  errors = [tool.slopes_of(x0, 0.2 * noisy)[part][1] for part in ("coarse", "fine")]
  values = np.array([1, 63]) * 400 * 16 * 16 * 3 / 64
  np.testing.assert_allclose(errors, 2 / np.sqrt(values), rtol=0.15)


def colors(x):
  return {round((float(v) + 1) * 127.5 / 4) for v in x.mean(axis=(1, 2, 3))}


def test_the_gaussian_of_a_folder_is_fitted_to_what_was_trained_on_alone(tool, folder_subject):
  subject = folder_subject(60)
  fitted = set.union(*(colors(batch) for batch in tool.training_batches(subject)))
  held_out = colors(tool.held_out(subject, "denoising", 80))
  assert len(held_out) == 6 and fitted == set(range(60)) - held_out


def test_no_file_serves_both_restoration_and_tuning(tool, folder_subject):
  subject = folder_subject(50)
  chosen = {purpose: tool.held_out(subject, purpose, 8) for purpose in ("restoration", "tuning")}
  assert [len(x) for x in chosen.values()] == [3, 2]
  assert len(set.union(*map(colors, chosen.values()))) == 5


def test_a_prior_of_a_folder_of_which_nothing_was_held_out_is_not_measured(tool, folder_subject):
  from absl import app

  with pytest.raises(app.UsageError, match="--prior: expected one whose training held files out, .* held out none"):
    tool.held_out(folder_subject(9), "denoising", 8)


def test_a_folder_that_is_not_that_of_the_training_is_refused(tool, tmp_path):
  from absl import app, flags
  from PIL import Image

  from diffinv.data import folder

  for name in ("images", "p"):
    (tmp_path / name).mkdir()
  Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
  settings = {"data": str(tmp_path / "images"), "files": folder.fingerprint(tmp_path / "images"), "seed": 0}
  (tmp_path / "p" / "prior.json").write_text(json.dumps({"provenance": {"settings": settings}}))
  Image.effect_noise((64, 64), 50).save(tmp_path / "images" / "a.png")
  flags.FLAGS(["evaluate", f"--prior={tmp_path / 'p'}", "--output=o"])
  with pytest.raises(app.UsageError, match="--prior: expected the images of its training in .*images, got others"):
    tool.load_subject()


@pytest.mark.slow
def test_a_small_prior_is_measured_end_to_end(tool, tmp_path, monkeypatch):
  from absl import app, flags
  from absl.testing import flagsaver

  from diffinv import checkpoint
  from diffinv.apps import main
  from diffinv.apps import train as train_app
  from diffinv.data import faces
  from diffinv.nets import small

  def blob(key, size=64):  # the renderer takes a minute to compile
    color, slope = jax.random.uniform(key, (2, 3), minval=-0.5, maxval=0.5)
    ramp = jnp.linspace(-1.0, 1.0, size)[:, None, None] * jnp.ones((1, size, 1))
    return color[None, None] + slope[None, None] * ramp

  monkeypatch.setattr(faces, "render", blob)
  main.parse(
    "train",
    train_app.FLAGS,
    [
      "--config=faces",
      "--size=16",
      "--channels=8",
      "--head_channels=8",
      "--batch_size=8",
      "--embedding=8",
      f"--output={tmp_path / 'p'}",
      "--steps=1",
      "--multipliers=1,2",
    ],
  )
  s = train_app.settings_from_flags()
  config = train_app.network_config(s)
  prior = train_app.make_prior(small.initialize(jax.random.key(0), config), s)
  kept = {name: value for name, value in s.items() if name not in train_app.FREE}
  checkpoint.save_prior(tmp_path / "p", prior, config, {"settings": kept})
  monkeypatch.setattr(tool, "TV_STEPS", 3)
  monkeypatch.setattr(tool, "RENDERED", 4)
  arguments = [
    "evaluate", f"--prior={tmp_path / 'p'}", f"--output={tmp_path / 'out'}", "--fit_images=16", "--images=4",
    "--samples=4", "--sample_steps=2", "--steps=4", "--tasks=inpaint_box,super_resolution", "--test_images=2",
    "--tuning_images=1", "--chains=2", "--rounds=1", "--timed_steps=2", "--measure=" + ",".join(tool.MEASURES),
  ]  # fmt: skip
  monkeypatch.setattr("sys.argv", ["evaluate_prior.py", *arguments[1:]])
  flags.FLAGS(arguments)
  with jax.numpy_rank_promotion("allow"):
    tool.main([])
  for name in ("denoising", "calibration", "sampling", "tuning", "restoration", "speed"):
    found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert found["command"].startswith("python tools/evaluate_prior.py --prior=")
    assert (tmp_path / "out" / f"{name}.md").read_text().count("|") > 10
  # An untrained network returns zero, and the prior c_skip (x0 + sbar eps), c_skip = 0.25 / (0.25 + sbar^2).
  found = json.loads((tmp_path / "out" / "denoising.json").read_text())
  x0, c_skip = np.concatenate([tool.held_out(tool.load_subject(), "denoising", 4)]), 0.25 / (0.25 + 0.1**2)
  expected = (1 - c_skip) ** 2 * np.mean(x0**2) + (c_skip * 0.1) ** 2
  # Clipping gains a little; the noise of 4 16x16x3 images has a relative error of sqrt(2/3072) = 3 %, 0.1 dB.
  np.testing.assert_allclose(found["psnr_pooled"]["network"][0], 10 * np.log10(4 / expected), atol=0.5)
  assert (tmp_path / "out" / "samples.png").is_file()
  with flagsaver.flagsaver(antithetic=True, chains=3):
    with pytest.raises(app.UsageError, match="--chains: expected an even number for --antithetic, got 3"):
      tool.main([])
  with flagsaver.flagsaver(tasks=["gaussian_blur"], beside=["diffpir", "ddnm_plus"]):
    with pytest.raises(
      app.UsageError, match="--beside: gaussian_blur: ddnm_plus: expected an operator whose pseudo-inv"
    ):
      tool.main([])
