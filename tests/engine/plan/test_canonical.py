"""The name of a question does not depend on the order of its parts."""

from __future__ import annotations

import itertools

import pytest

from engine.criteria.model import (
    AllOf,
    AnyOf,
    Bucket,
    Compare,
    Criterion,
    Equals,
    Event,
    Last,
    Not,
    UserAttribute,
)
from engine.plan.canonical import canonical_digest
from engine.plan.compile import compile_milestone
from engine.plan.tree import Account, JourneyTree, TreeMilestone
from engine.values import MICROS_PER_DAY

ACCOUNT = "accounts/a"
WEB = f"{ACCOUNT}/workspaces/w/inputs/web"

PARTS: tuple[Criterion, ...] = (
    UserAttribute(key="plan", test=Equals("free"), label="plan"),
    Not(criterion=UserAttribute(key="age", test=Compare("less_than", 18.0)), label="adult"),
    Event(name="visit", window=Last(duration=7 * MICROS_PER_DAY), test=Compare("greater_or_equal", 1.0)),
    AnyOf(
        criteria=(
            Bucket(salt="x", from_percent=0, to_percent=10),
            UserAttribute(key="vip", test=Equals(True)),
        )
    ),
    AllOf(
        criteria=(
            UserAttribute(key="plan", test=Equals("free")),
            Bucket(salt="y", from_percent=5, to_percent=50),
        )
    ),
)


def digest(criterion: Criterion, as_of: int = 0) -> bytes:
    milestone = TreeMilestone(id="m", criterion=criterion)
    tree = JourneyTree(name=f"{ACCOUNT}/journeys/j", inputs=(WEB,), milestones=(milestone,))

    def resolver(name: str) -> tuple[JourneyTree, str]:
        raise LookupError(name)

    return canonical_digest(compile_milestone(Account(ACCOUNT), tree, "m", as_of, resolver).plan)


@pytest.mark.parametrize("group", [AllOf, AnyOf])
def test_every_order_has_the_same_name(group: type[AllOf] | type[AnyOf]) -> None:
    names = {digest(group(criteria=order)) for order in itertools.permutations(PARTS)}
    assert len(names) == 1
    nested = {
        digest(AllOf(criteria=(group(criteria=inner), group(criteria=PARTS[3:]))))
        for inner in itertools.permutations(PARTS[:3])
    }
    assert len(nested) == 1


def test_different_questions_have_different_names() -> None:
    asked: list[Criterion] = [
        AllOf(criteria=PARTS),
        AnyOf(criteria=PARTS),
        AllOf(criteria=PARTS[1:]),
        Not(criterion=AllOf(criteria=PARTS)),
        PARTS[0],
        UserAttribute(key="plan", test=Equals("Free")),
        UserAttribute(key="plan", test=Equals(True)),
        UserAttribute(key="plan", test=Equals(1.0)),
    ]
    assert len({digest(criterion) for criterion in asked}) == len(asked)
    # A label asks for one more size.
    assert digest(PARTS[0]) != digest(UserAttribute(key="plan", test=Equals("free")))
