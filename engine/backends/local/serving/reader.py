"""What a reader answers from the memory of a writer (`engine.backends.base.ServingReader`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import numpy as np

from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, Flags
from engine.backends.base.serving import Served, ServedCount, ServedEstimate, ServedMany, ServedPage
from engine.backends.local.membership.published import among, users_by_group
from engine.backends.local.query.member_order import Cut
from engine.backends.local.serving.layout import HEADER_WORDS, Header
from engine.backends.local.serving.views import (
    AccountState,
    AccountView,
    Changed,
    Memory,
    ScopeState,
    ScopeView,
)
from engine.backends.local.serving.walks import Members, Walks, ids_of_users
from engine.backends.local.serving.writer import NANOS_PER_MICRO
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.backends.local.users.hash_table import CHANGING, UNKNOWN
from engine.values import MICROS_PER_SECOND, Micros

ATTEMPTS_MAX = 5
"""Attempts to read what the writer changes meanwhile, before the question goes to the writer."""
CLOCK_AGE_MICROS_MAX = 5 * MICROS_PER_SECOND
"""Maximum age of the writer's time."""


T = TypeVar("T")


class _Column(NamedTuple):
    """Where the members of an audience are."""

    scope: ScopeView
    column: int


class _Published(NamedTuple):
    """An audience as it was published."""

    scope: ScopeState
    column: int
    account: AccountView
    users: AccountState
    as_of: Micros
    revision: int

    def sizes(self) -> ServedCount:
        """Its size, and that of its population."""
        return ServedCount(self.scope.size(self.column), self.scope.population, self.as_of, self.revision)

    def members(self, as_of: Micros) -> Members:
        """Its members, which hold for an instant. Raises Changed."""
        return Members(self.account, self.scope, self.scope.all_members(self.column), as_of, self.revision)


