"""Standard streams that are closed, break or fill up; and names that would act on a terminal."""

import contextlib
import os
import subprocess
import sys

import pytest

from diffinv import errors, output, progress, streams, text
from diffinv.apps import main

FULL = "/dev/full"
LOST = b"diffinv: error: No space left on device: standard output; all but what was printed is in order\n"
DIFFINV = [sys.executable, "-m", "diffinv.apps.main"]
WORK = ["sample", "--prior=natural", "--num_samples=2", "--size=16", "--steps=2"]

on_linux = pytest.mark.skipif(not os.path.exists(FULL), reason="there is no full device")


@pytest.fixture(scope="module")
def listed():
  """What `diffinv --help` prints."""
  return subprocess.run([*DIFFINV, "--help"], capture_output=True, check=True).stdout


def shell(script, *argv):
  """Run a command, `"$@"` in the script, in a shell; return its status, standard output and standard error."""
  done = subprocess.run(["sh", "-c", script, "sh", *argv], stdin=subprocess.DEVNULL, capture_output=True)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  "script, status, out, err",
  [
    ('"$@" >&-', 0, b"", b""),
    ('"$@" 2>&-', 0, "listed", b""),
    ('"$@" <&-', 0, "listed", b""),
    ('"$@" <&- >&- 2>&-', 0, b"", b""),
    ('("$@"; echo $? >&2) | head -c 1', 0, b"d", b"0\n"),
    ('("$@"; echo $? >&2) | true', 0, b"", b"0\n"),
    ('PYTHONUNBUFFERED=1 "$@"', 0, "listed", b""),
    ('PYTHONIOENCODING=ascii "$@" | LC_ALL=C grep -c "[^ -~]"', 1, b"0\n", b""),
    pytest.param(f'"$@" >{FULL}', 1, b"", LOST, marks=on_linux),
    pytest.param(f'"$@" 2>{FULL}', 0, "listed", b"", marks=on_linux),
    pytest.param(f'"$@" >{FULL} 2>&1', 1, b"", b"", marks=on_linux),
  ],
)
def test_a_command_says_what_it_can(script, status, out, err, listed):
  assert shell(script, *DIFFINV, "--help") == (status, listed if out == "listed" else out, err)


@pytest.mark.parametrize("words", [["tasks"], ["methods"], ["verify", "--help"]], ids=lambda words: words[0])
@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_list_whose_reader_goes_is_quiet(words, reader):
  status, out, err = shell(f'("$@"; echo $? >&2) | {reader}', *DIFFINV, *words)
  assert (status, err, out.count(b"\n")) == (0, b"0\n", reader != "true")


@on_linux
@pytest.mark.parametrize("words", [["tasks"], ["methods"], ["verify", "--help"]], ids=lambda words: words[0])
def test_a_list_for_which_there_is_no_room_is_one_line(words):
  assert shell(f'"$@" >{FULL}', *DIFFINV, *words) == (1, b"", LOST)


@pytest.mark.parametrize("script, said", [('"$@" 2>&-', False), ('"$@" 2>&1 >&-', True), ('"$@" 2>&1', True)])
def test_a_wrong_command_is_wrong_whatever_is_closed(script, said):
  status, out, _ = shell(script, *DIFFINV, "magic")
  assert (status, out.startswith(b"diffinv: error: expected a command")) == (2, said)


@pytest.mark.parametrize("script", ['"$@" <&- >&- 2>&-', '("$@" 2>&1; echo $? >"$0") | true; exit $(cat "$0")'])
@pytest.mark.slow
def test_the_work_is_done_and_kept(script, tmp_path):
  line = ["sh", "-c", script, str(tmp_path / "status"), *DIFFINV, *WORK, f"--output={tmp_path / 'out'}"]
  assert subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
  assert {"0.png", "1.png", "grid.png", output.RESULTS} <= set(os.listdir(tmp_path / "out"))


STREAMS = """
import os, signal, sys
from diffinv import streams
{before}
streams.protect()
{after}
sys.stdout.flush()
"""


