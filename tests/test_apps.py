"""The commands, in this process, on pictures of 16x16 pixels and chains of 4 steps."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from PIL import Image

import diffinv
from diffinv import errors, launch, memory, options
from diffinv.apps import compare, convert, evaluate, main, reconstruct, report, sample, train, tune, verify
from diffinv.baselines import BASELINES
from diffinv.data import images
from diffinv.launch import Launch
from diffinv.methods import METHODS
from diffinv.methods.unconditional import DDIM, DDPM, DPMSolver
from diffinv.metrics import image as metrics
from diffinv.nets import small
from diffinv.operators.pixels import LUMA
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Schedule
from diffinv.studies import cases as casing
from diffinv.studies import marks as marking
from diffinv.studies import runs, settings, study
from diffinv.tasks import TASKS, WORDS

MODULES = {
  "evaluate": evaluate,
  "sample": sample,
  "reconstruct": reconstruct,
  "compare": compare,
  "tune": tune,
  "report": report,
  "verify": verify,
  "convert": convert,
  "train": train,
}
OFFHAND = ("--prior=natural", "--compilation_cache=")  # nothing to load, nothing to keep
QUICK = ("--steps=4", *OFFHAND)
INPAINT = ("--task=inpaint_random", "--method=dps", "--set=scale=0.5", "--set=rule=code")
ENDS = (".png", "-mask.png", "-measurement.png", "-measurement.npy", "-sheet.png")  # files about an inpainted picture
RECORDS = ("manifest.jsonl", "results.json", "rows.jsonl", "run.json")
CHOSEN = {"rule": "code", "misfit": "likelihood"}  # algorithms of DPS in these tests
LEVEL = 1  # of 255: programs for other batches round differently, and a file shows it by one at most


def picture(number, height=16, width=16):
  """A smooth picture with all values well within a byte's range, uint8 [h, w, 3]."""
  row, column = np.mgrid[:height, :width]
  waves = [np.sin(0.3 * row + 0.2 * c * column + number + c) for c in range(3)]
  return np.round(127.5 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def save(path, pixels):
  Image.fromarray(pixels).save(path)
  return path


def load(path):
  return np.asarray(Image.open(path)).astype(int)


def results(folder):
  return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def run(command, output, *args):
  """Run a command that succeeds; return its results."""
  assert main.execute([command, f"--output={output}", *QUICK, *map(str, args)]) == 0
  return results(output)


def near(a, b, levels=LEVEL):
  """Check that two pictures of bytes differ by a few levels at most."""
  np.testing.assert_allclose(a, b, rtol=0, atol=levels)


def unit(pixels):
  return jnp.asarray(pixels, jnp.float32) / 255.0


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  """These programs run for microseconds and compile for seconds.

  Strictness is that of conftest.py, here for the fixtures of the module too: another setting is another program.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """A folder of two pictures, a and b."""
  folder = tmp_path_factory.mktemp("photos")
  for number, name in enumerate("ab"):
    save(folder / f"{name}.png", picture(number))
  return folder


@pytest.fixture(scope="module")
def inpainted(photos, tmp_path_factory):
  """One picture, inpainted: the folder that most tests compare with."""
  folder = tmp_path_factory.mktemp("inpainted") / "out"
  run("reconstruct", folder, f"--input={photos / 'a.png'}", *INPAINT, "--seed=3")
  return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  folder = tmp_path_factory.mktemp("drawn") / "out"
  run("sample", folder, "--size=16", "--num_samples=3", "--seed=5")
  return folder


# sample


def drawn_by_library(method, seed, count, steps=4):
  prior = diffinv.load_prior("natural")
  keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), i)[None] for i in range(count)])
  got, _ = diffinv.sample_batch(keys, method, prior, None, prior.schedule.grid(steps))
  return images.to_uint8(got[:, 0]).astype(int)


@pytest.mark.slow
def test_sample_writes_what_the_library_draws(drawn):
  expected = drawn_by_library(DDPM((16, 16, 3)), 5, 3)
  near(np.stack([load(drawn / f"{i}.png") for i in range(3)]), expected)
  assert np.ptp(expected) > 20 and not np.array_equal(expected[0], expected[1])
  assert sorted(os.listdir(drawn)) == sorted(["0.png", "1.png", "2.png", "grid.png", *RECORDS])


def test_sample_grid_holds_every_picture(drawn):
  grid = load(drawn / "grid.png")
  assert grid.shape == (34, 34, 3)
  for i, (top, left) in enumerate([(0, 0), (0, 18), (18, 0)]):
    np.testing.assert_array_equal(grid[top : top + 16, left : left + 16], load(drawn / f"{i}.png"))
  assert np.all(grid[18:, 18:] == 255) and np.all(grid[16:18] == 255) and np.all(grid[:, 16:18] == 255)


def test_sample_results_say_how(drawn):
  got = results(drawn)
  assert (got["command"], got["seed"], got["network_evaluations"]) == ("sample", 5, 4)
  assert got["method"]["name"] == "ddpm" and "2006.11239" in got["method"]["citation"]
  assert got["files"] == ["0.png", "1.png", "2.png"]
  assert 0 <= got["clipped_fraction"] < 1 and got["run_seconds"] > 0 and got["compile_seconds"] >= 0


def test_sample_repeats_with_its_seed(drawn, tmp_path):
  run("sample", tmp_path / "same", "--size=16", "--num_samples=3", "--seed=5")
  run("sample", tmp_path / "other", "--size=16", "--num_samples=3", "--seed=6")
  for i in range(3):
    assert (tmp_path / "same" / f"{i}.png").read_bytes() == (drawn / f"{i}.png").read_bytes()
    assert np.mean(load(tmp_path / "other" / f"{i}.png") != load(drawn / f"{i}.png")) > 0.9


@pytest.mark.slow
def test_sample_pictures_do_not_depend_on_how_many_run_at_once(drawn, tmp_path):
  run("sample", tmp_path / "out", "--size=16", "--num_samples=3", "--seed=5", "--batch_size=2")
  for i in range(3):
    near(load(tmp_path / "out" / f"{i}.png"), load(drawn / f"{i}.png"))


@pytest.mark.parametrize(
  "command, args",
  [
    ("sample", ["--size=16", "--num_samples=3"]),
    ("reconstruct", [*INPAINT, "--num_samples=3"]),
    ("compare", ["--tasks=inpaint_random", "--methods=dps,bicubic", "--num_samples=3"]),
  ],
)
def test_a_batch_may_be_what_the_memory_allows(command, args, photos, tmp_path, capsys, monkeypatch):
  """Of what fits together, three chains or six, half is all that runs at once, if the memory says so."""
  several = {"reconstruct": [f"--input={photos}"], "compare": [f"--data={photos}"], "sample": []}[command]
  run(command, tmp_path / "all", *args, *several, "--batch_size=auto")
  chains = 3 if command == "sample" else 6
  assert f"batch_size {chains}, as the memory allows" in capsys.readouterr().err
  monkeypatch.setattr(memory, "largest_batch", lambda *_, **__: 2)
  run(command, tmp_path / "few", *args, *several, "--batch_size=auto")
  assert "batch_size 2, as the memory allows" in capsys.readouterr().err


def test_processes_of_a_launch_do_not_choose_their_batches_each_by_itself(photos, tmp_path):
  class Two(launch.Team):
    count = 2

  with pytest.raises(errors.UsageError, match="`batch_size`: expected a number with `distributed`, got auto"):
    diffinv.compare(diffinv.Study(data=photos, batch_size="auto"), tmp_path / "out", team=Two())


@pytest.mark.slow
def test_ddim_is_drawn_with_its_eta(tmp_path):
  args = ("--size=16", "--num_samples=2", "--seed=5", "--sampler=ddim")
  plain = run("sample", tmp_path / "plain", *args)
  random = run("sample", tmp_path / "random", *args, "--eta=0.7")
  assert plain["method"]["fields"] == {"shape": [16, 16, 3], "eta": 0.0}
  assert random["method"]["fields"]["eta"] == 0.7
  for folder, eta in (("plain", 0.0), ("random", 0.7)):
    got = np.stack([load(tmp_path / folder / f"{i}.png") for i in range(2)])
    near(got, drawn_by_library(DDIM((16, 16, 3), eta), 5, 2))
  assert not np.array_equal(load(tmp_path / "plain" / "0.png"), load(tmp_path / "random" / "0.png"))


@pytest.mark.slow
def test_the_solver_is_drawn_with_steps_even_in_log_snr(tmp_path):
  args = ("--size=16", "--num_samples=2", "--seed=5", "--sampler=dpm_solver", "--steps=logsnr4")
  assert run("sample", tmp_path / "out", *args)["network_evaluations"] == 4
  got = np.stack([load(tmp_path / "out" / f"{i}.png") for i in range(2)])
  near(got, drawn_by_library(DPMSolver((16, 16, 3)), 5, 2, "logsnr4"))


# reconstruct --input


@pytest.mark.slow
def test_results_hold_settings_seed_and_versions(inpainted, photos):
  got = results(inpainted)
  assert got["command"] == "reconstruct" and got["task"] == "inpaint_random" and got["seed"] == 3
  settings = got["settings"]
  assert set(settings) == set(reconstruct.FLAGS) - {
    "compilation_cache",
    "overwrite",
    "restart",
    *options.options(Launch),
  }  # which no result depends on
  assert (settings["steps"], settings["input"], settings["mask"]) == ("4", [str(photos / "a.png")], None)
  assert got["method"]["name"] == "dps" and got["method"]["fields"] == CHOSEN | {"scale": 0.5}
  assert got["noise"] == {"kind": "gaussian", "sigma": 0.05}
  assert got["versions"]["jax"] == jax.__version__ and got["versions"]["numpy"] == np.__version__
  assert set(got["versions"]) == {"python", "diffinv", "jax", "jaxlib", "flax", "numpy", "pillow"}
  assert got["device"]["platform"] == "cpu" and got["device"]["used"] == 1
  assert (got["steps"], got["network_evaluations"], got["network_gradients"]) == (4, 4, 4)
  entry = got["images"][0]
  assert (entry["name"], entry["source"]) == ("a", str(photos / "a.png"))
  assert entry["shape"] == entry["measurement_shape"] == [16, 16, 3]
  assert 0 < entry["run_seconds"] <= got["run_seconds"] and got["compile_seconds"] >= 0


@pytest.mark.slow
def test_marks_are_those_of_the_written_picture(inpainted, photos):
  marks = results(inpainted)["images"][0]["samples"][0]
  restored, truth = unit(load(inpainted / "a.png")), unit(load(photos / "a.png"))
  # Rounding to bytes moves each value by at most 1/510.
  assert marks["psnr"] == pytest.approx(float(metrics.psnr(restored, truth)), abs=0.05)
  assert marks["ssim"] == pytest.approx(float(metrics.ssim(restored, truth)), abs=0.005)
  assert 5 < marks["psnr"] < 40


def test_residual_is_that_of_the_written_files(inpainted):
  marks = results(inpainted)["images"][0]["samples"][0]
  y = np.load(inpainted / "a-measurement.npy")
  kept = load(inpainted / "a-mask.png")[..., None] / 255
  x = load(inpainted / "a.png") / 127.5 - 1
  assert marks["clipped_fraction"] == 0  # so that the file holds the picture
  norm = np.linalg.norm(y - kept * x)
  assert marks["residual_norm"] == pytest.approx(norm, rel=0.01)
  assert marks["chi2"] == pytest.approx(norm**2 / (0.05**2 * 3 * kept.sum()), rel=0.02)


def test_measurement_is_the_noisy_picture_on_the_mask(inpainted, photos):
  y = np.load(inpainted / "a-measurement.npy")
  kept = load(inpainted / "a-mask.png") == 255
  assert kept.sum() == 256 - round(0.7 * 256) and y.dtype == np.float32
  assert np.all(y[~kept] == 0)
  noise = (y - (load(photos / "a.png") / 127.5 - 1))[kept]
  assert abs(noise.mean()) < 4 * 0.05 / math.sqrt(noise.size)
  assert noise.std() == pytest.approx(0.05, rel=4 / math.sqrt(2 * noise.size))
  np.testing.assert_array_equal(load(inpainted / "a-measurement.png"), images.to_uint8(y))


def test_report_is_printed(photos, tmp_path, capsys):
  got = run("reconstruct", tmp_path / "out", f"--input={photos / 'a.png'}", *INPAINT)
  marks = got["images"][0]["samples"][0]
  said = capsys.readouterr().out
  assert re.search(rf"^a +{marks['psnr']:.2f} +{marks['ssim']:.3f} +{marks['chi2']:.2f} ", said, re.M)
  assert "4 network evaluations and 4 gradients a sample" in said and str(tmp_path / "out") in said


def test_same_seed_gives_the_same_bytes(inpainted, photos, tmp_path):
  run("reconstruct", tmp_path / "same", f"--input={photos / 'a.png'}", *INPAINT, "--seed=3")
  run("reconstruct", tmp_path / "other", f"--input={photos / 'a.png'}", *INPAINT, "--seed=4")
  for name in ("a.png", "a-mask.png", "a-measurement.npy", "a-measurement.png"):
    assert (tmp_path / "same" / name).read_bytes() == (inpainted / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (inpainted / name).read_bytes()


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch(inpainted, photos, tmp_path):
  for size in (1, 2):
    run("reconstruct", tmp_path / f"{size}", f"--input={photos}", *INPAINT, "--seed=3", f"--batch_size={size}")
    assert (tmp_path / f"{size}" / "a-measurement.npy").read_bytes() == (inpainted / "a-measurement.npy").read_bytes()
    near(load(tmp_path / f"{size}" / "a.png"), load(inpainted / "a.png"))
  near(load(tmp_path / "1" / "b.png"), load(tmp_path / "2" / "b.png"))
  masks = [load(tmp_path / "2" / f"{name}-mask.png") for name in "ab"]
  assert not np.array_equal(*masks)  # each picture draws its own


def test_several_files_come_in_the_order_given(photos, tmp_path):
  a, b = photos / "a.png", photos / "b.png"
  commas = run("reconstruct", tmp_path / "commas", f"--input={b},{a}", *INPAINT, "--batch_size=1")
  repeated = run("reconstruct", tmp_path / "repeated", f"--input={b}", f"--input={a}", *INPAINT, "--batch_size=1")
  for got in (commas, repeated):
    assert [entry["name"] for entry in got["images"]] == ["b", "a"]
    assert [entry["source"] for entry in got["images"]] == [str(b), str(a)]
  assert (tmp_path / "commas" / "b.png").read_bytes() == (tmp_path / "repeated" / "b.png").read_bytes()


@pytest.mark.slow
def test_folder_of_two_sizes_keeps_each(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  for number, (name, width) in enumerate([("x", 16), ("y", 24), ("z", 16)]):
    save(folder / f"{name}.png", picture(number, width=width))
  (folder / "notes.txt").write_text("no picture")
  got = run("reconstruct", tmp_path / "out", f"--input={folder}", *INPAINT, "--batch_size=1")
  assert [(e["name"], e["shape"]) for e in got["images"]] == [
    ("x", [16, 16, 3]), ("y", [16, 24, 3]), ("z", [16, 16, 3])
  ]  # fmt: skip
  for entry in got["images"]:
    truth, restored = load(folder / f"{entry['name']}.png"), load(tmp_path / "out" / f"{entry['name']}.png")
    assert list(restored.shape) == entry["shape"]
    assert entry["samples"][0]["psnr"] == pytest.approx(float(metrics.psnr(unit(restored), unit(truth))), abs=0.05)


@pytest.mark.slow
def test_samples_and_their_mean(inpainted, photos, tmp_path):
  args = (f"--input={photos / 'a.png'}", *INPAINT, "--seed=3", "--num_samples=2")
  got = run("reconstruct", tmp_path / "out", *args)
  entry = got["images"][0]
  assert [s["file"] for s in entry["samples"]] == ["a-00.png", "a-01.png"] and entry["mean"]["file"] == "a-mean.png"
  first, second, mean = (load(tmp_path / "out" / f"a-{name}.png") for name in ("00", "01", "mean"))
  assert np.mean(first != second) > 0.9
  near(mean, (first + second) / 2, 1.01)
  near(first, load(inpainted / "a.png"))  # the first sample is that of a run of one
  truth = unit(load(photos / "a.png"))
  assert entry["mean"]["psnr"] == pytest.approx(float(metrics.psnr(unit(mean), truth)), abs=0.05)
  assert not (tmp_path / "out" / "a.png").exists()


def test_set_reaches_the_method(photos, tmp_path):
  source = f"--input={photos / 'a.png'}"
  for name, args in {
    "weak": ("--set=scale=0",),
    "weak-noisy": ("--set", "scale=0.0", "--sigma=0.5"),
    "strong": ("--set=scale=1.5",),
  }.items():
    got = run("reconstruct", tmp_path / name, source, *INPAINT, *args)
    assert got["method"]["fields"]["scale"] == (1.5 if name == "strong" else 0.0)
  # At scale 0 the measurement is not looked at.
  assert (tmp_path / "weak" / "a.png").read_bytes() == (tmp_path / "weak-noisy" / "a.png").read_bytes()
  residuals = [results(tmp_path / n)["images"][0]["samples"][0]["residual_norm"] for n in ("weak", "strong")]
  assert residuals[1] < residuals[0]


def test_settings_of_the_prior_are_the_defaults(photos, tmp_path):
  got = run("reconstruct", tmp_path / "out", f"--input={photos / 'a.png'}", "--task=inpaint_random", "--method=dps")
  shipped = settings.fields_for(settings.load_settings("natural"), "dps", "inpaint_random")
  assert shipped and got["method"]["fields"] == CHOSEN | {"scale": 0.5} | shipped


@pytest.mark.slow
def test_settings_file_gives_steps_and_fields(photos, tmp_path):
  table = {"dps": {"steps": "3", "default": {"scale": 0.25, "rule": "code"}, "inpaint_random": {"scale": 0.125}}}
  (tmp_path / "mine.json").write_text(json.dumps(table))
  args = [
    f"--input={photos / 'a.png'}",
    *INPAINT[:2],
    f"--settings={tmp_path / 'mine.json'}",
    *OFFHAND,
  ]
  assert main.execute(["reconstruct", f"--output={tmp_path / 'out'}", *args]) == 0
  got = results(tmp_path / "out")
  assert got["method"]["fields"] == CHOSEN | {"scale": 0.125}
  assert got["steps"] == got["network_evaluations"] == 3


# With next to no noise, denoising's measurement is the picture itself.
PLAIN = ("--task=denoising", "--method=dps", "--set=rule=code", "--sigma=1e-6")


@pytest.mark.slow
def test_crop_takes_the_center(tmp_path):
  pixels = picture(0, 20, 22)
  source = save(tmp_path / "a.png", pixels)
  run("reconstruct", tmp_path / "out", f"--input={source}", *PLAIN, "--size=16", "--fit=crop")
  np.testing.assert_array_equal(load(tmp_path / "out" / "a-measurement.png"), pixels[2:18, 3:19])


def test_resize_covers_and_cuts_the_center(tmp_path):
  pixels = picture(0, 32, 64)
  source = save(tmp_path / "a.png", pixels)
  run("reconstruct", tmp_path / "out", f"--input={source}", *PLAIN, "--size=16", "--fit=resize")
  halved = pixels.reshape(16, 2, 32, 2, 3).mean(axis=(1, 3))
  # Lanczos' filter is sharper than the block mean: a few levels on a picture this smooth.
  near(load(tmp_path / "out" / "a-measurement.png"), halved[:, 8:24], 6)


def test_size_is_width_by_height(tmp_path):
  source = save(tmp_path / "a.png", picture(0, 40, 40))
  got = run("reconstruct", tmp_path / "out", f"--input={source}", *INPAINT, "--size=24x16", "--fit=crop")
  assert got["images"][0]["shape"] == [16, 24, 3]
  assert load(tmp_path / "out" / "a.png").shape == (16, 24, 3)


def test_convert_lays_alpha_over_white(tmp_path):
  pixels = np.dstack([picture(0), np.full((16, 16), 51, np.uint8)])  # 20 % opaque
  source = save(tmp_path / "a.png", pixels)
  run("reconstruct", tmp_path / "out", f"--input={source}", *PLAIN, "--convert")
  near(load(tmp_path / "out" / "a-measurement.png"), 0.2 * pixels[..., :3] + 0.8 * 255)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["poisson", "none"])
def test_other_noises(photos, tmp_path, noise):
  rate = ("--rate=4",) if noise == "poisson" else ()
  args = (f"--input={photos / 'a.png'}", "--task=denoising", "--method=dps", f"--noise={noise}", *rate)
  got = run("reconstruct", tmp_path / "out", *args)
  y, truth = np.load(tmp_path / "out" / "a-measurement.npy"), load(photos / "a.png") / 127.5 - 1
  if noise == "none":
    assert got["noise"] == {"kind": "nonoise"}
    np.testing.assert_allclose(y, truth, atol=1e-6)
    assert got["images"][0]["samples"][0]["chi2"] is None  # there is no noise to compare with
    return
  assert got["noise"] == {"kind": "poisson", "rate": 4.0}
  photons = 255 * 4 * (truth + 1) / 2
  standard = (y - truth) / (2 * np.sqrt(photons) / (255 * 4))
  assert standard.std() == pytest.approx(1, rel=4 / math.sqrt(2 * y.size))


@pytest.mark.slow
def test_devices_do_not_change_the_result(inpainted, photos, tmp_path):
  args = (f"--input={photos}", *INPAINT, "--seed=3", "--devices=2")
  assert run("reconstruct", tmp_path / "out", *args)["device"]["used"] == 2
  near(load(tmp_path / "out" / "a.png"), load(inpainted / "a.png"))


@pytest.mark.slow
def test_cores_are_devices_where_they_are_asked_for(inpainted, tmp_path):
  """In a process of its own: JAX takes the number of CPU devices once."""
  if (os.cpu_count() or 1) < 2:
    pytest.skip("has one core")
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  real = (f"--measurement={inpainted / 'a-measurement.npy'}", f"--mask={inpainted / 'a-mask.png'}")
  words = [*real, f"--output={tmp_path / 'out'}", *INPAINT, "--devices=2", *OFFHAND]
  command = [sys.executable, "-m", "diffinv.apps.reconstruct", *words]
  done = subprocess.run(command, env={**environment, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert json.loads((tmp_path / "out" / "results.json").read_text())["device"]["used"] == 2


def test_a_picture_that_fails_does_not_take_the_others_with_it(photos, tmp_path, monkeypatch, capsys):
  told = iter(("NaN", None))
  monkeypatch.setattr(marking, "failure", lambda _: next(told))
  inputs = [f"--input={photos / name}" for name in ("a.png", "b.png")]
  flags = ["reconstruct", f"--output={tmp_path / 'out'}", *QUICK, *inputs, *INPAINT]
  assert main.execute(flags) == 1
  assert (
    f"dps: expected finite pictures, got NaN for a; the other pictures are in {tmp_path}" in capsys.readouterr().err
  )
  failed, restored = results(tmp_path / "out")["images"]
  assert failed["failed"] == "NaN" and "samples" not in failed and restored["samples"]
  assert not (tmp_path / "out" / "a.png").exists() and (tmp_path / "out" / "b.png").exists()
  monkeypatch.setattr(marking, "failure", lambda _: "infinity")
  assert main.execute([*flags, f"--output={tmp_path / 'none'}"]) == 1
  assert "dps: expected finite pictures, got infinity\n" in capsys.readouterr().err
  assert not (tmp_path / "none").exists()


def test_files_of_pictures_with_like_names_are_apart(photos, tmp_path):
  """Names that collide, as photographs or as photograph and what is written about another."""
  folder = tmp_path / "in"
  folder.mkdir()
  save(folder / "a.png", picture(1))
  save(folder / "a-measurement.png", picture(2))
  sources = f"--input={photos / 'a.png'},{folder}"
  got = run("reconstruct", tmp_path / "out", sources, *INPAINT, "--batch_size=1", "--set=scale=0")
  names = [entry["name"] for entry in got["images"]]
  assert len(set(names)) == 3 and names[0] == "a"
  expected = {f"{name}{end}" for name in names for end in ENDS}
  assert set(os.listdir(tmp_path / "out")) == {*expected, *RECORDS} and len(expected) == 15
  for entry in got["images"]:
    y = np.load(tmp_path / "out" / f"{entry['name']}-measurement.npy")
    near(load(tmp_path / "out" / f"{entry['name']}-measurement.png"), images.to_uint8(y), 0)


@pytest.mark.parametrize(
  "name, wanted",
  [
    (b"caf\xe9.png", "caf\N{REPLACEMENT CHARACTER}"),  # not UTF-8
    (b"back\\slash.png", "back_slash"),
    (b"x" * 240 + b".png", "x" * casing.NAME_BYTES),
    ("é".encode() * 120 + b".png", "é" * (casing.NAME_BYTES // 2)),
  ],
  ids=["no UTF-8", "backslash", "long", "long, two bytes a letter"],
)
def test_files_about_a_picture_of_any_name_can_be_written(name, wanted, tmp_path):
  source = save(tmp_path / os.fsdecode(name), picture(1))
  got = run("reconstruct", tmp_path / "out", f"--input={source}", *INPAINT, "--set=scale=0")
  assert [entry["name"] for entry in got["images"]] == [wanted]
  assert set(os.listdir(tmp_path / "out")) == {*(f"{wanted}{end}" for end in ENDS), *RECORDS}


def test_names_collide_where_files_about_pictures_would():
  def collide(one, other):
    short, long = sorted((one.casefold(), other.casefold()), key=len)
    return short == long or (long.startswith(short) and casing.derived_ending().match(long[len(short) :]) is not None)

  parts = (
    "a",
    "A",
    "b",
    "a-mean",
    "a-00",
    "a-0",
    "A-Mean",
    "a-mean-00",
    "a-denoising-x",
    "a-truth-b",
    "a-b",
    "b-sheet",
  )
  for one in parts:
    for other in parts:
      taken = casing.Names()
      taken.add(one)
      assert (other in taken) == collide(one, other), (one, other)


def test_many_pictures_are_named_at_once():
  """Each is compared with no other: forty thousand would take 800 million comparisons."""
  names = casing.Names()
  for i in range(40000):
    assert f"{i:05d}" not in names
    names.add(f"{i:05d}")


def test_names_that_become_alike_are_told_apart():
  paths = [pathlib.Path(os.fsdecode(name)) for name in (b"a\\b.png", b"a_b.png", b"A_b.png", b"\xe9.png", b"\xe8.png")]
  names = [case.name for case in casing.name_cases(paths, [(16, 16, 3)] * 5, 0)]
  assert names == ["a_b", "a_b_2", "A_b_3", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}_2"]


def test_no_file_about_a_picture_has_a_name_that_is_too_long():
  """255 bytes are what file systems take; the longest are those of `compare`, while they are written."""
  (case,) = casing.name_cases([pathlib.Path("x" * 250)], [(16, 16, 3)], 0)
  longest = runs.chain(case.name, max(TASKS, key=len), max(METHODS, key=len))
  assert len(f".{longest}.partial-{2**32}") <= 255


def test_overwrite_replaces_the_whole_folder(inpainted, photos, tmp_path):
  args = ("reconstruct", tmp_path / "out", *INPAINT, "--seed=3", "--batch_size=1")
  run(*args, f"--input={photos / 'b.png'}")
  run(*args, f"--input={photos / 'a.png'}", "--overwrite")
  assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(inpainted))
  assert (tmp_path / "out" / "a.png").read_bytes() == (inpainted / "a.png").read_bytes()
  assert os.listdir(tmp_path) == ["out"]


# reconstruct --measurement


def test_real_measurement_with_its_mask_is_restored_alike(inpainted, tmp_path):
  """The files of a simulated run, taken for a real measurement, give the same picture."""
  real = (f"--measurement={inpainted / 'a-measurement.npy'}", f"--mask={inpainted / 'a-mask.png'}")
  got = run("reconstruct", tmp_path / "out", *real, *INPAINT, "--seed=3")
  assert (tmp_path / "out" / "a-measurement.png").read_bytes() == (inpainted / "a.png").read_bytes()
  marks, simulated = got["images"][0]["samples"][0], results(inpainted)["images"][0]["samples"][0]
  assert "psnr" not in marks and "ssim" not in marks  # no truth, nothing to compare with
  assert marks["residual_norm"] == pytest.approx(simulated["residual_norm"], rel=1e-5)
  y = np.load(tmp_path / "out" / "a-measurement-measurement.npy")
  np.testing.assert_array_equal(y, np.load(inpainted / "a-measurement.npy"))


def test_what_the_mask_hides_does_not_matter(inpainted, tmp_path):
  y = np.load(inpainted / "a-measurement.npy")
  hidden = load(inpainted / "a-mask.png") == 0
  np.save(tmp_path / "y.npy", np.where(hidden[..., None], np.float32(0.9), y))
  real = (f"--measurement={tmp_path / 'y.npy'}", f"--mask={inpainted / 'a-mask.png'}")
  run("reconstruct", tmp_path / "out", *real, *INPAINT, "--seed=3")
  assert (tmp_path / "out" / "y.png").read_bytes() == (inpainted / "a.png").read_bytes()


def test_gray_mask_is_rounded_when_asked(inpainted, tmp_path):
  mask = load(inpainted / "a-mask.png")
  save(tmp_path / "gray.png", np.where(mask == 255, 200, 50).astype(np.uint8))
  real = (f"--measurement={inpainted / 'a-measurement.npy'}", f"--mask={tmp_path / 'gray.png'}", "--mask_threshold=128")
  run("reconstruct", tmp_path / "out", *real, *INPAINT, "--seed=3")
  assert (tmp_path / "out" / "a-measurement.png").read_bytes() == (inpainted / "a.png").read_bytes()
  np.testing.assert_array_equal(load(tmp_path / "out" / "a-measurement-mask.png"), mask)


@pytest.mark.slow
def test_low_resolution_measurement_is_restored_alike(photos, tmp_path):
  args = ("--task=super_resolution", "--method=dps", "--set=scale=0.5", "--seed=3")
  simulated = run("reconstruct", tmp_path / "simulated", f"--input={photos / 'a.png'}", *args)
  assert simulated["images"][0]["measurement_shape"] == [4, 4, 3]
  for ending, name in (("npy", "exact"), ("png", "bytes")):
    got = run("reconstruct", tmp_path / name, f"--measurement={tmp_path / f'simulated/a-measurement.{ending}'}", *args)
    assert got["images"][0]["shape"] == [16, 16, 3]
  expected = tmp_path / "simulated" / "a.png"
  assert (tmp_path / "exact" / "a-measurement.png").read_bytes() == expected.read_bytes()
  near(load(tmp_path / "bytes" / "a-measurement.png"), load(expected), 3)  # y itself was rounded to bytes


@pytest.mark.slow
def test_blurred_measurement_with_its_kernel_is_restored_alike(photos, tmp_path):
  args = ("--task=motion_blur", "--method=dps", "--set=scale=0.5", "--seed=3")
  run("reconstruct", tmp_path / "simulated", f"--input={photos / 'a.png'}", *args)
  files = [tmp_path / "simulated" / f"a-{name}.npy" for name in ("measurement", "kernel")]
  assert np.load(files[1]).shape == (61, 61) and np.load(files[1]).sum() == pytest.approx(1, abs=1e-5)
  run("reconstruct", tmp_path / "real", f"--measurement={files[0]}", f"--kernel={files[1]}", *args)
  near(load(tmp_path / "real" / "a-measurement.png"), load(tmp_path / "simulated" / "a.png"))
  np.save(tmp_path / "point.npy", np.pad(np.ones((1, 1)), 30))
  run("reconstruct", tmp_path / "other", f"--measurement={files[0]}", f"--kernel={tmp_path / 'point.npy'}", *args)
  assert np.any(load(tmp_path / "other" / "a-measurement.png") != load(tmp_path / "simulated" / "a.png"))


@pytest.mark.slow
def test_gray_measurement_is_of_one_channel(photos, tmp_path):
  args = ("--task=colorization", "--method=dps", "--set=scale=0.5", "--sigma=1e-6")
  run("reconstruct", tmp_path / "simulated", f"--input={photos / 'a.png'}", *args)
  gray = load(tmp_path / "simulated" / "a-measurement.png")
  near(gray, load(photos / "a.png") @ np.asarray(LUMA))
  got = run("reconstruct", tmp_path / "real", f"--measurement={tmp_path / 'simulated/a-measurement.png'}", *args)
  assert got["images"][0]["measurement_shape"] == [16, 16, 1] and got["images"][0]["shape"] == [16, 16, 3]
  near(load(tmp_path / "real" / "a-measurement.png"), load(tmp_path / "simulated" / "a.png"), 3)


# A prior of gray pictures


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
  """Return the folder of a prior of one channel, and a gray photograph."""
  folder = tmp_path_factory.mktemp("gray")
  config = small.SmallConfig(
    channels=8, multipliers=(1,), blocks=1, middle_blocks=1, embedding=16, in_channels=1, out_channels=1
  )
  params = reference_networks.random_params(checkpoint.param_shapes(config))
  prior = Prior(
    params=params,
    apply=small.apply_function(config),
    schedule=Schedule("linear", 100),
    prediction="eps",
    variance="fixed_small",
    clip=True,
    image_shape=(None, None, 1),
    size_multiple=config.size_multiple,
  )
  return checkpoint.save_prior(folder / "prior", prior, config), save(folder / "g.png", picture(0)[..., 0])


@pytest.mark.slow
def test_a_prior_of_gray_pictures_restores_them(gray, photos, tmp_path, capsys):
  prior, photo = gray
  flags = (f"--prior={prior}", "--method=ddrm", "--task=inpaint_random")
  got = run("reconstruct", tmp_path / "out", f"--input={photo}", *flags)
  assert got["images"][0]["shape"] == got["images"][0]["measurement_shape"] == [16, 16, 1]
  assert load(tmp_path / "out" / "g.png").shape == (16, 16)
  for ending in ("npy", "png"):
    real = (
      f"--measurement={tmp_path / 'out' / f'g-measurement.{ending}'}",
      f"--mask={tmp_path / 'out' / 'g-mask.png'}",
      "--sigma=0.05",
    )
    run("reconstruct", tmp_path / ending, *real, *flags)
    near(load(tmp_path / ending / "g-measurement.png"), load(tmp_path / "out" / "g.png"), 3)  # a PNG rounds y
  color = run("reconstruct", tmp_path / "color", f"--input={photos / 'a.png'}", "--convert", *flags)
  assert color["images"][0]["shape"] == [16, 16, 1]
  assert main.execute(["reconstruct", f"--output={tmp_path / 'x'}", *QUICK, f"--input={photos / 'a.png'}", *flags]) == 1
  assert "a.png: expected 8-bit grayscale, got 8-bit RGB; save it as" in capsys.readouterr().err


@pytest.mark.slow
def test_a_prior_of_gray_pictures_is_compared_with(gray, tmp_path, capsys):
  prior, photo = gray
  flags = (f"--prior={prior}", "--methods=ddrm", "--tasks=denoising", "--num_samples=2")
  run("compare", tmp_path / "out", f"--data={photo}", *flags)
  assert load(tmp_path / "out" / "pictures" / "g-denoising-ddrm-00.png").shape == (16, 16)
  assert (tmp_path / "out" / "report.html").exists()
  assert main.execute(["compare", f"--output={tmp_path / 'x'}", *QUICK, "--data=faces", *flags]) == 2
  assert "--data: expected a prior of color pictures for faces, got one of 1 channels" in capsys.readouterr().err


# help


@pytest.mark.parametrize("name", MODULES)
def test_help_lists_every_flag_with_its_default(name, capsys):
  assert main.execute([name, "--help"]) == 0
  said = " ".join(capsys.readouterr().out.split())
  assert said.startswith(MODULES[name].__doc__.split("\n")[0])
  for flag in MODULES[name].FLAGS:
    defined = MODULES[name].FLAGS[flag]
    default = defined.default
    if default in (None, []):
      shown = "not set"
    elif isinstance(default, bool):
      shown = str(default).lower()
    else:
      shown = ", ".join(default) if isinstance(default, list) else str(default)
    label = f"--[no]{flag}" if defined.boolean else f"--{flag}"
    meaning = f"{' '.join(defined.help.split())} (default: {shown})"
    assert re.search(rf" {re.escape(label)} (one of [^:]*: )?{re.escape(meaning)}", said), (label, meaning)


def test_help_lists_every_command(capsys):
  assert main.execute(["--help"]) == 0
  said = capsys.readouterr().out
  assert all(re.search(rf"^  {name} +\S", said, re.M) for name in MODULES)


def test_version_is_the_package_s(capsys):
  assert main.execute(["--version"]) == 0
  assert capsys.readouterr().out == f"diffinv {diffinv.__version__}\n"


def module(name, *args):
  """Run `python -m diffinv.apps.NAME` in a process of its own."""
  command = [sys.executable, "-m", f"diffinv.apps.{name}", *args]
  return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
  "name", ["reconstruct", *(pytest.param(n, marks=pytest.mark.slow) for n in MODULES if n != "reconstruct")]
)
@pytest.mark.slow
def test_module_is_the_command(name, capsys):
  main.execute([name, "--help"])
  done = module(name, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == capsys.readouterr().out


@pytest.mark.slow
def test_module_reports_errors_as_the_command():
  done = module("sample", "--num_sample=3")
  assert (done.returncode, done.stdout) == (2, "")
  expected = "unknown flag --num_sample; did you mean --num_samples?; see diffinv sample --help"
  assert done.stderr == f"diffinv: error: {expected}\n"


def test_every_task_and_method_is_a_choice():
  assert reconstruct.FLAGS["task"].parser.enum_values == [*WORDS, *TASKS]
  assert reconstruct.FLAGS["method"].parser.enum_values == [*METHODS, *BASELINES]
  assert study.NOISES == ("gaussian", "poisson", "none")


def test_the_list_of_commands_does_not_wait_for_jax():
  code = "import sys; from diffinv.apps import main; main.execute(['--help']); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_public_names_are_there_when_asked_for():
  assert set(diffinv.__all__) <= set(dir(diffinv))
  assert all(getattr(diffinv, name) is not None for name in diffinv.__all__)
  with pytest.raises(AttributeError, match="module 'diffinv' has no attribute 'magic'"):
    _ = diffinv.magic
