"""Which reading of a network is right, where shapes cannot tell: what was said, and what the bundled portrait says."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffinv import progress
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import portrait
from diffinv.priors.base import VELOCITIES, Prior
from diffinv.priors.portrait import Reading, Tried

RESCALED_TO = 1000  # steps: networks trained with rescale_timesteps are told the time of a schedule of so many
# What networks in use have.
HEADS: tuple[dict[str, int], ...] = (
  {"num_heads": 4},
  {"num_head_channels": 64},
  {"num_heads": 1},
  {"num_heads": 2},
  {"num_heads": 8},
  {"num_head_channels": 32},
)
PREDICTED = ("eps", "v", "x0")  # by networks that are told the index in a schedule, the likeliest first
CHEAP = 1e11  # parameters times pixels up to which every reading is tried
SUSPECTS = "num_heads, num_head_channels, attention_order, rescale_timesteps, prediction, schedule, num_steps"


class Said(NamedTuple):
  """What the caller says of a network."""

  network: Mapping[str, Any]  # choices for `guided_diffusion.identify`; None where nothing was said
  preset: str | None
  rescaled: bool | None
  num_steps: int
  flow: bool = False  # whether it is one of velocity
  prediction: str | None = None

  @property
  def heads(self) -> bool:
    """Whether the heads are known."""
    return self.preset is not None or any(self.network[n] is not None for n in ("num_heads", "num_head_channels"))

  @property
  def order(self) -> bool:
    """Whether the order of the channels is known."""
    return self.preset is not None or self.network["attention_order"] is not None

  def time_scales(self) -> list[float]:
    """The factors of t, that of the flags, or the likeliest, first."""
    scales = [1.0, float(RESCALED_TO)] if self.flow else list(dict.fromkeys((RESCALED_TO / self.num_steps, 1.0)))
    return scales[::-1] if self.rescaled is self.flow else scales

  def predictions(self) -> list[str | None]:
    """What it may predict, that of the flags, or the likeliest, first."""
    if not self.flow:
      return [self.prediction]
    return sorted(VELOCITIES, key=lambda one: one != (self.prediction or "velocity_to_data"))


def first(shapes: Mapping[str, tuple[int, ...]], said: Said) -> Reading:
  """Return the reading that flags and defaults tell, without trying any.

  Raises:
    ValueError: see `guided_diffusion.identify`: the heads are not said, or the network is another.
  """
  return Reading(
    guided_diffusion.identify(shapes, preset=said.preset, **said.network), said.time_scales()[0], said.predictions()[0]
  )


def possible(shapes: Mapping[str, tuple[int, ...]], said: Said) -> list[Reading]:
  """Return the readings of a network, those that differ in their arithmetic; what was said comes first."""
  networks = [first(shapes, said).network] if said.heads else []
  for order in ("legacy", "new"):
    for heads in HEADS:
      try:
        networks.append(guided_diffusion.infer_config(shapes, **_with_upsample(heads, said), attention_order=order))
      except ValueError:  # heads that do not divide the channels
        continue
  different: dict[tuple[Any, ...], unet.UNetConfig] = {}
  for network in networks:
    different.setdefault(_arithmetic(network), network)
  ways = [(scale, prediction) for prediction in said.predictions() for scale in said.time_scales()]
  return [Reading(network, *way) for network in different.values() for way in ways]


def _with_upsample(heads: dict[str, int], said: Said) -> dict[str, int]:
  upsample = said.network["num_heads_upsample"]
  return heads if upsample is None else {**heads, "num_heads_upsample": upsample}


def _arithmetic(network: unet.UNetConfig) -> tuple[Any, ...]:
  """Return what attention computes: the heads of each level, and the order where there are several."""
  levels = [*network.attention_levels, len(network.channel_mult) - 1]
  heads = [unet.heads(network, unet.width(network, i), decoder=up) for up in (False, True) for i in levels]
  return (*heads, network.attention_order if max(heads) > 1 else "")


def fits(reading: Reading, said: Said, given: Reading | None) -> bool:
  """Tell whether a reading is one that the flags allow; `given`: what they and the defaults tell."""
  heads = _heads(reading.network)
  order = said.network["attention_order"] if given is None else given.network.attention_order
  ordered = not said.order or reading.network.attention_order == order or max(heads) == 1
  timed = said.rescaled is None or reading.time_scale == said.time_scales()[0]
  predicted = said.prediction is None or reading.prediction == said.prediction
  return ordered and timed and predicted and (given is None or heads == _heads(given.network))


def _heads(network: unet.UNetConfig) -> tuple[int, ...]:
  return _arithmetic(network)[:-1]


def choose(prior: Prior, readings: Sequence[Reading], said: Said) -> Reading:
  """Try readings on the portrait, and return the one to take; notes and warnings tell of it.

  Args:
    prior: of the parameters, see `portrait.try_all`.
    readings: from `possible`.
    said: by the flags.

  Raises:
    ValueError: the heads are not said, and the portrait does not tell.
  """
  given = readings[0] if said.heads else None
  if given is not None and not _is_cheap(prior):
    [alone] = portrait.try_all(prior, [given])
    if alone.error < portrait.WELL or said.preset is not None:
      readings = [reading for reading in readings if reading.network == given.network]
    else:
      progress.note(f"{len(readings)} readings of the network are tried on a portrait, which may take minutes")
  tried = portrait.try_all(prior, list(readings))
  allowed = [one for one in tried if fits(one.reading, said, given)]
  if tried[0].error >= portrait.WORKS:
    return _inconclusive(allowed, given)
  taken = _taken(allowed, given)
  if portrait.is_better(tried[0], taken):
    progress.warn(
      f"{_words(taken, tried)} leaves {taken.error:.0%} of the noise on a portrait, {_words(tried[0], tried)} "
      f"{tried[0].error:.0%}: see how the network was trained"
    )
  return taken.reading


def choose_prediction(prior: Prior, network: Any, said: str | None) -> str:
  """Try what a network may predict on the portrait, and return what it does; notes and warnings tell of it.

  Args:
    prior: of the parameters, see `portrait.try_all`.
    network: its config.
    said: what its files say that it predicts; None where they do not.
  """
  first = prior.prediction if said is None else said
  others = next((kind for kind in (PREDICTED, VELOCITIES) if first in kind), (first,))
  possible = [Reading(network, prior.time_scale, one) for one in others]
  if said is not None and not _is_cheap(prior):
    [alone] = portrait.try_all(prior, [Reading(network, prior.time_scale, first)])
    if alone.error < portrait.WELL:
      return first
  tried = portrait.try_all(prior, possible)
  best, plain = tried[0], next(one for one in tried if one.reading.prediction == first)
  found = best.reading.prediction or first
  if best.error >= portrait.WORKS:
    progress.note(
      f"the check on a portrait is inconclusive: {plain.error:.0%} of the noise is left; if the network was trained on "
      "photographs, see how, and with which noise schedule"
    )
  elif portrait.is_better(best, plain) and said is not None:
    progress.warn(
      f"the network is said to predict {said}, which leaves {plain.error:.0%} of the noise on a portrait, as "
      f"{found} it leaves {best.error:.0%}: see how the network was trained"
    )
  elif portrait.is_better(best, plain):
    progress.note(
      f"the network is taken to predict {found}, as nothing says what it does and so it denoises a portrait best: "
      f"{best.error:.0%} left"
    )
    return found
  return first


def _is_cheap(prior: Prior) -> bool:
  pixels = min(prior.image_shape[0] or portrait.MOST, portrait.MOST) ** 2
  return pixels * sum(np.size(leaf) for leaf in _leaves(prior.params)) <= CHEAP


def _leaves(params: Any) -> list[Any]:
  return [leaf for value in params.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def _inconclusive(allowed: list[Tried], given: Reading | None) -> Reading:
  if given is None:
    raise ValueError(
      "num_heads, num_head_channels: shapes cannot tell and neither was given; none that was tried denoises a "
      f"portrait, the best leaves {allowed[0].error:.0%} of the noise; see how the network was trained"
    )
  left = next(one.error for one in allowed if one.reading == given)
  progress.note(
    f"the check on a portrait is inconclusive: {left:.0%} of the noise is left; if the network was trained on "
    f"photographs, see what its shapes cannot tell: {SUSPECTS}"
  )
  return given


def _taken(allowed: list[Tried], given: Reading | None) -> Tried:
  """Return the best of the allowed readings where it is clearly that, or else what flags and defaults tell."""
  best, *others = allowed
  if given is None:
    if others and not portrait.is_better(best, others[0]):
      raise ValueError(
        "num_heads, num_head_channels: shapes cannot tell and neither was given; on a portrait "
        f"{_words(best, allowed)} and {_words(others[0], allowed)} do about as well; see how the network was trained"
      )
  else:
    plain = next(one for one in allowed if one.reading == given)
    if not portrait.is_better(best, plain):
      return plain
  progress.note(
    f"{_words(best, allowed)} is taken, as it was not said and denoises a portrait best: {best.error:.0%} left"
  )
  return best


def _words(one: Tried, tried: Sequence[Tried]) -> str:
  """Return a reading as flags, with the factor of time where the readings differ in it."""
  network = one.reading.network
  heads = "num_heads" if network.num_heads is not None else "num_head_channels"
  said = f"--{heads}={getattr(network, heads)} --attention_order={network.attention_order}"
  if len({other.reading.time_scale for other in tried}) > 1:
    said += " --rescale_timesteps" if one.reading.time_scale != 1.0 else " --norescale_timesteps"
  if len({other.reading.prediction for other in tried}) > 1:
    said += f" --prediction={one.reading.prediction}"
  return said
