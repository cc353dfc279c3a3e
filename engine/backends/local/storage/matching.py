"""Testing many values, so that neither a deadline nor a caller that gave up waits for the last of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.backends.local.storage.arrays import Bools
from engine.criteria.operators import Matcher
from engine.criteria.operators.base import JoinedSearch
from engine.values import Value

VALUES_PER_CHECK = 1_024
"""Values tested between two looks at the deadline: about a millisecond."""

SEARCHED_PER_CHECK = 8
"""The same for expressions, which may take milliseconds for a string of several kilobytes."""


LINE_BREAK = b"\n"
SEARCHED_BYTES_MIN, SEARCHED_BYTES_MAX = 1 << 11, 1 << 22
"""Bytes of joined strings searched between two looks at the deadline: as many as take about `SEARCHED_S`. The
slowest expressions take microseconds for a byte, most of them a nanosecond.
"""
SEARCHED_S = 0.002


class Line(NamedTuple):
    """One of the strings that are joined, and whether it is known to pass."""

    text: bytes
    passes: bool


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


def matching_lines(search: JoinedSearch, joined: bytes, check: Callable[[], None]) -> Iterator[Line]:
    """The strings in which a match starts, out of those between two line breaks of `joined`, which begins and
    ends with one. `check` is called from time to time and may raise.
    """
    start, size = len(LINE_BREAK), SEARCHED_BYTES_MIN
    while start < len(joined):
        check()
        began = time.perf_counter()
        end = joined.find(LINE_BREAK, min(start + size, len(joined) - 1))
        yield from _matching_between(search, joined, start, end, check)
        start = end + 1
        # The clock decides how much is searched at a time, not what is found.
        is_quick = time.perf_counter() - began < SEARCHED_S
        size = min(size * 2, SEARCHED_BYTES_MAX) if is_quick else max(size // 2, SEARCHED_BYTES_MIN)


def _matching_between(
    search: JoinedSearch, joined: bytes, start: int, end: int, check: Callable[[], None]
) -> Iterator[Line]:
    """Those of the strings from `start` to before the line break at `end`."""
    number = 0
    while start <= end and (found := search(joined, start, end)) is not None:
        first, last = found
        line_end = joined.find(LINE_BREAK, first)
        line_start = joined.rfind(LINE_BREAK, 0, first) + 1
        yield Line(joined[line_start:line_end], last <= line_end)
        start = line_end + 1
        number += 1
        if number % VALUES_PER_CHECK == 0:
            check()
