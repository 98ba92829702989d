"""Files are there in full or not at all, and on the disk before what speaks of them."""

import errno
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import files
from diffinv.priors import arrays


def tree(path):
  """Return every file below a folder with its text."""
  return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def names(path):
  return sorted(p.name for p in path.iterdir())


def test_a_file_appears_only_when_all_is_written(tmp_path):
  target = tmp_path / "a.txt"
  target.write_text("old")
  with files.file(target) as partial:
    partial.write_text("new")
    assert target.read_text() == "old"
  assert tree(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_an_error_keeps_the_old_file(tmp_path, error, begun):
  (tmp_path / "a.txt").write_text("old")
  with pytest.raises(error):
    with files.file(tmp_path / "a.txt") as partial:
      if begun:
        partial.write_text("ne")
      raise error
  assert tree(tmp_path) == {"a.txt": "old"}


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
  files.write_json(tmp_path / "a.json", {"a": 1})
  with pytest.raises(TypeError):
    files.write_json(tmp_path / "a.json", {"a": object()})
  assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and names(tmp_path) == ["a.json"]


def test_json_writes_what_is_no_number_as_null(tmp_path):
  values = [float("nan"), float("inf"), -np.inf, np.float32("nan"), jnp.array(jnp.inf), 1.5]
  files.write_json(tmp_path / "a.json", {"list": values, "array": np.array([[1.0, np.nan]]), "tuple": (np.nan, 2)})
  text = (tmp_path / "a.json").read_text()
  assert "NaN" not in text and "Infinity" not in text
  assert json.loads(text) == {"list": [None] * 5 + [1.5], "array": [[1.0, None]], "tuple": [None, 2]}


def test_json_keeps_plain_values_paths_and_letters(tmp_path):
  value = {"π": "Zürich", 3: True, "path": pathlib.Path("a/b"), "n": np.int64(7), "none": None, "x": jnp.array([0.5])}
  files.write_json(tmp_path / "a.json", value)
  text = (tmp_path / "a.json").read_text(encoding="utf-8")
  assert json.loads(text) == {"π": "Zürich", "3": True, "path": "a/b", "n": 7, "none": None, "x": [0.5]}
  assert "Zürich" in text and text.endswith("}\n")


@pytest.fixture
def calls(monkeypatch):
  """What is asked of the disk, in order: what is synced, renamed and written."""
  asked, paths = [], {}
  opened = os.open

  def remember(path, *args, **kwargs):
    descriptor = opened(path, *args, **kwargs)
    paths[descriptor] = os.path.basename(path)
    return descriptor

  monkeypatch.setattr(files.os, "open", remember)
  for name in ("fsync", "replace", "write"):
    real = getattr(os, name)

    def call(*args, real=real, name=name):
      what = paths.get(args[0], args[0]) if name != "replace" else os.path.basename(args[1])
      asked.append((name, what))
      return real(*args)

    monkeypatch.setattr(files.os, name, call)
  return asked


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_it_returns(tmp_path, calls):
  files.write_text(tmp_path / "a.txt", "text")
  half = f".a.txt{files.PARTIAL}{os.getpid()}"
  assert calls == [("fsync", half), ("replace", "a.txt"), ("fsync", tmp_path.name)]


def test_lines_are_on_the_disk_when_append_returns(tmp_path, calls):
  files.append(tmp_path / "rows", "one\n")
  files.append(tmp_path / "rows", "two\n")
  assert calls == [("write", "rows"), ("fsync", "rows"), ("fsync", tmp_path.name), ("write", "rows"), ("fsync", "rows")]
  assert (tmp_path / "rows").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_lines_that_could_not_be_appended_leave_no_part(tmp_path, monkeypatch, fails):
  files.append(tmp_path / "rows", "one\n")
  write = os.write

  def full(*args):
    if fails == "write" and len(args[1]) > 2:
      return write(args[0], args[1][:2])  # a part fits
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(files.os, fails, full)
  with pytest.raises(OSError, match="No space left") as error:
    files.append(tmp_path / "rows", "two\n")
  assert error.value.filename == str(tmp_path / "rows")
  assert (tmp_path / "rows").read_text() == "one\n"


def test_a_torn_line_is_dropped_and_whole_ones_are_kept(tmp_path):
  path = tmp_path / "rows"
  for text, kept in (("", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("b", "")):
    path.write_text(text)
    files.drop_torn_line(path)
    assert path.read_text() == kept
  files.drop_torn_line(tmp_path / "none")


def test_what_a_dead_process_left_is_swept_and_what_is_being_written_is_not(tmp_path):
  left = tmp_path / f".a.txt{files.PARTIAL}1"  # process 1 is alive: it is the lock that counts
  others = [tmp_path / name for name in (f".b.txt{files.PARTIAL}1", ".a.txt", f"a.txt{files.PARTIAL}1")]
  for path in (left, *others):
    path.write_text("x")
  with files.file(tmp_path / "a.txt") as partial:
    partial.write_text("new")
    files.sweep(tmp_path, "a.txt")
    assert not left.exists() and partial.exists()
  assert all(path.exists() for path in others) and (tmp_path / "a.txt").read_text() == "new"
  files.sweep(tmp_path / "none", "a.txt")


def test_a_place_that_cannot_be_synced_is_written_to(tmp_path, monkeypatch):
  def refuse(code):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(files.os, "fsync", lambda _: refuse(errno.EINVAL))
  files.write_text(tmp_path / "a.txt", "text")
  monkeypatch.setattr(files.os, "fsync", lambda _: refuse(errno.EIO))
  with pytest.raises(OSError, match=os.strerror(errno.EIO)):
    files.write_text(tmp_path / "b.txt", "text")
  assert names(tmp_path) == ["a.txt"]


def test_the_temporary_name_of_a_file_tells_which_it_is():
  assert files.target_of(f".a.png{files.PARTIAL}12") == "a.png"
  for other in ("a.png", ".a.png", f"a.png{files.PARTIAL}12", f".a.png{files.PARTIAL}x", f"{files.PARTIAL}12"):
    assert files.target_of(other) is None


@pytest.mark.parametrize("name", ["posix_fallocate", "write"])
def test_space_is_asked_for_before_a_library_writes_and_given_back(tmp_path, monkeypatch, name):
  if name == "write":
    monkeypatch.delattr(files.os, "posix_fallocate", raising=False)
  files.check_space(tmp_path / "a", files.CHUNK + 1)
  assert names(tmp_path / "a") == []

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(files, "_take", full)
  with pytest.raises(OSError, match="No space left on device") as refused:
    files.check_space(tmp_path / "a", 1)
  assert refused.value.filename == str(tmp_path / "a") and names(tmp_path / "a") == []


def test_arrays_are_not_begun_where_they_have_no_space(tmp_path, monkeypatch, capfd):
  """Orbax would print pages."""
  asked = []

  def full(_, size):
    asked.append(size)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(files, "_take", full)
  with pytest.raises(OSError, match="No space left on device"):
    arrays.write(tmp_path / "a" / "params", {"a": jnp.zeros(1000), "b": jnp.zeros(10)})
  assert asked[0] > 4040 and capfd.readouterr() == ("", "") and names(tmp_path / "a" / "params") == []
