"""Random worlds and journeys. Hypothesis and the long campaign share this code and differ only in the source
of choices.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import msgspec

from engine.backends.base import EventRecord, Record, UserRecord
from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    USER_ID,
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
    CompareOp,
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
    Near,
    Not,
    NumberTest,
    OlderThan,
    Range,
    Semver,
    SemverOp,
    Sequence,
    Step,
    Text,
    TextOp,
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
from engine.values import MICROS_PER_DAY, Value
from tests.oracle import palette as pools
from tests.oracle.evaluate import Oracle
from tests.oracle.history import Aliases
from tests.oracle.palette import Chooser, Palette
from tests.oracle.world import Alias, Batch, Erase, Expire, Journey, Milestone, Operation, World

COMPARE_OPS: tuple[CompareOp, ...] = ("greater_than", "greater_or_equal", "less_than", "less_or_equal")
EXCLUDING_OPS: tuple[CompareOp, ...] = ("greater_than", "less_than")
SEMVER_OPS: tuple[SemverOp, ...] = ("equals", *COMPARE_OPS)
_USUAL_AGGREGATES = (
    *(Aggregate.COUNT,) * 3,
    # Whose borders few users meet: days of a zone, a mean that equals a limit, a first event unlike the last.
    *(Aggregate.DISTINCT_DAYS,) * 3,
    *(Aggregate.AVERAGE,) * 4,
    *(Aggregate.FIRST, Aggregate.LAST) * 2,
)
TEXT_OPS: tuple[TextOp, ...] = ("contains", "starts_with", "ends_with", "glob", "matches")
PERCENTS = (0.0, 25.0, 33.3, 50.0, 75.0, 100.0)
SALTS = ("hold-out", "", "ü\0")
DEPTH_MAX = 5
DEPTHS = (1, 0, 0, 1, 2, 3, DEPTH_MAX - 1)
TREE_DEPTH_MAX = 3
DRAWS_MAX = 4


def draw_world(choose: Chooser, palette: Palette, *, records_max: int = 60) -> World:
    """A whole world in the palette's account, with up to `records_max` records."""
    world = World(
        account=palette.account,
        inputs=palette.inputs,
        time_zone=palette.time_zone,
        as_of=palette.now,
        operations=draw_operations(choose, palette, records_max),
        journeys=(),
        event_retention=palette.event_retention,
    )
    return msgspec.structs.replace(world, journeys=JourneyDrawer(choose, palette, world).journeys())


# --- operations ---------------------------------------------------------------------------------------------


def draw_operations(choose: Chooser, palette: Palette, records_max: int) -> tuple[Operation, ...]:
    """Batches, with now and then an alias, an erasure, a batch sent twice or, where there is a retention, a
    removal of some of what it is over for among them.
    """
    operations: list[Operation] = []
    aliases = Aliases()
    left = records_max if choose.chance(60) else choose.between(1, records_max)
    while left > 0:
        size = min(left, choose.between(1, 16))
        left -= size
        records = tuple(draw_record(choose, palette) for _ in range(size))
        operations.append(Batch(records, choose.pick(("", "", "", "request-1", "request-2"))))
        if choose.chance(15):
            operations += draw_alias(choose, palette, aliases)
        if choose.chance(12):
            erased = choose.some(palette.user_ids, 1, 2)
            aliases.forget(erased)
            operations.append(Erase(erased))
        if palette.event_retention and choose.chance(30):
            over = palette.now - palette.event_retention
            operations.append(Expire(over - choose.pick((0, 1, MICROS_PER_DAY))))
    return tuple(operations)


def draw_alias(choose: Chooser, palette: Palette, aliases: Aliases) -> list[Operation]:
    """An alias that closes no cycle; none when the drawn pair would."""
    source, target = choose.pick(palette.user_ids), choose.pick(palette.user_ids)
    if aliases.closes_cycle(source, target) or aliases.now_called(source) != source:
        return []
    aliases.link(source, target)
    return [Alias(source, target)]


