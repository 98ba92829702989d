"""Measurement operators: adjoints, inverses, norms and reference numbers; a new operator joins LINEAR or NONLINEAR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffinv import operators
from diffinv.operators import OPERATORS
from diffinv.operators.base import PINV_CUTOFF, LinearOperator, norm_squared
from diffinv.operators.blur import REFLECT_PINV_RIDGE, CircularBlur, ReflectBlur, gaussian_taps, motion_kernel
from diffinv.operators.fourier import centered_fft2
from diffinv.operators.resize import bicubic_matrix
from diffinv.operators.separable import separable
from diffinv.pytree import pytree

KEY = jax.random.key(3)
SHAPES = [(8, 8, 3), (6, 10, 3), (9, 15, 1)]
FACTORS = {(8, 8, 3): 4, (6, 10, 3): 2, (9, 15, 1): 3}
OBLONG = (6, 10, 3)
LUMA_NORM = 0.299**2 + 0.587**2 + 0.114**2


def kernel(rows, cols):
  """Return an asymmetric kernel with negative entries, so that a flip or a transpose shows."""
  k = np.random.default_rng(rows * cols).uniform(-0.2, 1.0, (rows, cols))
  return k / k.sum()


def luminance(shape):
  return operators.grayscale(shape) if shape[2] == 3 else operators.grayscale(shape, weights=[1.0])


def ragged_mask(shape):
  return operators.inpainting(np.random.default_rng(0).random(shape[:2]) < 0.4, channels=shape[2])


def sensitivities(shape, coils):
  """Return smooth complex sensitivities, not normalized, [h, w, coils]."""
  rows, cols = np.mgrid[: shape[0], : shape[1]]
  waves = [np.exp(1j * (0.3 * c * rows - 0.2 * cols)) * (1.0 + 0.1 * (c + 1) * rows) for c in range(coils)]
  return np.stack(waves, axis=-1)


@pytree
class Derived(LinearOperator):
  """A well-conditioned operator with no closed form at all: y_i = x_i + x_{i+1} / 4 down the image."""

  def __call__(self, x):
    return x + 0.25 * jnp.roll(x, -1, axis=0)


LINEAR = {
  "identity": operators.identity,
  "inpainting": ragged_mask,
  "box": lambda shape: operators.box(KEY, shape, box_size=(shape[0] // 2, shape[1] // 2), margin=1),
  "random_mask": lambda shape: operators.random_mask(KEY, shape, missing=0.7),
  "grayscale": luminance,
  "super_resolution": lambda shape: operators.super_resolution(shape, FACTORS[shape]),
  "block_average": lambda shape: operators.block_average(shape, FACTORS[shape]),
  "gaussian_blur": lambda shape: operators.gaussian_blur(shape, size=9, std=1.5),
  "gaussian_blur_wide": lambda shape: operators.gaussian_blur(shape, size=61, std=3.0),
  "blur_circular": lambda shape: operators.blur(shape, kernel(5, 7), boundary="circular"),
  "blur_circular_wide": lambda shape: operators.blur(shape, kernel(21, 41), boundary="circular"),
  "blur_reflect": lambda shape: operators.blur(shape, kernel(5, 7)),
  "blur_reflect_wide": lambda shape: operators.blur(shape, kernel(21, 41)),
  "motion_blur": lambda shape: operators.motion_blur(KEY, shape, size=15),
  "derived": lambda shape: Derived(shape),
  "masked_fourier": lambda shape: operators.masked_fourier(
    np.random.default_rng(1).random(shape[:2]) < 0.5, channels=shape[2]
  ),
  "mri": lambda shape: operators.mri(KEY, shape, coils=sensitivities(shape, 2)),
  "compressed_sensing": lambda shape: operators.compressed_sensing(KEY, shape, ratio=0.4),
  "gaussian_sensing": lambda shape: operators.gaussian_sensing(KEY, shape, measurements=20),
  "jpeg": operators.jpeg,
}
NONLINEAR = {
  "phase_retrieval": operators.phase_retrieval,
  "nonlinear_blur": lambda shape: operators.nonlinear_blur(KEY, shape, size=9),
  "hdr": operators.hdr,
}
EXACT = ("identity", "inpainting", "box", "random_mask", "grayscale", "super_resolution", "block_average")
EXACT += ("masked_fourier", "compressed_sensing")
BY_CG = ("blur_reflect", "blur_reflect_wide", "motion_blur", "derived", "mri", "jpeg")
linear = pytest.mark.parametrize("name", LINEAR)
closed = pytest.mark.parametrize("name", [name for name in LINEAR if name not in BY_CG])
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
# Tolerances are relative. float64 tells a wrong formula from rounding; float32 what users get.
precisions = pytest.mark.parametrize(
  "x64, tolerance",
  [pytest.param(False, 1e-5, id="float32"), pytest.param(True, 1e-12, id="float64", marks=pytest.mark.slow)],
)


def normal(seed, shape):
  """Return standard normal numbers, drawn on the host: eager JAX compiles every primitive for every shape."""
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def norm(x):
  return float(np.linalg.norm(np.asarray(x).ravel()))


def inner(x, y):
  return float(np.sum(np.asarray(x) * np.asarray(y)))


@functools.cache
def build(name, shape, x64=False):
  """Build an operator of the table once per float type."""
  with jax.enable_x64(x64):
    return LINEAR[name](shape)


def close(got, want, tolerance):
  assert got.shape == want.shape and got.dtype == want.dtype
  assert norm(np.asarray(got) - np.asarray(want)) <= tolerance * norm(want)


quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(quickly, static_argnums=1)
def apply(operator, method, argument, *extra):
  """Call a method of an operator, compiled."""
  return getattr(operator, method)(argument, *extra)


@functools.partial(quickly, static_argnums=1)
def apply_each(operator, method, arguments, *extra):
  """Call a method of an operator for each of a batch, compiled."""
  return jax.vmap(lambda argument: getattr(operator, method)(argument, *extra))(arguments)


def dense(operator, method, shape):
  """Return the matrix of a linear map of arrays of `shape`, float64 under x64."""
  basis = np.eye(int(np.prod(shape)), dtype=jnp.result_type(float)).reshape(-1, *shape)
  columns = np.asarray(apply_each(operator, method, jnp.asarray(basis)))
  return columns.reshape(len(basis), -1).T


@quickly
def products(operator, x, z, y):
  """Return what A and A^T are asked for, of two images and a measurement: one compilation for several claims."""
  objective = lambda x: 0.5 * jnp.sum((y - operator(x)) ** 2)
  return {
    "forward": operator(x),
    "adjoint": operator.adjoint(y),
    "combined": operator(2.0 * x - 3.0 * z),
    "parts": 2.0 * operator(x) - 3.0 * operator(z),
    "gradient": jax.grad(objective)(x),
    "back": operator.adjoint(operator(x) - y),
  }


@functools.cache
def products_of(name, shape, x64):
  """Return the products of an operator of the table with random numbers, which come first."""
  operator = build(name, shape, x64)
  x, z, y = normal(0, shape), normal(1, shape), normal(1, operator.out_shape)
  return x, y, jax.device_get(products(operator, x, z, y))


GAMMAS = (0.01, 0.3, 10.0)


@quickly
def solves(operator, v):
  """Return (A A^T + gamma I) u of the solution u for each of GAMMAS: v again."""

  def one(gamma):
    u = operator.solve(v, gamma)
    return operator.gram(u) + gamma * u

  return jax.lax.map(one, jnp.asarray(GAMMAS, v.dtype))


@quickly
def ridges(operator, y):
  """Return A^T (A A^T + 0.1 I)^-1 y by `ridge` and by `solve`."""
  return operator.ridge(y, 0.1), operator.adjoint(operator.solve(y, 0.1))


def test_every_operator_is_in_a_table():
  elsewhere = {"blur", "compose", "stack"}  # under other names, and the algebra: test_operators_more.py
  assert set(OPERATORS) <= elsewhere | set(LINEAR) | set(NONLINEAR)


@linear
@any_shape
@precisions
@pytest.mark.slow
def test_adjoint_matches_inner_product(name, shape, x64, tolerance):
  with jax.enable_x64(x64):
    x, y, got = products_of(name, shape, x64)
    forward, back = got["forward"], got["adjoint"]
    assert back.shape == shape and back.dtype == x.dtype
    assert abs(inner(forward, y) - inner(x, back)) <= tolerance * norm(forward) * norm(y)


@linear
@precisions
def test_linear(name, x64, tolerance):
  with jax.enable_x64(x64):
    *_, got = products_of(name, OBLONG, x64)
    close(got["combined"], got["parts"], tolerance)


@linear
@precisions
@pytest.mark.slow
def test_gradient_of_least_squares_is_the_adjoint_of_the_residual(name, x64, tolerance):
  with jax.enable_x64(x64):
    *_, got = products_of(name, OBLONG, x64)
    close(got["gradient"], got["back"], tolerance)


@closed
@any_shape
@pytest.mark.slow
def test_pinv_is_that_of_the_dense_matrix(name, shape):
  with jax.enable_x64(True):
    operator = build(name, shape, True)
    got = dense(operator, "pinv", operator.out_shape)
    want = np.linalg.pinv(dense(operator, "__call__", shape), rcond=PINV_CUTOFF)
    np.testing.assert_allclose(got, want, atol=1e-9 * np.abs(want).max())


@closed
def test_moore_penrose_identities(name):
  with jax.enable_x64(True):
    operator = build(name, OBLONG, True)
    forward, back = dense(operator, "__call__", OBLONG), dense(operator, "pinv", operator.out_shape)
    for got, want in (
      (back @ forward @ back, back),
      ((forward @ back).T, forward @ back),
      ((back @ forward).T, back @ forward),
    ):
      np.testing.assert_allclose(got, want, atol=1e-9 * np.abs(want).max())


@linear
@any_shape
@pytest.mark.slow
def test_pinv_explains_the_measurement(name, shape):
  operator, x = build(name, shape), normal(0, shape)
  y = apply(operator, "__call__", x)
  misfit = norm(apply(operator, "__call__", apply(operator, "pinv", y)) - y)
  # What closed forms leave out has a singular value below the cutoff; a ridge misses s ridge / (s^2 + ridge) < 0.005.
  left_out = 0.0 if name in EXACT else np.sqrt(REFLECT_PINV_RIDGE) / 2 if name in BY_CG else PINV_CUTOFF
  assert misfit <= 1e-5 * norm(y) + 1.1 * left_out * float(jnp.sqrt(norm_squared(operator))) * norm(x)


@pytest.mark.parametrize("name", ["blur_reflect", "blur_reflect_wide", "motion_blur"])
@pytest.mark.slow
def test_pinv_by_cg_is_the_documented_ridge(name):
  with jax.enable_x64(True):
    shape = (9, 15, 1)
    operator, y = build(name, shape, True), normal(0, shape)
    matrix = dense(operator, "__call__", shape)
    want = matrix.T @ np.linalg.solve(matrix @ matrix.T + REFLECT_PINV_RIDGE * np.eye(len(matrix)), y.ravel())
    np.testing.assert_allclose(apply(operator, "pinv", y).ravel(), want, atol=1e-6 * np.abs(want).max())


@linear
@any_shape
@pytest.mark.parametrize("x64, tolerance", [(False, 2e-4), (True, 1e-10)], ids=["float32", "float64"])
@pytest.mark.slow
def test_solve_inverts_the_regularized_gram(name, shape, x64, tolerance):
  # float32: rounding grows with the condition number ||A||^2 / gamma, several hundred here.
  with jax.enable_x64(x64):
    operator = build(name, shape, x64)
    v = normal(1, operator.out_shape)
    for back in solves(operator, v):
      close(back, v, tolerance)


@linear
@pytest.mark.slow
def test_ridge_is_the_adjoint_of_the_solve(name):
  with jax.enable_x64(True):
    operator = build(name, OBLONG, True)
    y = normal(1, operator.out_shape)
    close(*ridges(operator, y), 1e-9)


def test_ridge_of_frequencies_becomes_the_inverse_where_little_is_regularized():
  """As DiffPIR's last steps ask for: (A A^T + gamma)^-1 itself has 1 / gamma in it, 1e11 times what float32 tells."""
  operator = operators.masked_fourier(np.random.default_rng(0).random((6, 10)) < 0.4)
  y = normal(1, operator.out_shape)
  close(apply(operator, "ridge", y, 1e-11), apply(operator, "pinv", y), 1e-5)


