"""Blur kernels with one or two numbers, which are differentiable leaves, and the words that name a blur.

A kernel is rendered to taps `[size, size]`, an odd number of pixels across, not negative and of sum 1. Along each axis
its centroid is the middle element, and its variance in pixels squared is

  gaussian:STD            std^2, the Gaussian at the middles of the pixels
  disk:RADIUS             radius^2 / 4 and, from 2 pixels on, 0.1 for the rim, which falls over one pixel: out of focus
  motion:LENGTH,ANGLE     length^2 / 12 cos^2(angle) across and length^2 / 12 sin^2(angle) down, and on average 1/6 for
                          the points of the line being shared among four pixels: a camera moved at constant speed

A Gaussian of less than half a pixel has less variance than it says. What does not fit into `size` is cut off. A kernel
of any form, `free`, has no numbers: it is its own taps, and a file holds it.
"""

import math
import os
import pathlib
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diffinv.operators.blur import TRUNCATE
from diffinv.pytree import pytree

LARGEST = 100.0  # pixels of any number of a kernel, so that a kernel is no larger than about 800 pixels
TINY = 1e-12  # pixels^2 beneath a root, whose derivative at 0 is infinite
POINTS_PER_PIXEL = 8  # of `size`, on the line of a motion, so that each pixel has several
AUTO = "auto"


class Kernel(Protocol):
  """A kernel whose leaves are its numbers."""

  family: ClassVar[str]
  __dataclass_fields__: ClassVar[dict[str, Any]]

  def taps(self, size: int) -> jax.Array: ...

  def reach(self) -> float: ...


@pytree
class GaussianKernel:
  """k(r) ∝ exp(-|r|^2 / (2 std^2))."""

  std: jax.Array | float  # pixels, > 0

  family = "gaussian"

  def taps(self, size: int) -> jax.Array:
    """Return the kernel, `[size, size]`."""
    line = jnp.exp(-0.5 * (_grid(size) / self.std) ** 2)
    line = line / jnp.sum(line)
    return line[:, None] * line[None, :]

  def reach(self) -> float:
    """Return how far the kernel goes from its middle, pixels."""
    return TRUNCATE * float(self.std)


@pytree
class DiskKernel:
  """k(r) ∝ clip(radius + 1/2 - |r|, 0, 1)."""

  radius: jax.Array | float  # pixels, > 0; a point up to 1/2

  family = "disk"

  def taps(self, size: int) -> jax.Array:
    """Return the kernel, `[size, size]`."""
    squares = _grid(size) ** 2
    inside = jnp.clip(self.radius + 0.5 - jnp.sqrt(squares[:, None] + squares[None, :] + TINY), 0.0, 1.0)
    return inside / jnp.sum(inside)

  def reach(self) -> float:
    """Return how far the kernel goes from its middle, pixels."""
    return float(self.radius) + 0.5


@pytree
class MotionKernel:
  """A straight line through the middle, its points shared bilinearly among pixels."""

  length: jax.Array | float  # pixels, >= 0
  angle: jax.Array | float  # degrees from the horizontal, counterclockwise as one looks at the picture; mod 180

  family = "motion"

  def taps(self, size: int) -> jax.Array:
    """Return the kernel, `[size, size]`."""
    count, grid = POINTS_PER_PIXEL * size, _grid(size)
    along = self.length * ((jnp.arange(count, dtype=grid.dtype) + 0.5) / count - 0.5)
    turn = jnp.deg2rad(self.angle)
    down, across = -along * jnp.sin(turn), along * jnp.cos(turn)  # rows go down
    share = lambda places: jnp.maximum(1.0 - jnp.abs(places[None, :] - grid[:, None]), 0.0)
    taps = jnp.matmul(share(down), share(across).T, precision=jax.lax.Precision.HIGHEST)
    return taps / jnp.sum(taps)

  def reach(self) -> float:
    """Return how far the kernel goes from its middle, pixels."""
    return float(self.length) / 2 + 1.0


