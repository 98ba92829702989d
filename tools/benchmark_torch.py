"""The reference of benchmark_step.py: the FFHQ network and a step of DPS in PyTorch (pip install deepinv==0.5.0).

usage: python tools/benchmark_step.py --against=torch

Channels lie last in memory, which oneDNN is fastest with. The network is deepinv's, which has the authors' names; its
weights come from the file that benchmark_step.py writes. This program is started by it and takes no turn by itself.
"""

import json
import sys

import deepinv
import numpy as np
import torch
import turns


def jobs(network: torch.nn.Module, given: dict[str, torch.Tensor], dtype: torch.dtype) -> dict:
  """Return a forward pass and a step of DPS."""
  x, y, mask, noise, t = (given[name] for name in ("x", "y", "mask", "noise", "t"))
  alpha, sigma, zeta = 0.6, 0.8, 1.0

  def evaluate(x):
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
      return network.forward_diffusion(x, t).float()

  def forward():
    with torch.no_grad():
      return evaluate(x)

  def step():
    """The arithmetic of diffinv.methods.dps, with numbers in place of a schedule's."""
    x_t = x.detach().requires_grad_()
    output = evaluate(x_t)
    x0 = torch.clamp((x_t - sigma * output[:, :3]) / alpha, -1.0, 1.0)
    residual = torch.linalg.vector_norm(y - mask * x0)
    (gradient,) = torch.autograd.grad(residual, x_t)
    log_variance = 0.5 * (output[:, 3:].detach() + 1.0)
    mean = 0.01 * x0.detach() + 0.99 * x
    return mean + torch.exp(0.5 * log_variance) * noise - zeta * gradient

  def gradient():
    x_t = x.detach().requires_grad_()
    output = evaluate(x_t)
    return torch.autograd.grad(torch.sum(output[:, :3] ** 2), x_t)[0]

  return {"forward": forward, "step": step, "gradient": gradient}


def main(folder: str, dtype: str) -> None:
  """Load what the other process has written, answer it once, and take turns."""
  network = deepinv.models.DiffUNet(in_channels=3, out_channels=3, pretrained=None).eval()
  stored = np.load(f"{folder}/weights.npz")
  network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files}, strict=False)
  network = network.to(memory_format=torch.channels_last).requires_grad_(False)
  given = {name: torch.from_numpy(value) for name, value in np.load(f"{folder}/given.npz").items()}
  last = torch.channels_last
  given = {name: value.to(memory_format=last) if value.ndim == 4 else value for name, value in given.items()}
  work = jobs(network, given, getattr(torch, dtype))
  np.savez(f"{folder}/answers.npz", forward=work["forward"]().numpy(), gradient=work.pop("gradient")().numpy())
  turns.serve(work, {"torch": torch.__version__, "deepinv": deepinv.__version__, "threads": torch.get_num_threads()})


if __name__ == "__main__":
  main(*json.loads(sys.argv[1]))
