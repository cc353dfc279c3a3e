"""Testing many values, so that neither a deadline nor a caller that gave up waits for the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.backends.local.storage.arrays import Bools
from engine.criteria.operators import Matcher
from engine.values import Value

VALUES_PER_CHECK = 1_024
"""Values tested between two looks at the deadline: about a millisecond."""

SEARCHED_PER_CHECK = 8
"""The same for expressions, which may take milliseconds for a string of several kilobytes."""


def passing_values(matcher: Matcher, values: Sequence[Value], check: Callable[[], None]) -> Bools:
    """Mask of values that pass. `check` is called from time to time and may raise."""
    searches = bool(matcher.program_bytes)
    step = SEARCHED_PER_CHECK if searches else VALUES_PER_CHECK
    passes = _by_elements(matcher, check) if searches else matcher.passes
    passed = np.zeros(len(values), np.bool_)
    for start in range(0, len(values), step):
        check()
        passed[start : start + step] = [*map(passes, values[start : start + step])]
    return passed


def _by_elements(matcher: Matcher, check: Callable[[], None]) -> Callable[[Value], bool]:
    """The test, which looks at the deadline within long lists too."""

    def passes(value: Value) -> bool:
        if type(value) is not tuple:
            return matcher.passes(value)
        for start in range(0, len(value), SEARCHED_PER_CHECK):
            check()
            if any(map(matcher.passes, value[start : start + SEARCHED_PER_CHECK])):
                return True
        return False

    return passes
