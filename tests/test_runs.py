"""The folder of a comparison survives stops: rows are whole, plans are told apart, the end is in full or not at all."""

import json

import pytest

from diffinv import output
from diffinv.studies import runs

PLAN = {
  "settings": {"tasks": ["denoising"], "batch_size": 4, "output": "out", "overwrite": False},
  "lpips": {"sha256": "0"},
  "images": [{"name": "a", "sha256": "0"}],
  "versions": {"jax": "0"},
  "device": {"kind": "cpu"},
}


def row(image, method="dps", **marks):
  return {"task": "denoising", "method": method, "image": image, **marks}


def changed(**parts):
  return {**PLAN, **parts}


def lines(folder):
  return (folder / "rows.jsonl").read_text().splitlines()


def test_rows_are_lines_and_come_back(tmp_path):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  folder.append([row("a", psnr=[20.5]), row("b", psnr=[float("inf")])])
  folder.append([row("c")])
  assert [json.loads(line)["image"] for line in lines(folder.partial)] == ["a", "b", "c"]
  assert runs.read_rows(folder.partial) == list(folder.rows.values())
  assert folder.rows["denoising", "dps", "b"]["psnr"] == [None]  # JSON has no infinity
  assert not (tmp_path / "out").exists()


def test_a_row_that_is_there_is_not_written_again(tmp_path):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  folder.append([row("a", psnr=[1.0])])
  folder.append([row("a", psnr=[2.0]), row("b")])
  assert len(lines(folder.partial)) == 2 and folder.rows["denoising", "dps", "a"]["psnr"] == [1.0]
  assert folder.missing("denoising", "dps", ["a", "c"]) and not folder.missing("denoising", "dps", ["a", "b"])
  assert folder.missing("denoising", "sdedit", ["a"])


def test_a_stop_within_a_line_loses_that_line_only(tmp_path):
  first = runs.RunFolder(tmp_path / "out", PLAN)
  first.append([row("a"), row("b")])
  with open(first.partial / "rows.jsonl", "a") as file:
    file.write('{"task": "denoising", "method": "dps", "ima')
  again = runs.RunFolder(tmp_path / "out", PLAN)
  with again.held():
    assert [image for _, _, image in again.rows] == ["a", "b"]
    again.append([row("c")])
  assert [r["image"] for r in runs.read_rows(again.partial)] == ["a", "b", "c"]


def test_two_processes_do_not_write_at_once(tmp_path):
  one, other = (runs.RunFolder(tmp_path / "out", PLAN) for _ in range(2))
  with one.held():
    with pytest.raises(FileExistsError, match="another process writes into .*out.running; wait for it"):
      with other.held():
        pass
    one.append([row("a")])
  with other.held():
    assert len(other.rows) == 1  # what came in between counts
  assert not (one.partial / output.LOCK).exists()


def test_a_comparison_that_runs_is_not_thrown_away(tmp_path):
  running = runs.RunFolder(tmp_path / "out", PLAN)
  with running.held():
    running.append([row("a")])
    with pytest.raises(FileExistsError, match="another process writes into .*out.running; wait for it"):
      runs.RunFolder(tmp_path / "out", PLAN, restart=True)
    running.append([row("b")])
  assert len(lines(running.partial)) == 2


def test_a_damaged_plan_is_thrown_away_when_asked(tmp_path):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  folder.append([row("a")])
  (folder.partial / runs.PLAN).write_text("{")
  with pytest.raises(ValueError, match="run.json: expected JSON"):
    runs.RunFolder(tmp_path / "out", PLAN)
  assert not runs.RunFolder(tmp_path / "out", PLAN, restart=True).rows
  assert runs.read_plan(folder.partial) == {"format": runs.COMPARISON.format, **PLAN}


def test_a_line_without_its_end_is_not_a_row(tmp_path):
  (tmp_path / "rows.jsonl").write_text(json.dumps(row("a")))  # whole JSON, but the stop may have come before more
  assert runs.read_rows(tmp_path) == []
  assert runs.read_rows(tmp_path / "nothing") == []


def test_a_damaged_line_is_named(tmp_path):
  (tmp_path / "rows.jsonl").write_text(json.dumps(row("a")) + "\n{damaged\n" + json.dumps(row("b")) + "\n")
  with pytest.raises(ValueError, match="rows.jsonl: expected JSON in line 2, got .*damaged"):
    runs.read_rows(tmp_path)


