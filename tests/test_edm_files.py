"""Checkpoints of EDM: what its owner exports becomes a prior, and what is said of the others."""

import json
import pickle
import re
import sys

import edm_networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_edm
from denoising_network import convert

from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule

NAME = "box"


@pytest.fixture(scope="module")
def tensors():
  case = edm_networks.SMALL[NAME]
  return test_edm.state_dict(test_edm.config_of(case.config), case.config)


@pytest.fixture
def export(monkeypatch, load_tool):
  """Run the tool on a file."""
  pytest.importorskip("torch")
  tool = load_tool("export_edm")

  def run(path, folder, *flags):
    monkeypatch.setattr(sys, "argv", ["export_edm.py", str(path), str(folder), *flags])
    tool.main()
    return folder

  return run


@pytest.fixture
def pickled(tmp_path, tensors):
  """Return a checkpoint as EDM's training writes it: the averaged network and what else there is."""
  pytest.importorskip("torch")
  import edm_code

  others = {name: value + 1 for name, value in tensors.items()}
  path = tmp_path / "network.pkl"
  data = {"ema": edm_code.EDMPrecond(tensors), "net": edm_code.EDMPrecond(others), "loss_fn": None}
  path.write_bytes(pickle.dumps(data))
  return path


def write(folder, tensors, **fields):
  from safetensors.numpy import save_file

  folder.mkdir()
  save_file(tensors, folder / "edm.safetensors")
  (folder / "edm.json").write_text(json.dumps({"format": "diffinv-edm-1", "preconditioning": "edm", **fields}))
  return folder


def test_a_checkpoint_is_exported_converted_and_denoises_as_the_reference(capsys, tmp_path, golden, pickled, export):
  case, folder = edm_networks.SMALL[NAME], export(pickled, tmp_path / "edm")
  assert json.loads((folder / "edm.json").read_text()) == {
    "format": "diffinv-edm-1",
    "preconditioning": "edm",
    "sigma_data": 0.5,
    "sigma_min": 0,
    "network": "SongUNet",
    "weights": "ema",
    "source": "network.pkl",
  }
  assert convert(capsys, folder, tmp_path / "p", "--nocheck") == ""
  prior = checkpoint.load_prior(tmp_path / "p")
  assert (prior.image_shape, prior.prediction, prior.clip) == ((8, 8, 3), "denoiser", False)
  assert prior.schedule == Schedule("karras", 1000, ends=(0.002, 80.0))
  x, _ = case.arrays()
  alpha = 1 / np.hypot(1, case.sigma)
  level = Level(*(jnp.float32(value) for value in (0.0, alpha, alpha * case.sigma)))
  got = jax.jit(lambda x: prior.denoise(x, level).x0)(jnp.float32(alpha) * x)
  assert test_edm.relative(got, golden("edm_networks.npz")[f"edm/{NAME}/output"]) < 1e-5
  said = json.loads((tmp_path / "p" / "prior.json").read_text())
  assert said["provenance"]["source"] == "network.pkl" and said["provenance"]["weights"] == "ema"


def test_the_pickle_itself_is_never_opened(capsys, tmp_path, pickled):
  pytest.importorskip("torch")
  said = convert(capsys, pickled, tmp_path / "p", code=1)
  assert "refused: it is a checkpoint of EDM's code" in said and "run tools/export_edm.py on it" in said


def test_a_state_dict_is_exported_as_its_flags_say(capsys, tmp_path, tensors, export):
  torch = pytest.importorskip("torch")
  ema = {f"module.model.{name}": torch.from_numpy(value) for name, value in tensors.items()}
  torch.save({"ema": ema, "net": {}}, tmp_path / "inverse.pt")
  with pytest.raises(SystemExit):
    export(tmp_path / "inverse.pt", tmp_path / "none")
  assert "add --preconditioning=edm" in capsys.readouterr().err and not (tmp_path / "none").exists()
  folder = export(tmp_path / "inverse.pt", tmp_path / "edm", "--preconditioning=vp", "--sigma_data=0.4")
  convert(capsys, folder, tmp_path / "p", "--nocheck", "--num_steps=40")
  config = checkpoint.load_description(tmp_path / "p")[1]
  assert (config.preconditioning, config.sigma_data, config.num_steps) == ("vp", 0.4, 1000)
  assert checkpoint.load_prior(tmp_path / "p").schedule.num_steps == 40


