"""Methods against what is known exactly under a Gaussian prior: steps, differences of samples, laws and coverage."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import noise, sampler
from diffinv.methods import affine
from diffinv.methods.affine import G3, Affine
from diffinv.methods.base import Method, XState
from diffinv.methods.cases import Case, Descent, Mean
from diffinv.metrics import uncertainty
from diffinv.priors import AnyPrior
from diffinv.problems import Problem
from diffinv.schedules import Level, as_arrays
from diffinv.verification import mixture, statistics
from diffinv.verification.rows import LARGEST_Z, SCHEDULE, Row, Size, failed, largest
from diffinv.verification.sampling import COMPILER, chains

EXACT = 1e-10  # float64: error of an affine map or of a difference of samples, relative to 1 + its size
SMALLEST_P = 1e-5  # some forty p-values a run: a false alarm in a few thousand runs
DRAWS, LEVEL = 19, 0.9  # from the least of 19 draws to the largest is 90 %
PAIRED = 8  # chains whose samples are compared between two measurements
OTHER_Y = np.array([0.7, -1.1])  # what is added to y for them
REST_ERROR = 0.05  # of a descent: of the way from its start, what Adam's jitter leaves
REST_STEPS, REST_CHAINS = 1500, 64  # of a descent to its point of rest
MEAN_SIGMAS = (0.05, 0.3, 2.0)  # of the noise of a denoiser, within the schedule
AT = 60  # the level at which it rests


def level_pairs(levels: Level) -> tuple[Level, Level]:
  """Return the levels `now` and `nxt` of every step, `[n]` each."""
  return Level(*(v[:-1] for v in levels)), Level(*(v[1:] for v in levels))


def extracted_maps(
  method: Method, prior: AnyPrior, problem: Problem, now: Level, nxt: Level
) -> tuple[Affine, np.ndarray]:
  """Read the maps (F, g, L), stacked over `[n]` steps, off the library's own `method.step`; float64.

  F comes from basis vectors at a fixed key, g and L from the origin at d + 3 keys by least squares, provided that a
  step draws its noise as `normal(key, shape)`.

  Returns:
    the maps, and the largest misfit of the least squares of each step relative to 1 + its values, `[n]`: 0 if the step
    is affine in that noise; otherwise its map means nothing.
  """
  F, origin, z = (np.asarray(v) for v in _probe(method, prior, problem, now, nxt))
  design = np.concatenate([np.ones((len(z), 1)), z], axis=1)
  solved = np.linalg.pinv(design) @ origin
  scale = 1 + np.abs(origin).max(axis=(1, 2), keepdims=True)
  misfit = np.max(np.abs(design @ solved - origin) / scale, axis=(1, 2))
  return Affine(F, solved[:, 0], np.swapaxes(solved[:, 1:], 1, 2)), misfit


@functools.partial(jax.jit, compiler_options=COMPILER)
def _probe(method, prior, problem, now, nxt):
  d, dtype = prior.means.shape[-1], prior.means.dtype
  keys = jax.random.split(jax.random.key(7), d + 3)
  # One batch: the origin at every key, and the basis vectors at the first key.
  points = jnp.concatenate([jnp.zeros((len(keys), d), dtype), jnp.eye(d, dtype=dtype)])
  point_keys = keys[jnp.array([*range(len(keys)), *[0] * d])]

  def one(key, x, now, nxt):
    return method.step(key, XState(x), now, nxt, prior, problem)[0].x

  over_points = jax.vmap(one, in_axes=(0, 0, None, None))
  moved = jax.vmap(over_points, in_axes=(None, None, 0, 0))(point_keys, points, now, nxt)
  origin = moved[:, : len(keys)]
  F = jnp.swapaxes(moved[:, len(keys) :] - origin[:, :1], 1, 2)
  return F, origin, jax.vmap(lambda key: jax.random.normal(key, (d,), dtype))(keys)


def map_error(got: Affine, want: Sequence[Affine]) -> float:
  """Return the largest error of stacked maps, relative to 1 + the size of each map."""
  errors = []
  for field, values in got._asdict().items():
    expected = np.stack([getattr(one, field) for one in want])
    scale = 1 + np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
    errors.append(np.max(np.abs(values - expected) / scale))
  return float(np.max(errors))  # nan if one of them is


@functools.cache
def measured_truths(problems: int) -> tuple[np.ndarray, np.ndarray]:
  """Return x0 ~ prior of G3, `[problems, 3]`, and their measurements, `[problems, 2]`; fixed."""
  rng = np.random.RandomState(0)
  truths = G3.m + rng.standard_normal((problems, 3)) @ np.linalg.cholesky(G3.C).T
  return truths, truths @ G3.A.T + G3.sigma * rng.standard_normal((problems, 2))


def gaussian_row(name: str, case: Case, size: Size, key: jax.Array) -> Row:
  """Check the method `name` on G3, all in float64."""
  truths, ys = measured_truths(size.problems)
  at_y, at_other_y, of_truths = _drawn(case, size.chains, ys, key)
  law = case.law(G3)
  moved = case.law(G3._replace(y=G3.y + OTHER_Y)).mean - law.mean
  values = {"step": _step_error(case)} if case.one_noise and size.everything else {}
  values["gain"] = float(np.max(np.abs(at_other_y - at_y[:PAIRED] - moved)))
  values["mean_z"] = largest((at_y.mean(axis=0) - law.mean) / np.sqrt(np.diag(law.cov) / size.chains))
  values["p_mean"], values["p_cov"] = statistics.p_values(at_y, law)
  values |= _coverage(case, of_truths, truths)
  holds = {
    "step": values.get("step", 0.0) < EXACT,
    "gain": values["gain"] < EXACT,
    "mean": values["p_mean"] > SMALLEST_P,
    "covariance": values["p_cov"] > SMALLEST_P,
    "coverage": abs(values["coverage_z"]) < LARGEST_Z,
  }
  return Row("gaussian", name, case.settings, values, failed(holds), case.note)


def _drawn(case, count, ys, key):
  """Return chains at y, `[count, 3]`, the first of them again at another y, and draws for each of the `ys`.

  One call, so that a method compiles once.
  """
  all_ys = np.concatenate(
    [np.tile(G3.y, (count, 1)), np.tile(G3.y + OTHER_Y, (PAIRED, 1)), np.repeat(ys, DRAWS, axis=0)]
  )
  keys = jax.random.split(key, count + len(ys) * DRAWS)
  keys = jnp.concatenate([keys[:count], keys[:PAIRED], keys[count:]])
  with jax.enable_x64():
    grid = as_arrays(SCHEDULE.grid(case.levels))
    samples = np.asarray(chains(keys, jnp.asarray(all_ys), case.build(), G3.prior(SCHEDULE), G3.problem(), grid))
  at_y, at_other_y, of_ys = np.split(samples, [count, count + PAIRED])
  return at_y, at_other_y, of_ys.reshape(len(ys), DRAWS, -1)


def _step_error(case):
  """Return the error of the library's steps as affine maps of the iterate and of one noise."""
  with jax.enable_x64():
    method, levels = case.build(), as_arrays(SCHEDULE.grid(case.levels))
    got, misfit = extracted_maps(method, G3.prior(SCHEDULE), G3.problem(), *level_pairs(method.levels(levels)))
  return float(np.max([map_error(got, case.maps(G3)), *misfit]))


