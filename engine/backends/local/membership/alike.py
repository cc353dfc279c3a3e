"""What memberships that change alike have in common, made once for all of them.

Many audiences gain and lose the same users: they ask for the same, or for something that all users of a round
have done. Then the difference, its record, and the members afterwards are the same. They are recognised by
identity: whom a round evaluates, the answers and the members are objects that nobody changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pyroaring import BitMap

from engine.backends.local.membership.states import Changes, GroupChanges

Members = tuple[BitMap, ...]
"""The members of an audience by group."""

Users = Mapping[int, BitMap | None]
"""Users by group, None = all of a group. Groups without may be left out."""

_NOBODY = BitMap()


class After(NamedTuple):
    """Members after changes: those of the groups that have changed, and all."""

    changed: Mapping[int, BitMap]
    members: Members


class Alike:
    """The differences of one round, or of one write, by what they are made of."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Mapping[int, BitMap], Changes]] = {}
        self._changes: dict[tuple[int, int, int], tuple[Users, Members, Mapping[int, BitMap], Changes]] = {}
        self._exits: dict[tuple[int, int], tuple[Members, Mapping[int, BitMap], Changes]] = {}
        self._after: dict[tuple[int, int], tuple[Members, Changes, After]] = {}
        """By identity of what comes first in each value; it is kept, so that nothing else gets its name."""

    def changes(self, users: Users, before: Members, after: Mapping[int, BitMap]) -> Changes:
        """Entries and exits of a membership with these members, of whose users those in `after` belong to
        it.
        """
        name = id(users), id(before), id(after)
        found = self._changes.get(name)
        if found is None:
            changes = self.changes_among(users, before.__getitem__, after)
            found = self._changes[name] = users, before, after, changes
        return found[3]

    def changes_among(
        self, users: Users, members_in: Callable[[int], BitMap], after: Mapping[int, BitMap]
    ) -> Changes:
        """As `changes`, of a membership whose members `members_in` gives for a group."""
        before = _members_among(users, members_in)
        return Changes(_differences(users, before, after)) if before else self._entering(after)

    def _entering(self, users: Mapping[int, BitMap]) -> Changes:
        """The changes of a membership that these users enter, by group in order."""
        found = self._entries.get(id(users))
        if found is None:
            changes = Changes(GroupChanges(group, some, _NOBODY) for group, some in users.items())
            found = self._entries[id(users)] = users, changes
        return found[1]

    def exits(self, before: Members, gone: Mapping[int, BitMap]) -> Changes:
        """The exits of a membership with these members, some of whom, by group, are gone."""
        name = id(before), id(gone)
        found = self._exits.get(name)
        if found is None:
            changes = exits_among(gone, before.__getitem__)
            found = self._exits[name] = before, gone, changes
        return found[2]

    def after(self, before: Members, changes: Changes) -> After:
        """The members after changes."""
        name = id(before), id(changes)
        found = self._after.get(name)
        if found is None:
            changed = {each.group: changed_members(before[each.group], each) for each in changes.groups}
            members = tuple([changed.get(group, users) for group, users in enumerate(before)])
            found = self._after[name] = before, changes, After(changed, members)
        return found[2]


def exits_among(gone: Mapping[int, BitMap], members_in: Callable[[int], BitMap]) -> Changes:
    """As `Alike.exits`, of a membership whose members `members_in` gives for a group."""
    return Changes(
        GroupChanges(group, _NOBODY, members_in(group) & users) for group, users in sorted(gone.items())
    )


def changed_members(before: BitMap, changes: GroupChanges) -> BitMap:
    """The members of a group after changes."""
    after = before | changes.entered
    if changes.exited:
        after -= changes.exited
    return after


def _members_among(users: Users, members_in: Callable[[int], BitMap]) -> dict[int, BitMap]:
    """The members among some users, by group. Groups without are left out."""
    found = {}
    for group, base in users.items():
        members = members_in(group)
        if base is None:
            if members:
                found[group] = members
        elif members.intersect(base):
            found[group] = members & base
    return found


def _differences(
    users: Users, before: Mapping[int, BitMap], after: Mapping[int, BitMap]
) -> Iterator[GroupChanges]:
    """Who enters and who exits, by group in order."""
    for group in users:
        old, new = before.get(group, _NOBODY), after.get(group, _NOBODY)
        if old != new:
            yield GroupChanges(group, new - old, old - new)
