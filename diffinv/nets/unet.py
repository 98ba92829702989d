"""The guided-diffusion UNet, for one image, height-width-channel.

Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv 2105.05233, App. B; the
options are those of the authors' code, and `diffinv.nets.guided_diffusion` reads its files.

`apply_function(config)` is what the rest of the library calls: `(params, x_t [h, w, c], t []) -> [h, w, c or 2c]`,
float32, batched by `vmap` from outside. Activations are of type `config.dtype`; moments and softmax are always float32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from diffinv.nets import configs, convolution
from diffinv.nets.attention import attend

GROUPS = 32  # of every normalization of the authors' networks
NORM_EPS = 1e-5  # PyTorch's default, under which the published weights were trained; Flax's is 1e-6
MAX_PERIOD = 10000.0  # of the sinusoidal time embedding
PATCH_PIXELS = 16**2  # images up to this size are convolved as patches on a CPU: 3 % of a gradient of the FFHQ network
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ATTENTION_ORDERS = ("legacy", "new")  # channels of qkv: head then q, k, v; or q, k, v then head


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """The architecture; hashable. Build it with `make_config`, which checks it."""

  model_channels: int  # the width that `channel_mult` multiplies; the time embedding has 4 times as many
  channel_mult: tuple[float, ...]  # per level, finest first; each level halves the image
  num_res_blocks: int  # per level of the encoder; the decoder has one more
  attention_levels: tuple[int, ...]  # which levels attend, 0 the finest; the middle always does
  in_channels: int = 3
  out_channels: int = 6  # twice `in_channels` with a learned variance
  num_heads: int | None = None  # of attention; this or the next
  num_head_channels: int | None = None  # channels a head
  num_heads_upsample: int | None = None  # of attention in the decoder, where it has not `num_heads`
  attention_order: str = "legacy"  # of ATTENTION_ORDERS
  scale_shift_norm: bool = True  # the embedding scales and shifts a normalization, or is added
  resblock_updown: bool = True  # resampling inside a residual block, or by a convolution
  num_classes: int | None = None  # of a class-conditional network
  dtype: str = "float32"  # of DTYPES, of activations; parameters are float32
  remat: bool = False  # recompute each block in the gradient: less memory, a third more time

  @property
  def size_multiple(self) -> int:
    """Pixels that height and width must be a multiple of."""
    return 2 ** (len(self.channel_mult) - 1)

  @property
  def reach(self) -> None:
    """None: every output pixel depends on the whole picture, whose statistics the norms take."""
    return None


class Block(NamedTuple):
  """One numbered block of the encoder or decoder."""

  name: str  # "input_blocks_4"
  channels: int  # of its output
  attention: bool = False
  resample: str = ""  # "down" or "up"; an encoder block that resamples does nothing else


def make_config(**fields: Any) -> UNetConfig:
  """Build a checked `UNetConfig`; lists become tuples.

  Raises:
    ValueError: a field is impossible.
  """
  config: UNetConfig = configs.made(UNetConfig, fields)
  _check_choices(config)
  _check_widths(config)
  return config


def _check_choices(config):
  configs.check_choices(config, {"dtype": DTYPES, "attention_order": ATTENTION_ORDERS})
  if (config.num_heads is None) == (config.num_head_channels is None):
    raise ValueError(
      f"num_heads, num_head_channels: expected exactly one, got {config.num_heads} and {config.num_head_channels}"
    )
  if config.num_heads_upsample is not None and config.num_heads is None:
    raise ValueError(
      f"num_heads_upsample: expected none beside num_head_channels, got {config.num_heads_upsample}; leave it out"
    )


def _check_widths(config):
  numbers = (config.model_channels, config.num_res_blocks, config.in_channels, config.out_channels)
  configs.check_numbers(config, (*numbers, len(config.channel_mult)))
  levels = range(len(config.channel_mult))
  if not set(config.attention_levels) <= set(levels):
    raise ValueError(f"attention_levels: expected levels in 0..{levels[-1]}, got {config.attention_levels}")
  for level in levels:
    channels = width(config, level)
    if channels % GROUPS or channels <= 0:
      raise ValueError(f"channel_mult: expected multiples of {GROUPS} channels, got {channels} at level {level}")
    for name in ("num_heads", "num_head_channels", "num_heads_upsample"):
      parts = getattr(config, name)
      attends = level in config.attention_levels or (level == levels[-1] and name != "num_heads_upsample")
      if parts is not None and attends and (parts < 1 or channels % parts):
        raise ValueError(f"{name}: expected a divisor of the {channels} channels of level {level}, got {parts}")


def width(config: UNetConfig, level: int) -> int:
  """Return the channels of a level, 0 the finest."""
  return int(config.channel_mult[level] * config.model_channels)


def encoder(config: UNetConfig) -> list[Block]:
  """Return the encoder's blocks after the first convolution, finest first."""
  blocks = []
  for level in range(len(config.channel_mult)):
    channels, attention = width(config, level), level in config.attention_levels
    blocks += [("", channels, attention)] * config.num_res_blocks
    if level + 1 < len(config.channel_mult):
      blocks.append(("down", channels, False))
  return [Block(f"input_blocks_{i}", c, attention, resample) for i, (resample, c, attention) in enumerate(blocks, 1)]


