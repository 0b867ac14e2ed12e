"""The `gp` strategy: a Gaussian process that also learns from earlier searches."""
