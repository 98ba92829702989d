"""JPEG: what a file holds against Pillow, the operator and its rounding against files, and restorations of files."""

import configparser
import io
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import jpeglib
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from scipy.fft import idctn
from test_profiles import ADOBE

import diffinv
from diffinv import noise, operators, priors, problems, sampler
from diffinv.apps import main
from diffinv.data import bundled, images, jpeg
from diffinv.methods import METHODS, proximal
from diffinv.operators.jpeg import rounding_of, tables
from diffinv.problems import Problem
from diffinv.studies import compressed

SAMPLINGS = {0: (1, 1), 1: (1, 2), 2: (2, 2)}  # by Pillow's number
NATURAL = priors.natural()
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


def pixels(height=45, width=77):
  """Return a part of the bundled portrait that is no whole number of blocks, uint8."""
  return np.asarray(Image.open(bundled.ASTRONAUT).convert("RGB"))[100 : 100 + height, 150 : 150 + width]


def saved(path, array, **options):
  Image.fromarray(array).save(path, "JPEG", **options)
  return path


def decoded(plane, window):
  """Return the bytes that a plane's coefficients are, [h, w]."""
  blocks = idctn(plane.numbers * plane.steps.astype(float), axes=(2, 3), norm="ortho") + 128.0
  rows, columns = blocks.shape[:2]
  top, left, height, width = window
  return blocks.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns)[top : top + height, left : left + width]


def luma_of(path):
  """Return the luma that Pillow decodes, without a way over RGB, which clips; upright."""
  with Image.open(path) as image:
    image.draft("L", image.size)
    return np.asarray(ImageOps.exif_transpose(image).convert("L"), float)


# The numbers of a file


@every_sampling
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
def test_the_numbers_of_a_file_are_the_picture_that_pillow_decodes(tmp_path, sampling, options):
  path = saved(tmp_path / "a.jpg", pixels(), quality=60, subsampling=sampling, **options)
  found = jpeg.read(path)
  assert found.sampling == SAMPLINGS[sampling] and found.shape == (45, 77, 3)
  got = np.clip(decoded(found.planes[0], found.window), 0.0, 255.0)
  assert np.abs(got - luma_of(path)).max() <= 1.0, "both round"


def test_a_progressive_file_holds_the_same_numbers_as_a_sequential_one(tmp_path):
  one, other = (
    jpeg.read(saved(tmp_path / f"{progressive}.jpg", pixels(), quality=90, progressive=progressive))
    for progressive in (False, True)
  )
  for a, b in zip(one.planes, other.planes, strict=True):
    np.testing.assert_array_equal(a.numbers[a.kept], b.numbers[b.kept])
    assert np.sum(a.numbers != 0) > 50


def test_steps_are_those_of_libjpeg(tmp_path):
  for quality in (1, 10, 49, 50, 75, 95, 100):
    path = saved(tmp_path / "a.jpg", pixels(8, 8), quality=quality)
    luma, chroma = tables(quality)
    with Image.open(path) as image:
      assert [image.quantization[i] for i in (0, 1)] == [luma.ravel().tolist(), chroma.ravel().tolist()]
    for plane, steps in zip(jpeg.read(path).planes, (luma, chroma, chroma), strict=True):
      np.testing.assert_array_equal(plane.steps, steps)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_is_read_upright(tmp_path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = saved(tmp_path / "a.jpg", pixels(), quality=80, subsampling=1, exif=exif)
  found, want = jpeg.read(path), luma_of(path)
  assert found.shape[:2] == want.shape and found.sampling == ((1, 2) if orientation < 5 else (2, 1))
  assert np.abs(np.clip(decoded(found.planes[0], found.window), 0.0, 255.0) - want).max() <= 1.0


def test_gray_files_become_color_ones_without_chroma(tmp_path):
  found = jpeg.read(saved(tmp_path / "a.jpg", pixels()[..., 0], quality=50))
  assert len(found.planes) == 1 and len(found.colored().planes) == 3
  assert not np.any(found.colored().planes[1].numbers) and found.colored().colored() is not found
  assert len(found.colored().gray().planes) == 1


def as_png(array):
  data = io.BytesIO()
  Image.fromarray(array).save(data, "PNG")
  return data.getvalue()


def compressed_bytes(array=None, mode="RGB", **options):
  data = io.BytesIO()
  Image.fromarray(pixels() if array is None else array).convert(mode).save(data, "JPEG", **options)
  return data.getvalue()


def patched(data, place, value):
  """Return a file with a byte of its frame changed."""
  at = data.index(b"\xff\xc0") + place
  return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize(
  "data, said",
  [
    (lambda: as_png(pixels()), "expected a JPEG file, got PNG; give the file as it was compressed"),
    (lambda: b"no picture at all", "expected an image, got a file that is none"),
    (lambda: compressed_bytes(mode="CMYK"), "expected a JPEG file, gray or of YCbCr, got CMYK"),
    (lambda: compressed_bytes()[:1200], "got a truncated or damaged file"),
    (lambda: compressed_bytes(progressive=True)[:900], "got a truncated or damaged file"),
    (lambda: patched(compressed_bytes(), 14, 0x12), "got a truncated or damaged one .Corrupt JPEG data"),
    (lambda: patched(compressed_bytes(), 1, 0xC9), "of 8 bits and Huffman codes, got another .*arithmetic"),
    (lambda: compressed_bytes(keep_rgb=True), "got one of RGB"),
    (lambda: with_segments(compressed_bytes(), 0xEE, b"Adobe\0\x64\0\0\0\0\0", jfif=False), "got one of RGB"),
    (
      lambda: sampled(((1, 1), (2, 2), (2, 2))),
      "luma as the finest plane and chroma alike, got planes of 1x1, 2x2, 2x2",
    ),
    (
      lambda: sampled(((2, 2), (2, 1), (1, 1))),
      "luma as the finest plane and chroma alike, got planes of 2x2, 1x2, 1x1",
    ),
  ],
  ids=lambda value: value if isinstance(value, str) else "a file",
)
def test_a_file_that_cannot_be_used_is_refused_on_one_line(tmp_path, data, said, capfd):
  (tmp_path / "a.jpg").write_bytes(data())
  with pytest.raises(ValueError, match=said) as error:
    jpeg.read(tmp_path / "a.jpg")
  assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path / "a.jpg"))
  assert capfd.readouterr() == ("", ""), "libjpeg prints by itself"


