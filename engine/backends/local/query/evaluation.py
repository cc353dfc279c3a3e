"""Evaluating a plan for many users, to be right at one instant, while others write.

A refresh of a million users takes long, and its result must be right at the moment it is stored. So users are
evaluated while others write (`Executor.roots`), and those that changed meanwhile again, until few are left.
These are evaluated with the lock held, at the moment of storing. Everyone else has not changed since.

A refresh of some users need not catch up when none of them has new data: the result is then the state at its
beginning, and users with new data are left to the next refresh. Most events that arrive during a refresh are
later than its instant, so to evaluate their users now would be work for nothing.

A few users are evaluated together with those of the other journeys of a round (`BriefEvaluation`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pyroaring import BitMap

from engine.backends.local.account.watches import ChangedUsers
from engine.backends.local.query.bound_plan import BoundPlan, FormAnswers
from engine.backends.local.query.executor import Executor
from engine.backends.local.query.runs import GroupRun, SharedRun
from engine.backends.local.query.shared_answers import SHARED_USERS_MAX, Pool, SharedAnswers
from engine.backends.local.storage.turns import Read
from engine.plan.model import Plan

AT_ONCE_USERS_MAX = 64
"""Users evaluated with the lock held."""
ROUNDS_MAX = 8
"""Rounds after which the others are evaluated with the lock held, however many they are."""


class Late(Protocol):
    """Collects the users whose answer may have changed."""

    def add(self, users: Mapping[int, BitMap]) -> None: ...

    def take(self, group: int) -> BitMap: ...

    def is_apart_from(self, users: Mapping[int, BitMap | None]) -> bool: ...


class Evaluation:
    """The users of a plan's roots in each evaluated group. Call with the lock held."""

    def __init__(self, executor: Executor, plan: BoundPlan, late: Late, watched: ChangedUsers) -> None:
        """`late` collects whose answer may have changed since before the evaluation, `watched` whether
        something concerns everyone.
        """
        self.account = plan.account
        self.is_whole = False
        """Whether everyone was evaluated."""
        self._executor = executor
        self._plan = plan
        self._late = late
        self._watched = watched
        self._bases: dict[int, BitMap | None] = {}
        self._sets: dict[int, list[BitMap]] = {}

    @property
    def is_void(self) -> bool:
        """Whether something has changed that may concern everyone."""
        return self._watched.are_all

    @property
    def is_of_its_beginning(self) -> bool:
        """Whether the result is the state at the beginning: users with new data can then wait."""
        return not self.is_whole and self._late.is_apart_from(self._bases)

    def evaluate(self, group: int, base: BitMap | None, read: Read) -> None:
        """Evaluates some users of a group (None = all), while others write."""
        # A copy, since sets of the index change with users that were evaluated.
        found = self._executor.roots(self._plan, group, lambda: base, read)
        self._sets[group] = [users.copy() for users in found]
        self._bases[group] = base

    def catch_up(self, read: Read) -> None:
        """Evaluates users that changed, while others write, until few are left; none if they can wait."""
        if self.is_of_its_beginning:
            return
        groups = range(self._plan.account.groups)
        for _ in range(ROUNDS_MAX):
            late = {group: users for group in groups if (users := self._late.take(group))}
            if sum(map(len, late.values())) <= AT_ONCE_USERS_MAX:
                self._late.add(late)
                return
            for group, users in late.items():
                some = functools.partial(BitMap.copy, users)
                self._replace(group, users, self._executor.roots(self._plan, group, some, read))

    def settle(self, read: Read) -> None:
        """Evaluates the users that changed since, unless they can wait. Keeps the lock."""
        if self.is_of_its_beginning:
            return
        with read.keeping_lock():
            plan = self._executor.renewed(self._plan, read)
            for group in range(plan.account.groups):
                late = self._late.take(group)
                if late:
                    self._replace(group, late, GroupRun(plan, group, late, read).sets(plan.roots))

    def _replace(self, group: int, users: BitMap, sets: Sequence[BitMap]) -> None:
        before = self._sets.get(group)
        if before is None:
            self._bases[group] = users
            self._sets[group] = [found.copy() for found in sets]
            return
        base = self._bases[group]
        self._bases[group] = None if base is None else base | users
        self._sets[group] = [(old - users) | new for old, new in zip(before, sets, strict=True)]

    def users(self) -> dict[int, BitMap | None]:
        """The users evaluated, by group in order; None = all of a group."""
        return {group: self._bases[group] for group in sorted(self._sets)}

    def answers(self) -> list[dict[int, BitMap]]:
        """For each root the users evaluated that are in it, by group in order."""
        in_order = sorted(self._sets.items())
        return [{group: sets[root] for group, sets in in_order} for root in range(len(self._plan.roots))]


