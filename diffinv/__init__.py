"""diffinv: inverse imaging problems with a diffusion model as the prior.

A measurement y = A(x) + n of a picture x is inverted by running the reverse process of a diffusion model and
pulling it towards y on the way.  See README.md for the commands and `diffinv.methods` for the methods.
"""
