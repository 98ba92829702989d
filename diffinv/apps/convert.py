"""Turn a network of others into a prior: of the diffusers library, guided-diffusion, EDM, or a DRUNet.

usage: diffinv convert --input=DIFFUSERS_FOLDER --output=FOLDER
       diffinv convert --input=EDM_FOLDER --output=FOLDER
       diffinv convert --input=DRUNET_FILE --output=FOLDER
       diffinv convert --input=hf:OWNER/NAME[/FOLDER_OR_FILE][@REVISION] --output=FOLDER
       diffinv convert --input=FILE --output=FOLDER [--preset=ffhq256|imagenet256]
       diffinv convert --input=FILE --output=FOLDER --image_size=N [--num_heads=N|--num_head_channels=N]

DIFFUSERS_FOLDER holds an unconditional UNet2DModel, by itself or as unet/ of a pipeline: config.json, the weights, and
the scheduler's json, which say all that a prior needs. docs/checkpoints.md lists what is read and what was verified.

EDM_FOLDER is what tools/export_edm.py wrote of a checkpoint of EDM or InverseBench; DRUNET_FILE a state_dict of the
denoiser of plug-and-play methods.

FILE holds a state_dict, .pt (needs PyTorch: pip install "diffinv[convert]") or .safetensors (does not). What neither
shapes nor flags nor a preset tell is found by denoising bundled pictures, and said; a network that denoises none is
refused, unless --unchecked. No code in FILE is run.
"""

from absl import flags

from diffinv.apps import flags as config_flags
from diffinv.apps import shared
from diffinv.apps.main import run_module
from diffinv.priors import state_dicts

CONFIG = state_dicts.ConvertConfig
FLAGS = flags.FlagValues()
config_flags.define(FLAGS, CONFIG)
config_flags.define_path(FLAGS, "output", None, "Folder to write; required.")
flags.DEFINE_boolean("overwrite", False, "Replace a prior that is there.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
  """Read, identify, check, write."""
  del argv
  shared.require(FLAGS, "input", "the file to read")
  shared.require(FLAGS, "output", "the folder to write")
  config = config_flags.make(FLAGS, CONFIG)
  made = state_dicts.convert(config, FLAGS.output, overwrite=FLAGS.overwrite)
  denoised = f"; {made.denoised}" if made.denoised else ""
  print(f"wrote {made.folder}: {made.tensors} tensors, {made.parameters:,} parameters{denoised}")


if __name__ == "__main__":
  run_module(main, FLAGS)
