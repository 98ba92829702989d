"""Intervals, coverage, ranks and the CRPS, where the answer is exact: order statistics, Gaussian laws, biased samplers.

The numbers of `COVERAGE` are published with the laws: the coverage of nominal 90 % intervals on the problem G3.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffinv import sampler, schedules
from diffinv.methods import DDRM, DPS, MMPS, PiGDM, ScoreALD, affine, ddrm, dps, pigdm, score_ald
from diffinv.methods.affine import ABAR, G3, PAIRS
from diffinv.metrics import uncertainty
from diffinv.problems import Problem
from diffinv.schedules import Schedule
from diffinv.verification import statistics

SMALLEST_P = 1e-4  # with fixed keys a p-value is a number, not a draw


def draws(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape)


# Mean, standard deviation and intervals.


def test_mean_and_standard_deviation_are_those_of_the_samples():
  samples = draws(0, 7, 3, 4)
  with jax.enable_x64():
    np.testing.assert_allclose(uncertainty.posterior_mean(jnp.asarray(samples)), samples.mean(0), rtol=0, atol=1e-14)
    got = uncertainty.posterior_std(jnp.asarray(samples))
  np.testing.assert_allclose(got, samples.std(0, ddof=1), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
  "count, levels",
  [
    (2, (1 / 3,)),
    (3, (0.5,)),
    (4, (0.2, 0.6)),
    (9, (0.2, 0.4, 0.6, 0.8)),
    (16, tuple((2 * j - 1) / 17 for j in range(1, 9))),
  ],
)
def test_central_levels_are_those_of_pairs_of_order_statistics(count, levels):
  np.testing.assert_allclose(uncertainty.central_levels(count), levels, rtol=1e-14)


@pytest.mark.parametrize("level, ends", [(0.2, (3.0, 5.0)), (0.6, (1.0, 8.0))])
def test_interval_at_a_central_level_ends_at_draws(level, ends):
  samples = jnp.array([8.0, 1.0, 5.0, 3.0])
  np.testing.assert_array_equal(uncertainty.credible_interval(samples, level), ends)


def test_interval_between_central_levels_is_interpolated():
  # Halfway between ranks 1 and 2 of 4, and 3 and 4.
  samples = jnp.array([8.0, 1.0, 5.0, 3.0])
  np.testing.assert_allclose(uncertainty.credible_interval(samples, 0.4), (2.0, 6.5), rtol=1e-6)


@pytest.mark.parametrize("level", [0.15, 0.5, 0.73])
def test_interval_holds_the_quantiles_of_rank_p_times_count_plus_one(level):
  samples = draws(1, 12, 5)
  with jax.enable_x64():
    got = uncertainty.credible_interval(jnp.asarray(samples), level)
  want = [np.quantile(samples, p, axis=0, method="weibull") for p in ((1 - level) / 2, (1 + level) / 2)]
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)  # the rank is rounded to 1e-6


# Coverage.


def coverage_of_every_rank(count, level):
  """Return the mean coverage over the truth at each rank among the draws 1 .. count: an exact sampler's expectation."""
  samples = jnp.arange(1.0, count + 1)[:, None] * jnp.ones((1, count + 1))
  truth = jnp.arange(count + 1, dtype=jnp.float32) + 0.5
  return float(uncertainty.coverage(samples, truth, (level,))[0])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 16, 19, 63])
@pytest.mark.slow
def test_exact_sampler_has_its_nominal_coverage_for_any_number_of_draws(count):
  widest = (count - 1) / (count + 1)
  for level in (*uncertainty.central_levels(count), 0.05 * widest, 0.37 * widest, 0.5 * widest, 0.93 * widest, widest):
    np.testing.assert_allclose(coverage_of_every_rank(count, level), level, rtol=2e-6)


def test_the_widest_interval_ends_at_the_outermost_draws():
  samples = jnp.append(jnp.arange(998.0), 1e6)[:, None]
  low, high = uncertainty.credible_interval(samples, float(np.float32(998 / 1000)))
  assert (float(low[0]), float(high[0])) == (0.0, 1e6)