def decoder(config: UNetConfig) -> list[Block]:
  """Return the decoder's blocks, coarsest first; each takes one output of the encoder, last first."""
  blocks = []
  for level in reversed(range(len(config.channel_mult))):
    channels, attention = width(config, level), level in config.attention_levels
    blocks += [("", channels, attention)] * config.num_res_blocks
    blocks.append(("up" if level else "", channels, attention))
  return [Block(f"output_blocks_{i}", c, attention, resample) for i, (resample, c, attention) in enumerate(blocks)]


def heads(config: UNetConfig, channels: int, *, decoder: bool = False) -> int:
  """Return how many heads an attention over `channels` channels has."""
  if config.num_heads is None:
    return channels // (config.num_head_channels or channels)
  return config.num_heads_upsample if decoder and config.num_heads_upsample is not None else config.num_heads


def time_embedding(t: jax.Array, dim: int) -> jax.Array:
  """Return [cos(t f), sin(t f)], f_i = 10000^(-i / (dim/2)), `[dim]`; `t`: `[]`, the original time step."""
  half = dim // 2
  angles = t * jnp.exp(-math.log(MAX_PERIOD) / half * jnp.arange(half, dtype=jnp.float32))
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), jnp.zeros(dim % 2)])


def average_pool(x: jax.Array) -> jax.Array:
  """Halve `x`, `[h, w, c]`, by the mean of 2x2 pixels."""
  h, w, c = x.shape
  return jnp.mean(jnp.reshape(x, (h // 2, 2, w // 2, 2, c)), axis=(1, 3))


def nearest_up(x: jax.Array) -> jax.Array:
  """Double `x`, `[h, w, c]`, by repeating pixels."""
  h, w, c = x.shape
  return jnp.reshape(jnp.broadcast_to(x[:, None, :, None, :], (h, 2, w, 2, c)), (2 * h, 2 * w, c))


RESAMPLE = {"": lambda x: x, "down": average_pool, "up": nearest_up}


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, before: int = 1) -> jax.Array:
  """Return the 3x3 convolution of `x`, `[h, w, c]`, with `kernel`, `[3, 3, c, features]`, zero padding.

  `before`: zeros above and left of a picture that is strided over; below and right there is one.
  """
  if stride == 1:
    return convolution.convolve(x[None], kernel)[0]
  return lax.conv_general_dilated(
    x[None], kernel, (stride, stride), ((before, 1), (before, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )[0]


def convolve_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Return `convolve(x, kernel)` as one product of 3x3 patches: its gradient reads the kernel as it lies in memory."""
  h, w, c = x.shape
  padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
  patches = jnp.concatenate([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
  return (patches.reshape(h * w, 9 * c) @ kernel.reshape(9 * c, -1)).reshape(h, w, -1)


class Conv(nn.Module):
  """A 3x3 convolution, zero padding, with bias."""

  features: int
  stride: int = 1
  zero: bool = False  # initialized to 0: the layer that ends a residual branch
  before: int = 1  # see `convolve`

  @nn.compact
  def __call__(self, x):
    """Convolve `[h, w, c]` to `[h / stride, w / stride, features]`."""
    init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    # The gradient of a convolution first transposes the kernel, which takes most of its time if the image is small.
    if x.shape[0] * x.shape[1] <= PATCH_PIXELS and self.stride == 1 and jax.default_backend() == "cpu":
      y = convolve_patches(x, kernel.astype(x.dtype))
    else:
      y = convolve(x, kernel.astype(x.dtype), self.stride, self.before)
    return y + bias.astype(x.dtype)[None, None, :]


class Linear(nn.Module):
  """A product over the last axis, with bias; a 1x1 convolution on images."""

  features: int
  zero: bool = False

  @nn.compact
  def __call__(self, x):
    """Map `[..., c]` to `[..., features]`."""
    init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
    kernel = self.param("kernel", init, (x.shape[-1], self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    y = lax.dot_general(x, kernel.astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())))
    return y + jnp.reshape(bias.astype(x.dtype), (1,) * (x.ndim - 1) + (-1,))


class GroupNorm(nn.Module):
  """Group normalization, optionally (1 + scale) GN(x) + shift, as one affine map a channel: x a + b."""

  groups: int = GROUPS
  eps: float = NORM_EPS
  silu: bool = False  # what comes after it

  @nn.compact
  def __call__(self, x, scale=None, shift=None):
    """Normalize `x` `[h, w, c]`; `scale` and `shift`: `[c]`."""
    channels = x.shape[-1]
    gamma = self.param("scale", nn.initializers.ones, (channels,))
    beta = self.param("bias", nn.initializers.zeros, (channels,))
    a, b = self.affine(x, gamma, beta)
    if scale is not None:
      a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
    if self.silu:
      return scaled_silu(x, a, b)
    return (x.astype(jnp.float32) * a[None, None, :] + b[None, None, :]).astype(x.dtype)

  def affine(self, x, gamma, beta):
    """Return GN's a and b, `[c]`, float32. Moments over the pixels first, then over a group: one pass over x."""
    x = x.astype(jnp.float32)
    moments = jnp.stack([jnp.mean(x, axis=(0, 1)), jnp.mean(x * x, axis=(0, 1))])
    mean, square = jnp.mean(jnp.reshape(moments, (2, self.groups, -1)), axis=2)
    rstd = lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + self.eps)
    mean, rstd = (jnp.repeat(v, gamma.shape[0] // self.groups) for v in (mean, rstd))
    return gamma * rstd, beta - mean * gamma * rstd


@jax.checkpoint
def scaled_silu(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
  """Return silu(x a + b), of the type of `x` `[h, w, c]`; `a`, `b`: `[c]`, float32.

  Its gradient begins anew from x. Else it keeps two more arrays of the size of x: a fourth of a step's memory.
  """
  return nn.silu(x.astype(jnp.float32) * a[None, None, :] + b[None, None, :]).astype(x.dtype)


class ResBlock(nn.Module):
  """GN, SiLU, resample, conv; the embedding; GN, SiLU, conv; plus the resampled input."""

  features: int
  resample: str
  scale_shift_norm: bool

  @nn.compact
  def __call__(self, x, emb):
    """Return `[h', w', features]`, where h' and w' are those of the resampled `x` `[h, w, c]`."""
    resample = RESAMPLE[self.resample]
    h = Conv(self.features, name="in_conv")(resample(GroupNorm(silu=True, name="in_norm")(x)))
    emb = Linear(self.features * (1 + self.scale_shift_norm), name="emb")(nn.silu(emb))
    if self.scale_shift_norm:
      h = GroupNorm(silu=True, name="out_norm")(h, *jnp.split(emb, 2))
    else:
      h = GroupNorm(silu=True, name="out_norm")(h + emb.astype(h.dtype)[None, None, :])
    h = Conv(self.features, zero=True, name="out_conv")(h)
    x = resample(x)
    x = x if x.shape[-1] == self.features else Linear(self.features, name="skip")(x)
    # Without the barrier the compiler fuses the residual path of many blocks into one loop, and in the gradient
    # evaluates coarse levels once for every pixel of the finest: 4 % of a gradient of the FFHQ network.
    return lax.optimization_barrier(h + x)


class Attention(nn.Module):
  """Self-attention over pixels, with a residual connection."""

  num_heads: int
  order: str

  @nn.compact
  def __call__(self, x):
    """Return `x`'s shape, `[h, w, c]`."""
    h, w, c = x.shape
    tokens = jnp.reshape(GroupNorm(name="norm")(x), (h * w, c))
    qkv = Linear(3 * c, name="qkv")(tokens)
    if self.order == "legacy":
      q, k, v = jnp.unstack(jnp.reshape(qkv, (h * w, self.num_heads, 3, -1)), axis=2)
    else:
      q, k, v = jnp.unstack(jnp.reshape(qkv, (h * w, 3, self.num_heads, -1)), axis=1)
    attended = jnp.reshape(attend(q, k, v), (h * w, c))
    return x + jnp.reshape(Linear(c, zero=True, name="proj_out")(attended), (h, w, c))


class UNet(nn.Module):
  """The network; its submodules are named as in the authors' code, `input_blocks.4.0` being `input_blocks_4_0`."""

  config: UNetConfig

  @nn.compact
  def __call__(self, x, t, label=None):
    """Return `[h, w, out_channels]`, float32, for `x` `[h, w, in_channels]` at time `t` `[]`."""
    config = self.config
    emb = self.embed(t, label)
    h = Conv(width(config, 0), name="input_blocks_0_0")(x.astype(DTYPES[config.dtype]))
    skips = [h]
    for block in encoder(config):
      h = self.down(block, h, emb) if block.resample else self.block(block, h, emb)
      skips.append(h)
    channels = h.shape[-1]
    h = self.residual("middle_block_0", channels, "")(h, emb)
    h = self.attention("middle_block_1", channels)(h)
    h = self.residual("middle_block_2", channels, "")(h, emb)
    for block in decoder(config):
      h = self.block(block, jnp.concatenate([h, skips.pop()], axis=-1), emb)
      if block.resample:
        h = self.up(block, h, emb)
    h = GroupNorm(silu=True, name="out_0")(h.astype(jnp.float32))
    return Conv(config.out_channels, zero=True, name="out_2")(h)

  def embed(self, t, label):
    """Return the embedding of the time and the class, `[4 model_channels]`."""
    dim = 4 * self.config.model_channels
    emb = Linear(dim, name="time_embed_0")(time_embedding(t.astype(jnp.float32), self.config.model_channels))
    emb = Linear(dim, name="time_embed_2")(nn.silu(emb))
    if self.config.num_classes is None:
      return emb
    return emb + nn.Embed(self.config.num_classes, dim, name="label_emb")(label)

  def residual(self, name, channels, resample):
    """Return a residual block, rematerialized if the config says so."""
    module = nn.remat(ResBlock) if self.config.remat else ResBlock
    return module(channels, resample, self.config.scale_shift_norm, name=name)

  def attention(self, name, channels):
    """Return a layer of attention, rematerialized if the config says so."""
    config = self.config
    module = nn.remat(Attention) if config.remat else Attention
    count = heads(config, channels, decoder=name.startswith("output_blocks"))
    return module(count, config.attention_order, name=name)

  def block(self, block, h, emb):
    """Apply a residual block and the attention of its level."""
    h = self.residual(f"{block.name}_0", block.channels, "")(h, emb)
    return self.attention(f"{block.name}_1", block.channels)(h) if block.attention else h

  def down(self, block, h, emb):
    """Halve the image."""
    if self.config.resblock_updown:
      return self.residual(f"{block.name}_0", block.channels, "down")(h, emb)
    return Conv(block.channels, stride=2, name=f"{block.name}_0_op")(h)

  def up(self, block, h, emb):
    """Double the image."""
    name = f"{block.name}_{1 + block.attention}"
    if self.config.resblock_updown:
      return self.residual(name, block.channels, "up")(h, emb)
    return Conv(block.channels, name=f"{name}_conv")(nearest_up(h))


@functools.cache
def apply_function(config: UNetConfig) -> Callable:
  """Return `(params, x_t, t, label=None) -> output`; equal configs get the same object, so that nothing recompiles."""
  network = UNet(config)

  def apply(params, x_t, t, label=None):
    check_call(config, x_t.shape, label)
    return network.apply({"params": params}, x_t, t, label)

  return apply


def check_call(config: Any, shape: tuple[int, ...], label: Any) -> None:
  """Check the shape of a picture and whether there is a class; of a config as `UNetConfig` is one.

  Raises:
    ValueError: they are not those that the network takes.
  """
  multiple = config.size_multiple
  if len(shape) != 3 or shape[2] != config.in_channels or shape[0] % multiple or shape[1] % multiple:
    raise ValueError(
      f"x_t: expected [h, w, {config.in_channels}] with h and w multiples of {multiple}, got {list(shape)}; crop or "
      "pad the image, and batch with vmap"
    )
  if (label is None) != (config.num_classes is None):
    expected = "none: the network is unconditional" if label is not None else f"a class in 0..{config.num_classes - 1}"
    raise ValueError(f"label: expected {expected}, got {'one' if label is not None else 'none'}")


def init(key: jax.Array, config: UNetConfig) -> Any:
  """Return parameters to begin training with; the last layer of each residual branch is 0, and so is the output."""
  size = config.size_multiple
  x = jnp.zeros((size, size, config.in_channels))
  label = None if config.num_classes is None else jnp.zeros((), jnp.int32)
  return UNet(config).init(key, x, jnp.zeros(()), label)["params"]