class LocalServingReader:
    """Answers from the memory behind a descriptor. Safe to call from several threads."""

    def __init__(self, descriptor: int, stored_age_micros_max: Micros) -> None:
        self._memory = Memory(descriptor)
        self._words = self._memory.words
        self._age_max = stored_age_micros_max
        self._accounts: dict[int, AccountView] = {}
        self._columns: dict[str, _Column] = {}
        self._names_version = 0
        self._scopes: list[ScopeView] = []
        self._scope_names: dict[int, tuple[int, dict[str, int]]] = {}
        """By number of the scope: the version of its names, and their columns."""
        self._reading_names = threading.Lock()
        self._walks = Walks()

    def contains(self, name: str, user_id: str) -> Served | None:
        """Whether the user is in the audience of that name; None when only the writer can tell."""
        for _ in range(ATTEMPTS_MAX):
            with suppress(Changed):
                return self._contains(name, user_id)
        return None

    def _contains(self, name: str, user_id: str) -> Served | None:
        found = self._published(name)
        if found is None:
            return None
        scope, users = found.scope, found.users
        ref = users.find(user_id)
        if not users.is_current():
            # It may have been found in memory that is something else now.
            raise Changed
        if ref == CHANGING or (ref != UNKNOWN and users.is_touched(ref, scope.stamp)):
            return None
        member = ref != UNKNOWN and (ref & DENSE_MASK) in scope.members(found.column, ref >> GROUP_SHIFT)
        if not (users.is_current() and scope.is_current()):
            raise Changed
        return Served(member, found.as_of, found.revision)

    def contains_many(self, account: str, names: Sequence[str], user_ids: Sequence[str]) -> ServedMany | None:
        """`contains` for many users and audiences of one account; None when a name is not served."""
        return self._attempted(lambda: self._contains_many(account, names, user_ids))

    def _contains_many(
        self, account: str, names: Sequence[str], user_ids: Sequence[str]
    ) -> ServedMany | None:
        revision, generation, now = self._words[Header.REVISION], self._words[Header.GENERATION], self.now()
        found = [self._column(name) for name in names if name.startswith(f"{account}/")]
        columns = [column for column in found if column is not None]
        if now is None or not columns or len(columns) < len(names):
            return None
        scopes = {id(column.scope): column.scope.state() for column in columns}
        reached = [self._as_of(scope, now) for scope in scopes.values()]
        instants = [instant for instant in reached if instant is not None]
        if len({scope.reached for scope in scopes.values() if scope.depends_on_time}) > 1:
            # In the middle of a round, or after one that failed for some: they hold for several instants.
            return None
        accounts = {scope.account_at for scope in scopes.values()}
        placed = [(scopes[id(column.scope)], column.column) for column in columns]
        is_served = all(scope.serves(column) for scope, column in placed)
        if not is_served or len(instants) < len(reached) or len(accounts) > 1:
            return None
        users = self._account(accounts.pop()).state()
        flags = _flags(users, placed, user_ids)
        if not (users.is_current() and all(scope.is_current() for scope in scopes.values())):
            raise Changed
        return ServedMany(flags, min(now, *instants), revision, generation)

    # --- sizes ----------------------------------------------------------------------------------------------

    def count(self, name: str) -> ServedCount | None:
        """The size of the audience of that name; None when only the writer can tell."""
        settled = self._attempted(lambda: self._settled(name))
        return None if settled is None else settled.sizes()

    def estimate(self, name: str) -> ServedEstimate | None:
        """The sizes that an estimate of the audience of that name consists of; None when only the writer can
        tell.
        """
        return self._attempted(lambda: self._estimate(name))

    def _estimate(self, name: str) -> ServedEstimate | None:
        settled = self._settled(name)
        if settled is None:
            return None
        scope, count = settled.scope, settled.sizes()
        outlook = scope.outlook(settled.column, settled.users)
        if outlook is None:
            return None
        if not scope.is_current():
            raise Changed
        above = count.population if outlook.above is None else scope.size(outlook.above)
        draw = above - sum(map(scope.size, outlook.before))
        return ServedEstimate(count, draw, bool(outlook.before), outlook.work)

    def _settled(self, name: str) -> _Published | None:
        """The members of an audience, when they are right for everyone. Raises Changed."""
        found = self._published(name)
        if found is None:
            return None
        is_settled = found.scope.is_settled(found.users)
        if not found.scope.is_current():
            raise Changed
        return found if is_settled else None

    def _published(self, name: str) -> _Published | None:
        """The members of an audience as published last. Raises Changed."""
        # Before everything else: the answer includes every write up to it.
        revision = self._words[Header.REVISION]
        found = self._column(name)
        if found is None:
            return None
        scope, now = found.scope.state(), self.now()
        as_of = None if now is None else self._as_of(scope, now)
        if as_of is None or not scope.serves(found.column):
            return None
        account = self._account(scope.account_at)
        return _Published(scope, found.column, account, account.state(), as_of, revision)

    # --- lists ----------------------------------------------------------------------------------------------

    def serves(self, name: str) -> bool:
        """Whether the members of the audience of that name are served, though some users may be dirty."""
        return self._attempted(lambda: self._published(name)) is not None

    def page(self, name: str, after: str, limit: int, as_of: Micros | None) -> ServedPage | None:
        """A page of the members of the audience of that name; None when only the writer can tell. Without
        `as_of` they are as of now; with it as of the instant of an earlier page.
        """
        return self._attempted(lambda: self._page(name, after, limit, as_of))

    def _page(self, name: str, after: str, limit: int, as_of: Micros | None) -> ServedPage | None:
        found = self._published(name)
        if found is None:
            return None
        scope = found.scope
        if as_of is None or not scope.depends_on_time or as_of == scope.reached:
            members = found.members(found.as_of if as_of is None else as_of)
        else:
            kept = self._walks.find(name, as_of)
            if kept is None or kept.scope.generation != self._words[Header.GENERATION]:
                return None
            members = kept
        page = members.settled_page(after, limit, found.revision)
        if members.scope is scope and not scope.is_current():
            raise Changed
        if page is not None and page.next_after and scope.depends_on_time:
            self._walks.keep(name, members)
        return page

    def members(self, name: str) -> Members | None:
        """All members of the audience of that name as of now; None when only the writer can tell."""
        return self._attempted(lambda: self._members(name))

    def _members(self, name: str) -> Members | None:
        settled = self._settled(name)
        if settled is None:
            return None
        members = settled.members(settled.as_of)
        last = [(group, users[-1:]) for group, users in enumerate(members.groups) if users]
        # Ids are added in order: with the last ones all are there.
        return None if ids_of_users(settled.users, Cut(last, "")) is None else members

    # --- what is served -------------------------------------------------------------------------------------

    def is_current(self, answer: ServedMany) -> bool:
        """Whether the definitions that the answer is of still hold."""
        return self._words[Header.GENERATION] == answer.generation

    def _attempted(self, read: Callable[[], T | None]) -> T | None:
        """What is read; None when the writer changes it again and again meanwhile."""
        for _ in range(ATTEMPTS_MAX):
            with suppress(Changed):
                return read()
        return None

    def _as_of(self, scope: ScopeState, now: Micros) -> Micros | None:
        """The instant that a scope's members hold for; None when they are not to be used."""
        if scope.generation != self._words[Header.GENERATION]:
            return None
        if not scope.depends_on_time:
            return max(scope.reached, now)
        return None if abs(now - scope.reached) > self._age_max else scope.reached

    def _account(self, at: int) -> AccountView:
        known = self._accounts.get(at)
        return self._accounts.setdefault(at, AccountView(self._memory, at)) if known is None else known

    def _column(self, name: str) -> _Column | None:
        """Where the members are that are asked for by that name. Raises Changed."""
        words = self._words
        if words[Header.CLOSED]:
            return None
        if words[Header.NAMES_VERSION] != self._names_version:
            with self._reading_names:
                self._read_names()
        return self._columns.get(name)

    def _read_names(self) -> None:
        version = self._words[Header.NAMES_VERSION]
        for number in range(len(self._scopes), self._words[Header.SCOPES]):
            self._scopes.append(ScopeView(self._memory, self._words[HEADER_WORDS + number]))
        for number, scope in enumerate(self._scopes):
            known = self._scope_names.get(number)
            if known is None or known[0] != scope.names_version():
                self._scope_names[number] = scope.names()
        self._columns = {
            name: _Column(self._scopes[number], column)
            for number, (_, names) in self._scope_names.items()
            for name, column in names.items()
        }
        self._names_version = version

    def revision(self) -> int:
        """The newest revision that answers include."""
        return self._words[Header.REVISION]

    def now(self) -> Micros | None:
        """The writer's time; None while it is not kept."""
        words = self._words
        for _ in range(ATTEMPTS_MAX):
            counter = words[Header.CLOCK_COUNTER]
            then, set_at = words[Header.CLOCK_TIME], words[Header.CLOCK_MONOTONIC]
            if counter & 1 == 0 and words[Header.CLOCK_COUNTER] == counter:
                age = time.monotonic_ns() // NANOS_PER_MICRO - set_at
                return then - (then >> 63 << 64) + age if 0 <= age <= CLOCK_AGE_MICROS_MAX else None
        return None

    def keys(self) -> tuple[int, bytes]:
        """The API keys as the writer put them, and a number that changes with them."""
        words = self._words
        while True:
            counter = words[Header.KEYS_COUNTER]
            keys = self._memory.bytes(words[Header.KEYS_AT], words[Header.KEYS_BYTES])
            if counter & 1 == 0 and words[Header.KEYS_COUNTER] == counter:
                return counter, keys
            time.sleep(0)

    def keys_version(self) -> int:
        """The number of the keys that hold now; odd while they change."""
        return self._words[Header.KEYS_COUNTER]


def _flags(users: AccountState, columns: Sequence[tuple[ScopeState, int]], user_ids: Sequence[str]) -> Flags:
    flags = np.full((len(user_ids), len(columns)), NOT_MEMBER, np.int8)
    refs = users.find_many(user_ids)
    if not users.is_current():
        # They may have been found in memory that is something else now.
        raise Changed
    for group, rows, dense in users_by_group(refs):
        # Read once a scope: a user that is touched meanwhile is undecided in all its audiences or in none, so
        # that exclusive ones never both have it.
        numbers = np.array(dense, np.int64)
        stamps = {scope.stamp for scope, _ in columns}
        touched = {stamp: users.are_touched(group, numbers, stamp) for stamp in stamps}
        for at, (scope, column) in enumerate(columns):
            flags[rows[among(dense, scope.members(column, group))], at] = MEMBER
            flags[rows[touched[scope.stamp]], at] = UNDECIDED
    flags[refs == CHANGING] = UNDECIDED
    return flags
