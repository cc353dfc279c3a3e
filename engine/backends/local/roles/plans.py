"""Executing plans (`engine.backends.base.PlanExecutor`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, TypeVar, cast

from engine.backends.base import (
    Answer,
    Ask,
    Containment,
    Contains,
    Count,
    Counts,
    MemberPage,
    Members,
    Outlook,
    PartitionSet,
    StepTrace,
    Trace,
)
from engine.backends.local.account.account import Account
from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.compiled_patterns import compiled_patterns
from engine.backends.local.query.executor import Executor
from engine.backends.local.roles.open_store import AccountForgotten, OpenStore
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Read
from engine.clock import Stamp
from engine.plan.model import Plan
from engine.values import PARTITION_COUNT

A = TypeVar("A")


class _Binding(NamedTuple):
    """How a plan is bound, with the state lock."""

    bind: Callable[[Account, Read], BoundPlan]
    is_kept: bool
    """Whether it is bound already."""


class Plans(OpenStore[Account]):
    """Executes plans."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._executor = Executor(self._state.names)

    def execute(
        self,
        plan: Plan,
        ask: Ask[Answer],
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Answer:
        """Answers `ask`, each user from one state at or after `min_revision`."""

        def answer(bound: BoundPlan, revision: int, read: Read) -> Counts | MemberPage | Containment:
            match ask:
                case Count():
                    return self._executor.count(bound, partitions, revision, read)
                case Members():
                    return self._executor.members(bound, ask, partitions, revision, read)
                case Contains():
                    return self._executor.contains(bound, ask, partitions, revision, read)
                case _:
                    raise TypeError(f"no question about a plan: {ask!r}")

        def nobody(revision: int) -> Counts | MemberPage | Containment:
            return nobody_of(plan, ask, partitions, revision)

        if isinstance(ask, Contains) and len(ask.user_ids) == 1 and partitions is None:
            found = self._one_user(plan, ask.user_ids[0], min_revision, deadline)
            if found is not None:
                return cast(Answer, found)
        binding = self._binding_template(plan) if isinstance(ask, Contains) else self._binding(plan)
        return cast(Answer, self._answered(plan, binding, answer, nobody, min_revision, deadline))

    def _one_user(
        self, plan: Plan, user_id: str, min_revision: int, deadline: float | None
    ) -> Containment | None:
        """The answer about one user, with the lock held; None when that would be too long."""
        self._await(min_revision, deadline)
        with self._state.locked(deadline):
            self._check()
            account = self._state.find_account(plan.account)
            if account is None:
                return Containment(((False,) * len(plan.roots),), self._state.position)
            flags = self._executor.contains_one(plan, account, user_id)
            return None if flags is None else Containment((flags,), self._state.position)

    def trace(self, plan: Plan, *, min_revision: int = 0, deadline: float | None = None) -> Trace:
        """Executes the plan over every partition and reports each step."""
        nothing = tuple(StepTrace(0, 0.0, "set", 0) for _ in plan.steps)

        def nobody(revision: int) -> Trace:
            return Trace(nothing, revision)

        trace = self._executor.trace
        return self._answered(plan, self._binding(plan), trace, nobody, min_revision, deadline)

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """Number of users that belong to the inputs, and the estimated time of counting the plan's roots over
        everyone.
        """

        def answer(bound: BoundPlan, _: int, read: Read) -> Outlook:
            work = self._executor.work(bound, read)
            return Outlook(bound.account.universe_size(inputs, read.pause), work)

        def nobody(_: int) -> Outlook:
            return Outlook(0, 0.0)

        return self._answered(plan, self._binding(plan), answer, nobody, min_revision, deadline)

    def _binding(self, plan: Plan) -> _Binding:
        """How the plan is bound. What takes long for a long plan and needs no lock is done at once."""
        encoded = plan.encode()
        return _Binding(
            lambda account, read: self._executor.bind(plan, encoded, account, read),
            is_kept=self._executor.has_bound(plan, encoded),
        )

    def _binding_template(self, plan: Plan) -> _Binding:
        return _Binding(
            lambda account, read: self._executor.bind_template(plan, account, read),
            is_kept=self._executor.has_bound(plan, None),
        )

    def _answered(
        self,
        plan: Plan,
        binding: _Binding,
        answer: Callable[[BoundPlan, int, Read], A],
        nobody: Callable[[int], A],
        min_revision: int,
        deadline: float | None,
    ) -> A:
        """What `answer` makes of the bound plan and the revision it is answered at; `nobody`, of the
        revision, for an account without data.
        """
        self._await(min_revision, deadline)
        try:
            with (
                nullcontext() if binding.is_kept else compiled_patterns(plan, deadline),
                self._read(deadline, plan.account) as (account, read),
            ):
                revision = self._state.position
                if account is None:
                    return nobody(revision)
                return answer(binding.bind(account, read), revision, read)
        except AccountForgotten:
            return nobody(self._state.position)


def nobody_of(
    plan: Plan, ask: Ask[Answer], partitions: PartitionSet, revision: int
) -> Counts | MemberPage | Containment:
    """The answer for an account without data."""
    match ask:
        case Count():
            fraction = 1.0 if partitions is None else len(set(partitions)) / PARTITION_COUNT
            return Counts((0,) * len(plan.roots), revision, fraction)
        case Members():
            return MemberPage((), "", revision)
        case Contains():
            return Containment(((False,) * len(plan.roots),) * len(ask.user_ids), revision)
        case _:
            raise TypeError(f"no question about a plan: {ask!r}")
