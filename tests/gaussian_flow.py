"""A Gaussian as a flow: the velocity that a perfect network would give, in closed form, as the network of a `Prior`."""

import jax.numpy as jnp

from diffinv.priors import Denoised, Prior
from diffinv.pytree import pytree
from diffinv.schedules import Level


def velocity(params, z, tau):
  """Return E[eps - x0 | z] of z = (1 - tau) x0 + tau eps, x0 ~ N(m, C); `z`: `[1, 1, d]`."""
  mean, cov = params
  centered = z[0, 0] - (1 - tau) * mean
  whitened = jnp.linalg.solve((1 - tau) ** 2 * cov + tau**2 * jnp.eye(len(mean), dtype=mean.dtype), centered)
  return (tau * whitened - mean - (1 - tau) * jnp.matmul(cov, whitened, precision="highest"))[None, None]


def backward(params, z, t):
  """Return the velocity from noise to data, at 1000 times the time that runs there."""
  return -velocity(params, z, 1 - t / 1000)


@pytree
class Flat:
  """A prior of vectors `[d]`, of one of pictures `[1, 1, d]`."""

  prior: Prior

  @property
  def schedule(self):
    return self.prior.schedule

  @property
  def means(self):
    """The mean, `[1, d]`, as a mixture has it."""
    return self.prior.params[0][None]

  def denoise(self, x_t: jnp.ndarray, level: Level) -> Denoised:
    x0, eps, var_frac = self.prior.denoise(x_t[None, None], level)
    return Denoised(x0[0, 0], eps[0, 0], var_frac)


def flow(p, schedule, *, to_data=False):
  """Return the prior of a problem of `methods.affine`, as a flow."""
  params = (jnp.asarray(p.m), jnp.asarray(p.C))
  told = ("velocity_to_data", backward, 1000.0) if to_data else ("velocity", velocity, 1.0)
  prior = Prior(
    params,
    told[1],
    schedule,
    prediction=told[0],
    clip=False,
    image_shape=(1, 1, 3),
    time_scale=told[2],
  )
  return Flat(prior)
