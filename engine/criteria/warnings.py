"""Every warning about criteria: what may be a mistake and does not fail the call.

A warning has a reason for programs, stable as the reasons of errors are, the path of the field, and a text
that says what to do. Nothing else makes warnings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.criteria.operators.base import Form
from engine.criteria.words import kinds_in_words, sendable_kinds
from engine.errors import Warning
from engine.values import Kind

NEVER_SEEN = "NEVER_SEEN"
"""There are no data of a name that the criteria use."""
SEEN_ELSEWHERE = "SEEN_ELSEWHERE"
"""There are data of the name, but they came through none of the journey's inputs."""
KIND_NEVER_SEEN = "KIND_NEVER_SEEN"
"""There are values, but none of a kind that the test can pass."""
NOT_LOOKED_AT = "NOT_LOOKED_AT"
"""Damaged data keep other warnings about the criteria from being found."""
SIBLINGS_TAKE_EVERYONE = "SIBLINGS_TAKE_EVERYONE"
"""A milestone with criteria has no users, since earlier siblings match all users of their parent."""

_SIBLINGS_NAMED_MAX = 3


def never_seen(field: str, what: str, near: str = "") -> Warning:
    """There are no such data; `what` reads as "event named 'buy'". `near` is a name like the one asked for
    that has data ("" = none).
    """
    suggestion = f"; did you mean {near!r}?" if near else ""
    return Warning(field, f"no {what} has been seen so far{suggestion}", NEVER_SEEN)


def seen_elsewhere(field: str, what: str, owner: str, place: str) -> Warning:
    """Such data came through none of the inputs of `owner`, the journey or the criterion, but through
    `place`.
    """
    return Warning(
        field,
        f"no {what} has come through the inputs of {owner} so far, only through {place}; "
        f"add such an input to {owner}, or send the data through one that it has",
        SEEN_ELSEWHERE,
    )


def kind_never_seen(
    field: str, asked: Collection[Kind], what: str, seen: Collection[Kind], *, testable: bool
) -> Warning:
    """The values of `what` are of none of the kinds that are asked for. `testable`: another test could take
    them.
    """
    wanted = kinds_in_words(sendable_kinds(asked), "or")
    instead = f", or test {kinds_in_words(seen, 'and')}" if testable else ""
    return Warning(
        field,
        f"finds no {wanted} so far: the values of {what} are {kinds_in_words(seen, 'and')}; "
        f"send {wanted}{instead}",
        KIND_NEVER_SEEN,
    )


def form_never_seen(field: str, form: Form, what: str, *, all_seen: bool) -> Warning:
    """No string of `what` has the form; `all_seen`: all were looked at."""
    which = what if all_seen else f"{what} that were looked at"
    return Warning(
        field,
        f"finds no {form.plural} so far: none of the strings of {which} is one; "
        f"send {form.plural} ({form.rule}), or test any string",
        KIND_NEVER_SEEN,
    )


def not_looked_at(field: str, why: str) -> Warning:
    """The data could not be read, so nothing can be said about the criteria."""
    return Warning(field, f"cannot be compared with the data: {why}", NOT_LOOKED_AT)


def siblings_take_everyone(field: str, siblings: Sequence[str]) -> Warning:
    """Warns that earlier siblings (given by name) take all users of the parent."""
    names = ", ".join(siblings[:_SIBLINGS_NAMED_MAX])
    if len(siblings) > _SIBLINGS_NAMED_MAX:
        names += f" and {len(siblings) - _SIBLINGS_NAMED_MAX} more"
    takers, them = (f"{names} takes", "it") if len(siblings) == 1 else (f"{names} together take", "them")
    return Warning(
        field,
        f"no users are left for this milestone: {takers} everyone, since the first match takes a user; "
        f"narrow {them} or put this milestone before {them}",
        SIBLINGS_TAKE_EVERYONE,
    )
