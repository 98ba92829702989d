"""Add digests of their weights to priors that were made before diffinv wrote them, so that damage is seen from now on.

usage: python tools/add_digests.py --priors=FOLDER,FOLDER,...

Nothing tells whether the weights are whole now: try the prior first, or compare it with another copy.
"""

from absl import app, flags

from diffinv import errors
from diffinv.priors import folder as checkpoint

PRIORS = flags.DEFINE_list("priors", None, "Prior folders.", required=True)


def main(argv: list[str]) -> None:
  """Read the weights, and write their digests into prior.json."""
  del argv
  for name in PRIORS.value:
    try:
      checkpoint.add_digests(name)
      print(f"wrote the digests of {name}")
    except (ValueError, OSError) as error:
      raise app.UsageError(errors.one_line(error)) from None


if __name__ == "__main__":
  app.run(main)
