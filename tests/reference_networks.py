"""The reference networks: their options, the shapes of their tensors, and generated weights."""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"
SMALL = ("unet_tiny64", "unet_tiny64_class_cond_new_attention", "unet_tiny64_conv_updown")
LABEL = 7  # of the class-conditional reference


def compiled(function, **options):
  """Be `jax.jit` for networks, which take long to compile and next to no time to run: correct code will do."""
  import jax

  return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def describe(name):
  return json.loads((GOLDEN / f"{name}.json").read_text())


def shapes(name):
  return {key: tuple(shape) for key, shape in describe(name)["state_dict"]}


def choices(name):
  """Return what shapes cannot tell."""
  options = describe(name)["create_model"]
  heads = {"num_head_channels": options["num_head_channels"]}
  if options["num_head_channels"] == -1:
    heads = {"num_heads": options["num_heads"]}
  return {**heads, "attention_order": "new" if options["use_new_attention_order"] else "legacy"}


def state_dict(tensors, seed=0):
  """Return the weights of the reference, every tensor random, from shapes by name."""
  return {key: _tensor(key, shape, seed) for key, shape in tensors.items()}


def _tensor(key, shape, seed):
  r = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
  if len(shape) > 1:
    value = r / np.sqrt(np.prod(shape[1:]))
  else:
    value = 1 + 0.1 * r if key.endswith(".weight") else 0.1 * r
  return value.astype(np.float32)


def random_params(shapes_tree, seed=0):
  """Return parameters of a network of ours, every one random, with products of order 1."""
  import jax

  r = np.random.RandomState(seed)

  def draw(path, leaf):
    value = r.standard_normal(leaf.shape)
    if len(leaf.shape) > 1:
      return (value / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
    return (0.1 * value + (path[-1].key == "scale")).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes_tree)
