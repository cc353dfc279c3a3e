"""Small random worlds, criteria and journeys, made so that they often meet: few names, few instants."""

from __future__ import annotations

import functools
import itertools

from hypothesis import strategies as st

from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Between,
    BetweenAgo,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    Identity,
    In,
    Last,
    Not,
    NumberTest,
    OlderThan,
    Range,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
    WithinLast,
)
from engine.plan.tree import JourneyTree, MilestoneKind, TreeMilestone
from engine.values import MICROS_PER_HOUR, Value
from tests.engine.plan.worlds import INPUTS, Happened, User, World

NOW = 1_700_000_000_000_000
HOURS = st.integers(0, 60).map(lambda hours: hours * MICROS_PER_HOUR)
INSTANTS = st.builds(lambda hours, by: NOW - hours + by, HOURS, st.sampled_from([-1, 0, 0, 1]))
NAMES = st.sampled_from(["buy", "view"])
KEYS = st.sampled_from(["k", "l"])
NUMBERS = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0])
VALUES: st.SearchStrategy[Value] = st.one_of(
    NUMBERS, st.sampled_from(["a", "B"]), st.booleans(), INSTANTS, st.just(("a", "c"))
)
OPS = st.sampled_from(["greater_than", "greater_or_equal", "less_than", "less_or_equal"])

EVENTS = st.builds(
    Happened,
    input=st.sampled_from(INPUTS),
    name=NAMES,
    time=INSTANTS,
    attributes=st.dictionaries(KEYS, VALUES, max_size=2),
    type=st.sampled_from([EventType.CUSTOM, EventType.COMMERCE]),
)
USERS = st.builds(
    User,
    events=st.lists(EVENTS, max_size=4).map(tuple),
    updates=st.dictionaries(st.sampled_from(INPUTS), st.tuples(INSTANTS), max_size=1),
    attributes=st.dictionaries(
        st.sampled_from(["accounts/a/workspaces/phone", "accounts/a/workspaces/site"]),
        st.dictionaries(KEYS, VALUES, max_size=2),
        max_size=2,
    ),
    identities=st.dictionaries(st.just("email"), st.sampled_from(["a@x", "b@x"]), max_size=1),
    consents=st.dictionaries(st.just(("gdpr", "ads")), st.sampled_from(ConsentState), max_size=1),
)
WORLDS: st.SearchStrategy[World] = st.lists(USERS, max_size=8).map(
    lambda users: {f"u{index}": user for index, user in enumerate(users)}
)

ORDERED = st.builds(Compare, OPS, NUMBERS) | st.builds(
    lambda a, b: Between(min(a, b), max(a, b)), NUMBERS, NUMBERS
)
NUMBER_TESTS: st.SearchStrategy[NumberTest] = (
    ORDERED | st.builds(Equals, NUMBERS) | st.builds(In, st.lists(NUMBERS, max_size=3).map(tuple))
)
VALUE_TESTS: st.SearchStrategy[ValueTest] = st.one_of(
    st.just(Exists()),
    NUMBER_TESTS,
    st.builds(Equals, VALUES, st.booleans()),
    st.builds(Compare, OPS, INSTANTS),
    st.builds(Text, st.sampled_from(["contains", "glob"]), st.just("a"), st.booleans()),
    st.builds(WithinLast, HOURS.map(lambda hours: hours + MICROS_PER_HOUR)),
    st.builds(OlderThan, HOURS),
)
WHERE: st.SearchStrategy[Where] = st.recursive(
    st.builds(WhereAttribute, key=KEYS, test=VALUE_TESTS),
    lambda inner: st.one_of(
        st.builds(WhereAll, conditions=st.lists(inner, max_size=3).map(tuple)),
        st.builds(WhereAny, conditions=st.lists(inner, max_size=3).map(tuple)),
        st.builds(WhereNot, condition=inner),
    ),
    max_leaves=4,
)
WINDOWS: st.SearchStrategy[Window | None] = st.one_of(
    st.none(),
    st.builds(Last, duration=HOURS.map(lambda hours: hours + MICROS_PER_HOUR)),
    st.builds(lambda a, b: BetweenAgo(from_=a + b + 1, to=b), HOURS, HOURS),
    st.builds(lambda a, b: Range(start=a, end=a + b + 1), INSTANTS, HOURS),
    st.builds(Range, start=st.none() | INSTANTS),
    st.builds(
        Calendar,
        unit=st.sampled_from(CalendarUnit),
        count=st.integers(1, 2),
        offset=st.integers(0, 2),
        time_zone=st.sampled_from(["", "America/New_York"]),
    ),
)
SOME_INPUTS = st.sampled_from(
    [chosen for size in (3, 2, 1) for chosen in itertools.combinations(INPUTS, size)]
)


