"""Plan → one statement for all its roots.

Each table that the plan reads is scanned once and grouped by user. Each predicate becomes a bit of its user's
row, `b0` and so on holding 64 each. The rows of the tables are united, and the steps are conditions over the
bits, `s0` for step 0 and so on. ClickHouse puts the expression of an alias wherever its name is, so steps
that many others build on are computed below these, in a query of their own.

With a base (`View.base`), only the later rows of `facts` and `seen` are grouped, and joined with the users'
rows in `profiles`. Rows that are in the base are not read, however many they are.

Events of tables of others (`View.mapped`) are united with those of `events`, before they are grouped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from engine.backends.clickhouse.mapped import MappedTable
from engine.backends.clickhouse.query import mapped as theirs
from engine.backends.clickhouse.query.cells import FACT, USER_ID, ProfileFact, profile_fact
from engine.backends.clickhouse.query.events import (
    ARRIVAL_ORDER,
    INT64_MAX,
    INT64_MIN,
    Named,
    aggregated,
    in_sequence,
    selected,
)
from engine.backends.clickhouse.query.folding import Folding
from engine.backends.clickhouse.query.literals import (
    FALSE,
    TRUE,
    all_of,
    any_of,
    int64,
    one_of,
    text,
    texts,
    uint64s,
)
from engine.backends.clickhouse.query.value_tests import Edge, EdgePassing, ValueTests, in_ranges
from engine.backends.clickhouse.tables import (
    BASES,
    CONSENT,
    EVENTS,
    FACTS,
    IDENTITY,
    PROFILES,
    SEEN,
    consent_key,
)
from engine.backends.clickhouse.view import Base, View
from engine.criteria.model import Equals
from engine.criteria.operators import ResolvedTest
from engine.errors import FailedPrecondition
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    IdentityMatch,
    Intersection,
    Plan,
    SeenMatch,
    SequenceMatch,
    Union,
    Universe,
    UserIdMatch,
    operands_of,
)
from engine.plan.visitor import StepVisitor
from engine.values import Micros

WORD_BITS = 64
_INPUTS_ALONE_MAX = 4
EXPRESSION_STEPS = (16, 64, 256)
"""Steps of one expression at most, those that it shares with others counted each time: the first of these by
which a plan takes no more than `QUERY_LEVELS_MAX` queries in each other. Small expressions are analysed
sooner.
"""
QUERY_LEVELS_MAX = 64
"""Queries in each other. A server's stack holds about two hundred."""
_SCOPE = "\0scope\0"
"""Stands for a condition on p and user. Literals have no NUL: they escape it."""
_ROW_COLUMNS = {EVENTS: ("time", "seq"), FACTS: ("time", "seq"), SEEN: ("first", "last")}
"""Columns that conditions name as they are."""


class Scope(NamedTuple):
    """The users that a statement is about."""

    condition: str = TRUE
    """On p and user."""
    users: Sequence[str] | None = None
    """Those that it allows at most; None: any."""


ANYONE = Scope()


class OfProfile(msgspec.Struct, frozen=True):
    """A predicate over a row of `profiles`: alone, and joined with the later rows of the user."""

    alone: str
    joined: str


class Leaf(msgspec.Struct, frozen=True):
    """A predicate over one table: the bits for its answer, and for users whom SQL cannot decide."""

    table: str
    step: int
    bit: int
    passes: str
    of_profile: OfProfile | None = None
    """The predicate over a base; none over events, or without a base."""
    undecided_bit: int | None = None
    is_undecided: str = FALSE


