"""The proposal of a mask for scratches and dust: how much it finds, what it takes for them, and what becomes of it."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

import diffinv
from diffinv.apps import main
from diffinv.blind import scratches
from diffinv.data import held_out, images

SIZE, FINE = 96, 4  # pixels; of each, in which lines are drawn
LINES, SPECKS = 5, 12
COVERED, SEEN = 0.5, 0.3  # what counts as damage: half of a pixel, and a change of a range of 2 that one sees
FAR = np.ones((5, 5))  # beyond it from all damage, what is marked is marked in error


def damaged(x, seed):
  """Return a picture with curved scratches of 1 to 3 pixels and with dust, and what part of each pixel they cover."""
  random, y, covered = np.random.RandomState(seed), np.array(x, np.float64), np.zeros(x.shape[:2])
  for number in range(LINES + SPECKS):
    drawn = Image.new("L", (FINE * SIZE, FINE * SIZE))
    pen = ImageDraw.Draw(drawn)
    (line if number < LINES else speck)(pen, random)
    part = np.asarray(drawn.resize((SIZE, SIZE), Image.Resampling.BOX)) / 255.0
    value = (1 if number % 2 else -1) * random.uniform(0.85, 1.0)
    y += part[..., None] * (value - y)
    covered = np.maximum(covered, part)
  y = np.round(127.5 * (y + 1.0)) / 127.5 - 1.0
  return y.astype(np.float32), covered


def line(pen, random):
  x, y = random.randint(0, FINE * SIZE, 2)
  angle, length = random.uniform(0, np.pi), FINE * SIZE * random.uniform(0.3, 1.0)
  way = np.linspace(-0.5, 0.5, 20)
  across = x + length * way * np.cos(angle) + 3 * FINE * np.sin(6 * way)
  pen.line(list(zip(across, y + length * way * np.sin(angle))), fill=255, width=FINE * random.randint(1, 4))


def speck(pen, random):
  x, y, radius = *random.randint(0, FINE * SIZE, 2), FINE * random.uniform(0.8, 2.5)
  pen.ellipse([x - radius, y - 0.8 * radius, x + radius, y + 0.8 * radius], fill=255)


def photographs():
  return [np.asarray(x) for x in held_out.held_out("photos", "validation", 4, SIZE)[1]]


def found(y):
  return scratches.kept(y)[..., 0] == 0


@pytest.mark.parametrize("kind, mean, least", [("png", 0.85, 0.8), ("jpg", 0.7, 0.4)])
def test_most_of_the_scratches_and_the_dust_is_found_and_little_else(kind, mean, least, tmp_path):
  """Over photographs full of thin details; a JPEG, which blurs colors, hides some."""
  recall, wrong = [], []
  for seed, x in enumerate(photographs()):
    y, covered = damaged(x, seed)
    Image.fromarray(images.to_uint8(y)).save(tmp_path / f"y.{kind}", quality=88)
    y = images.read(tmp_path / f"y.{kind}")
    damage = (covered > COVERED) & (np.abs(y - x).max(axis=-1) > SEEN)
    recall.append(np.mean(found(y)[damage]))
    wrong.append(np.mean(found(y)[~ndimage.binary_dilation(covered > 0, FAR)]))
  assert np.mean(recall) > mean and min(recall) > least
  assert np.mean(wrong) < 0.04 and max(wrong) < 0.05


def test_on_a_plain_surface_all_of_it_is_found_and_nothing_else():
  x = np.broadcast_to(np.linspace(-0.3, 0.3, SIZE)[:, None, None], (SIZE, SIZE, 3))
  y, covered = damaged(x, 0)
  assert np.all(found(y)[covered > COVERED])
  assert not np.any(found(y)[~ndimage.binary_dilation(covered > 0, FAR)])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_picture_without_any_thin_detail_has_no_scratch(noise):
  row, column = np.mgrid[:SIZE, :SIZE] / SIZE
  x = np.stack([np.sin(4 * row + c) * np.cos(3 * column) for c in range(3)], axis=-1) * 0.9
  x[20:60, 30:70] = 1.0  # white, and wide
  x += noise * np.random.RandomState(0).standard_normal(x.shape)
  assert np.mean(found(x)) <= (0.0 if noise == 0 else 0.01)


# The command


def reconstruct(folder, *flags):
  quick = ("--prior=natural", "--method=dpir", "--steps=4", "--sigma=0.02", "--compilation_cache=")
  return main.execute(["reconstruct", "--task=inpaint", f"--output={folder / 'out'}", *quick, *flags])


@pytest.fixture
def scan(tmp_path):
  """A photograph and a scratched one, as files."""
  x = photographs()[1]
  y, _ = damaged(x, 1)
  images.write(tmp_path / "x.png", x)
  images.write(tmp_path / "y.png", y)
  return tmp_path


def test_the_mask_is_written_to_be_edited_and_given_again(scan, capsys):
  assert reconstruct(scan, f"--measurement={scan / 'y.png'}", "--mask=auto") == 0
  said, mask = capsys.readouterr(), scan / "out/y-mask.png"
  with Image.open(mask) as image:
    kept = np.asarray(image)
  np.testing.assert_array_equal(kept == 0, found(images.read(scan / "y.png")))
  share = f"{100 * np.mean(kept == 0):.1f} %"
  assert f"y: {share} of the pixels look like scratches or dust" in said.err
  assert f"--mask=auto marks {share} of the pixels as scratches and dust, black in {mask}" in said.out
  restored = images.read(scan / "out/y.png")
  truth = images.read(scan / "x.png")
  error = lambda a: np.mean((a - truth) ** 2)
  assert error(restored) < 0.6 * error(images.read(scan / "y.png"))
  (scan / "out").rename(scan / "first")
  assert reconstruct(scan, f"--measurement={scan / 'y.png'}", f"--mask={scan / 'first/y-mask.png'}") == 0
  assert (scan / "out/y.png").read_bytes() == (scan / "first/y.png").read_bytes()


def test_each_picture_has_a_mask_of_its_own(scan):
  images.write(scan / "z.png", damaged(photographs()[2], 5)[0])
  assert reconstruct(scan, f"--measurement={scan / 'y.png'},{scan / 'z.png'}", "--mask=auto") == 0
  masks = [(scan / f"out/{name}-mask.png").read_bytes() for name in "yz"]
  assert masks[0] != masks[1]


def test_from_python_the_mask_is_that_of_the_operator(scan):
  y = images.read(scan / "y.png")
  restored = diffinv.restore(y, task="inpaint", mask="auto", prior="natural", method="dpir", steps=2, sigma=0.02)
  np.testing.assert_array_equal(restored.problem.operator.mask, scratches.kept(y))


def test_where_nothing_is_found_a_mask_is_asked_for(scan, capsys):
  images.write(scan / "plain.png", np.zeros((24, 32, 3)))
  assert reconstruct(scan, f"--measurement={scan / 'plain.png'}", "--mask=auto") == 1
  said = capsys.readouterr().err.splitlines()[-1]
  assert "--mask=auto found no scratches and no dust; paint what to fill in black on a white picture of 32x24" in said
  assert not (scan / "out").exists()
  painted = Image.new("L", (32, 24), 255)
  ImageDraw.Draw(painted).line([(3, 3), (20, 20)], fill=0, width=2)
  painted.save(scan / "mask.png")
  assert reconstruct(scan, f"--measurement={scan / 'plain.png'}", f"--mask={scan / 'mask.png'}") == 0


@pytest.mark.parametrize(
  "flags, said",
  [
    (("--input={}/x.png", "--mask=auto"), "--mask=auto is for --measurement; with --input it is what is lost"),
    (("--measurement={}/y.png", "--mask=auto", "--task=inpaint_random"), "--mask=auto is of --task=inpaint"),
    (("--measurement={}/y.png", "--mask=auto", "--mask_threshold=9"), "--mask_threshold is of a mask, got --mask=auto"),
  ],
)
def test_a_mask_that_is_found_is_for_measurements_that_are_to_be_inpainted(flags, said, scan, capsys):
  assert reconstruct(scan, *(flag.format(scan) for flag in flags)) == 2
  assert said in capsys.readouterr().err and not (scan / "out").exists()


def test_a_file_called_auto_is_given_by_its_folder(scan, monkeypatch):
  monkeypatch.chdir(scan)
  Image.new("L", (SIZE, SIZE), 255).save("auto", format="PNG")
  with pytest.raises(ValueError, match="mask"):
    diffinv.restore(np.zeros((8, 8, 3), np.float32), task="inpaint", mask="./auto", prior="natural", sigma=0.1)
