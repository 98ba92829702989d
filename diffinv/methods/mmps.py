"""MMPS: moment matching posterior sampling.

Rozet, Andry, Lanusse and Louppe, "Learning Diffusion Priors from Observations by Expectation Maximization", NeurIPS
2024, arXiv 2405.13712. The covariance of x0 given x_t is c J, c = sigma^2 / alpha, J the derivative of the
denoised image D by x_t (second-order Tweedie), so that

  x0 = D + c J^T A^T (A c J A^T + sigma_y^2 I)^-1 (y - A D),

the inverse by a few conjugate gradients, matrix-free: one backward pass through the network each. For a Gaussian prior
and enough of them x0 is the exact mean of x0 given x_t and y. What is approximate: the few iterations, which where J is
symmetric only underestimate the correction; and the Gaussian law of x0 given x_t.

Differs from the paper: c J^T in place of c J inside the solve (J of an exact denoiser is symmetric), and conjugate
gradients although J of a network is not quite symmetric (the paper's code also offers GMRES). Where the prior clips D,
J is 0 at saturated pixels and far from symmetric; the solve may then end early, with a smaller correction.

The law under a Gaussian prior is that of the exact conditional mean, `affine.conditional_step`.
"""

import jax

from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, ScalarCase, each
from diffinv.operators.base import conjugate_gradients
from diffinv.pytree import pytree, static


@pytree
class MMPS(base.Chain):
  """Moment matching by conjugate gradients; linear operators."""

  eta: jax.Array | float = 1.0  # of DDIM: 1 is DDPM with its small variance
  iterations: int = static(default=3)  # of conjugate gradients; 1-3 in the paper

  name, title = "mmps", "MMPS"
  citation = "Rozet et al., NeurIPS 2024, arXiv 2405.13712"
  entering = "the same, covariance J itself, conjugate gradients"
  ranges = {"eta": base.PART, "iterations": base.COUNT}
  search = {"eta": base.ETAS}
  examples = {"one_iteration": {"iterations": 1}}
  linear_only = True

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, (self.iterations + 1) * (num_levels - 1))

  def update(self, z, x_t, now, nxt, prior, problem):
    operator, c = problem.operator, now.sigma**2 / now.alpha
    denoised, backward = base.denoise_vjp(prior, x_t, now)
    residual, variance = problem.residual(denoised.x0), proximal.noise_variance(problem)

    def covariance(v):  # of y given x_t
      return c * operator(backward(operator.adjoint(v))) + variance * v

    weighted = conjugate_gradients(covariance, residual, self.iterations)
    x0 = denoised.x0 + c * backward(operator.adjoint(weighted))
    x = base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, self.eta)
    return x, {"residual_norm": base.norm(residual)}

  @classmethod
  def cases(cls):
    return (Case("3 iterations", lambda: cls(iterations=3), each(affine.conditional_step)),)

  @classmethod
  def scalar_cases(cls):
    return (ScalarCase("1 iteration", lambda: cls(iterations=1), "bimodal", 0.630452, 0.544169, 0.8428),)

  @classmethod
  def mixture_case(cls):
    return MixtureCase("3 iterations", lambda law: cls(iterations=3))
