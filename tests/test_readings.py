"""What files leave open is found by trying, of stand-ins for networks that know and are told what they are made to."""

import dataclasses

import denoising_network
import numpy as np
import pytest
from oracle_network import Oracle

import diffinv
from diffinv.priors import Prior, families, readings, trial
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Schedule, level_at, log_sbar, of_unit_range

LINEAR, COSINE = Schedule("linear", 1000), Schedule("cosine", 1000)
NETWORKS = (denoising_network.CONFIG, denoising_network.replaced(num_heads=2))
SPACE = readings.Space(NETWORKS, (1.0, 0.001), (LINEAR, COSINE), readings.PREDICTED)
OTHERWISE = {
  "prediction": "v",
  "schedule": COSINE,
  "time_scale": 0.001,
  "unit_range": True,
  "reversed_channels": True,
}


def trial_of(monkeypatch, channels=3, **known):
  Oracle(**{"schedule": LINEAR, **known}).install(monkeypatch)
  return trial.Trial(Prior({}, None, LINEAR, image_shape=(16, 16, channels)))


@pytest.mark.parametrize(
  "known", [{}, *({name: value} for name, value in OTHERWISE.items()), {"prediction": "x0"}, OTHERWISE]
)
def test_what_a_network_knows_and_is_told_is_found(monkeypatch, capsys, known):
  chosen = readings.choose(trial_of(monkeypatch, **known), SPACE, SPACE)
  assert chosen.tried.reading == SPACE.first()._replace(**known)
  said = capsys.readouterr().err
  assert said.count(" is taken, as it was not said and denoises best: ") == len(known)
  assert chosen.figures["denoises"]


@pytest.mark.parametrize("known", [{}, OTHERWISE])
def test_heads_are_found_whatever_else_is_open(monkeypatch, capsys, known):
  chosen = readings.choose(trial_of(monkeypatch, heads=(2, "new"), **known), SPACE, SPACE, heads_said=False)
  assert chosen.tried.reading == SPACE.first()._replace(network=NETWORKS[1], **known)
  assert "--num_heads=2 --attention_order=new is taken" in capsys.readouterr().err


def test_few_evaluations_tell(monkeypatch):
  tries = trial_of(monkeypatch, heads=(2, "new"), **OTHERWISE)
  readings.choose(tries, SPACE, SPACE, heads_said=False)
  product = np.prod([len(answers) for answers in SPACE])
  assert len({reading for reading, _ in tries._tried}) < 1.1 * product and product == 96


def test_heads_that_make_no_difference_are_asked_for(monkeypatch):
  with pytest.raises(ValueError, match="num_heads, num_head_channels: shapes cannot tell .* do about as well"):
    readings.choose(trial_of(monkeypatch), SPACE, SPACE, heads_said=False)


def test_what_was_said_is_kept_and_warned_of(monkeypatch, capsys):
  tries = trial_of(monkeypatch, heads=(2, "new"))
  chosen = readings.choose(tries, SPACE, SPACE._replace(network=NETWORKS[:1]))
  assert chosen.tried.reading.network == NETWORKS[0]
  said = capsys.readouterr().err
  assert said.startswith("warning: --num_heads=4 --attention_order=new gives 2")
  assert "on bundled pictures, --num_heads=2 --attention_order=new 3" in said


def test_what_was_said_and_does_not_denoise_is_refused_with_what_does(monkeypatch):
  allowed = SPACE.within(["prediction"])
  with pytest.raises(ValueError, match="as it is said, the network does not denoise: .*; .*--prediction=x0 does, 3"):
    readings.choose(trial_of(monkeypatch, prediction="x0"), SPACE, allowed)
  assert readings.choose(trial_of(monkeypatch, prediction="x0"), SPACE, allowed, unchecked=True)


def test_a_network_that_does_not_denoise_is_refused(monkeypatch):
  monkeypatch.setattr(trial, "_compiled", lambda network: lambda params, x_t, t: 0.0 * x_t)
  with pytest.raises(ValueError, match="no reading that was tried denoises bundled pictures: .* add `unchecked`"):
    readings.choose(trial.Trial(Prior({}, None, LINEAR, image_shape=(16, 16, 3))), SPACE, SPACE)


