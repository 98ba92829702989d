"""What is published says which version it is, and lists every file of the repository."""

import pathlib
import re
import subprocess

import pytest

import diffinv

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_citation_is_of_this_version():
  text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
  assert re.search(r"^version: (\S+)$", text, re.M)[1] == diffinv.__version__
  assert re.search(r"^license: (\S+)$", text, re.M)[1] == "MIT"


def test_every_file_outside_the_package_is_listed_for_the_sdist():
  """`tools/check_distribution.py` looks into the sdist itself."""
  listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
  if listed.returncode:
    pytest.skip("this is no clone")
  lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
  folders = {line.split()[1] for line in lines if line.startswith("graft ")}
  files = {name for line in lines if line.startswith("include ") for name in line.split()[1:]}
  always = {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
  left_out = [
    name
    for name in listed.stdout.splitlines()
    if name not in files | always and name.split("/")[0] not in folders | {"diffinv"}
  ]
  assert left_out == []


def test_what_an_sdist_lacks_is_named(load_tool):
  tool = load_tool("check_distribution")
  assert tool.missing({"a.py", "b/c.md"}, ["a.py", "b/c.md", "b/d.md"]) == ["b/d.md"]
