"""Presets: what a wish is on each task, the mean of several chains, and `reconstruct` with any of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import (
  Study,
  antithetic,
  compare,
  errors,
  noise,
  operators,
  priors,
  problems,
  restore,
  sampler,
  schedules,
)
from diffinv.apps import main
from diffinv.data import images
from diffinv.methods import METHODS, affine, check
from diffinv.methods.averaged import Averaged
from diffinv.schedules import Schedule
from diffinv.studies import entrants, jobs, presets, settings
from diffinv.studies import tune as tuning
from diffinv.studies.presets import AIMS, PRESETS, QUALITIES
from diffinv.studies.restoration import Restoration

SHAPE = (8, 8, 3)
LINEAR = Schedule("linear", 1000)
TABLES = {path.stem: settings.read_settings(path) for path in settings.FOLDER.glob("*.json")}


def measured(operator=None, sigma=0.1):
  k1, k2 = jax.random.split(jax.random.key(0))
  x0 = jnp.clip(0.5 * jax.random.normal(k1, SHAPE), -1.0, 1.0)
  operator = operators.super_resolution(SHAPE, 2) if operator is None else operator
  return problems.simulate(k2, operator, noise.Gaussian(jnp.float32(sigma)), x0)


# What a wish is


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("task", ["denoising", "super_resolution", "motion_blur", "hdr", "mri_random_x4"])
def test_every_preset_of_every_prior_has_a_method_for_every_kind_of_task(task, name, table):
  from diffinv.tasks import TASKS

  channels = 6 if task.startswith("mri") else 3
  operator = TASKS[task].make(jax.random.key(0), (64, 64, channels))
  build = lambda name, method, steps: entrants.build(name, method, task, steps, TABLES[table], {})
  excuse = lambda method: entrants.excuse(method, operator, noise.Gaussian(jnp.float32(0.05)), LINEAR)
  method, steps = presets.choose(PRESETS[name], TABLES[table], build, excuse)
  check(method, operator)
  cost = entrants.cost(method, LINEAR.grid(steps))
  if PRESETS[name].quality == "fast":
    assert cost.evaluations <= 30 and cost.gradients == 0
  if PRESETS[name].aim == "mean" and task == "denoising":
    assert cost.evaluations <= 8 and cost.gradients == 0


def test_a_better_quality_never_costs_less():
  build = lambda name, method, steps: entrants.build(name, method, "super_resolution", steps, TABLES["photo"], {})
  for aim in AIMS:
    chosen = [
      presets.choose(presets.Preset(q, aim), TABLES["photo"], build, lambda _: None if _.name != "mmse" else "no")
      for q in QUALITIES
    ]
    costs = [entrants.weight(entrants.cost(method, LINEAR.grid(steps))) for method, steps in chosen]
    assert costs == sorted(set(costs))


def test_the_first_method_that_can_is_taken_and_where_none_can_all_excuses_are_told():
  table = {"presets": {"mean": {"fast": [{"method": "mmse"}, {"method": "ddrm", "steps": "7"}]}}}
  build = lambda name, method, steps: method()
  wish = PRESETS["fast"]
  assert presets.choose(wish, table, build, lambda method: None).method.name == "mmse"
  found = presets.choose(wish, table, build, lambda method: "no" if method.name == "mmse" else None)
  assert (found.method.name, found.steps) == ("ddrm", "7")
  with pytest.raises(errors.UsageError, match="fast: expected a problem that one of its .*: not mmse; not ddrm"):
    presets.choose(wish, table, build, lambda method: f"not {method.name}")


def test_settings_without_presets_have_those_of_the_literature():
  assert settings.preset({}, "mean", "fast") == settings.preset(TABLES["literature"], "mean", "fast")


@pytest.mark.parametrize(
  "entry, message",
  [
    ({"mean": {"fast": [{"method": "dpirr"}]}}, "expected a method of a preset in .*, one of mmse, .*, got 'dpirr'"),
    ({"mean": {"fast": {"method": "dpir"}}}, "a.json: presets: expected a list at .*, got a table"),
    ({"mean": {"fast": [{"steps": "8"}]}}, "a.json: presets: .*method"),
    ({"mean": {"fast": [{"method": "dpir", "samples": "8"}]}}, "a.json: presets: .*int"),
  ],
)
def test_a_mistake_in_presets_is_one_line(tmp_path, entry, message):
  (tmp_path / "a.json").write_text(json.dumps({"presets": entry}))
  with pytest.raises(ValueError, match=message) as caught:
    settings.read_settings(tmp_path / "a.json")
  assert "\n" not in str(caught.value)


# The mean of several chains


def chains(method, problem, keys, steps="5"):
  one = lambda key: sampler.sample(key, method, priors.natural(), problem, LINEAR.grid(steps))[0]
  return np.stack([one(key) for key in keys])


@pytest.mark.parametrize("count", [3, 4])
def test_the_mean_of_several_is_the_mean_of_its_chains(count):
  """Each step draws a chain's noise from keys of its own, so that the chains are held against chains of such keys."""
  method, problem, key = METHODS["dpir"](noise=1.0), measured(), jax.random.key(3)
  several, grid = Averaged(method, samples=count), schedules.as_arrays(LINEAR.grid("3"))
  keys = lambda key: antithetic.pairs(jax.random.split(key, 2)) if count == 4 else jax.random.split(key, 3)
  state = sampler.start(key, several, priors.natural(), problem, grid)
  states = [method.init(k, priors.natural(), problem, None) for k in keys(jax.random.split(key)[0])]
  for i in range(3):
    state, _ = sampler.advance(key, state, jnp.arange(i, i + 1), several, priors.natural(), problem, grid)
    now, nxt = (jax.tree.map(lambda v, at=at: v[at], method.levels(grid)) for at in (i, i + 1))
    drawn = keys(jax.random.fold_in(jax.random.split(key)[1], i))
    states = [method.step(k, s, now, nxt, priors.natural(), problem)[0] for k, s in zip(drawn, states, strict=True)]
  np.testing.assert_allclose(state.x, np.stack([s.x for s in states]), atol=1e-5)
  got = several.finish(state, priors.natural(), problem)
  np.testing.assert_allclose(got, np.mean([s.x for s in states], axis=0), atol=1e-5)


