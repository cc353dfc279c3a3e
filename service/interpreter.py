"""How the threads of the service share one interpreter."""

from __future__ import annotations

import gc
import sys

SWITCH_SECONDS = 0.0002
"""A thread that computes gives the interpreter to one that waits after this long. A quick call waits for it
about five times: beside a thread that only computes a check took 5.5 ms (median) with one millisecond and
takes 2.3 ms, and with CPython's default of five milliseconds it took tens. Neither checks nor counts use
measurably more processor time.
"""

YOUNG_OBJECTS = 10_000
"""Objects after which the garbage collector looks at the newest. A round of many journeys makes some ten
thousand, hardly one of them in a cycle, and with Python's default it looks at them again and again.
"""


def share_interpreter() -> None:
    """Lets quick calls go on soon beside threads that compute."""
    sys.setswitchinterval(SWITCH_SECONDS)


def leave_out_of_collections() -> None:
    """What a start has loaded stays: a collection that looked at all of it would stop every thread. Others
    are rare.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
