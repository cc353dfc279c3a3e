"""Checks that every resource shares: display names, update masks, etags."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.errors import EtagMismatch, InvalidInput, Violation
from engine.journeys.model import Record, etag_of
from engine.limits import Limits


def display_name_faults(display_name: str, field: str, limits: Limits) -> Iterable[Violation]:
    """A violation when the display name is too long."""
    characters_max = limits.display_name_characters_max
    if len(display_name) > characters_max:
        yield Violation(field, f"has {len(display_name)} characters; at most {characters_max} are allowed")


def refuse_if_any(violations: Iterable[Violation]) -> None:
    """Raises InvalidInput with all of them, if there is one."""
    found = tuple(violations)
    if found:
        raise InvalidInput(found)


def masked(fields: Collection[str], allowed: Collection[str], set_fields: Iterable[str]) -> frozenset[str]:
    """The fields to change: those asked for, or every one that is set when none is asked for.

    Raises InvalidInput for a field that cannot be changed.
    """
    unknown = [field for field in fields if field not in allowed]
    if unknown:
        raise InvalidInput(
            [
                Violation("update_mask", f"{field!r} cannot be changed; {', '.join(sorted(allowed))} can")
                for field in unknown
            ]
        )
    return frozenset(fields) or frozenset(field for field in set_fields if field in allowed)


def check_etag(record: Record, etag: str) -> None:
    """Raises EtagMismatch when an etag is given and is not the record's."""
    if etag and etag != etag_of(record):
        raise EtagMismatch(f"{record.name} changed since it was read", metadata={"resource": record.name})
