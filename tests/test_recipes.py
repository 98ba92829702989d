"""The recipes for one's own picture: every word has one, and their tool makes what the commands read."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from diffinv.apps import main
from diffinv.data import images
from diffinv.tasks import WORDS

PAGE = pathlib.Path(__file__).parent.parent / "docs/recipes.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool(load_tool):
  return load_tool("draw_recipes")


def values(line):
  """Return the flags of a command by name."""
  return dict(word.removeprefix("--").split("=") for word in shlex.split(line)[2:])


def test_every_word_and_jpeg_have_a_heading_and_a_command(tool):
  assert re.findall(r"^## .*: `(\w+)`$", TEXT, re.M) == [*WORDS, "jpeg"]
  assert {values(line)["task"] for line in tool.lines(PAGE)} == {*WORDS, "jpeg"}


def test_every_picture_of_the_page_is_drawn_by_a_command_of_the_page(tool):
  assert [f"recipe-{tool.value(line, 'output').name}.png" for line in tool.lines(PAGE)] == re.findall(
    r"\]\((recipe-\w+\.png)\)", TEXT
  )


def test_the_files_of_the_commands_are_made_and_pass_their_checks(tool, tmp_path, monkeypatch):
  """A command that reads them begins its work: masks fit, and nothing has to be converted."""
  tool.make_files(tmp_path)
  monkeypatch.chdir(tmp_path)
  for line in tool.lines(PAGE):
    given = values(line)
    with Image.open(given["measurement"]) as image:
      assert max(image.size) <= tool.SIDE
      assert image.mode == ("L" if given["task"] == "colorize" else "RGB") and "icc_profile" not in image.info
    if given["task"] in ("inpaint", "jpeg"):
      noise = ["--sigma=0.02"] if given["task"] == "inpaint" else []
      quick = ["--prior=natural", "--method=dpir", "--steps=2", *noise, "--compilation_cache="]
      assert main.execute([*shlex.split(line)[1:], *quick]) == 0


def test_a_drawing_is_two_pictures_side_by_side_in_few_bytes(tool, tmp_path):
  """Of the bee and its noisy copy, which takes most."""
  image = tool.photograph()
  image.save(tmp_path / "a.png")
  tool.noisy(image, 25.0).save(tmp_path / "b.png")
  tool.pair(tmp_path / "b.png", tmp_path / "a.png").save(tmp_path / "c.png", optimize=True)
  assert (tmp_path / "c.png").stat().st_size < 60_000
  drawn, clean = images.read(tmp_path / "c.png", convert=True), images.read(tmp_path / "a.png")
  assert drawn.shape == (tool.SIDE, 2 * tool.SIDE + tool.GAP, 3)
  assert np.sqrt(np.mean((drawn[:, -tool.SIDE :] - clean) ** 2)) < 0.1
