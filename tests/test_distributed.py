"""One piece of work by several processes: as by one, bit for bit; a lost one ends the others, and the work goes on."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from diffinv import errors, launch
from diffinv.apps import main
from diffinv.data import images
from diffinv.priors.folder import load_prior
from diffinv.studies import runs

pytestmark = pytest.mark.slow

SECONDS = 300  # after which a test gives up on a process
TIMES = ("seconds", "run_seconds", "compile_seconds", "digest")
COMPARE = ("--tasks=denoising", "--methods=ddrm,wiener", "--steps=3", "--batch_size=2", "--noreport")
RUN = "import sys; from diffinv.apps import main; sys.exit(main.execute(sys.argv[1:]))"
# Ends as `kill -9` ends it, when the first rows are on the disk.
KILLED = """
import os, sys
from diffinv.apps import main
from diffinv.studies import runs
honest = runs.RunFolder.append
runs.RunFolder.append = lambda run, rows: (honest(run, rows), os.kill(os.getpid(), 9))
sys.exit(main.execute(sys.argv[1:]))
"""
# What one process compiled, all need not.
PROGRAMS = {
  "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "programs"),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
LOST = "was lost or cannot be reached; what is finished is kept; give the same command again to go on"


def free_port():
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    return held.getsockname()[1]


def start(count, *words, killed=None, variables=lambda i: {}):
  """Start a command as so many processes, of which one may kill itself, told by flags or `variables` who they are."""
  port = free_port()
  told = lambda i: [
    f"--coordinator=127.0.0.1:{port}",
    f"--num_processes={count}",
    f"--process_id={i}",
    "--lost_after=5",
  ]
  return [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        KILLED if i == killed else RUN,
        *words,
        "--distributed",
        *([] if variables(i) else told(i)),
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, **PROGRAMS, **variables(i)},
    )
    for i in range(count)
  ]


def launched(count, *words, **how):
  """Run a command as so many processes; return their exit codes and what they said."""
  started = start(count, *words, **how)
  said = [process.communicate(timeout=SECONDS) for process in started]
  return [process.returncode for process in started], said


def found(folder):
  """Return the rows of a folder without times, and the bytes of its pictures."""
  lines = [json.loads(line) for line in (folder / runs.ROWS).read_text().splitlines()]
  rows = [{name: value for name, value in row.items() if name not in TIMES} for row in lines]
  pictures = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".png", ".npy")}
  return sorted(rows, key=json.dumps), pictures


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Pictures, the flags of a comparison of them, and what one process makes of it."""
  folder = tmp_path_factory.mktemp("alone")
  (folder / "in").mkdir()
  noise = np.random.default_rng(0)
  for i in range(8):
    images.write(folder / "in" / f"{i}.png", noise.uniform(-1, 1, (16, 16, 3)))
  words = ("compare", "--prior=natural", f"--data={folder / 'in'}", *COMPARE)
  assert main.execute([*words, f"--output={folder / 'out'}"]) == 0
  return words, found(folder / "out")


def test_two_processes_go_on_with_four_and_end_with_the_rows_of_one_whoever_is_killed(alone, tmp_path):
  words, (rows, pictures) = alone
  words = (*words, f"--output={tmp_path / 'out'}")
  codes, said = launched(2, *words, killed=0)
  assert codes == [-9, 1]  # the process that the others listen to
  assert said[1][1].splitlines()[-1] == f"diffinv: error: process 1 of 2: another process {LOST}"
  codes, said = launched(4, *words, killed=2)
  assert codes == [1, 1, -9, 1]
  for i in (0, 1, 3):
    assert said[i][1].splitlines()[-1] == f"diffinv: error: process {i} of 4: another process {LOST}"
  assert "going on with" in said[0][0]
  assert runs.read_rows(tmp_path / "out.running" / runs.PROCESSES / "2")  # what the killed one had finished
  shutil.copytree(tmp_path / "out.running", tmp_path / "alone.running")
  codes, said = launched(4, *words)
  assert codes == [0] * 4, said
  assert "has done its share" in said[3][0] and not (tmp_path / "out.running").exists()
  assert found(tmp_path / "out") == (rows, pictures) and len(rows) == 16
  assert main.execute([*words[:-1], f"--output={tmp_path / 'alone'}"]) == 0
  assert found(tmp_path / "alone") == (rows, pictures)


