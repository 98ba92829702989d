"""Restorations without a network in a comparison: rows, pictures, tables and the page, beside the methods."""

import json

import numpy as np
import pytest

from diffinv import baselines, errors, priors
from diffinv.apps import main
from diffinv.baselines import BASELINES
from diffinv.data import images
from diffinv.report import page
from diffinv.studies import compare, measurement, results, runs, summary
from diffinv.studies import tune as tuning
from diffinv.studies.study import Study, named_methods
from diffinv.tasks import TASKS

SIZE, SAMPLES = 16, 2
CHOSEN = ("mmse", "diffpir", "wiener", "total_variation", "bicubic", "biharmonic")
TASK_NAMES = ("denoising", "super_resolution")


def truths(count=3):
  row, column = np.mgrid[:SIZE, :SIZE]
  waves = lambda n: [0.7 * np.sin(0.3 * row + 0.2 * c * column + n + c) for c in range(3)]
  return [np.stack(waves(n), axis=-1).astype(np.float32) for n in range(count)]


def mine(problem):
  """A restoration of a person's own: gray."""
  return np.zeros(problem.operator.in_shape)


def study(**fields):
  given = {"prior": priors.natural(), "data": truths(), "tasks": TASK_NAMES, "steps": 4, "frames": 3, "methods": CHOSEN}
  return Study(**{**given, **fields})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made") / "out"
  given = {"methods": (*CHOSEN, ("mine", mine)), "num_samples": SAMPLES, "set": {"total_variation.weight": 0.05}}
  return compare.compare(study(**given), folder)


def row(found, task, method, image="picture-01"):
  return next(r for r in found.records if (r["task"], r["method"], r["image"]) == (task, method, image))


def restored(found, *name):
  return images.read(found.folder / runs.PICTURES / runs.sample(*name))


def test_each_restores_the_measurement_that_the_methods_get(made):
  config = study()
  comparison = compare.prepare(config, None)
  for task, name, build in (
    ("denoising", "wiener", BASELINES["wiener"]),
    ("denoising", "total_variation", lambda problem: baselines.total_variation(problem, weight=0.05)),
    ("super_resolution", "bicubic", BASELINES["bicubic"]),
  ):
    want = build(comparison.measure(task, 1))
    np.testing.assert_allclose(restored(made, "picture-01", task, name), np.clip(want, -1, 1), atol=0.6 / 127.5)


def test_a_row_has_the_marks_of_a_method_and_no_evaluations(made):
  ours, theirs = (row(made, "denoising", name) for name in ("wiener", "diffpir"))
  assert set(theirs) - set(ours) == {"crps", "coverage"}  # of independent samples
  assert ours["seconds"] >= 0 and ours["peak_bytes"] is None and len(ours["psnr"]) == 1
  entry = next(run for run in made.plan["runs"] if (run["task"], run["method"]) == ("denoising", "wiener"))
  assert (entry["evaluations"], entry["gradients"], entry["steps"], entry["spacing"]) == (0, 0, 0, "")


@pytest.mark.parametrize("method", ["mmse", "wiener"])
def test_what_gives_the_same_picture_every_time_is_one_picture_and_its_own_mean(made, method):
  found = row(made, "denoising", method)
  assert len(found["psnr"]) == 1 and found["mean_psnr"] == found["best_psnr"] == found["psnr"][0]
  there = sorted(path.name for path in (made.folder / runs.PICTURES).glob(f"picture-00-denoising-{method}-*"))
  kinds = [name.rpartition("-")[2].partition(".")[0] for name in there]
  assert kinds == (["00", "chain", "mean"] if method == "mmse" else ["00", "mean"])
  assert len(row(made, "denoising", "diffpir")["psnr"]) == SAMPLES


def test_what_does_not_apply_is_left_out_with_a_reason_and_without_a_line(made):
  said = made.remarks()
  assert "denoising: bicubic: expected a smaller picture, got Identity" in said
  assert "super_resolution: biharmonic: expected missing pixels, got Separable" in said
  lines = [line.split()[:2] for line in made.table().splitlines()]
  assert ["denoising", "wiener"] in lines and ["denoising", "bicubic"] not in lines
  assert ["super_resolution", "mmse"] in lines


def test_numbers_that_were_set_are_in_the_plan(made):
  fields = {run["method"]: run["fields"] for run in made.plan["runs"] if run["task"] == "denoising"}
  assert fields["total_variation"]["weight"] == 0.05 and fields["wiener"] == {}


def test_a_function_of_one_s_own_takes_part(made):
  np.testing.assert_allclose(restored(made, "picture-00", "denoising", "mine"), 0.0, atol=0.51 / 127.5)
  entry = next(method for method in made.plan["methods"] if method["name"] == "mine")
  assert entry["citation"] == "own" and len(entry["sha256"]) == 64
  other = named_methods([("mine", lambda problem: problem.y)])["mine"]
  assert other.source() != named_methods([("mine", mine)])["mine"].source()


def test_a_comparison_goes_on_where_it_was(made, tmp_path, monkeypatch):
  whole, calls = compare.finished, []

  def few(*args):
    if len(calls) == 4:
      raise KeyboardInterrupt
    calls.append(args)
    return whole(*args)

  config = study(methods=("wiener", "bicubic"))
  with monkeypatch.context() as patch:
    patch.setattr(compare, "finished", few)
    with pytest.raises(KeyboardInterrupt):
      compare.compare(config, tmp_path / "out")
  assert len(runs.read_rows(tmp_path / "out.running")) == 4
  got = compare.compare(config, tmp_path / "out")
  assert len(got.records) == 9
  assert row(got, "denoising", "wiener")["psnr"] == row(made, "denoising", "wiener")["psnr"]


