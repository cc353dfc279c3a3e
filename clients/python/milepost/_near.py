"""Known names, for messages about names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LISTED_MAX = 20
"""Names that a message lists; of more it says only how many there are."""


def did_you_mean(name: str, known: Iterable[str] | None) -> str:
    """ ", did you mean 'x'?" for the known name that is nearest; nothing when none is near, and when it is
    not known what there is (None).
    """
    near = nearest(name, known or ())
    return f", did you mean {near!r}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest; "" when none is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), 1)
    return by_lower[near[0]] if near else ""


def listed(what: str, names: Sequence[str] | None) -> str:
    """ " The accounts: 'a', 'b'." Nothing when it is not known what there is (None)."""
    if names is None:
        return ""
    if not names:
        return f" There are no {what}."
    more = f" and {len(names) - LISTED_MAX:,} more" if len(names) > LISTED_MAX else ""
    return f" The {what}: {', '.join(map(repr, names[:LISTED_MAX]))}{more}."
