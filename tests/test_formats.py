"""Formats: all orientations by one path, what a folder leaves out is named, and what cannot be read says what to do."""

import importlib.util
import os
import struct

import numpy as np
import pytest
from PIL import Image, features

from diffinv.data import folder, formats, images, masks

SIZE = (96, 72)
DOT = 8  # pixels of a square of the picture
# Another gray for each square, so that no turn of the picture looks like another.
UPRIGHT = np.kron(np.random.default_rng(0).integers(40, 216, (9, 12), dtype=np.uint8), np.ones((DOT, DOT), np.uint8))
UPRIGHT = np.stack([UPRIGHT, UPRIGHT[::-1, ::-1], np.roll(UPRIGHT, 2 * DOT, axis=1)], axis=-1)
# What is stored where a viewer that follows orientation k shows UPRIGHT (EXIF 2.3, 4.6.4: rows and columns of the 0th).
STORED = {
  1: UPRIGHT,
  2: UPRIGHT[:, ::-1],
  3: UPRIGHT[::-1, ::-1],
  4: UPRIGHT[::-1],
  5: UPRIGHT.transpose(1, 0, 2),
  6: np.rot90(UPRIGHT, 1),
  7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
  8: np.rot90(UPRIGHT, -1),
}
WAYS = {
  "a.png": {},
  "a.jpg": {"quality": 98, "subsampling": 0},
  "a.tif": {},
  "lzw.tif": {"compression": "tiff_lzw"},
  "jpeg.tif": {"compression": "jpeg", "quality": 98},
  "a.webp": {"lossless": True},
  "a.avif": {"quality": 100, "subsampling": "4:4:4"},
  "a.heic": {"quality": -1, "chroma": 444},
}
LOSSY = 12  # of 255: of coding and chroma, at the edges of the squares


def require_format(name):
  if name.endswith(".avif") and not features.check("avif"):
    pytest.skip("Pillow without AVIF")
  if name.endswith(".heic"):
    pytest.importorskip("pillow_heif")


