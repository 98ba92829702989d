"""What a call needs is told before it starts, near what the compiler says, and refused where the machine has less."""

import jax
import jax.numpy as jnp
import pytest

from diffinv import batch, errors, load_prior, memory, noise, operators, priors, problems
from diffinv.liveness import alive, peak
from diffinv.methods import METHODS
from diffinv.schedules import as_arrays
from diffinv.training import config as training
from diffinv.training import network, step

MEGA = 1_000_000
SHAPE = (32, 32, 3)


def problem(shape=SHAPE):
  operator = operators.super_resolution(shape, 4)
  return problems.Problem(operator, noise.Gaussian(0.05), jnp.zeros(operator.out_shape))


def estimated(function, *arguments):
  return alive(jax.make_jaxpr(function)(*arguments).jaxpr)


def given(monkeypatch, host, device=None):
  monkeypatch.setattr(memory, "available", lambda: host)
  monkeypatch.setattr(memory, "device_available", lambda: device)


# The estimate


X = jax.ShapeDtypeStruct((256, 256), jnp.float32)
ONE = 256 * 256 * 4


@pytest.mark.parametrize(
  "function, arrays",
  [
    (lambda x: x + 1.0, 1),  # the result
    (lambda x: jnp.sum(jnp.sin(x) * 2.0), 0),  # fused into the sum
    (lambda x: x @ x, 1),
    (lambda x: (2.0 * x) @ x, 2),  # a product takes whole values
    (lambda x: (x @ x) @ (x @ x.T), 3),
    (lambda x: ((x @ x) @ x) @ x, 2),  # what is not used any more is gone
    (lambda x: jax.jit(lambda v: (v @ v) @ v)(x), 2),  # calls are looked into
    (lambda x: jax.lax.scan(lambda c, _: ((c @ x) @ x, None), x, None, length=5)[0], 3),  # a loop's body once
    (lambda x: (x, 3), 0),
  ],
)
def test_whole_values_that_are_alive_together_count(function, arrays):
  assert estimated(function, X) == pytest.approx(arrays * ONE, abs=100)


def test_a_gradient_counts_what_it_keeps():
  def loss(x):
    for _ in range(10):
      x = jnp.sin(x @ x)
    return jnp.sum(x)

  assert estimated(loss, X) <= 3 * ONE
  assert estimated(jax.grad(loss), X) >= 10 * ONE
  assert estimated(jax.grad(jax.checkpoint(loss)), X) >= 10 * ONE


@pytest.mark.slow
@pytest.mark.parametrize("size, chains", [(32, 1), (32, 4), (64, 2)])
@pytest.mark.parametrize("name", ["dps", "diffpir"])
def test_a_step_needs_what_the_compiler_says_within_a_factor_of_two(name, size, chains):
  prior, method, one = load_prior("photo"), METHODS[name](), problem((size, size, 3))
  grid = as_arrays(prior.schedule.grid("4"))
  jaxpr = batch.step_jaxpr(method, prior, one, grid, chains=chains)
  stacked = problems.stack([one] * chains)
  keys = jax.random.split(jax.random.key(0), chains)
  state = jax.eval_shape(batch._start, keys, stacked, method, prior, grid, False)
  traced = batch._advance.trace(keys, state, jnp.arange(1), stacked, method, prior, grid, False)
  assert traced.jaxpr.jaxpr is jaxpr  # so that the chains are not traced a second time
  found, weights = traced.lower().compile().memory_analysis(), memory.size(prior)
  needed = found.temp_size_in_bytes + found.output_size_in_bytes
  assert 0.5 < (peak(jaxpr) + weights) / (needed + weights) < 1.5


@pytest.mark.parametrize("swept", [False, True])
def test_the_chains_are_not_traced_a_second_time(swept, monkeypatch):
  steps, update = [], METHODS["diffpir"].update
  monkeypatch.setattr(METHODS["diffpir"], "update", lambda *given: steps.append(given) or update(*given))
  prior, one, grid = priors.natural(), problem(), priors.natural().schedule.grid("4")
  method, keys = METHODS["diffpir"](weight=1.5 + swept), jax.random.split(jax.random.key(0), (2, 2))
  batch.step_jaxpr(method, prior, one, grid, chains=4, swept=swept)
  traced = len(steps)
  given = jax.tree.map(lambda leaf: jnp.full(2, leaf, jnp.float32), method) if swept else method
  two = problems.stack([one, one])
  batch.sample_batch(keys, given, prior, two, grid, chunk=4, progress=lambda *_: None, swept=swept)
  assert traced and len(steps) == traced


