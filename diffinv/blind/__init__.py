"""Blurs that are not known: their numbers from one blurred picture with noise, by what predicts the picture best."""

from diffinv.blind.borders import BorderedBlur, bordered
from diffinv.blind.estimation import Estimate, Tried, estimate_blur

__all__ = ["BorderedBlur", "Estimate", "Tried", "bordered", "estimate_blur"]
