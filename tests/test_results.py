"""The page of results: its tables and claims from numbers that are known."""

import dataclasses
import json
import pathlib

import jax
import pytest

from diffinv import Study

ROOT = pathlib.Path(__file__).resolve().parent.parent
TITLES = {"dps": "DPS", "diffpir": "DiffPIR", "pigdm": "PiGDM", "ddrm": "DDRM"}
COSTS = {"dps": (1000, 1000), "diffpir": (100, 0), "pigdm": (100, 100), "ddrm": (20, 0)}


@pytest.fixture(scope="module")
def tool(load_tool):
  return load_tool("write_results")


def entry(task, method, psnr, ssim=0.8, failed=0):
  spread = {"low": psnr - 1.0, "high": psnr + 1.0}
  marks = {"psnr": {"mean": psnr, **spread}, "ssim": {"mean": ssim}, "seconds": {"mean": 2.0}}
  costs = dict(zip(("evaluations", "gradients"), COSTS[method]))
  return {"task": task, "method": method, "count": 8 - failed, "failed": failed, **marks, **costs}


def pictures(entries):
  """What the runs of entries hold of each of two pictures: half a dB to both sides of the mean, one sample."""
  spread = lambda e: [("p", 0.5), ("q", -0.5)] if "psnr" in e else []
  row = lambda e, name, off: {"image": name, "psnr": [e["psnr"]["mean"] + off], "ssim": [e["ssim"]["mean"]]}
  return [{"task": e["task"], "method": e["method"], "images": [row(e, *s) for s in spread(e)]} for e in entries]


@pytest.fixture
def results():
  summary = [
    *(entry("a", "dps", 25.0), entry("a", "diffpir", 26.0), entry("a", "pigdm", 27.0), entry("a", "ddrm", 28.0)),
    *(entry("b", "dps", 20.0), entry("b", "diffpir", 20.5), entry("b", "pigdm", 21.0)),
    {"task": "b", "method": "ddrm", "skipped": "no SVD"},
  ]
  return {
    "num_samples": 1,
    "summary": summary,
    "runs": pictures(summary),
    "tasks": [{"name": name, "title": name.upper()} for name in "ab"],
    "methods": [{"name": name, "title": title} for name, title in TITLES.items()],
  }


def test_claim_names_those_that_reach_the_reference_on_every_task(tool, results):
  text = tool.claim(results, "psnr")
  assert "in mean PSNR and SSIM on every task: DiffPIR, PiGDM." in text  # DDRM left a task out
  assert "at most 100 evaluations and no gradient: DiffPIR." in text
  assert "- A: DiffPIR, DDRM\n- B: DiffPIR\n\n| above DPS" in text  # PiGDM takes gradients


def test_differences_are_picture_by_picture(tool, results):
  lines = tool.claim(results, "psnr").splitlines()[-4:]
  assert lines[0] == "| above DPS, picture by picture | A | B |"
  # The same picture is the easier one for both: their marks vary from picture to picture, the difference does not.
  assert lines[2] == "| DiffPIR | +1.00 ± 0.00 / +0.000 ± 0.000 | +0.50 ± 0.00 / +0.000 ± 0.000 |"
  results["runs"][1]["images"].reverse()  # pictures go by their names
  results["runs"][5]["images"][0].update(psnr=[22.0, 23.0], ssim=[0.9, 0.9])
  lines = tool.claim(results, "psnr").splitlines()[-4:]
  # (22.5 - 20.5, 20 - 19.5) = (2, 0.5) dB and (0.1, 0): mean ± t(0.975, 1) s / sqrt 2, t = 12.706.
  assert lines[2] == "| DiffPIR | +1.00 ± 0.00 / +0.000 ± 0.000 | +1.25 ± 9.53 / +0.050 ± 0.635 |"


@pytest.mark.parametrize("worse", [{"psnr": 19.9}, {"ssim": 0.79}, {"failed": 1}])
def test_claim_needs_every_task_both_marks_and_all_pictures(tool, results, worse):
  results["summary"][5] = entry("b", "diffpir", **{"psnr": 20.5, **worse})
  text = tool.claim(results, "psnr")
  assert "no gradient: none." in text and "| DiffPIR |" not in text


def test_differences_are_of_those_that_reach_the_reference_on_most_tasks(tool, results):
  more = [entry("c", "dps", 20.0), entry("c", "diffpir", 19.0), entry("c", "pigdm", 21.0), entry("c", "ddrm", 21.0)]
  results["summary"] += more
  results["runs"] += pictures(more)
  results["tasks"].append({"name": "c", "title": "C"})
  text = tool.claim(results, "psnr")
  assert "on every task: PiGDM." in text
  diffpir, pigdm = text.splitlines()[-2:]  # DDRM, which left a task out, is not there
  assert diffpir.startswith("| DiffPIR | +1.00") and diffpir.endswith("| -1.00 ± 0.00 / +0.000 ± 0.000 |")
  assert pigdm.startswith("| PiGDM |")


