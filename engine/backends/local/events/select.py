"""Row selection: time range, condition and universe over a part.

Users are mapped to *slots*, indexes into the arrays that aggregates fill. A slot is the dense id itself or,
for a small universe, its position among the sorted ids of the universe. A question about one user then costs
no more than that user's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.cache import Sized
from engine.backends.local.events.columns import Column, at_rows, integers_between
from engine.backends.local.events.model import (
    ResolvedSelection,
    RowCondition,
)
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.storage.arrays import Bools, Int64s, Ints, Positions, Uint32s, runs
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask, ids_of
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.operators import ResolvedTest, matcher_of
from engine.values import MICROS_PER_DAY, Kind, Micros

PROBE_COST = 64
"""Looking up one user in a part costs about as much as reading this many of its users in order."""

FEW_ROWS_MAX = 1 << 12
"""Rows of a stored part up to which it is joined with others like it."""

ORDERED_ROWS_MAX = 1 << 17
"""Rows of a stored part up to which they are ordered by time, once they are asked about again."""

FEW_TIMES_MAX = 1 << 11
"""Times that are sorted in one step."""

S = TypeVar("S", bound=Sized)


class Universe:
    """The users that may be in the answer, and their slots."""

    def __init__(
        self, parts: Sequence[Part], users: BitMap | None, check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` is called from time to time and may raise."""
        self._users = users
        self.check = check
        self.looked_at = 0
        """Rows read so far; for parts read as a whole, their users."""
        total = sum(part.record.users for part in parts)
        self.ids: Uint32s | None = None
        if users is not None and len(users) * len(parts) * PROBE_COST < total + PROBE_COST * len(parts):
            self.ids = ids_of(users)
        self.slots = (
            max((part.record.user_max + 1 for part in parts), default=0)
            if self.ids is None
            else len(self.ids)
        )

    @property
    def is_one_user(self) -> bool:
        """Whether there is one slot, of one user."""
        return self.ids is not None and self.slots == 1

    @cached_property
    def mask(self) -> Bools:
        """For each slot whether it is one of the users, where slots are dense ids."""
        found = np.zeros(self.slots, np.bool_)
        if self._users is None:
            found[:] = True
        else:
            ids = ids_of(self._users)
            found[ids[: ids.searchsorted(self.slots)]] = True
        return found

    def bitmap(self, passed: Bools) -> BitMap:
        """The users whose slots passed."""
        if self.ids is not None:
            return bitmap_of(self.ids[passed])
        found = bitmap_of_mask(passed)
        if self._users is not None:
            found &= self._users
        return found


class Rows:
    """Some rows of a part, at least one, and the slots of their users; both ascending."""

    def __init__(self, part: Part, positions: Positions | None, row_slots: Ints | None) -> None:
        """`row_slots` None: these are all rows of the part, and slots are dense ids."""
        self.part = part
        self.positions = positions
        self._row_slots = row_slots
        self._are_all = row_slots is None

    def __len__(self) -> int:
        return self.part.record.rows if self._row_slots is None else len(self._row_slots)

    @property
    def row_slots(self) -> Ints:
        """The slot of each row."""
        # Of a whole part it is not made for those who ask for the rows of each user.
        return self.part.row_users() if self._row_slots is None else self._row_slots

    @cached_property
    def starts(self) -> Int64s:
        """Start of each user's rows among these, followed by their number."""
        if self._are_all:
            return self.part.offsets()
        if self.row_slots[0] == self.row_slots[-1]:
            return np.array([0, len(self.row_slots)])
        return runs(self.row_slots)

    @cached_property
    def slots(self) -> Ints:
        """Distinct slots."""
        return self.part.users() if self._are_all else self.row_slots[self.starts[:-1]]

    @property
    def counts(self) -> Ints:
        """Number of rows of each slot."""
        return self.part.counts() if self._are_all else np.diff(self.starts)

    def at(self, values: Int64s) -> Int64s:
        """These rows' items of an array over all rows of the part."""
        return values if self.positions is None else values[self.positions]

    def with_column(self, attribute: int, kind: Kind) -> tuple[Rows, Column] | None:
        """The rows that have a value of this attribute and kind, and the values; None when no row has."""
        column = self.part.column(attribute, kind)
        if column is None:
            return None
        found, values = at_rows(column, self.positions)
        if not len(values):
            return None
        if found is None:
            return self, values
        positions = found if self.positions is None else self.positions[found]
        return Rows(self.part, positions, self.row_slots[found]), values


