"""Files of EDM's networks: their tensors, for `diffinv.nets.edm_unet`.

No PyTorch here: a state_dict maps names to NumPy arrays. Names are those of https://github.com/NVlabs/edm, of its
classes SongUNet and DhariwalUNet, which InverseBench and deepinv have, too. Names and shapes tell all of a network but
how it is preconditioned.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from diffinv.nets import edm_unet, weights
from diffinv.nets.edm_unet import EDMConfig

# Every network of the family has these; what stands before them is a prefix.
ANCHORS = ("map_layer0.weight", "map_layer1.weight")
LEVEL = re.compile(r"enc\.(\d+)x\1_")
# Tensors that no parameter is read from: what augmentation adds, which is nothing when the network is used; filters;
# the noise of improved DDPM's steps, which its numbers give.
IDLE = re.compile(r"map_augment\.weight|.*\.resample_filter|resample_filter|u")
ADVICE = f"{weights.ADVICE}; write it again with tools/export_edm.py"


def is_one(names: Collection[str]) -> bool:
  """Tell whether tensors are those of a network of the family, by their names."""
  return all(name in names for name in ANCHORS) and any(LEVEL.match(name) for name in names)


def resolution(names: Collection[str]) -> int:
  """Return the pixels an edge that a network was made for, which its tensors are called by.

  Raises:
    ValueError: no tensor is called by it.
  """
  return _resolutions(names)[0]


def _resolutions(names):
  found = sorted({int(match[1]) for match in map(LEVEL.match, names) if match}, reverse=True)
  if not found:
    raise ValueError(f"tensor 'enc.*': expected names such as enc.64x64_conv.weight, found none; {ADVICE}")
  return found


def infer_config(state_dict: Mapping[str, Any], **said: Any) -> EDMConfig:
  """Return the architecture that tensors have.

  Args:
    state_dict: arrays by name, without a prefix.
    said: fields of the preconditioning.

  Raises:
    ValueError: it is no network of the family, or none that is known here.
  """
  shapes = {name: tuple(np.shape(value)) for name, value in state_dict.items()}
  sizes = _resolutions(shapes)
  blocks, size = [f"enc.{size}x{size}_block" for size in sizes], sizes[0]
  kind = "dhariwal" if "out_conv.weight" in shapes else "song"
  first = _shape(shapes, f"enc.{size}x{size}_conv.weight")
  last = _shape(shapes, "out_conv.weight" if kind == "dhariwal" else f"dec.{size}x{size}_aux_conv.weight")
  if last[0] == 2 * first[1]:  # it learned a variance, too
    said = {**said, "preconditioning": "iddpm"}
  return edm_unet.make_config(
    kind=kind,
    channels=tuple(_shape(shapes, f"{block}0.conv0.weight")[0] for block in blocks),
    first_channels=first[0],
    in_channels=first[1],
    noise_channels=_shape(shapes, "map_layer0.weight")[1],
    emb_channels=_shape(shapes, "map_layer0.weight")[0],
    num_blocks=sum(name.startswith(blocks[0]) and name.endswith(".conv0.weight") for name in shapes),
    attention_levels=tuple(i for i, block in enumerate(blocks) if f"{block}0.qkv.weight" in shapes),
    embedding_type="fourier" if "map_noise.freqs" in shapes else "positional",
    encoder_type=_encoder(shapes),
    decoder_type="skip" if sum(name.endswith("_aux_norm.weight") for name in shapes) > 1 else "standard",
    resample_filter=_filter(state_dict),
    num_classes=_shape(shapes, "map_label.weight")[1] if "map_label.weight" in shapes else None,
    **said,
  )


def _shape(shapes, name):
  shape = shapes.get(name)
  if shape is None or len(shape) < 2:
    raise ValueError(
      f"tensor {name!r}: expected one, the file has {'none' if shape is None else list(shape)}; {ADVICE}"
    )
  return shape


def _encoder(shapes):
  for name in ("skip", "residual"):
    if any(key.endswith(f"_aux_{name}.weight") for key in shapes):
      return name
  return "standard"


def _filter(state_dict):
  """Return the filter of a network: its tensors hold the products of two of its values, over their sum."""
  found: Any = None
  for name, value in state_dict.items():
    if name.endswith("resample_filter"):
      one = np.asarray(value, np.float64)
      if one.ndim != 4 or not np.array_equal(one, one if found is None else found):
        raise ValueError(f"tensor {name!r}: expected one filter everywhere, got another of shape {list(one.shape)}")
      found = one
  if found is None:
    return (1, 1)
  for taps in edm_unet.FILTERS:
    if found.shape[2:] == (len(taps),) * 2 and np.allclose(found[0, 0], np.outer(taps, taps) / sum(taps) ** 2):
      return taps
  known = " or ".join(map(str, edm_unet.FILTERS))
  raise ValueError(f"resample_filter: expected {known}, got {np.round(found[0, 0].sum(axis=0), 4).tolist()}")


def sources(config: EDMConfig, size: int) -> dict[tuple[str, ...], weights.Source]:
  """Return the tensor that each parameter of `config` is read from, by the parameter's path.

  Args:
    config: of the network.
    size: pixels an edge that its tensors are called by.
  """
  shapes = jax.eval_shape(lambda: edm_unet.init(jax.random.key(0), config))
  flat: dict[tuple[str, ...], Any] = dict(flax.traverse_util.flatten_dict(shapes))
  return {path: _source(path, leaf.shape, size) for path, leaf in flat.items()}


def _source(path, shape, size):
  edge = lambda found: f"{found[1]}.{size >> int(found[2])}x{size >> int(found[2])}_"
  block = re.sub(r"(enc|dec)_(\d+)_", edge, ".".join(path[:-1]))
  if path[-1] == "freqs":
    return weights.Source(f"{block}.freqs", shape)
  ones = (1, 1) if block.endswith((".skip", ".qkv", ".proj", "_aux_skip")) else ()
  leaf = "bias" if path[-1] == "bias" else "weight"
  return weights.Source(f"{block}.{leaf}", weights.their_shape(path, shape, ones))


def params_from_state_dict(state_dict: Mapping[str, Any], config: EDMConfig) -> dict[str, Any]:
  """Return the parameters of `edm_unet.apply_function(config)` from a state_dict, float32 NumPy.

  Args:
    state_dict: arrays by the authors' tensor names, any floating type.
    config: from `infer_config`.

  Raises:
    ValueError: a tensor is missing, left over, misshapen, not floating or not finite; the message names it.
  """
  kept = {name: value for name, value in state_dict.items() if not IDLE.fullmatch(name)}
  return weights.params(kept, sources(config, resolution(kept)), ADVICE)
