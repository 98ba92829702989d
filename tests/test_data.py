"""Training data: pure functions of the seed and the position; files that cannot be read are named and skipped."""

import os
import threading

import numpy as np
import odd_files
import pytest
from PIL import Image

from diffinv.data import folder, held_out, images, photos


@pytest.fixture
def pictures(tmp_path):
  """A folder of 12 pictures of one color each, in two levels, one of them cut off."""
  (tmp_path / "more").mkdir()
  for i in range(12):
    pixels = np.full((24 + i, 40, 3), 20 * i, np.uint8)
    Image.fromarray(pixels).save(tmp_path / ("more" if i % 2 else ".") / f"{i:02d}.png")
  whole = (tmp_path / "04.png").read_bytes()
  (tmp_path / "04.png").write_bytes(whole[: len(whole) // 2])
  return tmp_path


def source(pictures, report=lambda line: None, **options):
  return folder.Folder(pictures, folder.list_images(pictures), size=16, seed=3, report=report, **options)


def test_items_do_not_depend_on_what_was_read_before(pictures):
  straight = [source(pictures).item(i) for i in range(30)]
  fresh = source(pictures)
  for i in (29, 3, 17, 0, 3):
    np.testing.assert_array_equal(fresh.item(i), straight[i])


@pytest.mark.parametrize("workers", (1, 3))
def test_stream_resumes_at_any_batch(pictures, workers):
  whole = list(folder.stream(source(pictures), 4, 0, 9, workers=workers))
  rest = list(folder.stream(source(pictures), 4, 5, 9, workers=workers))
  assert len(whole) == 9
  np.testing.assert_array_equal(np.stack(whole[5:]), np.stack(rest))


def test_every_pass_shows_every_readable_file(pictures):
  items = source(pictures, how="resize", flip=False)
  for start in (0, 12):
    shown = {int(np.median(items.item(start + i))) for i in range(12)}
    assert shown == {20 * i for i in range(12) if i != 4}


def test_passes_come_in_different_orders(pictures):
  items = source(pictures, how="resize", flip=False)
  first, second = ([int(np.median(items.item(start + i))) for i in range(12)] for start in (0, 12))
  assert first != second


def test_a_corrupt_file_is_named_once_and_skipped(pictures):
  lines = []
  items = source(pictures, report=lines.append)
  list(folder.stream(items, 4, 0, 9))
  assert list(items.corrupt) == ["04.png"]
  assert len(lines) == 1
  assert "04.png" in lines[0]


def test_a_folder_without_a_readable_file_is_an_error(tmp_path):
  (tmp_path / "a.png").write_bytes(b"no picture")
  items = folder.Folder(tmp_path, ["a.png"], size=16, seed=0, report=lambda line: None)
  with pytest.raises(ValueError, match="images that can be read"):
    items.item(0)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match="nowhere"):
    folder.list_images(tmp_path / "nowhere")


def test_only_regular_files_are_trained_on(tmp_path):
  odd_files.make(tmp_path, ".png")
  (tmp_path / "below").mkdir()
  odd_files.make(tmp_path / "below", ".jpg")
  with pytest.raises(ValueError, match="data: expected images"):
    folder.list_images(tmp_path)
  Image.new("RGB", (4, 4)).save(tmp_path / "below" / "whole.png")
  assert folder.list_images(tmp_path) == [os.path.join("below", "whole.png")]
  folder.fingerprint(tmp_path)


def test_what_is_no_regular_file_keeps_no_reader_waiting(tmp_path):
  for path in odd_files.make(tmp_path, ".png").values():
    for read in (folder.open_size, folder.decode):
      with pytest.raises((ValueError, OSError)):
        read(path)


def test_held_out_files_are_not_trained_on_and_keep_their_side():
  names = [f"{i}.png" for i in range(100)]
  training, kept = folder.split(names, 10)
  assert len(kept) == 10
  assert sorted(training + kept) == sorted(names)
  again = folder.split([n for n in names if n != training[0]], 10)[1]
  assert len(set(again) & set(kept)) >= 9


def test_names_that_are_no_text_are_held_out_as_others_are():
  names = [f"\udcff{i}.png" for i in range(30)]
  training, kept = folder.split(names, 10)
  assert len(kept) == 3 and sorted(training + kept) == sorted(names)


def test_a_file_that_is_not_readable_gives_its_place_among_the_held_out_to_the_next():
  names = [f"{i}.png" for i in range(40)]
  kept = folder.split(names, 4)[1]
  asked = []

  def readable(name):
    asked.append(name)
    return name != kept[0]

  training, others = folder.split(names, 4, readable)
  assert len(others) == 4 and set(kept[1:]) < set(others) and kept[0] in training
  assert len(asked) == 5  # no more are decoded than needed


@pytest.mark.parametrize("how", folder.CROPS)
@pytest.mark.parametrize("mode", ("RGB", "L"))
def test_a_crop_of_a_jpeg_is_that_of_a_png(tmp_path, how, mode):
  """On a smooth picture, whose values tell the place and the extent of a crop."""
  y, x = np.mgrid[0:300, 0:400]
  smooth = np.stack([x / 400, y / 300, (x + y) / 700], axis=-1) * 255
  picture = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
  picture.save(tmp_path / "a.png")
  picture.save(tmp_path / "a.jpg", quality=98, subsampling=0)
  png, jpeg = (folder.Folder(tmp_path, [name], size=16, seed=0, how=how) for name in ("a.png", "a.jpg"))
  for i in range(8):
    np.testing.assert_allclose(png.item(i).astype(float), jpeg.item(i).astype(float), atol=4)  # of 255; of the coding


def test_a_fault_of_a_crop_is_not_blamed_on_the_file(pictures, monkeypatch):
  def fail(*args):
    raise ValueError("a fault of the settings")

  monkeypatch.setattr(folder, "crop", fail)
  items = source(pictures)
  with pytest.raises(ValueError, match="a fault of the settings"):
    items.item(0)
  assert not items.corrupt


def test_a_jpeg_of_too_many_pixels_is_reduced_for_the_whole_and_skipped_for_its_parts(tmp_path, monkeypatch):
  Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg")
  monkeypatch.setattr(images, "MAX_PIXELS", 100 * 100)
  assert folder.Folder(tmp_path, ["a.jpg"], size=16, seed=0, how="resize").item(0).shape == (16, 16, 3)
  assert not folder.Folder(tmp_path, ["a.jpg"], size=16, seed=0, report=lambda line: None).readable("a.jpg")


def test_a_file_whose_damage_raises_what_nobody_expects_is_skipped_by_its_name(tmp_path):
  """The second page of a TIFF without its width: Pillow says TypeError."""
  page = Image.new("RGB", (20, 20))
  page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
  data = bytearray((tmp_path / "a.tif").read_bytes())
  width = b"\x00\x01\x03\x00\x01\x00\x00\x00\x14\x00"  # tag 256, a short, one of them, 20; little endian
  width = width if width in data else b"\x00\x01\x04\x00\x01\x00\x00\x00\x14\x00"
  place = data.rindex(width)
  assert data.count(width) == 2
  data[place : place + 2] = b"\xff\x7f"
  (tmp_path / "a.tif").write_bytes(data)
  Image.new("RGB", (20, 20), "red").save(tmp_path / "b.png")
  items = folder.Folder(tmp_path, ["a.tif", "b.png"], size=16, seed=0, report=lambda line: None)
  assert all(items.item(i)[0, 0, 0] == 255 for i in range(4)) and list(items.corrupt) == ["a.tif"]
  with pytest.raises(ValueError, match="a.tif: expected a whole image"):
    images.read(tmp_path / "a.tif", convert=True)


def test_random_regions_reach_from_the_size_of_the_item_to_the_whole_picture():
  boxes = np.array([folder.region(folder.item_rng(0, i), 4000, 3000, 64, "random", 0.0) for i in range(4000)])
  spans = boxes[:, 2] - boxes[:, 0]
  np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], spans)
  assert boxes[:, :2].min() >= 0 and boxes[:, 2].max() <= 4000 and boxes[:, 3].max() <= 3000
  # ln of the span is uniform from ln 64 to ln 3000: its mean has an error of 0.3 % of that distance.
  share = (np.log(spans) - np.log(64)) / np.log(3000 / 64)
  assert abs(share.mean() - 0.5) < 0.02 and share.min() < 0.01 and share.max() > 0.99
  few = np.array([folder.region(folder.item_rng(0, i), 4000, 3000, 64, "random", 2.0) for i in range(100)])
  assert (few[:, 2] - few[:, 0]).max() <= 128
  left, top, right, bottom = folder.region(folder.item_rng(0, 0), 20, 10, 64, "random", 0.0)  # smaller than an item
  assert (right - left, bottom - top) == (10, 10) and top == 0