class BriefEvaluation:
    """As `Evaluation`, of a few users, by answers that the plans of a round share. What is read of a user is
    in the plan's reads, so `late` has everyone for whom an answer may have become wrong.
    """

    is_whole = False

    def __init__(
        self,
        executor: Executor,
        plan: Plan,
        bind: Callable[[], BoundPlan],
        users: Mapping[int, BitMap],
        late: Late,
        watched: ChangedUsers,
        pool: Pool,
    ) -> None:
        """`bind` binds the plan, once that is needed. `users` by group in order, with some in each, which
        nobody changes; `late` collects since before the first answer of the pool.
        """
        self.account = pool.account
        self._executor = executor
        self._asked = plan
        self._bind = bind
        self._users = users
        self._late = late
        self._watched = watched
        self._pool = pool
        self._sets: list[BitMap] = []

    @property
    def is_void(self) -> bool:
        """Whether something has changed that may concern everyone, or a user has come who has no ordinal."""
        return self._watched.are_all or not self._pool.is_possible

    @property
    def is_of_its_beginning(self) -> bool:
        """Whether the result is the state at the beginning: users with new data can then wait."""
        return self._late.is_apart_from(self._users)

    def evaluate(self, others: Iterable[Mapping[int, BitMap]], read: Read) -> None:
        """Evaluates the users, while others write. Of `others` the other plans of the round will ask."""
        shared = self._pool.first(self._users, others)
        kept = self._executor.kept_template(self._asked, self.account)
        decided = None if kept is None else kept.form_answers(self._asked, shared, read)

        def answer() -> tuple[FormAnswers | None, Mapping[int, BitMap], list[BitMap]]:
            # What names the answer is kept with it, so that nothing else gets the name.
            return decided, self._users, self._roots(self._plan, shared, self._users, read)

        if decided is None:
            self._sets = answer()[2]
        else:
            name = decided.form, id(self._users), *map(id, decided.answers)
            self._sets = shared.once(name, answer)[2]

    @functools.cached_property
    def _plan(self) -> BoundPlan:
        return self._bind()

    def also(self, plan: BoundPlan, read: Read) -> dict[int, BitMap]:
        """The users of another plan's first root among those evaluated, by group: as they were when the round
        began.
        """
        found = self._roots(plan, self._pool.first(self._users, ()), self._users, read)
        return dict(self._pool.by_group(found[0]))

    def _roots(
        self, plan: BoundPlan, shared: SharedAnswers, users: Mapping[int, BitMap], read: Read
    ) -> list[BitMap]:
        plan = self._executor.renewed(plan, read)

        def answer() -> tuple[BoundPlan, Mapping[int, BitMap], list[BitMap]]:
            # As in `evaluate`.
            return plan, users, SharedRun(plan, shared, shared.ordinals_of(users), read).sets(plan.roots)

        # Journeys that ask the same have one plan.
        return shared.once((id(plan), id(users)), answer)[2]

    def catch_up(self, read: Read) -> None:
        """Evaluates users that changed, while others write, until few are left; none if they can wait."""
        groups = range(self.account.groups)
        for _ in range(ROUNDS_MAX):
            if self.is_of_its_beginning or self.is_void:
                return
            late = {group: users for group in groups if (users := self._late.take(group))}
            if sum(map(len, late.values())) <= AT_ONCE_USERS_MAX:
                self._late.add(late)
                return
            self._evaluate_again(late, read)

    def settle(self, read: Read) -> None:
        """Evaluates the users that changed since, unless they can wait. Keeps the lock."""
        if self.is_of_its_beginning:
            return
        groups = range(self.account.groups)
        with read.keeping_lock():
            late = {group: users for group in groups if (users := self._late.take(group))}
            if late:
                self._evaluate_again(late, read)

    def _evaluate_again(self, late: Mapping[int, BitMap], read: Read) -> None:
        ordinals = self._pool.ordinals
        if sum(map(len, late.values())) <= SHARED_USERS_MAX:
            found = self._roots(self._plan, self._pool.now(late), late, read)
        else:
            found = self._roots_by_group(late, read)
        users = ordinals.joined(sorted(late.items()))
        self._sets = [(old - users) | new for old, new in zip(self._sets, found, strict=True)]
        # For the same users the same object, also if another scope has found them late.
        self._users = self._pool.by_group(users | ordinals.joined(self._users.items()))

    def _roots_by_group(self, users: Mapping[int, BitMap], read: Read) -> list[BitMap]:
        by_group: dict[int, list[BitMap]] = {}
        for group, some in sorted(users.items()):
            found = self._executor.roots(self._plan, group, functools.partial(BitMap.copy, some), read)
            by_group[group] = [each & some for each in found]
        return [
            self._pool.ordinals.joined((group, sets[root]) for group, sets in by_group.items())
            for root in range(len(self._plan.roots))
        ]

    def users(self) -> Mapping[int, BitMap]:
        """The users evaluated, by group in order: the object that was given, unless users have changed."""
        return self._users

    def answers(self) -> list[Mapping[int, BitMap]]:
        """For each root the users evaluated that are in it, by group in order: for the same users the same
        object.
        """
        return [self._pool.by_group(users) for users in self._sets]
