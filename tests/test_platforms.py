"""A platform that JAX does not have here: one line that names the variable, whatever the command."""

import os
import subprocess
import sys

import pytest

from diffinv import errors

DIFFINV = [sys.executable, "-m", "diffinv.apps.main"]
COMMANDS = (
  ("tasks",),
  ("methods",),
  ("verify", "--quick", "--methods=ddrm"),
  ("sample", "--prior=natural", "--size=16", "--steps=2"),
  ("sample", "--prior=natural", "--size=16", "--steps=2", "--devices=2"),
  ("reconstruct", "--prior=natural", "--size=16", "--fit=resize", "--input=diffinv/data/face.png", "--method=bicubic"),
  ("compare", "--prior=photo", "--size=64", "--tasks=denoising", "--methods=dps"),
  ("tune", "--prior=photo", "--tasks=denoising", "--methods=dps", "--data=faces"),
  ("evaluate", "--prior=photo", "--measures=speed"),
  ("train", "--data=faces", "--steps=2"),
)
WRITES = {"tune": "out.json", "tasks": None, "methods": None, "verify": None}


def run(words, out, **environment):
  """Run a command; return its status and what it said on standard error."""
  name = WRITES.get(words[0], "out")
  line = [*DIFFINV, *words, *([] if name is None else [f"--output={out / name}"])]
  inherited = {key: value for key, value in os.environ.items() if not key.startswith("JAX_PLATFORM")}
  done = subprocess.run(line, capture_output=True, text=True, env={**inherited, **environment})
  return done.returncode, done.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words[:1]))
@pytest.mark.slow
def test_a_command_names_the_variable_on_one_line(words, tmp_path):
  status, said = run(words, tmp_path, JAX_PLATFORMS="cuda")
  *notes, last = said.splitlines()
  assert status == errors.EXIT_USAGE and all(line.startswith("note: ") for line in notes), said
  assert last.startswith("diffinv: error: JAX_PLATFORMS: expected a platform on which JAX runs here, got 'cuda'")
  assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("came", ["gpu", "tpu", "nonsense", "nonsense,cpu"])
def test_the_platform_that_is_not_there_is_told_and_what_to_do(came, tmp_path):
  status, said = run(("methods",), tmp_path, JAX_PLATFORMS=came)
  assert (status, said.count("\n")) == (errors.EXIT_USAGE, 1)
  assert f"got '{came}'" in said and "unset JAX_PLATFORMS" in said and "set JAX_PLATFORMS=cpu" in said


def test_the_old_variable_is_named_as_well(tmp_path):
  status, said = run(("methods",), tmp_path, JAX_PLATFORM_NAME="nonsense")
  assert status == errors.EXIT_USAGE and said.startswith("diffinv: error: JAX_PLATFORM_NAME: expected")


@pytest.mark.parametrize("environment", [{}, {"JAX_PLATFORMS": "cpu"}])
def test_the_advice_works(environment, tmp_path):
  assert run(("methods",), tmp_path, **environment) == (0, "")


def test_the_help_needs_no_platform(tmp_path):
  assert run(("methods", "--help"), tmp_path, JAX_PLATFORMS="cuda") == (0, "")
