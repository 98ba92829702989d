"""A stand-in for a trained network: it remembers the bundled pictures, and is told and tells what it is made to.

It knows each picture up to a quarter of its fine detail, takes the rest for Gaussian, and so denoises as well as can be
by what it knows, at the noise that it is told. Told another, or given another picture, it does worse.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffinv.data import images
from diffinv.priors import VELOCITIES, trial
from diffinv.schedules import Schedule, log_sbar


@functools.cache
def pictures(size):
  return [images.fit(images.read(path), size, "resize") for path in trial.PICTURES]


class Oracle(NamedTuple):
  """What it knows, and how it is told."""

  schedule: Schedule = Schedule("linear", 1000)
  time_scale: float = 1.0
  prediction: str = "eps"
  unit_range: bool = False
  reversed_channels: bool = False
  heads: Any = None  # (num_heads, attention_order) that it needs; None for any

  def install(self, monkeypatch):
    """Let trials evaluate it in the place of every network."""
    monkeypatch.setattr(trial, "_compiled", self.network)

  def network(self, config):
    wrong = self.heads not in (None, (getattr(config, "num_heads", None), getattr(config, "attention_order", None)))

    def run(params, x_t, t):
      output = self._output(np.asarray(x_t, np.float64), float(t), wrong)
      return jnp.asarray(np.resize(output.T, (config.out_channels, *output.shape[1::-1])).T, jnp.float32)

    return run

  def _output(self, x_t, t, wrong):
    sbar = self._sbar(t / self.time_scale)
    alpha = 1 / (1 + sbar) if self.prediction in VELOCITIES else 1 / np.sqrt(1 + sbar**2)
    alpha = 1 / np.sqrt(0.5**2 + sbar**2) if self.prediction == "edm" else alpha  # c_in
    noisy = x_t / alpha
    known, variance = min(self._memory(x_t.shape), key=lambda pair: np.mean((pair[0] - noisy) ** 2))
    x0 = known + variance / (variance + sbar**2) * (noisy - known)
    x0 = (x0 + noisy) / 2 if wrong else x0
    eps = (x_t - alpha * x0) / (alpha * sbar)
    found = {"eps": eps, "x0": x0, "v": alpha * eps - alpha * sbar * x0}
    found["edm"] = (x0 - 0.5**2 * alpha * x_t) / (0.5 * alpha * sbar)
    return {**found, "velocity": eps - x0, "velocity_to_data": x0 - eps}[self.prediction]

  def _sbar(self, t):
    """Return the noise that it takes there to be when it is told t."""
    if self.prediction in VELOCITIES:
      tau = np.clip(t if self.prediction == "velocity" else 1 - t, 1e-4, 1 - 1e-4)
      return tau / (1 - tau)
    if self.prediction == "edm":
      return np.exp(np.clip(4 * t, -10, 10))
    table = log_sbar(self.schedule)
    return np.exp(np.interp(t, np.arange(len(table)), table))

  def _memory(self, shape):
    for x0 in pictures(shape[:2]):
      x0 = x0 if shape[2] == 3 else np.mean(x0, axis=2, keepdims=True)
      x0 = x0[..., ::-1] if self.reversed_channels else x0
      x0 = (x0 + 1) / 2 if self.unit_range else x0
      around = np.pad(x0, ((1, 1), (1, 1), (0, 0)), mode="edge")
      h, w = shape[:2]
      blurred = sum(around[i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
      known = 0.75 * x0 + 0.25 * blurred
      yield known, np.mean((known - x0) ** 2)
