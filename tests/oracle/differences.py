"""Differences between engine and oracle about a world, over every kind of call."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import msgspec

from engine.criteria.model import AllOf, AnyOf
from engine.plan.expiry import expiry_plan
from engine.plan.explain import Explanation, explain
from engine.plan.passes import ALL_PASSES, Pass
from engine.resources.data_warnings import DataWarnings
from engine.values import Micros
from tests.oracle.engine_side import EngineSide
from tests.oracle.evaluate import Oracle
from tests.oracle.history import Aliases
from tests.oracle.palette import DURATIONS
from tests.oracle.plans import root_sets
from tests.oracle.trees import Trees
from tests.oracle.warnings import Warner
from tests.oracle.world import Alias, Batch, Erase, World, walk

RESTART_SHARE = 0.05
CHECKPOINT_SHARE = 0.2

Members = Mapping[str, frozenset[str]]


class Difference(msgspec.Struct, frozen=True):
    """One milestone with different answers: missing and extra users."""

    how: str
    milestone: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.how}, milestone {self.milestone}: missing {self.missing}, extra {self.extra}"


def compared(how: str, expected: Members, found: Members) -> list[Difference]:
    """The differences between the oracle and the engine."""
    return [
        Difference(how, name, tuple(sorted(users - found[name])), tuple(sorted(found[name] - users)))
        for name, users in expected.items()
        if users != found[name]
    ]


def some_passes(source: random.Random) -> tuple[Pass, ...]:
    """A random subset of the planner's passes, in their order."""
    return tuple(one for one in ALL_PASSES if source.random() < 0.5)


def in_planner(trees: Trees, source: random.Random) -> list[Difference]:
    """Plans, executed by brute force, against the oracle: without passes, with all, with a random subset."""
    oracle = Oracle(trees.world)
    expected = oracle.all_members()
    found: list[Difference] = []
    for passes in ((), ALL_PASSES, some_passes(source)):
        sets = root_sets(trees.plan(passes=passes), oracle.users)
        how = f"plan with passes {[one.__name__ for one in passes]}"
        found += compared(how, expected, dict(zip(trees.milestones, sets, strict=True)))
    return found


def in_labels(trees: Trees, source: random.Random) -> list[Difference]:
    """The plan of one milestone: members, the users drawn from, and each labelled criterion among them."""
    if not trees.milestones:
        return []
    oracle, milestone_id = Oracle(trees.world), source.choice(trees.milestones)
    compiled = trees.milestone_plan(milestone_id)
    members, draws, *labelled = root_sets(compiled.plan, oracle.users)
    expected = {"members": oracle.members(milestone_id), "draws": oracle.draws(milestone_id)}
    answer = {"members": members, "draws": draws}
    wanted = oracle.labelled(milestone_id)
    assert [label.label for label in compiled.labels] == [label for label, _ in wanted]
    for number, ((label, users), answered) in enumerate(zip(wanted, labelled, strict=True)):
        expected[f"{number} {label}"], answer[f"{number} {label}"] = users, answered
    return compared(f"plan of milestone {milestone_id}", expected, answer)


def in_explanations(trees: Trees, source: random.Random) -> list[Difference]:
    """Why each user is in one milestone or not: the verdicts on every criterion on the way to it, and that
    exactly the decisive ones change the verdict above when they alone change.
    """
    if not trees.milestones:
        return []
    oracle, milestone_id = Oracle(trees.world), source.choice(trees.milestones)
    compiled = trees.explanation(milestone_id, some_passes(source))
    start, *roots = root_sets(compiled.plan, oracle.users)
    journey = trees.journey_of(milestone_id)
    found = compared("explained", {"start": oracle.start(journey)}, {"start": start})
    for user_id in start:
        user = oracle.users[user_id]
        is_above = True
        for milestone in explain(compiled, [True, *(user_id in users for users in roots)]):
            if milestone.member != (user_id in oracle.members(milestone.id)):
                found.append(Difference(f"explained to {user_id!r}", milestone.id, (), ()))
            for node in _explained(milestone.criterion):
                if node.verdict != oracle.satisfies(user, node.criterion, journey):
                    found.append(Difference(f"{node.path} explained to {user_id!r}", milestone.id, (), ()))
                if any(child.decisive != _changes(node, child) for child in node.children):
                    found.append(Difference(f"{node.path} decided for {user_id!r}", milestone.id, (), ()))
            why = milestone.criterion
            if why is not None and why.decisive != (is_above and not milestone.taken_by):
                found.append(Difference(f"what decides for {user_id!r}", milestone.id, (), ()))
            is_above = milestone.member
    return found


def _explained(node: Explanation | None) -> Iterator[Explanation]:
    if node is not None:
        yield node
        for child in node.children:
            yield from _explained(child)


def _changes(parent: Explanation, changed: Explanation) -> bool:
    """Whether the parent's verdict would be another if only this child's were."""
    verdicts = [child.verdict != (child is changed) for child in parent.children]
    match parent.criterion:
        case AllOf():
            verdict = all(verdicts)
        case AnyOf():
            verdict = any(verdicts)
        case _:
            verdict = not verdicts[0]
    return verdict != parent.verdict


def in_expiry(trees: Trees, later: Micros) -> list[Difference]:
    """Users whose membership changes between now and `later` but who are not in the expiry plan."""
    world = trees.world
    now, then = Oracle(world), Oracle(world, later)
    found = []
    for journey in world.journeys:
        tree = trees.by_journey[journey.id]
        plan = expiry_plan(trees.account, tree, world.as_of, later, trees.resolve)
        expected = root_sets(plan, now.users)[0] if plan is not None else frozenset()
        for milestone in walk(journey.milestones):
            moved = now.members(milestone.id) ^ then.members(milestone.id)
            if not moved <= expected:
                found.append(Difference("moved by time", milestone.id, tuple(moved - expected), ()))
    return found


