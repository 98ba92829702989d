"""A study from Python: what the commands do, by calls; own parts wherever a name goes."""

import dataclasses
import pathlib
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffinv
from diffinv import errors, noise, operators, options, priors
from diffinv.apps import flags as flagging
from diffinv.apps import main
from diffinv.data import bundled, images
from diffinv.methods import DiffPIR, base
from diffinv.operators import LinearOperator
from diffinv.pytree import pytree, static
from diffinv.studies import jobs, restore, runs, settings
from diffinv.studies.restoration import Restoration
from diffinv.studies.study import Study
from diffinv.studies.tune import Search
from diffinv.tasks import TASKS

EXAMPLES = sorted((pathlib.Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
QUICK = {"prior": "natural", "steps": 3, "size": 16, "fit": "resize", "frames": 0}
MARKS = ("psnr", "ssim", "chi2", "residual_norm")


@pytree
class Stripes(LinearOperator):
  """Every other row."""

  in_shape: tuple[int, ...] = static((16, 16, 3))

  def __call__(self, x):
    return x[::2]


@pytree
class Nudge(base.Chain):
  """Move the denoised picture toward y, and nothing else."""

  strength: jax.Array | float = 1.0
  name, title, citation, linear_only = "nudge", "Nudge", "nobody", True

  def update(self, z, x_t, now, nxt, prior, problem):
    denoised = prior.denoise(x_t, now)
    x0 = denoised.x0 + self.strength * problem.operator.pinv(problem.residual(denoised.x0))
    return nxt.alpha * x0 + nxt.sigma * z, {"residual_norm": base.residual_norm(problem, x0)}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
  """A study of own parts, its folder and its results."""
  picture = np.clip(np.random.default_rng(0).normal(0, 0.4, (16, 16, 3)), -1, 1).astype(np.float32)
  study = Study(
    **{**QUICK, "prior": priors.natural(), "size": None, "fit": "none"},
    data=[picture, -picture],
    tasks=[Stripes(), "denoising", ("mine", dataclasses.replace(TASKS["denoising"], title="My noise", sigma=0.5))],
    methods=["diffpir", DiffPIR(weight=0.5), ("half", Nudge(strength=0.5)), Nudge()],
    num_samples=2,
  )
  folder = tmp_path_factory.mktemp("own") / "out"
  return study, folder, diffinv.compare(study, folder)


def untimed(record):
  return {name: value for name, value in record.items() if "seconds" not in name}


@pytest.mark.slow
def test_own_parts_are_compared_and_named_apart(own):
  study, _, results = own
  assert [task["name"] for task in results.plan["tasks"]] == ["stripes", "denoising", "mine"]
  assert [method["name"] for method in results.plan["methods"]] == ["diffpir", "diffpir_2", "half", "nudge"]
  assert {row["image"] for row in results.rows} == {"picture-00", "picture-01"}
  assert len(results.rows) == 3 * 4 * 2 and not any(row.get("failed") for row in results.rows)
  by_method = {row["method"]: row["chi2"] for row in results.rows if row["task"] == "stripes"}
  assert by_method["nudge"] < by_method["half"]  # the fields of an object are its own


def test_rows_are_flat_and_the_means_of_the_records(own):
  _, _, results = own
  for row, record in zip(results.rows, results.records, strict=True):
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in row.values())
    for name in MARKS:
      np.testing.assert_allclose(row[name], np.mean(record[name]), rtol=1e-9)


def test_table_has_a_line_a_task_and_method_and_shows_in_notebooks(own):
  _, _, results = own
  lines = results.table().splitlines()
  assert len(lines) == 1 + 3 * 4 and lines[0].split()[:2] == ["task", "method"]
  assert repr(results.table()) == str(results.table()) and results._repr_html_().startswith("<pre>task")


def test_a_finished_study_is_read_and_another_one_refused(own, monkeypatch):
  study, folder, results = own

  def never(*_, **__):
    raise AssertionError

  monkeypatch.setattr("diffinv.studies.chains.restore", never)
  assert diffinv.compare(study, folder).records == results.records
  for change in ({"seed": 1}, {"methods": ["diffpir", DiffPIR(weight=0.6), ("half", Nudge(strength=0.5)), Nudge()]}):
    with pytest.raises(FileExistsError, match="holds a finished comparison that differs in (`seed`|runs); choose"):
      diffinv.compare(dataclasses.replace(study, **change), folder)


@pytest.mark.slow
def test_a_stopped_study_of_objects_goes_on_to_the_same_rows(own, tmp_path, monkeypatch):
  study, _, results = own
  append, done = runs.RunFolder.append, []

  def stopping(self, rows):
    append(self, rows)
    done.append(rows)
    if len(done) == 5:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(runs.RunFolder, "append", stopping)
    with pytest.raises(KeyboardInterrupt, match="to go on with"):
      diffinv.compare(study, tmp_path / "out")
  other = dataclasses.replace(study, tasks=[Stripes(), "denoising", ("mine", TASKS["denoising"])])
  with pytest.raises(FileExistsError, match="differs in tasks"):
    diffinv.compare(other, tmp_path / "out")
  again = diffinv.compare(study, tmp_path / "out")
  assert list(map(untimed, again.records)) == list(map(untimed, results.records))


def test_page_of_own_parts_says_that_no_command_makes_it(own, tmp_path):
  _, _, results = own
  path = diffinv.write_report(results, tmp_path / "page.html")
  page = path.read_text(encoding="utf-8")
  assert "My noise" in page and "Nudge (half)" in page
  assert "diffinv.compare(study) # from Python: prior, data, tasks, methods of the study are objects" in page


@pytest.mark.slow
def test_a_study_is_what_the_command_runs(tmp_path, capsys):
  flags = ["--prior=natural", "--steps=3", "--size=16", "--fit=resize", "--frames=0", "--tasks=denoising"]
  flags += ["--methods=ddrm,dps", "--set=dps.scale=0.5", "--report=false", "--compilation_cache="]
  assert main.execute(["compare", *flags, f"--output={tmp_path / 'shell'}"]) == 0
  printed = capsys.readouterr().out
  study = Study(**QUICK, tasks="denoising", methods=["ddrm", "dps"], set={"dps.scale": 0.5})
  results = diffinv.compare(study, tmp_path / "python")
  shell = diffinv.read_results(tmp_path / "shell")
  assert list(map(untimed, shell.records)) == list(map(untimed, results.records))
  assert {**shell.plan, "settings": 0} == {**results.plan, "settings": 0}
  assert printed.splitlines()[0] == shell.table().splitlines()[0]


def test_without_a_folder_the_pictures_stay_as_long_as_the_results(monkeypatch):
  results = diffinv.compare(Study(**QUICK, tasks="denoising", methods="ddrm"))
  folder = results.folder
  assert (folder / "pictures").is_dir() and results.rows[0]["psnr"] > 0
  del results
  assert not folder.exists()


def test_flags_of_a_command_are_the_options_of_its_configuration():
  for name, module in main.COMMANDS.items():
    loaded = __import__(module[0], fromlist=["CONFIG"])
    if hasattr(loaded, "CONFIG"):
      missing = set(options.options(loaded.CONFIG)) - set(loaded.FLAGS)
      assert not missing, (name, missing)


def test_the_default_study_is_that_of_the_command():
  from diffinv.apps import compare

  main.parse("compare", compare.FLAGS, [])
  from_flags, study = flagging.make(compare.FLAGS, Study), Study()
  assert {f.name: getattr(from_flags, f.name) for f in dataclasses.fields(Study)} == dataclasses.asdict(study)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"tasks": "magic"}, "`tasks`: expected some of inpaint_box, .*, got 'magic'"),
    ({"tasks": 3}, "`tasks`: expected a name, a Task or an operator, got int"),
    ({"methods": [3]}, "`methods`: expected a name or a method with its fields, got int"),
    ({"methods": []}, "`methods`: expected one or more, each once, got none"),
    ({"num_samples": 0}, "`num_samples`: expected a number from 1 to 10,000, got 0"),
    ({"num_samples": 1.5}, "`num_samples`: expected a whole number, got 1.5"),
    ({"num_samples": 3, "antithetic": True}, "`num_samples`: expected an even number for `antithetic`, got 3"),
    ({"sigma": float("nan")}, "`sigma`: expected a finite number, got nan"),
    ({"sigma": "big"}, "`sigma`: expected a number, got 'big'"),
    ({"fit": "stretch"}, "`fit`: expected one of none, crop, resize, got 'stretch'"),
    ({"convert": 1}, "`convert`: expected true or false, got 1"),
    ({"frames": 1}, "`frames`: expected 0, or at least 2"),
    ({"set": ["scale"]}, "`set`: expected name=value, got 'scale'"),
  ],
)
def test_options_are_held_to_their_meaning_from_python_too(fields, message):
  with pytest.raises(errors.UsageError, match=message):
    study = Study(**fields)
    from diffinv.studies.study import overrides

    overrides(study)


