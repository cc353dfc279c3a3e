"""Who can have entered or left with nothing but time passing.

Between two instants every window and every relative test on a time moves a little: some instants come in,
some go out, and where the account has a retention, some events go out whatever their window. Those are the
slivers. A user can only have moved when something of theirs lies in a sliver: an event (for a window), an
attribute of an event (for a test inside `where`), an attribute of theirs, the first sign of life or the last.

The answer is generous, never short: aggregates, tests and the tree are not looked at, and a moving `where`
counts as passed by every event.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.criteria.matching import compile_test
from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    LAST_SEEN,
    AllOf,
    AnyOf,
    Criterion,
    Event,
    Not,
    OlderThan,
    Sequence,
    Step,
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
from engine.criteria.ranges import TimeRange, merged_ranges, symmetric_difference
from engine.plan.criteria import StepList, universe_of
from engine.plan.model import (
    AttributeMatch,
    EventMatch,
    EventSelection,
    InstantRange,
    Interval,
    Plan,
    RowFilter,
    RowsAny,
    RowTest,
    SeenMatch,
)
from engine.plan.model import Step as PlanStep
from engine.plan.passes import optimise
from engine.plan.resolve import resolve_test, resolve_where
from engine.plan.tree import Account, AudienceResolver, JourneyTree, made_of, workspaces_of
from engine.plan.windows import events_range
from engine.values import Micros

SOME_EVENT = (Interval(low=1.0),)


def moved_by_time(
    account: Account,
    journey: JourneyTree,
    before_as_of: Micros,
    after_as_of: Micros,
    resolver: AudienceResolver,
) -> Plan | None:
    """A plan whose one root holds at least every user whose membership of any milestone of the journey
    differs between the two instants, the data being the same. None when no user's can: nothing in the journey
    (and in the audiences it names) depends on time, or no window moved.
    """
    steps: list[PlanStep] = []
    for tree, milestone in made_of(journey, [each.id for each in journey.milestones], resolver):
        if milestone.criterion is not None:
            slivers = _Slivers(account, universe_of(tree.inputs).inputs, before_as_of, after_as_of)
            steps.extend(slivers.of(milestone.criterion))
    if not steps:
        return None
    plan = StepList()
    root = plan.unite([plan.add(step) for step in steps])
    return optimise(Plan(account=account.name, as_of=after_as_of, steps=tuple(plan.steps), roots=(root,)))


class _Slivers:
    """The predicates that find the users whom time moved in criteria of one journey."""

    def __init__(self, account: Account, inputs: tuple[str, ...], before: Micros, after: Micros) -> None:
        self._account = account
        self._inputs = inputs
        self._before = before
        self._after = after

    def of(self, criterion: Criterion) -> Iterator[PlanStep]:
        """One predicate for each sliver in the criterion."""
        match criterion:
            case AllOf() | AnyOf():
                for child in criterion.criteria:
                    yield from self.of(child)
            case Not():
                yield from self.of(criterion.criterion)
            case UserAttribute():
                yield from self._attribute(criterion)
            case Event():
                yield from self._events(criterion, criterion.window)
            case Sequence():
                for step in criterion.steps:
                    yield from self._events(step, criterion.window)
            case _:
                # Consents, buckets and identities (strings) know no time; audiences come as milestones.
                return

    def _attribute(self, criterion: UserAttribute) -> Iterator[PlanStep]:
        sliver = self._test_sliver(criterion.test)
        if not sliver:
            return
        test = InstantRange(sliver)
        if criterion.key in BUILT_IN_ATTRIBUTES:
            yield SeenMatch(inputs=self._inputs, last=criterion.key == LAST_SEEN, test=test)
        else:
            yield AttributeMatch(workspaces=workspaces_of(self._inputs), key=criterion.key, test=test)

    def _events(self, selected: Event | Step, window: Window | None) -> Iterator[PlanStep]:
        spans = [events_range(window, as_of, self._account) for as_of in (self._before, self._after)]
        moving = list(self._where_slivers(selected.where))
        where = None if selected.where is None or moving else resolve_where(selected.where, self._after)
        for span in symmetric_difference(*spans):
            yield self._some_event(selected, span, where)
        if moving:
            for span in merged_ranges(spans):
                yield self._some_event(selected, span, RowsAny(conditions=tuple(moving)))

    def _some_event(self, selected: Event | Step, span: TimeRange, where: RowFilter | None) -> PlanStep:
        selection = EventSelection(
            inputs=tuple(sorted(set(selected.inputs))) or self._inputs,
            name=selected.name,
            type=selected.type,
            time=span,
            where=where,
        )
        return EventMatch(selection=selection, intervals=SOME_EVENT)

    def _where_slivers(self, where: Where | None) -> Iterator[RowFilter]:
        """A test for each relative test in the condition: the attribute lies in its sliver."""
        match where:
            case WhereAll() | WhereAny():
                for condition in where.conditions:
                    yield from self._where_slivers(condition)
            case WhereNot():
                yield from self._where_slivers(where.condition)
            case WhereAttribute():
                if sliver := self._test_sliver(where.test):
                    yield RowTest(key=where.key, test=InstantRange(sliver))
            case None:
                return

    def _test_sliver(self, test: ValueTest) -> tuple[TimeRange, ...]:
        """The instants that pass the test at one of the two times only."""
        if not isinstance(test, WithinLast | OlderThan):
            return ()
        spans = [compile_test(resolve_test(test, as_of)).instants for as_of in (self._before, self._after)]
        return symmetric_difference(spans[0][0], spans[1][0])
