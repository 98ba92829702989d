"""DRUNet, the denoiser of plug-and-play methods, for one image, height-width-channel; and its files.

Zhang, Li, Zuo, Zhang, Van Gool and Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior", TPAMI 2021,
arXiv 2008.13751, Sec. 3: a UNet of residual blocks without biases or norms, which is given the noise as a picture of
one value. Tensors have the names of the authors' UNetRes, https://github.com/cszn/DPIR, which deepinv has, too.

`apply_function(config)` is what the rest of the library calls: `(params, x [h, w, c], sigma []) -> D(x; sigma)`, the
denoised image for x = x0 + sigma eps, float32, in our range [-1, 1]; the network itself knows pictures in [0, 1].
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import lax

from diffinv.nets import configs, unet, weights

# Every network of the family has these; what stands before them is a prefix.
ANCHORS = ("m_head.weight", "m_tail.weight", "m_body.0.res.0.weight")
TRAINED_TO = 2 * 50 / 255  # noise of pictures in [-1, 1] up to which the published networks were trained (Sec. 3.2)
LEAST = 2 * 0.1 / 255  # noise below which nothing is left to take away
LEVELS = 4  # of every network


@dataclasses.dataclass(frozen=True)
class DRUNetConfig(configs.Denoiser):
  """The architecture; hashable. Build it with `make_config`, which checks it."""

  channels: tuple[int, ...] = (64, 128, 256, 512)  # per level, finest first; each level halves the image
  num_blocks: int = 4  # residual blocks of a level, on the way down and on the way up
  in_channels: int = 3
  dtype: str = "float32"  # of `unet.DTYPES`, of activations; parameters are float32
  remat: bool = False  # recompute each block in the gradient: less memory, a third more time

  @property
  def num_classes(self) -> None:
    """None: it knows no classes."""
    return None

  @property
  def reach(self) -> int:
    """Pixels to either side on which an output pixel depends."""
    coarsest = self.size_multiple
    # Of two convolutions a block, on the way down and up; of the middle; of the first and last layer; within a pixel of
    # the coarsest level.
    found = 4 * self.num_blocks * (coarsest - 1) + 2 * self.num_blocks * coarsest + 2 + coarsest - 1
    return -(-found // coarsest) * coarsest


def make_config(**fields: Any) -> DRUNetConfig:
  """Build a checked `DRUNetConfig`; lists become tuples.

  Raises:
    ValueError: a field is impossible.
  """
  config: DRUNetConfig = configs.made(DRUNetConfig, fields)
  configs.check_choices(config, {"dtype": unet.DTYPES})
  configs.check_numbers(config, (*config.channels, config.num_blocks, config.in_channels))
  if len(config.channels) != LEVELS:
    raise ValueError(f"channels: expected those of {LEVELS} levels, got {len(config.channels)}")
  return config


class Conv(nn.Module):
  """A 3x3 convolution, zero padding, no bias."""

  features: int

  @nn.compact
  def __call__(self, x):
    """Convolve `[h, w, c]` to `[h, w, features]`."""
    kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], self.features))
    return unet.convolve(x, kernel.astype(x.dtype))


class Halve(nn.Module):
  """A 2x2 convolution of stride 2, no bias."""

  features: int

  @nn.compact
  def __call__(self, x):
    """Convolve `[h, w, c]` to `[h / 2, w / 2, features]`."""
    kernel = self.param("kernel", nn.initializers.he_normal(), (2, 2, x.shape[-1], self.features))
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], kernel.astype(x.dtype), (2, 2), "VALID", dimension_numbers=numbers)[0]


class Double(nn.Module):
  """The transpose of a 2x2 convolution of stride 2: each pixel becomes four."""

  features: int

  @nn.compact
  def __call__(self, x):
    """Map `[h, w, c]` to `[2h, 2w, features]`."""
    h, w, c = x.shape
    kernel = self.param("kernel", nn.initializers.he_normal(), (2, 2, self.features, c))
    pixels = jnp.einsum("hwc,ijfc->hiwjf", x, kernel.astype(x.dtype))
    return jnp.reshape(pixels, (2 * h, 2 * w, self.features))


class Block(nn.Module):
  """Conv, ReLU, conv; plus the input."""

  @nn.compact
  def __call__(self, x):
    """Return `x`'s shape, `[h, w, c]`."""
    channels = x.shape[-1]
    h = nn.relu(Conv(channels, name="res_0")(x))
    return lax.optimization_barrier(Conv(channels, name="res_2")(h) + x)  # see `unet.ResBlock`


