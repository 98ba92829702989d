"""`diffinv compare` and `diffinv tune`: fair, resumable, and blind to the truth; 16x16 pictures, chains of 4 steps."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_perceptual
from PIL import Image

from diffinv import output, priors
from diffinv.apps import main
from diffinv.data import images
from diffinv.metrics import image as metrics
from diffinv.metrics import perceptual
from diffinv.schedules import Schedule
from diffinv.studies import chains as bench
from diffinv.studies import compare, identity, runs, settings, summary
from diffinv.studies import tune as tuning
from diffinv.tasks import TASKS

OFFHAND = ("--prior=natural", "--compilation_cache=")  # nothing to load, nothing to keep
QUICK = ("--steps=4", *OFFHAND, "--report=false")
TIMES = ("seconds", "compile_seconds")


def picture(number, size=16):
  """A smooth picture with all values well within a byte's range, uint8 [h, w, 3]."""
  row, column = np.mgrid[:size, :size]
  waves = [np.sin(0.3 * row + 0.2 * c * column + number + c) for c in range(3)]
  return np.round(127.5 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """A folder of three pictures."""
  folder = tmp_path_factory.mktemp("photos")
  for number, name in enumerate("abc"):
    Image.fromarray(picture(number)).save(folder / f"{name}.png")
  return folder


def run(output, *args):
  """Compare; return the results and what was printed."""
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    assert main.execute(["compare", f"--output={output}", *QUICK, *map(str, args)]) == 0
  return json.loads((pathlib.Path(output) / "results.json").read_text()), said.getvalue()


def load(path):
  return np.asarray(Image.open(path)).astype(int)


def pixels(folder):
  """Return the bytes of every picture by name."""
  return {path.name: path.read_bytes() for path in sorted((folder / "pictures").iterdir())}


def timeless(folder):
  """Return the rows without what differs from run to run, by what they are about."""
  return {
    runs.COMPARISON.key(row): {name: value for name, value in row.items() if name not in TIMES}
    for row in runs.read_rows(folder)
  }


@pytest.fixture(scope="module")
def compared(photos, tmp_path_factory):
  """Return the folder, its results and what was printed: one picture, one sample."""
  folder = tmp_path_factory.mktemp("compared") / "out"
  flags = ["--tasks=inpaint_random,denoising", "--methods=sdedit,dps", "--seed=3", "--set=dps.scale=0.5"]
  return folder, *run(folder, f"--data={photos / 'a.png'}", *flags, "--set=sdedit.keep_known=true")


@pytest.fixture(scope="module")
def sampled(photos, tmp_path_factory):
  """Three pictures, three samples each, in chunks of one picture."""
  folder = tmp_path_factory.mktemp("sampled") / "out"
  flags = ["--tasks=inpaint_random", "--methods=diffpir,ddrm", "--num_samples=3", "--batch_size=4", "--frames=3"]
  return folder, *run(folder, f"--data={photos}", *flags)


@pytest.mark.slow
def test_pairs_of_opposite_noise(sampled, photos, tmp_path):
  """The first of a pair is the sample of before; one pair has a mean, but no spread, neither in rows nor on a page."""
  flags = ["--tasks=inpaint_random", "--methods=diffpir", "--num_samples=2", "--antithetic", "--batch_size=4"]
  folder = tmp_path / "out"
  _, _ = run(folder, f"--data={photos}", *flags, "--report=true")
  got, before = pixels(folder), pixels(sampled[0])
  name = "a-inpaint_random-diffpir"
  first, second, mean = (load(folder / "pictures" / f"{name}-{which}.png") for which in ("00", "01", "mean"))
  assert got[f"{name}-00.png"] == before[f"{name}-00.png"] and got[f"{name}-01.png"] != before[f"{name}-01.png"]
  np.testing.assert_allclose(mean, (first + second) / 2, rtol=0, atol=1.01)
  assert f"{name}-std.npy" in before and f"{name}-std.npy" not in got
  for row in runs.read_rows(folder):
    assert "mean_psnr" in row and not {"crps", "coverage"} & set(row)
  page = (folder / "report.html").read_text()
  assert "in pairs of opposite noise" in page and 'value="mean"' in page and 'value="spread"' not in page


@pytest.mark.slow
def test_every_method_runs_on_every_task(compared, photos):
  folder, got, _ = compared
  assert [(r["task"], r["method"], r["skipped"] is None) for r in got["runs"]] == [
    ("inpaint_random", "sdedit", True),
    ("inpaint_random", "dps", True),
    ("denoising", "sdedit", False),
    ("denoising", "dps", True),
  ]
  truth = metrics.to_unit(jnp.asarray(images.read(photos / "a.png")))
  for entry in got["runs"]:
    if entry["skipped"]:
      assert "keep_known re-imposes observed pixels" in entry["skipped"] and entry["images"] == []
      continue
    row = entry["images"][0]
    restored = images.read(folder / "pictures" / f"a-{entry['task']}-{entry['method']}-00.png")
    assert row["psnr"][0] == pytest.approx(float(metrics.psnr(metrics.to_unit(jnp.asarray(restored)), truth)), abs=0.05)
    assert row["ssim"][0] == pytest.approx(float(metrics.ssim(metrics.to_unit(jnp.asarray(restored)), truth)), abs=5e-3)
    assert (entry["steps"], entry["gradients"]) == (4, 4 if entry["method"] == "dps" else 0)
    assert row["seconds"] > 0 and row["peak_bytes"] > 0
  assert {task["name"]: task["noise"]["sigma"] for task in got["tasks"]} == {
    name: TASKS[name].sigma for name in ("inpaint_random", "denoising")
  }
  assert np.array_equal(load(folder / "pictures" / "a-truth.png"), load(photos / "a.png"))


def test_rows_are_in_the_folder_as_they_were_streamed(compared):
  folder, got, _ = compared
  rows = runs.read_rows(folder)
  assert len(rows) == 3 and rows == [row for entry in got["runs"] for row in entry["images"]]
  assert got["summary"] == json.loads(json.dumps(summary.summarize(runs.read_plan(folder), rows)))
  assert not folder.with_name("out.running").exists() and not (folder / output.LOCK).exists()


def test_compare_restores_what_reconstruct_does(compared, photos, tmp_path):
  flags = [
    "--task=inpaint_random",
    "--method=dps",
    "--set=scale=0.5",
    "--seed=3",
    "--steps=4",
    *OFFHAND,
  ]
  assert main.execute(["reconstruct", f"--output={tmp_path / 'r'}", f"--input={photos / 'a.png'}", *flags]) == 0
  for mine, theirs in (("a-inpaint_random-dps-00", "a"), ("a-inpaint_random-measurement", "a-measurement")):
    one, other = load(compared[0] / "pictures" / f"{mine}.png"), load(tmp_path / "r" / f"{theirs}.png")
    np.testing.assert_allclose(one, other, atol=1)  # programs for other batches round differently


def test_the_table_has_the_means_and_the_costs(compared):
  folder, got, said = compared
  lines = said.splitlines()
  titles = "task method PSNR dB SSIM chi2 seconds evaluations gradients MB"
  assert " ".join(lines[0].split()) == titles
  for line, entry, summed in zip(lines[1:5], got["runs"], got["summary"]):
    if entry["skipped"]:
      assert line.split() == ["denoising", "sdedit", *"-------"]
      assert f"denoising: {entry['skipped']}" in lines
      continue
    marks = [f"{summed['psnr']['mean']:.2f}", f"{summed['ssim']['mean']:.3f}", f"{summed['chi2']['mean']:.2f}"]
    seconds, memory = f"{summed['seconds']['mean']:.2f}", f"{summed['peak_bytes'] / 1e6:.0f}"
    counts = [str(entry["evaluations"]), str(entry["gradients"])]
    assert line.split() == [entry["task"], entry["method"], *marks, seconds, *counts, memory]


def test_the_sheet_shows_the_pictures(compared):
  """Every picture of 16 pixels is on the sheet, each pixel repeated 14 times."""
  folder = compared[0]
  canvas = load(folder / "sheet.png")
  names = ("truth", "inpaint_random-dps-00", "inpaint_random-sdedit-00", "denoising-dps-00", "denoising-measurement")
  for name in names:
    wanted = np.kron(load(folder / "pictures" / f"a-{name}.png"), np.ones((14, 14, 1), int))
    assert find(canvas, wanted), name


@pytest.mark.slow
def test_a_method_that_no_task_suits_has_no_column(photos, tmp_path):
  sizes = []
  for methods in ("ddrm", "mmse,ddrm", "dps,ddrm"):
    run(tmp_path / methods, f"--data={photos / 'a.png'}", "--tasks=inpaint_random", f"--methods={methods}")
    sizes.append(load(tmp_path / methods / "sheet.png").shape)
  alone, beside, two = sizes
  assert alone == beside and two[0] == alone[0] and two[1] > alone[1]


def find(canvas, wanted):
  """Tell whether an array is a window of another, [h, w, c]."""
  height, width = wanted.shape[:2]
  tops, lefts = np.nonzero(np.all(canvas[: 1 - height, : 1 - width] == wanted[0, 0], axis=-1))
  return any(np.array_equal(canvas[i : i + height, j : j + width], wanted) for i, j in zip(tops, lefts))


def test_several_samples_have_a_mean_a_spread_and_a_coverage(sampled):
  folder, got, said = sampled
  for entry in got["runs"]:
    for row in entry["images"]:
      name = f"{row['image']}-inpaint_random-{entry['method']}"
      samples = [images.read(folder / "pictures" / f"{name}-{k:02d}.png") for k in range(3)]
      mean = images.read(folder / "pictures" / f"{name}-mean.png")
      np.testing.assert_allclose(mean, np.mean(samples, axis=0), atol=0.01)
      spread = np.load(folder / "pictures" / f"{name}-std.npy")
      np.testing.assert_allclose(spread, np.std(samples, axis=0, ddof=1), atol=0.01)
      assert len(row["psnr"]) == 3 and row["mean_psnr"] > max(row["psnr"]) - 1
      assert row["coverage"]["levels"] == [0.5] and 0 < row["coverage"]["empirical"][0] < 1 and row["crps"] > 0
      chain = load(folder / "pictures" / f"{name}-chain.png")
      assert chain.shape == (16, 3 * 16, 3)
      np.testing.assert_allclose(chain[:, 32:], load(folder / "pictures" / f"{name}-00.png"), atol=1)
  assert "±" in said and "PSNR of mean  SSIM of mean" in said
  assert [path.name for path in sorted(folder.glob("*-sheet.png"))] == ["a-sheet.png", "b-sheet.png", "c-sheet.png"]


@pytest.mark.slow
def test_one_method_may_take_other_steps(photos, tmp_path):
  flags = ["--tasks=denoising", "--methods=ddrm,dps", "--set=dps.steps=6", "--set=dps.scale=0.5"]
  got, _ = run(tmp_path / "out", f"--data={photos / 'a.png'}", *flags)
  assert [(entry["steps"], entry["evaluations"]) for entry in got["runs"]] == [(4, 4), (6, 6)]
  assert got["runs"][1]["fields"]["scale"] == 0.5 and "steps" not in got["runs"][1]["fields"]


@pytest.mark.slow
def test_a_method_that_fails_ends_nothing(photos, tmp_path):
  """Steps of 1e12 leave the finite numbers: the rows say so, the other method goes on, no picture is written."""
  flags = ["--tasks=denoising", "--methods=dps,ddrm", "--set=dps.scale=1e12", "--set=dps.rule=squared"]
  got, said = run(tmp_path / "out", f"--data={photos}", *flags, "--report=true")
  failed, whole = got["runs"]
  reason = "NaN or infinity in 1 of 1 chains; its steps are too large, lower them"
  assert [row["failed"] for row in failed["images"]] == [reason] * 3
  assert not any("psnr" in row for row in failed["images"]) and all("psnr" in row for row in whole["images"])
  assert [(entry["count"], entry["failed"]) for entry in got["summary"]] == [(0, 3), (3, 0)]
  assert not list((tmp_path / "out" / "pictures").glob("*dps*"))
  assert f"denoising: dps failed on 3 of 3 pictures, which its means leave out: {reason}" in said
  assert reason in (tmp_path / "out" / "report.html").read_text()


def test_all_methods_get_the_same_measurement_and_no_two_pictures_do(photos, tmp_path, monkeypatch):
  restore, given = bench.restore, {}

  def watched(keys, method, prior, problems, *args, **more):
    given[method.name] = [jax.random.key_data(jnp.stack(keys)), *problems]
    return restore(keys, method, prior, problems, *args, **more)

  monkeypatch.setattr(bench, "restore", watched)
  run(tmp_path / "out", f"--data={photos}", "--tasks=inpaint_random", "--methods=diffpir,ddrm")
  one, other = (jax.tree.leaves(given[name]) for name in ("diffpir", "ddrm"))
  assert len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))
  _, *problems = given["ddrm"]
  assert len(problems) == 3
  for a, b in itertools.combinations(problems, 2):
    assert not np.array_equal(a.operator.mask, b.operator.mask) and not np.array_equal(a.y, b.y)


