"""The set of photographs: who made them, that splits are apart, and how their pixels come about."""

import collections
import hashlib
import itertools

import numpy as np
import pytest
from PIL import Image

from diffinv.data import cache, held_out, photographs, photos
from diffinv.studies.evaluation.subject import Evaluation, Subject
from diffinv.training import data as training_data
from diffinv.training.config import TrainConfig


def pixels_of(seed, height, width):
  """Return an image of noise at several scales."""
  rng = np.random.default_rng(seed)
  coarse = [np.kron(rng.normal(size=(height // k + 1, width // k + 1, 3)), np.ones((k, k, 1))) for k in (2, 8, 32)]
  return np.clip(128 + 40 * sum(c[:height, :width] for c in coarse), 0, 255).astype(np.uint8)


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
  """Let the set be six pictures of two packages, and return the folder where they lie."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv(photographs.ROOTS, str(tmp_path))
  rows = []
  for i, (split, k) in enumerate(itertools.product(photographs.SPLITS, range(2))):
    package, file = ("one", "two")[k], f"usr/share/backgrounds/{split}{k}.png"
    path = tmp_path / package / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(i, 200 + 40 * k, 300)).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rows.append(photographs.Photograph(package, file, f"author {i}", "CC0-1.0", split, 2, 1.0, digest))
  monkeypatch.setattr(photographs, "table", lambda split=None: tuple(r for r in rows if split in (None, r.split)))
  return tmp_path


def test_every_photograph_has_an_author_and_a_license():
  table = photographs.table()
  assert len(table) >= 60 and len({(p.package, p.file) for p in table}) == len({p.sha256 for p in table}) == len(table)
  assert all(p.author and p.license and p.reduction >= 2 and 0 < p.weight <= 1 for p in table)


def test_no_author_is_in_two_splits():
  authors = collections.defaultdict(set)
  for photograph in photographs.table():
    authors[photograph.split].update(name.strip() for name in photograph.author.split(","))
  assert set(authors) == set(photographs.SPLITS)
  assert not any(authors[a] & authors[b] for a, b in itertools.combinations(photographs.SPLITS, 2))
  assert all(len(photographs.table(split)) == 8 for split in (photographs.VALIDATION, photographs.TEST))


def test_photographs_that_the_smaller_set_holds_out_are_not_trained_on():
  files = {photograph.file.rpartition("/")[2] for photograph in photographs.table(photographs.TRAINING)}
  assert not files & set(photos.HELD_OUT)


def test_the_document_has_the_table():
  document = (photographs.TABLE.parents[2] / "docs" / "photos.md").read_text(encoding="utf-8")
  rows = [line.strip("| ").split(" | ") for line in document.splitlines() if line.startswith("| `")]
  wanted = [
    (f"`{p.package}`", p.stem, p.author, p.license) for split in photographs.SPLITS for p in photographs.table(split)
  ]
  assert [(package, file.partition(".")[0], *rest) for package, file, *rest in rows] == wanted


def test_packages_that_are_missing_are_named_in_one_line(unpacked):
  (unpacked / "two" / photographs.table()[1].file).unlink()
  with pytest.raises(ValueError, match="^data: 'photographs' needs the packages two, .* docs/photos.md.*$"):
    photographs.crops(size=32, seed=0, augment=0.0, cache=cache.Cache(most=0))


def test_a_file_of_another_version_is_refused(unpacked):
  Image.fromarray(pixels_of(9, 200, 300)).save(unpacked / "one" / photographs.table()[0].file)
  with pytest.raises(ValueError, match="training0.png as one has it in docs/photos.md, got another version"):
    photographs.read(photographs.TRAINING, cache.Cache(most=0))


@pytest.mark.parametrize("linear, gray", [(True, 188), (False, 128)])
def test_light_is_averaged_not_numbers(linear, gray):
  """Half black and half white is half the light: sRGB has 188 for it."""
  checkers = np.indices((150, 70)).sum(axis=0) % 2 * 255
  found = photographs.average(np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8), 2, linear=linear)
  assert found.shape == (75, 35, 3) and set(np.unique(found)) == {gray}


@pytest.mark.parametrize("linear", [True, False])
def test_averages_of_flat_squares_are_their_values(linear):
  values = np.arange(256, dtype=np.uint8).reshape(64, 4, 1)
  large = np.pad(np.kron(values, np.ones((3, 3, 1), np.uint8)), ((0, 2), (0, 1), (0, 0)), mode="edge")
  np.testing.assert_array_equal(photographs.average(large, 3, linear=linear), values)


def test_display_averages_are_means():
  pixels = pixels_of(0, 301, 200)
  wanted = pixels[:300, :198].reshape(100, 3, 66, 3, 3).mean(axis=(1, 3))
  np.testing.assert_allclose(photographs.average(pixels, 3, linear=False), wanted, atol=0.5 + 1e-4)


@pytest.mark.parametrize("most", [0, 1])
def test_crops_are_a_function_of_seed_and_index_cached_or_not(unpacked, most):
  make = lambda seed: photographs.crops(size=32, seed=seed, augment=1.0, cache=cache.Cache(most=most))
  np.testing.assert_array_equal(
    make(0).items(3, 8),
    photographs.crops(size=32, seed=0, augment=1.0, cache=cache.Cache(unpacked / "other", most=1)).items(3, 8),
  )
  np.testing.assert_array_equal(make(0).items(3, 8)[4], make(0).item(7))
  assert np.any(make(0).items(3, 8) != make(1).items(3, 8))
  assert make(0).pictures == 2


def test_training_is_on_one_split_and_is_validated_on_another(unpacked):
  lines = []
  config = TrainConfig(
    config="photo", size=32, patch=2, multipliers=(1, 2), batch_size=4, steps=2, held_out=6, augment=0
  )
  opened = training_data.open_data(config, lines.append)
  assert [batch.shape for batch in opened.stream(0, 2)] == [(4, 32, 32, 3)] * 2
  np.testing.assert_array_equal(opened.held_out, held_out.held_out("photographs", held_out.VALIDATION, 6, 32)[1])
  assert sorted(opened.held_out_files) == sorted(p.file for p in photographs.table() if p.split != photographs.TRAINING)
  assert opened.summary == "data: 2 photographs; the validation is on 6 crops of others, by other people"
  assert len(lines) == 1 and "cache_gigabytes=0" in lines[0]


def test_a_measured_prior_says_nothing_of_a_validation_that_is_not_held(unpacked, capsys):
  training = TrainConfig(config="photo", size=32, batch_size=4, steps=1).resolved()
  subject = Subject(Evaluation(prior="photo", fit_images=4), "photo", None, training)
  assert [batch.shape for batch in subject.training_batches()] == [(4, 32, 32, 3)]
  assert "validation" not in capsys.readouterr().err


@pytest.mark.parametrize("purpose, split", [("test", "test"), ("validation", "validation"), ("denoising", "test")])
def test_held_out_crops_are_of_their_split_each_scale_without_overlap(unpacked, purpose, split):
  names, crops = held_out.held_out("photographs", purpose, 14, 32)
  assert [name[:-4] for name in names[:4]] == [f"{split}{k}-{factor}" for factor in (2, 1) for k in (0, 1)]
  assert all(name.startswith(split) for name in names) and len(set(names)) == len(names) == len(crops) == 14
  assert crops.dtype == np.float32 and crops.shape[1:] == (32, 32, 3)
  fewer = held_out.held_out("photographs", purpose, 5, 32)
  assert fewer[0] == names[:5]
  np.testing.assert_array_equal(fewer[1], crops[:5])


def test_held_out_crops_are_the_half_with_more_detail(unpacked):
  photograph = photographs.table(photographs.TEST)[0]
  flat = np.full((64, 128, 3), 100, np.uint8)
  flat[:, :64] = pixels_of(5, 64, 64)
  found = {name for name, _ in photographs._ranked(photograph, flat, 32)}
  assert {name for name in found if "-1-" in name} == {f"test0-1-{i:03d}" for i in (0, 1, 4, 5)}


def test_what_there_is_too_little_of_says_how_much_there_is(unpacked):
  with pytest.raises(
    ValueError, match="size: expected at most 100 pixels, as the smallest photograph of the test set has"
  ):
    held_out.held_out("photographs", held_out.TEST, 1, 101)
  with pytest.raises(ValueError, match="num_images: expected at most 2 crops of 64 pixels"):
    held_out.held_out("photographs", held_out.TEST, 5, 64)