def test_options_in_messages_are_flags_on_the_command_line():
  assert errors.as_flags("`size`: got 3; pass `fit=crop`, see `diffinv train`") == (
    "--size: got 3; pass --fit=crop, see `diffinv train`"
  )


@pytest.mark.parametrize(
  "data, message",
  [
    (np.zeros((16, 16), np.float32), r"expected arrays \[h, w, 3\] of floats in \[-1, 1\], got float32 \(16, 16\)"),
    (np.zeros((16, 16, 3), np.uint8), "got uint8"),
    (np.full((16, 16, 3), 2.0, np.float32), r"expected values in \[-1, 1\], got others"),
    (np.full((16, 16, 3), np.nan, np.float32), r"expected values in \[-1, 1\], got others"),
  ],
)
def test_arrays_that_are_no_pictures_are_refused(data, message):
  with pytest.raises(errors.UsageError, match=message):
    diffinv.compare(Study(prior="natural", data=data, tasks="denoising", methods="ddrm", steps=2))


def test_an_operator_of_another_size_says_which_size_to_pass():
  study = Study(**{**QUICK, "size": 32}, tasks=[Stripes()], methods="diffpir")
  with pytest.raises(
    ValueError, match="expected pictures of 16x16 pixels for this operator, got 32x32; pass `size=16x16`"
  ):
    diffinv.compare(study)


