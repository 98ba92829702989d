"""What a file is that is no prior, and what would do: one line each."""

import numpy as np
import pytest
from denoising_network import convert

NETWORKS = {
  "first_stage_model.encoder.conv_in.weight": "a latent diffusion model",
  "down.lora_up.weight": "changes to another network (LoRA)",
  "control_model.zero_convs.0.0.weight": "a ControlNet",
  "transformer.resblocks.0.attn.c_qkv.weight": "a text-conditional network, as of GLIDE",
  "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": "a text-conditional network, as of Stable Diffusion",
  "encoder.down.0.block.0.conv1.weight": "an autoencoder",
  "x_embedder.proj.weight": "a transformer of latents, as of DiT",
  "discriminator.0.weight": "the discriminator of a GAN",
  "synthesis.b4.conv1.weight": "the generator of a GAN",
  "state.exp_avg.weight": "the state of an optimizer without its network",
  "layer1.0.bn1.weight": "a classifier",
  "down_blocks.0.resnets.0.conv1.weight": "a network of the diffusers library without its config.json",
}
FILES = {
  b"\x08\x07\x12\x07pytorch\x1a\x031.9": "an ONNX file",
  b"\x08\x08:\x9a\x02\n": "an ONNX file",
  b"\x81\xa6params\x83\xa1a": "a msgpack file, as of Flax",
  b"\x20\0\0\0TFL3": "a TensorFlow Lite file",
  b"GGUF\x03": "a GGUF file",
  b"\x89HDF\r\n\x1a\n": "an HDF5 file, of Keras or MATLAB",
  b"<!doctype html><title>Sign in</title>": "a web page, 'Sign in'",
  b"version https://git-lfs.github.com/spec/v1\nsize 5\n": "a Git LFS pointer",
}
FOLDERS = {
  "_METADATA": "a checkpoint of Orbax",
  "saved_model.pb": "a model of TensorFlow",
  "prior.json": "a prior of diffinv",
  "data.pkl": "a checkpoint of PyTorch that was unpacked",
}


@pytest.mark.parametrize("name, what", NETWORKS.items())
def test_another_network_is_called_by_its_name(capsys, tmp_path, name, what):
  from safetensors.numpy import save_file

  save_file({name: np.zeros((4, 4), np.float32)}, tmp_path / "a.safetensors")
  said = convert(capsys, tmp_path / "a.safetensors", tmp_path / "p", "--image_size=16", code=1)
  assert f"got {what}" in said and "; " in said and said.count("\n") == 1


@pytest.mark.parametrize("content, what", FILES.items(), ids=FILES.values())
def test_another_file_is_called_by_its_name(capsys, tmp_path, content, what):
  (tmp_path / "a.ckpt").write_bytes(content)
  said = convert(capsys, tmp_path / "a.ckpt", tmp_path / "p", "--image_size=16", code=1)
  assert f"got {what}" in said and "; " in said and said.count("\n") == 1


@pytest.mark.parametrize("name, what", FOLDERS.items())
def test_another_folder_is_called_by_its_name(capsys, tmp_path, name, what):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / name).write_text("")
  said = convert(capsys, tmp_path / "in", tmp_path / "p", code=1)
  assert f"got {what}" in said and "; " in said and said.count("\n") == 1


def test_the_state_of_an_optimizer_is_called_one(capsys, tmp_path):
  torch = pytest.importorskip("torch")
  torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}, tmp_path / "opt.pt")
  said = convert(capsys, tmp_path / "opt.pt", tmp_path / "p", "--image_size=16", code=1)
  assert "got the state of an optimizer without its network" in said and said.count("\n") == 1
