"""Measurements of which not everything is known: what is said, what is found and what is refused."""

import contextlib
import json

import numpy as np
import pytest

import diffinv
from diffinv.apps import main
from diffinv.blind import BorderedBlur, Estimate
from diffinv.data import held_out, images
from diffinv.operators import kernels
from diffinv.studies import unknown

SIZE, BORDER, SIGMA = 64, 12, 0.02


def blurred(folder, blur, name="y"):
  """Write a photograph blurred with what lies around it, and return the sharp one."""
  x = np.asarray(held_out.held_out("photos", "validation", 2, SIZE + 2 * BORDER)[1][1])
  kernel = kernels.parse_blur(blur)
  taps = np.asarray(kernel.taps(kernels.kernel_size(kernel)))
  measured = np.asarray(diffinv.operators.blur(x.shape, taps)(x))
  measured = measured + SIGMA * np.random.default_rng(0).standard_normal(x.shape)
  inside = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
  np.save(folder / f"{name}.npy", measured[inside].astype(np.float32))
  return x[inside]


def psnr(a, b):
  return 10 * np.log10(4 / np.mean((np.clip(a, -1, 1) - b) ** 2))


def reconstruct(folder, *flags, inputs="y.npy", task="gaussian_blur"):
  places = ",".join(str(folder / name) for name in inputs.split(","))
  return main.execute(
    ["reconstruct", f"--measurement={places}", f"--task={task}", f"--output={folder / 'out'}", *flags]
  )


@pytest.mark.slow
@pytest.mark.parametrize("blur", ["gaussian:1.5", "disk:2.5", "motion:9,30"])
def test_a_blur_that_is_said_in_numbers_is_taken_off(blur, tmp_path):
  truth = blurred(tmp_path, blur)
  assert reconstruct(tmp_path, f"--blur={blur}", "--quality=fast") == 0
  restored = images.read(tmp_path / "out/y.png")
  assert restored.shape == truth.shape
  assert psnr(restored, truth) > psnr(np.load(tmp_path / "y.npy"), truth) + 1.5
  kernel = kernels.parse_blur(blur)
  found = np.load(tmp_path / "out/y-kernel.npy")
  np.testing.assert_allclose(found, kernel.taps(kernels.kernel_size(kernel)), atol=1e-6)


@pytest.mark.slow
def test_blurs_that_are_found_may_have_kernels_of_different_sizes(tmp_path, capsys, monkeypatch):
  blurs = {"a": "disk:1.5", "b": "disk:4"}
  found = iter([kernels.parse_blur(blur) for blur in blurs.values()])

  def estimate(prior, y, sigma, family, key):
    assert family == "disk" and 0.5 * SIGMA < sigma < 2 * SIGMA
    kernel = next(found)
    return Estimate(np.asarray(kernel.taps(kernels.kernel_size(kernel))), kernel, ())

  monkeypatch.setattr(unknown, "estimate_blur", estimate)
  for name, blur in blurs.items():
    blurred(tmp_path, blur, name)
  assert reconstruct(tmp_path, "--blur=disk:auto", "--quality=fast", inputs="a.npy,b.npy") == 0
  said = capsys.readouterr().err
  assert "a: blur disk:1.5" in said and "b: blur disk:4" in said
  assert [np.load(tmp_path / f"out/{name}-kernel.npy").shape[0] for name in "ab"] == [5, 11]
  got = json.loads((tmp_path / "out/results.json").read_text())
  assert all(0.5 < entry["samples"][0]["chi2"] < 1.5 for entry in got["images"])


@pytest.mark.slow
def test_a_free_kernel_that_is_found_is_written_and_drawn_and_can_be_given(tmp_path, capsys, monkeypatch):
  taps = np.asarray([[0, 1, 2], [0, 3, 1], [1, 2, 0]], np.float32) / 10
  estimate = Estimate(taps, kernels.FreeKernel(taps), ())
  monkeypatch.setattr(unknown, "estimate_blur", lambda *_: estimate)
  blurred(tmp_path, "disk:1")
  fields = ("--prior=natural", "--method=dpir", "--steps=2", "--sigma=0.05")
  assert reconstruct(tmp_path, "--blur=free:auto", *fields) == 0
  assert "y: blur free, 3 pixels across" in capsys.readouterr().err
  found = np.load(tmp_path / "out/y-kernel.npy")
  np.testing.assert_allclose(found, taps, atol=1e-6)
  assert images.read(tmp_path / "out/y-sheet.png").shape[1] > 3 * SIZE  # measurement, kernel, picture
  restored = images.read(tmp_path / "out/y.png")
  assert (
    reconstruct(tmp_path, f"--blur={tmp_path / 'out/y-kernel.npy'}", f"--output={tmp_path / 'again'}", *fields) == 0
  )
  np.testing.assert_array_equal(images.read(tmp_path / "again/y.png"), restored)


def test_a_blur_is_of_pictures_with_what_lies_beyond_their_edges():
  y = np.zeros((24, 24, 3), np.float32)
  restored = diffinv.restore(
    y, task="motion_blur", prior="natural", blur="motion:5,0", sigma=0.1, method="dpir", steps=2
  )
  operator = restored.problem.operator
  assert isinstance(operator, BorderedBlur) and operator.in_shape[1] > 24
  assert restored.picture.shape == y.shape and np.max(np.abs(restored.picture)) < 0.1