def test_independent_chains_have_a_variance_of_their_number_less():
  p, grid = affine.G3, affine.Schedule("linear", 100).grid("20")
  prior, problem, method = p.prior(), p.problem(), METHODS["diffpir"](weight=7.0)
  draw = lambda method: jax.vmap(lambda key: sampler.sample(key, method, prior, problem, grid)[0])(
    jax.random.split(jax.random.key(0), 2000)
  )
  one, several = (np.var(np.asarray(draw(m)), axis=0) for m in (method, Averaged(method, samples=3)))
  np.testing.assert_allclose(several, one / 3, rtol=0.15)  # five standard errors of either


def test_the_mean_of_several_is_what_its_method_is():
  several = Averaged(METHODS["dps"](scale=0.5), samples=3)
  assert entrants.cost(several, LINEAR.grid("10")) == (30, 30)
  assert several.title == "DPS, mean of 3" and not several.linear_only
  assert entrants.describe_method(several)["averaged"] == 3
  with pytest.raises(ValueError, match="dpir: expected a linear operator, got ClippedExposure"):
    check(Averaged(METHODS["dpir"]()), operators.hdr(SHAPE))


# In commands


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
  path = tmp_path_factory.mktemp("in") / "a.png"
  images.write(path, np.random.RandomState(0).uniform(-1, 1, (16, 16, 3)))
  return path


def reconstruct(picture, folder, *flags):
  base = [f"--input={picture}", f"--output={folder}", "--prior=natural", "--compilation_cache="]
  return main.execute(["reconstruct", *base, *flags])


@pytest.mark.parametrize(
  "flags, method, preset, averaged",
  [
    ([], "dpir", "balanced", 2),
    (["--quality=fast", "--steps=3"], "dpir", "fast", None),
    (["--quality=best", "--steps=2"], "dpir", "best", 8),
    (["--aim=sample", "--steps=3", "--task=hdr"], "diffpir", "balanced_sample", None),
    (["--task=denoising"], "mmse", "balanced", None),
    (["--method=total_variation"], "total_variation", None, None),
  ],
)
def test_reconstruct_takes_a_wish_or_a_method_of_any_kind(picture, tmp_path, capsys, flags, method, preset, averaged):
  assert reconstruct(picture, tmp_path / "out", *flags) == 0
  found = json.loads((tmp_path / "out" / "results.json").read_text())
  assert found["method"]["name"] == method and found.get("preset") == preset
  assert found["method"].get("averaged") == averaged
  assert capsys.readouterr().out.splitlines()[-1].startswith(method)
  assert (found["network_evaluations"] == 0) == (method == "total_variation")


