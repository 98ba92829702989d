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
  span      scale sqrt(d) (t - s) / T   ours: from t to s of a schedule of T steps, for an image of d values

The last one is the code's with a scale that chains of any number of steps and images of any size can share: more steps
are as much shorter, and the gradient of a norm falls with the root of the number of values that it spreads over.

||r||^2 is `Problem.misfit`: ||y - A(x0_hat)||^2 for Gaussian noise. For Poisson noise it is the log-likelihood in the
same units or, with misfit="weighted", the paper's least squares with weights 1 / (2 y_j) (Sec. 3.2). The rules divide
by its root, so that the noise only sets how values are weighted against each other. A dark pixel then weighs as much as
up to `Problem.stiffness` bright ones, and steps must be shorter: the paper lowers zeta' from 1 to 0.3 for Poisson
noise. The authors' code weighs all values alike ("squares").
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base
from diffinv.methods.cases import Case, MixtureCase, Reference, ScalarCase, each
from diffinv.problems import MISFITS
from diffinv.pytree import pytree, static

# The multiple of grad ||r||^2 that each rule takes, from scale, ||r|| and sqrt(d) (t - s) / T.
RULES = {
  "code": lambda scale, norm, span: scale / (2.0 * norm),
  "paper": lambda scale, norm, span: scale / norm,
  "squared": lambda scale, norm, span: scale,
  "span": lambda scale, norm, span: scale * span / (2.0 * norm),
}


@pytree
class DPS(base.Chain):
  """Diffusion posterior sampling (Alg. 1); any differentiable operator."""

  scale: jax.Array | float = 0.5  # step size; zeta' of Alg. 1 under rule="paper"
  rule: str = static(default="code", choices=RULES)
  misfit: str = static(default="likelihood", choices=MISFITS)

  name, title = "dps", "DPS"
  citation = "Chung et al., ICLR 2023, arXiv 2209.14687"
  entering = "gradient of ‖y − A(x̂0)‖ through the network"
  ranges = {"scale": base.NOT_NEGATIVE}
  search = {"rule": ("code", "squared"), "scale": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)}
  examples = {
    "paper": {"rule": "paper"},
    "squared": {"rule": "squared", "scale": 0.1},
    "span": {"rule": "span", "scale": 4.0},
  }

  def cost(self, num_levels):
    return base.Cost(num_levels - 1, num_levels - 1)

  def update(self, z, x_t, now, nxt, prior, problem):
    def squared_norm(x_t):
      denoised = prior.denoise(x_t, now)  # Alg. 1, line 4
      predicted = problem.operator(denoised.x0)
      return problem.misfit_of(predicted, self.misfit), (denoised, problem.y - predicted)

    # The square is differentiated, not the norm, whose gradient is 0/0 where the data are met.
    (squared, (denoised, residual)), grad = jax.value_and_grad(squared_norm, has_aux=True)(x_t)
    norm = jnp.sqrt(squared)
    x = base.reverse_step(z, x_t, denoised, now, nxt)  # Alg. 1, line 6
    smallest = jnp.sqrt(jnp.finfo(norm.dtype).tiny)  # no other norm is below it; scale / tiny would overflow
    span = np.sqrt(x_t.size) * (now.t - nxt.t) / prior.schedule.num_steps
    zeta = RULES[self.rule](self.scale, jnp.maximum(norm, smallest), span)
    return x - zeta * grad, {"residual_norm": base.norm(residual)}  # Alg. 1, line 7

  @classmethod
  def cases(cls):
    return tuple(
      Case(f"squared, {text}", lambda scale=scale: cls(scale=scale, rule="squared"), each(exact_step, zeta=scale))
      for text, scale in ((".3", 0.3), (".05", 0.05))
    )

  @classmethod
  def scalar_cases(cls):
    return (
      ScalarCase("code, .3", lambda: cls(scale=0.3), "normal", 0.80000000, 0.06749822, 0.5000),
      ScalarCase("code, .1", lambda: cls(scale=0.1), "normal", 0.79999873, 0.00750197, 0.5000),
      ScalarCase("code, .02", lambda: cls(scale=0.02), "normal", 0.70975072, 0.47137888, 0.4586),
      ScalarCase("code, .1", lambda: cls(scale=0.1), "bimodal", 0.321946, 0.149511, 0.9234),
      ScalarCase("squared, .02", lambda: cls(scale=0.02, rule="squared"), "bimodal", 0.736629, 0.524231, 0.8813),
    )

  @classmethod
  def mixture_case(cls):
    found = Reference((2.71, 2.56, 0.61), (0.88, 0.95, 0.31))
    return MixtureCase("paper, .1", lambda law: cls(scale=0.1, rule="paper"), reference=found)


# The exact law under a Gaussian prior, of rule="squared".


def exact_step(p, abar, prev, zeta):
  """Return x' - zeta grad ||y - A D||^2 (Alg. 1 with a constant zeta_i)."""
  K, k = affine.denoiser(p, np.sqrt(abar), 1 - abar)
  return affine.guided(affine.ddpm_step(p, abar, prev), p, 2 * zeta * K.T @ p.A.T, K, k)
