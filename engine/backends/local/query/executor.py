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

import copy
import functools
import itertools
import math
import time
from collections import Counter
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
from engine.backends.local.account.watches import ChangedUsers
from engine.backends.local.events import BRIEF_USERS_MAX, TakesLong
from engine.backends.local.query.predicates import STEP_US, EmptyPredicate, Predicate, moved, resolve
from engine.backends.local.storage.bitmaps import bitmap_of, ids_of
from engine.backends.local.storage.name_table import Names
from engine.backends.local.storage.turns import Read
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRefs
from engine.backends.local.users.directory import by_group
from engine.backends.local.users.hash_table import UNKNOWN
from engine.bounded_cache import BoundedCache, held_bytes
from engine.errors import InvalidInput
from engine.plan.costs import CostModel
from engine.plan.model import Difference, Intersection, Plan, Source, Step, Union, encode_step, operands_of
from engine.values import PARTITION_COUNT

NARROW_SHARE = 4
"""A predicate is evaluated for single users only when they are fewer than a fourth of their group."""

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


class BoundPlan:
    """A plan with names resolved to the store's numbers. Valid until a name comes or is forgotten."""

    def __init__(self, plan: Plan, account: Account, version: int, pause: Callable[[], None]) -> None:
        """`version`: that of the names."""
        self.plan = plan
        self.version = version
        self.account = account
        self.steps = plan.steps
        self.roots = plan.roots
        self.predicates: list[Predicate | None] = []
        self.encoded: list[bytes] = []
        self.costs: list[float] = []
        self._model = CostModel()
        uses = Counter(operand for step in plan.steps for operand in operands_of(step))
        uses.update(plan.roots)
        self.shared = [uses[index] > 1 for index in range(len(plan.steps))]
        for step in plan.steps:
            self._add(step)
            pause()
        self.searches = any(each is not None and each.searches for each in self.predicates)

    def moved_to(self, plan: Plan) -> BoundPlan | None:
        """A plan of the same template as of another instant, bound by resolving what differs. None when it
        has another form.
        """
        if plan.roots is not self.roots or len(plan.steps) != len(self.steps):
            return None
        pairs = zip(plan.steps, self.steps, strict=True)
        others = [index for index, (step, before) in enumerate(pairs) if step is not before]
        if not others:
            return self
        if any(operands_of(plan.steps[index]) or operands_of(self.steps[index]) for index in others):
            return None
        found = copy.copy(self)
        found.plan, found.steps = plan, plan.steps
        # Estimated costs hardly depend on the instant; they only order the operands of a step.
        found.predicates, found.encoded = list(self.predicates), list(self.encoded)
        for index in others:
            # Without a name: as of another instant it is never asked again, so it is not worth caching.
            predicate = self.predicates[index]
            assert predicate is not None
            found.predicates[index] = moved(self.account, predicate, self.steps[index], plan.steps[index])
            found.encoded[index] = b""
        return found

    def _add(self, step: Step) -> None:
        predicate, encoded = self._resolved(step)
        self.predicates.append(predicate)
        self.encoded.append(encoded)
        cost = self._model.add(step).cost
        # An unknown name: nothing is cheaper or removes more users.
        self.costs.append(0.0 if isinstance(predicate, EmptyPredicate) else cost)

    def _resolved(self, step: Step) -> tuple[Predicate | None, bytes]:
        predicate = resolve(self.account, step)
        return predicate, encode_step(step) if predicate is not None and predicate.cacheable else b""


