"""Ranks of counted values: most frequent first, then in order of kind and value."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, TypeAlias

Rank: TypeAlias = tuple[int, int, Any]
"""Sort key of a value: minus its count, its kind, and the value."""


def first_ranks(ranks: Iterable[Rank], after: Rank | None, limit: int) -> list[Rank]:
    """The first `limit` ranks just after one, in order."""
    if after is not None:
        ranks = (rank for rank in ranks if rank > after)
    return heapq.nsmallest(limit, ranks)