@pytest.mark.parametrize("orientation", (1, 3, 6, 8))
def test_a_crop_of_a_turned_photograph_is_that_of_an_upright_one(tmp_path, orientation):
  y, x = np.mgrid[0:300, 0:400]
  smooth = np.stack([x / 400, y / 300, (x + y) / 700], axis=-1) * 255
  picture = Image.fromarray(smooth.astype(np.uint8))
  turns = {1: 0, 3: 180, 6: 90, 8: 270}  # that undo what a viewer does
  picture.save(tmp_path / "a.png")
  exif = Image.Exif()
  exif[0x0112] = orientation
  turned = picture.rotate(turns[orientation], expand=True)
  turned.save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
  png, jpeg = (folder.Folder(tmp_path, [name], size=16, seed=0) for name in ("a.png", "a.jpg"))
  for i in range(8):
    np.testing.assert_allclose(png.item(i).astype(float), jpeg.item(i).astype(float), atol=4)


def test_all_threads_have_work():
  """Each of them waits for all others, which can only be if none is left without a batch."""
  barrier = threading.Barrier(12, timeout=60)

  class Source:
    def items(self, start, count):
      barrier.wait()
      return np.full((count, 1, 1, 3), start, np.uint8)

  found = list(folder.stream(Source(), 1, 0, 24, workers=12))
  assert [int(v[0, 0, 0, 0]) for v in found] == list(range(24))