def test_a_step_of_twice_the_chains_needs_twice_the_memory_whether_swept_or_not():
  prior, grid = load_prior("photo"), load_prior("photo").schedule.grid("4")
  one, two, swept = (
    peak(batch.step_jaxpr(METHODS["diffpir"](), prior, problem(), grid, chains=chains, swept=own))
    for chains, own in ((1, False), (2, False), (2, True))
  )
  assert two == pytest.approx(2 * one, rel=0.1) and swept == pytest.approx(two, rel=0.5)


def test_what_is_certainly_small_is_not_traced(monkeypatch):
  monkeypatch.setattr(batch, "step_jaxpr", None)
  given(monkeypatch, 10**12)
  memory.check_chains(load_prior("photo"), METHODS["dps"](), problem(), None, chains=4, batch_size=4, shape=SHAPE)


def test_the_bound_by_which_that_is_known_is_generous():
  for name in ("photo", "faces"):
    prior, shape = load_prior(name), (64, 64, 3)
    jaxpr = batch.step_jaxpr(METHODS["dps"](), prior, problem(shape), prior.schedule.grid("4"), chains=1)
    assert memory._most(prior, shape) > 5 * peak(jaxpr)


# What is refused


def check(prior=None, method="diffpir", **fields):
  prior = priors.natural() if prior is None else prior
  grid = load_prior("photo").schedule.grid("4")
  fields = {"chains": 4, "batch_size": 4, "shape": SHAPE, **fields}
  memory.check_chains(prior, METHODS[method](), problem(fields["shape"]), grid, **fields)


def test_results_that_do_not_fit_are_refused_before_anything_is_traced(monkeypatch):
  monkeypatch.setattr(batch, "step_jaxpr", None)
  given(monkeypatch, 100 * MEGA)
  message = (
    r"memory: expected a need of at most 0\.\d+ GB, which this machine has free, got about 1.23e\+04 GB \(weights "
    r"[0-9.e-]+ GB, steps 0 GB, results 1.23e\+04 GB\); lower `batch_size`, `size` or `num_samples`"
  )
  with pytest.raises(errors.UsageError, match=message) as refusal:
    check(chains=10**9)
  assert "\n" not in str(refusal.value)
  with pytest.raises(errors.UsageError, match="memory: expected"):
    check(kept=200 * MEGA)


def test_steps_that_do_not_fit_are_refused_and_a_smaller_batch_is_not(monkeypatch):
  prior = load_prior("photo")
  given(monkeypatch, 20 * MEGA)
  check(prior, "dps", batch_size=1)
  with pytest.raises(errors.UsageError, match="steps 0.*lower `batch_size`"):
    check(prior, "dps", chains=16, batch_size=16)


def test_on_an_accelerator_the_steps_are_the_devices_and_the_results_the_hosts(monkeypatch):
  prior = load_prior("photo")
  given(monkeypatch, 10**12, 20 * MEGA)
  check(prior, "dps", batch_size=1, kept=10**11)
  with pytest.raises(errors.UsageError, match="steps"):
    check(prior, "dps", chains=16, batch_size=16)
  given(monkeypatch, 20 * MEGA, 10**12)
  check(prior, "dps", chains=16, batch_size=16)
  with pytest.raises(errors.UsageError, match="results"):
    check(prior, "dps", chains=10_000, batch_size=1)


def test_where_nobody_says_nothing_is_refused(monkeypatch):
  given(monkeypatch, None)
  check(chains=10**9)


