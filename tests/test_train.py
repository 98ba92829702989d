"""The trainer: its loss, step, schedules and averages by value; runs that are killed and go on; learning."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from diffinv import priors, schedules
from diffinv.apps import main
from diffinv.apps import train as train_app
from diffinv.nets import small
from diffinv.priors.folder import load_prior, load_provenance
from diffinv.schedules import Level, Schedule
from diffinv.training import step as train

TINY = small.SmallConfig(channels=16, multipliers=(1, 2), blocks=1, middle_blocks=1, embedding=32)
NETWORK = small.SmallNet(TINY).apply


def random_params(config=TINY, seed=1):
  """Parameters without the zeros of a new network, whose output and gradients would mostly be zero."""
  params = small.initialize(jax.random.key(0), config)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(tree, [leaf + 0.05 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys)])


def images(count=8, size=16):
  return jnp.clip(0.5 * jax.random.normal(jax.random.key(5), (count, size, size, 3)), -1, 1)


def relative(a, b):
  return float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))


def flat(tree):
  return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# The network


@pytest.mark.slow
def test_network_of_one_image_is_the_network_of_a_batch():
  params, x, t = random_params(), images(3), jnp.array([-0.5, 0.0, 0.7])
  apply = small.apply_function(TINY)
  one = jnp.stack([apply(params, x[i], t[i]) for i in range(3)])
  np.testing.assert_allclose(one, NETWORK(params, x, t), rtol=0, atol=1e-5)  # sums in another order


@pytest.mark.slow
def test_network_does_not_see_how_large_the_image_is():
  config = small.SmallConfig(channels=16, multipliers=(1,), blocks=1, middle_blocks=1, embedding=32)
  params = random_params(config)
  large = jax.random.normal(jax.random.key(2), (48, 48, 3))
  apply = small.apply_function(config)
  whole, part = (apply(params, x, jnp.zeros(()))[:16, :16] for x in (large, large[:32, :32]))
  np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5)  # 4 convolutions reach 8 pixels: the cut is out of sight


def test_depth_to_space_inverts_space_to_depth():
  x = images(2)
  np.testing.assert_array_equal(small.depth_to_space(small.space_to_depth(x, 2), 2), x)


@pytest.mark.slow
def test_bfloat16_network_stays_close_and_returns_float32():
  config = small.SmallConfig(**{**TINY.__dict__, "dtype": "bfloat16"})
  out = small.SmallNet(config).apply(random_params(), images(), jnp.zeros(8))
  assert out.dtype == jnp.float32
  # 8 bits a product, and 24 if the network did not heed the type.
  assert 1e-4 < relative(out, NETWORK(random_params(), images(), jnp.zeros(8))) < 0.03


# The loss


def level_at(sbar, count=8):
  return schedules.level_at(Schedule("linear"), jnp.full((count,), sbar, jnp.float32))


@pytest.mark.parametrize("prediction", train.OBJECTIVES)
def test_target_is_what_the_prior_turns_into_the_clean_image(prediction):
  x0, eps = images(), jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
  for sbar in (0.05, 1.0, 20.0):
    level = Level(*(train.per_pixel(v) for v in level_at(sbar)))
    x_t = level.alpha * x0 + level.sigma * eps
    output = train.target(x0, eps, level, prediction)
    x0_hat = priors.X0_FROM[prediction](x_t, output, level)
    np.testing.assert_allclose(x0_hat, x0, rtol=0, atol=2e-6 * max(1, sbar**2))  # eps is divided by alpha


@pytest.mark.slow
def test_prior_and_trainer_agree_on_the_denoised_image():
  level = level_at(0.7)
  x_t = jax.random.normal(jax.random.key(3), (8, 16, 16, 3))
  params = random_params()
  output = train.network_output(NETWORK, params, x_t, level, "edm")
  expected = priors.x0_from_edm(x_t, output, Level(*(train.per_pixel(v) for v in level)))
  prior = priors.Prior(params, small.apply_function(TINY), Schedule("linear"), prediction="edm", clip=False)
  got = prior.denoise(x_t[2], Level(*(v[2] for v in level))).x0
  np.testing.assert_allclose(got, expected[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("weighting", train.WEIGHTINGS)
def test_objectives_agree_for_the_same_denoised_image(weighting):
  """A constant error d of x0 costs w(SNR) d^2, whatever is predicted."""
  x0, error = images(), 0.1
  for sbar in (0.3, 2.0):
    level = level_at(sbar)
    pixel_level = Level(*(train.per_pixel(v) for v in level))
    drawn = train.Drawn(level, jax.random.normal(jax.random.key(1), x0.shape))
    x_t = pixel_level.alpha * x0 + pixel_level.sigma * drawn.eps
    costs = {}
    for prediction in train.OBJECTIVES:
      off = {
        "edm": priors.edm_scales(pixel_level)[1],
        "v": -pixel_level.sigma,
        "eps": -pixel_level.sigma / pixel_level.alpha,
      }[prediction]
      wrong = train.target(x0, drawn.eps, pixel_level, prediction) + error / off
      np.testing.assert_allclose(priors.X0_FROM[prediction](x_t, wrong, pixel_level), x0 + error, atol=1e-5)
      goal = train.Objective(prediction=prediction, weighting=weighting)
      cost = train.losses(lambda params, x, t: wrong, None, x0, drawn, goal)
      natural = {"edm": (1 + 4 * sbar**2) / sbar**2, "v": 1 + sbar**-2, "eps": sbar**-2}[prediction]
      costs[prediction] = cost / (natural if weighting == "none" else 1.0)
    expected = error**2 * (1.0 if weighting == "none" else min(sbar**-2, 5.0))
    for cost in costs.values():
      np.testing.assert_allclose(cost, np.full(8, expected), rtol=1e-4)


@pytest.mark.slow
def test_loss_gradient_is_the_slope_of_the_loss():
  params, x0 = random_params(), images()
  value = functools.partial(train.loss, key=jax.random.key(0), x0=x0, network=NETWORK)
  grad = jax.grad(value)(params)
  step = 1e-2 / float(jnp.linalg.norm(flat(grad)))
  ahead, behind = (float(value(jax.tree.map(lambda p, g: p + s * step * g, params, grad))) for s in (1, -1))
  slope = (ahead - behind) / (2 * step)
  assert abs(slope / float(jnp.sum(flat(grad) ** 2)) - 1) < 0.02  # central difference in float32


@pytest.mark.slow
def test_lognormal_levels_have_their_mean_and_spread():
  goal = train.Objective(p_mean=-0.5, p_std=1.2, wide=0.0)
  level = train.draw_levels(jax.random.key(0), 4096, goal)
  log_sbar = jnp.log(level.sigma / level.alpha)
  assert abs(float(jnp.mean(log_sbar)) + 0.5) < 0.01
  assert abs(float(jnp.std(log_sbar)) - 1.2) < 0.02
  np.testing.assert_allclose(level.alpha**2 + level.sigma**2, np.ones(4096), rtol=1e-5)


def test_uniform_levels_are_the_schedule_once_each():
  goal = train.Objective(levels="uniform")
  level = train.draw_levels(jax.random.key(0), 1000, goal)
  order = np.argsort(level.t)
  np.testing.assert_allclose(np.asarray(level.t)[order], np.arange(1000), atol=1)
  np.testing.assert_allclose(
    np.asarray(level.alpha), np.sqrt(goal.schedule.alpha_bar())[np.asarray(level.t, int)], rtol=1e-6
  )


def test_levels_know_their_time():
  schedule = Schedule("linear")
  level = schedules.level_at(schedule, jnp.exp(jnp.asarray(schedules.log_sbar(schedule)[::100], jnp.float32)))
  np.testing.assert_allclose(level.t, np.arange(0, 1000, 100), atol=0.02)
  np.testing.assert_allclose(level.alpha, np.sqrt(schedule.alpha_bar())[::100], rtol=1e-5)


@pytest.mark.slow
def test_learned_variance_term_vanishes_at_the_true_posterior_and_spares_the_mean():
  goal = train.Objective(prediction="eps", levels="uniform", learned_variance=True)
  x0 = images()
  drawn = train.draw(jax.random.key(0), x0.shape, goal)
  level = Level(*(train.per_pixel(v) for v in drawn.level))
  x_t = level.alpha * x0 + level.sigma * drawn.eps
  perfect = jnp.concatenate([drawn.eps, -jnp.ones_like(x0)], axis=-1)  # beta~ is the variance of q(x_s | x_t, x0)
  term = functools.partial(train.variational_term, x0=x0, x_t=x_t, level=drawn.level, objective=goal)
  assert float(jnp.max(jnp.abs(term(perfect)))) < 0.05  # 1000 steps of float32 rounding, in bits
  grad = jax.grad(lambda output: jnp.sum(term(output)))(perfect + 0.3)
  assert float(jnp.max(jnp.abs(grad[..., :3]))) == 0.0
  assert float(jnp.max(jnp.abs(grad[..., 3:]))) > 0.0


# The step


def test_learning_rate_warms_up_and_decays():
  how = train.Optimizer(learning_rate=2.0, warmup_steps=10, decay="cosine", final_fraction=0.1)
  rate = [float(train.learning_rate(step, 110, how)) for step in (0, 4, 10, 60, 110, 200)]
  np.testing.assert_allclose(rate, [0.2, 1.0, 2.0, 1.1, 0.2, 0.2], rtol=1e-5)
  linear = train.Optimizer(learning_rate=2.0, warmup_steps=10, decay="linear", final_fraction=0.0)
  np.testing.assert_allclose(train.learning_rate(35, 110, linear), 1.5, rtol=1e-5)
  constant = train.Optimizer(learning_rate=2.0, warmup_steps=10, decay="constant")
  np.testing.assert_allclose(train.learning_rate(100, 110, constant), 2.0)


def compiled_step(network, objective, how):
  """`train.train_step`, traced under usual promotion: Optax multiplies float32 arrays by Python powers of int32."""
  step = jax.jit(functools.partial(train.train_step, network=network, objective=objective, optimizer=how))

  def call(*args):
    with jax.numpy_dtype_promotion("standard"):
      return step(*args)

  return call


def steps(count, how, x0, network=NETWORK):
  state = train.init_state(random_params(), how)
  step = compiled_step(network, train.Objective(), how)
  states = [state]
  for _ in range(count):
    states.append(step(states[-1], jax.random.key(9), x0, np.float32(100))[0])
  return states


@pytest.mark.slow
def test_average_follows_its_formula():
  states = steps(3, train.Optimizer(ema_decay=0.15, warmup_steps=1), images())
  expected = flat(states[0].params)
  for n in range(3):
    decay = min(0.15, (1 + n) / (10 + n))
    expected = decay * expected + (1 - decay) * flat(states[n + 1].params)
  np.testing.assert_allclose(flat(states[-1].ema), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accumulation_equals_the_whole_batch():
  grads = [
    train.gradients(
      random_params(), jax.random.key(0), images(), network=NETWORK, objective=train.Objective(), accumulate=parts
    )
    for parts in (1, 4)
  ]
  np.testing.assert_allclose(grads[0][0], grads[1][0], rtol=1e-5)
  assert relative(flat(grads[1][1]), flat(grads[0][1])) < 1e-5


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing():
  states = steps(1, train.Optimizer(), images().at[0, 0, 0, 0].set(jnp.nan))
  np.testing.assert_array_equal(flat(states[1].params), flat(states[0].params))
  np.testing.assert_array_equal(flat(states[1].ema), flat(states[0].ema))
  jax.tree.map(np.testing.assert_array_equal, states[1].opt_state, states[0].opt_state)
  assert int(states[1].step) == 1


def test_muon_turns_wide_kernels_alone_and_downhill():
  shapes = {"wide": (3, 3, 32, 48), "point": (1, 1, 64, 32), "pixels": (3, 3, 13, 32), "dense": (32, 64), "bias": (32,)}
  grads = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
  params = jax.tree.map(jnp.zeros_like, grads)

  def direction(transformation):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for Optax's own arithmetic
      return transformation.update(grads, transformation.init(params), params)[0]

  muon = direction(train.transformation(train.Optimizer(rule="muon", clip_norm=1e9)))
  adam = direction(optax.scale_by_adam(b1=0.9, b2=0.99, nesterov=True))
  for name, step in muon.items():
    if name not in ("wide", "point"):
      np.testing.assert_array_equal(step, adam[name])
      continue
    rows = np.reshape(step, (-1, step.shape[-1]))
    singular = np.linalg.svd(rows, compute_uv=False) / (0.2 * np.sqrt(max(rows.shape)))
    # Five steps of Newton and Schulz as Jordan et al. have them take every singular value to [0.68, 1.13].
    assert 0.65 < singular.min() and singular.max() < 1.2
    assert float(jnp.vdot(step, grads[name])) > 0  # `train_step` subtracts it


@pytest.mark.parametrize("accumulate", (1, 2))
@pytest.mark.slow
def test_eight_devices_compute_what_one_does(accumulate):
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
  x0 = images(16)
  value = jax.jit(
    functools.partial(train.gradients, network=NETWORK, objective=train.Objective(), accumulate=accumulate)
  )
  one = value(random_params(), jax.random.key(0), x0)
  eight = value(
    jax.device_put(random_params(), NamedSharding(mesh, P())),
    jax.random.key(0),
    jax.device_put(x0, NamedSharding(mesh, P("batch"))),
  )
  np.testing.assert_allclose(one[0], eight[0], rtol=1e-5)
  assert relative(flat(eight[1]), flat(one[1])) < 1e-5


# Runs


COMMAND = (
  "--data=photos --size=16 --channels=8 --multipliers=1,2 --middle_blocks=1 --embedding=16 --held_out=8 "
  "--warmup_steps=5 --batch_size=4 --steps=36 --validate_every=12 --sample_every=1000 --log_every=1 --workers=1"
).split()


def start_run(output, *flags):
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[1])
  command = [sys.executable, "-u", "-m", "diffinv.apps.train", *COMMAND, f"--output={output}", *flags]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish_run(output, *flags):
  run = start_run(output, *flags)
  text = run.communicate()[0]
  assert run.returncode == 0, text
  return text


def last_state(output):
  """The leaves of the last saved state, by path."""
  manager = ocp.CheckpointManager(pathlib.Path(f"{output}.training").resolve() / "last")
  state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
  manager.close()
  return {jax.tree_util.keystr(path): np.asarray(v) for path, v in jax.tree_util.tree_leaves_with_path(state)}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
  pytest.importorskip("skimage")
  rule = ("--optimizer=muon", "--channels=32")  # what Muon carries, Adam does too, and it has a momentum of its own
  finish_run(tmp_path / "whole", *rule)
  # --save_seconds=0 saves after every step: at any moment a checkpoint is being written.
  run = start_run(tmp_path / "killed", "--save_seconds=0", *rule)
  for line in run.stdout:
    if line.startswith("step 17/"):
      run.send_signal(signal.SIGKILL)
      break
  run.communicate()
  assert not (tmp_path / "killed").exists()
  text = finish_run(tmp_path / "killed", "--save_seconds=0", *rule)
  assert "going on from step" in text
  whole, killed = last_state(tmp_path / "whole"), last_state(tmp_path / "killed")
  assert whole.keys() == killed.keys()
  for name, value in whole.items():
    np.testing.assert_array_equal(killed[name], value, err_msg=name)
  told = [json.loads((tmp_path / name / "prior.json").read_text()) for name in ("whole", "killed")]
  assert told[0] == told[1]
  logged = [json.loads(line)["step"] for line in (tmp_path / "killed.training" / "log.jsonl").read_text().splitlines()]
  assert sorted(set(logged)) == list(range(1, 37))
  assert logged == sorted(logged)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_settings(tmp_path):
  pytest.importorskip("skimage")
  finish_run(tmp_path / "p", "--steps=2", "--validate_every=2")
  run = start_run(tmp_path / "p", "--overwrite", "--learning_rate=0.5")
  text = run.communicate()[0]
  assert run.returncode == 2
  assert "learning_rate" in text
  assert "Traceback" not in text


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  for name in "abcd":
    Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (20, 20, 3), np.uint8)).save(
      folder / f"{name}.png"
    )
  flags = (f"--data={folder}", "--steps=2", "--validate_every=2", "--held_out=1")
  finish_run(tmp_path / "p", *flags)
  (folder / "d.png").rename(folder / "e.png")
  run = start_run(tmp_path / "p", "--overwrite", *flags)
  text = run.communicate()[0]
  assert run.returncode == 2 and "are not those with which the run in" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_run_that_is_cut_short_is_validated_at_its_end(tmp_path):
  pytest.importorskip("skimage")
  late = ("--validate_every=1000", "--save_seconds=0")
  run = start_run(tmp_path / "p", *late, "--steps=1000")
  for line in run.stdout:
    if line.startswith("step 6/"):
      run.terminate()  # not by SIGINT, which commands in the background ignore
      break
  rest = run.communicate()[0]
  assert "the same command goes on from there" in rest and "nothing was written" not in rest
  finish_run(tmp_path / "p", *late, "--steps=3")
  assert load_provenance(tmp_path / "p")["steps"] >= 6


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_a_prior(tmp_path):
  """With a learning rate of nothing, what comes out is what went in."""
  pytest.importorskip("skimage")
  short = ("--steps=2", "--validate_every=2")
  finish_run(tmp_path / "first", *short)
  again = (f"--init={tmp_path / 'first'}", "--learning_rate=1e-30", "--weight_decay=0", "--seed=5")
  finish_run(tmp_path / "second", *short, *again)
  first, second = (load_prior(tmp_path / name).params for name in ("first", "second"))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  before, now = (load_provenance(tmp_path / name) for name in ("first", "second"))
  assert now["images_seen"] == 2 * before["images_seen"] > 0 and now["init"] == before
  run = start_run(tmp_path / "third", *short, *again, "--channels=16")
  text = run.communicate()[0]
  assert run.returncode == 2 and "init: expected a prior of the flags' channels, 16" in text
  assert "Traceback" not in text


class Stopped(SystemExit):
  pass


def counting_run(tmp_path, stops=(), length=("--steps=9", "--validate_every=4"), during=lambda step: None, skipped=0.0):
  """Go on with a run of 9 steps that only counts them, validates every 4 and is stopped in those after `stops`.

  `during` is called in each step with its number, from 1, and in validations with None.
  """
  main.parse("train", train_app.FLAGS, ["--data=faces", *length, f"--output={tmp_path / 'p'}"])
  s = train_app.settings_from_flags()
  train_app.training_folder(s).mkdir(exist_ok=True)
  run = train_app.Run(s, train_app.make_plan(s))
  weights = {"a": jnp.zeros(3)}

  def step(state, x0, total):
    state = train.TrainState(state.step + 1, state.params, {"a": state.ema["a"] + 1}, state.opt_state)
    during(int(state.step))
    return state, {name: jnp.zeros(()) for name in ("loss", "grad_norm", "learning_rate")} | {"skipped": skipped}

  def validate(ema):
    during(None)
    if int(ema["a"][0]) in stops:
      raise Stopped(143)
    return train.Validation(1.0 / ema["a"][0], jnp.ones(len(train_app.VALIDATION_SBARS)))

  functions = train_app.Functions(None, step, validate, lambda ema: np.zeros((16, 8, 8, 3), np.float32), lambda b: b)
  data = train_app.Data(lambda start, stop: (i for i in range(start, stop)), np.zeros((1, 8, 8, 3)), [], dict)
  state = run.restore(train.TrainState(jnp.zeros((), jnp.int32), weights, weights, weights))
  try:
    train_app.loop(s, run, data, functions, state)
  finally:
    run.close()
  return run


@pytest.mark.parametrize("stops", [(4,), (9,), (4, 8, 9)])
def test_a_validation_that_a_stop_interrupts_is_made_up_for(tmp_path, stops):
  for step in stops:
    with pytest.raises(Stopped):
      counting_run(tmp_path, (step,))
  counting_run(tmp_path)
  run = counting_run(tmp_path)  # once more, after the end: nothing is owed
  entries = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
  assert [entry["step"] for entry in entries if "validation" in entry] == [4, 8, 9]
  # The best weights, too, are those of a run without a stop: the last ones.
  manager = ocp.CheckpointManager(run.path / "best")
  assert manager.all_steps() == [9]
  manager.close()


def test_a_signal_to_stop_waits_for_the_end_of_the_step(tmp_path):
  def stop(*_):
    raise Stopped(143)

  before = signal.signal(signal.SIGTERM, stop)
  try:
    with pytest.raises(Stopped):
      counting_run(tmp_path, during=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None)
    assert signal.getsignal(signal.SIGTERM) is stop
  finally:
    signal.signal(signal.SIGTERM, before)
  manager = ocp.CheckpointManager(tmp_path / "p.training" / "last")
  assert manager.all_steps() == [6]
  manager.close()


@pytest.mark.parametrize("validation, compiling", [(0.0, 0.0), (300.0, 0.0), (0.0, 3000.0)])
def test_a_run_of_minutes_takes_them_however_long_validations_are(tmp_path, monkeypatch, validation, compiling):
  class Clock:
    now = 0.0

    def monotonic(self):
      return self.now

  clock = Clock()
  monkeypatch.setattr(train_app, "time", clock)

  once = [compiling]  # by the first validation

  def spend(step):
    if step is None:
      clock.now += validation + (once.pop() if once else 0.0)
    else:
      clock.now += 60.0 if step == 1 else 2.0  # the first one compiles

  run = counting_run(tmp_path, length=("--minutes=300", "--validate_every=200", "--log_every=500"), during=spend)
  assert run.total_steps > 3000
  assert abs(clock.now / 60 / 300 - 1) < 0.04


def test_a_run_that_has_diverged_ends(tmp_path, capsys):
  with pytest.raises(ValueError, match="expected finite gradients, got none in the last 100 steps; start again"):
    counting_run(tmp_path, length=("--steps=900",), skipped=1.0)
  assert "20 of 20 steps skipped for gradients that are not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
  "skips, lost", [([0, 0], 0), ([1, 0, 1, 1], 2), ([1, 1], 9), ([0, 1], 1)], ids=("none", "some", "all", "last")
)
def test_skipped_steps_in_a_row_are_counted(tmp_path, skips, lost):
  run = counting_run(tmp_path)
  metrics = [{"loss": 0.0, "grad_norm": 0.0, "learning_rate": 0.0, "skipped": float(v)} for v in skips]
  meter = train_app.Meter(1)
  meter.mark(0)
  assert train_app._report(run, meter, 9, metrics, 7) == lost


# Validations


def test_a_validation_does_not_depend_on_the_seed(tmp_path):
  held_out = images(8, 16)

  def build(*flags):
    main.parse("train", train_app.FLAGS, [*COMMAND, "--devices=1", f"--output={tmp_path / 'p'}", *flags])
    return train_app.build(train_app.settings_from_flags(), held_out)

  first, other = build("--seed=1"), build("--seed=2")
  params = first.init().params
  with pytest.raises(AssertionError):  # the weights do
    chex.assert_trees_all_equal(params, other.init().params)
  chex.assert_trees_all_equal(first.validate(params), other.validate(params))


def test_a_validation_has_no_more_images_at_once_than_a_step(tmp_path):
  held_out = images(64, 16)
  wide = ("--data=faces", "--size=16", "--channels=128", "--multipliers=1", "--patch=1", "--embedding=16", "--steps=1")

  def validation(*flags):
    main.parse("train", train_app.FLAGS, [*wide, f"--output={tmp_path / 'p'}", *flags])
    functions = train_app.build(train_app.settings_from_flags(), held_out)
    params = functions.init().params
    compiled = functions.validate.func.lower(params, **functions.validate.keywords).compile()
    return functions.validate(params), compiled.memory_analysis().temp_size_in_bytes

  whole, much = validation("--batch_size=64")
  parts, little = validation("--batch_size=64", "--accumulate=8")
  with_a_rest, _ = validation("--batch_size=24")
  assert little < much / 4
  for other in (parts, with_a_rest):
    chex.assert_trees_all_close(other, whole, rtol=1e-5)


# Folders


def folder_settings(tmp_path, *flags):
  data = (f"--data={tmp_path / 'images'}", f"--output={tmp_path / 'p'}", "--size=16", "--batch_size=8", "--steps=1")
  main.parse("train", train_app.FLAGS, [*data, *flags])
  return train_app.settings_from_flags()


def open_folder(tmp_path, *flags):
  """Open the folder `images`; return the data and what was said."""
  said = []
  return train_app.open_data(folder_settings(tmp_path, *flags), said.append), said


def write_colors(tmp_path, count):
  """Write pictures of one color each, by which crops tell whose they are."""
  (tmp_path / "images").mkdir()
  for i in range(count):
    Image.fromarray(np.full((24, 40, 3), 5 * i, np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")


def colors(x):
  return [round((float(v) + 1) * 127.5 / 5) for v in x.mean(axis=(1, 2, 3))]


def test_each_held_out_file_gives_several_crops_and_none_to_train_on(tmp_path):
  write_colors(tmp_path, 20)
  data, said = open_folder(tmp_path, "--held_out=7", "--flip=false")
  held_out = [int(name.removesuffix(".png")) for name in data.held_out_files]
  assert sorted(colors(data.held_out)) == sorted(3 * held_out)
  assert sorted(colors(data.held_out[:2])) == held_out  # one of each first
  assert said == ["data: 20 files, 2 of them held out: the validation is on 6 crops"]
  shown = {c for batch in data.stream(0, 9) for c in colors(np.asarray(batch, np.float32) / 127.5 - 1)}
  assert shown == set(range(20)) - set(held_out)


@pytest.mark.parametrize("count", (3, 20), ids=("none held out", "some"))
def test_crops_held_out_do_not_depend_on_the_seed(tmp_path, count):
  (tmp_path / "images").mkdir()
  rng = np.random.default_rng(0)
  for i in range(count):
    Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
  first, other = (open_folder(tmp_path, f"--seed={seed}")[0] for seed in (1, 2))
  np.testing.assert_array_equal(first.held_out, other.held_out)
  batch = lambda data: np.asarray(next(iter(data.stream(0, 1))))
  assert not np.array_equal(batch(first), batch(other))


def test_the_whole_of_a_file_is_held_out_once(tmp_path):
  write_colors(tmp_path, 20)
  data, said = open_folder(tmp_path, "--crop=resize")
  assert len(data.held_out) == 2 and "on 2 crops" in said[-1]


def test_of_a_few_files_none_is_held_out_and_that_is_said(tmp_path):
  write_colors(tmp_path, 9)
  data, said = open_folder(tmp_path, "--held_out=20")
  assert said == ["data: 9 files, none held out: the validation is on 18 crops of the training images"]
  assert sorted(colors(data.held_out)) == sorted(2 * list(range(9))) and data.held_out_files == []


@pytest.mark.parametrize("count", (3, 20))
def test_files_that_cannot_be_read_are_not_held_out_and_are_named_once(tmp_path, count):
  write_colors(tmp_path, count)
  kept = open_folder(tmp_path)[0].held_out_files
  for name in kept or ["01.png"]:
    (tmp_path / "images" / name).write_bytes(b"no picture")
  data, said = open_folder(tmp_path)
  assert len(data.held_out_files) == len(kept) and not set(data.held_out_files) & set(kept)
  list(data.stream(0, 9))
  assert sorted(data.skipped()) == sorted(kept or ["01.png"])
  assert sum("skipped" in line for line in said) == len(data.skipped())


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path):
  write_colors(tmp_path, 12)
  for path in (tmp_path / "images").iterdir():
    path.write_bytes(b"no picture")
  with pytest.raises(ValueError, match="expected images that can be read in .*, got 12 that cannot"):
    open_folder(tmp_path)


def test_faces_of_a_seed_stay_what_they_are(monkeypatch):
  """Image i of a run of faces is drawn by key i of the first half of the seed, and mirrored by that key's key 1."""
  from diffinv.data import faces

  draw = lambda key, size: jax.random.uniform(key, (size, size, 3))  # the renderer takes a minute to compile
  monkeypatch.setattr(faces, "render", draw)
  flags = "--data=faces --output=p --steps=1 --size=16 --batch_size=4 --devices=1".split()

  def open_faces(seed):
    main.parse("train", train_app.FLAGS, [*flags, f"--seed={seed}"])
    return train_app.open_data(train_app.settings_from_flags(), print)

  data = open_faces(5)
  batch = next(iter(data.stream(3, 4)))
  for i, picture in enumerate(batch):
    key = jax.random.fold_in(jax.random.split(jax.random.key(5))[0], 12 + i)
    expected = draw(key, 16)
    mirrored = bool(jax.random.bernoulli(jax.random.fold_in(key, 1)))
    np.testing.assert_array_equal(picture, expected[:, ::-1] if mirrored else expected)
  assert data.held_out.shape == (80, 16, 16, 3)
  np.testing.assert_array_equal(open_faces(6).held_out, data.held_out)  # what all seeds are judged by