def draw_record(choose: Chooser, palette: Palette) -> Record:
    """An event (two times in three) or a user update."""
    user_id, input_name = choose.pick(palette.user_ids), choose.pick(palette.inputs)
    time = choose.pick(palette.instants)
    if choose.below(3) < 2:
        values = palette.event_values
        return EventRecord(
            user_id=user_id,
            input=input_name,
            name=pools.UNREAD_EVENT if choose.chance(15) else choose.pick(palette.event_names),
            type=choose.pick((EventType.CUSTOM, EventType.CUSTOM, EventType.COMMERCE, EventType.SCREEN_VIEW)),
            time=time,
            attributes={key: choose.pick(values[key]) for key in values if choose.chance(75)},
            event_id=choose.pick(pools.EVENT_IDS) if choose.chance(12) else "",
        )
    return UserRecord(
        user_id=user_id,
        input=input_name,
        time=time,
        attributes={
            key: None if choose.chance(10) else choose.pick(values)
            for key, values in palette.user_values.items()
            if choose.chance(70)
        },
        identities={
            type_: None if choose.chance(20) else choose.pick(pools.EMAILS)
            for type_ in pools.IDENTITY_TYPES
            if choose.chance(25)
        },
        consents={
            purpose: choose.pick((ConsentState.GIVEN, ConsentState.DENIED))
            for purpose in pools.REGULATIONS
            if choose.chance(20)
        },
    )


# --- journeys -----------------------------------------------------------------------------------------------


class JourneyDrawer:
    """Draws journeys over a world.

    It evaluates criteria and prefers those that split the users they draw from, because a tree of empty sets
    proves little.
    """

    def __init__(self, choose: Chooser, palette: Palette, world: World) -> None:
        self.choose = choose
        self.palette = palette
        self.oracle = Oracle(world)
        self.audiences: list[str] = []

    def journeys(self) -> tuple[Journey, ...]:
        """One or two journeys; the second may name audiences of the first."""
        return tuple(self._journey(f"j{n}") for n in range(2 if self.choose.chance(35) else 1))

    def _journey(self, journey_id: str) -> Journey:
        choose = self.choose
        inputs = choose.some(self.palette.inputs, 1, len(self.palette.inputs)) if choose.chance(50) else ()
        journey = Journey(id=journey_id, inputs=inputs)
        milestones = self._split(journey, journey_id, self.oracle.start(journey), 1)
        return msgspec.structs.replace(journey, milestones=milestones)

    def _split(
        self, journey: Journey, prefix: str, population: frozenset[str], depth: int
    ) -> tuple[Milestone, ...]:
        """The split below a milestone; its audiences may be named by whatever is drawn later."""
        choose = self.choose
        count = choose.pick((2, 1, 3) if depth == 1 else (1, 0, 2, 0))
        if depth > TREE_DEPTH_MAX or not population:
            count = 0
        split: list[Milestone] = []
        for position in range(count + (1 if count and choose.chance(50) else 0)):
            criteria, here = None, population
            if position < count:
                criteria, here = self._criterion(journey, population)
            milestone_id = f"{prefix}-{position + 1}"
            self.audiences.append(self.oracle.world.audience_name(milestone_id))
            children = self._split(journey, milestone_id, here, depth + 1)
            split.append(Milestone(id=milestone_id, criteria=criteria, children=children))
            population = population - here or population
        return tuple(split)

    def _criterion(self, journey: Journey, population: frozenset[str]) -> tuple[Criterion, frozenset[str]]:
        """A criterion, and the members it selects (as far as evaluated)."""
        choose, inputs = self.choose, self.oracle.world.inputs_of(journey)
        if self.audiences and choose.chance(35):
            drawer = CriteriaDrawer(
                choose,
                self.palette,
                inputs,
                self.audiences,
                lambda event: self.oracle.aggregates(event, inputs),
            )
            return drawer.criterion(choose.pick(DEPTHS)), population
        drawer = CriteriaDrawer(
            choose, self.palette, inputs, [], lambda event: self.oracle.aggregates(event, inputs)
        )
        for _ in range(DRAWS_MAX):
            criterion = drawer.criterion(choose.pick(DEPTHS))
            here = population & self.oracle.matching(criterion, journey)
            if here and here != population:
                break
        return criterion, here


