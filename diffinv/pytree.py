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
  fields = dataclasses.fields(cls)
  static_names = tuple(f.name for f in fields if f.metadata.get("static", False))
  data_names = tuple(f.name for f in fields if f.name not in static_names)
  keys = tuple(map(jax.tree_util.GetAttrKey, data_names))

  def flatten(instance):
    return [getattr(instance, name) for name in data_names], tuple(getattr(instance, name) for name in static_names)

  def flatten_with_keys(instance):
    leaves, structure = flatten(instance)
    return list(zip(keys, leaves)), structure

  def unflatten(structure, leaves):
    return cls(**dict(zip(static_names, structure)), **dict(zip(data_names, leaves)))

  # Not register_dataclass: in JAX 0.10 the structures of two classes that it registered compare equal where their
  # static fields do, so that jit could run what it had compiled for Gaussian noise on a problem with Poisson noise.
  jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
  return cls


def static(default: Any = dataclasses.MISSING) -> Any:
  """Declare a field that is part of the tree's structure: hashable, never traced; a new value recompiles."""
  return dataclasses.field(default=default, metadata={"static": True})
