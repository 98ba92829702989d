"""Every public name has an example in its docstring or on its page of the reference, and the example is right."""

import doctest
import pathlib
import re

import jax
import pytest

import diffinv

PAGES = sorted((pathlib.Path(__file__).parent.parent / "docs/reference").glob("*.md"))
TABLES = ("METHODS", "OPERATORS", "TASKS")  # which are dicts, and have no docstring
SLOW = ("train", "tune")


def check(text, name, folder, monkeypatch):
  """Run the examples of a text in an empty folder; say which of them failed."""
  monkeypatch.chdir(folder)
  said = []
  examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
  assert examples.examples, name
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    found = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
  assert found.failed == 0, "".join(said)


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in diffinv.__all__ if n not in TABLES]
)
def test_example_in_the_docstring_is_right(name, tmp_path, monkeypatch):
  check(getattr(diffinv, name).__doc__, name, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text()], ids=lambda page: page.stem)
def test_examples_of_the_reference_are_right(page, tmp_path, monkeypatch):
  blocks = re.findall(r"```python\n(>>> .*?)```", page.read_text(encoding="utf-8"), re.S)
  for number, block in enumerate(blocks):
    check(block, f"{page.stem} {number}", tmp_path, monkeypatch)


def test_every_public_name_is_on_a_page_of_the_reference():
  text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
  assert [name for name in diffinv.__all__ if not re.search(rf"\bdiffinv\.{name}\b", text)] == []


def test_every_command_is_on_the_page_of_commands():
  from diffinv.apps.main import COMMANDS

  (page,) = (page for page in PAGES if page.stem == "commands")
  assert re.findall(r"^```\{command\} (\w+)$", page.read_text(encoding="utf-8"), re.M) == list(COMMANDS)
