"""Whatever is wrong with the input: one line that says so, an exit code, and nothing left behind.

Every case is a command line and what it says. Words in braces stand for files that `world` writes and for folders of
the test; `{out}`, the output, lies beside them and the case must leave all of it as it was.
"""

import dataclasses
import errno
import json
import os
import pathlib
import re
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from diffinv.apps import main
from diffinv.data import images
from diffinv.manifest import Manifest
from diffinv.priors import folder as checkpoint
from diffinv.studies import chains as bench
from diffinv.studies import identity

ROOT = pathlib.Path(__file__).resolve().parent.parent
USAGE, FAILURE, INTERRUPTED = 2, 1, 130
QUICK = "--steps=4 --prior=natural --compilation_cache="


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  """These programs run for microseconds and compile for seconds."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Write the files that cases name, whole ones and damaged ones."""
  folder = tmp_path_factory.mktemp("files")
  pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
  good = Image.fromarray(pixels)
  ramp = np.linspace(-1, 1, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
  nan, mask = ramp.copy(), np.zeros((16, 16), np.uint8)
  nan[3, 4, 1] = np.nan
  mask[4:] = 255
  half = np.where(mask, 128, 0).astype(np.uint8)

  def text(name, content):
    (folder / name).write_bytes(content)

  good.save(folder / "good.png")
  good.save(folder / "good.jpg", quality=95)
  for name in ("good.png", "good.jpg"):
    whole = (folder / name).read_bytes()
    text(f"cut-{name}", whole[: len(whole) // 2])
  text("text.png", b"this is no picture")
  text("empty.png", b"")
  good.convert("RGBA").save(folder / "alpha.png")
  good.convert("P").save(folder / "palette.png")
  good.convert("L").save(folder / "gray.png")
  good.convert("LA").save(folder / "gray-alpha.png")
  Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(folder / "deep.png")
  text("deep-rgb.png", deep_rgb())
  good.save(folder / "frames.gif", save_all=True, append_images=[good.rotate(90)])
  good.resize((18, 17)).save(folder / "odd.png")
  good.resize((3, 3)).save(folder / "tiny.png")
  for name, array in {
    "good": ramp, "nan": nan, "bytes": pixels, "bright": 2 * ramp, "flat": ramp[..., 0], "two": ramp[..., :2],
    "gray": ramp[..., :1], "fits": ramp[:8, :8], "infinite": np.where(np.isnan(nan), np.inf, nan),
  }.items():  # fmt: skip
    np.save(folder / f"{name}.npy", array)
  np.save(folder / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
  text("cut.npy", (folder / "good.npy").read_bytes()[:200])
  Image.fromarray(mask).save(folder / "mask.png")
  Image.fromarray(mask[:8, :8]).save(folder / "mask-small.png")
  Image.fromarray(half).save(folder / "mask-half.png")
  Image.fromarray(mask * 0).save(folder / "mask-black.png")
  Image.fromarray(np.dstack([mask, mask, 0 * mask])).save(folder / "mask-rgb.png")
  np.save(folder / "kernel.npy", np.ones((3, 3)))
  np.save(folder / "kernel-even.npy", np.ones((4, 4)))
  np.save(folder / "kernel-zero.npy", np.zeros((3, 3)))
  np.save(folder / "kernel-nan.npy", np.full((3, 3), np.nan))
  Image.fromarray(mask[:4, :6]).save(folder / "kernel-even.png")
  for name, content in {
    "settings-cut": '{"dps": {', "settings-list": "[1]", "settings-flat": '{"dps": {"default": 3}}',
    "settings-field": '{"dps": {"default": {"step": 3}}}', "settings-type": '{"dps": {"default": {"scale": "big"}}}',
    "settings-null": '{"dps": {"default": {"scale": null}}}', "settings-steps": '{"dps": {"steps": 5000}}',
  }.items():  # fmt: skip
    text(f"{name}.json", content.encode())
  (folder / "none").mkdir()
  (folder / "none" / "notes.txt").write_text("no picture")
  (folder / "mixed").mkdir()
  for name in ("good.png", "odd.png"):
    text(f"mixed/{name}", (folder / name).read_bytes())
  (folder / "prior").mkdir()
  text("prior/prior.json", b'{"format": "diffinv')
  os.mkfifo(folder / "fifo")
  (folder / "dangling.png").symlink_to("gone")
  (folder / "fifos").mkdir()
  (folder / "fifos" / "prior.json").symlink_to(folder / "fifo")
  (folder / "null").mkdir()
  shipped = json.loads((ROOT / "checkpoints" / "photo" / "prior.json").read_text())
  text("null/prior.json", json.dumps({**shipped, "schedule": None}).encode())
  return folder


def deep_rgb():
  """Write a PNG of 16 bits a channel, which Pillow does not."""
  import struct

  def part(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  rows = b"".join(b"\0" + bytes(16 * 6) for _ in range(16))
  header = part(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
  return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


@pytest.fixture
def place(tmp_path):
  """A folder to write into, with what may be in the way."""
  for name in ("theirs", "ours"):
    (tmp_path / name).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / name / "photo.png")
  (tmp_path / "ours" / "results.json").write_text("{}")
  Manifest.begin(tmp_path / "ours", "drawing", "sample").add("photo.png", "results.json")
  (tmp_path / "file").write_text("a file")
  (tmp_path / "link").symlink_to("ours")
  return tmp_path


def snapshot(folder):
  """Return everything in a folder: names, and contents of files."""
  found = {}
  for root, folders, names in os.walk(folder):
    found.update({os.path.join(root, name): None for name in folders})
    for name in names:
      with open(os.path.join(root, name), "rb") as file:
        found[os.path.join(root, name)] = file.read()
  return found


def fails(line, code, message, files, place, capfd):
  """Run a command line that must fail; check the exit code, the one line, and that nothing changed."""
  where = {"in": files, "place": place, "out": place / "out"}
  before = snapshot(place)
  capfd.readouterr()
  got = main.execute([word.format(**where) for word in line.split()])
  said = capfd.readouterr()
  assert said.err.startswith("diffinv: error: ") and said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
  assert re.search(message, said.err), said.err
  assert "Traceback" not in said.err and said.out == ""
  assert got == code
  assert snapshot(place) == before


SR = f"reconstruct {QUICK} --output={{out}} --task=super_resolution --method=dps"
INPAINT = f"reconstruct {QUICK} --output={{out}} --task=inpaint_random --method=dps"
BLUR = f"reconstruct {QUICK} --output={{out}} --task=motion_blur --method=dps"
GOOD = "--input={in}/good.png"
SAMPLE = f"sample {QUICK} --size=16 --num_samples=1"
COMPARE = f"compare {QUICK} --output={{out}} --tasks=denoising --methods=dps"
TUNE = f"tune {QUICK} --output={{out}}.json --data={{in}}/good.png --tasks=denoising --methods=diffpir"
CONVERT = "convert --output={out} --image_size=64 --num_heads=1"

CASES = {
  # commands and flags
  "no command": ("", USAGE, "expected a command, one of sample, .*, got none; see diffinv --help"),
  "unknown command": ("restore", USAGE, "expected a command, .* got 'restore'"),
  "misspelled command": ("reconstuct", USAGE, "got 'reconstuct'; did you mean reconstruct\\?"),
  "unknown flag": (f"{SR} --color=red", USAGE, "unknown flag --color; see diffinv reconstruct --help"),
  "misspelled flag": (f"{SR} --inptu=a", USAGE, "unknown flag --inptu; did you mean --input\\?"),
  "no flag": (f"{SR} {{in}}/good.png", USAGE, "expected flags only, got '.*good.png'"),
  "flag without value": (f"{SR} {GOOD} --seed", USAGE, "seed"),
  "word for a number": (f"{SR} {GOOD} --seed=first", USAGE, "--seed=first"),
  "negative seed": (f"{SR} {GOOD} --seed=-1", USAGE, "--seed: expected a number from 0 to 4,294,967,295, got -1"),
  "fraction for a count": (f"{SR} {GOOD} --num_samples=1.5", USAGE, "--num_samples=1.5"),
  "no samples": (f"{SR} {GOOD} --num_samples=0", USAGE, "--num_samples: expected a number from 1 to 10,000, got 0"),
  "sample without partner": (f"{SR} {GOOD} --num_samples=3 --antithetic", USAGE, "even number for --antithetic, got 3"),
  "no chain at once": (f"{SR} {GOOD} --batch_size=0", USAGE, "--batch_size: expected a number from 1 to .*, got 0"),
  "unknown task": (f"{SR} {GOOD} --task=sharpen", USAGE, "--task=sharpen.*inpaint_box"),
  "unknown method": (f"{SR} {GOOD} --method=magic", USAGE, "--method=magic.*sdedit"),
  "unknown noise": (f"{SR} {GOOD} --noise=salt", USAGE, "--noise=salt.*gaussian"),
  "unknown sampler": (f"{SAMPLE} --output={{out}} --sampler=heun", USAGE, "--sampler=heun.*ddpm"),
  "unknown fit": (f"{SR} {GOOD} --fit=stretch", USAGE, "--fit=stretch.*crop"),
  "no output": (f"reconstruct {QUICK} {GOOD}", USAGE, "--output is missing: expected the folder to write"),
  "no output of sample": (SAMPLE, USAGE, "--output is missing"),
  "no output of compare": (f"compare {QUICK}", USAGE, "--output is missing"),
  "empty output": (f"{SR} {GOOD} --output=", USAGE, "--output is missing"),
  "neither": (SR, USAGE, "expected one of --input .* and --measurement .*, got both or none"),
  "both": (f"{SR} {GOOD} --measurement={{in}}/good.npy", USAGE, "got both or none"),
  "size of a measurement": (
    f"{SR} --measurement={{in}}/good.npy --size=8",
    USAGE,
    "--size and --fit change photographs",
  ),
  "fit of a measurement": (f"{SR} --measurement={{in}}/good.npy --fit=crop", USAGE, "--size and --fit"),
  "threshold without mask": (
    f"{INPAINT} {GOOD} --mask_threshold=9",
    USAGE,
    "--mask_threshold is of a mask, got no --mask",
  ),
  "mask without inpainting": (
    f"{SR} {GOOD} --mask={{in}}/mask.png",
    USAGE,
    "--mask is for inpainting and MRI, got --task=super",
  ),
  "kernel without blur": (
    f"{SR} {GOOD} --kernel={{in}}/kernel.npy",
    USAGE,
    "--kernel is for deblurring, got --task=super",
  ),
  "kernel beside a mask": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask.png --kernel={{in}}/kernel.npy",
    USAGE,
    "--kernel is for deblurring, got --task=inpaint_random; leave it out",
  ),
  "mask beside a kernel": (
    f"{BLUR} {GOOD} --mask={{in}}/mask.png --kernel={{in}}/kernel.npy",
    USAGE,
    "--mask is for inpainting and MRI, got --task=motion_blur; leave it out",
  ),
  "eta without DDIM": (f"{SAMPLE} --output={{out}} --eta=1", USAGE, "--eta is of --sampler=ddim, got --sampler=ddpm"),
  "eta out of range": (
    f"{SAMPLE} --output={{out}} --sampler=ddim --eta=1.5",
    USAGE,
    "--eta: expected a number from 0 to 1, got 1.5",
  ),
  "NaN for eta": (f"{SAMPLE} --output={{out}} --sampler=ddim --eta=nan", USAGE, "--eta: expected a finite number"),
  "sigma of Poisson": (
    f"{SR} {GOOD} --noise=poisson --sigma=0.1",
    USAGE,
    "--sigma is of gaussian noise, got --noise=poi",
  ),
  "rate of Gaussian": (f"{SR} {GOOD} --rate=2", USAGE, "--rate is of poisson noise, got --noise=gaussian"),
  "zero sigma": (
    f"{SR} {GOOD} --sigma=0",
    USAGE,
    "--sigma: expected a number from 1e-06 to 1,000, got 0; pass --noise=none",
  ),
  "negative sigma": (f"{SR} {GOOD} --sigma=-1", USAGE, "--sigma: expected a number from 1e-06 to 1,000, got -1"),
  "NaN for sigma": (f"{SR} {GOOD} --sigma=nan", USAGE, "--sigma: expected a finite number, got nan"),
  "infinite rate": (f"{SR} {GOOD} --noise=poisson --rate=inf", USAGE, "--rate: expected a finite number, got inf"),
  "too many devices": (f"{SR} {GOOD} --devices=99", USAGE, "--devices: expected at most \\d+, .* got 99"),
  "cache that cannot be": (
    f"{SR} {GOOD} --compilation_cache={{place}}/file/x",
    USAGE,
    "--compilation_cache: expected a",
  ),
  # steps and hyper-parameters
  "more steps than there are": (
    f"{SR} {GOOD} --steps=1001",
    USAGE,
    "steps: the schedule has 1000 steps, got 1001; ask",
  ),
  "more steps to sample": (f"{SAMPLE} --output={{out}} --steps=2000", USAGE, "schedule has 1000 steps, got 2000"),
  "no steps": (f"{SR} {GOOD} --steps=0", USAGE, "steps: expected at least 1, got '0'"),
  "words for steps": (
    f"{SR} {GOOD} --steps=many",
    USAGE,
    "steps: expected 'N', 'ddimN', 'logsnrN', 'karrasN', 'mixedN' or 'a,b,c'.* got 'many'",
  ),
  "unknown field": (
    f"{SR} {GOOD} --set=step=1",
    USAGE,
    "dps: expected a field among scale, rule, misfit, got 'step'",
  ),
  "no assignment": (f"{SR} {GOOD} --set=scale", USAGE, "--set: expected name=value, got 'scale'"),
  "word for a field": (f"{SR} {GOOD} --set=scale=big", USAGE, "dps: expected scale to be of type float, got 'big'"),
  "NaN for a field": (f"{SR} {GOOD} --set=scale=nan", USAGE, "dps: expected scale to be finite, got 'nan'"),
  "field out of its range": (
    f"{SR} {GOOD} --method=diffpir --set=zeta=5",
    USAGE,
    "diffpir: expected zeta to be in \\[0, 1\\], got 5",
  ),
  "unknown rule": (
    f"{SR} {GOOD} --set=rule=mine",
    USAGE,
    "dps: expected rule to be one of code, paper, .*, got 'mine'",
  ),
  "fraction for a field": (
    f"{SR} {GOOD} --method=sdedit --set=repeats=1.5",
    USAGE,
    "sdedit: expected repeats to be of type int, got '1.5'",
  ),
  "no repeats": (f"{SR} {GOOD} --method=sdedit --set=repeats=0", USAGE, "expected repeats, a count, to be at least 1"),
  "neither true nor false": (
    f"{INPAINT} {GOOD} --set=scale=1 --method=sdedit --set=keep_known=maybe",
    USAGE,
    "expected a field among ridge",
  ),
  "perhaps": (
    f"{SR} {GOOD} --method=sdedit --set=keep_known=maybe",
    USAGE,
    "keep_known to be true or false, got 'maybe'",
  ),
  "known pixels of none": (
    f"{SR} {GOOD} --method=sdedit --set=keep_known=true",
    USAGE,
    "keep_known re-imposes observed",
  ),
  "no settings file": (
    f"{SR} {GOOD} --settings={{in}}/no.json",
    FAILURE,
    "no.json: expected a file, found nothing there; check the path",
  ),
  "cut settings": (
    f"{SR} {GOOD} --settings={{in}}/settings-cut.json",
    FAILURE,
    "cut.json: expected JSON, got only its beginning: it is cut off; see .*literature.json",
  ),
  "list of settings": (f"{SR} {GOOD} --settings={{in}}/settings-list.json", FAILURE, "got another structure"),
  "flat settings": (f"{SR} {GOOD} --settings={{in}}/settings-flat.json", FAILURE, "got another structure"),
  "unknown setting": (
    f"{SR} {GOOD} --settings={{in}}/settings-field.json",
    FAILURE,
    "settings: expected a field of dps in .*settings-field.json, one of scale, rule, misfit, got 'step'",
  ),
  "word in settings": (
    f"{SR} {GOOD} --settings={{in}}/settings-type.json",
    USAGE,
    "scale to be of type float, got 'big'",
  ),
  "null in settings": (
    f"{SR} {GOOD} --settings={{in}}/settings-null.json",
    USAGE,
    "scale to be of type float, got None",
  ),
  "steps in settings": (
    f"reconstruct --output={{out}} --prior=natural --method=dps --compilation_cache= {GOOD} "
    "--settings={in}/settings-steps.json",
    USAGE,
    "got 5000",
  ),
  # priors
  "unknown prior": (f"{SR} {GOOD} --prior=ffhq", FAILURE, "ffhq: no such prior; give a folder .*natural"),
  "folder without prior": (f"{SR} {GOOD} --prior={{in}}/none", FAILURE, "none is not a prior, make one with"),
  "cut prior": (
    f"{SR} {GOOD} --prior={{in}}/prior",
    FAILURE,
    "prior.json: expected JSON, got only its beginning: it is cut off; the file is",
  ),
  "FIFO as prior.json": (f"{SR} {GOOD} --prior={{in}}/fifos", FAILURE, "prior.json: expected a file, got a FIFO"),
  "null in a prior": (
    f"{SR} {GOOD} --prior={{in}}/null",
    FAILURE,
    "null/prior.json: expected a table at schedule, got null",
  ),
  # pictures
  "FIFO": (f"{SR} --input={{in}}/fifo", USAGE, "fifo: expected a file, got a FIFO; check the path"),
  "device": (f"{SR} --input=/dev/zero", USAGE, "/dev/zero: expected a file, got a device; check the path"),
  "dangling link": (
    f"{SR} --input={{in}}/dangling.png",
    FAILURE,
    "dangling.png: expected a file, found a link to nothing",
  ),
  "FIFO as mask": (f"{INPAINT} {GOOD} --mask={{in}}/fifo", FAILURE, "fifo: expected a file, got a FIFO"),
  "FIFO of settings": (f"{SR} {GOOD} --settings={{in}}/fifo", FAILURE, "fifo: expected a file, got a FIFO"),
  "no picture": (
    f"{SR} --input={{in}}/no.png",
    FAILURE,
    "no.png: expected a file, found nothing there; check the path",
  ),
  "one of two": (f"{SR} {GOOD},{{in}}/no.png", FAILURE, "no.png: expected a file, found nothing there"),
  "no pictures": (
    f"{SR} --input={{in}}/none",
    USAGE,
    "--input: expected image files .* in the folder .*none, found none",
  ),
  "cut PNG": (f"{SR} --input={{in}}/cut-good.png", FAILURE, "cut-good.png: expected a whole image, got a truncated"),
  "cut JPEG": (f"{SR} --input={{in}}/cut-good.jpg", FAILURE, "cut-good.jpg: expected a whole image, got a truncated"),
  "empty file": (f"{SR} --input={{in}}/empty.png", FAILURE, "empty.png: expected an image, got a file that is none"),
  "text": (f"{SR} --input={{in}}/text.png", FAILURE, "text.png: expected an image, got a file that is none"),
  "alpha": (f"{SR} --input={{in}}/alpha.png", FAILURE, "expected 8-bit RGB, got RGB with alpha; .* pass --convert"),
  "palette": (f"{SR} --input={{in}}/palette.png", FAILURE, "expected 8-bit RGB, got palette; .* pass --convert"),
  "gray with alpha": (f"{SR} --input={{in}}/gray-alpha.png", FAILURE, "got grayscale with alpha; .* pass --convert"),
  "16-bit gray": (f"{SR} --input={{in}}/deep.png", FAILURE, "expected 8-bit RGB, got 16-bit grayscale; .* --convert"),
  "16-bit RGB": (f"{SR} --input={{in}}/deep-rgb.png", FAILURE, "expected 8-bit RGB, got 16-bit RGB; .* --convert"),
  "animation": (f"{SR} --input={{in}}/frames.gif", FAILURE, "got an animation or several pages; .* pass --convert"),
  "odd size": (f"{SR} --input={{in}}/odd.png", FAILURE, "odd.png: expected 16x16 pixels, got 18x17; pass --fit=crop"),
  "second of odd size": (f"{SR} --input={{in}}/mixed", FAILURE, "odd.png: expected 16x16 pixels, got 18x17"),
  "too small": (f"{SR} --input={{in}}/tiny.png", FAILURE, "tiny.png: expected at least 4x4 pixels, got 3x3"),
  "too small to crop": (
    f"{SR} {GOOD} --size=32 --fit=crop",
    FAILURE,
    "expected at least 32x32 pixels to crop, got 16x16",
  ),
  "size that cannot be": (
    f"{SR} {GOOD} --size=18 --fit=crop",
    USAGE,
    "size: expected multiples of 4 pixels, got 18x18",
  ),
  "size in words": (f"{SR} {GOOD} --size=big", USAGE, "size: expected N or WIDTHxHEIGHT in pixels, got 'big'"),
  "size to sample": (f"{SAMPLE} --output={{out}} --size=1x2x3", USAGE, "size: expected N or WIDTHxHEIGHT"),
  "NaN in an array": (f"{SR} --input={{in}}/nan.npy", FAILURE, "nan.npy: expected finite values, got 1 that are NaN"),
  "bytes in an array": (
    f"{SR} --input={{in}}/bytes.npy",
    FAILURE,
    "bytes.npy: expected floats in \\[-1, 1\\], got uint8",
  ),
  "too bright": (
    f"{SR} --input={{in}}/bright.npy",
    FAILURE,
    "bright.npy: expected values in \\[-1, 1\\], got \\[-2, 2\\]",
  ),
  "flat array": (
    f"{SR} --measurement={{in}}/flat.npy",
    FAILURE,
    "expected an array of shape \\[h, w, 3\\], got \\(16, 16\\); save np.stack\\(\\[a\\] \\* 3, axis=-1\\)",
  ),
  "objects": (f"{SR} --input={{in}}/objects.npy", FAILURE, "objects.npy: expected a .npy array of numbers"),
  "cut array": (
    f"{SR} --input={{in}}/cut.npy",
    FAILURE,
    "cut.npy: expected a .npy array of numbers, got one that is cut",
  ),
  # measurements, masks and kernels
  "no measurement": (f"{SR} --measurement={{in}}/no.npy", FAILURE, "no.npy: expected a file, found nothing there"),
  "NaN in a measurement": (f"{SR} --measurement={{in}}/nan.npy", FAILURE, "expected finite values, got 1 that are NaN"),
  "infinity in a measurement": (f"{SR} --measurement={{in}}/infinite.npy", FAILURE, "got 1 that are NaN or infinite"),
  "two channels": (f"{SR} --measurement={{in}}/two.npy", FAILURE, "shape \\[h, w, 3\\], got \\(16, 16, 2\\)"),
  "color for gray": (
    f"reconstruct {QUICK} --output={{out}} --task=colorization --measurement={{in}}/good.npy",
    FAILURE,
    "expected an array of shape \\[h, w, 1\\], got \\(16, 16, 3\\)",
  ),
  "colored picture for gray": (
    f"reconstruct {QUICK} --output={{out}} --task=colorization --measurement={{in}}/good.png",
    FAILURE,
    "expected 8-bit grayscale, got 8-bit RGB",
  ),
  "no mask": (
    f"{INPAINT} --measurement={{in}}/good.npy",
    USAGE,
    "--mask is missing: expected the mask of the measurement",
  ),
  "no mask file": (f"{INPAINT} {GOOD} --mask={{in}}/no.png", FAILURE, "no.png: expected a file, found nothing there"),
  "mask of another size": (
    f"{INPAINT} --measurement={{in}}/good.npy --mask={{in}}/mask-small.png",
    FAILURE,
    "mask-small.png: expected a mask of 16x16 pixels as the picture, got 8x8; resize it",
  ),
  "mask of another size, simulated": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask-small.png",
    FAILURE,
    "of 16x16 pixels as the p",
  ),
  "gray mask": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask-half.png",
    FAILURE,
    "192 other values such as 128; pass --mask_thres",
  ),
  "black mask": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask-black.png",
    FAILURE,
    "keeps some pixels, got one that keeps none",
  ),
  "colored mask": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask-rgb.png",
    FAILURE,
    "expected a mask of gray values, got .* pixels of other colors; save it as gray",
  ),
  "all below the threshold": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask-half.png --mask_threshold=200",
    FAILURE,
    "got one that keeps none",
  ),
  "threshold out of range": (
    f"{INPAINT} {GOOD} --mask={{in}}/mask.png --mask_threshold=256",
    USAGE,
    "mask_threshold: expected a number from 1 to 255, got 256",
  ),
  "no kernel": (
    f"{BLUR} --measurement={{in}}/good.npy",
    USAGE,
    "--blur or --kernel is missing: expected what blurred the measure",
  ),
  "even kernel": (
    f"{BLUR} {GOOD} --kernel={{in}}/kernel-even.npy",
    FAILURE,
    "kernel of odd height and width, got shape \\(4, 4\\); pad",
  ),
  "even kernel picture": (
    f"{BLUR} {GOOD} --kernel={{in}}/kernel-even.png",
    FAILURE,
    "odd height and width, got shape \\(4, 6",
  ),
  "kernel of zeros": (f"{BLUR} {GOOD} --kernel={{in}}/kernel-zero.npy", FAILURE, "positive sum, got a sum of 0"),
  "NaN in a kernel": (
    f"{BLUR} {GOOD} --kernel={{in}}/kernel-nan.npy",
    FAILURE,
    "expected finite values of positive sum",
  ),
  # outputs
  "folder there": (
    f"{SR} {GOOD} --output={{place}}/ours",
    FAILURE,
    "ours exists; choose another --output, or .* --overw",
  ),
  "folder there to sample": (f"{SAMPLE} --output={{place}}/ours", FAILURE, "ours exists; choose another --output"),
  "folder there to compare": (
    f"{COMPARE} {GOOD} --output={{place}}/ours",
    FAILURE,
    "ours exists; choose another --output",
  ),
  "their folder": (
    f"{SR} {GOOD} --output={{place}}/theirs --overwrite",
    FAILURE,
    "expected a restoration that diffinv wrote, .*theirs holds no manifest.jsonl",
  ),
  "a file there": (
    f"{SR} {GOOD} --output={{place}}/file --overwrite",
    FAILURE,
    "expected a folder to make, .*file is there",
  ),
  "a link there": (
    f"{SR} {GOOD} --output={{place}}/link --overwrite",
    FAILURE,
    "expected a folder to make, .*link is there",
  ),
  "in a file": (f"{SR} {GOOD} --output={{place}}/file/out", FAILURE, "expected folders above .*out, .*file is none"),
  "no such disk": (f"{SAMPLE} --output=/proc/none/out", FAILURE, "No such file or directory: '?/proc/none|Permission"),
  "over its own input": (
    f"{SR} --input={{place}}/ours/photo.png --output={{place}}/ours --overwrite",
    USAGE,
    "expected a place apart from --input, .*ours contains .*photo.png",
  ),
  "photons of a spectrum": (
    f"{SR} {GOOD} --task=phase_retrieval --method=daps --noise=poisson",
    USAGE,
    "--noise=poisson counts the light of a picture, got the task Phase retrieval",
  ),
  # compare
  "unknown task of several": (
    f"{COMPARE} --tasks=denoising,sharpen",
    USAGE,
    "--tasks: expected some of .*, got 'sharpen'",
  ),
  "word among tasks": (
    f"{COMPARE} --tasks=denoising,deblur",
    USAGE,
    "--tasks: deblur is a word for pictures of your own, of diffinv reconstruct; give motion_blur",
  ),
  "unknown method of several": (f"{COMPARE} --methods=dps,magic", USAGE, "--methods: expected some of .*, got 'magic'"),
  "no task": (f"{COMPARE} --tasks=", USAGE, "--tasks: expected one or more, each once, got none"),
  "a task twice": (f"{COMPARE} --tasks=denoising,denoising", USAGE, "each once, got denoising,denoising"),
  "field of which": (f"{COMPARE} {GOOD} --set=scale=1", USAGE, "--set: expected METHOD.name=value .* got 'scale'"),
  "field of another": (
    f"{COMPARE} {GOOD} --set=sdedit.t0=1",
    USAGE,
    "METHOD.name=value with one of dps, got 'sdedit.t0'",
  ),
  "unknown field of a method": (
    f"{COMPARE} {GOOD} --set=dps.t0=1",
    USAGE,
    "dps: expected a field among scale, rule, misfit, got 't0'",
  ),
  "nothing to compare": (
    f"{COMPARE} {GOOD} --methods=sdedit --set=sdedit.keep_known=true",
    USAGE,
    "keep_known re-imposes observed pixels",
  ),
  "two sizes to compare": (
    f"{COMPARE} --input={{in}}/mixed",
    FAILURE,
    "expected photographs of one size, got 16x16, 18x17",
  ),
  "over its own photograph": (
    f"{COMPARE} --input={{place}}/ours --output={{place}}/ours --overwrite",
    USAGE,
    "expected a place apart from --data, .*ours is .*ours",
  ),
  "over its own settings": (
    f"{COMPARE} --data=photos --settings={{place}}/ours/results.json --output={{place}}/ours --overwrite",
    USAGE,
    "expected a place apart from --settings, .*ours contains .*results.json",
  ),
  "field of one of several out of its range": (
    f"{COMPARE} {GOOD} --methods=diffpir --set=diffpir.zeta=-1",
    USAGE,
    "diffpir: expected zeta to be in \\[0, 1\\], got -1",
  ),
  "one frame": (f"{COMPARE} {GOOD} --frames=1", USAGE, "--frames: expected 0, or at least 2 .* got 1"),
  "more pictures than there are": (
    f"{COMPARE} --data={{in}}/good.png --num_images=2",
    USAGE,
    "--num_images: expected at most 1, all of --data, got 2",
  ),
  "fit of held-out pictures": (
    f"{COMPARE} --data=faces --fit=crop",
    USAGE,
    "--fit is for photographs of your own, got",
  ),
  "conversion of held-out pictures": (
    f"{COMPARE} --data=photos --convert",
    USAGE,
    "--convert is for photographs of your own, got --data=photos; leave it out",
  ),
  # tune
  "searched field out of its range": (f"{TUNE} --search=diffpir.zeta=0,5", USAGE, "zeta to be in \\[0, 1\\], got 5"),
  "fixed field out of its range": (
    f"{TUNE} --search=diffpir.weight=1,2 --set=diffpir.zeta=5",
    USAGE,
    "diffpir: expected zeta to be in \\[0, 1\\], got 5",
  ),
  "field searched twice": (
    f"{TUNE} --search=diffpir.zeta=0 --search=diffpir.zeta=1",
    USAGE,
    "--search: expected each field once, got diffpir.zeta twice",
  ),
  "field searched and fixed": (
    f"{TUNE} --search=diffpir.zeta=0,1 --set=diffpir.zeta=1",
    USAGE,
    "--set: expected a field that is not searched, got diffpir.zeta; leave it out",
  ),
  # convert; what can be wrong with the tensors is in test_convert.py
  "no weights": (
    f"{CONVERT} --input={{in}}/no.safetensors",
    FAILURE,
    "no.safetensors: expected a file, found nothing there",
  ),
  "folder of weights": (
    f"{CONVERT} --input={{in}}/none",
    FAILURE,
    "none: expected a folder of .*, found no config",
  ),
  "FIFO of weights": (f"{CONVERT} --input={{in}}/fifo", FAILURE, "fifo: expected a file, got a FIFO"),
  "unknown preset": (f"{CONVERT} --input={{in}}/text.png --preset=celeba", USAGE, "--preset=celeba.*ffhq256"),
  "prior there": (
    f"{CONVERT} --input={{in}}/no.pt --output={{place}}/ours",
    FAILURE,
    "the folder .*ours exists",
  ),
  "no prior to replace": (
    f"{CONVERT} --input={{in}}/no.pt --output={{place}}/theirs --overwrite",
    FAILURE,
    "expected a prior that diffinv wrote, .*theirs holds no",
  ),
}


