import copy
import dataclasses
import functools
import gc
import hashlib
import json
import os
import pathlib
import re
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
from PIL import Image

from diffinv import errors, files
from diffinv.apps import main
from diffinv.nets import small, unet
from diffinv.priors import Prior, StationaryGaussian, arrays
from diffinv.priors import folder as checkpoint
from diffinv.priors.description import LATER
from diffinv.schedules import Schedule

TINY = unet.make_config(
  model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(), num_head_channels=32
)
SMALL = small.SmallConfig(channels=16, multipliers=(1, 2), blocks=1, middle_blocks=1, embedding=32)
# One level, with classes: quicker to compile.
CLASSES = unet.make_config(
  model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_levels=(), num_head_channels=32, num_classes=5
)
PROVENANCE = {"source": "tiny.pt", "sha256": "0" * 64}


def make_prior(config, **changes):
  fields = {
    "params": reference_networks.random_params(checkpoint.param_shapes(config)),
    "apply": unet.apply_function(config) if isinstance(config, unet.UNetConfig) else small.apply_function(config),
    "schedule": Schedule("cosine", 500),
    "prediction": "v",
    "variance": "learned_range" if config.out_channels == 6 else "fixed_large",
    "clip": False,
    "image_shape": (16, 16, 3),
    "size_multiple": config.size_multiple,
  }
  return Prior(**{**fields, **changes})


@pytest.fixture(scope="module")
def prior():
  return make_prior(TINY)


@pytest.fixture(scope="module")
def saved(prior, tmp_path_factory):
  return checkpoint.save_prior(tmp_path_factory.mktemp("priors") / "tiny", prior, TINY, PROVENANCE)


@pytest.fixture(scope="module")
def saved_classes(tmp_path_factory):
  return checkpoint.save_prior(tmp_path_factory.mktemp("priors") / "classes", make_prior(CLASSES), CLASSES)


@pytest.fixture
def damaged(saved, tmp_path):
  """Copy the saved prior and change its description."""

  def change(edit):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    description = json.loads((folder / "prior.json").read_text())
    edit(description)
    (folder / "prior.json").write_text(json.dumps(description))
    return folder

  return change


def x_t():
  return jnp.asarray(np.random.RandomState(0).standard_normal((16, 16, 3)), jnp.float32)


@reference_networks.compiled
def run(prior, x):
  return prior.apply(prior.params, x, jnp.float32(7))


@pytest.mark.slow
def test_round_trip_keeps_everything(saved, prior):
  loaded = checkpoint.load_prior(saved)
  for field in dataclasses.fields(Prior):
    if field.name != "params":
      assert getattr(loaded, field.name) == getattr(prior, field.name), field.name
  assert jax.tree.structure(loaded.params) == jax.tree.structure(prior.params)
  for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(prior.params)):
    np.testing.assert_array_equal(a, b)
    assert a.dtype == jnp.float32
  output = run(loaded, x_t())
  np.testing.assert_array_equal(output, run(prior, x_t()))
  assert np.any(output)


def test_description_names_the_source(saved):
  description = json.loads((saved / "prior.json").read_text())
  assert description["format"] == checkpoint.FORMAT
  assert description["network"]["name"] == "guided_diffusion"
  assert description["provenance"] == PROVENANCE
  assert "dtype" not in description["network"]
  assert list(description) == [name for name in checkpoint.FIELDS if name not in LATER]
  assert "num_heads_upsample" not in description["network"]


@pytest.fixture(scope="module")
def rescaled(prior, tmp_path_factory):
  folder = tmp_path_factory.mktemp("priors") / "rescaled"
  return checkpoint.save_prior(folder, dataclasses.replace(prior, time_scale=0.25), TINY)


def test_the_factor_of_time_is_kept(rescaled):
  assert json.loads((rescaled / "prior.json").read_text())["time_scale"] == 0.25
  assert checkpoint.load_prior(rescaled).time_scale == 0.25
  assert checkpoint.load_description(rescaled)[0]["time_scale"] == 0.25


def test_a_prior_without_the_fields_that_came_later_is_what_it_was(saved):
  assert checkpoint.load_prior(saved).time_scale == 1.0
  fields, config = checkpoint.load_description(saved)
  assert fields["time_scale"] == 1.0 and fields["network"]["num_heads_upsample"] is None
  assert config.num_heads_upsample is None


