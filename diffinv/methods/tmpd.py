"""TMPD: Tweedie moment projected diffusions, in their diagonal form.

Boys, Girolami, Pidstrigach, Reich, Mosca and Akyildiz, "Tweedie Moment Projected Diffusions for Inverse Problems",
TMLR 2024, arXiv 2310.06721. The covariance of x0 given x_t is c J, c = sigma^2 / alpha, J the derivative of the
denoised image D by x_t (second-order Tweedie), so that

  x0 = D + c J^T A^T (A c J A^T + sigma_y^2 I)^-1 (y - A D).

The matrix to invert is replaced by the diagonal of its row sums, A c J A^T 1 + sigma_y^2.
What is approximate: that diagonal, exact where A c J A^T is diagonal itself; and the projection on a Gaussian of the
law of x0 given x_t, exact for Gaussian priors. `mmps` inverts the matrix itself.

Differs from the paper: the ancestral step in place of Euler-Maruyama; row sums below 0 count as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base, proximal
from diffinv.methods.cases import Case, MixtureCase, ScalarCase, each
from diffinv.pytree import pytree


@pytree
class TMPD(base.Chain):
  """Tweedie moment projection with row sums; linear operators."""

  eta: jax.Array | float = 1.0  # of DDIM: 1 is DDPM with its small variance

  name, title = "tmpd", "TMPD"
  citation = "Boys et al., TMLR 2024, arXiv 2310.06721"
  entering = "the same, covariance by the row sums of J"
  linear_in_noise = True
  ranges = {"eta": base.PART}
  search = {"eta": base.ETAS}
  linear_only = True

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, 2 * (num_levels - 1))

  def update(self, z, x_t, now, nxt, prior, problem):
    operator, c = problem.operator, now.sigma**2 / now.alpha
    denoised, backward = base.denoise_vjp(prior, x_t, now)
    residual = problem.residual(denoised.x0)
    row_sums = c * operator(backward(operator.adjoint(jnp.ones_like(residual))))
    weighted = residual / (jnp.maximum(row_sums, 0.0) + proximal.noise_variance(problem))
    x0 = denoised.x0 + c * backward(operator.adjoint(weighted))
    x = base.ddim_step(z, x_t, base.moved(denoised, x_t, x0, now), now, nxt, self.eta)
    return x, {"residual_norm": base.norm(residual)}

  @classmethod
  def cases(cls):
    return (Case("row sums", cls, each(exact_step)),)

  @classmethod
  def scalar_cases(cls):
    return (ScalarCase("row sums", cls, "bimodal", 0.630452, 0.544169, 0.8428),)

  @classmethod
  def mixture_case(cls):
    note = "MMPS for one measurement; may diverge for more: row sums cancel"
    return MixtureCase("row sums", lambda law: cls(), note, same_for_one="mmps")


# The exact law under a Gaussian prior.


def exact_step(p, abar, prev, eta=1.0):
  """Return the implicit step with the diagonal of row sums in place of A V A^T."""
  V = affine.spread(p.C, abar)
  row_sums = (p.A @ V @ p.A.T).sum(axis=1)
  G = V @ p.A.T @ np.diag(1 / (np.maximum(row_sums, 0) + p.sigma**2))
  return affine.implicit(abar, prev, *affine.corrected(p, abar, G), eta)
