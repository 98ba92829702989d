"""Blurs that are not known: evidence where it is known exactly, and estimates of pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

import diffinv
import diffinv.data.held_out
from diffinv import blind, noise, priors, problems
from diffinv.blind import estimation, free, prediction, spectrum
from diffinv.blind.estimation import SEARCHED
from diffinv.operators.blur import CircularBlur, motion_kernel
from diffinv.operators.kernels import AUTO, DiskKernel, FreeKernel, GaussianKernel, MotionKernel
from diffinv.priors.gaussian import LINEAR
from diffinv.priors.spectral import SpectralGaussian

SHAPE, SIGMA = (32, 32, 1), 0.05
WIDTHS = np.exp(np.arange(np.log(1.0), np.log(3.0), 0.05))


def power_law(shape=SHAPE, amplitude=4e-4):
  """Return the periodic stationary law of power a / |f|^2."""
  height, width, channels = shape
  radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
  power = amplitude / np.maximum(radius, 1 / height) ** 2
  return SpectralGaussian(
    mean=jnp.zeros((1, 1, channels)),
    eigvals=jnp.asarray(np.repeat(power[:, :, None], channels, 2), float),
    eigvecs=jnp.broadcast_to(jnp.eye(channels, dtype=complex), (height, width, channels, channels)),
    boundary="periodic",
    schedule=LINEAR,
  )


def transfer(kernel, shape=SHAPE):
  """Return K_f on all frequencies, up to a phase."""
  return np.abs(np.fft.fft2(np.asarray(kernel.taps(21), np.float64), shape[:2]))


def exact_evidence(law, kernel, y):
  """Return -log p(y | k) without its constant, from the variance of each Fourier coefficient, float64."""
  variances = transfer(kernel) ** 2 * np.asarray(law.eigvals[..., 0], np.float64) + SIGMA**2
  power = np.abs(np.fft.fft2(np.asarray(y[..., 0], np.float64), norm="ortho")) ** 2
  return 0.5 * np.sum(np.log(variances) + power / variances)


def wiener(law):
  """Return the exact E[x | v] for circular blurs under a law, through the blur's own SVD-free solve."""

  def restore(operator, std, v):
    blurred = jnp.fft.fft2(operator.kernel, s=SHAPE[:2])[:, :, None]
    middle = operator.kernel.shape[0] // 2
    shift = jnp.fft.fftfreq(SHAPE[0])[:, None] + jnp.fft.fftfreq(SHAPE[1])[None, :]
    blurred = blurred * jnp.exp(jax.lax.complex(jnp.zeros_like(shift), 2 * jnp.pi * middle * shift))[:, :, None]
    gain = jnp.conj(blurred) * (law.eigvals / (jnp.abs(blurred) ** 2 * law.eigvals + std**2)).astype(blurred.dtype)
    return jnp.fft.ifft2(gain * jnp.fft.fft2(v, axes=(0, 1)), axes=(0, 1)).real

  return restore


def drawn(kernel, law=None, key=0):
  k1, k2 = jax.random.split(jax.random.key(key))
  law = power_law() if law is None else law
  x0 = law.draw(k1)
  return problems.simulate(k2, CircularBlur(x0.shape, kernel.taps(21)), noise.Gaussian(jnp.float32(SIGMA)), x0).y


def test_errors_of_prediction_at_all_noises_are_the_evidence():
  law, y = power_law(), drawn(GaussianKernel(1.5))
  levels = np.exp(np.linspace(np.log(SIGMA / 30), np.log(30.0), 120))  # of s; beyond, models do not differ
  keys = jax.random.split(jax.random.key(1), 24)

  @jax.jit
  def summed(taps):
    def at(s):
      one = lambda z: prediction.prediction_error(wiener(law), CircularBlur(SHAPE, taps), y, jnp.float32(SIGMA), s, z)
      z = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
      return jnp.mean(jax.vmap(lambda z: jnp.sum(one(z) + one(-z)) / 2)(z))  # what is linear in z cancels

    return jax.lax.map(at, jnp.asarray(levels, jnp.float32))

  def integral(kernel):
    return 0.5 * np.trapezoid(np.asarray(summed(kernel.taps(21)), np.float64) * 2 / levels**2, np.log(levels))

  right, narrow, wide = GaussianKernel(1.5), GaussianKernel(1.0), GaussianKernel(2.5)
  for wrong in (narrow, wide):
    expected = exact_evidence(law, wrong, y) - exact_evidence(law, right, y)
    assert abs(expected) > 3
    np.testing.assert_allclose(integral(wrong) - integral(right), expected, rtol=0.1, atol=0.5)  # 24 draws of z


