"""Strictness that every test runs under: no silent change of dtype or rank."""

import os

# Eight CPU devices, so that sharded runs are tested on any machine; set before JAX starts its backend.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")


@pytest.fixture(autouse=True)
def strict_promotion():
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield


@pytest.fixture
def golden():
  """Load a file of reference numbers by name; images come as [h, w, c] arrays where the caller transposes them."""
  import numpy as np

  return lambda name: dict(np.load(os.path.join(GOLDEN, name)))