def test_files_that_are_known_not_to_be_readable_are_not_tried(pictures):
  lines = []
  items = source(pictures, report=lines.append, corrupt={"04.png": "cut"})
  list(folder.stream(items, 4, 0, 9))
  assert items.corrupt == {"04.png": "cut"} and not lines


def test_random_crop_of_an_image_of_the_crop_size_is_the_image():
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  cut = folder.crop(Image.fromarray(pixels), folder.region(folder.item_rng(0, 0), 16, 16, 16, "random", 2.0), 16)
  np.testing.assert_array_equal(cut, pixels)


def test_random_crops_at_full_scale_are_cut_not_resampled():
  pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
  cut = folder.crop(Image.fromarray(pixels), folder.region(folder.item_rng(0, 1), 20, 20, 16, "random", 1.0), 16)
  windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16, 3)).reshape(-1, 16, 16, 3)
  assert np.any(np.all(windows == cut, axis=(1, 2, 3)))


def test_held_out_photographs_are_not_in_the_training_set():
  assert not {photo.file for photo in photos.PHOTOS} & set(photos.HELD_OUT)
  assert all(photo.source and photo.license for photo in photos.PHOTOS)


def test_photographs_that_are_too_small_for_a_size_say_which_works():
  pytest.importorskip("skimage")
  with pytest.raises(ValueError, match="size: expected at most 512 pixels, .* got 520"):
    photos.held_out_crops(520)
  for size in (97, 128, 256, 520):
    with pytest.raises(ValueError, match=f"size: expected at most 96 pixels, .* got {size}; pass `size=96`"):
      held_out.held_out("photos", held_out.TEST, 1, size)
  assert held_out.held_out("photos", held_out.TEST, 1, 96)[1].shape == (1, 96, 96, 3)


