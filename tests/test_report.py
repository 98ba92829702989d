"""The report: its numbers by hand, its pictures byte for byte, and that no folder can make it a bad page."""

import base64
import hashlib
import html.parser
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from diffinv.apps import compare, main
from diffinv.data import images
from diffinv.manifest import Manifest
from diffinv.report import album, figures
from diffinv.report import page as report
from diffinv.studies import runs, summary

SIZE = 16  # pixels
SAMPLES = 4
FRAMES = 5
T2 = 4.302652729911275  # Student's t, 2 degrees of freedom, 97.5 %
TASKS = [
  {"name": "inpaint_box", "title": "Inpainting, box", "noise": {"kind": "gaussian", "sigma": 0.05}},
  {"name": "motion_blur", "title": "Motion deblurring", "noise": {"kind": "nonoise"}},
]
METHODS = [
  {"name": "dps", "title": "DPS", "citation": "Chung et al., ICLR 2023, arXiv 2209.14687"},
  {"name": "ddrm", "title": "DDRM", "citation": "Kawar et al., NeurIPS 2022, arXiv 2201.11793"},
  {"name": "pigdm", "title": "ΠGDM", "citation": "Song et al., ICLR 2023"},
]
COSTS = {"dps": (100, 100), "ddrm": (20, 0), "pigdm": (100, 0)}
REASON = "ddrm: expected an operator whose SVD is known"
PSNR = {"dps": 30.0, "ddrm": 29.5, "pigdm": 25.0}  # of the first sample of the first picture, dB


def picture(seed):
  return np.random.RandomState(seed).randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def plan(samples=SAMPLES):
  """The contents of run.json: two tasks, three methods, two pictures, one run left out."""
  return {
    "format": "diffinv-compare-1",
    "command": "compare",
    "settings": {
      "prior": "faces",
      "tasks": ["inpaint_box", "motion_blur"],
      "data": ["a b.png", "c.png"],
      "num_images": None,
      "seed": 3,
      "convert": False,
      "overwrite": True,
    },
    "seed": 3,
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "device": {"platform": "cpu", "kind": "cpu", "used": 1},
    "prior": {"name": "faces"},
    "data": "held-out portraits",
    "num_samples": samples,
    "tasks": TASKS,
    "methods": METHODS,
    "images": [{"name": name, "source": f"{name}.png", "shape": [SIZE, SIZE, 3]} for name in ("a", "b")],
    "runs": [
      {
        "task": task["name"],
        "method": method["name"],
        "fields": {"scale": 2.0 if task["name"] == "inpaint_box" else 1.0, "rule": "code"},
        "steps": COSTS[method["name"]][0],
        "evaluations": COSTS[method["name"]][0],
        "gradients": COSTS[method["name"]][1],
        "skipped": REASON if (task["name"], method["name"]) == ("motion_blur", "ddrm") else None,
      }
      for task in TASKS
      for method in METHODS
    ],
  }


def rows(plan):
  """A row for every picture of every run; the second picture is worth 2 dB more, each sample 0.1 dB more."""
  found = []
  for entry in plan["runs"]:
    for i, image in enumerate(plan["images"] if entry["skipped"] is None else []):
      row = {"task": entry["task"], "method": entry["method"], "image": image["name"]}
      row["psnr"] = [PSNR[entry["method"]] + 2.0 * i + 0.1 * k for k in range(plan["num_samples"])]
      row["ssim"] = [0.8 + 0.1 * i] * plan["num_samples"]
      row["chi2"] = [1.0 + 0.5 * (entry["method"] == "dps")] * plan["num_samples"]
      row |= {"seconds": 0.5 * entry["evaluations"], "peak_bytes": 2**21 if entry["method"] == "dps" else None}
      if plan["num_samples"] > 1:
        row |= {"mean_psnr": row["psnr"][0] + 1.0, "mean_ssim": 0.9, "crps": 0.04}
        row["coverage"] = {"levels": [0.2, 0.6], "empirical": [0.1, 0.4 + 0.1 * i]}
      found.append(row)
  return found


def save(path, pixels):
  Image.fromarray(pixels).save(path)


def write_pictures(folder, plan):
  folder.mkdir()
  for i, image in enumerate(plan["images"]):
    name = image["name"]
    save(folder / f"{name}-truth.png", picture(i))
    for t, task in enumerate(TASKS):
      save(folder / f"{name}-{task['name']}-measurement.png", picture(10 + t)[:: 1 + 3 * t, :: 1 + 3 * t])
      for m, method in enumerate(METHODS):
        start = f"{name}-{task['name']}-{method['name']}"
        for k in range(plan["num_samples"]):
          save(folder / f"{start}-{k:02d}.png", picture(100 + 50 * t + 10 * m + k))
        save(folder / f"{start}-chain.png", np.concatenate([picture(1000 + 10 * m + f) for f in range(FRAMES)], axis=1))
        if plan["num_samples"] > 1:
          save(folder / f"{start}-mean.png", picture(300 + m))
          spread = np.linspace(0, 0.2, SIZE * SIZE * 3, dtype=np.float32).reshape(SIZE, SIZE, 3)
          np.save(folder / f"{start}-std.npy", spread)


