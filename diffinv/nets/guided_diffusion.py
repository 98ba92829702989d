"""Weights of the guided-diffusion UNet: from the authors' state_dict names to the parameters of `diffinv.nets.unet`.

The names, layouts and options are those of Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis",
NeurIPS 2021, arXiv 2105.05233, as their code writes them. No PyTorch here: a state_dict maps names to NumPy arrays.

Shapes tell the whole architecture except how attention splits its channels: the caller, or a preset, gives the number
of heads and their order.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from diffinv.nets import unet, weights
from diffinv.nets.unet import UNetConfig, make_config
from diffinv.nets.weights import Source

# Published networks: FFHQ 256 of Choi et al. (ILVR, ICCV 2021, arXiv 2108.02938), which DPS uses; ImageNet 256 of
# Dhariwal and Nichol.
PRESETS = {
  "ffhq256": make_config(
    model_channels=128,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=1,
    attention_levels=(4,),
    num_head_channels=64,
  ),
  "imagenet256": make_config(
    model_channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_levels=(3, 4, 5),
    num_head_channels=64,
  ),
}

# Our name of a layer inside a block: its name in a state_dict, and the trailing ones of its weight's shape there.
LAYERS = {
  "in_norm": ("in_layers.0", ()),
  "in_conv": ("in_layers.2", ()),
  "emb": ("emb_layers.1", ()),
  "out_norm": ("out_layers.0", ()),
  "out_conv": ("out_layers.3", ()),
  "skip": ("skip_connection", (1, 1)),
  "norm": ("norm", ()),
  "qkv": ("qkv", (1,)),
  "proj_out": ("proj_out", (1,)),
}


def sources(config: UNetConfig) -> dict[tuple[str, ...], Source]:
  """Return the tensor that each parameter of `config` is read from, by the parameter's path."""
  shapes = jax.eval_shape(lambda: unet.init(jax.random.key(0), config))
  flat: dict[tuple[str, ...], Any] = dict(flax.traverse_util.flatten_dict(shapes))
  return {path: _source(path, leaf.shape) for path, leaf in flat.items()}


def _source(path, shape):
  block = re.sub(r"_(?=\d|op$|conv$)", ".", path[0])  # input_blocks_3_0_op -> input_blocks.3.0.op
  layer, ones = LAYERS[path[1]] if len(path) == 3 else (None, ())
  leaf = "bias" if path[-1] == "bias" else "weight"
  name = ".".join(part for part in (block, layer, leaf) if part)
  return Source(name, weights.their_shape(path, shape, ones))


UNCONDITIONAL = "convert an unconditional one"
PIXELS = "convert one of pixels"
DENOISER = "convert a diffusion model"
# Names of tensors that tell other networks, what these are and what to do.
OTHERS = {
  r"(^|\.)first_stage_model\.": ("a latent diffusion model, whose network knows the latents of an autoencoder", PIXELS),
  r"(^|\.)cond_stage_model\.": ("a network that a text or a class conditions, with what embeds it", UNCONDITIONAL),
  r"(^|\.)lora_(up|down|A|B|unet|te)\b|\.lora_": ("changes to another network (LoRA)", "convert the network itself"),
  r"(^|\.)(control_model|controlnet_cond_embedding|zero_convs)\.": (
    "a ControlNet, which only steers another network",
    UNCONDITIONAL,
  ),
  r"(^|\.)(transformer\.|token_embedding|positional_embedding)|encoder_kv": (
    "a text-conditional network, as of GLIDE",
    UNCONDITIONAL,
  ),
  r"transformer_blocks\.|\.attn2\.": ("a text-conditional network, as of Stable Diffusion", UNCONDITIONAL),
  r"(^|\.)(encoder\.down\.|quant_conv|post_quant_conv|decoder\.up\.)": ("an autoencoder", PIXELS),
  r"(^|\.)(x_embedder|pos_embed)\b": ("a transformer of latents, as of DiT", PIXELS),
  r"(^|\.)(discriminator|netD|D)\.|\.b4\.mbstd|epilogue\.": ("the discriminator of a GAN", DENOISER),
  r"(^|\.)(synthesis|mapping|style)\.": ("the generator of a GAN, which takes no noisy picture", DENOISER),
  r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)\b|^(state|optimizer|optimizer_states)\.": (
    "the state of an optimizer without its network",
    "give the file of the weights, often without opt in its name",
  ),
  r"(^|\.)(running_mean|bn1\.weight|fc\.weight|classifier\.\d+\.weight|head\.weight)$": (
    "a classifier, or another network that takes no noise level",
    DENOISER,
  ),
  r"(^|\.)down_blocks\.": (
    "a network of the diffusers library without its config.json",
    "give the folder that holds both",
  ),
  r"(^|\.)all_modules\.": ("a network of score_sde, which is another", UNCONDITIONAL),
}