# restore


@pytest.fixture(scope="module")
def photo():
  return images.read(bundled.ASTRONAUT)[64:96, 64:96]


@pytest.mark.slow
def test_restore_is_what_the_command_does(photo, tmp_path):
  """The same mask, measurement and settings: the same picture, from arrays and from files."""
  mask = np.ones((32, 32), np.float32)
  mask[8:20, 4:20] = 0
  y = mask[..., None] * photo
  np.save(tmp_path / "y.npy", y)
  images.write(tmp_path / "mask.png", 2 * mask[..., None] - 1)
  common = {"task": "inpaint_box", "prior": "natural", "steps": 3, "num_samples": 2, "method": "diffpir", "seed": 4}
  arrays = diffinv.restore(y, mask=mask, **common)
  files = diffinv.restore(tmp_path / "y.npy", mask=tmp_path / "mask.png", **common)
  np.testing.assert_array_equal(arrays.samples, files.samples)
  np.testing.assert_array_equal(np.asarray(arrays), np.mean(arrays.samples, axis=0))
  assert arrays.std.shape == photo.shape and len(arrays.marks) == 2 and arrays._repr_png_().startswith(b"\x89PNG")
  flags = [f"--measurement={tmp_path / 'y.npy'}", f"--mask={tmp_path / 'mask.png'}", f"--output={tmp_path / 'out'}"]
  flags += [f"--{name}={value}" for name, value in common.items()]
  assert main.execute(["reconstruct", *flags, "--compilation_cache="]) == 0
  arrays.save(tmp_path / "mean.png")
  assert (tmp_path / "mean.png").read_bytes() == (tmp_path / "out" / "y-mean.png").read_bytes()


@pytest.mark.slow
def test_restore_takes_objects(photo):
  operator = operators.super_resolution(photo.shape, 4)
  problem = diffinv.simulate(jax.random.key(0), operator, noise.Gaussian(0.05), jnp.asarray(photo))
  restored = diffinv.restore(
    np.asarray(problem.y), task=operator, prior=priors.natural(), method=DiffPIR(weight=1.0), steps=5, sigma=0.05
  )
  assert restored.picture.shape == photo.shape and restored.std is None
  np.testing.assert_allclose(restored.marks[0]["chi2"], problem.chi2(jnp.asarray(restored.picture)), rtol=1e-4)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"task": "inpaint_box"}, "`mask` is missing: expected the mask of the measurement for `task=inpaint_box`"),
    ({"task": "motion_blur"}, "`kernel` is missing"),
    ({"task": "compressed_sensing"}, "draws how it measures"),
    ({"task": "denoising", "mask": np.ones((32, 32))}, "`mask` is for inpainting and MRI, got `task=denoising`"),
    ({"task": "inpaint_box", "mask": np.full((32, 32), 0.5)}, "`mask`: expected a mask of 0"),
    ({"task": "inpaint_box", "mask": np.ones((16, 16))}, "`mask`: expected a mask of 32x32 pixels as the picture"),
    ({"task": "gaussian_blur", "kernel": np.ones((4, 4))}, "`kernel`: expected a kernel of odd height and width"),
  ],
)
def test_what_a_measurement_lacks_is_said(fields, message, photo):
  with pytest.raises(ValueError, match=message):
    diffinv.restore(photo, prior="natural", steps=2, **fields)


