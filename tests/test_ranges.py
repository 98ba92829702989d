"""Ranges of values: what looks like another range than [-1, 1] is named, and the way to bring it there is right."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import operators
from diffinv.data import bundled, images, ranges
from diffinv.operators.fourier import centered_fft2, centered_ifft2, join, split

RNG = np.random.default_rng(0)
TRUTH = images.read(bundled.ASTRONAUT)[::4, ::4]  # [64, 64, 3], [-1, 1]
SHAPE = TRUTH.shape
MASK = RNG.random((64, 64)) < 0.3
ENDS = {name: ranges.parse_range(name) for name in ranges.RANGES}
KERNEL = np.ones((5, 5)) / 25
OPERATORS = {
  "super_resolution": operators.super_resolution(SHAPE, 4),
  "blur": operators.blur(SHAPE, KERNEL),
  "inpainting": operators.inpainting(MASK),
  "mri": operators.masked_fourier(MASK),
}


def in_range(x, name):
  """Return a picture in [-1, 1] in another range."""
  low, high = ENDS[name]
  return low + (np.asarray(x, np.float64) + 1) / 2 * (high - low)


def as_measured(x, name, operator, sigma=0.0):
  """Measure a picture in a range, with noise of sigma of [-1, 1]."""
  low, high = ENDS[name]
  y = np.asarray(operator(jnp.asarray(in_range(x, name), jnp.float32)))
  return y + sigma * (high - low) / 2 * RNG.normal(size=y.shape)


@pytest.mark.parametrize("name", ranges.RANGES)
@pytest.mark.parametrize("task", ["super_resolution", "blur", "inpainting"])
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.1])
def test_the_range_of_a_measured_photograph_is_told(name, task, sigma):
  operator = OPERATORS[task]
  y = as_measured(TRUTH, name, operator, sigma) * np.asarray(operator.observed(jnp.zeros(operator.out_shape)))
  assert ranges.likely(y) == name
  assert (ranges.doubt(y) is None) == (name == "-1,1")


@pytest.mark.parametrize("name", ["0,1", "0,255"])
def test_what_a_doubt_advises_brings_a_picture_to_the_range(name):
  a = in_range(TRUTH, name)
  told = ranges.doubt(a)
  assert f"look like a picture in [{name.replace(',', ', ')}]" in told
  changed = eval(re.search(r"; (.*) is in \[-1, 1\]", told)[1], {"a": a})
  np.testing.assert_allclose(changed, TRUTH, rtol=0, atol=1e-6)
  assert ranges.doubt(changed) is None


def test_a_range_that_is_none_of_these_is_doubted_too():
  told = ranges.doubt(in_range(TRUTH, "0,255") * 257)  # 16 bits
  assert "are not those of a picture in [-1, 1]; scale them" in told
  assert ranges.likely(40 * TRUTH) is None


@pytest.mark.parametrize("y", [np.zeros(SHAPE), np.full(SHAPE, 0.5), np.zeros((0, 3)), np.full(SHAPE, np.nan)], ids=str)
def test_where_there_is_no_contrast_there_is_no_doubt(y):
  assert ranges.doubt(y) is None


def test_loud_noise_on_a_picture_in_the_range_is_not_doubted():
  assert ranges.doubt(TRUTH + RNG.normal(size=SHAPE)) is None


@pytest.mark.parametrize("name", ranges.RANGES)
@pytest.mark.parametrize("task", OPERATORS)
def test_a_measurement_is_brought_to_what_it_would_be_of_the_picture_in_the_range(name, task):
  operator = OPERATORS[task]
  y = as_measured(TRUTH, name, operator)
  got = ranges.to_range(y, *ENDS[name], ones=operator(jnp.ones(SHAPE)))
  assert got.dtype == np.float32 and got.shape == operator.out_shape
  # Float32 of values up to 255 * 64, the middle of k-space, whose errors scale with it.
  np.testing.assert_allclose(got, operator(jnp.asarray(TRUTH)), rtol=1e-5, atol=1e-4)


def test_of_pixels_nothing_more_than_the_range_need_be_known():
  np.testing.assert_allclose(ranges.to_range([0, 127.5, 255], 0, 255), [-1, 0, 1], rtol=0, atol=1e-7)
  np.testing.assert_array_equal(ranges.to_range(TRUTH, -1, 1), TRUTH)
  with pytest.raises(ValueError, match="range: expected black below white, got 1 and 0"):
    ranges.to_range(TRUTH, 1, 0)


@pytest.mark.parametrize("text", ["", "0", "0,", "1,0", "0,0", "0,1,2", "a,b", "0,inf", "nan,1"])
def test_other_texts_are_no_range(text):
  with pytest.raises(ValueError, match="expected a range LOW,HIGH such as -1,1 or 0,1 or 0,255, got"):
    ranges.parse_range(text)
  assert ranges.parse_range("-0.5, 2e3") == (-0.5, 2000)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 64.0])
def test_k_space_of_another_size_is_doubted_and_the_advice_mends_it(scale):
  y = np.asarray(OPERATORS["mri"](jnp.asarray(TRUTH)))
  assert ranges.doubt_spectrum(y, TRUTH.size) is None
  told = ranges.doubt_spectrum(scale * y, TRUTH.size)
  assert "divide it by the largest magnitude of its inverse orthonormal transform" in told
  largest = np.abs(centered_ifft2(join(jnp.asarray(scale * y, jnp.float32)))).max()
  assert ranges.doubt_spectrum(scale * y / largest, TRUTH.size) is None


@pytest.mark.parametrize("brightness", [-0.9, -0.2, 0.0, 0.9])
def test_k_space_of_pictures_in_the_range_is_not_doubted(brightness):
  x = np.clip(brightness + 0.2 * TRUTH, -1, 1)
  assert ranges.doubt_spectrum(split(centered_fft2(jnp.asarray(x))), x.size) is None
