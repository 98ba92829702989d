"""State dicts of others: reading PyTorch and safetensors files, and making priors of them.

Files of the guided-diffusion UNet become priors; `diffinv.nets.guided_diffusion` knows their tensors. No code in a file
is run.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from typing import Any, NamedTuple

import numpy as np

from diffinv import errors, options, output, reading
from diffinv.nets import guided_diffusion, unet
from diffinv.options import option
from diffinv.priors import folder as priors
from diffinv.priors.base import Prior
from diffinv.priors.description import MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.schedules import BETAS, Schedule

SAFETENSORS = ".safetensors"
PRESET_SIZE = 256  # pixels; of every preset
MAX_BYTES = 40_000_000_000  # of a file
MAX_DIRECTORY = 64_000_000  # bytes of the list of parts of an archive; PyTorch writes about 100 a tensor
TAIL = 66_000  # bytes at the end of an archive in which its list is described
OUT_OF_MEMORY = re.compile(r"not enough memory|can't allocate|out of memory", re.IGNORECASE)
INSTALL = 'pip install "diffinv[convert]"'


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
  """What to convert, and what the file does not say of itself."""

  input: str | os.PathLike[str] = option(help="File to read, .pt or .safetensors; required.")
  preset: str | None = option(None, "Published network that the file must be.", choices=guided_diffusion.PRESETS)
  num_heads: int | None = option(None, "Heads of attention. Not set: the preset's.", low=1, high=MAX_NUMBER)
  num_head_channels: int | None = option(
    None, "Channels a head, instead of the number of heads.", low=1, high=MAX_NUMBER
  )
  attention_order: str | None = option(
    None,
    "Channels of q, k, v: head by head, or q of all heads, then k, then v. Not set: the preset's, or legacy.",
    choices=unet.ATTENTION_ORDERS,
  )
  image_size: int | None = option(
    None, "Pixels of the images that it is for. Not set: the preset's.", low=1, high=MAX_NUMBER
  )
  schedule: str = option("linear", "Noise schedule that it was trained with.", choices=BETAS)
  num_steps: int = option(1000, "Steps of that schedule.", low=1, high=MAX_SCHEDULE_STEPS)
  variance: str = option(
    "fixed_large",
    "Reverse variance, for networks that have not learned it.",
    choices=("fixed_small", "fixed_large"),
  )

  def __post_init__(self):
    options.check(self)
    if self.num_heads is not None and self.num_head_channels is not None:
      raise errors.UsageError("`num_heads`, `num_head_channels`: expected one of them, got both")
    if self.image_size is None and self.preset is None:
      raise errors.UsageError("`image_size` is missing: expected pixels, as shapes cannot tell; or give `preset`")


class Converted(NamedTuple):
  """A prior made from a file."""

  folder: pathlib.Path
  tensors: int  # in the file
  parameters: int  # numbers in them


def convert(config: ConvertConfig, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Converted:
  """Make a prior of a file and write it to a new folder, in full or not at all.

  Args:
    config: the file, and what it does not say of itself.
    folder: to be made.
    overwrite: replace a prior that is there.

  Raises:
    UsageError: the folder is not apart from the file, see `output.check_apart`.
    FileExistsError: the folder exists, see `folder.check_free`.
    ValueError: the file is damaged, or not the network that it should be; the message names the file.
    OSError: the file cannot be opened.
  """
  path = pathlib.Path(config.input)
  output.check_apart(folder, [("input", path)], suffix=priors.BUILDING)
  if overwrite or not priors.holds_prior(folder):  # which may be this one
    priors.check_free(folder, overwrite=overwrite)
  state_dict = read_state_dict(path)
  try:
    network, params = _identify(state_dict, config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  provenance = {"source": path.name, "sha256": sha256(path), "preset": config.preset}
  written = priors.save_prior(
    folder, _make_prior(params, network, config), network, provenance, overwrite=overwrite, command="convert"
  )
  return Converted(written, len(state_dict), sum(value.size for value in state_dict.values()))


def _identify(state_dict: dict[str, np.ndarray], config: ConvertConfig) -> tuple[unet.UNetConfig, dict]:
  """Return the architecture of a state dict and its parameters by our names."""
  network = guided_diffusion.identify(
    {name: value.shape for name, value in state_dict.items()},
    preset=config.preset,
    num_heads=config.num_heads,
    num_head_channels=config.num_head_channels,
    attention_order=config.attention_order,
  )
  return network, guided_diffusion.params_from_state_dict(state_dict, network)


def _make_prior(params: dict, network: unet.UNetConfig, config: ConvertConfig) -> Prior:
  """Return the network as a prior that predicts the noise; `config.variance` applies if it has not learned its own."""
  learned = network.out_channels == 2 * network.in_channels
  size = PRESET_SIZE if config.image_size is None else config.image_size
  return Prior(
    params=params,
    apply=unet.apply_function(network),
    schedule=Schedule(config.schedule, config.num_steps),
    prediction="eps",
    variance="learned_range" if learned else config.variance,
    image_shape=(size, size, network.in_channels),
    size_multiple=network.size_multiple,
  )


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Return the arrays of a file by name, as stored; bfloat16 in a .pt file becomes float32.

  Raises:
    ValueError: the file is damaged, holds something other than tensors, or the package that reads it is missing.
    OSError: it cannot be opened.
  """
  path = pathlib.Path(path)
  with reading.open_file(path, most=MAX_BYTES, advice="save the network's state_dict alone"):
    pass  # it is there and may be read: what goes wrong from here on is about its contents
  return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import safetensors
    from safetensors.numpy import load_file
  except ImportError:
    raise ValueError(f"{path}: reading .safetensors needs the package of that name; {INSTALL}") from None
  try:
    return load_file(path)
  except OSError as error:
    reading.raise_system_error(error, path)
    raise
  except safetensors.SafetensorError as error:
    if "unknown variant" in str(error):
      raise ValueError(f"{path}: expected tensors of known types, got others ({errors.brief(error)})") from None
    raise ValueError(f"{path}: expected a .safetensors file, got a damaged one ({errors.brief(error)})") from None
  except (AttributeError, TypeError) as error:  # a type that NumPy lacks
    raise ValueError(f"{path}: expected tensors of NumPy's types, got others ({errors.brief(error)})") from None


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch  # nothing else in the library needs it
  except ImportError:
    raise ValueError(f"{path}: reading it needs PyTorch; {INSTALL}, or give a .safetensors file") from None
  table = _load_torch(torch, path)
  if not isinstance(table, dict):
    raise ValueError(f"{path}: expected a state_dict, a table of tensors, got {type(table).__name__}")
  for name, value in table.items():
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
      raise ValueError(
        f"{path}: expected a bare state_dict, a table of tensors, got one with {name!r} of type "
        f"{type(value).__name__}; save the network's state_dict alone"
      )
    _check_held(name, value, path)
  try:
    return {name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for name, v in table.items()}
  except (TypeError, RuntimeError) as error:  # sparse, quantized, or of a type that NumPy lacks
    raise ValueError(f"{path}: expected dense tensors of NumPy's types, got others ({errors.brief(error)})") from None


