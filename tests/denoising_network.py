"""Small networks that denoise the bundled pictures, trained in seconds on these alone.

What they learn depends on the heads of attention and their order, so a network works if it is read as it was made.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference_networks
from flax import traverse_util

from diffinv.apps import main
from diffinv.data import bundled, images
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import description
from diffinv.schedules import Schedule, level_at

SIZE = 16  # pixels
SBARS = (0.03, 1.5)  # of the noise in training
STEPS, BATCH, RATE = 250, 12, 4e-3
QKV = 3.0  # factor of the first weights of attention, so that it looks at some pixels more than at others

CONFIG = unet.make_config(
  model_channels=32,
  channel_mult=(1,),
  num_res_blocks=1,
  attention_levels=(0,),
  num_heads=4,
  attention_order="new",
  out_channels=3,
)


def convert(capsys, source, target, *flags, code=0):
  """Convert a file or a folder, expect a status, and return what was said."""
  got = main.execute(["convert", f"--input={source}", f"--output={target}", *flags])
  said = capsys.readouterr().err
  assert got == code, said
  return said


def state_dict(config=CONFIG, **about):
  """Return the weights of a trained network by the names of its authors; `about`: fields of `Known`."""
  params = trained(unet.apply_function(config), description.param_shapes(config), Known(**about))
  flat = traverse_util.flatten_dict(params)
  return {source.name: to_theirs(flat[path], source) for path, source in guided_diffusion.sources(config).items()}


class Known(NamedTuple):
  """What a network knows, and how it is told."""

  schedule: Schedule = Schedule("linear", 1000)
  time_scale: float = 1.0
  prediction: str = "eps"
  unit_range: bool = False
  reversed_channels: bool = False


def trained(apply, shapes, known=Known()):
  """Return parameters of a network that denoises the bundled pictures.

  Args:
    apply: (params, x_t, t) -> output.
    shapes: the tree of its parameters.
    known: what it is to learn.
  """
  params = jax.tree_util.tree_map_with_path(_strengthened, reference_networks.random_params(shapes))
  step = _step(apply)
  state = _OPTIMIZER.init(params)
  rng, pictures = np.random.RandomState(1), np.stack([np.asarray(one) for one in _pictures(known)])
  for _ in range(STEPS):
    params, state = step(params, state, *_batch(rng, pictures, known))
  return jax.tree.map(np.asarray, params)


_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, STEPS)))


@functools.cache
def _step(apply):
  def loss(params, x_t, t, told):
    return jnp.mean((jax.vmap(apply, (None, 0, 0))(params, x_t, t) - told) ** 2)

  @reference_networks.compiled
  def step(params, state, *batch):
    updates, state = _OPTIMIZER.update(jax.grad(loss)(params, *batch), state)
    return optax.apply_updates(params, updates), state

  return step


def _strengthened(path, leaf):
  return QKV * leaf if path[-1].key == "kernel" and path[-2].key == "qkv" else leaf


def _batch(rng, pictures, known):
  """Return noisy pictures, times, and what the network is to tell."""
  sbar = np.exp(rng.uniform(*np.log(SBARS), BATCH)).astype(np.float32) * np.float32(0.5 if known.unit_range else 1)
  level = level_at(known.schedule, sbar)
  alpha, sigma = (np.asarray(part)[:, None, None, None] for part in (level.alpha, level.sigma))
  x0 = pictures[rng.randint(len(pictures), size=BATCH)]
  eps = rng.standard_normal(x0.shape).astype(np.float32)
  told = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[known.prediction]
  return alpha * x0 + sigma * eps, np.float32(known.time_scale) * level.t, told


def _pictures(known):
  for path in (bundled.ASTRONAUT, bundled.BEE, bundled.FACE):
    x0 = jnp.asarray(images.fit(images.read(path), (SIZE, SIZE), "resize"), jnp.float32)
    x0 = x0[..., ::-1] if known.reversed_channels else x0
    yield (x0 + 1) / 2 if known.unit_range else x0


def to_theirs(value, source):
  value = np.asarray(value)
  if len(source.shape) == 4 and source.shape[2:] != (1, 1):
    value = value.transpose(3, 2, 0, 1)
  elif len(source.shape) > 1:
    value = value.T
  return np.ascontiguousarray(value.reshape(source.shape), np.float32)


def replaced(**changes):
  """Return the config with other heads, order or levels."""
  return dataclasses.replace(CONFIG, **changes)
