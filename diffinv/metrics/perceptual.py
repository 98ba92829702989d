"""LPIPS: a learned distance between two pictures.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, arXiv 1801.03924, version 0.1 of the authors' package, Eq. 1:

  d(x, x') = sum_l mean_hw || w_l * (f_l(x) - f_l(x')) ||^2

with f_l the features of a classifier after five of its layers, scaled to unit length at every position, and w_l^2
learned. The weights do not come with this package: bring the state_dict of the authors' `lpips.LPIPS(net="alex")` or
`net="vgg"`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.pytree import pytree, static

SHIFT = (-0.030, -0.088, -0.188)  # of RGB on [-1, 1], with SCALE: how the classifiers were trained
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the length of the features at a position
MIN_PIXELS = 32  # of smaller pictures, nothing would be left in the last layers


class Layer(NamedTuple):
  """One layer of a classifier."""

  kind: str  # conv (with a rectifier), pool, or tap: features are compared here
  number: int = 0  # (conv) in the classifier
  stride: int = 1
  padding: int = 1
  window: int = 2  # (pool) pixels along an edge


_TAP = Layer("tap")
_POOL2, _POOL3 = Layer("pool", stride=2, window=2), Layer("pool", stride=2, window=3)


def _vgg_stage(*indices):
  return (*(Layer("conv", i) for i in indices), _TAP)


# A tap ends each of the slices that the authors cut the classifiers into.
LAYERS = {
  "alex": (
    *(Layer("conv", 0, stride=4, padding=2), _TAP, _POOL3),
    *(Layer("conv", 3, padding=2), _TAP, _POOL3),
    *(Layer("conv", 6), _TAP, Layer("conv", 8), _TAP, Layer("conv", 10), _TAP),
  ),
  "vgg": (
    *(*_vgg_stage(0, 2), _POOL2, *_vgg_stage(5, 7), _POOL2, *_vgg_stage(10, 12, 14)),
    *(_POOL2, *_vgg_stage(17, 19, 21), _POOL2, *_vgg_stage(24, 26, 28)),
  ),
}
FIRST_KERNELS = {11: "alex", 3: "vgg"}  # the edge of the first kernel, pixels, tells the classifiers apart


@pytree
class LPIPS:
  """The distance, with its weights."""

  kernels: dict[int, jax.Array]  # [k, k, c, d], by the number of the layer
  biases: dict[int, jax.Array]  # [d]
  heads: list[jax.Array]  # w_l^2, [d], by tap
  net: str = static()  # of LAYERS

  def __call__(self, image: jax.Array, truth: jax.Array) -> jax.Array:
    """Return the distance between two pictures `[h, w, 3]`, [-1, 1], of at least 32x32 pixels; [], 0 for equal ones.

    Raises:
      ValueError: the shapes differ, or are not those of a picture.
    """
    if image.shape != truth.shape or image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < MIN_PIXELS:
      raise ValueError(
        f"image: expected two RGB pictures of one size, {MIN_PIXELS}x{MIN_PIXELS} or more, "
        f"got {image.shape} and {truth.shape}"
      )
    pairs = zip(self._features(image), self._features(truth), self.heads)
    distances = [jnp.mean(jnp.sum((a - b) ** 2 * head[None, None, :], axis=-1)) for a, b, head in pairs]
    return sum(distances[1:], distances[0])

  def _features(self, image):
    x = ((image - jnp.asarray(SHIFT)[None, None]) / jnp.asarray(SCALE)[None, None])[None]
    features = []
    for layer in LAYERS[self.net]:
      if layer.kind == "tap":
        features.append(x[0] / (jnp.sqrt(jnp.sum(x[0] ** 2, axis=-1, keepdims=True)) + EPS))
      elif layer.kind == "pool":
        shape = (1, layer.window, layer.window, 1)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, (1, layer.stride, layer.stride, 1), "VALID")
      else:
        x = jax.nn.relu(self._convolve(x, layer))
    return features

  def _convolve(self, x, layer):
    padding = [(layer.padding, layer.padding)] * 2
    out = jax.lax.conv_general_dilated(
      x,
      self.kernels[layer.number],
      (layer.stride, layer.stride),
      padding,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=jax.lax.Precision.HIGHEST,  # for the same numbers on every device
    )
    return out + self.biases[layer.number][None, None, None, :]


def from_state_dict(tensors: Mapping[str, Any]) -> LPIPS:
  """Build the distance from the state_dict of the authors' module.

  Raises:
    ValueError: a tensor is missing, or its shape does not fit the others.
  """
  net = FIRST_KERNELS.get(np.shape(_tensor(tensors, "net.slice1.0.weight"))[-1])
  if net is None:
    raise ValueError("net.slice1.0.weight: expected the first kernel of AlexNet or VGG-16, got another; use net='alex'")
  kernels, biases, channels = {}, {}, 3
  heads: list[jax.Array] = []
  for layer in LAYERS[net]:
    if layer.kind == "conv":
      name = f"net.slice{len(heads) + 1}.{layer.number}"
      kernel, bias = _tensor(tensors, f"{name}.weight"), _tensor(tensors, f"{name}.bias")
      _check(name, kernel.shape[1], channels)
      _check(name, bias.shape, kernel.shape[:1])
      kernels[layer.number], biases[layer.number] = jnp.asarray(kernel.transpose(2, 3, 1, 0)), jnp.asarray(bias)
      channels = kernel.shape[0]
    elif layer.kind == "tap":
      name = f"lin{len(heads)}.model.1.weight"
      head = _tensor(tensors, name)
      _check(name, head.shape, (1, channels, 1, 1))
      heads.append(jnp.asarray(head[0, :, 0, 0]))
  return LPIPS(kernels, biases, heads, net)


def _tensor(tensors, name):
  if name not in tensors:
    raise ValueError(f"{name}: expected this tensor of lpips.LPIPS(...).state_dict(), got a file without it")
  return np.asarray(tensors[name], np.float32)


def _check(name, came, expected):
  if came != expected:
    raise ValueError(f"{name}: expected {expected}, got {came}; save the state_dict of lpips.LPIPS(net='alex')")
