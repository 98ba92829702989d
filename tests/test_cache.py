"""What is kept on the disk is made once, never a part, and never more than is allowed."""

import concurrent.futures
import os
import threading

import numpy as np
import pytest
from PIL import ExifTags, Image

from diffinv import files
from diffinv.data import cache, folder, images

KILOBYTE = 1e-6  # gigabytes


def numbers(seed, count=100):
  return np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)


def kept(place):
  return sorted(path.name for path in place.iterdir())


def never():
  raise AssertionError("made twice")


def test_an_array_is_made_once_for_all_processes(tmp_path):
  np.testing.assert_array_equal(cache.Cache(tmp_path / "c").array("a", lambda: numbers(1)), numbers(1))
  found = cache.Cache(tmp_path / "c").array("a", never)
  np.testing.assert_array_equal(found, numbers(1))
  assert isinstance(found, np.memmap) and not found.flags.writeable


def test_threads_that_ask_at_once_make_it_once(tmp_path):
  made, both = [], threading.Barrier(4)

  def ask(_):
    both.wait()
    return cached.array("a", lambda: made.append(1) or numbers(1))

  cached = cache.Cache(tmp_path)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(ask, range(4)))
  assert len(made) == 1
  np.testing.assert_array_equal(found, [numbers(1)] * 4)


def test_what_was_not_used_for_longest_goes_first(tmp_path):
  for age, name in enumerate("abc"):
    cache.Cache(tmp_path, most=1 * KILOBYTE).array(name, lambda: numbers(1))
    os.utime(tmp_path / f"{name}{cache.SUFFIX}", (1000 - age, 1000 - age))
  cache.Cache(tmp_path, most=1 * KILOBYTE).array("b", never)  # used now
  cache.Cache(tmp_path, most=1 * KILOBYTE).array("d", lambda: numbers(1, 400))
  assert kept(tmp_path) == [f"{name}{cache.SUFFIX}" for name in "abd"]


@pytest.mark.parametrize("most, left", [(0, 0), (0.5, 0), (3, 2)])
def test_what_has_no_room_is_made_and_not_kept(tmp_path, most, left):
  """This process uses all that it keeps, so that nothing of it makes room."""
  cached = cache.Cache(tmp_path, most=most * KILOBYTE)
  for seed in range(5):
    np.testing.assert_array_equal(cached.array(f"{seed}", lambda s=seed: numbers(s, 1000)), numbers(seed, 1000))
  assert len(kept(tmp_path)) == left
  assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= most * 1000


@pytest.mark.parametrize("damage", [lambda data: data[:150], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
  cache.Cache(tmp_path).array("a", lambda: numbers(1))
  entry = tmp_path / f"a{cache.SUFFIX}"
  entry.write_bytes(damage(entry.read_bytes()))
  np.testing.assert_array_equal(cache.Cache(tmp_path).array("a", lambda: numbers(1)), numbers(1))
  np.testing.assert_array_equal(cache.Cache(tmp_path).array("a", never), numbers(1))


def test_a_disk_that_refuses_makes_it_slower_and_not_wrong(tmp_path, monkeypatch):
  def refuse(path, array):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(files, "write_array", refuse)
  cached = cache.Cache(tmp_path)
  for seed in (1, 2):
    np.testing.assert_array_equal(cached.array("a", lambda s=seed: numbers(s)), numbers(seed))


def test_what_is_no_entry_is_left_alone(tmp_path):
  theirs = ("letter.txt", "array.npy", f".array.npy{files.PARTIAL}1", f"folder{cache.SUFFIX}")
  for name in theirs[:-1]:
    (tmp_path / name).write_bytes(b"mine" * 1000)
  (tmp_path / theirs[-1]).mkdir()
  cached = cache.Cache(tmp_path, most=2 * KILOBYTE)
  for seed in range(3):
    cached.array(f"{seed}", lambda: numbers(1, 1000))
  assert set(theirs) <= set(kept(tmp_path))


def test_a_line_says_where_before_the_first_array_is_written(tmp_path):
  lines = []
  cached = cache.Cache(tmp_path / "c", most=2, note=lambda line: lines.append((line, (tmp_path / "c").exists())))
  for seed in (1, 2):
    cached.array(f"{seed}", lambda: numbers(1))
  assert lines == [(f"note: decoded pictures are kept in {tmp_path}/c, at most 2 GB", False)]


def test_the_folder_is_that_of_the_system(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  cache.Cache().array("a", lambda: numbers(1))
  assert kept(tmp_path / "diffinv") == [f"a{cache.SUFFIX}"]


KINDS = {
  "color.jpg": {"mode": "RGB"},
  "gray.jpg": {"mode": "L"},
  "turned.jpg": {"mode": "RGB", "turned": 6},
  "print.jpg": {"mode": "CMYK"},
  "color.png": {"mode": "RGB"},
  "glass.png": {"mode": "RGBA"},
  "palette.png": {"mode": "P"},
}


@pytest.mark.parametrize("how", folder.CROPS)
@pytest.mark.parametrize("name", KINDS)
def test_items_of_a_folder_are_the_same_cached_or_not(tmp_path, monkeypatch, name, how):
  monkeypatch.setattr(folder, "LEAST_CACHED", 1)
  monkeypatch.setattr(images, "read_rgb", lambda path, read=images.read_rgb, **_: decoded.append(path) or read(path))
  decoded, kind = [], KINDS[name]
  pixels = np.kron(numbers(1, 40 * 70 * 3).reshape(40, 70, 3), np.ones((8, 8, 1), np.uint8))
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = kind.get("turned", 1)
  (tmp_path / "data").mkdir()
  Image.fromarray(pixels).convert(kind["mode"]).save(tmp_path / "data" / name, exif=exif)

  def items(cached):
    source = folder.Folder(tmp_path / "data", [name], size=32, seed=0, how=how, cache=cached)
    return source.items(0, 24)

  plain = items(None)
  for _ in range(2):
    np.testing.assert_array_equal(items(cache.Cache(tmp_path / "cache")), plain)
  np.testing.assert_array_equal(items(cache.Cache(most=0)), plain)
  assert kept(tmp_path / "cache")
  decoded.clear()
  items(cache.Cache(tmp_path / "cache"))
  assert not decoded


def test_a_picture_that_changes_is_decoded_again(tmp_path, monkeypatch):
  monkeypatch.setattr(folder, "LEAST_CACHED", 1)
  (tmp_path / "data").mkdir()
  for value in (10, 200):
    Image.new("RGB", (64, 64), (value,) * 3).save(tmp_path / "data" / "a.png")
    source = folder.Folder(tmp_path / "data", ["a.png"], size=32, seed=0, cache=cache.Cache(tmp_path / "cache"))
    assert np.all(source.item(0) == value)
