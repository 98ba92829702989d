"""DPS: diffusion posterior sampling.

Chung, Kim, McCann, Klasky and Ye, "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023,
arXiv 2209.14687. Each ancestral step is followed by a step down the gradient of ||y - A(x0_hat(x_t))||^2, taken
through the network.

The paper's zeta_i = zeta' / ||y - A(x0_hat)|| and the authors' code are two rules: since grad ||r||^2 / ||r|| =
2 grad ||r||, the code's scale is HALF the paper's step for the same number. Written as a multiple of grad ||r||:

  rule      coefficient of grad ||r||   source
  code      scale                       the authors' repository, `ps` conditioning; scales 0.3-1
  paper     2 scale                     Alg. 1, line 7 with zeta' = scale; zeta' 0.3-1
  squared   2 ||r|| scale               Alg. 1 with a constant zeta_i = scale: affine in y for a Gaussian prior

||r||^2 is `Problem.misfit`: ||y - A(x0_hat)||^2 for Gaussian noise. For Poisson noise it is the log-likelihood in the
same units, or with misfit="weighted" the paper's least squares with weights 1 / (2 y_j) (Sec. 3.2); the norm that the
rules divide by is its root. Dividing by the norm leaves of the noise only how values are weighted against each other,
and a dark pixel weighs up to `Problem.stiffness` bright ones, so that steps have to be shorter: the paper lowers zeta'
from 1 to 0.3 for Poisson noise. The authors' code weighs all values alike there: "squares".
"""

import jax
import jax.numpy as jnp

from diffinv.methods import base
from diffinv.problems import MISFITS as MISFITS  # what `misfit` names
from diffinv.pytree import pytree, static

# The multiple of grad ||r||^2 that each rule takes, from scale and ||r||.
RULES = {
  "code": lambda scale, norm: scale / (2.0 * norm),
  "paper": lambda scale, norm: scale / norm,
  "squared": lambda scale, norm: scale,
}


@pytree
class DPS(base.Chain):
  """Diffusion posterior sampling (Alg. 1); any differentiable operator."""

  scale: jax.Array | float = 0.5  # step size; zeta' of Alg. 1 under rule="paper"
  rule: str = static("code")  # of RULES
  misfit: str = static("likelihood")  # of MISFITS

  name, title = "dps", "DPS"
  citation = "Chung et al., ICLR 2023, arXiv 2209.14687"
  ranges = {"scale": base.NOT_NEGATIVE}

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, num_levels - 1)

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one step with the given noise, `[h, w, c]`; return the next iterate and ||y - A(x0_hat)||."""

    def squared_norm(x_t):
      denoised = prior.denoise(x_t, now)  # Alg. 1, line 4
      predicted = problem.operator(denoised.x0)
      return problem.misfit_of(predicted, self.misfit), (denoised, problem.y - predicted)

    # The square is differentiated, not the norm, whose gradient is 0/0 where the data are met.
    (squared, (denoised, residual)), grad = jax.value_and_grad(squared_norm, has_aux=True)(x_t)
    norm = jnp.sqrt(squared)
    x = base.reverse_step(z, x_t, denoised, now, nxt)  # Alg. 1, line 6
    smallest = jnp.sqrt(jnp.finfo(norm.dtype).tiny)  # no other norm is below it; scale / tiny would overflow
    zeta = RULES[self.rule](self.scale, jnp.maximum(norm, smallest))
    return x - zeta * grad, base.norm(residual)  # Alg. 1, line 7