def test_the_commit_is_that_of_the_code_and_not_of_what_lies_around_it(tmp_path, monkeypatch):
  git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
  subprocess.run([*git, "init", "-q"], check=True)
  (tmp_path / "train.py").write_text("")
  monkeypatch.setattr(train_app, "__file__", str(tmp_path / "train.py"))
  subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
  assert train_app._commit() is None
  subprocess.run([*git, "add", "train.py"], check=True)
  subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
  commit = train_app._commit()
  assert len(commit) == 40
  (tmp_path / "train.py").write_text("changed")
  assert train_app._commit() == f"{commit}-dirty"


@pytest.mark.slow
def test_a_run_on_two_devices_is_that_on_one(tmp_path):
  pytest.importorskip("skimage")
  finish_run(tmp_path / "first", "--steps=2", "--validate_every=2")
  flags = ("--steps=12", "--validate_every=12", f"--init={tmp_path / 'first'}")
  for count in (1, 2):
    assert f"devices: {count} cpu" in finish_run(tmp_path / str(count), *flags, f"--devices={count}")
  one, two = (load_prior(tmp_path / str(count)).params for count in (1, 2))
  assert relative(flat(two), flat(one)) < 1e-3
  run = start_run(tmp_path / "third", *flags, "--devices=4000")
  text = run.communicate()[0]
  assert run.returncode == 2 and "--devices: expected at most" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_tiny_network_beats_the_fitted_gaussian_on_faces():
  """Held-out error of the denoised image, against the best linear denoiser by frequency that the same renders give."""
  from diffinv import spectral_prior
  from diffinv.data import faces

  size, sbar = 16, 0.3
  render = jax.jit(lambda keys: jax.lax.map(lambda k: faces.render(k, size), keys, batch_size=32))
  drawn = render(jax.random.split(jax.random.key(0), 1024 + 128))
  pool, held_out = drawn[:1024], drawn[1024:]
  config = small.SmallConfig(channels=32, multipliers=(1, 2), blocks=1, middle_blocks=2, embedding=64)
  network = small.SmallNet(config).apply
  goal = train.Objective(p_mean=-1.2, p_std=0.5, wide=0.0)
  how = train.Optimizer(learning_rate=3e-3, warmup_steps=20, ema_decay=0.98)
  step = compiled_step(network, goal, how)
  state = train.init_state(small.initialize(jax.random.key(1), config), how)
  order = np.random.default_rng(0)
  for _ in range(400):
    chosen = order.choice(1024, 32, replace=False)
    state, _ = step(state, jax.random.key(2), pool[chosen], np.float32(400))

  key = jax.random.key(3)
  measured = train.validate(
    state.ema, key, held_out, jnp.array([sbar]), network=small.SmallNet(config).apply, objective=goal
  )
  gaussian = spectral_prior.fit([pool])
  level = schedules.level_at(goal.schedule, jnp.full(len(held_out), sbar))
  x_t = train.per_pixel(level.alpha) * held_out + train.per_pixel(level.sigma) * jax.random.normal(key, held_out.shape)
  linear = jnp.mean((jnp.clip(jax.vmap(gaussian.denoise)(x_t, level).x0, -1, 1) - held_out) ** 2)
  assert float(measured.squared_error[0]) < 0.95 * float(linear)