@dataclass(slots=True)
class _Scan:
    """What is read of a table: rows under one of `conditions`, with `columns` (name by expression)."""

    leaves: list[Leaf] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    """Aggregates over the rows of a user after the base (name by expression)."""


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as SQL."""

    plan: Plan
    view: View
    leaves: tuple[Leaf, ...]
    edges: tuple[Edge, ...]
    """Strings that have to be decided first; the statement is right with all of them in `passing`."""
    words: int
    steps: tuple[str, ...]
    levels: tuple[int, ...]
    """By step, how many queries lie below the one that computes it."""
    scans: tuple[str, ...]
    """Queries of rows (p, user, b0, …), one a user, with `_SCOPE` in them."""
    mapped: tuple[MappedTable, ...]
    """The tables of others that are read."""

    def bits_by_user(self, scope: Scope = ANYONE) -> str:
        """The statement without the steps: p, user, the bits and `undecided`. Users without any bit are
        missing.
        """
        undecided = any_of(
            bit_is_set(leaf.undecided_bit) for leaf in self.leaves if leaf.undecided_bit is not None
        )
        return f"SELECT p, user, {self.bits}, toUInt8({undecided}) AS undecided FROM ({self._united(scope)})"

    def by_user(self, roots: Iterable[int], scope: Scope = ANYONE) -> str:
        """The statement: p, user, the bits, `undecided`, and a flag for each root (`s` and its step). Users
        in no root may be missing.
        """
        asked = set(roots)
        needed = self._needed(asked)
        rows = self.bits_by_user(scope)
        for level in range(max((self.levels[step] for step in needed), default=0) + 1):
            flags = self._flags(level, needed, asked)
            rows = f"SELECT p, user, {self.bits}, undecided, {', '.join(flags)} FROM ({rows})"
        return rows

    def _needed(self, roots: set[int]) -> set[int]:
        """The steps that roots are made of."""
        needed = set(roots)
        for number in range(len(self.plan.steps) - 1, -1, -1):
            if number in needed:
                needed.update(operands_of(self.plan.steps[number]))
        return needed

    def _flags(self, level: int, needed: set[int], roots: set[int]) -> Iterator[str]:
        """The steps of a level, and those of levels below that are asked for above."""
        above = {
            operand
            for number in needed
            if self.levels[number] > level
            for operand in operands_of(self.plan.steps[number])
        }
        asked = above | roots
        for number in sorted(needed):
            at = self.levels[number]
            if at == level:
                yield f"toUInt8({self.steps[number]}) AS s{number}"
            elif at < level and number in asked:
                yield f"s{number}"

    @property
    def bits(self) -> str:
        """The columns with the bits."""
        return ", ".join(f"b{word}" for word in range(self.words))

    def bits_of(self, words: Sequence[int]) -> int:
        """The bits of a user as one number."""
        return sum(word << (WORD_BITS * number) for number, word in enumerate(words))

    def _united(self, scope: Scope) -> str:
        if not self.scans:
            none = ", ".join(f"toUInt64(0) AS b{word}" for word in range(self.words))
            return f"SELECT toUInt16(0) AS p, '' AS user, {none} WHERE 0"
        return _joined([self._scoped(scan, scope) for scan in self.scans], self.words)

    def _scoped(self, scan: str, scope: Scope) -> str:
        scan = scan.replace(_SCOPE, scope.condition)
        for each in self.mapped:
            scan = scan.replace(_rows_of(each), theirs.rows(self.view, each, scope.users))
        return scan


def _joined(queries: Sequence[str], words: int) -> str:
    """One row a user out of queries whose users may be the same."""
    if len(queries) == 1:
        return queries[0]
    ors = ", ".join(f"groupBitOr(u.b{word}) AS b{word}" for word in range(words))
    columns = f"any(u.p) AS p, u.user AS user, {ors}"
    return f"SELECT {columns} FROM ({' UNION ALL '.join(queries)}) AS u GROUP BY u.user"


def _rows_of(mapped: MappedTable) -> str:
    """Stands for the rows of a table of others."""
    return f"\0rows {mapped.source}\0"


def bit_is_set(bit: int) -> str:
    """Whether a bit of a user's row is set."""
    return f"bitTest(b{bit // WORD_BITS}, {bit % WORD_BITS})"


def _levels(plan: Plan) -> tuple[int, ...]:
    """By step, the query that computes it. Raises FailedPrecondition when the plan takes too many."""
    for steps_max in EXPRESSION_STEPS:
        levels = _levels_within(plan, steps_max)
        if max(levels, default=0) < QUERY_LEVELS_MAX:
            return levels
    raise FailedPrecondition(
        f"the criteria nest too deep for a cluster: they take more than {QUERY_LEVELS_MAX} queries in each "
        "other; name audiences over fewer levels, or make journeys of fewer milestones",
        reason="AUDIENCE_TOO_DEEP",
        metadata={"limit": str(QUERY_LEVELS_MAX)},
    )


