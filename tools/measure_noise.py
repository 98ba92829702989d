"""Measure how well the noise of a measurement is found, and what that costs, and write the tables of docs/unknown.md.

usage: python tools/measure_noise.py --output=docs [--prior=photo] [--data=photographs] [--count=12] [--size=128]

Held-out pictures are measured with noise of several sigmas, which are then estimated; each is restored with the sigma
found and with the true one: noise of one sigma, of one a channel, and a camera's; and it is counted how often noise of
one sigma is doubted. The blocks of unknown.md are replaced; the words around them are written by hand, and stay.
"""

import pathlib

import jax
import numpy as np
import page_blocks
from absl import app, flags

import diffinv
from diffinv import operators, sampler
from diffinv.blind import noise_level, uneven_noise
from diffinv.data import held_out
from diffinv.methods.dpir import DPIR
from diffinv.methods.mmse import MMSE, ROUNDS
from diffinv.noise import PEAK, Gaussian, Poisson
from diffinv.problems import Problem, simulate
from diffinv.schedules import as_arrays

PAGE = "unknown.md"
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4)
STEPS = "8"
CHANNELS = ((0.05, 0.1, 0.2), (0.02, 0.05, 0.3), (0.2, 0.1, 0.15), (0.1, 0.1, 0.1))
CAMERAS = ((0.01, 0.04), (0.05, 0.04), (0.02, 0.2))  # 1 / photons at white, and the noise of reading on [-1, 1]

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


def uneven(kind):
  """Return noises that differ by channel or by brightness, by a title."""
  if kind == uneven_noise.CHANNELS:
    return {f"sigma {', '.join(map(str, s))}": Gaussian(np.asarray(s, np.float32)[None, None]) for s in CHANNELS}
  noises = {(gain, read): Poisson(np.float32(1 / (PEAK * gain)), np.float32(read)) for gain, read in CAMERAS}
  return {f"rate {noise.rate:.3g}, read {read:g}": noise for (_, read), noise in noises.items()}


def numbers(noise) -> list[np.ndarray]:
  """Return what describes noise: the sigma of each channel; or the rate and the noise of reading."""
  found = [noise.sigma] if isinstance(noise, Gaussian) else [noise.rate, noise.read]
  return np.concatenate([np.ravel(one) for one in found])


def measure_uneven(prior, truths, kind, noise) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return |found / true - 1|, PSNR with the noise found less that with the true one, and the gain over one sigma."""
  operator, grid = operators.identity(truths[0].shape), as_arrays(prior.schedule.grid(STEPS))
  restore = jax.jit(
    lambda y, noise, method: sampler.sample(jax.random.key(2), method, prior, Problem(operator, noise, y), grid)[0]
  )
  errors, pictures = [], []
  for number, truth in enumerate(truths):
    y = simulate(jax.random.key(number), operator, noise, truth).y
    found = uneven_noise.noise_of(uneven_noise.estimate(jax.random.key(1), prior, y, kind).theta, kind)
    errors.append(np.abs(numbers(found) / numbers(noise) - 1.0))
    one = Gaussian(noise_level.estimate(jax.random.key(1), prior, operator, y).sigma)
    fitted = MMSE(rounds=ROUNDS)
    pictures.append([np.asarray(restore(y, *each)) for each in ((found, fitted), (noise, fitted), (one, MMSE()))])
  ours, known, plain = (psnr(np.stack(side), truths) for side in zip(*pictures, strict=True))
  return np.median(errors, axis=0), ours - known, ours - plain


def uneven_lines(prior, truths, kind) -> list[str]:
  """Return the table of noise that differs within a picture."""
  lines = ["| noise | errors | over the true noise | over one sigma |", "|---|---:|---:|---:|"]
  for title, noise in uneven(kind).items():
    errors, cost, gain = measure_uneven(prior, truths, kind, noise)
    shown = ", ".join(f"{100 * error:.1f} %" for error in errors)
    lines.append(f"| {title} | {shown} | {np.mean(cost):+.2f} dB | {np.mean(gain):+.2f} dB |")
    print(lines[-1], flush=True)
  return lines


def doubted(prior, truths) -> str:
  """Say how many pictures with noise of one sigma draw the note that it is uneven."""
  count, operator = 0, operators.identity(truths[0].shape)
  for sigma in SIGMAS:
    for number, truth in enumerate(truths):
      y = simulate(jax.random.key(number), operator, Gaussian(sigma), truth).y
      found = noise_level.estimate(jax.random.key(1), prior, operator, y)
      count += found.settled and uneven_noise.doubt(uneven_noise.unevenness(y, found)) is not None
  return f"Of {len(SIGMAS) * len(truths)} measurements with noise of one sigma, {count} draw that note."


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
  kinds = (uneven_noise.CHANNELS, uneven_noise.BRIGHTNESS)
  blocks = {kind: "\n".join(uneven_lines(prior, truths, kind)) for kind in kinds}
  blocks |= {"table": "\n".join(lines), "doubted": doubted(prior, truths)}
  page_blocks.write(pathlib.Path(OUTPUT.value) / PAGE, blocks)


if __name__ == "__main__":
  app.run(main)
