"""BlindDPS: the picture and the kernel in one chain, both down the gradient of one residual.

Chung, Kim, Kim and Ye, "Parallel Diffusion Models of Operator and Image for Blind Inverse Problems", CVPR 2023, arXiv
2211.10656, Alg. 1. After each ancestral step,

  x <- x' - zeta grad_x ||y - k * x0_hat||      (as DPS)
  k <- P(k - eta grad_k ||y - k * x0_hat||^2 / 2)

Differs from Alg. 1: the paper has a second diffusion model, trained on kernels. Here the kernel has a simple prior: P
is the nearest kernel, not negative and of sum 1, and its path is one of descent without noise. eta is `kernel_scale`
over the energy of x0_hat around its mean, about the curvature that a tap sees.

This stands beside `diffinv.blind.free` to compare with; what it is worth: docs/blind.md.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.blind.free import on_simplex
from diffinv.methods import base
from diffinv.pytree import pytree


class State(NamedTuple):
  """The picture and the kernel of a chain."""

  x: jax.Array  # [h, w, c]
  kernel: jax.Array  # [k, k]


@pytree
class BlindDPS(base.Iteration):
  """A chain that begins with the kernel of the problem's operator, and ends with its own; rule "span" of DPS."""

  scale: jax.Array | float = 10.0  # of steps of the picture, as of DPS(rule="span")
  kernel_scale: jax.Array | float = 0.1  # of steps of the kernel

  name, title = "blind_dps", "BlindDPS"
  citation = "Chung et al., CVPR 2023, arXiv 2211.10656"
  entering = "gradient of ‖y − k * x̂0‖ through the network, and by k"
  linear_only = True
  ranges = {"scale": base.NOT_NEGATIVE, "kernel_scale": base.NOT_NEGATIVE}

  def init(self, key, prior, problem, start):
    """Begin with noise, and with the operator's kernel."""
    return State(super().init(key, prior, problem, start).x, problem.operator.kernel)

  def step(self, key, state, now, nxt, prior, problem):
    """Take one step of both."""

    def squared_norm(x_t, kernel):
      denoised = prior.denoise(x_t, now)
      residual = problem.y - dataclasses.replace(problem.operator, kernel=kernel)(denoised.x0)
      return jnp.sum(residual**2), denoised

    slopes = jax.value_and_grad(squared_norm, argnums=(0, 1), has_aux=True)
    (squared, denoised), (by_x, by_kernel) = slopes(state.x, state.kernel)
    norm = jnp.sqrt(jnp.maximum(squared, jnp.finfo(squared.dtype).tiny))
    span = np.sqrt(state.x.size) * (now.t - nxt.t) / prior.schedule.num_steps
    x = base.reverse_step(jax.random.normal(key, state.x.shape), state.x, denoised, now, nxt)
    energy = jnp.sum((denoised.x0 - jnp.mean(denoised.x0)) ** 2)
    kernel = on_simplex(jnp.ravel(state.kernel - self.kernel_scale * 0.5 * by_kernel / energy))
    moved = State(x - 0.5 * self.scale * span / norm * by_x, kernel.reshape(state.kernel.shape))
    return moved, {"residual_norm": norm}