def test_a_prior_on_disk_without_later_fields_is_not_written_again(saved, prior, capsys):
  assert checkpoint.save_prior(saved, prior, TINY, PROVENANCE) == saved
  assert "holds this prior already" in capsys.readouterr().err


def test_loading_twice_compiles_once(saved):
  traces = []

  @jax.jit
  def run(prior):
    traces.append(1)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(prior.params))

  run(checkpoint.load_prior(saved))
  run(checkpoint.load_prior(saved))
  assert len(traces) == 1


@pytest.mark.slow
def test_small_network_round_trip(tmp_path):
  prior = make_prior(SMALL, prediction="eps", size_multiple=SMALL.size_multiple)
  loaded = checkpoint.load_prior(checkpoint.save_prior(tmp_path / "small", prior, SMALL))
  assert loaded.apply is prior.apply
  np.testing.assert_array_equal(run(loaded, x_t()), run(prior, x_t()))


def test_options_reach_the_network(saved, prior):
  half = checkpoint.load_prior(saved, dtype="bfloat16", remat=True)
  assert half.apply is unet.apply_function(dataclasses.replace(TINY, dtype="bfloat16", remat=True))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.params))
  with pytest.raises(ValueError, match="dtype: expected one of float32, bfloat16, got 'float16'"):
    checkpoint.load_prior(saved, dtype="float16")


@pytest.mark.slow
def test_class_conditional_prior_takes_a_label(saved_classes):
  priors = [checkpoint.load_prior(saved_classes, label=label) for label in (0, 4)]
  outputs = [run(prior, x_t()) for prior in priors]
  apply = reference_networks.compiled(unet.apply_function(CLASSES))
  expected = apply(priors[0].params["network"], x_t(), jnp.float32(7), jnp.int32(4))
  np.testing.assert_allclose(outputs[1], expected, rtol=1e-5, atol=1e-5)
  assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
  assert jax.tree.structure(priors[0]) == jax.tree.structure(priors[1])  # another class does not recompile
  for label in (None, 5, -1):
    with pytest.raises(ValueError, match=r"label: expected a class in 0\.\.4 for this network"):
      checkpoint.load_prior(saved_classes, label=label)


@pytest.mark.slow
def test_commands_take_the_class_and_the_precision_of_the_network(saved_classes, tmp_path, capsys):
  command = ["sample", f"--prior={saved_classes}", "--steps=2", "--num_samples=1", "--compilation_cache="]

  def pixels(name, *flags):
    assert main.execute([*command, f"--output={tmp_path / name}", *flags]) == 0, capsys.readouterr().err
    return np.asarray(Image.open(tmp_path / name / "0.png")).astype(int)

  first = pixels("first", "--label=0")
  assert np.abs(first - pixels("last", "--label=4")).max() > 2
  rounded = np.abs(first - pixels("rounded", "--label=0", "--dtype=bfloat16")).max()
  assert 0 < rounded < 26
  np.testing.assert_allclose(pixels("remat", "--label=0", "--remat"), first, rtol=0, atol=1)
  settings = json.loads((tmp_path / "rounded" / "results.json").read_text())["settings"]
  assert settings["label"] == 0 and settings["dtype"] == "bfloat16"
  assert main.execute([*command, f"--output={tmp_path / 'none'}"]) == 1
  assert "label: expected a class in 0..4 for this network, got none" in capsys.readouterr().err


@pytest.mark.parametrize("option", [{"label": 3}, {"dtype": "bfloat16"}, {"remat": True}], ids=str)
def test_options_of_a_network_are_errors_for_a_prior_without(option):
  with pytest.raises(ValueError, match=f"{next(iter(option))}: expected none with natural, which has no network"):
    checkpoint.load_prior("natural", **option)


def test_label_of_an_unconditional_prior_is_an_error(saved):
  with pytest.raises(ValueError, match="label: expected none, the network is unconditional, got 3"):
    checkpoint.load_prior(saved, label=3)


def test_natural_needs_no_file():
  assert isinstance(checkpoint.load_prior("natural"), StationaryGaussian)


