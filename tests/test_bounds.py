"""Every number has bounds, which its help states, and what is beyond is refused in one line, from Python and flags."""

import dataclasses
import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import errors, methods, noise, operators, options, problems
from diffinv.apps import main
from diffinv.apps.verify import Verification
from diffinv.data import bundled
from diffinv.methods import METHODS
from diffinv.methods.unconditional import SAMPLERS
from diffinv.priors import description
from diffinv.priors.state_dicts import ConvertConfig
from diffinv.studies import search
from diffinv.studies.draw import Drawing
from diffinv.studies.evaluation.subject import Evaluation
from diffinv.studies.restoration import Restoration
from diffinv.studies.study import Study
from diffinv.studies.tune import Search
from diffinv.training.config import TrainConfig

# By command: the configuration, and what it needs besides.
CONFIGS = {
  "compare": (Study, {}),
  "reconstruct": (Restoration, {}),
  "sample": (Drawing, {}),
  "tune": (Search, {"data": "photos", "tasks": "denoising", "methods": "dps"}),
  "evaluate": (Evaluation, {}),
  "train": (TrainConfig, {"data": "faces", "steps": 1}),
  "convert": (ConvertConfig, {"input": "x.pt", "image_size": 64}),
  "verify": (Verification, {}),
}
NUMBERS = [
  (command, name)
  for command, (config, _) in CONFIGS.items()
  for name, (field, about) in options.options(config).items()
  if options.kind(field) in (int, float)
]
TEXTS = [
  (command, name)
  for command, (config, _) in CONFIGS.items()
  for name, (_, about) in options.options(config).items()
  if about.form is not None
]
HUGE = (2**63, 10**30, 10**400)
NO_NUMBERS = (1e22, 1e308, math.nan, math.inf, -math.inf)


def option(command, name):
  field, about = options.options(CONFIGS[command][0])[name]
  return options.kind(field), about


def beyond(command, name):
  """Return values that the option does not have."""
  kind, about = option(command, name)
  if kind is int:
    return [about.low - 1, about.high + 1, -1 if about.low >= 0 else about.low - 1, *HUGE, *NO_NUMBERS]
  ends = [math.nextafter(about.low, -math.inf), math.nextafter(about.high, math.inf)]
  return [*ends, *HUGE, *NO_NUMBERS]


def make(command, name, value):
  config, needed = CONFIGS[command]
  return config(**{**needed, name: value})


def refused(command, name, text, tmp_path, capsys):
  """Run a command line with a flag that must be refused, and return what is said."""
  needed = {**CONFIGS[command][1], "output": str(tmp_path / "out.json")}
  flags = [f"--{flag}={value}" for flag, value in needed.items() if flag != name]
  assert main.execute([command, *flags, f"--{name}={text}"]) == errors.EXIT_USAGE
  said = capsys.readouterr().err
  assert said.startswith("diffinv: error: ") and said.count("\n") == 1 and name in said
  assert list(tmp_path.iterdir()) == []
  return said


def test_the_table_has_every_command_with_options():
  with_config = {
    name
    for name, (module, _) in main.COMMANDS.items()
    if any(hasattr(importlib.import_module(module), known) for known in ("CONFIG", "TrainConfig", "config_flags"))
  }
  assert with_config == set(CONFIGS)


@pytest.mark.parametrize("command, name", NUMBERS)
def test_a_number_has_two_finite_bounds_which_hold_its_default(command, name):
  kind, about = option(command, name)
  assert -math.inf < about.low < about.high < math.inf
  field, _ = options.options(CONFIGS[command][0])[name]
  unbounded = (None, dataclasses.MISSING, *about.words)
  assert field.default in unbounded or about.holds(field.default)
  assert kind is float or (type(about.low) is int and type(about.high) is int)


@pytest.mark.parametrize("command", CONFIGS)
def test_the_help_states_the_bounds(command, capsys):
  assert main.execute([command, "--help"]) == 0
  said = dict(re.findall(r"^  --(?:\[no\])?(\w+)\n((?:      .*\n)+)", capsys.readouterr().out, re.M))
  for name, (field, about) in options.options(CONFIGS[command][0]).items():
    if about.bounded:
      word = "From" if options.kind(field) in (int, float) else "Each number from"
      assert f"{word} {about.bounds}. (default" in " ".join(said[name].split()), name