def with_segments(data, marker, contents, *, count=1, jfif=True):
  """Return a file with segments at its beginning, and without that of JFIF where that is asked."""
  segment = bytes([0xFF, marker]) + (len(contents) + 2).to_bytes(2, "big") + contents
  return data[:2] + count * segment + (data[2:] if jfif else data[20:])


def sampled(factors):
  """Return a file whose planes have so many blocks, down and across, in each of its units."""
  picture = jpeglib.from_spatial(pixels())
  picture.samp_factor = factors
  with tempfile.TemporaryDirectory() as folder:
    picture.write_spatial(pathlib.Path(folder) / "a.jpg")
    return (pathlib.Path(folder) / "a.jpg").read_bytes()


def test_what_programs_write_beside_a_picture_does_not_matter(tmp_path):
  plain, full = tmp_path / "a.jpg", tmp_path / "b.jpg"
  plain.write_bytes(compressed_bytes())
  full.write_bytes(with_segments(compressed_bytes(), 0xE7, 1000 * b"a", count=100) + b"and more behind it")
  assert jpeg.read(full).tobytes() == jpeg.read(plain).tobytes()


def test_a_missing_reader_is_called_so(tmp_path, monkeypatch):
  monkeypatch.setattr(jpeg.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"a.jpg: a JPEG file needs jpeglib, .* pip install 'diffinv\[jpeg\]'"):
    jpeg.read(saved(tmp_path / "a.jpg", pixels()))
  monkeypatch.undo()
  config = configparser.ConfigParser()
  config.read(pathlib.Path(__file__).resolve().parent.parent / "setup.cfg", encoding="utf-8")
  assert "jpeglib" in config["options.extras_require"]["jpeg"]


# The operator and its rounding


@every_sampling
@pytest.mark.parametrize("quality, equal, most", [(10, 0.998, 1), (50, 0.99, 1), (90, 0.95, 1)])
def test_rounded_coefficients_are_those_of_the_file_that_pillow_writes(tmp_path, sampling, quality, equal, most):
  """But for the whole numbers that libjpeg computes with."""
  found = jpeg.read(saved(tmp_path / "a.jpg", pixels(), quality=quality, subsampling=sampling))
  measured_by, model = compressed.operator(found, NATURAL), compressed.noise(found)
  want = np.round((compressed.values(found, measured_by) - model.origin) / model.step)
  operator = operators.jpeg((45, 77, 3), sampling=SAMPLINGS[sampling])
  y = rounding_of(quality, 3, sampling=SAMPLINGS[sampling]).sample(jax.random.key(0), operator(truth()))
  off = np.abs(np.round((y - model.origin) / model.step) - want)[np.asarray(operator.observed(y)) > 0]
  assert np.mean(off == 0) > equal and off.max() <= most
  np.testing.assert_array_equal(operator.kept, measured_by.kept)


