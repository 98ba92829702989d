"""Training data: pure functions of the seed and the position; files that cannot be read are named and skipped."""

import numpy as np
import pytest
from PIL import Image

from diffinv.data import folder, photos


@pytest.fixture
def pictures(tmp_path):
  """A folder of 12 pictures of one colour each, in two levels, one of them cut off."""
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


def test_held_out_files_are_not_trained_on_and_keep_their_side():
  names = [f"{i}.png" for i in range(100)]
  training, held_out = folder.split(names, 10)
  assert len(held_out) == 10
  assert sorted(training + held_out) == sorted(names)
  again = folder.split([n for n in names if n != training[0]], 10)[1]
  assert len(set(again) & set(held_out)) >= 9


def test_random_crop_of_an_image_of_the_crop_size_is_the_image():
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  cut = folder.crop(folder.item_rng(0, 0), Image.fromarray(pixels), 16, "random", 2.0, False)
  np.testing.assert_array_equal(cut, pixels)


def test_random_crops_at_full_scale_are_cut_not_resampled():
  pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
  cut = folder.crop(folder.item_rng(0, 1), Image.fromarray(pixels), 16, "random", 1.0, False)
  windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16, 3)).reshape(-1, 16, 16, 3)
  assert np.any(np.all(windows == cut, axis=(1, 2, 3)))


def test_held_out_photographs_are_not_in_the_training_set():
  assert not {photo.file for photo in photos.PHOTOS} & set(photos.HELD_OUT)
  assert all(photo.source and photo.licence for photo in photos.PHOTOS)


def test_photos_are_a_function_of_seed_and_index():
  pytest.importorskip("skimage")
  one, other = (photos.Photos(size=32, seed=seed) for seed in (0, 0))
  np.testing.assert_array_equal(one.item(7), other.item(7))
  assert np.any(one.item(7) != one.item(8))
  assert np.any(one.item(7) != photos.Photos(size=32, seed=1).item(7))


def test_pyramid_is_antialiased():
  checkers = np.indices((128, 128)).sum(0) % 2 * 255
  image = Image.fromarray(np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8))
  coarse = photos.pyramid(image, 32)[-1]
  assert coarse.shape == (32, 32, 3)
  assert coarse[4:-4, 4:-4].std() < 3  # the finest pattern there is: all of it is beyond the coarse pixels' reach
