"""What the figures of the course share: a style, densities of one-dimensional laws, and chains that keep their path.

Figures stand on a white card, so that they read the same on a light and on a dark page.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from diffinv.schedules import as_arrays

# Colors that people with any color vision tell apart (Okabe and Ito), one a thing throughout the course.
INK, GRAY, GREEN = "#1b1b1b", "#9a9a9a", "#009e73"
DARK, BRIGHT = "#0072b2", "#d55e00"  # the two kinds of pixel
SDEDIT, SCORE_ALD, DPS = "#e69f00", "#0072b2", "#d55e00"
MARGIN = 0.15  # of the card around a figure, inches


def style():
  """Set how figures look: a white card, text that reads at the width of a telephone."""
  plt.rcParams.update(
    {
      "figure.figsize": (6.4, 3.4),
      "figure.dpi": 160,
      "figure.facecolor": "white",
      "savefig.pad_inches": MARGIN,
      "figure.constrained_layout.use": True,
      "font.size": 12,
      "axes.spines.top": False,
      "axes.spines.right": False,
      "axes.titlesize": 12,
      "legend.frameon": False,
      "legend.fontsize": 11,
      "lines.linewidth": 2,
    }
  )


def density(law, x):
  """Return the density of a one-dimensional `Mixture` at `x`, the shape of `x`."""
  variances = law.covs[:, 0, 0]
  squares = (np.asarray(x)[..., None] - law.means[:, 0]) ** 2 / variances
  return np.sum(np.exp(law.log_weights - squares / 2) / np.sqrt(2 * np.pi * variances), axis=-1)


def picture(axis, x, title=""):
  """Show a picture, `[h, w, c]` on [-1, 1], without axes."""
  shown = np.clip((np.asarray(x) + 1) / 2, 0, 1)
  axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  axis.set_title(title)
  axis.axis("off")


@jax.jit
def path(key, method, prior, problem, grid):
  """Return every iterate of a chain, `[steps + 1, ...]`: the loop of `diffinv.sample`, with nothing thrown away."""
  levels = as_arrays(method.levels(grid))
  now, nxt = (jax.tree.map(lambda v: v[part], levels) for part in (slice(None, -1), slice(1, None)))
  first = jax.tree.map(lambda v: v[0], levels)
  state = method.init(key, prior, problem, first)

  def step(state, pair):
    state, _ = method.step(*pair[:1], state, *pair[1:], prior, problem)
    return state, state.x

  keys = jax.random.split(jax.random.fold_in(key, 1), len(now.t))
  _, xs = jax.lax.scan(step, state, (keys, now, nxt))
  return jax.numpy.concatenate([state.x[None], xs])