def _levels_within(plan: Plan, steps_max: int) -> tuple[int, ...]:
    """By step, the query that computes it, such that no expression gets larger than `steps_max` when its
    aliases are replaced.
    """
    levels: list[int] = []
    sizes: list[int] = []
    for step in plan.steps:
        operands = operands_of(step)
        level = max((levels[operand] for operand in operands), default=0)
        size = 1 + sum(sizes[operand] if levels[operand] == level else 1 for operand in operands)
        if size > steps_max and operands:
            level, size = level + 1, 1 + len(operands)
        levels.append(level)
        sizes.append(size)
    return tuple(levels)


def compile_plan(
    plan: Plan,
    view: View,
    folding: Folding,
    passing: EdgePassing | None = None,
    promoted: Collection[str] = (),
) -> Compiled:
    """The plan as a statement over the rows that count. `passing` decides strings at the edges of tests.
    `promoted` are event attributes with columns of their own, which tables of others do not have.
    """
    tests = ValueTests(folding, passing or {}, promoted=() if view.mapped else promoted)
    return _Compiler(plan, view, tests).compiled()


class _Compiler(StepVisitor[str]):
    """Writes each step as a condition over the bits of a user and over earlier steps."""

    def __init__(self, plan: Plan, view: View, tests: ValueTests) -> None:
        self._plan, self._view, self._tests = plan, view, tests
        self._profile_tests = ValueTests(tests.folding, tests.passing)
        self._profile_columns: dict[str, str] = {}
        self._scans: dict[str, _Scan] = {}
        self._event_inputs: set[str] = set()
        """The inputs whose events are read."""
        self._bits = 0
        self._step = 0

    def compiled(self) -> Compiled:
        steps: list[str] = []
        for step in self._plan.steps:
            self._step = len(steps)
            steps.append(self.visit(step))
        words = max(1, -(-self._bits // WORD_BITS))
        return Compiled(
            plan=self._plan,
            view=self._view,
            leaves=tuple(leaf for scan in self._scans.values() for leaf in scan.leaves),
            edges=tuple(self._tests.edges),
            words=words,
            steps=tuple(steps),
            levels=_levels(self._plan),
            scans=tuple(self._queries(words)),
            mapped=self._mapped,
        )

    @property
    def _mapped(self) -> tuple[MappedTable, ...]:
        """The tables of others that have events of the inputs which are read."""
        return tuple(each for each in self._view.mapped if each.input in self._event_inputs)

    def universe(self, step: Universe) -> str:
        through = one_of("input", step.inputs)
        passes = f"max({self._named(SEEN)(through)})"
        of_profile = self._once_seen(passes, _came_through(step.inputs))
        return self._leaf(SEEN, through, passes, of_profile=of_profile)

    def empty(self, step: Empty) -> str:
        return FALSE

    def intersection(self, step: Intersection) -> str:
        return all_of(f"s{operand}" for operand in step.operands)

    def union(self, step: Union) -> str:
        return any_of(f"s{operand}" for operand in step.operands)

    def difference(self, step: Difference) -> str:
        return f"(s{step.minuend} AND NOT s{step.subtrahend})"

    def attribute(self, step: AttributeMatch) -> str:
        return self._fact(step.workspaces, step.key, step.test)

    def identity(self, step: IdentityMatch) -> str:
        return self._fact((IDENTITY,), step.type, step.test)

    def consent(self, step: ConsentMatch) -> str:
        return self._fact((CONSENT,), consent_key(step.regulation, step.purpose), Equals(step.state.value))

    def seen(self, step: SeenMatch) -> str:
        through = one_of("input", step.inputs)
        chosen = self._named(SEEN)(through)
        time = f"maxIf(last, {chosen})" if step.last else f"minIf(first, {chosen})"
        passes = all_of([f"max({chosen})", in_ranges(time, step.test.ranges)])
        return self._leaf(SEEN, through, passes, of_profile=self._seen_of_profile(step, chosen, time))

    def user_id(self, step: UserIdMatch) -> str:
        return self._of_user(self._tests.passes(step.test, USER_ID, SEEN, TRUE))

    def bucket(self, step: BucketMatch) -> str:
        hashed = f"xxh3(concat({text(step.salt)}, {text(chr(0))}, user))"
        return self._of_user(f"{hashed} >= toUInt64({step.first}) AND {hashed} <= toUInt64({step.last})")

    def event(self, step: EventMatch) -> str:
        self._event_inputs.update(step.selection.inputs)
        is_selected = selected(step.selection, self._tests, EVENTS)
        found = aggregated(
            step,
            is_selected,
            self._named(EVENTS),
            self._view.event_spans,
            promoted=self._tests.promoted,
            has_ties=bool(self._view.mapped),
        )
        return self._leaf(EVENTS, is_selected, found.passes, is_undecided=found.is_undecided)

    def sequence(self, step: SequenceMatch) -> str:
        for selection in step.steps:
            self._event_inputs.update(selection.inputs)
        conditions = [selected(selection, self._tests, EVENTS) for selection in step.steps]
        named = self._named(EVENTS)
        names = [named(condition) for condition in conditions]
        return self._leaf(EVENTS, any_of(conditions), in_sequence(step, names, named))

    # --- one table ------------------------------------------------------------------------------------------

    def _fact(self, places: Sequence[str], key: str, test: ResolvedTest) -> str:
        """Whether the latest write in one of the places passes."""
        named = self._named(FACTS)
        where = all_of([one_of("place", places), f"key = {text(key)}"])
        passes = named(f"toUInt8({self._tests.passes(test, FACT, FACTS, where)})")
        order = named(ARRIVAL_ORDER)
        latest = []
        profiles = []
        for place in places:
            of_place = named(f"place = {text(place)} AND key = {text(key)}")
            latest.append(f"argMaxIf({passes}, {order}, {of_place})")
            if self._view.base is not None:
                fact = profile_fact(self._view.base, place, key)
                newest = f"maxIf({order}, {of_place})"
                profiles.append(self._fact_of_profile(fact, test, f"max({of_place})", newest, latest[-1]))
        of_profile = OfProfile(
            any_of(each.alone for each in profiles), any_of(each.joined for each in profiles)
        )
        return self._leaf(FACTS, where, any_of(latest), of_profile=of_profile if profiles else None)

    def _fact_of_profile(
        self, fact: ProfileFact, test: ResolvedTest, is_written: str, newest: str, passes: str
    ) -> OfProfile:
        """The latest write is in the profile or among the later rows, as writes come in any order of time."""
        # The strings that a test leaves open here are among those of the rows.
        own_passes = f"toUInt8({self._profile_tests.passes(test, fact.cell, PROFILES, TRUE)})"
        own = self._own(own_passes)
        own_is_older = (
            f"NOT {self._own(fact.is_written)} OR {self._own(fact.order)} < {self._later(FACTS, newest)}"
        )
        is_later = f"{self._later(FACTS, is_written)} != 0 AND ({own_is_older})"
        return OfProfile(own_passes, f"if({is_later}, {self._later(FACTS, passes)}, {own})")

    def _of_user(self, passes: str) -> str:
        """Whether a user passes whom some row of `seen` is about."""
        return self._leaf(
            SEEN, TRUE, passes, of_profile=self._once_seen(passes, f"notEmpty(inputs) AND {passes}")
        )

    def _once_seen(self, passes: str, own: str) -> OfProfile | None:
        """A predicate that more rows of `seen` never make false."""
        if self._view.base is None:
            return None
        return OfProfile(own, f"({self._own(own)} OR {self._later(SEEN, passes)})")

    def _seen_of_profile(self, step: SeenMatch, chosen: str, time: str) -> OfProfile | None:
        if self._view.base is None:
            return None
        times, best, never = (
            ("lasts", "arrayMax", INT64_MIN) if step.last else ("firsts", "arrayMin", INT64_MAX)
        )
        through = one_of("input", step.inputs)
        of_input = f"arrayFilter((time, input) -> {through}, {times}, inputs)"
        is_seen = _came_through(step.inputs)
        own = f"if({is_seen}, {best}({of_input}), {int64(never)})"
        is_later = f"{self._later(SEEN, f'max({chosen})')} != 0"
        later = f"if({is_later}, {self._later(SEEN, time)}, {int64(never)})"
        # A user without a profile has 0 in its columns, which is a time too.
        own_time = f"if({self._own(is_seen)}, {self._own(own)}, {int64(never)})"
        both = f"{'greatest' if step.last else 'least'}({own_time}, {later})"
        return OfProfile(
            all_of([is_seen, in_ranges(own, step.test.ranges)]),
            all_of([f"({self._own(is_seen)} OR {is_later})", in_ranges(both, step.test.ranges)]),
        )

    def _own(self, expression: str) -> str:
        """A column of the profile in a join."""
        return self._profile_columns.setdefault(expression, f"y{len(self._profile_columns)}")

    def _later(self, table: str, aggregate: str) -> str:
        """A column of the later rows in a join: 0 for a user without any."""
        later = self._scans.setdefault(table, _Scan()).later
        return later.setdefault(aggregate, f"z{table[0]}{len(later)}")

    def _leaf(
        self,
        table: str,
        condition: str,
        passes: str,
        *,
        of_profile: OfProfile | None = None,
        is_undecided: str = FALSE,
    ) -> str:
        """A predicate over the rows under a condition. Returns the condition on its bit."""
        scan = self._scans.setdefault(table, _Scan())
        bit = self._next_bit()
        undecided_bit = None if is_undecided == FALSE else self._next_bit()
        scan.leaves.append(Leaf(table, self._step, bit, passes, of_profile, undecided_bit, is_undecided))
        scan.conditions.append(condition)
        return bit_is_set(bit)

    def _next_bit(self) -> int:
        self._bits += 1
        return self._bits - 1

    def _named(self, table: str) -> Named:
        """Names expressions over a row of the table, and computes each once."""
        columns = self._scans.setdefault(table, _Scan()).columns
        return lambda expression: columns.setdefault(expression, f"x{len(columns)}")

    # --- queries --------------------------------------------------------------------------------------------

    def _queries(self, words: int) -> Iterator[str]:
        of_users = [table for table in self._scans if table != EVENTS]
        if EVENTS in self._scans:
            yield self._scanned(EVENTS, words)
        if self._view.base is None:
            yield from (self._scanned(table, words) for table in of_users)
        elif of_users:
            yield self._from_base(self._view.base, of_users, words)

    def _from_base(self, base: Base, tables: Sequence[str], words: int) -> str:
        """The users of a base, and those with later rows, by both."""
        leaves = [leaf for table in tables for leaf in self._scans[table].leaves]
        conditions = [_is_of_base(base), of_account(self._view), _SCOPE]
        cut = [user for user, revision in self._view.cuts.items() if revision >= base.revision]
        if cut:
            conditions.append(f"NOT {one_of('user', cut)}")
        of_base = f"FROM {PROFILES} WHERE {all_of(conditions)}"
        if base.revision >= self._view.revision:
            alone = _words(words, [(leaf.bit, leaf.of_profile.alone) for leaf in leaves if leaf.of_profile])
            return f"SELECT p, user, {alone} {of_base} AND {_some(words)}"
        joined = _words(words, [(leaf.bit, leaf.of_profile.joined) for leaf in leaves if leaf.of_profile])
        own = ", ".join(f"{each} AS {name}" for each, name in self._profile_columns.items())
        user = "greatest(base.p, later.p) AS p, if(base.is_there, base.user, later.user) AS user"
        return (
            f"SELECT {user}, {joined}"
            f" FROM (SELECT p, user, toUInt8(1) AS is_there, {own} {of_base}) AS base"
            f" FULL JOIN ({self._later_rows(base, tables)}) AS later ON base.user = later.user"
            f" WHERE {_some(words)}"
        )

    def _later_rows(self, base: Base, tables: Sequence[str]) -> str:
        """The rows after a base by user, with a column for each aggregate."""
        columns = [name for table in tables for name in self._scans[table].later.values()]
        queries = []
        for table in tables:
            own = {name: aggregate for aggregate, name in self._scans[table].later.items()}
            aggregates = ", ".join(f"{own.get(name, '0')} AS {name}" for name in columns)
            rows = self._rows(table, f"rev > {base.revision}")
            queries.append(f"SELECT any(p) AS p, user, {aggregates} FROM ({rows}) GROUP BY user")
        if len(queries) == 1:
            return queries[0]
        # Each column is 0 in all rows but one.
        sums = ", ".join(f"sum(u.{name}) AS {name}" for name in columns)
        united = " UNION ALL ".join(queries)
        return f"SELECT any(u.p) AS p, u.user AS user, {sums} FROM ({united}) AS u GROUP BY u.user"

    def _rows(self, table: str, among: str) -> str:
        """The rows of a table that its predicates read."""
        scan = self._scans[table]
        columns = [*_ROW_COLUMNS[table], *(f"{each} AS {name}" for each, name in scan.columns.items())]
        where = all_of([any_of(scan.conditions), among, _SCOPE])
        picked = f"SELECT p, user, {', '.join(columns)} FROM"
        own = f"{picked} {table} WHERE {all_of([counted(self._view, table), where])}"
        if table != EVENTS:
            return own
        others = (f"{picked} ({_rows_of(each)}) WHERE {where}" for each in self._mapped)
        return " UNION ALL ".join([own, *others])

    def _scanned(self, table: str, words: int) -> str:
        """The rows of a table by user."""
        bits = _words(words, _bits(self._scans[table].leaves))
        # `p` follows from the user. A key of one string is hashed faster than one of two parts.
        rows = self._rows(table, TRUE)
        return f"SELECT any(p) AS p, user, {bits} FROM ({rows}) GROUP BY user HAVING {_some(words)}"


def _came_through(inputs: Sequence[str]) -> str:
    """The condition on profiles of users that came through some of the inputs."""
    # `has` looks for one input in the dictionary of a block, `hasAny` in each row.
    if len(inputs) <= _INPUTS_ALONE_MAX:
        return any_of(f"has(inputs, {text(each)})" for each in inputs)
    return f"hasAny(inputs, {texts(inputs)})"


def _is_of_base(base: Base) -> str:
    """The condition on profiles of a base. A server without all of it refuses the statement."""
    there = f"SELECT throwIf(count() = 0, 'no base') FROM {BASES} WHERE name = {text(base.name)}"
    return f"(base = {text(base.name)} AND ({there}) = 0)"


def _some(words: int) -> str:
    return any_of(f"b{word} != 0" for word in range(words))


def _bits(leaves: Iterable[Leaf]) -> Iterator[tuple[int, str]]:
    """The expression of each bit."""
    for leaf in leaves:
        yield leaf.bit, leaf.passes
        if leaf.undecided_bit is not None:
            yield leaf.undecided_bit, leaf.is_undecided


def _words(words: int, bits: Iterable[tuple[int, str]]) -> str:
    """The columns with the bits, each a sum of predicates."""
    parts: list[list[str]] = [[] for _ in range(words)]
    for bit, expression in bits:
        parts[bit // WORD_BITS].append(f"bitShiftLeft(toUInt64({expression}), {bit % WORD_BITS})")
    return ", ".join(f"{' + '.join(part) or 'toUInt64(0)'} AS b{word}" for word, part in enumerate(parts))


def counted(view: View, table: str) -> str:
    """The condition on rows of a table that count."""
    conditions = [of_account(view), f"rev <= {view.revision}"]
    if view.cuts:
        conditions.append(f"NOT {is_cut(view.cuts)}")
    if table == EVENTS:
        conditions += [f"NOT {is_removed(before, revision)}" for before, revision in view.removals]
    return all_of(conditions)


def of_account(view: View) -> str:
    """The condition on rows of the view's account."""
    return f"account = {text(view.account)}"


def is_cut(cuts: Mapping[str, int]) -> str:
    """The condition on rows that a user's cut excludes, among those of the account."""
    return f"(rev <= transform(user, {texts(cuts)}, {uint64s(cuts.values())}, toUInt64(0)))"


def is_removed(before: Micros, revision: int) -> str:
    """The condition on events that a removal excludes, among those of the account."""
    return f"(time < {before} AND rev <= {revision})"
