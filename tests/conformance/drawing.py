"""Strategies for small worlds and for plans with every kind of step, drawn from values that collide."""

from __future__ import annotations

from hypothesis import strategies as st

from engine.backends.base import EventRecord, Record, UserRecord
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate, ConsentState, Equals, EventType, Exists, In, Text
from engine.criteria.ranges import Interval, TimeRange, merged_intervals, merged_ranges
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Intersection,
    NumberRange,
    Plan,
    ResolvedTest,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
)
from engine.values import MICROS_PER_HOUR, Micros, Value
from tests.conformance.site import NOON
from tests.oracle.world import Batch, Operation, World, fresh_account

USER_IDS = ("ada", "bob", "cleo", "dan", "eve", "Ünal", "x" * 256, "7", "frank", "gus", "hal", "ivy")
EVENT_NAMES = ("buy", "view")
KEYS = ("plan", "age")
INSTANTS = tuple(NOON + hours * MICROS_PER_HOUR for hours in (-49, -25, -24, -1, 0, 1))
LONG = "long " * 60
STRINGS = ("", "12", "Gold", "gold", "ß", "a\0b", LONG, LONG + "!", "12%")
NUMBERS = (0.0, -0.0, 1.0, 12.0, 0.1, 0.3, -7.5, 1e300)
LISTS: tuple[tuple[str, ...], ...] = ((), ("gold",), ("gold", "12"), ("12", "gold"), (LONG, "gold", "gold"))
VALUES: tuple[Value, ...] = (*STRINGS, *NUMBERS, True, False, *INSTANTS, *LISTS)
PURPOSES = (("gdpr", "ads"), ("ccpa", "sale"))
EVENT_TYPES = (EventType.CUSTOM, EventType.COMMERCE)

values = st.sampled_from(VALUES)
instants = st.sampled_from(INSTANTS)


def input_names(account: str) -> tuple[str, ...]:
    """The inputs of a world, of two workspaces."""
    return tuple(f"{account}/workspaces/{path}" for path in ("s/inputs/app", "s/inputs/web", "t/inputs/web"))


def records(account: str) -> st.SearchStrategy[Record]:
    """Events and updates; event ids repeat now and then."""
    user_ids, inputs = st.sampled_from(USER_IDS), st.sampled_from(input_names(account))
    events = st.builds(
        EventRecord,
        user_ids,
        inputs,
        st.sampled_from(EVENT_NAMES),
        st.sampled_from(EVENT_TYPES),
        instants,
        st.dictionaries(st.sampled_from(KEYS), values, max_size=2),
        st.sampled_from(("", "", "", "e1", "e2")),
    )
    updates = st.builds(
        UserRecord,
        user_ids,
        inputs,
        instants,
        st.dictionaries(st.sampled_from(KEYS), st.none() | values, max_size=2),
        st.dictionaries(st.just("email"), st.none() | st.sampled_from(STRINGS), max_size=1),
        st.dictionaries(st.sampled_from(PURPOSES), st.sampled_from(ConsentState), max_size=1),
    )
    return events | updates


@st.composite
def worlds(draw: st.DrawFn, *, batches_max: int = 4) -> World:
    """Some batches in their own account."""
    account = fresh_account()
    batches: list[Operation] = [
        Batch(tuple(batch))
        for batch in draw(st.lists(st.lists(records(account), max_size=12), max_size=batches_max))
    ]
    return World(
        account=account,
        inputs=input_names(account),
        time_zone="UTC",
        as_of=NOON,
        operations=tuple(batches),
        journeys=(),
    )


# --- tests on values ----------------------------------------------------------------------------------------


def interval_sets(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Interval, ...]]:
    """Sorted, disjoint intervals."""
    bounds, flags = st.none() | numbers, st.booleans()
    return st.lists(st.builds(Interval, bounds, flags, bounds, flags), max_size=6).map(merged_intervals)


def range_sets() -> st.SearchStrategy[tuple[TimeRange, ...]]:
    """Sorted, disjoint ranges of instants."""
    ends = st.none() | st.sampled_from((*INSTANTS, NOON + 1))
    return st.lists(st.builds(TimeRange, ends, ends), max_size=3).map(merged_ranges)


def tests_on_user_ids() -> st.SearchStrategy[ResolvedTest]:
    """Tests that name users, and tests on parts of their ids."""
    ids = st.sampled_from((*USER_IDS, "never"))
    kinds = st.sampled_from(("contains", "starts_with", "ends_with", "glob", "matches"))
    return st.one_of(
        st.builds(Equals, ids, st.booleans()),
        st.builds(In, st.lists(ids, max_size=9).map(tuple), st.booleans()),
        st.builds(Text, kinds, st.sampled_from(("a", "E", "Ü", "x", "")), st.booleans()),
    )


