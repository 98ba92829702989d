"""Files of the diffusers library's `UNet2DModel`: its config.json and tensors, for `diffinv.nets.diffusers_unet`.

No PyTorch here: a state_dict maps names to NumPy arrays. The library is https://github.com/huggingface/diffusers; names
and meanings are those of version 0.42, with those of files from 0.0.4 on.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypedDict

import flax.traverse_util
import jax

from diffinv.nets import diffusers_unet, weights
from diffinv.nets.diffusers_unet import DiffusersConfig

UNET = "UNet2DModel"
ENDS = ("conv_in", "conv_out")  # the first and the last layer, of which the channels of the picture can be reversed
ACTIVATIONS = ("silu", "swish")  # two names of one
# What the library takes where a config.json is silent.
DEFAULTS: dict[str, Any] = {
  "block_out_channels": [224, 448, 672, 896],
  "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
  "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# Of a config.json, and no part of what the network computes; the second line is of averaged weights.
IDLE = {"sample_size", "dropout", "num_train_timesteps", "act_fn", "mid_block_type", "resnet_time_scale_shift", "sde"}
IDLE |= {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
# Names of attention's matrices in files of earlier versions of the library, and those of now.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Fields(TypedDict, total=False):
  """The fields of a config.json that are read, with their types."""

  _class_name: str
  sample_size: int | list[int] | None
  in_channels: int
  out_channels: int
  center_input_sample: bool
  time_embedding_type: str
  time_embedding_dim: int | None
  freq_shift: int
  flip_sin_to_cos: bool
  down_block_types: list[str]
  mid_block_type: str | None
  up_block_types: list[str]
  block_out_channels: list[int]
  layers_per_block: int
  mid_block_scale_factor: float
  downsample_padding: int
  downsample_type: str | None
  upsample_type: str | None
  act_fn: str
  attention_head_dim: int | None
  norm_num_groups: int | None
  attn_norm_num_groups: int | None
  norm_eps: float
  resnet_time_scale_shift: str
  add_attention: bool
  class_embed_type: str | None
  num_class_embeds: int | None


def config_from(fields: Mapping[str, Any], *, score: bool = False) -> DiffusersConfig:
  """Return the architecture that a config.json describes.

  Args:
    fields: of the file, as `Fields` has them.
    score: whether the network gives a score, see `diffusers_unet.DiffusersConfig`.

  Raises:
    ValueError: the network is of a kind that is not known here; the message names the field.
  """
  known = {field.name for field in dataclasses.fields(DiffusersConfig)} & Fields.__annotations__.keys()
  given = {**DEFAULTS, **{name: value for name, value in fields.items() if name in known}}
  for name in ("down_block_types", "up_block_types"):
    given[name] = [block.removeprefix("UNetRes") for block in given[name]]
  for name in ("downsample_type", "upsample_type"):
    given[name] = given.get(name) or "conv"
  middle = _of(fields, "mid_block_type", (None, "UNetMidBlock2D"), "UNetMidBlock2D")
  shift = _of(fields, "resnet_time_scale_shift", ("default", "scale_shift"), "default")
  _of(fields, "act_fn", ACTIVATIONS, "silu")
  return diffusers_unet.make_config(
    **given, mid_block=middle is not None, scale_shift_norm=shift == "scale_shift", score=score
  )


def _of(fields, name, choices, default):
  value = fields.get(name, default)
  if value not in choices:
    raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}, which is not known here")
  return value


def unknown(fields: Mapping[str, Any]) -> list[str]:
  """Return the fields of a config.json that are set and not known here."""
  idle = IDLE | Fields.__annotations__.keys()
  return [name for name, value in fields.items() if value is not None and name not in idle and not name.startswith("_")]


def sources(config: DiffusersConfig) -> dict[tuple[str, ...], weights.Source]:
  """Return the tensor that each parameter of `config` is read from, by the parameter's path."""
  shapes = jax.eval_shape(lambda: diffusers_unet.init(jax.random.key(0), config))
  flat: dict[tuple[str, ...], Any] = dict(flax.traverse_util.flatten_dict(shapes))
  return {path: _source(path, leaf.shape) for path, leaf in flat.items()}


def _source(path, shape):
  block = ".".join(path[:-1]).replace("mid_block_", "mid_block.")
  block = re.sub(r"(blocks|resnets|attentions|downsamplers|upsamplers|to_out)_(\d+)(_|\b)", r"\1.\2.", block)
  block = block.replace("..", ".").rstrip(".")
  ones = (1, 1) if block.endswith(("conv_shortcut", "skip_conv")) else ()
  leaf = "bias" if path[-1] == "bias" else "weight"
  return weights.Source(f"{block}.{leaf}", weights.their_shape(path, shape, ones))


def renamed(state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Return a state_dict with the names of the library's present version."""

  def now(name):
    found = re.fullmatch(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return name if found is None else f"{found[1]}.{RENAMED[found[2]]}.{found[3]}"

  found = {now(name): value for name, value in state_dict.items() if name != "time_proj.W"}
  if "time_proj.W" in state_dict:  # beside time_proj.weight, or in its place
    found.setdefault("time_proj.weight", state_dict["time_proj.W"])
  return found


def params_from_state_dict(state_dict: Mapping[str, Any], config: DiffusersConfig) -> dict[str, Any]:
  """Return the parameters of `diffusers_unet.apply_function(config)` from a state_dict, float32 NumPy.

  Args:
    state_dict: arrays by the library's tensor names, of any of its versions, any floating type.
    config: from `config_from`.

  Raises:
    ValueError: a tensor is missing, left over, misshapen, not floating or not finite; the message names it.
  """
  return weights.params(renamed(state_dict), sources(config), f"{weights.ADVICE}, or not those of its config.json")
