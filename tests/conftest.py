"""Strictness that every test runs under: no silent change of dtype or rank."""

import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

# Before JAX starts its backend: eight CPU devices, so that sharded runs are tested on any machine; and less work for
# the compiler, which is where the time of small tests goes.
LEVEL = os.environ.get("DIFFINV_TEST_XLA_LEVEL", "0")
ROOT = pathlib.Path(__file__).resolve().parent.parent
XLA_FLAGS = (
  "--xla_force_host_platform_device_count=8",
  f"--xla_backend_optimization_level={LEVEL}",
  "--xla_llvm_disable_expensive_passes=true",
)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag would end the process
  XLA_FLAGS += ("--xla_cpu_use_fusion_emitters=false",)  # compiles small programs a quarter faster
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS))

import hypothesis
import jax
import pytest
from absl import flags

# The same examples on every run, and no limit on the time of one: machines differ.
hypothesis.settings.register_profile("diffinv", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("diffinv")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
  """Use every core where pytest-xdist is installed and -n does not say; a file's tests stay together."""
  if hasattr(config, "workerinput"):  # a worker has no workers of its own
    return
  if config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None and not config.option.usepdb:
    config.option.numprocesses = "auto"
  if config.pluginmanager.hasplugin("xdist") and config.option.numprocesses:
    config.option.dist = "loadfile"  # before xdist looks: what a file compiled serves all of it
    config.option.loadscopereorder = False  # which would put files of few tests last, however long these take
    config.option.maxworkerrestart = "0"


# Files that take longest begin first, so that no core waits for the last one.
LONG = (
  "operators",
  "methods_exact",
  "faults",
  "distributed",
  "sampler",
  "train",
  "compare",
  "training_run",
  "unet",
  "blind",
  "apps",
  "harm",
  "evaluate",
  "training_states",
  "operators_more",
  "trajectories",
  "free",
  "verify",
  "checkpoint",
  "study",
  "readme",
)


def pytest_collection_modifyitems(items):
  """Put the longest files first."""
  order = {f"test_{name}": i for i, name in enumerate(LONG)}
  items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


# What was compiled once is not compiled again: by another file, the other workers, or the next run.
jax.config.update("jax_compilation_cache_dir", os.path.join(ROOT, ".pytest_cache", "programs"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# No test takes the power away, and a disk needs milliseconds for each of some hundred thousand requests.
os.fsync = lambda descriptor: None

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
TOOLS = ROOT / "tools"


@pytest.fixture(autouse=True)
def strict_promotion():
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield


@pytest.fixture(scope="module", autouse=True)
def free_programs():
  """Forget what a file of tests compiled: a process can map only so many programs, and the compiler aborts beyond."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture
def golden():
  """Load a file of reference numbers by name; images come as [h, w, c] arrays where the caller transposes them."""
  import numpy as np

  return lambda name: dict(np.load(os.path.join(GOLDEN, name)))


@pytest.fixture(scope="module")
def load_tool():
  """Load a script of tools/ by name; its flags go after the file's tests, so that another tool may define the same."""
  others = set(flags.FLAGS)
  sys.path.insert(0, str(TOOLS))  # as for a script, which imports what lies beside it

  def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  yield load
  sys.path.remove(str(TOOLS))
  for name in set(flags.FLAGS) - others:
    delattr(flags.FLAGS, name)
