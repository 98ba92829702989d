"""The loop of a run: steps, and what happens between them: log, validations, samples, saved states and signals."""

import contextlib
import time
from typing import Any

import jax
import numpy as np

from diffinv import progress, stopping
from diffinv.launch import ALONE, Team
from diffinv.training.config import TrainConfig
from diffinv.training.data import Data, Report
from diffinv.training.functions import VALIDATION_SBARS, Functions
from diffinv.training.pace import UNKNOWN_STEPS, Clock, Meter, Pace
from diffinv.training.run_folder import RunFolder
from diffinv.training.step import TrainState

MOST_SKIPPED = 100  # steps in a row: such a run has diverged
FASTER = "`workers=N` takes more threads, `crop=resize` or smaller files take less work"


def loop(
  config: TrainConfig,
  run: RunFolder,
  data: Data,
  functions: Functions,
  state: TrainState,
  *,
  report: Report = print,
  clock: Clock = time.monotonic,
  team: Team = ALONE,
) -> TrainState:
  """Take all steps that are left, with all that happens between them.

  Args:
    config: of the run, resolved.
    run: its folder.
    data: where batches come from.
    functions: its compiled parts.
    state: to go on from.
    report: called as `print` is, with a line on how it goes.
    clock: seconds.
    team: processes that take every step together.

  Returns:
    The state after the last step.
  """
  work = Work(config, run, functions, state, ahead=data.ahead, report=report, clock=clock, team=team)
  stream = contextlib.closing(data.stream(work.step, work.total))
  with stopping.deferred(), stream as batches, run.saving(lambda: work.state):
    team.check(work.step)
    work.look()
    for batch in work.meter.timed(batches):
      work.advance(batch)
      team.check(work.step)
      if work.step == work.total:
        break
  return work.state


