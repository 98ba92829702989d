"""Tasks: an operator, its noise and a name to cite, as the literature defines them.

Sizes are those of Chung et al. (DPS, ICLR 2023, arXiv 2209.14687, App. D) at 256x256 and scale with the image where
the task itself does (the box, its margin); kernels keep their size in pixels. sigma_y is on [-1, 1], or in k-space, the
spectrum and the coefficients of an orthonormal transform of such images, on each real number; of `phase_retrieval_01`
it is in the spectrum of images on [0, 1].

WORDS are what a person asks for, in place of what a paper measures: what was lost, or what blurred, has to be said.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffinv import operators
from diffinv.operators.base import Operator
from diffinv.operators.jpeg import rounding_of

Shape = tuple[int, int, int]

SIGMA_Y = 0.05  # on [-1, 1]: DPS, Sec. 4; papers that mean 0.05 on [0, 1] use twice as much
DPS = "Chung et al., ICLR 2023, arXiv 2209.14687"
DAPS = "Zhang et al., CVPR 2025, arXiv 2407.01521"
DDRM = "Kawar et al., NeurIPS 2022, arXiv 2201.11793"
FASTMRI = "lines as Zbontar et al., arXiv 1811.08839; each channel a real picture"
SENSING = "after Do et al., IEEE TSP 2012, arXiv 1106.5037"
DDRM_JPEG = "Kawar et al., 2022, arXiv 2209.11888; 4:2:0 as libjpeg compresses"
RESPONSE = "after Tai et al., IEEE TPAMI 2013; in place of the learned blur of DPS"


@dataclasses.dataclass(frozen=True)
class Task:
  """A named measurement.

  Example:
    >>> import diffinv
    >>> from diffinv import operators
    >>> gray = diffinv.Task("Gray", lambda key, shape: operators.OPERATORS["grayscale"](shape), "ours", sigma=0.02)
    >>> gray.make(None, (8, 8, 3)).out_shape
    (8, 8, 1)
  """

  title: str  # for tables and sheets
  make: Callable[[jax.Array, Shape], Operator]  # (key, image shape) -> operator; the key draws masks and kernels
  citation: str  # where the setting is from
  sigma: float = SIGMA_Y  # default noise, standard deviation in the units of the measurement
  given: str | None = None  # "mask", "kernel" or "file": what says how a real measurement was made; None for nothing
  random: bool = False  # whether `make` draws the operator, so that another key measures otherwise
  shape: Shape | None = None  # the only pictures that it measures; None for any
  noise: Callable[[int], Any] | None = None  # what it has in place of `sigma`, for pictures of so many channels
  settings: str | None = None  # the task whose hyper-parameters it takes; None for those of its own name
  always: bool = False  # whether what is `given` has to be given for a photograph that is measured, too

  def settings_of(self, name: str) -> str:
    """Return the task whose hyper-parameters it takes, itself being called `name`."""
    return name if self.settings is None else self.settings

  @property
  def hidden(self) -> bool:
    """Whether the operator is drawn and nothing can say which one measured."""
    return self.random and self.given is None


def _box(key: jax.Array, shape: Shape) -> Operator:
  height, width, _ = shape
  return operators.box(key, shape, box_size=(height // 2, width // 2), margin=(height // 16, width // 16))


def _jpeg(title: str, quality: int) -> Task:
  noise = lambda channels: rounding_of(quality, channels)
  return Task(title, lambda key, shape: operators.jpeg(shape), DDRM_JPEG, given="file", noise=noise, settings="jpeg")


def _mri(lines: str, acceleration: int) -> Callable[[jax.Array, Shape], Operator]:
  return lambda key, shape: operators.mri(key, shape, lines=lines, acceleration=acceleration)


TASKS = {
  "inpaint_box": Task("Inpainting, box", _box, DPS, given="mask", random=True),
  "inpaint_random": Task(
    "Inpainting, 70 % missing",
    lambda key, shape: operators.random_mask(key, shape, missing=0.7),
    DAPS,
    given="mask",
    random=True,
  ),
  "super_resolution": Task("Super-resolution x4", lambda key, shape: operators.super_resolution(shape, 4), DPS),
  "gaussian_blur": Task(
    "Gaussian deblurring", lambda key, shape: operators.gaussian_blur(shape, size=61, std=3.0), DPS, given="kernel"
  ),
  "motion_blur": Task(
    "Motion deblurring",
    lambda key, shape: operators.motion_blur(key, shape, size=61, intensity=0.5),
    DPS,
    given="kernel",
    random=True,
  ),
  "denoising": Task("Denoising", lambda key, shape: operators.identity(shape), f"after {DDRM}", sigma=0.2),
  "colorization": Task("Colorization", lambda key, shape: operators.grayscale(shape), f"after {DDRM}"),
  "phase_retrieval": Task(
    "Phase retrieval, x on [-1, 1]", lambda key, shape: operators.phase_retrieval(shape, signed=True), DPS
  ),
  "phase_retrieval_01": Task(
    "Phase retrieval, x on [0, 1]", lambda key, shape: operators.phase_retrieval(shape, signed=False), DAPS
  ),
  "nonlinear_blur": Task(
    "Nonlinear deblurring", lambda key, shape: operators.nonlinear_blur(key, shape), RESPONSE, random=True
  ),
  "hdr": Task("High dynamic range", lambda key, shape: operators.hdr(shape, factor=2.0), DAPS),
  "mri_random_x4": Task("MRI x4, random lines", _mri("random", 4), FASTMRI, given="mask", random=True),
  "mri_random_x8": Task("MRI x8, random lines", _mri("random", 8), FASTMRI, given="mask", random=True),
  "mri_equispaced_x4": Task("MRI x4, equispaced lines", _mri("equispaced", 4), FASTMRI, given="mask", random=True),
  "mri_equispaced_x8": Task("MRI x8, equispaced lines", _mri("equispaced", 8), FASTMRI, given="mask", random=True),
  "compressed_sensing": Task(
    "Compressed sensing, 25 %",
    lambda key, shape: operators.compressed_sensing(key, shape, ratio=0.25),
    SENSING,
    random=True,
  ),
  "jpeg": _jpeg("JPEG", 75),  # where a photograph is measured: libjpeg's usual quality
  "jpeg_10": _jpeg("JPEG, quality 10", 10),
  "jpeg_20": _jpeg("JPEG, quality 20", 20),
  "jpeg_40": _jpeg("JPEG, quality 40", 40),
}


# Words

ANY_KERNEL = "motion_blur"  # the task whose settings are for kernels of any shape; others were chosen for one kernel
FACTORS = (2, 3, 4, 8)  # of `enlarge`
FACTOR = 4  # where nothing is said
INPAINT, ENLARGE = "inpaint", "enlarge"
OUR = "a word for {}"


@functools.cache
def enlarging(factor: int) -> Task:
  """Return the task of pictures so many times smaller, as super-resolution has them."""
  return Task(
    f"Enlarging x{factor}",
    lambda key, shape: operators.super_resolution(shape, factor),
    OUR.format("super_resolution"),
    settings="super_resolution",
  )


WORDS = {
  INPAINT: Task(
    "Inpainting",
    lambda key, shape: operators.inpainting(np.ones(shape[:2]), channels=shape[2]),  # a mask takes its place
    OUR.format("inpaint_random"),
    given="mask",
    settings="inpaint_random",
    always=True,
  ),
  "deblur": Task(
    "Deblurring",
    lambda key, shape: operators.blur(shape, np.ones((1, 1))),  # a kernel takes its place
    OUR.format(ANY_KERNEL),
    given="kernel",
    settings=ANY_KERNEL,
    always=True,
  ),
  "denoise": dataclasses.replace(TASKS["denoising"], citation=OUR.format("denoising"), settings="denoising"),
  ENLARGE: enlarging(FACTOR),
  "colorize": dataclasses.replace(TASKS["colorization"], citation=OUR.format("colorization"), settings="colorization"),
}
