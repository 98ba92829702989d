"""Measure a trained prior against the Gaussian of the same data, the analytic prior and classical methods.

usage: python tools/evaluate_prior.py --prior=checkpoints/photo --output=FOLDER [--measure=denoising,...]

Each measure writes NAME.md and NAME.json into the folder, with the command that made them:

  denoising    PSNR of E[x0 | x_t] on held-out images at four noise levels
  calibration  slope of x0 over E[x0 | x_t], coarse and fine, from little noise to pure noise: 1 for a posterior mean;
               above it the network says too little, and samples lose contrast, below it too much
  sampling     sliced Wasserstein distances of samples to held-out images, and a sheet of samples
  tune         rules and step sizes of DPS and the weight of total variation, on held-out images that no other measure
               uses; with --antithetic for the mean of a pair of samples, not for one
  restoration  four tasks: DPS with the network and with `natural`, Wiener filters, total variation, interpolation;
               a sample of DPS pays for its sharpness in PSNR, up to 3 dB, so that the mean of several stands beside it;
               takes its settings from the folder's tuning.json, and runs `tune` first where there is none;
               other methods with the network as they ship, tuned by `diffinv tune`
  speed        milliseconds of a DPS step

Which images are held out depends on what the prior was trained on, which its prior.json says:

  photos   denoising: all crops of `astronaut`, at full and half size. Restoration: two crops of each of `astronaut`
           and `coins`, at full and half size, drawn at random once and for all; tuning: other crops. (They are of the
           same photographs: scikit-image has no others to spare.)
  faces    fresh renders from seeds that training did not use; another seed for each purpose
  FOLDER   the files that training kept back, in turn for restoration and for tuning

The fitted Gaussian (diffinv.priors.spectral) is estimated from the training images themselves, as the trainer draws
them, at the size of the crops. Its mirror form is the strong one; the periodic, strictly stationary form and one with
a mean image instead of a mean color are reported beside it.

Tasks are those of diffinv.tasks: kernels keep their size in pixels, also at 64x64, where the 61-pixel kernel still
fits (its Gaussian of 3 pixels ends 12 pixels from its center). Box and margin scale with the image.
"""

import functools
import itertools
import json
import math
import os
import pathlib
import statistics
import sys
import time
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffinv import baselines, batch, methods, output, priors, sampler
from diffinv.apps import common
from diffinv.apps import train as train_app
from diffinv.data import faces, photos, sheet
from diffinv.data import folder as folder_data
from diffinv.data import held_out as held_out_data
from diffinv.data.images import from_uint8, write_pillow
from diffinv.methods import METHODS
from diffinv.methods.base import Method
from diffinv.methods.dps import DPS
from diffinv.methods.unconditional import SAMPLERS
from diffinv.metrics import distances
from diffinv.metrics import image as metrics
from diffinv.noise import Gaussian
from diffinv.priors import folder as checkpoint
from diffinv.priors import spectral
from diffinv.problems import Problem, simulate, stack
from diffinv.schedules import as_arrays, level_at
from diffinv.studies import settings as shipped
from diffinv.tasks import TASKS

MEASURES = ("denoising", "calibration", "sampling", "tune", "restoration", "speed")
RESTORATION_TASKS = ("inpaint_random", "inpaint_box", "super_resolution", "gaussian_blur")
SBARS = (0.1, 0.3, 1.0, 3.0)
MARGINS = {"photos": (2.5, 3.0, 2.0, 1.7), "faces": (None, 4.0, 4.0, None)}  # dB over the fitted Gaussian: the aim
CALIBRATION_SBARS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
COARSE = 8  # edge of the blocks whose means are the coarse part of an image, pixels
PATCH, PATCHES, REDUCED, DIRECTIONS = 7, 16, 16, 512  # of the sliced Wasserstein distances
SHEET_SAMPLES = 64
RENDERED = 16  # faces at once: one compilation for all purposes
FIRST_SCALES, FIRST_WEIGHT = {"code": 1.0, "squared": 0.25}, 0.05  # where the searches begin: of DPS by its rule
TV_STEPS, TV_INNER = 100, 50  # iterations of FISTA, and of the proximal map within
MANY = 8  # images at once whose step is timed beside that of one
TUNING = "tuning.json"
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Whose numbers differ only by chance get different seeds: purposes of held-out renders, counted from --seed.
PURPOSES = ("denoising", "reference", "floor", "restoration", "tuning")

