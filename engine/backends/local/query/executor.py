"""Plan execution: set algebra, group by group.

A step is answered for a *restriction*: a set of users outside of which the answer has no meaning, or None for
everyone. Steps with several consumers, and roots, are answered once for the whole base and cached for the
execution. A step with a single consumer may be asked only for users that are still undecided.

**One state for each user.** An execution pauses and lets others write (`Read`), so it may read the data of
one user from several states. It therefore watches who changes (`Watches`). A user is decided from that user's
data alone, so for everyone else the answer is that of any state within the execution. A user that changed
while being answered is answered again, and again if it changed meanwhile. This ends: a round has few users,
and after `ROUNDS_MAX` of them the lock is kept. So the roots of a plan never contradict each other for a
user, and sizes add up as sets do. Each user's state is at or after the revision of the answer, which is read
first. Two users may be answered from different states: of a batch that arrives meanwhile, some may count.

This holds for bitmaps of the index itself, which answers refer to: they change in place, but only for users
that are answered again. An erased user counts as changed and is then in no set; its dense id is not given
again. What a removed name had numbered has no users. Cached sets carry the instant at which their computation
began, so that a change during it invalidates them. A retention that removes events may concern everyone, and
the group is answered anew.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress

import numpy as np
from pyroaring import BitMap

from engine.backends.base import (
    Block,
    Containment,
    Contains,
    Counts,
    MemberPage,
    Members,
    PartitionSet,
    StepTrace,
    Trace,
)
from engine.backends.local.account.account import Account
from engine.backends.local.account.people import People
from engine.backends.local.account.watches import ChangedUsers
from engine.backends.local.events import BRIEF_USERS_MAX
from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.member_order import after_group, cut_page
from engine.backends.local.query.predicates import STEP_US
from engine.backends.local.query.runs import GroupRun, WholeRun
from engine.backends.local.storage.bitmaps import bitmap_of, ids_of
from engine.backends.local.storage.name_table import Names
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.turns import Read, TakesLong
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRefs
from engine.backends.local.users.directory import by_group
from engine.backends.local.users.hash_table import UNKNOWN
from engine.bounded_cache import BoundedCache, held_bytes
from engine.errors import InvalidInput
from engine.plan.model import Plan
from engine.values import PARTITION_COUNT

PLAN_CACHE_BYTES_MAX = 32 << 20
"""Plans kept with their names resolved, in bytes of memory."""

TEMPLATE_CACHE_BYTES_MAX = 16 << 20
"""The same for plans of checks."""

BLOCKS_MAX = 4
"""Groups of a sample whose halves are counted separately."""

ROUNDS_MAX = 8
"""Rounds for users that changed while being answered, before the last few are answered at one instant."""

BRIEF_ANSWERS_MAX = 1_024
"""Users times steps up to which users are checked with the lock held."""

USERS_FOUND_AT_ONCE = 1_024
IDS_READ_AT_ONCE = 1_024
"""Users whose refs or ids are looked up before others go first: about a millisecond."""


class Executor:
    """Executes plans. The caller holds the state lock, which `read` shares, and passes the revision."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._names_version = names.version
        self._bound: BoundedCache[bytes, BoundPlan] = BoundedCache("plans", PLAN_CACHE_BYTES_MAX)
        self._templates: BoundedCache[int, BoundPlan] = BoundedCache(
            "bound plans of checks", TEMPLATE_CACHE_BYTES_MAX
        )

    def bind(self, plan: Plan, encoded: bytes, account: Account, read: Read) -> BoundPlan:
        """The plan with resolved names, cached until a name comes or is forgotten. `encoded` is its encoding,
        which takes long for a long plan and needs no lock.
        """
        version = self._forget_after_new_names()
        bound = self._bound.get(encoded)
        if bound is None:
            bound = BoundPlan(plan, account, version, read.pause)
            if self._names.version == version:
                self._bound.put(encoded, bound, held_bytes(len(encoded), plan))
        return bound

    def bind_template(self, plan: Plan, account: Account, read: Read) -> BoundPlan:
        """As `bind`, for a plan that is asked for again and again as of other instants: found by its `roots`,
        which plans of one template share, and bound by what differs from the last one.
        """
        version = self._forget_after_new_names()
        kept = self._kept_template(plan, account)
        moved = None if kept is None else kept.moved_to(plan)
        if moved is None:
            moved = BoundPlan(plan, account, version, read.pause)
            if self._names.version == version:
                self._templates.put(id(plan.roots), moved, held_bytes(len(plan.encode()), plan))
        return moved

    def bind_once(self, plan: Plan, account: Account, read: Read) -> BoundPlan:
        """As `bind`, for a plan that is not asked for again."""
        return BoundPlan(plan, account, self._names.version, read.pause)

    def kept_template(self, plan: Plan, account: Account) -> BoundPlan | None:
        """A plan of the same template, bound as of another instant; None when there is none."""
        self._forget_after_new_names()
        return self._kept_template(plan, account)

    def _kept_template(self, plan: Plan, account: Account) -> BoundPlan | None:
        # No other object has this id while the cached plan holds these roots.
        kept = self._templates.get(id(plan.roots))
        return kept if kept is not None and kept.account is account else None

    def _forget_after_new_names(self) -> int:
        """Drops the plans when names have come or gone. Returns the version of the names."""
        version = self._names.version
        if self._names_version != version:
            self._bound.clear()
            self._templates.clear()
            self._names_version = version
        return version

    def has_bound(self, plan: Plan, encoded: bytes | None) -> bool:
        """Whether the plan, by its encoding, or one of its template (None) is bound. Needs no lock."""
        return self._templates.has(id(plan.roots)) if encoded is None else self._bound.has(encoded)

    def renewed(self, plan: BoundPlan, read: Read) -> BoundPlan:
        """The plan as it is bound now: users that change may have brought new names."""
        if plan.version == self._names.version:
            return plan
        return BoundPlan(plan.plan, plan.account, self._names.version, read.pause)

    def work(self, plan: BoundPlan, read: Read) -> float:
        """Estimated microseconds of the plan over everyone, from one group: groups are alike, since a hash
        distributes users over them.
        """
        group = plan.account.directory.partitions.groups[0]
        works = []
        for each in plan.predicates:
            read.pause()
            works.append(STEP_US + (0.0 if each is None else each.work(group)))
        # An exact sum, independent of the order of steps.
        return math.fsum(works) * plan.account.groups

    # --- one state for each user --------------------------------------------------------------------------

    def roots(
        self, plan: BoundPlan, group: int, base: Callable[[], BitMap | None], read: Read
    ) -> list[BitMap]:
        """The users of every root in a group, each user answered from one state. `base` gives the users to
        restrict it to as of now; None = the whole group.
        """
        watches = plan.account.watches
        while True:
            with watches.watching() as changed:
                plan = self.renewed(plan, read)
                sets = GroupRun(plan, group, base(), read).sets(plan.roots)
                sets = self._answered_again(plan, plan.roots, group, base, sets, changed, read)
                if not changed.are_all:
                    return sets

    def roots_of_all(self, plan: BoundPlan, read: Read) -> tuple[Ordinals, list[BitMap]] | None:
        """The users of every root by ordinal, each user answered from one state. None: there are more
        ordinals than a set holds.
        """
        account = plan.account
        while True:
            ordinals = Ordinals(account.directory.counts)
            if not ordinals.hold(account.directory.counts):
                return None
            with account.watches.watching() as changed:
                plan = self.renewed(plan, read)
                sets = WholeRun(plan, ordinals, None, read).sets(plan.roots)
                sets = self._all_answered_again(plan, ordinals, sets, changed, read)
                # Users that came meanwhile may have no ordinal.
                if not changed.are_all and ordinals.hold(account.directory.counts):
                    return ordinals, sets

    def _answered_again(
        self,
        plan: BoundPlan,
        indexes: Sequence[int],
        group: int,
        base: Callable[[], BitMap | None],
        sets: list[BitMap],
        changed: ChangedUsers,
        read: Read,
    ) -> list[BitMap]:
        """The sets of these steps in a group, with the users that changed answered again."""

        def answer(late: BitMap) -> list[BitMap]:
            within = base()
            some = late if within is None else late & within
            return GroupRun(self.renewed(plan, read), group, some, read).sets(indexes)

        return _settled(sets, lambda: changed.take(group), answer, changed, read)

    def _all_answered_again(
        self, plan: BoundPlan, ordinals: Ordinals, sets: list[BitMap], changed: ChangedUsers, read: Read
    ) -> list[BitMap]:
        """The sets of the roots over all groups, with the users that changed answered again."""
        counts = plan.account.directory.counts

        def take() -> BitMap:
            if not changed.users or not ordinals.hold(counts):
                return BitMap()
            return ordinals.joined((group, changed.take(group)) for group in range(ordinals.groups))

        def answer(late: BitMap) -> list[BitMap]:
            return WholeRun(self.renewed(plan, read), ordinals, late, read).sets(plan.roots)

        return _settled(sets, take, answer, changed, read)

    # --- questions ----------------------------------------------------------------------------------------

    def count(self, plan: BoundPlan, partitions: PartitionSet, revision: int, read: Read) -> Counts:
        """The size of every root."""
        chosen = _chosen(partitions)
        whole = self.roots_of_all(plan, read) if chosen is None and plan.account.groups > 1 else None
        if whole is not None:
            return Counts(tuple(map(len, whole[1])), revision, 1.0)
        sizes = [0] * len(plan.roots)
        blocks: list[Block] = []
        for group, base in _bases(plan.account, chosen):
            sets = self.roots(plan, group, base, read)
            found = tuple(map(len, sets))
            if chosen is not None and len(blocks) < BLOCKS_MAX:
                halvings = plan.account.directory.halvings(group)
                blocks.append(Block(found, tuple(map(halvings.counts, sets))))
            sizes = [before + more for before, more in zip(sizes, found, strict=True)]
        fraction = 1.0 if chosen is None else len(chosen) / PARTITION_COUNT
        return Counts(tuple(sizes), revision, fraction, tuple(blocks))

    def members(
        self, plan: BoundPlan, ask: Members, partitions: PartitionSet, revision: int, read: Read
    ) -> MemberPage:
        """A page of the members of the first root."""
        pages = (
            (group, self.roots(plan, group, base, read)[0])
            for group, base in _bases(plan.account, _chosen(partitions), after_group(ask.after))
        )
        return member_page(plan.account, ask, pages, revision, read)

    def contains_one(self, plan: Plan, account: Account, user_id: str) -> tuple[bool, ...] | None:
        """For each root of a plan that is asked for again and again whether it contains a user. None: that
        takes long, or the plan is not bound yet.
        """
        self._forget_after_new_names()
        kept = self._kept_template(plan, account)
        if kept is None or len(kept.steps) > BRIEF_ANSWERS_MAX:
            return None
        ref = account.directory.find(user_id)
        if ref is None:
            return (False,) * len(plan.roots)
        try:
            return kept.one_user.answers(ref, plan)
        except TakesLong:
            return None

    def contains(
        self, plan: BoundPlan, ask: Contains, partitions: PartitionSet, revision: int, read: Read
    ) -> Containment:
        """The roots that contain each user."""
        users = len(ask.user_ids)
        if not plan.searches and users <= BRIEF_USERS_MAX and users * len(plan.steps) <= BRIEF_ANSWERS_MAX:
            with suppress(TakesLong), read.keeping_lock():
                return self._contains_briefly(plan, ask, partitions, revision, read)
        nowhere = (False,) * len(plan.roots)
        flags = [nowhere] * len(ask.user_ids)
        rows = np.arange(len(ask.user_ids))
        chosen = _chosen(partitions)
        for round_ in itertools.count():
            if not len(rows):
                break
            with (
                plan.account.watches.watching() as changed,
                read.keeping_lock() if round_ >= ROUNDS_MAX else nullcontext(),
            ):
                plan = self.renewed(plan, read)
                refs = _refs_of(plan.account, [ask.user_ids[row] for row in rows.tolist()], read)
                late = np.zeros(len(rows), np.bool_)
                for group in np.unique(refs[refs >= 0] >> GROUP_SHIFT).tolist():
                    here = np.flatnonzero(refs >> GROUP_SHIFT == group)
                    dense = refs[here] & DENSE_MASK
                    base = bitmap_of(np.unique(dense))
                    if chosen is not None:
                        base &= plan.account.directory.in_partitions(group, chosen)
                    sets = GroupRun(plan, group, base, read).sets(plan.roots)
                    for row, user in zip(rows[here].tolist(), dense.tolist(), strict=True):
                        flags[row] = tuple(user in users for users in sets)
                    gone = changed.take(group)
                    if changed.are_all:
                        late[here] = True
                    elif gone:
                        late[here] = [user in gone for user in dense.tolist()]
                # The id of a user that changed may name another user by now.
                rows = rows[late]
            for row in rows.tolist():
                flags[row] = nowhere
        return Containment(tuple(flags), revision)

    def _contains_briefly(
        self, plan: BoundPlan, ask: Contains, partitions: PartitionSet, revision: int, read: Read
    ) -> Containment:
        """As `contains`, with the lock held. Raises TakesLong when that would be too long."""
        refs = _refs_of(plan.account, ask.user_ids, read).tolist()
        chosen = _chosen(partitions)
        sets: dict[int, list[BitMap]] = {}
        for group, base in by_group(ref for ref in refs if ref >= 0).items():
            if chosen is not None:
                base &= plan.account.directory.in_partitions(group, chosen)
            # One state of the event tables for all steps.
            with plan.account.tables.reading():
                sets[group] = GroupRun(plan, group, base, read).sets(plan.roots)
        nowhere = (False,) * len(plan.roots)
        flags = tuple(
            nowhere if ref < 0 else tuple((ref & DENSE_MASK) in users for users in sets[ref >> GROUP_SHIFT])
            for ref in refs
        )
        return Containment(flags, revision)

    def trace(self, plan: BoundPlan, revision: int, read: Read) -> Trace:
        """Every step on its own, over every partition."""
        indexes = range(len(plan.steps))
        users = [0] * len(plan.steps)
        elapsed = [0.0] * len(plan.steps)
        looked_at = [0] * len(plan.steps)
        cached = [0] * len(plan.steps)
        for group in range(plan.account.groups):
            with plan.account.watches.watching() as changed:
                plan = self.renewed(plan, read)
                run = GroupRun(plan, group, None, read)
                sets = []
                for index in indexes:
                    begun, waited, seen = time.perf_counter(), read.waited, read.looked_at
                    sets.append(run.trace(index))
                    elapsed[index] += (time.perf_counter() - begun - (read.waited - waited)) * 1e6
                    looked_at[index] += read.looked_at - seen
                    cached[index] += index in run.cached
                sets = self._answered_again(plan, indexes, group, _everyone, sets, changed, read)
                users = [before + len(more) for before, more in zip(users, sets, strict=True)]
        steps = (
            StepTrace(users[i], max(0.0, elapsed[i]), _source(plan, i, cached[i]), looked_at[i])
            for i in indexes
        )
        return Trace(tuple(steps), revision)