def _coverage(case, samples, truths):
  """Return the predicted and the found coverage of the truths, per coordinate, and the worst z."""
  inside = jax.vmap(lambda s, x: uncertainty.inside(s, x, LEVEL))
  found = np.asarray(inside(jnp.asarray(samples), jnp.asarray(truths)), np.float64).mean(axis=0)
  predicted = statistics.expected_coverage(G3, case.law, LEVEL, DRAWS)
  z = (found - predicted) / np.sqrt(predicted * (1 - predicted) / len(truths))
  return {"coverage_predicted": predicted.tolist(), "coverage": found.tolist(), "coverage_z": largest(z)}


def descent_row(name: str, case: Descent, key: jax.Array) -> Row:
  """Check a method that seeks a mode: the gradient at given noise, and where it comes to rest at one level."""
  rest, start = case.rest(G3, affine.PAIRS[AT][0]), np.linalg.pinv(G3.A) @ G3.y
  found = _rested(case.build, key)
  values = {"step": _gradient_error(case), "rest": float(np.linalg.norm(found - rest) / np.linalg.norm(start - rest))}
  holds = {"gradient": values["step"] < EXACT, "rest": values["rest"] < REST_ERROR}
  return Row("gaussian", name, case.settings, values, failed(holds), case.note)


def _gradient_error(case):
  """Return the error of the library's gradient at an image and a noise, at four levels."""
  mu, z, grid, errors = np.array([0.3, -1.2, 0.7]), np.array([0.2, -0.7, 1.3]), SCHEDULE.grid(), []
  with jax.enable_x64():
    gradient = jax.jit(case.build().gradient)
    for step, (abar, _) in list(enumerate(affine.PAIRS))[:: affine.STEPS // 4]:
      now = Level(*(jnp.asarray(v[step]) for v in grid))
      got, _ = gradient(jnp.asarray(z), jnp.asarray(mu), now, G3.prior(SCHEDULE), G3.problem())
      want = case.gradient(G3, mu, z, abar)
      errors.append(np.max(np.abs(got - want)) / (1 + np.max(np.abs(want))))
  return float(np.max(errors))


def mean_row(name: str, case: Mean) -> Row:
  """Check a method that gives the posterior mean of denoising: under G3's prior and the mixture of 25 modes."""
  modes = mixture.instance(0, len(G3.m), 1).law
  laws = (mixture.mixture([1.0], G3.m[None], G3.C[None]), modes)
  values = {"step": max(_mean_error(case, law, sigma) for law in laws for sigma in MEAN_SIGMAS)}
  return Row("gaussian", name, case.settings, values, failed({"mean": values["step"] < EXACT}), case.note)


def _mean_error(case, law, sigma):
  """Return the error of the mean of a law given a draw from it with noise."""
  rng, d = np.random.RandomState(0), law.means.shape[1]
  y = mixture.sample(rng, law, 1)[0] + sigma * rng.standard_normal(d)
  want = mixture.posterior(law, np.eye(d), sigma, y).moments()[0]
  with jax.enable_x64():
    problem = Problem(affine.dense(np.eye(d)), noise.Gaussian(jnp.asarray(sigma)), jnp.asarray(y))
    got = sampler.sample(jax.random.key(0), case.build(), law.prior(SCHEDULE), problem, SCHEDULE.grid(1))[0]
  return float(np.max(np.abs(np.asarray(got) - want)) / (1 + np.max(np.abs(want))))


def _rested(build, key):
  """Return the mean over chains that stay at one level, `[3]`."""
  fixed = Level(*(np.append(np.full(REST_STEPS, v[AT]), v[-1]) for v in SCHEDULE.grid()))
  with jax.enable_x64():
    keys, ys = jax.random.split(key, REST_CHAINS), jnp.tile(jnp.asarray(G3.y), (REST_CHAINS, 1))
    return np.asarray(chains(keys, ys, build(), G3.prior(SCHEDULE), G3.problem(), as_arrays(fixed))).mean(axis=0)