class CriteriaDrawer:
    """Draws criteria for a journey with these inputs; `audiences` are those that may be named. `aggregates`
    says which numbers users have for the aggregate of a criterion.
    """

    def __init__(
        self,
        choose: Chooser,
        palette: Palette,
        inputs: tuple[str, ...],
        audiences: list[str],
        aggregates: Callable[[Event], list[Fraction]] = lambda _: [],
    ) -> None:
        self.choose = choose
        self.palette = palette
        self.inputs = inputs
        self.audiences = audiences
        self.aggregates = aggregates

    def criterion(self, depth: int) -> Criterion:
        """A criterion with at most `depth` levels of nodes above its leaves."""
        choose = self.choose
        label = f"label-{choose.below(1000)}" if choose.chance(20) else ""
        if depth == 0:
            return self._leaf(label)
        match choose.below(3):
            case 0:
                return Not(criterion=self.criterion(depth - 1), label=label)
            case 1:
                return AllOf(criteria=self._children(depth), label=label)
            case _:
                return AnyOf(criteria=self._children(depth), label=label)

    def _children(self, depth: int) -> tuple[Criterion, ...]:
        count = self.choose.pick((2, 2, 2, 2, 2, 3, 3, 1, 0))
        return tuple(self.criterion(depth - 1) for _ in range(count))

    def _leaf(self, label: str) -> Criterion:
        choose = self.choose
        number = choose.below(20)
        if number < 9:
            return self.event(label)
        if number < 13:
            known = (*self.palette.user_values,)
            key = choose.pick((*known, *known, *known, pools.USER_KEYS[0]))
            values = self.palette.user_values.get(key, ("gold",))
            return UserAttribute(key=key, test=self.value_test(values), label=label)
        if number < 15:
            return self.sequence(label)
        if number < 17 and self.audiences:
            return Audience(name=choose.pick(self.audiences), label=label)
        if number == 17:
            regulation, purpose = choose.pick(pools.REGULATIONS)
            state = choose.pick((ConsentState.GIVEN, ConsentState.DENIED))
            return Consent(regulation=regulation, purpose=purpose, state=state, label=label)
        if number == 18:
            type_ = choose.pick(pools.IDENTITY_TYPES)
            return Identity(type=type_, test=self.value_test(pools.EMAILS, strays=0), label=label)
        if choose.chance(30):
            return UserAttribute(
                key=USER_ID, test=self.value_test(self.palette.user_ids, strays=0), label=label
            )
        if choose.chance(50):
            key = choose.pick((FIRST_SEEN, LAST_SEEN))
            return UserAttribute(key=key, test=self._time_test(), label=label)
        low, high = sorted(choose.some(PERCENTS, 2, 2))
        return Bucket(salt=choose.pick(SALTS), from_percent=low, to_percent=high, label=label)

    # --- events ---------------------------------------------------------------------------------------------

    def event(self, label: str = "") -> Event:
        """An event criterion with any aggregate, window and condition."""
        choose = self.choose
        aggregate = choose.pick((*_USUAL_AGGREGATES, *Aggregate))
        needs_of = aggregate not in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS)
        of = self._of() if needs_of else ""
        event = Event(
            name=self._event_name(),
            type=self._event_type(),
            where=self._where(2) if choose.chance(35) else None,
            inputs=self._event_inputs(),
            window=self._window(),
            aggregate=aggregate,
            of=of,
            test=self._number_test(aggregate, of) if choose.chance(75) else None,
            label=label,
        )
        if aggregate is Aggregate.AVERAGE and choose.chance(90):
            return self._at_a_limit(event)
        return event

    def _at_a_limit(self, event: Event) -> Event:
        """The same with a limit that the aggregate of some user equals, if there is one."""
        # Of an average such as a third, no double is the exact limit.
        limits = [float(each) for each in self.aggregates(event) if Fraction(repr(float(each))) == each]
        if not limits:
            return event
        test = Compare(self.choose.pick((*EXCLUDING_OPS, *COMPARE_OPS)), self.choose.pick(limits))
        return msgspec.structs.replace(event, test=test)

    def _of(self) -> str:
        values = self.palette.event_values
        numeric = [key for key in values if any(isinstance(value, float) for value in values[key])]
        return self.choose.pick(numeric if numeric and self.choose.chance(80) else [*values])

    def sequence(self, label: str = "") -> Sequence:
        """A sequence of one to four steps, often with the same step twice."""
        choose = self.choose
        steps = [
            Step(
                name=self._event_name(),
                type=self._event_type(),
                where=self._where(1) if choose.chance(20) else None,
                inputs=self._event_inputs(),
            )
            for _ in range(choose.pick((2, 1, 2, 3)))
        ]
        if choose.chance(30):
            steps.append(steps[0])
        within = choose.pick((*pools.DURATIONS, self._gap())) if choose.chance(50) else None
        window = self._window() if choose.chance(50) else None
        return Sequence(steps=tuple(steps), within=within, window=window, label=label)

    def _gap(self) -> int:
        one, other = self.choose.pick(self.palette.instants), self.choose.pick(self.palette.instants)
        return max(1, abs(one - other) + self.choose.pick(pools.NUDGES))

    def _since(self) -> int:
        """How long ago one of the world's instants was, so that an edge of a window falls on it."""
        return max(1, self.palette.now - self.choose.pick(self.palette.instants))

    def _event_name(self) -> str:
        names = self.palette.event_names
        return self.choose.pick((*names, "", *names, "", *names, "never seen"))

    def _event_type(self) -> EventType | None:
        return self.choose.pick((None, None, None, None, EventType.CUSTOM, EventType.COMMERCE))

    def _event_inputs(self) -> tuple[str, ...]:
        choose = self.choose
        return choose.some(self.inputs, 1, len(self.inputs)) if choose.chance(25) else ()

    def _where(self, depth: int) -> Where:
        choose = self.choose
        if depth == 0 or choose.chance(50):
            known = (*self.palette.event_values,)
            key = choose.pick((*known, *known, *known, "amount"))
            values = self.palette.event_values.get(key, (1.0,))
            return WhereAttribute(key=key, test=self.value_test(values))
        conditions = tuple(self._where(depth - 1) for _ in range(choose.pick((2, 1, 0))))
        match choose.below(3):
            case 0:
                return WhereNot(condition=self._where(depth - 1))
            case 1:
                return WhereAll(conditions=conditions)
            case _:
                return WhereAny(conditions=conditions)

    def _window(self) -> Window | None:
        choose = self.choose
        match choose.below(6):
            case 0 | 1:
                return None
            case 2:
                return Last(
                    duration=choose.pick(
                        (self._since(), self._since(), *pools.DURATIONS, 30 * MICROS_PER_DAY)
                    )
                )
            case 3:
                near, far = sorted(choose.some((self._since(), *pools.DURATIONS), 2, 2))
                far += 1 if near == far else 0
                return BetweenAgo(from_=far, to=near if choose.chance(70) else 0)
            case 4:
                start, end = sorted((choose.pick(self.palette.instants), choose.pick(self.palette.instants)))
                end += 1 if start == end else 0
                return choose.pick((Range(start=start, end=end), Range(start=start), Range(end=end)))
            case _:
                return Calendar(
                    unit=choose.pick(
                        (CalendarUnit.DAY, CalendarUnit.WEEK, CalendarUnit.MONTH, *CalendarUnit)
                    ),
                    count=choose.between(1, 4),
                    offset=choose.below(3),
                    time_zone=choose.pick(("", *pools.ZONES)),
                )

    def _number_test(self, aggregate: Aggregate, of: str) -> NumberTest:
        choose = self.choose
        if aggregate in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS, Aggregate.DISTINCT):
            operands = [float(choose.below(4)) for _ in range(2)]
        else:
            operands = [self._number_near_aggregates(aggregate, of) for _ in range(2)]
        low, high = sorted(operands)
        match choose.below(7):
            case 0:
                return Equals(operands[0])
            case 1:
                return In(tuple(operands))
            case 2:
                return Between(low, high)
            case _:
                return Compare(choose.pick(COMPARE_OPS), operands[0])

    def _number_near_aggregates(self, aggregate: Aggregate, of: str) -> float:
        """A number that an aggregate of the attribute may well have: sums and means of its values."""
        choose = self.choose
        numbers = [v for v in self.palette.event_values[of] if isinstance(v, float)] or [0.0]
        # Most users have few events, so an average is often a single value.
        if aggregate not in (Aggregate.SUM, Aggregate.AVERAGE) or choose.chance(40):
            return choose.pick(numbers)
        drawn = [Fraction(repr(choose.pick(numbers))) for _ in range(choose.between(0, 3))]
        total = sum(drawn, Fraction(0))
        try:
            return float(total / len(drawn) if aggregate is Aggregate.AVERAGE and drawn else total)
        except OverflowError:
            return numbers[0]

    # --- tests on a value -----------------------------------------------------------------------------------

    def value_test(self, values: tuple[Value, ...], strays: int = 15) -> ValueTest:
        """A test that some of `values` may pass; in `strays` percent of cases, one for other values."""
        choose = self.choose
        value = (
            pools.draw_value(choose, self.palette.instants) if choose.chance(strays) else choose.pick(values)
        )
        if isinstance(value, tuple) and choose.chance(70):
            value = choose.pick(value or ("gold",))
        match choose.below(7):
            case 0:
                return Exists()
            case 1:
                return Equals(value, choose.chance(30) and isinstance(value, str | tuple))
            case 2:
                return self._in(values)
            case _:
                return self._test_like(value)

    def _in(self, values: tuple[Value, ...]) -> In:
        drawn = [self.choose.pick(values) for _ in range(self.choose.between(1, 3))]
        has_case = any(isinstance(value, str | tuple) for value in drawn)
        return In(tuple(drawn), self.choose.chance(30) and has_case)

    def _test_like(self, value: Value) -> ValueTest:
        choose = self.choose
        if isinstance(value, str):
            return self._string_test(value)
        if isinstance(value, bool):
            return Equals(value)
        if isinstance(value, int):
            return self._time_test()
        if isinstance(value, float):
            if choose.chance(30):
                return Between(*sorted((value, choose.pick(pools.NUMBERS))))
            return Compare(choose.pick(COMPARE_OPS), value)
        return Exists()

    def _string_test(self, value: str) -> ValueTest:
        choose = self.choose
        if value in pools.VERSIONS or value in pools.NO_VERSIONS:
            return Semver(choose.pick(SEMVER_OPS), choose.pick(pools.VERSIONS))
        if value in pools.PLACES:
            latitude, longitude = choose.pick(((52.5, 13.4), (0.0, 0.0), (48.0, 2.0), (-90.0, 0.0)))
            return Near(latitude, longitude, choose.pick((5_000.0, 1_000_000.0, 16_000_000.0)))
        op, ignore_case = choose.pick(TEXT_OPS), choose.chance(55)
        if op == "matches":
            return Text(op, choose.pick(pools.PATTERNS), ignore_case)
        start = choose.below(len(value) + 1)
        part = value[start : start + choose.between(1, 4)]
        if op == "glob":
            part = choose.pick(("*", "?", "", "*")) + part + choose.pick(("*", "?", "", "*?"))
        elif op == "starts_with":
            part = value[: min(start, 3)]
        elif op == "ends_with":
            part = value[max(start, len(value) - 3) :]
        return Text(op, (part.swapcase() if ignore_case else part) or "o", ignore_case)

    def _time_test(self) -> ValueTest:
        choose = self.choose
        one, other = choose.pick(self.palette.instants), choose.pick(self.palette.instants)
        match choose.below(5):
            case 0:
                return Between(min(one, other), max(one, other))
            case 1:
                return WithinLast(choose.pick((self._since(), *pools.DURATIONS)))
            case 2:
                return OlderThan(choose.pick((self._since(), *pools.DURATIONS)))
            case 3:
                return Equals(one)
            case _:
                return Compare(choose.pick(COMPARE_OPS), one)
