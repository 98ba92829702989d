"""The `UNet2DModel` of the diffusers library, for one image, height-width-channel.

Its default is the network of Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv 2006.11239; the
blocks with a picture beside the features ("Skip") are those of NCSN++, Song et al., "Score-Based Generative Modeling
through Stochastic Differential Equations", ICLR 2021, arXiv 2011.13456. Fields and blocks have the names that the
library's config.json has; `diffinv.nets.diffusers` reads its files.

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
import numpy as np
from jax import lax

from diffinv.nets import configs, unet
from diffinv.nets.attention import attend
from diffinv.nets.unet import DTYPES, MAX_PERIOD, Conv, GroupNorm, Linear

MAX_GROUPS = 32  # of the norms whose groups follow from their channels, of 4 channels or more
PICTURE_CHANNELS = 3  # of the picture that Skip blocks carry
MAX_LABELS = 65536  # of a class that is embedded like a time, which has no end


class Kind(NamedTuple):
  """What a block does besides its residual blocks."""

  attention: bool = False
  resnet: bool = False  # resamples within a residual block
  skip: bool = False  # carries a picture beside the features, and resamples by a filter


DOWN_BLOCKS = {
  "DownBlock2D": Kind(),
  "AttnDownBlock2D": Kind(attention=True),
  "ResnetDownsampleBlock2D": Kind(resnet=True),
  "SkipDownBlock2D": Kind(skip=True),
  "AttnSkipDownBlock2D": Kind(attention=True, skip=True),
}
UP_BLOCKS = {
  "UpBlock2D": Kind(),
  "AttnUpBlock2D": Kind(attention=True),
  "ResnetUpsampleBlock2D": Kind(resnet=True),
  "SkipUpBlock2D": Kind(skip=True),
  "AttnSkipUpBlock2D": Kind(attention=True, skip=True),
}
RESAMPLERS = ("conv", "resnet")  # of blocks with attention
TIME_EMBEDDINGS = ("positional", "fourier")
CLASS_EMBEDDINGS = (None, "timestep", "identity")


@dataclasses.dataclass(frozen=True)
class DiffusersConfig:
  """The architecture; hashable. Build it with `make_config`, which checks it."""

  block_out_channels: tuple[int, ...]  # per level, finest first; each level halves the image
  down_block_types: tuple[str, ...]  # of DOWN_BLOCKS, finest first
  up_block_types: tuple[str, ...]  # of UP_BLOCKS, coarsest first
  layers_per_block: int = 2  # residual blocks of a level on the way down; one more on the way up
  in_channels: int = 3
  out_channels: int = 3  # twice `in_channels` with a learned variance
  mid_block: bool = True  # whether there is one at the coarsest level
  add_attention: bool = True  # in it
  mid_block_scale_factor: float = 1.0  # its sums are divided by it
  attention_head_dim: int | None = 8  # channels a head; None for one head
  norm_num_groups: int | None = 32  # None for `MAX_GROUPS` at most, of 4 channels
  attn_norm_num_groups: int | None = None  # of the middle's attention; None for no norm there with `scale_shift_norm`
  norm_eps: float = 1e-5
  scale_shift_norm: bool = False  # the embedding scales and shifts a normalization, or is added
  downsample_padding: int = 1  # zeros above and left of a picture that is strided over; one is below and right
  downsample_type: str = "conv"  # of RESAMPLERS
  upsample_type: str = "conv"  # of RESAMPLERS
  time_embedding_type: str = "positional"  # of TIME_EMBEDDINGS
  time_embedding_dim: int | None = None  # None for 4 times the finest level's channels
  flip_sin_to_cos: bool = True  # cosines first
  freq_shift: int = 0  # the highest frequency is 1, the lowest 10000^-(n - 1)/(n - freq_shift)
  center_input_sample: bool = False  # maps [0, 1] to [-1, 1]
  class_embed_type: str | None = None  # of CLASS_EMBEDDINGS; None for a table
  num_class_embeds: int | None = None  # classes; None for an unconditional network
  score: bool = False  # gives the score of pictures in [0, 1] at the noise t, from which `apply_function` takes eps
  dtype: str = "float32"  # of `unet.DTYPES`, of activations; parameters are float32
  remat: bool = False  # recompute each block in the gradient: less memory, a third more time

  @property
  def size_multiple(self) -> int:
    """Pixels that height and width must be a multiple of."""
    return 2 ** (len(self.block_out_channels) - 1)

  @property
  def reach(self) -> None:
    """None: every output pixel depends on the whole picture, whose statistics the norms take."""
    return None

  @property
  def num_classes(self) -> int | None:
    """How many classes it knows; None of a network without, and of one that takes their embedding."""
    if self.class_embed_type == "identity":
      return None
    if self.class_embed_type == "timestep" and self.num_class_embeds is None:
      return MAX_LABELS
    return self.num_class_embeds


def make_config(**fields: Any) -> DiffusersConfig:
  """Build a checked `DiffusersConfig`; lists become tuples.

  Raises:
    ValueError: a field is impossible.
  """
  config: DiffusersConfig = configs.made(DiffusersConfig, fields)
  _check_choices(config)
  _check_blocks(config)
  _check_skips(config)
  _check_widths(config)
  return config


def _check_choices(config):
  choices = {
    "downsample_type": RESAMPLERS,
    "upsample_type": RESAMPLERS,
    "time_embedding_type": TIME_EMBEDDINGS,
    "class_embed_type": CLASS_EMBEDDINGS,
    "downsample_padding": (0, 1),
    "dtype": tuple(DTYPES),
  }
  configs.check_choices(config, choices)
  if config.score and config.time_embedding_type != "fourier":
    raise ValueError(f"score: expected a time_embedding_type 'fourier', got {config.time_embedding_type!r}")
  half = config.block_out_channels[0] // 2 if config.block_out_channels else 0
  if half == config.freq_shift:
    raise ValueError(f"freq_shift: expected another number than that of the frequencies, {half}")


def _check_blocks(config):
  levels = len(config.block_out_channels)
  for name, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
    blocks = getattr(config, name)
    if len(blocks) != levels or not levels:
      raise ValueError(f"{name}: expected one of each level of block_out_channels, {levels}, got {len(blocks)}")
    for block in blocks:
      if block not in known:
        raise ValueError(f"{name}: expected of {', '.join(known)}, got {block!r}")


def _check_skips(config):
  """Check that the picture of Skip blocks is resampled wherever the features are."""
  down = [DOWN_BLOCKS[name].skip for name in config.down_block_types[:-1]]
  up = [UP_BLOCKS[name].skip for name in config.up_block_types]
  for name, carried in (("down_block_types", down), ("up_block_types", up[::-1])):
    if carried != sorted(carried, reverse=True):
      raise ValueError(f"{name}: expected Skip blocks at all levels finer than one, got {getattr(config, name)}")
  taken, given = config.in_channels, config.out_channels
  if (any(down) and taken != PICTURE_CHANNELS) or (any(up[:-1]) and given != PICTURE_CHANNELS):
    raise ValueError(
      f"in_channels, out_channels: expected {PICTURE_CHANNELS} with Skip blocks, got {taken} and {given}"
    )


def _check_widths(config):
  numbers = (*config.block_out_channels, config.layers_per_block, config.in_channels, config.out_channels)
  configs.check_numbers(config, numbers)
  if config.norm_num_groups is not None:
    _check_divides("norm_num_groups", config.norm_num_groups, config.block_out_channels)
  heads = [c for name, c in zip(config.down_block_types, config.block_out_channels) if DOWN_BLOCKS[name].attention]
  heads += [c for name, c in zip(config.up_block_types, config.block_out_channels[::-1]) if UP_BLOCKS[name].attention]
  middle = config.block_out_channels[-1:] if config.mid_block and config.add_attention else ()
  if config.attention_head_dim is not None:
    _check_divides("attention_head_dim", config.attention_head_dim, (*heads, *middle))
  if config.attn_norm_num_groups is not None:
    _check_divides("attn_norm_num_groups", config.attn_norm_num_groups, middle)


def _check_divides(name, value, widths):
  for channels in widths:
    if value < 1 or channels % value:
      raise ValueError(f"{name}: expected a divisor of the {channels} channels of a level, got {value}")


def fir_down(x: jax.Array, zeros: int = 1) -> jax.Array:
  """Halve `x`, `[h, w, c]`, by the filter (1, 3, 3, 1) / 8 along each axis; `zeros`: around it, 1 or none."""
  for axis in (0, 1):
    padded = jnp.pad(x, [(zeros, zeros) if i == axis else (0, 0) for i in range(3)])
    last = padded.shape[axis] - 3
    a, b, c, d = (lax.slice_in_dim(padded, i, i + last, stride=2, axis=axis) for i in range(4))
    x = (a + 3 * b + 3 * c + d) / 8
  return x


def fir_up(x: jax.Array) -> jax.Array:
  """Double `x`, `[h, w, c]`, by the filter (1, 3, 3, 1) / 4 along each axis, zero padding."""
  for axis in (0, 1):
    padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(3)])
    before, after = (lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in (0, 2))
    pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=axis + 1)
    x = jnp.reshape(pairs, [2 * n if i == axis else n for i, n in enumerate(x.shape)])
  return x


RESAMPLE = {**unet.RESAMPLE, "fir_down": fir_down, "fir_up": fir_up}


class TimeProjection(nn.Module):
  """Features of a time: sines and cosines, of given frequencies or of drawn ones that a file holds."""

  config: DiffusersConfig

  @nn.compact
  def __call__(self, t):
    """Return `[width]`, float32, for `t` `[]`."""
    config, width = self.config, self.config.block_out_channels[0]
    t = t.astype(jnp.float32)
    if config.time_embedding_type == "fourier":
      frequencies = self.param("weight", nn.initializers.normal(16.0), (width,))
      angles = jnp.log(t) * frequencies * 2 * math.pi
      return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])
    half = width // 2
    frequencies = np.exp(-math.log(MAX_PERIOD) / (half - config.freq_shift) * np.arange(half)).astype(np.float32)
    angles = t * frequencies
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate([*(parts[::-1] if config.flip_sin_to_cos else parts), jnp.zeros(width % 2)])


class Embedding(nn.Module):
  """Two products with SiLU between them."""

  features: int

  @nn.compact
  def __call__(self, x):
    """Map `[width]` to `[features]`."""
    return Linear(self.features, name="linear_2")(nn.silu(Linear(self.features, name="linear_1")(x)))


class ResBlock(nn.Module):
  """GN, SiLU, resample, conv; the embedding; GN, SiLU, conv; plus the resampled input; over a factor."""

  features: int
  groups: tuple[int, int]  # of the two norms
  eps: float
  scale_shift_norm: bool
  factor: float
  resample: str  # of RESAMPLE
  shortcut: bool  # a product on the input's way even where the channels are the same

  @nn.compact
  def __call__(self, x, emb):
    """Return `[h', w', features]`, where h' and w' are those of the resampled `x` `[h, w, c]`."""
    resample = RESAMPLE[self.resample]
    norm1, norm2 = (GroupNorm(n, self.eps, silu=True, name=f"norm{i}") for i, n in enumerate(self.groups, 1))
    h = Conv(self.features, name="conv1")(resample(norm1(x)))
    emb = Linear(self.features * (1 + self.scale_shift_norm), name="time_emb_proj")(nn.silu(emb))
    h = norm2(h, *jnp.split(emb, 2)) if self.scale_shift_norm else norm2(h + emb.astype(h.dtype)[None, None, :])
    h = Conv(self.features, name="conv2")(h)
    x = resample(x)
    if self.shortcut or x.shape[-1] != self.features:
      x = Linear(self.features, name="conv_shortcut")(x)
    return lax.optimization_barrier((h + x) / self.factor)  # see `unet.ResBlock`


class Attention(nn.Module):
  """Self-attention over pixels, with a residual connection; over a factor."""

  head_dim: int | None  # channels a head; None for one head
  groups: int | None  # of its norm; None for no norm
  eps: float
  factor: float

  @nn.compact
  def __call__(self, x):
    """Return `x`'s shape, `[h, w, c]`."""
    h, w, c = x.shape
    tokens = x if self.groups is None else GroupNorm(self.groups, self.eps, name="group_norm")(x)
    tokens, split = jnp.reshape(tokens, (h * w, c)), (h * w, -1, self.head_dim or c)
    q, k, v = (jnp.reshape(Linear(c, name=f"to_{name}")(tokens), split) for name in "qkv")
    attended = jnp.reshape(attend(q, k, v), (h * w, c))
    return (x + jnp.reshape(Linear(c, name="to_out_0")(attended), (h, w, c))) / self.factor


