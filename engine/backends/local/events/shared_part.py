"""The rows of a few users of some events as one small part, for several questions of a round.

The journeys of a round ask about the same few users. Their rows lie in the parts of many groups, and each
question would look into all of these. So the rows are copied into one part, whose users are numbered anew:
they are the places of the users among all that are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set

import numpy as np

from engine.backends.local.events.aggregate import passing
from engine.backends.local.events.cache import Loader
from engine.backends.local.events.columns import Column, DictionaryColumn, at_rows
from engine.backends.local.events.frame import ColumnKey, Frame, RowSet
from engine.backends.local.events.model import ResolvedEventMatch, ResolvedSelection, ResolvedSequence
from engine.backends.local.events.part import Part
from engine.backends.local.events.select import Rows, Universe, selected
from engine.backends.local.events.sequence import sequence_passing
from engine.backends.local.storage.arrays import Uint32s

SHARED_PART_ROWS_MAX = 1 << 16
"""Rows of these users, at most: a question then takes a fraction of a millisecond."""


class SharedPart:
    """Some rows of a few users, without removed ones. It never changes."""

    def __init__(self, loader: Loader, sets: Sequence[RowSet]) -> None:
        """`sets` have rows of distinct places."""
        self.rows = sum(map(len, sets))
        self._part = Part.of_frame(loader, Frame.of_sets(sets)) if self.rows else None

    def passing(self, step: ResolvedEventMatch, check: Callable[[], None]) -> Uint32s:
        """The places of users for whom a step over these events holds, ascending."""
        if self._part is None:
            return _NOBODY
        universe = Universe((self._part,), None, check)
        return np.flatnonzero(passing((self._part,), step, universe)).astype(np.uint32)

    @staticmethod
    def passing_sequence(
        parts: Sequence[SharedPart], step: ResolvedSequence, check: Callable[[], None]
    ) -> Uint32s:
        """As `passing`, for a sequence; the parts have the events of each of its steps."""
        found = [each._part for each in parts if each._part is not None]
        if len(found) < len(parts):
            return _NOBODY
        universe = Universe(found, None, check)
        steps = [(selection, (part,)) for selection, part in zip(step.steps, found, strict=True)]
        return np.flatnonzero(sequence_passing(steps, step.within, universe)).astype(np.uint32)


_NOBODY = np.zeros(0, np.uint32)


def rows_in_memory(
    parts: Sequence[Part],
    selection: ResolvedSelection,
    attributes: Set[int],
    users: Uint32s,
    universe: Universe,
    first_place: int,
) -> Iterator[RowSet]:
    """The selected rows of users (ascending), whose places begin at `first_place`, with these attributes.
    The selection has no condition. Raises TakesLong when some of it is not in memory.
    """
    for part in parts:
        part.times_in_memory()
        part.sequences_in_memory()
        for tag in _tags(part, attributes):
            part.column_in_memory(*tag)
    for rows in selected(parts, selection, universe):
        if universe.ids is None:
            # Everyone's rows were selected.
            mine = np.flatnonzero(universe.mask[rows.row_slots])
            if not len(mine):
                continue
            positions = mine if rows.positions is None else rows.positions[mine]
            slots = users.searchsorted(rows.row_slots[mine].astype(np.uint32, copy=False))
            rows = Rows(rows.part, positions, slots)
        yield _row_set(rows, attributes, first_place)


def _tags(part: Part, attributes: Set[int]) -> list[ColumnKey]:
    return [tag for tag in part.record.columns if tag[0] in attributes]


def _row_set(rows: Rows, attributes: Set[int], first_place: int) -> RowSet:
    """Some rows whose slots are places, counted from the first."""
    columns: dict[ColumnKey, Column] = {}
    for tag in _tags(rows.part, attributes):
        column = rows.part.column(*tag)
        assert column is not None
        positions, values = at_rows(column, rows.positions)
        if len(values):
            # A few rows of a large dictionary.
            values = values.trimmed() if isinstance(values, DictionaryColumn) else values.at(slice(None))
            values.positions = None if positions is None or len(values) == len(rows) else positions
            columns[tag] = values
    return RowSet(
        users=(rows.row_slots + first_place).astype(np.uint32),
        times=rows.at(rows.part.times()),
        sequences=rows.at(rows.part.sequences()),
        columns=columns,
    )