@pytest.mark.parametrize("count", [4, 16])
def test_coverage_of_an_exact_sampler_of_any_law_is_nominal_within_its_error(count):
  # Of a skewed law: the answer depends on ranks alone.
  rng = np.random.default_rng(2)
  values = rng.exponential(size=(count + 1, 40_000))
  levels = (0.2, 0.4, 0.6)
  got = uncertainty.coverage(jnp.asarray(values[1:], jnp.float32), jnp.asarray(values[0], jnp.float32), levels)
  for level, part in zip(levels, np.asarray(got)):
    assert abs(part - level) < 4 * np.sqrt(level * (1 - level) / 40_000)


def test_coverage_at_a_central_level_counts_what_lies_between_the_ends():
  samples = draws(3, 9, 500)
  truth = 1.3 * draws(4, 500)
  got = uncertainty.coverage(jnp.asarray(samples, jnp.float32), jnp.asarray(truth, jnp.float32), (0.4, 0.8))
  ordered = np.sort(samples, axis=0)
  want = [np.mean((ordered[i - 1] < truth) & (truth < ordered[9 - i])) for i in (3, 1)]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_samples_that_all_agree_cover_nothing_but_themselves():
  samples = jnp.zeros((4, 2))
  np.testing.assert_allclose(uncertainty.coverage(samples, jnp.array([1.0, -1.0]), (0.2, 0.6)), 0.0, atol=1e-6)
  # Equal to every draw, the truth may have any rank: the interval holds its nominal part of them.
  np.testing.assert_allclose(uncertainty.coverage(samples, jnp.zeros(2), (0.2, 0.6)), (0.2, 0.6), rtol=1e-6)


@pytest.mark.parametrize(
  "level, message", [(0.9, r"4 samples .*up to 0\.6, got 0\.9.*or draw 19 samples"), (1.0, "got 1"), (0.0, "got 0")]
)
def test_levels_that_few_samples_cannot_tell_are_refused(level, message):
  with pytest.raises(ValueError, match=message):
    uncertainty.coverage(jnp.zeros((4, 3)), jnp.zeros(3), (0.2, level))
  with pytest.raises(ValueError, match=message):
    uncertainty.credible_interval(jnp.zeros((4, 3)), level)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: uncertainty.posterior_std(jnp.zeros((1, 3))), r"posterior_std: expected two or more samples"),
    (lambda: uncertainty.crps(jnp.zeros((1, 3)), jnp.zeros(3)), r"crps: expected two or more samples"),
    (lambda: uncertainty.coverage(jnp.zeros((4, 3)), jnp.zeros(4), (0.2,)), r"truth: expected the shape \(3,\)"),
    (lambda: uncertainty.crps(jnp.zeros((4, 3)), jnp.zeros((3, 1))), r"truth: expected the shape \(3,\)"),
    (
      lambda: uncertainty.rank_histogram(jnp.zeros((4, 3)), jnp.zeros(3), 3),
      r"bins: expected a divisor of .* 5, got 3",
    ),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.slow
def test_functions_are_the_same_under_jit_and_vmap():
  samples, truth = jnp.asarray(draws(5, 6, 9, 4, 3), jnp.float32), jnp.asarray(draws(6, 6, 4, 3), jnp.float32)
  functions = (
    lambda s, x: uncertainty.coverage(s, x, (0.3, 0.8)),
    lambda s, x: uncertainty.rank_histogram(s, x, 5),
    uncertainty.crps,
    lambda s, x: jnp.stack(uncertainty.credible_interval(s, 0.6)),
  )
  for function in functions:
    got = jax.jit(jax.vmap(function))(samples, truth)
    np.testing.assert_allclose(got, [function(s, x) for s, x in zip(samples, truth)], rtol=0, atol=1e-6)


# The published coverage of samplers on G3, nominal 90 %: the laws predict it, and the library's samples have it.

NOISES = np.geomspace(3.0, 0.05, 60)
LINEAR_100 = Schedule("linear", 100)
LEVEL, DRAWS, PROBLEMS = 0.9, 19, 1500  # 19: from the least draw to the largest is 90 %


