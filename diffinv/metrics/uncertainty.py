"""Uncertainty of posterior samples, and whether it is right: intervals, coverage, ranks and the CRPS.

Pure functions of the K samples `[K, ...]` of one image, of any shape after the first axis; `vmap` for many images.
Each value (pixel) is judged on its own. Calibration holds on average over images and measurements drawn from the prior,
not within one image, whose values are correlated.

Finite K. The truth and K draws of an exact sampler are exchangeable: the rank of the truth among them is uniform on
0..K, and the interval from the i-th smallest draw to the i-th largest holds the truth with probability exactly
1 - 2 i / (K + 1), whatever the law. These are the levels that K draws can resolve, `central_levels(K)`: 0.2 and 0.6 for
4 draws, up to 0.88 for 16. Plain quantiles of the draws (a "90 % interval" of 4 draws) cover less than their level.
At a level in between, `coverage` mixes the counts of the two neighboring intervals so that an exact sampler has
exactly the nominal coverage in expectation, for every K. Beyond the widest, (K - 1) / (K + 1), no interval exists:
asking for it is an error.

Sources: Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian Inference Algorithms with Simulation-Based
Calibration", arXiv 1804.06788 (ranks); Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and
Estimation", JASA 102, 2007 (CRPS, Eq. 20 and 21); Ferro, "Fair scores for ensemble forecasts", QJRMS 140, 2014.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEVEL_MARGIN = 1e-6  # 0.6 is a level of 4 draws, also as a float32

SQRT_PI = float(np.sqrt(np.pi))


class Ranks(NamedTuple):
  """Where the truth lies among the samples, value by value, `[...]` each."""

  below: jax.Array  # samples that are smaller than the truth
  equal: jax.Array  # samples that equal it: its rank lies anywhere in below .. below + equal


def posterior_mean(samples: jax.Array) -> jax.Array:
  """Return the mean over the samples `[K, ...]`, `[...]`: the estimate of least mean squared error."""
  return jnp.mean(samples, axis=0)


def posterior_std(samples: jax.Array) -> jax.Array:
  """Return the standard deviation over the samples `[K, ...]`, `[...]`; the variance is unbiased (K - 1).

  Raises:
    ValueError: there is one sample only.
  """
  _count(samples, "posterior_std")
  return jnp.std(samples, axis=0, ddof=1)


def central_levels(count: int) -> tuple[float, ...]:
  """Return the levels of central intervals that `count` draws can resolve, (K + 1 - 2 i) / (K + 1), ascending."""
  return tuple((count + 1 - 2 * i) / (count + 1) for i in range(count // 2, 0, -1))


def credible_interval(samples: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
  """Return the ends of the central interval of each value, `[...]` each.

  The ends are the quantiles (1 -+ level) / 2 by order statistics: the draw of rank p (K + 1), interpolated linearly
  between neighboring ranks. At a level of `central_levels(K)` they are draws, and an exact sampler's interval holds
  the truth with exactly that probability; in between, with one between those of the neighbors.

  Args:
    samples: `[K, ...]`.
    level: nominal probability, in (0, (K - 1) / (K + 1)].

  Raises:
    ValueError: K samples cannot resolve the level.
  """
  count = _count(samples, "credible_interval")
  _check_levels((level,), count)
  ordered = jnp.sort(samples, axis=0)
  low, high = (_order_statistic(ordered, part * (count + 1)) for part in ((1 - level) / 2, (1 + level) / 2))
  return low, high


def ranks(samples: jax.Array, truth: jax.Array) -> Ranks:
  """Return the ranks of the truth `[...]` among the samples `[K, ...]`, whole numbers.

  Raises:
    ValueError: the truth is not of the samples' shape.
  """
  _check_truth(samples, truth)
  below = jnp.sum(samples < truth[None], axis=0)
  return Ranks(below, jnp.sum(samples == truth[None], axis=0))


def inside(samples: jax.Array, truth: jax.Array, level: float) -> jax.Array:
  """Return whether the truth lies in the central interval, value by value, `[...]`, in [0, 1].

  At a level of `central_levels(K)` it is 1 from the i-th smallest to the i-th largest draw, else 0. In between, it is
  the weighted mean of the answers at the two neighboring levels (at the narrowest and at none): with (rank + u) /
  (K + 1), u uniform on [0, 1], it is the probability over u to lie within (1 -+ level) / 2. Where draws equal the
  truth, its rank is uniform over all that fit.

  Args:
    samples: `[K, ...]`.
    truth: `[...]`.
    level: nominal probability, in (0, (K - 1) / (K + 1)].

  Raises:
    ValueError: K samples cannot resolve the level, or the truth is not of the samples' shape.
  """
  count = _count(samples, "inside")
  _check_levels((level,), count)
  below, equal = ranks(samples, truth)
  low, width = below.astype(samples.dtype), (equal + 1).astype(samples.dtype)  # in units of 1 / (K + 1)
  margins = ((1 - level) / 2 * (count + 1), (1 + level) / 2 * (count + 1))
  overlap = jnp.minimum(low + width, margins[1]) - jnp.maximum(low, margins[0])
  return jnp.maximum(overlap, 0.0) / width


def coverage(samples: jax.Array, truth: jax.Array, levels: Sequence[float]) -> jax.Array:
  """Return the fraction of the values of the truth that lie in their central intervals, `[levels]`.

  Its expectation for an exact sampler is exactly the level, for every K; see `inside`. Below it the samples are
  over-confident, above it over-dispersed. The values of one image are correlated: a standard error needs many images.

  Args:
    samples: `[K, ...]`.
    truth: `[...]`.
    levels: nominal probabilities, in (0, (K - 1) / (K + 1)]: `central_levels(K)` are those of plain intervals.

  Raises:
    ValueError: K samples cannot resolve a level, or the truth is not of the samples' shape.
  """
  return jnp.stack([jnp.mean(inside(samples, truth, level)) for level in levels])


def rank_histogram(samples: jax.Array, truth: jax.Array, bins: int | None = None) -> jax.Array:
  """Count the ranks of the values of the truth, `[bins]`; uniform for an exact sampler, summed over many images.

  A U shape is over-confident, a hump over-dispersed, a slope biased. A value that equals draws counts in equal parts at
  each rank that it may have. Samples of the prior pass this test, so add a statistic that depends on the data.

  Args:
    samples: `[K, ...]`.
    truth: `[...]`.
    bins: a divisor of K + 1; None for K + 1, a bin for each rank.

  Raises:
    ValueError: `bins` does not divide K + 1, or the truth is not of the samples' shape.
  """
  count = _count(samples, "rank_histogram")
  bins = count + 1 if bins is None else bins
  if bins < 1 or (count + 1) % bins:
    raise ValueError(f"bins: expected a divisor of samples + 1 = {count + 1}, got {bins}; each bin holds as many ranks")
  below, equal = (jnp.ravel(v)[:, None] for v in ranks(samples, truth))
  size = (count + 1) // bins
  first = size * jnp.arange(bins)[None]
  shared = jnp.minimum(below + equal + 1, first + size) - jnp.maximum(below, first)
  return jnp.sum(jnp.maximum(shared, 0).astype(samples.dtype) / (equal + 1).astype(samples.dtype), axis=0)


def uniformity(counts: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Test a histogram of INDEPENDENT ranks for uniformity.

  Args:
    counts: `[bins]`; at least 5 a bin on average.

  Returns:
    The statistic sum (n - n/bins)^2 / (n/bins), [], and its p-value by the chi-square law of bins - 1, [].
  """
  expected = jnp.mean(counts)
  statistic = jnp.sum((counts - expected) ** 2) / expected
  return statistic, jax.scipy.stats.chi2.sf(statistic, counts.shape[0] - 1)


