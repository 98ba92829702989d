"""The table of harm: what once wiped, hung, flooded or misled, and does no more, of every command that could.

Which flags name a path is asked of the commands themselves, so that a new one joins by itself.
"""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
import shutil
import typing
from types import UnionType

import numpy as np
import odd_files
import pytest
import tiny_commands as tiny

from diffinv import files, options
from diffinv.apps import main, shared
from diffinv.manifest import Manifest
from diffinv.priors.description import FIELDS
from diffinv.studies import runs

MEMORY = 2**30  # bytes; what is refused is refused before it is read
COMMANDS = tuple(tiny.LINES)
FOLDERS = tuple(command for command in COMMANDS if command not in tiny.OUTPUTS)  # write a folder
PRIOR_READERS = (*tiny.LOADING, "train")


@pytest.fixture(scope="module", autouse=True)
def bounded():
  """Small programs, quick chains, and no more memory than is stated."""
  with tiny.bounded(MEMORY):
    yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A folder in which every command can be run, and what each one wrote, finished and not, in `states`."""
  place = tiny.build(tmp_path_factory.mktemp("world") / "place")
  with tiny.within(place):
    tiny.build_states(place)
    yield place


@pytest.fixture
def work(world):
  """A folder to write to."""
  (world / "work").mkdir()
  yield world / "work"
  shutil.rmtree(world / "work")
  for path in world.glob("out*"):  # that a command wrote which should have been refused
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def refused(words, world, capsys):
  """Run a command that must be refused; check that it says so in one line and changes nothing. Return the line."""
  before = tiny.snapshot(world)
  capsys.readouterr()
  status, error = tiny.run(words)
  said = capsys.readouterr().err
  assert status in (1, 2) and tiny.is_foreseen(error), (status, error, said)
  assert tiny.snapshot(world) == before
  return tiny.error_line(said)


# Flags that name paths


def takes_paths(annotation):
  """Tell whether a path is among the values of a type."""
  parts = typing.get_args(annotation)
  nested = isinstance(annotation, UnionType) or typing.get_origin(annotation) is tuple
  return any(map(takes_paths, parts)) if nested else (typing.get_origin(annotation) or annotation) is os.PathLike


@functools.cache
def path_flags(command):
  """Return the flags of a command that name a path: options that take one, and texts that are no options."""
  module = importlib.import_module(main.COMMANDS[command][0])
  configs = [value for value in vars(module).values() if dataclasses.is_dataclass(value) and options.options(value)]
  fields = {name: field for config in configs for name, (field, _) in options.options(config).items()}
  ours = [f for name, some in module.FLAGS.flags_by_module_dict().items() if "diffinv" in name for f in some]
  texts = [f.name for f in ours if not f.boolean and f.name not in fields and "Alias" not in type(f).__name__]
  return [name for name, field in fields.items() if takes_paths(field.type) and name in module.FLAGS] + texts


WRITES = ("output", "compilation_cache")
PATHS = [(command, name) for command in COMMANDS for name in path_flags(command)]
READS = [(command, name) for command, name in PATHS if name not in WRITES]
# What a flag needs.
BESIDES = {
  ("reconstruct", "mask"): ["--task=inpaint_random"],
  ("reconstruct", "kernel"): ["--task=motion_blur"],
  ("reconstruct", "blur"): ["--task=motion_blur"],
  ("compare", "lpips"): ["--size=32", "--fit=resize"],
  ("evaluate", "settings"): ["--measures=restoration"],
}
# What a flag may name, in `in`.
GOOD = {
  "prior": "prior", "init": "prior", "data": "photos", "input": "a.png", "measurement": "y.npy", "mask": "mask.png",
  "kernel": "kernel.npy", "blur": "kernel.npy", "settings": "settings.json", "lpips": "weights.safetensors",
  "run": "compared",
}  # fmt: skip
ENDINGS = {("tune", "output"): ".json", ("report", "output"): ".html"}


def line(command, name, value, place, *more):
  """Return a command line in which a flag has a value, without what contradicts it."""
  others = ("--input=",) if name == "measurement" else ()
  words = [word for word in tiny.words(command, place) if not word.startswith((f"--{name}=", *others))]
  return [*words, *BESIDES.get((command, name), ()), f"--{name}={value}", *map(str, more)]


def test_the_flags_that_name_paths_are_known():
  assert set(path_flags("reconstruct")) == {
    *("prior", "settings", "input", "measurement", "mask", "kernel", "blur"), *WRITES,
  }  # fmt: skip
  assert set(path_flags("convert")) == {"input", "output"} and set(path_flags("report")) == {"run", "output"}
  assert {name for _, name in READS} == set(GOOD)


@pytest.mark.parametrize("command, name", PATHS)
def test_what_is_no_file_is_refused_by_its_name_at_once(command, name, world, work, capsys, monkeypatch):
  monkeypatch.delenv(shared.CACHE_VARIABLE)
  for kind, path in odd_files.make(work, ENDINGS.get((command, name), "")).items():
    if name in WRITES and kind in ("missing", "folder"):
      continue
    if kind == "folder" and GOOD[name] in ("prior", "photos", "a.png", "y.npy", "compared"):
      path = path / "in it"
    said = refused(line(command, name, path, world), world, capsys)
    assert path.name in said or path.parent.name in said, kind


@pytest.mark.parametrize("command, name", READS)
def test_a_huge_file_is_refused_before_it_is_read(command, name, world, work, capsys):
  path = work / f"huge{pathlib.Path(GOOD[name]).suffix}"
  if path.suffix == ".npy":
    array = np.lib.format.open_memmap(path, "w+", np.float32, (16384, 16384, 3))
    del array
  else:
    path.touch()
    os.truncate(path, 2**31 + 1)
  refused(line(command, name, path, world), world, capsys)


# Outputs


PLACES = {
  "is": lambda path: path,
  "contains": lambda path: path.parent,
  "lies in": lambda path: path / "out",
  "is a link to": lambda path: path.with_name("link"),
}


@pytest.mark.parametrize("command, name", [read for read in READS if read[0] in FOLDERS])
def test_no_output_has_to_do_with_what_is_read(command, name, world, work, capsys):
  found = world / "in" / GOOD[name]
  (work / "holder").mkdir()
  path = work / "holder" / found.name
  shutil.copytree(found, path) if found.is_dir() else shutil.copy(found, path)
  path.with_name("link").symlink_to(path)
  Manifest.begin(work / "holder", "comparison", "compare").add(path.name, "link")
  for how in ("is", "contains", "is a link to", *(["lies in"] if found.is_dir() else [])):
    words = line(command, name, path, world, f"--output={PLACES[how](path)}", "--overwrite")
    assert f"a place apart from --{name}" in refused(words, world, capsys), how


@pytest.mark.parametrize("where", [".", "..", "~", "~/../here", "/"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_project_is_never_replaced_whatever_lies_in_it(command, where, world, work, capsys):
  for name in ("results.json", "prior.json", "run.json", "mine.txt"):
    (world / "here" / name).write_text("{}")
  kind = {"convert": "prior", "train": "prior", "evaluate": "evaluation"}.get(command, "drawing")
  Manifest.begin(world / "here", kind, command).add("results.json", "mine.txt")
  try:
    more = [f"--output={where}", "--overwrite", *(["--restart"] if command in ("train", *tiny.RUNNING) else [])]
    refused([*tiny.words(command, world), *more], world, capsys)
  finally:
    for path in (world / "here").iterdir():
      path.unlink()


@pytest.mark.parametrize("command", [*tiny.RUNNING, "train"])
def test_restart_spares_the_files_of_others_one_s_own_input_among_them(command, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-unfinished", work, dirs_exist_ok=True)
  (unfinished,) = work.iterdir()
  shutil.copytree(world / "in" / "photos", unfinished / "photos")
  output = [f"--output={work / tiny.OUTPUTS.get(command, 'out')}", "--restart"]
  assert "photos" in refused([*tiny.words(command, world), *output], world, capsys)
  reading = next((name for name in ("input", "data") if (command, name) in READS), None)
  if reading is not None:
    words = line(command, reading, unfinished / "photos", world, *output)
    assert f"apart from --{reading}" in refused(words, world, capsys)


@pytest.mark.parametrize("command", [command for command in FOLDERS if command not in ("convert", "evaluate")])
def test_overwrite_spares_the_files_of_others(command, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-finished", work, dirs_exist_ok=True)
  (work / "out" / "thesis.txt").write_text("mine")
  words = [*tiny.words(command, world), f"--output={work / 'out'}", "--overwrite"]
  assert "thesis.txt" in refused(words, world, capsys)


@pytest.mark.parametrize("command", tiny.OUTPUTS)
def test_a_file_is_replaced_only_if_asked(command, world, work, capsys):
  path = work / tiny.OUTPUTS[command]
  path.write_text("mine")
  words = [*tiny.words(command, world), f"--output={path}"]
  assert path.name in refused(words, world, capsys)
  assert tiny.run([*words, "--overwrite"]) == (0, None) and path.read_text() != "mine"


# Remains


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_dead_process_left_half_written_goes_and_what_others_write_stays(command, world, work, capsys):
  out = work / tiny.OUTPUTS.get(command, "out")
  if command in tiny.OUTPUTS:
    dead = work / f".{out.name}.partial-1"
  else:
    suffix = {"convert": ".building", "train": ".training", "evaluate": ""}.get(command, ".running")
    place = work / f"out{suffix}"
    place.mkdir()
    name = {"convert": "prior.json", "evaluate": "denoising.json"}.get(command, runs.PLAN)
    noun = {"convert": "prior", "train": "training run", "evaluate": "evaluation", "sample": "drawing"}
    kind = {**noun, "reconstruct": "restoration", "compare": "comparison"}[command]
    Manifest.begin(place, kind, command).add(name)
    dead = place / f".{name}.partial-1"
  alive, other = work / f".{out.name}.partial-2", work / ".notes.txt.partial-1"
  for path in (dead, alive, other):
    path.write_text("half")
  with open(alive) as held:
    files.lock(held.fileno())
    assert tiny.run([*tiny.words(command, world), f"--output={out}"]) == (0, None), capsys.readouterr().err
    assert list(work.rglob(dead.name)) == [] and alive.exists() and other.exists()


# Damage


def flip(data, bit):
  return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("command", PRIOR_READERS)
def test_a_flipped_bit_in_any_array_of_a_prior_is_refused(command, world, work, capsys):
  import tensorstore

  shutil.copytree(world / "in" / "prior", work / "prior")
  store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{work / 'prior' / 'params'}/"}).result()
  chunks = [name for name in store.list().result() if not name.endswith(b"/.zarray")]
  assert len(chunks) > 10
  flag = "init" if command == "train" else "prior"
  for name in chunks if command == "sample" else chunks[:1]:
    whole = store[name]
    store.write(name, flip(whole, 4 * len(whole))).result()
    said = refused(line(command, flag, work / "prior", world), world, capsys)
    assert str(work / "prior") in said and "array" in said
    store.write(name, whole).result()


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "null_label"])  # null there is none
@pytest.mark.parametrize("command", PRIOR_READERS)
def test_null_for_any_field_of_a_prior_is_refused_by_its_name(command, field, world, work, capsys):
  shutil.copytree(world / "in" / "prior", work / "prior")
  path = work / "prior" / "prior.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), field: None}))
  said = refused(line(command, "init" if command == "train" else "prior", work / "prior", world), world, capsys)
  assert f"prior.json: expected {'text' if field == 'format' else ''}" in said or field in said


DAMAGES = {
  "a row that is a list": lambda row: [row],
  "a row that is a number": lambda row: 1,
  "a mark that is missing": lambda row: {name: value for name, value in row.items() if name not in ("psnr", "chi2")},
  "a mark that is text": lambda row: {**row, "psnr": "high", "chi2": "low", "clipped_fraction": "some"},
  "samples that are a number": lambda row: {**row, "samples": 1, "images": 1, "seconds": "long"},
  "a time that is missing": lambda row: {n: v for n, v in row.items() if n not in ("run_seconds", "compile_seconds")},
  "a shape of nothing": lambda row: {**row, "shape": [], "samples": [], "images": [], "seconds": -1.0},
  "names that the plan has not": lambda row: {**row, "name": "z", "task": "z", "number": 9, "candidate": 9},
  "a mark that is empty": lambda row: {**row, "psnr": [], "samples": []},
  "a name that is null": lambda row: {**row, "name": None, "task": None, "number": None},
}


def signed(row):
  """Return the line of a row, with a digest that is right."""
  if not isinstance(row, dict):
    return json.dumps(row) + "\n"
  return runs.line_text({n: v for n, v in row.items() if n not in ("digest", "files")}, row["files"])


def change_rows(path, change, *, sign):
  rows = [json.loads(text) for text in path.read_text().splitlines()]
  changed = [change(rows[0]), *rows[1:]]
  path.write_text("".join(signed(row) if sign else json.dumps(row) + "\n" for row in changed))


def everything(place):
  """Return the names of all files, and what pictures hold."""
  found = [path for path in place.rglob("*") if path.is_file()]
  return {path.relative_to(place): path.read_bytes() if path.suffix in (".png", ".npy") else None for path in found}


@pytest.mark.parametrize("sign", [False, True], ids=["damaged", "edited"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("command", tiny.RUNNING)
def test_of_rows_that_are_no_rows_the_work_is_done_anew(command, damage, sign, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-unfinished", work, dirs_exist_ok=True)
  change_rows(next(work.glob(f"*.running/{runs.ROWS}")), damage, sign=sign)
  words = [*tiny.words(command, world), f"--output={work / tiny.OUTPUTS.get(command, 'out')}"]
  assert tiny.run(words) == (0, None), capsys.readouterr().err
  found, whole = everything(work), everything(world / "states" / f"{command}-finished")
  assert found.keys() == whole.keys() and (sign or found == whole)


@pytest.mark.parametrize("command", ["sample", "reconstruct", "compare"])
def test_lost_and_damaged_pictures_are_made_anew(command, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-unfinished", work, dirs_exist_ok=True)
  rows = [json.loads(text) for text in (work / "out.running" / runs.ROWS).read_text().splitlines()]
  (work / "out.running" / next(iter(rows[0]["files"]))).unlink()
  damaged = work / "out.running" / next(iter(rows[1]["files"]))
  damaged.write_bytes(flip(damaged.read_bytes(), 1000))
  assert tiny.run([*tiny.words(command, world), f"--output={work / 'out'}"]) == (0, None)
  assert capsys.readouterr().err.count("is missing or damaged; it is made anew") == 2
  assert everything(work) == everything(world / "states" / f"{command}-finished")


def in_json(change):
  def damage(path):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))

  return damage


@pytest.mark.parametrize(
  "name, damage",
  [
    *((runs.ROWS, functools.partial(change_rows, change=change, sign=True)) for change in list(DAMAGES.values())[:2]),
    (runs.ROWS, functools.partial(change_rows, change=DAMAGES["a mark that is text"], sign=True)),
    (runs.ROWS, functools.partial(change_rows, change=DAMAGES["a mark that is missing"], sign=False)),
    (runs.PLAN, in_json(lambda plan: plan.update(settings="none"))),
    (runs.PLAN, in_json(lambda plan: plan.update(tasks={}))),
    (runs.PLAN, in_json(lambda plan: plan["prior"].update(name=["natural"]))),
    (runs.PLAN, in_json(lambda plan: plan["runs"][0].update(fields=[1]))),
    (runs.PLAN, in_json(lambda plan: plan["tasks"][0].update(noise=[1]))),
    (runs.PLAN, in_json(lambda plan: plan["settings"].update(batch_size=[1]))),
    (runs.PLAN, in_json(lambda plan: plan.update(objects=1))),
    (runs.PLAN, in_json(lambda plan: plan["runs"][0].update(evaluations=-1))),
    (runs.ROWS, functools.partial(change_rows, change=lambda row: {**row, "seconds": -1.0}, sign=True)),
    (runs.ROWS, functools.partial(change_rows, change=lambda row: {**row, "seconds": 1e308}, sign=True)),
    (runs.PLAN, in_json(lambda plan: plan["images"][0].update(name="../../in/a"))),
  ],
)
def test_a_page_of_what_is_no_comparison_is_refused(name, damage, world, work, capsys):
  shutil.copytree(world / "states" / "compare-finished", work, dirs_exist_ok=True)
  damage(work / "out" / name)
  assert name in refused(["report", f"--run={work / 'out'}"], world, capsys)


@pytest.mark.parametrize("settings", ["none", None, [], {"steps": {}}])
@pytest.mark.parametrize("command", tiny.RUNNING)
def test_a_plan_with_other_settings_is_not_gone_on_with(command, settings, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-unfinished", work, dirs_exist_ok=True)
  in_json(lambda plan: plan.update(settings=settings))(next(work.glob(f"*.running/{runs.PLAN}")))
  words = [*tiny.words(command, world), f"--output={work / tiny.OUTPUTS.get(command, 'out')}"]
  assert "--restart" in refused(words, world, capsys)


FINISHED = {
  ("reconstruct", "out/results.json"): [
    lambda found: found["images"][0].update(samples=[]),
    lambda found: found["images"][1].pop("samples"),
    lambda found: found["images"].clear(),
    lambda found: found.update(method="ddrm"),
  ],
  ("sample", "out/results.json"): [lambda found: found.update(files=2), lambda found: found.pop("shape")],
  ("tune", "out.json"): [
    lambda found: found["about"]["found"].clear(),
    lambda found: found.update(dps=1),
    lambda found: found["about"]["found"][0]["tried"].pop(),
    lambda found: found["about"]["found"][0]["tried"][0].update(psnr="high"),
  ],
  ("evaluate", "out/denoising.json"): [
    lambda found: found["tables"][0]["rows"][0].pop(),
    lambda found: found["tables"][0].update(digits=[-1]),
    lambda found: found["tables"][0]["rows"][0].__setitem__(0, None),
  ],
}


@pytest.mark.parametrize(
  "command, name, change", [(*key, change) for key, changes in FINISHED.items() for change in changes]
)
def test_finished_work_of_which_the_numbers_are_damaged_is_refused_by_name(command, name, change, world, work, capsys):
  shutil.copytree(world / "states" / f"{command}-finished", work, dirs_exist_ok=True)
  in_json(change)(work / name)
  words = [*tiny.words(command, world), f"--output={work / tiny.OUTPUTS.get(command, 'out')}"]
  assert str(work / name) in refused(words, world, capsys)


@pytest.mark.parametrize("value", [True, 1, [], {}])
@pytest.mark.parametrize("name", ["data", "config", "network", "optimizer", "init"])
def test_a_prior_whose_training_has_other_than_texts_is_refused(name, value, world, work, capsys):
  shutil.copytree(world / "in" / "prior", work / "prior")
  in_json(lambda about: about["provenance"]["settings"].update({name: value}))(work / "prior" / "prior.json")
  assert "--prior" in refused(line("evaluate", "prior", work / "prior", world), world, capsys)


def test_a_comparison_without_its_page_gets_it_from_the_same_command(world, work, capsys):
  shutil.copytree(world / "states" / "compare-finished", work, dirs_exist_ok=True)
  page = (work / "out" / "report.html").read_bytes()
  (work / "out" / "report.html").unlink()
  assert tiny.run([*tiny.words("compare", world), f"--output={work / 'out'}"]) == (0, None)
  assert (work / "out" / "report.html").stat().st_size > len(page) / 2
  assert "report.html" in Manifest.read(work / "out").names


# Numbers


@pytest.mark.parametrize(
  "command, flag",
  [
    *((command, f"--size={size}") for command in tiny.RUNNING for size in ("1000000000", "1e22", "65536", "1" * 400)),
    *((command, "--num_samples=1000000000") for command in tiny.RUNNING),
    *((command, "--steps=1000000000") for command in tiny.RUNNING),
    ("reconstruct", "--noise=poisson --rate=1e300"),
    ("reconstruct", "--sigma=1e300"),
    ("reconstruct", "--method=diffpir --set=weight=1e300"),
    ("compare", "--set=dps.scale=1e300"),
    ("tune", "--search=dps.scale=1e300"),
    ("train", "--channels=1000000"),
    ("train", "--middle_blocks=65"),
    ("train", "--steps=100000000000"),
    ("train", "--size=65536 --patch=16"),
  ],
)
def test_numbers_without_measure_are_refused_before_the_work(command, flag, world, work, capsys):
  words = [*tiny.words(command, world), *flag.split(), f"--output={work / tiny.OUTPUTS.get(command, 'out')}"]
  if "--size" in flag and command != "sample" and command != "train":
    words.append("--fit=resize")
  refused(words, world, capsys)
