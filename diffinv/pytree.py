"""Frozen dataclasses that JAX transforms see through.

Methods, operators, noise models and priors are values: `@pytree` makes a class a frozen dataclass and registers
it, so that its fields are leaves (traced, differentiated, batched by `vmap`) except those marked `static()`, which
belong to the tree's structure and key the compilation cache.
"""

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def pytree(cls: type[T]) -> type[T]:
  """Make `cls` a frozen, keyword-friendly dataclass that is a JAX pytree."""
  cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
  static_names = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static", False)]
  data_names = [f.name for f in dataclasses.fields(cls) if f.name not in static_names]
  return jax.tree_util.register_dataclass(cls, data_fields=data_names, meta_fields=static_names)


def static(default: Any = dataclasses.MISSING) -> Any:
  """Declare a field that is part of the tree's structure: hashable, never traced; a new value recompiles."""
  return dataclasses.field(default=default, metadata={"static": True})
