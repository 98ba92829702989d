"""Color profiles: what is not sRGB is converted and said, what is sRGB keeps its bytes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffinv.data import folder, images, photos, profiles, sheet

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8)
GRAY = RGB[..., 0]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# CIE XYZ of the primaries, adapted to D50, as profiles hold them.
PRIMARIES = {
  "sRGB": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
  "Adobe": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
}
WHITE = (0.9642, 1.0, 0.8249)


def tag(kind, data):
  return kind.encode().ljust(4) + bytes(4) + data


def fixed(*values):
  return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def curve(gamma):
  return tag("curv", struct.pack(">IH", 1, round(gamma * 256)) + bytes(2))


def make_profile(space, tags):
  """Return an ICC profile, version 2 (ICC.1:2001-04), of the colors `space`, such as "RGB " or "GRAY"."""
  tags = {"desc": tag("desc", struct.pack(">I", 5) + b"Test\0" + bytes(78)), "wtpt": tag("XYZ", fixed(*WHITE)), **tags}
  table, body = struct.pack(">I", len(tags)), b""
  for name, data in tags.items():
    table += name.encode() + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
    body += data + bytes(-len(data) % 4)
  head = bytes(4) + bytes(4) + struct.pack(">I", 0x02400000) + b"mntr" + space.encode() + b"XYZ " + bytes(12) + b"acsp"
  head = head.ljust(68, b"\0") + fixed(*WHITE)
  whole = head.ljust(128, b"\0") + table + body
  return struct.pack(">I", len(whole)) + whole[4:]


def matrix_profile(name, gamma):
  columns = {f"{c}XYZ": tag("XYZ", fixed(*v)) for c, v in zip("rgb", PRIMARIES[name], strict=True)}
  return make_profile("RGB ", columns | {f"{c}TRC": curve(gamma) for c in "rgb"})


ADOBE = matrix_profile("Adobe", 2.19921875)
LINEAR_GRAY = make_profile("GRAY", {"kTRC": curve(1.0)})


def encoded(light):
  """Return the sRGB values of light, both in [0, 1]; IEC 61966-2-1."""
  light = np.clip(light, 0, 1)
  return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def of_adobe(pixels):
  """Return the sRGB bytes of Adobe RGB ones, from the definition."""
  light = (pixels / 255.0) ** 2.19921875
  xyz = light @ np.array(PRIMARIES["Adobe"])
  return 255 * encoded(xyz @ np.linalg.inv(np.array(PRIMARIES["sRGB"])))


BYTE = 1 / 127.5
ROUNDED = 2.6 * BYTE  # Little CMS computes in 15 bits and the primaries have four digits
AT = {"atol": ROUNDED, "rtol": 0}


def unit(pixels):
  return np.asarray(pixels, np.float64) / 127.5 - 1


@pytest.fixture(autouse=True)
def anew():
  images.note_once.cache_clear()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_another_color_space_is_converted_and_said(tmp_path, capsys, name):
  options = {"lossless": True} if name == "a.webp" else {}
  Image.fromarray(RGB).save(tmp_path / name, icc_profile=ADOBE, **options)
  np.testing.assert_allclose(images.read(tmp_path / name), unit(of_adobe(RGB)), **AT)
  images.read(tmp_path / name)
  said = f"note: {tmp_path / name}: its colors, of the profile 'Test', are converted to sRGB\n"
  assert capsys.readouterr().err == said


def test_the_primaries_of_srgb_with_another_curve_are_not_srgb(tmp_path):
  """A power of 2.2 differs from the curve of sRGB by up to 7 of 255, in the shadows."""
  Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=matrix_profile("sRGB", 2.2))
  np.testing.assert_allclose(images.read(tmp_path / "a.png"), unit(255 * encoded((RGB / 255.0) ** 2.2)), **AT)


@pytest.mark.parametrize("icc", [SRGB, None], ids=["sRGB", "none"])
def test_srgb_keeps_its_bytes_without_a_word(tmp_path, capsys, icc):
  Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=icc)
  np.testing.assert_array_equal(images.to_uint8(images.read(tmp_path / "a.png")), RGB)
  assert capsys.readouterr().err == ""


def test_gray_values_of_another_curve_are_converted(tmp_path, capsys):
  Image.fromarray(GRAY).save(tmp_path / "a.png", icc_profile=LINEAR_GRAY)
  want = unit(255 * encoded(GRAY / 255.0))[..., None]
  np.testing.assert_allclose(images.read(tmp_path / "a.png", mode="L"), want, **AT)
  assert "profile 'Test', are converted" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "16"])
def test_other_modes_are_converted_with_their_profile(tmp_path, mode):
  gray = mode in ("LA", "16")
  if mode == "16":
    image = Image.fromarray(GRAY.astype(np.uint16) * 257)
  elif mode == "P":
    image = Image.fromarray(RGB).quantize(16)
  else:
    image = Image.fromarray(RGB[..., 0] if gray else RGB).convert(mode)
  plain = np.asarray(image.convert("RGB")) if mode != "16" else np.stack([GRAY] * 3, axis=-1)
  image.save(tmp_path / "a.png", icc_profile=LINEAR_GRAY if gray else ADOBE)
  want = 255 * encoded(plain / 255.0) if gray else of_adobe(plain)
  np.testing.assert_allclose(images.read(tmp_path / "a.png", convert=True), unit(want), **AT)


def test_alpha_is_laid_over_white_after_the_colors_are_converted(tmp_path):
  half = np.dstack([RGB, np.full_like(GRAY, 128)])
  Image.fromarray(half).save(tmp_path / "a.png", icc_profile=ADOBE)
  want = of_adobe(RGB) * 128 / 255 + 255 * 127 / 255
  np.testing.assert_allclose(images.read(tmp_path / "a.png", convert=True), unit(want), **AT)


@pytest.mark.parametrize("icc", [b"no profile", ADOBE[:200], LINEAR_GRAY], ids=["text", "cut", "gray"])
def test_a_profile_that_cannot_be_used_is_said_and_the_bytes_are_kept(tmp_path, capsys, icc):
  Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=icc)
  np.testing.assert_array_equal(images.to_uint8(images.read(tmp_path / "a.png")), RGB)
  said = capsys.readouterr().err
  assert f"{tmp_path / 'a.png'}: its colors are taken as sRGB, as its color profile cannot be used" in said
  assert said.count("\n") == 1


def test_inks_are_refused_by_name_and_converted_with_a_line(tmp_path, capsys):
  image = Image.fromarray(RGB).convert("CMYK")
  image.save(tmp_path / "a.tif")
  with pytest.raises(ValueError, match="expected 8-bit RGB, got CMYK, the inks of a print; save .* or pass `convert`"):
    images.read(tmp_path / "a.tif")
  got = images.read(tmp_path / "a.tif", convert=True)
  np.testing.assert_allclose(got, unit(np.asarray(image.convert("RGB"))), rtol=0, atol=1e-6)
  assert "of inks without a profile, are converted to sRGB by a rule of thumb" in capsys.readouterr().err


@pytest.mark.parametrize("how", folder.CROPS)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_training_sees_the_converted_colors_and_says_so_once(tmp_path, name, how):
  """On a picture of one color, whichever part of it is shown."""
  color = np.array([200, 60, 90])
  for other in (name, f"b{name[1:]}"):
    Image.new("RGB", (64, 48), tuple(color)).save(tmp_path / other, icc_profile=ADOBE)
  lines = []
  source = folder.Folder(tmp_path, [name, f"b{name[1:]}"], size=16, seed=0, how=how, report=lines.append)
  for i in range(4):
    np.testing.assert_allclose(source.item(i), np.broadcast_to(of_adobe(color), (16, 16, 3)), atol=4)
  (line,) = lines
  assert "'Test', are converted to sRGB; so are those of all files like it" in line


def test_adobe_rgb_as_it_comes_is_known(tmp_path):
  pytest.importorskip("skimage")
  path = photos.data_folder() / "rocket.jpg"
  with Image.open(path) as image:
    icc, pixels = image.info["icc_profile"], np.asarray(image)
  assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip() == "Adobe RGB (1998)"
  np.testing.assert_allclose(images.read(path), unit(of_adobe(pixels)), rtol=0, atol=4 * BYTE)
  np.testing.assert_array_equal(np.asarray(images.read_rgb(path)), pixels)  # the training sets keep their bytes


# Grayscale photographs


def test_grayscale_is_taken_for_color_with_one_line(tmp_path, capsys):
  for name in ("a.png", "b.png"):
    Image.fromarray(GRAY).save(tmp_path / name)
    np.testing.assert_allclose(images.read(tmp_path / name), unit(np.stack([GRAY] * 3, axis=-1)), atol=1e-6)
  np.save(tmp_path / "a.npy", unit(GRAY).astype(np.float32))
  images.read(tmp_path / "a.npy")
  assert capsys.readouterr().err == "note: grayscale pictures are taken as color ones of three equal channels\n"


def test_color_is_not_taken_for_grayscale(tmp_path):
  Image.fromarray(RGB).save(tmp_path / "a.png")
  with pytest.raises(ValueError, match="expected 8-bit grayscale, got 8-bit RGB"):
    images.read(tmp_path / "a.png", mode="L")


# What is written


def chunks(data):
  """Return the kinds and contents of the chunks of a PNG."""
  found, place = [], 8
  while place < len(data):
    (length,) = struct.unpack(">I", data[place : place + 4])
    found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
    place += 12 + length
  return found


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_that_are_written_say_that_they_are_srgb_and_keep_their_pixels(tmp_path, channels):
  pixels = RGB[..., :channels]
  images.write(tmp_path / "a.png", unit(pixels))
  images.write_pillow(tmp_path / "b.png", images.to_pillow(unit(pixels)))
  for data in ((tmp_path / "a.png").read_bytes(), (tmp_path / "b.png").read_bytes(), images.png(unit(pixels))):
    kinds = [kind for kind, _ in chunks(data)]
    assert (b"sRGB", b"\0") in chunks(data) and kinds.index(b"sRGB") < kinds.index(b"IDAT")
    plain = io.BytesIO()
    images.to_pillow(unit(pixels)).save(plain, format="PNG")
    without = [chunk for chunk in chunks(data) if chunk[0] != b"sRGB"]
    assert without == chunks(plain.getvalue())
    with Image.open(io.BytesIO(data)) as image:
      np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_sheets_say_that_they_are_srgb(tmp_path):
  images.write_pillow(tmp_path / "a.png", sheet.grid([unit(RGB)]))
  assert b"sRGB" in dict(chunks((tmp_path / "a.png").read_bytes()))


def test_a_picture_without_a_profile_is_not_touched():
  image = Image.fromarray(RGB)
  assert profiles.to_srgb(image, pytest.fail) is image and profiles.described(image) is None
