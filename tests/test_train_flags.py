"""What `diffinv train` refuses before it begins: one line that names the flag, and nothing written or lost.

And what a `TrainConfig` is made of: defaults, and the plan that binds a run to it.
"""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest
from PIL import Image

from diffinv import errors, options
from diffinv.apps import main
from diffinv.apps import train as train_app
from diffinv.priors import folder as checkpoint
from diffinv.training import devices, network, run_folder
from diffinv.training import plan as plans
from diffinv.training.config import LATER, TrainConfig

TINY = ["--data=faces", "--size=16", "--channels=8", "--multipliers=1,2", "--embedding=16", "--batch_size=8"]
TINY += ["--steps=4"]


def configured(*flags):
  """Parse a command line as `diffinv train` does, and fill in the defaults."""
  main.parse("train", train_app.FLAGS, [*TINY, *flags])
  return train_app.config_from_flags().resolved()


def planned(config, prior, report=print):
  """The plan of a run that writes `prior`."""
  return run_folder.make_plan(config, run_folder.beside(prior), devices.choose(config), report=report)


def write(plan, prior):
  """Begin the run that writes `prior` with a plan."""
  with run_folder.beside(prior).held() as folder:
    run_folder.RunFolder(folder, plan)
  return folder.place


def fails(capsys, output, *flags):
  """Run a command line that must fail, and return its one line."""
  assert main.execute(["train", *TINY, f"--output={output}", *flags]) in (1, 2)
  said = capsys.readouterr().err
  assert said.startswith("diffinv: error: ") and said.count("\n") == 1, said
  return said


