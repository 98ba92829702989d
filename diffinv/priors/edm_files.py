"""Files of EDM's networks: what tools/export_edm.py writes, and state dicts alone.

  FOLDER/edm.safetensors   the tensors of the network, of the averaged one where there are both
  FOLDER/edm.json          how it is preconditioned, see `Fields`

Checkpoints of EDM and of InverseBench are pickles of code. They are never opened here: their owner runs the tool, where
he trusts one, and converts the folder that it writes. One of InverseBench's networks is guided-diffusion's.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from diffinv import reading
from diffinv.nets import edm, edm_unet
from diffinv.nets.edm_unet import EDMConfig
from diffinv.priors.base import EDM_ENDS, Prior
from diffinv.reading import shown
from diffinv.schedules import Schedule

CONFIG, WEIGHTS = "edm.json", "edm.safetensors"
FORMAT = "diffinv-edm-1"
AGAIN = "write it again with tools/export_edm.py"
PREDICTION = "denoiser"  # of `base.PREDICTIONS`
STEPS = 1000  # of the schedule: the network is told the noise, so more or fewer only place the levels
LIKELY = ("edm", "ve", "vp")  # how a network may be preconditioned whose file does not say it, the likeliest first


# What pickles of the authors' code name, near their beginning.
NAMED = re.compile(rb"persistence|(EDM|VP|VE|DDPM)Precond|SongUNet|DhariwalUNet")
HEAD = 1_000_000  # bytes that are looked at for it


class Fields(TypedDict, total=False):
  """The fields of edm.json, with their types; what is left out is as in the authors' code."""

  format: str
  preconditioning: str  # of `edm_unet.PRECONDITIONINGS`
  sigma_data: float
  beta_d: float
  beta_min: float
  num_steps: int
  c_1: float
  c_2: float
  sigma_min: float
  sigma_max: float
  image_size: int  # pixels an edge that it was made for
  network: str  # the class that it was
  weights: str  # which of a file's: "ema"
  source: str  # the file that it was in


class Found(NamedTuple):
  """What a folder of the tool holds."""

  config: pathlib.Path
  weights: pathlib.Path
  fields: Fields


def is_one(path: Any) -> bool:
  """Tell whether a path is a folder of the tool, or one of its two files."""
  path = pathlib.Path(path)
  if path.is_dir():
    return reading.is_file(path / CONFIG)
  return path.name in (CONFIG, WEIGHTS) and reading.is_file(path.parent / CONFIG)


def is_pickle(path: pathlib.Path) -> bool:
  """Tell whether a file that holds code names that of EDM; none of it is run."""
  with open(path, "rb") as file:
    return NAMED.search(file.read(HEAD)) is not None


def find(path: Any) -> Found:
  """Return what a folder of the tool holds; tensors are not read.

  Raises:
    ValueError: its edm.json is damaged, or of another version.
    OSError: it cannot be read.
  """
  path = pathlib.Path(path)
  folder = path if path.is_dir() else path.parent
  fields = reading.read_json(folder / CONFIG, Fields, advice=AGAIN)
  for name in fields:
    if name not in Fields.__annotations__:
      known = ", ".join(Fields.__annotations__)
      raise ValueError(f"{folder / CONFIG}: expected the fields {known}, got {shown(name)}; {AGAIN}")
  if fields.get("format") != FORMAT:
    raise ValueError(f"{folder / CONFIG}: format: expected {FORMAT!r}, got {shown(fields.get('format'))}; {AGAIN}")
  return Found(folder / CONFIG, folder / WEIGHTS, fields)


def make_prior(
  tensors: Mapping[str, Any], fields: Fields, *, num_steps: int | None = None, size: int | None = None
) -> tuple[Prior, EDMConfig]:
  """Return a network as a prior, and its config.

  Args:
    tensors: by the authors' names, without a prefix.
    fields: of an edm.json; {} where nothing is said.
    num_steps: of the schedule; None for STEPS.
    size: pixels an edge; None for those that it was trained with.

  Raises:
    ValueError: it is none of the networks that are known here.
  """
  names = {field.name for field in dataclasses.fields(EDMConfig)} & fields.keys()
  config = edm.infer_config(tensors, **{name: fields[name] for name in names})  # type: ignore[literal-required]
  edge = edm.resolution(tensors) if size is None else size
  prior = Prior(
    params=edm.params_from_state_dict(tensors, config),
    apply=edm_unet.apply_function(config),
    schedule=Schedule("karras", STEPS if num_steps is None else num_steps, ends=ends(fields)),
    prediction=PREDICTION,
    clip=False,  # as its authors use it
    image_shape=(edge, edge, config.in_channels),
    size_multiple=config.size_multiple,
  )
  return prior, config


def ends(fields: Fields) -> tuple[float, float]:
  """Return the noise that a chain ends and starts with: that of the authors' sampler, where the network knows it."""
  least, most = EDM_ENDS
  return max(float(fields.get("sigma_min", least)), least), min(float(fields.get("sigma_max", most)), most)


def possible(config: EDMConfig) -> list[EDMConfig]:
  """Return the networks that a config may be which does not say how it is preconditioned, the likeliest first."""
  if config.preconditioning not in LIKELY:
    return [config]
  return [dataclasses.replace(config, preconditioning=name) for name in LIKELY]