class DRUNet(nn.Module):
  """The network; its submodules are named as in files, `m_down1.0` being `m_down1_0`."""

  config: DRUNetConfig

  @nn.compact
  def __call__(self, x):
    """Return `[h, w, c]`, float32, for `x` `[h, w, c + 1]`, a picture in [0, 1] and its noise in every pixel."""
    config, levels = self.config, len(self.config.channels)
    h = Conv(config.channels[0], name="m_head")(x.astype(unet.DTYPES[config.dtype]))
    kept = [h]
    for level in range(1, levels):
      h = self.blocks(f"m_down{level}", h)
      h = Halve(config.channels[level], name=f"m_down{level}_{config.num_blocks}")(h)
      kept.append(h)
    h = self.blocks("m_body", h)
    for level in reversed(range(1, levels)):
      h = Double(config.channels[level - 1], name=f"m_up{level}_0")(h + kept.pop())
      h = self.blocks(f"m_up{level}", h, first=1)
    return Conv(config.in_channels, name="m_tail")((h + kept.pop()).astype(jnp.float32))

  def blocks(self, name, h, first=0):
    """Apply the blocks of a level, rematerialized if the config says so."""
    module = nn.remat(Block) if self.config.remat else Block
    for i in range(self.config.num_blocks):
      h = module(name=f"{name}_{first + i}")(h)
    return h


@functools.cache
def apply_function(config: DRUNetConfig) -> Callable:
  """Return `(params, x, sigma) -> D`; equal configs get the same object, so that nothing recompiles.

  x: x0 + sigma eps, `[h, w, c]`, x0 in [-1, 1].
  """
  network = DRUNet(config)

  def apply(params, x, sigma):
    unet.check_call(config, x.shape, None)
    noise = jnp.broadcast_to(sigma.astype(jnp.float32) / 2, (*x.shape[:2], 1))
    picture = jnp.concatenate([(x + 1) / 2, noise], axis=-1)  # in [0, 1], where noise is half as large
    return 2 * network.apply({"params": params}, picture) - 1

  return apply


def init(key: jax.Array, config: DRUNetConfig) -> Any:
  """Return new parameters, float32."""
  size = config.size_multiple
  return DRUNet(config).init(key, jnp.zeros((size, size, config.in_channels + 1)))["params"]


def is_one(names: Collection[str]) -> bool:
  """Tell whether tensors are those of a network of the family, by their names."""
  return all(name in names for name in ANCHORS)


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> DRUNetConfig:
  """Return the architecture that tensors have.

  Args:
    shapes: of the tensors, by name, without a prefix.

  Raises:
    ValueError: it is no network of the family, or none that is known here.
  """
  for name in shapes:
    if name.endswith("bias"):
      raise ValueError(f"tensor {name!r}: expected a DRUNet without biases, as published, got one with them")
  blocks = sum(bool(re.fullmatch(r"m_body\.\d+\.res\.0\.weight", name)) for name in shapes)
  lowest = [f"m_down{level}.{blocks}.weight" for level in range(1, LEVELS)]
  named = ["m_head.weight", "m_tail.weight", *lowest]
  for name in named:
    if len(shapes.get(name, ())) != 4:
      raise ValueError(
        f"tensor {name!r}: expected that of a DRUNet with strided convolutions, the file has "
        f"{list(shapes[name]) if name in shapes else 'none'}; {weights.ADVICE}"
      )
  given, taken = shapes["m_tail.weight"][0], shapes["m_head.weight"][1]
  if taken != given + 1:
    raise ValueError(f"m_head: expected the picture's {given} channels and one of its noise, got {taken}")
  channels = (shapes["m_head.weight"][0], *(shapes[name][0] for name in lowest))
  return make_config(channels=channels, num_blocks=blocks, in_channels=given)


def sources(config: DRUNetConfig) -> dict[tuple[str, ...], weights.Source]:
  """Return the tensor that each parameter of `config` is read from, by the parameter's path."""
  shapes = jax.eval_shape(lambda: init(jax.random.key(0), config))
  flat: dict[tuple[str, ...], Any] = dict(flax.traverse_util.flatten_dict(shapes))
  return {path: _source(path, leaf.shape) for path, leaf in flat.items()}


def _source(path, shape):
  block = re.sub(r"_(\d+)(?=$|\.)", r".\1", ".".join(path[:-1]))
  # A layer that doubles has its kernel as that of the convolution that it is the transpose of, in PyTorch, too.
  return weights.Source(f"{block}.weight", weights.their_shape(path, shape))


def params_from_state_dict(state_dict: Mapping[str, Any], config: DRUNetConfig) -> dict[str, Any]:
  """Return the parameters of `apply_function(config)` from a state_dict, float32 NumPy.

  Args:
    state_dict: arrays by the authors' tensor names, any floating type.
    config: from `infer_config`.

  Raises:
    ValueError: a tensor is missing, left over, misshapen, not floating or not finite; the message names it.
  """
  return weights.params(state_dict, sources(config))
