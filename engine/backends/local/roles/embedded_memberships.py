"""Refreshing stored memberships of an embedded store: evaluating users over its bitmaps."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

from pyroaring import BitMap

from engine.backends.base import ScopeRefresh
from engine.backends.local.account.account import Account
from engine.backends.local.membership.dirty_users import Flight
from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.evaluation import BriefEvaluation, Evaluation
from engine.backends.local.query.runs import SharedRun
from engine.backends.local.query.shared_answers import SHARED_USERS_MAX, Pool
from engine.backends.local.roles.memberships import Asked, Begun, StoredMemberships, Watched
from engine.backends.local.roles.plans import Plans
from engine.backends.local.storage.turns import Read
from engine.plan.model import Plan
from engine.values import Micros

AHEAD_USERS_MAX = 1 << 16
"""Users among whom those whom time may move are found for all groups at once, and in a round only once for
scopes with the same users.
"""
ASKED_LEVEL = 1
"""The horizon among whose users the nearest one is renewed."""

_NOBODY = BitMap()


class EmbeddedMemberships(StoredMemberships[Account], Plans):
    """Keeps stored memberships up to date by plans over the bitmaps of the store."""

    def _evaluated(
        self,
        asked: Asked[Account],
        flight: Flight,
        begun: Begun[Account],
        watched: Watched,
        others: Iterable[Mapping[int, BitMap]] | None,
        read: Read,
    ) -> Evaluation | BriefEvaluation:
        as_of = asked.refresh.plan.as_of
        # A pool is made after the flights of those that use it began.
        pool = (
            Pool(begun.account, as_of, watched)
            if others is None
            else self._pool(watched, begun.account, as_of)
        )
        asked.is_whole = begun.dirty is None
        for found in asked.ahead:
            found.clear()
        if begun.dirty is None:
            return self._widely(asked, flight, begun, None, read)
        users, looks_ahead = self._with_moved(asked, begun, read)
        if sum(map(len, users.values())) > SHARED_USERS_MAX or not pool.is_possible:
            evaluation = self._widely(asked, flight, begun, users, read)
            if looks_ahead:
                self._look_at(asked, begun.account, users, read)
            return evaluation
        refresh = asked.refresh
        # Without `asked`, which keeps the evaluation: each scope would leave a cycle behind.
        bind = functools.partial(self._bound, refresh, asked.encoded, begun.account, read)
        brief = BriefEvaluation(self._executor, refresh.plan, bind, users, flight, begun.changed, pool)
        brief.evaluate(others or (), read)
        if looks_ahead:
            self._look_briefly(asked, brief, users, read)
        brief.catch_up(read)
        return brief

    def _pool(self, watched: Watched, account: Account, as_of: Micros) -> Pool:
        """The answers that the scopes of an account share in a round."""
        # The pool holds the account, so no other object has its id meanwhile.
        return watched.once(id(account), lambda: Pool(account, as_of, watched))

    def _first_root(
        self, plan: Plan, account: Account, users: Mapping[int, BitMap] | None, read: Read
    ) -> dict[int, BitMap]:
        if users is not None and 0 < sum(map(len, users.values())) <= AHEAD_USERS_MAX:
            few = self._first_root_of_few(plan, account, users, read)
            if few is not None:
                return few
        bound = self._executor.bind_once(plan, account, read)
        whole = self._executor.roots_of_all(bound, read) if users is None else None
        if whole is not None:
            ordinals, roots = whole
            return dict(ordinals.by_group(roots[0]))
        found = {}
        for group in range(account.groups):
            if users is None:
                found[group] = self._executor.roots(bound, group, lambda: None, read)[0].copy()
            elif group in users:
                found[group] = self._among(bound, group, users[group], read)
        return found

    def _first_root_of_few(
        self, plan: Plan, account: Account, users: Mapping[int, BitMap], read: Read
    ) -> dict[int, BitMap] | None:
        """Which of a few users are in the first root, by group; None: users have no ordinals. Who changes
        meanwhile becomes dirty, and is looked at again. Within a round scopes share what they ask.
        """
        round_ = self._rounds.get(threading.get_ident())
        with ExitStack() as held:
            pool = (
                Pool(account, plan.as_of, held) if round_ is None else self._pool(round_, account, plan.as_of)
            )
            if not pool.is_possible:
                return None
            shared = pool.now(users, self._expected_soon(account.name))
            bound = self._executor.bind_once(plan, account, read)
            run = SharedRun(bound, shared, shared.ordinals_of(users), read)
            return dict(pool.by_group(run.users(bound.roots[0])))

    def _expected_soon(self, account: str) -> Iterator[Mapping[int, BitMap]]:
        """Of each scope of an account the users by group of whom is asked most often whom time may move."""
        memberships = self._state.memberships
        for scope, groups in memberships.expected.at_level(ASKED_LEVEL):
            if memberships.scope_account(scope) == account:
                yield {group: some for group, some in enumerate(groups) if some}

    def _bound(self, refresh: ScopeRefresh, encoded: bytes, account: Account, read: Read) -> BoundPlan:
        if refresh.of_template:
            return self._executor.bind_template(refresh.plan, account, read)
        return self._executor.bind(refresh.plan, encoded, account, read)

    def _widely(
        self,
        asked: Asked[Account],
        flight: Flight,
        begun: Begun[Account],
        users: Mapping[int, BitMap] | None,
        read: Read,
    ) -> Evaluation:
        """Evaluates many users (None = all), group by group."""
        plan = self._bound(asked.refresh, asked.encoded, begun.account, read)
        evaluation = Evaluation(self._executor, plan, flight, begun.changed)
        evaluation.is_whole = users is None
        for group in range(begun.account.groups):
            base = None if users is None else users.get(group)
            if users is None or base is not None:
                evaluation.evaluate(group, base, read)
        evaluation.catch_up(read)
        return evaluation

    def _look_at(
        self, asked: Asked[Account], account: Account, users: Mapping[int, BitMap], read: Read
    ) -> None:
        """Finds who of the users evaluated may be moved within the horizons. The others are not expected to:
        horizons have users whose new data are not of their time as they were.
        """
        assert asked.refresh.ahead is not None
        among = dict(users)
        for found, plan in zip(asked.ahead, asked.refresh.ahead.plans(), strict=True):
            bound = None if plan is None else self._executor.bind_once(plan, account, read)
            for group, base in users.items():
                # Whom time moves within a horizon it moves within those that are farther.
                some = among[group]
                among[group] = self._among(bound, group, some, read) if bound and some else _NOBODY
                found[group] = base, among[group]

    def _look_briefly(
        self, asked: Asked[Account], evaluation: BriefEvaluation, users: Mapping[int, BitMap], read: Read
    ) -> None:
        """As `_look_at`, by shared answers."""
        if asked.refresh.ahead is None:
            return
        for found, plan in zip(asked.ahead, asked.refresh.ahead.plans(), strict=True):
            some: Mapping[int, BitMap] = {}
            if plan is not None:
                some = evaluation.also(self._executor.bind_once(plan, evaluation.account, read), read)
            for group, base in users.items():
                found[group] = base, some.get(group, _NOBODY)

    def _among(self, plan: BoundPlan, group: int, users: BitMap, read: Read) -> BitMap:
        """The users of a plan's first root among some."""
        return self._executor.roots(plan, group, users.copy, read)[0] & users
