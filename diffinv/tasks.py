"""Tasks: an operator, its noise and a name to cite, as the literature defines them.

Sizes are those of Chung et al. (DPS, ICLR 2023, arXiv 2209.14687, App. D) at 256x256 and scale with the image where
the task itself does (the box, its margin); kernels keep their size in pixels. sigma_y is on [-1, 1].
"""

import dataclasses
from typing import Callable

import jax

from diffinv import operators
from diffinv.operators.base import Operator

Shape = tuple[int, int, int]

SIGMA_Y = 0.05  # on [-1, 1]: DPS, Sec. 4; papers that mean [0, 1] use half of it


@dataclasses.dataclass(frozen=True)
class Task:
  """A named measurement."""

  title: str  # for tables and sheets
  make: Callable[[jax.Array, Shape], Operator]  # (key, image shape) -> operator; the key draws masks and kernels
  sigma: float = SIGMA_Y  # default noise, standard deviation on [-1, 1]


def _box(key: jax.Array, shape: Shape) -> Operator:
  height, width, _ = shape
  return operators.box(key, shape, box_size=(height // 2, width // 2), margin=(height // 16, width // 16))


TASKS = {
  "inpaint_box": Task("Inpainting, box", _box),
  "inpaint_random": Task("Inpainting, 70 % missing", lambda key, shape: operators.random_mask(key, shape, missing=0.7)),
  "super_resolution": Task("Super-resolution x4", lambda key, shape: operators.super_resolution(shape, 4)),
  "gaussian_blur": Task("Gaussian deblurring", lambda key, shape: operators.gaussian_blur(shape, size=61, std=3.0)),
  "motion_blur": Task(
    "Motion deblurring", lambda key, shape: operators.motion_blur(key, shape, size=61, intensity=0.5)
  ),
  "denoising": Task("Denoising", lambda key, shape: operators.identity(shape), sigma=0.2),
  "colorization": Task("Colourisation", lambda key, shape: operators.grayscale(shape)),
}