@pytest.mark.parametrize("method", ["mmse", "total_variation"])
def test_a_picture_that_is_the_same_every_time_is_made_once(picture, tmp_path, capsys, method):
  flags = [f"--method={method}", "--task=denoising", "--num_samples=4", "--antithetic"]
  assert reconstruct(picture, tmp_path / "out", *flags) == 0
  assert "gives the same picture every time; it is made once, not 4 times" in capsys.readouterr().err
  assert (tmp_path / "out" / "a.png").exists() and not (tmp_path / "out" / "a-mean.png").exists()


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--method=dps", "--quality=fast"], "--quality and --aim choose a method, got --method too"),
    (["--method=dps", "--aim=sample"], "--quality and --aim choose a method, got --method too"),
    (["--quality=finest"], "quality"),
    (["--set=scale=3"], "--set: expected --method beside it, got a choice by --quality and --aim; name the method"),
    (["--method=wiener", "--task=hdr"], "wiener: expected linear"),
    (["--method=mmse"], "mmse: expected the picture itself with noise"),
  ],
)
def test_a_mistake_is_one_line(picture, tmp_path, capsys, flags, message):
  assert reconstruct(picture, tmp_path / "out", *flags) != 0
  said = capsys.readouterr().err.strip()
  assert message in said and "\n" not in said and not (tmp_path / "out").exists()


def test_from_python_a_wish_is_a_word():
  problem = measured()
  found = restore(np.asarray(problem.y), task=problem.operator, prior=priors.natural(), quality="fast", sigma=0.1)
  assert found.picture.shape == SHAPE and len(found.samples) == 1


def test_in_a_comparison_a_preset_says_what_it_was_on_each_task(tmp_path):
  tasks, methods = ("denoising", "super_resolution"), ("fast", "best", "fast_sample", "dpir")
  data = np.random.RandomState(0).uniform(-1, 1, (16, 16, 3)).astype(np.float32)
  found = compare(
    Study(prior=priors.natural(), data=data, tasks=tasks, methods=methods, steps=3, frames=0), tmp_path / "out"
  )
  said = {(run["task"], run["method"]): (run.get("chosen"), run.get("averaged")) for run in found.plan["runs"]}
  assert said[("denoising", "fast")] == said[("denoising", "best")] == ("mmse", None)
  assert said[("super_resolution", "best")] == ("dpir", 8) and said[("super_resolution", "dpir")] == (None, None)
  assert said[("super_resolution", "fast_sample")][0] == "ddrm"
  assert len(found.rows) == 8 and not any(row.get("failed") for row in found.rows)
  same = [r for r in found.records if r["task"] == "super_resolution" and r["method"] in ("fast", "dpir")]
  assert same[0]["psnr"] == same[1]["psnr"], "the preset is the method with the same settings and keys"


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: tuning.methods_of(tuning.Search(methods=("dps", "fast"))), "expected methods to tune, got fast, which is"),
    (
      lambda: compare(Study(prior="natural", methods=("fast",), tasks=("denoising",), set={"fast.weight": 1})),
      "`set`: expected a method, got fast, which chooses its own",
    ),
  ],
)
def test_a_preset_has_no_hyper_parameters(make, message):
  with pytest.raises(errors.UsageError, match=message):
    make()


@pytest.mark.parametrize("name", ["balanced", "wiener"])
def test_what_is_no_method_cannot_be_verified(name, capsys):
  assert main.execute(["verify", f"--methods={name}"]) == 2
  assert "--methods: expected some of mmse, sdedit" in capsys.readouterr().err


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--method=dps", "--steps=7"], "note: settings were chosen for other steps, in brackets: dps at 7 (100); diffinv"),
    (["--method=dps", "--steps=30"], None),  # of which there are settings
    (["--method=dps", "--steps=7", "--settings={settings}"], None),
    (["--quality=fast"], None),
  ],
)
def test_settings_that_were_chosen_for_other_steps_are_said_to_be(tmp_path, capsys, monkeypatch, picture, flags, said):
  (tmp_path / "s.json").write_text('{"dps": {"steps": "7", "default": {}}}')
  flags = [flag.format(settings=tmp_path / "s.json") for flag in flags]
  config = Restoration(**dict(flag[2:].split("=") for flag in flags), input=(picture,), prior="photo")
  jobs.plan(config)
  notes = [line for line in capsys.readouterr().err.splitlines() if "other steps" in line]
  assert [note.startswith(said or "-") for note in notes] == ([True] if said else [])