class Work:
  """A run between its first and its last step: where it stands, and what is due."""

  def __init__(
    self,
    config: TrainConfig,
    run: RunFolder,
    functions: Functions,
    state: TrainState,
    *,
    ahead: int = 0,
    report: Report = print,
    clock: Clock = time.monotonic,
    team: Team = ALONE,
  ):
    """Take no step yet; `ahead`: batches that are prepared before they are asked for."""
    self._config, self._run, self._functions, self._report, self._clock = config, run, functions, report, clock
    self._team = team
    self.state, self.step = state, int(state.step)
    self.total = UNKNOWN_STEPS if run.total_steps is None else run.total_steps
    self.meter, self._saved = Meter(config.batch_size, clock), clock()
    self._told = ahead == 0  # whether to wait for images is known, or cannot be
    self._recent: list[dict[str, Any]] = []  # metrics since the last line of the log
    self.lost = 0  # steps in a row that were skipped
    self._pace = None
    if run.total_steps is None and config.minutes is not None:
      about: dict[str, Any] = {"warmup_steps": config.warmup_steps, "begun": self.meter.begun, "clock": clock}
      self._pace = Pace(config.minutes, step=self.step, ahead=ahead, **about)

  def advance(self, batch: Any) -> None:
    """Take a step, and do what is due after it."""
    self.state, metrics = self._functions.step(self.state, self._functions.place(batch), self.total)
    self.step += 1
    self._recent.append(metrics)
    self._measure()
    if self._every(self._config.log_every):
      self.log(self._recent)
      self._recent = []
    self.look()
    if self._pace is not None and self.step == self._pace.review:
      self._fix(self._pace.corrected(), ", as it has gone so far")
    if self.step == self.total or self._clock() - self._saved > self._config.save_seconds:
      self._run.save(self.state)
      self._saved = self._clock()

  def look(self) -> None:
    """Measure the weights and draw samples from them, where that is due after this step and was not done.

    Raises:
      Stopped: before either; whoever goes on from this step does it first.
    """
    if self._run.owes_validation(self.step):
      stopping.check()
      self.validate()
    if self._run.owes_grid(self.step, self._config.sample_every):
      stopping.check()
      self._run.save_grid(self.step, np.asarray(self._functions.sample(self.state.ema)))
    if self._run.validates(self.step) or self._run.draws(self.step, self._config.sample_every):
      self._team.meet()  # the first process does it, which may take longer than a step may wait for it

  def _every(self, steps: int) -> bool:
    return self.step == self.total or self.step % steps == 0

  def _measure(self) -> None:
    """Look at the clock, where the speed is measured from this step on or until it."""
    pace = self._pace
    if not self.meter.marked or (pace is not None and self.step in (pace.first, pace.last)):
      jax.block_until_ready(self.state)
    self.meter.mark(self.step)
    if pace is not None and self.step == pace.first:
      pace.begin(self.step)
    if pace is not None and self.step == pace.last:
      self._fix(pace.plan())

  def _fix(self, total: int, how: str = "") -> None:
    total = self.total = self._team.agree(total)
    self._report(f"{total} steps in {self._config.minutes:g} minutes{how}", flush=True)
    self._run.fix(total, self._config.validate_every)

  def log(self, recent: list[dict[str, Any]]) -> None:
    """Log and print the means of recent steps, and count those in a row that were skipped.

    Raises:
      ValueError: too many were.
    """
    skipped, speed = [bool(metrics["skipped"]) for metrics in recent], self.meter.rate(self.step)
    entry = {
      "step": self.step,
      "loss": float(np.mean([float(metrics["loss"]) for metrics in recent])),
      "grad_norm": float(recent[-1]["grad_norm"]),
      "learning_rate": float(recent[-1]["learning_rate"]),
      "skipped": sum(skipped),
      "images_per_second": None if speed is None else round(speed, 2),
    }
    self._run.log(entry)
    lost = f", {sum(skipped)} of {len(recent)} steps skipped for gradients that are not finite" if any(skipped) else ""
    fast = "" if speed is None else f", {speed:.1f} images/s"
    self._report(f"step {self.step}{self._left(speed)}: loss {entry['loss']:.4f}{fast}{lost}", flush=True)
    self.lost = self.lost + len(recent) if all(skipped) else skipped[::-1].index(False)
    self._check_lost()
    self._tell_waiting()

  def _left(self, speed: float | None) -> str:
    total = self._run.total_steps
    if total is None:
      return ""
    seconds = 0.0 if speed is None else (total - self.step) * self.meter.seconds_a_step(self.step)
    return f"/{total}" + ("" if speed is None else f", {progress.duration(seconds)} left")

  def _check_lost(self) -> None:
    if self.lost >= MOST_SKIPPED:
      raise ValueError(
        f"train: expected finite gradients, got none in the last {self.lost} steps; start again with `restart` and a "
        "lower `learning_rate`"
      )

  def _tell_waiting(self) -> None:
    if not self._told and self.meter.waiting() > 0.5:
      part = 100 * self.meter.waiting()
      self._report(f"note: {part:.0f} % of the time is spent waiting for images; {FASTER}", flush=True)
      self._told = True

  def validate(self) -> None:
    """Measure the weights on the held-out images; keep them where they are the best so far."""
    result = self._functions.validate(self.state.ema)
    decibels = [round(float(10 * np.log10(4.0 / v)), 3) for v in np.asarray(result.squared_error)]
    psnr = dict(zip(map(str, VALIDATION_SBARS), decibels, strict=True))
    info: dict[str, Any] = {"step": self.step, "loss": float(result.loss), "psnr": psnr}
    if info["loss"] < self._run.best_loss():
      self._run.save_best(self.step, self.state.ema, info)
    self._run.log({"step": self.step, "validation": info})  # last: what the log has is done
    words = ", ".join(f"{d:.2f} dB at {sbar:g}" for sbar, d in zip(VALIDATION_SBARS, decibels, strict=True))
    self._report(f"validation after {self.step} steps: loss {info['loss']:.4f}; {words}", flush=True)
