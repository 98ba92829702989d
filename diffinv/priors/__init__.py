"""What is known of pictures: a denoiser at every noise level, of a trained network or in closed form."""

from diffinv.priors.base import (
  EDM_SIGMA_DATA,
  PREDICTIONS,
  VARIANCES,
  VELOCITIES,
  X0_FROM,
  AnyPrior,
  Denoised,
  PicturePrior,
  Prior,
  edm_scales,
  eps_from_x0,
  network_input,
  score,
  size_step,
)
from diffinv.priors.gaussian import GaussianMixture, StationaryGaussian, gaussian, mixture, natural

__all__ = [
  "EDM_SIGMA_DATA",
  "PREDICTIONS",
  "VARIANCES",
  "VELOCITIES",
  "X0_FROM",
  "AnyPrior",
  "Denoised",
  "GaussianMixture",
  "PicturePrior",
  "Prior",
  "StationaryGaussian",
  "edm_scales",
  "eps_from_x0",
  "gaussian",
  "mixture",
  "natural",
  "network_input",
  "score",
  "size_step",
]