def truth(height=45, width=77):
  return jnp.asarray(images.from_uint8(pixels(height, width)))


@every_sampling
def test_the_picture_of_a_file_is_near_the_one_that_pillow_decodes(tmp_path, sampling):
  path = saved(tmp_path / "a.jpg", pixels(), quality=75, subsampling=sampling)
  found = jpeg.read(path)
  operator = compressed.operator(found, NATURAL)
  got = operator.picture(jnp.asarray(compressed.values(found, operator)))
  assert got.shape == (45, 77, 3)
  assert np.mean(np.abs(got - images.read(path))) < 0.015, "Pillow stretches chroma smoothly"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_truth_lies_within_the_steps(channels):
  x = truth()[..., :channels]
  problem = problems.simulate(jax.random.key(0), operators.jpeg(x.shape), rounding_of(20, channels), x)
  clean = problem.operator(x)
  np.testing.assert_allclose(problem.noise.nearest(problem.y, clean), clean, atol=1e-6)
  off = np.abs(np.asarray(problem.y - clean) / np.asarray(problem.noise.step))
  assert off.max() <= 0.5 + 1e-5 and problem.y.shape[2:] == ((6, 8, 8) if channels == 3 else (1, 8, 8))


def test_rounding_is_as_large_as_uniform_noise_of_its_step():
  model = noise.Rounding(jnp.array([[0.1, 0.4]]), jnp.array([[0.0, 0.05]]))
  clean = jax.random.normal(jax.random.key(0), (20_000, 2))
  y = model.sample(jax.random.key(1), clean)
  np.testing.assert_allclose(np.std(y - clean, axis=0), model.std(y)[0], rtol=0.02)
  np.testing.assert_allclose(y, model.sample(jax.random.key(2), y), atol=1e-5)
  gradient = jax.grad(lambda clean: jnp.sum(model.log_prob(y, clean)))(clean)
  np.testing.assert_allclose(gradient, (y - clean) / model.variance(y, clean), rtol=1e-3, atol=1e-3)
  mean = jnp.mean(model.variance(y, clean))
  slope = jax.grad(lambda clean: jnp.sum(model.misfit(y, clean, mean)))(clean)
  np.testing.assert_allclose(slope, -2.0 * mean * gradient, rtol=1e-3, atol=1e-4)


@every_sampling
def test_a_picture_is_moved_into_the_steps_once_and_stays(sampling):
  x, factors = truth(48, 64), SAMPLINGS[sampling]
  operator, model = operators.jpeg(x.shape, sampling=factors), rounding_of(40, 3, sampling=factors)
  problem = problems.simulate(jax.random.key(0), operator, model, x)
  far = x + 0.2 * jax.random.normal(jax.random.key(1), x.shape)
  once = proximal.allowed(problem, far, 60)
  assert cells_off(problem, far) > 1.0 and cells_off(problem, once) < 1e-3
  np.testing.assert_allclose(proximal.allowed(problem, once, 60), once, atol=1e-4)
  np.testing.assert_allclose(proximal.allowed(problem, x, 60), x, atol=1e-4)  # one that is allowed stays
  assert jnp.linalg.norm(once - x) < jnp.linalg.norm(far - x), "the truth is allowed, and no nearer to what was far"
  plain = Problem(operator, noise.Gaussian(0.1), problem.y)
  assert proximal.allowed(plain, far, 60) is far


def cells_off(problem, x):
  """Return how far the coefficients of a picture are outside what rounds to y, at most, in steps."""
  clean = problem.operator(x)
  return float(jnp.max(jnp.abs(problem.noise.nearest(problem.y, clean) - clean) / problem.noise.step))


# Restorations


def smooth(height, width):
  """Return a picture such as the prior of the spectrum of photographs expects, without edges."""
  rows, columns, colors = np.mgrid[:height, :width, :3]
  return jnp.asarray(0.6 * np.sin(0.09 * rows + 0.05 * columns + colors), jnp.float32)


def test_dpir_restores_more_than_decoding_and_stays_within_the_steps():
  x = smooth(48, 64)
  problem = problems.simulate(jax.random.key(0), operators.jpeg(x.shape), rounding_of(20, 3), x)
  method = METHODS["dpir"](weight=0.1, noise=0.6)
  got, _ = sampler.sample(jax.random.key(1), method, NATURAL, problem, NATURAL.schedule.grid("4"))
  error = lambda found: float(jnp.mean((jnp.clip(found, -1.0, 1.0) - x) ** 2))
  assert error(got) < 0.9 * error(problem.operator.picture(problem.y))
  assert cells_off(problem, got) < 0.01


