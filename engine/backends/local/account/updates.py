"""Members whose opted-in values have changed, until that is recorded in change logs.

A write to an opted-in value of a member compares the values before and after it, so rewriting the same value,
or a write that is older than what is known, is no change. The log of writes is what makes this durable: a
change log is written before the part of it that led there is trimmed, and `updates_through` keeps a replay
from recording the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pyroaring import BitMap

from engine.backends.base import OptedIn
from engine.backends.local.storage.name_table import FieldKind
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.values import Value

Item = tuple[FieldKind, str]
"""An attribute by its key, or an identity by its type."""
Shown = Mapping[Item, Value]
"""The opted-in values of a user."""

MembersOf = Callable[[int], BitMap]
"""The members of an audience by group. Not to be modified."""


@dataclass
class Watched:
    """An audience whose members' values are watched."""

    items: frozenset[Item]
    members: MembersOf
    through: int
    changed: dict[int, BitMap] = field(default_factory=dict)
    """Members whose values have changed, by group, and are not recorded yet."""


class AccountUpdates:
    """The watched audiences of one account. Call with the state lock held."""

    def __init__(self) -> None:
        self.audiences: dict[str, Watched] = {}
        self.items: frozenset[Item] = frozenset()
        """What some audience watches."""

    def watch(self, audience: str, opted_in: OptedIn, members: MembersOf, through: int) -> None:
        """Watches these values of an audience's members; changes up to a log position are recorded. What
        waits to be recorded goes on waiting.
        """
        known = self.audiences.get(audience)
        items = frozenset(_items(opted_in))
        self.audiences[audience] = Watched(items, members, through, {} if known is None else known.changed)
        self._united()

    def drop(self, audience: str) -> None:
        """Watches an audience no more."""
        if self.audiences.pop(audience, None) is not None:
            self._united()

    def _united(self) -> None:
        self.items = frozenset[Item]().union(*(each.items for each in self.audiences.values()))

    def is_member(self, ref: UserRef) -> bool:
        """Whether the user is a member of a watched audience."""
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        return any(dense in each.members(group) for each in self.audiences.values())

    def changed(self, ref: UserRef, items: set[Item], reached: int) -> None:
        """These values of a user have changed. `reached`: the log position before this write's."""
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        for each in self.audiences.values():
            if reached >= each.through and items & each.items and dense in each.members(group):
                each.changed.setdefault(group, BitMap()).add(dense)

    def remove(self, gone: Mapping[int, BitMap]) -> None:
        """Users, by group, are erased."""
        for each in self.audiences.values():
            for group, users in gone.items():
                if group in each.changed:
                    each.changed[group] -= users


def _items(opted_in: OptedIn) -> Iterable[Item]:
    for key in opted_in.attributes:
        yield FieldKind.ATTRIBUTE, key
    for kind in opted_in.identities:
        yield FieldKind.IDENTITY, kind


class Noticing:
    """Compares the watched values of the members that one write concerns, before and after it."""

    def __init__(
        self, updates: AccountUpdates, shown: Callable[[UserRef], Shown], reached: Callable[[], int]
    ) -> None:
        self._updates = updates
        self._shown = shown
        self._reached = reached
        self._before: dict[UserRef, Shown] = {}

    def before(self, ref: UserRef) -> None:
        """A watched value of the user is about to be written."""
        if ref not in self._before and self._updates.is_member(ref):
            self._before[ref] = self._shown(ref)

    def after(self) -> None:
        """Everything is written."""
        for ref, before in self._before.items():
            now = self._shown(ref)
            items = {item for item in before.keys() | now.keys() if before.get(item) != now.get(item)}
            if items:
                self._updates.changed(ref, items, self._reached())
