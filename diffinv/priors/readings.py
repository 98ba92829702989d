"""Which reading of a network is right, where its files leave it open: what was said, and what denoises.

A reading answers six questions: which network (heads and their order), how it was told the time, with which schedule,
what it predicts, which pictures it knows ([-1, 1] or [0, 1]) and in which order of the channels. Questions that depend
on one another are tried together, the others one after another, and again until nothing changes.

A network in EDM's preconditioning is told the noise itself: it has no schedule, and its pictures are those in [-1, 1].
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffinv import progress
from diffinv.nets import unet
from diffinv.priors import trial
from diffinv.priors.base import EDM_ENDS
from diffinv.priors.trial import Reading, Trial, Tried
from diffinv.schedules import Schedule

RESCALED_TO = 1000  # steps: networks trained with rescale_timesteps are told the time of a schedule of so many
PREDICTED = ("eps", "x0", "v")  # by networks that are told the index in a schedule, the likeliest first
EDM = "edm"  # the prediction of networks that are told ln(sigma / alpha) / 4, or as much times RESCALED_TO
SETTLED = ("schedule", "unit_range")  # questions that EDM answers
ROUNDS = 3
# Questions that are tried together; each group with the best answers to the others.
TOGETHER = ("time_scale", "schedule", "prediction", "unit_range", "reversed_channels")
NETWORKS = ("network", "schedule")
GROUPS = (("prediction",), TOGETHER, NETWORKS)
CLEAR = 0.8  # ratio of errors below which another answer than the likeliest is taken, other than of the network
MISLED = 2.0  # ratio of errors up to which the answers of the best reading are kept beside one that was said wrongly
ORDER = 0.98  # ratio of errors from which an order of the channels is taken: many networks hardly see a difference


class Space(NamedTuple):
  """The answers to each question, those of flags and files, or the likeliest, first; fields as those of `Reading`."""

  network: tuple[Any, ...]
  time_scale: tuple[float, ...]
  schedule: tuple[Any, ...]
  prediction: tuple[str, ...]
  unit_range: tuple[bool, ...] = (False, True)
  reversed_channels: tuple[bool, ...] = (False, True)

  def first(self) -> Reading:
    """Return the reading of the first answers."""
    return self.settled(Reading(**{name: getattr(self, name)[0] for name in self._fields}))

  def settled(self, reading: Reading) -> Reading:
    """Return a reading whose answers fit what it predicts."""
    if reading.prediction == EDM:
      return reading._replace(schedule=noise_schedule(self.schedule[0].num_steps), unit_range=False)
    return reading if reading.schedule in self.schedule else reading._replace(schedule=self.schedule[0])

  def has(self, reading: Reading) -> bool:
    """Tell whether a reading is worth a trial: none is told a time as no network of its kind is."""
    few = reading.time_scale < 1.0 if reading.prediction == EDM else reading.time_scale == RESCALED_TO
    return not few or reading.time_scale == self.time_scale[0] or reading.prediction not in (*PREDICTED, EDM)

  def within(self, said: Sequence[str]) -> "Space":
    """Return a space where these questions have their first answers alone."""
    return self._replace(**{name: getattr(self, name)[:1] for name in said})


def noise_schedule(num_steps: int) -> Schedule:
  """Return the schedule of a network that is told the noise in EDM's preconditioning."""
  return Schedule("karras", num_steps, ends=EDM_ENDS)


class Chosen(NamedTuple):
  """The reading to take, and how well it denoises."""

  tried: Tried  # at `trial.ALL`
  next: Tried | None  # the best of those with another answer to one question

  @property
  def figures(self) -> dict[str, Any]:
    """What prior.json says of the check."""
    levels = np.reshape([self.tried.psnr, self.tried.trivial], (2, len(trial.PICTURES), len(trial.SBARS)))
    return {
      "pictures": [path.name for path in trial.PICTURES],
      "sbar": list(trial.SBARS),
      "psnr": np.round(levels[0], 2).tolist(),
      "psnr_trivial": np.round(levels[1], 2).tolist(),
      "psnr_of_next_best": None if self.next is None else np.round(self.next.psnr, 2).tolist(),
      "denoises": trial.denoises(self.tried),
    }

  @property
  def words(self) -> str:
    """How well it denoises."""
    tried = self.tried
    does = "denoises" if trial.denoises(tried) else "does not denoise"
    return f"{does} bundled pictures, {_at(tried)}, where a trivial denoiser gives {tried.trivial_shown:.1f}"


