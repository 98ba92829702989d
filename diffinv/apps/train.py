"""Train a prior on a folder of images, on photographs of other packages or on procedural faces.

usage: diffinv train --data=DATA --output=checkpoints/NAME (--minutes=M | --steps=N) [--config=NAME]

DATA is a folder, photographs (docs/photos.md says how to get them), photos (a dozen of scikit-image) or faces.

Everything a run needs to go on, but the images and the prior of --init, is in the folder OUTPUT.training: run the same
command again after a stop, and it continues to exactly the weights that it would have had (on a GPU up to rounding, but
for XLA_FLAGS=--xla_gpu_deterministic_ops=true). It holds log.jsonl, sample grids and the checkpoints too.
"""

from typing import Any

from absl import flags

from diffinv import errors
from diffinv.apps import flags as option_flags
from diffinv.apps import main as main_module
from diffinv.launch import Launch, belonging, is_child, supervised
from diffinv.training.config import COMMON, DEFAULTS, TrainConfig
from diffinv.training.run import train

FLAGS = flags.FlagValues()
option_flags.define_path(
  FLAGS, "output", None, "Prior folder to write; OUTPUT.training beside it holds the run itself."
)
flags.DEFINE_boolean("overwrite", False, "Replace an existing prior folder at the end.", flag_values=FLAGS)
flags.DEFINE_boolean("restart", False, "Throw away what OUTPUT.training holds and start again.", flag_values=FLAGS)
option_flags.define(
  FLAGS,
  TrainConfig,
  defaults={**COMMON, **DEFAULTS["small"]},  # for the help only: what is not given is left to `TrainConfig.resolved`
)
option_flags.define(FLAGS, Launch)


def config_from_flags() -> TrainConfig:
  """Return what the flags ask for.

  Raises:
    UsageError: flags are missing or contradict each other.
  """
  given = option_flags.given(FLAGS, TrainConfig)
  if "multipliers" in given:
    given["multipliers"] = _numbers(given["multipliers"])
  return TrainConfig.begun_from(**given) if "init" in given else TrainConfig(**given)


def _numbers(texts: tuple[str, ...]) -> tuple[int | str, ...]:
  """Return texts as numbers; what is none is left as it is, for `TrainConfig` to refuse."""
  return tuple(int(text) if text.isdecimal() else text for text in texts)


def _print(line: str, **where: Any) -> None:
  print(errors.as_flags(line), **where)


def _print_nothing(line: str, **where: Any) -> None:
  """Leave to the first process what all would say."""


def main(argv) -> None:
  """Train, or go on training, and write the prior."""
  del argv
  config = config_from_flags()
  if not FLAGS.output:
    raise errors.UsageError("`output`: expected a value, got none; pass `output=...`")
  launched = option_flags.make(FLAGS, Launch)
  if launched.distributed and not is_child():
    if code := supervised(["train", *option_flags.as_words(FLAGS)]):
      raise errors.Ended(code)
    return
  with belonging(launched) as team:
    report = _print if team.index == 0 else _print_nothing
    train(config, FLAGS.output, overwrite=FLAGS.overwrite, restart=FLAGS.restart, report=report, team=team)


if __name__ == "__main__":
  main_module.run_module(main, FLAGS)
