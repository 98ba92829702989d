"""What was estimated of measurements is estimated once, however often the command is given."""

import json
import signal

import numpy as np
import pytest

from diffinv import stopping
from diffinv.apps import main
from diffinv.blind import Estimate, noise_level, uneven_noise
from diffinv.operators import kernels
from diffinv.studies import restore, runs, unknown

NAMES = ("a", "b")
FIRST, BETWEEN, BEFORE_CHAINS, IN_A_CHAIN = 2, 3, 4, 5  # when it is looked whether to stop; first of all by the command


@pytest.fixture
def estimated(monkeypatch):
  """The measurements whose blur was estimated, by their first value; each has another one."""
  found = []

  def estimate(prior, y, sigma, family, key):
    found.append(round(float(y[0, 0, 0]), 2))
    kernel = kernels.parse_blur(f"disk:{1 + abs(found[-1]):.3f}")
    return Estimate(np.asarray(kernel.taps(kernels.kernel_size(kernel))), kernel, ())

  noises = iter(np.linspace(0.1, 0.4, 100, dtype=np.float32))
  monkeypatch.setattr(unknown, "estimate_blur", estimate)
  monkeypatch.setattr(noise_level, "estimate", lambda *_: noise_level.Estimate(next(noises), 0.1, 100, 0.0))
  return found


@pytest.fixture
def used(monkeypatch):
  """The noise and the kernel of every problem that was solved."""
  real, found = restore.run_chains, []

  def run_chains(job, cases, problems, *others):
    found.extend((problem.noise.sigma, np.asarray(problem.operator.kernel)) for problem in problems)
    return real(job, cases, problems, *others)

  monkeypatch.setattr(restore, "run_chains", run_chains)
  return found


def run(folder, *flags, names=NAMES, task=("--task=gaussian_blur", "--blur=disk:auto")):
  """Restore measurements whose first values are 0.5 and -0.5; return the status."""
  for name, value in zip(NAMES, (0.5, -0.5), strict=True):
    if not (folder / f"{name}.npy").exists():
      np.save(folder / f"{name}.npy", np.full((16, 16, 3), value, np.float32))
  measured = ",".join(str(folder / f"{name}.npy") for name in names)
  fixed = ("--prior=natural", "--method=dpir", "--steps=2", "--compilation_cache=", "--batch_size=1")
  options = (f"--measurement={measured}", *task, f"--output={folder / 'out'}")
  return main.execute(["reconstruct", *fixed, *options, *flags])


def stop_at(monkeypatch, number):
  """Be told to stop when it is looked for the nth time; return what undoes it."""
  real, looks = stopping.check, []

  def check():
    looks.append(None)
    if len(looks) == number:
      raise stopping.Stopped(signal.SIGTERM)

  monkeypatch.setattr(stopping, "check", check)
  return lambda: monkeypatch.setattr(stopping, "check", real)


def test_a_command_that_was_stopped_uses_what_it_found(estimated, used, tmp_path, monkeypatch, capsys):
  undo = stop_at(monkeypatch, IN_A_CHAIN)
  assert run(tmp_path) == 143
  undo()
  assert estimated == [0.5, -0.5] and (tmp_path / "out.running" / runs.FOUND).is_file()
  (first,) = used
  used.clear()
  capsys.readouterr()
  assert run(tmp_path) == 0
  assert estimated == [0.5, -0.5]
  said = capsys.readouterr().err
  assert f"a: sigma 0.1, blur disk:1.5, as it was found before; see {tmp_path / 'out.running' / runs.FOUND}" in said
  assert used[0][0] == first[0]
  np.testing.assert_array_equal(used[0][1], first[1])
  assert json.loads((tmp_path / "out" / "results.json").read_text())["images"][0]["noise"]["sigma"] == first[0]


