"""The trainer: its network, loss, step, schedules and averages by value; learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from diffinv import priors, schedules
from diffinv.nets import small
from diffinv.schedules import Level, Schedule
from diffinv.training import step as train

TINY = small.SmallConfig(channels=16, multipliers=(1, 2), blocks=1, middle_blocks=1, embedding=32)
NETWORK = jax.jit(small.SmallNet(TINY).apply)
ONE_LEVEL = small.SmallConfig(
  channels=16, multipliers=(1,), blocks=1, middle_blocks=1, embedding=32
)  # for what has no levels
SINGLE = jax.jit(small.SmallNet(ONE_LEVEL).apply)
AVERAGED = train.Optimizer(ema_decay=0.15, warmup_steps=1)


@functools.cache
def random_params(config=TINY, seed=1):
  """Parameters without the zeros of a new network, whose output and gradients would mostly be zero."""
  shapes = jax.eval_shape(lambda: small.initialize(jax.random.key(0), config))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    if leaf.ndim > 1:
      return jnp.asarray(noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1]))))
    return jnp.asarray(np.float32("weight" in jax.tree_util.keystr(path)) + np.float32(0.05) * noise)

  return jax.tree_util.tree_map_with_path(draw, shapes)


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
  apply = jax.jit(small.apply_function(TINY))
  one = jnp.stack([apply(params, x[i], t[i]) for i in range(3)])
  np.testing.assert_allclose(one, NETWORK(params, x, t), rtol=0, atol=1e-5)  # sums in another order


@pytest.mark.slow
def test_network_does_not_see_how_large_the_image_is():
  params = random_params(ONE_LEVEL)
  large = jax.random.normal(jax.random.key(2), (48, 48, 3))
  apply = jax.jit(small.apply_function(ONE_LEVEL))
  whole, part = (apply(params, x, jnp.zeros(()))[:16, :16] for x in (large, large[:32, :32]))
  np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5)  # 4 convolutions reach 8 pixels: the cut is out of sight


def test_depth_to_space_inverts_space_to_depth():
  x = images(2)
  np.testing.assert_array_equal(small.depth_to_space(small.space_to_depth(x, 2), 2), x)


@pytest.mark.slow
def test_bfloat16_network_stays_close_and_returns_float32():
  config = small.SmallConfig(**{**TINY.__dict__, "dtype": "bfloat16"})
  out = jax.jit(small.SmallNet(config).apply)(random_params(), images(), jnp.zeros(8))
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
  expected = priors.X0_FROM["edm"](x_t, output, Level(*(train.per_pixel(v) for v in level)))
  prior = priors.Prior(params, small.apply_function(TINY), Schedule("linear"), prediction="edm", clip=False)
  got = jax.jit(type(prior).denoise)(prior, x_t[2], Level(*(v[2] for v in level))).x0
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
  params, x0 = random_params(ONE_LEVEL), images()
  value = functools.partial(train.loss, key=jax.random.key(0), x0=x0, network=SINGLE)
  grad = jax.jit(jax.grad(value))(params)
  value = jax.jit(value)
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


@functools.cache
def compiled_step(network, objective, how):
  """`train.train_step`, traced under usual promotion: Optax multiplies float32 arrays by Python powers of int32."""
  step = jax.jit(functools.partial(train.train_step, network=network, objective=objective, optimizer=how))

  def call(*args):
    with jax.numpy_dtype_promotion("standard"):
      return step(*args)

  return call


def steps(count, x0):
  """The states of so many steps by AVERAGED, from the one before them."""
  states = [train.init_state(random_params(ONE_LEVEL), AVERAGED)]
  step = compiled_step(SINGLE, train.Objective(), AVERAGED)
  for _ in range(count):
    states.append(step(states[-1], jax.random.key(9), x0, np.float32(100))[0])
  return states


@pytest.mark.slow
def test_average_follows_its_formula():
  states = steps(3, images())
  expected = flat(states[0].params)
  for n in range(3):
    decay = min(0.15, (1 + n) / (10 + n))
    expected = decay * expected + (1 - decay) * flat(states[n + 1].params)
  np.testing.assert_allclose(flat(states[-1].ema), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing():
  states = steps(1, images().at[0, 0, 0, 0].set(jnp.nan))
  np.testing.assert_array_equal(flat(states[1].params), flat(states[0].params))
  np.testing.assert_array_equal(flat(states[1].ema), flat(states[0].ema))
  jax.tree.map(np.testing.assert_array_equal, states[1].opt_state, states[0].opt_state)
  assert int(states[1].step) == 1


@pytest.mark.slow
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
    assert singular.min() > 0.65 and singular.max() < 1.2
    assert float(jnp.vdot(step, grads[name])) > 0  # `train_step` subtracts it


def gradients(accumulate, place=lambda x, spec: x):
  """Loss and gradient of 16 images; `place` puts an array on devices."""
  value = jax.jit(
    functools.partial(train.gradients, network=SINGLE, objective=train.Objective(), accumulate=accumulate)
  )
  return value(place(random_params(ONE_LEVEL), P()), jax.random.key(0), place(images(16), P("batch")))


@pytest.fixture(scope="module")
def whole():
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    return gradients(1)


def agree(one, other):
  np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
  assert relative(flat(other[1]), flat(one[1])) < 1e-5


@pytest.mark.slow
def test_accumulation_equals_the_whole_batch(whole):
  agree(whole, gradients(4))


@pytest.mark.parametrize("accumulate", (1, 2))
@pytest.mark.slow
def test_eight_devices_compute_what_one_does(accumulate, whole):
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
  agree(whole, gradients(accumulate, lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))))


# Learning


@pytest.mark.slow
def test_a_tiny_network_beats_the_fitted_gaussian_on_faces():
  """Held-out error of the denoised image, against the best linear denoiser by frequency that the same renders give."""
  from diffinv.data import faces
  from diffinv.priors import spectral

  size, sbar = 16, 0.3
  render = jax.jit(lambda keys: jax.lax.map(lambda k: faces.render(k, size), keys, batch_size=32))
  drawn = render(jax.random.split(jax.random.key(0), 512 + 128))
  pool, held_out = drawn[:512], drawn[512:]
  config = small.SmallConfig(channels=32, multipliers=(1,), blocks=1, middle_blocks=2, embedding=64)
  network = small.SmallNet(config).apply
  goal = train.Objective(p_mean=-1.2, p_std=0.5, wide=0.0)
  how = train.Optimizer(learning_rate=1e-2, warmup_steps=20, ema_decay=0.98)
  step = compiled_step(network, goal, how)
  state = train.init_state(small.initialize(jax.random.key(1), config), how)
  order = np.random.default_rng(0)
  steps = 250
  for _ in range(steps):
    chosen = order.choice(512, 32, replace=False)
    state, _ = step(state, jax.random.key(2), pool[chosen], np.float32(steps))

  key = jax.random.key(3)
  measured = jax.jit(functools.partial(train.validate, network=network, objective=goal))(
    state.ema, key, held_out, jnp.array([sbar])
  )
  gaussian = spectral.fit([pool])
  level = schedules.level_at(goal.schedule, jnp.full(len(held_out), sbar))
  x_t = train.per_pixel(level.alpha) * held_out + train.per_pixel(level.sigma) * jax.random.normal(key, held_out.shape)
  x0_hat = jnp.clip(jax.jit(jax.vmap(gaussian.denoise))(x_t, level).x0, -1, 1)
  linear = jnp.mean((x0_hat - held_out) ** 2)
  assert float(measured.squared_error[0]) < 0.95 * float(linear)
