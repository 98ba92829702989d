"""Image metrics: known values, scikit-image's SSIM, and the law of chi-square."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from diffinv import problems
from diffinv.data import photos
from diffinv.metrics import image as metrics

SIZES = [(11, 11, 1), (12, 30, 3), (64, 48, 3)]
KINDS = ("noise", "near", "flat", "black_and_white", "tiny_contrast", "photo")


@functools.cache
def pair(kind, shape):
  """Return two images of [0, 1], float32."""
  rng = np.random.default_rng(len(kind))
  a = rng.random(shape)
  b = {
    "noise": lambda: rng.random(shape),
    "near": lambda: a + 0.01 * rng.standard_normal(shape),
    "flat": lambda: np.full(shape, 0.7),
    "black_and_white": lambda: np.ones(shape),
    # Variances of 1e-8 beside squares of 1: what is lost where a variance is a difference of squares.
    "tiny_contrast": lambda: 0.9 + 1e-2 * rng.standard_normal(shape),
    "photo": lambda: photo(shape) + 0.1 * rng.standard_normal(shape),
  }[kind]()
  a = {
    "flat": np.full(shape, 0.3),
    "black_and_white": np.zeros(shape),
    "tiny_contrast": 0.9 + 1e-2 * (a - 0.5),
    "photo": photo(shape),
  }.get(kind, a)
  return tuple(np.clip(x, 0.0, 1.0).astype(np.float32) for x in (a, b))


@functools.cache
def photo(shape):
  height, width, channels = shape
  pixels = np.asarray(photos.read("astronaut.png"))[:height, -width:, :channels]
  return pixels / 255.0


def reference_ssim(a, b):
  return structural_similarity(
    np.asarray(a, np.float64),
    np.asarray(b, np.float64),
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    data_range=1.0,
    channel_axis=-1,
  )


# Compiling is what takes time here.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
ssim = quickly(metrics.ssim)
gradient = quickly(jax.grad(metrics.ssim))


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_ssim_is_that_of_scikit_image(kind, shape):
  a, b = pair(kind, shape)
  assert abs(float(ssim(a, b)) - reference_ssim(a, b)) < 1e-5


@pytest.mark.parametrize("height", [522, 523, 1200])
def test_ssim_in_bands_of_rows_is_that_of_the_whole(height):
  rng = np.random.default_rng(height)
  truth = rng.uniform(size=(height, 24, 1)).astype(np.float32)
  noisy = np.clip(truth + 0.2 * np.linspace(0, 1, height)[:, None, None] * rng.normal(size=truth.shape), 0, 1)
  noisy = noisy.astype(np.float32)
  assert abs(float(ssim(noisy, truth)) - reference_ssim(noisy, truth)) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_is_symmetric_and_one_for_equal_images(kind):
  a, b = pair(kind, (12, 30, 3))
  assert abs(float(ssim(a, b)) - float(ssim(b, a))) < 1e-6
  assert abs(float(ssim(a, a)) - 1.0) < 1e-6
  assert float(ssim(a, b)) < 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same", [False, True], ids=["different", "same"])
@pytest.mark.slow
def test_gradient_of_ssim_is_finite_and_right(kind, same):
  a, b = pair(kind, (12, 30, 3))
  b = a if same else b
  grad = gradient(a, b)
  assert np.all(np.isfinite(grad))
  direction = np.random.default_rng(1).standard_normal(a.shape)
  step = 1e-6
  ends = [reference_ssim(a + sign * step * direction, b) for sign in (1, -1)]
  # Central differences of the reference are good to about 1e-9 / step; the truth's gradient at a maximum is 0.
  np.testing.assert_allclose(np.sum(grad * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=2e-4)


def test_ssim_needs_a_whole_window():
  with pytest.raises(ValueError, match=r"at least 11x11.*got \(10, 20, 3\)"):
    metrics.ssim(jnp.zeros((10, 20, 3)), jnp.zeros((10, 20, 3)))
  with pytest.raises(ValueError, match="expected \\[h, w, c\\]"):
    metrics.ssim(jnp.zeros((20, 20)), jnp.zeros((20, 20)))


@pytest.mark.parametrize("error, want", [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (0.5, 20 * np.log10(2))])
def test_psnr_of_a_constant_error(error, want):
  truth = jnp.zeros((5, 7, 3))
  np.testing.assert_allclose(metrics.psnr(truth + error, truth), want, rtol=1e-5, atol=1e-5)


def test_psnr_averages_squares_over_all_values():
  truth = np.zeros((4, 5, 3), np.float32)
  image = truth.copy()
  image[1, 2, 0] = 0.6  # MSE 0.36 / 60
  np.testing.assert_allclose(metrics.psnr(image, truth), 10 * np.log10(60 / 0.36), rtol=1e-6)
  np.testing.assert_allclose(metrics.psnr(truth, image), 10 * np.log10(60 / 0.36), rtol=1e-6)


def test_psnr_keeps_its_digits_on_large_images():
  a, b = pair("near", (512, 512, 3))
  want = -10 * np.log10(np.mean((np.float64(a) - np.float64(b)) ** 2))
  np.testing.assert_allclose(metrics.psnr(a, b), want, atol=1e-5)


def test_psnr_of_equal_images_is_infinite():
  assert metrics.psnr(jnp.ones((2, 2, 3)), jnp.ones((2, 2, 3))) == np.inf


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_unequal_shapes_are_an_error_and_never_broadcast(metric):
  with pytest.raises(ValueError, match=r"\(16, 16, 3\).*got \(16, 16, 1\)"):
    metric(jnp.zeros((16, 16, 3)), jnp.zeros((16, 16, 1)))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_vmap_gives_one_number_per_image(metric):
  pairs, single = [pair(kind, (12, 30, 3)) for kind in KINDS], quickly(metric)
  batched = quickly(jax.vmap(metric))(*(np.stack(images) for images in zip(*pairs)))
  np.testing.assert_allclose(batched, [single(a, b) for a, b in pairs], rtol=1e-5)


def test_to_unit_maps_and_clips():
  np.testing.assert_array_equal(metrics.to_unit(jnp.array([-3.0, -1.0, -0.5, 0.0, 1.0, 1.5])), [0, 0, 0.25, 0.5, 1, 1])


def test_chi2_of_known_residuals():
  residual = jnp.array([2.0, -3.0, 50.0])
  observed = jnp.array([1.0, 1.0, 0.0])
  np.testing.assert_allclose(problems.chi2(residual, jnp.asarray(2.0), observed), (1 + 2.25) / 2)
  np.testing.assert_allclose(problems.chi2(residual, jnp.array([2.0, 6.0, 1.0]), observed), (1 + 0.25) / 2)


def test_chi2_of_noise_is_one_with_variance_two_over_m():
  draws, m = 2000, 60
  rng = np.random.default_rng(0)
  std = rng.uniform(0.01, 3.0, (4, 5, 6)).astype(np.float32)
  observed = (np.arange(120).reshape(4, 5, 6) % 2).astype(np.float32)
  residuals = (std * rng.standard_normal((draws, 4, 5, 6))).astype(np.float32)
  values = np.asarray(jax.jit(jax.vmap(problems.chi2, (0, None, None)))(residuals, std, observed))
  error = np.sqrt(2 / m)
  assert abs(values.mean() - 1) < 4 * error / np.sqrt(draws)
  np.testing.assert_allclose(values.std(), error, rtol=4 * np.sqrt((2 + 12 / m) / (4 * draws)))
