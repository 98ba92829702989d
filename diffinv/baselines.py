"""Restorations without a network: the Wiener filter of a Gaussian prior, total variation, and interpolation.

`wiener` is the exact posterior mean under a Gaussian prior, against which samplers can be judged. `fista` solves
min_x 1/2 ||y - A x||^2 + R(x), R given by its proximal map: Beck and Teboulle, "A fast iterative shrinkage-thresholding
algorithm for linear inverse problems", SIAM J. Imaging Sciences 2(1), 2009, Sec. 4 (constant step 1 / L, L = ||A||^2).
`total_variation` is FISTA with the total variation of Rudin, Osher and Fatemi, Physica D 60, 1992. One image each.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffinv.operators.base import LinearOperator, norm_squared
from diffinv.operators.pixels import Inpainting
from diffinv.priors.gaussian import StationaryGaussian
from diffinv.problems import Problem

CG_STEPS = 1000  # the eigenvalues of a 1/f^2 spectrum span six decades
CG_TOLERANCE = 1e-5  # of the relative residual
NORM_MARGIN = 1.05  # power iteration finds ||A||^2 from below
TV_STEPS, TV_INNER = 100, 50  # iterations of FISTA, and of the proximal map within each

# (v [h, w, c], step) -> argmin_x step R(x) + 1/2 ||x - v||^2. Host code: NumPy in and out.
Proximal = Callable[[np.ndarray, float], np.ndarray]


def wiener(prior: StationaryGaussian, problem: Problem, *, ridge: float = 1e-6) -> jax.Array:
  """Return the posterior mean m + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A m), `[h, w, c]`.

  Matrix-free, by conjugate gradients; linear operators.

  Args:
    prior: a Gaussian prior with `mean` and `covariance(x)`.
    problem: one image's measurement.
    ridge: added to the noise variance, so that noise-free measurements can be solved too.
  """
  operator: Any = problem.operator  # linear
  mean = jax.numpy.broadcast_to(prior.mean, operator.in_shape)
  variance = problem.noise.std(problem.y) ** 2 + ridge

  def data_covariance(v):
    return operator(prior.covariance(operator.adjoint(v))) + variance * v

  innovation = problem.y - operator(mean)
  weights = jax.scipy.sparse.linalg.cg(data_covariance, innovation, tol=CG_TOLERANCE, atol=0.0, maxiter=CG_STEPS)[0]
  return mean + prior.covariance(operator.adjoint(weights))


def fista(problem: Problem, proximal: Proximal, start: np.ndarray, *, num_steps: int = 100) -> np.ndarray:
  """Minimize 1/2 ||y - A x||^2 + R(x); linear operators.

  Args:
    problem: one image's measurement.
    proximal: of R.
    start: first iterate, `[h, w, c]`.
    num_steps: iterations; the excess of the objective falls as 1 / num_steps^2.
  """
  operator: Any = problem.operator  # linear
  y = problem.y
  step = 1.0 / (NORM_MARGIN * float(norm_squared(operator)))
  x = momentum = np.asarray(start)
  t = 1.0
  for _ in range(num_steps):
    previous = x
    x = proximal(np.asarray(_descend(operator, y, momentum, np.float32(step))), step)  # Eq. 4.1
    t_next = (1.0 + np.sqrt(1.0 + 4.0 * t**2)) / 2.0  # Eq. 4.2
    momentum = (x + (t - 1.0) / t_next * (x - previous)).astype(x.dtype)  # Eq. 4.3
    t = t_next
  return x


@jax.jit
def _descend(operator: LinearOperator, y, x, step):
  return x + step * operator.adjoint(y - operator(x))


def total_variation(
  problem: Problem, *, weight: float, num_steps: int = TV_STEPS, inner_steps: int = TV_INNER
) -> np.ndarray:
  """Minimize 1/2 ||y - A x||^2 + weight TV(x), `[h, w, c]`; linear operators. Needs scikit-image.

  TV is that of each channel, by scikit-image's proximal map: Chambolle, "An algorithm for total variation minimization
  and applications", J. Mathematical Imaging and Vision 20, 2004.

  Args:
    problem: one image's measurement.
    weight: of the total variation, for images on [-1, 1].
    num_steps: iterations of FISTA, which begins with `interpolate`.
    inner_steps: iterations of the proximal map, at most.
  """
  from skimage.restoration import denoise_tv_chambolle

  def proximal(v, step):
    return denoise_tv_chambolle(v, weight * step, max_num_iter=inner_steps, channel_axis=-1).astype(np.float32)

  return fista(problem, proximal, interpolate(problem), num_steps=num_steps)


def interpolate(problem: Problem) -> np.ndarray:
  """Fill in by biharmonic splines, enlarge by bicubic ones, or leave the picture as it was measured, `[h, w, c]`.

  The splines that fill in are scikit-image's: Damelin and Hoang, "On surface completion and image inpainting by
  biharmonic functions", Int. J. Mathematics and Mathematical Sciences, 2018.

  Raises:
    ValueError: what was measured is no picture.
  """
  operator, y = problem.operator, problem.y
  if isinstance(operator, Inpainting):
    from skimage.restoration import inpaint_biharmonic

    missing = np.asarray(operator.mask)[..., 0] == 0
    return inpaint_biharmonic(np.asarray(y), missing, channel_axis=-1).astype(np.float32)
  if not operator.is_picture or y.shape[2] != operator.in_shape[2]:
    raise ValueError(f"problem: expected the measurement of a picture with its channels, got {type(operator).__name__}")
  return np.asarray(y if y.shape == operator.in_shape else jax.image.resize(y, operator.in_shape, "cubic"))
