"""Testing many values, so that neither a deadline nor a caller that gave up waits for the last of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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


class Found(NamedTuple):
    """Strings that are joined, each by a place in it: those that pass, and those that may."""

    passing: list[int]
    doubtful: list[int]


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


def search_joined(
    search: JoinedSearch, joined: bytes, start: int, end: int, check: Callable[[], None]
) -> Found:
    """The strings in which a match starts, out of those from `start` to before the line break at `end`.
    `check` is called from time to time and may raise.
    """
    found = Found([], [])
    size = SEARCHED_BYTES_MIN
    # The last string may be empty.
    while start <= end:
        check()
        began = time.perf_counter()
        until = joined.find(LINE_BREAK, min(start + size, end))
        _search_piece(search, joined, start, until, found, check)
        start = until + 1
        # The clock decides how much is searched at a time, not what is found.
        is_quick = time.perf_counter() - began < SEARCHED_S
        size = min(size * 2, SEARCHED_BYTES_MAX) if is_quick else max(size // 2, SEARCHED_BYTES_MIN)
    return found


def _search_piece(
    search: JoinedSearch, joined: bytes, start: int, end: int, found: Found, check: Callable[[], None]
) -> None:
    """Adds those of the strings from `start` to before the line break at `end`."""
    passing, doubtful = found
    looks_at = len(passing) + VALUES_PER_CHECK
    while start <= end:
        for first, last in search(joined, start, end):
            line_end = joined.find(LINE_BREAK, first)
            if last > line_end:
                # It goes on in other strings, which are searched for matches of their own.
                doubtful.append(first)
                start = line_end + 1
                break
            passing.append(first)
            if len(passing) > looks_at:
                check()
                looks_at += VALUES_PER_CHECK
        else:
            return
