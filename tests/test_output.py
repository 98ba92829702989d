"""Output folders: where they may be, what they replace, and what a stop leaves of them."""

import errno
import os
import pathlib

import pytest

from diffinv import errors, output
from diffinv.manifest import ASIDE, LOCK, NAME, Manifest


def tree(path):
  """Return every file below a folder with its text, but for the list of files."""
  return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file() and p.name != NAME}


def names(path):
  return sorted(p.name for p in path.iterdir())


def folder(path, kind="comparison"):
  return output.Folder(path, kind, "compare")


def make(path, *, overwrite=False, text="new", kind="comparison", more=()):
  """Make a folder of ours with a file."""
  output.check(path, kind, overwrite=overwrite)
  with (made := folder(path, kind)).held():
    for name in ("a.txt", *more):
      made.new(name).write_text(text)
    made.publish(overwrite=overwrite)


# Where


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A current folder in a home folder."""
  (tmp_path / "home" / "here").mkdir(parents=True)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.chdir(tmp_path / "home" / "here")
  return tmp_path / "home" / "here"


@pytest.mark.parametrize("place", [".", "..", "../..", "/", "~", "../here", "../../home", "link", "./"])
def test_the_output_is_neither_the_current_nor_the_home_folder_nor_around_them(here, place):
  (here / "link").symlink_to("..")
  with pytest.raises(errors.UsageError, match="`output`: expected a folder of its own, .* (is|contains) "):
    output.check_apart(place, [])


@pytest.mark.parametrize(
  "place, how",
  [
    ("photos", "is"),
    ("photos/", "is"),
    ("photos/out", "lies in"),
    ("photos/deep/er", "lies in"),
    ("all", "contains"),
    ("link", "is"),
    ("link/out", "lies in"),
    ("all/../photos", "is"),
  ],
)
def test_the_output_is_apart_from_what_is_read(here, place, how):
  for name in ("photos", "all/photos"):
    (here / name).mkdir(parents=True)
  (here / "link").symlink_to("photos")
  read = here / ("all/photos" if how == "contains" else "photos")
  with pytest.raises(errors.UsageError, match=f"`output`: expected a place apart from `data`, .* {how} "):
    output.check_apart(place, [("mask", here / "mask.png"), ("data", read)])


@pytest.mark.parametrize("beside", [".running", ".training"])
def test_the_folder_in_which_the_work_is_done_is_apart_from_what_is_read(here, beside):
  with pytest.raises(errors.UsageError, match=f"out{beside} contains out{beside}/photos"):
    output.check_apart("out", [("data", f"out{beside}/photos")], suffix=beside)


def test_a_place_of_its_own_is_taken(here):
  (here / "photos").mkdir()
  for place in ("out", "photos2", "../out", "/tmp/out", "~/out", "photos.out"):
    output.check_apart(place, [("data", "photos"), ("mask", "mask.png"), ("prior", "~/priors/mine")])


# What it replaces


def test_a_folder_appears_only_when_all_is_written(tmp_path):
  target = tmp_path / "parent" / "run"
  made = folder(target)
  with made.held():
    made.new("sub/a.txt").write_text("a")
    assert not target.exists() and made.place.parent == target.parent  # one disk, so that the rename is atomic
    made.publish()
  assert tree(target) == {"sub/a.txt": "a"} and names(target.parent) == ["run"]
  found = Manifest.read(target)
  assert (found.kind, found.command, list(found.names)) == ("comparison", "compare", ["sub/a.txt"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_before_anything_was_written_leaves_nothing(tmp_path, error):
  with pytest.raises(error), folder(tmp_path / "parent" / "run").held():
    raise error
  assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_keeps_what_was_written_and_the_folder_that_was_to_be_replaced(tmp_path, error):
  make(tmp_path / "run", text="old")
  with pytest.raises(error), (made := folder(tmp_path / "run")).held():
    made.new("b.txt").write_text("new")
    raise error
  assert tree(tmp_path) == {"run/a.txt": "old", "run.running/b.txt": "new"}


def test_overwrite_replaces_a_folder_of_ours_whole(tmp_path):
  make(tmp_path / "run", text="old", more=("deep/stale.png",))
  make(tmp_path / "run", overwrite=True)
  assert names(tmp_path) == ["run"] and tree(tmp_path / "run") == {"a.txt": "new"}


def test_a_folder_that_is_there_is_kept_without_overwrite(tmp_path):
  make(tmp_path / "run", text="old")
  with pytest.raises(FileExistsError, match="exists; choose another `output`, or replace it with `overwrite`"):
    make(tmp_path / "run")
  assert tree(tmp_path) == {"run/a.txt": "old"}


@pytest.mark.parametrize("name", ["results.json", "prior.json", "run.json", NAME])
def test_no_file_makes_a_folder_ours(tmp_path, name):
  (tmp_path / "project").mkdir()
  for one in (name, "mine.jpg"):
    (tmp_path / "project" / one).write_text("{}")
  with pytest.raises(FileExistsError, match=f"expected a comparison that diffinv wrote, .*project holds no {NAME}"):
    make(tmp_path / "project", overwrite=True)
  assert names(tmp_path / "project") == sorted([name, "mine.jpg"])


def test_overwrite_refuses_where_others_put_files_and_names_them(tmp_path):
  make(tmp_path / "run", text="old")
  for i in range(5):
    (tmp_path / "run" / f"mine-{i}").write_text("mine")
  with pytest.raises(FileExistsError, match=r"found mine-0, mine-1, mine-2 and 2 more; move that elsewhere"):
    make(tmp_path / "run", overwrite=True)
  assert len(tree(tmp_path / "run")) == 6


def test_overwrite_replaces_no_folder_of_another_kind(tmp_path):
  make(tmp_path / "run", text="old", kind="prior")
  with pytest.raises(FileExistsError, match="expected a comparison, .*run holds a prior; choose another"):
    make(tmp_path / "run", overwrite=True)
  assert tree(tmp_path) == {"run/a.txt": "old"}


def test_overwrite_takes_an_empty_folder(tmp_path):
  (tmp_path / "run").mkdir()
  make(tmp_path / "run", overwrite=True)
  assert tree(tmp_path / "run") == {"a.txt": "new"}


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_overwrite_never_replaces_a_file_or_a_link(tmp_path, kind):
  place, aim = tmp_path / "run", tmp_path / "aim"
  if kind == "file":
    place.write_text("mine")
  else:
    place.symlink_to(aim)
  if kind == "link":
    make(aim, text="mine")
  before = names(tmp_path)
  with pytest.raises(FileExistsError, match="expected a folder to make"):
    make(place, overwrite=True)
  assert names(tmp_path) == before
  assert kind == "dangling" or (place.read_text() if kind == "file" else tree(aim)["a.txt"]) == "mine"


def test_what_is_finished_is_kept_where_its_place_was_taken(tmp_path):
  made = folder(tmp_path / "out")
  with pytest.raises(FileExistsError, match="the folder .*out exists; .*; the finished result is in .*out.running"):
    with made.held():
      made.new("a.txt").write_text("hours of work")
      (tmp_path / "out").mkdir()
      (tmp_path / "out" / "theirs").write_text("theirs")
      made.publish()
  assert tree(tmp_path) == {"out/theirs": "theirs", "out.running/a.txt": "hours of work"}


def test_the_old_folder_comes_back_when_the_rename_fails(tmp_path, monkeypatch):
  make(tmp_path / "run", text="old")
  rename = os.rename

  def failing(source, target):
    if str(source).endswith(output.RUNNING):
      raise OSError(errno.ENOSPC, "No space left on device")
    rename(source, target)

  monkeypatch.setattr(os, "rename", failing)
  with pytest.raises(OSError, match="No space left"):
    make(tmp_path / "run", overwrite=True)
  assert tree(tmp_path) == {"run/a.txt": "old", "run.running/a.txt": "new"}


def put_aside(path):
  """Do what comes first where a folder is replaced."""
  (path / ASIDE).touch()
  os.rename(path, path.with_name(path.name + output.REPLACED))


def test_a_folder_of_ours_that_a_person_renamed_is_neither_taken_back_nor_removed(tmp_path):
  make(tmp_path / "run", text="old")
  os.rename(tmp_path / "run", tmp_path / f"run{output.REPLACED}")
  for there in (False, True):
    if there:
      make(tmp_path / "other")
      os.rename(tmp_path / "other", tmp_path / "run")
    with pytest.raises(FileExistsError, match=f"run{output.REPLACED} is in the way; move it"):
      make(tmp_path / "run", overwrite=True)
    assert tree(tmp_path / f"run{output.REPLACED}") == {"a.txt": "old"}


def test_a_stop_between_the_two_renames_loses_neither_folder(tmp_path):
  make(tmp_path / "run", text="old")
  put_aside(tmp_path / "run")
  with folder(tmp_path / "run").held():
    assert tree(tmp_path / "run") == {"a.txt": "old"}
  assert names(tmp_path) == ["run"]


def test_what_a_stop_left_of_a_replaced_folder_is_removed(tmp_path):
  make(tmp_path / "run", text="old", more=("b.txt",))
  put_aside(tmp_path / "run")
  make(tmp_path / "other")
  os.rename(tmp_path / "other", tmp_path / "run")
  (tmp_path / f"run{output.REPLACED}" / "a.txt").unlink()
  with folder(tmp_path / "run").held():
    pass
  assert names(tmp_path) == ["run"] and tree(tmp_path / "run") == {"a.txt": "new"}


def test_a_folder_of_others_of_that_name_is_left_alone(tmp_path):
  for suffix in (output.REPLACED, output.RUNNING):
    theirs = tmp_path / f"run{suffix}"
    theirs.mkdir()
    (theirs / "letter.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=f"run{suffix}"), folder(tmp_path / "run").held(restart=True):
      pass
    assert tree(theirs) == {"letter.txt": "keep"}
    (theirs / "letter.txt").unlink()
    theirs.rmdir()


def test_others_may_read_a_folder_as_the_umask_says(tmp_path):
  mask = os.umask(0o027)
  try:
    make(tmp_path / "run")
  finally:
    os.umask(mask)
  assert (tmp_path / "run").stat().st_mode & 0o777 == 0o750


def test_a_relative_path_means_the_folder_where_the_program_started(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with (made := folder("run")).held():
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    made.new("a.txt").write_text("new")
    made.publish()
  assert tree(tmp_path) == {"run/a.txt": "new"}


# Going on, and starting again


def test_work_goes_on_where_it_was(tmp_path):
  for name in ("a", "b"):
    with (made := folder(tmp_path / "run")).held():
      made.new(name).write_text(name)
  with made.held():
    made.publish()
  assert tree(tmp_path) == {"run/a": "a", "run/b": "b"} and list(Manifest.read(tmp_path / "run").names) == ["a", "b"]


def test_starting_again_removes_what_was_written_and_nothing_else(tmp_path):
  with (made := folder(tmp_path / "run")).held():
    made.new("pictures/a").write_text("old")
  mine = made.place / "pictures" / "mine"
  mine.write_text("mine")
  with pytest.raises(FileExistsError, match="found pictures/mine; move that elsewhere"), made.held(restart=True):
    pass
  assert tree(made.place) == {"pictures/a": "old", "pictures/mine": "mine"}
  mine.unlink()
  with made.held(restart=True):
    made.new("b").write_text("new")
  assert tree(made.place) == {"b": "new"}


def test_work_of_another_kind_does_not_go_on(tmp_path):
  with (made := folder(tmp_path / "run", "search")).held():
    made.new("a").write_text("old")
  with pytest.raises(FileExistsError, match=r"expected a comparison, .*run.running holds a search"):
    with folder(tmp_path / "run").held():
      pass


def test_one_process_at_a_time_writes(tmp_path):
  one, other = folder(tmp_path / "run"), folder(tmp_path / "run")
  with one.held():
    one.new("a").write_text("a")
    for restart in (False, True):
      with pytest.raises(FileExistsError, match="another process writes into .*run.running; wait for it"):
        with other.held(restart=restart):
          pass
  with other.held():
    assert list(other.manifest.names) == ["a"]
  assert not (one.place / LOCK).exists()


def test_a_lock_on_a_folder_that_was_published_meanwhile_is_no_lock(tmp_path, monkeypatch):
  """Another process publishes between the opening of the lock's file and the locking."""
  from diffinv import files

  place, lock = tmp_path / "run", files.lock
  place.mkdir()

  def late(descriptor):
    os.rename(place, tmp_path / "published")
    return lock(descriptor)

  monkeypatch.setattr(files, "lock", late)
  with pytest.raises(FileExistsError, match="another process writes"), output.locked(place):
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


