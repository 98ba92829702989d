"""A small denoising network for priors that ship with the package: fast on a few CPU cores, any image size.

A U-Net of residual blocks on space-to-depth pixels (a quarter of the positions for the same information), with
transitions by space-to-depth and additive skips as in Zhang et al., "Plug-and-Play Image Restoration with Deep
Denoiser Prior", TPAMI 2021, arXiv 2008.13751 (DRUNet); the noise level enters each block as a scale and a shift, as
in Dhariwal and Nichol, NeurIPS 2021, arXiv 2105.05233. Differs from both: the norm is a root mean square over the
channels of each pixel, whose statistics do not depend on the size of the image, so that a network trained on small
crops means the same on a large photograph.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffinv.nets.convolution import convolve

NORM_EPS = 1e-6  # of the mean square of a pixel's channels
# Lowest and highest, radians per unit of scaled t, which runs over [-1.2, 1.3] for edm and [0, 2] for eps and v.
TIME_FREQUENCIES = (0.5, 32.0)


@dataclasses.dataclass(frozen=True)
class SmallConfig:
  """The shape of a `SmallNet`; hashable, and written into `prior.json`."""

  channels: int = 64  # at the finest level
  multipliers: tuple[int, ...] = (1, 2, 3)  # of `channels`, a level each, finest first; each level halves the image
  blocks: int = 2  # residual blocks a level, on the way down and on the way up alike
  middle_blocks: int = 2  # at the coarsest level, in place of its way up
  patch: int = 2  # pixels along an edge of the square that becomes one position: space-to-depth at the input
  attention: bool = False  # self-attention between the middle blocks: a network for one size of image
  head_channels: int = 64  # a head of attention
  embedding: int = 192  # width of the noise level's embedding
  in_channels: int = 3
  out_channels: int = 3  # twice in_channels with a learned variance
  time_scale: float = 1.0  # t is multiplied by it: 1 for ln(sbar)/4, 2/T for the index of a schedule of T steps
  dtype: str = "float32"  # or "bfloat16", of the convolutions; norms, embedding and output are float32

  @property
  def size_multiple(self) -> int:
    """Pixels that height and width must be a multiple of."""
    return self.patch * 2 ** (len(self.multipliers) - 1)

  @property
  def reach(self) -> int | None:
    """Pixels to each side that an output pixel depends on, at most, a multiple of `size_multiple`; None for all."""
    if self.attention:
      return None
    *finer, coarsest = [self.patch * 2**level for level in range(len(self.multipliers))]
    within = 2 * self.patch + sum(4 * self.blocks * stride for stride in finer) + 2 * self.middle_blocks * coarsest
    return -(-within // coarsest) * coarsest + coarsest


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
  """Return `[b, h/f, w/f, f f c]` from `[b, h, w, c]`."""
  b, h, w, c = x.shape
  x = jnp.reshape(x, (b, h // factor, factor, w // factor, factor, c))
  return jnp.reshape(jnp.transpose(x, (0, 1, 3, 2, 4, 5)), (b, h // factor, w // factor, factor * factor * c))


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
  """Return `[b, f h, f w, c]` from `[b, h, w, f f c]`: the inverse of `space_to_depth`."""
  b, h, w, c = x.shape
  x = jnp.reshape(x, (b, h, w, factor, factor, c // factor**2))
  return jnp.reshape(jnp.transpose(x, (0, 1, 3, 2, 4, 5)), (b, h * factor, w * factor, c // factor**2))


def pixel_norm(x: jax.Array) -> jax.Array:
  """Divide each pixel's channels by their root mean square; statistics in float32."""
  mean_square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(mean_square + NORM_EPS).astype(x.dtype)


class Conv(nn.Module):
  """A convolution without bias; the norms and scales that follow supply one."""

  features: int
  size: int = 3  # pixels along an edge
  gain: float = 1.0  # of the initial weights' standard deviation
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """Convolve `[b, h, w, c]` to `[b, h, w, features]`."""
    scale = nn.initializers.variance_scaling(max(self.gain, 1e-10) ** 2, "fan_in", "truncated_normal")
    kernel = self.param("kernel", scale, (self.size, self.size, x.shape[-1], self.features)).astype(self.dtype)
    if self.size > 1:
      return convolve(x.astype(self.dtype), kernel)
    b, h, w, c = x.shape
    flat = jnp.reshape(x.astype(self.dtype), (b * h * w, c)) @ kernel[0, 0]
    return jnp.reshape(flat, (b, h, w, self.features))


