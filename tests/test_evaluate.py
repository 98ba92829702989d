"""What `diffinv evaluate` measures of a prior: one untrained prior, measured once, and the parts by themselves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffinv.studies.compare as comparing
from diffinv import baselines, batch, errors, operators, priors
from diffinv.apps import evaluate as app
from diffinv.apps import flags as flagging
from diffinv.apps import main
from diffinv.data import faces, folder, held_out
from diffinv.methods.dps import DPS
from diffinv.metrics import distances, image
from diffinv.noise import Gaussian
from diffinv.priors.folder import param_shapes, save_prior
from diffinv.problems import simulate, stack
from diffinv.studies import cases, evaluate, measurement, results, tune
from diffinv.studies.evaluation import calibration, restoration, sampling
from diffinv.studies.evaluation import subject as subjects
from diffinv.studies.evaluation.subject import Evaluation, Subject
from diffinv.tasks import TASKS
from diffinv.training import network
from diffinv.training.config import TrainConfig

SIZE = 16
SMALL = {"size": SIZE, "channels": 8, "batch_size": 8, "embedding": 8, "multipliers": (1,), "middle_blocks": 1}
TASK = "super_resolution"


def blob(key, size=64):
  """Draw a color and a slope in place of a face: the renderer takes a minute to compile."""
  color, slope = jax.random.uniform(key, (2, 3), minval=-0.5, maxval=0.5)
  ramp = jnp.linspace(-1.0, 1.0, size)[:, None, None] * jnp.ones((1, size, 1))
  return color[None, None] + slope[None, None] * ramp


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory):
  """An untrained prior as `diffinv train --config=faces` writes it; its network returns zero, as at the start."""
  config = TrainConfig(config="faces", steps=1, seed=0, attention=False, **SMALL).resolved()
  weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(network.shape(config)))
  provenance = {"data": "faces", "seed": 0, "steps": 1, "settings": config.settings()}
  place = tmp_path_factory.mktemp("prior") / "p"
  with jax.numpy_rank_promotion("allow"):
    return save_prior(place, network.make_prior(weights, config), network.shape(config), provenance)


@pytest.fixture(scope="module")
def blobs():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(faces, "render", blob)
    yield


@pytest.fixture(scope="module")
def quick():
  """Total variation of few iterations."""
  whole = baselines.total_variation
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(baselines, "total_variation", lambda problem, *, weight: whole(problem, weight=weight, num_steps=2))
    yield


@pytest.fixture(scope="module")
def measured(prior_folder, blobs, quick, tmp_path_factory):
  """The command line, and the folder that it wrote."""
  place = tmp_path_factory.mktemp("evaluated") / "out"
  line = [
    "evaluate", f"--prior={prior_folder}", f"--output={place}", "--measures=" + ",".join(subjects.MEASURES),
    "--fit_images=16", "--num_images=4", "--num_drawn=4", "--sample_steps=2", "--steps=3", "--methods=diffpir",
    "--tasks=super_resolution", "--test_images=2", "--validation_images=1", "--num_samples=5",
    "--batch_size=10", "--rounds=1", "--timed_steps=2", "--compilation_cache=",
  ]  # fmt: skip
  with jax.numpy_rank_promotion("allow"):
    assert main.execute(line) == 0
  return line, place


def found(measured, name):
  return written(measured, name)["found"]


def written(measured, name):
  return json.loads((measured[1] / f"{name}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects.MEASURES)
def test_every_measure_writes_its_table_and_its_numbers_with_its_command(measured, name):
  text = (measured[1] / f"{name}.md").read_text()
  assert text.count("|") > 10
  command = written(measured, name)["command"]
  assert command.startswith("diffinv evaluate --prior=") and f"`{command}`" in text


def config_of(line):
  """Return what a command line of `diffinv` asks for."""
  main.parse("evaluate", app.FLAGS, line[1:])
  return flagging.make(app.FLAGS, Evaluation)


@pytest.mark.slow
def test_the_command_that_is_written_measures_the_same(measured):
  asked, said = config_of(measured[0]), config_of(written(measured, "speed")["command"].split()[1:])
  assert asked == said and asked.num_samples == 5


@pytest.mark.slow
def test_an_untrained_network_denoises_by_what_it_passes_through(measured, prior_folder, blobs):
  # It returns zero, and the prior c_skip (x0 + sbar eps), c_skip = 0.25 / (0.25 + sbar^2).
  subject = subjects.load(Evaluation(prior=prior_folder))
  x0, c_skip = subject.held_out(held_out.DENOISING, 4), 0.25 / (0.25 + 0.1**2)
  expected = (1 - c_skip) ** 2 * np.mean(x0**2) + (c_skip * 0.1) ** 2
  # Clipping gains a little; the noise of 4 16x16x3 images has a relative error of sqrt(2/3072) = 3 %, 0.1 dB.
  psnr = found(measured, "denoising")["psnr_pooled"]["network"][0]
  np.testing.assert_allclose(psnr, 10 * np.log10(4 / expected), atol=0.5)


@pytest.mark.slow
def test_samples_are_drawn_on_a_sheet(measured):
  with Image.open(measured[1] / sampling.SHEET) as sheet:
    assert sheet.size == (2 * SIZE + 2, 2 * SIZE + 2)  # four, with a gap of two pixels


@pytest.mark.slow
def test_restorations_are_comparisons_with_pages_of_the_same_measurements(measured):
  kept = [restoration.comparison_folder(measured[1], who) for who in restoration.WHO]
  files = [path.name for path in (kept[0] / "pictures").glob("*-measurement.png")]
  assert len(files) == 2
  for file in files:
    assert (kept[0] / "pictures" / file).read_bytes() == (kept[1] / "pictures" / file).read_bytes()
  assert all((place / "report.html").is_file() for place in kept)
  assert (measured[1] / restoration.SHEET).is_file()


@pytest.mark.slow
def test_the_table_of_restorations_has_the_means_of_its_comparisons(measured):
  means = found(measured, "restoration")["means"][TASK]
  for who in restoration.WHO:
    compared = results.read_results(restoration.comparison_folder(measured[1], who))
    (entry,) = (entry for entry in compared.summary if entry["task"] == TASK)
    assert means[f"DiffPIR, {who}"] == [entry["psnr"]["mean"], entry["ssim"]["mean"]]
    assert means[f"DiffPIR, {who}, mean of 5"] == [entry["mean_psnr"]["mean"], entry["mean_ssim"]["mean"]]
    one, four, five = (means[f"DiffPIR, {who}{of}"][0] for of in ("", ", mean of 4", ", mean of 5"))
    assert (
      one < four and abs(four - five) < five - one
    )  # a mean is nearer to the truth, and those are of nearly the same


@pytest.mark.slow
def test_leads_are_over_the_best_without_the_network(measured):
  means = found(measured, "restoration")["means"][TASK]
  others = [values for name, values in means.items() if "network" not in name]
  assert len(others) == 3 + 4  # of `natural`, and without any prior
  lead = means["DiffPIR, network"][0] - max(psnr for psnr, _ in others)
  (line,) = (
    s for s in (measured[1] / "restoration.md").read_text().splitlines() if "lead of DiffPIR, network, over" in s
  )
  assert f"| {lead:.2f} |" in line


@pytest.mark.slow
def test_what_restores_without_a_network_gets_the_same_measurements(measured, prior_folder, blobs):
  subject = subjects.load(config_of(measured[0]))
  same = restoration.measurements(subject, held_out.TEST)
  marks = [
    restoration.quality(problem, baselines.interpolate(problem), truth)
    for problem, truth in zip(same.problems[TASK], same.truths, strict=True)
  ]
  np.testing.assert_allclose(found(measured, "restoration")["marks"][TASK]["interpolation"], marks, rtol=1e-6)
  study = restoration.study_of(subject, restoration.NATURAL, held_out.TEST)
  c = comparing.prepare(study, None)
  np.testing.assert_array_equal(c.measure(TASK, 1).y, same.problems[TASK][1].y)


@pytest.mark.slow
def test_a_measure_that_is_there_is_not_replaced_unless_asked(measured, capsys):
  assert main.execute([*measured[0], "--seed=7"]) == errors.EXIT_FAILURE
  assert "denoising.json exists; choose another --output, or replace it with --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_command_again_measures_nothing_and_says_the_same(measured, capsys, monkeypatch):
  for name in ("denoising", "speed"):
    monkeypatch.setattr(getattr(evaluate, name), "measure", lambda *_: pytest.fail("measured again"))
  with jax.numpy_rank_promotion("allow"):
    assert main.execute([*measured[0], "--measures=denoising,speed"]) == 0
  texts = [(measured[1] / f"{name}.md").read_text() for name in ("denoising", "speed")]
  assert "\n".join(texts) in capsys.readouterr().out


@pytest.mark.slow
def test_restoration_goes_on_with_the_comparisons_that_are_done(measured, monkeypatch):
  before = found(measured, "restoration")
  (measured[1] / "restoration.json").unlink()
  monkeypatch.setattr(comparing, "restore_part", lambda *_: pytest.fail("restored again"))
  with jax.numpy_rank_promotion("allow"):
    assert main.execute([*measured[0], "--measures=restoration"]) == 0
  assert found(measured, "restoration")["means"] == before["means"]


def refusal(folder, **options):
  with pytest.raises(errors.UsageError) as caught:
    evaluate.evaluate(Evaluation(prior=folder, **options), "unused")
  return str(caught.value)


def test_options_that_do_not_fit_are_refused_before_any_work(prior_folder):
  assert "`num_samples`: expected an even number for `antithetic`, got 3" in refusal(
    prior_folder, antithetic=True, num_samples=3
  )
  assert "`methods`: gaussian_blur: ddnm_plus: expected an operator whose pseudo-inv" in refusal(
    prior_folder, measures=("denoising", "restoration"), tasks=["gaussian_blur"], methods=["diffpir", "ddnm_plus"]
  )
  assert "`devices`: expected a divisor of 8" in refusal(prior_folder, devices=3)
  assert "`measures`: expected one of denoising" in refusal(prior_folder, measures=["tune"])
  assert "`tasks`: expected one or more, got none" in refusal(prior_folder, tasks=[])


def test_priors_that_training_here_did_not_make_are_refused():
  assert "`prior`: expected the name or folder of one that `diffinv train` made, got natural" in refusal("natural")
  assert "made, got StationaryGaussian" in refusal(priors.natural())


def test_a_prior_whose_faces_were_those_it_is_measured_on_is_refused(prior_folder, tmp_path):
  fields = json.loads((prior_folder / "prior.json").read_text())
  fields["provenance"]["settings"]["seed"] = held_out.FACES_SEEDS[held_out.REFERENCE]
  (tmp_path / "prior.json").write_text(json.dumps(fields))
  assert "`prior`: expected one that was trained with another seed than 1001" in refusal(tmp_path)


def subject_of(source, size, **options):
  return Subject(Evaluation(prior="p"), "p", None, TrainConfig(data=source, steps=1, size=size, **options))


def test_sampling_asks_for_endless_pictures():
  with pytest.raises(errors.UsageError, match="`measures=sampling` needs endless held-out images, .* got photos"):
    sampling.check(subject_of("photos", 16))


def test_calibration_refuses_images_that_its_blocks_do_not_fill():
  with pytest.raises(errors.UsageError, match="`measures=calibration` needs images of a multiple of 8 pixels, got 12"):
    calibration.check(subject_of("faces", 12, multipliers=(1,), attention=False))


# Held-out pictures


def test_faces_of_every_purpose_are_different(blobs):
  sets = {purpose: held_out.held_out("faces", purpose, 3, SIZE)[1] for purpose in held_out.FACES_SEEDS}
  assert len({picture.tobytes() for pictures in sets.values() for picture in pictures}) == 3 * len(sets)


def test_photographs_are_denoised_on_the_crops_of_the_validation():
  names, crops = held_out.held_out("photos", held_out.DENOISING, 5, 64)
  assert crops.shape == (5, 64, 64, 3) and names[0] == "astronaut-00"
  assert len(held_out.held_out("photos", held_out.DENOISING, 1000, 64)[1]) == 64 + 16
  with pytest.raises(ValueError, match="photos: expected one of test, validation, denoising, got floor"):
    held_out.held_out("photos", held_out.FLOOR, 1)


def test_too_many_pictures_to_restore_are_told_by_their_option():
  subject = subject_of("photos", 64)
  for option, purpose in (("test_images", held_out.TEST), ("validation_images", held_out.VALIDATION)):
    asked = dataclasses.replace(subject, config=Evaluation(prior="p", **{option: 1000}))
    with pytest.raises(errors.UsageError, match=f"`{option}`: expected at most .* crops of 64 pixels"):
      restoration._pictures(asked, purpose)


@pytest.fixture
def folder_subject(tmp_path):
  """A prior, unnamed, of a folder of pictures of one color each, by which crops tell whose they are."""

  def make(count):
    (tmp_path / "images").mkdir()
    for i in range(count):
      Image.fromarray(np.full((24, 40, 3), 4 * i, np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    config = TrainConfig(data=tmp_path / "images", steps=1, size=16, batch_size=8)
    return Subject(Evaluation(prior="p", fit_images=100), "p", None, config.resolved())

  return make


def colors(x):
  return {round((float(v) + 1) * 127.5 / 4) for v in x.mean(axis=(1, 2, 3))}


def test_the_gaussian_of_a_folder_is_fitted_to_what_was_trained_on_alone(folder_subject):
  subject = folder_subject(60)
  fitted = set.union(*(colors(batch) for batch in subject.training_batches()))
  kept = colors(subject.held_out(held_out.DENOISING, 80))
  assert len(kept) == 6 and fitted == set(range(60)) - kept


def test_no_file_serves_both_restoration_and_tuning(folder_subject):
  subject = folder_subject(50)
  chosen = {purpose: subject.held_out(purpose, 8) for purpose in (held_out.TEST, held_out.VALIDATION)}
  assert [len(x) for x in chosen.values()] == [3, 2]
  assert len(set.union(*map(colors, chosen.values()))) == 5
  assert len(restoration.study_of(subject, restoration.NATURAL, held_out.TEST).data) == 3


def test_a_prior_of_a_folder_of_which_nothing_was_held_out_is_not_measured(folder_subject):
  with pytest.raises(errors.UsageError, match="`prior`: expected one whose training held files out, .* held out none"):
    folder_subject(9).held_out(held_out.DENOISING, 8)


def test_a_folder_that_is_not_that_of_the_training_is_refused(prior_folder, tmp_path):
  for name in ("images", "p"):
    (tmp_path / name).mkdir()
  Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
  files = folder.fingerprint(tmp_path / "images")
  settings = {"data": str(tmp_path / "images"), "files": files, "seed": 0}
  fields = json.loads((prior_folder / "prior.json").read_text())
  fields["provenance"] = {"steps": 1, "settings": settings}
  (tmp_path / "p" / "prior.json").write_text(json.dumps(fields))
  Image.effect_noise((64, 64), 50).save(tmp_path / "images" / "a.png")
  with pytest.raises(errors.UsageError, match="`prior`: expected the images of its training in .*images, got others"):
    subjects.load(Evaluation(prior=tmp_path / "p"))


# Calibration


def test_the_slopes_are_those_that_the_parts_were_scaled_by():
  x0 = np.random.default_rng(0).standard_normal((400, 16, 16, 3)).astype(np.float32)
  coarse = np.kron(np.asarray(distances.reduced(x0, 2)).reshape(400, 2, 2, 3), np.ones((1, 8, 8, 1), np.float32))
  offset = np.linspace(-1, 1, 16, dtype=np.float32)[:, None, None]
  found = calibration.slopes_of(x0, 0.8 * coarse + 1.25 * (x0 - coarse) + offset)
  assert found["coarse"] == pytest.approx((1.25, 0.0), abs=1e-5)
  assert found["fine"] == pytest.approx((0.8, 0.0), abs=1e-5)


def test_a_posterior_mean_has_the_slope_one_to_within_the_standard_error():
  rng = np.random.default_rng(0)
  x0 = 0.5 * rng.standard_normal((400, 16, 16, 3))
  noisy = x0 + rng.standard_normal(x0.shape)
  for scale, slope in ((1.0, 1.0), (0.9, 1 / 0.9)):
    for found, error in calibration.slopes_of(x0, scale * 0.2 * noisy).values():  # 0.25 / (0.25 + 1) of what is seen
      assert abs(found - slope) < 4 * error
  # The residual's deviation over that of D, which is 2, over the root of the independent values, 1 of 64 of them means.
  errors = [calibration.slopes_of(x0, 0.2 * noisy)[part][1] for part in ("coarse", "fine")]
  values = np.array([1, 63]) * 400 * 16 * 16 * 3 / 64
  np.testing.assert_allclose(errors, 2 / np.sqrt(values), rtol=0.15)


# Restoration


@pytest.mark.parametrize("chains, counts", [(1, []), (2, [2]), (4, [4]), (5, [4, 5]), (16, [4, 16]), (17, [4, 16, 17])])
def test_means_are_of_four_and_more_samples_and_of_all(chains, counts):
  assert restoration.averaged_counts(chains) == counts


@pytest.fixture(scope="module")
def problems():
  """Two pictures of noise, and their measurements."""
  truths = np.asarray(jax.random.uniform(jax.random.key(0), (2, SIZE, SIZE, 3), minval=-0.5, maxval=0.5))
  operator = operators.super_resolution((SIZE, SIZE, 3), 4)
  return truths, [simulate(jax.random.key(i), operator, Gaussian(0.05), jnp.asarray(x)) for i, x in enumerate(truths)]


@pytest.mark.slow
def test_samples_in_pairs_begin_with_the_same_sample_and_go_on_with_its_opposite(problems):
  prior = priors.natural()
  method = DPS(scale=jnp.float32(0.1), rule="squared")

  def restored(chains, in_pairs=False):
    keys = [cases.sample_keys(jax.random.key(i), chains, in_pairs=in_pairs) for i in range(2)]
    return batch.sample_batch(jnp.stack(keys), method, prior, stack(problems[1]), prior.schedule.grid("4"), chunk=4)[0]

  apart, paired = restored(4), restored(4, in_pairs=True)
  np.testing.assert_allclose(restored(1)[:, 0], apart[:, 0], atol=1e-6)
  np.testing.assert_array_equal(paired[:, 0], apart[:, 0])
  np.testing.assert_array_equal(paired[:, 2], apart[:, 1])
  # This rule is affine in the noise under a Gaussian prior: the means of both pairs are one, those of others are not.
  means = lambda samples: (samples[:, 0] + samples[:, 1], samples[:, 2] + samples[:, 3])
  np.testing.assert_allclose(*means(paired), atol=1e-4)
  assert np.max(np.abs(np.subtract(*means(apart)))) > 0.1


@pytest.mark.slow
def test_tuning_marks_a_sample_or_the_mean_of_a_pair(problems, tmp_path):
  """The settings that restoration takes are found by `diffinv tune`, of which this is the sum by hand."""
  truths, _ = problems
  prior = priors.natural()
  common = {"prior": "natural", "data": list(truths), "tasks": TASK, "methods": "dps", "steps": 4, "seed": 3}
  searched = {"dps.scale": (0.1, 0.3)}
  psnr = lambda x, truth: float(image.psnr(*(image.to_unit(jnp.asarray(each)) for each in (x, truth))))
  marks = []
  for count, criterion in ((1, "psnr"), (2, "mean_psnr")):
    config = tune.Search(
      **common, num_samples=count, antithetic=count == 2, criterion=criterion, search=searched,
      set={"dps.rule": "squared"},
    )  # fmt: skip
    (outcome,) = tune.tune(config, tmp_path / f"{count}.json").outcomes
    named = cases.name_cases([tmp_path] * 2, [x.shape for x in truths], 3)
    measured = [measurement.measured(config, TASK, TASKS[TASK], case, x) for case, x in zip(named, truths, strict=True)]
    keys = jnp.stack([cases.chain_keys(config, case) for case in named])
    method = DPS(scale=jnp.float32(0.1), rule="squared")
    got, _ = batch.sample_batch(keys, method, prior, stack(measured), prior.schedule.grid("4"))
    by_hand = np.mean([psnr(samples.mean(axis=0), truth) for samples, truth in zip(got, truths, strict=True)])
    assert outcome.marks[0] == pytest.approx(by_hand, abs=1e-3)
    assert outcome.marks[outcome.best] == max(outcome.marks)
    marks.append(outcome.marks[0])
  assert marks[0] != pytest.approx(marks[1], abs=0.01)


@pytest.fixture
def choosing(monkeypatch, problems):
  """Choose weights of total variation where `bad(weight)` stands for its restorations: how far off they are."""
  truths, measured = problems

  def choose(bad):
    asked = []

    def restored(problem, *, weight):
      asked.append((id(problem), weight))
      return truths[[id(each) for each in measured].index(id(problem))] + np.float32(bad(weight))

    monkeypatch.setattr(baselines, "total_variation", restored)
    fake = restoration.Measurements([], list(truths), {TASK: measured})
    monkeypatch.setattr(restoration, "measurements", lambda subject, purpose: fake)
    return restoration.choose_weights(None), asked

  return choose


def test_the_weight_of_total_variation_is_the_best_of_a_geometric_list(choosing):
  tried = restoration.TV_WEIGHTS
  np.testing.assert_allclose(np.divide(tried[1:], tried[:-1]), np.sqrt(2), rtol=0.02)
  chosen, asked = choosing(lambda weight: 0.01 + abs(np.log2(weight / 0.025)))
  assert chosen["chosen"] == {TASK: 0.025}
  assert len(asked) == len(set(asked)) == 2 * len(tried)


def test_weights_that_diverge_are_left_out(choosing):
  chosen, _ = choosing(lambda weight: np.nan if weight > 0.03 else 0.1 - weight)
  assert chosen["chosen"] == {TASK: 0.025}
  with pytest.raises(ValueError, match="expected a weight of total variation that stays finite, got none"):
    choosing(lambda weight: np.nan)
