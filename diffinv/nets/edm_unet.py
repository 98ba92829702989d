"""The networks of EDM, for one image, height-width-channel: DDPM++ and NCSN++ ("song"), and ADM ("dhariwal").

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, arXiv 2206.00364: the
preconditionings are its Table 1, the networks those of its App. F.1, after Song et al., "Score-Based Generative
Modeling through Stochastic Differential Equations", ICLR 2021, arXiv 2011.13456, and Dhariwal and Nichol, "Diffusion
Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv 2105.05233. `diffinv.nets.edm` reads files of them.

`apply_function(config)` is what the rest of the library calls: `(params, x [h, w, c], sigma []) -> D(x; sigma)`, the
denoised image for x = x0 + sigma eps, float32, batched by `vmap` from outside. Activations are of type `config.dtype`;
moments, softmax and the preconditioning are always float32.
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

from diffinv.nets import configs, diffusers_unet, unet
from diffinv.nets.attention import attend
from diffinv.nets.unet import DTYPES, MAX_PERIOD, Conv, GroupNorm, Linear

MAX_GROUPS, LEAST_IN_GROUP = 32, 4  # of a norm: groups, and channels in one
HEAD_CHANNELS = 64  # of attention, in networks of more than one head
FOURIER_STD = 16.0  # of the frequencies that a "fourier" embedding draws


class Kind(NamedTuple):
  """In what the two families differ."""

  adaptive: bool  # the embedding scales and shifts a normalization, or is added
  factor: float  # of the sum that ends a block
  eps: float  # of norms
  project: bool  # a block that resamples has a product on its input's way
  one_head: bool  # of attention, or one for each HEAD_CHANNELS
  endpoint: bool  # the lowest frequency of the embedding is 1 / MAX_PERIOD itself
  decoder_attends: bool  # in every block of a level, or in its last one


KINDS = {
  "song": Kind(False, math.sqrt(0.5), 1e-6, True, True, True, False),
  "dhariwal": Kind(True, 1.0, 1e-5, False, False, False, True),
}
EMBEDDINGS = ("positional", "fourier")
ENCODERS = ("standard", "skip", "residual")
DECODERS = ("standard", "skip")
# Filters that halve and double a picture, by how they are called when they do.
FILTERS = {(1, 1): "", (1, 3, 3, 1): "fir_"}


@dataclasses.dataclass(frozen=True)
class EDMConfig(configs.Denoiser):
  """The architecture and how it is preconditioned; hashable. Build it with `make_config`, which checks it."""

  kind: str  # of KINDS
  channels: tuple[int, ...]  # per level, finest first; each level halves the image
  first_channels: int  # of the first convolution
  noise_channels: int  # of the features of the noise
  emb_channels: int  # of their embedding
  num_blocks: int  # per level of the encoder; the decoder has one more
  attention_levels: tuple[int, ...]  # which levels attend, 0 the finest; the first block of the decoder always does
  in_channels: int = 3
  embedding_type: str = "positional"  # of EMBEDDINGS
  encoder_type: str = "standard"  # of ENCODERS
  decoder_type: str = "standard"  # of DECODERS
  resample_filter: tuple[int, ...] = (1, 1)  # of FILTERS
  num_classes: int | None = None  # of a class-conditional network; class `num_classes` is none of them
  preconditioning: str = "edm"  # of PRECONDITIONINGS
  sigma_data: float = 0.5  # (edm) standard deviation of images in [-1, 1]
  beta_d: float = 19.9  # (vp) slope of the linear beta
  beta_min: float = 0.1  # (vp) beta at time 0
  num_steps: int = 1000  # (vp, iddpm) of the time that the network is told
  c_1: float = 0.001  # (iddpm) the least ratio of neighboring alpha_bar
  c_2: float = 0.008  # (iddpm) offset of the cosine
  dtype: str = "float32"  # of `unet.DTYPES`, of activations; parameters are float32
  remat: bool = False  # recompute each block in the gradient: less memory, a third more time

  @property
  def num_labels(self) -> int | None:
    """Labels that the network takes: its classes, and one more for none of them; None where it knows no classes."""
    return None if self.num_classes is None else self.num_classes + 1

  @property
  def reach(self) -> None:
    """None: every output pixel depends on the whole picture, whose statistics the norms take."""
    return None


def make_config(**fields: Any) -> EDMConfig:
  """Build a checked `EDMConfig`; lists become tuples.

  Raises:
    ValueError: a field is impossible.
  """
  config: EDMConfig = configs.made(EDMConfig, fields)
  _check_choices(config)
  _check_widths(config)
  for name in ("sigma_data", "beta_d", "beta_min", "num_steps", "c_1", "c_2"):
    if not getattr(config, name) > 0:
      raise ValueError(f"{name}: expected a positive number, got {getattr(config, name)}")
  return config


def _check_choices(config):
  choices = {
    "kind": tuple(KINDS),
    "embedding_type": EMBEDDINGS,
    "encoder_type": ENCODERS,
    "decoder_type": DECODERS,
    "resample_filter": tuple(FILTERS),
    "preconditioning": tuple(PRECONDITIONINGS),
    "dtype": tuple(DTYPES),
  }
  configs.check_choices(config, choices)
  if config.kind == "dhariwal":
    plain = EDMConfig(config.kind, config.channels, *[0] * 4, ())
    for name in ("embedding_type", "encoder_type", "decoder_type", "resample_filter"):
      if getattr(config, name) != getattr(plain, name):
        raise ValueError(f"{name}: expected {getattr(plain, name)} of a dhariwal network, got {getattr(config, name)}")


def _check_widths(config):
  widths = (config.first_channels, *config.channels)
  numbers = (*widths, config.noise_channels, config.emb_channels, config.num_blocks, config.in_channels)
  configs.check_numbers(config, (*numbers, len(config.channels)))
  if not set(config.attention_levels) <= set(range(len(config.channels))):
    raise ValueError(
      f"attention_levels: expected levels in 0..{len(config.channels) - 1}, got {config.attention_levels}"
    )
  for level in config.attention_levels:
    if not heads(config, config.channels[level]):
      raise ValueError(f"attention_levels: expected {HEAD_CHANNELS} channels or more, got {config.channels[level]}")
  for channels in _normed(config):
    if channels < LEAST_IN_GROUP or channels % groups(channels):
      raise ValueError(f"channels: expected multiples of the groups of a norm, {groups(channels)}, got {channels}")
    if channels % max(heads(config, channels), 1):
      raise ValueError(f"channels: expected multiples of the heads of attention, got {channels}")


def _normed(config):
  """Return the numbers of channels that norms see: of each level, and of what blocks of the decoder are given."""
  kept = skipped(config)[::-1]
  given, found = config.channels[-1], list(config.channels)
  for i, other in enumerate(kept):
    found.append(given + other)
    given = config.channels[-1 - i // (config.num_blocks + 1)]
  return (config.first_channels, *found)


def skipped(config: EDMConfig) -> list[int]:
  """Return the channels of what the encoder keeps for the decoder, in its order."""
  found = []
  for level, channels in enumerate(config.channels):
    before = config.first_channels if level == 0 else config.channels[level - 1]
    found += [before, *[channels] * config.num_blocks]
  return found


def groups(channels: int) -> int:
  """Return the groups of a norm of `channels` channels."""
  return max(min(MAX_GROUPS, channels // LEAST_IN_GROUP), 1)


def heads(config: EDMConfig, channels: int) -> int:
  """Return how many heads an attention over `channels` channels has; 0 where there is none."""
  return 1 if KINDS[config.kind].one_head else channels // HEAD_CHANNELS


class Scales(NamedTuple):
  """D(x; sigma) = skip x + out F(in x; noise), Eq. 7; each []."""

  skip: jax.Array | float
  out: jax.Array
  input: jax.Array | float
  noise: jax.Array  # what the network is told


def edm_scales(config, sigma):
  """Return those of EDM."""
  norm = jnp.sqrt(sigma**2 + config.sigma_data**2)
  return Scales(config.sigma_data**2 / norm**2, sigma * config.sigma_data / norm, 1 / norm, jnp.log(sigma) / 4)


def vp_scales(config, sigma):
  """Return those of a network of variance-preserving noise, told the time of its linear beta."""
  integral = 2 * config.beta_d * jnp.log1p(sigma**2)
  # (sqrt(b^2 + i) - b) / beta_d without the difference, which loses digits where i is small.
  time = integral / (jnp.sqrt(config.beta_min**2 + integral) + config.beta_min) / config.beta_d
  return Scales(1.0, -sigma, 1 / jnp.sqrt(sigma**2 + 1), (config.num_steps - 1) * time)


def ve_scales(config, sigma):
  """Return those of a network of variance-exploding noise, told half of it."""
  return Scales(1.0, sigma, 1.0, jnp.log(sigma / 2))


def iddpm_scales(config, sigma):
  """Return those of a network of improved DDPM, told the nearest of its steps."""
  table = jnp.asarray(iddpm_sigmas(config.num_steps, config.c_1, config.c_2), jnp.float32)
  index = jnp.argmin(jnp.abs(table - sigma)).astype(jnp.float32)
  return Scales(1.0, -sigma, 1 / jnp.sqrt(sigma**2 + 1), config.num_steps - 1 - index)


PRECONDITIONINGS = {"edm": edm_scales, "vp": vp_scales, "ve": ve_scales, "iddpm": iddpm_scales}


@functools.cache
def iddpm_sigmas(num_steps: int, c_1: float, c_2: float) -> np.ndarray:
  """Return the noise of each step of improved DDPM, descending, the last one 0, `[num_steps + 1]` (App. C.3.4)."""
  alpha_bar = np.sin(0.5 * np.pi * np.arange(num_steps + 1) / num_steps / (c_2 + 1)) ** 2
  found = np.zeros(num_steps + 1)
  for j in range(num_steps, 0, -1):
    found[j - 1] = np.sqrt((found[j] ** 2 + 1) / max(alpha_bar[j - 1] / alpha_bar[j], c_1) - 1)
  return found


class NoiseFeatures(nn.Module):
  """Cosines and sines of what the network is told, of given frequencies or of drawn ones that a file holds."""

  config: EDMConfig

  @nn.compact
  def __call__(self, noise):
    """Return `[noise_channels]`, float32, for `noise` `[]`."""
    config, half = self.config, self.config.noise_channels // 2
    if config.embedding_type == "fourier":
      frequencies = 2 * math.pi * self.param("freqs", nn.initializers.normal(FOURIER_STD), (half,))
    else:
      powers = np.arange(half, dtype=np.float32) / np.float32(max(half - KINDS[config.kind].endpoint, 1))
      frequencies = jnp.asarray(np.float32(1 / MAX_PERIOD) ** powers)
    parts = [jnp.cos(noise * frequencies), jnp.sin(noise * frequencies)]
    return jnp.concatenate(parts[::-1] if config.kind == "song" else parts)


class Block(nn.Module):
  """GN, SiLU, resample, conv; the embedding; GN, SiLU, conv; plus the resampled input; then attention."""

  features: int
  kind: str  # of KINDS
  heads: int = 0  # of attention; 0 for none
  resample: str = ""  # of `diffusers_unet.RESAMPLE`

  @nn.compact
  def __call__(self, x, emb):
    """Return `[h', w', features]`, where h' and w' are those of the resampled `x` `[h, w, c]`."""
    kind, resample = KINDS[self.kind], diffusers_unet.RESAMPLE[self.resample]
    norm = lambda name, h, silu=True: GroupNorm(groups(h.shape[-1]), kind.eps, silu=silu, name=name)
    h = Conv(self.features, name="conv0")(resample(norm("norm0", x)(x)))
    emb = Linear(self.features * (1 + kind.adaptive), name="affine")(emb)
    if kind.adaptive:
      h = norm("norm1", h)(h, *jnp.split(emb, 2))
    else:
      h = h + emb.astype(h.dtype)[None, None, :]
      h = norm("norm1", h)(h)
    h = Conv(self.features, zero=True, name="conv1")(h)
    x = resample(x)
    if x.shape[-1] != self.features or (self.resample and kind.project):
      x = Linear(self.features, name="skip")(x)
    x = lax.optimization_barrier((h + x) * kind.factor)  # see `unet.ResBlock`
    return self.attend(x, norm("norm2", x, silu=False)) if self.heads else x

  def attend(self, x, norm):
    """Return `x`, `[h, w, c]`, plus its self-attention over pixels."""
    h, w, c = x.shape
    qkv = Linear(3 * c, name="qkv")(jnp.reshape(norm(x), (h * w, c)))
    q, k, v = jnp.unstack(jnp.reshape(qkv, (h * w, self.heads, c // self.heads, 3)), axis=3)
    attended = jnp.reshape(attend(q, k, v), (h * w, c))
    return (jnp.reshape(Linear(c, zero=True, name="proj")(attended), (h, w, c)) + x) * KINDS[self.kind].factor


class EDMUNet(nn.Module):
  """The network F; its submodules are named as in files, `enc.64x64_block0` at the finest level `enc_0_block0`."""

  config: EDMConfig

  @nn.compact
  def __call__(self, x, noise, label=None):
    """Return `[h, w, c]`, float32, for `x` `[h, w, c]` at `noise` `[]`."""
    config = self.config
    emb = self.embed(noise, label)
    picture = x.astype(DTYPES[config.dtype])
    h = Conv(config.first_channels, name="enc_0_conv")(picture)
    kept = [h]
    for level in range(len(config.channels)):
      h, picture = self.down(level, h, picture, emb, kept)
    picture = None
    for level in reversed(range(len(config.channels))):
      h, picture = self.up(level, h, picture, emb, kept)
    return picture

  def embed(self, noise, label):
    """Return the embedding of the noise and the class, `[emb_channels]`."""
    config, song = self.config, self.config.kind == "song"
    emb = NoiseFeatures(config, name="map_noise")(noise)
    classes = None
    if config.num_classes is not None:
      # Class `num_classes` is a row of zeros: what networks are given that learned to do without a class.
      classes = jax.nn.one_hot(label, config.num_classes)
    if classes is not None and song:
      emb = emb + Linear(config.noise_channels, name="map_label")(classes * math.sqrt(config.num_classes))
    emb = nn.silu(Linear(config.emb_channels, name="map_layer0")(emb))
    emb = Linear(config.emb_channels, name="map_layer1")(emb)
    if classes is not None and not song:
      emb = emb + nn.Dense(config.emb_channels, use_bias=False, name="map_label")(classes)
    return nn.silu(emb)

  def block(self, name, h, emb, channels, *, attention=False, resample=""):
    """Apply a block, rematerialized if the config says so; `resample`: "down" or "up"."""
    config = self.config
    count = heads(config, channels) if attention else 0
    by = FILTERS[config.resample_filter] + resample if resample else ""
    module = nn.remat(Block) if config.remat else Block
    return module(channels, config.kind, count, by, name=name)(h, emb)

  def down(self, level, h, picture, emb, kept):
    """Apply a level of the encoder; append to `kept` what the decoder takes."""
    config, attention = self.config, level in self.config.attention_levels
    if level:
      h = self.block(f"enc_{level}_down", h, emb, h.shape[-1], resample="down")
      h, picture = self.beside(level, h, picture)
      kept.append(h)
    for i in range(config.num_blocks):
      h = self.block(f"enc_{level}_block{i}", h, emb, config.channels[level], attention=attention)
      kept.append(h)
    return h, picture

  def beside(self, level, h, picture):
    """Add what the encoder carries beside the features: the picture, or what has become of it."""
    config, channels = self.config, h.shape[-1]
    if config.encoder_type == "skip":
      picture = diffusers_unet.RESAMPLE[FILTERS[config.resample_filter] + "down"](picture)
      h = h + Linear(channels, name=f"enc_{level}_aux_skip")(picture)
    if config.encoder_type == "residual":
      conv = Conv(channels, name=f"enc_{level}_aux_residual")
      if config.resample_filter == (1, 1):
        added = unet.average_pool(conv(picture))
      else:  # a pixel more on every side, and none beside what is filtered
        added = diffusers_unet.fir_down(conv(jnp.pad(picture, ((1, 1), (1, 1), (0, 0)))), zeros=0)
      h = picture = (h + added) / math.sqrt(2)
    return h, picture

  def up(self, level, h, picture, emb, kept):
    """Apply a level of the decoder; take what it needs from `kept`."""
    config, last = self.config, len(self.config.channels) - 1
    if level == last:
      h = self.block(f"dec_{level}_in0", h, emb, h.shape[-1], attention=True)
      h = self.block(f"dec_{level}_in1", h, emb, h.shape[-1])
    else:
      h = self.block(f"dec_{level}_up", h, emb, h.shape[-1], resample="up")
    for i in range(config.num_blocks + 1):
      attends = KINDS[config.kind].decoder_attends or i == config.num_blocks
      h = jnp.concatenate([h, kept.pop()], axis=-1)
      attention = attends and level in config.attention_levels
      h = self.block(f"dec_{level}_block{i}", h, emb, config.channels[level], attention=attention)
    if config.decoder_type == "skip" and picture is not None:
      picture = diffusers_unet.RESAMPLE[FILTERS[config.resample_filter] + "up"](picture)
    if config.decoder_type == "standard" and level:
      return h, None
    return h, self.picture(level, h, picture)

  def picture(self, level, h, picture):
    """Return the picture that the features hold, plus that of the coarser levels, float32."""
    config, names = self.config, (f"dec_{level}_aux_norm", f"dec_{level}_aux_conv")
    norm, conv = ("out_norm", "out_conv") if config.kind == "dhariwal" else names
    h = h.astype(jnp.float32)
    h = GroupNorm(groups(h.shape[-1]), KINDS[config.kind].eps, silu=True, name=norm)(h)
    more = Conv(config.in_channels * (1 + (config.preconditioning == "iddpm")), zero=True, name=conv)(h)
    return more if picture is None else more + picture


@functools.cache
def apply_function(config: EDMConfig) -> Callable:
  """Return `(params, x, sigma, label=None) -> D`; equal configs get the same object, so that nothing recompiles.

  x: x0 + sigma eps, `[h, w, c]`, x0 in [-1, 1]; label: the class, [], of a class-conditional network.
  """
  network, scales_of = EDMUNet(config), PRECONDITIONINGS[config.preconditioning]

  def apply(params, x, sigma, label=None):
    unet.check_call(config, x.shape, label)
    scales = scales_of(config, sigma.astype(jnp.float32))
    output = network.apply({"params": params}, scales.input * x, scales.noise, label)
    return scales.skip * x + scales.out * output[..., : config.in_channels]

  return apply


def init(key: jax.Array, config: EDMConfig) -> Any:
  """Return new parameters, float32."""
  size = config.size_multiple
  label = None if config.num_classes is None else jnp.zeros((), jnp.int32)
  x = jnp.zeros((size, size, config.in_channels))
  return EDMUNet(config).init(key, x, jnp.ones(()), label)["params"]