def test_name_is_looked_up_in_checkpoints(saved, monkeypatch):
  monkeypatch.setattr(checkpoint, "_roots", lambda: [saved.parent])
  assert checkpoint.known_names() == ["natural", "tiny"]
  assert checkpoint.load_prior("tiny").schedule == Schedule("cosine", 500)


def test_a_folder_of_something_else_does_not_hide_a_prior_of_its_name(saved, monkeypatch, tmp_path):
  monkeypatch.setattr(checkpoint, "_roots", lambda: [saved.parent])
  (tmp_path / "tiny").mkdir()
  monkeypatch.chdir(tmp_path)
  assert checkpoint.load_prior("tiny").schedule == Schedule("cosine", 500)


def test_unknown_name_lists_the_known_ones(saved, monkeypatch):
  monkeypatch.setattr(checkpoint, "_roots", lambda: [saved.parent])
  with pytest.raises(FileNotFoundError, match="nowhere: no such prior; .* one of natural, tiny"):
    checkpoint.load_prior("nowhere")


def test_folder_without_a_prior_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="is not a prior, make one with `diffinv convert`"):
    checkpoint.load_prior(tmp_path)


def test_existing_folder_is_kept_unless_overwritten(prior, tmp_path):
  folder = checkpoint.save_prior(tmp_path / "p", prior, TINY)
  other = dataclasses.replace(prior, params=jax.tree.map(lambda v: v + np.float32(1), prior.params))
  with pytest.raises(FileExistsError, match="the folder .* exists; choose another"):
    checkpoint.save_prior(folder, other, TINY)
  checkpoint.save_prior(folder, other, TINY, overwrite=True)
  np.testing.assert_array_equal(checkpoint.load_prior(folder).params["out_0"]["bias"], other.params["out_0"]["bias"])
  assert os.listdir(tmp_path) == ["p"]


def test_overwriting_something_else_is_refused(prior, tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "holiday.png").write_bytes(b"irreplaceable")
  with pytest.raises(FileExistsError, match="expected a prior that diffinv wrote, .* holds no manifest"):
    checkpoint.save_prior(tmp_path / "photos", prior, TINY, overwrite=True)
  assert (tmp_path / "photos" / "holiday.png").exists()


@pytest.mark.parametrize("module, failing", [(arrays, "write"), (files, "write_text")], ids=["arrays", "description"])
@pytest.mark.slow
def test_nothing_half_written_is_left(prior, tmp_path, monkeypatch, module, failing):
  checkpoint.save_prior(tmp_path / "old", prior, TINY)

  def fail(*args):
    if failing == "write":
      args[0].mkdir(parents=True)
    raise KeyboardInterrupt

  monkeypatch.setattr(module, failing, fail)
  for name in ("new", "old"):
    with pytest.raises(KeyboardInterrupt):
      checkpoint.save_prior(tmp_path / name, prior, TINY, overwrite=True)
  assert os.listdir(tmp_path) == ["old"]
  checkpoint.load_prior(tmp_path / "old")


def test_params_of_another_network_are_not_saved(prior, tmp_path):
  other = dataclasses.replace(TINY, channel_mult=(1, 1))
  with pytest.raises(ValueError, match=r"params: array '.*': expected shape \[.*\], found \[.*\]"):
    checkpoint.save_prior(tmp_path / "p", prior, other)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"channel_mult": [1, 1]}, r"array '.*': expected shape \[.*\], found \[.*\]"),
    ({"attention_levels": [1]}, "array '.*': expected shape .*, the checkpoint has none"),
    ({"num_res_blocks": 2}, "array '.*': expected shape"),
    ({"num_classes": 3}, r"array 'label_emb/embedding': expected shape \[3, 128\], the checkpoint has none"),
  ],
)
def test_arrays_of_another_network_are_named(damaged, change, message):
  folder = damaged(lambda d: d["network"].update(change))
  with pytest.raises(ValueError, match=message):
    checkpoint.load_prior(folder)


def test_leftover_array_is_named(saved_classes, tmp_path):
  shutil.copytree(saved_classes, tmp_path / "p")
  description = json.loads((saved_classes / "prior.json").read_text())
  description["network"]["num_classes"] = None
  (tmp_path / "p" / "prior.json").write_text(json.dumps(description))
  with pytest.raises(ValueError, match="array 'label_emb/embedding': the network has no such array"):
    checkpoint.load_prior(tmp_path / "p")


