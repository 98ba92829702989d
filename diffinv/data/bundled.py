"""The pictures that come with the package; PROVENANCE.md says where they are from."""

import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent
ASTRONAUT = FOLDER / "astronaut.png"  # a photograph, 256x256
FACE = FOLDER / "face.png"  # a rendered portrait, 64x64
BEE = FOLDER / "bee.png"  # a photograph that no shipped prior was trained on and no setting was chosen by, 256x256
