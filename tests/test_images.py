"""Image files: every byte kept, every mode named or converted as asked, all damage an error that names the file."""

import errno
import os
import struct
import zlib

import numpy as np
import odd_files
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from diffinv import errors
from diffinv.data import arrays, bundled, images, masks

RNG = np.random.default_rng(0)
SHAPE = (11, 14)
RGB = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
DEEP = RNG.integers(0, 65536, SHAPE, dtype=np.uint16)
LUMA = np.array([0.299, 0.587, 0.114])


def unit(pixels):
  """Map bytes to [-1, 1], from the definition; gray ones get a channel axis."""
  values = np.asarray(pixels, np.float64) / 127.5 - 1
  return values if values.ndim == 3 else values[..., None]


def save(path, pixels, **options):
  (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
  return path


def close(got, pixels, atol=1e-6):
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, unit(pixels), rtol=0, atol=atol)


BYTE = 1 / 127.5  # one step of a byte on [-1, 1]; conversions of Pillow round to it


# Plain files


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16, 1)], ids=str)
def test_writing_and_reading_keeps_every_byte(tmp_path, shape):
  pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)  # all of 0 ... 255
  images.write(tmp_path / "a.png", unit(pixels))
  x = images.read(tmp_path / "a.png", mode="RGB" if shape[2] == 3 else "L")
  close(x, pixels)
  assert x.shape == shape
  np.testing.assert_array_equal(images.to_uint8(x), pixels)
  images.write(tmp_path / "b.png", x)
  assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.PNG", "no_ending"])
def test_lossless_formats_are_read_exactly(tmp_path, name):
  x = images.read(save(tmp_path / name, RGB, **({} if "." in name else {"format": "PNG"})))
  close(x, RGB)
  np.testing.assert_array_equal(images.to_uint8(x), RGB)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats_are_read_as_pillow_decodes_them(tmp_path, name):
  with Image.open(save(tmp_path / name, RGB, quality=95)) as image:
    close(images.read(tmp_path / name), np.asarray(image))


def test_the_ends_of_the_range_are_exact(tmp_path):
  x = images.read(save(tmp_path / "a.png", np.array([[0, 255]], np.uint8)), mode="L")
  assert x.ravel().tolist() == [-1.0, 1.0]


def test_grayscale_files_are_read_as_one_channel(tmp_path):
  close(images.read(save(tmp_path / "a.png", GRAY), mode="L"), GRAY)


def test_writing_clips_and_rounds_to_the_nearest_byte(tmp_path):
  x = np.array([[[-7.0], [1.2], [0.6 / 127.5], [-0.6 / 127.5], [127.4 / 127.5]]])
  images.write(tmp_path / "a.png", x)
  with Image.open(tmp_path / "a.png") as image:
    assert image.mode == "L" and np.asarray(image).tolist() == [[0, 255, 128, 127, 255]]


