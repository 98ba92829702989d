"""Measure what restoring JPEG files is worth, and write the table of docs/jpeg.md.

usage: python tools/measure_jpeg.py --output=docs [--prior=photo] [--data=photographs] [--count=12] [--size=128]

Held-out pictures are compressed by Pillow, 4:2:0, and their files restored: by one evaluation of the denoiser, at the
one level that is best for all pictures of a quality, and by the presets for the task `jpeg`. The block of jpeg.md
between `<!-- table -->` and `<!-- end -->` is replaced; the words around it are written by hand, and stay.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import page_blocks
from absl import app, flags

import diffinv
from diffinv import schedules
from diffinv.data import held_out, images

PAGE = "jpeg.md"
QUALITIES = (10, 20, 40, 80, 95)
LEVELS = np.geomspace(0.01, 0.4, 16)  # of the noise that the denoiser is told of, on [-1, 1]
COLUMNS = {
  "file": "the file",
  "denoised": "denoised once, at the best level",
  "fast": "`--quality=fast`",
  "balanced": "`--quality=balanced`",
  "best": "`--quality=best`",
}

OUTPUT = flags.DEFINE_string("output", None, "Folder of the page.", required=True)
PRIOR = flags.DEFINE_string("prior", "photo", "Prior.")
DATA = flags.DEFINE_string("data", "photographs", "Held-out set.")
COUNT = flags.DEFINE_integer("count", 12, "Pictures.")
SIZE = flags.DEFINE_integer("size", 128, "Edge of the pictures, pixels.")


def psnr(found, truths) -> np.ndarray:
  """Return the PSNR of pictures as files hold them, dB, [n]."""
  return 10.0 * np.log10(4.0 / np.mean((np.clip(found, -1.0, 1.0) - truths) ** 2, axis=(1, 2, 3)))


def denoised(prior, pictures, truths) -> np.ndarray:
  """Return the PSNR of pictures denoised at the level that is best for all, dB, [n]."""

  def at(sbar):
    level = schedules.level_within(prior.schedule, sbar)
    return jax.lax.map(lambda x: prior.denoise(level.alpha * x, level).x0, jnp.asarray(pictures))

  tried = jax.jit(at)
  return max((psnr(np.asarray(tried(np.float32(sbar))), truths) for sbar in LEVELS), key=np.mean)


def restored(paths, quality: str) -> np.ndarray:
  """Return what files are restored to, [n, h, w, c]."""
  fields = {"prior": PRIOR.value, "quality": quality, "num_samples": 1}
  return np.stack([np.asarray(diffinv.restore(path, task="jpeg", **fields)) for path in paths])


def measure(prior, truths, quality: int, folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Return the PSNR of each column for a quality of JPEG, dB, [n]."""
  paths = [folder / f"{quality}-{i:02d}.jpg" for i in range(len(truths))]
  for path, truth in zip(paths, truths, strict=True):
    images.to_pillow(truth).save(path, "JPEG", quality=quality)
  decoded = np.stack([images.read(path) for path in paths])
  found = {"file": psnr(decoded, truths), "denoised": denoised(prior, decoded, truths)}
  for preset in ("fast", "balanced", "best"):
    found[preset] = psnr(restored(paths, preset), truths)
    print(quality, preset, f"{np.mean(found[preset]):.2f}", flush=True)
  return found


def row(quality: int, found: dict[str, np.ndarray]) -> str:
  """Return a line of the table: PSNR of the files, and how much more the others have; the least of the pictures."""
  cells = [f"{np.mean(found['file']):.2f} dB"]
  for name in list(COLUMNS)[1:]:
    gains = found[name] - found["file"]
    cells.append(f"{np.mean(gains):+.2f} ({np.min(gains):+.2f})")
  return f"| {quality} | {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
  """Measure, and write the table."""
  del argv
  prior = diffinv.load_prior(PRIOR.value)
  truths = np.asarray(held_out.held_out(DATA.value, "test", COUNT.value, SIZE.value)[1])
  lines = [f"{len(truths)} pictures of {SIZE.value}x{SIZE.value} pixels, `{DATA.value}`, prior `{PRIOR.value}`:", ""]
  lines += [f"| quality | {' | '.join(COLUMNS.values())} |", f"|---:|{'---:|' * len(COLUMNS)}"]
  with tempfile.TemporaryDirectory() as folder:
    for quality in QUALITIES:
      lines.append(row(quality, measure(prior, truths, quality, pathlib.Path(folder))))
      print(lines[-1], flush=True)
  page_blocks.write(pathlib.Path(OUTPUT.value) / PAGE, {"table": "\n".join(lines)})


if __name__ == "__main__":
  app.run(main)
