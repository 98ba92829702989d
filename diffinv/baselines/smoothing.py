"""Non-local means: every pixel becomes the mean of pixels whose surroundings look like its own; needs scikit-image.

Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR 2005, with the noise taken off the distances
of surroundings (Darbon et al., "Fast nonlocal filtering applied to electron cryomicroscopy", ISBI 2008).
"""

import numpy as np

from diffinv.baselines import base
from diffinv.problems import Problem

PATCH, DISTANCE = 5, 6  # pixels: the edge of surroundings, and how far they are looked for; of the library's example


def non_local_means(problem: Problem, *, strength: float = 0.8) -> np.ndarray:
  """Return the picture without its noise, `[h, w, c]`.

  Args:
    problem: a picture with noise; what varies from value to value counts by its root mean square.
    strength: the width of the weights of surroundings, over the noise's standard deviation.
  """
  from skimage.restoration import denoise_nl_means

  sigma = base.noise_std(problem)
  return denoise_nl_means(
    np.asarray(problem.y),
    patch_size=PATCH,
    patch_distance=DISTANCE,
    h=strength * sigma,
    sigma=sigma,
    fast_mode=False,
    channel_axis=-1,
  )
