"""What is evaluated: a trained prior, how it was trained, and pictures that it did and did not see."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from diffinv import errors, options, progress
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.data.images import from_uint8
from diffinv.methods import METHODS
from diffinv.methods.unconditional import SAMPLERS
from diffinv.options import MAX_SEED, option
from diffinv.priors import PicturePrior, spectral
from diffinv.priors.description import MAX_SCHEDULE_STEPS
from diffinv.priors.folder import ANALYTIC, load_provenance
from diffinv.studies import identity
from diffinv.studies.study import (
  MAX_CHAINS,
  MAX_PICTURES,
  MAX_SAMPLES,
  TEST_IMAGES,
  VALIDATION_IMAGES,
  Running,
  steps_option,
)
from diffinv.training import data as training_data
from diffinv.training.config import TrainConfig

MEASURES = ("denoising", "calibration", "sampling", "restoration", "speed")
TASKS = ("inpaint_random", "inpaint_box", "super_resolution", "gaussian_blur")  # linear, and each with an interpolation
COARSE = 8  # edge of the blocks whose means are the coarse part of an image, pixels
REDUCED = 16  # edge of the images that are compared as wholes, pixels
MAX_ROUNDS = 1000  # of timed chains
MANY = 8  # images at once whose step is timed beside that of one
GAUSSIAN = "fitted Gaussian"
MEAN_IMAGE, PERIODIC = f"{GAUSSIAN}, mean image", f"{GAUSSIAN}, periodic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Running):
  """What to measure of a prior that `diffinv train` made, and how.

  Pictures have the size of the training images.

  Example:
    >>> import diffinv
    >>> diffinv.Evaluation(prior="faces", measures=("denoising", "speed")).measures
    ('denoising', 'speed')
  """

  steps: str | int | None = steps_option(None, "a restoration", " Not set: as the settings of the prior say.")
  seed: int = option(1000, "Seed of noise, samples and measurements.", low=0, high=MAX_SEED)
  size: str | int | None = dataclasses.field(default=None, init=False)  # no option: that of the training
  batch_size: int = option(16, "Images or chains that run at once; bounds memory.", low=1, high=MAX_CHAINS)
  measures: tuple[str, ...] = option(
    ("denoising", "speed"), f"What to measure, of {', '.join(MEASURES)}.", choices=MEASURES
  )
  fit_images: int = option(8192, "Training images that the Gaussian is fitted to.", low=1, high=MAX_PICTURES)
  num_images: int = option(128, "Held-out pictures for denoising and calibration, at most.", low=1, high=MAX_PICTURES)
  num_drawn: int = option(1000, "Samples for sampling, and pictures of each held-out set.", low=2, high=MAX_PICTURES)
  sampler: str = option("dpm_solver", "How samples are drawn.", choices=tuple(SAMPLERS))
  sample_steps: str | int = steps_option("logsnr30", "a sample")
  tasks: tuple[str, ...] = option(TASKS, f"Tasks of restoration, of {', '.join(TASKS)}.", choices=TASKS)
  methods: tuple[str, ...] = option(
    ("dps", "diffpir"), f"Methods of restoration, of {', '.join(METHODS)}.", choices=METHODS
  )
  test_images: int = option(TEST_IMAGES, "Held-out pictures to restore.", low=1, high=MAX_PICTURES)
  validation_images: int = option(
    VALIDATION_IMAGES,
    "Other held-out pictures, by which the weight of total variation is chosen.",
    low=1,
    high=MAX_PICTURES,
  )
  num_samples: int = option(
    4,
    "Posterior samples of each picture; the mean of 4, 16, ... of them, and of all, stand beside one.",
    low=1,
    high=MAX_SAMPLES,
  )
  antithetic: bool = option(False, "Draw posterior samples in pairs of opposite noise.")
  settings: str | os.PathLike[str] | dict | None = option(
    None, "JSON file of hyper-parameters that `diffinv tune` found for the prior. Not set: those that ship for it."
  )
  rounds: int = option(5, "Chains to time, after one that is not.", low=1, high=MAX_ROUNDS)
  timed_steps: int = option(20, "Noise levels of a timed chain.", low=1, high=MAX_SCHEDULE_STEPS)

  def __post_init__(self) -> None:
    for name in ("measures", "tasks", "methods"):
      value = getattr(self, name)
      object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
      if not getattr(self, name):
        raise errors.UsageError(f"`{name}`: expected one or more, got none")
    options.check(self)
    if self.antithetic and self.num_samples % 2:
      raise errors.UsageError(f"`num_samples`: expected an even number for `antithetic`, got {self.num_samples}")
    if "speed" in self.measures and MANY % (self.devices or 1):
      raise errors.UsageError(f"`devices`: expected a divisor of {MANY}, the images timed at once, got {self.devices}")


@dataclasses.dataclass(frozen=True)
class Subject:
  """The prior that is measured."""

  config: Evaluation
  name: str
  prior: PicturePrior
  training: TrainConfig  # of the run that made it

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an image, (h, w, c)."""
    return (self.training.size, self.training.size, 3)

  @property
  def in_set(self) -> bool:
    """Whether it was trained on a set that comes with the package."""
    return self.training.source in held_out_data.SETS

  @functools.cached_property
  def gaussians(self) -> dict[str, spectral.SpectralGaussian]:
    """The Gaussians that are fitted to its training images, by name, the one to beat first."""
    images = list(self.training_batches())
    fit = functools.partial(spectral.fit, images, schedule=self.prior.schedule)
    return {GAUSSIAN: fit(), MEAN_IMAGE: fit(mean="image"), PERIODIC: fit(boundary="periodic")}

  def training_batches(self) -> Iterator[np.ndarray]:
    """Give the first training images as they were drawn, [b, h, w, c] each, [-1, 1]."""
    for images in self._data.stream(0, math.ceil(self.config.fit_images / self.training.batch_size)):
      images = np.asarray(images)
      yield from_uint8(images) if images.dtype == np.uint8 else images

  def held_out(self, purpose: str, count: int) -> np.ndarray:
    """Return held-out pictures for a purpose of `diffinv.data.held_out`, `count` at most, [n, h, w, c], [-1, 1].

    Of a folder these are crops of the files that training held back. No file serves both restoration and the choice of
    its settings.

    Raises:
      UsageError: nothing was held out.
      ValueError: there are not as many photographs.
    """
    if self.in_set:
      flip = bool(self.training.flip)
      return held_out_data.held_out(self.training.source, purpose, count, self.training.size, flip=flip)[1]
    files = len(self._data.held_out_files)
    if not files:
      raise errors.UsageError(
        f"`prior`: expected one whose training held files out, of {self.training.source} it held out none"
      )
    if purpose in held_out_data.PURPOSES:  # one crop a file
      return self._data.held_out[:files][held_out_data.PURPOSES.index(purpose) :: 2][:count]
    return self._data.held_out[:count]

  @functools.cached_property
  def _data(self) -> training_data.Data:
    # Held-out pictures of the sets come from elsewhere; those of a folder divide its files, as they did in training.
    training = dataclasses.replace(self.training, held_out=1) if self.in_set else self.training
    data = training_data.open_data(training, progress.note)
    if data.summary and not self.in_set:
      progress.note(data.summary)
    return data