@pytest.mark.slow
def test_a_picture_is_decoded_once_between_plan_and_chains(photo, tmp_path, monkeypatch):
  (tmp_path / "in").mkdir()
  for name in "ab":
    images.write(tmp_path / "in" / f"{name}.png", photo)
  decode, decoded = images.decode, []
  monkeypatch.setattr(images, "decode", lambda path, **more: decoded.append(path.name) or decode(path, **more))
  config = Restoration(input=str(tmp_path / "in"), task="denoising", prior="natural", steps=2, method="ddrm")
  restore.restore_all(config, tmp_path / "out")
  assert sorted(decoded) == ["a.png", "b.png"]


@pytest.mark.slow
def test_what_memory_has_no_room_for_is_read_for_the_plan_and_for_its_chain_alone(photo, tmp_path, monkeypatch):
  monkeypatch.setattr(jobs, "KEPT_BYTES", 0)
  (tmp_path / "in").mkdir()
  for name in "abcd":
    images.write(tmp_path / "in" / f"{name}.png", photo)
  decode, decoded = images.decode, []
  monkeypatch.setattr(images, "decode", lambda path, **more: decoded.append(path.name) or decode(path, **more))
  shape = {"task": "denoising", "prior": "natural", "steps": 2, "method": "ddrm", "batch_size": 1}
  restore.restore_all(Restoration(input=str(tmp_path / "in"), **shape), tmp_path / "out")
  assert sorted(decoded) == ["a.png"] + [f"{name}.png" for name in "aabbccdd"]  # the first one for the memory, too


# tune


@pytest.mark.slow
def test_a_search_from_python_finds_what_the_command_finds(photo, tmp_path, capsys):
  images.write(tmp_path / "a.png", photo)
  picture = str(tmp_path / "a.png")
  flags = ["--prior=natural", "--steps=3", f"--data={picture}", "--tasks=denoising", "--methods=diffpir"]
  flags += ["--search=diffpir.weight=0.5,2", "--compilation_cache="]
  assert main.execute(["tune", *flags, f"--output={tmp_path / 'shell.json'}"]) == 0
  printed = capsys.readouterr().out
  config = Search(
    prior="natural",
    steps=3,
    data=picture,
    tasks="denoising",
    methods="diffpir",
    search={"diffpir.weight": (0.5, 2.0)},
  )
  tuned = diffinv.tune(config, tmp_path / "python.json")
  found = [settings.read_settings(tmp_path / f"{name}.json") for name in ("shell", "python")]
  assert found[0] == found[1] and tuned.table() in printed
  assert found[0]["diffpir@3"]["denoising"]["weight"] in (0.5, 2.0)


def test_a_search_without_pictures_is_refused_in_a_line(tmp_path):
  with pytest.raises(errors.UsageError, match="`data`: expected pictures to tune on, got none"):
    diffinv.tune(Search(prior="natural"), tmp_path / "s.json")


def test_an_own_method_is_searched_where_values_are_given(photo, tmp_path):
  base_fields = {"prior": "natural", "steps": 3, "data": [photo], "tasks": "denoising"}
  with pytest.raises(errors.UsageError, match="`search`: expected values to try for nudge, which declares none"):
    diffinv.tune(Search(**base_fields, methods=[Nudge()]), tmp_path / "s.json")
  config = Search(**base_fields, methods=[Nudge()], search={"nudge.strength": (0.5, 1.0)})
  tuned = diffinv.tune(config, tmp_path / "s.json")
  assert [candidate.fields for candidate in tuned.outcomes[0].job.found] == [{"strength": 0.5}, {"strength": 1.0}]
  assert "nudge is not in the settings" in tuned.remarks()[0]
  assert "nudge" not in settings.read_settings(tmp_path / "s.json")


# Examples


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "argv", [str(path)])
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    runpy.run_path(str(path), run_name="__main__")
  assert capsys.readouterr().out