@pytest.mark.parametrize("command, name", NUMBERS)
def test_a_number_beyond_its_bounds_is_refused_from_python(command, name):
  for value in beyond(command, name):
    with pytest.raises(errors.UsageError, match=f"`{name}`: expected ") as refusal:
      make(command, name, value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize("command, name", NUMBERS)
def test_a_number_beyond_its_bounds_is_refused_by_the_command(command, name, tmp_path, capsys):
  for value in beyond(command, name):
    refused(command, name, value, tmp_path, capsys)


@pytest.mark.parametrize("command, name", TEXTS)
@pytest.mark.parametrize(
  "text", ["0", "-1", "1e22", "nan", "inf", "", "9" * 30, "9" * 5000, str(2**63), "65536x65536", "0x8"]
)
def test_a_number_in_a_text_beyond_its_bounds_is_refused(command, name, text, tmp_path, capsys):
  said = refused(command, name, text, tmp_path, capsys)
  assert "expected" in said
  with pytest.raises(errors.UsageError, match="expected"):
    make(command, name, text)


@pytest.mark.parametrize("command, name", TEXTS)
@pytest.mark.parametrize("value", [0, -1, 2**63, 10**400, 1.5, math.nan, True])
def test_a_number_in_place_of_a_text_is_held_to_the_same(command, name, value):
  with pytest.raises(errors.UsageError, match="expected"):
    make(command, name, value)


def test_what_is_trained_can_be_loaded():
  """By construction: the bounds of an option of the network are within those of a description."""
  fields = {f.name for network in description.NETWORKS.values() for f in dataclasses.fields(network.config)}
  for name, (_, about) in options.options(TrainConfig).items():
    if name in fields and about.bounded:
      assert about.high <= description.MAX_BLOCKS.get(name, description.MAX_NUMBER), name
  assert option("train", "schedule_steps")[1].high == description.MAX_SCHEDULE_STEPS
  assert option("train", "size")[1].high == description.MAX_NUMBER


# Hyper-parameters


FIELDS = [
  (method, field.name)
  for method in (*METHODS.values(), *SAMPLERS.values())
  for field in dataclasses.fields(method)
  if type(field.default) in (int, float)
]


@pytest.mark.parametrize("method, name", FIELDS)
def test_a_hyper_parameter_has_a_range_within_float32(method, name):
  wanted = method.ranges[name]
  assert -1e18 < wanted.low < wanted.high < 1e18  # whose squares float32 has
  assert wanted.low == 0 or abs(wanted.low) > 1e-18
  assert getattr(method(**({"shape": (8, 8, 3)} if method not in METHODS.values() else {})), name) in wanted


@pytest.mark.parametrize("method, name", [(m, n) for m, n in FIELDS if m in METHODS.values()])
def test_a_hyper_parameter_beyond_its_range_is_refused(method, name):
  for value in (-1, 10**400, 10**30, 1e22, 1e308, math.nan, math.inf):
    with pytest.raises(ValueError, match=f"{method.name}: expected {name}") as refusal:
      methods.make_method(method.name, {name: value})
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("value", ["1e300", "1e22", "-1", "nan", "inf", str(10**30)])
@pytest.mark.parametrize("command", ["compare", "reconstruct", "tune"])
def test_a_hyper_parameter_beyond_its_range_is_refused_by_the_command(command, value, tmp_path, capsys):
  flags = {
    "compare": ["--tasks=denoising", "--methods=diffpir", f"--set=diffpir.weight={value}"],
    "reconstruct": [f"--input={bundled.ASTRONAUT}", "--method=diffpir", f"--set=weight={value}"],
    "tune": ["--data=photos", "--tasks=denoising", "--methods=diffpir", f"--search=diffpir.weight=1,{value}"],
  }[command]
  flags += ["--prior=natural", "--size=16", "--fit=resize", f"--output={tmp_path / 'out.json'}", "--compilation_cache="]
  assert main.execute([command, *flags]) == errors.EXIT_USAGE
  assert capsys.readouterr().err.splitlines()[-1].startswith("diffinv: error: ")


def test_own_methods_take_what_float32_holds():
  class Own(METHODS["dps"]):
    ranges = {}

  methods.check_fields(Own(scale=-1e30))
  with pytest.raises(ValueError, match="expected scale to be in"):
    methods.check_fields(Own(scale=1e39))


def test_a_search_of_too_many_combinations_is_refused_before_it_is_built():
  values = {name: list(range(1000)) for name in "abcd"}
  with pytest.raises(
    errors.UsageError, match="`search`: expected at most 10,000 combinations of values, got 1,000,000,000,000"
  ):
    search.candidates(lambda fields: None, values)


# Noise


@pytest.mark.parametrize("rate", [1e-7, 1.1e4, 8.4e6, 1e22, math.nan, math.inf, -1.0])
def test_a_rate_out_of_its_bounds_is_refused(rate):
  with pytest.raises(ValueError, match="rate: expected a number from 1e-06 to 10,000, got"):
    problems.simulate(jax.random.key(0), operators.identity((8, 8, 1)), noise.Poisson(rate), jnp.ones((8, 8, 1)))


@pytest.mark.parametrize("sigma", [-0.1, 1e4, 1e300, math.nan, math.inf])
def test_a_sigma_out_of_its_bounds_is_refused(sigma):
  with pytest.raises(ValueError, match="sigma: expected a number from 0 to 1,000, got"):
    problems.simulate(jax.random.key(0), operators.identity((8, 8, 1)), noise.Gaussian(sigma), jnp.ones((8, 8, 1)))


@pytest.mark.parametrize("rate", [1.0, 1e4])
def test_counts_are_right_up_to_the_largest_rate_and_never_wrap_around(rate):
  white = jnp.ones((64, 64, 1))
  y = noise.Poisson(rate).sample(jax.random.key(0), white)
  np.testing.assert_allclose(jnp.mean(y), 1.0, atol=5 * 2 / np.sqrt(noise.PEAK * rate * white.size))
  too_bright = noise.Poisson(rate).sample(jax.random.key(0), 1e10 * white)
  assert bool(jnp.all(jnp.isnan(too_bright)))
