"""Measure deblurring by blurs that are estimated, and write the tables of docs/blind.md.

usage: python tools/measure_blind.py --output=docs [--table=told] [--prior=photo] [--size=128] [--num_images=8]
       [--blurs=gaussian:2]

The pictures are test photographs. Each is blurred with what lies around it and cut afterwards, as a camera has it, so
that no assumption of an edge holds. Of the table `told` the family of the blur is told, its numbers are not. Of
`unknown` nothing is told, and some blurs are of no family: `shake:SEED`, the random path of a camera in 15 x 15 pixels.
The block of blind.md of that name is replaced, blur by blur; the words around it are written by hand, and stay.
"""

import collections
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import page_blocks
from absl import app, flags
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage.registration import phase_cross_correlation
from skimage.restoration import unsupervised_wiener

from diffinv import load_prior, noise, sampler
from diffinv.blind import Estimate, bordered, estimate_blur
from diffinv.blind.blind_dps import BlindDPS
from diffinv.data.held_out import held_out
from diffinv.methods.dpir import DPIR
from diffinv.operators.blur import CircularBlur, motion_kernel
from diffinv.operators.kernels import AUTO, FREE, FreeKernel, GaussianKernel, kernel_size, numbers, parse_blur

PAGE = "blind.md"
BLURS = ("gaussian:1", "gaussian:2", "gaussian:4", "disk:2", "disk:5", "motion:9,30", "motion:15,100")
UNKNOWN = ("shake:0", "gaussian:1", "gaussian:2", "gaussian:4", "disk:2", "disk:5", "motion:9,30", "motion:15,100")
SHAKE = "shake:"
PATH, FARTHEST, BESIDE = 15, 4, 8  # pixels: of a camera's path, of a shift, and of edges that a shift brings in
CHAIN = "100"  # steps of BlindDPS
SIGMA = 0.02
MARGIN = 24  # pixels around the picture, from which the blur brings light
STEPS = "8"  # of DPIR: the preset "fast"
SIDE, OUTER, INNER = 15, 10, 5  # of blind Richardson-Lucy: pixels of the kernel, and iterations


class Row(NamedTuple):
  """What one picture came to."""

  found: tuple[Any, ...]  # numbers of the blur; or its family
  psnr: dict[str, float]  # by who restored it, dB


def psnr(x: Any, x0: np.ndarray) -> float:
  """Return the PSNR of a picture on [-1, 1], dB."""
  return float(10 * np.log10(4 / np.mean((np.clip(np.asarray(x), -1, 1) - x0) ** 2)))


def aligned_psnr(x: Any, x0: np.ndarray) -> float:
  """Return the PSNR without the edges, dB, after the shift that fits best: where a picture lies is not observed."""
  x = np.clip(np.asarray(x, np.float64), -1, 1)
  shift = phase_cross_correlation(x0.mean(axis=2), x.mean(axis=2), upsample_factor=10)[0]
  inside = slice(BESIDE, -BESIDE)
  best = lambda move: psnr(ndimage.shift(x, (*move, 0), order=3, mode="nearest")[inside, inside], x0[inside, inside])
  return max(best(np.zeros(2)), best(np.clip(shift, -FARTHEST, FARTHEST)))


def measured(x0: np.ndarray, taps: jax.Array, key: jax.Array) -> tuple[jax.Array, np.ndarray]:
  """Return the blurred middle of a picture with noise, and the middle itself."""
  inside = slice(MARGIN, -MARGIN)
  y = CircularBlur(x0.shape, taps)(jnp.asarray(x0))[inside, inside]
  return y + SIGMA * jax.random.normal(key, y.shape), x0[inside, inside]


def restored(prior: Any, y: jax.Array, taps: Any) -> np.ndarray:
  """Return DPIR's picture."""
  problem = bordered(y, taps, noise.Gaussian(jnp.float32(SIGMA)), multiple=prior.size_multiple)
  x, _ = sampler.sample(jax.random.key(0), DPIR(), prior, problem, prior.schedule.grid(STEPS))
  return np.asarray(problem.operator.inside(x))


