"""Sliced Wasserstein distances of samples to held-out renders, of patches and of whole images; and a sheet of samples.

Other held-out renders are the floor, samples of the fitted Gaussians what to beat.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffinv import batch, devices, errors, output, progress
from diffinv.data import held_out, sheet
from diffinv.data.images import write_pillow
from diffinv.methods.unconditional import SAMPLERS
from diffinv.metrics import distances
from diffinv.studies.evaluation.layout import Measured, Table
from diffinv.studies.evaluation.subject import GAUSSIAN, MEAN_IMAGE, REDUCED, Subject

SAMPLES_KEY, GAUSSIAN_KEY, PLACES_KEY = 2, 3, 4  # folded into the seed
PATCH, PATCHES, DIRECTIONS = 7, 16, 512  # edge in pixels; patches an image; directions of the distances
SHEET_SAMPLES = 64
SHEET = "samples.png"


def check(subject: Subject) -> None:
  """Check that there are held-out pictures without end, of a size that can be reduced.

  Raises:
    UsageError: there are not.
  """
  if subject.training.source != "faces":
    raise errors.UsageError(
      f"`measures=sampling` needs endless held-out images, those of faces, got {subject.training.source}"
    )
  if subject.training.size % REDUCED:
    raise errors.UsageError(
      f"`measures=sampling` needs images of a multiple of {REDUCED} pixels, got {subject.training.size}"
    )


def measure(subject: Subject, home: output.Folder) -> Measured:
  """Measure the distances of the samples, and draw the first ones into the folder."""
  config, count = subject.config, subject.config.num_drawn
  sets = {"network": draw_samples(subject)}
  write_pillow(home.new(SHEET), sheet.grid(list(sets["network"][:SHEET_SAMPLES])))
  sets["held-out renders (floor)"] = subject.held_out(held_out.FLOOR, count)
  sets |= {name: draw_gaussian(subject, name) for name in (GAUSSIAN, MEAN_IMAGE)}
  reference = subject.held_out(held_out.REFERENCE, count)
  found = {name: set_distances(images, reference, config.seed) for name, images in sets.items()}
  ratios = [found["network"][i] / found[GAUSSIAN][i] for i in range(2)]
  rows = [*([name, *values] for name, values in found.items()), [f"network / {GAUSSIAN} (aim: 0.5)", *ratios]]
  title = (
    f"Sliced Wasserstein distance to {count} held-out renders, {config.sampler}, {config.sample_steps} steps; "
    f"{DIRECTIONS} directions, units of [-1, 1]"
  )
  columns = [f"{count} images", f"{PATCH}x{PATCH} patches, {PATCHES} an image", f"whole, at {REDUCED}x{REDUCED}"]
  return Measured({"distances": found, "ratio": ratios}, [Table(title, columns, rows, [4, 4])])


def draw_samples(subject: Subject) -> np.ndarray:
  """Return samples of the network, [n, h, w, c], clipped as a file would clip them."""
  config = subject.config
  method = SAMPLERS[config.sampler](shape=subject.shape)
  key = jax.random.fold_in(jax.random.key(config.seed), SAMPLES_KEY)
  with progress.Bar(1.0) as bar:
    images, _ = batch.sample_batch(
      jax.random.split(key, config.num_drawn)[:, None],
      method,
      subject.prior,
      None,
      subject.prior.schedule.grid(str(config.sample_steps)),
      chunk=config.batch_size,
      mesh=devices.mesh(config),
      progress=bar.part(1.0, "sampling"),
    )
  return np.clip(images[:, 0], -1.0, 1.0)


def draw_gaussian(subject: Subject, name: str) -> np.ndarray:
  """Return samples of a fitted Gaussian, [n, h, w, c], clipped."""
  key = jax.random.fold_in(jax.random.key(subject.config.seed), GAUSSIAN_KEY)
  keys = jax.random.split(key, subject.config.num_drawn)
  drawn = jax.lax.map(subject.gaussians[name].draw, keys, batch_size=subject.config.batch_size)
  return np.clip(np.asarray(drawn), -1, 1)


def set_distances(images: np.ndarray, reference: np.ndarray, seed: int) -> tuple[float, float]:
  """Return the distances of patches and of whole reduced images: fixed places, fixed directions."""
  k1, k2, k3, k4 = jax.random.split(jax.random.fold_in(jax.random.key(seed), PLACES_KEY), 4)
  channels = images.shape[-1]
  cut = functools.partial(distances.random_patches, size=PATCH, count=PATCHES)
  patches = distances.sliced_wasserstein(
    cut(k1, jnp.asarray(images)),
    cut(k2, jnp.asarray(reference)),
    distances.random_directions(k3, PATCH**2 * channels, DIRECTIONS),
  )
  whole = distances.sliced_wasserstein(
    distances.reduced(jnp.asarray(images), REDUCED),
    distances.reduced(jnp.asarray(reference), REDUCED),
    distances.random_directions(k4, REDUCED**2 * channels, DIRECTIONS),
  )
  return float(patches), float(whole)
