"""Checks shared by all resources: display names, update masks, etags."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from engine.errors import EtagMismatch, InvalidInput, Violation, Violations
from engine.limits import Limits
from engine.resources.records import Input, Journey, Record, account_of, etag_of
from engine.resources.repository import Repository


def display_name_faults(display_name: str, field: str, limits: Limits) -> Iterable[Violation]:
    """A violation when the display name is too long."""
    characters_max = limits.display_name_characters_max
    if len(display_name) > characters_max:
        yield Violation(field, f"has {len(display_name)} characters; at most {characters_max} are allowed")


def input_faults(repository: Repository, journey: Journey, field: str) -> Iterable[Violation]:
    """Violations for inputs of a journey that do not exist in its account or are named twice. `field` is the
    path of the message with the field `inputs`.
    """
    account = account_of(journey.name)
    named: set[str] = set()
    for index, name in enumerate(journey.inputs):
        path = f"{field}.inputs[{index}]"
        if account_of(name) != account or repository.find(Input, name) is None:
            yield Violation(path, f"input {name!r} does not exist")
        elif name in named:
            yield Violation(path, f"input {name!r} is named twice")
        named.add(name)


def refuse_if_any(violations: Iterable[Violation]) -> None:
    """Raises InvalidInput with all violations, if there are any."""
    found = Violations(violations)
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