def test_ridge_of_more_measurements_than_values_becomes_least_squares_where_little_is_regularized():
  operator = operators.gaussian_sensing(jax.random.key(0), (3, 4, 1), measurements=30)
  y = normal(1, operator.out_shape)
  matrix = np.asarray(operator.matrix, np.float64)
  want = np.linalg.lstsq(matrix, np.asarray(y, np.float64), rcond=None)[0]
  close(apply(operator, "ridge", y, 1e-11).ravel(), want.astype(np.float32), 1e-5)


@linear
@pytest.mark.parametrize("method", ["__call__", "adjoint", "pinv", "solve"])
@pytest.mark.slow
def test_jit_equals_eager(name, method):
  operator = build(name, OBLONG)
  argument = normal(0, OBLONG if method == "__call__" else operator.out_shape)
  extra = (0.1,) if method == "solve" else ()
  # CG at a ridge of 1e-4 is good to 1e-3 in float32: its rounding errors are another draw.
  tolerance = 1e-2 if method == "pinv" and name in BY_CG else 1e-5
  jitted = jax.jit(getattr(type(operator), method))
  close(jitted(operator, argument, *extra), getattr(operator, method)(argument, *extra), tolerance)


@pytest.mark.slow
def test_pinv_of_jpeg_keeps_its_digits_where_no_picture_has_the_measurement():
  y = normal(0, build("jpeg", OBLONG).out_shape)
  got = build("jpeg", OBLONG).pinv(y)
  with jax.enable_x64(True):
    exact = build("jpeg", OBLONG, True).pinv(jnp.asarray(np.asarray(y), float))
  close(np.asarray(got), np.asarray(exact, np.float32), 1e-3)


