"""Interpolation: splines that enlarge a picture or fill in what is missing, without regard to the noise."""

import jax
import numpy as np
from PIL import Image

from diffinv.operators.pixels import Inpainting
from diffinv.problems import Problem


def bicubic(problem: Problem) -> np.ndarray:
  """Enlarge by cubic convolution (Keys, IEEE TASSP 29(6), 1981), as Pillow does it, `[h, w, c]`."""
  return _enlarged(problem, Image.Resampling.BICUBIC)


def lanczos(problem: Problem) -> np.ndarray:
  """Enlarge by Lanczos's windowed sinc of three lobes (Duchon, J. Applied Meteorology 18, 1979), as Pillow does it."""
  return _enlarged(problem, Image.Resampling.LANCZOS)


def _enlarged(problem, filtering) -> np.ndarray:
  height, width, _ = problem.operator.in_shape
  channels = np.moveaxis(np.asarray(problem.y, np.float32), -1, 0)
  found = [Image.fromarray(channel).resize((width, height), filtering) for channel in channels]
  return np.stack([np.asarray(channel) for channel in found], axis=-1)


def biharmonic(problem: Problem) -> np.ndarray:
  """Fill in what is missing by biharmonic splines and leave what is known, `[h, w, c]`; needs scikit-image.

  Damelin and Hoang, "On surface completion and image inpainting by biharmonic functions", Int. J. Mathematics and
  Mathematical Sciences, 2018.
  """
  from skimage.restoration import inpaint_biharmonic

  missing = np.asarray(_mask(problem))[..., 0] == 0
  return inpaint_biharmonic(np.asarray(problem.y), missing, channel_axis=-1).astype(np.float32)


def _mask(problem):
  assert isinstance(problem.operator, Inpainting), type(problem.operator).__name__
  return problem.operator.mask


def interpolate(problem: Problem) -> np.ndarray:
  """Fill in by biharmonic splines, enlarge by bicubic ones, or leave the picture as it was measured, `[h, w, c]`.

  Raises:
    ValueError: what was measured is no picture.
  """
  operator, y = problem.operator, problem.y
  if isinstance(operator, Inpainting):
    return biharmonic(problem)
  if not operator.is_picture or y.shape[2] != operator.in_shape[2]:
    raise ValueError(f"problem: expected the measurement of a picture with its channels, got {type(operator).__name__}")
  return np.asarray(y if y.shape == operator.in_shape else jax.image.resize(y, operator.in_shape, "cubic"))
