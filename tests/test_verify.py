"""Mixtures against identities and published digits; and that `diffinv verify` passes and fails as it should."""

import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffinv import errors, noise, sampler
from diffinv.apps import main
from diffinv.apps import verify as command
from diffinv.methods import DPS, METHODS, MMPS, TMPD, PiGDM, affine, base, pigdm, red_diff
from diffinv.methods.affine import G3
from diffinv.methods.cases import Descent, ScalarCase, each
from diffinv.methods.unconditional import DDPM
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Level, Schedule, as_arrays
from diffinv.verification import gaussian, mixture, modes, scalar, statistics
from diffinv.verification import tables as verify
from diffinv.verification.sampling import chains

SMALLEST_P = 1e-4  # with fixed keys a p-value is a number, not a draw
LINEAR_100 = Schedule("linear", 100)


# Mixtures: four identities on a random one with full covariances.


class Moments(NamedTuple):
  """The law of x0 given x_t, a mixture."""

  log_weights: np.ndarray  # [k], of the responsibilities r_k
  means: np.ndarray  # [k, d], D_k
  covs: np.ndarray  # [k, d, d], V_k
  mean: np.ndarray  # [d], D = sum r_k D_k
  cov: np.ndarray  # [d, d], sum r_k (V_k + (D_k - D)(D_k - D)^T)


def log_density(law: mixture.Mixture, x: np.ndarray) -> float:
  """Return log p(x), `x` of `[d]`."""
  return mixture.log_sum(law.log_weights + mixture.log_gaussians(x, law.means, law.covs))


def score(law: mixture.Mixture, x: np.ndarray) -> np.ndarray:
  """Return grad log p(x) = -sum_k r_k C_k^-1 (x - m_k), `[d]`."""
  log_r = law.log_weights + mixture.log_gaussians(x, law.means, law.covs)
  return -np.exp(log_r - mixture.log_sum(log_r)) @ np.linalg.solve(law.covs, (x - law.means)[..., None])[..., 0]


def diffused(law: mixture.Mixture, abar: float) -> mixture.Mixture:
  """Return the law of x_t."""
  return mixture.Mixture(
    law.log_weights, np.sqrt(abar) * law.means, abar * law.covs + (1 - abar) * np.eye(law.means.shape[1])
  )


def moments(law: mixture.Mixture, x: np.ndarray, abar: float) -> Moments:
  """Return the law of x0 given x_t = `x`, `[d]`: D_k = m_k + sqrt(abar) C_k S_k^-1 (x - sqrt(abar) m_k), V_k."""
  noisy = diffused(law, abar)
  log_r = law.log_weights + mixture.log_gaussians(x, noisy.means, noisy.covs)
  log_r = log_r - mixture.log_sum(log_r)
  gains = law.covs @ np.linalg.inv(noisy.covs)
  means = law.means + np.sqrt(abar) * np.einsum("kij,kj->ki", gains, x - noisy.means)
  covs, r = (1 - abar) * gains, np.exp(log_r)
  off = means - r @ means
  return Moments(log_r, means, covs, r @ means, np.einsum("k,kij->ij", r, covs + off[:, :, None] * off[:, None]))


def log_evidence(law: mixture.Mixture | Moments, A: np.ndarray, sigma: float, y: np.ndarray) -> float:
  """Return log p(y), or log p(y | x_t) of the moments given x_t: log sum_k r_k N(y; A D_k, A V_k A^T + sigma^2 I)."""
  data_covs = A @ law.covs @ A.T + sigma**2 * np.eye(len(y))
  return mixture.log_sum(law.log_weights + mixture.log_gaussians(y, law.means @ A.T, data_covs))


@pytest.fixture(scope="module")
def general():
  """A mixture of 4 components in 3 dimensions, 2 measurements, and a point."""
  rng = np.random.default_rng(0)
  roots = rng.standard_normal((4, 3, 3))
  law = mixture.mixture(
    rng.uniform(0.5, 2, 4), 1.5 * rng.standard_normal((4, 3)), roots @ np.swapaxes(roots, 1, 2) / 3 + 0.1 * np.eye(3)
  )
  return law, rng.standard_normal((2, 3)), 0.4, rng.standard_normal(2), rng.standard_normal(3)


