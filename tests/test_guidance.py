"""Classes and guidance: against mixtures whose guided score is known, and through files, folders and commands."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_networks
import test_diffusers_folder
from denoising_network import convert
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal
from PIL import Image

from diffinv import errors
from diffinv.apps import main
from diffinv.nets import diffusers_unet
from diffinv.priors import Prior, classes, gaussian, mixture
from diffinv.priors import folder as checkpoint
from diffinv.schedules import Level, Schedule
from diffinv.studies import identity, runs
from diffinv.studies.draw import Drawing

# Exact: three classes, each a Gaussian, and no class, their mixture.

WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[0.5, -1.0, 0.25], [-0.6, 0.4, 0.9], [0.1, 0.8, -0.7]])
COVS = np.array([np.diag([0.3, 0.1, 0.2]), [[0.4, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.3]], 0.2 * np.eye(3)])
LINEAR, NULL = Schedule("linear", 1000), 3
OF_CLASSES = [gaussian(m, c, LINEAR) for m, c in zip(MEANS, COVS)]


def of_mixtures(params, x_t, t, label):
  """Return eps of a class, or of none, as a perfect network would: its input is `[1, 1, 3]`."""
  level = Level(t, *params["level"])
  of_all = [mixture([1.0], m[None], c[None], LINEAR) for m, c in zip(MEANS, COVS)] + [
    mixture(WEIGHTS, MEANS, COVS, LINEAR)
  ]
  return jnp.stack([prior.denoise(x_t, level).eps for prior in of_all])[label]


def guided_prior(level, label, guidance):
  params, apply = classes.conditioned(of_mixtures, {"level": level[1:]}, 4, NULL, label, guidance)
  return Prior(params, apply, LINEAR, clip=False)


def log_density(x, level, label):
  """Return ln p_t(x, class)."""
  cov = level.alpha**2 * COVS[label] + level.sigma**2 * np.eye(3)
  return jnp.log(WEIGHTS[label]) + multivariate_normal.logpdf(x, level.alpha * MEANS[label], cov)


def guided_log_density(x, level, label, guidance):
  """Return ln p_t(x) + guidance ln p_t(class | x), of Bayes' rule, but for a constant."""
  marginal = logsumexp(jnp.stack([log_density(x, level, k) for k in range(3)]))
  return marginal + guidance * (log_density(x, level, label) - marginal)


X = np.array([0.4, -0.3, 0.7])


def level_at(t):
  grid = LINEAR.grid()
  return Level(*(jnp.asarray(v[999 - t]) for v in grid))


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_guided_noise_is_the_score_of_the_sharpened_law(guidance):
  with jax.enable_x64():
    for t in (50, 400, 900):
      level = level_at(t)
      got = guided_prior(level, 1, guidance).denoise(jnp.asarray(X)[None, None], level)
      want = -level.sigma * jax.grad(guided_log_density)(jnp.asarray(X), level, 1, guidance)
      np.testing.assert_allclose(got.eps[0, 0], want, rtol=1e-9, atol=1e-10)
      np.testing.assert_allclose(got.x0[0, 0], (X - level.sigma * want) / level.alpha, rtol=1e-8, atol=1e-9)


def test_guidance_of_one_is_the_class_and_of_zero_no_class_bit_for_bit():
  level = Level(*(jnp.float32(v) for v in level_at(400)))
  x = jnp.asarray(X, jnp.float32)[None, None]
  run = jax.jit(lambda prior: prior.denoise(x, level).x0)
  np.testing.assert_array_equal(run(guided_prior(level, 1, 1.0)), run(guided_prior(level, 1, None)))
  np.testing.assert_array_equal(run(guided_prior(level, 1, 0.0)), run(guided_prior(level, None, None)))
  np.testing.assert_array_equal(run(guided_prior(level, None, None)), run(guided_prior(level, NULL, None)))
  assert np.abs(run(guided_prior(level, 1, 1.0)) - run(guided_prior(level, 1, 0.0))).max() > 0.1


def test_a_learned_variance_is_that_of_the_class():
  apply = lambda params, x, t, label: jnp.concatenate([x + label.astype(x.dtype), x - 1 + label.astype(x.dtype)], -1)
  params, guided = classes.conditioned(apply, {}, 5, 4, 2, 3.0)
  out = guided(params, jnp.ones((2, 2, 3)), jnp.float32(0))
  np.testing.assert_allclose(out[0, 0], [5 + 3 * (3 - 5)] * 3 + [2] * 3)


REFUSED = [  # labels, null, label, guidance
  ((None, None, 1, None), "label: expected none, the network is unconditional, got 1; leave it out"),
  ((None, None, None, 2.0), "guidance: expected none, the network is unconditional, got 2; leave it out"),
  ((4, None, 1, 2.0), "guidance: expected none, the network has no null class that is known, got 2; convert it with"),
  ((4, None, None, None), r"label: expected a class in 0\.\.3 for this network, got none; it is class-conditional"),
  ((4, 3, 4, None), r"label: expected a class in 0\.\.2 for this network, got 4"),
  ((4, 3, None, 2.0), r"label: expected a class in 0\.\.2 with guidance, got none; choose one with `label`"),
  ((4, 3, 3, 2.0), r"label: expected a class in 0\.\.2 with guidance, got 3, which is no class; choose another"),
  ((4, 3, 1, -1.0), r"guidance: expected a number in \[0, 100\], got -1"),
  ((4, 3, 1, float("nan")), r"guidance: expected a number in \[0, 100\], got nan"),
]


