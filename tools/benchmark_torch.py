"""The reference of benchmark_step.py: the FFHQ network and a step of DPS in PyTorch (pip install deepinv==0.5.0).

usage: python tools/benchmark_step.py --against=torch|torch.compile [--batch=8]

Channels lie last in memory, which oneDNN is fastest with. The network is deepinv's, which has the authors' names; its
weights come from the file that benchmark_step.py writes. This program is started by it and takes no turn by itself.
"""

import json
import resource
import sys
from collections.abc import Callable

import deepinv
import numpy as np
import torch
import turns

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def jobs(evaluated: Callable, given: dict[str, torch.Tensor], dtype: torch.dtype) -> dict:
  """Return a forward pass and a step of DPS; `evaluated`: the network, of (x, t)."""
  x, y, mask, noise, t = (given[name] for name in ("x", "y", "mask", "noise", "t"))
  alpha, sigma, zeta = 0.6, 0.8, 1.0

  def evaluate(x):
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
      return evaluated(x, t).float()

  def forward():
    with torch.no_grad():
      return evaluate(x)

  def step():
    """The arithmetic of diffinv.methods.dps, with numbers in place of a schedule's."""
    x_t = x.detach().requires_grad_()
    output = evaluate(x_t)
    x0 = torch.clamp((x_t - sigma * output[:, :3]) / alpha, -1.0, 1.0)
    residual = torch.linalg.vector_norm(y - mask * x0, dim=(1, 2, 3))
    (gradient,) = torch.autograd.grad(torch.sum(residual), x_t)
    log_variance = 0.5 * (output[:, 3:].detach() + 1.0)
    mean = 0.01 * x0.detach() + 0.99 * x
    return mean + torch.exp(0.5 * log_variance) * noise - zeta * gradient

  def gradient():
    x_t = x.detach().requires_grad_()
    output = evaluate(x_t)
    return torch.autograd.grad(torch.sum(output[:, :3] ** 2), x_t)[0]

  return {"forward": forward, "step": step, "gradient": gradient}


def finished(job: Callable) -> Callable:
  """Return a job that returns when the device has done it."""

  def run():
    found = job()
    if DEVICE == "cuda":
      torch.cuda.synchronize()
    return found

  return run


def peak() -> float:
  """Return the most memory in use, bytes: of the device, or of this process."""
  if DEVICE == "cuda":
    return float(torch.cuda.max_memory_allocated())
  return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: str, dtype: str, batch: int, compiles: bool) -> None:
  """Load what the other process has written, answer it once, and take turns."""
  network = deepinv.models.DiffUNet(in_channels=3, out_channels=3, pretrained=None).eval()
  stored = np.load(f"{folder}/weights.npz")
  network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files}, strict=False)
  network = network.to(DEVICE, memory_format=torch.channels_last).requires_grad_(False)
  given = {name: torch.from_numpy(value).to(DEVICE) for name, value in np.load(f"{folder}/given.npz").items()}
  evaluated = torch.compile(network.forward_diffusion) if compiles else network.forward_diffusion
  answers = jobs(evaluated, _repeated(given, 1), getattr(torch, dtype))
  arrays = {name: answers[name]().cpu().numpy() for name in ("forward", "gradient")}
  np.savez(f"{folder}/answers.npz", **arrays)
  work = jobs(evaluated, _repeated(given, batch), getattr(torch, dtype))
  about = {"torch": torch.__version__, "deepinv": deepinv.__version__, "threads": torch.get_num_threads()}
  turns.serve({name: finished(work[name]) for name in ("forward", "step")}, {**about, "device": DEVICE}, peak)


def _repeated(given, batch):
  """Return arrays of one picture for so many, channels last in memory."""
  last = lambda v: v.repeat(batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
  return {name: last(v) if v.ndim == 4 else v.repeat(batch) for name, v in given.items()}


if __name__ == "__main__":
  main(*json.loads(sys.argv[1]))