def write_run(folder, *, samples=SAMPLES, change=lambda plan: None, marks=lambda row: {}):
  """Write the folder of a small comparison; `change` is given run.json's contents first, `marks` adds to a row."""
  folder.mkdir(parents=True)
  made = plan(samples)
  made = json.loads(json.dumps(made))
  found = [{**row, **marks(row)} for row in rows(made)]
  write_pictures(folder / "pictures", made)
  change(made)
  (folder / "run.json").write_text(json.dumps(made))
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
  (folder / "results.json").write_text("{}")
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def own(folder, tmp_path):
  """A folder that the test may damage."""
  return pathlib.Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(folder):
  return report.html(runs.read(folder))


def data_of(page):
  return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


class Words(html.parser.HTMLParser):
  """Collect the text of a page and its elements' attributes."""

  def __init__(self, page):
    super().__init__()
    self.words, self.attributes, self.tags = [], [], []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, name, value) for name, value in attrs]

  def handle_data(self, data):
    self.words.append(data)

  @property
  def text(self):
    return " ".join(" ".join(self.words).split())


# Numbers


def one_run(**more):
  entries = [{"task": "t", "method": "m", "evaluations": 7, "gradients": 2, "skipped": None, **more}]
  images = [{"name": name} for name in "abc"]
  return {"runs": entries, "methods": [{"name": "m"}], "tasks": [{"name": "t"}], "images": images}


def row(image, task="t", **marks):
  return {"task": task, "method": "m", "image": image, **marks}


@pytest.mark.parametrize(
  "empirical, said",
  [
    ((0.21, 0.59), "well calibrated"),
    ((0.199, 0.57), "up to 3 points too sure at the 60 % level"),
    ((0.0, 0.5), "up to 20 points too sure at the 20 % level"),
    ((0.21, 0.71), "up to 11 points too unsure at the 60 % level"),
    ((0.4, 0.4), "too sure at some levels, too unsure at others"),
  ],
)
def test_calibration_is_judged_by_its_largest_gap(empirical, said):
  assert report.verdict((0.2, 0.6), empirical) == said


def test_summary_is_mean_over_pictures_with_student_interval():
  """Means over samples 20, 22, 27: mean 23, variance 13."""
  found = [row("a", psnr=[19.0, 21.0]), row("b", psnr=[22.0, 22.0]), row("c", psnr=[30.0, 24.0])]
  (entry,) = summary.summarize(one_run(), found)
  half = T2 * np.sqrt(13 / 3)
  assert entry["psnr"] == pytest.approx({"mean": 23.0, "low": 23.0 - half, "high": 23.0 + half}, rel=1e-9)
  assert entry["psnr"]["low"] == pytest.approx(14.043315, abs=1e-5)
  assert (entry["count"], entry["evaluations"], entry["gradients"], entry["peak_bytes"]) == (3, 7, 2, None)
  assert "ssim" not in entry and "coverage" not in entry


def test_interval_of_one_picture_is_not_known():
  (entry,) = summary.summarize(one_run(), [row("a", psnr=[20.0], seconds=3.0, peak_bytes=8)])
  assert entry["psnr"] == {"mean": 20.0, "low": None, "high": None}
  assert entry["seconds"] == {"mean": 3.0, "low": None, "high": None}
  assert entry["peak_bytes"] == 8


def test_numbers_that_are_not_finite_are_left_out():
  found = [row("a", psnr=[None, 20.0], chi2=[float("nan")]), row("b", psnr=[float("inf")]), row("c", psnr=[22.0])]
  (entry,) = summary.summarize(one_run(), found)
  assert entry["psnr"]["mean"] == 21.0
  assert "chi2" not in entry


def test_last_row_of_a_picture_counts():
  (entry,) = summary.summarize(one_run(), [row("a", psnr=[1.0]), row("a", psnr=[20.0], peak_bytes=5)])
  assert (entry["count"], entry["psnr"]["mean"], entry["peak_bytes"]) == (1, 20.0, 5)


def test_skipped_run_keeps_its_reason():
  assert summary.summarize(one_run(skipped="no"), []) == [{"task": "t", "method": "m", "skipped": "no"}]


def test_run_without_rows_has_costs_only():
  (entry,) = summary.summarize(one_run(), [])
  costs = {"evaluations": 7, "gradients": 2, "peak_bytes": None}
  assert entry == {"task": "t", "method": "m", "count": 0, "failed": 0, **costs}


def test_pictures_on_which_a_method_failed_are_counted_and_left_out():
  found = [row("a", psnr=[20.0], seconds=1.0), row("b", failed="NaN", seconds=9.0)]
  (entry,) = summary.summarize(one_run(), found)
  assert (entry["count"], entry["failed"], entry["psnr"]["mean"], entry["seconds"]["mean"]) == (1, 1, 20.0, 1.0)
  (entry,) = summary.summarize_methods(one_run(), found)
  assert (entry["count"], entry["failed"], entry["tasks"], entry["psnr"]["mean"]) == (1, 1, 1, 20.0)
  (entry,) = summary.summarize_methods(one_run(), found[1:])
  assert (entry["count"], entry["failed"], entry["tasks"]) == (0, 1, 0)


