"""Checkpoints: a folder of Orbax arrays and a `prior.json` that says what they are.

  FOLDER/prior.json   {"format", "network": {"name", its architecture}, "prediction", "variance", "clip",
                       "schedule": {"name", "num_steps"}, "image_shape", "size_multiple", "provenance"}
  FOLDER/params/      an Orbax checkpoint of the parameters

Both are data: loading a folder that someone else made runs no code. Loading is strict: an array that is missing, left
over or misshapen is an error that names it.
"""

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffinv import errors, output, priors
from diffinv.nets import small, unet
from diffinv.priors import Prior
from diffinv.schedules import BETAS, Schedule

FORMAT = "diffinv-prior-1"
DESCRIPTION = "prior.json"
PARAMS = "params"
RUNTIME = ("dtype", "remat")  # fields of a network that each user of it chooses: not written

# More than these no prior has: a damaged description that asks for it would take hours or all memory to follow.
MAX_SCHEDULE_STEPS = 100_000
MAX_LEVELS = 16  # of a network
MAX_NUMBER = 65536  # of channels, classes and the like
MAX_BLOCKS = dict.fromkeys(("blocks", "middle_blocks", "num_res_blocks"), 64)


class Network(NamedTuple):
  """How to build a network. Its config has `in_channels`, `out_channels`, `size_multiple` and `dtype`."""

  config: type  # a frozen dataclass
  make_config: Callable[..., Any]  # (**fields) -> config
  apply_function: Callable[[Any], Callable]  # one object a config, so that nothing recompiles
  init: Callable[[jax.Array, Any], Any]  # (key, config) -> params


NETWORKS = {
  "guided_diffusion": Network(unet.UNetConfig, unet.make_config, unet.apply_function, unet.init),
  "small": Network(small.SmallConfig, small.SmallConfig, small.apply_function, small.initialize),
}

# Priors that need no file, made when asked for.
ANALYTIC = {"natural": lambda: priors.natural()}

# The fields of prior.json with their types.
FIELDS = {
  "format": str,
  "network": dict,
  "prediction": str,
  "variance": str,
  "clip": bool,
  "schedule": dict,
  "image_shape": list,
  "size_multiple": int,
  "provenance": dict,
}


def save_prior(
  folder: str | os.PathLike,
  prior: Prior,
  config: Any,
  provenance: dict[str, Any] | None = None,
  *,
  overwrite: bool = False,
) -> Path:
  """Write a prior to a new folder, whole or not at all.

  Args:
    folder: to be made; its parents are made too.
    prior: what to write; its parameters are written in float32.
    config: of its network, one of NETWORKS.
    provenance: where the parameters come from, for people to read; JSON.
    overwrite: replace a prior that is there.

  Returns:
    The folder.

  Raises:
    ValueError: the prior and the config do not fit each other.
    FileExistsError: the folder exists and `overwrite` is off, or it holds something other than a prior.
  """
  folder = Path(os.path.abspath(folder))
  description = json.loads(json.dumps(_describe(prior, config, provenance)))  # as it will be read
  _parse(description, "prior")
  expected = param_shapes(config)
  _check_tree({name: v.shape for name, v in _flat(prior.params).items()}, expected, "params")
  with output.built(folder, lambda: check_free(folder, overwrite=overwrite)) as building:
    _write_arrays(building / PARAMS, prior.params)
    (building / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
  return folder


def _describe(prior: Prior, config: Any, provenance: dict | None) -> dict:
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
    "provenance": output.plain(provenance or {}),  # names of files need not be text
  }


@functools.lru_cache(maxsize=None)
def param_shapes(config: Any) -> Any:
  """Return the tree of parameters of a network as `jax.ShapeDtypeStruct`; no memory, no arithmetic."""
  init = next(network.init for network in NETWORKS.values() if isinstance(config, network.config))
  return jax.eval_shape(lambda: init(jax.random.key(0), config))


def check_free(folder: str | os.PathLike, *, overwrite: bool) -> None:
  """Check that a prior may be written to `folder`, before the work of making one.

  Raises:
    FileExistsError: there is something and `overwrite` is off, or it is no prior.
  """
  folder = Path(folder)
  if not os.path.lexists(folder):
    return
  if not overwrite:
    raise FileExistsError(
      f"output: expected a new folder, got one that exists, {folder}; choose another --output, or replace it with "
      "--overwrite"
    )
  if not (folder / DESCRIPTION).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
    raise FileExistsError(
      f"output: expected a prior to overwrite, got something else, {folder}; choose another --output"
    )


