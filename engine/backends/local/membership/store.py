"""Stored memberships: states and members, change logs, dirty users and erased ids put together.

Every operation is one durable transaction over all parts, which take the result over after its commit. It is
collected with the state lock, as a `Round` of refreshes or a `Write`, and written without it: a commit waits
for the disk. Only one is under way at a time, by a thread with the index lock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
from pyroaring import BitMap

from engine.backends.base import ChangePage, Membership, OptedIn, PublishedMembership
from engine.backends.local.account.people import People
from engine.backends.local.account.readers import Readers, Touched
from engine.backends.local.account.updates import Watched
from engine.backends.local.membership.alike import Alike, Members, changed_members, exits_among
from engine.backends.local.membership.change_log import CHANGES_RETAINED_MAX, ChangeLog
from engine.backends.local.membership.dirty_users import DirtyUsers, Flight
from engine.backends.local.membership.erased import ErasedIds, ErasedUser, Exits, Naming
from engine.backends.local.membership.expected import Expected
from engine.backends.local.membership.published import (
    FindsUsers,
    IdChanges,
    PublishedAccount,
    Serves,
    StoredMembers,
)
from engine.backends.local.membership.states import (
    Changes,
    GroupChanges,
    States,
    StoredState,
    new_calculation,
)
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.positions import read_instant, write_instant
from engine.backends.local.storage.transactions import Writable, WriteBuffer
from engine.backends.local.storage.user_ref import UserRef, UserRefs
from engine.backends.local.users.directory import by_group
from engine.backends.local.users.hash_table import UNKNOWN
from engine.plan.reads import Reads
from engine.values import MICROS_PER_SECOND, Micros


@dataclass(frozen=True, slots=True)
class Update:
    """The new content of one membership."""

    state: StoredState
    changes: Changes
    as_of: Micros
    definition: str = ""
    """The digest of the definition that the changes lead to; "": that of the last refresh."""


@dataclass(frozen=True, slots=True)
class _Written:
    """One membership as a transaction writes it: state, start of the record of its changes (None: there are
    none), members of changed groups; of one that is published, all members before and after.
    """

    state: StoredState
    record: int | None
    members: Mapping[int, BitMap]
    definition: str = ""
    published: tuple[Members, Members] | None = None
    is_news: bool = False
    """Whether there are changes, or the membership is new."""


MEMBERS_STORED_TURNS = 64
"""The members of an audience are stored once in this many rounds, if they change. Others have other turns."""
BEHIND_MAX = 1 << 16
"""Changes that stored members lack, at most: what is read from a change log after a start."""

INSTANT_STORED_MICROS = 10 * MICROS_PER_SECOND
"""Interval after which the instant of a round without changes is stored."""


class Round:
    """The outcome of a round of refreshes to an instant, until it is stored."""

    def __init__(self, as_of: Micros, number: int) -> None:
        self.as_of = as_of
        self.number = number
        """Its place in the order in which rounds began."""
        self.changes = WriteBuffer()
        self.written: dict[str, _Written] = {}
        self.ids: dict[bytes, ErasedUser | None] = {}
        self.scopes: dict[str, tuple[str, Reads | None]] = {}
        """By scope: its account, and what its plans read."""
        self.number_max = 0
        """The largest number of a membership in the round."""
        self.alike = Alike()


_NOBODY = BitMap()


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Write:
    """What an operation stores, and what is to be done after the commit or when there is none: both with the
    state lock.
    """

    changes: WriteBuffer
    finish: Callable[[], None]
    give_up: Callable[[], None] = _nothing


class Memberships:
    """All stored memberships. Call with the state lock held, except `listen` and `published`.

    What changes a membership, dirty users or what ids mean publishes the account's memberships anew, after
    everything has changed. See `published` for what readers without the lock rely on.
    """

    def __init__(
        self,
        index: Environment,
        page_cache: PageCache,
        groups: int,
        users_of: Callable[[str], FindsUsers],
        retained_max: int = CHANGES_RETAINED_MAX,
    ) -> None:
        """`users_of` finds the users of an account (name)."""
        self._index = index
        self._groups = groups
        self._waiting: list[Exits] = []
        with index.reading() as txn:
            self._states = States(txn, page_cache, lambda state: self._log.latest(state))
            self._erased_ids = ErasedIds(txn, lambda: self._waiting)
            self._log = ChangeLog(txn, index, self._states, self._erased_ids, retained_max)
            self.instant = self._instant_stored = read_instant(txn)
            """The latest instant that memberships are known to have been brought to."""
        self._instant_round = 0
        """The round that has set it."""
        self._has_news = False
        self._turn = 0
        """Decides whose members are stored: it goes on with each round."""
        self._dirty = DirtyUsers(groups)
        self.expected = Expected()
        """Who time is expected to move."""
        self._users_of = users_of
        self._reached: dict[str, Micros] = {}
        self._published: dict[str, PublishedAccount] = {}
        self.serving: Serves | None = None
        self.log_position: Callable[[], int] = lambda: 0
        """The last log position that is applied completely."""
        for audience, state in self._states.items():
            if not state.scope:
                continue
            self._dirty.track(state.account, state.scope, whole=True)
            self._watch_values(audience, state)
            facts = PublishedMembership(self._states.public(audience, state), "")
            self._publish(state.account, {audience: StoredMembers(facts, state.scope, None)})

    # --- what is read without the lock ---

    def accounts(self) -> set[str]:
        """The accounts that have stored memberships."""
        return {state.account for state in self._states.all()}

    def published(self, account: str) -> PublishedAccount:
        """The memberships of an account as they are now. Takes no lock."""
        found = self._published.get(account)
        return _NOTHING_STORED if found is None else found

    def _publish(
        self, account: str, stored: Mapping[str, StoredMembers], dropped: Iterable[str] = ()
    ) -> None:
        """Publishes the memberships of an account, with these instead of those published before."""
        before = self._published.get(account)
        users = self._users_of(account) if before is None else before.users
        id_changes = IdChanges() if before is None else before.id_changes
        all_stored = {} if before is None else dict(before.stored)
        all_stored.update(stored)
        for audience in dropped:
            all_stored.pop(audience, None)
        if not all_stored:
            self._published.pop(account, None)
            return
        dirty = self._dirty.of_account(account)
        reached = {scope: self._reached.get(scope, 0) for scope in dirty}
        # One assignment: a reader sees the state before or this one.
        self._published[account] = PublishedAccount(
            users, id_changes, id_changes.count, all_stored, dirty, reached
        )

    @contextmanager
    def ids_changing(self, account: str) -> Iterator[None]:
        """While this block runs ids of the account come to mean other users; what was published before does
        not answer any more. Publishes the memberships at the end.
        """
        published = self._published.get(account)
        if published is not None:
            published.id_changes.count += 1
        if self.serving is not None:
            self.serving.begin_ids(account)
        yield
        if published is not None:
            self._publish(account, {})
        if self.serving is not None:
            self.serving.settle_ids(account)

    # --- dirty users ---

    def readers_of(self, account: str) -> Readers:
        """Which scopes of the account read what."""
        readers = self._dirty.readers_of(account)
        readers.log_position = lambda: self.log_position()
        return readers

    @property
    def dirty_marks(self) -> int:
        """How many times a user was marked as dirty in a scope."""
        return self._dirty.marks

    def mark_dirty(self, account: str, touched: Touched) -> None:
        """Marks users of the account as dirty in the scopes that read their new data."""
        self._dirty.mark(touched.read, touched.times)
        updates = self.readers_of(account).updates.audiences
        if touched.read or (updates and any(each.changed for each in updates.values())):
            self._has_news = True
        if self.serving is not None:
            scopes = {scope for each in touched.read for scope in each.scopes}
            self.serving.touch(account, touched.users, scopes)

    def mark_all_dirty(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty in every scope."""
        self._dirty.mark_all(account, users)
        self._has_news = True
        if self.serving is not None:
            self.serving.touch(account, users, self._dirty.of_account(account))

    def lose_events(self, account: str) -> None:
        """Events that no answer needs any more were removed. They are not in what is known of the data."""
        if self.serving is not None:
            self.serving.touch(account, {}, ())

    @property
    def has_news(self) -> bool:
        """Whether users became dirty, exits wait or opted-in values have changed since `take_news`. Needs no
        lock.
        """
        return self._has_news or self.has_exits

    def take_news(self) -> None:
        """A round begins: what has come is in it. Needs no lock."""
        self._has_news = False

    def dirty(self, scope: str) -> tuple[BitMap, ...] | None:
        """Dirty users by group. None: every user is dirty."""
        return self._dirty.of(scope)

    def pending(self, scope: str) -> int | None:
        """Number of dirty users. None: every user is dirty. 0: the scope is not tracked."""
        return self._dirty.count(scope)

    def scope_account(self, scope: str) -> str | None:
        """The account of a tracked scope."""
        return self._dirty.account(scope)

    def drop_scope(self, scope: str) -> None:
        """Stops tracking the scope unless it has a stored membership."""
        if not any(state.scope == scope for state in self._states.all()):
            self._dirty.drop(scope)
            self.expected.drop(scope)
            self._reached.pop(scope, None)

    def are_in_step(self, account: str, scope: str, audiences: Iterable[str]) -> bool:
        """Whether the memberships are right for everyone who is not dirty in the scope."""
        published = self.published(account).stored
        for audience in audiences:
            stored = published.get(audience)
            if stored is None or stored.scope != scope or stored.members is None:
                return False
        return True

    # --- opted-in values ---

    def opt_in(self, audience: str, opted_in: OptedIn) -> Write | None:
        """Records from now on when these values of a member change."""
        state = self._states.find(audience)
        if state is None or state.opted_in == opted_in:
            return None
        through = self.log_position() if state.opted_in == OptedIn() else state.updates_through
        changed = msgspec.structs.replace(state, opted_in=opted_in, updates_through=through)
        changes = WriteBuffer()
        self._states.write(changes, audience, changed)
        # From the log position that is being stored, not from the commit.
        self._watch_values(audience, changed)

        def finish() -> None:
            self._states.written(audience, changed, {})
            self._publish_written({audience: _Written(changed, None, {})})
            self._log.notify([audience])

        return Write(changes, finish, lambda: self._watch_values(audience, state))

    def _watch_values(self, audience: str, state: StoredState) -> None:
        updates = self.readers_of(state.account).updates
        if state.opted_in == OptedIn():
            updates.drop(audience)
            return

        def members(group: int) -> BitMap:
            return self._states.members(self._states.get(audience), group)

        updates.watch(audience, state.opted_in, members, state.updates_through)

    @property
    def has_updates(self) -> bool:
        """Whether changes of opted-in values wait to be recorded."""
        return any(each.changed for _, each in self._watched())

    def _watched(self) -> Iterator[tuple[str, Watched]]:
        for account in self._dirty.accounts():
            yield from self._dirty.readers_of(account).updates.audiences.items()

    def record_updates(self) -> Write | None:
        """Writes which members' opted-in values have changed into the change logs."""
        waiting = {audience: each for audience, each in self._watched() if each.changed}
        if not waiting:
            return None
        changes, outcome = WriteBuffer(), {}
        taken: list[tuple[Watched, dict[int, BitMap]]] = []
        for audience, watched in waiting.items():
            state = self._states.get(audience)
            users_by_group = dict(watched.changed)
            # Who changes while this is written is recorded next time.
            watched.changed.clear()
            taken.append((watched, users_by_group))
            found = {
                group: members
                for group, users in users_by_group.items()
                if (members := users & self.members(state, group))
            }
            if not found:
                continue
            at = max(state.as_of, self._reached.get(state.scope) or 0)
            state = msgspec.structs.replace(state, as_of=at, updates_through=self.log_position())
            before = state.last_sequence
            record = self._log.append_updates(changes, state, found, at)
            if state.behind:
                state.behind += state.last_sequence - before
            self._states.write(changes, audience, state)
            outcome[audience] = _Written(state, record, {}, is_news=True)

        def finish() -> None:
            for audience, written in outcome.items():
                waiting[audience].through = written.state.updates_through
            self._stored(outcome)
            self._publish_written(outcome)

        def give_up() -> None:
            for watched, users_by_group in taken:
                for group, users in users_by_group.items():
                    watched.changed[group] = watched.changed.get(group, BitMap()) | users

        return Write(changes, finish, give_up)

    # --- states and members ---

    def find(self, audience: str) -> StoredState | None:
        """The state of a membership, or None when it is not stored."""
        return self._states.find(audience)

    def get(self, audience: str) -> StoredState:
        """The state of a membership. Raises NotFound when it is not stored."""
        return self._states.get(audience)

    def published_members(self, audience: str, state: StoredState) -> Members | None:
        """As `members`, of all groups; None: they are not published, or users wait to be removed."""
        stored = self.published(state.account).stored.get(audience)
        return None if stored is None or self._waiting else stored.members

    def members(self, state: StoredState, group: int) -> BitMap:
        """The members of a group. Do not modify the result."""
        members = self._states.members(state, group)
        for exits in self._waiting:
            if exits.account == state.account and group in exits.gone:
                members = members - exits.gone[group]
        return members

    def public(self, audience: str) -> Membership | None:
        """The membership as callers of the backend see it; None when it is not stored. Takes no lock: states
        are replaced, and never change once they are stored.
        """
        state = self._states.find(audience)
        return None if state is None else self._states.public(audience, state)

    # --- changing ---

    def begin(self, account: str, scope: str, reads: Reads | None) -> Flight:
        """A refresh of the scope begins; collects who becomes dirty meanwhile. `reads`: see `DirtyUsers`."""
        return self._dirty.begin(account, scope, reads, self.log_position())

    def begin_again(self, scope: str) -> Flight | None:
        """As `begin`, with what was read before. None: the scope is not tracked."""
        return self._dirty.begin_again(scope, self.log_position())

    def is_under_way(self, scope: str, flight: Flight, reads: Reads | None) -> bool:
        """Whether the flight collects for the scope, and plans that read this may go on with it."""
        return self._dirty.is_under_way(scope, flight, reads)

    def abandon(self, scope: str, flight: Flight | None = None) -> None:
        """The refresh of the scope is given up; with a flight, that one."""
        self._dirty.abandon(scope, flight)

    def open_round(self, as_of: Micros, number: int) -> Round:
        """Begins to collect what a round of refreshes to an instant stores, the one that began as number
        `number`. Call with the index lock, which is kept until `close_round` or `give_up_round`. Exits of
        erased users wait until then.
        """
        self._turn += 1
        return Round(as_of, number)

    def states(
        self, round_: Round, audiences: Sequence[str], account: str, scope: str
    ) -> dict[str, StoredState]:
        """The states of memberships. Creates states for audiences that are stored for the first time."""
        return self._states.find_or_new(audiences, account, scope, round_.number_max)

    def add(
        self,
        round_: Round,
        account: str,
        scope: str,
        updates: Mapping[str, Update],
        revision: int,
        reads: Reads | None,
    ) -> None:
        """Adds the refreshed memberships of a scope (audience → update), as they are at a revision: every
        user dirty by then was evaluated. A membership without changes needs no write.
        """
        for audience, update in updates.items():
            if update.changes or self._states.find(audience) is None:
                written = self._write(round_.changes, audience, update, revision, round_.alike)
                ended = {written.state.number: written.state.first_sequence - 1}
                round_.ids.update(self._erased_ids.drop(round_.changes, ended))
            else:
                state = msgspec.structs.replace(update.state, as_of=update.as_of, revision=revision)
                written = _Written(state, None, {}, update.definition)
            round_.written[audience] = written
            round_.number_max = max(round_.number_max, written.state.number)
        round_.scopes[scope] = account, reads

    def write_round(self, round_: Round) -> None:
        """Stores the round, in one transaction; in none when nothing has changed. Its instant is stored with
        it, and by itself now and then. Needs no state lock.
        """
        is_latest = round_.number >= self._instant_round
        if round_.changes.size_bytes or (is_latest and self.is_instant_due(round_.as_of)):
            if is_latest:
                write_instant(round_.changes, round_.as_of)
            with self._index.writing() as txn:
                round_.changes.write_to(txn)
            if is_latest:
                self._instant_stored = round_.as_of

    def close_round(self, round_: Round, still: Iterable[str]) -> None:
        """Takes over what was stored, and publishes it at once for each account. `still`: scopes of which it
        is known that up to the round's instant time has moved no one, so that they have reached it too.
        """
        as_of = round_.as_of
        self._reached_by(round_.number, as_of)
        self._erased_ids.written(round_.ids)
        self._stored(round_.written)
        accounts: dict[str, dict[str, StoredMembers]] = {}
        others = self._others_of_scopes(round_)
        for audience, written in round_.written.items():
            stored = self._members_to_publish(audience, written, is_refreshed=True)
            accounts.setdefault(written.state.account, {})[audience] = stored
        for scope, (account, reads) in round_.scopes.items():
            self._dirty.finish(scope, reads)
            accounts.setdefault(account, {})
            accounts[account] |= others.get(scope, {})
            self._reached[scope] = as_of
        for account in self._reach(still, as_of):
            accounts.setdefault(account, {})
        for account, refreshed in accounts.items():
            # At once: with the new dirty set the members before the refresh would pass for decided.
            self._publish(account, refreshed)
            self.published(account).users.open()
        self._tell(round_.written)

    def is_instant_due(self, as_of: Micros) -> bool:
        """Whether the instant of a round is to be stored although nothing has changed."""
        return self._states.are_any and abs(as_of - self._instant_stored) >= INSTANT_STORED_MICROS

    def _reached_by(self, number: int, as_of: Micros) -> None:
        """A round has ended. One that began before another that has ended sets no instant."""
        if number >= self._instant_round:
            self.instant, self._instant_round = as_of, number

    def stand_still(self, as_of: Micros, scopes: Iterable[str], number: int) -> None:
        """A round in which nothing is to be refreshed: the scopes have reached its instant."""
        self._reached_by(number, as_of)
        for account in self._reach(scopes, as_of):
            self._publish(account, {})

    def _reach(self, scopes: Iterable[str], as_of: Micros) -> set[str]:
        """The scopes hold for an instant. Returns their accounts."""
        accounts = {scope: account for scope in scopes if (account := self._dirty.account(scope)) is not None}
        self._reached.update(dict.fromkeys(accounts, as_of))
        return set(accounts.values())

    def give_up_round(self, round_: Round) -> None:
        """Nothing of the round was stored."""
        for scope in round_.scopes:
            self.abandon(scope)

    def _others_of_scopes(self, round_: Round) -> dict[str, dict[str, StoredMembers]]:
        """By scope the memberships that were not refreshed with it, undecided: nobody knows which of their
        users were dirty any more.
        """
        found: dict[str, dict[str, StoredMembers]] = {}
        for account in {account for account, _ in round_.scopes.values()}:
            for audience, stored in self.published(account).stored.items():
                if audience not in round_.written and stored.scope in round_.scopes:
                    undecided = msgspec.structs.replace(stored, members=None)
                    found.setdefault(stored.scope, {})[audience] = undecided
        return found

    def _write(self, txn: Writable, audience: str, update: Update, revision: int, alike: Alike) -> _Written:
        state = msgspec.structs.replace(update.state, as_of=update.as_of, revision=revision)
        # Before something is added to the change log: after a start it is read from there.
        ahead = self._states.ahead(update.state)
        known = self.published(state.account).stored.get(audience)
        before = None if known is None or known.scope != state.scope else known.members
        members: Mapping[int, BitMap]
        if before is None:
            published = None
            members = {
                each.group: changed_members(self._states.members(state, each.group), each)
                for each in update.changes.groups
            }
        else:
            after = alike.after(before, update.changes)
            published, members = (before, after.members), after.changed
        record = self._log.append(txn, state, update.changes, update.as_of)
        is_new = self._states.find(audience) is None
        state.behind += state.last_sequence - update.state.last_sequence
        if is_new or state.behind > BEHIND_MAX or (self._turn + state.number) % MEMBERS_STORED_TURNS == 0:
            members = {**ahead, **members}
            self._write_members(txn, state, members)
        self._states.write(txn, audience, state)
        is_news = state.last_sequence > update.state.last_sequence or is_new
        return _Written(state, record, members, update.definition, published, is_news)

    def _write_members(self, txn: Writable, state: StoredState, members: Mapping[int, BitMap]) -> None:
        """Stores the members of groups that have changed since they were stored."""
        for group, users in members.items():
            self._states.write_members(txn, state, group, users)
        state.behind = 0

    def store_members(self) -> Write | None:
        """Stores all members, so that nobody has to look for the latest changes in the change logs. None:
        they are stored.
        """
        changes, outcome = WriteBuffer(), {}
        for audience, state in self._states.items():
            if state.behind:
                stored, members = msgspec.structs.replace(state), dict(self._states.ahead(state))
                self._write_members(changes, stored, members)
                self._states.write(changes, audience, stored)
                outcome[audience] = _Written(stored, None, members)
        return Write(changes, lambda: self._stored(outcome)) if outcome else None

    def _stored(self, outcome: Mapping[str, _Written]) -> None:
        for audience, written in outcome.items():
            self._states.written(audience, written.state, written.members)
            if written.record is not None:
                self._log.written(written.state, written.record)

    def _tell(self, outcome: Mapping[str, _Written]) -> None:
        """Calls those who listen to memberships that are new or changed. They are published by now."""
        self._log.notify([audience for audience, written in outcome.items() if written.is_news])

    def _publish_written(self, outcome: Mapping[str, _Written]) -> None:
        """Publishes what was written without a refresh."""
        accounts: dict[str, dict[str, StoredMembers]] = {}
        for audience, written in outcome.items():
            if not written.state.scope:
                # Checks do not ask copies.
                continue
            account = written.state.account
            accounts.setdefault(account, {})[audience] = self._members_to_publish(audience, written)
        for account, stored in accounts.items():
            self._publish(account, stored)
        self._tell(outcome)

    def _members_to_publish(
        self, audience: str, written: _Written, *, is_refreshed: bool = False
    ) -> StoredMembers:
        """A membership as it was written. Only a refresh decides users that were undecided."""
        state = written.state
        before = self.published(state.account).stored.get(audience)
        known = None if before is None else before.members
        members = known
        if known is None and is_refreshed:
            members = self._as_published(state)
        elif written.published is not None and written.published[0] is known:
            members = written.published[1]
        elif known is not None and written.members:
            changed = list(known)
            for group, users in written.members.items():
                changed[group] = users
            members = tuple(changed)
        definition = written.definition or ("" if before is None else before.facts.definition)
        facts = PublishedMembership(self._states.public(audience, state), definition)
        return StoredMembers(facts, state.scope, members)

    def _as_published(self, state: StoredState) -> Members:
        """All members, as the object of another membership that has the same: those that go on to gain the
        same users share what follows.
        """
        members = tuple([self._states.members(state, group) or _NOBODY for group in range(self._groups)])
        for other in self.published(state.account).stored.values():
            shared = other.members
            if shared is not None and other.facts.membership.size == state.size and shared == members:
                return shared
        return members

    def write(self, write: Write) -> None:
        """Stores what an operation has collected, in one transaction. Needs no state lock."""
        if write.changes.size_bytes:
            with self._index.writing() as txn:
                write.changes.write_to(txn)

    def exit_all(self, audience: str, as_of: Micros, revision: int) -> Write:
        """Empties a membership, recording every exit."""
        state, buffer = self.get(audience), WriteBuffer()
        exits = [GroupChanges(group, BitMap(), self.members(state, group)) for group in range(self._groups)]
        written = self._write(buffer, audience, Update(state, Changes(exits), as_of), revision, Alike())
        ids = self._erased_ids.drop(buffer, {state.number: written.state.first_sequence - 1})

        def finish() -> None:
            self._erased_ids.written(ids)
            self._stored({audience: written})
            self._publish_written({audience: written})

        return Write(buffer, finish)

    def copy(self, audience: str, name: str, after: int) -> Write:
        """Keeps a membership as it is now under another name, which has none, with its changes above
        `after`.
        """
        state, changes = self.get(audience), WriteBuffer()
        number = self._states.free_number
        members = {group: self._states.members(state, group) for group in range(self._groups)}
        copied = msgspec.structs.replace(
            state, number=number, scope="", first_sequence=max(state.first_sequence, after + 1), behind=0
        )
        kept: dict[bytes, ErasedUser] = {}
        with self._index.reading() as txn:
            starts = self._log.copy(changes, txn, state, number, after)
        if starts is None:
            starts, copied = [], _of_members(copied)
        else:
            kept = self._erased_ids.copy(changes, state.number, number)
        for group, users in members.items():
            self._states.write_members(changes, copied, group, users)
        self._states.write(changes, name, copied)

        def finish() -> None:
            self._erased_ids.written(kept)
            self._stored({name: _Written(copied, None, members)})
            self._log.copied(copied, starts)

        return Write(changes, finish)

    def drop(self, audience: str) -> Write | None:
        """Deletes a membership and its change log. Nothing finds it from now on."""
        state = self.find(audience)
        if state is None:
            return None
        changes = WriteBuffer()
        self._states.delete(changes, audience)
        self._log.delete(changes, state)
        ids = self._erased_ids.drop(changes, {state.number: state.last_sequence})
        stored = self.published(state.account).stored.get(audience)
        updates = self.readers_of(state.account).updates
        watched = updates.audiences.get(audience)
        # At once: writes ask for the members of what is watched.
        updates.drop(audience)
        self._states.forget(audience)
        starts = self._log.forget(state)
        self._publish(state.account, {}, dropped=[audience])

        def finish() -> None:
            self._erased_ids.written(ids)
            self._log.notify([audience])

        def give_up() -> None:
            self._states.written(audience, state, {})
            self._log.put_back(state, starts)
            if watched is not None:
                self._watch_values(audience, state)
                updates.audiences[audience].changed.update(watched.changed)
            if stored is not None:
                self._publish(state.account, {audience: stored})

        return Write(changes, finish, give_up)

    # --- erased users ---

    def erased(self, account: People, users: Mapping[UserRef, str], erased_at: Micros) -> None:
        """Removes erased users: they exit every membership, by id, and are dirty nowhere.

        Users that have exited before are ignored, so a replay may repeat the call. The exits are kept in
        memory for `record_exits`, which runs before the checkpoint that trims the log.
        """
        gone = by_group(users)
        self._dirty.remove(account.name, gone)
        self.readers_of(account.name).updates.remove(gone)
        if self.serving is not None:
            self.serving.erase(account.name, gone)
        # An erasure of many users is several entries: their exits are recorded together.
        for exits in self._waiting:
            if exits.account == account.name and not exits.is_closed:
                exits.add(gone, users, erased_at)
                return
        self._waiting.append(Exits(account.name, account.number, gone, dict(users), erased_at))

    @property
    def may_record_exits(self) -> bool:
        """Whether exits of erased users wait that need not wait for a round. After a start they wait for the
        first: its instant is after all that were told before.
        """
        return bool(self._waiting) and all(
            self._reached.get(state.scope)
            for exits in self._waiting
            for state in self._of(exits).values()
            if state.scope
        )

    def find_named(self, account: str, pause: Callable[[], None]) -> None:
        """Finds whom stored changes of the account name, before some of its users are erased. Calls `pause`
        from time to time, which may let others go first.
        """
        for state in list(self._states.of_account(account).values()):
            self._log.find_named(state, pause)

    def forget_account(self, account: str) -> None:
        """Forgets an account without users: nothing waits for their exits, and new ones will be others."""
        self._waiting = [exits for exits in self._waiting if exits.account != account]
        if self.serving is not None:
            self.serving.forget_account(account)
        stored = self._published.pop(account, None)
        if stored is not None:
            self._publish(account, stored.stored)

    def record_exits(self, as_of: Micros = 0) -> Write | None:
        """Records the first of the pending exits of erased users, as of this instant or that of the last
        round, whichever is later. None: none waits.
        """
        return self._exits(self._waiting[0], as_of) if self._waiting else None

    def wait_for_exits(self, account: str) -> bool:
        """Whether the memberships of an account still have users that were erased. Takes no lock."""
        return any(exits.account == account for exits in self._waiting)

    @property
    def has_exits(self) -> bool:
        """Whether exits of erased users wait to be recorded."""
        return bool(self._waiting)

    def _of(self, exits: Exits) -> dict[str, StoredState]:
        return self._states.of_account(exits.account)

    def _exits(self, exits: Exits, as_of: Micros) -> Write:
        # Users that are erased while this is written wait apart.
        self._waiting[0] = exits = exits.closed()
        changes, outcome, naming, alike = WriteBuffer(), {}, [], Alike()
        for audience, state in self._of(exits).items():
            published = self.published(state.account).stored.get(audience)
            if published is None or published.members is None:
                gone = exits_among(exits.gone, functools.partial(self._states.members, state))
            else:
                gone = alike.exits(published.members, exits.gone)
            last = state.last_sequence
            if gone:
                latest = max(each.erased_at for each in self._waiting)
                reached = self._reached.get(state.scope) or self._reached_before(latest)
                at = max(state.as_of, as_of, reached)
                written = outcome[audience] = self._write(
                    changes, audience, Update(state, gone, at), state.revision, alike
                )
                last = written.state.last_sequence
            naming.append(Naming(state.number, last, self._log.named(state)))
        kept = self._erased_ids.keep(changes, exits, naming)

        def finish() -> None:
            self._waiting = [each for each in self._waiting if each is not exits]
            self._erased_ids.written(kept)
            self._stored(outcome)
            self._publish_written(outcome)

        return Write(changes, finish)

    def _reached_before(self, time: Micros) -> Micros:
        """An instant that is not before any that was reached before the start, at a time after it."""
        return min(max(time, self.instant), self.instant + INSTANT_STORED_MICROS)

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change that may name a user erased before an instant; 0 when there is none."""
        return self._erased_ids.named_through(self.get(audience).number, before)

    # --- the change log ---

    def changes(self, account: People | None, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, in order. An account without data has none. Raises
        CursorExpired when changes above `after` are deleted.
        """
        return self._log.read(account, audience, after, limit)

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change up to an instant; 0 when there is none. Raises CursorExpired when
        changes after it are deleted.
        """
        return self._log.sequence_at(audience, instant)

    def surplus(self, audiences: Iterable[str]) -> dict[str, int]:
        """The audiences with more changes than are kept, and the sequence through which to trim them."""
        found = {
            audience: self._log.surplus(state) for audience in audiences if (state := self.find(audience))
        }
        return {audience: through for audience, through in found.items() if through}

    def trim(self, audience: str, through: int) -> Write | None:
        """Deletes changes up to and including a sequence. From now on they cannot be read."""
        state = self.find(audience)
        if state is None or through < state.first_sequence:
            return None
        through, changes = min(through, state.last_sequence), WriteBuffer()
        trimmed = msgspec.structs.replace(state, first_sequence=through + 1)
        stored, members = msgspec.structs.replace(trimmed), {}
        if through > state.last_sequence - state.behind:
            # Changes that the stored members lack are deleted.
            members = dict(self._states.ahead(state))
            self._write_members(changes, stored, members)
        starts = self._log.trim(changes, state, through)
        self._states.write(changes, audience, stored)
        ids = self._erased_ids.drop(changes, {state.number: through})
        self._states.written(audience, trimmed, {})

        def finish() -> None:
            self._erased_ids.written(ids)
            self._states.written(audience, stored, members)
            self._publish_written({audience: _Written(stored, None, members)})

        def give_up() -> None:
            self._states.written(audience, state, {})
            self._log.put_back(state, starts)

        return Write(changes, finish, give_up)

    def listen(self, audience: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after each change of the audience, until the result is called. May be called
        without the state lock.
        """
        return self._log.listen(audience, changed)

    def close(self) -> None:
        """Calls all who listen."""
        self._log.close()


def _of_members(state: StoredState) -> StoredState:
    """The state of a new calculation with the same members, and no changes."""
    return msgspec.structs.replace(
        state,
        calculation=new_calculation(),
        first_sequence=1,
        last_sequence=0,
        entered_total=state.size,
        exited_total=0,
    )


class _NoUsers:
    """Finds nobody: for an account without stored memberships, of which nothing can be asked."""

    def open(self) -> None:
        pass

    def find(self, user_id: str) -> UserRef | None:
        return None

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        return np.full(len(user_ids), UNKNOWN, np.int64)


_NOTHING_STORED = PublishedAccount(_NoUsers(), IdChanges(), 0, {}, {})
