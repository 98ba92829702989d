"""The marks of restored pictures: their numbers by hand, and that everything takes them from one table."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_report import write_run

from diffinv import noise, operators, problems
from diffinv.metrics import image as metrics
from diffinv.metrics import table
from diffinv.report import page as report
from diffinv.studies import marks as marking
from diffinv.studies import runs, summary

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def truth():
  return np.asarray(jnp.clip(0.4 * jax.random.normal(jax.random.key(0), SHAPE), -1, 1))


@pytest.fixture(scope="module")
def problem(truth):
  k1, k2 = jax.random.split(jax.random.key(1))
  return problems.simulate(k2, operators.random_mask(k1, SHAPE, missing=0.5), noise.Gaussian(0.05), truth)


def test_chains_are_counted_that_left_the_numbers():
  samples = np.zeros((3, 2, 2, 1))
  assert marking.failure(samples) is None
  samples[1, 0, 0, 0] = np.inf
  assert marking.failure(samples).startswith("NaN or infinity in 1 of 3 chains")
  marking.require_finite("dps", [samples[:1], samples[2:]])


def test_a_chain_that_is_no_picture_any_more_has_failed():
  samples = np.zeros((3, 2, 2, 1))
  assert marking.failure(samples) is None
  samples[1, 0, 0, 0] = -6e14
  assert marking.failure(samples) == "values beyond 100 in 1 of 3 chains; its steps are too large, lower them"


def test_marks_are_those_of_the_metrics(problem, truth):
  samples = np.stack([truth + 0.1, truth - 0.3])
  got = marking.marks(problem, samples, truth)
  unit = metrics.to_unit(jnp.asarray(truth))
  for k, sample in enumerate(samples):
    assert got["psnr"][k] == pytest.approx(float(metrics.psnr(metrics.to_unit(jnp.asarray(sample)), unit)), rel=1e-5)
    assert got["chi2"][k] == pytest.approx(float(problem.chi2(jnp.asarray(sample))), rel=1e-5)
  mean = metrics.to_unit(jnp.asarray(truth - 0.1))
  assert got["mean_psnr"] == pytest.approx(float(metrics.psnr(mean, unit)), rel=1e-4)
  closest = int(np.argmin(got["residual_norm"]))
  assert closest == 0 and got["best_psnr"] == got["psnr"][0] and got["best_ssim"] == got["ssim"][0]
  # Fair CRPS: mean distance (0.1 + 0.3) / 2, less half the distance of the two samples, 0.4 / 2.
  assert got["crps"] == pytest.approx(0.0, abs=1e-6)
  assert got["coverage"]["levels"] == [pytest.approx(1 / 3)]
  assert got["coverage"]["empirical"] == [1.0]  # the truth is between the two samples everywhere


def test_one_sample_has_no_spread(problem, truth):
  got = marking.marks(problem, truth[None], truth)
  assert set(got) == {"psnr", "ssim", "chi2", "residual_norm", "clipped_fraction"}


# The table


def test_marks_need_their_evidence(problem, truth):
  keys = lambda *evidence, shape=SHAPE: {m.key for m in table.measurable(table.Evidence(*evidence), shape)}
  fit = {"chi2", "residual_norm"}
  assert keys(problem) == fit
  assert keys(problem, truth) == fit | {"psnr", "ssim"}
  assert keys(problem, truth, "weights") == fit | {"psnr", "ssim", "lpips"}
  assert keys(problem, truth, shape=(10, 16, 3)) == fit | {"psnr"}  # smaller than the window of SSIM


def test_places_of_marks_are_those_of_the_formats():
  """Files of older versions have these keys, and commands these choices."""
  assert tuple(mark.key for mark in table.summed() if mark.per == table.SAMPLE) == ("psnr", "ssim", "lpips", "chi2")
  assert tuple(mark.key for mark in table.summed() if mark.per == table.PICTURE) == (
    "mean_psnr",
    "mean_ssim",
    "best_psnr",
    "best_ssim",
    "crps",
    "seconds",
  )
  keys = lambda marks: [mark.key for mark in marks]
  assert keys(table.criteria()) == ["psnr", "ssim", "mean_psnr", "mean_ssim", "best_psnr", "best_ssim"]
  assert keys(table.quality()) == ["psnr", "ssim", "lpips", "chi2", "mean_psnr", "mean_ssim", "crps"]
  assert keys(table.cost()) == ["evaluations", "gradients", "seconds", "peak_bytes"]
  assert marking.headings() == ["PSNR dB", "SSIM", "chi2"]
  several = {"mean_psnr", "mean_ssim", "best_psnr", "best_ssim", "crps", "coverage"}
  assert {mark.key for mark in table.marks() if mark.several} == several


def test_keys_and_titles_are_unique():
  for names in zip(*((mark.key, mark.title) for mark in table.marks()), strict=True):
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
  "key, values, best",
  [
    ("psnr", [20.0, 30.0, None, 25.0], 1),
    ("crps", [0.2, 0.1, 0.3], 1),
    ("chi2", [4.0, 0.5, 1.1, 0.0], 2),
    ("chi2", [0.5, 2.0], 0),  # equally far from 1
    ("psnr", [float("nan"), 3.0, float("inf")], 1),
    ("psnr", [None, float("nan")], None),
  ],
)
def test_the_best_value_is_found_in_the_direction_of_the_mark(key, values, best):
  assert table.mark(key).best(values) == best


def test_captions_tell_quality_where_the_truth_is_known_and_else_the_fit():
  assert marking.caption({"psnr": 27.129, "ssim": 0.8123, "chi2": 1.02}) == ("27.13 dB   0.812",)
  assert marking.caption({"psnr": 27.129, "chi2": 1.02}) == ("27.13 dB   -",)
  assert marking.caption({"chi2": 1.02}) == ("chi2 1.02",)


def mean_absolute_error(picture, truth):
  """The one function of the metric that the next tests add."""
  return jnp.mean(jnp.abs(picture - truth))


ROW = table.Mark("mae", "MAE", "", table.LOW, 4, "Mean absolute error on [-1, 1]", mean_absolute_error)


@pytest.fixture
def added(monkeypatch):
  places = (*ROW.shown, table.SHEET)
  row = ROW._replace(shown=places, highlight="Best MAE", derived=True)
  monkeypatch.setattr(table, "MARKS", (*table.MARKS, row))


def test_a_metric_is_one_function_and_one_row(added, problem, truth):
  got = marking.marks(problem, np.stack([truth + 0.1, truth - 0.3]), truth)
  assert got["mae"] == pytest.approx([0.1, 0.3], rel=1e-5)
  assert (got["mean_mae"], got["best_mae"]) == (pytest.approx(0.1, rel=1e-4), pytest.approx(0.1, rel=1e-5))
  assert {"mae", "mean_mae", "best_mae"} <= {mark.key for mark in table.criteria()}
  assert table.mark("mae").best(got["mae"]) == 0
  assert marking.headings()[-1] == "MAE" and marking.cells({"mae": 0.25})[-1] == "0.2500"
  assert marking.caption({"psnr": 20.0, "ssim": 0.5, "mae": 0.25}) == ("20.00 dB   0.500   0.2500",)


def test_a_metric_is_in_rows_summary_tables_and_on_the_page_by_its_row(added, tmp_path):
  read = runs.read(write_run(tmp_path / "run", marks=lambda row: {"mae": [0.1 * (row["method"] != "dps")] * 4}))
  entries = summary.summarize(read.plan, list(read.rows.values()))
  assert entries[0]["mae"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
  lines = summary.table(entries).split("\n")
  assert "MAE" in lines[0].split() and "0.0000±0.0000" in lines[1] and "0.1000±0.0000" in lines[2]
  page = report.html(read)
  assert re.search(r"<dt>Best MAE</dt><dd><b>DPS</b> 0.0000</dd>", page)
  assert "Mean absolute error on [-1, 1]; lower is better" in page
  assert re.search(r'"marks":\{[^}]*"mae":\[0.1,0.1,0.1,0.1\]', page)


def test_the_table_of_a_terminal_has_a_column_for_every_mark_that_is_there():
  about = {"task": "t", "count": 2, "failed": 0}
  mean = lambda value: {"mean": value, "low": value - 1.0, "high": value + 1.0}
  entries = [
    {**about, "method": "dps", "psnr": mean(27.125), "lpips": {"mean": 0.25, "low": None, "high": None}},
    {**about, "method": "ddrm", "psnr": mean(9.5), "seconds": mean(1.5), "evaluations": 20, "peak_bytes": 3_200_000},
    {"task": "t", "method": "sdedit", "skipped": "no"},
  ]
  assert summary.table(entries).split("\n") == [
    "task  method     PSNR dB  SSIM  chi2  LPIPS  seconds  evaluations  gradients  MB",
    "t     dps     27.12±1.00     -     -  0.250        -            -          -   -",
    "t     ddrm     9.50±1.00     -     -      -     1.50           20          -   3",
    "t     sdedit           -     -     -      -        -            -          -   -",
  ]
