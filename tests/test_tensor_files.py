"""Files of tensors are read one tensor after another: no second copy of a large network is held."""

import weakref

import numpy as np
import pytest

from diffinv.nets import weights
from diffinv.priors import arrays, tensor_files

SHAPES = {"a.weight": (4, 3, 3, 3), "b.weight": (5, 4), "c.bias": (7,)}


@pytest.fixture(scope="module")
def values():
  rng = np.random.RandomState(0)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def file(values, tmp_path, request):
  if request.param == "safetensors":
    from safetensors.numpy import save_file

    save_file(values, tmp_path / "a.safetensors", metadata={"format": "pt"})
    return tmp_path / "a.safetensors"
  torch = pytest.importorskip("torch")
  zipped = request.param == "zip"
  tensors = {name: torch.from_numpy(value) for name, value in values.items()}
  torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
  return tmp_path / "a.pt"


@pytest.mark.parametrize("file", ["safetensors", "zip", "pickle"], indirect=True)
@pytest.mark.parametrize("mapped", [0, 10**9])
def test_tensors_are_those_of_the_file_in_any_order_and_more_than_once(file, values, monkeypatch, mapped):
  monkeypatch.setattr(tensor_files, "MAPPED", mapped)
  stored = tensor_files.read_state_dict(file)
  assert {name: tensor.shape for name, tensor in stored.items()} == SHAPES
  for name in [*reversed(SHAPES), *SHAPES]:
    np.testing.assert_array_equal(np.asarray(stored[name]), values[name])


def test_one_source_at_a_time_is_held_while_parameters_are_made(values):
  held, most = [], []

  def read(name):
    array = values[name].copy()
    held.append(weakref.ref(array))
    most.append(sum(one() is not None for one in held))
    return array

  stored = {name: tensor_files.Stored(shape, lambda name=name: read(name)) for name, shape in SHAPES.items()}
  sources = {tuple(name.replace("weight", "kernel").split(".")): weights.Source(name, SHAPES[name]) for name in SHAPES}
  made = weights.params(stored, sources)
  assert len(most) == len(SHAPES) and max(most) <= 2  # the next is read before the one before is given back
  assert not any(one() is not None for one in held)
  np.testing.assert_array_equal(made["a"]["kernel"], values["a.weight"].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(made["b"]["kernel"], values["b.weight"].T)


def test_parameters_are_given_to_jax_without_a_copy(values):
  import jax

  sources = {("a", "kernel"): weights.Source("a.weight", SHAPES["a.weight"])}
  leaf = weights.params({"a.weight": values["a.weight"]}, sources)["a"]["kernel"]
  on_cpu = jax.device_put(leaf, jax.local_devices(backend="cpu")[0])
  assert on_cpu.unsafe_buffer_pointer() == leaf.ctypes.data


@pytest.mark.parametrize("large", [0, 10**9])
def test_large_parameters_are_read_back_as_small_ones(values, tmp_path, monkeypatch, large):
  monkeypatch.setattr(arrays, "LARGE", large)
  tree = {"a": {"kernel": values["a.weight"]}, "c": {"bias": values["c.bias"]}}
  arrays.write(tmp_path / "params", tree)
  read = arrays.read(tmp_path / "params", tree, arrays.digests(tree))
  np.testing.assert_array_equal(read["a"]["kernel"], values["a.weight"])
  assert (tmp_path / "params" / "manifest.ocdbt").exists() == (large > 0)


def test_bfloat16_of_safetensors_is_read(tmp_path):
  import json
  import struct

  numbers = np.array([1.5, -2.0], np.float32)
  header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
  data = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
  (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
  found = np.asarray(tensor_files.read_state_dict(tmp_path / "a.safetensors")["a"])
  np.testing.assert_array_equal(found.astype(np.float32), numbers)
