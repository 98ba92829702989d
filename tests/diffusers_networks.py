"""Networks and schedules of the diffusers library: small ones that reach every branch, and the published ones."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

SEED = 1


class Case(NamedTuple):
  """A small network, and what it is called with."""

  config: dict[str, Any]  # of UNet2DModel
  t: float
  label: Any = None
  size: int = 8  # pixels

  def arrays(self):
    """Return the picture and the cotangent of the output, `[h, w, c]` each."""
    draw = np.random.RandomState(SEED).standard_normal
    shapes = [(self.size, self.size, self.config[f"{name}_channels"]) for name in ("in", "out")]
    return [draw(shape).astype(np.float32) for shape in shapes]


def _config(down, up, widths, **others):
  names = {"down_block_types": [f"{name}2D" for name in down], "up_block_types": [f"{name}2D" for name in up]}
  common = {"in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
  return {**common, **names, "block_out_channels": list(widths), **others}


ATTENTION = (("DownBlock", "AttnDownBlock"), ("AttnUpBlock", "UpBlock"))
SKIP = (("SkipDownBlock", "AttnSkipDownBlock", "SkipDownBlock"), ("SkipUpBlock", "AttnSkipUpBlock", "SkipUpBlock"))
MIXED = (("SkipDownBlock", "SkipDownBlock", "AttnDownBlock"), ("UpBlock", "SkipUpBlock", "SkipUpBlock"))
RESNET = (("ResnetDownsampleBlock", "AttnDownBlock"), ("AttnUpBlock", "ResnetUpsampleBlock"))

SMALL = {
  # As google/ddpm-*, with another width at each level.
  "ddpm": Case(
    _config(
      ("DownBlock", "AttnDownBlock", "DownBlock"),
      ("UpBlock", "AttnUpBlock", "UpBlock"),
      (8, 16, 24),
      layers_per_block=2,
      attention_head_dim=None,
      downsample_padding=0,
      flip_sin_to_cos=False,
      freq_shift=1,
      norm_eps=1e-6,
    ),
    t=250,
  ),
  "defaults": Case(_config(*ATTENTION, (16, 16), attention_head_dim=8, dropout=0.1), t=999),
  "resnet": Case(
    _config(
      *RESNET,
      (8, 16),
      resnet_time_scale_shift="scale_shift",
      attn_norm_num_groups=8,
      attention_head_dim=4,
      num_class_embeds=5,
    ),
    t=40,
    label=3,
  ),
  "resampling": Case(
    _config(
      ("AttnDownBlock", "DownBlock"),
      ("UpBlock", "AttnUpBlock"),
      (8, 16),
      out_channels=6,
      resnet_time_scale_shift="scale_shift",
      downsample_type="resnet",
      upsample_type="resnet",
      mid_block_scale_factor=1.5,
    ),
    t=3,
  ),
  "conv_resampling": Case(
    _config(("AttnDownBlock", "AttnDownBlock"), ("AttnUpBlock", "AttnUpBlock"), (8, 16), downsample_padding=0), t=7
  ),
  "skip": Case(
    _config(
      *SKIP,
      (32, 64, 64),
      norm_num_groups=None,
      norm_eps=1e-6,
      time_embedding_type="fourier",
      mid_block_scale_factor=1.41421356237,
      attention_head_dim=None,
    ),
    t=0.8,
  ),
  "skip_attention": Case(
    _config(
      ("AttnSkipDownBlock", "AttnSkipDownBlock"),
      ("AttnSkipUpBlock", "AttnSkipUpBlock"),
      (32, 64),
      resnet_time_scale_shift="scale_shift",
      attention_head_dim=16,
      center_input_sample=True,
    ),
    t=70,
  ),
  "mixed": Case(_config(*MIXED, (16, 32, 16), norm_num_groups=8), t=120),
  "plain": Case(
    _config(
      ("DownBlock", "UNetResDownBlock"),
      ("UNetResUpBlock", "UpBlock"),
      (8, 8),
      add_attention=False,
      class_embed_type="timestep",
      center_input_sample=True,
      time_embedding_dim=24,
    ),
    t=15,
    label=6,
  ),
  "gray": Case(
    _config(
      ("DownBlock", "DownBlock"),
      ("UpBlock", "UpBlock"),
      (8, 8),
      in_channels=1,
      out_channels=1,
      mid_block_type=None,
      class_embed_type="identity",
      freq_shift=1,
    ),
    t=500,
    label=np.linspace(-1, 1, 32, dtype=np.float32),
  ),
}

# What stands in the config.json of the published networks that does not differ among them.
_GOOGLE = {
  "_class_name": "UNet2DModel",
  "_diffusers_version": "0.0.4",
  "act_fn": "silu",
  "attention_head_dim": None,
  "center_input_sample": False,
  "downsample_padding": 0,
  "flip_sin_to_cos": False,
  "freq_shift": 1,
  "in_channels": 3,
  "layers_per_block": 2,
  "mid_block_scale_factor": 1,
  "norm_eps": 1e-06,
  "norm_num_groups": 32,
  "out_channels": 3,
  "time_embedding_type": "positional",
}
_256 = {
  **_GOOGLE,
  "block_out_channels": [128, 128, 256, 256, 512, 512],
  "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
  "sample_size": 256,
  "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
_SCRIPT = {  # the training script's network: examples/unconditional_image_generation/train_unconditional.py
  "_class_name": "UNet2DModel",
  "block_out_channels": [128, 128, 256, 256, 512, 512],
  "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
  "in_channels": 3,
  "layers_per_block": 2,
  "out_channels": 3,
  "sample_size": 64,
  "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
_NCSNPP = {
  **_GOOGLE,
  "block_out_channels": [128, 128, 256, 256, 256, 256, 256],
  "down_block_types": [*["SkipDownBlock2D"] * 4, "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2],
  "downsample_padding": 1,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "mid_block_scale_factor": 1.41421356237,
  "norm_num_groups": None,
  "sample_size": 256,
  "time_embedding_type": "fourier",
  "up_block_types": [*["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", *["SkipUpBlock2D"] * 4],
}

PUBLISHED = {
  **{f"google/ddpm-{name}-256": _256 for name in ("celebahq", "church", "bedroom", "cat")},
  **{f"google/ddpm-ema-{name}-256": _256 for name in ("celebahq", "church", "bedroom", "cat")},
  "google/ddpm-cifar10-32": {
    **_GOOGLE,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "sample_size": 32,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
  },
  "google/ncsnpp-celebahq-256": _NCSNPP,
  "train_unconditional.py": _SCRIPT,
}

SCHEDULES = {
  "linear": {},
  "linear_100": {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.2},
  "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
  "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
  "sigmoid": {"beta_schedule": "sigmoid"},
  "trained": {"trained_betas": np.linspace(0.01, 0.3, 40).tolist(), "num_train_timesteps": 40},
  "zero_snr": {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"},
}


def digest(shapes):
  """Return the SHA-256 of the sorted list of "name:shape" of a network's tensors, a line each."""
  lines = sorted(f"{name}:{list(shape)}" for name, shape in shapes.items())
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def apply(config, params, x, t):
  """Return the output of a network of ours."""
  import jax.numpy as jnp

  from diffinv.nets import diffusers_unet

  return diffusers_unet.apply_function(config)(params, x, jnp.float32(t))
