"""A template moved to an instant is the plan compiled as of it."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.criteria.model import (
    Aggregate,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    Criterion,
    Event,
    Last,
    UserAttribute,
    WithinLast,
)
from engine.plan.compile import Planner, compile_audiences
from engine.plan.criteria import CriterionCompiler
from engine.plan.model import Plan
from engine.plan.template import Template, audiences_template, form_of, shape_of
from engine.plan.tree import Account, JourneyTree, TreeMilestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS
from tests.oracle.strategies import worlds
from tests.oracle.trees import Trees
from tests.oracle.world import World
from tests.short_forms import examples

ACCOUNT = "accounts/a"
INPUT = f"{ACCOUNT}/workspaces/w/inputs/i"
NOON = 1_700_049_600_000_000
STEPS = st.sampled_from((0, 1, -1, 59 * MICROS_PER_HOUR, MICROS_PER_DAY, -400 * MICROS_PER_DAY))


@settings(max_examples=examples(50))
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


@settings(max_examples=50)
@given(world=worlds(records_max=1))
def test_what_a_plan_was_compiled_by_is_no_cycle(world: World) -> None:
    """It goes with the last use. The garbage collector, which finds cycles, stops every thread meanwhile."""
    trees = Trees(world)

    def count() -> int:
        compiled_by = (Planner, Template, CriterionCompiler)
        return sum(isinstance(each, compiled_by) for each in gc.get_objects())

    gc.disable()
    try:
        before = count()
        audiences_template(trees.account, trees.audiences(), trees.resolve).at(world.as_of)
        assert count() == before
    finally:
        gc.enable()


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


DAY, LATER = Last(duration=MICROS_PER_DAY), Last(duration=MICROS_PER_DAY + 1)
DIFFERENT: dict[str, tuple[Criterion, Account, tuple[str, ...]]] = {
    name: (criterion, account, inputs)
    for name, criterion, account, inputs in (
        ("event", Event(name="buy"), Account(ACCOUNT), (INPUT,)),
        ("window", Event(name="buy", window=DAY), Account(ACCOUNT), (INPUT,)),
        ("longer window", Event(name="buy", window=LATER), Account(ACCOUNT), (INPUT,)),
        ("other event", Event(name="open", window=DAY), Account(ACCOUNT), (INPUT,)),
        ("other account", Event(name="buy", window=DAY), Account(f"{ACCOUNT}b"), (INPUT,)),
        ("other inputs", Event(name="buy", window=DAY), Account(ACCOUNT), (INPUT, f"{INPUT}2")),
        ("retention", Event(name="buy", window=DAY), Account(ACCOUNT, "UTC", 9), (INPUT,)),
        (
            "days",
            Event(name="buy", window=DAY, aggregate=Aggregate.DISTINCT_DAYS),
            Account(ACCOUNT),
            (INPUT,),
        ),
        ("calendar", Event(name="buy", window=Calendar(unit=CalendarUnit.DAY)), Account(ACCOUNT), (INPUT,)),
        (
            "calendar elsewhere",
            Event(name="buy", window=Calendar(unit=CalendarUnit.DAY)),
            Account(ACCOUNT, "Asia/Tokyo"),
            (INPUT,),
        ),
        ("since", UserAttribute(key="since", test=WithinLast(MICROS_PER_DAY)), Account(ACCOUNT), (INPUT,)),
        (
            "since longer",
            UserAttribute(key="since", test=WithinLast(2 * MICROS_PER_DAY)),
            Account(ACCOUNT),
            (INPUT,),
        ),
        ("bucket", Bucket(salt="a", from_percent=0, to_percent=50), Account(ACCOUNT), (INPUT,)),
        ("other bucket", Bucket(salt="b", from_percent=0, to_percent=50), Account(ACCOUNT), (INPUT,)),
    )
}


def form(name: str, journey: str) -> bytes:
    """The form of a journey of one milestone."""
    criterion, account, inputs = DIFFERENT[name]
    milestone = TreeMilestone(id=f"{journey}/m", criterion=criterion)
    tree = JourneyTree(name=journey, inputs=inputs, milestones=(milestone,))
    planner = Planner(account, 0, lambda audience: (tree, audience))
    return form_of(planner, planner.milestones(tree, [milestone.id]))


def test_journeys_have_one_form_if_they_ask_the_same_and_no_other_has_it() -> None:
    forms = {name: form(name, "one") for name in DIFFERENT}
    assert len(set(forms.values())) == len(DIFFERENT)
    assert {name: form(name, "another") for name in DIFFERENT} == forms


def template_of(name: str, like: Template | None = None) -> tuple[bytes, Template]:
    """The shape and the template of a journey of one milestone."""
    criterion, account, inputs = DIFFERENT[name]
    milestone = TreeMilestone(id="m", criterion=criterion)
    tree = JourneyTree(name=f"{ACCOUNT}/journeys/j", inputs=inputs, milestones=(milestone,))
    planner = Planner(account, 0, lambda audience: (tree, audience))
    roots = planner.milestones(tree, ["m"])
    return shape_of(planner, roots), Template(planner, roots, like=like)


def test_templates_that_differ_in_windows_share_all_other_steps() -> None:
    shapes = {name: template_of(name)[0] for name in DIFFERENT}
    alike = [name for name in DIFFERENT if shapes[name] == shapes["window"]]
    assert alike == ["event", "window", "longer window", "calendar"]
    for name in alike:
        _, like = template_of("window")
        _, template = template_of(name, like)
        plan, other = template.at(NOON), like.at(NOON)
        assert plan.roots is other.roots
        pairs = zip(plan.steps, other.steps, strict=True)
        assert [type(mine).__name__ for mine, its in pairs if mine is not its] == ["EventMatch"]
        assert plan.encode() == template_of(name)[1].at(NOON).encode()


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_template_stays_what_it_is_whatever_it_shares_with(name: str) -> None:
    for other in DIFFERENT:
        _, template = template_of(name, template_of(other)[1])
        assert template.at(NOON + 1).encode() == template_of(name)[1].at(NOON + 1).encode()


@settings(max_examples=examples(30))
@given(world=worlds(records_max=1), steps=st.lists(STEPS, min_size=1, max_size=3))
def test_plans_of_one_form_are_the_same_at_every_instant(world: World, steps: list[int]) -> None:
    trees = Trees(world)
    plans: dict[bytes, list[bytes]] = {}
    for name in trees.audiences():
        planner = Planner(trees.account, 0, trees.resolve)
        tree, milestone = trees.resolve(name)
        found = form_of(planner, [planner.milestone(tree, milestone)])
        template = audiences_template(trees.account, [name], trees.resolve)
        encoded = [template.at(world.as_of + step).encode() for step in steps]
        assert plans.setdefault(found, encoded) == encoded