ABARS = (0.97, 0.6, 0.15)


def differences(function, x, step=1e-5):
  """Return the derivative by fourth-order central differences, `[..., d]`: its error is about 1e-11."""
  columns = []
  for unit in np.eye(len(x)):
    near, far = (function(x + k * step * unit) - function(x - k * step * unit) for k in (1, 2))
    columns.append((8 * near - far) / (12 * step))
  return np.stack(columns, axis=-1)


@pytest.mark.parametrize("abar", ABARS)
def test_score_is_the_gradient_of_the_log_density(general, abar):
  law, *_, x = general
  noisy = diffused(law, abar)
  want = differences(lambda x: log_density(noisy, x), x)
  np.testing.assert_allclose(score(noisy, x), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("abar", ABARS)
def test_score_of_the_diffused_posterior_is_the_priors_and_that_of_the_evidence(general, abar):
  # s(x | y) = s(x) + grad log p(y | x_t).
  law, A, sigma, y, x = general
  got = score(diffused(mixture.posterior(law, A, sigma, y), abar), x)
  evidence = differences(lambda x: log_evidence(moments(law, x, abar), A, sigma, y), x)
  np.testing.assert_allclose(got, score(diffused(law, abar), x) + evidence, rtol=0, atol=1e-9)


@pytest.mark.parametrize("abar", ABARS)
def test_covariance_of_the_clean_image_is_the_derivative_of_its_mean(general, abar):
  # Second-order Tweedie: Cov[x0 | x_t] = (1 - abar) / sqrt(abar) dD / dx.
  law, *_, x = general
  want = (1 - abar) / np.sqrt(abar) * differences(lambda x: moments(law, x, abar).mean, x)
  np.testing.assert_allclose(moments(law, x, abar).cov, want, rtol=0, atol=2e-10)


def test_evidence_is_that_of_bayes_at_any_image(general):
  law, A, sigma, y, x = general
  likelihood = stats.multivariate_normal.logpdf(y, A @ x, sigma**2 * np.eye(2))
  got = log_density(law, x) + likelihood - log_density(mixture.posterior(law, A, sigma, y), x)
  np.testing.assert_allclose(got, log_evidence(law, A, sigma, y), rtol=0, atol=1e-12)


@jax.jit
def denoised_and_slope(prior, x, level):
  denoise = lambda x: prior.denoise(x, level).x0
  return denoise(x), jax.jacobian(denoise)(x)


@pytest.mark.parametrize("abar", ABARS)
def test_library_prior_denoises_to_the_mean_of_the_moments_and_has_their_derivative(general, abar):
  law, *_, x = general
  with jax.enable_x64():
    prior = law.prior()
    level = Level(*(jnp.asarray(v) for v in (0.0, np.sqrt(abar), np.sqrt(1 - abar))))
    got, slope = denoised_and_slope(prior, jnp.asarray(x), level)
  want = moments(law, x, abar)
  np.testing.assert_allclose(got, want.mean, rtol=0, atol=1e-12)
  np.testing.assert_allclose((1 - abar) / np.sqrt(abar) * np.asarray(slope), want.cov, rtol=0, atol=1e-12)


def test_covariance_of_a_mixture_is_that_of_its_samples():
  law = mixture.mixture([1.0, 3.0], [[0.0, 2.0], [4.0, -1.0]], [np.eye(2), np.diag([0.5, 2.0])])
  mean, cov = law.moments()
  np.testing.assert_allclose(mean, [3.0, -0.25], rtol=1e-12)
  # Within: diag(.625, 1.75); between: .75 .25 of the difference (4, -3).
  np.testing.assert_allclose(cov, [[0.625 + 3.0, -2.25], [-2.25, 1.75 + 1.6875]], rtol=1e-12)


# The benchmark of 25 modes.


def test_descending_betas_have_their_published_products():
  got = mixture.alpha_bar()[[0, 1, 10, 100, 500, 999]]
  np.testing.assert_allclose(got, [1.0, 0.98, 0.8178, 0.14666, 5.148e-4, 4.0769e-5], rtol=1e-4)


def test_modes_alternate_between_two_coordinates():
  means = mixture.modes(5)
  assert means.shape == (25, 5)
  np.testing.assert_array_equal(
    means[[0, 1, 24]], [[16, 16, 16, 16, 16], [16, 8, 16, 8, 16], [-16, -16, -16, -16, -16]]
  )
  assert len(np.unique(means, axis=0)) == 25


@pytest.mark.parametrize("d_y", [1, 2, 4])
def test_instances_have_the_singular_values_and_the_noise_of_their_recipe(d_y):
  for seed in range(5):
    one = mixture.instance(seed, 8, d_y)
    s = np.linalg.svd(one.A, compute_uv=False)
    assert one.A.shape == (d_y, 8) and one.y.shape == (d_y,)
    assert s[-1] > 0 and s[0] < 1 and 0 < one.sigma < s[0]
    np.testing.assert_allclose(np.exp(one.law.log_weights).sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(one.y, mixture.instance(seed, 8, d_y).y, rtol=0)
    assert not np.allclose(one.y, mixture.instance(seed + 1, 8, d_y).y)


def test_instances_are_fixed():
  # Digits of this recipe and NumPy's legacy generator, which is promised not to change.
  one = mixture.instance(0, 8, 2)
  np.testing.assert_allclose(one.sigma, INSTANCE_SIGMA, rtol=1e-9)
  np.testing.assert_allclose(one.y, INSTANCE_Y, rtol=1e-9)


INSTANCE_SIGMA = 0.49872203755042027
INSTANCE_Y = (-1.2811812080454739, 2.4111808351392945)


@pytest.mark.parametrize("d_y", [1, 2, 4])
@pytest.mark.parametrize("steps", [20, 100])
def test_grid_is_even_in_the_signal_meets_the_noise_of_the_data_and_ends_clean(d_y, steps):
  one, table = mixture.instance(3, 8, d_y), mixture.alpha_bar()
  grid = mixture.grid(one, steps)
  assert grid.alpha.shape == (steps + 1,) and grid.t[0] == 999
  assert grid.alpha[-1] == 1.0 and grid.sigma[-1] == 0.0
  times = grid.t[::-1].astype(int)
  assert np.all(np.diff(times) > 0)
  np.testing.assert_allclose(grid.alpha[::-1] ** 2, table[times], rtol=1e-12)
  for s in np.linalg.svd(one.A, compute_uv=False):
    noisier = one.sigma**2 * table > s**2 * (1 - table)
    crossing = int(np.argmin(noisier))  # the first time at which the chain is as noisy as this coordinate's datum
    assert {crossing - 1, crossing} & set(times)
  strides = -np.diff(np.sqrt(table[times]))[: steps // 3]
  assert strides.max() < 2.5 * 0.99 / (steps - d_y)


def test_sliced_w1_of_a_shift_is_its_mean_length_along_the_directions():
  directions = mixture.unit_directions(0, 3, 500)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1.0, rtol=1e-12)
  a, shift = np.random.default_rng(0).standard_normal((40, 3)), np.array([0.3, -2.0, 1.0])
  got = mixture.sliced_w1((a + shift)[::-1], a, directions)
  np.testing.assert_allclose(got, np.abs(shift @ directions).mean(), rtol=1e-12)
  # Over the sphere of R^3 the mean of |theta . v| is |v| / 2.
  np.testing.assert_allclose(got, np.linalg.norm(shift) / 2, rtol=0.05)
  assert mixture.sliced_w1(a, a[::-1], directions) == 0.0


@pytest.mark.parametrize("d_y", [1, 2])
def test_exact_samples_follow_the_posterior_in_projections_weights_and_within_modes(d_y):
  law = mixture.instance(3, 8, d_y).posterior()
  n, weights = 4000, np.exp(law.log_weights)
  samples = mixture.sample(np.random.RandomState(5), law, n)
  directions = mixture.unit_directions(1, 8, 20)
  for u in directions.T:
    means, stds = law.means @ u, np.sqrt(np.einsum("i,kij,j->k", u, law.covs, u))
    cdf = lambda z: stats.norm.cdf((z[:, None] - means) / stds) @ weights
    assert stats.kstest(samples @ u, cdf).pvalue > SMALLEST_P / 20
  log_r = law.log_weights + np.stack([mixture.log_gaussians(x, law.means, law.covs) for x in samples])
  r = np.exp(log_r - np.logaddexp.reduce(log_r, axis=1, keepdims=True))
  uniform = np.random.default_rng(6).uniform(size=(n, 1))
  chosen = np.minimum((uniform > np.cumsum(r, axis=1)).sum(axis=1), 24)
  counts, expected = np.bincount(chosen, minlength=25), n * weights
  large = expected >= 5
  pooled = [np.append(v[large], v[~large].sum() + 1e-9) for v in (counts, expected)]
  assert stats.chisquare(pooled[0], pooled[1] * pooled[0].sum() / pooled[1].sum()).pvalue > SMALLEST_P
  off = samples - law.means[chosen]
  squared = np.einsum("ni,ni->n", off, np.linalg.solve(law.covs[chosen], off[..., None])[..., 0])
  assert abs(squared.mean() - 8) < 5 * np.sqrt(2 * 8 / n)


# The bimodal prior in one dimension: published posterior, and the law of a chain with the exact posterior score.

BIMODAL = mixture.mixture([0.3, 0.7], [[-2.0], [1.5]], np.array([0.25, 0.16])[:, None, None])


def bimodal_posterior():
  return mixture.posterior(BIMODAL, np.eye(1), 0.5, np.array([0.2]))


def test_posterior_of_the_bimodal_prior_has_its_published_digits():
  law = bimodal_posterior()
  weights, means, variances = np.exp(law.log_weights), law.means[:, 0], law.covs[:, 0, 0]
  np.testing.assert_allclose(weights, (0.02353276, 0.97646724), rtol=0, atol=5e-9)
  np.testing.assert_allclose(means, (-0.9, 0.99268293), rtol=0, atol=5e-9)
  np.testing.assert_allclose(variances, (0.125, 0.09756098), rtol=0, atol=5e-9)
  mean, cov = law.moments()
  np.testing.assert_allclose([mean[0], cov[0, 0]], (0.948143, 0.180523), rtol=0, atol=5e-7)
  np.testing.assert_allclose(weights @ stats.norm.cdf(means / np.sqrt(variances)), 0.975872, rtol=0, atol=5e-7)


ORACLE = ScalarCase("", lambda: DDPM((1,)), "bimodal", 0.952495, 0.152015, 0.97941)


def test_chain_of_the_exact_posterior_score_has_its_published_law():
  count = 25_000
  prior = bimodal_posterior().prior(LINEAR_100)
  problem = Problem(affine.dense(np.eye(1)), noise.Gaussian(0.5), jnp.array([0.2]))
  keys, ys = jax.random.split(jax.random.key(0), count), jnp.full((count, 1), 0.2)
  x = chains(keys, ys, ORACLE.build(), prior, problem, as_arrays(LINEAR_100.grid()))
  errors = scalar.scalar_errors(np.asarray(x, np.float64)[:, 0], ORACLE, 0.0)
  assert all(abs(z) < 5 for z in errors.values()), errors


SCALAR_CASES = [
  *((name, case) for name, method in METHODS.items() for case in method.scalar_cases()),
  ("ddpm", ScalarCase("", lambda: DDPM((1,)), "bimodal", 0.463940, 2.683354, 0.70396)),
  ("dps", ScalarCase("code, .02", lambda: DPS(scale=0.02), "bimodal", 0.540418, 1.707973, 0.7641)),
]


@pytest.mark.parametrize(
  "name, case", [pytest.param(*pair, id=f"{pair[0]} {pair[1].settings} {pair[1].prior}") for pair in SCALAR_CASES]
)
@pytest.mark.slow
def test_samples_in_one_dimension_follow_their_exact_law(name, case):
  """T4: laws that are not Gaussian, by quadrature to the digits given."""
  assert scalar.scalar_row(name, case, 25_000, jax.random.key(0)).failed == ()


# Laws beyond those of the methods.


def test_law_of_bayesian_dps_has_its_published_digits():
  # Score += grad log N(y; A D, sigma^2 I): M = beta / sqrt(alpha) K^T A^T / sigma^2.
  maps = []
  for abar, prev in affine.pairs(affine.linear_alpha_bar(100)):
    K, k = affine.denoiser(G3, np.sqrt(abar), 1 - abar)
    M = (1 - abar / prev) / np.sqrt(abar / prev) * K.T @ G3.A.T / G3.sigma**2
    maps.append(affine.guided(affine.ddpm_step(G3, abar, prev), G3, M, K, k))
  got = affine.propagate(affine.standard(3), maps)
  np.testing.assert_allclose(got.mean, [0.9381927226, -0.5763854452, -0.2763854452], rtol=0, atol=1e-8)
  want = [0.0411438814, -0.0585156371, -0.0616199616, 0.1286845287, 0.1230564148, 0.1274133780]
  np.testing.assert_allclose(statistics.upper(got.cov), want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_chain_of_the_exact_mean_and_covariance_reproduces_the_posterior_at_any_number_of_steps(steps):
  # The reverse covariance beta~ I + c0^2 Cov[x0 | x_t, y], from p(x_T | y): what finite chains leave out.
  abars = affine.linear_alpha_bar(1000)[np.linspace(0, 999, steps).round().astype(int)]
  posterior, eye = G3.posterior(), np.eye(3)
  law = affine.Law(np.sqrt(abars[-1]) * posterior.mean, abars[-1] * posterior.cov + (1 - abars[-1]) * eye)
  for abar, prev in affine.pairs(abars):
    step = affine.conditional_step(G3, abar, prev)
    spread = affine.spread(posterior.cov, abar)
    c0 = np.sqrt(prev) * (1 - abar / prev) / (1 - abar)
    law = affine.propagate(law, [step])
    law = law._replace(cov=law.cov + c0**2 * spread)
  np.testing.assert_allclose(law.mean, posterior.mean, rtol=0, atol=1e-10)
  np.testing.assert_allclose(law.cov, posterior.cov, rtol=0, atol=1e-10)


@pytest.mark.parametrize("matrix", [G3.A, G3.A.T, np.diag([1.0, 0.0, 2.0]), np.array([[1.0, 2.0], [2.0, 4.0]])])
def test_dense_operator_solves_and_inverts_as_its_matrix(matrix):
  with jax.enable_x64():
    operator = affine.dense(matrix)
    v = np.arange(1.0, matrix.shape[0] + 1)
    got = operator.solve(jnp.asarray(v), 0.3), operator.pinv(jnp.asarray(v))
    basis = operator.spectral()
    image = basis.synthesize(basis.values * basis.measure(jnp.asarray(v)))
  np.testing.assert_allclose(got[0], np.linalg.solve(matrix @ matrix.T + 0.3 * np.eye(len(v)), v), rtol=0, atol=1e-12)
  np.testing.assert_allclose(got[1], np.linalg.pinv(matrix) @ v, rtol=0, atol=1e-12)
  np.testing.assert_allclose(image, matrix.T @ v, rtol=0, atol=1e-12)


def test_p_values_are_those_of_the_two_chi_square_statistics():
  rng = np.random.default_rng(0)
  law = G3.posterior()
  x = law.mean + rng.standard_normal((500, 3)) @ np.linalg.cholesky(law.cov).T
  error, ratio = x.mean(0) - law.mean, np.linalg.solve(law.cov, np.cov(x.T))
  want = (
    stats.chi2.sf(500 * error @ np.linalg.solve(law.cov, error), 3),
    stats.chi2.sf(499 * (np.trace(ratio) - np.linalg.slogdet(ratio)[1] - 3), 6),
  )
  np.testing.assert_allclose(statistics.p_values(x, law), want, rtol=1e-10)


# verify: what it checks, and that it finds what is wrong.


def test_every_method_is_checked_in_each_table_that_it_can_be_in():
  every = list(METHODS.values())
  for size in (verify.QUICK, verify.FULL):
    assert all(verify.gaussian_cases(method, size) for method in every)
  on_mixture = [method.name for method, _ in verify.mixture_cases(every, verify.FULL)]
  assert sorted([*on_mixture, "mmse"]) == sorted(METHODS), "which takes both priors in the first table"
  assert on_mixture.index("mmps") < on_mixture.index("tmpd"), "it is compared with the one before"
  quick = [method.name for method, _ in verify.mixture_cases(every, verify.QUICK)]
  assert quick == ["dps", "ddrm"] == on_mixture[:2]


@pytest.mark.slow
def test_methods_without_an_exact_law_say_so():
  for method in METHODS.values():
    for case in method.cases():
      assert not isinstance(case, Descent) or "no exact law" in case.note
  assert "no exact law" in gaussian.descent_row("red_diff", RED_DIFF, jax.random.key(0)).note
  for name in ("tmpd", "jfps", "diffpir", "daps", "red_diff"):
    assert METHODS[name].mixture_case().note


@pytree
class Unheard(base.Chain):
  """A method that declares nothing to hold it against."""

  strength: float = 1.0

  name, title, citation = "unheard", "Unheard", "none"

  def update(self, z, x_t, now, nxt, prior, problem):
    return x_t, {}


@pytest.mark.parametrize("size", [verify.QUICK, verify.FULL], ids=["quick", "full"])
def test_a_method_that_declares_no_case_is_refused(monkeypatch, size):
  for ask in (verify.run, lambda methods, size: verify.total_work(methods, size)):
    with pytest.raises(errors.UsageError, match="`methods`: expected methods that declare a case, got unheard"):
      ask([DPS, Unheard], size=size)
  monkeypatch.setitem(METHODS, "unheard", Unheard)
  with pytest.raises(errors.UsageError, match="got unheard with none"):
    verify.run(["dps", "unheard"], size=size)


def test_command_refuses_a_method_that_declares_no_case(monkeypatch, capsys):
  monkeypatch.setitem(METHODS, "unheard", Unheard)
  assert main.execute(["verify", "--quick", "--methods=unheard"]) == 2
  command.FLAGS["methods"].unparse()  # flags stay as they were parsed last
  said = capsys.readouterr()
  assert "--methods: expected methods that declare a case, got unheard" in said.err and "hold" not in said.out


def test_a_method_with_cases_can_be_given_as_a_class():
  class Mine(PiGDM):
    name = "mine"

  (case,) = verify.gaussian_cases(Mine, verify.QUICK)
  plan = [part.name for part in verify._plan([Mine, "dps"], verify.QUICK, 0)]
  assert case.settings == "code" and plan == ["dps", "mine", "oracle", "dps", "prior"]


def test_a_chain_that_writes_no_update_says_so():
  @pytree
  class Unwritten(base.Chain):
    """Without an update."""

  with pytest.raises(NotImplementedError, match="Unwritten: expected an `update` of its own"):
    Unwritten().step(jax.random.key(0), base.XState(jnp.zeros(3)), None, None, None, None)


SMALL = verify.FULL._replace(chains=4000, problems=200)


def case_of(name, settings):
  return next(case for case in METHODS[name].cases() if case.settings == settings)


DPS_CASE = case_of("dps", "squared, .3")
RED_DIFF = case_of("red_diff", "weight 2")


@pytest.mark.slow
def test_right_method_passes():
  row = gaussian.gaussian_row("dps", DPS_CASE, SMALL, jax.random.key(0))
  assert row.failed == () and row.values["step"] < 1e-13 and row.values["gain"] < 1e-12
  np.testing.assert_allclose(row.values["coverage_predicted"], (0.754, 0.867, 0.859), atol=1e-3)


def test_wrong_step_size_is_found_by_the_exact_checks_and_the_covariance():
  wrong = DPS_CASE._replace(build=lambda: DPS(scale=0.33, rule="squared"))
  failed = gaussian.gaussian_row("dps", wrong, SMALL, jax.random.key(0)).failed
  assert {"step", "gain", "covariance"} <= {*failed}


@pytest.mark.slow
def test_wrong_noise_is_found_by_the_covariance_alone_where_steps_are_not_read_off():
  # A tenth less noise: samples of one key still differ as they must.
  louder = lambda p: [one._replace(L=1.1 * one.L) for one in each(pigdm.exact_step)(p)]
  wrong = case_of("pigdm", "score")._replace(maps=louder)
  failed = gaussian.gaussian_row("pigdm", wrong, SMALL._replace(everything=False), jax.random.key(0)).failed
  assert "covariance" in failed and not {"step", "gain", "mean"} & {*failed}


def test_step_that_is_not_affine_in_its_noise_is_found():
  @functools.partial(dataclasses.dataclass, frozen=True)
  class Bent:
    def step(self, key, state, now, nxt, prior, problem):
      z = jax.random.normal(key, state.x.shape, state.x.dtype)
      return state._replace(x=state.x + 1e-3 * z**2), {}

  jax.tree_util.register_static(Bent)
  with jax.enable_x64():
    levels = gaussian.level_pairs(as_arrays(LINEAR_100.grid("3")))
    _, misfit = gaussian.extracted_maps(Bent(), G3.prior(), G3.problem(), *levels)
  assert np.all(misfit > gaussian.EXACT)


@pytest.mark.slow
def test_red_diff_row_holds_and_finds_a_wrong_weight():
  row = gaussian.descent_row("red_diff", RED_DIFF, jax.random.key(0))
  assert row.failed == () and row.values["step"] < 1e-12 and row.values["rest"] < 0.03
  heavier = lambda p, mu, z, abar: red_diff.exact_gradient(p, mu, z, abar, 1.01 * 2.0)
  wrong = RED_DIFF._replace(gradient=heavier)
  assert gaussian.descent_row("red_diff", wrong, jax.random.key(0)).failed == ("gradient",)


@pytest.mark.slow
def test_scalar_row_holds_and_finds_a_wrong_scale():
  case = next(case for case in DPS.scalar_cases() if case.prior == "normal" and "code, .1" in case.settings)
  assert scalar.scalar_row("dps", case, 5000, jax.random.key(0)).failed == ()
  wrong = case._replace(build=lambda: DPS(scale=0.12))
  assert "variance" in scalar.scalar_row("dps", wrong, 5000, jax.random.key(0)).failed


LEVELS = {  # as they were measured
  "oracle": np.array([0.28, 0.11, 0.07]),
  "dps": np.array([2.99, 2.66, 0.25]),
  "ddrm": np.array([3.62, 5.25, 0.84]),
  "mmps": np.array([2.52, 0.83, 0.13]),
  "tmpd": np.array([2.52, 3.01, np.nan]),
  "prior": np.array([7.92, 10.62, 10.84]),
}


@pytest.mark.parametrize(
  "name, levels, failed",
  [
    ("dps", LEVELS["dps"], set()),
    ("ddrm", LEVELS["ddrm"], set()),
    ("mmps", LEVELS["mmps"], set()),
    ("tmpd", LEVELS["tmpd"], set()),
    ("tmpd", LEVELS["dps"], {"equals mmps"}),
    ("mmps", np.array([2.5, np.nan, 0.1]), {"above the oracle", "below the prior"}),
    ("dps", LEVELS["prior"] + 0.1, {"below the prior", "level"}),
    ("dps", LEVELS["oracle"] - 0.01, {"above the oracle"}),
  ],
)
def test_levels_of_the_mixture_fail_where_their_order_is_wrong(name, levels, failed):
  case = METHODS[name].mixture_case()
  holds = modes.order(levels, case, LEVELS, verify.FULL)
  assert {check for check, true in holds.items() if not true} == failed


@pytest.mark.slow
def test_methods_on_25_modes_have_their_published_levels():
  rows = {row.method: row for row in verify.run(["dps", "ddrm"], size=verify.QUICK) if row.table == "mixture"}
  assert list(rows) == ["floor", "oracle", "dps", "ddrm", "prior"]
  assert not any(row.failed for row in rows.values()), rows
  w1 = {name: np.array(row.values["w1"]) for name, row in rows.items()}
  assert np.all(w1["oracle"] < 2 * w1["floor"])
  assert np.all(2 * w1["oracle"] < w1["dps"]) and np.all(2 * w1["dps"] < w1["prior"])


@pytest.mark.slow
def test_diagonal_form_of_tmpd_is_mmps_for_one_measurement_of_a_mixture():
  one = mixture.instance(3, 8, 1)
  grid, prior = as_arrays(mixture.grid(one, 20)), one.law.prior()
  problem = Problem(one.operator(1), noise.Gaussian(jnp.float32(one.sigma)), jnp.asarray(one.y, jnp.float32))
  got, want = (
    sampler.sample(jax.random.key(0), method, prior, problem, grid)[0] for method in (TMPD(), MMPS(iterations=1))
  )
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-3)


# The command.

ROWS = [
  verify.Row(
    "gaussian", "dps", "squared, .3", {"gain": 2e-15, "mean_z": 0.5, "p_mean": 0.25, "coverage": [0.754, 0.9]}, ()
  ),
  verify.Row("mixture", "dps", "paper, .1", {"w1": [2.5, 1.25, float("nan")]}, (), "a note"),
]


def told(monkeypatch, rows):
  """Make the command have these rows."""

  def run(methods, *, size, seed, report):
    for row in rows:
      report(row.method, 1.0)
      yield row

  monkeypatch.setattr(verify, "run", run)


def test_command_prints_a_verdict_a_row_and_writes_the_numbers(monkeypatch, capsys, tmp_path):
  told(monkeypatch, ROWS)
  assert main.execute(["verify", "--quick", "--methods=dps", f"--output={tmp_path / 'v.json'}"]) == 0
  said = capsys.readouterr().out
  assert "2e-15" in said and "0.754 0.900" in said and "ok; a note" in said and said.endswith("all 2 rows hold\n")
  written = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
  assert written["passed"] is True and written["settings"] == {"quick": True, "seed": 0, "methods": ["dps"]}
  assert written["rows"][1]["values"] == {"w1": [2.5, 1.25, None]}


def test_command_ends_with_an_error_that_names_what_fails(monkeypatch, capsys, tmp_path):
  told(monkeypatch, [ROWS[0], ROWS[1]._replace(failed=("level", "below the prior"))])
  assert main.execute(["verify", f"--output={tmp_path / 'v.json'}"]) == 1
  said = capsys.readouterr()
  assert "FAILED: level, below the prior" in said.out
  assert "1 of 2 rows fail: dps (paper, .1): level, below the prior" in said.err
  assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["passed"] is False


@pytest.mark.parametrize(
  "arguments, code, message",
  [
    (("--methods=dps,nothing",), 2, "--methods: expected some of mmse"),
    (("--output={folder}/there.json",), 1, "exists; choose another --output"),
    (("--output={folder}",), 1, "is there and is none; choose another --output"),
    (("--output={folder}/none/v.json",), 1, "expected a folder"),
  ],
)
def test_command_refuses_before_it_works(monkeypatch, capsys, tmp_path, arguments, code, message):
  (tmp_path / "there.json").write_text("{}", encoding="utf-8")
  monkeypatch.setattr(verify, "run", None)
  assert main.execute(["verify", *(argument.format(folder=tmp_path) for argument in arguments)]) == code
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_command_verifies_a_method_without_weights(capsys):
  assert main.execute(["verify", "--quick", "--methods=ddrm"]) == 0
  said = capsys.readouterr().out
  assert all(f"\n{name} " in said for name in ("ddrm", "floor", "oracle", "prior"))


def test_work_that_is_reported_sums_to_what_is_announced(monkeypatch):
  blank = lambda name: verify.Row("gaussian", name, "", {}, ())
  monkeypatch.setattr(gaussian, "gaussian_row", lambda name, case, size, key: blank(name))
  monkeypatch.setattr(gaussian, "descent_row", lambda name, case, key: blank(name))
  monkeypatch.setattr(gaussian, "mean_row", lambda name, case: blank(name))
  monkeypatch.setattr(scalar, "scalar_row", lambda name, case, count, key: blank(name))
  monkeypatch.setattr(modes.Benchmark, "references", lambda self: [blank("floor"), blank("oracle")])
  monkeypatch.setattr(modes.Benchmark, "row", lambda self, name, case: blank(name))
  monkeypatch.setattr(modes.Benchmark, "prior_row", lambda self: blank("prior"))
  for size in (verify.QUICK, verify.FULL):
    for methods in (["dps"], list(METHODS)):
      reported = []
      rows = list(verify.run(methods, size=size, report=lambda name, work: reported.append(work)))
      np.testing.assert_allclose(sum(reported), verify.total_work(methods, size))
      assert {row.method for row in rows} - {"floor", "oracle", "prior"} == {*methods}