@pytest.mark.parametrize(
  "edit, message",
  [
    (lambda d: d.update(format="other-9"), "format: expected 'diffinv-prior-1', got 'other-9', of another version"),
    (lambda d: d.update(color="red"), "unknown field 'color'; the fields are format, network"),
    (lambda d: d.pop("schedule"), "the field 'schedule' is missing"),
    (lambda d: d.update(clip="yes"), "expected true or false at clip, got text"),
    (lambda d: d.update(size_multiple=True), "expected an integer at size_multiple, got true or false"),
    (lambda d: d.update(size_multiple=3), "size_multiple: expected a multiple of the network's 2, got 3"),
    (lambda d: d.update(image_shape=[17, 16, 3]), "image_shape: expected multiples of 2 pixels"),
    (lambda d: d.update(image_shape=[16, 16, 1]), "image_shape: the network takes 3 channels"),
    (lambda d: d.update(image_shape=[16, 16]), r"image_shape: expected \[height, width, channels\]"),
    (lambda d: d.update(prediction="noise"), "prediction: expected one of eps, v, x0, .*, got 'noise'"),
    (lambda d: d.update(variance="fixed_small"), "variance: 'fixed_small' needs 3 output channels, the network has 6"),
    (lambda d: d.update(image_shape=[10**12, 16, 3]), r"image_shape: expected \[height, width, channels\]"),
    (lambda d: d.update(time_scale=0.0), r"time_scale: expected a number in \(0, 1000\], got 0.0"),
    (lambda d: d.update(time_scale="1"), "expected a number at time_scale, got text"),
    (lambda d: d.update(null_label=5), "null_label: expected none of a network without classes, got 5"),
    (lambda d: d.update(null_label="none"), "null_label, got text"),
    (lambda d: d["schedule"].update(shift=3.0), "schedule: expected a shift of 'flow' alone, got 3.0 of 'cosine'"),
    (lambda d: d.update(time_scale=0.5, prediction="ve"), "time_scale: expected 1 with the prediction 've', got 0.5"),
    (lambda d: d["network"].update(num_heads_upsample=2), "num_heads_upsample: expected none beside num_head_channels"),
    (lambda d: d["schedule"].update(name="square"), "schedule: expected a name of linear, cosine, .*, got 'square'"),
    (lambda d: d["schedule"].update(name=["linear"]), "expected text at schedule.name, got a list"),
    (lambda d: d["schedule"].update(num_steps=500.0), "expected an integer at schedule.num_steps, got a number"),
    (
      lambda d: d["schedule"].update(color="red"),
      "schedule: expected the fields name, num_steps, ends, .*, got 'color'",
    ),
    (
      lambda d: d["schedule"].update(name="linear", ends=[0.1, 1.5]),
      r"schedule: expected betas in \(0, 1\), .* got \(0.1, 1.5\)",
    ),
    (lambda d: d["schedule"].update(betas=[0.1, 0.2]), "schedule: expected 500 betas of 'given' alone, got 2"),
    (lambda d: d["schedule"].update(name="sigmoid"), "schedule: expected two ends of linear, .* got 0 of 'sigmoid'"),
    (lambda d: d.update(provenance=[1]), "expected a table at provenance, got a list"),
    (lambda d: d.update(digests=None), "expected a table at digests, got null"),
    (lambda d: d["digests"].update({"params/in": "abc"}), r"expected text of length >= 64 at digests\[...\]"),
    (lambda d: d["schedule"].update(num_steps=10**12), "schedule: expected num_steps in 1..100000, got 1000000000000"),
    (lambda d: d["schedule"].update(num_steps=0), "schedule: expected num_steps in 1..100000, got 0"),
    (
      lambda d: d.update(schedule={"name": "linear", "num_steps": 10}),
      "schedule: expected more than 20 steps of linear betas",
    ),
    (
      lambda d: d["network"].update(name="transformer"),
      "network: expected the name of one of guided_diffusion, diffusers, edm, drunet, small",
    ),
    (lambda d: d["network"].update(depth=3), "network: unknown field 'depth'; the fields are model_channels"),
    (lambda d: d["network"].pop("num_res_blocks"), "network: the field 'num_res_blocks' is missing"),
    (lambda d: d["network"].update(model_channels=33), "network: no such network can be built"),
    (lambda d: d["network"].update(model_channels="many"), "network: model_channels: expected int, got 'many'"),
    (lambda d: d["network"].update(model_channels=32.0), "network: model_channels: expected int, got 32.0"),
    (lambda d: d["network"].update(model_channels=True), "network: model_channels: expected int, got True"),
    (lambda d: d["network"].update(model_channels=10**9), "model_channels: expected at most 65536, got 1000000000"),
    (lambda d: d["network"].update(num_res_blocks=1000), "num_res_blocks: expected at most 64, got 1000"),
    (lambda d: d["network"].update(channel_mult=3), r"channel_mult: expected tuple\[float, ...\], got 3"),
    (
      lambda d: d["network"].update(channel_mult=[1, float("nan")]),
      "expected JSON, got NaN at byte .*which JSON lacks",
    ),
    (lambda d: d["network"].update(channel_mult=[1] * 17), "channel_mult: expected at most 16 levels, got 17"),
    (lambda d: d["network"].update(num_classes=2.5), r"num_classes: expected int \| None, got 2.5"),
    (lambda d: d["network"].update(scale_shift_norm=1), "scale_shift_norm: expected bool, got 1"),
    (lambda d: d["network"].update(attention_order=None), "attention_order: expected str, got None"),
  ],
)
def test_damaged_description_is_one_line(damaged, edit, message):
  folder = damaged(edit)
  with pytest.raises(ValueError, match=message) as caught:
    checkpoint.load_prior(folder)
  assert "\n" not in str(caught.value) and str(folder / "prior.json") in str(caught.value)