FLAGS = ("--prior=natural", "--compilation_cache=", "--task=jpeg")


def run(output, *flags):
  return main.execute(["reconstruct", *FLAGS, *map(str, flags), f"--output={output}"])


def test_files_of_any_kind_are_restored_at_once(tmp_path, capsys):
  exif = Image.Exif()
  exif[0x0112] = 6
  one = saved(tmp_path / "a.jpg", pixels(), quality=30)
  two = saved(tmp_path / "b.jpg", pixels(), quality=50, subsampling=0, progressive=True, exif=exif)
  gray = saved(tmp_path / "c.jpg", pixels()[..., 1], quality=50)
  flags = [f"--measurement={path}" for path in (one, two, gray)]
  assert run(tmp_path / "out", *flags, "--method=dpir", "--steps=2") == 0
  sizes = {name: Image.open(tmp_path / "out" / f"{name}.png").size for name in "abc"}
  assert sizes == {"a": (77, 45), "b": (45, 77), "c": (77, 45)}
  shown = np.asarray(Image.open(tmp_path / "out" / "b-measurement.png"), float)
  assert np.mean(np.abs(shown - np.asarray(ImageOps.exif_transpose(Image.open(two)), float))) < 2.0
  colors = np.asarray(Image.open(tmp_path / "out" / "c.png"), int)
  assert np.max(np.ptp(colors, axis=-1)) <= 2, "a gray file stays gray"
  results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
  assert results["noise"]["kind"] == "rounding" and results["noise"]["step"] == "auto"
  assert not (tmp_path / "out" / "a-measurement.npy").exists()


def test_colors_of_a_profile_are_converted_once_they_are_restored(tmp_path, capsys):
  green = np.full((16, 16, 3), (110, 170, 80), np.uint8)
  path = saved(tmp_path / "a.jpg", green, quality=95, icc_profile=ADOBE)
  restored = diffinv.restore(path, task="jpeg", prior="natural", method="dpir", steps=1)
  with Image.open(path) as image:
    want = np.asarray(ImageCms.profileToProfile(image, io.BytesIO(ADOBE), ImageCms.createProfile("sRGB")), float)
    assert np.mean(np.abs(np.asarray(image, float) - want)) > 8.0
  assert np.mean(np.abs(127.5 * (restored.picture + 1.0) - want)) < 4.0
  assert "are converted to sRGB once they are restored" in capsys.readouterr().err


@pytest.mark.parametrize(
  "flag, said",
  [
    ("--sigma=0.1", "--sigma: what JPEG rounds off is its noise, got --sigma=0.1; leave it out"),
    ("--sigma=auto", "--sigma: what JPEG rounds off is its noise"),
    ("--noise=none", "--noise: what JPEG rounds off is its noise"),
    ("--blur=gaussian:2", "--kernel is for deblurring, got --task=jpeg"),
    ("--mask=a.png", "--mask is for inpainting and MRI, got --task=jpeg"),
    ("--measurement_range=0,255", "--measurement_range is of numbers"),
    ("--method=ddrm", "ddrm: expected a linear operator whose SVD has a closed form"),
    ("--method=mmse", "mmse: expected the picture itself with noise"),
  ],
)
def test_options_that_do_not_fit_are_refused_on_one_line(tmp_path, capsys, flag, said):
  path = saved(tmp_path / "a.jpg", pixels(16, 16))
  assert run(tmp_path / "out", f"--measurement={path}", flag) == 2
  error = capsys.readouterr().err
  assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_picture_of_another_format_is_refused(tmp_path, capsys):
  Image.fromarray(pixels(16, 16)).save(tmp_path / "a.png")
  assert run(tmp_path / "out", f"--measurement={tmp_path / 'a.png'}") == 1
  assert "a.png: expected a JPEG file, got PNG; give the file as it was compressed" in capsys.readouterr().err
  with pytest.raises(ValueError, match="expected a JPEG file for `task=jpeg`, got an array; name the file"):
    diffinv.restore(np.zeros((16, 16, 3)), task="jpeg", prior="natural")


def test_qualities_are_compared_on_measurements_of_photographs():
  study = diffinv.Study(
    prior="natural",
    data=[np.asarray(smooth(32, 40))],
    tasks=["jpeg_10", "jpeg_40"],
    methods=["pseudo_inverse", "dpir"],
    steps=2,
  )
  results = diffinv.compare(study)
  found = {(row["task"], row["method"]): row["psnr"] for row in results.rows}
  assert found["jpeg_10", "pseudo_inverse"] < found["jpeg_40", "pseudo_inverse"] - 3.0
  assert found["jpeg_10", "dpir"] < found["jpeg_40", "dpir"] - 3.0