def _settled(
    sets: list[BitMap],
    take: Callable[[], BitMap],
    answer: Callable[[BitMap], list[BitMap]],
    changed: ChangedUsers,
    read: Read,
) -> list[BitMap]:
    """The sets, with the users that changed answered again until none of them changed while being answered.
    `take` gives those that changed since it was last called.
    """
    late = take()
    round_ = 0
    while late and not changed.are_all:
        # Copies, before others go on: a set of the index changes with users that were answered.
        settled = [users - late for users in sets]
        with read.keeping_lock() if round_ >= ROUNDS_MAX else nullcontext():
            found = answer(late)
        sets = [users | more for users, more in zip(settled, found, strict=True)]
        late = take() & late
        round_ += 1
    return sets


def _source(plan: BoundPlan, index: int, groups_cached: int) -> str:
    if groups_cached == plan.account.groups:
        return "cached"
    predicate = plan.predicates[index]
    return "set" if predicate is None else predicate.source


def _refs_of(account: Account, user_ids: Sequence[str], read: Read) -> UserRefs:
    """The refs of users; negative for ids that name none."""
    if len(user_ids) == 1:
        ref = account.directory.find(user_ids[0])
        return np.array([UNKNOWN if ref is None else ref], np.int64)
    found = []
    for start in range(0, len(user_ids), USERS_FOUND_AT_ONCE):
        found.append(account.directory.find_many(user_ids[start : start + USERS_FOUND_AT_ONCE]))
        read.pause()
    return np.concatenate(found)


