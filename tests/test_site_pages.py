"""What the site takes from the package: docstrings stay what they say, and no room, flag or name is left out."""

import importlib.util
import pathlib
import re
import sys

import pytest

from diffinv import METHODS, OPERATORS

pytest.importorskip("docutils", reason="docutils is not installed: pip install '.[docs]'")
DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
  spec = importlib.util.spec_from_file_location("site_pages", DOCS / "_ext" / "site_pages.py")
  module = importlib.util.module_from_spec(spec)
  sys.modules["site_pages"] = module
  spec.loader.exec_module(module)
  return module


def test_docstrings_keep_their_signs_and_their_examples(pages):
  lines = ["||y - A(x)||^2 of `x_t`, alpha_ * 2", "", "Example:", "  >>> f(*a) | b_", "  1 | 2"]
  pages.escape(None, "function", "f", None, None, lines)
  assert lines[0] == r"\|\|y - A(x)\|\|^2 of ``x_t``, alpha\_ \* 2"
  assert lines[3:] == ["  >>> f(*a) | b_", "  1 | 2"]


def test_progress_is_left_out_and_notes_are_folded(pages):
  said = pages.printed_lines(" 73% colorize diffpir, 0:04 left\nnote: " + "word " * 40 + "\npicture  PSNR dB\n")
  assert "%" not in said and said.splitlines()[-1] == "picture  PSNR dB"
  assert len(said.splitlines()) > 1 and max(map(len, said.splitlines())) <= pages.LONGEST


def test_links_to_files_beside_the_pages_lead_to_pages_or_the_repository(pages):
  class App:
    srcdir = str(DOCS)

  source = ["[a](../CONTRIBUTING.md) [b](../tools/turns.py) [c](lead.md)\n"]
  pages.relink(App, "methods", source)
  assert source == [f"[a](contributing.md) [b]({pages.SOURCE}tools/turns.py) [c](lead.md)\n"]
  source = ["nothing*\nlead*\n"]
  pages.relink(App, "index", source)
  assert source == ["lead*\n"]


def test_every_room_is_drawn(pages):
  rooms = {path.parent.name for path in (DOCS.parent / "diffinv").glob("*/__init__.py")}
  assert {*pages.places()} == {*rooms, "root"}


def test_a_command_is_described_by_all_of_its_flags(pages):
  from diffinv.apps import reconstruct

  rows = [pages.flag_row(flag)[0].astext() for flag in reconstruct.FLAGS.flags_by_module_dict()["diffinv.apps.flags"]]
  assert {"--measurement", "--task", "--sigma", "--[no]antithetic"} <= {*rows}


def test_every_method_and_operator_is_on_its_page():
  text = {name: (DOCS / f"reference/{name}.md").read_text(encoding="utf-8") for name in ("methods", "problems")}
  assert re.findall(r"^```\{paper\} (\w+)$", text["methods"], re.M) == list(METHODS)
  assert {*re.findall(r"autofunction:: diffinv\.operators\.(\w+)$", text["problems"], re.M)} == {*OPERATORS}