def test_a_folder_may_be_added_to(tmp_path):
  home = output.Folder(tmp_path / "run", "evaluation", "evaluate", suffix="")
  for name in ("a.json", "b.json"):
    with home.held():
      home.check_new(name, overwrite=False)
      home.new(name).write_text(name)
  (home.place / "mine.json").write_text("mine")
  with home.held():
    home.check_new("a.json", overwrite=True)
    with pytest.raises(FileExistsError, match=r"a.json exists; choose another `output`, or replace it"):
      home.check_new("a.json", overwrite=False)
    with pytest.raises(FileExistsError, match=r"diffinv did not write .*mine.json; move it elsewhere"):
      home.check_new("mine.json", overwrite=True)
  assert names(home.place) == ["a.json", "b.json", NAME, "mine.json"]


# Files


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "FIFO"])
def test_a_file_is_written_over_a_file_alone(tmp_path, kind):
  place = tmp_path / "a.json"
  makers = {
    "folder": place.mkdir,
    "link to nothing": lambda: place.symlink_to("nowhere"),
    "FIFO": lambda: os.mkfifo(place),
  }
  makers[kind]()
  with pytest.raises(FileExistsError, match="expected a file to write"):
    output.check_file(place, overwrite=True)


def test_a_file_that_is_there_is_replaced_only_if_asked(tmp_path):
  place = tmp_path / "a.json"
  output.check_file(place)
  place.write_text("mine")
  output.check_file(place, overwrite=True)
  with pytest.raises(FileExistsError, match="exists; choose another `output`"):
    output.check_file(place)
  with pytest.raises(NotADirectoryError, match="expected a folder"):
    output.check_file(pathlib.Path(tmp_path, "no", "a.json"))
