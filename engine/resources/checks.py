"""Checks shared by all resources: display names, update masks, etags."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from engine.errors import EtagMismatch, InvalidInput, Violation
from engine.limits import Limits
from engine.resources.records import Record, etag_of


def display_name_faults(display_name: str, field: str, limits: Limits) -> Iterable[Violation]:
    """A violation when the display name is too long."""
    characters_max = limits.display_name_characters_max
    if len(display_name) > characters_max:
        yield Violation(field, f"has {len(display_name)} characters; at most {characters_max} are allowed")


def refuse_if_any(violations: Iterable[Violation]) -> None:
    """Raises InvalidInput with all violations, if there are any."""
    found = tuple(violations)
    if found:
        raise InvalidInput(found)


def masked_values(record: Record, fields: Collection[str], allowed: Collection[str]) -> dict[str, Any]:
    """The record's values of `fields`. Raises InvalidInput for a field that cannot be changed."""
    unknown = [field for field in fields if field not in allowed]
    if unknown:
        raise InvalidInput(
            [
                Violation("update_mask", f"{field!r} cannot be changed; {', '.join(sorted(allowed))} can")
                for field in unknown
            ]
        )
    return {field: getattr(record, field) for field in fields}


def check_etag(record: Record, etag: str) -> None:
    """Raises EtagMismatch when `etag` is set and differs from the record's."""
    if etag and etag != etag_of(record):
        raise EtagMismatch(f"{record.name} changed since it was read", metadata={"resource": record.name})
