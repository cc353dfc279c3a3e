"""The order of members: by group, then dense id. Lists and exports go through it in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from engine.errors import InvalidInput

AFTER_LENGTH = 10


class Position(NamedTuple):
    """A place in the order, just behind a user."""

    group: int
    dense: int


class Cut(NamedTuple):
    """The users of a page by group, and the `after` to continue with ("" = the end)."""

    users: Sequence[tuple[int, BitMap]]
    after: str


def position_of(after: str) -> Position | None:
    """The position in an `after`; None at the start. Raises InvalidInput for a string that is none."""
    if not after:
        return None
    try:
        if len(after) != AFTER_LENGTH:
            raise ValueError(after)
        return Position(int(after[:2], 16), int(after[2:], 16))
    except ValueError as error:
        raise InvalidInput.one("after", "not an `after` of this backend") from error


def after_group(after: str) -> int:
    """The group to continue in. Raises InvalidInput for a string that is no `after`."""
    position = position_of(after)
    return 0 if position is None else position.group


def cut_page(after: str, limit: int | None, groups: Iterable[tuple[int, BitMap]]) -> Cut:
    """Up to `limit` members just after `after`. `groups` are their groups with all members, from that of
    `after` on. Raises InvalidInput.
    """
    if limit is not None and limit < 1:
        raise InvalidInput.one("limit", "a page has at least one member")
    position = position_of(after)
    found: list[tuple[int, BitMap]] = []
    room = limit
    for group, users in groups:
        start = users.rank(position.dense) if position is not None and group == position.group else 0
        end = len(users) if room is None else min(len(users), start + room)
        if start < end:
            # A copy: the set may be one of the index, which changes in place.
            page = users[start:end]
            found.append((group, page))
            room = None if room is None else room - len(page)
        if room == 0 and end < len(users):
            last_group, last = found[-1]
            return Cut(found, _encode(last_group, last.max()))
    return Cut(found, "")


def _encode(group: int, dense: int) -> str:
    return f"{group:02x}{dense:08x}"
