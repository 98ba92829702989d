"""Schedules, respacing and step coefficients against numbers of the guided-diffusion code, and their identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import schedules
from diffinv.schedules import Level, Schedule

# Printed to 13 digits by the reference.
CLOSE = dict(rtol=1e-10, atol=0)

LINEAR, COSINE = schedules.betas_linear, schedules.betas_cosine


def head_and_tail(steps, head, tail):
  return list(steps[: len(head)]) == head and list(steps[len(steps) - len(tail) :]) == tail


def test_linear_1000_matches_reference():
  betas = LINEAR(1000)
  np.testing.assert_allclose(betas[[0, 1, 499, 999]], [1e-4, 1.199199199199e-4, 1.004004004004e-2, 0.02], **CLOSE)
  np.testing.assert_allclose(betas.sum(), 10.05, **CLOSE)
  abar = Schedule("linear", 1000).alpha_bar()
  want = [0.9997800920721, 7.858724288178e-2, 7.779665836502e-2, 4.035829765376e-5]
  np.testing.assert_allclose(abar[[1, 499, 500, 999]], want, **CLOSE)
  np.testing.assert_allclose(abar.sum(), 275.5132333968, **CLOSE)


def test_linear_1000_posterior_tables_match_reference():
  t = schedules.tables(Schedule("linear", 1000).grid())
  np.testing.assert_allclose(t.betas, LINEAR(1000), rtol=1e-10)
  assert t.posterior_variance[0] == 0.0
  want = [5.453187661302e-5, 1.003135541461e-2, 1.999998352656e-2]
  np.testing.assert_allclose(t.posterior_variance[[1, 499, 999]], want, **CLOSE)
  np.testing.assert_allclose(t.posterior_variance.sum(), 10.035505610704, **CLOSE)
  np.testing.assert_allclose(t.posterior_log_variance_clipped[0], -9.8167251353, **CLOSE)
  np.testing.assert_allclose(t.posterior_mean_coef1[[1, 999]], [0.5452914995103, 1.283514871722e-4], **CLOSE)
  np.testing.assert_allclose(t.posterior_mean_coef2[[1, 999]], [0.4547084989905, 0.9899486782675], **CLOSE)


def test_linear_100_matches_reference():
  betas, abar = LINEAR(100), Schedule("linear", 100).alpha_bar()
  np.testing.assert_allclose(betas[[0, 99]], [1e-3, 0.2], **CLOSE)
  np.testing.assert_allclose(abar[[49, 99]], [7.419699671742e-2, 2.039008975564e-5], **CLOSE)
  np.testing.assert_allclose(abar.sum(), 27.1212378782, **CLOSE)
  variance = schedules.tables(Schedule("linear", 100).grid()).posterior_variance
  np.testing.assert_allclose(variance.sum(), 9.917769614589, **CLOSE)


def test_cosine_1000_matches_reference():
  betas, abar = COSINE(1000), Schedule("cosine", 1000).alpha_bar()
  want = [4.128422482197e-5, 4.614175273665e-5, 0.7499993929011, 0.999]
  np.testing.assert_allclose(betas[[0, 1, 998, 999]], want, **CLOSE)
  assert np.sum(betas == 0.999) == 1
  np.testing.assert_allclose(betas.sum(), 12.441496417056, **CLOSE)
  np.testing.assert_allclose(abar[[499, 999]], [0.4938435904406, 2.428766907035e-9], **CLOSE)
  np.testing.assert_allclose(abar.sum(), 495.5775125825, **CLOSE)
  variance = schedules.tables(Schedule("cosine", 1000).grid()).posterior_variance
  np.testing.assert_allclose(variance.sum(), 12.431767388376, **CLOSE)


def test_cosine_4000_matches_reference():
  betas, abar = COSINE(4000), Schedule("cosine", 4000).alpha_bar()
  np.testing.assert_allclose(betas[[0, 3999]], [9.865818813681e-6, 0.999], **CLOSE)
  np.testing.assert_allclose(abar[[1999, 3999]], [0.4938435904406, 1.517980468851e-10], **CLOSE)


RESPACED = [  # steps, head, tail, sum of indices, last beta, last alpha_bar (linear 1000)
  ("10", [0, 111, 222, 333, 444, 555], [666, 777, 888, 999], 4995, 0.87978823039, 4.0358297654e-5),
  ("20", [0, 53, 105, 158, 210, 263], [841, 894, 946, 999], 9990, 0.64751372702, 4.0358297654e-5),
  ("25", [0, 42, 83, 125, 166, 208], [874, 916, 957, 999], 12487, 0.56439419160, 4.0358297654e-5),
  ("50", [0, 20, 41, 61, 82, 102], [938, 958, 979, 999], 24975, 0.32980906609, 4.0358297654e-5),
  ("100", [0, 10, 20, 30, 40, 50], [969, 979, 989, 999], 49950, 0.18217953086, 4.0358297654e-5),
  ("250", [0, 4, 8, 12, 16, 20], [987, 991, 995, 999], 124875, 0.077519344992, 4.0358297654e-5),
  ("ddim10", [0, 100], [800, 900], 4500, 0.82073582468, 2.7024451956e-4),
  ("ddim20", [0, 50], [900, 950], 9500, 0.60760784967, 1.0604182815e-4),
  ("ddim50", [0, 20], [960, 980], 24500, 0.32461444753, 5.9037513709e-5),
  ("ddim100", [0, 10], [980, 990], 49500, 0.18068233095, 4.8370478118e-5),
  ("ddim250", [0, 4], [992, 996], 124500, 0.077294322201, 4.2877369068e-5),
]


def respace(num_steps, steps):
  return schedules.respace(Schedule("linear", num_steps).alpha_bar(), steps)


@pytest.mark.parametrize("steps, head, tail, total, last_beta, last_abar", RESPACED)
def test_respacing_of_linear_1000_matches_reference(steps, head, tail, total, last_beta, last_abar):
  chosen = respace(1000, steps)
  assert head_and_tail(chosen, head, tail)
  assert len(chosen) == int(steps.removeprefix("ddim")) and chosen.sum() == total
  t = schedules.tables(Schedule("linear", 1000).grid(steps))
  # Eleven digits printed.
  np.testing.assert_allclose([t.betas[0], t.betas[-1], t.alpha_bar[-1]], [1e-4, last_beta, last_abar], rtol=1e-10)


def test_first_posterior_variance_of_ten_steps_matches_reference():
  t = schedules.tables(Schedule("linear", 1000).grid("10"))
  np.testing.assert_allclose(t.posterior_variance[1], 9.9930876038e-5, **CLOSE)


def test_sections_match_reference():
  chosen = respace(300, "10,15,20")
  head, tail = [0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 100, 107], [283, 289, 294, 299]
  assert len(chosen) == 45 and chosen.sum() == 7727 and head_and_tail(chosen, head, tail)
  chosen = respace(1000, "90,60,60,20,20")
  assert len(chosen) == 250 and chosen.sum() == 88875
  assert head_and_tail(chosen, [0, 2, 4, 7, 9, 11], [968, 978, 989, 999])


@pytest.mark.parametrize(
  "steps, message",
  [
    ("ddim300", "no integer stride through 1000 steps gives 300"),
    ("ddim150", "no integer stride through 1000 steps gives 150"),
    ("ddim10,20", "expected 'ddimN' with one number"),
    ("logsnr10,20", "expected 'logsnrN' with one number"),
    ("karras10,20", "expected 'karrasN' with one number"),
    ("logsnr1001", "has 1000 steps, got logsnr1001"),
    ("1001", "has 1000 steps, got 1001"),
    ("600,10", "section 0 of '600,10' holds 500 steps, got 600"),
    ("0", "at least 1"),
    ("10,-1", "at least 1"),
    ("fast", "expected 'N', 'ddimN', 'logsnrN', 'karrasN', 'mixedN' or 'a,b,c'"),
    ("", "expected 'N', 'ddimN', 'logsnrN', 'karrasN', 'mixedN' or 'a,b,c'"),
  ],
)
def test_impossible_respacing_is_an_error_that_says_why(steps, message):
  with pytest.raises(ValueError, match=message):
    respace(1000, steps)


@pytest.mark.parametrize(
  "name, num_steps", [("linear", 1000), ("linear", 100), ("linear", 4000), ("cosine", 1000), ("cosine", 4000)]
)
def test_betas_equal_golden(golden, name, num_steps):
  want = golden("schedules.npz")[f"betas_{name}_{num_steps}"]
  np.testing.assert_allclose(schedules.BETAS[name](num_steps), want, rtol=1e-13)


@pytest.mark.parametrize(
  "num_steps, steps",
  [
    (1000, "1000"),
    (1000, "250"),
    (1000, "100"),
    (1000, "20"),
    (1000, "ddim50"),
    (1000, "ddim25"),
    (300, "10,15,20"),
    (1000, "10,10,10,10,20"),
    (1000, "7"),
  ],
)
def test_respacing_equals_golden(golden, num_steps, steps):
  want = golden("schedules.npz")[f"timesteps_{num_steps}_{steps}"]
  np.testing.assert_array_equal(respace(num_steps, steps), want)


@pytest.mark.parametrize("steps", ["1000", "100", "ddim50"])
def test_tables_equal_golden(golden, steps):
  want = golden("schedules.npz")
  grid = Schedule("linear", 1000).grid(steps)
  got = schedules.tables(grid)
  for name in got._fields:
    key = f"respaced_{steps}_{'alphas_cumprod' if name == 'alpha_bar' else name}"
    # Betas are ratios of alpha_bar here and there; 1 - alpha_bar loses a few digits of float64.
    np.testing.assert_allclose(getattr(got, name), want[key], rtol=1e-10, err_msg=name)
  np.testing.assert_array_equal(grid.t[:-1][::-1], want[f"respaced_{steps}_timestep_map"])


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", ["1000", "100", "ddim50", "7", "1"])
def test_tables_satisfy_their_identities(name, steps):
  schedule = Schedule(name, 1000)
  t = schedules.tables(schedule.grid(steps))
  np.testing.assert_allclose(t.alpha_bar, schedule.alpha_bar()[respace(1000, steps)], rtol=1e-12)
  assert np.all(t.posterior_variance <= t.betas)
  mean = t.posterior_mean_coef1 * np.sqrt(t.alpha_bar) + t.posterior_mean_coef2
  np.testing.assert_allclose(mean, np.sqrt(1 - t.betas), rtol=1e-10, atol=1e-12)  # beta of one step is nearly 1


@pytest.mark.parametrize("steps", ["1", "ddim1", "logsnr1", "karras1", "mixed1"])
def test_a_single_step_is_from_the_noise_that_chains_begin_with(steps):
  grid = Schedule("linear").grid(steps)
  assert list(grid.t) == [999.0, 0.0] and grid.sigma[0] > 0.9999


def test_linear_steps_are_too_few_where_a_beta_would_reach_one():
  assert np.all(np.diff(Schedule("linear", 21).alpha_bar()) < 0) and Schedule("linear", 21).alpha_bar()[-1] > 0
  with pytest.raises(ValueError, match="expected more than 20 steps of linear betas, .*, got 20; take 'cosine'"):
    Schedule("linear", 20).alpha_bar()


LOG_SNR = lambda alpha_bar: 0.5 * np.log(alpha_bar / (1 - alpha_bar))
MIXED = lambda alpha_bar: np.arange(1000) / 999 - LOG_SNR(alpha_bar) / np.ptp(LOG_SNR(alpha_bar))
KARRAS = lambda alpha_bar: np.sqrt((1 - alpha_bar) / alpha_bar) ** (1 / 7)


@pytest.mark.parametrize("spacing, scale", [("logsnr", LOG_SNR), ("karras", KARRAS), ("mixed", MIXED)])
@pytest.mark.parametrize(
  "name, count", [("linear", 2), ("linear", 30), ("linear", 400), ("cosine", 30), ("linear", 1000)]
)
def test_even_steps_are_as_many_as_asked_for_and_apart(name, count, spacing, scale):
  alpha_bar = Schedule(name, 1000).alpha_bar()
  chosen = schedules.respace(alpha_bar, f"{spacing}{count}")
  assert len(chosen) == count and np.all(np.diff(chosen) > 0)
  assert (chosen[0], chosen[-1]) == (0, 999)
  values = scale(alpha_bar)
  lengths, reach = np.abs(np.diff(values)), np.abs(values[chosen] - np.linspace(values[0], values[-1], count))
  # A step is the nearest to its place, or stands beside another that keeps it from there.
  longest = np.maximum(lengths[np.maximum(chosen - 1, 0)], lengths[np.minimum(chosen, 998)])
  beside = np.diff(chosen) == 1
  assert np.all((reach <= longest / 2 + 1e-9) | np.append(beside, False) | np.append(False, beside))
  if count == 30:
    early = chosen < 30  # where steps of the schedule are longer than those asked for
    np.testing.assert_array_less(reach[~early], lengths[np.minimum(chosen[~early], 998)].max())


def test_mixed_steps_are_small_in_the_middle_and_small_at_the_end():
  log_sbar = schedules.log_sbar(Schedule("linear", 1000))
  around = lambda steps, low, high: np.sum((log_sbar[steps] > low) & (log_sbar[steps] < high))
  even, snr, mixed = (schedules.respace(Schedule("linear").alpha_bar(), s) for s in ("50", "logsnr50", "mixed50"))
  assert around(mixed, 0, 3) > 1.2 * around(snr, 0, 3)  # sbar in 1 .. 20
  assert around(mixed, -5, -1) > 1.5 * around(even, -5, -1)  # sbar in 0.007 .. 0.37


def test_grid_descends_to_the_clean_image_and_keeps_original_indices():
  grid = Schedule("linear", 1000).grid("20")
  assert all(v.dtype == np.float64 and v.shape == (21,) for v in grid)
  assert (grid.t[0], grid.alpha[-1], grid.sigma[-1]) == (999.0, 1.0, 0.0)
  assert np.all(np.diff(grid.sigma) < 0) and np.all(np.diff(grid.alpha) > 0)
  np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1.0, rtol=1e-14)
  np.testing.assert_allclose(grid.alpha[0], 0.0063528, rtol=1e-5)
  np.testing.assert_allclose(20 * np.log10(grid.alpha[0] / grid.sigma[0]), -43.94, atol=0.005)  # dB


def test_variance_exploding_grid_keeps_the_signal():
  sigmas = np.geomspace(3.0, 0.05, 60)
  grid = schedules.ve_grid(sigmas)
  np.testing.assert_array_equal(grid.alpha, 1.0)
  np.testing.assert_array_equal(grid.sigma, np.append(sigmas, 0.0))
  assert np.all(np.diff(grid.t) <= 0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", ["1000", "100", "10"])
def test_step_beta_keeps_its_digits_in_float32(name, steps):
  grid = Schedule(name, 1000).grid(steps)
  arrays = schedules.as_arrays(grid)
  assert arrays.alpha.dtype == jnp.float32
  now, nxt = Level(*(v[:-1] for v in arrays)), Level(*(v[1:] for v in arrays))
  want = schedules.tables(grid).betas[::-1]
  # Two roundings of the smaller factor v, 2^-24 v each, times the sum 2 v over alpha_nxt^2; and a few of beta itself.
  v = np.minimum(now.alpha, now.sigma) / np.asarray(nxt.alpha)
  error = np.abs(np.asarray(schedules.step_beta(now, nxt)) - want)
  assert np.all(error < 4 * 2**-24 * v**2 + 4 * 2**-23 * want)
  # 1 - alpha_bar ratios in float32 would lose beta = 1e-4 to 1e-3 of itself.
  assert np.max(error / want) < 5e-5


def test_step_beta_is_exact_in_float64():
  with jax.enable_x64():
    grid = Schedule("linear", 1000).grid()
    arrays = schedules.as_arrays(grid)
    now, nxt = Level(*(v[:-1] for v in arrays)), Level(*(v[1:] for v in arrays))
    np.testing.assert_allclose(schedules.step_beta(now, nxt), LINEAR(1000)[::-1], rtol=1e-10)


def test_a_name_that_is_no_schedule_is_told():
  with pytest.raises(ValueError, match="schedule: expected one of linear, .*, got 'lin'"):
    Schedule("lin").grid("5")


# The library's tables are float32: each of the 1000 factors 1 - beta is rounded to 2^-25 of itself.
ROUNDED = {"rtol": 1e-4}
OF_DIFFUSERS = {
  "linear": Schedule("linear", 1000, ends=(1e-4, 0.02)),
  "linear_100": Schedule("linear", 100, ends=(0.001, 0.2)),
  "scaled_linear": Schedule("scaled_linear", 1000, ends=(0.00085, 0.012)),
  "squaredcos_cap_v2": Schedule("cosine", 1000),
  "sigmoid": Schedule("sigmoid", 1000, ends=(1e-4, 0.02)),
  "trained": Schedule("given", 40, betas=tuple(np.linspace(0.01, 0.3, 40).tolist())),
}


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_schedules_of_diffusers_equal_its_tables(golden, name):
  want = golden("diffusers_schedules.npz")[name]
  got = OF_DIFFUSERS[name].alpha_bar()
  np.testing.assert_allclose(got if len(want) == len(got) else got[::10], want, **ROUNDED)


def test_a_schedule_without_signal_equals_the_table_but_for_its_end(golden):
  want = golden("diffusers_schedules.npz")["zero_snr"]
  plain = Schedule("scaled_linear", 1000, ends=(1e-4, 0.02))
  got = Schedule("scaled_linear", 1000, ends=(1e-4, 0.02), zero_snr=True).alpha_bar()
  np.testing.assert_allclose(got[::10], want, rtol=1e-4, atol=1e-7)  # differences of roots of float32
  assert got[0] == pytest.approx(plain.alpha_bar()[0], rel=1e-12) and plain.alpha_bar()[-1] > 1e-6
  assert 0 < got[-1] <= 2**-24 and np.all(np.diff(got) < 0)
  grid = schedules.as_arrays(Schedule("scaled_linear", 1000, ends=(1e-4, 0.02), zero_snr=True).grid("logsnr20"))
  assert np.all(np.isfinite(grid.alpha)) and grid.alpha[0] < 3e-4 and np.all(np.diff(grid.alpha) > 0)


def test_a_karras_schedule_has_the_noise_of_edms_sampler():
  got = np.exp(schedules.log_sbar(Schedule("karras", 18, ends=(0.002, 80.0))))
  i = np.arange(18)  # Karras et al., Eq. 5, from the highest to the lowest
  theirs = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  np.testing.assert_allclose(got[::-1], theirs, rtol=1e-9)


def test_a_geometric_schedule_has_the_noise_of_the_variance_exploding_one(golden):
  want = golden("diffusers_schedules.npz")["score_sde_ve"]
  got = np.exp(schedules.log_sbar(Schedule("geometric", 2000, ends=(0.01, 1348.0))))
  np.testing.assert_allclose(got[::10], want, rtol=1e-5)  # exp of a float32


@pytest.mark.parametrize(
  "schedule, message",
  [
    (Schedule("sigmoid"), "expected two ends of linear, scaled_linear, sigmoid, geometric, karras alone, got 0"),
    (Schedule("karras", ends=(80.0, 0.002)), "expected ascending ends of 'karras', got 80.0 and 0.002"),
    (Schedule("cosine", ends=(0.1, 0.2)), "expected two ends .* got 2 of 'cosine'"),
    (Schedule("linear", ends=(0.1,)), "expected two ends .* got 1 of 'linear'"),
    (Schedule("linear", ends=(0.1, 1.0)), r"expected betas in \(0, 1\)"),
    (Schedule("geometric", ends=(3.0, 0.1)), "expected ascending ends"),
    (Schedule("given"), "expected 1000 betas of 'given' alone, got 0"),
    (Schedule("given", 2, betas=(0.1, 0.2, 0.3)), "expected 2 betas of 'given' alone, got 3"),
    (Schedule("linear", 2, betas=(0.1, 0.2)), "expected 2 betas of 'given' alone, got 2 of 'linear'"),
    (Schedule("cosine", 2, zero_snr=True), "expected 3 or more steps with zero_snr, got 2"),
    (Schedule("flow", 2), "expected 3 or more steps of 'flow', got 2"),
    (Schedule("flow", shift=0.0), r"expected a shift in \[1/1000, 1000\], got 0.0"),
    (Schedule("flow", zero_snr=True), "expected no zero_snr of 'flow'"),
    (Schedule("flow", ends=(0.1, 0.2)), "expected two ends .* got 2 of 'flow'"),
    (Schedule("linear", shift=3.0), "expected a shift of 'flow' alone, got 3.0 of 'linear'"),
  ],
)
def test_numbers_of_no_schedule_are_told(schedule, message):
  with pytest.raises(ValueError, match=f"schedule: {message}"):
    schedule.alpha_bar()


def test_the_text_of_a_schedule_leaves_out_what_says_nothing():
  """Digests of priors hold it: with more fields they stay what they were."""
  assert repr(Schedule("linear")) == "Schedule(name='linear', num_steps=1000)"
  assert repr(Schedule("flow", 10, shift=3.0)) == "Schedule(name='flow', num_steps=10, shift=3.0)"