@linear
@pytest.mark.parametrize("method", ["__call__", "adjoint", "solve"])
@pytest.mark.slow
def test_vmap_equals_loop(name, method):
  operator = build(name, OBLONG)
  arguments = normal(0, (3, *(OBLONG if method == "__call__" else operator.out_shape)))
  extra = (0.1,) if method == "solve" else ()
  looped = np.stack([apply(operator, method, argument, *extra) for argument in arguments])
  batched = apply_each(operator, method, arguments, *extra)
  close(batched, looped, 1e-4 if name in BY_CG else 1e-5)


@pytest.mark.parametrize(
  "make",
  [
    lambda key: operators.box(key, (16, 20, 3), box_size=7, margin=2),
    lambda key: operators.random_mask(key, (16, 20, 3), missing=0.6),
    lambda key: operators.motion_blur(key, (16, 20, 3), size=15),
    lambda key: operators.mri(key, (16, 20, 3), lines="random"),
    lambda key: operators.mri(key, (16, 20, 3), lines="equispaced"),
  ],
  ids=["box", "random_mask", "motion_blur", "random_lines", "equispaced_lines"],
)
@pytest.mark.slow
def test_random_operators_are_built_and_applied_under_vmap(make):
  keys, x = jax.random.split(KEY, 4), normal(0, (16, 20, 3))
  batched = jax.vmap(lambda operator: operator(x))(jax.jit(jax.vmap(make))(keys))
  looped = jnp.stack([make(key)(x) for key in keys])
  close(batched, looped, 1e-5)
  assert not np.allclose(batched[0], batched[1]), "different keys must draw different operators"