@pytree
class FreeKernel:
  """A kernel of any form."""

  values: jax.Array  # [k, k], an odd size, not negative and of sum 1

  family = "free"

  def taps(self, size: int) -> jax.Array:
    """Return the kernel, `[size, size]`."""
    more = (size - len(self.values)) // 2
    taps = jnp.pad(self.values, more) if more >= 0 else self.values[-more:more, -more:more]
    return taps / jnp.sum(taps)

  def reach(self) -> float:
    """Return how far the kernel goes from its middle, pixels."""
    return float(len(self.values) // 2)


# By the name of the family. The numbers are the fields, in their order.
FAMILIES: dict[str, Any] = {kernel.family: kernel for kernel in (GaussianKernel, DiskKernel, MotionKernel)}
FREE = FreeKernel.family
FORMS = (
  "gaussian:STD, disk:RADIUS, motion:LENGTH,ANGLE, one of these with :auto, free:auto, auto, or a file of a kernel"
)


class Unknown(NamedTuple):
  """A blur to be estimated."""

  family: str  # of FAMILIES, FREE, or AUTO for whichever explains the picture best


def kernel_size(kernel: Kernel) -> int:
  """Return the odd number of pixels across that holds a kernel."""
  return 2 * math.ceil(kernel.reach()) + 1


def numbers(kernel: Kernel) -> dict[str, Any]:
  """Return a kernel's numbers by name; none of a free one."""
  return {name: getattr(kernel, name) for name in kernel.__dataclass_fields__ if kernel.family in FAMILIES}


def worded(kernel: Kernel) -> str:
  """Return a kernel as `parse_blur` reads it, its numbers to three digits; of a free one, how large it is."""
  values = ",".join(f"{number:.3g}" for number in numbers(kernel).values())
  return f"{kernel.family}:{values}" if values else f"{kernel.family}, {kernel_size(kernel)} pixels across"


def parse_blur(text: str) -> Kernel | Unknown | pathlib.Path:
  """Read what a blur is: numbers of a family, "auto", or the file of a kernel.

  Args:
    text: as FORMS says: "gaussian:2", "disk:3.5", "motion:15,30", "motion:auto", "free:auto", "auto", "kernel.png".
      Pixels; degrees.

  Returns:
    A kernel, a blur to estimate, or the path of a file, which exists.

  Raises:
    ValueError: it is none of these.
  """
  name, colon, rest = text.partition(":")
  if text == AUTO or (name in (*FAMILIES, FREE) and rest == AUTO):
    return Unknown(AUTO if text == AUTO else name)
  if name in FAMILIES and (colon or not os.path.isfile(text)):
    return _with_numbers(FAMILIES[name], rest, text)
  if not os.path.isfile(text):
    raise ValueError(f"blur: expected {FORMS}, got {text!r}, which is no file either")
  return pathlib.Path(text)


def _with_numbers(family: Any, rest: str, text: str) -> Kernel:
  names = tuple(family.__dataclass_fields__)
  form = f"{family.family}:{','.join(name.upper() for name in names)}"
  try:
    values = [float(part) for part in rest.split(",")]
  except ValueError:
    raise ValueError(f"blur: expected {form} in numbers, or {family.family}:auto, got {text!r}") from None
  if len(values) != len(names):
    raise ValueError(f"blur: expected {form}, {len(names)} of numbers, got {text!r}")
  for name, value in zip(names, values):
    low, high, unit = (-360.0, 360.0, "degrees") if name == "angle" else (0.0, LARGEST, "pixels")
    if not low <= value <= high or (value == 0 and name != "angle"):
      least = "from -360" if name == "angle" else "above 0"
      raise ValueError(f"blur: expected {name} {least} up to {high:g} {unit}, got {text!r}")
  return family(*values)


def _grid(size: int) -> jax.Array:
  """Return the places of pixels along an axis, 0 in the middle.

  Raises:
    ValueError: there is no middle.
  """
  if size < 1 or size % 2 == 0:
    raise ValueError(f"size: expected an odd number of pixels, which has a middle, got {size}; add one")
  return jnp.arange(size, dtype=jnp.result_type(float)) - size // 2
