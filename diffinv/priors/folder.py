"""A prior as a folder: where priors are found, how one is loaded and saved.

  FOLDER/prior.json   what the prior is (`description`)
  FOLDER/params/      its parameters (`arrays`)

Both are data: loading a folder that someone else made runs no code.
"""

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffinv import files, output, progress, reading
from diffinv.manifest import Manifest
from diffinv.nets import unet
from diffinv.priors import arrays, classes, description
from diffinv.priors.arrays import PARAMS
from diffinv.priors.base import Prior
from diffinv.priors.description import (
  DESCRIPTION,
  FIELDS,
  FORMAT,
  MAX_LEVELS,
  MAX_SCHEDULE_STEPS,
  NETWORKS,
  RUNTIME,
  Network,
  param_shapes,
)
from diffinv.priors.gaussian import natural
from diffinv.priors.sizes import Tiling
from diffinv.schedules import Schedule

__all__ = [
  "ANALYTIC",
  "DESCRIPTION",
  "FIELDS",
  "FORMAT",
  "MAX_LEVELS",
  "MAX_SCHEDULE_STEPS",
  "NETWORKS",
  "RUNTIME",
  "Network",
  "add_digests",
  "check_free",
  "find_folder",
  "holds_prior",
  "is_shipped",
  "known_names",
  "load_description",
  "load_prior",
  "load_provenance",
  "param_shapes",
  "save_prior",
]

KIND = "prior"  # of folder
TILE = 1024  # pixels: at 64 channels some 0.5 GB for the layers of a window, a half more work at a reach of 112
BUILDING = ".building"  # of the name of the folder in which one is written

# Priors that need no file, made when they are asked for.
ANALYTIC: dict[str, Callable[[], Any]] = {"natural": natural}


def save_prior(
  folder: str | os.PathLike[str],
  prior: Prior,
  config: Any,
  provenance: dict[str, Any] | None = None,
  *,
  overwrite: bool = False,
  command: str = "save_prior",
) -> Path:
  """Write a prior to a new folder, in full or not at all.

  Args:
    folder: to be made, with its parents.
    prior: what to write; its parameters are written in float32.
    config: of its network, one of NETWORKS.
    provenance: where the parameters come from, for people to read; anything that JSON can hold.
    overwrite: replace a prior that is there. The same one is not written again.
    command: that made it, for the list of its files.

  Returns:
    The folder.

  Raises:
    ValueError: the prior and the config do not fit each other.
    FileExistsError: the folder exists and `overwrite` is off, or it holds something other than a prior.
  """
  folder = Path(os.path.abspath(os.path.expanduser(folder)))
  fields = description.describe(prior, config, provenance)
  found = {name: value.shape for name, value in arrays.flat(prior.params).items()}
  arrays.check_shapes(found, param_shapes(config), "params")
  fields["digests"] = arrays.digests(prior.params)
  if not overwrite and holds_prior(folder) and description.read(folder) == fields:
    output.tidy(folder)
    progress.note(f"{folder} holds this prior already; it is not written again")
    return folder
  check_free(folder, overwrite=overwrite)
  building = output.Folder(folder, KIND, command, suffix=BUILDING)
  with building.held(restart=True):
    try:
      arrays.write(building.new(f"{PARAMS}/", DESCRIPTION), prior.params)
      _write_description(building.new(DESCRIPTION), fields)
    except BaseException:
      building.discard()
      raise
    building.publish(overwrite=overwrite)
  return folder


def holds_prior(folder: str | os.PathLike[str]) -> bool:
  """Tell whether a folder is one that `save_prior` wrote."""
  return reading.is_file(Path(folder) / DESCRIPTION) and getattr(Manifest.read(Path(folder)), "kind", None) == KIND


