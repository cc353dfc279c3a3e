"""How the threads of the service share one interpreter."""

from __future__ import annotations

import sys

SWITCH_SECONDS = 0.001
"""A thread that computes gives the interpreter to one that waits after this long. A quick call waits for it
several times, so with CPython's default of five milliseconds it took tens of them.
"""


def share_interpreter() -> None:
    """Lets quick calls go on soon beside threads that compute."""
    sys.setswitchinterval(SWITCH_SECONDS)
