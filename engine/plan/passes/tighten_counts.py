"""Tightens intervals of counts, which are whole numbers of one or more.

    COUNT in (0, ∞)  → [1, ∞)      COUNT in (2.5, 7) → [3, 6]      COUNT in (-∞, 0) → in no interval
    DISTINCT_DAYS in [1, ∞) → COUNT in [1, ∞): some event is on some day

Equivalent tests become equal steps, which `share` merges.
"""

from __future__ import annotations

import math

import msgspec

from engine.criteria.model import Aggregate
from engine.plan.model import SOME_EVENT, EventMatch, Interval, Plan, Step
from engine.plan.passes.rewrite import Draft, has, rewrite
from engine.plan.statistics import Statistics


def tighten_counts(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with the intervals of counting aggregates as closed whole-number intervals."""
    return rewrite(plan, _tighten) if has(plan, EventMatch) else plan


def _tighten(draft: Draft, step: Step) -> int:
    if not isinstance(step, EventMatch) or not step.aggregate.is_whole_number:
        return draft.add(step)
    intervals = whole_numbers(step.intervals)
    if step.aggregate is Aggregate.DISTINCT_DAYS and intervals == SOME_EVENT:
        return draft.add(EventMatch(selection=step.selection, intervals=intervals))
    return draft.add(
        step if intervals == step.intervals else msgspec.structs.replace(step, intervals=intervals)
    )


def whole_numbers(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """The whole numbers of one or more in sorted intervals, as closed intervals that leave none out between
    them.
    """
    merged: list[tuple[float, float]] = []
    for interval in intervals:
        low, high = _first(interval), _last(interval)
        if low > high:
            continue
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(Interval(low=low, high=None if math.isinf(high) else high) for low, high in merged)


def _first(interval: Interval) -> float:
    if interval.low is None or interval.low < 1:
        return 1.0
    return float(math.ceil(interval.low) if interval.low_included else math.floor(interval.low) + 1)


def _last(interval: Interval) -> float:
    if interval.high is None:
        return math.inf
    return float(math.floor(interval.high) if interval.high_included else math.ceil(interval.high) - 1)