def _check_held(name: str, tensor: Any, path: pathlib.Path) -> None:
  """Check that a tensor is no larger than its file: one of few numbers, repeated, would fill the memory when copied."""
  size, most = tensor.numel() * tensor.element_size(), os.path.getsize(path)
  if size > most:
    raise ValueError(
      f"{path}: tensor {reading.shown(name)}: expected at most the {most:,} bytes of the file, got {size:,}"
    )


def _load_torch(torch: Any, path: pathlib.Path) -> Any:
  """Return what a PyTorch file holds; code in it is not run."""
  zipped = zipfile.is_zipfile(path)
  try:
    if zipped:
      _check_archive(path)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Only the current format, a zip archive, can be mapped into memory instead of read.
      return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
  except MemoryError:
    raise
  except Exception as error:  # PyTorch may raise anything on a damaged file
    reading.raise_system_error(error, path)
    raise ValueError(f"{path}: {_refusal(error, zipped or _is_checkpoint(path))}") from None


class _Refused(ValueError):
  """An archive that PyTorch does not write."""


def _check_archive(path: pathlib.Path) -> None:
  """Check that the parts of an archive are what PyTorch writes: not compressed, so no larger than the file."""
  size = os.path.getsize(path)
  if _directory_size(path) > MAX_DIRECTORY:
    raise _Refused("one of too many parts")
  with zipfile.ZipFile(path) as archive:
    parts = archive.infolist()
  if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
    raise _Refused("one with compressed parts")
  promised = sum(part.file_size for part in parts)
  if promised > size:
    raise _Refused(f"one whose parts promise {promised:,} bytes, of which the file has {size:,}")


def _directory_size(path: pathlib.Path) -> int:
  """Return how many bytes the list of the parts of an archive has."""
  with open(path, "rb") as file:
    file.seek(max(0, os.path.getsize(path) - TAIL))
    tail = file.read()
  size = struct.unpack_from("<I", tail, tail.rindex(b"PK\x05\x06") + 12)[0]
  return size if size < 0xFFFFFFFF else struct.unpack_from("<Q", tail, tail.rindex(b"PK\x06\x06") + 40)[0]


def _refusal(error: Exception, is_checkpoint: bool) -> str:
  """Return why PyTorch did not read a file."""
  said = str(error)
  if isinstance(error, _Refused):
    return f"expected a PyTorch checkpoint, got {said}; save it again with torch.save"
  if not is_checkpoint:
    return "expected a PyTorch checkpoint, got a file of another kind"
  if "TorchScript" in said:
    return "expected a state_dict, got a TorchScript archive, which holds code; save the network's state_dict alone"
  if isinstance(error, pickle.UnpicklingError) and "weights_only" in said:
    return (
      "refused: it holds Python objects besides tensors, and loading them could run code; save its state_dict alone"
    )
  if "maximum supported version" in said:
    return f"expected a PyTorch checkpoint, got one of a newer version ({errors.brief(error)}); update PyTorch"
  if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(said):
    raise MemoryError from None
  return f"expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)})"


def _is_checkpoint(path: pathlib.Path) -> bool:
  """Tell whether a file begins as PyTorch's do: as an archive, or as a pickle of protocol 2 or later."""
  with open(path, "rb") as file:
    return file.read(4).startswith((b"PK\x03\x04", pickle.PROTO))


def sha256(path: str | os.PathLike[str]) -> str:
  """Return the SHA-256 of a file, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