class Block(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift)), scale and shift from the noise level."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x, embedding):
    """Return `x`'s shape, `[b, h, w, features]`; `embedding`: `[b, width]`."""
    weight = self.param("weight", nn.initializers.ones, (x.shape[-1],)).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(self.dtype)
    h = nn.silu(pixel_norm(x) * _per_channel(weight) + _per_channel(bias))
    h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
    film = nn.Dense(2 * self.features, kernel_init=nn.initializers.normal(0.01), name="film")(embedding)
    scale, shift = jnp.split(film.astype(self.dtype)[:, None, None, :], 2, axis=-1)
    h = nn.silu(pixel_norm(h) * (1 + scale) + shift)
    return x + Conv(self.features, gain=0.0, dtype=self.dtype, name="conv2")(h)


def _per_channel(vector):
  return vector[None, None, None, :]


class Attention(nn.Module):
  """Self-attention over all positions, with a residual; the softmax in float32."""

  head_channels: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Return `x`'s shape, `[b, h, w, c]`."""
    b, h, w, c = x.shape
    heads = c // self.head_channels
    qkv = Conv(3 * c, size=1, dtype=self.dtype, name="qkv")(pixel_norm(x))
    q, k, v = jnp.split(jnp.reshape(qkv, (b, h * w, heads, 3 * self.head_channels)), 3, axis=-1)
    # Unit-length queries and keys keep the logits bounded in bfloat16; the learned factor sets their range.
    temperature = self.param("temperature", nn.initializers.constant(np.sqrt(self.head_channels)), (heads,))
    logits = jnp.einsum("bnhc,bmhc->bhnm", pixel_norm(q), pixel_norm(k)).astype(jnp.float32) / self.head_channels
    weights = nn.softmax(logits * temperature[None, :, None, None]).astype(self.dtype)
    mixed = jnp.reshape(jnp.einsum("bhnm,bmhc->bnhc", weights, v), (b, h, w, c))
    return x + Conv(c, size=1, gain=0.0, dtype=self.dtype, name="out")(mixed)


class SmallNet(nn.Module):
  """Map a noisy image and its level to the network's output, `[..., h, w, c]` and `[...]` to `[..., h, w, out]`."""

  config: SmallConfig

  @nn.compact
  def __call__(self, x, t):
    """Return the output, float32."""
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    widths = [config.channels * m for m in config.multipliers]
    conv = functools.partial(Conv, dtype=dtype)
    block = functools.partial(Block, dtype=dtype)
    lead = x.shape[:-3]
    x, t = jnp.reshape(x, (-1, *x.shape[-3:])), jnp.reshape(t, (-1,))
    embedding = TimeEmbedding(config.embedding, config.time_scale, name="time")(t)
    # A constant channel, which zero padding ends: it makes the border visible and gives the first norm a scale.
    h = space_to_depth(x.astype(dtype), config.patch)
    h = jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)
    h = conv(widths[0], name="in")(h)
    skips = []
    for level, width in enumerate(widths[:-1]):
      for i in range(config.blocks):
        h = block(width, name=f"down{level}_{i}")(h, embedding)
      skips.append(h)
      h = conv(widths[level + 1], size=1, name=f"shrink{level}")(space_to_depth(h, 2))
    for i in range(config.middle_blocks):
      if config.attention and i == config.middle_blocks // 2:
        h = Attention(config.head_channels, dtype, name="attention")(h)
      h = block(widths[-1], name=f"middle_{i}")(h, embedding)
    for level, width in reversed(list(enumerate(widths[:-1]))):
      h = depth_to_space(conv(4 * width, size=1, name=f"grow{level}")(h), 2) + skips.pop()
      for i in range(config.blocks):
        h = block(width, name=f"up{level}_{i}")(h, embedding)
    h = conv(config.patch**2 * config.out_channels, gain=0.0, name="out")(pixel_norm(h))
    out = depth_to_space(h.astype(jnp.float32), config.patch)
    return jnp.reshape(out, (*lead, *out.shape[1:]))


class TimeEmbedding(nn.Module):
  """Embed `[b]` noise levels as `[b, width]`: Fourier features and two dense layers, float32."""

  width: int
  time_scale: float

  @nn.compact
  def __call__(self, t):
    """Return `[b, width]` for noise levels `[b]`."""
    low, high = TIME_FREQUENCIES
    frequencies = np.geomspace(low, high, self.width // 4).astype(np.float32)
    angles = self.time_scale * t.astype(jnp.float32)[:, None] * frequencies[None, :]
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return nn.silu(nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(features))))


@functools.cache
def apply_function(config: SmallConfig) -> Callable:
  """Return `apply(params, x [h, w, c], t []) -> [h, w, out]`; equal configs share one, so that jit compiles once."""
  module = SmallNet(config)

  def apply(params, x, t):
    return module.apply(params, x, t)

  return apply


def initialize(key: jax.Array, config: SmallConfig) -> Any:
  """Return new parameters, float32."""
  size = config.size_multiple
  return SmallNet(config).init(key, jnp.zeros((1, size, size, config.in_channels)), jnp.zeros(1))
