"""DDRM: denoising diffusion restoration models.

Kawar, Elad, Ermon and Song, "Denoising Diffusion Restoration Models", NeurIPS 2022, arXiv 2201.11793, Eq. 7 and 8. In
the coordinates u = x_t / alpha = x0 + sbar eps and the singular basis A = U diag(s) V^T, for coordinate i with
yb = (U^T y)_i / s_i, D the denoised image and sbar' the next noise:

  s = 0                 u' = D + sqrt(1 - eta^2) sbar' (u - D) / sbar + eta sbar' z
  sbar' < sigma_y / s   u' = D + sqrt(1 - eta^2) sbar' (yb - D) / (sigma_y / s) + eta sbar' z
  else                  u' = (1 - eta_b) D + eta_b yb + sqrt(sbar'^2 - eta_b^2 sigma_y^2 / s^2) z

and the chain starts at yb, or at 0 where s = 0 or sbar < sigma_y / s, noised to that level. What is approximate: each
coordinate meets its own datum and the covariance of x0 given x_t is not used, so that the law is not the posterior's,
even for a Gaussian prior.

Needs the SVD in closed form (`operator.spectral()`), which reflecting motion blur and coils, for instance, do not have.
Noise that differs from value to value (Poisson) counts by its root mean square.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.methods import affine, base, proximal, starts
from diffinv.methods.cases import Case, MixtureCase, Reference, each
from diffinv.pytree import pytree


@pytree
class DDRM(base.Chain):
  """Restoration in the singular basis (Eq. 7, 8); linear operators of known SVD; no gradient of the network."""

  eta: jax.Array | float = 0.85  # part of the noise that is fresh where y says little, in [0, 1]
  eta_b: jax.Array | float = 1.0  # weight of y where it is less noisy than the iterate, in [0, 1]

  name, title = "ddrm", "DDRM"
  citation = "Kawar et al., NeurIPS 2022, arXiv 2201.11793"
  entering = "each singular value by its own noise level"
  linear_in_noise = True
  ranges = {"eta": base.PART, "eta_b": base.PART}
  search = {"eta": (0.0, 0.3, 0.6, 0.85, 1.0), "eta_b": (0.5, 1.0)}
  linear_only = True
  spectral_only = True

  def init(self, key, prior, problem, start):
    basis, sbar = problem.operator.spectral(), start.sigma / start.alpha
    seen, y_bar, y_std = in_basis(problem, basis)
    z = jax.random.normal(key, problem.operator.in_shape, start.alpha.dtype)
    # Where nothing is seen: noise alone, or of a prior that knows less than pure noise, a picture below it.
    around = 0.0 if starts.knows_pure_noise(prior.schedule) else starts.picture(problem)
    unseen = basis.analyze(around + sbar * z)
    std = jnp.sqrt(jnp.maximum(sbar**2 - y_std**2, 0.0))
    change = jnp.where(seen & (sbar > y_std), y_bar + std * basis.analyze(z) - unseen, 0.0)  # Eq. 7
    return base.XState(start.alpha * (around + sbar * z + basis.synthesize(change)))

  def update(self, z, x_t, now, nxt, prior, problem):
    basis, sbar = problem.operator.spectral(), nxt.sigma / nxt.alpha
    seen, y_bar, y_std = in_basis(problem, basis)
    denoised, old = prior.denoise(x_t, now), jnp.sqrt(1.0 - self.eta**2)
    unseen = denoised.x0 + sbar * (old * denoised.eps + self.eta * z)  # Eq. 8, s = 0
    x0, noise = basis.analyze(denoised.x0), basis.analyze(z)
    noisy = x0 + sbar * (old * (y_bar - x0) / y_std + self.eta * noise)
    std = jnp.sqrt(jnp.maximum(sbar**2 - (self.eta_b * y_std) ** 2, 0.0))
    clean = (1.0 - self.eta_b) * x0 + self.eta_b * y_bar + std * noise
    change = jnp.where(sbar < y_std, noisy, clean) - basis.analyze(unseen)
    u = unseen + basis.synthesize(jnp.where(seen, change, 0.0))
    return nxt.alpha * u, {"residual_norm": base.residual_norm(problem, denoised.x0)}

  @classmethod
  def cases(cls):
    chain, start = each(exact_step, eta=0.85, eta_b=1.0), lambda p: exact_start(p, affine.ABAR[-1])
    return (Case("eta .85, eta_b 1", lambda: cls(eta=0.85, eta_b=1.0), chain, start),)

  @classmethod
  def mixture_case(cls):
    found = Reference((3.55, 3.06, 0.98), (0.90, 0.93, 0.60))
    return MixtureCase("eta .85", lambda law: cls(), reference=found)


def in_basis(problem, basis):
  """Return where s > 0, yb and its noise sigma_y / s; placeholders elsewhere."""
  seen = basis.values > 0
  s = jnp.where(seen, basis.values, 1.0)
  return seen, basis.measure(problem.y) / s, proximal.mean_std(problem) / s


# The exact law under a Gaussian prior, in the singular basis.


def exact_basis(p):
  """Return V, the singular values filled up with zeros, and U."""
  u, s, vt = np.linalg.svd(p.A)
  return vt.T, np.append(s, np.zeros(len(p.m) - len(s))), u


def exact_start(p, abar):
  """Return the law of x_T (Eq. 7)."""
  V, s, u = exact_basis(p)
  sbar, mean, var = np.sqrt((1 - abar) / abar), np.zeros(len(p.m)), np.zeros(len(p.m))
  for i in range(len(s)):
    informed = s[i] > 0 and sbar > p.sigma / s[i]
    mean[i] = (u.T @ p.y)[i] / s[i] if informed else 0.0
    var[i] = sbar**2 - (p.sigma / s[i]) ** 2 if informed else sbar**2
  return affine.Law(np.sqrt(abar) * V @ mean, abar * V @ np.diag(var) @ V.T)


def exact_step(p, abar, prev, eta, eta_b):
  """Return Eq. 8."""
  V, s, u = exact_basis(p)
  K, k = affine.denoiser(p, np.sqrt(abar), 1 - abar)
  d, sbar, sbar_s = len(p.m), np.sqrt((1 - abar) / abar), np.sqrt((1 - prev) / prev)
  of_x, of_x0, shift, std = np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
  for i in range(d):
    if s[i] == 0:
      of_x[i] = np.sqrt(1 - eta**2) * sbar_s / sbar
      of_x0[i], std[i] = 1 - of_x[i], eta * sbar_s
    elif sbar_s < p.sigma / s[i]:
      part = np.sqrt(1 - eta**2) * sbar_s * s[i] / p.sigma
      of_x0[i], shift[i], std[i] = 1 - part, part * (u.T @ p.y)[i] / s[i], eta * sbar_s
    else:
      of_x0[i], shift[i] = 1 - eta_b, eta_b * (u.T @ p.y)[i] / s[i]
      std[i] = np.sqrt(sbar_s**2 - (eta_b * p.sigma / s[i]) ** 2)
  back = np.sqrt(prev) * V
  F = back @ (np.diag(of_x / np.sqrt(abar)) @ V.T + np.diag(of_x0) @ V.T @ K)
  # The library's noise is an image; V^T z has the same law, and V diag V^T the same map.
  return affine.Affine(F, back @ (of_x0 * (V.T @ k) + shift), back @ np.diag(std) @ V.T)
