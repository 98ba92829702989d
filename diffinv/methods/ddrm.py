"""DDRM: denoising diffusion restoration models.

Kawar, Elad, Ermon and Song, "Denoising Diffusion Restoration Models", NeurIPS 2022, arXiv 2201.11793, Eq. 7 and 8. In
the coordinates u = x_t / alpha = x0 + sbar eps and the singular basis A = U diag(s) V^T, for coordinate i with
yb = (U^T y)_i / s_i, D the denoised image and sbar' the next noise:

  s = 0                 u' = D + sqrt(1 - eta^2) sbar' (u - D) / sbar + eta sbar' z
  sbar' < sigma_y / s   u' = D + sqrt(1 - eta^2) sbar' (yb - D) / (sigma_y / s) + eta sbar' z
  else                  u' = (1 - eta_b) D + eta_b yb + sqrt(sbar'^2 - eta_b^2 sigma_y^2 / s^2) z

and the chain starts at yb, or at 0 where s = 0 or sbar < sigma_y / s, at that noise. What is approximate: each
coordinate meets its own datum, and the covariance of x0 given x_t is never asked: the law is not the posterior's, even
for a Gaussian prior.

Needs the SVD in closed form (`operator.spectral()`), which reflecting motion blur and coils, for instance, do not
have. Noise that differs from value to value (Poisson) counts with its root mean square.
"""

import jax
import jax.numpy as jnp

from diffinv.methods import base, proximal
from diffinv.pytree import pytree


@pytree
class DDRM(base.Chain):
  """Restoration in the singular basis (Eq. 7, 8); linear operators of known SVD; no gradient of the network."""

  eta: jax.Array | float = 0.85  # part of the noise that is fresh where y says little, in [0, 1]
  eta_b: jax.Array | float = 1.0  # weight of y where it is less noisy than the iterate, in [0, 1]

  name, title = "ddrm", "DDRM"
  citation = "Kawar et al., NeurIPS 2022, arXiv 2201.11793"
  ranges = {"eta": base.PART, "eta_b": base.PART}
  linear_only = True
  spectral_only = True

  def init(self, key, prior, problem, start):
    basis, sbar = problem.operator.spectral(), start.sigma / start.alpha
    seen, y_bar, y_std = in_basis(problem, basis)
    z = jax.random.normal(key, problem.operator.in_shape, start.alpha.dtype)
    told = basis.analyze(sbar * z)
    std = jnp.sqrt(jnp.maximum(sbar**2 - y_std**2, 0.0))
    told = jnp.where(seen & (sbar > y_std), y_bar + std * basis.analyze(z) - told, 0.0)  # Eq. 7
    return base.XState(start.alpha * (sbar * z + basis.synthesize(told)))

  def update(self, z, x_t, now, nxt, prior, problem):
    """Take one step with the given noise, `[h, w, c]`; return the next iterate and ||y - A D||."""
    basis, sbar = problem.operator.spectral(), nxt.sigma / nxt.alpha
    seen, y_bar, y_std = in_basis(problem, basis)
    denoised, old = prior.denoise(x_t, now), jnp.sqrt(1.0 - self.eta**2)
    unseen = denoised.x0 + sbar * (old * denoised.eps + self.eta * z)  # Eq. 8, s = 0
    x0, noise = basis.analyze(denoised.x0), basis.analyze(z)
    noisy = x0 + sbar * (old * (y_bar - x0) / y_std + self.eta * noise)
    std = jnp.sqrt(jnp.maximum(sbar**2 - (self.eta_b * y_std) ** 2, 0.0))
    clean = (1.0 - self.eta_b) * x0 + self.eta_b * y_bar + std * noise
    told = jnp.where(sbar < y_std, noisy, clean) - basis.analyze(unseen)
    u = unseen + basis.synthesize(jnp.where(seen, told, 0.0))
    return nxt.alpha * u, base.residual_norm(problem, denoised.x0)


def in_basis(problem, basis):
  """Return where s > 0, yb and its noise sigma_y / s; placeholders elsewhere."""
  seen = basis.values > 0
  s = jnp.where(seen, basis.values, 1.0)
  return seen, basis.measure(problem.y) / s, proximal.mean_std(problem) / s
