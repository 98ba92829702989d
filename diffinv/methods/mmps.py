"""MMPS: moment matching posterior sampling.

Rozet, Andry, Lanusse and Louppe, "Learning Diffusion Priors from Observations by Expectation Maximization", NeurIPS
2024, arXiv 2405.13712. The covariance of x0 given x_t is c J, c = sigma^2 / alpha, J the derivative of the
denoised image D by x_t (second-order Tweedie), so that

  x0 = D + c J^T A^T (A c J A^T + sigma_y^2 I)^-1 (y - A D),

the inverse by a few conjugate gradients, matrix-free: one backward pass through the network each. For a Gaussian prior
and enough of them x0 is the exact mean of x0 given x_t and y. What is approximate: the few iterations, which where J is
symmetric only underestimate the correction; and the Gaussian law of x0 given x_t.

Differs from the paper: c J^T in place of c J inside the solve (J of an exact denoiser is symmetric), and conjugate
gradients where J of a network is not quite symmetric (the paper's code also offers GMRES). Where the prior clips D, J
is 0 at saturated pixels and far from symmetric: there the solve may end early, with a smaller correction.
"""

import jax

from diffinv.methods import base, proximal
from diffinv.operators.base import conjugate_gradients
from diffinv.pytree import pytree, static


@pytree
class MMPS(base.Chain):
  """Moment matching by conjugate gradients; linear operators."""

  eta: jax.Array | float = 1.0  # of DDIM: 1 is DDPM with its small variance
  iterations: int = static(3)  # of conjugate gradients; 1-3 in the paper

  name, title = "mmps", "MMPS"
  citation = "Rozet et al., NeurIPS 2024, arXiv 2405.13712"
  ranges = {"eta": base.PART, "iterations": base.COUNT}
  linear_only = True

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, (self.iterations + 1) * (num_levels - 1))

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one step with the given noise, `[h, w, c]`; return the next iterate and ||y - A D||."""
    operator, c = problem.operator, now.sigma**2 / now.alpha
    denoised, backward = base.denoise_vjp(prior, x_t, now)
    residual, variance = problem.residual(denoised.x0), proximal.noise_variance(problem)

    def covariance(v):  # of y given x_t
      return c * operator(backward(operator.adjoint(v))) + variance * v

    weighted = conjugate_gradients(covariance, residual, self.iterations)
    x0 = denoised.x0 + c * backward(operator.adjoint(weighted))
    x = base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, self.eta)
    return x, base.norm(residual)