@pytest.mark.parametrize(
  "flags, said", [(("--sigma=channels",), "sigma 0.1,0.2,0.3"), (("--noise=poisson",), "rate 0.0784, read 0.2")]
)
def test_noise_that_varies_within_a_picture_is_estimated_once(flags, said, tmp_path, monkeypatch, capsys):
  estimated = []

  def estimate(key, prior, y, kind):
    estimated.append(kind)
    theta = {"channels": [0.01, 0.04, 0.09], "brightness": [0.2, 0.04]}[kind]
    return uneven_noise.Estimate(np.asarray(theta, np.float32), np.float32(100), np.float32(0))

  monkeypatch.setattr(uneven_noise, "estimate", estimate)
  undo = stop_at(monkeypatch, FIRST + 1)
  assert run(tmp_path, *flags, names="a", task=("--task=denoising", "--method=mmse", "--steps=1")) == 143
  undo()
  capsys.readouterr()
  assert run(tmp_path, *flags, names="a", task=("--task=denoising", "--method=mmse", "--steps=1")) == 0
  assert len(estimated) == 1
  assert f"a: {said}, as it was found before; see " in capsys.readouterr().err


def test_a_stop_between_two_measurements_keeps_the_first(estimated, tmp_path, monkeypatch, capsys):
  undo = stop_at(monkeypatch, BETWEEN)
  assert run(tmp_path) == 143
  undo()
  assert "what was estimated is kept; give the same command again" in capsys.readouterr().err
  assert estimated == [0.5]
  assert run(tmp_path) == 0
  assert estimated == [0.5, -0.5]


def test_a_stop_before_anything_is_found_leaves_nothing(estimated, tmp_path, monkeypatch, capsys):
  stop_at(monkeypatch, FIRST)
  assert run(tmp_path) == 143
  assert "told to stop; nothing was written" in capsys.readouterr().err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_finished_work_is_told_without_another_estimate(estimated, tmp_path, capsys):
  assert run(tmp_path) == 0
  assert run(tmp_path) == 0
  assert estimated == [0.5, -0.5] and "nothing is done again" in capsys.readouterr().err
  lines = [json.loads(line) for line in (tmp_path / "out" / runs.FOUND).read_text().splitlines()]
  assert [line["blur"] for line in lines] == ["disk:1.5", "disk:1.5"]
  assert f'"{runs.FOUND}"' in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()


def test_another_measurement_or_option_is_estimated_anew_and_refused_without_a_trace(estimated, tmp_path, capsys):
  assert run(tmp_path, names="a") == 0
  before = (tmp_path / "out" / runs.FOUND).read_bytes()
  np.save(tmp_path / "a.npy", np.full((16, 16, 3), 0.25, np.float32))
  assert run(tmp_path, names="a") == 1
  assert run(tmp_path, "--seed=1", names="a") == 1
  assert estimated == [0.5, 0.25, 0.25] and "differs in" in capsys.readouterr().err
  assert not (tmp_path / "out.running").exists() and (tmp_path / "out" / runs.FOUND).read_bytes() == before


def test_what_does_not_change_an_estimate_may_change(estimated, tmp_path):
  assert run(tmp_path) == 0
  assert run(tmp_path, "--batch_size=2") == 0
  assert estimated == [0.5, -0.5]


def test_a_plan_that_fails_leaves_nothing(estimated, tmp_path):
  assert run(tmp_path, "--method=ddrm", "--noise=poisson") in (1, 2)
  assert run(tmp_path, "--batch_size=2", "--num_samples=2", "--method=tmpd", "--set=x=1") == 2
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "b.npy"]


def test_restart_estimates_anew_and_keeps_that(estimated, tmp_path, monkeypatch):
  undo = stop_at(monkeypatch, BEFORE_CHAINS)
  assert run(tmp_path) == 143
  undo()
  assert run(tmp_path, "--restart") == 0
  assert estimated == [0.5, -0.5, 0.5, -0.5]
  lines = [json.loads(line) for line in (tmp_path / "out" / runs.FOUND).read_text().splitlines()]
  assert [line["name"] for line in lines] == ["a", "b"] and lines[0]["sigma"] > 0.1


@pytest.mark.parametrize("torn", [False, True], ids=["a digit", "torn"])
def test_a_line_that_is_damaged_is_estimated_anew(torn, estimated, tmp_path, monkeypatch, capsys):
  undo = stop_at(monkeypatch, BEFORE_CHAINS)
  assert run(tmp_path) == 143
  undo()
  path = tmp_path / "out.running" / runs.FOUND
  text = path.read_text()
  path.write_text(text[: len(text) - 20] if torn else text.replace('"sigma": 0.1', '"sigma": 0.2', 1))
  assert run(tmp_path) == 0
  assert estimated == [0.5, -0.5, -0.5 if torn else 0.5]
  assert ("line 1 is damaged; what it holds is estimated anew" in capsys.readouterr().err) != torn
