import errno
import hashlib
import json
import os
import pickle
import re
import struct
import sys
import zipfile

import jax
import numpy as np
import odd_files
import pytest
import reference_networks

from diffinv import errors
from diffinv.apps import main
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import classes, state_dicts, tensor_files
from diffinv.priors import folder as checkpoint
from diffinv.priors.state_dicts import ConvertConfig

NAME = "unet_tiny64_class_cond_new_attention"
FLAGS = ("--num_head_channels=32", "--attention_order=new", "--image_size=64", "--nocheck")


@pytest.fixture(scope="module")
def state_dict():
  return reference_networks.state_dict(reference_networks.shapes(NAME))


@pytest.fixture(scope="module")
def safetensors_file(state_dict, tmp_path_factory):
  from safetensors.numpy import save_file

  path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
  save_file(state_dict, path)
  return path


def run(capsys, *args):
  code = main.execute(["convert", *map(str, args)])
  said = capsys.readouterr()
  return code, said.out, said.err


def fails(capsys, *args, code=1):
  got, _, error = run(capsys, *args)
  assert got == code, error
  assert error.startswith("diffinv: error: ") and error.count("\n") == 1
  return error


def check_prior(folder, state_dict):
  prior = checkpoint.load_prior(folder, label=reference_networks.LABEL)
  config = guided_diffusion.identify(reference_networks.shapes(NAME), **reference_networks.choices(NAME))
  expected = guided_diffusion.params_from_state_dict(state_dict, config)
  for a, b in zip(jax.tree.leaves(prior.params["network"]), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(a, b)
  assert prior.image_shape == (64, 64, 3) and prior.size_multiple == 4
  assert (prior.prediction, prior.variance, prior.clip) == ("eps", "learned_range", True)
  # The function of the network itself, with its parameters and the class: nothing is left that could differ.
  assert prior.apply is classes.conditional_apply(unet.apply_function(config))
  assert prior.params["label"] == reference_networks.LABEL


@pytest.mark.slow
def test_safetensors_file_becomes_a_prior_without_torch(capsys, safetensors_file, state_dict, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
  schedule = ("--schedule=cosine", "--num_steps=400")
  args = (f"--input={safetensors_file}", f"--output={tmp_path / 'tiny'}", *FLAGS, *schedule)
  code, said, error = run(capsys, *args)
  assert code == 0, error
  assert "199 tensors, 1,499,974 parameters" in said
  check_prior(tmp_path / "tiny", state_dict)
  description = json.loads((tmp_path / "tiny" / "prior.json").read_text())
  assert description["schedule"] == {"name": "cosine", "num_steps": 400}
  assert description["provenance"]["source"] == "tiny.safetensors"
  assert description["provenance"]["sha256"] == hashlib.sha256(safetensors_file.read_bytes()).hexdigest()
  code, _, said = run(capsys, *args)
  assert code == 0 and "holds this prior already; it is not written again" in said
  assert "exists; choose another --output" in fails(capsys, *args[:-1], "--num_steps=500")
  assert run(capsys, *args, "--overwrite")[0] == 0
  assert os.listdir(tmp_path) == ["tiny"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.slow
def test_torch_file_becomes_a_prior(capsys, state_dict, tmp_path, zipped):
  torch = pytest.importorskip("torch")
  tensors = {k: torch.from_numpy(v) for k, v in state_dict.items()}
  torch.save(tensors, tmp_path / "tiny.pt", _use_new_zipfile_serialization=zipped)
  code, _, error = run(capsys, f"--input={tmp_path / 'tiny.pt'}", f"--output={tmp_path / 'tiny'}", *FLAGS)
  assert code == 0, error
  check_prior(tmp_path / "tiny", state_dict)


def test_bfloat16_torch_file_is_read(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "a.pt")
  value = np.asarray(tensor_files.read_state_dict(tmp_path / "a.pt")["a"])
  assert value.dtype == np.float32 and value.tolist() == [1.5, -2.0]


class Malicious:
  def __reduce__(self):
    return (os.mkdir, (os.environ["DIFFINV_TEST_PROOF"],))


def test_pickle_that_runs_code_is_refused(capsys, tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  monkeypatch.setenv("DIFFINV_TEST_PROOF", str(tmp_path / "it-ran"))
  torch.save({"a": Malicious()}, tmp_path / "zip.pt")
  (tmp_path / "stock.pt").write_bytes(pickle.dumps({"a": Malicious()}))
  for name in ("zip.pt", "stock.pt"):
    error = fails(capsys, f"--input={tmp_path / name}", f"--output={tmp_path / 'out'}", *FLAGS)
    assert "refused: it holds Python objects besides tensors" in error
  assert sorted(os.listdir(tmp_path)) == ["stock.pt", "zip.pt"]


@pytest.mark.parametrize(
  "content, got",
  [
    (b"", "an empty file; download"),
    (b"\0" * 9, "a file that begins with zeros; download"),
    (b"hello", "text, 'hello'; download"),
    (b"\x01\x02", "a file of another kind; check"),
    (b"PK\x03\x04 cut", "a damaged file"),
    (b"\x80\x02", "a damaged file"),
    (b"\x89PNG\r\n\x1a\n and more", "a picture; give"),
    (b"\x1f\x8b\x08", "a file compressed by gzip; unpack"),
    (b"x" * 257 + b"ustar", "a tar archive; unpack"),
    (
      b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus\n scan</title></head></html>",
      "a web page, 'Google Drive - Virus scan', saved in the place of the file; open its link in a browser",
    ),
    (
      b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 374000000\n",
      "a Git LFS pointer to a file of 374,000,000 bytes; fetch that file with `git lfs pull`",
    ),
  ],
)
def test_what_is_no_whole_torch_file_is_one_line(capsys, tmp_path, content, got):
  pytest.importorskip("torch")
  (tmp_path / "a.pt").write_bytes(content)
  error = fails(capsys, f"--input={tmp_path / 'a.pt'}", f"--output={tmp_path / 'o'}", *FLAGS)
  assert f"{tmp_path / 'a.pt'}: expected a PyTorch checkpoint" in error and f", got {got}" in error


@pytest.mark.parametrize(
  "names, got",
  [
    (["a.npy", "b.npy"], "a NumPy archive"),
    (["net.pt", "x/", "a.txt", "b", "c"], "a zip archive of 'net.pt', 'a.txt', 'b', ...; unpack it"),
  ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_other_files_says_what_it_holds(tmp_path, names, got, compression):
  pytest.importorskip("torch")
  with zipfile.ZipFile(tmp_path / "a.pt", "w", compression) as archive:
    for name in names:
      archive.writestr(name, b"0" * 100)
  with pytest.raises(ValueError, match=f"a.pt: expected a PyTorch checkpoint.*, got {re.escape(got)}"):
    tensor_files.read_state_dict(tmp_path / "a.pt")


def test_an_archive_is_read_once_unpacked_as_the_message_says(tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"a": torch.ones(3)}, tmp_path / "net.pt")
  with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
    archive.write(tmp_path / "net.pt", "net.pt")
  with pytest.raises(ValueError, match="unpack it, and give the checkpoint in it"):
    tensor_files.read_state_dict(tmp_path / "a.zip")
  with zipfile.ZipFile(tmp_path / "a.zip") as archive:
    archive.extract("net.pt", tmp_path / "unpacked")
  assert list(tensor_files.read_state_dict(tmp_path / "unpacked" / "net.pt")) == ["a"]


def test_a_file_is_read_as_what_it_is_whatever_its_name(tmp_path, capsys):
  torch = pytest.importorskip("torch")
  from safetensors.numpy import save_file

  save_file({"a": np.ones(3, np.float32)}, tmp_path / "a.pt")
  torch.save({"a": torch.ones(3)}, tmp_path / "a.safetensors")
  for name, kind in (("a.pt", "safetensors"), ("a.safetensors", "torch")):
    np.testing.assert_array_equal(tensor_files.read_state_dict(tmp_path / name)["a"], np.ones(3, np.float32))
    assert f"{tmp_path / name} is a file of {kind}, whatever its name" in capsys.readouterr().err


def rezipped(path, change):
  """Write an archive of PyTorch anew, with parts added or compressed."""
  with zipfile.ZipFile(path) as archive:
    parts = {part.filename: archive.read(part) for part in archive.infolist()}
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in parts.items():
      archive.writestr(name, data)
    change(archive)


def overlapping(path):
  """Let the list of an archive promise more than there is, as overlapping parts do."""
  data = bytearray(path.read_bytes())
  at = data.rindex(b"PK\x01\x02")
  data[at + 20 : at + 28] = struct.pack("<II", 10**9, 10**9)
  path.write_bytes(data)


HOSTILE = {
  "compressed": (
    lambda path: rezipped(path, lambda archive: archive.writestr("z/bomb", bytes(10**6), zipfile.ZIP_DEFLATED)),
    "expected a PyTorch checkpoint, got one with compressed parts; save it again with torch.save",
  ),
  "overlapping": (overlapping, "expected a PyTorch checkpoint, got one whose parts promise 1,000,000,"),
  "huge": (
    lambda path: os.truncate(path, 10**12),
    "expected at most 40,000,000,000 bytes, got 1,000,000,000,000; save",
  ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch, case):
  torch = pytest.importorskip("torch")
  change, message = HOSTILE[case]
  torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
  assert list(tensor_files.read_state_dict(tmp_path / "a.pt")) == ["a"]
  change(tmp_path / "a.pt")
  monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
  with pytest.raises(ValueError, match=f"a.pt: {message}"):
    tensor_files.read_state_dict(tmp_path / "a.pt")


def test_an_archive_of_too_many_parts_is_refused(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
  monkeypatch.setattr(tensor_files, "MAX_DIRECTORY", 100)
  with pytest.raises(ValueError, match="a.pt: expected a PyTorch checkpoint, got one of too many parts"):
    tensor_files.read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_of_one_number_repeated_is_refused(tmp_path, zipped):
  torch = pytest.importorskip("torch")
  table = {"a": torch.ones(1, dtype=torch.bfloat16).expand(10**6, 10**6)}
  torch.save(table, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
  with pytest.raises(
    ValueError, match="a.pt: tensor 'a': expected at most the .* bytes of the file, got 2,000,000,000,000"
  ):
    tensor_files.read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, ending):
  for name, path in odd_files.make(tmp_path, ending).items():
    with pytest.raises((ValueError, OSError)) as caught:
      tensor_files.read_state_dict(path)
    assert odd_files.WORDS[name] in str(caught.value) and str(path) in str(caught.value)


# What PyTorch may raise of a whole file, and what is said of it.
WHOLE = [
  (OSError(errno.EIO, os.strerror(errno.EIO)), OSError, os.strerror(errno.EIO)),
  (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), PermissionError, os.strerror(errno.EACCES)),
  (MemoryError(), MemoryError, "not enough memory"),
  (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError, "not enough memory"),
  (RuntimeError("version 11, but the maximum supported version for reading is 10."), ValueError, "of a newer version"),
  (RuntimeError("Cannot use `weights_only=True` with TorchScript archives"), ValueError, "got a TorchScript archive"),
]


@pytest.mark.parametrize("error, kind, message", WHOLE, ids=[str(error) for error, _, _ in WHOLE])
def test_a_whole_file_is_not_called_damaged(tmp_path, monkeypatch, error, kind, message):
  torch = pytest.importorskip("torch")

  def fail(*_, **__):
    raise error

  torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
  monkeypatch.setattr(torch, "load", fail)
  with pytest.raises(kind) as caught:
    tensor_files.read_state_dict(tmp_path / "a.pt")
  said = errors.one_line(caught.value)
  assert message in said and "damaged" not in said and (kind is MemoryError or str(tmp_path / "a.pt") in said)


@pytest.mark.parametrize(
  "header, message",
  [
    ({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}, "got a damaged one"),
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}, "got a damaged one"),
    ({"a": {"dtype": "F3", "shape": [4], "data_offsets": [0, 4]}}, "expected tensors of known types, got others"),
  ],
  ids=["more than there is", "another size", "unknown type"],
)
def test_what_a_safetensors_header_promises_is_checked(tmp_path, header, message):
  text = json.dumps(header).encode()
  (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
  with pytest.raises(ValueError, match=f"a.safetensors: .*{message}"):
    tensor_files.read_state_dict(tmp_path / "a.safetensors")


def test_tensors_of_nested_tables_are_read(tmp_path):
  torch = pytest.importorskip("torch")
  optimizer = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}
  torch.save({"step": 3, "model": {"a": torch.zeros(2)}, "optimizer": optimizer}, tmp_path / "a.pt")
  assert list(tensor_files.read_state_dict(tmp_path / "a.pt")) == ["model.a"]


@pytest.mark.parametrize("table, got", [({"step": 3}, "a table without one"), ([1, 2], "list")])
def test_a_file_without_tensors_is_named(tmp_path, table, got):
  torch = pytest.importorskip("torch")
  torch.save(table, tmp_path / "a.pt")
  with pytest.raises(ValueError, match=f"a.pt: expected a state_dict, a table of tensors, got {got}"):
    tensor_files.read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize(
  "content, got",
  [
    (b"", "expected a PyTorch checkpoint or a .safetensors file, got an empty file"),
    (b"hello, this is no such file", "a .safetensors file, got text, 'hello, this is no such file'"),
    (struct.pack("<Q", 1000) + b"{", "expected a .safetensors file, got a damaged one"),
  ],
)
def test_damaged_safetensors_file_is_one_line(capsys, tmp_path, content, got):
  (tmp_path / "a.safetensors").write_bytes(content)
  error = fails(capsys, f"--input={tmp_path / 'a.safetensors'}", f"--output={tmp_path / 'o'}", *FLAGS)
  assert got in error and "download the file itself, again" in error


def test_torch_that_is_not_installed_is_named(capsys, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "a.pt").write_bytes(b"\x80\x02")
  error = fails(capsys, f"--input={tmp_path / 'a.pt'}", f"--output={tmp_path / 'o'}", *FLAGS)
  assert 'pip install "diffinv[convert]"' in error


def test_the_file_that_is_read_is_not_replaced(capsys, tmp_path):
  (tmp_path / "prior.json").write_text("{}")
  (tmp_path / "w.pt").write_bytes(b"weights")
  line = ["convert", f"--input={tmp_path / 'w.pt'}", f"--output={tmp_path}", "--overwrite", "--image_size=32"]
  assert main.execute(line) == 2
  assert (
    f"expected a place apart from --input, {tmp_path} contains" in capsys.readouterr().err
    and (tmp_path / "w.pt").exists()
  )


@pytest.mark.parametrize(
  "name, shape, message",
  [
    ("output_blocks.999999999.0.x", (1, 1), "expected decoder blocks 0 to"),
    ("out.2.weight", (), "tensor 'out.2.weight': expected the weights of a layer, got the shape ()"),
    ("time_embed.0.weight", (4, 0), "tensor 'time_embed.0.weight': expected the weights of a layer"),
  ],
)
def test_names_and_shapes_of_nothing_are_errors(state_dict, name, shape, message):
  shapes = {key: value.shape for key, value in state_dict.items()} | {name: shape}
  with pytest.raises(ValueError, match=re.escape(message)):
    guided_diffusion.infer_config(shapes, num_heads=1)


def test_missing_file_is_named(capsys, tmp_path):
  error = fails(capsys, f"--input={tmp_path / 'none.pt'}", f"--output={tmp_path / 'o'}", *FLAGS)
  assert f"{tmp_path / 'none.pt'}: expected a file, found nothing there" in error


def test_missing_flags_are_usage_errors(capsys, safetensors_file, tmp_path):
  source, target = f"--input={safetensors_file}", f"--output={tmp_path / 'o'}"
  assert "--input is missing" in fails(capsys, target, code=2)
  assert "--output is missing" in fails(capsys, source, code=2)
  assert "--image_size is missing" in fails(capsys, source, target, code=2)
  assert "expected one of them, got both" in fails(capsys, source, target, *FLAGS, "--num_heads=2", code=2)
  assert "shapes cannot tell" in fails(capsys, source, target, "--image_size=64", "--nocheck")


@pytest.mark.slow
def test_a_file_is_converted_from_python_as_by_the_command(safetensors_file, state_dict, tmp_path):
  config = ConvertConfig(str(safetensors_file), num_head_channels=32, attention_order="new", image_size=64, check=False)
  folder, tensors, parameters, _ = state_dicts.convert(config, tmp_path / "tiny")
  assert (folder, tensors, parameters) == (tmp_path / "tiny", 199, 1_499_974)
  check_prior(folder, state_dict)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"preset": "celeba"}, "`preset`: expected one of ffhq256, imagenet256, got 'celeba'"),
    ({"image_size": 0}, "`image_size`: expected a number from 1 to 65,536, got 0"),
    ({"image_size": 64, "num_heads": 1, "num_head_channels": 32}, "`num_heads`, `num_head_channels`: expected one of"),
    ({"image_size": 64, "num_steps": 10**6}, "`num_steps`: expected a number from 1 to 100,000, got 1,000,000"),
  ],
)
def test_options_that_do_not_fit_are_errors_from_python(options, message):
  with pytest.raises(errors.UsageError, match=re.escape(message)):
    ConvertConfig("a.pt", **options)


def test_wrong_preset_writes_nothing(capsys, safetensors_file, tmp_path):
  error = fails(capsys, f"--input={safetensors_file}", f"--output={tmp_path / 'o'}", "--preset=ffhq256")
  assert "preset: 'ffhq256' is a network of 128 channels" in error
  assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_wrong_image_size_writes_nothing(capsys, safetensors_file, tmp_path):
  flags = ("--num_head_channels=32", "--image_size=63")
  error = fails(capsys, f"--input={safetensors_file}", f"--output={tmp_path / 'o'}", *flags)
  assert "image_shape: expected multiples of 4 pixels" in error
  assert not os.listdir(tmp_path)
