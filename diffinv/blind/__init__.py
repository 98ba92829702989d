"""What is not known of a measurement, from the measurement and the prior."""
