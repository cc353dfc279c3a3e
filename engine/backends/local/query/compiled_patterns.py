"""Compiles the patterns of a plan before the state lock is taken.

A plan is bound with the lock held, and compiling the patterns of the largest criteria takes a tenth of a
second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.criteria.compiling import compiling
from engine.criteria.conditions import tests_in
from engine.criteria.operators import Matcher, ResolvedTest, Text, matcher_of
from engine.plan.model import (
    AttributeMatch,
    EventMatch,
    IdentityMatch,
    Plan,
    SequenceMatch,
    Step,
    UserIdMatch,
)


@contextmanager
def compiled_patterns(plan: Plan, deadline: float | None) -> Iterator[None]:
    """The matchers of the plan's patterns are found without compiling within the block. Raises
    DeadlineExceeded.
    """
    held: list[Matcher] = []
    for step in plan.steps:
        for test in _tests_of(step):
            if isinstance(test, Text) and test.is_compiled:
                with compiling(deadline):
                    held.append(matcher_of(test))
    yield


def _tests_of(step: Step) -> Iterator[ResolvedTest]:
    """The tests on values of a step. One of a step that is missing here is compiled when it is bound."""
    match step:
        case AttributeMatch() | IdentityMatch() | UserIdMatch():
            yield step.test
        case EventMatch():
            yield from (each.test for each in tests_in(step.selection.where))
        case SequenceMatch():
            yield from (each.test for selection in step.steps for each in tests_in(selection.where))
