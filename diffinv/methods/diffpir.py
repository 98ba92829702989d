"""DiffPIR: denoising diffusion for plug-and-play image restoration.

Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising Diffusion Models for Plug-and-Play Image Restoration",
CVPR Workshops 2023, arXiv 2305.08995, Alg. 1. With D the denoised image, sbar = sigma / alpha, lambda our `weight`:

  xh  = argmin_x ||y - A x||^2 + rho ||x - D||^2,   rho = lambda sigma_y^2 / sbar^2    (line 4)
  eh  = (x_t - alpha xh) / sigma                                                       (line 5)
  x_s = alpha_s xh + sigma_s (sqrt(1 - zeta) eh + sqrt(zeta) z)                        (line 6)

No gradient of the network. What is approximate: xh is a mode where the posterior asks for a mean, with the covariance
of x0 given x_t taken as sbar^2 / lambda.

The minimum is exact for operators with a closed form. Other linear operators, and Poisson noise, take a few conjugate
gradients from D; nonlinear operators take them on A linearized at D, where the paper takes a gradient step. For Poisson
noise and linear operators, line 4 has weighted squares, the sigma_y of each value estimated from its own count, and one
solve finds the minimum. For Poisson noise and nonlinear operators it is a step of Fisher scoring of the log-likelihood,
sigma_y that of the prediction A(D).

Here sigma_y and images are on one scale, [-1, 1]. The authors' code has sigma_y on [0, 1] beside sbar on [-1, 1], so
its lambda is 4 times ours. It also starts at y noised to the first level, and skips the data step at the last level,
where a large lambda makes it negligible.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, each
from diffinv.operators.base import LinearOperator
from diffinv.problems import MISFITS
from diffinv.pytree import pytree, static


@pytree
class DiffPIR(base.Chain):
  """Plug-and-play restoration (Alg. 1); any differentiable operator."""

  weight: jax.Array | float = 1.75  # lambda on [-1, 1]; 0.25-6.25: 1-25 of the paper, on [0, 1], are four times ours
  zeta: jax.Array | float = 0.3  # part of the noise that is fresh, in [0, 1]
  iterations: int = static(default=50)  # of conjugate gradients, where A has no closed form
  misfit: str = static(default="likelihood", choices=MISFITS)  # for nonlinear operators

  name, title = "diffpir", "DiffPIR"
  citation = "Zhu et al., CVPRW 2023, arXiv 2305.08995"
  entering = "proximal step on x̂0, DDIM"
  linear_in_noise = True
  ranges = {"weight": base.POSITIVE, "zeta": base.PART, "iterations": base.COUNT}
  search = {"weight": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), "zeta": (0.0, 0.3, 0.7, 1.0)}

  def update(self, z, x_t, now, nxt, prior, problem):
    denoised = prior.denoise(x_t, now)  # Alg. 1, line 3
    rho = self.weight * (now.alpha / now.sigma) ** 2  # of residuals in units of sigma_y
    if isinstance(problem.operator, LinearOperator):
      x0 = proximal.proximal(problem, denoised.x0, rho, iterations=self.iterations)
    else:
      x0 = proximal.linearized_proximal(problem, denoised.x0, rho, self.iterations, self.misfit)
    eps = base.moved(denoised, x_t, x0, now).eps
    fresh = jnp.sqrt(1.0 - self.zeta) * eps + jnp.sqrt(self.zeta) * z
    return nxt.alpha * x0 + nxt.sigma * fresh, {"residual_norm": base.residual_norm(problem, denoised.x0)}

  @classmethod
  def cases(cls):
    chain = each(exact_step, weight=7.0, zeta=0.3)
    return (Case("weight 7, zeta .3", lambda: cls(weight=7.0, zeta=0.3), chain),)

  @classmethod
  def mixture_case(cls):
    return MixtureCase("weight 7", lambda law: cls(weight=7.0), "a mode for a mean")


# The exact law under a Gaussian prior.


def exact_step(p, abar, prev, weight, zeta):
  """Return lines 3 to 6 of Alg. 1: argmin |y - A x|^2 + rho |x - D|^2 by its normal equations."""
  rho = weight * p.sigma**2 * abar / (1 - abar)
  G = np.linalg.inv(p.A.T @ p.A + rho * np.eye(len(p.m))) @ p.A.T
  X, x = affine.corrected(p, abar, G)
  return affine.stepped(abar, prev, X, x, np.sqrt((1 - prev) * (1 - zeta)), np.sqrt((1 - prev) * zeta))
