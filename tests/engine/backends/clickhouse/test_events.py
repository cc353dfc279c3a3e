"""Aggregates and sequences, drawn so that they lie at the bounds that are asked about."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from engine.backends.base import EventRecord
from engine.backends.clickhouse.query.compiler import compile_plan
from engine.backends.clickhouse.query.folding import Folding
from engine.backends.clickhouse.view import View
from engine.criteria.model import Aggregate, EventType
from engine.plan.model import EventMatch, EventSelection, Interval, Plan, SequenceMatch, Step
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.oracle.history import histories
from tests.oracle.palette import instant
from tests.oracle.plans import root_sets
from tests.oracle.world import Batch, World, fresh_account

USERS = 120
STEPS = 24
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Monrovia", "Pacific/Apia")
SPRING = instant("2025-03-30T00:00:00Z")


def check(gateway: Gateway, records: list[EventRecord], steps: list[Step], seed: int) -> None:
    """Each step alone, as a root, against the oracle."""
    account = records[0].input.partition("/workspaces/")[0]
    world = World(
        account=account,
        inputs=(records[0].input,),
        time_zone="UTC",
        as_of=SPRING,
        operations=(Batch(tuple(records)),),
        journeys=(),
    )
    gateway.feed(world)
    plan = Plan(account=account, as_of=SPRING, steps=tuple(steps), roots=tuple(range(len(steps))))
    users = histories(world)
    expected = root_sets(plan, users)
    assert any(expected), "nobody passes anything"
    assert any(len(each) < len(users) for each in expected), "everybody passes everything"
    for step, wanted, found in zip(steps, expected, gateway.flags(plan, users), strict=True):
        assert found == wanted, f"seed {seed}: {step}"
    assert gateway.sizes(plan) == [len(each) for each in expected], f"seed {seed}"


def seeded() -> tuple[int, random.Random]:
    seed = random.randrange(2**32)
    return seed, random.Random(seed)


Number = Callable[[random.Random], float]

NUMBERS: dict[str, Number] = {
    "prices": lambda source: source.randrange(-500, 5_000) / 100,
    "tenths": lambda source: source.choice((0.1, 0.2, 0.3, 0.7, -0.1, -0.0, 1e-6, 1e-7)),
    "doubles": lambda source: source.uniform(-1, 1) * 10.0 ** source.randrange(-12, 12),
    "wide": lambda source: source.choice((1e-20, 9.9e-21, 1e19, 1e20, 1e22, 5e-324, 1.7e308, -1e300, 1.0)),
    "millions": lambda source: source.choice((999_999_999.999999, 1e9, 1e9 + 1e-6, 123_456_789.123456)),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_sums_and_averages_are_exact(gateway: Gateway, kind: str) -> None:
    """Bounds are sums that users have, and the doubles beside these."""
    seed, source = seeded()
    input_ = f"{fresh_account()}/workspaces/w/inputs/i"
    numbers = {
        f"u{user}": [NUMBERS[kind](source) for _ in range(source.choice((1, 2, 3, 7)))]
        for user in range(USERS)
    }
    records = [
        EventRecord(user, input_, "buy", EventType.CUSTOM, SPRING + at, {"of": number})
        for user, listed in numbers.items()
        for at, number in enumerate(listed)
    ]
    records.append(EventRecord("text", input_, "buy", EventType.CUSTOM, SPRING, {"of": "1"}))
    steps: list[Step] = []
    for _ in range(STEPS):
        aggregate = source.choice((Aggregate.SUM, Aggregate.AVERAGE))
        listed = source.choice(list(numbers.values()))
        total = sum((Fraction(repr(each)) for each in listed), Fraction(0))
        bound = _double(total if aggregate is Aggregate.SUM else total / len(listed))
        steps.append(
            EventMatch(
                selection=EventSelection(inputs=(input_,), name="buy"),
                aggregate=aggregate,
                of="of",
                intervals=(_interval(source, bound),),
            )
        )
    check(gateway, records, steps, seed)


def _double(number: Fraction) -> float:
    return max(-1.7e308, min(1.7e308, float(number))) if abs(number) < 10**308 else 1.7e308


def _interval(source: random.Random, bound: float) -> Interval:
    match source.randrange(4):
        case 0:
            return Interval(low=bound, low_included=source.random() < 0.5)
        case 1:
            return Interval(high=bound, high_included=source.random() < 0.5)
        case 2:
            return Interval(low=bound, high=bound)
        case _:
            return Interval(low=-abs(bound), high=abs(bound), high_included=False)


def test_other_aggregates_at_their_bounds(gateway: Gateway) -> None:
    seed, source = seeded()
    input_ = f"{fresh_account()}/workspaces/w/inputs/i"
    values = (1.0, 0.0, -0.0, 0.1, -7.5, 1e300, True, "1", "", 1, ("a", "b"), ("a,b",), ("",), ())
    records = [
        EventRecord(
            f"u{source.randrange(USERS)}",
            input_,
            source.choice(("buy", "view")),
            EventType.CUSTOM,
            SPRING + source.randrange(3),
            {"of": source.choice(values)} if source.random() < 0.9 else {},
        )
        for _ in range(USERS * 5)
    ]
    aggregates = [each for each in Aggregate if each not in (Aggregate.SUM, Aggregate.AVERAGE)]
    steps: list[Step] = [
        EventMatch(
            selection=EventSelection(inputs=(input_,), name=source.choice(("", "buy"))),
            aggregate=aggregate,
            of="of",
            intervals=(_interval(source, source.choice((0.0, 1.0, 2.0, 3.0, 0.1, -7.5, 1e300))),),
        )
        for aggregate in aggregates * 4
    ]
    check(gateway, records, steps, seed)


@pytest.mark.parametrize("years", ["a week", "a century", "all"])
def test_days_are_those_of_the_time_zone(gateway: Gateway, years: str) -> None:
    seed, source = seeded()
    span = {"a week": (SPRING - 3 * MICROS_PER_DAY, SPRING + 3 * MICROS_PER_DAY)}
    span["a century"] = (instant("1925-01-01T00:00:00Z"), SPRING)
    span["all"] = (TIME_MIN_MICROS + 2 * MICROS_PER_DAY, TIME_MAX_MICROS - 2 * MICROS_PER_DAY)
    first, last = span[years]
    input_ = f"{fresh_account()}/workspaces/w/inputs/i"
    records = []
    for user in range(USERS):
        middle = source.choice((first, last, source.randrange(first, last)))
        for _ in range(source.randrange(1, 5)):
            shift = source.choice((0, 1, -1, MICROS_PER_HOUR, 24 * MICROS_PER_HOUR)) * source.randrange(-3, 4)
            time = min(max(middle + shift, first), last)
            records.append(EventRecord(f"u{user}", input_, "buy", EventType.CUSTOM, time, {}))
    steps: list[Step] = [
        EventMatch(
            selection=EventSelection(inputs=(input_,)),
            aggregate=Aggregate.DISTINCT_DAYS,
            time_zone=zone,
            intervals=(Interval(low=float(days)),),
        )
        for zone in ZONES
        for days in (2, 3)
    ]
    check(gateway, records, steps, seed)


def test_sequences_with_events_at_the_same_instant(gateway: Gateway) -> None:
    seed, source = seeded()
    input_ = f"{fresh_account()}/workspaces/w/inputs/i"
    records = [
        EventRecord(
            f"u{source.randrange(USERS)}",
            input_,
            source.choice("abc"),
            source.choice((EventType.CUSTOM, EventType.COMMERCE)),
            SPRING + source.randrange(12),
            {},
        )
        for _ in range(USERS * 6)
    ]
    check(gateway, records, list(_sequences(source, input_)), seed)


def _sequences(source: random.Random, input_: str) -> Iterator[Step]:
    """Half of them of names that differ, so that no event can be in two steps."""
    for number in range(2 * STEPS):
        names = source.choices(("", "a", "b", "c"), k=source.choice((1, 2, 3, 4)))
        if number % 2:
            names = source.sample("abc", source.choice((2, 3)))
        yield SequenceMatch(
            steps=tuple(EventSelection(inputs=(input_,), name=name) for name in names),
            within=source.choice((None, 0, 1, 2, 3, 5, 8)),
        )


def test_a_long_sequence_is_a_statement_of_linear_length() -> None:
    """Each part of the expression is written once, however many steps follow it."""

    def length(steps: int) -> int:
        selection = EventSelection(inputs=("i",), name="a")
        step = SequenceMatch(steps=(selection,) * steps, within=5)
        plan = Plan(account="accounts/a", as_of=0, steps=(step,), roots=(0,))
        return len(compile_plan(plan, View(account="accounts/a"), Folding()).by_user((0,)))

    assert length(40) - length(20) < 1.2 * (length(20) - length(1))