def chain(step, start=None):
  return lambda p: affine.propagate(
    affine.standard(3) if start is None else start(p, ABAR[-1]), [step(p, *pair) for pair in PAIRS]
  )


def ald_law(p):
  return affine.propagate(
    affine.Law(np.zeros(3), 9.0 * np.eye(3)), score_ald.exact_langevin_maps(p, NOISES, 0.1, 1.0, 5, False)
  )


COVERAGE = {  # the library's method, its law, coverage of the coordinates
  "tmpd": (MMPS(iterations=3), chain(affine.conditional_step), (0.866, 0.876, 0.876)),
  "pigdm": (PiGDM(weight="score"), chain(pigdm.exact_step), (0.864, 0.876, 0.878)),
  "pigdm_algorithm_1": (PiGDM(weight="algorithm_1"), chain(pigdm.exact_algorithm_1_step), (0.769, 0.865, 0.855)),
  "dps_.30": (
    DPS(scale=0.3, rule="squared"),
    chain(functools.partial(dps.exact_step, zeta=0.3)),
    (0.727, 0.859, 0.850),
  ),
  "dps_.05": (
    DPS(scale=0.05, rule="squared"),
    chain(functools.partial(dps.exact_step, zeta=0.05)),
    (0.886, 0.874, 0.862),
  ),
  "ddrm": (
    DDRM(),
    chain(functools.partial(ddrm.exact_step, eta=0.85, eta_b=1.0), ddrm.exact_start),
    (0.779, 0.827, 0.833),
  ),
  "score_ald": (
    ScoreALD(c=0.1, rate=1.0, steps_per_level=5, denoise=False),
    ald_law,
    (0.929, 0.926, 0.927),
  ),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_laws_predict_the_published_coverage(name):
  _, law, want = COVERAGE[name]
  # Three digits are printed; DDRM's second is .8265.
  np.testing.assert_allclose(statistics.expected_coverage(G3, law, LEVEL), want, rtol=0, atol=6e-4)


@pytest.mark.parametrize("count", [None, 19, 39])
def test_laws_predict_the_nominal_coverage_of_exact_sampling(count):
  got = statistics.expected_coverage(G3, lambda p: p.posterior(), LEVEL, count)
  np.testing.assert_allclose(got, 0.9, rtol=0, atol=1e-10)


@jax.jit
def chains(keys, ys, method, prior, problem, grid):
  def one(key, y):
    return sampler.sample(key, method, prior, Problem(problem.operator, problem.noise, y), grid)[0]

  return jax.vmap(one)(keys, ys)


@functools.cache
def measured_truths():
  """Return x0 ~ prior, `[problems, 3]`, and their measurements, `[problems, 2]`."""
  truths = G3.m + draws(7, PROBLEMS, 3) @ np.linalg.cholesky(G3.C).T
  return truths, truths @ G3.A.T + G3.sigma * draws(8, PROBLEMS, 2)


def judged(samples, truths):
  """Return which truths lie in the 90 % intervals, `[problems, 3]`, of samples `[problems, draws, 3]`."""
  inside = jax.vmap(lambda s, x: uncertainty.inside(s, x, LEVEL))
  return np.asarray(inside(jnp.asarray(samples, jnp.float32), jnp.asarray(truths, jnp.float32)), np.float64)


FAST = ("dps_.30", "ddrm")


@pytest.mark.parametrize(
  "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in COVERAGE]
)
@pytest.mark.slow
def test_samples_have_the_coverage_that_is_predicted_for_their_sampler(name):
  method, law, _ = COVERAGE[name]
  truths, ys = measured_truths()
  grid = schedules.ve_grid(NOISES) if name == "score_ald" else LINEAR_100.grid()
  keys = jax.random.split(jax.random.key(3), PROBLEMS * DRAWS)
  ys = jnp.asarray(np.repeat(ys, DRAWS, axis=0), jnp.float32)
  samples = chains(keys, ys, method, G3.prior(), G3.problem(), schedules.as_arrays(grid))
  got = judged(jnp.reshape(samples, (PROBLEMS, DRAWS, 3)), truths).mean(axis=0)
  want = statistics.expected_coverage(G3, law, LEVEL, DRAWS)
  assert np.all(np.abs(got - want) < 4 * np.sqrt(want * (1 - want) / PROBLEMS)), (got, want)
  if name in ("dps_.30", "pigdm_algorithm_1", "ddrm"):  # it is not the nominal one, and the run tells
    assert got[0] < 0.9 - 5 * np.sqrt(0.9 * 0.1 / PROBLEMS)


def exact_samples(seed, count, *, ratio=1.0, shift=0.0, problems=1000):
  """Return truths `[problems, 3]` and draws `[problems, count, 3]` of their posterior, its spread times `ratio`.

  `shift`: in posterior standard deviations.
  """
  z = draws(seed, problems, 3)
  truths = G3.m + z @ np.linalg.cholesky(G3.C).T
  ys = truths @ G3.A.T + G3.sigma * draws(seed + 1, problems, 2)
  cov = G3.posterior().cov
  means = np.stack([G3._replace(y=y).posterior().mean for y in ys]) + shift * np.sqrt(np.diag(cov))
  spread = ratio * draws(seed + 2, problems, count, 3) @ np.linalg.cholesky(cov).T
  return truths, means[:, None] + spread


def test_exact_samples_have_nominal_coverage_and_narrow_ones_do_not():
  error = np.sqrt(0.9 * 0.1 / 1000)
  assert np.all(np.abs(judged(*exact_samples(10, DRAWS)[::-1]).mean(0) - 0.9) < 4 * error)
  assert np.all(judged(*exact_samples(10, DRAWS, ratio=0.8)[::-1]).mean(0) < 0.9 - 5 * error)


# Ranks: simulation-based calibration, 63 draws in 16 bins.


def sbc(truths, samples):
  """Return the histograms of the ranks of each coordinate, `[3, 16]`, and their p-values."""
  one = jax.jit(jax.vmap(lambda s, x: uncertainty.rank_histogram(s, x, 16), in_axes=(1, 0)))
  counts = sum(one(jnp.asarray(s, jnp.float32), jnp.asarray(x, jnp.float32)) for s, x in zip(samples, truths))
  return np.asarray(counts), np.asarray(jax.vmap(uncertainty.uniformity)(counts)[1])


@pytest.fixture(scope="module")
def calibrated():
  return exact_samples(20, 63)


@pytest.mark.slow
def test_ranks_of_an_exact_sampler_are_uniform(calibrated):
  counts, p = sbc(*calibrated)
  np.testing.assert_allclose(counts.sum(axis=1), 1000, rtol=1e-6)
  assert np.all(p > 1e-3), p


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_ranks_find_a_spread_that_is_wrong_by_a_fifth(calibrated, ratio):
  truths, samples = calibrated
  means = np.stack([G3._replace(y=y).posterior().mean for y in ys_of(20)])[:, None]
  counts, p = sbc(truths, means + ratio * (samples - means))
  assert np.all(p < 1e-3), p
  ends, middle = counts[:, [0, -1]].mean(axis=1), counts[:, 4:12].mean(axis=1)
  assert np.all(ends > middle) if ratio < 1 else np.all(ends < middle)  # hollow where over-confident


def test_ranks_find_a_bias(calibrated):
  truths, samples = calibrated
  counts, p = sbc(truths, samples + 0.25 * np.sqrt(np.diag(G3.posterior().cov)))
  assert np.all(p < 1e-3), p
  assert np.all(counts[:, :8].sum(axis=1) > counts[:, 8:].sum(axis=1))  # the truth ranks low


def test_samples_of_the_prior_pass_by_ranks_and_fail_by_their_likelihood():
  truths, _ = exact_samples(20, 1)
  samples = G3.m + draws(30, 1000, 63, 3) @ np.linalg.cholesky(G3.C).T
  _, p = sbc(truths, samples)
  assert np.all(p > 1e-3), p
  ys = ys_of(20)
  misfit = lambda x: np.sum((x @ G3.A.T - ys.reshape(1000, *[1] * (x.ndim - 2), 2)) ** 2, axis=-1, keepdims=True)
  _, p = sbc(misfit(truths), misfit(samples))
  assert p < 1e-20


def ys_of(seed):
  truths = G3.m + draws(seed, 1000, 3) @ np.linalg.cholesky(G3.C).T
  return truths @ G3.A.T + G3.sigma * draws(seed + 1, 1000, 2)


def test_ranks_and_histogram_share_ties_between_the_ranks_they_may_have():
  samples = jnp.array([1.0, 2.0, 2.0])[:, None]
  assert [int(v[0]) for v in uncertainty.ranks(samples, jnp.array([2.0]))] == [1, 2]
  np.testing.assert_allclose(uncertainty.rank_histogram(samples, jnp.array([2.0])), (0, 1 / 3, 1 / 3, 1 / 3), rtol=1e-6)
  np.testing.assert_allclose(uncertainty.rank_histogram(samples, jnp.array([2.0]), 2), (1 / 3, 2 / 3), rtol=1e-6)
  np.testing.assert_allclose(uncertainty.rank_histogram(samples, jnp.array([9.0])), (0, 0, 0, 1), rtol=1e-6)


def test_uniformity_is_the_chi_square_test():
  counts = np.array([12.0, 9.0, 15.0, 4.0, 10.0])
  want = stats.chisquare(counts)
  np.testing.assert_allclose(uncertainty.uniformity(jnp.asarray(counts, jnp.float32)), want, rtol=1e-4)


# CRPS.


@pytest.mark.parametrize("samples, truth, want", [((0.0, 1.0), 0.0, 0.0), ((0.0, 1.0, 4.0), 2.0, 5 / 3 - 8 / 6)])
def test_crps_of_a_few_numbers(samples, truth, want):
  # (0 + 1) / 2 - 1 / 2; (2 + 1 + 2) / 3 - (1 + 4 + 3) 2 / (2 3 2)
  got = uncertainty.crps(jnp.array(samples), jnp.array(truth))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_crps_is_the_double_sum_of_its_definition():
  samples, truth = 3.0 + draws(40, 7, 4, 2), 3.0 + draws(41, 4, 2)
  with jax.enable_x64():
    got = uncertainty.crps(jnp.asarray(samples), jnp.asarray(truth))
  pairs = sum(np.abs(a - b) for a, b in itertools.product(samples, samples)) / (2 * 7 * 6)
  np.testing.assert_allclose(got, np.abs(samples - truth).mean(axis=0) - pairs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mean, std, truth", [(0.0, 1.0, 0.0), (0.5, 2.0, -1.5)])
def test_gaussian_crps_is_the_integral_of_its_definition(mean, std, truth):
  # Of (F(u) - 1[u >= x])^2, on either side of the jump.
  u = np.linspace(0.0, 12 * std, 200_001)
  below, above = (stats.norm.cdf(truth + sign * u, mean, std) for sign in (-1, 1))
  want = np.trapezoid(below**2 + (1 - above) ** 2, u)
  with jax.enable_x64():
    got = uncertainty.gaussian_crps(*(jnp.asarray(v) for v in (mean, std, truth)))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [2, 4, 64])
def test_crps_of_any_number_of_draws_has_the_expectation_of_the_law(count):
  # The fair form: N(.4, 1.5^2) at 0 gives the Gaussian value for every K.
  samples = 0.4 + 1.5 * draws(42 + count, count, 20_000)
  values = np.asarray(uncertainty.crps(jnp.asarray(samples, jnp.float32), jnp.zeros(20_000)), np.float64)
  z = -0.4 / 1.5
  want = 1.5 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
  assert abs(values.mean() - want) < 4 * values.std() / np.sqrt(values.size)


def test_crps_of_a_calibrated_sampler_is_the_spread_over_the_root_of_pi(calibrated):
  truths, samples = calibrated
  values = np.asarray(jax.vmap(uncertainty.crps)(jnp.asarray(samples, jnp.float32), jnp.asarray(truths, jnp.float32)))
  want = np.sqrt(np.diag(G3.posterior().cov) / np.pi)
  assert np.all(np.abs(values.mean(axis=0) - want) < 4 * values.std(axis=0) / np.sqrt(1000))
  np.testing.assert_allclose(want.sum(), 0.5940, rtol=0, atol=5e-5)  # published
