"""Files of tensors that others wrote."""

import hashlib
import pathlib
import pickle
import warnings
import zipfile

import numpy as np

from diffinv import errors

SAFETENSORS = ".safetensors"
INSTALL = 'pip install "diffinv[convert]"'


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Return the arrays of a file by name, as they are stored; of a .pt file bfloat16 becomes float32.

  Raises:
    ValueError: the file is damaged, holds something other than tensors, or its reader is not installed.
    OSError: it cannot be read.
  """
  with open(path, "rb"):  # a missing file is told apart from a damaged one
    pass
  return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def _read_safetensors(path):
  try:
    import safetensors
    from safetensors.numpy import load_file
  except ImportError:
    raise ValueError(f"{path}: reading .safetensors needs the package of that name; {INSTALL}") from None
  try:
    return load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f"{path}: expected a .safetensors file, got a damaged one ({errors.brief(error)})") from None
  except (AttributeError, TypeError) as error:  # of a type that NumPy does not have
    raise ValueError(f"{path}: expected tensors of NumPy's types, got others ({errors.brief(error)})") from None


def _read_torch(path):
  try:
    import torch  # of all the library, only here
  except ImportError:
    raise ValueError(f"{path}: reading it needs PyTorch; {INSTALL}, or give a .safetensors file") from None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Only the format of today, a zip archive, can be mapped into memory instead of read.
      table = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
  except pickle.UnpicklingError as error:
    # PyTorch speaks of weights_only whatever the file is: only of a pickle is it true.
    if "weights_only" in str(error) and _is_pickle(path):
      raise ValueError(
        f"{path}: refused: it holds Python objects besides tensors, and loading them could run code; save its "
        "state_dict alone"
      ) from None
    raise ValueError(f"{path}: expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)})") from None
  except Exception as error:  # whatever PyTorch makes of a damaged file
    raise ValueError(f"{path}: expected a PyTorch checkpoint, got a damaged file ({errors.brief(error)})") from None
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
  except (TypeError, RuntimeError) as error:  # sparse, quantized, or of a type that NumPy does not have
    raise ValueError(f"{path}: expected dense tensors of NumPy's types, got others ({errors.brief(error)})") from None


def _is_pickle(path):
  """Tell whether a file may hold Python objects: an archive of PyTorch's, or a pickle of protocol 2 or later."""
  if zipfile.is_zipfile(path):
    return True
  with open(path, "rb") as file:
    return file.read(1) == pickle.PROTO


def sha256(path: pathlib.Path) -> str:
  """Return the SHA-256 of a file, hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
