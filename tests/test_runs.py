"""The folder of a comparison survives stops: rows are whole, plans are told apart, the end is in full or not at all."""

import json

import numpy as np
import pytest

from diffinv import files, manifest
from diffinv.studies import runs

PLAN = {
  "prior": {"name": "natural"},
  "num_samples": 1,
  "tasks": [{"name": "denoising", "title": "Denoising"}],
  "methods": [{"name": "dps", "title": "DPS"}],
  "runs": [],
  "settings": {"tasks": ["denoising"], "batch_size": 4, "output": "out", "overwrite": False},
  "lpips": {"sha256": "0"},
  "images": [{"name": name, "shape": [1, 1, 1], "sha256": "0"} for name in "abc"],
  "versions": {"jax": "0"},
  "device": {"kind": "cpu"},
}


def row(image, method="dps", **marks):
  return {"task": "denoising", "method": method, "image": image, **marks}


def changed(**parts):
  return {**PLAN, **parts}


def lines(folder):
  return (folder / "rows.jsonl").read_text().splitlines()


def begun(path, plan=PLAN, rows=(), **held):
  """Write rows into a folder, and close it."""
  folder = runs.RunFolder(path / "out", plan)
  with folder.held(**held):
    folder.append([(found, ()) for found in rows])
  return folder


def test_rows_are_lines_and_come_back(tmp_path):
  folder = begun(tmp_path, rows=[row("a", psnr=[20.5]), row("b", psnr=[float("inf")])])
  begun(tmp_path, rows=[row("c")])
  assert [json.loads(line)["image"] for line in lines(folder.partial)] == ["a", "b", "c"]
  found = runs.read_rows(folder.partial)
  assert [r["image"] for r in found] == ["a", "b", "c"] and found[:2] == list(folder.rows.values())
  assert folder.rows["denoising", "dps", "b"]["psnr"] == [None]  # JSON has no infinity
  assert not (tmp_path / "out").exists()


def test_a_row_that_is_there_is_not_written_again(tmp_path):
  begun(tmp_path, rows=[row("a", psnr=[1.0])])
  folder = begun(tmp_path, rows=[row("a", psnr=[2.0]), row("b")])
  assert len(lines(folder.partial)) == 2 and folder.rows["denoising", "dps", "a"]["psnr"] == [1.0]
  keys = [("denoising", "dps", image) for image in "abc"]
  assert folder.missing(keys) and not folder.missing(keys[:2]) and folder.missing([("denoising", "sdedit", "a")])


def test_a_stop_within_a_line_loses_that_line_only(tmp_path):
  first = begun(tmp_path, rows=[row("a"), row("b")])
  with open(first.partial / "rows.jsonl", "a") as file:
    file.write('{"task": "denoising", "method": "dps", "ima')
  again = begun(tmp_path, rows=[row("c")])
  assert [image for _, _, image in again.rows] == ["a", "b", "c"]
  assert [r["image"] for r in runs.read_rows(again.partial)] == ["a", "b", "c"]


def test_a_line_without_its_end_is_not_a_row(tmp_path):
  (tmp_path / "rows.jsonl").write_text(json.dumps(row("a")))  # whole JSON, but the stop may have come before more
  assert runs.read_rows(tmp_path) == []
  assert runs.read_rows(tmp_path / "nothing") == []


