"""Write the goldens of networks of velocity: tests/golden/flow_diffusers.npz or flow_torchcfm.npz.

usage: python tools/make_flow_goldens.py diffusers|torchcfm

Needs the library that is named and PyTorch (pip install diffusers torchcfm torch), which nothing else in this
repository runs; its version is written beside the numbers. Every tensor is random, see `tests/reference_networks.py`.
For each network and time: the noisy picture by the library, the picture that a step of its to the clean end gives, and
the gradient of that by the noisy picture.
"""

import pathlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import diffusers_networks  # noqa: E402
import flow_networks  # noqa: E402
import reference_networks  # noqa: E402


def main(library: str) -> None:
  """Write those of a library."""
  found = {"version": np.array(metadata.version(library))}
  for name, value in {"diffusers": of_diffusers, "torchcfm": of_torchcfm}[library]():
    found[name] = value
  np.savez_compressed(reference_networks.GOLDEN / f"flow_{library}.npz", **found)


def of_diffusers() -> Iterator[tuple[str, np.ndarray]]:
  """Give the numbers of the library's network and of its scheduler, by name."""
  import diffusers

  for name, case in flow_networks.DIFFUSERS.items():
    network = randomized(diffusers.UNet2DModel(**case.config))
    for time in flow_networks.TIMES:
      scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
      scheduler.set_timesteps(sigmas=[time])  # which ends with 0
      x0, noise, cotangent = map(batched, case.arrays())
      x_t = scheduler.scale_noise(x0, scheduler.timesteps, noise).requires_grad_()
      velocity = network(x_t, scheduler.timesteps).sample
      clean = scheduler.step(velocity, scheduler.timesteps[0], x_t).prev_sample
      yield from numbers(f"{name}/{time}", x_t, clean, cotangent)
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=flow_networks.SHIFT)
  yield "sigmas", scheduler.sigmas.numpy()[::-1][::10]


def of_torchcfm() -> Iterator[tuple[str, np.ndarray]]:
  """Give the numbers of the library's network and of its matcher, by name."""
  from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
  from torchcfm.models.unet import UNetModel

  matcher = ConditionalFlowMatcher(sigma=0.0)
  for name, case in flow_networks.TORCHCFM.items():
    network = randomized(UNetModel(**case.config))
    yield f"{name}/digest", digest(network)
    label = None if case.label is None else torch.tensor([case.label])
    for time in flow_networks.TIMES:
      x0, noise, cotangent = map(batched, case.arrays())
      t, x_t, target = matcher.sample_location_and_conditional_flow(noise, x0, t=torch.tensor([1 - time]))
      x_t.requires_grad_()
      yield f"{name}/{time}/target", unbatched(target)
      clean = x_t + (1 - t) * network(t, x_t, label)  # a step of Euler's to time 1
      yield from numbers(f"{name}/{time}", x_t, clean, cotangent)
  with torch.device("meta"):
    yield "cifar10/digest", digest(UNetModel(**flow_networks.CIFAR10))


def randomized(network: Any) -> Callable[..., Any]:
  """Return a network with every tensor random."""
  shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
  tensors = reference_networks.state_dict(shapes)
  network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
  return network.eval()


def digest(network: Any) -> np.ndarray:
  """Return the SHA-256 of the names and shapes of a network's tensors."""
  shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
  return np.array(diffusers_networks.digest(shapes))


def numbers(name: str, x_t: Any, clean: Any, cotangent: Any) -> Iterator[tuple[str, np.ndarray]]:
  """Give the noisy picture, the clean one and the gradient of it, by name."""
  (gradient,) = torch.autograd.grad(torch.sum(clean * cotangent), x_t)
  for part, value in (("x_t", x_t), ("x0", clean), ("gradient", gradient)):
    yield f"{name}/{part}", unbatched(value)
  print(name, float(clean.detach().std()), float(gradient.std()))


def batched(value: np.ndarray) -> Any:
  """Return `[1, c, h, w]` of `[h, w, c]`."""
  return torch.from_numpy(np.ascontiguousarray(value.transpose(2, 0, 1)[None]))


def unbatched(value: Any) -> np.ndarray:
  """Return `[h, w, c]` of `[1, c, h, w]`."""
  return value.detach().numpy()[0].transpose(1, 2, 0)


if __name__ == "__main__":
  main(sys.argv[1])
