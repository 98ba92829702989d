"""List the tasks: what is measured of a 256x256 color picture, with what noise, which methods restore it, the source.

usage: diffinv tasks

Below them are words, for pictures of your own: what each needs, and the task whose settings it takes.

Noise is the standard deviation of every measured number, on the scale [-1, 1] of the pictures ([0, 1] for
phase_retrieval_01); --sigma of the other commands changes it. That of JPEG is its rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from diffinv import text
from diffinv.apps.main import run_module
from diffinv.methods import METHODS, accepts
from diffinv.methods.base import Method
from diffinv.operators import Operator
from diffinv.tasks import ENLARGE, TASKS, WORDS, Task

SHOWN = (256, 256, 3)  # the picture whose measurement is described
NEEDS = {"mask": "--mask", "kernel": "--blur or --kernel", None: ""}  # by what has to be given
TRIED = (64, 64, 3)  # the picture on which methods are tried: larger than any kernel, and quick

FLAGS = flags.FlagValues()


def described(task: Task, shape: tuple[int, int, int]) -> Operator:
  """Return the task's operator with shapes in place of arrays: nothing is drawn or compiled."""
  return jax.eval_shape(lambda key: task.make(key, shape), _key())


def _key() -> jax.ShapeDtypeStruct:
  """Return what a key is like, without making one."""
  return jax.eval_shape(jax.random.key, 0)


def measured_shape(task: Task, shape: tuple[int, int, int]) -> tuple[int, ...]:
  """Return the shape of the task's measurement of a picture, without measuring one."""
  operator = described(task, shape)
  return jax.eval_shape(
    lambda operator, x: operator(x), operator, jax.ShapeDtypeStruct(shape, jnp.result_type(float))
  ).shape


def build(task: Task, shape: tuple[int, int, int]) -> Operator:
  """Return the task's operator, ones in place of what it draws.

  What restores a task does not depend on the draw: a mask of ones keeps everything, and is a mask.
  """
  if not task.random:
    return task.make(jax.random.key(0), shape)
  return jax.tree.map(lambda leaf: jnp.asarray(np.ones(leaf.shape, leaf.dtype)), described(task, shape))


def solvers(operator: Operator) -> list[str]:
  """Return the methods that are for such operators, whatever their hyper-parameters."""
  return [name for name in accepting(operator) if _is_stable(METHODS[name], operator)]


def accepting(operator: Operator) -> list[str]:
  """Return the methods that are for operators of this kind."""
  found: list[str] = []

  def look(operator):  # abstractly, as some operators compute their decomposition to tell whether they have one
    found.extend(name for name, method in METHODS.items() if accepts(method, operator))

  jax.eval_shape(look, operator)
  return found


def _is_stable(method: type[Method], operator: Operator) -> bool:
  """Tell whether a method of known SVD takes its singular values; others check step sizes, which can be changed."""
  try:
    if method.spectral_only:
      method().check(operator)
  except ValueError:
    return False
  return True


def names(chosen: list[str]) -> str:
  """Write which methods these are, or which are missing where that is shorter."""
  missing = [name for name in METHODS if name not in chosen]
  if not missing:
    return "all"
  return ", ".join(chosen) if len(chosen) < len(missing) else f"all but {', '.join(missing)}"


def words() -> str:
  """Return the table of words."""
  rows = [
    [word, task.title, "(--factor)" if word == ENLARGE else NEEDS[task.given], task.settings_of(word)]
    for word, task in WORDS.items()
  ]
  return text.table(["word", "what it does", "needs", "settings of"], rows)


def main(argv: list[str]) -> None:
  """Print the table, the title and source of each task under its line; and the table of words."""
  del argv
  rows = []
  for name, task in TASKS.items():
    shape = "x".join(map(str, measured_shape(task, SHOWN)))
    rows.append(
      [name, shape, f"{task.sigma:g}" if task.noise is None else "rounding", names(solvers(build(task, TRIED)))]
    )
  header, *lines = text.table(["task", "measurement", "noise", "restored by"], rows).split("\n")
  print(header)
  for line, task in zip(lines, TASKS.values()):
    print(f"{line}\n    {task.title}: {task.citation}")
  print(f"\n{words()}")


if __name__ == "__main__":
  run_module(main, FLAGS)
