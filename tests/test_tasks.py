"""Tasks and the two commands that list what there is; measurements that are no pictures, on the command line."""

import contextlib
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffinv import methods
from diffinv.apps import main, reconstruct
from diffinv.apps import tasks as tasks_app
from diffinv.baselines import BASELINES
from diffinv.methods import METHODS, needs
from diffinv.operators.base import LinearOperator
from diffinv.studies import measurement
from diffinv.tasks import TASKS, WORDS

FIRST = [
  "inpaint_box",
  "inpaint_random",
  "super_resolution",
  "gaussian_blur",
  "motion_blur",
  "denoising",
  "colorization",
]
SHAPE = (16, 16, 3)
ANY = ["dps", "diffpir", "daps", "red_diff"]  # methods for any differentiable operator
WIDTH = 120  # columns of a terminal
every_task = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  """These programs run for microseconds and compile for seconds."""
  jax.config.update("jax_disable_most_optimizations", True)
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def operator_of(name, shape=SHAPE):
  """Return the operator as a study builds it: its masks and kernels are drawn."""
  return jax.jit(lambda key: TASKS[name].make(key, shape))(jax.random.key(0))


def test_tasks_keep_their_order():
  assert list(TASKS)[: len(FIRST)] == FIRST
  assert {TASKS[name].sigma for name in TASKS if name != "denoising"} == {0.05} and TASKS["denoising"].sigma == 0.2


@every_task
def test_every_task_has_a_title_and_a_source(name):
  task = TASKS[name]
  assert task.title and "et al." in task.citation
  assert "arXiv" in task.citation or "20" in task.citation


@every_task
@pytest.mark.slow
def test_every_task_measures_something_to_look_at(name):
  operator = operator_of(name)
  x = 0.5 * jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
  y = jax.jit(lambda operator, x: operator(x))(operator, x)
  assert y.shape == tasks_app.measured_shape(TASKS[name], SHAPE) == operator.out_shape
  assert np.all(np.isfinite(y)) and float(jnp.std(y)) > 0.01
  shown = jax.jit(lambda operator, y: operator.picture(y))(operator, y)
  assert shown.ndim == 3 and shown.shape[-1] in (1, 3) and np.all(np.isfinite(shown))
  scale = measurement.scale(TASKS[name])
  assert [round(n * s) for n, s in zip(shown.shape, scale)] == [16, 16]


@every_task
def test_a_task_is_linear_but_for_the_nonlinear_ones(name):
  nonlinear = {"phase_retrieval", "phase_retrieval_01", "nonlinear_blur", "hdr"}
  assert isinstance(operator_of(name), LinearOperator) == (name not in nonlinear)


def test_tasks_of_the_literature_are_what_they_say():
  assert (operator_of("phase_retrieval").signed, operator_of("phase_retrieval_01").signed) == (True, False)
  assert float(operator_of("hdr").factor) == 2.0
  assert operator_of("compressed_sensing").out_shape == (64, 3)
  assert tasks_app.measured_shape(TASKS["phase_retrieval"], (256, 256, 3)) == (384, 384, 3)
  for lines, acceleration in (("random", 4), ("equispaced", 4), ("random", 8), ("equispaced", 8)):
    masks = jax.vmap(lambda key: TASKS[f"mri_{lines}_x{acceleration}"].make(key, (1, 64, 3)).mask[0, :, 0])
    counts = np.asarray(masks(jax.random.split(jax.random.key(0), 50))).sum(axis=1)
    assert abs(counts.mean() - 64 / acceleration) < 1.5, lines


def test_measurements_that_are_no_pictures_do_not_ask_for_multiples():
  assert (
    measurement.size_multiple([TASKS["super_resolution"], TASKS["compressed_sensing"], TASKS["phase_retrieval"]]) == 4
  )
  others = [task for name, task in TASKS.items() if name != "super_resolution"]
  assert measurement.size_multiple(others) == 1


# The commands


@pytest.fixture(scope="module")
def listed():
  """The lines that `diffinv tasks` and `diffinv methods` print."""
  import io

  def lines(command):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      assert main.execute([command]) == 0
    return said.getvalue().splitlines()

  return {command: lines(command) for command in ("tasks", "methods")}


