"""Executing plans over a cluster (`engine.backends.base.PlanExecutor`)."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import msgspec
import numpy as np

from engine.backends.base import (
    Answer,
    Ask,
    Block,
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
from engine.backends.clickhouse.gateway.account_rows import AccountRows
from engine.backends.clickhouse.gateway.member_order import decode_after, encode_after
from engine.backends.clickhouse.gateway.open_cluster import OpenCluster
from engine.backends.clickhouse.view import View
from engine.backends.local.query.executor import BLOCKS_MAX
from engine.backends.local.roles.plans import nobody_of
from engine.backends.local.users.halvings import Halvings
from engine.deadline import check_deadline
from engine.errors import InvalidInput
from engine.plan.model import EventMatch, Plan, SequenceMatch, Step, operands_of
from engine.values import PARTITION_COUNT

STEP_US = 20.0
"""Work of a step, whatever it is."""
USER_US = 0.2
"""Work of one user's facts."""
EVENT_US = 0.05
"""Work of one event that lies in the time of a step."""


class ClusterPlans(OpenCluster):
    """Executes plans."""

    def execute(
        self,
        plan: Plan,
        ask: Ask[Answer],
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Answer:
        """Answers `ask`, each user as of one revision, at least `min_revision`."""
        _check(ask, partitions)
        self._await(min_revision, deadline)
        check_deadline(deadline)
        with self._viewed(plan.account, deadline) as (account, view):
            if account is None:
                return cast(Answer, nobody_of(plan, ask, partitions, view.revision))
            found: Counts | MemberPage | Containment
            match ask:
                case Count():
                    found = self._counts(view, plan, partitions, deadline)
                case Members():
                    found = self._members(view, plan, ask, partitions, deadline)
                case Contains():
                    with self._locked(deadline):
                        canonical = tuple(map(account.directory.canonical, ask.user_ids))
                    found = self._plans.execute(
                        view, plan, Contains(canonical), partitions=partitions, deadline=deadline
                    )
                case _:
                    raise TypeError(f"no question about a plan: {ask!r}")
            return cast(Answer, found)

    def _counts(self, view: View, plan: Plan, partitions: PartitionSet, deadline: float | None) -> Counts:
        chosen = None if partitions is None else sorted(set(partitions))
        if chosen is None or len(chosen) == PARTITION_COUNT:
            return self._plans.execute(view, plan, Count(), deadline=deadline)
        found = self._plans.sizes_by_partition(view, plan, chosen, deadline)
        sizes = tuple(sum(each[root] for each in found.values()) for root in range(len(plan.roots)))
        blocks = tuple(
            _block(group, found, len(plan.roots))
            for group in itertools.islice(self._groups_of(chosen), BLOCKS_MAX)
        )
        return Counts(sizes, view.revision, len(chosen) / PARTITION_COUNT, blocks)

    def _groups_of(self, chosen: Collection[int]) -> Iterator[list[int]]:
        """The partitions of each group that is chosen as a whole."""
        order = self._store.partitions
        for group in range(self._store.groups):
            partitions = order.of_group(group)
            if partitions.issubset(chosen):
                yield sorted(partitions)

    def _members(
        self, view: View, plan: Plan, ask: Members, partitions: PartitionSet, deadline: float | None
    ) -> MemberPage:
        # One more than the page has says whether there is another page.
        more = None if ask.limit is None else ask.limit + 1
        page = self._plans.execute(
            view,
            plan,
            Members(decode_after(ask.after), more),
            partitions=partitions,
            deadline=deadline,
        )
        if ask.limit is None or len(page.user_ids) <= ask.limit:
            return MemberPage(page.user_ids, "", view.revision)
        user_ids = page.user_ids[: ask.limit]
        return MemberPage(user_ids, encode_after(user_ids[-1]), view.revision)

    def trace(self, plan: Plan, *, min_revision: int = 0, deadline: float | None = None) -> Trace:
        """Counts the users of every step by one statement, whose time is divided among the steps that read
        data.
        """
        began = time.monotonic()
        whole = msgspec.structs.replace(plan, roots=tuple(range(len(plan.steps))))
        counts = self.execute(whole, Count(), min_revision=min_revision, deadline=deadline)
        sources = [not operands_of(step) for step in plan.steps]
        each_us = (time.monotonic() - began) * 1e6 / max(1, sum(sources))
        steps = (
            StepTrace(size, each_us, "scan", 0) if is_source else StepTrace(size, 0.0, "set", 0)
            for size, is_source in zip(counts.sizes, sources, strict=True)
        )
        return Trace(tuple(steps), counts.revision)

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """Number of users that belong to the inputs, and the estimated time of counting the plan's roots over
        everyone, by the numbers of users and events.
        """
        self._await(min_revision, deadline)
        check_deadline(deadline)
        with self._locked(deadline):
            account = self._state.find_account(plan.account)
            if account is None:
                return Outlook(0, 0.0)
            users, rows = account.directory.size(), self._cluster_state.rows.of(account.name)
            # An exact sum, independent of the order of steps.
            work = math.fsum(_work(step, users, rows) for step in plan.steps)
            return Outlook(account.universe_size(inputs), work)


def _work(step: Step, users: int, rows: AccountRows) -> float:
    if isinstance(step, EventMatch):
        ranges = [step.selection.time]
    elif isinstance(step, SequenceMatch):
        ranges = [selection.time for selection in step.steps]
    else:
        return STEP_US if operands_of(step) else STEP_US + USER_US * users
    length = max(1, rows.last_time - rows.first_time + 1)
    share = max(
        1.0 if span.start is None or span.end is None else min(1.0, (span.end - span.start) / length)
        for span in ranges
    )
    return STEP_US + EVENT_US * rows.events * share


def _block(partitions: Sequence[int], sizes: Mapping[int, Sequence[int]], roots: int) -> Block:
    nobody = (0,) * roots
    by_rank = np.array([sizes.get(partition, nobody) for partition in partitions], np.int64)
    halvings = Halvings(len(partitions))
    return Block(
        tuple(by_rank.sum(axis=0).tolist()), tuple(halvings.sums(by_rank[:, root]) for root in range(roots))
    )


def _check(ask: Ask[Answer], partitions: PartitionSet) -> None:
    if partitions is not None and not all(0 <= each < PARTITION_COUNT for each in partitions):
        raise InvalidInput.one("partitions", f"a partition is 0 to {PARTITION_COUNT - 1}")
    if isinstance(ask, Members) and ask.limit is not None and ask.limit < 1:
        raise InvalidInput.one("limit", "a page has at least one member")
    if isinstance(ask, Members):
        decode_after(ask.after)
