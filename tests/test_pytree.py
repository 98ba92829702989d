"""Frozen dataclasses as pytrees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv.pytree import choices_of, pytree, static


@pytree
class Circle:
  """A leaf and a static field."""

  size: jax.Array | float
  name: str = static("a")


@pytree
class Square:
  """The same fields in another class."""

  size: jax.Array | float
  name: str = static("a")


def test_fields_are_leaves_and_static_fields_are_structure():
  leaves, structure = jax.tree.flatten(Circle(2.0, "b"))
  assert leaves == [2.0]
  assert structure != jax.tree.structure(Circle(2.0, "a"))
  assert structure == jax.tree.structure(Circle(3.0, "b"))
  back = jax.tree.unflatten(structure, [5.0])
  assert (type(back), back.size, back.name) == (Circle, 5.0, "b")


def test_structures_of_two_classes_differ():
  assert jax.tree.structure(Circle(2.0)) != jax.tree.structure(Square(2.0))


def test_jit_never_takes_one_class_for_another():
  area = jax.jit(lambda shape: shape.size**2 * (jnp.pi if isinstance(shape, Circle) else 1.0))
  for size in range(1, 50):
    np.testing.assert_allclose(area(Circle(float(size))), np.pi * size**2, rtol=1e-6)
    np.testing.assert_allclose(area(Square(float(size))), size**2, rtol=1e-6)


def test_instances_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Circle(1.0).size = 2.0


def test_paths_name_the_fields():
  ((path, _),) = jax.tree_util.tree_leaves_with_path(Circle(1.0))
  assert jax.tree_util.keystr(path) == ".size"


def test_vmap_maps_over_the_leaves():
  sizes = jnp.arange(3.0)
  np.testing.assert_array_equal(jax.vmap(lambda shape: shape.size + 1)(Circle(sizes)), sizes + 1)


def test_a_field_knows_the_names_that_it_may_hold():
  @pytree
  class Shape:
    """A field with choices and two without."""

    size: float = 1.0
    kind: str = static("round", choices={"round": 1, "square": 2})
    name: str = static("a")

  assert [choices_of(Shape, name) for name in ("kind", "name", "size", "none")] == [("round", "square"), (), (), ()]
  assert Shape().kind == "round"