@pytest.fixture(scope="module")
def saved_small(tmp_path_factory):
  return checkpoint.save_prior(tmp_path_factory.mktemp("priors") / "small", make_prior(SMALL), SMALL)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"channels": 16.0}, "channels: expected int, got 16.0"),
    ({"multipliers": [1, 2.0]}, r"multipliers: expected tuple\[int, ...\], got \(1, 2.0\)"),
    ({"multipliers": []}, "no such network can be built"),
    ({"blocks": 1000}, "blocks: expected at most 64, got 1000"),
    ({"attention": 1}, "attention: expected bool, got 1"),
    ({"time_scale": float("nan")}, "expected JSON, got NaN"),
    ({"time_scale": float("inf")}, "expected JSON, got Inf"),
    ({"time_scale": 10**400}, "expected JSON, got a number too large to hold"),
    ({"time_scale": "1"}, "time_scale: expected float, got '1'"),
  ],
)
def test_damaged_description_of_a_small_network_is_one_line(saved_small, tmp_path, change, message):
  description = json.loads((saved_small / "prior.json").read_text())
  description["network"].update(change)
  (tmp_path / "prior.json").write_text(json.dumps(description))
  with pytest.raises(ValueError, match=message) as caught:
    checkpoint.load_description(tmp_path)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_description_is_read_without_the_arrays(saved_small, tmp_path):
  (tmp_path / "prior.json").write_text((saved_small / "prior.json").read_text())
  description, config = checkpoint.load_description(tmp_path)
  assert config == SMALL and description["prediction"] == "v"
  with pytest.raises(ValueError, match="natural: expected a prior with a network, got an analytic one"):
    checkpoint.load_description("natural")


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda v: v.at[0].set(jnp.nan), "array 'in/kernel': expected finite values, found NaN or infinity"),
    (lambda v: v.at[0].set(-jnp.inf), "array 'in/kernel': expected finite values, found NaN or infinity"),
    (lambda v: v.astype(jnp.int32), "array 'in/kernel': expected floats, found int32"),
    (lambda v: v.astype(jnp.complex64), "array 'in/kernel': expected floats, found complex64"),
  ],
  ids=["nan", "infinity", "whole", "complex"],
)
def test_arrays_of_other_than_finite_floats_are_named(saved_small, tmp_path, change, message):
  import orbax.checkpoint as ocp

  params = reference_networks.random_params(checkpoint.param_shapes(SMALL))
  params["params"]["in"]["kernel"] = change(jnp.asarray(params["params"]["in"]["kernel"]))
  description = json.loads((saved_small / "prior.json").read_text())
  del description["digests"]
  (tmp_path / "prior.json").write_text(json.dumps(description))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "params", params)
  with pytest.raises(ValueError, match=message.replace("in/kernel", "params/in/kernel")) as caught:
    checkpoint.load_prior(tmp_path)
  assert "\n" not in str(caught.value)