@st.composite
def event_criteria(draw: st.DrawFn, inputs: tuple[str, ...]) -> Event:
    aggregate = draw(st.sampled_from(Aggregate))
    return Event(
        name=draw(st.just("") | NAMES),
        type=draw(st.sampled_from([None, EventType.COMMERCE])),
        where=draw(st.none() | WHERE),
        inputs=draw(st.just(()) | st.sampled_from([(name,) for name in inputs])),
        window=draw(WINDOWS),
        aggregate=aggregate,
        of="" if aggregate in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS) else draw(KEYS),
        test=draw(st.none() | NUMBER_TESTS),
    )


@functools.cache
def criteria(inputs: tuple[str, ...], audiences: tuple[str, ...] = ()) -> st.SearchStrategy[Criterion]:
    """Criteria of a journey over `inputs`, which may name these audiences."""
    steps = st.builds(Step, name=st.just("") | NAMES, where=st.none() | WHERE)
    leaves: list[st.SearchStrategy[Criterion]] = [
        event_criteria(inputs),
        event_criteria(inputs),
        st.builds(UserAttribute, key=KEYS, test=VALUE_TESTS),
        st.builds(
            UserAttribute,
            key=st.sampled_from(["$first_seen", "$last_seen"]),
            test=st.builds(WithinLast, HOURS.map(lambda hours: hours + 1)) | st.builds(OlderThan, HOURS),
        ),
        st.builds(
            Sequence,
            steps=st.lists(steps, min_size=1, max_size=3).map(tuple),
            within=st.none() | HOURS.map(lambda hours: hours + 1),
            window=WINDOWS,
        ),
        st.builds(
            Consent, regulation=st.just("gdpr"), purpose=st.just("ads"), state=st.sampled_from(ConsentState)
        ),
        st.builds(Identity, type=st.just("email"), test=st.builds(Text, st.just("contains"), st.just("a"))),
        st.builds(
            Bucket, salt=st.just("s"), from_percent=st.just(0.0), to_percent=st.sampled_from([30.0, 100.0])
        ),
        *(st.just(Audience(name=name)) for name in audiences),
    ]
    return st.recursive(
        st.one_of(leaves),
        lambda inner: st.one_of(
            st.builds(AllOf, criteria=st.lists(inner, max_size=3).map(tuple)),
            st.builds(AnyOf, criteria=st.lists(inner, max_size=3).map(tuple)),
            st.builds(Not, criterion=inner),
        ),
        max_leaves=5,
    )


@st.composite
def journeys(draw: st.DrawFn, name: str = "j", audiences: tuple[str, ...] = ()) -> JourneyTree:
    """A journey of two splits: three milestones at the start, the last of them the remaining users, and two
    below one of those.
    """
    inputs = draw(SOME_INPUTS)
    own = criteria(inputs, audiences)
    below = draw(st.sampled_from(["m0", "m1", "rest"]))
    return JourneyTree(
        name=name,
        inputs=inputs,
        milestones=(
            TreeMilestone(id="m0", position=0, criterion=draw(own)),
            TreeMilestone(id="m1", position=1, criterion=draw(own)),
            TreeMilestone(id="rest", position=2, kind=MilestoneKind.REMAINING_USERS),
            TreeMilestone(id="below0", parent=below, position=0, criterion=draw(own)),
            TreeMilestone(id="below1", parent=below, position=1, criterion=draw(own)),
        ),
    )
