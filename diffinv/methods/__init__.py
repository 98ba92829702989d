"""Methods that solve y = A(x) + n with a diffusion prior, by name."""

from diffinv.methods.dps import DPS
from diffinv.methods.score_ald import ScoreALD
from diffinv.methods.sdedit import SDEdit

METHODS = {"sdedit": SDEdit, "score_ald": ScoreALD, "dps": DPS}
