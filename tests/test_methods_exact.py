"""Every method against its own exact law, which is not the posterior's: the steps, the chain and its samples.

Methods, cases and laws are those that the classes in METHODS declare: a new method joins by itself. Golden numbers are
literals, printed digits of an independent computation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import noise, priors, sampler, schedules
from diffinv.methods import (
  DDRM,
  DPS,
  METHODS,
  DiffPIR,
  ScoreALD,
  SDEdit,
  affine,
  base,
  ddrm,
  diffpir,
  score_ald,
  sdedit,
)
from diffinv.methods.affine import ABAR, G3, PAIRS
from diffinv.methods.affine import NOISES as S_BARS
from diffinv.methods.cases import Case, Descent, Mean, each
from diffinv.methods.unconditional import DDIM, DDPM, DPMSolver
from diffinv.operators.base import LinearOperator
from diffinv.operators.pixels import Inpainting
from diffinv.problems import Problem
from diffinv.pytree import pytree
from diffinv.schedules import Level, Schedule
from diffinv.verification import gaussian, statistics
from diffinv.verification.sampling import chains

LINEAR_100 = Schedule("linear", 100)
LINEAR_1000 = Schedule("linear", 1000)
START = affine.standard(3)
CHAINS = 20_000
SMALLEST_P = 1e-4  # with fixed keys a p-value is a number, not a draw
PAIRED = 8  # samples of one key that are compared


def ddpm_maps(p):
  return [affine.ddpm_step(p, *pair) for pair in PAIRS]


def ald_maps(p, c=0.1, rate=1.0, steps=2, denoise=True, s_bars=S_BARS):
  return score_ald.exact_langevin_maps(p, s_bars, c, rate, steps, denoise)


# Settings beyond those that `diffinv verify` runs.
OTHER_CASES = {
  "ddrm": Case(
    "eta .5, eta_b .7",
    lambda: DDRM(eta=0.5, eta_b=0.7),
    each(ddrm.exact_step, eta=0.5, eta_b=0.7),
    lambda p: ddrm.exact_start(p, ABAR[-1]),
  ),
  "diffpir": Case(
    "weight 1, zeta 1", lambda: DiffPIR(weight=1.0, zeta=1.0), each(diffpir.exact_step, weight=1.0, zeta=1.0)
  ),
}
CASES = {
  (name, case.settings): case
  for name, method in METHODS.items()
  for case in (*method.cases(), *filter(None, [OTHER_CASES.get(name)]))
  if isinstance(case, Case)
}
FIRST = [next(key for key in CASES if key[0] == name) for name in dict.fromkeys(name for name, _ in CASES)]


def of_cases(chosen, fast=()):
  """Parametrize over cases; those that are not `fast` are left out of the fast run."""
  values = [pytest.param(key, marks=() if key in fast else pytest.mark.slow, id=" ".join(key)) for key in chosen]
  return pytest.mark.parametrize("key", values)


def test_every_method_declares_what_it_is_held_against():
  declared = {name for name, _ in CASES}
  other = {n for n, method in METHODS.items() if any(isinstance(case, (Descent, Mean)) for case in method.cases())}
  assert declared | other == set(METHODS) and not declared & other


# T1: common random numbers. The noise does not depend on the state, so a sample is affine in y and in the prior mean
# for a fixed key, and differences of samples are exact: no statistics.


def grid_of(case):
  return schedules.as_arrays(LINEAR_100.grid(str(case.levels)))


def sample(case, p=G3, count=PAIRED):
  """Return samples of the keys in turn, `[count, 3]`, in the float type of the moment."""
  keys, ys = jax.random.split(jax.random.key(0), count), jnp.tile(jnp.asarray(p.y), (count, 1))
  return np.asarray(chains(keys, ys, case.build(), p.prior(LINEAR_100), G3.problem(), grid_of(case)), np.float64)


@functools.cache
def exact_sample(key, what=None):
  """Return samples in float64, of G3 or of G3 with another `what`."""
  with jax.enable_x64():
    return sample(CASES[key], G3 if what is None else changed(G3, what))


def changed(p, what):
  if what == "y":
    return p._replace(y=p.y + np.array([0.7, -1.1]))
  return p._replace(m=p.m + np.array([0.4, -0.2, 0.9]))


@pytest.mark.parametrize("what", ["y", "prior mean"])
@of_cases(CASES, fast=[("dps", "squared, .3")])
def test_samples_of_one_key_differ_as_the_exact_gain_says(key, what):
  want = CASES[key].law(changed(G3, what)).mean - CASES[key].law(G3).mean
  got = exact_sample(key, what) - exact_sample(key)
  np.testing.assert_allclose(got, np.tile(want, (PAIRED, 1)), rtol=0, atol=1e-10)


@of_cases(CASES, fast=[("dps", "squared, .3")])
def test_samples_differ_as_the_exact_gain_says_in_float32(key):
  at_g3 = sample(CASES[key])
  for what in ("y", "prior mean"):
    got = sample(CASES[key], changed(G3, what)) - at_g3
    want = CASES[key].law(changed(G3, what)).mean - CASES[key].law(G3).mean
    np.testing.assert_allclose(got, np.tile(want, (PAIRED, 1)), rtol=0, atol=1e-4)


GAINS = {  # of the first coordinate; eight digits printed
  ("dps", "squared, .3"): (0.87394109, 0.29905204),
  ("dps", "squared, .05"): (0.83671654, 0.27388590),
  ("pigdm", "score"): (0.85414791, 0.27118250),
  ("pigdm", "score, eta .5"): (0.85889102, 0.27667178),
  ("pigdm", "algorithm_1"): (0.87571861, 0.29552197),
  ("mmps", "3 iterations"): (0.85001831, 0.27011647),
}


@of_cases(GAINS, fast=[("dps", "squared, .3")])
def test_gain_equals_its_published_value(key):
  with jax.enable_x64():
    moved = [sample(CASES[key], G3._replace(y=G3.y + unit)) for unit in np.eye(2)]
  for column, gain in zip(moved, GAINS[key]):
    np.testing.assert_allclose((column - exact_sample(key))[:, 0], gain, rtol=0, atol=1e-8)


# T2: one step as an affine map, at every level of the chain at once.


def extract(method, levels, p=G3, variance="fixed_small", operator=None):
  """Return the maps of the library's own steps between neighboring `levels`, in float64."""
  with jax.enable_x64():
    now, nxt = gaussian.level_pairs(schedules.as_arrays(levels))
    prior, problem = p.prior(variance=variance), p.problem()
    problem = problem if operator is None else Problem(operator, problem.noise, problem.y)
    maps, misfit = gaussian.extracted_maps(method, prior, problem, now, nxt)
  assert not np.any(misfit > 1e-12)  # affine in its noise, where the levels make a step at all
  return maps