def test_a_restoration_from_python_tells_what_the_command_does(monkeypatch):
  kernel = kernels.parse_blur("disk:1.5")
  estimate = Estimate(np.asarray(kernel.taps(kernels.kernel_size(kernel))), kernel, ())
  monkeypatch.setattr(unknown, "estimate_blur", lambda *_: estimate)
  y = np.random.default_rng(0).uniform(-1, 1, (32, 32, 3)).astype(np.float32)
  fields = {"task": "gaussian_blur", "prior": "natural", "method": "dpir", "steps": 2, "sigma": 0.2}
  (said,) = diffinv.restore(y, blur="disk:auto", **fields).notes[-1:]
  assert said.startswith("the blur was estimated, and no chi2 vouches for it")
  assert diffinv.restore(y, task="denoising", prior="natural", method="mmse", sigma=0.6, num_samples=2).notes == ()


@pytest.mark.parametrize("task", ["gaussian_blur", "motion_blur"])
def test_no_blur_is_assumed_of_a_measurement(task, tmp_path, capsys):
  np.save(tmp_path / "y.npy", np.zeros((SIZE, SIZE, 3), np.float32))
  assert reconstruct(tmp_path, task=task) == 2
  said = capsys.readouterr().err
  assert "--blur or --kernel is missing" in said and "--blur=auto" in said and said.count("\n") == 1
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "fields, said",
  [
    ({"blur": "gaussian:auto", "kernel": np.ones((3, 3))}, "`blur` and `kernel` say the same"),
    ({"blur": "disk"}, "expected disk:RADIUS"),
    ({"blur": "box:3"}, "expected gaussian:STD, disk:RADIUS"),
    ({"blur": "gaussian:auto", "task": "denoising"}, "`kernel` is for deblurring"),
    ({"blur": "auto", "measurement_range": "0,2"}, "expected one of -1,1, 0,1, 0,255"),
  ],
)
def test_what_does_not_fit_a_blur_is_refused(fields, said):
  fields = {"task": "gaussian_blur", "prior": "natural", **fields}
  with pytest.raises((diffinv.errors.UsageError, ValueError), match=said):
    diffinv.restore(np.zeros((SIZE, SIZE, 3), np.float32), **fields)


def test_a_blur_to_be_found_is_no_blur_to_measure_with(tmp_path, capsys):
  images.write(tmp_path / "x.png", np.zeros((SIZE, SIZE, 3)))
  command = ["reconstruct", f"--input={tmp_path / 'x.png'}", "--task=gaussian_blur", "--blur=disk:auto"]
  assert main.execute([*command, f"--output={tmp_path / 'out'}"]) == 2
  assert "--blur=disk:auto is for --measurement" in capsys.readouterr().err


@pytest.mark.parametrize("given, scale", [("0,1", 0.5), ("0,255", 127.5)])
def test_a_measurement_in_another_range_is_doubted_and_taken_where_it_is_stated(given, scale, capsys):
  x = np.asarray(held_out.held_out("photos", "validation", 1, SIZE)[1][0])
  y = scale * (x + 0.05 * np.random.default_rng(0).standard_normal(x.shape) + 1.0)
  restore = lambda **fields: diffinv.restore(y, task="denoising", prior="natural", method="mmse", **fields)
  stated = restore(measurement_range=given, sigma=0.05)
  assert "look like" not in capsys.readouterr().err
  assert psnr(stated.picture, x) > 25
  with contextlib.suppress(ValueError):  # 255 is far beyond any picture
    restore(sigma=0.05)
  assert f"look like a picture in [{given.replace(',', ', ')}]" in capsys.readouterr().err


def test_a_picture_of_any_size_is_restored(tmp_path):
  for size in ((37, 51), (8, 9)):
    y = np.full((*size, 3), 0.25, np.float32)
    assert diffinv.restore(y, task="denoising", sigma=0.1).picture.shape == y.shape


def test_the_file_of_a_blur_is_a_path_like_any_other(tmp_path, monkeypatch):
  """At home, kept from what is written, and part of what a restoration is identified by."""
  monkeypatch.setenv("HOME", str(tmp_path))
  np.save(tmp_path / "k.npy", np.ones((3, 3)))
  np.save(tmp_path / "y.npy", np.zeros((24, 24, 3), np.float32))
  flags = ("--blur=~/k.npy", "--prior=natural", "--method=dpir", "--steps=2", "--sigma=0.1")
  assert reconstruct(tmp_path, *flags) == 0
  assert "kernel" in json.loads((tmp_path / "out/results.json").read_text())["given"]
  (tmp_path / "in").mkdir()
  (tmp_path / "k.npy").rename(tmp_path / "in/k.npy")
  assert reconstruct(tmp_path, "--blur=~/in/k.npy", f"--output={tmp_path / 'in'}", "--overwrite") == 2
  assert (tmp_path / "in/k.npy").is_file()


def test_numbers_of_a_blur_are_no_files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.save(tmp_path / "y.npy", np.zeros((24, 24, 3), np.float32))
  flags = ("--blur=motion:5,30", "--prior=natural", "--method=dpir", "--steps=2", "--sigma=0.1")
  assert reconstruct(tmp_path, *flags, f"--output={tmp_path / '30'}") == 0
