"""Turn a PyTorch checkpoint of the guided-diffusion UNet into a prior.

usage: diffinv convert --input=FILE --output=FOLDER [--preset=ffhq256|imagenet256]
       diffinv convert --input=FILE --output=FOLDER --num_heads=N|--num_head_channels=N --image_size=N

FILE is a bare state_dict, .pt (needs PyTorch: pip install "diffinv[convert]") or .safetensors (does not). Shapes tell
the architecture except how attention splits its channels, which a preset or the flags say. No code in FILE is run.
"""

import hashlib
import pathlib
import pickle
import warnings
import zipfile

import numpy as np
from absl import flags

from diffinv import errors
from diffinv.apps import common
from diffinv.apps.main import run_module
from diffinv.nets import guided_diffusion, unet
from diffinv.priors import Prior
from diffinv.priors import folder as checkpoint
from diffinv.schedules import BETAS, Schedule

SAFETENSORS = ".safetensors"
PRESET_SIZE = 256  # pixels; of every preset
INSTALL = 'pip install "diffinv[convert]"'

FLAGS = flags.FlagValues()
flags.DEFINE_string("input", None, "File to read, .pt or .safetensors; required.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder to write; required.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace a prior that is there.", flag_values=FLAGS)
flags.DEFINE_enum(
  "preset", None, list(guided_diffusion.PRESETS), "Published network that the file must be.", flag_values=FLAGS
)
flags.DEFINE_integer("num_heads", None, "Heads of attention. Not set: the preset's.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
  "num_head_channels", None, "Channels a head, instead of --num_heads.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_enum(
  "attention_order",
  None,
  unet.ATTENTION_ORDERS,
  "Channels of q, k, v: head by head, or q of all heads, then k, then v. Not set: the preset's, or legacy.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "image_size", None, "Pixels of the images that it is for. Not set: the preset's.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_enum("schedule", "linear", list(BETAS), "Noise schedule that it was trained with.", flag_values=FLAGS)
flags.DEFINE_integer(
  "num_steps",
  1000,
  "Steps of that schedule.",
  lower_bound=1,
  upper_bound=checkpoint.MAX_SCHEDULE_STEPS,
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "variance",
  "fixed_large",
  ["fixed_small", "fixed_large"],
  "Reverse variance, for networks that have not learned it.",
  flag_values=FLAGS,
)


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


def make_prior(params: dict, config: unet.UNetConfig, *, image_size: int, schedule: Schedule, variance: str) -> Prior:
  """Return the network as a prior that predicts the noise; `variance` applies where it has not learned its own."""
  learned = config.out_channels == 2 * config.in_channels
  return Prior(
    params=params,
    apply=unet.apply_function(config),
    schedule=schedule,
    prediction="eps",
    variance="learned_range" if learned else variance,
    image_shape=(image_size, image_size, config.in_channels),
    size_multiple=config.size_multiple,
  )


def _image_size() -> int:
  if FLAGS.image_size is not None:
    return FLAGS.image_size
  if FLAGS.preset is None:
    raise errors.UsageError("--image_size is missing: expected pixels, as shapes cannot tell; or give --preset")
  return PRESET_SIZE


def main(argv: list[str]) -> None:
  """Read, identify, check, write."""
  del argv
  common.require(FLAGS, "input", "the file to read")
  common.require(FLAGS, "output", "the folder to write")
  if FLAGS.num_heads is not None and FLAGS.num_head_channels is not None:
    raise errors.UsageError("--num_heads, --num_head_channels: expected one of them, got both")
  image_size = _image_size()
  checkpoint.check_free(FLAGS.output, overwrite=FLAGS.overwrite)
  path = pathlib.Path(FLAGS.input)
  common.check_apart(FLAGS, [path])
  state_dict = read_state_dict(path)
  try:
    config = guided_diffusion.identify(
      {name: value.shape for name, value in state_dict.items()},
      preset=FLAGS.preset,
      num_heads=FLAGS.num_heads,
      num_head_channels=FLAGS.num_head_channels,
      attention_order=FLAGS.attention_order,
    )
    params = guided_diffusion.params_from_state_dict(state_dict, config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  prior = make_prior(
    params,
    config,
    image_size=image_size,
    schedule=Schedule(FLAGS.schedule, FLAGS.num_steps),
    variance=FLAGS.variance,
  )
  provenance = {"source": path.name, "sha256": sha256(path), "preset": FLAGS.preset}
  folder = checkpoint.save_prior(FLAGS.output, prior, config, provenance, overwrite=FLAGS.overwrite)
  count = sum(value.size for value in state_dict.values())
  print(f"wrote {folder}: {len(state_dict)} tensors, {count:,} parameters")


if __name__ == "__main__":
  run_module(main, FLAGS)
