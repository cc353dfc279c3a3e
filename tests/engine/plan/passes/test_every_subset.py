"""Passes never change an answer: random journeys over random worlds, with every subset of the passes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.plan.compile import compile_intersections, compile_journey, compile_milestone
from engine.plan.model import (
    Difference,
    Empty,
    Intersection,
    Plan,
    Step,
    Union,
    Universe,
    decode_plan,
    operands_of,
)
from engine.plan.passes import ALL_PASSES, Pass, optimise
from engine.plan.tree import Account, JourneyTree
from tests.engine.plan.passes.notation import leaf
from tests.engine.plan.strategies import NOW, WORLDS, journeys
from tests.engine.plan.worlds import World, evaluate

ACCOUNT = Account("accounts/a", "Europe/Berlin")
AUDIENCE = "accounts/a/audiences/other"

SUBSETS = st.lists(st.sampled_from(ALL_PASSES), unique=True).map(tuple)


@given(
    journeys(audiences=(AUDIENCE,)),
    journeys("other"),
    st.sampled_from(["m0", "rest", "below1"]),
    WORLDS,
    SUBSETS,
)
def test_any_subset_of_passes_over_a_journey(
    journey: JourneyTree, other: JourneyTree, named: str, world: World, passes: tuple[Pass, ...]
) -> None:
    def resolver(_: str) -> tuple[JourneyTree, str]:
        return other, named

    raw = compile_journey(ACCOUNT, journey, NOW, resolver, passes=()).plan
    expected = evaluate(raw, world)
    assert evaluate(optimise(raw, passes), world) == expected
    best = optimise(raw)
    assert evaluate(best, world) == expected
    assert len(best.steps) <= len(raw.steps)
    assert decode_plan(best.encode()).digest() == best.digest()
    assert optimise(raw).digest() == best.digest()

    milestone = compile_milestone(ACCOUNT, journey, "below1", NOW, resolver)
    index = [each.id for each in journey.milestones].index("below1")
    assert evaluate(milestone.plan, world)[0] == expected[index]

    common = compile_intersections(ACCOUNT, [AUDIENCE, AUDIENCE], NOW, resolver)
    assert common.subsets == ((0,), (1,), (0, 1))
    single = compile_milestone(ACCOUNT, other, named, NOW, resolver)
    assert evaluate(common.plan, world) == [evaluate(single.plan, world)[0]] * 3


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan over a few leaves: nested in every way, with operands used again and again."""
    steps: list[Step] = [leaf(word) for word in ("U", "V", "0", "e", "f", "v", "s", "a", "b")]
    for _ in range(draw(st.integers(1, 12))):
        indices = st.integers(0, len(steps) - 1)
        several = st.lists(indices, min_size=2, max_size=4).map(tuple)
        steps.append(
            draw(
                st.one_of(
                    st.builds(Intersection, operands=several),
                    st.builds(Union, operands=several),
                    st.builds(Difference, minuend=indices, subtrahend=indices),
                )
            )
        )
    roots = draw(st.lists(st.integers(0, len(steps) - 1), min_size=1, max_size=3).map(tuple))
    return Plan(account="accounts/a", as_of=0, steps=tuple(steps), roots=roots)


USERS_OF_LEAF = st.fixed_dictionaries({word: st.sets(st.integers(0, 9)) for word in "Vefvsab"})


@given(plans(), USERS_OF_LEAF, st.sets(st.integers(0, 9)), SUBSETS)
def test_any_subset_of_passes_over_any_plan(
    plan: Plan, users: dict[str, set[int]], everyone: set[int], passes: tuple[Pass, ...]
) -> None:
    # Events and sequences are of the universe's users, and V lies inside U; attributes are of anyone.
    inside = {word: users[word] & everyone for word in "Vefs"}
    sets = {"U": everyone, "a": users["a"], "b": users["b"], "v": users["v"] & inside["V"], **inside}

    def run(which: Plan) -> list[set[int]]:
        found: list[set[int]] = []
        for step in which.steps:
            operands = [found[operand] for operand in operands_of(step)]
            match step:
                case Empty():
                    found.append(set())
                case Intersection():
                    found.append(set.intersection(*operands))
                case Union():
                    found.append(set().union(*operands))
                case Difference():
                    found.append(operands[0] - operands[1])
                case _:
                    found.append(next(sets[word] for word in sets if leaf(word) == step))
        return [found[root] for root in which.roots]

    assert run(optimise(plan, passes)) == run(plan)
    assert run(optimise(plan)) == run(plan)


def test_unneeded_steps_are_removed() -> None:
    plan = Plan(
        account="accounts/a", as_of=0, steps=(leaf("a"), Universe(inputs=("i",)), leaf("b")), roots=(2,)
    )
    for passes in ((run,) for run in ALL_PASSES):
        assert optimise(plan, passes).steps == (leaf("b"),)
