"""Plan execution over one consistent state of the store: set algebra, group by group.

A step is answered for a *restriction*: a set of users outside of which the answer has no meaning, or None for
everyone. Steps with several consumers, and roots, are answered once for the whole base and cached for the
execution. A step with a single consumer may be asked only for users that are still undecided. Everything runs
with the state lock held, inside a session of the page cache.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence

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
from engine.backends.local.query.predicates import STEP_US, EmptyPredicate, Predicate, resolve
from engine.backends.local.storage.name_table import Names
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.errors import DeadlineExceeded, InvalidInput
from engine.plan.costs import CostModel
from engine.plan.model import Difference, Intersection, Plan, Source, Step, Union, encode_step, operands_of
from engine.values import PARTITION_COUNT

NARROW_SHARE = 4
"""A predicate is asked for some users only when they are fewer than a fourth of their group."""

BOUND_PLANS_MAX = 256

BLOCKS_MAX = 4
"""Groups of a sample whose halves are counted separately."""


class BoundPlan:
    """A plan with names resolved to the store's numbers. Valid until a new name gets a number."""

    def __init__(self, plan: Plan, account: Account, names_version: int) -> None:
        self.account = account
        self.names_version = names_version
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

    def _add(self, step: Step) -> None:
        predicate = resolve(self.account, step)
        self.predicates.append(predicate)
        self.encoded.append(encode_step(step) if predicate is not None and predicate.cacheable else b"")
        cost = self._model.add(step).cost
        # An unknown name: nothing is cheaper or removes more users.
        self.costs.append(0.0 if isinstance(predicate, EmptyPredicate) else cost)


class GroupRun:
    """One execution of a plan over one group."""

    def __init__(
        self, plan: BoundPlan, group: int, base: BitMap | None, deadline: float | None = None
    ) -> None:
        self._plan = plan
        self._group = group
        self._base = base
        self._deadline = deadline
        self._narrow_below = plan.account.directory.counts[group] // NARROW_SHARE
        self._memo: dict[int, BitMap] = {}
        self.cached: set[int] = set()

    def users(self, index: int) -> BitMap:
        """The users of a step, within the base. Do not modify the result."""
        found = self.step(index, self._base)
        return found if self._base is None else found & self._base

    def size(self, index: int) -> int:
        """Number of users of a step within the base. Does not build the set of an outermost intersection or
        difference.
        """
        step = self._plan.steps[index]
        if self._plan.shared[index] or index in self._memo:
            return len(self.users(index))
        if isinstance(step, Intersection):
            *first, last = self._ordered(step.operands)
            running = self._intersection(first, self._base)
            return running.intersection_cardinality(self.step(last, running)) if running else 0
        if isinstance(step, Difference):
            running = self._within(self.step(step.minuend, self._base), self._base)
            return running.difference_cardinality(self.step(step.subtrahend, running)) if running else 0
        return len(self.users(index))

    def block(self) -> Block:
        """The size of every root within the base, and of its part in each half of the group."""
        halvings = self._plan.account.directory.halvings(self._group)
        sets = [self.users(root) for root in self._plan.roots]
        return Block(tuple(map(len, sets)), tuple(map(halvings.counts, sets)))

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
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DeadlineExceeded("the deadline passed before the plan was executed")
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
        if predicate.cacheable:
            found = cache.find(group, self._plan.encoded[index], predicate.reads(group))
            if found is not None:
                self.cached.add(index)
                return found
        if restriction is not None and len(restriction) <= min(self._narrow_below, predicate.narrow_max):
            return predicate.among(group, restriction)
        users = predicate.everyone(group)
        if predicate.cacheable:
            spread = self._plan.account.directory.counts[group]
            cache.add(group, self._plan.encoded[index], users, spread)
        return users

    def trace(self, index: int) -> int:
        """Answers a step for the whole base and caches it. Returns the number of its users."""
        self._memo[index] = found = self._answer(index, self._base)
        return len(found)


