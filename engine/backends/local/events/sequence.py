"""Sequences: events in a given order, each strictly later than the one before, within a time of the first.

Taking the earliest event for each step is wrong once there is a limit: a later start may succeed where the
earliest fails. So for every event that can end a chain of the first i steps, the latest possible start of
such a chain is kept. That start never decreases with the event's time. The best chain to extend is therefore
the one that ends in the last strictly earlier event of the previous step, which one binary search finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from engine.backends.local.events.columns import integers_between
from engine.backends.local.events.model import ResolvedSelection
from engine.backends.local.events.part import Part
from engine.backends.local.events.select import Universe, select_rows
from engine.backends.local.storage.arrays import Bools, Int64s, Ints, ranges, sorted_distinct
from engine.values import Micros

_KEY_MAX = 1 << 62

_encoder = msgspec.msgpack.Encoder(order="deterministic")

StepRows = tuple[Ints, Int64s]
"""Slots and times of rows that match a step, unordered."""

_NO_ROWS: StepRows = np.zeros(0, np.uint32), np.zeros(0, np.int64)


def sequence_passing(
    steps: Sequence[tuple[ResolvedSelection, Sequence[Part]]], within: Micros | None, universe: Universe
) -> Bools:
    """Slots that have events e1 < e2 < …, where ei matches step i and the last is at most `within` after the
    first.
    """
    passed = np.zeros(universe.slots, np.bool_)
    # Compare by bytes: Python considers a test for 1.0 and one for True equal.
    order = [_encoder.encode(selection) for selection, _ in steps]
    distinct = dict(zip(order, steps, strict=True))
    matched: dict[bytes, StepRows] = {}
    candidates: Bools | None = None
    # The fewest first: of users without a rare step no other rows are read.
    for encoded in sorted(distinct, key=lambda each: sum(part.record.rows for part in distinct[each][1])):
        matched[encoded] = rows = _step_rows(*distinct[encoded], universe, candidates)
        candidates = np.zeros(universe.slots, np.bool_)
        candidates[rows[0]] = True
        if not len(rows[0]):
            return passed
    assert candidates is not None
    matched = {encoded: _of_candidates(rows, candidates) for encoded, rows in matched.items()}
    timeline = _Timeline(list(matched.values()), universe.slots)
    keys = {encoded: timeline.keys(*rows) for encoded, rows in matched.items()}
    ends = starts = keys[order[0]]
    for encoded in order[1:]:
        if not len(ends):
            return passed
        later = keys[encoded]
        before = np.searchsorted(ends, later, "left") - 1
        # The previous event must belong to the same user: its key is at least the user's first one.
        possible = np.flatnonzero((before >= 0) & (ends.take(before) >= timeline.first_keys(later)))
        ends, starts = later.take(possible), starts.take(before.take(possible))
    if within is not None:
        ends = ends[timeline.times(ends) - timeline.times(starts) <= within]
    passed[timeline.slots(ends)] = True
    return passed


def _step_rows(
    selection: ResolvedSelection, parts: Sequence[Part], universe: Universe, candidates: Bools | None
) -> StepRows:
    """The rows of a step, those of candidates alone; None = all."""
    slots: list[Ints] = [np.zeros(0, np.uint32)]
    times = [np.zeros(0, np.int64)]
    for part in parts:
        if candidates is not None and _is_by_user(part, selection, universe):
            found = _rows_of_candidates(part, selection, universe, candidates)
        else:
            found = _selected_rows(part, selection, universe)
            if candidates is not None:
                found = _of_candidates(found, candidates)
        slots.append(found[0])
        times.append(found[1])
    return np.concatenate(slots), np.concatenate(times)


def _selected_rows(part: Part, selection: ResolvedSelection, universe: Universe) -> StepRows:
    rows = select_rows(part, selection, universe)
    return _NO_ROWS if rows is None else (rows.row_slots, rows.at(part.times()))


def _is_by_user(part: Part, selection: ResolvedSelection, universe: Universe) -> bool:
    """Whether to find rows user by user: to name the user of each row of a part takes longer, unless that is
    known. Then the window alone decides about a row, and slots are dense ids.
    """
    is_plain = universe.ids is None and selection.where is None and not part.has_tombstones
    return is_plain and not part.keeps_row_users


def _rows_of_candidates(
    part: Part, selection: ResolvedSelection, universe: Universe, candidates: Bools
) -> StepRows:
    """The rows of a part that the candidates have in the window, found user by user."""
    universe.check()
    users, counts = part.users(), part.counts()
    kept = np.flatnonzero(candidates.take(users))
    if not len(kept):
        return _NO_ROWS
    lengths = counts.take(kept).astype(np.int64)
    rows = ranges(part.offsets().take(kept), lengths)
    universe.looked_at += len(rows)
    found: StepRows = np.repeat(users.take(kept), lengths), part.times().take(rows)
    start, end = selection.time.start, selection.time.end
    if part.within(start, end):
        return found
    inside = np.flatnonzero(integers_between(found[1], start, None if end is None else end - 1))
    return found[0].take(inside), found[1].take(inside)


def _of_candidates(rows: StepRows, candidates: Bools) -> StepRows:
    # Indexes of rows are several times as fast as a mask.
    kept = np.flatnonzero(candidates.take(rows[0]))
    return rows[0].take(kept), rows[1].take(kept)


class _Timeline:
    """Combines slot and time into one sortable integer: the slot, and the bits of the offset of the time."""

    def __init__(self, matched: Sequence[StepRows], slots: int) -> None:
        self._first = min(int(times.min()) for _, times in matched)
        last = max(int(times.max()) for _, times in matched)
        self._distinct: Int64s | None = None
        self._bits = (last - self._first).bit_length()
        if slots << self._bits > _KEY_MAX:
            self._distinct = sorted_distinct(np.concatenate([times for _, times in matched]))
            self._bits = len(self._distinct).bit_length()

    def keys(self, slots: Ints, times: Int64s) -> Int64s:
        """Sorted distinct keys."""
        offsets = times - self._first if self._distinct is None else np.searchsorted(self._distinct, times)
        keys = slots.astype(np.int64) << self._bits | offsets
        return keys if (keys[1:] > keys[:-1]).all() else sorted_distinct(keys)

    def slots(self, keys: Int64s) -> Int64s:
        """The slots in keys."""
        return keys >> self._bits

    def first_keys(self, keys: Int64s) -> Int64s:
        """The least key of the slot of each."""
        return keys & -(1 << self._bits)

    def times(self, keys: Int64s) -> Int64s:
        """Time offsets in keys, from the first time."""
        offsets: Int64s = keys & ((1 << self._bits) - 1)
        return offsets if self._distinct is None else self._distinct[offsets]
