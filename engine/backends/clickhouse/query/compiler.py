"""Plan → one statement for all its roots.

Each table that the plan reads is scanned once and grouped by user. Each predicate becomes a bit of its user's
row, `b0` and so on holding 64 each. The rows of the tables are united, and the steps are conditions over the
bits, `s0` for step 0 and so on. ClickHouse puts the expression of an alias wherever its name is, so steps
that many others build on are computed below these, in a query of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from engine.backends.clickhouse.query.cells import FACT, USER_ID
from engine.backends.clickhouse.query.events import ARRIVAL_ORDER, Named, aggregated, in_sequence, selected
from engine.backends.clickhouse.query.folding import Folding
from engine.backends.clickhouse.query.literals import (
    FALSE,
    TRUE,
    all_of,
    any_of,
    one_of,
    text,
    texts,
    uint64s,
)
from engine.backends.clickhouse.query.value_tests import Edge, EdgePassing, ValueTests, in_ranges
from engine.backends.clickhouse.tables import CONSENT, EVENTS, FACTS, IDENTITY, SEEN, consent_key
from engine.backends.clickhouse.view import View
from engine.criteria.model import Equals
from engine.criteria.operators import ResolvedTest
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
EXPRESSION_STEPS_MAX = 64
"""Steps of one expression, those that it shares with others counted each time."""
_BASE_COLUMNS = {EVENTS: ("time", "seq"), FACTS: ("time", "seq"), SEEN: ("first", "last")}
"""Columns that conditions name as they are."""


class Leaf(msgspec.Struct, frozen=True):
    """A predicate over one table: the bits for its answer, and for users whom SQL cannot decide."""

    table: str
    step: int
    bit: int
    passes: str
    undecided_bit: int | None = None
    is_undecided: str = FALSE


@dataclass(slots=True)
class _Scan:
    """What is read of a table: rows under one of `conditions`, with `columns` (name by expression)."""

    leaves: list[Leaf] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)


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
    scans: tuple[tuple[str, str], ...]
    """One for each table, of rows (p, user, b0, …): what stands before the scope, and what after it."""

    def by_user(self, scope: str = TRUE) -> str:
        """The statement: p, user, the bits, a flag for each root (`s` and its step), and `undecided`.
        `scope` is a condition on p and user. Users in no root may be missing.
        """
        undecided = any_of(
            bit_is_set(leaf.undecided_bit) for leaf in self.leaves if leaf.undecided_bit is not None
        )
        rows = f"SELECT p, user, {self.bits}, toUInt8({undecided}) AS undecided FROM ({self._united(scope)})"
        for level in range(max(self.levels) + 1):
            rows = f"SELECT p, user, {self.bits}, undecided, {', '.join(self._flags(level))} FROM ({rows})"
        return rows

    def _flags(self, level: int) -> Iterator[str]:
        """The steps of a level, and those of levels below that are asked for above."""
        above = {
            operand
            for step, at in zip(self.plan.steps, self.levels, strict=True)
            if at > level
            for operand in operands_of(step)
        }
        asked = above.union(self.plan.roots)
        for number, (step, at) in enumerate(zip(self.steps, self.levels, strict=True)):
            if at == level:
                yield f"toUInt8({step}) AS s{number}"
            elif at < level and number in asked:
                yield f"s{number}"

    @property
    def bits(self) -> str:
        """The columns with the bits."""
        return ", ".join(f"b{word}" for word in range(self.words))

    def bits_of(self, words: Sequence[int]) -> int:
        """The bits of a user as one number."""
        return sum(word << (WORD_BITS * number) for number, word in enumerate(words))

    def _united(self, scope: str) -> str:
        scans = [f"{before}{scope}{after}" for before, after in self.scans]
        if not scans:
            none = ", ".join(f"toUInt64(0) AS b{word}" for word in range(self.words))
            return f"SELECT toUInt16(0) AS p, '' AS user, {none} WHERE 0"
        if len(scans) == 1:
            return scans[0]
        ors = ", ".join(f"groupBitOr(u.b{word}) AS b{word}" for word in range(self.words))
        columns = f"any(u.p) AS p, u.user AS user, {ors}"
        return f"SELECT {columns} FROM ({' UNION ALL '.join(scans)}) AS u GROUP BY u.user"


def bit_is_set(bit: int) -> str:
    """Whether a bit of a user's row is set."""
    return f"bitTest(b{bit // WORD_BITS}, {bit % WORD_BITS})"


def _levels(plan: Plan) -> tuple[int, ...]:
    """By step, the query that computes it, such that no expression gets larger than `EXPRESSION_STEPS_MAX`
    when its aliases are replaced.
    """
    levels: list[int] = []
    sizes: list[int] = []
    for step in plan.steps:
        operands = operands_of(step)
        level = max((levels[operand] for operand in operands), default=0)
        size = 1 + sum(sizes[operand] if levels[operand] == level else 1 for operand in operands)
        if size > EXPRESSION_STEPS_MAX and operands:
            level, size = level + 1, 1 + len(operands)
        levels.append(level)
        sizes.append(size)
    return tuple(levels)


