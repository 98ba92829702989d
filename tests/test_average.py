"""The mean of several priors' weights, and weights rounded to half the size."""

import dataclasses
import json
import pathlib

import chex
import jax
import numpy as np
import pytest
import reference_networks
from absl import app, flags
from absl.testing import flagsaver

from diffinv.nets import small
from diffinv.priors import Prior, arrays
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Schedule

CONFIG = small.SmallConfig(channels=8, multipliers=(1,), blocks=1, middle_blocks=1, head_channels=8, embedding=8)


@pytest.fixture(scope="module")
def tool(load_tool):
  module = load_tool("average_priors")
  flags.FLAGS(["average", "--priors=a,b", "--output=c"])
  return module


@pytest.fixture
def save(tmp_path):
  def one(name, seed, images_seen, schedule="linear"):
    prior = Prior(
      params=reference_networks.random_params(checkpoint.param_shapes(CONFIG), seed),
      apply=small.apply_function(CONFIG),
      schedule=Schedule(schedule, 1000),
      prediction="edm",
      variance="fixed_small",
      clip=True,
      image_shape=(16, 16, 3),
      size_multiple=CONFIG.size_multiple,
    )
    of_one_run = {"validation_loss": 0.5, "steps": 10, "init": None}
    provenance = {"data": "faces", "seed": seed, "images_seen": images_seen, **of_one_run}
    return str(checkpoint.save_prior(tmp_path / name, prior, CONFIG, provenance))

  return one


def test_the_weights_are_the_means_and_the_sources_are_recorded(tool, save, tmp_path, capsys):
  names = [save("a", 1, 640), save("b", 2, 1280), save("c", 3, 960)]
  with flagsaver.flagsaver(priors=names, output=str(tmp_path / "mean")):
    tool.main([])
  assert capsys.readouterr().out == f"wrote {tmp_path / 'mean'}\n"
  found, *parts = [checkpoint.load_prior(name) for name in (tmp_path / "mean", *names)]
  expected = jax.tree.map(
    lambda *leaves: sum(np.asarray(leaf, np.float64) for leaf in leaves) / 3, *(p.params for p in parts)
  )
  chex.assert_trees_all_close(found.params, expected, rtol=1e-6)
  description = json.loads((tmp_path / "mean" / "prior.json").read_text())
  sources = [checkpoint.load_provenance(name) for name in names]
  # Nothing was measured of the mean: no figure of the last prior may seem to be of it.
  assert description.pop("provenance") == {"data": "faces", "seed": 3, "images_seen": 1280, "average_of": sources}
  assert description.pop("digests") == arrays.digests(found.params)
  first = json.loads(pathlib.Path(names[0], "prior.json").read_text())
  assert description == {k: v for k, v in first.items() if k not in ("provenance", "digests")}


@pytest.mark.parametrize(
  "bad, message",
  [
    ("one", "--priors: expected two or more, got .*a$"),
    ("schedule", "d: expected the schedule of .*a, .*linear.*, got .*cosine"),
    ("missing", "none"),
    ("taken", "output: the folder .*a exists; .*--overwrite"),
  ],
)
def test_wrong_priors_are_refused_in_a_line(tool, save, tmp_path, bad, message):
  a, b = save("a", 1, 1), save("b", 2, 1)
  chosen = {"one": [a], "schedule": [a, save("d", 2, 1, "cosine")], "missing": [a, str(tmp_path / "none")]}.get(
    bad, [a, b]
  )
  output = a if bad == "taken" else str(tmp_path / "mean")
  with flagsaver.flagsaver(priors=chosen, output=output), pytest.raises(app.UsageError, match=message) as caught:
    tool.main([])
  assert "\n" not in str(caught.value) and not (tmp_path / "mean").exists()


@pytest.fixture(scope="module")
def rounding(load_tool):
  return load_tool("round_prior")


def stored(folder):
  return {array.dtype.name for array in arrays._open(folder / "params").values()}


def test_rounded_weights_are_the_nearest_halves_and_take_half_the_disk(rounding, save, tmp_path):
  prior = checkpoint.load_prior(save("a", 1, 640))
  config, provenance = checkpoint.load_description(str(tmp_path / "a"))[1], {"seed": 1}
  checkpoint.save_prior(tmp_path / "half", rounding.rounded(prior), config, provenance)
  found = checkpoint.load_prior(str(tmp_path / "half"))
  for name, value in arrays.flat(found.params).items():
    exact = np.asarray(arrays.flat(prior.params)[name])
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, exact, rtol=2**-11, atol=2**-25)
    np.testing.assert_array_equal(value, np.asarray(value, np.float16))
  assert (stored(tmp_path / "a"), stored(tmp_path / "half")) == ({"float32"}, {"float16"})


def test_weights_beyond_float16_are_refused(rounding, save):
  prior = checkpoint.load_prior(save("a", 1, 640))
  large = dataclasses.replace(prior, params=jax.tree.map(lambda v: 1e6 + 0 * v, prior.params))
  with pytest.raises(ValueError, match="--prior: expected weights of at most 65504, got 1e.06; keep it in float32"):
    rounding.rounded(large)