class GroupRun:
    """One execution of a plan over one group."""

    def __init__(self, plan: BoundPlan, group: int, base: BitMap | None, read: Read) -> None:
        self._plan = plan
        self._group = group
        self._base = base
        self._read = read
        self._narrow_below = plan.account.directory.counts[group] // NARROW_SHARE
        self._memo: dict[int, BitMap] = {}
        self.cached: set[int] = set()

    def users(self, index: int) -> BitMap:
        """The users of a step, within the base. Do not modify the result."""
        found = self.step(index, self._base)
        return found if self._base is None else found & self._base

    def sets(self, indexes: Sequence[int]) -> list[BitMap]:
        """The users of some steps."""
        return [self.users(index) for index in indexes]

    def step(self, index: int, restriction: BitMap | None) -> BitMap:
        """A step's users, exact within the restriction, which lies within the base."""
        found = self._memo.get(index)
        if found is not None:
            return found
        if self._plan.shared[index]:
            found = self._memo[index] = self._answer(index, self._base)
            return found
        return self._answer(index, restriction)

    def _answer(self, index: int, restriction: BitMap | None) -> BitMap:
        self._read.pause()
        step = self._plan.steps[index]
        match step:
            case Intersection():
                return self._intersection(self._ordered(step.operands), restriction)
            case Union():
                return self._union(step.operands, restriction)
            case Difference():
                minuend = self._within(self.step(step.minuend, restriction), restriction)
                return minuend - self.step(step.subtrahend, minuend) if minuend else minuend
            case _:
                return self._source(step, index, restriction)

    def _ordered(self, operands: Sequence[int]) -> list[int]:
        return sorted(operands, key=lambda i: 0 if i in self._memo else self._plan.costs[i])

    def _intersection(self, operands: Sequence[int], restriction: BitMap | None) -> BitMap:
        running = restriction
        for operand in operands:
            found = self.step(operand, running)
            running = found if running is None else running & found
            if not running:
                break
        return BitMap() if running is None else running

    def _union(self, operands: Sequence[int], restriction: BitMap | None) -> BitMap:
        running = BitMap(optimize=False)
        for operand in operands:
            running |= self.step(operand, restriction)
        return running

    def _within(self, users: BitMap, restriction: BitMap | None) -> BitMap:
        return users if restriction is None else users & restriction

    def _source(self, step: Source, index: int, restriction: BitMap | None) -> BitMap:
        predicate = self._plan.predicates[index]
        assert predicate is not None
        cache, group = self._plan.account.cache, self._group
        encoded = self._plan.encoded[index]
        if encoded:
            found = cache.find(group, encoded, predicate.reads(group))
            if found is not None:
                self.cached.add(index)
                return found
        if restriction is not None and len(restriction) <= min(self._narrow_below, predicate.narrow_max):
            return predicate.among(group, restriction, self._read)
        began = cache.instant()
        users = predicate.everyone(group, self._read)
        if encoded:
            spread = self._plan.account.directory.counts[group]
            cache.add(group, encoded, users, spread, began)
        return users

    def trace(self, index: int) -> BitMap:
        """Answers a step for the whole base and caches it."""
        self._memo[index] = found = self._answer(index, self._base)
        return found


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
        # No other object has this id while the cached plan holds these roots.
        kept = self._templates.get(id(plan.roots))
        moved = kept.moved_to(plan) if kept is not None and kept.account is account else None
        if moved is None:
            moved = BoundPlan(plan, account, version, read.pause)
            if self._names.version == version:
                self._templates.put(id(plan.roots), moved, held_bytes(len(plan.encode()), plan))
        return moved

    def _forget_after_new_names(self) -> int:
        """Drops the plans when names have come or gone. Returns the version of the names."""
        version = self._names.version
        if self._names_version != version:
            self._bound.clear()
            self._templates.clear()
            self._names_version = version
        return version

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
        """The sets of these steps, with the users that changed answered again, until none of them changed
        while being answered.
        """
        late = changed.take(group)
        round_ = 0
        while late and not changed.are_all:
            # Copies, before others go on: a set of the index changes with users that were answered.
            settled = [users - late for users in sets]
            with read.keeping_lock() if round_ >= ROUNDS_MAX else nullcontext():
                plan = self.renewed(plan, read)
                within = base()
                some = late if within is None else late & within
                found = GroupRun(plan, group, some, read).sets(indexes)
            sets = [users | more for users, more in zip(settled, found, strict=True)]
            late = changed.take(group) & late
            round_ += 1
        return sets

    # --- questions ----------------------------------------------------------------------------------------

    def count(self, plan: BoundPlan, partitions: PartitionSet, revision: int, read: Read) -> Counts:
        """The size of every root."""
        sizes = [0] * len(plan.roots)
        chosen = _chosen(partitions)
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


def encode_after(group: int, dense: int) -> str:
    """A position in the order of members, as an opaque string."""
    return f"{group:02x}{dense:08x}"


def _decode_after(after: str) -> tuple[int, int]:
    try:
        if len(after) != AFTER_LENGTH:
            raise ValueError(after)
        return int(after[:2], 16), int(after[2:], 16)
    except ValueError as error:
        raise InvalidInput.one("after", "not an `after` of this backend") from error


AFTER_LENGTH = 10


def after_group(after: str) -> int:
    """The group to continue in. Raises InvalidInput for a string that is no `after`."""
    return _decode_after(after)[0] if after else 0


def member_page(
    account: Account, ask: Members, groups: Iterable[tuple[int, BitMap]], revision: int, read: Read
) -> MemberPage:
    """Up to `ask.limit` members just after `ask.after`, in order of group and dense id. Users that are erased
    while the page is made are left out.
    """
    if ask.limit is not None and ask.limit < 1:
        raise InvalidInput.one("limit", "a page has at least one member")
    skip_group, skip_through = _decode_after(ask.after) if ask.after else (-1, 0)
    user_ids: list[str] = []
    room = ask.limit
    after = ""
    for group, users in groups:
        start = users.rank(skip_through) if group == skip_group else 0
        end = len(users) if room is None else min(len(users), start + room)
        if start < end:
            # A copy: the set may be one of the index, which changes in place.
            page = users[start:end]
            user_ids += _ids_of(account, group, page, read)
            after = encode_after(group, page.max())
            room = None if room is None else room - len(page)
        if room == 0 and end < len(users):
            return MemberPage(tuple(user_ids), after, revision)
    return MemberPage(tuple(user_ids), "", revision)


def _ids_of(account: Account, group: int, users: BitMap, read: Read) -> list[str]:
    found: list[str] = []
    dense = ids_of(users).tolist()
    for start in range(0, len(dense), IDS_READ_AT_ONCE):
        ids = account.directory.user_ids(group, dense[start : start + IDS_READ_AT_ONCE])
        found += filter(None, ids)
        read.pause()
    return found
