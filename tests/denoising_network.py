"""Small networks that denoise the bundled portrait, made in seconds: random but for their last layer.

The last layer is the least-squares estimate of the noise from the features before it, which depend on the heads of
attention and their order. So the network works if it is read as it was made.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import reference_networks
from flax import traverse_util

from diffinv.apps import main
from diffinv.data import bundled, images
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import description, network_input
from diffinv.schedules import Schedule, level_at

SIZE = 16  # pixels
SBARS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # of the noise that it is fitted to
DRAWS = 12  # a level
# Factors of layers: attention that looks far, and convolutions that change little of what the last layer is to see.
STRENGTH = {"qkv": 2.0, "out_conv": 0.3}
RIDGE = 1e-5
# What networks predict, from (x0, eps, level).
TARGETS = {
  "eps": lambda x0, eps, level: eps,
  "v": lambda x0, eps, level: level.alpha * eps - level.sigma * x0,
  "edm": lambda x0, eps, level: _edm_target(x0, eps, level.sigma / level.alpha),
}


def _edm_target(x0, eps, sbar, sigma_data=0.5):
  norm = (sbar**2 + sigma_data**2) ** 0.5
  return (x0 - sigma_data**2 / norm**2 * (x0 + sbar * eps)) * norm / (sbar * sigma_data)


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


def state_dict(config=CONFIG, schedule=Schedule("linear", 1000), time_scale=1.0, prediction="eps"):
  """Return the weights of the network by the names of its authors."""
  params = reference_networks.random_params(description.param_shapes(config))
  params = jax.tree_util.tree_map_with_path(_strengthened, params)
  params["out_2"] = last_layer(unet.UNet(config), params, "out_0", schedule, time_scale, prediction)
  flat = traverse_util.flatten_dict(params)
  return {source.name: to_theirs(flat[path], source) for path, source in guided_diffusion.sources(config).items()}


def random_state_dict(config=CONFIG):
  """Return random weights of a network by the names of its authors."""
  flat = traverse_util.flatten_dict(reference_networks.random_params(description.param_shapes(config)))
  return {source.name: to_theirs(flat[path], source) for path, source in guided_diffusion.sources(config).items()}


def _strengthened(path, leaf):
  return leaf * STRENGTH.get(path[1].key, 1.0) if path[-1].key == "kernel" else leaf


def last_layer(network, params, norm, schedule=Schedule("linear", 1000), time_scale=1.0, prediction="eps"):
  """Return the last convolution of a network that denoises the portrait.

  Args:
    network: a module.
    params: its parameters.
    norm: the name of its layer before the last, a norm with its activation.
    schedule: of the noise.
    time_scale: of t.
    prediction: of TARGETS.
  """
  return _fitted(_features(network, params, norm, schedule, time_scale, prediction))


def _features(network, params, norm, schedule, time_scale, prediction):
  """Give what the last layer sees of noisy portraits, 3x3 patches and a 1, `[pixels, n]`, and what it has to tell."""
  x0 = jnp.asarray(images.fit(images.read(bundled.ASTRONAUT), (SIZE, SIZE), "resize"), jnp.float32)

  @reference_networks.compiled
  def last(x_t, t):
    _, found = network.apply({"params": params}, x_t, t, capture_intermediates=lambda m, _: m.name == norm)
    return found["intermediates"][norm]["__call__"][0]

  rng = np.random.RandomState(1)
  for sbar in np.repeat(np.float32(SBARS), DRAWS):
    level, eps = level_at(schedule, sbar), rng.standard_normal(x0.shape).astype(np.float32)
    scale, t = network_input(level, prediction, time_scale)
    h = np.pad(last(scale * (level.alpha * x0 + level.sigma * eps), t), ((1, 1), (1, 1), (0, 0)))
    patches = [h[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)]
    yield (
      np.concatenate([*patches, np.ones_like(h[:SIZE, :SIZE, :1])], axis=-1).reshape(SIZE**2, -1),
      TARGETS[prediction](x0, eps, level),
    )


def _fitted(pairs):
  inputs, eps = zip(*pairs)
  a, b = np.concatenate(inputs).astype(np.float64), np.concatenate([e.reshape(-1, e.shape[-1]) for e in eps])
  weights = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ b).astype(np.float32)
  return {"kernel": weights[:-1].reshape(3, 3, -1, b.shape[1]), "bias": weights[-1]}


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