def load_prior(
  name_or_folder: str | os.PathLike, *, dtype: str = "float32", remat: bool = False, label: int | None = None
) -> Any:
  """Load a prior.

  Args:
    name_or_folder: a folder that `save_prior` or `diffinv convert` made, the name of one in `checkpoints/`, or
      "natural" (analytic, no file).
    dtype: "float32" or "bfloat16", of the network's products; its parameters and output stay float32.
    remat: recompute activations in gradients: less memory, more time.
    label: the class, for a class-conditional network; otherwise None.

  Returns:
    A `diffinv.priors.Prior`, or an analytic prior.

  Raises:
    FileNotFoundError: there is no such name or folder.
    ValueError: `prior.json` or the arrays are damaged, or an option does not fit; one line that says what and where.
  """
  name = os.fspath(name_or_folder)
  if name in ANALYTIC:
    for option, value, default in (("dtype", dtype, "float32"), ("remat", remat, False), ("label", label, None)):
      if value != default:
        raise ValueError(f"{option}: expected none with {name}, which has no network, got {value}; leave it out")
    return ANALYTIC[name]()
  folder = _find(name)
  where = str(folder / DESCRIPTION)
  description, config, schedule = _parse(_read_description(folder), where)
  config = _with_options(config, dtype, remat)
  params = _read_arrays(folder / PARAMS, config)
  apply = NETWORKS[description["network"]["name"]].apply_function(config)
  params, apply = _with_label(apply, params, getattr(config, "num_classes", None), label)
  return Prior(
    params=params,
    apply=apply,
    schedule=schedule,
    prediction=description["prediction"],
    variance=description["variance"],
    clip=description["clip"],
    image_shape=tuple(description["image_shape"]),
    size_multiple=description["size_multiple"],
  )


def load_description(name_or_folder: str | os.PathLike) -> tuple[dict[str, Any], Any]:
  """Return the fields of a prior's prior.json, and the config of its network, without its arrays.

  Raises:
    FileNotFoundError: there is no such name or folder.
    ValueError: the prior is analytic, or its `prior.json` is damaged.
  """
  name = os.fspath(name_or_folder)
  if name in ANALYTIC:
    raise ValueError(f"{name}: expected a prior with a network, got an analytic one; choose another")
  folder = _find(name)
  description, config, _ = _parse(_read_description(folder), str(folder / DESCRIPTION))
  return description, config


def load_provenance(name_or_folder: str | os.PathLike) -> dict[str, Any]:
  """Return what prior.json says of where the weights come from; empty where it says nothing."""
  return _read_description(_find(str(name_or_folder))).get("provenance") or {}


def _with_options(config: Any, dtype: str, remat: bool) -> Any:
  if dtype not in unet.DTYPES:
    raise ValueError(f"dtype: expected one of {', '.join(unet.DTYPES)}, got {dtype!r}")
  if remat and not hasattr(config, "remat"):
    raise ValueError("remat: this network has no such option; leave it out")
  return dataclasses.replace(config, dtype=dtype, **({"remat": True} if remat else {}))


def _with_label(apply, params, num_classes, label):
  if num_classes is None and label is None:
    return params, apply
  if num_classes is None:
    raise ValueError(f"label: expected none, the network is unconditional, got {label}; leave it out")
  if label is None or not 0 <= label < num_classes:
    got = "none" if label is None else label
    raise ValueError(f"label: expected a class in 0..{num_classes - 1} for this network, got {got}")
  return {"network": params, "label": jnp.asarray(label, jnp.int32)}, conditional_apply(apply)


@functools.lru_cache(maxsize=None)
def conditional_apply(apply: Callable) -> Callable:
  """Return `({"network": params, "label": []}, x_t, t) -> output`: another class does not recompile."""
  return lambda params, x_t, t: apply(params["network"], x_t, t, params["label"])


def is_shipped(name_or_folder: str | os.PathLike) -> bool:
  """Tell whether a prior is analytic or of `checkpoints/`, and not one of the user's that may have the same name."""
  name = os.fspath(name_or_folder)
  return name in ANALYTIC or _find(name).resolve().parent in [root.resolve() for root in _roots()]


def known_names() -> list[str]:
  """Return the names that `load_prior` takes besides folders."""
  found = {p.parent.name for root in _roots() for p in root.glob(f"*/{DESCRIPTION}")}
  return sorted({*ANALYTIC, *found})


