"""A deeper network that computes the same, to go on training from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from absl import app, flags
from absl.testing import flagsaver

from diffinv.nets import small
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Schedule
from diffinv.training.config import TrainConfig

CONFIG = small.SmallConfig(channels=8, multipliers=(1, 2), blocks=1, middle_blocks=1, embedding=8)


@pytest.fixture(scope="module")
def tool(load_tool):
  module = load_tool("deepen_prior")
  flags.FLAGS(["deepen", "--prior=a", "--blocks=2", "--middle_blocks=2", "--output=b"])
  return module


def saved(folder, config=CONFIG):
  prior = Prior(
    params=reference_networks.random_params(checkpoint.param_shapes(config), 1),
    apply=small.apply_function(config),
    schedule=Schedule("linear", 1000),
    prediction="edm",
    variance="fixed_small",
    clip=True,
    image_shape=(16, 16, 3),
    size_multiple=config.size_multiple,
  )
  settings = {"init": "photo", "blocks": 1, "middle_blocks": 1, "channels": 8}
  return str(checkpoint.save_prior(folder, prior, config, {"data": "photos", "settings": settings}))


def test_a_deeper_network_computes_the_same_and_is_trained_on_as_it_is(tool, tmp_path, capsys):
  name, output = saved(tmp_path / "a"), str(tmp_path / "b")
  with flagsaver.flagsaver(prior=name, blocks=3, middle_blocks=2, output=output):
    tool.main([])
  assert capsys.readouterr().out == f"wrote {output}\n"
  before, after = checkpoint.load_prior(name), checkpoint.load_prior(output)
  x, t = jax.random.normal(jax.random.key(0), (16, 16, 3)), jnp.float32(0.3)
  want = before.apply(before.params, x, t)
  np.testing.assert_allclose(after.apply(after.params, x, t), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
  description, config = checkpoint.load_description(output)
  assert (config.blocks, config.middle_blocks, config.channels) == (3, 2, 8)
  assert description["provenance"]["deepened_from"]["blocks"] == 1
  goes_on = TrainConfig.begun_from(output, data="photos", steps=1)
  assert (goes_on.blocks, goes_on.middle_blocks) == (3, 2)


def test_every_new_block_can_learn(tool, tmp_path):
  """Its last convolution is zero and gets a gradient; the rest of it gets one as soon as that has moved."""
  prior, config, _ = tool.deepen(saved(tmp_path / "a"), 2, 2)
  x, t = jax.random.normal(jax.random.key(0), (16, 16, 3)), jnp.float32(0.3)
  slopes = jax.grad(lambda params: jnp.sum(prior.apply(params, x, t) ** 2))(prior.params)["params"]
  new = ["down0_1", "middle_1", "up0_1"]
  assert config.blocks == 2 and set(new) <= set(slopes)
  for block in new:
    assert np.all(np.asarray(prior.params["params"][block]["conv2"]["kernel"]) == 0)
    assert np.abs(slopes[block]["conv2"]["kernel"]).max() > 0


@pytest.mark.parametrize(
  "blocks, middle_blocks, message",
  [(1, 0, "expected at least its 1 and 1 blocks"), (0, 1, "expected at least its 1 and 1 blocks")],
)
def test_a_shallower_network_is_refused(tool, tmp_path, blocks, middle_blocks, message):
  with pytest.raises(ValueError, match=message):
    tool.deepen(saved(tmp_path / "a"), blocks, middle_blocks)


def test_what_cannot_be_deepened_is_refused_in_a_line(tool, tmp_path):
  other = saved(tmp_path / "u", dataclasses.replace(CONFIG, attention=True, head_channels=8))
  for name, output, message in (
    (other, "b", "expected a small network without attention, got another"),
    (str(tmp_path / "none"), "b", "none"),
    (other, "u", "output: the folder .*u exists"),
  ):
    with (
      flagsaver.flagsaver(prior=name, blocks=2, middle_blocks=2, output=str(tmp_path / output)),
      pytest.raises(app.UsageError, match=message) as caught,
    ):
      tool.main([])
    assert "\n" not in str(caught.value)
  assert not (tmp_path / "b").exists()