@pytest.mark.parametrize(
  "make, want",
  [
    (operators.identity, 1.0),
    (ragged_mask, 1.0),
    (operators.grayscale, LUMA_NORM),
    (lambda shape: operators.block_average(shape, 4), 1 / 16),
    (lambda shape: Derived(shape), 1.25**2),
    (lambda shape: operators.blur(shape, abs(kernel(5, 7)) / abs(kernel(5, 7)).sum(), boundary="circular"), 1.0),
  ],
  ids=["identity", "inpainting", "grayscale", "block_average", "derived", "circular"],
)
@pytest.mark.slow
def test_norm_is_the_known_one(make, want):
  np.testing.assert_allclose(norm_squared(make((32, 32, 3))), want, rtol=1e-2)


@linear
@pytest.mark.slow
def test_norm_is_the_largest_singular_value(name):
  operator = build(name, (9, 15, 1))
  want = np.linalg.svd(dense(operator, "__call__", operator.in_shape), compute_uv=False)[0] ** 2
  got = norm_squared(operator)
  assert got <= want * (1 + 1e-5)
  np.testing.assert_allclose(got, want, rtol=1e-2)  # power iteration comes from below


# Reference numbers (tests/golden/operators.npz), NCHW there.


def picture(array):
  return array[0].transpose(1, 2, 0)


