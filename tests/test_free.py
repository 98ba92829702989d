"""Kernels of any form: each step against what is known exactly, the whole on a photograph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

import diffinv
from diffinv.blind import free
from diffinv.blind.borders import bordered_blur
from diffinv.data import held_out
from diffinv.operators.blur import CircularBlur, motion_kernel
from diffinv.operators.kernels import DiskKernel, FreeKernel, GaussianKernel, kernel_size, worded

SIDE, SIZE, SIGMA = 48, 5, 0.3


def spectrum(side=SIDE):
  """Return the variances S_f of a law whose power falls as 1 / (1 + |f / f_0|^2)."""
  radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
  return 4.0 / (1.0 + (radius / 0.15) ** 2)


def drawn(side=SIDE, seed=0):
  """Return a picture of that law, `[side, side, 1]`."""
  white = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
  return jnp.asarray(np.fft.ifft2(np.sqrt(spectrum(side)) * white).real[:, :, None], jnp.float32)


def noisy(taps, side=SIDE, seed=0):
  """Return k * x + n, periodic."""
  x = drawn(side, seed)
  return CircularBlur(x.shape, jnp.asarray(taps, jnp.float32))(x) + SIGMA * jax.random.normal(
    jax.random.key(seed), x.shape
  )


def transfer(taps, side=SIDE):
  """Return K_f of a kernel whose middle is the origin."""
  middle = taps.shape[0] // 2
  whole = jnp.zeros((side, side)).at[: taps.shape[0], : taps.shape[1]].set(taps)
  return jnp.fft.fft2(jnp.roll(whole, (-middle, -middle), (0, 1)))


def evidence(taps, y):
  """Return -log p(y | k) under the law, without its constant."""
  side = y.shape[0]
  variance = jnp.abs(transfer(taps, side)) ** 2 * jnp.asarray(spectrum(side), jnp.float32) + SIGMA**2
  power = jnp.abs(jnp.fft.fft2(y[..., 0], norm="ortho")) ** 2
  return 0.5 * jnp.sum(jnp.log(variance) + power / variance)


def posterior(taps, v, variance):
  """Return E[x | v] and Cov[x | v] along the picture, both `[side, side]`, for noise of one variance."""
  side, power = v.shape[0], jnp.asarray(spectrum(v.shape[0]), jnp.float32)
  blurred = transfer(taps, side)
  total = jnp.abs(blurred) ** 2 * power + variance
  mean = jnp.fft.ifft2(jnp.conj(blurred) * (power / total).astype(blurred.dtype) * jnp.fft.fft2(v[..., 0])).real
  return mean[:, :, None], jnp.fft.ifft2((power * variance / total).astype(blurred.dtype)).real


def around(x, size=SIZE):
  """Return a periodic picture with the border that a kernel reaches into."""
  reach = size // 2
  return jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="wrap")


def expected_form(taps, y):
  """Return the form and the linear part of E ||y - k * x||^2 / sigma^2 given y, over kernels k."""
  size = taps.shape[0]
  mean, covariance = posterior(taps, y, SIGMA**2)
  form, linear = free.normal_equations(around(mean, size), y, size)
  places = np.indices((size, size)).reshape(2, -1)
  apart = places[:, :, None] - places[:, None, :]
  return (form + y.size * covariance[apart[0], apart[1]]) / SIGMA**2, linear / SIGMA**2


TRUE = (
  np.asarray([[0, 1, 2, 0, 0], [0, 0, 3, 1, 0], [0, 0, 4, 2, 0], [0, 3, 3, 0, 0], [1, 2, 0, 0, 0]], np.float32) / 22
)


def test_normal_equations_are_those_of_a_convolution():
  rng = np.random.default_rng(0)
  x, w, k = rng.normal(size=(14, 15, 2)), rng.normal(size=(10, 11, 2)), rng.uniform(size=(5, 5))
  form, linear = (np.asarray(part, np.float64) for part in free.normal_equations(jnp.float32(x), jnp.float32(w), 5))
  blurred = np.stack([convolve2d(x[..., c], k, mode="valid") for c in range(2)], axis=2)
  left = k.ravel() @ form @ k.ravel() - 2 * linear @ k.ravel() + np.sum(w**2)
  np.testing.assert_allclose(left, np.sum((w - blurred) ** 2), rtol=1e-4)
  np.testing.assert_allclose(form, form.T, rtol=1e-4, atol=1e-4)


def test_the_fit_is_that_of_a_dense_solve_where_no_tap_is_at_its_bound():
  rng = np.random.default_rng(1)
  design = rng.normal(size=(200, 25))
  truth = np.full(25, 0.04) + 0.005 * rng.normal(size=25)
  form, linear = design.T @ design, design.T @ (design @ truth + 0.01 * rng.normal(size=200))
  bordered = np.block([[form, np.ones((25, 1))], [np.ones((1, 25)), np.zeros((1, 1))]])
  expected = np.linalg.solve(bordered, np.append(linear, 1.0))[:25]
  assert expected.min() > 0
  found = free.fitted(jnp.float32(form), jnp.float32(linear), jnp.full((5, 5), 0.04, jnp.float32))
  np.testing.assert_allclose(np.ravel(found), expected, atol=2e-5)


def test_where_taps_are_at_their_bound_no_slope_leads_back():
  rng = np.random.default_rng(2)
  design = rng.normal(size=(60, 25))
  form, linear = design.T @ design, design.T @ rng.normal(size=60)
  found = np.ravel(free.fitted(jnp.float32(form), jnp.float32(linear), jnp.full((5, 5), 0.04, jnp.float32)))
  slope = form @ found - linear
  level = np.mean(slope[found > 0])
  assert 0 < np.sum(found == 0) < 24
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
  np.testing.assert_allclose(slope[found > 0], level, atol=2e-2)
  assert np.all(slope[found == 0] > level - 2e-2)


def test_the_simplex_is_reached_by_the_shortest_way():
  v = np.random.default_rng(3).normal(size=30)
  found = np.asarray(free.on_simplex(jnp.float32(v)), np.float64)
  removed = v - found
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
  np.testing.assert_allclose(removed[found > 0], removed[found > 0][0], atol=1e-5)
  assert np.all(removed[found == 0] <= removed[found > 0][0] + 1e-5)


def test_the_slope_of_the_evidence_is_that_of_the_expected_misfit():
  y, taps = noisy(TRUE), jnp.asarray(GaussianKernel(1.2).taps(SIZE))
  form, linear = expected_form(taps, y)
  exact = jax.grad(lambda k: evidence(k, y))(taps)
  np.testing.assert_allclose(np.ravel(exact), form @ taps.ravel() - linear, rtol=2e-3, atol=0.2)  # of thousands


def test_no_step_of_expectation_maximization_lowers_the_evidence_and_it_ends_where_the_slope_vanishes():
  y, taps = noisy(TRUE), jnp.asarray(GaussianKernel(1.0).taps(SIZE))
  step = jax.jit(lambda k: free.fitted(*expected_form(k, y), k))
  seen = [float(evidence(taps, y))]
  for _ in range(60):
    taps = step(taps)
    seen.append(float(evidence(taps, y)))
  assert np.all(np.diff(seen) < 5e-3)  # the rounding of sums of thousands
  assert seen[-1] < seen[0] - 50 and seen[-1] < float(evidence(jnp.asarray(TRUE), y))
  first, last = (np.asarray(jax.grad(lambda k: evidence(k, y))(k)) for k in (GaussianKernel(1.0).taps(SIZE), taps))
  spread = lambda slope: np.ptp(slope[np.asarray(taps) > 1e-3])  # on the simplex, equal slopes cancel
  assert spread(last) < 0.03 * spread(first)


@pytest.mark.parametrize("s", [0.5 * SIGMA, 2 * SIGMA])
def test_held_against_the_other_half_of_the_noise_the_true_kernel_stays(s):
  def equations(seed, split):
    y, z = noisy(TRUE, 192, seed), jax.random.normal(jax.random.key(100 + seed), (192, 192, 1))
    v, w, variance = (y + s * z, y - SIGMA**2 / s * z, SIGMA**2 + s**2) if split else (y, y, SIGMA**2)
    x, _ = posterior(jnp.asarray(TRUE), v, variance)
    return free.normal_equations(free.slopes(around(x)), free.slopes(w), SIZE)

  def off(split):
    form, linear = (sum(parts) for parts in zip(*(equations(seed, split) for seed in range(8))))
    return float(jnp.linalg.norm(free.fitted(form, linear, jnp.asarray(TRUE)) - TRUE) / np.linalg.norm(TRUE))

  assert off(split=True) < 0.1 < 0.2 < off(split=False)


def test_what_a_bordered_blur_sees_is_what_it_blurs():
  operator = bordered_blur((24, 27, 3), TRUE, multiple=8)
  x = jax.random.normal(jax.random.key(0), operator.in_shape)
  y = operator(x)
  form, linear = free.normal_equations(free._seen(operator, x), y, SIZE)
  k = TRUE.ravel()
  assert abs(k @ form @ k - 2 * linear @ k + jnp.sum(y**2)) < 1e-4 * jnp.sum(y**2)


def test_forms_are_those_of_differences_and_of_the_centroid():
  k = np.random.default_rng(0).uniform(size=(7, 7)).astype(np.float32)
  padded = np.pad(k, 1)
  squares = np.sum(np.diff(padded, axis=0) ** 2) + np.sum(np.diff(padded, axis=1) ** 2)
  np.testing.assert_allclose(k.ravel() @ free.roughness(7) @ k.ravel(), squares, rtol=1e-5)
  k /= k.sum()
  off = np.tensordot(np.indices((7, 7)) - 3, k, 2) / 7
  np.testing.assert_allclose(k.ravel() @ free.centroid(7) @ k.ravel(), off @ off, rtol=1e-4, atol=1e-7)


def test_tidying_moves_the_centroid_into_the_middle():
  taps = np.zeros((9, 9), np.float32)
  taps[2:5, 3:7] = np.random.default_rng(0).uniform(0.5, 1.0, (3, 4))
  found = free.tidied(taps)
  np.testing.assert_allclose(np.tensordot(np.indices((9, 9)) - 4, found, 2), 0.0, atol=1e-5)
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)


def test_tidying_leaves_the_main_part_in_the_middle():
  taps = np.zeros((11, 11), np.float32)
  taps[2:5, 3:6] = 1.0
  taps[9, 9], taps[2, 7] = 0.5, 0.01  # an island, and what is weak
  found = free.tidied(taps)
  expected = np.zeros((11, 11))
  expected[4:7, 4:7] = 1 / 9
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.5, np.sqrt(2.0), 2.0])
def test_a_kernel_of_another_size_is_wider_by_the_factor(factor):
  taps = np.asarray(GaussianKernel(2.0).taps(17))
  found = free.rescaled(taps, factor, 41)
  places = np.arange(41) - 20
  across = found.sum(axis=0)
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
  np.testing.assert_allclose(across @ places, 0.0, atol=1e-4)
  np.testing.assert_allclose(
    across @ places**2, (2.0 * factor) ** 2 + 1 / 6 + factor**2 / 12, rtol=0.02
  )  # both spreads


def test_sizes_end_with_the_picture_and_begin_with_kernels_of_few_pixels():
  parts = free.sizes()
  assert parts == sorted(parts) and parts[-1] == 1.0 and 3.0 < free.SIZE * parts[0] <= free.SMALLEST


def test_a_free_kernel_is_its_own_taps():
  kernel = FreeKernel(jnp.asarray(TRUE))
  assert kernel_size(kernel) == 5 and worded(kernel) == "free, 5 pixels across"
  assert worded(DiskKernel(2.0)) == "disk:2"
  np.testing.assert_allclose(kernel.taps(9)[2:7, 2:7], TRUE, rtol=1e-6)
  np.testing.assert_allclose(kernel.taps(3), TRUE[1:4, 1:4] / TRUE[1:4, 1:4].sum(), rtol=1e-6)


@pytest.mark.slow
def test_the_path_of_a_camera_is_found_from_a_photograph(monkeypatch):
  monkeypatch.setattr(free, "SIZE", 11)
  monkeypatch.setattr(free, "STEPS", 4)  # of a restoration
  monkeypatch.setattr(free, "ADDED", (8.0, 8.0, 4.0, 4.0, 2.0, 2.0))
  x0 = jnp.asarray(held_out.held_out("photos", "validation", 4, 96)[1][3])
  taps = motion_kernel(jax.random.key(0), size=free.SIZE)
  y = CircularBlur(x0.shape, taps)(x0) + 0.02 * jax.random.normal(jax.random.key(3), x0.shape)
  found = free.estimate(diffinv.load_prior("photo"), y, 0.02, jax.random.key(0))
  assert np.linalg.norm(found - taps) < 0.2 * np.linalg.norm(taps)  # a Gaussian at its best: 0.54
  assert np.all(found >= 0)
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
