"""Long work that lets other threads have the interpreter."""

from __future__ import annotations

import time

WORK_SECONDS = 0.0003
"""Seconds of work before a rest."""

REST_SECONDS = 0.0001
"""Seconds of a rest. LMDB and numpy give the interpreter up and take it again in every call: who waits for it
is woken, finds it taken, and waits from anew, for 5 to 20 ms and at worst for a second. Only who sleeps lets
others in.
"""


class Rests:
    """Rests once the thread has worked for a while, whenever it is called."""

    def __init__(self) -> None:
        self._rest_at = time.monotonic() + WORK_SECONDS

    def __call__(self) -> None:
        if time.monotonic() >= self._rest_at:
            time.sleep(REST_SECONDS)
            self._rest_at = time.monotonic() + WORK_SECONDS