PRIOR = flags.DEFINE_string("prior", None, "Prior folder, or a name in checkpoints/.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.", required=True)
MEASURE = flags.DEFINE_list("measure", ["denoising", "speed"], f"Measures, of {', '.join(MEASURES)}.")
SEED = flags.DEFINE_integer("seed", 1000, "Seed of everything random; faces use the next four as well.", lower_bound=0)
FIT_IMAGES = flags.DEFINE_integer("fit_images", 8192, "Training images that the Gaussian is fitted to.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 128, "Held-out renders for denoising.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images that run at once.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", 1000, "Samples, and renders of each held-out set.", lower_bound=1)
SAMPLER = flags.DEFINE_enum("sampler", "dpm_solver", list(SAMPLERS), "How samples are drawn.")
SAMPLE_STEPS = flags.DEFINE_string("sample_steps", "logsnr30", "Steps of a sample.")
STEPS = flags.DEFINE_string("steps", "250", "Steps of DPS.")
TASK_NAMES = flags.DEFINE_list("tasks", list(RESTORATION_TASKS), "Tasks of restoration and tuning.")
TEST_IMAGES = flags.DEFINE_integer("test_images", 8, "Images to restore.", lower_bound=1)
TUNING_IMAGES = flags.DEFINE_integer("tuning_images", 4, "Images to tune on.", lower_bound=1)
CHAINS = flags.DEFINE_integer(
  "chains", 4, "Samples an image; the mean of 4, 16, ... of them, and of all, stand beside the first.", lower_bound=1
)
ANTITHETIC = flags.DEFINE_boolean(
  "antithetic",
  False,
  "Draw the samples of restoration in pairs of opposite noise, as `diffinv reconstruct` does, and tune a pair's mean.",
)
BESIDE = flags.DEFINE_list("beside", ["diffpir"], "Methods beside DPS, with the settings that ship for the prior.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Chains to time, after one that is not.", lower_bound=1)
DEVICES = flags.DEFINE_integer(
  "devices", None, "Devices to spread the eight images over; on a CPU, cores. Not set: one.", lower_bound=1
)
TIMED_STEPS = flags.DEFINE_integer("timed_steps", 20, "Steps of a timed chain.", lower_bound=1)


class Subject(NamedTuple):
  """What is measured."""

  name: str
  prior: Any
  settings: dict[str, Any]  # of its training run
  shape: tuple[int, int, int]

  @property
  def data(self) -> str:
    """What it was trained on."""
    return self.settings["data"]


class Table(NamedTuple):
  """A table of the report."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]  # a name, then numbers, written with `digits` decimals, text or None
  digits: Sequence[int]  # a column after the first


# Images


def load_subject() -> Subject:
  """Load the prior and what its prior.json says of its training."""
  folder = pathlib.Path(PRIOR.value)
  folder = folder if folder.is_dir() else ROOT / "checkpoints" / PRIOR.value
  description = json.loads((folder / checkpoint.DESCRIPTION).read_text())
  settings = {"workers": os.cpu_count(), **description["provenance"]["settings"]}
  if settings["data"] == "faces" and settings["seed"] in range(SEED.value, SEED.value + len(PURPOSES)):
    raise app.UsageError(f"--seed: expected one that training did not use, got {SEED.value}")
  if "files" in settings and settings["files"] != folder_data.fingerprint(settings["data"]):
    raise app.UsageError(
      f"--prior: expected the images of its training in {settings['data']}, got others: which of them were held out "
      "cannot be told; put the same ones there"
    )
  shape = (settings["size"], settings["size"], 3)
  return Subject(folder.name, checkpoint.load_prior(folder), settings, shape)


def training_batches(subject: Subject) -> Iterator[np.ndarray]:
  """Give the first training images as the trainer drew them, `[b, h, w, c]`, [-1, 1]."""
  settings, size = subject.settings, subject.settings["batch_size"]
  if subject.data in held_out_data.SETS:  # a folder's images are trained on or held out by it, theirs are not
    settings = {**settings, "held_out": 1}
  stream = train_app.open_data(settings, print).stream(0, math.ceil(FIT_IMAGES.value / size))
  for images in stream:
    images = np.asarray(images)
    yield from_uint8(images) if images.dtype == np.uint8 else images


def held_out(subject: Subject, purpose: str, count: int) -> np.ndarray:
  """Return `count` held-out images for one of PURPOSES, `[n, h, w, c]`, [-1, 1]; all there are for photographs."""
  if subject.data == "faces":
    root = jax.random.key(SEED.value + PURPOSES.index(purpose))
    keys = jax.random.split(root, math.ceil(count / RENDERED) * RENDERED).reshape(-1, RENDERED)
    size, flip = subject.shape[0], subject.settings["flip"]
    return np.concatenate([np.asarray(faces.render_unsided(some, size, flip)) for some in keys])[:count]
  if purpose in ("reference", "floor"):
    raise app.UsageError(f"--measure=sampling needs endless held-out images, those of faces, got {subject.data}")
  if subject.data == "photos":
    return held_out_photos(subject.shape[0], purpose, count)
  data = train_app.open_data(subject.settings, print)
  if not data.held_out_files:
    raise app.UsageError(f"--prior: expected one whose training held files out, of {subject.data} it held out none")
  if purpose == "denoising":
    return data.held_out[:count]
  one_each = data.held_out[: len(data.held_out_files)]  # no file serves both purposes
  return one_each[{"restoration": 0, "tuning": 1}[purpose] :: 2][:count]


def held_out_photos(size: int, purpose: str, count: int) -> np.ndarray:
  """Return crops of the held-out photographs; restoration and tuning share none.

  Raises:
    UsageError: there are not so many.
  """
  if purpose == "denoising":
    return from_uint8(photos.held_out_crops(size))
  try:
    return held_out_data.held_out("photos", {"restoration": "test", "tuning": "validation"}[purpose], count, size)[1]
  except ValueError as error:
    raise app.UsageError(f"--test_images, --tuning_images: {error}") from None


# Denoising


def denoising(subject: Subject) -> tuple[dict, list[Table]]:
  """Measure the PSNR of the denoised held-out images at every level."""
  x0 = held_out(subject, "denoising", IMAGES.value)
  contestants = {"network": subject.prior, **fitted_gaussians(subject), "natural": priors.natural()}
  errors = {name: np.stack([squared_errors(p, subject, x0, s) for s in SBARS]) for name, p in contestants.items()}
  pooled = {name: 10 * np.log10(4.0 / e.mean(axis=1)) for name, e in errors.items()}
  single = {name: (10 * np.log10(4.0 / e)).mean(axis=1) for name, e in errors.items()}
  note = f"{len(x0)} held-out images; fitted to {FIT_IMAGES.value} training images"
  tables = [
    level_table(f"PSNR of the mean squared error, dB ({note})", pooled, subject.data),
    level_table("Mean over images of their PSNR, dB", single, subject.data),
  ]
  return {"sbar": SBARS, "psnr_pooled": pooled, "psnr_mean": single, "images": len(x0)}, tables


def fitted_gaussians(subject: Subject) -> dict[str, spectral.SpectralGaussian]:
  """Fit the Gaussians, the one to beat first."""
  images = list(training_batches(subject))
  fit = functools.partial(spectral.fit, images, schedule=subject.prior.schedule)
  return {
    "fitted Gaussian": fit(),
    "fitted Gaussian, mean image": fit(mean="image"),
    "fitted Gaussian, periodic": fit(boundary="periodic"),
  }


def squared_errors(prior: Any, subject: Subject, x0: np.ndarray, sbar: float) -> np.ndarray:
  """Return each image's mean squared error of E[x0 | x_t], clipped, `[n]`; the noise is the same for every prior."""
  return np.mean((np.clip(denoise(prior, subject, x0, sbar), -1.0, 1.0) - x0) ** 2, axis=(1, 2, 3))


def denoise(prior: Any, subject: Subject, x0: np.ndarray, sbar: float) -> np.ndarray:
  """Return E[x0 | x_t] of images with noise of the level `sbar`, `[n, h, w, c]`."""
  keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED.value), 1), len(x0))
  level = level_at(subject.prior.schedule, jnp.float32(sbar))
  return np.asarray(_denoise(keys, prior, jnp.asarray(x0), level, BATCH_SIZE.value))