def compile_plan(plan: Plan, view: View, folding: Folding, passing: EdgePassing | None = None) -> Compiled:
    """The plan as a statement over the rows that count. `passing` decides strings at the edges of tests."""
    return _Compiler(plan, view, ValueTests(folding, passing or {})).compiled()


class _Compiler(StepVisitor[str]):
    """Writes each step as a condition over the bits of a user and over earlier steps."""

    def __init__(self, plan: Plan, view: View, tests: ValueTests) -> None:
        self._plan, self._view, self._tests = plan, view, tests
        self._scans: dict[str, _Scan] = {}
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
            scans=tuple(self._scanned(table, scan, words) for table, scan in self._scans.items()),
        )

    def universe(self, step: Universe) -> str:
        through = one_of("input", step.inputs)
        return self._leaf(SEEN, through, f"max({self._named(SEEN)(through)})")

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
        return self._leaf(SEEN, through, all_of([f"max({chosen})", in_ranges(time, step.test.ranges)]))

    def user_id(self, step: UserIdMatch) -> str:
        return self._leaf(SEEN, TRUE, self._tests.passes(step.test, USER_ID, SEEN, TRUE))

    def bucket(self, step: BucketMatch) -> str:
        hashed = f"xxh3(concat({text(step.salt)}, {text(chr(0))}, user))"
        inside = f"{hashed} >= toUInt64({step.first}) AND {hashed} <= toUInt64({step.last})"
        return self._leaf(SEEN, TRUE, inside)

    def event(self, step: EventMatch) -> str:
        is_selected = selected(step.selection, self._tests, EVENTS)
        found = aggregated(step, is_selected, self._named(EVENTS), self._view.event_spans)
        return self._leaf(EVENTS, is_selected, found.passes, found.is_undecided)

    def sequence(self, step: SequenceMatch) -> str:
        conditions = [selected(selection, self._tests, EVENTS) for selection in step.steps]
        names = [self._named(EVENTS)(condition) for condition in conditions]
        return self._leaf(EVENTS, any_of(conditions), in_sequence(step, names))

    # --- one table ------------------------------------------------------------------------------------------

    def _fact(self, places: Sequence[str], key: str, test: ResolvedTest) -> str:
        """Whether the latest write in one of the places passes."""
        named = self._named(FACTS)
        where = all_of([one_of("place", places), f"key = {text(key)}"])
        passes = named(f"toUInt8({self._tests.passes(test, FACT, FACTS, where)})")
        order = named(ARRIVAL_ORDER)
        latest = []
        for place in places:
            of_place = named(f"place = {text(place)} AND key = {text(key)}")
            latest.append(f"argMaxIf({passes}, {order}, {of_place})")
        return self._leaf(FACTS, where, any_of(latest))

    def _leaf(self, table: str, condition: str, passes: str, is_undecided: str = FALSE) -> str:
        """A predicate over the rows under a condition. Returns the condition on its bit."""
        scan = self._scans.setdefault(table, _Scan())
        bit = self._next_bit()
        undecided_bit = None if is_undecided == FALSE else self._next_bit()
        scan.leaves.append(Leaf(table, self._step, bit, passes, undecided_bit, is_undecided))
        scan.conditions.append(condition)
        return bit_is_set(bit)

    def _next_bit(self) -> int:
        self._bits += 1
        return self._bits - 1

    def _named(self, table: str) -> Named:
        """Names expressions over a row of the table, and computes each once."""
        columns = self._scans.setdefault(table, _Scan()).columns
        return lambda expression: columns.setdefault(expression, f"x{len(columns)}")

    def _scanned(self, table: str, scan: _Scan, words: int) -> tuple[str, str]:
        bits = ", ".join(f"{_word(scan.leaves, word)} AS b{word}" for word in range(words))
        columns = [*_BASE_COLUMNS[table], *(f"{each} AS {name}" for each, name in scan.columns.items())]
        rows = f"SELECT p, user, {', '.join(columns)} FROM {table} WHERE {counted(self._view, table)}"
        some = any_of(f"b{word} != 0" for word in range(words))
        # `p` follows from the user. A key of one string is hashed faster than one of two parts.
        return (
            f"SELECT any(p) AS p, user, {bits} FROM ({rows} AND {any_of(scan.conditions)} AND ",
            f") GROUP BY user HAVING {some}",
        )


def _word(leaves: Iterable[Leaf], word: int) -> str:
    """The bits of one word as a sum of the predicates."""
    bits = [
        f"bitShiftLeft(toUInt64({expression}), {bit % WORD_BITS})"
        for leaf in leaves
        for bit, expression in ((leaf.bit, leaf.passes), (leaf.undecided_bit, leaf.is_undecided))
        if bit is not None and bit // WORD_BITS == word
    ]
    return " + ".join(bits) or "toUInt64(0)"


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
