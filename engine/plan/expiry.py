"""Expiry: the users who can enter or leave an audience as time passes, without new data.

The steps of a journey are made as of both instants. The clock only decides ranges of time inside them, and
the ends of a range never move back as time passes. So a user's membership can change only with data in the
time that an end of a range has swept over: an event, a user attribute, an event attribute, or a first or last
seen time. The plan finds those users. It holds for all instants in between as well, so one plan for the
coming hour finds everyone who may move within it.

The result is an upper bound: aggregates, sequences and the tree are not evaluated. Every kind of step has its
method here. A step that differs in an unexpected way raises `UnexpectedChange`, rather than never expire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from engine.criteria.conditions import WhereAny, WhereAttribute, tests_in
from engine.criteria.model import Exists
from engine.criteria.ranges import is_swept, merged_ranges, spanned, swept
from engine.plan.compile import Planner
from engine.plan.criteria import StepList
from engine.plan.model import (
    SOME_EVENT,
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
    Plan,
    ResolvedTest,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Step,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
    encode_step,
)
from engine.plan.passes import Pass, optimise
from engine.plan.passes.fold_constants import fold_constants
from engine.plan.passes.share import share
from engine.plan.passes.simplify_rows import simplify_rows
from engine.plan.timed_steps import TimedSteps
from engine.plan.tree import Account, AudienceResolver, JourneyTree
from engine.plan.visitor import StepVisitor
from engine.values import Micros

Part = TypeVar("Part", bound=msgspec.Struct)

PASSES: tuple[Pass, ...] = (simplify_rows, fold_constants, share)
"""A union of predicates offers nothing to the other passes."""


LATER_KEPT_MAX = 4
ANSWERS_KEPT_MAX = 16
"""What is kept of each template for `may_move`: journeys that share it ask about few instants."""


class UnexpectedChange(TypeError):
    """A step depends on time in an unsupported way: a bug in this module, not in the input."""


class ExpiryTemplate:
    """Plans of expiry for the milestones that a planner has compiled, between any two instants."""

    def __init__(self, planner: Planner, timed: TimedSteps | None = None) -> None:
        """`timed`: those of the planner, if they are known."""
        self._account = planner.account.name
        self._timed = TimedSteps(planner) if timed is None else timed
        self._later: dict[Micros, Mapping[int, Step]] = {}
        """The steps as of later instants that `may_move` was asked about."""
        self._answers: dict[tuple[Micros, Micros, tuple[Micros, Micros] | None], bool] = {}
        """What `may_move` has answered."""

    @property
    def depends_on_time(self) -> bool:
        """Whether time can move anyone."""
        return bool(self._timed)

    def between(
        self, before_as_of: Micros, after_as_of: Micros, passes: Sequence[Pass] = PASSES
    ) -> Plan | None:
        """A plan whose only root contains at least every user whose membership in one of the milestones is
        not the same at all instants between the two, both included, given the same data. The instants may
        come in either order.

        None when there are no such users: nothing depends on time, or no window moved.
        """
        # Milestones often share windows; each distinct step is handled once.
        found = {encode_step(step): step for step in self._expired(before_as_of, after_as_of)}
        if not found:
            return None
        plan = StepList(after_as_of)
        root = plan.union([plan.add(step) for step in found.values()])
        raw = Plan(account=self._account, as_of=after_as_of, steps=tuple(plan.steps), roots=(root,))
        return optimise(raw, passes)

    def may_move(
        self, before_as_of: Micros, after_as_of: Micros, times: tuple[Micros, Micros] | None
    ) -> bool:
        """Whether the plan `between` may find users by events of times between these two, both included, or
        by first or last seen times there; None: by any data. It is asked again and again with the same
        instants, and later with the same later one.
        """
        question = before_as_of, after_as_of, times
        found = self._answers.get(question)
        if found is None:
            if len(self._answers) >= ANSWERS_KEPT_MAX:
                self._answers.clear()
            found = self._answers[question] = self._may_move(before_as_of, after_as_of, times)
        return found

    def _may_move(
        self, before_as_of: Micros, after_as_of: Micros, times: tuple[Micros, Micros] | None
    ) -> bool:
        first, last = sorted((before_as_of, after_as_of))
        later = self._later.get(last)
        if later is None:
            if len(self._later) >= LATER_KEPT_MAX:
                self._later.clear()
            later = self._later[last] = self._timed.at(last)
        steps = self._timed.at(first)
        return any(_may_find(steps[index], after, times) for index, after in later.items())

    def _expired(self, before_as_of: Micros, after_as_of: Micros) -> Iterator[Step]:
        first, last = sorted((before_as_of, after_as_of))
        steps, later = self._timed.at(first), self._timed.at(last)
        for index, old in steps.items():
            if old != (new := later[index]):
                yield from expired(old, new)


def expiry_plan(
    account: Account,
    journey: JourneyTree,
    before_as_of: Micros,
    after_as_of: Micros,
    resolver: AudienceResolver,
) -> Plan | None:
    """`ExpiryTemplate.between` of all milestones of a journey. Raises NotFound and AudienceCycle as compiling
    does.
    """
    planner = Planner(account, after_as_of, resolver)
    planner.milestones(journey, [milestone.id for milestone in journey.milestones])
    return ExpiryTemplate(planner).between(before_as_of, after_as_of)


def expired(before: Step, after: Step) -> Iterator[Step]:
    """Predicates that find the users whose answer to a step may differ between two instants, given the step
    as compiled at each of them. Raises UnexpectedChange.
    """
    return _Expiry(before).visit(after)


class _Expiry(StepVisitor[Iterator[Step]]):
    def __init__(self, before: Step) -> None:
        self._before = before

    def universe(self, step: Universe) -> Iterator[Step]:
        return self._independent_of_time(step)

    def empty(self, step: Empty) -> Iterator[Step]:
        return self._independent_of_time(step)

    def intersection(self, step: Intersection) -> Iterator[Step]:
        return self._independent_of_time(step)

    def union(self, step: Union) -> Iterator[Step]:
        return self._independent_of_time(step)

    def difference(self, step: Difference) -> Iterator[Step]:
        return self._independent_of_time(step)

    def consent(self, step: ConsentMatch) -> Iterator[Step]:
        return self._independent_of_time(step)

    def user_id(self, step: UserIdMatch) -> Iterator[Step]:
        return self._independent_of_time(step)

    def bucket(self, step: BucketMatch) -> Iterator[Step]:
        return self._independent_of_time(step)

    def attribute(self, step: AttributeMatch) -> Iterator[Step]:
        before = _same_but_for(("test",), self._before, step)
        yield msgspec.structs.replace(step, test=_changed(before.test, step.test))

    def seen(self, step: SeenMatch) -> Iterator[Step]:
        before = _same_but_for(("test",), self._before, step)
        ranges = _swept_tests(before.test.ranges, step.test.ranges)
        yield msgspec.structs.replace(step, test=InstantRange(ranges))

    def identity(self, step: IdentityMatch) -> Iterator[Step]:
        before = _same_but_for(("test",), self._before, step)
        yield msgspec.structs.replace(step, test=_changed(before.test, step.test))

    def event(self, step: EventMatch) -> Iterator[Step]:
        before = _same_but_for(("selection",), self._before, step)
        return _changed_events(before.selection, step.selection)

    def sequence(self, step: SequenceMatch) -> Iterator[Step]:
        before = _same_but_for(("steps",), self._before, step)
        for old, new in zip(before.steps, step.steps, strict=True):
            yield from _changed_events(old, new)

    def _independent_of_time(self, step: Step) -> Iterator[Step]:
        raise UnexpectedChange(f"{self._before} became {step}")


class _Times(StepVisitor[tuple[TimeRange, ...]]):
    """Only events and the times of users belong to an instant; other data come by user updates."""

    def universe(self, step: Universe) -> tuple[TimeRange, ...]:
        return ()

    def empty(self, step: Empty) -> tuple[TimeRange, ...]:
        return ()

    def intersection(self, step: Intersection) -> tuple[TimeRange, ...]:
        return ()

    def union(self, step: Union) -> tuple[TimeRange, ...]:
        return ()

    def difference(self, step: Difference) -> tuple[TimeRange, ...]:
        return ()

    def attribute(self, step: AttributeMatch) -> tuple[TimeRange, ...]:
        return ()

    def seen(self, step: SeenMatch) -> tuple[TimeRange, ...]:
        return step.test.ranges

    def identity(self, step: IdentityMatch) -> tuple[TimeRange, ...]:
        return ()

    def user_id(self, step: UserIdMatch) -> tuple[TimeRange, ...]:
        return ()

    def consent(self, step: ConsentMatch) -> tuple[TimeRange, ...]:
        return ()

    def event(self, step: EventMatch) -> tuple[TimeRange, ...]:
        return (step.selection.time,)

    def sequence(self, step: SequenceMatch) -> tuple[TimeRange, ...]:
        return tuple(selection.time for selection in step.steps)

    def bucket(self, step: BucketMatch) -> tuple[TimeRange, ...]:
        return ()


_TIMES = _Times()


def _may_find(before: Step, after: Step, times: tuple[Micros, Micros] | None) -> bool:
    """Whether `expired` may find users by data of these times; None: by any."""
    if times is None:
        return before != after
    if (
        isinstance(before, EventMatch)
        and isinstance(after, EventMatch)
        and before.selection.where == after.selection.where
    ):
        # The most frequent case, in few steps.
        return is_swept(before.selection.time, after.selection.time, *times)
    if before == after:
        return False
    first, last = times
    return any(
        (span.start is None or span.start <= last) and (span.end is None or first < span.end)
        for step in expired(before, after)
        for span in _TIMES.visit(step)
    )


def _same_but_for(fields: tuple[str, ...], before: object, after: Part) -> Part:
    """Returns `before`, which must equal `after` except for these fields. Raises UnexpectedChange."""
    kind = type(after)
    if isinstance(before, kind):
        same = msgspec.structs.replace(before, **{field: getattr(after, field) for field in fields})
        if same == after:
            return before
    raise UnexpectedChange(f"{before} became {after}")


def _changed(before: ResolvedTest, after: ResolvedTest) -> ResolvedTest:
    """A test for the values that may pass at some instants only."""
    if isinstance(before, InstantRange) and isinstance(after, InstantRange):
        return InstantRange(_swept_tests(before.ranges, after.ranges))
    # How this test moves is unknown, but a missing value never passes.
    return Exists()


def _swept_tests(before: tuple[TimeRange, ...], after: tuple[TimeRange, ...]) -> tuple[TimeRange, ...]:
    """The instants that may be in the ranges at some instants only."""
    if len(before) == len(after):
        return merged_ranges(span for old, new in zip(before, after, strict=True) for span in swept(old, new))
    return (spanned((*before, *after)),)


def _changed_events(before: EventSelection, after: EventSelection) -> Iterator[Step]:
    """Users with an event that may have entered or left the selection."""
    _same_but_for(("time", "where"), before, after)
    conditions = tuple(_changed_conditions(before.where, after.where))
    # When the condition changes too, its result for events outside one of the windows is left open.
    where = None if conditions else after.where
    for span in swept(before.time, after.time):
        yield _some_event(msgspec.structs.replace(after, time=span, where=where))
    if conditions:
        moved = WhereAny(conditions=conditions)
        span = spanned((before.time, after.time))
        yield _some_event(msgspec.structs.replace(after, time=span, where=moved))


def _some_event(selection: EventSelection) -> Step:
    return EventMatch(selection=selection, intervals=SOME_EVENT)


def _changed_conditions(before: RowFilter | None, after: RowFilter | None) -> Iterator[RowFilter]:
    """One condition for each time-dependent test in `where`: the attribute may pass at one instant only."""
    for old, new in zip(tests_in(before), tests_in(after), strict=True):
        if old != new:
            old = _same_but_for(("test",), old, new)
            yield WhereAttribute(key=new.key, test=_changed(old.test, new.test))