def _find(name: str) -> Path:
  folder = Path(os.path.abspath(os.path.expanduser(name)))
  if (folder / DESCRIPTION).is_file():
    return folder
  if os.sep not in name:
    for root in _roots():
      if (root / name / DESCRIPTION).is_file():
        return root / name
  if folder.is_dir():
    return folder  # whose reader says what is missing
  known = ", ".join(known_names())
  raise FileNotFoundError(f"{name}: no such prior; give a folder made by `diffinv convert`, or one of {known}")


def _roots() -> list[Path]:
  # Installed, the repository's checkpoints/ is the package diffinv_checkpoints; in a working copy it lies beside ours.
  spec = importlib.util.find_spec("diffinv_checkpoints")
  installed = list(spec.submodule_search_locations or []) if spec is not None else []
  beside = Path(__file__).resolve().parents[2] / "checkpoints"
  return [Path(p) for p in installed if Path(p).is_dir()] + ([beside] if beside.is_dir() else [])


def _read_description(folder: Path) -> dict:
  path = folder / DESCRIPTION
  try:
    description = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: no such file; {folder} is not a prior, make one with `diffinv convert`") from None
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{path}: expected JSON, got {e.__class__.__name__}; the file is truncated or damaged") from None
  if not isinstance(description, dict):
    raise ValueError(f"{path}: expected a JSON object, got {type(description).__name__}")
  return description


def _parse(description: dict, where: str) -> tuple[dict, Any, Schedule]:
  """Return the checked fields, the network's config and the schedule; `where` opens every message."""
  if description.get("format") != FORMAT:
    came = description.get("format")
    raise ValueError(f"{where}: format: expected {FORMAT!r}, got {came!r}; convert the weights again")
  for name in description:
    if name not in FIELDS:
      raise ValueError(f"{where}: unknown field {name!r}; the fields are {', '.join(FIELDS)}")
  for name, kind in FIELDS.items():
    if name not in description:
      raise ValueError(f"{where}: the field {name!r} is missing; the file is incomplete")
    if not isinstance(description[name], kind) or (kind is int and isinstance(description[name], bool)):
      raise ValueError(f"{where}: {name}: expected {kind.__name__}, got {description[name]!r}")
  for name, choices in (("prediction", priors.PREDICTIONS), ("variance", priors.VARIANCES)):
    if description[name] not in choices:
      raise ValueError(f"{where}: {name}: expected one of {', '.join(choices)}, got {description[name]!r}")
  config = _parse_network(description["network"], where)
  _check_image(description, config, where)
  return description, config, _parse_schedule(description["schedule"], where)


def _parse_network(network: dict, where: str) -> Any:
  fields = {name: tuple(v) if isinstance(v, list) else v for name, v in network.items()}
  name = fields.pop("name", None)
  if not isinstance(name, str) or name not in NETWORKS:
    raise ValueError(f"{where}: network: expected the name of one of {', '.join(NETWORKS)}, got {name!r}")
  known = {f.name: f for f in dataclasses.fields(NETWORKS[name].config) if f.name not in RUNTIME}
  for field in fields:
    if field not in known:
      raise ValueError(f"{where}: network: unknown field {field!r}; the fields are {', '.join(known)}")
  for field in known:
    if field not in fields:
      raise ValueError(f"{where}: network: the field {field!r} is missing; the file is incomplete")
  for field, value in fields.items():
    _check_field(field, value, known[field].type, f"{where}: network: {field}")
  try:
    config = NETWORKS[name].make_config(**fields)
    param_shapes(config)
  except Exception as e:  # an architecture that cannot be: any error of any layer
    raise ValueError(f"{where}: network: no such network can be built: {errors.brief(e)}") from None
  return config


def _check_field(name: str, value: Any, kind: Any, where: str) -> None:
  """Check a field of a network against its annotation and against what is sensible."""
  if not _is_of(value, kind):
    expected = getattr(kind, "__name__", None) if isinstance(kind, type) else None
    raise ValueError(f"{where}: expected {expected or kind}, got {value!r}; the file is damaged")
  numbers = value if isinstance(value, tuple) else (value,)
  most = MAX_BLOCKS.get(name, MAX_NUMBER)
  if len(numbers) > MAX_LEVELS:
    raise ValueError(f"{where}: expected at most {MAX_LEVELS} levels, got {len(numbers)}; the file is damaged")
  if any(isinstance(n, (int, float)) and abs(n) > most for n in numbers):
    raise ValueError(f"{where}: expected at most {most}, got {max(map(abs, numbers))}; the file is damaged")


