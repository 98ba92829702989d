"""Exact laws by the names they had in one file; new code takes them from `diffinv.methods.affine` and the methods."""

from diffinv.methods.affine import *  # noqa: F403
from diffinv.methods.affine import G3 as G3
from diffinv.methods.affine import linear_alpha_bar as linear_alpha_bar
from diffinv.methods.ddrm import exact_start as ddrm_start
from diffinv.methods.ddrm import exact_step as ddrm_step
from diffinv.methods.dps import exact_step as dps_step
from diffinv.methods.pigdm import exact_algorithm_1_step as pigdm_algorithm_1_step
from diffinv.methods.pigdm import exact_step as pigdm_step
from diffinv.methods.score_ald import exact_langevin_maps as langevin_maps
from diffinv.verification.statistics import expected_coverage as expected_coverage

__all__ = ["ddrm_start", "ddrm_step", "dps_step", "langevin_maps", "pigdm_algorithm_1_step", "pigdm_step"]