def files_of(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WRONG = {
  "multipliers": ("", "0", "-1", "1,x", "1.5", ",".join("1" * 17)),
  "head_channels": ("7 --attention", "64 --attention", "0"),
  "channels": ("0", "24 --attention"),
  "size": ("0", "-8", "20 --multipliers=1,1,1"),
  "seed": ("-1", str(2**32)),
  "steps": ("0", str(2**40)),
  "schedule_steps": ("1", "1000000000000"),
  "max_downscale": ("0.5", "nan", "inf"),
  "learning_rate": ("-1", "nan", "inf"),
  "p_mean": ("nan", "inf"),
  "p_std": ("-0.1", "nan"),
  "min_snr_gamma": ("0", "nan"),
  "clip_norm": ("0", "-1", "nan", "inf"),
  "final_fraction": ("-0.1", "1.1", "nan"),
  "beta1": ("-0.1", "1", "nan"),
  "beta2": ("-0.1", "1", "nan"),
  "momentum": ("-0.1", "1", "nan"),
  "ema_decay": ("-0.1", "1", "nan"),
  "wide": ("-0.1", "1.1", "nan"),
  "augment": ("-1", "100", "nan"),
  "candidates": ("0", "-1", "65"),
  "weight_decay": ("-1", "nan", "inf"),
  "vlb_weight": ("-1", "nan", "inf"),
  "save_seconds": ("-1", "nan", "inf"),
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_out_of_range_is_one_line_that_names_the_flag(name, value, tmp_path, capsys):
  assert name in fails(capsys, tmp_path / "p", *f"--{name}={value}".split(" "))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("minutes", ("0", "-1", "nan", "inf"))
def test_minutes_have_to_be_a_time(minutes, tmp_path, capsys):
  code = main.execute(["train", "--data=faces", f"--output={tmp_path / 'p'}", f"--minutes={minutes}"])
  said = capsys.readouterr().err
  assert code == 2 and "minutes: expected" in said and said.count("\n") == 1


SMALL = {"data": "faces", "steps": 1, "size": 16, "channels": 8, "multipliers": (1, 2)}
UNET = {"network": "guided_diffusion", "head_channels": 8}

# Runs that are there


@pytest.fixture
def begun(tmp_path):
  """The folder of a run that was begun, with more in it than the plan."""
  prior = tmp_path / "p"
  with run_folder.beside(prior).held() as folder:
    run_folder.RunFolder(folder, planned(configured(), prior)).save_grid(1, np.zeros((16, 8, 8, 3), np.float32))
  return folder.place


def picture(path, color=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((20, 20, 3), color, np.uint8)).save(path)


def test_restart_keeps_the_run_until_its_images_and_weights_are_known_to_be_there(begun, tmp_path, capsys):
  before = files_of(begun)
  picture(tmp_path / "cut" / "a.png")
  (tmp_path / "cut" / "a.png").write_bytes(b"no picture")
  assert "expected a folder of images" in fails(capsys, tmp_path / "p", "--restart", "--data=nowhere")
  assert main.execute(["train", *TINY, f"--output={tmp_path / 'p'}", "--restart", f"--data={tmp_path / 'cut'}"]) == 1
  assert "expected images that can be read" in capsys.readouterr().err
  assert "nowhere: no such prior" in fails(capsys, tmp_path / "p", "--restart", "--init=nowhere")
  assert "seed" in fails(capsys, tmp_path / "p", "--restart", "--seed=-1")
  assert files_of(begun) == before


def test_a_folder_of_something_else_is_not_written_to(tmp_path, capsys):
  """That of a run of a version that kept no list of its files is one, too."""
  picture(tmp_path / "p.training" / "holiday.png")
  (tmp_path / "p.training" / "run.json").write_text("{}")
  before = files_of(tmp_path)
  for flags in ((), ("--restart",)):
    assert "expected a training run that diffinv wrote" in fails(capsys, tmp_path / "p", *flags)
  assert files_of(tmp_path) == before


def test_restart_spares_what_a_run_did_not_write(begun, tmp_path, capsys):
  for place in (begun / "holiday.png", begun / "samples" / "holiday.png"):
    picture(place)
    before = files_of(tmp_path)
    said = fails(capsys, tmp_path / "p", "--restart")
    assert "only what diffinv wrote, found " in said and "holiday.png" in said
    assert files_of(tmp_path) == before
    place.unlink()


@pytest.mark.parametrize("flag", ("--data={}", "--data={}/samples", "--data={}/..", "--init={}"))
def test_what_is_read_and_what_is_written_lie_apart(begun, tmp_path, capsys, flag):
  before = files_of(tmp_path)
  (begun / "prior.json").write_text("{}")
  before = files_of(tmp_path)
  for flags in ((), ("--restart",), ("--overwrite",)):
    said = fails(capsys, tmp_path / "p", flag.format(begun), *flags)
    assert f"expected a place apart from {flag[: flag.index('=')]}" in said
  assert files_of(tmp_path) == before


@pytest.mark.parametrize("data", ("p", "p/pictures"))
def test_images_do_not_lie_in_what_is_replaced(tmp_path, capsys, data):
  picture(tmp_path / data / "a.png")
  (tmp_path / "p" / "prior.json").write_text("{}")
  before = files_of(tmp_path)
  said = fails(capsys, tmp_path / "p", f"--data={tmp_path / data}", "--overwrite")
  assert "expected a place apart from --data" in said and files_of(tmp_path) == before


@pytest.mark.parametrize("place", (".", "..", "~"))
def test_a_run_never_takes_the_place_of_where_the_person_is(tmp_path, capsys, monkeypatch, place):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "here").mkdir()
  (tmp_path / "home").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  for flags in ((), ("--restart", "--overwrite")):
    assert "--output: expected a folder of its own" in fails(capsys, place, *flags)


# Weights to start from


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  """A prior of the network that TINY describes."""
  folder, config = tmp_path_factory.mktemp("priors") / "first", configured()
  shape = network.shape(config)
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), checkpoint.param_shapes(shape))
  return checkpoint.save_prior(folder, network.make_prior(params, config), shape)


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--prediction=v", "prediction is 'v', .* has 'edm'"),
    ("--prediction=eps", "prediction is 'eps', .* has 'edm'"),
    ("--learned_variance --levels=uniform", "learned_variance is True, .* has False"),
    ("--channels=16", "channels is 16, .* has 8"),
    ("--multipliers=1,2,2", r"multipliers is \(1, 2, 2\), .* has \(1, 2\)"),
    ("--middle_blocks=3", "middle_blocks is 3, .* has 2"),
    ("--attention --head_channels=8", "attention is True, .* has False"),
    ("--network=guided_diffusion --channels=32", "network is 'guided_diffusion', .* has 'small'"),
  ],
)
def test_weights_of_something_else_are_refused_by_the_field_that_differs(first, monkeypatch, flag, message):
  if "guided_diffusion" in flag:
    monkeypatch.setattr(f"{__name__}.TINY", [text for text in TINY if "embedding" not in text])
  config = configured(f"--init={first}", *flag.split())
  with pytest.raises(errors.UsageError, match=f"`init`: expected a prior whose {message}; choose"):
    network.check_init(config)


def test_weights_of_the_flags_network_are_taken(first):
  # What is not of the weights, or has no part in the network, may differ.
  network.check_init(configured(f"--init={first}", "--dtype=bfloat16", "--head_channels=8", "--schedule=cosine"))


