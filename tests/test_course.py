"""The course: every chapter has figures in words, an exercise and an answer; its Python parses, and some of it is run.

The site's build runs every cell of every chapter, with the claims that they assert; here, chapters that take seconds.
"""

import ast
import itertools
import pathlib
import re

import jax
import pytest

COURSE = pathlib.Path(__file__).parent.parent / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9]-*.md"))
CELL = re.compile(r"^```\{code-cell\}\n(?:---\n(.*?)\n---\n)?(.*?)^```$", re.S | re.M)
FEWEST_WORDS = 15  # that say what is in a figure

every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def cells(chapter):
  """Return the code cells of a chapter, in order: what is said about each, and its Python."""
  return CELL.findall(chapter.read_text(encoding="utf-8"))


def test_chapters_are_listed_and_lead_to_each_other():
  listed = re.findall(r"^(\d-\S+)$", (COURSE / "index.md").read_text(encoding="utf-8"), re.M)
  assert listed == [chapter.stem for chapter in CHAPTERS] and len(listed) == 8
  for chapter, following in itertools.pairwise(CHAPTERS):
    assert f"]({following.name})" in chapter.read_text(encoding="utf-8").splitlines()[-1]


@every_chapter
def test_every_chapter_has_an_exercise_and_an_answer_that_a_cell_computes(chapter):
  text = chapter.read_text(encoding="utf-8")
  exercise = text.index("```{admonition} Predict, then look")
  assert exercise < text.index("```{dropdown} Answer")
  answers = [code for said, code in cells(chapter) if "hide-cell" in said]
  assert len(answers) == 1 and re.search(r"^ *assert ", answers[0], re.M)


@every_chapter
def test_every_figure_is_told_in_words(chapter):
  figures = [said for said, code in cells(chapter) if "plt.subplots" in code]
  assert figures
  for said in figures:
    assert len(re.search(r'^    alt: "(.*)"$', said, re.M)[1].split()) >= FEWEST_WORDS
    assert "code_prompt_show" in said


@every_chapter
def test_every_cell_parses_and_its_imports_are_there(chapter, monkeypatch):
  monkeypatch.syspath_prepend(COURSE)
  for _, code in cells(chapter):
    tree = ast.parse(code)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), chapter.name, "exec"), {})


def test_no_cell_is_missed():
  for chapter in CHAPTERS:
    assert len(cells(chapter)) == chapter.read_text(encoding="utf-8").count("```{code-cell}")


@pytest.mark.parametrize("name", ["1-forward", pytest.param("6-score-ald", marks=pytest.mark.slow)])
def test_chapter_holds_what_it_claims(name, monkeypatch):
  import matplotlib.pyplot as plt

  monkeypatch.syspath_prepend(COURSE)
  plt.switch_backend("Agg")
  scope = {"__name__": name}
  with plt.rc_context(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    for number, (_, code) in enumerate(cells(COURSE / f"{name}.md")):
      exec(compile(code, f"{name}, cell {number}", "exec"), scope)
    plt.close("all")