@pytest.mark.parametrize("key", range(3))
def test_one_noise_finds_the_width_of_most_evidence(key):
  law, y = power_law(), drawn(GaussianKernel(1.7), key=key)
  zs = jax.random.normal(jax.random.key(9), (32, *SHAPE))

  @jax.jit
  def error(std):
    operator, s = CircularBlur(SHAPE, GaussianKernel(std).taps(21)), jnp.float32(2 * SIGMA)
    one = lambda z: jnp.sum(prediction.prediction_error(wiener(law), operator, y, jnp.float32(SIGMA), s, z))
    return jnp.mean(jax.vmap(one)(zs))

  found = WIDTHS[np.argmin([error(jnp.float32(std)) for std in WIDTHS])]
  best = WIDTHS[np.argmin([exact_evidence(law, GaussianKernel(std), y) for std in WIDTHS])]
  np.testing.assert_allclose(found, best, rtol=0.16)  # s weighs frequencies in a way of its own


def test_evidence_of_a_spectrum_is_that_of_the_law():
  power, variances = np.random.default_rng(0).uniform(0.1, 2.0, (2, 5, 4))
  log_density = -0.5 * (np.log(variances) + power / variances)
  found = spectrum.negative_log_evidence(jnp.asarray(power, jnp.float32), jnp.asarray(variances, jnp.float32))
  np.testing.assert_allclose(found, -np.sum(log_density), rtol=1e-5)


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_spectrum_finds_the_width_of_most_evidence_without_the_law(std):
  shape = (96, 96, 1)
  law = power_law(shape)
  y = drawn(GaussianKernel(std), law)
  taps = jnp.stack([GaussianKernel(float(width)).taps(21) for width in WIDTHS])
  found = spectrum.misfits(spectrum.periodogram(y), jnp.float32(SIGMA**2), taps, width=shape[1])
  np.testing.assert_allclose(WIDTHS[np.argmin(found)], std, rtol=0.15)  # the power and the width of a Gaussian compete


def test_an_exact_prediction_of_white_noise_leaves_the_noise_itself():
  z = jax.random.normal(jax.random.key(0), SHAPE)
  operator = CircularBlur(SHAPE, DiskKernel(2.0).taps(5))
  error = prediction.prediction_error(lambda *_: jnp.zeros(SHAPE), operator, z, jnp.float32(0.0), jnp.float32(1.0), z)
  np.testing.assert_allclose(error, z**2, rtol=1e-6)  # without noise in y, y is A x_hat = 0


def test_taper_keeps_the_interior_and_joins_opposite_edges():
  y = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 64)[:, None, None], (64, 64, 3))
  padded = np.asarray(prediction.tapered(y, 12))
  kept = np.asarray(prediction.interior(y.shape, 12))
  np.testing.assert_allclose(kept * padded, kept * y, atol=1e-6)
  assert kept.sum() == 40 * 40
  assert np.abs(padded[0] - padded[-1]).max() < 0.3 < np.abs(y[0] - y[-1]).max()


def test_window_is_where_detail_is():
  y = np.zeros((300, 200, 3), np.float32)
  y[200:260, 100:150] = np.random.default_rng(0).normal(size=(60, 50, 3))
  seen = np.asarray(estimation.window(priors.natural(), jnp.asarray(y)))
  assert seen.shape == (160, 160, 3)
  np.testing.assert_allclose(np.sum(seen**2), np.sum(y**2), rtol=1e-5)


@pytest.mark.parametrize("multiple", [1, 8])
def test_bordered_blur_is_the_part_of_a_convolution_that_has_all_it_is_mixed_of(multiple):
  taps = np.random.default_rng(0).uniform(size=(5, 7))
  problem = blind.bordered(jnp.zeros((16, 17, 2)), taps / taps.sum(), noise.Gaussian(0.1), multiple=multiple)
  operator = problem.operator
  x = np.random.default_rng(1).normal(size=operator.in_shape).astype(np.float32)
  assert all(n % multiple == 0 for n in operator.in_shape[:2])
  assert operator.out_shape == problem.y.shape == operator.inside(x).shape
  top, left = operator.corner
  around = x[top - 2 : top + 16 + 2, left - 3 : left + 17 + 3]
  expected = np.stack([convolve2d(around[..., c], taps / taps.sum(), mode="valid") for c in range(2)], axis=2)
  np.testing.assert_allclose(operator(jnp.asarray(x)), expected, atol=1e-5)