def test_a_prior_to_start_from_gives_its_network_and_how_pictures_are_scaled(tmp_path):
  made = TrainConfig(
    data="faces", steps=1, size=32, channels=8, multipliers=(1, 2), blocks=2, middle_blocks=1, patch=4, embedding=16
  )
  made = dataclasses.replace(made, crop="resize", max_downscale=3.0, prediction="v", schedule="cosine").resolved()
  prior = network.make_prior(network.first_weights(made, jax.random.key(0)), made)
  checkpoint.save_prior(tmp_path / "first", prior, network.shape(made), {"settings": made.settings()})
  main.parse("train", train_app.FLAGS, ["--data=photos", "--steps=9", f"--init={tmp_path}/first", "--crop=random"])
  found = train_app.config_from_flags().resolved()
  network.check_init(found)
  wanted = dataclasses.replace(made, data="photos", steps=9, init=str(tmp_path / "first"), crop="random", flip=True)
  assert found == dataclasses.replace(wanted, p_mean=found.p_mean)
  assert TrainConfig.begun_from(tmp_path / "first", data="x", steps=1).crop == "resize"


def test_a_damaged_prior_to_start_from_is_one_line(tmp_path, capsys):
  (tmp_path / "first").mkdir()
  (tmp_path / "first" / "prior.json").write_text("{")
  assert "--init: " in fails(capsys, tmp_path / "p", f"--init={tmp_path}/first")


def test_an_analytic_prior_has_no_weights(tmp_path, capsys):
  said = fails(capsys, tmp_path / "p", "--init=natural")
  assert "init: natural: expected a prior with a network, got an analytic one" in said


@pytest.mark.parametrize(
  "size, flags, multipliers, patch, p_mean",
  [
    (16, (), (1, 2, 3), 2, -0.6),
    (64, (), (1, 2, 3), 2, -0.6),
    (128, (), (1, 2, 3, 3), 2, 0.093),
    (200, (), (1, 2, 3), 2, -0.6),  # no multiple of 16
    (256, (), (1, 2, 3, 3), 4, 0.786),
    (256, ("--patch=2", "--p_mean=0"), (1, 2, 3, 3), 2, 0.0),
    (64, ("--config=faces",), (1, 2, 3), 2, 0.3),
    (128, ("--config=faces",), (1, 2, 3, 3), 2, 0.993),
    (768, (), (1, 1, 2, 3, 3), 4, 1.885),
    (64, ("--network=guided_diffusion",), (1, 2, 3, 4), None, -0.6),
    (256, ("--network=guided_diffusion",), (1, 1, 2, 2, 4, 4), None, 0.786),
    (64, ("--network=guided_diffusion", "--config=faces"), (1, 2, 3, 4), None, 0.3),
  ],
)
def test_defaults_follow_the_size_of_the_images(size, flags, multipliers, patch, p_mean):
  main.parse("train", train_app.FLAGS, ["--data=x", "--steps=1", f"--size={size}", *flags])
  config = train_app.config_from_flags().resolved()
  assert (config.multipliers, config.patch, config.p_mean) == (multipliers, patch, p_mean)


def test_what_is_given_goes_before_the_set_of_defaults_and_that_before_the_usual_ones():
  faces = TrainConfig(config="faces", steps=1).resolved()
  assert (faces.data, faces.middle_blocks, faces.attention, faces.flip, faces.p_mean) == ("faces", 3, True, False, 0.3)
  mixed = TrainConfig(config="faces", steps=1, data="photos", attention=False, flip=True).resolved()
  assert (mixed.data, mixed.middle_blocks, mixed.attention, mixed.flip, mixed.p_mean) == ("photos", 3, False, True, 0.3)
  photo = TrainConfig(config="photo", steps=1).resolved()
  assert (photo.data, photo.middle_blocks, photo.attention, photo.p_mean) == ("photographs", 2, False, -0.3)
  assert (photo.candidates, faces.candidates) == (3, 1)
  assert (
    faces.resolved() == faces and dataclasses.replace(TrainConfig(data="x", steps=1), size=256).resolved().patch == 4
  )


