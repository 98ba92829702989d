"""Analytic priors against the identities that define them; network priors against the guided-diffusion code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from diffinv import priors, schedules
from diffinv.methods import base
from diffinv.priors import Denoised, Prior
from diffinv.schedules import Level, Schedule

LINEAR = Schedule("linear", 1000)
ALPHA, SIGMA = 0.8, 0.6
A = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -1.0]])
SIGMA_Y = 0.2
Y = np.array([0.8, -0.3])


def random_mixture():
  """Return weights, means and full covariances of a mixture, K = 4 in d = 3."""
  rng = np.random.default_rng(0)
  roots = rng.standard_normal((4, 3, 3))
  return (
    rng.dirichlet(np.ones(4)),
    1.5 * rng.standard_normal((4, 3)),
    roots @ roots.swapaxes(1, 2) / 3 + 0.05 * np.eye(3),
  )


def level():
  return Level(jnp.asarray(0.0), jnp.asarray(ALPHA), jnp.asarray(SIGMA))


def points(n):
  return np.random.default_rng(1).standard_normal((n, 3))


def log_sum(log_terms):
  top = np.max(log_terms, axis=0)
  return top + np.log(np.sum(np.exp(log_terms - top), axis=0))


def log_joint(x, weights, means, covs):
  """Return log w_k + log N(x; alpha m_k, alpha^2 C_k + sigma^2 I), `[k]`."""
  eye = np.eye(len(x))
  terms = zip(weights, means, covs)
  return np.array(
    [np.log(w) + multivariate_normal.logpdf(x, ALPHA * m, ALPHA**2 * C + SIGMA**2 * eye) for w, m, C in terms]
  )


def components(x, weights, means, covs):
  """Return the responsibilities and each component's mean and covariance of x0 given x_t = x."""
  log_r = log_joint(x, weights, means, covs)
  gains = [C @ np.linalg.inv(ALPHA**2 * C + SIGMA**2 * np.eye(3)) for C in covs]
  D = np.array([m + ALPHA * G @ (x - ALPHA * m) for m, G in zip(means, gains)])
  return np.exp(log_r - log_sum(log_r)), D, SIGMA**2 * np.array(gains)


def log_evidence(x, weights, means, covs):
  """Return log p(y | x_t = x)."""
  r, D, V = components(x, weights, means, covs)
  noise = SIGMA_Y**2 * np.eye(2)
  return np.log(sum(r_k * multivariate_normal.pdf(Y, A @ D_k, A @ V_k @ A.T + noise) for r_k, D_k, V_k in zip(r, D, V)))


def posterior_mixture(weights, means, covs):
  """Return the posterior given Y, a mixture again."""
  noise, new = SIGMA_Y**2 * np.eye(2), []
  for w, m, C in zip(weights, means, covs):
    marginal = A @ C @ A.T + noise
    gain = C @ A.T @ np.linalg.inv(marginal)
    new.append((w * multivariate_normal.pdf(Y, A @ m, marginal), m + gain @ (Y - A @ m), C - gain @ A @ C))
  w, m, C = (np.array(v) for v in zip(*new))
  return w / w.sum(), m, (C + C.swapaxes(1, 2)) / 2


def derivative(f, x, h=1e-3):
  """Return the gradient by fourth-order differences: error O(h^4) and 1e-16 / h."""
  steps = h * np.eye(len(x))
  return np.array([(8 * (f(x + s) - f(x - s)) - (f(x + 2 * s) - f(x - 2 * s))) / (12 * h) for s in steps])


def library_score(prior, x):
  x = jnp.asarray(x)
  return np.asarray(priors.score(x, prior.denoise(x, level()).x0, level()))


def test_score_of_a_mixture_is_the_gradient_of_its_log_density():
  with jax.enable_x64():
    parameters = random_mixture()
    prior = priors.mixture(*parameters, LINEAR)
    for x in points(5):
      want = derivative(lambda x: log_sum(log_joint(x, *parameters)), x)
      np.testing.assert_allclose(library_score(prior, x), want, rtol=1e-8, atol=1e-9)


