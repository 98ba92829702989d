"""State dicts of others: reading PyTorch and safetensors files, and making priors of them.

Files of the guided-diffusion UNet become priors; `diffinv.nets.guided_diffusion` knows their tensors. No code in a file
is run.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import warnings
import zipfile
from typing import Any, NamedTuple

import numpy as np

from diffinv import errors, options
from diffinv.nets import guided_diffusion, unet
from diffinv.options import option
from diffinv.priors import folder as priors
from diffinv.priors.base import Prior
from diffinv.priors.description import MAX_NUMBER, MAX_SCHEDULE_STEPS
from diffinv.schedules import BETAS, Schedule

SAFETENSORS = ".safetensors"
PRESET_SIZE = 256  # pixels; of every preset
INSTALL = 'pip install "diffinv[convert]"'


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
  """What to convert, and what the file does not say of itself."""

  input: str = option(help="File to read, .pt or .safetensors; required.")
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
    UsageError: the file lies in the folder that would be replaced.
    FileExistsError: the folder exists, see `folder.check_free`.
    ValueError: the file is damaged, or not the network that it should be; the message names the file.
    OSError: the file cannot be opened.
  """
  path = pathlib.Path(config.input)
  priors.check_free(folder, overwrite=overwrite)
  if pathlib.Path(folder).resolve() in path.resolve().parents:
    raise errors.UsageError(f"`output`: {path} lies in {folder}, which would be replaced; choose another")
  state_dict = read_state_dict(path)
  try:
    network, params = _identify(state_dict, config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  provenance = {"source": path.name, "sha256": sha256(path), "preset": config.preset}
  written = priors.save_prior(folder, _make_prior(params, network, config), network, provenance, overwrite=overwrite)
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
  with open(path, "rb"):  # so that a missing file is not reported as a damaged one
    pass
  return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import safetensors
    from safetensors.numpy import load_file
  except ImportError:
    raise ValueError(f"{path}: reading .safetensors needs the package of that name; {INSTALL}") from None
  try:
    return load_file(path)
  except safetensors.SafetensorError as error:
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
  try:
    return {name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for name, v in table.items()}
  except (TypeError, RuntimeError) as error:  # sparse, quantized, or of a type that NumPy lacks
    raise ValueError(f"{path}: expected dense tensors of NumPy's types, got others ({errors.brief(error)})") from None


def _load_torch(torch: Any, path: pathlib.Path) -> Any:
  """Return what a PyTorch file holds; code in it is not run."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Only the current format, a zip archive, can be mapped into memory instead of read.
      return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
  except pickle.UnpicklingError as error:
    # PyTorch mentions weights_only whatever the file is; it is the reason only if the file is a pickle.
    if "weights_only" in str(error) and _is_pickle(path):
      raise ValueError(
        f"{path}: refused: it holds Python objects besides tensors, and loading them could run code; save its "
        "state_dict alone"
      ) from None
    raise ValueError(f"{path}: expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)})") from None
  except Exception as error:  # PyTorch may raise anything on a damaged file
    raise ValueError(f"{path}: expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)})") from None


def _is_pickle(path: pathlib.Path) -> bool:
  """Tell whether a file may hold Python objects: a PyTorch archive, or a pickle of protocol 2 or later."""
  if zipfile.is_zipfile(path):
    return True
  with open(path, "rb") as file:
    return file.read(1) == pickle.PROTO


def sha256(path: str | os.PathLike[str]) -> str:
  """Return the SHA-256 of a file, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
