"""Parametric kernels: what their numbers mean, their gradients, and the words that name them."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv.operators import kernels
from diffinv.operators.blur import gaussian_taps
from diffinv.operators.kernels import DiskKernel, GaussianKernel, MotionKernel, Unknown

EXAMPLES = [
  GaussianKernel(0.3),
  GaussianKernel(2.0),
  DiskKernel(0.4),
  DiskKernel(3.5),
  MotionKernel(1.0, 70.0),
  MotionKernel(15.0, 30.0),
  MotionKernel(9.0, 0.0),
  MotionKernel(9.0, 90.0),
]
named = lambda kernel: f"{kernel.family} {','.join(map(str, kernels.numbers(kernel).values()))}"


def moments(taps):
  """Return the centroid and the covariance, rows first, float64."""
  taps = np.asarray(taps, np.float64)
  grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in taps.shape), indexing="ij"))
  mean = np.einsum("kl,ikl->i", taps, grid)
  return mean, np.einsum("kl,ikl,jkl->ij", taps, grid, grid) - np.outer(mean, mean)


@pytest.mark.parametrize("kernel", EXAMPLES, ids=named)
def test_taps_are_not_negative_of_sum_1_and_centered(kernel):
  taps = kernel.taps(kernels.kernel_size(kernel))
  assert np.min(taps) >= 0
  np.testing.assert_allclose(np.sum(np.asarray(taps, np.float64)), 1.0, rtol=1e-5)
  np.testing.assert_allclose(moments(taps)[0], 0.0, atol=1e-4)


@pytest.mark.parametrize("std", [0.7, 1.0, 2.5, 4.0])
def test_gaussian_has_the_variance_it_says(std):
  kernel = GaussianKernel(std)
  covariance = moments(kernel.taps(kernels.kernel_size(kernel)))[1]
  np.testing.assert_allclose(covariance, std**2 * np.eye(2), rtol=0.01, atol=1e-5)


def test_gaussian_is_that_of_the_blur_with_known_width():
  line = gaussian_taps(17, 2.0)
  np.testing.assert_allclose(GaussianKernel(2.0).taps(17), np.outer(line, line), atol=1e-4)


@pytest.mark.parametrize("radius", [2.5, 3.0, 3.5, 8.0])
def test_disk_has_the_variance_of_its_radius_and_its_rim(radius):
  kernel = DiskKernel(radius)
  covariance = moments(kernel.taps(kernels.kernel_size(kernel)))[1]
  np.testing.assert_allclose(covariance, (radius**2 / 4 + 0.1) * np.eye(2), rtol=0.03, atol=1e-5)


@pytest.mark.parametrize("angle", [17.0, 30.0, 45.0, 110.0, 163.0])
def test_motion_has_the_covariance_of_its_line(angle):
  kernel, turn = MotionKernel(15.0, angle), math.radians(angle)
  covariance = moments(kernel.taps(kernels.kernel_size(kernel)))[1]
  along = np.array([-math.sin(turn), math.cos(turn)])  # counterclockwise is upward on the right
  np.testing.assert_allclose(covariance, 15.0**2 / 12 * np.outer(along, along) + np.eye(2) / 6, atol=0.1)


def test_motion_along_an_axis_leaves_the_other_as_it_is():
  assert np.count_nonzero(np.max(MotionKernel(9.0, 0.0).taps(13), axis=1) > 1e-6) == 1
  np.testing.assert_allclose(MotionKernel(9.0, 0.0).taps(13), MotionKernel(9.0, 90.0).taps(13).T, atol=1e-6)


def test_angle_is_a_direction_without_a_sense():
  np.testing.assert_allclose(MotionKernel(9.0, 20.0).taps(13), MotionKernel(9.0, 200.0).taps(13), atol=1e-5)


@pytest.mark.parametrize("kernel", [GaussianKernel(1.7), DiskKernel(3.3), MotionKernel(9.3, 31.0)], ids=named)
def test_gradient_is_that_of_finite_differences(kernel):
  with jax.enable_x64(True):
    weights = jax.random.normal(jax.random.key(0), (19, 19), jnp.float64)
    smooth = GaussianKernel(1.5).taps(19)  # kinks of the rendering average out
    weights = jnp.real(jnp.fft.ifft2(jnp.fft.fft2(weights) * jnp.fft.fft2(smooth)))
    leaves, structure = jax.tree.flatten(kernel)
    leaves = jnp.asarray(leaves, jnp.float64)
    loss = lambda values: jnp.sum(weights * jax.tree.unflatten(structure, list(values)).taps(19))
    steps = 1e-5 * jnp.eye(len(leaves))
    differences = [(loss(leaves + step) - loss(leaves - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(jax.grad(loss)(leaves), differences, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kernel", [*EXAMPLES, MotionKernel(0.0, 0.0), DiskKernel(1e-3)], ids=named)
def test_gradients_are_finite(kernel):
  kernel = jax.tree.map(jnp.float32, kernel)
  slopes = jax.jacrev(lambda kernel: kernel.taps(31))(kernel)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_words_are_read():
  shown = lambda kernel: (kernel.family, kernels.numbers(kernel))
  assert shown(kernels.parse_blur("gaussian:2")) == ("gaussian", {"std": 2.0})
  assert shown(kernels.parse_blur("disk:3.5")) == ("disk", {"radius": 3.5})
  assert shown(kernels.parse_blur("motion:15,-30")) == ("motion", {"length": 15.0, "angle": -30.0})
  for text in ("gaussian", "disk", "motion", "free"):
    assert kernels.parse_blur(f"{text}:auto") == Unknown(text)
  assert kernels.parse_blur("auto") == Unknown("auto")


def test_a_file_is_a_file_even_if_its_name_has_a_colon(tmp_path):
  for name in ("kernel.png", "a:b.npy"):
    (tmp_path / name).touch()
    assert kernels.parse_blur(str(tmp_path / name)) == pathlib.Path(tmp_path, name)


@pytest.mark.parametrize(
  "text", ["", "gaussian", "gaussian:", "gaussian:0", "gaussian:-1", "gaussian:nan", "gaussian:1,2", "disk:1e9"]
  + ["motion:15", "motion:15,400", "motion:a,b", "box:3", "auto:3", "free", "free:3", "nowhere.png", "Gaussian:2"],
)  # fmt: skip
def test_other_words_are_refused_in_a_line(text):
  with pytest.raises(ValueError, match=r"^blur: expected") as caught:
    kernels.parse_blur(text)
  assert "\n" not in str(caught.value)


def test_an_even_size_is_refused():
  with pytest.raises(ValueError, match="size: expected an odd number"):
    GaussianKernel(1.0).taps(8)