def test_posterior_score_is_prior_score_plus_gradient_of_evidence():
  with jax.enable_x64():
    parameters = random_mixture()
    prior = priors.mixture(*parameters, LINEAR)
    posterior = priors.mixture(*posterior_mixture(*parameters), LINEAR)
    for x in points(5):
      want = library_score(prior, x) + derivative(lambda x: log_evidence(x, *parameters), x)
      np.testing.assert_allclose(library_score(posterior, x), want, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_covariance_given_x_t_is_the_jacobian_of_the_denoiser():
  with jax.enable_x64():
    parameters = random_mixture()
    prior = priors.mixture(*parameters, LINEAR)
    for x in points(5):
      r, D, V = components(x, *parameters)
      off = D - r @ D
      want = np.einsum("k,kij->ij", r, V + off[:, :, None] * off[:, None, :])
      jacobian = jax.jacobian(lambda x: prior.denoise(x, level()).x0)(jnp.asarray(x))
      np.testing.assert_allclose(SIGMA**2 / ALPHA * jacobian, want, rtol=1e-9, atol=1e-10)
      np.testing.assert_allclose(prior.denoise(jnp.asarray(x), level()).x0, r @ D, rtol=1e-10)


def test_evidence_is_the_ratio_of_posterior_and_prior_densities():
  with jax.enable_x64():
    parameters = random_mixture()
    prior = priors.mixture(*parameters, LINEAR)
    posterior = priors.mixture(*posterior_mixture(*parameters), LINEAR)
    start, end = points(2)
    nodes, node_weights = np.polynomial.legendre.leggauss(60)
    # log p(y | x) = log p(x | y) - log p(x) + const: integrate the difference of the two scores along a line.
    integrand = [
      (library_score(posterior, x) - library_score(prior, x)) @ (end - start)
      for x in start + (nodes[:, None] + 1) / 2 * (end - start)
    ]
    want = log_evidence(end, *parameters) - log_evidence(start, *parameters)
    np.testing.assert_allclose(node_weights @ np.array(integrand) / 2, want, rtol=1e-10)


def test_mixture_does_not_depend_on_the_shape_of_the_image():
  prior = priors.mixture(*random_mixture(), LINEAR)
  x = jnp.asarray(points(1)[0], jnp.float32)
  flat, image = prior.denoise(x, level()), prior.denoise(x.reshape(1, 1, 3), level())
  np.testing.assert_array_equal(flat.x0, image.x0.ravel())
  np.testing.assert_array_equal(flat.eps, image.eps.ravel())


def test_mixture_keeps_far_modes_apart_in_float32():
  means = np.array([[-30.0], [30.0]])
  prior = priors.mixture([0.5, 0.5], means, np.full((2, 1, 1), 1e-4), LINEAR)
  now = Level(jnp.float32(0.0), jnp.float32(1.0), jnp.float32(0.01))
  np.testing.assert_allclose(prior.denoise(jnp.array([30.02]), now).x0, [30.01], rtol=1e-6)


def test_gaussian_prior_without_variance_denoises_to_its_mean():
  prior = priors.gaussian(np.array([0.3, -0.2]), np.zeros((2, 2)), LINEAR)
  np.testing.assert_allclose(prior.denoise(jnp.array([1.0, 2.0]), level()).x0, [0.3, -0.2], rtol=1e-6)


def test_eps_is_zero_where_there_is_no_noise():
  clean = Level(jnp.float32(0.0), jnp.float32(1.0), jnp.float32(0.0))
  x = jnp.array([0.1, 0.2])
  np.testing.assert_array_equal(priors.eps_from_x0(x, x, clean), 0.0)
  gradient = jax.grad(lambda x: jnp.sum(priors.eps_from_x0(x, 0.5 * x, clean)))(x)
  assert np.all(np.isfinite(gradient))


GOOD = dict(weights=[0.4, 0.6], means=np.zeros((2, 3)), covariances=np.stack([np.eye(3)] * 2))


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(weights=[1.0]), r"expected weights \[k\]"),
    (dict(means=np.zeros(3)), r"means \[k, d\]"),
    (dict(covariances=np.eye(3)), r"covariances \[k, d, d\], got \(2,\), \(2, 3\), \(3, 3\)"),
    (dict(weights=[0.0, 1.0]), "positive weights, got 0; drop empty components"),
    (dict(weights=[float("nan"), 1.0]), "positive weights"),
    (dict(covariances=np.stack([-np.eye(3), np.eye(3)])), "positive semi-definite"),
    (dict(covariances=np.stack([np.triu(np.ones((3, 3))) + 3 * np.eye(3), np.eye(3)])), "symmetric"),
  ],
)
def test_bad_mixture_is_an_error_that_says_why(change, message):
  with pytest.raises(ValueError, match=message):
    priors.mixture(**{**GOOD, **change}, schedule=LINEAR)


def test_weights_of_a_mixture_are_normalized():
  one, two = (priors.mixture(**{**GOOD, "weights": w}, schedule=LINEAR) for w in ([2.0, 3.0], [0.4, 0.6]))
  np.testing.assert_allclose(one.log_weights, two.log_weights, rtol=1e-6)


