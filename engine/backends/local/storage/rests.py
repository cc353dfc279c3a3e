"""Long work that lets other threads have the interpreter."""

from __future__ import annotations

import time

WORK_SECONDS = 0.0003
"""Seconds of work before a rest."""

REST_SECONDS = 0.0001
"""Seconds of a rest. LMDB and numpy release the interpreter and take it again in every call. A thread that
waits for it wakes up, finds it taken and starts to wait again: for 5 to 20 ms, at worst for a second. A short
sleep lets it in.
"""


class Rests:
    """Rests once the thread has worked for a while, whenever it is called."""

    def __init__(self) -> None:
        self._rest_at = time.monotonic() + WORK_SECONDS

    def __call__(self) -> None:
        if time.monotonic() >= self._rest_at:
            time.sleep(REST_SECONDS)
            self._rest_at = time.monotonic() + WORK_SECONDS