def test_provenance_of_names_that_are_no_text_is_json(tmp_path):
  provenance = {"held_out_files": ["a\udcff.png"], "loss": float("nan")}
  folder = checkpoint.save_prior(tmp_path / "p", make_prior(SMALL), SMALL, provenance)
  text = (folder / "prior.json").read_text(encoding="utf-8")
  written = json.loads(text, parse_constant=lambda name: pytest.fail(name))["provenance"]
  assert written == {"held_out_files": ["a\N{REPLACEMENT CHARACTER}.png"], "loss": None}


def test_a_full_disk_is_reported_as_one(tmp_path, monkeypatch):
  """As Orbax 0.11 reports it, of a disk that was full."""
  import orbax.checkpoint as ocp

  def fail(self, *args, **kwargs):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing 'a'\nFailed: No space left on device [os_error_code='28']")

  monkeypatch.setattr(ocp.Checkpointer, "save", fail)
  with pytest.raises(OSError) as caught:
    checkpoint.save_prior(tmp_path / "p", make_prior(SMALL), SMALL)
  assert re.fullmatch(
    r"No space left on device: .*params; free some space, or write to another disk with --output",
    errors.one_line(caught.value),
  )
  assert not list(tmp_path.iterdir())
  with pytest.raises(ValueError, match="another fault"), arrays.full_disk(tmp_path):
    raise ValueError("another fault")


@pytest.mark.parametrize("content", [b"", b'{"format": "diffinv', b"[1, 2]", b"\xff\xfe", b"[" * 100000])
def test_truncated_description_is_one_line(damaged, content):
  folder = damaged(lambda d: None)
  (folder / "prior.json").write_bytes(content)
  with pytest.raises(ValueError, match="expected (a table, got a list|JSON)") as caught:
    checkpoint.load_prior(folder)
  assert "\n" not in str(caught.value)


WRONG = (None, True, -1, 0.5, 10**30, 1e300, "", "x" * 1000, "\x1b[31m", [], [[]], [None], {}, {"a": None})


def entries(value, path=()):
  """Give the path of every entry within tables and lists."""
  for key in value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0):
    yield (*path, key)
    yield from entries(value[key], (*path, key))


def test_a_wrong_entry_anywhere_is_one_line_or_fits(saved_small, tmp_path):
  """As for `null`, whatever stands in the place of any entry: no other error than one that a person can act on."""
  description = json.loads((saved_small / "prior.json").read_text())
  description["digests"] = dict(list(description["digests"].items())[:1])
  for path in entries(description):
    for wrong in WRONG:
      changed = copy.deepcopy(description)
      functools.reduce(lambda part, key: part[key], path[:-1], changed)[path[-1]] = wrong
      (tmp_path / "prior.json").write_text(json.dumps(changed))
      for load in (checkpoint.load_description, checkpoint.load_provenance):
        try:
          load(tmp_path)
        except ValueError as error:
          assert str(error).isprintable() and len(str(error)) < 600, (path, wrong)


# Weights that are not those that were written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  config = small.SmallConfig(channels=16, multipliers=(1,), blocks=1, middle_blocks=1, embedding=16)
  return checkpoint.save_prior(tmp_path_factory.mktemp("priors") / "whole", make_prior(config), config)


@pytest.fixture
def stored(whole, tmp_path):
  """Copy a prior; return its folder and its stored chunks by name, to be read and written as bytes."""
  import tensorstore

  folder = tmp_path / "stored"
  shutil.copytree(whole, folder)
  base = f"file://{folder / 'params'}/"
  return folder, tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def chunks(store):
  """Return the names of the chunks of all arrays, of which each has one here."""
  names = [name for name in store.list().result() if not name.endswith(b"/.zarray")]
  assert len(names) == 12
  return names


