"""Measure how well the noise of a measurement is found, and what that costs, and write the table of docs/unknown.md.

usage: python tools/measure_noise.py --output=docs [--prior=photo] [--data=photographs] [--count=12] [--size=128]

Held-out pictures are measured with noise of several sigmas, which are then estimated; each is restored with the sigma
found and with the true one. The block of unknown.md between `<!-- table -->` and `<!-- end -->` is replaced; the words
around it are written by hand, and stay.
"""

import pathlib

import jax
import numpy as np
import page_blocks
from absl import app, flags

import diffinv
from diffinv import operators, sampler
from diffinv.blind import noise_level
from diffinv.data import held_out
from diffinv.methods.dpir import DPIR
from diffinv.methods.mmse import MMSE
from diffinv.noise import Gaussian
from diffinv.problems import Problem, simulate
from diffinv.schedules import as_arrays

PAGE = "unknown.md"
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4)
STEPS = "8"

OUTPUT = flags.DEFINE_string("output", None, "Folder of the page.", required=True)
PRIOR = flags.DEFINE_string("prior", "photo", "Prior.")
DATA = flags.DEFINE_string("data", "photographs", "Held-out set.")
COUNT = flags.DEFINE_integer("count", 12, "Pictures.")
SIZE = flags.DEFINE_integer("size", 128, "Edge of the pictures, pixels.")


def tasks(shape):
  """Return what measures, and what restores it, by a title."""
  key = jax.random.key(0)
  dpir = DPIR(weight=0.23, start=0.2, noise=0.6)
  return {
    "denoising": (operators.identity(shape), MMSE()),
    "four times smaller": (operators.super_resolution(shape, 4), dpir),
    "Gaussian blur of 2 pixels": (operators.gaussian_blur(shape, size=17, std=2.0), dpir),
    "30 % missing": (operators.random_mask(key, shape, missing=0.3), dpir),
    "70 % missing": (operators.random_mask(key, shape, missing=0.7), dpir),
  }


def psnr(x, truth):
  """Return the PSNR of pictures as files hold them, dB, [n]."""
  return 10.0 * np.log10(4.0 / np.mean((np.clip(x, -1.0, 1.0) - truth) ** 2, axis=(1, 2, 3)))


def measure(prior, operator, method, truths, sigma) -> tuple[np.ndarray, np.ndarray]:
  """Return |found / sigma - 1| and PSNR with the sigma found less that with the true one, a picture each."""
  grid = as_arrays(prior.schedule.grid(STEPS))
  restore = jax.jit(
    lambda y, s: sampler.sample(jax.random.key(2), method, prior, Problem(operator, Gaussian(s), y), grid)[0]
  )
  found, pictures = [], []
  for number, truth in enumerate(truths):
    y = simulate(jax.random.key(number), operator, Gaussian(sigma), truth).y
    estimate = noise_level.estimate(jax.random.key(1), prior, operator, y).sigma
    found.append(float(estimate))
    pictures.append([np.asarray(restore(y, np.float32(s))) for s in (estimate, sigma)])
  ours, known = (psnr(np.stack(side), truths) for side in zip(*pictures, strict=True))
  return np.abs(np.asarray(found) / sigma - 1.0), ours - known


def main(argv: list[str]) -> None:
  """Measure, and write the table."""
  del argv
  prior = diffinv.load_prior(PRIOR.value)
  truths = np.asarray(held_out.held_out(DATA.value, "test", COUNT.value, SIZE.value)[1])
  lines = [f"| measurement | {' | '.join(f'sigma {sigma:g}' for sigma in SIGMAS)} |", f"|---{'|---:' * len(SIGMAS)}|"]
  for title, (operator, method) in tasks(truths[0].shape).items():
    cells = []
    for sigma in SIGMAS:
      errors, gains = measure(prior, operator, method, truths, sigma)
      cells.append(f"{100 * np.median(errors):.1f} %, {np.mean(gains):+.2f} dB")
      print(title, sigma, cells[-1], flush=True)
    lines.append(f"| {title} | {' | '.join(cells)} |")
  page_blocks.write(pathlib.Path(OUTPUT.value) / PAGE, {"table": "\n".join(lines)})


if __name__ == "__main__":
  app.run(main)