def test_coverage_is_the_mean_over_pictures():
  curves = [{"levels": [0.5, 0.9], "empirical": e} for e in ([0.4, 0.8], [0.6, 0.9])]
  (entry,) = summary.summarize(one_run(), [row(name, coverage=curve) for name, curve in zip("ab", curves)])
  assert entry["coverage"]["levels"] == [0.5, 0.9]
  assert entry["coverage"]["empirical"] == pytest.approx([0.5, 0.85])


def test_methods_are_summed_up_picture_by_picture():
  """a: (20 + 30) / 2, b: (24 + 30) / 2; c lacks a task."""
  run = one_run()
  run["runs"].append({**run["runs"][0], "task": "u", "evaluations": 9, "gradients": 0})
  run["tasks"].append({"name": "u"})
  found = [row("a", psnr=[20.0]), row("b", psnr=[24.0]), row("c", psnr=[99.0])]
  found += [row("a", "u", psnr=[30.0]), row("b", "u", psnr=[30.0])]
  (entry,) = summary.summarize_methods(run, found)
  assert (entry["tasks"], entry["count"], entry["evaluations"], entry["gradients"]) == (2, 2, 8, 1)
  assert entry["psnr"]["mean"] == 26.0
  assert entry["psnr"]["high"] == pytest.approx(26.0 + 12.706204736, rel=1e-9)  # t of 1, s/sqrt(n) = 1


# The page


def test_page_says_in_a_sentence_what_was_compared(page):
  assert (
    "2 pictures of 16x16 pixels from held-out portraits , measured in 2 ways and restored by 3 methods with the prior "
    "faces : 4 samples for each measurement." in Words(page).text
  )
  assert "Incomplete" not in page


def test_table_holds_means_and_intervals(page):
  """DPS: 30.15 and 32.15 dB; s / sqrt(2) = 1, t of one degree of freedom is 12.706."""
  text = Words(page).text
  assert "DPS 31.15 ± 12.71" in text
  assert "ΠGDM 26.15 ± 12.71" in text
  assert f"DDRM on Motion deblurring: {REASON}" in text


def test_best_of_each_column_is_bold(folder):
  read = runs.read(folder)
  entries = summary.summarize(read.plan, list(read.rows.values()))
  made = report.table("x", [e for e in entries if e["task"] == "inpaint_box"], read.plan, across=False)
  keys = [column.key for column in made["quality"] + made["cost"]]
  best = {key: [r["title"] for r in made["rows"] if r["cells"][i]["best"]] for i, key in enumerate(keys)}
  assert [r["title"] for r in made["rows"]] == ["DPS", "DDRM", "ΠGDM"]
  assert best["psnr"] == ["DPS"]
  assert best["chi2"] == ["DDRM", "ΠGDM"]  # 1.0 is nearer to 1 than 1.5
  assert best["evaluations"] == best["seconds"] == ["DDRM"]
  assert best["gradients"] == ["DDRM", "ΠGDM"]
  assert best["peak_bytes"] == []  # only one is known


def test_what_is_nearest_to_one_comes_first(folder):
  read = runs.read(folder)
  entries = [{**e, "chi2": {"mean": m, "low": None, "high": None}} for e, m in zip(one_entry(read), (4.0, 0.5, 1.1))]
  made = report.table("x", entries, read.plan, across=False)
  place = [column.key for column in made["quality"]].index("chi2")
  order = sorted(made["rows"], key=lambda row: row["cells"][place]["order"])
  assert [row["cells"][place]["text"] for row in order] == ["1.10", "0.50", "4.00"]


def one_entry(read):
  """Return the entries of the first task."""
  return [e for e in summary.summarize(read.plan, list(read.rows.values())) if e["task"] == TASKS[0]["name"]]


def test_method_that_left_out_a_task_is_not_the_best_of_all(folder):
  read = runs.read(folder)
  made = report.table("x", summary.summarize_methods(read.plan, list(read.rows.values())), read.plan, across=True)
  (ddrm,) = [r for r in made["rows"] if r["title"] == "DDRM"]
  assert made["partial"] and ddrm["tasks"] == 1
  assert not any(cell["best"] for cell in ddrm["cells"])


def test_card_names_the_cheap_method_that_is_nearly_as_good(folder):
  read = runs.read(folder)
  entries = summary.summarize(read.plan, list(read.rows.values()))
  found = report.card(read, album.Album(read), TASKS[0], [e for e in entries if e["task"] == "inpaint_box"])
  assert (found["best"], found["psnr"], found["spent"]) == ("DPS", "31.15", "100 evaluations and 100 gradients")
  assert (found["cheap"], found["cheap_psnr"], found["cheap_spent"]) == ("DDRM", "30.65", "20 evaluations")


