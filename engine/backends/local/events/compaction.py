"""Which stored parts a checkpoint rewrites: to be rid of rows that were removed, and to have fewer, larger
parts.

Every rewriting costs what it writes, and pages that are free only afterwards. So each rule here has rows
rewritten only when that many times fewer are gained: removed ones, or ones in smaller parts. And a
checkpoint has an allowance: what goes beyond it waits for a later one, so that neither the time of a
checkpoint nor its memory grows with the store. Parts that turn out to be damaged stay as they are, and
checkpoints go on around them.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.backends.local.events.part import Part

PURGED_ROWS_PER_CHECKPOINT = 1 << 18
"""About how many rows a checkpoint rewrites to get rid of those that were removed."""
COMPACTED_ROWS_PER_CHECKPOINT = 1 << 19
"""About how many rows a checkpoint may rewrite to have fewer and larger parts, or as many as are new to it.
"""

EXPIRED_SHARE_MAX = 0.25
"""A part is rewritten when more than this share of its rows lies before its floor."""

SLICE_PARTS_MAX = 8
"""A slice with more parts has some of them merged when more rows come."""
SLICE_PARTS_LIMIT = 24
"""With more parts than this the allowance of a checkpoint is not asked."""
JOINED_RATIO_MAX = 8
"""A part of a past day is not rewritten to take in others with less than an eighth of its rows together."""
LATE_SHARE_MAX = 1 / 256
"""More rows at once than this share of a past slice are no stragglers, but history that is being loaded."""


class Allowance:
    """How many rows may still be rewritten. The last rewriting may exceed it."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.was_refused = False
        """Whether something had to wait."""

    @property
    def is_used_up(self) -> bool:
        return self._rows <= 0

    def take(self, rows: int) -> bool:
        """Whether so many rows are to be rewritten now."""
        if self.is_used_up:
            self.was_refused = True
            return False
        self._rows -= rows
        return True


class Allowances:
    """What a checkpoint may rewrite."""

    def __init__(self, new_rows: int) -> None:
        """`new_rows` are those that the checkpoint writes for the first time."""
        self.purge = Allowance(PURGED_ROWS_PER_CHECKPOINT)
        self.compaction = Allowance(max(new_rows, COMPACTED_ROWS_PER_CHECKPOINT))


def is_to_be_rewritten(part: Part) -> bool:
    """Rows of removed users must go; those before the floor only when that pays for the writing."""
    return bool(part.removed) or part.expired_rows() > EXPIRED_SHARE_MAX * part.record.rows


def rows_in(parts: Iterable[Part]) -> int:
    """How many rows parts have, removed ones included."""
    return sum(part.record.rows for part in parts)


def is_late(rows: int, rows_of_slice: int) -> bool:
    """Whether so many new rows for a past slice are stragglers, and not history that is being loaded."""
    return rows <= LATE_SHARE_MAX * rows_of_slice


def joinable(parts: Iterable[Part], rows: int) -> tuple[list[Part], list[Part]]:
    """Which parts stay and which make one, with so many new rows: all up to the largest that is not more than
    `JOINED_RATIO_MAX` times as large as everything smaller together. So parts stay few, and rows that come
    late, a few at a time, do not have all others rewritten.
    """
    damaged, ordered = _by_rows(parts)
    end = 0
    for at, part in enumerate(ordered):
        if rows and part.record.rows <= JOINED_RATIO_MAX * rows:
            end = at + 1
        rows += part.record.rows
    return [*damaged, *ordered[end:]], ordered[:end]


def needs_compaction(parts: Iterable[Part]) -> bool:
    """Whether some parts of a past day are to be joined, even when nothing comes any more."""
    return len(joinable(parts, 0)[1]) > 1


def apart(parts: Iterable[Part], rows: int) -> tuple[list[Part], list[Part]]:
    """Which parts stay and which merge with a new one of so many rows: the smaller half, and any that is no
    larger than all those together.
    """
    damaged, ordered = _by_rows(parts)
    at = len(ordered) // 2
    rows += rows_in(ordered[:at])
    while at < len(ordered) and ordered[at].record.rows <= rows:
        rows += ordered[at].record.rows
        at += 1
    return [*damaged, *ordered[at:]], ordered[:at]


def _by_rows(parts: Iterable[Part]) -> tuple[list[Part], list[Part]]:
    """The damaged ones, and the others, smallest first."""
    ordered = sorted(parts, key=lambda part: part.record.rows)
    return [part for part in ordered if part.is_damaged], [part for part in ordered if not part.is_damaged]
