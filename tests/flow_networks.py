"""Networks of velocity of torchcfm and of the diffusers library: small ones, and what they are called with."""

from typing import Any, NamedTuple

import diffusers_networks
import numpy as np

SEED = 3
TIMES = (0.1, 0.5, 0.97)  # of the noise: 0 is a picture, 1 is noise
SHIFT = 3.0  # of the scheduler


class Case(NamedTuple):
  """A small network, and the pictures that it is called with."""

  config: dict[str, Any]  # of UNet2DModel, or of torchcfm's UNetModelWrapper
  shape: tuple[int, int, int]  # height, width, channels
  label: int | None = None

  def arrays(self):
    """Return a picture, noise and a cotangent, `[h, w, c]` each."""
    draw = np.random.RandomState(SEED).standard_normal
    return [(scale * draw(self.shape)).astype(np.float32) for scale in (0.4, 1.0, 1.0)]


DIFFUSERS = {name: Case(diffusers_networks.SMALL[name].config, (8, 8, 3)) for name in ("defaults",)}
TORCHCFM = {
  "classes": Case(
    {
      "dim": (3, 8, 8),
      "num_channels": 32,
      "num_res_blocks": 1,
      "channel_mult": [1, 2],
      "num_heads": 4,
      "num_head_channels": 16,
      "attention_resolutions": "4",
      "class_cond": True,
      "num_classes": 11,
    },
    (8, 8, 3),
    label=2,
  ),
  "gray": Case(
    {
      "dim": (1, 8, 8),
      "num_channels": 32,
      "num_res_blocks": 1,
      "channel_mult": [1, 1],
      "num_heads": 2,
      "attention_resolutions": "8",
      "use_scale_shift_norm": True,
      "resblock_updown": True,
      "use_new_attention_order": True,
    },
    (8, 8, 1),
  ),
}
# What `diffinv convert` is told of them; shapes say the rest.
CHOICES = {
  "classes": {"num_head_channels": 16, "attention_order": "legacy"},
  "gray": {"num_heads": 2, "attention_order": "new"},
}
# Of the repository's examples/images/cifar10/train_cifar10.py.
CIFAR10 = {
  "dim": (3, 32, 32),
  "num_res_blocks": 2,
  "num_channels": 128,
  "channel_mult": [1, 2, 2, 2],
  "num_heads": 4,
  "num_head_channels": 64,
  "attention_resolutions": "16",
  "dropout": 0.1,
}
