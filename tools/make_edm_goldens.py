"""Write the goldens of EDM's networks and of DRUNets: tests/golden/edm_networks.npz and edm_published.json.

usage: python tools/make_edm_goldens.py [FOLDER]

Needs deepinv and PyTorch (pip install deepinv), which nothing else in this repository runs; the version is written
beside the numbers. Every tensor of a network is random, by the rule of `tests/reference_networks.py`. With FOLDER, what
the published networks give for random weights at full size is written there, too, which takes minutes and gigabytes.

The networks of deepinv are those of NVlabs/edm but for norms of fewer than 128 channels, whose groups are as many as
elsewhere there; here they have at least 4 channels, as in NVlabs/edm (`networks.py`, class GroupNorm). And deepinv sets
the options of two families by their names; here they are taken as they are given.
"""

import inspect
import json
import pathlib
import sys
import types

import deepinv
import numpy as np
import torch
from deepinv.models import guided_diffusion, ncsnpp, utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import diffusers_networks  # noqa: E402
import edm_networks  # noqa: E402
import reference_networks  # noqa: E402

FAMILIES = 'if model_type == "ncsn":'  # where the library's code begins to set options
NAMES = ("embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter")
GIVEN = "\n            ".join(['if model_type == "given":', *(f"{name} = kwargs[{name!r}]" for name in NAMES)])
GIVEN += f"\n        el{FAMILIES}"
PRECONDITIONINGS = {"edm": "edm", "ve": "ve-baseline"}  # what `NCSNpp.forward` calls them
FULL_SIGMA = 0.5


def group_norm(num_channels, num_groups, eps=1e-5, device=None):
  """Return a norm of NVlabs/edm."""
  return torch.nn.GroupNorm(min(num_groups, num_channels // 4), num_channels, eps=eps, device=device)


def song_class() -> type[torch.nn.Module]:
  """Return the library's NCSNpp as it takes its options."""
  source = inspect.getsource(ncsnpp)
  if source.count(FAMILIES) != 1:
    raise ValueError(
      f"deepinv {deepinv.__version__}: expected {FAMILIES!r} in its NCSNpp; look how it sets its options"
    )
  module = types.ModuleType("deepinv.models.given")
  exec(compile(source.replace(FAMILIES, GIVEN), module.__name__, "exec"), module.__dict__)
  module.GroupNorm = group_norm
  return module.NCSNpp


def main() -> None:
  """Write all of them."""
  for module in (utils, guided_diffusion):
    module.GroupNorm = group_norm
  golden, found = reference_networks.GOLDEN, {"deepinv": np.array(deepinv.__version__)}
  for name, case in edm_networks.SMALL.items():
    found |= results(f"edm/{name}", edm(case.config, case.preconditioning), *case.arrays(), case.sigma, case.label)
  for name, (config, sigma) in edm_networks.DRUNETS.items():
    found |= results(f"drunet/{name}", drunet(config), *edm_networks.drunet_arrays(config), sigma)
  np.savez_compressed(golden / "edm_networks.npz", **found)
  digests = {name: digest(edm(config)) for name, config in edm_networks.PUBLISHED.items()}
  digests |= {name: digest(drunet(config)) for name, config in edm_networks.PUBLISHED_DRUNETS.items()}
  text = json.dumps({"deepinv": deepinv.__version__, "digests": digests}, indent=2) + "\n"
  (golden / "edm_published.json").write_text(text)
  if len(sys.argv) > 1:
    write_published(pathlib.Path(sys.argv[1]))


def write_published(folder: pathlib.Path) -> None:
  """Write what published networks give at full size, a file each."""
  for name, config in edm_networks.PUBLISHED.items():
    case = edm_networks.Case(config, FULL_SIGMA, 3 if "label_dim" in config else None, size=config["img_resolution"])
    np.savez(folder / f"{name}.npz", **results("full", edm(config), *case.arrays(), case.sigma, case.label))
  for name, config in edm_networks.PUBLISHED_DRUNETS.items():
    found = results("full", drunet(config), *edm_networks.drunet_arrays(config), FULL_SIGMA / 4)
    np.savez(folder / f"{name}.npz", **found)


def edm(config: dict, preconditioning: str = "edm") -> torch.nn.Module:
  """Return the library's network, which denoises pictures in [-1, 1]."""
  given = {name: value for name, value in config.items() if name != "kind"}
  if config["kind"] == "song":
    network = song_class()(**given, model_type="given", pretrained=None, pixel_std=0.5)
  else:
    network = guided_diffusion.ADMUNet(**given, pretrained=None, pixel_std=0.5)
  network.precondition_type = PRECONDITIONINGS[preconditioning]
  return network


def drunet(config: dict) -> torch.nn.Module:
  """Return the library's network."""
  return deepinv.models.DRUNet(**config, pretrained=None)


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
  """Return the shapes of a network's tensors, without filters."""
  found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
  return {name: shape for name, shape in found.items() if not edm_networks.NEVER_RANDOM.fullmatch(name)}


def digest(network: torch.nn.Module) -> str:
  """Return the SHA-256 of the names and shapes of a network's tensors."""
  return diffusers_networks.digest(shapes(network))


def results(name, network, x, cotangent, sigma, label=None) -> dict[str, np.ndarray]:
  """Return the output and the input gradient of a network with random weights, and the digest of its tensors."""
  tensors = reference_networks.state_dict(shapes(network))
  kept = network.state_dict()
  network.load_state_dict({key: torch.from_numpy(tensors[key]) if key in tensors else kept[key] for key in kept})
  network.eval()
  x, cotangent = (torch.from_numpy(value.transpose(2, 0, 1)[None].copy()) for value in (x, cotangent))
  x.requires_grad_()
  given = {}
  if label is not None:
    given["class_labels"] = torch.nn.functional.one_hot(torch.tensor([label]), network.map_label.in_features).float()
  output = network(x, torch.tensor([sigma]), **given)
  (gradient,) = torch.autograd.grad(torch.sum(output * cotangent), x)
  print(name, float(output.detach().std()), float(gradient.std()))
  found = {part: value.detach().numpy()[0].transpose(1, 2, 0) for part, value in zip(PARTS, (output, gradient))}
  return {f"{name}/{part}": value for part, value in {**found, "digest": np.array(digest(network))}.items()}


PARTS = ("output", "gradient")

if __name__ == "__main__":
  main()
