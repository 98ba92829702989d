"""What a restoration says of its inputs: true sentences only, none about a good one, and advice that works."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffinv import noise, operators
from diffinv.apps import main
from diffinv.data import bundled
from diffinv.problems import Problem, simulate
from diffinv.studies import advice
from diffinv.studies.measurement import Given
from diffinv.tasks import TASKS

KEY = jax.random.key(0)
SIZE = 32
SIGMA = 0.05
DENOISING, BLUR, BOX = TASKS["denoising"], TASKS["motion_blur"], TASKS["inpaint_box"]


def picture(size=SIZE):
  """Return the bundled face, `[size, size, 3]`."""
  with Image.open(next(pathlib.Path(bundled.__file__).parent.glob("face.png"))) as face:
    return np.asarray(face.convert("RGB").resize((size, size)), np.float32) / 127.5 - 1.0


def detail():
  """Return a part of the bundled astronaut, `[64, 64, 3]`: one in which a kernel can be told from another."""
  with Image.open(next(pathlib.Path(bundled.__file__).parent.glob("astronaut.png"))) as whole:
    pixels = np.asarray(whole.convert("RGB").resize((192, 192)), np.float32)
  return pixels[64:128, 64:128] / 127.5 - 1.0


def told(chi2, task=DENOISING, *, count=(SIZE, SIZE, 3), real=False, kernel=None, sigma=SIGMA, found=False):
  """Return what is said of a chi2 of so many values."""
  problem = Problem(operators.identity(count), noise.Gaussian(sigma), jnp.zeros(count))
  y = np.asarray(problem.y) if real else None
  return advice.notes(problem, {"chi2": chi2}, task=task, y=y, given=Given(kernel=kernel), found=found)


@pytest.mark.parametrize("chi2", [0.1, 0.3, 0.6, 1.0, 1.4])
def test_a_good_restoration_draws_no_line(chi2):
  assert told(chi2) == told(chi2, real=True) == told(chi2, BLUR) == []


def test_a_large_chi2_is_of_the_method_where_all_else_is_known():
  (said,) = told(6.0)
  assert said.startswith("chi2 is above 5: ") and "the method is at fault" in said and "`sigma`" not in said


@pytest.mark.parametrize("task, cause", [("motion_blur", "`kernel`"), ("inpaint_box", "`mask`"), ("hdr", "`task`")])
def test_a_large_chi2_names_what_may_not_be_what_was_measured(task, cause):
  (said,) = told(6.0, TASKS[task], real=True)
  assert cause in said and "`sigma`" in said


def test_deblurring_leaves_less_to_chance_than_other_tasks():
  assert told(1.8) == [] and told(1.8, BLUR)[0].startswith("chi2 is above 1.5")


def test_a_small_chi2_is_noise_that_is_fitted_or_a_sigma_that_is_too_large():
  assert "holds noise" in told(0.01)[0] and "`sigma`" not in told(0.01)[0]
  assert "holds noise" in told(0.01, real=True)[0] and "`sigma` is larger" in told(0.01, real=True)[0]


def test_noise_that_nobody_sees_may_stay():
  assert told(0.01, sigma=0.01) == [] and told(0.01, sigma=0.05) != []


def test_few_values_scatter_and_say_little():
  few = (2, 2, 3)
  rng = np.random.default_rng(0)
  scattered = np.mean(rng.standard_normal((1000, 12)) ** 2, axis=1)
  assert np.min(scattered) < 4 * advice.TOO_SMALL
  assert all(told(float(chi2), count=few) == [] for chi2 in scattered if chi2 < 1)
  low, high = advice.limits(10**6, DENOISING)
  assert (low, high) == (advice.TOO_SMALL, advice.TOO_LARGE)


@pytest.mark.parametrize("marks", [{}, {"chi2": float("nan")}, {"chi2": float("inf")}])
def test_without_noise_there_is_nothing_to_say(marks):
  problem = Problem(operators.identity((4, 4, 3)), noise.NoNoise(), jnp.zeros((4, 4, 3)))
  assert advice.notes(problem, marks, task=DENOISING) == []


def test_a_kernel_is_not_vouched_for_by_a_chi2_of_one_if_it_was_given():
  kernel = np.ones((3, 3))
  assert told(1.0, BLUR, real=True) == told(1.0, BLUR, kernel=kernel) == []
  (said,) = told(1.0, BLUR, real=True, kernel=kernel)
  assert said.startswith("a chi2 near 1 does not vouch for `kernel`")


@pytest.mark.parametrize("chi2", [0.01, 1.0, 6.0, float("nan")])
def test_a_blur_that_was_found_is_an_estimate_whatever_chi2_is(chi2):
  *others, said = told(chi2, BLUR, real=True, found=True)
  assert said.startswith("the blur was estimated, and no chi2 vouches for it")
  assert len(others) == (chi2 not in (1.0,) and chi2 == chi2) and not any("`kernel`" in line for line in others)


def inpainted(kept, y):
  """Return what is said of a mask and a measurement."""
  problem = Problem(operators.inpainting(kept), noise.Gaussian(SIGMA), jnp.asarray(kept[..., None] * y))
  return advice.notes(problem, {"chi2": 1.0}, task=BOX, y=y, given=Given(mask=kept))


@pytest.mark.parametrize("hole", [-1.0, 0.0, 1.0])
def test_a_mask_that_keeps_one_value_looks_inverted(hole):
  kept = np.ones((8, 8))
  kept[:4, :4] = 0.0
  y = np.asarray(kept[..., None] * picture(8) + (1.0 - kept[..., None]) * hole, np.float32)
  share, inverted = inpainted(1.0 - kept, y)
  assert share == "`mask` keeps 25.0 % of the pixels" and inverted.startswith("`mask` looks inverted")
  assert inpainted(kept, y) == ["`mask` keeps 75.0 % of the pixels"]


def test_a_measurement_that_is_one_value_everywhere_says_nothing_of_its_mask():
  kept = np.ones((8, 8))
  kept[:4] = 0.0
  assert inpainted(kept, np.zeros((8, 8, 3), np.float32)) == ["`mask` keeps 50.0 % of the pixels"]


def test_a_mask_of_frequencies_is_told_in_frequencies():
  task, truth = TASKS["mri_random_x4"], jnp.asarray(picture(16))
  operator = task.make(KEY, (16, 16, 3))
  problem = simulate(KEY, operator, noise.Gaussian(SIGMA), truth)
  given = Given(mask=np.asarray(operator.mask))
  (said,) = advice.notes(problem, {"chi2": 1.0}, task=task, y=np.asarray(problem.y), given=given)
  assert re.fullmatch(r"`mask` keeps \d+\.\d % of the frequencies", said)


def test_a_sentence_stands_once_with_the_pictures_that_it_is_about():
  found = {"a": ["x", "y"], "b": ["x"], "c": [], "d": ["x"], "e": ["x"], "f": ["x"]}
  assert advice.collected(found) == ["a, b, d and 2 more: x", "a: y"]


# The command, and what it advises


def run(folder, capsys, *flags):
  """Restore; return what it notes."""
  line = ["reconstruct", "--prior=natural", "--compilation_cache=", f"--output={folder}", "--overwrite", *flags]
  assert main.execute(line) == 0
  said = [line.removeprefix("note: ") for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
  kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))["notes"]
  assert said == [re.sub(r"`(\w+)`", r"--\1", note) for note in kept]
  return said


def save(path, values):
  np.save(path, np.asarray(values, np.float32))
  return path


@pytest.fixture
def blurred(tmp_path):
  """A measurement with noise of 0.02, its kernel, and the kernel turned by 180 degrees."""
  kernel = np.zeros((15, 15))
  kernel[:8, 7], kernel[0, 7:] = np.linspace(2.0, 1.0, 8), 1.0
  kernel /= kernel.sum()
  y = operators.blur((64, 64, 3), kernel)(jnp.asarray(detail()))
  files = {"y": y + 0.02 * jax.random.normal(KEY, y.shape), "kernel": kernel, "turned": kernel[::-1, ::-1]}
  return {name: save(tmp_path / f"{name}.npy", values) for name, values in files.items()}


def test_following_the_note_about_a_kernel_ends_it(blurred, tmp_path, capsys):
  flags = ("--task=motion_blur", f"--measurement={blurred['y']}", "--quality=fast", "--sigma=0.02")
  (said,) = run(tmp_path / "out", capsys, *flags, f"--kernel={blurred['turned']}")
  assert said.startswith("y: chi2 is above 1.5: ") and "turn it by 180 degrees" in said
  (said,) = run(tmp_path / "out", capsys, *flags, f"--kernel={blurred['kernel']}")
  assert said.startswith("y: a chi2 near 1 does not vouch for --kernel")


def test_following_the_note_about_sigma_ends_it(blurred, tmp_path, capsys):
  flags = ("--task=motion_blur", f"--measurement={blurred['y']}", f"--kernel={blurred['kernel']}")
  (said,) = run(tmp_path / "out", capsys, *flags, "--method=total_variation", "--sigma=0.2")
  assert said.startswith("y: chi2 is below 0.05: ") and said.endswith("--sigma is larger than the noise is: lower it")
  (said,) = run(tmp_path / "out", capsys, *flags, "--method=total_variation", "--sigma=0.02")
  assert said.startswith("y: a chi2 near 1 does not vouch for --kernel")


def test_following_the_note_about_a_method_ends_it(tmp_path, capsys):
  Image.fromarray(np.round(127.5 * (detail() + 1.0)).astype(np.uint8)).save(tmp_path / "photo.png")
  flags = ("--task=colorization", f"--input={tmp_path / 'photo.png'}", "--sigma=0.02")
  (said,) = run(tmp_path / "out", capsys, *flags, "--method=ddrm")
  assert said.startswith("photo: chi2 is above 5: ") and said.endswith("try another --method or --quality")
  assert run(tmp_path / "out", capsys, *flags, "--method=diffpir") == run(tmp_path / "out", capsys, *flags) == []


def test_following_the_note_about_a_mask_ends_it(tmp_path, capsys):
  kept = np.ones((SIZE, SIZE), np.uint8)
  kept[8:20, 8:20] = 0
  y = np.round(127.5 * (picture() + 1.0)).astype(np.uint8) * kept[..., None]
  Image.fromarray(y).save(tmp_path / "y.png")
  flags = ("--task=inpaint_box", f"--measurement={tmp_path / 'y.png'}", "--method=biharmonic", "--sigma=0.05")
  mask = tmp_path / "mask.png"
  Image.fromarray(255 * (1 - kept)).save(mask)
  share, inverted = run(tmp_path / "out", capsys, *flags, f"--mask={mask}")
  assert share == "y: --mask keeps 14.1 % of the pixels" and "swap its black and white" in inverted
  Image.fromarray(255 * kept).save(mask)
  said = run(tmp_path / "out", capsys, *flags, f"--mask={mask}")
  assert said[0] == "y: --mask keeps 85.9 % of the pixels" and not any("inverted" in line for line in said)


def test_following_the_note_about_noise_ends_it(tmp_path, capsys):
  y = save(tmp_path / "y.npy", picture() + 0.1 * np.random.default_rng(0).standard_normal((SIZE, SIZE, 3)))
  flags = ("--task=denoising", f"--measurement={y}")
  (said,) = run(tmp_path / "out", capsys, *flags, "--sigma=0.1", "--method=pseudo_inverse")
  assert "holds noise" in said and "try another --method" in said
  assert run(tmp_path / "out", capsys, *flags, "--sigma=0.1", "--method=total_variation") == []
  assert run(tmp_path / "out", capsys, *flags, "--sigma=0.1") == []


def test_the_help_explains_chi2_and_the_kernel(capsys):
  assert main.execute(["reconstruct", "--help"]) == 0
  said = " ".join(capsys.readouterr().out.split())
  assert "chi2 is the misfit to the measurement in units of its noise" in said
  assert "true convolution" in said and "centered on its middle" in said and "reflected edges" in said