@pytest.mark.slow
def test_photos_are_a_function_of_seed_and_index():
  pytest.importorskip("skimage")
  one, other = (photos.bundled(size=32, seed=seed) for seed in (0, 0))
  np.testing.assert_array_equal(one.item(7), other.item(7))
  assert np.any(one.item(7) != one.item(8))
  assert np.any(one.item(7) != photos.bundled(size=32, seed=1).item(7))


@pytest.mark.parametrize("augment", [0.0, 1.0])
def test_photos_are_the_same_alone_and_in_a_batch(augment):
  """Among 64 some keep their hue and some do not, and each is flipped, turned and cut by itself."""
  pytest.importorskip("skimage")
  source = photos.bundled(size=32, seed=2, augment=augment)
  found = source.items(5, 64)
  assert found.flags.c_contiguous and found.dtype == np.uint8
  np.testing.assert_array_equal(found, [source.item(5 + k) for k in range(64)])


def test_of_more_places_the_one_with_most_detail_is_cut():
  """A picture of which a quarter has detail: one of `n` places touches it unless all `n` miss."""
  rng = np.random.default_rng(0)
  picture = np.full((128, 512, 3), 128, np.uint8)
  picture[:, :128] = rng.integers(0, 256, (128, 128, 3))
  shares = []
  for candidates in (1, 2, 8):
    source = photos.Crops([(1.0, [picture])], size=16, seed=0, augment=0.0, candidates=candidates)
    shares.append(np.mean([photos.detail(crop) > 0 for crop in source.items(0, 400)]))
  missed = 1 - (128 / (512 - 16 + 1))
  wanted = [1 - missed**n for n in (1, 2, 8)]
  np.testing.assert_allclose(shares, wanted, atol=3 * 0.5 / np.sqrt(400))


def test_detail_is_the_mean_step_between_neighbors():
  ramp = np.broadcast_to((3 * np.arange(8) + 5 * np.arange(8)[:, None])[..., None], (8, 8, 3)).astype(np.uint8)
  assert photos.detail(ramp) == 3 + 5
  assert photos.detail(ramp[::-1]) == 3 + 5


def test_a_change_of_colors_is_what_it_says():
  """In double precision and pixel by pixel, of a change that leaves nothing as it was."""
  pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
  change = photos.Colors(1.3, np.array([2, 0, 1]), np.array([0.9, 1.0, 1.1]), 0.8, 0.05)
  plain = photos.Colors(1.0, np.arange(3), np.ones(3), 1.0, 0.0)
  found = photos.change_colors(pixels, [change, plain])
  x = pixels[0] / 255.0
  gray = x.mean(axis=0)
  x = (gray + (x - gray) * change.saturation)[change.order] * change.gains[:, None, None]
  wanted = 255.0 * np.clip((x - 0.5) * change.contrast + 0.5 + change.brightness, 0.0, 1.0)
  np.testing.assert_allclose(found[0].astype(np.float64), wanted, atol=0.5 + 1e-4)
  np.testing.assert_array_equal(found[1], pixels[1])


def test_pyramid_is_antialiased():
  checkers = np.indices((128, 128)).sum(0) % 2 * 255
  image = Image.fromarray(np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8))
  coarse = photos.pyramid(image, 32)[-1]
  assert coarse.shape == (32, 32, 3)
  assert coarse[4:-4, 4:-4].std() < 3  # the finest pattern there is: all of it is beyond the coarse pixels' reach
