"""States and members of stored memberships. The members are a bitmap per group.

To store them takes many times as long as to store what has changed. So a membership's members are stored now
and then, and the latest changes are in its change log alone: `StoredState.behind` counts them.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from engine.backends.base import Membership, OptedIn
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import BITMAP, PageCache
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.errors import NotFound
from engine.values import Micros

CALCULATION_BITS = 63
"""Random bits that tell calculations apart."""

MEMBERS_KEYS_KEPT = 1 << 14
"""Keys of members that need not be made anew: a round uses each several times."""

_NO_MEMBERS = BitMap().serialize()


class StoredState(msgspec.Struct, array_like=True):
    """A membership without its members. `number` identifies the audience in keys. Without a `scope` it is a
    copy that nothing refreshes.
    """

    number: int
    account: str
    scope: str
    size: int = 0
    as_of: Micros = 0
    revision: int = 0
    first_sequence: int = 1
    last_sequence: int = 0
    entered_total: int = 0
    exited_total: int = 0
    calculation: int = 0
    opted_in: OptedIn = OptedIn()
    updates_through: int = 0
    """Log position up to which changes of opted-in values are recorded."""
    behind: int = 0
    """Number of the latest changes that the stored members lack."""

    def public(self) -> Membership:
        """The state as callers of the backend see it."""
        return Membership(
            size=self.size,
            as_of=self.as_of,
            revision=self.revision,
            first_sequence=self.first_sequence,
            last_sequence=self.last_sequence,
            entered_total=self.entered_total,
            exited_total=self.exited_total,
            opted_in=self.opted_in,
            calculation=self.calculation,
        )


class GroupChanges(NamedTuple):
    """Entries and exits of one group."""

    group: int
    entered: BitMap
    exited: BitMap


class Changes:
    """What changes in a membership. Memberships that change alike in a round share it, and its encoded form.
    It never changes.
    """

    __slots__ = ("encoded", "entered", "exited", "groups")

    def __init__(self, groups: Iterable[GroupChanges]) -> None:
        """By group, in order; those in which nothing changes are left out."""
        self.groups = tuple([each for each in groups if each.entered or each.exited])
        self.entered = sum([len(each.entered) for each in self.groups])
        """How many users enter."""
        self.exited = sum([len(each.exited) for each in self.groups])
        """How many users exit."""
        self.encoded: tuple[Micros, bytes] | None = None
        """The record of the change log as of an instant, once there is one."""

    def __bool__(self) -> bool:
        return bool(self.groups)


NO_CHANGES = Changes(())


@functools.lru_cache(MEMBERS_KEYS_KEPT)
def _members_key(number: int, group: int) -> bytes:
    return key(Family.MEMBERS, number, group)


@functools.lru_cache(MEMBERS_KEYS_KEPT)
def _state_key(audience: str) -> bytes:
    return key(Family.MEMBERSHIP, audience.encode())


_encoder = msgspec.msgpack.Encoder()


def new_calculation() -> int:
    """Tells a calculation from all others."""
    return secrets.randbits(CALCULATION_BITS)


class States:
    """The state and the members of every stored membership. A method that takes a transaction only writes to
    it; after the commit, `written` or `forget` makes the change visible.
    """

    def __init__(
        self,
        stored: ReadTransaction,
        page_cache: PageCache,
        latest_changes: Callable[[StoredState], Iterable[GroupChanges]],
    ) -> None:
        """`latest_changes` reads the changes that the stored members of a state lack, in order."""
        self._page_cache = page_cache
        self._latest_changes = latest_changes
        self._ahead: dict[int, dict[int, BitMap]] = {}
        """By membership (number): the members of the groups that have changed since they were stored."""
        self._public: dict[str, tuple[StoredState, Membership]] = {}
        """By audience: a state, and what callers see of it."""
        self._states = {
            found[1:].decode(): msgspec.msgpack.decode(value, type=StoredState)
            for found, value in stored.scan(key(Family.MEMBERSHIP))
        }

    @property
    def are_any(self) -> bool:
        """Whether a membership is stored."""
        return bool(self._states)

    def all(self) -> Iterable[StoredState]:
        """Every state."""
        return self._states.values()

    def items(self) -> Iterable[tuple[str, StoredState]]:
        """Every state, with its audience."""
        return self._states.items()

    def of_account(self, account: str) -> dict[str, StoredState]:
        """The states of an account by audience."""
        return {audience: state for audience, state in self._states.items() if state.account == account}

    @property
    def free_number(self) -> int:
        """A number above all that are taken."""
        return 1 + max((state.number for state in self._states.values()), default=0)

    def find(self, audience: str) -> StoredState | None:
        """The state of a membership, or None when it is not stored."""
        return self._states.get(audience)

    def get(self, audience: str) -> StoredState:
        """The state of a membership. Raises NotFound when it is not stored."""
        state = self._states.get(audience)
        if state is None:
            raise NotFound(audience)
        return state

    def public(self, audience: str, state: StoredState) -> Membership:
        """A state of an audience as callers of the backend see it: made once. Needs no lock."""
        found = self._public.get(audience)
        if found is None or found[0] is not state:
            found = self._public[audience] = state, state.public()
        return found[1]

    def find_or_new(
        self, audiences: Sequence[str], account: str, scope: str, taken: int = 0
    ) -> dict[str, StoredState]:
        """The states of memberships. Creates states for audiences that are stored for the first time, with
        numbers above `taken`.
        """
        states: dict[str, StoredState] = {}
        free = 0
        for audience in audiences:
            state = self._states.get(audience)
            if state is None:
                free = max(free, taken, self.free_number - 1) + 1
                state = StoredState(free, account, scope, calculation=new_calculation())
            states[audience] = state
        return states

    def members(self, state: StoredState, group: int) -> BitMap:
        """The members of a group. Do not modify the result."""
        found = self.ahead(state).get(group) if state.behind else None
        return self._stored_members(state, group) if found is None else found

    def ahead(self, state: StoredState) -> Mapping[int, BitMap]:
        """The members of the groups whose stored members lack changes."""
        if not state.behind:
            return {}
        found = self._ahead.get(state.number)
        if found is None:
            # The store was opened since.
            found = {}
            for group, entered, exited in self._latest_changes(state):
                before = found[group] if group in found else self._stored_members(state, group)
                found[group] = (before | entered) - exited
            self._ahead[state.number] = found
        return found

    def _stored_members(self, state: StoredState, group: int) -> BitMap:
        cached = self._page_cache.find(_members_key(state.number, group), BITMAP)
        return BitMap() if cached is None else cached.value

    def write(self, txn: Writable, audience: str, state: StoredState) -> None:
        """Writes the state of a membership."""
        txn.put(_state_key(audience), _encoder.encode(state))

    def write_members(self, txn: Writable, state: StoredState, group: int, members: BitMap) -> None:
        """Writes the members of a group."""
        txn.put(_members_key(state.number, group), BITMAP.encode(members) or _NO_MEMBERS)

    def written(self, audience: str, state: StoredState, members: Mapping[int, BitMap]) -> None:
        """Takes over a committed state, and the members of groups that changed. They were stored unless the
        state is behind.
        """
        self._states[audience] = state
        if state.behind:
            if members:
                self._ahead.setdefault(state.number, {}).update(members)
            return
        self._ahead.pop(state.number, None)
        for group, users in members.items():
            self._page_cache.replace(_members_key(state.number, group), BITMAP, users)

    def delete(self, txn: Writable, audience: str) -> None:
        """Deletes a membership."""
        txn.delete(key(Family.MEMBERSHIP, audience.encode()))
        txn.delete_prefix(key(Family.MEMBERS, self._states[audience].number))

    def forget(self, audience: str) -> None:
        """Forgets a membership whose deletion is committed."""
        state = self._states.pop(audience)
        self._public.pop(audience, None)
        self._ahead.pop(state.number, None)
        self._page_cache.forget(key(Family.MEMBERS, state.number))