@pytest.mark.parametrize("line, code, message", CASES.values(), ids=CASES.keys())
@pytest.mark.slow
def test_bad_input_is_one_line(line, code, message, files, place, capfd):
  fails(line, code, message, files, place, capfd)


def test_a_prior_that_is_read_is_not_replaced(files, place, capfd):
  (place / "ours" / "prior.json").write_text("{}")
  line = f"{SAMPLE} --prior={{place}}/ours --output={{place}}/ours --overwrite"
  fails(line, USAGE, "expected a place apart from --prior, .*ours is .*ours", files, place, capfd)


# Failures in the middle of the work. All run the same two programs, of `SR` and `SAMPLE`.


@pytest.mark.parametrize(
  "line, broken, name, error, code, message",
  [
    (f"{SR} {GOOD}", images, "write_pillow", OSError(errno.ENOSPC, "No space left on device", "a.png"), FAILURE,
     "No space left on device: a.png; free some space, or write to another disk with --output"),
    (f"{SAMPLE} --output={{out}}", images, "write_pillow", OSError(errno.EDQUOT, "Disk quota exceeded", "0.png"),
     FAILURE, "Disk quota exceeded: 0.png; free some space"),
    (f"{SAMPLE} --output={{place}}/ours --overwrite", images, "write_pillow",
     OSError(errno.ENOSPC, "No space left on device"), FAILURE, "No space left on device; free some space"),
    (f"{SR} {GOOD} --output={{place}}/a/b/out", np, "save", OSError(errno.ENOSPC, "No space left on device"), FAILURE,
     "No space left on device; free some space"),
    (f"{SR} {GOOD}", bench, "restore", KeyboardInterrupt(), INTERRUPTED, "interrupted; nothing was written"),
    (f"{SR} {GOOD}", bench, "restore", MemoryError(), FAILURE, "not enough memory; lower --batch_size"),
    (f"{SR} {GOOD}", bench, "restore", RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"), FAILURE,
     "not enough memory; lower --batch_size"),
  ],
  ids=["full", "quota", "full under --overwrite", "full for arrays", "interrupted", "memory", "device memory"],
)  # fmt: skip
@pytest.mark.slow
def test_failure_amid_work_leaves_nothing(line, broken, name, error, code, message, files, place, capfd, monkeypatch):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(broken, name, fail)
  fails(line, code, message, files, place, capfd)