def load(config: Evaluation) -> Subject:
  """Load the prior and what `prior.json` says of its training.

  Raises:
    UsageError: `diffinv train` did not make it, or its training images are not there or were the held-out ones.
    FileNotFoundError, ValueError: see `diffinv.load_prior`.
  """
  prior = config.prior
  if not isinstance(prior, (str, os.PathLike)) or str(prior) in ANALYTIC:
    what = prior if isinstance(prior, str) else type(prior).__name__
    raise errors.UsageError(f"`prior`: expected the name or folder of one that `diffinv train` made, got {what}")
  provenance = load_provenance(prior)
  try:
    training = TrainConfig.of_prior(provenance).resolved()
  except ValueError as error:
    raise errors.UsageError(f"`prior`: expected one that `diffinv train` made, got {prior}: {error}") from None
  _check_images(training, provenance["settings"].get("files"))
  name = pathlib.Path(prior).expanduser().absolute().name
  return Subject(config, name, identity.load(config), training)


def _check_images(training: TrainConfig, files: str | None) -> None:
  """Check that what was held out can be told, and was not trained on."""
  if training.source == "faces" and training.seed in held_out_data.FACES_SEEDS.values():
    raise errors.UsageError(
      f"`prior`: expected one that was trained with another seed than {training.seed}, by which it would be measured"
    )
  if files is not None and files != folder_data.fingerprint(training.source):
    raise errors.UsageError(
      f"`prior`: expected the images of its training in {training.source}, got others: which of them were held out "
      "cannot be told; put the same ones there"
    )
