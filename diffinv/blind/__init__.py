"""Blurs that are not known: their numbers from one blurred picture with noise, by what predicts the picture best."""

from diffinv.blind.estimation import Estimate, Tried, estimate_blur

__all__ = ["Estimate", "Tried", "estimate_blur"]
