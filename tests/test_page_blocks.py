"""The blocks of a page that tools write."""

import pytest

from diffinv import errors

PAGE = "# By hand\n<!-- one -->\nold\n<!-- end -->\nwords\n<!-- two -->\n<!-- end -->\n"


def test_a_block_is_replaced_and_the_words_around_it_stay(load_tool, tmp_path):
  page = tmp_path / "page.md"
  page.write_text(PAGE)
  load_tool("page_blocks").write(page, {"two": r"\1 new"})
  assert page.read_text() == PAGE.replace("<!-- two -->\n", "<!-- two -->\n\\1 new\n")


@pytest.mark.parametrize("name, count", [("three", 0), ("twice", 2)])
def test_a_page_without_one_such_block_is_left_as_it_is(load_tool, tmp_path, name, count):
  page, text = tmp_path / "page.md", PAGE + 2 * "<!-- twice -->\n<!-- end -->\n"
  page.write_text(text)
  with pytest.raises(errors.UsageError, match=f"page.md: expected a block <!-- {name} --> .* found {count}"):
    load_tool("page_blocks").write(page, {"one": "new", name: "new"})
  assert page.read_text() == text
