"""The chains of a study: pictures and films; sweeps; held-out pictures; the search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import batch, methods, noise, operators, priors, problems
from diffinv.data import held_out
from diffinv.methods import METHODS
from diffinv.methods.base import PART
from diffinv.metrics import table
from diffinv.studies import chains as bench
from diffinv.studies import marks as marking
from diffinv.studies import search as tuning

SHAPE = (16, 16, 3)
IMAGES, SAMPLES = 3, 2


@pytest.fixture(scope="module")
def prior():
  return priors.natural()


@pytest.fixture(scope="module")
def truths():
  return [np.asarray(jnp.clip(0.4 * jax.random.normal(jax.random.key(i), SHAPE), -1, 1)) for i in range(IMAGES)]


@pytest.fixture(scope="module")
def measured(truths):
  def one(i, x0):
    k1, k2 = jax.random.split(jax.random.key(i))
    return problems.simulate(k2, operators.random_mask(k1, SHAPE, missing=0.5), noise.Gaussian(0.05), x0)

  return [one(i, x0) for i, x0 in enumerate(truths)]


def keys(samples=SAMPLES):
  return list(jax.random.split(jax.random.key(2), IMAGES * samples).reshape(IMAGES, samples))


def tried(name, fields, values):
  """Every combination of values of a method."""
  return tuning.candidates(lambda some: methods.make_method(name, {**fields, **some}), values)


def restore(method, prior, measured, *, samples=SAMPLES, chunk=100, **options):
  grid = prior.schedule.grid("6")
  return bench.restore(
    keys(samples), method, prior, measured, grid, chunk=chunk, mesh=None, progress=lambda done, total: None, **options
  )


@pytest.mark.parametrize("count, samples, size, expected", [(5, 1, 2, [2, 2, 1]), (5, 4, 2, [1] * 5), (3, 2, 6, [3])])
def test_chunks_hold_as_many_pictures_as_fit(count, samples, size, expected):
  got = bench.chunks(count, samples, size)
  assert [len(part) for part in got] == expected
  assert [i for part in got for i in part] == list(range(count))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_a_film_runs_from_the_start_to_the_result(name, prior, measured):
  """Every method's own estimate is a finite picture all along, and the last frame is the restored picture."""
  method = METHODS[name]()
  if not methods.accepts(type(method), measured[0].operator):
    pytest.skip("not for this operator")
  got = restore(method, prior, measured[:1] * IMAGES, frames=4)
  assert [film.shape for film in got.frames] == [(4, *SHAPE)] * IMAGES
  for film, pictures in zip(got.frames, got.images):
    assert np.all(np.isfinite(film))
    np.testing.assert_allclose(film[-1], pictures[0], atol=1e-5)
    assert not np.allclose(film[0], film[-1], atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
@pytest.mark.slow
def test_films_are_of_the_first_sample_whatever_the_chunk(prior, measured, chunk):
  got = restore(METHODS["diffpir"](), prior, measured, chunk=chunk, frames=3)
  whole = restore(METHODS["diffpir"](), prior, measured, frames=3)
  for film, other, pictures in zip(got.frames, whole.frames, got.images):
    np.testing.assert_allclose(film, other, atol=2e-5)
    np.testing.assert_allclose(film[-1], pictures[0], atol=1e-5)


def test_watching_changes_nothing(prior, measured):
  with_films = restore(METHODS["dps"](), prior, measured, frames=5)
  without = restore(METHODS["dps"](), prior, measured)
  np.testing.assert_array_equal(np.stack(with_films.images), np.stack(without.images))
  assert without.frames == [] and with_films.step_bytes == without.step_bytes


@pytest.mark.slow
def test_the_memory_of_a_step_grows_with_the_chains(prior, measured):
  few, many = (restore(METHODS["dps"](), prior, measured, samples=samples).step_bytes for samples in (1, 8))
  assert many > 4 * few > 0


def test_a_chain_that_leaves_the_numbers_is_told(prior, measured):
  got = restore(METHODS["dps"](scale=1e12, rule="squared"), prior, measured).images
  assert marking.failure(got[0]) == "NaN or infinity in 2 of 2 chains; its steps are too large, lower them"
  with pytest.raises(ValueError, match="dps: expected finite pictures, got NaN or infinity in 2 of 2 chains; its step"):
    marking.require_finite("dps", got)


# Sweeps


@pytest.mark.parametrize("name, field, values", [("dps", "scale", (0.1, 1.0)), ("daps", "sigma_max", (50.0, 100.0))])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.slow
def test_a_sweep_gives_what_each_method_gives(prior, measured, name, field, values, blocks):
  grid, found = prior.schedule.grid("6"), [METHODS[name](**{field: value}) for value in values]
  candidates = [tuning.Candidate({}, method) for method in found]
  tile = lambda leaf: jnp.tile(leaf, (2, *[1] * (leaf.ndim - 1)))
  raw = jax.random.key_data(jnp.stack(keys(1)))
  got, _ = batch.sample_batch(
    jax.random.wrap_key_data(tile(raw)),
    tuning.stacked(candidates, IMAGES),
    prior,
    jax.tree.map(tile, problems.stack(measured)),
    grid,
    swept=True,
    progress=(lambda done, total: None) if blocks else None,
  )
  for method, part in zip(found, (got[:IMAGES], got[IMAGES:])):
    single, _ = batch.sample_batch(jnp.stack(keys(1)), method, prior, problems.stack(measured), grid)
    np.testing.assert_allclose(part, single, atol=2e-4)
  assert not np.allclose(got[:IMAGES], got[IMAGES:], atol=1e-3)


def test_a_sweep_compiles_once_for_all_values(prior, measured):
  found = tried("dps", {}, {"scale": (0.1, 0.2, 0.4)})
  assert tuning.sweeps(found) == [[0, 1, 2]]
  mixed = tried("sdedit", {}, {"t0": (0.3, 0.5), "ridge": (0.1, 1.0)})
  assert tuning.sweeps(mixed) == [[0, 1], [2, 3]]
  assert [candidate.fields for candidate in mixed[:2]] == [{"t0": 0.3, "ridge": 0.1}, {"t0": 0.3, "ridge": 1.0}]


def test_a_candidate_that_is_not_stable_is_left_out(measured):
  found = tried("score_ald", {"c": 0.5}, {"rate": (0.1, 2.0)})
  assert [candidate.fields["rate"] for candidate in tuning.able(found, measured[0].operator)] == [2.0]
  with pytest.raises(ValueError, match="score_ald: the chain is stable while"):
    tuning.able(found[:1], measured[0].operator)


def test_the_best_mark_is_the_highest_finite_one():
  assert table.mark("psnr").best([1.0, float("nan"), 3.0, 2.0]) == 2
  assert table.mark("psnr").best([float("nan"), float("inf")]) is None


@pytest.mark.parametrize(
  "fields, edges",
  [({"a": 1.0, "eta": 0.5}, ["a"]), ({"a": 2.0, "eta": 1.0}, []), ({"a": 4.0, "eta": 0.2}, ["a", "eta"])],
)
def test_the_edge_of_the_search_is_told_but_not_the_end_of_a_range(fields, edges):
  assert tuning.at_the_edge(fields, {"a": (1.0, 2.0, 4.0), "eta": (0.2, 0.5, 1.0)}, {"eta": PART}) == edges


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.search])
def test_the_searched_fields_exist_and_are_worth_a_search(name):
  found = tried(name, {}, tuning.values(name))
  assert len(found) > 3
  with pytest.raises(ValueError, match=f"{name}: expected a field among .*, got 'magic'"):
    tried(name, {}, {"magic": (1.0,)})


