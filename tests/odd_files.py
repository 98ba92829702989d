"""Everything that a name can be but a file, for tests of what reads files."""

import os
import socket

# What each is called in messages.
WORDS = {
  "folder": "a folder",
  "fifo": "a FIFO",
  "to-fifo": "a FIFO",
  "socket": "a socket",
  "device": "a device",
  "dangling": "a link to nothing, gone",
  "missing": "nothing there",
  "loop": "symbolic links",
}


def make(folder, ending=""):
  """Make everything in WORDS but "missing", with that ending; return the paths by name."""
  path = {name: folder / f"{name}{ending}" for name in WORDS}
  path["folder"].mkdir()
  os.mkfifo(path["fifo"])
  path["to-fifo"].symlink_to(path["fifo"])
  path["device"].symlink_to("/dev/zero")
  path["dangling"].symlink_to("gone")
  path["loop"].symlink_to(path["loop"])
  with socket.socket(socket.AF_UNIX) as bound:
    here = os.getcwd()
    os.chdir(folder)  # the names of sockets must be short
    try:
      bound.bind(path["socket"].name)
    finally:
      os.chdir(here)
  return path