def test_gradients_count_among_the_costs(tmp_path):
  """DDRM with more evaluations than DPS is the cheap one: 250 of them against 100 and 100 gradients of two each."""

  def change(plan):
    plan["runs"][1]["evaluations"] = 250

  read = runs.read(write_run(tmp_path / "run", change=change))
  entries = [e for e in summary.summarize(read.plan, list(read.rows.values())) if e["task"] == "inpaint_box"]
  found = report.card(read, album.Album(read), TASKS[0], entries)
  assert (found["cheap"], found["cheap_spent"]) == ("DDRM", "250 evaluations")
  (figure,) = report.cost_figures(TASKS[0], entries, report.WEIGHT, read.plan)
  assert figure["label"] == "network evaluations, a gradient as two more" and figure["label"] in figure["svg"]
  assert figure["said"] == ["DPS 31.15 dB at 300", "DDRM 30.65 dB at 250", "ΠGDM 26.15 dB at 100"]


def test_page_loads_nothing(page):
  found = Words(page)
  loading = [(tag, value) for tag, name, value in found.attributes if name in ("src", "srcset", "data", "poster")]
  loading += [(tag, value) for tag, name, value in found.attributes if name == "href" and not value.startswith("#")]
  assert loading and all(value.startswith("data:") for _, value in loading)
  assert not {"iframe", "object", "embed", "base", "form", "audio", "video"} & set(found.tags)
  assert not re.search(r"@import|url\((?!#)", page)
  addresses = set(re.findall(r"https?://[^\"'\s<]*", page))
  assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}  # names of namespaces


def test_policy_allows_the_page_s_script_only(page):
  (policy,) = [
    v for tag, name, v in Words(page).attributes if (tag, name) == ("meta", "content") and "default-src" in v
  ]
  (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert policy.startswith("default-src 'none'; img-src data:;")
  assert f"script-src 'sha256-{digest}'" in policy


def test_names_and_titles_are_text_wherever_they_come_from(tmp_path):
  evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}$x$'

  def change(plan):
    plan["methods"][0]["title"] = plan["tasks"][0]["title"] = plan["prior"]["name"] = plan["data"] = evil
    plan["methods"][0]["citation"] = plan["images"][0]["source"] = evil
    plan["settings"]["data"] = [evil]
    plan["runs"][0]["fields"] = {evil: evil}
    plan["runs"][4]["skipped"] = evil
    plan["versions"][evil] = evil

  page = report.html(runs.read(write_run(tmp_path / "run", change=change)))
  found = Words(page)
  assert found.tags.count("script") == 2 and not any(name == "onerror" for _, name, _ in found.attributes)
  assert "<script>alert" not in page and "<img src=x" not in page
  assert data_of(page)["methods"][0] == evil
  assert evil in " ".join(found.words)


def test_names_of_elements_are_unique_and_headings_in_order(page):
  found = Words(page)
  names = [value for _, name, value in found.attributes if name == "id"]
  assert len(names) == len(set(names))
  levels = [int(tag[1]) for tag in found.tags if re.fullmatch(r"h[1-6]", tag)]
  assert levels[0] == 1 and levels.count(1) == 1
  assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_figures_take_their_colors_from_the_page(page):
  for svg in re.findall(r"<svg xmlns.*?</svg>", page, re.S):
    assert "var(--series-" in svg and not re.search(r"#[0-9a-f]{6}\b", svg)
  assert len(re.findall(r"<svg xmlns", page)) == 2 * 2 + 3  # two costs of two tasks; coverage of three methods


def test_page_is_the_same_each_time(folder, page):
  assert report.html(runs.read(folder)) == page


def test_page_of_one_sample_has_no_distribution(tmp_path):
  page = report.html(runs.read(write_run(tmp_path / "run", samples=1)))
  assert "Calibration" not in page and "CRPS" not in page and 'value="mean"' not in page
  assert "1 sample for each measurement" in Words(page).text


# Pictures


def decoded(data, number):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["pictures"][number]))).convert("RGB"))


def test_pictures_of_a_small_comparison_are_kept_to_the_byte(page):
  data = data_of(page)
  cell = data["cells"][1][0]
  np.testing.assert_array_equal(decoded(data, cell["methods"][2]["samples"][3]), picture(100 + 20 + 3))
  np.testing.assert_array_equal(decoded(data, cell["methods"][1]["mean"]), picture(301))
  assert data["cells"][0][1]["measured"] == [4, 4]
  assert data["cells"][0][1]["methods"][1] is None  # left out
  assert data["tasks"][1]["skipped"] == [["DDRM", REASON]]


def test_equal_pictures_are_stored_once(page):
  """The samples of both images are equal here."""
  data = data_of(page)
  first, second = (data["cells"][i][1]["methods"][0]["samples"] for i in range(2))
  assert first == second
  assert len(data["pictures"]) == len({p or str(i) for i, p in enumerate(data["pictures"])})