@functools.partial(jax.jit, static_argnums=4)
def _denoise(keys, prior, x0, level, batch_size):
  def one(args):
    key, x0 = args
    return prior.denoise(level.alpha * x0 + level.sigma * jax.random.normal(key, x0.shape), level).x0

  return jax.lax.map(one, (keys, x0), batch_size=batch_size)


def level_table(title: str, results: dict[str, np.ndarray], data: str) -> Table:
  """Lay out dB by level, and the network's lead over the fitted Gaussian beside the aim."""
  rows = [[name, *values] for name, values in results.items()]
  rows.append(["lead over the fitted Gaussian", *(results["network"] - results["fitted Gaussian"])])
  strict = "fitted Gaussian, periodic"
  rows.append(["lead over the periodic one", *(results["network"] - results[strict])])
  if data in MARGINS:
    rows.append(["aim", *MARGINS[data]])
  return Table(title, ["sbar", *(f"{s:g}" for s in SBARS)], rows, [2] * len(SBARS))


# Calibration


def calibration(subject: Subject) -> tuple[dict, list[Table]]:
  """Measure how much of what a network says of x0 is so, at every level, in its coarse and in its fine part.

  A posterior mean D is orthogonal to its error, E[D (x0 - D)] = 0, so that x0 regressed on it has the slope 1. Squared
  errors hardly tell where it is another: at high noise D varies little.
  """
  if subject.shape[0] % COARSE:
    raise app.UsageError(f"--measure=calibration needs images of a multiple of {COARSE} pixels, got {subject.shape[0]}")
  x0 = held_out(subject, "denoising", IMAGES.value)
  gaussians = fitted_gaussians(subject)
  found, rows = {}, []
  for name, prior in (("network", subject.prior), ("fitted Gaussian", gaussians["fitted Gaussian"])):
    slopes = [slopes_of(x0, denoise(prior, subject, x0, sbar)) for sbar in CALIBRATION_SBARS]
    found[name] = {part: [level[part] for level in slopes] for part in slopes[0]}
    for part, pairs in found[name].items():
      rows += [[f"{name}, {part}", *(slope for slope, _ in pairs)], ["its standard error", *(e for _, e in pairs)]]
  title = f"Slope of x0 over E[x0 | x_t] ({len(x0)} held-out images; coarse: means of {COARSE}x{COARSE} pixels)"
  columns = ["sbar", *(f"{s:g}" for s in CALIBRATION_SBARS)]
  return {"sbar": CALIBRATION_SBARS, "slopes": found}, [Table(title, columns, rows, [3] * len(CALIBRATION_SBARS))]


