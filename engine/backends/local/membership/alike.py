"""What memberships that change alike have in common, made once for all of them.

Many audiences gain and lose the same users: they ask for the same, or for something that all users of a round
have done. Then the difference, its record, and the members afterwards are the same. They are recognised by
identity: whom a round evaluates, the answers and the members are objects that nobody changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pyroaring import BitMap

from engine.backends.local.membership.states import Changes, GroupChanges

Members = tuple[BitMap, ...]
"""The members of an audience by group."""

Users = Mapping[int, BitMap | None]
"""Users by group, None = all of a group. Groups without may be left out."""

_NOBODY = BitMap()


class Alike:
    """The differences of one round, or of one write, by what they are made of."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Mapping[int, BitMap], Changes]] = {}
        self._changes: dict[tuple[int, int, int], tuple[Users, Members, Mapping[int, BitMap], Changes]] = {}
        self._after: dict[tuple[int, int], tuple[Members, Changes, Members]] = {}
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

    def after(self, before: Members, changes: Changes) -> Members:
        """The members after changes."""
        name = id(before), id(changes)
        found = self._after.get(name)
        if found is None:
            members = list(before)
            for each in changes.groups:
                members[each.group] = changed_members(before[each.group], each)
            found = self._after[name] = before, changes, tuple(members)
        return found[2]


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
