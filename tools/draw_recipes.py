"""Draw the pictures of docs/recipes.md: run its commands on files made from the bundled bee, before and after.

usage: python tools/draw_recipes.py --output=docs [--work=out/recipes]

The files are made by Pillow, as a scanner, a camera or another program would leave them, and not by the operators of
diffinv. The commands are the lines of the page itself that restore a `--measurement`, run in --work; each
makes a `recipe-NAME.png` by the name of its output, of two pictures side by side.
"""

import os
import pathlib
import shlex
import sys

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFilter

from diffinv.apps import main as commands
from diffinv.data import bundled

OUTPUT = flags.DEFINE_string("output", None, "Folder of the pictures, and of recipes.md.", required=True)
WORK = flags.DEFINE_string("work", "out/recipes", "Folder of the files that the commands read and write.")

PAGE = "recipes.md"
SIDE = 160  # pixels of each picture
CORNER = (10, 28)  # of the crop: left and top
DISK = (0, 1, 1, 1, 0, *[1] * 15, 0, 1, 1, 1, 0)  # a lens out of focus, 5x5 pixels
GAP = 4  # pixels between the two
COLORS = 160  # of the palette of a sheet: a file of some 40 kB, where all colors would take three times as much


def photograph(*filters: ImageFilter.Filter) -> Image.Image:
  """Return a part of the bundled photograph, of which all was filtered."""
  left, top = CORNER
  with Image.open(bundled.BEE) as opened:
    image = opened.convert("RGB")
  for one in filters:
    image = image.filter(one)
  part = image.crop((left, top, left + SIDE, top + SIDE))
  part.info.clear()  # of a color profile, which does not suit a gray picture
  return part


def noisy(image: Image.Image, sigma: float) -> Image.Image:
  """Return a picture with noise of so many gray levels."""
  values = np.asarray(image, np.float64)
  noise = np.random.RandomState(0).standard_normal(values.shape)
  return Image.fromarray(np.clip(np.round(values + sigma * noise), 0, 255).astype(np.uint8))


def scratched(image: Image.Image) -> Image.Image:
  """Return a picture with scratches and dust, white and black, drawn four times as fine."""
  large, random = image.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC), np.random.RandomState(3)
  pen = ImageDraw.Draw(large)
  for number in range(6):
    x, top, bottom = random.randint(0, 4 * SIDE, 3)
    places = np.linspace(0.0, 1.0, 20)
    line = zip(x + 60 * places + 8 * np.sin(7 * places), top + (bottom - top) * places)
    pen.line([*line], fill="white" if number % 2 else "black", width=6)
  for number in range(16):
    x, y, r = *random.randint(0, 4 * SIDE, 2), random.uniform(3, 9)
    pen.ellipse([x - r, y - r, x + r, y + r], fill="white" if number % 2 else "black")
  return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def hole(image: Image.Image) -> tuple[Image.Image, Image.Image]:
  """Return a picture with a stamp on it, and a mask that is black there."""
  stamped, mask = image.copy(), Image.new("L", image.size, "white")
  for drawn, color in ((stamped, "magenta"), (mask, "black")):
    pen = ImageDraw.Draw(drawn)
    pen.text((10, 120), "SAMPLE 2024", fill=color, font_size=22)
    pen.line([(0, 150), (SIDE, 112)], fill=color, width=3)
  return stamped, mask


def make_files(folder: pathlib.Path) -> None:
  """Write what the commands of the page read."""
  image = photograph()
  scratched(image).save(folder / "scan.png")
  stamped, mask = hole(image)
  stamped.save(folder / "stamped.png")
  mask.save(folder / "mask.png")
  photograph(ImageFilter.Kernel((5, 5), DISK)).save(folder / "blurred.jpg", quality=95)
  noisy(image, 25.0).save(folder / "noisy.png")
  image.resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC).save(folder / "small.png")
  image.convert("L").save(folder / "gray.png")
  image.save(folder / "blocky.jpg", quality=20)


def lines(page: pathlib.Path) -> list[str]:
  """Return the commands of the page that have a picture."""
  every = page.read_text(encoding="utf-8").splitlines()
  return [line for line in every if line.startswith("diffinv reconstruct --measurement")]


def value(line: str, flag: str) -> pathlib.Path:
  """Return the path that a flag of a command names."""
  return next(pathlib.Path(word.partition("=")[2]) for word in shlex.split(line) if word.startswith(f"--{flag}="))


def pair(before: pathlib.Path, after: pathlib.Path) -> Image.Image:
  """Return two pictures side by side, a smaller one as large as the other, with few colors."""
  drawn = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
  for number, path in enumerate((before, after)):
    with Image.open(path) as image:
      whole = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    drawn.paste(whole, (number * (SIDE + GAP), 0))
  return drawn.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def main(argv: list[str]) -> None:
  """Make the files, run the commands and draw."""
  del argv
  output = pathlib.Path(OUTPUT.value).resolve()
  work = pathlib.Path(WORK.value).resolve()
  work.mkdir(parents=True, exist_ok=True)
  make_files(work)
  os.chdir(work)
  for line in lines(output / PAGE):
    print(line)
    if status := commands.execute([*shlex.split(line)[1:], "--overwrite"]):
      sys.exit(status)
    before, folder = value(line, "measurement"), value(line, "output")
    drawn = pair(before, folder / f"{before.stem}.png")
    drawn.save(output / f"recipe-{folder.name}.png", optimize=True)


if __name__ == "__main__":
  app.run(main)