class UNet2D(nn.Module):
  """The network; its submodules are named as in the library, `down_blocks.0.resnets.1` as `down_blocks_0_resnets_1`."""

  config: DiffusersConfig

  @nn.compact
  def __call__(self, x, t, label=None):
    """Return `[h, w, out_channels]`, float32, for `x` `[h, w, in_channels]` at time `t` `[]`."""
    config = self.config
    emb = self.embed(t, label)
    picture = (2 * x - 1 if config.center_input_sample else x).astype(DTYPES[config.dtype])
    h = Conv(config.block_out_channels[0], name="conv_in")(picture)
    kept = [h]
    for level in range(len(config.block_out_channels)):
      h, picture = self.down(level, h, picture, emb, kept)
    h = self.middle(h, emb) if config.mid_block else h
    picture = None
    for i in range(len(config.block_out_channels)):
      h, picture = self.up(i, h, picture, emb, kept)
    norm = GroupNorm(self.groups(Kind(), h.shape[-1]), config.norm_eps, silu=True, name="conv_norm_out")
    h = Conv(config.out_channels, name="conv_out")(norm(h.astype(jnp.float32)))
    h = h if picture is None else h + picture.astype(jnp.float32)
    return h / t if config.time_embedding_type == "fourier" else h

  def embed(self, t, label):
    """Return the embedding of the time and the class, `[time_embedding_dim]`."""
    config = self.config
    dim = config.time_embedding_dim or 4 * config.block_out_channels[0]
    project = TimeProjection(config, name="time_proj")
    emb = Embedding(dim, name="time_embedding")(project(t))
    if config.class_embed_type == "identity":
      return emb + label
    if config.class_embed_type == "timestep":
      return emb + Embedding(dim, name="class_embedding")(project(label))
    if config.num_class_embeds is None:
      return emb
    return emb + nn.Embed(config.num_class_embeds, dim, name="class_embedding")(label)

  def groups(self, kind, channels):
    """Return of how many groups a norm is."""
    given = None if kind.skip else self.config.norm_num_groups
    return min(channels // 4, MAX_GROUPS) if given is None else given

  def residual(self, name, h, emb, channels, kind, *, resample="", factor=None, groups=None):
    """Apply a residual block, rematerialized if the config says so; `groups`: of its first norm."""
    config = self.config
    module = nn.remat(ResBlock) if config.remat else ResBlock
    return module(
      channels,
      (groups or self.groups(kind, h.shape[-1]), self.groups(kind, channels)),
      config.norm_eps,
      config.scale_shift_norm,
      factor=(math.sqrt(2.0) if kind.skip else 1.0) if factor is None else factor,
      resample=resample,
      shortcut=resample.startswith("fir"),
      name=name,
    )(h, emb)

  def attention(self, name, h, kind):
    """Apply a layer of attention, rematerialized if the config says so."""
    config = self.config
    module = nn.remat(Attention) if config.remat else Attention
    groups = MAX_GROUPS if kind.skip else self.groups(kind, h.shape[-1])
    return module(config.attention_head_dim, groups, config.norm_eps, math.sqrt(2.0) if kind.skip else 1.0, name=name)(
      h
    )

  def down(self, level, h, picture, emb, kept):
    """Apply a level on the way down; append to `kept` what the way up takes."""
    config, name = self.config, f"down_blocks_{level}"
    channels, kind = config.block_out_channels[level], DOWN_BLOCKS[config.down_block_types[level]]
    for i in range(config.layers_per_block):
      h = self.residual(f"{name}_resnets_{i}", h, emb, channels, kind)
      h = self.attention(f"{name}_attentions_{i}", h, kind) if kind.attention else h
      kept.append(h)
    if level + 1 < len(config.block_out_channels):
      h, picture = self.halve(name, h, picture, emb, kind)
      kept.append(h)
    return h, picture

  def halve(self, name, h, picture, emb, kind):
    """Halve the features, and the picture beside them."""
    config, channels = self.config, h.shape[-1]
    if kind.skip:
      h, picture = self.residual(f"{name}_resnet_down", h, emb, channels, kind, resample="fir_down"), fir_down(picture)
      return h + Linear(channels, name=f"{name}_skip_conv")(picture), picture
    name = f"{name}_downsamplers_0"
    if kind.resnet or (kind.attention and config.downsample_type == "resnet"):
      return self.residual(name, h, emb, channels, kind, resample="down"), picture
    return Conv(channels, stride=2, before=config.downsample_padding, name=f"{name}_conv")(h), picture

  def middle(self, h, emb):
    """Apply the blocks at the coarsest level."""
    config, kind, channels, factor = self.config, Kind(), h.shape[-1], self.config.mid_block_scale_factor
    h = self.residual("mid_block_resnets_0", h, emb, channels, kind, factor=factor)
    if config.add_attention:
      groups = config.attn_norm_num_groups
      groups = self.groups(kind, channels) if groups is None and not config.scale_shift_norm else groups
      name = "mid_block_attentions_0"
      h = Attention(config.attention_head_dim, groups, config.norm_eps, factor, name=name)(h)
    return self.residual("mid_block_resnets_1", h, emb, channels, kind, factor=factor)

  def up(self, i, h, picture, emb, kept):
    """Apply a level on the way up, the `i`-th from the coarsest; take what it needs from `kept`."""
    config, name = self.config, f"up_blocks_{i}"
    channels, kind = config.block_out_channels[-1 - i], UP_BLOCKS[config.up_block_types[i]]
    for j in range(config.layers_per_block + 1):
      other = kept.pop()
      # Of the library's AttnSkipUpBlock2D, whose files depend on it: the quarter is of one summand.
      groups = min(h.shape[-1] + other.shape[-1] // 4, MAX_GROUPS) if kind.attention and kind.skip else None
      h = jnp.concatenate([h, other], axis=-1)
      h = self.residual(f"{name}_resnets_{j}", h, emb, channels, kind, groups=groups)
      if kind.attention and (not kind.skip or j == config.layers_per_block):
        h = self.attention(f"{name}_attentions_{0 if kind.skip else j}", h, kind)
    return self.double(name, h, picture, emb, kind, last=i + 1 == len(config.block_out_channels))

  def double(self, name, h, picture, emb, kind, *, last):
    """Double the features, but for those of the finest level, and the picture beside them."""
    channels = h.shape[-1]
    if kind.skip and picture is not None:
      picture = fir_up(picture)
    if last:
      return h, picture
    if kind.skip:
      norm = GroupNorm(self.groups(kind, channels), self.config.norm_eps, silu=True, name=f"{name}_skip_norm")
      more = Conv(PICTURE_CHANNELS, name=f"{name}_skip_conv")(norm(h))
      h = self.residual(f"{name}_resnet_up", h, emb, channels, kind, resample="fir_up")
      return h, more if picture is None else picture + more
    name = f"{name}_upsamplers_0"
    if kind.resnet or (kind.attention and self.config.upsample_type == "resnet"):
      return self.residual(name, h, emb, channels, kind, resample="up"), picture
    return Conv(channels, name=f"{name}_conv")(unet.nearest_up(h)), picture


@functools.cache
def apply_function(config: DiffusersConfig) -> Callable:
  """Return `(params, x_t, t, label=None) -> output`; equal configs get the same object, so that nothing recompiles.

  `label`: the class, []; of a network with class_embed_type 'identity' its embedding, `[time_embedding_dim]`. Where
  `config.score` is set, x_t is a picture in [-1, 1] and noise of the standard deviation t, and the output is eps.
  """
  network = UNet2D(config)

  def apply(params, x_t, t, label=None):
    unet.check_call(config, x_t.shape, None if config.class_embed_type == "identity" else label)
    if not config.score:
      return network.apply({"params": params}, x_t, t, label)
    t = t / 2  # of pictures in [0, 1]
    return -t * network.apply({"params": params}, (x_t + 1) / 2, t, label)

  return apply


def init(key: jax.Array, config: DiffusersConfig) -> Any:
  """Return new parameters, float32."""
  size = config.size_multiple
  label: jax.Array | None = None if config.num_classes is None else jnp.zeros((), jnp.int32)
  if config.class_embed_type == "identity":
    label = jnp.zeros(config.time_embedding_dim or 4 * config.block_out_channels[0])
  x = jnp.zeros((size, size, config.in_channels))
  return UNet2D(config).init(key, x, jnp.ones(()), label)["params"]