def test_bordered_blur_matches_its_adjoint():
  operator = blind.bordered(jnp.zeros((12, 12, 1)), MotionKernel(5.0, 30.0).taps(9), noise.Gaussian(0.1)).operator
  x = jax.random.normal(jax.random.key(0), operator.in_shape)
  y = jax.random.normal(jax.random.key(1), operator.out_shape)
  np.testing.assert_allclose(jnp.sum(operator(x) * y), jnp.sum(x * operator.adjoint(y)), rtol=1e-4)


def blurred(kernel, size=96):
  _, (x0,) = diffinv.data.held_out.held_out("photos", "validation", 1, size)
  operator = CircularBlur(x0.shape, kernel.taps(21))
  return problems.simulate(jax.random.key(3), operator, noise.Gaussian(jnp.float32(0.02)), jnp.asarray(x0)).y


def make_coarse(monkeypatch):
  """Let all families be tried in little time: fewer kernels to begin from, and a free one in a few small steps."""
  for module in (estimation, free):
    monkeypatch.setattr(module, "STEPS", 4)  # of a restoration
  monkeypatch.setattr(estimation, "STARTS", 12)
  coarse = {name: number._replace(spacing=2 * number.spacing) for name, number in SEARCHED["motion"].items()}
  monkeypatch.setitem(SEARCHED, "motion", coarse)
  monkeypatch.setattr(free, "SIZE", 9)
  monkeypatch.setattr(free, "ADDED", (4.0, 2.0))


@pytest.mark.parametrize(
  ("kernel", "family"),
  [(GaussianKernel(2.0), "gaussian"), (DiskKernel(3.5), "disk"), (MotionKernel(11.0, 55.0), AUTO)],
)
def test_numbers_of_a_photograph_are_found(kernel, family, monkeypatch):
  if family == AUTO:
    make_coarse(monkeypatch)
  found = blind.estimate_blur(diffinv.load_prior("photo"), blurred(kernel), 0.02, family, jax.random.key(0))
  assert found.kernel.family == kernel.family
  for name, value in found.numbers.items():
    np.testing.assert_allclose(value, getattr(kernel, name), rtol=0.2)
  np.testing.assert_allclose(found.taps.sum(), 1.0, rtol=1e-5)


def test_the_path_of_a_camera_is_not_taken_for_a_blur_that_is_hardly_any(monkeypatch):
  taps = motion_kernel(jax.random.key(0), size=15)
  monkeypatch.setattr(estimation, "_families", lambda prior, family: ("gaussian", "free"))
  monkeypatch.setattr(estimation, "screened", lambda y, sigma, family: [GaussianKernel(0.44)])  # where its search ends
  monkeypatch.setattr(estimation, "ROUNDS", 0)
  monkeypatch.setattr(free, "estimate", lambda *_: taps)
  found = blind.estimate_blur(diffinv.load_prior("photo"), blurred(FreeKernel(taps)), 0.02, AUTO, jax.random.key(1))
  assert found.kernel.family == "free"


def test_the_same_key_gives_the_same_blur():
  y = blurred(DiskKernel(2.0), 64)
  one, other = (blind.estimate_blur(priors.natural(), y, 0.02, "disk", jax.random.key(5)) for _ in range(2))
  assert one.numbers == other.numbers


@pytest.mark.parametrize(
  ("shape", "sigma", "family", "match"),
  [
    ((64, 64, 3), 0.02, "box", "family: expected one of auto, gaussian"),
    ((64, 64, 3), 0.0, "disk", "sigma: expected noise above 0"),
    ((64, 64), 0.02, "disk", "y: expected a picture"),
    ((64, 16, 3), 0.02, "disk", "y: expected a picture"),
  ],
)
def test_what_cannot_be_estimated_is_refused(shape, sigma, family, match):
  with pytest.raises(ValueError, match=match):
    blind.estimate_blur(priors.natural(), np.zeros(shape, np.float32), sigma, family, jax.random.key(0))