def slopes_of(x0: np.ndarray, denoised: np.ndarray) -> dict[str, tuple[float, float]]:
  """Return the slope of x0 over D with its standard error over the images, of the coarse and of the fine part."""
  x, d = (each - each.mean(axis=0) for each in (x0.astype(np.float64), denoised.astype(np.float64)))
  x_coarse, d_coarse = (np.asarray(distances.reduced(each, x0.shape[1] // COARSE), np.float64) for each in (x, d))
  inner = lambda a, b: np.sum(a * b, axis=tuple(range(1, a.ndim)))
  coarse = np.stack([inner(x_coarse, d_coarse), inner(d_coarse, d_coarse)]) * COARSE**2
  found = {}
  # The two parts are orthogonal: the products of the fine one are what the coarse one leaves of the whole.
  for part, (products, squares) in {"coarse": coarse, "fine": np.stack([inner(x, d), inner(d, d)]) - coarse}.items():
    slope = products.sum() / squares.sum()
    found[part] = (slope, float(np.sqrt(np.sum((products - slope * squares) ** 2))) / squares.sum())  # delta method
  return found


# Sampling


def sampling(subject: Subject) -> tuple[dict, list[Table]]:
  """Measure the distances of samples to held-out renders, and draw a sheet of them."""
  count = SAMPLES.value
  gaussians = fitted_gaussians(subject)
  root = jax.random.key(SEED.value)
  sets = {"network": draw_samples(subject, jax.random.fold_in(root, 2), count)}
  write_pillow(pathlib.Path(OUTPUT.value) / "samples.png", sheet.grid(list(sets["network"][:SHEET_SAMPLES])))
  sets["held-out renders (floor)"] = held_out(subject, "floor", count)
  for name in ("fitted Gaussian", "fitted Gaussian, mean image"):
    keys = jax.random.split(jax.random.fold_in(root, 3), count)
    sets[name] = np.clip(np.asarray(jax.lax.map(gaussians[name].draw, keys, batch_size=BATCH_SIZE.value)), -1, 1)
  reference = held_out(subject, "reference", count)
  found = {name: set_distances(images, reference) for name, images in sets.items()}
  ratios = [found["network"][i] / found["fitted Gaussian"][i] for i in range(2)]
  rows = [*([name, *values] for name, values in found.items()), ["network / fitted Gaussian (aim: 0.5)", *ratios]]
  title = (
    f"Sliced Wasserstein distance to {count} held-out renders, {SAMPLER.value}, {SAMPLE_STEPS.value} steps; "
    f"{DIRECTIONS} directions, units of [-1, 1]"
  )
  columns = [f"{count} images", f"{PATCH}x{PATCH} patches, {PATCHES} an image", f"whole, at {REDUCED}x{REDUCED}"]
  return {"distances": found, "ratio": ratios}, [Table(title, columns, rows, [4, 4])]


def draw_samples(subject: Subject, key: jax.Array, count: int) -> np.ndarray:
  """Return samples of the network, `[n, h, w, c]`, clipped as a file would clip them."""
  method = SAMPLERS[SAMPLER.value](shape=subject.shape)
  keys = jax.random.split(key, count)[:, None]
  grid = subject.prior.schedule.grid(SAMPLE_STEPS.value)
  images, _ = batch.sample_batch(
    keys, method, subject.prior, None, grid, chunk=BATCH_SIZE.value, progress=reporter("sampling")
  )
  return np.clip(images[:, 0], -1.0, 1.0)


def set_distances(images: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
  """Return the distances of patches and of whole reduced images: fixed places, fixed directions."""
  k1, k2, k3, k4 = jax.random.split(jax.random.fold_in(jax.random.key(SEED.value), 4), 4)
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


# Restoration


def measure_images(images: np.ndarray, task: str, number: int) -> list[Problem]:
  """Measure every image; masks and noise depend on `number` and the image's place only."""
  root = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED.value), number), RESTORATION_TASKS.index(task))
  noise = Gaussian(TASKS[task].sigma)
  problems = []
  for i, x0 in enumerate(images):
    k1, k2 = jax.random.split(jax.random.fold_in(root, i))
    problems.append(simulate(k2, TASKS[task].make(k1, x0.shape), noise, jnp.asarray(x0)))
  return problems


def restore_dps(prior: Any, problems: Sequence[Problem], fields: dict, steps: str, chains: int = 1) -> np.ndarray:
  """Restore with DPS of a rule and a scale, `[n, chains, h, w, c]`."""
  return restore(DPS(scale=jnp.float32(fields["scale"]), rule=fields["rule"]), prior, problems, steps, chains)


def shipped_method(subject: Subject, name: str, task: str) -> tuple[Method, str]:
  """Return another method with the settings that ship for the prior and the task, and its steps."""
  table = shipped.load_settings(subject.name)
  steps = shipped.steps_for(table, name)
  return common.build_method(name, task, steps, table, {}), steps


def check_beside(subject: Subject) -> None:
  """Check that the other methods can solve the tasks, before the long work.

  Raises:
    UsageError: one cannot.
  """
  for task in TASK_NAMES.value:
    (problem,) = measure_images(np.zeros((1, *subject.shape), np.float32), task, 6)
    for name in BESIDE.value:
      try:
        methods.check(shipped_method(subject, name, task)[0], problem.operator)
      except ValueError as error:
        raise app.UsageError(f"--beside: {task}: {error}") from None


def restore(method: Any, prior: Any, problems: Sequence[Problem], steps: str, chains: int) -> np.ndarray:
  """Restore, `[n, chains, h, w, c]`; the first chain is the same however many there are, in pairs or not."""
  root = jax.random.fold_in(jax.random.key(SEED.value), 5)
  in_pairs = ANTITHETIC.value and chains > 1
  keys = [common.sample_keys(jax.random.fold_in(root, i), chains, in_pairs=in_pairs) for i in range(len(problems))]
  grid = prior.schedule.grid(steps)
  found, _ = batch.sample_batch(jnp.stack(keys), method, prior, stack(problems), grid, chunk=BATCH_SIZE.value)
  return found


def restore_wiener(prior: Any, problems: Sequence[Problem]) -> np.ndarray:
  """Restore with the Wiener filter of a Gaussian prior."""
  return np.stack([np.asarray(_wiener(prior, problem)) for problem in problems])


_wiener = jax.jit(baselines.wiener)


def interpolate(problem: Problem, task: str) -> np.ndarray:
  """Fill in by biharmonic splines, enlarge by bicubic ones, or leave the blurred image as it is."""
  if task.startswith("inpaint"):
    from skimage.restoration import inpaint_biharmonic

    missing = np.asarray(problem.operator.mask)[..., 0] == 0
    return inpaint_biharmonic(np.asarray(problem.y), missing, channel_axis=-1).astype(np.float32)
  if task == "super_resolution":
    return np.asarray(jax.image.resize(problem.y, problem.operator.in_shape, "cubic"))
  return np.asarray(problem.y)


def restore_tv(problem: Problem, task: str, weight: float) -> np.ndarray:
  """Minimize 1/2 ||y - A x||^2 + weight TV(x) per channel: FISTA around scikit-image's proximal map."""
  from skimage.restoration import denoise_tv_chambolle

  def proximal(v, step):
    return denoise_tv_chambolle(v, weight * step, max_num_iter=TV_INNER, channel_axis=-1).astype(np.float32)

  return baselines.fista(problem, proximal, interpolate(problem, task), num_steps=TV_STEPS)


def marks(images: np.ndarray, truths: np.ndarray) -> np.ndarray:
  """Return PSNR and SSIM of each image, clipped, `[n, 2]`."""
  return np.asarray(_marks(jnp.asarray(images, jnp.float32), jnp.asarray(truths)))


@jax.jit
@jax.vmap
def _marks(image, truth):
  image, truth = metrics.to_unit(image), metrics.to_unit(truth)
  return jnp.stack([metrics.psnr(image, truth), metrics.ssim(image, truth)])


def restoration(subject: Subject) -> tuple[dict, list[Table]]:
  """Compare the methods on the test images."""
  tuning = read_tuning(subject) or tune_and_write(subject)
  truths = held_out(subject, "restoration", TEST_IMAGES.value)
  natural, fitted = priors.natural(), fitted_gaussians(subject)["fitted Gaussian"]
  found, sheets = {}, []
  for task in TASK_NAMES.value:
    problems = measure_images(truths, task, 6)
    chains = {
      f"DPS, {who}": restore_dps(prior, problems, tuning[who][task], tuning["steps"], CHAINS.value)
      for who, prior in (("network", subject.prior), ("natural", natural))
    }
    for name in BESIDE.value:
      method, steps = shipped_method(subject, name, task)
      chains[f"{METHODS[name].title}{NETWORK}"] = restore(method, subject.prior, problems, steps, CHAINS.value)
    averages = {
      f"{who}, mean of {count}": v[:, :count].mean(axis=1)
      for who, v in chains.items()
      for count in averaged_counts(CHAINS.value)
    }
    pictures = {
      **{who: v[:, 0] for who, v in chains.items()},
      **averages,
      "Wiener, natural": restore_wiener(natural, problems),
      "Wiener, fitted Gaussian": restore_wiener(fitted, problems),
      "total variation": np.stack([restore_tv(problem, task, tuning["tv"][task]) for problem in problems]),
      INTERPOLATION: np.stack([interpolate(problem, task) for problem in problems]),
    }
    found[task] = {name: marks(images, truths) for name, images in pictures.items()}
    for name, values in found[task].items():
      print(f"{task}: {name}: {values[:, 0].mean():.2f} dB, SSIM {values[:, 1].mean():.3f}", flush=True)
    sheets += sheet_rows(task, truths, problems, pictures, found[task])
  write_pillow(pathlib.Path(OUTPUT.value) / "restoration.png", sheet.sheet(["truth", "measurement", *pictures], sheets))
  means = {task: {name: v.mean(axis=0) for name, v in by_name.items()} for task, by_name in found.items()}
  return {"tuning": tuning, "marks": found, "means": means}, [restoration_table(means, len(truths), tuning["steps"])]


def averaged_counts(chains: int) -> list[int]:
  """Return of how many samples the mean is marked: 4, 16, ... of `chains`, and all of them."""
  powers = itertools.takewhile(lambda count: count < chains, (4**k for k in itertools.count(1)))
  return [*powers, chains] if chains > 1 else []


INTERPOLATION = "interpolation"  # biharmonic, bicubic, or none
NETWORK = ", network"  # part of the name of what restores with the network


def sheet_rows(task, truths, problems, pictures, found) -> list:
  """Return the rows of a contact sheet: the first images of a task."""
  rows = []
  for i in range(min(2, len(truths))):
    cells = [sheet.Cell(truths[i]), sheet.Cell(np.asarray(problems[i].y))]
    for name, restored in pictures.items():
      decibels, similarity = found[name][i]
      cells.append(sheet.Cell(restored[i], (f"{decibels:.2f} dB   {similarity:.3f}",)))
    rows.append((f"{TASKS[task].title}, image {i + 1}", cells))
  return rows


def restoration_table(means: dict, count: int, steps: str) -> Table:
  """Lay out PSNR and SSIM by task and method, and the network's lead over the best of the others."""
  tasks = list(means)
  names = list(means[tasks[0]])
  rows = [[name, *(v for task in tasks for v in means[task][name])] for name in names]
  ours = [name for name in names if NETWORK in name]
  best = [np.max([means[task][name] for name in names if name not in ours], axis=0) for task in tasks]
  for name in ours:
    lead = [v for task, other in zip(tasks, best) for v in means[task][name] - other]
    rows.append([f"lead of {name}, over the best of the others", *lead])
  columns = ["method", *(f"{TASKS[task].title}: {mark}" for task in tasks for mark in ("dB", "SSIM"))]
  title = f"Mean PSNR and SSIM of {count} images, DPS with {steps} steps{paired()}"
  return Table(title, columns, rows, [2, 3] * len(tasks))


def paired() -> str:
  """Return what titles say of --antithetic."""
  return "; samples in pairs of opposite noise" if ANTITHETIC.value else ""


# Tuning


def search(score: Callable[[float], float], start: float, *, factor: float = 2.0, most: int = 9) -> dict[float, float]:
  """Climb to the maximum of `score` over start * factor^k, then look half a factor to each side; at most `most` calls.

  Where the start has a score of -inf, a chain that diverged, the climb begins at the first smaller place that has not.

  Returns:
    The score of every place that was tried.
  """
  seen: dict[int, float] = {}  # by twice k

  def look(k):
    if k not in seen and len(seen) < most:
      seen[k] = score(start * factor ** (k / 2))
    return seen.get(k, -math.inf)

  best = 0
  while look(best) == -math.inf and len(seen) < most:
    best -= 2
  while True:
    moved = max((best, best - 2, best + 2), key=look)
    if moved == best:
      break
    best = moved
  for k in (best - 1, best + 1):
    look(k)
  return {start * factor ** (k / 2): value for k, value in sorted(seen.items())}


def tune(subject: Subject) -> tuple[dict, list[Table]]:
  """Find the settings of the highest mean PSNR on the tuning images: of a sample, or of the mean of a pair."""
  chains = 2 if ANTITHETIC.value else 1
  truths = held_out(subject, "tuning", TUNING_IMAGES.value)
  priors_of = {"network": subject.prior, "natural": priors.natural()}
  # Each search goes on where that of the last task ended.
  start = {(who, rule): scale for who in priors_of for rule, scale in FIRST_SCALES.items()} | {
    ("tv", None): FIRST_WEIGHT
  }
  chosen, trials = {who: {} for who in WHAT}, {}
  for task in TASK_NAMES.value:
    problems = measure_images(truths, task, 7)

    def score(value, who, rule):
      if who == "tv":
        images = np.stack([restore_tv(problem, task, value) for problem in problems])  # noqa: B023
      else:
        fields = {"rule": rule, "scale": value}
        images = restore_dps(priors_of[who], problems, fields, STEPS.value, chains).mean(axis=1)  # noqa: B023
      mark = float(marks(images, truths)[:, 0].mean())
      return -math.inf if math.isnan(mark) else mark

    found = {}
    for who, rule in start:
      name = f"{who} {rule}" if rule else who
      tried = trials[f"{name} {task}"] = search(lambda value: score(value, who, rule), start[who, rule])  # noqa: B023
      value = start[who, rule] = max(tried, key=tried.get)
      found[who, rule] = tried[value]
      print(f"tuning {task}, {name}: {value:.3g} at {tried[value]:.2f} dB", flush=True)
    for who in WHAT:
      which = max((key for key in found if key[0] == who), key=found.get)
      value = float(f"{start[which]:.3g}")
      chosen[who][task] = value if which[1] is None else {"rule": which[1], "scale": value}
  rows = [[WHAT[who], *(describe(found[task]) for task in TASK_NAMES.value)] for who, found in chosen.items()]
  table = Table(
    f"Settings of the highest mean PSNR on {len(truths)} tuning images, DPS with {STEPS.value} steps{paired()}",
    ["setting", *(TASKS[task].title for task in TASK_NAMES.value)],
    rows,
    [3] * len(TASK_NAMES.value),
  )
  settings = {"dps": {"steps": STEPS.value, "default": {}, **chosen["network"]}}
  identity = tuning_identity(subject)
  return {"of": identity, "steps": STEPS.value, **chosen, "trials": trials, "settings": settings}, [table]


def describe(found: dict | float) -> str | float:
  """Return a cell of the table: a rule and a scale, or a weight."""
  return f"{found['rule']}, {found['scale']:g}" if isinstance(found, dict) else found


WHAT = {"network": "DPS, network", "natural": "DPS, natural", "tv": "total variation weight"}


def read_tuning(subject: Subject) -> dict[str, Any] | None:
  """Return what `tune` found for this prior and these steps; None where it has not run for all tasks."""
  path = pathlib.Path(OUTPUT.value) / TUNING
  if not path.is_file():
    return None
  found = json.loads(path.read_text())
  complete = all(task in found["network"] for task in TASK_NAMES.value)
  same = found.get("of") == tuning_identity(subject)
  return found if complete and same else None


def tuning_identity(subject: Subject) -> dict[str, Any]:
  """Return what a tuning depends on."""
  weights = common.fingerprint(subject.prior)
  flags_of_it = {"seed": SEED.value, "images": TUNING_IMAGES.value, "antithetic": ANTITHETIC.value}
  return {"prior": weights, "steps": STEPS.value, "rules": list(FIRST_SCALES), **flags_of_it}


def tune_and_write(subject: Subject) -> dict[str, Any]:
  """Run the tuning, write it, and return it."""
  found, tables = tune(subject)
  write(subject, "tune", found, tables)
  return found


# Speed


def speed(subject: Subject) -> tuple[dict, list[Table]]:
  """Time a step of DPS within a chain, for one image and for eight."""
  rows, found = [], {}
  for count in (1, MANY):
    wall, processors, compiling = step_times(subject, count)
    found[count] = {"milliseconds": wall, "processor_milliseconds": processors, "compile_seconds": compiling}
    rows.append([f"{count}", statistics.median(wall), min(wall), statistics.median(processors), compiling])
  ratio = statistics.median(found[MANY]["milliseconds"]) / statistics.median(found[1]["milliseconds"])
  spread = f", spread over {DEVICES.value} devices," if (DEVICES.value or 1) > 1 else ""
  title = (
    f"A step of DPS at {subject.shape[1]}x{subject.shape[0]}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}; "
    f"batch {MANY}{spread} takes {ratio:.2f} times batch 1 (aim: 60 ms, 5 times)"
  )
  columns = ["batch", "median, ms", "fastest, ms", "all cores' own time, ms", "compilation, s"]
  return {**found, "ratio": ratio, "load": os.getloadavg()}, [Table(title, columns, rows, [1, 1, 1, 1])]


def step_times(subject: Subject, count: int) -> tuple[list[float], list[float], float]:
  """Return the milliseconds a step of each timed chain, those of all cores together, and the seconds to compile it."""
  x0 = np.zeros((count, *subject.shape), np.float32)
  problems = stack(measure_images(x0, "inpaint_random", 8))
  keys = jax.random.split(jax.random.key(0), count)
  grid = as_arrays(subject.prior.schedule.grid(str(TIMED_STEPS.value)))
  args = (keys, DPS(), subject.prior, problems, grid)
  mesh = common.batch_mesh(DEVICES.value or 1)
  if count % mesh.size == 0:
    split, whole = NamedSharding(mesh, P(batch.AXIS)), NamedSharding(mesh, P())
    args = [jax.device_put(part, place) for part, place in zip(args, (split, whole, whole, split, whole))]

  def chain(keys, method, prior, problems, grid):
    return jax.vmap(lambda key, problem: sampler.sample(key, method, prior, problem, grid)[0])(keys, problems)

  begin = time.perf_counter()
  compiled = jax.jit(chain).lower(*args).compile()
  compiling = time.perf_counter() - begin
  jax.block_until_ready(compiled(*args))
  wall, processors = [], []
  for _ in range(ROUNDS.value):
    begin, begin_processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(compiled(*args))
    wall.append(1e3 * (time.perf_counter() - begin) / TIMED_STEPS.value)
    processors.append(1e3 * (time.process_time() - begin_processors) / TIMED_STEPS.value)
  return wall, processors, compiling


# Reports


def reporter(title: str) -> Callable[[int, int], None]:
  """Return a callback that prints every tenth of the way."""
  begin, last = time.monotonic(), [0]

  def report(done: int, total: int) -> None:
    if 10 * done // total > last[0]:
      last[0] = 10 * done // total
      print(f"{title}: {done}/{total} steps, {time.monotonic() - begin:.0f} s", flush=True)

  return report


def markdown(table: Table) -> str:
  """Return a table in Markdown."""
  lines = [" | ".join(table.columns), " | ".join(["---", *["---:"] * (len(table.columns) - 1)])]
  for name, *values in table.rows:
    texts = ["" if v is None else v for v in values]
    cells = [v if isinstance(v, str) else f"{v:.{d}f}" for v, d in zip(texts, table.digits)]
    lines.append(" | ".join([name, *cells]))
  return f"{table.title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


def write(subject: Subject, name: str, found: dict, tables: Sequence[Table]) -> None:
  """Write a measure's report and print it."""
  folder = pathlib.Path(OUTPUT.value)
  command = " ".join(["python", "tools/evaluate_prior.py", *sys.argv[1:]])
  text = f"## {name}: `{subject.name}`\n\n`{command}`\n\n" + "\n".join(markdown(table) for table in tables)
  file = folder / (TUNING if name == "tune" else f"{name}.json")
  versions = {"jax": jax.__version__, "numpy": np.__version__}
  output.write_json(file, {"command": command, "prior": subject.name, "versions": versions, **found})
  with output.file(file.with_suffix(".md")) as partial:
    partial.write_text(text, encoding="utf-8")
  print(text, flush=True)


def main(argv: list[str]) -> None:
  """Run the measures, in the order of MEASURES."""
  del argv
  logging.set_verbosity(logging.WARNING)
  for flag, known in ((MEASURE, MEASURES), (TASK_NAMES, RESTORATION_TASKS)):
    if not flag.value or not set(flag.value) <= set(known):
      raise app.UsageError(f"--{flag.name}: expected some of {', '.join(known)}, got {','.join(flag.value)}")
  if not set(BESIDE.value) <= set(METHODS):
    raise app.UsageError(f"--beside: expected some of {', '.join(METHODS)}, or none, got {','.join(BESIDE.value)}")
  if ANTITHETIC.value and CHAINS.value % 2:
    raise app.UsageError(f"--chains: expected an even number for --antithetic, got {CHAINS.value}")
  if MANY % (DEVICES.value or 1):
    raise app.UsageError(f"--devices: expected a divisor of {MANY}, the images that are timed, got {DEVICES.value}")
  pathlib.Path(OUTPUT.value).mkdir(parents=True, exist_ok=True)
  common.split_cpu(DEVICES.value)
  subject = load_subject()
  if "restoration" in MEASURE.value:
    check_beside(subject)
  run = dict(zip(MEASURES, (denoising, calibration, sampling, tune, restoration, speed), strict=True))
  for name in (name for name in MEASURES if name in MEASURE.value):
    write(subject, name, *run[name](subject))


if __name__ == "__main__":
  app.run(main)
