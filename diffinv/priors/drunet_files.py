"""DRUNets as priors: a denoiser knows no more noise than it was trained for, and a chain with it starts there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffinv.nets import drunet
from diffinv.nets.drunet import DRUNetConfig
from diffinv.priors.base import Prior
from diffinv.schedules import Schedule

PREDICTION = "denoiser"  # of `base.PREDICTIONS`
STEPS = 1000  # of the schedule: the network is told the noise, so more or fewer only place the levels
GRAY_LEVELS = 255  # in which the authors count noise; a picture in [-1, 1] has twice as large units


def make_prior(
  tensors: Mapping[str, Any],
  *,
  most: float | None = None,
  num_steps: int | None = None,
  size: int | None = None,
) -> tuple[Prior, DRUNetConfig]:
  """Return a network as a prior, and its config.

  Args:
    tensors: by the authors' names, without a prefix.
    most: noise up to which it was trained, of 255 gray levels; None for that of the published networks.
    num_steps: of the schedule; None for STEPS.
    size: pixels an edge; None for any.

  Raises:
    ValueError: it is none of the networks that are known here.
  """
  config = drunet.infer_config({name: tuple(np.shape(value)) for name, value in tensors.items()})
  end = drunet.TRAINED_TO if most is None else 2 * most / GRAY_LEVELS
  prior = Prior(
    params=drunet.params_from_state_dict(tensors, config),
    apply=drunet.apply_function(config),
    schedule=Schedule("karras", STEPS if num_steps is None else num_steps, ends=(drunet.LEAST, end)),
    prediction=PREDICTION,
    clip=False,  # as its authors use it
    image_shape=(size, size, config.in_channels),
    size_multiple=config.size_multiple,
  )
  return prior, config
