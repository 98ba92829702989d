"""A process that belongs to a launch of several on JAX's distributed runtime, on behalf of the one that works.

The runtime ends every process that belongs to a launch of which one is lost, by abort and with pages of its own. So a
process that works alone on its share has this one as a child, which does nothing but belong: `diffinv.launch` starts
it, tells it on standard input when to meet the others or to leave, and says in a line what its end means. It runs as a
script and imports nothing of the package. It ends with its parent.
"""

import json
import os
import queue
import sys
import threading

JOIN_SECONDS = 300  # that the processes of a launch wait for each other at the start
LEAVE_SECONDS = 30 * 24 * 3600  # and at the end, where one has more to do than others: lost ones are noticed meanwhile
MEET, LEAVE = "meet", "leave"


def main() -> None:
  """Join, say which process this is, and do as told."""
  told: queue.SimpleQueue[str] = queue.SimpleQueue()
  threading.Thread(target=_listen, args=(told,), daemon=True).start()
  try:
    _say(_join(**json.loads(sys.argv[1])))
  except Exception as error:
    _say({"error": " ".join(str(error).split())[:300]})
    os._exit(1)  # without the runtime's farewell, for which it would wait
  while told.get() == MEET:
    meet()
    _say({})
  _leave()
  _say({"left": True})
  os._exit(0)


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None, lost_after: int) -> dict:
  import jax

  jax.config.update("jax_enable_preemption_service", False)  # it would take signals over
  initialize(coordinator, num_processes, process_id, lost_after)
  gpus = jax.config.values["jax_cuda_visible_devices"]  # one for each process of a machine, where the cluster says so
  return {"index": jax.process_index(), "count": jax.process_count(), "gpus": gpus}


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None, lost_after: int) -> None:
  """Join the other processes of a launch; wait for all."""
  import jax

  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    initialization_timeout=JOIN_SECONDS,
    heartbeat_timeout_seconds=lost_after,
    shutdown_timeout_seconds=LEAVE_SECONDS,
  )


def meet() -> None:
  """Wait until all processes of the launch have come here; however long that takes, as the service does it."""
  import jax
  from jax.experimental import multihost_utils

  with multihost_utils.live_devices(jax.devices()):
    pass


def _leave() -> None:
  import jax

  jax.distributed.shutdown()  # waits for all others to leave


def _listen(told: queue.SimpleQueue) -> None:
  for line in sys.stdin:
    told.put(line.strip())
  os._exit(1)  # whom it belongs on behalf of is no more


def _say(words: dict) -> None:
  print(json.dumps(words), flush=True)


if __name__ == "__main__":
  main()
