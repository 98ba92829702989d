"""What diffinv wrote is removed, and nothing else, wherever it lies and whatever has become of it."""

import json

import pytest

from diffinv import files
from diffinv.manifest import FORMAT, LOCK, NAME, Manifest


def begin(folder, *names):
  """Make a folder with files, all of them listed; a name that ends in a slash is a folder with a file in it."""
  folder.mkdir(exist_ok=True)
  found = Manifest.begin(folder, "comparison", "compare")
  found.add(*names)
  for name in names:
    path = folder / name / "inside" if name.endswith("/") else folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("ours")
  return found


def put(path, text="theirs"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_the_list_says_what_the_folder_is_and_what_was_written(tmp_path):
  begin(tmp_path, "run.json", "pictures/a.png")
  lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
  assert lines == [{"format": FORMAT, "kind": "comparison", "command": "compare"}, "run.json", "pictures/a.png"]
  found = Manifest.read(tmp_path)
  assert (found.kind, found.command, list(found.names)) == ("comparison", "compare", ["run.json", "pictures/a.png"])


def test_what_goes_on_keeps_the_list_and_lists_no_name_twice(tmp_path):
  begin(tmp_path, "a")
  again = Manifest.begin(tmp_path, "comparison", "compare")
  again.add("a", "b", "b")
  assert list(Manifest.read(tmp_path).names) == ["a", "b"]


FOREIGN = {
  "a file": lambda folder: put(folder / "mine.txt"),
  "a file among ours": lambda folder: put(folder / "pictures" / "mine.png"),
  "a folder": lambda folder: put(folder / "mine" / "deep" / "file"),
  "an empty folder": lambda folder: (folder / "empty").mkdir(),
  "a hidden file": lambda folder: put(folder / ".mine"),
  "a link to a file": lambda folder: (folder / "link").symlink_to(folder / "run.json"),
  "a link to nothing": lambda folder: (folder / "link").symlink_to("/nowhere"),
  "a half-written file of theirs": lambda folder: put(folder / f".mine{files.PARTIAL}7"),
  "a lock of theirs further down": lambda folder: put(folder / "pictures" / LOCK),
  "a list of theirs further down": lambda folder: put(folder / "pictures" / NAME),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_listed_is_told_and_outlives_the_removal(tmp_path, kind):
  folder = tmp_path / "out"
  found = begin(folder, "run.json", "pictures/a.png", "params/")
  FOREIGN[kind](folder)
  (strange,) = found.foreign()
  before = (folder / strange).lstat()
  found.remove()
  assert (folder / strange).lstat() == before
  assert not (folder / "run.json").exists() and not (folder / "params").exists()


def test_nothing_is_left_of_a_folder_of_ours(tmp_path):
  folder = tmp_path / "out"
  found = begin(folder, "run.json", "pictures/deep/a.png", "params/", "never/written")
  put(folder / LOCK)
  put(folder / "pictures" / "deep" / f".a.png{files.PARTIAL}12")
  put(folder / f".{NAME}{files.PARTIAL}12")
  assert found.foreign() == []
  found.remove()
  assert list(tmp_path.iterdir()) == []


def test_the_folder_its_lock_and_an_empty_list_stay_when_asked(tmp_path):
  folder = tmp_path / "out"
  found = begin(folder, "run.json", "pictures/a.png")
  put(folder / LOCK)
  found.remove(keep_folder=True)
  assert sorted(path.name for path in folder.iterdir()) == [LOCK, NAME] and not Manifest.read(folder).names


def test_nothing_is_removed_through_a_link_that_took_the_place_of_a_folder(tmp_path):
  folder, elsewhere = tmp_path / "out", tmp_path / "photos"
  found = begin(folder, "run.json", "pictures/a.png", "params/")
  for name in ("pictures", "params"):
    (folder / name / ("a.png" if name == "pictures" else "inside")).unlink()
    (folder / name).rmdir()
    (folder / name).symlink_to(elsewhere)
  put(elsewhere / "a.png")
  put(elsewhere / "inside")
  assert found.foreign() == ["params/", "pictures/"]
  found.remove()
  assert sorted(path.name for path in elsewhere.iterdir()) == ["a.png", "inside"]


def test_a_link_or_a_folder_in_the_place_of_a_file_is_not_followed(tmp_path):
  folder, theirs = tmp_path / "out", tmp_path / "theirs.txt"
  found = begin(folder, "a", "b")
  put(theirs)
  for name in ("a", "b"):
    (folder / name).unlink()
  (folder / "a").symlink_to(theirs)
  put(folder / "b" / "mine")
  found.remove()
  assert theirs.read_text() == "theirs" and (folder / "b" / "mine").read_text() == "theirs"


BAD_NAMES = ["../theirs", "/etc/passwd", "a/../../theirs", "", ".", "..", "a//b", 7, None, ["a"], {"a": 1}]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_list_that_names_what_lies_elsewhere_removes_nothing_there(tmp_path, name):
  folder = tmp_path / "out"
  begin(folder, "a")
  put(tmp_path / "theirs")
  with open(folder / NAME, "a") as file:
    file.write(json.dumps(name) + "\n")
  found = Manifest.read(folder)
  assert list(found.names) == ["a"]
  found.remove()
  assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


IMPOSSIBLE = ["x" * 256, "\u00e9" * 200, "nul\0", "\ud800", "x/" * 3000 + "x", "a/in a file", "a/in/folders"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_list_that_names_what_no_file_here_is_called_removes_the_others(tmp_path, name):
  folder = tmp_path / "out"
  begin(folder, "a", "b")
  with open(folder / NAME, "a") as file:
    file.write(json.dumps(name) + "\n")
  found = Manifest.read(folder)
  found.sweep()
  assert found.foreign() == []
  found.remove()
  assert not folder.exists()


DAMAGED = [b"", b"{", b"[]\n", b'{"format": "other", "kind": "a", "command": "b"}\n', b"\xff\xfe\n", b'"a"\n', b"{}\n"]


@pytest.mark.parametrize("text", DAMAGED, ids=repr)
def test_a_list_whose_first_line_is_damaged_counts_as_none(tmp_path, text):
  (tmp_path / NAME).write_bytes(text)
  assert Manifest.read(tmp_path) is None


def test_a_line_that_is_damaged_leaves_its_file_to_its_owner(tmp_path):
  found = begin(tmp_path, "a", "b")
  text = (tmp_path / NAME).read_text().replace('"a"', '"a')
  (tmp_path / NAME).write_text(text + '"torn')
  assert Manifest.read(tmp_path).foreign() == ["a"]
  again = Manifest.begin(tmp_path, "comparison", "compare")
  again.add("c")
  assert list(Manifest.read(tmp_path).names) == ["b", "c"] and found.names


def test_a_library_s_folder_is_listed_file_by_file_when_it_is_settled(tmp_path):
  found = begin(tmp_path, "params/", "gone", "run.json")
  put(tmp_path / "params" / "deep" / "data")
  (tmp_path / "gone").unlink()
  assert found.foreign() == []
  found.settle()
  assert list(Manifest.read(tmp_path).names) == ["params/inside", "params/deep/data", "run.json"]
  put(tmp_path / "params" / "mine")
  assert found.foreign() == ["params/mine"]


def test_names_need_not_be_text(tmp_path):
  found = begin(tmp_path, "strange\udcff.png", "züri.png", "a\nb")
  assert Manifest.read(tmp_path).names == found.names and found.foreign() == []
  found.remove()
  assert not tmp_path.exists()
