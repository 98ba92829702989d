"""What a file of weights is, told by how it begins, whatever its name: a checkpoint, or what was saved in its place."""

import html
import os
import pathlib
import re
import struct
from collections.abc import Sequence

from diffinv.reading import shown

SAFETENSORS, TORCH = "safetensors", "torch"  # the kinds that are read
AGAIN = "download the file itself, again"
MOST_HEADER = 100_000_000  # bytes of a header of safetensors, by its definition
HEAD = 4096  # bytes of a file that tell its kind
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how checkpoints of PyTorch begin: as an archive, as a pickle
NAMES = 3  # of files in an archive that a message shows
POINTER = b"version https://git-lfs.github.com/spec/"
WEB_PAGE = re.compile(
  rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)

ORIGINAL = "give the checkpoint of PyTorch that it was made of"
# Others, by patterns near the beginning.
PATTERNS = {
  re.compile(rb"\x08[\x01-\x20](\x12.(pytorch|tf2onnx|onnx|keras2onnx)|:|\x12\x00)", re.DOTALL): (
    "an ONNX file, a graph without the names of a checkpoint",
    ORIGINAL,
  ),
  re.compile(rb"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9][\w/]", re.DOTALL): (
    "a msgpack file, as of Flax",
    "give a checkpoint of PyTorch, or a .safetensors file",
  ),
  re.compile(rb".{4}TFL3", re.DOTALL): ("a TensorFlow Lite file", ORIGINAL),
}

# How other files begin, what they are and what to do.
OTHERS = {
  b"\x89HDF\r\n": ("an HDF5 file, of Keras or MATLAB", "give a checkpoint of PyTorch"),
  b"\x89PNG\r\n": ("a picture", "give the network's checkpoint"),
  b"\xff\xd8\xff": ("a picture", "give the network's checkpoint"),
  b"\x93NUMPY": ("a NumPy array", "give the network's checkpoint"),
  b"GGUF": ("a GGUF file, of a language model", "give a checkpoint of PyTorch"),
  b"\x1f\x8b": ("a file compressed by gzip", "unpack it with gunzip or tar, and give the checkpoint in it"),
  b"BZh": ("a file compressed by bzip2", "unpack it with bunzip2 or tar, and give the checkpoint in it"),
  b"\xfd7zXZ": ("a file compressed by xz", "unpack it with unxz or tar, and give the checkpoint in it"),
  b"7z\xbc\xaf": ("a 7z archive", "unpack it with 7z, and give the checkpoint in it"),
  b"Rar!": ("a RAR archive", "unpack it, and give the checkpoint in it"),
}


def tell(path: str | os.PathLike[str]) -> str:
  """Return the kind of a file that is there: SAFETENSORS or TORCH.

  Raises:
    ValueError: it is of another kind; the message says of which, and what to do.
    OSError: it cannot be read.
  """
  path = pathlib.Path(path)
  with open(path, "rb") as file:
    head = file.read(HEAD)
  if _is_safetensors(head):
    return SAFETENSORS
  if head.startswith((PICKLE, ZIP)):
    return TORCH
  what, advice = _other(head)
  raise ValueError(f"{path}: expected a PyTorch checkpoint or a .safetensors file, got {what}; {advice}")


def _is_safetensors(head: bytes) -> bool:
  """Tell whether a file begins with the length of a JSON header, and the header."""
  return head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= MOST_HEADER


def other_archive(names: Sequence[str]) -> tuple[str, str] | None:
  """Return what an archive with files of these names is, and what to do; None for a checkpoint of PyTorch."""
  files = [name for name in names if not name.endswith("/")]
  if any(name == "data.pkl" or name.endswith("/data.pkl") for name in files):
    return None
  if any(name in ("config.json", "metadata.json") for name in files) and any(n.endswith(".h5") for n in files):
    return "a Keras file", "give a checkpoint of PyTorch"
  if files and all(name.endswith(".npy") for name in files):
    return "a NumPy archive (.npz)", "give a checkpoint of PyTorch"
  some = ", ".join(map(shown, files[:NAMES])) + (", ..." if len(files) > NAMES else "")
  return f"a zip archive of {some or 'nothing'}", "unpack it, and give the checkpoint in it"


def _other(head: bytes) -> tuple[str, str]:
  """Return what a file is that is no checkpoint, and what to do."""
  if not head.strip(b"\x00"):
    return ("an empty file" if not head else "a file that begins with zeros"), AGAIN
  if head.startswith(POINTER):
    size = re.search(rb"^size (\d{1,15})\s*$", head, re.MULTILINE)
    of = f" to a file of {int(size[1]):,} bytes" if size else ""
    return f"a Git LFS pointer{of}", "fetch that file with `git lfs pull` in the repository, or from its web page"
  if WEB_PAGE.match(head):
    return f"a web page{_title(head)}, saved in the place of the file", "open its link in a browser, and " + AGAIN
  for start, (what, advice) in OTHERS.items():
    if head.startswith(start):
      return what, advice
  for pattern, (what, advice) in PATTERNS.items():
    if pattern.match(head) and not _is_text(head):
      return what, advice
  if head[257:262] == b"ustar":
    return "a tar archive", "unpack it with tar, and give the checkpoint in it"
  return _text(head)


def _title(head: bytes) -> str:
  found = TITLE.search(head.decode("utf-8", errors="replace"))
  return f", {shown(html.unescape(' '.join(found[1].split())))}" if found else ""


def _is_text(head: bytes) -> bool:
  return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def _text(head: bytes) -> tuple[str, str]:
  """Return what a file of none of the known kinds is: text, with its first line, or something else."""
  try:
    text = head[:-4].decode("utf-8") if len(head) == HEAD else head.decode("utf-8")
  except UnicodeDecodeError:
    text = "\0"
  if not all(letter.isprintable() or letter.isspace() for letter in text) or not text.strip():
    return "a file of another kind", "check that it is the right file"
  return f"text, {shown(text.split(chr(10))[0].strip() or text.split()[0])}", AGAIN