# --- partitions and pages -----------------------------------------------------------------------------------


def _chosen(partitions: PartitionSet) -> frozenset[int] | None:
    if partitions is None:
        return None
    chosen = frozenset(partitions)
    if not all(0 <= partition < PARTITION_COUNT for partition in chosen):
        raise InvalidInput.one("partitions", f"a partition is 0 to {PARTITION_COUNT - 1}")
    return None if len(chosen) == PARTITION_COUNT else chosen


def _bases(
    account: Account, chosen: frozenset[int] | None, first_group: int = 0
) -> Iterator[tuple[int, Callable[[], BitMap | None]]]:
    """The groups to read, each with the users to restrict it to as of now; None = the whole group."""
    directory = account.directory
    for group in range(first_group, account.groups):
        if chosen is None:
            yield group, _everyone
            continue
        partitions = directory.partitions.of_group(group)
        here = chosen & partitions
        if len(here) == len(partitions):
            yield group, _everyone
        elif here:
            yield group, functools.partial(directory.in_partitions, group, here)


def _everyone() -> None:
    return None


def member_page(
    account: People, ask: Members, groups: Iterable[tuple[int, BitMap]], revision: int, read: Read
) -> MemberPage:
    """Up to `ask.limit` members just after `ask.after`, in order of group and dense id. Users that are erased
    while the page is made are left out.
    """
    cut = cut_page(ask.after, ask.limit, groups)
    user_ids = [user_id for group, users in cut.users for user_id in _ids_of(account, group, users, read)]
    return MemberPage(tuple(user_ids), cut.after, revision)


def _ids_of(account: People, group: int, users: BitMap, read: Read) -> list[str]:
    found: list[str] = []
    dense = ids_of(users).tolist()
    for start in range(0, len(dense), IDS_READ_AT_ONCE):
        ids = account.directory.user_ids(group, dense[start : start + IDS_READ_AT_ONCE])
        found += filter(None, ids)
        read.pause()
    return found