STRANGE = (b"caf\xe9.png", b"back\\slash.png", b"x" * 240 + b".png", b"x" * 239 + b"y.png")  # the first is not UTF-8


@pytest.mark.slow
def test_pictures_of_strange_names_are_restored_and_reported(tmp_path):
  (tmp_path / "in").mkdir()
  for number, name in enumerate(STRANGE):
    Image.fromarray(picture(number)).save(tmp_path / "in" / os.fsdecode(name))
  flags = [f"--data={tmp_path / 'in'}", "--tasks=denoising", "--methods=ddrm", "--num_samples=2", "--report=true"]
  got, _ = run(tmp_path / "out", *flags)
  names = {image["name"] for image in got["images"]}
  assert names == {"caf\N{REPLACEMENT CHARACTER}", "back_slash", 160 * "x", 160 * "x" + "_2"}
  assert {row["image"] for row in got["runs"][0]["images"]} == names and (tmp_path / "out" / "report.html").exists()
  assert all((tmp_path / "out" / "pictures" / f"{name}-denoising-ddrm-01.png").exists() for name in names)


def stop_after(count, monkeypatch):
  """Interrupt a comparison that has restored so many chunks."""
  restore, done = compare.restore_part, []

  def stopping(*args):
    if len(done) == count:
      raise KeyboardInterrupt
    done.append(None)
    return restore(*args)

  monkeypatch.setattr(compare, "restore_part", stopping)