@pytest.mark.parametrize("limit", [album.LIMIT, 60_000, 1000])
@pytest.mark.slow
def test_every_file_is_decoded_at_most_once_for_a_page(folder, monkeypatch, limit):
  """In the first codec, after several were tried, and where the page has no room for all pictures."""
  read, decoded, arrays, encoded = images.read_written, [], [], []
  read_array, encode = images.read_array, album._encode
  monkeypatch.setattr(images, "read_written", lambda path: decoded.append(path.name) or read(path))
  monkeypatch.setattr(images, "read_array", lambda path: arrays.append(path.name) or read_array(path))
  monkeypatch.setattr(
    album, "_encode", lambda im, quality: encoded.append((im.tobytes(), quality)) or encode(im, quality)
  )
  monkeypatch.setattr(album, "LIMIT", limit)
  report.html(runs.read(folder))
  assert len(decoded) == len(set(decoded)) and len(arrays) == len(set(arrays))
  if limit == album.LIMIT == 20e6:
    there = {path.name for path in (folder / "pictures").iterdir()}
    left_out = {name for name in there if "motion_blur-ddrm" in name}
    assert {*decoded, *arrays} == there - left_out
    assert len(encoded) == len(decoded) + len(arrays)  # a picture each of files and of standard deviations


def test_what_is_kept_from_the_estimate_is_bounded(folder, page, monkeypatch):
  monkeypatch.setattr(album, "KEPT", 3 * 3 * SIZE * SIZE)
  keep, most = album.Album.keep, []

  def kept(self, name, image):
    keep(self, name, image)
    most.append(sum(map(album._bytes, self._decoded.values())))

  monkeypatch.setattr(album.Album, "keep", kept)
  assert report.html(runs.read(folder)) == page
  assert max(most) == album.KEPT


