"""Check what is published: the sdist holds every file of the repository, and the wheel alone restores a picture.

usage: python tools/check_distribution.py --folder=dist

The wheel is installed into a new environment and used in an empty folder, with nothing of the repository in reach.
"""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Iterable

from absl import app, flags

FOLDER = flags.DEFINE_string("folder", "dist", "Folder of one sdist and one wheel, as `make dist` writes it.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEAD = 0.3  # dB that the network has to be ahead of bicubic interpolation of the bee, from 16x16 to 64x64 pixels
# What a person does who has the wheel and nothing else.
TRY = """
import sys
import diffinv
from diffinv.data import bundled
assert diffinv.__file__.startswith(sys.prefix), diffinv.__file__
study = diffinv.Study(
  data=bundled.BEE, size=64, fit="resize", tasks=["super_resolution"], methods=["fast", "bicubic"]
)
results = diffinv.compare(study, "out")
page = diffinv.write_report(results, "page.html")
print(*(f"{row['psnr']:.2f}" for row in results.rows))
"""


def members(sdist: pathlib.Path) -> set[str]:
  """Return the files of an sdist, without the folder that it is in."""
  with tarfile.open(sdist) as archive:
    return {name.partition("/")[2] for name in archive.getnames()}


def missing(held: Iterable[str], tracked: Iterable[str]) -> list[str]:
  """Return the files of the repository that an sdist lacks."""
  return sorted(set(tracked) - set(held))


def tracked() -> list[str]:
  """Return the files of the repository."""
  listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
  return listed.stdout.splitlines()


def restore_with(wheel: pathlib.Path) -> tuple[list[float], float, float]:
  """Restore a picture with the wheel alone; return PSNRs, of the network and of bicubic, and seconds of both parts."""
  with tempfile.TemporaryDirectory() as place:
    home = pathlib.Path(place) / "env"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    begun = time.perf_counter()
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, cwd=place, env=clean)
    installed = time.perf_counter()
    done = subprocess.run([python, "-c", TRY], check=True, cwd=place, env=clean, stdout=subprocess.PIPE, text=True)
    help_of = [str(home / "bin" / "diffinv"), "reconstruct", "--help"]
    subprocess.run(help_of, check=True, cwd=place, env=clean, stdout=subprocess.DEVNULL)
    return [*map(float, done.stdout.split()[-2:])], installed - begun, time.perf_counter() - installed


def main(argv: list[str]) -> None:
  """Check both files of the folder."""
  del argv
  (sdist,), (wheel,) = (sorted(pathlib.Path(FOLDER.value).resolve().glob(end)) for end in ("*.tar.gz", "*.whl"))
  if lacks := missing(members(sdist), tracked()):
    sys.exit(f"{sdist.name} lacks {', '.join(lacks[:5])}; add it to MANIFEST.in")
  (psnr, bicubic), installing, restoring = restore_with(wheel)
  if psnr < bicubic + LEAD:
    sys.exit(f"{wheel.name}: expected a restoration {LEAD} dB better than the {bicubic} dB of bicubic, got {psnr}")
  print(f"{sdist.name} is complete; {wheel.name} restored a picture to {psnr:.2f} dB, where bicubic has {bicubic:.2f}")
  print(f"{installing:.0f} s to install, {restoring:.0f} s to restore")


if __name__ == "__main__":
  app.run(main)
