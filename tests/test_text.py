"""Tables and numbers of a terminal."""

import pytest

from diffinv import text


def test_numbers_are_to_the_right_and_text_to_the_left():
  rows = [["dps", "7.5", "-", "12.90±0.31", "x"], ["ΠGDM", "-12", "1e-05", "-", ""]]
  assert text.table(["method", "n", "rate", "PSNR dB", "note"], rows).split("\n") == [
    "method    n   rate     PSNR dB  note",
    "dps     7.5      -  12.90±0.31  x",
    "ΠGDM    -12  1e-05           -",
  ]


def test_a_table_without_rows_is_its_header():
  assert text.table(["task", "method"], []) == "task  method"


@pytest.mark.parametrize(
  "value, digits, said",
  [
    (1.005, 1, "1.0"),
    (12, 0, "12"),
    (None, 2, "-"),
    (float("nan"), 2, "-"),
    (float("inf"), 2, "-"),
    (0.012345, None, "0.0123"),
    (123.4, None, "123"),
    (0.0, None, "0"),
    (-1.234, None, "-1.23"),
    (1e-9, None, "0.000000"),
  ],
)
def test_a_number_is_written_with_its_digits(value, digits, said):
  assert text.number(value, digits) == said


@pytest.mark.parametrize(
  "entry, said",
  [
    (None, "-"),
    ({"mean": 20.0, "low": None, "high": None}, "20.0"),
    ({"mean": 20.0}, "20.0"),
    ({"mean": 20.0, "low": 19.5, "high": 20.5}, "20.0±0.5"),
  ],
)
def test_an_interval_is_written_by_its_half_width(entry, said):
  assert text.interval(entry, 1) == said