def write_turned(path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
  if path.suffix == ".heic":
    import pillow_heif

    image = pillow_heif.from_pillow(image)  # and no registered format, which would change what Pillow opens
  image.save(path, exif=exif.tobytes(), **WAYS[path.name])
  return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", WAYS)
def test_every_orientation_of_every_format_is_turned_upright(tmp_path, name, orientation):
  require_format(name)
  path = write_turned(tmp_path / name, orientation)
  for got in (images.read(path), images.from_uint8(np.asarray(images.read_rgb(path)))):
    assert got.shape == UPRIGHT.shape
    assert np.abs(got - images.from_uint8(UPRIGHT)).mean() < LOSSY / 3 / 127.5
    np.testing.assert_allclose(got[4::DOT, 4::DOT], images.from_uint8(UPRIGHT)[4::DOT, 4::DOT], atol=LOSSY / 127.5)


@pytest.mark.parametrize("how", folder.CROPS)
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", WAYS)
def test_training_cuts_the_same_of_every_orientation_of_every_format(tmp_path, name, orientation, how):
  require_format(name)
  write_turned(tmp_path / name, orientation)
  Image.fromarray(UPRIGHT).save(tmp_path / "upright.png")
  fail = lambda line: pytest.fail(line)
  turned, plain = (folder.Folder(tmp_path, [n], size=24, seed=0, how=how, report=fail) for n in (name, "upright.png"))
  for i in range(4):
    difference = np.abs(turned.item(i).astype(float) - plain.item(i))
    assert difference.mean() < LOSSY / 2  # a swap of width and height gives 40 and more


def test_a_turned_tiff_is_trained_on_as_it_is_seen(tmp_path):
  """Circles that are 41 pixels wide and high must be so in the crop, not 20 by 82."""
  y, x = np.mgrid[0:192, 0:96]
  rings = (np.hypot(y - 96, x - 48) < 20.5)[..., None] * np.full(3, 255, np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(np.rot90(rings, 1).astype(np.uint8)).save(tmp_path / "a.tif", exif=exif)
  cut = folder.Folder(tmp_path, ["a.tif"], size=96, seed=0, how="resize", flip=False).item(0)[..., 0] > 128
  assert cut.any(axis=0).sum() == cut.any(axis=1).sum() == 41


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.tif"])
def test_an_orientation_that_xmp_alone_tells_is_followed_in_training_too(tmp_path, name):
  xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
  options = {"tiffinfo": {700: xmp}} if name == "a.tif" else {"xmp": xmp}
  Image.fromarray(np.ascontiguousarray(STORED[6])).save(tmp_path / name, **options, **WAYS[name])
  assert images.read(tmp_path / name).shape == UPRIGHT.shape
  Image.fromarray(UPRIGHT).save(tmp_path / "upright.png")
  turned, plain = (folder.Folder(tmp_path, [n], size=24, seed=0, how="resize") for n in (name, "upright.png"))
  assert np.abs(turned.item(0).astype(float) - plain.item(0)).mean() < LOSSY / 2


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.png"])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, name, value):
  exif = Image.Exif()
  exif[0x0112] = value
  Image.fromarray(UPRIGHT).save(tmp_path / name, exif=exif, **WAYS[name])
  assert images.read(tmp_path / name).shape == UPRIGHT.shape
  cut = folder.Folder(tmp_path, [name], size=24, seed=0, how="resize", flip=False).item(0)
  Image.fromarray(UPRIGHT).save(tmp_path / "plain.png")
  plain = folder.Folder(tmp_path, ["plain.png"], size=24, seed=0, how="resize", flip=False).item(0)
  assert np.abs(cut.astype(float) - plain).mean() < LOSSY / 2


# Folders


@pytest.fixture
def mixed(tmp_path):
  """A folder of pictures, of others that cannot be read, and of what is none."""
  pictures = tmp_path / "in"
  pictures.mkdir()
  for name in ("ok.png", "x.jfif", "still.gif", "y.jpe", "z.bmp"):
    Image.fromarray(UPRIGHT).save(pictures / name, format="JPEG" if name[2:] in ("jfif", "jpe") else None)
  for name in ("b.nef", "notes.txt", ".hidden.txt", ".hidden.png"):
    (pictures / name).write_bytes(b"x")
  (pictures / "more").mkdir()
  return pictures


READ = ["ok.png", "still.gif", "x.jfif", "y.jpe", "z.bmp"]


def test_of_a_folder_every_picture_that_is_read_when_named_is_read(mixed):
  found = images.collect([str(mixed)])
  assert [path.name for path in found] == READ
  for path in found:
    images.read(path, convert=True)
  assert folder.list_images(mixed) == READ


def test_what_a_folder_leaves_out_is_named_in_one_line(mixed, capsys):
  images.collect([str(mixed)])
  said = capsys.readouterr().err
  assert said.count("\n") == 1 and said.startswith(f"note: not read in the folder {mixed}: b.nef (a RAW file of a")
  assert said.endswith("more, notes.txt\n") and "hidden" not in said


def test_what_training_leaves_out_is_named_in_one_line(mixed):
  (mixed / "more" / "c.dng").write_bytes(b"x")
  np.save(mixed / "a.npy", np.zeros((2, 2, 3)))
  lines = []
  folder.list_images(mixed, note=lines.append)
  (line,) = lines
  assert "b.nef (a RAW" in line and f"{os.path.join('more', 'c.dng')} (a RAW" in line
  assert line.endswith("a.npy, notes.txt") and "hidden" not in line


def test_a_folder_of_pictures_alone_needs_no_line(tmp_path, capsys):
  Image.fromarray(UPRIGHT).save(tmp_path / "a.png")
  (tmp_path / ".DS_Store").write_bytes(b"x")
  images.collect([str(tmp_path)])
  folder.list_images(tmp_path, note=pytest.fail)
  assert capsys.readouterr().err == ""


def test_of_many_files_that_are_left_out_the_first_are_named_and_the_rest_counted(tmp_path):
  told = formats.left_out(tmp_path, [f"{i:03d}.txt" for i in range(100)] + ["z.cr2"])
  assert told.startswith(f"not read in the folder {tmp_path}: z.cr2 (a RAW file")
  assert "004.txt" in told and "005.txt" not in told and told.endswith(" and 95 more")


def test_a_folder_of_what_cannot_be_read_says_why(tmp_path):
  (tmp_path / "a.cr2").write_bytes(b"x")
  for collect in (lambda: images.collect([str(tmp_path)]), lambda: folder.list_images(tmp_path)):
    with pytest.raises(ValueError, match="found none; not read in the folder .*: a.cr2 .a RAW file .* develop it"):
      collect()


# Pictures that cannot be read


def box(brand, *others):
  """Return the first box of a file of the ISO base format."""
  inside = b"ftyp" + brand + bytes(4) + b"".join(others)
  return struct.pack(">I", len(inside) + 4) + inside + bytes(200)


def dng(path):
  Image.fromarray(UPRIGHT).save(path, format="TIFF", tiffinfo={50706: b"\1\4\0\0"})
  return path.read_bytes()


RAWS = {
  "preview.NEF": lambda path: Image.fromarray(UPRIGHT).save(path, format="TIFF"),  # a TIFF for all that it says
  "renamed.tif": lambda path: path.write_bytes(dng(path)),
  "a.dng": lambda path: path.write_bytes(dng(path)),
  "a.raf": lambda path: path.write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(99)),
  "renamed.jpg": lambda path: path.write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(99)),
  "a.orf": lambda path: path.write_bytes(b"IIRO" + bytes(99)),
  "a.rw2": lambda path: path.write_bytes(b"IIU\0" + bytes(99)),
  "a.cr3": lambda path: path.write_bytes(box(b"crx ", b"crx ", b"isom")),
  "canon.heic": lambda path: path.write_bytes(box(b"crx ", b"crx ", b"isom")),
}


@pytest.mark.parametrize("reader", [images.read, masks.read_mask, images.read_rgb, folder.decode])
@pytest.mark.parametrize("name", RAWS)
def test_a_raw_file_is_called_one_and_never_read_as_its_preview(tmp_path, name, reader):
  RAWS[name](tmp_path / name)
  with pytest.raises(ValueError, match=f"{name}: expected a picture that can be read, got a RAW file of a camera; dev"):
    reader(tmp_path / name)