class Uncompiled:
  """A stand-in for a jitted network."""

  def __init__(self, run):
    self.run = run

  def lower(self, *_):
    return self

  def compile(self):
    return self.run


@pytest.fixture
def large(monkeypatch):
  """Take every network for a large one; return how often each has been compiled."""
  compiled = []

  def install(oracle):
    monkeypatch.setattr(trial, "CHEAP", -1)
    monkeypatch.setattr(trial, "_function", lambda network: compiled.append(network) or Uncompiled(oracle(network)))
    return compiled

  return install


def test_of_large_networks_one_is_kept_and_few_are_compiled_again(large, capsys, monkeypatch):
  monkeypatch.setattr("diffinv.progress.LOG_SECONDS", 0.0)
  compiled = large(Oracle(heads=(2, "new"), prediction="edm", time_scale=1000.0).network)
  tries = trial.Trial(Prior({}, None, LINEAR, image_shape=(16, 16, 3)))
  space = SPACE._replace(prediction=(*SPACE.prediction, "edm"), time_scale=(1.0, 0.001, 1000.0))
  chosen = readings.choose(tries, space, space, heads_said=False)
  assert chosen.tried.reading._replace(schedule=LINEAR) == trial.Reading(NETWORKS[1], 1000.0, LINEAR, "edm")
  assert len(compiled) <= 4
  said = capsys.readouterr().err.splitlines()
  shares = [int(line.split("%")[0]) for line in said if "trying readings of the network" in line]
  assert len(shares) > 50 and shares == sorted(shares) and shares[-1] <= 100


@pytest.mark.slow
def test_a_large_network_gives_what_a_small_one_does(monkeypatch):
  config = denoising_network.CONFIG
  params = families.GUIDED.params(denoising_network.random_state_dict(), config)
  found = []
  for most in (trial.CHEAP, -1):
    monkeypatch.setattr(trial, "CHEAP", most)
    tries = trial.Trial(Prior(params, None, LINEAR, image_shape=(8, 8, 3)))
    found.append(tries(trial.Reading(config, 1.0, LINEAR, "eps")).errors)
  np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("known", [{}, OTHERWISE])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_prior_that_was_read_so_denoises_as_the_network(monkeypatch, known, channels):
  known = {**known, "reversed_channels": False}
  tries = trial_of(monkeypatch, channels, **known)
  reading = SPACE.first()._replace(**known)
  network = Oracle(**{"schedule": LINEAR, **known}).network(dataclasses.replace(NETWORKS[0], out_channels=channels))
  prior = trial.read_as(dataclasses.replace(tries.prior, apply=network), reading)
  x0 = trial._picture(trial.PICTURES[0], prior)
  level = level_at(prior.schedule, np.float32(0.3))
  noisy = level.alpha * (x0 + 0.3 * np.random.RandomState(0).standard_normal(x0.shape).astype(np.float32))
  assert np.mean((prior.denoise(noisy, level).x0 - x0) ** 2) < 0.1 * 0.3**2


def test_noise_of_pictures_in_unit_range_is_twice_as_large():
  np.testing.assert_allclose(log_sbar(of_unit_range(COSINE)), log_sbar(COSINE) + np.log(2), rtol=1e-6, atol=1e-9)


def test_channels_of_a_mean_and_of_a_variance_are_reversed_each():
  assert trial.channel_order(3, 6) == [2, 1, 0, 5, 4, 3] and trial.channel_order(3, 3) == [2, 1, 0]
  first = {"kernel": np.arange(3.0).reshape(1, 1, 3, 1)}
  last = {"kernel": np.arange(6.0).reshape(1, 1, 1, 6), "bias": np.arange(6.0)}
  found = families.reversed_channels({"a": first, "b": last, "c": {}}, ("a", "b"))
  assert found["a"]["kernel"].ravel().tolist() == [2, 1, 0] and found["b"]["bias"].tolist() == [2, 1, 0, 5, 4, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faces", "photo"])
def test_no_shipped_network_is_refused(name):
  fields, config = checkpoint.load_description(name)
  prior = dataclasses.replace(diffinv.load_prior(name), image_shape=(64, 64, 3), tiling=None)
  tried = trial.Trial(prior)(trial.Reading(config, 1.0, prior.schedule, "edm"), trial.ALL)
  assert trial.denoises(tried) and tried.error < 0.5