def in_engine(trees: Trees, side: EngineSide, source: random.Random) -> list[Difference]:
    """Everything about one world, in one pass: the state on the way and the state at the end.

    Half of the operations are fed, and the membership is stored. After the rest it is refreshed with the
    users that data or time may have moved, and every way to ask must give what the oracle says.
    """
    later = trees.world.as_of + source.choice((0, *DURATIONS))
    half = source.randint(0, len(trees.world.operations))
    found = in_first_half(trees, side, half)
    if source.random() < RESTART_SHARE:
        side.restart()
    return found + in_second_half(trees, side, source, half, later)


def in_first_half(trees: Trees, side: EngineSide, half: int) -> list[Difference]:
    """Some operations are fed, and the membership is stored."""
    side.feed(trees.world, half)
    return _stored(trees, side, half, None)


def in_second_half(
    trees: Trees, side: EngineSide, source: random.Random, half: int, later: Micros
) -> list[Difference]:
    """The rest is fed, everything is asked, and the membership is refreshed to `later`."""
    world = trees.world
    for operation in range(half, len(world.operations)):
        if source.random() < CHECKPOINT_SHARE:
            side.backend.checkpoint()
        side.feed(world, operation + 1)
    side.feed(world)
    if source.random() < RESTART_SHARE:
        side.restart()
    found = _asked(trees, side, some_passes(source)) + _known(trees, side) + in_warnings(trees, side)
    found += _stored(trees, side, len(world.operations), later)
    return found


def _asked(trees: Trees, side: EngineSide, passes: tuple[Pass, ...]) -> list[Difference]:
    world, expected = trees.world, Oracle(trees.world).all_members()
    plan = trees.plan()
    answers = {
        "members": side.members(plan),
        "members with some passes": side.members(trees.plan(passes=passes)),
        "single-user checks": side.contained(plan, _canonical(world)),
    }
    found: list[Difference] = []
    for how, sets in answers.items():
        found += compared(how, expected, dict(zip(trees.milestones, sets, strict=True)))
    for name, size in zip(trees.milestones, side.sizes(plan), strict=True):
        if size != len(expected[name]):
            found.append(Difference(f"counted {size}, not {len(expected[name])}", name, (), ()))
    return found


def in_warnings(trees: Trees, side: EngineSide) -> list[Difference]:
    """Warnings about the criteria of each milestone: each that is due, and no other, in reading order."""
    world, oracle = trees.world, Oracle(trees.world)
    found: list[Difference] = []
    for journey in world.journeys:
        inputs = trees.by_journey[journey.id].inputs
        engine = DataWarnings(
            side.backend, world.account, inputs, world.inputs, lambda name: trees.resolve(name)[0].inputs
        )
        warner = Warner(oracle, journey, trees.journey_with)
        for milestone in walk(journey.milestones):
            if milestone.criteria is None:
                continue
            told = [(each.reason, each.field) for each in engine.of(milestone.criteria, "criteria")]
            due = list(warner.of(milestone.criteria, "criteria"))
            if told != due:
                missing = tuple(f"{reason} {path}" for reason, path in due if (reason, path) not in told)
                extra = tuple(f"{reason} {path}" for reason, path in told if (reason, path) not in due)
                found.append(Difference("warnings", milestone.id, missing, extra))
    return found


def _stored(trees: Trees, side: EngineSide, half: int, later: Micros | None) -> list[Difference]:
    """The stored membership: stored whole when `later` is None, else refreshed from `world.as_of`."""
    world = trees.world
    seen = msgspec.structs.replace(world, operations=world.operations[:half])
    as_of = world.as_of if later is None else later
    oracle = Oracle(seen, as_of)
    found: list[Difference] = []
    for journey in world.journeys:
        if journey.milestones:
            stored = side.refresh(trees, journey, as_of, None if later is None else world.as_of)
            expected = {milestone_id: oracle.members(milestone_id) for milestone_id in stored}
            how = "stored whole" if later is None else "stored and refreshed"
            found += compared(how, expected, stored)
            replayed = {name: side.replayed(world.audience_name(name)) for name in expected}
            found += compared(f"{how}, changes replayed", expected, replayed)
    return found


def _known(trees: Trees, side: EngineSide) -> list[Difference]:
    """What the stored membership still says of users after new data: only what new data has not changed."""
    world, expected = trees.world, Oracle(trees.world).all_members()
    user_ids = _canonical(world)
    found: list[Difference] = []
    for name, members in expected.items():
        known = side.known(world.audience_name(name), user_ids)
        answered = frozenset(user for user, flag in known.items() if flag)
        found += compared("stored, not dirty", {name: members & known.keys()}, {name: answered})
    return found


def _canonical(world: World) -> list[str]:
    """Every user id of a world that is not an alias of another, and one unknown id."""
    aliases = Aliases()
    named: set[str] = set()
    for operation in world.operations:
        match operation:
            case Batch():
                named.update(record.user_id for record in operation.records)
            case Alias():
                named.update((operation.from_user_id, operation.to_user_id))
                aliases.link(operation.from_user_id, operation.to_user_id)
            case Erase():
                aliases.forget(operation.user_ids)
    return [*sorted(user_id for user_id in named if aliases.now_called(user_id) == user_id), "nobody"]