def refused(folder, message=None):
  """Check that a prior is refused in one line; return whether by its digests."""
  with pytest.raises(ValueError, match=message) as caught:
    checkpoint.load_prior(folder)
  assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
  return "expected the numbers of its digest, got others" in str(caught.value)


def flip(data, bit):
  return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


DAMAGE = {
  "first bit": lambda data, other: flip(data, 0),
  "bit amid": lambda data, other: flip(data, 4 * len(data)),
  "last bit": lambda data, other: flip(data, 8 * len(data) - 1),
  "zeroed": lambda data, other: bytes(len(data)),
  "cut": lambda data, other: data[: len(data) // 2],
  "empty": lambda data, other: b"",
  "lost": lambda data, other: None,
  "exchanged": lambda data, other: other,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_chunk_of_any_array_is_refused(stored, damage):
  folder, store = stored
  data = {name: store[name] for name in chunks(store)}
  for name, old in data.items():
    others = [other for other in data.values() if other != old]
    store.write(name, damage(old, min(others, key=lambda other: abs(len(other) - len(old))))).result()
    refused(folder)
    store.write(name, old).result()
  checkpoint.load_prior(folder)


def test_many_damaged_arrays_are_one_line_of_the_command(stored, tmp_path, capfd):
  """Read by Orbax, they could be pages of tracebacks."""
  folder, store = stored
  for name in chunks(store):
    store.write(name, b"").result()
  for _ in range(3):
    assert main.execute(["sample", f"--prior={folder}", "--num_samples=1", f"--output={tmp_path / 'out'}"]) == 1
    gc.collect()
    assert re.fullmatch(r"diffinv: error: .*array 'params/.*': it cannot be read: .*\n", capfd.readouterr().err)


@pytest.mark.parametrize(
  "options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}, {"use_ocdbt": False, "use_zarr3": True}]
)
def test_every_layout_that_orbax_writes_is_read(whole, tmp_path, options):
  import orbax.checkpoint as ocp

  shutil.copy(whole / "prior.json", tmp_path)
  params = checkpoint.load_prior(whole).params
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
    checkpointer.save(tmp_path / "params", params)
  assert arrays.digests(checkpoint.load_prior(tmp_path).params) == arrays.digests(params)


def test_the_least_bit_of_one_number_of_any_array_is_seen(stored):
  import tensorstore

  folder, store = stored
  for name in chunks(store):
    kvstore = {
      "driver": "ocdbt",
      "base": f"file://{folder / 'params'}/",
      "path": name.decode().rpartition("/")[0] + "/",
    }
    array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
    old = array.read().result()
    changed = old.copy()
    changed.reshape(-1).view(np.uint32)[-1] ^= 1
    array.write(changed).result()
    assert refused(folder, re.escape(name.decode().rpartition("/")[0].replace(".", "/")))
    array.write(old).result()
  checkpoint.load_prior(folder)


def test_arrays_of_one_shape_are_not_exchanged(whole, tmp_path):
  description = json.loads((whole / "prior.json").read_text())
  kernels = [f"params/middle_0/conv{i}/kernel" for i in (1, 2)]
  a, b = (description["digests"][name] for name in kernels)
  description["digests"].update(zip(kernels, (b, a)))
  shutil.copytree(whole, tmp_path / "p")
  (tmp_path / "p" / "prior.json").write_text(json.dumps(description))
  assert refused(tmp_path / "p", kernels[0])


def test_a_flipped_bit_in_any_file_is_refused_or_harmless(whole, tmp_path):
  params = checkpoint.load_prior(whole).params
  shutil.copytree(whole / "params", tmp_path / "params")
  shutil.copy(whole / "prior.json", tmp_path)
  for path in [path for path in (tmp_path / "params").rglob("*") if path.is_file()]:
    old = path.read_bytes()
    for bit in np.random.default_rng(0).integers(8 * len(old), size=6 * bool(old)):
      path.write_bytes(flip(old, int(bit)))
      try:
        found = checkpoint.load_prior(tmp_path).params
      except ValueError as error:
        assert "\n" not in str(error)
      else:
        assert arrays.digests(found) == arrays.digests(params), path
    path.write_bytes(old)


@pytest.mark.parametrize(
  "edit, message",
  [
    (lambda digests: digests.pop("params/in/kernel"), "array 'params/in/kernel': expected a digest of it"),
    (lambda digests: digests.clear(), "array '.*': expected a digest of it"),
    (
      lambda digests: digests.update({"params/no": "0" * 64}),
      "expected an array 'params/no', of which there is a digest",
    ),
    (lambda digests: digests.update({"params/in/kernel": "0" * 64}), "array 'params/in/kernel': expected the numbers"),
  ],
  ids=["missing", "all missing", "left over", "wrong"],
)
def test_digests_are_those_of_the_arrays(whole, tmp_path, edit, message):
  shutil.copytree(whole, tmp_path / "p")
  description = json.loads((whole / "prior.json").read_text())
  edit(description["digests"])
  (tmp_path / "p" / "prior.json").write_text(json.dumps(description))
  refused(tmp_path / "p", f"{re.escape(str(tmp_path / 'p' / 'params'))}: {message}.*: convert them again, or take")


def test_a_prior_from_before_digests_loads_with_a_note_and_gets_them(whole, tmp_path, capfd):
  shutil.copytree(whole, tmp_path / "p")
  written = (whole / "prior.json").read_text()
  description = json.loads(written)
  del description["digests"]
  (tmp_path / "p" / "prior.json").write_text(json.dumps(description, indent=2) + "\n")
  checkpoint.load_prior(tmp_path / "p")
  assert re.fullmatch(
    r"note: .*/p: its weights are used unchecked, as its prior.json has no digests of them; add them with "
    r"tools/add_digests.py\n",
    capfd.readouterr().err,
  )
  checkpoint.add_digests(tmp_path / "p")
  assert (tmp_path / "p" / "prior.json").read_text() == written
  checkpoint.load_prior(tmp_path / "p")
  assert capfd.readouterr().err == ""
  with pytest.raises(ValueError, match="expected a prior without digests"):
    checkpoint.add_digests(tmp_path / "p")


def test_a_digest_is_of_shape_and_numbers():
  ramp = np.arange(6, dtype=np.float32)
  expected = hashlib.sha256(b"[2, 3]\n" + struct.pack("<6f", *range(6))).hexdigest()
  assert arrays.digest(ramp.reshape(2, 3)) == arrays.digest(jnp.asarray(ramp).reshape(2, 3)) == expected
  assert (
    arrays.digest(np.asfortranarray(ramp.reshape(2, 3))) == arrays.digest(ramp.reshape(2, 3).astype(">f4")) == expected
  )
  assert len({arrays.digest(ramp.reshape(shape)) for shape in ((6,), (3, 2), (2, 3), (1, 6))}) == 4
  assert arrays.digest(np.float32(1)) != arrays.digest(np.ones(1, np.float32))


@pytest.mark.parametrize("name", ["photo", "faces"])
def test_shipped_priors_have_digests_of_all_their_arrays(name):
  root = pathlib.Path(__file__).resolve().parent.parent / "checkpoints" / name
  description, config = checkpoint.load_description(str(root))
  assert set(description["digests"]) == set(arrays.flat(checkpoint.param_shapes(config)))
  checkpoint.load_prior(root)


@pytest.mark.parametrize("place", ["params/extra", "params/_METADATA", "prior.json"])
def test_a_fifo_in_a_prior_keeps_nobody_waiting(whole, tmp_path, place):
  shutil.copytree(whole, tmp_path / "p")
  (tmp_path / "p" / place).unlink(missing_ok=True)
  os.mkfifo(tmp_path / "p" / place)
  refused(tmp_path / "p", f"{place}: expected a file, got a FIFO")


def test_lost_arrays_are_an_error(damaged):
  folder = damaged(lambda d: None)
  for path in (folder / "params").glob("**/d/*"):
    path.write_bytes(b"")
  with pytest.raises(ValueError, match="convert the weights again") as caught:
    checkpoint.load_prior(folder)
  assert "\n" not in str(caught.value)
  shutil.rmtree(folder / "params")
  with pytest.raises(FileNotFoundError, match="the checkpoint is incomplete"):
    checkpoint.load_prior(folder)