@pytest.mark.parametrize(
  "name, x, message",
  [
    ("a.jpg", np.zeros((4, 4, 3)), "ends in .png"),
    ("a.png", np.full((4, 4, 3), np.nan), "finite values"),
    ("a.png", np.zeros((4, 4)), r"got \(4, 4\)"),
    ("a.png", np.zeros((4, 4, 2)), r"got \(4, 4, 2\)"),
    ("a.png", np.zeros((1, 4, 4, 3)), r"got \(1, 4, 4, 3\)"),
  ],
)
def test_what_is_no_image_is_not_written(tmp_path, name, x, message):
  with pytest.raises(ValueError, match=message):
    images.write(tmp_path / name, x)
  assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  images.write(tmp_path / "a.png", unit(RGB))
  before = (tmp_path / "a.png").read_bytes()

  def failing(self, path, **_):
    path.write_bytes(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(Image.Image, "save", failing)
  with pytest.raises(OSError, match="disk full"):
    images.write(tmp_path / "a.png", -unit(RGB))
  assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == before


def test_clipped_fraction_counts_what_a_file_cannot_hold():
  assert images.clipped_fraction(np.array([-1.0, 1.0, 1.01, -3.0, 0.0])) == pytest.approx(2 / 5)


# Other modes: an error unless asked for


def alpha_image():
  return np.concatenate([RGB, GRAY[..., None]], axis=-1)


def over_white():
  alpha = GRAY[..., None] / 255.0
  return RGB * alpha + 255 * (1 - alpha)


def palette_image():
  image = Image.fromarray((GRAY % 4).astype(np.uint8), "L").convert("P")
  image.putpalette([10, 20, 30, 200, 0, 0, 0, 220, 0, 40, 50, 255])
  return image


PALETTE = np.array([[10, 20, 30], [200, 0, 0], [0, 220, 0], [40, 50, 255]])[GRAY % 4]


def see_through(pixels, index):
  return np.where((index == GRAY % 4)[..., None], 255, pixels)


def write_deep_rgb(path, pixels):
  """Write 16-bit RGB PNG, which Pillow cannot."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  height, width, _ = pixels.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
  header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
  path.write_bytes(
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
  )
  return path


def animation(path):
  frames = [palette_image(), Image.fromarray(255 - GRAY)]
  frames[0].save(path, save_all=True, append_images=frames[1:])
  return path


CMYK = Image.fromarray(RGB).convert("CMYK")
RGB_OF_GRAY = np.repeat(GRAY[..., None], 3, axis=-1)
RGB_OF_DEEP = np.repeat(np.round(DEEP / 257.0)[..., None], 3, axis=-1)

# name: how to write it, what the error calls it, the RGB bytes after conversion.
OTHER = {
  "alpha": (lambda p: save(p / "a.png", alpha_image()), "RGB with alpha", over_white()),
  "gray_alpha": (
    lambda p: save(p / "a.png", Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())])),
    "grayscale with alpha",
    np.repeat((GRAY * (GRAY[::-1] / 255.0) + 255 - 1.0 * GRAY[::-1])[..., None], 3, axis=-1),
  ),
  "palette": (lambda p: save(p / "a.png", palette_image()), "palette", PALETTE),
  "palette_see_through": (
    lambda p: save(p / "a.png", palette_image(), transparency=2),
    "palette",
    see_through(PALETTE, 2),
  ),
  "black_and_white": (
    lambda p: save(p / "a.png", Image.fromarray(GRAY > 99)),
    "black and white",
    255 * (RGB_OF_GRAY > 99),
  ),
  "gray_16": (lambda p: save(p / "a.png", DEEP), "16-bit grayscale", RGB_OF_DEEP),
  "gray_16_tiff": (lambda p: save(p / "a.tif", DEEP), "16-bit grayscale", RGB_OF_DEEP),
  "rgb_16": (lambda p: write_deep_rgb(p / "a.png", RGB.astype(np.uint16) * 257), "16-bit RGB", RGB),
  "cmyk": (lambda p: save(p / "a.tif", CMYK), "CMYK, the inks of a print", np.asarray(CMYK.convert("RGB"))),
  "animation": (lambda p: animation(p / "a.gif"), "an animation or several pages", PALETTE),
  "see_through_color": (
    lambda p: save(p / "a.png", Image.fromarray(PALETTE.astype(np.uint8)), transparency=(0, 220, 0)),
    "8-bit RGB with a transparent color",
    see_through(PALETTE, 2),
  ),
}
every_other = pytest.mark.parametrize("name", OTHER)


@every_other
def test_another_mode_is_an_error_that_names_it_and_the_flag(tmp_path, name):
  write, kind, _ = OTHER[name]
  with pytest.raises(ValueError, match=f"a.*: expected 8-bit RGB, got {kind}; save it as 8-bit RGB or pass `convert`"):
    images.read(write(tmp_path))


@every_other
def test_conversion_to_color_keeps_the_picture(tmp_path, name):
  write, _, want = OTHER[name]
  x = images.read(write(tmp_path), convert=True)
  assert x.shape == (*SHAPE, 3)
  # Composition rounds once.
  close(x, want, 1.01 * BYTE if "alpha" in name else 1e-6)


@pytest.mark.parametrize("name", ["alpha", "palette", "rgb_16", "animation", "gray_16"])
def test_conversion_to_gray_is_the_luminance(tmp_path, name):
  write, _, want = OTHER[name]
  x = images.read(write(tmp_path), mode="L", convert=True)
  assert x.shape == (*SHAPE, 1)
  close(x, want @ LUMA, 2.01 * BYTE if "alpha" in name else 1.01 * BYTE)


def test_color_is_no_grayscale_unless_converted(tmp_path):
  path = save(tmp_path / "a.png", RGB)
  with pytest.raises(ValueError, match="expected 8-bit grayscale, got 8-bit RGB; .* or pass `convert`"):
    images.read(path, mode="L")
  close(images.read(path, mode="L", convert=True), RGB @ LUMA, BYTE)


def test_conversion_of_a_plain_file_changes_nothing(tmp_path):
  path = save(tmp_path / "a.png", RGB)
  np.testing.assert_array_equal(images.read(path, convert=True), images.read(path))


@pytest.mark.parametrize(
  "values, message",
  [
    (np.array([[0, 70_000]], np.int32), "got 32-bit integer grayscale from 0 to 70000"),
    (np.array([[0, -300]], np.int32), "got 32-bit integer grayscale from -300 to 0"),
    (np.array([[0, 255]], np.int32), "got 32-bit integer grayscale from 0 to 255"),  # no 16 bits, of which it is black
    (np.array([[0.0, 0.5]], np.float32), "got 32-bit float grayscale from 0 to 0.5"),
  ],
)
def test_what_has_no_range_cannot_be_converted(tmp_path, values, message):
  path = save(tmp_path / "a.tif", values)
  with pytest.raises(ValueError, match=message):
    images.read(path, convert=True)


@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, -1), (8, 1)])
def test_photographs_are_turned_upright(tmp_path, orientation, turn):
  exif = Image.Exif()
  exif[0x0112] = orientation
  close(images.read(save(tmp_path / "a.png", RGB, exif=exif)), np.rot90(RGB, turn))


def test_the_first_picture_of_a_phones_file_is_read(tmp_path):
  first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
  first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
  with Image.open(tmp_path / "a.jpg") as image:
    assert image.n_frames == 2
    want = np.asarray(image)
  close(images.read(tmp_path / "a.jpg"), want)


# Damage


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tif", "a.ppm"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, name, keep):
  path = save(tmp_path / name, RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
  whole = path.read_bytes()
  path.write_bytes(whole[: int(keep * len(whole))])
  with pytest.raises(ValueError, match=rf"{name}: expected (a whole image, got a truncated|an image, got a file)"):
    images.read(path, convert=True)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + 40 * b"x"], ids=["empty", "text", "header"])
def test_what_is_no_image_is_an_error_that_names_it(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"{name}: expected"):
    images.read(tmp_path / name)


def test_a_program_for_a_printer_is_not_run_whatever_its_name(tmp_path):
  (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
  with pytest.raises(ValueError, match="a.png: expected an image, got a file that is none"):
    images.read(tmp_path / "a.png")


def test_an_array_that_promises_more_than_it_holds_is_an_error_that_names_it(tmp_path):
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }"
  header += b" " * (-(len(header) + 11) % 64) + b"\n"
  (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
  with pytest.raises(
    ValueError, match="a.npy: expected a .npy array of numbers, got one that is cut off: its header promises more"
  ):
    images.read(tmp_path / "a.npy")


def test_a_flipped_byte_in_a_png_is_an_error(tmp_path):
  path = save(tmp_path / "a.png", RGB)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(ValueError, match="a.png: expected a whole image"):
    images.read(path)


READERS = {
  "read": images.read,
  "read_array": arrays.read_array,
  "read_mask": masks.read_mask,
  "read_kernel": masks.read_kernel,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_missing_files_and_folders_are_told_apart(tmp_path, reader, name):
  with pytest.raises(FileNotFoundError, match=f"{name}: expected a file, found nothing there"):
    READERS[reader](tmp_path / name)
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f"{name}: expected a file, got a folder"):
    READERS[reader](tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, reader, ending):
  for name, path in odd_files.make(tmp_path, ending).items():
    with pytest.raises((ValueError, OSError)) as caught:
      READERS[reader](path)
    assert odd_files.WORDS[name] in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_of_a_folder_only_regular_files_are_taken(tmp_path, ending):
  odd_files.make(tmp_path, ending)
  with pytest.raises(ValueError, match="input: expected image files"):
    images.collect([str(tmp_path)])
  save(tmp_path / "whole.png", RGB)
  (tmp_path / "link.png").symlink_to("whole.png")
  assert images.collect([str(tmp_path)]) == [tmp_path / "link.png", tmp_path / "whole.png"]


def part(kind, data):
  """Return a chunk of a PNG."""
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMBS = {
  "text": part(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000))),
  "international text": part(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
  "profile": part(b"iCCP", b"k\0\0" + zlib.compress(bytes(2_000_000))),
  "much text": 80 * part(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_beside_the_picture_is_named_as_one(tmp_path, bomb):
  whole = save(tmp_path / "a.png", RGB).read_bytes()
  (tmp_path / "a.png").write_bytes(whole[:33] + BOMBS[bomb] + whole[33:])
  with pytest.raises(ValueError, match="a.png: expected little text beside the picture, got too much"):
    images.read(tmp_path / "a.png")


def test_pages_are_not_counted(tmp_path, monkeypatch):
  """A file may have millions."""
  path = tmp_path / "a.tif"
  Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(255 - RGB)] * 3)
  monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda self: pytest.fail("counted")))
  with pytest.raises(ValueError, match="got an animation or several pages"):
    images.read(path)
  np.testing.assert_array_equal(images.read(path, convert=True), images.from_uint8(RGB))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_a_file_that_is_too_large_is_refused_by_its_size(tmp_path, name):
  os.truncate(save(tmp_path / name, RGB), 1 << 40)
  with pytest.raises(ValueError, match=f"{name}: expected at most 1,000,000,000 bytes, got 1,099,511,627,776; check"):
    images.read(tmp_path / name)


# What is said of a file that is not damaged: the change of a whole one, and the message.
UNSUPPORTED = {
  "a.bmp": (lambda data: data[:30] + struct.pack("<I", 4) + data[34:], "can be decoded, got another .*compression .4"),
  "b.bmp": (lambda data: data[:28] + struct.pack("<H", 7) + data[30:], "can be decoded, got another .*pixel depth .7"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_kind_is_not_called_damaged(tmp_path, name):
  change, message = UNSUPPORTED[name]
  path = save(tmp_path / name, RGB)
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match=f"{name}: expected an image that {message}") as caught:
    images.read(path)
  assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["a.png", "a.npy"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_what_the_system_says_is_not_called_damaged(tmp_path, monkeypatch, reader, name, code):
  def refuse(*_, **__):
    raise OSError(code, os.strerror(code))

  (tmp_path / name).write_bytes(arrays.MAGIC)
  monkeypatch.setattr(Image, "open", refuse)
  monkeypatch.setattr(np, "load", refuse)
  with pytest.raises(OSError) as caught:
    READERS[reader](tmp_path / name)
  assert errors.one_line(caught.value).startswith(f"{os.strerror(code)}: {tmp_path / name}")


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory when reading image file")], ids=str)
def test_a_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch, error):
  def fail(self):
    raise error

  path = save(tmp_path / "a.png", RGB)
  monkeypatch.setattr(Image.Image, "load", fail)
  monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
  with pytest.raises(MemoryError):
    images.read(path)


def npy(shape, kind="<f4", version=(1, 0), data=b""):
  """Return a `.npy` file with that header."""
  header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
  header += b" " * (-(len(header) + 11) % 64) + b"\n"
  return arrays.MAGIC + bytes(version) + struct.pack("<H", len(header)) + header + data


REFUSED = {
  "promises": (npy((1_000_000, 1_000_000, 3)), "got one that is cut off: its header promises more than there is"),
  "text": (b"hello, this is text", "got a file of another kind; save it with numpy.save"),
  "empty": (b"", "got a file of another kind"),
  "objects": (npy((4,), "|O", data=b"\x80\x04]\x94."), "got one of Python objects, which could run code"),
  "version": (npy((4,), version=(9, 0), data=bytes(16)), "got one of another version"),
  "header": (npy("(4,"), "got one with a damaged header"),
}


@pytest.mark.parametrize(
  "read", [arrays.load, arrays.load_real, arrays.read_array, images.read], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("case", REFUSED)
def test_why_an_array_is_refused_is_said(tmp_path, read, case):
  content, message = REFUSED[case]
  (tmp_path / "a.npy").write_bytes(content)
  with pytest.raises(ValueError, match=f"a.npy: expected a .npy array of numbers, {message}") as caught:
    read(tmp_path / "a.npy")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape, kind", [((2**30, 2**10), "|u1"), ((2**30,), "<f4"), ((4,), f"<U{2**28}")], ids=str)
def test_an_array_that_is_too_large_is_not_read(tmp_path, shape, kind):
  path = tmp_path / "a.npy"
  path.write_bytes(npy(shape, kind))
  os.truncate(path, 2**41)
  with pytest.raises(ValueError, match="a.npy: expected at most 256,000,000 numbers"):
    arrays.load(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
  path = save(tmp_path / "a.png", RGB)
  monkeypatch.setattr(images, "MAX_PIXELS", SHAPE[0] * SHAPE[1])
  images.read(path)
  monkeypatch.setattr(images, "MAX_PIXELS", SHAPE[0] * SHAPE[1] - 1)
  with pytest.raises(ValueError, match="a.png: expected at most 153 pixels, got more .14x11.; scale it down"):
    images.read(path)


# Arrays


def save_array(path, array):
  np.save(path, array, allow_pickle=True)
  return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_arrays_are_read_as_they_are(tmp_path, dtype):
  array = RNG.uniform(-1, 1, (5, 6, 3)).astype(dtype)
  x = images.read(save_array(tmp_path / "a.npy", array))
  assert x.dtype == np.float32
  np.testing.assert_array_equal(x, array.astype(np.float32))


def test_measurements_may_leave_the_range_and_have_any_channels(tmp_path):
  array = np.full((5, 6, 2), -40.0, np.float32)
  np.testing.assert_array_equal(arrays.read_array(save_array(tmp_path / "a.npy", array)), array)


@pytest.mark.parametrize(
  "array, message",
  [
    (np.zeros((5, 6, 3), np.uint8), "expected floats in .*, got uint8; save np.float32"),
    (np.zeros((5, 6, 3), np.complex64), "expected floats in .*, got complex64"),
    (np.zeros((5, 6, 2)), r"expected an array of shape \[h, w, 3\], got \(5, 6, 2\)"),
    (np.zeros((1, 5, 6, 3)), r"expected an array of shape \[h, w, 3\], got \(1, 5, 6, 3\); save a\[0\]"),
    (np.zeros((3, 5, 6)), r"expected an array of shape \[h, w, 3\], got \(3, 5, 6\)"),
    (np.zeros((0, 6, 3)), r"expected an array of shape .*, got \(0, 6, 3\)"),
    (np.array([[[0.0, np.nan, np.inf]]]), "expected finite values, got 2"),
    (np.array([[[0.0, 1e300, 0.0]]]), "expected finite values, got 1"),
    (np.full((5, 6, 3), 1.01), r"expected values in \[-1, 1\], got \[1.01, 1.01\]"),
    (np.full((5, 6, 3), -1.01), r"expected values in \[-1, 1\]"),
    (np.array([[[None, 1.0, 2.0]]], object), "expected a .npy array of numbers"),
  ],
)
def test_arrays_that_are_no_image_are_errors_that_name_the_file(tmp_path, array, message):
  with pytest.raises(ValueError, match=f"a.npy: {message}"):
    images.read(save_array(tmp_path / "a.npy", array))


@pytest.mark.parametrize("reader", READERS)
def test_an_archive_of_arrays_is_no_array(tmp_path, reader):
  with open(tmp_path / "a.npy", "wb") as file:
    np.savez(file, np.zeros((5, 5, 3)))
  with pytest.raises(ValueError, match="a.npy: expected a .npy array of numbers"):
    READERS[reader](tmp_path / "a.npy")


@pytest.mark.parametrize("reader", ["read_mask", "read_kernel"])
@pytest.mark.parametrize("array", [np.array([["a"]]), np.ones((3, 3), complex)], ids=["text", "complex"])
def test_masks_and_kernels_are_real_numbers(tmp_path, reader, array):
  with pytest.raises(ValueError, match="a.npy: expected a .npy array of numbers"):
    READERS[reader](save_array(tmp_path / "a.npy", array))


# Masks

MASK = GRAY > 128


@pytest.mark.parametrize(
  "write",
  [
    lambda p: save(p / "a.png", (255 * MASK).astype(np.uint8)),
    lambda p: save(p / "a.png", Image.fromarray(MASK)),
    lambda p: save_array(p / "a.npy", MASK),
    lambda p: save_array(p / "a.npy", MASK.astype(np.int64)),
    lambda p: save_array(p / "a.npy", MASK.astype(float)[..., None]),
  ],
  ids=["gray", "black_and_white", "bool", "int", "float"],
)
def test_white_pixels_of_a_mask_are_kept(tmp_path, write):
  mask = masks.read_mask(write(tmp_path))
  assert mask.dtype == np.float32
  np.testing.assert_array_equal(mask, MASK[..., None])


def test_a_threshold_takes_gray_masks(tmp_path):
  path = save(tmp_path / "a.png", GRAY)
  for threshold in (1, 77, 255):
    np.testing.assert_array_equal(masks.read_mask(path, threshold=threshold)[..., 0], threshold <= GRAY)


@pytest.mark.parametrize(
  "write, message",
  [
    (lambda p: save(p / "a.png", np.array([[0, 255, 7, 9]], np.uint8)), "got 2 other values such as 7; pass"),
    (lambda p: save(p / "a.png", np.zeros((4, 4), np.uint8)), "one that keeps none; white is kept"),
    (
      lambda p: save(p / "a.png", RGB),
      "expected a mask of gray values, got 154 pixels of other colors; save it as gray",
    ),
    (lambda p: save(p / "a.png", DEEP), "expected a mask of 0 .* got 154 other values"),
    (lambda p: save(p / "a.tif", CMYK), "expected a grayscale mask, got CMYK"),
    (lambda p: animation(p / "a.gif"), "expected a grayscale mask, got an animation"),
    (lambda p: save_array(p / "a.npy", np.array([[1.0, np.nan]])), "got 1 other values"),
    (lambda p: save_array(p / "a.npy", np.full((2, 2), 254)), "got 4 other values such as 254"),
    (lambda p: save_array(p / "a.npy", np.ones((2, 2, 2))), r"got \(2, 2, 2\)"),
    (lambda p: save_array(p / "a.npy", np.ones(4)), r"got \(4,\)"),
  ],
)
def test_other_masks_are_errors(tmp_path, write, message):
  with pytest.raises(ValueError, match=message):
    masks.read_mask(write(tmp_path))


# Kernels


@pytest.mark.parametrize(
  "write, want",
  [
    (lambda p: save(p / "a.png", GRAY[:5, :7]), GRAY[:5, :7]),
    (lambda p: save(p / "a.png", DEEP[:5, :7]), DEEP[:5, :7]),
    (lambda p: save_array(p / "a.npy", RGB[:3, :3, 0] - 50.0), RGB[:3, :3, 0] - 50.0),
    (lambda p: save_array(p / "a.npy", GRAY[:1, :3]), GRAY[:1, :3]),
  ],
  ids=["8_bit", "16_bit", "negative", "bytes"],
)
def test_kernels_are_divided_by_their_sum(tmp_path, write, want):
  kernel = masks.read_kernel(write(tmp_path))
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel, want / np.sum(want, dtype=float), rtol=1e-6)


@pytest.mark.parametrize(
  "write, message",
  [
    (lambda p: save(p / "a.png", GRAY[:4, :5]), r"odd height and width, got shape \(4, 5\); pad it"),
    (lambda p: save(p / "a.png", RGB[:5, :5]), "expected a kernel of gray values, got 25 pixels of other colors"),
    (lambda p: save(p / "a.png", np.zeros((3, 3), np.uint8)), "positive sum, got a sum of 0"),
    (lambda p: save_array(p / "a.npy", np.ones((3, 3, 1))), r"got \(3, 3, 1\); give np.squeeze"),
    (lambda p: save_array(p / "a.npy", np.full((3, 3), -1.0)), "positive sum, got a sum of -9"),
    (lambda p: save_array(p / "a.npy", np.array([[1.0, np.inf, 1.0]])), "expected finite values"),
  ],
)
def test_other_kernels_are_errors(tmp_path, write, message):
  with pytest.raises(ValueError, match=message):
    masks.read_kernel(write(tmp_path))


# Sizes


@pytest.mark.parametrize("text, want", [("64", (64, 64)), ("96x64", (64, 96)), ("96X64", (64, 96)), ("007", (7, 7))])
def test_sizes_have_the_width_first(text, want):
  assert images.parse_size(text) == want


@pytest.mark.parametrize("text", ["", "x", "0", "64x0", "-64", "64.5", "64x64x3", "64x", "abc", "64 x 64", "1e3", "²"])
def test_other_texts_are_no_size(text):
  with pytest.raises(ValueError, match="size: expected N or WIDTHxHEIGHT in pixels"):
    images.parse_size(text)


ANY, FIXED = (None, None), (256, 256)


@pytest.mark.parametrize(
  "have, allowed, multiple, wanted, want",
  [
    ((70, 100), ANY, 1, None, (70, 100)),
    ((70, 100), ANY, 32, None, (64, 96)),
    ((64, 96), ANY, 32, None, (64, 96)),
    ((70, 100), FIXED, 32, None, FIXED),
    ((300, 900), FIXED, 1, None, FIXED),
    ((300, 900), (None, 256), 16, None, (288, 256)),
    ((70, 100), ANY, 32, (128, 32), (128, 32)),
    ((70, 100), FIXED, 32, FIXED, FIXED),
  ],
)
def test_target_size_is_the_largest_that_fits_or_the_wanted_one(have, allowed, multiple, wanted, want):
  assert images.target_size(have, allowed, multiple, wanted) == want


@pytest.mark.parametrize(
  "have, allowed, multiple, wanted, message",
  [
    ((70, 100), ANY, 32, (33, 64), "size: expected multiples of 32 pixels, got 64x33"),
    ((70, 100), FIXED, 32, (64, 128), "size: expected 256x256 pixels, got 128x64"),
    ((20, 100), ANY, 32, None, "expected at least 32x32 pixels, got 100x20; pass `size` and `fit=resize`"),
  ],
)
def test_target_sizes_that_the_prior_does_not_take_are_errors(have, allowed, multiple, wanted, message):
  with pytest.raises(ValueError, match=message):
    images.target_size(have, allowed, multiple, wanted)


@pytest.mark.parametrize("how", images.FITS)
def test_an_image_that_has_the_size_is_not_touched(how):
  x = unit(RGB)
  assert images.fit(x, SHAPE, how) is x


def test_none_takes_no_other_size():
  with pytest.raises(ValueError, match="expected 8x8 pixels, got 14x11; pass `fit=crop` or `fit=resize`"):
    images.fit(unit(RGB), (8, 8), "none")


def test_crop_cuts_the_center_out():
  x = unit(RGB)
  np.testing.assert_array_equal(images.fit(x, (7, 6), "crop"), x[2:9, 4:10])
  with pytest.raises(ValueError, match="expected at least 10x12 pixels to crop, got 14x11; pass `fit=resize`"):
    images.fit(x, (12, 10), "crop")


def ramp(height, width):
  """Return an image that is the height coordinate in one channel and the width one in another, [-0.9, 0.9]."""
  y, x = [(np.arange(n) + 0.5) / n * 1.8 - 0.9 for n in (height, width)]
  return np.stack(np.broadcast_arrays(y[:, None], x[None, :], 0.3), axis=-1).astype(np.float32)


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (48, 12), (96, 200)])
def test_resize_covers_the_size_and_keeps_the_aspect(size):
  have = (64, 96)
  got = images.fit(ramp(*have), size, "resize")
  assert got.shape == (*size, 3) and got.dtype == np.float32
  ratio = max(size[0] / have[0], size[1] / have[1])
  inner = (slice(size[0] // 8, -(size[0] // 8)), slice(size[1] // 8, -(size[1] // 8)))  # the filter cuts at the edges
  for axis in (0, 1):
    place = (np.arange(size[axis]) + 0.5 - size[axis] / 2) / (have[axis] * ratio) * 1.8  # centered, one scale for both
    want = np.broadcast_to(place[:, None] if axis == 0 else place[None, :], size)
    np.testing.assert_allclose(got[..., axis][inner], want[inner], atol=0.02)
  np.testing.assert_allclose(got[..., 2], 0.3, atol=1e-6)


def test_resize_clips_the_overshoot_of_its_filter():
  edge = np.where(np.arange(40)[None, :, None] < 20, -1.0, 1.0).astype(np.float32) * np.ones((40, 1, 1), np.float32)
  got = images.fit(edge, (100, 100), "resize")
  assert got.min() == -1.0 and got.max() == 1.0 and got.shape == (100, 100, 1)


def test_resize_averages_what_it_reduces():
  checks = (np.indices((64, 64)).sum(0) % 2 * 2.0 - 1.0).astype(np.float32)[..., None]
  assert np.abs(images.fit(checks, (16, 16), "resize")).max() < 0.05


# Lists of files


@pytest.fixture
def folder(tmp_path):
  for name in ("b.png", "a.JPG", "c.npy", ".hidden.png", "notes.txt"):
    (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_bytes(b"")
  (tmp_path / "in" / "folder.png").mkdir()
  (tmp_path / "a,b.png").write_bytes(b"")
  (tmp_path / "empty").mkdir()
  return tmp_path


def test_a_folder_means_its_image_files_by_name(folder):
  assert [p.name for p in images.collect([str(folder / "in")])] == ["a.JPG", "b.png", "c.npy"]


def test_files_keep_their_order_and_lists_are_split_at_commas(folder):
  b, c, comma = folder / "in" / "b.png", folder / "in" / "c.npy", folder / "a,b.png"
  assert images.collect([f"{c},{b}", str(comma)]) == [c, b, comma]
  assert images.collect([str(c), str(b), str(c)]) == [c, b, c]


def test_a_list_may_be_longer_than_the_name_of_a_file(tmp_path):
  paths = [tmp_path / f"{i:03d}-{'x' * 40}.png" for i in range(120)]
  for path in paths:
    path.touch()
  assert images.collect([",".join(map(str, paths))]) == paths


def test_a_named_file_needs_no_known_ending(folder):
  assert images.collect([str(folder / "in" / "notes.txt")]) == [folder / "in" / "notes.txt"]


@pytest.mark.parametrize(
  "names, error, message",
  [
    (["in/x.png"], FileNotFoundError, "x.png: expected a file, found nothing there"),
    (["in/b.png,in/x.png"], FileNotFoundError, "x.png: expected a file"),
    (["empty"], ValueError, "mask: expected image files .* in the folder .*empty, found none"),
    ([], ValueError, "mask: expected a file, several, or a folder, got nothing"),
    ([""], ValueError, "got nothing"),
  ],
)
def test_what_is_not_there_is_an_error_that_names_it(folder, monkeypatch, names, error, message):
  monkeypatch.chdir(folder)
  with pytest.raises(error, match=message):
    images.collect(names, name="mask")


# Pictures that come with the package


def test_the_bundled_pictures_are_read_without_conversion():
  assert images.read(bundled.ASTRONAUT).shape == (256, 256, 3)
  assert images.read(bundled.FACE).shape == (64, 64, 3)