@pytest.mark.parametrize("given, message", REFUSED)
def test_wrong_labels_and_guidance_without_a_null_class_are_one_line(given, message):
  with pytest.raises(ValueError, match=message) as caught:
    classes.conditioned(of_mixtures, {}, *given)
  assert "\n" not in str(caught.value)


# Through files, folders and commands

WITH_CLASSES = {**test_diffusers_folder.TINY, "num_class_embeds": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return test_diffusers_folder.write(tmp_path_factory.mktemp("in") / "net", WITH_CLASSES)


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
  target = tmp_path_factory.mktemp("priors") / "p"
  line = ["convert", f"--input={source}", f"--output={target}", "--nocheck", "--null_label=3"]
  assert main.execute(line) == 0
  return target


def test_the_null_class_is_kept_and_taken_without_a_label(folder):
  assert json.loads((folder / "prior.json").read_text())["null_label"] == 3
  prior = checkpoint.load_prior(folder)
  assert prior.null_label == 3 and int(prior.params["label"]) == 3
  named, guided = checkpoint.load_prior(folder, label=1), checkpoint.load_prior(folder, label=1, guidance=2.0)
  digests = {
    identity.fingerprint(p) for p in (prior, named, guided, checkpoint.load_prior(folder, label=1, guidance=3))
  }
  assert len(digests) == 4
  with pytest.raises(ValueError, match="guidance: expected none with natural, which has no network, got 2"):
    checkpoint.load_prior("natural", guidance=2)


def test_guidance_is_one_batch_and_another_does_not_recompile(folder):
  x = jnp.linspace(-1, 1, 768).reshape(16, 16, 3)
  level, traces = Level(jnp.float32(100), jnp.float32(0.8), jnp.float32(0.6)), []

  @reference_networks.compiled
  def run(prior):
    traces.append(1)
    return dataclasses.replace(prior, clip=False).denoise(x, level).eps

  priors = [checkpoint.load_prior(folder, label=1, guidance=w) for w in (0, 1, 2)]
  none, one, two = map(run, priors)
  assert len(traces) == 1
  np.testing.assert_allclose(two, 2 * one - none, rtol=0, atol=2e-5)  # of order 1
  network, params = diffusers_unet.apply_function, priors[0].params
  config = checkpoint.load_description(folder)[1]
  plain = str(jax.make_jaxpr(lambda x: network(config)(params["network"], x, level.t, jnp.int32(1)))(x))
  guided = str(jax.make_jaxpr(lambda x: priors[0].apply(params, x, level.t))(x))
  assert guided.count("optimization_barrier") == plain.count("optimization_barrier") > 0  # one a block


def test_commands_take_guidance_and_say_so_in_their_results(folder, tmp_path, capsys):
  command = ["sample", f"--prior={folder}", "--steps=2", "--num_samples=1", "--compilation_cache="]

  def pixels(name, *flags):
    assert main.execute([*command, f"--output={tmp_path / name}", *flags]) == 0, capsys.readouterr().err
    return np.asarray(Image.open(tmp_path / name / "0.png")).astype(int)

  once = pixels("once", "--label=1", "--guidance=1")
  assert np.abs(once - pixels("more", "--label=1", "--guidance=4")).max() > 2
  np.testing.assert_allclose(once, pixels("class", "--label=1"), rtol=0, atol=1)
  assert json.loads((tmp_path / "more" / "results.json").read_text())["settings"]["guidance"] == 4.0
  assert main.execute([*command, f"--output={tmp_path / 'none'}", "--guidance=2"]) == 1
  said = capsys.readouterr().err
  assert "label: expected a class in 0..2 with guidance, got none; choose one with --label" in said
  assert main.execute([*command, f"--output={tmp_path / 'none'}", "--guidance=-1"]) == 2


def test_runs_with_another_guidance_are_not_mixed_up():
  old, none, two = ({"settings": settings} for settings in ({}, {"guidance": None}, {"guidance": 2.0}))
  assert runs.differences(old, none) == [] and runs.differences(old, two) == ["`guidance`"]
  with pytest.raises(
    errors.UsageError, match="`guidance` is for a prior given by its name; load the object with it instead"
  ):
    identity.load(Drawing(prior=OF_CLASSES[0], guidance=2.0))


@pytest.mark.parametrize(
  "count, flags, null, said",
  [
    (
      11,
      (),
      10,
      "of 11 classes: class 10 is none of them, without a label it is taken\nnote: that is taken from the size",
    ),
    (11, ("--null_label=none",), None, "of 11 classes: using it takes a label"),
    (4, ("--null_label=0",), 0, "of 4 classes: class 0 is none of them, without a label it is taken"),
    (4, (), None, "of 4 classes: using it takes a label"),
  ],
)
def test_the_null_class_is_told_or_found(capsys, tmp_path, count, flags, null, said):
  source = test_diffusers_folder.write(tmp_path / "in", {**WITH_CLASSES, "num_class_embeds": count})
  assert said in convert(capsys, source, tmp_path / "p", "--nocheck", *flags)
  assert checkpoint.load_description(tmp_path / "p")[0]["null_label"] == null


def test_a_null_class_that_there_is_not_is_refused(capsys, source, tmp_path):
  said = convert(capsys, source, tmp_path / "p", "--nocheck", "--null_label=4", code=1)
  assert "null_label: expected one of the network's 0..3, got 4; see how it was trained" in said
  plain = test_diffusers_folder.write(tmp_path / "in")
  said = convert(capsys, plain, tmp_path / "p", "--nocheck", "--null_label=4", code=1)
  assert "null_label: expected none, the network is unconditional, got 4; leave it out" in said
  assert said.count("\n") == 1 and not (tmp_path / "p").exists()
