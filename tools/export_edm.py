"""Write a checkpoint of EDM or InverseBench as tensors and a config, for `diffinv convert`.

usage: python tools/export_edm.py FILE FOLDER [--preconditioning=edm|vp|ve|iddpm] [--sigma_data=0.5]

FILE is a pickle or a file of PyTorch. Such files hold code, and LOADING ONE RUNS IT: use this where you trust the file,
in the environment of the code that made it (PYTHONPATH=/path/to/edm), with PyTorch and safetensors. Nothing else of
this repository is needed. The averaged weights, "ema", are taken where there are others beside them. A file of a state
dict alone does not say how its network is preconditioned; the flags do, and are left out otherwise.

FOLDER gets edm.safetensors and edm.json, which `diffinv convert --input=FOLDER --output=PRIOR` reads.
"""

import argparse
import json
import math
import pathlib
import pickle

import torch
from safetensors.torch import save_file

FORMAT = "diffinv-edm-1"
# Of every SongUNet and DhariwalUNet, and of guided-diffusion's UNetModel; what stands before it is a prefix.
ANCHORS = ("map_layer0.weight", "time_embed.0.weight")
PLACES = ("ema", "net", "state_dict", "model")  # of a network in a file, the averaged one first
PRECONDITIONINGS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
# Numbers of the preconditioning, by their names in the authors' code.
NUMBERS = {
  "sigma_data": "sigma_data",
  "beta_d": "beta_d",
  "beta_min": "beta_min",
  "M": "num_steps",
  "C_1": "c_1",
  "C_2": "c_2",
  "sigma_min": "sigma_min",
  "sigma_max": "sigma_max",
  "img_resolution": "image_size",
}


def main() -> None:
  """Read, choose, write."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("file", type=pathlib.Path)
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--preconditioning", choices=PRECONDITIONINGS.values())
  parser.add_argument("--sigma_data", type=float)
  args = parser.parse_args()
  weights, network = choose(load(args.file))
  said = {"preconditioning": args.preconditioning, "sigma_data": args.sigma_data}
  fields = {**describe(network), **{name: value for name, value in said.items() if value is not None}}
  if "preconditioning" not in fields:
    parser.error("the file holds tensors alone, which do not say it: add --preconditioning=edm, or what it is")
  fields |= {"weights": weights, "source": args.file.name}
  args.folder.mkdir(parents=True, exist_ok=True)
  found = tensors(network)
  save_file(found, args.folder / "edm.safetensors")
  (args.folder / "edm.json").write_text(json.dumps({"format": FORMAT, **fields}, indent=2) + "\n")
  print(f"wrote {args.folder}: {len(found)} tensors of {weights!r}; now diffinv convert --input={args.folder}")


def load(path: pathlib.Path) -> object:
  """Return what a file holds; its code runs."""
  try:
    with open(path, "rb") as file:
      return pickle.load(file)
  except pickle.UnpicklingError:
    return torch.load(path, map_location="cpu", weights_only=False)


def choose(data: object) -> tuple[str, object]:
  """Return the network that a file holds, and where it stood."""
  for place in PLACES:
    if isinstance(data, dict) and data.get(place) is not None:
      return place, data[place]
  return "file", data


def describe(network: object) -> dict:
  """Return what a network says of its preconditioning; {} of tensors alone."""
  if isinstance(network, dict):
    return {}
  name = type(network).__name__
  if name not in PRECONDITIONINGS:
    raise SystemExit(f"expected a network of {', '.join(PRECONDITIONINGS)}, got {name}")
  found = {ours: getattr(network, theirs) for theirs, ours in NUMBERS.items() if hasattr(network, theirs)}
  numbers = {name: value for name, value in found.items() if math.isfinite(value)}
  return {"preconditioning": PRECONDITIONINGS[name], **numbers, "network": type(network.model).__name__}


def tensors(network: object) -> dict[str, torch.Tensor]:
  """Return the tensors of a network by its own names."""
  found = network if isinstance(network, dict) else network.state_dict()
  prefix = next((name.removesuffix(anchor) for anchor in ANCHORS for name in found if name.endswith(anchor)), None)
  if prefix is None:
    raise SystemExit(f"expected a SongUNet, DhariwalUNet or UNetModel, got a network without a {' or '.join(ANCHORS)}")
  kept = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
  return {name: value.detach().cpu().contiguous() for name, value in kept.items()}


if __name__ == "__main__":
  main()
