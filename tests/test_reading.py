"""Files from outside: regular ones of a known size, JSON that fits its schema; anything else is one line at once."""

import json
import os
import sys
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import odd_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffinv import reading

ADVICE = "make it again"


class Run(TypedDict):
  steps: Annotated[int, msgspec.Meta(ge=1)]
  name: NotRequired[str]


class Plan(TypedDict):
  format: Literal["plan-1"]
  runs: list[Run]
  marks: NotRequired[dict[str, float | None]]


def refused(value):
  with pytest.raises(ValueError) as caught:
    reading.check(value, Plan, "plan.json", ADVICE)
  message = str(caught.value)
  assert message.startswith("plan.json: ") and message.endswith(f"; {ADVICE}") and message.isprintable()
  return message.removeprefix("plan.json: ").removesuffix(f"; {ADVICE}")


@pytest.mark.parametrize(
  "change, message",
  [
    ({"runs": [{"steps": "many"}]}, "expected an integer at runs[0].steps, got text"),
    ({"runs": [{"steps": None}]}, "expected an integer at runs[0].steps, got null"),
    ({"runs": [{"steps": True}]}, "expected an integer at runs[0].steps, got true or false"),
    ({"runs": [{"steps": 1.0}]}, "expected an integer at runs[0].steps, got a number"),
    ({"runs": [{"steps": 1}, {"steps": -3}]}, "expected an integer >= 1 at runs[1].steps, got -3"),
    ({"runs": [{"name": "x"}]}, "the field 'steps' is missing at runs[0]"),
    ({"runs": {}}, "expected a list at runs, got a table"),
    ({"runs": [[]]}, "expected a table at runs[0], got a list"),
    ({"format": "plan-2"}, "expected another value at format, got 'plan-2'"),
    ({"format": "\x1b[31m"}, r"expected another value at format, got '\x1b[31m'"),
    ({"format": "y" * 1000}, f"expected another value at format, got '{'y' * 39}..."),
    ({"marks": {"psnr": "high"}}, "expected a number or null at marks[...], got text"),
    ({"marks": {"psnr": 10**400}}, "expected a number that can be held at marks[...], got one out of range"),
  ],
  ids=str,
)
def test_what_does_not_fit_is_named_in_plain_words(change, message):
  assert refused({"format": "plan-1", "runs": [], **change}) == message


@pytest.mark.parametrize("value, got", [(None, "null"), ([], "a list"), ("text", "text"), (3, "an integer")])
def test_the_whole_of_another_kind_is_named(value, got):
  assert refused(value) == f"expected a table, got {got}"


def test_what_fits_is_returned_as_json_has_it(tmp_path):
  value = {"format": "plan-1", "runs": [{"steps": 1, "more": [1, None]}], "marks": {"psnr": 3}, "unknown": {}}
  path = tmp_path / "plan.json"
  path.write_text(json.dumps(value))
  found = reading.read_json(path, Plan, advice=ADVICE)
  assert found == value and type(found["marks"]["psnr"]) is int


@pytest.mark.parametrize(
  "data, message",
  [
    (b"", "nothing: it is empty"),
    (b" \n", "nothing: it is empty"),
    (b'{"a": [1', "only its beginning: it is cut off"),
    (b'{"a": NaN}', "NaN at byte 6, which JSON lacks"),
    (b"[-Infinity]", "Inf at byte 2, which JSON lacks"),
    (b"1e999", "a number too large to hold"),
    (b"9" * 5000, "a number too large to hold"),
    (b'{"a": [-1' + b"0" * 309 + b"]}", "a number too large to hold"),
    (b'"\xff"', "text that is not UTF-8"),
    (b"\xef\xbb\xbf{}", "a byte order mark before it, which JSON lacks"),
    ('{"a": 1}'.encode("utf-16"), "something else at byte 0"),
    (b'["\\udc80\\ud800"]', "something else at byte 8"),
    (b"[" * 100_000, "lists or tables within one another, too deep to read"),
    (b'{"a":' * 100_000, "lists or tables within one another, too deep to read"),
    (b"{} {}", "something else at byte 4"),
    (b'{"a": 1,}', "something else at byte 8"),
    (b"\x00" * 10, "something else at byte 0"),
  ],
  ids=lambda part: str(part[:20]),
)
def test_what_is_not_json_is_one_line(tmp_path, data, message):
  path = tmp_path / "some.json"
  path.write_bytes(data)
  with pytest.raises(ValueError) as caught:
    reading.read_json(path, Any, advice=ADVICE)
  assert str(caught.value) == f"{path}: expected JSON, got {message}; {ADVICE}"


