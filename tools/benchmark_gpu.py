"""All that is to be known of an accelerator, in one run of under ten minutes on a fast one.

usage: python tools/benchmark_gpu.py [--python=FILE] [--batches=1,8,32] [--rounds=5] [--nosuite] [--size=256]

First the tests, of which none may fail. Then a forward pass of the FFHQ network, which is a step of DPIR or DiffPIR,
and a step of DPS, against PyTorch and its compiler in turns (benchmark_step.py), in float32 and bfloat16: pictures a
second, peak memory, ratios. Then what bfloat16 costs at the end of chains with the prior `photo`, in dB.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

HERE = pathlib.Path(__file__).resolve().parent
FORWARD_TFLOP = 0.386  # of the FFHQ network at 256x256, as XLA counts

PYTHON = flags.DEFINE_string("python", sys.executable, "Interpreter that has PyTorch and deepinv.")
BATCHES = flags.DEFINE_list("batches", ["1", "8", "32"], "Pictures at once.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", 256, "Height and width of the pictures, pixels.", lower_bound=32)
SUITE = flags.DEFINE_boolean("suite", True, "Run the tests first.")
DTYPES = ("float32", "bfloat16")


def compared(against: str, dtype: str, batch: str) -> dict:
  """Return what benchmark_step.py measures."""
  command = [sys.executable, HERE / "benchmark_step.py", f"--against={against}", f"--python={PYTHON.value}"]
  command += [f"--dtype={dtype}", f"--batch={batch}", f"--rounds={ROUNDS.value}", f"--size={SIZE.value}"]
  run = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
  found: dict = json.loads(run.stdout.splitlines()[-1])
  return found


def row(against: str, dtype: str, batch: str) -> str:
  """Return a line of the table."""
  try:
    found = compared(against, dtype, batch)
  except subprocess.CalledProcessError as error:
    return f"| {against} | {dtype} | {batch} | failed with {error.returncode} | | | | | |"
  rate = lambda seconds: f"{int(batch) / seconds:.3g}"
  share = FORWARD_TFLOP * (SIZE.value / 256) ** 2 * int(batch) / found["forward_s"]
  cells = [rate(found["forward_s"]), rate(found["forward_torch_s"]), rate(found["step_s"]), rate(found["step_torch_s"])]
  cells += [f"{found['memory_gb']:.3g}", f"{found['memory_torch_gb']:.3g}", f"{share:.3g}"]
  return f"| {against} | {dtype} | {batch} | {' | '.join(cells)} |"


def lost() -> dict[str, float]:
  """Return the PSNR of each task and method in float32 less that in bfloat16, dB, at the end of the chains."""
  with tempfile.TemporaryDirectory() as folder:
    means = []
    for dtype in DTYPES:
      output = f"{folder}/{dtype}"
      words = ["compare", "--prior=photo", "--data=photos", "--num_images=4", "--tasks=inpaint_random,super_resolution"]
      words += ["--methods=dps,dpir", "--noreport", f"--dtype={dtype}", f"--output={output}"]
      subprocess.run([sys.executable, "-m", "diffinv.apps.main", *words], check=True, stdout=subprocess.DEVNULL)
      rows = [json.loads(line) for line in pathlib.Path(output, "rows.jsonl").read_text().splitlines()]
      means.append(_means(rows))
  return {name: means[0][name] - means[1][name] for name in means[0]}


def _means(rows: list[dict]) -> dict[str, float]:
  names = sorted({f"{row['task']}, {row['method']}" for row in rows})
  values = {name: [row["psnr"] for row in rows if f"{row['task']}, {row['method']}" == name] for name in names}
  return {name: sum(found) / len(found) for name, found in values.items()}


def main(argv: list[str]) -> None:
  """Run everything and print it."""
  del argv
  if SUITE.value:
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "--numprocesses=8"], cwd=HERE.parent).returncode
    print(f"tests: exit code {code}", flush=True)
  titles = ("forward/s", "theirs", "DPS steps/s", "theirs", "GB", "theirs", "TFLOP/s of ours")
  print(f"| against | type | batch | {' | '.join(titles)} |\n|---|---|---:{'|---:' * len(titles)}|", flush=True)
  for dtype in DTYPES:
    for batch in BATCHES.value:
      for against in ("torch", "torch.compile"):
        print(row(against, dtype, batch), flush=True)
  for name, value in lost().items():
    print(f"bfloat16 loses {value:.3f} dB: {name}", flush=True)


if __name__ == "__main__":
  app.run(main)
