"""How the code is laid out: rooms that import downward only, short functions, one language, a complete package."""

import ast
import configparser
import pathlib
import re
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffinv"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
# From the work down to what is measured and known; what is not named lies below all of these.
WORK = ("apps", "report", "studies", "training", "verification")
MEDIAN, MOST, LONGEST = 7, 20, 40  # lines of a function without its docstring: half, nine of ten, all


def room(module):
  """Return the folder or the root module that a module belongs to."""
  parts = module.split(".")
  return parts[1] if len(parts) > 1 else "diffinv"


def imports(module):
  """Give the modules of the package that a module imports, wherever in it."""
  for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      parts = name.split(".")
      while parts[0] == "diffinv" and len(parts) > 1:
        known = ".".join(parts)
        if known in MODULES or f"{known}.__init__" in MODULES:
          yield known
          break
        parts.pop()


GRAPH = {(room(module), room(other)) for module in MODULES for other in imports(module)}


def test_no_room_imports_from_one_above_it():
  rank = {name: len(WORK) - i for i, name in enumerate(WORK)}
  upward = [(one, other) for one, other in GRAPH if rank.get(other, 0) > rank.get(one, 0)]
  assert upward == []


def test_rooms_import_each_other_in_no_circle():
  below = {}
  for one, other in GRAPH:
    if one != other and one != "__init__":
      below.setdefault(one, set()).add(other)

  def reached(start):
    seen, waiting = set(), [start]
    while waiting:
      for name in below.get(waiting.pop(), ()):
        if name not in seen:
          seen.add(name)
          waiting.append(name)
    return seen

  assert [name for name in below if name in reached(name)] == []


def test_flags_are_read_in_the_apps_alone():
  users = {module for module, path in MODULES.items() if re.search(r"^\s*(from|import) absl\b", path.read_text(), re.M)}
  assert {room(module) for module in users} == {"apps"}


def functions():
  """Give every function's place and its length without its docstring."""
  for module, path in MODULES.items():
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.FunctionDef):
        first = node.body[0]
        told = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
        yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - told * (first.end_lineno - first.lineno + 1)


def test_functions_are_short():
  lengths = sorted(length for _, length in functions())
  assert statistics.median(lengths) <= MEDIAN
  assert lengths[int(0.9 * len(lengths))] <= MOST
  assert [place for place, length in functions() if length > LONGEST] == []


def test_importing_the_package_and_its_help_load_no_jax():
  for words in (
    ["-c", "import diffinv, sys; dir(diffinv)"],
    ["-c", "import sys; from diffinv.apps import main; main.execute(['--help'])"],
  ):
    code = words[1] + "; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_every_package_and_its_data_are_in_the_distribution():
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg", encoding="utf-8")
  listed = set(config["options"]["packages"].split()) - {"diffinv_checkpoints"}
  there = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
  assert listed == there
  patterns = config["options.package_data"]["diffinv"].split()
  files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
  matched = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
  assert files == matched


def test_the_version_stands_in_one_place():
  import diffinv

  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg", encoding="utf-8")
  assert config["metadata"]["version"] == "attr: diffinv.__version__"
  changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
  assert re.search(r"^## (\S+)", changes, re.M)[1] == diffinv.__version__


BRITISH = re.compile(
  r"\b\w*(colour|favour|behaviour|neighbour|centre(?!\w)|centred|grey(?!\w)|artefact|catalogue|licence|"
  r"(?:normal|optim|initial|summar|regular|minim|maxim|quant|random|linear|symmetr|organ|recogn|special|general)is(?:e|ed|es|ing|ation)\b)",
  re.IGNORECASE,
)


@pytest.mark.parametrize("folder", ["diffinv", "tools", "tests", "docs", "examples", "checkpoints", "."])
def test_spelling_is_american(folder):
  endings = (".py", ".md", ".j2", ".cfg", ".toml")
  files = (ROOT / folder).iterdir() if folder == "." else (ROOT / folder).rglob("*")
  found = {}
  for path in files:
    if path.suffix in endings and path != pathlib.Path(__file__).resolve():
      words = [match[0] for match in BRITISH.finditer(path.read_text(encoding="utf-8"))]
      if words:
        found[str(path.relative_to(ROOT))] = words
  assert found == {}
