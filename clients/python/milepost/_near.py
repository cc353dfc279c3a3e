"""Known names, for messages about names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LISTED_MAX = 20
"""Names that a message lists; of more it says only how many there are."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean 'x'?" for the known name that is nearest; nothing when none is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), 1)
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""


def listed(what: str, names: Sequence[str]) -> str:
    """ " The accounts: 'a', 'b'." """
    if not names:
        return f" There are no {what}."
    more = f" and {len(names) - LISTED_MAX:,} more" if len(names) > LISTED_MAX else ""
    return f" The {what}: {', '.join(map(repr, names[:LISTED_MAX]))}{more}."