def _is_of(value: Any, kind: Any) -> bool:
  """Tell whether a value, lists being tuples, is what a dataclass's annotation says; floats have to be finite."""
  if typing.get_origin(kind) is tuple:
    return isinstance(value, tuple) and all(_is_of(entry, typing.get_args(kind)[0]) for entry in value)
  if isinstance(kind, types.UnionType):
    return any(_is_of(value, option) for option in typing.get_args(kind))
  if kind is float:
    return type(value) in (int, float) and abs(value) < math.inf
  return type(value) is kind


def _parse_schedule(schedule: dict, where: str) -> Schedule:
  name, steps = schedule.get("name"), schedule.get("num_steps")
  if set(schedule) != {"name", "num_steps"} or not isinstance(name, str) or name not in BETAS or type(steps) is not int:
    raise ValueError(f"{where}: schedule: expected a name of {', '.join(BETAS)} and whole num_steps, got {schedule}")
  if not 1 <= steps <= MAX_SCHEDULE_STEPS:
    raise ValueError(f"{where}: schedule: expected num_steps in 1..{MAX_SCHEDULE_STEPS}, got {steps}")
  parsed = Schedule(name, steps)
  try:
    parsed.alpha_bar()  # tells too few steps
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None
  return parsed


def _check_image(description: dict, config: Any, where: str) -> None:
  shape, multiple = description["image_shape"], description["size_multiple"]
  numbers = all(n is None or (type(n) is int and 0 < n <= MAX_NUMBER) for n in shape)
  if len(shape) != 3 or not numbers or shape[2] is None:
    raise ValueError(f"{where}: image_shape: expected [height, width, channels], null for any size, got {shape}")
  needed = config.size_multiple
  if multiple < 1 or multiple % needed:
    raise ValueError(f"{where}: size_multiple: expected a multiple of the network's {needed}, got {multiple}")
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


def _flat(tree: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep="/") if isinstance(tree, dict) else {"": tree}


def _check_tree(found: dict[str, tuple], expected: Any, where: str) -> None:
  expected = {k: v.shape for k, v in _flat(expected).items()}
  advice = "the checkpoint is damaged or another network's: convert the weights again"
  for name, shape in expected.items():
    if name not in found:
      raise ValueError(f"{where}: array {name!r}: expected shape {list(shape)}, the checkpoint has none; {advice}")
    if tuple(found[name]) != shape:
      raise ValueError(f"{where}: array {name!r}: expected shape {list(shape)}, found {list(found[name])}; {advice}")
  for name in found:
    if name not in expected:
      raise ValueError(f"{where}: array {name!r}: the network has no such array; {advice}")


def _write_arrays(folder: Path, params: Any) -> None:
  import orbax.checkpoint as ocp  # seconds to import, and only files need it

  params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
  with full_disk(folder), ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, params)
    checkpointer.wait_until_finished()


@contextlib.contextmanager
def full_disk(place: str | os.PathLike) -> Iterator[None]:
  """Turn what Orbax makes of a full disk within, pages of it, into the OSError that it is, at `place`."""
  try:
    yield
  except (ValueError, RuntimeError) as error:
    code = next((code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in str(error)), None)
    if code is None:
      raise
    raise OSError(code, os.strerror(code), os.fspath(place)) from None


def _read_arrays(folder: Path, config: Any) -> Any:
  import orbax.checkpoint as ocp

  shapes = param_shapes(config)
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder}: no such folder; the checkpoint is incomplete, convert the weights again")
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32, sharding=device), shapes)
  with ocp.StandardCheckpointer() as checkpointer:
    try:
      stored = checkpointer.metadata(folder).item_metadata
      stored = _flat(getattr(stored, "tree", stored))
      found = {name: v.shape for name, v in stored.items()}
      kinds = {name: v.dtype for name, v in stored.items()}
    except Exception as e:  # whatever a damaged file makes of it
      raise ValueError(f"{folder}: no Orbax checkpoint: {errors.brief(e)}; convert the weights again") from None
    _check_tree(found, shapes, str(folder))
    for name, kind in kinds.items():
      if not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"{folder}: array {name!r}: expected floats, found {kind}; convert the weights again")
    try:
      params = checkpointer.restore(folder, target)
    except Exception as e:
      raise ValueError(f"{folder}: the arrays cannot be read: {errors.brief(e)}; convert the weights again") from None
  for name, value in _flat(params).items():
    if not np.all(np.isfinite(value)):
      raise ValueError(f"{folder}: array {name!r}: expected finite values, found NaN or infinity; convert it again")
  return params
