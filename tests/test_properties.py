"""Whatever a flag or a JSON says, a command does its work, or says in one line why not, and harms nothing.

Hypothesis makes up values of every flag of every command, and changes every JSON that a command reads. Whatever comes
of it, a command ends without a traceback, in seconds and with the memory of a small case. Where it succeeds, nothing
has changed but its output. Where it does not, there is one line on standard error, besides notes, and a status of 1 or
2; what was there is there as it was, and nothing else is.

DIFFINV_PROPERTIES=20 tries 20 times as many examples, other ones each time.
"""

import copy
import functools
import importlib
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import hypothesis
import odd_files
import pytest
import tiny_commands as tiny
from hypothesis import strategies as st

from diffinv.apps import main
from diffinv.manifest import NAME
from diffinv.report import page
from diffinv.studies import runs

BESIDE = (".running", ".training", ".building", ".replaced")  # of names of folders in which the work is done
TIMES = int(os.environ.get("DIFFINV_PROPERTIES", "1"))
MEMORY = 4 * 2**30  # bytes that all of these tests together may take


def several(count):
  """Return settings for so many examples."""
  return hypothesis.settings(
    max_examples=count * TIMES,
    derandomize=TIMES == 1,
    phases=[hypothesis.Phase.generate],  # a failure is short as it is
    suppress_health_check=list(hypothesis.HealthCheck),
    report_multiple_bugs=False,
  )


@pytest.fixture(scope="module", autouse=True)
def bounded():
  """Small programs, and no more memory than is stated."""
  with tiny.bounded(MEMORY):
    yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A folder in which every command can be run, with everything that a path may lead to."""
  place = tiny.build(tmp_path_factory.mktemp("world") / "place")
  (place / "odd").mkdir()
  odd_files.make(place / "odd")
  with tiny.within(place):
    yield place


# Flags


def flags_of(command):
  """Return the flags of a command by name."""
  values = importlib.import_module(main.COMMANDS[command][0]).FLAGS
  ours = [flag for module, some in values.flags_by_module_dict().items() if "diffinv" in module for flag in some]
  return {flag.name: flag for flag in ours}


NUMBERS = (
  "0", "1", "2", "3", "-1", "16", "0.5", "1.5", "1e-9", "1e-320", "1e22", "1e308", "1e999", "nan", "-nan", "inf",
  "-inf", "4096", "65536", "2147483648", "4294967295", "4294967296", "9" * 400, "0x10", "1_000", "1,2", "16x16", "1x",
  "0x0", "99999x99999", "ddim2", "ddim0", "logsnr2", "karras5", "mixed3", "1,1,1", "\u0661\u0666", "\u00b2",
)  # fmt: skip
NAMES = (
  "", "~", "~/none", "~nobody/x", "~root", ".", "..", "/", "./", "//", ",", ",,", "a,b", ",a", " ", "\t", "a b", "=",
  "a=", "=1", "a=1", "dps.scale=1", "dps.scale=nan", "dps.rule=x", "dps.steps=2", ".scale=1", "dps.=1", "-", "--",
  "-1x", "*", "\x1b[31mred\x1b[0m", "a\nb", "a\rb", "\x07", "\u202eabc", "\udcff", "\U0001f600", "e\u0301" * 40,
  "x" * 300, "x" * 5000, "x/" * 3000, "true", "none", "null", "{}", "[1]", "%s", "{place}", "$HOME", "`id`", "faces",
  "photos", "natural", "photo", "denoising", "phase_retrieval", "colorization", "inpaint_box", "mri", "dps", "ddrm",
  "red_diff", "speed", "/dev/null", "/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc/self/fd",
  "/proc/none", "/etc/passwd",
)  # fmt: skip
LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")  # of an argument of a process


def texts(place):
  """Give what may stand after a flag's `=`."""
  there = [str(path) for folder in ("in", "odd") for path in sorted((place / folder).iterdir())]
  return st.one_of(
    st.sampled_from(NUMBERS),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(NAMES),
    st.sampled_from(there),
    st.sampled_from(there).map(lambda path: os.path.relpath(path, place / "here")),
    st.lists(st.sampled_from([*NUMBERS, *NAMES, *there]), min_size=2, max_size=4).map(",".join),
    st.text(LETTERS, max_size=12),
  )


@st.composite
def given_flags(draw, command, place):
  """Give one or two flags of a command."""
  known = flags_of(command)
  words = []
  for name in draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=2, unique=True)):
    flag = known[name]
    choices = getattr(flag.parser, "enum_values", None)
    value = draw(st.one_of(st.sampled_from(choices), texts(place)) if choices else texts(place))
    plain = flag.boolean and draw(st.booleans())
    words.append(draw(st.sampled_from((f"--{name}", f"--no{name}"))) if plain else f"--{name}={value}")
  return words