def test_a_raw_file_that_was_developed_as_advised_is_read(tmp_path):
  assert "develop it to a PNG or TIFF of 8 bits first (16 bits need `convert`)" in formats.DEVELOP
  for name in ("a.png", "a.tif"):
    Image.fromarray(UPRIGHT).save(tmp_path / name)
    np.testing.assert_array_equal(images.read(tmp_path / name), images.from_uint8(UPRIGHT))
  Image.fromarray(UPRIGHT[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
  got = images.read(tmp_path / "deep.png", convert=True)
  np.testing.assert_array_equal(got[..., 0], images.from_uint8(UPRIGHT[..., 0]))


@pytest.mark.parametrize("name", ["a.heic", "renamed.jpg"])
@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heic_without_a_reader_is_called_so(tmp_path, monkeypatch, name, brand):
  monkeypatch.setattr(formats, "reads_heif", lambda: False)
  (tmp_path / name).write_bytes(box(brand, b"mif1", b"heic"))
  with pytest.raises(ValueError, match=rf"{name}: expected a picture .*, got HEIC, .* pip install 'diffinv\[heic\]'"):
    images.read(tmp_path / name)
  assert formats.unreadable("a.HEIC") == formats.NO_HEIF and ".heic" not in formats.endings(arrays=True)


def test_heic_is_the_name_of_an_extra():
  import configparser
  import pathlib

  config = configparser.ConfigParser()
  config.read(pathlib.Path(__file__).resolve().parent.parent / "setup.cfg", encoding="utf-8")
  assert "pillow-heif" in config["options.extras_require"]["heic"]


def test_a_picture_by_another_name_than_its_format_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, "reads_heif", lambda: False)
  Image.fromarray(UPRIGHT).save(tmp_path / "a.heic", format="PNG")
  np.testing.assert_array_equal(images.read(tmp_path / "a.heic"), images.from_uint8(UPRIGHT))


def test_avif_without_a_reader_is_called_so(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, "reads_avif", lambda: False)
  for brands in ((b"avif",), (b"mif1", b"avif", b"miaf")):
    (tmp_path / "a.avif").write_bytes(box(*brands))
    with pytest.raises(ValueError, match="a.avif: expected a picture .*, got AVIF, which this Pillow cannot read; upd"):
      images.read(tmp_path / "a.avif")
  assert formats.unreadable("a.avif") == formats.NO_AVIF


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_read_where_pillow_can(tmp_path):
  Image.fromarray(UPRIGHT).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
  np.testing.assert_allclose(images.read(tmp_path / "a.avif"), images.from_uint8(UPRIGHT), atol=LOSSY / 127.5)
  assert images.collect([str(tmp_path)]) == [tmp_path / "a.avif"] and folder.list_images(tmp_path) == ["a.avif"]
  data = (tmp_path / "a.avif").read_bytes()
  for keep in (0.05, 0.3, 0.9):
    (tmp_path / "a.avif").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match="a.avif: expected"):
      images.read(tmp_path / "a.avif")


needs_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="pillow-heif is not installed")


@needs_heif
def test_heic_is_read_where_there_is_a_reader(tmp_path):
  path = write_turned(tmp_path / "a.heic", 1)
  np.testing.assert_allclose(images.read(path), images.from_uint8(UPRIGHT), atol=LOSSY / 127.5)
  assert images.collect([str(tmp_path)]) == [path] and folder.list_images(tmp_path) == ["a.heic"]
  assert folder.Folder(tmp_path, ["a.heic"], size=24, seed=0, report=pytest.fail).item(0).shape == (24, 24, 3)
  assert "HEIF" not in Image.OPEN  # what Pillow opens elsewhere stays as it was


@needs_heif
def test_a_damaged_heic_is_an_error_that_names_it(tmp_path):
  data = write_turned(tmp_path / "a.heic", 1).read_bytes()
  for keep in (0.02, 0.05, 0.3, 0.9):
    (tmp_path / "a.heic").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match="a.heic: expected"):
      images.read(tmp_path / "a.heic")


def test_a_tiff_of_a_kind_that_is_not_read_is_not_called_no_image(tmp_path):
  tifffile = pytest.importorskip("tifffile")
  tifffile.imwrite(tmp_path / "a.tif", UPRIGHT.astype(np.float32), photometric="rgb")
  with pytest.raises(ValueError, match="a.tif: expected an image, got a TIFF of a kind that is not read.*8 or 16 bits"):
    images.read(tmp_path / "a.tif", convert=True)
  tifffile.imwrite(tmp_path / "a.tif", UPRIGHT, photometric="rgb")
  np.testing.assert_array_equal(images.read(tmp_path / "a.tif"), images.from_uint8(UPRIGHT))
  tifffile.imwrite(tmp_path / "a.tif", UPRIGHT.astype(np.uint16) * 257, photometric="rgb")
  np.testing.assert_array_equal(images.read(tmp_path / "a.tif", convert=True), images.from_uint8(UPRIGHT))
