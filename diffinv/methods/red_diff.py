"""RED-diff: a variational view of diffusion priors, regularization by denoising.

Mardani, Song, Kautz and Vahdat, "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
ICLR 2024, arXiv 2305.04391, Alg. 1. A single image mu is optimized by Adam, one step at each level, descending:

  x_t = alpha mu + sigma z
  loss = 1/2 ||y - A(mu)||^2 + lambda sbar <stopgrad(eps(x_t) - z), mu>,   lambda is `weight`

For a prior N(m, C) the mean of the second gradient is lambda sigma^2 (alpha^2 C + sigma^2 I)^-1 (mu - m): at a fixed
level mu comes to rest at the MAP estimate argmin -log p(y | x) - log p(x) of a prior with that precision, smoothed by
the noise. The result is a mode, not a posterior sample: two seeds give nearly the same image. sigma_y enters only
through lambda. What is approximate: one Adam step a level does not come to rest, and each level has its own point of
rest.

||y - A(mu)||^2 is `Problem.misfit`: for Poisson noise the log-likelihood in the same units, so that lambda keeps its
meaning.

Differs from the authors' code: sums over values, as the paper writes, where the code takes means over y and over mu, so
that its lambda is ours times (values of mu) / (values of y); and a regularized start where the code has A^+ y, which
amplifies the noise of blurred images beyond what Adam can undo.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from diffinv.methods import base, proximal
from diffinv.methods.cases import Descent, MixtureCase
from diffinv.operators.base import LinearOperator
from diffinv.problems import MISFITS
from diffinv.pytree import pytree, static

ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)  # the authors' code


class State(NamedTuple):
  """The image and the moments of its gradient."""

  x: jax.Array  # mu, [h, w, c]
  moments: Any


@pytree
class REDDiff(base.Iteration):
  """Regularization by denoising (Alg. 1); any differentiable operator; no gradient of the network."""

  learning_rate: jax.Array | float = 0.1  # of Adam, in units of the image
  weight: jax.Array | float = 0.25  # lambda
  misfit: str = static(default="likelihood", choices=MISFITS)

  name, title = "red_diff", "RED-diff"
  citation = "Mardani et al., ICLR 2024, arXiv 2305.04391"
  ranges = {"learning_rate": base.POSITIVE, "weight": base.NOT_NEGATIVE}
  entering = "Adam on ‖y − A(μ)‖², the prior as regularizer"
  search = {"learning_rate": (0.03, 0.1, 0.3), "weight": (0.01, 0.03, 0.1, 0.25, 0.5, 1.0)}

  def check_start(self, operator, schedule):
    """Accept a prior of any schedule: no chain starts at noise."""

  def init(self, key, prior, problem, start):
    """Start at A^T (A A^T + sigma_y^2 I)^-1 y, or at noise if A is not linear."""
    operator, variance = problem.operator, proximal.noise_variance(problem)
    if isinstance(operator, LinearOperator):
      x = proximal.ridge(operator, problem.y, variance)
    else:
      x = jax.random.normal(key, operator.in_shape, start.alpha.dtype)
    return State(x, ADAM.init(x))

  def step(self, key, state, now, nxt, prior, problem):
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    gradient, norm = self.gradient(z, state.x, now, prior, problem)
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power
      direction, moments = ADAM.update(gradient, state.moments)
    return State(state.x - self.learning_rate * direction, moments), {"residual_norm": norm}

  def estimate(self, state, level, prior, problem):
    """Return mu, which is a clean image at every level."""
    return state.x

  def gradient(self, z, x, now, prior, problem):
    """Return the gradient of the loss at mu = `x` with the given noise, `[h, w, c]`, and ||y - A(mu)||."""
    eps = prior.denoise(now.alpha * x + now.sigma * z, now).eps

    def data_loss(mu):
      predicted = problem.operator(mu)
      return 0.5 * problem.misfit_of(predicted, self.misfit), problem.y - predicted

    gradient, residual = jax.grad(data_loss, has_aux=True)(x)
    return gradient + self.weight * (now.sigma / now.alpha) * (eps - z), base.norm(residual)

  @classmethod
  def cases(cls):
    weight, note = 2.0, "seeks a mode, no exact law: its gradient, and where it rests at one level"
    return (
      Descent(
        "weight 2",
        lambda: cls(weight=weight, learning_rate=0.01),
        lambda p, mu, z, abar: exact_gradient(p, mu, z, abar, weight),
        lambda p, abar: exact_rest(p, abar, weight),
        note,
      ),
    )

  @classmethod
  def mixture_case(cls):
    return MixtureCase("learning rate .5", lambda law: cls(learning_rate=0.5, weight=0.05), "seeks a mode")


# What is exact under a Gaussian prior: the gradient, and the point of rest.


def exact_gradient(p, mu, z, abar, weight):
  """Return the gradient of Alg. 1 at the image mu with the noise z."""
  x_t = np.sqrt(abar) * mu + np.sqrt(1 - abar) * z
  S = abar * p.C + (1 - abar) * np.eye(len(p.m))
  eps = np.sqrt(1 - abar) * np.linalg.solve(S, x_t - np.sqrt(abar) * p.m)
  return -p.A.T @ (p.y - p.A @ mu) + weight * np.sqrt((1 - abar) / abar) * (eps - z)


def exact_rest(p, abar, weight):
  """Return where the mean of that gradient vanishes: A^T (y - A mu) = weight sigma^2 S^-1 (mu - m)."""
  precision = weight * (1 - abar) * np.linalg.inv(abar * p.C + (1 - abar) * np.eye(len(p.m)))
  return np.linalg.solve(p.A.T @ p.A + precision, p.A.T @ p.y + precision @ p.m)