def test_chains_have_the_noise_that_the_network_knows(capsys, tmp_path, tensors):
  convert(capsys, write(tmp_path / "a", tensors, sigma_min=0.02, sigma_max=50.0), tmp_path / "p", "--nocheck")
  assert checkpoint.load_prior(tmp_path / "p").schedule.ends == (0.02, 50.0)
  convert(capsys, write(tmp_path / "b", tensors, sigma_max=152.0), tmp_path / "q", "--nocheck")
  assert checkpoint.load_prior(tmp_path / "q").schedule.ends == (0.002, 80.0)


@pytest.mark.slow
def test_no_class_of_a_network_is_the_label_after_the_last(capsys, tmp_path):
  case = edm_networks.SMALL["adm"]
  write(tmp_path / "a", test_edm.state_dict(test_edm.config_of(case.config), case.config))
  said = convert(capsys, tmp_path / "a", tmp_path / "p", "--nocheck", "--null_label=7")
  assert "class-conditional, of 7 classes" in said
  x, level = case.arrays()[0], Level(*(jnp.float32(value) for value in (0.0, 0.8, 0.6)))
  one, none, twice = (
    jax.jit(checkpoint.load_prior(tmp_path / "p", **given).denoise)(x, level).x0
    for given in ({"label": 2}, {"label": 7}, {"label": 2, "guidance": 2.0})
  )
  np.testing.assert_allclose(twice, 2 * one - none, rtol=1e-4, atol=1e-4)
  assert not np.allclose(one, none, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "model.", "ema.model."])
def test_tensors_alone_are_taken_to_be_preconditioned_as_edm(capsys, tmp_path, tensors, prefix):
  from safetensors.numpy import save_file

  save_file({prefix + name: value for name, value in tensors.items()}, tmp_path / "a.safetensors")
  said = convert(capsys, tmp_path / "a.safetensors", tmp_path / "p", "--nocheck")
  assert ("the prefix" in said) == bool(prefix)
  fields, config = checkpoint.load_description(tmp_path / "p")
  assert config == test_edm.config_of(edm_networks.SMALL[NAME].config) and fields["image_shape"] == [8, 8, 3]


@pytest.mark.parametrize(
  "fields, flags, code, message",
  [
    ({"format": "diffinv-edm-2"}, (), 1, "edm.json: format: expected 'diffinv-edm-1', got 'diffinv-edm-2'"),
    (
      {"sigma": 1},
      (),
      1,
      "edm.json: expected the fields format, .*, got 'sigma'; write it again with tools/export_edm",
    ),
    ({"preconditioning": "flow"}, (), 1, "preconditioning: expected one of edm, vp, ve, iddpm, got 'flow'"),
    ({"sigma_data": 0}, (), 1, "sigma_data: expected a positive number, got 0"),
    ({"sigma_min": 3.0, "sigma_max": 2.0}, (), 1, "expected ascending ends of 'karras', got 3.0 and 2.0"),
    ({}, ("--schedule=cosine",), 2, "--schedule: expected none, as edm.json says what its network is told, got cosine"),
    ({}, ("--prediction=eps",), 2, "--prediction: expected none, as edm.json says what its network is told, got eps"),
    ({}, ("--num_heads=2",), 2, "--num_heads: expected none, as edm.json says"),
    ({}, ("--max_noise=25",), 2, "--max_noise: expected none, as the noise that this network knows"),
    ({}, ("--image_size=9",), 1, "image_shape: expected multiples of 2 pixels, got"),
  ],
)
def test_what_is_no_export_is_named(capsys, tmp_path, tensors, fields, flags, code, message):
  said = convert(capsys, write(tmp_path / "a", tensors, **fields), tmp_path / "p", "--nocheck", *flags, code=code)
  assert re.search(message, said) and said.count("\n") == 1 and not (tmp_path / "p").exists()


def test_tensors_of_other_networks_are_named(capsys, tmp_path, tensors):
  def fails(name, **changed):
    kept = {key: value for key, value in tensors.items() if key not in changed.get("without", ())}
    folder = write(tmp_path / name, {**kept, **changed.get("beside", {})})
    return convert(capsys, folder, tmp_path / "p", "--nocheck", code=1)

  assert "tensor 'enc.4x4_down.norm0.bias': expected shape [16], the file has none" in fails(
    "a", without=["enc.4x4_down.norm0.bias"]
  )
  assert "tensor 'more.weight': expected no such tensor" in fails("b", beside={"more.weight": np.zeros((2, 2))})
  other = {name: np.ones((1, 1, 3, 3)) / 9 for name in tensors if name.endswith("resample_filter")}
  assert "resample_filter: expected (1, 1) or (1, 3, 3, 1), got [0.3333, 0.3333, 0.3333]" in fails("c", beside=other)
