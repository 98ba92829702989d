"""Frozen dataclasses that JAX transforms see through.

Methods, operators, noise models and priors are values. `@pytree` makes a class a frozen dataclass and registers it
with JAX. Its fields are leaves: traced, differentiated, batched by `vmap`. Fields marked `static()` are part of the
tree's structure instead, and so of the key to the compilation cache.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING, *, choices: Iterable[str] | None = None) -> Any:
  """Declare a field that is part of the tree's structure: hashable, never traced; a new value recompiles.

  Args:
    default: of the field.
    choices: the names that the field may hold, where it chooses an algorithm. `choices_of` returns them.
  """
  metadata = {"static": True, "choices": () if choices is None else tuple(choices)}
  return dataclasses.field(default=default, metadata=metadata)


def choices_of(cls: type, name: str) -> tuple[str, ...]:
  """Return the names that the field `name` of a class may hold; () if it does not choose among names."""
  return next((f.metadata.get("choices", ()) for f in dataclasses.fields(cls) if f.name == name), ())


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
  """Make `cls` a frozen, keyword-friendly dataclass that is a JAX pytree."""
  made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
  fields = dataclasses.fields(made)
  static_names = tuple(f.name for f in fields if f.metadata.get("static", False))
  data_names = tuple(f.name for f in fields if f.name not in static_names)
  keys = tuple(map(jax.tree_util.GetAttrKey, data_names))

  def flatten(instance):
    return [getattr(instance, name) for name in data_names], tuple(getattr(instance, name) for name in static_names)

  def flatten_with_keys(instance):
    leaves, structure = flatten(instance)
    return list(zip(keys, leaves)), structure

  def unflatten(structure, leaves):
    return made(**dict(zip(static_names, structure)), **dict(zip(data_names, leaves)))

  # Not register_dataclass: in JAX 0.10, two classes registered by it have equal structures if their static fields are
  # equal, and jit may run code compiled for Gaussian noise on a problem with Poisson noise.
  jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
  return made