@pytest.mark.parametrize("command", ["tasks", "methods"])
@pytest.mark.slow
def test_lists_fit_on_a_terminal(listed, command):
  assert max(map(len, listed[command])) <= WIDTH
  assert all(line == line.rstrip() for line in listed[command])


def test_every_task_is_listed_with_its_source(listed):
  assert listed["tasks"][0].split() == ["task", "measurement", "noise", "restored", "by"]
  end = listed["tasks"].index("")
  pairs = list(zip(listed["tasks"][1:end:2], listed["tasks"][2:end:2], strict=True))
  assert [line.split()[0] for line, _ in pairs] == list(TASKS)
  for (line, below), task in zip(pairs, TASKS.values()):
    assert below == f"    {task.title}: {task.citation}"
    assert line.split()[2] == ("rounding" if task.noise else f"{task.sigma:g}")


def test_every_word_is_listed_with_what_it_needs_and_whose_settings_it_takes(listed):
  head, *lines = listed["tasks"][listed["tasks"].index("") + 1 :]
  assert head.split() == ["word", "what", "it", "does", "needs", "settings", "of"]
  assert [line.split()[0] for line in lines] == list(WORDS)
  for line, task in zip(lines, WORDS.values(), strict=True):
    assert line.split()[-1] == task.settings in TASKS and ("--" in line) == (task.always or "(--factor)" in line)


@pytest.mark.parametrize(
  "name, shape, restored",
  [
    ("super_resolution", "64x64x3", "all but mmse"),
    ("gaussian_blur", "256x256x3", "all but mmse, ddnm_plus"),
    ("motion_blur", "256x256x3", "all but mmse, ddnm_plus, ddrm"),
    ("phase_retrieval", "384x384x3", ", ".join(ANY)),
    ("nonlinear_blur", "256x256x3", ", ".join(ANY)),
    ("mri_random_x4", "256x256x6", "all but mmse"),
    ("compressed_sensing", "16384x3", "all but mmse"),
  ],
)
def test_list_says_what_is_measured_and_what_restores_it(listed, name, shape, restored):
  (line,) = [line for line in listed["tasks"] if line.startswith(f"{name} ")]
  assert line.split(maxsplit=3) == [name, shape, "0.05", restored]


@pytest.mark.slow
def test_methods_that_the_list_names_accept_the_task_and_no_others():
  for name in ("gaussian_blur", "hdr", "compressed_sensing"):
    operator = operator_of(name, tasks_app.TRIED)
    accepting = []
    for title, method in METHODS.items():
      try:
        methods.check(method(), operator)
        accepting.append(title)
      except ValueError:
        pass
    assert tasks_app.solvers(operator) == accepting, name


def test_every_method_is_listed_with_its_cost_and_source(listed):
  lines = listed["methods"]
  assert lines[0].split() == ["method", "title", "operators", "evaluations", "gradients", "source"]
  for line, (name, method) in zip(lines[1:], METHODS.items()):
    assert line.startswith(f"{name} ") and line.endswith(f"  {method.citation}") and f" {method.title} " in line
    assert needs(method) in line
  for line, (name, baseline) in zip(lines[3 + len(METHODS) :], BASELINES.items(), strict=True):
    assert line.startswith(f"{name} ") and line.endswith(f"  {baseline.citation}") and f" {baseline.title} " in line
  costs = {
    line.split()[0]: [int(word) for word in line.split() if word.isdigit()][:2] for line in lines[1 : 1 + len(METHODS)]
  }
  assert costs["dps"] == [100, 100] and costs["daps"] == [500, 0] and costs["sdedit"] == [50, 0]
  assert costs["diffpir"] == [100, 0] and costs["tmpd"] == [100, 200]


@pytest.mark.slow
def test_the_list_of_tasks_is_that_of_the_operators_themselves():
  for name, task in TASKS.items():
    operator = operator_of(name, tasks_app.TRIED)
    assert tasks_app.measured_shape(task, tasks_app.TRIED) == operator.out_shape, name
    able = []
    for title, method in METHODS.items():
      if methods.accepts(method, operator):
        with contextlib.suppress(ValueError):
          if method.spectral_only:
            method().check(operator)
          able.append(title)
    assert tasks_app.solvers(tasks_app.build(task, tasks_app.TRIED)) == able, name