def tests_on_values() -> st.SearchStrategy[ResolvedTest]:
    """Every family of tests that storage may handle differently."""
    return st.one_of(
        st.just(Exists()),
        st.builds(Equals, values, st.booleans()),
        st.builds(In, st.lists(values, max_size=9).map(tuple), st.booleans()),
        st.builds(NumberRange, interval_sets(st.sampled_from(NUMBERS))),
        st.builds(InstantRange, range_sets()),
        st.builds(
            Text,
            st.sampled_from(("contains", "starts_with", "ends_with", "glob", "matches")),
            st.sampled_from(("gold", "12", "o*", "l", "")),
            st.booleans(),
        ),
    )


def row_filters() -> st.SearchStrategy[RowFilter]:
    """Conditions on one event, a few levels deep."""
    tests = st.builds(WhereAttribute, key=st.sampled_from((*KEYS, "never")), test=tests_on_values())

    def nested(inner: st.SearchStrategy[RowFilter]) -> st.SearchStrategy[RowFilter]:
        some = st.lists(inner, max_size=3).map(tuple)
        return (
            st.builds(WhereAll, conditions=some)
            | st.builds(WhereAny, conditions=some)
            | st.builds(WhereNot, condition=inner)
        )

    return st.recursive(tests, nested, max_leaves=4)


# --- steps --------------------------------------------------------------------------------------------------


def selections(inputs: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[EventSelection]:
    """Which events take part."""
    return st.builds(
        EventSelection,
        inputs=inputs,
        name=st.sampled_from(("", *EVENT_NAMES, "never")),
        type=st.none() | st.sampled_from(EVENT_TYPES),
        time=st.builds(TimeRange, st.none() | instants, st.none() | instants),
        where=st.none() | row_filters(),
    )


def predicates(account: str) -> st.SearchStrategy[Step]:
    """Every step without operands."""
    known = input_names(account)
    inputs = _subsets((*known, f"{account}/workspaces/t/inputs/never"))
    workspaces = _subsets(tuple(f"{account}/workspaces/{w}" for w in ("s", "t", "never")))
    aggregates = st.sampled_from([a for a in Aggregate if a not in (Aggregate.SUM, Aggregate.AVERAGE)])
    sums = st.sampled_from((Aggregate.SUM, Aggregate.AVERAGE))
    hashes = st.sampled_from((0, 1 << 62, 1 << 63, (1 << 64) - 1))
    return st.one_of(
        st.builds(Universe, inputs=inputs),
        st.just(Empty()),
        st.builds(
            AttributeMatch,
            workspaces=workspaces,
            key=st.sampled_from((*KEYS, "never")),
            test=tests_on_values(),
        ),
        st.builds(SeenMatch, inputs=inputs, last=st.booleans(), test=st.builds(InstantRange, range_sets())),
        st.builds(IdentityMatch, type=st.sampled_from(("email", "never")), test=tests_on_values()),
        st.builds(UserIdMatch, test=tests_on_values() | tests_on_user_ids()),
        st.sampled_from(PURPOSES).flatmap(
            lambda purpose: st.builds(
                ConsentMatch,
                regulation=st.just(purpose[0]),
                purpose=st.just(purpose[1]),
                state=st.sampled_from(ConsentState),
            )
        ),
        st.builds(
            EventMatch,
            selection=selections(inputs),
            aggregate=aggregates | sums,
            of=st.sampled_from((*KEYS, "never")),
            time_zone=st.sampled_from(("UTC", "Asia/Tokyo")),
            intervals=interval_sets(st.sampled_from((0.0, 1.0, 2.0, 3.0, 0.3, 12.0))),
        ),
        st.builds(
            SequenceMatch,
            steps=st.lists(selections(inputs), min_size=2, max_size=3).map(tuple),
            within=st.none() | st.sampled_from((MICROS_PER_HOUR, 24 * MICROS_PER_HOUR)),
        ),
        st.builds(BucketMatch, salt=st.sampled_from(("", "s")), first=hashes, last=hashes),
    )


def _subsets(names: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sets(st.sampled_from(names)).map(lambda chosen: tuple(sorted(chosen)))


@st.composite
def plans(draw: st.DrawFn, account: str, as_of: Micros = NOON) -> Plan:
    """A graph of up to a dozen steps, several of them roots, some drawn from more than once."""
    steps = draw(st.lists(predicates(account), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 6))):
        earlier = st.integers(0, len(steps) - 1)
        some = st.lists(earlier, min_size=2, max_size=4).map(tuple)
        step: Step = draw(
            st.builds(Intersection, operands=some)
            | st.builds(Union, operands=some)
            | st.builds(Difference, minuend=earlier, subtrahend=earlier)
        )
        steps.append(step)
    roots = draw(st.lists(st.integers(0, len(steps) - 1), min_size=1, max_size=4))
    return Plan(account=account, as_of=as_of, steps=tuple(steps), roots=tuple(roots))