DAMAGES = {
  "a number": lambda text: text.replace(b"20.5", b"21.5"),
  "a name": lambda text: text.replace(b'"psnr"', b'"psnx"'),
  "the name of the digest": lambda text: text.replace(b'"digest"', b'"digesu"'),
  "no JSON": lambda text: b"{damaged",
  "nothing": lambda text: b"",
  "zeros": lambda text: b"\0" * len(text),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_named_and_made_anew_where_the_run_goes_on(tmp_path, damage, capsys):
  folder = begun(tmp_path, rows=[row("a", psnr=[20.5]), row("b", psnr=[20.5]), row("c")])
  whole = (folder.partial / "rows.jsonl").read_bytes().splitlines()
  (folder.partial / "rows.jsonl").write_bytes(b"\n".join([whole[0], DAMAGES[damage](whole[1]), whole[2]]) + b"\n")
  with pytest.raises(ValueError, match=r"rows.jsonl, line 2: expected a row as it was written, got a damaged one"):
    runs.read_rows(folder.partial)
  again = begun(tmp_path)
  assert [image for _, _, image in again.rows] == ["a", "c"]
  assert "rows.jsonl, line 2 is damaged; its work is done anew" in capsys.readouterr().err
  assert (folder.partial / "rows.jsonl").read_bytes().splitlines() == [whole[0], whole[2]]


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n", b"\0", b"\0\n", b"{"])
def test_rows_that_hold_no_row_leave_nothing_to_those_that_come(tmp_path, text):
  folder = begun(tmp_path, rows=[row("a")])
  (folder.partial / "rows.jsonl").write_bytes(text)
  begun(tmp_path, rows=[row("b")])
  assert [found["image"] for found in runs.read_rows(folder.partial)] == ["b"]


@pytest.mark.parametrize("lost", ["missing", "empty", "changed"])
def test_a_row_whose_picture_is_lost_is_made_anew(tmp_path, lost, capsys):
  picture = np.zeros((4, 4, 3), np.float32)
  folder = runs.RunFolder(tmp_path / "out", PLAN)
  with folder.held():
    for image in "ab":
      folder.append([(row(image), folder.write({f"pictures/{image}.png": picture, f"pictures/{image}.npy": picture}))])
  path = folder.partial / "pictures" / "a.npy"
  data = path.read_bytes()
  if lost == "missing":
    path.unlink()
  else:
    path.write_bytes(b"" if lost == "empty" else data[:-1] + b"x")
  assert [image for _, _, image in begun(tmp_path).rows] == ["b"]
  assert "pictures/a.npy is missing or damaged; it is made anew" in capsys.readouterr().err


def test_two_processes_do_not_write_at_once(tmp_path):
  one, other = (runs.RunFolder(tmp_path / "out", PLAN) for _ in range(2))
  with one.held():
    for restart in (False, True):
      with pytest.raises(FileExistsError, match=r"another process writes into .*out.running; wait for it"):
        with other.held(restart=restart):
          pass
    one.append([(row("a"), ())])
  with other.held():
    assert len(other.rows) == 1  # what came in between counts


@pytest.mark.parametrize("text", ["", "{", '{"format": "diffinv-com', "[]", '{"format": "other"}', "\0\0\0"])
def test_a_damaged_plan_is_thrown_away_when_asked_and_at_once_where_nothing_is_lost(tmp_path, text):
  folder = begun(tmp_path, rows=[row("a")])
  (folder.partial / runs.PLAN).write_text(text)
  with pytest.raises(ValueError, match="`restart` throws away what is there"):
    begun(tmp_path)
  assert not begun(tmp_path, restart=True).rows
  (folder.partial / runs.PLAN).write_text(text)
  begun(tmp_path)  # no row is there
  assert runs.read_plan(folder.partial) == {"format": runs.COMPARISON.format, **PLAN}


@pytest.mark.parametrize(
  "plan, name",
  [
    (changed(settings={**PLAN["settings"], "tasks": ["colorization"]}), "`tasks`"),
    (changed(lpips={"sha256": "1"}), "lpips"),
    (changed(images=[{"name": "a", "shape": [1, 1, 1], "sha256": "1"}]), "images"),
    (changed(versions={"jax": "1"}), r"versions \(jax 0, now 1\)"),
    (changed(settings={**PLAN["settings"], "antithetic": True}), "`antithetic`"),
  ],
)
def test_another_comparison_does_not_go_on_in_the_folder(tmp_path, plan, name):
  folder = begun(tmp_path, rows=[row("a")])
  with pytest.raises(FileExistsError, match=f"unfinished comparison that differs in {name}; .*`restart`"):
    begun(tmp_path, plan)
  assert len(lines(folder.partial)) == 1
  assert not begun(tmp_path, plan, restart=True).rows


@pytest.mark.parametrize(
  "plan",
  [
    PLAN,
    changed(device={"kind": "other"}),
    changed(settings={**PLAN["settings"], "output": "elsewhere", "overwrite": True, "devices": 2, "batch_size": 1}),
  ],
)
def test_what_changes_no_result_may_change(tmp_path, plan):
  begun(tmp_path, rows=[row("a")])
  assert begun(tmp_path, plan).rows
  one, other = (runs.planned(some, runs.COMPARISON) for some in (plan, PLAN))
  assert runs.plan_digest(one) == runs.plan_digest(other)


def test_a_comparison_begun_before_samples_came_in_pairs_goes_on_without_them(tmp_path):
  begun(tmp_path, rows=[row("a")])
  assert begun(tmp_path, changed(settings={**PLAN["settings"], "antithetic": False})).rows


def test_a_comparison_begun_before_plans_said_which_lpips_goes_on(tmp_path):
  begun(tmp_path, {name: value for name, value in PLAN.items() if name != "lpips"}, [row("a")])
  assert begun(tmp_path).rows


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
  folder = begun(tmp_path, rows=[row("a")])
  with folder.held():
    folder.new("pictures/a-truth.png").write_text("x")
  kept = [folder.partial / "pictures" / name for name in ("my.partial-1", ".hidden.png", f".b.png{files.PARTIAL}1")]
  left = [folder.partial / name for name in (f"pictures/.a-truth.png{files.PARTIAL}123", f".run.json{files.PARTIAL}4")]
  for path in kept + left:
    path.write_text("x")
  runs.RunFolder(tmp_path / "out", PLAN)  # another may write: only who holds the folder removes anything
  assert all(path.exists() for path in left)
  with folder.held():
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_the_folder_gets_its_name_at_the_end(tmp_path):
  folder = begun(tmp_path, rows=[row("a")])
  with folder.held():
    folder.finish({"rows": 1}, overwrite=False)
  assert not folder.partial.exists() and not (tmp_path / "out" / manifest.LOCK).exists()
  assert runs.read_results(tmp_path / "out", runs.COMPARISON) == {"rows": 1}
  assert runs.read_plan(tmp_path / "out") == {"format": runs.COMPARISON.format, **PLAN}
  assert sorted(manifest.Manifest.read(tmp_path / "out").names) == ["results.json", "rows.jsonl", "run.json"]


def test_work_that_is_done_is_known_and_other_work_is_not_taken_for_it(tmp_path):
  plan, out = changed(), tmp_path / "out"
  assert not runs.is_done(out, plan)
  folder = begun(tmp_path)
  with folder.held():
    folder.finish({}, overwrite=False)
  assert runs.is_done(out, plan) and not runs.is_done(out, plan, overwrite=True)
  with pytest.raises(FileExistsError, match="holds a finished comparison that differs in lpips; choose another"):
    runs.is_done(out, changed(lpips=None))
  (out / "run.json").write_text("{")
  with pytest.raises(FileExistsError, match="exists; choose another `output`"):
    runs.is_done(out, plan)


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "expected the folder of a comparison, got one without run.json"),
    ("{", "run.json: expected JSON, got"),
    ("[]", "run.json: expected a table, got a list"),
    ('{"format": "other"}', "expected the format diffinv-compare-2, got .other"),
  ],
)
def test_a_folder_without_a_plan_is_refused(tmp_path, text, message):
  if text is not None:
    (tmp_path / "run.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    runs.read_plan(tmp_path)


# Folders of several processes


def shared(path, rows, *, plan=PLAN, process=1):
  """Write rows with a picture each as another process than the first."""
  other = runs.RunFolder(path / "out", plan, process=process)
  with other.held():
    names = [other.write({f"pictures/{found['image']}.npy": np.full((2,), i)}) for i, found in enumerate(rows)]
    other.append(list(zip(rows, names, strict=True)))
  return other


def test_what_other_processes_finished_is_taken_over(tmp_path):
  first = begun(tmp_path, rows=[row("a")])
  for process, image in ((1, "b"), (2, "c")):
    other = shared(tmp_path, [row(image, psnr=[1.5])], process=process)
    assert other.partial == first.partial / "processes" / str(process) and other.path == first.path
  again = begun(tmp_path)
  assert [image for _, _, image in again.rows] == ["a", "b", "c"] and again.taken == {
    "pictures/b.npy",
    "pictures/c.npy",
  }
  assert runs.read_rows(first.partial) == [row("a"), row("b", psnr=[1.5]), row("c", psnr=[1.5])]
  assert not (first.partial / "processes").exists()
  assert not manifest.Manifest.read(first.partial).foreign()
  assert begun(tmp_path).rows == again.rows


@pytest.mark.parametrize("call", ["replace", "append"])
def test_taking_over_may_be_cut_off_anywhere(tmp_path, monkeypatch, call):
  first = begun(tmp_path, rows=[row("a")])
  shared(tmp_path, [row("b"), row("c")])
  place, calls = {"replace": (runs.os, 1), "append": (runs.files, 0)}[call]
  honest, left = getattr(place, call), [calls]

  def cut(path, *rest):
    if "pictures" in str(path) or str(path).endswith(runs.ROWS):
      if not left[0]:
        raise OSError(28, "full")
      left[0] -= 1
    return honest(path, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(place, call, cut)
    with pytest.raises(OSError, match="full"):
      begun(tmp_path)
  again = begun(tmp_path)
  assert [image for _, _, image in again.rows] == ["a", "b", "c"]
  for i, image in enumerate("bc"):
    assert np.load(first.partial / "pictures" / f"{image}.npy").tolist() == [i, i]


def test_only_what_is_whole_and_of_the_same_plan_is_taken_over(tmp_path, capsys):
  first = begun(tmp_path, rows=[row("a")])
  damaged = shared(tmp_path, [row("b")])
  (damaged.partial / "pictures" / "b.npy").write_bytes(b"damaged")
  shared(tmp_path, [row("c")], plan=changed(num_samples=2), process=2)
  assert [image for _, _, image in begun(tmp_path).rows] == ["a"]
  assert "b.npy is missing or damaged; it is made anew" in capsys.readouterr().err
  assert not (first.partial / "processes").exists()


def test_nothing_is_taken_from_a_process_that_is_at_work(tmp_path):
  begun(tmp_path, rows=[row("a")])
  other = runs.RunFolder(tmp_path / "out", PLAN, process=3)
  with other.held(), pytest.raises(FileExistsError, match="another process writes into .*processes.3"):
    begun(tmp_path)


def test_another_process_knows_the_rows_of_the_first_and_refuses_other_options(tmp_path):
  begun(tmp_path, rows=[row("a")])
  other = runs.RunFolder(tmp_path / "out", PLAN, process=1)
  other.read_others()
  assert [*other.rows] == [("denoising", "dps", "a")]
  different = runs.RunFolder(tmp_path / "out", changed(num_samples=2), process=1)
  with pytest.raises(ValueError, match="expected the options of process 0, got others: num_samples"):
    different.read_others()
