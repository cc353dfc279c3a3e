"""A plan for one user: whether the user is in a step.

A run over a group answers with sets. Of one user it is quicker to ask each predicate in turn, the cheapest
first, and only until the answer is known. The plan is the same, and so is the order in which it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from engine.backends.local.account.account import Account
from engine.backends.local.query.predicates import (
    AggregatePredicate,
    Predicate,
    SeenPredicate,
    SequencePredicate,
)
from engine.backends.local.query.resolving import resolve
from engine.backends.local.storage.turns import Unshared
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.criteria.ranges import TimeRange
from engine.plan.model import (
    Difference,
    EventMatch,
    EventSelection,
    Intersection,
    Plan,
    SeenMatch,
    SequenceMatch,
    Source,
    Step,
    Union,
)


class Question:
    """One user, asked about as of one instant: `steps` are those of the plan moved there."""

    __slots__ = ("group", "known", "read", "steps", "user")

    def __init__(self, ref: UserRef, steps: Sequence[Step]) -> None:
        self.group = ref >> GROUP_SHIFT
        self.user = ref & DENSE_MASK
        self.steps = steps
        self.known: dict[int, bool] = {}
        """Answers of steps that others share."""
        self.read = Unshared()


Test: TypeAlias = Callable[[Question], bool]


class OneUser:
    """The steps of a plan as tests of one user. Valid as long as the bound plan it is made of."""

    def __init__(
        self,
        account: Account,
        plan: Plan,
        predicates: Sequence[Predicate | None],
        costs: Sequence[float],
        shared: Sequence[bool],
        landings: Sequence[int],
    ) -> None:
        """`landings`: shared steps to ask first, so that no test nests too deep."""
        self._account = account
        self._costs = costs
        self._tests: list[Test] = []
        for index, (step, predicate) in enumerate(zip(plan.steps, predicates, strict=True)):
            test = self._test_of(index, step, predicate)
            self._tests.append(_once(index, test) if shared[index] else test)
        self._landings = [self._tests[index] for index in landings]
        self._roots = [self._tests[index] for index in plan.roots]

    def answers(self, ref: UserRef, plan: Plan) -> tuple[bool, ...]:
        """For each root whether it has the user, by a plan of the same template. Call with the state lock
        held. Raises TakesLong when something has to be read first.
        """
        question = Question(ref, plan.steps)
        for landing in self._landings:
            landing(question)
        return tuple([root(question) for root in self._roots])

    def _test_of(self, index: int, step: Step, predicate: Predicate | None) -> Test:
        match step:
            case Intersection():
                return _all(self._ordered(step.operands))
            case Union():
                return _any(self._ordered(step.operands))
            case Difference():
                return _but(self._tests[step.minuend], self._tests[step.subtrahend])
            case _:
                return self._source(index, step, predicate)

    def _ordered(self, operands: Sequence[int]) -> list[Test]:
        return [self._tests[index] for index in sorted(operands, key=self._costs.__getitem__)]

    def _source(self, index: int, before: Source, predicate: Predicate | None) -> Test:
        assert predicate is not None
        account = self._account

        def has(question: Question) -> bool:
            step = question.steps[index]
            if step is before:
                return predicate.has(question.group, question.user, question.read)
            if isinstance(predicate, AggregatePredicate):
                time = _moved_time(before, step)
                if time is not None:
                    return predicate.has_within(time, question.group, question.user, question.read)
            elif isinstance(predicate, SequencePredicate):
                times = _moved_times(before, step)
                if times is not None:
                    return predicate.has_within(times, question.group, question.user)
            elif (
                isinstance(predicate, SeenPredicate)
                and isinstance(before, SeenMatch)
                and isinstance(step, SeenMatch)
                and step.inputs == before.inputs
                and step.last is before.last
            ):
                return predicate.has_within(step.test.ranges, question.group, question.user)
            moved = resolve(account, step)
            assert moved is not None
            return moved.has(question.group, question.user, question.read)

        return has


def _moved_time(before: Step, step: Step) -> TimeRange | None:
    """The range of time of events that differ from those before in nothing else, as far as that is quickly
    seen: parts that do not depend on the instant are the same objects.
    """
    if type(before) is not EventMatch or type(step) is not EventMatch:
        return None
    is_same = (
        _is_moved(before.selection, step.selection)
        and step.aggregate is before.aggregate
        and step.intervals is before.intervals
        and step.of is before.of
        and step.time_zone is before.time_zone
    )
    return step.selection.time if is_same else None


def _moved_times(before: Step, step: Step) -> list[TimeRange] | None:
    """As `_moved_time`, of each step of a sequence."""
    if type(before) is not SequenceMatch or type(step) is not SequenceMatch or step.within != before.within:
        return None
    if len(step.steps) != len(before.steps) or not all(map(_is_moved, before.steps, step.steps)):
        return None
    return [each.time for each in step.steps]


def _is_moved(before: EventSelection, selection: EventSelection) -> bool:
    return (
        selection.where is before.where
        and selection.inputs is before.inputs
        and selection.name is before.name
        and selection.type is before.type
    )


def _all(tests: Sequence[Test]) -> Test:
    def test(question: Question) -> bool:
        for each in tests:  # noqa: SIM110 # a generator would cost more than the tests
            if not each(question):
                return False
        return True

    return test


def _any(tests: Sequence[Test]) -> Test:
    def test(question: Question) -> bool:
        for each in tests:  # noqa: SIM110
            if each(question):
                return True
        return False

    return test


def _but(minuend: Test, subtrahend: Test) -> Test:
    return lambda question: minuend(question) and not subtrahend(question)


def _once(index: int, test: Test) -> Test:
    def answer(question: Question) -> bool:
        known = question.known.get(index)
        if known is None:
            known = question.known[index] = test(question)
        return known

    return answer
