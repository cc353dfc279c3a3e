"""Sequences: events in a given order, each strictly later than the one before, within a time of the first.

Taking the earliest event for each step is wrong once there is a limit: a later start may succeed where the
earliest fails. So for every event that can end a chain of the first i steps the latest possible start of such
a chain is kept. That start never decreases with the event's time, hence the best chain to extend is the one
ending in the last event of the step before that is strictly earlier, and one binary search an event finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.local.events.arrays import Bools, Int64s, Ints
from engine.local.events.model import ResolvedSelection
from engine.local.events.part import Part
from engine.local.events.select import Universe, selected
from engine.values import Micros

_KEY_MAX = 1 << 62

StepRows = tuple[Ints, Int64s]
"""Slots and times of the rows that match a step, unordered."""


def sequence_passing(
    steps: Sequence[tuple[ResolvedSelection, Sequence[Part]]], within: Micros | None, universe: Universe
) -> Bools:
    """Which slots have events e1 < e2 < …, ei matching step i, the last at most `within` after the first."""
    passed = np.zeros(universe.slots, np.bool_)
    matched = []
    for selection, parts in steps:
        rows = _step_rows(selection, parts, universe)
        if rows is None:
            return passed
        matched.append(rows)
    if not matched:
        return passed
    keys, timeline = _keys(matched)
    ends, starts = keys[0], keys[0]
    for later in keys[1:]:
        if not len(ends):
            return passed
        before = np.searchsorted(ends, later, "left") - 1
        # The event before must be the same user's: not below the user's first possible key.
        possible = (before >= 0) & (ends[before] >= later - later % timeline.span)
        ends, starts = later[possible], starts[before[possible]]
    if within is not None:
        held = timeline.times(ends) - timeline.times(starts) <= within
        ends = ends[held]
    passed[ends // timeline.span] = True
    return passed


def _step_rows(selection: ResolvedSelection, parts: Sequence[Part], universe: Universe) -> StepRows | None:
    slots, times = [], []
    for rows in selected(parts, selection, universe):
        slots.append(rows.row_slots)
        times.append(rows.at(rows.part.times()))
    return (np.concatenate(slots), np.concatenate(times)) if slots else None


class _Timeline:
    """How a slot and a time make one sortable integer: slot × span + place of the time."""

    def __init__(self, matched: Sequence[StepRows], slots: int) -> None:
        self._first = min(int(times.min()) for _, times in matched)
        last = max(int(times.max()) for _, times in matched)
        self._distinct: Int64s | None = None
        self.span = last - self._first + 1
        if self.span * slots > _KEY_MAX:
            self._distinct = np.unique(np.concatenate([times for _, times in matched]))
            self.span = len(self._distinct)

    def keys(self, slots: Ints, times: Int64s) -> Int64s:
        """Sorted, each once."""
        places = times - self._first if self._distinct is None else np.searchsorted(self._distinct, times)
        keys = slots.astype(np.int64) * self.span + places
        if (keys[1:] > keys[:-1]).all():
            return keys
        keys.sort()
        kept = np.ones(len(keys), np.bool_)
        kept[1:] = keys[1:] != keys[:-1]
        return keys[kept]

    def times(self, keys: Int64s) -> Int64s:
        """The times in keys, from the first on."""
        places: Int64s = keys % self.span
        return places if self._distinct is None else self._distinct[places]


def _keys(matched: Sequence[StepRows]) -> tuple[list[Int64s], _Timeline]:
    timeline = _Timeline(matched, 1 + max(int(slots.max()) for slots, _ in matched))
    return [timeline.keys(slots, times) for slots, times in matched], timeline