# Differences


def test_differences_are_those_of_the_same_pictures_with_student_s_interval():
  values = {("a", "x"): (30, 31, 35), ("a", "y"): (29, 31, 33), ("b", "x"): (20, 22), ("b", "y"): (20, 20)}
  rows = [
    {"task": task, "method": method, "image": image, "psnr": [value]}
    for (task, method), some in values.items()
    for image, value in zip("ijk", some)
  ]
  found = summary.differences(rows, "x", {"a": "y"}, "psnr")
  assert found["mean"] == pytest.approx(1.0)
  assert found["high"] - found["mean"] == pytest.approx(4.302652729911275 * 1.0 / np.sqrt(3))
  both = summary.differences(rows, "x", {"a": "y", "b": "y"}, "psnr")  # i: (1 + 0) / 2, j: (0 + 2) / 2
  assert both["mean"] == pytest.approx(0.75)
  assert summary.differences(rows, "x", {"a": "x"}, "psnr") == {"mean": 0, "low": 0, "high": 0}
  assert summary.differences(rows, "z", {"a": "y"}, "psnr") is None


def test_the_command_says_whether_a_network_is_ahead(made):
  (said,) = (line for line in made.remarks() if line.startswith("denoising: ") and "without a network" in line)
  best = summary.leaders(made.summary, "mean_psnr", ["mmse", "diffpir"])["denoising"]
  floor = summary.leaders(made.summary, "mean_psnr", summary.without_network(made.plan))["denoising"]
  gap = summary.differences(made.records, best, {"denoising": floor}, "mean_psnr")["mean"]
  assert said.startswith(f"denoising: {best} is {abs(gap):.2f}±")
  assert said.endswith(f" dB {'ahead of' if gap >= 0 else 'behind'} {floor}, the best without a network")


def test_the_page_holds_each_against_the_best_without_a_network(made):
  context = page.context(runs.read(made.folder))
  (table,) = (table for table in context["tables"] if table["title"] == TASKS["denoising"].title)
  assert [column.title for column in table["versus"]] == ["over the best", "over the best without a network"]
  by_title = {row["title"]: row for row in table["rows"]}
  marked = [title for title, row in by_title.items() if row["best_without"]]
  assert len(marked) == 1 and not by_title[marked[0]]["network"] and by_title["DiffPIR"]["network"]
  assert by_title[marked[0]]["gaps"][1] == {"order": 0.0, "text": "0.00", "half": None, "bar": None, "best": False}
  for row in table["rows"]:
    best, floor = (gap["order"] for gap in row["gaps"])
    assert best <= 1e-9 and best <= floor + 1e-9
  html = page.html(runs.read(made.folder))
  assert "best without a network" in html and "in 5 ways without a network" in html


def test_a_page_without_baselines_has_no_such_column(tmp_path):
  found = compare.compare(study(methods=("mmse", "diffpir"), tasks=("denoising",), data=truths(1)), tmp_path / "out")
  tables = page.context(runs.read(found.folder))["tables"]
  assert [[column.title for column in table["versus"]] for table in tables] == [["over the best"]] * 2
  assert "without a network" not in page.html(runs.read(found.folder))


@pytest.mark.parametrize("value, text", [(1.234, "+1.23"), (-0.5, "−0.50"), (0.0, "0.00"), (-0.001, "0.00")])
def test_a_difference_has_its_sign(value, text):
  assert page.signed(value) == text


# Mistakes


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--methods=wieners"], "--methods: expected some of mmse, sdedit"),
    (["--methods=wiener,wiener"], "--methods: expected one or more, each once"),
    (["--methods=wiener", "--set=wiener.steps=3"], "wiener: expected a field among none, got 'steps'"),
    (["--methods=total_variation", "--set=total_variation.weight=x"], "total_variation: expected weight to be of type"),
    (["--methods=biharmonic"], "biharmonic: expected missing pixels, got Identity"),
    (["--methods=mmse", "--noise=none"], "mmse: expected Gaussian or Poisson noise, got NoNoise"),
  ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
  base = [f"--output={tmp_path / 'out'}", "--prior=natural", "--tasks=denoising", "--size=16", "--fit=resize"]
  assert main.execute(["compare", *base, "--compilation_cache=", *flags]) != 0
  said = capsys.readouterr().err.strip()
  assert message in said and "\n" not in said and not (tmp_path / "out").exists()


def test_there_is_nothing_to_tune_without_a_network():
  config = tuning.Search(methods=("dps", "wiener"))
  with pytest.raises(
    errors.UsageError, match="`methods`: expected methods of a prior to tune, got wiener, which needs"
  ):
    tuning.methods_of(config)
  assert "mmse" not in tuning.methods_of(tuning.Search())


def test_results_read_back_are_the_same(made):
  again = results.read_results(made.folder)
  assert json.loads(json.dumps(again.contents())) == json.loads(json.dumps(made.contents()))


def test_every_operator_of_a_task_has_a_restoration_without_a_network():
  for name in ("denoising", "inpaint_box", "inpaint_random", "super_resolution", "gaussian_blur", "motion_blur"):
    operator = measurement.probe(TASKS[name])
    assert (
      sum(b.excuse(operator, measurement.noise_model(study(), TASKS[name])) is None for b in BASELINES.values()) >= 4
    )
