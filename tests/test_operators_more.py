"""k-space, phase, cameras, compressed sensing and the algebra of operators: what tables in `test_operators` miss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_operators import LINEAR, NONLINEAR, apply, close, dense, inner, kernel, norm, normal, sensitivities

from diffinv import noise, operators
from diffinv.operators import algebra, fourier, nonlinear
from diffinv.operators.base import LinearOperator, norm_squared
from diffinv.problems import Problem, simulate

KEY = jax.random.key(3)
SIZES = [(8, 6), (9, 7)]  # even and odd
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


def ragged(size, seed=2):
  return np.random.default_rng(seed).random(size) < 0.5


def as_complex(x):
  """Return complex channels from real and imaginary parts, NumPy."""
  x = np.asarray(x)
  real, imaginary = np.split(x, 2, axis=-1)
  return real + 1j * imaginary


def check_spectral(operator, x, y):
  """Hold the spectral form against what a singular value decomposition is."""
  basis = operator.spectral()
  coords = basis.analyze(x)
  near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
  assert np.all(basis.values >= 0)
  near(basis.analyze(basis.synthesize(coords)), coords)  # V^T V = I
  other = jnp.asarray(normal(9, coords.shape))
  near(jnp.sum(coords * other), jnp.sum(x * basis.synthesize(other)))  # V^T is the transpose of V
  near(basis.measure(operator(x)), basis.values * coords)  # U^T A = s V^T
  near(basis.synthesize(basis.values * basis.measure(y)), operator.adjoint(y))  # A^T = V s U^T
  near(operator(x - basis.synthesize(coords)), 0.0)  # nothing is seen outside V


# The transform


@pytest.mark.parametrize("size", [(17, 11), (16, 12)], ids=str)
def test_fourier_transform_is_ifftshift_fft_fftshift_and_keeps_the_norm(size):
  with jax.enable_x64(True):
    z = normal(0, (*size, 2))
    got = fourier.centered_fft2(fourier.join(z))
    want = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(as_complex(z), (0, 1)), axes=(0, 1), norm="ortho"), (0, 1))
    np.testing.assert_allclose(got, want, atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(got), norm(z), rtol=1e-14)
    np.testing.assert_allclose(fourier.split(fourier.centered_ifft2(got)), z, atol=1e-13)
    # The shifts in the other order are the same for even sizes only.
    other = np.fft.ifftshift(np.fft.fft2(np.fft.fftshift(as_complex(z), (0, 1)), axes=(0, 1), norm="ortho"), (0, 1))
    assert np.allclose(other, want) == (size == (16, 12))


@sizes
def test_hartley_transform_is_orthonormal_and_its_own_inverse(size):
  with jax.enable_x64(True):
    x = normal(0, (*size, 2))
    np.testing.assert_allclose(fourier.hartley2(fourier.hartley2(x)), x, atol=1e-13)
    np.testing.assert_allclose(norm(fourier.hartley2(x)), norm(x), rtol=1e-13)


# Masks, by the rules of fastMRI


@pytest.mark.parametrize(
  "width, acceleration, middle, total",
  [
    *((64, 4, 5, 16), (320, 4, 26, 80), (368, 4, 29, 93), (384, 4, 31, 96)),
    *((64, 8, 3, 9), (320, 8, 13, 41), (368, 8, 15, 47), (384, 8, 15, 49)),
  ],
)
def test_masks_have_the_lines_of_fastmri(width, acceleration, middle, total):
  fraction = fourier.CENTER_FRACTIONS[acceleration]
  lines = fourier.middle_lines(width, acceleration, fraction)
  first = (width - middle + 1) // 2
  np.testing.assert_array_equal(np.flatnonzero(lines), np.arange(first, first + middle))
  assert lines[width // 2]  # the zero frequency
  assert fourier.equispaced_mask(width, acceleration, fraction, 0).sum() == total


@pytest.mark.parametrize("acceleration", [4, 8])
def test_random_lines_are_the_middle_and_on_average_one_in_r(acceleration):
  width, fraction = 320, fourier.CENTER_FRACTIONS[acceleration]
  draw = functools.partial(fourier.random_lines, width=width, acceleration=acceleration, center_fraction=fraction)
  masks = np.asarray(jax.vmap(lambda key: draw(key))(jax.random.split(KEY, 400)))
  middle = fourier.middle_lines(width, acceleration, fraction)
  assert set(np.unique(masks)) == {0.0, 1.0} and np.all(masks[:, middle] == 1)
  counts = masks.sum(axis=1)
  assert abs(counts.mean() - width / acceleration) < 4.5 * counts.std() / np.sqrt(400)
  outer = masks[:, ~middle].mean(axis=0)
  assert outer.min() > 0 and np.ptp(outer) < 9 * np.sqrt(outer.mean() / 400)  # no line is preferred


def test_equispaced_lines_start_anywhere_within_their_distance():
  draw = jax.vmap(lambda key: fourier.equispaced_lines(key, 64, acceleration=4, center_fraction=0.08))
  drawn = {tuple(np.flatnonzero(mask)) for mask in np.asarray(draw(jax.random.split(KEY, 100)))}
  want = {tuple(np.flatnonzero(fourier.equispaced_mask(64, 4, 0.08, offset))) for offset in range(5)}
  assert drawn == want


def test_mri_samples_whole_columns_and_marks_what_it_does_not():
  operator = operators.mri(KEY, (6, 16, 2), acceleration=8)
  y = operator(normal(0, (6, 16, 2)))
  observed = np.asarray(operator.observed(y))
  assert y.shape == observed.shape == (6, 16, 4)
  np.testing.assert_array_equal(observed, np.broadcast_to(observed[:1, :, :1], observed.shape))
  np.testing.assert_array_equal(np.asarray(y)[observed == 0], 0.0)
  problem = simulate(KEY, operator, noise.Gaussian(0.1), normal(0, (6, 16, 2)))
  np.testing.assert_array_equal(np.asarray(problem.y)[observed == 0], 0.0)


def test_an_acceleration_that_leaves_the_middle_alone_is_no_fault():
  for lines in fourier.LINES:
    mask = operators.mri(KEY, (4, 8, 1), acceleration=8, lines=lines).mask
    assert np.flatnonzero(mask[0, :, 0]).tolist() == [4]


# k-space of complex and real pictures


@sizes
@pytest.mark.slow
def test_complex_kspace_is_a_masked_unitary_map(size):
  with jax.enable_x64(True):
    mask, shape = ragged(size), (*size, 2)
    operator = operators.masked_fourier(mask, channels=2, kind="complex")
    x, y = normal(0, shape), normal(1, shape)
    want = mask[..., None] * np.asarray(fourier.centered_fft2(as_complex(x)))
    np.testing.assert_allclose(as_complex(operator(x)), want, atol=1e-13)
    # <A x, y> = <x, A^H y>, real and imaginary part.
    left = np.vdot(as_complex(y), as_complex(operator(x)))
    np.testing.assert_allclose(left, np.vdot(as_complex(operator.adjoint(y)), as_complex(x)), rtol=1e-12)
    np.testing.assert_allclose(operator.gram(y), mask[..., None] * np.asarray(y), atol=1e-13)  # A A^H = M
    want = np.linalg.pinv(dense(operator, "__call__", shape), rcond=1e-3) @ np.asarray(y).ravel()
    np.testing.assert_allclose(operator.pinv(y).ravel(), want, atol=1e-12)
    np.testing.assert_allclose(norm_squared(operator), 1.0, rtol=1e-6)
    for gamma in (0.01, 3.0):
      u = operator.solve(y, gamma)
      np.testing.assert_allclose(operator.gram(u) + gamma * u, y, atol=1e-12)
    check_spectral(operator, x, y)


@sizes
@pytest.mark.slow
def test_singular_values_of_real_pictures_are_of_the_mask_and_its_mirror_image(size):
  with jax.enable_x64(True):
    mask, shape = ragged(size), (*size, 1)
    operator = operators.masked_fourier(mask, channels=1)
    got = np.linalg.svd(dense(operator, "__call__", shape), compute_uv=False)
    index = [(2 * (n // 2) - np.arange(n)) % n for n in size]
    both = mask.astype(float) + mask[index[0]][:, index[1]]
    np.testing.assert_allclose(got, np.sort(np.sqrt(both / 2).ravel())[::-1], atol=1e-12)
    assert set(np.unique(both)) == {0.0, 1.0, 2.0}
    check_spectral(operator, normal(0, shape), normal(1, operator.out_shape))


@pytest.mark.parametrize("kind, channels", [("complex", 2), ("real", 3)])
@pytest.mark.slow
def test_coils_see_the_picture_through_their_sensitivities(kind, channels):
  with jax.enable_x64(True):
    shape, mask, coils = (8, 7, channels), ragged((8, 7)), sensitivities((8, 7), 3)
    operator = operators.masked_fourier(mask, channels=channels, kind=kind, coils=coils)
    x, y = normal(0, shape), normal(1, operator.out_shape)
    scaled = coils / np.sqrt(np.sum(abs(coils) ** 2, axis=-1, keepdims=True))
    light = as_complex(x) if kind == "complex" else np.asarray(x, complex)
    each = [scaled[..., c] * light[..., i] for i in range(light.shape[-1]) for c in range(3)]
    want = mask[..., None] * np.asarray(fourier.centered_fft2(np.stack(each, axis=-1)))
    np.testing.assert_allclose(as_complex(operator(x)), want, atol=1e-13)
    np.testing.assert_allclose(inner(operator(x), y), inner(x, operator.adjoint(y)), rtol=1e-12)
    full = operators.masked_fourier(np.ones((8, 7)), channels=channels, kind=kind, coils=coils)
    np.testing.assert_allclose(full.adjoint(full(x)), x, atol=1e-12)  # sum |S|^2 = 1


def test_places_that_no_coil_sees_stay_unseen():
  coils = np.ones((4, 6, 2), complex)
  coils[1, 2] = 0.0
  operator = operators.masked_fourier(np.ones((4, 6)), channels=1, coils=coils)
  seen = operator.adjoint(operator(jnp.ones((4, 6, 1))))[..., 0]
  want = np.ones((4, 6))
  want[1, 2] = 0.0
  np.testing.assert_allclose(seen, want, atol=1e-6)


# Phase retrieval


def test_unsigned_phase_retrieval_tells_a_picture_from_its_negative():
  with jax.enable_x64(True):
    x = jnp.tanh(normal(0, (16, 12, 1)))
    signed, unsigned = (operators.phase_retrieval(x.shape, signed=flag) for flag in (True, False))
    y = unsigned(x)
    np.testing.assert_allclose(y, signed((x + 1) / 2), rtol=1e-12)
    np.testing.assert_allclose(unsigned(x[::-1, ::-1]), y, rtol=1e-9, atol=1e-12)  # rotation is still lost
    assert norm(unsigned(-x) - y) > 0.05 * norm(y) and norm(signed(-x) - signed(x)) < 1e-12 * norm(y)
    np.testing.assert_allclose(y[12, 9, 0], jnp.sum((x + 1) / 2) / np.sqrt(y.size), rtol=1e-12)  # brightness


# Cameras


@jax.jit
def draw_camera(key):
  return operators.nonlinear_blur(key, (4, 4, 1), size=9)


def test_nonlinear_blur_is_fixed_between_calls_and_drawn_by_its_key():
  x = normal(0, (16, 20, 3))
  make = jax.jit(lambda key: operators.nonlinear_blur(key, (16, 20, 3), size=9))
  operator, again, other = make(KEY), make(KEY), make(jax.random.key(4))
  y = jax.jit(type(operator).__call__)(operator, x)
  np.testing.assert_array_equal(jax.jit(type(operator).__call__)(operator, x), y)
  np.testing.assert_array_equal(jax.jit(type(operator).__call__)(again, x), y)
  assert norm(jax.jit(type(operator).__call__)(other, x) - y) > 0.01 * norm(y)
  assert len(jax.tree.leaves(operator)) == 3  # the kernel and the curve are all there is


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_curves_of_the_camera_are_smooth_increasing_and_bounded(seed):
  with jax.enable_x64(True):
    operator = draw_camera(jax.random.key(seed))
    value = jnp.linspace(-3.0, 3.0, 601)

    def slopes(curve, at):
      return np.asarray(jax.jit(jax.vmap(jax.grad(curve)))(at))

    light = slopes(nonlinear.linear_light, value)
    assert light.min() > 0 and light.max() < 1
    tone = slopes(lambda v: operator.tone(v.reshape(1, 1, 1))[0, 0, 0], value)
    assert tone.min() >= 1 and tone.max() <= 4.1
    ends = nonlinear.linear_light(jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(ends, [0.0, 0.5**2.2, 1.0], atol=5e-3)
    np.testing.assert_allclose(operator.tone(jnp.array([0.0, 1.0]).reshape(1, 2, 1)).ravel(), [-1, 1], atol=1e-12)
    for level in (-1.0, 1.0):  # blur does not change what is uniform
      np.testing.assert_allclose(operator(jnp.full((4, 4, 1), level)), level, atol=1e-6)


@pytest.mark.parametrize("name", NONLINEAR)
@pytest.mark.slow
def test_gradient_of_a_nonlinear_operator_is_its_slope_and_finite_far_outside(name):
  with jax.enable_x64(True):
    operator = jax.jit(lambda: NONLINEAR[name]((8, 10, 1)))()
    x, direction = 0.3 * normal(0, (8, 10, 1)), normal(1, (8, 10, 1))
    weights = normal(2, operator.out_shape)
    loss = jax.jit(lambda x: jnp.sum(weights * operator(x)))
    slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(x) * direction), slope, rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(loss)(1e3 * x)))
    batched = jax.jit(jax.vmap(operator))(jnp.stack([x, 2.0 * x]))
    close(batched, jnp.stack([apply(operator, "__call__", x), apply(operator, "__call__", 2.0 * x)]), 1e-12)


def test_hdr_saturates_and_passes_no_gradient_there():
  x = jnp.array([-0.9, -0.5, -0.2, 0.0, 0.3, 0.49, 0.7]).reshape(1, 7, 1)
  operator = operators.hdr(x.shape)
  np.testing.assert_allclose(operator(x).ravel(), [-1, -1, -0.4, 0, 0.6, 0.98, 1], rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(operator(x)))(x).ravel()
  np.testing.assert_array_equal(gradient[jnp.array([0, 2, 3, 4, 5, 6])], [0, 2, 2, 2, 2, 0])


# Compressed sensing


@pytest.mark.slow
def test_randomized_cosine_transform_has_orthonormal_rows_and_spreads_energy():
  with jax.enable_x64(True):
    shape = (8, 6, 1)
    operator = operators.compressed_sensing(KEY, shape, ratio=0.5)
    matrix = dense(operator, "__call__", shape)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(24), atol=1e-12)
    assert abs(matrix).max() <= 2 / np.sqrt(48) * (1 + 1e-9)  # no value is seen alone: entries of a 2-D DCT
    check_spectral(operator, normal(0, shape), normal(1, operator.out_shape))
  assert operators.compressed_sensing(KEY, (8, 6, 3), ratio=0.25).out_shape == (12, 3)


def test_gaussian_matrix_has_the_norm_of_random_matrices():
  operator = operators.gaussian_sensing(KEY, (16, 16, 1), measurements=64)
  np.testing.assert_allclose(norm_squared(operator), (1 + np.sqrt(256 / 64)) ** 2, rtol=0.1)
  x = normal(0, (20, 16, 16, 1))
  energy = jnp.sum(jax.vmap(operator)(x) ** 2) / jnp.sum(x**2)
  np.testing.assert_allclose(energy, 1.0, rtol=0.1)


def test_more_gaussian_measurements_than_values_are_solved_too():
  with jax.enable_x64(True):
    operator = operators.gaussian_sensing(KEY, (3, 2, 1), measurements=9)
    v, matrix = normal(0, (9,)), np.asarray(operator.matrix)
    for gamma in (0.01, 2.0):
      want = np.linalg.solve(matrix @ matrix.T + gamma * np.eye(9), v)
      np.testing.assert_allclose(operator.solve(v, gamma), want, rtol=1e-9)
    np.testing.assert_allclose(operator.pinv(v).ravel(), np.linalg.pinv(matrix) @ v, rtol=1e-9)


# Algebra

SHAPE = (8, 10, 3)


def parts():
  return {
    "blur": operators.blur(SHAPE, kernel(3, 5), boundary="circular"),
    "average": operators.block_average(SHAPE, 2),
    "mask": operators.inpainting(ragged((8, 10)), channels=3),
  }


@pytest.mark.slow
def test_composition_is_the_product_of_the_matrices():
  with jax.enable_x64(True):
    one = parts()
    both = operators.compose(one["average"], one["blur"])
    x, y = normal(0, SHAPE), normal(1, (4, 5, 3))
    assert isinstance(both, LinearOperator) and both.in_shape == SHAPE and both.out_shape == (4, 5, 3)
    close(both(x), one["average"](one["blur"](x)), 1e-13)
    close(both.adjoint(y), one["blur"].adjoint(one["average"].adjoint(y)), 1e-13)
    close(both.adjoint(y), LinearOperator.adjoint(both, y), 1e-12)  # by transposition
    u = jax.jit(lambda v: both.solve(v, 0.1))(y)
    close(both.gram(u) + 0.1 * u, y, 1e-10)
    assert both.spectral() is None and both.is_picture


def test_stack_measures_everything_one_after_another():
  with jax.enable_x64(True):
    one = parts()
    both = operators.stack(one["mask"], one["average"])
    x, y = normal(0, SHAPE), normal(1, both.out_shape)
    assert isinstance(both, LinearOperator) and both.out_shape == (240 + 60,)
    close(both(x), jnp.concatenate([one["mask"](x).ravel(), one["average"](x).ravel()]), 1e-13)
    first, second = both.split(y)
    assert first.shape == SHAPE and second.shape == (4, 5, 3)
    close(both.adjoint(y), one["mask"].adjoint(first) + one["average"].adjoint(second), 1e-13)
    close(both.adjoint(y), LinearOperator.adjoint(both, y), 1e-12)
    np.testing.assert_allclose(inner(both(x), y), inner(x, both.adjoint(y)), rtol=1e-12)
    observed = np.asarray(both.observed(y))
    assert observed.shape == y.shape and np.all(observed[240:] == 1)
    np.testing.assert_array_equal(observed[:240].reshape(SHAPE), one["mask"].observed(first))


@pytest.mark.slow
def test_parts_of_a_stack_may_have_noises_of_their_own():
  with jax.enable_x64(True):
    one = parts()
    both = operators.stack(one["mask"], one["average"])
    sigma = jnp.concatenate([jnp.full(240, 0.1), jnp.full(60, 0.02)])
    x = normal(0, SHAPE)
    problem = simulate(KEY, both, noise.Gaussian(sigma), x)
    first, second = both.split(problem.y)
    apart = [
      Problem(one[name], noise.Gaussian(s), y) for name, s, y in (("mask", 0.1, first), ("average", 0.02, second))
    ]
    other = x + 0.1
    want = sum(problem.log_likelihood(other) for problem in apart)
    np.testing.assert_allclose(problem.log_likelihood(other), want, rtol=1e-12)
    assert 0.7 < problem.chi2(x) < 1.3


def test_algebra_with_a_nonlinear_part_is_nonlinear_and_nests():
  average, clipped = parts()["average"], operators.hdr(SHAPE)
  both = operators.compose(average, clipped)
  assert not isinstance(both, LinearOperator) and isinstance(both, algebra.Composition)
  x = normal(0, SHAPE)
  close(both(x), average(jnp.clip(2.0 * x, -1.0, 1.0)), 1e-6)
  nested = operators.stack(both, operators.phase_retrieval(SHAPE), operators.stack(average, average))
  assert not isinstance(nested, LinearOperator)
  pieces = nested.split(nested(x))
  close(pieces[1], operators.phase_retrieval(SHAPE)(x), 1e-6)
  close(pieces[2], jnp.tile(average(x).ravel(), 2), 1e-6)


# What is shown


SHOWN = ("super_resolution", "masked_fourier", "mri", "compressed_sensing", "gaussian_sensing")


@pytest.mark.parametrize("name", [*SHOWN, *NONLINEAR])
@pytest.mark.slow
def test_every_measurement_can_be_looked_at(name):
  shape = (6, 10, 3)
  operator = jax.jit(lambda: (LINEAR | NONLINEAR)[name](shape))()
  y = apply(operator, "__call__", jnp.tanh(normal(0, shape)))
  shown = np.asarray(apply(operator, "picture", y))
  assert shown.ndim == 3 and shown.shape[-1] in (1, 3) and np.all(np.isfinite(shown)) and np.ptp(shown) > 0.1
  if operator.is_picture:
    np.testing.assert_array_equal(shown, y)
  else:
    assert abs(shown).max() <= 1 and y.shape != shape
    assert np.all(np.isfinite(apply(operator, "picture", jnp.zeros_like(y))))


@pytest.mark.slow
def test_pictures_of_kspace_are_the_zero_filled_ones():
  x = 0.5 * jnp.tanh(normal(0, (8, 10, 3)))
  full = operators.masked_fourier(np.ones((8, 10)))
  close(full.picture(full(x)), x, 1e-5)
  pair = x[..., :2]
  full = operators.masked_fourier(np.ones((8, 10)), channels=2, kind="complex")
  size = np.sqrt(np.sum(np.asarray(pair) ** 2, axis=-1, keepdims=True))
  close(full.picture(full(pair)), jnp.asarray(2 * size - 1), 1e-5)


def test_pictures_of_a_stack_lie_side_by_side():
  one = parts()
  both = operators.stack(one["mask"], operators.grayscale(SHAPE), one["average"])
  x = jnp.tanh(normal(0, SHAPE))
  shown = np.asarray(both.picture(both(x)))
  assert shown.shape == (8, 10 + 10 + 5, 3)
  np.testing.assert_allclose(shown[:, :10], one["mask"](x), rtol=1e-6)
  np.testing.assert_allclose(shown[:, 10:20], np.repeat(operators.grayscale(SHAPE)(x), 3, axis=-1), rtol=1e-6)
  np.testing.assert_allclose(shown[:4, 20:], one["average"](x), rtol=1e-6)
  assert np.all(shown[4:, 20:] == -1)