@pytest.mark.parametrize("flag", ("patch=1", "middle_blocks=2", "embedding=64"))
def test_an_option_that_a_network_does_not_have_is_refused(flag, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(f"{__name__}.TINY", [text for text in TINY if "embedding" not in text])
  said = fails(capsys, tmp_path / "p", "--network=guided_diffusion", "--channels=32", f"--{flag}")
  name, _, value = flag.partition("=")
  assert f"--{name}: expected none for --network=guided_diffusion, which has no such option, got {value}" in said


def test_a_network_that_cannot_be_built_is_one_line_that_names_the_flag(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(f"{__name__}.TINY", [text for text in TINY if "embedding" not in text])
  said = fails(capsys, tmp_path / "p", "--network=guided_diffusion", "--channels=24", "--head_channels=8")
  assert "--channels: expected multiples of 32 at each level of --network=guided_diffusion, got 24" in said
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "given",
  [
    {},
    {"blocks": 64, "middle_blocks": 64, "multipliers": (1,)},
    {"multipliers": (1,) * 16, "size": 32768, "patch": 1},
    {"schedule_steps": 100_000},
    {"attention": True, "head_channels": 8, "learned_variance": True, "levels": "uniform", "prediction": "v"},
    {**UNET, "channels": 32, "multipliers": (1, 2)},
    {**UNET, "channels": 32, "multipliers": (1,), "learned_variance": True, "levels": "uniform", "attention": True},
  ],
  ids=str,
)
def test_what_a_run_may_be_asked_for_can_be_loaded_at_its_end(given):
  network.check(TrainConfig(**{**SMALL, **given}).resolved())


@pytest.mark.parametrize(
  "given, message",
  [
    ({"middle_blocks": 65}, "`middle_blocks`: expected at most 64, got 65"),
    ({"blocks": 65}, "`blocks`: expected at most 64, got 65"),
    ({**UNET, "channels": 32, "blocks": 65}, "`blocks`: expected at most 64, got 65"),
    ({"channels": 10**6}, "`channels`: expected at most 65536, got 1000000"),
    ({"multipliers": (1, 10**6)}, "`multipliers`: expected at most 65536, got 1000000"),
    ({"schedule_steps": 10**6}, "`schedule_steps`: expected num_steps in 1..100000, got 1000000"),
    ({"size": 10**6, "attention": True, "head_channels": 8}, "`size`: expected .*, got .*"),
  ],
  ids=str,
)
def test_what_could_not_be_loaded_is_refused_before_the_first_step(given, message, monkeypatch):
  """Also where the bounds of an option would let it through."""
  monkeypatch.setattr(options, "check", lambda _: None)
  config = TrainConfig(**{**SMALL, **{name: v for name, v in given.items() if name in UNET}}).resolved()
  for name, value in given.items():
    object.__setattr__(config, name, value)
  with pytest.raises(errors.UsageError, match=f"{message}; choose another value, so that the prior can be loaded"):
    network.check(config)


@pytest.mark.parametrize(
  "given, message",
  [
    ({"data": None}, "`data`: expected a value, got none"),
    ({"steps": None}, "`steps`: expected one of `steps` and `minutes`"),
    ({"minutes": 3.0}, "`steps`: expected one of `steps` and `minutes`"),
    ({"decay": "no"}, "`decay`: expected one of cosine, linear, constant, got 'no'"),
    ({"size": 20}, "`size`: expected a multiple of 8 for this network, got 20"),
    ({"multipliers": (1, 0)}, "`multipliers`: expected 1 to 16 whole numbers from 1 to 65,536, got 1,0"),
    ({"multipliers": 3}, "`multipliers`: expected 1 to 16 whole numbers from 1 to 65,536, got 3"),
    ({"batch_size": 1.5}, "`batch_size`: expected a whole number, got 1.5"),
  ],
)
def test_from_python_the_same_is_refused(given, message):
  with pytest.raises(errors.UsageError, match=message):
    TrainConfig(**{"data": "faces", "steps": 1, **given})


def test_every_option_is_a_flag_with_a_description():
  for name, (_, about) in options.options(TrainConfig).items():
    assert about.help.endswith(".") and "`" not in train_app.FLAGS[name].help
  assert {f.name for f in dataclasses.fields(TrainConfig)} == options.options(TrainConfig).keys()


@pytest.mark.parametrize("name", ("photo", "faces"))
def test_the_run_of_a_shipped_prior_can_be_read(name):
  """As older versions wrote it."""
  config = TrainConfig.of_prior(checkpoint.load_provenance(name))
  shape = network.shape(config.resolved())
  assert dataclasses.replace(checkpoint.load_description(name)[1], dtype=shape.dtype) == shape
  with pytest.raises(ValueError, match="expected that of a prior that"):
    TrainConfig.of_prior({})


# Plans


@pytest.fixture
def plan(tmp_path):
  """Return the plan of a run into `p` whose length flags say."""

  def make(*flags):
    main.parse("train", train_app.FLAGS, [*TINY[:-1], *flags])
    return planned(train_app.config_from_flags().resolved(), tmp_path / "p")

  return make


def test_a_run_of_minutes_is_bound_to_its_settings_from_the_start(tmp_path, plan):
  new = plan("--minutes=1")
  assert new.total_steps is None and new.validate_every is None
  write(new, tmp_path / "p")
  assert json.loads((tmp_path / "p.training" / "run.json").read_text()) == dataclasses.asdict(new)
  assert plan("--minutes=1") == new
  with pytest.raises(errors.UsageError, match="`learning_rate`: expected 0.001, with which the run"):
    plan("--minutes=1", "--learning_rate=0.5")
  assert plan("--steps=2400") == dataclasses.replace(new, total_steps=2400, validate_every=200)


REST = '"total_steps": "four", "validate_every": null, "commit": null'
DAMAGED = (
  "",
  "{",
  "[]",
  "null",
  "{}",
  '{"settings": {}}',
  f'{{"settings": {{}}, {REST}}}',
  f'{{"settings": 1, {REST}}}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_plan_is_made_anew_where_no_step_was_taken(begun, plan, text):
  now = plan("--steps=4")
  (begun / "run.json").write_text(text)
  assert plan("--steps=4") == now
  (begun / "run.json").unlink()
  assert plan("--steps=4") == now


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_plan_of_a_run_that_took_steps_is_one_line_and_restart_helps(begun, plan, tmp_path, capsys, text):
  now = plan("--steps=4")
  (begun / "run.json").write_text(text)
  (begun / "log.jsonl").write_text('{"step": 1}\n')
  said = fails(capsys, tmp_path / "p")
  assert "run.json: " in said and said.endswith("; start again with --restart\n")
  config = configured()
  assert run_folder.make_plan(config, run_folder.beside(tmp_path / "p"), devices.choose(config), restart=True) == now


def test_a_plan_of_other_options_is_one_line(begun, tmp_path, capsys):
  about = json.loads((begun / "run.json").read_text())
  about["settings"] = {**about["settings"], "optimiser": "muon"}
  (begun / "run.json").write_text(json.dumps(about))
  assert "--optimiser: expected 'muon', with which the run" in fails(capsys, tmp_path / "p")


@pytest.mark.parametrize("name", LATER)
def test_a_run_goes_on_that_began_before_an_option_was_there(begun, plan, tmp_path, capsys, name):
  about = json.loads((begun / "run.json").read_text())
  assert about["settings"].pop(name) == LATER[name]
  (begun / "run.json").write_text(json.dumps(about))
  assert plan("--steps=4").settings == about["settings"]
  assert f"--{name}: expected {LATER[name]}, with which the run" in fails(capsys, tmp_path / "p", f"--{name}=7")
  assert TrainConfig.of_prior(about).settings()[name] == LATER[name]


def test_a_run_that_goes_on_takes_what_may_change_and_says_so(begun, plan, capsys):
  assert plan("--steps=4").validate_every == 100 and capsys.readouterr().out == ""
  assert plan("--steps=4", "--validate_every=2").validate_every == 2
  assert plan("--steps=9").total_steps == 9
  assert "planned for 4 steps, now 9" in capsys.readouterr().out
  assert plan("--minutes=3").total_steps == 4
  assert "goes on to the 4 steps that were planned; `minutes` is of new runs" in capsys.readouterr().out


def test_a_run_keeps_what_it_began_with(begun, plan, monkeypatch):
  """The code, and how often a longer one validates."""
  first = plan("--steps=4")
  assert plan("--steps=24000").validate_every == 2000
  monkeypatch.setattr(plans, "code_commit", lambda: "another")
  assert plan("--steps=4").commit == f"{first.commit}, another"


def test_a_plan_of_a_name_that_is_no_text_is_found_again(tmp_path):
  folder = tmp_path / "a\udcff"
  picture(folder / "b\udcfe.png")
  config = configured(f"--data={folder}")
  plan = planned(config, tmp_path / "p")
  write(plan, tmp_path / "p")
  assert planned(config, tmp_path / "p") == plan


# From Python


def test_the_public_function_needs_a_configuration_and_a_folder_only():
  from diffinv.training.run import train

  parameters = inspect.signature(train).parameters
  assert [name for name, p in parameters.items() if p.default is p.empty] == ["config", "folder"]
