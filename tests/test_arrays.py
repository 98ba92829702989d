"""Arrays of other layouts and numbers: what is plain is taken, and what a message advises, done, works."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffinv import operators
from diffinv.data import arrays, images, masks

RNG = np.random.default_rng(0)
COLOR = RNG.uniform(-1, 1, (5, 6, 3)).astype(np.float32)
GRAY = COLOR[..., :1]
BYTES = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)


def save(folder, array):
  np.save(folder / "a.npy", array)
  return folder / "a.npy"


def advised(error, a):
  """Do to an array what a message says after "save" or "give"."""
  steps = re.search(r"; (?:save|give) (?:the real parts.*: )?(.*)$", str(error))[1].split("; ")
  names = {"a": a, "np": np}
  for step in steps:
    name, equals, value = step.partition(" = ")
    if equals:
      names[name] = eval(value, names)
    else:
      found = eval(step, names)
  return found


# Layouts: an array, the channels that are wanted, and what it means.
LAYOUTS = {
  "channels first": (np.moveaxis(COLOR, -1, 0), 3, COLOR),
  "one channel first": (np.moveaxis(GRAY, -1, 0), 1, GRAY),
  "a batch of one": (COLOR[None], 3, COLOR),
  "a batch of one, channels first": (np.moveaxis(COLOR, -1, 0)[None], 3, COLOR),
  "gray for color": (GRAY, 3, np.repeat(GRAY, 3, axis=-1)),
  "gray for color, without an axis": (GRAY[..., 0], 3, np.repeat(GRAY, 3, axis=-1)),
  "gray for color, channels first": (np.moveaxis(GRAY, -1, 0), 3, np.repeat(GRAY, 3, axis=-1)),
  "alpha": (np.concatenate([COLOR, GRAY], axis=-1), 3, COLOR),
  "color for gray": (COLOR, 1, COLOR.mean(axis=-1, keepdims=True)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_advice_on_another_layout_gives_the_picture(tmp_path, name):
  array, channels, want = LAYOUTS[name]
  with pytest.raises(ValueError, match=rf"a.npy: expected an array of shape \[h, w, {channels}\], got") as caught:
    arrays.read_array(save(tmp_path, array), channels=channels)
  got = arrays.read_array(save(tmp_path, advised(caught.value, array)), channels=channels)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 6, 3), (5, 6, 5), (0, 6, 3), (1, 1, 5, 6, 3)], ids=str)
def test_where_no_layout_is_plain_none_is_advised(tmp_path, shape):
  with pytest.raises(ValueError, match=r"expected an array of shape \[h, w, 3\], got .*; save one of that shape"):
    arrays.read_array(save(tmp_path, np.zeros(shape)), channels=3)


@pytest.mark.parametrize("channels", [1, None])
def test_an_array_without_an_axis_of_channels_has_one_channel(tmp_path, channels):
  np.testing.assert_array_equal(arrays.read_array(save(tmp_path, GRAY[..., 0]), channels=channels), GRAY)


@pytest.mark.parametrize("array", [GRAY, GRAY[..., 0]], ids=["[h, w, 1]", "[h, w]"])
def test_a_gray_photograph_is_taken_for_a_color_one(tmp_path, array):
  np.testing.assert_array_equal(images.read(save(tmp_path, array)), np.repeat(GRAY, 3, axis=-1))
  np.testing.assert_array_equal(images.read(save(tmp_path, array), mode="L"), GRAY)


NUMBERS = {"bytes": BYTES, "16 bits": BYTES.astype(np.uint16) * 257, "truth values": BYTES > 99}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_advice_on_a_picture_of_integers_gives_the_picture(tmp_path, name):
  array = NUMBERS[name]
  with pytest.raises(ValueError, match=rf"expected floats in \[-1, 1\], got {array.dtype}; save ") as caught:
    images.read(save(tmp_path, array))
  want = images.from_uint8(array * np.uint8(255) if array.dtype == bool else BYTES)
  np.testing.assert_allclose(images.read(save(tmp_path, advised(caught.value, array))), want, rtol=0, atol=1e-6)


def test_a_picture_in_another_range_is_refused_with_the_way_to_the_right_one(tmp_path):
  a = BYTES.astype(np.float32)
  with pytest.raises(ValueError, match=r"expected values in \[-1, 1\], got \[.*\]; values from .* look like") as caught:
    images.read(save(tmp_path, a))
  changed = eval(re.search(r"; ([^;]*) is in \[-1, 1\]$", str(caught.value))[1], {"a": a})
  np.testing.assert_allclose(images.read(save(tmp_path, changed)), images.from_uint8(BYTES), rtol=0, atol=1e-6)


def test_a_picture_that_may_be_in_another_range_is_read_and_doubted(tmp_path, capsys):
  images.read(save(tmp_path, BYTES / np.float32(255)))
  assert "a.npy: values from" in capsys.readouterr().err
  images.read(save(tmp_path, COLOR))
  assert capsys.readouterr().err == ""


K_SPACES = {
  "color": (lambda k: k, 6),
  "coils first": (lambda k: np.moveaxis(k, -1, 0), 6),
  "one channel": (lambda k: k[..., :1], 2),
  "one channel without an axis": (lambda k: k[..., 0], 2),
  "one channel for three": (lambda k: k[..., 0], 6),
}


@pytest.mark.parametrize("name", K_SPACES)
def test_the_advice_on_complex_k_space_gives_it_as_the_operator_does(tmp_path, name):
  """The real parts of all channels, then the imaginary parts."""
  change, channels = K_SPACES[name]
  picture = np.repeat(GRAY, 3, axis=-1) if "three" in name else COLOR
  k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(picture, axes=(0, 1)), axes=(0, 1), norm="ortho"), axes=(0, 1))
  array = change(k.astype(np.complex64))
  with pytest.raises(
    ValueError, match="a.npy: expected floats, got complex64 .*; save the real parts of all"
  ) as caught:
    arrays.read_array(save(tmp_path, array), channels=channels, is_picture=False)
  got = arrays.read_array(save(tmp_path, advised(caught.value, array)), channels=channels, is_picture=False)
  operator = operators.masked_fourier(np.ones((5, 6)), channels=channels // 2)
  np.testing.assert_allclose(got, operator(jnp.asarray(picture[..., : channels // 2])), rtol=0, atol=1e-5)


@pytest.mark.parametrize("array", [COLOR.astype(np.complex64), BYTES.astype(np.int64)], ids=["complex", "integers"])
def test_other_numbers_where_no_picture_is_measured_are_not_called_bytes(tmp_path, array):
  with pytest.raises(ValueError, match="a.npy: expected floats, got [^127]*64") as caught:
    arrays.read_array(save(tmp_path, array), channels=3, is_picture=False)
  assert "127.5" not in str(caught.value) and "[-1, 1]" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_the_advice_on_a_picture_without_black_and_white_gives_the_picture(tmp_path, kind):
  values = (BYTES[..., 0].astype(np.int64) * 70_000).astype(kind)
  Image.fromarray(values).save(tmp_path / "a.tif")
  for convert in (False, True):
    with pytest.raises(ValueError, match="; scale the values to .-1, 1. and save them with numpy.save$"):
      images.read(tmp_path / "a.tif", convert=convert)
  with Image.open(tmp_path / "a.tif") as image:
    scaled = np.asarray(image, np.float64) / (255 * 70_000 / 2) - 1
  got = images.read(save(tmp_path, scaled))
  np.testing.assert_allclose(got, np.stack([images.from_uint8(BYTES[..., 0])] * 3, axis=-1), rtol=0, atol=1e-6)


# Kernels

KERNEL = RNG.random((5, 7))


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (5, 7, 1), (1, 5, 7)], ids=str)
def test_the_advice_on_a_kernel_of_more_axes_gives_the_kernel(tmp_path, shape):
  array = KERNEL.reshape(shape)
  with pytest.raises(ValueError, match=r"a.npy: expected a kernel of shape \[h, w\], got") as caught:
    masks.read_kernel(save(tmp_path, array))
  assert "odd" not in str(caught.value)
  got = masks.read_kernel(save(tmp_path, advised(caught.value, array)))
  np.testing.assert_allclose(got, KERNEL / KERNEL.sum(), rtol=1e-6)


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (4, 6)], ids=str)
def test_the_advice_on_an_even_kernel_keeps_its_values_and_its_center(tmp_path, size):
  array = KERNEL[: size[0], : size[1]]
  with pytest.raises(ValueError, match="expected a kernel of odd height and width") as caught:
    masks.read_kernel(save(tmp_path, array))
  padded = eval(re.search(r"np\.pad.*$", str(caught.value))[0], {"np": np, "a": array})
  got = masks.read_kernel(save(tmp_path, padded))
  np.testing.assert_allclose(got[: size[0], : size[1]], array / array.sum(), rtol=1e-6)
  assert all(m // 2 == n // 2 for m, n in zip(got.shape, size, strict=True))
