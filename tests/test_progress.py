"""The progress bar, with a clock and a stream of its own, and notes."""

import io
import re

import pytest

from diffinv import progress
from diffinv.progress import Bar, duration


class Stream(io.StringIO):
  def __init__(self, tty):
    super().__init__()
    self._tty = tty

  def isatty(self):
    return self._tty


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


def bar(total, *, tty):
  stream, clock = Stream(tty), Clock()
  return Bar(total, stream=stream, clock=clock), stream, clock


def run(report, clock, steps, seconds, first=None):
  """Report every step, `seconds` each, the first one after `first`."""
  for k in range(1, steps + 1):
    clock.now += first if k == 1 and first is not None else seconds
    report(k, steps)


def screen(stream):
  """Return what a terminal shows after every carriage return, padding included."""
  return stream.getvalue().split("\r")[1:]


def test_a_terminal_shows_the_fraction_the_label_and_the_time_left():
  drawn, stream, clock = bar(2.0, tty=True)
  with drawn:
    run(drawn.part(1.0, "dps"), clock, 4, 10.0)
    last = screen(stream)[-1]
  assert last == f"[{'#' * 12}{'.' * 12}]  50% dps, 0:40 left"


def test_a_terminal_line_only_grows_over_what_was_there():
  drawn, stream, clock = bar(2.0, tty=True)
  for label in ("a very long label", "b"):
    run(drawn.part(1.0, label), clock, 3, 1.0)
  lines = screen(stream)
  long, short = max(map(len, lines[:4])), lines[4]
  assert "b" in short and len(short) >= len(lines[3].rstrip()) and long > len(short.rstrip())


def test_a_terminal_is_clean_at_the_end_even_after_an_error():
  drawn, stream, clock = bar(1.0, tty=True)
  with pytest.raises(RuntimeError):
    with drawn:
      run(drawn.part(1.0, "dps"), clock, 2, 1.0)
      raise RuntimeError
  *_, last, blank, after = stream.getvalue().split("\r")
  assert blank == " " * len(last) and after == ""


def test_a_terminal_is_not_redrawn_more_often_than_it_is_seen():
  drawn, stream, clock = bar(1.0, tty=True)
  run(drawn.part(1.0, "dps"), clock, 1000, progress.REDRAW_SECONDS / 10)
  assert 80 <= len(screen(stream)) <= 101  # a step of the clock past it, by rounding, counts as late


def test_a_notebook_is_redrawn_as_a_terminal_is():
  # Jupyter's streams are not terminals; they are recognized by the package they come from.
  jupyter = type("OutStream", (Stream,), {"__module__": "ipykernel.iostream"})(tty=False)
  clock = Clock()
  with Bar(2.0, stream=jupyter, clock=clock) as drawn:
    run(drawn.part(1.0, "dps"), clock, 4, 10.0)
    assert screen(jupyter)[-1] == f"[{'#' * 12}{'.' * 12}]  50% dps, 0:40 left"
  assert jupyter.getvalue().endswith("\r") and "\n" not in jupyter.getvalue()


def test_a_note_is_a_line_on_stderr(capsys):
  progress.note("3 of 4 pictures have color")
  assert capsys.readouterr() == ("", "note: 3 of 4 pictures have color\n")


def test_a_log_stays_quiet_while_a_job_is_short():
  drawn, stream, clock = bar(1.0, tty=False)
  with drawn:
    run(drawn.part(1.0, "dps"), clock, 29, 1.0)
  assert stream.getvalue() == ""


def test_a_log_gets_a_plain_line_now_and_then():
  drawn, stream, clock = bar(1.0, tty=False)
  with drawn:
    run(drawn.part(1.0, "dps"), clock, 100, 1.0)
  assert stream.getvalue() == " 30% dps, 1:10 left\n 60% dps, 0:40 left\n 90% dps, 0:10 left\n"


def test_compilation_before_the_first_report_is_not_part_of_the_rate():
  drawn, _, clock = bar(1.0, tty=True)
  report = drawn.part(1.0, "dps")
  run(report, clock, 1, 0.0, first=500.0)
  assert drawn.seconds_left() is None  # one report has no rate
  drawn, _, clock = bar(1.0, tty=True)
  report = drawn.part(1.0, "dps")
  for done in range(1, 5):
    clock.now += 500.0 if done == 1 else 3.0
    report(done, 10)
  assert drawn.seconds_left(0.4) == pytest.approx(6 * 3.0)


def test_the_time_left_is_told_after_a_few_steps_and_not_before():
  drawn, stream, clock = bar(1.0, tty=True)
  report = drawn.part(1.0, "dps")
  for done in range(1, 7):
    clock.now += 10.0
    report(done, 100)
  assert ["left" in line for line in screen(stream)] == [False] * 4 + [True] * 3  # the first is before any step


@pytest.mark.parametrize("slow", range(2, 10))
def test_one_interval_with_a_compilation_in_it_does_not_count(slow):
  drawn, _, clock = bar(1.0, tty=True)
  report, told = drawn.part(1.0, "dps"), []
  for done in range(1, 51):
    clock.now += 150.0 if done == slow else 6.0
    report(done, 100)
    told.append(drawn.seconds_left(done / 100))
  for done, seconds in enumerate(told[4:], 5):
    assert seconds == pytest.approx(6.0 * (100 - done)), done


def test_a_sliver_of_the_work_tells_nothing_of_the_rest_unless_it_took_long():
  drawn, _, clock = bar(1000.0, tty=True)
  run(drawn.part(1.0, "quick"), clock, 20, 0.5)
  assert drawn.seconds_left() is None
  run(drawn.part(1.0, "slow"), clock, 20, 2.0)
  assert drawn.seconds_left() == pytest.approx(998.0 * (18 * 0.5 + 18 * 2.0) / (18 / 20 + 18 / 20))


def test_the_rate_is_joined_over_parts_by_weight():
  drawn, _, clock = bar(10.0, tty=True)
  run(drawn.part(2.0, "a"), clock, 2, 4.0, first=100.0)  # weight 1 in 4 s
  run(drawn.part(4.0, "b"), clock, 4, 1.0, first=100.0)  # weight 3 in 3 s, of which one interval is left out
  assert drawn.seconds_left() == pytest.approx((10 - 6) * 6 / 3)


def test_the_time_between_parts_does_not_count():
  drawn, _, clock = bar(3.0, tty=True)
  run(drawn.part(1.0, "a"), clock, 4, 1.0)
  clock.now += 1000.0
  run(drawn.part(1.0, "b"), clock, 4, 1.0)
  assert drawn.seconds_left() == pytest.approx(4.0)


def test_the_fraction_never_exceeds_the_whole():
  drawn, stream, clock = bar(1.0, tty=True)
  run(drawn.part(2.0, "dps"), clock, 4, 1.0)
  assert max(int(found) for found in re.findall(r"(\d+)%", stream.getvalue())) == 100
  assert drawn.seconds_left() == 0.0


def test_it_draws_on_stderr_and_never_on_stdout(capsys):
  with Bar(1.0, clock=(clock := Clock())) as drawn:
    run(drawn.part(1.0, "dps"), clock, 3, 60.0)
  out, err = capsys.readouterr()
  assert out == "" and "100% dps" in err


@pytest.mark.parametrize(
  "seconds, want",
  [(0, "0:00"), (0.6, "0:01"), (59.4, "0:59"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (36_061, "10:01:01")],
)
def test_duration(seconds, want):
  assert duration(seconds) == want