def choose(try_one: Trial, space: Space, allowed: Space, *, heads_said: bool = True, unchecked: bool = False) -> Chosen:
  """Try readings of a network, and return the one to take; notes and warnings tell of it.

  Args:
    try_one: of the network's parameters.
    space: what is possible.
    allowed: what flags and files leave of it.
    heads_said: whether they say the heads of attention.
    unchecked: take what denoises best even where it does not denoise.

  Raises:
    ValueError: none denoises, or several networks do so about as well.
  """
  if not try_one.is_cheap and len(allowed.network) > 1:
    progress.note(f"{len(allowed.network)} networks are tried on bundled pictures, which may take minutes")
  with _shown(try_one, space):
    found, other = _found(try_one, space, allowed)
    tried, best = try_one(found, trial.ALL), try_one(other, trial.ALL)
    better = best if trial.is_better(best, tried) and trial.denoises(best) else None
    if not trial.denoises(tried) and not unchecked:
      raise ValueError(_refusal(tried, better))
    rivals = {name: _rival(try_one, allowed, found, name) for name in _open(found)}
  if not heads_said:
    _check_sure(tried, rivals["network"])
  _tell(tried, better, allowed.first(), rivals, heads_said)
  return Chosen(tried, max((r for r in rivals.values() if r is not None), key=lambda one: one.shown, default=None))


def _found(try_one: Trial, space: Space, allowed: Space) -> tuple[Reading, Reading]:
  """Return the best reading that is allowed, and the best that is possible where there is reason to look for it."""
  found = other = _search(try_one, allowed)
  if space != allowed and (try_one.is_cheap or not try_one(found).error < trial.WELL):
    other = _search(try_one, space, start=found)
    found = _nearest(try_one, allowed, found, other)
  return found, other


@contextlib.contextmanager
def _shown(try_one: Trial, space: Space) -> Iterator[None]:
  """Show how much of a long search is done; most end before it has tried everything."""
  if try_one.is_cheap:
    yield
    return
  most = _evaluations(space)
  with progress.Bar(most) as bar:
    report = bar.part(most, "trying readings of the network")
    try_one.evaluated = lambda count: report(min(count, most - 1), most)
    try:
      yield
    finally:
      try_one.evaluated = lambda count: None


def _evaluations(space: Space) -> int:
  """Return about how often networks are evaluated if everything is tried: what they predict changes no input."""
  readings = _readings(space, space.first(), TOGETHER)
  inputs = {one if one.prediction == EDM else one._replace(prediction="") for one in readings}
  networks = 2 * len(space.network)  # as what else is found changes between rounds
  return len(trial.FEW) * (len(inputs) + networks) + 4 * len(trial.ALL)  # these of the best and its rivals


def _nearest(try_one: Trial, allowed: Space, found: Reading, best: Reading) -> Reading:
  """Return an allowed reading that is as the best one where it may be: what was said wrongly misleads the rest."""
  answers = {name: getattr(best, name) for name in Reading._fields if getattr(best, name) in getattr(allowed, name)}
  near = allowed.settled(found._replace(**answers))
  return near if try_one(near).error < MISLED * try_one(found).error else found


def _search(try_one: Trial, space: Space, start: Reading | None = None) -> Reading:
  """Return the best reading in a space, or the nearest to its first answers of those that do about as well."""
  found, cheap = space.first() if start is None else start, try_one.is_cheap
  for _ in range(ROUNDS):
    before = found
    for group in GROUPS:
      if cheap or group is NETWORKS or try_one(found).error >= trial.WELL:
        found = _improved(try_one, space, found, group if cheap else group[:1] if group is NETWORKS else group)
    if found == before:
      break
  return _ordered(try_one, space, found)


def _improved(try_one: Trial, space: Space, found: Reading, group: Sequence[str]) -> Reading:
  tried = [try_one(reading) for reading in _readings(space, found, group)]
  best = min(tried, key=lambda one: one.error)
  clear = trial.CLEAR if "network" in group else CLEAR
  near = [one for one in tried if one is best or not trial.is_better(best, one, clear)]
  return min(near, key=lambda one: sum(a != b for a, b in zip(one.reading, found))).reading


def _readings(space: Space, found: Reading, group: Sequence[str]) -> list[Reading]:
  """Return a reading, and those that answer a group of questions in another way."""
  answers = itertools.product(*(getattr(space, name) for name in group))
  others = [space.settled(found._replace(**dict(zip(group, some)))) for some in answers]
  return list(dict.fromkeys([found, *filter(space.has, others)]))


