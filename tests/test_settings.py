"""Settings files: what is shipped names what exists, and the layers of defaults."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from diffinv import methods, priors
from diffinv.methods import METHODS
from diffinv.methods.base import POSITIVE
from diffinv.priors import folder as checkpoint
from diffinv.studies import entrants, settings
from diffinv.studies.study import Study
from diffinv.tasks import TASKS

SHIPPED = sorted(settings.FOLDER.glob("*.json"))
every_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
SHAPE = (64, 64, 3)  # larger than any kernel of a task's


def test_the_settings_of_the_literature_are_shipped():
  assert settings.FOLDER / "literature.json" in SHIPPED


@every_file
def test_shipped_settings_name_existing_methods_and_tasks(path):
  for method, entry in settings.of_methods(settings.read_settings(path)).items():
    name, at, _ = method.partition(settings.AT)
    assert name in METHODS
    assert set(entry) <= {settings.STEPS, settings.DEFAULT} | set(TASKS), method
    assert (settings.STEPS in entry) == (not at) and settings.DEFAULT in entry, method


@every_file
def test_shipped_fields_exist_and_have_the_type_of_their_default(path):
  for entry_name, entry in settings.of_methods(settings.read_settings(path)).items():
    method, _, _ = entry_name.partition(settings.AT)
    fields = {field.name: field for field in dataclasses.fields(METHODS[method])}
    for task in set(entry) - {settings.STEPS}:
      for name, value in entry[task].items():
        assert name in fields, f"{method}, {task}: {name}"
        default = fields[name].default
        assert type(value) is type(default), f"{method}, {task}: {name} is {value!r}, the default {default!r}"
        if isinstance(value, str):
          assert value in methods.choices(METHODS[method], name), f"{method}, {task}: {name} is {value!r}"
        elif not isinstance(value, bool):
          assert np.isfinite(value) and value in METHODS[method].ranges.get(name, POSITIVE), (
            f"{method}, {task}: {name} is {value!r}"
          )


@every_file
def test_shipped_steps_make_a_grid(path):
  schedule = priors.natural().schedule
  for method in settings.of_methods(settings.read_settings(path)):
    steps = settings.steps_for(settings.read_settings(path), method)
    assert 2 <= len(schedule.grid(steps).alpha) <= 1001, f"{method}: {steps}"


@functools.cache
def operator_of(task):
  return TASKS[task].make(jax.random.key(0), SHAPE)


@every_file
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_shipped_settings_suit_the_operator_of_their_task(path, task):
  table = settings.read_settings(path)
  for name, _, steps in (entry.partition(settings.AT) for entry in settings.of_methods(table)):
    try:
      methods.check(METHODS[name](), operator_of(task))
    except ValueError:
      continue  # not for this operator, whatever its fields (DDRM without an SVD)
    methods.check(methods.make_method(name, settings.fields_for(table, name, task, steps)), operator_of(task))


TABLE = {
  "dps": {"steps": "ddim50", "default": {"rule": "code", "scale": 0.3}, "denoising": {"scale": 0.7}},
  "sdedit": {"denoising": {"t0": 0.4}},
  "score_ald": {"steps": 25},
  "dps@1000": {"default": {"rule": "code", "scale": 0.03}, "motion_blur": {"scale": 0.07}},
}


@pytest.mark.parametrize(
  "method, task, want",
  [
    ("dps", "denoising", {"rule": "code", "scale": 0.7}),
    ("dps", "motion_blur", {"rule": "code", "scale": 0.3}),
    ("sdedit", "denoising", {"t0": 0.4}),
    ("sdedit", "motion_blur", {}),
    ("score_ald", "denoising", {}),
    ("unknown", "denoising", {}),
  ],
)
def test_a_tasks_fields_are_laid_over_the_default(method, task, want):
  assert settings.fields_for(TABLE, method, task) == want


@pytest.mark.parametrize(
  "task, steps, scale",
  [
    ("denoising", "1000", 0.03),
    ("motion_blur", "1000", 0.07),
    ("denoising", "ddim50", 0.7),
    ("denoising", "100", 0.7),
    ("denoising", None, 0.7),
  ],
)
def test_unusual_steps_have_an_entry_of_their_own(task, steps, scale):
  assert settings.fields_for(TABLE, "dps", task, steps) == {"rule": "code", "scale": scale}


def test_what_is_written_is_read_again(tmp_path):
  settings.write_settings(tmp_path / "a.json", {**TABLE, settings.ABOUT: {"command": "tune"}})
  assert settings.read_settings(tmp_path / "a.json") == TABLE
  assert json.loads((tmp_path / "a.json").read_text())[settings.ABOUT] == {"command": "tune"}


def test_laying_one_over_the_other_changes_neither():
  before = json.dumps(TABLE)
  settings.fields_for(TABLE, "dps", "denoising")["scale"] = 9.0
  assert json.dumps(TABLE) == before


@pytest.mark.parametrize("method, want", [("dps", "ddim50"), ("sdedit", "1000"), ("score_ald", "25"), ("none", "1000")])
def test_steps_are_text_and_a_thousand_where_not_set(method, want):
  assert settings.steps_for(TABLE, method) == want


def test_a_prior_without_a_file_gets_the_literature():
  assert settings.load_settings("no_such_prior") == settings.read_settings(settings.FOLDER / "literature.json")


@every_file
def test_a_prior_with_a_file_gets_it(path):
  table = json.loads(path.read_text())
  table.pop(settings.ABOUT, None)
  assert settings.load_settings(path.stem) == table


@pytest.mark.parametrize("text", ["", "{", "{'dps': {}}", '{"dps": {}} x'])
def test_what_is_no_json_is_an_error_that_names_the_file(tmp_path, text):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(ValueError, match="a.json: expected JSON, got .*; see .*literature.json"):
    settings.read_settings(tmp_path / "a.json")


@pytest.mark.parametrize(
  "value", [[], 3, None, "dps", {"dps": 3}, {"dps": {}, "sdedit": [1]}, {"dps": {"steps": True}}]
)
def test_another_structure_is_an_error_that_names_the_file(tmp_path, value):
  (tmp_path / "a.json").write_text(json.dumps(value))
  with pytest.raises(ValueError, match="settings: expected {method: .*a.json, got another structure"):
    settings.read_settings(tmp_path / "a.json")


@pytest.mark.parametrize("value", [{"dps": {"default": 3}}, {"dps": {"denoising": [0.3]}}, {"dps": {"default": None}}])
def test_a_task_that_is_no_table_is_an_error_when_the_file_is_read(tmp_path, value):
  (tmp_path / "a.json").write_text(json.dumps(value))
  with pytest.raises(ValueError, match="settings: expected {method: .*a.json, got another structure"):
    settings.read_settings(tmp_path / "a.json")


@pytest.mark.parametrize(
  "value, message",
  [
    ({"dpss": {}}, "expected a method in .*a.json, one of mmse, sdedit, .*, got 'dpss'"),
    ({"dps@100": {}, "dpss@100": {}}, "expected a method in .*, got 'dpss'"),
    (
      {"dps": {"inpaint_boxx": {}}},
      "expected a task of dps in .*, one of default, .*, got 'inpaint_boxx'",
    ),
    ({"dps": {"denoising": {"scael": 1.0}}}, "expected a field of dps in .*scale.*, got 'scael'"),
  ],
)
def test_a_slip_in_a_name_is_an_error_when_the_file_is_read(tmp_path, value, message):
  (tmp_path / "a.json").write_text(json.dumps(value))
  with pytest.raises(ValueError, match=f"settings: {message}"):
    settings.read_settings(tmp_path / "a.json")


@pytest.mark.parametrize("bad", [b"\xff\xfe{", b"\x80"])
def test_bytes_that_are_no_text_are_an_error_that_names_the_file(tmp_path, bad):
  (tmp_path / "a.json").write_bytes(bad)
  with pytest.raises(ValueError, match="a.json: expected JSON, got .*; see .*literature.json"):
    settings.read_settings(tmp_path / "a.json")


BEGUN = [
  ({"settings": {"init": "photo"}}, "photo"),
  ({"settings": {"init": "/gone"}, "init": {"settings": {"init": "faces"}}}, "faces"),  # begun from one begun from it
  ({"settings": {"init": str(checkpoint.find_folder("photo"))}}, "photo"),
  ({"settings": {"init": None}, "init": None}, "literature"),
  ({"settings": {"init": "natural"}}, "natural"),
  ({"settings": {"init": "/gone"}}, "literature"),
  ({"settings": {"init": 3}, "init": "photo"}, "literature"),
  ({"settings": "photo"}, "literature"),
  ({}, "literature"),
]


@pytest.mark.parametrize("provenance, name", BEGUN)
def test_a_prior_has_the_settings_of_the_one_that_it_was_begun_from(tmp_path, provenance, name):
  found = json.loads((checkpoint.find_folder("photo") / "prior.json").read_text())
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "prior.json").write_text(json.dumps({**found, "provenance": provenance}))
  assert entrants.name_of_settings(str(tmp_path / "mine")) == name
  config = Study(prior=str(tmp_path / "mine"))
  assert entrants.read_settings(config) == settings.load_settings(name)


def test_a_prior_with_settings_of_its_own_has_those():
  for name in ("photo", "faces", "natural"):
    assert entrants.name_of_settings(name) == name


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="a.json"):
    settings.read_settings(tmp_path / "a.json")


def test_a_file_nested_too_deeply_is_an_error_that_names_it(tmp_path):
  (tmp_path / "s.json").write_text("[" * 100000)
  with pytest.raises(ValueError, match="s.json: expected JSON, got"):
    settings.read_settings(tmp_path / "s.json")
