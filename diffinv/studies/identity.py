"""What made a result and what it was made of: options, versions, the device, digests of priors, operators, methods."""

import dataclasses
import hashlib
import os
import pathlib
import platform
from importlib import metadata
from typing import Any, TypeGuard

import jax
import numpy as np

import diffinv
from diffinv import options
from diffinv.priors import PicturePrior
from diffinv.priors.folder import ANALYTIC, load_description, load_prior
from diffinv.studies.study import Running

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow")


def load(config: Running) -> PicturePrior:
  """Load the prior that a configuration names, or return the one that it holds.

  Raises:
    UsageError: options of a named prior come with an object.
    FileNotFoundError, ValueError: see `load_prior`.
  """
  prior: Any = config.prior
  given: dict[str, Any] = {"label": config.label, "guidance": config.guidance, "dtype": config.dtype}
  given |= {"remat": config.remat or None, "tile": None if config.tile == Running.tile else config.tile}
  given = {name: value for name, value in given.items() if value is not None}
  if is_named(prior):
    return load_prior(prior, **given)
  if given:
    name = next(iter(given))
    raise diffinv.errors.UsageError(f"`{name}` is for a prior given by its name; load the object with it instead")
  return prior


def is_named(prior: Any) -> TypeGuard[str | os.PathLike[str]]:
  """Tell whether a prior is given by its name or folder."""
  return isinstance(prior, (str, pathlib.PurePath))


def provenance(config: Running, command: str, **places: Any) -> dict[str, Any]:
  """Return what made a result: options, seed, versions, device.

  Args:
    config: whose options they are.
    command: of the command line.
    places: what the command line says besides, such as the output.
  """
  device = jax.devices()[0]
  versions = {"python": platform.python_version(), "diffinv": diffinv.__version__}
  named = {name: plain_option(value) for name, value in options.settings(config).items()}
  return {
    "command": command,
    "settings": {**named, **places},
    "seed": config.seed,
    "versions": {**versions, **{name: metadata.version(name) for name in PACKAGES}},
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "used": config.devices or 1,
      "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]  # JAX adds it when run
    },
  }


def plain_option(value: Any) -> Any:
  """Return the value of an option as JSON takes it: objects by the name of their class, arrays by their digest."""
  if isinstance(value, (tuple, list)):
    return [plain_option(entry) for entry in value]
  if isinstance(value, dict):
    return {str(name): plain_option(entry) for name, entry in value.items()}
  if isinstance(value, np.ndarray):
    return f"array {value.shape} {digest(value)[:12]}"
  if value is None or isinstance(value, (str, bool, int, float, pathlib.PurePath)):
    return value
  return f"<{type(value).__name__}>"


def objects(config: Running) -> dict[str, list[str]]:
  """Return the options that hold what no command line can say, as an entry of a plan; none where there are none."""
  found = [name for name, value in options.settings(config).items() if _is_object(value)]
  return {"objects": found} if found else {}


def _is_object(value: Any) -> bool:
  if isinstance(value, (tuple, list)):
    return any(map(_is_object, value))
  return not (value is None or isinstance(value, (str, bool, int, float, pathlib.PurePath)))


def describe_prior(config: Running, prior: PicturePrior) -> dict[str, Any]:
  """Return what identifies a prior: its name, its numbers and its network."""
  named = is_named(config.prior)
  network = None
  if is_named(config.prior) and config.prior not in ANALYTIC:
    network = dataclasses.asdict(load_description(config.prior)[1])
  name = str(config.prior) if named else type(prior).__name__
  return {"name": name, "sha256": fingerprint(prior), "network": network}


def fingerprint(tree: Any) -> str:
  """Return a digest of the numbers of a prior, an operator or a method, and of how they are used: its static fields."""
  found = hashlib.sha256()
  if dataclasses.is_dataclass(tree):
    fields = [field.name for field in dataclasses.fields(tree) if field.metadata.get("static")]
    values = {name: getattr(tree, name) for name in fields}
    used = {name: value for name, value in values.items() if not callable(value) and not _is_silent(name, value)}
    found.update(repr(used).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.asarray(leaf).tobytes())
  return found.hexdigest()


def _is_silent(name: str, value: Any) -> bool:
  """Tell whether a field of a prior changes nothing, so that results from before there was one go on."""
  return name == "tiling" or (name, value) in (("time_scale", 1.0), ("null_label", None))


def digest(array: np.ndarray) -> str:
  """Return the SHA-256 of an array's numbers."""
  return hashlib.sha256(array.tobytes()).hexdigest()
