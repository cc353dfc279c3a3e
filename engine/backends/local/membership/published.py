"""Published memberships of the embedded store: members by group, dirty users and the way to find users.

They are read without the state lock. Three rules keep an answer from being older than a write that was
acknowledged before the question:

1. A write changes the data, then marks its users as dirty, then is acknowledged, all of it with the state
   lock held. A refresh evaluates the dirty users, those that change meanwhile once more with the lock held,
   and then publishes the new members together with an empty set of dirty users. So at any moment each
   acknowledged write is in the members published last, or its users are in the dirty set published with
   them.
2. The members of a state never change, and its dirty set only grows, by one operation on a bitmap: atomic
   under the interpreter's lock. A set is never emptied; it is replaced together with the members. A reader
   that took a state before a refresh reads the members and the dirty set from before it, and whatever is
   marked in the new set only was acknowledged after the reader began.
3. An alias or an erasure makes an id mean another user. `IdChanges` counts them: the number rises before
   anything changes, and a new state carries the new number once everything has changed. A reader first finds
   the user and then compares: with equal numbers the user is the one that the state is about, otherwise the
   answer is "undecided", and the user is evaluated with the lock held. The number is compared after the user
   was found, so no change that began before is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, Flags, PublishedMembership
from engine.backends.local.membership.dirty_users import DirtyScope
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.errors import NotFound
from engine.values import Micros


class FindsUsers(Protocol):
    """Finds the users of one account, usually without a lock."""

    def open(self) -> None:
        """Prepares for finding without a lock. Called with the state lock held."""
        ...

    def find(self, user_id: str) -> UserRef | None:
        """The user that an id names, or None."""
        ...

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        """The user of each id; a negative number for an id that names none."""
        ...


class Serves(Protocol):
    """Hears what readers in other processes must not miss. Called with the state lock held."""

    def touch(self, account: str, users: Mapping[int, BitMap], scopes: Iterable[str]) -> None:
        """New data has touched users of the account (by group), or what is known of all of them. In these
        scopes some are dirty now.
        """
        ...

    def begin_ids(self, account: str) -> None:
        """Ids of the account are about to mean other users."""
        ...

    def settle_ids(self, account: str) -> None:
        """They have changed."""
        ...

    def erase(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Users of the account (by group) were erased, or are aliases from now on."""
        ...

    def forget_account(self, account: str) -> None:
        """The account has no users any more; others may come under its name."""
        ...


@dataclass(slots=True)
class IdChanges:
    """How often ids of an account have come to mean other users, a change that is under way included."""

    count: int = 0


class StoredMembers(msgspec.Struct, frozen=True):
    """One membership: its facts, the scope it is refreshed in, and its members by group; None: every
    user is undecided, since it was not refreshed with its scope or since the store was opened.
    """

    facts: PublishedMembership
    scope: str
    members: tuple[BitMap, ...] | None


@dataclass(frozen=True, slots=True)
class PublishedAccount:
    """The memberships of an account by audience; by scope the dirty users, and the instant that the last
    round brought it to. See `Published`.
    """

    users: FindsUsers
    id_changes: IdChanges
    id_changes_seen: int
    stored: Mapping[str, StoredMembers]
    dirty: Mapping[str, DirtyScope]
    instants: Mapping[str, Micros] = field(default_factory=dict)

    def reached(self, audience: str) -> Micros:
        """The instant that the membership holds for; 0 before its first refresh since the store opened."""
        stored = self.stored.get(audience)
        return 0 if stored is None else self.instants.get(stored.scope, 0)

    def find(self, audience: str) -> PublishedMembership | None:
        """The membership of an audience; None when none is stored."""
        stored = self.stored.get(audience)
        return None if stored is None else stored.facts

    def refreshed(self, audience: str) -> tuple[str, Micros] | None:
        """The digest that the membership was last refreshed by, and the instant that it holds for."""
        stored = self.stored.get(audience)
        return None if stored is None else (stored.facts.definition, self.instants.get(stored.scope, 0))

    def contains(self, audience: str, user_id: str) -> bool | None:
        """Whether the user is a member; None when that is undecided."""
        stored = self.stored.get(audience)
        if stored is None:
            raise NotFound(audience)
        ref = self.users.find(user_id)
        if self.id_changes.count != self.id_changes_seen:
            return None
        if ref is None:
            return False
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        members, dirty = stored.members, self.dirty[stored.scope].groups
        if members is None or dirty is None or dense in dirty[group]:
            return None
        return dense in members[group]

    def contains_many(self, audiences: Sequence[str], user_ids: Sequence[str]) -> Flags:
        """`contains` of each user and audience; every user is found once."""
        stored = [self._of(audience) for audience in audiences]
        flags = np.full((len(user_ids), len(audiences)), NOT_MEMBER, np.int8)
        refs = self.users.find_many(user_ids)
        if self.id_changes.count != self.id_changes_seen:
            flags[:] = UNDECIDED
            return flags
        scopes = {each.scope for each in stored}
        for group, rows, users in users_by_group(refs):
            # Each set is read once: a user that becomes dirty meanwhile is undecided in all audiences of the
            # scope or in none, so that exclusive ones never both have it.
            undecided = {scope: self._undecided(scope, group, users) for scope in scopes}
            for column, each in enumerate(stored):
                if each.members is None:
                    flags[rows, column] = UNDECIDED
                    continue
                flags[rows[among(users, each.members[group])], column] = MEMBER
                flags[rows[undecided[each.scope]], column] = UNDECIDED
        return flags

    def _undecided(self, scope: str, group: int, users: Sequence[int]) -> npt.NDArray[np.bool_]:
        """For each user of a group whether it is dirty."""
        dirty = self.dirty[scope].groups
        return np.ones(len(users), np.bool_) if dirty is None else among(users, dirty[group])

    def _of(self, audience: str) -> StoredMembers:
        stored = self.stored.get(audience)
        if stored is None:
            raise NotFound(audience)
        return stored


def users_by_group(refs: UserRefs) -> list[tuple[int, npt.NDArray[np.intp], list[int]]]:
    """The known users by group: the group, their rows and their dense ids."""
    groups = refs >> GROUP_SHIFT
    order = np.argsort(groups, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [
        (group, rows, (refs[rows] & DENSE_MASK).tolist())
        for rows in runs
        if len(rows) and (group := int(groups[rows[0]])) >= 0
    ]


def among(users: Sequence[int], some: BitMap) -> npt.NDArray[np.bool_]:
    """For each user whether it is one of those."""
    if not some:
        return np.zeros(len(users), np.bool_)
    return np.fromiter(map(some.__contains__, users), np.bool_, len(users))
