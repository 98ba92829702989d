"""DiffPIR: denoising diffusion for plug-and-play image restoration.

Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising Diffusion Models for Plug-and-Play Image Restoration",
CVPR Workshops 2023, arXiv 2305.08995, Alg. 1. With D the denoised image, sbar = sigma / alpha, lambda our `weight`:

  xh  = argmin_x ||y - A x||^2 + rho ||x - D||^2,   rho = lambda sigma_y^2 / sbar^2    (line 4)
  eh  = (x_t - alpha xh) / sigma                                                       (line 5)
  x_s = alpha_s xh + sigma_s (sqrt(1 - zeta) eh + sqrt(zeta) z)                        (line 6)

No gradient of the network. What is approximate: xh is a mode where the posterior asks for a mean, with the covariance
of x0 given x_t taken as sbar^2 / lambda.

Operators with a closed form take the exact minimum; other linear ones, and Poisson noise, a few conjugate gradients
from D; nonlinear ones these on A linearized at D, where the paper takes a gradient step. For Poisson noise linear
operators have weighted squares, sigma_y of each value as its own count estimates it, whose minimum one solve finds;
nonlinear ones take a step of Fisher scoring of the log-likelihood, sigma_y as the prediction A(D) has it.

sigma_y and images are on one scale here, [-1, 1]: the authors' code has sigma_y on [0, 1] beside sbar on [-1, 1], so
that its lambda is 4 times ours. It also starts at y noised to the first level, and leaves the data step out at the
last, where a large lambda makes it nothing.
"""

import jax
import jax.numpy as jnp

from diffinv.methods import base, proximal
from diffinv.operators.base import LinearOperator
from diffinv.problems import MISFITS as MISFITS  # what `misfit` names
from diffinv.pytree import pytree, static


@pytree
class DiffPIR(base.Chain):
  """Plug-and-play restoration (Alg. 1); any differentiable operator."""

  weight: jax.Array | float = 1.75  # lambda on [-1, 1]; 0.25-6.25: 1-25 of the paper, on [0, 1], are four times ours
  zeta: jax.Array | float = 0.3  # part of the noise that is fresh, in [0, 1]
  iterations: int = static(50)  # of conjugate gradients, where A has no closed form
  misfit: str = static("likelihood")  # of MISFITS, for nonlinear operators

  name, title = "diffpir", "DiffPIR"
  citation = "Zhu et al., CVPRW 2023, arXiv 2305.08995"
  ranges = {"weight": base.POSITIVE, "zeta": base.PART, "iterations": base.COUNT}

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one step with the given noise, `[h, w, c]`; return the next iterate and ||y - A(D)||."""
    denoised = prior.denoise(x_t, now)  # Alg. 1, line 3
    rho = self.weight * (now.alpha / now.sigma) ** 2  # of residuals in units of sigma_y
    if isinstance(problem.operator, LinearOperator):
      x0 = proximal.proximal(problem, denoised.x0, rho, iterations=self.iterations)
    else:
      x0 = proximal.linearized_proximal(problem, denoised.x0, rho, self.iterations, self.misfit)
    eps = base.moved(denoised, x_t, x0, now).eps
    fresh = jnp.sqrt(1.0 - self.zeta) * eps + jnp.sqrt(self.zeta) * z
    return nxt.alpha * x0 + nxt.sigma * fresh, base.residual_norm(problem, denoised.x0)
