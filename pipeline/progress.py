"""Does the worker get on? One clock, touched by whatever counts as progress, and a thread that watches it."""

import os
import sys
import threading
import time

from prometheus_client import Gauge

AGE = Gauge("pipeline_worker_progress_age_seconds", "Since the worker last got on, or had nothing to do.")
EXIT_STUCK = 3


class Progress:
    """Touched by an acknowledgement, a retry of the database, an assignment, an empty lag, an outage of Kafka."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._touched = time.monotonic()
        AGE.set_function(lambda: self.age_seconds)

    def touch(self) -> None:
        self._touched = time.monotonic()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._touched

    @property
    def fresh(self) -> bool:
        return self.age_seconds < self.limit_seconds

    def watch(self) -> None:
        """End the process when it has been stuck too long: whoever supervises it starts it again.

        A thread, because what hangs may be the event loop.
        """
        threading.Thread(target=self._watch, name="progress", daemon=True).start()

    def _watch(self) -> None:
        while self.fresh:
            time.sleep(min(1.0, self.limit_seconds / 10))
        sys.stderr.write(
            f"worker: no progress for {self.age_seconds:.0f} s (BRIGADE_STUCK_SECONDS={self.limit_seconds:g});"
            " exiting to be started again, nothing is lost\n"
        )
        sys.stderr.flush()
        os._exit(EXIT_STUCK)