def python(before="", after=""):
  """Run a program that protects its streams."""
  script = STREAMS.format(before=before, after=after)
  done = subprocess.run([sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True)
  return done.returncode, done.stdout, done.stderr


def test_a_file_never_becomes_a_standard_stream():
  closed = "for fd in range(3): os.close(fd)"
  assert python(closed, "assert os.open('/', os.O_RDONLY) > 2 and os.read(0, 1) == b''")[0] == 0


GONE = {
  "pipe": ("r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.dup2(w, 2)", ""),
  "terminal": ("r, w = os.openpty(); os.dup2(w, 1); os.dup2(w, 2); os.close(w); os.close(r)", ""),
  "closed amid work": ("pass", "os.close(1); os.close(2); "),
}


@pytest.mark.parametrize("before, after", GONE.values(), ids=GONE)
def test_a_process_goes_on_when_its_reader_has_gone(before, after):
  prints = "print('a', flush=True); print('b', file=sys.stderr, flush=True); signal.raise_signal(signal.SIGPIPE)"
  assert python(before, f"{after}{prints}; print('c'); sys.exit(7)")[0] == 7


def test_text_of_any_size_arrives_in_a_pipe_that_does_not_block():
  size = 10**6
  status, out, _ = python("os.set_blocking(1, False)", f"print('a' * {size})")
  assert (status, out) == (0, b"a" * size + b"\n")


def test_the_streams_show_what_would_act_on_a_terminal():
  printed = r"print('a\x1b[2J\tb\rc\u202ed\udcff\né')"
  _, out, err = python("os.environ", f"{printed}; sys.stdout = sys.stderr; {printed}")
  assert out.decode() == "a\\x1b[2J\tb\\rc\\u202ed\\udcff\né\n"
  assert err.decode() == out.decode().replace("\\r", "\r")  # the bar needs it


@pytest.mark.parametrize("stream", [None, 0])
def test_a_stream_of_a_notebook_or_a_test_is_left_alone(stream, capsys):
  before = sys.stdout
  assert streams._protected(before, 1, "") is before and streams.finish() is None


# Names

NAMES = {
  "escape": ("a\x1b[31mb", "a\\x1b[31mb"),
  "bell": ("a\x07b", "a\\x07b"),
  "return": ("a\rb", "a\\rb"),
  "line": ("a\nb", "a\\nb"),
  "delete": ("a\x7fb", "a\\x7fb"),
  "C1": ("a\x9b31mb", "a\\x9b31mb"),
  "override": ("a\u202eb", "a\\u202eb"),
  "isolate": ("a\u2066b\u2069", "a\\u2066b\\u2069"),
  "line separator": ("a\u2028b", "a\\u2028b"),
  "bytes": (os.fsdecode(b"a\xffb"), "a\\udcffb"),
}
each_name = pytest.mark.parametrize("name, shown", NAMES.values(), ids=NAMES)


@each_name
def test_names_are_shown_as_they_are_but_for_what_acts(name, shown, capsys):
  assert text.visible(f"é {name} 写真") == f"é {shown} 写真"
  progress.note(name)
  assert capsys.readouterr().err == f"note: {shown}\n"
  assert text.table([name, "n"], [["b", "1"]]).split("\n")[0] == f"{shown}  n"


@each_name
def test_messages_show_names_on_one_line(name, shown):
  assert errors.one_line(FileNotFoundError(2, "No such file or directory", name)).endswith(f": {shown}")
  said = errors.one_line(ValueError(f"{name}: expected a picture"))
  assert said == text.visible(said) and "\n" not in said


@each_name
def test_a_bar_shows_names_on_its_line(name, shown, capsys):
  bar = progress.Bar(1.0, clock=iter((0.0, 0.0, 60.0, 60.0)).__next__)
  bar.part(1.0, name)(1, 2)
  assert capsys.readouterr().err.splitlines() == [f" 50% {shown}"]


@each_name
def test_commands_show_names_of_files_and_flags(name, shown, tmp_path, capfd):
  path = tmp_path / name
  with contextlib.suppress(OSError):  # a file system that has no such names
    path.write_text("no picture")
  for flags in (f"--input={path}", f"--input={path}-not", f"--prior={name}", f"--task={name}", f"--{name}", name):
    line = ["reconstruct", f"--output={tmp_path / 'out'}", "--task=denoising", "--prior=natural", flags]
    assert main.execute(line) in (1, 2)
    said = capfd.readouterr().err
    assert said.startswith("diffinv: error: ") and said.count("\n") == 1
    assert text.visible(said, keep="\n") == said


def test_a_fault_of_a_library_in_several_lines_keeps_its_traceback():
  def library():
    raise ValueError("a\nb")

  with pytest.raises(ValueError) as error:
    library()
  assert errors.exit_code(error.value) is None and errors.exit_code(ValueError("a\nb")) is None