@pytest.mark.parametrize("size, std", [(61, 3.0), (9, 1.5)])
@pytest.mark.parametrize("make", ["separable", "general"])
@pytest.mark.slow
def test_gaussian_blur_matches_the_reference(golden, size, std, make):
  numbers = golden("operators.npz")
  x, k = picture(numbers["x"]), numbers[f"gaussian_kernel_{size}_{std}"]
  taps = gaussian_taps(size, std)
  np.testing.assert_allclose(np.outer(taps, taps), k, atol=1e-12)
  operator = operators.gaussian_blur(x.shape, size=size, std=std) if make == "separable" else operators.blur(x.shape, k)
  close(operator(x), picture(numbers[f"gaussian_blur_{size}_{std}"]), 2e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_matches_the_reference(golden, factor):
  numbers = golden("operators.npz")
  x = picture(numbers["x"])
  close(operators.super_resolution(x.shape, factor)(x), picture(numbers[f"super_resolution_{factor}"]), 2e-6)


def test_fourier_magnitude_matches_the_reference(golden):
  numbers = golden("operators.npz")
  x = picture(numbers["x"])
  y = operators.phase_retrieval(x.shape, oversample=4.0)(x)  # padded by half of the size
  close(y[::2, ::2], picture(numbers["centered_fft2_abs_pad_S/2"]), 2e-6)


def test_phase_retrieval_matches_the_reference(golden):
  numbers = golden("operators.npz")
  x = picture(np.random.RandomState(6).uniform(-1, 1, (1, 3, 256, 256)).astype(np.float32))
  operator = operators.phase_retrieval(x.shape)
  assert operator.out_shape == tuple(numbers["phase_retrieval_256_shape"][[2, 3, 1]])
  close(operator(x)[::8, ::8], picture(numbers["phase_retrieval_256_oversample2_sub8"]), 2e-6)


# Blurs


@pytest.mark.parametrize("sizes", [(5, 5), (5, 7), (1, 3), (21, 41)], ids=str)
@pytest.mark.parametrize("shape", [(16, 16, 1), (15, 9, 2)], ids=str)
@pytest.mark.parametrize("boundary, mode", [("circular", "wrap"), ("reflect", "mirror")])
@pytest.mark.slow
def test_blur_is_direct_convolution(sizes, shape, boundary, mode):
  with jax.enable_x64(True):
    x, k = np.asarray(normal(0, shape)), kernel(*sizes)
    want = np.stack([ndimage.convolve(x[..., i], k, mode=mode) for i in range(shape[2])], axis=-1)
    close(operators.blur(shape, k, boundary=boundary)(x), jnp.asarray(want), 1e-12)


@pytest.mark.slow
def test_a_point_of_light_becomes_the_kernel():
  k = kernel(5, 7)
  for boundary in ("circular", "reflect"):
    point = jnp.zeros((20, 20, 1)).at[10, 10].set(1.0)
    y = operators.blur((20, 20, 1), k, boundary=boundary)(point)
    np.testing.assert_allclose(y[8:13, 7:14, 0], k, atol=1e-6)


def test_gaussian_blur_is_the_blur_with_its_kernel():
  with jax.enable_x64(True):
    x, taps = normal(0, (40, 33, 3)), gaussian_taps(61, 3.0)
    close(operators.gaussian_blur(x.shape)(x), operators.blur(x.shape, np.outer(taps, taps))(x), 1e-12)


@pytest.mark.parametrize("kind", [CircularBlur, ReflectBlur])
@pytest.mark.slow
def test_gradient_flows_to_the_kernel(kind):
  with jax.enable_x64(True):
    x, k, direction = normal(0, (12, 16, 1)), jnp.asarray(kernel(5, 5)), normal(1, (5, 5))

    def loss(k):
      return jnp.sum(jnp.sin(kind((12, 16, 1), k)(x)))

    step = 1e-6
    slope = (loss(k + step * direction) - loss(k - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(k) * direction), slope, rtol=1e-7)


def curvature(key, intensity):
  """Return the thickness of a path: the standard deviation across it over that along it."""
  k = np.asarray(motion_kernel(key, size=41, intensity=intensity), np.float64)
  rows, cols = np.mgrid[-20:21, -20:21]
  cov = np.array([[np.sum(k * a * b) for a in (rows, cols)] for b in (rows, cols)])
  small, large = np.linalg.eigvalsh(cov)
  return np.sqrt(small / large)


@pytest.mark.parametrize("size", [9, 31, 61])
@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
@pytest.mark.slow
def test_motion_kernel_is_a_centered_distribution(size, intensity):
  for key in jax.random.split(KEY, 5):
    k = np.asarray(motion_kernel(key, size=size, intensity=intensity), np.float64)
    offsets = np.arange(size) - size // 2
    assert k.min() >= 0
    np.testing.assert_allclose(k.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose([offsets @ k.sum(1), k.sum(0) @ offsets], 0.0, atol=0.02)  # pixels
    assert k[[0, -1]].sum() + k[:, [0, -1]].sum() < 0.02, "the path leaves the kernel"
    assert k.max() > 1.5 / size**2, "no path to be seen"


@pytest.mark.slow
def test_intensity_bends_the_path():
  straight, bent, curled = (
    np.mean([curvature(key, intensity) for key in jax.random.split(KEY, 40)]) for intensity in (0.0, 0.5, 2.0)
  )
  assert straight < 0.15 and straight < 0.5 * bent and bent < curled
  np.testing.assert_allclose(motion_kernel(KEY), motion_kernel(KEY), rtol=0)


# Masks


@pytest.mark.slow
def test_box_lies_where_the_paper_draws_it():
  make = jax.jit(jax.vmap(lambda key: operators.box(key, (256, 256, 3)).mask[..., 0]))
  masks = np.concatenate([make(keys) for keys in jax.random.split(KEY, (8, 64))])
  assert np.all(np.isin(masks, [0, 1])) and np.all((masks == 0).sum((1, 2)) == 128 * 128)
  tops = (masks == 0).any(2).argmax(1)
  lefts = (masks == 0).any(1).argmax(1)
  rows, cols = np.ogrid[:256, :256]
  inside = [(rows >= t) & (rows < t + 128) & (cols >= e) & (cols < e + 128) for t, e in zip(tops, lefts)]
  np.testing.assert_array_equal(masks == 0, inside)
  for first in (tops, lefts):
    assert first.min() >= 16 and first.max() <= 111
    # Uniform on 96 places: mean 63.5, standard deviation 27.7; 512 draws.
    assert abs(first.mean() - 63.5) < 5 * 27.7 / np.sqrt(512)
    assert first.min() < 20 and first.max() > 107  # missed with a chance of (23/24)^512 < 1e-9
  assert abs(np.corrcoef(tops, lefts)[0, 1]) < 5 / np.sqrt(512)


def test_a_box_that_just_fits_lies_at_the_margin():
  mask = operators.box(KEY, (10, 12, 1), box_size=(6, 4), margin=(2, 4)).mask[..., 0]
  want = np.ones((10, 12))
  want[2:8, 4:8] = 0
  np.testing.assert_array_equal(mask, want)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.92])
