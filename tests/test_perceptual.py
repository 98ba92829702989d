"""LPIPS against the authors' package, on generated weights: the numbers are what version 0.1.4 of it prints."""

import numpy as np
import pytest

from diffinv.metrics import perceptual

IMAGE = np.linspace(-1, 1, 64 * 48 * 3).reshape(64, 48, 3).astype(np.float32)
OTHER = np.sin(7 * IMAGE)
SHAPES = {
  "alex": [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)],
  "vgg": [
    *[(64, 3, 3), (64, 64, 3), (128, 64, 3), (128, 128, 3), (256, 128, 3), (256, 256, 3), (256, 256, 3)],
    *[(512, 256, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3)],
  ],
}


def state_dict(net):
  """Return normal tensors under the names of the authors' module, drawn in the order of the sorted names."""
  shapes, tap = {}, 0
  convolutions = iter(SHAPES[net])
  for layer in perceptual.LAYERS[net]:
    if layer.kind == "conv":
      out, channels, size = next(convolutions)
      shapes[f"net.slice{tap + 1}.{layer.number}.weight"] = (out, channels, size, size)
      shapes[f"net.slice{tap + 1}.{layer.number}.bias"] = (out,)
    elif layer.kind == "tap":
      shapes[f"lin{tap}.model.1.weight"] = (1, out, 1, 1)
      tap += 1
  rng = np.random.default_rng(5)
  return {name: draw(rng, name, shape) for name, shape in sorted(shapes.items())}


def draw(rng, name, shape):
  values = rng.standard_normal(shape)
  if name.startswith("lin"):
    return np.abs(values).astype(np.float32)
  return (values * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1)).astype(np.float32)


@pytest.mark.parametrize(
  "net, expected", [("alex", 2.368547201), pytest.param("vgg", 1.414757371, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_distance_is_that_of_the_authors_package(net, expected):
  distance = perceptual.from_state_dict(state_dict(net))
  assert distance.net == net
  assert float(distance(IMAGE, OTHER)) == pytest.approx(expected, rel=2e-6)
  assert float(distance(OTHER, IMAGE)) == pytest.approx(expected, rel=2e-6)
  assert float(distance(IMAGE, IMAGE)) == 0.0


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda t: t.pop("net.slice3.6.bias"), "net.slice3.6.bias: expected this tensor"),
    (lambda t: t.pop("net.slice1.0.weight"), "net.slice1.0.weight: expected this tensor"),
    (
      lambda t: t.update({"lin2.model.1.weight": np.ones((1, 5, 1, 1))}),
      r"lin2.model.1.weight: expected \(1, 384, 1, 1\)",
    ),
    (lambda t: t.update({"net.slice2.3.weight": np.ones((192, 3, 5, 5))}), "net.slice2.3: expected 64, got 3"),
    (
      lambda t: t.update({"net.slice1.0.weight": np.ones((64, 3, 7, 7))}),
      "expected the first kernel of AlexNet or VGG",
    ),
  ],
)
def test_other_files_are_refused_by_the_name_of_the_tensor(change, message):
  tensors = state_dict("alex")
  change(tensors)
  with pytest.raises(ValueError, match=message):
    perceptual.from_state_dict(tensors)


@pytest.mark.parametrize(
  "one, other", [((64, 64, 3), (64, 63, 3)), ((64, 64, 1), (64, 64, 1)), ((31, 64, 3), (31, 64, 3))]
)
def test_other_pictures_are_refused(one, other):
  distance = perceptual.from_state_dict(state_dict("alex"))
  with pytest.raises(ValueError, match="expected two RGB pictures of one size, 32x32 or more"):
    distance(np.zeros(one, np.float32), np.zeros(other, np.float32))
