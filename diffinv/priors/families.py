"""Families of networks whose checkpoints are files of tensors: how one is recognized, and what its files leave open.

To add one: a `Family`, or `Denoisers` where its networks are told the noise itself, and its place in FAMILIES.
`diffinv convert` does the rest: it finds the network in the file whatever stands before the names, tries the answers
that shapes leave open, and writes the one that denoises.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffinv.nets import drunet, edm, guided_diffusion, unet
from diffinv.priors import drunet_files, edm_files, key_prefixes, readings, trial
from diffinv.priors.base import Prior
from diffinv.priors.tensor_files import Tensor

Shapes = Mapping[str, tuple[int, ...]]


class Said(NamedTuple):
  """What the caller says of a network; None for nothing."""

  choices: Mapping[str, Any]  # num_heads, num_head_channels, num_heads_upsample, attention_order
  preset: str | None = None
  num_steps: int | None = None  # of the schedule
  size: int | None = None  # pixels an edge
  max_noise: float | None = None  # up to which it was trained, of 255 gray levels

  @property
  def heads(self) -> bool:
    """Whether the heads are known."""
    return self.preset is not None or any(self.choices[name] is not None for name in ("num_heads", "num_head_channels"))

  @property
  def order(self) -> bool:
    """Whether the order of the channels of attention is known."""
    return self.preset is not None or self.choices["attention_order"] is not None


class Networks(NamedTuple):
  """Configs of the networks that a file may hold."""

  possible: tuple[Any, ...]  # what was said, or the likeliest, first
  allowed: tuple[Any, ...]  # those that fit what was said


class Family(NamedTuple):
  """A kind of network that is told the index in a schedule, the time of a flow, or the noise in EDM's way."""

  name: str  # of its origin
  anchors: tuple[str, ...]  # names of tensors that every one has; what stands before them is a prefix
  check: Callable[[Shapes], None]  # raises ValueError where the file holds another network, and says which
  first: Callable[[Shapes, Said], Any]  # the config that was said; raises ValueError where shapes do not tell the rest
  networks: Callable[[Shapes, Said], Networks]
  params: Callable[[Mapping[str, Tensor], Any], dict[str, Any]]  # from the tensors and a config
  ends: tuple[str, str]  # its first and its last layer, of which the channels of the picture can be reversed
  predictions: tuple[str, ...] = (*readings.PREDICTED, readings.EDM)  # what its networks may, the likeliest first


class Denoisers(NamedTuple):
  """A kind of network that is told the noise and gives the denoised picture; its files leave little open."""

  name: str  # of one, with an article
  anchors: tuple[str, ...]  # as those of a `Family`
  make_prior: Callable[[Mapping[str, Tensor], Said], tuple[Prior, Any]]  # and its config
  networks: Callable[[Any], Sequence[Any]]  # from a config: those that the file may hold, the likeliest first


# What networks in use have.
HEADS: tuple[dict[str, int], ...] = (
  {"num_heads": 4},
  {"num_head_channels": 64},
  {"num_heads": 1},
  {"num_heads": 2},
  {"num_heads": 8},
  {"num_head_channels": 32},
  {"num_head_channels": 16},
  {"num_head_channels": 128},
)


def _guided_first(shapes: Shapes, said: Said) -> unet.UNetConfig:
  return guided_diffusion.identify(shapes, preset=said.preset, **said.choices)


def _guided_networks(shapes: Shapes, said: Said) -> Networks:
  """Return the networks of all heads and orders that differ in their arithmetic."""
  networks = [_guided_first(shapes, said)] if said.heads else []
  upsample = said.choices["num_heads_upsample"]
  more = {} if upsample is None else {"num_heads_upsample": upsample}
  for order in unet.ATTENTION_ORDERS:
    for heads in HEADS:
      if not (more and "num_head_channels" in heads):
        try:
          networks.append(guided_diffusion.infer_config(shapes, **heads, **more, attention_order=order))
        except ValueError:  # heads that do not divide the channels
          continue
  different: dict[tuple[Any, ...], unet.UNetConfig] = {}
  for network in networks:
    different.setdefault((*_heads(network), network.attention_order if max(_heads(network)) > 1 else ""), network)
  possible = tuple(different.values())
  return Networks(possible, tuple(network for network in possible if _fits(network, possible[0], said)))


def _heads(network: unet.UNetConfig) -> tuple[int, ...]:
  """Return the heads of each level, on the way down and up."""
  levels = [*network.attention_levels, len(network.channel_mult) - 1]
  return tuple(unet.heads(network, unet.width(network, i), decoder=up) for up in (False, True) for i in levels)


def _fits(network: unet.UNetConfig, given: unet.UNetConfig, said: Said) -> bool:
  """Tell whether a network is one that the flags allow; `given`: what they tell, where they tell the heads."""
  order = given.attention_order if said.heads else said.choices["attention_order"]
  ordered = not said.order or network.attention_order == order or max(_heads(network)) == 1
  return ordered and (not said.heads or _heads(network) == _heads(given))


GUIDED = Family(
  name="guided-diffusion",
  anchors=("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"),
  check=guided_diffusion.check_unconditional,
  first=_guided_first,
  networks=_guided_networks,
  params=guided_diffusion.params_from_state_dict,
  ends=("input_blocks_0_0", "out_2"),
)
EDM = Denoisers(
  name="a network of EDM",
  anchors=edm.ANCHORS,
  make_prior=lambda tensors, said: edm_files.make_prior(tensors, {}, num_steps=said.num_steps, size=said.size),
  networks=edm_files.possible,
)
DRUNET = Denoisers(
  name="a DRUNet",
  anchors=drunet.ANCHORS,
  make_prior=lambda tensors, said: drunet_files.make_prior(
    tensors, most=said.max_noise, num_steps=said.num_steps, size=said.size
  ),
  networks=lambda network: [network],
)
FAMILIES: tuple[Family | Denoisers, ...] = (EDM, DRUNET, GUIDED)


def of(names: Sequence[str]) -> Family | Denoisers:
  """Return the family of a file by the names of its tensors, with or without a prefix.

  The first whose anchors are there; of a damaged file, the first with one of them; guided-diffusion's, whose check says
  what the file is, where none has.
  """
  there = {anchor for family in FAMILIES for anchor in family.anchors if key_prefixes.find(names, [anchor])}
  whole = next((family for family in FAMILIES if there.issuperset(family.anchors)), None)
  return next((family for family in FAMILIES if there & {*family.anchors}), GUIDED) if whole is None else whole


def reversed_channels(params: dict[str, Any], ends: tuple[str, str]) -> dict[str, Any]:
  """Return parameters of a network that takes and gives its channels in the other order."""
  first, last = (params[name] for name in ends)
  taken = first["kernel"].shape[-2]
  order = trial.channel_order(taken, last["kernel"].shape[-1])
  return {
    **params,
    ends[0]: {**first, "kernel": np.ascontiguousarray(first["kernel"][..., ::-1, :])},
    ends[1]: {name: np.ascontiguousarray(value[..., order]) for name, value in last.items()},
  }