def select_rows(part: Part, selection: ResolvedSelection, universe: Universe) -> Rows | None:
    """The rows of a part that are selected; None when there are none."""
    universe.check()
    rows = _universe_rows(part, universe)
    universe.looked_at += len(rows)
    where = selection.where
    if isinstance(where, WhereAttribute):
        # One test leaves fewer rows than the window, as a rule, and reads smaller values than times.
        rows, where = _where(where, rows, universe), None
    start, end = selection.time.start, selection.time.end
    if len(rows) and not part.within(start, end):
        rows = _filtered(rows, _in_time(rows.at(part.times()), start, end))
    if where is not None and len(rows):
        rows = _where(where, rows, universe)
    return rows if len(rows) else None


def _where(where: RowCondition, rows: Rows, universe: Universe) -> Rows:
    count = len(rows)
    return _filtered(rows, holds(where, rows.part, rows.positions, count, universe.check)) if count else rows


def selected(parts: Sequence[Part], selection: ResolvedSelection, universe: Universe) -> Iterator[Rows]:
    """The selected rows, part by part."""
    for part in parts:
        rows = select_rows(part, selection, universe)
        if rows is not None:
            yield rows


def lasting_parts(
    parts: Sequence[Part], selection: ResolvedSelection, universe: Universe
) -> tuple[list[Part], list[Part]]:
    """Splits parts: those whose rows are all selected and that are likely to be unchanged at the next
    question, and the others. Others are in memory, at an edge of the window, or hold the latest day, where
    rows still arrive.
    """
    if universe.ids is not None or selection.where is not None:
        return [], list(parts)
    return lasting_in_window(parts, selection)


def lasting_in_window(parts: Sequence[Part], selection: ResolvedSelection) -> tuple[list[Part], list[Part]]:
    """As `lasting_parts`, for everyone and whatever condition the rows still have to pass."""
    last_day = max(part.record.time_max for part in parts) // MICROS_PER_DAY
    lasting: list[Part] = []
    others: list[Part] = []
    for part in parts:
        lasts = part.is_stored and part.record.time_max // MICROS_PER_DAY < last_day
        whole = part.within(selection.time.start, selection.time.end)
        (lasting if lasts and whole else others).append(part)
    return lasting, others


def kept_of_all(
    lasting: Sequence[Part], tag: Hashable, universe: Universe, derive: Callable[[Universe], S]
) -> S:
    """What `derive` makes of all rows of lasting parts, over every user; cached while there is room, until
    one of the parts changes.
    """
    universe.looked_at += sum(part.record.users for part in lasting)
    return derived_of_all(lasting, tag, lambda: derive(Universe(lasting, None, universe.check)))


