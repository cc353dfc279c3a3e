"""Stored memberships (`engine.backends.base.MembershipStore`)."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Generic, TypeVar, cast

from pyroaring import BitMap

from engine.backends.base import ChangePage, MemberPage, Members, Membership, OptedIn, ScopeRefresh
from engine.backends.local.account.people import People
from engine.backends.local.account.readers import ANY_TIME, NO_DATA, DataTimes
from engine.backends.local.account.watches import ChangedUsers
from engine.backends.local.membership.dirty_users import Flight, LateUsers
from engine.backends.local.membership.expected import Horizon
from engine.backends.local.membership.published import PublishedAccount
from engine.backends.local.membership.states import NO_CHANGES, Changes, StoredState
from engine.backends.local.membership.store import Memberships, Round, Update
from engine.backends.local.query.executor import member_page
from engine.backends.local.query.member_order import after_group
from engine.backends.local.roles.evaluating import Evaluation
from engine.backends.local.roles.open_store import AccountForgotten, OpenStore
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Read
from engine.backends.local.write.state import P
from engine.clock import Stamp
from engine.deadline import TimeShares
from engine.errors import DeadlineExceeded, MilepostError, NotFound, failure_of
from engine.plan.model import Plan
from engine.plan.reads import Reads
from engine.values import Micros

EXPECTED_EVALUATED_MAX = 4_096
"""Users of the nearest horizon up to which all of them are evaluated in a round. Of more, those whom time has
moved are searched first: that takes a plan for each scope, which only pays for many.
"""
BEGUN_AT_ONCE = 64
"""Scopes that begin to collect who becomes dirty before others go first."""

CATCH_UP_S_MAX = 0.05
"""A round that was evaluated within this time has few users to evaluate again."""
CATCH_UPS_MAX = 4

_NOBODY = BitMap()

T = TypeVar("T")


class Asked(Generic[P]):
    """A scope to refresh."""

    def __init__(self, refresh: ScopeRefresh) -> None:
        self.refresh = refresh
        self.scope = refresh.scope
        self.account = refresh.account
        # Without the lock: it takes long for a long plan.
        self.encoded = b"" if refresh.of_template else refresh.plan.encode()
        levels = 0 if refresh.ahead is None else refresh.ahead.levels
        self.ahead: list[dict[int, tuple[BitMap, BitMap]]] = [{} for _ in range(levels)]
        """For each horizon, by group: the users looked at, and those of them whom time may move."""
        self.is_whole = True
        self.begun: Begun[P] | None = None
        self.evaluation: Evaluation | None = None
        self.flight: Flight | None = None
        self.failure: MilepostError | None = None

    def may_expect(self, times: DataTimes) -> bool:
        """Whether by new data of these times someone may be expected to move."""
        ahead = self.refresh.ahead
        return ahead is not None and times != NO_DATA and ahead.may_move(None if times == ANY_TIME else times)

    @property
    def dirty(self) -> Mapping[int, BitMap]:
        """The users who were dirty when it began, by group; none if everyone is to be evaluated."""
        dirty = None if self.begun is None else self.begun.dirty
        return {} if dirty is None else dirty


class Begun(Generic[P]):
    """What a refresh starts from: the account, its dirty users by group (None: everyone is to be evaluated),
    and what has changed for everyone since. Scopes with the same dirty users share one.
    """

    def __init__(self, account: P, dirty: Sequence[BitMap] | None, changed: ChangedUsers) -> None:
        """`dirty` by group; they are copied, as others become dirty meanwhile."""
        self.account = account
        self.dirty = None if dirty is None else {at: users.copy() for at, users in _some(dirty).items()}
        self.changed = changed


class Watched(ExitStack):
    """Watches over what changes in an account, until the round ends, and what is made once for the round."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[object, Any] = {}
        # What is made may refer to this object, and would be a cycle for the garbage collector.
        self.callback(self._made.clear)
        self._open: dict[int, tuple[People, ChangedUsers]] = {}
        self._begun: dict[tuple[LateUsers, int], tuple[Sequence[BitMap], Begun[Any]]] = {}

    def begun(self, account: P, dirty: Sequence[BitMap], late: LateUsers) -> Begun[P]:
        """What a refresh of dirty users starts from, whose late users are collected from now on."""
        # Those who share their late users have begun at one moment.
        found = self._begun.get((late, id(dirty)))
        if found is None:
            begun = Begun(account, dirty, self.since_before(account))
            self._begun[late, id(dirty)] = dirty, begun
            return begun
        return found[1]

    def since_before(self, account: People) -> ChangedUsers:
        """What has changed since some instant of the round: one watch for all scopes of an account."""
        found = self._open.get(id(account))
        if found is None:
            found = self._open[id(account)] = account, self.since_now(account)
        return found[1]

    def once(self, name: object, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each name until the round ends."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])

    def since_now(self, account: People) -> ChangedUsers:
        """What changes from now on."""
        return self.enter_context(account.watches.watching())


class StoredMemberships(OpenStore[P]):
    """Keeps stored memberships and their change logs."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._prepared: dict[str, tuple[Flight, Begun[P]]] = {}
        """Refreshes that have begun, by scope. With the state lock."""
        self._rounds: dict[int, Watched] = {}
        """By thread the round that it runs (`beginning`)."""
        self._numbers = itertools.count(1)
        """Numbers rounds in the order in which they begin."""
        self._refreshing: set[str] = set()
        self._refreshed = threading.Condition()

    def refresh(
        self,
        account: str,
        scope: str,
        audiences: Sequence[str],
        plan: Plan,
        *,
        definitions: Sequence[str] = (),
        moved_by_time: Plan | None = None,
        whole: bool = False,
        reads: Reads | None = None,
    ) -> tuple[Membership, ...]:
        """`refresh_scopes` of one scope. Raises its error."""
        asked = ScopeRefresh(
            account=account,
            scope=scope,
            audiences=audiences,
            plan=plan,
            definitions=definitions,
            moved_by_time=None if moved_by_time is None else lambda: moved_by_time,
            whole=whole,
            reads=reads,
        )
        [found] = self.refresh_scopes(plan.as_of, [asked])
        if isinstance(found, MilepostError):
            raise found
        return found

    def refresh_scopes(
        self,
        as_of: Micros,
        refreshes: Sequence[ScopeRefresh],
        still: Sequence[str] = (),
        shares: TimeShares | None = None,
    ) -> list[tuple[Membership, ...] | MilepostError]:
        """Brings stored memberships to `as_of` and the revision of the beginning or a later one, in one
        transaction. Users are evaluated before the locks are taken; only the last ones to change are
        evaluated with them, unless they can wait for the next refresh. The transaction is written without
        the state lock.
        """
        shares = shares or TimeShares()
        memberships = self._state.memberships
        number = next(self._numbers)
        if not refreshes and not memberships.has_exits and not memberships.is_instant_due(as_of):
            with self._locked():
                memberships.stand_still(as_of, still, number)
            return []
        all_asked: list[Asked[P]] = [Asked(refresh) for refresh in refreshes]
        with self._busy({asked.scope for asked in all_asked}), Watched() as watched:
            try:
                # All at once: what is later than the instant of the round waits for the next in all of them.
                self._each(
                    all_asked, lambda asked, found, read: self._begin(asked, found, read, watched), shares
                )
                began = time.monotonic()
                self._each(
                    all_asked,
                    lambda asked, found, read: self._evaluate(asked, found, read, all_asked, watched),
                    shares,
                )
                self._catch_up_before_storing(all_asked, shares, began)
                _give_up_late(all_asked, shares)
                with self._index_lock:
                    self._store_round(as_of, all_asked, watched, still, number)
            finally:
                with self._state.locked():
                    for asked in all_asked:
                        self._state.memberships.abandon(asked.scope)
            with self._locked():
                return [self._outcome(asked) for asked in all_asked]

    @contextmanager
    def _busy(self, scopes: Collection[str]) -> Iterator[None]:
        """Waits until none of the scopes is refreshed by another thread."""
        with self._refreshed:
            self._refreshed.wait_for(lambda: self._refreshing.isdisjoint(scopes))
            self._refreshing |= set(scopes)
        try:
            yield
        finally:
            with self._refreshed:
                self._refreshing -= set(scopes)
                self._refreshed.notify_all()

    def _outcome(self, asked: Asked[P]) -> tuple[Membership, ...] | MilepostError:
        memberships = self._state.memberships
        try:
            if asked.failure is None:
                return tuple([self._public(memberships, audience) for audience in asked.refresh.audiences])
        except Exception as error:
            asked.failure = failure_of(error)
        return asked.failure

    @staticmethod
    def _public(memberships: Memberships, audience: str) -> Membership:
        found = memberships.public(audience)
        if found is None:
            raise NotFound(audience)
        return found

    def _each(
        self,
        all_asked: Sequence[Asked[P]],
        step: Callable[[Asked[P], P | None, Read], None],
        shares: TimeShares,
    ) -> None:
        """Runs a step of every refresh, many in one read. A scope that fails, by whatever error, does not
        delay the others.
        """
        rest = deque(asked for asked in all_asked if asked.failure is None)
        while rest:
            name = rest[0].account
            try:
                with shares.of(name) as deadline:
                    self._some(rest, name, step, deadline)
            except DeadlineExceeded as error:
                # While the read was opened or let others go first.
                if rest and rest[0].account == name:
                    rest.popleft().failure = error

    def _some(
        self,
        rest: deque[Asked[P]],
        name: str,
        step: Callable[[Asked[P], P | None, Read], None],
        deadline: float,
    ) -> None:
        """Runs a step of the first refreshes, which are of one account, in one read."""
        # Once more with a new read when the account is forgotten amid a step.
        with suppress(AccountForgotten), self._read(deadline, name) as (found, read):
            while rest and rest[0].account == name:
                try:
                    step(rest[0], found, read)
                except AccountForgotten:
                    raise
                except Exception as error:
                    rest.popleft().failure = failure_of(error)
                    # The read may have ended without the lock.
                    return
                rest.popleft()
                if rest:
                    read.pause()

    def _catch_up_before_storing(
        self, all_asked: Sequence[Asked[P]], shares: TimeShares, began: float
    ) -> None:
        """Evaluates who has changed while others of the round were evaluated, so that little of that is left
        to do with the index lock. `began`: when the evaluation began, an instant of `time.monotonic()`.
        """
        for _ in range(CATCH_UPS_MAX):
            now = time.monotonic()
            if now - began < CATCH_UP_S_MAX:
                return
            began = now
            self._each(all_asked, self._catch_up, shares)

    def _catch_up(self, asked: Asked[P], found: P | None, read: Read) -> None:
        evaluation = asked.evaluation
        if found is not None and evaluation is not None and self._holds(evaluation, asked, found):
            evaluation.catch_up(read)

    # --- evaluating -----------------------------------------------------------------------------------------

    @contextmanager
    def beginning(self, scopes: Iterable[str]) -> Iterator[None]:
        """Collects for each scope who becomes dirty from now on, for its refresh within the block."""
        with Watched() as watched:
            all_scopes = tuple(scopes)
            for start in range(0, len(all_scopes), BEGUN_AT_ONCE):
                with self._locked():
                    for scope in all_scopes[start : start + BEGUN_AT_ONCE]:
                        self._begin_early(scope, watched)
            thread = threading.get_ident()
            self._rounds[thread] = watched
            try:
                yield
            finally:
                del self._rounds[thread]
                with self._state.locked():
                    for scope in all_scopes:
                        prepared = self._prepared.pop(scope, None)
                        if prepared is not None:
                            self._state.memberships.abandon(scope, prepared[0])

    def _begin_early(self, scope: str, watched: Watched) -> None:
        """As `_begin_again`. After an error it is left to the refresh, whose own it becomes."""
        try:
            self._begin_again(scope, watched)
        except Exception:
            self._state.memberships.abandon(scope)

    def _begin_again(self, scope: str, watched: Watched) -> None:
        memberships = self._state.memberships
        account = self._state.find_account(memberships.scope_account(scope) or "")
        dirty = memberships.dirty(scope)
        if account is None or dirty is None:
            return
        flight = memberships.begin_again(scope)
        if flight is not None:
            self._prepared[scope] = flight, watched.begun(account, dirty, flight.late)

    def _begin(self, asked: Asked[P], found: P | None, read: Read, watched: Watched) -> None:
        """Collects who becomes dirty from now on, unless that has begun."""
        prepared = self._prepared.pop(asked.scope, None)
        if prepared is not None and self._may_go_on(asked, found, *prepared):
            asked.flight, asked.begun = prepared
            return
        asked.flight = self._state.memberships.begin(asked.account, asked.scope, asked.refresh.reads)
        if found is None:
            return
        dirty = self._state.memberships.dirty(asked.scope)
        if dirty is None or self._is_whole(asked):
            asked.begun = Begun(found, None, watched.since_before(found))
        else:
            asked.begun = watched.begun(found, dirty, asked.flight.late)

    def _may_go_on(self, asked: Asked[P], account: P | None, flight: Flight, begun: Begun[P]) -> bool:
        """Whether what has begun is of this account and of all that the refresh is about."""
        under_way = self._state.memberships.is_under_way(asked.scope, flight, asked.refresh.reads)
        return under_way and begun.account is account and not self._is_whole(asked)

    def _begun(self, asked: Asked[P], account: P, changed: ChangedUsers) -> Begun[P]:
        dirty = None if self._is_whole(asked) else self._state.memberships.dirty(asked.scope)
        return Begun(account, dirty, changed)

    def _evaluate(
        self,
        asked: Asked[P],
        found: P | None,
        read: Read,
        all_asked: Sequence[Asked[P]],
        watched: Watched,
    ) -> None:
        """Evaluates who has to be, while others write."""
        if found is not None and asked.flight is not None:
            if asked.begun is None or asked.begun.account is not found:
                asked.begun = self._begun(asked, found, watched.since_now(found))
            others = self._asked_about(each for each in all_asked if each.account == asked.account)
            asked.evaluation = self._evaluated(asked, asked.flight, asked.begun, watched, others, read)

    def _asked_about(self, all_asked: Iterable[Asked[P]]) -> Iterator[Mapping[int, BitMap]]:
        """The users by group whom refreshes are going to evaluate."""
        for asked in all_asked:
            if asked.dirty:
                yield asked.dirty
            expected = self._expected(asked)
            if expected:
                yield expected

    def _evaluated(
        self,
        asked: Asked[P],
        flight: Flight,
        begun: Begun[P],
        watched: Watched,
        others: Iterable[Mapping[int, BitMap]] | None,
        read: Read,
    ) -> Evaluation:
        """Evaluates who has to be, while others write unless the lock is kept, and fills `asked.ahead`.
        `others` are the users of the scopes that began with this one; None: it begins now.
        """
        raise NotImplementedError

    def _first_root(
        self, plan: Plan, account: P, users: Mapping[int, BitMap] | None, read: Read
    ) -> dict[int, BitMap]:
        """Which of some users (None = all) are in the first root of a plan, by group."""
        raise NotImplementedError

    def _with_moved(self, asked: Asked[P], begun: Begun[P], read: Read) -> tuple[Mapping[int, BitMap], bool]:
        """The users to evaluate by group, and whether what time is expected to do with them is to be renewed:
        those who were dirty, and those whom time has or may have moved. Of the latter it is known: their data
        are as they were.
        """
        assert begun.dirty is not None
        assert asked.flight is not None
        expected = self._expected(asked)
        gone = self._moved(asked, begun.account, read) if expected is None else {}
        users = begun.dirty
        for some in (expected, gone):
            users = _united(users, some) if some else users
        return users, bool(gone) or asked.may_expect(asked.flight.times)

    def _horizon_of(self, asked: Asked[P]) -> Horizon | None:
        """Among whose users are those whom time has moved; None: it is not known."""
        first, last = sorted((asked.refresh.moved_since, asked.refresh.plan.as_of))
        return self._state.memberships.expected.covering(asked.scope, first, last)

    def _expected(self, asked: Asked[P]) -> dict[int, BitMap] | None:
        """The users by group whom time may have moved, if they are few. None: those whom it has moved are to
        be searched.
        """
        if asked.refresh.moved_by_time is None:
            return {}
        horizon = self._horizon_of(asked)
        if horizon is None or horizon.count > EXPECTED_EVALUATED_MAX:
            return None
        return _some(horizon.groups) if horizon.count else {}

    def _moved(self, asked: Asked[P], account: P, read: Read) -> dict[int, BitMap]:
        """The users by group whom time has moved: among those of whom that was expected, or among all."""
        horizon = self._horizon_of(asked)
        plan = None if asked.refresh.moved_by_time is None else asked.refresh.moved_by_time()
        if plan is None:
            return {}
        moved = self._first_root(plan, account, None if horizon is None else _some(horizon.groups), read)
        return {group: users for group, users in moved.items() if users}

    def look_ahead(
        self,
        account: str,
        scope: str,
        level: int,
        plan: Plan | None,
        since: Micros,
        until: Micros,
        deadline: float | None = None,
    ) -> None:
        """Remembers whom time may move after `since` and up to `until`: the first root of the plan."""
        expected = self._state.memberships.expected
        groups = [_NOBODY] * self._store.groups
        if plan is None:
            with self._locked():
                expected.put(scope, level, since, until, groups)
            return
        with suppress(AccountForgotten), self._read(deadline, account) as (found, read):
            if found is not None:
                wider = expected.covering(scope, since, until) if level else None
                some = None if wider is None else _some(wider.groups)
                for group, users in self._first_root(plan, found, some, read).items():
                    groups[group] = users
            expected.put(scope, level, since, until, groups)

    def instant(self) -> Micros:
        """The instant of the last round; after a start, the last one that is known."""
        return self._state.memberships.instant

    def expected(self, scope: str, level: int = -1) -> int | None:
        """Number of users whom time may move within the nearest horizon, or that of a level; None: it is not
        known.
        """
        return self._state.memberships.expected.count(scope, level)

    def _is_whole(self, asked: Asked[P]) -> bool:
        """Whether everyone has to be evaluated."""
        memberships, refresh = self._state.memberships, asked.refresh
        return (
            refresh.whole
            or memberships.dirty(asked.scope) is None
            or not memberships.are_in_step(asked.account, asked.scope, refresh.audiences)
        )

    def _holds(self, evaluation: Evaluation | None, asked: Asked[P], account: P) -> bool:
        """Whether the evaluation is still of this account and of everyone it has to be of."""
        if evaluation is None or evaluation.account is not account or evaluation.is_void:
            return False
        return evaluation.is_whole or not self._is_whole(asked)

    # --- storing --------------------------------------------------------------------------------------------

    def _store_round(
        self,
        as_of: Micros,
        all_asked: Sequence[Asked[P]],
        watched: Watched,
        still: Sequence[str],
        number: int,
    ) -> None:
        """Stores what was evaluated and publishes it. Call with the index lock."""
        memberships = self._state.memberships
        self._check()
        self._record_waiting(as_of)
        with self._locked():
            round_ = memberships.open_round(as_of, number)
        try:
            self._each(
                all_asked,
                lambda asked, found, read: self._add(asked, found, read, round_, watched),
                TimeShares(),
            )
            memberships.write_round(round_)
        except BaseException as error:
            with self._state.locked():
                memberships.give_up_round(round_)
            self._record_exits_if_there_is_room()
            if not isinstance(error, MilepostError):
                raise
            for asked in all_asked:
                asked.failure = asked.failure or error
            return
        with self._state.locked():
            memberships.close_round(round_, still)
            for asked in all_asked:
                if asked.failure is None:
                    self._expect_or_fail(asked)
            surplus = memberships.surplus(round_.written)
        # Of users who were erased meanwhile.
        self._record_exits_if_there_is_room()
        # Readers know of it before records are deleted.
        owners = {audience: asked for asked in all_asked for audience in asked.refresh.audiences}
        for audience, through in surplus.items():
            try:
                self._commit(functools.partial(memberships.trim, audience, through))
            except Exception as error:
                owners[audience].failure = failure_of(error)

    def _expect_or_fail(self, asked: Asked[P]) -> None:
        """As `_expect`; after an error nobody is known to be expected, and everyone is looked at."""
        try:
            self._expect(asked)
        except Exception as error:
            asked.failure = failure_of(error)
            self._state.memberships.expected.drop(asked.scope)

    def _expect(self, asked: Asked[P]) -> None:
        """Takes over whom of the refreshed users time is expected to move."""
        expected = self._state.memberships.expected
        assert asked.flight is not None
        if asked.is_whole:
            expected.drop(asked.scope)
        else:
            for level, users in enumerate(asked.ahead):
                if users:
                    expected.renew(asked.scope, level, users)
            if len(asked.ahead) < expected.levels(asked.scope):
                # What is expected of the refreshed users is not known.
                expected.drop(asked.scope)
            if asked.flight.taken and asked.may_expect(asked.flight.late_times):
                expected.join(asked.scope, asked.flight.taken)

    def _add(self, asked: Asked[P], found: P | None, read: Read, round_: Round, watched: Watched) -> None:
        """Evaluates the last users to change, and adds the changes of memberships to the round."""
        if asked.flight is None:
            asked.flight = self._state.memberships.begin(asked.account, asked.scope, asked.refresh.reads)
        holds = found is None
        if found is not None:
            if not self._holds(asked.evaluation, asked, found):
                # Everyone has to be evaluated by now, or the account is a new one. Others write meanwhile.
                asked.evaluation = self._evaluated_anew(asked, asked.flight, found, read, watched)
            elif asked.evaluation is not None and not asked.evaluation.is_of_its_beginning:
                # Users may have changed while the index was written to.
                asked.evaluation.catch_up(read)
            else:
                # Most often: nobody went first meanwhile.
                holds = True
        with read.keeping_lock():
            if found is not None and not (holds or self._holds(asked.evaluation, asked, found)):
                asked.evaluation = self._evaluated_anew(asked, asked.flight, found, read, watched)
            self._add_at_once(asked, found, read, round_)

    def _evaluated_anew(
        self, asked: Asked[P], flight: Flight, found: P, read: Read, watched: Watched
    ) -> Evaluation:
        """Evaluates who has to be from now on."""
        begun = self._begun(asked, found, watched.since_now(found))
        return self._evaluated(asked, flight, begun, watched, None, read)

    def _add_at_once(self, asked: Asked[P], found: P | None, read: Read, round_: Round) -> None:
        refresh, memberships = asked.refresh, self._state.memberships
        evaluation, flight = asked.evaluation, asked.flight
        assert flight is not None
        states = memberships.states(round_, refresh.audiences, asked.account, asked.scope)
        changes = [NO_CHANGES] * len(refresh.audiences)
        revision = self._state.position
        if found is not None and evaluation is not None:
            if evaluation.is_of_its_beginning:
                revision = flight.revision
            evaluation.settle(read)
            changes = self._changes(states, evaluation, round_)
        flight.settle()
        definitions = refresh.definitions or [""] * len(states)
        updates = {
            audience: Update(state, changed, refresh.plan.as_of, definition)
            for (audience, state), changed, definition in zip(
                states.items(), changes, definitions, strict=True
            )
        }
        memberships.add(round_, asked.account, asked.scope, updates, revision, refresh.reads)

    def _changes(
        self, states: Mapping[str, StoredState], evaluation: Evaluation, round_: Round
    ) -> list[Changes]:
        """Entries and exits of each membership, among the users evaluated."""
        memberships, users = self._state.memberships, evaluation.users()
        changes = []
        for (audience, state), after in zip(states.items(), evaluation.answers(), strict=True):
            before = memberships.published_members(audience, state)
            if before is None:
                members_in = functools.partial(memberships.members, state)
                changes.append(round_.alike.changes_among(users, members_in, after))
            else:
                changes.append(round_.alike.changes(users, before, after))
        return changes

    def pending(self, scope: str) -> int:
        """Number of dirty users in the scope. After a restart every user is dirty until the first refresh."""
        self._check()
        counted = self._state.memberships.pending(scope)
        if counted is not None:
            return counted
        with self._locked():
            pending = self._state.memberships.pending(scope)
            if pending is not None:
                return pending
            account = self._state.find_account(self._state.memberships.scope_account(scope) or "")
            return 0 if account is None else account.directory.size()

    def membership(self, audience: str) -> Membership | None:
        """The stored membership, or None when it is not stored. Takes no lock: states are replaced, and never
        change once they are stored.
        """
        self._check()
        return self._state.memberships.public(audience)

    def take_news(self) -> None:
        """A round begins: what has come is in it. Takes no lock."""
        self._state.memberships.take_news()

    def has_news(self) -> bool:
        """Whether a round has something to do that time does not bring. Takes no lock."""
        return self._state.memberships.has_news

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, in the order of `execute`."""
        memberships = self._state.memberships
        with self._locked():
            name = memberships.get(audience).account
        with self._read(None, name) as (account, read):
            state = memberships.get(audience)
            if account is None:
                return MemberPage((), "", state.revision)
            groups = (
                (group, memberships.members(state, group))
                for group in range(after_group(ask.after), account.groups)
            )
            return member_page(account, ask, groups, state.revision, read)

    def published(self, account: str) -> PublishedAccount:
        """The stored memberships of the account, as they are now. Takes no lock."""
        self._check()
        state = self._state
        state.check_account(account)
        return state.memberships.published(account)

    def changes(self, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, at most `limit`."""
        with self._locked():
            account = self._state.find_account(self._state.memberships.get(audience).account)
            return self._state.memberships.changes(account, audience, after, limit)

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change up to an instant; 0 when there is none."""
        with self._locked():
            return self._state.memberships.sequence_at(audience, instant)

    def listen(self, audience: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after each change of the audience, until the result is called."""
        self._check()
        return self._state.memberships.listen(audience, changed)

    def opt_in(self, audience: str, opted_in: OptedIn) -> None:
        """Records from now on when these values of a member change."""
        memberships = self._state.memberships
        with self._index_lock:
            self._check()
            self._record_waiting()
            self._commit(lambda: memberships.opt_in(audience, opted_in))

    def record_updates(self) -> None:
        """Writes the changes of opted-in values that wait into the change logs."""
        if self._state.memberships.has_updates:
            with self._index_lock:
                self._check()
                self._record_waiting()

    def trim_changes(self, audience: str, through: int) -> None:
        """Deletes changes up to and including that sequence."""
        with self._index_lock:
            self._check()
            self._commit(lambda: self._state.memberships.trim(audience, through))

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change of the audience that names a user erased before an instant; 0: none."""
        with self._locked():
            return self._state.memberships.erased_through(audience, before)

    def exit_all(self, audience: str, as_of: Micros) -> Membership:
        """Empties the stored membership and records the exit of every member."""
        memberships = self._state.memberships
        with self._index_lock:
            self._check()
            self._record_waiting()
            self._commit(lambda: memberships.exit_all(audience, as_of, self._state.position))
            with self._locked():
                return self._public(memberships, audience)

    def copy_membership(self, audience: str, name: str, after: int) -> None:
        """Keeps the stored membership as it is now under another name."""
        memberships = self._state.memberships
        with self._index_lock:
            self._check()
            self._record_waiting()
            self._commit(lambda: memberships.drop(name))
            self._commit(lambda: memberships.copy(audience, name, after))

    def drop_membership(self, audience: str) -> None:
        """Deletes the stored membership and its change log."""
        with self._index_lock:
            self._check()
            self._commit(lambda: self._state.memberships.drop(audience))

    def drop_scope(self, scope: str) -> None:
        """Stops tracking dirty users of a scope without stored memberships."""
        with self._locked():
            self._state.memberships.drop_scope(scope)


def _some(users: Sequence[BitMap]) -> dict[int, BitMap]:
    """The groups with users."""
    return {group: some for group, some in enumerate(users) if some}


def _united(users: Mapping[int, BitMap], others: Mapping[int, BitMap]) -> dict[int, BitMap]:
    """The users of both, by group in order."""
    united = dict(users)
    for group, some in others.items():
        united[group] = united[group] | some if group in united else some
    return dict(sorted(united.items()))


def _give_up_late(all_asked: Sequence[Asked[Any]], shares: TimeShares) -> None:
    """Leaves all scopes of an account as they were if its time was over in one: they name each other. An
    error of another deadline is that of its scope alone.
    """
    late = {
        each.account: each.failure
        for each in all_asked
        if isinstance(each.failure, DeadlineExceeded) and shares.is_over(each.account)
    }
    for asked in all_asked:
        asked.failure = asked.failure or late.get(asked.account)