def test_a_comparison_goes_on_with_another_batch_size(photos, tmp_path, monkeypatch):
  """What is there stays, rows and pictures; the rest is restored so many at once."""
  flags = [f"--data={photos}", "--tasks=denoising", "--methods=ddrm"]
  with monkeypatch.context() as patch:
    stop_after(1, patch)
    assert main.execute(["compare", f"--output={tmp_path / 'out'}", *QUICK, *flags, "--batch_size=1"]) != 0
  (first,) = runs.read_rows(tmp_path / "out.running")
  inode = lambda path: (path.stat().st_ino, path.stat().st_mtime_ns)  # not when it was read: sheets read it
  written = inode(tmp_path / "out.running" / "pictures" / "a-denoising-ddrm-00.png")
  got, _ = run(tmp_path / "out", *flags, "--batch_size=3")
  rows = got["runs"][0]["images"]
  assert rows[0] == first and [row["batch_size"] for row in rows] == [1, 3, 3]
  assert inode(tmp_path / "out" / "pictures" / "a-denoising-ddrm-00.png") == written


def test_the_end_is_written_while_nobody_else_can_go_on(photos, tmp_path, monkeypatch):
  finish, refused = runs.RunFolder.finish, []

  def watched(folder, results, **more):
    with pytest.raises(FileExistsError, match="another process writes"), output.locked(folder.partial):
      pass
    refused.append(folder)
    finish(folder, results, **more)

  monkeypatch.setattr(runs.RunFolder, "finish", watched)
  run(tmp_path / "out", f"--data={photos / 'a.png'}", "--tasks=denoising", "--methods=ddrm")
  assert len(refused) == 1 and not (tmp_path / "out" / output.LOCK).exists()


