"""Executes plans over the rows of a view."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import cast

import msgspec

from engine.backends.base import (
    Answer,
    Ask,
    Containment,
    Contains,
    Count,
    Counts,
    MemberPage,
    Members,
    PartitionSet,
)
from engine.backends.clickhouse.cluster import Cluster, Rows
from engine.backends.clickhouse.fact_uses import FactUses
from engine.backends.clickhouse.query.compiler import ANYONE, Leaf, Scope, compile_plan, counted
from engine.backends.clickhouse.query.events import DECIMAL_BELOW, DECIMAL_LEAST, selected
from engine.backends.clickhouse.query.literals import all_of, any_of, one_of, one_of_integers, text
from engine.backends.clickhouse.query.mapped import from_events
from engine.backends.clickhouse.query.value_tests import (
    NEAR_MARGIN_METERS,
    Edge,
    EdgePassing,
    ValueTests,
    edge_key,
)
from engine.backends.clickhouse.tables import EVENTS
from engine.backends.clickhouse.view import View
from engine.criteria.model import Aggregate
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import Interval
from engine.errors import LimitExceeded
from engine.plan.model import Difference, Empty, EventMatch, Intersection, Plan, Source, Union
from engine.values import PARTITION_COUNT, partition_of

USERS_AT_ONCE = 10_000
"""Users that one statement asks about."""
UNDECIDED_AT_ONCE = 1_000
"""Users whom SQL leaves undecided, of one statement."""
NUMBERS_MAX = 1_000_000
"""Distinct numbers of these users that are read of one shard, to be added here."""
STEPS_IN_SQL_MAX = 8
"""Steps of a plan whose sizes the servers count by the steps."""
PATTERNS_MAX = 10_000
"""Patterns of bits of one shard whose steps are taken here."""
MEMBERS_AT_ONCE = 100_000
"""Members of one statement. Longer pages take several."""
EDGE_STRINGS_MAX = 10_000
"""Distinct strings at the edge of one test."""


class Plans:
    """Answers questions about plans. Each user is decided from the rows of one view."""

    def __init__(
        self, cluster: Cluster, uses: FactUses | None = None, promoted: Collection[str] = ()
    ) -> None:
        """`uses` counts what is asked over many users. `promoted` are the event attributes that have columns
        of their own on all servers that are read.
        """
        self._cluster, self._promoted = cluster, promoted
        self._uses = uses or FactUses()

    def execute(
        self,
        view: View,
        plan: Plan,
        ask: Ask[Answer],
        *,
        partitions: PartitionSet = None,
        deadline: float | None = None,
    ) -> Answer:
        """Answers as `PlanExecutor.execute` does, over the rows of a view."""
        if isinstance(ask, Contains):
            # The rows of some users are found by their key. That takes fewer queries than a base.
            view = msgspec.structs.replace(view, base=None)
        else:
            self._uses.note(plan)
        question = self._question(view, plan, partitions, deadline)
        answer: object
        match ask:
            case Count():
                answer = question.counts()
            case Members():
                answer = question.members(ask.after, ask.limit)
            case Contains():
                answer = question.containment(ask.user_ids)
            case _:
                raise TypeError(f"{ask!r} is no question")
        return cast(Answer, answer)

    def sizes_by_partition(
        self, view: View, plan: Plan, partitions: Sequence[int], deadline: float | None = None
    ) -> dict[int, list[int]]:
        """The size of each root in each of these partitions that has users."""
        self._uses.note(plan)
        return self._question(view, plan, partitions, deadline).sizes_by_partition()

    def flags(
        self, view: View, plan: Plan, partitions: PartitionSet = None, deadline: float | None = None
    ) -> Iterator[tuple[str, tuple[bool, ...]]]:
        """The users of some partitions that are in a root, each with a flag for each root. All of them are
        read by one statement.
        """
        self._uses.note(plan)
        return self._question(view, plan, partitions, deadline).flags()

    def _question(
        self, view: View, plan: Plan, partitions: PartitionSet, deadline: float | None
    ) -> _Question:
        return _Question(self._cluster, view, plan, partitions, deadline, self._promoted)


class _Question:
    """One plan over one view."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        plan: Plan,
        partitions: PartitionSet,
        deadline: float | None,
        promoted: Collection[str],
    ) -> None:
        self._cluster, self._view, self._plan = cluster, view, plan
        self._partitions = None if partitions is None else sorted(set(partitions))
        self._deadline = deadline
        self._folding = cluster.folding()
        self._passing: EdgePassing = {}
        self._compiled = compile_plan(plan, view, self._folding, promoted=promoted)
        if self._compiled.edges:
            self._passing = self._decide_edges(self._compiled.edges)
            self._compiled = compile_plan(plan, view, self._folding, self._passing, promoted)
        self._flags_of_patterns: dict[int, tuple[bool, ...]] = {}
        self._bit_of_step = {leaf.step: leaf.bit for leaf in self._compiled.leaves}

    # --- answers --------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Sizes of the roots."""
        is_small = len(self._plan.steps) <= STEPS_IN_SQL_MAX
        sizes = None if is_small else self._sizes_by_pattern()
        if sizes is None:
            sizes = self._sizes()
        fraction = 1.0 if self._partitions is None else len(self._partitions) / PARTITION_COUNT
        return Counts(sizes=sizes, revision=self._view.revision, fraction=fraction)

    def _sizes(self) -> tuple[int, ...]:
        """Counted by the servers."""
        roots = [f"countIf(s{root} AND NOT undecided)" for root in self._plan.roots]
        by_user = self._compiled.by_user(self._plan.roots, self._scope())
        statement = f"SELECT {', '.join([*roots, 'countIf(undecided)'])} FROM ({by_user})"
        sizes = [0] * len(roots)
        undecided = 0
        for ((*found, left),) in self._read(statement, self._partitions):
            sizes = [size + more for size, more in zip(sizes, found, strict=True)]
            undecided += left
        return self._with_undecided(sizes, undecided)

    def _sizes_by_pattern(self) -> tuple[int, ...] | None:
        """The servers count the users of each pattern of bits, and the steps are taken here: analysing them
        takes a server longer than all else. None when there are too many patterns.
        """
        bits = self._compiled.bits
        by_user = self._compiled.bits_by_user(self._scope())
        statement = (
            f"SELECT [{bits}], undecided, count() FROM ({by_user}) GROUP BY {bits}, undecided"
            f" LIMIT {PATTERNS_MAX + 1}"
        )
        sizes = [0] * len(self._plan.roots)
        undecided = 0
        for rows in self._read(statement, self._partitions):
            if len(rows) > PATTERNS_MAX:
                return None
            for words, is_undecided, users in rows:
                if is_undecided:
                    undecided += users
                    continue
                flags = self._flags_of_pattern(self._compiled.bits_of(words))
                sizes = [size + users * flag for size, flag in zip(sizes, flags, strict=True)]
        return self._with_undecided(sizes, undecided)

    def _with_undecided(self, sizes: Sequence[int], undecided: int) -> tuple[int, ...]:
        if undecided:
            for _, flags in self._undecided_users():
                sizes = [size + flag for size, flag in zip(sizes, flags, strict=True)]
        return tuple(sizes)

    def sizes_by_partition(self) -> dict[int, list[int]]:
        """Sizes of the roots by partition."""
        roots = [f"countIf(s{root} AND NOT undecided)" for root in self._plan.roots]
        columns = ", ".join(["p", *roots, "countIf(undecided)"])
        by_user = self._compiled.by_user(self._plan.roots, self._scope())
        found: dict[int, list[int]] = {}
        undecided = 0
        for rows in self._read(f"SELECT {columns} FROM ({by_user}) GROUP BY p", self._partitions):
            for p, *sizes, left in rows:
                found[p] = sizes
                undecided += left
        if undecided:
            for user, flags in self._undecided_users():
                sizes = found[partition_of(user)]
                found[partition_of(user)] = [size + flag for size, flag in zip(sizes, flags, strict=True)]
        return found

    def members(self, after: str, limit: int | None) -> MemberPage:
        """Users of the first root, by partition and then by the bytes of their ids."""
        found: list[str] = []
        is_end = False
        while not is_end and (limit is None or len(found) < limit):
            wanted = MEMBERS_AT_ONCE if limit is None else min(limit - len(found), MEMBERS_AT_ONCE)
            page = self._page(f"(s{self._plan.roots[0]} OR undecided)", after, wanted)
            is_end = len(page) < wanted
            decided = self._decided({user: words for user, words, undecided, _ in page if undecided})
            for user, _, undecided, flag in page:
                after = user
                if decided[user][0] if undecided else flag:
                    found.append(user)
        return MemberPage(tuple(found), "" if is_end else after, self._view.revision)

    def containment(self, user_ids: Sequence[str]) -> Containment:
        """For each user, which roots contain it."""
        flags: dict[str, tuple[bool, ...]] = {}
        for start in range(0, len(user_ids), USERS_AT_ONCE):
            some = sorted(set(user_ids[start : start + USERS_AT_ONCE]))
            flags.update(self._flags(some))
        none = (False,) * len(self._plan.roots)
        return Containment(tuple(flags.get(user, none) for user in user_ids), self._view.revision)

    def flags(self) -> Iterator[tuple[str, tuple[bool, ...]]]:
        """The users in some root, and their flags."""
        by_user = self._compiled.by_user(self._plan.roots, self._scope())
        some = any_of([*(f"s{root}" for root in self._plan.roots), "undecided"])
        statement = f"SELECT user, [{self._compiled.bits}], undecided FROM ({by_user}) WHERE {some}"
        return self._flags_by(statement, self._partitions)

    def _flags(self, users: Sequence[str]) -> Iterator[tuple[str, tuple[bool, ...]]]:
        by_user = self._compiled.bits_by_user(self._scope(Scope(_among(users), users)))
        statement = f"SELECT user, [{self._compiled.bits}], undecided FROM ({by_user})"
        return self._flags_by(statement, sorted({partition_of(user) for user in users}))

    def _flags_by(
        self, statement: str, partitions: Sequence[int] | None
    ) -> Iterator[tuple[str, tuple[bool, ...]]]:
        """The flags of the users that a statement has, with their bits."""
        for rows in self._read(statement, partitions):
            for user, words, undecided in rows:
                if not undecided:
                    yield user, self._flags_of_pattern(self._compiled.bits_of(words))
            open_ = {user: words for user, words, undecided in rows if undecided}
            yield from self._decided(open_).items()

    def _page(self, condition: str, after: str, limit: int) -> list[tuple[str, list[int], bool, bool]]:
        """(user, bits, undecided, in the first root) of users under a condition, in order, after a user."""
        scope = ANYONE
        if after:
            # The second condition is the first one again in a form that the primary key can serve.
            p = partition_of(after)
            scope = Scope(f"(p, user) > ({p}, {text(after)}) AND p >= {p}")
        by_user = self._compiled.by_user(self._plan.roots[:1], self._scope(scope))
        statement = (
            f"SELECT p, user, [{self._compiled.bits}], undecided, s{self._plan.roots[0]}"
            f" FROM ({by_user}) WHERE {condition} ORDER BY p, user LIMIT {limit}"
        )
        pages = self._read(statement, self._partitions)
        merged = heapq.merge(*pages, key=lambda row: (row[0], row[1].encode()))
        rows = [row for _, row in zip(range(limit), merged, strict=False)]
        return [(user, words, bool(undecided), bool(flag)) for _, user, words, undecided, flag in rows]

    # --- users whom SQL leaves undecided --------------------------------------------------------------------

    def _undecided_users(self) -> Iterator[tuple[str, tuple[bool, ...]]]:
        """Each of them with the flags of the roots."""
        after = ""
        while True:
            page = self._page("undecided", after, UNDECIDED_AT_ONCE)
            yield from self._decided({user: words for user, words, *_ in page}).items()
            if len(page) < UNDECIDED_AT_ONCE:
                return
            after = page[-1][0]

    def _decided(self, words: Mapping[str, Sequence[int]]) -> dict[str, tuple[bool, ...]]:
        """The flags of the roots for users, by user, with their bits given."""
        decided: dict[str, tuple[bool, ...]] = {}
        for start in range(0, len(words), UNDECIDED_AT_ONCE):
            bits = {
                user: self._compiled.bits_of(each)
                for user, each in itertools.islice(words.items(), start, start + UNDECIDED_AT_ONCE)
            }
            for leaf in self._compiled.leaves:
                self._decide(leaf, bits)
            decided.update((user, self._flags_of(each)) for user, each in bits.items())
        return decided

    def _decide(self, leaf: Leaf, bits: dict[str, int]) -> None:
        """Sets the bit of a predicate for those users whose numbers SQL does not add exactly."""
        if leaf.undecided_bit is None:
            return
        users = [user for user, each in bits.items() if each >> leaf.undecided_bit & 1]
        step = self._plan.steps[leaf.step]
        if not users or not isinstance(step, EventMatch):
            return
        for user, (total, count) in self._sums(step, users).items():
            number = total / count if step.aggregate is Aggregate.AVERAGE else total
            passes = any(_holds_exactly(interval, number) for interval in step.intervals)
            bits[user] = bits[user] & ~(1 << leaf.bit) | passes << leaf.bit

    def _sums(self, step: EventMatch, users: Sequence[str]) -> dict[str, tuple[Fraction, int]]:
        """The exact sum and the count of numbers of users."""
        chosen = selected(step.selection, ValueTests(self._folding, self._passing), EVENTS)
        key = text(step.of)
        where = all_of([_among(users), chosen, f"mapContains(numbers, {key})"])
        rows_of = from_events(self._read_view, counted(self._view, EVENTS), where, users)
        statement = (
            f"SELECT user, numbers[{key}] AS x, count() {rows_of} GROUP BY user, x LIMIT {NUMBERS_MAX + 1}"
        )
        sums: dict[str, tuple[Fraction, int]] = {}
        for rows in self._read(statement, map(partition_of, users)):
            if len(rows) > NUMBERS_MAX:
                raise LimitExceeded(
                    f"{UNDECIDED_AT_ONCE} users have more than {NUMBERS_MAX} numbers of {step.of!r}, some of"
                    f" them not between {DECIMAL_LEAST:g} and {DECIMAL_BELOW:g}: too many to add exactly"
                )
            for user, number, times in rows:
                total, count = sums.get(user, (Fraction(0), 0))
                sums[user] = total + Fraction(repr(number)) * times, count + times
        return sums

    def _flags_of_pattern(self, bits: int) -> tuple[bool, ...]:
        """The flags of the roots for users with these bits, taken once."""
        found = self._flags_of_patterns.get(bits)
        if found is None:
            found = self._flags_of_patterns[bits] = self._flags_of(bits)
        return found

    def _flags_of(self, bits: int) -> tuple[bool, ...]:
        """The flags of the roots for a user with these bits."""
        truths: list[bool] = []
        for number, step in enumerate(self._plan.steps):
            match step:
                case Intersection():
                    holds = all(truths[operand] for operand in step.operands)
                case Union():
                    holds = any(truths[operand] for operand in step.operands)
                case Difference():
                    holds = truths[step.minuend] and not truths[step.subtrahend]
                case _:
                    holds = self._source(step, number, bits)
            truths.append(holds)
        return tuple(truths[root] for root in self._plan.roots)

    def _source(self, step: Source, number: int, bits: int) -> bool:
        """Whether a step that data answers holds for a user with these bits. An empty one has no bit."""
        return not isinstance(step, Empty) and bool(bits >> self._bit_of_step[number] & 1)

    # --- statements -----------------------------------------------------------------------------------------

    def _decide_edges(self, edges: Iterable[Edge]) -> EdgePassing:
        """Reads the strings that SQL cannot decide, and decides them."""
        passing: dict[bytes, set[str]] = {}
        for edge in edges:
            where = all_of([self._scope().condition, edge.condition])
            own = counted(self._view, edge.table)
            rows_of = f"FROM {edge.table} WHERE {all_of([own, where])}"
            if edge.table == EVENTS:
                rows_of = from_events(self._read_view, own, where)
            rows = f"SELECT arrayJoin({edge.strings}) AS x {rows_of}"
            statement = f"SELECT DISTINCT x FROM ({rows}) WHERE {edge.is_close} LIMIT {EDGE_STRINGS_MAX + 1}"
            strings = {row[0] for rows in self._read(statement, self._partitions) for row in rows}
            if len(strings) > EDGE_STRINGS_MAX:
                raise LimitExceeded(
                    f"more than {EDGE_STRINGS_MAX} different places lie within {NEAR_MARGIN_METERS} m of the"
                    " edge of a circle: choose another distance"
                )
            passes = matcher_of(edge.test).passes
            passing.setdefault(edge_key(edge.test), set()).update(filter(passes, strings))
        return {key: sorted(strings) for key, strings in passing.items()}

    def _scope(self, scope: Scope = ANYONE) -> Scope:
        """A scope, within the partitions of the question."""
        if self._partitions is None:
            return scope
        within = all_of([scope.condition, one_of_integers("p", self._partitions)])
        return Scope(within, scope.users)

    @property
    def _read_view(self) -> View:
        """The view, with those tables of others alone that the plan reads."""
        return msgspec.structs.replace(self._view, mapped=self._compiled.mapped)

    def _read(self, statement: str, partitions: Iterable[int] | None) -> list[Rows]:
        mapped = self._compiled.mapped
        return self._cluster.read(statement, partitions, deadline=self._deadline, mapped=mapped)


def _among(users: Sequence[str]) -> str:
    partitions = sorted({partition_of(user) for user in users})
    return all_of([one_of_integers("p", partitions), one_of("user", users)])


def _holds_exactly(interval: Interval, total: Fraction) -> bool:
    """Whether an interval holds a number; its bounds mean their shortest decimal forms."""
    low = None if interval.low is None else Fraction(repr(interval.low))
    high = None if interval.high is None else Fraction(repr(interval.high))
    above = low is None or total > low or (interval.low_included and total == low)
    below = high is None or total < high or (interval.high_included and total == high)
    return above and below
