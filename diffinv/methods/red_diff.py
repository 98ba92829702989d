"""RED-diff: a variational view of diffusion priors, regularization by denoising.

Mardani, Song, Kautz and Vahdat, "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
ICLR 2024, arXiv 2305.04391, Alg. 1. A single image mu is optimized by Adam, one step at each level, descending:

  x_t = alpha mu + sigma z
  loss = 1/2 ||y - A(mu)||^2 + lambda sbar <stopgrad(eps(x_t) - z), mu>,   lambda is `weight`

For a prior N(m, C) the mean of the second gradient is lambda sigma^2 (alpha^2 C + sigma^2 I)^-1 (mu - m): at a fixed
level mu comes to rest at the MAP estimate argmin -log p(y | x) - log p(x) of a prior with that precision, smoothed by
the noise. It seeks a mode, no posterior sample, and two seeds give nearly the same image; sigma_y enters through lambda
alone. What is approximate: one Adam step a level does not come to rest, and levels differ in what they rest at.

||y - A(mu)||^2 is `Problem.misfit`: for Poisson noise the log-likelihood in the same units, so that lambda means the
same.

Differs from the authors' code: sums over values, as the paper writes, where the code takes means over y and over mu, so
that its lambda is ours times (values of mu) / (values of y); and a regularized start where the code has A^+ y, which
amplifies the noise of blurred images beyond what Adam can undo.
"""

from typing import Any, NamedTuple

import jax
import optax

from diffinv.methods import base, proximal
from diffinv.operators.base import LinearOperator
from diffinv.problems import MISFITS as MISFITS  # what `misfit` names
from diffinv.pytree import pytree, static

ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)  # the authors' code


class State(NamedTuple):
  """The image and the moments of its gradient."""

  x: jax.Array  # mu, [h, w, c]
  moments: Any


@pytree
class REDDiff(base.Chain):
  """Regularization by denoising (Alg. 1); any differentiable operator; no gradient of the network."""

  learning_rate: jax.Array | float = 0.1  # of Adam, in units of the image
  weight: jax.Array | float = 0.25  # lambda
  misfit: str = static("likelihood")  # of MISFITS

  name, title = "red_diff", "RED-diff"
  citation = "Mardani et al., ICLR 2024, arXiv 2305.04391"
  ranges = {"learning_rate": base.POSITIVE, "weight": base.NOT_NEGATIVE}

  def init(self, key, prior, problem, start):
    """Start at A^T (A A^T + sigma_y^2 I)^-1 y, or at noise where A is not linear."""
    operator, variance = problem.operator, proximal.noise_variance(problem)
    if isinstance(operator, LinearOperator):
      x = proximal.ridge(operator, problem.y, variance)
    else:
      x = jax.random.normal(key, operator.in_shape, start.alpha.dtype)
    return State(x, ADAM.init(x))

  def step(self, key, state, now, nxt, prior, problem):
    z = jax.random.normal(key, state.x.shape, state.x.dtype)
    gradient, norm = self.gradient(z, state.x, now, prior, problem)
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to the power of a whole number of steps
      direction, moments = ADAM.update(gradient, state.moments)
    return State(state.x - self.learning_rate * direction, moments), {"residual_norm": norm}

  def estimate(self, state, level, prior, problem):
    """Return mu, which is a clean image all along."""
    return state.x

  def gradient(self, z, x, now, prior, problem):
    """Return the gradient of the loss at mu = `x` with the given noise, `[h, w, c]`, and ||y - A(mu)||."""
    eps = prior.denoise(now.alpha * x + now.sigma * z, now).eps

    def data_loss(mu):
      predicted = problem.operator(mu)
      return 0.5 * problem.misfit_of(predicted, self.misfit), problem.y - predicted

    gradient, residual = jax.grad(data_loss, has_aux=True)(x)
    return gradient + self.weight * (now.sigma / now.alpha) * (eps - z), base.norm(residual)
