"""Results in full or not at all, and errors as a person sees them."""

import errno
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import errors, output


def tree(path):
  """Return every file below a folder with its text."""
  return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def names(path):
  return sorted(p.name for p in path.iterdir())


def make(path, *, overwrite=False, text="new"):
  with output.folder(path, overwrite=overwrite) as partial:
    (partial / output.RESULTS).write_text(text)


# Folders


def test_a_folder_appears_only_when_all_is_written(tmp_path):
  target = tmp_path / "parent" / "run"
  with output.folder(target) as partial:
    (partial / "sub").mkdir()
    (partial / "sub" / "a.txt").write_text("a")
    assert not target.exists() and partial.parent == target.parent  # one disk, so that the rename is atomic
  assert tree(target) == {"sub/a.txt": "a"}
  assert names(target.parent) == ["run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_no_folder(tmp_path, error):
  with pytest.raises(error):
    with output.folder(tmp_path / "run") as partial:
      (partial / "a.txt").write_text("a")
      raise error
  assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_keeps_the_folder_that_was_to_be_replaced(tmp_path, error):
  make(tmp_path / "run", text="old")
  with pytest.raises(error):
    with output.folder(tmp_path / "run", overwrite=True) as partial:
      (partial / output.RESULTS).write_text("new")
      raise error
  assert names(tmp_path) == ["run"] and tree(tmp_path / "run") == {output.RESULTS: "old"}


def test_overwrite_replaces_a_folder_of_ours_whole(tmp_path):
  make(tmp_path / "run", text="old")
  (tmp_path / "run" / "stale.png").write_text("stale")
  make(tmp_path / "run", overwrite=True)
  assert names(tmp_path) == ["run"] and tree(tmp_path / "run") == {output.RESULTS: "new"}


def test_a_folder_that_is_there_is_kept_without_overwrite(tmp_path):
  make(tmp_path / "run", text="old")
  with pytest.raises(FileExistsError, match="exists; choose another `output`, or replace it with `overwrite`"):
    make(tmp_path / "run")
  assert tree(tmp_path / "run") == {output.RESULTS: "old"} and names(tmp_path) == ["run"]


def test_overwrite_never_replaces_what_diffinv_did_not_make(tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "mine.jpg").write_text("mine")
  with pytest.raises(FileExistsError, match="`overwrite` replaces folders that diffinv made, .*photos holds no"):
    make(tmp_path / "photos", overwrite=True)
  assert tree(tmp_path / "photos") == {"mine.jpg": "mine"} and names(tmp_path) == ["photos"]


def test_overwrite_takes_an_empty_folder(tmp_path):
  (tmp_path / "run").mkdir()
  make(tmp_path / "run", overwrite=True)
  assert tree(tmp_path / "run") == {output.RESULTS: "new"}


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_overwrite_never_replaces_a_file_or_a_link(tmp_path, kind):
  place, aim = tmp_path / "run", tmp_path / "aim"
  if kind == "file":
    place.write_text("mine")
  elif kind == "link":
    make(aim, text="mine")
    place.symlink_to(aim)
  else:
    place.symlink_to(aim)
  before = names(tmp_path)
  with pytest.raises(FileExistsError, match="expected a folder to make"):
    make(place, overwrite=True)
  assert names(tmp_path) == before
  assert kind == "dangling" or (place.read_text() if kind == "file" else tree(aim)[output.RESULTS]) == "mine"


def test_a_folder_made_meanwhile_by_another_is_kept(tmp_path):
  with pytest.raises(FileExistsError, match="exists"):
    with output.folder(tmp_path / "run") as partial:
      (partial / output.RESULTS).write_text("new")
      (tmp_path / "run").mkdir()
      (tmp_path / "run" / "theirs").write_text("theirs")
  assert tree(tmp_path / "run") == {"theirs": "theirs"}


def test_what_is_finished_is_kept_where_its_place_was_taken(tmp_path):
  with pytest.raises(FileExistsError, match="the folder .*out exists; .*; the finished result is in .*out.partial-"):
    with output.folder(tmp_path / "out") as partial:
      (partial / "a.txt").write_text("hours of work")
      (tmp_path / "out").mkdir()
  assert [path.read_text() for path in tmp_path.glob("out.partial-*/a.txt")] == ["hours of work"]


def test_the_old_folder_comes_back_when_the_rename_fails(tmp_path, monkeypatch):
  make(tmp_path / "run", text="old")
  rename = os.rename

  def failing(source, target):
    if output.PARTIAL in str(source):
      raise OSError(errno.ENOSPC, "No space left on device")
    rename(source, target)

  monkeypatch.setattr(os, "rename", failing)
  with pytest.raises(OSError, match="No space left"):
    make(tmp_path / "run", overwrite=True)
  assert names(tmp_path) == ["run"] and tree(tmp_path / "run") == {output.RESULTS: "old"}


def test_others_may_read_a_folder_as_the_umask_says(tmp_path):
  mask = os.umask(0o027)
  try:
    make(tmp_path / "run")
  finally:
    os.umask(mask)
  assert (tmp_path / "run").stat().st_mode & 0o777 == 0o750


def test_a_relative_path_means_the_folder_where_the_program_started(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with output.folder("run") as partial:
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    (partial / output.RESULTS).write_text("new")
  assert tree(tmp_path) == {f"run/{output.RESULTS}": "new"}


# Files


def test_a_file_appears_only_when_all_is_written(tmp_path):
  target = tmp_path / "a.txt"
  target.write_text("old")
  with output.file(target) as partial:
    partial.write_text("new")
    assert target.read_text() == "old"
  assert tree(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_an_error_keeps_the_old_file(tmp_path, error, begun):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(error):
    with output.file(tmp_path / "a.txt") as partial:
      if begun:
        partial.write_text("ne")
      raise error
  assert tree(tmp_path) == {"a.txt": "old"}


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
  output.write_json(tmp_path / "a.json", {"a": 1})
  with pytest.raises(TypeError):
    output.write_json(tmp_path / "a.json", {"a": object()})
  assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and names(tmp_path) == ["a.json"]


def test_json_writes_what_is_no_number_as_null(tmp_path):
  values = [float("nan"), float("inf"), -np.inf, np.float32("nan"), jnp.array(jnp.inf), 1.5]
  output.write_json(tmp_path / "a.json", {"list": values, "array": np.array([[1.0, np.nan]]), "tuple": (np.nan, 2)})
  text = (tmp_path / "a.json").read_text()
  assert "NaN" not in text and "Infinity" not in text
  assert json.loads(text) == {"list": [None] * 5 + [1.5], "array": [[1.0, None]], "tuple": [None, 2]}


def test_json_keeps_plain_values_paths_and_letters(tmp_path):
  value = {"π": "Zürich", 3: True, "path": pathlib.Path("a/b"), "n": np.int64(7), "none": None, "x": jnp.array([0.5])}
  output.write_json(tmp_path / "a.json", value)
  text = (tmp_path / "a.json").read_text(encoding="utf-8")
  assert json.loads(text) == {"π": "Zürich", "3": True, "path": "a/b", "n": 7, "none": None, "x": [0.5]}
  assert "Zürich" in text and text.endswith("}\n")


# Errors


class XlaRuntimeError(RuntimeError):
  """Stands for that of JAX."""


OUT_OF_MEMORY = XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.\n  more")


@pytest.mark.parametrize(
  "error, code",
  [
    (errors.UsageError("steps: wrong"), 2),
    (ValueError("x0: expected a, got b"), 1),
    (FileNotFoundError("a.png: expected a file"), 1),
    (OSError(errno.ENOSPC, "No space left on device"), 1),
    (MemoryError(), 1),
    (OUT_OF_MEMORY, 1),
    (KeyboardInterrupt(), 130),
    (ValueError("of a library,\nin two lines"), None),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), None),
    (XlaRuntimeError("INTERNAL: a fault"), None),
    (TypeError("a fault"), None),
    (AssertionError(), None),
  ],
  ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes_tell_wrong_flags_failures_and_faults(error, code):
  assert errors.exit_code(error) == code


@pytest.mark.parametrize(
  "error, want",
  [
    (ValueError("a\n  b\t c "), "a b c"),
    (ValueError(), "ValueError"),
    (errors.UsageError("steps: wrong"), "steps: wrong"),
    (KeyboardInterrupt(), "interrupted; nothing was written"),
    (MemoryError(), errors.MEMORY_ADVICE),
    (OUT_OF_MEMORY, errors.MEMORY_ADVICE),
    (FileNotFoundError("a.png: expected a file"), "a.png: expected a file"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), "No such file or directory: a.png"),
    (OSError(errno.EIO, "Input/output error", "a", None, "b"), "Input/output error: b"),
    (
      OSError(errno.ENOSPC, "No space left on device", "out"),
      "No space left on device: out; free some space, or write to another disk with --output",
    ),
    (
      PermissionError(errno.EACCES, "Permission denied", "out"),
      "Permission denied: out; change its permissions, or choose another place",
    ),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), errors.MEMORY_ADVICE),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a"), "File name too long: a; choose a shorter name"),
  ],
  ids=lambda value: None if isinstance(value, BaseException) else value[:20],
)
def test_messages_are_one_line_with_the_place_and_what_to_do(error, want):
  assert errors.one_line(error) == want


def test_a_folder_is_cleared_and_stays_locked(tmp_path):
  (tmp_path / "deep" / "er").mkdir(parents=True)
  (tmp_path / "file").write_text("x")
  (tmp_path / "link").symlink_to(tmp_path / "deep")
  with output.locked(tmp_path):
    output.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [output.LOCK]
    with pytest.raises(FileExistsError, match="another process writes"), output.locked(tmp_path):
      pass


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
  import fcntl

  def refuse(code):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, "flock", lambda *_: refuse(errno.ENOLCK))
  with output.locked(tmp_path):
    pass
  monkeypatch.setattr(fcntl, "flock", lambda *_: refuse(errno.EIO))
  with pytest.raises(OSError, match=os.strerror(errno.EIO)), output.locked(tmp_path):
    pass


def test_usage_turns_a_value_error_into_wrong_usage_and_nothing_else():
  with pytest.raises(errors.UsageError, match="^steps: wrong$"):
    with errors.usage():
      raise ValueError("steps: wrong")
  with pytest.raises(FileNotFoundError):
    with errors.usage():
      raise FileNotFoundError("a.png")
