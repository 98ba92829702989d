"""The range of a picture's values, which a file of numbers does not state: [-1, 1] here, [0, 1] or [0, 255] elsewhere.

Values alone cannot prove a range: a bright picture in [-1, 1] may have none below 0. So a doubt is a sentence and not
an error, and whoever knows better states the range.
"""

from typing import Any

import numpy as np

RANGES = ("-1,1", "0,1", "0,255")  # as an option states them
FORMULAS = {"0,1": "2 * a - 1", "0,255": "a / 127.5 - 1"}  # that bring an array `a` to [-1, 1]
SHARE = 0.005  # of the values, at either end, that are not looked at: noise and single bad pixels
MARGIN = 0.25  # of a range of 1: by how much noise may leave it
SPAN = 0.4  # of [0, 1]: less contrast tells nothing
LOUD = 8.0  # no picture in [-1, 1], noise included, has a share of its values beyond
# Root mean squares of k-space. The transform is orthonormal, so that they are those of pictures: a gray one in [-1, 1]
# has 0.05 and more, a bright one 1; a mask leaves the middle, where nearly all of it is.
QUIET_SPECTRUM, LOUD_SPECTRUM = 0.01, 4.0


def parse_range(text: str) -> tuple[float, float]:
  """Read "LOW,HIGH", what is black and what is white.

  Raises:
    ValueError: it is no such pair.
  """
  low, _, high = text.partition(",")
  try:
    found = float(low), float(high)
  except ValueError:
    found = np.nan, np.nan
  if not (np.all(np.isfinite(found)) and found[0] < found[1]):
    raise ValueError(f"expected a range LOW,HIGH such as {' or '.join(RANGES)}, got {text!r}")
  return found


def to_range(y: Any, low: float, high: float, ones: Any = 1.0) -> np.ndarray:
  """Return what is measured of pictures in [-1, 1] from what was measured of the same pictures in [low, high].

  With x = (2 x' - low - high) / (high - low) and A linear, A x = (2 A x' - (low + high) A 1) / (high - low). The noise
  is scaled by 2 / (high - low), too.

  Args:
    y: A x', noisy or not; of pictures in [low, high].
    low: black.
    high: white.
    ones: A 1, what the operator measures of a picture of ones: 1 where pixels are averaged, the mask of inpainting, a
      peak in the middle of k-space.

  Returns:
    float32, of y's shape.

  Raises:
    ValueError: `low` is not below `high`.
  """
  if not low < high:
    raise ValueError(f"range: expected black below white, got {low:g} and {high:g}")
  y, ones = np.asarray(y, np.float64), np.asarray(ones, np.float64)
  return np.asarray((2.0 * y - (low + high) * ones) / (high - low), np.float32)


def likely(y: Any) -> str | None:
  """Return which of RANGES a picture seems to have; None if it has no range of these.

  Args:
    y: of any shape, perhaps noisy. Values of exactly 0 are left out: so are pixels that were not measured.
  """
  low, high, middle = _spread(y)
  if -low <= LOUD and high <= LOUD:
    is_unit = low > -MARGIN and high < 1.0 + MARGIN and high - low > SPAN and middle > 0.0
    return "0,1" if is_unit else "-1,1"
  return "0,255" if low > -MARGIN * high and high < (1.0 + MARGIN) * 255.0 else None


def _spread(y: Any) -> tuple[float, float, float]:
  """Return nearly the least and the largest value, and the median, of those that are not 0; zeros where all are."""
  values = np.asarray(y, np.float64)
  values = values[np.isfinite(values) & (values != 0.0)]
  if not values.size:
    return 0.0, 0.0, 0.0
  low, high, middle = (float(v) for v in np.quantile(values, (SHARE, 1.0 - SHARE, 0.5)))
  return low, high, middle


def doubt(y: Any) -> str | None:
  """Return a sentence if a picture that should be in [-1, 1] looks as if it were in another range; else None.

  Args:
    y: see `likely`.
  """
  found, (low, high, _) = likely(y), _spread(y)
  if found == "-1,1":
    return None
  told = f"values from {low:.3g} to {high:.3g}"
  if found is None:
    return f"{told} are not those of a picture in [-1, 1]; scale them to it"
  return f"{told} look like a picture in [{found.replace(',', ', ')}], not [-1, 1]; {FORMULAS[found]} is in [-1, 1]"


def doubt_spectrum(y: Any, values: int) -> str | None:
  """Return a sentence if k-space has not the size that it has of pictures in [-1, 1]; else None.

  Args:
    y: real numbers, zero where nothing was sampled.
    values: of the picture, height times width times channels.
  """
  size = float(np.sqrt(np.sum(np.square(np.asarray(y, np.float64))) / values))
  if QUIET_SPECTRUM <= size <= LOUD_SPECTRUM or not np.isfinite(size):
    return None
  return (
    f"k-space of root mean square {size:.2g} is not that of a picture in [-1, 1], {QUIET_SPECTRUM:g} to "
    f"{LOUD_SPECTRUM:g}; divide it by the largest magnitude of its inverse orthonormal transform"
  )
