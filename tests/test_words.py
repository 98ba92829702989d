"""Tasks in plain words: what each needs, whose settings it takes, and files as other programs write them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

import diffinv
from diffinv.apps import main
from diffinv.data import formats, held_out, images
from diffinv.operators import super_resolution
from diffinv.studies import jobs, measurement, settings
from diffinv.studies.restoration import Restoration
from diffinv.studies.study import Study
from diffinv.tasks import FACTORS, TASKS, WORDS

SIZE = 24
QUICK = ("--prior=natural", "--method=dpir", "--steps=2", "--compilation_cache=")
# What each word has to be told beside the picture.
TOLD = {
  "inpaint": ("--mask={folder}/mask.png",),
  "deblur": ("--blur=gaussian:1.5",),
  "denoise": (),
  "enlarge": ("--factor=2",),
  "colorize": (),
}


@pytest.fixture
def folder(tmp_path):
  """A photograph, and what a person would have of it, made by Pillow and not by our operators."""
  x = held_out.held_out("photos", "validation", 1, SIZE)[1][0]
  photo = Image.fromarray(images.to_uint8(np.asarray(x)))
  photo.save(tmp_path / "x.png")
  hole = np.full((SIZE, SIZE), 255, np.uint8)
  hole[8:12, 4:20] = 0
  Image.fromarray(hole).save(tmp_path / "mask.png")
  Image.fromarray(np.where(hole[..., None] == 0, 255, np.asarray(photo)).astype(np.uint8)).save(
    tmp_path / "inpaint.png"
  )
  photo.filter(ImageFilter.GaussianBlur(1.5)).save(tmp_path / "deblur.png")
  photo.save(tmp_path / "denoise.png")
  photo.resize((SIZE // 2, SIZE // 2), Image.Resampling.BICUBIC).save(tmp_path / "enlarge.png")
  photo.convert("L").save(tmp_path / "colorize.png")
  return tmp_path


def run(folder, *flags):
  return main.execute(["reconstruct", f"--output={folder / 'out'}", *QUICK, *(f.format(folder=folder) for f in flags)])


def refused(folder, capsys, *flags):
  """Give flags that must be refused, and return the line that says so."""
  assert run(folder, *flags) in (1, 2)
  said = capsys.readouterr().err.splitlines()
  assert said[-1].startswith("diffinv: error: ") and not (folder / "out").exists()
  return said[-1]


def result(folder):
  return json.loads((folder / "out/results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_a_word_measures_a_photograph_as_its_task_does_and_restores_it(word, folder):
  assert run(folder, "--input={folder}/x.png", f"--task={word}", *TOLD[word]) == 0
  got = result(folder)
  assert got["task"] == word and got["noise"]["sigma"] == TASKS[WORDS[word].settings].sigma
  assert got["method"]["fields"] == {**default("dpir"), **fields("natural", "dpir", WORDS[word].settings)}
  assert 5 < got["images"][0]["samples"][0]["psnr"] < 60


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_a_word_restores_a_file_that_another_program_wrote(word, folder):
  assert run(folder, f"--measurement={{folder}}/{word}.png", f"--task={word}", *TOLD[word]) == 0
  got = result(folder)
  assert images.read(folder / f"out/{word}.png").shape == (SIZE, SIZE, 3)
  assert got["images"][0]["samples"][0]["chi2"] < 5 and 0 < got["images"][0]["noise"]["sigma"] < 0.2


def fields(prior, method, task):
  return settings.fields_for(settings.load_settings(prior), method, task)


def default(method):
  made = diffinv.METHODS[method]()
  return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


PAPERS = {
  "inpaint": "inpaint_random",
  "deblur": "motion_blur",
  "denoise": "denoising",
  "enlarge": "super_resolution",
  "colorize": "colorization",
}


def test_the_task_behind_each_word_is_this():
  assert {word: task.settings for word, task in WORDS.items()} == PAPERS


TABLE = {"dps": {"steps": 2, "default": {"scale": 0.5}, **{task: {"scale": i + 2.0} for i, task in enumerate(TASKS)}}}
GIVEN = {"inpaint": {"mask": np.ones((8, 8))}, "deblur": {"kernel": np.ones((3, 3))}}


@pytest.mark.parametrize("word, task", PAPERS.items())
def test_a_word_has_the_settings_of_its_task(word, task):
  y = np.zeros((8, 8, 1 if word == "colorize" else 3), np.float32)
  config = Restoration(
    task=word, measurement=("y",), method="dps", settings=TABLE, prior="natural", sigma=0.1, **GIVEN.get(word, {})
  )
  assert jobs.plan(config, given_y=y).method.scale == 2.0 + list(TASKS).index(task)


def test_a_comparison_gives_a_task_of_ones_own_the_settings_that_it_names():
  from diffinv.studies import compare

  own = {"mine": WORDS["denoise"], "other": TASKS["denoising"]}
  study = Study(prior="natural", data=np.zeros((8, 8, 3), np.float32), tasks=own, methods="dps", settings=TABLE)
  scales = [entrant.method.scale for entrant in compare.prepare(study, None).entrants]
  assert scales == [2.0 + list(TASKS).index("denoising"), 0.5]


@pytest.mark.parametrize("factor", FACTORS)
def test_a_picture_is_enlarged_as_super_resolution_has_it(factor):
  config = Restoration(task="enlarge", factor=factor, measurement=("y",))
  name, task = config.named_task
  shape = (5 * factor, 7 * factor, 3)
  x = jax.random.normal(jax.random.key(0), shape)
  operator = measurement.make_operator(name, task, jax.random.key(0), shape)
  np.testing.assert_array_equal(operator(x), super_resolution(shape, factor)(x))
  assert measurement.scale(task) == (factor, factor)
  y = np.zeros((5, 7, 3), np.float32)
  restored = diffinv.restore(y, task="enlarge", factor=factor, prior="natural", method="bicubic", sigma=0.1)
  assert restored.picture.shape == shape


def test_four_times_is_what_enlarge_does_where_nothing_is_said():
  assert Restoration(task="enlarge", measurement=("y",)).named_task[1] is WORDS["enlarge"]
  assert measurement.scale(WORDS["enlarge"]) == (4.0, 4.0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_gray_picture_is_colored_however_many_channels_its_file_has(mode, folder):
  with Image.open(folder / "colorize.png") as gray:
    gray.convert(mode).save(folder / "y.png")
  assert run(folder, "--measurement={folder}/y.png", "--task=colorize", "--sigma=0.01") == 0
  y = images.read(folder / "colorize.png", mode="L")
  np.testing.assert_array_equal(np.load(folder / "out/y-measurement.npy"), y)
  luminance = images.read(folder / "out/y.png") @ np.asarray([0.299, 0.587, 0.114], np.float32)
  assert np.sqrt(np.mean((luminance - y[..., 0]) ** 2)) < 0.05


# What is refused, and that what the line says to do works


@pytest.mark.parametrize("source", ["--input={folder}/x.png", "--measurement={folder}/inpaint.png"])
def test_inpainting_asks_for_a_mask(source, folder, capsys):
  said = refused(folder, capsys, source, "--task=inpaint")
  assert "--mask is missing: expected an image of the picture's size, black where pixels are to be" in said
  assert ("--mask=auto" in said) == ("measurement" in source)
  assert run(folder, source, "--task=inpaint", *TOLD["inpaint"]) == 0


@pytest.mark.parametrize("source", ["--input={folder}/x.png", "--measurement={folder}/deblur.png"])
def test_deblurring_asks_for_a_blur(source, folder, capsys):
  said = refused(folder, capsys, source, "--task=deblur")
  assert "--blur or --kernel is missing" in said and ("--blur=auto" in said) == ("measurement" in source)
  np.save(folder / "kernel.npy", np.ones((3, 3)))
  assert run(folder, source, "--task=deblur", "--kernel={folder}/kernel.npy") == 0


def test_a_factor_is_of_enlarging_alone(folder, capsys):
  flags = ("--input={folder}/x.png", "--task=super_resolution")
  said = refused(folder, capsys, *flags, "--factor=2")
  assert "--factor is of --task=enlarge, got --task=super_resolution; leave it out" in said
  assert run(folder, *flags) == 0


@pytest.mark.parametrize("factor", [5, 6, 7])
def test_another_factor_is_refused_with_those_that_there_are(factor, folder, capsys):
  said = refused(folder, capsys, "--input={folder}/x.png", "--task=enlarge", f"--factor={factor}")
  assert f"--factor: expected one of 2, 3, 4, 8, got {factor}" in said
  assert run(folder, "--input={folder}/x.png", "--task=enlarge", "--factor=3") == 0


@pytest.mark.parametrize("word", WORDS)
def test_a_comparison_names_the_task_to_give_in_place_of_a_word(word):
  with pytest.raises(diffinv.errors.UsageError, match=f"`tasks`: {word} is a word .*; give {PAPERS[word]}$"):
    Study(tasks=(word,))
  Study(tasks=(PAPERS[word],))


@pytest.mark.parametrize("word, what", [("inpaint", "mask"), ("deblur", "kernel")])
def test_a_comparison_refuses_what_it_cannot_be_told(word, what):
  with pytest.raises(diffinv.errors.UsageError, match=f"mine is for a {what} of your own"):
    Study(tasks={"mine": WORDS[word]})


# Files as they come


@pytest.mark.slow
def test_a_clean_picture_is_not_taken_for_a_noisy_one(folder):
  """Its finest details are its own: a shrunk photograph has a lot of them."""
  x = held_out.held_out("photos", "validation", 2, 64)[1]
  for i, one in enumerate(x):
    photo = Image.fromarray(images.to_uint8(np.asarray(one)))
    photo.resize((32, 32), Image.Resampling.LANCZOS).save(folder / f"y{i}.png")
    restored = diffinv.restore(folder / f"y{i}.png", task="enlarge", factor=2, method="bicubic")
    assert float(restored.problem.noise.sigma) < 0.025


@pytest.mark.slow
def test_what_a_jpeg_has_rounded_off_counts_as_noise(folder):
  """Deblurring is where too small a sigma costs most: rounding is amplified."""
  x = np.asarray(held_out.held_out("photos", "validation", 1, 64)[1][0])
  photo = Image.fromarray(images.to_uint8(x))
  photo.filter(ImageFilter.GaussianBlur(1.5)).save(folder / "y.jpg", quality=90)
  restored = diffinv.restore(folder / "y.jpg", task="deblur", blur="gaussian:1.5", quality="fast")
  assert float(restored.problem.noise.sigma) >= formats.rounding(folder / "y.jpg") > 0.01
  error = lambda a: float(np.mean((np.clip(a, -1, 1) - x) ** 2))
  assert error(restored.picture) < 0.7 * error(images.read(folder / "y.jpg"))


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_the_rounding_of_a_jpeg_is_about_its_error(quality, tmp_path):
  """Within a factor of two, over photographs; a picture of another format has none."""
  errors = []
  for x in held_out.held_out("photos", "validation", 4, 64)[1]:
    Image.fromarray(images.to_uint8(np.asarray(x))).save(tmp_path / "y.jpg", quality=quality)
    errors.append(float(jnp.mean((images.read(tmp_path / "y.jpg") - x) ** 2)))
  assert 0.5 < formats.rounding(tmp_path / "y.jpg") / np.sqrt(np.mean(errors)) < 2.0
  Image.new("RGB", (8, 8)).save(tmp_path / "y.png")
  assert formats.rounding(tmp_path / "y.png") == formats.rounding(tmp_path / "none.jpg") == 0.0
