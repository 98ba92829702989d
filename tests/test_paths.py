"""Paths with `~`, which shells leave alone behind "--flag=": in every flag of every command, and from Python."""

import importlib
import pathlib
import re

import pytest

from diffinv import options
from diffinv.apps import flags as flagging
from diffinv.apps import main
from diffinv.data import bundled
from diffinv.training.config import TrainConfig

COMMANDS = {name: importlib.import_module(module) for name, (module, _) in main.COMMANDS.items()}
CONFIGS = {module.CONFIG for module in COMMANDS.values() if hasattr(module, "CONFIG")} | {TrainConfig}
FLAGS = [
  (command, name)
  for command, module in COMMANDS.items()
  for name in module.FLAGS
  if isinstance(module.FLAGS[name].parser, flagging.Path)
]
FIELDS = [
  (config, name)
  for config in sorted(CONFIGS, key=lambda config: config.__name__)
  for name, (field, _) in options.options(config).items()
  if options.takes_paths(field)
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "home").mkdir()
  monkeypatch.chdir(tmp_path)
  return tmp_path / "home"


@pytest.mark.parametrize("command, flag", FLAGS)
def test_home_is_meant_in_every_flag_that_takes_a_path(command, flag, home):
  values = COMMANDS[command].FLAGS
  main.parse(command, values, [f"--{flag}=~/a"])
  value = values[flag].value
  assert value in (f"{home}/a", [f"{home}/a"])


def made(config, name, value):
  """Return a configuration with an option, and what it cannot do without."""
  needed = {"input": "model.pt", "preset": "ffhq256"} if config.__name__ == "ConvertConfig" else {}
  needed |= {"data": "faces", "minutes": 1.0} if config is TrainConfig else {}
  return config(**{**needed, name: value})


@pytest.mark.parametrize("config, name", FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_home_is_meant_in_every_option_that_takes_a_path(config, name, home):
  (home / "a").touch()  # what is no file may be words
  for given in ("~/a", pathlib.Path("~/a")):
    value = getattr(made(config, name, given), name)
    assert list(map(str, value if isinstance(value, tuple) else [value])) == [f"{home}/a"]


def test_every_option_that_takes_a_path_is_a_flag_that_does():
  for command, module in COMMANDS.items():
    config = TrainConfig if command == "train" else getattr(module, "CONFIG", None)
    for name, (field, _) in ({} if config is None else options.options(config)).items():
      assert ((command, name) in FLAGS) == options.takes_paths(field), (command, name)


def test_no_command_defines_a_text_that_is_no_option_but_as_a_path():
  for path in pathlib.Path(main.__file__).parent.glob("*.py"):
    assert path.name == "flags.py" or not re.search(r"DEFINE_(multi_)?string|DEFINE_list", path.read_text()), path


def test_home_is_meant_in_every_part_of_a_list_but_not_within_a_name(home):
  (home / "c,~").mkdir()
  config = COMMANDS["reconstruct"].CONFIG(input=("~/a.png,~/b.png", "~/c,~", "d~.png"))
  assert config.input == (f"{home}/a.png,{home}/b.png", f"{home}/c,~", "d~.png")


def test_the_help_shows_a_default_as_it_stands(capsys):
  assert main.execute(["reconstruct", "--help"]) == 0
  assert "(default: ~/.cache/diffinv)" in capsys.readouterr().out


def test_a_run_reads_and_writes_at_home(home, tmp_path):
  picture = next(pathlib.Path(bundled.__file__).parent.glob("face.png"))
  (home / "in.png").write_bytes(picture.read_bytes())
  line = ["reconstruct", "--prior=natural", "--input=~/in.png", "--output=~/out", "--method=bicubic"]
  assert main.execute([*line, "--size=16", "--fit=resize", "--compilation_cache=~/cache"]) == 0
  assert (home / "out" / "in.png").is_file() and (home / "cache").is_dir()
  assert not (tmp_path / "~").exists()


def test_the_folder_of_a_report_without_its_flag_is_expanded(home):
  values = COMMANDS["report"].FLAGS
  main.parse("report", values, ["~/run"])
  assert values.run == f"{home}/run"