def wiener(y: np.ndarray, taps: np.ndarray) -> np.ndarray:
  """Return scikit-image's unsupervised Wiener filter, with the blur that was estimated: it estimates none."""
  channels = [unsupervised_wiener(channel, taps, clip=False, rng=0)[0] for channel in np.moveaxis(y, 2, 0)]
  return np.stack(channels, axis=2)


def blind_richardson_lucy(y: np.ndarray) -> np.ndarray:
  """Return the picture of Fish et al., JOSA A 12(1), 1995: steps for the picture and the kernel in turn."""
  light = np.maximum((y + 1) / 2, 1e-3)
  x, kernel = light.copy(), np.asarray(GaussianKernel(SIDE / 6).taps(SIDE), np.float64)
  ratio = lambda: light / np.maximum(_convolved(x, kernel), 1e-3)
  for _ in range(OUTER):
    for _ in range(INNER):
      kernel = np.maximum(kernel * _correlated(ratio(), x), 0.0)
      kernel /= kernel.sum()
    for _ in range(INNER):
      x = np.maximum(x * _convolved(ratio(), kernel[::-1, ::-1]), 0.0)
  return 2 * x - 1


def _around(x):
  return np.pad(x, ((SIDE // 2,) * 2, (SIDE // 2,) * 2, (0, 0)), mode="reflect")


def _convolved(x, kernel):
  return fftconvolve(_around(x), kernel[:, :, None], mode="valid", axes=(0, 1))


def _correlated(ratio, x):
  """Return sum_i ratio_i x_(i-j) over sum_i x_i for each place j of the kernel."""
  seen = np.lib.stride_tricks.sliding_window_view(_around(x), x.shape[:2], axis=(0, 1))  # [side, side, c, h, w]
  return np.einsum("klchw,hwc->kl", seen, ratio, optimize=True)[::-1, ::-1] / x.sum()


def measure(prior: Any, text: str, pictures: np.ndarray) -> list[Row]:
  """Restore all pictures from one blur."""
  kernel: Any = parse_blur(text)
  taps, rows = kernel.taps(kernel_size(kernel)), []
  for i, picture in enumerate(pictures):
    y, x0 = measured(picture, taps, jax.random.key(i))
    found = estimate_blur(prior, y, SIGMA, kernel.family, jax.random.key(100 + i))
    values = np.asarray(y, np.float64)
    pictures_by = {
      "input": values,
      "blind": restored(prior, y, found.taps),
      "known": restored(prior, y, taps),
      "wiener": wiener(values, found.taps),
      "rl": blind_richardson_lucy(values),
    }
    rows.append(Row(tuple(numbers(found.kernel).values()), {who: psnr(x, x0) for who, x in pictures_by.items()}))
    print(text, i, rows[-1], flush=True)
  return rows


def blind_dps(prior: Any, y: jax.Array, key: jax.Array) -> np.ndarray:
  """Return BlindDPS's picture, which begins with the Gaussian that blind Richardson-Lucy begins with."""
  taps = GaussianKernel(SIDE / 6).taps(SIDE)
  problem = bordered(y, taps, noise.Gaussian(jnp.float32(SIGMA)), multiple=prior.size_multiple)
  x, _ = sampler.sample(key, BlindDPS(), prior, problem, prior.schedule.grid(CHAIN))
  return np.asarray(problem.operator.inside(x))


def kernel_of(text: str) -> Any:
  """Return the kernel that a word says: of a family, or a camera's path."""
  if text.startswith(SHAKE):
    return FreeKernel(motion_kernel(jax.random.key(int(text.removeprefix(SHAKE))), size=PATH))
  return parse_blur(text)


def free_of(found: Estimate) -> np.ndarray:
  """Return the free kernel that was tried."""
  kernel = next(one.kernel for one in reversed(found.trace) if one.kernel.family == FREE)
  return np.asarray(kernel.taps(kernel_size(kernel)))


def measure_unknown(prior: Any, text: str, pictures: np.ndarray) -> list[Row]:
  """Restore all pictures from one blur of which nothing is told."""
  kernel, rows = kernel_of(text), []
  taps = kernel.taps(kernel_size(kernel))
  for i, picture in enumerate(pictures):
    y, x0 = measured(picture, taps, jax.random.key(i))
    found = estimate_blur(prior, y, SIGMA, AUTO, jax.random.key(100 + i))
    values = np.asarray(y, np.float64)
    pictures_by = {
      "input": values,
      "rl": blind_richardson_lucy(values),
      "wiener": wiener(values, found.taps),
      "dps": blind_dps(prior, y, jax.random.key(200 + i)),
      "free": restored(prior, y, free_of(found)),
      "blind": restored(prior, y, found.taps),
      "known": restored(prior, y, taps),
    }
    rows.append(Row((found.kernel.family,), {who: aligned_psnr(x, x0) for who, x in pictures_by.items()}))
    print(text, i, rows[-1], flush=True)
  return rows


def unknown_line(text: str, rows: list[Row]) -> str:
  """Write a blur's line of the table of unknown ones."""
  mean = {who: np.mean([row.psnr[who] for row in rows]) for who in rows[0].psnr}
  ahead = sum(row.psnr["blind"] > row.psnr["input"] for row in rows)
  counts = collections.Counter(row.found[0] for row in rows)
  families = ", ".join(f"{count} {family}" for family, count in counts.most_common())
  marks = " | ".join(f"{mean[who]:.2f}" for who in ("input", "rl", "wiener", "dps", "free", "blind", "known"))
  return f"| {text} | {families} | {marks} | {mean['blind'] - mean['known']:+.2f} | {ahead} of {len(rows)} |"


def line(text: str, rows: list[Row]) -> str:
  """Write a blur's line of the table."""
  mean = {who: np.mean([row.psnr[who] for row in rows]) for who in rows[0].psnr}
  ahead = sum(row.psnr["blind"] > row.psnr["input"] for row in rows)
  middle = ",".join(f"{value:.2f}" for value in np.median([row.found for row in rows], axis=0))
  marks = " | ".join(f"{mean[who]:.2f}" for who in ("input", "rl", "wiener", "blind", "known"))
  return f"| {text} | {middle} | {marks} | {mean['blind'] - mean['known']:+.2f} | {ahead} of {len(rows)} |"


HEAD = [
  "| blur | found, median | input | blind Richardson-Lucy | Wiener, blur found | blur found | blur known "
  "| found - known | ahead of the input |",
  "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
]


UNKNOWN_HEAD = [
  "| blur | found | input | blind Richardson-Lucy | Wiener, blur found | BlindDPS | free:auto | auto | blur known "
  "| auto - known | ahead of the input |",
  "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
]
# By name: the blurs, the line at the top, how a blur is measured, and its line.
TABLES = {
  "told": (BLURS, HEAD, measure, line),
  "unknown": (UNKNOWN, UNKNOWN_HEAD, measure_unknown, unknown_line),
}


def main(_) -> None:
  """Measure blur by blur, and write the block of the page after each."""
  values = flags.FLAGS
  blurs, head, measure_one, line_of = TABLES[values.table]
  page, prior, written = pathlib.Path(values.output, PAGE), load_prior(values.prior), list(head)
  _, pictures = held_out("photographs", values.purpose, values.num_images, values.size + 2 * MARGIN)
  for text in values.blurs or blurs:
    written.append(line_of(text, measure_one(prior, text, pictures)))
    print(written[-1], flush=True)
    page_blocks.write(page, {values.table: "\n".join(written)})


if __name__ == "__main__":
  flags.DEFINE_string("output", None, f"Folder of {PAGE}.", required=True)
  flags.DEFINE_enum("table", "told", list(TABLES), "Which table of the page.")
  flags.DEFINE_string("prior", "photo", "Prior to measure.")
  flags.DEFINE_enum("purpose", "test", ["test", "validation"], "Which photographs.")
  flags.DEFINE_integer("size", 128, "Pixels along an edge.")
  flags.DEFINE_integer("num_images", 8, "Pictures.")
  flags.DEFINE_multi_string("blurs", None, "Blurs, in place of those of the page.")
  app.run(main)