@pytest.mark.parametrize(
  "name, fields",
  [("small", {}), pytest.param("guided_diffusion", {"channels": 32, "batch_size": 2}, marks=pytest.mark.slow)],
)
def test_a_training_that_does_not_fit_is_refused(name, fields, monkeypatch):
  config = training.TrainConfig(data="faces", steps=1, size=32, network=name, **fields).resolved()
  rule, net = config.rule(), network.over_batch(config)
  make = lambda: step.init_state(network.first_weights(config, jax.random.key(0)), optimizer=rule)
  one = lambda state, x0, total: step.train_step(
    state, jax.random.key(0), x0, total, network=net, objective=config.objective(), optimizer=rule
  )
  state, images = jax.eval_shape(make), jax.ShapeDtypeStruct((config.batch_size, 32, 32, 3), jnp.float32)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for Optax's own arithmetic
    given(monkeypatch, 10**10)
    memory.check_training(one, state, images)
    with pytest.raises(errors.UsageError, match="results 1e"):
      memory.check_training(one, state, images, kept=10**12)
    given(monkeypatch, 2 * memory.size(state))
    with pytest.raises(errors.UsageError, match="lower `batch_size`, `size` or `channels`, or raise `accumulate`"):
      memory.check_training(one, state, images)


# What the machine has


def files(root, texts):
  for name, text in texts.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  return root


def test_free_memory_is_read_from_the_system(tmp_path):
  root = files(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  7 kB\nSwapFree: 2 kB\n"})
  assert memory._free(root) == 9 * 1024
  assert memory._free(files(tmp_path, {"proc/meminfo": "odd\n"})) == memory._free(tmp_path / "none")


@pytest.mark.parametrize(
  "group, texts, least",
  [
    ("0::/a/b", {"a/memory.max": "100", "a/memory.current": "30", "a/b/memory.max": "max"}, 70),
    ("0::/a", {"a/memory.max": "100", "a/memory.current": "90", "a/memory.stat": "inactive_file 50\n"}, 60),
    ("0::/a", {"a/memory.max": "100", "a/memory.current": "200"}, 0),
    ("0::/elsewhere", {"memory.max": "100", "memory.current": "1"}, 99),  # as in a container
    ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "100", "memory/a/memory.usage_in_bytes": "10"}, 90),
    ("3:cpu:/a", {"memory/a/memory.limit_in_bytes": "100", "memory/a/memory.usage_in_bytes": "10"}, None),
    ("0::/a", {}, None),
  ],
)
def test_limits_of_cgroups_count(tmp_path, group, texts, least):
  root = files(tmp_path, {"proc/self/cgroup": f"{group}\n", **{f"sys/fs/cgroup/{n}": t for n, t in texts.items()}})
  assert min(memory._cgroup_free(root), default=None) == least


def test_this_machine_says_what_it_has():
  found = memory.available()
  assert found is None or 0 < found < 2**60


# The largest batch


def largest(prior, chains, **fields):
  grid = as_arrays(prior.schedule.grid("10"))
  return memory.largest_batch(prior, METHODS["dps"](), problem(), grid, chains=chains, shape=SHAPE, **fields)


def test_the_largest_batch_is_all_chains_or_the_most_that_fit(monkeypatch):
  prior = load_prior("photo")
  grid = as_arrays(prior.schedule.grid("10"))
  needed = lambda chains: max(
    peak(batch.step_jaxpr(METHODS["dps"](), prior, problem(), grid, chains=chains)),
    batch.step_bytes(METHODS["dps"](), prior, problem(), grid, chains=chains) - memory.size(prior),
  )
  results = memory.pictures(11, SHAPE)
  given(monkeypatch, 100_000 * MEGA)
  assert largest(prior, 11) == 11
  given(monkeypatch, needed(4) + results)
  assert largest(prior, 11) == 4
  given(monkeypatch, needed(4) + results - 1)
  assert largest(prior, 11) == 2
  given(monkeypatch, 1)
  assert largest(prior, 11) == 1
  given(monkeypatch, None)
  assert largest(prior, 11) == memory.DEFAULT_BATCH


def test_what_the_compiler_says_has_the_last_word(monkeypatch):
  prior = load_prior("photo")
  given(monkeypatch, 100_000 * MEGA)
  monkeypatch.setattr(batch, "step_bytes", lambda *_, chains, swept: chains * 30_000 * MEGA)
  assert largest(prior, 11) == 2
