"""A template moved to an instant is the plan compiled as of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.criteria.model import Compare, Event, Last, UserAttribute, WithinLast
from engine.plan.compile import compile_audiences
from engine.plan.model import Plan
from engine.plan.template import audiences_template
from engine.plan.tree import Account, JourneyTree, TreeMilestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS
from tests.oracle.strategies import worlds
from tests.oracle.trees import Trees
from tests.oracle.world import World

ACCOUNT = "accounts/a"
INPUT = f"{ACCOUNT}/workspaces/w/inputs/i"
NOON = 1_700_049_600_000_000
STEPS = st.sampled_from((0, 1, -1, 59 * MICROS_PER_HOUR, MICROS_PER_DAY, -400 * MICROS_PER_DAY))


@settings(max_examples=150)
@given(
    world=worlds(records_max=1),
    steps=st.lists(STEPS, min_size=1, max_size=5),
    ends=st.sampled_from(((), (TIME_MIN_MICROS, TIME_MAX_MICROS))),
)
def test_a_template_is_the_plan_of_any_instant(world: World, steps: list[int], ends: tuple[int, ...]) -> None:
    trees = Trees(world)
    template = audiences_template(trees.account, trees.audiences(), trees.resolve)
    for as_of in (world.as_of, *(world.as_of + step for step in steps), *ends):
        compiled = compile_audiences(trees.account, trees.audiences(), as_of, trees.resolve, passes=())
        assert template.at(as_of).encode() == compiled.encode()


def at_two_instants(*criteria: Event | UserAttribute, retention: int = 0) -> tuple[Plan, Plan]:
    """A template of as many siblings, at two instants."""
    milestones = tuple(
        TreeMilestone(id=f"m{at}", position=at, criterion=criterion) for at, criterion in enumerate(criteria)
    )
    tree = JourneyTree(name=f"{ACCOUNT}/journeys/j", inputs=(INPUT,), milestones=milestones)
    template = audiences_template(
        Account(ACCOUNT, "UTC", retention), [each.id for each in milestones], lambda name: (tree, name)
    )
    return template.at(NOON), template.at(NOON + 1)


def moved_steps(first: Plan, second: Plan) -> list[str]:
    """The kinds of steps that are not shared."""
    pairs = zip(first.steps, second.steps, strict=True)
    return [type(step).__name__ for step, other in pairs if step is not other]


def test_plans_of_a_template_share_what_does_not_depend_on_time() -> None:
    first, second = at_two_instants(
        Event(name="buy", test=Compare("greater_or_equal", 2.0)),
        Event(name="buy", window=Last(duration=7 * MICROS_PER_DAY)),
        UserAttribute(key="since", test=WithinLast(MICROS_PER_DAY)),
    )
    assert first.roots is second.roots
    assert moved_steps(first, second) == ["EventMatch", "AttributeMatch"]
    assert (first.as_of, second.as_of) == (NOON, NOON + 1)


def test_retention_makes_every_event_depend_on_time() -> None:
    event = Event(name="buy")
    assert moved_steps(*at_two_instants(event)) == []
    assert moved_steps(*at_two_instants(event, retention=MICROS_PER_DAY)) == ["EventMatch"]
