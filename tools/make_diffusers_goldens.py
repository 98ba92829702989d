"""Write the goldens of networks and schedules of the diffusers library: tests/golden/diffusers_*.

usage: python tools/make_diffusers_goldens.py

Needs the library and PyTorch (pip install diffusers torch), which nothing else in this repository runs; its version is
written beside the numbers. Every tensor of a network is random, by the rule of `tests/reference_networks.py`, from its
name and shape: layers that begin at zero would hide faults, and files hold inputs, outputs and gradients alone.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import diffusers_networks  # noqa: E402
import reference_networks  # noqa: E402


def main() -> None:
  """Write all of them."""
  golden = reference_networks.GOLDEN
  np.savez_compressed(golden / "diffusers_networks.npz", **networks())
  np.savez_compressed(golden / "diffusers_schedules.npz", **schedules())
  published = {name: digest(model(config)) for name, config in diffusers_networks.PUBLISHED.items()}
  text = json.dumps({"diffusers": diffusers.__version__, "digests": published}, indent=2) + "\n"
  (golden / "diffusers_published.json").write_text(text)


def model(config: dict) -> diffusers.UNet2DModel:
  """Return the library's network of a config.json, without memory for its weights."""
  with torch.device("meta"):
    return diffusers.UNet2DModel.from_config(config)


def digest(network: diffusers.UNet2DModel) -> str:
  """Return the SHA-256 of the names and shapes of a network's tensors."""
  return diffusers_networks.digest({name: tuple(value.shape) for name, value in network.state_dict().items()})


def networks() -> dict[str, np.ndarray]:
  """Return the outputs and input gradients of small networks that together reach every branch."""
  found = {"diffusers": np.array(diffusers.__version__)}
  for name, case in diffusers_networks.SMALL.items():
    network = diffusers.UNet2DModel(**case.config).eval()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    tensors = reference_networks.state_dict(shapes)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    x, cotangent = (torch.from_numpy(value.transpose(2, 0, 1)[None]) for value in case.arrays())
    x.requires_grad_()
    label = None if case.label is None else torch.from_numpy(np.asarray(case.label)[None])
    output = network(x, torch.tensor([case.t]), class_labels=label).sample
    (gradient,) = torch.autograd.grad(torch.sum(output * cotangent), x)
    for part, value in (("output", output), ("gradient", gradient)):
      found[f"{name}/{part}"] = value.detach().numpy()[0].transpose(1, 2, 0)
    found[f"{name}/digest"] = np.array(diffusers_networks.digest(shapes))
    print(name, float(output.detach().std()), float(gradient.std()))
  return found


def schedules() -> dict[str, np.ndarray]:
  """Return alphas_cumprod of the library's schedules, float32, every tenth step and the last ones."""
  found = {"diffusers": np.array(diffusers.__version__)}
  for name, options in diffusers_networks.SCHEDULES.items():
    found[name] = diffusers.DDPMScheduler(**options).alphas_cumprod.numpy()
  sigmas = diffusers.ScoreSdeVeScheduler(num_train_timesteps=2000, sigma_min=0.01, sigma_max=1348.0).discrete_sigmas
  found["score_sde_ve"] = sigmas.numpy()
  return {name: value[..., ::10] if value.ndim and len(value) > 100 else value for name, value in found.items()}


if __name__ == "__main__":
  main()
