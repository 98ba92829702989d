"""Networks of EDM and DRUNets: small ones that reach every branch, and the published ones."""

import re
from typing import Any, NamedTuple

import numpy as np

SEED = 1
NEVER_RANDOM = re.compile(r".*resample_filter")  # of a network's tensors


class Case(NamedTuple):
  """A small network, and what it is called with."""

  config: dict[str, Any]  # of the reference's class, with "kind", and of its preconditioning
  sigma: float
  label: int | None = None
  preconditioning: str = "edm"
  size: int = 8  # pixels

  def arrays(self):
    """Return the noisy picture and the cotangent of the denoised one, `[h, w, c]` each."""
    draw = np.random.RandomState(SEED).standard_normal
    shape = (self.size, self.size, self.config.get("in_channels", 3))
    return [draw(shape).astype(np.float32) for _ in range(2)]


NCSNPP = {
  "embedding_type": "fourier",
  "channel_mult_noise": 2,
  "encoder_type": "residual",
  "decoder_type": "standard",
  "resample_filter": [1, 3, 3, 1],
}
DDPMPP = {
  "embedding_type": "positional",
  "channel_mult_noise": 1,
  "encoder_type": "standard",
  "decoder_type": "standard",
  "resample_filter": [1, 1],
}


def song(family, size=8, channels=8, mult=(1, 2), attention=(4,), **others):
  blocks = {"num_blocks": 1, "attn_resolutions": list(attention), "dropout": 0.1, "augment_dim": 0}
  shape = {"img_resolution": size, "model_channels": channels, "channel_mult": list(mult)}
  return {"kind": "song", **family, **blocks, **shape, **others}


def dhariwal(size=8, channels=32, mult=(1, 2), attention=(4,), **others):
  blocks = {"num_blocks": 1, "attn_resolutions": list(attention), "dropout": 0.1, "augment_dim": 0}
  shape = {"img_resolution": size, "model_channels": channels, "channel_mult": list(mult)}
  return {"kind": "dhariwal", **blocks, **shape, **others}


SMALL = {
  "ncsnpp": Case(song(NCSNPP, attention=(8, 4), augment_dim=9), sigma=0.05, preconditioning="ve"),
  "skip": Case(
    song({**DDPMPP, "encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]}, label_dim=5),
    sigma=3.0,
    label=2,
  ),
  "box": Case(
    song({**DDPMPP, "encoder_type": "residual", "decoder_type": "skip"}, mult=(2, 1), attention=(8,)), sigma=40.0
  ),
  "adm": Case(dhariwal(mult=(1, 4), label_dim=7, augment_dim=9, in_channels=1, out_channels=1), sigma=0.3, label=6),
}

CIFAR = {"augment_dim": 9, "num_blocks": 4, "size": 32, "channels": 128, "mult": (2, 2, 2), "attention": (16,)}
FFHQ = {**CIFAR, "size": 64, "mult": (1, 2, 2, 2)}
PUBLISHED = {
  "edm-cifar10-32x32-uncond-vp": song(DDPMPP, **CIFAR),
  "edm-cifar10-32x32-uncond-ve": song(NCSNPP, **CIFAR),
  "edm-cifar10-32x32-cond-vp": song(DDPMPP, **CIFAR, label_dim=10),
  "edm-ffhq-64x64-uncond-vp": song(DDPMPP, **FFHQ),
  "edm-ffhq-64x64-uncond-ve": song(NCSNPP, **FFHQ),
  "edm-imagenet-64x64-cond-adm": dhariwal(64, 192, (1, 2, 3, 4), (32, 16, 8), num_blocks=3, label_dim=1000),
}

# Small DRUNets, and the published ones.
DRUNETS = {
  "color": ({"nc": (4, 8, 12, 16), "nb": 2}, 0.2),
  "gray": ({"nc": (4, 4, 8, 8), "nb": 3, "in_channels": 1, "out_channels": 1}, 0.05),
}
PUBLISHED_DRUNETS = {"drunet_color": {}, "drunet_gray": {"in_channels": 1, "out_channels": 1}}
DRUNET_SIZE = 32  # pixels, from which on the reference pads nothing


def drunet_arrays(config):
  """Return a noisy picture in [0, 1] and the cotangent of the denoised one, `[h, w, c]` each."""
  draw = np.random.RandomState(SEED).standard_normal
  shape = (DRUNET_SIZE, DRUNET_SIZE, config.get("in_channels", 3))
  return (0.5 + 0.3 * draw(shape)).astype(np.float32), draw(shape).astype(np.float32)
