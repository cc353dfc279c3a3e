"""Compiles the patterns of criteria to check them, before anyone takes a lock.

The patterns of criteria have a budget of instructions together, and those of a call too: once it is used up,
nothing more is compiled. `engine.criteria.compiling` says how threads share the interpreter meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

from engine.criteria.compiling import compiling
from engine.criteria.faults import CRITERIA_PATH, Finding, instructions_fault
from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    Criterion,
    Event,
    Identity,
    Not,
    Sequence,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
)
from engine.criteria.operators import Text
from engine.criteria.visitor import CriterionVisitor
from engine.errors import InvalidInput
from engine.limits import Limits


def findings(
    criteria: Iterable[Criterion],
    limits: Limits,
    deadline: float | None = None,
    *,
    field: str = CRITERIA_PATH,
) -> Mapping[object, Finding]:
    """What compiling finds about the patterns of criteria, by test; nothing about those beyond the budget of
    their criteria. Raises DeadlineExceeded, and InvalidInput, with the field, beyond the budget of a call.
    """
    found: dict[object, Finding] = {}
    in_call, most = 0, limits.call_instructions_max
    for each in criteria:
        in_criteria = 0
        for text in _patterns_in(each, limits.criteria_depth_max):
            if text not in found:
                if in_call > most:
                    raise InvalidInput.one(field, instructions_fault(most))
                with compiling(deadline):
                    finding = text.finding(limits)
                if finding is None:
                    continue
                found[text] = finding
                in_call += finding.instructions
            in_criteria += found[text].instructions
            if in_criteria > limits.criteria_instructions_max:
                break
    return found


def _patterns_in(criterion: Criterion, levels: int) -> Iterator[Text]:
    """The tests that run on RE2, in reading order, in at most `levels` levels: deeper ones are refused."""
    for test in _TESTS.visit(criterion, levels):
        if isinstance(test, Text) and test.is_compiled:
            yield test


class _Tests(CriterionVisitor[int, Iterator[ValueTest]]):
    """The tests on values in reading order, without those on aggregates, which are on numbers. The context is
    how many levels there may be, that of the node included.
    """

    def visit(self, criterion: Criterion, context: int) -> Iterator[ValueTest]:
        return super().visit(criterion, context - 1) if context else iter(())

    def all_of(self, criterion: AllOf, context: int) -> Iterator[ValueTest]:
        return self._of_parts(criterion.criteria, context)

    def any_of(self, criterion: AnyOf, context: int) -> Iterator[ValueTest]:
        return self._of_parts(criterion.criteria, context)

    def _of_parts(self, parts: tuple[Criterion, ...], levels: int) -> Iterator[ValueTest]:
        for part in parts:
            yield from self.visit(part, levels)

    def not_(self, criterion: Not, context: int) -> Iterator[ValueTest]:
        return self.visit(criterion.criterion, context)

    def user_attribute(self, criterion: UserAttribute, context: int) -> Iterator[ValueTest]:
        yield criterion.test

    def event(self, criterion: Event, context: int) -> Iterator[ValueTest]:
        return _tests_in(criterion.where, context)

    def sequence(self, criterion: Sequence, context: int) -> Iterator[ValueTest]:
        for step in criterion.steps:
            yield from _tests_in(step.where, context - 1)

    def audience(self, criterion: Audience, context: int) -> Iterator[ValueTest]:
        return iter(())

    def consent(self, criterion: Consent, context: int) -> Iterator[ValueTest]:
        return iter(())

    def identity(self, criterion: Identity, context: int) -> Iterator[ValueTest]:
        yield criterion.test

    def bucket(self, criterion: Bucket, context: int) -> Iterator[ValueTest]:
        return iter(())


def _tests_in(where: Where | None, levels: int) -> Iterator[ValueTest]:
    if levels <= 0:
        return
    match where:
        case WhereAll() | WhereAny():
            for condition in where.conditions:
                yield from _tests_in(condition, levels - 1)
        case WhereNot():
            yield from _tests_in(where.condition, levels - 1)
        case WhereAttribute():
            yield where.test
        case None:
            return
        case _:
            assert_never(where)


_TESTS = _Tests()