# What a perfect network would answer, from the truth x0 and eps.
OUTPUTS = {
  "eps": lambda x0, eps, level: eps,
  "ve": lambda x0, eps, level: eps,
  "v": lambda x0, eps, level: level.alpha * eps - level.sigma * x0,
  "x0": lambda x0, eps, level: x0,
  "denoiser": lambda x0, eps, level: x0,
  "velocity": lambda x0, eps, level: eps - x0,
  "velocity_to_data": lambda x0, eps, level: x0 - eps,
  # Karras et al., Table 1: D = c_skip x + c_out F at x = x0 + s eps, with sigma_data = 0.5.
  "edm": lambda x0, eps, level: (
    (x0 - 0.25 / ((level.sigma / level.alpha) ** 2 + 0.25) * (x0 + level.sigma / level.alpha * eps))
    / (level.sigma / level.alpha * 0.5 / np.sqrt((level.sigma / level.alpha) ** 2 + 0.25))
  ),
}


def truth(t=300):
  rng = np.random.default_rng(2)
  grid = LINEAR.grid()
  at = Level(*(float(v[999 - t]) for v in grid))
  x0, eps = rng.uniform(-0.9, 0.9, (4, 5, 3)), rng.standard_normal((4, 5, 3))
  return x0, eps, at.alpha * x0 + at.sigma * eps, at