def named(place, words):
  """Return the folders and files that a command line may make: what --output and --compilation_cache name."""
  values = [word.partition("=")[2] for word in words if word.startswith(("--output=", "--compilation_cache="))]
  return [os.path.abspath(place / "here" / os.path.expanduser(value)) for value in values]


def is_of(path, out):
  """Tell whether a path is an output, in one, above one, or a folder beside one in which the work is done."""
  work = [f"{name}{suffix}" for name in out for suffix in ("", *BESIDE)]
  return any(path == name or path.startswith(f"{name}/") or name.startswith(f"{path}/") for name in work)


def holds(words, place, capsys, out):
  """Run a command and check the property: nothing in a place may change besides the paths `out` of its output."""
  before = tiny.snapshot(place)
  capsys.readouterr()
  status, error = tiny.run(words)
  said = capsys.readouterr().err
  after = tiny.snapshot(place)
  assert "Traceback" not in said, said
  if status in (0, None):
    assert "error:" not in said, said
    others = lambda found: {path: value for path, value in found.items() if not is_of(path, out)}
    assert others(before) == others(after)
    return
  assert status in (1, 2) and tiny.is_foreseen(error), (status, error)
  tiny.error_line(said)
  assert before.keys() == after.keys(), (said, before.keys() ^ after.keys())
  # Lines that a stop left half written are cut off before all is checked.
  assert [path for path in before if before[path] != after[path] and not path.endswith(".jsonl")] == []


@pytest.mark.parametrize("command", tiny.LINES)
def test_any_flags_are_taken_or_one_line(command, world, capsys):
  there = tiny.snapshot(world)

  def check(more):
    words = [*tiny.words(command, world), *more]
    try:
      holds(words, world, capsys, named(world, words))
    finally:
      for path in sorted(tiny.snapshot(world).keys() - there.keys()):
        remove(path)

  with tiny.accepting():
    several(60)(hypothesis.given(given_flags(command, world))(check))()


def remove(path):
  """Remove a file, or a folder with all that is in it; nothing where nothing is."""
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path)
  else:
    pathlib.Path(path).unlink(missing_ok=True)


# JSON


class Stored(NamedTuple):
  """A JSON that a command reads."""

  command: str
  state: str  # what lies in the place of the output: a folder of `states`
  file: str  # in it
  more: tuple[str, ...] = ()  # flags


# Every JSON that the tool reads, with every command that does. A new one needs a line here.
STORED = [
  *(Stored(command, "prior", "prior/prior.json", ("--prior={place}/prior",)) for command in tiny.LOADING),
  *(Stored(c, "settings", "settings.json", ("--settings={place}/settings.json",)) for c in tiny.RUNNING[1:]),
  *(
    Stored(command, f"{command}-finished", f"out/{name}", more)
    for command in ("sample", "reconstruct", "compare")
    for name in (runs.PLAN, runs.ROWS, "results.json", NAME)
    for more in ((), ("--overwrite",))
  ),
  *(
    Stored(command, f"{command}-unfinished", f"{tiny.OUTPUTS.get(command, 'out')}.running/{name}", more)
    for command in tiny.RUNNING
    for name in (runs.PLAN, runs.ROWS, NAME)
    for more in ((), ("--restart",))
  ),
  Stored("train", "prior", "prior/prior.json", ("--init={place}/prior",)),
  *(
    Stored("train", "train-unfinished", f"out.training/{name}", more)
    for name in (runs.PLAN, "log.jsonl", NAME)
    for more in ((), ("--restart",))
  ),
  *(Stored("train", "train-finished", f"out/{name}", ("--overwrite",)) for name in ("prior.json", NAME)),
  Stored("tune", "tune-finished", "out.json"),
  Stored("tune", "tune-finished", "out.json", ("--overwrite", "--settings={place}/out.json")),
  *(Stored("report", "compare-finished", f"out/{name}") for name in (runs.PLAN, runs.ROWS, NAME)),
  *(
    Stored("evaluate", "evaluate-finished", f"out/{name}", more)
    for name in ("denoising.json", NAME)
    for more in ((), ("--overwrite",))
  ),
]
DEEP = "lists, 5,000 within one another"  # stands for them: Python could not write them
ANYTHING = [
  None, True, False, 0, -1, 1, 2, 16, 1.5, -0.5, 1e308, 10**30, 10**400, float("nan"), float("inf"), "", "x", "1",
  "nan", "../../in/a.png", "/etc/passwd", "a/b", "..", "\x1b[31m", "\0", "x" * 300, "faces", "dps", "denoising", [],
  [None], [1, 2], [[[]]], ["x"], {}, {"": None}, {"a": {"b": 1}}, DEEP,
]  # fmt: skip


def spots(value, at=()):
  """Give the path to every value in a value from JSON."""
  yield at
  inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for name, entry in inside:
    yield from spots(entry, (*at, name))


