"""Plans of any depth that is allowed are statements that a server's stack holds."""

from __future__ import annotations

import pytest

from engine.backends.clickhouse.query.compiler import EXPRESSION_STEPS, QUERY_LEVELS_MAX, _levels
from engine.errors import FailedPrecondition
from engine.limits import AUDIENCE_LEVELS_MAX, JOURNEY_MILESTONES_MAX
from engine.plan.model import Difference, EventMatch, EventSelection, Plan, Step, Universe, operands_of
from engine.values import MICROS_PER_DAY
from tests.engine.deep_audiences import plan_of_deepest

NOW = 20_000 * MICROS_PER_DAY


def differences(length: int) -> Plan:
    """Each step takes another event's users from the one before."""
    steps: list[Step] = [Universe(inputs=("i",))]
    last = 0
    for number in range(length):
        steps.append(EventMatch(selection=EventSelection(inputs=("i",), name=f"e{number}"), intervals=()))
        steps.append(Difference(minuend=last, subtrahend=len(steps) - 1))
        last = len(steps) - 1
    return Plan(account="accounts/a", as_of=NOW, steps=tuple(steps), roots=(last,))


def largest(plan: Plan, levels: tuple[int, ...]) -> int:
    """Steps of the largest expression with its aliases replaced."""
    sizes: list[int] = []
    for index, step in enumerate(plan.steps):
        operands = operands_of(step)
        assert all(levels[operand] <= levels[index] for operand in operands)
        own = (sizes[each] if levels[each] == levels[index] else 1 for each in operands)
        sizes.append(1 + sum(own))
    return max(sizes)


@pytest.mark.parametrize(
    ("plan", "steps_max"),
    [
        (differences(50), EXPRESSION_STEPS[0]),
        (differences(JOURNEY_MILESTONES_MAX), EXPRESSION_STEPS[1]),
        (plan_of_deepest(AUDIENCE_LEVELS_MAX), EXPRESSION_STEPS[1]),
    ],
    ids=["a small split", "the widest split", "the deepest audiences"],
)
def test_deep_plans_take_few_queries_in_each_other(plan: Plan, steps_max: int) -> None:
    levels = _levels(plan)
    assert max(levels) < QUERY_LEVELS_MAX
    assert largest(plan, levels) <= steps_max


def test_a_plan_that_takes_too_many_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="too deep for a cluster") as refused:
        _levels(differences(20 * JOURNEY_MILESTONES_MAX))
    assert refused.value.reason == "AUDIENCE_TOO_DEEP"
    assert refused.value.metadata == {"limit": str(QUERY_LEVELS_MAX)}