def check_free(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
  """Check that a prior may be written to `folder`; call it before the work of making one.

  Raises:
    FileExistsError: something is there and `overwrite` is off, or it is not a prior.
  """
  output.check(os.path.expanduser(folder), KIND, overwrite=overwrite)


def load_prior(
  name_or_folder: str | os.PathLike[str],
  *,
  dtype: str = "float32",
  remat: bool = False,
  label: int | None = None,
  guidance: float | None = None,
  tile: int | str = "auto",
) -> Any:
  """Load a prior.

  Args:
    name_or_folder: a folder that `save_prior` or `diffinv convert` made, the name of one in `checkpoints/`, or
      "natural" (analytic, no file).
    dtype: "float32" or "bfloat16", of the network's activations; parameters and output stay float32.
    remat: recompute activations in gradients: less memory, more time.
    label: the class, for a class-conditional network; None for any other, and for no class where it has a null class.
    guidance: of a network with a null class: 1 is `label`, more is more of it, see `classes`; two evaluations in the
      place of one. None for none.
    tile: edge of the tiles, pixels, in which the network is evaluated on larger pictures; "auto" for TILE where the
      network allows it, "none" for never. The result is the same to rounding.

  Returns:
    A `diffinv.priors.Prior`, or an analytic prior.

  Raises:
    FileNotFoundError: there is no such name or folder.
    ValueError: `prior.json` or the arrays are damaged, or an option does not fit; one line that says what and where.

  Example:
    >>> import diffinv
    >>> prior = diffinv.load_prior("photo")
    >>> prior.image_shape, prior.size_multiple
    ((None, None, 3), 8)
  """
  name = os.fspath(name_or_folder)
  if name in ANALYTIC:
    given = {"dtype": (dtype, "float32"), "remat": (remat, False), "label": (label, None), "guidance": (guidance, None)}
    for option, (value, default) in given.items():
      if value != default:
        raise ValueError(f"{option}: expected none with {name}, which has no network, got {value}; leave it out")
    return ANALYTIC[name]()
  folder = _find(name)
  fields, config, schedule = _read(folder)
  config = _with_options(config, dtype, remat)
  params = _read_params(folder, fields, config)
  apply = NETWORKS[fields["network"]["name"]].apply_function(config)
  params, apply = classes.conditioned(apply, params, classes.rows(config), fields["null_label"], label, guidance)
  return Prior(
    params=params,
    apply=apply,
    schedule=schedule,
    prediction=fields["prediction"],
    variance=fields["variance"],
    clip=fields["clip"],
    image_shape=tuple(fields["image_shape"]),
    size_multiple=fields["size_multiple"],
    tiling=_tiling(tile, config, fields["size_multiple"]),
    time_scale=fields["time_scale"],
    null_label=fields["null_label"],
    unit_range=fields["unit_range"],
  )


def _tiling(tile: int | str, config: Any, multiple: int) -> Tiling | None:
  if tile == "auto":
    return None if config.reach is None else Tiling(-(-TILE // multiple) * multiple, config.reach)
  if tile == "none":
    return None
  if not isinstance(tile, int) or tile < 1 or tile % multiple:
    raise ValueError(f"tile: expected auto, none, or a multiple of {multiple} pixels, got {tile}")
  if config.reach is None:
    raise ValueError(
      f"tile: expected none for this network, which looks at the whole picture, got {tile}; leave it out"
    )
  return Tiling(tile, config.reach)


def _read(folder: Path) -> tuple[dict[str, Any], Any, Schedule]:
  """Return the fields of a folder's prior.json, the config of its network and its schedule, all checked."""
  fields = description.read(folder)
  config, schedule = description.parse(fields, str(folder / DESCRIPTION))
  return fields, config, schedule


def _read_params(folder: Path, fields: dict[str, Any], config: Any) -> Any:
  if "digests" not in fields:
    progress.note(
      f"{folder}: its weights are used unchecked, as its {DESCRIPTION} has no digests of them; add them with "
      "tools/add_digests.py"
    )
  return arrays.read(folder / PARAMS, param_shapes(config), fields.get("digests"))


def add_digests(folder: str | os.PathLike[str]) -> None:
  """Add the digests of its arrays, as they are now, to the description of a prior that has none.

  Args:
    folder: of the prior; names are not looked up, as the prior is changed.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: `prior.json` or the arrays are damaged, or it has digests.
    OSError: it cannot be written.
  """
  folder = Path(os.path.abspath(folder))
  fields, config, _ = _read(folder)
  if "digests" in fields:
    raise ValueError(f"{folder}: expected a prior without digests, got one that has them; leave it out")
  fields["digests"] = arrays.digests(arrays.read(folder / PARAMS, param_shapes(config)))
  _write_description(folder / DESCRIPTION, fields)


def _write_description(path: Path, fields: dict[str, Any]) -> None:
  with files.file(path) as partial:
    partial.write_text(json.dumps(description.written(fields), indent=2) + "\n", encoding="utf-8")


def load_description(name_or_folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
  """Return the fields of a prior's prior.json and the config of its network, without reading its arrays.

  Raises:
    FileNotFoundError: there is no such name or folder.
    ValueError: the prior is analytic, or its `prior.json` is damaged.
  """
  name = os.fspath(name_or_folder)
  if name in ANALYTIC:
    raise ValueError(f"{name}: expected a prior with a network, got an analytic one; choose another")
  fields, config, _ = _read(_find(name))
  return fields, config


def load_provenance(name_or_folder: str | os.PathLike[str]) -> dict[str, Any]:
  """Return what prior.json says about the origin of the weights; empty if it says nothing.

  Raises:
    FileNotFoundError: there is no such name or folder.
    ValueError: `prior.json` is damaged.
  """
  return description.read(_find(os.fspath(name_or_folder)))["provenance"]


def _with_options(config: Any, dtype: str, remat: bool) -> Any:
  if dtype not in unet.DTYPES:
    raise ValueError(f"dtype: expected one of {', '.join(unet.DTYPES)}, got {dtype!r}")
  if remat and not hasattr(config, "remat"):
    raise ValueError("remat: this network has no such option; leave it out")
  return dataclasses.replace(config, dtype=dtype, **({"remat": True} if remat else {}))


def is_shipped(name_or_folder: str | os.PathLike[str]) -> bool:
  """Tell whether a prior is analytic or in `checkpoints/`, and not a folder of the user's with the same name."""
  name = os.fspath(name_or_folder)
  return name in ANALYTIC or _find(name).resolve().parent in [root.resolve() for root in _roots()]


def find_folder(name_or_folder: str | os.PathLike[str]) -> Path | None:
  """Return the folder of a prior; None of an analytic one, and where there is none."""
  name = os.fspath(name_or_folder)
  try:
    return None if name in ANALYTIC else _find(name)
  except FileNotFoundError:
    return None


def known_names() -> list[str]:
  """Return the names that `load_prior` takes, besides folders."""
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
    return folder  # reading it will say what is missing
  known = ", ".join(known_names())
  raise FileNotFoundError(f"{name}: no such prior; give a folder made by `diffinv convert`, or one of {known}")


def _roots() -> list[Path]:
  # The repository's checkpoints/ is installed as the package diffinv_checkpoints; in a working copy it is beside ours.
  spec = importlib.util.find_spec("diffinv_checkpoints")
  installed = list(spec.submodule_search_locations or []) if spec is not None else []
  beside = Path(__file__).resolve().parents[2] / "checkpoints"
  return [Path(p) for p in installed if Path(p).is_dir()] + ([beside] if beside.is_dir() else [])