@st.composite
def changed(draw, value):
  """Give a value from JSON with one thing in it lost, added, doubled, or something else."""
  value = copy.deepcopy(value)
  at = draw(st.sampled_from(list(spots(value))))
  if not at:
    return draw(st.sampled_from(ANYTHING))
  holder = functools.reduce(lambda inside, name: inside[name], at[:-1], value)
  how = draw(st.sampled_from(("another", "another", "lost", "added", "doubled")))
  if how == "another":
    holder[at[-1]] = draw(st.sampled_from(ANYTHING))
  elif how == "lost":
    del holder[at[-1]]
  else:
    entry = copy.deepcopy(holder[at[-1]]) if how == "doubled" else draw(st.sampled_from(ANYTHING))
    holder.insert(0, entry) if isinstance(holder, list) else holder.update({draw(st.sampled_from(ADDED)): entry})
  return value


ADDED = ("", "x", "steps", "default", "dps", "about", "failed", "skipped", "frames", "__class__", "\x1b[31m")


def dumped(value):
  """Return a value as JSON, as far as JSON has it."""
  return json.dumps(value).replace(json.dumps(DEEP), "[" * 5000 + "]" * 5000).encode()


def signed(row):
  """Return the line of a row with its right digest."""
  if not isinstance(row, dict):
    return dumped(row)
  about = {name: value for name, value in row.items() if name not in ("digest", "files")}
  text = runs.line_text(about, row.get("files", {})).rstrip("\n").replace(json.dumps(DEEP), "[" * 5000 + "]" * 5000)
  return text.encode(errors="surrogatepass")


@st.composite
def damaged(draw, data):
  """Give bytes with a part of them lost, doubled or others."""
  begin = draw(st.integers(0, max(0, len(data) - 1)))
  end = draw(st.one_of(st.just(len(data)), st.integers(begin, min(len(data), begin + 40))))
  bit = bytes([data[begin] ^ 1 << draw(st.integers(0, 7))]) if data else b""
  some = [b"", bit, data[begin:end] * 2, b"\0" * (end - begin), b"\n", b"\xff", b"[", b'"', b"\xef\xbb\xbf", b"1e999"]
  return data[:begin] + draw(st.sampled_from(some)) + data[begin + 1 if draw(st.booleans()) else end :]


@st.composite
def versions(draw, name, data):
  """Give what a file of that name may hold in place of what it does."""
  if draw(st.integers(0, 3)) == 0:
    return draw(damaged(data))
  if not name.endswith(".jsonl"):
    value = draw(changed(json.loads(data)))
    return dumped(draw(changed(value)) if draw(st.booleans()) else value)
  lines = data.splitlines()
  number = draw(st.integers(0, len(lines) - 1))
  line = draw(changed(json.loads(lines[number])))
  line = signed(line) if name.endswith(runs.ROWS) and draw(st.booleans()) else dumped(line)
  how = draw(st.sampled_from(("another", "another", "another", "added", "lost", "last")))
  lines[number : number + 1] = {"another": [line], "added": [line, lines[number]], "lost": [], "last": lines[:1]}[how]
  return b"".join(line + b"\n" for line in lines)


@pytest.fixture(scope="module")
def states(world):
  return tiny.build_states(world)


EXAMPLES = {"report": 5, "train": 5}  # of commands that write much


@pytest.mark.parametrize("stored", STORED, ids=lambda s: " ".join((s.command, s.state, s.file, *s.more)))
def test_any_json_is_taken_or_one_line(stored, world, states, capsys, monkeypatch):
  place = world / "work"
  if stored.command == "compare":
    monkeypatch.setattr(page, "html", lambda run: "a page")  # what it reads, the command `report` is tested with
  whole = (states / stored.state / stored.file).read_bytes()
  words = tiny.LINES[stored.command].replace("{place}/in/compared", str(place / "out")).format(place=world).split()
  words += [word.format(place=place) for word in stored.more]
  words += [] if stored.command == "report" else [f"--output={place / tiny.OUTPUTS.get(stored.command, 'out')}"]

  def check(data, foreign):
    shutil.copytree(states / stored.state, place)
    try:
      (place / stored.file).write_bytes(data)
      mine = {place / "mine.txt", (place / stored.file).with_name("mine.txt") if foreign else place / "mine.txt"}
      for path in mine:
        path.write_text("mine")
      holds(words, place, capsys, [words[-1].partition("=")[2], str(place / "out")])
      kept = [path.read_text() for path in place.rglob("mine.txt")]  # an unfinished folder takes it along
      assert kept == ["mine"] * len(mine)
    finally:
      shutil.rmtree(place)

  there = tiny.snapshot(world)
  several(EXAMPLES.get(stored.command, 12))(hypothesis.given(versions(stored.file, whole), st.booleans())(check))()
  assert tiny.snapshot(world) == there
