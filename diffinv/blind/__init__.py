"""What is not known of a measurement, its noise, its blur or its scratches, from the measurement and the prior."""

from diffinv.blind.borders import BorderedBlur, bordered
from diffinv.blind.estimation import Estimate, Tried, estimate_blur

__all__ = ["BorderedBlur", "Estimate", "Tried", "bordered", "estimate_blur"]
