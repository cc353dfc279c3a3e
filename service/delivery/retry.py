"""Retries of failed batches: exponential backoff with full jitter, within a time budget."""

from __future__ import annotations

import random
from dataclasses import dataclass

from service.limits import RETRY_BUDGET_S

FIRST_WAIT_S = 0.5
WAIT_S_MAX = 60.0
FACTOR = 2.0
RETRY_AFTER_S_MAX = 3_600.0
"""Longest wait that a receiver may ask for."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits grow from `first_wait_s` by `FACTOR` to `wait_s_max`; after failing for `budget_s` a connection
    becomes FAULTED.
    """

    first_wait_s: float = FIRST_WAIT_S
    wait_s_max: float = WAIT_S_MAX
    budget_s: float = RETRY_BUDGET_S

    def wait_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """The wait after that many failures in a row (from 1).

        All of it is random, so that connections with a common failure spread their attempts. A wait that the
        receiver asks for, `RETRY_AFTER_S_MAX` at most, comes before it.
        """
        full = min(self.first_wait_s * FACTOR ** min(failures - 1, 64), self.wait_s_max)
        asked_s = min(max(0.0, retry_after_s or 0.0), RETRY_AFTER_S_MAX)
        return asked_s + full * random.random()
