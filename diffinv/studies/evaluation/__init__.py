"""What `diffinv.evaluate` measures of a prior, a file a measure."""