@pytest.mark.parametrize("data, message", [(b'"\xff"', "text that is not UTF-8"), (b'"a"', "something else")])
def test_an_error_of_the_parser_that_names_no_place_is_told_by_the_text(data, message, monkeypatch):
  def refuse(data):
    raise ValueError("no")

  monkeypatch.setattr(reading.msgspec.json, "decode", refuse)
  with pytest.raises(ValueError, match=f"got {message}; {ADVICE}"):
    reading.parse_json(data, Any, "some.json", ADVICE)


@given(data=st.binary(max_size=40) | st.text('[]{}",:0123456789.eE+-\\untrfalse NaI\ud800', max_size=40))
def test_any_bytes_are_json_or_one_line(data):
  data = data if isinstance(data, bytes) else data.encode(errors="surrogatepass")
  try:
    value = reading.parse_json(data, Any, "where", ADVICE)
  except ValueError as error:
    assert str(error).isprintable() and str(error).endswith(ADVICE) and type(error) is ValueError
  else:
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair: it can be written anywhere


def test_digits_in_text_are_no_number_and_the_largest_float_is_one():
  largest = int(sys.float_info.max)
  assert reading.parse_json(json.dumps(["9" * 400, largest]).encode(), Any, "where", ADVICE) == ["9" * 400, largest]


READERS = {
  "require_file": reading.require_file,
  "open_file": lambda path: reading.open_file(path),
  "read_bytes": lambda path: reading.read_bytes(path, most=10),
  "read_json": lambda path: reading.read_json(path, Any, advice=ADVICE),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, reader):
  (tmp_path / "file").write_bytes(b"{}")
  for name, path in {**odd_files.make(tmp_path), "missing": tmp_path / "file" / "below"}.items():
    with pytest.raises((ValueError, OSError)) as caught:
      reader(path)
    assert odd_files.WORDS[name] in str(caught.value) and str(path) in str(caught.value)
    assert not reading.is_file(path)
  assert reading.is_file(tmp_path / "file")


def test_a_fifo_that_takes_the_place_of_a_file_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, "require_file", lambda path: path)  # as if it had been a file a moment before
  with pytest.raises(ValueError, match="expected a file, got a FIFO"):
    reading.open_file(odd_files.make(tmp_path)["fifo"])


def test_a_file_that_is_too_large_is_not_read(tmp_path):
  path = tmp_path / "large"
  path.touch()
  os.truncate(path, 1 << 40)
  for read in (reading.open_file, reading.read_bytes):
    with pytest.raises(ValueError, match=r"expected at most 100 bytes, got 1,099,511,627,776; check"):
      read(path, most=100)
  with pytest.raises(ValueError, match="expected at most 64,000,000 bytes, got"):
    reading.read_json(path, Any, advice=ADVICE)


def test_a_file_that_grows_while_it_is_read_is_cut_off_at_the_limit(tmp_path, monkeypatch):
  path = tmp_path / "growing"
  path.write_bytes(b"x" * 11)
  monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((0o100644, 0, 0, 1, 0, 0, 10, 0, 0, 0)))
  with pytest.raises(ValueError, match="expected at most 10 bytes, got 11"):
    reading.read_bytes(path, most=10)
