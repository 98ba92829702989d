"""What to restore, and how: what `diffinv reconstruct` and `diffinv.restore` are told."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from diffinv import errors
from diffinv.baselines import BASELINES, Baseline
from diffinv.data import ranges
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.noise import MAX_RATE, MAX_SIGMA, MIN_RATE, MIN_SIGMA
from diffinv.operators import kernels
from diffinv.options import option
from diffinv.studies import measurement
from diffinv.studies.measurement import Given
from diffinv.studies.presets import AIMS, QUALITIES, Preset
from diffinv.studies.study import Measuring, named_methods, named_tasks
from diffinv.studies.unknown import AUTO, CHANNELS
from diffinv.tasks import ENLARGE, FACTOR, FACTORS, INPAINT, TASKS, WORDS, Task, enlarging


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(Measuring):
  """What to restore, and how: photographs that are measured first (`input`), or real measurements (`measurement`).

  Example:
    >>> import diffinv
    >>> config = diffinv.Restoration(measurement=("scan.png",), task="inpaint", mask="auto")
    >>> config.quality, config.aim
    ('balanced', 'mean')
  """

  input: tuple[str | os.PathLike[str], ...] = option(
    (), "Photograph to measure and restore: a file, several (repeat, or commas), or a folder.", repeated=True
  )
  measurement: tuple[str | os.PathLike[str], ...] = option(
    (), "Measurement to restore, in place of `input`: a file, several, or a folder.", repeated=True
  )
  task: str | Task = option(
    "super_resolution",
    "What was measured, or in a word what to do; `diffinv tasks` describes them.",
    choices=(*WORDS, *TASKS),
  )
  factor: int | None = option(
    None,
    f"How many times as wide and high `task={ENLARGE}` makes a picture: {', '.join(map(str, FACTORS))}. Not set: "
    f"{FACTOR}.",
    low=min(FACTORS),
    high=max(FACTORS),
  )
  method: str | Method | Baseline | None = option(
    None,
    "How to restore: a method, or a restoration without a network. Not set: what `quality` and `aim` choose.",
    choices=(*METHODS, *BASELINES),
  )
  quality: str = option("balanced", "What to spend, where `method` is not set.", choices=QUALITIES)
  aim: str = option(
    "mean",
    "What to seek, where `method` is not set: the most accurate picture (mean), or a plausible one (sample), which is "
    "sharper and less accurate.",
    choices=AIMS,
  )
  sigma: float | str | tuple[float, ...] | None = option(  # type: ignore[assignment]  # a word in place of the number
    None,
    "Standard deviation of Gaussian noise, in units of [-1, 1] (a paper's 0.05 on [0, 1] is 0.1, but for the task "
    "phase_retrieval_01, whose pictures are on [0, 1]), or one for each channel with commas; or auto, the most likely "
    "one of a `measurement`, given the prior; or channels, the most likely one of each channel, for the task "
    "denoising. Not set: auto where that can be, else the task's.",
    low=MIN_SIGMA,
    high=MAX_SIGMA,
    advice="; pass `noise=none` for none",
    words=(AUTO, CHANNELS),
    several=True,
  )
  rate: float | str | None = option(  # type: ignore[assignment]  # a word in place of the number
    None,
    "Exposure of Poisson noise: 1 is 255 photons at white; or auto, the most likely one of a `measurement`, and `read` "
    "with it, for the task denoising. Not set: auto where that can be, else 1.",
    low=MIN_RATE,
    high=MAX_RATE,
    words=(AUTO,),
  )
  measurement_range: str | None = option(
    None,
    "Black and white of the pictures that were measured, where `measurement` is numbers. Not set: -1,1. Numbers of "
    "others are brought to it; `sigma` is of [-1, 1] all the same.",
    choices=ranges.RANGES,
  )
  mask: str | os.PathLike[str] | np.ndarray | None = option(
    None,
    "Image of the picture's size: white is kept, black missing; of MRI, frequencies, zero in the middle. Or auto, of "
    "`task=inpaint`: what looks like scratches and dust on a `measurement`, which is written as NAME-mask.png.",
  )
  mask_threshold: int | None = option(
    None,
    "Gray level from which a pixel of the mask counts as kept. Not set: only 0 and 255 are taken.",
    low=1,
    high=255,
  )
  kernel: str | os.PathLike[str] | np.ndarray | None = option(
    None,
    "Blur kernel, a grayscale image or .npy of odd sizes; is divided by its sum. A true convolution, a point of light "
    "becomes the kernel, centered on its middle pixel, with reflected edges.",
  )
  blur: str | os.PathLike[str] | None = option(
    None,
    "Blur of a deblurring task, in place of `kernel`: gaussian:STD, disk:RADIUS or motion:LENGTH,ANGLE in pixels and "
    "degrees; or of a `measurement` whose blur nobody knows, estimated: gaussian:auto, disk:auto, motion:auto, "
    "free:auto for a kernel of any form, or auto for the one of these that fits best. The edges of a `measurement` are "
    "taken as mixed with what lies beyond.",
  )

  def __post_init__(self) -> None:
    for name in ("input", "measurement"):
      value = getattr(self, name)
      object.__setattr__(self, name, tuple(value) if isinstance(value, (tuple, list)) else (value,))
    super().__post_init__()
    if self.method is not None and (self.quality, self.aim) != (Restoration.quality, Restoration.aim):
      raise errors.UsageError("`quality` and `aim` choose a method, got `method` too; leave out one or the other")
    if self.measurement_range is not None and not self.measurement:
      raise errors.UsageError("`measurement_range` is of `measurement`, got none; leave it out")
    if self.factor is not None:
      self._check_factor()
    if self.blur is not None:
      self._check_blur()
    if self.finds_mask:
      self._check_mask()
    if self.mask_threshold is not None and (self.mask is None or self.finds_mask):
      got = "`mask=auto`" if self.finds_mask else "no `mask`"
      raise errors.UsageError(f"`mask_threshold` is of a mask, got {got}; leave it out")
    self._check_words()
    if self.measurement and (self.size is not None or self.fit != "none"):
      raise errors.UsageError("`size` and `fit` change photographs, not `measurement`; crop it and its mask beforehand")

  @property
  def finds_mask(self) -> bool:
    """Whether scratches and dust are to be found."""
    return isinstance(self.mask, str) and self.mask == AUTO

  def _check_mask(self) -> None:
    if self.task != INPAINT:
      raise errors.UsageError(f"`mask=auto` is of `task={INPAINT}`, got another task; give the file of a mask")
    if self.input:
      raise errors.UsageError(
        "`mask=auto` is for `measurement`; with `input` it is what is lost, give the file of a mask"
      )

  def _check_factor(self) -> None:
    if self.task != ENLARGE:
      named = self.task if isinstance(self.task, str) else type(self.task).__name__
      raise errors.UsageError(f"`factor` is of `task={ENLARGE}`, got `task={named}`; leave it out")
    if self.factor not in FACTORS:
      raise errors.UsageError(f"`factor`: expected one of {', '.join(map(str, FACTORS))}, got {self.factor}")

  def _check_words(self) -> None:
    """Check that what is said of the noise is of its kind, and that words in place of numbers are of a measurement."""
    for name in measurement.KINDS:
      said = getattr(self, name)
      if self.input and isinstance(said, str):
        raise errors.UsageError(
          f"`{name}={said}` is for `measurement`; with `input` it is the noise to add, give a number"
        )
    measurement.check_kind(self)
    if self.rate == AUTO and self.read is not None:
      raise errors.UsageError("`rate=auto` finds `read` too, got a number for it; leave it out")

  def _check_blur(self) -> None:
    if self.kernel is not None:
      raise errors.UsageError("`blur` and `kernel` say the same, got both; leave out one or the other")
    if self.unknown_blur is not None and self.input:
      raise errors.UsageError(f"`blur={self.blur}` is for `measurement`; with `input` it is what blurs, give numbers")

  @property
  def _blur(self) -> kernels.Kernel | kernels.Unknown | pathlib.Path | None:
    """What `blur` says.

    Raises:
      UsageError: it is none.
    """
    with errors.usage():
      return None if self.blur is None else kernels.parse_blur(os.fspath(self.blur))

  @property
  def unknown_blur(self) -> str | None:
    """The family of blurs of which the measurement's is to be found; None where it is said."""
    return self._blur.family if isinstance(self._blur, kernels.Unknown) else None

  @property
  def given(self) -> Given:
    """What is said of how a real measurement was made."""
    kernel, found = self.kernel, self._blur
    if isinstance(found, pathlib.Path):
      kernel = found
    elif found is not None and not isinstance(found, kernels.Unknown):
      kernel = np.asarray(found.taps(kernels.kernel_size(found)))
    return Given(None if self.finds_mask else self.mask, self.mask_threshold, kernel)

  @property
  def named_task(self) -> tuple[str, Task]:
    """The task's name, and the task."""
    if isinstance(self.task, str) and self.task in WORDS:
      return self.task, WORDS[self.task] if self.factor is None else enlarging(self.factor)
    return next(iter(named_tasks((self.task,)).items()))

  @property
  def named_method(self) -> tuple[str, Any]:
    """The method's name; its class, the method with its fields, a restoration without a network, or a preset."""
    method = Preset(self.quality, self.aim) if self.method is None else self.method
    return next(iter(named_methods((method,)).items()))
