"""Which network of a file, and what stands before the names of its tensors.

Wrappers put a prefix before every name: "module." by DataParallel, "_orig_mod." by torch.compile, "model." by
Lightning, "ema_model." by those that keep an average beside the trained network. A file may hold several networks, a
prefix each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffinv import progress
from diffinv.reading import shown

EMA = ("ema", "average", "shadow")  # in the prefixes of averaged weights
TRAINED = "online"  # in the prefix of what is averaged, beside the average
MOST = 8  # networks that a message lists


def select(tensors: Mapping[str, Any], wanted: str | None, anchors: Sequence[str]) -> dict[str, Any]:
  """Return the tensors of one network by its own names, and say what was taken off or left out.

  Args:
    tensors: of a file, by name.
    wanted: prefix of the network, with or without its last dot; "" for names without one. None for the only one, or
      the averaged one of several.
    anchors: tensors that every network of its kind has.

  Raises:
    ValueError: there are several networks and none was chosen, or there is none of that prefix.
  """
  prefixes = find(tensors, anchors)
  if wanted is not None:
    prefixes = [_chosen(prefixes, wanted)]
  if len(prefixes) > 1:
    likely = [prefix for prefix in prefixes if _is_average(prefix)]
    if len(likely) != 1:
      raise ValueError(f"`key_prefix` is missing: the file holds {len(prefixes)} networks, {_listed(prefixes)}")
    progress.note(f"of the networks {_listed(prefixes)}, {quoted(likely[0])} is taken, as the average of the weights")
    prefixes = likely
  if not prefixes:
    return dict(tensors)
  return _stripped(tensors, prefixes[0], anchors)


def _is_average(prefix: str) -> bool:
  return any(word in prefix.lower() for word in EMA) and TRAINED not in prefix.lower()


def find(tensors: Iterable[str], anchors: Sequence[str]) -> list[str]:
  """Return the prefixes of the networks in a file, by the names of its tensors, in its order."""
  found = [name.removesuffix(anchor) for name in tensors for anchor in anchors if name.endswith(anchor)]
  return [prefix for prefix in dict.fromkeys(found) if not prefix or prefix.endswith(".")]


def _chosen(prefixes: list[str], wanted: str) -> str:
  for prefix in prefixes:
    if wanted in (prefix, prefix.removesuffix(".")):
      return prefix
  there = f"one of {_listed(prefixes)}" if prefixes else "none, as the file holds no network of the kind"
  raise ValueError(f"`key_prefix`: expected {there}, got {quoted(wanted)}")


def _stripped(tensors: Mapping[str, Any], prefix: str, anchors: Sequence[str]) -> dict[str, Any]:
  """Return the tensors of a prefix, without it."""
  others = [other for other in find(tensors, anchors) if other != prefix and other.startswith(prefix)]
  mine = {name for name in tensors if name.startswith(prefix) and not name.startswith(tuple(others))}
  if prefix:
    progress.note(f"the prefix {quoted(prefix)} is taken off the names of {len(mine)} tensors")
  left = [name for name in tensors if name not in mine]
  if left:
    progress.note(f"{len(left)} other tensors are left out, such as {shown(left[0])}")
  return {name.removeprefix(prefix): value for name, value in tensors.items() if name in mine}


def quoted(prefix: str) -> str:
  """Return a prefix for a message."""
  return shown(prefix) if prefix else "'' (no prefix)"


def _listed(prefixes: list[str]) -> str:
  more = f" and {len(prefixes) - MOST} more" if len(prefixes) > MOST else ""
  return ", ".join(map(quoted, prefixes[:MOST])) + more