@every_task
def test_a_task_is_described_without_compiling_anything(name):
  compiled = []
  listen = lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    tasks_app.measured_shape(TASKS[name], (24, 40, 3))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert compiled == []


@pytest.mark.parametrize("command", ["tasks", "methods"])
def test_lists_take_no_arguments(command, capsys):
  assert main.execute([command, "--all"]) == 2
  assert "unknown flag --all" in capsys.readouterr().err
  assert main.execute([command, "--help"]) == 0
  assert f"usage: diffinv {command}" in capsys.readouterr().out


# reconstruct


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp("photo") / "a.png"
  row, column = np.mgrid[:16, :16]
  pixels = np.stack([127 + 90 * np.sin(0.3 * row + 0.2 * c * column) for c in range(3)], axis=-1)
  Image.fromarray(pixels.astype(np.uint8)).save(path)
  return path


def run(output, *args):
  flags = ["--prior=natural", "--steps=4", "--compilation_cache=", "--method=red_diff", f"--output={output}"]
  return main.execute(["reconstruct", *flags, *map(str, args)])


@pytest.mark.slow
def test_measurements_that_are_no_pictures_are_written_as_numbers_and_shown(photo, tmp_path):
  out, task = tmp_path / "out", "compressed_sensing"
  assert run(out, f"--input={photo}", f"--task={task}") == 0
  y = np.load(out / "a-measurement.npy")
  got = json.loads((out / "results.json").read_text(encoding="utf-8"))
  assert list(y.shape) == got["images"][0]["measurement_shape"] == list(operator_of(task).out_shape)
  assert np.asarray(Image.open(out / "a-measurement.png")).shape == (16, 16, 3)
  assert {"a.png", "a-sheet.png"} <= set(os.listdir(out))


@pytest.mark.slow
def test_measured_magnitudes_are_restored_from_their_numbers(photo, tmp_path):
  assert run(tmp_path / "one", f"--input={photo}", "--task=phase_retrieval") == 0
  y = tmp_path / "one" / "a-measurement.npy"
  assert run(tmp_path / "two", f"--measurement={y}", "--task=phase_retrieval") == 0
  assert np.asarray(Image.open(tmp_path / "one" / "a-measurement.png")).shape == (24, 24, 3)
  assert (tmp_path / "two" / "a-measurement.png").read_bytes() == (tmp_path / "one" / "a.png").read_bytes()


@pytest.mark.slow
def test_measured_frequencies_are_restored_from_their_numbers_and_their_mask(photo, tmp_path, capsys):
  task = "--task=mri_random_x4"
  assert run(tmp_path / "one", f"--input={photo}", task) == 0
  y, mask = tmp_path / "one" / "a-measurement.npy", tmp_path / "one" / "a-mask.png"
  assert np.load(y).shape == (16, 16, 6)
  assert set(np.unique(np.asarray(Image.open(mask)))) == {0, 255}
  assert run(tmp_path / "two", f"--measurement={y}", f"--mask={mask}", task) == 0
  assert (tmp_path / "two" / "a-measurement.png").read_bytes() == (tmp_path / "one" / "a.png").read_bytes()
  capsys.readouterr()
  assert run(tmp_path / "three", f"--measurement={y}", task) == 2
  assert "--mask is missing: expected the mask of the measurement for" in capsys.readouterr().err


@pytest.mark.parametrize(
  "task, code, said",
  [
    ("mri_random_x4", 1, "expected a .npy array, as --task=mri_random_x4 does not measure pictures"),
    (
      "compressed_sensing",
      2,
      "--task=compressed_sensing draws how it measures, and no flag says what was drawn; measure",
    ),
    ("nonlinear_blur", 2, "--task=nonlinear_blur draws how it measures"),
    ("phase_retrieval", 1, "expected a .npy array, as --task=phase_retrieval does not measure pictures"),
  ],
)
def test_a_measurement_that_cannot_be_taken_is_refused_on_one_line(task, code, said, photo, tmp_path, capsys):
  assert run(tmp_path / "out", f"--measurement={photo}", f"--task={task}") == code
  error = capsys.readouterr().err
  assert said in error and error.count("\n") == 1 and not os.path.exists(tmp_path / "out")
  assert reconstruct.FLAGS.task == task
