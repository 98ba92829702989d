"""What `prior.json` says of a prior: its fields, and how they are written, read and checked.

  {"format", "network": {"name", its architecture}, "prediction", "variance", "clip",
   "schedule": {"name", "num_steps", "ends", "betas", "zero_snr", "shift": see `diffinv.schedules.Schedule`},
   "image_shape", "size_multiple", "time_scale", "null_label", "unit_range", "provenance",
   "digests": {array: its SHA-256, see `arrays.digest`}}

Fields that came later, in LATER, are written where they differ from what they were before; `read` returns all of them.

The file is data that someone else may have made, or damaged: every field is checked before it is used, and each error
is one line that names the file and the field.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import jax
import msgspec

from diffinv import errors, files, reading
from diffinv.nets import diffusers_unet, drunet, edm_unet, small, unet
from diffinv.priors import classes
from diffinv.priors.base import OWN_TIME, PREDICTIONS, TOLD_SIGMA, VARIANCES, Prior
from diffinv.reading import shown
from diffinv.schedules import NAMES, Schedule

FORMAT = "diffinv-prior-1"
DESCRIPTION = "prior.json"
RUNTIME = ("dtype", "remat")  # fields of a network that its user chooses when loading it: not written
# Fields that priors of earlier versions lack, and what they have in their place: of the prior, a schedule, a network.
LATER: dict[str, Any] = {"time_scale": 1.0, "null_label": None, "unit_range": False}
LATER_OF_SCHEDULES: dict[str, Any] = {"ends": [], "betas": [], "zero_snr": False, "shift": 1.0}
LATER_OF_NETWORKS: dict[str, Any] = {"num_heads_upsample": None}

# No prior needs more than these. Building what a damaged description asks for could take hours, or all memory.
MAX_SCHEDULE_STEPS = 100_000  # of a schedule
MAX_TIME_SCALE = 1000  # of t: a schedule of one step, or a flow, told the time of one of 1000
MAX_LEVELS = 16  # of a network
MAX_NUMBER = 65536  # of channels, classes, pixels and the like
MAX_BLOCKS: dict[str, int] = dict.fromkeys(
  ("blocks", "middle_blocks", "num_res_blocks", "layers_per_block", "num_blocks"), 64
)


class Network(NamedTuple):
  """How to build a network. Its config has `in_channels`, `out_channels`, `size_multiple`, `reach` and `dtype`."""

  config: type  # a frozen dataclass
  make_config: Callable[..., Any]  # (**fields) -> config
  apply_function: Callable[[Any], Callable]  # one object per config, so that nothing recompiles
  init: Callable[[jax.Array, Any], Any]  # (key, config) -> params


NETWORKS = {
  "guided_diffusion": Network(unet.UNetConfig, unet.make_config, unet.apply_function, unet.init),
  "diffusers": Network(
    diffusers_unet.DiffusersConfig, diffusers_unet.make_config, diffusers_unet.apply_function, diffusers_unet.init
  ),
  "edm": Network(edm_unet.EDMConfig, edm_unet.make_config, edm_unet.apply_function, edm_unet.init),
  "drunet": Network(drunet.DRUNetConfig, drunet.make_config, drunet.apply_function, drunet.init),
  "small": Network(small.SmallConfig, small.SmallConfig, small.apply_function, small.initialize),
}


class ScheduleFields(TypedDict):
  """A noise schedule."""

  name: str
  num_steps: int
  ends: NotRequired[list[float]]
  betas: NotRequired[list[float]]
  zero_snr: NotRequired[bool]
  shift: NotRequired[float]


class Description(TypedDict):
  """The fields of prior.json with their types."""

  format: str
  network: dict[str, Any]
  prediction: str
  variance: str
  clip: bool
  schedule: ScheduleFields
  image_shape: list[int | None]
  size_multiple: int
  time_scale: NotRequired[float]
  null_label: NotRequired[int | None]
  unit_range: NotRequired[bool]
  provenance: dict[str, Any]
  digests: NotRequired[dict[str, Annotated[str, msgspec.Meta(min_length=64, max_length=64)]]]


FIELDS = tuple(Description.__annotations__)
ADVICE = "the file is incomplete or damaged: convert the weights again, or take it from where it came"


def describe(prior: Prior, config: Any, provenance: dict[str, Any] | None) -> dict[str, Any]:
  """Return the fields of a prior, checked, as `read` will return them.

  Raises:
    ValueError: the prior and the config do not fit each other.
  """
  fields = json.loads(json.dumps(_fields(prior, config, provenance)))
  parse(fields, "prior")
  return fields


def _fields(prior: Prior, config: Any, provenance: dict | None) -> dict:
  names = [name for name, network in NETWORKS.items() if isinstance(config, network.config)]
  if not names:
    raise ValueError(f"config: expected that of a network of {', '.join(NETWORKS)}, got {type(config).__name__}")
  fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in RUNTIME}
  return {
    "format": FORMAT,
    "network": {"name": names[0], **fields},
    "prediction": prior.prediction,
    "variance": prior.variance,
    "clip": prior.clip,
    "schedule": dataclasses.asdict(prior.schedule),
    "image_shape": prior.image_shape,
    "size_multiple": prior.size_multiple,
    "time_scale": prior.time_scale,
    "null_label": prior.null_label,
    "unit_range": prior.unit_range,
    "provenance": files.plain(provenance or {}),  # file names need not be valid text
  }


def written(fields: dict[str, Any]) -> dict[str, Any]:
  """Return the fields as a file has them: none that came later and is what it was before."""
  network = _without(fields["network"], LATER_OF_NETWORKS)
  schedule = _without(fields["schedule"], LATER_OF_SCHEDULES)
  return {**_without(fields, LATER), "network": network, "schedule": schedule}


def _without(fields: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in fields.items() if name not in later or value != later[name]}


def network_of(config: Any) -> Network:
  """Return the entry of NETWORKS that a config is of."""
  return next(network for network in NETWORKS.values() if isinstance(config, network.config))


@functools.cache
def param_shapes(config: Any) -> Any:
  """Return the tree of parameters of a network as `jax.ShapeDtypeStruct`; no memory, no arithmetic."""
  return jax.eval_shape(lambda: network_of(config).init(jax.random.key(0), config))


def read(folder: Path) -> dict[str, Any]:
  """Return the fields of a prior's `prior.json`, of which only the types are checked.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not JSON, of another format, or its fields are others.
    OSError: it cannot be read.
  """
  path = folder / DESCRIPTION
  try:
    description = reading.read_json(path, dict[str, Any], advice=ADVICE)
  except FileNotFoundError:
    if path.is_symlink():
      raise
    raise FileNotFoundError(f"{path}: no such file; {folder} is not a prior, make one with `diffinv convert`") from None
  _check_fields(description, str(path))
  return _completed(description)


def _completed(fields: dict[str, Any]) -> dict[str, Any]:
  """Return the fields of a file with those that came later."""
  network = fields["network"]
  known = [field.name for field in dataclasses.fields(NETWORKS[network["name"]].config)] if _is_known(network) else []
  added = {name: value for name, value in LATER_OF_NETWORKS.items() if name in known}
  schedule = {**LATER_OF_SCHEDULES, **fields["schedule"]}
  return {**LATER, **fields, "network": {**added, **network}, "schedule": schedule}


def _is_known(network: dict[str, Any]) -> bool:
  name = network.get("name")
  return isinstance(name, str) and name in NETWORKS


def _check_fields(description: dict[str, Any], where: str) -> None:
  """Check the format first, as another one may have other fields; then the names and types of the fields."""
  came = description.get("format")
  if isinstance(came, str) and came != FORMAT:
    raise ValueError(
      f"{where}: format: expected {FORMAT!r}, got {shown(came)}, of another version of diffinv; update it, or "
      "convert the weights again"
    )
  for name in description:
    if name not in FIELDS:
      raise ValueError(f"{where}: unknown field {shown(name)}; the fields are {', '.join(FIELDS)}")
  reading.check(description, Description, where, ADVICE)


def parse(description: dict, where: str) -> tuple[Any, Schedule]:
  """Check all fields; return the config of the network and the schedule.

  Args:
    description: from `read`, or to be written.
    where: the file, which begins every message.

  Raises:
    ValueError: a field is missing, unknown, or not what it has to be.
  """
  _check_fields(description, where)
  for name, choices in (("prediction", PREDICTIONS), ("variance", VARIANCES)):
    if description[name] not in choices:
      raise ValueError(f"{where}: {name}: expected one of {', '.join(choices)}, got {shown(description[name])}")
  config = _parse_network(description["network"], where)
  scale = description.get("time_scale", 1.0)
  if not 0 < scale <= MAX_TIME_SCALE:
    raise ValueError(f"{where}: time_scale: expected a number in (0, {MAX_TIME_SCALE}], got {shown(scale)}; {ADVICE}")
  _check_null(description.get("null_label"), classes.rows(config), where)
  prediction = description["prediction"]
  if scale != 1.0 and prediction in TOLD_SIGMA:
    raise ValueError(
      f"{where}: time_scale: expected 1 with the prediction {prediction!r}, got {shown(scale)}; {ADVICE}"
    )
  if description.get("unit_range", False) and prediction in OWN_TIME:
    raise ValueError(f"{where}: unit_range: expected false with the prediction {prediction!r}, got true; {ADVICE}")
  _check_image(description, config, where)
  return config, _parse_schedule(description["schedule"], where)


def _check_null(label: int | None, count: int | None, where: str) -> None:
  if label is not None and not 0 <= label < (count or 0):
    expected = "none of a network without classes" if count is None else f"one of the network's 0..{count - 1}"
    raise ValueError(f"{where}: null_label: expected {expected}, got {shown(label)}")


def _parse_network(network: dict, where: str) -> Any:
  fields = {name: tuple(v) if isinstance(v, list) else v for name, v in network.items()}
  name = fields.pop("name", None)
  if not _is_known(network):
    raise ValueError(f"{where}: network: expected the name of one of {', '.join(NETWORKS)}, got {shown(name)}")
  known = {f.name: f for f in dataclasses.fields(NETWORKS[network["name"]].config) if f.name not in RUNTIME}
  for field in fields:
    if field not in known:
      raise ValueError(f"{where}: network: unknown field {shown(field)}; the fields are {', '.join(known)}")
  for field in known:
    if field not in fields:
      raise ValueError(f"{where}: network: the field {field!r} is missing; {ADVICE}")
  for field, value in fields.items():
    _check_field(field, value, known[field].type, f"{where}: network: {field}")
  try:
    config = NETWORKS[network["name"]].make_config(**fields)
    param_shapes(config)
  except Exception as error:  # an impossible architecture: any layer may raise anything
    raise ValueError(f"{where}: network: no such network can be built: {errors.brief(error)}") from None
  return config


def _check_field(name: str, value: Any, kind: Any, where: str) -> None:
  """Check a field of a network against its annotation and the limits above."""
  if not _is_of(value, kind):
    expected = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    raise ValueError(f"{where}: expected {expected or kind}, got {shown(value)}; {ADVICE}")
  numbers = value if isinstance(value, tuple) else (value,)
  most = MAX_BLOCKS.get(name, MAX_NUMBER)
  if len(numbers) > MAX_LEVELS:
    raise ValueError(f"{where}: expected at most {MAX_LEVELS} levels, got {len(numbers)}; {ADVICE}")
  if any(isinstance(n, (int, float)) and abs(n) > most for n in numbers):
    raise ValueError(f"{where}: expected at most {most}, got {shown(max(map(abs, numbers)))}; {ADVICE}")


def _is_of(value: Any, kind: Any) -> bool:
  """Tell whether a value is of the annotated type of a field; floats must be finite, and lists have become tuples."""
  if typing.get_origin(kind) is tuple:
    return isinstance(value, tuple) and all(_is_of(entry, typing.get_args(kind)[0]) for entry in value)
  if isinstance(kind, types.UnionType):
    return any(_is_of(value, option) for option in typing.get_args(kind))
  if kind is float:
    return type(value) in (int, float) and abs(value) < math.inf
  return type(value) is kind


def _parse_schedule(schedule: dict, where: str) -> Schedule:
  name, steps = schedule["name"], schedule["num_steps"]
  for field in schedule:
    if field not in ScheduleFields.__annotations__:
      known = ", ".join(ScheduleFields.__annotations__)
      raise ValueError(f"{where}: schedule: expected the fields {known}, got {shown(field)}; {ADVICE}")
  if name not in NAMES:
    raise ValueError(f"{where}: schedule: expected a name of {', '.join(NAMES)}, got {shown(name)}")
  if not 1 <= steps <= MAX_SCHEDULE_STEPS:
    raise ValueError(f"{where}: schedule: expected num_steps in 1..{MAX_SCHEDULE_STEPS}, got {shown(steps)}")
  fields: dict[str, Any] = {field: tuple(v) if isinstance(v, list) else v for field, v in schedule.items()}
  parsed = Schedule(**fields)
  try:
    parsed.alpha_bar()  # raises if there are too few steps
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None
  return parsed


def _check_image(description: dict, config: Any, where: str) -> None:
  shape, multiple = description["image_shape"], description["size_multiple"]
  numbers = all(n is None or 0 < n <= MAX_NUMBER for n in shape)
  if len(shape) != 3 or not numbers or shape[2] is None:
    some = shown(tuple(shape))
    raise ValueError(f"{where}: image_shape: expected [height, width, channels], null for any size, got {some}")
  needed = config.size_multiple
  if multiple < 1 or multiple % needed:
    raise ValueError(f"{where}: size_multiple: expected a multiple of the network's {needed}, got {shown(multiple)}")
  if any(n is not None and n % multiple for n in shape[:2]):
    raise ValueError(f"{where}: image_shape: expected multiples of {multiple} pixels, got {shape}")
  if shape[2] != config.in_channels:
    raise ValueError(f"{where}: image_shape: the network takes {config.in_channels} channels, got {shape}")
  doubled = description["variance"] == "learned_range"
  if config.out_channels != shape[2] * (1 + doubled):
    raise ValueError(
      f"{where}: variance: {description['variance']!r} needs {shape[2] * (1 + doubled)} output channels, the network "
      f"has {config.out_channels}"
    )
