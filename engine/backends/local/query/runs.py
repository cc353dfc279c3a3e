"""One execution of a plan: over one group, or over all users at once.

A run over one group works on the sets that are stored. A run over everyone works on ordinals: a step is one
set operation, whatever the number of groups, and a predicate that is cached is one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyroaring import BitMap

from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.predicates import Predicate
from engine.backends.local.query.shared_answers import SharedAnswers
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.turns import Read
from engine.plan.model import Difference, Intersection, Union, encode_step

NARROW_SHARE = 4
"""A predicate is evaluated for single users only when they are fewer than a fourth of those asked about."""


class Run:
    """One execution of a plan over the users of `base`; None = all it is about."""

    def __init__(self, plan: BoundPlan, count: int, base: BitMap | None, read: Read) -> None:
        """`count`: the dense ids it is about."""
        self._plan = plan
        self._base = base
        self._read = read
        self._narrow_below = count // NARROW_SHARE
        self._memo: dict[int, BitMap] = {}
        self.cached: set[int] = set()
        """Steps that were found in the cache."""

    def users(self, index: int) -> BitMap:
        """The users of a step, within the base. Do not modify the result."""
        for landing in self._plan.landings:
            self.step(landing, self._base)
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
                return self._source(index, restriction)

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

    def _source(self, index: int, restriction: BitMap | None) -> BitMap:
        predicate = self._plan.predicates[index]
        assert predicate is not None
        found = self._cached(predicate, index)
        if found is not None:
            self.cached.add(index)
            return found
        if restriction is not None and self._is_narrow(predicate, restriction):
            return self._among(predicate, restriction)
        return self._everyone(predicate, index)

    def _is_narrow(self, predicate: Predicate, users: BitMap) -> bool:
        """Whether asking for these users alone takes less than asking for everyone."""
        return len(users) <= min(self._narrow_below, predicate.narrow_max)

    def trace(self, index: int) -> BitMap:
        """Answers a step for the whole base and caches it."""
        self._memo[index] = found = self._answer(index, self._base)
        return found

    # --- what a run over one group and one over everyone do differently ---

    def _cached(self, predicate: Predicate, index: int) -> BitMap | None:
        raise NotImplementedError

    def _among(self, predicate: Predicate, users: BitMap) -> BitMap:
        raise NotImplementedError

    def _everyone(self, predicate: Predicate, index: int) -> BitMap:
        """Answers for everyone, and caches the answer."""
        raise NotImplementedError


class GroupRun(Run):
    """One execution over one group; sets are of dense ids."""

    def __init__(self, plan: BoundPlan, group: int, base: BitMap | None, read: Read) -> None:
        super().__init__(plan, plan.account.directory.counts[group], base, read)
        self._group = group

    def _cached(self, predicate: Predicate, index: int) -> BitMap | None:
        encoded = self._plan.encoded[index]
        if not encoded or not predicate.cacheable:
            return None
        reads, family = predicate.reads(self._group), self._plan.family(index)
        return self._plan.account.cache.find(self._group, encoded, reads, family)

    def _among(self, predicate: Predicate, users: BitMap) -> BitMap:
        return predicate.among(self._group, users, self._read)

    def _everyone(self, predicate: Predicate, index: int) -> BitMap:
        account, group = self._plan.account, self._group
        encoded = self._plan.encoded[index]
        began = account.cache.instant()
        users = predicate.everyone(group, self._read)
        if encoded and predicate.cacheable:
            spread = account.directory.counts[group]
            account.cache.add(group, encoded, users, spread, began, self._plan.family(index))
        return users


class WholeRun(Run):
    """One execution over all groups at once; sets are of ordinals. Every answer is cached, also one that a
    group has ready: there are as many of these as groups.
    """

    def __init__(self, plan: BoundPlan, ordinals: Ordinals, base: BitMap | None, read: Read) -> None:
        super().__init__(plan, sum(plan.account.directory.counts), base, read)
        self._ordinals = ordinals

    def _cached(self, predicate: Predicate, index: int) -> BitMap | None:
        encoded = self._plan.encoded[index]
        reads = predicate.reads_of_all(self._ordinals.groups)
        if not encoded or not reads:
            return None
        return self._plan.account.cache.find(self._ordinals.place, encoded, reads, self._plan.family(index))

    def _is_narrow(self, predicate: Predicate, users: BitMap) -> bool:
        # What is quickly joined is joined, to be kept for the next question.
        return not predicate.is_quick and super()._is_narrow(predicate, users)

    def _among(self, predicate: Predicate, users: BitMap) -> BitMap:
        return predicate.among_all(self._ordinals, users, self._read)

    def _everyone(self, predicate: Predicate, index: int) -> BitMap:
        cache = self._plan.account.cache
        encoded, ordinals = self._plan.encoded[index], self._ordinals
        began = cache.instant()
        users = predicate.everyone_of_all(ordinals, self._read)
        if encoded and predicate.reads_of_all(ordinals.groups):
            cache.add(ordinals.place, encoded, users, ordinals.size, began, self._plan.family(index))
        return users


class SharedRun(Run):
    """One execution for a few users, as ordinals, by answers that the plans of a round share."""

    def __init__(self, plan: BoundPlan, shared: SharedAnswers, base: BitMap, read: Read) -> None:
        super().__init__(plan, len(base), base, read)
        self._shared = shared

    def _source(self, index: int, restriction: BitMap | None) -> BitMap:
        predicate = self._plan.predicates[index]
        assert predicate is not None
        name = self._plan.encoded[index] or encode_step(self._plan.steps[index])
        return self._shared.once(name, lambda: predicate.among_shared(self._shared, self._read))
