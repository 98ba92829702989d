"""Measure deblurring by blurs that are estimated, and write the table of docs/blind.md.

usage: python tools/measure_blind.py --output=docs [--prior=photo] [--size=128] [--num_images=8] [--blurs=gaussian:2]

The pictures are test photographs. Each is blurred with what lies around it and cut afterwards, as a camera has it, so
that no assumption of an edge holds. The family of the blur is told, its numbers are not. The block of blind.md between
`<!-- table -->` and `<!-- end -->` is replaced, blur by blur; the words around it are written by hand, and stay.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import page_blocks
from absl import app, flags
from scipy.signal import fftconvolve
from skimage.restoration import unsupervised_wiener

from diffinv import load_prior, noise, sampler
from diffinv.blind import bordered, estimate_blur
from diffinv.data.held_out import held_out
from diffinv.methods.dpir import DPIR
from diffinv.operators.blur import CircularBlur
from diffinv.operators.kernels import GaussianKernel, kernel_size, numbers, parse_blur

PAGE = "blind.md"
BLURS = ("gaussian:1", "gaussian:2", "gaussian:4", "disk:2", "disk:5", "motion:9,30", "motion:15,100")
SIGMA = 0.02
MARGIN = 24  # pixels around the picture, from which the blur brings light
STEPS = "8"  # of DPIR: the preset "fast"
SIDE, OUTER, INNER = 15, 10, 5  # of blind Richardson-Lucy: pixels of the kernel, and iterations


class Row(NamedTuple):
  """What one picture came to."""

  found: tuple[float, ...]  # numbers of the blur
  psnr: dict[str, float]  # by who restored it, dB


def psnr(x: Any, x0: np.ndarray) -> float:
  """Return the PSNR of a picture on [-1, 1], dB."""
  return float(10 * np.log10(4 / np.mean((np.clip(np.asarray(x), -1, 1) - x0) ** 2)))


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


def main(_) -> None:
  """Measure blur by blur, and write the block of the page after each."""
  values = flags.FLAGS
  page, prior, written = pathlib.Path(values.output, PAGE), load_prior(values.prior), list(HEAD)
  _, pictures = held_out("photographs", values.purpose, values.num_images, values.size + 2 * MARGIN)
  for text in values.blurs or BLURS:
    written.append(line(text, measure(prior, text, pictures)))
    print(written[-1], flush=True)
    page_blocks.write(page, {"table": "\n".join(written)})


if __name__ == "__main__":
  flags.DEFINE_string("output", None, f"Folder of {PAGE}.", required=True)
  flags.DEFINE_string("prior", "photo", "Prior to measure.")
  flags.DEFINE_enum("purpose", "test", ["test", "validation"], "Which photographs.")
  flags.DEFINE_integer("size", 128, "Pixels along an edge.")
  flags.DEFINE_integer("num_images", 8, "Pictures.")
  flags.DEFINE_multi_string("blurs", None, "Blurs, in place of those of the page.")
  app.run(main)