def test_standard_deviation_is_stored_with_its_scale(page):
  """From 0 to 0.2: the percentile that ends the scale rounds up to 0.2."""
  data = data_of(page)
  cell = data["cells"][0][0]
  assert cell["spread"] == 0.2
  gray = decoded(data, cell["methods"][0]["spread"])
  assert gray[0, 0, 0] == 0 and gray[-1, -1, 0] == 255
  np.testing.assert_allclose(gray[SIZE // 2, 0] / 255 * 0.2, 0.1, atol=0.2 / 255)


def test_scale_of_errors_is_that_of_the_worst_method(page):
  truth = picture(0).astype(float)
  errors = [np.abs(picture(100 + 10 * m) - truth).mean(axis=-1) / 127.5 for m in range(3)]
  wanted = max(np.percentile(error, album.EXTREME) for error in errors)
  assert wanted <= data_of(page)["cells"][0][0]["error"] <= wanted + 0.1


def test_frames_of_a_chain_are_thinned_out_and_wrapped(folder, monkeypatch):
  read = runs.read(folder)
  strip = album.read_chain(read, "a-inpaint_box-dps-chain.png", read.plan["images"][0])
  monkeypatch.setattr(album, "LONGEST_SIDE", 2 * SIZE)
  atlas, frames, columns = album._atlas(strip, read.plan["images"][0], 3)
  assert (frames, columns, atlas.size) == (3, 2, (2 * SIZE, 2 * SIZE))
  pixels = np.asarray(atlas)
  np.testing.assert_array_equal(pixels[:SIZE, SIZE:], picture(1002))
  np.testing.assert_array_equal(pixels[SIZE:, :SIZE], picture(1004))


def test_frames_of_a_chain_are_fewer_where_one_picture_has_no_room_for_more(folder, monkeypatch):
  read = runs.read(folder)
  strip = album.read_chain(read, "a-inpaint_box-dps-chain.png", read.plan["images"][0])
  monkeypatch.setattr(album, "LONGEST_SIDE", 2 * SIZE)
  atlas, frames, columns = album._atlas(strip, read.plan["images"][0], FRAMES)
  assert (frames, columns, atlas.size) == (4, 2, (2 * SIZE, 2 * SIZE))
  np.testing.assert_array_equal(np.asarray(atlas)[SIZE:, SIZE:], picture(1004))
  monkeypatch.setattr(album, "LONGEST_SIDE", SIZE)  # room for one, which is no chain
  page = report.html(read)
  assert 'value="steps"' not in page and "chain" not in data_of(page)["cells"][0][0]["methods"][0]


def test_chain_of_one_frame_is_its_start_and_not_shown(own):
  """What --frames=1 left, when there was such a thing."""
  for path in (own / "pictures").glob("*-chain.png"):
    save(path, picture(1000))
  assert 'value="steps"' not in report.html(runs.read(own))


def test_strip_of_frames_may_be_larger_than_a_photograph(folder, page, monkeypatch):
  """A photograph of 64 megapixels is the largest; its chain is many times as large."""
  monkeypatch.setattr(images, "MAX_PIXELS", SIZE * SIZE)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE * SIZE)
  assert report.html(runs.read(folder)) == page


def test_strip_that_is_larger_than_any_is_refused(folder, monkeypatch):
  strip = folder / "pictures" / "a-inpaint_box-dps-chain.png"
  with monkeypatch.context() as patch, pytest.raises(ValueError, match="expected at most 1279 pixels, got more"):
    patch.setattr(images, "MAX_STRIP_PIXELS", FRAMES * SIZE * SIZE - 1)
    report.html(runs.read(folder))
  assert images.read_written(strip).size == (FRAMES * SIZE, SIZE)


def test_large_comparison_is_stored_with_loss(folder, page, monkeypatch):
  monkeypatch.setattr(album, "LIMIT", 60_000)
  read = runs.read(folder)
  assert album.Album(read).codec.pictures is not None
  small = report.html(read)
  assert "stored with some loss" in small and "stored with some loss" not in page
  assert (
    sum(len(p or "") for p in data_of(small)["pictures"]) < sum(len(p or "") for p in data_of(page)["pictures"]) / 2
  )


# Folders that are not finished, or damaged


def test_page_of_a_very_large_comparison_holds_the_first_pictures_only(folder, page, monkeypatch):
  monkeypatch.setattr(album, "LIMIT", 1000)
  read = runs.read(folder)
  small = report.html(read)
  said = "Only the first 1 of 2 are shown here; the numbers are of all."
  assert said in Words(small).text and said not in Words(page).text
  data = data_of(small)
  assert [image["name"] for image in data["images"]] == ["a"] and len(data["cells"]) == 1
  assert set(re.findall(r'alt="(\w), ', small)) == {"a"} and set(re.findall(r'alt="(\w), ', page)) == {"a", "b"}
  assert "DPS 31.15 ± 12.71" in Words(small).text


def test_as_many_pictures_are_on_the_page_as_it_has_room_for(folder, monkeypatch):
  read = runs.read(folder)
  monkeypatch.setattr(album, "_row_bytes", lambda *_: 100.0)
  for limit, count in ((1000, 2), (999, 1), (500, 1), (10, 1)):  # five rows a picture
    monkeypatch.setattr(album, "LIMIT", limit)
    assert album.Album(read).images == count


def test_batch_sizes_are_told_where_rows_have_them(own, page):
  assert "chains at once" not in page
  rewrite(own, lambda number, row: {**row, "batch_size": 8 if number else 4})
  text = Words(report.html(runs.read(own))).text
  assert "Time and memory are with up to 4 and 8 chains at once. Changed on the way: the batch size." in text


def test_what_time_and_memory_depend_on_is_told_where_it_changed(own, page):
  assert "Changed on the way" not in page
  rewrite(own, lambda number, row: {**row, "devices": 8 if number else None, "remat": bool(number)})
  text = Words(report.html(runs.read(own))).text
  assert "Changed on the way: the number of devices, rematerialization." in text


def rewrite(folder, change):
  """Change the rows: `change` is given the number of each and the row, and returns another, or None for none."""
  found = map(json.loads, (folder / "rows.jsonl").read_text().splitlines())
  kept = [json.dumps(row) for row in (change(*pair) for pair in enumerate(found)) if row is not None]
  (folder / "rows.jsonl").write_text("".join(line + "\n" for line in kept))


def test_method_that_has_finished_fewer_pictures_wins_nothing(own):
  """DPS has finished the easier picture only, and would win with 32.15 dB."""
  (own / "results.json").unlink()
  rewrite(own, lambda _, row: None if (row["method"], row["image"]) == ("dps", "a") else row)
  read = runs.read(own)
  entries = one_entry(read)
  made = report.table("x", entries, read.plan, across=False)
  first = made["rows"][0]
  assert (first["title"], first["unfinished"], made["unfinished"]) == ("DPS", True, True)
  assert not any(cell["best"] for cell in first["cells"])
  assert [row["unfinished"] for row in made["rows"][1:]] == [False, False]
  assert report.card(read, album.Album(read), TASKS[0], entries)["best"] == "DDRM"
  methods = summary.summarize_methods(read.plan, list(read.rows.values()))
  assert report.highlights(read.plan, methods) == []  # ΠGDM alone has finished all, and is the best of none
  text = Words(report.html(read)).text
  assert "DPS 1 of 2 pictures" in text and "DDRM 1 of 2 pictures" not in text
  assert "Only methods that have finished the most pictures compete for the best" in text


def test_comparison_that_is_still_going_is_marked(own):
  (own / "results.json").unlink()
  lines = (own / "rows.jsonl").read_text().splitlines()
  (own / "rows.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # torn
  page = report.html(runs.read(own))
  assert "Incomplete. 3 of 10 restorations have finished" in Words(page).text
  data = data_of(page)
  assert data["cells"][0][0]["methods"][2] is None and data["cells"][0][1] is None


def fail(folder, task, method, images=("a", "b")):
  """Turn rows into those of a method that failed, which has no pictures."""
  lines = []
  for found in map(json.loads, (folder / "rows.jsonl").read_text().splitlines()):
    if (found["task"], found["method"]) == (task, method) and found["image"] in images:
      for picture in (folder / "pictures").glob(f"{found['image']}-{task}-{method}-*"):
        picture.unlink()
      names = {name: found[name] for name in ("task", "method", "image", "seconds")}
      found = {**names, "failed": "NaN or infinity in 1 of 4 chains"}
    lines.append(json.dumps(found))
  (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def test_method_that_failed_is_told_and_wins_nothing(own):
  fail(own, "inpaint_box", "dps", ["a"])
  read = runs.read(own)
  entries = [e for e in summary.summarize(read.plan, list(read.rows.values())) if e["task"] == "inpaint_box"]
  made = report.table("x", entries, read.plan, across=False)
  first = made["rows"][0]
  assert (first["title"], first["failed"], made["failed"]) == ("DPS", 1, True)  # 32.15 dB, of the easier picture
  assert not any(cell["best"] for cell in first["cells"])
  assert report.card(read, album.Album(read), TASKS[0], entries)["best"] == "DDRM"
  page = report.html(read)
  assert "DPS on Inpainting, box, 1 of 2 pictures: NaN or infinity in 1 of 4 chains" in Words(page).text
  assert "DPS failed on 1 picture" in Words(page).text and "Incomplete" not in page
  cell = data_of(page)["cells"][0][0]
  assert cell["methods"][0] is None and cell["failed"] == ["NaN or infinity in 1 of 4 chains", None, None]


def test_comparison_in_which_all_failed_is_a_page(own):
  for task, method in itertools.product(("inpaint_box", "motion_blur"), COSTS):
    fail(own, task, method)
  page = report.html(runs.read(own))
  assert "DDRM on Inpainting, box, 2 of 2 pictures: NaN" in Words(page).text
  assert data_of(page)["cells"] == [[None, None]] * 2


@pytest.mark.parametrize("there", [True, False])
def test_comparison_that_has_just_begun_is_a_page(own, there):
  (own / "results.json").unlink()
  (own / "rows.jsonl").write_text("") if there else (own / "rows.jsonl").unlink()
  page = report.html(runs.read(own))
  assert "0 of 10 restorations" in page and "Nothing has finished yet." in page


def in_plan(change):
  def damage(folder):
    plan = json.loads((folder / "run.json").read_text())
    change(plan)
    (folder / "run.json").write_text(json.dumps(plan))

  return damage


def in_row(**fields):
  def damage(folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **fields})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")

  return damage


def in_pictures(name, write):
  return lambda folder: write(folder / "pictures" / name)


DAMAGES = {
  "no run.json": (lambda f: (f / "run.json").unlink(), "expected the folder of a comparison, got one without run.json"),
  "run.json is cut": (lambda f: os.truncate(f / "run.json", 50), "run.json: expected JSON"),
  "another format": (in_plan(lambda p: p.update(format="x")), "expected the format diffinv-compare-2, got 'x'"),
  "no methods": (in_plan(lambda p: p.pop("methods")), "the field 'methods' is missing"),
  "task without title": (in_plan(lambda p: p["tasks"][0].pop("title")), "the field 'title' is missing at tasks[0]"),
  "run without steps": (in_plan(lambda p: p["runs"][1].pop("steps")), "expected runs[1].steps to be a whole number"),
  "name with a folder": (
    in_plan(lambda p: p["images"][0].update(name="../x")),
    "to be part of a file's name, got '../x'",
  ),
  "flat shape": (in_plan(lambda p: p["images"][1].update(shape=[4, 4])), "expected images[1].shape to be [h, w, c]"),
  "line is cut": (
    lambda f: (f / "rows.jsonl").write_text('{"task": \n' + (f / "rows.jsonl").read_text()),
    "line 1: expected JSON, got only its beginning",
  ),
  "row of nothing": (
    in_row(method="other"),
    "line 2: expected method to be one of run.json, dps, ddrm, pigdm, got 'other'",
  ),
  "mark is text": (in_row(psnr="high"), "line 2: expected a list or null at psnr, got text"),
  "uneven curve": (in_row(coverage={"levels": [0.5], "empirical": []}), "expected coverage to be levels and empirical"),
  "picture is gone": (
    in_pictures("a-inpaint_box-dps-02.png", pathlib.Path.unlink),
    "a-inpaint_box-dps-02.png: expected the picture of a finished row, found none",
  ),
  "picture is cut": (in_pictures("b-truth.png", lambda p: os.truncate(p, 60)), "b-truth.png: expected"),
  "picture is small": (
    in_pictures("a-inpaint_box-dps-mean.png", lambda p: save(p, picture(0)[:8])),
    "expected 16x16 pixels, got 16x8",
  ),
  "chain is uneven": (
    in_pictures("a-inpaint_box-dps-chain.png", lambda p: save(p, np.zeros((16, 40, 3), np.uint8))),
    "expected frames of 16x16 pixels side by side, got 40x16",
  ),
  "spread is text": (
    in_pictures("a-inpaint_box-dps-std.npy", lambda p: p.write_text("x")),
    "expected a .npy array of numbers",
  ),
}


@pytest.mark.parametrize("damage, message", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_one_line_that_says_what_to_do(damage, message, own, capsys):
  damage(own)
  before = sorted(os.listdir(own))
  assert main.execute(["report", str(own)]) == 1
  said = capsys.readouterr()
  assert said.out == "" and len(said.err.splitlines()) == 1
  assert message in said.err and ";" in said.err
  assert sorted(os.listdir(own)) == before


# The command


def test_command_writes_the_page_into_the_folder(own, capsys):
  assert main.execute(["report", str(own)]) == 0
  assert str(own / "report.html") in capsys.readouterr().out
  assert (own / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
  assert (own / "report.html").stat().st_size < 1e6


@pytest.mark.parametrize("words", [["{run}", "--output={out}"], ["--output={out}", "--run={run}"]])
def test_command_writes_where_it_is_told(words, folder, tmp_path):
  out = tmp_path / "page.html"
  assert main.execute(["report", *(word.format(run=folder, out=out) for word in words)]) == 0
  assert out.is_file() and not (folder / "report.html").exists()


@pytest.mark.parametrize(
  "words, message, code",
  [
    ([], "RUN is missing", 2),
    (["a", "b"], "expected flags only, got 'b'", 2),
    (["a", "--output=x.pdf"], "--output: expected a name that ends in .html, got 'x.pdf'", 2),
    (["{run}-x"], "expected the folder of a comparison, found none there; check the path", 1),
    (["{run}", "--output={run}/none/x.html"], "expected a folder, ", 1),
  ],
)
def test_command_refuses_in_one_line(words, message, code, folder, capsys):
  assert main.execute(["report", *(word.format(run=folder) for word in words)]) == code
  said = capsys.readouterr().err
  assert message in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_page_is_written_of_results_or_of_a_folder(folder, page, tmp_path):
  results = types.SimpleNamespace(folder=folder)
  for number, given in enumerate((results, folder, str(folder))):
    path = report.write_report(given, tmp_path / f"{number}.html")
    assert path == tmp_path / f"{number}.html" and path.read_text(encoding="utf-8") == page


def test_folder_that_is_still_being_written_is_named(own, capsys):
  own.rename(own.with_name("run.running"))
  assert main.execute(["report", str(own)]) == 1
  assert f"it is still going: name {own}.running" in capsys.readouterr().err


def test_page_is_replaced_in_full_or_not_at_all(own, monkeypatch):
  Manifest.begin(own, "comparison", "compare").add("report.html")
  (own / "report.html").write_text("old")

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  before = sorted(os.listdir(own))
  with pytest.raises(OSError, match="disk full"):
    report.write(own)
  assert (own / "report.html").read_text() == "old" and sorted(os.listdir(own)) == before


def test_a_page_that_was_written_is_made_anew_and_no_other_file_is_replaced(own, tmp_path):
  page, other = own / "report.html", tmp_path / "other.html"
  for path in (page, other):
    path.write_text("mine")
  for path in (None, other):
    with pytest.raises(FileExistsError, match="html exists; choose another `output`, or replace it with `overwrite`"):
      report.write(own, path)
  assert page.read_text() == other.read_text() == "mine"
  report.write(own, other, overwrite=True)
  page.unlink()
  Manifest.begin(own, "comparison", "compare")
  for _ in range(2):
    report.write(own)
  assert page.read_text() == other.read_text() != "mine"
  assert list(Manifest.read(own).names) == ["report.html"]


def test_command_line_gives_the_settings_back():
  words = shlex.split(" ".join(report.command_line(plan())))
  assert words == [
    "diffinv",
    "compare",
    "--prior=faces",
    "--tasks=inpaint_box,motion_blur",
    "--data=a b.png",
    "--data=c.png",
    "--seed=3",
    "--overwrite",
  ]
  main.parse("compare", compare.FLAGS, words[2:])
  assert compare.FLAGS.tasks == ["inpaint_box", "motion_blur"] and compare.FLAGS.data == ["a b.png", "c.png"]


def test_command_line_of_a_command_that_is_gone_says_what_it_was_given():
  gone = {**plan(), "command": "other", "settings": {"a": [1, 2], "b": False, "c": "x y", "d": None}}
  words = ["diffinv", "other", "--a=1,2", "--nob", "'--c=x y'"]
  assert report.command_line(gone) == words
  assert report.command_line(gone, {"a": report.Known([], repeated=True), "b": report.Known(False)}) == [
    *("diffinv", "other", "--a=1", "--a=2", "'--c=x y'")
  ]


# Figures


def point(x, y, series=0):
  return figures.Point(f"method {series}", series, x, y, None, None)


def test_what_does_not_compete_is_drawn_beside_the_frontier(monkeypatch):
  seen = []
  monkeypatch.setattr(figures, "frontier", lambda points: seen.extend(points) or points)
  points = [point(10, 20), point(10, 25, 1)._replace(competes=False)]
  assert 'data-series="1"' in figures.cost(points, "x", "y", "aside") and seen == points[:1]


def test_frontier_is_what_no_other_method_beats():
  points = [point(10, 20), point(100, 25), point(100, 24), point(50, 19), point(200, 25)]
  assert figures.frontier(points) == [points[0], points[1]]


def test_labels_keep_clear_of_points_and_of_each_other():
  frame, taken = (0, 0, 300, 200), [(95, 95, 105, 105)]
  boxes = []
  for _ in range(6):
    boxes.append(figures.place_label((100, 100), (60, 12), taken + boxes, frame))
  assert all(figures._overlap(a, b) == 0 for i, a in enumerate(boxes) for b in taken + boxes[:i])
  assert all(x0 >= 0 and x1 <= 300 and y0 >= 0 and y1 <= 200 for x0, y0, x1, y1 in boxes)


def test_methods_of_one_cost_are_drawn_apart():
  svg = figures.cost([point(100, 20 + i, i) for i in range(4)], "x", "y", "apart")
  places = re.findall(r'data-series="\d+">.*?<use xlink:href="#\w+" x="([\d.]+)"', svg, re.S)
  assert len({round(float(x)) for x in places}) == 4
