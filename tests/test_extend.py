"""The examples of docs/extend.md run as they stand, and keep the laws of what they extend."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffinv
from diffinv import noise, operators, priors
from diffinv.metrics import table
from diffinv.problems import Problem

PAGE = (pathlib.Path(__file__).parent.parent / "docs/extend.md").read_text(encoding="utf-8")


COMING = (pathlib.Path(__file__).parent.parent / "docs/coming.md").read_text(encoding="utf-8")


def section(title):
  """Return what the Python of a section defines, all its blocks run one after the other."""
  text = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
  scope = {"__name__": "snippet"}
  for block in re.findall(r"```python\n(.*?)```", text, re.S):
    exec(block, scope)
  return scope


@pytest.fixture(scope="module")
def picture():
  return 0.3 * jax.random.normal(jax.random.key(0), (16, 16, 3))


def test_noise_has_the_spread_and_the_slope_that_it_says(picture):
  heavy = section("Add a noise")["StudentT"](0.1, 8.0)  # of 8 degrees the fourth moment is finite
  drawn = heavy.sample(jax.random.key(1), jnp.zeros(200_000))
  np.testing.assert_allclose(jnp.std(drawn), heavy.std(jnp.zeros(()))[()], rtol=0.02)
  y = heavy.sample(jax.random.key(2), picture)
  slope = jax.grad(lambda clean: jnp.sum(heavy.misfit(y, clean, 0.02)))(picture)
  likelihood = jax.grad(lambda clean: jnp.sum(heavy.log_prob(y, clean)))(picture)
  np.testing.assert_allclose(slope, -2 * 0.02 * likelihood, rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(slope, -2 * 0.02 * (y - picture) / heavy.variance(y, picture), rtol=1e-3, atol=1e-6)


def test_noise_of_heavy_tails_passes_over_what_is_far_off():
  """The level of least misfit is nearer to the truth than the mean, which an outlier pulls away."""
  heavy = section("Add a noise")["StudentT"](0.1, 2.2)
  y = heavy.sample(jax.random.key(3), jnp.full((200, 40), 0.25))
  levels = jnp.linspace(-0.5, 1.0, 301)
  misfits = jax.vmap(lambda level: jnp.sum(heavy.misfit(y, level, 1.0), axis=1))(levels)
  found, means = levels[jnp.argmin(misfits, axis=0)], jnp.mean(y, axis=1)
  assert jnp.mean((found - 0.25) ** 2) < 0.5 * jnp.mean((means - 0.25) ** 2)


def test_noise_of_ones_own_goes_into_a_restoration():
  x0 = np.linspace(-0.5, 0.5, 24, dtype=np.float32)[:, None, None] * np.ones((24, 24, 3), np.float32)
  heavy = section("Add a noise")["StudentT"](0.2)
  y = np.asarray(heavy.sample(jax.random.key(3), jnp.asarray(x0)))
  told = diffinv.restore(y, task="denoising", noise=heavy, prior="natural", method="dps", steps=50)
  assert np.mean((told.picture - x0) ** 2) < 0.8 * np.mean((y - x0) ** 2)


def test_prior_of_pixels_is_the_gaussian_that_it_says(picture):
  made = section("Add a prior")
  own = made["Pixels"](mean=0.2, std=0.5)
  exact = priors.gaussian(jnp.full(3, 0.2), 0.25 * jnp.eye(3), own.schedule)
  level = jax.tree.map(lambda v: jnp.asarray(v[3], jnp.float32), own.schedule.grid("10"))
  found, wanted = own.denoise(picture, level), exact.denoise(picture[0, 0], level)
  np.testing.assert_allclose(found.x0[0, 0], wanted.x0, rtol=1e-4, atol=1e-6)
  problem = Problem(operators.OPERATORS["identity"](picture.shape), noise.Gaussian(0.5), picture)
  x, _ = diffinv.sample(jax.random.key(1), diffinv.METHODS["mmse"](), own, problem, own.schedule.grid("10"))
  np.testing.assert_allclose(x, (picture + 0.2) / 2, atol=0.01)  # equal variances: halfway between y and the mean


def test_network_of_ones_own_predicts_the_noise(picture):
  prior = section("Add a prior")["prior"]
  level = jax.tree.map(lambda v: jnp.asarray(v[5], jnp.float32), prior.schedule.grid("10"))
  found = prior.denoise(picture, level)
  np.testing.assert_allclose(
    found.x0, jnp.clip((picture - level.sigma * 0.5 * picture) / level.alpha, -1, 1), atol=1e-5
  )


def test_task_loses_whole_rows_and_is_compared():
  rows = section("Add a task")["rows"]
  operator = rows.make(jax.random.key(0), (32, 32, 3))
  kept = operator(jnp.ones((32, 32, 3)))
  assert set(np.unique(kept)) == {0.0, 1.0} and np.all(kept == kept[:, :1, :1]) and 8 < kept[:, 0, 0].sum() < 24
  study = diffinv.Study(prior="natural", tasks={"rows": rows}, methods=["diffpir"], size=32, fit="resize", steps=5)
  (row,) = diffinv.compare(study).rows
  assert row["task"] == "rows" and row["psnr"] > 15


def test_metric_is_in_the_rows_of_a_comparison(monkeypatch):
  mark = section("Add a metric")["mark"]
  monkeypatch.setattr(table, "MARKS", (*table.MARKS, mark))
  study = diffinv.Study(
    prior="natural", tasks=["denoising"], methods=["pseudo_inverse"], size=32, fit="resize", sigma=0.05
  )
  results = diffinv.compare(study)
  (row,) = results.rows
  assert 0.05 * 2 < row["worst"] < 0.05 * 6  # the largest of some thousand draws
  assert "Worst pixel" in results.table()


def test_the_job_of_another_library_is_done_here():
  """The pixels that were not measured are nearer to the truth than gray, which is their mean."""
  scope = {}
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    exec(re.search(r"```python\n(.*?)```", COMING, re.S)[1], scope)
  lost = np.broadcast_to(np.asarray(scope["operator"].mask) == 0, scope["x"].shape)
  assert 0.69 < lost.mean() < 0.71
  assert np.mean((scope["x_hat"] - scope["x"])[lost] ** 2) < 0.3 * np.var(scope["x"][lost])