def test_the_mean_of_samples_takes_part_at_the_cost_of_all_of_them(tool, results):
  several = {"num_samples": 2, "methods": [{"name": "diffpir", "title": "DiffPIR"}]}
  means = {"mean_psnr": {"mean": 27.5, "low": 27.0, "high": 28.0}, "mean_ssim": {"mean": 0.9}}
  entries = [{**entry("a", "diffpir", 26.0), **means}, {"task": "b", "method": "diffpir", "skipped": "cannot"}]
  rows = [{"image": name, "psnr": [26.0] * 2, "mean_psnr": 27.5, "ssim": [0.8] * 2, "mean_ssim": 0.9} for name in "pq"]
  runs = [{"task": t, "method": "diffpir", "images": found} for t, found in (("a", rows), ("b", []))]
  got = tool.averaged(results, {**several, "summary": entries, "runs": runs})
  lines = tool.table(got, "psnr").splitlines()
  assert lines[3].startswith("| DiffPIR | 100, 0 | 2.0 | 26.00")
  assert lines[4] == "| DiffPIR (mean of 2) | 200, 0 | 2.0 | 27.50 ± 0.5 / 0.900 | - |"
  assert "- A: DiffPIR, DDRM\n- B: DiffPIR\n" in tool.claim(got, "psnr")  # 200 evaluations are not cheap
  got = {**got, "tasks": got["tasks"][:1]}
  assert "| DiffPIR (mean of 2) | +2.50 ± 6.35 / +0.100 ± 0.000 |" in tool.claim(got, "psnr")  # of 2 and 3 dB


def test_table_holds_means_and_costs_and_the_best_in_bold(tool, results):
  results["summary"][5] = entry("b", "diffpir", 30.0, failed=2)
  results["summary"][6]["evaluations"] = 50
  lines = tool.table(results, "psnr").splitlines()
  assert lines[0] == "| method | evaluations, gradients | seconds | A | B |"
  assert lines[2] == "| DPS | 1000, 1000 | 2.0 | 25.00 ± 1.0 / 0.800 | 20.00 ± 1.0 / 0.800 |"
  assert lines[3] == "| DiffPIR | 100, 0 | 2.0 | 26.00 ± 1.0 / 0.800 | failed on 2 |"
  assert lines[4] == "| PiGDM | 50-100, 100 | 2.0 | 27.00 ± 1.0 / 0.800 | **21.00 ± 1.0 / 0.800** |"
  assert lines[5] == "| DDRM | 20, 0 | 2.0 | **28.00 ± 1.0 / 0.800** | - |"


def test_the_best_of_several_samples_takes_all_of_them(tool, results):
  results["num_samples"] = 4
  entry_of_dps = results["summary"][0]
  assert tool.costs(entry_of_dps, results, "psnr") == (1000, 1000)
  assert tool.costs(entry_of_dps, results, tool.BEST) == (4000, 4000)


def test_a_picture_without_a_mark_is_left_out_of_the_differences(tool, results):
  results["runs"][1]["images"][0]["psnr"] = [None]  # infinite
  assert "| DiffPIR | +1.00 / +0.000 ± 0.000 |" in tool.claim(results, "psnr")


@pytest.mark.slow
def test_a_kept_comparison_is_of_the_same_prior_and_flags(tool, tmp_path, capsys):
  study = Study(prior="natural", tasks="denoising", methods="ddrm", size=16, fit="resize", steps=5)
  tool.FLAGS(["write_results", f"--work={tmp_path}"])
  with jax.numpy_rank_promotion("allow"):
    folder, first = tool.compared("a", study)
  assert f"comparing: {folder}" in capsys.readouterr().out
  assert tool.compared("a", study) == (folder, first)
  assert "comparing" not in capsys.readouterr().out
  with pytest.raises(SystemExit, match="a: expected the comparison of now, got one that differs in --seed; remove it"):
    tool.compared("a", dataclasses.replace(study, seed=1))
  plan = json.loads((folder / "run.json").read_text())
  plan["prior"]["sha256"] = "0"
  (folder / "run.json").write_text(json.dumps(plan))
  with pytest.raises(SystemExit, match="differs in prior; remove it"):
    tool.compared("a", study)


def test_blocks_are_replaced_and_the_words_stay(tool):
  page = "words\n<!-- a -->\nold\n<!-- end -->\nmore\n<!-- b -->\n<!-- end -->\n"
  assert tool.page_blocks.replaced(page, {"a": "new", "b": "x"}) == (
    "words\n<!-- a -->\nnew\n<!-- end -->\nmore\n<!-- b -->\nx\n<!-- end -->\n"
  )
  with pytest.raises(ValueError, match="expected a block <!-- c -->"):
    tool.page_blocks.replaced(page, {"c": ""})


def test_the_page_has_a_block_for_everything_that_is_written(tool):
  page = (ROOT / "docs" / tool.PAGE).read_text(encoding="utf-8")
  names = [f"{name}{part}" for name in tool.STUDIES for part in ("", "-claim", "-figures")]
  tool.page_blocks.replaced(page, dict.fromkeys(names, ""))