# Held-out pictures


@pytest.mark.parametrize("name, size", [("photos", 64), ("photos", 32), ("faces", 32)])
@pytest.mark.slow
def test_the_test_set_and_the_validation_set_share_nothing(name, size):
  sets = {purpose: held_out.held_out(name, purpose, 8, size) for purpose in held_out.PURPOSES}
  for names, pictures in sets.values():
    assert pictures.shape == (8, size, size, 3) and pictures.dtype == np.float32 and len(set(names)) == 8
    assert np.abs(pictures).max() <= 1 and pictures.std() > 0.1
  test, validation = (pictures for _, pictures in sets.values())
  assert not any(np.array_equal(a, b) for a in test for b in validation)


def test_more_pictures_begin_with_the_same_ones():
  for name in ("photos", "faces"):
    (few_names, few), (names, many) = (held_out.held_out(name, held_out.TEST, n, 32) for n in (3, 9))
    assert names[:3] == few_names
    np.testing.assert_array_equal(many[:3], few)


def test_photographs_are_equally_many_of_each():
  names, _ = held_out.held_out("photos", held_out.TEST, 8)
  stems = [name.rsplit("-", 1)[0] for name in names]
  assert {stem: stems.count(stem) for stem in stems} == dict.fromkeys(
    ["astronaut", "astronaut-half", "coins", "coins-half"], 2
  )


def test_more_crops_than_there_are_is_an_error():
  with pytest.raises(
    ValueError, match=r"num_images: expected at most .* crops of 64 pixels of the photographs, got 1000"
  ):
    held_out.held_out("photos", held_out.TEST, 1000)
