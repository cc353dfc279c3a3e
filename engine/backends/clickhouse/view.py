"""What of the stored rows counts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.backends.clickhouse.mapped import MappedTable
from engine.values import Micros


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """One row a user, of what counted at a revision."""

    name: str
    """No two builds have the same."""
    revision: int
    hot: tuple[tuple[str, str], ...] = ()
    """Place and key of the facts that have columns of their own, by slot."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of an account that count at a revision. Rows that a write has inserted so far, while it is not
    visible yet, do not.
    """

    account: str
    """Resource name."""
    revision: int = 0
    """Rows of later revisions do not count."""
    cuts: Mapping[str, int] = {}
    """By user that was erased or moved, the revision up to which its rows do not count any more."""
    removals: tuple[tuple[Micros, int], ...] = ()
    """Events before an instant do not count if they came by a revision: (instant, revision)."""
    event_spans: tuple[int, ...] = ()
    """The spans of time (`zones.SPAN_MICROS`, by number, sorted) that have all events that count, and perhaps
    others. Only in these it matters what the clocks of a time zone show.
    """
    base: Base | None = None
    """Users without later rows are decided from it; without one, all from the rows."""
    mapped: tuple[MappedTable, ...] = ()
    """Tables of others that have events too."""