@pytest.mark.slow
def test_random_mask_misses_exactly_the_asked_part(missing):
  masks = np.stack([operators.random_mask(key, (40, 50, 3), missing=missing).mask for key in jax.random.split(KEY, 50)])
  assert np.all((masks == 0).sum((1, 2, 3)) == round(missing * 2000))
  deviation = np.sqrt(missing * (1 - missing) / 50)
  assert np.abs(masks.mean(0) - (1 - missing)).max() <= 5 * deviation + 1e-6, "some places are preferred"


def test_inpainting_observes_the_mask_in_every_channel():
  mask = np.zeros((4, 5))
  mask[1, 2] = mask[3, 0] = 1
  operator = operators.inpainting(mask, channels=2)
  y = operator(jnp.ones((4, 5, 2)))
  np.testing.assert_array_equal(operator.observed(y), np.repeat(mask[..., None], 2, -1))
  np.testing.assert_array_equal(y, operator.observed(y))
  np.testing.assert_array_equal(operators.identity((4, 5, 2)).observed(y), np.ones((4, 5, 2)))


# Resizing and colors


@pytest.mark.parametrize(
  "name", ["super_resolution", "block_average", "gaussian_blur", "gaussian_blur_wide", "grayscale"]
)
@any_shape
@pytest.mark.slow
def test_a_constant_image_keeps_its_brightness(name, shape):
  y = build(name, shape)(jnp.full(shape, 0.7))
  np.testing.assert_allclose(y, np.full(y.shape, 0.7), rtol=1e-5)


def test_bicubic_interpolates_cubics_without_antialiasing_and_straight_lines_with_it():
  np.testing.assert_allclose(bicubic_matrix(6, 1), np.eye(6), atol=1e-15)
  centers = (np.arange(16) + 0.5) * 4 - 0.5
  line = bicubic_matrix(64, 4) @ np.arange(64.0)
  np.testing.assert_allclose(line[2:-2], centers[2:-2], atol=1e-12)  # the edges are mirrored
  assert np.all((bicubic_matrix(64, 4) != 0).sum(1)[2:-2] == 16)