def _ordered(try_one: Trial, space: Space, found: Reading) -> Reading:
  """Return a reading with the order of the channels that denoises better."""
  readings = [found._replace(reversed_channels=answer) for answer in space.reversed_channels]
  first, *others = (try_one(reading, trial.ALL) for reading in readings)
  return next((other.reading for other in others if other.error < ORDER * first.error), first.reading)


def _rival(try_one: Trial, space: Space, found: Reading, question: str) -> Tried | None:
  """Return the best reading with another answer to a question, and the same to the others where it was tried so."""
  answers = [answer for answer in getattr(space, question) if answer != getattr(found, question)]
  same = [space.settled(found._replace(**{question: answer})) for answer in answers]
  other = [reading for reading in try_one.readings() if getattr(reading, question) in answers]
  few = [try_one(reading) for reading in [one for one in same if one in other] or other]
  return try_one(min(few, key=lambda one: one.error).reading, trial.ALL) if few else None


def _check_sure(tried: Tried, rival: Tried | None) -> None:
  if rival is not None and not trial.is_better(tried, rival):
    raise ValueError(
      "num_heads, num_head_channels: shapes cannot tell and neither was given; on bundled pictures "
      f"{network_words(tried.reading)}, {_at(tried)}, and {network_words(rival.reading)}, {rival.shown:.1f}, do about "
      "as well; see how the network was trained"
    )


def _refusal(tried: Tried, better: Tried | None) -> str:
  level = f"{tried.shown:.1f} dB at sbar {trial.SBARS[trial.SHOWN]}, a trivial denoiser {tried.trivial_shown:.1f}"
  if better is not None:
    words = _words(better.reading, tried.reading)
    return f"as it is said, the network does not denoise: {level}; {words} does, {better.shown:.1f} dB"
  return (
    f"no reading that was tried denoises bundled pictures: the best gives {level}; see how the network was trained, "
    "and say what its file does not; or, if it is for other pictures, add `unchecked` to convert it all the same"
  )


def _tell(
  tried: Tried, better: Tried | None, first: Reading, rivals: dict[str, Tried | None], heads_said: bool
) -> None:
  for name, rival in rivals.items():
    new = getattr(tried.reading, name) != getattr(first, name)
    if rival is not None and (new or (name == "network" and not heads_said)):
      progress.note(
        f"{WORDS[name](tried.reading)} is taken, as it was not said and denoises best: {_at(tried)}; next best "
        f"{rival.shown:.1f}"
      )
  if better is not None:
    progress.warn(
      f"{_words(tried.reading, better.reading)} gives {_at(tried)} on bundled pictures, "
      f"{_words(better.reading, tried.reading)} {better.shown:.1f}: see how the network was trained"
    )


def _at(tried: Tried) -> str:
  return f"{tried.shown:.1f} dB at sbar {trial.SBARS[trial.SHOWN]}"


def _words(reading: Reading, other: Reading) -> str:
  """Return in which flags a reading differs from another."""
  names = [name for name in _open(reading) if getattr(reading, name) != getattr(other, name)]
  return " ".join(WORDS[name](reading) for name in names)


def _open(reading: Reading) -> tuple[str, ...]:
  """Return the questions that a reading answers and what it predicts does not."""
  return tuple(name for name in Reading._fields if reading.prediction != EDM or name not in SETTLED)


def network_words(reading: Reading) -> str:
  """Return the network of a reading as flags."""
  network = reading.network
  if not isinstance(network, unet.UNetConfig):
    return "this network"
  heads = "num_heads" if network.num_heads is not None else "num_head_channels"
  return f"--{heads}={getattr(network, heads)} --attention_order={network.attention_order}"


def _time_words(reading: Reading) -> str:
  steps = 1 if reading.prediction == EDM else reading.schedule.num_steps
  if reading.time_scale == 1.0:
    return "--norescale_timesteps"
  return "--rescale_timesteps" if reading.time_scale == RESCALED_TO / steps else f"--time_scale={reading.time_scale:g}"


WORDS: dict[str, Callable[[Reading], str]] = {
  "network": network_words,
  "time_scale": _time_words,
  "schedule": lambda reading: f"--schedule={reading.schedule.name}",
  "prediction": lambda reading: f"--prediction={reading.prediction}",
  "unit_range": lambda reading: f"--pixel_range={'0,1' if reading.unit_range else '-1,1'}",
  "reversed_channels": lambda reading: f"--channel_order={'BGR' if reading.reversed_channels else 'RGB'}",
}