def test_diverging_chain_is_one_line(files, place, capfd, monkeypatch):
  nowhere = np.full((1, 1, 16, 16, 3), np.nan, np.float32)
  monkeypatch.setattr(bench.batch, "sample_batch", lambda *_, **__: (nowhere, {}))
  message = "dps: expected finite pictures, got NaN or infinity in 1 of 1 chains; its steps are too large, lower them"
  fails(f"{SR} {GOOD}", FAILURE, message, files, place, capfd)


@pytest.mark.parametrize("call", ["mkdir", "replace"])
def test_read_only_disk_is_one_line(call, files, place, capfd, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system", str(place / "out"))

  monkeypatch.setattr(os, call, fail)
  line = f"{SAMPLE} --output={{out}}"
  fails(line, FAILURE, "Read-only file system: .*out; choose a place that you may use", files, place, capfd)


def test_interrupted_exchange_keeps_both_folders(files, place, monkeypatch):
  """Between moving the old folder aside and the new one in."""
  rename, calls = os.rename, []

  def fail(source, target):
    calls.append(target)
    if len(calls) == 2:
      raise KeyboardInterrupt
    rename(source, target)

  before, line = snapshot(place / "ours"), [*SAMPLE.split(), f"--output={place / 'ours'}", "--overwrite"]
  with monkeypatch.context() as patch:
    patch.setattr(os, "rename", fail)
    assert main.execute(line) == INTERRUPTED
  assert len(calls) == 3 and snapshot(place / "ours") == before
  assert (place / "ours.running" / "0.png").is_file()
  assert main.execute(line) == 0
  assert not (place / "ours.running").exists() and not (place / "ours" / "photo.png").exists()


def test_fault_of_the_program_keeps_its_traceback(files, place, monkeypatch):
  def fail(*args, **kwargs):
    raise TypeError("a bug")

  monkeypatch.setattr(bench, "restore", fail)
  line = f"{SR} {GOOD}".format(**{"in": files, "out": place / "out"})
  with pytest.raises(TypeError, match="a bug"):
    main.execute(line.split())
  assert not (place / "out").exists()


def test_traceback_is_shown_when_asked(monkeypatch):
  monkeypatch.setenv(main.TRACEBACK, "1")
  with pytest.raises(Exception, match="`output` is missing"):
    main.execute(["sample"])


def test_flags_do_not_carry_over_from_a_failed_command(files, place, capfd):
  """In one process, a command line that failed leaves no value behind for the next one."""
  fails(f"{SR} {GOOD} --set=scale=big --noise=poisson --rate=3", USAGE, "scale", files, place, capfd)
  fails(f"{SR} {GOOD} --steps=0", USAGE, "steps: expected at least 1", files, place, capfd)


def test_bad_prior_of_a_fixed_size_names_it(files, place, capfd, monkeypatch):
  """A prior of one size takes no other; the natural prior takes any."""
  prior = checkpoint.load_prior("natural")
  assert prior.image_shape == (None, None, 3)
  fixed = dataclasses.replace(prior, image_shape=(64, 64, 3))
  monkeypatch.setattr(identity, "load_prior", lambda name, **options: fixed)
  fails(f"{SR} {GOOD}", FAILURE, "good.png: expected 64x64 pixels, got 16x16; pass --fit", files, place, capfd)
  fails(f"{SR} {GOOD} --size=16", USAGE, "size: expected 64x64 pixels, got 16x16", files, place, capfd)
  message = "fits.npy: expected a measurement of 16x16 pixels for this prior and super_resolution, got 8x8; crop or pad"
  fails(f"{SR} --measurement={{in}}/fits.npy", FAILURE, message, files, place, capfd)
  fails(f"{SAMPLE} --output={{out}}", USAGE, "size: expected 64x64 pixels, got 16x16", files, place, capfd)


def test_results_of_strange_names_are_written(place):
  """A name that is no UTF-8, and numbers that JSON does not have."""
  from diffinv import files

  files.write_json(place / "a.json", {"name": "a\udcff", "psnr": float("inf")})
  assert json.loads((place / "a.json").read_text(encoding="utf-8")) == {
    "name": "a\N{REPLACEMENT CHARACTER}",
    "psnr": None,
  }