def few_rows(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Splits parts: stored ones of few rows, and the others."""
    few: list[Part] = []
    others: list[Part] = []
    for part in parts:
        is_few = part.is_stored and part.record.rows <= FEW_ROWS_MAX
        (few if is_few else others).append(part)
    return few, others


@dataclass(frozen=True, slots=True)
class RowsByTime:
    """The user and the time of some rows, in order of time."""

    users: Uint32s
    times: Int64s

    @property
    def nbytes(self) -> int:
        return self.users.nbytes + self.times.nbytes

    @classmethod
    def of_parts(cls, parts: Sequence[Part], check: Callable[[], None]) -> RowsByTime:
        """All live rows of stored parts, cached until one of them changes. Where parts have few rows, a call
        of numpy takes longer than its work.
        """
        return derived_of_all(parts, "rows by time", lambda: cls._joined(parts, check))

    @classmethod
    def _joined(cls, parts: Sequence[Part], check: Callable[[], None]) -> RowsByTime:
        users, times = [], []
        for part in parts:
            check()
            live = part.live_rows()
            users.append(part.row_users() if live is None else part.row_users()[live])
            times.append(part.times() if live is None else part.times()[live])
        return cls.of_rows(np.concatenate(users), np.concatenate(times))

    @classmethod
    def of_rows(cls, users: Uint32s, times: Int64s) -> RowsByTime:
        """These rows, whatever their order."""
        order = _order_of(times)
        return cls(users[order], times[order])

    def users_between(self, start: Micros | None, end: Micros | None) -> Uint32s:
        """The user of each row in [start, end)."""
        first = 0 if start is None else int(self.times.searchsorted(start))
        last = len(self.times) if end is None else int(self.times.searchsorted(end))
        return self.users[first:last]


def _order_of(times: Int64s) -> Positions:
    """Positions in order of time. Numbers of two bytes are sorted in linear time, and times that are nearly
    in order in little more: together in a fifth of the time.
    """
    if len(times) <= FEW_TIMES_MAX:
        return np.argsort(times, kind="stable")
    since_first = times - times.min()
    shift = max(0, int(since_first.max()).bit_length() - 16)
    nearly = np.argsort((since_first >> shift).astype(np.uint16), kind="stable")
    return nearly[np.argsort(times[nearly], kind="stable")]


def is_ordered(part: Part, selection: ResolvedSelection) -> bool:
    """Whether to find the rows of a part in their order of time: an edge of the window lies in it, and its
    times were read before. To order them for a single question takes longer than to compare them.
    """
    return (
        part.is_stored
        and part.record.rows <= ORDERED_ROWS_MAX
        and not part.within(selection.time.start, selection.time.end)
        and part.has_times
    )


def _universe_rows(part: Part, universe: Universe) -> Rows:
    if universe.ids is not None:
        slots, positions = part.rows_of(universe.ids)
        return Rows(part, positions, slots)
    live = part.live_rows()
    rows = Rows(part, None, None)
    return rows if live is None else _filtered(rows, live)


def _filtered(rows: Rows, kept: Bools) -> Rows:
    found = np.flatnonzero(kept)
    return Rows(rows.part, found if rows.positions is None else rows.positions[found], rows.row_slots[found])


def _in_time(times: Int64s, start: int | None, end: int | None) -> Bools:
    return integers_between(times, start, None if end is None else end - 1)


class Columns(Protocol):
    """Rows with columns, such as a part."""

    def column(self, attribute: int, kind: Kind) -> Column | None: ...


def holds(
    condition: RowCondition,
    columns: Columns,
    positions: Positions | None,
    count: int,
    check: Callable[[], None],
) -> Bools:
    """Mask of the rows at some positions (None = all), `count` of them, for which the condition holds."""
    match condition:
        case WhereAll(conditions=conditions):
            held = np.ones(count, np.bool_)
            for child in conditions:
                held &= holds(child, columns, positions, count, check)
            return held
        case WhereAny(conditions=conditions):
            held = np.zeros(count, np.bool_)
            for child in conditions:
                held |= holds(child, columns, positions, count, check)
            return held
        case WhereNot(condition=child):
            return ~holds(child, columns, positions, count, check)
        case WhereAttribute():
            return _attribute_passes(condition, columns, positions, count, check)


def _attribute_passes(
    condition: WhereAttribute[int, ResolvedTest],
    columns: Columns,
    positions: Positions | None,
    count: int,
    check: Callable[[], None],
) -> Bools:
    matcher = matcher_of(condition.test)
    held = np.zeros(count, np.bool_)
    for kind in matcher.kinds:
        check()
        column = columns.column(condition.key, kind)
        if column is None:
            continue
        found, values = at_rows(column, positions)
        passed = values.passing(matcher, check)
        if found is None:
            held |= passed
        else:
            held[found] |= passed
    return held