@pytest.mark.parametrize("prediction", priors.PREDICTIONS)
@pytest.mark.parametrize("t", [20, 300, 900])
def test_every_prediction_of_a_perfect_network_denoises_to_the_truth(prediction, t):
  with jax.enable_x64():
    x0, eps, x_t, at = truth(t)
    output = jnp.asarray(OUTPUTS[prediction](x0, eps, at))
    prior = Prior(output, lambda params, x, t: params, LINEAR, prediction=prediction)
    got = prior.denoise(jnp.asarray(x_t), Level(*map(jnp.asarray, at)))
    np.testing.assert_allclose(got.x0, x0, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(got.eps, eps, rtol=1e-9, atol=1e-10)
    assert got.var_frac == 0.0


def test_networks_get_the_original_index_and_the_image_that_they_expect():
  x0, eps, x_t, at = truth()
  at, x_t = Level(*map(jnp.float32, at)), jnp.float32(x_t)

  def inputs(prediction):
    seen = []

    def apply(params, x, t):
      seen.append((x, t))
      return x

    Prior(None, apply, LINEAR, prediction=prediction).denoise(x_t, at)
    return seen[0]

  for prediction in ("eps", "v", "x0"):
    x, t = inputs(prediction)
    np.testing.assert_array_equal(x, x_t)
    assert t == 300.0
  x, t = inputs("edm")
  s = at.sigma / at.alpha
  np.testing.assert_allclose(x, (x_t / at.alpha) / np.sqrt(s**2 + 0.25), rtol=1e-5)
  np.testing.assert_allclose(t, np.log(s) / 4, rtol=1e-5)
  for prediction in ("ve", "denoiser"):
    x, t = inputs(prediction)
    np.testing.assert_allclose(x, x0 + s * eps, rtol=1e-5)
    np.testing.assert_allclose(t, s, rtol=1e-6)
  for prediction, end in (("velocity", eps), ("velocity_to_data", x0)):  # a flow, to noise and to the picture
    x, t = inputs(prediction)
    np.testing.assert_allclose(x, t * end + (1 - t) * (x0 if end is eps else eps), rtol=1e-5, atol=1e-6)


def test_edm_network_of_a_clean_image_returns_the_image():
  prior = Prior(None, lambda params, x, t: jnp.ones_like(x) * t, LINEAR, prediction="edm")
  clean = Level(jnp.float32(0.0), jnp.float32(1.0), jnp.float32(0.0))
  x = jnp.linspace(-0.9, 0.9, 12).reshape(2, 2, 3)
  np.testing.assert_allclose(prior.denoise(x, clean).x0, x, rtol=1e-6)


def test_clipping_acts_on_x0_and_eps_follows():
  x0, eps, x_t, at = truth()
  at, x_t = Level(*map(jnp.float32, at)), jnp.float32(x_t)
  free, clipped = (
    Prior(jnp.float32(3.0 * x0), lambda params, x, t: params, LINEAR, prediction="x0", clip=clip).denoise(x_t, at)
    for clip in (False, True)
  )
  assert np.abs(free.x0).max() > 2.0
  np.testing.assert_array_equal(clipped.x0, np.clip(free.x0, -1, 1))
  np.testing.assert_allclose(at.alpha * clipped.x0 + at.sigma * clipped.eps, x_t, rtol=1e-5, atol=1e-6)


CASES = [
  (variance, steps, index)
  for variance in priors.VARIANCES
  for steps, indices in ((1000, (0, 1, 500, 999)), (100, (0, 1, 50, 99)))
  for index in indices
  if (variance, index) != ("fixed_small", 0)  # log 0, not recorded
]


@pytest.mark.parametrize("variance, steps, index", CASES)
def test_reverse_mean_and_variance_equal_golden(golden, variance, steps, index):
  arrays = golden("p_mean_variance.npz")
  name = f"{variance}_{steps}_t{index}"
  images = lambda a: jnp.asarray(np.moveaxis(a, 1, -1))
  x_t, output = images(arrays["x_t"]), images(arrays["model_output"])
  grid = schedules.as_arrays(LINEAR.grid(str(steps)))
  now, nxt = (jax.tree.map(lambda v: v[steps - 1 - index + shift], grid) for shift in (0, 1))
  seen = []

  def apply(params, x, t):
    seen.append(float(t))
    return params if variance == "learned_range" else params[..., :3]

  for i in range(len(x_t)):
    denoised = Prior(output[i], apply, LINEAR, variance=variance).denoise(x_t[i], now)
    want = {key: images(arrays[f"{name}_{key}"])[i] for key in ("mean", "log_variance", "pred_xstart")}
    np.testing.assert_allclose(denoised.x0, want["pred_xstart"], rtol=1e-5, atol=2e-6)
    mean = base.posterior_mean(x_t[i], denoised.x0, now, nxt)
    np.testing.assert_allclose(mean, want["mean"], rtol=1e-5, atol=1e-5)
    if index > 0:  # no noise is added at t = 0, whatever the reference's log variance there
      variance_here = jnp.broadcast_to(base.reverse_variance(denoised.var_frac, now, nxt), x_t[i].shape)
      np.testing.assert_allclose(jnp.log(variance_here), want["log_variance"], rtol=1e-5, atol=5e-5)
  assert seen[0] == schedules.respace(LINEAR.alpha_bar(), str(steps))[index]


@pytest.mark.parametrize("v, which", [(1.0, "betas"), (-1.0, "posterior_variance")])
def test_learned_range_ends_at_beta_and_beta_tilde(v, which):
  with jax.enable_x64():
    grid = LINEAR.grid("100")
    arrays = schedules.as_arrays(grid)
    now, nxt = Level(*(a[:-1] for a in arrays)), Level(*(a[1:] for a in arrays))
    got = base.reverse_variance((v + 1) / 2, now, nxt)
    np.testing.assert_allclose(got, getattr(schedules.tables(grid), which)[::-1], rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range", "fixed_large"])
def test_no_noise_is_added_on_arrival_at_the_clean_image(variance):
  grid = schedules.as_arrays(LINEAR.grid("10"))
  now, nxt = (jax.tree.map(lambda v: v[i], grid) for i in (-2, -1))
  x = jnp.linspace(-1.0, 1.0, 12).reshape(2, 2, 3)
  fraction = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": jnp.full(x.shape, 0.7)}[variance]
  denoised = Denoised(0.5 * x, x, fraction)
  got = base.reverse_step(1e6 * jnp.ones_like(x), x, denoised, now, nxt)
  np.testing.assert_allclose(got, 0.5 * x, rtol=1e-6)


@pytest.mark.slow
def test_stationary_prior_equals_the_dense_gaussian_of_its_covariance():
  with jax.enable_x64():
    shape = (3, 4, 3)
    prior = priors.natural(LINEAR)
    covariance = jax.jit(jax.vmap(prior.covariance))(jnp.eye(36).reshape(36, *shape)).reshape(36, 36)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    dense = priors.gaussian(np.zeros(36), np.asarray(covariance), LINEAR)
    x = jnp.asarray(np.random.default_rng(3).standard_normal(shape))
    got, want = jax.jit(prior.denoise)(x, level()), dense.denoise(x, level())
    np.testing.assert_allclose(got.x0, want.x0, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(got.eps, want.eps, rtol=1e-9, atol=1e-10)


def test_stationary_prior_has_the_pixel_variance_that_it_states():
  prior = priors.natural(LINEAR)
  mean_variance = jnp.mean(prior.spectrum((24, 16, 3)), axis=(0, 1))
  np.testing.assert_allclose(mean_variance, prior.color_variances, rtol=1e-5)
