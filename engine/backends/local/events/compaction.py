"""Compaction: which stored parts a checkpoint rewrites, to purge removed rows and to have fewer, larger
parts.

Every rewrite costs the bytes it writes and leaves free pages behind. So each rule rewrites rows only in
proportion to the rows it purges, or to the rows in smaller parts that it merges. A checkpoint has an
allowance; what exceeds it is left to later checkpoints. Time and memory of a checkpoint therefore do not grow
with the store. Damaged parts stay as they are, and checkpoints work around them.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.backends.local.events.part import Part

PURGED_ROWS_PER_CHECKPOINT = 1 << 18
"""Rows a checkpoint rewrites to purge removed rows, approximately."""
COMPACTED_ROWS_PER_CHECKPOINT = 1 << 19
"""Rows a checkpoint may rewrite to merge parts; more when it has more new rows than this."""

EXPIRED_SHARE_MAX = 0.25
"""Share of rows before the floor above which a part is rewritten."""

SLICE_PARTS_MAX = 8
"""Parts of a slice above which new rows trigger a merge."""
SLICE_PARTS_LIMIT = 24
"""Parts of a slice above which a merge ignores the allowance."""
JOINED_RATIO_MAX = 8
"""A part of a past day is left alone when the parts to merge into it have less than an eighth of its rows."""
LATE_SHARE_MAX = 1 / 256
"""Share of a past slice above which new rows are a history load rather than late events."""


class Allowance:
    """Rows that may still be rewritten. The last rewrite may exceed it."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.was_refused = False
        """Whether a rewrite was postponed."""

    @property
    def is_used_up(self) -> bool:
        return self._rows <= 0

    def take(self, rows: int) -> bool:
        """Whether this many rows may be rewritten now; deducts them."""
        if self.is_used_up:
            self.was_refused = True
            return False
        self._rows -= rows
        return True


class Allowances:
    """The allowances of one checkpoint."""

    def __init__(self, new_rows: int) -> None:
        """`new_rows`: rows the checkpoint writes for the first time."""
        self.purge = Allowance(PURGED_ROWS_PER_CHECKPOINT)
        self.compaction = Allowance(max(new_rows, COMPACTED_ROWS_PER_CHECKPOINT))


def is_to_be_rewritten(part: Part) -> bool:
    """Whether to rewrite: always for removed users, for rows before the floor only when it pays."""
    return bool(part.removed) or part.expired_rows() > EXPIRED_SHARE_MAX * part.record.rows


def rows_in(parts: Iterable[Part]) -> int:
    """Number of rows in parts, removed ones included."""
    return sum(part.record.rows for part in parts)


def is_late(rows: int, rows_of_slice: int) -> bool:
    """Whether the new rows of a past slice are late events rather than a history load."""
    return rows <= LATE_SHARE_MAX * rows_of_slice


def joinable(parts: Iterable[Part], rows: int) -> tuple[list[Part], list[Part]]:
    """The parts to keep and the parts to merge with the new rows: all up to the largest part that is at most
    `JOINED_RATIO_MAX` times as large as everything smaller together. Parts stay few, and a trickle of late
    rows does not rewrite everything.
    """
    damaged, ordered = _by_rows(parts)
    end = 0
    for at, part in enumerate(ordered):
        if rows and part.record.rows <= JOINED_RATIO_MAX * rows:
            end = at + 1
        rows += part.record.rows
    return [*damaged, *ordered[end:]], ordered[:end]


def needs_compaction(parts: Iterable[Part]) -> bool:
    """Whether parts of a past day should be merged even without new rows."""
    return len(joinable(parts, 0)[1]) > 1


def apart(parts: Iterable[Part], rows: int) -> tuple[list[Part], list[Part]]:
    """The parts to keep and the parts to merge with a new one of this many rows: the smaller half, and any
    part no larger than all of those together.
    """
    damaged, ordered = _by_rows(parts)
    at = len(ordered) // 2
    rows += rows_in(ordered[:at])
    while at < len(ordered) and ordered[at].record.rows <= rows:
        rows += ordered[at].record.rows
        at += 1
    return [*damaged, *ordered[at:]], ordered[:at]


def _by_rows(parts: Iterable[Part]) -> tuple[list[Part], list[Part]]:
    """Damaged parts, and the others by ascending size."""
    ordered = sorted(parts, key=lambda part: part.record.rows)
    return [part for part in ordered if part.is_damaged], [part for part in ordered if not part.is_damaged]
