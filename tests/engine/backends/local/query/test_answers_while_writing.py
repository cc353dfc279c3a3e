"""Answers of long reads are right while others write: each user is answered from one state.

Each pause of a read lets the next operation happen, so nothing depends on timing. For every user there must
be one state, between the first and the last that the read overlapped, in which all roots of the plan answer
as it did.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from engine.backends.base import Contains, Count, Members, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.query import executor
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import ConsentState, Equals, Text
from engine.plan.model import AttributeMatch, IdentityMatch, Interval, NumberRange, Plan, Step, Universe
from tests.conformance.drawing import LONG, USER_IDS, plans, worlds
from tests.conformance.site import ACCOUNT, NOON, WEB, Site
from tests.engine.backends.local.query.interleaving import giving_way
from tests.oracle.history import Aliases, histories
from tests.oracle.plans import root_sets
from tests.oracle.world import Alias, Batch, Erase, Expire, Operation, World
from tests.short_forms import examples

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
SETTINGS = LocalSettings(groups=4, checkpoint_s=3_600.0)
Flags = tuple[bool, ...]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    opened = Site(
        lambda directory: LocalBackend.open(directory, settings=SETTINGS), tmp_path_factory.mktemp("store")
    )
    yield opened
    opened.backend.close()


@st.composite
def disturbances(draw: st.DrawFn, world: World) -> tuple[Operation, ...]:
    """What happens meanwhile: batches, aliases that are possible, erasures and removals of events."""
    batches = draw(worlds(batches_max=6))
    aliases = Aliases()
    users = st.sampled_from(USER_IDS)
    operations: list[Operation] = []
    for batch in batches.operations:
        assert isinstance(batch, Batch)
        renamed = [
            msgspec.structs.replace(record, input=record.input.replace(batches.account, world.account))
            for record in batch.records
        ]
        operations.append(Batch(tuple(renamed)))
        match draw(st.sampled_from("xxxaaee-")):
            case "a":
                source, target = draw(users), draw(users)
                if aliases.chain(source) == [source] and not aliases.closes_cycle(source, target):
                    aliases.link(source, target)
                    operations.append(Alias(source, target))
            case "e":
                erased = tuple(draw(st.lists(users, min_size=1, max_size=3)))
                aliases.forget(erased)
                operations.append(Erase(erased))
            case "-":
                operations.append(Expire(NOON))
    return tuple(operations)


disturbed = worlds().flatmap(
    lambda world: st.tuples(st.just(world), plans(world.account), disturbances(world))
)


class Disturbed:
    """A world in which operations happen during a read, and what would be right in each state."""

    def __init__(self, site: Site, world: World, plan: Plan, meanwhile: Sequence[Operation]) -> None:
        self._site = site
        self._world = world
        self._plan = plan
        self._meanwhile = meanwhile
        self._done = 0
        self._states = [self._state(0)]
        self.rounds = 0

    def happen(self) -> None:
        """The next operation happens."""
        self.rounds += 1
        if self._done < len(self._meanwhile):
            self._site.happen(self._world.account, [self._meanwhile[self._done]])
            self._done += 1
            self._states.append(self._state(self._done))

    def _state(self, done: int) -> dict[str, Flags]:
        """For each id that names a user, the roots that contain it after some of the operations."""
        operations = (*self._world.operations, *self._meanwhile[:done])
        users = histories(msgspec.structs.replace(self._world, operations=operations))
        sets = root_sets(self._plan, users)
        aliases = Aliases()
        for operation in operations:
            if isinstance(operation, Alias):
                aliases.link(operation.from_user_id, operation.to_user_id)
            elif isinstance(operation, Erase):
                aliases.forget(operation.user_ids)
        named = {user_id: aliases.now_called(user_id) for user_id in USER_IDS}
        return {user_id: tuple(name in users for users in sets) for user_id, name in named.items()}

    def possible(self, user_id: str) -> set[Flags]:
        """The answers for a user in the states that the read overlapped."""
        return {state[user_id] for state in self._states}


@settings(max_examples=examples(20), suppress_health_check=HEALTH, deadline=None)
@given(drawn=disturbed, checkpointed=st.booleans())
def test_flags_of_each_user_are_of_one_state(
    site: Site, drawn: tuple[World, Plan, tuple[Operation, ...]], checkpointed: bool
) -> None:
    world, plan, meanwhile = drawn
    site.happen(world.account, world.operations)
    if checkpointed:
        site.settle()
    disturbed = Disturbed(site, world, plan, meanwhile)
    with giving_way(disturbed.happen):
        answer = site.backend.execute(plan, Contains(USER_IDS))
    event(f"{min(disturbed.rounds, 20)} pauses")
    for user_id, flags in zip(USER_IDS, answer.flags, strict=True):
        assert flags in disturbed.possible(user_id), user_id


@settings(max_examples=examples(20), suppress_health_check=HEALTH, deadline=None)
@given(drawn=disturbed, checkpointed=st.booleans())
def test_sizes_are_sums_over_users_each_of_one_state(
    site: Site, drawn: tuple[World, Plan, tuple[Operation, ...]], checkpointed: bool
) -> None:
    world, plan, meanwhile = drawn
    # An alias moves a user to another id, which may be counted from another state.
    meanwhile = tuple(each for each in meanwhile if not isinstance(each, Alias))
    site.happen(world.account, world.operations)
    if checkpointed:
        site.settle()
    disturbed = Disturbed(site, world, plan, meanwhile)
    with giving_way(disturbed.happen):
        sizes = site.backend.execute(plan, Count()).sizes
    sums = {(0,) * len(plan.roots)}
    for user_id in USER_IDS:
        sums = {
            tuple(total + flag for total, flag in zip(totals, flags, strict=True))
            for totals in sums
            for flags in disturbed.possible(user_id)
        }
    assert sizes in sums


@settings(max_examples=examples(15), suppress_health_check=HEALTH, deadline=None)
@given(drawn=disturbed, limit=st.sampled_from((None, 2)))
def test_members_are_of_states_of_the_read(
    site: Site, drawn: tuple[World, Plan, tuple[Operation, ...]], limit: int | None
) -> None:
    world, plan, meanwhile = drawn
    meanwhile = tuple(each for each in meanwhile if not isinstance(each, Alias))
    plan = msgspec.structs.replace(plan, roots=plan.roots[:1])
    site.happen(world.account, world.operations)
    disturbed = Disturbed(site, world, plan, meanwhile)
    listed: list[str] = []
    after = ""
    with giving_way(disturbed.happen):
        while True:
            page = site.backend.execute(plan, Members(after, limit))
            listed += page.user_ids
            after = page.next_after
            if not after:
                break
    assert "" not in listed
    for user_id in USER_IDS:
        possible = disturbed.possible(user_id)
        assert (True,) in possible or user_id not in listed
        if possible == {(True,)} and not any(isinstance(each, Erase) for each in meanwhile):
            assert user_id in listed


# --- users whose facets change together ---------------------------------------------------------------------

TURNS = 3
USERS = 20
SHOP = f"{ACCOUNT}/workspaces/shop"


def _turned(user: int, turn: int) -> UserRecord:
    """An update after which every facet of the user shows the same turn."""
    turn %= TURNS
    return UserRecord(
        f"user-{user}",
        WEB,
        NOON,
        {"word": f"turn {turn}", "number": float(turn), "tags": (f"t{turn}", "x"), "long": LONG + str(turn)},
        {"email": f"{turn}@example.org"},
        {("gdpr", "ads"): ConsentState.GIVEN if turn else ConsentState.DENIED},
    )


def _facets(turn: int) -> tuple[Step, ...]:
    """The ways to see that turn: lookups, searches, columns, lists, and among the users of a lookup."""
    one = Interval(low=float(turn), high=float(turn))
    return (
        AttributeMatch(workspaces=(SHOP,), key="word", test=Equals(f"turn {turn}")),
        AttributeMatch(workspaces=(SHOP,), key="word", test=Text(op="ends_with", pattern=str(turn))),
        AttributeMatch(workspaces=(SHOP,), key="word", test=Text(op="matches", pattern=f"n {turn}$")),
        AttributeMatch(workspaces=(SHOP,), key="number", test=NumberRange((one,))),
        AttributeMatch(workspaces=(SHOP,), key="tags", test=Equals((f"t{turn}", "x"))),
        AttributeMatch(workspaces=(SHOP,), key="tags", test=Text(op="glob", pattern=f"?{turn}")),
        AttributeMatch(workspaces=(SHOP,), key="long", test=Text(op="glob", pattern=f"*{turn}")),
        IdentityMatch(type="email", test=Text(op="starts_with", pattern=str(turn))),
    )


def _facet_plan() -> Plan:
    """Each facet of each turn as a root, and everyone."""
    steps = [Universe(inputs=(WEB,)), *(facet for turn in range(TURNS) for facet in _facets(turn))]
    return Plan(account=ACCOUNT, as_of=NOON, steps=tuple(steps), roots=tuple(range(len(steps))))


FACETS = len(_facets(0))


def _site_of_facets(directory: Path) -> LocalBackend:
    backend = LocalBackend.open(directory, settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    backend.append(ACCOUNT, [_turned(user, 0) for user in range(USERS)])
    backend.checkpoint()
    return backend


class Turning:
    """Some users go to their next turn in every pause, all together from time to time."""

    def __init__(self, backend: LocalBackend, seed: int) -> None:
        self._backend = backend
        self._random = random.Random(seed)
        self._turns = [0] * USERS
        self.pauses = 0

    def happen(self) -> None:
        """Some users turn."""
        self.pauses += 1
        if self.pauses % 3:
            return
        chosen = self._random.sample(range(USERS), self._random.choice((1, 3, USERS)))
        for user in chosen:
            self._turns[user] += 1
        self._backend.append(ACCOUNT, [_turned(user, self._turns[user]) for user in chosen])
        if self._random.random() < 0.05:
            self._backend.checkpoint()


@pytest.mark.parametrize(("rounds_max", "seed"), [(0, 1), (1, 2), (8, 3)])
def test_all_facets_of_a_user_show_the_same_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds_max: int, seed: int
) -> None:
    monkeypatch.setattr(executor, "ROUNDS_MAX", rounds_max)
    backend = _site_of_facets(tmp_path)
    turning = Turning(backend, seed)
    plan = _facet_plan()
    with giving_way(turning.happen):
        sizes = backend.execute(plan, Count()).sizes
        flags = backend.execute(plan, Contains(tuple(f"user-{user}" for user in range(USERS)))).flags
        trace = backend.trace(plan)
    assert turning.pauses > 100
    for everyone, *shown in (sizes, tuple(step.users for step in trace.steps)):
        turns = [shown[turn * FACETS : (turn + 1) * FACETS] for turn in range(TURNS)]
        assert all(len(set(facets)) == 1 for facets in turns), turns
        assert everyone == sum(facets[0] for facets in turns) == USERS
    for exists, *shown_of_user in flags:
        assert exists
        seen = [set(shown_of_user[turn * FACETS : (turn + 1) * FACETS]) for turn in range(TURNS)]
        assert sorted(map(sorted, seen)) == [[False]] * (TURNS - 1) + [[True]]
    backend.close()


def test_an_account_that_is_deleted_meanwhile_has_nobody(tmp_path: Path) -> None:
    backend = _site_of_facets(tmp_path)
    steps: list[Callable[[], object]] = [
        lambda: backend.erase(ACCOUNT, [f"user-{user}" for user in range(USERS)]),
        lambda: backend.forget(ACCOUNT, ACCOUNT),
    ]

    def happen() -> None:
        if steps:
            steps.pop(0)()

    with giving_way(happen):
        plan = _facet_plan()
        assert backend.execute(plan, Count()).sizes == (0,) * len(plan.roots)
    assert steps == []
    backend.close()
