"""What is not known of a measurement, its noise or its blur, from the measurement and the prior."""

from diffinv.blind.estimation import Estimate, Tried, estimate_blur

__all__ = ["Estimate", "Tried", "estimate_blur"]
