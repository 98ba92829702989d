"""diffinv: inverse imaging problems with a diffusion model as the prior.

A measurement y = A(x) + n of a picture x is inverted by running the reverse process of a diffusion model and pulling
it towards y on the way. README.md has the commands; `diffinv.methods` the methods, a file each.
"""

from diffinv.batch import sample_batch
from diffinv.checkpoint import load_prior
from diffinv.methods import METHODS
from diffinv.operators import OPERATORS
from diffinv.problems import Problem, simulate
from diffinv.sampler import sample

__all__ = ["METHODS", "OPERATORS", "Problem", "load_prior", "sample", "sample_batch", "simulate"]
__version__ = "0.1.0"
