"""Restorations without a network, by name: what a network has to be ahead of; each a function and a row of BASELINES.

Each sees the problem alone, as the methods do, and chooses what it needs to choose by a rule of the noise.
`interpolate` and `wiener` with a prior of its own serve `diffinv evaluate`.
"""

from diffinv.baselines import base
from diffinv.baselines.base import Baseline
from diffinv.baselines.deconvolution import richardson_lucy
from diffinv.baselines.interpolation import bicubic, biharmonic, interpolate, lanczos
from diffinv.baselines.linear import natural_wiener, pseudo_inverse, wiener
from diffinv.baselines.smoothing import non_local_means
from diffinv.baselines.variation import total_variation

__all__ = ["BASELINES", "Baseline", "interpolate", "total_variation", "wiener"]

SKIMAGE = "skimage"

_TABLE = (
  Baseline(
    *("pseudo_inverse", "Pseudo-inverse", pseudo_inverse, "Moore; Penrose, 1955", "A⁺y, within the range of pictures"),
    suits=base.is_linear,
    needs="linear",
  ),
  Baseline(
    *("bicubic", "Bicubic", bicubic, "Keys, IEEE TASSP 1981; Pillow", "cubic convolution"),
    suits=base.is_reduction,
    needs="a smaller picture",
  ),
  Baseline(
    *("lanczos", "Lanczos", lanczos, "Duchon, JAM 1979; Pillow", "a windowed sinc"),
    suits=base.is_reduction,
    needs="a smaller picture",
  ),
  Baseline(
    *("wiener", "Wiener filter", natural_wiener, "Wiener, 1949", "the posterior mean under `natural`"),
    suits=base.is_linear_of_color,
    needs="linear, of color",
  ),
  Baseline(
    *("total_variation", "Total variation", total_variation, "Rudin et al., Physica D 1992"),
    "½‖y − Ax‖² + weight TV(x), the weight by the noise in Aᵀy",
    suits=base.is_linear,
    needs="linear",
  ),
  Baseline(
    *("non_local_means", "Non-local means", non_local_means, "Buades et al., CVPR 2005"),
    "means over like surroundings, h = 0.8 σ",
    suits=base.is_identity,
    needs="the identity, with noise",
    noisy=True,
    library=SKIMAGE,
  ),
  Baseline(
    *("biharmonic", "Biharmonic", biharmonic, "Damelin and Hoang, 2018"),
    "splines fill in, what is known stays",
    suits=base.is_inpainting,
    needs="missing pixels",
    library=SKIMAGE,
  ),
  Baseline(
    *("richardson_lucy", "Richardson-Lucy", richardson_lucy, "Richardson, 1972; Lucy, 1974"),
    "multiplied light, until the residual is the noise",
    suits=base.is_blur,
    needs="a blur",
  ),
)
BASELINES = {baseline.name: baseline for baseline in _TABLE}