def test_block_average_is_the_mean_of_its_block():
  x = jnp.arange(24.0).reshape(4, 6, 1)
  np.testing.assert_allclose(operators.block_average((4, 6, 1), 2)(x)[..., 0], [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])


def test_grayscale_is_the_luma():
  x = jnp.eye(3)[None]  # a red, a green and a blue pixel
  y = operators.grayscale((1, 3, 3))(x)
  np.testing.assert_allclose(y[0, :, 0], [0.299, 0.587, 0.114], rtol=1e-6)


# Nonlinear


@pytest.mark.parametrize("shape", [(8, 9), (7, 5)], ids=str)
@pytest.mark.slow
def test_centered_fft_is_unitary_with_the_mean_in_the_middle(shape):
  with jax.enable_x64(True):
    x = normal(0, (*shape, 2))
    transform = centered_fft2(x)
    np.testing.assert_allclose(norm(transform), norm(x), rtol=1e-12)
    middle = transform[shape[0] // 2, shape[1] // 2]
    np.testing.assert_allclose(middle, jnp.sum(x, axis=(0, 1)) / np.sqrt(np.prod(shape)), rtol=1e-12)
    rows, cols = (np.arange(n) - n // 2 for n in shape)
    wave = np.exp(2j * np.pi * (rows[:, None] / shape[0] - 2 * cols[None, :] / shape[1]))
    want = np.zeros(shape)
    want[shape[0] // 2 + 1, shape[1] // 2 - 2] = np.sqrt(np.prod(shape))
    np.testing.assert_allclose(centered_fft2(jnp.asarray(wave)), want, atol=1e-12)


def test_phase_retrieval_keeps_energy_and_loses_sign_and_rotation():
  with jax.enable_x64(True):
    operator, x = operators.phase_retrieval((16, 24, 3)), normal(0, (16, 24, 3))
    y = operator(x)
    assert y.shape == operator.out_shape == (24, 36, 3)
    np.testing.assert_allclose(norm(y), norm(x), rtol=1e-12)
    np.testing.assert_allclose(operator(-x), y, rtol=1e-12)
    np.testing.assert_allclose(operator(x[::-1, ::-1]), y, rtol=1e-9, atol=1e-12)
    assert norm(operator(x[::-1]) - y) > 0.1 * norm(y)


@pytest.mark.slow
def test_phase_retrieval_has_a_gradient_and_is_finite_where_it_has_none():
  with jax.enable_x64(True):
    operator, x, direction = operators.phase_retrieval((8, 8, 1)), normal(0, (8, 8, 1)), normal(1, (8, 8, 1))

    def loss(x):
      return jnp.sum(jnp.cos(operator(x)))

    slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(x) * direction), slope, rtol=1e-7)
    assert np.all(np.isfinite(jax.grad(loss)(jnp.zeros_like(x))))
    close(jax.jit(operator)(x), operator(x), 1e-12)
    close(jax.vmap(operator)(jnp.stack([x, -2.0 * x])), jnp.stack([operator(x), 2.0 * operator(x)]), 1e-12)


# Errors

SHAPE = (16, 16, 3)
WRONG = {
  "shape: .*leave out the batch": lambda: operators.identity((2, 16, 16, 3)),
  "shape: expected .height, width, channels. of one image, got .0, 4, 3.": lambda: operators.identity((0, 4, 3)),
  "mask: expected 0 .missing. and 1": lambda: operators.inpainting(np.full((4, 4), 0.5)),
  "mask: expected .h, w.": lambda: operators.inpainting(np.ones((4, 4, 3))),
  "mask: .*inverted": lambda: operators.inpainting(np.zeros((4, 4))),
  "box_size: expected 1 to 12 whole": lambda: operators.box(KEY, SHAPE, box_size=13, margin=2),
  "box_size: .*width 16 .*got 0": lambda: operators.box(KEY, SHAPE, box_size=(3, 0), margin=2),
  "missing: .*got 1.0": lambda: operators.random_mask(KEY, SHAPE, missing=1.0),
  "missing: .*got 0.999": lambda: operators.random_mask(KEY, SHAPE, missing=0.999),
  "weights: expected one per channel": lambda: operators.grayscale((4, 4, 1)),
  "weights: expected a sum of 1, got 3": lambda: operators.grayscale(SHAPE, weights=(1, 1, 1)),
  "factor: .*divides 16x16, got 3": lambda: operators.super_resolution(SHAPE, 3),
  "factor: .*got 0": lambda: operators.block_average(SHAPE, 0),
  "size: expected an odd": lambda: operators.gaussian_blur(SHAPE, size=60),
  "std: expected a positive": lambda: operators.gaussian_blur(SHAPE, std=0.0),
  "kernel: expected an odd": lambda: operators.blur(SHAPE, np.ones((5, 6)) / 30),
  "kernel: expected .k, l.": lambda: operators.blur(SHAPE, np.ones((5, 5, 3)) / 25),
  "boundary: expected one of reflect, circular, got 'zero'": lambda: operators.blur(
    SHAPE, np.ones((3, 3)), boundary="zero"
  ),
  "size: expected at least 9": lambda: operators.motion_blur(KEY, SHAPE, size=7),
  "size: expected an odd number": lambda: operators.motion_blur(KEY, SHAPE, size=20),
  "intensity: .*got -1": lambda: operators.motion_blur(KEY, SHAPE, intensity=-1),
  "oversample: .*got -1": lambda: operators.phase_retrieval(SHAPE, oversample=-1),
  "mask: .*sampled alike": lambda: operators.masked_fourier(np.ones((4, 4, 3))),
  "mask: expected 0 and 1 .sampled.": lambda: operators.masked_fourier(np.full((4, 4), 2)),
  "mask: expected at least one sampled": lambda: operators.masked_fourier(np.zeros((4, 4))),
  "kind: expected one of real, complex, got 'both'": lambda: operators.mri(KEY, SHAPE, kind="both"),
  "shape: .*complex picture, got .16, 16, 3.": lambda: operators.mri(KEY, SHAPE, kind="complex"),
  "lines: expected one of random, equispaced": lambda: operators.mri(KEY, SHAPE, lines="radial"),
  "acceleration: expected 4 or 8, got 5": lambda: operators.mri(KEY, SHAPE, acceleration=5),
  "center_fraction: .*got 8 at acceleration 4": lambda: operators.mri(KEY, SHAPE, center_fraction=0.5),
  "coils: expected sensitivities": lambda: operators.mri(KEY, SHAPE, coils=np.ones((16, 16))),
  "ratio: .*got 1.5": lambda: operators.compressed_sensing(KEY, SHAPE, ratio=1.5),
  "ratio: .*of 256, got 0.001": lambda: operators.compressed_sensing(KEY, SHAPE, ratio=0.001),
  "measurements: expected a whole number, 1 to 87381 of 768": lambda: operators.gaussian_sensing(
    KEY, SHAPE, measurements=10**6
  ),
  "measurements: .*got 2.5": lambda: operators.gaussian_sensing(KEY, SHAPE, measurements=2.5),
  "box_size: .*got 4.5": lambda: operators.box(KEY, SHAPE, box_size=4.5),
  "factor: expected a positive exposure": lambda: operators.hdr(SHAPE, factor=0.0),
  "outer: expected an operator on .4, 4, 3.": lambda: operators.compose(
    operators.identity(SHAPE), operators.block_average(SHAPE, 4)
  ),
  "parts: .*one shape, got none": operators.stack,
  "parts: .*got .*4, 4, 3.*16, 16, 3": lambda: operators.stack(
    operators.identity(SHAPE), operators.identity((4, 4, 3))
  ),
  "picture: .*got .16, 16, 2.": lambda: operators.identity((16, 16, 2)).picture(np.zeros((16, 16, 2))),
  "rows: expected a matrix .m, 16.": lambda: separable(SHAPE, np.ones((17, 16)), np.eye(16)),
}


def test_whole_numbers_of_numpy_are_whole_numbers():
  shape = tuple(np.array(SHAPE))
  assert operators.identity(shape).in_shape == SHAPE
  assert operators.super_resolution(shape, np.int64(4)).out_shape == (4, 4, 3)
  assert operators.block_average(shape, np.int64(4)).factor == 4
  assert operators.box(KEY, shape, box_size=np.int64(4), margin=np.int64(1)).in_shape == SHAPE


@pytest.mark.parametrize("message", WRONG)
def test_errors_name_the_argument_on_one_line(message):
  with pytest.raises(ValueError, match=message) as error:
    WRONG[message]()
  assert "\n" not in str(error.value)
