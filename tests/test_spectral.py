"""The Gaussian that is fitted to images: its moments, its denoiser, its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import priors
from diffinv.priors import spectral as spectral_prior
from diffinv.schedules import Level

SHAPE = (6, 8, 3)
LEVEL = Level(jnp.float32(500.0), jnp.float32(0.8), jnp.float32(0.6))


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
  centerd = (x - expected).astype(np.float64)
  colors = np.einsum("nhwi,nhwj->ij", centerd, centerd) / len(x)
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