@pytest.mark.parametrize(
  "words, said",
  [
    (["--num_processes=2"], "--num_processes is of --distributed, got it alone"),
    (
      ["--distributed", "--num_processes=2", "--process_id=2"],
      "--process_id: expected a number below --num_processes=2",
    ),
    (["--distributed", "--coordinator=here"], "--coordinator: expected HOST:PORT, got here"),
    (["--distributed", "--lost_after=0"], "--lost_after: expected a number from 1 to 86,400, got 0"),
    (["--distributed"], "--distributed: expected to be told of the other processes"),
  ],
)
@pytest.mark.parametrize("command", ["compare", "reconstruct"])
def test_a_launch_that_cannot_be_is_refused_in_a_line(command, words, said, tmp_path, capsys):
  assert main.execute([command, f"--output={tmp_path / 'out'}", *words]) == errors.EXIT_USAGE
  err = capsys.readouterr().err
  assert err.startswith(f"diffinv: error: {said}") and err.count("\n") == 1
  assert not [*tmp_path.iterdir()]


def test_processes_of_a_launch_share_everything_once():
  items = list(range(11))
  shares = []
  for i in range(4):
    team = launch.Team()
    team.index, team.count = i, 4
    shares += team.share(items)
  assert sorted(shares) == items and launch.ALONE.share(items) == items


def slurm(count):
  """Return what Slurm says in the environment of each process of a job step."""
  port, job = str(free_port()), {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
  return lambda i: {**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "JAX_COORDINATOR_PORT": port}


def test_two_processes_of_a_slurm_job_restore_pictures_as_one(alone, tmp_path):
  data = alone[0][2].replace("--data", "--input")
  words = ("reconstruct", "--prior=natural", data, "--task=denoising", "--method=ddrm", "--steps=3", "--batch_size=2")
  assert main.execute([*words, f"--output={tmp_path / 'one'}"]) == 0
  codes, said = launched(2, *words, f"--output={tmp_path / 'two'}", variables=slurm(2))
  assert codes == [0, 0], said
  assert found(tmp_path / "two") == found(tmp_path / "one")


# Training


TRAIN = (
  *("--size=8", "--channels=8", "--multipliers=1", "--middle_blocks=1", "--embedding=16"),
  *("--held_out=4", "--warmup_steps=5", "--batch_size=4", "--log_every=1", "--optimizer=adamw", "--devices=1"),
  *("--steps=40", "--validate_every=40", "--sample_every=40", "--save_seconds=0"),
)


def losses(folder):
  entries = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
  return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def test_two_processes_train_as_one_and_go_on_after_one_was_killed(alone, tmp_path):
  words = ("train", alone[0][2], *TRAIN)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as Optax needs it
    assert main.execute([*words, f"--output={tmp_path / 'one'}"]) == 0
  words = (*words, f"--output={tmp_path / 'two'}")
  first, second = start(2, *words)
  for line in first.stdout:
    if line.startswith("step 3/"):
      second.kill()
      break
  said = first.communicate(timeout=SECONDS)[1]
  assert first.returncode == 1 and said.splitlines()[-1] == f"diffinv: error: another process of the launch {LOST}", (
    said
  )
  second.communicate(timeout=SECONDS)
  one, two = losses(tmp_path / "one.training"), losses(tmp_path / "two.training")
  assert 3 <= len(two) < len(one) == 40
  np.testing.assert_allclose([one[step] for step in two], [*two.values()], rtol=1e-4)
  codes, said = launched(2, *words)
  assert codes == [0, 0], said
  assert "going on from step" in said[0][0] and said[1][0] == ""
  assert losses(tmp_path / "two.training").keys() == one.keys()
  one, two = (ravel_pytree(load_prior(tmp_path / name).params)[0] for name in ("one", "two"))
  assert np.linalg.norm(two - one) / np.linalg.norm(one) < 1e-3
  assert len([*(tmp_path / "two.training" / "states").iterdir()]) == 2
