"""How the service stops: what it tells callers, and until when running calls may go on."""

from __future__ import annotations

import threading
import time

from engine.errors import StoreUnavailable

RETRY_S_MIN = 0.5
"""Shortest wait asked of a caller that is refused. Once the connection is gone, callers wait for another."""
RETRY_GROWTH = 2.0
"""A caller waits this many times as long as the stop has taken so far: five attempts, refused four times,
outlive a stop that has to wait 13 seconds for long calls.
"""


class Stopping(threading.Event):
    """Set when the service begins to stop. Calls that were admitted before may go on until `end_grace`."""

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0
        self._grace_over = False

    def set(self) -> None:
        """Begins the stop."""
        if not self.is_set():
            self._since = time.monotonic()
        super().set()

    def end_grace(self) -> None:
        """Ends the calls that still run."""
        self._grace_over = True

    @property
    def grace_over(self) -> bool:
        """Whether calls that were admitted before the stop have to end too."""
        return self._grace_over

    @property
    def retry_in_s(self) -> float:
        """How long a caller should wait before it tries again, in seconds."""
        return max(RETRY_S_MIN, RETRY_GROWTH * (time.monotonic() - self._since))

    def refuse(self) -> None:
        """Raises StoreUnavailable once the service is stopping."""
        if self.is_set():
            raise StoreUnavailable("the service is stopping; try again")

    def refuse_late(self) -> None:
        """Raises StoreUnavailable once running calls have to end."""
        if self._grace_over:
            raise StoreUnavailable("the service is stopping and the call took longer than its grace period")