class Executor:
    """Executes plans. The caller holds the state lock and passes the account and the revision."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._bound: OrderedDict[bytes, BoundPlan] = OrderedDict()

    def bind(self, plan: Plan, account: Account) -> BoundPlan:
        """The plan with resolved names, cached until a new name comes."""
        encoded = plan.encode()
        bound = self._bound.get(encoded)
        if bound is None or bound.names_version != self._names.version:
            bound = self._bound[encoded] = BoundPlan(plan, account, self._names.version)
            if len(self._bound) > BOUND_PLANS_MAX:
                self._bound.popitem(last=False)
        self._bound.move_to_end(encoded)
        return bound

    def work(self, plan: BoundPlan) -> float:
        """Estimated microseconds of the plan over everyone, from one group: groups are alike, since a hash
        distributes users over them.
        """
        group = plan.account.directory.partitions.groups[0]
        works = [STEP_US + (0.0 if each is None else each.work(group)) for each in plan.predicates]
        # An exact sum, independent of the order of steps.
        return math.fsum(works) * plan.account.groups

    def count(
        self, plan: BoundPlan, partitions: PartitionSet, revision: int, deadline: float | None
    ) -> Counts:
        """The size of every root."""
        sizes = [0] * len(plan.roots)
        chosen = _chosen(partitions)
        blocks: list[Block] = []
        for group, base in _bases(plan.account, chosen):
            run = GroupRun(plan, group, base, deadline)
            if chosen is not None and len(blocks) < BLOCKS_MAX:
                blocks.append(run.block())
                found: Iterable[int] = blocks[-1].sizes
            else:
                found = map(run.size, plan.roots)
            sizes = [before + more for before, more in zip(sizes, found, strict=True)]
        fraction = 1.0 if chosen is None else len(chosen) / PARTITION_COUNT
        return Counts(tuple(sizes), revision, fraction, tuple(blocks))

    def members(
        self,
        plan: BoundPlan,
        ask: Members,
        partitions: PartitionSet,
        revision: int,
        deadline: float | None,
    ) -> MemberPage:
        """A page of the members of the first root."""
        pages = (
            (group, GroupRun(plan, group, base, deadline).users(plan.roots[0]))
            for group, base in _bases(plan.account, _chosen(partitions), after_group(ask.after))
        )
        return member_page(plan.account, ask, pages, revision)

    def contains(
        self,
        plan: BoundPlan,
        ask: Contains,
        partitions: PartitionSet,
        revision: int,
        deadline: float | None,
    ) -> Containment:
        """The roots that contain each user."""
        find = plan.account.directory.find
        refs = [find(user_id) for user_id in ask.user_ids]
        chosen = _chosen(partitions)
        sets: dict[int, list[BitMap]] = {}
        for group in {ref >> GROUP_SHIFT for ref in refs if ref is not None}:
            base = BitMap([p & DENSE_MASK for p in refs if p is not None and p >> GROUP_SHIFT == group])
            if chosen is not None:
                base &= plan.account.directory.in_partitions(group, chosen)
            run = GroupRun(plan, group, base, deadline)
            sets[group] = [run.users(root) for root in plan.roots]
        nowhere = (False,) * len(plan.roots)
        flags = tuple(
            nowhere
            if ref is None
            else tuple((ref & DENSE_MASK) in users for users in sets[ref >> GROUP_SHIFT])
            for ref in refs
        )
        return Containment(flags, revision)

    def trace(self, plan: BoundPlan, revision: int, deadline: float | None) -> Trace:
        """Every step on its own, over every partition."""
        users = [0] * len(plan.steps)
        elapsed = [0.0] * len(plan.steps)
        looked_at = [0] * len(plan.steps)
        cached = [0] * len(plan.steps)
        for group, base in _bases(plan.account, None):
            run = GroupRun(plan, group, base, deadline)
            for index, predicate in enumerate(plan.predicates):
                begun = time.perf_counter()
                users[index] += run.trace(index)
                elapsed[index] += (time.perf_counter() - begun) * 1e6
                looked_at[index] += 0 if predicate is None else predicate.looked_at()
                cached[index] += index in run.cached
        steps = (
            StepTrace(users[i], elapsed[i], _source(plan, i, cached[i]), looked_at[i])
            for i in range(len(plan.steps))
        )
        return Trace(tuple(steps), revision)


def _source(plan: BoundPlan, index: int, groups_cached: int) -> str:
    if groups_cached == plan.account.groups:
        return "cached"
    predicate = plan.predicates[index]
    return "set" if predicate is None else predicate.source


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
) -> Iterator[tuple[int, BitMap | None]]:
    """The groups to read, each with the users to restrict it to; None = the whole group."""
    directory = account.directory
    for group in range(first_group, account.groups):
        if chosen is None:
            yield group, None
            continue
        partitions = directory.partitions.of_group(group)
        here = chosen & partitions
        if len(here) == len(partitions):
            yield group, None
        elif here:
            yield group, directory.in_partitions(group, here)


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
    account: Account, ask: Members, groups: Iterator[tuple[int, BitMap]], revision: int
) -> MemberPage:
    """Up to `ask.limit` members just after `ask.after`, in order of group and dense id."""
    if ask.limit is not None and ask.limit < 1:
        raise InvalidInput.one("limit", "a page has at least one member")
    skip_group, skip_through = _decode_after(ask.after) if ask.after else (-1, 0)
    user_ids: list[str] = []
    after = ""
    for group, users in groups:
        start = users.rank(skip_through) if group == skip_group else 0
        room = len(users) if ask.limit is None else ask.limit - len(user_ids)
        end = min(len(users), start + room)
        if start < end:
            page = users[start:end]
            user_ids += account.directory.user_ids(group, page)
            after = encode_after(group, page.max())
        if end < len(users):
            return MemberPage(tuple(user_ids), after, revision)
    return MemberPage(tuple(user_ids), "", revision)