@pytest.mark.parametrize(
  "plan, name",
  [
    (changed(settings={**PLAN["settings"], "tasks": ["colorization"]}), "`tasks`"),
    (changed(lpips={"sha256": "1"}), "lpips"),
    (changed(images=[{"name": "a", "sha256": "1"}]), "images"),
    (changed(versions={"jax": "1"}), r"versions \(jax 0, now 1\)"),
    (changed(settings={**PLAN["settings"], "antithetic": True}), "`antithetic`"),
  ],
)
def test_another_comparison_does_not_go_on_in_the_folder(tmp_path, plan, name):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  folder.append([row("a")])
  with pytest.raises(FileExistsError, match=f"unfinished comparison that differs in {name}; .*--restart"):
    runs.RunFolder(tmp_path / "out", plan)
  assert len(lines(folder.partial)) == 1
  again = runs.RunFolder(tmp_path / "out", plan, restart=True)
  assert not again.rows


@pytest.mark.parametrize(
  "plan",
  [
    PLAN,
    changed(device={"kind": "other"}),
    changed(settings={**PLAN["settings"], "output": "elsewhere", "overwrite": True, "devices": 2, "batch_size": 1}),
  ],
)
def test_what_changes_no_result_may_change(tmp_path, plan):
  runs.RunFolder(tmp_path / "out", PLAN).append([row("a")])
  assert runs.RunFolder(tmp_path / "out", plan).rows


def test_a_comparison_begun_before_samples_came_in_pairs_goes_on_without_them(tmp_path):
  runs.RunFolder(tmp_path / "out", PLAN).append([row("a")])
  assert runs.RunFolder(tmp_path / "out", changed(settings={**PLAN["settings"], "antithetic": False})).rows


def test_a_comparison_begun_before_plans_said_which_lpips_goes_on(tmp_path):
  old = {name: value for name, value in PLAN.items() if name != "lpips"}
  runs.RunFolder(tmp_path / "out", old).append([row("a")])
  assert runs.RunFolder(tmp_path / "out", PLAN).rows


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  kept = [folder.pictures / name for name in ("a-truth.png", "my.partial-1", ".hidden.png")]
  left = [folder.pictures / f".a-truth.png{output.PARTIAL}123", folder.partial / f".run.json{output.PARTIAL}4"]
  for path in kept + left:
    path.write_text("x")
  runs.RunFolder(tmp_path / "out", PLAN)  # another may write: only who holds the folder removes anything
  assert all(path.exists() for path in left)
  with folder.held():
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "out.running").mkdir()
  (tmp_path / "out.running" / "letter.txt").write_text("keep")
  with pytest.raises(FileExistsError, match="out.running is there and is no comparison"):
    runs.RunFolder(tmp_path / "out", PLAN, restart=True)
  assert (tmp_path / "out.running" / "letter.txt").read_text() == "keep"


def test_the_folder_gets_its_name_at_the_end(tmp_path):
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  folder.append([row("a")])
  with folder.held():
    folder.finish({"rows": 1}, overwrite=False)
  assert not folder.partial.exists() and not (tmp_path / "out" / output.LOCK).exists()
  assert json.loads((tmp_path / "out" / output.RESULTS).read_text()) == {"rows": 1}
  assert runs.read_plan(tmp_path / "out") == {"format": runs.COMPARISON.format, **PLAN}


def test_a_result_that_is_there_is_replaced_only_if_asked(tmp_path):
  for overwrite in (False, True):
    folder = runs.RunFolder(tmp_path / "out", PLAN)
    folder.finish({}, overwrite=overwrite)
    again = runs.RunFolder(tmp_path / "out", PLAN)
    if not overwrite:
      with pytest.raises(FileExistsError, match="exists; choose another `output`"):
        again.finish({}, overwrite=False)
      assert again.partial.exists()  # nothing is lost: give another place, or --overwrite


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "expected the folder of a comparison, got one without run.json"),
    ("{", "run.json: expected JSON, got"),
    ("[]", "expected the format diffinv-compare-1, got list"),
    ('{"format": "other"}', "expected the format diffinv-compare-1, got other"),
  ],
)
def test_a_folder_without_a_plan_is_refused(tmp_path, text, message):
  if text is not None:
    (tmp_path / "run.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    runs.read_plan(tmp_path)