@pytest.mark.slow
def test_no_method_sees_the_truth(sampled, photos, tmp_path, monkeypatch):
  """With another truth put in after the measurement, the same pictures come out, with other marks."""
  honest = compare.restore_all

  def deceived(run_folder, comparison, team):
    honest(run_folder, comparison._replace(truths=[-truth for truth in comparison.truths]), team)

  monkeypatch.setattr(compare, "restore_all", deceived)
  flags = ["--tasks=inpaint_random", "--methods=diffpir,ddrm", "--num_samples=3", "--batch_size=4", "--frames=3"]
  _, _ = run(tmp_path / "out", f"--data={photos}", *flags)
  assert pixels(tmp_path / "out") == pixels(sampled[0])
  for key, row in timeless(tmp_path / "out").items():
    other = timeless(sampled[0])[key]
    assert row["chi2"] == other["chi2"] and max(row["psnr"]) < min(other["psnr"])


# Ends as `kill -9` ends it, when four rows are on the disk.
KILLED = """
import os, sys
from diffinv.apps import main
from diffinv.studies import runs
honest, written = runs.RunFolder.append, []
def append(run, rows):
  honest(run, rows)
  written.extend(rows)
  if len(written) >= 4:
    os.kill(os.getpid(), 9)
runs.RunFolder.append = append
sys.exit(main.execute(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_result(photos, tmp_path):
  """SIGKILL after some rows: the same command ends with the rows and pictures of a run that nobody stopped."""
  flags = ["--tasks=inpaint_random,denoising", "--methods=diffpir,ddrm", "--batch_size=1", "--steps=40", "--frames=0"]
  flags += [f"--data={photos}"]
  words = ["compare", f"--output={tmp_path / 'killed'}", *QUICK, *flags]
  assert subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True).returncode == -signal.SIGKILL
  rows = tmp_path / "killed.running" / "rows.jsonl"
  kept = rows.read_bytes()
  before = runs.read_rows(rows.parent)
  assert 4 <= len(before) < 12
  assert f"{len(before)} rows are there" in run(tmp_path / "killed", *flags)[1]
  run(tmp_path / "whole", *flags)
  assert (tmp_path / "killed" / "rows.jsonl").read_bytes().startswith(kept.rpartition(b"\n")[0])  # nothing repeated
  assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")  # nothing lost
  assert len(runs.read_rows(tmp_path / "killed")) == 12
  assert pixels(tmp_path / "killed") == pixels(tmp_path / "whole")


def test_another_comparison_is_not_mixed_in(photos, tmp_path, monkeypatch, capsys):
  def stopped(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(compare, "write_sheets", stopped)
  flags = ["compare", f"--output={tmp_path / 'out'}", *QUICK, f"--data={photos / 'a.png'}", "--tasks=denoising"]
  assert main.execute([*flags, "--methods=dps"]) != 0
  assert "interrupted; give the same command again to go on with" in capsys.readouterr().err
  assert main.execute([*flags, "--methods=dps", "--seed=1"]) != 0
  assert (
    "unfinished comparison that differs in --seed; give its own options to go on, or --restart"
    in capsys.readouterr().err
  )


def test_a_prior_s_digest_is_of_its_numbers_and_of_how_they_are_used():
  params = {"w": np.ones(3, np.float32)}
  prior = priors.Prior(params, lambda params, x, t: x, Schedule("linear", 10), "eps", "fixed_small", True)
  others = [
    dataclasses.replace(prior, **change)
    for change in (
      {"params": {"w": np.zeros(3, np.float32)}},
      {"clip": False},
      {"prediction": "v"},
      {"schedule": Schedule("linear", 11)},
    )
  ]
  same = dataclasses.replace(prior, apply=lambda params, x, t: x)
  assert identity.fingerprint(same) == identity.fingerprint(prior)
  assert len({identity.fingerprint(p) for p in (prior, *others)}) == 5


@pytest.mark.slow
def test_other_noise_levels_of_the_same_settings_file_are_not_mixed_in(photos, tmp_path, monkeypatch, capsys):
  """As many steps at other places, and no flag that differs: the plan knows how they are spaced."""
  table, path = settings.load_settings("natural"), tmp_path / "s.json"
  flags = ["compare", f"--output={tmp_path / 'out'}", f"--data={photos / 'a.png'}", "--tasks=denoising", *OFFHAND]
  flags += ["--methods=ddrm", f"--settings={path}", "--report=false"]
  path.write_text(json.dumps({**table, "ddrm": {**table["ddrm"], "steps": "5"}}))
  with monkeypatch.context() as patch:
    patch.setattr(compare, "write_sheets", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main.execute(flags) != 0
  path.write_text(json.dumps({**table, "ddrm": {**table["ddrm"], "steps": "mixed5"}}))
  capsys.readouterr()
  assert main.execute(flags) != 0
  assert "holds an unfinished comparison that differs in runs" in capsys.readouterr().err
  assert main.execute([*flags, "--restart"]) == 0
  assert json.loads((tmp_path / "out" / "results.json").read_text())["runs"][0]["spacing"] == "mixed5"


@pytest.mark.slow
def test_the_bundled_bee_is_the_default(tmp_path):
  got, _ = run(tmp_path / "out", "--tasks=super_resolution", "--methods=dps")
  assert got["images"][0]["source"].endswith("bee.png")
  assert load(tmp_path / "out" / "pictures" / "bee-super_resolution-dps-00.png").shape == (256, 256, 3)


@pytest.mark.slow
def test_held_out_sets_are_compared_on_by_name(tmp_path):
  got, _ = run(tmp_path / "out", "--data=photos", "--num_images=2", "--size=32", "--tasks=denoising", "--methods=ddrm")
  assert [image["name"] for image in got["images"]] == [image["source"].split("/")[1] for image in got["images"]]
  assert all(image["source"].startswith("photos/") and image["shape"] == [32, 32, 3] for image in got["images"])


@pytest.mark.slow
def test_lpips_is_measured_where_weights_are_given(tmp_path, capsys):
  safetensors = pytest.importorskip("safetensors.numpy")
  weights = test_perceptual.state_dict("alex")
  safetensors.save_file(
    {name: np.ascontiguousarray(value) for name, value in weights.items()}, tmp_path / "w.safetensors"
  )
  flags = ["--tasks=denoising", "--methods=ddrm", "--num_samples=2", f"--lpips={tmp_path / 'w.safetensors'}"]
  Image.fromarray(picture(0, 32)).save(tmp_path / "a.png")
  got, said = run(tmp_path / "out", f"--data={tmp_path / 'a.png'}", *flags)
  (row,) = got["runs"][0]["images"]
  distance = perceptual.from_state_dict(weights)
  restored = images.read(tmp_path / "out" / "pictures" / "a-denoising-ddrm-00.png")
  assert row["lpips"][0] == pytest.approx(float(distance(restored, images.read(tmp_path / "a.png"))), rel=0.02)
  assert got["lpips"]["sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
  assert "LPIPS" in said and got["summary"][0]["lpips"]["mean"] == pytest.approx(np.mean(row["lpips"]))
  Image.fromarray(picture(0)).save(tmp_path / "small.png")
  assert (
    main.execute(["compare", f"--output={tmp_path / 'o'}", *QUICK, f"--data={tmp_path / 'small.png'}", *flags]) != 0
  )
  assert "--lpips: expected pictures of 32x32 or more, got 16x16; leave it out" in capsys.readouterr().err


# tune


def tune(output, photos, *args):
  said = io.StringIO()
  flags = ["--steps=4", *OFFHAND, f"--data={photos}", "--tasks=inpaint_random"]
  with contextlib.redirect_stdout(said):
    assert main.execute(["tune", f"--output={output}", *flags, *args]) == 0
  return json.loads(pathlib.Path(output).read_text()), said.getvalue()


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
  path = tmp_path_factory.mktemp("tuned") / "mine.json"
  search = ["--methods=dps,diffpir", "--search=dps.scale=0.01,1,1000", "--search=diffpir.zeta=0,1"]
  return path, *tune(path, photos, *search, "--num_images=2", "--batch_size=4")


@pytest.mark.slow
def test_the_best_values_are_those_of_the_highest_mark(tuned, photos):
  path, got, said = tuned
  for found in got["about"]["found"]:
    best = max(found["tried"], key=lambda entry: entry["psnr"])
    chosen = got[f"{found['method']}@4"]["inpaint_random"]
    assert {name: chosen[name] for name in best if name != "psnr"} == {k: v for k, v in best.items() if k != "psnr"}
  assert [len(found["tried"]) for found in got["about"]["found"]] == [3, 2]
  assert f"pass --settings={path}" in said
  assert got["about"]["images"] == [str(photos / name) for name in ("a.png", "b.png")]


def test_the_settings_serve_the_other_commands(tuned, photos, tmp_path):
  path, table, _ = tuned
  got, _ = run(
    tmp_path / "out", f"--data={photos / 'a.png'}", "--tasks=inpaint_random", "--methods=dps", f"--settings={path}"
  )
  assert got["runs"][0]["fields"]["scale"] == table["dps@4"]["inpaint_random"]["scale"]
  assert settings.steps_for(settings.read_settings(path), "dps") == "100"  # as it was: 4 steps have their own entry
  assert settings.ABOUT not in settings.read_settings(path)


def test_what_the_search_did_not_vary_is_in_the_settings_too(photos, tmp_path):
  args = ["--methods=sdedit", "--search=sdedit.t0=0.3,0.5", "--set=sdedit.ridge=0.02", "--num_images=1"]
  got, said = tune(tmp_path / "s.json", photos, *args)
  usual = settings.load_settings("natural")
  searched = settings.fields_for(got, "sdedit", "inpaint_random", "4")
  assert searched == {
    **settings.fields_for(usual, "sdedit", "inpaint_random"),
    "ridge": 0.02,
    "t0": searched["t0"],
  }
  assert settings.fields_for(got, "sdedit", "inpaint_box", "4") == settings.fields_for(usual, "sdedit", "inpaint_box")
  assert "and --steps=4, or --set=sdedit.steps=4 to compare: what was found for sdedit is for these" in said


@pytest.mark.slow
def test_a_method_that_does_not_stay_finite_does_not_take_the_others_with_it(photos, tmp_path):
  args = ["--methods=dps,diffpir", "--set=dps.rule=squared", "--search=dps.scale=1e12,9e11", "--num_images=1"]
  got, said = tune(tmp_path / "s.json", photos, *args)
  assert "inpaint_random: dps left the finite numbers with every candidate; search smaller steps" in said
  assert "weight" in got["diffpir@4"]["inpaint_random"] and "dps@4" not in got


@pytest.mark.slow
def test_a_mark_of_the_search_is_that_of_a_comparison(tuned, photos, tmp_path):
  """The sweep restores as `compare` does: same keys, same measurements."""
  tried = tuned[1]["about"]["found"][0]["tried"][1]
  (tmp_path / "in").mkdir()
  for name in ("a.png", "b.png"):
    Image.open(photos / name).save(tmp_path / "in" / name)
  flags = ["--tasks=inpaint_random", "--methods=dps", f"--set=dps.scale={tried['scale']}"]
  got, _ = run(tmp_path / "out", f"--data={tmp_path / 'in'}", *flags)
  assert got["summary"][0]["psnr"]["mean"] == pytest.approx(tried["psnr"], abs=0.01)


@pytest.mark.slow
def test_the_sample_that_fits_best_decides_as_in_a_comparison(photos, tmp_path):
  flags = ["--methods=diffpir", "--num_samples=3", "--set=diffpir.zeta=1"]
  args = [*flags, "--search=diffpir.weight=0.1,1", "--criterion=best_psnr"]
  got, said = tune(tmp_path / "s.json", photos, *args, "--batch_size=12")
  tried = got["about"]["found"][0]["tried"]
  for weight in ("0.1", "1"):
    mark = next(entry["best_psnr"] for entry in tried if entry["weight"] == float(weight))
    restored = [f"--data={photos}", "--tasks=inpaint_random", *flags, f"--set=diffpir.weight={weight}"]
    compared, _ = run(tmp_path / weight, *restored)
    assert compared["summary"][0]["best_psnr"]["mean"] == pytest.approx(mark, abs=0.01)
    assert abs(compared["summary"][0]["psnr"]["mean"] - mark) > 0.05
  assert "best_psnr" in said


def test_a_search_goes_on_where_it_was_stopped(photos, tmp_path, monkeypatch):
  flags = ["--methods=dps", "--search=dps.scale=0.01,1,100,1000", "--num_images=1", "--batch_size=2"]
  whole, _ = tune(tmp_path / "whole.json", photos, *flags)
  restore, done = tuning.run_part, []

  def stopped(prepared, job, part, *args):
    if len(done) == 1:
      raise KeyboardInterrupt
    done.append(part)
    return restore(prepared, job, part, *args)

  base = ["tune", f"--output={tmp_path / 'cut.json'}", "--steps=4", *OFFHAND, f"--data={photos}"]
  with monkeypatch.context() as patch:
    patch.setattr(tuning, "run_part", stopped)
    assert main.execute([*base, "--tasks=inpaint_random", *flags]) != 0
  assert not (tmp_path / "cut.json").exists() and done == [[0, 1]]
  assert len(runs.read_rows(tmp_path / "cut.json.running")) == 2
  monkeypatch.setattr(tuning, "run_part", lambda p, job, part, *args: done.append(part) or restore(p, job, part, *args))
  cut, said = tune(tmp_path / "cut.json", photos, *flags)
  assert "2 candidates are there" in said and done == [[0, 1], [2, 3]]
  assert cut["about"]["found"] == whole["about"]["found"]
  assert not (tmp_path / "cut.json.running").exists()


def test_a_search_does_not_go_on_with_another_one(photos, tmp_path, monkeypatch, capsys):
  def stop(*args):
    raise KeyboardInterrupt

  base = ["tune", f"--output={tmp_path / 's.json'}", "--steps=4", *OFFHAND, f"--data={photos}", "--methods=dps"]
  with monkeypatch.context() as patch:
    patch.setattr(tuning, "judge", stop)
    assert main.execute([*base, "--tasks=denoising", "--num_images=1", "--search=dps.scale=1,2"]) != 0
  assert f"give the same command again to go on with {tmp_path / 's.json.running'}" in capsys.readouterr().err
  assert main.execute([*base, "--tasks=denoising", "--num_images=1", "--search=dps.scale=1,3"]) != 0
  said = capsys.readouterr().err
  assert "holds an unfinished search that differs in --search; give its own options to go on, or --restart" in said
  assert main.execute([*base, "--tasks=denoising", "--num_images=1", "--search=dps.scale=1,3", "--restart"]) == 0


@pytest.mark.parametrize(
  "args, message",
  [
    (["--methods=dps"], "--data is missing: expected pictures to tune on"),
    (["--data={photos}"], "--methods is missing: expected some of mmse"),
    (["--data={photos}", "--methods=dps", "--search=scale=1"], "--search: expected METHOD.name=value,value,"),
    (["--data={photos}", "--methods=dps", "--search=ddrm.eta=1"], "with one of dps, got 'ddrm.eta=1'"),
    (
      ["--data={photos}", "--methods=dps", "--search=dps.scale=1,x"],
      "dps: expected scale to be of type float, got 'x'",
    ),
    (["--data={photos}", "--methods=dps", "--search=dps.magic=1"], "dps: expected a field among"),
    (
      ["--data={photos}", "--methods=diffpir", "--search=diffpir.zeta=0,5"],
      "diffpir: expected zeta to be in [0, 1], got 5",
    ),
    (
      ["--data={photos}", "--methods=dps", "--search=dps.scale=1", "--search=dps.scale=2"],
      "--search: expected each field once, got dps.scale twice; give its values together",
    ),
    (
      ["--data={photos}", "--methods=dps", "--set=dps.scale=1", "--search=dps.scale=1,2"],
      "--set: expected a field that is not searched, got dps.scale; leave it out, or say with --search which of dps",
    ),
    (["--data={photos}", "--methods=dps", "--set=dps.scale=1"], "expected a field that is not searched, got dps.scale"),
    (
      ["--data={photos}", "--methods=dps", "--output=folder"],
      "--output: expected a file NAME.json to write, got folder",
    ),
    (
      ["--data=photos", "--data=faces", "--methods=dps"],
      "--data: expected one held-out set alone, got photos and faces",
    ),
    (
      ["--data={photos}", "--methods=dps", "--criterion=best_psnr"],
      "--num_samples: expected 2 or more for --criterion=best_psnr, got 1",
    ),
    (
      ["--data={photos}", "--methods=dps", "--antithetic"],
      "--num_samples: expected an even number for --antithetic, got 1",
    ),
    (["--data=photos", "--methods=dps", "--num_images=999"], "num_images: expected at most"),
    (["--data={photos}", "--methods=dps", "--output=nowhere/s.json"], "output: expected a folder, "),
    (
      ["--data={photos}", "--methods=dps", "--set=dps.rule=squared", "--search=dps.scale=1e12"],
      "expected a candidate that stays finite",
    ),
  ],
)
def test_a_mistake_is_one_line(photos, tmp_path, capsys, args, message):
  flags = [arg.format(photos=photos) for arg in args]
  base = [] if any(arg.startswith("--output") for arg in flags) else [f"--output={tmp_path / 's.json'}"]
  assert main.execute(["tune", *base, *flags, "--steps=4", "--tasks=denoising", *OFFHAND]) != 0
  said = capsys.readouterr().err.strip()
  assert message in said and "\n" not in said
  assert not (tmp_path / "s.json").exists()


def test_settings_are_not_replaced_unasked(tuned, photos, capsys):
  flags = [
    f"--output={tuned[0]}",
    f"--data={photos}",
    "--tasks=denoising",
    "--methods=dps",
    *OFFHAND,
  ]
  assert main.execute(["tune", *flags]) != 0
  assert "mine.json exists; choose another --output, or replace it with --overwrite" in capsys.readouterr().err
