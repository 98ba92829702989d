"""What the configs of networks share: how one is built, what is checked of all, and what follows from its levels."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


class Denoiser:
  """The part that configs share of networks that give the denoised picture, and halve it level by level."""

  channels: tuple[int, ...]  # per level, finest first
  in_channels: int

  @property
  def out_channels(self) -> int:
    """Channels of the denoised image."""
    return self.in_channels

  @property
  def size_multiple(self) -> int:
    """Pixels that height and width must be a multiple of."""
    return 2 ** (len(self.channels) - 1)


def made(kind: type, fields: Mapping[str, Any]) -> Any:
  """Return a config of a kind, not checked; lists become tuples."""
  return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def check_choices(config: Any, choices: Mapping[str, Collection[Any]]) -> None:
  """Check that fields have values that are known.

  Raises:
    ValueError: one has not; the message names it.
  """
  for name, known in choices.items():
    if getattr(config, name) not in known:
      raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {getattr(config, name)!r}")


def check_numbers(config: Any, numbers: Sequence[Any]) -> None:
  """Check that numbers of channels and blocks are some.

  Raises:
    ValueError: one is not positive, or not whole.
  """
  if not all(isinstance(n, int) and n > 0 for n in numbers):
    raise ValueError(f"network: expected positive whole numbers of channels and blocks, got {config}")