def assert_maps_equal(got, want):
  for name, values in got._asdict().items():
    expected = np.stack([getattr(step, name) for step in want])
    scale = np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True) + 1.0
    np.testing.assert_allclose(values / scale, expected / scale, rtol=0, atol=1e-10, err_msg=name)


@of_cases([key for key, case in CASES.items() if case.one_noise], fast=FIRST)
@pytest.mark.slow
def test_step_of_every_method_is_the_affine_map_of_its_paper(key):
  case = CASES[key]
  with jax.enable_x64():
    method = case.build()
    levels = method.levels(grid_of(case))
  assert_maps_equal(extract(method, levels), case.maps(G3))


CLEAN_END = LINEAR_100.grid()
STEPS = {
  "ddpm": (DDPM((3,)), "fixed_small", ddpm_maps),
  "ddpm_large": (DDPM((3,)), "fixed_large", lambda p: [affine.ddpm_step(p, *pair, large=True) for pair in PAIRS]),
  **{
    f"ddim_{eta}": (
      DDIM((3,), eta=eta),
      "fixed_small",
      lambda p, e=eta: [affine.ddim_step(p, *pair, e) for pair in PAIRS],
    )
    for eta in (0.0, 0.5, 1.0)
  },
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.slow
def test_step_of_the_prior_is_the_affine_map_of_its_paper(name):
  method, variance, maps = STEPS[name]
  assert_maps_equal(extract(method, CLEAN_END, variance=variance), maps(G3))


def test_ddim_with_eta_one_is_ddpm():
  implicit = [affine.ddim_step(G3, *pair, 1.0) for pair in PAIRS]
  assert_maps_equal(extract(DDPM((3,)), CLEAN_END), implicit)


def test_langevin_step_is_the_affine_map_of_its_paper():
  got = extract(ScoreALD(c=0.1, rate=0.8), CLEAN_END)
  # Between noisy levels the step is Langevin's at the first of them; on arrival at the clean image, Tweedie's formula.
  want = [score_ald.exact_langevin_step(G3, s, 0.1, 0.8) for s in S_BARS[:-1]] + [
    score_ald.exact_tweedie_step(G3, S_BARS[-1])
  ]
  assert_maps_equal(got, want)


def test_sdedit_visits_its_levels_once_a_repeat():
  levels = SDEdit(t0=0.25, repeats=2).levels(schedules.as_arrays(LINEAR_100.grid()))
  np.testing.assert_array_equal(levels.t, [0, *range(24, -1, -1), 0, *range(24, -1, -1), 0])
  np.testing.assert_array_equal(np.flatnonzero(levels.sigma == 0), [0, 26, 52])


def test_sdedit_renoises_on_the_way_up_and_denoises_on_the_way_down():
  up_and_down = Level(*(np.append(v[-1:], v) for v in CLEAN_END))
  assert_maps_equal(extract(SDEdit(), up_and_down), [sdedit.exact_renoise_step(3, ABAR[-1]), *ddpm_maps(G3)])


def test_sdedit_reimposes_known_pixels_at_the_noise_of_the_level():
  mask = np.array([1.0, 0.0, 1.0])
  p = G3._replace(A=np.diag(mask), y=mask * np.array([0.8, 0.0, -0.3]))
  want = []
  for (_, prev), free in zip(PAIRS, ddpm_maps(p)):
    known, unknown = np.diag(mask), np.diag(1 - mask)
    noise_part = unknown @ free.L + np.sqrt(1 - prev) * known
    want.append(affine.Affine(unknown @ free.F, unknown @ free.g + np.sqrt(prev) * p.y, noise_part))
  with jax.enable_x64():
    operator = Inpainting((3,), jnp.asarray(mask))
  assert_maps_equal(extract(SDEdit(keep_known=True), CLEAN_END, p, operator=operator), want)


take_step = jax.jit(
  lambda key, x, now, nxt, method, prior, problem: method.step(key, base.XState(x), now, nxt, prior, problem)
)


@pytest.mark.parametrize(
  "rule, coefficient",
  [
    ("code", lambda scale, norm: scale),
    ("paper", lambda scale, norm: 2 * scale),
    ("squared", lambda scale, norm: 2 * norm * scale),
  ],
)
@pytest.mark.slow
def test_dps_rules_take_their_multiple_of_the_gradient_of_the_norm(rule, coefficient):
  with jax.enable_x64():
    x, scale, key = np.array([0.3, -1.2, 0.7]), 0.4, jax.random.key(3)
    z = np.asarray(jax.random.normal(key, (3,)))
    for step in (0, 60, 99):  # the last is the step to the clean image: guidance, no noise
      abar, prev = PAIRS[step]
      K, k = affine.denoiser(G3, np.sqrt(abar), 1 - abar)
      residual = G3.y - G3.A @ (K @ x + k)
      norm = np.linalg.norm(residual)
      free = affine.ddpm_step(G3, abar, prev)
      want = free.F @ x + free.g + free.L @ z + coefficient(scale, norm) * K.T @ G3.A.T @ residual / norm
      now, nxt = (Level(*(jnp.asarray(v[step + shift]) for v in CLEAN_END)) for shift in (0, 1))
      method = DPS(scale=scale, rule=rule)
      state, info = take_step(key, jnp.asarray(x), now, nxt, method, G3.prior(), G3.problem())
      np.testing.assert_allclose(state.x, want, rtol=0, atol=1e-12)
      np.testing.assert_allclose(info["residual_norm"], norm, rtol=1e-12)


@pytest.mark.parametrize("steps", [10, 40])
def test_dps_rule_span_is_the_codes_with_the_part_of_the_chain_that_a_step_spans(steps):
  """Of the whole chain the parts are one; the last step, to the clean image, is none."""
  grid = Schedule("linear", 100).grid(steps)
  parts = -np.diff(grid.t) / 100
  with jax.enable_x64():
    for step in (0, steps // 2, steps - 1):
      now, nxt = (Level(*(jnp.asarray(v[step + shift]) for v in grid)) for shift in (0, 1))
      span, code = (
        take_step(jax.random.key(3), jnp.array([0.3, -1.2, 0.7]), now, nxt, method, G3.prior(), G3.problem())[0].x
        for method in (DPS(scale=2.0, rule="span"), DPS(scale=2.0 * np.sqrt(3) * parts[step], rule="code"))
      )
      np.testing.assert_allclose(span, code, rtol=0, atol=1e-12)
  assert abs(parts.sum() - 0.99) < 1e-12 and parts[-1] == 0


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_dps_takes_no_guidance_step_where_the_data_are_met(rule):
  with jax.enable_x64():
    p = G3._replace(m=np.zeros(3), y=np.zeros(2))  # x = 0 denoises to 0, which gives y exactly
    now, nxt = (Level(*(jnp.asarray(v[i]) for v in CLEAN_END)) for i in (50, 51))
    guided, free = (
      take_step(jax.random.key(0), jnp.zeros(3), now, nxt, DPS(scale=scale, rule=rule), p.prior(), p.problem())
      for scale in (100.0, 0.0)
    )
    assert guided[1]["residual_norm"] == 0.0
    np.testing.assert_array_equal(guided[0].x, free[0].x)


def test_norm_matched_gradient_has_its_multiple_of_the_norm_of_the_score():
  with jax.enable_x64():
    u, c, balance, s = np.array([0.3, -1.2, 0.7]), 0.1, 5.0, 0.5
    now, nxt = Level(*map(jnp.asarray, (1.0, 1.0, s))), Level(*map(jnp.asarray, (0.0, 1.0, 0.4)))
    method = ScoreALD(c=c, balance=balance, weighting="norm_matched")
    key = jax.random.key(3)
    state, _ = take_step(key, jnp.asarray(u), now, nxt, method, G3.prior(), G3.problem())
    z = np.asarray(jax.random.normal(key, (3,)))
    score = np.linalg.solve(G3.C + s**2 * np.eye(3), G3.m - u)
    gradient = G3.A.T @ (G3.y - G3.A @ u)
    push = balance * np.linalg.norm(score) * gradient / np.linalg.norm(gradient)
    want = u + c * s**2 * (score + push) + np.sqrt(2 * c) * s * z
    np.testing.assert_allclose(state.x, want, rtol=0, atol=1e-12)


# T3: terminal mean and covariance of many chains. Their exact values, to the digits printed by an independent run.

SCHEDULE_A, SCHEDULE_B = np.geomspace(3.0, 0.05, 60), np.geomspace(3.0, 0.01, 200)


def ald_law(sigmas, steps, c):
  maps = ald_maps(G3, c=c, rate=1.0, steps=steps, denoise=False, s_bars=sigmas)
  return affine.propagate(affine.Law(np.zeros(3), sigmas[0] ** 2 * np.eye(3)), maps)


def sdedit_law(t0):
  abar = affine.linear_alpha_bar(1000)[: t0 + 1]
  return affine.propagate(affine.point(np.array([2.0, 1.0, -1.0])), sdedit.exact_maps(G3, abar, t0 + 1, 1))


GOLDEN_LAWS = [  # law, mean, covariance 11 12 13 22 23 33 or its first entries, digits printed
  (
    lambda: G3.posterior(),
    [0.9053645637, -0.5523233850, -0.2294106536],
    [0.0689459766, -0.0590857575, -0.0698904420, 0.1537589724, 0.1366074802, 0.1585190782],
    1e-8,
  ),
  (
    lambda: affine.propagate(START, ddpm_maps(G3)),
    [0.4999959219, -0.9999918439, 0.2499918440],
    [0.9214847007, 0.2813800223, -0.0005240041, 0.4528673330, -0.1872373454, 0.7329373450],
    1e-8,
  ),
  (
    lambda: CASES["dps", "squared, .05"].law(G3),
    [0.9066152773, -0.5647435056, -0.2526330745],
    [0.0638723007, -0.0495766963, -0.0636452751, 0.1334135124, 0.1235081231, 0.1304549322],
    1e-8,
  ),
  (
    lambda: CASES["dps", "squared, .3"].law(G3),
    [0.9370373024, -0.5740746048, -0.2740746048],
    [0.0314147428, -0.0624299794, -0.0624578380, 0.1250568687, 0.1249134020, 0.1250440336],
    1e-8,
  ),
  (
    lambda: ald_law(SCHEDULE_A, 5, 0.1),
    [0.8914676092, -0.5407185069, -0.2114272573],
    [0.0833382404, -0.0699005122, -0.0841163922, 0.1822003867, 0.1632316558, 0.1893868079],
    1e-8,
  ),
  (
    lambda: ald_law(SCHEDULE_A, 5, 0.5),
    [0.901982, -0.550131, -0.225083],
    [0.074244, -0.061193, -0.073150, 0.161669, 0.142661, 0.167071],
    1e-6,
  ),
  (lambda: ald_law(SCHEDULE_B, 10, 0.05), [0.900187, -0.546959, -0.222121], [0.073445], 1e-6),
  (lambda: sdedit_law(249), [1.458824, -0.098393, -0.464062], [0.697516], 1e-6),
  (lambda: sdedit_law(499), [0.661891, -0.866704, 0.140350], [0.983786], 1e-6),
  # Ten digits are printed; the last of DDRM's differs by 1 in the eighth, in print or by rounding.
  (
    lambda: CASES["pigdm", "score"].law(G3),
    [0.9070977213, -0.5494178487, -0.2242675686],
    [0.0566796047, -0.0539329824, -0.0627706573, 0.1344254979, 0.1231243213, 0.1402033317],
    1e-8,
  ),
  (
    lambda: CASES["pigdm", "score, eta .5"].law(G3),
    [0.9129794168, -0.5480477497, -0.2188998008],
    [0.0599670356, -0.0567918420, -0.0652510145, 0.1422941761, 0.1293731397, 0.1510160548],
    1e-8,
  ),
  (
    lambda: CASES["pigdm", "algorithm_1"].law(G3),
    [0.9339948700, -0.5679897379, -0.2679897378],
    [0.0374607289, -0.0602365435, -0.0617554331, 0.1277270971, 0.1234419047, 0.1271500290],
    1e-8,
  ),
  (
    lambda: CASES["mmps", "3 iterations"].law(G3),
    [0.9053622985, -0.5523199235, -0.2294070833],
    [0.0570953710, -0.0537548106, -0.0627970247, 0.1342758790, 0.1227260954, 0.1388929534],
    1e-8,
  ),
  (
    lambda: CASES["ddrm", "eta .85, eta_b 1"].law(G3),
    [0.8975351668, -0.5408025402, -0.2131060653],
    [0.0381635291, -0.0468819080, -0.0514481159, 0.1055206056, 0.1004187411, 0.1121366434],
    1.1e-8,
  ),
]


@pytest.mark.parametrize("law, mean, cov, tolerance", GOLDEN_LAWS)
def test_recursion_equals_golden_law(law, mean, cov, tolerance):
  got = law()
  np.testing.assert_allclose(got.mean, mean, rtol=0, atol=tolerance)
  np.testing.assert_allclose(statistics.upper(got.cov)[: len(cov)], cov, rtol=0, atol=tolerance)


def run(method, prior, problem, grid, count=CHAINS):
  """Return the results of independent chains, `[chains, ...]`: one compilation for all values of a structure."""
  keys, ys = jax.random.split(jax.random.key(0), count), jnp.tile(problem.y, (count, 1))
  return chains(keys, ys, method, prior, problem, schedules.as_arrays(grid))


def assert_law(samples, law):
  p_mean, p_cov = statistics.p_values(samples, law)
  assert p_mean > SMALLEST_P and p_cov > SMALLEST_P, (p_mean, p_cov)


@of_cases(CASES, fast=[("dps", "squared, .3"), ("dps", "squared, .05")])
@pytest.mark.slow
def test_samples_follow_the_exact_law(key):
  assert_law(sample(CASES[key], count=CHAINS), CASES[key].law(G3))


PRIOR_SAMPLERS = {
  "ddpm": (DDPM((3,)), ddpm_maps),
  "ddim_.5": (DDIM((3,), eta=0.5), lambda p: [affine.ddim_step(p, *pair, 0.5) for pair in PAIRS]),
}


@pytest.mark.parametrize("name", ["ddpm", pytest.param("ddim_.5", marks=pytest.mark.slow)])
def test_samples_of_the_prior_follow_the_exact_law(name):
  method, maps = PRIOR_SAMPLERS[name]
  assert_law(run(method, G3.prior(), G3.problem(), LINEAR_100.grid()), affine.propagate(START, maps(G3)))


@pytest.mark.slow
@pytest.mark.parametrize("t0, law", [(0.25, lambda: sdedit_law(249)), (0.5, lambda: sdedit_law(499))])
def test_sdedit_samples_follow_the_golden_law(t0, law):
  # The guide (2, 1, -1) is the measurement itself.
  p = G3._replace(A=np.eye(3), y=np.array([2.0, 1.0, -1.0]))
  assert_law(run(SDEdit(t0=t0), p.prior(LINEAR_1000), p.problem(), LINEAR_1000.grid()), law())


@pytest.mark.parametrize(
  "sigmas, steps, c",
  [
    (SCHEDULE_A, 5, 0.1),
    (SCHEDULE_A, 5, 0.5),
    pytest.param(SCHEDULE_B, 10, 0.05, marks=pytest.mark.slow),
  ],
)
@pytest.mark.slow
def test_score_ald_samples_follow_the_golden_law(sigmas, steps, c):
  method = ScoreALD(c=c, rate=1.0, steps_per_level=steps, denoise=False)
  assert_law(run(method, G3.prior(), G3.problem(), schedules.ve_grid(sigmas)), ald_law(sigmas, steps, c))


def test_chi_square_statistics_see_an_error_of_a_tenth():
  rng = np.random.default_rng(0)
  law = affine.propagate(START, ddpm_maps(G3))
  draws = law.mean + rng.standard_normal((CHAINS, 3)) @ np.linalg.cholesky(law.cov).T
  assert_law(draws, law)
  p_mean, _ = statistics.p_values(draws + 0.1 * np.sqrt(np.diag(law.cov)), law)
  _, p_cov = statistics.p_values(law.mean + 1.1 * (draws - law.mean), law)
  assert p_mean < 1e-20 and p_cov < 1e-20


# T6: the prior N(0, 1), whose variance after any number of steps is known, through the library's own steps.

SCALAR = affine.Linear(np.zeros(1), np.eye(1), np.zeros((1, 1)), 1.0, np.zeros(1))


def final_variances(method, spacings, variance="fixed_small"):
  """Return the variance after every step, `[steps + 1]`, for each respacing; one compilation for all."""
  grids = [LINEAR_1000.grid(steps) for steps in spacings]
  # Joined end to end; the step that leads from one grid's clean image to the next grid means nothing.
  maps = extract(method, Level(*map(np.concatenate, zip(*grids))), SCALAR, variance)
  histories, first = [], 0
  for grid in grids:
    history, steps = [1.0], len(grid.alpha) - 1
    for F, L in zip(maps.F[first : first + steps, 0, 0], maps.L[first : first + steps, 0, 0]):
      history.append(F**2 * history[-1] + L**2)
    histories.append(history)
    first += steps + 1
  return histories


SPACINGS = ["10", "20", "50", "100", "250", "1000"]
SMALL = [0.52078514, 0.70057747, 0.85505744, 0.92087695, 0.96609237, 0.99106738]


@pytest.mark.parametrize(
  "method, want",
  [
    (DDPM((1,)), SMALL),
    (DDIM((1,), eta=1.0), SMALL),
    (DDIM((1,), eta=0.5), [0.63682207, 0.79913555, 0.91232792, 0.95433406, 0.98110997, 0.99511029]),
    (DDIM((1,), eta=0.0), [0.66355065, 0.82482323, 0.92810594, 0.96368568, 0.98533784, 0.99625211]),
  ],
)
@pytest.mark.slow
def test_variance_of_a_standard_normal_prior_after_any_number_of_steps(method, want):
  got = [history[-1] for history in final_variances(method, SPACINGS)]
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)  # eight digits printed


def test_large_variance_keeps_a_standard_normal_prior_at_any_number_of_steps():
  for history in final_variances(DDPM((1,)), SPACINGS, "fixed_large"):
    np.testing.assert_allclose(history[:-1], 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(history[-1], 0.9999, rtol=0, atol=1e-12)


# The solver of the probability flow, whose exact solution for N(0, v) is x_T sqrt(v) / sqrt(alpha_T^2 v + sigma_T^2).


def flow_errors(method, variance, spacings):
  """Return the relative error of the last iterate for each respacing, in float64."""
  found = []
  with jax.enable_x64():
    prior = SCALAR._replace(C=np.array([[variance]])).prior()
    for steps in spacings:
      grid = schedules.as_arrays(LINEAR_1000.grid(steps))
      x, _ = sampler.sample(jax.random.key(0), method, prior, None, grid)
      start = sampler.start(jax.random.key(0), method, prior, None, grid).x
      exact = start * np.sqrt(variance / (grid.alpha[0] ** 2 * variance + grid.sigma[0] ** 2))
      found.append(abs(float(x[0] / exact[0]) - 1.0))
  return found


@pytest.mark.parametrize("variance", [10.0, 1.0, 0.1, 0.01])
@pytest.mark.slow
def test_solver_meets_the_probability_flow(variance):
  spacings = ["logsnr12", "logsnr25", "logsnr50"]
  solver, implicit = (flow_errors(method((1,)), variance, spacings) for method in (DPMSolver, DDIM))
  assert solver[1] < 0.015 and solver[2] < 0.006
  assert all(mine < 0.5 * theirs for mine, theirs in zip(solver, implicit))


@pytest.mark.slow
def test_first_step_of_the_solver_is_that_of_ddim():
  with jax.enable_x64():
    prior, levels = G3.prior(), schedules.as_arrays(LINEAR_100.grid())
    now, nxt = (jax.tree.map(lambda v, i=i: v[i], levels) for i in (0, 1))
    ends = []
    for method in (DPMSolver((3,)), DDIM((3,))):
      state = method.init(jax.random.key(1), prior, None, now)
      ends.append(method.step(jax.random.key(2), state, now, nxt, prior, None)[0].x)
    np.testing.assert_allclose(*ends, rtol=1e-12)


# T7: annealed Langevin dynamics.


def test_langevin_variance_of_a_point_prior_is_ncsnv2_technique_4():
  # Song and Ermon, 2020, arXiv 2006.09011, Prop. 3: u = .3, T = 5, sigma_{i-1} / sigma_i = 1.08.
  p = SCALAR._replace(C=np.zeros((1, 1)))
  sigma = 0.37
  levels = schedules.ve_grid(np.full(6, sigma))
  maps = extract(ScoreALD(c=0.3, denoise=False), Level(*(v[:6] for v in levels)), p)
  variance = np.array([[(1.08 * sigma) ** 2]])
  for F, L in zip(maps.F, maps.L):
    variance = F @ variance @ F.T + L @ L.T
  np.testing.assert_allclose(variance[0, 0] / sigma**2, 1.17618611904336, rtol=0, atol=1e-12)


@pytest.mark.parametrize("c, rate", [(0.1, 1.0), (0.5, 1.0), (0.09, 0.713), (0.3, 0.6)])
def test_stability_bounds_every_step_of_the_chain(c, rate):
  bound = float(score_ald.stability(ScoreALD(c=c, rate=rate), np.linalg.norm(G3.A, 2) ** 2))
  maps = extract(ScoreALD(c=c, rate=rate, denoise=False), schedules.ve_grid(SCHEDULE_A))
  worst = max(np.linalg.eigvalsh(np.eye(3) - F).max() for F in maps.F[:-1])
  assert worst <= bound
  assert (bound < 2.0) == (rate > 0.65)  # the last pair is unstable


@pytest.mark.parametrize("margin, stays", [(0.98, True), (1.02, False)])
def test_stability_is_where_the_chain_of_a_point_prior_starts_to_diverge(margin, stays):
  # Without prior variance and noise the bound is attained: c (1 + a^2 / rate^2) = 2 margin.
  a, c = 1.5, 0.2
  rate = a / np.sqrt(2 * margin / c - 1)
  p = affine.Linear(np.zeros(1), np.zeros((1, 1)), np.array([[a]]), 0.0, np.ones(1))
  method = ScoreALD(c=c, rate=rate, denoise=False)
  assert (float(score_ald.stability(method, a**2)) < 2.0) == stays
  levels = schedules.ve_grid(np.full(6, 0.3))
  maps = extract(method, Level(*(v[:6] for v in levels)), p)
  np.testing.assert_allclose(maps.F.ravel(), -(2 * margin - 1), rtol=1e-10)  # beyond -1 the chain grows


@pytest.mark.slow
def test_score_ald_diverges_without_an_annealed_likelihood():
  def sample(rate):
    method = ScoreALD(c=0.1, rate=rate, steps_per_level=5, denoise=False)
    return np.abs(run(method, G3.prior(), G3.problem(), schedules.ve_grid(SCHEDULE_A)))

  assert np.all(sample(1.0) < 10)
  assert not np.any(sample(1e-6) < 1e6)  # overflow included
  maps = [score_ald.exact_langevin_step(G3, s, 0.1, 1e-6) for s in SCHEDULE_A]
  assert 25 < max(np.linalg.eigvalsh(np.eye(3) - step.F).max() for step in maps) < 580


def centered_fft(x):
  """Return the centered orthonormal FFT of an image whose two channels are real and imaginary parts, same layout."""
  return _centered(jnp.fft.fft2, x)


def centered_ifft(x):
  """Return the inverse of `centered_fft`."""
  return _centered(jnp.fft.ifft2, x)


def _centered(transform, x):
  moved = jnp.fft.ifftshift(jax.lax.complex(x[..., 0], x[..., 1]))
  out = jnp.fft.fftshift(transform(moved, norm="ortho"))
  return jnp.stack([out.real, out.imag], axis=-1)


@pytree
class MaskedFourier(LinearOperator):
  """y = P F x for complex images `[h, w, 2]`, zero off the mask."""

  mask: jax.Array = None  # [h, w, 1], 0 or 1

  def __call__(self, x):
    return self.mask * centered_fft(x)

  def adjoint(self, y):
    return centered_ifft(self.mask * y)

  def pinv(self, y):
    return self.adjoint(y)

  def solve(self, v, gamma):
    return v / (self.mask + gamma)


@pytree
class FourierGaussian:
  """A stationary Gaussian prior of complex images: each k-space coefficient ~ N(0, spectrum) per real component."""

  spectrum: jax.Array = None  # [h, w, 1]
  schedule = Schedule("linear", 1000)  # whose levels these tests do not take

  def denoise(self, x_t, level):
    gain = level.alpha * self.spectrum / (level.alpha**2 * self.spectrum + level.sigma**2)
    x0 = centered_ifft(gain * centered_fft(x_t))
    return priors.Denoised(x0, priors.eps_from_x0(x_t, x0, level), 0.0)


SIZE, SIGMA_Y, ALD_CHAINS = 32, 0.1, 24
MRI_SIGMAS = np.geomspace(12.0, 0.02, 150)


def mri_spectrum():
  """Return the variance of a coefficient per real component, 25 (1 + (f/2)^2)^-1.5 + 1e-3, `[h, w]`."""
  k = np.arange(SIZE) - SIZE // 2
  return 25 * (1 + (k[:, None] ** 2 + k[None, :] ** 2) / 4) ** -1.5 + 1e-3


def mri_mask(acceleration, orientation=1):
  """Return an equispaced mask of lines with a fully sampled center, `[h, w]`."""
  lines = np.zeros(SIZE)
  lines[::acceleration] = 1
  lines[SIZE // 2 - 2 : SIZE // 2 + 2] = 1
  return np.broadcast_to(lines if orientation else lines[:, None], (SIZE, SIZE))


def mri_problem(mask, sigma):
  rng = np.random.default_rng(0)
  shape = (SIZE, SIZE, 2)
  clean = np.sqrt(mri_spectrum())[..., None] * rng.standard_normal(shape)
  y = mask[..., None] * (clean + SIGMA_Y * rng.standard_normal(shape))
  operator = MaskedFourier(in_shape=shape, mask=jnp.asarray(mask[..., None], jnp.float32))
  return Problem(operator, noise.Gaussian(jnp.float32(sigma)), jnp.asarray(y, jnp.float32))


def mri_law(mask, sigma, c):
  """Return each coefficient's exact gain of y and variance, `[h, w]`: the scalar recursion of Eq. 4."""
  spectrum = mri_spectrum()
  gain, variance = np.zeros_like(spectrum), np.full_like(spectrum, MRI_SIGMAS[0] ** 2)
  for s in np.repeat(MRI_SIGMAS, 3):
    eta, data = c * s**2, mask / (sigma**2 + s**2)
    F = 1 - eta * (1 / (spectrum + s**2) + data)
    gain, variance = F * gain + eta * data, F**2 * variance + 2 * eta
  return gain, variance


@jax.jit
def mri_chains(keys, prior, problem, grid):
  method = ScoreALD(c=0.2, rate=1.0, steps_per_level=3, denoise=False)
  images = jax.vmap(lambda key: sampler.sample(key, method, prior, problem, grid)[0])(keys)
  return jax.vmap(centered_fft)(images)


@functools.cache
def mri_samples(acceleration, orientation, sigma):
  """Return y, `[h, w, 2]`, and the k-space of independent chains, `[chains, h, w, 2]`."""
  prior = FourierGaussian(jnp.asarray(mri_spectrum()[..., None], jnp.float32))
  problem = mri_problem(mri_mask(acceleration, orientation), sigma)
  grid = schedules.as_arrays(schedules.ve_grid(MRI_SIGMAS))
  k_space = mri_chains(jax.random.split(jax.random.key(1), ALD_CHAINS), prior, problem, grid)
  return np.asarray(problem.y, np.float64), np.asarray(k_space, np.float64)


# The same compiled chain at another acceleration, orientation and noise: nothing to retune.
MRI_CASES = [
  (4, 1, 0.1),
  pytest.param(8, 0, 0.1, marks=pytest.mark.slow),
  pytest.param(4, 0, 0.1, marks=pytest.mark.slow),
  pytest.param(4, 1, 0.5, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("acceleration, orientation, sigma", MRI_CASES)
@pytest.mark.slow
def test_score_ald_of_masked_fourier_data_follows_the_law_of_every_coefficient(acceleration, orientation, sigma):
  mask = mri_mask(acceleration, orientation)
  y, k_space = mri_samples(acceleration, orientation, sigma)
  gain, variance = mri_law(mask, sigma, 0.2)
  z = (k_space - gain[..., None] * y) / np.sqrt(variance)[..., None]
  for part, chosen in (("observed", mask == 1), ("unobserved", mask == 0)):
    values = z[:, chosen]
    n = values.size
    assert abs(values.mean()) < 5 / np.sqrt(n), (part, values.mean())
    assert abs(np.mean(values**2) - 1) < 5 * np.sqrt(2 / n), (part, np.mean(values**2))
    # Coefficient by coefficient: means are N(0, 1 / chains), a sum of their squares is chi-square.
    means = values.mean(0).ravel()
    assert abs(np.sum(means**2) * ALD_CHAINS - means.size) < 5 * np.sqrt(2 * means.size), part


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_law_of_score_ald_is_close_to_the_posterior_and_wider(sigma):
  # Observed coefficients shrink by c / (c + sigma^2) whatever the mask, unobserved ones keep the prior: no leakage.
  mask, spectrum = mri_mask(4), mri_spectrum()
  gain, variance = mri_law(mask, sigma, 0.2)
  wiener, observed = spectrum / (spectrum + sigma**2), mask == 1
  lag = (np.abs(gain - wiener) * np.sqrt(spectrum + sigma**2) / (sigma * np.sqrt(wiener)))[observed]
  ratio = variance / np.where(observed, wiener * sigma**2, spectrum)
  assert lag.max() < 0.1  # posterior standard deviations
  assert ratio.min() > 1.0 and ratio.max() < 1.3
  np.testing.assert_array_equal(gain[~observed], 0.0)


def test_annealed_samples_fit_the_data_as_well_as_the_noise_allows():
  y, k_space = mri_samples(4, 1, SIGMA_Y)
  misfit = np.mean((y - k_space)[:, mri_mask(4) == 1] ** 2) / SIGMA_Y**2
  assert 1.0 < misfit < 1.15  # an exact posterior draw has 1; the finite schedule inflates it