def crps(samples: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the fair continuous ranked probability score of each value, `[...]`, in its units; the smaller the better.

    mean_i |x_i - x| - sum_ij |x_i - x_j| / (2 K (K - 1))

  Its expectation is that of infinitely many samples, for every K (Ferro); the plug-in form would reward small K. For a
  calibrated law N(m, s^2) of the samples it is s / sqrt(pi) on average. Use it to rank methods by paired differences:
  it barely notices a spread that is a third too small. With few samples it may be negative.

  Args:
    samples: `[K, ...]`, K at least 2.
    truth: `[...]`.

  Raises:
    ValueError: there is one sample only, or the truth is not of the samples' shape.
  """
  count = _count(samples, "crps")
  _check_truth(samples, truth)
  ordered = jnp.sort(samples - truth[None], axis=0)  # errors are small: sums of the values themselves would lose digits
  # sum_ij |x_i - x_j| = 2 sum_i (2 i - K - 1) x_(i)
  weights = jnp.arange(1 - count, count, 2, dtype=samples.dtype) / (count * (count - 1))
  return jnp.mean(jnp.abs(ordered), axis=0) - jnp.tensordot(weights, ordered, 1, precision="highest")


def gaussian_crps(mean: jax.Array, std: jax.Array, truth: jax.Array) -> jax.Array:
  """Return the CRPS of N(mean, std^2) at the truth, std (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) (Eq. 21)."""
  z = (truth - mean) / std
  density = jnp.exp(-0.5 * z**2) / float(np.sqrt(2 * np.pi))
  return std * (z * (2.0 * jax.scipy.special.ndtr(z) - 1.0) + 2.0 * density - 1.0 / SQRT_PI)


def _order_statistic(ordered, position):
  """Return the draw of rank `position` in 1 .. K, interpolated linearly, from the ascending draws."""
  # (1 - 0.6) / 2 * 5 is not quite 1 in floating point, and the widest level may lie a rounding error beyond the draws.
  position = min(max(round(position, 6), 1.0), float(ordered.shape[0]))
  index = min(int(position), ordered.shape[0] - 1)
  part = position - index
  return (1.0 - part) * ordered[index - 1] + part * ordered[index]


def _count(samples, name):
  if samples.ndim < 1 or samples.shape[0] < 2:
    raise ValueError(
      f"{name}: expected two or more samples [K, ...], got shape {samples.shape}; draw more of the image"
    )
  return samples.shape[0]


def _check_levels(levels, count):
  widest = (count - 1) / (count + 1)
  for level in levels:
    if not 0.0 < level <= widest + LEVEL_MARGIN:
      needed = "" if not widest < level < 1.0 else f", or draw {int(np.ceil((1 + level) / (1 - level) - 1e-9))} samples"
      raise ValueError(
        f"level: {count} samples tell levels above 0 and up to {widest:.4g}, got {level:g}; "
        f"take one of central_levels({count}){needed}"
      )


def _check_truth(samples, truth):
  if samples.shape[1:] != truth.shape:
    raise ValueError(f"truth: expected the shape {samples.shape[1:]} of one sample, got {truth.shape}")