def check_unconditional(shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Check that a state_dict is not that of another kind of network, as far as names and channels tell.

  Raises:
    ValueError: it is; the message says of which.
  """
  known = (other for names, other in OTHERS.items() if any(re.search(names, name) for name in shapes))
  what, advice = next(known, (None, UNCONDITIONAL))
  if what is None and "out.2.weight" not in shapes and not any(name.startswith("output_blocks.") for name in shapes):
    what = "a classifier, an encoder alone" if "input_blocks.0.0.weight" in shapes else None
  what = _conditioned(shapes) if what is None else what
  if what is not None:
    raise ValueError(f"expected an unconditional guided-diffusion UNet, got {what}; {advice}")


def _conditioned(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
  """Return what a network is that takes a picture beside the noisy one; None where channels do not tell of one."""
  first, last = shapes.get("input_blocks.0.0.weight", ()), shapes.get("out.2.weight", ())
  return None if len(first) < 2 or not last else second_input(first[1], last[0])


def second_input(taken: int, given: int) -> str | None:
  """Return what a network of so many channels is that takes a picture beside the noisy one; None of another."""
  if given in (taken, 2 * taken) and (taken, given) != (6, 6):  # these are 3 noisy and 3 of low resolution
    return None
  for channels in (3, 1):
    if taken > channels and given in (channels, 2 * channels):
      kind = "a super-resolution network" if taken == 2 * channels else "a conditional network"
      outputs = "their mean and variance" if given > channels else "their mean"
      return f"{kind} of {channels} noisy and {taken - channels} other channels in, {outputs} out"
  return f"a network of {taken} channels in and {given} out, which is neither a mean nor a mean and a variance"


def infer_config(shapes: Mapping[str, tuple[int, ...]], **choices: Any) -> UNetConfig:
  """Return the architecture that a state_dict's shapes tell.

  Args:
    shapes: by tensor name.
    **choices: what shapes cannot tell: num_heads or num_head_channels, num_heads_upsample, attention_order; dtype,
      remat.

  Raises:
    ValueError: the tensors are not those of a guided-diffusion UNet, or a choice is missing.
  """

  def shape(name):
    if name not in shapes:
      raise ValueError(
        f"tensor {name!r}: expected in a guided-diffusion UNet, the file has none; give a bare state_dict of one"
      )
    found = tuple(shapes[name])
    if len(found) < 2 or 0 in found:
      raise ValueError(f"tensor {name!r}: expected the weights of a layer, got the shape {found}")
    return found

  out_channels = shape("out.2.weight")[0]
  model_channels = shape("time_embed.0.weight")[1]
  numbers = {m[1] for m in (re.match(r"output_blocks\.(\d+)\.", name) for name in shapes) if m}
  count, blocks = len(numbers), [f"output_blocks.{i}" for i in range(len(numbers))]
  if numbers != {str(i) for i in range(count)}:
    raise ValueError(f"state_dict: expected decoder blocks 0 to {count - 1}, got {', '.join(sorted(numbers)[:20])}")
  # Only the decoder shows where the levels are: resampling blocks of the encoder look like any other.
  ups = [any(f"{b}.{j}.{k}.weight" in shapes for j in (1, 2) for k in ("conv", "in_layers.2")) for b in blocks]
  levels = sum(ups) + 1
  per_level = ups.index(True) + 1 if any(ups) else count
  if count == 0 or count != levels * per_level or per_level < 2:
    raise ValueError(f"state_dict: expected equal levels of decoder blocks, got {count} blocks in {levels} levels")
  firsts = blocks[::per_level][::-1]  # of each level, finest first
  widths = [shape(f"{b}.0.out_layers.3.weight")[0] for b in firsts]
  return make_config(
    model_channels=model_channels,
    channel_mult=tuple(w // model_channels if w % model_channels == 0 else w / model_channels for w in widths),
    num_res_blocks=per_level - 1,
    attention_levels=tuple(i for i, b in enumerate(firsts) if f"{b}.1.qkv.weight" in shapes),
    in_channels=shape("input_blocks.0.0.weight")[1],
    out_channels=out_channels,
    scale_shift_norm=shape("middle_block.0.emb_layers.1.weight")[0] == 2 * widths[-1],
    resblock_updown=not any(name.endswith(".op.weight") for name in shapes),
    num_classes=shape("label_emb.weight")[0] if "label_emb.weight" in shapes else None,
    **choices,
  )


def identify(shapes: Mapping[str, tuple[int, ...]], *, preset: str | None = None, **choices: Any) -> UNetConfig:
  """Return the architecture of a file, from its shapes and a preset or explicit choices.

  Args:
    shapes: by tensor name.
    preset: of PRESETS; an error where the shapes are another network's.
    **choices: num_heads or num_head_channels, num_heads_upsample, attention_order; None if not given. They override
      the preset's.

  Raises:
    ValueError: see `infer_config`; or the file is not the preset's; or neither preset nor heads are given.
  """
  choices = {name: value for name, value in choices.items() if value is not None}
  if preset is not None and preset not in PRESETS:
    raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
  plain = infer_config(shapes, num_heads=1)
  found = next((name for name, config in PRESETS.items() if _architecture(config) == _architecture(plain)), None)
  if preset is not None:
    if found != preset:
      hint = f"use preset {found!r}" if found is not None else "leave the preset out and give the heads"
      raise ValueError(f"preset: {preset!r} is {_summary(PRESETS[preset])}; the file holds {_summary(plain)}; {hint}")
    known = PRESETS[preset]
    if not {"num_heads", "num_head_channels"} & choices.keys():
      choices["num_head_channels"] = known.num_head_channels
    choices.setdefault("attention_order", known.attention_order)
  elif not {"num_heads", "num_head_channels"} & choices.keys():
    hint = f"the shapes are those of preset {found!r}" if found is not None else "see how the network was trained"
    raise ValueError(f"num_heads, num_head_channels: shapes cannot tell and neither was given; {hint}")
  return infer_config(shapes, **choices)


def _architecture(config):
  # What shapes tell; published networks exist with and without classes.
  blank = {"num_heads": 1, "num_head_channels": None, "num_heads_upsample": None}
  blank |= {"attention_order": "legacy", "num_classes": None}
  return dataclasses.replace(config, **blank)


def _summary(config):
  mult = ",".join(f"{m:g}" for m in config.channel_mult)
  attention = ",".join(str(level) for level in config.attention_levels)
  return (
    f"a network of {config.model_channels} channels x ({mult}), {config.num_res_blocks} blocks a level, attention at "
    f"levels ({attention}), {config.in_channels} to {config.out_channels} channels"
  )


def params_from_state_dict(state_dict: Mapping[str, Any], config: UNetConfig) -> dict:
  """Return the parameters of `unet.apply_function(config)` from a state_dict, float32 NumPy.

  Args:
    state_dict: arrays by the authors' tensor names, any floating type.
    config: from `identify`.

  Raises:
    ValueError: a tensor is missing, left over, misshapen, not floating or not finite; the message names it.
  """
  return weights.params(
    state_dict, sources(config), f"{weights.ADVICE}: check the preset, or convert the original file"
  )
